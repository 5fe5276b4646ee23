//! Remembered refusals: how long what the identity provider refused is not asked for again.
//!
//! A daemon that starts each second and is refused each time must not become a load. What is remembered belongs to
//! one request: client, authority, scopes, claims and credential.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::UnixSeconds;

/// A refusal is kept a while after it has lapsed, so that the next one in a row waits longer.
const MEMORY: i64 = 3600;
/// Nobody is kept waiting longer, whatever the file or the provider says.
const LONGEST: i64 = 3600;

/// What kind of refusal it was, which says how long it counts and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RefusalKind {
    /// The provider said how long it wants to be left alone.
    RetryAfter,
    /// It could not be reached or failed.
    Outage,
    /// It will say no until somebody changes the configuration.
    Permanent,
    /// It was too slow to be waited for, or refused a credential that may be another one the next time. That defers a
    /// renewal; who has nothing to serve asks again.
    #[serde(other)]
    Slow,
}

/// A remembered refusal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) kind: RefusalKind,
    /// Unix seconds.
    until: i64,
    /// Unix seconds.
    at: i64,
    /// Which one in a row this is, from 1.
    #[serde(default)]
    count: u32,
    /// The error, in a form that only who noted it understands. Without secrets.
    #[serde(default)]
    pub(crate) error: serde_json::Value,
    /// Fields of later versions are kept.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

impl RefusalKind {
    /// The first wait and the longest, in seconds.
    #[cfg(any(feature = "client", test))]
    const fn waits(self) -> (i64, i64) {
        match self {
            Self::Permanent => (60, 300),
            Self::RetryAfter | Self::Outage | Self::Slow => (5, 60),
        }
    }
}

impl Refusal {
    /// A refusal at `now`, after `earlier` ones perhaps. `retry_after`: seconds, where the provider named them.
    #[cfg(any(feature = "client", test))]
    pub(crate) fn new(
        kind: RefusalKind,
        retry_after: Option<i64>,
        error: serde_json::Value,
        earlier: Option<&Self>,
        now: UnixSeconds,
    ) -> Self {
        let count =
            earlier.filter(|earlier| earlier.kind == kind).map_or(1, |one| one.count.saturating_add(1));
        let (first, longest) = kind.waits();
        let doubled = first << (count - 1).min(16);
        let wait = retry_after.unwrap_or(doubled.min(longest)).clamp(0, LONGEST);
        let until = now.plus(wait).get();
        Self { kind, until, at: now.get(), count, error, rest: BTreeMap::new() }
    }

    /// Seconds that it still counts, `None` if it does not any more. One from the future was noted under another
    /// clock.
    pub(crate) fn remaining(&self, now: UnixSeconds) -> Option<i64> {
        let left = UnixSeconds::new(self.until).since(now);
        (left > 0 && left <= LONGEST && now.since(UnixSeconds::new(self.at)) >= 0).then_some(left)
    }

    /// Whether this one counts from now on instead of `standing`: what the provider asked for holds as long as it said,
    /// and slowness never hides a refusal.
    pub(super) fn replaces(&self, standing: &Self, now: UnixSeconds) -> bool {
        let counts = standing.remaining(now).is_some() && standing.until > self.until;
        match standing.kind {
            RefusalKind::RetryAfter => !counts,
            RefusalKind::Outage | RefusalKind::Permanent => {
                self.kind != RefusalKind::Slow || standing.remaining(now).is_none()
            }
            RefusalKind::Slow => true,
        }
    }

    pub(super) fn is_worth_keeping(&self, now: UnixSeconds) -> bool {
        now.since(UnixSeconds::new(self.until)) < MEMORY && UnixSeconds::new(self.until).since(now) <= LONGEST
    }

    pub(super) fn noted_at(&self) -> i64 {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_begin_anew_for_another_kind() {
        let mut earlier: Option<Refusal> = None;
        let mut now = UnixSeconds::new(1000);
        let mut refused = |kind| {
            let refusal = Refusal::new(kind, None, serde_json::Value::Null, earlier.as_ref(), now);
            let wait = refusal.remaining(now).unwrap();
            assert_eq!(refusal.remaining(now.plus(wait)), None);
            now = now.plus(wait);
            earlier = Some(refusal);
            wait
        };
        let waits: Vec<i64> = (0..6).map(|_| refused(RefusalKind::Outage)).collect();
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        let waits: Vec<i64> = (0..5).map(|_| refused(RefusalKind::Permanent)).collect();
        assert_eq!(waits, [60, 120, 240, 300, 300]);
        assert!((0..100).all(|_| refused(RefusalKind::Permanent) == 300));
    }

    #[test]
    fn retry_after_counts_as_it_stands_and_an_hour_at_most() {
        let now = UnixSeconds::new(1000);
        let refused = |seconds| {
            Refusal::new(RefusalKind::RetryAfter, Some(seconds), serde_json::Value::Null, None, now)
        };
        assert_eq!(refused(17).remaining(now), Some(17));
        assert_eq!(refused(0).remaining(now), None);
        assert_eq!(refused(i64::MAX).remaining(now), Some(3600));
    }

    #[test]
    fn a_weaker_refusal_hides_no_stronger_one() {
        let now = UnixSeconds::new(1000);
        let refused = |kind, seconds| Refusal::new(kind, Some(seconds), serde_json::Value::Null, None, now);
        let throttled = refused(RefusalKind::RetryAfter, 600);
        for kind in [RefusalKind::Slow, RefusalKind::Outage, RefusalKind::Permanent] {
            assert!(!refused(kind, 60).replaces(&throttled, now), "{kind:?}");
            assert!(refused(kind, 60).replaces(&throttled, now.plus(600)), "{kind:?}");
        }
        assert!(!refused(RefusalKind::Slow, 60).replaces(&refused(RefusalKind::Permanent, 5), now));
        assert!(refused(RefusalKind::Permanent, 60).replaces(&refused(RefusalKind::Outage, 60), now));
        assert!(refused(RefusalKind::RetryAfter, 900).replaces(&throttled, now));
    }

    #[test]
    fn one_from_another_clock_does_not_count() {
        let refusal = Refusal::new(
            RefusalKind::Permanent,
            None,
            serde_json::Value::Null,
            None,
            UnixSeconds::new(10_000),
        );
        assert_eq!(refusal.remaining(UnixSeconds::new(10_059)), Some(1));
        assert_eq!(refusal.remaining(UnixSeconds::new(9_999)), None, "the clock was set back");
        assert!(!refusal.is_worth_keeping(UnixSeconds::new(0)));
        assert!(refusal.is_worth_keeping(UnixSeconds::new(10_100)));
        assert!(!refusal.is_worth_keeping(UnixSeconds::new(14_000)));
    }
}
