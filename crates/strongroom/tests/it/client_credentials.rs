//! The application's own token: asked for once, found by everybody afterwards.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;
use strongroom::{ErrorKind, TokenSource};
use strongroom_sts::Lifetimes;
use uuid::Uuid;

use crate::client_support::{NoTransport, Recorder, Scene};

#[test]
fn the_first_call_asks_once_and_the_next_process_asks_nobody() {
    let scene = Scene::new();
    let first = scene.token().unwrap();
    assert_eq!(first.token_source(), TokenSource::IdentityProvider);
    assert_eq!(scene.token_requests(), 1);
    let before = scene.sts.stats();

    let app = scene.builder().transport(NoTransport).build().unwrap();
    let second = scene.acquire(&app).unwrap();
    assert_eq!(second.token_source(), TokenSource::Cache);
    assert_eq!(second.access_token(), first.access_token());
    assert_eq!(scene.sts.stats(), before, "no request of any kind");
    assert_eq!(scene.token().unwrap().access_token(), first.access_token());
    assert_eq!(scene.sts.stats(), before);
}

#[test]
fn a_result_says_everything_that_is_known_of_its_token() {
    let scene = Scene::new();
    scene.sts.set_lifetimes(Lifetimes { expires_in: Some(7200), refresh_in: Some(3000) }).unwrap();
    let now = scene.clock.read();
    let new = scene.token().unwrap();
    scene.clock.advance(100);
    let found = scene.token().unwrap();
    for (result, source, word, age) in [
        (&new, TokenSource::IdentityProvider, "identity_provider", 0),
        (&found, TokenSource::Cache, "cache", 100),
    ] {
        assert_eq!(result.token_source(), source);
        assert_eq!(result.token_source().as_str(), word);
        assert_eq!(result.token_type(), "Bearer");
        assert_eq!(result.expires_on().get(), now + 7200);
        assert_eq!(result.expires_in(), 7200 - age);
        assert_eq!(result.refresh_on().map(strongroom::UnixSeconds::get), Some(now + 3000));
        assert_eq!(result.scopes().to_string(), scene.ready().scope);
        assert!(result.is_persisted() && result.persistence_error().is_none() && !result.is_stale());
        let header = result.authorization_header();
        assert_eq!(header.expose(), format!("Bearer {}", result.access_token().expose()));
    }
}

#[test]
fn a_provider_that_says_nothing_of_renewal_leaves_it_open() {
    let scene = Scene::new();
    assert_eq!(scene.token().unwrap().refresh_on(), None);
    assert_eq!(scene.token().unwrap().refresh_on(), None);
}

#[test]
fn silent_finds_nothing_before_and_the_token_after() {
    let scene = Scene::new();
    let scope = scene.ready().scope.as_str();
    let app = scene.app();
    assert!(app.acquire_token_silent(scope).blocking().unwrap().is_none());
    assert_eq!(scene.requests(), 0);
    let token = scene.acquire(&app).unwrap();
    let found = app.acquire_token_silent(scope).blocking().unwrap().unwrap();
    assert_eq!(found.access_token(), token.access_token());
    assert_eq!(found.token_source(), TokenSource::Cache);
    let other_process = scene.builder().transport(NoTransport).build().unwrap();
    assert!(other_process.acquire_token_silent(scope).blocking().unwrap().is_some());
}

