//! Any persistence as a store of credentials: parses the document, and replays changes on its newest revision.

mod read;

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::{CredentialStore, Lead, LeadGuard, Outcome, Record, StoreInfo};
use crate::persistence::flight::{self, Attempt};
use crate::persistence::lock::{DocumentLock, LockPaths, side_file};
use crate::persistence::{Fence, Loaded, Location, Persistence, PersistenceError, Revision, Saved};
use crate::schema::{
    Applied, Change, CredentialKey, Document, DocumentError, Partition, Scopes, Sieve, Wanted,
};
use crate::time::Deadline;
use crate::wait::{self, BoxFuture};
use crate::{Error, SecretBytes};

/// How long a damaged document must have stayed the same before it is taken for damaged and not for half written.
const TORN_FOR: Duration = Duration::from_secs(1);
/// How long a document that had content may be empty before it is taken for empty and not for half written.
const EMPTIED_FOR: Duration = Duration::from_millis(150);
/// How long a reader at most goes on reading a document that is torn each time it looks.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often a change is replayed on documents that others keep replacing.
const MOST_REPLAYS: u32 = 32;
/// How often one change moves a damaged document aside, each of which was damaged for long enough.
const MOST_MOVES: u32 = 3;

/// A [`CredentialStore`] in one cache document, the form that every MSAL shares.
///
/// Reads take no lock and see one consistent document. A change runs under the cross-process lock: it loads the
/// newest document, applies the change to it, and replaces it only if nobody else has changed it meanwhile.
pub struct DocumentStore<P> {
    persistence: P,
    lock_paths: LockPaths,
    lock_timeout: Duration,
    strict: bool,
    /// The newest document that was read. Read at every hit, so it takes no lock.
    snapshot: ArcSwapOption<Snapshot>,
    damaged: Mutex<Option<Damaged>>,
    generations: AtomicU64,
}

struct Snapshot {
    document: Document,
    /// What look-up the document was looked through for, of which no more than that was kept. `None`: it is whole.
    part: Option<Wanted>,
    revision: Revision,
    generation: u64,
}

impl Snapshot {
    fn answers(&self, wanted: &Wanted) -> bool {
        self.part.is_none_or(|part| part.takes_in(wanted))
    }

    fn had_content(&self) -> bool {
        self.part.is_some() || !self.document.is_empty()
    }
}

/// The document that a change is made to.
struct ToWrite {
    snapshot: Arc<Snapshot>,
    /// A damaged one was moved aside for it.
    is_begun_anew: bool,
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

    /// What answers a look-up: the newest document, or as much of it as is needed.
    ///
    /// A large document is looked through for the first question, and kept when there is a second one: a command
    /// asks once, and who serves many tokens would look through it again and again.
    async fn snapshot_for(&self, wanted: Wanted) -> Result<Arc<Snapshot>, Error> {
        let last = self.snapshot.load_full();
        let asked_once = last.as_ref().is_none_or(|last| last.part.is_some());
        let current = self.current(last)?;
        if let Some(snapshot) = current.as_ref().filter(|snapshot| snapshot.answers(&wanted)) {
            return Ok(Arc::clone(snapshot));
        }
        let is_damaged = self.damaged().is_some();
        if asked_once && current.is_none() && !is_damaged {
            let mut sieve = Sieve::new(wanted);
            let seen = self.persistence.look_through(&mut |window| sieve.read(window)).await?;
            if let Some((revision, document)) = seen.zip(sieve.into_document()) {
                return Ok(self.remember(document, Some(wanted), revision));
            }
        }
        self.snapshot().await
    }

