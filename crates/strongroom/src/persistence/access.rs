//! Who may use which file: the rules about owners, permission bits, links and directories that documents and
//! lock files share. What is special to one operating system stands here, in small functions.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::PersistenceError;

/// Permissions of what only its owner may use.
pub(super) const OWNER_ONLY: u32 = 0o600;

/// Whether files of this mode are shared by a group, so that those of another owner are expected.
pub(super) const fn is_shared(mode: u32) -> bool {
    mode & 0o060 != 0
}

/// `path` with `suffix` appended to its last component.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory that `path` lies in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the directory that a file of `mode` is to be written into, if it is missing, and refuses it if
/// everybody could replace files in it.
pub(super) fn prepare_directory(directory: &Path, mode: u32) -> Result<(), PersistenceError> {
    if check_directory(directory)? {
        return Ok(());
    }
    let mut missing = vec![directory];
    while let Some(parent) = missing.last().and_then(|path| path.parent()) {
        if parent.as_os_str().is_empty() || check_directory(parent)? {
            break;
        }
        missing.push(parent);
    }
    for path in missing.into_iter().rev() {
        create_directory(path, mode)
            .map_err(|source| PersistenceError::io("create the directory", path, source))?;
        // Without this a crash could take the directory, and with it a document that was reported as stored.
        sync_directory(directory_of(path))
            .map_err(|source| PersistenceError::io("sync the directory", path, source))?;
    }
    Ok(())
}

/// Whether the directory is there; an error if everybody could replace files in it.
pub(super) fn check_directory(directory: &Path) -> Result<bool, PersistenceError> {
    match std::fs::metadata(directory) {
        Ok(found) if !found.is_dir() => Err(PersistenceError::Io {
            action: "use the directory",
            path: directory.to_owned(),
            source: io::ErrorKind::NotADirectory.into(),
        }),
        Ok(found) => {
            refuse_open_directory(directory, &found)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PersistenceError::io("look at the directory", directory, source)),
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        // Windows cannot open a directory for this, and its renames are journalled.
        return Ok(());
    }
    match File::open(directory)?.sync_all() {
        // Some network and FUSE file systems cannot sync a directory; there is nothing more to be done there.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result,
    }
}

/// What to say of something that should be a regular file, `None` if it is one.
pub(super) fn not_a_file(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        return None;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Some("a named pipe (FIFO)");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
        if kind.is_block_device() || kind.is_char_device() {
            return Some("a device");
        }
    }
    Some(match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () => "a special file",
    })
}

/// Refuses a file that belongs to another user, unless a group shares it.
pub(super) fn require_owner(path: &Path, found: &Metadata, mode: u32) -> Result<(), PersistenceError> {
    match foreign_owner(found) {
        Some((owner, user)) if !is_shared(mode) => {
            Err(PersistenceError::WrongOwner { path: path.to_owned(), owner, user })
        }
        _ => Ok(()),
    }
}

/// Takes away the permissions that a file of ours has beyond `mode`. Says which it had, if any were taken.
pub(super) fn tighten(file: &File, found: &Metadata, mode: u32) -> io::Result<Option<u32>> {
    let Some(has) = wider(found, mode) else { return Ok(None) };
    set_mode(file, has & mode)?;
    Ok(Some(has))
}

/// Follows symbolic links of this user from `location` to the path of the file itself.
///
/// The links of a directory on the way are the operating system's business; only the last component decides
/// which file is read or replaced.
pub(super) fn resolve_links(location: &Path) -> Result<(PathBuf, Option<Metadata>), PersistenceError> {
    /// As many as Linux follows.
    const MOST: usize = 40;

    let mut path = location.to_owned();
    for _ in 0..MOST {
        let found = match path.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, None)),
            Err(source) => return Err(PersistenceError::io("look at", &path, source)),
        };
        if !found.is_symlink() {
            return Ok((path, Some(found)));
        }
        if let Some((owner, user)) = foreign_owner(&found) {
            let reason = format!("of user {owner}, this process runs as user {user}");
            return Err(PersistenceError::UnsafeLink { path, reason });
        }
        let target =
            path.read_link().map_err(|source| PersistenceError::io("read the link", &path, source))?;
        path = directory_of(&path).join(target);
    }
    let reason = format!("that leads through more than {MOST} others");
    Err(PersistenceError::UnsafeLink { path: location.to_owned(), reason })
}

