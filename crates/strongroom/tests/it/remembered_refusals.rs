//! Remembered refusals: a daemon that is started each second and refused each time is no load.

use std::time::Duration;

use strongroom::{AuthenticationResult, Error, ErrorKind, TokenCache, TokenSource};
use strongroom_sts::{Endpoint, Fault};

use crate::client_support::Scene;

/// A new process each second, for so many seconds: at which of them the provider was asked.
fn asked_at(scene: &Scene, seconds: i64, run: impl Fn() -> Result<AuthenticationResult, Error>) -> Vec<i64> {
    let mut asked = Vec::new();
    for second in 0..seconds {
        let before = scene.token_requests();
        assert!(run().is_err(), "at {second} s");
        if scene.token_requests() > before {
            asked.push(second);
        }
        scene.clock.advance(1);
    }
    asked
}

#[test]
fn a_permanent_refusal_counts_a_minute_doubling_to_five() {
    let scene = Scene::new();
    let run = || scene.acquire(&scene.app_with_secret("not-the-secret"));
    assert_eq!(asked_at(&scene, 1100, run), [0, 60, 180, 420, 720, 1020]);
}

#[test]
fn an_outage_counts_five_seconds_doubling_to_sixty() {
    let scene = Scene::new();
    // Known from before, so that it is the token request that fails.
    scene.token().unwrap();
    std::fs::remove_file(scene.location()).unwrap();
    scene
        .sts
        .add_fault(Fault::new(Endpoint::Token).status(503).header("Retry-After", "soon").for_ever())
        .unwrap();
    let before = scene.token_requests();
    assert_eq!(asked_at(&scene, 200, || scene.token()), [0, 5, 15, 35, 75, 135, 195]);
    assert_eq!(scene.token_requests() - before, 14, "each with one second try");
}

#[test]
fn retry_after_counts_as_long_as_it_says_and_force_refresh_does_not_bypass_it() {
    let scene = Scene::new();
    let fault = Fault::new(Endpoint::Token).status(429).header("Retry-After", "30").times(1);
    scene.sts.add_fault(fault).unwrap();
    let first = scene.refusal();
    assert_eq!(first.retry_after(), Some(Duration::from_secs(30)));
    scene.clock.advance(10);
    for force in [false, true] {
        let request = scene.app().acquire_token_for_client(scene.ready().scope.as_str()).force_refresh(force);
        let error = request.blocking().unwrap_err();
        assert_eq!((error.kind(), error.code()), (first.kind(), first.code()), "as its first");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(20)), "what is left of it");
        assert!(error.remedy().unwrap().contains("20 seconds"), "{:?}", error.remedy());
    }
    assert_eq!(scene.token_requests(), 1);
    scene.clock.advance(20);
    assert!(scene.token().is_ok());
}

#[test]
fn a_remembered_refusal_is_like_its_first() {
    let scene = Scene::new();
    let run = || scene.acquire(&scene.app_with_secret("not-the-secret")).unwrap_err();
    let (first, second) = (run(), run());
    assert_eq!(scene.token_requests(), 1);
    assert_eq!((second.kind(), second.code()), (first.kind(), first.code()));
    assert_eq!(second.service(), first.service(), "with all that the provider said");
    assert!(second.to_string().starts_with(&first.to_string()), "{second}");
    assert!(second.to_string().contains("remembered"), "and it says so: {second}");
    let (remedy, known) = (second.remedy().unwrap(), first.remedy().unwrap());
    assert!(remedy.starts_with(&*known) && remedy.contains("force"), "{remedy}");
    assert_eq!(second.is_retryable(), first.is_retryable());
}

