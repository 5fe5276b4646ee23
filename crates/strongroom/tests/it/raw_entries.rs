//! Entries that a caller has as JSON: what is kept of them, where they go, what they are removed by.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom::{
    Applied, Change, Credential, CredentialType, CrossPlatLock, Document, DocumentStore, Environments,
    ErrorKind, FilePersistence, Outcome, Partition, Scopes, SecretString, TokenCache, block_on,
};

use crate::schema_support::{APP_KEY, HOST, NOW, SCOPE, app_token, apply, change, json as content, parse};

fn entry() -> Value {
    json!({
        "credential_type": "AccessToken", "secret": "at", "home_account_id": null, "environment": HOST,
        "client_id": "client-id", "target": SCOPE, "realm": "tid", "token_type": "Bearer",
        "cached_at": "1799999000", "expires_on": "1800003600", "extended_expires_on": "1800007200",
    })
}

fn with(mut entry: Value, name: &str, value: impl Into<Value>) -> Value {
    entry[name] = value.into();
    entry
}

fn put(change: Change, key: &str, entry: &Value) -> Change {
    change.put_entry(CredentialType::AccessToken, key, entry.to_string().into()).unwrap()
}

#[test]
fn every_field_is_kept_and_the_key_is_the_callers() {
    let entry = with(entry(), "mine", json!({ "kept": [1, null] }));
    let document = apply(&Document::empty(), &put(change(), "my key", &entry));
    assert_eq!(content(&document), json!({ "AccessToken": { "my key": entry } }));
    let read: Vec<_> = document.raw_entries(CredentialType::AccessToken).collect();
    assert_eq!(read.len(), 1);
    assert_eq!(serde_json::from_str::<Value>(read[0].expose()).unwrap(), entry);
    assert_eq!(read[0].key(), "my key");
    assert!(document.raw_entry(CredentialType::AccessToken, "my key").is_some());
    assert!(document.raw_entry(CredentialType::RefreshToken, "my key").is_none());
    assert!(!format!("{:?}", read[0]).contains("at\""), "{:?}", read[0]);
}

#[test]
fn the_same_credential_is_replaced_under_the_key_that_it_has() {
    let stored = with(entry(), "theirs", 1);
    let document = apply(&Document::empty(), &put(change(), "their key", &stored));
    let renewed = with(with(entry(), "secret", "new"), "mine", 2);
    let elsewhere = apply(&document, &put(change(), "my key", &renewed));
    assert_eq!(
        content(&elsewhere),
        json!({ "AccessToken": { "their key": with(stored.clone(), "secret", "new") } })
    );
    let in_place = apply(&document, &put(change(), "their key", &renewed));
    assert_eq!(content(&in_place), json!({ "AccessToken": { "their key": with(renewed, "theirs", 1) } }));
}

#[test]
fn another_credential_under_the_key_stays_but_bound_tokens_share_a_place() {
    let bearer = apply(&Document::empty(), &put(change(), APP_KEY, &entry()));
    let bound = |key_id: &str| with(with(entry(), "token_type", "pop"), "key_id", key_id);
    let document = apply(&bearer, &put(change(), APP_KEY, &bound("1")));
    let document = content(&document);
    let keys: Vec<_> = document["AccessToken"].as_object().unwrap().keys().collect();
    assert_eq!(keys, [APP_KEY, &format!("{APP_KEY}-")]);
    // MSAL Python takes one with `null` for a bearer token.
    assert_eq!(document["AccessToken"][keys[1]].get("home_account_id"), None);

    let document = apply(&Document::empty(), &put(change(), "key", &bound("1")));
    let document = content(&apply(&document, &put(change(), "key", &bound("2"))));
    assert_eq!(document["AccessToken"]["key"]["key_id"], "2");
    assert_eq!(document["AccessToken"].as_object().unwrap().len(), 1);
}

#[test]
fn what_some_language_could_not_read_is_refused() {
    for broken in
        [json!([]), json!("text"), with(entry(), "expires_on", Value::Null), with(entry(), "secret", 5)]
    {
        let broken = SecretString::from(broken.to_string());
        assert!(
            change().put_entry(CredentialType::AccessToken, "key", broken.clone()).is_err(),
            "{broken:?}"
        );
        assert!(change().remove_entry(CredentialType::AccessToken, "key", &broken).is_err());
    }
}

#[test]
fn an_entry_is_removed_by_what_it_is() {
    let nodes = with(with(entry(), "home_account_id", ""), "environment", "login.windows.net");
    let other = with(entry(), "client_id", "other");
    let document = apply(&Document::empty(), &put(put(change(), "node's", &nodes), "other's", &other));
    let removal =
        change().remove_entry(CredentialType::AccessToken, "any", &entry().to_string().into()).unwrap();
    let Applied::Changed { bytes, removed, .. } = document.apply(&removal).unwrap() else { panic!() };
    let [Credential::AccessToken(token)] = &removed[..] else { panic!("{removed:?}") };
    assert_eq!(token.environment, "login.windows.net");
    let left = content(&Document::parse(bytes).unwrap());
    assert_eq!(left["AccessToken"], json!({ "other's": other }));
}

