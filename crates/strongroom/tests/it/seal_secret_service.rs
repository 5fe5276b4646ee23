//! The Secret Service as a source of keys: chosen where it answers, never waited for where it is not, shared by all
//! processes of the session.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use strongroom::persistence::sealed_with;
use strongroom::{KeyRing, KeySelector, KeySourceKind};

use crate::keyring_support::{Actor, Bus, Keyring, PASSWORD, Reply, has_keyring};
use crate::seal_support::{Vault, answer_in, in_process, process_with};
use crate::support::{names_in, skip};

const ATTRIBUTES: [(&str, &str); 2] = [("xdg:schema", "strongroom.KeyRing"), ("application", "strongroom")];

/// A cache in a session, and on a host of its own.
struct Desk {
    folder: tempfile::TempDir,
    keyring: Keyring,
}

impl Desk {
    fn start() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), keyring: Keyring::start() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache.bin")
    }

    fn host(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    /// Does something with the cache in the session.
    fn does(&self, what: &str) -> String {
        in_session(&self.keyring.bus, &self.host(), what, &self.cache())
    }

    /// Does it where there is no session: cron, ssh.
    fn does_outside(&self, what: &str) -> String {
        in_process(&[("STRONGROOM_STATE_DIR", &self.host())], what, &self.cache())
    }

    /// The keys in the keyring, as another program sees them.
    fn items(&self) -> Vec<String> {
        let client = self.keyring.bus.client();
        let items = client.find(&ATTRIBUTES);
        items.iter().map(|item| String::from_utf8(client.item(item).2).unwrap()).collect()
    }
}

fn in_session(bus: &Bus, host: &Path, what: &str, cache: &Path) -> String {
    let address = PathBuf::from(bus.address());
    in_process(&[("DBUS_SESSION_BUS_ADDRESS", &address), ("STRONGROOM_STATE_DIR", host)], what, cache)
}

fn has_real_keyring(test: &str) -> bool {
    has_keyring(&format!("seal_secret_service::{test}"))
}

#[test]
fn in_a_session_a_new_cache_is_sealed_with_a_key_in_its_keyring() {
    if !has_real_keyring("in_a_session_a_new_cache_is_sealed_with_a_key_in_its_keyring") {
        return;
    }
    let desk = Desk::start();
    let why = desk.does("choose");
    assert!(why.starts_with("secret-service ") && why.contains("answers and is unlocked"), "{why}");
    assert_eq!(desk.items(), [""; 0], "choosing makes nothing");
    assert_eq!(desk.does("put a"), "sealed secret-service os-store");
    assert_eq!(desk.does("put b"), "sealed secret-service os-store");
    assert_eq!(desk.does("scopes"), "a b");
    assert!(!desk.host().exists(), "there is no host key");

    let sealed_with = sealed_with(desk.cache()).unwrap().unwrap();
    assert_eq!(sealed_with.kind(), Some(KeySourceKind::SecretService));
    assert_eq!(desk.does("key secret-service"), sealed_with.key_id().to_string());
    let client = desk.keyring.bus.client();
    let [item] = &client.find(&ATTRIBUTES)[..] else { panic!("one item") };
    let (attributes, label, content, _) = client.item(item);
    assert_eq!(attributes.len(), ATTRIBUTES.len());
    assert_eq!(label, "Strongroom: keys of token caches");
    let text = String::from_utf8(content).unwrap();
    assert!(text.starts_with("strongroom-key-1:") && text.lines().count() == 1, "{}", text.len());
    // It is the text of a key file.
    let file = desk.folder.path().join("cache.key");
    std::fs::write(&file, text).unwrap();
    let outside = [("STRONGROOM_KEY_FILE", file.as_path())];
    crate::support::set_mode(&file, 0o600);
    assert_eq!(in_process(&outside, "scopes", &desk.cache()), "a b");
}

#[test]
fn a_cache_whose_key_is_in_the_keyring_conforms() {
    if has_real_keyring("a_cache_whose_key_is_in_the_keyring_conforms") {
        assert_eq!(Desk::start().does("conforms secret-service"), "all hold");
    }
}

