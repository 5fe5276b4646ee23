//! What the provider checks before it issues a token: the form of the request, the tenant, the
//! client and its credential, the scope and its resource. Each failure is Entra's own answer.

use std::collections::HashSet;

use aws_lc_rs::{constant_time, digest};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::form_urlencoded;

use crate::assertion;
use crate::clients::{Client, Tenant};
use crate::error::{Refusal, excerpt};
use crate::provider::{Provider, Realm};
use crate::time::UnixSeconds;

/// What may be issued.
#[derive(Debug)]
pub(crate) struct AppGrant<'a> {
    pub(crate) tenant: &'a Tenant,
    pub(crate) client: &'a Client,
    pub(crate) authenticated_by: AuthenticatedBy,
    /// The client id of a registered API, else the name that was asked for.
    pub(crate) audience: String,
    /// The federated managed identity that the token is for.
    pub(crate) fmi_path: Option<String>,
}

/// How the client has proved who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AuthenticatedBy {
    Secret,
    Certificate,
}

/// Checks a request to the token endpoint of `segment`.
pub(crate) fn check_token_request<'a>(
    provider: &'a Provider,
    segment: &str,
    form: &TokenForm,
    now: UnixSeconds,
) -> Result<AppGrant<'a>, Refusal> {
    form.check_no_duplicates()?;
    form.check_one_credential()?;
    match form.required("grant_type")? {
        "client_credentials" => {}
        other => {
            let message = format!("The app requested an unsupported grant type '{}'.", excerpt(other));
            return Err(Refusal::bad_request("unsupported_grant_type", 70_003, message));
        }
    }
    let tenant = check_tenant(provider, segment)?;
    let client_id = form.client_id.as_deref().ok_or_else(|| Refusal::missing_parameter("client_id"))?;
    let scope = form.required("scope")?;
    let client = check_client(provider, tenant, client_id)?;
    let authenticated_by = match form.value("client_assertion") {
        Some(assertion) => {
            check_assertion(provider, tenant, client, form, assertion, now)?;
            AuthenticatedBy::Certificate
        }
        None => {
            check_secret(client, form, now)?;
            AuthenticatedBy::Secret
        }
    };
    let audience = check_resource(provider, tenant, check_app_scope(scope)?)?;
    let fmi_path = form.value("fmi_path").map(str::to_owned);
    Ok(AppGrant { tenant, client, authenticated_by, audience, fmi_path })
}

/// The parameters of a token request, from its body and its `Authorization` header.
pub(crate) struct TokenForm {
    parameters: Vec<(String, String)>,
    client_id: Option<String>,
    client_secret: Option<String>,
    /// Whether there is a header that authenticates the client.
    is_basic: bool,
}

impl TokenForm {
    pub(crate) fn parse(headers: &HeaderMap, body: &[u8]) -> Self {
        let is_form = headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.split(';').next())
            .is_some_and(|v| v.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"));
        // What is not a form has no parameters, as with Entra.
        let body = if is_form { body } else { &[] };
        let parameters: Vec<_> = form_urlencoded::parse(body).into_owned().collect();
        let mut form = Self { parameters, client_id: None, client_secret: None, is_basic: false };
        let (basic_id, basic_secret) = basic_credentials(headers).unzip();
        form.is_basic = basic_secret.is_some();
        form.client_id = form.value("client_id").map(str::to_owned).or(basic_id);
        form.client_secret = form.value("client_secret").map(str::to_owned).or(basic_secret);
        form
    }

    /// The grant, if it is one that Entra has a name for, else `other`.
    pub(crate) fn grant_for_stats(&self) -> &'static str {
        let grant = self.value("grant_type").unwrap_or_default();
        GRANTS.iter().find(|known| **known == grant).copied().unwrap_or("other")
    }

    /// A parameter's value; an empty one counts as missing.
    fn value(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    fn required(&self, name: &str) -> Result<&str, Refusal> {
        self.value(name).ok_or_else(|| Refusal::missing_parameter(name))
    }

    /// RFC 6749 §2.3: a client must not authenticate in more than one way.
    fn check_one_credential(&self) -> Result<(), Refusal> {
        let ways = ["client_secret", "client_assertion"].map(|name| self.value(name).is_some());
        if ways.into_iter().chain([self.is_basic]).filter(|is_used| *is_used).count() <= 1 {
            return Ok(());
        }
        let message = "The request must not contain more than one client credential.";
        Err(Refusal::bad_request("invalid_request", 90_023, message))
    }

    fn check_no_duplicates(&self) -> Result<(), Refusal> {
        let mut seen = HashSet::new();
        match self.parameters.iter().find(|(name, _)| !seen.insert(name)) {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::bad_request(
                "invalid_request",
                9_000_411,
                format!(
                    "The request is not properly formatted. The parameter '{}' is duplicated.",
                    excerpt(name)
                ),
            )),
        }
    }
}

