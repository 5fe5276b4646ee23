//! Refusals as they are remembered: an error that comes back without the provider being asked.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cache::{Refusal, RefusalKind};
use crate::error::{Diagnose, ErrorKind};
use crate::oauth::{AssertionError, ServiceError, ServiceErrorClass};
use crate::{Error, UnixSeconds};

/// What kind of refusal an error is, with the seconds that the provider named. `None` where the provider has nothing
/// to do with it. `has_identity`: whether the next request is known to have the same credential.
pub(super) fn kind_of(error: &Error, has_identity: bool) -> Option<(RefusalKind, Option<i64>)> {
    if error.carried::<AssertionError>().is_some() {
        return None;
    }
    if let Some(wait) = error.retry_after() {
        let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        return Some((RefusalKind::RetryAfter, Some(seconds)));
    }
    // What is no provider's error message came from a proxy or a sign-in page on the way.
    let is_foreign =
        error.service().is_some_and(|service| service.error == "http_error" || service.status == 408);
    let kind = match (error.kind(), error.service().map(ServiceError::class)) {
        (_, Some(ServiceErrorClass::Transient)) => RefusalKind::Outage,
        _ if is_foreign => RefusalKind::Outage,
        _ if !has_identity && error.service().is_some_and(is_about_the_credential) => RefusalKind::Slow,
        (ErrorKind::IdentityProvider, _) => RefusalKind::Permanent,
        (ErrorKind::Network, _) if error.code() == "timed_out" => RefusalKind::Slow,
        // Whom to trust is this side's setting: who corrects it is served at once.
        (ErrorKind::Network, _) if error.code() == "tls_failed" => return None,
        // The application's own way of sending has its own words for what is wrong, each time.
        (ErrorKind::Network, _) if error.code() == "transport_failed" => return None,
        (ErrorKind::Network, _) => RefusalKind::Outage,
        _ => return None,
    };
    Some((kind, None))
}

/// Whether another assertion could have a better answer. Entra calls some of those that it does not take, and all that
/// are malformed, an invalid request.
fn is_about_the_credential(service: &ServiceError) -> bool {
    !service.in_discovery
        && (service.status == 401 || matches!(service.error.as_str(), "invalid_client" | "invalid_request"))
}

/// The error as it is kept in the state file.
pub(super) fn record(error: &Error) -> serde_json::Value {
    let service = error.service().map(|service| service.to_record(truncated));
    let record = Record {
        of_network: error.kind() == ErrorKind::Network,
        code: error.code().into(),
        message: truncated(&error.to_string()).to_owned().into(),
        remedy: error.remedy(),
        service,
    };
    serde_json::to_value(record).unwrap_or_default()
}

/// A text that is kept: its beginning.
fn truncated(text: &str) -> &str {
    const LONGEST: usize = 2048;
    let end = (0..=LONGEST.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// A refusal that is remembered: as its first, but for the words that say so.
#[derive(Debug, thiserror::Error)]
#[error("{message} (remembered: it is asked again in {seconds} s)")]
pub(super) struct Remembered {
    kind: ErrorKind,
    code: String,
    message: String,
    remedy: Option<String>,
    #[source]
    service: Option<ServiceError>,
    seconds: u64,
    named_by_provider: bool,
}

#[derive(Serialize, Deserialize)]
struct Record<'a> {
    /// Whether it could not be reached or failed, or has refused.
    of_network: bool,
    code: Cow<'a, str>,
    message: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remedy: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<ServiceError>,
}

impl Remembered {
    pub(super) fn read(refusal: &Refusal, now: UnixSeconds) -> Self {
        let record = Record::deserialize(&refusal.error).unwrap_or_else(|_| Record {
            of_network: refusal.kind != RefusalKind::Permanent,
            code: "refused".into(),
            message: "the identity provider did not give a token a moment ago".into(),
            remedy: None,
            service: None,
        });
        let seconds = refusal.remaining(now).unwrap_or(0).unsigned_abs();
        let mut service = record.service;
        if let Some(service) = &mut service {
            service.retry_after = service.retry_after.map(|_| Duration::from_secs(seconds));
        }
        Self {
            kind: if record.of_network { ErrorKind::Network } else { ErrorKind::IdentityProvider },
            code: record.code.into_owned(),
            message: record.message.into_owned(),
            remedy: record.remedy.map(Cow::into_owned),
            service,
            seconds,
            named_by_provider: refusal.kind == RefusalKind::RetryAfter,
        }
    }
}

impl Diagnose for Remembered {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn code(&self) -> &str {
        &self.code
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        if self.named_by_provider {
            return Some(format!("try again in {} seconds", self.seconds).into());
        }
        let remedy = self.remedy.as_deref().unwrap_or("see what was refused");
        Some(format!("{remedy}; then force a refresh, or wait {} seconds", self.seconds).into())
    }

    fn is_retryable(&self) -> bool {
        self.service.as_ref().map_or(self.kind == ErrorKind::Network, Diagnose::is_retryable)
    }

    fn retry_after(&self) -> Option<Duration> {
        self.named_by_provider.then(|| Duration::from_secs(self.seconds))
    }
}
