//! The lock of MSAL4J's persistence extension: one file for the whole directory, `.lockfile`, locked in the kernel as
//! `lockf` does it, signed and deleted.
//!
//! Such a lock and the one of the other peers (`flock`) do not see each other on Linux, so it is taken besides. By its
//! first byte only: MSAL4J locks all bytes. On Linux as a lock of the open file, which those of processes respect, and
//! which does not end when another descriptor of the file is closed; elsewhere the two kinds of locks see each other.
//!
//! MSAL4J waits six seconds for a file that is there before it tries to lock it, and deletes the file when it leaves, after
//! it has unlocked it: so it is deleted here, and looked at again after it was locked.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
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
    if !locked.is_at(path) {
        return Ok(Ok(Attempt::Changed));
    }
    if !is_a_lock_file(&locked.file)? {
        return Ok(Err(PersistenceError::NotAJavaLockFile { path: path.to_owned() }));
    }
    Ok(Ok(Attempt::Taken(locked)))
}

/// Whether nothing is lost if this is overwritten and deleted: it is empty, or says `PID HOST` as MSAL4J signs.
fn is_a_lock_file(mut file: &File) -> io::Result<bool> {
    /// A process id and the longest name of a host.
    const LONGEST: usize = 10 + 1 + 255;

    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(LONGEST as u64 + 1).read_to_end(&mut bytes)?;
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(false) };
    let name = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let is_signed = name.len() < text.len() && (name.is_empty() || name.starts_with([' ', '@']));
    Ok(text.is_empty() || bytes.len() <= LONGEST && is_signed && !name.contains(|c: char| c.is_control()))
}

/// MSAL4J signs with the process and the host.
fn host_name() -> String {
    #[cfg(unix)]
    let name = printable(&rustix::system::uname().nodename().to_string_lossy());
    #[cfg(not(unix))]
    let name = printable("");
    if name.is_empty() { "localhost".into() } else { name }
}
