//! One cache file, the command on one side and the real `msal` and `msal-extensions` from PyPI on the other.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

mod sealed;

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use serde_json::Value;
use strongroom::{
    AccessToken, BoxFuture, Change, Credential, CredentialStore, DocumentStore, Error, Fence,
    FilePersistence, Loaded, Location, Persistence, Protection, Revision, Saved, SecretBytes, UnixSeconds,
    block_on,
};
use strongroom_sts::RunningSts;

/// A provider, a cache file, and a Python that has the real libraries.
struct World {
    folder: tempfile::TempDir,
    sts: RunningSts,
    python: PathBuf,
}

impl World {
    /// `None`, and noted as skipped, where there is no such Python.
    fn new(test: &str) -> Option<Self> {
        let Some(python) = std::env::var_os("STRONGROOM_TEST_PYTHON") else {
            skip(test, "STRONGROOM_TEST_PYTHON names no Python with msal and msal-extensions");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let sts = strongroom_sts::spawn(strongroom_sts::Config::new(folder.path().join("sts"))).unwrap();
        Some(Self { folder, sts, python: python.into() })
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("token_cache.bin")
    }

    fn lock_file(&self) -> PathBuf {
        self.folder.path().join("token_cache.bin.lockfile")
    }

    fn document(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.cache()).unwrap()).unwrap()
    }

    fn targets(&self) -> BTreeSet<String> {
        let document = self.document();
        let tokens = document["AccessToken"].as_object().unwrap();
        tokens.values().map(|entry| entry["target"].as_str().unwrap().to_owned()).collect()
    }

    fn python(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script));
        command.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
        command
    }

    fn python_client(&self, scopes: &[String]) -> Command {
        let ready = self.sts.ready();
        let mut command = self.python("client.py");
        command.args([&ready.config_file, &self.cache(), &ready.ca_file]).args(scopes);
        command
    }

    fn ours(&self, scope: Option<&str>) -> Command {
        let ready = self.sts.ready();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(["token", "--persistence", "file", "--output", "json", "--require-persist", "--config"]);
        command.arg(&ready.config_file).arg("--cache").arg(self.cache()).arg("--ca-file").arg(&ready.ca_file);
        if let Some(scope) = scope {
            command.args(["--scope", scope]);
        }
        command
    }

    fn our_token(&self, scope: Option<&str>) -> Value {
        let lines = lines_of(&mut self.ours(scope));
        assert_eq!(lines.len(), 1);
        lines[0].clone()
    }
}

fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("STRONGROOM_TEST_SKIPS") {
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Runs a program to its successful end; its output is a JSON object a line.
fn lines_of(command: &mut Command) -> Vec<Value> {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A running program that is killed when dropped.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }

    fn finish(&mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_python_signed_in_for_the_command_finds() {
    let Some(world) = World::new("what_python_signed_in_for_the_command_finds") else { return };
    let theirs = lines_of(&mut world.python_client(&[]));
    assert_eq!(theirs[0]["source"], "identity_provider");
    assert_eq!(world.sts.stats().token, 1);

    world.sts.reset();
    let ours = world.our_token(None);
    assert_eq!(ours["token_source"], "cache");
    assert_eq!(ours["access_token"], theirs[0]["access_token"]);
    let seen = world.sts.stats();
    assert_eq!((seen.token, seen.discovery, seen.openid_configuration), (0, 0, 0));
}

#[test]
fn what_the_command_signed_in_for_python_finds() {
    let Some(world) = World::new("what_the_command_signed_in_for_python_finds") else { return };
    let ours = world.our_token(None);
    assert_eq!(ours["token_source"], "identity_provider");

    let theirs = lines_of(&mut world.python_client(&[]));
    assert_eq!(theirs[0]["source"], "cache");
    assert_eq!(theirs[0]["access_token"], ours["access_token"]);
    assert_eq!(world.sts.stats().token, 1);
    // Python has nothing to repair in it, and so leaves it alone.
    assert_eq!(world.our_token(None)["token_source"], "cache");
}

#[test]
fn while_python_holds_the_lock_the_command_waits_and_succeeds() {
    let Some(world) = World::new("while_python_holds_the_lock_the_command_waits_and_succeeds") else {
        return;
    };
    let mut holder = Running::start(world.python("hold_lock.py").arg(world.lock_file()));
    holder.wait_for("held");
    let mut waiting = Running::start(&mut world.ours(None));
    // It has its token and wants to store it; it can go on only when Python lets it.
    world.sts.wait_for_stats(std::time::Duration::from_secs(30), |seen| seen.token == 1).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(waiting.child.try_wait().unwrap().is_none(), "it did not wait for Python");
    assert!(!world.cache().exists());
    holder.finish();
    waiting.finish();
    assert_eq!(world.targets().len(), 1);
    assert!(!world.lock_file().exists(), "the lock file is left behind");
}

#[test]
fn a_killed_python_holder_does_not_stop_the_command() {
    let Some(world) = World::new("a_killed_python_holder_does_not_stop_the_command") else { return };
    let mut holder = Running::start(world.python("hold_lock.py").arg(world.lock_file()));
    holder.wait_for("held");
    drop(holder);
    assert!(world.lock_file().exists(), "a killed holder leaves its file");
    assert_eq!(world.our_token(None)["persisted"], true);
    assert_eq!(world.targets().len(), 1);
}

#[test]
fn while_we_hold_the_lock_python_waits_and_succeeds() {
    let Some(world) = World::new("while_we_hold_the_lock_python_waits_and_succeeds") else { return };
    let (inside, is_inside) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let slow = Slow {
        file: FilePersistence::new(world.cache()).unwrap(),
        inside,
        may_go_on: Arc::new(std::sync::Mutex::new(may_go_on)),
    };
    let writer = std::thread::spawn(move || {
        let token = AccessToken {
            home_account_id: None,
            environment: "localhost".into(),
            client_id: "client".into(),
            realm: "tenant".into(),
            target: "api://ours/.default".into(),
            secret: "secret".into(),
            token_type: "Bearer".into(),
            scheme: strongroom::TokenScheme::Bearer,
            cached_at: UnixSeconds::new(1_800_000_000),
            expires_on: UnixSeconds::new(1_900_000_000),
            extended_expires_on: UnixSeconds::new(1_900_000_000),
            refresh_on: None,
            user_assertion_hash: None,
            extended: None,
        };
        let change = Change::new(UnixSeconds::new(1_800_000_000)).put(Credential::AccessToken(token));
        block_on(DocumentStore::new(slow).apply(&change)).unwrap();
    });
    is_inside.recv().unwrap();
    let mut python = Running::start(world.python("take_lock.py").arg(world.lock_file()));
    python.wait_for("waiting");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(python.child.try_wait().unwrap().is_none(), "Python did not wait for us");
    go_on.send(()).unwrap();
    writer.join().unwrap();
    python.wait_for("entered");
    python.finish();
    assert_eq!(world.targets().len(), 1);
}

/// A file whose save takes as long as the test likes, under the lock.
#[derive(Debug)]
struct Slow {
    file: FilePersistence,
    inside: std::sync::mpsc::Sender<()>,
    may_go_on: Arc<std::sync::Mutex<std::sync::mpsc::Receiver<()>>>,
}

impl Persistence for Slow {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        self.file.load()
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        self.inside.send(()).unwrap();
        self.may_go_on.lock().unwrap().recv().unwrap();
        self.file.save(bytes, expected, fence)
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.file.remove()
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        self.file.is_current(revision)
    }

    fn lock_path(&self) -> Option<PathBuf> {
        self.file.lock_path()
    }

    fn location(&self) -> Location {
        self.file.location()
    }

    fn protection(&self) -> Protection {
        self.file.protection()
    }

    fn kind(&self) -> &'static str {
        self.file.kind()
    }
}

