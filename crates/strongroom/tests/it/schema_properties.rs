//! Any document: parse, change, parse again: the same but for the change; look-ups agree with a naive model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use strongroom::{
    AccessToken, Credential, CredentialKey, CredentialType, Document, EntryProblem, SecretBytes, TokenScheme,
};

use crate::schema_support::*;

#[derive(Debug, Clone)]
struct Sketch {
    key: String,
    entry: String,
}

fn space() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "", "", " ", "\n", "\r\n\t", "    "]).prop_map(str::to_owned)
}

/// A JSON text for `text`, with some characters escaped though they need not be.
fn quoted(text: &str, escape: bool) -> String {
    let quoted = serde_json::to_string(text).expect("a text");
    if escape { quoted.replace('e', "\\u0065").replace('/', "\\/") } else { quoted }
}

fn scalar() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "null",
        "true",
        "0",
        "-1.5e3",
        "1e999",
        "\"\"",
        "\"x\"",
        "\"\\ud800\"",
        "\"\\u00fc\"",
        "[]",
        "{}",
        "[{\"secret\":1}]",
        "{\"AccessToken\" : {}}",
    ])
    .prop_map(str::to_owned)
}

/// An access token in some dialect, now and then with something odd about it.
fn access_token() -> impl Strategy<Value = Sketch> {
    let pick = |values: &[&'static str]| prop::sample::select(values.to_vec());
    (
        pick(&["null", "\"\"", "", "\"uid.utid\"", "5"]),
        pick(&[
            "\"login.microsoftonline.com\"",
            "\"login.windows.net\"",
            "\"STS.windows.net\"",
            "\"other.example\"",
        ]),
        pick(&["\"client-id\"", "\"Client-ID\"", "\"x\""]),
        pick(&["\"a\"", "\"a b\"", "\"B a\"", "\"\"", "null"]),
        pick(&["\"Bearer\"", "", "\"pop\"", "\"bearer\""]),
        pick(&["", "\"hash\""]),
        pick(&["", "\"x\"", "\"aGFzaA\""]),
        pick(&["1799999999", "\"1800003600\"", "5", "\"x\"", ""]),
        pick(&[
            "k",
            "K",
            "l",
            "ü",
            "-login.microsoftonline.com-accesstoken-client-id-tid-a",
            "-login.microsoftonline.com-accesstoken-client-id-tid-a-",
        ]),
        (scalar(), 0..1000_u32, space(), any::<bool>()),
    )
        .prop_map(
            |(
                home,
                host,
                client,
                target,
                token_type,
                extended,
                hash,
                expires,
                key,
                (odd, cached, space, escape),
            )| {
                let cached = cached.to_string();
                let secret = format!("\"secret-{cached}\"");
                let entry = app_entry(&[
                    ("home_account_id", home),
                    ("environment", host),
                    ("client_id", client),
                    ("target", target),
                    ("token_type", token_type),
                    ("ext_cache_key", extended),
                    ("user_assertion_hash", hash),
                    ("expires_on", expires),
                    ("extended_expires_on", ""),
                    ("cached_at", &cached),
                    ("secret", &secret),
                    ("odd", &odd),
                ]);
                Sketch { key: quoted(key, escape), entry: entry.replace(',', &format!("{space},{space}")) }
            },
        )
}

fn anything() -> impl Strategy<Value = Sketch> {
    ("[a-eK/\\\\\"ü-]{0,4}", scalar(), any::<bool>())
        .prop_map(|(key, entry, escape)| Sketch { key: quoted(&key, escape), entry })
}

fn section() -> impl Strategy<Value = Sketch> {
    let names = [
        "AccessToken",
        "AccessToken",
        "RefreshToken",
        "AppMetadata",
        "Account",
        "Unknown",
        "accesstoken",
        "",
    ];
    (
        prop::sample::select(names.to_vec()),
        prop::collection::vec(prop_oneof![4 => access_token(), 1 => anything()], 0..8),
        prop_oneof![9 => Just(None), 1 => prop::sample::select(vec!["null", "null", "{ }"]).prop_map(Some)],
        space(),
        any::<bool>(),
    )
        .prop_map(|(name, entries, other, space, escape)| {
            let members: Vec<String> = entries
                .into_iter()
                .map(|Sketch { key, entry }| format!("{space}{key}{space}:{space}{entry}{space}"))
                .collect();
            let entry = other.map_or_else(|| format!("{{{}{space}}}", members.join(",")), str::to_owned);
            Sketch { key: quoted(name, escape), entry }
        })
}

fn document() -> impl Strategy<Value = String> {
    (prop::collection::vec(section(), 0..6), space()).prop_map(|(sections, space)| {
        let members: Vec<String> = sections
            .into_iter()
            .map(|Sketch { key, entry }| format!("{space}{key}{space}:{space}{entry}{space}"))
            .collect();
        format!("{space}{{{}{space}}}{space}", members.join(","))
    })
}

fn put_token() -> impl Strategy<Value = AccessToken> {
    (
        prop::sample::select(vec![None, Some("uid.utid")]),
        prop::sample::select(vec!["a", "a b", "new", ""]),
        prop::sample::select(vec!["Bearer", "pop"]),
    )
        .prop_map(|(home, target, token_type)| AccessToken {
            home_account_id: home.map(Into::into),
            target: target.into(),
            token_type: token_type.into(),
            scheme: match token_type {
                "pop" => TokenScheme::Bound { token_type: "pop".into(), key_id: None },
                _ => TokenScheme::Bearer,
            },
            secret: "put".into(),
            ..app_token()
        })
}

type Listed = Vec<(CredentialType, String, Result<Credential, EntryProblem>)>;

fn listed(document: &Document) -> Listed {
    document.entries().map(|entry| (entry.credential_type, entry.key.to_owned(), entry.credential)).collect()
}

fn credential_key(
    entry: &(CredentialType, String, Result<Credential, EntryProblem>),
) -> Option<CredentialKey> {
    entry.2.as_ref().ok().map(CredentialKey::of)
}

/// The entries that nothing of `change` concerns, healing aside.
fn others(
    listed: &Listed,
    concerned: &CredentialKey,
) -> BTreeMap<(CredentialType, String), Result<Credential, EntryProblem>> {
    listed
        .iter()
        .filter(|entry| credential_key(entry).as_ref() != Some(concerned))
        .map(|(kind, key, credential)| ((*kind, key.clone()), credential.clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_put_changes_what_it_is_about_and_nothing_else(text in document(), token in put_token()) {
        let before = parse(&text);
        let key = CredentialKey::of_access_token(&token);
        let change = change().put(Credential::AccessToken(token));
        let after = apply(&before, &change);
        let (old, new) = (listed(&before), listed(&after));
        prop_assert_eq!(secret_of(&after, &key), Some("put".to_owned()));
        for entry in new.iter().filter(|entry| credential_key(entry).as_ref() == Some(&key)) {
            let Ok(Credential::AccessToken(token)) = &entry.2 else { panic!("no access token") };
            prop_assert_eq!(token.secret.expose(), "put");
        }
        let (old_others, new_others) = (others(&old, &key), others(&new, &key));
        for (place, credential) in &old_others {
            // What gave way to the new token: an unreadable entry, or another session of its user, under its key.
            let replaced = new.iter().find(|entry| (entry.0, &entry.1) == (place.0, &place.1))
                .is_some_and(|entry| credential_key(entry).as_ref() == Some(&key));
            if replaced {
                let session = matches!(credential, Ok(Credential::AccessToken(token)) if token.home_account_id.is_some());
                prop_assert!(credential.is_err() || session, "{:?} was lost", place);
            } else {
                prop_assert_eq!(new_others.get(place), Some(credential));
            }
        }
        prop_assert!(new_others.len() <= old_others.len());
        // Once more is nothing new, and grows nothing.
        let again = apply(&after, &change);
        prop_assert_eq!(listed(&again), new);
    }

    #[test]
    fn unknown_sections_and_entries_survive_to_the_letter(text in document(), token in put_token()) {
        let before = parse(&text);
        let mut key = Vec::new();
        let after = apply(&before, &change().put(Credential::AccessToken(token.clone())));
        let concerned = CredentialKey::of_access_token(&token);
        let (old, new) = (raw_parts(&before), raw_parts(&after));
        let readable: BTreeMap<String, Credential> = before.entries()
            .filter(|entry| entry.credential_type == CredentialType::AccessToken)
            .filter_map(|entry| Some((entry.key.to_owned(), entry.credential.ok()?)))
            .collect();
        for ((section, name), raw) in &old {
            if section == "AccessToken" {
                let changed = new.get(&(section.clone(), name.clone())) != Some(raw);
                let healed = readable.get(name).is_some_and(|credential| matches!(credential, Credential::AccessToken(token) if token.is_app_token()));
                let replaced = readable.get(name).is_some_and(|credential| CredentialKey::of(credential) == concerned);
                if changed && !healed && !replaced {
                    key.push(name.clone());
                }
            } else {
                prop_assert_eq!(new.get(&(section.clone(), name.clone())), Some(raw));
            }
        }
        // At most the one that stood under the key of the new token.
        prop_assert!(key.len() <= 1, "{:?}", key);
    }

    #[test]
    fn a_removal_removes_and_nothing_comes_back(text in document(), token in put_token()) {
        let before = parse(&text);
        let key = CredentialKey::of_access_token(&token);
        let change = change().remove(key.clone());
        match before.apply(&change).expect("applicable") {
            strongroom::Applied::Unchanged => prop_assert!(before.get(&key).is_none()),
            strongroom::Applied::Changed { bytes, .. } => {
                let after = Document::parse(bytes).expect("a document");
                prop_assert!(after.get(&key).is_none());
                let (old, new) = (others(&listed(&before), &key), others(&listed(&after), &key));
                prop_assert_eq!(old, new);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn look_ups_agree_with_a_walk_over_all_entries(text in document()) {
        let document = parse(&text);
        let listed = listed(&document);
        let tokens: Vec<AccessToken> = listed.iter()
            .filter_map(|entry| entry.2.clone().ok()?.into_access_token())
            .collect();
        for token in &tokens {
            let (found, _) = document.get(&CredentialKey::of_access_token(token)).expect("found by its own key");
            prop_assert_eq!(CredentialKey::of(&found), CredentialKey::of_access_token(token));
        }
        for token in plain_tokens(&document, &app_partition()) {
            prop_assert!(tokens.contains(&token));
            prop_assert!(token.home_account_id.is_none() && token.user_assertion_hash.is_none());
            prop_assert!(token.client_id.eq_ignore_ascii_case("client-id") && token.realm == "tid");
            prop_assert_ne!(token.environment, "other.example");
        }
        let mine = tokens.iter().filter(|token| {
            token.home_account_id.is_none() && token.user_assertion_hash.is_none() && token.environment != "other.example"
                && token.client_id.eq_ignore_ascii_case("client-id") && token.realm == "tid"
        }).count();
        let (capitals, found) = (tokens.len(), document.list(&app_partition()).len());
        prop_assert!(found <= mine && (found == mine || capitals > 1));
    }

    #[test]
    fn a_sweep_takes_expired_access_tokens_only(text in document()) {
        let document = parse(&text);
        if let strongroom::Applied::Changed { bytes, swept, .. } = document.apply(&change().sweep_expired()).expect("applicable") {
            let after = Document::parse(bytes).expect("a document");
            let (old, new) = (listed(&document), listed(&after));
            prop_assert_eq!(old.len() - new.len(), swept);
            for entry in old.iter().filter(|entry| !new.contains(entry)) {
                let Ok(Credential::AccessToken(token)) = &entry.2 else { panic!("{entry:?} was swept") };
                prop_assert!(token.expires_on <= NOW);
            }
            prop_assert!(matches!(after.apply(&change().sweep_expired()), Ok(strongroom::Applied::Unchanged)));
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in document(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let _ = Document::parse(SecretBytes::from(bytes));
        let mut damaged = text.into_bytes();
        let at = at.index(damaged.len());
        damaged[at] ^= flip;
        if let Ok(document) = Document::parse(SecretBytes::from(damaged))
            && let Ok(strongroom::Applied::Changed { bytes, .. }) =
                document.apply(&change().put(Credential::AccessToken(app_token())).sweep_expired())
        {
            prop_assert!(Document::parse(bytes).is_ok());
        }
    }
}
