//! A document in the Secret Service: shared with `msal_extensions`, bounded in time, signalled by a file.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use strongroom::persistence::{self, Kind};
use strongroom::{
    AccessToken, AccessTokenRequest, Applied, Credential, CredentialKey, CredentialStore as _, Document,
    DocumentStore, Environments, Error, ErrorKind, Fence, Loaded, Location, Lookup, Persistence as _,
    Protection, Revision, Saved, Scopes, SecretBytes, SecretServicePersistence,
    SecretServicePersistenceBuilder, TokenCache, block_on, fork_for_tests,
};

use crate::keyring_support::{Actor, Bus, Keyring, PASSWORD, Reply, has_keyring};
use crate::persistence_support::{Moment, SteppedIn};
use crate::schema_support::{HOST, SCOPE, app_partition, app_token, change};
use crate::secrets::{TOKEN, assert_clean};
use crate::stores::{for_scope, put, secret};
use crate::support::{Process, another_process, names_in, skip, wait_until};

const TEXT: &str = r#"{"AccessToken":{},"note":"gr\u00fc\u00df","emoji":"🔐"}"#;

fn load(persistence: &SecretServicePersistence) -> Loaded {
    block_on(persistence.load()).unwrap()
}

fn text_of(persistence: &SecretServicePersistence) -> String {
    String::from_utf8(load(persistence).bytes.expose().to_vec()).unwrap()
}

fn save(persistence: &SecretServicePersistence, text: &str) -> Revision {
    let expected = load(persistence).revision;
    match save_at(persistence, text, &expected) {
        Ok(Saved::Saved(revision)) => revision,
        other => panic!("{other:?}"),
    }
}

fn save_at(persistence: &SecretServicePersistence, text: &str, expected: &Revision) -> Result<Saved, Error> {
    let bytes = SecretBytes::from(text.as_bytes().to_vec());
    block_on(persistence.save(&bytes, expected, &Fence::open()))
}

fn modified(path: &Path) -> SystemTime {
    path.metadata().unwrap().modified().unwrap()
}

/// The default of `msal_extensions`, from the path as it was given.
fn schema_of(signal: &Path) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, signal.to_str().unwrap().as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The codes of an attempt to load, to save and to remove.
fn codes(persistence: &SecretServicePersistence) -> [String; 3] {
    let code = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
        assert!(error.remedy().is_some(), "{error}");
        error.code().to_owned()
    };
    [
        code(block_on(persistence.load()).unwrap_err()),
        code(save_at(persistence, TEXT, &Revision::absent()).unwrap_err()),
        code(block_on(persistence.remove()).unwrap_err()),
    ]
}

fn has_real_keyring(test: &str) -> bool {
    has_keyring(&format!("secret_service::{test}"))
}

#[test]
fn what_is_saved_is_a_text_item_with_our_attributes_and_is_loaded_again() {
    if !has_real_keyring("what_is_saved_is_a_text_item_with_our_attributes_and_is_loaded_again") {
        return;
    }
    let keyring = Keyring::start();
    let persistence = keyring.bus.persistence();
    let empty = load(&persistence);
    assert!(empty.bytes.is_empty() && empty.revision == Revision::absent());
    assert!(!keyring.bus.signal().exists(), "looking leaves nothing behind");

    let revision = save(&persistence, TEXT);
    assert_eq!(revision, Revision::of_bytes(TEXT.as_bytes()));
    let other = keyring.bus.persistence();
    let loaded = load(&other);
    assert_eq!(loaded.bytes.expose(), TEXT.as_bytes());
    assert_eq!(loaded.revision, revision);

    let client = keyring.bus.client();
    let schema = schema_of(&keyring.bus.signal());
    let [item] = &client.find(&[("xdg:schema", &schema)])[..] else { panic!("one item") };
    let (attributes, label, content, kind) = client.item(item);
    assert_eq!(attributes.into_iter().collect::<Vec<_>>(), [("xdg:schema".to_owned(), schema.clone())]);
    assert_eq!((label.as_str(), kind.as_str()), ("", "text/plain"));
    assert_eq!(content, TEXT.as_bytes());

    save(&other, "{}");
    assert_eq!(text_of(&persistence), "{}");
    assert_eq!(client.find(&[("xdg:schema", &schema)]).len(), 1, "replaced, not added");

    assert_eq!(persistence.kind(), "secret-service");
    assert_eq!(persistence.protection(), Protection::OsStore);
    let signal = keyring.bus.signal().display().to_string();
    assert!(matches!(persistence.location(), Location::Item(text) if text.contains(&signal)));
    assert_eq!(persistence.lock_path(), Some(format!("{signal}.lockfile").into()));
}

