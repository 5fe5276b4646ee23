//! One suite over every store: whatever lies behind, credentials are read and changed alike.

use strongroom::{
    AccessToken, AppMetadata, Change, Credential, CredentialKey, CredentialStore, DocumentStore,
    Environments, Expectation, MemoryStore, Outcome, Partition, Record, block_on,
};

use crate::persistence_support::on_every_persistence;
use crate::schema_support::{
    NOW, account, app_metadata, app_token, change, id_token, refresh_token, user_token,
};

/// Runs `check` on an empty store of each kind.
fn on_every_store(check: impl Fn(&str, &dyn CredentialStore)) {
    check("a store in memory", &MemoryStore::new());
    on_every_persistence(|document| check(document.name, &DocumentStore::new((document.open)())));
}

pub(crate) fn get(store: &dyn CredentialStore, key: &CredentialKey) -> Option<Record> {
    block_on(store.get(key)).unwrap()
}

pub(crate) fn secret(store: &dyn CredentialStore, token: &AccessToken) -> Option<String> {
    let record = get(store, &CredentialKey::of_access_token(token))?;
    Some(record.credential.into_access_token().unwrap().secret.expose().to_owned())
}

pub(crate) fn apply(store: &dyn CredentialStore, change: &Change) -> Outcome {
    block_on(store.apply(change)).unwrap()
}

pub(crate) fn put(store: &dyn CredentialStore, token: AccessToken) {
    let change = change().put(Credential::AccessToken(token));
    assert_eq!(apply(store, &change), Outcome::Applied { swept: 0, removed: Vec::new() });
}

pub(crate) fn with_secret(secret: &str) -> AccessToken {
    AccessToken { secret: secret.into(), ..app_token() }
}

pub(crate) fn for_scope(scope: &str) -> AccessToken {
    AccessToken { target: scope.into(), secret: scope.into(), ..app_token() }
}

#[test]
fn an_empty_store_has_nothing_and_removing_from_it_is_no_error() {
    on_every_store(|name, store| {
        let key = CredentialKey::of_access_token(&app_token());
        assert!(get(store, &key).is_none(), "{name}");
        assert!(
            block_on(store.list(&Partition::of_access_token(&app_token()))).unwrap().is_empty(),
            "{name}"
        );
        assert_eq!(
            apply(store, &change().remove(key)),
            Outcome::Applied { swept: 0, removed: Vec::new() },
            "{name}"
        );
        assert_eq!(apply(store, &change()), Outcome::Applied { swept: 0, removed: Vec::new() }, "{name}");
    });
}

#[test]
fn each_type_of_credential_is_found_as_it_was_put() {
    let all = [
        Credential::AccessToken(app_token()),
        Credential::AccessToken(user_token()),
        Credential::RefreshToken(refresh_token()),
        Credential::IdToken(id_token()),
        Credential::Account(account()),
        Credential::AppMetadata(app_metadata()),
    ];
    on_every_store(|name, store| {
        let everything = all.iter().cloned().fold(change(), Change::put);
        assert_eq!(apply(store, &everything), Outcome::Applied { swept: 0, removed: Vec::new() }, "{name}");
        for credential in &all {
            let found = get(store, &CredentialKey::of(credential)).unwrap();
            assert_eq!(found.credential, *credential, "{name}");
            let listed = block_on(store.list(&Partition::of(credential))).unwrap();
            assert_eq!(listed.len(), 1, "{name}: {credential:?}");
            assert_eq!(listed[0].credential, *credential, "{name}");
        }
    });
}

#[test]
fn a_partition_lists_its_own_tokens_and_no_others() {
    on_every_store(|name, store| {
        for token in [
            for_scope("a"),
            for_scope("b"),
            AccessToken { client_id: "other".into(), ..for_scope("c") },
            AccessToken { realm: "other".into(), ..for_scope("d") },
            AccessToken { environment: "login.microsoftonline.us".into(), ..for_scope("e") },
            AccessToken { home_account_id: Some("uid.utid".into()), ..for_scope("f") },
            AccessToken { user_assertion_hash: Some("aGFzaA".into()), ..for_scope("g") },
        ] {
            put(store, token);
        }
        let listed = block_on(store.list(&Partition::of_access_token(&app_token()))).unwrap();
        let mut scopes: Vec<_> = listed
            .into_iter()
            .map(|record| record.credential.into_access_token().unwrap().target.to_string())
            .collect();
        scopes.sort();
        assert_eq!(scopes, ["a", "b"], "{name}");
    });
}