    /// The newest document as a whole.
    async fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        let last = self.snapshot.load_full();
        let had_content = last.as_ref().is_some_and(|last| last.had_content());
        if let Some(snapshot) = self.current(last.filter(|last| last.part.is_none()))? {
            return Ok(snapshot);
        }
        if let Some(damaged) = self.damaged().clone()
            && damaged.settled.has_passed()
            && self.persistence.is_current(&damaged.revision)?
        {
            return Err(damaged.error.into());
        }
        self.load_patiently(had_content).await
    }

    /// The snapshot, if it is still of the newest document.
    fn current(&self, snapshot: Option<Arc<Snapshot>>) -> Result<Option<Arc<Snapshot>>, Error> {
        let Some(snapshot) = snapshot else { return Ok(None) };
        Ok(self.persistence.is_current(&snapshot.revision)?.then_some(snapshot))
    }

    /// Loads the document. Peers truncate in place: what is torn, or suddenly empty, is read again with growing
    /// pauses until it has been the same for a second, or for [`PATIENCE`] if it keeps changing; the last time
    /// under the lock.
    async fn load_patiently(&self, had_content: bool) -> Result<Arc<Snapshot>, Error> {
        let mut pause = Duration::from_millis(5);
        let patience = Deadline::after(PATIENCE);
        let emptied_for = if had_content { EMPTIED_FOR } else { EMPTIED_FOR / 5 };
        let suddenly_empty_until = Deadline::after(emptied_for);
        loop {
            let loaded = self.persistence.load().await?;
            let emptied = self.is_emptied(&loaded);
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
        match Document::parse(bytes) {
            Ok(document) => {
                *self.damaged() = None;
                Ok(self.remember(document, None, revision))
            }
            Err(error) => {
                let mut seen = self.damaged();
                let since = match &*seen {
                    Some(damaged) if damaged.revision == revision => damaged.settled,
                    _ if error.may_be_torn() => Deadline::after(TORN_FOR),
                    _ => Deadline::after(Duration::ZERO),
                };
                let damaged = Damaged { revision, error, settled: since };
                *seen = Some(damaged.clone());
                Err(damaged)
            }
        }
    }

    fn remember(&self, document: Document, part: Option<Wanted>, revision: Revision) -> Arc<Snapshot> {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed);
        let snapshot = Arc::new(Snapshot { document, part, revision, generation });
        retire(self.snapshot.swap(Some(Arc::clone(&snapshot))));
        snapshot
    }

    /// Whether a peer may be about to write the file that it has just truncated.
    fn is_emptied(&self, loaded: &Loaded) -> bool {
        loaded.bytes.is_empty()
            && loaded.revision != Revision::absent()
            && matches!(self.persistence.location(), Location::File(_))
    }

    fn damaged(&self) -> MutexGuard<'_, Option<Damaged>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn change(&self, change: &Change) -> Result<Outcome, Error> {
        let deadline = Deadline::after(self.lock_timeout);
        let lock_paths = match change.dialect {
            Some(dialect) if dialect.has_java() => Cow::Owned(self.lock_paths.with_java()),
            _ => Cow::Borrowed(&self.lock_paths),
        };
        // What is replaced meanwhile is kept until the lock is released: to let go of it takes as long as to read what
        // comes in its place.
        let outdated = self.snapshot.load_full();
        let mut lock = DocumentLock::acquire(&lock_paths, self.lock_timeout).await?;
        let mut change = Cow::Borrowed(change);
        for replays in 0..MOST_REPLAYS {
            let snapshot = match self.known_to_write().filter(|_| replays == 0) {
                Some(snapshot) => snapshot,
                None => {
                    let to_write = self.load_to_write(deadline).await?;
                    // It was there, and nobody meant to delete it.
                    if to_write.is_begun_anew && change.only_existing {
                        change.to_mut().only_existing = false;
                    }
                    to_write.snapshot
                }
            };
            let asked = change.asked_again().await;
            let change = asked.as_ref().unwrap_or(&change);
            let (bytes, swept, removed) = match snapshot.document.apply(change).map_err(Error::from)? {
                Applied::Unchanged => return Ok(Outcome::Applied { swept: 0, removed: Vec::new() }),
                Applied::Lost(key) => return Ok(Outcome::Lost(key)),
                Applied::Changed { bytes, swept, removed, .. } => (bytes, swept, removed),
            };
            let held = Mutex::new(Some(lock));
            let still_held = || taken(&held).as_ref().is_some_and(DocumentLock::still_held);
            let replaced = |revision: &Revision| {
                let Some(lock) = taken(&held).take() else { return };
                // Other processes go on at once; tasks of this one find the document that was read already.
                let turn = lock.let_others_in();
                // What we wrote parses, else the peers could not read it either.
                let read = self.take_in(bytes.share(), revision.clone());
                debug_assert!(read.is_ok(), "what was written must be readable");
                drop(turn);
            };
            let fence = Fence::new(&still_held).on_replaced(&replaced);
            if let Saved::Saved(revision) = self.persistence.save(&bytes, &snapshot.revision, &fence).await? {
                replaced(&revision);
                retire(outdated);
                return Ok(Outcome::Applied { swept, removed });
            }
            let left = held.into_inner().unwrap_or_else(PoisonError::into_inner);
            lock = match left.filter(DocumentLock::still_held) {
                Some(lock) => lock,
                None => DocumentLock::acquire(&lock_paths, deadline.remaining()).await?,
            };
        }
        let location = self.persistence.location().to_string();
        Err(PersistenceError::Contended { location, attempts: MOST_REPLAYS }.into())
    }

    /// The document that was read last, if it is still the newest. Should it have changed all the same, the comparison
    /// before the rename will notice.
    fn known_to_write(&self) -> Option<Arc<Snapshot>> {
        let whole = self.snapshot.load_full().filter(|snapshot| snapshot.part.is_none());
        self.current(whole).ok().flatten()
    }

    /// The newest document, to be changed under the lock that is held. One that is damaged for good is moved
    /// aside, so that a daemon goes on instead of failing until somebody looks. One that is torn anew whenever we
    /// look is given up at `deadline`, but not before it could have stayed the same for long enough.
    async fn load_to_write(&self, deadline: Deadline) -> Result<ToWrite, Error> {
        let mut is_begun_anew = false;
        let patience = Deadline::after(PATIENCE);
        let had_content = self.snapshot.load().as_ref().is_some_and(|snapshot| snapshot.had_content());
        let emptied_until = Deadline::after(EMPTIED_FOR);
        let mut moves = 0;
        loop {
            let loaded = self.persistence.load().await?;
            if had_content && self.is_emptied(&loaded) && !emptied_until.has_passed() {
                // A peer without locks has truncated it and is about to write; what it holds is not to be lost.
                wait::sleep(Duration::from_millis(10)).await;
                continue;
            }
            let damaged = match self.take_in(loaded.bytes, loaded.revision) {
                Ok(snapshot) => return Ok(ToWrite { snapshot, is_begun_anew }),
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
            // What is there as before although it was moved, or is said to be no longer the same, would be for ever.
            if moves == MOST_MOVES {
                return Err(damaged.error.into());
            }
            moves += 1;
            match self.persistence.set_aside(&damaged.revision).await? {
                Some(kept) => {
                    is_begun_anew = true;
                    tracing::warn!(
                        location = %self.persistence.location(),
                        kept,
                        "the cache was damaged ({}); it was moved aside and a new one is begun",
                        damaged.error
                    );
                }
                // It has changed under our hands, or cannot be moved.
                None if !self.persistence.is_current(&damaged.revision)? => {}
                None => return Err(damaged.error.into()),
            }
        }
    }
}

