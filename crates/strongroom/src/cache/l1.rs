//! The memory in front of the store: lock-free reads, bounded in bytes.
//!
//! An entry is good only while the store's generation is the one that it was read at. Eviction is a clock: an
//! entry that was read since the hand last passed gets a second chance.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::sync::{AtomicBool, AtomicUsize, HashMap, Mutex};
use crate::schema::{AccessToken, CredentialKey};

/// What an entry costs beside its texts: the map's slot, the key's place in the queue, the structs.
const OVERHEAD: usize = 512;

#[derive(Debug)]
pub(super) struct L1 {
    entries: HashMap<CredentialKey, Arc<Slot>>,
    bound: usize,
    bytes: AtomicUsize,
    hand: Mutex<VecDeque<CredentialKey>>,
}

#[derive(Debug)]
struct Slot {
    token: Arc<AccessToken>,
    generation: u64,
    bytes: usize,
    used: AtomicBool,
}

impl L1 {
    pub(super) fn new(bound: usize) -> Self {
        Self { entries: HashMap::new(), bound, bytes: AtomicUsize::new(0), hand: Mutex::default() }
    }

    /// The token under `key`, if it was read at this generation of the store.
    pub(super) fn get(&self, key: &CredentialKey, generation: u64) -> Option<Arc<AccessToken>> {
        let entries = self.entries.pin();
        let slot = entries.get(key)?;
        if slot.generation != generation {
            return None;
        }
        // Written only when it changes, so that readers of a hot key do not contend for the line.
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&slot.token))
    }

    pub(super) fn insert(&self, key: CredentialKey, token: Arc<AccessToken>, generation: u64) {
        let bytes = weight(&key, &token);
        if bytes > self.bound {
            return;
        }
        // One writer at a time: the queue, the counter and the map change together.
        let mut hand = self.hand.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = self.entries.pin();
        let slot = Arc::new(Slot { token, generation, bytes, used: AtomicBool::new(false) });
        match entries.insert(key.clone(), slot) {
            Some(old) => {
                self.bytes.fetch_sub(old.bytes, Ordering::Relaxed);
            }
            None => hand.push_back(key),
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        while self.bytes.load(Ordering::Relaxed) > self.bound {
            let Some(candidate) = hand.pop_front() else { break };
            match entries.get(&candidate) {
                Some(slot) if slot.used.swap(false, Ordering::Relaxed) => hand.push_back(candidate),
                Some(slot) => {
                    self.bytes.fetch_sub(slot.bytes, Ordering::Relaxed);
                    entries.remove(&candidate);
                }
                None => {}
            }
        }
    }
}

/// What a token costs in memory, about.
pub(super) fn weight(key: &CredentialKey, token: &AccessToken) -> usize {
    OVERHEAD
        + 2 * key.as_str().len()
        + token.secret.len()
        + token.client_id.len()
        + token.realm.len()
        + token.environment.len()
        + token.target.iter().map(str::len).sum::<usize>()
}

#[cfg(test)]
#[cfg(shuttle)]
mod model;

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use crate::schema::{Partition, TokenScheme};
    use crate::{SecretString, UnixSeconds};

    fn entry(name: &str) -> (CredentialKey, Arc<AccessToken>) {
        let token = AccessToken {
            home_account_id: None,
            environment: "h".into(),
            client_id: "c".into(),
            realm: "r".into(),
            target: name.into(),
            secret: SecretString::from("x".repeat(1500)),
            token_type: "Bearer".into(),
            scheme: TokenScheme::Bearer,
            cached_at: UnixSeconds::new(0),
            expires_on: UnixSeconds::new(1),
            extended_expires_on: UnixSeconds::new(1),
            refresh_on: None,
            user_assertion_hash: None,
            extended: None,
        };
        let key = Partition::of_access_token(&token).access_token(&token.target, &TokenScheme::Bearer, None);
        (key, Arc::new(token))
    }

    #[test]
    fn memory_stays_within_its_bound_and_what_is_used_stays_longest() {
        let l1 = L1::new(20_000);
        let (hot, token) = entry("hot");
        l1.insert(hot.clone(), token, 1);
        for n in 0..1000 {
            assert!(l1.get(&hot, 1).is_some(), "the hot entry is gone after {n} others");
            let (key, token) = entry(&format!("cold-{n}"));
            l1.insert(key.clone(), token, 1);
            assert!(l1.bytes.load(Ordering::Relaxed) <= 20_000);
            assert!(l1.entries.len() <= 20);
        }
    }

    #[test]
    fn an_entry_of_another_generation_is_no_answer() {
        let l1 = L1::new(20_000);
        let (key, token) = entry("a");
        l1.insert(key.clone(), token, 1);
        assert!(l1.get(&key, 1).is_some());
        assert!(l1.get(&key, 2).is_none());
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept() {
        let l1 = L1::new(100);
        let (key, token) = entry("a");
        l1.insert(key.clone(), token, 1);
        assert!(l1.get(&key, 1).is_none());
    }

    #[test]
    fn replacing_an_entry_counts_its_bytes_once() {
        let l1 = L1::new(20_000);
        for generation in 0..100 {
            let (key, token) = entry("a");
            l1.insert(key, token, generation);
        }
        assert!(l1.bytes.load(Ordering::Relaxed) < 3_000);
        assert_eq!(l1.hand.lock().unwrap().len(), 1);
    }
}
