//! What can go wrong where documents and locks are files, and what to do about it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Kind;
use crate::ErrorKind;
use crate::error::{Diagnose, shell_word};

/// Why a document could not be read, written or locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PersistenceError {
    /// Another process (or another task of this one) holds the lock and did not leave in time.
    #[error("the lock {} is held by {holder}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, as far as the lock file says.
        holder: Holder,
    },
    /// Others changed the document each time it was about to be replaced.
    #[error("{location} was changed by others {attempts} times while it was being written")]
    Contended {
        /// The document.
        location: String,
        /// How often the change was applied to a newer document.
        attempts: u32,
    },
    /// The document is larger than the limit.
    #[error("{} is too large: {size} bytes, the limit is {limit}", path.display())]
    TooLarge {
        /// The document.
        path: PathBuf,
        /// Its size in bytes, or the least that it must have.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Something that is not a regular file lies where a file is expected.
    #[error("{} is {found}, not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is: "a directory", "a named pipe (FIFO)", …
        found: &'static str,
    },
    /// Programs in Java lock with this file and delete it, and something else lies there.
    #[error("{} is what programs in Java lock with, and here it is something else", path.display())]
    NotAJavaLockFile {
        /// The path.
        path: PathBuf,
    },
    /// A keyring's signal file is expected, which is empty or `{}`, and something else lies there.
    #[error("{} is not the signal file of a keyring: it has content", path.display())]
    NotASignalFile {
        /// The path.
        path: PathBuf,
    },
    /// A file is wanted, and a cache that lies in a keyring has its signal file there.
    #[error("{} is the signal file of a cache that is kept as {kind}", path.display())]
    SignalFileThere {
        /// The path.
        path: PathBuf,
        /// How the cache is kept.
        kind: Kind,
    },
    /// The operating system does not let this user do that.
    #[error("cannot {action} {}: {source}", path.display())]
    PermissionDenied {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file belongs to another user.
    #[error("{} belongs to user {owner}, this process runs as user {user}", path.display())]
    WrongOwner {
        /// The file.
        path: PathBuf,
        /// The numeric id of its owner.
        owner: u32,
        /// The numeric id of the effective user of this process.
        user: u32,
    },
    /// Everybody can put files into the directory, and it is not sticky.
    #[error("the directory {} can be written by everybody (mode {mode:04o})", path.display())]
    UnsafeDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The path is a symbolic link that is not followed.
    #[error("{} is a symbolic link {reason}", path.display())]
    UnsafeLink {
        /// The link.
        path: PathBuf,
        /// Why it is not followed.
        reason: String,
    },
    /// The file is a mount point of its own, so a new file cannot be renamed over it.
    #[error("{} cannot be replaced, it is mounted alone: {source}", path.display())]
    MountedAlone {
        /// The document.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file system is mounted read-only.
    #[error("cannot {action} {}: {source}", path.display())]
    ReadOnly {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no space left, or the quota is used up.
    #[error("cannot {action} {}: {source}", path.display())]
    DiskFull {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The peers' lock path is a file that Strongroom uses for something else.
    #[error("{} cannot be the lock file of {}: it is {role}", path.display(), document.display())]
    LockPathTaken {
        /// The lock path that was asked for.
        path: PathBuf,
        /// The document that it was to lock.
        document: PathBuf,
        /// What the path is already used for.
        role: &'static str,
    },
    /// The path cannot name a file.
    #[error("{:?} is not the path of a file", path.display().to_string())]
    InvalidPath {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The permissions that were asked for do not fit a file of secrets.
    #[error("mode {mode:04o} does not fit a cache")]
    InvalidMode {
        /// The permission bits.
        mode: u32,
    },
    /// This program was built without this kind of persistence, or for another platform.
    #[error("the persistence {kind} is not part of this build: it needs {needs}")]
    NotInThisBuild {
        /// What was asked for.
        kind: Kind,
        /// The feature of the crate, or the platform, that has it.
        needs: &'static str,
    },
    /// Any other failure of the file system.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl PersistenceError {
    /// The variant that fits what the operating system said.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { action, path, source },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { action, path, source },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { action, path, source }
            }
            _ => Self::Io { action, path, source },
        }
    }
}

impl Diagnose for PersistenceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Contended { .. } => ErrorKind::Contended,
            Self::TooLarge { .. }
            | Self::NotAFile { .. }
            | Self::NotAJavaLockFile { .. }
            | Self::NotASignalFile { .. }
            | Self::SignalFileThere { .. } => ErrorKind::Unusable,
            Self::LockPathTaken { .. }
            | Self::InvalidPath { .. }
            | Self::InvalidMode { .. }
            | Self::NotInThisBuild { .. } => ErrorKind::Configuration,
            Self::PermissionDenied { .. }
            | Self::WrongOwner { .. }
            | Self::UnsafeDirectory { .. }
            | Self::UnsafeLink { .. }
            | Self::MountedAlone { .. }
            | Self::ReadOnly { .. }
            | Self::DiskFull { .. }
            | Self::Io { .. } => ErrorKind::Storage,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Locked { .. } => "locked",
            Self::Contended { .. } => "contended",
            Self::TooLarge { .. } => "too_large",
            Self::NotAFile { .. } => "not_a_file",
            Self::NotAJavaLockFile { .. } => "not_a_lock_file",
            Self::NotASignalFile { .. } => "not_a_signal_file",
            Self::SignalFileThere { .. } => "signal_file_there",
            Self::PermissionDenied { .. } => "permission_denied",
            Self::WrongOwner { .. } => "wrong_owner",
            Self::UnsafeDirectory { .. } => "unsafe_directory",
            Self::UnsafeLink { .. } => "unsafe_link",
            Self::MountedAlone { .. } => "mounted_alone",
            Self::ReadOnly { .. } => "read_only",
            Self::DiskFull { .. } => "disk_full",
            Self::LockPathTaken { .. } => "lock_path_taken",
            Self::InvalidPath { .. } => "invalid_path",
            Self::InvalidMode { .. } => "invalid_mode",
            Self::NotInThisBuild { .. } => "feature_missing",
            Self::Io { .. } => "io_error",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Locked { holder: Holder { pid: Some(pid), .. }, .. } => Cow::Owned(format!(
                "wait until process {pid} is done, or allow a longer lock timeout; if the process hangs, end it"
            )),
            Self::Locked { .. } => Cow::Borrowed(
                "wait until the program that holds the lock is done, or allow a longer lock timeout",
            ),
            Self::Contended { .. } => Cow::Borrowed(
                "try again; if it persists, look for a program that writes this cache in a loop or deletes its lock file",
            ),
            Self::TooLarge { .. } => Cow::Borrowed(
                "check that this is a token cache; move it away to start with an empty one, or raise the size limit",
            ),
            Self::NotAFile { .. } => Cow::Borrowed("choose a path that names a regular file or nothing yet"),
            Self::NotAJavaLockFile { .. } => Cow::Borrowed(
                "move the file away, or put the cache into a directory of its own: programs in Java overwrite and delete \
                 what is called so",
            ),
            Self::NotASignalFile { .. } => Cow::Borrowed(
                "choose another location: a cache that lies in a keyring has an empty file there, and this one may be \
                 a cache itself",
            ),
            Self::SignalFileThere { path, kind } => Cow::Owned(format!(
                "use it with --persistence {kind}, or move it into a file with 'strongroom migrate --cache {} --to sealed \
                 --new-location PATH'; it was not touched",
                shell_word(&path.display())
            )),
            Self::PermissionDenied { path, .. } => Cow::Owned(format!(
                "give this user read and write access to {} and its directory, or choose another location",
                path.display()
            )),
            Self::WrongOwner { owner, .. } => Cow::Owned(format!(
                "run as user {owner}, give the file to this user with chown, or choose a location of your own"
            )),
            Self::UnsafeDirectory { path, .. } => Cow::Owned(format!(
                "run 'chmod o-w {}', or choose another directory",
                shell_word(&path.display())
            )),
            Self::UnsafeLink { .. } => {
                Cow::Borrowed("use the path of the file itself, or a link that belongs to this user")
            }
            Self::MountedAlone { .. } => {
                Cow::Borrowed("mount the directory that contains the cache instead of the file alone")
            }
            Self::ReadOnly { .. } => Cow::Borrowed("choose a location on a file system that can be written"),
            Self::DiskFull { .. } => Cow::Borrowed("free some space, or raise the quota"),
            Self::LockPathTaken { .. } => Cow::Borrowed(
                "leave the lock path at its default, the document's path with .lockfile appended",
            ),
            Self::InvalidPath { .. } => {
                Cow::Borrowed("give the path of a file, such as /var/lib/app/token_cache.bin")
            }
            Self::InvalidMode { .. } => Cow::Borrowed(
                "use 0600, or 0660 for a shared group; others than owner and group get no access",
            ),
            Self::NotInThisBuild { .. } => {
                Cow::Borrowed("choose another persistence: auto and sealed are everywhere")
            }
            Self::Io { .. } => Cow::Borrowed("check the path and the health of its file system"),
        })
    }
}

