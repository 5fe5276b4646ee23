//! Who holds the lock of a document, for those who only want to know: nothing is created, taken over or written.

use std::fs::TryLockError;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::lockfile::{self, Leftover};
use super::{Content, age};
use crate::persistence::PersistenceError;
use crate::persistence::access;
use crate::persistence::error::Holder;
use crate::platform::fork::OwnFile;

/// What a lock file says.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::persistence) enum LockState {
    /// There is no such file.
    Absent,
    /// Nobody holds it.
    Free,
    /// Somebody holds it.
    Held(Held),
    /// Its holder is gone, and the file is left.
    Left(Held),
}

/// Who holds or held a lock.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::persistence) struct Held {
    pub(in crate::persistence) holder: Holder,
    /// Whether the file itself is the lock, for some programs at least: while it is there they wait.
    pub(in crate::persistence) by_existence: bool,
}

/// Our own lock file.
pub(in crate::persistence) fn look_at_ours(path: &Path) -> Result<LockState, PersistenceError> {
    look(path, |_, _| Ok(LockState::Free))
}

/// The lock file of the other MSALs.
pub(in crate::persistence) fn look_at_peers(path: &Path) -> Result<LockState, PersistenceError> {
    look(path, |file, age| {
        Ok(match lockfile::judge(file, age)? {
            Leftover::InUse(content) => LockState::Held(held(content, age)),
            Leftover::Stale(content) => LockState::Left(held(content, age)),
        })
    })
}

/// Looks at a lock file; `judge` says what it is if nobody has locked it.
fn look(
    path: &Path,
    judge: impl Fn(&OwnFile, Duration) -> io::Result<LockState>,
) -> Result<LockState, PersistenceError> {
    let failed = |source| PersistenceError::io("look at the lock file", path, source);
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LockState::Absent),
        Err(source) => return Err(failed(source)),
    };
    if found.is_symlink() {
        let reason = "where a lock file is expected; lock files are not followed".into();
        return Err(PersistenceError::UnsafeLink { path: path.to_owned(), reason });
    }
    if let Some(found) = access::not_a_file(&found) {
        return Err(PersistenceError::NotAFile { path: path.to_owned(), found });
    }
    access::require_owner(path, &found, access::OWNER_ONLY)?;
    let file = match access::cautious_options().read(true).open(path) {
        Ok(file) => OwnFile::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LockState::Absent),
        Err(source) => return Err(failed(source)),
    };
    let age = file.metadata().and_then(|found| age(&found)).map_err(failed)?;
    // Shared, so that those who only look are not in each other's way, and for an instant.
    match file.try_lock_shared() {
        Ok(()) => {
            let state = judge(&file, age).map_err(failed);
            let _ = file.unlock();
            state
        }
        Err(TryLockError::WouldBlock) => {
            let content = Content::read(&file).unwrap_or(Content::Empty);
            // Others lock without signing: what a dead process has written is not about the holder.
            let alive = content.pid().is_some_and(access::is_alive);
            Ok(LockState::Held(if alive { held(content, age) } else { held(Content::Empty, age) }))
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn held(content: Content, age: Duration) -> Held {
    let by_existence = !matches!(content, Content::Empty);
    Held { holder: content.into_holder(age), by_existence }
}
