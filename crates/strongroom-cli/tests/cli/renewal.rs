//! Renewal by a command that runs again and again, and refusals that it remembers from run to run.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;
use strongroom_sts::{Endpoint, Fault, Lifetimes};

use crate::support::{World, code, failure, json, run, stderr};

/// A provider whose tokens are to be renewed after an hour and live for two.
fn world() -> World {
    let world = World::new();
    world.sts.set_lifetimes(Lifetimes { expires_in: Some(7200), refresh_in: Some(3600) }).unwrap();
    world
}

/// From here on, in seconds, a token is renewed whatever this host's part of the window is.
const SURELY_DUE: i64 = 3600 + 3600 / 5;
const IN_THE_MARGIN: i64 = 7200 - 299;

/// A token that was fetched so many seconds ago.
fn aged(seconds: i64) -> (World, Value) {
    let world = world();
    let first = world.token_json();
    let mut document: Value = serde_json::from_slice(&std::fs::read(world.cache()).unwrap()).unwrap();
    for entry in document["AccessToken"].as_object_mut().unwrap().values_mut() {
        for field in ["cached_at", "expires_on", "extended_expires_on", "refresh_on"] {
            let time: i64 = entry[field].as_str().unwrap().parse().unwrap();
            entry[field] = (time - seconds).to_string().into();
        }
    }
    std::fs::write(world.cache(), document.to_string()).unwrap();
    world.sts.reset();
    (world, first["access_token"].clone())
}

fn token(world: &World, arguments: &[&str]) -> Output {
    run(world.token().args(["--output", "json"]).args(arguments))
}

/// Token requests since the last time.
fn asked(world: &World) -> u64 {
    let asked = world.sts.stats().token;
    world.sts.reset();
    asked
}

#[test]
fn past_refresh_on_it_is_renewed_inline_and_not_when_that_is_off() {
    let (world, first) = aged(SURELY_DUE);
    for _ in 0..2 {
        let served = json(&token(&world, &["--refresh", "off"]));
        assert_eq!((&served["access_token"], &served["token_source"]), (&first, &"cache".into()));
        assert_eq!((&served["stale"], asked(&world)), (&false.into(), 0));
    }
    // Inline is what it does by itself.
    let renewed = json(&token(&world, &[]));
    assert_ne!(renewed["access_token"], first);
    assert_eq!(
        (&renewed["token_source"], &renewed["persisted"]),
        (&"identity_provider".into(), &true.into())
    );
    let again = json(&token(&world, &["--refresh", "inline"]));
    assert_eq!((&again["access_token"], &again["token_source"]), (&renewed["access_token"], &"cache".into()));
    assert_eq!(asked(&world), 1);
}

#[test]
fn past_refresh_on_a_provider_that_fails_is_a_warning_and_asked_once() {
    for fault in [
        Fault::new(Endpoint::Token).status(400),
        Fault::new(Endpoint::Token).status(503),
        Fault::new(Endpoint::Token).status(429).header("Retry-After", "60"),
        Fault::new(Endpoint::Token).cut_after_bytes(0),
        // Two seconds are as long as it waits, and the next one does not wait.
        Fault::new(Endpoint::Token).hold(),
    ] {
        let (world, first) = aged(SURELY_DUE);
        world.sts.add_fault(fault.clone().for_ever()).unwrap();
        let warned = token(&world, &[]);
        assert!(stderr(&warned).contains("renew"), "{fault:?}: {}", stderr(&warned));
        for output in [warned, token(&world, &[])] {
            let served = json(&output);
            assert_eq!(code(&output), 0, "{fault:?}");
            assert_eq!((&served["access_token"], &served["stale"]), (&first, &false.into()), "{fault:?}");
        }
        assert_eq!(asked(&world), 1, "{fault:?}");
    }
}

#[test]
fn in_the_margin_it_is_renewed_even_if_renewal_ahead_of_time_is_off() {
    for refresh in ["inline", "off"] {
        let (world, first) = aged(IN_THE_MARGIN);
        let renewed = json(&token(&world, &["--refresh", refresh]));
        assert_ne!(renewed["access_token"], first, "{refresh}");
        assert_eq!((&renewed["stale"], asked(&world)), (&false.into(), 1), "{refresh}");
    }
}

#[test]
fn in_the_margin_a_provider_that_fails_makes_the_token_stale_and_is_asked_once() {
    for fault in [
        Fault::new(Endpoint::Token).status(400),
        Fault::new(Endpoint::Token).status(503),
        Fault::new(Endpoint::Token).status(429).header("Retry-After", "60"),
        Fault::new(Endpoint::Token).hold(),
    ] {
        for refresh in ["inline", "off"] {
            let (world, first) = aged(IN_THE_MARGIN);
            world.sts.add_fault(fault.clone().for_ever()).unwrap();
            for _ in 0..2 {
                let output = token(&world, &["--refresh", refresh]);
                let served = json(&output);
                assert_eq!(code(&output), 0, "{refresh} {fault:?}");
                assert_eq!((&served["access_token"], &served["stale"]), (&first, &true.into()), "{fault:?}");
                assert!(!stderr(&output).is_empty(), "{refresh} {fault:?}: it says why");
            }
            assert_eq!(asked(&world), 1, "{refresh} {fault:?}");
        }
    }
}

