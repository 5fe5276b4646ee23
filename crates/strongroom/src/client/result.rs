//! What an application gets: a token and what is known of it.

use std::sync::Arc;

use crate::schema::{AccessToken, Scopes};
use crate::time::UnixSeconds;
use crate::{Error, SecretString};

/// A token and what is known of it.
///
/// `Debug` shows everything but the token.
#[derive(Debug, Clone)]
pub struct AuthenticationResult {
    token: Arc<AccessToken>,
    source: TokenSource,
    now: UnixSeconds,
    not_persisted: Option<Error>,
    stale: bool,
    response: Option<SecretString>,
}

/// Where a token came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenSource {
    /// The cache: no request was made.
    Cache,
    /// The identity provider.
    IdentityProvider,
}

impl AuthenticationResult {
    pub(super) fn new(
        token: Arc<AccessToken>,
        source: TokenSource,
        now: UnixSeconds,
        not_persisted: Option<Error>,
    ) -> Self {
        Self { token, source, now, not_persisted, stale: false, response: None }
    }

    /// A token near or at its end, served because no newer one was to be had.
    pub(super) fn stale(token: Arc<AccessToken>, now: UnixSeconds, not_persisted: Option<Error>) -> Self {
        Self { stale: true, ..Self::new(token, TokenSource::Cache, now, not_persisted) }
    }

    /// The same with the answer that brought the token.
    pub(super) fn with_response(self, response: Option<SecretString>) -> Self {
        Self { response, ..self }
    }

    /// The access token. Not copied from the cache.
    #[must_use]
    pub fn access_token(&self) -> &SecretString {
        &self.token.secret
    }

    /// How the token is presented, usually `Bearer`.
    #[must_use]
    pub fn token_type(&self) -> &str {
        &self.token.token_type
    }

    /// The value of the `Authorization` header: the token's type and the token.
    #[must_use]
    pub fn authorization_header(&self) -> SecretString {
        format!("{} {}", self.token.token_type, self.token.secret.expose()).into()
    }

    /// When the token ends: Unix seconds, UTC.
    #[must_use]
    pub fn expires_on(&self) -> UnixSeconds {
        self.token.expires_on
    }

    /// Seconds until the token ends, counted from when this result was made.
    #[must_use]
    pub fn expires_in(&self) -> i64 {
        self.token.expires_on.since(self.now)
    }

    /// From when on the token should be renewed, if the provider said so: Unix seconds, UTC.
    #[must_use]
    pub fn refresh_on(&self) -> Option<UnixSeconds> {
        self.token.refresh_on
    }

    /// The scopes that were granted.
    #[must_use]
    pub fn scopes(&self) -> &Scopes {
        &self.token.target
    }

    /// Whether the token came from the cache or from the identity provider.
    #[must_use]
    pub fn token_source(&self) -> TokenSource {
        self.source
    }

    /// The identity provider's own answer, a JSON object with everything that it said, where it is the answer to this
    /// request. A token from the cache has none.
    #[must_use]
    pub fn response(&self) -> Option<&SecretString> {
        self.response.as_ref()
    }

    /// Whether the token is near its end, and served because no newer one was to be had in time.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// Whether the token is stored in the cache: for the next run, if the cache outlives the process. One that is not
    /// is served from memory as long as it lasts.
    #[must_use]
    pub fn is_persisted(&self) -> bool {
        self.not_persisted.is_none()
    }

    /// Why the token could not be stored, if it could not. The token is good all the same.
    #[must_use]
    pub fn persistence_error(&self) -> Option<&Error> {
        self.not_persisted.as_ref()
    }
}

impl TokenSource {
    /// The word of MSAL: `cache` or `identity_provider`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::IdentityProvider => "identity_provider",
        }
    }
}