#[test]
fn schema_attributes_label_and_keyring_are_those_that_were_asked_for() {
    if !has_real_keyring("schema_attributes_label_and_keyring_are_those_that_were_asked_for") {
        return;
    }
    let keyring = Keyring::start();
    let client = keyring.bus.client();
    let builder = || keyring.bus.builder().schema_name("app.schema").attribute("app", "x");
    for (collection, label) in [("session", "one"), ("default", "two")] {
        let persistence =
            builder().attribute("where", collection).label(label).collection(collection).build().unwrap();
        save(&persistence, label);
        let [item] = &client.find(&[("xdg:schema", "app.schema"), ("where", collection)])[..] else {
            panic!()
        };
        let (attributes, found, ..) = client.item(item);
        assert_eq!((attributes.len(), found.as_str()), (3, label));
        let is_in_session = item.as_str().contains("/collection/session/");
        assert_eq!(is_in_session, collection == "session", "{item}");
    }
    let at = client.default_keyring();
    save(&builder().attribute("where", "path").collection(at.as_str()).build().unwrap(), "three");
    let code = |builder: SecretServicePersistenceBuilder| builder.build().unwrap_err().code().to_owned();
    assert_eq!(code(builder().attribute("xdg:schema", "other")), "reserved_attribute");
    for wrong in ["", "/", "no/alias"] {
        assert_eq!(code(builder().collection(wrong)), "invalid_collection");
    }
    assert_eq!(code(SecretServicePersistence::builder("/")), "invalid_path");

    let nowhere = builder().attribute("where", "nowhere").collection("nowhere").build().unwrap();
    assert!(load(&nowhere).bytes.is_empty());
    assert_eq!(save_at(&nowhere, TEXT, &Revision::absent()).unwrap_err().code(), "no_keyring");
}

#[test]
fn the_builder_of_all_persistences_gives_the_same_item() {
    if !has_real_keyring("the_builder_of_all_persistences_gives_the_same_item") {
        return;
    }
    let keyring = Keyring::start();
    let (signal, address) = (keyring.bus.signal(), keyring.bus.address());
    let builder = || {
        let address = address.clone();
        persistence::builder(&signal)
            .kind(Kind::SecretService)
            .secret_service(|item| item.session_bus(address))
    };
    let chosen = builder().min_protection(Protection::OsStore).build().unwrap();
    let choice = chosen.choice();
    assert_eq!((choice.kind, choice.protection), ("secret-service", Protection::OsStore));
    assert_eq!(choice.key_source, None);
    assert!(choice.reasons.iter().any(|reason| reason.contains("was asked for")), "{choice:?}");
    put(&DocumentStore::new(chosen), app_token());
    assert!(secret(&DocumentStore::new(keyring.bus.persistence()), &app_token()).is_some());
    assert_eq!(builder().choose().unwrap().kind, "secret-service", "its signal file is no cache");
    let named = builder().secret_service(|item| item.schema_name("another").label("one of ours"));
    assert!(secret(&DocumentStore::new(named.build().unwrap()), &app_token()).is_none());

    for content in [TEXT, "SQLite format 3"] {
        std::fs::write(&signal, content).unwrap();
        let error = builder().build().unwrap_err();
        assert_eq!(error.code(), "not_a_signal_file");
        assert_eq!(std::fs::read_to_string(&signal).unwrap(), content);
    }
}

#[test]
fn of_several_items_that_match_the_newest_with_exactly_our_attributes_is_ours() {
    if !has_real_keyring("of_several_items_that_match_the_newest_with_exactly_our_attributes_is_ours") {
        return;
    }
    let keyring = Keyring::start();
    let client = keyring.bus.client();
    let schema = ("xdg:schema", "shared");
    let persistence = keyring.bus.builder().schema_name("shared").attribute("app", "x").build().unwrap();
    let foreign = client.create(&[schema, ("app", "x"), ("user", "y")], "another's");
    client.create(&[schema], "a third one's");
    assert!(load(&persistence).bytes.is_empty(), "a subset is not enough, nor is a superset");
    save(&persistence, "a first one of ours");
    assert_eq!(client.item(&foreign).2, b"another's");
    block_on(persistence.remove()).unwrap();

    let ours = [schema, ("app", "x")];
    let old = client.create(&ours, "old");
    assert_eq!(text_of(&persistence), "old");
    let new = client.create_after(&old, &ours, "new");
    assert_eq!(text_of(&persistence), "new");
    save(&persistence, "newer");
    assert_eq!((client.item(&old).2, client.item(&new).2), (b"old".to_vec(), b"newer".to_vec()));
    block_on(persistence.remove()).unwrap();
    assert!(load(&persistence).bytes.is_empty(), "an older one would be the document otherwise");
    assert_eq!(client.item(&foreign).2, b"another's");
    assert_eq!(client.find(&[schema]).len(), 2);
}

