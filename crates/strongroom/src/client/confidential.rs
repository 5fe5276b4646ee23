//! The confidential client: an application with a credential of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Map;

use super::prepared::PreparedRequests;
use super::renewal::{Renewal, Renewals};
use super::{AcquireTokenForClient, AcquireTokenSilent};
use crate::Error;
use crate::authority::{Authority, Discovered, Discovery, Metadata, Region};
use crate::cache::{AuthorityRecord, TokenCache};
use crate::error::{Diagnose, ErrorKind};
use crate::oauth::{Application, Authentication, ClientCredential, Exchange, HttpTransport, Transport};
use crate::schema::{Environments, Scopes};

/// How long what was discovered is taken for new, in seconds.
const METADATA_LIFETIME: i64 = 86_400;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// An application that signs in with a credential of its own: a daemon, a service, a job.
///
/// Cheap to clone; clones share everything. Every method works under any asynchronous runtime, and has a blocking
/// form for programs without one.
///
/// ```no_run
/// use strongroom::{ClientCredential, ConfidentialClientApplication, FilePersistence, TokenCache};
///
/// # async fn run() -> Result<(), strongroom::Error> {
/// let app = ConfidentialClientApplication::builder(
///     "6731de76-14a6-49ae-97bc-6eba6914391e",
///     "https://login.microsoftonline.com/contoso.onmicrosoft.com",
///     ClientCredential::from_secret("the secret's value"),
/// )
/// .token_cache(TokenCache::with_persistence(FilePersistence::new("token_cache.bin")?))
/// .build()?;
///
/// let result = app.acquire_token_for_client(["https://graph.microsoft.com/.default"]).await?;
/// println!("from the {}", result.token_source().as_str());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConfidentialClientApplication(pub(super) Arc<Shared>);

/// What all requests of one application share.
pub(super) struct Shared {
    pub(super) client_id: String,
    pub(super) authentication: Authentication,
    pub(super) authority: Authority,
    pub(super) region: Option<Region>,
    pub(super) cache: TokenCache,
    discovery: Discovery,
    transport: OnceLock<Arc<dyn Transport>>,
    pub(super) timeout: Duration,
    application: Application,
    pub(super) client_capabilities: Vec<String>,
    pub(super) prepared: PreparedRequests,
    pub(super) renewals: Arc<Renewals>,
    /// How long a token is served beyond its end while the provider is not to be had.
    pub(super) extended_lifetime: Option<Duration>,
    /// What sets this application's requests apart from those of others that share the cache.
    pub(super) distinction: String,
}

/// Sets up a [`ConfidentialClientApplication`].
#[derive(Debug)]
pub struct ConfidentialClientApplicationBuilder {
    client_id: String,
    authority: String,
    credential: ClientCredential,
    cache: Option<TokenCache>,
    instance_discovery: bool,
    known_authorities: Vec<String>,
    transport: Option<Arc<dyn Transport>>,
    timeout: Duration,
    application: Application,
    client_capabilities: Vec<String>,
    client_claims: Option<String>,
    azure_region: Option<String>,
    renewal: Renewal,
    extended_lifetime: Option<Duration>,
}

impl ConfidentialClientApplication {
    /// Sets up an application.
    ///
    /// `client_id` is the application's id; `authority` is `https://HOST/TENANT` with the tenant's id or a
    /// verified domain, `https://login.microsoftonline.com/contoso.onmicrosoft.com` for example.
    pub fn builder(
        client_id: impl Into<String>,
        authority: impl Into<String>,
        credential: ClientCredential,
    ) -> ConfidentialClientApplicationBuilder {
        ConfidentialClientApplicationBuilder {
            client_id: client_id.into(),
            authority: authority.into(),
            credential,
            cache: None,
            instance_discovery: true,
            known_authorities: Vec::new(),
            transport: None,
            timeout: DEFAULT_TIMEOUT,
            application: Application::default(),
            client_capabilities: Vec::new(),
            client_claims: None,
            azure_region: None,
            renewal: Renewal::Background,
            extended_lifetime: None,
        }
    }

