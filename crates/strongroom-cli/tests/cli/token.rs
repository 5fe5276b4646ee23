//! `strongroom token`: what it prints, and how it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use strongroom_sts::{Endpoint, Fault};

use crate::support::{World, code, command, failure, json, mode, run, stderr, stdout};

#[test]
fn the_token_alone_stands_on_stdout_and_the_next_run_asks_nobody() {
    let world = World::new();
    let first = run(&mut world.token());
    assert_eq!((code(&first), stderr(&first).as_str()), (0, ""));
    assert_eq!(stdout(&first).lines().count(), 1);
    assert!(stdout(&first).starts_with("eyJ"));
    world.sts.reset();
    let second = run(&mut world.token());
    assert_eq!(stdout(&second), stdout(&first));
    let seen = world.sts.stats();
    assert_eq!((seen.token, seen.discovery, seen.openid_configuration, seen.jwks), (0, 0, 0, 0));
    assert_eq!(mode(&world.cache()), 0o600);
}

#[test]
fn json_has_the_fields_that_scripts_rely_on() {
    let world = World::new();
    let first = world.token_json();
    assert_eq!(first["token_source"], "identity_provider");
    let object = world.token_json();
    let names: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "access_token",
        "cache",
        "expires_in",
        "expires_on",
        "persisted",
        "scopes",
        "stale",
        "token_source",
        "token_type",
    ];
    assert_eq!(names, expected);
    assert_eq!(object["access_token"], first["access_token"]);
    assert_eq!((&object["token_source"], &object["token_type"]), (&"cache".into(), &"Bearer".into()));
    assert_eq!((&object["stale"], &object["persisted"]), (&false.into(), &true.into()));
    assert_eq!(object["scopes"], serde_json::json!([world.ready().scope]));
    let cache = &object["cache"];
    assert_eq!(cache["location"], world.cache().to_str().unwrap());
    assert_eq!((&cache["persistence"], &cache["encrypted"]), (&"file".into(), &false.into()));
    assert_eq!(cache["protection"], "none");
}

#[test]
fn a_header_line_can_be_handed_to_curl() {
    let world = World::new();
    let token = stdout(&run(&mut world.token()));
    let header = stdout(&run(world.token().args(["--output", "header"])));
    assert_eq!(header, format!("Authorization: Bearer {token}"));
}

#[test]
fn a_hit_needs_neither_the_provider_nor_its_certificate() {
    let world = World::new();
    let token = stdout(&run(&mut world.token()));
    let config = world.config(|_| {});
    let cache = world.cache();
    drop(world.sts);
    let output = run(command("token")
        .arg("--config")
        .arg(config)
        .arg("--cache")
        .arg(cache)
        .args(["--ca-file", "/no/such"]));
    assert_eq!((code(&output), stdout(&output)), (0, token));
}

#[test]
fn force_refresh_asks_for_a_new_token() {
    let world = World::new();
    run(&mut world.token());
    assert_eq!(code(&run(world.token().arg("--force-refresh"))), 0);
    assert_eq!(world.sts.stats().token, 2);
}

