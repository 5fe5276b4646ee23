//! Which hosts are asked what, whom a secret is sent to, and which authorities are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use strongroom::{
    ClientCredential, ConfidentialClientApplication, ConfidentialClientApplicationBuilder, Error, ErrorKind,
    FilePersistence, HttpRequest, HttpResponse, SecretBytes, TokenCache, TransportError,
};

use crate::client_support::{
    Canned, NoTransport, Recorder, TestClock, discovery_document, json_response, token_response,
};

const TENANT: &str = "3aa1a6c8-51c4-4f0d-9a5e-3c1d2f8f2f10";
const CLOUD: &str = "login.microsoftonline.com";
const SCOPE: &str = "api://x/.default";

/// An application at `authority`, on a transport that answers for the cloud and for the authority's host.
struct Asking {
    recorder: Recorder<Canned>,
    folder: tempfile::TempDir,
    clock: TestClock,
    authority: String,
}

impl Asking {
    fn new(
        authority: &str,
        instance_discovery: impl Fn() -> Result<HttpResponse, TransportError> + Send + Sync + 'static,
    ) -> Self {
        let url = url::Url::parse(authority).unwrap();
        let origin = url.origin().ascii_serialization();
        let recorder = Recorder::new(Canned::new(move |request| match request.url.as_str() {
            url if url.contains("/common/discovery/instance") => instance_discovery(),
            url if url.ends_with("/.well-known/openid-configuration") => {
                Ok(discovery_document(&origin, TENANT))
            }
            _ => Ok(token_response("the-token")),
        }));
        Self {
            recorder,
            folder: tempfile::tempdir().unwrap(),
            clock: TestClock::now(),
            authority: authority.to_owned(),
        }
    }

    fn builder(&self) -> ConfidentialClientApplicationBuilder {
        let persistence = FilePersistence::new(self.folder.path().join("cache.json")).unwrap();
        let cache =
            TokenCache::builder(strongroom::DocumentStore::new(persistence)).clock(self.clock.clone());
        builder(&self.authority).transport(self.recorder.clone()).token_cache(cache.build())
    }

    /// The hosts that a forced request of a new process talks to.
    fn hosts(&self, builder: ConfidentialClientApplicationBuilder) -> Vec<String> {
        self.recorder.clear();
        force(&builder.build().unwrap()).unwrap();
        self.recorder.hosts()
    }
}

fn builder(authority: &str) -> ConfidentialClientApplicationBuilder {
    ConfidentialClientApplication::builder("client", authority, ClientCredential::from_secret("s3cret-value"))
}

fn force(app: &ConfidentialClientApplication) -> Result<strongroom::AuthenticationResult, Error> {
    app.acquire_token_for_client(SCOPE).force_refresh(true).blocking()
}

fn known() -> Result<HttpResponse, TransportError> {
    Ok(json_response(
        200,
        &json!({
            "tenant_discovery_endpoint": "https://own.example/x",
            "metadata": [{
                "preferred_network": "own.example",
                "preferred_cache": "own-cache.example",
                "aliases": ["own.example", "own-cache.example"],
            }],
        }),
    ))
}

fn failing() -> Result<HttpResponse, TransportError> {
    Err(TransportError::Connect { host: CLOUD.into(), reason: "no route".into() })
}

#[test]
fn the_cloud_is_asked_about_an_unknown_host_once_a_day() {
    let asking = Asking::new("https://own.example/t.example", known);
    assert_eq!(asking.hosts(asking.builder()), [CLOUD, "own.example", "own.example"]);
    let question = &asking.recorder.sent()[0];
    let question: Vec<_> = url::Url::parse(&question.url).unwrap().query_pairs().into_owned().collect();
    assert_eq!(
        question,
        [
            ("api-version".to_owned(), "1.1".to_owned()),
            (
                "authorization_endpoint".to_owned(),
                "https://own.example/t.example/oauth2/v2.0/authorize".to_owned()
            ),
        ]
    );
    assert!(asking.recorder.sent().iter().all(|sent| sent.host() != CLOUD || !sent.has_a_secret()));
    assert_eq!(asking.hosts(asking.builder()), ["own.example"], "a new process remembers");
    asking.clock.advance(86_399);
    assert_eq!(asking.hosts(asking.builder()), ["own.example"]);
    asking.clock.advance(1);
    assert_eq!(asking.hosts(asking.builder()), [CLOUD, "own.example", "own.example"]);
    asking.clock.advance(-3 * 86_400);
    assert_eq!(
        asking.hosts(asking.builder()),
        [CLOUD, "own.example", "own.example"],
        "remembered in the future"
    );
}

