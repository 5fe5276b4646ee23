//! Replacing a file so that a reader, and whoever looks after a crash, finds the old content or the new, whole.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Write as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::PersistenceError;
use super::access;
use crate::platform::fork::OwnFile;
use crate::time::wall_clock;

/// The steps of a write, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// A temporary file is created beside the document.
    CreateTemporary,
    /// The new content is written into it.
    Write,
    /// The content is made durable.
    Sync,
    /// It is checked that the lock is still ours and that nobody has changed the document.
    Compare,
    /// The temporary file takes the document's name. This is the point of no return.
    Rename,
    /// The name is made durable. Others may be writing by now.
    SyncDirectory,
}

/// Is told each step before it is done, and may fail it. For tests.
#[derive(Clone)]
pub(super) struct StepObserver(pub(super) Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>);

impl fmt::Debug for StepObserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepObserver")
    }
}

/// A replacement about to be made.
pub(super) struct Replacement<'a> {
    /// The file itself, links followed.
    pub(super) target: &'a Path,
    /// What is there now.
    pub(super) old: Option<&'a Metadata>,
    /// The file whose group the new one gets, if that is not the group of what is there.
    pub(super) like: Option<&'a Metadata>,
    pub(super) bytes: &'a [u8],
    pub(super) mode: u32,
    pub(super) observer: Option<&'a StepObserver>,
}

