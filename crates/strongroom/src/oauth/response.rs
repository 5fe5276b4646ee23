//! Messages in: the token response.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::credential::{Proof, without_token};
use super::transport::HttpResponse;
use crate::error::{Diagnose, ErrorKind};
use crate::schema::lenient;
use crate::time::UnixSeconds;
use crate::{Error, SecretString};

/// What MSAL Python assumes where the provider does not say how long a token lives.
const DEFAULT_LIFETIME: i64 = 600;
/// Ten years: what lives longer is a mistake.
const LONGEST_LIFETIME: i64 = 10 * 365 * 86_400;

/// A successful answer of the token endpoint (RFC 6749 §5.1).
#[derive(Debug)]
pub(crate) struct TokenResponse {
    pub(crate) access_token: SecretString,
    pub(crate) token_type: String,
    /// Seconds, more than zero.
    pub(crate) expires_in: i64,
    /// Seconds, at least `expires_in`.
    pub(crate) ext_expires_in: i64,
    /// Seconds.
    pub(crate) refresh_in: Option<i64>,
    /// Space-separated, if the provider said what it granted.
    pub(crate) scope: Option<String>,
    /// The whole answer.
    pub(crate) body: Option<SecretString>,
}

/// An answer that is neither a token response nor an error message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the answer (HTTP {status}, {content_type}) is not a token response")]
    NotATokenResponse { status: u16, content_type: String },
    #[error("the token response has no access_token")]
    NoAccessToken,
    #[error("the token is of type {0:?}, and a bearer token was asked for")]
    OtherTokenType(String),
    #[error("the token response says that the token lives {0} seconds")]
    Lifetime(i64),
}

impl TokenResponse {
    /// Reads the answer, received at `now`, to a request for a bearer token that carried `proof`.
    pub(crate) fn read(response: HttpResponse, proof: &Proof, now: UnixSeconds) -> Result<Self, Error> {
        if !response.is_success() {
            return Err(response.into_service_error(Some(proof)).into());
        }
        // The answer's own words, as an error is to show them.
        let shown = |text: &str| -> String {
            let text = text.chars().filter(|c| !c.is_control()).collect();
            proof.redact(text).chars().take(80).collect()
        };
        let Some(wire) = lenient::object::<Wire>(response.body.expose()) else {
            return Err(ResponseError::NotATokenResponse {
                status: response.status,
                content_type: response.header("content-type").map_or_else(|| "no content type".into(), shown),
            }
            .into());
        };
        if wire.error.is_some() {
            return Err(response.into_service_error(Some(proof)).into());
        }
        let body = std::str::from_utf8(response.body.expose()).ok().map(SecretString::from);
        Ok(TokenResponse { body, ..wire.check(now, shown)? })
    }
}

#[derive(Deserialize)]
struct Wire {
    /// Of any type: what has one is no success.
    #[serde(default)]
    error: Option<Value>,
    #[serde(default, deserialize_with = "lenient::secret")]
    access_token: Option<SecretString>,
    #[serde(default, deserialize_with = "lenient::text")]
    token_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::seconds")]
    expires_in: Option<i64>,
    #[serde(default, deserialize_with = "lenient::seconds")]
    expires_on: Option<i64>,
    #[serde(default, deserialize_with = "lenient::seconds")]
    ext_expires_in: Option<i64>,
    #[serde(default, deserialize_with = "lenient::seconds")]
    refresh_in: Option<i64>,
    #[serde(default, deserialize_with = "lenient::text")]
    scope: Option<String>,
}

impl Wire {
    fn check(self, now: UnixSeconds, shown: impl Fn(&str) -> String) -> Result<TokenResponse, ResponseError> {
        let access_token =
            self.access_token.filter(|token| !token.is_empty()).ok_or(ResponseError::NoAccessToken)?;
        let token_type = self.token_type.filter(|kind| !kind.is_empty()).unwrap_or_else(|| "Bearer".into());
        if !token_type.eq_ignore_ascii_case("Bearer") {
            let token_type = without_token(token_type, access_token.expose());
            return Err(ResponseError::OtherTokenType(shown(&token_type)));
        }
        let expires_in = self
            .expires_in
            .or_else(|| Some(UnixSeconds::new(self.expires_on?).since(now)))
            .unwrap_or(DEFAULT_LIFETIME);
        if !(1..=LONGEST_LIFETIME).contains(&expires_in) {
            return Err(ResponseError::Lifetime(expires_in));
        }
        Ok(TokenResponse {
            access_token,
            token_type,
            expires_in,
            ext_expires_in: self.ext_expires_in.unwrap_or(expires_in).clamp(expires_in, LONGEST_LIFETIME),
            refresh_in: self.refresh_in.filter(|seconds| (1..=expires_in).contains(seconds)),
            scope: self.scope.filter(|scope| !scope.trim().is_empty()),
            body: None,
        })
    }
}

impl Diagnose for ResponseError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Network
    }

    fn code(&self) -> &str {
        "unexpected_answer"
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some("check the authority, and proxies or sign-in pages on the way".into())
    }

    fn is_retryable(&self) -> bool {
        false
    }
}
