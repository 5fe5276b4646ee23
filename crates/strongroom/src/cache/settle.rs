//! What peers make of our changes, set right: tokens of ours that one erased are put back, entries that were removed and
//! that one wrote again are removed again.
//!
//! MSAL Python reloads without its lock, and can write back a document that lacks what was added meanwhile; Node and
//! Java keep in memory what others have deleted. Neither can be kept from it, so whoever looks at a document that has
//! changed looks for that, once for each change.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::state::{Note, State};
use super::tombstone::Graveyard;
use crate::platform::fork::PerProcess;
use crate::schema::{AccessToken, Change, Credential, CredentialKey, Environments};
use crate::store::{CredentialStore, Outcome};
use crate::time::{Deadline, UnixSeconds};
use crate::{Error, ErrorKind, wait};

/// How long after a write of ours its loss is noticed. MSAL Node may wait 50 s for its lock, and then write what it knew
/// before.
const MEMORY: Duration = Duration::from_secs(60);
/// How long nothing is put back after something was, in milliseconds.
const PAUSE: u64 = 400;
/// How often a token is put back without having been seen in between: who erases it so often means it.
const MOST_IN_A_ROW: u32 = 3;
/// How often a token is put back at all.
const MOST_TIMES: u32 = 12;
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
    /// When something was last put back, in the same way.
    put_back_at: AtomicU64,
    /// A forked child has written nothing.
    written: PerProcess<Mutex<VecDeque<Written>>>,
    /// Their number, so that the usual case costs no lock.
    count: AtomicUsize,
}

/// An application's own token that this process has written.
#[derive(Debug, Clone)]
struct Written {
    key: CredentialKey,
    token: AccessToken,
    environments: Environments,
    at: Instant,
    noted: UnixSeconds,
    /// How often it was put back since it was last seen.
    in_a_row: u32,
    /// How often it was put back.
    times: u32,
}

impl Written {
    fn is_looked_after(&self) -> bool {
        self.at.elapsed() < MEMORY && self.in_a_row < MOST_IN_A_ROW && self.times < MOST_TIMES
    }
}

impl Settling {
    pub(super) fn new() -> Self {
        Self {
            settled: AtomicU64::new(0),
            again: AtomicU64::new(0),
            put_back_at: AtomicU64::new(0),
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
        let environments = environments.clone();
        self.change(|written| {
            written.retain(|other| other.key != key && other.at.elapsed() < MEMORY);
            written.push_back(Written {
                key,
                token,
                environments,
                at: Instant::now(),
                noted: began,
                in_a_row: 0,
                times: 0,
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
        state: &State,
        now: UnixSeconds,
        generation: u64,
    ) {
        // Noted first, and of what was read before anything is changed: what is written since is looked at next.
        self.settled.store(generation.wrapping_add(1), Ordering::Release);
        // Also if the caller goes away in the middle.
        self.again.store(milliseconds() + AGAIN, Ordering::Relaxed);
        let settled = async {
            let lost = self.lost(store).await?;
            // Looked at after the loss was found: who removes a token says so before he does.
            let graveyard = Graveyard::of(state, now).await;
            if !graveyard.is_empty() {
                bury_again(store, state, graveyard.clone(), now).await?;
            }
            let is_missed = |one: &Written| !graveyard.has_removal_since(&one.token.client_id, one.noted);
            let lost: Vec<Written> = lost.into_iter().filter(is_missed).collect();
            // Each write of ours is one that a waiting peer has not read: hurrying would feed the erasing.
            let soonest = match self.put_back_at.load(Ordering::Relaxed) {
                0 => 0,
                last => last + PAUSE,
            };
            if !lost.is_empty() && milliseconds() < soonest {
                return Ok(soonest);
            }
            self.put_back(store, lost, now).await?;
            Ok::<_, Error>(0)
        };
        match settled.await {
            Ok(again) => self.again.store(again, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(%error, "what another program did to the cache cannot be set right now");
            }
        }
    }

    /// The tokens that are not in the store any more.
    async fn lost(&self, store: &dyn CredentialStore) -> Result<Vec<Written>, Error> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(Vec::new());
        }
        let written: Vec<Written> = {
            let mut written = self.written();
            written.retain(Written::is_looked_after);
            self.count.store(written.len(), Ordering::Release);
            written.iter().cloned().collect()
        };
        let mut lost = Vec::new();
        let mut seen = Vec::new();
        for one in written {
            match store.get(&one.key).await? {
                None => lost.push(one),
                Some(_) if one.in_a_row > 0 => seen.push(one.key),
                Some(_) => {}
            }
        }
        if !seen.is_empty() {
            self.change(|written| {
                written.iter_mut().filter(|one| seen.contains(&one.key)).for_each(|one| one.in_a_row = 0);
            });
        }
        Ok(lost)
    }

    /// As few writes as can be: each is one more that a peer may not see.
    async fn put_back(
        &self,
        store: &dyn CredentialStore,
        mut lost: Vec<Written>,
        now: UnixSeconds,
    ) -> Result<(), Error> {
        while let Some(first) = lost.first() {
            let environments = first.environments.clone();
            let (those, others): (Vec<_>, Vec<_>) =
                lost.into_iter().partition(|one| one.environments == environments);
            lost = others;
            let change = Change::new(now).only_existing().environments(environments);
            let change =
                those.iter().fold(change, |change, one| change.put_unless_answered(one.token.clone()));
            apply_soon(store, &change).await?;
            self.put_back_at.store(milliseconds(), Ordering::Relaxed);
            tracing::info!(
                count = those.len(),
                "another program erased tokens from the cache; they were put back"
            );
            self.change(|written| {
                for one in written.iter_mut().filter(|one| those.iter().any(|put| put.key == one.key)) {
                    one.times += 1;
                    one.in_a_row += 1;
                    one.at = Instant::now();
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