impl Replacement<'_> {
    /// Replaces the file if `may_replace` still says so when all is prepared; `None` if it does not. Returns the
    /// new file, still open, whose name is not durable before [`make_durable`](Self::make_durable).
    ///
    /// After an error the old file is there. No temporary file is left.
    pub(super) fn run(
        &self,
        may_replace: impl FnOnce() -> Result<bool, PersistenceError>,
    ) -> Result<Option<NewFile>, PersistenceError> {
        let path = temporary_path(self.target);

        self.announce(Step::CreateTemporary, "create", &path)?;
        let mut new = NewFile::create(path, self.mode)?;
        let path = new.path.as_path();
        if let (Some(old), true) = (self.like.or(self.old), access::is_shared(self.mode)) {
            // Fails for a group that this user is not in; its members lose nothing that this user could keep.
            let _ = access::adopt_group(&new, old);
            let _ = access::adopt_access_list(&new, self.target);
        }

        self.announce(Step::Write, "write", path)?;
        (&mut &*new.file)
            .write_all(self.bytes)
            .map_err(|source| PersistenceError::io("write", path, source))?;

        self.announce(Step::Sync, "sync", path)?;
        new.sync_all().map_err(|source| PersistenceError::io("sync", path, source))?;

        self.announce(Step::Compare, "compare", self.target)?;
        if !may_replace()? {
            return Ok(None);
        }

        self.announce(Step::Rename, "replace", self.target)?;
        match rename(path, self.target, self.old.is_none()) {
            Ok(()) => {}
            // Somebody has created the file that was not there a moment ago.
            Err(error) if self.old.is_none() && error.kind() == io::ErrorKind::AlreadyExists => {
                return Ok(None);
            }
            Err(source) => return Err(rename_error(self.target, source)),
        }
        new.is_in_place = true;
        Ok(Some(new))
    }

    /// Makes the name of what [`run`](Self::run) has returned durable.
    ///
    /// After an error the new file is there, but may be lost in a crash.
    pub(super) fn make_durable(&self, new: &NewFile) -> Result<(), PersistenceError> {
        let directory = access::directory_of(self.target);
        self.announce(Step::SyncDirectory, "sync the directory", directory)?;
        // Its directory cannot be synced on Windows, but this writes the journal, and with it the new name.
        if cfg!(windows) {
            new.sync_all().map_err(|source| PersistenceError::io("sync", self.target, source))?;
        }
        access::sync_directory(directory)
            .map_err(|source| PersistenceError::io("sync the directory", directory, source))
    }

    fn announce(&self, step: Step, action: &'static str, path: &Path) -> Result<(), PersistenceError> {
        match self.observer.map(|observer| (observer.0)(step)) {
            Some(Err(source)) if step == Step::Rename => Err(rename_error(path, source)),
            Some(Err(source)) => Err(PersistenceError::io(action, path, source)),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

/// The file that takes the place of the old one. Removed when dropped, unless it has done so.
pub(super) struct NewFile {
    file: OwnFile,
    /// Its temporary path.
    path: PathBuf,
    is_in_place: bool,
}

impl NewFile {
    pub(super) fn create(path: PathBuf, mode: u32) -> Result<Self, PersistenceError> {
        match access::create_new(&path, mode) {
            Ok(file) => {
                let file = OwnFile::new(file);
                // Tells those who sweep that the writer lives. Where locks do not work, age has to tell. On Windows
                // that the file is open tells it, and a lock would keep readers out.
                #[cfg(not(windows))]
                let _ = file.try_lock();
                Ok(Self { file, path, is_in_place: false })
            }
            Err(source) => Err(PersistenceError::io("create", &path, source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for NewFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // A forked child leaves the file to its parent.
        if self.file.is_own() {
            if !self.is_in_place {
                let _ = std::fs::remove_file(&self.path);
            }
            let _ = self.file.unlock();
        }
    }
}

/// Removes the temporary files that writers of `target` left behind when they were killed.
///
/// What cannot be removed is left: the write at hand matters more.
pub(super) fn sweep(target: &Path) {
    let Ok(entries) = std::fs::read_dir(access::directory_of(target)) else { return };
    for entry in entries.flatten() {
        if !is_temporary_name(target, &entry.file_name()) {
            continue;
        }
        let path = entry.path();
        if is_abandoned(&path) && std::fs::remove_file(&path).is_ok() {
            tracing::debug!(path = %path.display(), "removed a temporary file that a dead writer had left");
        }
    }
}

/// Whether nobody writes this temporary file any more.
///
/// A living writer holds a lock on it (on Windows it is enough that it has it open); the least age covers the moment
/// between creation and lock.
pub(super) fn is_abandoned(path: &Path) -> bool {
    const YOUNG: Duration = Duration::from_secs(10);
    /// Where locks do not work, the age alone decides.
    #[cfg(not(windows))]
    const OLD: Duration = Duration::from_secs(3600);

    let mut options = access::cautious_options();
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 0);
    let Ok(file) = options.read(true).open(path) else { return false };
    let Ok(found) = file.metadata() else { return false };
    if !found.is_file() || access::foreign_owner(&found).is_some() {
        return false;
    }
    let age = found.modified().ok().map_or(Duration::ZERO, |time| {
        // A time ahead of the clock was given under another clock, that is long ago.
        wall_clock().duration_since(time).unwrap_or_else(|ahead| ahead.duration())
    });
    #[cfg(not(windows))]
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return false,
        Err(std::fs::TryLockError::Error(_)) => return age > OLD,
    }
    age > YOUNG
}

/// Renames `from` to `to`; if `only_if_absent`, never over an existing file where the system can promise that.
pub(super) fn rename(from: &Path, to: &Path, only_if_absent: bool) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if only_if_absent {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // The file system does not know the flag.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            result => return result.map_err(io::Error::from),
        }
    }
    #[cfg(windows)]
    if only_if_absent {
        use crate::platform::windows::file::rename_without_replacing;
        return access::despite_others(|| rename_without_replacing(from, to));
    }
    if only_if_absent && to.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    #[allow(clippy::disallowed_methods)] // this is the layer that others are sent to
    access::despite_others(|| std::fs::rename(from, to))
}

fn rename_error(target: &Path, source: io::Error) -> PersistenceError {
    match source.kind() {
        io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices => {
            PersistenceError::MountedAlone { path: target.to_owned(), source }
        }
        _ => PersistenceError::io("replace", target, source),
    }
}

const TEMPORARY: &str = ".tmp";

/// `<name>.<32 hexadecimal digits>.tmp`. One of those may be written as a document is, by way of one of its own.
pub(super) fn temporary_path(target: &Path) -> PathBuf {
    access::with_suffix(target, &format!(".{}{TEMPORARY}", uuid::Uuid::new_v4().simple()))
}

pub(super) fn is_temporary_name(target: &Path, name: &std::ffi::OsStr) -> bool {
    const DIGITS: usize = 32;

    let (Some(target), Some(name)) = (target.file_name(), name.to_str()) else { return false };
    let Some(mut rest) = target.to_str().and_then(|target| name.strip_prefix(target)) else { return false };
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let Some((random, next)) = rest.strip_prefix('.').and_then(|rest| rest.split_at_checked(DIGITS))
        else {
            return false;
        };
        match next.strip_prefix(TEMPORARY) {
            Some(next) if random.bytes().all(|byte| byte.is_ascii_hexdigit()) => rest = next,
            _ => return false,
        }
    }
    true
}
