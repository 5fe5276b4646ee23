//! `strongroom key`: making, listing, rotating and moving keys, without showing one unasked.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::{
    World, code, command, done, failure, json, mode, names, run, sealed_with, set_mode, skip, stderr, stdout,
};
use crate::terminal::on_a_terminal;

const PREFIX: &str = "strongroom-key-1:";

/// A host of its own: a folder whose `state` has the host key.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn key(&self, arguments: &[&str]) -> Command {
        let mut key = command("key");
        key.args(arguments).current_dir(self.0.path()).env("STRONGROOM_STATE_DIR", self.path("state"));
        key
    }

    fn list(&self, arguments: &[&str]) -> Value {
        let output = run(self.key(&["list", "--output", "json"]).args(arguments));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        json(&output)
    }

    /// The ids of the keys, the primary first.
    fn ids(&self, arguments: &[&str]) -> Vec<String> {
        let listed = self.list(arguments);
        let keys = listed["keys"].as_array().unwrap();
        assert!(keys.iter().enumerate().all(|(at, key)| key["primary"] == (at == 0)), "{listed}");
        keys.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect()
    }
}

fn new_key() -> String {
    done(&run(command("key").arg("new"))).trim_end().to_owned()
}

#[test]
fn a_new_key_is_text_on_stdout_and_how_to_hand_it_in_is_told_beside_it() {
    let output = run(command("key").arg("new"));
    let text = done(&output);
    assert!(text.starts_with(PREFIX) && text.lines().count() == 1, "{text}");
    for way in ["STRONGROOM_KEY", "strongroom.key", "STRONGROOM_KEY_FILE"] {
        assert!(stderr(&output).contains(way), "{way}");
    }
    assert!(!stderr(&output).contains(text.trim_start_matches(PREFIX).trim()));
    assert_ne!(new_key(), text.trim_end(), "each is another one");

    // Two of them in one variable are two keys.
    let (host, both) = (Host::new(), format!("{},{}", new_key(), new_key()));
    let listed = run(host.key(&["list", "--output", "json"]).env("STRONGROOM_KEY", both));
    assert_eq!(json(&listed)["keys"].as_array().unwrap().len(), 2);
    assert_eq!(json(&listed)["key_source"], "env");
    let object = json(&run(command("key").args(["new", "--output", "json"])));
    assert!(
        object["key"].as_str().unwrap().starts_with(PREFIX) && object["id"].as_str().unwrap().len() == 32
    );
}

#[test]
fn a_key_file_is_made_for_its_owner_and_never_replaced() {
    let host = Host::new();
    let made = done(&run(&mut host.key(&["new", "--file", "keys/cache.key"])));
    assert!(made.contains("file:keys/cache.key"), "{made}");
    let path = host.path("keys/cache.key");
    assert_eq!((mode(&path), mode(&host.path("keys"))), (0o600, 0o700));
    let before = std::fs::read_to_string(&path).unwrap();
    assert!(!made.contains(before.trim()));
    assert_eq!(failure(&mut host.key(&["new", "--file", "keys/cache.key"])), (2, "key_file_exists".into()));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
    assert_eq!(host.ids(&["--key-source", "file:keys/cache.key"]).len(), 1);
}

#[test]
fn a_list_makes_no_key() {
    let host = Host::new();
    assert_eq!(failure(&mut host.key(&["list"])), (2, "no_key".into()));
    assert_eq!(failure(&mut host.key(&["export", "--file", "out"])), (2, "no_key".into()));
    assert!(names(host.0.path()).is_empty());
}

