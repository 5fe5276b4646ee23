//! `strongroom doctor`: what would be used and why, whether all is well with it, and nothing changed by asking.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use strongroom_sts::{Endpoint, Fault};

use crate::inspect::{fixtures, secrets};
use crate::support::{
    World, bare, code, command, failure, json, mode, names, run, set_mode, skip, stderr, stdout,
};

/// A folder for a cache, and one for this host's key.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cache", "state"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            set_mode(&folder.path().join(name), 0o700);
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path("cache/token_cache.bin")
    }

    fn side_file(&self, suffix: &str) -> PathBuf {
        self.path(&format!("cache/token_cache.bin{suffix}"))
    }

    fn write(&self, path: &Path, content: impl AsRef<[u8]>) {
        std::fs::write(path, content).unwrap();
        set_mode(path, 0o600);
    }

    fn host_key(&self) -> PathBuf {
        self.path("state/host.key")
    }

    fn command(&self, subcommand: &str) -> Command {
        let mut command = command(subcommand);
        command.arg("--cache").arg(self.cache()).env("STRONGROOM_STATE_DIR", self.path("state"));
        command
    }

    /// A sealed cache with a token in it.
    fn seal(&self) {
        let world = World::new();
        let token = run(self
            .command("token")
            .arg("--config")
            .arg(&world.ready().config_file)
            .args(["--ca-file", world.ready().ca_file.to_str().unwrap()]));
        assert_eq!(code(&token), 0, "{}", stderr(&token));
    }

    fn doctor(&self) -> Findings {
        self.doctor_with(&[])
    }

    /// What is found; nothing has changed by it.
    fn doctor_with(&self, arguments: &[&str]) -> Findings {
        let before = self.snapshot();
        let output = run(self.command("doctor").args(arguments).args(["--output", "json"]));
        assert_eq!(self.snapshot(), before);
        Findings { code: code(&output), array: json(&output) }
    }

    /// Every file: its content, mode, owner and times; every folder: its mode and owner.
    fn snapshot(&self) -> BTreeMap<PathBuf, (Vec<u8>, u32, u32, i128)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries {
                let path = entry.unwrap().path();
                let seen = path.symlink_metadata().unwrap();
                let changed = i128::from(seen.ctime()) * 1_000_000_000 + i128::from(seen.ctime_nsec());
                let (content, time) = match seen.is_file() {
                    true => (std::fs::read(&path).unwrap_or_default(), changed),
                    false => (Vec::new(), 0),
                };
                found.insert(path.clone(), (content, seen.mode(), seen.uid(), time));
                if seen.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }
}

struct Findings {
    code: i32,
    array: Value,
}

impl Findings {
    fn all(&self) -> impl Iterator<Item = (&str, &str, &str, &str)> {
        self.array.as_array().unwrap().iter().map(|finding| {
            let text = |name: &str| finding[name].as_str().unwrap_or_default();
            (text("check"), text("status"), text("message"), text("remedy"))
        })
    }

    /// The worst status of a check, and what is said about it.
    fn of(&self, check: &str) -> (&str, String) {
        let found: Vec<_> = self.all().filter(|(name, ..)| *name == check).collect();
        let worst =
            ["fail", "warn", "ok"].into_iter().find(|s| found.iter().any(|(_, status, ..)| s == status));
        let said = found.iter().map(|(_, _, message, remedy)| format!("{message}\n{remedy}\n")).collect();
        (worst.unwrap_or_else(|| panic!("{check} is not among {}", self.array)), said)
    }

    #[track_caller]
    fn expect(&self, check: &str, status: &str, words: &[&str]) {
        let (found, said) = self.of(check);
        assert_eq!(found, status, "{check}: {said}");
        for word in words {
            assert!(said.contains(word), "{check}: no {word:?} in {said}");
        }
    }

    #[track_caller]
    fn all_is_well(&self) {
        for (check, status, message, _) in self.all() {
            assert_eq!(status, "ok", "{check}: {message}");
        }
        assert_eq!(self.code, 0);
    }
}

/// A process that holds the kernel lock of a file, signed as `text` with its own number, until it is ended.
struct Holder(Child);

