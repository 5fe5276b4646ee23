//! Client credentials: an application's own token (RFC 6749 §4.4).

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::confidential::{ConfidentialClientApplication, ConfigurationError, Shared};
use super::result::{AuthenticationResult, TokenSource};
use crate::authority::{Authority, Metadata};
use crate::cache::{AccessTokenRequest, Lookup, MissReason};
use crate::oauth::{RefreshReason, TokenRequest, TokenResponse};
use crate::schema::{AccessToken, Scopes, TokenScheme};
use crate::{Error, block_on};

/// A request for an application's own token; `.await` it or call [`blocking`](Self::blocking).
///
/// The cache is asked first. A token that it does not have is requested once, however many callers want it at
/// the same time in this process, and stored before it is returned. A token that cannot be stored is returned all
/// the same: see [`AuthenticationResult::persistence_error`].
///
/// # Errors
/// By [`ErrorKind`](crate::ErrorKind): `Configuration` (no scope, a shared endpoint instead of a tenant, an unknown
/// host), `IdentityProvider` (it refused; [`Error::service`] has its words), `Network` (it could not be reached or
/// failed), `Unusable` and `Storage` (what lies at the cache's location cannot be read as a cache).
#[derive(Debug, Clone)]
#[must_use = "nothing is requested until this is awaited"]
pub struct AcquireTokenForClient {
    app: ConfidentialClientApplication,
    scopes: Scopes,
    claims: Option<String>,
    force_refresh: bool,
    tenant: Option<String>,
    correlation_id: Option<String>,
}

impl AcquireTokenForClient {
    pub(super) fn new(app: ConfidentialClientApplication, scopes: Scopes) -> Self {
        Self { app, scopes, claims: None, force_refresh: false, tenant: None, correlation_id: None }
    }

    /// A claims challenge, the JSON text that an API answered with. No cached token answers it; the new one is
    /// stored.
    pub fn claims(mut self, claims: impl Into<String>) -> Self {
        self.claims = Some(claims.into());
        self
    }

    /// Asks the identity provider even if the cache has a token.
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

    /// Runs the request on this thread, for programs without an asynchronous runtime.
    ///
    /// # Errors
    /// Those of the request.
    pub fn blocking(self) -> Result<AuthenticationResult, Error> {
        block_on(self.run())
    }

    async fn run(self) -> Result<AuthenticationResult, Error> {
        let shared = Arc::clone(&self.app.0);
        check_scopes(&self.scopes)?;
        let authority = authority_for(&shared, self.tenant.as_deref())?;
        let claims = merge_claims(&shared.client_capabilities, self.claims.as_deref())?;

        let reason = if self.force_refresh {
            Some(MissReason::Forced)
        } else {
            self.claims.is_some().then_some(MissReason::Claims)
        };
        let reason = match reason {
            Some(reason) => {
                shared.cache.counters().missed(reason);
                reason
            }
            None => match look_up(&shared, &authority, &self.scopes).await? {
                Lookup::Hit(token) => return Ok(shared.served(token)),
                Lookup::Miss(reason) => reason,
            },
        };

        // What distinguishes one request from another; the credential is the application's own.
        let flight = format!(
            "{}|{}|{}|{:?}|{}",
            shared.client_id,
            authority.url(),
            self.scopes.canonical(),
            claims,
            self.force_refresh
        );
        let fetch = Fetch {
            shared: &shared,
            authority: &authority,
            scopes: &self.scopes,
            claims: claims.as_deref(),
            reason,
            correlation_id: self.correlation_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
        };
        let (outcome, was_shared) = shared.cache.flights().join(&flight, fetch.run()).await;
        match outcome {
            Ok(result) => {
                if result.token_source() == TokenSource::IdentityProvider {
                    shared.cache.counters().fetched(was_shared);
                }
                Ok((*result).clone())
            }
            Err(error) => {
                shared.cache.counters().failed();
                Err(error)
            }
        }
    }
}

impl IntoFuture for AcquireTokenForClient {
    type Output = Result<AuthenticationResult, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// One request to the identity provider.
struct Fetch<'a> {
    shared: &'a Shared,
    authority: &'a Authority,
    scopes: &'a Scopes,
    claims: Option<&'a str>,
    reason: MissReason,
    correlation_id: String,
}

impl Fetch<'_> {
    async fn run(self) -> Result<AuthenticationResult, Error> {
        let shared = self.shared;
        let exchange = shared.exchange(&self.correlation_id);
        let metadata = shared.metadata(self.authority, &exchange).await?;
        let past_the_cache = matches!(self.reason, MissReason::Forced | MissReason::Claims);
        if !past_the_cache {
            // Another flight may just have landed, or discovery may have told under which names to look.
            let request = cache_request(shared, &metadata, self.scopes);
            if let Lookup::Hit(token) = shared.cache.find_access_token(&request).await? {
                return Ok(shared.served(token));
            }
        }
        let request = TokenRequest {
            token_endpoint: &metadata.token_endpoint,
            client_id: &shared.client_id,
            credential: &shared.credential,
            scopes: self.scopes,
            claims: self.claims,
            reason: match self.reason {
                MissReason::Forced | MissReason::Claims => RefreshReason::ForcedOrClaims,
                MissReason::Absent => RefreshReason::NoToken,
                MissReason::Expired | MissReason::ClockSetBack => RefreshReason::Expired,
            },
        };
        tracing::debug!(
            endpoint = metadata.token_endpoint,
            correlation_id = self.correlation_id,
            reason = ?self.reason,
            "requesting a token"
        );
        let response = exchange.with_retry(|| request.to_http()).await?;
        let now = shared.cache.now();
        let token = access_token(shared, &metadata, self.scopes, TokenResponse::read(response, now)?);
        let stored = shared.cache.store_access_token(token.clone(), &metadata.environments).await;
        if let Err(error) = &stored {
            tracing::warn!(
                code = error.code(),
                remedy = error.remedy().as_deref().unwrap_or_default(),
                "the token could not be stored: {error}"
            );
        }
        Ok(AuthenticationResult::new(Arc::new(token), TokenSource::IdentityProvider, now, stored.err()))
    }
}