/// Options that open what is there, without following a link in the last component and without hanging on a
/// pipe that nobody writes to.
pub(super) fn cautious_options() -> OpenOptions {
    #[allow(unused_mut)] // elsewhere than on Unix
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        // The standard library adds O_CLOEXEC.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    options
}

/// Whether an error of `open` says that the last component is a symbolic link.
pub(super) fn is_link_error(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

/// Creates a new file for reading and writing, never an existing one, with exactly this mode.
pub(super) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let mut options = cautious_options();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(mode);
    }
    let file = options.open(path)?;
    if is_shared(mode) {
        // The umask may have taken the group's bits.
        set_mode(&file, mode)?;
    }
    Ok(file)
}

/// Which file a path or a descriptor names: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
mod platform {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};

    use super::*;

    impl FileId {
        pub(in super::super) fn of(found: &Metadata) -> Self {
            Self { device: found.dev(), inode: found.ino() }
        }
    }

    /// The owner of a file and the user of this process, if they differ.
    pub(in super::super) fn foreign_owner(found: &Metadata) -> Option<(u32, u32)> {
        let user = rustix::process::geteuid().as_raw();
        (found.uid() != user).then_some((found.uid(), user))
    }

    pub(in super::super) fn set_mode(file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    }

    /// The permissions of a file of ours, if they are wider than `mode`.
    pub(in super::super) fn wider(found: &Metadata, mode: u32) -> Option<u32> {
        let has = found.mode() & 0o7777;
        (has & !mode != 0 && foreign_owner(found).is_none()).then_some(has)
    }

    pub(in super::super) fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
        let for_group = if mode & 0o020 != 0 {
            0o070
        } else if mode & 0o040 != 0 {
            0o050
        } else {
            0
        };
        let result = std::fs::DirBuilder::new().mode(0o700 | for_group).create(path);
        match result {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Ok(()) if for_group != 0 => {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700 | for_group))
            }
            result => result,
        }
    }

    pub(in super::super) fn refuse_open_directory(
        path: &Path,
        found: &Metadata,
    ) -> Result<(), PersistenceError> {
        const STICKY: u32 = 0o1000;
        let mode = found.mode() & 0o7777;
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return Err(PersistenceError::UnsafeDirectory { path: path.to_owned(), mode });
        }
        Ok(())
    }

    /// Gives a new file the group of the one that it is to replace. Only a member of the group can.
    pub(in super::super) fn adopt_group(file: &File, old: &Metadata) -> io::Result<()> {
        if file.metadata()?.gid() == old.gid() {
            return Ok(());
        }
        rustix::fs::fchown(file, None, Some(rustix::fs::Gid::from_raw(old.gid()))).map_err(io::Error::from)
    }

    /// Whether a process of this number runs on this host. In doubt it does.
    pub(in super::super) fn is_alive(pid: u32) -> bool {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }
}

#[cfg(not(unix))]
mod platform {
    use super::*;

    impl FileId {
        /// The standard library knows no stable identity of a file here: every path names what it named before.
        pub(in super::super) fn of(_found: &Metadata) -> Self {
            Self { device: 0, inode: 0 }
        }
    }

    pub(in super::super) fn foreign_owner(_found: &Metadata) -> Option<(u32, u32)> {
        None
    }

    pub(in super::super) fn set_mode(_file: &File, _mode: u32) -> io::Result<()> {
        Ok(())
    }

    pub(in super::super) fn wider(_: &Metadata, _: u32) -> Option<u32> {
        None
    }

    pub(in super::super) fn create_directory(path: &Path, _mode: u32) -> io::Result<()> {
        std::fs::create_dir_all(path)
    }

    pub(in super::super) fn refuse_open_directory(_: &Path, _: &Metadata) -> Result<(), PersistenceError> {
        Ok(())
    }

    pub(in super::super) fn adopt_group(_file: &File, _old: &Metadata) -> io::Result<()> {
        Ok(())
    }

    pub(in super::super) fn is_alive(_pid: u32) -> bool {
        true
    }
}

pub(super) use self::platform::{
    adopt_group, create_directory, foreign_owner, is_alive, refuse_open_directory, set_mode, wider,
};