/// Who holds a lock, as far as the lock file tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Its process id. In a container this may be a number of another process namespace.
    pub pid: Option<u32>,
    /// The program's name.
    pub program: Option<String>,
    /// For how long the lock file has been in its hands.
    pub age: Option<Duration>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) if pid == std::process::id() => write!(f, "this process, {pid}")?,
            Some(pid) => write!(f, "process {pid}")?,
            None => f.write_str("another program")?,
        }
        if let Some(program) = &self.program {
            write!(f, " ({program})")?;
        }
        match self.age {
            Some(age) => write!(f, " for {} s", age.as_secs()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn a_locked_error_names_the_path_the_process_the_program_and_the_age() {
        let holder = Holder {
            pid: Some(4711),
            program: Some("python daemon.py".into()),
            age: Some(Duration::from_secs(12)),
        };
        let error = Error::from(PersistenceError::Locked { path: "/c/cache.bin.lockfile".into(), holder });
        assert_eq!(
            error.to_string(),
            "the lock /c/cache.bin.lockfile is held by process 4711 (python daemon.py) for 12 s"
        );
        assert_eq!((error.kind(), error.code()), (ErrorKind::Locked, "locked"));
        assert!(error.is_retryable());
        assert!(error.remedy().expect("a remedy").contains("4711"));
    }

    #[test]
    fn what_the_operating_system_says_chooses_the_variant() {
        let code = |kind: io::ErrorKind| {
            Error::from(PersistenceError::io("write", Path::new("/c"), kind.into())).code().to_owned()
        };
        assert_eq!(code(io::ErrorKind::StorageFull), "disk_full");
        assert_eq!(code(io::ErrorKind::QuotaExceeded), "disk_full");
        assert_eq!(code(io::ErrorKind::ReadOnlyFilesystem), "read_only");
        assert_eq!(code(io::ErrorKind::PermissionDenied), "permission_denied");
        assert_eq!(code(io::ErrorKind::Other), "io_error");
    }
}