#[test]
fn what_has_the_same_identity_is_replaced() {
    on_every_store(|name, store| {
        put(store, with_secret("first"));
        for (secret_now, same) in [
            ("case", AccessToken { client_id: "CLIENT-ID".into(), realm: "TID".into(), ..app_token() }),
            ("alias", AccessToken { environment: "sts.windows.net".into(), ..app_token() }),
            ("plain", app_token()),
        ] {
            put(store, AccessToken { secret: secret_now.into(), ..same });
            assert_eq!(secret(store, &app_token()).as_deref(), Some(secret_now), "{name}");
            let listed = block_on(store.list(&Partition::of_access_token(&app_token()))).unwrap();
            assert_eq!(listed.len(), 1, "{name}: {secret_now}");
        }
        // Hosts that only discovery knows to be equal.
        let here = AccessToken { environment: "own.example".into(), ..with_secret("old") };
        let there = AccessToken { environment: "alias.example".into(), ..with_secret("new") };
        put(store, here.clone());
        let equal = Environments::with_aliases("alias.example", None, ["own.example"]);
        apply(store, &change().put(Credential::AccessToken(there.clone())).environments(equal));
        let found = [&here, &there].map(|token| secret(store, token));
        assert!(
            found.contains(&Some("new".into())) && !found.contains(&Some("old".into())),
            "{name}: {found:?}"
        );
    });
}

#[test]
fn a_change_removes_before_it_puts() {
    on_every_store(|name, store| {
        put(store, for_scope("a"));
        put(store, for_scope("b"));
        let key = |scope: &str| CredentialKey::of_access_token(&for_scope(scope));
        let new = AccessToken { secret: "new".into(), ..for_scope("a") };
        let both = change().remove(key("b")).remove(key("a")).put(Credential::AccessToken(new));
        apply(store, &both);
        assert_eq!(secret(store, &for_scope("a")).as_deref(), Some("new"), "{name}");
        assert!(get(store, &key("b")).is_none(), "{name}");
    });
}

#[test]
fn a_conditional_change_that_loses_does_nothing_at_all_and_says_on_what() {
    on_every_store(|name, store| {
        let credential = |secret: &str| Credential::AccessToken(with_secret(secret));
        let key = CredentialKey::of_access_token(&app_token());
        let absent = |secret: &str| change().put_if(credential(secret), Expectation::Absent);
        assert_eq!(
            apply(store, &absent("one")),
            Outcome::Applied { swept: 0, removed: Vec::new() },
            "{name}"
        );
        assert_eq!(apply(store, &absent("two")), Outcome::Lost(key.clone()), "{name}");
        assert_eq!(secret(store, &app_token()).as_deref(), Some("one"), "{name}");

        let revision = get(store, &key).unwrap().revision;
        let unchanged = |secret: &str| change().put_if(credential(secret), Expectation::Unchanged(revision));
        assert_eq!(
            apply(store, &unchanged("two")),
            Outcome::Applied { swept: 0, removed: Vec::new() },
            "{name}"
        );
        assert_ne!(get(store, &key).unwrap().revision, revision, "{name}");
        // All or nothing, whichever of its parts loses.
        let other = Credential::AccessToken(for_scope("other"));
        for losing in [
            change().put(other.clone()).put_if(credential("three"), Expectation::Unchanged(revision)),
            unchanged("three").put(other.clone()).remove(CredentialKey::of(&credential("two"))),
            absent("three").put(other.clone()).sweep_expired(),
        ] {
            assert_eq!(apply(store, &losing), Outcome::Lost(key.clone()), "{name}");
        }
        assert_eq!(secret(store, &app_token()).as_deref(), Some("two"), "{name}");
        assert!(get(store, &CredentialKey::of(&other)).is_none(), "{name}");

        apply(store, &change().remove(key.clone()));
        assert_eq!(apply(store, &unchanged("four")), Outcome::Lost(key), "{name}: it is gone");
        assert_eq!(
            apply(store, &absent("five")),
            Outcome::Applied { swept: 0, removed: Vec::new() },
            "{name}"
        );
    });
}

