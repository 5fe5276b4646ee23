//! In one process, of all who want the same token at the same time one asks, and the others share the answer.

use std::future::{Future, IntoFuture as _};
use std::net::TcpListener;
use std::pin::Pin;
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};

use serde_json::json;
use strongroom::{
    AcquireTokenForClient, AuthenticationResult, ClientCredential, ConfidentialClientApplication, Error,
    TokenCache, TokenSource, block_on,
};
use strongroom_sts::{Endpoint, Fault};
use uuid::Uuid;

use crate::client_support::Scene;

type Call = Pin<Box<dyn Future<Output = Result<AuthenticationResult, Error>> + Send>>;

/// A call that is under way and not done: it has joined its flight.
fn begin(request: AcquireTokenForClient) -> Call {
    let mut call = Box::pin(request.into_future());
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(call.as_mut().poll(&mut context), Poll::Pending), "nobody was to answer yet");
    call
}

/// The outcomes of calls that are under way, each on a thread of its own.
fn finish(calls: Vec<Call>) -> Vec<Result<AuthenticationResult, Error>> {
    let threads: Vec<_> = calls.into_iter().map(|call| std::thread::spawn(|| block_on(call))).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

/// A provider that holds the next token request, and nothing after it.
fn holding() -> Scene {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    scene
}

fn secret_of(result: &Result<AuthenticationResult, Error>) -> String {
    result.as_ref().unwrap().access_token().expose().to_owned()
}

#[test]
fn callers_that_come_while_one_asks_share_its_answer() {
    let scene = holding();
    let app = scene.app();
    let ask = || app.acquire_token_for_client(scene.ready().scope.as_str());
    let calls: Vec<_> = (0..20).map(|_| begin(ask())).collect();
    let waiting = std::thread::spawn(|| finish(calls));
    scene.wait_for(|stats| stats.held == 1);
    scene.sts.clear_faults();
    let results = waiting.join().unwrap();
    assert!(results.iter().all(|result| secret_of(result) == secret_of(&results[0])));
    assert_eq!(scene.token_requests(), 1);
    // Whoever shared says so: the request was made for it as well.
    let sources = results.iter().map(|result| result.as_ref().unwrap().token_source());
    assert!(sources.into_iter().all(|source| source == TokenSource::IdentityProvider));
    let stats = app.token_cache().stats();
    assert_eq!((stats.misses_absent, stats.from_identity_provider, stats.shared), (20, 1, 19));
    assert_eq!((stats.stored, stats.failed), (1, 0));
    assert_eq!(scene.acquire(&app).unwrap().token_source(), TokenSource::Cache);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_runtime_and_blocking_threads_make_one_request_together() {
    let scene = Scene::new();
    let app = scene.app();
    let scope = scene.ready().scope.clone();
    let start = Arc::new(Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (app, scope, start) = (app.clone(), scope.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                app.acquire_token_for_client(scope.as_str()).blocking()
            })
        })
        .collect();
    let tasks: Vec<_> =
        (0..48).map(|_| tokio::spawn(app.acquire_token_for_client(scope.as_str()).into_future())).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    assert_eq!(scene.token_requests(), 1);
    assert!(results.iter().all(|result| secret_of(result) == secret_of(&results[0])));
    let stats = app.token_cache().stats();
    let hits = stats.hits_in_memory + stats.hits_in_store;
    assert_eq!((stats.from_identity_provider, stats.shared + hits, stats.stored), (1, 63, 1), "{stats:?}");
}

#[test]
fn a_failure_is_shared_and_the_next_call_asks_again() {
    let scene = holding();
    let app = scene.app_with_secret("not-the-secret");
    let ask = || app.acquire_token_for_client(scene.ready().scope.as_str());
    let calls: Vec<_> = (0..10).map(|_| begin(ask())).collect();
    let waiting = std::thread::spawn(|| finish(calls));
    scene.wait_for(|stats| stats.held == 1);
    scene.sts.clear_faults();
    let errors: Vec<_> = waiting.join().unwrap().into_iter().map(Result::unwrap_err).collect();
    // One answer: even its ids are the same.
    let first = errors[0].service().unwrap();
    assert_eq!(first.error, "invalid_client");
    assert!(errors.iter().all(|error| error.service() == Some(first)));
    let stats = app.token_cache().stats();
    assert_eq!((stats.failed, stats.shared, scene.token_requests()), (1, 9, 1));

    scene.forget_refusals();
    let again = ask().blocking().unwrap_err();
    assert_ne!(again.service(), Some(first), "an answer is not kept for those who come later");
    assert_eq!(scene.token_requests(), 2);
}

#[test]
fn when_the_one_that_asks_is_cancelled_another_asks_in_its_place() {
    let scene = holding();
    let app = scene.app();
    let ask = || app.acquire_token_for_client(scene.ready().scope.as_str());
    let leader = begin(ask());
    let others: Vec<_> = (0..5).map(|_| begin(ask())).collect();
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let leading = std::thread::spawn(|| {
        block_on(async {
            tokio::select! {
                biased;
                _ = cancelled => None,
                result = leader => Some(result),
            }
        })
    });
    scene.wait_for(|stats| stats.held == 1);
    cancel.send(()).unwrap();
    assert!(leading.join().unwrap().is_none());
    // The cancelled request is given up, not left to run.
    scene.wait_for(|stats| stats.held == 0);
    let results = finish(others);
    assert!(results.iter().all(|result| secret_of(result) == secret_of(&results[0])));
    assert_eq!(scene.token_requests(), 2);
    let stats = app.token_cache().stats();
    assert_eq!((stats.from_identity_provider, stats.shared), (1, 4));
}

