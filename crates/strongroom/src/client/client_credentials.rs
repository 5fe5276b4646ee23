//! Client credentials: an application's own token (RFC 6749 §4.4).

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde_json::{Map, Value, json};

use super::confidential::{ConfidentialClientApplication, ConfigurationError, Shared};
use super::fetch::{Fetch, Need};
use super::prepared::Prepared;
use super::result::{AuthenticationResult, TokenSource};
use crate::cache::{AccessTokenRequest, Answer, Fallback, Hit, MissReason};
use crate::schema::{AccessToken, Scopes};
use crate::wait::BoxFuture;
use crate::{Error, block_on};

/// A request for an application's own token; `.await` it or call [`blocking`](Self::blocking).
///
/// The cache is asked first. A token that it does not have is requested once, however many callers want it at
/// the same time in this process and, with a cache document, on this host; it is stored before it is returned. A
/// token that cannot be stored is returned all the same: see [`AuthenticationResult::persistence_error`].
///
/// A token past its `refresh_on` is served and renewed as [`Renewal`](crate::Renewal) says. One in the last five
/// minutes of its life (or the last fifth, if that is less) is renewed; if that is refused or takes longer than a
/// second it is served all the same, and marked: [`AuthenticationResult::is_stale`].
///
/// What the provider refused is remembered beside the cache, for as long as it asked for with `Retry-After`, 5 to 60
/// seconds after an outage, 1 to 5 minutes after a refusal; until then the same request gets the same error.
///
/// # Errors
/// By [`ErrorKind`](crate::ErrorKind): `Configuration` (no scope, a shared endpoint instead of a tenant, an unknown
/// host), `IdentityProvider` (it refused; [`Error::service`] has its words), `Network` (it could not be reached or
/// failed), `Unusable` and `Storage` (what lies at the cache's location cannot be read as a cache).
#[derive(Debug, Clone)]
#[must_use = "nothing is requested until this is awaited"]
pub struct AcquireTokenForClient {
    app: ConfidentialClientApplication,
    prepared: Arc<Prepared>,
    claims: Option<String>,
    force_refresh: bool,
    tenant: Option<String>,
    correlation_id: Option<String>,
}

impl AcquireTokenForClient {
    pub(super) fn new(app: ConfidentialClientApplication, scopes: Scopes) -> Self {
        let prepared = app.0.prepared.get(&app.0, scopes);
        Self { app, prepared, claims: None, force_refresh: false, tenant: None, correlation_id: None }
    }

    /// A claims challenge, the JSON text that an API answered with. No cached token answers it; the new one is
    /// stored.
    pub fn claims(mut self, claims: impl Into<String>) -> Self {
        self.claims = Some(claims.into());
        self
    }

    /// The path of a federated managed identity (`SomeFmiPath/FmiCredentialPath`) that the token is for. It is cached for
    /// this path alone: no other request is answered with it, nor this one with another token.
    pub fn fmi_path(mut self, path: impl Into<String>) -> Self {
        self.prepared = self.prepared.with_fmi_path(&self.app.0.client_id, path.into());
        self
    }

    /// Claims of the application's own for the token, the text of a JSON object; sent within `claims`. Unlike a
    /// [challenge](Self::claims) they are part of what the token is cached under, as this text: another spelling is
    /// another token.
    pub fn forwarded_client_claims(mut self, claims: impl Into<String>) -> Self {
        self.prepared = self.prepared.with_client_claims(&self.app.0.client_id, claims.into());
        self
    }

    /// Asks the identity provider even if the cache has a token, and even if it refused a moment ago, unless it asked
    /// to be left alone (`Retry-After`).
    pub fn force_refresh(mut self, force: bool) -> Self {
        self.force_refresh = force;
        self
    }

