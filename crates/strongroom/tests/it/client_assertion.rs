//! An application whose client assertions come from elsewhere: a text, or a function.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use strongroom::{
    AssertionContext, ClientCertificate, ClientCredential, ConfidentialClientApplication, Error, ErrorKind,
    SecretString, TokenSource,
};

use crate::client_support::{Canned, PATIENCE, Recorder, Scene, json_response, token_response};
use crate::secrets::assert_clean;

const SCOPE: &str = "api://a/.default";
const TENANT: &str = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47";
const JWT: &str = "eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJ0aGUtY2xpZW50In0.c2lnbmF0dXJlLW9mLWFuLWFzc2VydGlvbg";

/// An application, and what it sends.
fn app(credential: ClientCredential) -> (ConfidentialClientApplication, Recorder<Canned>) {
    let sent = Recorder::new(Canned::new(|_| Ok(token_response("token"))));
    let app = ConfidentialClientApplication::builder("the-client", TENANT, credential);
    (app.transport(sent.clone()).build().unwrap(), sent)
}

fn provider(
    function: impl Fn(&AssertionContext) -> Result<SecretString, Error> + Send + Sync + 'static,
) -> ClientCredential {
    ClientCredential::from_assertion_provider(function)
}

fn no_assertion() -> Error {
    Error::new(ErrorKind::Configuration, "no_vault", "the vault is shut").with_remedy("open the vault")
}

#[test]
fn an_assertion_is_sent_as_it_is() {
    let (app, sent) = app(ClientCredential::from_assertion(JWT));
    app.acquire_token_for_client(SCOPE).blocking().unwrap();
    let sent = sent.sent();
    assert_eq!(sent[0].parameter("client_assertion"), Some(JWT));
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    assert_eq!(sent[0].parameter("client_assertion_type"), Some(kind));
    assert_eq!(sent[0].parameter("client_secret"), None);
}

#[test]
fn an_empty_assertion_is_no_credential() {
    for empty in ["", "  \n"] {
        let credential = ClientCredential::from_assertion(empty);
        let error = ConfidentialClientApplication::builder("client", TENANT, credential).build().unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "no_client_credential"));
    }
}

#[test]
fn a_provider_is_called_for_each_request_and_never_on_a_hit() {
    let seen: Arc<Mutex<Vec<AssertionContext>>> = Arc::default();
    let contexts = Arc::clone(&seen);
    let (app, sent) = app(provider(move |context| {
        let mut contexts = contexts.lock().unwrap();
        contexts.push(context.clone());
        Ok(format!("{JWT}{}", contexts.len()).into())
    }));
    for _ in 0..2 {
        app.acquire_token_for_client(SCOPE).blocking().unwrap();
        app.acquire_token_for_client(SCOPE).fmi_path("some/path").blocking().unwrap();
    }
    app.acquire_token_for_client(SCOPE).force_refresh(true).blocking().unwrap();
    let seen = seen.lock().unwrap();
    let paths: Vec<_> = seen.iter().map(AssertionContext::fmi_path).collect();
    assert_eq!(paths, [None, Some("some/path"), None]);
    for context in &*seen {
        assert_eq!(context.client_id(), "the-client");
        assert_eq!(context.token_endpoint(), format!("{TENANT}/oauth2/v2.0/token"));
    }
    let assertions: Vec<_> =
        sent.sent().iter().map(|sent| sent.parameter("client_assertion").unwrap().to_owned()).collect();
    assert_eq!(assertions, [format!("{JWT}1"), format!("{JWT}2"), format!("{JWT}3")]);
}