#[test]
fn tokens_of_a_partition_are_found_without_looking_at_others() {
    let document = apply(&Document::empty(), &put(change(), APP_KEY, &entry()));
    let partition = Partition::of_access_token(&app_token());
    assert_eq!(document.raw_access_tokens(&partition, &Scopes::from(SCOPE)).len(), 1);
    assert!(document.raw_access_tokens(&partition, &Scopes::from("other")).is_empty());
    let other = Partition::of_app_tokens(HOST, "other", "tid");
    assert!(document.raw_access_tokens(&other, &Scopes::default()).is_empty());
}

#[test]
fn a_document_takes_the_place_of_the_one_that_was_known_and_of_no_other() {
    let known = apply(&Document::empty(), &put(change(), "stored", &entry()));
    let instead = parse(r#"{"Mine":{"x":1}}"#);
    let nothing = change().instead_of(known.bytes().share(), &instead);
    assert_eq!(content(&apply(&known, &nothing)), content(&instead), "also if there is nothing to change");
    let token = with(entry(), "client_id", "other");
    let changed = put(change().instead_of(known.bytes().share(), &instead), "new", &token);
    assert_eq!(
        content(&apply(&known, &changed)),
        json!({ "Mine": { "x": 1 }, "AccessToken": { "new": token } })
    );
    let meanwhile = apply(&known, &put(change(), "third", &with(entry(), "client_id", "third")));
    assert!(matches!(meanwhile.apply(&nothing).unwrap(), Applied::Unchanged));
}

#[test]
fn a_store_shows_its_newest_document_and_the_last_that_it_has_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    let store = DocumentStore::new(FilePersistence::new(&path).unwrap());
    let length = |document: &Document| document.bytes().len();
    assert!(store.read_last(length).is_none());
    let (first, empty) = block_on(store.read(length)).unwrap();
    assert_eq!(empty, 0);
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(store.read_last(length), Some((first, 0)));
    let (second, two) = block_on(store.read(length)).unwrap();
    assert_eq!((two, store.read_last(length)), (2, Some((second, 2))));
    assert_ne!(first, second);
}

#[test]
fn what_a_change_removes_stays_removed_and_what_it_stores_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    let store = Arc::new(DocumentStore::new(FilePersistence::new(&path).unwrap()));
    let cache = TokenCache::builder(Arc::clone(&store)).build();
    let look = || {
        let (generation, ()) = block_on(store.read(|_| ())).unwrap();
        block_on(cache.settle(generation))
    };
    let stored = |now| Change::new(now).environments(Environments::of(HOST));
    let lasting = |client: &str| {
        let now = cache.now().get();
        let entry = with(with(entry(), "client_id", client), "cached_at", now.to_string());
        with(
            with(entry, "expires_on", (now + 3600).to_string()),
            "extended_expires_on",
            (now + 3600).to_string(),
        )
    };
    let read =
        || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap()["AccessToken"].clone();

    let both = put(put(stored(cache.now()), "kept", &lasting("kept")), "gone", &lasting("gone"));
    assert!(matches!(block_on(cache.apply(&both)).unwrap(), Outcome::Applied { .. }));
    let before = std::fs::read(&path).unwrap();
    let json = SecretString::from(lasting("gone").to_string());
    let removal = stored(cache.now()).remove_entry(CredentialType::AccessToken, "gone", &json).unwrap();
    block_on(cache.apply(&removal)).unwrap();
    assert_eq!(read().as_object().unwrap().keys().collect::<Vec<_>>(), ["kept"]);

    // A peer writes back what it knew.
    std::fs::write(&path, &before).unwrap();
    assert!(look());
    assert_eq!(read().as_object().unwrap().keys().collect::<Vec<_>>(), ["kept"]);
    // A peer erases it.
    let other = json!({ "AccessToken": { "other": lasting("other") } });
    std::fs::write(&path, other.to_string()).unwrap();
    assert!(look());
    assert_eq!(read().as_object().unwrap().len(), 2, "{}", read());
    assert!(look(), "that was a change as well");
    assert!(!look(), "once for each state");
}

#[test]
fn a_lock_file_by_itself_excludes_others_and_is_gone_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin.lockfile");
    let take = |timeout| block_on(CrossPlatLock::acquire(&path, timeout));
    let held = take(Duration::from_secs(10)).unwrap();
    assert!(path.exists());
    assert_eq!(take(Duration::ZERO).unwrap_err().kind(), ErrorKind::Locked);
    // A change of the document waits for it too.
    let store = DocumentStore::builder(FilePersistence::new(folder.path().join("cache.bin")).unwrap());
    let cache = TokenCache::builder(store.lock_timeout(Duration::ZERO).build()).build();
    let error = block_on(cache.apply(&put(Change::new(NOW), "key", &entry()))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop(held);
    assert!(!path.exists());
    drop(take(Duration::ZERO).unwrap());
    let nowhere = folder.path().join("nowhere/lock");
    assert_eq!(block_on(CrossPlatLock::acquire(nowhere, Duration::ZERO)).unwrap_err().code(), "io_error");
}
