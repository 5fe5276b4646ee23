//! Files with keys in them: who may read them, and how they are made and replaced.
//!
//! Stricter than for a cache: a key file of another user is refused by readers too, except root's, who can read
//! everything anyway and provides keys to services.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::access::{self, OWNER_ONLY};
use super::lock::{DocumentLock, LockPaths};
use super::{Fence, FilePersistence, Persistence as _, PersistenceError, Saved, atomic};
use crate::seal::{FileMark, KeyFiles, SealError};
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// A key file is read whole; none is larger.
const LARGEST: u64 = 128 * 1024;
/// A rotation takes a few milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Key files on disk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KeyFilesOnDisk {
    /// Changes nothing: exposed key files are read as they are, none is made or replaced, and no lock file comes up.
    pub(crate) only_looks: bool,
}

impl KeyFiles for KeyFilesOnDisk {
    fn read(&self, path: &Path) -> Result<Option<SecretBytes>, Error> {
        read(path, self.only_looks)
    }

    fn mark(&self, path: &Path) -> Option<FileMark> {
        std::fs::metadata(path).ok().map(|found| mark_of(&found))
    }

    fn create(&self, path: &Path, content: &SecretBytes) -> Result<bool, Error> {
        if self.only_looks {
            return Err(only_looks(path).into());
        }
        Ok(create(path, content)?)
    }

    fn update<'a>(
        &'a self,
        path: &'a Path,
        change: Box<dyn FnOnce(Option<&SecretBytes>) -> Result<Option<SecretBytes>, Error> + Send + 'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if self.only_looks {
                return match change(read(path, true)?.as_ref())? {
                    Some(_) => Err(only_looks(path).into()),
                    None => Ok(()),
                };
            }
            let lock = LockPaths::ours(Some(access::with_suffix(path, ".lock")), OWNER_ONLY);
            // Who may not write there, and so cannot lock, can still read.
            let lock = DocumentLock::acquire(&lock, LOCK_TIMEOUT).await;
            let content = read(path, false)?;
            let Some(new) = change(content.as_ref())? else { return Ok(()) };
            let lock = lock?;
            let mode = mode_to_keep(path)?;
            let file =
                FilePersistence::builder(path).peers_lock(false).mode(mode).max_size(LARGEST).build()?;
            let loaded = file.load().await?;
            if content.as_ref().is_some_and(|content| *content != loaded.bytes) {
                return Err(contended(path).into());
            }
            let still_held = || lock.still_held();
            match file.save(&new, &loaded.revision, &Fence::new(&still_held)).await? {
                Saved::Saved(_) => Ok(()),
                Saved::Conflict => Err(contended(path).into()),
            }
        })
    }

    fn has_directory(&self, path: &Path) -> Result<bool, Error> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(found.is_dir()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(PersistenceError::io("look at", path, source).into()),
        }
    }
}

fn read(path: &Path, only_looks: bool) -> Result<Option<SecretBytes>, Error> {
    let Some(target) = follow(path)? else { return Ok(None) };
    access::check_directory(access::directory_of(&target))?;
    let file = match access::cautious_options().read(true).open(&target) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PersistenceError::io("open", &target, source).into()),
    };
    let found = file.metadata().map_err(|source| PersistenceError::io("look at", &target, source))?;
    check_owner(&found, &target)?;
    if found.len() > LARGEST {
        return Err(PersistenceError::TooLarge { path: target, size: found.len(), limit: LARGEST }.into());
    }
    let mut content = zeroize::Zeroizing::new(Vec::new());
    // All at once, so that nothing is left behind where a buffer had to grow.
    content.reserve_exact(usize::try_from(found.len() + 1).expect("it is small"));
    (&file)
        .take(LARGEST)
        .read_to_end(&mut content)
        .map_err(|source| PersistenceError::io("read", &target, source))?;
    check_mode(&file, &found, &target, &content, only_looks)?;
    Ok(Some(SecretBytes::from(std::mem::take(&mut *content))))
}

/// Refuses a file that others than this user and root could have written.
fn check_owner(found: &Metadata, path: &Path) -> Result<(), PersistenceError> {
    if let Some(found) = access::not_a_file(found) {
        return Err(PersistenceError::NotAFile { path: path.to_owned(), found });
    }
    match access::foreign_owner(found) {
        Some((owner, user)) if owner != ROOT => {
            Err(PersistenceError::WrongOwner { path: path.to_owned(), owner, user })
        }
        _ => Ok(()),
    }
}

/// Refuses a file that others can read, or takes that from them.
fn check_mode(
    file: &File,
    found: &Metadata,
    path: &Path,
    content: &[u8],
    only_looks: bool,
) -> Result<(), SealError> {
    let mode = mode_of(found);
    let is_roots = access::foreign_owner(found).is_some();
    let widest = if is_roots { 0o770 } else { widest_mode(path, found) };
    if mode & 0o077 & !widest == 0 {
        if !is_roots && mode & 0o077 != 0 {
            tracing::warn!(
                path = %path.display(),
                "the key file has mode {mode:04o}: a group that is not root's, or an access list, lets others read it"
            );
        }
        return Ok(());
    }
    // Who wrote the envelope may have named any file of ours: only a key file's permissions are changed.
    let is_key_file = content.windows(KEY_MARK.len()).any(|window| window == KEY_MARK);
    if is_key_file && only_looks {
        tracing::warn!(path = %path.display(), "the key file has mode {mode:04o}, others can use it");
        return Ok(());
    }
    match is_key_file.then(|| access::tighten(file, found, widest)) {
        Some(Ok(Some(had))) => {
            tracing::warn!(
                path = %path.display(),
                "the key file had {had}, others could use it; tightened, but the key should be rotated"
            );
            Ok(())
        }
        _ => Err(SealError::KeyFileExposed { path: path.to_owned(), mode }),
    }
}

