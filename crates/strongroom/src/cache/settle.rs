//! What peers make of our changes, set right: tokens of ours that one erased are put back, entries that were removed and
//! that one wrote again are removed again.
//!
//! MSAL Python reloads without its lock, and can write back a document that lacks what was added meanwhile; Node and
//! Java keep in memory what others have deleted. Neither can be kept from it, so whoever looks at a document that has
//! changed looks for that, once for each change.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::state::{Note, State};
use super::tombstone::{self, Graveyard};
use crate::platform::fork::PerProcess;
use crate::schema::{AccessToken, Ask, Change, Credential, CredentialKey, Dialect, Environments, Partition};
use crate::store::{CredentialStore, Outcome, Record};
use crate::time::{Deadline, UnixSeconds};
use crate::{Error, ErrorKind, wait};

/// How long after a token was stored its loss is noticed, in seconds. MSAL Node may wait 50 s for its lock and then write
/// what it knew before, what is put back can be erased like that again, and a document that is torn takes all with it.
/// To give a token up costs one request.
pub(super) const MEMORY: i64 = 300;
/// How long nothing is put back after something was, in milliseconds.
const PAUSE: u64 = 400;
/// How often that doubles while a token is put back without having been seen in between.
const MOST_DOUBLINGS: u32 = 3;
/// How long after it was stored a token is put back that is gone with all others of its application, in seconds. That is
/// what a removal looks like, so it happens once; no MSAL takes away single tokens of an application that are still
/// good, so without some of them it was a write that knew nothing of them.
const MEMORY_OF_EMPTIED: i64 = 60;
/// How many writes are remembered.
const MOST: usize = 1024;
/// When what could not be set right is tried again, in milliseconds.
const AGAIN: u64 = 1000;
/// A look-up waits no longer for the lock.
const PATIENCE: Duration = Duration::from_millis(500);

/// What this process has written lately, and which state of the document was looked at.
#[derive(Debug)]
pub(super) struct Settling {
    /// The generation that was looked at, plus one; zero is none.
    settled: AtomicU64,
    /// When to look again at what could not be set right, in milliseconds; zero is not at all.
    again: AtomicU64,
    /// When something may be put back again, in the same way.
    not_before: AtomicU64,
    /// A forked child has written nothing.
    written: PerProcess<Mutex<VecDeque<Written>>>,
    /// Their number, so that the usual case costs no lock.
    count: AtomicUsize,
}

/// An application's own token that this process has written.
#[derive(Debug, Clone)]
struct Written {
    key: CredentialKey,
    partition: Partition,
    token: AccessToken,
    environments: Environments,
    dialect: Option<Dialect>,
    stored: UnixSeconds,
    /// How often it was put back since it was last seen.
    unseen: u32,
    /// Whether it was put back where its application had no token left.
    was_emptied: bool,
}

impl Written {
    /// A clock that was set back or far ahead ends it too.
    fn is_looked_after(&self, now: UnixSeconds) -> bool {
        now.since(self.stored).abs() < MEMORY
    }

    /// Whether it is put back though its application has no token left.
    fn outlives_emptying(&self, now: UnixSeconds) -> bool {
        now.since(self.stored).abs() < MEMORY_OF_EMPTIED && !self.was_emptied
    }
}

/// A token that is gone.
struct Lost {
    written: Written,
    /// With all others of its application.
    is_emptied: bool,
}

impl Settling {
    pub(super) fn new() -> Self {
        Self {
            settled: AtomicU64::new(0),
            again: AtomicU64::new(0),
            not_before: AtomicU64::new(0),
            written: PerProcess::new(Mutex::default),
            count: AtomicUsize::new(0),
        }
    }

    /// Whether this generation of the store was looked at, and nothing is to be tried again now.
    pub(super) fn has_seen(&self, generation: u64) -> bool {
        if self.settled.load(Ordering::Acquire) != generation.wrapping_add(1) {
            return false;
        }
        let again = self.again.load(Ordering::Relaxed);
        again == 0 || milliseconds() < again
    }

    /// Remembers a token that was stored, to notice if it is lost. `began`: before the writing.
    pub(super) async fn wrote(
        &self,
        state: &State,
        token: AccessToken,
        environments: &Environments,
        dialect: Option<Dialect>,
        began: UnixSeconds,
    ) {
        let credential = Credential::AccessToken(token.clone());
        // A provider may hand out again what was removed before.
        let graves = Graveyard::of(state, began).await.of_credential(&credential);
        if !graves.is_empty() {
            state.note(Note::Risen(graves), began).await;
        }
        if !token.is_app_token() {
            // A user's sign-out must hold.
            return;
        }
        let key = CredentialKey::of_access_token(&token);
        let partition = Partition::of_access_token(&token);
        let environments = environments.clone();
        self.change(|written| {
            written.retain(|other| other.key != key && other.is_looked_after(began));
            written.push_back(Written {
                key,
                partition,
                token,
                environments,
                dialect,
                stored: began,
                unseen: 0,
                was_emptied: false,
            });
            let surplus = written.len().saturating_sub(MOST);
            written.drain(..surplus);
        });
    }

