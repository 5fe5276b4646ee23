//! Renewal of tokens that are still good: ahead of time past `refresh_on`, at once within the margin of their end.
//!
//! Whoever has a token never fails for the sake of a newer one. Past `refresh_on` nobody waits for another's
//! request; within the margin everybody waits a second at most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::fetch::{Fetch, Need};
use super::result::AuthenticationResult;
use crate::cache::{Fallback, Hit, Miss};
use crate::platform::fork::{self, PerProcess};
use crate::time::{Deadline, UnixSeconds};
use crate::{Error, ErrorKind, oauth, wait};

/// How long a caller waits for a newer token within the margin.
const MARGIN_PATIENCE: Duration = Duration::from_secs(1);
/// How long a caller who has waited enough waits for that to be noted for others.
const NOTE_PATIENCE: Duration = Duration::from_millis(100);
/// How long a renewal that came to nothing is not tried again by this process, in seconds, at least.
const PAUSE: i64 = 5;
/// How many tokens it is noted of that they are not renewed for a while.
const MOST_NOTED: usize = 4096;
/// How many renewals run behind their callers at the same time.
const MOST: usize = 32;

/// When and where a token is renewed that is past its `refresh_on` and still good.
///
/// It is served in any case; what goes wrong with its renewal is a warning in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Renewal {
    /// Behind the caller, who gets the old token at once. For processes that live on, which call
    /// [`shutdown`](crate::ConfidentialClientApplication::shutdown) before they end.
    Background,
    /// Before the call returns, but if it takes longer than this the old token is served. For processes that end soon.
    Inline(Duration),
    /// Not ahead of time. Within the margin of its end (5 minutes, or a fifth of its lifetime) it is renewed all the
    /// same.
    Off,
}

/// The renewals of one application.
#[derive(Debug)]
pub(super) struct Renewals {
    policy: Renewal,
    /// A forked child has none of the tasks that its parent had.
    own: PerProcess<Own>,
}

#[derive(Debug)]
struct Own {
    state: Mutex<State>,
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    /// How many have begun.
    begun: u64,
    /// By flight: the so-and-so-manyth that has begun.
    under_way: HashMap<String, u64>,
    /// By flight: when to try again what came to nothing.
    not_before: HashMap<String, UnixSeconds>,
}

impl Renewals {
    pub(super) fn new(policy: Renewal) -> Self {
        let own = || Own { state: Mutex::default(), ended: watch::Sender::new(()) };
        Self { policy, own: PerProcess::new(own) }
    }

    /// Waits until all that are under way now have ended.
    pub(super) async fn ended(&self) {
        let last = self.state().begun;
        // The sender lives as long as this.
        let mut ended = self.own.get().ended.subscribe();
        let _ = ended.wait_for(|()| self.state().under_way.values().all(|nth| *nth > last)).await;
    }

    /// Whether a renewal that came to nothing is recent.
    fn is_deferred(&self, flight: &str, now: UnixSeconds) -> bool {
        self.state().not_before.get(flight).is_some_and(|then| *then > now)
    }

    fn defer(&self, flight: &str, until: UnixSeconds) {
        let mut state = self.state();
        if state.not_before.len() >= MOST_NOTED {
            // Nothing but a look at the state file depends on what is noted here.
            state.not_before.clear();
        }
        state.not_before.insert(flight.to_owned(), until);
    }

