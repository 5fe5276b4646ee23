//! The provider's answers as a whole, for those who show more of them than this library has names for; and where and
//! through what it is asked.

use serde_json::{Value, json};
use strongroom::{
    ErrorKind, HttpTransport, Location, MemoryPersistence, Persistence as _, TokenCache, TokenSource,
};
use strongroom_sts::{Endpoint, Fault};

use crate::client_support::{Canned, Recorder, Scene, json_response, token_response};

fn fault(status: u16, body: &str) -> Fault {
    Fault::new(Endpoint::Token).status(status).body(body)
}

#[test]
fn a_new_token_comes_with_the_whole_answer_and_a_cached_one_with_none() {
    let scene = Scene::new();
    let body = json!({ "access_token": "t", "expires_in": 3599, "token_type": "Bearer", "own": [1, "ü"] });
    scene.sts.add_fault(fault(200, &body.to_string())).unwrap();
    let app = scene.app();
    let first = scene.acquire(&app).unwrap();
    assert_eq!(first.token_source(), TokenSource::IdentityProvider);
    let answer: Value = serde_json::from_str(first.response().unwrap().expose()).unwrap();
    assert_eq!(answer, body);
    assert!(!format!("{first:?}").contains("\\\"t\\\""), "{first:?}");
    assert!(scene.acquire(&app).unwrap().response().is_none());
}

#[test]
fn a_refusal_comes_with_its_whole_message_without_what_was_sent_and_its_known_fields_are_remembered() {
    let scene = Scene::new();
    let secret = "s3cret+with/signs";
    let message = json!({
        "error": "invalid_client", "error_description": format!("wrong\r\n{secret}"), "own": [{ "deep": secret }, 1.5],
        "encoded": "s3cret%2Bwith%2Fsigns", (secret): 1, "nested": { (secret): { (secret): 2 } }, "error_codes": [7, "x"],
        "claims": { "not": "text" }, "timestamp": 5,
    });
    scene.sts.add_fault(fault(401, &message.to_string())).unwrap();
    let shown = json!({
        "error": "invalid_client", "error_description": "wrong\r\n[redacted]", "own": [{ "deep": "[redacted]" }, 1.5],
        "encoded": "[redacted]", "[redacted]": 1, "nested": { "[redacted]": { "[redacted]": 2 } }, "error_codes": [7, "x"],
        "claims": { "not": "text" }, "timestamp": 5,
    });
    let remembered = json!({
        "error": "invalid_client", "error_description": "wrong\r\n[redacted]", "error_codes": [7], "timestamp": 5,
    });
    for expected in [shown, remembered] {
        let error = scene.acquire(&scene.app_with_secret(secret)).unwrap_err();
        let body = error.service().unwrap().body.as_deref().unwrap();
        assert_eq!(serde_json::from_str::<Value>(body).unwrap(), expected);
    }
    assert_eq!(scene.token_requests(), 1);
    let state = std::fs::read_to_string(scene.state_file()).unwrap();
    for absent in [secret, "deep", "encoded", "nested"] {
        assert!(!state.contains(absent), "{absent} is in {state}");
    }
}

#[test]
fn a_refusal_with_a_token_or_a_credential_in_it_is_shown_and_remembered_without() {
    const SECRETS: [&str; 9] = [
        "access_token",
        "id_token",
        "refresh_token",
        "Session_Token",
        "token",
        "client_secret",
        "client_assertion",
        "client_info",
        "assertion",
    ];
    for status in [200, 400, 401] {
        let scene = Scene::new();
        let mut message = json!({ "error": "invalid_grant", "own": { "deep": [{}] } });
        for name in SECRETS {
            message[name] = "t0ken".into();
        }
        // An answer with more than 16 is no message at all.
        for name in &SECRETS[..7] {
            message["own"]["deep"][0][*name] = json!({ "of": "t0ken" });
        }
        scene.sts.add_fault(fault(status, &message.to_string())).unwrap();
        let error = scene.refusal();
        let body = error.service().unwrap().body.as_deref().unwrap();
        let shown = json!({ "error": "invalid_grant", "own": { "deep": [{}] } });
        assert_eq!(serde_json::from_str::<Value>(body).unwrap(), shown, "{status}");
        assert!(!std::fs::read_to_string(scene.state_file()).unwrap().contains("t0ken"));
        assert!(!scene.location().exists(), "{status}: nothing was stored");
    }
}

#[test]
fn an_answer_with_a_token_is_a_success_only_by_its_status_and_without_an_error() {
    let token = json!({ "access_token": "t0ken", "expires_in": 3599, "token_type": "Bearer" });
    for (status, error) in [
        (200, json!("invalid_grant")),
        (200, json!("")),
        (200, json!({ "code": 1 })),
        (400, json!(null)),
        (302, json!(null)),
    ] {
        let scene = Scene::new();
        let mut message = token.clone();
        message["error"] = error.clone();
        scene.sts.add_fault(fault(status, &message.to_string())).unwrap();
        let refused = scene.refusal();
        assert!(!format!("{refused} {refused:?}").contains("t0ken"), "{status} {error}");
        assert!(!scene.location().exists(), "{status} {error}");
    }
    let scene = Scene::new();
    let mut message = token;
    message["error"] = json!(null);
    scene.sts.add_fault(fault(200, &message.to_string())).unwrap();
    assert!(scene.token().is_ok());
}

