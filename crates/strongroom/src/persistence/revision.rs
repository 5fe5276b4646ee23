//! Which state of a document somebody has seen, and whether it is still the one.
//!
//! A file is recognised by device, inode, size and times. Times alone are not enough while they are young: a file
//! system stamps with the granularity of a clock tick (some: of whole seconds), so content of equal length that
//! is written within the tick of what we read carries the same stamps. Until the stamps are old enough that any
//! further write must change them, a hash of the content decides.

use std::fmt;
use std::fs::{File, Metadata};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};

use crate::time::wall_clock;

/// Identifies one state of a document. Opaque: it comes from a persistence and is only compared.
#[derive(Clone, PartialEq)]
pub struct Revision(Inner);

#[derive(Clone, PartialEq)]
enum Inner {
    Absent,
    Version(u64),
    Content(Hash),
    File(Arc<FileState>),
}

type Hash = [u8; 32];

impl Revision {
    /// There is no document.
    #[must_use]
    pub const fn absent() -> Self {
        Self(Inner::Absent)
    }

    /// A state of a store that numbers its states.
    #[must_use]
    pub const fn of_version(version: u64) -> Self {
        Self(Inner::Version(version))
    }

    /// A state that is known by nothing but its content, of which a hash is kept.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Inner::Content(hash(bytes)))
    }

    /// The state of a file with these stamps, from which `bytes` were read (or into which they were written).
    ///
    /// `unchanged_while_read`: the stamps were the same before and after the reading. Only then can they be
    /// trusted without a hash.
    pub(super) fn of_file(
        stamp: Stamp,
        bytes: &[u8],
        granularity: Granularity,
        unchanged_while_read: bool,
    ) -> Self {
        let settled = unchanged_while_read && granularity.is_past(&stamp);
        Self(Inner::File(Arc::new(FileState {
            stamp,
            content: if settled { None } else { Some(hash(bytes)) },
            settled: AtomicBool::new(settled),
            seen: Instant::now(),
            granularity,
        })))
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self.0, Inner::Absent)
    }

    /// What the stamps of the file tell about this revision.
    pub(super) fn compare(&self, stamp: &Stamp) -> Verdict<'_> {
        match &self.0 {
            Inner::File(state) if state.stamp != *stamp => Verdict::Changed,
            Inner::File(state) if state.settled.load(Ordering::Acquire) => Verdict::Same,
            Inner::File(state) => Verdict::Young(state),
            Inner::Absent | Inner::Version(_) | Inner::Content(_) => Verdict::Changed,
        }
    }

    /// Whether `stamp` is that of this file after a rename, which changes nothing but the time of change.
    pub(super) fn is_of_renamed(&self, stamp: &Stamp) -> bool {
        matches!(&self.0, Inner::File(state) if Stamp { changed: state.stamp.changed, ..*stamp } == state.stamp)
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Absent => f.write_str("Revision(absent)"),
            Inner::Version(version) => write!(f, "Revision({version})"),
            // Hashes of secrets stay out of logs.
            Inner::Content(_) => f.write_str("Revision(content)"),
            Inner::File(state) => write!(f, "Revision({:?})", state.stamp),
        }
    }
}

pub(super) enum Verdict<'a> {
    Same,
    Changed,
    /// The stamps are the same, but too young to be believed: the content must be looked at.
    Young(&'a FileState),
}

/// A file as it was when its content was read.
pub(super) struct FileState {
    stamp: Stamp,
    /// Missing if the stamps could be trusted from the start.
    content: Option<Hash>,
    settled: AtomicBool,
    seen: Instant,
    granularity: Granularity,
}

impl FileState {
    /// Whether `bytes`, read just now from a file whose stamps were this state's before and after, are its
    /// content. Where they are and the stamps have aged, the stamps alone decide from now on.
    pub(super) fn confirm(&self, bytes: &[u8], began: Instant) -> bool {
        if self.content != Some(hash(bytes)) {
            return false;
        }
        // Measured on our own clock from the moment the stamps were first seen, so that a file server's clock
        // does not matter: what is written from now on bears a later stamp.
        if began.duration_since(self.seen) > self.granularity.window() {
            self.settled.store(true, Ordering::Release);
        }
        true
    }
}

impl PartialEq for FileState {
    fn eq(&self, other: &Self) -> bool {
        self.stamp == other.stamp
            && match (&self.content, &other.content) {
                (Some(ours), Some(theirs)) => ours == theirs,
                _ => true,
            }
    }
}

/// What the file system says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) size: u64,
    /// Nanoseconds since the epoch. Anybody who may write the file can set it to anything.
    modified: i128,
    /// Nanoseconds since the epoch. Only the clock of the file system sets it, at any change.
    changed: i128,
}

impl Stamp {
    #[cfg(unix)]
    pub(super) fn of(found: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * SECOND + i128::from(rest);
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: nanoseconds(found.mtime(), found.mtime_nsec()),
            changed: nanoseconds(found.ctime(), found.ctime_nsec()),
        }
    }

    #[cfg(not(unix))]
    pub(super) fn of(found: &Metadata) -> Self {
        let modified = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX));
        Self { device: 0, inode: 0, size: found.len(), modified, changed: modified }
    }

    /// The same file with a content of this length.
    pub(super) fn with_size(self, size: u64) -> Self {
        Self { size, ..self }
    }
}

const SECOND: i128 = 1_000_000_000;

/// How finely the file system of a document tells times apart, and whose clock it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Granularity {
    local: bool,
    whole_seconds: bool,
}

