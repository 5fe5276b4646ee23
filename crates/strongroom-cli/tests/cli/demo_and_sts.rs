//! `strongroom demo` and `strongroom sts`, and the sample program.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::support::{World, binary, code, command, json, names, run, stderr, stdout};

#[test]
fn the_demonstration_signs_in_once_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    // A bare machine: no home, no trust roots of its own.
    let demo = |arguments: &[&str]| {
        let mut command = command("demo");
        command.args(arguments).env("TMPDIR", folder.path()).env_remove("HOME");
        command.env("SSL_CERT_FILE", "/no/such/file").env("SSL_CERT_DIR", "/no/such/folder");
        run(&mut command)
    };
    let output = demo(&["--output", "json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let runs = json(&output);
    let sources: Vec<&str> =
        runs.as_array().unwrap().iter().map(|run| run["token_source"].as_str().unwrap()).collect();
    assert_eq!(sources, ["identity_provider", "cache", "cache"]);
    let requests: Vec<u64> =
        runs.as_array().unwrap().iter().map(|run| run["token_requests"].as_u64().unwrap()).collect();
    assert_eq!(requests, [1, 0, 0]);
    assert!(runs.as_array().unwrap().iter().all(|run| run["api_status"] == 200));
    let text = stdout(&demo(&["--runs", "2"]));
    assert!(text.contains("identity provider") && text.contains("cache"));
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

#[test]
fn an_interrupted_provider_ends_well_and_removes_its_folder() {
    for signal in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(binary())
            .args(["sts", "--output", "json"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        for field in [
            "authority",
            "tenant",
            "client_id",
            "client_secret",
            "scope",
            "ca_file",
            "config_file",
            "endpoint",
            "control",
        ] {
            assert!(ready[field].is_string(), "{field}");
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let world = World::new();
    let port = world.ready().authority.rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
    let output = run(command("sts").args(["--port", &port]).arg("--state").arg(world.path("second")));
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains(&port), "{}", stderr(&output));
}
