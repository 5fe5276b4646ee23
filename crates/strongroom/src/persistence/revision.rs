//! Which state of a document somebody has seen, and whether it is still the one.
//!
//! A file is recognised by device, inode, size and times. Times alone are not enough while they are young: a file
//! system stamps with the granularity of a clock tick (some: of whole seconds), so content of equal length that
//! is written within the tick of what we read carries the same stamps. Until the stamps are old enough that any
//! further write must change them, the content decides, which is kept for as long.

use std::fmt;
use std::fs::Metadata;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};

use super::file_system::FileSystem;
use super::probe::Probe;
use super::signal::Signalled;
use crate::SecretBytes;
use crate::time::wall_clock;

/// Identifies one state of a document. Opaque: it comes from a persistence and is only compared.
#[derive(Clone)]
pub struct Revision(Inner, pub(super) Option<Arc<Signalled>>);

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
        Self(Inner::Absent, None)
    }

    /// A state of a store that numbers its states.
    #[must_use]
    pub const fn of_version(version: u64) -> Self {
        Self(Inner::Version(version), None)
    }

    /// A state that is known by nothing but its content, of which a hash is kept.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Inner::Content(hash(bytes)), None)
    }

    /// The state of a file with these stamps, from which `bytes` were read (or into which they were written).
    ///
    /// `unchanged_while_read`: the stamps were the same before and after the reading. Only then can they be
    /// trusted without the content. `probe`: the file itself, kept open as long as this revision is.
    pub(super) fn of_file(
        stamp: Stamp,
        bytes: &SecretBytes,
        granularity: Granularity,
        unchanged_while_read: bool,
        probe: Option<Probe>,
    ) -> Self {
        let settled = unchanged_while_read && granularity.is_past(&stamp);
        Self::of_state(stamp, (!settled).then(|| bytes.share()), settled, granularity, probe)
    }

    /// The state of a file with these stamps before and after it was read, of which nothing is kept. As long as the
    /// stamps are young, this revision counts as outdated when its content would have to be compared. `None` if that
    /// could be for more than a moment.
    pub(super) fn of_file_that_was_seen(
        stamp: Stamp,
        granularity: Granularity,
        probe: Option<Probe>,
    ) -> Option<Self> {
        let settled = granularity.is_past(&stamp);
        let settles_soon = granularity.local && !granularity.whole_seconds;
        (settled || settles_soon).then(|| Self::of_state(stamp, None, settled, granularity, probe))
    }

    fn of_state(
        stamp: Stamp,
        content: Option<SecretBytes>,
        settled: bool,
        granularity: Granularity,
        probe: Option<Probe>,
    ) -> Self {
        let state = FileState {
            stamp,
            content: RwLock::new(content),
            verified: AtomicU64::new(if settled { SETTLED } else { 0 }),
            seen: Instant::now(),
            granularity,
            probe,
        };
        Self(Inner::File(Arc::new(state)), None)
    }

    /// Whether the open file shows that this revision is the current one. Where it does not, the path decides.
    pub(super) fn shows_current(&self) -> bool {
        match &self.0 {
            Inner::File(state) => {
                state.probe.as_ref().is_some_and(|probe| probe.shows(&state.stamp))
                    && state.relies_on_stamps()
            }
            Inner::Absent | Inner::Version(_) | Inner::Content(_) => false,
        }
    }

    /// The path has just been looked at and names this revision.
    pub(super) fn path_was_seen(&self) {
        if let Inner::File(state) = &self.0
            && let Some(probe) = &state.probe
        {
            probe.path_was_seen();
        }
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self.0, Inner::Absent)
    }

    /// What the stamps of the file tell about this revision.
    pub(super) fn compare(&self, stamp: &Stamp) -> Verdict<'_> {
        match &self.0 {
            Inner::File(state) if state.stamp == *stamp => match state.verified.load(Ordering::Acquire) {
                SETTLED => Verdict::Same,
                REFUTED => Verdict::Changed,
                _ => Verdict::Young(state),
            },
            Inner::File(_) | Inner::Absent | Inner::Version(_) | Inner::Content(_) => Verdict::Changed,
        }
    }

    /// Whether `stamp` is that of this file after a rename, which changes nothing but the time of change.
    pub(super) fn is_of_renamed(&self, stamp: &Stamp) -> bool {
        matches!(&self.0, Inner::File(state) if Stamp { changed: state.stamp.changed, ..*stamp } == state.stamp)
    }
}

