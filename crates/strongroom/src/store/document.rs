//! Any persistence as a store of credentials: parses the document, and replays changes on its newest revision.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::{CredentialStore, Outcome, Record, StoreInfo};
use crate::persistence::lock::{DocumentLock, LockPaths, side_file};
use crate::persistence::{Fence, Location, Persistence, PersistenceError, Revision, Saved};
use crate::schema::{Applied, Change, CredentialKey, Document, DocumentError, Partition, Scopes};
use crate::time::Deadline;
use crate::wait::{self, BoxFuture};
use crate::{Error, SecretBytes};

/// How long a damaged document must have stayed the same before it is taken for damaged and not for half written.
const TORN_FOR: Duration = Duration::from_secs(1);
/// How long a reader at most goes on reading a document that is torn each time it looks.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a change is replayed on documents that others keep replacing.
const MOST_REPLAYS: u32 = 32;

/// A [`CredentialStore`] in one cache document, the form that every MSAL shares.
///
/// Reads take no lock and see one consistent document. A change runs under the cross-process lock: it loads the
/// newest document, applies the change to it, and replaces it only if nobody else has changed it meanwhile.
pub struct DocumentStore<P> {
    persistence: P,
    lock_paths: LockPaths,
    lock_timeout: Duration,
    strict: bool,
    seen: RwLock<Seen>,
}

/// What is known of the document.
#[derive(Default)]
struct Seen {
    snapshot: Option<Arc<Snapshot>>,
    damaged: Option<Damaged>,
    generation: u64,
}

struct Snapshot {
    document: Document,
    revision: Revision,
    generation: u64,
}

/// A document that did not parse, and since when it is the same.
#[derive(Clone)]
struct Damaged {
    revision: Revision,
    error: DocumentError,
    settled: Deadline,
}

/// Sets up a [`DocumentStore`].
#[derive(Debug)]
pub struct DocumentStoreBuilder<P> {
    persistence: P,
    lock_timeout: Duration,
    strict: bool,
}

impl<P: Persistence> DocumentStore<P> {
    /// A store in the document that `persistence` keeps, with the defaults of [`builder`](Self::builder).
    pub fn new(persistence: P) -> Self {
        Self::builder(persistence).build()
    }

    /// Sets up a store in the document that `persistence` keeps.
    pub fn builder(persistence: P) -> DocumentStoreBuilder<P> {
        DocumentStoreBuilder { persistence, lock_timeout: Duration::from_secs(10), strict: false }
    }

    /// The persistence underneath.
    pub fn persistence(&self) -> &P {
        &self.persistence
    }

