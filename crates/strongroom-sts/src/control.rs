//! What tests steer and watch: statistics, faults, the clock's skew, the lifetimes of tokens. Both
//! ways in, the control URL and the in-process handle, come here.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::error::StsError;
use crate::faults::{Endpoint, Fault, FaultQueue};
use crate::time::{self, UnixSeconds};

/// Requests since the start or the last reset, faulted ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Token requests.
    pub token: u64,
    /// Instance discoveries.
    pub discovery: u64,
    /// Requests for an OpenID configuration.
    pub openid_configuration: u64,
    /// Requests for the signing keys.
    pub jwks: u64,
    /// Requests to the sample API.
    pub api: u64,
    /// Token requests by `grant_type`; what is no grant of Entra's counts as `other`.
    pub by_grant: BTreeMap<String, u64>,
    /// Requests that a fault holds back right now.
    pub held: u64,
}

impl Stats {
    fn count(&mut self, endpoint: Endpoint, grant: Option<&'static str>) {
        match endpoint {
            Endpoint::Token => self.token += 1,
            Endpoint::Discovery => self.discovery += 1,
            Endpoint::OpenidConfiguration => self.openid_configuration += 1,
            Endpoint::Jwks => self.jwks += 1,
            Endpoint::Api => self.api += 1,
            Endpoint::Any => {}
        }
        if let Some(grant) = grant {
            *self.by_grant.entry(grant.to_owned()).or_default() += 1;
        }
    }
}

/// What the provider issues. Unset: 3599 s, and a `refresh_in` of half the lifetime for tokens of
/// two hours or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetimes {
    /// Seconds until an access token expires, at most ten years.
    #[serde(default)]
    pub expires_in: Option<u64>,
    /// Seconds after which it should be renewed.
    #[serde(default)]
    pub refresh_in: Option<u64>,
}

impl Lifetimes {
    /// `expires_in` of the next token.
    pub(crate) fn expires_in(&self) -> u64 {
        self.expires_in.unwrap_or(3599)
    }

    /// `refresh_in` of the next token.
    pub(crate) fn refresh_in(&self) -> Option<u64> {
        let expires_in = self.expires_in();
        self.refresh_in.or_else(|| (expires_in >= 7200).then_some(expires_in / 2))
    }
}

/// The state behind the control URL.
#[derive(Debug)]
pub(crate) struct Control {
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Counts the releases of held requests.
    releases: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    stats: Stats,
    faults: FaultQueue,
    offset_s: i64,
    lifetimes: Lifetimes,
}

impl Control {
    pub(crate) fn new() -> Self {
        Self { inner: Mutex::default(), changed: Condvar::new(), releases: watch::Sender::new(0) }
    }

    /// The provider's clock.
    pub(crate) fn now(&self) -> UnixSeconds {
        time::system_now().saturating_add(self.inner().offset_s)
    }

    pub(crate) fn lifetimes(&self) -> Lifetimes {
        self.inner().lifetimes
    }

    pub(crate) fn stats(&self) -> Stats {
        self.inner().stats.clone()
    }