impl Holder {
    fn of(path: &Path, program: &str) -> Self {
        let script =
            format!("exec 9<>\"$1\"; flock -x 9; printf '%s {program}' $$ >\"$1\"; echo held; read _");
        let mut child = Command::new("sh");
        let child = child.args(["-c", &script, "sh"]).arg(path).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn set_time(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn where_nothing_is_yet_it_says_what_would_be_and_makes_nothing() {
    let place = Place::new();
    let found = place.doctor();
    found.all_is_well();
    found.expect("location", "ok", &["nothing is there yet"]);
    found.expect("persistence", "ok", &["sealed", "host", "no key is configured"]);
    found.expect("key", "ok", &["would be made at", place.host_key().to_str().unwrap()]);
    found.expect("protection", "ok", &["host-file"]);
    found.expect("document", "ok", &["nothing is cached yet"]);
    std::fs::remove_dir(place.path("cache")).unwrap();
    std::fs::remove_dir(place.path("state")).unwrap();
    let found = place.doctor();
    found.all_is_well();
    found.expect("directory", "ok", &["would be made"]);
    found.expect("key", "ok", &["would be made at"]);
}

#[test]
fn a_sealed_cache_is_well_and_a_probe_is_sealed_beside_it() {
    let place = Place::new();
    place.seal();
    let found = place.doctor();
    found.all_is_well();
    found.expect(
        "persistence",
        "ok",
        &["sealed", "host", "it is opened with the key source that has its key"],
    );
    found.expect("key", "ok", &[place.host_key().to_str().unwrap(), "made 0 days ago"]);
    found.expect("write", "ok", &["sealed, written, read back and removed"]);
    found.expect("document", "ok", &["1 access token"]);
    found.expect("lock", "ok", &["nobody holds it"]);
}

#[test]
fn a_plain_cache_is_no_cache_for_who_wants_it_sealed() {
    let place = Place::new();
    place.write(&place.cache(), r#"{"AccessToken": {}}"#);
    let found = place.doctor();
    assert_eq!(found.code, 4);
    found.expect("persistence", "fail", &["holds a plain token cache", "strongroom migrate"]);
    let found = place.doctor_with(&["--persistence", "file"]);
    assert_eq!(found.code, 0);
    found.expect("protection", "warn", &["none", "strongroom migrate"]);
    found.expect("peers-lock", "ok", &["nobody holds it"]);
    let found = place.doctor_with(&["--persistence", "file", "--min-protection", "host-file"]);
    assert_eq!(found.code, 4);
    found.expect("protection", "fail", &["none", "host-file"]);
}

#[test]
fn who_else_may_use_the_files_is_told_and_left_so() {
    let place = Place::new();
    place.seal();
    set_mode(&place.cache(), 0o644);
    set_mode(&place.side_file(".lock"), 0o666);
    let found = place.doctor();
    assert_eq!(found.code, 0);
    found.expect("permissions", "warn", &["mode 0644", "chmod 0600", "token_cache.bin.lock"]);
    set_mode(&place.host_key(), 0o640);
    let found = place.doctor();
    assert_eq!(found.code, 4);
    found.expect("key", "fail", &["others can read it (mode 0640)", "strongroom key rotate"]);
    assert_eq!((mode(&place.cache()), mode(&place.host_key())), (0o644, 0o640));

    let plain = Place::new();
    plain.write(&plain.cache(), "{}");
    set_mode(&plain.cache(), 0o640);
    let found = plain.doctor_with(&["--persistence", "file"]);
    assert_eq!(found.code, 4);
    found.expect("permissions", "fail", &["mode 0640", "chmod 0600"]);
}

#[test]
fn what_a_remedy_says_can_be_run_in_a_shell() {
    let place = Place::new();
    let cache = place.path("cache/it's $HOME.bin");
    place.write(&cache, "{}");
    set_mode(&cache, 0o644);
    let mut doctor = command("doctor");
    doctor.arg("--cache").arg(&cache).args(["--persistence", "file", "--output", "json"]);
    let found = json(&run(&mut doctor));
    let remedy = found.as_array().unwrap().iter().find(|finding| finding["check"] == "permissions").unwrap();
    let remedy = remedy["remedy"].as_str().unwrap();
    let command = remedy.strip_prefix("run '").unwrap().split_once("'; the next use").unwrap().0;
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
    assert_eq!(mode(&cache), 0o600);
}

#[test]
fn a_folder_that_others_can_write_is_told_of() {
    let place = Place::new();
    let folder = place.path("cache");
    for (mode, status, words) in [
        (0o777, "fail", ["everybody can write", "chmod o-w"]),
        (0o1777, "warn", ["everybody can make files", "another directory"]),
        (0o770, "warn", ["the group", "chmod g-w"]),
    ] {
        set_mode(&folder, mode);
        let found = place.doctor();
        found.expect("directory", status, &words);
        assert_eq!(found.code, if status == "fail" { 4 } else { 0 });
    }
    set_mode(&folder, 0o700);
    set_mode(place.folder.path(), 0o777);
    place.doctor().expect(
        "directory",
        "warn",
        &["everybody can write to", place.folder.path().to_str().unwrap()],
    );
}

#[test]
fn links_are_followed_if_they_are_our_own_and_end_somewhere() {
    let place = Place::new();
    place.write(&place.path("real.bin"), "{}");
    symlink(place.path("real.bin"), place.cache()).unwrap();
    let found = place.doctor();
    found.expect("location", "ok", &["through a link of this user", "real.bin"]);
    assert_eq!(found.code, 0);
    std::fs::remove_file(place.cache()).unwrap();
    symlink("token_cache.bin", place.cache()).unwrap();
    let found = place.doctor();
    found.expect("location", "fail", &["symbolic link", "use the path of the file itself"]);
    assert_eq!(found.code, 4);
}

#[test]
fn who_holds_a_lock_is_named_and_keeps_it() {
    let place = Place::new();
    place.write(&place.cache(), "{}");
    for (suffix, check) in [(".lock", "lock"), (".lockfile", "peers-lock")] {
        let path = place.side_file(suffix);
        place.write(&path, "");
        let holder = Holder::of(&path, "daemon.py");
        let pid = holder.0.id().to_string();
        let found = place.doctor_with(&["--persistence", "file"]);
        found.expect(check, "warn", &[&format!("held by process {pid} (daemon.py)"), "wait until"]);
        assert_eq!(found.code, 0);
        let file = File::open(&path).unwrap();
        assert!(file.try_lock().is_err(), "it is held as before");
        drop(holder);
        place.write(&path, "");
        assert_ne!(place.doctor_with(&["--persistence", "file"]).of(check).0, "fail");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_dead_lock_file_is_told_of_and_left() {
    let place = Place::new();
    place.write(&place.cache(), "{}");
    let path = place.side_file(".lockfile");
    for (content, words) in [
        ("4194305 python", ["left by process 4194305 (python)", "rm "]),
        ("4194305", ["left by process 4194305 (MSAL Node)", "MSAL Node waits for it in vain"]),
    ] {
        place.write(&path, content);
        let found = place.doctor_with(&["--persistence", "file"]);
        found.expect("peers-lock", "warn", &words);
        assert_eq!(found.code, 0);
    }
    std::fs::remove_file(&path).unwrap();
    symlink("/dev/null", &path).unwrap();
    place.doctor_with(&["--persistence", "file"]).expect("peers-lock", "fail", &["symbolic link"]);
}

#[test]
fn a_key_in_the_folder_of_the_cache_protects_from_little() {
    let place = Place::new();
    let key = place.path("cache/cache.key");
    strongroom::persistence::create_key_file(&key).unwrap();
    let source = format!("file:{}", key.display());
    let found = place.doctor_with(&["--key-source", &source]);
    found.expect("protection", "warn", &["provided-key", "the key lies in the folder of the cache"]);
    found.expect("key", "ok", &[key.to_str().unwrap()]);
    assert_eq!(found.code, 0);
    let elsewhere = place.path("state/cache.key");
    std::fs::rename(&key, &elsewhere).unwrap();
    let found = place.doctor_with(&["--key-source", &format!("file:{}", elsewhere.display())]);
    found.all_is_well();
    let found = place.doctor_with(&["--key-source", &source]);
    found.expect("key", "fail", &["no such file", "strongroom key new"]);
    assert_eq!(found.code, 4);
}

#[test]
fn an_old_key_is_to_be_rotated() {
    let place = Place::new();
    let key = place.path("state/cache.key");
    strongroom::persistence::create_key_file(&key).unwrap();
    let text = std::fs::read_to_string(&key).unwrap();
    let (bare_key, _) = text.split_once(" # created ").unwrap();
    let source = format!("file:{}", key.display());
    let doctor = || place.doctor_with(&["--key-source", &source]);

    place.write(&key, format!("{bare_key} # created 1700000000\n"));
    doctor().expect("key", "warn", &["days ago", "strongroom key rotate"]);
    place.write(&key, bare_key);
    doctor().expect("key", "ok", &["made 0 days ago by the time of its file"]);
    set_time(&key, SystemTime::now() - 400 * DAY);
    doctor().expect("key", "warn", &["made 400 days ago by the time of its file"]);
    set_time(&key, SystemTime::now() + DAY);
    doctor().expect("clock", "warn", &["the key was made", "in the future"]);
}

#[test]
fn a_lost_key_and_one_that_is_elsewhere_are_different_things() {
    let place = Place::new();
    place.seal();
    let key = place.host_key();
    std::fs::rename(&key, place.path("kept.key")).unwrap();
    let found = place.doctor();
    found.expect("persistence", "warn", &["lost", "restore the key", "purge"]);
    assert_eq!(found.code, 0);
    // The folder itself is gone: its disk may not be mounted.
    std::fs::remove_dir(place.path("state")).unwrap();
    let found = place.doctor();
    found.expect("persistence", "fail", &["the folder", "is missing"]);
    assert_eq!(found.code, 4);
}

#[test]
fn what_cannot_be_used_is_told_once_and_left_alone() {
    let place = Place::new();
    for (content, check, words) in [
        (&b"{\"AccessToken\": {"[..], "document", ["not valid", "moves it aside"]),
        (b"garbage", "persistence", ["no token cache", "choose another location"]),
        (b"\xef\xbb\xbf{}", "document", ["byte order mark", "UTF-8"]),
    ] {
        place.write(&place.cache(), content);
        let found = place.doctor_with(&["--persistence", if check == "document" { "file" } else { "auto" }]);
        let words = if content.starts_with(b"{") { [words[1], words[1]] } else { words };
        found.expect(check, "fail", &words);
        assert_eq!((found.code, found.all().filter(|(_, status, ..)| *status == "fail").count()), (4, 1));
    }
    std::fs::remove_file(place.cache()).unwrap();
    std::fs::create_dir(place.cache()).unwrap();
    let found = place.doctor();
    found.expect("location", "fail", &["is a directory, not a file"]);
    assert_eq!(found.code, 4);
}

#[test]
fn entries_that_other_languages_stumble_over_are_named() {
    let place = Place::new();
    let token = r#""credential_type": "AccessToken", "secret": "the-secret", "environment": "h", "client_id": "c",
        "realm": "r", "target": "t", "token_type": "Bearer", "cached_at": "1""#;
    place.write(
        &place.cache(),
        format!(
            r#"{{"AccessToken": {{"float": {{{token}, "home_account_id": null, "expires_on": 1.5}},
                "nobody": {{{token}, "expires_on": "4000000000"}}, "too": {{{token}, "expires_on": "4000000000"}},
                "null": null, "-h-old-": {{{token}, "home_account_id": "", "expires_on": "2"}}}}}}"#
        ),
    );
    let output = run(place.command("doctor").args(["--persistence", "file"]));
    assert_eq!(code(&output), 4);
    assert!(!stdout(&output).contains("the-secret"));
    let found = place.doctor_with(&["--persistence", "file"]);
    found.expect(
        "other-languages",
        "fail",
        &[
            "AccessToken float: the field expires_on is a fraction: MSAL Go refuses the whole cache",
            "AccessToken null: the entry is null",
            "AccessToken nobody, and 1 more: it has no home_account_id at all",
            "strongroom purge --expired",
        ],
    );
    found.expect("document", "ok", &["4 access tokens, 1 unreadable entry"]);
}

#[test]
fn what_any_msal_wrote_is_examined_without_showing_its_secrets() {
    let place = Place::new();
    for fixture in fixtures() {
        let bytes = std::fs::read(&fixture).unwrap();
        let mut hidden = Vec::new();
        secrets(&serde_json::from_slice(&bytes).unwrap_or_default(), &mut hidden);
        place.write(&place.cache(), &bytes);
        let found = place.doctor_with(&["--persistence", "file"]);
        assert!(!found.of("document").1.is_empty());
        let said = found.array.to_string();
        assert!(hidden.iter().all(|secret| !said.contains(secret.as_str())), "{}", fixture.display());
    }
}

#[test]
fn a_key_from_the_environment_is_not_shown() {
    let place = Place::new();
    let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let output = run(place.command("doctor").env("STRONGROOM_KEY", key));
    let shown = stdout(&output);
    assert_eq!(code(&output), 0, "{shown}");
    assert!(shown.contains("the key source env is configured") && shown.contains("stays visible"), "{shown}");
    assert!(!shown.contains(&key[..16]));
    assert!(place.snapshot().into_keys().all(|path| path.is_dir()));
}

#[test]
fn what_is_left_over_from_earlier_is_told_of() {
    let place = Place::new();
    let temporary = place.side_file(".0123456789abcdef0123456789abcdef.tmp");
    place.write(&temporary, "half");
    set_time(&temporary, SystemTime::now() - DAY);
    place.write(&place.side_file(".corrupt-20260101T000000Z"), "{");
    place.write(&place.side_file(".old-20260101T000000Z"), "{}");
    let found = place.doctor();
    found.expect(
        "leftovers",
        "warn",
        &[
            "0123456789abcdef.tmp",
            "the next write removes it",
            ".corrupt-20260101T000000Z",
            ".old-20260101T000000Z",
        ],
    );
    assert_eq!(found.code, 0);
}

#[test]
fn a_clock_behind_the_cache_is_told_of() {
    let place = Place::new();
    place.write(&place.cache(), "{}");
    set_time(&place.cache(), SystemTime::now() + DAY);
    place.doctor().expect("clock", "warn", &["the cache was written", "in the future", "set the clock"]);
    place.write(
        &place.cache(),
        r#"{"AccessToken": {"k": {"secret": "s", "environment": "h", "client_id": "c", "realm": "r", "target": "t",
            "cached_at": "4000000000", "expires_on": "4000003600"}}}"#,
    );
    place.doctor_with(&["--persistence", "file"]).expect("clock", "warn", &["a token was cached"]);
}

