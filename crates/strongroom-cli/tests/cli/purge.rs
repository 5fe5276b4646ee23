//! `strongroom purge`: what is named goes and stays gone, nothing else does.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

use crate::support::{
    World, bare, code, command, failure, json as parsed, mode, names, run, set_mode, stderr, stdout,
};

/// A folder with one cache in it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With a plain cache of two applications and two users.
    fn with_cache() -> Self {
        let place = Self::new();
        place.write(&document().to_string());
        place
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("token_cache.bin")
    }

    fn write(&self, content: &str) {
        std::fs::write(self.cache(), content).unwrap();
        set_mode(&self.cache(), 0o600);
    }

    fn purge(&self, arguments: &[&str]) -> Command {
        let mut purge = command("purge");
        purge.arg("--cache").arg(self.cache()).args(arguments);
        purge
    }

    fn purged(&self, arguments: &[&str]) -> Value {
        let output = run(self.purge(arguments).args(["--output", "json"]));
        assert_eq!(code(&output), 0, "{}{}", stdout(&output), stderr(&output));
        parsed(&output)
    }

    fn content(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.cache()).unwrap()).unwrap()
    }

    fn keys(&self, section: &str) -> Vec<String> {
        self.content()[section]
            .as_object()
            .map(|section| section.keys().cloned().collect())
            .unwrap_or_default()
    }
}

fn document() -> Value {
    let token = |home: &str, client: &str, expires_on: &str| {
        json!({
            "credential_type": "AccessToken", "secret": format!("secret-of-{client}-{home}"), "home_account_id": home,
            "environment": "login.windows.net", "client_id": client, "realm": "r", "target": "t",
            "token_type": "Bearer", "cached_at": "1", "expires_on": expires_on,
        })
    };
    let account = |home: &str| {
        json!({
            "home_account_id": home, "environment": "login.microsoftonline.com", "realm": "r",
            "local_account_id": "l", "username": "n", "authority_type": "MSSTS",
        })
    };
    json!({
        "AccessToken": {
            "own": token("", "one", "4000000000"),
            "old": token("", "two", "2"),
            "u-one": token("u.t", "one", "4000000000"),
            "v-two": token("v.t", "two", "4000000000"),
            "odd": {"client_id": "one", "secret": 5},
        },
        "Account": {"u": account("u.t"), "v": account("v.t")},
        "Unknown": {"kept": [1, 2]},
    })
}

#[test]
fn exactly_one_thing_has_to_be_named() {
    for arguments in [&[][..], &["--all", "--expired"], &["--client", "c", "--account", "a"]] {
        let output = run(bare().arg("purge").args(arguments));
        assert_eq!(code(&output), 2, "{arguments:?}");
    }
}

#[test]
fn an_application_goes_and_the_other_stays() {
    let place = Place::with_cache();
    let removed = place.purged(&["--client", "ONE"]);
    assert_eq!(
        removed["removed"],
        json!({"AccessToken": 2, "RefreshToken": 0, "IdToken": 0, "Account": 1, "AppMetadata": 0, "unreadable": 1})
    );
    assert_eq!(removed["location"], place.cache().to_str().unwrap());
    assert_eq!(
        (place.keys("AccessToken"), place.keys("Account")),
        (["old", "v-two"].map(Into::into).into(), vec!["v".into()])
    );
    assert_eq!(place.content()["Unknown"], document()["Unknown"]);
}

#[test]
fn a_user_goes_under_every_alias_and_what_has_expired_goes_by_itself() {
    let place = Place::with_cache();
    let output = run(&mut place.purge(&["--account", "U.T"]));
    let expected = format!("removed from {}: 1 access token, 1 account\n", place.cache().display());
    assert_eq!((code(&output), stdout(&output)), (0, expected));
    assert_eq!(place.keys("Account"), ["v"]);
    assert_eq!(place.purged(&["--expired"])["removed"]["AccessToken"], 1);
    assert_eq!(place.keys("AccessToken"), ["odd", "own", "v-two"]);
    let output = run(&mut place.purge(&["--expired"]));
    assert!(stdout(&output).ends_with(": nothing\n"), "{}", stdout(&output));
    let output = run(&mut place.purge(&["--account", "n@contoso.com"]));
    assert!(stderr(&output).contains("home_account_id"), "{}", stderr(&output));
}