#[test]
fn a_list_tells_which_key_sealed_a_cache_and_shows_none() {
    let world = World::new();
    done(&run(&mut world.sealed("cache.bin")));
    done(&run(&mut world.ours("key", &["rotate"])));
    let listed = json(&run(&mut world.ours("key", &["list", "--cache", "cache.bin", "--output", "json"])));
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(listed["sealed_with"]["key_id"], keys[1]["id"]);
    assert_eq!(listed["sealed_with"]["key_id"], sealed_with(&world.path("cache.bin")));
    assert_eq!(
        (&listed["sealed_with"]["kind"], &listed["sealed_with"]["is_listed"]),
        (&"host".into(), &true.into())
    );
    assert_eq!((&listed["key_source"], &listed["protection"]), (&"host".into(), &"host-file".into()));
    assert_eq!(listed["file"], world.path("state/host.key").to_str().unwrap());
    assert!(keys.iter().all(|key| key["created"].as_i64().unwrap() > 1_700_000_000));

    let output = run(world.ours("key", &["list", "--cache", "cache.bin", "-vvv"]).env("RUST_BACKTRACE", "1"));
    let shown = format!("{}{}", done(&output), stderr(&output));
    assert!(shown.contains("sealed with it") && shown.contains("seals and opens"), "{shown}");
    for line in std::fs::read_to_string(world.path("state/host.key")).unwrap().lines() {
        let key = line.trim_start_matches(PREFIX).split(' ').next().unwrap();
        assert!(key.len() > 40 && !shown.contains(key));
    }

    // With other keys it says that none of them is the one.
    done(&run(&mut world.ours("key", &["new", "--file", "other.key"])));
    let other = ["list", "--key-source", "file:other.key", "--cache", "cache.bin", "--output", "json"];
    assert_eq!(json(&run(&mut world.ours("key", &other)))["sealed_with"]["is_listed"], false);
    world.file("plain.bin", "{\"AccessToken\":{}}");
    for (path, expected) in
        [("plain.bin", "not_sealed"), ("nothing.bin", "not_sealed"), ("sts", "not_a_file")]
    {
        assert_eq!(
            failure(&mut world.ours("key", &["list", "--cache", path])),
            (4, expected.into()),
            "{path}"
        );
    }
}

#[test]
fn a_rotation_seals_what_is_written_next_and_what_it_is_told_to() {
    let world = World::new();
    for name in ["one.bin", "two.bin"] {
        done(&run(&mut world.sealed(name)));
    }
    let old = sealed_with(&world.path("one.bin"));
    let rotated = json(&run(&mut world.ours("key", &["rotate", "--output", "json"])));
    assert_eq!(rotated["rotated"], true);
    let new = rotated["primary"].as_str().unwrap();
    assert_ne!(new, old);
    world.hits(&mut world.sealed("one.bin"));
    assert_eq!(sealed_with(&world.path("one.bin")), old, "reading seals nothing anew");

    let output =
        run(&mut world.ours("key", &["rotate", "--output", "json", "--rewrite", "one.bin", "two.bin"]));
    let newest = json(&output)["primary"].as_str().unwrap().to_owned();
    for name in ["one.bin", "two.bin"] {
        assert_eq!(sealed_with(&world.path(name)), newest);
        assert!(stderr(&output).contains(&format!("{name}: sealed anew with the key {newest}")));
        world.hits(&mut world.sealed(name));
    }
    assert_eq!(json(&output)["rewritten"][1]["key_id"], newest);
}

#[test]
fn nothing_is_rotated_if_one_of_the_caches_cannot_be_opened() {
    let world = World::new();
    for name in ["one.bin", "two.bin", "damaged.bin"] {
        done(&run(&mut world.sealed(name)));
    }
    let mut damaged = std::fs::read(world.path("damaged.bin")).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    world.file("damaged.bin", &damaged);
    world.file("plain.bin", "{\"AccessToken\":{}}");
    let (key, old) = (key_file(&world, "state/host.key"), sealed_with(&world.path("one.bin")));
    let caches = ["rotate", "--rewrite", "one.bin", "damaged.bin", "absent.bin", "plain.bin", "two.bin"];
    for _ in 0..2 {
        let output = run(&mut world.ours("key", &caches));
        assert_eq!((code(&output), stdout(&output).as_str()), (2, ""));
        for said in ["no key was made", "3 of 5", "damaged.bin", "absent.bin", "plain.bin"] {
            assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
        }
    }
    for caches in [&["absent.bin"][..], &["plain.bin", "absent.bin"]] {
        let mut rotate = world.ours("key", &["rotate", "--rewrite"]);
        assert_eq!(failure(rotate.args(caches)), (2, "not_rotated".into()));
    }
    assert_eq!(key_file(&world, "state/host.key"), key);
    assert_eq!(sealed_with(&world.path("one.bin")), old);

    // Without a new key what cannot be sealed anew hinders no other.
    done(&run(&mut world.ours("key", &["rotate"])));
    let output = run(world.ours("key", &caches).arg("--no-new-key"));
    assert_eq!((code(&output), stdout(&output).as_str()), (4, ""));
    for said in ["3 of 5", "damaged.bin", "absent.bin", "plain.bin", "one.bin: sealed anew"] {
        assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
    }
    for name in ["one.bin", "two.bin"] {
        assert_ne!(sealed_with(&world.path(name)), old);
        world.hits(&mut world.sealed(name));
    }
    assert_eq!(std::fs::read(world.path("damaged.bin")).unwrap(), damaged);
}

