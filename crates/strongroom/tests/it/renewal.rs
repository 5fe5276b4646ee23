//! Renewal of tokens that are still good: ahead of time, within the margin of their end, and beyond it.

use std::time::Duration;

use serde_json::json;
use strongroom::{
    AuthenticationResult, ConfidentialClientApplication, Error, ErrorKind, Renewal, TokenSource, block_on,
};
use strongroom_sts::{Endpoint, Fault, Lifetimes};

use crate::client_support::{Canned, Scene, json_response};

/// The tokens of these tests live for two hours, and are to be renewed after one.
const LIFETIME: i64 = 7200;
const REFRESH_IN: i64 = 3600;
/// From here on a token is renewed whatever this host's part of the window is.
const SURELY_DUE: i64 = REFRESH_IN + REFRESH_IN / 5;
const IN_THE_MARGIN: i64 = LIFETIME - 300;
const LONG: Duration = Duration::from_secs(60);

fn scene() -> Scene {
    let scene = Scene::new();
    let lifetimes =
        Lifetimes { expires_in: Some(LIFETIME.unsigned_abs()), refresh_in: Some(REFRESH_IN.unsigned_abs()) };
    scene.sts.set_lifetimes(lifetimes).unwrap();
    scene
}

fn app(scene: &Scene, renewal: Renewal) -> ConfidentialClientApplication {
    scene.builder().renewal(renewal).build().unwrap()
}

fn text(result: &AuthenticationResult) -> String {
    result.access_token().expose().to_owned()
}

/// A token that was fetched `age` seconds ago, by another process.
fn aged(age: i64) -> (Scene, String) {
    let scene = scene();
    let first = scene.token().unwrap();
    assert_eq!(scene.token_requests(), 1);
    scene.clock.advance(age);
    (scene, text(&first))
}

#[test]
fn past_refresh_on_the_old_token_is_served_at_once_and_renewed_behind() {
    let (scene, first) = aged(SURELY_DUE);
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let app = app(&scene, Renewal::Background);
    for _ in 0..20 {
        let served = scene.acquire(&app).unwrap();
        assert_eq!((text(&served), served.token_source()), (first.clone(), TokenSource::Cache));
        assert!(!served.is_stale());
    }
    scene.wait_for(|stats| stats.token == 2);
    scene.sts.clear_faults();
    block_on(app.shutdown());
    let renewed = scene.acquire(&app).unwrap();
    assert_ne!(text(&renewed), first, "shutdown waits for the new token to be stored");
    assert_eq!(renewed.token_source(), TokenSource::Cache);
    assert_eq!(scene.token_requests(), 2, "however often it was asked for");
}

#[test]
fn before_the_point_of_renewal_nothing_is_requested() {
    let (scene, first) = aged(REFRESH_IN - 1);
    for renewal in [Renewal::Background, Renewal::Inline(LONG), Renewal::Off] {
        let app = app(&scene, renewal);
        assert_eq!(text(&scene.acquire(&app).unwrap()), first);
        block_on(app.shutdown());
    }
    assert_eq!(scene.token_requests(), 1);
}

#[test]
fn inline_the_new_token_is_waited_for() {
    let (scene, first) = aged(SURELY_DUE);
    let renewed = scene.acquire(&app(&scene, Renewal::Inline(LONG))).unwrap();
    assert_ne!(text(&renewed), first);
    assert_eq!(renewed.token_source(), TokenSource::IdentityProvider);
    assert_eq!(scene.token_requests(), 2);
}

#[test]
fn inline_a_slow_provider_is_waited_for_once_and_then_left_alone_for_a_while() {
    let (scene, first) = aged(SURELY_DUE);
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().for_ever()).unwrap();
    for _ in 0..3 {
        // Each as a process of its own.
        let served = scene.acquire(&app(&scene, Renewal::Inline(Duration::from_millis(300)))).unwrap();
        assert_eq!((text(&served), served.is_stale()), (first.clone(), false));
    }
    assert_eq!(scene.token_requests(), 2);
    scene.clock.advance(6);
    scene.sts.clear_faults();
    let renewed = scene.acquire(&app(&scene, Renewal::Inline(LONG))).unwrap();
    assert_ne!(text(&renewed), first);
}

#[test]
fn off_means_not_ahead_of_time() {
    let (scene, first) = aged(SURELY_DUE);
    let app = app(&scene, Renewal::Off);
    assert_eq!(text(&scene.acquire(&app).unwrap()), first);
    assert_eq!(scene.token_requests(), 1);
    scene.clock.advance(IN_THE_MARGIN - SURELY_DUE);
    assert_ne!(text(&scene.acquire(&app).unwrap()), first, "but near its end it is renewed");
}

