//! No secret and no token gets out by a side door.

use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

use strongroom_sts::{Endpoint, Fault};

use crate::support::{World, bare, code, command, first_line, json, names, run, stderr, stdout};

/// What must not be shown: a secret, as it is and as it stands in a request; a token, whole and in part.
fn forms_of(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned(), secret.replace('~', "%7E")];
    forms.extend(secret.rsplit_once('.').map(|(_, signature)| signature.to_owned()));
    forms
}

fn assert_hidden(secrets: &[&str], text: &str) {
    for form in secrets.iter().flat_map(|secret| forms_of(secret)) {
        assert!(!text.contains(&form), "{form} is in: {text}");
    }
}

#[test]
fn the_most_verbose_log_has_neither_the_secret_nor_the_token() {
    let world = World::new();
    let secret = world.ready().client_secret.as_str();
    let good = run(world.token().arg("-vvv").env("STRONGROOM_LOG", "trace"));
    let token = stdout(&good).trim().to_owned();
    assert!(stderr(&good).len() > 1000, "there is something to look at");
    assert_hidden(&[secret, &token], &stderr(&good));
    let by_variable = run(world.token().arg("--force-refresh").env("STRONGROOM_LOG", "trace"));
    assert!(stderr(&by_variable).contains("TRACE"), "{}", stderr(&by_variable));
    assert_hidden(&[secret, &token, stdout(&by_variable).trim()], &stderr(&by_variable));
    let hit = run(world.token().args(["-vvv", "--output", "json"]));
    let token = json(&hit)["access_token"].as_str().unwrap().to_owned();
    assert!(stderr(&hit).contains("cache"), "{}", stderr(&hit));
    assert_hidden(&[secret, &token], &stderr(&hit));
    let inspected = run(command("inspect").arg("-vvv").arg("--cache").arg(world.cache()));
    assert!(stdout(&inspected).contains("AccessToken"));
    assert_hidden(&[secret, &token], &(stdout(&inspected) + &stderr(&inspected)));
}

#[test]
fn an_error_has_neither_the_secret_nor_what_the_provider_said_of_it() {
    let world = World::new();
    let wrong = "wr0ng-s3cret~of-some-length";
    let config = world.config(|config| config["client_secret"] = wrong.into());
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjYW5hcnkifQ.c4n4ry-signature";
    for (fault, exit) in [
        (None, 3),
        (Some(Fault::new(Endpoint::Token).body(format!("{{\"refresh_token\":\"{token}\"}}"))), 5),
        (Some(Fault::new(Endpoint::Token).body(format!("<html>{token}"))), 5),
        (Some(Fault::new(Endpoint::Token).status(400).body(format!("<html>{token}"))), 3),
    ] {
        world.sts.clear_faults();
        fault.into_iter().for_each(|fault| world.sts.add_fault(fault.for_ever()).unwrap());
        world.forget_refusals();
        // The second time it is remembered.
        for output in ["token", "json"] {
            let refused = run(world.token_with(&config, &world.cache()).args(["-vvv", "--output", output]));
            assert_eq!(code(&refused), exit, "{}", stderr(&refused));
            assert_hidden(&[wrong, token], &(stderr(&refused) + &stdout(&refused)));
        }
    }
}

#[test]
fn only_the_document_has_the_token_and_no_file_has_the_secret() {
    let world = World::new();
    let folder = world.path("cache");
    let token = stdout(&run(&mut world.token_with(&world.ready().config_file, &folder.join("c.bin"))));
    let files = names(&folder);
    assert!(files.contains(&"c.bin.state".to_owned()), "{files:?}");
    for name in files {
        let text = String::from_utf8_lossy(&std::fs::read(folder.join(&name)).unwrap()).into_owned();
        assert_hidden(&[&world.ready().client_secret], &text);
        assert_eq!(text.contains(token.trim()), name == "c.bin", "{name}");
    }
}

/// Every user of the machine can read them.
#[cfg(target_os = "linux")]
#[test]
fn the_arguments_of_a_process_have_no_secret() {
    let world = World::new();
    world.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let mut child = world.token().stdout(Stdio::null()).spawn().unwrap();
    let waiting = world.sts.wait_for_stats(Duration::from_secs(30), |stats| stats.held == 1);
    assert!(waiting.is_some(), "the request is on its way");
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap();
    assert!(arguments.contains("--config"));
    assert_hidden(&[&world.ready().client_secret], &arguments);
    world.sts.clear_faults();
    assert!(child.wait().unwrap().success());
}

#[test]
fn no_flag_takes_a_secret() {
    for flag in ["--client-secret", "--secret", "--password", "--access-token"] {
        let refused = run(command("token").arg(format!("{flag}=c4n4ry-secret")));
        assert_eq!(code(&refused), 2);
        assert!(!stderr(&refused).contains("c4n4ry"), "{flag}");
        assert!(!stdout(&run(command("token").arg("--help"))).contains(flag));
    }
}

#[test]
fn the_demonstration_and_the_provider_log_no_token_and_no_request() {
    let folder = tempfile::tempdir().unwrap();
    let demo = run(command("demo").arg("-vvv").env("STRONGROOM_LOG", "trace").env("TMPDIR", folder.path()));
    assert_eq!(code(&demo), 0, "{}", stderr(&demo));
    let shown = stdout(&demo) + &stderr(&demo);
    // Each token begins so, and so does each secret that the provider makes.
    assert!(!shown.contains("eyJ0") && !shown.contains("dev8Q"), "{shown}");

    let mut provider = bare()
        .args(["sts", "--output", "json", "-vvv", "--state"])
        .arg(folder.path().join("sts"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Read all along: a full pipe would stop the provider.
    let mut log = provider.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).map(|_| text)
    });
    let ready = first_line(provider.stdout.take().unwrap());
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let mut token = command("token");
    for (flag, name) in [("--config", "config_file"), ("--ca-file", "ca_file")] {
        token.arg(flag).arg(ready[name].as_str().unwrap());
    }
    let output = run(token.arg("--cache").arg(folder.path().join("cache.bin")));
    provider.kill().unwrap();
    provider.wait().unwrap();
    let log = log.join().unwrap().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!log.is_empty());
    assert_hidden(&[ready["client_secret"].as_str().unwrap(), stdout(&output).trim()], &log);
}
