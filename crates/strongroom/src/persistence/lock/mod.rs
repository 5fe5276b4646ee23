//! The lock around a read-modify-write of one document, across tasks, processes and languages.
//!
//! Two files: `<location>.lock`, ours, never deleted, in whose queue Strongroom processes wait; then
//! `<location>.lockfile`, the peers', which is created and deleted; and beside programs in Java a third one, `.lockfile`
//! in the directory, which is theirs. Peers delete lock files that are not theirs, so holding all of them proves little:
//! a write asks [`DocumentLock::still_held`] immediately before its rename.
//!
//! This module must not know what is written under the lock.

mod alone;
mod java;
mod lockfile;
mod look;
mod ours;

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::alone::CrossPlatLock;
use self::java::JavaLock;
use self::lockfile::PeersLock;
pub(super) use self::look::{Held, LockState, look_at_ours, look_at_peers};
use self::ours::OurLock;
pub(crate) use self::ours::Turn;
pub(super) use self::ours::open;
use super::access::{self, FileId};
use super::error::Holder;
use super::{Location, Persistence, PersistenceError};
use crate::Error;
use crate::platform::fork::OwnFile;
use crate::platform::range_lock;
use crate::time::{Deadline, wall_clock};

pub(super) const PEERS_SUFFIX: &str = ".lockfile";
pub(super) const OUR_SUFFIX: &str = ".lock";

/// Which files lock a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockPaths {
    ours: Option<PathBuf>,
    peers: Option<PathBuf>,
    /// Only for changes that are made beside programs in Java.
    java: Option<PathBuf>,
    mode: u32,
}

impl LockPaths {
    pub(crate) fn of(persistence: &dyn Persistence) -> Self {
        Self {
            ours: side_file(persistence, OUR_SUFFIX),
            peers: persistence.lock_path(),
            java: None,
            mode: persistence.lock_mode(),
        }
    }

    /// The same and Java's, where the document is one that peers know.
    pub(crate) fn with_java(&self) -> Self {
        let directory = self.ours.as_deref().filter(|_| self.peers.is_some()).map(access::directory_of);
        Self { java: directory.map(|directory| directory.join(java::NAME)), ..self.clone() }
    }

    /// Java's lock file is overwritten and deleted, so it must not be the document or another lock file of it.
    fn check_java(&self) -> Result<(), PersistenceError> {
        let Some(java) = &self.java else { return Ok(()) };
        let of_document = access::with_suffix(java, OUR_SUFFIX);
        if self.peers.as_ref() == Some(java) || self.ours.as_ref() == Some(&of_document) {
            return Err(PersistenceError::NotAJavaLockFile { path: java.clone() });
        }
        Ok(())
    }

    /// The lock files.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        self.ours.iter().chain(&self.peers).map(PathBuf::as_path)
    }

    /// Our lock file alone, for what only this library writes.
    pub(crate) fn ours(path: Option<PathBuf>, mode: u32) -> Self {
        Self { ours: path, peers: None, java: None, mode }
    }
}

/// The path of a file of ours that goes with the document: beside it, or beside its lock file where the document
/// has no path. `None` where there is neither.
pub(crate) fn side_file(persistence: &dyn Persistence, suffix: &str) -> Option<PathBuf> {
    let base = match persistence.location() {
        Location::File(path) => path,
        Location::Item(_) | Location::Memory => {
            let path = persistence.lock_path()?;
            // `signal.lockfile` locks the signal file `signal`.
            if path.extension() == Some(OsStr::new(&PEERS_SUFFIX[1..])) {
                path.with_extension("")
            } else {
                path
            }
        }
    };
    Some(access::with_suffix(&base, suffix))
}

/// The lock of one document, held until this is dropped.
#[derive(Debug)]
pub(crate) struct DocumentLock {
    // In this order they are released: who waits for ours finds the peers' free.
    java: Option<JavaLock>,
    peers: Option<PeersLock>,
    ours: Option<OurLock>,
}

impl DocumentLock {
    /// Takes the lock, at the first poll if nobody has it, and gives up when `timeout` has passed.
    ///
    /// A future that is dropped leaves nothing locked.
    ///
    /// # Errors
    /// `Locked`: somebody held it all the time. `Storage`: a lock file cannot be used.
    pub(crate) async fn acquire(paths: &LockPaths, timeout: Duration) -> Result<Self, Error> {
        paths.check_java()?;
        let deadline = Deadline::after(timeout);
        let mut lock = Self { java: None, peers: None, ours: None };
        if let Some(path) = &paths.ours {
            access::prepare_directory(access::directory_of(path), paths.mode)?;
            lock.ours = Some(ours::acquire(path, paths.mode, deadline).await?);
        }
        if let Some(path) = &paths.peers {
            let directory = access::directory_of(path);
            if paths.ours.as_deref().map(access::directory_of) != Some(directory) {
                access::prepare_directory(directory, paths.mode)?;
            }
            lock.peers = Some(lockfile::acquire(path, paths.mode, deadline).await?);
        }
        if let Some(path) = &paths.java {
            lock.java = Some(java::acquire(path, paths.mode, deadline).await?);
        }
        Ok(lock)
    }

    /// Whether the lock files are still the ones that were locked. A peer may have deleted its one.
    pub(crate) fn still_held(&self) -> bool {
        self.java.as_ref().is_none_or(JavaLock::still_held)
            && self.peers.as_ref().is_none_or(PeersLock::still_held)
            && self.ours.as_ref().is_none_or(OurLock::still_held)
    }

    /// Releases the lock for other processes. Those of this one who wait for it go on when the result is dropped.
    pub(crate) fn let_others_in(mut self) -> Option<Turn> {
        self.ours.as_mut().and_then(OurLock::keep_turn)
    }
}

