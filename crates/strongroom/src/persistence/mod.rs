//! Where one whole cache document lives: bytes in, bytes out, and whether they have changed since.
//!
//! This layer owns files, permissions, atomic replacement, the lock across processes and the freshness probe.
//! It must not know what the bytes mean: parsing is `schema`'s, and what to do about a conflict is `store`'s. Only a
//! migration asks `schema` whether it has a cache before it, because what is none must not be moved.

#[macro_use]
mod forward;

mod access;
mod atomic;
mod diagnose;
#[cfg(windows)]
mod dpapi;
mod error;
mod file;
mod file_system;
pub(crate) mod flight;
mod key_files;
mod key_of;
#[cfg(target_os = "macos")]
mod keychain;
mod left_over;
pub(crate) mod lock;
mod lost;
mod memory;
mod migrate;
mod other_tools;
mod probe;
mod quarantine;
mod revision;
mod sealed;
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
mod secret_service;
mod select;
// Of keyrings alone.
#[cfg_attr(not(any(target_os = "macos", all(feature = "secret-service", unix))), allow(dead_code))]
mod signal;

use std::fmt;
use std::path::{Path, PathBuf};

pub use self::atomic::Step;
pub use self::diagnose::{Finding, FindingStatus};
#[cfg(windows)]
pub use self::dpapi::FilePersistenceWithDataProtection;
pub use self::error::{Holder, PersistenceError};
pub use self::file::{FilePersistence, FilePersistenceBuilder};
pub use self::key_of::{KeyFound, key_of};
#[cfg(target_os = "macos")]
pub use self::keychain::{KeychainPersistence, KeychainPersistenceBuilder};
pub use self::left_over::{left_over, sweep_left_over};
pub use self::lock::CrossPlatLock;
pub use self::lost::remove_lost;
pub use self::memory::MemoryPersistence;
pub use self::migrate::{Migrated, Migration, migrate, rewrite};
pub use self::other_tools::{OtherCache, OtherTool, other_caches};
pub use self::revision::Revision;
pub use self::sealed::SealedPersistence;
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
pub use self::secret_service::{SecretServicePersistence, SecretServicePersistenceBuilder};
pub use self::select::{
    Choice, ChosenPersistence, Kind, PersistenceBuilder, builder, create_key_file, encrypted,
    key_source_for_new, key_source_to_look_at, open, sealed_with, write_key_file,
};
pub use crate::seal::Protection;
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// A place where one cache document lives: a file, an item of a keyring.
///
/// Implementations keep bytes; they neither parse nor lock. A read-modify-write runs under the cross-process lock,
/// which [`DocumentStore`](crate::DocumentStore) takes.
pub trait Persistence: fmt::Debug + Send + Sync {
    /// The document as it is now, with the revision that [`save`](Self::save) and
    /// [`is_current`](Self::is_current) compare with. Nothing there is an empty document, not an error.
    ///
    /// Takes no lock, so it may read what a peer has half written.
    ///
    /// # Errors
    /// What lies there cannot be read, or is larger than the implementation's limit.
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>>;

