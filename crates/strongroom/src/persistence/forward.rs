//! Handing on: a persistence in a box, behind a reference, or shared, is one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BoxFuture, Fence, Loaded, Location, Persistence, Protection, Revision, Saved};
use crate::{Error, SecretBytes};

/// The methods of a [`Persistence`] that hands all of them on to another one, or those that are named.
macro_rules! forward_persistence {
    ($this:ident => $inner:expr) => {
        forward_persistence!($this => $inner; load, look_through, save, remove, is_current, set_aside, beside, lock_path,
            lock_mode, location, protection, kind);
    };
    ($this:ident => $inner:expr; $($method:ident),+) => {
        $(forward_persistence!(@$method $this $inner);)+
    };
    (@load $this:ident $inner:expr) => {
        fn load(&$this) -> BoxFuture<'_, Result<Loaded, Error>> {
            $inner.load()
        }
    };
    (@look_through $this:ident $inner:expr) => {
        fn look_through<'a>(
            &'a $this,
            reader: &'a mut (dyn FnMut(&[u8]) -> usize + Send),
        ) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
            $inner.look_through(reader)
        }
    };
    (@save $this:ident $inner:expr) => {
        fn save<'a>(
            &'a $this,
            bytes: &'a SecretBytes,
            expected: &'a Revision,
            fence: &'a Fence<'a>,
        ) -> BoxFuture<'a, Result<Saved, Error>> {
            $inner.save(bytes, expected, fence)
        }
    };
    (@remove $this:ident $inner:expr) => {
        fn remove(&$this) -> BoxFuture<'_, Result<(), Error>> {
            $inner.remove()
        }
    };
    (@is_current $this:ident $inner:expr) => {
        fn is_current(&$this, revision: &Revision) -> Result<bool, Error> {
            $inner.is_current(revision)
        }
    };
    (@set_aside $this:ident $inner:expr) => {
        fn set_aside<'a>(&'a $this, expected: &'a Revision) -> BoxFuture<'a, Result<Option<String>, Error>> {
            $inner.set_aside(expected)
        }
    };
    (@beside $this:ident $inner:expr) => {
        fn beside(&$this, path: &Path) -> Result<Box<dyn Persistence>, Error> {
            $inner.beside(path)
        }
    };
    (@lock_path $this:ident $inner:expr) => {
        fn lock_path(&$this) -> Option<PathBuf> {
            $inner.lock_path()
        }
    };
    (@lock_mode $this:ident $inner:expr) => {
        fn lock_mode(&$this) -> u32 {
            $inner.lock_mode()
        }
    };
    (@location $this:ident $inner:expr) => {
        fn location(&$this) -> Location {
            $inner.location()
        }
    };
    (@protection $this:ident $inner:expr) => {
        fn protection(&$this) -> Protection {
            $inner.protection()
        }
    };
    (@kind $this:ident $inner:expr) => {
        fn kind(&$this) -> &'static str {
            $inner.kind()
        }
    };
}

/// The methods of a [`Persistence`] whose document is an item of a keyring, with a signal file.
#[cfg(any(target_os = "macos", all(feature = "secret-service", unix)))]
macro_rules! item_of_a_keyring {
    ($this:ident, $kind:literal, $words:literal) => {
        fn load(&$this) -> BoxFuture<'_, Result<Loaded, Error>> {
            Box::pin($this.load_now())
        }

        fn save<'a>(
            &'a $this,
            bytes: &'a SecretBytes,
            expected: &'a Revision,
            fence: &'a Fence<'a>,
        ) -> BoxFuture<'a, Result<Saved, Error>> {
            Box::pin($this.save_now(bytes, expected, fence))
        }

        fn remove(&$this) -> BoxFuture<'_, Result<(), Error>> {
            Box::pin($this.remove_now())
        }

        fn is_current(&$this, revision: &Revision) -> Result<bool, Error> {
            Ok(revision.is_signalled_by(&$this.signal)?)
        }

        fn lock_path(&$this) -> Option<PathBuf> {
            Some($this.signal.lock_path())
        }

        fn location(&$this) -> Location {
            Location::Item(format!("{} of {}", $words, $this.signal.path().display()))
        }

        fn protection(&$this) -> Protection {
            Protection::OsStore
        }

        fn kind(&$this) -> &'static str {
            $kind
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