#[test]
fn refusals_that_are_remembered_explain_why_nothing_is_requested() {
    let world = World::new();
    world
        .sts
        .add_fault(Fault::new(Endpoint::Token).for_ever().status(429).header("Retry-After", "600"))
        .unwrap();
    assert_eq!(failure(&mut world.token()).0, 3);
    let output = run(command("doctor").arg("--cache").arg(world.cache()).args(["--persistence", "file"]));
    let shown = stdout(&output);
    assert!(shown.contains("1 requests were refused and are not sent for"), "{shown}");
    assert!(shown.contains("--force-refresh"));
}

#[test]
fn json_has_the_members_that_scripts_rely_on_and_text_has_a_line_for_each() {
    let place = Place::new();
    place.write(&place.cache(), "{}");
    set_mode(&place.cache(), 0o644);
    let found = place.doctor_with(&["--persistence", "file"]);
    for finding in found.array.as_array().unwrap() {
        let members: Vec<&str> = finding.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(members, ["check", "message", "remedy", "status"]);
        assert_eq!(finding["remedy"].is_null(), finding["status"] == "ok", "{finding}");
    }
    let output = run(place.command("doctor").args(["--persistence", "file"]));
    assert_eq!((code(&output), stderr(&output).as_str()), (4, ""));
    for (check, status, message, remedy) in found.all() {
        let mut lines = stdout(&output).lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
        let is_it =
            |line: &String| line.starts_with(status) && line.contains(check) && line.ends_with(message);
        assert!(check == "space" || lines.any(|line| is_it(&line)), "{check}");
        if !remedy.is_empty() {
            assert!(lines.next().unwrap().trim_start() == format!("remedy: {remedy}"));
        }
    }
    assert!(!stdout(&output).contains('\u{1b}'));
}

