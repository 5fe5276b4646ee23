//! Keeping a document otherwise: nothing is lost, whatever goes wrong, and the old one goes only when the new one is
//! proven.

use std::path::PathBuf;

use strongroom::CredentialStore as _;
use strongroom::persistence::{self, Kind, Migration, migrate, rewrite};
use strongroom::{DocumentStore, FilePersistence, KeySelector, Protection, block_on};

use crate::seal_support::{Vault, code, has, in_process, load, put, replace, scopes};
use crate::support::{mode_of, names_in};

fn plain(vault: &Vault) -> FilePersistence {
    FilePersistence::new(vault.cache()).unwrap()
}

fn to_sealed(vault: &Vault) -> Migration {
    migrate(vault.cache()).to(Kind::Sealed).key_source(KeySelector::File(vault.key_file()))
}

/// What lies beside the cache, but for locks and keys.
fn files(vault: &Vault) -> Vec<String> {
    let mut names = names_in(vault.folder.path());
    names.retain(|name| name != "keys" && !name.ends_with(".lock"));
    names
}

#[test]
fn plain_text_is_sealed_where_it_is_and_opened_again() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    let before = vault.content();
    let sealed = to_sealed(&vault).run().unwrap();
    assert_eq!((sealed.kind, sealed.protection), ("sealed", Protection::ProvidedKey));
    assert_eq!((sealed.location, sealed.kept), (vault.cache(), None));
    assert!(vault.content().starts_with(b"\x89STRONG\n"));
    assert!(has(vault.sealed(), "a").unwrap());
    assert_eq!(files(&vault), ["cache.bin"], "nothing else is left");

    let opened = migrate(vault.cache()).to(Kind::File).run().unwrap();
    assert_eq!((opened.kind, opened.key_source, opened.protection), ("file", None, Protection::None));
    assert_eq!(vault.content(), before, "byte for byte");
    assert_eq!(mode_of(&vault.cache()), 0o600);
}

#[test]
fn the_old_document_is_kept_if_that_is_wanted() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    let before = vault.content();
    let kept = to_sealed(&vault).keep(true).run().unwrap().kept.unwrap();
    assert!(kept.display().to_string().contains("cache.bin.old-"), "{}", kept.display());
    assert_eq!(std::fs::read(&kept).unwrap(), before);
    assert_eq!(mode_of(&kept), 0o600);
    assert!(has(vault.sealed(), "a").unwrap());
}

#[test]
fn a_sealed_document_gets_another_key_source() {
    let (vault, other) = (Vault::new(), Vault::new());
    put(vault.sealed(), "a").unwrap();
    let source = KeySelector::File(other.key_file());
    let migrated = migrate(vault.cache()).to(Kind::Sealed).key_source(source.clone()).run().unwrap();
    assert_eq!(migrated.key_source, Some(source.to_string()));
    assert_eq!(code(load(&vault.sealed())), "unknown_key");
    let opened = persistence::builder(vault.cache()).key_source(source).build().unwrap();
    assert_eq!(scopes(opened).unwrap(), ["a"]);
}

#[test]
fn a_document_moves_and_what_is_remembered_beside_it_too() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    replace(&*DocumentStore::new(plain(&vault)).state().unwrap(), b"{\"noted\":1}").unwrap();
    let new = vault.folder.path().join("new/place.bin");
    let migrated = to_sealed(&vault).new_location(&new).run().unwrap();
    assert_eq!((&migrated.location, &migrated.kept), (&new, &None));
    assert_eq!(files(&vault), ["new"]);
    let opened = persistence::builder(&new).key_source(KeySelector::File(vault.key_file())).build().unwrap();
    assert_eq!(load(&*DocumentStore::new(&opened).state().unwrap()).unwrap(), b"{\"noted\":1}");
    assert_eq!(scopes(&opened).unwrap(), ["a"]);

    // And back, in place of nothing.
    let back = migrate(&new).to(Kind::File).new_location(vault.cache()).keep(true).run().unwrap();
    assert_eq!(back.kept, Some(new.clone()));
    assert!(new.exists() && has(plain(&vault), "a").unwrap());
}

#[test]
fn what_is_remembered_is_sealed_and_opened_with_its_document() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    replace(&*DocumentStore::new(plain(&vault)).state().unwrap(), b"{\"noted\":1}").unwrap();
    to_sealed(&vault).run().unwrap();
    let state = vault.folder.path().join("cache.bin.state");
    assert!(std::fs::read(&state).unwrap().starts_with(b"\x89STRONG\n"));
    assert_eq!(load(&*DocumentStore::new(vault.sealed()).state().unwrap()).unwrap(), b"{\"noted\":1}");
    migrate(vault.cache()).to(Kind::File).run().unwrap();
    assert_eq!(std::fs::read(&state).unwrap(), b"{\"noted\":1}");
}

#[test]
fn what_cannot_be_done_leaves_everything_as_it_was() {
    let (vault, other) = (Vault::new(), Vault::new());
    assert_eq!(code(to_sealed(&vault).run()), "no_cache");
    put(plain(&vault), "a").unwrap();
    put(plain(&other), "b").unwrap();
    let before = (vault.content(), files(&vault));
    let missing = KeySelector::File(PathBuf::from("/does/not/exist"));
    assert_eq!(code(migrate(vault.cache()).to(Kind::Sealed).key_source(missing).run()), "no_key");
    assert_eq!(code(to_sealed(&vault).min_protection(Protection::OsStore).run()), "protection_too_low");
    assert_eq!(code(to_sealed(&vault).new_location(other.cache()).run()), "location_in_use");
    assert_eq!((vault.content(), files(&vault)), before);
    assert!(has(plain(&other), "b").unwrap());

    put(other.sealed(), "b").unwrap_err();
    to_sealed(&other).run().unwrap();
    std::fs::remove_file(other.key_file()).unwrap();
    let before = (other.content(), files(&other));
    assert_eq!(code(migrate(other.cache()).to(Kind::File).run()), "unknown_key");
    assert_eq!((other.content(), files(&other)), before);
}

#[test]
fn a_document_whose_key_is_lost_is_not_taken_for_an_empty_one() {
    let vault = Vault::new();
    let state = vault.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    in_process(&[("STRONGROOM_STATE_DIR", &state)], "put a", &vault.cache());
    std::fs::remove_file(state.join("host.key")).unwrap();
    let before = (vault.content(), files(&vault));
    let said = in_process(&[("STRONGROOM_STATE_DIR", &state)], "migrate", &vault.cache());
    assert!(said.starts_with("key_lost: "), "{said}");
    assert_eq!((vault.content(), files(&vault)), before);
}

#[test]
fn only_a_sealed_document_is_sealed_anew() {
    let vault = Vault::new();
    assert_eq!(code(rewrite(vault.cache(), None)), "no_cache");
    put(plain(&vault), "a").unwrap();
    assert_eq!(code(rewrite(vault.cache(), None)), "not_sealed");
    to_sealed(&vault).run().unwrap();
    let before = vault.content();
    assert_eq!(rewrite(vault.cache(), None).unwrap(), None);
    assert_eq!(vault.content(), before);
    block_on(vault.source().rotate()).unwrap();
    rewrite(vault.cache(), Some(KeySelector::File(vault.key_file()))).unwrap().unwrap();
    assert!(has(vault.sealed(), "a").unwrap());
}
