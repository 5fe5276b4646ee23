//! The protected sample API `/weatherforecast`: what a token is good for. It believes a token as a
//! real API does: by signature, issuer, audience and time.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use url::Url;

use crate::provider::{Provider, issuer};
use crate::time::{self, UnixSeconds};
use crate::token::verify_signature;

/// `GET /weatherforecast`.
pub(crate) async fn weather_forecast(State(provider): State<Arc<Provider>>, headers: HeaderMap) -> Response {
    let now = provider.control.now();
    match check_bearer(&provider, &headers, now) {
        Ok(()) => Json(forecasts(now)).into_response(),
        Err(problem) => {
            let mut challenge = format!(
                r#"Bearer realm="", authorization_uri="{}/common/oauth2/authorize""#,
                provider.origin()
            );
            // RFC 6750 §3.1: no error code for a request that had no token at all.
            if let Some(problem) = problem {
                tracing::debug!(problem, "token refused by the sample API");
                challenge += &format!(r#", error="invalid_token", error_description="{problem}""#);
            }
            (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, challenge)]).into_response()
        }
    }
}

/// The error is `None` if there is no bearer token.
fn check_bearer(
    provider: &Provider,
    headers: &HeaderMap,
    now: UnixSeconds,
) -> Result<(), Option<&'static str>> {
    let header = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let token = match header.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("Bearer") => token.trim(),
        _ => return Err(None),
    };
    let claims = verify_signature(&provider.keys, token).ok_or("The signature is invalid")?;
    let api = provider.registrations.sample_api();
    if !is_own_issuer(provider, &claims.iss, &claims.tid) {
        return Err(Some("The issuer is invalid"));
    }
    if claims.aud != api.id && claims.aud != api.uri {
        return Err(Some("The audience is invalid"));
    }
    if now < claims.nbf {
        return Err(Some("The token is not valid yet"));
    }
    if now >= claims.exp {
        return Err(Some("The token is expired"));
    }
    Ok(())
}

/// True for `https://localhost:PORT/TENANT/v2.0` with a tenant of ours. Any port will do: the same
/// state folder is the same provider, and a token from before a restart, with another free port,
/// is still this provider's (the signature has proved it).
fn is_own_issuer(provider: &Provider, claimed: &str, tenant: &str) -> bool {
    let Ok(url) = Url::parse(claimed) else { return false };
    provider.registrations.tenant(tenant).is_some_and(|known| {
        let port = url.port_or_known_default().unwrap_or_default();
        known.id.to_string() == tenant && claimed == issuer(&format!("https://localhost:{port}"), tenant)
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Forecast {
    date: String,
    temperature_c: i32,
    temperature_f: i32,
    summary: &'static str,
}

/// Five days from tomorrow; the weather depends on nothing but the day's place in the list.
fn forecasts(now: UnixSeconds) -> Vec<Forecast> {
    WEATHER
        .iter()
        .zip(1..)
        .map(|((temperature_c, summary), day)| Forecast {
            date: time::date_text(now.saturating_add(day * 86_400)),
            temperature_c: *temperature_c,
            temperature_f: 32 + temperature_c * 9 / 5,
            summary,
        })
        .collect()
}

const WEATHER: [(i32, &str); 5] =
    [(-5, "Freezing"), (5, "Chilly"), (15, "Mild"), (25, "Balmy"), (35, "Sweltering")];