impl Granularity {
    pub(super) fn of(file: &File, stamp: &Stamp) -> Self {
        Self {
            local: is_local(file),
            whole_seconds: stamp.changed % SECOND == 0 && stamp.modified % SECOND == 0,
        }
    }

    /// Two writes this far apart have different stamps, with a good margin.
    fn window(self) -> Duration {
        if self.local && !self.whole_seconds {
            Duration::from_millis(100)
        } else {
            // FAT has steps of two seconds.
            Duration::from_millis(2500)
        }
    }

    /// Whether the stamps were given so long ago, by the wall clock, that a write now would give others.
    fn is_past(self, stamp: &Stamp) -> bool {
        // A file server's clock may be off by some seconds; whose is off by more is caught by the content.
        let least = if self.local { self.window() } else { Duration::from_secs(60) };
        let now = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        i128::try_from(now)
            .is_ok_and(|now| now - stamp.changed > i128::try_from(least.as_nanos()).unwrap_or(i128::MAX))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_local(file: &File) -> bool {
    /// Numbers from linux/magic.h of file systems whose times another machine or program gives: NFS, SMB (old
    /// and new), CIFS, FUSE, 9P, Ceph, AFS (both), Coda, Lustre, GPFS, VirtualBox and VMware shares.
    const REMOTE: &[u64] = &[
        0x6969,
        0x517B,
        0xFE53_4D42,
        0xFF53_4D42,
        0x6573_5546,
        0x0102_1997,
        0x00C3_6400,
        0x5346_414F,
        0x6B41_4653,
        0x7375_7245,
        0x0BD0_0BD0,
        0x4750_4653,
        0x786F_4256,
        0xBACB_ACBC,
    ];
    // The type is a signed 32-bit number on some architectures.
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, clippy::unnecessary_cast)]
    rustix::fs::fstatfs(file).is_ok_and(|found| !REMOTE.contains(&u64::from(found.f_type as u32)))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_local(_file: &File) -> bool {
    // Not known: the cautious answer.
    false
}

fn hash(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Granularity = Granularity { local: true, whole_seconds: false };

    fn stamp(changed: i128) -> Stamp {
        Stamp { device: 1, inode: 2, size: 3, modified: 1_000 * SECOND, changed }
    }

    fn now() -> i128 {
        i128::try_from(wall_clock().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos())
            .expect("before 2262")
    }

    fn later(since: Duration) -> Instant {
        Instant::now() + since
    }

    #[test]
    fn equal_stamps_are_believed_when_they_are_old_and_not_before() {
        let young = stamp(now());
        let revision = Revision::of_file(young, b"abc", FINE, true);
        let Verdict::Young(state) = revision.compare(&young) else { panic!("too young to be believed") };
        assert!(!state.confirm(b"abd", later(Duration::from_secs(9))), "the content has changed");
        assert!(state.confirm(b"abc", later(Duration::ZERO)));
        assert!(matches!(revision.compare(&young), Verdict::Young(_)), "still within the tick");
        assert!(state.confirm(b"abc", later(Duration::from_millis(200))));
        assert!(matches!(revision.compare(&young), Verdict::Same), "settled: no hash any more");
        assert!(matches!(revision.compare(&stamp(young.changed + 1)), Verdict::Changed));

        let old = stamp(now() - 2 * SECOND);
        assert!(matches!(Revision::of_file(old, b"abc", FINE, true).compare(&old), Verdict::Same));
        assert!(
            matches!(Revision::of_file(old, b"abc", FINE, false).compare(&old), Verdict::Young(_)),
            "written while it was read"
        );
    }

    #[test]
    fn whole_second_stamps_and_those_of_another_clock_are_believed_later() {
        let coarse = Granularity { local: true, whole_seconds: true };
        let remote = Granularity { local: false, whole_seconds: false };
        for granularity in [coarse, remote] {
            let stamp = stamp(now() - 2 * SECOND);
            let revision = Revision::of_file(stamp, b"abc", granularity, true);
            let Verdict::Young(state) = revision.compare(&stamp) else { panic!("{granularity:?}") };
            assert!(state.confirm(b"abc", later(Duration::from_secs(2))));
            assert!(matches!(revision.compare(&stamp), Verdict::Young(_)), "{granularity:?}");
            assert!(state.confirm(b"abc", later(Duration::from_secs(3))));
            assert!(matches!(revision.compare(&stamp), Verdict::Same), "{granularity:?}");
        }
        let future = stamp(now() + 3600 * SECOND);
        let revision = Revision::of_file(future, b"abc", FINE, true);
        let Verdict::Young(state) = revision.compare(&future) else { panic!("a clock was set back") };
        assert!(state.confirm(b"abc", later(Duration::from_millis(200))));
        assert!(matches!(revision.compare(&future), Verdict::Same), "hashing ends nevertheless");
    }

    #[test]
    fn revisions_compare_by_what_they_know() {
        assert_eq!(Revision::of_version(1), Revision::of_version(1));
        assert_ne!(Revision::of_version(1), Revision::of_version(2));
        assert_eq!(Revision::of_bytes(b"a"), Revision::of_bytes(b"a"));
        assert_ne!(Revision::of_bytes(b"a"), Revision::of_bytes(b"b"));
        assert_ne!(Revision::absent(), Revision::of_bytes(b""));
        let young = stamp(now());
        assert_ne!(Revision::of_file(young, b"a", FINE, true), Revision::of_file(young, b"b", FINE, true));
        assert_eq!(Revision::of_file(young, b"a", FINE, true), Revision::of_file(young, b"a", FINE, false));
    }
}
