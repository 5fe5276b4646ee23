//! The token endpoint: a checked request becomes a signed access token with the claims and the size
//! of Entra's. Also reads such tokens back, for the sample API.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::answer::RequestIds;
use crate::checks::{AppGrant, AuthenticatedBy, TokenForm, check_token_request};
use crate::clients::Client;
use crate::error::Refusal;
use crate::keys::SigningKeys;
use crate::provider::{Provider, issuer};
use crate::random;
use crate::time::UnixSeconds;

/// `/{tenant}/oauth2/v2.0/token`.
pub(crate) async fn token(
    State(provider): State<Arc<Provider>>,
    Extension(ids): Extension<RequestIds>,
    Path(tenant): Path<String>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let now = provider.control.now();
    if method != Method::POST {
        let message = format!("The endpoint only accepts POST requests. Received a {method} request.");
        let mut refusal = Refusal::bad_request("invalid_request", 900_561, message);
        refusal.status = StatusCode::METHOD_NOT_ALLOWED;
        return refusal.into_response(&ids, now);
    }
    match check_token_request(&provider, &tenant, &TokenForm::parse(&headers, &body), now) {
        Err(refusal) => refusal.into_response(&ids, now),
        Ok(grant) => {
            tracing::debug!(client_id = grant.client.client_id, audience = grant.audience, "issued");
            Json(issue(&provider, &grant, now)).into_response()
        }
    }
}

/// A successful answer of the token endpoint.
#[derive(Serialize)]
struct TokenAnswer {
    token_type: &'static str,
    expires_in: u64,
    ext_expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_in: Option<u64>,
    access_token: String,
}

fn issue(provider: &Provider, grant: &AppGrant<'_>, now: UnixSeconds) -> TokenAnswer {
    let lifetimes = provider.control.lifetimes();
    let expires_in = lifetimes.expires_in();
    let tenant = grant.tenant.id.to_string();
    let principal = service_principal(grant.tenant.id, grant.client).to_string();
    let subject = match &grant.fmi_path {
        None => principal.clone(),
        Some(path) => {
            format!("/eid1/c/pub/t/{tenant}/a/{}/{}", grant.client.client_id, path.trim_start_matches('/'))
        }
    };
    let claims = AppClaims {
        aud: &grant.audience,
        iss: &issuer(&provider.origin(), &tenant),
        // Entra dates its tokens back, so that an API whose clock is a little behind takes them.
        iat: now.saturating_sub(BACKDATED_S),
        nbf: now.saturating_sub(BACKDATED_S),
        exp: now.saturating_add_unsigned(expires_in),
        aio: &format!("k2RgY{}", random::text::<48>()),
        azp: &grant.client.client_id,
        azpacr: match grant.authenticated_by {
            AuthenticatedBy::Secret => "1",
            AuthenticatedBy::Certificate => "2",
        },
        idp: &format!("https://sts.windows.net/{tenant}/"),
        idtyp: "app",
        oid: &principal,
        rh: &format!("1.{}.", random::text::<36>()),
        roles: &grant.client.roles,
        sub: &subject,
        tenant_region_scope: "WW",
        tid: &tenant,
        uti: &random::text::<16>(),
        ver: "2.0",
        wids: [DEFAULT_DIRECTORY_ROLE],
        xms_ftd: &random::text::<57>(),
        xms_idrel: "7 4",
    };
    TokenAnswer {
        token_type: "Bearer",
        expires_in,
        ext_expires_in: expires_in,
        refresh_in: lifetimes.refresh_in(),
        access_token: sign(&provider.keys, &claims),
    }
}

/// The claims of an app's v2.0 access token, in Entra's order.
#[derive(Serialize)]
struct AppClaims<'a> {
    aud: &'a str,
    iss: &'a str,
    iat: UnixSeconds,
    nbf: UnixSeconds,
    exp: UnixSeconds,
    aio: &'a str,
    azp: &'a str,
    azpacr: &'static str,
    idp: &'a str,
    idtyp: &'static str,
    oid: &'a str,
    rh: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    roles: &'a [String],
    sub: &'a str,
    tenant_region_scope: &'static str,
    tid: &'a str,
    uti: &'a str,
    ver: &'static str,
    wids: [&'static str; 1],
    xms_ftd: &'a str,
    xms_idrel: &'static str,
}

/// A JWT by the current key.
fn sign(keys: &SigningKeys, claims: &impl Serialize) -> String {
    let key = keys.current();
    let header = JwtHeader { typ: "JWT".to_owned(), alg: ALGORITHM.to_owned(), kid: key.kid.clone() };
    let segment = |bytes: Vec<u8>| URL_SAFE_NO_PAD.encode(bytes);
    let json = |e: serde_json::Result<Vec<u8>>| e.expect("texts, numbers and lists have a JSON form");
    let mut jwt = segment(json(serde_json::to_vec(&header)));
    jwt.push('.');
    jwt.push_str(&segment(json(serde_json::to_vec(claims))));
    let signature = segment(key.sign(jwt.as_bytes()));
    jwt.push('.');
    jwt.push_str(&signature);
    jwt
}

/// Claims of a token that one of our keys has signed. Whether it is good for anything is for the
/// caller to judge.
pub(crate) fn verify_signature(keys: &SigningKeys, jwt: &str) -> Option<SignedClaims> {
    let (message, signature) = jwt.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let header: JwtHeader = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    let key = keys.find(&header.kid).filter(|_| header.alg == ALGORITHM)?;
    if !key.verifies(message.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?) {
        return None;
    }
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

/// The claims by which an API decides.
#[derive(Debug, Deserialize)]
pub(crate) struct SignedClaims {
    pub(crate) aud: String,
    pub(crate) iss: String,
    pub(crate) nbf: UnixSeconds,
    pub(crate) exp: UnixSeconds,
    pub(crate) tid: String,
}

#[derive(Serialize, Deserialize)]
struct JwtHeader {
    typ: String,
    alg: String,
    kid: String,
}

/// The object id of a client in its tenant: the same as long as both are the same, so that nobody
/// has to keep it.
fn service_principal(tenant: Uuid, client: &Client) -> Uuid {
    let name = format!("{tenant}/{}", client.client_id.to_ascii_lowercase());
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    let bytes = digest.as_ref().first_chunk().expect("SHA-256 has more than 16 bytes");
    uuid::Builder::from_custom_bytes(*bytes).into_uuid()
}

const ALGORITHM: &str = "RS256";
const BACKDATED_S: i64 = 300;
/// The role template that Entra writes for a principal without a directory role.
const DEFAULT_DIRECTORY_ROLE: &str = "0997a1d0-0d1d-4acb-b408-d5ca73121e90";