/// Of a keyring's item the content alone counts, whatever its signal file was like.
impl PartialEq for Revision {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
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
    /// What was read or written, shared with whoever parsed it, until the stamps can be trusted.
    ///
    /// Only ever tried, never waited for: another thread may have been in it when this process was forked.
    content: RwLock<Option<SecretBytes>>,
    /// When the content was last compared, in nanoseconds after `seen`; or [`SETTLED`], or [`REFUTED`].
    verified: AtomicU64,
    seen: Instant,
    granularity: Granularity,
    probe: Option<Probe>,
}

/// The stamps alone decide.
pub(super) const SETTLED: u64 = u64::MAX;
/// Another content has borne the same stamps.
const REFUTED: u64 = u64::MAX - 1;

impl FileState {
    /// Whether equal stamps are enough for a look-up at this moment.
    ///
    /// A large file is not read at each look-up: the content is compared two clock ticks after it was seen, and
    /// then whenever the time since has doubled. What can escape a look-up is a rewrite in place, of equal size,
    /// within the very tick that the stamps were given in; and it escapes for no longer than two such ticks.
    fn relies_on_stamps(&self) -> bool {
        match self.verified.load(Ordering::Acquire) {
            SETTLED => true,
            REFUTED => false,
            verified => !is_due(verified, nanoseconds(self.seen.elapsed())),
        }
    }

    /// Whether a look-up should compare the content now. Who is told so, does it; others rely on the stamps
    /// meanwhile.
    pub(super) fn is_due(&self) -> bool {
        self.is_due_at(nanoseconds(self.seen.elapsed()))
    }

    fn is_due_at(&self, age: u64) -> bool {
        let verified = self.verified.load(Ordering::Acquire);
        is_due(verified, age)
            && self.verified.compare_exchange(verified, age, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether the file's content, which was compared by `is_same` between two looks at equal stamps, is still
    /// the one that was seen. Where it is and the stamps have aged, the stamps alone decide from now on.
    pub(super) fn confirm<E>(
        &self,
        began: Instant,
        is_same: impl FnOnce(&[u8]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let content =
            self.content.try_read().ok().and_then(|content| content.as_ref().map(SecretBytes::share));
        // It goes when the stamps have settled, which another thread may have found out a moment ago.
        let Some(content) = content else { return Ok(self.verified.load(Ordering::Acquire) == SETTLED) };
        if !is_same(content.expose())? {
            self.verified.store(REFUTED, Ordering::Release);
            return Ok(false);
        }
        // Measured on our own clock from the moment the stamps were first seen, so that a file server's clock
        // does not matter: what is written from now on bears a later stamp.
        if began.duration_since(self.seen) > self.granularity.window() {
            let settles = |verified| (verified != REFUTED).then_some(SETTLED);
            let settled = self.verified.fetch_update(Ordering::AcqRel, Ordering::Acquire, settles).is_ok();
            if settled && let Ok(mut content) = self.content.try_write() {
                *content = None;
            }
        }
        Ok(true)
    }
}

impl PartialEq for FileState {
    fn eq(&self, other: &Self) -> bool {
        if self.stamp != other.stamp {
            return false;
        }
        match (self.content.try_read().as_deref(), other.content.try_read().as_deref()) {
            (Ok(Some(ours)), Ok(Some(theirs))) => ours == theirs,
            _ => true,
        }
    }
}

/// Whether a content of this age, last compared at the age `verified`, is to be compared again.
pub(super) fn is_due(verified: u64, age: u64) -> bool {
    /// Two of the longest ticks of a clock that gives the times of files. Whoever has just loaded a large document is
    /// through with it by then, and does not read it twice.
    const FIRST: u64 = 20_000_000;

    verified < REFUTED && age >= FIRST.max(verified.saturating_mul(2))
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(REFUTED - 1)
}

/// What the file system says about a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    /// The names that the file has. None: it was removed or replaced.
    links: u64,
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
            links: found.nlink(),
            size: found.size(),
            modified: nanoseconds(found.mtime(), found.mtime_nsec()),
            changed: nanoseconds(found.ctime(), found.ctime_nsec()),
        }
    }

