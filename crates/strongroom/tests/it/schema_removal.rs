//! Removing by fields and giving back what was erased: the same in a document and in memory.

use std::sync::Arc;

use serde_json::Value;
use strongroom::{
    AccessToken, Account, Applied, Change, Credential, CredentialKey, CredentialStore, Document,
    DocumentStore, Environments, ExtendedKey, IdToken, MemoryPersistence, MemoryStore, Outcome, RefreshToken,
    TokenScheme, block_on,
};

use crate::schema_support::*;

/// Runs a test on each kind of store.
fn on_each_store(test: impl Fn(&dyn CredentialStore)) {
    test(&MemoryStore::new());
    test(&DocumentStore::new(MemoryPersistence::new()));
}

/// Makes the change; returns what it removed, in an order of no meaning, and how many tokens were swept.
fn make(store: &dyn CredentialStore, change: &Change) -> (Vec<Credential>, usize) {
    match block_on(store.apply(change)).expect("applicable") {
        Outcome::Applied { removed, swept } => (removed, swept),
        other => panic!("{other:?}"),
    }
}

fn store_all<'a>(store: &dyn CredentialStore, credentials: impl IntoIterator<Item = &'a Credential>) {
    for credential in credentials {
        make(store, &change().put(credential.clone()));
    }
}

fn has(store: &dyn CredentialStore, credential: &Credential) -> bool {
    let record = block_on(store.get(&CredentialKey::of(credential))).expect("readable");
    record.is_some_and(|record| record.credential == *credential)
}

fn assert_same(mut one: Vec<Credential>, mut other: Vec<Credential>) {
    one.sort_by_key(CredentialKey::of);
    other.sort_by_key(CredentialKey::of);
    assert_eq!(one, other);
}

fn public() -> Environments {
    Environments::of(HOST)
}

fn extended() -> Option<ExtendedKey> {
    Some(ExtendedKey::of(&[("fmi_path".to_owned(), "a".to_owned())].into()))
}

fn pop(key_id: &str) -> TokenScheme {
    TokenScheme::Bound { token_type: "pop".into(), key_id: Some(key_id.into()) }
}

/// All that one user may have, in all of the public cloud.
fn of_user(id: &str) -> Vec<Credential> {
    let home = || Some(id.to_owned());
    let access =
        |token: AccessToken| Credential::AccessToken(AccessToken { home_account_id: home(), ..token });
    let refresh =
        |token: RefreshToken| Credential::RefreshToken(RefreshToken { home_account_id: home(), ..token });
    vec![
        access(user_token()),
        access(AccessToken { environment: "sts.windows.net".into(), realm: "guest".into(), ..user_token() }),
        access(AccessToken {
            client_id: "other".into(),
            user_assertion_hash: Some("aGFzaA".into()),
            ..user_token()
        }),
        access(AccessToken { target: "x".into(), extended: extended(), ..user_token() }),
        access(AccessToken {
            target: "y".into(),
            token_type: "pop".into(),
            scheme: pop("k"),
            ..user_token()
        }),
        refresh(refresh_token()),
        refresh(RefreshToken { client_id: "third".into(), family_id: Some("1".into()), ..refresh_token() }),
        refresh(RefreshToken {
            client_id: "obo".into(),
            user_assertion_hash: Some("b25l".into()),
            ..refresh_token()
        }),
        Credential::IdToken(IdToken { home_account_id: home(), ..id_token() }),
        Credential::Account(Account { home_account_id: id.into(), ..account() }),
        Credential::Account(Account { home_account_id: id.into(), realm: "guest".into(), ..account() }),
    ]
}

fn of_app() -> Vec<Credential> {
    let access = Credential::AccessToken;
    vec![
        access(app_token()),
        access(AccessToken { realm: "other".into(), environment: "login.windows.net".into(), ..app_token() }),
        access(AccessToken { target: "x".into(), extended: extended(), ..app_token() }),
        access(AccessToken { target: "y".into(), token_type: "pop".into(), scheme: pop("k"), ..app_token() }),
    ]
}

fn of_nobody() -> Vec<Credential> {
    vec![
        Credential::AppMetadata(app_metadata()),
        Credential::AccessToken(AccessToken { client_id: "another".into(), ..app_token() }),
        Credential::AccessToken(AccessToken {
            environment: "login.microsoftonline.us".into(),
            ..app_token()
        }),
        Credential::AccessToken(AccessToken {
            target: "z".into(),
            user_assertion_hash: Some("aGFzaA".into()),
            ..app_token()
        }),
    ]
}

