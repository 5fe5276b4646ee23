//! What it costs to ask whether a document is current, beside the system calls that could tell.
//!
//! `cargo bench -p strongroom --bench probe` prints one JSON object per measure: nanoseconds per call.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

fn main() {
    #[cfg(unix)]
    measures::run();
}

#[cfg(unix)]
mod measures {
    use std::hint::black_box;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use strongroom::{FilePersistence, Persistence, block_on};

    pub(crate) fn run() {
        let arguments: Vec<_> = std::env::args().collect();
        if let [_, once, what, path] = &arguments[..]
            && once == "once"
        {
            println!("{}", once_in_this_process(what, Path::new(path)).as_nanos());
            return;
        }
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
            measure("fstat", size, || per_call(200_000, || assert!(rustix::fs::fstat(&file).is_ok())));
            measure("stat", size, || per_call(200_000, || assert!(rustix::fs::stat(&path).is_ok())));
            measure("is_current", size, || {
                per_call(200_000, || assert!(persistence.is_current(&revision).unwrap()))
            });
            for what in ["read", "load"] {
                measure(&format!("first_{what}"), size, || in_a_new_process(what, &path));
                measure(what, size, || per_call(10, || _ = once_in_this_process(what, &path)));
            }
        }
    }

    /// The document read as plain bytes, or loaded.
    fn once_in_this_process(what: &str, path: &Path) -> Duration {
        let began = Instant::now();
        if what == "read" {
            drop(black_box(std::fs::read(path).unwrap()));
        } else {
            drop(black_box(block_on(FilePersistence::new(path).unwrap().load()).unwrap()));
        }
        began.elapsed()
    }

    /// The same by a process that has just started, whose memory is new to it.
    fn in_a_new_process(what: &str, path: &Path) -> Duration {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["once", what]).arg(path).output().unwrap();
        Duration::from_nanos(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap())
    }

    fn per_call(calls: u32, mut call: impl FnMut()) -> Duration {
        let began = Instant::now();
        (0..calls).for_each(|_| call());
        began.elapsed() / calls
    }

    /// Prints the median of some rounds, and the least.
    fn measure(what: &str, size: usize, round: impl FnMut() -> Duration) {
        const ROUNDS: usize = 21;
        let mut times: Vec<_> = std::iter::repeat_with(round).take(ROUNDS).collect();
        times.sort_unstable();
        let (median, least) = (times[ROUNDS / 2].as_nanos(), times[0].as_nanos());
        println!(r#"{{"measure":"{what}","bytes":{size},"median_ns":{median},"least_ns":{least}}}"#);
    }
}