    /// The newest document.
    async fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        let (snapshot, damaged) = {
            let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
            (seen.snapshot.clone(), seen.damaged.clone())
        };
        if let Some(snapshot) = &snapshot
            && self.persistence.is_current(&snapshot.revision)?
        {
            return Ok(Arc::clone(snapshot));
        }
        if let Some(damaged) = damaged
            && damaged.settled.has_passed()
            && self.persistence.is_current(&damaged.revision)?
        {
            return Err(damaged.error.into());
        }
        self.load_patiently(snapshot.is_some_and(|snapshot| !snapshot.document.is_empty())).await
    }

    /// Loads the document. Peers truncate in place: what is torn, or suddenly empty, is read again with growing
    /// pauses until it has been the same for a second, or for [`PATIENCE`] if it keeps changing; the last time
    /// under the lock.
    async fn load_patiently(&self, had_content: bool) -> Result<Arc<Snapshot>, Error> {
        let mut pause = Duration::from_millis(5);
        let patience = Deadline::after(PATIENCE);
        let in_a_file = matches!(self.persistence.location(), Location::File(_));
        let emptied_for = Duration::from_millis(if had_content { 150 } else { 30 });
        let suddenly_empty_until = Deadline::after(emptied_for);
        loop {
            let loaded = self.persistence.load().await?;
            let emptied = in_a_file && loaded.bytes.is_empty() && loaded.revision != Revision::absent();
            // Not even remembered yet: whoever asks meanwhile must not find an empty cache either.
            if !emptied || suddenly_empty_until.has_passed() {
                match self.take_in(loaded.bytes, loaded.revision) {
                    Ok(snapshot) => return Ok(snapshot),
                    Err(damaged) if !damaged.error.may_be_torn() => return Err(damaged.error.into()),
                    Err(damaged) if damaged.settled.has_passed() || patience.has_passed() => {
                        return self.load_under_lock().await;
                    }
                    Err(_) => {}
                }
            }
            wait::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// The last attempt: a peer that respects locks is not writing now.
    async fn load_under_lock(&self) -> Result<Arc<Snapshot>, Error> {
        // Who may not write the lock file can still read; the lock is no condition for it.
        let _lock = DocumentLock::acquire(&self.lock_paths, TORN_FOR).await.ok();
        let loaded = self.persistence.load().await?;
        self.take_in(loaded.bytes, loaded.revision).map_err(|damaged| damaged.error.into())
    }

    /// Parses what was loaded and remembers it, or that it is damaged and since when.
    fn take_in(&self, bytes: SecretBytes, revision: Revision) -> Result<Arc<Snapshot>, Damaged> {
        let parsed = Document::parse(bytes);
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        match parsed {
            Ok(document) => {
                seen.generation += 1;
                let snapshot = Arc::new(Snapshot { document, revision, generation: seen.generation });
                seen.snapshot = Some(Arc::clone(&snapshot));
                seen.damaged = None;
                Ok(snapshot)
            }
            Err(error) => {
                let since = match &seen.damaged {
                    Some(damaged) if damaged.revision == revision => damaged.settled,
                    _ if error.may_be_torn() => Deadline::after(TORN_FOR),
                    _ => Deadline::after(Duration::ZERO),
                };
                let damaged = Damaged { revision, error, settled: since };
                seen.damaged = Some(damaged.clone());
                Err(damaged)
            }
        }
    }

    async fn change(&self, change: &Change) -> Result<Outcome, Error> {
        let deadline = Deadline::after(self.lock_timeout);
        let mut lock = DocumentLock::acquire(&self.lock_paths, self.lock_timeout).await?;
        for _ in 0..MOST_REPLAYS {
            let snapshot = self.load_to_write(deadline).await?;
            let (bytes, swept, removed) = match snapshot.document.apply(change).map_err(Error::from)? {
                Applied::Unchanged => return Ok(Outcome::Applied { swept: 0, removed: Vec::new() }),
                Applied::Lost(key) => return Ok(Outcome::Lost(key)),
                Applied::Changed { bytes, swept, removed } => (bytes, swept, removed),
            };
            let saved = {
                let still_held = || lock.still_held();
                self.persistence.save(&bytes, &snapshot.revision, &Fence::new(&still_held)).await?
            };
            match saved {
                Saved::Saved(revision) => {
                    // What we wrote parses, else the peers could not read it either.
                    let taken = self.take_in(bytes, revision);
                    debug_assert!(taken.is_ok(), "what was written must be readable");
                    return Ok(Outcome::Applied { swept, removed });
                }
                Saved::Conflict if lock.still_held() => {}
                Saved::Conflict => {
                    drop(lock);
                    lock = DocumentLock::acquire(&self.lock_paths, deadline.remaining()).await?;
                }
            }
        }
        let location = self.persistence.location().to_string();
        Err(PersistenceError::Contended { location, attempts: MOST_REPLAYS }.into())
    }

    /// The newest document, to be changed under the lock that is held. One that is damaged for good is moved
    /// aside, so that a daemon goes on instead of failing until somebody looks. One that is torn anew whenever we
    /// look is given up at `deadline`, but not before it could have stayed the same for long enough.
    async fn load_to_write(&self, deadline: Deadline) -> Result<Arc<Snapshot>, Error> {
        let patience = Deadline::after(PATIENCE);
        loop {
            let loaded = self.persistence.load().await?;
            let damaged = match self.take_in(loaded.bytes, loaded.revision) {
                Ok(snapshot) => return Ok(snapshot),
                Err(damaged) => damaged,
            };
            if !damaged.error.may_be_torn() || self.strict {
                return Err(damaged.error.into());
            }
            if !damaged.settled.has_passed() {
                if patience.has_passed() && deadline.has_passed() {
                    return Err(damaged.error.into());
                }
                wait::sleep(damaged.settled.remaining().min(Duration::from_millis(100))).await;
                continue;
            }
            match self.persistence.set_aside(&damaged.revision).await? {
                Some(kept) => tracing::warn!(
                    location = %self.persistence.location(),
                    kept,
                    "the cache was damaged ({}); it was moved aside and a new one is begun",
                    damaged.error
                ),
                // It has changed under our hands, or cannot be moved.
                None if !self.persistence.is_current(&damaged.revision)? => {}
                None => return Err(damaged.error.into()),
            }
        }
    }
}

impl<P: Persistence> DocumentStoreBuilder<P> {
    /// How long a change waits for the lock of the document. Default 10 s. Look-ups never wait for it.
    #[must_use]
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Makes a damaged document an error. By default a change moves it aside (`<name>.corrupt-<time>`), warns,
    /// and begins a new one.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// The store.
    #[must_use]
    pub fn build(self) -> DocumentStore<P> {
        DocumentStore {
            lock_paths: LockPaths::of(&self.persistence),
            persistence: self.persistence,
            lock_timeout: self.lock_timeout,
            strict: self.strict,
            seen: RwLock::default(),
        }
    }
}

impl<P: Persistence> CredentialStore for DocumentStore<P> {
    fn get<'a>(&'a self, key: &'a CredentialKey) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        Box::pin(async move {
            let found = self.snapshot().await?.document.get(key);
            Ok(found.map(|(credential, revision)| Record { credential, revision }))
        })
    }

    fn list<'a>(&'a self, partition: &'a Partition) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        Box::pin(async move {
            let found = self.snapshot().await?.document.list(partition);
            Ok(found.into_iter().map(|(credential, revision)| Record { credential, revision }).collect())
        })
    }

    fn list_for<'a>(
        &'a self,
        partition: &'a Partition,
        scopes: &'a Scopes,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        Box::pin(async move {
            let found = self.snapshot().await?.document.list_for(partition, scopes);
            Ok(found.into_iter().map(|(credential, revision)| Record { credential, revision }).collect())
        })
    }

    fn apply<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(self.change(change))
    }

    fn generation(&self) -> Result<Option<u64>, Error> {
        let snapshot = self.seen.read().unwrap_or_else(PoisonError::into_inner).snapshot.clone();
        match snapshot {
            Some(snapshot) if self.persistence.is_current(&snapshot.revision)? => {
                Ok(Some(snapshot.generation))
            }
            _ => Ok(None),
        }
    }

    fn info(&self) -> StoreInfo {
        StoreInfo {
            location: self.persistence.location(),
            kind: self.persistence.kind(),
            protection: self.persistence.protection(),
        }
    }

    fn state_path(&self) -> Option<PathBuf> {
        side_file(&self.persistence, ".state")
    }
}

impl<P: fmt::Debug> fmt::Debug for DocumentStore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentStore").field("persistence", &self.persistence).finish_non_exhaustive()
    }
}