#[test]
fn nobody_is_asked_about_a_host_that_is_trusted() {
    let asking = Asking::new("https://own.example:8443/t.example", || panic!("the cloud is asked"));
    for builder in [
        asking.builder().instance_discovery(false),
        asking.builder().known_authorities(["own.example"]),
        asking.builder().known_authorities(["other.example", "OWN.example:8443"]),
    ] {
        std::fs::remove_file(asking.folder.path().join("cache.json.state")).ok();
        assert_eq!(asking.hosts(builder), ["own.example", "own.example"]);
    }
    let asking = Asking::new("https://own.example:8443/t.example", known);
    for others in ["own.example:443", "example", "n.example", ""] {
        std::fs::remove_file(asking.folder.path().join("cache.json.state")).ok();
        let hosts = asking.hosts(asking.builder().known_authorities([others]));
        assert_eq!(hosts, [CLOUD, "own.example", "own.example"], "{others:?} is another host");
    }
}

#[test]
fn who_wants_the_cloud_to_be_asked_does_not_rely_on_who_does_not() {
    let refuse = Arc::new(AtomicBool::new(false));
    let refused = Arc::clone(&refuse);
    let asking = Asking::new("https://own.example/t.example", move || {
        if refused.load(Ordering::SeqCst) {
            return Ok(json_response(400, &json!({ "error": "invalid_instance" })));
        }
        known()
    });
    assert_eq!(asking.hosts(asking.builder().instance_discovery(false)), ["own.example", "own.example"]);
    refuse.store(true, Ordering::SeqCst);
    asking.recorder.clear();
    let error = force(&asking.builder().build().unwrap()).unwrap_err();
    assert_eq!(error.code(), "invalid_instance");
    assert!(!asking.recorder.sent().iter().any(|sent| sent.has_a_secret()));
}

#[test]
fn a_host_that_the_cloud_does_not_know_is_an_error_of_the_configuration() {
    let asking = Asking::new("https://own.example/t.example", || {
        Ok(json_response(
            400,
            &json!({ "error": "invalid_instance", "error_description": "AADSTS50049: Unknown or invalid instance." }),
        ))
    });
    let error = force(&asking.builder().build().unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "invalid_instance"));
    assert!(error.remedy().unwrap().contains("known_authorities"));
    assert!(!error.is_retryable());
    assert_eq!(asking.recorder.hosts(), [CLOUD]);
}

