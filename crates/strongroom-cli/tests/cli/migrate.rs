//! `strongroom migrate`: a cache is kept otherwise and loses nothing; another tool's is read and not touched.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{
    World, code, done, failure, json as object, mode, names, run, set_mode, stderr, stdout,
};

const ENVELOPE: &[u8] = b"\x89STRONG\n";

impl World {
    fn migrate(&self, arguments: &[&str]) -> Command {
        self.ours("migrate", arguments)
    }

    fn migrated(&self, arguments: &[&str]) -> Value {
        let output = run(self.migrate(arguments).args(["--output", "json"]));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        object(&output)
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(self.cache()).unwrap()
    }

    /// What lies beside the cache, but for locks and what is remembered.
    fn files(&self) -> Vec<String> {
        let mut names = names(self.folder.path());
        let is_side_file =
            |name: &str| [".lock", ".flight", ".lockfile", ".state"].iter().any(|end| name.ends_with(end));
        names.retain(|name| !is_side_file(name));
        names
    }

    fn inspected(&self, cache: &str) -> Vec<Value> {
        let output =
            run(self.ours("inspect", &["--cache", cache, "--show-secrets", "--output", "json"]).arg("-v"));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        object(&output).as_array().unwrap().clone()
    }

    fn secrets(&self, cache: &str) -> Vec<String> {
        let entries = self.inspected(cache);
        let secrets = entries.iter().filter_map(|entry| Some(entry["secret"].as_str()?.to_owned()));
        secrets.collect()
    }
}

#[test]
fn a_plain_cache_is_sealed_and_opened_again_and_the_token_found_each_time() {
    let world = World::new();
    done(&run(&mut world.token()));
    let before = world.content();
    let migrated = world.migrated(&["--cache", "token_cache.bin", "--to", "sealed"]);
    let location = world.cache();
    let expected = json!({
        "from": {"location": location, "persistence": "file", "key_source": null, "protection": "none"},
        "to": {"location": location, "persistence": "sealed", "key_source": "host", "protection": "host-file"},
        "kept": null,
    });
    assert_eq!(migrated, expected);
    assert!(world.content().starts_with(ENVELOPE) && mode(&world.cache()) == 0o600);
    world.hits(&mut world.sealed("token_cache.bin"));
    assert_eq!(failure(&mut world.token()), (4, "not_a_token_cache".into()), "not as a plain file any more");

    let said = run(&mut world.migrate(&["--cache", "token_cache.bin", "--to", "file"]));
    let location = world.cache().display().to_string();
    let expected = format!(
        "{location}: file (protection none), was sealed with a key from host (protection host-file)\n"
    );
    assert_eq!(done(&said), expected);
    assert_eq!(world.content(), before, "byte for byte");
    world.hits(&mut world.token());
    assert_eq!(failure(&mut world.sealed("token_cache.bin")), (4, "not_sealed".into()));
    assert_eq!(world.files(), ["state", "sts", "token_cache.bin"]);
}

#[test]
fn without_a_kind_it_becomes_what_the_machine_does_best() {
    let world = World::new();
    done(&run(&mut world.token()));
    let migrated = run(world.migrate(&["--output", "json"]).env("STRONGROOM_CACHE", world.cache()));
    assert_eq!(object(&migrated)["to"]["persistence"], "sealed", "{}", stderr(&migrated));
    world.hits(&mut world.sealed("token_cache.bin"));
}

#[test]
fn a_sealed_cache_gets_another_key() {
    let world = World::new();
    done(&run(&mut world.sealed("token_cache.bin")));
    done(&run(&mut world.ours("key", &["new", "--file", "own.key"])));
    let cache = ["--cache", "token_cache.bin", "--to", "sealed"];
    let to = world.migrated(&[&cache[..], &["--key-source", "file:own.key"]].concat())["to"].clone();
    let own = format!("file:{}", world.path("own.key").display());
    assert_eq!((&to["key_source"], &to["protection"]), (&own.into(), &"provided-key".into()));
    std::fs::remove_dir_all(world.path("state")).unwrap();
    world.hits(&mut world.sealed("token_cache.bin"));

    world.file("phrase", "correct horse");
    world.migrated(&[&cache[..], &["--key-source", "passphrase-file:phrase"]].concat());
    // Where the passphrase is, the cache cannot tell.
    let back = [&cache[..], &["--key-source", "host"]].concat();
    let before = world.content();
    assert_eq!(failure(&mut world.migrate(&back)), (4, "unknown_key".into()));
    assert_eq!(world.content(), before);
    world.migrated(&[&back[..], &["--from-key-source", "passphrase-file:phrase"]].concat());
    world.hits(&mut world.sealed("token_cache.bin"));
}