    /// Waits until the statistics are as wished; `None` if they are not within `timeout`.
    pub(crate) fn wait_for_stats(
        &self,
        timeout: Duration,
        mut wished: impl FnMut(&Stats) -> bool,
    ) -> Option<Stats> {
        let deadline = Instant::now() + timeout;
        let mut inner = self.inner();
        loop {
            if wished(&inner.stats) {
                return Some(inner.stats.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sets the counts to zero; what is held stays held.
    pub(crate) fn reset(&self) {
        let mut inner = self.inner();
        inner.stats = Stats { held: inner.stats.held, ..Stats::default() };
        self.changed.notify_all();
    }

    /// All or none.
    pub(crate) fn add_faults(&self, faults: Vec<Fault>) -> Result<(), StsError> {
        let mut checked = FaultQueue::default();
        for fault in &faults {
            checked.push(fault.clone())?;
        }
        let mut inner = self.inner();
        faults.into_iter().try_for_each(|fault| inner.faults.push(fault))
    }

    /// Deletes the faults and lets go what they hold.
    pub(crate) fn clear_faults(&self) {
        let mut inner = self.inner();
        inner.faults.clear();
        self.releases.send_modify(|n| *n += 1);
    }

    pub(crate) fn set_clock(&self, offset_s: i64) -> Result<(), StsError> {
        if !(-MAX_OFFSET_S..=MAX_OFFSET_S).contains(&offset_s) {
            return Err(StsError::control(format!("offset_s is at most {MAX_OFFSET_S} either way")));
        }
        self.inner().offset_s = offset_s;
        Ok(())
    }

    pub(crate) fn set_lifetimes(&self, lifetimes: Lifetimes) -> Result<(), StsError> {
        for (name, value) in [("expires_in", lifetimes.expires_in), ("refresh_in", lifetimes.refresh_in)] {
            if value.is_some_and(|s| s > MAX_LIFETIME_S) {
                return Err(StsError::control(format!("{name} is at most {MAX_LIFETIME_S} seconds")));
            }
        }
        self.inner().lifetimes = lifetimes;
        Ok(())
    }

    /// Counts a request and says what is to become of it. Counting and holding are one step: who
    /// reads `token: 3, held: 3` knows that all three wait.
    pub(crate) fn arrive(self: &Arc<Self>, endpoint: Endpoint, grant: Option<&'static str>) -> Arrival {
        let mut inner = self.inner();
        inner.stats.count(endpoint, grant);
        let arrival = match inner.faults.take(endpoint) {
            None => Arrival::Normal,
            Some(fault) if fault.hold && inner.stats.held >= MAX_HELD => Arrival::TooManyHeld,
            Some(fault) if fault.hold => {
                inner.stats.held += 1;
                // Subscribed under the lock, so that a release after it is not missed.
                Arrival::Held(Held { control: self.clone(), releases: self.releases.subscribe() })
            }
            Some(fault) => Arrival::Faulted(fault),
        };
        self.changed.notify_all();
        arrival
    }

    /// Counts a request that ended before it could be read; no fault is spent on it.
    pub(crate) fn count_unreadable(&self, endpoint: Endpoint) {
        self.inner().stats.count(endpoint, None);
        self.changed.notify_all();
    }

    /// Poison is passed over: every change under the lock is complete at each point of it.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to become of a request.
pub(crate) enum Arrival {
    Normal,
    Faulted(Fault),
    Held(Held),
    /// The bound on held requests is reached.
    TooManyHeld,
}

/// A request that waits. Dropped when it goes on, or when its client goes away.
pub(crate) struct Held {
    control: Arc<Control>,
    releases: watch::Receiver<u64>,
}

impl Held {
    pub(crate) async fn released(mut self) {
        // An error means that the control is gone; then there is nothing to wait for.
        let _ = self.releases.changed().await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.control.inner().stats.held -= 1;
        self.control.changed.notify_all();
    }
}

/// What is served below the control URL.
pub(crate) fn routes(control: Arc<Control>) -> Router {
    Router::new()
        .route("/stats", get(read_stats))
        .route("/reset", post(reset))
        .route("/faults", put(put_faults).delete(delete_faults))
        .route("/clock", put(put_clock))
        .route("/lifetimes", put(put_lifetimes))
        .with_state(control)
}

async fn read_stats(State(control): State<Arc<Control>>) -> Json<Stats> {
    Json(control.stats())
}

async fn reset(State(control): State<Arc<Control>>) -> Json<Value> {
    control.reset();
    Json(json!({}))
}

async fn put_faults(State(control): State<Arc<Control>>, body: Bytes) -> Response {
    // Not an untagged enum: its complaint would be that nothing matched, not what is wrong.
    let is_array = body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[');
    let faults = if is_array { parse(&body) } else { parse(&body).map(|fault| vec![fault]) };
    answer(faults.and_then(|faults| control.add_faults(faults)))
}

async fn delete_faults(State(control): State<Arc<Control>>) -> Json<Value> {
    control.clear_faults();
    Json(json!({}))
}

async fn put_clock(State(control): State<Arc<Control>>, body: Bytes) -> Response {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Clock {
        offset_s: i64,
    }
    answer(parse(&body).and_then(|clock: Clock| control.set_clock(clock.offset_s)))
}

async fn put_lifetimes(State(control): State<Arc<Control>>, body: Bytes) -> Response {
    answer(parse(&body).and_then(|lifetimes| control.set_lifetimes(lifetimes)))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, StsError> {
    serde_json::from_slice(body).map_err(|e| StsError::control(e.to_string()))
}

fn answer(result: Result<(), StsError>) -> Response {
    match result {
        Ok(()) => Json(json!({})).into_response(),
        Err(e) => {
            let body = json!({ "error": "invalid_request", "message": e.to_string() });
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

/// Fewer than the connections that the server takes, so that the control URL stays within reach.
const MAX_HELD: u64 = 448;
/// A century.
const MAX_OFFSET_S: i64 = 3_155_760_000;
/// Ten years.
const MAX_LIFETIME_S: u64 = 315_576_000;
