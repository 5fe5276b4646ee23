//! Where credentials live one by one.
//!
//! This layer owns reading and changing credentials by identity, with a revision for each record and conditional
//! writes. It must not know which token answers a request or when one is too old: that is `cache`'s.

mod document;
mod memory;

use std::fmt;
use std::path::PathBuf;

pub use self::document::{DocumentStore, DocumentStoreBuilder};
pub use self::memory::MemoryStore;
use crate::Error;
use crate::persistence::{BoxFuture, Location, Protection};
use crate::schema::{Change, Credential, CredentialKey, Partition, RecordRevision};

/// A store of credentials: memory, a cache document, later a database.
pub trait CredentialStore: fmt::Debug + Send + Sync {
    /// The credential with this identity, if there is one. Of several with the same identity the newest.
    ///
    /// # Errors
    /// The store cannot be read.
    fn get<'a>(&'a self, key: &'a CredentialKey) -> BoxFuture<'a, Result<Option<Record>, Error>>;

    /// All credentials of a partition, in no particular order.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list<'a>(&'a self, partition: &'a Partition) -> BoxFuture<'a, Result<Vec<Record>, Error>>;

    /// Makes `change` as one step, durably where the store is durable, replaying it on the newest state if
    /// somebody else was faster.
    ///
    /// # Errors
    /// The change could not be made; the store is as it was.
    fn apply<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Outcome, Error>>;

    /// A number that stays the same only while no record has changed. Cheap and synchronous: it is asked at every
    /// look-up. `None` if the store would have to be read to know.
    ///
    /// # Errors
    /// The store cannot be looked at.
    fn generation(&self) -> Result<Option<u64>, Error>;

    /// Where the store is and how well it is protected.
    fn info(&self) -> StoreInfo;

    /// Where the library may keep its own small file of remembered facts (`<location>.state`), if anywhere.
    fn state_path(&self) -> Option<PathBuf> {
        None
    }
}

/// A credential and the revision of its record.
#[derive(Debug, Clone)]
pub struct Record {
    /// The credential.
    pub credential: Credential,
    /// Changes whenever the record does.
    pub revision: RecordRevision,
}

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was made.
    Applied {
        /// Expired access tokens that were removed with it.
        swept: usize,
    },
    /// The record with this key is not as the change expected; nothing was done.
    Lost(CredentialKey),
}

/// Where a store is and how well it is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreInfo {
    /// Where it is.
    pub location: Location,
    /// Its kind, as `--persistence` spells it.
    pub kind: &'static str,
    /// How well it is protected at rest.
    pub protection: Protection,
}