#[test]
fn what_failed_after_a_rotation_is_sealed_anew_without_one_more_key() {
    let world = World::new();
    for name in ["one.bin", "two.bin"] {
        done(&run(&mut world.sealed(name)));
    }
    // Nobody can lock this one.
    let _ = std::fs::remove_file(world.path("two.bin.lock"));
    std::fs::create_dir(world.path("two.bin.lock")).unwrap();
    let output = run(&mut world.ours("key", &["rotate", "--rewrite", "one.bin", "two.bin"]));
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    let remedy = "strongroom key rotate --no-new-key --rewrite two.bin";
    assert!(stderr(&output).contains(&format!("'{remedy}'")), "{}", stderr(&output));
    let key = key_file(&world, "state/host.key");
    assert_eq!(key.matches(PREFIX).count(), 2);

    let again = || world.ours("key", &remedy.split(' ').skip(2).collect::<Vec<_>>());
    for _ in 0..2 {
        assert_eq!(failure(&mut again()), (4, "not_all_rewritten".into()));
    }
    std::fs::remove_dir(world.path("two.bin.lock")).unwrap();
    let done = json(&run(again().args(["--output", "json"])));
    assert_eq!((&done["rotated"], &done["primary"]), (&false.into(), &Value::Null));
    assert_eq!(sealed_with(&world.path("two.bin")), sealed_with(&world.path("one.bin")));
    assert_eq!(key_file(&world, "state/host.key"), key, "no retry has made a key");
    world.hits(&mut world.sealed("two.bin"));
    assert_eq!(failure(&mut world.ours("key", &["rotate", "--no-new-key"])), (2, "wrong_usage".into()));
}

#[test]
fn a_rotation_is_that_of_the_source_which_sealed_the_caches() {
    let world = World::new();
    for file in ["service.key", "other.key"] {
        done(&run(&mut world.ours("key", &["new", "--file", file])));
    }
    done(&run(&mut world.sealed("host.bin")));
    for name in ["one.bin", "two.bin"] {
        let source = format!("file:{}", world.path("service.key").display());
        done(&run(world.sealed(name).args(["--key-source", &source])));
    }
    let keys = || ["state/host.key", "service.key", "other.key"].map(|file| key_file(&world, file));
    let before = keys();
    let mixed = ["rotate", "--rewrite", "one.bin", "host.bin"];
    assert_eq!(failure(&mut world.ours("key", &mixed)), (2, "different_key_sources".into()));
    for source in ["file:other.key", "host"] {
        let other = ["rotate", "--key-source", source, "--rewrite", "one.bin"];
        let refused = run(&mut world.ours("key", &other));
        assert_eq!(code(&refused), 2, "{source}");
        assert!(stderr(&refused).contains("from file"), "{}", stderr(&refused));
    }
    assert_eq!(keys(), before);

    let old = sealed_with(&world.path("one.bin"));
    let rotate = ["rotate", "--rewrite", "one.bin", "two.bin", "--output", "json"];
    let rotated = json(&run(&mut world.ours("key", &rotate)));
    assert_ne!(rotated["primary"], old);
    assert_eq!(rotated["file"], world.path("service.key").to_str().unwrap());
    for name in ["one.bin", "two.bin"] {
        assert_eq!(rotated["primary"], sealed_with(&world.path(name)));
        world.hits(&mut world.sealed(name));
    }
    let after = keys();
    assert_eq!(after[1].matches(PREFIX).count(), 2);
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
}