    /// Sets right what peers have made of the store's state `generation`. What cannot be set right, because somebody has
    /// the lock or the store can only be read, is tried again a second later, or when the store has changed again.
    pub(super) async fn settle(
        &self,
        store: &dyn CredentialStore,
        state: &Arc<State>,
        dialect: Option<Dialect>,
        now: UnixSeconds,
        generation: u64,
    ) {
        // Noted first, and of what was read before anything is changed: what is written since is looked at next.
        self.settled.store(generation.wrapping_add(1), Ordering::Release);
        // Also if the caller goes away in the middle.
        self.again.store(milliseconds() + AGAIN, Ordering::Relaxed);
        let settled = async {
            let lost = self.lost(store, now).await?;
            // Looked at after the loss was found: who removes a token says so before he does.
            let graveyard = Graveyard::of(state, now).await;
            if !graveyard.is_empty() {
                bury_again(store, state, graveyard.clone(), dialect, now).await?;
            }
            let lost = still_missed(lost, &graveyard);
            // Each write of ours is one that a waiting peer has not read: hurrying would feed the erasing.
            let soonest = self.not_before.load(Ordering::Relaxed);
            if !lost.is_empty() && milliseconds() < soonest {
                return Ok(soonest);
            }
            self.put_back(store, state, lost, now).await?;
            Ok::<_, Error>(0)
        };
        match settled.await {
            Ok(again) => self.again.store(again, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(%error, "what another program did to the cache cannot be set right now");
            }
        }
    }

    /// Whether there is anything that this process would miss.
    pub(super) fn has_written(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Puts everything back where the document is damaged for good: for this write, as for any, it is moved aside.
    /// Another process may be about to do the same.
    pub(super) async fn mend(&self, store: &dyn CredentialStore, state: &Arc<State>, now: UnixSeconds) {
        let lost: Vec<Lost> =
            self.looked_after(now).into_iter().map(|written| Lost { written, is_emptied: false }).collect();
        let graveyard = Graveyard::of(state, now).await;
        if let Err(error) = self.put_back(store, state, still_missed(lost, &graveyard), now).await {
            tracing::debug!(%error, "the damaged cache cannot be begun anew now");
        }
    }

    /// The tokens that are not in the store any more. One that another token of the store answers for is forgotten, and
    /// one that seems to have been removed on purpose.
    async fn lost(&self, store: &dyn CredentialStore, now: UnixSeconds) -> Result<Vec<Lost>, Error> {
        if !self.has_written() {
            return Ok(Vec::new());
        }
        let mut lost = Vec::new();
        let (mut seen, mut given_up) = (HashSet::new(), HashSet::new());
        let mut partitions: HashMap<Partition, Vec<Record>> = HashMap::new();
        for written in self.looked_after(now) {
            if store.get(&written.key).await?.is_some() {
                seen.insert(written.key);
                continue;
            }
            if !partitions.contains_key(&written.partition) {
                let records = store.list(&written.partition).await?;
                partitions.insert(written.partition.clone(), records);
            }
            let records = &partitions[&written.partition];
            let mut answers = records.iter().filter_map(|record| match &record.credential {
                Credential::AccessToken(own) if own.answers_for(&written.token) => Some(own),
                _ => None,
            });
            if let Some(answer) = answers.next() {
                // The document may have changed since the token was looked for.
                let is_itself = CredentialKey::of_access_token(answer) == written.key;
                if is_itself { &mut seen } else { &mut given_up }.insert(written.key);
            } else if records.is_empty() && !written.outlives_emptying(now) {
                given_up.insert(written.key);
            } else {
                lost.push(Lost { is_emptied: records.is_empty(), written });
            }
        }
        self.change(|written| {
            written.retain(|one| !given_up.contains(&one.key));
            written.iter_mut().filter(|one| seen.contains(&one.key)).for_each(|one| one.unseen = 0);
        });
        Ok(lost)
    }

    fn looked_after(&self, now: UnixSeconds) -> Vec<Written> {
        let mut written = self.written();
        written.retain(|one| one.is_looked_after(now));
        self.count.store(written.len(), Ordering::Release);
        written.iter().cloned().collect()
    }

    /// As few writes as can be: each is one more that a peer may not see.
    async fn put_back(
        &self,
        store: &dyn CredentialStore,
        state: &Arc<State>,
        mut lost: Vec<Lost>,
        now: UnixSeconds,
    ) -> Result<(), Error> {
        while let Some(first) = lost.first() {
            let (environments, dialect) = (first.written.environments.clone(), first.written.dialect);
            let (those, others): (Vec<_>, Vec<_>) = lost
                .into_iter()
                .partition(|one| one.written.environments == environments && one.written.dialect == dialect);
            lost = others;
            let change = Change::new(now).only_existing().environments(environments).dialect_if(dialect);
            let change = those
                .iter()
                .fold(change, |change, one| change.put_unless_answered(one.written.token.clone()));
            let change = change.still_missed(asked_again(state, &those, now));
            apply_soon(store, &change).await?;
            tracing::info!(
                count = those.len(),
                "another program erased tokens from the cache; they were put back"
            );
            // A fight that goes on and on is not to fill the disk's queue.
            let doublings = those.iter().map(|one| one.written.unseen).max().unwrap_or_default();
            let pause = PAUSE << doublings.min(MOST_DOUBLINGS);
            self.not_before.store(milliseconds() + pause, Ordering::Relaxed);
            let put_back: HashMap<&CredentialKey, bool> =
                those.iter().map(|one| (&one.written.key, one.is_emptied)).collect();
            self.change(|written| {
                for one in written {
                    if let Some(is_emptied) = put_back.get(&one.key) {
                        one.unseen += 1;
                        one.was_emptied |= is_emptied;
                    }
                }
            });
        }
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut VecDeque<Written>)) {
        let mut written = self.written();
        change(&mut written);
        self.count.store(written.len(), Ordering::Release);
    }

