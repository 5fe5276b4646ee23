//! Handing on: a persistence in a box, behind a reference, or shared, is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BoxFuture, Fence, Loaded, Location, Persistence, Protection, Revision, Saved};
use crate::{Error, SecretBytes};

/// The methods of a [`Persistence`] that hands everything on to another one.
macro_rules! forward_persistence {
    ($this:ident => $inner:expr) => {
        fn load(&$this) -> BoxFuture<'_, Result<Loaded, Error>> {
            $inner.load()
        }

        fn look_through<'a>(
            &'a $this,
            reader: &'a mut (dyn FnMut(&[u8]) -> usize + Send),
        ) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
            $inner.look_through(reader)
        }

        fn save<'a>(
            &'a $this,
            bytes: &'a SecretBytes,
            expected: &'a Revision,
            fence: &'a Fence<'a>,
        ) -> BoxFuture<'a, Result<Saved, Error>> {
            $inner.save(bytes, expected, fence)
        }

        fn remove(&$this) -> BoxFuture<'_, Result<(), Error>> {
            $inner.remove()
        }

        fn is_current(&$this, revision: &Revision) -> Result<bool, Error> {
            $inner.is_current(revision)
        }

        fn set_aside<'a>(&'a $this, expected: &'a Revision) -> BoxFuture<'a, Result<Option<String>, Error>> {
            $inner.set_aside(expected)
        }

        fn beside(&$this, path: &Path) -> Result<Box<dyn Persistence>, Error> {
            $inner.beside(path)
        }

        fn lock_path(&$this) -> Option<PathBuf> {
            $inner.lock_path()
        }

        fn lock_mode(&$this) -> u32 {
            $inner.lock_mode()
        }

        fn location(&$this) -> Location {
            $inner.location()
        }

        fn protection(&$this) -> Protection {
            $inner.protection()
        }

        fn kind(&$this) -> &'static str {
            $inner.kind()
        }
    };
}

impl<P: Persistence + ?Sized> Persistence for Box<P> {
    forward_persistence!(self => (**self));
}

impl<P: Persistence + ?Sized> Persistence for Arc<P> {
    forward_persistence!(self => (**self));
}

impl<P: Persistence + ?Sized> Persistence for &P {
    forward_persistence!(self => (**self));
}
