//! The state folder's files: owner-only, replaced in one step, under one lock while a provider
//! starts. Knows nothing of what they hold.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::error::StsError;

/// A state folder that exists, is ours and has an absolute UTF-8 path.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
}

impl StateFolder {
    /// Opens the folder, making it (0700) if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, StsError> {
        if path.as_os_str().is_empty() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the path is empty");
            return Err(StsError::io("use", path)(source));
        }
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(StsError::io("create", path))?;
        let path = fs::canonicalize(path).map_err(StsError::io("resolve", path))?;
        if path.to_str().is_none() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the path is not UTF-8");
            return Err(StsError::io("use", &path)(source));
        }
        let folder = Self { path };
        folder.close_to_others()?;
        Ok(folder)
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Excludes other providers that start in this folder until the guard is dropped, so that two
    /// first starts at once make one provider, not half of each.
    pub(crate) fn lock(&self) -> Result<FolderLock, StsError> {
        let path = self.file(LOCK_FILE);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        owner_only(&mut options);
        let file = options.open(&path).map_err(StsError::io("open", &path))?;
        file.lock().map_err(StsError::io("lock", &path))?;
        Ok(FolderLock { file })
    }

    /// A file's text, `None` if there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, StsError> {
        let path = self.file(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StsError::io("read", &path)(e)),
        }
    }

    /// Replaces a file in one step, 0600.
    #[allow(clippy::disallowed_methods)] // this module is the crate's own place for it
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, StsError> {
        let path = self.file(name);
        let temporary = self.file(&format!(".{name}.{}", uuid::Uuid::new_v4().simple()));
        let replaced = write_new(&temporary, text).and_then(|()| fs::rename(&temporary, &path));
        if let Err(e) = replaced {
            // What is left behind would be a key in a file that nobody looks at.
            let _ = fs::remove_file(&temporary);
            return Err(StsError::io("write", &path)(e));
        }
        Ok(path)
    }

    /// Takes the folder from others. A folder that holds something else and is open to others is
    /// refused: to change the mode of somebody's working directory is not ours to do.
    #[cfg(unix)]
    fn close_to_others(&self) -> Result<(), StsError> {
        use std::os::unix::fs::PermissionsExt as _;

        let metadata = fs::metadata(&self.path).map_err(StsError::io("look at", &self.path))?;
        if metadata.permissions().mode() & 0o077 == 0 {
            return Ok(());
        }
        let mut entries = fs::read_dir(&self.path).map_err(StsError::io("list", &self.path))?;
        let ours = self.file(LOCK_FILE).exists() || entries.next().is_none();
        if !ours {
            return Err(StsError::FolderOpenToOthers { path: self.path.clone() });
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
            .map_err(StsError::io("restrict", &self.path))
    }

    /// Elsewhere the user's own folders are closed by inheritance.
    #[cfg(not(unix))]
    fn close_to_others(&self) -> Result<(), StsError> {
        Ok(())
    }
}

/// See [`StateFolder::lock`].
#[derive(Debug)]
pub(crate) struct FolderLock {
    file: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing would do, but not while a forked child still holds the descriptor.
        let _ = self.file.unlock();
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    owner_only(&mut options);
    let mut file = options.open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(unix)]
fn owner_only(options: &mut OpenOptions) {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
}

#[cfg(not(unix))]
fn owner_only(_options: &mut OpenOptions) {}

/// Also the mark by which a folder is known to be a provider's.
const LOCK_FILE: &str = ".strongroom-sts.lock";
