//! Which persistence a document gets, and why: what is there decides first.

use strongroom::persistence::{self, Kind};
use strongroom::{FilePersistence, KeySelector, Persistence as _, Protection, SealedPersistence};

use crate::seal_support::{Vault, code, has, in_process, load, process_with, put, scopes};
use crate::support::{Process, names_in};

fn with_key(vault: &Vault) -> persistence::PersistenceBuilder {
    persistence::builder(vault.cache()).key_source(KeySelector::File(vault.key_file()))
}

#[test]
fn a_new_document_is_sealed_and_the_choice_says_why() {
    let vault = Vault::new();
    let chosen = with_key(&vault).build().unwrap();
    let choice = chosen.choice().clone();
    assert_eq!((choice.kind, choice.protection), ("sealed", Protection::ProvidedKey));
    assert_eq!(choice.key_source, Some(format!("file:{}", vault.key_file().display())));
    assert!(choice.reasons[0].ends_with("nothing is there yet"), "{choice:?}");
    assert_eq!(with_key(&vault).choose().unwrap(), choice);
    assert_eq!((chosen.kind(), chosen.protection()), ("sealed", Protection::ProvidedKey));
    put(chosen, "a").unwrap();
    assert!(has(with_key(&vault).build().unwrap(), "a").unwrap());
}

#[test]
fn plain_text_is_refused_at_construction_and_left_as_it_is() {
    let vault = Vault::new();
    put(FilePersistence::new(vault.cache()).unwrap(), "a").unwrap();
    let (content, names) = (vault.content(), names_in(vault.folder.path()));
    for kind in [Kind::Auto, Kind::Sealed] {
        let error = with_key(&vault).kind(kind).build().unwrap_err();
        assert_eq!(error.code(), "not_sealed");
        assert!(error.remedy().unwrap().contains("migrate"), "{:?}", error.remedy());
    }
    assert_eq!(code(persistence::encrypted(vault.cache())), "not_sealed");
    assert_eq!((vault.content(), names_in(vault.folder.path())), (content, names));
}

#[test]
fn what_is_no_cache_at_all_is_refused() {
    let vault = Vault::new();
    for (content, expected) in [
        (&b"SQLite format 3\0"[..], "not_a_token_cache"),
        (b"\x89STRONG\n", "truncated"),
        (b"\x89STRONG\n\x02", "later_version"),
    ] {
        std::fs::write(vault.cache(), content).unwrap();
        assert_eq!(code(with_key(&vault).build()), expected);
        assert_eq!(code(persistence::open(vault.cache())), expected);
        assert_eq!(vault.content(), content);
    }
    std::fs::remove_file(vault.cache()).unwrap();
    std::fs::create_dir(vault.cache()).unwrap();
    assert_eq!(code(with_key(&vault).build()), "not_a_file");
}

#[test]
fn a_kind_that_is_not_in_this_build_says_what_it_needs() {
    let vault = Vault::new();
    for (kind, needs) in [(Kind::Dpapi, "Windows"), (Kind::Keychain, "macOS")] {
        let error = persistence::builder(vault.cache()).kind(kind).build().unwrap_err();
        assert_eq!(error.code(), "feature_missing");
        assert!(
            error.to_string().contains(needs) && error.to_string().contains(&kind.to_string()),
            "{error}"
        );
        assert!(error.remedy().is_some());
    }
}

#[test]
fn an_empty_file_and_an_empty_object_leave_the_choice() {
    let vault = Vault::new();
    for empty in ["", "{}", "{ }\n"] {
        std::fs::write(vault.cache(), empty).unwrap();
        put(with_key(&vault).build().unwrap(), "a").unwrap();
        assert!(vault.content().starts_with(b"\x89STRONG\n"), "{empty:?}");
    }
}

#[test]
fn plain_text_is_used_only_if_it_is_asked_for() {
    let vault = Vault::new();
    let plain = || persistence::builder(vault.cache()).kind(Kind::File).build().unwrap();
    put(plain(), "a").unwrap();
    assert!(vault.content().starts_with(b"{"));
    assert_eq!(plain().choice().protection, Protection::None);
    let fallen_back = with_key(&vault).fallback_to_plaintext(true).build().unwrap();
    assert_eq!(fallen_back.choice().kind, "file");
    assert!(has(fallen_back, "a").unwrap());
}

