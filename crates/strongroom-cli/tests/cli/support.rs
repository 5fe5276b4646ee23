//! The command beside a running identity provider.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use strongroom_sts::{Ready, RunningSts};

pub struct World {
    pub folder: tempfile::TempDir,
    pub sts: RunningSts,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sts = strongroom_sts::spawn(strongroom_sts::Config::new(folder.path().join("sts"))).unwrap();
        Self { folder, sts }
    }

    pub fn ready(&self) -> &Ready {
        self.sts.ready()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn cache(&self) -> PathBuf {
        self.path("token_cache.bin")
    }

    /// As if what the provider refused had never been remembered.
    pub fn forget_refusals(&self) {
        let _ = std::fs::remove_file(self.path("token_cache.bin.state"));
    }

    /// `strongroom token` as the provider's configuration and trust root want it.
    pub fn token(&self) -> Command {
        self.token_with(&self.ready().config_file, &self.cache())
    }

    /// The same with another configuration and another cache, a plain file.
    pub fn token_with(&self, config: &Path, cache: &Path) -> Command {
        let mut command = command("token");
        command.arg("--config").arg(config).arg("--cache").arg(cache).args(["--persistence", "file"]);
        command.arg("--ca-file").arg(&self.ready().ca_file);
        command
    }

    /// `strongroom token` with a cache of this name as it is kept by default, sealed, on a host of its own.
    pub fn sealed(&self, name: &str) -> Command {
        let mut token = self.ours("token", &[]);
        token.arg("--config").arg(&self.ready().config_file).arg("--ca-file").arg(&self.ready().ca_file);
        token.arg("--cache").arg(self.path(name));
        token
    }

    /// Any other command on that host.
    pub fn ours(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let mut command = command(subcommand);
        command.args(arguments).current_dir(self.folder.path());
        command.env("STRONGROOM_STATE_DIR", self.path("state"));
        // Outside of a session, whoever runs this.
        command.env_remove("DBUS_SESSION_BUS_ADDRESS").env("XDG_RUNTIME_DIR", self.path("no-session"));
        command
    }

    /// The token is there, and nobody is asked for one.
    pub fn hits(&self, token: &mut Command) {
        self.sts.reset();
        let output = run(token.args(["--output", "json"]));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(json(&output)["token_source"], "cache");
        assert_eq!(self.sts.stats().token, 0);
    }

    pub fn token_json(&self) -> Value {
        json(&run(self.token().args(["--output", "json"])))
    }

    /// A configuration like the provider's own, changed.
    pub fn config(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> PathBuf {
        let mut config: Value =
            serde_json::from_slice(&std::fs::read(&self.ready().config_file).unwrap()).unwrap();
        change(config.as_object_mut().unwrap());
        self.file("own-config.json", config.to_string())
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = self.path(name);
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path).unwrap();
        file.write_all(content.as_ref()).unwrap();
        path
    }
}

/// The command, in the place that is named at run time where the test runs as another user.
pub fn binary() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_strongroom")
        .map_or_else(|| env!("CARGO_BIN_EXE_strongroom").into(), Into::into)
}

pub fn command(subcommand: &str) -> Command {
    let mut command = bare();
    command.arg(subcommand);
    command
}

/// The command without a subcommand, and without the settings of who runs the tests.
pub fn bare() -> Command {
    let mut command = Command::new(binary());
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    // The key of this host that the tests seal with is none of the user's.
    command.env("XDG_STATE_HOME", concat!(env!("CARGO_TARGET_TMPDIR"), "/state"));
    for (name, _) in std::env::vars_os() {
        let upper = name.to_string_lossy().to_uppercase();
        let ours = upper.starts_with("STRONGROOM_") && !upper.starts_with("STRONGROOM_TEST");
        if ours || upper.starts_with("AZURE_") || upper.starts_with("SSL_CERT_") || upper.ends_with("_PROXY")
        {
            command.env_remove(name);
        }
    }
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{:?}", output.status))
}

/// What a command printed that did what it should.
pub fn done(output: &Output) -> String {
    assert_eq!(code(output), 0, "{}", stderr(output));
    stdout(output)
}

/// The key that the header of an envelope names.
pub fn sealed_with(path: &Path) -> String {
    std::fs::read(path).unwrap()[24..40].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

/// The exit code and the `error` of the one object on stdout.
pub fn failure(command: &mut Command) -> (i32, String) {
    let output = run(command.args(["--output", "json"]));
    let object = json(&output);
    assert!(object["message"].as_str().is_some_and(|text| !text.is_empty()), "{object}");
    (code(&output), object["error"].as_str().unwrap().to_owned())
}

/// The first line of what a process says, which tells that it has got so far.
pub fn first_line(said: impl Read) -> String {
    let mut line = String::new();
    BufReader::new(said).read_line(&mut line).unwrap();
    line
}

pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| value != OsStr::new("")).map(Into::into)
}

pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = variable("STRONGROOM_TEST_SKIPS") {
        OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(line.as_bytes()).unwrap();
    }
}
