use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;
use strongroom_sts::Lifetimes;

use crate::support::Provider;

/// The claims, once the signature is verified by the published keys.
async fn verified(provider: &Provider, token: &str) -> Value {
    let url = format!("{}/discovery/v2.0/keys", provider.ready().authority);
    let keys: JwkSet = serde_json::from_value(provider.get_json(&url).await).unwrap();
    let header = decode_header(token).unwrap();
    assert_eq!((header.alg, header.typ.as_deref()), (Algorithm::RS256, Some("JWT")));
    let key = keys.find(&header.kid.unwrap()).expect("the signing key is published");
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_aud = false;
    validation.set_issuer(&[format!("{}/v2.0", provider.ready().authority)]);
    decode(token, &DecodingKey::from_jwk(key).unwrap(), &validation).unwrap().claims
}

#[tokio::test]
async fn a_secret_gets_a_bearer_token_with_entras_headers() {
    let provider = Provider::new();
    let answer = provider.token_request(&[]).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    assert_eq!(headers["content-type"], "application/json; charset=utf-8");
    assert_eq!(headers["cache-control"], "no-store, no-cache");
    assert_eq!(headers["pragma"], "no-cache");
    assert!(headers.contains_key("x-ms-request-id") && headers.contains_key("x-ms-ests-server"));
    assert!(!headers.contains_key("client-request-id"));
    let body: Value = answer.json().await.unwrap();
    let fields: Vec<_> = body.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["access_token", "expires_in", "ext_expires_in", "token_type"]);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!((&body["expires_in"], &body["ext_expires_in"]), (&3599.into(), &3599.into()));
}

#[tokio::test]
async fn the_token_has_the_claims_and_the_size_of_entras() {
    let provider = Provider::new();
    let token = provider.token().await;
    assert!((1300..=1800).contains(&token.len()), "{} bytes", token.len());
    let claims = verified(&provider, &token).await;
    let ready = provider.ready();
    let api = ready.scope.strip_prefix("api://").unwrap().strip_suffix("/.default").unwrap();
    assert_eq!(claims["aud"], api);
    assert_eq!(claims["azp"], ready.client_id);
    assert_eq!(claims["azpacr"], "1");
    assert_eq!(claims["tid"], ready.tenant);
    assert_eq!(claims["ver"], "2.0");
    assert_eq!(claims["idtyp"], "app");
    assert_eq!(claims["sub"], claims["oid"]);
    assert_eq!(claims["roles"], serde_json::json!(["Forecast.Read.All"]));
    assert_eq!(claims["iat"], claims["nbf"]);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), 300 + 3599);
    for opaque in ["aio", "rh", "uti"] {
        assert!(claims[opaque].as_str().is_some_and(|v| !v.is_empty()), "{opaque}");
    }
    let second = verified(&provider, &provider.token().await).await;
    assert_ne!(claims["uti"], second["uti"]);
    assert_eq!(claims["oid"], second["oid"]);
}

#[tokio::test]
async fn any_resource_may_be_asked_for_and_is_the_audience() {
    let provider = Provider::new();
    for (scope, audience) in [
        ("api://p1-7/.default", "api://p1-7"),
        ("https://vault.azure.net//.default", "https://vault.azure.net/"),
        // MSAL Go adds the reserved scopes.
        ("openid offline_access profile https://graph.microsoft.com/.default", "https://graph.microsoft.com"),
    ] {
        let claims = verified(&provider, &provider.token_for(scope).await).await;
        assert_eq!(claims["aud"], audience);
    }
}

#[tokio::test]
async fn the_tenant_may_be_given_by_its_domain() {
    let provider = Provider::new();
    let url = format!("{}/contoso.localhost/oauth2/v2.0/token", provider.origin());
    let answer = provider.http.post(url).form(&provider.form()).send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    let claims = verified(&provider, body["access_token"].as_str().unwrap()).await;
    assert_eq!(claims["tid"], provider.ready().tenant);
}

#[tokio::test]
async fn basic_authentication_serves_as_well() {
    let provider = Provider::new();
    let ready = provider.ready();
    let form = provider.form_with(&[("client_id", ""), ("client_secret", "")]);
    // Form-encoded before it is joined, RFC 6749 §2.3.1: here the tilde and, needlessly, the dash.
    let encoded = ready.client_secret.replace('~', "%7E").replace('-', "%2D");
    for secret in [&ready.client_secret, &encoded] {
        let request = provider.http.post(provider.token_url()).form(&form);
        let answer = request.basic_auth(&ready.client_id, Some(secret)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn the_clients_request_id_comes_back_when_it_asks() {
    let provider = Provider::new();
    let id = "8f3a7e2c-0001-4000-8000-00000000abcd";
    let answer = provider
        .token_request(&[("client_secret", "wrong")])
        .header("client-request-id", id)
        .header("return-client-request-id", "true")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["client-request-id"], id);
    assert_eq!(answer.json::<Value>().await.unwrap()["correlation_id"], id);
}

#[tokio::test]
async fn lifetimes_are_as_they_were_set() {
    let provider = Provider::new();
    let body = async || provider.token_request(&[]).send().await.unwrap().json::<Value>().await.unwrap();
    provider.sts.set_lifetimes(Lifetimes { expires_in: Some(60), refresh_in: Some(30) }).unwrap();
    let short = body().await;
    assert_eq!((&short["expires_in"], &short["refresh_in"]), (&60.into(), &30.into()));
    provider.sts.set_lifetimes(Lifetimes { expires_in: Some(86_400), refresh_in: None }).unwrap();
    let long = body().await;
    assert_eq!((&long["ext_expires_in"], &long["refresh_in"]), (&86_400.into(), &43_200.into()));
    let claims = verified(&provider, long["access_token"].as_str().unwrap()).await;
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["nbf"].as_i64().unwrap(), 300 + 86_400);
    provider.sts.set_lifetimes(Lifetimes::default()).unwrap();
    assert_eq!(body().await["refresh_in"], Value::Null);
}
