//! The silent flow: what the cache has.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::Arc;

use super::client_credentials::{Purpose, look_up, merge_claims};
use super::confidential::{ConfidentialClientApplication, Shared};
use super::fetch::Fetch;
use super::prepared::Prepared;
use super::result::AuthenticationResult;
use crate::cache::Answer;
use crate::schema::Scopes;
use crate::{Error, block_on};

/// A request to the cache for an application's own token; `.await` it or call [`blocking`](Self::blocking).
///
/// Its output is `None` where the cache has no token that is still good; then no request is made. A token that is due
/// for renewal is renewed as by [`AcquireTokenForClient`](crate::AcquireTokenForClient).
///
/// # Errors
/// `Configuration` (no scope), `Unusable` and `Storage` (what lies at the cache's location cannot be read as a
/// cache).
#[derive(Debug, Clone)]
#[must_use = "nothing is looked up until this is awaited"]
pub struct AcquireTokenSilent {
    app: ConfidentialClientApplication,
    prepared: Arc<Prepared>,
    tenant: Option<String>,
}

impl AcquireTokenSilent {
    pub(super) fn new(app: ConfidentialClientApplication, scopes: Scopes) -> Self {
        let prepared = app.0.prepared.get(&app.0, scopes);
        Self { app, prepared, tenant: None }
    }

    /// Looks for a token of this tenant (id or verified domain) instead of the authority's.
    pub fn tenant_id(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }

    /// Looks on this thread, for programs without an asynchronous runtime.
    ///
    /// # Errors
    /// Those of the request.
    pub fn blocking(self) -> Result<Option<AuthenticationResult>, Error> {
        block_on(self.run())
    }

    async fn run(self) -> Result<Option<AuthenticationResult>, Error> {
        let shared = Arc::clone(&self.app.0);
        let prepared = self.prepared.for_tenant(&shared, self.tenant.as_deref())?;
        let answer = look_up(&shared, &prepared, Purpose::Read).await?;
        shared.cache.counters().count(&answer);
        let fetch = |shared: Arc<Shared>| {
            let claims = merge_claims(&shared.client_capabilities, None, None)?;
            Ok::<_, Error>(Arc::new(Fetch::new(shared, &prepared, claims, false, None)))
        };
        let now = shared.cache.now();
        Ok(match answer {
            Answer::Hit(hit) if !hit.refresh_due => Some(shared.served(hit)),
            Answer::Hit(hit) => Some(fetch(shared)?.served_and_renewed(hit).await),
            Answer::Miss(miss)
                if miss.fallback.as_ref().is_some_and(|fallback| fallback.token.expires_on > now) =>
            {
                Some(fetch(shared)?.renewed_or_stale(miss).await?)
            }
            Answer::Miss(_) => None,
        })
    }
}

impl IntoFuture for AcquireTokenSilent {
    type Output = Result<Option<AuthenticationResult>, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}