#[test]
fn the_old_cache_is_kept_where_that_is_wanted() {
    let world = World::new();
    done(&run(&mut world.token()));
    let before = world.content();
    let migrated = world.migrated(&["--cache", "token_cache.bin", "--to", "sealed", "--keep"]);
    let kept = PathBuf::from(migrated["kept"].as_str().unwrap());
    assert!(kept.display().to_string().contains("token_cache.bin.old-"), "{}", kept.display());
    assert_eq!((std::fs::read(&kept).unwrap(), mode(&kept)), (before, 0o600));

    let moved = ["--cache", "token_cache.bin", "--to", "sealed", "--new-location", "new/cache.bin"];
    let output = run(world.migrate(&moved).arg("--keep"));
    assert!(stderr(&output).contains("token_cache.bin"), "{}", stderr(&output));
    assert!(done(&output).ends_with(&format!("at {}\n", world.cache().display())));
    world.hits(&mut world.sealed("new/cache.bin"));
    world.hits(&mut world.sealed("token_cache.bin"));
    assert_eq!(mode(&world.path("new")), 0o700);
    assert_eq!(failure(&mut world.migrate(&moved)), (2, "location_in_use".into()));

    let back = ["--cache", "new/cache.bin", "--new-location", "back.bin", "--to", "file"];
    assert_eq!(world.migrated(&back)["kept"], Value::Null);
    assert!(!world.path("new/cache.bin").exists());
    world.hits(&mut world.token_with(&world.ready().config_file, &world.path("back.bin")));
}