impl Shared {
    pub(super) fn served(&self, token: Arc<AccessToken>) -> AuthenticationResult {
        AuthenticationResult::new(token, TokenSource::Cache, self.cache.now(), None)
    }
}

/// Looks into the cache, without the network.
pub(super) async fn look_up(
    shared: &Shared,
    authority: &Authority,
    scopes: &Scopes,
) -> Result<Lookup, Error> {
    // A tenant by its id is found under the authority's own host before anything of it has to be known.
    if let Some(realm) = authority.tenant_id() {
        let request =
            AccessTokenRequest::for_app(&shared.client_id, &authority.environments(), realm, scopes.clone());
        let lookup = shared.cache.find_access_token(&request).await?;
        if matches!(lookup, Lookup::Hit(_)) || authority.is_built_in() {
            return Ok(lookup);
        }
    }
    match shared.known_metadata(authority).await {
        // Nothing more than the look-up above has seen.
        Some(metadata)
            if authority.tenant_id().is_some() && metadata.environments == authority.environments() =>
        {
            Ok(Lookup::Miss(MissReason::Absent))
        }
        Some(metadata) => shared.cache.find_access_token(&cache_request(shared, &metadata, scopes)).await,
        None => Ok(Lookup::Miss(MissReason::Absent)),
    }
}

pub(super) fn authority_for(shared: &Shared, tenant: Option<&str>) -> Result<Authority, Error> {
    let Some(tenant) = tenant else { return Ok(shared.authority.clone()) };
    let authority = shared.authority.with_tenant(tenant)?;
    authority.require_tenant()?;
    Ok(authority)
}

pub(super) fn check_scopes(scopes: &Scopes) -> Result<(), Error> {
    if scopes.is_empty() {
        return Err(ConfigurationError::NoScopes.into());
    }
    match scopes.iter().find(|scope| matches!(*scope, "openid" | "profile" | "offline_access")) {
        Some(scope) => Err(ConfigurationError::UserScope(scope.to_owned()).into()),
        None => Ok(()),
    }
}

fn cache_request(shared: &Shared, metadata: &Metadata, scopes: &Scopes) -> AccessTokenRequest {
    AccessTokenRequest::for_app(&shared.client_id, &metadata.environments, &metadata.realm, scopes.clone())
}

fn access_token(
    shared: &Shared,
    metadata: &Metadata,
    requested: &Scopes,
    response: TokenResponse,
) -> AccessToken {
    let now = shared.cache.now();
    AccessToken {
        home_account_id: None,
        environment: metadata.environments.own().to_owned(),
        client_id: shared.client_id.clone(),
        realm: metadata.realm.clone(),
        target: response.scope.as_deref().map_or_else(|| requested.clone(), Scopes::parse),
        secret: response.access_token,
        token_type: response.token_type,
        scheme: TokenScheme::Bearer,
        cached_at: now,
        expires_on: now.plus(response.expires_in),
        extended_expires_on: now.plus(response.ext_expires_in),
        refresh_on: response.refresh_in.map(|seconds| now.plus(seconds)),
        user_assertion_hash: None,
        extended: None,
    }
}

/// The `claims` parameter: the capabilities of the client, merged deeply with a challenge.
fn merge_claims(capabilities: &[String], challenge: Option<&str>) -> Result<Option<String>, Error> {
    let challenge: Option<Map<String, Value>> = challenge
        .map(|text| serde_json::from_str(text).map_err(|_| ConfigurationError::Claims))
        .transpose()?;
    if capabilities.is_empty() {
        return Ok(challenge.map(|claims| Value::Object(claims).to_string()));
    }
    let mut claims = challenge.unwrap_or_default();
    let access_token = claims.entry("access_token").or_insert_with(|| json!({}));
    let Value::Object(access_token) = access_token else { return Err(ConfigurationError::Claims.into()) };
    access_token.insert("xms_cc".into(), json!({ "values": capabilities }));
    Ok(Some(Value::Object(claims).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_and_challenge_are_merged() {
        let cp1 = ["cp1".to_owned()];
        let challenge = r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"}}}"#;
        assert_eq!(merge_claims(&[], None).unwrap(), None);
        assert_eq!(merge_claims(&[], Some(challenge)).unwrap().as_deref(), Some(challenge));
        assert_eq!(
            merge_claims(&cp1, None).unwrap().as_deref(),
            Some(r#"{"access_token":{"xms_cc":{"values":["cp1"]}}}"#)
        );
        assert_eq!(
            merge_claims(&cp1, Some(challenge)).unwrap().as_deref(),
            Some(
                r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"},"xms_cc":{"values":["cp1"]}}}"#
            )
        );
        assert_eq!(merge_claims(&cp1, Some("[]")).unwrap_err().code(), "invalid_claims");
    }
}
