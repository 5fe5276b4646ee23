//! `strongroom demo` and `strongroom sts`, and the sample program.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{
    World, code, command, failure, first_line, json, mode, names, run, skip, stderr, stdout,
};

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
    let output = demo(&["--runs", "2"]);
    // stdout has the table alone; what goes before it are notes.
    let text = stdout(&output);
    assert!(text.trim_start().starts_with("RUN"), "{text}");
    assert!(text.contains("identity provider") && text.contains("cache"));
    assert!(text.contains("2 runs of a daemon, 1 token request."), "{text}");
    assert!(stderr(&output).contains("https://localhost:"));
    assert_eq!(code(&demo(&["--runs", "0"])), 2);
    assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
}

#[test]
fn an_interrupted_demonstration_leaves_nothing_behind() {
    for signal in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command("demo")
            .args(["--runs", "1000"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The first note comes when the provider runs.
        let line = first_line(child.stderr.take().unwrap());
        assert!(line.contains("identity provider"), "{line}");
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }
}

#[test]
fn an_interrupted_provider_ends_well_and_removes_its_folder() {
    for signal in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = command("sts")
            .args(["--output", "json"])
            .env("TMPDIR", folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        assert!(first_line(child.stderr.take().unwrap()).contains("DEVELOPMENT"));
        let ready: Value = serde_json::from_str(&first_line(child.stdout.take().unwrap())).unwrap();
        for field in [
            "authority",
            "tenant",
            "client_id",
            "client_secret",
            "certificate_file",
            "private_key_file",
            "thumbprint",
            "scope",
            "ca_file",
            "config_file",
            "endpoint",
            "control",
        ] {
            assert!(ready[field].is_string(), "{field}");
        }
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }
}

/// Someone starts it in one terminal, and the command in another with what the first one printed.
#[test]
fn the_same_folder_is_the_same_provider_and_what_it_prints_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let mut providers: Vec<[String; 3]> = Vec::new();
    for _ in 0..2 {
        // The first on a free port, the second on that of the first.
        let port = providers.first().map_or("0", |[authority, ..]| port_of(authority));
        let mut provider = command("sts")
            .current_dir(folder.path())
            .args(["--state", "sts", "--tenant", "contoso.example", "--port", port])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines: Vec<String> = BufReader::new(provider.stdout.take().unwrap())
            .lines()
            .map(Result::unwrap)
            .take_while(|line| !line.starts_with("Ctrl-C"))
            .collect();
        let value = |name: &str| {
            let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].trim().to_owned()
        };
        providers.push(["authority", "client_id", "client_secret"].map(value));
        let suggested = lines.iter().find_map(|line| line.trim().strip_prefix("strongroom token ")).unwrap();
        let output = run(command("token").current_dir(folder.path()).args(suggested.split(' ')));
        assert!(stdout(&output).starts_with("eyJ"), "{}", stderr(&output));
        send("-INT", &provider);
        assert_eq!(provider.wait().unwrap().code(), Some(0));
    }
    assert_eq!(providers[0], providers[1]);
    assert_eq!(names(folder.path()).first().map(String::as_str), Some("sts"));
    assert_eq!(mode(&folder.path().join("sts")), 0o700);
}

/// `cargo test` and `./test` build the examples of the workspace beside the tests.
#[test]
fn the_sample_program_signs_in_once_and_finds_its_token_then() {
    let test = "demo_and_sts::the_sample_program_signs_in_once_and_finds_its_token_then";
    let tests = std::env::current_exe().unwrap();
    let sample = tests.parent().and_then(Path::parent).unwrap().join("examples/daemon");
    if !sample.exists() {
        return skip(test, "the example is not built: cargo build -p strongroom --example daemon");
    }
    let world = World::new();
    let daemon = || {
        let output = run(Command::new(&sample)
            .current_dir(world.folder.path())
            .arg(&world.ready().config_file)
            .arg(&world.ready().ca_file));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        stdout(&output)
    };
    for source in ["identity_provider", "cache"] {
        let said = daemon();
        assert!(said.contains("encrypted: false"), "{said}");
        assert!(said.contains(&format!("token from the {source}")), "{said}");
        assert!(said.contains("the API answered 200"), "{said}");
    }
    assert_eq!((world.sts.stats().token, world.sts.stats().api), (1, 2));
}

#[test]
fn a_port_that_is_taken_is_a_clear_error() {
    let world = World::new();
    let port = port_of(&world.ready().authority);
    let sts = || {
        let mut command = command("sts");
        command.args(["--port", port]).arg("--state").arg(world.path("second"));
        command
    };
    let output = run(&mut sts());
    assert_eq!((code(&output), stdout(&output).as_str()), (1, ""));
    assert!(stderr(&output).contains(port), "{}", stderr(&output));
    assert_eq!(failure(&mut sts()), (1, "sts_failed".into()));
}

fn port_of(authority: &str) -> &str {
    authority.rsplit(':').next().unwrap().split('/').next().unwrap()
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}
