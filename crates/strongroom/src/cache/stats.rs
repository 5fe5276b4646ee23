//! Counters: where tokens came from, and why not from the cache.

use std::sync::atomic::{AtomicU64, Ordering};

use super::lookup::{Answer, MissReason, Tier};

/// What a cache has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Look-ups answered from memory. A look-up is a call, however many places it looked in.
    pub hits_in_memory: u64,
    /// Look-ups answered from the store.
    pub hits_in_store: u64,
    /// Look-ups without an answer because there was no such token.
    pub misses_absent: u64,
    /// Look-ups without an answer because the token had expired or was about to.
    pub misses_expired: u64,
    /// Look-ups without an answer because the clock was set back.
    pub misses_clock: u64,
    /// Requests past the cache because the caller asked for a new token.
    pub misses_forced: u64,
    /// Requests past the cache because of a claims challenge.
    pub misses_claims: u64,
    /// Tokens that came from the identity provider.
    pub from_identity_provider: u64,
    /// Tokens near or at their end that were served because no newer one was to be had.
    pub served_stale: u64,
    /// Callers that shared a request of another one, whatever came of it, or found its token after a miss.
    pub shared: u64,
    /// Calls that asked for a token of the identity provider and got none; those that shared are not counted.
    pub failed: u64,
    /// Tokens stored.
    pub stored: u64,
    /// Tokens that could not be stored, and are served from memory as long as they last.
    pub not_stored: u64,
    /// Expired access tokens removed.
    pub swept: u64,
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// The same, while they are being counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $($name: AtomicU64),* }

        impl Counters {
            pub(super) fn read(&self) -> Stats {
                Stats { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters!(
    hits_in_memory,
    hits_in_store,
    misses_absent,
    misses_expired,
    misses_clock,
    misses_forced,
    misses_claims,
    from_identity_provider,
    served_stale,
    shared,
    failed,
    stored,
    not_stored,
    swept,
);

#[cfg_attr(not(feature = "client"), allow(dead_code))]
impl Counters {
    /// Counts a look-up: once for each call of a user, however many places were looked in.
    pub(crate) fn count(&self, answer: &Answer) {
        match answer {
            Answer::Hit(hit) if hit.tier == Tier::Memory => self.hit_in_memory(),
            Answer::Hit(_) => add(&self.hits_in_store, 1),
            Answer::Miss(miss) => self.missed(miss.reason),
        }
    }

    pub(super) fn hit_in_memory(&self) {
        add(&self.hits_in_memory, 1);
    }

    pub(crate) fn missed(&self, reason: MissReason) {
        let counter = match reason {
            MissReason::Absent => &self.misses_absent,
            MissReason::Expired => &self.misses_expired,
            MissReason::ClockSetBack => &self.misses_clock,
            MissReason::Forced => &self.misses_forced,
            MissReason::Claims => &self.misses_claims,
        };
        add(counter, 1);
    }

    pub(crate) fn fetched(&self) {
        add(&self.from_identity_provider, 1);
    }

    pub(crate) fn served_stale(&self) {
        add(&self.served_stale, 1);
    }

    pub(crate) fn shared(&self) {
        add(&self.shared, 1);
    }

    pub(crate) fn failed(&self) {
        add(&self.failed, 1);
    }

    pub(super) fn stored(&self, swept: usize) {
        add(&self.stored, 1);
        add(&self.swept, swept as u64);
    }

    pub(super) fn not_stored(&self) {
        add(&self.not_stored, 1);
    }
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
