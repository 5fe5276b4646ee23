//! The command in a desktop session: a bus of its own with a real GNOME Keyring on it.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{World, code, command, first_line, json, run, skip, stderr};

/// A session, and all that runs in it.
pub struct Session {
    folder: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Session {
    /// `None`, and noted as skipped, where no keyring can be started.
    pub fn start(test: &str) -> Option<Self> {
        let is_there = |name: &str| {
            let mut command = Command::new(name);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        if !["dbus-daemon", "gnome-keyring-daemon"].into_iter().all(is_there) {
            skip(
                &format!("secret_service::{test}"),
                "needs dbus-daemon and gnome-keyring-daemon (./test keyring installs them)",
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let mut session = Self { folder, daemons: Vec::new() };
        let mut bus = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nosyslog", "--print-address=1", "--address"])
            .arg(session.bus())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let address = first_line(bus.stdout.take().unwrap());
        session.daemons.push(bus);
        assert!(address.starts_with("unix:"), "{address:?}");
        session.unlock();
        Some(session)
    }

    fn bus(&self) -> String {
        format!("unix:path={}", self.folder.path().join("bus").display())
    }

    /// Starts the keyring, and waits until it is on the bus.
    fn unlock(&mut self) {
        let mut keyring = Command::new("gnome-keyring-daemon");
        self.join(&mut keyring);
        let mut keyring = keyring
            .args(["--foreground", "--unlock", "--components=secrets", "--control-directory"])
            .arg(self.folder.path().join("control"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        keyring.stdin.take().unwrap().write_all(b"correct horse").unwrap();
        self.daemons.push(keyring);
        let mut ask = Command::new("dbus-send");
        self.join(&mut ask);
        ask.args(["--session", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"])
            .args(["org.freedesktop.DBus.NameHasOwner", "string:org.freedesktop.secrets"]);
        while !String::from_utf8(run(&mut ask).stdout).unwrap().contains("boolean true") {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The environment of a program of this session.
    pub fn join<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let folder = self.folder.path();
        for name in ["DISPLAY", "WAYLAND_DISPLAY"] {
            command.env_remove(name);
        }
        command
            .env("DBUS_SESSION_BUS_ADDRESS", self.bus())
            .env("HOME", folder)
            .env("XDG_DATA_HOME", folder.join("data"))
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("XDG_CACHE_HOME", folder.join("cache-home"))
            .env("XDG_RUNTIME_DIR", folder)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for daemon in self.daemons.iter_mut().rev() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// `strongroom token` for this cache, with whatever kind it has by default.
fn token(world: &World, cache: &PathBuf) -> Command {
    let mut token = command("token");
    token.arg("--config").arg(&world.ready().config_file).arg("--ca-file").arg(&world.ready().ca_file);
    token.arg("--cache").arg(cache).args(["--output", "json", "--require-persist"]);
    // Outside of a session there is none to be found, whoever runs this.
    token.env_remove("DBUS_SESSION_BUS_ADDRESS").env("XDG_RUNTIME_DIR", world.path("no-session"));
    token
}

#[test]
fn an_item_of_the_keyring_is_a_cache_for_every_command() {
    let Some(session) = Session::start("an_item_of_the_keyring_is_a_cache_for_every_command") else { return };
    let world = World::new();
    let cache = world.path("desktop/token_cache.bin");
    for source in ["identity_provider", "cache"] {
        let mut token = token(&world, &cache);
        let output = json(&run(session.join(token.args(["--persistence", "secret-service"]))));
        assert_eq!(output["token_source"], source, "{output}");
        assert_eq!(output["cache"]["persistence"], "secret-service");
        assert_eq!(output["cache"]["protection"], "os-store");
    }
    assert_eq!(world.sts.stats().token, 1);
    assert_eq!(std::fs::read(&cache).unwrap(), b"", "the signal file has nothing of it");

    let mut inspect = command("inspect");
    let listed = json(&run(session.join(inspect.arg("--cache").arg(&cache).args(["--output", "json"]))));
    assert!(
        listed.as_array().unwrap().iter().any(|entry| entry["credential_type"] == "AccessToken"),
        "{listed}"
    );

    let mut doctor = command("doctor");
    let doctor =
        doctor.arg("--cache").arg(&cache).args(["--persistence", "secret-service", "--output", "json"]);
    let found = json(&run(session.join(doctor)));
    for (check, words) in
        [("persistence", "secret-service"), ("write", "to the keyring"), ("document", "1 access token")]
    {
        let is_it = |finding: &serde_json::Value| {
            finding["check"] == check && finding["message"].as_str().unwrap().contains(words)
        };
        assert!(found.as_array().unwrap().iter().any(is_it), "{check}: {found}");
    }
    assert!(found.as_array().unwrap().iter().all(|finding| finding["status"] == "ok"), "{found}");

    // Without the session nothing is taken for an empty cache.
    let mut alone = token(&world, &cache);
    let output = run(alone.args(["--persistence", "secret-service"]));
    assert_eq!((code(&output), &json(&output)["error"]), (4, &"no_session_bus".into()));
    assert_eq!(world.sts.stats().token, 1);

    let mut purge = command("purge");
    let purge = purge.arg("--cache").arg(&cache).args(["--all", "--yes", "--output", "json"]);
    assert_eq!(json(&run(session.join(purge)))["removed"]["AccessToken"], 1);
    let mut token = token(&world, &cache);
    let output = json(&run(session.join(token.args(["--persistence", "secret-service"]))));
    assert_eq!(output["token_source"], "identity_provider");
}

#[test]
fn in_a_session_a_new_cache_is_sealed_with_a_key_from_the_keyring() {
    let Some(session) = Session::start("in_a_session_a_new_cache_is_sealed_with_a_key_from_the_keyring")
    else {
        return;
    };
    let world = World::new();
    let cache = world.path("desktop/token_cache.bin");
    for source in ["identity_provider", "cache"] {
        let output = json(&run(session.join(&mut token(&world, &cache))));
        assert_eq!(output["token_source"], source, "{output}");
        assert_eq!(output["cache"]["persistence"], "sealed");
        assert_eq!(output["cache"]["protection"], "os-store");
    }
    let sealed = std::fs::read(&cache).unwrap();

    // By cron or ssh: no second cache, and the way out is said.
    let output = run(&mut token(&world, &cache));
    let error = json(&output);
    assert_eq!((code(&output), &error["error"]), (4, &"unknown_key".into()), "{}", stderr(&output));
    let remedy = error["remedy"].as_str().unwrap();
    assert!(remedy.contains("migrate") && remedy.contains("--key-source host"), "{remedy}");
    assert_eq!(std::fs::read(&cache).unwrap(), sealed);
    assert_eq!(world.sts.stats().token, 1);
}

#[test]
fn an_item_belongs_to_the_place_of_its_signal_file_however_that_is_spelled() {
    let Some(session) = Session::start("an_item_belongs_to_the_place_of_its_signal_file") else { return };
    let world = World::new();
    let source = |folder: &str, cache: &str| {
        let mut token = token(&world, &cache.into());
        std::fs::create_dir_all(world.path(folder)).unwrap();
        session.join(&mut token).current_dir(world.path(folder)).args(["--persistence", "secret-service"]);
        json(&run(&mut token))["token_source"].clone()
    };
    assert_eq!(source("one", "a.bin"), "identity_provider");
    assert_eq!(source("two", "a.bin"), "identity_provider", "another folder, another cache");
    assert_eq!(source("one", "./a.bin"), "cache");
    assert_eq!(source("two", &world.path("one/a.bin").display().to_string()), "cache");

    let mut inspect = command("inspect");
    session.join(&mut inspect).current_dir(world.path("one"));
    let listed = json(&run(inspect.args(["--cache", "a.bin", "--output", "json"])));
    assert!(!listed.as_array().unwrap().is_empty());
    let mut migrate = command("migrate");
    session.join(&mut migrate).current_dir(world.path("one"));
    migrate.args(["--cache", "a.bin", "--to", "sealed", "--new-location", "b.bin", "--output", "json"]);
    assert_eq!(json(&run(&mut migrate))["from"]["persistence"], "secret-service");
}

#[test]
fn a_signal_file_is_recognised_and_never_becomes_another_cache() {
    let Some(session) = Session::start("a_signal_file_is_recognised_and_never_becomes_another_cache") else {
        return;
    };
    let world = World::new();
    let cache = world.path("desktop/token_cache.bin");
    json(&run(session.join(token(&world, &cache).args(["--persistence", "secret-service"]))));
    let output = json(&run(session.join(&mut token(&world, &cache))));
    assert_eq!(
        (&output["token_source"], &output["cache"]["persistence"]),
        (&"cache".into(), &"secret-service".into())
    );
    for options in [
        &["--persistence", "file"][..],
        &["--persistence", "sealed"],
        &["--key-source", "host"],
        &["--fallback-to-plaintext", "--persistence", "sealed"],
    ] {
        let error = json(&run(session.join(token(&world, &cache).args(options))));
        assert_eq!(error["error"], "signal_file_there", "{options:?}: {error}");
        let remedy = error["remedy"].as_str().unwrap();
        assert!(remedy.contains("--persistence secret-service") && remedy.contains("migrate"), "{remedy}");
        assert_eq!(std::fs::read(&cache).unwrap(), b"", "{options:?}");
    }
    for kind in ["auto", "secret-service"] {
        let mut doctor = command("doctor");
        doctor.arg("--cache").arg(&cache).args(["--persistence", kind, "--output", "json"]);
        let found = json(&run(session.join(&mut doctor)));
        let message = found[0]["message"].as_str().unwrap();
        assert!(
            message.contains("the signal file of a cache that is an item of the Secret Service"),
            "{message}"
        );
        assert!(found.as_array().unwrap().iter().all(|finding| finding["status"] == "ok"), "{found}");
    }
    assert_eq!(world.sts.stats().token, 1);

    // An empty file of which the keyring knows nothing is a place like any other.
    let empty = world.path("empty.bin");
    std::fs::write(&empty, "").unwrap();
    let output = json(&run(session.join(&mut token(&world, &empty))));
    assert_eq!(output["cache"]["persistence"], "sealed");
}