/// HTTP Basic as RFC 6749 §2.3.1 has it: both parts form-encoded before they are joined.
fn basic_credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, value) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let joined = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (id, secret) = joined.split_once(':')?;
    let decode = |part: &str| {
        // A name to hang the value on; what would end the value is not in an encoded one.
        let pair = format!("v={}", part.replace('&', "%26"));
        form_urlencoded::parse(pair.as_bytes()).next().map(|(_, v)| v.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}

fn check_tenant<'a>(provider: &'a Provider, segment: &str) -> Result<&'a Tenant, Refusal> {
    match provider.realm(segment) {
        Some(Realm::Tenant(tenant)) => Ok(tenant),
        Some(Realm::Shared(_)) => Err(Refusal::bad_request(
            "invalid_request",
            50_059,
            "No tenant-identifying information found in either the request or implied by any provided credentials.",
        )),
        None => Err(Refusal::unknown_tenant("invalid_request", segment)),
    }
}

fn check_client<'a>(provider: &'a Provider, tenant: &Tenant, client_id: &str) -> Result<&'a Client, Refusal> {
    let client = provider.registrations.client(tenant, client_id).ok_or_else(|| {
        Refusal::bad_request(
            "unauthorized_client",
            700_016,
            format!(
                "Application with identifier '{}' was not found in the directory '{}'. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You may have sent your authentication request to the wrong tenant.",
                excerpt(client_id),
                tenant.id
            ),
        )
    })?;
    if !client.enabled {
        let message = format!("Application '{}'({}) is disabled.", client.client_id, client.display_name);
        return Err(Refusal::bad_request("unauthorized_client", 7_000_112, message));
    }
    Ok(client)
}

fn check_assertion(
    provider: &Provider,
    tenant: &Tenant,
    client: &Client,
    form: &TokenForm,
    assertion: &str,
    now: UnixSeconds,
) -> Result<(), Refusal> {
    if form.required("client_assertion_type")? != ASSERTION_TYPE {
        let message = format!("The 'client_assertion_type' parameter must be '{ASSERTION_TYPE}'.");
        return Err(Refusal::bad_request("invalid_request", 900_144, message));
    }
    let expected = assertion::Expected {
        client_id: &client.client_id,
        certificates: &client.registered,
        origin: &provider.origin(),
        tenant_names: tenant.names().collect(),
    };
    assertion::check(assertion, &expected, &provider.seen_assertions, now)
}

fn check_secret(client: &Client, form: &TokenForm, now: UnixSeconds) -> Result<(), Refusal> {
    let app = &client.client_id;
    let Some(given) = &form.client_secret else {
        return Err(Refusal::invalid_client(
            7_000_218,
            "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
        ));
    };
    let matching = || client.secrets.iter().filter(|secret| same_secret(&secret.value, given));
    if matching().any(|secret| !secret.is_expired(now)) {
        return Ok(());
    }
    Err(match matching().next() {
        Some(_) => Refusal::invalid_client(
            7_000_222,
            format!(
                "The provided client secret keys for app '{app}' are expired. Visit the Azure portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider using certificate credentials for added security: https://aka.ms/certCreds."
            ),
        ),
        None => Refusal::invalid_client(
            7_000_215,
            format!(
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '{app}'."
            ),
        ),
    })
}

/// By digest, so that the time it takes says nothing about length or content.
fn same_secret(expected: &str, given: &str) -> bool {
    let hash = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    constant_time::verify_slices_are_equal(hash(expected).as_ref(), hash(given).as_ref()).is_ok()
}

/// The resource of the one `RESOURCE/.default` that an app token's scope must be.
fn check_app_scope(scope: &str) -> Result<&str, Refusal> {
    // MSAL Go sends the reserved scopes with every grant; they mean nothing here.
    let mut scopes: Vec<_> = scope.split_ascii_whitespace().filter(|s| !RESERVED.contains(s)).collect();
    scopes.dedup();
    let not_valid = |detail: String| {
        let message = format!(
            "The provided request must include a 'scope' input parameter. The provided value for the input parameter 'scope' is not valid. {detail}"
        );
        Err(Refusal::bad_request("invalid_scope", 70_011, message))
    };
    match scopes[..] {
        [one] => match one.strip_suffix("/.default") {
            Some("") => not_valid(format!("The scope {} is not valid.", excerpt(scope))),
            Some(resource) => Ok(resource),
            None => Err(Refusal::bad_request(
                "invalid_scope",
                1_002_012,
                format!(
                    "The provided value for scope {} is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).",
                    excerpt(scope)
                ),
            )),
        },
        _ => not_valid(format!("The scope {} is not valid.", excerpt(scope))),
    }
}

/// The audience of a token for this resource.
fn check_resource(provider: &Provider, tenant: &Tenant, name: &str) -> Result<String, Refusal> {
    match provider.registrations.resource(name) {
        Some(resource) => Ok(resource.id.clone()),
        None if provider.registrations.any_resource => Ok(name.to_owned()),
        None => Err(Refusal::bad_request(
            "invalid_resource",
            500_011,
            format!(
                "The resource principal named {} was not found in the tenant named {}. This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant. You might have sent your authentication request to the wrong tenant.",
                excerpt(name),
                tenant.id
            ),
        )),
    }
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const RESERVED: [&str; 4] = ["openid", "profile", "offline_access", "email"];
const GRANTS: [&str; 9] = [
    "client_credentials",
    "authorization_code",
    "refresh_token",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "urn:ietf:params:oauth:grant-type:saml2-bearer",
    "urn:ietf:params:oauth:grant-type:device_code",
    "device_code",
    "user_fic",
    "password",
];