#[test]
fn each_of_several_within_a_second_is_kept() {
    let world = World::new();
    done(&run(&mut world.token()));
    let mut kept = Vec::new();
    for to in ["sealed", "file", "sealed", "file"] {
        let before = world.content();
        let migrated = world.migrated(&["--cache", "token_cache.bin", "--to", to, "--keep"]);
        kept.push((PathBuf::from(migrated["kept"].as_str().unwrap()), before));
    }
    for (path, content) in kept {
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
}

#[test]
fn who_only_moves_a_cache_keeps_its_kind_and_its_key() {
    let world = World::new();
    done(&run(&mut world.token()));
    let moved = world.migrated(&["--cache", "token_cache.bin", "--new-location", "plain.bin"]);
    assert_eq!(moved["to"]["persistence"], "file");
    done(&run(&mut world.ours("key", &["new", "--file", "own.key"])));
    world.migrated(&["--cache", "plain.bin", "--to", "sealed", "--key-source", "file:own.key"]);
    let moved = world.migrated(&["--cache", "plain.bin", "--new-location", "a.bin"]);
    for name in ["persistence", "key_source", "protection"] {
        assert_eq!(moved["to"][name], moved["from"][name], "{moved}");
    }
    assert_eq!(moved["to"]["protection"], "provided-key");
    world.file("phrase", "correct horse");
    world.migrated(&["--cache", "a.bin", "--to", "sealed", "--key-source", "passphrase-file:phrase"]);
    let opens = ["--from-key-source", "passphrase-file:phrase"];
    let moved = world.migrated(&[&["--cache", "a.bin", "--new-location", "b.bin"], &opens[..]].concat());
    assert!(moved["to"]["key_source"].as_str().unwrap().starts_with("passphrase-file:"), "{moved}");
    let to_sealed = ["--cache", "b.bin", "--new-location", "c.bin", "--to", "sealed"];
    let moved = world.migrated(&[&to_sealed[..], &opens].concat());
    assert_eq!(moved["to"]["key_source"], "host", "a kind that is given is as that of a new cache");
    world.hits(&mut world.sealed("c.bin"));
}

#[test]
fn what_cannot_be_done_leaves_everything_as_it_was() {
    let world = World::new();
    let to_sealed = |arguments: &[&str]| {
        failure(world.migrate(&["--cache", "token_cache.bin", "--to", "sealed"]).args(arguments))
    };
    assert_eq!(to_sealed(&[]), (2, "no_cache".into()));
    assert_eq!(world.files(), ["sts"], "not even a key was made");
    done(&run(&mut world.token()));
    world.file("other.bin", "{\"AccessToken\":{}}");
    let before = (world.content(), world.files());
    for (arguments, expected) in [
        (&["--key-source", "file:absent.key"][..], (2, "no_key")),
        (&["--key-source", "env"], (2, "no_key")),
        (&["--min-protection", "os-store", "--key-source", "host"], (4, "protection_too_low")),
        (&["--min-protection", "provided-key", "--key-source", "host", "--keep"], (4, "protection_too_low")),
        (&["--new-location", "other.bin"], (2, "location_in_use")),
        (&["--cache", "redis://h/0"], (2, "wrong_usage")),
    ] {
        assert_eq!(to_sealed(arguments), (expected.0, expected.1.to_owned()), "{arguments:?}");
    }
    let locked = world.file("token_cache.bin.lockfile", format!("{} some-daemon", std::process::id()));
    let held = std::fs::File::options().read(true).write(true).open(&locked).unwrap();
    held.lock().unwrap();
    assert_eq!(to_sealed(&["--lock-timeout", "0.2"]), (4, "locked".into()));
    drop(held);
    std::fs::remove_file(locked).unwrap();
    assert_eq!(world.content(), before.0);
    let mut files = world.files();
    files.retain(|name| name != "state");
    assert_eq!(files, before.1);

    let damaged = world.content()[..20].to_vec();
    world.file("token_cache.bin", &damaged);
    assert_eq!(to_sealed(&[]), (4, "damaged".into()), "mending is for who uses it");
    assert_eq!(to_sealed(&["--new-location", "new.bin"]), (4, "damaged".into()));
    assert_eq!(world.content(), damaged);
    let config = r#"{"client_id": "c", "client_secret": "s"}"#;
    world.file("token_cache.bin", config);
    assert_eq!(to_sealed(&[]), (4, "not_a_token_cache".into()));
    assert_eq!(world.content(), config.as_bytes());
}

#[test]
fn a_cache_is_never_moved_onto_its_own_side_files() {
    let world = World::new();
    done(&run(&mut world.token()));
    let before = world.content();
    for (to, suffix) in [("file", ".state"), ("sealed", ".state"), ("file", ".lock"), ("sealed", ".lockfile")]
    {
        let new = format!("token_cache.bin{suffix}");
        let _ = std::fs::remove_file(world.path(&new));
        let migrate = ["--cache", "token_cache.bin", "--to", to, "--new-location", &new];
        assert_eq!(failure(&mut world.migrate(&migrate)), (2, "location_in_use".into()), "{to} {suffix}");
        assert_eq!(world.content(), before);
    }
    world.hits(&mut world.token());
}

#[test]
fn behind_a_link_what_is_kept_is_found_by_who_looks_for_it() {
    let world = World::new();
    std::fs::create_dir(world.path("real")).unwrap();
    std::os::unix::fs::symlink("real/cache.bin", world.path("link.bin")).unwrap();
    done(&run(&mut world.token_with(&world.ready().config_file, &world.path("link.bin"))));
    let kept = world.migrated(&["--cache", "link.bin", "--to", "sealed", "--keep"])["kept"].clone();
    let kept = Path::new(kept.as_str().unwrap()).canonicalize().unwrap();
    assert_eq!(kept.parent().unwrap(), world.path("real").canonicalize().unwrap());
    let name = kept.file_name().unwrap().to_str().unwrap();
    let doctor = run(&mut world.ours("doctor", &["--cache", "link.bin"]));
    assert!(stdout(&doctor).contains(name), "{}", stdout(&doctor));
    let purge = run(&mut world.ours("purge", &["--cache", "link.bin", "--all", "--yes"]));
    assert!(stderr(&purge).contains(name), "{}", stderr(&purge));
}

#[test]
fn a_least_protection_is_accepted_where_it_is_met() {
    let world = World::new();
    done(&run(&mut world.token()));
    done(&run(&mut world.ours("key", &["new", "--file", "own.key"])));
    for (source, level) in [("host", "none"), ("host", "host-file"), ("file:own.key", "provided-key")] {
        let to = ["--cache", "token_cache.bin", "--to", "sealed", "--key-source", source];
        world.migrated(&[&to[..], &["--min-protection", level]].concat());
        world.hits(world.sealed("token_cache.bin").args(["--min-protection", level]));
    }
    let plain = ["--cache", "token_cache.bin", "--to", "file", "--min-protection", "host-file"];
    assert_eq!(failure(&mut world.migrate(&plain)), (4, "protection_too_low".into()));
}

#[test]
fn what_daemons_write_meanwhile_is_not_lost() {
    const DAEMONS: usize = 4;
    const ROUNDS: usize = 3;

    let world = World::new();
    done(&run(&mut world.token()));
    let migrating = AtomicBool::new(true);
    // Each way of keeping the cache has a daemon that uses it only so, and is refused while it is kept otherwise.
    let daemon = |n: usize| {
        let mut stored = Vec::new();
        for k in 0.. {
            let mut token = match n % 2 {
                0 => world.token(),
                _ => world.sealed("token_cache.bin"),
            };
            let scope = format!("api://daemon{n}-{k}/.default");
            let output = run(token.args(["--output", "json", "--scope", &scope]));
            match code(&output) {
                0 if object(&output)["persisted"] == true => stored.push(scope),
                0 | 4 => {}
                other => panic!("{other}: {}{}", stdout(&output), stderr(&output)),
            }
            if !migrating.load(Ordering::Relaxed) && stored.len() > 1 {
                return stored;
            }
        }
        unreachable!()
    };
    let stored: Vec<String> = std::thread::scope(|threads| {
        let daemons: Vec<_> = (0..DAEMONS).map(|n| threads.spawn(move || daemon(n))).collect();
        for _ in 0..ROUNDS {
            for kind in ["sealed", "file"] {
                done(&run(&mut world.migrate(&["--cache", "token_cache.bin", "--to", kind])));
            }
        }
        // Let those finish that want it plain, then the others.
        migrating.store(false, Ordering::Relaxed);
        let (mut plain, mut sealed) = (Vec::new(), Vec::new());
        for (n, daemon) in daemons.into_iter().enumerate() {
            if n % 2 == 0 { plain.push(daemon) } else { sealed.push(daemon) }
        }
        let mut stored: Vec<String> = plain.into_iter().flat_map(|daemon| daemon.join().unwrap()).collect();
        done(&run(&mut world.migrate(&["--cache", "token_cache.bin", "--to", "sealed"])));
        stored.extend(sealed.into_iter().flat_map(|daemon| daemon.join().unwrap()));
        stored
    });
    assert!(stored.len() >= 2 * DAEMONS);
    let targets: Vec<String> =
        world.inspected("token_cache.bin").iter().map(|entry| entry["target"].to_string()).collect();
    for scope in &stored {
        assert!(targets.contains(&format!("\"{scope}\"")), "{scope} is gone");
    }
    // What is remembered beside it may be, by a daemon that came when only one of the two was in its form.
    let is_moved = |name: &String| name.contains("token_cache.bin.corrupt-");
    assert!(!world.files().iter().any(is_moved), "{:?}", world.files());
}

/// A home folder of whom another tool has signed in.
struct Tool {
    world: World,
}

/// What is known of a file of another tool: nothing of it may change.
fn witness(folder: &Path) -> Vec<(PathBuf, u32, i64, i64, u64, Vec<u8>)> {
    let mut seen = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let found = path.metadata().unwrap();
            if found.is_dir() {
                folders.push(path.clone());
            }
            let content = std::fs::read(&path).unwrap_or_default();
            seen.push((path, found.mode(), found.mtime(), found.mtime_nsec(), found.ino(), content));
        }
    }
    seen.sort();
    seen
}

