//! Credentials in the memory of this process, with nothing behind.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::{CredentialStore, Outcome, Record, StoreInfo};
use crate::persistence::{Location, Protection};
use crate::schema::{AccessToken, Change, Credential, CredentialKey, Expectation, Partition, RecordRevision};
use crate::wait::BoxFuture;
use crate::{Error, UnixSeconds};

/// A store that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    contents: RwLock<Contents>,
    /// The contents' own, for those who only ask whether anything has changed: they take no lock.
    generation: AtomicU64,
}

#[derive(Debug, Default)]
struct Contents {
    records: HashMap<CredentialKey, Record>,
    partitions: HashMap<Partition, BTreeSet<CredentialKey>>,
    /// Access tokens by their end, so that sweeping costs what it removes.
    ends: BTreeSet<(UnixSeconds, CredentialKey)>,
    generation: u64,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn read(&self) -> RwLockReadGuard<'_, Contents> {
        // A change is made step by step, but none of the steps can panic.
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn apply(&mut self, change: &Change) -> Outcome {
        if change.only_existing && self.records.is_empty() {
            return Outcome::Applied { swept: 0, removed: Vec::new() };
        }
        for put in &change.puts {
            let standing = change.keys_of(&put.credential).into_iter().find_map(|key| self.records.get(&key));
            let as_expected = match put.expectation {
                Expectation::Any => true,
                Expectation::Absent => standing.is_none(),
                Expectation::Unchanged(revision) => {
                    standing.is_some_and(|record| record.revision == revision)
                }
            };
            if !as_expected {
                return Outcome::Lost(CredentialKey::of(&put.credential));
            }
        }
        self.generation += 1;
        let mut removed: Vec<Credential> =
            change.removals.iter().filter_map(|key| self.remove(key)).collect();
        if change.removes_by_fields() {
            removed.extend(self.remove_those(|credential| change.removes(credential)));
        }
        for put in &change.puts {
            self.put(&put.credential, change);
        }
        for token in &change.put_backs {
            if !self.answers_for(token, change) {
                self.put(&Credential::AccessToken(token.clone()), change);
            }
        }
        let swept = if change.sweep { self.sweep(change.now) } else { 0 };
        let orphans = change.orphans(&removed);
        if !orphans.is_empty() {
            removed.extend(self.remove_orphans(change, &orphans));
        }
        Outcome::Applied { swept, removed }
    }

    fn put(&mut self, credential: &Credential, change: &Change) {
        let mut credential = credential.not_ahead_of(change.now);
        for key in change.keys_of(&credential) {
            if let Some(old) = self.remove(&key) {
                keep_family(&mut credential, &old);
            }
        }
        let key = CredentialKey::of(&credential);
        self.partitions.entry(Partition::of(&credential)).or_default().insert(key.clone());
        if let Credential::AccessToken(token) = &credential {
            self.ends.insert((token.ends(), key.clone()));
        }
        let revision = RecordRevision::new(self.generation);
        self.records.insert(key, Record { credential, revision });
    }

    /// Whether somebody who wants `token` is served without it.
    fn answers_for(&self, token: &AccessToken, change: &Change) -> bool {
        let partitions = change.partitions_of(token);
        let mut keys = partitions.iter().filter_map(|partition| self.partitions.get(partition)).flatten();
        keys.any(|key| {
            let record = self.records.get(key).map(|record| &record.credential);
            matches!(record, Some(Credential::AccessToken(own)) if own.answers_for(token))
        })
    }

    fn remove_orphans(&mut self, change: &Change, orphans: &HashSet<String>) -> Vec<Credential> {
        let owners: HashSet<String> =
            self.records.values().filter_map(|record| record.credential.owner_of_token()).collect();
        let stored: HashSet<CredentialKey> =
            change.puts.iter().map(|put| CredentialKey::of(&put.credential)).collect();
        self.remove_those(|credential| {
            let id = credential.home_account_id().unwrap_or_default().to_lowercase();
            matches!(credential, Credential::Account(_))
                && orphans.contains(&id)
                && !owners.contains(&id)
                && !stored.contains(&CredentialKey::of(credential))
        })
    }

    fn remove_those(&mut self, is_one: impl Fn(&Credential) -> bool) -> Vec<Credential> {
        let those = self.records.iter().filter(|(_, record)| is_one(&record.credential));
        let keys: Vec<CredentialKey> = those.map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| self.remove(key)).collect()
    }

    fn remove(&mut self, key: &CredentialKey) -> Option<Credential> {
        let record = self.records.remove(key)?;
        let partition = Partition::of(&record.credential);
        if let Some(keys) = self.partitions.get_mut(&partition) {
            keys.remove(key);
            if keys.is_empty() {
                self.partitions.remove(&partition);
            }
        }
        if let Credential::AccessToken(token) = &record.credential {
            self.ends.remove(&(token.ends(), key.clone()));
        }
        Some(record.credential)
    }

    fn sweep(&mut self, now: UnixSeconds) -> usize {
        let ended = self.ends.iter().take_while(|(end, _)| *end <= now);
        let keys: Vec<CredentialKey> = ended.map(|(_, key)| key.clone()).collect();
        keys.iter().filter_map(|key| self.remove(key)).count()
    }
}

/// A response without a family does not take it away from the application.
fn keep_family(new: &mut Credential, old: &Credential) {
    if let (Credential::AppMetadata(new), Credential::AppMetadata(old)) = (new, old)
        && new.family_id.is_none()
    {
        new.family_id.clone_from(&old.family_id);
    }
}

impl CredentialStore for MemoryStore {
    fn get<'a>(&'a self, key: &'a CredentialKey) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        Box::pin(std::future::ready(Ok(self.read().records.get(key).cloned())))
    }

    fn list<'a>(&'a self, partition: &'a Partition) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        let contents = self.read();
        let keys = contents.partitions.get(partition).into_iter().flatten();
        let records = keys.filter_map(|key| contents.records.get(key).cloned()).collect();
        Box::pin(std::future::ready(Ok(records)))
    }

    fn apply<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Outcome, Error>> {
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        let outcome = contents.apply(change);
        self.generation.store(contents.generation, Ordering::Release);
        drop(contents);
        Box::pin(std::future::ready(Ok(outcome)))
    }

    fn generation(&self) -> Result<Option<u64>, Error> {
        Ok(Some(self.generation.load(Ordering::Acquire)))
    }

    fn info(&self) -> StoreInfo {
        StoreInfo { location: Location::Memory, kind: "memory", protection: Protection::None }
    }
}