#[test]
fn any_other_failure_of_instance_discovery_is_gone_over_and_counts_as_no_answer() {
    let body = |status, text: &str| {
        let body = SecretBytes::from(text.as_bytes().to_vec());
        Ok(HttpResponse::new(status, Vec::new(), body))
    };
    type Answer = Box<dyn Fn() -> Result<HttpResponse, TransportError> + Send + Sync>;
    let answers: [Answer; 5] = [
        Box::new(failing),
        Box::new(|| Err(TransportError::TimedOut { host: CLOUD.into() })),
        Box::new(move || body(503, "")),
        Box::new(move || body(400, r#"{"error":"invalid_request"}"#)),
        Box::new(move || body(200, "<html>")),
    ];
    for answer in answers {
        let asking = Asking::new("https://own.example/t.example", answer);
        for _ in 0..2 {
            assert_eq!(asking.hosts(asking.builder()), [CLOUD, "own.example", "own.example"]);
        }
    }
    // An answer that does not name the host is one.
    let answer = move || body(200, r#"{"metadata":[{"aliases":["other.example"]}]}"#);
    let asking = Asking::new("https://own.example/t.example", answer);
    assert_eq!(asking.hosts(asking.builder()), [CLOUD, "own.example", "own.example"]);
    assert_eq!(asking.hosts(asking.builder()), ["own.example"]);
}

#[test]
fn aliases_that_the_cloud_names_are_looked_under() {
    let asking = Asking::new(&format!("https://own.example/{TENANT}"), known);
    asking.hosts(asking.builder());
    let path = asking.folder.path().join("cache.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("own.example", "own-cache.example")).unwrap();
    let app = asking.builder().transport(NoTransport).build().unwrap();
    assert!(app.acquire_token_silent(SCOPE).blocking().unwrap().is_some());
    // An application of another host does not find it.
    let other = builder(&format!("https://else.example/{TENANT}"))
        .token_cache(app.token_cache().clone())
        .transport(NoTransport)
        .build()
        .unwrap();
    assert!(other.acquire_token_silent(SCOPE).blocking().unwrap().is_none());
}

#[test]
fn a_host_does_not_become_microsofts_by_an_alias() {
    let asking = Asking::new(&format!("https://own.example/{TENANT}"), || {
        Ok(json_response(
            200,
            &json!({ "metadata": [{ "preferred_cache": "login.windows.net", "aliases": ["own.example", CLOUD, "login.windows.net"] }] }),
        ))
    });
    asking.hosts(asking.builder());
    let path = asking.folder.path().join("cache.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("own.example", CLOUD)).unwrap();
    let app = asking.builder().transport(NoTransport).build().unwrap();
    assert!(app.acquire_token_silent(SCOPE).blocking().unwrap().is_none());
}

#[test]
fn a_host_of_the_cloud_with_the_tenants_id_needs_no_discovery() {
    for host in [CLOUD, "login.windows.net", "login.microsoftonline.us", "LOGIN.partner.microsoftonline.cn"] {
        let asking = Asking::new(&format!("https://{host}/{TENANT}"), || panic!("the cloud is asked"));
        assert_eq!(asking.hosts(asking.builder()), [host.to_lowercase()]);
        let sent = &asking.recorder.sent()[0];
        assert_eq!(sent.url, format!("https://{}/{TENANT}/oauth2/v2.0/token", host.to_lowercase()));
        assert!(!asking.folder.path().join("cache.json.state").exists());
    }
    let asking = Asking::new(&format!("https://{CLOUD}/contoso.example"), || panic!("the cloud is asked"));
    assert_eq!(asking.hosts(asking.builder()), [CLOUD, CLOUD]);
    assert_eq!(asking.hosts(asking.builder()), [CLOUD]);
}

/// What a client does whose authority answers its discovery with `document`.
fn with_document(document: Value) -> (Error, Vec<String>) {
    let recorder = Recorder::new(Canned::new(move |_: &HttpRequest| Ok(json_response(200, &document))));
    let app = builder("https://own.example:8443/t.example")
        .instance_discovery(false)
        .transport(recorder.clone())
        .build()
        .unwrap();
    let error = force(&app).unwrap_err();
    assert!(!recorder.sent().iter().any(|sent| sent.has_a_secret()), "a secret was sent");
    (error, recorder.hosts())
}

#[test]
fn a_discovery_document_cannot_lead_the_secret_elsewhere() {
    let good = "https://own.example:8443/t/oauth2/v2.0/token";
    for endpoint in [
        "https://evil.example/t/oauth2/v2.0/token",
        "http://own.example:8443/t/oauth2/v2.0/token",
        "https://own.example/t/oauth2/v2.0/token",
        "https://own.example:8444/t/oauth2/v2.0/token",
        "https://own.example:8443@evil.example/token",
        "https://user@own.example:8443/t/token",
        "https://login.microsoftonline.com/t/oauth2/v2.0/token",
        "//own.example:8443/t",
        "ftp://own.example:8443/t",
        "",
    ] {
        let (error, hosts) =
            with_document(json!({ "token_endpoint": endpoint, "issuer": "https://own.example:8443/t/v2.0" }));
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Configuration, "untrusted_discovery"),
            "{endpoint}"
        );
        assert!(error.remedy().is_some());
        assert_eq!(hosts, ["own.example"]);
    }
    for issuer in ["https://evil.example/t/v2.0", "http://own.example:8443/t/v2.0", "", "own.example"] {
        let (error, _) = with_document(json!({ "token_endpoint": good, "issuer": issuer }));
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Configuration, "untrusted_discovery"),
            "{issuer}"
        );
    }
    for document in
        [json!({}), json!([]), json!({ "token_endpoint": good }), json!({ "token_endpoint": 1, "issuer": 2 })]
    {
        let (error, _) = with_document(document);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Network, "unexpected_answer"));
    }
    // A domain's realm is read from the endpoint; without one there is nothing to store a token under.
    let (error, _) = with_document(
        json!({ "token_endpoint": "https://own.example:8443", "issuer": "https://own.example:8443/t" }),
    );
    assert_eq!(error.code(), "untrusted_discovery");
}

