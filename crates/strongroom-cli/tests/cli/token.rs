//! `strongroom token`: what it prints, and how it ends.

use std::path::Path;
use std::process::Stdio;

use strongroom_sts::{Endpoint, Fault, Lifetimes};

use crate::support::{World, bare, code, command, failure, json, make_pipe, mode, run, stderr, stdout};

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
fn when_a_token_is_to_be_renewed_is_said_where_the_provider_said_it() {
    let world = World::new();
    world.sts.set_lifetimes(Lifetimes { expires_in: Some(86_400), refresh_in: Some(43_200) }).unwrap();
    for source in ["identity_provider", "cache"] {
        let object = world.token_json();
        assert_eq!(object["token_source"], source);
        let time = |name: &str| object[name].as_i64().unwrap();
        assert_eq!(time("expires_on") - time("refresh_on"), 43_200);
    }
}

#[test]
fn a_header_line_is_what_curl_takes_on_its_stdin() {
    let world = World::new();
    let token = stdout(&run(&mut world.token()));
    let header = stdout(&run(world.token().args(["--output", "header"])));
    assert_eq!(header, format!("Authorization: Bearer {token}"));
}

#[test]
fn a_hit_needs_neither_the_provider_nor_its_certificate() {
    let world = World::new();
    let token = stdout(&run(&mut world.token()));
    std::fs::remove_file(&world.ready().ca_file).unwrap();
    let mut again = world.token();
    drop(world.sts);
    let output = run(&mut again);
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
fn what_the_provider_answers_decides_the_exit_code() {
    let world = World::new();
    let token = |fault: Fault| {
        world.sts.clear_faults();
        world.forget_refusals();
        world.sts.add_fault(fault.for_ever()).unwrap();
        failure(world.token().args(["--timeout", "5"]))
    };
    let answer = |status: u16| Fault::new(Endpoint::Token).status(status);
    let large = format!("{{\"access_token\":\"{}\"}}", "x".repeat(1 << 20));
    for (fault, expected) in [
        (answer(429).header("Retry-After", "3"), (3, "too_many_requests")),
        (answer(429).header("Retry-After", "Sat, 06 Nov 2094 08:49:37 GMT"), (3, "too_many_requests")),
        (answer(429), (3, "too_many_requests")),
        (answer(400).body("<html>"), (3, "http_error")),
        (answer(404).body(""), (3, "http_error")),
        (answer(500), (5, "http_error")),
        (answer(503).header("Retry-After", "3"), (5, "http_error")),
        (answer(200).body("<html>"), (5, "unexpected_answer")),
        (answer(200).body("{}"), (5, "unexpected_answer")),
        (answer(200).body(large), (5, "unexpected_answer")),
        (Fault::new(Endpoint::Token).cut_after_bytes(0), (5, "answer_cut_off")),
        (Fault::new(Endpoint::Token).cut_after_bytes(100), (5, "answer_cut_off")),
    ] {
        let text = format!("{fault:?}");
        assert_eq!(token(fault), (expected.0, expected.1.to_owned()), "{}", &text[..text.len().min(300)]);
    }
    assert!(!world.cache().exists(), "a failure leaves no cache");

    world.sts.clear_faults();
    world.forget_refusals();
    world.sts.add_fault(answer(429).header("Retry-After", "3")).unwrap();
    let object = json(&run(world.token().args(["--output", "json"])));
    assert_eq!((&object["retry_after"], &object["status"]), (&3.into(), &429.into()));
}

#[test]
fn a_refusal_has_all_that_the_provider_said() {
    let world = World::new();
    let wrong_secret = world.config(|config| config["client_secret"] = "wrong".into());
    let token = |config: &Path| run(world.token_with(config, &world.cache()).args(["--output", "json"]));
    let refused = token(&wrong_secret);
    let object = json(&refused);
    assert_eq!((code(&refused), &object["error"]), (3, &"invalid_client".into()));
    assert_eq!(object["error_codes"], serde_json::json!([7_000_215]));
    for field in ["message", "remedy", "error_description", "correlation_id", "timestamp", "trace_id"] {
        assert!(object[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {object}");
    }
    let refused = run(&mut world.token_with(&wrong_secret, &world.cache()));
    assert_eq!((code(&refused), stdout(&refused).as_str()), (3, ""));
    assert!(stderr(&refused).starts_with("error: ") && stderr(&refused).contains("hint: "));

    let (host, _) = world.ready().authority.rsplit_once('/').unwrap();
    let unknown_tenant = world.config(|config| {
        config["authority"] = format!("{host}/11111111-2222-3333-4444-555555555555").into();
    });
    let refused = token(&unknown_tenant);
    assert_eq!((code(&refused), &json(&refused)["error"]), (3, &"invalid_tenant".into()));
}

#[test]
fn a_provider_that_cannot_be_reached_or_trusted_is_an_outage() {
    let world = World::new();
    let (_, tenant) = world.ready().authority.rsplit_once('/').unwrap();
    // The listener is gone before the command starts, so nobody answers on its port.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for host in [format!("localhost:{port}"), "no-such-host.invalid".to_owned()] {
        let config = world.config(|config| config["authority"] = format!("https://{host}/{tenant}").into());
        let token = failure(&mut world.token_with(&config, &world.cache()));
        assert_eq!(token, (5, "connection_failed".into()), "{host}");
    }
    let untrusted = || {
        let mut command = command("token");
        command.arg("--config").arg(&world.ready().config_file).arg("--cache").arg(world.cache());
        command
    };
    assert_eq!(failure(&mut untrusted()), (5, "tls_failed".into()));
    make_pipe(&world.path("pipe"));
    for file in ["absent.pem", "pipe", "sts/config.json"] {
        let (exit, error) = failure(untrusted().arg("--ca-file").arg(world.path(file)));
        assert_eq!((exit, error.as_str()), (2, "transport_setup_failed"), "{file}");
    }
}

#[test]
fn wrong_usage_is_told_as_it_is_asked_for() {
    let world = World::new();
    for arguments in [
        &["token", "--no-such-flag"][..],
        &["no-such-command"],
        &["completions"],
        &["inspect", "--output", "header"],
        &["token", "--timeout", "soon"],
        &["token", "--persistence", "cardboard"],
        &["token", "--key-source", "pocket"],
        &["key"],
        &["key", "rotate", "--rewrite"],
        &["key", "export"],
        &["migrate", "--to", "cardboard"],
        &["migrate", "--from", "elsewhere"],
        &["migrate", "--import", "azure-cli", "--keep"],
        &[],
    ] {
        let plain = run(bare().args(arguments));
        assert_eq!((code(&plain), stdout(&plain).as_str()), (2, ""), "{arguments:?}");
        assert!(!stderr(&plain).is_empty());
        if !arguments.contains(&"--output") {
            assert_eq!(failure(bare().args(arguments)), (2, "wrong_usage".into()), "{arguments:?}");
            let early = run(bare().arg("--output=json").args(arguments));
            assert_eq!((code(&early), &json(&early)["error"]), (2, &"wrong_usage".into()));
        }
    }
    // A password in a URL is not repeated.
    let output =
        run(world.token_with(&world.ready().config_file, Path::new("https://u:p4ssw0rd@h/1")).arg("-v"));
    assert_eq!(code(&output), 2);
    assert!(!stderr(&output).contains("p4ssw0rd"));
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let world = World::new();
    for format in ["token", "json", "header"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut child =
            world.token().args(["--output", format]).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{format}");
    }
    assert_eq!(world.sts.stats().token, 1, "the token was stored before it was printed");
}

#[test]
fn a_provider_that_does_not_answer_is_given_up_in_time() {
    let world = World::new();
    world.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    assert_eq!(failure(world.token().args(["--timeout", "0.5"])), (5, "timed_out".into()));
    world.sts.clear_faults();
    assert_eq!(failure(world.token().args(["--timeout", "0"])), (5, "timed_out".into()));
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
    // Empty counts as not set.
    assert_eq!(code(&run(token().env("STRONGROOM_CACHE", "").env("XDG_CACHE_HOME", ""))), 0);
    for store in ["redis://localhost", "sqlite:tokens.db", "postgresql://h/d", "https://h/cache"] {
        let (exit, error) = failure(token().current_dir(world.folder.path()).args(["--cache", store]));
        assert_eq!((exit, error.as_str()), (2, "unsupported_cache"), "{store}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command("completions").arg("bash").stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for subcommand in [
        "token",
        "inspect",
        "doctor",
        "purge",
        "key",
        "key new",
        "key list",
        "key rotate",
        "key export",
        "key import",
        "migrate",
        "demo",
        "sts",
        "completions",
    ] {
        let help = run(bare().args(subcommand.split(' ')).arg("--help"));
        assert_eq!(code(&help), 0);
        assert!(stdout(&help).contains("Examples:") && stdout(&help).contains("strongroom "), "{subcommand}");
        assert!(stdout(&help).contains("--output"), "{subcommand}");
    }
    assert!(stdout(&run(bare().arg("--help"))).contains("Exit codes:"));
    assert!(stdout(&run(bare().arg("--version"))).starts_with("strongroom "));
}

#[test]
fn each_shell_learns_to_complete_the_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(command("completions").arg(shell)));
        for word in [
            "token",
            "inspect",
            "doctor",
            "purge",
            "key",
            "rotate",
            "migrate",
            "demo",
            "sts",
            "completions",
            "require-persist",
        ] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let object = json(&run(command("completions").args([shell, "--output", "json"])));
        assert_eq!(object, serde_json::json!({"shell": shell, "script": script}));
    }
    // As bash itself sees it.
    let script = stdout(&run(command("completions").arg("bash")));
    let ask = format!(
        "{script}\nCOMP_WORDS=(strongroom ins) COMP_CWORD=1; _strongroom strongroom ins strongroom; echo \"${{COMPREPLY[@]}}\""
    );
    let answer = run(std::process::Command::new("bash").args(["--norc", "-c", &ask]));
    assert_eq!(stdout(&answer), "inspect\n", "{}", stderr(&answer));
}
