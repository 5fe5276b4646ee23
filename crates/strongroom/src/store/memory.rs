//! Credentials in the memory of this process, with nothing behind.

use std::collections::{BTreeSet, HashMap};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::{CredentialStore, Outcome, Record, StoreInfo};
use crate::persistence::{Location, Protection};
use crate::schema::{Change, Credential, CredentialKey, Expectation, Partition, RecordRevision};
use crate::wait::BoxFuture;
use crate::{Error, UnixSeconds};

/// A store that ends with the process.
#[derive(Debug, Default)]
pub struct MemoryStore(RwLock<Contents>);

#[derive(Debug, Default)]
struct Contents {
    records: HashMap<CredentialKey, Record>,
    partitions: HashMap<Partition, BTreeSet<CredentialKey>>,
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
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn apply(&mut self, change: &Change) -> Outcome {
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
        for key in &change.removals {
            self.remove(key);
        }
        for put in &change.puts {
            let mut credential = put.credential.not_ahead_of(change.now);
            for key in change.keys_of(&put.credential) {
                if let Some(old) = self.remove(&key) {
                    keep_family(&mut credential, &old.credential);
                }
            }
            let key = CredentialKey::of(&credential);
            self.partitions.entry(Partition::of(&credential)).or_default().insert(key.clone());
            let revision = RecordRevision::new(self.generation);
            self.records.insert(key, Record { credential, revision });
        }
        Outcome::Applied { swept: if change.sweep { self.sweep(change.now) } else { 0 } }
    }

    fn remove(&mut self, key: &CredentialKey) -> Option<Record> {
        let record = self.records.remove(key)?;
        let partition = Partition::of(&record.credential);
        if let Some(keys) = self.partitions.get_mut(&partition) {
            keys.remove(key);
            if keys.is_empty() {
                self.partitions.remove(&partition);
            }
        }
        Some(record)
    }

    fn sweep(&mut self, now: UnixSeconds) -> usize {
        let expired: Vec<CredentialKey> = self
            .records
            .iter()
            .filter(|(_, record)| matches!(&record.credential, Credential::AccessToken(token) if token.ends() <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &expired {
            self.remove(key);
        }
        expired.len()
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
        let outcome = self.0.write().unwrap_or_else(PoisonError::into_inner).apply(change);
        Box::pin(std::future::ready(Ok(outcome)))
    }

    fn generation(&self) -> Result<Option<u64>, Error> {
        Ok(Some(self.read().generation))
    }

    fn info(&self) -> StoreInfo {
        StoreInfo { location: Location::Memory, kind: "memory", protection: Protection::None }
    }
}