#[test]
fn a_removed_document_is_gone_is_signalled_and_can_be_made_again() {
    if !has_real_keyring("a_removed_document_is_gone_is_signalled_and_can_be_made_again") {
        return;
    }
    let keyring = Keyring::start();
    let (persistence, signal) = (keyring.bus.persistence(), keyring.bus.signal());
    block_on(persistence.remove()).unwrap();
    assert!(!signal.exists(), "nothing has changed");

    save(&persistence, TEXT);
    let revision = load(&keyring.bus.persistence()).revision;
    let before = modified(&signal);
    block_on(persistence.remove()).unwrap();
    assert!(modified(&signal) > before);
    assert!(!persistence.is_current(&revision).unwrap());
    assert!(load(&persistence).revision == Revision::absent());
    assert!(matches!(save_at(&persistence, "late", &revision), Ok(Saved::Conflict)), "it is gone");
    save(&persistence, "{}");
    assert_eq!(text_of(&persistence), "{}");
}

#[test]
fn the_signal_file_tells_of_each_change_and_a_look_up_asks_nothing_else() {
    if !has_real_keyring("the_signal_file_tells_of_each_change_and_a_look_up_asks_nothing_else") {
        return;
    }
    let keyring = Keyring::start();
    let (one, other, signal) = (keyring.bus.persistence(), keyring.bus.persistence(), keyring.bus.signal());
    let mut last = SystemTime::UNIX_EPOCH;
    let mut seen = load(&other).revision;
    for text in ["a", "b", "c"] {
        let revision = save(&one, text);
        assert!(modified(&signal) > last);
        last = modified(&signal);
        assert!(one.is_current(&revision).unwrap());
        assert!(!other.is_current(&seen).unwrap());
        seen = load(&other).revision;
        assert!(one.is_current(&revision).unwrap(), "reading signals nothing");
        assert_eq!(std::fs::read(&signal).unwrap(), b"", "never the payload");
    }
    // A time in the future, given by another clock, is passed as well.
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    touch(&signal, ahead);
    let revision = save(&one, "d");
    assert!(modified(&signal) > ahead);
    // What another program does with it.
    touch(&signal, SystemTime::now());
    assert!(!one.is_current(&revision).unwrap());

    // Once the stamps are old, a look-up needs nothing but them: the service may be gone.
    block_on(one.remove()).unwrap();
    put(&DocumentStore::new(keyring.bus.persistence()), app_token());
    let changed = || UNIX_EPOCH + Duration::from_secs(signal.metadata().unwrap().ctime().cast_unsigned());
    wait_until("the stamps are old", || changed().elapsed().is_ok_and(|age| age > Duration::from_secs(2)));
    let store = DocumentStore::new(keyring.bus.persistence());
    let found = || block_on(store.get(&CredentialKey::of_access_token(&app_token())));
    assert!(found().unwrap().is_some());
    keyring.end();
    for _ in 0..3 {
        assert!(found().unwrap().is_some());
        assert!(store.generation().unwrap().is_some());
    }
    touch(&signal, SystemTime::now());
    assert_eq!(store.generation().unwrap(), None);
    assert_eq!(found().unwrap_err().code(), "no_secret_service", "now it is asked");
}

#[test]
fn a_location_that_is_no_signal_file_is_refused_and_stays_as_it_is() {
    if !has_real_keyring("a_location_that_is_no_signal_file_is_refused_and_stays_as_it_is") {
        return;
    }
    let keyring = Keyring::start();
    let (persistence, signal) = (keyring.bus.persistence(), keyring.bus.signal());
    std::fs::create_dir(signal.parent().unwrap()).unwrap();
    for content in ["", "{}"] {
        std::fs::write(&signal, content).unwrap();
        save(&persistence, TEXT);
        assert_eq!(std::fs::read_to_string(&signal).unwrap(), content);
    }
    for content in [TEXT, "STRONGROOM1\0", " ", "{}\n"] {
        std::fs::write(&signal, content).unwrap();
        touch(&signal, SystemTime::UNIX_EPOCH);
        let errors = [
            block_on(persistence.load()).unwrap_err(),
            save_at(&persistence, "{}", &Revision::of_bytes(TEXT.as_bytes())).unwrap_err(),
            block_on(persistence.remove()).unwrap_err(),
        ];
        for error in errors {
            assert_eq!((error.code(), error.kind()), ("not_a_signal_file", ErrorKind::Unusable));
        }
        assert_eq!(std::fs::read_to_string(&signal).unwrap(), content);
        assert_eq!(modified(&signal), SystemTime::UNIX_EPOCH);
    }
    std::fs::remove_file(&signal).unwrap();
    assert_eq!(text_of(&persistence), TEXT, "the item has been left alone");
    std::fs::create_dir(&signal).unwrap();
    assert_eq!(block_on(persistence.load()).unwrap_err().code(), "not_a_file");
}