/// What `ask` gets while the sample application's own request is under way; then that one is let go.
fn beside_a_held_request(
    scene: &Scene,
    held: AcquireTokenForClient,
    ask: impl FnOnce() -> Result<AuthenticationResult, Error>,
) -> (Result<AuthenticationResult, Error>, Result<AuthenticationResult, Error>) {
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    let held = std::thread::spawn(|| held.blocking());
    scene.wait_for(|stats| stats.held == 1);
    // It would wait for ever if it had joined.
    let other = ask();
    assert_eq!(scene.sts.stats().held, 1);
    scene.sts.clear_faults();
    (held.join().unwrap(), other)
}

#[test]
fn other_scopes_and_other_tenants_neither_share_nor_wait() {
    let tenant = Uuid::new_v4().to_string();
    let scene = Scene::edited(|clients| {
        let mut twin = clients["clients"][0].clone();
        twin["tenant"] = json!(tenant);
        clients["clients"].as_array_mut().unwrap().push(twin);
        clients["tenants"].as_array_mut().unwrap().push(json!({ "id": tenant, "domains": [] }));
    });
    let app = scene.app();
    let ask = |scope: &str| app.acquire_token_for_client(scope);
    let scope = scene.ready().scope.as_str();
    let (held, other) = beside_a_held_request(&scene, ask(scope), || ask("api://other/.default").blocking());
    assert_ne!(secret_of(&held), secret_of(&other));
    assert_eq!(scene.token_requests(), 2);

    let forced = || ask(scope).force_refresh(true);
    let (held, other) = beside_a_held_request(&scene, forced(), || forced().tenant_id(&tenant).blocking());
    assert_ne!(secret_of(&held), secret_of(&other));
    assert_eq!(scene.token_requests(), 4);
}

#[test]
fn applications_on_one_cache_share_a_request_only_if_their_secrets_are_equal() {
    let cache = TokenCache::in_memory();
    // Closes every connection at once; without a transport of their own all three go the same way.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let authority = format!("https://{}/{}", listener.local_addr().unwrap(), Uuid::new_v4());
    let begin_with = |secret: &str| {
        let secret = ClientCredential::from_secret(secret);
        let builder = ConfidentialClientApplication::builder("client", authority.as_str(), secret);
        let app = builder.instance_discovery(false).token_cache(cache.clone()).build().unwrap();
        begin(app.acquire_token_for_client("api://x/.default"))
    };
    let calls = ["one", "one", "other"].map(begin_with).into();
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let results = finish(calls);
    assert!(results.iter().all(Result::is_err));
    let stats = cache.stats();
    assert_eq!((stats.failed, stats.shared), (2, 1));
}

#[test]
fn forced_refreshes_share_with_each_other_and_with_nobody_else() {
    let scene = Scene::new();
    let app = scene.app();
    let ask = || app.acquire_token_for_client(scene.ready().scope.as_str());
    let old = scene.acquire(&app).unwrap();
    scene.clock.advance(1);

    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    let calls: Vec<_> = (0..6).map(|_| begin(ask().force_refresh(true))).collect();
    let waiting = std::thread::spawn(|| finish(calls));
    scene.wait_for(|stats| stats.held == 1);
    // Who does not force is served meanwhile.
    assert_eq!(ask().blocking().unwrap().access_token(), old.access_token());
    scene.sts.clear_faults();
    let results = waiting.join().unwrap();
    assert!(results.iter().all(|result| secret_of(result) == secret_of(&results[0])));
    assert_ne!(secret_of(&results[0]), old.access_token().expose());
    assert_eq!(scene.token_requests(), 2);

    // The answer to a request that was begun before is not what a forced one asks for, nor is that to another challenge.
    let claims =
        |value: &str| ask().claims(json!({ "access_token": { "nbf": { "value": value } } }).to_string());
    let (held, other) = beside_a_held_request(&scene, claims("1"), || claims("2").blocking());
    assert_ne!(secret_of(&held), secret_of(&other));
    let (held, other) = beside_a_held_request(&scene, claims("1"), || ask().force_refresh(true).blocking());
    assert_ne!(secret_of(&held), secret_of(&other));
    assert_eq!(scene.token_requests(), 6);
}

#[test]
fn who_finds_the_token_that_another_process_has_just_stored_asks_nobody() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::OpenidConfiguration).hold().times(1)).unwrap();
    // It has missed, and asks where the token endpoint is.
    let late = scene.app();
    let call = late.acquire_token_for_client(scene.ready().scope.as_str());
    let call = std::thread::spawn(|| call.blocking());
    scene.wait_for(|stats| stats.held == 1);
    let stored = scene.token().unwrap();
    scene.sts.clear_faults();
    let found = call.join().unwrap().unwrap();
    assert_eq!(found.access_token(), stored.access_token());
    assert_eq!(found.token_source(), TokenSource::Cache);
    assert_eq!(scene.token_requests(), 1);
    let stats = late.token_cache().stats();
    assert_eq!((stats.misses_absent, stats.shared, stats.from_identity_provider), (1, 1, 0));
}
