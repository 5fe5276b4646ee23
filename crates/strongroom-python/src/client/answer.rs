//! Results and errors as Python has them: the dictionaries of MSAL Python, and exceptions.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use strongroom::{
    AccessToken, AuthenticationResult, Error, ErrorKind, ServiceError, TokenSource, UnixSeconds,
};

use crate::error::{exception, kind, source};
use crate::json::to_dict;

/// What a caller gets: a token, or what the provider said instead.
///
/// # Errors
/// What MSAL has exceptions for: the provider failed or could not be reached, the configuration cannot work, the cache
/// cannot be used.
pub(super) fn outcome<'py>(
    py: Python<'py>,
    outcome: Result<AuthenticationResult, Error>,
) -> PyResult<Bound<'py, PyDict>> {
    match outcome {
        Ok(result) => served(py, &result),
        Err(error) => refused(py, &error),
    }
}

/// A token: as the provider sent it, if it just did, else as MSAL shows one from its cache.
pub(super) fn served<'py>(py: Python<'py>, result: &AuthenticationResult) -> PyResult<Bound<'py, PyDict>> {
    let answer = match result.response() {
        // A token that is there and stored is not lost to a field that nobody knows.
        Some(response) => from_provider(py, result, response.expose()).or_else(|_| plain(py, result))?,
        None => plain(py, result)?,
    };
    if result.is_stale() {
        answer.set_item(intern!(py, "stale"), true)?;
    }
    if !result.is_persisted() {
        answer.set_item(intern!(py, "persisted"), false)?;
    }
    Ok(answer)
}

fn plain<'py>(py: Python<'py>, result: &AuthenticationResult) -> PyResult<Bound<'py, PyDict>> {
    let answer = PyDict::new(py);
    let token = result.access_token().expose();
    fill(&answer, token, result.token_type(), result.expires_in(), result.refresh_on())?;
    let source = match result.token_source() {
        TokenSource::Cache => intern!(py, "cache"),
        source => &PyString::new(py, source.as_str()),
    };
    answer.set_item(intern!(py, "token_source"), source)?;
    Ok(answer)
}

/// A user's token from the cache.
pub(super) fn cached<'py>(
    py: Python<'py>,
    token: &AccessToken,
    now: UnixSeconds,
) -> PyResult<Bound<'py, PyDict>> {
    let answer = PyDict::new(py);
    let expires_in = token.expires_on.since(now);
    fill(&answer, token.secret.expose(), &token.token_type, expires_in, token.refresh_on)?;
    answer.set_item(intern!(py, "token_source"), intern!(py, "cache"))?;
    Ok(answer)
}

fn fill(
    answer: &Bound<'_, PyDict>,
    access_token: &str,
    token_type: &str,
    expires_in: i64,
    refresh_on: Option<UnixSeconds>,
) -> PyResult<()> {
    let py = answer.py();
    answer.set_item(intern!(py, "access_token"), access_token)?;
    let key = intern!(py, "token_type");
    match token_type {
        "Bearer" => answer.set_item(key, intern!(py, "Bearer"))?,
        other => answer.set_item(key, other)?,
    }
    answer.set_item(intern!(py, "expires_in"), expires_in)?;
    if let Some(refresh_on) = refresh_on {
        answer.set_item(intern!(py, "refresh_on"), refresh_on.get())?;
    }
    Ok(())
}

fn from_provider<'py>(
    py: Python<'py>,
    result: &AuthenticationResult,
    response: &str,
) -> PyResult<Bound<'py, PyDict>> {
    let answer = to_dict(py, response)?;
    // Also those by which this package says something itself.
    let is_not_shown = |key: &Bound<'_, PyAny>| {
        let key = key.to_string();
        key.starts_with('_') || matches!(&*key, "stale" | "persisted")
    };
    let not_shown: Vec<_> = answer.keys().iter().filter(is_not_shown).collect();
    for key in not_shown {
        answer.del_item(key)?;
    }
    // Some write it as text.
    if answer.contains(intern!(py, "expires_in"))? {
        answer.set_item(intern!(py, "expires_in"), result.expires_in())?;
    }
    if answer.contains(intern!(py, "refresh_in"))? {
        answer.del_item(intern!(py, "refresh_in"))?;
    }
    if let Some(refresh_on) = result.refresh_on() {
        answer.set_item(intern!(py, "refresh_on"), refresh_on.get())?;
    }
    answer.set_item(intern!(py, "token_source"), result.token_source().as_str())?;
    Ok(answer)
}

/// What the provider said, where it refused in words. Whatever else went wrong is an exception.
fn refused<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyDict>> {
    let said = error.service().filter(|service| service.status < 500 && !service.in_discovery);
    match said {
        Some(service @ ServiceError { body: Some(body), status: 400.., .. }) => {
            let answer = to_dict(py, body)?;
            // An object without an error is none that a caller can tell from a success.
            if !answer.get_item("error")?.is_some_and(|error| error.is_truthy().unwrap_or(false)) {
                answer.set_item("error", &service.error)?;
                answer.set_item("error_description", service.to_string())?;
            }
            Ok(answer)
        }
        // No message, but a page of somebody on the way.
        Some(service) if !matches!(&*service.error, "http_error" | "too_many_requests") => {
            fields(py, service)
        }
        _ => Err(raised(py, error)),
    }
}

/// A message that was too long to be kept as a whole.
fn fields<'py>(py: Python<'py>, service: &ServiceError) -> PyResult<Bound<'py, PyDict>> {
    let answer = PyDict::new(py);
    answer.set_item("error", &service.error)?;
    for (name, text) in [
        ("error_description", &service.error_description),
        ("suberror", &service.suberror),
        ("claims", &service.claims),
        ("correlation_id", &service.correlation_id),
        ("timestamp", &service.timestamp),
        ("trace_id", &service.trace_id),
        ("error_uri", &service.error_uri),
    ] {
        if let Some(text) = text {
            answer.set_item(name, text)?;
        }
    }
    if !service.error_codes.is_empty() {
        answer.set_item("error_codes", &service.error_codes)?;
    }
    Ok(answer)
}

/// The exception for an error of the client: which one, `strongroom._errors` decides.
fn raised(py: Python<'_>, error: &Error) -> PyErr {
    let is_of_client =
        matches!(error.kind(), ErrorKind::Network | ErrorKind::IdentityProvider | ErrorKind::Configuration);
    if !is_of_client || source::<PyErr>(error).is_some() {
        return exception(py, error);
    }
    let made = py.import("strongroom._errors").and_then(|errors| errors.getattr("of_client"));
    let made = made.and_then(|of_client| {
        let service = error.service();
        of_client.call1((
            kind(error.kind()),
            error.code(),
            error.to_string(),
            error.remedy().map(|remedy| remedy.into_owned()),
            service.map(|service| service.status),
            service.is_some_and(|service| service.in_discovery),
            error.retry_after().map(|wait| wait.as_secs()),
        ))
    });
    made.map_or_else(|failed| failed, PyErr::from_value)
}
