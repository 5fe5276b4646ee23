//! Tokens that an FMI path or claims of the application's own set apart from plain ones.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;
use strongroom::{
    AcquireTokenForClient, ConfidentialClientApplication, ConfidentialClientApplicationBuilder,
    DocumentStore, ErrorKind, Lookup, MemoryPersistence, TokenCache, TokenSource, block_on,
};
use strongroom_sts::{Endpoint, Fault};

use crate::client_support::{NoTransport, Recorder, Scene};

const CLAIMS: &str = r#"{"access_token":{"nsp":{"value":"x"}}}"#;

fn request(scene: &Scene, app: &ConfidentialClientApplication) -> AcquireTokenForClient {
    app.acquire_token_for_client(scene.ready().scope.as_str())
}

fn another_process(scene: &Scene) -> ConfidentialClientApplicationBuilder {
    scene.builder().transport(NoTransport)
}

#[test]
fn a_token_for_a_path_is_found_by_that_path_alone() {
    let scene = Scene::new();
    let app = scene.app();
    let ask = |path: Option<&str>| {
        let request = request(&scene, &app);
        match path {
            Some(path) => request.fmi_path(path),
            None => request,
        }
    };
    let paths = [None, Some("some/path"), Some("other/path")];
    let tokens: Vec<_> = paths.map(|path| ask(path).blocking().unwrap()).into_iter().collect();
    assert_eq!(scene.token_requests(), 3);
    let other = another_process(&scene).build().unwrap();
    for (path, token) in paths.into_iter().zip(&tokens) {
        let again = ask(path).blocking().unwrap();
        assert_eq!(again.token_source(), TokenSource::Cache);
        assert_eq!(again.access_token(), token.access_token());
        let request = request(&scene, &other);
        let request = match path {
            Some(path) => request.fmi_path(path),
            None => request,
        };
        let found = request.clone().blocking().unwrap();
        assert_eq!(found.access_token(), token.access_token(), "{path:?}");
        assert_eq!(request.blocking().unwrap().access_token(), token.access_token(), "from memory: {path:?}");
    }
    // An empty path is none.
    assert_eq!(ask(Some("")).blocking().unwrap().access_token(), tokens[0].access_token());
}

#[test]
fn the_path_is_a_parameter_of_its_own_and_the_entry_is_what_msal_python_writes() {
    let scene = Scene::new();
    let sent = Recorder::new(scene.http());
    let app = scene.builder().transport(sent.clone()).build().unwrap();
    request(&scene, &app).fmi_path("some/path").blocking().unwrap();
    assert_eq!(sent.sent().last().unwrap().parameter("fmi_path"), Some("some/path"));
    let document = scene.document();
    let (key, entry) = document["AccessToken"].as_object().unwrap().iter().next().unwrap();
    let hash = "szxewqr_oxftvj7t5sfiqin1oqcuxxiaebvv50zvgau";
    let ready = scene.ready();
    let expected = format!("-localhost-atext-{}-{}-{}-{hash}", ready.client_id, ready.tenant, ready.scope);
    assert_eq!(*key, expected);
    assert_eq!((&entry["credential_type"], &entry["ext_cache_key"]), (&json!("AccessToken"), &json!(hash)));
}

#[test]
fn claims_of_the_applications_own_are_sent_within_claims_and_are_part_of_the_key() {
    let scene = Scene::new();
    let sent = Recorder::new(scene.http());
    let app = scene.builder().transport(sent.clone()).client_capabilities(["cp1"]).build().unwrap();
    let token = request(&scene, &app).forwarded_client_claims(CLAIMS).blocking().unwrap();
    let last = sent.sent().last().unwrap().clone();
    let merged = r#"{"access_token":{"nsp":{"value":"x"},"xms_cc":{"values":["cp1"]}}}"#;
    assert_eq!(last.parameter("claims"), Some(merged));
    assert_eq!(last.parameter("client_claims"), None);
    let again = request(&scene, &app).forwarded_client_claims(CLAIMS).blocking().unwrap();
    assert_eq!(again.access_token(), token.access_token());
    let plain = request(&scene, &app).blocking().unwrap();
    assert_ne!(plain.access_token(), token.access_token());
    let both = request(&scene, &app).forwarded_client_claims(CLAIMS).fmi_path("p").blocking().unwrap();
    assert_eq!(both.token_source(), TokenSource::IdentityProvider);
    let reversed = request(&scene, &app).fmi_path("p").forwarded_client_claims(CLAIMS).blocking().unwrap();
    assert_eq!(reversed.access_token(), both.access_token());
    // Another spelling is another token, as with MSAL.
    let spaced = CLAIMS.replace(':', ": ");
    let spaced = request(&scene, &app).forwarded_client_claims(spaced).blocking().unwrap();
    assert_eq!(spaced.token_source(), TokenSource::IdentityProvider);
}

