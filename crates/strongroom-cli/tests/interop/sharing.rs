//! What one side writes the other finds, each waits for the other's lock, and nothing is lost on the way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use strongroom::{
    AccessToken, BoxFuture, Change, Credential, CredentialStore, DocumentStore, Error, Fence,
    FilePersistence, Loaded, Location, Persistence, Protection, Revision, Saved, SecretBytes, UnixSeconds,
    block_on,
};

use crate::support::{Running, World, lines_of};

#[test]
fn what_python_signed_in_for_the_command_finds() {
    let Some(world) = World::new("sharing::what_python_signed_in_for_the_command_finds") else { return };
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
    let Some(world) = World::new("sharing::what_the_command_signed_in_for_python_finds") else { return };
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
    let Some(world) = World::new("sharing::while_python_holds_the_lock_the_command_waits_and_succeeds")
    else {
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
    let Some(world) = World::new("sharing::a_killed_python_holder_does_not_stop_the_command") else { return };
    let mut holder = Running::start(world.python("hold_lock.py").arg(world.lock_file()));
    holder.wait_for("held");
    drop(holder);
    assert!(world.lock_file().exists(), "a killed holder leaves its file");
    assert_eq!(world.our_token(None)["persisted"], true);
    assert_eq!(world.targets().len(), 1);
}

#[test]
fn while_we_hold_the_lock_python_waits_and_succeeds() {
    let Some(world) = World::new("sharing::while_we_hold_the_lock_python_waits_and_succeeds") else { return };
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
    let Some(world) = World::new("sharing::what_we_do_not_know_survives_our_writes_and_pythons") else {
        return;
    };
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
    let Some(world) =
        World::new("sharing::a_token_of_pythons_that_we_renew_is_found_by_python_and_keeps_its_fields")
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
