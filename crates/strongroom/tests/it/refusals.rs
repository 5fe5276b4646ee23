//! What the identity provider refuses, and what the caller learns of it.

use serde_json::json;
use strongroom::{Error, ErrorKind, ServiceErrorClass};
use uuid::Uuid;

use crate::client_support::Scene;

/// Checks what every refusal of the provider has to say.
fn check(error: &Error, code: &str, aadsts: u64, remedy: &str) {
    assert_eq!((error.kind(), error.code()), (ErrorKind::IdentityProvider, code), "{error}");
    assert!(error.remedy().unwrap_or_default().contains(remedy), "{:?}", error.remedy());
    assert!(!error.is_retryable() && error.retry_after().is_none());
    let service = error.service().expect("the provider has answered");
    assert!((400..500).contains(&service.status));
    assert_eq!(service.error, code);
    assert_eq!(service.error_codes, [aadsts]);
    assert!(service.error_description.as_deref().unwrap().starts_with(&format!("AADSTS{aadsts}:")));
    assert!(Uuid::parse_str(service.correlation_id.as_deref().unwrap()).is_ok());
    assert!(Uuid::parse_str(service.trace_id.as_deref().unwrap()).is_ok());
    assert!(service.timestamp.as_deref().unwrap().ends_with('Z'));
    assert!(service.error_uri.as_deref().unwrap().starts_with("https://"));
    assert_eq!(service.class(), ServiceErrorClass::ClientRefused);
    assert!(error.to_string().contains(&format!("AADSTS{aadsts}")), "{error}");
}

#[test]
fn a_wrong_secret() {
    let scene = Scene::new();
    let error = scene.acquire(&scene.app_with_secret("not-the-secret")).unwrap_err();
    check(&error, "invalid_client", 7_000_215, "not its id");
    assert_eq!(error.service().unwrap().status, 401);
    assert_eq!(scene.token_requests(), 1, "a refusal is not retried");
    assert!(!scene.location().exists(), "and nothing is stored");
}

#[test]
fn an_unknown_client() {
    let scene = Scene::edited(|clients| {
        let mut other = clients["clients"][0].clone();
        other["client_id"] = json!(Uuid::new_v4().to_string());
        clients["clients"].as_array_mut().unwrap().push(other);
    });
    let unknown = strongroom::ConfidentialClientApplication::builder(
        Uuid::new_v4().to_string(),
        scene.ready().authority.as_str(),
        strongroom::ClientCredential::from_secret("s3cret"),
    );
    let app = unknown.instance_discovery(false).transport(scene.http()).build().unwrap();
    check(&scene.acquire(&app).unwrap_err(), "unauthorized_client", 700_016, "client id");
}

#[test]
fn an_unknown_tenant() {
    let scene = Scene::new();
    let authority = format!("{}/{}", scene.origin(), Uuid::new_v4());
    let app = scene.builder_for(&authority).build().unwrap();
    let error = scene.acquire(&app).unwrap_err();
    check(&error, error.code(), 90_002, "tenant");
    assert_eq!(scene.token_requests(), 0, "the secret is not sent to a tenant that there is not");
    let authority = format!("{}/nowhere.example", scene.origin());
    let error = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap_err();
    check(&error, error.code(), 90_002, "tenant");
}

#[test]
fn an_expired_secret() {
    let scene = Scene::edited(|clients| {
        let secret = clients["clients"][0]["secrets"][0].clone();
        let value = secret.get("value").unwrap_or(&secret).clone();
        clients["clients"][0]["secrets"] = json!([{ "value": value, "expires": "2020-01-01T00:00:00Z" }]);
    });
    check(&scene.refusal(), "invalid_client", 7_000_222, "expired");
}

#[test]
fn a_disabled_application() {
    let scene = Scene::edited(|clients| clients["clients"][0]["enabled"] = json!(false));
    check(&scene.refusal(), "unauthorized_client", 7_000_112, "disabled");
}

#[test]
fn a_bad_scope() {
    let scene = Scene::edited(|clients| clients["any_resource"] = json!(false));
    let app = scene.app();
    let ask = |scope: &str| app.acquire_token_for_client(scope).blocking().unwrap_err();
    check(&ask("api://x/User.Read"), "invalid_scope", 1_002_012, "/.default");
    check(&ask("api://x/.default api://y/.default"), "invalid_scope", 70_011, "/.default");
    check(&ask("api://not-registered/.default"), "invalid_resource", 500_011, "resource");
}

#[test]
fn the_callers_correlation_id_comes_back() {
    let scene = Scene::new();
    let id = Uuid::new_v4().to_string();
    let app = scene.app_with_secret("not-the-secret");
    let request = app.acquire_token_for_client(scene.ready().scope.as_str()).correlation_id(&id);
    let error = request.blocking().unwrap_err();
    assert_eq!(error.service().unwrap().correlation_id.as_deref(), Some(id.as_str()));
}

#[test]
fn a_corrected_secret_works_at_once() {
    let scene = Scene::new();
    for _ in 0..3 {
        assert!(scene.acquire(&scene.app_with_secret("not-the-secret")).is_err());
    }
    assert!(scene.token().is_ok());
}

#[test]
fn a_claims_challenge_of_the_provider_is_handed_on() {
    let scene = Scene::new();
    let claims = r#"{"access_token":{"capolids":{"essential":true,"values":["x"]}}}"#;
    let body = json!({
        "error": "interaction_required", "suberror": "basic_action", "error_codes": [50_076], "claims": claims,
        "error_description": "AADSTS50076: x", "correlation_id": "c", "trace_id": "t", "timestamp": "now",
    });
    let fault =
        strongroom_sts::Fault::new(strongroom_sts::Endpoint::Token).status(400).body(body.to_string());
    scene.sts.add_fault(fault).unwrap();
    let error = scene.refusal();
    let service = error.service().unwrap();
    assert_eq!(service.claims.as_deref(), Some(claims));
    assert_eq!(service.suberror.as_deref(), Some("basic_action"));
    assert_eq!(service.class(), ServiceErrorClass::InteractionRequired);
    assert!(error.remedy().unwrap().contains("claims"));
}