#[test]
fn a_change_that_another_program_makes_meanwhile_survives_as_ours_does() {
    if !has_real_keyring("a_change_that_another_program_makes_meanwhile_survives_as_ours_does") {
        return;
    }
    let keyring = Keyring::start();
    // A program that takes no lock writes between our load and our save: once, and then never again.
    let intruder = DocumentStore::new(keyring.bus.persistence());
    let step_in = move |moment| {
        if moment == Moment::Save(1) {
            let lockless = intruder.persistence();
            let document = block_on(lockless.load()).unwrap();
            let parsed = Document::parse(document.bytes).unwrap();
            let applied = parsed.apply(&change().put(Credential::AccessToken(for_scope("theirs")))).unwrap();
            let Applied::Changed { bytes, .. } = applied else { panic!() };
            let saved = block_on(lockless.save(&bytes, &document.revision, &Fence::open())).unwrap();
            assert!(matches!(saved, Saved::Saved(_)));
        }
    };
    let store = DocumentStore::new(SteppedIn::new(keyring.bus.persistence(), step_in));
    put(&store, for_scope("ours"));
    for scope in ["ours", "theirs"] {
        assert_eq!(secret(&store, &for_scope(scope)).as_deref(), Some(scope));
    }
}

#[test]
fn processes_that_write_at_the_same_time_lose_nothing() {
    const TEST: &str = "processes_that_write_at_the_same_time_lose_nothing";
    if !has_real_keyring(TEST) {
        return;
    }
    let keyring = Keyring::start();
    let mut processes: Vec<_> = (0..3)
        .map(|n| {
            let mut command = another_process("secret_service::helper_process_that_writes");
            keyring.bus.join(&mut command);
            command
                .env("STRONGROOM_TEST_SIGNAL", keyring.bus.signal())
                .env("STRONGROOM_TEST_WRITER", n.to_string());
            Process::start(&mut command)
        })
        .collect();
    processes.iter_mut().for_each(Process::finish);
    let store = DocumentStore::new(keyring.bus.persistence());
    assert_eq!(block_on(store.list(&app_partition())).unwrap().len(), 30);
    let beside = names_in(keyring.bus.signal().parent().unwrap());
    assert_eq!(beside, ["token_cache.bin", "token_cache.bin.lock"], "and the peers' lock is released");
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_writes() {
    let Some(signal) = std::env::var_os("STRONGROOM_TEST_SIGNAL") else { return };
    let writer = std::env::var("STRONGROOM_TEST_WRITER").unwrap();
    // The bus that the environment names.
    let persistence =
        SecretServicePersistence::builder(signal).deadline(Duration::from_secs(60)).build().unwrap();
    let store = DocumentStore::builder(persistence).lock_timeout(Duration::from_secs(60)).build();
    (0..10).for_each(|n| put(&store, for_scope(&format!("{writer}-{n}"))));
}

#[test]
fn a_forked_child_asks_the_service_on_a_thread_and_a_connection_of_its_own() {
    const TEST: &str = "a_forked_child_asks_the_service_on_a_thread_and_a_connection_of_its_own";
    if !has_real_keyring(TEST) {
        return;
    }
    let keyring = Keyring::start();
    let mut command = another_process("secret_service::helper_process_that_forks");
    keyring.bus.join(&mut command);
    command.env("STRONGROOM_TEST_SIGNAL", keyring.bus.signal());
    command.stderr(Stdio::inherit());
    Process::start(&mut command).finish();
    assert_eq!(text_of(&keyring.bus.persistence()), "the parent's again");
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_forks() {
    let Some(signal) = std::env::var_os("STRONGROOM_TEST_SIGNAL") else { return };
    let persistence =
        SecretServicePersistence::builder(signal).deadline(Duration::from_secs(60)).build().unwrap();
    save(&persistence, "the parent's");
    let child = fork_for_tests(|| {
        assert_eq!(text_of(&persistence), "the parent's");
        save(&persistence, "the child's");
        0
    });
    let child = rustix::process::Pid::from_raw(child.unwrap().cast_signed()).unwrap();
    let ended =
        rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(ended.1.exit_status(), Some(0));
    assert_eq!(text_of(&persistence), "the child's");
    save(&persistence, "the parent's again");
}

#[test]
fn a_locked_keyring_is_an_error_of_its_own_and_unlocked_it_goes_on() {
    if !has_real_keyring("a_locked_keyring_is_an_error_of_its_own_and_unlocked_it_goes_on") {
        return;
    }
    let keyring = Keyring::start();
    let persistence = keyring.bus.persistence();
    save(&persistence, TEXT);
    keyring.bus.client().lock();
    // Nothing on this bus can show a prompt, which the service takes for one that was dismissed.
    assert_eq!(codes(&persistence), ["keyring_locked"; 3]);
    let without_prompt = keyring.bus.builder().prompt(false).build().unwrap();
    assert_eq!(codes(&without_prompt), ["keyring_locked"; 3]);
    let nothing_yet = keyring.bus.builder().schema_name("another").build().unwrap();
    assert_eq!(codes(&nothing_yet), ["keyring_locked"; 3], "whether there is an item cannot be known");
    keyring.end();
    keyring.begin(PASSWORD);
    assert_eq!(text_of(&persistence), TEXT);

    // What is unlocked elsewhere is read without the locked one. Removing only the one would leave the other.
    let elsewhere = keyring.bus.builder().schema_name("twice").collection("session").build().unwrap();
    save(&elsewhere, "in the session");
    let client = keyring.bus.client();
    client.create(&[("xdg:schema", "twice")], "older");
    client.lock();
    assert_eq!(text_of(&elsewhere), "in the session");
    assert_eq!(block_on(elsewhere.remove()).unwrap_err().code(), "keyring_locked");
    assert_eq!(text_of(&elsewhere), "in the session");
}

#[test]
fn a_keyring_whose_password_was_wrong_is_locked_and_not_an_empty_cache() {
    if !has_real_keyring("a_keyring_whose_password_was_wrong_is_locked_and_not_an_empty_cache") {
        return;
    }
    let keyring = Keyring::start();
    let persistence = keyring.bus.persistence();
    save(&persistence, TEXT);
    keyring.end();
    keyring.begin("not the password");
    assert_eq!(codes(&persistence), ["keyring_locked"; 3]);
}

#[test]
fn a_prompt_that_nobody_answers_ends_with_the_deadline() {
    if !has_real_keyring("a_prompt_that_nobody_answers_ends_with_the_deadline") {
        return;
    }
    let keyring = Keyring::start();
    save(&keyring.bus.persistence(), TEXT);
    let client = keyring.bus.client();
    client.lock();
    // The program that shows the service's prompts, silent for ever.
    client.take_name("org.gnome.keyring.SystemPrompter");
    with_a_deadline_that_suffices(|deadline| {
        let hasty = keyring.bus.builder().deadline(deadline).build().unwrap();
        let codes = codes(&hasty);
        if codes.iter().any(|code| code == "secret_service_timed_out") {
            return false;
        }
        assert_eq!(codes, ["keyring_prompt_unanswered"; 3]);
        true
    });
    assert!(client.has_owner("org.freedesktop.secrets"), "the service bears it");
}

#[test]
fn a_prompt_that_nobody_waits_for_any_longer_ends_with_its_connection() {
    if !has_real_keyring("a_prompt_that_nobody_waits_for_any_longer_ends_with_its_connection") {
        return;
    }
    let bus = Bus::start();
    let actor = Actor::on(&bus, |method, _| match method {
        "SearchItems" => Reply::Items(vec![], vec![]),
        "ReadAlias" => Reply::Path("/org/freedesktop/secrets/collection/x"),
        "Get" => Reply::Locked(true),
        "OpenSession" => Reply::Session,
        "Unlock" => Reply::Prompt("/org/freedesktop/secrets/prompt/p1"),
        _ => Reply::Nothing,
    });
    with_a_deadline_that_suffices(|deadline| {
        let error = block_on(bus.builder().deadline(deadline).build().unwrap().load()).unwrap_err();
        if actor.count("Prompt") == 0 {
            return false;
        }
        assert_eq!((error.code(), error.is_retryable()), ("keyring_prompt_unanswered", true));
        true
    });
    let client = bus.client();
    wait_until("the connection has ended", || !client.has_owner(&actor.caller_of("Prompt")));
    assert_eq!((actor.count("Prompt"), actor.count("Dismiss")), (1, 0));
    let unwanted = bus.builder().prompt(false).build().unwrap();
    assert_eq!(block_on(unwanted.load()).unwrap_err().code(), "keyring_locked");
    assert_eq!(actor.count("Prompt"), 1, "none was shown");
}

#[test]
fn a_service_that_never_answers_ends_with_the_deadline_wherever_it_falls_silent() {
    const TEST: &str = "a_service_that_never_answers_ends_with_the_deadline_wherever_it_falls_silent";
    if !has_real_keyring(TEST) {
        return;
    }
    for (silent, doing) in [
        ("OpenSession", "looking for the item"),
        ("SearchItems", "looking for the item"),
        ("ReadAlias", "looking for the item"),
        ("CreateItem", "writing the item"),
    ] {
        with_a_deadline_that_suffices(|deadline| falls_silent(silent, doing, deadline));
    }
}

/// Whether the service was asked what it is silent about before the deadline passed.
fn falls_silent(silent: &'static str, doing: &str, deadline: Duration) -> bool {
    let bus = Bus::start();
    let actor = Actor::on(&bus, move |method, _| match method {
        method if method == silent => Reply::Never,
        "OpenSession" => Reply::Session,
        "SearchItems" => Reply::Items(vec![], vec![]),
        "ReadAlias" => Reply::Path("/org/freedesktop/secrets/collection/x"),
        "Get" => Reply::Locked(false),
        _ => Reply::Nothing,
    });
    let signal = bus.signal();
    std::fs::create_dir(signal.parent().unwrap()).unwrap();
    std::fs::write(&signal, "").unwrap();
    touch(&signal, UNIX_EPOCH);
    let hasty = bus.builder().deadline(deadline).build().unwrap();
    let error = save_at(&hasty, TEXT, &Revision::absent()).unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("secret_service_timed_out", true), "{error}");
    if actor.count(silent) == 0 {
        return false;
    }
    assert!(error.to_string().contains(doing), "{error}");
    // Whether the item was made nobody knows, so all are told to look.
    assert_eq!(modified(&signal) > UNIX_EPOCH, silent == "CreateItem", "{silent}");
    true
}

/// Tries short deadlines first, so that the test is quick, and longer ones where the machine was too busy to come
/// to the point within them.
fn with_a_deadline_that_suffices(mut attempt: impl FnMut(Duration) -> bool) {
    let suffices = [100, 500, 5000, 30_000].map(Duration::from_millis).into_iter().any(&mut attempt);
    assert!(suffices, "the machine is too busy");
}

#[test]
fn a_bus_that_never_answers_ends_with_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let silent = SecretServicePersistence::builder(folder.path().join("signal"))
        .session_bus(format!("unix:path={}", path.display()))
        .deadline(Duration::from_millis(100))
        .build()
        .unwrap();
    let error = block_on(silent.load()).unwrap_err();
    assert_eq!(error.code(), "secret_service_timed_out");
    assert!(error.to_string().contains("connecting"), "{error}");
    // Somebody was there, and was left waiting.
    listener.accept().unwrap();
    assert_eq!(names_in(folder.path()), ["bus"]);
}