    /// The application's own token for `scopes`: from the cache, else from the identity provider.
    ///
    /// An application asks for one resource at a time: `RESOURCE/.default`.
    ///
    /// # Errors
    /// See [`AcquireTokenForClient`].
    pub fn acquire_token_for_client(&self, scopes: impl Into<Scopes>) -> AcquireTokenForClient {
        AcquireTokenForClient::new(self.clone(), scopes.into())
    }

    /// The application's own token for `scopes` from the cache alone, as the daemons of MSAL's older samples ask
    /// for it before [`acquire_token_for_client`](Self::acquire_token_for_client).
    ///
    /// # Errors
    /// See [`AcquireTokenSilent`].
    pub fn acquire_token_silent(&self, scopes: impl Into<Scopes>) -> AcquireTokenSilent {
        AcquireTokenSilent::new(self.clone(), scopes.into())
    }

    /// Removes all of the application's own tokens from the cache, for whatever tenant, scopes and further parameters
    /// they were issued. Returns how many that were.
    ///
    /// # Errors
    /// See [`TokenCache::remove_tokens_for_client`].
    pub async fn remove_tokens_for_client(&self) -> Result<usize, Error> {
        let environments = self.known_environments().await;
        self.0.cache.remove_tokens_for_client(&self.0.client_id, &environments).await
    }

    /// The tenant's id as stored tokens have it, as far as it is known without the network: from the authority, or
    /// remembered beside the cache.
    pub async fn known_tenant_id(&self) -> Option<String> {
        let authority = &self.0.authority;
        match authority.tenant_id() {
            Some(id) => Some(id.to_owned()),
            None => self.0.known_metadata(authority).await.map(|metadata| metadata.realm),
        }
    }

    /// The hosts under which this application's tokens may be stored, as far as they are known without the network.
    pub async fn known_environments(&self) -> Environments {
        let authority = &self.0.authority;
        self.0
            .known_metadata(authority)
            .await
            .map_or_else(|| authority.environments(), |known| known.environments)
    }

    /// Waits for the renewals that are under way in the background now ([`Renewal::Background`]). To be called before
    /// the process ends; what is abandoned then costs a request, nothing else. It takes as long as a request may take ([`timeout`](ConfidentialClientApplicationBuilder::timeout)) and the lock of the cache.
    pub async fn shutdown(&self) {
        self.0.renewals.ended().await;
    }

    /// The cache that this application uses.
    #[must_use]
    pub fn token_cache(&self) -> &TokenCache {
        &self.0.cache
    }
}

impl ConfidentialClientApplicationBuilder {
    /// The cache. By default one that ends with the process.
    #[must_use]
    pub fn token_cache(mut self, cache: TokenCache) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Whether the public cloud may be asked about an authority's host that is not built in. Default: yes. With
    /// `false` the host is trusted as it is, and nobody is asked about it.
    #[must_use]
    pub fn instance_discovery(mut self, wanted: bool) -> Self {
        self.instance_discovery = wanted;
        self
    }