#[test]
fn authorities_that_cannot_work_are_refused_before_the_network() {
    for (authority, code) in [
        ("http://own.example/t", "authority_not_https"),
        ("ftp://own.example/t", "authority_not_https"),
        ("own.example/t", "invalid_authority"),
        ("", "invalid_authority"),
        ("https://own.example", "authority_without_tenant"),
        ("https://own.example/", "authority_without_tenant"),
        ("https://login.microsoftonline.com/common", "authority_without_tenant"),
        ("https://login.microsoftonline.com/Organizations/", "authority_without_tenant"),
        ("https://login.microsoftonline.com/consumers", "authority_without_tenant"),
        (
            "https://login.microsoftonline.com/9188040D-6C67-4C5B-B112-36A304B66DAD",
            "authority_without_tenant",
        ),
        ("https://adfs.example/adfs", "unsupported_authority"),
        ("https://contoso.b2clogin.com/contoso.onmicrosoft.com/B2C_1_x", "unsupported_authority"),
        ("https://own.example/tfp/t/B2C_1_x", "unsupported_authority"),
        ("https://contoso.ciamlogin.com/", "unsupported_authority"),
        ("https://own.example/dstsv2/t", "unsupported_authority"),
        ("https://user:hunter2@own.example/t", "invalid_authority"),
    ] {
        let error = builder(authority).transport(NoTransport).build().unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, code), "{authority}");
        assert!(error.remedy().is_some(), "{authority}");
        assert!(!error.to_string().contains("hunter2"));
    }
    let app = builder("https://own.example/t.example").transport(NoTransport).build().unwrap();
    for tenant in ["common", "", "x/../common", "a/b", "..", "a?b", "9188040d-6c67-4c5b-b112-36a304b66dad"] {
        let error = app.acquire_token_for_client(SCOPE).tenant_id(tenant).blocking().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{tenant}");
    }
}

#[test]
fn what_an_application_lacks_is_said_when_it_is_built() {
    let build = |id: &str, secret: &str| {
        ConfidentialClientApplication::builder(
            id,
            "https://own.example/t",
            ClientCredential::from_secret(secret),
        )
    };
    for (builder, code) in [
        (build(" ", "s"), "no_client_id"),
        (build("c", ""), "no_client_credential"),
        (build("c", "s").app_name("a\r\nx-evil: 1"), "invalid_app_name"),
        (build("c", "s").app_version("\u{fc}"), "invalid_app_name"),
    ] {
        let error = builder.transport(NoTransport).build().unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, code));
        assert!(error.remedy().is_some());
    }
}

#[test]
fn an_outage_of_discovery_is_none_of_the_application_that_has_been_there() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = Arc::clone(&down);
    let recorder = Recorder::new(Canned::new(move |request| {
        if request.body.is_some() {
            return Ok(token_response("the-token"));
        }
        if is_down.load(Ordering::SeqCst) {
            return Err(TransportError::TimedOut { host: "own.example".into() });
        }
        Ok(discovery_document("https://own.example", TENANT))
    }));
    let clock = TestClock::now();
    let folder = tempfile::tempdir().unwrap();
    let app = || {
        let persistence = FilePersistence::new(folder.path().join("cache.json")).unwrap();
        let cache =
            TokenCache::builder(strongroom::DocumentStore::new(persistence)).clock(clock.clone()).build();
        builder("https://own.example/t.example")
            .instance_discovery(false)
            .transport(recorder.clone())
            .token_cache(cache)
            .build()
            .unwrap()
    };
    force(&app()).unwrap();
    down.store(true, Ordering::SeqCst);
    clock.advance(100_000);
    assert!(force(&app()).is_ok(), "it goes on with what it remembers");
    std::fs::remove_file(folder.path().join("cache.json.state")).unwrap();
    let error = force(&app()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Network, "timed_out"));
}