#[test]
fn what_we_do_not_know_survives_our_writes_and_pythons() {
    let Some(world) = World::new("what_we_do_not_know_survives_our_writes_and_pythons") else { return };
    lines_of(&mut world.python_client(&["api://python/.default".to_owned()]));
    let mut document = world.document();
    document["Extra"] = serde_json::json!({"a": [1, 2.50, "ü"], "nested": {"b": null}});
    for entry in document["AccessToken"].as_object_mut().unwrap().values_mut() {
        entry["x_unknown"] = serde_json::json!({"kept": true});
    }
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../strongroom/tests/data/generated/msal-node-7.2.3/code.json");
    let fixture: Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    for section in ["Account", "IdToken", "RefreshToken"] {
        document[section] = fixture[section].clone();
    }
    std::fs::write(world.cache(), serde_json::to_string_pretty(&document).unwrap()).unwrap();

    world.our_token(Some("api://ours/.default"));
    lines_of(&mut world.python_client(&["api://python-again/.default".to_owned()]));
    world.our_token(Some("api://ours-again/.default"));

    let after = world.document();
    assert_eq!(after["Extra"], document["Extra"]);
    for section in ["Account", "IdToken", "RefreshToken"] {
        assert_eq!(after[section], document[section], "{section}");
    }
    for (key, entry) in document["AccessToken"].as_object().unwrap() {
        assert_eq!(after["AccessToken"][key], *entry);
    }
    assert_eq!(world.targets().len(), 4);
}

#[test]
fn a_token_of_pythons_that_we_renew_is_found_by_python_and_keeps_its_fields() {
    let Some(world) = World::new("a_token_of_pythons_that_we_renew_is_found_by_python_and_keeps_its_fields")
    else {
        return;
    };
    lines_of(&mut world.python_client(&[]));
    let mut document = world.document();
    for entry in document["AccessToken"].as_object_mut().unwrap().values_mut() {
        entry["expires_on"] = "1000".into();
        entry["extended_expires_on"] = "4000000000".into();
        entry["cached_at"] = "900".into();
        entry["x_unknown"] = "kept".into();
    }
    std::fs::write(world.cache(), document.to_string()).unwrap();
    let ours = world.our_token(None);
    assert_eq!(ours["token_source"], "identity_provider");
    let after = world.document();
    let tokens = after["AccessToken"].as_object().unwrap();
    assert_eq!(tokens.len(), 1, "the token was replaced, not added beside");
    assert_eq!(tokens.values().next().unwrap()["x_unknown"], "kept");
    let theirs = lines_of(&mut world.python_client(&[]));
    assert_eq!((&theirs[0]["source"], &theirs[0]["access_token"]), (&"cache".into(), &ours["access_token"]));
}

#[test]
fn eight_processes_with_twenty_five_tokens_each_lose_none() {
    // Needs no Python to write, but it must be able to read the outcome.
    let Some(world) = World::new("eight_processes_with_twenty_five_tokens_each_lose_none") else { return };
    let expected: BTreeSet<String> =
        (0..8).flat_map(|p| (0..25).map(move |n| format!("api://p{p}-{n}/.default"))).collect();
    std::thread::scope(|scope| {
        for p in 0..8 {
            let world = &world;
            scope.spawn(move || {
                for n in 0..25 {
                    let token = world.our_token(Some(&format!("api://p{p}-{n}/.default")));
                    assert_eq!(token["persisted"], true);
                }
            });
        }
    });
    assert_eq!(world.targets(), expected);
    assert_eq!(world.sts.stats().token, 200);
    let scopes: Vec<String> = expected.into_iter().collect();
    let theirs = lines_of(&mut world.python_client(&scopes));
    assert!(theirs.iter().all(|line| line["source"] == "cache"));
}

#[test]
fn beside_python_that_writes_too_all_of_our_tokens_are_there() {
    let Some(world) = World::new("beside_python_that_writes_too_all_of_our_tokens_are_there") else { return };
    let scope = |who: &str, p: usize, n: usize| format!("api://{who}{p}-{n}/.default");
    std::thread::scope(|threads| {
        for p in 0..3 {
            let world = &world;
            threads.spawn(move || {
                let scopes: Vec<String> = (0..10).map(|n| scope("python", p, n)).collect();
                let lines = lines_of(&mut world.python_client(&scopes));
                assert_eq!(lines.len(), 10);
            });
            threads.spawn(move || {
                for n in 0..10 {
                    assert_eq!(world.our_token(Some(&scope("ours", p, n)))["persisted"], true);
                }
            });
        }
    });
    // Python can erase what was written between its reload and its save; asking again puts it back.
    for p in 0..3 {
        for n in 0..10 {
            world.our_token(Some(&scope("ours", p, n)));
        }
    }
    let targets = world.targets();
    let ours = targets.iter().filter(|target| target.contains("ours")).count();
    assert_eq!(ours, 30);
    let python = targets.iter().filter(|target| target.contains("python")).count();
    eprintln!("of 30 tokens of Python's own {python} are there");
}