#[test]
fn exit_codes_tell_refusals_from_outages_and_from_bad_usage() {
    let world = World::new();
    let token = |fault: Option<Fault>| {
        world.sts.clear_faults();
        if let Some(fault) = fault {
            world.sts.add_fault(fault.for_ever()).unwrap();
        }
        failure(world.token().arg("--force-refresh").args(["--timeout", "5"]))
    };
    let fault = || Fault::new(Endpoint::Token);
    assert_eq!(token(Some(fault().status(429).header("Retry-After", "3"))), (3, "too_many_requests".into()));
    assert_eq!(token(Some(fault().status(503).header("Retry-After", "3"))).0, 5);
    assert_eq!(token(Some(fault().status(400).body("<html>"))), (3, "http_error".into()));
    assert_eq!(token(Some(fault().status(200).body("<html>"))), (5, "unexpected_answer".into()));
    assert_eq!(token(Some(fault().cut_after_bytes(0))), (5, "answer_cut_off".into()));
    world.sts.clear_faults();

    let wrong = world.config(|config| config["client_secret"] = "wrong".into());
    let refused = run(world.token().arg("--force-refresh").arg("--config").arg(&wrong));
    // The flag was given twice: usage.
    assert_eq!(code(&refused), 2);
    let refused = run(command("token")
        .args(["--output", "json", "--config"])
        .arg(&wrong)
        .arg("--ca-file")
        .arg(&world.ready().ca_file)
        .arg("--cache")
        .arg(world.path("other.bin")));
    let object = json(&refused);
    assert_eq!((code(&refused), &object["error"]), (3, &"invalid_client".into()));
    assert_eq!(object["error_codes"], serde_json::json!([7_000_215]));
    for field in ["message", "remedy", "error_description", "correlation_id", "timestamp", "trace_id"] {
        assert!(object[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {object}");
    }
    assert_eq!(code(&run(command("token").arg("--no-such-flag"))), 2);
    assert_eq!(code(&run(&mut command("no-such-command"))), 2);

    let untrusted = run(command("token")
        .args(["--output", "json", "--config"])
        .arg(&world.ready().config_file)
        .arg("--cache")
        .arg(world.path("third.bin")));
    assert_eq!((code(&untrusted), &json(&untrusted)["error"]), (5, &"tls_failed".into()));
}

#[test]
fn a_provider_that_does_not_answer_is_given_up_in_time() {
    let world = World::new();
    world.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    assert_eq!(failure(world.token().args(["--timeout", "0.5"])), (5, "timed_out".into()));
    world.sts.clear_faults();
}

#[test]
fn a_locked_cache_delivers_the_token_and_names_the_holder() {
    let world = World::new();
    let lock = world.file("token_cache.bin.lockfile", format!("{} some-daemon", std::process::id()));
    let held = std::fs::File::options().read(true).write(true).open(&lock).unwrap();
    held.lock().unwrap();
    let output = run(world.token().args(["--lock-timeout", "0.3", "--output", "json"]));
    assert_eq!((code(&output), &json(&output)["persisted"]), (0, &false.into()));
    let warning = stderr(&output);
    for part in [format!("process {}", std::process::id()), "some-daemon".into(), "lockfile".into()] {
        assert!(warning.contains(&part), "{part}: {warning}");
    }
    let strict = failure(world.token().args(["--lock-timeout", "0.3", "--require-persist"]));
    assert_eq!(strict, (4, "locked".into()));
    assert_eq!(std::fs::read_to_string(&lock).unwrap(), format!("{} some-daemon", std::process::id()));
    assert!(!world.cache().exists());
}

#[test]
fn a_least_protection_can_be_demanded() {
    let world = World::new();
    assert_eq!(
        failure(world.token().args(["--min-protection", "host-file"])),
        (4, "protection_too_low".into())
    );
    assert_eq!(world.sts.stats().token, 0);
    assert!(!world.cache().exists());
}

#[test]
fn the_default_cache_lies_in_the_users_cache_folder() {
    let world = World::new();
    let home = world.path("home");
    let token = || {
        let mut command = command("token");
        command.arg("--config").arg(&world.ready().config_file).arg("--ca-file").arg(&world.ready().ca_file);
        command.env_remove("XDG_CACHE_HOME").env("HOME", &home);
        command
    };
    assert_eq!(code(&run(&mut token())), 0);
    let folder = home.join(".cache/strongroom");
    assert_eq!((mode(&folder), mode(&folder.join("token_cache.bin"))), (0o700, 0o600));
    assert_eq!(code(&run(token().env("XDG_CACHE_HOME", world.path("xdg")))), 0);
    assert!(world.path("xdg/strongroom/token_cache.bin").exists());
    assert_eq!(code(&run(token().env("STRONGROOM_CACHE", world.path("own.bin")))), 0);
    assert!(world.path("own.bin").exists());
    assert_eq!(failure(token().env_remove("HOME")), (2, "no_cache_location".into()));
    assert_eq!(failure(token().args(["--cache", "redis://localhost"])), (2, "unsupported_cache".into()));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let mut child =
        command("completions").arg("bash").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let mut noise = String::new();
    child.stderr.take().unwrap().read_to_string(&mut noise).unwrap();
    assert!(child.wait().unwrap().success(), "{noise}");
    assert_eq!(noise, "");
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for subcommand in ["token", "inspect", "demo", "sts", "completions"] {
        let help = run(command(subcommand).arg("--help"));
        assert_eq!(code(&help), 0);
        assert!(stdout(&help).contains("Examples:") && stdout(&help).contains("strongroom "), "{subcommand}");
    }
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(stdout(&run(command("completions").arg(shell))).contains("strongroom"), "{shell}");
    }
}
