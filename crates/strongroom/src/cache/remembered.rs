//! What is remembered beside a cache, in numbers: for whoever wonders why nothing is requested, or why something goes
//! that another program has written.

use super::TokenCache;

/// What [`TokenCache::remembered`] tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Remembered {
    /// Requests that the identity provider refused and that are not sent again now.
    pub refusals: usize,
    /// Seconds until the last of them may be sent again.
    pub refused_for: i64,
    /// Removals that hold against programs that write back what was removed.
    pub removals: usize,
    /// Authorities that are not built in, and whose endpoints are known.
    pub authorities: usize,
}

impl TokenCache {
    /// What is remembered beside the cache now. What cannot be read counts as not remembered.
    pub async fn remembered(&self) -> Remembered {
        let now = self.now();
        let look = |content: &super::state::Content| {
            let refused: Vec<i64> = content.refusals().filter_map(|refusal| refusal.remaining(now)).collect();
            Remembered {
                refusals: refused.len(),
                refused_for: refused.into_iter().max().unwrap_or_default(),
                removals: content.tombstones().filter(|tombstone| tombstone.holds(now)).count(),
                authorities: content.authorities(),
            }
        };
        self.0.state.read(now, look).await
    }
}
