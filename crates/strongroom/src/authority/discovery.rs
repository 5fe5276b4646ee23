//! Discovery: instance discovery (is this host an identity provider that the cloud knows, and what are its
//! aliases) and the OpenID configuration (where are its endpoints).

use std::time::Duration;

use serde::Deserialize;

use super::entra::{Authority, AuthorityError};
use crate::oauth::{Exchange, HttpRequest, HttpResponse, ServiceError, TransportError};
use crate::schema::{Environments, cloud_of, lenient};
use crate::time::Deadline;
use crate::{Error, wait};

/// Where to ask about hosts that are not built in.
const TRUSTED_HOST: &str = "login.microsoftonline.com";
/// Instance discovery is a courtesy: it may not take longer.
const INSTANCE_DISCOVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client has to know of its authority to request and to find tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) token_endpoint: String,
    /// The tenant as tokens are stored under it.
    pub(crate) realm: String,
    pub(crate) environments: Environments,
    /// What to remember where it cannot be known without the network.
    pub(crate) discovered: Option<Discovered>,
}

/// The part of [`Metadata`] that came over the network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Discovered {
    pub(crate) preferred_cache: Option<String>,
    pub(crate) aliases: Vec<String>,
    /// Whether the cloud was asked about the host.
    pub(crate) instance_discovery: bool,
}

/// How an authority may be discovered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Discovery {
    /// Whether the public cloud may be asked about hosts that are not built in.
    pub(crate) instance_discovery: bool,
    /// Hosts (`host` or `host:port`) that are trusted without asking.
    pub(crate) known_authorities: Vec<String>,
}

impl Discovery {
    /// Everything that can be known without the network: a host of Microsoft's clouds and a tenant by its id.
    pub(crate) fn offline(authority: &Authority) -> Option<Metadata> {
        let realm = authority.tenant_id().filter(|_| authority.is_built_in())?;
        Some(Metadata {
            token_endpoint: authority.endpoint("oauth2/v2.0/token"),
            realm: realm.to_owned(),
            environments: authority.environments(),
            discovered: None,
        })
    }

    /// What was remembered of the authority, if today's rules still accept it.
    pub(crate) fn remembered(
        authority: &Authority,
        token_endpoint: &str,
        realm: &str,
        discovered: Discovered,
    ) -> Option<Metadata> {
        let accepted = authority.accepts_endpoint(token_endpoint)
            && !realm.is_empty()
            && match authority.tenant_id() {
                Some(tenant) => tenant == realm,
                None => first_segment(token_endpoint).as_deref() == Some(realm),
            };
        accepted.then(|| Metadata {
            token_endpoint: token_endpoint.to_owned(),
            realm: realm.to_owned(),
            environments: environments(authority, &discovered),
            discovered: Some(discovered),
        })
    }

    /// Asks the network.
    pub(crate) async fn fetch(
        &self,
        authority: &Authority,
        exchange: &Exchange<'_>,
    ) -> Result<Metadata, Error> {
        if let Some(metadata) = Self::offline(authority) {
            return Ok(metadata);
        }
        let discovered = if self.trusts(authority) {
            Discovered::default()
        } else {
            instance_discovery(authority, exchange).await?
        };
        let document = openid_configuration(authority, exchange).await?;
        let realm = match authority.tenant_id() {
            Some(tenant) => tenant.to_owned(),
            // As MSAL Python does it: a tenant's endpoint begins with its id, whatever domain it was asked for by.
            None => {
                first_segment(&document.token_endpoint).ok_or_else(|| AuthorityError::ForeignEndpoint {
                    authority: authority.url(),
                    endpoint: document.token_endpoint.clone(),
                })?
            }
        };
        Ok(Metadata {
            token_endpoint: document.token_endpoint,
            realm,
            environments: environments(authority, &discovered),
            discovered: Some(discovered),
        })
    }

    /// Whether nobody needs to be asked about the authority's host.
    pub(crate) fn trusts(&self, authority: &Authority) -> bool {
        let listed = |known: &String| {
            known.eq_ignore_ascii_case(authority.host())
                || known.eq_ignore_ascii_case(authority.host_and_port())
        };
        authority.is_built_in() || !self.instance_discovery || self.known_authorities.iter().any(listed)
    }
}

