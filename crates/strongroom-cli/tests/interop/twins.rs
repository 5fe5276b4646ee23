//! One token that the real MSAL Python and the real MSAL Node both find, each in an entry of its own, and Java's lock.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use strongroom::{AccessToken, Applied, Change, Credential, Dialect, Document, TokenScheme, UnixSeconds};

use crate::support::{Running, World, lines_of, skip};

/// A world with Python and the folder that has Node's libraries.
fn with_both(test: &str) -> Option<(World, PathBuf)> {
    let world = World::new(test)?;
    match std::env::var_os("STRONGROOM_TEST_NODE") {
        Some(modules) => Some((world, modules.into())),
        None => {
            skip(test, "STRONGROOM_TEST_NODE names no folder with @azure/msal-node and its extensions");
            None
        }
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
}

/// What Node finds, or gets, for the scope of the configuration.
fn node(world: &World, modules: &Path) -> Value {
    let ready = world.sts.ready();
    let mut command = Command::new("node");
    command.arg(script("client.mjs")).arg(modules);
    command.args([&ready.config_file, &world.cache()]).arg(&ready.scope);
    command.env("NODE_EXTRA_CA_CERTS", &ready.ca_file).env_remove("NODE_OPTIONS");
    let mut running = Running::start(&mut command);
    running.wait_for("ready");
    running.go();
    let lines = running.rest();
    serde_json::from_str(lines.first().expect("a line")).expect("JSON")
}

fn python(world: &World) -> Value {
    lines_of(&mut world.python_client(&[]))[0].clone()
}

fn ours(world: &World, more: &[&str]) -> Value {
    lines_of(world.ours(None).args(["--dialect", "python+node"]).args(more))[0].clone()
}

fn purge(world: &World) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    command.args(["purge", "--output", "json", "--client", &world.sts.ready().client_id]);
    lines_of(command.arg("--cache").arg(world.cache()))[0].clone()
}

#[test]
fn a_token_of_ours_is_found_by_python_and_by_node_until_it_is_purged() {
    let test = "twins::a_token_of_ours_is_found_by_python_and_by_node_until_it_is_purged";
    let Some((world, modules)) = with_both(test) else { return };
    let mut token = ours(&world, &[]);
    assert_eq!(token["token_source"], "identity_provider");
    for renewals in 0..2 {
        for found in [python(&world), node(&world, &modules), python(&world), node(&world, &modules)] {
            assert_eq!(found["source"], "cache", "{renewals}: {found}");
            assert_eq!(found["access_token"], token["access_token"], "{renewals}");
        }
        let again = ours(&world, &["--force-refresh"]);
        assert_ne!(again["access_token"], token["access_token"]);
        token = again;
    }
    assert_eq!(world.sts.stats().token, 3, "nobody but we asked");
    assert_eq!(world.document()["AccessToken"].as_object().unwrap().len(), 2);

    purge(&world);
    assert_eq!(node(&world, &modules)["source"], "identity_provider");
    purge(&world);
    assert_eq!(python(&world)["source"], "identity_provider");
}

#[test]
fn what_each_of_them_renews_by_itself_we_renew_for_both() {
    let test = "twins::what_each_of_them_renews_by_itself_we_renew_for_both";
    let Some((world, modules)) = with_both(test) else { return };
    // Each writes an entry of its own first: to the other it is not there.
    assert_eq!(node(&world, &modules)["source"], "identity_provider");
    assert_eq!(python(&world)["source"], "identity_provider");
    let token = ours(&world, &["--force-refresh"]);
    for found in [python(&world), node(&world, &modules)] {
        assert_eq!((&found["source"], &found["access_token"]), (&"cache".into(), &token["access_token"]));
    }
    assert_eq!(world.document()["AccessToken"].as_object().unwrap().len(), 2);
}

#[test]
fn at_a_host_without_aliases_node_finds_the_twin_and_python_keeps_its_own_token() {
    let test = "twins::at_a_host_without_aliases_node_finds_the_twin_and_python_keeps_its_own_token";
    let Some((world, modules)) = with_both(test) else { return };
    // Node looks at the clock, Python at the time that it is told.
    for (host, now) in [("adfs.example", UnixSeconds::new(1_800_000_000)), ("adfs.example", soon())] {
        std::fs::write(world.cache(), twins_at(host, now).expose()).unwrap();
        if now.get() == 1_800_000_000 {
            let mut command = world.python("scan_after_expiry.py");
            let found = lines_of(command.arg(world.cache()).arg(host));
            assert_eq!(found[0]["found"], serde_json::json!(["renewed"]), "Python has deleted its own token");
        } else {
            let mut command = Command::new("node");
            command.arg(script("find_offline.mjs")).args([&modules, &world.cache()]).arg(host);
            let found = lines_of(command.env_remove("NODE_OPTIONS"));
            assert_eq!(found[0]["access_token"], "secret", "{}", found[0]);
        }
    }
}

fn soon() -> UnixSeconds {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    UnixSeconds::new(i64::try_from(now.as_secs()).unwrap() - 1)
}

fn twins_at(host: &str, now: UnixSeconds) -> strongroom::SecretBytes {
    let token = AccessToken {
        home_account_id: None,
        environment: host.into(),
        client_id: "client-id".into(),
        realm: "tid".into(),
        target: "s".into(),
        secret: "secret".into(),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: now,
        expires_on: now.plus(3600),
        extended_expires_on: now.plus(3600),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    };
    let change = Change::new(now).dialect(Dialect::PYTHON_AND_NODE).put(Credential::AccessToken(token));
    match Document::empty().apply(&change).unwrap() {
        Applied::Changed { bytes, .. } => bytes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn while_java_holds_its_lock_the_command_waits_and_succeeds() {
    let Some(world) = World::new("twins::while_java_holds_its_lock_the_command_waits_and_succeeds") else {
        return;
    };
    for is_killed in [false, true] {
        let lock_file = world.folder().join(".lockfile");
        let mut holder = Running::start(world.python("hold_lock_as_java.py").arg(&lock_file));
        holder.wait_for("held");
        world.sts.reset();
        let mut waiting =
            Running::start(world.ours(None).args(["--force-refresh", "--dialect", "python+java"]));
        world.sts.wait_for_stats(std::time::Duration::from_secs(30), |seen| seen.token == 1).unwrap();
        // It goes on only when Java lets it: till then the lock of the other languages is taken.
        while !world.lock_file().exists() {
            std::thread::yield_now();
        }
        assert!(waiting.child.try_wait().unwrap().is_none(), "it did not wait for Java");
        assert_eq!(world.cache().exists(), is_killed, "it has written nothing yet");
        if is_killed {
            drop(holder);
        } else {
            holder.finish();
        }
        waiting.finish();
        assert_eq!(world.targets().len(), 1);
        assert!(!lock_file.exists() && !world.lock_file().exists(), "a lock file is left behind");
    }
}