    /// As [`of`](Self::of), of what the cheapest system call says. Its numbers have other types on each kind of
    /// processor.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[allow(trivial_numeric_casts, clippy::unnecessary_cast, clippy::cast_sign_loss, clippy::cast_lossless)]
    pub(super) fn of_stat(found: &rustix::fs::Stat) -> Self {
        Self {
            device: found.st_dev as u64,
            inode: found.st_ino as u64,
            links: found.st_nlink as u64,
            size: found.st_size as u64,
            modified: i128::from(found.st_mtime as i64) * SECOND + i128::from(found.st_mtime_nsec as i64),
            changed: i128::from(found.st_ctime as i64) * SECOND + i128::from(found.st_ctime_nsec as i64),
        }
    }

    #[cfg(not(unix))]
    pub(super) fn of(found: &Metadata) -> Self {
        let modified = found.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = modified.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX));
        Self { device: 0, inode: 0, links: 1, size: found.len(), modified, changed: modified }
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
    pub(super) fn of(file_system: FileSystem, stamp: &Stamp) -> Self {
        Self {
            local: file_system != FileSystem::Remote,
            whole_seconds: stamp.changed % SECOND == 0 && stamp.modified % SECOND == 0,
        }
    }

    /// Two writes this far apart have different stamps, with a good margin.
    pub(super) fn window(self) -> Duration {
        if self.local && !self.whole_seconds {
            Duration::from_millis(100)
        } else {
            // FAT has steps of two seconds.
            Duration::from_millis(2500)
        }
    }

    /// Whether the stamps were given so long ago, by the wall clock, that a write now would give others.
    pub(super) fn is_past(self, stamp: &Stamp) -> bool {
        // A file server's clock may be off by some seconds; whose is off by more is caught by the content.
        let least = if self.local { self.window() } else { Duration::from_secs(60) };
        let now = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        i128::try_from(now)
            .is_ok_and(|now| now - stamp.changed > i128::try_from(least.as_nanos()).unwrap_or(i128::MAX))
    }
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
        Stamp { device: 1, inode: 2, links: 1, size: 3, modified: 1_000 * SECOND, changed }
    }

    fn now() -> i128 {
        i128::try_from(wall_clock().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos())
            .expect("before 2262")
    }

    fn later(since: Duration) -> Instant {
        Instant::now() + since
    }

    fn of_file(stamp: Stamp, bytes: &[u8], granularity: Granularity, stable: bool) -> Revision {
        Revision::of_file(stamp, &SecretBytes::from(bytes.to_vec()), granularity, stable, None)
    }

    fn confirm(state: &FileState, bytes: &[u8], began: Instant) -> bool {
        state.confirm(began, |content| Ok::<_, ()>(content == bytes)).unwrap()
    }

    #[test]
    fn equal_stamps_are_believed_when_they_are_old_and_not_before() {
        let young = stamp(now());
        let revision = of_file(young, b"abc", FINE, true);
        let Verdict::Young(state) = revision.compare(&young) else { panic!("too young to be believed") };
        assert!(confirm(state, b"abc", later(Duration::ZERO)));
        assert!(matches!(revision.compare(&young), Verdict::Young(_)), "still within the tick");
        assert!(confirm(state, b"abc", later(Duration::from_millis(200))));
        assert!(matches!(revision.compare(&young), Verdict::Same), "settled");
        assert!(state.content.read().unwrap().is_none(), "the content is needed no more");
        assert!(matches!(revision.compare(&stamp(young.changed + 1)), Verdict::Changed));

        let old = stamp(now() - 2 * SECOND);
        assert!(matches!(of_file(old, b"abc", FINE, true).compare(&old), Verdict::Same));
        assert!(
            matches!(of_file(old, b"abc", FINE, false).compare(&old), Verdict::Young(_)),
            "written while it was read"
        );
    }

    #[test]
    fn a_content_that_was_seen_to_differ_is_never_current_again() {
        let young = stamp(now());
        let revision = of_file(young, b"abc", FINE, true);
        let Verdict::Young(state) = revision.compare(&young) else { panic!("too young to be believed") };
        assert!(!confirm(state, b"abd", later(Duration::from_secs(9))));
        assert!(matches!(revision.compare(&young), Verdict::Changed));
        assert!(confirm(state, b"abc", later(Duration::from_secs(9))));
        assert!(matches!(revision.compare(&young), Verdict::Changed), "others may have relied on it");
    }

    #[test]
    fn a_young_content_is_compared_after_two_ticks_and_then_ever_more_seldom() {
        let young = stamp(now());
        let revision = of_file(young, b"abc", FINE, true);
        let Verdict::Young(state) = revision.compare(&young) else { panic!("too young to be believed") };
        let milliseconds = |age| age * 1_000_000;
        let due: Vec<u64> = (0..200).filter(|age| state.is_due_at(milliseconds(*age))).collect();
        assert_eq!(due, [20, 40, 80, 160]);
        assert!(!state.is_due_at(milliseconds(319)) && state.is_due_at(milliseconds(320)));
    }

    #[test]
    fn whole_second_stamps_and_those_of_another_clock_are_believed_later() {
        let coarse = Granularity { local: true, whole_seconds: true };
        let remote = Granularity { local: false, whole_seconds: false };
        for granularity in [coarse, remote] {
            let stamp = stamp(now() - 2 * SECOND);
            let revision = of_file(stamp, b"abc", granularity, true);
            let Verdict::Young(state) = revision.compare(&stamp) else { panic!("{granularity:?}") };
            assert!(confirm(state, b"abc", later(Duration::from_secs(2))));
            assert!(matches!(revision.compare(&stamp), Verdict::Young(_)), "{granularity:?}");
            assert!(confirm(state, b"abc", later(Duration::from_secs(3))));
            assert!(matches!(revision.compare(&stamp), Verdict::Same), "{granularity:?}");
        }
        let future = stamp(now() + 3600 * SECOND);
        let revision = of_file(future, b"abc", FINE, true);
        let Verdict::Young(state) = revision.compare(&future) else { panic!("a clock was set back") };
        assert!(confirm(state, b"abc", later(Duration::from_millis(200))));
        assert!(matches!(revision.compare(&future), Verdict::Same), "reading ends nevertheless");
    }

    #[test]
    fn revisions_compare_by_what_they_know() {
        assert_eq!(Revision::of_version(1), Revision::of_version(1));
        assert_ne!(Revision::of_version(1), Revision::of_version(2));
        assert_eq!(Revision::of_bytes(b"a"), Revision::of_bytes(b"a"));
        assert_ne!(Revision::of_bytes(b"a"), Revision::of_bytes(b"b"));
        assert_ne!(Revision::absent(), Revision::of_bytes(b""));
        let young = stamp(now());
        assert_ne!(of_file(young, b"a", FINE, true), of_file(young, b"b", FINE, true));
        assert_eq!(of_file(young, b"a", FINE, true), of_file(young, b"a", FINE, false));
    }
}