/// What the lock of a change is kept in while a persistence may give it back.
fn taken(held: &Mutex<Option<DocumentLock>>) -> MutexGuard<'_, Option<DocumentLock>> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets go of a document that was replaced. Wiping megabytes, and having the system free the file that was held open,
/// takes as long as reading the new one: whoever waits for that does not wait for this.
fn retire(old: Option<Arc<Snapshot>>) {
    const LARGE: usize = 1 << 20;

    // What was only looked through is small, and its file is large.
    let is_large = |old: &Arc<Snapshot>| old.part.is_some() || old.document.bytes().len() > LARGE;
    if let Some(old) = old.filter(is_large) {
        // Where no thread is to be had, it is dropped with the closure, here.
        let _ = std::thread::Builder::new().name("strongroom-wipe".into()).spawn(move || drop(old));
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
            snapshot: ArcSwapOption::empty(),
            damaged: Mutex::default(),
            generations: AtomicU64::new(0),
        }
    }
}

impl<P: Persistence> CredentialStore for DocumentStore<P> {
    fn get<'a>(&'a self, key: &'a CredentialKey) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        Box::pin(async move {
            let found = self.snapshot_for(Wanted::of_key(key)).await?.document.get(key);
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
            let wanted = Wanted::of(partition, scopes);
            let found = self.snapshot_for(wanted).await?.document.list_for(partition, scopes);
            Ok(found.into_iter().map(|(credential, revision)| Record { credential, revision }).collect())
        })
    }

    fn apply<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Outcome, Error>> {
        Box::pin(self.change(change))
    }

    fn generation(&self) -> Result<Option<u64>, Error> {
        match &*self.snapshot.load() {
            Some(snapshot) if self.persistence.is_current(&snapshot.revision)? => {
                Ok(Some(snapshot.generation))
            }
            _ => Ok(None),
        }
    }

    fn lead<'a>(&'a self, key: &'a CredentialKey, patience: Duration) -> BoxFuture<'a, Lead> {
        Box::pin(async move {
            let Some(path) = side_file(&self.persistence, flight::SUFFIX) else { return Lead::Unavailable };
            match flight::lead(&path, self.persistence.lock_mode(), key.as_str(), patience).await {
                Ok(Attempt::Taken(held)) => Lead::Taken(LeadGuard::new(held)),
                Ok(Attempt::Ended) => Lead::Ended,
                Ok(Attempt::Busy) => Lead::Busy,
                Err(error) => {
                    tracing::debug!("nobody can lead here: {error}");
                    Lead::Unavailable
                }
            }
        })
    }

    fn is_shared_with_peers(&self) -> bool {
        self.persistence.lock_path().is_some()
    }

    fn info(&self) -> StoreInfo {
        StoreInfo {
            location: self.persistence.location(),
            kind: self.persistence.kind(),
            protection: self.persistence.protection(),
        }
    }

    fn state(&self) -> Option<Box<dyn Persistence>> {
        let built = self.persistence.beside(&side_file(&self.persistence, ".state")?);
        built.inspect_err(|error| tracing::warn!(%error, "nothing can be remembered beside the cache")).ok()
    }
}

impl<P: fmt::Debug> fmt::Debug for DocumentStore<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DocumentStore").field("persistence", &self.persistence).finish_non_exhaustive()
    }
}
