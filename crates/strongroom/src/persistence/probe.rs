//! The probe of a hit: one look at the open file that was loaded, a quarter of the cost of a look at its path.
//!
//! An open file shows every write to it, and by its link count and time of change that it was replaced, removed
//! or renamed. It does not show that a directory above it was renamed or a link there leads elsewhere, so now and
//! then the path is looked at as well.

use std::fs::File;

use super::file_system::FileSystem;
use super::revision::Stamp;

/// A document's file, kept open.
#[derive(Debug)]
pub(super) struct Probe(imp::Probe);

impl Probe {
    /// Keeps `file` open, if an open file proves something on such a file system, and not too many are open.
    pub(super) fn of(file: File, file_system: FileSystem) -> Option<Self> {
        (file_system == FileSystem::Native).then(|| imp::Probe::of(file)).flatten().map(Self)
    }

    /// Whether the file still has these stamps, and its path had them within the last second. Where this says no,
    /// the path decides.
    pub(super) fn shows(&self, stamp: &Stamp) -> bool {
        self.0.shows(stamp)
    }

    /// The path has just been looked at and names the file.
    pub(super) fn path_was_seen(&self) {
        self.0.path_was_seen();
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod imp {
    use std::fs::File;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use rustix::time::{ClockId, clock_gettime};

    use super::super::revision::Stamp;

    /// How long the path is taken to name the same file, in milliseconds.
    const TRUSTED_FOR: u64 = 1000;
    /// A process with a document for each of its users must not run out of descriptors.
    const MOST: usize = 128;

    static OPEN: AtomicUsize = AtomicUsize::new(0);

    /// The descriptor is only ever asked for its status, so a forked child may use its copy.
    #[derive(Debug)]
    pub(super) struct Probe {
        file: File,
        /// When the path was last looked at, by [`now`]; zero if never.
        path_seen: AtomicU64,
    }

    impl Probe {
        pub(super) fn of(file: File) -> Option<Self> {
            let one_more = |open| (open < MOST).then_some(open + 1);
            OPEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
            Some(Self { file, path_seen: AtomicU64::new(0) })
        }

        pub(super) fn shows(&self, stamp: &Stamp) -> bool {
            let seen = self.path_seen.load(Ordering::Relaxed);
            seen != 0
                && now().saturating_sub(seen) < TRUSTED_FOR
                && rustix::fs::fstat(&self.file).is_ok_and(|found| Stamp::of_stat(&found) == *stamp)
        }

        pub(super) fn path_was_seen(&self) {
            self.path_seen.store(now(), Ordering::Relaxed);
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            OPEN.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Milliseconds since the start of the machine, some behind: the cheapest clock there is.
    fn now() -> u64 {
        let now = clock_gettime(ClockId::MonotonicCoarse);
        now.tv_sec.cast_unsigned() * 1000 + now.tv_nsec.cast_unsigned() / 1_000_000
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::persistence::{FilePersistence, Persistence as _};
        use crate::wait::block_on;

        #[test]
        fn the_path_is_looked_at_before_the_first_probe_and_again_after_a_second() {
            let mut file = tempfile::tempfile().unwrap();
            let stamp = Stamp::of(&file.metadata().unwrap());
            let probe = Probe::of(file.try_clone().unwrap()).unwrap();
            assert!(!probe.shows(&stamp), "the path was never seen");
            probe.path_was_seen();
            assert!(probe.shows(&stamp));
            probe.path_seen.store(now() - TRUSTED_FOR, Ordering::Relaxed);
            assert!(!probe.shows(&stamp), "the path was seen a second ago");
            probe.path_was_seen();
            assert!(probe.shows(&stamp));
            std::io::Write::write_all(&mut file, b"more").unwrap();
            assert!(!probe.shows(&stamp));
        }

        #[test]
        fn a_look_up_is_answered_by_the_open_file() {
            let directory = tempfile::tempdir_in("/dev/shm").unwrap();
            let path = directory.path().join("cache.bin");
            #[allow(clippy::disallowed_methods)]
            std::fs::write(&path, "{}").unwrap();
            let persistence = FilePersistence::new(&path).unwrap();
            let revision = block_on(persistence.load()).unwrap().revision;
            assert!(!revision.shows_current());
            let is_answered =
                |_: &u32| persistence.is_current(&revision).unwrap() && revision.shows_current();
            assert!((0..100).find(is_answered).is_some());
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod imp {
    use std::fs::File;

    use super::super::revision::Stamp;

    #[derive(Debug)]
    pub(super) enum Probe {}

    impl Probe {
        pub(super) fn of(_file: File) -> Option<Self> {
            None
        }

        pub(super) fn shows(&self, _stamp: &Stamp) -> bool {
            match *self {}
        }

        pub(super) fn path_was_seen(&self) {
            match *self {}
        }
    }
}
