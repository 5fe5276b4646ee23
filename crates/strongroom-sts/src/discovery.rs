//! The documents by which clients find their way: instance discovery, OpenID configuration, JWKS.
//! They name only endpoints of this host, so that no client is led to the real cloud.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderValue;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use crate::answer::RequestIds;
use crate::error::Refusal;
use crate::provider::{Provider, Realm, issuer};

/// `/common/discovery/instance`: is the host of this authorization endpoint an authority?
pub(crate) async fn instance(
    State(provider): State<Arc<Provider>>,
    Extension(ids): Extension<RequestIds>,
    query: Result<Query<InstanceQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let query = query.map(|Query(q)| q).unwrap_or_default();
    match instance_document(&provider, &query) {
        Ok(document) => cacheable(&document),
        Err(refusal) => refusal.into_response(&ids, provider.control.now()),
    }
}

/// `/{tenant}/v2.0/.well-known/openid-configuration`.
pub(crate) async fn openid_configuration(
    State(provider): State<Arc<Provider>>,
    Extension(ids): Extension<RequestIds>,
    Path(tenant): Path<String>,
) -> Response {
    for_realm(&provider, &ids, &tenant, |realm| {
        let issuer = issuer(&provider.origin(), &realm.issuer_tenant());
        openid_document(&provider, realm, &issuer)
    })
}

/// `/{tenant}/.well-known/openid-configuration`: the same with the issuer of v1.0 tokens.
pub(crate) async fn openid_configuration_v1(
    State(provider): State<Arc<Provider>>,
    Extension(ids): Extension<RequestIds>,
    Path(tenant): Path<String>,
) -> Response {
    for_realm(&provider, &ids, &tenant, |realm| {
        let issuer = format!("https://sts.windows.net/{}/", realm.issuer_tenant());
        openid_document(&provider, realm, &issuer)
    })
}

/// `/{tenant}/discovery/v2.0/keys`.
pub(crate) async fn keys(
    State(provider): State<Arc<Provider>>,
    Extension(ids): Extension<RequestIds>,
    Path(tenant): Path<String>,
) -> Response {
    for_realm(&provider, &ids, &tenant, |realm| {
        let issuer = issuer(&provider.origin(), &realm.issuer_tenant());
        json!({ "keys": provider.keys.published(&issuer).collect::<Vec<_>>() })
    })
}

#[derive(Default, Deserialize)]
pub(crate) struct InstanceQuery {
    authorization_endpoint: Option<String>,
    #[serde(rename = "api-version")]
    api_version: Option<String>,
}

fn instance_document(provider: &Provider, query: &InstanceQuery) -> Result<Value, Refusal> {
    let asked = query
        .authorization_endpoint
        .as_deref()
        .filter(|endpoint| !endpoint.is_empty())
        .ok_or_else(|| Refusal::missing_parameter("authorization_endpoint"))?;
    let unknown = || Refusal::bad_request("invalid_instance", 50_049, "Unknown or invalid instance.");
    let endpoint = Url::parse(asked).map_err(|_| unknown())?;
    let host = endpoint.host_str().ok_or_else(unknown)?;
    let ours = matches!(host, "localhost" | "127.0.0.1" | "[::1]")
        && endpoint.port_or_known_default() == Some(provider.port);
    let known = endpoint.port_or_known_default() == Some(443)
        && CLOUDS.iter().any(|cloud| cloud.aliases.contains(&host));
    if endpoint.scheme() != "https" || !(ours || known) {
        return Err(unknown());
    }
    let tenant = endpoint.path_segments().and_then(|mut s| s.next()).filter(|s| !s.is_empty());
    let tenant = tenant.unwrap_or("common");
    let version = query.api_version.as_deref().unwrap_or("1.0");
    let mut document = json!({
        "tenant_discovery_endpoint":
            format!("{}/{tenant}/v2.0/.well-known/openid-configuration", provider.origin()),
        "api-version": version,
    });
    if version != "1.0" {
        // The cache's name for a host has no port: that is how MSAL Python writes `environment`.
        let own = json!({
            "preferred_network": provider.host,
            "preferred_cache": "localhost",
            "aliases": [provider.host, "localhost"],
        });
        let clouds = CLOUDS.iter().map(|cloud| {
            json!({
                "preferred_network": cloud.preferred_network,
                "preferred_cache": cloud.preferred_cache,
                "aliases": cloud.aliases,
            })
        });
        document["metadata"] = [own].into_iter().chain(clouds).collect();
    }
    Ok(document)
}

fn openid_document(provider: &Provider, realm: Realm<'_>, issuer: &str) -> Value {
    let base = format!("{}/{}", provider.origin(), realm.segment());
    json!({
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": issuer,
        "request_uri_parameter_supported": false,
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
        "http_logout_supported": true,
        "frontchannel_logout_supported": true,
        "end_session_endpoint": format!("{base}/oauth2/v2.0/logout"),
        "claims_supported": [
            "sub", "iss", "cloud_instance_name", "cloud_instance_host_name", "cloud_graph_host_name",
            "msgraph_host", "aud", "exp", "iat", "auth_time", "acr", "nonce", "preferred_username", "name",
            "tid", "ver", "at_hash", "c_hash", "email"
        ],
        "tenant_region_scope": match realm {
            Realm::Tenant(_) => Value::from("WW"),
            Realm::Shared(_) => Value::Null,
        },
        "cloud_instance_name": "microsoftonline.com",
        "cloud_graph_host_name": "graph.windows.net",
        "msgraph_host": "graph.microsoft.com",
        "rbac_url": "https://pas.windows.net",
    })
}

fn for_realm(
    provider: &Provider,
    ids: &RequestIds,
    segment: &str,
    document: impl FnOnce(Realm<'_>) -> Value,
) -> Response {
    match provider.realm(segment) {
        Some(realm) => cacheable(&document(realm)),
        None => Refusal::unknown_tenant("invalid_tenant", segment).into_response(ids, provider.control.now()),
    }
}

fn cacheable(document: &Value) -> Response {
    let caching = (CACHE_CONTROL, HeaderValue::from_static("max-age=86400, private"));
    ([caching], Json(document)).into_response()
}

/// One row of the built-in aliases.
struct Cloud {
    preferred_network: &'static str,
    preferred_cache: &'static str,
    aliases: &'static [&'static str],
}

impl Cloud {
    /// A cloud of one host.
    const fn alone(aliases: &'static [&'static str; 1]) -> Self {
        Self { preferred_network: aliases[0], preferred_cache: aliases[0], aliases }
    }
}

const CLOUDS: [Cloud; 8] = [
    Cloud {
        preferred_network: "login.microsoftonline.com",
        preferred_cache: "login.windows.net",
        aliases: &[
            "login.microsoftonline.com",
            "login.windows.net",
            "login.microsoft.com",
            "sts.windows.net",
        ],
    },
    Cloud {
        preferred_network: "login.partner.microsoftonline.cn",
        preferred_cache: "login.partner.microsoftonline.cn",
        aliases: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
    },
    Cloud {
        preferred_network: "login.microsoftonline.us",
        preferred_cache: "login.microsoftonline.us",
        aliases: &["login.microsoftonline.us", "login.usgovcloudapi.net"],
    },
    Cloud::alone(&["login-us.microsoftonline.com"]),
    Cloud::alone(&["login.microsoftonline.de"]),
    Cloud::alone(&["login.sovcloud-identity.fr"]),
    Cloud::alone(&["login.sovcloud-identity.de"]),
    Cloud::alone(&["login.sovcloud-identity.sg"]),
];
