//! A document in memory: for tests, and to build other persistences from.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{BoxFuture, Fence, Loaded, Location, Persistence, Protection, Revision, Saved};
use crate::{Error, SecretBytes};

/// Keeps one document in the memory of this process.
#[derive(Debug, Default)]
pub struct MemoryPersistence(Mutex<Contents>);

#[derive(Debug, Default)]
struct Contents {
    bytes: SecretBytes,
    version: u64,
}

impl MemoryPersistence {
    /// An empty document.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A document with this content.
    #[must_use]
    pub fn with_content(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Mutex::new(Contents { bytes: SecretBytes::from(bytes.into()), version: 1 }))
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Both fields are always written together, and nothing in between can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, bytes: &[u8], expected: &Revision, fence: &Fence<'_>) -> Saved {
        let mut contents = self.contents();
        if !fence.holds() || Revision::of_version(contents.version) != *expected {
            return Saved::Conflict;
        }
        contents.bytes = SecretBytes::from(bytes.to_vec());
        contents.version += 1;
        Saved::Saved(Revision::of_version(contents.version))
    }
}

impl Persistence for MemoryPersistence {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        let contents = self.contents();
        let loaded = Loaded {
            bytes: SecretBytes::from(contents.bytes.expose().to_vec()),
            revision: Revision::of_version(contents.version),
        };
        Box::pin(std::future::ready(Ok(loaded)))
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        Box::pin(std::future::ready(Ok(self.replace(bytes.expose(), expected, fence))))
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        let mut contents = self.contents();
        contents.bytes = SecretBytes::default();
        contents.version += 1;
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        Ok(Revision::of_version(self.contents().version) == *revision)
    }

    fn lock_path(&self) -> Option<PathBuf> {
        None
    }

    fn location(&self) -> Location {
        Location::Memory
    }

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn kind(&self) -> &'static str {
        "memory"
    }
}
