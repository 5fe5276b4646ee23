//! What happens around every handler: the request is counted, its fault, if one waits for it, is
//! carried out, and the answer gets the provider's headers.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{self, Body};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::answer::{JSON_UTF8, RequestIds, stamp_date};
use crate::checks::TokenForm;
use crate::connection::Cut;
use crate::control::Arrival;
use crate::faults::{Endpoint, Fault};
use crate::provider::Provider;

/// The layer around the handler of an endpoint.
pub(crate) async fn observe(
    State((provider, endpoint)): State<(Arc<Provider>, Endpoint)>,
    mut request: Request,
    next: Next,
) -> Response {
    let ids = RequestIds::of(request.headers());
    request.extensions_mut().insert(ids);
    let stamp = |mut response: Response| {
        let now = provider.control.now();
        match endpoint {
            Endpoint::Api => stamp_date(response.headers_mut(), now),
            _ => ids.stamp(&mut response, now),
        }
        response
    };
    // Before it counts: what is counted by grant must be read first.
    let (request, grant) = match endpoint {
        Endpoint::Token => match read_form(request).await {
            Ok((request, grant)) => (request, Some(grant)),
            Err(status) => {
                provider.control.count_unreadable(endpoint);
                return stamp(status.into_response());
            }
        },
        _ => (request, None),
    };
    let fault = match provider.control.arrive(endpoint, grant) {
        Arrival::Normal => return stamp(next.run(request).await),
        Arrival::Held(held) => {
            held.released().await;
            return stamp(next.run(request).await);
        }
        Arrival::TooManyHeld => return stamp(StatusCode::SERVICE_UNAVAILABLE.into_response()),
        Arrival::Faulted(fault) => fault,
    };
    tracing::debug!(?endpoint, "a fault takes this request");
    if let Some(milliseconds) = fault.delay_ms {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
    let cut = request.extensions().get::<Arc<Cut>>().cloned();
    if let (Some(0), Some(cut)) = (fault.cut_after_bytes, &cut) {
        cut.before_answer();
        return StatusCode::OK.into_response();
    }
    let answer = if fault.answers() { substitute(&fault) } else { next.run(request).await };
    let mut answer = stamp(answer);
    for (name, value) in &fault.headers {
        // Checked when the fault was put in.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            answer.headers_mut().insert(name, value);
        }
    }
    match (fault.cut_after_bytes, cut) {
        (Some(bytes), Some(cut)) => cut_off(answer, bytes, cut).await,
        _ => answer,
    }
}

/// Reads the body and puts it back.
async fn read_form(request: Request) -> Result<(Request, &'static str), StatusCode> {
    let (parts, body) = request.into_parts();
    let bytes = tokio::time::timeout(BODY_TIMEOUT, body::to_bytes(body, MAX_BODY))
        .await
        .map_err(|_| StatusCode::REQUEST_TIMEOUT)?
        .map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let grant = TokenForm::parse(&parts.headers, &bytes).grant_for_stats();
    Ok((Request::from_parts(parts, Body::from(bytes)), grant))
}

/// The fault's own answer.
fn substitute(fault: &Fault) -> Response {
    let status = fault.status.and_then(|s| StatusCode::from_u16(s).ok()).unwrap_or(StatusCode::OK);
    let body = fault.body.clone().unwrap_or_default();
    let content_type =
        if body.starts_with('<') { HeaderValue::from_static("text/html; charset=utf-8") } else { JSON_UTF8 };
    (status, [(CONTENT_TYPE, content_type)], body).into_response()
}

async fn cut_off(answer: Response, bytes: u64, cut: Arc<Cut>) -> Response {
    let (parts, body) = answer.into_parts();
    // Our own answers are in memory and cannot fail.
    let whole = body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let keep = usize::try_from(bytes).unwrap_or(usize::MAX);
    Response::from_parts(parts, Body::new(cut.body(whole, keep)))
}

/// The most that a token request may have.
pub(crate) const MAX_BODY: usize = 1024 * 1024;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