#[test]
fn what_has_expired_is_swept_on_request_and_counted() {
    on_every_store(|name, store| {
        let ending = |scope: &str, expires_on: i64, extended: i64| AccessToken {
            cached_at: NOW.plus(-10_000),
            expires_on: NOW.plus(expires_on),
            extended_expires_on: NOW.plus(extended),
            ..for_scope(scope)
        };
        let all = [
            ("over", ending("over", -1, -1), false),
            ("just over", ending("just over", 0, 0), false),
            ("valid", ending("valid", 1, 1), true),
            ("for an outage", ending("for an outage", -5000, 1), true),
            ("extended beyond reason", ending("extended beyond reason", -90_000, 90_000), false),
        ];
        let puts = |change: Change| {
            let tokens = all.iter().map(|(_, token, _)| Credential::AccessToken(token.clone()));
            tokens.fold(change, Change::put)
        };
        apply(store, &puts(change()).put(Credential::RefreshToken(refresh_token())));
        for (scope, token, _) in &all {
            assert!(secret(store, token).is_some(), "{name}: {scope} went unasked");
        }
        assert_eq!(
            apply(store, &change().sweep_expired()),
            Outcome::Applied { swept: 3, removed: Vec::new() },
            "{name}"
        );
        for (scope, token, stays) in &all {
            assert_eq!(secret(store, token).is_some(), *stays, "{name}: {scope}");
        }
        assert!(
            get(store, &CredentialKey::of(&Credential::RefreshToken(refresh_token()))).is_some(),
            "{name}"
        );
        assert_eq!(
            apply(store, &change().sweep_expired()),
            Outcome::Applied { swept: 0, removed: Vec::new() },
            "{name}"
        );
    });
}

#[test]
fn no_stored_time_is_ahead_of_the_change() {
    on_every_store(|name, store| {
        put(store, AccessToken { cached_at: NOW.plus(1000), ..app_token() });
        let key = CredentialKey::of_access_token(&app_token());
        let stored = get(store, &key).unwrap().credential.into_access_token().unwrap();
        assert_eq!(stored.cached_at, NOW, "{name}");
    });
}

#[test]
fn an_application_does_not_lose_its_family_by_a_response_without_one() {
    on_every_store(|name, store| {
        let family = AppMetadata { family_id: Some("1".into()), ..app_metadata() };
        for app in [&family, &app_metadata()] {
            apply(store, &change().put(Credential::AppMetadata(app.clone())));
        }
        let found = get(store, &CredentialKey::of(&Credential::AppMetadata(app_metadata()))).unwrap();
        assert_eq!(found.credential, Credential::AppMetadata(family), "{name}");
    });
}

#[test]
fn the_generation_stays_while_nothing_changes_and_is_another_after_each_change() {
    on_every_store(|name, store| {
        put(store, for_scope("a"));
        let mut seen = Vec::new();
        for round in 0..3 {
            let generation = store.generation().unwrap().unwrap_or_else(|| panic!("{name} does not know"));
            assert!(!seen.contains(&generation), "{name}");
            for _ in 0..3 {
                get(store, &CredentialKey::of_access_token(&for_scope("a")));
                assert_eq!(store.generation().unwrap(), Some(generation), "{name}");
            }
            seen.push(generation);
            match round {
                0 => put(store, for_scope("b")),
                1 => put(store, AccessToken { secret: "new".into(), ..for_scope("a") }),
                _ => drop(apply(store, &change().remove(CredentialKey::of_access_token(&for_scope("a"))))),
            }
        }
        assert!(!seen.contains(&store.generation().unwrap().unwrap()), "{name}");
    });
}

#[test]
fn changes_made_at_the_same_time_are_all_made() {
    on_every_store(|name, store| {
        std::thread::scope(|threads| {
            for writer in 0..4 {
                threads.spawn(move || (0..10).for_each(|n| put(store, for_scope(&format!("{writer}-{n}")))));
            }
        });
        let listed = block_on(store.list(&Partition::of_access_token(&app_token()))).unwrap();
        assert_eq!(listed.len(), 40, "{name}");
    });
}