fn environments(authority: &Authority, discovered: &Discovered) -> Environments {
    if authority.is_built_in() {
        return authority.environments();
    }
    // An own host does not become one of Microsoft's by saying so.
    let aliases = discovered.aliases.iter().filter(|alias| cloud_of(alias).is_none());
    Environments::with_aliases(authority.host(), discovered.preferred_cache.as_deref(), aliases)
}

/// Asks the public cloud about a host that it may or may not know.
async fn instance_discovery(authority: &Authority, exchange: &Exchange<'_>) -> Result<Discovered, Error> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        metadata: Vec<Instance>,
    }
    #[derive(Deserialize)]
    struct Instance {
        #[serde(default)]
        preferred_cache: Option<String>,
        #[serde(default)]
        aliases: Vec<String>,
    }

    let mut url = url::Url::parse(&format!("https://{TRUSTED_HOST}/common/discovery/instance"))
        .map_err(|_| AuthorityError::Malformed(authority.url()))?;
    url.query_pairs_mut()
        .append_pair("api-version", "1.1")
        .append_pair("authorization_endpoint", &authority.endpoint("oauth2/v2.0/authorize"));
    // What is left after it is for the requests that matter.
    let timeout = INSTANCE_DISCOVERY_TIMEOUT.min(exchange.remaining() / 2);
    let request = HttpRequest::get(url.as_str()).timeout_at_most(timeout);
    let sent = wait::until(Deadline::after(timeout), exchange.once(request)).await;
    let response = match sent.unwrap_or_else(|| Err(TransportError::TimedOut { host: TRUSTED_HOST.into() })) {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(%error, host = authority.host(), "instance discovery failed; going on without aliases");
            return Ok(Discovered::default());
        }
    };
    if !response.is_success() {
        let error = ServiceError::from_response(response.status, response.body.expose(), None, None);
        if error.error == "invalid_instance" {
            return Err(AuthorityError::UnknownHost { host: authority.host().to_owned() }.into());
        }
        tracing::warn!(%error, host = authority.host(), "instance discovery failed; going on without aliases");
        return Ok(Discovered::default());
    }
    let Some(answer) = lenient::object::<Answer>(response.body.expose()) else {
        return Ok(Discovered::default());
    };
    let own = answer.metadata.into_iter().find(|instance| {
        instance.aliases.iter().any(|alias| {
            alias.eq_ignore_ascii_case(authority.host())
                || alias.eq_ignore_ascii_case(authority.host_and_port())
        })
    });
    // Only an answer that was understood counts as asked; after any other the cloud is asked again next time.
    let asked = Discovered { instance_discovery: true, ..Discovered::default() };
    Ok(match own {
        Some(instance) => {
            Discovered { preferred_cache: instance.preferred_cache, aliases: instance.aliases, ..asked }
        }
        None => asked,
    })
}

struct OpenIdConfiguration {
    token_endpoint: String,
}

async fn openid_configuration(
    authority: &Authority,
    exchange: &Exchange<'_>,
) -> Result<OpenIdConfiguration, Error> {
    #[derive(Deserialize)]
    struct Document {
        token_endpoint: String,
        issuer: String,
    }

    let url = authority.endpoint("v2.0/.well-known/openid-configuration");
    let response: HttpResponse = exchange.with_retry(|| HttpRequest::get(&url)).await?;
    if !response.is_success() {
        return Err(response.into_service_error(None).in_discovery().into());
    }
    let document: Document = lenient::object(response.body.expose())
        .ok_or_else(|| AuthorityError::NotADiscoveryDocument { url: url.clone() })?;
    if !authority.accepts_endpoint(&document.token_endpoint) {
        let endpoint = document.token_endpoint.chars().take(200).collect();
        return Err(AuthorityError::ForeignEndpoint { authority: authority.url(), endpoint }.into());
    }
    if !authority.accepts_issuer(&document.issuer) {
        let issuer = document.issuer.chars().take(200).collect();
        return Err(AuthorityError::ForeignIssuer { authority: authority.url(), issuer }.into());
    }
    Ok(OpenIdConfiguration { token_endpoint: document.token_endpoint })
}

fn first_segment(endpoint: &str) -> Option<String> {
    let url = url::Url::parse(endpoint).ok()?;
    url.path_segments()?.find(|segment| !segment.is_empty()).map(str::to_owned)
}