#[test]
fn signing_a_user_out_removes_all_that_he_has_and_says_what() {
    on_each_store(|store| {
        let (user, other) = (of_user("uid.utid"), of_user("uid.other"));
        let elsewhere = Credential::AccessToken(AccessToken {
            environment: "login.microsoftonline.us".into(),
            ..user_token()
        });
        let stay: Vec<Credential> = [other, of_app(), of_nobody(), vec![elsewhere]].concat();
        store_all(store, user.iter().chain(&stay));
        // The host is an alias, the id is spelled in another way.
        let (removed, swept) =
            make(store, &change().remove_account("UID.utid", &Environments::of("login.windows.net")));
        assert_same(removed, user.clone());
        assert_eq!(swept, 0);
        assert!(user.iter().all(|credential| !has(store, credential)));
        assert!(stay.iter().all(|credential| has(store, credential)));
        assert_eq!(make(store, &change().remove_account("uid.utid", &public())), (Vec::new(), 0));
    });
}

#[test]
fn an_empty_account_id_is_nobodys() {
    on_each_store(|store| {
        store_all(store, &of_app());
        assert!(make(store, &change().remove_account("", &public())).0.is_empty());
        assert!(of_app().iter().all(|credential| has(store, credential)));
    });
}

#[test]
fn removing_an_applications_tokens_leaves_those_of_users_and_of_others() {
    on_each_store(|store| {
        let stay = [of_user("uid.utid"), of_nobody()].concat();
        store_all(store, stay.iter().chain(&of_app()));
        let (removed, _) = make(store, &change().remove_app_tokens("Client-ID", &public()));
        assert_same(removed, of_app());
        assert!(of_app().iter().all(|credential| !has(store, credential)));
        assert!(stay.iter().all(|credential| has(store, credential)));
    });
}

#[test]
fn a_predicate_chooses_what_goes() {
    on_each_store(|store| {
        let all = [of_user("uid.utid"), of_app()].concat();
        store_all(store, &all);
        let is_refresh_token = |credential: &Credential| matches!(credential, Credential::RefreshToken(_));
        let change = change().remove_where(Arc::new(is_refresh_token));
        assert!(format!("{change:?}").contains("Where(..)"));
        let (removed, _) = make(store, &change);
        assert_same(removed, all.iter().filter(|one| is_refresh_token(one)).cloned().collect());
        assert!(all.iter().all(|one| has(store, one) != is_refresh_token(one)));
    });
}

#[test]
fn removals_come_before_what_is_stored() {
    on_each_store(|store| {
        store_all(store, &of_user("uid.utid"));
        let new = Credential::AccessToken(AccessToken { secret: "new".into(), ..user_token() });
        let (removed, _) = make(store, &change().remove_account("uid.utid", &public()).put(new.clone()));
        assert_same(removed, of_user("uid.utid"));
        assert!(has(store, &new));
    });
}

#[test]
fn what_goes_by_its_key_is_reported_and_what_is_swept_is_not() {
    on_each_store(|store| {
        let old = AccessToken {
            target: "old".into(),
            cached_at: NOW.plus(-9_000),
            expires_on: NOW.plus(-1),
            extended_expires_on: NOW.plus(-1),
            ..app_token()
        };
        store_all(store, &[Credential::AccessToken(app_token()), Credential::AccessToken(old)]);
        let change = change().remove(plain_key(SCOPE)).remove(plain_key("unheard-of")).sweep_expired();
        assert_eq!(make(store, &change), (vec![Credential::AccessToken(app_token())], 1));
    });
}

#[test]
fn an_account_goes_with_its_last_token() {
    on_each_store(|store| {
        let account = |id: &str| Credential::Account(Account { home_account_id: id.into(), ..account() });
        let token = |id: &str| {
            Credential::AccessToken(AccessToken { home_account_id: Some(id.into()), ..user_token() })
        };
        let expired = AccessToken { expires_on: NOW, extended_expires_on: NOW, ..user_token() };
        let expired =
            Credential::AccessToken(AccessToken { home_account_id: Some("expired".into()), ..expired });
        let all = ["alone", "kept", "removed", "renewed", "expired", "unasked", "stored"].map(account);
        store_all(store, &all);
        store_all(store, &[token("kept"), token("removed"), expired]);
        let ids =
            ["Alone", "kept", "removed", "renewed", "expired", "stored", "unheard-of"].map(str::to_owned);
        let change = change()
            .remove_orphan_accounts(ids.into())
            .remove_where(Arc::new(move |credential| *credential == token("removed")))
            .put(token("renewed"))
            .put(account("stored"))
            .sweep_expired();
        let (removed, swept) = make(store, &change);
        assert_same(
            removed,
            vec![account("alone"), account("removed"), account("expired"), token("removed")],
        );
        assert_eq!(swept, 1);
        let left: Vec<&Credential> = all.iter().filter(|account| has(store, account)).collect();
        assert_eq!(left, ["kept", "renewed", "unasked", "stored"].map(account).iter().collect::<Vec<_>>());
    });
}