#[test]
fn a_remembered_refusal_exits_like_its_first_and_says_how_to_get_past_it() {
    for (status, exit) in [(400, 3), (503, 5)] {
        let world = World::new();
        world.sts.add_fault(Fault::new(Endpoint::Token).status(status).for_ever()).unwrap();
        let (first, second) = (token(&world, &[]), token(&world, &[]));
        assert_eq!((code(&first), code(&second)), (exit, exit));
        assert_eq!(asked(&world), if status == 503 { 2 } else { 1 }, "{status}");
        let (first, second) = (json(&first), json(&second));
        for field in ["error", "status", "error_codes", "error_description", "correlation_id"] {
            assert_eq!(second[field], first[field], "{status}: {field}");
        }
        let remedy = second["remedy"].as_str().unwrap();
        assert!(remedy.contains("force a refresh") && remedy.contains("seconds"), "{remedy}");
        assert!(second["message"].as_str().unwrap().contains("remembered"), "{second}");

        let forced = token(&world, &["--force-refresh"]);
        assert_eq!(code(&forced), exit, "{status}: it is asked, and says no again");
        assert!(asked(&world) > 0, "{status}");
        world.sts.clear_faults();
        assert_eq!(code(&token(&world, &[])), exit, "{status}: remembered");
        assert_eq!(asked(&world), 0, "{status}");
        assert_eq!(code(&token(&world, &["--force-refresh"])), 0, "{status}");
        assert_eq!(code(&token(&world, &[])), 0, "{status}");
        assert_eq!(asked(&world), 1, "{status}");
    }
}

#[test]
fn force_refresh_does_not_get_past_retry_after() {
    for (status, exit) in [(429, 3), (503, 5)] {
        let world = World::new();
        let fault = Fault::new(Endpoint::Token).status(status).header("Retry-After", "600");
        world.sts.add_fault(fault).unwrap();
        let first = token(&world, &[]);
        assert_eq!((code(&first), &json(&first)["retry_after"]), (exit, &600.into()));
        for arguments in [&[][..], &["--force-refresh"]] {
            let output = token(&world, arguments);
            let error = json(&output);
            assert_eq!((code(&output), &error["error"]), (exit, &json(&first)["error"]), "{arguments:?}");
            let left = error["retry_after"].as_u64().unwrap();
            assert!((300..=600).contains(&left), "what is left of it: {left}");
            let remedy = error["remedy"].as_str().unwrap();
            assert_eq!(remedy, format!("try again in {left} seconds"), "{arguments:?}");
        }
        assert_eq!(asked(&world), 1, "{status}");
    }
}

#[test]
fn a_token_that_is_there_is_served_whatever_was_refused_to_who_forced_another() {
    let world = World::new();
    let first = world.token_json();
    for fault in [
        Fault::new(Endpoint::Token).status(400),
        Fault::new(Endpoint::Token).status(429).header("Retry-After", "600"),
    ] {
        world.sts.add_fault(fault).unwrap();
        assert_eq!(code(&token(&world, &["--force-refresh"])), 3);
        let served = json(&token(&world, &[]));
        assert_eq!((&served["access_token"], &served["stale"]), (&first["access_token"], &false.into()));
    }
}

/// What a run of a job did.
struct Run {
    began: Instant,
    ended: Instant,
    asked: u64,
    outcome: (i32, String),
}

/// A job that is started eight times, each second.
fn job(world: &World, arguments: &[&str]) -> Vec<Run> {
    let start = Instant::now();
    let run = |second| {
        std::thread::sleep((start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        let began = Instant::now();
        let outcome = failure(world.token().args(arguments));
        Run { began, ended: Instant::now(), asked: asked(world), outcome }
    };
    (0..8).map(run).collect()
}

/// Each refusal keeps the runs that follow it from asking for so many seconds, and no longer. However slow the machine:
/// what a run did is compared with when it did it. A second may be lost, because refusals count in whole ones.
fn assert_asked_after(runs: &[Run], requests: u64, waits: &[u64]) {
    let mut waits = waits.iter().map(|wait| Duration::from_secs(*wait));
    let (mut refused, mut wait) = (&runs[0], waits.next().unwrap());
    assert_eq!(refused.asked, requests);
    for run in &runs[1..] {
        if run.asked == 0 {
            assert!(run.began < refused.ended + wait, "not asked for longer than {wait:?}");
        } else {
            assert_eq!(run.asked, requests);
            assert!(run.ended + Duration::from_secs(1) > refused.began + wait, "asked sooner than {wait:?}");
            (refused, wait) = (run, waits.next().unwrap());
        }
    }
}

#[test]
fn a_job_each_second_that_is_refused_asks_once_a_minute() {
    let world = World::new();
    let refused = Fault::new(Endpoint::Token).status(400).body(r#"{"error":"invalid_client"}"#);
    world.sts.add_fault(refused.for_ever()).unwrap();
    let runs = job(&world, &[]);
    assert!(runs.iter().all(|run| run.outcome == (3, "invalid_client".into())), "{:?}", runs[0].outcome);
    assert_asked_after(&runs, 1, &[60, 120, 240, 300]);
}

#[test]
fn a_job_each_second_in_an_outage_asks_after_five_seconds_and_then_after_ten() {
    let world = World::new();
    world.sts.add_fault(Fault::new(Endpoint::Token).status(503).for_ever()).unwrap();
    let runs = job(&world, &[]);
    assert!(runs.iter().all(|run| run.outcome == (5, "http_error".into())), "{:?}", runs[0].outcome);
    // Each with one second try.
    assert_asked_after(&runs, 2, &[5, 10, 20, 40, 60]);
}

#[test]
fn a_job_each_second_with_nothing_to_serve_asks_a_slow_provider_each_time_and_ends_in_time() {
    let world = World::new();
    world.sts.add_fault(Fault::new(Endpoint::Token).hold().for_ever()).unwrap();
    let runs = job(&world, &["--timeout", "2"]);
    assert!(runs.iter().all(|run| run.outcome == (5, "timed_out".into())), "{:?}", runs[0].outcome);
    assert!(runs.iter().all(|run| run.asked == 1), "{:?}", runs.iter().map(|r| r.asked).collect::<Vec<_>>());
}