#[test]
fn a_renewal_that_is_refused_is_tried_again_later_and_never_twice_at_once() {
    let (scene, first) = aged(SURELY_DUE);
    for status in [400, 503] {
        scene.sts.add_fault(Fault::new(Endpoint::Token).status(status).for_ever()).unwrap();
        let before = scene.token_requests();
        for _ in 0..3 {
            let served = scene.acquire(&app(&scene, Renewal::Inline(LONG))).unwrap();
            assert_eq!((text(&served), served.is_stale()), (first.clone(), false), "{status}");
        }
        assert_eq!(scene.token_requests(), before + 1, "{status}: no second try, and remembered");
        scene.sts.clear_faults();
        scene.clock.advance(61);
    }
    assert_ne!(text(&scene.acquire(&app(&scene, Renewal::Inline(LONG))).unwrap()), first);
}

#[test]
fn in_the_background_a_refusal_is_remembered_without_a_look_at_the_disk_each_time() {
    let (scene, first) = aged(SURELY_DUE);
    scene.sts.add_fault(Fault::new(Endpoint::Token).status(400).for_ever()).unwrap();
    let app = app(&scene, Renewal::Background);
    for _ in 0..10 {
        assert_eq!(text(&scene.acquire(&app).unwrap()), first);
        block_on(app.shutdown());
    }
    assert_eq!(scene.token_requests(), 2);
    scene.clock.advance(61);
    scene.acquire(&app).unwrap();
    block_on(app.shutdown());
    assert_eq!(scene.token_requests(), 3);
}

#[test]
fn in_the_margin_the_new_token_is_waited_for() {
    for renewal in [Renewal::Background, Renewal::Inline(LONG), Renewal::Off] {
        let (scene, first) = aged(IN_THE_MARGIN);
        let renewed = scene.acquire(&app(&scene, renewal)).unwrap();
        assert_ne!(text(&renewed), first, "{renewal:?}");
        assert!(!renewed.is_stale());
        assert_eq!(scene.token_requests(), 2, "{renewal:?}");
    }
}

#[test]
fn in_the_margin_a_token_is_served_while_it_lasts_if_the_provider_fails() {
    for renewal in [Renewal::Background, Renewal::Inline(LONG), Renewal::Off] {
        for fault in [
            Fault::new(Endpoint::Token).status(400),
            Fault::new(Endpoint::Token).status(429).header("Retry-After", "600"),
            Fault::new(Endpoint::Token).status(503),
            Fault::new(Endpoint::Token).cut_after_bytes(0),
        ] {
            let (scene, first) = aged(IN_THE_MARGIN);
            scene.sts.add_fault(fault.clone().for_ever()).unwrap();
            let app = app(&scene, renewal);
            for _ in 0..3 {
                let served = scene.acquire(&app).unwrap();
                assert!(served.is_stale(), "{renewal:?} {fault:?}");
                assert_eq!((text(&served), served.token_source()), (first.clone(), TokenSource::Cache));
            }
            assert_eq!(scene.token_requests(), 2, "{renewal:?} {fault:?}: no second try, and remembered");
            assert_eq!(app.token_cache().stats().served_stale, 3);
            scene.clock.advance(300);
            let error = scene.acquire(&app).unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::IdentityProvider | ErrorKind::Network), "{error}");
        }
    }
}

#[test]
fn in_the_margin_a_slow_request_goes_on_behind() {
    let (scene, first) = aged(IN_THE_MARGIN);
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().for_ever()).unwrap();
    let app = app(&scene, Renewal::Background);
    let served = scene.acquire(&app).unwrap();
    assert_eq!((text(&served), served.is_stale()), (first.clone(), true));
    assert_eq!(scene.token_requests(), 2);
    scene.sts.clear_faults();
    block_on(app.shutdown());
    let renewed = scene.acquire(&app).unwrap();
    assert_ne!(text(&renewed), first);
    assert!(!renewed.is_stale());
    assert_eq!(scene.token_requests(), 2, "the request that was slow was not in vain");
}