#[test]
fn of_everything_an_empty_cache_is_left_and_what_was_set_aside_is_named() {
    let place = Place::with_cache();
    let aside = place.folder.path().join("token_cache.bin.corrupt-20260101T000000Z");
    std::fs::write(&aside, "{").unwrap();
    let removed = place.purged(&["--all", "--yes"]);
    assert_eq!(
        (&removed["removed"]["AccessToken"], &removed["removed"]["unreadable"]),
        (&4.into(), &1.into())
    );
    assert_eq!(removed["set_aside"], json!([aside.to_str().unwrap()]));
    assert_eq!(place.content(), json!({}));
    let left = names(place.folder.path());
    for name in left.iter().filter(|name| !name.contains("corrupt")) {
        let content = std::fs::read_to_string(place.folder.path().join(name)).unwrap();
        assert!(!content.contains("secret-of"), "{name}");
        assert_eq!(mode(&place.folder.path().join(name)), 0o600, "{name}");
    }
    let output = run(&mut place.purge(&["--all", "--yes"]));
    assert!(stderr(&output).contains("is still there and may hold tokens"));
    assert_eq!(names(place.folder.path()), left);
}

#[test]
fn a_rehearsal_says_the_same_and_changes_nothing() {
    let place = Place::with_cache();
    set_mode(&place.cache(), 0o640);
    let bytes = std::fs::read(place.cache()).unwrap();
    for what in [&["--expired"][..], &["--client", "one"], &["--account", "v.t"], &["--all", "--yes"]] {
        let rehearsed = place.purged(&[what, &["--dry-run"]].concat());
        assert_eq!(
            (rehearsed["dry_run"].as_bool(), std::fs::read(place.cache()).unwrap()),
            (Some(true), bytes.clone())
        );
        assert_eq!(
            (names(place.folder.path()), mode(&place.cache())),
            (vec!["token_cache.bin".into()], 0o640)
        );
        let other = Place::with_cache();
        assert_eq!(other.purged(what)["removed"], rehearsed["removed"], "{what:?}");
    }
    let output = run(&mut place.purge(&["--all", "--dry-run"]));
    assert!(stdout(&output).starts_with("would be removed from "));
}

#[test]
fn what_a_peer_writes_back_is_not_used_and_removed_again() {
    let world = World::new();
    let first = world.token_json();
    let before = std::fs::read(world.cache()).unwrap();
    for what in [&["--client", world.ready().client_id.as_str()][..], &["--all", "--yes"]] {
        std::fs::write(world.cache(), &before).unwrap();
        let output = run(command("purge").arg("--cache").arg(world.cache()).args(what));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        // As MSAL Node does, which has it in memory.
        std::fs::write(world.cache(), &before).unwrap();
        let next = world.token_json();
        assert_eq!(next["token_source"], "identity_provider", "{what:?}");
        assert_ne!(next["access_token"], first["access_token"]);
        let content = std::fs::read_to_string(world.cache()).unwrap();
        assert!(!content.contains(first["access_token"].as_str().unwrap()), "{what:?}");
    }
}

#[test]
fn a_sealed_cache_stays_sealed_and_has_nothing_in_it() {
    let world = World::new();
    let state = world.path("state");
    let with_key = |mut command: Command| {
        command.arg("--cache").arg(world.path("sealed.bin")).env("STRONGROOM_STATE_DIR", &state);
        command
    };
    let token = || {
        let mut token = with_key(command("token"));
        token.arg("--config").arg(&world.ready().config_file).arg("--ca-file").arg(&world.ready().ca_file);
        run(token.args(["--output", "json"]))
    };
    assert_eq!(code(&token()), 0);
    let removed = parsed(&run(with_key(command("purge")).args(["--all", "--yes", "--output", "json"])));
    assert_eq!(removed["removed"]["AccessToken"], 1);
    let rows = parsed(&run(with_key(command("inspect")).args(["--output", "json"])));
    assert_eq!(rows, json!([]));
    let again = parsed(&token());
    assert_eq!(
        (&again["token_source"], &again["cache"]["encrypted"]),
        (&"identity_provider".into(), &true.into())
    );

    // The key is lost, and then only the folder that it lay in is away.
    let sealed = std::fs::read(world.path("sealed.bin")).unwrap();
    std::fs::rename(state.join("host.key"), world.path("kept.key")).unwrap();
    for what in [&["--expired"][..], &["--client", "c"], &["--account", "a"]] {
        assert_eq!(failure(with_key(command("purge")).args(what)), (4, "key_lost".into()));
    }
    let rehearsed = run(with_key(command("purge")).args(["--all", "--dry-run"]));
    assert!(stdout(&rehearsed).starts_with("would be removed: "), "{}", stderr(&rehearsed));
    std::fs::rename(&state, world.path("away")).unwrap();
    assert_eq!(failure(with_key(command("purge")).args(["--all", "--yes"])), (4, "unknown_key".into()));
    assert_eq!(std::fs::read(world.path("sealed.bin")).unwrap(), sealed);
    std::fs::rename(world.path("away"), &state).unwrap();
    std::fs::write(world.path("sealed.bin.state"), "sealed too").unwrap();
    let removed = parsed(&run(with_key(command("purge")).args(["--all", "--yes", "--output", "json"])));
    assert_eq!(removed["key_lost"], true);
    assert!(!world.path("sealed.bin").exists() && !world.path("sealed.bin.state").exists());
}