#[test]
fn a_host_key_in_another_place_rotates_there() {
    let world = World::new();
    done(&run(&mut world.sealed("cache.bin")));
    let mut rotate = world.ours("key", &["rotate", "--rewrite", "cache.bin", "--output", "json"]);
    let rotated = json(&run(rotate.env("STRONGROOM_STATE_DIR", world.path("elsewhere"))));
    assert_eq!(rotated["file"], world.path("state/host.key").to_str().unwrap());
    assert_eq!(rotated["primary"], sealed_with(&world.path("cache.bin")));
    assert!(!world.path("elsewhere").exists());
    world.hits(&mut world.sealed("cache.bin"));
}

#[test]
fn a_list_tells_which_key_a_cache_needs_also_if_it_is_not_at_hand() {
    let world = World::new();
    let credentials = world.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    world.file("credentials/strongroom.key", new_key());
    world.file("phrase", "correct horse\n");
    world.file("wrong", "battery staple\n");
    done(&run(&mut world.ours("key", &["new", "--file", "service.key"])));
    let seal = |name: &str, source: &str| {
        let mut token = world.sealed(name);
        token.current_dir(world.folder.path()).args(["--key-source", source]);
        token.env("CREDENTIALS_DIRECTORY", &credentials).env("STRONGROOM_KEY", new_key());
        done(&run(&mut token));
    };
    for (name, source) in [
        ("host.bin", "host"),
        ("file.bin", "file:service.key"),
        ("env.bin", "env"),
        ("systemd.bin", "systemd"),
        ("phrase.bin", "passphrase-file:phrase"),
    ] {
        seal(name, source);
    }
    for gone in ["state/host.key", "service.key"] {
        std::fs::remove_file(world.path(gone)).unwrap();
    }
    let list = |cache: &str| world.ours("key", &["list", "--cache", cache]);
    for (name, kind, problem, remedy) in [
        ("host.bin", "host", "is lost", "restore the key from a backup"),
        ("file.bin", "file", "service.key", "set STRONGROOM_KEY_FILE"),
        ("env.bin", "env", "STRONGROOM_KEY is not set", "set STRONGROOM_KEY to the keys"),
        ("systemd.bin", "systemd", "CREDENTIALS_DIRECTORY is not set", "LoadCredential="),
        (
            "phrase.bin",
            "passphrase-file",
            "its passphrase file was not named",
            "--key-source passphrase-file:PATH",
        ),
    ] {
        let id = sealed_with(&world.path(name));
        let output = run(list(name).args(["--output", "json"]));
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
        let listed = json(&output);
        let told = &listed["sealed_with"];
        assert_eq!((&told["key_id"], &told["kind"]), (&id.clone().into(), &kind.into()));
        assert_eq!((&told["is_listed"], &listed["keys"]), (&false.into(), &serde_json::json!([])), "{name}");
        assert!(told["problem"].as_str().unwrap().contains(problem), "{told}");

        let output = run(&mut list(name));
        assert_eq!(done(&output), "");
        for said in [&id, &format!("from {kind}"), "which is not to be had: ", problem, remedy] {
            assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
        }
        assert!(!stderr(&output).contains("key new"), "{}", stderr(&output));
    }
    // A source that was named and is not there either.
    for source in ["env", "file:service.key", "passphrase-file:absent", "passphrase-file:wrong"] {
        let listed = json(&run(list("phrase.bin").args(["--key-source", source, "--output", "json"])));
        assert_eq!(listed["sealed_with"]["is_listed"], false, "{source}");
    }
    let right = ["--key-source", "passphrase-file:phrase", "--output", "json"];
    let listed = json(&run(list("phrase.bin").args(right)));
    assert_eq!(listed["sealed_with"]["is_listed"], true, "{listed}");
    assert_eq!(listed["keys"][0]["id"], sealed_with(&world.path("phrase.bin")));
    assert_eq!(names(&world.path("state")), [""; 0], "looking has made no key");

    let refused = run(&mut world.sealed("phrase.bin"));
    assert!(stderr(&refused).contains("not to be had: its passphrase file was not named"));
}

