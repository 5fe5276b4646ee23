//! The lock of MSAL4J's persistence extension: one file for the whole directory, `.lockfile`, locked in the kernel as
//! `lockf` does it, signed and deleted.
//!
//! Such a lock and the one of the other peers (`flock`) do not see each other on Linux, so it is taken besides. By its
//! first byte only: MSAL4J locks all bytes. On Linux as a lock of the open file, which those of processes respect, and
//! which does not end when another descriptor of the file is closed; elsewhere the two kinds of locks see each other.
//!
//! MSAL4J waits six seconds for a file that is there before it tries to lock it, and deletes the file when it leaves, after
//! it has unlocked it: so it is deleted here, and looked at again after it was locked.

use std::io;
use std::path::{Path, PathBuf};

use super::super::PersistenceError;
use super::super::access::FileId;
use super::lockfile::{Attempt, Opened, create_or_open, poll};
use super::{Content, Locked, age, printable};
use crate::platform::range_lock;
use crate::time::Deadline;

pub(super) const NAME: &str = ".lockfile";

/// Java's lock, held until this is dropped.
#[derive(Debug)]
pub(super) struct JavaLock {
    locked: Locked,
    path: PathBuf,
}

impl JavaLock {
    pub(super) fn still_held(&self) -> bool {
        self.locked.is_at(&self.path)
    }
}

impl Drop for JavaLock {
    fn drop(&mut self) {
        if self.locked.is_own() && self.still_held() && std::fs::remove_file(&self.path).is_err() {
            tracing::debug!(path = %self.path.display(), "the lock file of MSAL4J cannot be deleted");
        }
    }
}

/// Takes the lock, looking again and again until the deadline: Java's processes have no queue either.
pub(super) async fn acquire(
    path: &Path,
    mode: u32,
    deadline: Deadline,
) -> Result<JavaLock, PersistenceError> {
    let locked = poll(path, deadline, || attempt(path, mode)).await?;
    locked.sign(&host_name());
    Ok(JavaLock { locked, path: path.to_owned() })
}

fn attempt(path: &Path, mode: u32) -> io::Result<Result<Attempt, PersistenceError>> {
    let Opened { file, found, created } = match create_or_open(path, mode)? {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(Ok(Attempt::Changed)),
        Err(refused) => return Ok(Err(refused)),
    };
    let id = FileId::of(&file)?;
    match range_lock::try_lock(&file, 0) {
        Ok(true) => {}
        Ok(false) => {
            let content = Content::read(&file).unwrap_or(Content::Empty);
            return Ok(Ok(Attempt::Held(content.into_holder(age(&found)?))));
        }
        Err(error) => {
            if created {
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
    }
    let locked = Locked::by_first_byte(file, id);
    Ok(Ok(if locked.is_at(path) { Attempt::Taken(locked) } else { Attempt::Changed }))
}

/// MSAL4J signs with the process and the host.
fn host_name() -> String {
    #[cfg(unix)]
    let name = printable(&rustix::system::uname().nodename().to_string_lossy());
    #[cfg(not(unix))]
    let name = printable("");
    if name.is_empty() { "localhost".into() } else { name }
}