/// A file with a kernel lock on it, which ends when this is dropped.
#[derive(Debug)]
struct Locked {
    file: OwnFile,
    id: FileId,
    unlock: fn(&File) -> io::Result<()>,
}

impl Locked {
    /// `file` must be locked already.
    fn new(file: OwnFile, id: FileId) -> Self {
        Self { file, id, unlock: File::unlock }
    }

    /// The same where not the file is locked but its first byte.
    fn by_first_byte(file: OwnFile, id: FileId) -> Self {
        Self { file, id, unlock: |file| range_lock::unlock(file, 0) }
    }

    /// Whether `path` names this file, and the lock on it is this process's.
    fn is_at(&self, path: &Path) -> bool {
        self.is_own() && FileId::at(path).is_ok_and(|id| id == self.id)
    }

    /// Whether this is the process that took the lock, not a child that was forked from it.
    fn is_own(&self) -> bool {
        self.file.is_own()
    }

    /// Writes who holds the lock into the file, for others to read. The lock is valid without it.
    fn sign(&self, name: &str) {
        let text = format!("{} {name}", std::process::id());
        let mut file: &File = &self.file;
        let mut write = || {
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "could not write the holder's name into a lock file");
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Explicitly, because a child that was forked a moment ago may not have closed its descriptor yet: closing
        // ours alone would not end the lock. The child in turn must not end the parent's.
        if self.is_own() {
            let _ = (self.unlock)(&self.file);
        }
    }
}

/// The content of a lock file, in the languages of all peers.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// Its holder is between creation and writing, or died there.
    Empty,
    /// MSAL Node's: the existence of the file is the lock.
    DigitsOnly(Option<u32>),
    /// Everybody else's: a kernel lock, perhaps with a process id and a name.
    Other { pid: Option<u32>, program: Option<String> },
}

impl Content {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            return Self::Empty;
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::DigitsOnly(text.parse().ok());
        }
        // `{123} name` is Go's, `123 name` everybody else's.
        let (pid, rest) = match text.strip_prefix('{').and_then(|text| text.split_once('}')) {
            Some((pid, rest)) => (pid, rest),
            None => text.split_once(char::is_whitespace).unwrap_or((text, "")),
        };
        let Ok(pid) = pid.trim().parse() else { return Self::Other { pid: None, program: None } };
        let program = printable(rest);
        Self::Other { pid: Some(pid), program: (!program.is_empty()).then_some(program) }
    }

    fn read(mut file: &File) -> io::Result<Self> {
        let mut bytes = [0; 256];
        let mut length = 0;
        file.rewind()?;
        while length < bytes.len() {
            match file.read(&mut bytes[length..])? {
                0 => break,
                read => length += read,
            }
        }
        Ok(Self::parse(&bytes[..length]))
    }

    fn pid(&self) -> Option<u32> {
        match self {
            Self::Empty => None,
            Self::DigitsOnly(pid) | Self::Other { pid, .. } => *pid,
        }
    }

    fn into_holder(self, age: Duration) -> Holder {
        let pid = self.pid();
        let program = match self {
            Self::Other { program, .. } => program,
            Self::DigitsOnly(_) => Some("MSAL Node".into()),
            Self::Empty => None,
        };
        Holder { pid, program, age: Some(age) }
    }
}

/// How long ago the file was written. A time far ahead of the clock was given by another clock, hence long ago.
fn age(found: &Metadata) -> io::Result<Duration> {
    const SKEW: Duration = Duration::from_secs(60);

    let written = found.modified()?;
    Ok(match wall_clock().duration_since(written) {
        Ok(age) => age,
        Err(ahead) if ahead.duration() > SKEW => ahead.duration(),
        Err(_) => Duration::ZERO,
    })
}

/// Opens a lock file that is there, and refuses what no lock file of ours or of a peer of this user can be.
fn open_existing(path: &Path, mode: u32) -> io::Result<Result<(OwnFile, Metadata), PersistenceError>> {
    let refused = |error| Ok(Err(error));
    let found = path.symlink_metadata()?;
    if found.is_symlink() {
        let reason = "where a lock file is expected; lock files are not followed".into();
        return refused(PersistenceError::UnsafeLink { path: path.to_owned(), reason });
    }
    if let Some(found) = access::not_a_file(&found) {
        return refused(PersistenceError::NotAFile { path: path.to_owned(), found });
    }
    // Before it is opened: the owner is the better reason when that fails.
    if let Err(error) = access::require_owner(path, &found, mode) {
        return refused(error);
    }
    let file = match access::cautious_options().read(true).write(true).open(path) {
        Ok(file) => OwnFile::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        Err(error) if access::may_pass(&error).is_some() => return Err(error),
        // It was replaced a moment ago: look again.
        Err(error) if access::is_link_error(&error) => return Err(io::ErrorKind::NotFound.into()),
        Err(source) => return refused(PersistenceError::io("open the lock file", path, source)),
    };
    let found = file.metadata()?;
    if let Some(found) = access::not_a_file(&found) {
        return refused(PersistenceError::NotAFile { path: path.to_owned(), found });
    }
    if let Err(error) = access::require_owner(path, &found, mode) {
        return refused(error);
    }
    let _ = access::tighten(&file, &found, mode);
    Ok(Ok((file, found)))
}

/// The name that we sign lock files with: never empty, so that nobody takes the number before it for Node's.
fn program_name() -> String {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    let name = printable(&name);
    if name.is_empty() { "strongroom".into() } else { name }
}

/// At most 64 characters of a text, without what could play tricks on a terminal.
fn printable(text: &str) -> String {
    text.trim().chars().filter(|char| !char.is_control()).take(64).collect()
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