#[test]
fn claims_that_are_no_object_are_refused_before_anything_is_sent() {
    let scene = Scene::new();
    for bad in ["1", "[]", "{", "null"] {
        let error = request(&scene, &scene.app()).forwarded_client_claims(bad).blocking().unwrap_err();
        let expected = (ErrorKind::Configuration, "invalid_forwarded_client_claims");
        assert_eq!((error.kind(), error.code()), expected);
    }
    assert_eq!(scene.requests(), 0);
}

#[test]
fn a_challenge_replaces_the_token_of_its_path_and_no_other() {
    let scene = Scene::new();
    let app = scene.app();
    let plain = request(&scene, &app).blocking().unwrap();
    let old = request(&scene, &app).fmi_path("p").blocking().unwrap();
    let challenge = r#"{"access_token":{"nbf":{"essential":true,"value":"1702682181"}}}"#;
    let new = request(&scene, &app).fmi_path("p").claims(challenge).blocking().unwrap();
    assert_ne!(new.access_token(), old.access_token());
    let found = request(&scene, &app).fmi_path("p").blocking().unwrap();
    assert_eq!(found.access_token(), new.access_token());
    assert_eq!(request(&scene, &app).blocking().unwrap().access_token(), plain.access_token());
}

#[test]
fn a_prepared_request_for_a_path_is_answered_at_once() {
    let scene = Scene::new();
    let app = scene.builder().token_cache(TokenCache::in_memory()).build().unwrap();
    let extended = request(&scene, &app).fmi_path("p");
    assert!(extended.at_once().is_none());
    let token = extended.clone().blocking().unwrap();
    extended.clone().blocking().unwrap();
    assert_eq!(extended.at_once().unwrap().access_token(), token.access_token());
    assert!(request(&scene, &app).at_once().is_none(), "nothing for the plain request");
}

#[test]
fn each_path_has_its_own_flight_and_its_own_refusals() {
    let scene = Scene::new();
    let app = Arc::new(scene.app());
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(3)).unwrap();
    std::thread::scope(|threads| {
        let ask = |path: &'static str| {
            let app = Arc::clone(&app);
            let scene = &scene;
            threads.spawn(move || request(scene, &app).fmi_path(path).blocking().unwrap())
        };
        let all = [ask(""), ask("a"), ask("b")];
        scene.wait_for(|stats| stats.held == 3);
        scene.sts.clear_faults();
        for thread in all {
            thread.join().unwrap();
        }
    });
    let refused = Fault::new(Endpoint::Token).status(429).header("Retry-After", "60").times(1);
    scene.sts.add_fault(refused).unwrap();
    assert!(request(&scene, &app).fmi_path("c").blocking().is_err());
    assert!(request(&scene, &app).fmi_path("c").blocking().unwrap_err().to_string().contains("remembered"));
    request(&scene, &app).fmi_path("d").blocking().unwrap();
    request(&scene, &app).force_refresh(true).blocking().unwrap();
}

#[test]
fn signing_out_removes_the_extended_tokens_too() {
    let scene = Scene::new();
    let app = scene.app();
    request(&scene, &app).blocking().unwrap();
    request(&scene, &app).fmi_path("p").blocking().unwrap();
    assert_eq!(block_on(app.remove_tokens_for_client()).unwrap(), 2);
    let again = request(&scene, &app).fmi_path("p").blocking().unwrap();
    assert_eq!(again.token_source(), TokenSource::IdentityProvider);
}

#[test]
fn tokens_that_other_languages_stored_for_a_path_are_found() {
    let hosts = strongroom::Environments::of("login.microsoftonline.com");
    let scopes = || "https://graph.microsoft.com/.default".into();
    let path = |path: &str| BTreeMap::from([("fmi_path".to_owned(), path.to_owned())]);
    for language in ["msal-python-1.39.0", "msal-node-7.2.3", "msal-go-1.9.0"] {
        let file = format!("{}/tests/data/generated/{language}/fmi.json", env!("CARGO_MANIFEST_DIR"));
        let cache = || {
            let store = DocumentStore::new(MemoryPersistence::with_content(std::fs::read(&file).unwrap()));
            TokenCache::builder(store).clock(Fixed).build()
        };
        let plain = strongroom::AccessTokenRequest::for_app("client-id", &hosts, "tid", scopes());
        let find = |request: &strongroom::AccessTokenRequest| {
            matches!(block_on(cache().find_access_token(request)).unwrap(), Lookup::Hit(_))
        };
        assert!(find(&plain.clone().extended_by(&path("some/path"))), "{language}");
        assert!(!find(&plain.clone().extended_by(&path("other/path"))), "{language}");
        assert!(!find(&plain.extended_by(&BTreeMap::new())), "{language}");
    }
}

/// The time at which the files were written.
#[derive(Debug)]
struct Fixed;

impl strongroom::Clock for Fixed {
    fn now(&self) -> strongroom::UnixSeconds {
        strongroom::UnixSeconds::new(1_795_534_300)
    }
}