#[test]
fn what_changes_only_an_existing_cache_does_not_begin_one() {
    on_each_store(|store| {
        let token = Credential::AccessToken(app_token());
        let change = change().put(token.clone()).only_existing();
        assert_eq!(make(store, &change), (Vec::new(), 0));
        assert!(!has(store, &token));
        make(store, &self::change().put(Credential::AppMetadata(app_metadata())));
        make(store, &change);
        assert!(has(store, &token));
    });
    // An emptied document is as good as none.
    for text in ["", " ", "{}", "{\"AccessToken\":{}}"] {
        let change = change().put(Credential::AccessToken(app_token())).only_existing();
        assert!(matches!(parse(text).apply(&change), Ok(Applied::Unchanged)), "{text:?}");
    }
}

#[test]
fn a_token_is_put_back_unless_another_is_as_good() {
    let own = app_token;
    let cases: [(&str, AccessToken, bool); 12] = [
        ("the same", own(), true),
        ("more scopes", AccessToken { target: format!("{SCOPE} more").as_str().into(), ..own() }, true),
        ("later expiry", AccessToken { expires_on: own().expires_on.plus(1), ..own() }, true),
        ("an alias", AccessToken { environment: "login.windows.net".into(), ..own() }, true),
        ("other case", AccessToken { client_id: "CLIENT-ID".into(), ..own() }, true),
        ("earlier expiry", AccessToken { expires_on: own().expires_on.plus(-1), ..own() }, false),
        ("other scopes", AccessToken { target: "other".into(), ..own() }, false),
        ("another tenant", AccessToken { realm: "other".into(), ..own() }, false),
        ("extended", AccessToken { extended: extended(), ..own() }, false),
        ("bound", AccessToken { token_type: "pop".into(), scheme: pop("k"), ..own() }, false),
        ("a user's", user_token(), false),
        ("on behalf of", AccessToken { user_assertion_hash: Some("aGFzaA".into()), ..own() }, false),
    ];
    for (what, standing, answers) in &cases {
        on_each_store(|store| {
            let standing =
                Credential::AccessToken(AccessToken { secret: "standing".into(), ..standing.clone() });
            store_all(store, std::slice::from_ref(&standing));
            let change = change().put_unless_answered(own()).environments(public()).only_existing();
            make(store, &change);
            let key = CredentialKey::of_access_token(&own());
            let found = block_on(store.get(&key)).expect("readable").map(|record| record.credential);
            assert_eq!(found != Some(Credential::AccessToken(own())), *answers, "{what}");
            let replaced = *what == "earlier expiry";
            assert_eq!(has(store, &standing), !replaced, "{what}");
        });
    }
}

#[test]
fn only_a_valid_token_of_an_application_is_put_back() {
    on_each_store(|store| {
        for token in [
            user_token(),
            AccessToken { user_assertion_hash: Some("aGFzaA".into()), ..app_token() },
            AccessToken { expires_on: NOW, ..app_token() },
        ] {
            make(store, &change().put_unless_answered(token.clone()));
            assert!(!has(store, &Credential::AccessToken(token)));
        }
    });
}

#[test]
fn what_one_change_removes_or_stores_counts_when_a_token_is_put_back() {
    let more = || AccessToken { target: format!("{SCOPE} more").as_str().into(), ..app_token() };
    let less = Credential::AccessToken(app_token());
    on_each_store(|store| {
        store_all(store, &[Credential::AccessToken(more())]);
        make(
            store,
            &change().remove(CredentialKey::of_access_token(&more())).put_unless_answered(app_token()),
        );
        assert!(has(store, &less));
    });
    on_each_store(|store| {
        make(store, &change().put(Credential::AccessToken(more())).put_unless_answered(app_token()));
        assert!(!has(store, &less));
    });
    on_each_store(|store| {
        make(store, &change().put_unless_answered(more()).put_unless_answered(app_token()));
        assert!(has(store, &Credential::AccessToken(more())) && !has(store, &less));
    });
}

