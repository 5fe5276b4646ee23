//! What lies beside a document without being part of it, and may hold tokens.

use std::path::{Path, PathBuf};

use super::{PersistenceError, access, atomic, file, quarantine};
use crate::Error;

/// What lies beside the document at `path` and may hold tokens: documents that were set aside as damaged, those that a
/// migration kept, and what writers left that were killed. Sorted.
///
/// # Errors
/// `Storage`: the links that lead to it cannot be followed, or its directory cannot be read.
pub fn left_over(path: impl AsRef<Path>) -> Result<Vec<PathBuf>, Error> {
    let (target, _) = access::resolve_links(&file::absolute(path.as_ref())?)?;
    let directory = access::directory_of(&target);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(PersistenceError::io("list the directory", directory, source).into()),
    };
    let stem = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let is_one = |name: &std::ffi::OsStr| {
        let marked = |name: &str| {
            let rest = name.strip_prefix(&stem);
            rest.is_some_and(|rest| rest.starts_with(quarantine::MARK) || rest.starts_with(KEPT))
        };
        atomic::is_temporary_name(&target, name) || name.to_str().is_some_and(marked)
    };
    let mut found: Vec<PathBuf> =
        entries.flatten().filter(|entry| is_one(&entry.file_name())).map(|entry| entry.path()).collect();
    found.sort_unstable();
    Ok(found)
}

/// Removes what writers of the document at `path` left that were killed, as the next write would. What may belong to a
/// living one stays.
///
/// # Errors
/// `Storage`: the links that lead to it cannot be followed.
pub fn sweep_left_over(path: impl AsRef<Path>) -> Result<(), Error> {
    let (target, _) = access::resolve_links(&file::absolute(path.as_ref())?)?;
    atomic::sweep(&target);
    Ok(())
}

/// What follows the name of a document that a migration kept.
pub(super) const KEPT: &str = ".old-";