#[test]
fn sixteen_processes_that_start_at_once_make_one_key() {
    if !has_real_keyring("sixteen_processes_that_start_at_once_make_one_key") {
        return;
    }
    let desk = Desk::start();
    let address = PathBuf::from(desk.keyring.bus.address());
    let children: Vec<_> = (0..16)
        .map(|_| {
            let mut command = process_with(&[("DBUS_SESSION_BUS_ADDRESS", &address)]);
            command.env("TEST_DO", "key-to-seal").env("TEST_CACHE", desk.cache());
            command.stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let mut keys: Vec<_> = children
        .into_iter()
        .map(|child| answer_in(std::str::from_utf8(&child.wait_with_output().unwrap().stdout).unwrap()))
        .collect();
    keys.dedup();
    assert_eq!(keys.len(), 1, "{keys:?}");
    let items = desk.items();
    assert_eq!((items.len(), items[0].lines().count()), (1, 1));
}

#[test]
fn rotations_at_the_same_time_lose_no_key() {
    if !has_real_keyring("rotations_at_the_same_time_lose_no_key") {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    let first = desk.does("key secret-service");
    let address = PathBuf::from(desk.keyring.bus.address());
    let children: Vec<_> = (0..8)
        .map(|_| {
            let mut command = process_with(&[("DBUS_SESSION_BUS_ADDRESS", &address)]);
            command.env("TEST_DO", "rotate secret-service").env("TEST_CACHE", desk.cache());
            command.stdin(Stdio::null()).spawn().unwrap()
        })
        .collect();
    let mut made: Vec<_> = children
        .into_iter()
        .map(|child| answer_in(std::str::from_utf8(&child.wait_with_output().unwrap().stdout).unwrap()))
        .collect();
    made.push(first);
    made.sort();
    let now = desk.does("keys secret-service");
    let mut keys: Vec<_> = now.split(' ').map(str::to_owned).collect();
    let primary = keys[0].clone();
    keys.sort();
    assert_eq!(keys, made);
    assert_eq!(desk.does("scopes"), "a");
    desk.does("put b");
    assert_eq!(sealed_with(desk.cache()).unwrap().unwrap().key_id().to_string(), primary);
    assert_eq!(desk.does("scopes"), "a b");
}

#[test]
fn keys_are_imported_for_reading_also_into_a_keyring_without_any() {
    if !has_real_keyring("keys_are_imported_for_reading_also_into_a_keyring_without_any") {
        return;
    }
    let desk = Desk::start();
    let vault = Vault::new();
    assert!(desk.does("keys secret-service").starts_with("no_key: "));
    let empty = desk.folder.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    assert!(desk.does(&format!("import secret-service {}", empty.display())).starts_with("invalid_keys: "));
    assert_eq!(desk.items(), [""; 0], "no key was made for nothing");
    let import = format!("import secret-service {}", vault.key_file().display());
    assert_eq!(desk.does(&import), "2");
    assert_eq!(desk.does(&import), "2", "it has that one already");
    let theirs = in_process(&[], &format!("key file:{}", vault.key_file().display()), &desk.cache());
    assert!(desk.does("keys secret-service").ends_with(&theirs));
    let nonsense = desk.folder.path().join("nonsense");
    std::fs::write(&nonsense, "nonsense").unwrap();
    let import = format!("import secret-service {}", nonsense.display());
    assert!(desk.does(&import).starts_with("invalid_keys: "));
}

#[test]
fn of_several_items_every_key_opens_and_the_newest_seals() {
    if !has_real_keyring("of_several_items_every_key_opens_and_the_newest_seals") {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    let before = desk.does("key secret-service");
    let client = desk.keyring.bus.client();
    let old = client.find(&ATTRIBUTES).remove(0);
    let text = String::from_utf8(KeyRing::generate().unwrap().expose().expose().to_vec()).unwrap();
    client.create_after(&old, &ATTRIBUTES, &text);
    let keys = desk.does("keys secret-service");
    assert!(keys.ends_with(&before) && keys.split(' ').count() == 2, "{keys}");
    assert_eq!(desk.does("scopes"), "a");
    desk.does("put b");
    let primary = sealed_with(desk.cache()).unwrap().unwrap().key_id().to_string();
    assert!(keys.starts_with(&primary), "{keys}");
    // What is no key of ours hides none.
    client.create_after(&old, &ATTRIBUTES, "hunter2");
    assert_eq!(desk.does("keys secret-service"), keys);
    assert_eq!(desk.does("scopes"), "a b");
    let rotated = desk.does("rotate secret-service");
    assert!(desk.does("keys secret-service").starts_with(&rotated));
    assert!(desk.items().contains(&"hunter2".to_owned()), "it was not touched");
}

#[test]
fn items_without_a_key_are_an_error_where_nothing_else_is() {
    if !has_real_keyring("items_without_a_key_are_an_error_where_nothing_else_is") {
        return;
    }
    let desk = Desk::start();
    desk.keyring.bus.client().create(&ATTRIBUTES, "hunter2");
    for what in ["keys secret-service", "rotate secret-service"] {
        let said = desk.does(what);
        assert!(said.starts_with("invalid_keys: ") && !said.contains("hunter2"), "{said}");
    }
    assert_eq!(desk.items(), ["hunter2"]);
}

#[test]
fn a_key_of_another_keyring_opens_and_never_seals_and_no_key_is_written_there() {
    if !has_real_keyring("a_key_of_another_keyring_opens_and_never_seals_and_no_key_is_written_there") {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    let before = desk.does("key secret-service");
    let client = desk.keyring.bus.client();
    let own = client.find(&ATTRIBUTES).remove(0);
    let theirs = KeyRing::generate().unwrap();
    let text = String::from_utf8(theirs.expose().expose().to_vec()).unwrap();
    let other = client.create_after_in(&client.session_keyring(), &own, &ATTRIBUTES, &text);
    assert_eq!(desk.does("keys secret-service"), format!("{before} {}", theirs.primary()));

    let rotated = desk.does("rotate secret-service");
    let vault = Vault::new();
    assert_eq!(desk.does(&format!("import secret-service {}", vault.key_file().display())), "4");
    desk.does("put b");
    assert_eq!(sealed_with(desk.cache()).unwrap().unwrap().key_id().to_string(), rotated);
    assert_eq!(desk.does("scopes"), "a b");
    assert_eq!(client.item(&other).2, text.as_bytes());
    let own = String::from_utf8(client.item(&own).2).unwrap();
    let secret = text.split(' ').next().unwrap();
    assert!(own.lines().count() == 3 && !own.contains(secret), "{}", own.lines().count());
}

#[test]
fn where_only_another_keyring_has_the_key_the_next_write_makes_one_in_the_default_keyring() {
    if !has_real_keyring(
        "where_only_another_keyring_has_the_key_the_next_write_makes_one_in_the_default_keyring",
    ) {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    let before = desk.does("key secret-service");
    let client = desk.keyring.bus.client();
    let own = client.find(&ATTRIBUTES).remove(0);
    let text = String::from_utf8(client.item(&own).2).unwrap();
    let other = client.create_in(&client.session_keyring(), &ATTRIBUTES, &text);
    client.delete(&own);
    assert_eq!(desk.does("scopes"), "a");
    let said = desk.does("keys secret-service");
    assert!(said.starts_with("no_key: ") && said.contains("other keyrings have 1"), "{said}");
    assert_eq!(client.find(&ATTRIBUTES), std::slice::from_ref(&other), "reading makes no key");

    desk.does("put b");
    assert_ne!(sealed_with(desk.cache()).unwrap().unwrap().key_id().to_string(), before);
    assert_eq!(desk.does("scopes"), "a b");
    assert_eq!((desk.items().len(), client.item(&other).2), (2, text.into_bytes()));
}

#[test]
fn an_item_that_can_be_read_does_not_hide_that_the_keyring_with_the_key_is_locked() {
    if !has_real_keyring("an_item_that_can_be_read_does_not_hide_that_the_keyring_with_the_key_is_locked") {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    let client = desk.keyring.bus.client();
    let text = String::from_utf8(KeyRing::generate().unwrap().expose().expose().to_vec()).unwrap();
    client.create_in(&client.session_keyring(), &ATTRIBUTES, &text);
    client.lock();
    let said = desk.does("scopes");
    assert!(said.starts_with("unknown_key: ") && said.contains("the keyring is locked"), "{said}");
    let said = desk.does("rotate secret-service");
    assert!(said.starts_with("key_source_unavailable: ") && said.contains("is locked"), "{said}");
    let new = desk.folder.path().join("new.bin");
    let why = in_session(&desk.keyring.bus, &desk.host(), "choose", &new);
    assert!(why.starts_with("host ") && why.contains("the keyring is locked"), "{why}");
}

#[test]
fn an_unknown_key_may_be_in_another_keyring_that_is_locked_which_is_told() {
    if !has_real_keyring("an_unknown_key_may_be_in_another_keyring_that_is_locked_which_is_told") {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    let client = desk.keyring.bus.client();
    let own = client.find(&ATTRIBUTES).remove(0);
    let text = String::from_utf8(client.item(&own).2).unwrap();
    let archive = client.create_keyring("archive");
    client.create_in(&archive, &ATTRIBUTES, &text);
    client.delete(&own);
    assert_eq!(desk.does("scopes"), "a");
    client.lock_keyring(&archive);
    let said = desk.does("scopes");
    assert!(said.starts_with("unknown_key: ") && said.contains("a keyring that is locked"), "{said}");
    // It hinders no new cache: that is sealed with a key of the default keyring.
    let new = desk.folder.path().join("new.bin");
    let put = in_session(&desk.keyring.bus, &desk.host(), "put a", &new);
    assert_eq!(put, "sealed secret-service os-store");
    // GNOME Keyring may have read the locked keyring anew by now, and then knows nothing of what is in it.
    let said = desk.does("scopes");
    assert!(said.starts_with("unknown_key: "), "{said}");
}

#[test]
fn a_locked_keyring_leaves_a_new_cache_to_the_host_key_and_opens_no_old_one() {
    if !has_real_keyring("a_locked_keyring_leaves_a_new_cache_to_the_host_key_and_opens_no_old_one") {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    for with_its_item in [true, false] {
        if !with_its_item {
            // Since the service was started it has not been unlocked: it does not even tell what it has.
            desk.keyring.end();
            desk.keyring.begin("a wrong password");
        }
        desk.keyring.bus.client().lock();
        let said = desk.does("scopes");
        assert!(said.starts_with("unknown_key: ") && said.contains("the keyring is locked"), "{said}");
        let new = desk.folder.path().join(format!("new-{with_its_item}.bin"));
        let why = in_session(&desk.keyring.bus, &desk.host(), "choose", &new);
        assert!(why.starts_with("host ") && why.contains("the keyring is locked"), "{why}");
        let put = in_session(&desk.keyring.bus, &desk.host(), "put a", &new);
        assert_eq!(put, "sealed host host-file");
    }
    desk.keyring.end();
    desk.keyring.begin(PASSWORD);
    assert_eq!(desk.does("scopes"), "a");
}

#[test]
fn what_is_sealed_stays_with_its_source_wherever_it_is_opened() {
    if !has_real_keyring("what_is_sealed_stays_with_its_source_wherever_it_is_opened") {
        return;
    }
    let desk = Desk::start();
    assert_eq!(desk.does_outside("put a"), "sealed host host-file");
    assert_eq!(desk.does("put b"), "sealed host host-file", "a session that appears makes no second cache");
    assert_eq!(desk.does("seal-with secret-service"), "secret-service");
    assert_eq!(desk.does("put c"), "sealed secret-service os-store");
    let said = desk.does_outside("scopes");
    assert!(said.starts_with("unknown_key: ") && said.contains("there is no session bus"), "{said}");
    let said = desk.does_outside("put d");
    assert!(said.starts_with("unknown_key: "), "no second cache, no host key in its place: {said}");
    assert_eq!(desk.does("seal-with host"), "host");
    assert_eq!(desk.does_outside("scopes"), "a b c");
    assert_eq!(names_in(desk.folder.path()).iter().filter(|name| name.contains("corrupt")).count(), 0);
}

#[test]
fn a_cache_moves_into_the_keyring_and_out_of_it() {
    if !has_real_keyring("a_cache_moves_into_the_keyring_and_out_of_it") {
        return;
    }
    let desk = Desk::start();
    let (bus, host) = (&desk.keyring.bus, desk.host());
    let item = desk.folder.path().join("item");
    let nothing = format!("out-of-keyring {}", desk.folder.path().join("new").display());
    assert!(in_session(bus, &host, &nothing, &item).starts_with("no_cache: "));
    desk.does("put a");
    assert!(desk.does("into-keyring").starts_with("new_location_needed: "));
    assert_eq!(desk.does(&format!("into-keyring {}", item.display())), "secret-service");
    assert!(!desk.cache().exists());
    assert_eq!(std::fs::read(&item).unwrap(), b"", "it is the signal file");
    assert_eq!(in_session(bus, &host, "in-keyring", &item), "a");

    let said = in_session(bus, &host, "out-of-keyring", &item);
    assert!(said.starts_with("new_location_needed: "), "{said}");
    let out = format!("out-of-keyring {}", desk.cache().display());
    assert_eq!(in_session(bus, &host, &out, &item), "sealed");
    assert_eq!(desk.does("scopes"), "a");
    assert_eq!(in_session(bus, &host, "in-keyring", &item), "");
}

#[test]
fn a_key_that_is_out_of_reach_is_an_error_that_names_the_re_seal() {
    if !has_real_keyring("a_key_that_is_out_of_reach_is_an_error_that_names_the_re_seal") {
        return;
    }
    let desk = Desk::start();
    desk.does("put a");
    let said = desk.does_outside("remedy");
    let re_seal =
        format!("strongroom migrate --cache {} --to sealed --key-source host", desk.cache().display());
    assert!(said.contains(&re_seal), "{said}");
    assert!(KeySelector::SecretService.open().unwrap().name() == "secret-service");
}

#[test]
fn what_is_configured_goes_before_the_keyring() {
    if !has_real_keyring("what_is_configured_goes_before_the_keyring") {
        return;
    }
    let desk = Desk::start();
    let vault = Vault::new();
    let (address, key_file) = (PathBuf::from(desk.keyring.bus.address()), vault.key_file());
    let environment =
        [("DBUS_SESSION_BUS_ADDRESS", address.as_path()), ("STRONGROOM_KEY_FILE", key_file.as_path())];
    let said = in_process(&environment, "put a", &desk.cache());
    assert!(said.starts_with("sealed file:"), "{said}");
    assert_eq!(desk.items(), [""; 0]);
}

#[test]
fn without_a_session_bus_nothing_is_waited_for_and_no_thread_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let host = folder.path().join("host");
    let cache = folder.path().join("cache.bin");
    let environment = [("STRONGROOM_STATE_DIR", host.as_path()), ("XDG_RUNTIME_DIR", folder.path())];
    assert_eq!(in_process(&environment, "choose-alone", &cache), "host 0");
    let why = in_process(&environment, "choose", &cache);
    let socket = folder.path().join("bus");
    assert!(why.contains(&format!("there is no {}", socket.display())), "{why}");
    let said = in_process(&environment, "key secret-service", &cache);
    assert!(said.starts_with("key_source_unavailable: secret-service cannot be used: "), "{said}");
}

#[test]
fn a_service_that_does_not_answer_leaves_a_new_cache_to_the_host_key() {
    if !is_bus_installed("a_service_that_does_not_answer_leaves_a_new_cache_to_the_host_key") {
        return;
    }
    let bus = Bus::start();
    let folder = tempfile::tempdir().unwrap();
    let (host, cache) = (folder.path().join("host"), folder.path().join("cache.bin"));
    let why = in_session(&bus, &host, "choose", &cache);
    assert!(why.starts_with("host ") && why.contains("there is no Secret Service"), "{why}");
    let _silent = Actor::on(&bus, |_, _| Reply::Never);
    let why = in_session(&bus, &host, "choose", &cache);
    assert!(why.starts_with("host ") && why.contains("did not answer within 2 s"), "{why}");
}

fn is_bus_installed(test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = std::env::split_paths(&path).any(|folder| folder.join("dbus-daemon").is_file());
    if !is_there {
        skip(&format!("seal_secret_service::{test}"), "needs dbus-daemon (./test keyring installs it)");
    }
    is_there
}
