//! Where credentials live one by one.
//!
//! This layer owns reading and changing credentials by identity, with a revision for each record and conditional
//! writes. It must not know which token answers a request or when one is too old: that is `cache`'s.

mod document;
mod memory;
mod shared;

use std::fmt;
use std::time::Duration;

pub use self::document::{DocumentStore, DocumentStoreBuilder};
pub use self::memory::MemoryStore;
use crate::Error;
use crate::persistence::{Location, Persistence, Protection};
use crate::schema::{Change, Credential, CredentialKey, Partition, RecordRevision, Scopes};
use crate::wait::BoxFuture;

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

    /// The credentials of a partition that may have all of these scopes, in no particular order; others may be among
    /// them. By default all of the partition. A store that tells cheaply which cannot leaves those out.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list_for<'a>(
        &'a self,
        partition: &'a Partition,
        scopes: &'a Scopes,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        let _ = scopes;
        self.list(partition)
    }

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

    /// Single flight among the processes and hosts that share the store: takes the lead in fetching the credential
    /// `key`, or waits at most `patience` for whoever has it. With no patience at all it only tries.
    ///
    /// No two lead for one key at a time; a leader that dies is succeeded at once. A slow key never delays another.
    /// By default there is nothing to agree by, and everybody fetches for himself.
    fn lead<'a>(&'a self, key: &'a CredentialKey, patience: Duration) -> BoxFuture<'a, Lead> {
        let _ = (key, patience);
        Box::pin(std::future::ready(Lead::Unavailable))
    }

    /// Whether programs of other languages write to the store too, which may erase what was written here, or write back
    /// what was removed.
    fn is_shared_with_peers(&self) -> bool {
        false
    }

    /// Where the store is and how well it is protected.
    fn info(&self) -> StoreInfo;

    /// Where the library may keep what it remembers beside the store (`<location>.state`), if anywhere: a small
    /// document, protected as the store is.
    fn state(&self) -> Option<Box<dyn Persistence>> {
        None
    }
}

/// What [`CredentialStore::lead`] says.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lead {
    /// The caller leads until it drops the guard: look again, then fetch and store, then drop it.
    Taken(LeadGuard),
    /// Somebody else led and is done, or dead: look again.
    Ended,
    /// Somebody else leads, and the patience is used up.
    Busy,
    /// Nothing can be agreed here: fetch without leading.
    Unavailable,
}

/// The lead in fetching one credential. Dropping it wakes all who wait.
pub struct LeadGuard(#[allow(dead_code)] Box<dyn Send + Sync>);

impl LeadGuard {
    /// A guard that drops `held`, a lock or a lease, when it is dropped itself.
    pub fn new(held: impl Send + Sync + 'static) -> Self {
        Self(Box::new(held))
    }
}

impl fmt::Debug for LeadGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeadGuard")
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
        /// What it removed, but for the expired tokens.
        removed: Vec<Credential>,
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
