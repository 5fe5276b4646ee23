//! What every answer of the identity provider carries besides its body: trace and correlation ids
//! and Entra's headers.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, DATE, PRAGMA, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use uuid::Uuid;

use crate::time::{self, UnixSeconds};

/// The ids of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestIds {
    /// Ours; also `x-ms-request-id`.
    pub(crate) trace_id: Uuid,
    /// The client's `client-request-id` if that is a GUID.
    pub(crate) correlation_id: Uuid,
    echo: bool,
}

impl RequestIds {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
        Self {
            trace_id: Uuid::new_v4(),
            correlation_id: text("client-request-id")
                .and_then(|id| Uuid::parse_str(id).ok())
                .unwrap_or_else(Uuid::new_v4),
            echo: text("return-client-request-id").is_some_and(|v| v.eq_ignore_ascii_case("true")),
        }
    }

    /// Adds Entra's headers; those that a handler has chosen already (a discovery document's
    /// caching) stay.
    pub(crate) fn stamp(&self, response: &mut Response, now: UnixSeconds) {
        let headers = response.headers_mut();
        if headers.get(CONTENT_TYPE).is_some_and(|v| v == "application/json") {
            headers.insert(CONTENT_TYPE, JSON_UTF8);
        }
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store, no-cache"));
        if headers.get(CACHE_CONTROL).is_some_and(|v| v == "no-store, no-cache") {
            headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
        }
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(X_MS_REQUEST_ID, guid_value(self.trace_id));
        headers.insert(X_MS_ESTS_SERVER, HeaderValue::from_static(ESTS_SERVER));
        if self.echo {
            headers.insert(CLIENT_REQUEST_ID, guid_value(self.correlation_id));
        }
        stamp_date(headers, now);
    }
}

/// The `Date` of an answer is by the provider's clock, skew included, as a real host's would be.
pub(crate) fn stamp_date(headers: &mut HeaderMap, now: UnixSeconds) {
    if let Ok(date) = HeaderValue::try_from(time::http_text(now)) {
        headers.insert(DATE, date);
    }
}

fn guid_value(id: Uuid) -> HeaderValue {
    HeaderValue::try_from(id.to_string()).expect("a GUID is visible ASCII")
}

pub(crate) const JSON_UTF8: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const X_MS_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const X_MS_ESTS_SERVER: HeaderName = HeaderName::from_static("x-ms-ests-server");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("client-request-id");
const ESTS_SERVER: &str = "2.1.0 - STRONGROOM DevSlices";
