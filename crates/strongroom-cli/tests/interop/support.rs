//! A provider, a cache file, and programs that share it.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use strongroom_sts::RunningSts;

use crate::peers::Peer;

const RESERVED_SCOPES: [&str; 3] = ["openid", "profile", "offline_access"];

/// A provider, a cache file, and another language's real libraries.
pub struct World {
    folder: tempfile::TempDir,
    pub sts: RunningSts,
    /// A Python that has them, or the folder that has them for Node.
    peer: PathBuf,
}

impl World {
    /// With Python.
    pub fn new(test: &str) -> Option<Self> {
        Self::with(Peer::Python, test)
    }

    /// `None`, and noted as skipped, where this language's libraries are not.
    pub fn with(peer: Peer, test: &str) -> Option<Self> {
        let Some(path) = peer.path() else {
            skip(test, &peer.nothing());
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let sts = strongroom_sts::spawn(strongroom_sts::Config::new(folder.path().join("sts"))).unwrap();
        Some(Self { folder, sts, peer: path })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn cache(&self) -> PathBuf {
        self.folder().join("token_cache.bin")
    }

    pub fn lock_file(&self) -> PathBuf {
        self.folder().join("token_cache.bin.lockfile")
    }

    pub fn document(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.cache()).unwrap()).unwrap()
    }

    pub fn targets(&self) -> BTreeSet<String> {
        let document = self.document();
        let tokens = document["AccessToken"].as_object().unwrap();
        // Java asks for the reserved scopes too, and stores what it asked for.
        let scopes = tokens.values().flat_map(|entry| entry["target"].as_str().unwrap().split(' '));
        scopes.filter(|scope| !RESERVED_SCOPES.contains(scope)).map(str::to_owned).collect()
    }

    pub fn python(&self, script: &str) -> Command {
        let mut command = Command::new(&self.peer);
        command.arg(script_path(script));
        command.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
        command
    }

    pub fn python_client(&self, scopes: &[String]) -> Command {
        let ready = self.sts.ready();
        let mut command = self.python("client.py");
        command.args([&ready.config_file, &self.cache(), &ready.ca_file]).args(scopes);
        command
    }

    /// The same, but it waits to be told to begin, and a token that it cannot get does not end it.
    pub fn gated_python_client(&self, scopes: &[String]) -> Command {
        let ready = self.sts.ready();
        let mut command = self.python("client.py");
        command.arg("--gate").args([&ready.config_file, &self.cache(), &ready.ca_file]).args(scopes);
        command
    }

    /// As [`gated_python_client`](Self::gated_python_client).
    pub fn gated_node_client(&self, scopes: &[String]) -> Command {
        let ready = self.sts.ready();
        let mut command = Command::new("node");
        command
            .arg(script_path("client.mjs"))
            .args([&self.peer, &ready.config_file, &self.cache()])
            .args(scopes);
        command.env("NODE_EXTRA_CA_CERTS", &ready.ca_file).env_remove("NODE_OPTIONS");
        command
    }

    pub fn ours(&self, scope: Option<&str>) -> Command {
        let ready = self.sts.ready();
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(["token", "--persistence", "file", "--output", "json", "--require-persist", "--config"]);
        command.arg(&ready.config_file).arg("--cache").arg(self.cache()).arg("--ca-file").arg(&ready.ca_file);
        if let Some(scope) = scope {
            command.args(["--scope", scope]);
        }
        command
    }

    pub fn our_token(&self, scope: Option<&str>) -> Value {
        let lines = lines_of(&mut self.ours(scope));
        assert_eq!(lines.len(), 1);
        lines[0].clone()
    }
}

pub fn script_path(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script)
}

pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("STRONGROOM_TEST_SKIPS") {
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Runs a program to its successful end; its output is a JSON object a line.
pub fn lines_of(command: &mut Command) -> Vec<Value> {
    output_of(command).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a program to its successful end.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A running program that is killed when dropped.
pub struct Running {
    pub child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Reads what it prints until the word comes.
    pub fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        while !line.contains(word) {
            line.clear();
            let read = self.lines.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "it ended before it said {word:?}");
        }
    }

    /// Tells it to begin.
    pub fn go(&mut self) {
        writeln!(self.child.stdin.as_mut().unwrap(), "go").unwrap();
    }

    /// Tells it to end: there is nothing more to read for it.
    pub fn end(&mut self) {
        drop(self.child.stdin.take());
    }

    /// What it prints until it ends, whatever becomes of it.
    pub fn rest(&mut self) -> Vec<String> {
        let lines = self.lines.by_ref().lines().map(Result::unwrap).collect();
        let _ = self.child.wait();
        lines
    }

    pub fn finish(&mut self) {
        self.end();
        let rest = self.rest();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", rest.join("\n"));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
