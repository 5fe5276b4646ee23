//! A probe that is written as the document would be, read back and removed.

use std::io;
use std::path::{Path, PathBuf};

use super::locks::try_locks;
use super::{Doctor, Finding, Place};
use crate::persistence::access::{self, OWNER_ONLY};
use crate::persistence::{
    ChosenPersistence, Fence, FilePersistence, Persistence, PersistenceError, Saved, atomic,
};
use crate::wait::block_on;
use crate::{Error, SecretBytes};

impl Doctor {
    /// Writes, reads and removes a probe, and tries the locks on it. `has_key`: there is a key to seal it with.
    pub(super) fn write(&mut self, place: &Place, chosen: Option<&ChosenPersistence>, has_key: bool) {
        let directory = match existing(place.directory()) {
            Ok(directory) => directory,
            // Was told already.
            Err(_) => return,
        };
        // Of the name that a later write takes away, should this process be killed.
        let name = place.target.file_name().map(PathBuf::from).unwrap_or_default();
        let name = directory.join(name);
        let path = atomic::temporary_path(&name);
        let is_item = chosen.is_some_and(|chosen| chosen.choice().kind == "secret-service");
        let written = can_be_written(&directory).map_err(Error::from).and_then(|()| {
            if is_item {
                write_item(&atomic::temporary_path(&name))?;
            }
            write_probe(&path, chosen.filter(|_| has_key))?;
            Ok(match (is_item, has_key) {
                (true, _) => "probes were written beside the cache and to the keyring, read back and removed",
                (false, true) => "a probe was sealed, written, read back and removed",
                (false, false) => "a probe was written, read back and removed",
            })
        });
        let locked = written.is_ok().then(|| try_locks(&path));
        let removed =
            std::fs::remove_file(&path).map_err(|source| PersistenceError::io("remove", &path, source));
        let outcome = written.and_then(|what| Ok(removed.map(|()| what)?));
        self.push(match outcome {
            Ok(what) => Finding::ok("write", what),
            Err(error) => Finding::of_error("write", &error),
        });
        self.findings.extend(locked);
    }
}

/// The nearest directory that is there.
pub(super) fn existing(directory: &Path) -> Result<PathBuf, PersistenceError> {
    let mut directory = directory;
    loop {
        match std::fs::metadata(directory) {
            Ok(found) if found.is_dir() => return Ok(directory.to_owned()),
            Ok(_) => {
                let source = io::ErrorKind::NotADirectory.into();
                return Err(PersistenceError::io("use the directory", directory, source));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
                directory = parent.unwrap_or(Path::new("."));
            }
            Err(source) => return Err(PersistenceError::io("look at the directory", directory, source)),
        }
    }
}

/// Whether a file can be made in this directory, or in the nearest one that is there.
pub(super) fn can_be_written(directory: &Path) -> Result<(), PersistenceError> {
    let directory = existing(directory)?;
    access::check_directory(&directory)?;
    let path = atomic::temporary_path(&directory.join("strongroom"));
    access::create_new(&path, OWNER_ONLY)
        .map_err(|source| PersistenceError::io("create a file in", &directory, source))?;
    std::fs::remove_file(&path).map_err(|source| PersistenceError::io("remove", &path, source))
}

/// Writes a probe as the document would be written, and reads it again; without `sealing` as a plain file.
fn write_probe(path: &Path, sealing: Option<&ChosenPersistence>) -> Result<(), Error> {
    match sealing {
        Some(chosen) => there_and_back(&*chosen.beside(path)?, path),
        None => {
            let file = FilePersistence::builder(path).peers_lock(false).only_looks(true).build()?;
            there_and_back(&file, path)
        }
    }
}

/// Writes an item to the keyring, reads it and removes it: one of a schema of its own, which nobody finds who looks for
/// a cache.
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
fn write_item(path: &Path) -> Result<(), Error> {
    let item = crate::persistence::SecretServicePersistence::builder(path)
        .schema_name("strongroom.probe")
        .attribute("probe", path.to_string_lossy())
        .label("a probe of strongroom, to be deleted")
        .prompt(false)
        .build()?;
    let written = there_and_back(&item, path);
    let removed = block_on(item.remove());
    let _ = std::fs::remove_file(path);
    written.and(removed)
}

#[cfg(not(all(feature = "secret-service", unix, not(target_vendor = "apple"))))]
fn write_item(_path: &Path) -> Result<(), Error> {
    Ok(())
}

fn there_and_back(probe: &dyn Persistence, path: &Path) -> Result<(), Error> {
    let content = SecretBytes::from(b"{\"probe\":\"written by a diagnosis\"}".to_vec());
    // A keyring knows an item that is not there by its empty content.
    let nothing = block_on(probe.load())?.revision;
    match block_on(probe.save(&content, &nothing, &Fence::open()))? {
        Saved::Saved(_) if block_on(probe.load())?.bytes == content => Ok(()),
        Saved::Saved(_) | Saved::Conflict => {
            let source = io::Error::other("it does not read back as it was written");
            Err(PersistenceError::io("write", path, source).into())
        }
    }
}