#[test]
fn the_error_of_a_provider_is_the_requests_and_is_not_remembered() {
    let scene = Scene::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let fails = move |_: &AssertionContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        Err(no_assertion())
    };
    for call in 1..=2 {
        let app = scene.builder_with(provider(fails.clone())).build().unwrap();
        let error = scene.acquire(&app).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "no_vault"));
        assert_eq!(error.remedy().as_deref(), Some("open the vault"));
        assert!(error.to_string().contains("the vault is shut"), "{error}");
        assert_eq!(calls.load(Ordering::SeqCst), call);
    }
    // Not even one that looks like the provider's own.
    let app = scene.builder_with(provider(|_| Err(Error::new(ErrorKind::Network, "vault_down", "no vault"))));
    let app = app.build().unwrap();
    for _ in 0..2 {
        let error = scene.acquire(&app).unwrap_err();
        assert!(!error.to_string().contains("remembered"), "{error}");
    }
    assert_eq!(scene.token_requests(), 0);
    scene.token().unwrap();
}

#[test]
fn who_has_a_token_is_not_hurt_by_a_provider_that_fails() {
    let scene = Scene::new();
    let token = scene.token().unwrap();
    scene.clock.advance(token.expires_in() - 60);
    let app = scene.builder_with(provider(|_| Err(no_assertion()))).build().unwrap();
    let stale = scene.acquire(&app).unwrap();
    assert!(stale.is_stale());
    assert_eq!(stale.access_token(), token.access_token());
}

#[test]
fn a_provider_that_gives_nothing_or_panics_is_an_error() {
    let (empty, sent) = app(provider(|_| Ok(" \n".into())));
    let error = empty.acquire_token_for_client(SCOPE).blocking().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "empty_client_assertion"));
    let (panics, _) = app(provider(|_| panic!("as a test wants it")));
    let error = panics.acquire_token_for_client(SCOPE).blocking().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Internal, "assertion_provider_panicked"));
    assert!(sent.sent().is_empty());
}

#[tokio::test(flavor = "current_thread")]
async fn a_provider_that_blocks_holds_up_nobody_else() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let (app, _) = app(provider(move |context| {
        if context.fmi_path().is_some() {
            gate.lock().unwrap().recv_timeout(PATIENCE).unwrap();
        }
        Ok(JWT.into())
    }));
    let blocked = app.acquire_token_for_client(SCOPE).fmi_path("slow").into_future();
    let blocked = tokio::spawn(blocked);
    // On the same runtime, of one thread.
    let token = app.acquire_token_for_client(SCOPE).await.unwrap();
    assert_eq!(token.token_source(), TokenSource::IdentityProvider);
    assert!(!blocked.is_finished());
    release.send(()).unwrap();
    blocked.await.unwrap().unwrap();
}

#[test]
fn a_provider_that_never_returns_is_given_up_when_the_time_is_over() {
    let (_release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let never = provider(move |_| {
        let _ = gate.lock().unwrap().recv();
        Ok(JWT.into())
    });
    let app = ConfidentialClientApplication::builder("client", TENANT, never)
        .timeout(Duration::from_millis(50))
        .transport(Canned::new(|_| panic!("a request was made")))
        .build()
        .unwrap();
    let error = app.acquire_token_for_client(SCOPE).blocking().unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Network, "assertion_timed_out"));
    assert!(error.is_retryable());
}

#[test]
fn calls_that_never_return_use_up_the_calls_of_their_own_provider_alone() {
    let gate = Arc::new(Mutex::new(()));
    let shut = gate.lock().unwrap();
    let inner = Arc::clone(&gate);
    let hung = provider(move |_| {
        drop(inner.lock());
        Ok(JWT.into())
    });
    let app = ConfidentialClientApplication::builder("client", TENANT, hung)
        .timeout(Duration::from_millis(20))
        .transport(Canned::new(|_| panic!("a request was made")))
        .build()
        .unwrap();
    let codes: Vec<_> = (0..65)
        .map(|call| {
            app.acquire_token_for_client(format!("api://{call}/.default").as_str()).blocking().unwrap_err()
        })
        .map(|error| error.code().to_owned())
        .collect();
    assert!(codes[..64].iter().all(|code| code == "assertion_timed_out"), "{codes:?}");
    assert_eq!(codes[64], "assertion_provider_busy");
    let (other, _) = self::app(provider(|_| Ok(JWT.into())));
    other.acquire_token_for_client(SCOPE).blocking().unwrap();
    drop(shut);
}