#[test]
fn plain_threads_need_no_runtime() {
    let scene = Scene::new();
    let app = scene.app();
    let tokens: Vec<_> = std::thread::scope(|threads| {
        let all: Vec<_> = (0..4).map(|_| threads.spawn(|| scene.acquire(&app).unwrap())).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(tokens.iter().all(|token| token.access_token() == tokens[0].access_token()));
    assert_eq!(scene.token_requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_call_can_be_awaited_under_a_runtime_of_many_threads() {
    let scene = Scene::new();
    let scope = scene.ready().scope.clone();
    let token = scene.app().acquire_token_for_client(scope.as_str()).await.unwrap();
    assert_eq!(token.token_source(), TokenSource::IdentityProvider);
    let app = scene.app();
    let found = tokio::spawn(async move { app.acquire_token_for_client(scope.as_str()).await });
    assert_eq!(found.await.unwrap().unwrap().token_source(), TokenSource::Cache);
}

#[tokio::test(flavor = "current_thread")]
async fn the_call_can_be_awaited_under_a_runtime_of_one_thread() {
    let scene = Scene::new();
    let scope = scene.ready().scope.as_str();
    let app = scene.app();
    assert!(app.acquire_token_silent(scope).await.unwrap().is_none());
    assert_eq!(
        app.acquire_token_for_client(scope).await.unwrap().token_source(),
        TokenSource::IdentityProvider
    );
    assert!(app.acquire_token_silent(scope).await.unwrap().is_some());
}

#[test]
fn connections_outlive_the_runtime_of_the_caller_that_opened_them() {
    let scene = Scene::new();
    let app = scene.app();
    for n in 0..3 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let request = app.acquire_token_for_client(scene.ready().scope.as_str()).force_refresh(true);
        runtime.block_on(request.into_future()).unwrap();
        assert_eq!(scene.token_requests(), n + 1, "and none is sent twice");
    }
}

#[test]
fn each_resource_has_a_token_of_its_own() {
    let scene = Scene::new();
    let app = scene.app();
    let ask = |scope: &str| app.acquire_token_for_client(scope).blocking().unwrap();
    let one = ask("api://one/.default");
    let two = ask("api://two/.default");
    assert_ne!(one.access_token(), two.access_token());
    assert_eq!(scene.token_requests(), 2);
    assert_eq!(ask("api://one/.default").access_token(), one.access_token());
    assert_eq!(ask("API://TWO/.default").access_token(), two.access_token());
    assert_eq!(scene.token_requests(), 2);
}

#[test]
fn each_tenant_has_a_token_of_its_own() {
    let other = Uuid::new_v4().to_string();
    let scene = Scene::edited(|clients| {
        let mut twin = clients["clients"][0].clone();
        twin["tenant"] = json!(other);
        clients["clients"].as_array_mut().unwrap().push(twin);
        clients["tenants"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "id": other, "domains": ["fabrikam.localhost"] }));
    });
    let app = scene.app();
    let scope = scene.ready().scope.as_str();
    let own = scene.acquire(&app).unwrap();
    let others = app.acquire_token_for_client(scope).tenant_id(&other).blocking().unwrap();
    assert_ne!(own.access_token(), others.access_token());
    assert_eq!(scene.token_requests(), 2);
    // By its domain it is the same tenant, which has to be resolved once.
    let by_domain = app.acquire_token_for_client(scope).tenant_id("Fabrikam.localhost").blocking().unwrap();
    assert_eq!(by_domain.access_token(), others.access_token());
    assert_eq!(scene.token_requests(), 2);
    let silent = scene.app().acquire_token_silent(scope).tenant_id(other).blocking().unwrap().unwrap();
    assert_eq!(silent.access_token(), others.access_token());
    assert_eq!(scene.token().unwrap().access_token(), own.access_token());
}

#[test]
fn a_domain_is_resolved_once_and_a_new_process_knows_it() {
    let scene = Scene::new();
    let authority = format!("{}/{}", scene.origin(), scene.domain());
    let first = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap();
    let stats = scene.sts.stats();
    assert_eq!((stats.token, stats.openid_configuration, stats.discovery), (1, 1, 0));
    let realm =
        scene.document()["AccessToken"].as_object().unwrap().values().next().unwrap()["realm"].clone();
    assert_eq!(realm, scene.ready().tenant.as_str());

    let later = scene.builder_for(&authority).transport(NoTransport).build().unwrap();
    assert_eq!(scene.acquire(&later).unwrap().access_token(), first.access_token());
    // And the tenant's id finds what its domain has stored.
    let by_id = scene.builder().transport(NoTransport).build().unwrap();
    assert_eq!(scene.acquire(&by_id).unwrap().access_token(), first.access_token());
    assert_eq!(scene.sts.stats(), stats);
}

#[test]
fn what_is_found_by_the_tenants_id_is_found_by_its_domain() {
    let scene = Scene::new();
    let first = scene.token().unwrap();
    let authority = format!("{}/{}", scene.origin(), scene.domain());
    let by_domain = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap();
    assert_eq!(by_domain.access_token(), first.access_token());
    assert_eq!(by_domain.token_source(), TokenSource::Cache);
    assert_eq!(scene.token_requests(), 1);
}

#[test]
fn the_document_is_for_its_owner_alone() {
    let scene = Scene::new();
    scene.token().unwrap();
    let mode = std::fs::metadata(scene.location()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_forced_refresh_replaces_the_token() {
    let scene = Scene::new();
    let app = scene.app();
    let scope = scene.ready().scope.as_str();
    let first = scene.acquire(&app).unwrap();
    scene.clock.advance(1);
    let second = app.acquire_token_for_client(scope).force_refresh(true).blocking().unwrap();
    assert_eq!(second.token_source(), TokenSource::IdentityProvider);
    assert_ne!(first.access_token(), second.access_token());
    assert_eq!(scene.acquire(&app).unwrap().access_token(), second.access_token());
    assert_eq!(scene.token().unwrap().access_token(), second.access_token());
    let stats = app.token_cache().stats();
    assert_eq!((stats.misses_absent, stats.misses_forced, stats.from_identity_provider), (1, 1, 2));
    assert_eq!(scene.token_requests(), 2);
}

#[test]
fn a_claims_challenge_goes_past_the_cache_and_capabilities_do_not() {
    let scene = Scene::new();
    let recorder = Recorder::new(scene.http());
    let app = scene.builder().transport(recorder.clone()).client_capabilities(["CP1"]).build().unwrap();
    let scope = scene.ready().scope.as_str();
    let first = scene.acquire(&app).unwrap();
    let capabilities = r#"{"access_token":{"xms_cc":{"values":["CP1"]}}}"#;
    assert_eq!(recorder.sent().last().unwrap().parameter("claims"), Some(capabilities));
    assert_eq!(scene.acquire(&app).unwrap().token_source(), TokenSource::Cache);

    let challenge = r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"}}}"#;
    scene.clock.advance(1);
    let second = app.acquire_token_for_client(scope).claims(challenge).blocking().unwrap();
    assert_ne!(first.access_token(), second.access_token());
    assert_eq!(
        recorder.sent().last().unwrap().parameter("claims"),
        Some(
            r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"},"xms_cc":{"values":["CP1"]}}}"#
        )
    );
    assert_eq!(scene.acquire(&app).unwrap().access_token(), second.access_token());
    let stats = app.token_cache().stats();
    assert_eq!((stats.misses_claims, stats.misses_absent, scene.token_requests()), (1, 1, 2));

    let error = app.acquire_token_for_client(scope).claims("no JSON").blocking().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "invalid_claims"));
    assert_eq!(scene.token_requests(), 2);
}

#[test]
fn a_request_says_who_asks_and_carries_what_entra_wants_to_see() {
    let scene = Scene::new();
    let recorder = Recorder::new(scene.http());
    let app =
        scene.builder().transport(recorder.clone()).app_name("nightly").app_version("1.2").build().unwrap();
    scene.acquire(&app).unwrap();
    let sent = recorder.sent();
    let [discovery, request] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!(discovery.method, strongroom::HttpMethod::Get);
    assert!(discovery.body.is_empty());
    for sent in &sent {
        assert!(Uuid::parse_str(sent.header("client-request-id").unwrap()).is_ok());
        assert_eq!(sent.header("return-client-request-id"), Some("true"));
        assert_eq!(sent.header("x-client-sku"), Some("Strongroom"));
        assert!(sent.header("x-client-ver").is_some() && sent.header("x-client-os").is_some());
        assert_eq!(sent.header("x-ms-lib-capability"), Some("retry-after, h429"));
        assert_eq!(sent.header("x-app-name"), Some("nightly"));
        assert_eq!(sent.header("x-app-ver"), Some("1.2"));
        assert_eq!(sent.header("accept"), Some("application/json"));
        assert_eq!(sent.header("x-anchormailbox"), None);
    }
    assert_eq!(discovery.header("client-request-id"), request.header("client-request-id"));
    assert_eq!(request.method, strongroom::HttpMethod::Post);
    assert!(request.header("content-type").unwrap().starts_with("application/x-www-form-urlencoded"));
    assert!(request.header("x-client-current-telemetry").unwrap().starts_with("5|1004,2,"));
    let ready = scene.ready();
    let form: Vec<_> = request.form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        form,
        [
            ("client_id", ready.client_id.as_str()),
            ("client_secret", &ready.client_secret),
            ("grant_type", "client_credentials"),
            ("scope", &ready.scope),
        ]
    );
    scene.acquire(&app).unwrap();
    assert_eq!(recorder.sent().len(), 2, "a hit sends nothing");
}