#[test]
fn what_is_no_message_or_too_long_a_one_is_not_kept() {
    for (status, body, is_kept) in [
        (400, "<html>".to_owned(), false),
        (400, "[1]".to_owned(), false),
        (400, json!({ "own": 1 }).to_string(), true),
        (429, json!({ "error": "x", "own": "y".repeat(17 * 1024) }).to_string(), false),
    ] {
        let scene = Scene::new();
        scene.sts.add_fault(fault(status, &body)).unwrap();
        let error = scene.refusal();
        assert_eq!(error.service().unwrap().body.is_some(), is_kept, "{body:.40}");
    }
}

#[test]
fn a_refusal_says_whether_a_token_was_asked_for_or_only_where_to_ask() {
    let scene = Scene::new();
    let authority = format!("{}/nowhere.example", scene.origin());
    for _ in 0..2 {
        let error = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap_err();
        assert!(error.service().unwrap().in_discovery);
    }
    let error = scene.acquire(&scene.app_with_secret("not-the-secret")).unwrap_err();
    assert!(!error.service().unwrap().in_discovery);
}

#[test]
fn a_region_is_asked_and_its_tokens_are_those_of_the_cloud() {
    const AUTHORITY: &str = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47";
    let persistence = MemoryPersistence::new();
    assert_eq!(persistence.location(), Location::Memory);
    let cache = TokenCache::with_persistence(persistence);
    let http = Recorder::new(Canned::new(|_| Ok(token_response("t"))));
    let builder = |region: Option<&str>| {
        let secret = strongroom::ClientCredential::from_secret("s3cret");
        let builder = strongroom::ConfidentialClientApplication::builder("c", AUTHORITY, secret)
            .transport(http.clone())
            .token_cache(cache.clone());
        match region {
            Some(region) => builder.azure_region(region),
            None => builder,
        }
    };
    let app = builder(Some("westeurope")).build().unwrap();
    app.acquire_token_for_client("s/.default").blocking().unwrap();
    let central = builder(None).build().unwrap().acquire_token_for_client("s/.default").blocking().unwrap();
    assert_eq!(central.token_source(), TokenSource::Cache);
    assert_eq!(http.hosts(), ["westeurope.login.microsoft.com"]);
    assert_eq!(builder(Some("evil.example/")).build().unwrap_err().code(), "invalid_region");
}

#[test]
fn a_region_that_fails_is_no_outage_of_the_cloud() {
    let scene = Scene::new();
    let authority = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47";
    let http = Canned::new(|request| {
        let is_regional = request.url.contains("westeurope.");
        Ok(if is_regional {
            json_response(400, &json!({ "error": "invalid_request" }))
        } else {
            token_response("t")
        })
    });
    let builder = || scene.builder_for(authority).transport(http.clone());
    assert!(scene.acquire(&builder().azure_region("westeurope").build().unwrap()).is_err());
    assert!(scene.acquire(&builder().build().unwrap()).is_ok());
}

#[test]
fn requests_go_through_the_proxy_that_is_named_and_its_password_is_not_shown() {
    let scene = Scene::new();
    let roots = std::fs::read(&scene.ready().ca_file).unwrap();
    // Nobody listens there: that it is tried is what shows.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let proxy = format!("http://user:hunter2@127.0.0.1:{port}");
    let http = HttpTransport::with_extra_roots(&roots).unwrap().with_proxy(&proxy).unwrap();
    assert!(!format!("{http:?}").contains("hunter2"));
    let error = scene.acquire(&scene.builder().transport(http).build().unwrap()).unwrap_err();
    assert_eq!(error.code(), "connection_failed");
    assert!(!error.to_string().contains("hunter2"));
    assert_eq!(scene.requests(), 0);
    for refused in ["http://user:hunter2@[", "foo://user:hunter2@proxy", "socks5://user:hunter2@proxy:1080"] {
        let error = HttpTransport::new().with_proxy(refused).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[test]
fn the_tenants_id_is_known_once_it_was_learned() {
    let scene = Scene::new();
    let id = scene.ready().tenant.clone();
    let by_id = scene.app();
    assert_eq!(strongroom::block_on(by_id.known_tenant_id()).as_deref(), Some(id.as_str()));
    let authority = format!("{}/{}", scene.origin(), scene.domain());
    let by_domain = scene.builder_for(&authority).build().unwrap();
    assert_eq!(strongroom::block_on(by_domain.known_tenant_id()), None);
    scene.acquire(&by_domain).unwrap();
    assert_eq!(strongroom::block_on(by_domain.known_tenant_id()).as_deref(), Some(id.as_str()));
    assert!(strongroom::block_on(by_domain.known_environments()).contains("localhost"));
}