/// The most that the mode of a key file of this user may allow.
///
/// Root hands keys to a service by its group, or by an access list that shows as the group's bits. To take that away
/// when root looks would take the service's key.
#[cfg(unix)]
pub(super) fn widest_mode(path: &Path, found: &Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    let is_handed_out = found.uid() == ROOT
        && access::foreign_owner(found).is_none()
        && (found.gid() != ROOT || access::has_access_list(path));
    if is_handed_out { 0o640 } else { OWNER_ONLY }
}

#[cfg(not(unix))]
pub(super) fn widest_mode(_path: &Path, _found: &Metadata) -> u32 {
    OWNER_ONLY
}

/// The mode of what replaces a key file: its group reads it still if it may.
fn mode_to_keep(path: &Path) -> Result<u32, PersistenceError> {
    let found = std::fs::metadata(path).map_err(|source| PersistenceError::io("look at", path, source))?;
    Ok(OWNER_ONLY | (mode_of(&found) & widest_mode(path, &found)))
}

const ROOT: u32 = 0;
const KEY_MARK: &[u8] = b"strongroom-key-";

/// The file itself, symbolic links of this user and of root followed; `None` if there is nothing.
fn follow(path: &Path) -> Result<Option<PathBuf>, PersistenceError> {
    /// As many as Linux follows.
    const MOST: usize = 40;

    let mut path = path.to_owned();
    for _ in 0..MOST {
        let found = match path.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PersistenceError::io("look at", &path, source)),
        };
        if !found.is_symlink() {
            return Ok(Some(path));
        }
        if let Some((owner, user)) = access::foreign_owner(&found).filter(|(owner, _)| *owner != ROOT) {
            let reason = format!("of user {owner}, this process runs as user {user}");
            return Err(PersistenceError::UnsafeLink { path, reason });
        }
        let target =
            path.read_link().map_err(|source| PersistenceError::io("read the link", &path, source))?;
        path = access::directory_of(&path).join(target);
    }
    let reason = format!("that leads through more than {MOST} others");
    Err(PersistenceError::UnsafeLink { path, reason })
}

/// Makes a new file by linking a complete one into place, so that nobody reads half of it and nobody's is
/// replaced.
fn create(path: &Path, content: &SecretBytes) -> Result<bool, PersistenceError> {
    let directory = access::directory_of(path);
    access::prepare_directory(directory, OWNER_ONLY)?;
    // What was left by who could not do it without a name.
    atomic::sweep(path);
    let created = match create_nameless(path, content)? {
        Some(created) => created,
        None => create_by_name(path, content)?,
    };
    access::sync_directory(directory)
        .map_err(|source| PersistenceError::io("sync the directory", directory, source))?;
    Ok(created)
}

/// The complete file has no name before it is linked, so that who is killed leaves no keys behind. `None`: the file
/// system cannot do that.
#[cfg(target_os = "linux")]
fn create_nameless(path: &Path, content: &SecretBytes) -> Result<Option<bool>, PersistenceError> {
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
    use rustix::io::Errno;

    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(file) = openat(CWD, access::directory_of(path), flags, Mode::from_raw_mode(OWNER_ONLY)) else {
        // Where it is for another reason, that shows again with a name.
        return Ok(None);
    };
    let file = File::from(file);
    write(&file, path, content)?;
    let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(CWD, itself.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(Some(true)),
        Err(Errno::EXIST) => Ok(Some(false)),
        Err(_) => Ok(None),
    }
}

#[cfg(not(target_os = "linux"))]
fn create_nameless(_path: &Path, _content: &SecretBytes) -> Result<Option<bool>, PersistenceError> {
    Ok(None)
}

fn create_by_name(path: &Path, content: &SecretBytes) -> Result<bool, PersistenceError> {
    // Gone again when it is dropped, and locked until then, which tells those who sweep.
    let file = atomic::NewFile::create(atomic::temporary_path(path), OWNER_ONLY)?;
    write(&file, file.path(), content)?;
    put_in_place(file.path(), path)
}

fn write(mut file: &File, path: &Path, content: &SecretBytes) -> Result<(), PersistenceError> {
    file.write_all(content.expose())
        .and_then(|()| file.sync_all())
        .map_err(|source| PersistenceError::io("write", path, source))
}

fn put_in_place(temporary: &Path, path: &Path) -> Result<bool, PersistenceError> {
    let result = match std::fs::hard_link(temporary, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // A file system without hard links.
            atomic::rename(temporary, path, true)
        }
        result => result,
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(source) => Err(PersistenceError::io("create", path, source)),
    }
}

fn only_looks(path: &Path) -> PersistenceError {
    PersistenceError::io("write", path, io::ErrorKind::ReadOnlyFilesystem.into())
}

fn contended(path: &Path) -> PersistenceError {
    PersistenceError::Contended { location: path.display().to_string(), attempts: 1 }
}

#[cfg(unix)]
fn mode_of(found: &Metadata) -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    found.mode() & 0o7777
}

#[cfg(not(unix))]
fn mode_of(_found: &Metadata) -> u32 {
    0
}

#[cfg(unix)]
fn mark_of(found: &Metadata) -> FileMark {
    use std::os::unix::fs::MetadataExt as _;
    let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    FileMark([
        found.dev().into(),
        found.ino().into(),
        found.size().into(),
        nanoseconds(found.mtime(), found.mtime_nsec()),
        nanoseconds(found.ctime(), found.ctime_nsec()),
    ])
}

#[cfg(not(unix))]
fn mark_of(found: &Metadata) -> FileMark {
    let modified = found.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let modified = modified.map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX));
    FileMark([0, 0, found.len().into(), modified, modified])
}