#[test]
fn in_the_margin_a_short_process_does_not_wait_for_what_was_slow_for_the_one_before() {
    let (scene, first) = aged(IN_THE_MARGIN);
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().for_ever()).unwrap();
    for _ in 0..3 {
        let served = scene.acquire(&app(&scene, Renewal::Inline(LONG))).unwrap();
        assert_eq!((text(&served), served.is_stale()), (first.clone(), true));
    }
    assert_eq!(scene.token_requests(), 2);
    scene.sts.clear_faults();
    // Who has nothing to serve is not refused because somebody was slow.
    scene.clock.advance(301);
    assert_ne!(text(&scene.acquire(&app(&scene, Renewal::Off)).unwrap()), first);
}

#[test]
fn a_token_of_a_short_life_has_a_short_margin() {
    let scene = Scene::new();
    for (lifetime, good, margin) in [(60, 47, 48), (299, 239, 240), (301, 240, 241)] {
        scene.sts.set_lifetimes(Lifetimes { expires_in: Some(lifetime), refresh_in: None }).unwrap();
        let ask = |force| {
            let request = scene.app().acquire_token_for_client(scene.ready().scope.as_str());
            request.force_refresh(force).blocking().unwrap()
        };
        let first = ask(true);
        scene.clock.advance(good);
        assert_eq!(text(&ask(false)), text(&first), "{lifetime} s");
        scene.clock.advance(margin - good);
        assert_ne!(text(&ask(false)), text(&first), "{lifetime} s");
    }
}

#[test]
fn an_expired_token_is_served_only_if_that_was_asked_for_and_in_an_outage() {
    let scene = Scene::new();
    let response = json!({
        "token_type": "Bearer", "expires_in": 3600, "ext_expires_in": 9000, "access_token": "extended",
    });
    let working = Canned::new(move |request| {
        Ok(if request.url.ends_with("/token") {
            json_response(200, &response)
        } else {
            crate::client_support::discovery_document(&origin_of(&request.url), "t")
        })
    });
    let builder = || scene.builder().renewal(Renewal::Off);
    scene.acquire(&builder().transport(working).build().unwrap()).unwrap();

    let failing = |status| Canned::new(move |_| Ok(json_response(status, &json!({ "error": "x" }))));
    let ask = |status, limit: Option<u64>| -> Result<AuthenticationResult, Error> {
        scene.forget_refusals();
        let builder = builder().transport(failing(status));
        let builder = match limit {
            Some(limit) => builder.extended_lifetime(Duration::from_secs(limit)),
            None => builder,
        };
        scene.acquire(&builder.build().unwrap())
    };
    scene.clock.advance(3600);
    assert_eq!(ask(503, None).unwrap_err().kind(), ErrorKind::Network);
    let served = ask(503, Some(600)).unwrap();
    assert_eq!((served.access_token().expose(), served.is_stale()), ("extended", true));
    assert!(served.expires_in() <= 0, "it does not pretend to be good");
    assert_eq!(
        ask(400, Some(600)).unwrap_err().kind(),
        ErrorKind::IdentityProvider,
        "a refusal is no outage"
    );
    scene.clock.advance(600);
    assert!(ask(503, Some(600)).is_err(), "beyond the caller's limit");
    assert!(ask(503, Some(86_400)).is_ok());
    scene.clock.advance(4800);
    assert!(ask(503, Some(86_400)).is_err(), "beyond the provider's");
}

#[test]
fn the_silent_call_renews_alike_and_a_miss_is_nothing() {
    let ask = |scene: &Scene, renewal| {
        let app = app(scene, renewal);
        let result = app.acquire_token_silent(scene.ready().scope.as_str()).blocking();
        block_on(app.shutdown());
        result
    };
    let (scene, first) = aged(SURELY_DUE);
    assert_eq!(text(&ask(&scene, Renewal::Off).unwrap().unwrap()), first);
    assert_eq!(text(&ask(&scene, Renewal::Background).unwrap().unwrap()), first);
    assert_ne!(text(&ask(&scene, Renewal::Background).unwrap().unwrap()), first);

    let (scene, first) = aged(IN_THE_MARGIN);
    scene.sts.add_fault(Fault::new(Endpoint::Token).status(503).for_ever()).unwrap();
    let served = ask(&scene, Renewal::Inline(LONG)).unwrap().unwrap();
    assert_eq!((text(&served), served.is_stale()), (first, true));
    let before = scene.requests();
    scene.clock.advance(300);
    assert!(ask(&scene, Renewal::Inline(LONG)).unwrap().is_none());
    assert_eq!(scene.requests(), before);
}

fn origin_of(url: &str) -> String {
    let url = url::Url::parse(url).unwrap();
    url.origin().ascii_serialization()
}