#[test]
fn the_help_tells_of_which_keys_it_can_be_said_that_they_are_lost() {
    let help = stdout(&run(command("purge").arg("--help"))).split_whitespace().collect::<Vec<_>>().join(" ");
    let said = "lost for good, which can be told of the key of a host and of one in the kernel's keyring (keyutils), and \
                of no other";
    assert!(help.contains(said), "{help}");
}

#[test]
fn what_cannot_be_read_is_refused_and_left_alone() {
    let place = Place::new();
    for (content, expected) in [
        (&b"{\"AccessToken\": {"[..], "damaged"),
        (b"garbage", "not_a_token_cache"),
        (b"\xef\xbb\xbf{}", "byte_order_mark"),
    ] {
        std::fs::write(place.cache(), content).unwrap();
        for what in ["--all", "--expired"] {
            assert_eq!(failure(&mut place.purge(&[what, "--yes"])), (4, expected.into()));
            assert_eq!(std::fs::read(place.cache()).unwrap(), content);
        }
    }
    assert_eq!(names(place.folder.path()), ["token_cache.bin"]);
}

#[test]
fn a_json_file_that_is_no_cache_is_left_alone() {
    let place = Place::new();
    for content in [
        r#"{"authority": "https://h/t", "client_id": "c", "client_secret": "kept", "scope": []}"#,
        r#"{"Account": "prod", "client_secret": "kept"}"#,
    ] {
        place.write(content);
        for more in [&[][..], &["--dry-run"]] {
            let all = [&["--all", "--yes"], more].concat();
            assert_eq!(failure(&mut place.purge(&all)), (4, "not_a_token_cache".into()));
        }
        assert_eq!(std::fs::read_to_string(place.cache()).unwrap(), content);
    }
    assert!(stderr(&run(&mut place.purge(&["--all", "--yes"]))).contains("none of the sections"));
}

#[test]
fn without_a_terminal_everything_has_to_be_confirmed_by_a_flag() {
    let place = Place::with_cache();
    assert_eq!(failure(&mut place.purge(&["--all"])), (2, "confirmation_needed".into()));
    assert_eq!((place.content(), names(place.folder.path())), (document(), vec!["token_cache.bin".into()]));
    place.purged(&["--all", "--dry-run"]);
    place.purged(&["--expired"]);
    place.purged(&["--all", "--yes"]);
    assert_eq!(place.content(), json!({}));
}

#[test]
fn what_writers_left_that_were_killed_goes_with_everything_or_is_named() {
    let place = Place::with_cache();
    place.purged(&["--all", "--yes"]);
    let beside = |suffix: &str| {
        let path = place.folder.path().join(format!("token_cache.bin{suffix}"));
        std::fs::write(&path, "secret-of").unwrap();
        path
    };
    let random = ".0123456789abcdef0123456789abcdef.tmp";
    let (once, twice) = (beside(random), beside(&format!("{random}{random}")));
    let rehearsed = place.purged(&["--all", "--dry-run"]);
    assert_eq!(rehearsed["set_aside"], json!([once, twice]));
    // What is young may be a living writer's.
    assert_eq!(place.purged(&["--all", "--yes"])["set_aside"], json!([once, twice]));
    for path in [&once, &twice] {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(60)).unwrap();
    }
    assert_eq!(place.purged(&["--all", "--yes"])["set_aside"], json!([]));
    assert!(!once.exists() && !twice.exists());
}