fn key_file(world: &World, name: &str) -> String {
    std::fs::read_to_string(world.path(name)).unwrap()
}

#[test]
fn keys_of_the_environment_rotate_in_the_two_phases_that_are_told() {
    let world = World::new();
    let (old, new) = (new_key(), new_key());
    let token = |keys: &str| {
        let mut token = world.sealed("cache.bin");
        token.env("STRONGROOM_KEY", keys);
        token
    };
    done(&run(&mut token(&old)));
    let refused = run(world.ours("key", &["rotate"]).env("STRONGROOM_KEY", &old));
    assert_eq!((code(&refused), stdout(&refused).as_str()), (2, ""));
    for step in ["key new", "\"$OLD,$NEW\"", "\"$NEW,$OLD\"", "key rotate --key-source env --rewrite"] {
        assert!(stderr(&refused).contains(step), "{step}: {}", stderr(&refused));
    }
    // As it was told: for reading everywhere, then first, then sealed anew, then without the old one.
    let first = sealed_with(&world.path("cache.bin"));
    let handed_out = format!("{old},{new}");
    world.hits(&mut token(&handed_out));
    done(&run(token(&handed_out).arg("--force-refresh")));
    assert_eq!(sealed_with(&world.path("cache.bin")), first);
    let promoted = format!("{new},{old}");
    world.hits(&mut token(&promoted));
    let rewrite = ["rotate", "--key-source", "env", "--rewrite", "cache.bin", "--output", "json"];
    let output = run(world.ours("key", &rewrite).env("STRONGROOM_KEY", &promoted));
    assert_eq!((code(&output), &json(&output)["rotated"]), (0, &false.into()), "{}", stderr(&output));
    assert_eq!(json(&output)["rewritten"][0]["key_id"], sealed_with(&world.path("cache.bin")));
    assert_ne!(sealed_with(&world.path("cache.bin")), first);
    world.hits(&mut token(&new));
    assert_eq!(failure(&mut token(&old)), (4, "unknown_key".into()));
    assert!(!world.path("state").exists(), "no key of the host was made");
}

#[test]
fn a_credential_and_a_passphrase_rotate_where_they_come_from() {
    let world = World::new();
    let credentials = world.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    world.file("credentials/strongroom.key", new_key());
    let refused = run(world.ours("key", &["rotate"]).env("CREDENTIALS_DIRECTORY", &credentials));
    assert_eq!(code(&refused), 2);
    assert!(stderr(&refused).contains("LoadCredential="), "{}", stderr(&refused));

    world.file("phrase", "correct horse\n");
    let source = ["--key-source", "passphrase-file:phrase"];
    let token = || {
        let mut token = world.sealed("cache.bin");
        token.args(source).current_dir(world.folder.path());
        token
    };
    done(&run(&mut token()));
    let refused = run(world.ours("key", &["rotate"]).args(source));
    assert!(code(&refused) == 2 && stderr(&refused).contains("first line"), "{}", stderr(&refused));
    world.file("phrase", "battery staple\ncorrect horse\n");
    let output =
        run(world.ours("key", &["rotate", "--output", "json"]).args(source).args(["--rewrite", "cache.bin"]));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(json(&output)["rewritten"][0]["key_id"], sealed_with(&world.path("cache.bin")));
    world.file("phrase", "battery staple\n");
    world.hits(&mut token());
    assert_eq!(
        failure(world.ours("key", &["export", "--file", "-"]).args(source)),
        (2, "nothing_to_export".into())
    );
    let listed = json(&run(world.ours("key", &["list", "--output", "json"]).args(source)));
    assert_eq!((&listed["keys"], &listed["protection"]), (&serde_json::json!([]), &"provided-key".into()));
}