#[test]
fn a_sign_out_reaches_what_any_language_stored() {
    for (language, name) in [
        ("msal-python-1.39.0", "code"),
        ("msal-python-1.39.0", "obo"),
        ("msal-go-1.9.0", "code"),
        ("msal-node-7.2.3", "code"),
        ("msal-node-7.2.3", "obo"),
        ("msal-node-2.16.3", "obo"),
    ] {
        let file = format!("{}/tests/data/generated/{language}/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let document = parse(&std::fs::read_to_string(&file).expect("a fixture"));
        let of_user = |entry: &Value| entry.get("home_account_id").is_some_and(|id| id == "uid.utid");
        let count = |document: &Document, wanted: bool| {
            let sections = json(document);
            let entries = sections.as_object().into_iter().flat_map(|sections| sections.values());
            entries
                .filter_map(Value::as_object)
                .flatten()
                .filter(|(_, entry)| of_user(entry) == wanted)
                .count()
        };
        assert!(count(&document, true) >= 4, "{file}");
        let after = apply(&document, &change().remove_account("uid.utid", &public()));
        assert_eq!(count(&after, true), 0, "{file}");
        assert_eq!(count(&after, false), count(&document, false), "{file}");
    }
}

#[test]
fn what_cannot_be_read_goes_with_its_owner_but_not_without() {
    let unreadable = |changes: &[(&str, &str)]| app_entry(&[changes, &[("cached_at", "null")]].concat());
    let users = unreadable(&[("home_account_id", "\"uid.utid\"")]);
    let anothers = unreadable(&[("home_account_id", "\"other\"")]);
    let nobodys = unreadable(&[("home_account_id", "7")]);
    let apps = unreadable(&[]);
    let elsewhere = unreadable(&[("environment", "\"login.microsoftonline.us\"")]);
    let document = access_tokens(&[
        ("users", &users),
        ("anothers", &anothers),
        ("nobodys", &nobodys),
        ("apps", &apps),
        ("elsewhere", &elsewhere),
    ]);
    assert!(document.is_empty());
    let after = apply(&document, &change().remove_account("uid.utid", &public()));
    assert_eq!(keys(&after, "AccessToken"), ["anothers", "apps", "elsewhere", "nobodys"]);
    let after = apply(&document, &change().remove_app_tokens("client-id", &public()));
    assert_eq!(keys(&after, "AccessToken"), ["anothers", "elsewhere", "nobodys", "users"]);
    let everything = change().remove_where(Arc::new(|_| true));
    assert!(matches!(document.apply(&everything), Ok(Applied::Unchanged)));
    // Who may own a token still is kept.
    let account =
        r#""Account":{"a":{"home_account_id":"uid.utid","environment":"login.microsoftonline.com"}}"#;
    let with_account = parse(&format!("{{{account},{}", &text(&document)[1..]));
    let orphans = change().remove_orphan_accounts(vec!["uid.utid".into()]);
    assert!(matches!(with_account.apply(&orphans), Ok(Applied::Unchanged)));
}

#[test]
fn whatever_goes_the_rest_stays_to_the_letter() {
    for (before, lead) in [("", ""), (" ", "\n    "), ("\n", " ")] {
        let entry = |n: usize| {
            let target = format!("\"s{n}\"");
            format!("{lead}\"k{n}\":{lead}{}", app_entry(&[("target", &target)]))
        };
        let joined = |chosen: &[usize]| {
            let entries: Vec<String> = chosen.iter().map(|n| entry(*n)).collect();
            entries.join(&format!("{before},"))
        };
        let whole =
            |entries: &str| format!("{{\"x\": 1 , \"AccessToken\" :{{{entries}{before}}} ,\"y\":[ ]}}");
        let document = parse(&whole(&joined(&[0, 1, 2, 3, 4])));
        for mask in 0..32_u32 {
            let goes = |n: usize| mask & (1 << n) != 0;
            let stay: Vec<usize> = (0..5).filter(|n| !goes(*n)).collect();
            let change = (0..5)
                .filter(|n| goes(*n))
                .fold(change(), |change, n| change.remove(plain_key(&format!("s{n}"))));
            let expected = whole(&joined(&stay));
            match document.apply(&change).expect("applicable") {
                Applied::Unchanged => assert_eq!(mask, 0),
                Applied::Changed { bytes, .. } => {
                    let written = std::str::from_utf8(bytes.expose()).expect("UTF-8");
                    // White space before a comma goes with the entry that it followed.
                    let squeezed = |text: &str| text.split_whitespace().collect::<String>();
                    assert_eq!(squeezed(written), squeezed(&expected));
                    assert!(
                        written.starts_with("{\"x\": 1 , \"AccessToken\" :{")
                            && written.ends_with("} ,\"y\":[ ]}")
                    );
                    let new = AccessToken { target: "new".into(), ..app_token() };
                    let more = document.apply(&change.put(Credential::AccessToken(new)));
                    let Ok(Applied::Changed { bytes, .. }) = more else { panic!("{more:?}") };
                    let after = Document::parse(bytes).expect("what we write parses");
                    assert_eq!(after.entries().count(), stay.len() + 1);
                    assert!(stay.iter().all(|n| after.get(&plain_key(&format!("s{n}"))).is_some()));
                    assert!(after.get(&plain_key("new")).is_some());
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