    /// Nothing of this application is put back any more.
    pub(super) fn forget(&self, client_id: &str) {
        self.change(|written| written.retain(|one| !one.token.client_id.eq_ignore_ascii_case(client_id)));
    }

    /// Nothing at all is put back any more.
    pub(super) fn clear(&self) {
        self.change(VecDeque::clear);
    }

    fn written(&self) -> MutexGuard<'_, VecDeque<Written>> {
        self.written.get().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without what was removed on purpose since.
fn still_missed(lost: Vec<Lost>, graveyard: &Graveyard) -> Vec<Lost> {
    let is_missed = |one: &Lost| {
        let Written { token, stored, .. } = &one.written;
        !graveyard.has_removal_since(&token.client_id, *stored)
    };
    lost.into_iter().filter(is_missed).collect()
}

/// Asks under the lock whether any of `those` was removed on purpose meanwhile: without it nobody notes that.
fn asked_again(state: &Arc<State>, those: &[Lost], now: UnixSeconds) -> Ask {
    let state = Arc::clone(state);
    let tokens: Vec<_> = those.iter().map(|one| (one.written.token.clone(), one.written.stored)).collect();
    Arc::new(move || {
        let (state, tokens) = (Arc::clone(&state), tokens.clone());
        Box::pin(async move { tombstone::without_removed(&state, tokens, now).await })
    })
}

/// Milliseconds since this process first asked, at least one.
fn milliseconds() -> u64 {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    let since = STARTED.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX - AGAIN).saturating_add(1)
}

/// Removes again what a peer wrote again.
async fn bury_again(
    store: &dyn CredentialStore,
    state: &State,
    graveyard: Graveyard,
    dialect: Option<Dialect>,
    now: UnixSeconds,
) -> Result<(), Error> {
    let mut risen = false;
    for partition in graveyard.partitions() {
        let records = store.list(&partition).await?;
        risen |= records.iter().any(|record| graveyard.holds(&record.credential));
    }
    if !risen {
        return Ok(());
    }
    let accounts = graveyard.accounts();
    let graveyard = Arc::new(graveyard);
    let doomed = {
        let graveyard = Arc::clone(&graveyard);
        // An account goes only if nothing else of it is left, which the store has to see to.
        move |credential: &Credential| {
            !matches!(credential, Credential::Account(_)) && graveyard.holds(credential)
        }
    };
    let change = Change::new(now)
        .only_existing()
        .dialect_if(dialect)
        .remove_where(Arc::new(doomed))
        .remove_orphan_accounts(accounts.clone());
    if let Outcome::Applied { removed, .. } = apply_soon(store, &change).await?
        && !removed.is_empty()
    {
        tracing::info!(
            count = removed.len(),
            "another program wrote back what had been removed; removed again"
        );
    }
    // An account that is still there is in use again: somebody has signed in.
    let mut in_use = Vec::new();
    for partition in graveyard.partitions() {
        for record in store.list(&partition).await? {
            if let Credential::Account(account) = record.credential {
                in_use.push(account.home_account_id);
            }
        }
    }
    let over = graveyard.of_accounts(&in_use);
    if !over.is_empty() {
        state.note(Note::Risen(over), now).await;
    }
    Ok(())
}

/// Makes a change on behalf of somebody who only looks, and does not wait long for that.
async fn apply_soon(store: &dyn CredentialStore, change: &Change) -> Result<Outcome, Error> {
    let busy = || Error::new(ErrorKind::Locked, "locked", "somebody else is writing to the cache");
    wait::until(Deadline::after(PATIENCE), store.apply(change)).await.unwrap_or_else(|| Err(busy()))
}