#[test]
fn a_cache_that_is_no_file_is_wrong_usage() {
    let output = run(bare().args(["doctor", "--cache", "redis://host/0", "--output", "json"]));
    assert_eq!((code(&output), &json(&output)["error"]), (2, &"unsupported_cache".into()));
}

/// What an ordinary user meets. The part `permissions` of `./test` runs these.
mod unprivileged {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_written_fails_for_the_cache_and_for_the_key() {
        let test =
            "doctor::unprivileged::a_folder_that_cannot_be_written_fails_for_the_cache_and_for_the_key";
        if std::env::var_os("STRONGROOM_TEST_UNPRIVILEGED").is_none() {
            return skip(test, "needs an ordinary user and STRONGROOM_TEST_UNPRIVILEGED=1");
        }
        let place = Place::new();
        for name in ["cache", "state"] {
            set_mode(&place.path(name), 0o500);
        }
        let found = place.doctor();
        assert_eq!(found.code, 4);
        found.expect("write", "fail", &["cannot create a file in", "write access"]);
        found.expect("key", "fail", &["no key can be made", "STRONGROOM_STATE_DIR"]);
        set_mode(&place.path("cache"), 0o000);
        let found = place.doctor();
        found.expect("location", "fail", &["write access"]);
        for name in ["cache", "state"] {
            set_mode(&place.path(name), 0o700);
        }
        assert_eq!(names(&place.path("cache")), [""; 0]);
    }
}