    /// Hosts (`host` or `host:port`) that are trusted without asking anybody about them.
    #[must_use]
    pub fn known_authorities(mut self, hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.known_authorities = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// How requests travel. By default an [`HttpTransport`] that trusts the platform's roots, made at the first
    /// request.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport + 'static) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// How long one call may spend on the network, discovery and the second try included. Default 30 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The application's name in the provider's logs.
    #[must_use]
    pub fn app_name(mut self, name: impl Into<String>) -> Self {
        self.application.name = Some(name.into());
        self
    }

    /// The application's version in the provider's logs.
    #[must_use]
    pub fn app_version(mut self, version: impl Into<String>) -> Self {
        self.application.version = Some(version.into());
        self
    }

    /// What the application can handle, `CP1` (claims challenges) for example; sent with each request.
    #[must_use]
    pub fn client_capabilities(mut self, capabilities: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.client_capabilities = capabilities.into_iter().map(Into::into).collect();
        self
    }

    /// Claims that are signed into the client assertion beside those that every assertion has, a JSON object: the
    /// `client_ip` for example. One of the same name takes the place of the library's. They go to the provider, not into
    /// the token, and count only for a [`ClientCredential::from_certificate`].
    #[must_use]
    pub fn client_claims(mut self, claims: impl Into<String>) -> Self {
        self.client_claims = Some(claims.into());
        self
    }

    /// Asks the endpoint of a region of Azure (`westeurope`) for tokens instead of the central one. They are cached as
    /// those of the central one, so applications in several regions share them.
    #[must_use]
    pub fn azure_region(mut self, region: impl Into<String>) -> Self {
        self.azure_region = Some(region.into());
        self
    }

    /// When and where a token is renewed that is past its `refresh_on` and still good. Default:
    /// [`Renewal::Background`].
    #[must_use]
    pub fn renewal(mut self, renewal: Renewal) -> Self {
        self.renewal = renewal;
        self
    }

    /// Serves a token beyond its end while the identity provider is not to be had: as long as the provider allows it
    /// (`ext_expires_in`), and `limit` at most. By default an expired token is never served. APIs accept such a token
    /// only if they are made for it.
    #[must_use]
    pub fn extended_lifetime(mut self, limit: Duration) -> Self {
        self.extended_lifetime = Some(limit);
        self
    }

    /// The application.
    ///
    /// # Errors
    /// [`ErrorKind::Configuration`]: the client id or the credential is empty, key or certificate cannot be used, the
    /// authority is not an https URL with a tenant, is an endpoint that tenants share, or is of a kind that is not
    /// supported.
    pub fn build(self) -> Result<ConfidentialClientApplication, Error> {
        if self.client_id.trim().is_empty() {
            return Err(ConfigurationError::NoClientId.into());
        }
        let client_claims = match &self.client_claims {
            Some(claims) => serde_json::from_str(claims).map_err(|_| ConfigurationError::ClientClaims)?,
            None => Map::new(),
        };
        let authentication = Authentication::new(self.credential, &self.client_id, client_claims)?;
        for text in [&self.application.name, &self.application.version].into_iter().flatten() {
            if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
                return Err(ConfigurationError::ApplicationName.into());
            }
        }
        let authority = Authority::parse(&self.authority)?;
        authority.require_tenant()?;
        let region = self.azure_region.as_deref().map(Region::parse).transpose()?;
        // Equal applications share a request; one with another secret, another way to the provider or another idea
        // of whom to trust does not.
        let transport = self.transport.as_ref().map(|transport| Arc::as_ptr(transport).cast::<()>());
        let distinction = format!(
            "{:?}",
            (
                &self.client_id,
                authentication.fingerprint(),
                transport,
                self.instance_discovery,
                &self.known_authorities,
                self.timeout,
                &region
            )
        );
        Ok(ConfidentialClientApplication(Arc::new(Shared {
            client_id: self.client_id,
            authentication,
            authority,
            region,
            cache: self.cache.unwrap_or_else(TokenCache::in_memory),
            discovery: Discovery {
                instance_discovery: self.instance_discovery,
                known_authorities: self.known_authorities,
            },
            transport: self.transport.map_or_else(OnceLock::new, OnceLock::from),
            timeout: self.timeout,
            application: self.application,
            client_capabilities: self.client_capabilities,
            prepared: PreparedRequests::default(),
            renewals: Arc::new(Renewals::new(self.renewal)),
            extended_lifetime: self.extended_lifetime,
            distinction,
        })))
    }
}