    /// Shows the document to `reader` piece by piece, which costs less than loading it where it is large, and says at
    /// which revision that was. `None`: nothing is to be concluded from what the reader saw, and whoever wants to know
    /// loads the document. So say those who cannot do this, which is the default.
    ///
    /// `reader` is given what it has not done with yet and what follows it, and returns how many bytes of that it has
    /// done with. One that gets nowhere is not asked again.
    ///
    /// # Errors
    /// As for [`load`](Self::load).
    fn look_through<'a>(
        &'a self,
        reader: &'a mut (dyn FnMut(&[u8]) -> usize + Send),
    ) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
        let _ = reader;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// Replaces the document as a whole, durably, if it is still at revision `expected`.
    ///
    /// Everything is prepared first; then, immediately before the point of no return, `fence` is asked whether
    /// the lock is still ours and the revision is compared. A reader sees the old document or the new one. What is done
    /// after that, to make it durable, may be done without the lock: `fence` can be told so.
    ///
    /// # Errors
    /// The document could not be written; the old one is still there. (If all but the last step of making it
    /// durable was done, the new one is, and may be lost in a crash.)
    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>>;

    /// Removes the document. That there is none is no error.
    ///
    /// # Errors
    /// It is there and cannot be removed.
    fn remove(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// Whether the document is still the one that was loaded or saved as `revision`. Cheap: it is asked at every
    /// look-up.
    ///
    /// # Errors
    /// The location cannot be looked at.
    fn is_current(&self, revision: &Revision) -> Result<bool, Error>;

    /// Moves a document that cannot be read out of the way, if it is still at revision `expected`, and says
    /// where it is now. `None` if this kind of persistence cannot do that or the document has changed.
    ///
    /// # Errors
    /// It could not be moved.
    fn set_aside<'a>(&'a self, expected: &'a Revision) -> BoxFuture<'a, Result<Option<String>, Error>> {
        let _ = expected;
        Box::pin(std::future::ready(Ok(None)))
    }

    /// A small document of this library's own that goes with this one, at `path`, protected as this one is. By
    /// default a plain file with the permissions of this document's lock files.
    ///
    /// # Errors
    /// There can be no such document.
    fn beside(&self, path: &Path) -> Result<Box<dyn Persistence>, Error> {
        let file = FilePersistence::builder(path).mode(self.lock_mode()).peers_lock(false);
        Ok(Box::new(file.max_size(LARGEST_BESIDE).build()?))
    }

    /// The lock file that programs of other languages use for this document (`<location>.lockfile`), or `None`
    /// if no other program uses it.
    fn lock_path(&self) -> Option<PathBuf>;

    /// The permission bits of lock files that are created for this document: 0600, or 0660 where a group shares
    /// the document. A persistence that wraps another one passes this on.
    fn lock_mode(&self) -> u32 {
        0o600
    }

    /// Where the document is.
    fn location(&self) -> Location;

    /// How well the document is protected where it lies.
    fn protection(&self) -> Protection;

    /// The kind of persistence, as `--persistence` spells it: `file`, `sealed`, `secret-service`, …
    fn kind(&self) -> &'static str;
}

/// What lies beside a document is small by nature.
const LARGEST_BESIDE: u64 = 4 * 1024 * 1024;

/// What [`Persistence::load`] found.
#[derive(Debug)]
pub struct Loaded {
    /// The document; empty if there is none.
    pub bytes: SecretBytes,
    /// Its revision.
    pub revision: Revision,
}

/// What became of [`Persistence::save`].
#[derive(Debug)]
pub enum Saved {
    /// The document is stored, at this revision.
    Saved(Revision),
    /// Somebody else has changed the document or taken the lock. Nothing was written: load again, apply the
    /// change again.
    Conflict,
}

/// Where a document is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A file. Side files of ours (`.lock`, `.state`) lie beside it.
    File(PathBuf),
    /// Something without a path, an item of a keyring say, in words.
    Item(String),
    /// The memory of this process.
    Memory,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Item(name) => name.fmt(f),
            Self::Memory => f.write_str("memory"),
        }
    }
}

/// Says whether the lock that a write began under is still held, and is told when it is not needed any more. See
/// [`Persistence::save`].
pub struct Fence<'a> {
    still_ours: &'a (dyn Fn() -> bool + Sync),
    replaced: &'a (dyn Fn(&Revision) + Sync),
}

impl<'a> Fence<'a> {
    /// A fence that asks `still_ours`.
    pub fn new(still_ours: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Self { still_ours, replaced: &|_| {} }
    }

    /// A fence that always holds: for a document that nobody else writes.
    #[must_use]
    pub fn open() -> Fence<'static> {
        Fence::new(&|| true)
    }

    /// Has `replaced` called as soon as the lock is not needed any more, with the revision of the new document. A
    /// persistence that cannot tell that before it is done does not call it.
    #[must_use]
    pub fn on_replaced(self, replaced: &'a (dyn Fn(&Revision) + Sync)) -> Self {
        Self { replaced, ..self }
    }

    /// Whether the lock is still ours.
    #[must_use]
    pub fn holds(&self) -> bool {
        (self.still_ours)()
    }

    /// Says that the new document, which is to be `revision`, is where everybody finds it, and that what is left to be
    /// done makes it durable and needs no lock. For implementations of [`Persistence::save`].
    pub fn replaced(&self, revision: &Revision) {
        (self.replaced)(revision);
    }
}

impl fmt::Debug for Fence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fence")
    }
}
