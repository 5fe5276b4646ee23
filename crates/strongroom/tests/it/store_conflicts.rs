//! Several stores in one document, and programs beside them that take no lock: no change is lost, none is made on
//! what is not there any more.

use std::path::Path;

use strongroom::{
    AccessToken, Credential, CredentialKey, CredentialStore, DocumentStore, ErrorKind, Expectation,
    FilePersistence, Outcome, Partition, block_on,
};

use crate::persistence_support::{Moment, SteppedIn};
use crate::schema_support::{app_token, apply as apply_to, change, parse};
use crate::stores::{apply, for_scope, get, put, secret, with_secret};

/// A store in the document at `path`, as another process has it.
fn document_at(path: &Path) -> DocumentStore<FilePersistence> {
    DocumentStore::new(FilePersistence::builder(path).peers_lock(false).build().unwrap())
}

/// A store in the document at `path` that a program without locks writes to just before each of the first saves.
fn disturbed(
    path: &Path,
    times: u32,
    disturb: impl Fn(&Path, u32) + Send + Sync + 'static,
) -> DocumentStore<SteppedIn<FilePersistence>> {
    let file = FilePersistence::builder(path).peers_lock(false).build().unwrap();
    let path = path.to_owned();
    DocumentStore::new(SteppedIn::new(file, move |moment| match moment {
        Moment::Save(time) if time <= times => disturb(&path, time),
        _ => {}
    }))
}

/// Stores a token beside what is there, without any lock.
fn interfere(path: &Path, token: &AccessToken) {
    let document = parse(&std::fs::read_to_string(path).unwrap_or_default());
    let document = apply_to(&document, &change().put(Credential::AccessToken(token.clone())));
    std::fs::write(path, document.bytes().expose()).unwrap();
}

#[test]
fn a_change_is_replayed_on_what_others_have_made_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    put(&document_at(&path), for_scope("before"));
    let store = disturbed(&path, 3, |path, time| interfere(path, &for_scope(&format!("theirs-{time}"))));
    put(&store, for_scope("ours"));
    for reader in [&store as &dyn CredentialStore, &document_at(&path)] {
        for scope in ["before", "theirs-1", "theirs-2", "theirs-3", "ours"] {
            assert_eq!(secret(reader, &for_scope(scope)).as_deref(), Some(scope));
        }
    }
}

#[test]
fn a_conditional_change_is_judged_by_what_others_have_made_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    let key = CredentialKey::of_access_token(&app_token());
    let store = disturbed(&path, 2, |path, time| interfere(path, &with_secret(&format!("theirs-{time}"))));
    let mine = || Credential::AccessToken(with_secret("mine"));
    let outcome = apply(&store, &change().put_if(mine(), Expectation::Absent));
    assert_eq!(outcome, Outcome::Lost(key.clone()), "it was absent when the change was begun");
    let revision = get(&store, &key).unwrap().revision;
    let outcome = apply(&store, &change().put_if(mine(), Expectation::Unchanged(revision)));
    assert_eq!(outcome, Outcome::Lost(key), "it was unchanged when the change was begun");
    assert_eq!(secret(&store, &app_token()).as_deref(), Some("theirs-2"));
}

#[test]
fn who_is_disturbed_without_end_gives_up_and_leaves_the_others_document() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    let store =
        disturbed(&path, u32::MAX, |path, time| interfere(path, &with_secret(&format!("theirs-{time}"))));
    let error = block_on(store.apply(&change().put(Credential::AccessToken(for_scope("ours"))))).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Contended, "contended"));
    assert!(error.is_retryable() && error.remedy().is_some());
    assert!(secret(&store, &app_token()).unwrap().starts_with("theirs-"));
    assert!(secret(&store, &for_scope("ours")).is_none());
}

#[test]
fn stores_in_one_document_see_each_others_changes_and_lose_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    let watcher = document_at(&path);
    put(&document_at(&path), for_scope("first"));
    assert!(secret(&watcher, &for_scope("first")).is_some());
    let generation = watcher.generation().unwrap().unwrap();
    std::thread::scope(|threads| {
        for writer in 0..4 {
            let store = document_at(&path);
            threads.spawn(move || (0..10).for_each(|n| put(&store, for_scope(&format!("{writer}-{n}")))));
        }
    });
    assert_ne!(watcher.generation().unwrap(), Some(generation));
    let partition = Partition::of_access_token(&app_token());
    assert_eq!(block_on(watcher.list(&partition)).unwrap().len(), 41);
}