    /// Asks for a token of this tenant (id or verified domain) instead of the authority's.
    pub fn tenant_id(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Identifies the request in the logs of both sides: a GUID. By default a new one for each request.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// The token, if that can be told at once: it is in memory, not due for renewal, and the cache has not changed since
    /// it was read. Waits for nothing, takes no lock and allocates nothing, so a request that is made once can be asked
    /// again and again on a hot path. `None` says nothing about the cache: await the request.
    ///
    /// ```
    /// # use strongroom::{AuthenticationResult, ConfidentialClientApplication, Error};
    /// # async fn example(app: ConfidentialClientApplication) -> Result<AuthenticationResult, Error> {
    /// let request = app.acquire_token_for_client("https://graph.microsoft.com/.default");
    /// match request.at_once() {
    ///     Some(result) => Ok(result),
    ///     None => request.clone().await,
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn at_once(&self) -> Option<AuthenticationResult> {
        if self.force_refresh || self.claims.is_some() || self.tenant.is_some() {
            return None;
        }
        let (hit, now) = self.app.0.cache.hit_at_once(self.prepared.request()?)?;
        Some(AuthenticationResult::new(hit.token, TokenSource::Cache, now, hit.not_persisted))
    }

    /// Runs the request on this thread, for programs without an asynchronous runtime.
    ///
    /// # Errors
    /// Those of the request.
    pub fn blocking(self) -> Result<AuthenticationResult, Error> {
        match self.at_once() {
            Some(result) => Ok(result),
            None => block_on(self.run()),
        }
    }

    async fn run(self) -> Result<AuthenticationResult, Error> {
        let shared = Arc::clone(&self.app.0);
        let prepared = self.prepared.for_tenant(&shared, self.tenant.as_deref())?;
        let claims = merge_claims(
            &shared.client_capabilities,
            self.claims.as_deref(),
            prepared.extension().client_claims(),
        )?;

        let correlation_id = self.correlation_id;
        let forced = if self.force_refresh {
            Some(MissReason::Forced)
        } else {
            self.claims.is_some().then_some(MissReason::Claims)
        };
        if let Some(reason) = forced {
            shared.cache.counters().missed(reason);
            let fetch = Fetch::new(shared, &prepared, claims, true, correlation_id);
            return fetch.join(Need::Missing(reason)).await;
        }
        let answer = look_up(&shared, &prepared, Purpose::Write).await?;
        shared.cache.counters().count(&answer);
        let answer = match answer {
            Answer::Hit(hit) if !hit.refresh_due => return Ok(shared.served(hit)),
            answer => answer,
        };
        let fetch = Arc::new(Fetch::new(shared, &prepared, claims, false, correlation_id));
        match answer {
            Answer::Hit(hit) => Ok(fetch.served_and_renewed(hit).await),
            Answer::Miss(miss) => fetch.renewed_or_stale(miss).await,
        }
    }
}

impl IntoFuture for AcquireTokenForClient {
    type Output = Result<AuthenticationResult, Error>;
    type IntoFuture = AcquireTokenFuture;

    fn into_future(self) -> Self::IntoFuture {
        AcquireTokenFuture(Progress::Begun(Some(self)))
    }
}

/// The future of [`AcquireTokenForClient`]: ready at its first poll, without an allocation, if the token is in memory.
#[must_use = "nothing is requested until this is awaited"]
pub struct AcquireTokenFuture(Progress);

enum Progress {
    Begun(Option<AcquireTokenForClient>),
    Waiting(BoxFuture<'static, Result<AuthenticationResult, Error>>),
}

impl Future for AcquireTokenFuture {
    type Output = Result<AuthenticationResult, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Progress::Begun(request) = &mut self.0 {
            let request = request.take().expect("a future is not polled after it was ready");
            if let Some(result) = request.at_once() {
                return Poll::Ready(Ok(result));
            }
            self.0 = Progress::Waiting(Box::pin(request.run()));
        }
        match &mut self.0 {
            Progress::Waiting(waiting) => waiting.as_mut().poll(context),
            Progress::Begun(_) => unreachable!("it was replaced above"),
        }
    }
}

impl fmt::Debug for AcquireTokenFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AcquireTokenFuture")
    }
}

impl Shared {
    pub(super) fn served(&self, hit: Hit) -> AuthenticationResult {
        AuthenticationResult::new(hit.token, TokenSource::Cache, self.cache.now(), hit.not_persisted)
    }

    pub(super) fn served_stale(&self, fallback: Fallback) -> AuthenticationResult {
        self.cache.counters().served_stale();
        AuthenticationResult::stale(fallback.token, self.cache.now(), fallback.not_persisted)
    }

    /// Whether a token beyond its end may be served while the provider is not to be had.
    pub(super) fn serves_extended(&self, token: &AccessToken) -> bool {
        self.extended_lifetime.is_some_and(|limit| {
            let limit = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
            self.cache.now() < token.extended_expires_on.min(token.expires_on.plus(limit))
        })
    }
}