impl Tool {
    fn new() -> Self {
        let world = World::new();
        std::fs::create_dir(world.path("home")).unwrap();
        Self { world }
    }

    fn home(&self, name: &str) -> PathBuf {
        self.world.path("home").join(name)
    }

    /// Puts what the tool wrote into the home, with the permissions that it chooses.
    fn wrote(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.home(name).parent().unwrap()).unwrap();
        self.world.file(&format!("home/{name}"), content);
        set_mode(&self.home(name), 0o644);
    }

    /// Nothing in the home is touched by it.
    fn import(&self, tool: &str, arguments: &[&str]) -> std::process::Output {
        let before = witness(&self.world.path("home"));
        let mut migrate = self.world.migrate(&["--cache", "cache.bin", "--import", tool]);
        migrate.args(arguments).env("HOME", self.world.path("home"));
        for name in ["XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "AZURE_CONFIG_DIR"] {
            migrate.env_remove(name);
        }
        let output = run(migrate.env("XDG_RUNTIME_DIR", self.world.path("no-session")));
        assert_eq!(witness(&self.world.path("home")), before, "{}", stderr(&output));
        output
    }

    fn imported(&self, tool: &str, arguments: &[&str]) -> Value {
        let output = self.import(tool, &[arguments, &["--output", "json"]].concat());
        assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
        object(&output)
    }

    fn refused(&self, tool: &str, arguments: &[&str]) -> (i32, String) {
        let output = self.import(tool, &[arguments, &["--output", "json"]].concat());
        (code(&output), object(&output)["error"].as_str().unwrap_or_default().to_owned())
    }
}