#[test]
fn force_refresh_bypasses_what_the_provider_did_not_ask_for() {
    for status in [400, 503] {
        let scene = Scene::new();
        scene.sts.add_fault(Fault::new(Endpoint::Token).status(status).for_ever()).unwrap();
        assert!(scene.token().is_err());
        scene.sts.clear_faults();
        let before = scene.token_requests();
        assert!(scene.token().is_err(), "{status}: remembered");
        assert_eq!(scene.token_requests(), before);
        let request = scene.app().acquire_token_for_client(scene.ready().scope.as_str()).force_refresh(true);
        assert!(request.blocking().is_ok(), "{status}");
        std::fs::remove_file(scene.location()).unwrap();
        assert_eq!(
            scene.token().unwrap().token_source(),
            TokenSource::IdentityProvider,
            "{status}: forgotten"
        );
    }
}

#[test]
fn a_refusal_belongs_to_one_request() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).status(400).times(1)).unwrap();
    assert!(scene.token().is_err());
    let ask = |scope: &str| scene.app().acquire_token_for_client(scope).blocking();
    assert!(ask("api://another/.default").is_ok(), "another scope");
    assert!(ask(&scene.ready().scope).is_err());
    let claims = r#"{"access_token":{"x":{"essential":true}}}"#;
    let challenged = scene.app().acquire_token_for_client(scene.ready().scope.as_str()).claims(claims);
    assert!(challenged.blocking().is_ok(), "a claims challenge");
}

#[test]
fn a_corrected_secret_is_noticed_at_once_and_the_wrong_one_stays_refused() {
    let scene = Scene::new();
    let wrong = || scene.acquire(&scene.app_with_secret("not-the-secret"));
    assert!(wrong().is_err() && wrong().is_err());
    assert!(scene.token().is_ok());
    std::fs::remove_file(scene.location()).unwrap();
    let before = scene.token_requests();
    assert!(wrong().is_err());
    assert_eq!(scene.token_requests(), before);
}

#[test]
fn an_unreachable_provider_is_remembered_and_a_slow_one_is_not() {
    let scene = Scene::new();
    scene.token().unwrap();
    std::fs::remove_file(scene.location()).unwrap();
    scene.sts.add_fault(Fault::new(Endpoint::Token).cut_after_bytes(0).for_ever()).unwrap();
    let first = scene.refusal();
    assert_eq!(first.kind(), ErrorKind::Network);
    let before = scene.token_requests();
    let second = scene.refusal();
    assert_eq!((second.kind(), second.code()), (first.kind(), first.code()));
    assert_eq!(scene.token_requests(), before);

    let scene = Scene::new();
    scene.token().unwrap();
    std::fs::remove_file(scene.location()).unwrap();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().for_ever()).unwrap();
    let impatient = || {
        let app = scene.builder().timeout(Duration::from_millis(300)).build().unwrap();
        scene.acquire(&app).unwrap_err()
    };
    assert_eq!(impatient().code(), "timed_out");
    let before = scene.token_requests();
    assert_eq!(impatient().code(), "timed_out", "who has nothing to serve asks again");
    assert_eq!(scene.token_requests(), before + 1);
}

#[test]
fn nothing_of_a_secret_is_in_the_file() {
    let scene = Scene::new();
    let secret = "not-the-secret-but-a-secret";
    scene.acquire(&scene.app_with_secret(secret)).unwrap_err();
    let state = std::fs::read_to_string(scene.state_file()).unwrap();
    assert!(state.contains("7000215"), "the refusal is there: {state}");
    assert!(!state.contains(secret));
}

#[test]
fn a_clock_that_was_set_back_or_far_ahead_keeps_nobody_out() {
    for seconds in [-86_400, 86_400 * 365] {
        let scene = Scene::new();
        scene.sts.add_fault(Fault::new(Endpoint::Token).status(400).times(1)).unwrap();
        scene.token().unwrap_err();
        scene.clock.advance(seconds);
        assert!(scene.token().is_ok(), "{seconds}");
    }
}

#[test]
fn without_a_file_a_refusal_is_remembered_in_the_process() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).status(400).for_ever()).unwrap();
    let app = scene.builder().token_cache(TokenCache::in_memory()).build().unwrap();
    assert!(scene.acquire(&app).is_err() && scene.acquire(&app).is_err());
    assert_eq!(scene.token_requests(), 1);
}