#[test]
fn without_a_bus_or_a_service_or_the_right_to_use_it_each_error_says_so() {
    let folder = tempfile::tempdir().unwrap();
    for address in [format!("unix:path={}/none", folder.path().display()), "nonsense".into()] {
        let persistence =
            SecretServicePersistence::builder(folder.path().join("x")).session_bus(address).build().unwrap();
        assert_eq!(codes(&persistence), ["no_session_bus"; 3]);
    }
    if !has_real_keyring("without_a_bus_or_a_service_or_the_right_to_use_it_each_error_says_so") {
        return;
    }
    let bus = Bus::start();
    assert_eq!(codes(&bus.persistence()), ["no_secret_service"; 3]);
    let bus = Bus::with_policy(r#"<deny send_destination="org.freedesktop.secrets"/>"#);
    let keyring = Keyring::on(bus);
    assert_eq!(codes(&keyring.bus.persistence()), ["secret_service_access_denied"; 3]);
}

#[test]
fn an_item_that_vanishes_is_looked_for_again_and_given_up_when_it_always_does() {
    const TEST: &str = "an_item_that_vanishes_is_looked_for_again_and_given_up_when_it_always_does";
    if !has_real_keyring(TEST) {
        return;
    }
    for gone in ["org.freedesktop.Secret.Error.NoSuchObject", "org.freedesktop.DBus.Error.UnknownObject"] {
        let bus = Bus::start();
        let schema = schema_of(&bus.signal());
        let actor = Actor::on(&bus, move |method, _| match method {
            "SearchItems" => Reply::Items(vec!["/org/freedesktop/secrets/collection/x/1"], vec![]),
            "GetAll" => Reply::Attributes(vec![("xdg:schema".into(), schema.clone())]),
            "OpenSession" => Reply::Session,
            _ => Reply::Error(gone),
        });
        let error = block_on(bus.persistence().load()).unwrap_err();
        assert_eq!((error.code(), error.is_retryable()), ("keyring_item_gone", true));
        assert_eq!(actor.count("GetSecret"), 3);
    }
}

#[test]
fn what_is_no_text_or_too_large_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let persistence = SecretServicePersistence::builder(folder.path().join("signal"))
        .session_bus("unix:path=/nonexistent")
        .build()
        .unwrap();
    let save = |bytes: Vec<u8>| {
        let bytes = SecretBytes::from(bytes);
        block_on(persistence.save(&bytes, &Revision::absent(), &Fence::open())).unwrap_err().code().to_owned()
    };
    assert_eq!(save(vec![0xff, 0xfe]), "not_text");
    assert_eq!(save(vec![b' '; 64 << 20]), "too_large");
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn a_document_of_some_megabytes_makes_the_round_trip() {
    if !has_real_keyring("a_document_of_some_megabytes_makes_the_round_trip") {
        return;
    }
    let keyring = Keyring::start();
    let persistence = keyring.bus.persistence();
    let large = format!("{{\"x\":\"{}\"}}", "y".repeat(2 << 20));
    save(&persistence, &large);
    assert!(text_of(&keyring.bus.persistence()) == large);
}

#[test]
fn logs_at_the_most_verbose_level_show_no_token() {
    if !has_real_keyring("logs_at_the_most_verbose_level_show_no_token") {
        return;
    }
    let keyring = Keyring::start();
    let mut command = another_process("secret_service::helper_process_that_logs");
    keyring.bus.join(&mut command);
    command.env("STRONGROOM_TEST_SIGNAL", keyring.bus.signal());
    Process::start(&mut command).finish();
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_logs() {
    let Some(signal) = std::env::var_os("STRONGROOM_TEST_SIGNAL") else { return };
    let log = tempfile::NamedTempFile::new().unwrap();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::sync::Mutex::new(log.reopen().unwrap()))
        .init();
    let persistence =
        SecretServicePersistence::builder(signal).deadline(Duration::from_secs(60)).build().unwrap();
    save(&persistence, TOKEN);
    assert_eq!(text_of(&persistence), TOKEN);
    let logged = std::fs::read_to_string(log.path()).unwrap();
    assert!(
        logged.contains("SetSecret") || logged.contains("CreateItem"),
        "the test has gone deaf:\n{logged}"
    );
    assert_clean(&logged, &[TOKEN]);
}

/// The real `msal_extensions`, with these further arguments for its `LibsecretPersistence`.
struct Python {
    process: Process,
    input: ChildStdin,
}

impl Python {
    fn start(keyring: &Keyring, arguments: &str) -> Self {
        const PROGRAM: &str = r#"
import json, sys
from msal_extensions import LibsecretPersistence, PersistedTokenCache
signal, arguments = sys.argv[1], json.loads(sys.argv[2])
persistence = LibsecretPersistence(signal, **arguments)
cache = PersistedTokenCache(persistence)
host, client, realm, scope = sys.argv[3:7]
print("ready", flush=True)
for line in sys.stdin:
    command, _, rest = line.rstrip("\n").partition(" ")
    if command == "save":
        persistence.save(rest)
        print("saved", flush=True)
    elif command == "load":
        print("loaded", persistence.load(), flush=True)
    elif command == "search":
        query = {"client_id": client, "environment": host, "realm": realm, "home_account_id": None}
        found = [e["secret"] for e in cache.search("AccessToken", target=[scope], query=query, now=int(rest))]
        print("found", json.dumps(found), flush=True)
    elif command == "add":
        cache.add({"client_id": client, "scope": [scope], "token_endpoint": f"https://{host}/{realm}/oauth2/v2.0/token",
            "grant_type": "client_credentials", "data": {}, "params": {},
            "response": {"access_token": rest, "expires_in": 3600, "token_type": "Bearer"}})
        print("added", flush=True)
"#;
        let python = std::env::var_os("STRONGROOM_TEST_KEYRING_PYTHON").unwrap();
        let mut command = Command::new(python);
        keyring.bus.join(&mut command);
        if let Some(path) = std::env::var_os("STRONGROOM_TEST_KEYRING_PYTHONPATH") {
            command.env("PYTHONPATH", path);
        }
        let token = app_token();
        command.args(["-W", "ignore", "-c", PROGRAM]).arg(keyring.bus.signal()).arg(arguments);
        command.args([&token.environment, &token.client_id, &token.realm, SCOPE]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        process.wait_for("ready");
        let input = process.take_input();
        Self { process, input }
    }

    fn ask(&mut self, command: &str, answer: &str) -> String {
        writeln!(self.input, "{command}").unwrap();
        let line = self.process.wait_for(answer);
        line.trim_end_matches('\n').strip_prefix(answer).unwrap().trim_start().to_owned()
    }
}

fn has_python(test: &str) -> bool {
    if std::env::var_os("STRONGROOM_TEST_KEYRING_PYTHON").is_none() {
        skip(
            &format!("secret_service::{test}"),
            "needs a Python with msal-extensions and PyGObject (./test keyring)",
        );
        return false;
    }
    has_real_keyring(test)
}

#[test]
fn the_item_of_msal_extensions_is_ours_and_ours_is_its() {
    if !has_python("the_item_of_msal_extensions_is_ours_and_ours_is_its") {
        return;
    }
    let keyring = Keyring::start();
    let signal = keyring.bus.signal();
    std::fs::create_dir(signal.parent().unwrap()).unwrap();
    let plain = || keyring.bus.builder();
    let custom = || {
        keyring
            .bus
            .builder()
            .schema_name("my.schema")
            .label("my label")
            .attribute("a", "1")
            .attribute("b", "ü")
    };
    let arguments =
        r#"{"schema_name": "my.schema", "attributes": {"a": "1", "b": "ü"}, "label": "my label"}"#;
    let in_session = r#"{"schema_name": "s", "collection": "session"}"#;
    for (builder, arguments) in [
        (plain(), "{}"),
        (custom(), arguments),
        (keyring.bus.builder().schema_name("s").collection("session"), in_session),
    ] {
        let persistence = builder.build().unwrap();
        let mut python = Python::start(&keyring, arguments);
        save(&persistence, TEXT);
        assert_eq!(python.ask("load", "loaded"), TEXT, "{arguments}");
        python.ask("save {\"by\": \"Python\"}", "saved");
        assert_eq!(text_of(&persistence), "{\"by\": \"Python\"}", "{arguments}");
        save(&persistence, "{\"by\": \"us\"}");
        assert_eq!(python.ask("load", "loaded"), "{\"by\": \"us\"}", "{arguments}");
        block_on(persistence.remove()).unwrap();
        // Made by the peer, replaced by us.
        python.ask("save one", "saved");
        save(&persistence, "two");
        assert_eq!(python.ask("load", "loaded"), "two", "{arguments}");
    }
    let client = keyring.bus.client();
    for (schema, label) in [(schema_of(&signal).as_str(), ""), ("my.schema", "my label"), ("s", "")] {
        let [item] = &client.find(&[("xdg:schema", schema)])[..] else { panic!("one item of {schema}") };
        let (_, found, _, kind) = client.item(item);
        assert_eq!((found.as_str(), kind.as_str()), (label, "text/plain"));
    }
}

#[test]
fn a_running_python_sees_each_token_of_ours_at_its_next_search_and_we_see_its() {
    if !has_python("a_running_python_sees_each_token_of_ours_at_its_next_search_and_we_see_its") {
        return;
    }
    let keyring = Keyring::start();
    std::fs::create_dir(keyring.bus.signal().parent().unwrap()).unwrap();
    let mut python = Python::start(&keyring, "{}");
    let cache = TokenCache::with_persistence(keyring.bus.persistence());
    let environments = Environments::of(HOST);
    let request = AccessTokenRequest::for_app("client-id", &environments, "tid", Scopes::from(SCOPE));
    for round in 0..3 {
        let (ours, theirs) = (format!("ours-{round}"), format!("theirs-{round}"));
        let now = cache.now();
        let token = AccessToken {
            secret: ours.as_str().into(),
            cached_at: now,
            expires_on: now.plus(3600),
            extended_expires_on: now.plus(3600),
            refresh_on: None,
            ..app_token()
        };
        block_on(cache.store_access_token(token, &environments)).unwrap();
        assert_eq!(python.ask(&format!("search {now}"), "found"), format!("[\"{ours}\"]"));
        python.ask(&format!("add {theirs}"), "added");
        match block_on(cache.find_access_token(&request)).unwrap() {
            Lookup::Hit(token) => assert_eq!(token.secret.expose(), theirs),
            other => panic!("{other:?}"),
        }
    }
    let beside = names_in(keyring.bus.signal().parent().unwrap());
    assert!(!beside.iter().any(|name| name.ends_with(".lockfile")), "released by both: {beside:?}");
}

fn touch(path: &Path, time: SystemTime) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_times(std::fs::FileTimes::new().set_modified(time)).unwrap();
}
