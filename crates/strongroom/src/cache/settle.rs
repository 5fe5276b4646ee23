//! What peers make of our changes, set right: tokens of ours that one erased are put back, entries that were removed and
//! that one wrote again are removed again.
//!
//! MSAL Python reloads without its lock, and can write back a document that lacks what was added meanwhile; Node and
//! Java keep in memory what others have deleted. Neither can be kept from it, so whoever looks at a document that has
//! changed looks for that, once for each change.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::state::{Note, State};
use super::tombstone::Graveyard;
use crate::schema::{AccessToken, Change, Credential, CredentialKey, Environments};
use crate::store::{CredentialStore, Outcome};
use crate::time::{Deadline, UnixSeconds};
use crate::{Error, ErrorKind, wait};

/// How long after a write of ours its loss is noticed.
const MEMORY: Duration = Duration::from_secs(30);
/// How often a token is put back.
const MOST_TIMES: u32 = 3;
/// How many writes are remembered.
const MOST: usize = 1024;
/// A look-up waits no longer for the lock; the next one tries again.
const PATIENCE: Duration = Duration::from_millis(500);

/// What this process has written lately, and which state of the document was looked at.
#[derive(Debug, Default)]
pub(super) struct Settling {
    /// The generation that was looked at, plus one; zero is none.
    settled: AtomicU64,
    written: Mutex<VecDeque<Written>>,
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
    times: u32,
}

impl Settling {
    /// Whether this generation of the store was looked at.
    pub(super) fn has_seen(&self, generation: u64) -> bool {
        self.settled.load(Ordering::Acquire) == generation.wrapping_add(1)
    }

    /// Remembers a token that was stored, to notice if it is lost.
    pub(super) fn wrote(&self, token: AccessToken, environments: &Environments, now: UnixSeconds) {
        if !token.is_app_token() {
            // A user's sign-out must hold.
            return;
        }
        let key = CredentialKey::of_access_token(&token);
        let environments = environments.clone();
        self.change(|written| {
            written.retain(|other| other.key != key && other.at.elapsed() < MEMORY);
            written.push_back(Written { key, token, environments, at: Instant::now(), noted: now, times: 0 });
            let surplus = written.len().saturating_sub(MOST);
            written.drain(..surplus);
        });
    }

    /// Sets right what peers have made of the store's state `generation`. What cannot be set right, because somebody has
    /// the lock or the store can only be read, is tried again when the store has changed again.
    pub(super) async fn settle(
        &self,
        store: &dyn CredentialStore,
        state: &State,
        now: UnixSeconds,
        generation: u64,
    ) {
        // Noted first, and of what was read before anything is changed: what is written since is looked at next.
        self.settled.store(generation.wrapping_add(1), Ordering::Release);
        let graveyard = Graveyard::of(state, now).await;
        let buried = async {
            if graveyard.is_empty() { Ok(()) } else { bury_again(store, state, graveyard.clone(), now).await }
        };
        if let Err(error) = buried.await {
            tracing::debug!(%error, "what was removed before and is there again cannot be removed now");
        }
        let put_back = async {
            for lost in self.lost(store, &graveyard).await? {
                self.put_back(store, lost, now).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = put_back.await {
            tracing::debug!(%error, "what another program erased cannot be put back now");
        }
    }

    /// The tokens that are not in the store any more, although nobody of ours has removed them.
    async fn lost(&self, store: &dyn CredentialStore, graveyard: &Graveyard) -> Result<Vec<Written>, Error> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Ok(Vec::new());
        }
        let written: Vec<Written> = {
            let mut written = self.written();
            written.retain(|one| one.at.elapsed() < MEMORY && one.times < MOST_TIMES);
            self.count.store(written.len(), Ordering::Release);
            written.iter().cloned().collect()
        };
        let mut lost = Vec::new();
        for one in written {
            if store.get(&one.key).await?.is_none()
                && !graveyard.has_removal_since(&one.token.client_id, one.noted)
            {
                lost.push(one);
            }
        }
        Ok(lost)
    }

    async fn put_back(
        &self,
        store: &dyn CredentialStore,
        lost: Written,
        now: UnixSeconds,
    ) -> Result<(), Error> {
        let change =
            Change::new(now).only_existing().put_unless_answered(lost.token).environments(lost.environments);
        apply_soon(store, &change).await?;
        tracing::info!("another program erased a token from the cache; it was put back");
        self.change(|written| {
            if let Some(one) = written.iter_mut().find(|one| one.key == lost.key) {
                one.times += 1;
            }
        });
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

    fn written(&self) -> MutexGuard<'_, VecDeque<Written>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
