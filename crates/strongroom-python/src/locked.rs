//! A persistence under a lock file of the caller's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom::{
    BoxFuture, Error, Fence, Loaded, Location, Persistence, Protection, Revision, Saved, SecretBytes,
};

/// A persistence that is used under another lock file of the peers than its own.
#[derive(Debug)]
pub(crate) struct Locked {
    pub(crate) inner: Arc<dyn Persistence>,
    /// `None` for what no other program knows.
    pub(crate) lock_path: Option<PathBuf>,
}

impl Persistence for Locked {
    fn lock_path(&self) -> Option<PathBuf> {
        self.lock_path.clone()
    }

    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        self.inner.load()
    }

    fn look_through<'a>(
        &'a self,
        reader: &'a mut (dyn FnMut(&[u8]) -> usize + Send),
    ) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
        self.inner.look_through(reader)
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        self.inner.save(bytes, expected, fence)
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.inner.remove()
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        self.inner.is_current(revision)
    }

    fn set_aside<'a>(&'a self, expected: &'a Revision) -> BoxFuture<'a, Result<Option<String>, Error>> {
        self.inner.set_aside(expected)
    }

    fn beside(&self, path: &Path) -> Result<Box<dyn Persistence>, Error> {
        self.inner.beside(path)
    }

    fn lock_mode(&self) -> u32 {
        self.inner.lock_mode()
    }

    fn location(&self) -> Location {
        self.inner.location()
    }

    fn protection(&self) -> Protection {
        self.inner.protection()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}