#[test]
fn names_of_files_play_no_tricks_on_a_terminal() {
    let place = Place::with_cache();
    let name = "a\u{1b}[2Jb\nremoved from c\u{202e}d";
    let cache = place.folder.path().join(name);
    std::fs::rename(place.cache(), &cache).unwrap();
    std::fs::write(place.folder.path().join(format!("{name}.old-x")), "").unwrap();
    let mut purge = command("purge");
    let output = run(purge.arg("--cache").arg(&cache).args(["--all", "--yes"]));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for said in [stdout(&output), stderr(&output)] {
        assert!(said.contains("a\u{fffd}[2Jb\u{fffd}removed from c\u{fffd}d"), "{said:?}");
        assert!(!said.contains(['\u{1b}', '\u{202e}']) && said.lines().count() == 1, "{said:?}");
    }
    std::fs::write(&cache, "garbage").unwrap();
    let output = run(command("purge").arg("--cache").arg(&cache).args(["--all", "--yes"]));
    assert!(!stderr(&output).contains(['\u{1b}', '\u{202e}']), "{:?}", stderr(&output));
}

#[test]
fn where_nothing_is_nothing_is_made() {
    let place = Place::new();
    for what in ["--all", "--expired"] {
        let output = run(&mut place.purge(&[what, "--yes"]));
        assert_eq!(
            (code(&output), stdout(&output).ends_with(": nothing\n")),
            (0, true),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(names(place.folder.path()), [""; 0]);
}

#[test]
fn that_an_application_was_removed_is_noted_though_nothing_of_it_was_found() {
    let place = Place::with_cache();
    let state = place.folder.path().join("token_cache.bin.state");
    let removed = place.purged(&["--client", "three"]);
    assert_eq!((&removed["removed"]["AccessToken"], place.content()), (&0.into(), document()));
    let noted = || serde_json::from_slice::<Value>(&std::fs::read(&state).unwrap()).unwrap();
    assert_eq!(noted()["tombstones"][0]["client_id"], "three");
    place.write("{}");
    place.purged(&["--all", "--yes"]);
    assert_eq!(noted()["tombstones"][1]["client_id"], "*");
}

#[test]
fn who_cannot_be_heard_by_other_processes_says_so_and_removes_all_the_same() {
    for (what, left) in [(&["--client", "one"][..], 2), (&["--all", "--yes"], 0)] {
        let place = Place::with_cache();
        // Nothing can be written there.
        std::fs::create_dir(place.folder.path().join("token_cache.bin.state")).unwrap();
        let output = run(&mut place.purge(what));
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains("cannot be told of the removal"), "{}", stderr(&output));
        assert_eq!(place.keys("AccessToken").len(), left, "{what:?}");
    }
}

#[test]
fn who_holds_the_lock_is_waited_for_and_named() {
    let place = Place::with_cache();
    let lock = File::create(place.folder.path().join("token_cache.bin.lock")).unwrap();
    set_mode(&place.folder.path().join("token_cache.bin.lock"), 0o600);
    lock.lock().unwrap();
    assert_eq!(failure(&mut place.purge(&["--all", "--yes", "--lock-timeout", "0.1"])), (4, "locked".into()));
    assert_eq!(place.content(), document());
    drop(lock);
    place.purged(&["--all", "--yes", "--lock-timeout", "0.1"]);
}

/// What the command says on a terminal where `answer` is typed, and how it ends.
fn on_a_terminal(mut command: Command, answer: &str) -> (Output, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    let mut controller = File::from(controller);
    controller.write_all(answer.as_bytes()).unwrap();
    command.stdin(terminal.try_clone().unwrap()).stderr(terminal).stdout(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    // The last of ours: what is left is what was shown.
    drop(command);
    let (mut shown, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = controller.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    (output, String::from_utf8(shown).unwrap())
}

#[test]
fn on_a_terminal_it_asks_before_everything_goes() {
    let place = Place::with_cache();
    for answer in ["n\n", "\n", "no, why\n"] {
        let (output, shown) = on_a_terminal(place.purge(&["--all"]), answer);
        assert!(shown.contains("Remove everything from") && shown.contains("nothing was removed"), "{shown}");
        assert_eq!((code(&output), place.content()), (1, document()));
    }
    let (output, shown) = on_a_terminal(place.purge(&["--expired"]), "n\n");
    assert_eq!((code(&output), shown.contains("Remove everything")), (0, false), "{shown}");
    let (output, _) = on_a_terminal(place.purge(&["--all"]), "y\n");
    assert_eq!((code(&output), place.content()), (0, json!({})));
    let place = Place::with_cache();
    let (output, shown) = on_a_terminal(place.purge(&["--all", "--yes"]), "");
    assert_eq!((code(&output), shown.contains("[y/N]")), (0, false), "{shown}");
    assert_eq!(place.content(), json!({}));
    assert!(Path::new(&place.cache()).exists());
}
