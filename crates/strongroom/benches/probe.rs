//! What it costs to ask whether a document is current, beside the system calls that could tell.
//!
//! `cargo bench -p strongroom --bench probe` prints one JSON object per measure: nanoseconds per call, the least
//! of many rounds.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

fn main() {
    #[cfg(unix)]
    measures::run();
}

#[cfg(unix)]
mod measures {
    use std::hint::black_box;
    use std::time::Instant;

    use strongroom::{FilePersistence, Persistence, block_on};

    pub(crate) fn run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token_cache.bin");
        for size in [2_000, 21_000_000] {
            std::fs::write(&path, vec![b' '; size]).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            let persistence: &dyn Persistence = &FilePersistence::new(&path).unwrap();
            let revision = block_on(persistence.load()).unwrap().revision;
            // Until the times of the file have aged, contents are compared.
            let young = Instant::now();
            while young.elapsed().as_millis() < 500 {
                assert!(persistence.is_current(&revision).unwrap());
            }
            measure("fstat", size, 200_000, || assert!(rustix::fs::fstat(&file).is_ok()));
            measure("stat", size, 200_000, || assert!(rustix::fs::stat(&path).is_ok()));
            measure("is_current", size, 200_000, || assert!(persistence.is_current(&revision).unwrap()));
            // Into memory that was never used before, as a process finds it that has just started.
            measure("read", size, 10, || std::mem::forget(black_box(std::fs::read(&path).unwrap())));
            measure("load", size, 10, || std::mem::forget(black_box(block_on(persistence.load()).unwrap())));
            measure("load_and_wipe", size, 10, || drop(black_box(block_on(persistence.load()).unwrap())));
        }
    }

    fn measure(what: &str, size: usize, calls: u32, mut call: impl FnMut()) {
        const ROUNDS: u32 = 8;
        let mut round = || {
            let began = Instant::now();
            (0..calls).for_each(|_| call());
            began.elapsed() / calls
        };
        let least = (0..ROUNDS).map(|_| round()).min().unwrap();
        println!(r#"{{"measure":"{what}","bytes":{size},"ns":{}}}"#, least.as_nanos());
    }
}
