//! The lock file of the other MSALs, `<location>.lockfile`: created, locked, signed and deleted.
//!
//! What its content means differs by language; `Content` reads it, and [`attempt`] decides. The rules are those
//! of MSAL Python (with and without `portalocker`), .NET, Go and Node as they were seen to behave.

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::PersistenceError;
use super::super::access::{self, FileId};
use super::super::error::Holder;
use super::{Content, Locked, age, open_existing};
use crate::platform::fork::OwnFile;
use crate::time::Deadline;
use crate::wait::sleep;

/// The peers' lock, held until this is dropped.
#[derive(Debug)]
pub(super) struct PeersLock {
    locked: Locked,
    path: PathBuf,
}

impl PeersLock {
    pub(super) fn still_held(&self) -> bool {
        self.locked.is_at(&self.path)
    }
}

impl Drop for PeersLock {
    fn drop(&mut self) {
        // While the kernel lock is held, so that no two can hold different files of this name. What is there may
        // be a foreign lock by now: Node deletes ours, and the next one creates its own.
        if self.locked.is_own() && self.still_held() && std::fs::remove_file(&self.path).is_err() {
            // In a sticky directory another member of the group may have created it. Empty, it stops nobody.
            let _ = self.locked.file.set_len(0);
        }
    }
}

/// Takes the lock, looking again and again until the deadline: there is no kernel queue that all peers share.
pub(super) async fn acquire(
    path: &Path,
    mode: u32,
    deadline: Deadline,
) -> Result<PeersLock, PersistenceError> {
    let mut sighting = None;
    let locked = poll(path, deadline, || attempt(path, mode, &mut sighting)).await?;
    locked.sign(&super::program_name());
    Ok(PeersLock { locked, path: path.to_owned() })
}

/// Tries to take a lock file, with pauses, until it is taken, cannot be, or the deadline has passed.
pub(super) async fn poll(
    path: &Path,
    deadline: Deadline,
    mut attempt: impl FnMut() -> io::Result<Result<Attempt, PersistenceError>>,
) -> Result<Locked, PersistenceError> {
    /// A path that changes at each look is given a rest after so many.
    const HASTY: u32 = 16;
    const FIRST_PAUSE: Duration = Duration::from_millis(10);
    const LONGEST_PAUSE: Duration = Duration::from_millis(50);

    let mut pause = FIRST_PAUSE;
    let mut hasty = 0;
    let mut in_the_way_since = None;
    loop {
        let attempt = match attempt() {
            Err(error) => {
                let since = *in_the_way_since.get_or_insert_with(Instant::now);
                // What may be for good is not called a lock, however short the caller's patience.
                let is_meant =
                    |long: Duration| since.elapsed() > long || long < Duration::MAX && deadline.has_passed();
                if access::may_pass(&error).is_none_or(is_meant) {
                    return Err(PersistenceError::io("take the lock file", path, error));
                }
                Attempt::Held(Holder::default())
            }
            Ok(attempt) => {
                in_the_way_since = None;
                attempt?
            }
        };
        let holder = match attempt {
            Attempt::Taken(locked) => return Ok(locked),
            Attempt::Changed if hasty < HASTY => {
                hasty += 1;
                continue;
            }
            Attempt::Changed => Holder::default(),
            Attempt::Held(holder) => holder,
        };
        if deadline.has_passed() {
            return Err(PersistenceError::Locked { path: path.to_owned(), holder });
        }
        sleep(pause.min(deadline.remaining())).await;
        pause = LONGEST_PAUSE.min(2 * pause);
        hasty = 0;
    }
}

/// What came of trying to take a lock file.
pub(super) enum Attempt {
    Taken(Locked),
    Held(Holder),
    /// Somebody created, deleted or replaced the file while we looked.
    Changed,
}

/// Which lock file was seen, and since when: its own time may come from a clock that is not ours.
type Sighting = Option<(FileId, Instant)>;

fn attempt(path: &Path, mode: u32, sighting: &mut Sighting) -> io::Result<Result<Attempt, PersistenceError>> {
    let Opened { file, found, created } = match create_or_open(path, mode)? {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(Ok(Attempt::Changed)),
        Err(refused) => return Ok(Err(refused)),
    };
    let id = FileId::of(&file)?;
    let seen_for = match sighting {
        Some((seen, since)) if *seen == id => since.elapsed(),
        _ => {
            *sighting = Some((id, Instant::now()));
            Duration::ZERO
        }
    };
    let age = age(&found)?.max(seen_for);
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            // Somebody may have locked what we created: then it is theirs.
            let content = Content::read(&file).unwrap_or(Content::Empty);
            return Ok(Ok(Attempt::Held(content.into_holder(age))));
        }
        Err(TryLockError::Error(error)) => {
            if created {
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
    }
    let locked = Locked::new(file, id);
    if !locked.is_at(path) {
        return Ok(Ok(Attempt::Changed));
    }
    if created {
        return Ok(Ok(Attempt::Taken(locked)));
    }
    Ok(Ok(match judge(&locked.file, age)? {
        Leftover::Stale(content) => {
            if let Content::DigitsOnly(Some(pid)) = content
                && access::is_alive(pid)
            {
                tracing::warn!(
                    pid,
                    age_s = age.as_secs(),
                    "took over a lock file of MSAL Node that is too old to be in use"
                );
            }
            Attempt::Taken(locked)
        }
        Leftover::InUse(content) => Attempt::Held(content.into_holder(age)),
    }))
}

/// A lock file that was opened.
pub(super) struct Opened {
    pub(super) file: OwnFile,
    pub(super) found: Metadata,
    /// Whether it was made here.
    pub(super) created: bool,
}

/// The lock file at `path`, which is made if there is none. `None`: somebody deleted it while we looked.
pub(super) fn create_or_open(path: &Path, mode: u32) -> io::Result<Result<Option<Opened>, PersistenceError>> {
    match access::create_new(path, mode) {
        Ok(file) => {
            let file = OwnFile::new(file);
            let found = file.metadata()?;
            Ok(Ok(Some(Opened { file, found, created: true })))
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // Linux answers like this, too, where the file belongs to somebody else in a sticky directory.
            if path.symlink_metadata().is_err() {
                return Err(error);
            }
            match open_existing(path, mode)? {
                Ok(_) => Err(error),
                Err(refused) => Ok(Err(refused)),
            }
        }
        Err(_) => match open_existing(path, mode) {
            Ok(opened) => Ok(opened.map(|(file, found)| Some(Opened { file, found, created: false }))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Ok(None)),
            Err(error) => Err(error),
        },
    }
}

pub(super) enum Leftover {
    Stale(Content),
    InUse(Content),
}

/// Whether a lock file that nobody has locked in the kernel is nevertheless somebody's.
pub(super) fn judge(file: &File, age: Duration) -> io::Result<Leftover> {
    /// Node holds its lock for milliseconds. In a container the numbers of dead processes are soon alive again.
    const NODE: Duration = Duration::from_secs(60);
    /// MSAL Python without `portalocker` has no kernel lock and gives up after as long.
    const PYTHON: Duration = Duration::from_secs(5);
    /// Node and Python create the file first and write their number next.
    const BIRTH: Duration = Duration::from_millis(50);

    let content = Content::read(file)?;
    let alive = content.pid().is_some_and(access::is_alive);
    let in_use = match &content {
        Content::Empty => age < BIRTH,
        Content::DigitsOnly(_) => alive && age < NODE,
        Content::Other { .. } => alive && age < PYTHON,
    };
    Ok(if in_use { Leftover::InUse(content) } else { Leftover::Stale(content) })
}
