//! Faults on request: what may be wrong with an answer, and the queue from which requests take
//! their share. Says what is to happen; [`crate::observe`] makes it happen.

use std::collections::BTreeMap;

use axum::http::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::error::StsError;

/// What a request is for, as faults and statistics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// The token endpoint of any tenant.
    Token,
    /// Instance discovery.
    Discovery,
    /// The OpenID configuration of any tenant.
    OpenidConfiguration,
    /// The published signing keys.
    Jwks,
    /// The sample API.
    Api,
    /// All of them. Written `*`; only faults use it.
    #[serde(rename = "*")]
    Any,
}

/// A fault, as `PUT {control}/faults` takes it. Everything but `path` is optional.
///
/// A fault with a `status` or a `body` answers in the provider's place; without, the provider's own
/// answer is used: late (`delay_ms`), with other headers, cut off, or held back.
///
/// ```
/// use strongroom_sts::{Endpoint, Fault};
///
/// let throttled = Fault::new(Endpoint::Token).status(429).header("Retry-After", "3").times(2);
/// let cut_off = Fault::new(Endpoint::Token).cut_after_bytes(100);
/// let slow = Fault::new(Endpoint::Any).delay_ms(200);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which requests.
    pub path: Endpoint,
    /// How many requests, -1 for ever. Unset: one, but for ever if the fault only delays or holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// The HTTP status, 200-599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Headers that replace those of the same name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The body, sent as it is. Its content type is that of `headers`, else `text/html` if it
    /// begins with `<`, else `application/json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Milliseconds before the answer, at most an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The connection is closed, without TLS's good-bye, after that many bytes of the body; 0:
    /// before any byte of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut_after_bytes: Option<u64>,
    /// Requests wait until the faults are deleted and are answered normally then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
}

impl Fault {
    /// A fault of these requests that does nothing yet.
    pub fn new(path: Endpoint) -> Self {
        Self {
            path,
            count: None,
            status: None,
            headers: BTreeMap::new(),
            body: None,
            delay_ms: None,
            cut_after_bytes: None,
            hold: false,
        }
    }

    /// Sets `count`.
    #[must_use]
    pub fn times(mut self, count: i64) -> Self {
        self.count = Some(count);
        self
    }

    /// Sets `count` to -1.
    #[must_use]
    pub fn for_ever(self) -> Self {
        self.times(-1)
    }

    /// Sets `status`.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sets `body`.
    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets `delay_ms`.
    #[must_use]
    pub fn delay_ms(mut self, milliseconds: u64) -> Self {
        self.delay_ms = Some(milliseconds);
        self
    }

    /// Sets `cut_after_bytes`.
    #[must_use]
    pub fn cut_after_bytes(mut self, bytes: u64) -> Self {
        self.cut_after_bytes = Some(bytes);
        self
    }

    /// Sets `hold`.
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.hold = true;
        self
    }

    /// True if the fault's own status or body takes the place of the provider's answer.
    pub(crate) fn answers(&self) -> bool {
        self.status.is_some() || self.body.is_some()
    }

    fn validate(&self) -> Result<(), StsError> {
        let refuse = |problem: String| Err(StsError::Control { problem });
        if self.count.is_some_and(|n| n < -1 || n == 0) {
            return refuse("count is -1 (for ever) or at least 1".to_owned());
        }
        if self.status.is_some_and(|s| !(200..=599).contains(&s)) {
            return refuse("status is 200 to 599".to_owned());
        }
        if self.delay_ms.is_some_and(|ms| ms > MAX_DELAY_MS) {
            return refuse(format!("delay_ms is at most {MAX_DELAY_MS}"));
        }
        for (name, value) in &self.headers {
            if HeaderName::try_from(name).is_err() || HeaderValue::try_from(value).is_err() {
                return refuse(format!("header {name:?} is not a valid HTTP header"));
            }
            if name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding") {
                return refuse(format!("header {name:?} would break the framing; use cut_after_bytes"));
            }
        }
        Ok(())
    }
}

/// The faults that wait for their requests, oldest first.
#[derive(Debug, Default)]
pub(crate) struct FaultQueue {
    queued: Vec<(Fault, Remaining)>,
}

impl FaultQueue {
    pub(crate) fn push(&mut self, fault: Fault) -> Result<(), StsError> {
        fault.validate()?;
        if self.queued.len() >= MAX_QUEUED {
            return Err(StsError::control(format!("{MAX_QUEUED} faults are waiting already")));
        }
        let remaining = match fault.count {
            Some(n) => u64::try_from(n).map_or(Remaining::Unlimited, Remaining::Times),
            // One that falsifies an answer is an event, one that slows it down a condition.
            None if fault.answers() || fault.cut_after_bytes.is_some() || !fault.headers.is_empty() => {
                Remaining::Times(1)
            }
            None => Remaining::Unlimited,
        };
        self.queued.push((fault, remaining));
        Ok(())
    }

    /// The first fault for this endpoint; one use of it is gone.
    pub(crate) fn take(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let matches = |fault: &Fault| fault.path == endpoint || fault.path == Endpoint::Any;
        let index = self.queued.iter().position(|(fault, _)| matches(fault))?;
        match &mut self.queued[index].1 {
            Remaining::Times(1) => return Some(self.queued.remove(index).0),
            Remaining::Times(n) => *n -= 1,
            Remaining::Unlimited => {}
        }
        Some(self.queued[index].0.clone())
    }

    pub(crate) fn clear(&mut self) {
        self.queued.clear();
    }
}

#[derive(Debug)]
enum Remaining {
    Times(u64),
    Unlimited,
}

const MAX_DELAY_MS: u64 = 3_600_000;
const MAX_QUEUED: usize = 10_000;