/// Unix seconds.
fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

/// A user who has signed in by Python, of whom a token is good still and another has expired.
fn signed_in() -> String {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../strongroom/tests/data");
    let text = std::fs::read_to_string(data.join("generated/msal-python-1.39.0/code.json")).unwrap();
    let mut document: Value = serde_json::from_str(&text).unwrap();
    let tokens = document["AccessToken"].as_object_mut().unwrap();
    let (key, token) = tokens.iter().next().map(|(key, token)| (key.clone(), token.clone())).unwrap();
    let expires_on = |seconds: i64| (now() + seconds).to_string();
    for (name, expires_on) in [("good", expires_on(3600)), ("expired", expires_on(-60))] {
        let mut token = token.clone();
        token["expires_on"] = expires_on.into();
        token["target"] = format!("scope-{name}").into();
        token["secret"] = format!("secret-{name}").into();
        tokens.insert(format!("{key}{name}"), token);
    }
    tokens.remove(&key);
    tokens.insert("unreadable".into(), json!({"secret": 5}));
    document.to_string()
}

#[test]
fn the_azure_clis_tokens_are_taken_over_and_its_cache_stays_as_it_is() {
    let tool = Tool::new();
    tool.wrote(".azure/msal_token_cache.json", signed_in());
    tool.wrote(".azure/service_principal_entries.json", r#"[{"client_secret":"never read"}]"#);
    done(&run(&mut tool.world.sealed("cache.bin")));
    let own = tool.world.secrets("cache.bin");
    let imported = tool.imported("azure-cli", &[]);
    let from = json!([{
        "location": tool.home(".azure/msal_token_cache.json"),
        "imported": 5, "kept": 0, "expired": 1, "implausible": 0, "unreadable": 1,
    }]);
    assert_eq!((&imported["import"], &imported["from"]), (&"azure-cli".into(), &from));
    assert_eq!(imported["cache"]["persistence"], "sealed");
    assert_eq!(imported["cache"]["location"], tool.world.path("cache.bin").to_str().unwrap());
    let secrets = tool.world.secrets("cache.bin");
    assert!(own.iter().all(|secret| secrets.contains(secret)), "what was there is there still");
    assert!(secrets.contains(&"secret-good".into()) && !secrets.contains(&"secret-expired".into()));
    let kinds: Vec<String> =
        tool.world.inspected("cache.bin").iter().map(|entry| entry["credential_type"].to_string()).collect();
    for kind in ["AccessToken", "RefreshToken", "IdToken", "Account", "AppMetadata"] {
        assert!(kinds.contains(&format!("\"{kind}\"")), "{kind}");
    }
    tool.world.hits(&mut tool.world.sealed("cache.bin"));

    // A second time nothing is new, and what is good is not replaced by what claims to last longer.
    let again = tool.imported("azure-cli", &[]);
    assert_eq!((&again["from"][0]["imported"], &again["from"][0]["kept"]), (&0.into(), &5.into()));
    tool.wrote(".azure/msal_token_cache.json", with_good_token(7200, "secret-newer"));
    assert_eq!(tool.imported("azure-cli", &[])["from"][0]["imported"], 0);
    assert!(!tool.world.secrets("cache.bin").contains(&"secret-newer".into()));

    // Its folder may be another one.
    tool.wrote("elsewhere/msal_token_cache.json", signed_in());
    let elsewhere = tool.home("elsewhere").display().to_string();
    let said = tool.import("azure-cli", &["--from", &elsewhere]);
    assert!(
        stderr(&said).contains("0 taken over, 5 known already, 1 expired, 1 unreadable"),
        "{}",
        stderr(&said)
    );
    assert_eq!(
        done(&said),
        format!("{}: sealed, protection host-file\n", tool.world.path("cache.bin").display())
    );
}

/// [`signed_in`], but the good token lasts this many seconds and is this one.
fn with_good_token(seconds: i64, secret: &str) -> String {
    let mut document: Value = serde_json::from_str(&signed_in()).unwrap();
    for (key, token) in document["AccessToken"].as_object_mut().unwrap() {
        if key.ends_with("good") {
            token["expires_on"] = (now() + seconds).to_string().into();
            token["cached_at"] = now().to_string().into();
            token["secret"] = secret.into();
        }
    }
    document.to_string()
}

#[test]
fn a_token_takes_the_place_of_one_that_has_expired_and_none_that_lasts_for_years() {
    let tool = Tool::new();
    tool.wrote(".azure/msal_token_cache.json", with_good_token(31 * 365 * 86_400, "secret-planted"));
    let from = tool.imported("azure-cli", &["--to", "file"])["from"][0].clone();
    assert_eq!((&from["imported"], &from["implausible"]), (&4.into(), &1.into()));
    assert!(!tool.world.secrets("cache.bin").contains(&"secret-planted".into()));

    let ours = with_good_token(-60, "secret-ours");
    tool.world.file("cache.bin", ours);
    tool.wrote(".azure/msal_token_cache.json", with_good_token(3600, "secret-newer"));
    assert_eq!(tool.imported("azure-cli", &[])["from"][0]["imported"], 1);
    let secrets = tool.world.secrets("cache.bin");
    assert!(secrets.contains(&"secret-newer".into()) && !secrets.contains(&"secret-ours".into()));
}

#[test]
fn a_refresh_token_from_the_future_takes_the_place_of_none() {
    let tool = Tool::new();
    let with_refresh_token = |modified: i64, secret: &str| {
        let mut document: Value = serde_json::from_str(&signed_in()).unwrap();
        for token in document["RefreshToken"].as_object_mut().unwrap().values_mut() {
            token["last_modification_time"] = modified.to_string().into();
            token["secret"] = secret.into();
        }
        document.to_string()
    };
    // Ours was written by a clock that was ahead, too: neither is known to be newer.
    tool.world.file("cache.bin", with_refresh_token(now() + 86_400, "refresh-ours"));
    tool.wrote(".azure/msal_token_cache.json", with_refresh_token(4_000_000_000, "refresh-planted"));
    assert_eq!(tool.imported("azure-cli", &[])["from"][0]["imported"], 0);
    assert!(!tool.world.secrets("cache.bin").contains(&"refresh-planted".into()));

    tool.world.file("cache.bin", with_refresh_token(now() - 86_400, "refresh-ours"));
    tool.wrote(".azure/msal_token_cache.json", with_refresh_token(now() - 60, "refresh-newer"));
    assert_eq!(tool.imported("azure-cli", &[])["from"][0]["imported"], 1);
    assert!(tool.world.secrets("cache.bin").contains(&"refresh-newer".into()));
}

#[test]
fn what_was_removed_and_is_imported_again_stays() {
    let tool = Tool::new();
    tool.wrote(".azure/msal_token_cache.json", signed_in());
    assert_eq!(tool.imported("azure-cli", &["--to", "file"])["from"][0]["imported"], 5);
    done(&run(&mut tool.world.ours("purge", &["--cache", "cache.bin", "--all", "--yes"])));
    assert_eq!(tool.imported("azure-cli", &["--to", "file"])["from"][0]["imported"], 5);
    // Whoever looks for a token removes again what a program has written back.
    let cache = tool.world.path("cache.bin");
    done(&run(&mut tool.world.token_with(&tool.world.ready().config_file, &cache)));
    let kinds: Vec<String> =
        tool.world.inspected("cache.bin").iter().map(|entry| entry["credential_type"].to_string()).collect();
    for kind in ["RefreshToken", "IdToken", "Account"] {
        assert!(kinds.contains(&format!("\"{kind}\"")), "{kind} is gone: {kinds:?}");
    }
    assert!(tool.world.secrets("cache.bin").contains(&"secret-good".into()));
}

#[test]
fn a_new_cache_is_kept_as_it_is_asked_for_and_an_old_one_as_it_is() {
    let tool = Tool::new();
    tool.wrote(".azure/msal_token_cache.json", signed_in());
    assert_eq!(tool.imported("azure-cli", &["--to", "file"])["cache"]["persistence"], "file");
    assert!(tool.world.secrets("cache.bin").contains(&"secret-good".into()));
    assert_eq!(tool.imported("azure-cli", &[])["cache"]["persistence"], "file");
    assert_eq!(tool.refused("azure-cli", &["--to", "sealed"]), (4, "not_sealed".into()));
    assert_eq!(
        tool.refused("azure-cli", &["--min-protection", "host-file"]),
        (4, "protection_too_low".into())
    );
    std::fs::remove_file(tool.world.path("cache.bin")).unwrap();
    let sealed = tool.imported("azure-cli", &["--min-protection", "host-file"]);
    assert_eq!(sealed["cache"]["key_source"], "host");
}

#[test]
fn where_there_is_nothing_to_import_no_cache_is_made() {
    let tool = Tool::new();
    assert_eq!(tool.refused("azure-cli", &[]), (2, "nothing_to_import".into()));
    tool.wrote(".azure/msal_token_cache.json", "{}");
    assert_eq!(tool.refused("azure-cli", &[]), (2, "nothing_to_import".into()));
    assert_eq!(tool.refused("azidentity-go", &[]), (2, "nothing_to_import".into()));
    for (content, expected) in [
        (&b"\x01\x00\x00\x00\xd0\x8c\x9d\xdf\x01\x15\xd1\x11 sealed"[..], "needs_windows"),
        (b"{\"AccessToken\":", "damaged"),
        (b"garbage", "not_a_token_cache"),
    ] {
        tool.wrote(".azure/msal_token_cache.json", content);
        assert_eq!(tool.refused("azure-cli", &[]), (4, expected.into()));
    }
    assert_eq!(failure(&mut tool.world.migrate(&["--import", "pocket"])), (2, "wrong_usage".into()));
    assert!(!tool.world.path("cache.bin").exists() && !tool.world.path("state").exists());
}

#[test]
fn what_azure_identity_had_to_keep_in_plain_text_is_found_without_a_session() {
    for name in ["azure-identity-py", "azure-identity-js"] {
        let tool = Tool::new();
        assert_eq!(tool.refused(name, &[]), (4, "no_session_bus".into()));
        tool.wrote(".IdentityService/msal.cache.nocae", signed_in());
        tool.wrote(".IdentityService/msal.cache.cae", signed_in().replace("secret-good", "secret-cae"));
        let output = tool.import(name, &[]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        for said in ["msal.cache.nocae: 5 taken over", "no session bus", "msal.cache.cae"] {
            assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
        }
        let secrets = tool.world.secrets("cache.bin");
        assert!(secrets.contains(&"secret-good".into()) && !secrets.contains(&"secret-cae".into()));
        let cae = tool.home(".IdentityService/msal.cache.cae").display().to_string();
        assert_eq!(tool.imported(name, &["--from", &cae])["from"][0]["location"], cae);
    }
}

#[test]
fn what_go_sealed_with_a_key_that_is_gone_is_told_so() {
    let tool = Tool::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../strongroom/tests/data");
    let sealed = std::fs::read(data.join("sealed-azidentity-go-0.4.0/msal.cache")).unwrap();
    // Of this name there is no key in any keyring.
    tool.wrote("strongroom-test-no-such-key", &sealed);
    let path = tool.home("strongroom-test-no-such-key").display().to_string();
    let (exit, error) = tool.refused("azidentity-go", &["--from", &path]);
    assert_eq!(exit, 4);
    assert!(["tool_key_gone", "tool_cache_not_opened"].contains(&error.as_str()), "{error}");
    tool.wrote(".cache/.IdentityService/msal.cache", "no JWE");
    assert_eq!(tool.refused("azidentity-go", &[]), (4, "tool_cache_not_opened".into()));
}

/// Into the Secret Service and back. `./test keyring` installs what these need.
mod secret_service {
    use super::*;
    use crate::secret_service::Session;

    #[test]
    fn a_cache_goes_into_the_keyring_and_comes_back() {
        let Some(session) = Session::start("a_cache_goes_into_the_keyring_and_comes_back") else { return };
        let world = World::new();
        done(&run(&mut world.token()));
        let before = world.content();
        let migrate = |arguments: &[&str]| {
            let mut migrate = world.migrate(arguments);
            session.join(&mut migrate);
            migrate
        };
        let there = ["--cache", "token_cache.bin", "--to", "secret-service"];
        assert_eq!(failure(&mut migrate(&there)), (2, "new_location_needed".into()));
        let moved = object(&run(migrate(&there).args(["--new-location", "signal.bin", "--output", "json"])));
        assert_eq!(
            (&moved["to"]["persistence"], &moved["to"]["protection"]),
            (&"secret-service".into(), &"os-store".into())
        );
        assert!(!world.cache().exists());
        assert_eq!(std::fs::read(world.path("signal.bin")).unwrap(), b"");
        let mut token = world.sealed("signal.bin");
        world.hits(session.join(token.args(["--persistence", "secret-service"])));

        // Without the session nothing is taken for an empty cache.
        let back = ["--cache", "signal.bin", "--to", "file", "--new-location", "token_cache.bin"];
        let mut alone = world.migrate(&back);
        alone.env("XDG_RUNTIME_DIR", world.path("no-session"));
        assert_eq!(failure(&mut alone), (2, "no_cache".into()));
        let mut alone = world.migrate(&back);
        alone.args(["--from-persistence", "secret-service"]).env("XDG_RUNTIME_DIR", world.path("no-session"));
        assert_eq!(failure(&mut alone), (4, "no_session_bus".into()));

        let moved = object(&run(migrate(&back).args(["--output", "json"])));
        assert_eq!(moved["from"]["persistence"], "secret-service", "{moved}");
        assert_eq!(world.content(), before);
        world.hits(&mut world.token());
    }

    #[test]
    fn a_cache_is_sealed_anew_for_use_without_a_session() {
        let Some(session) = Session::start("a_cache_is_sealed_anew_for_use_without_a_session") else {
            return;
        };
        let world = World::new();
        let first = run(session.join(world.sealed("cache.bin").args(["--output", "json"])));
        assert_eq!(object(&first)["cache"]["protection"], "os-store", "{}", stderr(&first));
        let alone = || {
            let mut token = world.sealed("cache.bin");
            token.env("XDG_RUNTIME_DIR", world.path("no-session"));
            token
        };
        assert_eq!(failure(&mut alone()), (4, "unknown_key".into()));
        let mut migrate = world.migrate(&["--cache", "cache.bin", "--to", "sealed", "--key-source", "host"]);
        done(&run(session.join(&mut migrate)));
        world.hits(&mut alone());
        world.hits(session.join(&mut world.sealed("cache.bin")));
    }
}
