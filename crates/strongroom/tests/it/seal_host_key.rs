//! The host key: made at first use, one for all, found again from every environment, and what happens without it.

use std::path::PathBuf;
use std::process::Stdio;

use crate::seal_support::{answer_in, in_process, process_with};
use crate::support::{Process, is_root, mode_of, names_in, set_mode, skip};

struct Host {
    folder: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(host.state()).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cache(&self) -> PathBuf {
        self.path("cache.bin")
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    fn key(&self) -> PathBuf {
        self.state().join("host.key")
    }

    /// Does something with the cache, with the host's state folder in the environment.
    fn does(&self, what: &str) -> String {
        in_process(&[("STRONGROOM_STATE_DIR", &self.state())], what, &self.cache())
    }

    fn set_aside(&self) -> Vec<String> {
        names_in(self.folder.path()).into_iter().filter(|name| name.contains(".corrupt-")).collect()
    }
}

#[test]
fn a_bare_machine_needs_no_set_up() {
    let host = Host::new();
    assert_eq!(host.does("put a"), "sealed host host-file");
    assert_eq!(host.does("scopes"), "a");
    assert_eq!(mode_of(&host.key()), 0o600);
    assert_eq!(names_in(&host.state()), ["host.key"]);
    assert!(std::fs::read(host.cache()).unwrap().starts_with(b"\x89STRONG\n"));
}

#[test]
fn sixteen_processes_that_start_at_once_make_one_key() {
    let host = Host::new();
    let children: Vec<_> = (0..16)
        .map(|n| {
            let state = host.state();
            let mut command = process_with(&[("STRONGROOM_STATE_DIR", &state)]);
            command.env("TEST_DO", format!("put s{n:02}")).env("TEST_CACHE", host.cache());
            command.stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(answer_in(&text), "sealed host host-file");
    }
    let expected: Vec<_> = (0..16).map(|n| format!("s{n:02}")).collect();
    assert_eq!(host.does("scopes"), expected.join(" "), "nothing is lost, so all used one key");
    assert_eq!(std::fs::read_to_string(host.key()).unwrap().lines().count(), 1);
    assert_eq!(names_in(&host.state()), ["host.key"], "the losers left nothing");
    assert_eq!(host.set_aside(), [""; 0]);
}

#[test]
fn the_places_are_taken_in_their_order() {
    let host = Host::new();
    let [state, service, xdg, home] = ["own", "service", "xdg", "home"].map(|name| host.path(name));
    let list = PathBuf::from(format!("{}:/second", service.display()));
    let mut environment = vec![
        ("STRONGROOM_STATE_DIR", state.as_path()),
        ("STATE_DIRECTORY", &list),
        ("XDG_STATE_HOME", &xdg),
        ("HOME", &home),
    ];
    for (n, folder) in [state.clone(), service.clone(), xdg.join("strongroom")].into_iter().enumerate() {
        let cache = host.path(&format!("cache{n}.bin"));
        let why = in_process(&environment, "choose", &cache);
        assert!(why.starts_with(&format!("host {}", cache.display())), "{why}");
        assert!(!folder.exists(), "choosing makes nothing");
        assert_eq!(in_process(&environment, "put a", &cache), "sealed host host-file");
        assert_eq!(names_in(&folder), ["host.key"]);
        std::fs::remove_dir_all(&folder).unwrap();
        environment.remove(0);
    }
}

#[test]
fn all_caches_of_a_host_share_its_key() {
    let host = Host::new();
    let environment = [("STRONGROOM_STATE_DIR", &*host.state())];
    let [one, two] = ["one.bin", "two.bin"].map(|name| {
        in_process(&environment, "put a", &host.path(name));
        std::fs::read(host.path(name)).unwrap()[24..40].to_vec()
    });
    assert_eq!(one, two);
}

#[test]
fn a_place_that_cannot_be_used_is_passed_over() {
    let host = Host::new();
    let file = host.path("a-file");
    std::fs::write(&file, "").unwrap();
    let in_it = file.join("state");
    let environment = [("STATE_DIRECTORY", in_it.as_path()), ("XDG_STATE_HOME", &*host.path("xdg"))];
    assert_eq!(in_process(&environment, "put a", &host.cache()), "sealed host host-file");
    assert_eq!(names_in(&host.path("xdg/strongroom")), ["host.key"]);
}

#[test]
fn a_service_and_a_shell_find_the_same_cache() {
    let host = Host::new();
    let (service, shell) = (host.path("service"), host.path("shell"));
    let in_service = [("STATE_DIRECTORY", service.as_path())];
    let in_shell = [("XDG_STATE_HOME", shell.as_path()), ("HOME", host.folder.path())];
    for (first, second, cache) in
        [(&in_service[..], &in_shell[..], "one.bin"), (&in_shell, &in_service, "two.bin")]
    {
        let cache = host.path(cache);
        assert_eq!(in_process(first, "put a", &cache), "sealed host host-file");
        assert_eq!(in_process(second, "scopes", &cache), "a");
        assert_eq!(in_process(second, "put b", &cache), "sealed host host-file");
        assert_eq!(in_process(first, "scopes", &cache), "a b");
    }
}

#[test]
fn a_key_that_has_moved_is_found_by_its_id() {
    let host = Host::new();
    host.does("put a");
    let home = host.path("home");
    let place = home.join(".local/state/strongroom");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::rename(host.key(), place.join("host.key")).unwrap();
    let elsewhere = host.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let environment = [("STRONGROOM_STATE_DIR", elsewhere.as_path()), ("HOME", home.as_path())];
    assert_eq!(in_process(&environment, "scopes", &host.cache()), "a");
    assert_eq!(host.set_aside(), [""; 0]);
}

#[test]
fn where_the_key_is_lost_the_document_is_set_aside_and_the_daemon_goes_on() {
    let host = Host::new();
    host.does("put a");
    let sealed = std::fs::read(host.cache()).unwrap();
    std::fs::remove_file(host.key()).unwrap();
    assert!(host.does("choose").contains("lost"), "{}", host.does("choose"));
    assert_eq!(host.set_aside(), [""; 0], "looking does not move it");
    assert!(!host.key().exists(), "and makes no key");

    assert_eq!(host.does("scopes"), "", "a reader finds nothing");
    assert_eq!(host.set_aside(), [""; 0], "and moves nothing");
    assert_eq!(std::fs::read(host.cache()).unwrap(), sealed);

    assert_eq!(host.does("put b"), "sealed host host-file");
    assert_eq!(host.does("scopes"), "b");
    let aside = host.set_aside();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read(host.path(&aside[0])).unwrap(), sealed, "as it was");
    assert_eq!(mode_of(&host.path(&aside[0])), 0o600);
}

#[test]
fn a_key_that_is_deleted_under_a_running_process_is_made_anew_and_nothing_is_lost() {
    let host = Host::new();
    let state = host.state();
    let mut command = process_with(&[("STRONGROOM_STATE_DIR", &state)]);
    command.env("TEST_DO", "put-twice a b").env("TEST_CACHE", host.cache());
    let mut process = Process::start(&mut command);
    process.wait_for("once");
    std::fs::remove_file(host.key()).unwrap();
    process.finish();
    assert_eq!(host.does("scopes"), "a b");
    assert_eq!(host.set_aside(), [""; 0]);
}

#[test]
fn a_new_machine_with_a_key_of_its_own_sets_an_old_document_aside() {
    let (old, new) = (Host::new(), Host::new());
    old.does("put a");
    new.does("put x");
    std::fs::copy(old.cache(), new.cache()).unwrap();
    std::fs::remove_file(old.key()).unwrap();
    assert_eq!(new.does("put b"), "sealed host host-file");
    assert_eq!(new.does("scopes"), "b");
    assert_eq!(new.set_aside().len(), 1);
}

/// What `does` says, which must not have touched the document.
fn refused(host: &Host) -> String {
    let sealed = std::fs::read(host.cache()).unwrap();
    let said = host.does("put b");
    assert_eq!(std::fs::read(host.cache()).unwrap(), sealed, "{said}");
    assert_eq!(host.set_aside(), [""; 0], "{said}");
    said
}

#[test]
fn while_a_place_cannot_be_looked_at_nothing_counts_as_lost() {
    let host = Host::new();
    host.does("put a");
    // A disk that is not mounted: its folder is missing.
    let unmounted = host.path("unmounted");
    std::fs::rename(host.state(), &unmounted).unwrap();
    let said = refused(&host);
    assert!(said.starts_with("unknown_key: ") && said.contains("is missing"), "{said}");
    std::fs::rename(&unmounted, host.state()).unwrap();
    assert_eq!(host.does("scopes"), "a");

    // What lies there is no key.
    let key = std::fs::read(host.key()).unwrap();
    std::fs::write(host.key(), "").unwrap();
    assert!(refused(&host).starts_with("unknown_key: "));
    std::fs::remove_file(host.key()).unwrap();
    std::fs::create_dir(host.key()).unwrap();
    assert!(refused(&host).starts_with("unknown_key: "));
    std::fs::remove_dir(host.key()).unwrap();
    std::fs::write(host.key(), key).unwrap();
    set_mode(&host.key(), 0o600);
    assert_eq!(host.does("scopes"), "a");
}

#[test]
fn a_host_key_of_another_user_is_not_used_and_not_taken_for_lost() {
    if !is_root() {
        return skip("seal_host_key::a_host_key_of_another_user", "only root can give files away");
    }
    let host = Host::new();
    host.does("put a");
    std::os::unix::fs::chown(host.key(), Some(65_534), None).unwrap();
    let said = refused(&host);
    assert!(said.starts_with("unknown_key: ") && said.contains("belongs to user"), "{said}");
}

#[test]
fn a_hint_leads_to_no_other_file_than_a_host_key() {
    let host = Host::new();
    host.does("put a");
    // The key under another name, and the header says so.
    let other = host.state().join("test.key");
    std::fs::rename(host.key(), &other).unwrap();
    let mut sealed = std::fs::read(host.cache()).unwrap();
    let name = sealed.windows(8).position(|window| window == b"host.key").unwrap();
    sealed[name..name + 8].copy_from_slice(b"test.key");
    std::fs::write(host.cache(), sealed).unwrap();
    assert_eq!(host.does("scopes"), "", "it is not looked at: the key counts as lost");
}

#[test]
fn the_place_that_was_named_is_the_only_one_or_an_error() {
    let host = Host::new();
    let file = host.path("a-file");
    std::fs::write(&file, "").unwrap();
    let in_it = file.join("state");
    let environment = [("STRONGROOM_STATE_DIR", in_it.as_path()), ("XDG_STATE_HOME", &*host.path("xdg"))];
    let said = in_process(&environment, "put a", &host.cache());
    assert!(said.starts_with("no_encryption: ") && said.contains("a-file"), "{said}");
    assert!(!host.cache().exists() && !host.path("xdg").exists());
}

/// Root has one place more, `/var/lib/strongroom`, which no test may touch.
mod unprivileged {
    use super::*;
    use crate::support::is_unprivileged;