    /// Begins a renewal, unless it is under way, was in vain a moment ago, or too many are.
    fn begin(self: &Arc<Self>, flight: &str, now: UnixSeconds) -> Option<UnderWay> {
        let mut state = self.state();
        let is_deferred = state.not_before.get(flight).is_some_and(|then| *then > now);
        if is_deferred || state.under_way.contains_key(flight) || state.under_way.len() >= MOST {
            return None;
        }
        state.not_before.remove(flight);
        state.begun += 1;
        let nth = state.begun;
        state.under_way.insert(flight.to_owned(), nth);
        let (renewals, flight) = (Arc::clone(self), flight.to_owned());
        Some(UnderWay { renewals, flight, generation: fork::generation() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.own.get().state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A renewal that is under way until this is dropped.
struct UnderWay {
    renewals: Arc<Renewals>,
    flight: String,
    generation: u32,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if self.generation == fork::generation() {
            self.renewals.state().under_way.remove(&self.flight);
            self.renewals.own.get().ended.send_replace(());
        }
    }
}

impl Fetch {
    /// A token past its `refresh_on`, or the newer one where the caller waits for it.
    pub(super) async fn served_and_renewed(self: Arc<Self>, hit: Hit) -> AuthenticationResult {
        let renewals = Arc::clone(&self.shared.renewals);
        match renewals.policy {
            Renewal::Off => {}
            Renewal::Inline(deadline) => {
                let under_way = renewals.begin(self.flight(), self.shared.cache.now());
                if under_way.is_some()
                    && let Some(result) = self.renew_within(deadline).await
                {
                    return result;
                }
            }
            Renewal::Background => {
                if let Some(under_way) = renewals.begin(self.flight(), self.shared.cache.now()) {
                    let fetch = Arc::clone(&self);
                    oauth::spawn(async move {
                        if let Err(error) = fetch.renew_and_report().await {
                            tracing::warn!(%error, "a token that is still good could not be renewed");
                        }
                        drop(under_way);
                    });
                }
            }
        }
        self.shared.served(hit)
    }

    /// A newer token than one that is near its end, or that one if it is still good and the newer one is not to be had
    /// within a second.
    pub(super) async fn renewed_or_stale(self: Arc<Self>, miss: Miss) -> Result<AuthenticationResult, Error> {
        let now = self.shared.cache.now();
        let missing = Need::Missing(miss.reason);
        let Some(fallback) = miss.fallback else { return self.join(missing).await };
        if fallback.token.expires_on <= now {
            return self.joined_or_extended(missing, fallback).await;
        }
        let renewals = Arc::clone(&self.shared.renewals);
        if renewals.is_deferred(self.flight(), now) {
            return Ok(self.shared.served_stale(fallback));
        }
        match wait::until(Deadline::after(MARGIN_PATIENCE), Arc::clone(&self).join_behind()).await {
            Some(Ok(result)) => return Ok(result),
            Some(Err(error)) => {
                tracing::warn!(%error, "a token near its end could not be renewed; it is served while it lasts");
                let wait = self.deferred_for().await.unwrap_or(0).max(PAUSE);
                renewals.defer(self.flight(), now.plus(wait));
            }
            None => {
                tracing::warn!("renewing a token near its end takes long; it is served while it lasts");
                renewals.defer(self.flight(), now.plus(PAUSE));
                wait::until(Deadline::after(NOTE_PATIENCE), self.defer()).await;
            }
        }
        if fallback.token.expires_on <= self.shared.cache.now() {
            // It has ended meanwhile.
            return self.joined_or_extended(missing, fallback).await;
        }
        Ok(self.shared.served_stale(fallback))
    }

    /// A new token, or one beyond its end if that was asked for and the provider is not to be had.
    async fn joined_or_extended(
        &self,
        need: Need,
        fallback: Fallback,
    ) -> Result<AuthenticationResult, Error> {
        match self.join(need).await {
            Err(error)
                if error.kind() == ErrorKind::Network && self.shared.serves_extended(&fallback.token) =>
            {
                tracing::warn!(%error, "an expired token is served: the identity provider is not to be had");
                Ok(self.shared.served_stale(fallback))
            }
            outcome => outcome,
        }
    }

    /// Joins the flight; where this process lives on, behind the caller, so that the request outlives its patience.
    async fn join_behind(self: Arc<Self>) -> Result<AuthenticationResult, Error> {
        let renewals = &self.shared.renewals;
        let under_way = match renewals.policy {
            Renewal::Background => renewals.begin(self.flight(), self.shared.cache.now()),
            Renewal::Inline(_) | Renewal::Off => None,
        };
        let Some(under_way) = under_way else { return self.join(Need::Margin).await };
        let (sender, receiver) = oneshot::channel();
        let fetch = Arc::clone(&self);
        let spawned = oauth::spawn(async move {
            let outcome = fetch.join(Need::Margin).await;
            drop(under_way);
            let _ = sender.send(outcome);
        });
        match receiver.await {
            Ok(outcome) if spawned => outcome,
            // No thread was to be had for it.
            _ => self.join(Need::Margin).await,
        }
    }

    /// A newer token, if it is to be had so soon.
    async fn renew_within(&self, deadline: Duration) -> Option<AuthenticationResult> {
        match wait::until(Deadline::after(deadline), self.renew_and_report()).await {
            Some(Ok(renewed)) => renewed,
            Some(Err(error)) => {
                tracing::warn!(%error, "a token that is still good could not be renewed");
                None
            }
            None => {
                tracing::warn!("renewing a token that is still good takes too long; the old one is served");
                wait::until(Deadline::after(NOTE_PATIENCE), self.defer()).await;
                None
            }
        }
    }

    /// Renews, and notes when to try again if that comes to nothing. A refusal that is remembered is no news.
    async fn renew_and_report(&self) -> Result<Option<AuthenticationResult>, Error> {
        let deferred = self.deferred_for().await;
        let outcome = match deferred {
            Some(_) => Ok(None),
            None => self.renew().await,
        };
        if !matches!(outcome, Ok(Some(_))) {
            let wait = match deferred {
                Some(wait) => wait,
                None => self.deferred_for().await.unwrap_or(0).max(PAUSE),
            };
            self.shared.renewals.defer(self.flight(), self.shared.cache.now().plus(wait));
        }
        outcome
    }
}