#[test]
fn each_request_has_an_id_of_its_own_unless_the_caller_gives_one() {
    let scene = Scene::new();
    let recorder = Recorder::new(scene.http());
    let app = scene.builder().transport(recorder.clone()).build().unwrap();
    let scope = scene.ready().scope.as_str();
    let ask = || app.acquire_token_for_client(scope).force_refresh(true);
    ask().blocking().unwrap();
    ask().blocking().unwrap();
    let own = Uuid::new_v4().to_string();
    ask().correlation_id(&own).blocking().unwrap();
    let sent = recorder.sent();
    let ids: Vec<_> = sent.iter().skip(1).map(|sent| sent.header("client-request-id").unwrap()).collect();
    assert_eq!(ids.len(), 3);
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[2], own);
}

#[test]
fn the_default_scope_is_found_again_whatever_the_provider_names_it() {
    let scene = Scene::new();
    let fault = strongroom_sts::Fault::new(strongroom_sts::Endpoint::Token).body(
        json!({"token_type": "Bearer", "expires_in": 3599, "access_token": "t", "scope": "read write"})
            .to_string(),
    );
    scene.sts.add_fault(fault).unwrap();
    let app = scene.app();
    let granted = scene.acquire(&app).unwrap();
    assert!(strongroom::Scopes::from("read").is_subset_of(granted.scopes()));
    assert_eq!(scene.acquire(&app).unwrap().token_source(), TokenSource::Cache);
    assert_eq!(scene.token_requests(), 1);
}