#[test]
fn an_assertion_that_was_refused_does_not_stand_in_the_way_of_the_next_one() {
    for (status, error) in [(401, "invalid_client"), (400, "invalid_request")] {
        let scene = Scene::new();
        let answer = Canned::new(move |request| {
            let form = String::from_utf8(request.body.as_ref().unwrap().expose().to_vec()).unwrap();
            Ok(match form.contains("corrected") {
                true => token_response("token"),
                false => json_response(status, &serde_json::json!({ "error": error })),
            })
        });
        let sent = Recorder::new(answer);
        let ask = |assertion: &'static str| {
            let credential = provider(move |_| Ok(assertion.into()));
            let app = scene.builder_with(credential).transport(sent.clone()).build().unwrap();
            scene.acquire(&app)
        };
        // Known from before, so that it is the token request that fails.
        scene.token().unwrap();
        std::fs::remove_file(scene.location()).unwrap();
        assert_eq!(ask("wrong-assertion").unwrap_err().code(), error);
        ask("corrected-assertion").unwrap();
        assert_eq!(sent.sent().len(), 2);
    }
}

#[test]
fn what_is_no_fault_of_the_assertion_is_remembered() {
    let scene = Scene::new();
    scene.token().unwrap();
    std::fs::remove_file(scene.location()).unwrap();
    let refused = serde_json::json!({ "error": "invalid_scope" });
    let sent = Recorder::new(Canned::new(move |_| Ok(json_response(400, &refused))));
    for _ in 0..2 {
        let credential = provider(|_| Ok(JWT.into()));
        let app = scene.builder_with(credential).transport(sent.clone()).build().unwrap();
        assert_eq!(scene.acquire(&app).unwrap_err().code(), "invalid_scope");
    }
    assert_eq!(sent.sent().len(), 1);
}

#[test]
fn one_call_serves_all_who_ask_at_once() {
    let scene = Scene::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let (release, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let app = scene
        .builder_with(provider(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            gate.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            Err(no_assertion())
        }))
        .build()
        .unwrap();
    strongroom::block_on(async {
        let ask = || app.acquire_token_for_client(SCOPE).into_future();
        let (first, second, ()) = tokio::join!(ask(), ask(), async {
            release.send(()).unwrap();
        });
        assert!(first.is_err() && second.is_err());
    });
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn an_assertion_that_is_echoed_does_not_get_into_an_error() {
    let folder = env!("CARGO_MANIFEST_DIR");
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/tests/certificates/{name}")).unwrap();
    let certificate =
        || ClientCertificate::from_pem(read("key.pem")).public_certificate(read("certificate.pem"));
    for credential in [
        ClientCredential::from_assertion(JWT),
        provider(|_| Ok(JWT.into())),
        ClientCredential::from_certificate(certificate()),
    ] {
        // Whole, its signature alone, and all that was sent.
        for echo in [0, 1, 2] {
            let form = credential.clone();
            let transport = Recorder::new(Canned::new(move |request| {
                let body = String::from_utf8(request.body.as_ref().unwrap().expose().to_vec()).unwrap();
                let fields: std::collections::HashMap<_, _> =
                    url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
                let assertion = &fields["client_assertion"];
                let text = [assertion, assertion.rsplit('.').next().unwrap(), &body][echo];
                let body = serde_json::json!({ "error": "invalid_client", "error_description": text });
                Ok(json_response(401, &body))
            }));
            let app = ConfidentialClientApplication::builder("client", TENANT, form)
                .transport(transport.clone())
                .build()
                .unwrap();
            let error = app.acquire_token_for_client(SCOPE).blocking().unwrap_err();
            let assertion = transport.sent()[0].parameter("client_assertion").unwrap().to_owned();
            let shown = format!("{error} {error:?} {:?}", error.service());
            assert!(shown.contains("[redacted]"), "{shown}");
            assert_clean(&shown, &[assertion]);
        }
    }
}
