//! The memory in front of the store: lock-free reads, bounded in bytes.
//!
//! An entry is good only while the store's generation is the one that it was read at. Eviction is a clock: an
//! entry that was read since the hand last passed gets a second chance.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use super::sync::{AtomicBool, AtomicUsize, HashMap, Mutex};
use crate::schema::{AccessToken, CredentialKey, Environments, canonical};

/// What an entry costs beside its texts: the map's slot, the key's place in the queue, the structs.
const OVERHEAD: usize = 512;

#[derive(Debug)]
pub(super) struct L1 {
    /// Made when the first token is kept: a process that asks once does without.
    entries: OnceLock<Entries>,
    bound: usize,
    bytes: AtomicUsize,
    hand: Mutex<VecDeque<L1Key>>,
}

/// A key whose hash was made when the request was, not at each look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct L1Key {
    hash: u64,
    key: Arc<CredentialKey>,
}

/// Takes the hash of an [`L1Key`] as it is.
#[derive(Debug, Default)]
struct MadeBefore(u64);

type Entries = HashMap<L1Key, Arc<Slot>, BuildHasherDefault<MadeBefore>>;

#[derive(Debug)]
struct Slot {
    token: Arc<AccessToken>,
    /// The token's, in canonical form.
    environment: String,
    generation: u64,
    bytes: usize,
    used: AtomicBool,
}

impl L1 {
    pub(super) fn new(bound: usize) -> Self {
        Self { entries: OnceLock::new(), bound, bytes: AtomicUsize::new(0), hand: Mutex::default() }
    }

    /// The token that answers the request of `key`, if it was read at this generation of the store and its host is
    /// one of `environments`: of two requests with one key, one may know more aliases.
    pub(super) fn get(
        &self,
        key: &L1Key,
        environments: &Environments,
        generation: u64,
    ) -> Option<Arc<AccessToken>> {
        let entries = self.entries.get()?.pin();
        let slot = entries.get(key)?;
        let is_of_host = environments.canonical().contains(&slot.environment);
        if slot.generation != generation || !is_of_host || !environments.admits(&slot.token.environment) {
            return None;
        }
        // Written only when it changes, so that readers of a hot key do not contend for the line.
        if !slot.used.load(Ordering::Relaxed) {
            slot.used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(&slot.token))
    }

    pub(super) fn insert(&self, key: L1Key, token: Arc<AccessToken>, generation: u64) {
        let bytes = weight(&key.key, &token);
        if bytes > self.bound {
            return;
        }
        // One writer at a time: the queue, the counter and the map change together.
        // Who finds another there does without: nothing depends on what is kept here, and in a forked child the other may
        // not exist.
        let Ok(mut hand) = self.hand.try_lock() else { return };
        let entries = self.entries.get_or_init(Entries::default).pin();
        let environment = canonical(&token.environment);
        let slot = Arc::new(Slot { token, environment, generation, bytes, used: AtomicBool::new(false) });
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

impl L1Key {
    pub(super) fn new(key: CredentialKey) -> Self {
        // One for the process, so that keys of all caches can be made before the cache is known.
        static SEED: OnceLock<RandomState> = OnceLock::new();
        Self { hash: SEED.get_or_init(RandomState::new).hash_one(&key), key: Arc::new(key) }
    }

    pub(super) fn key(&self) -> &CredentialKey {
        &self.key
    }
}

impl Hash for L1Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hasher for MadeBefore {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only whole hashes are written.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
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

    fn here() -> Environments {
        Environments::of("h")
    }

    fn entry(name: &str) -> (L1Key, Arc<AccessToken>) {
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
        (L1Key::new(key), Arc::new(token))
    }

    #[test]
    fn memory_stays_within_its_bound_and_what_is_used_stays_longest() {
        let l1 = L1::new(20_000);
        let (hot, token) = entry("hot");
        l1.insert(hot.clone(), token, 1);
        for n in 0..1000 {
            assert!(l1.get(&hot, &here(), 1).is_some(), "the hot entry is gone after {n} others");
            let (key, token) = entry(&format!("cold-{n}"));
            l1.insert(key.clone(), token, 1);
            assert!(l1.bytes.load(Ordering::Relaxed) <= 20_000);
            assert!(l1.entries.get().unwrap().len() <= 20);
        }
    }

    #[test]
    fn an_entry_of_another_generation_is_no_answer() {
        let l1 = L1::new(20_000);
        let (key, token) = entry("a");
        l1.insert(key.clone(), token, 1);
        assert!(l1.get(&key, &here(), 1).is_some());
        assert!(l1.get(&key, &here(), 2).is_none());
        assert!(l1.get(&key, &Environments::of("elsewhere"), 1).is_none());
    }

    #[test]
    fn what_is_larger_than_the_bound_is_not_kept() {
        let l1 = L1::new(100);
        let (key, token) = entry("a");
        l1.insert(key.clone(), token, 1);
        assert!(l1.get(&key, &here(), 1).is_none());
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
