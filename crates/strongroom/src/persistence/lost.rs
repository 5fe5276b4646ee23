//! A sealed document whose key is lost: nobody can ever read it, so all that can be done is to remove it.

use std::path::PathBuf;
use std::time::Duration;

use super::file::Making;
use super::lock::{DocumentLock, LockPaths, OUR_SUFFIX};
use super::{FilePersistence, Persistence as _, access, builder, file};
use crate::Error;
use crate::seal::{KEY_LOST, KeySelector};
use crate::wait::block_on;

/// Removes the document at `path` if the key that sealed it is lost for good, and what is remembered beside it. Says
/// whether it did: somebody may have begun a new one meanwhile.
///
/// `key_source`: the only place where the key is looked for. `lock_timeout`: how long to wait for the lock.
///
/// # Errors
/// It cannot be said that the key is lost (`unknown_key`: somebody else may have it). `Locked`, `Storage`.
pub fn remove_lost(
    path: impl Into<PathBuf>,
    key_source: Option<KeySelector>,
    lock_timeout: Duration,
) -> Result<bool, Error> {
    let path = file::absolute(&path.into())?;
    let (target, found) = access::resolve_links(&path)?;
    let making = Making::as_of(&target, found);
    let lock = LockPaths::ours(Some(access::with_suffix(&path, OUR_SUFFIX)), making.mode);
    let _lock = block_on(DocumentLock::acquire(&lock, lock_timeout))?;
    let mut opened = builder(&path).keep_lost().made(making.clone());
    if let Some(selector) = key_source {
        opened = opened.key_source(selector);
    }
    match opened.open() {
        Ok(_) => return Ok(false),
        Err(error) if error.code() == KEY_LOST => {}
        Err(error) => return Err(error),
    }
    let document = FilePersistence::builder(&path).made(making).peers_lock(false).build()?;
    block_on(document.remove())?;
    block_on(document.beside(&access::with_suffix(&path, ".state"))?.remove())?;
    Ok(true)
}