impl Shared {
    /// Requests of one call, within one deadline and under one correlation id.
    pub(super) fn exchange(&self, correlation_id: &str) -> Exchange<'_> {
        let transport = self.transport.get_or_init(|| Arc::new(HttpTransport::new()));
        Exchange::new(&**transport, self.timeout, self.application.headers(correlation_id))
    }

    /// What is known of the authority without the network. `None` where the tenant's id is not known.
    pub(super) async fn known_metadata(&self, authority: &Authority) -> Option<Metadata> {
        match Discovery::offline(authority) {
            Some(metadata) => Some(metadata),
            None => self.remembered(authority).await.map(|(metadata, _)| metadata),
        }
    }

    /// What is known of the authority, asking the network for what is missing or older than a day.
    pub(super) async fn metadata(
        &self,
        authority: &Authority,
        exchange: &Exchange<'_>,
    ) -> Result<Metadata, Error> {
        if let Some(metadata) = Discovery::offline(authority) {
            return Ok(metadata);
        }
        let remembered = self.remembered(authority).await;
        if let Some((metadata, age)) = &remembered
            && (0..METADATA_LIFETIME).contains(age)
            && self.may_rely_on(authority, metadata)
        {
            return Ok(metadata.clone());
        }
        match (self.discovery.fetch(authority, exchange).await, remembered) {
            (Ok(metadata), _) => {
                self.remember(authority, &metadata).await;
                Ok(metadata)
            }
            // Endpoints seldom move: an outage of discovery need not be one of the application.
            (Err(error), Some((metadata, _)))
                if error.kind() == ErrorKind::Network && self.may_rely_on(authority, &metadata) =>
            {
                tracing::warn!(%error, "discovery failed; going on with what is remembered");
                Ok(metadata)
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Whether a secret may be sent to what is remembered: who wants the cloud to be asked about a host does not
    /// take the word of an application that does not.
    fn may_rely_on(&self, authority: &Authority, metadata: &Metadata) -> bool {
        let asked = metadata.discovered.as_ref().is_some_and(|discovered| discovered.instance_discovery);
        asked || self.discovery.trusts(authority)
    }

    /// What is remembered, with its age in seconds.
    async fn remembered(&self, authority: &Authority) -> Option<(Metadata, i64)> {
        let record = self.cache.remembered_authority(&authority.url()).await?;
        let age = record.age(self.cache.now());
        let discovered = Discovered {
            preferred_cache: record.preferred_cache,
            aliases: record.aliases,
            instance_discovery: record.instance_discovery,
        };
        let metadata = Discovery::remembered(authority, &record.token_endpoint, &record.realm, discovered)?;
        Some((metadata, age))
    }

    async fn remember(&self, authority: &Authority, metadata: &Metadata) {
        let Some(discovered) = &metadata.discovered else { return };
        let record = AuthorityRecord {
            token_endpoint: metadata.token_endpoint.clone(),
            realm: metadata.realm.clone(),
            preferred_cache: discovered.preferred_cache.clone(),
            aliases: discovered.aliases.clone(),
            instance_discovery: discovered.instance_discovery,
            fetched_at: self.cache.now().get(),
            rest: BTreeMap::default(),
        };
        self.cache.remember_authority(&authority.url(), record).await;
    }
}

impl fmt::Debug for ConfidentialClientApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfidentialClientApplication")
            .field("client_id", &self.0.client_id)
            .field("authority", &self.0.authority.url())
            .finish_non_exhaustive()
    }
}

/// What cannot work, whatever the network says.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigurationError {
    #[error("the client id is empty")]
    NoClientId,
    #[error("the client claims are not a JSON object")]
    ClientClaims,
    #[error("the application's name or version has characters that cannot stand in an HTTP header")]
    ApplicationName,
    #[error("no scope is asked for")]
    NoScopes,
    #[error("{0} is a scope of users, and an application's own token has no user")]
    UserScope(String),
    #[error("the claims challenge is not a JSON object")]
    Claims,
    #[error("the forwarded client claims are not a JSON object")]
    ForwardedClaims,
}

impl Diagnose for ConfigurationError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Configuration
    }

    fn code(&self) -> &str {
        match self {
            Self::NoClientId => "no_client_id",
            Self::ClientClaims => "invalid_client_claims",
            Self::ApplicationName => "invalid_app_name",
            Self::NoScopes | Self::UserScope(_) => "invalid_scope",
            Self::Claims => "invalid_claims",
            Self::ForwardedClaims => "invalid_forwarded_client_claims",
        }
    }

    fn remedy(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(
            match self {
                Self::NoClientId => "set the application's id",
                Self::ClientClaims | Self::ForwardedClaims => "pass the text of a JSON object",
                Self::ApplicationName => "use printable ASCII characters",
                Self::NoScopes | Self::UserScope(_) => "ask for RESOURCE/.default",
                Self::Claims => "pass the claims as the API sent them, base64-decoded",
            }
            .into(),
        )
    }
}