#[test]
fn the_fallback_is_for_a_machine_that_can_keep_no_key() {
    let vault = Vault::new();
    let nowhere = vault.key_file().join("no/folder");
    let environment = [("STRONGROOM_KEY_FILE", nowhere.as_path())];
    let said = in_process(&environment, "put a", &vault.cache());
    assert!(!said.starts_with("sealed"), "{said}");
    assert_eq!(in_process(&environment, "fall-back a", &vault.cache()), "file - none");
    assert!(vault.content().starts_with(b"{"));
    // Where there is a key nothing is plain, asked for or not.
    std::fs::remove_file(vault.cache()).unwrap();
    let key_file = vault.key_file();
    let said = in_process(&[("STRONGROOM_KEY_FILE", &key_file)], "fall-back a", &vault.cache());
    assert!(said.starts_with("sealed file:"), "{said}");
}

#[test]
fn less_protection_than_demanded_is_refused() {
    let vault = Vault::new();
    let least = |least| with_key(&vault).min_protection(least);
    least(Protection::ProvidedKey).build().unwrap();
    assert_eq!(code(least(Protection::OsStore).build()), "protection_too_low");
    let plain = persistence::builder(vault.cache()).kind(Kind::File).min_protection(Protection::HostFile);
    assert_eq!(code(plain.build()), "protection_too_low");
    put(with_key(&vault).build().unwrap(), "a").unwrap();
    assert_eq!(code(least(Protection::OsStore).build()), "protection_too_low", "also of what is there");
    assert!(!names_in(vault.folder.path()).iter().any(|name| name.contains("corrupt")));
}

#[test]
fn a_document_that_appears_after_the_choice_is_opened_with_its_own_source() {
    let (vault, other) = (Vault::new(), Vault::new());
    let key_file = vault.key_file();
    let mut command = process_with(&[("STRONGROOM_KEY_FILE", &key_file)]);
    command.env("TEST_DO", "choose-and-wait b").env("TEST_CACHE", vault.cache());
    let mut process = Process::start(&mut command);
    process.wait_for("chosen");
    // Another process, in another environment, is faster.
    let faster = FilePersistence::new(vault.cache()).unwrap();
    put(SealedPersistence::new(faster, other.source()), "a").unwrap();
    process.finish();
    let opened = persistence::open(vault.cache()).unwrap();
    assert_eq!(opened.choice().key_source, Some(format!("file:{}", other.key_file().display())));
    assert_eq!(scopes(opened).unwrap(), ["a", "b"], "one cache, not two");
}

#[test]
fn whatever_is_there_can_be_opened_as_it_is() {
    let vault = Vault::new();
    let nothing = persistence::open(vault.cache()).unwrap();
    assert!(load(&nothing).unwrap().is_empty());
    assert_eq!(names_in(vault.folder.path()), ["keys"], "opening makes nothing");
    put(FilePersistence::new(vault.cache()).unwrap(), "a").unwrap();
    assert_eq!(persistence::open(vault.cache()).unwrap().choice().kind, "file");
    std::fs::remove_file(vault.cache()).unwrap();
    put(with_key(&vault).build().unwrap(), "b").unwrap();
    let opened = persistence::open(vault.cache()).unwrap();
    assert_eq!(opened.choice().kind, "sealed");
    assert_eq!(scopes(opened).unwrap(), ["b"]);
}

#[test]
fn a_key_source_that_does_not_have_the_key_of_what_is_there_is_refused() {
    let (vault, other) = (Vault::new(), Vault::new());
    put(vault.sealed(), "a").unwrap();
    let builder = persistence::builder(vault.cache()).key_source(KeySelector::File(other.key_file()));
    let error = builder.build().unwrap_err();
    assert_eq!(error.code(), "unknown_key");
    assert!(error.to_string().contains(&other.key_file().display().to_string()), "{error}");
}