/// Whether a look-up may end in a write. A writer has a damaged document moved aside, a reader reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Write,
}

/// Looks into the cache, without the network.
pub(super) async fn look_up(shared: &Shared, prepared: &Prepared, purpose: Purpose) -> Result<Answer, Error> {
    let authority = prepared.authority();
    let look = async |request: &AccessTokenRequest| match purpose {
        Purpose::Read => shared.cache.look(request).await,
        Purpose::Write => shared.cache.look_to_write(request).await,
    };
    let mut missed = Answer::absent();
    // A tenant by its id is found under the authority's own host before anything of it has to be known.
    if let Some(request) = prepared.own() {
        match look(request).await? {
            answer @ Answer::Miss(_) if !authority.is_built_in() => missed = answer,
            answer => return Ok(answer),
        }
    }
    match shared.known_metadata(authority).await {
        // Nothing more than the look-up above has seen.
        Some(metadata) if prepared.own().is_some() && metadata.environments == authority.environments() => {
            Ok(missed)
        }
        Some(metadata) => look(&prepared.resolved(&shared.client_id, &metadata)).await,
        None => Ok(missed),
    }
}

/// The `claims` parameter: a challenge, the capabilities of the client and the application's own claims, merged deeply.
/// Of what all have the last one's counts.
pub(super) fn merge_claims(
    capabilities: &[String],
    challenge: Option<&str>,
    forwarded: Option<&str>,
) -> Result<Option<String>, Error> {
    let object = |text: Option<&str>, error| match text.map(serde_json::from_str::<Map<String, Value>>) {
        None => Ok(Map::new()),
        Some(Ok(claims)) => Ok(claims),
        Some(Err(_)) => Err(error),
    };
    let mut claims = object(challenge, ConfigurationError::Claims)?;
    if !capabilities.is_empty() {
        let access_token = claims.entry("access_token").or_insert_with(|| json!({}));
        let Value::Object(access_token) = access_token else { return Err(ConfigurationError::Claims.into()) };
        access_token.insert("xms_cc".into(), json!({ "values": capabilities }));
    }
    merge(&mut claims, object(forwarded, ConfigurationError::ForwardedClaims)?);
    let is_asked = challenge.is_some() || forwarded.is_some() || !capabilities.is_empty();
    Ok(is_asked.then(|| Value::Object(claims).to_string()))
}

fn merge(claims: &mut Map<String, Value>, others: Map<String, Value>) {
    for (name, other) in others {
        match (claims.get_mut(&name), other) {
            (Some(Value::Object(own)), Value::Object(other)) => merge(own, other),
            (_, other) => {
                claims.insert(name, other);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_and_challenge_are_merged() {
        let cp1 = ["cp1".to_owned()];
        let challenge = r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"}}}"#;
        assert_eq!(merge_claims(&[], None, None).unwrap(), None);
        assert_eq!(merge_claims(&[], Some(challenge), None).unwrap().as_deref(), Some(challenge));
        assert_eq!(
            merge_claims(&cp1, None, None).unwrap().as_deref(),
            Some(r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#)
        );
        assert_eq!(
            merge_claims(&cp1, Some(challenge), None).unwrap().as_deref(),
            Some(
                r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"},"xms_cc":{"values":["cp1"]}}}"#
            )
        );
        assert_eq!(merge_claims(&cp1, Some("[]"), None).unwrap_err().code(), "invalid_claims");
    }

    #[test]
    fn the_applications_own_claims_are_merged_into_the_others() {
        let cp1 = ["cp1".to_owned()];
        let forwarded = r#"{"access_token":{"a":{"value":"b"}},"c":1}"#;
        assert_eq!(merge_claims(&[], None, Some(forwarded)).unwrap().as_deref(), Some(forwarded));
        assert_eq!(
            merge_claims(&cp1, Some(r#"{"c":{},"access_token":{"nbf":null}}"#), Some(forwarded))
                .unwrap()
                .as_deref(),
            Some(r#"{"access_token":{"a":{"value":"b"},"nbf":null,"xms_cc":{"values":["cp1"]}},"c":1}"#)
        );
        let error = merge_claims(&[], None, Some("1")).unwrap_err();
        assert_eq!(error.code(), "invalid_forwarded_client_claims");
    }
}
