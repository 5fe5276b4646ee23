//! A provider, a cache file, and programs that share it.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use strongroom_sts::RunningSts;

/// A provider, a cache file, and a Python that has the real libraries.
pub struct World {
    pub folder: tempfile::TempDir,
    pub sts: RunningSts,
    python: PathBuf,
}

impl World {
    /// `None`, and noted as skipped, where there is no such Python.
    pub fn new(test: &str) -> Option<Self> {
        let Some(python) = std::env::var_os("STRONGROOM_TEST_PYTHON") else {
            skip(test, "STRONGROOM_TEST_PYTHON names no Python with msal and msal-extensions");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let sts = strongroom_sts::spawn(strongroom_sts::Config::new(folder.path().join("sts"))).unwrap();
        Some(Self { folder, sts, python: python.into() })
    }

    pub fn cache(&self) -> PathBuf {
        self.folder.path().join("token_cache.bin")
    }

    pub fn lock_file(&self) -> PathBuf {
        self.folder.path().join("token_cache.bin.lockfile")
    }

    pub fn document(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.cache()).unwrap()).unwrap()
    }

    pub fn targets(&self) -> BTreeSet<String> {
        let document = self.document();
        let tokens = document["AccessToken"].as_object().unwrap();
        tokens.values().map(|entry| entry["target"].as_str().unwrap().to_owned()).collect()
    }

    pub fn python(&self, script: &str) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(script));
        command.env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
        command
    }

    pub fn python_client(&self, scopes: &[String]) -> Command {
        let ready = self.sts.ready();
        let mut command = self.python("client.py");
        command.args([&ready.config_file, &self.cache(), &ready.ca_file]).args(scopes);
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

pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("STRONGROOM_TEST_SKIPS") {
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}

/// Runs a program to its successful end; its output is a JSON object a line.
pub fn lines_of(command: &mut Command) -> Vec<Value> {
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

    pub fn wait_for(&mut self, word: &str) {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), word);
    }

    pub fn finish(&mut self) {
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