    #[test]
    fn the_last_place_is_in_the_home_folder() {
        if !is_unprivileged("seal_host_key::unprivileged::the_last_place_is_in_the_home_folder") {
            return;
        }
        let host = Host::new();
        let home = host.path("home");
        let environment = [("HOME", home.as_path())];
        assert_eq!(in_process(&environment, "put a", &host.cache()), "sealed host host-file");
        assert_eq!(names_in(&home.join(".local/state/strongroom")), ["host.key"]);
        assert_eq!(in_process(&environment, "scopes", &host.cache()), "a");
    }

    #[test]
    fn without_any_place_the_error_lists_what_was_tried() {
        if !is_unprivileged("seal_host_key::unprivileged::without_any_place_the_error_lists_what_was_tried") {
            return;
        }
        let host = Host::new();
        let said = in_process(&[], "put a", &host.cache());
        assert!(said.starts_with("no_encryption: "), "{said}");
        for tried in ["STRONGROOM_KEY_FILE", "secret-service", "HOME"] {
            assert!(said.contains(tried), "{said}");
        }
    }

    #[test]
    fn a_place_that_may_not_be_read_is_no_proof_that_the_key_is_lost() {
        if !is_unprivileged("seal_host_key::unprivileged::a_place_that_may_not_be_read_is_no_proof") {
            return;
        }
        let host = Host::new();
        host.does("put a");
        set_mode(&host.state(), 0o000);
        let said = refused(&host);
        set_mode(&host.state(), 0o700);
        assert!(said.starts_with("unknown_key: ") && said.contains("denied"), "{said}");
        set_mode(&host.key(), 0o000);
        let said = refused(&host);
        assert!(said.starts_with("unknown_key: ") && said.contains("denied"), "{said}");
    }
}