#[test]
fn scopes_that_an_application_cannot_have_are_refused_before_the_network() {
    let scene = Scene::new();
    let app = scene.app();
    for scope in ["", "  ", "openid", "api://x/.default offline_access"] {
        for error in [
            app.acquire_token_for_client(scope).blocking().unwrap_err(),
            app.acquire_token_silent(scope).blocking().unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "invalid_scope"));
            assert!(error.remedy().is_some());
        }
    }
    assert_eq!(scene.requests(), 0);
}

#[test]
fn counters_count_each_call_once() {
    let scene = Scene::new();
    let app = scene.app();
    let scope = scene.ready().scope.as_str();
    for _ in 0..5 {
        scene.acquire(&app).unwrap();
    }
    app.acquire_token_silent("api://other/.default").blocking().unwrap();
    scene.clock.advance(3599);
    scene.acquire(&app).unwrap();
    app.acquire_token_for_client(scope).force_refresh(true).blocking().unwrap();
    let stats = app.token_cache().stats();
    assert_eq!(stats.misses_absent, 2);
    assert_eq!(stats.misses_expired, 1);
    assert_eq!(stats.misses_forced, 1);
    assert_eq!(stats.hits_in_store + stats.hits_in_memory, 4);
    assert_eq!(stats.hits_in_memory, 3, "the first look-up of a state reads the store, the others do not");
    assert_eq!((stats.from_identity_provider, stats.stored, stats.failed, stats.shared), (3, 3, 0, 0));
}
