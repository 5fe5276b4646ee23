//! Changes to the whole cache, for those who store more than access tokens.

use std::borrow::Cow;

use super::TokenCache;
use super::tombstone::Marked;
use crate::Error;
use crate::schema::{Change, Environments};
use crate::store::Outcome;

impl TokenCache {
    /// Makes `change` as one step, with one write at most.
    ///
    /// What it removes is remembered, and removed again where another program writes it back within 90 days, as far as
    /// this library meets it. An application's own token that it stores is put back where a program erases it within five
    /// minutes.
    ///
    /// # Errors
    /// The change could not be made; the store is as it was.
    pub async fn apply(&self, change: &Change) -> Result<Outcome, Error> {
        let inner = &self.0;
        let began = self.now();
        // A change has a dialect of its own, or the cache's.
        let change = match change.dialect {
            Some(_) => Cow::Borrowed(change),
            None => Cow::Owned(change.clone().dialect_if(inner.dialect)),
        };
        for client_id in change.removed_from() {
            inner.settling.forget(client_id);
            self.announce_removal(Marked::Client(client_id), began).await;
        }
        let outcome = inner.store.apply(&change).await?;
        if let Outcome::Applied { swept, removed } = &outcome {
            self.bury(removed, began).await;
            if change.access_tokens().next().is_some() {
                inner.counters.stored(*swept);
            }
            for token in change.access_tokens().filter(|_| inner.is_shared) {
                let environments = change.environments.clone();
                let environments = environments.unwrap_or_else(|| Environments::of(&token.environment));
                inner.settling.wrote(&inner.state, token.clone(), &environments, change.dialect, began).await;
            }
        }
        Ok(outcome)
    }

    /// Sets right what programs of other languages have made of the store's state `generation`: puts back tokens of ours that
    /// are gone, removes again what has come back. Returns whether it has looked for that, which it does once for each
    /// state: what was read of it may have changed then.
    ///
    /// The look-ups for access tokens do this by themselves. What cannot be set right is tried again later.
    pub async fn settle(&self, generation: u64) -> bool {
        if self.is_settled(generation) {
            return false;
        }
        let inner = &self.0;
        inner.settling.settle(&*inner.store, &inner.state, inner.dialect, self.now(), generation).await;
        true
    }

    /// Whether [`settle`](Self::settle) has nothing to look for in the store's state `generation`. Waits for nothing.
    #[must_use]
    pub fn is_settled(&self, generation: u64) -> bool {
        !self.0.is_shared || self.0.settling.has_seen(generation)
    }
}
