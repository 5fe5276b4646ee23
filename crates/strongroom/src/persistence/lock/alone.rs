//! The peers' lock file by itself, for programs that lock what they do to a document or around it.

use std::path::PathBuf;
use std::time::Duration;

use super::lockfile::{self, PeersLock};
use crate::Error;
use crate::persistence::access::OWNER_ONLY;
use crate::time::Deadline;

/// The lock file that MSAL Python, Node, Go and .NET take around a change of a document (`<location>.lockfile`), held
/// until this is dropped, and then deleted.
///
/// [`DocumentStore`](crate::DocumentStore) takes it for every change by itself. It does not count who holds it: whoever
/// has it and asks for it once more waits for himself.
#[derive(Debug)]
pub struct CrossPlatLock(#[allow(dead_code)] PeersLock);

impl CrossPlatLock {
    /// Takes the lock file at `path`, at the first poll if nobody has it, and gives up when `timeout` has passed. What a
    /// program left behind that has ended is taken over. The directory must be there.
    ///
    /// A future that is dropped leaves nothing locked.
    ///
    /// # Errors
    /// `Locked`: somebody held it all the time. `Storage`: the lock file cannot be used. `Configuration`: the path
    /// cannot name a file.
    pub async fn acquire(path: impl Into<PathBuf>, timeout: Duration) -> Result<Self, Error> {
        let path = crate::persistence::file::absolute(&path.into())?;
        Ok(Self(lockfile::acquire(&path, OWNER_ONLY, Deadline::after(timeout)).await?))
    }
}