#[test]
fn keys_move_to_another_host_and_open_there_what_moves_with_them() {
    let world = World::new();
    done(&run(&mut world.sealed("cache.bin")));
    done(&run(&mut world.ours("key", &["rotate"])));
    done(&run(&mut world.ours("key", &["export", "--file", "backup.key"])));
    assert_eq!(mode(&world.path("backup.key")), 0o600);
    assert_eq!(std::fs::read_to_string(world.path("backup.key")).unwrap().matches(PREFIX).count(), 2);
    assert_eq!(
        failure(&mut world.ours("key", &["export", "--file", "backup.key"])),
        (2, "key_file_exists".into())
    );

    // Another host has a key of its own, and adds these for reading.
    let other = || {
        let mut token = world.sealed("cache.bin");
        token.env("STRONGROOM_STATE_DIR", world.path("other"));
        token
    };
    std::fs::rename(world.path("state"), world.path("gone")).unwrap();
    let import = |file: &str| {
        let mut key = world.ours("key", &["import", "--file", file, "--output", "json"]);
        key.env("STRONGROOM_STATE_DIR", world.path("other"));
        key
    };
    let imported = json(&run(&mut import("backup.key")));
    assert_eq!(imported["keys"].as_array().unwrap().len(), 3);
    world.hits(&mut other());
    let own = imported["keys"][0]["id"].as_str().unwrap();
    assert_ne!(own, sealed_with(&world.path("cache.bin")));
    assert_eq!(json(&run(&mut import("backup.key"))), imported, "once is enough");

    // Through pipes no file is in between.
    let text =
        done(&run(&mut world.ours("key", &["export", "--key-source", "file:backup.key", "--file", "-"])));
    let mut child = world
        .ours("key", &["import", "--file", "-"])
        .env("STRONGROOM_STATE_DIR", world.path("third"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    assert!(done(&said).contains("3 keys now"), "{}", stdout(&said));
}

#[test]
fn what_is_imported_is_checked_and_never_repeated() {
    let host = Host::new();
    let import = |file: &str| host.key(&["import", "--file", file]);
    std::fs::write(host.path("nonsense"), "hunter2 is no key\n").unwrap();
    set_mode(&host.path("nonsense"), 0o644);
    let output = run(&mut import("nonsense"));
    assert_eq!((code(&output), stdout(&output).as_str()), (2, ""));
    assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
    assert!(stderr(&output).contains("others can read it"), "{}", stderr(&output));
    assert_eq!(failure(&mut import("absent")), (2, "keys_unreadable".into()));
    assert_eq!(failure(&mut import("-")), (2, "invalid_keys".into()), "nothing is no key");
    assert!(!host.path("state").exists(), "and no key was made for nothing");
    assert_eq!(
        failure(import("nonsense").env("STRONGROOM_KEY", new_key())),
        (2, "key_source_not_writable".into())
    );
}

#[test]
fn keys_reach_a_terminal_only_on_request() {
    let host = Host::new();
    done(&run(&mut host.key(&["rotate"])));
    for arguments in [&["export", "--file", "-"][..], &["new"], &["new", "--output", "json"]] {
        let shown = on_a_terminal(&mut host.key(arguments));
        assert!(shown.contains("--show-secrets") && !shown.contains(PREFIX), "{shown}");
        let shown = on_a_terminal(host.key(arguments).arg("--show-secrets"));
        assert!(shown.contains(PREFIX), "{shown}");
    }
    let shown = on_a_terminal(&mut host.key(&["new", "--file", "new.key"]));
    assert!(shown.contains("the key") && !shown.contains(PREFIX), "{shown}");
}

#[test]
fn an_export_as_json_has_the_keys_as_a_key_file_has_them() {
    let host = Host::new();
    done(&run(&mut host.key(&["rotate"])));
    let exported = json(&run(&mut host.key(&["export", "--file", "-", "--output", "json"])));
    assert_eq!(exported["text"], std::fs::read_to_string(host.path("state/host.key")).unwrap());
    assert_eq!((&exported["key_source"], &exported["keys"]), (&"host".into(), &host.list(&[])["keys"]));
}

#[test]
fn looking_at_keys_changes_no_key_file() {
    let host = Host::new();
    done(&run(&mut host.key(&["rotate"])));
    let path = host.path("state/host.key");
    set_mode(&path, 0o644);
    for arguments in [&["list"][..], &["export", "--file", "-"]] {
        let output = run(&mut host.key(arguments));
        done(&output);
        assert!(stderr(&output).contains("mode 0644"), "{}", stderr(&output));
        assert_eq!(mode(&path), 0o644);
    }
    done(&run(&mut host.key(&["rotate"])));
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_key_file_that_root_has_handed_to_a_group_stays_the_groups() {
    const GROUP: u32 = 65_534;
    let host = Host::new();
    if host.0.path().metadata().unwrap().uid() != 0 {
        return skip("key::a_key_file_that_root_has_handed_to_a_group", "only root can give files away");
    }
    done(&run(&mut host.key(&["new", "--file", "service.key"])));
    done(&run(&mut host.key(&["new", "--file", "other.key"])));
    let path = host.path("service.key");
    chown(&path, None, Some(GROUP)).unwrap();
    // What is for nobody is taken away, what the group needs is not.
    for (before, after) in [(0o640, 0o640), (0o664, 0o640)] {
        set_mode(&path, before);
        let import: &[&str] = &["import", "--file", "other.key"];
        for arguments in [import, &["rotate"]] {
            done(&run(host.key(arguments).args(["--key-source", "file:service.key"])));
            assert_eq!((mode(&path), path.metadata().unwrap().gid()), (after, GROUP), "{before:o}");
        }
    }
    // The same by an access list, beside the group that is root's.
    chown(&path, None, Some(0)).unwrap();
    let list = access_list(GROUP);
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(&path, ACCESS_LIST, &list, flags).is_err() {
        return skip("key::a_key_file_that_root_has_handed_to_a_user", "the file system has no access lists");
    }
    for arguments in [&["list"][..], &["rotate"]] {
        done(&run(host.key(arguments).args(["--key-source", "file:service.key"])));
        let mut found = vec![0; 1000];
        let length = rustix::fs::getxattr(&path, ACCESS_LIST, &mut found[..]).unwrap();
        assert_eq!((mode(&path), &found[..length]), (0o640, &list[..]));
    }
}

const ACCESS_LIST: &str = "system.posix_acl_access";

/// Reading for one more user.
fn access_list(user: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, NOBODY), (2, 4, user), (4, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes().into_iter().chain(permissions.to_le_bytes()).chain(id.to_le_bytes()));
    }
    list
}

#[test]
fn who_is_killed_while_a_key_file_is_made_leaves_no_keys_behind() {
    let host = Host::new();
    let probe = OpenOptions::new().write(true).custom_flags(TMPFILE).open(host.0.path());
    if probe.is_err() {
        return skip("key::who_is_killed_while_a_key_file_is_made", "the file system has no nameless files");
    }
    let new = host.key(&["new", "--file", "new.key"]);
    let mut limited = Command::new("sh");
    // The first byte that it writes into a file ends it.
    limited.args(["-c", "ulimit -c 0; ulimit -f 0; exec \"$0\" key new --file new.key"]);
    limited.arg(new.get_program()).current_dir(host.0.path());
    let status = run(&mut limited).status;
    assert_eq!(status.signal(), Some(rustix::process::Signal::XFSZ.as_raw()), "{status}");
    assert_eq!(names(host.0.path()), [""; 0]);
}

const TMPFILE: i32 = rustix::fs::OFlags::TMPFILE.bits().cast_signed();

#[test]
fn keys_that_a_dead_process_left_beside_a_key_file_are_removed_when_it_is_made() {
    let host = Host::new();
    let stale = host.path(&format!("new.key.{}.tmp", "0a".repeat(16)));
    std::fs::write(&stale, "strongroom-key-1:").unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    OpenOptions::new().write(true).open(&stale).unwrap().set_modified(long_ago).unwrap();
    done(&run(&mut host.key(&["new", "--file", "new.key"])));
    assert_eq!(names(host.0.path()), ["new.key"]);
}
