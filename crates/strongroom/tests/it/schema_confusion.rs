//! No entry that is anything but a plain bearer token of the application answers the application's request.

use std::collections::BTreeMap;

use strongroom::{AccessToken, Credential, CredentialKey, Document, Expectation, ExtendedKey, TokenScheme};

use crate::schema_support::*;

const HASH: &str = "szxewqr_oxftvj7t5sfiqin1oqcuxxiaebvv50zvgau";

/// Asserts that `entry` under `key` is readable and yet answers no plain request of the application.
fn assert_never_plain(key: &str, entry: &str) {
    let document = access_tokens(&[(key, entry)]);
    assert_eq!(plain_tokens(&document, &app_partition()), [], "{key}: {entry}");
    assert!(document.get(&plain_key(SCOPE)).is_none(), "{key}: {entry}");
    // Nor does it when a plain token is put beside it, which must not touch it.
    let after = apply(
        &document,
        &change().put(Credential::AccessToken(AccessToken { secret: "new".into(), ..app_token() })),
    );
    assert_survives(&document, &after, &[]);
    assert_eq!(secret_of(&after, &plain_key(SCOPE)).as_deref(), Some("new"), "{key}: {entry}");
    let plain = plain_tokens(&after, &app_partition());
    assert_eq!(plain.len(), 1, "{}", text(&after));
    // Nor does it pile up when that token is renewed.
    let renewed = apply(
        &after,
        &change().put(Credential::AccessToken(AccessToken { secret: "newer".into(), ..app_token() })),
    );
    assert_eq!(keys(&renewed, "AccessToken").len(), 2, "{}", text(&renewed));
    assert_survives(&document, &renewed, &[]);
}

#[test]
fn extended_tokens_in_each_languages_spelling_answer_no_plain_request() {
    let quoted = format!("\"{HASH}\"");
    for changes in [
        &[("ext_cache_key", quoted.as_str())][..],
        &[("ext_cache_key_hash", &quoted)],
        &[("additionalCacheKeyComponents", r#"{"fmi_path":"some/path"}"#)],
        &[("ext", r#"{"fmi_path":{"Item1":"some/path","Item2":false}}"#)],
        &[("credential_type", "\"AText\"")],
        &[("credential_type", "\"ATExt\"")],
        // Markers of a type that nobody writes are markers still.
        &[("ext_cache_key", "5")],
        &[("ext_cache_key_hash", "true")],
        &[("additionalCacheKeyComponents", "[]")],
        &[("ext", "\"x\"")],
        &[("ext", "{\"\\ud800\":1}")],
        // Any of several marks is enough.
        &[("ext_cache_key", &quoted), ("ext", "null")],
        &[("ext", "null"), ("ext_cache_key", &quoted), ("additionalCacheKeyComponents", "{}")],
    ] {
        for key in [APP_KEY, "k"] {
            assert_never_plain(key, &app_entry(changes));
        }
    }
}

#[test]
fn the_stored_key_of_an_extended_token_is_enough_where_a_peer_dropped_the_marker() {
    let base = |kind: &str| format!("-{HOST}-{kind}-client-id-tid-{SCOPE}");
    for key in [
        format!("{}-{HASH}", base("atext")),
        format!("{}-{HASH}", base("AText")),
        format!("{}--{HASH}", base("accesstoken")),
        format!("{}-{HASH}", base("accesstoken")),
        format!("{}--{}", base("accesstoken"), HASH.to_uppercase()),
        base("atext"),
        format!("{}-", base("atext")),
        // Under an alias, with the target in another order, or in no known form.
        format!("-login.windows.net-accesstoken-client-id-tid-{SCOPE}--{HASH}"),
        format!("-{HOST}-accesstoken-client-id-tid-{SCOPE} other--{HASH}"),
        format!("x-atext-{HASH}"),
        "ATEXT".to_owned(),
    ] {
        assert_never_plain(&key, &app_entry(&[]));
        assert_never_plain(&key, &app_entry(&[("token_type", "")]));
    }
    let key = format!("-{HOST}-accesstoken-client-id-tid-b a--{HASH}");
    let document = access_tokens(&[(&key, &app_entry(&[("target", "\"a b\"")]))]);
    assert_eq!(plain_tokens(&document, &app_partition()), []);
}

#[test]
fn what_follows_a_plain_tokens_key_in_some_languages_is_no_mark() {
    for tail in ["", "-", "--", "---", "-bearer", "-Bearer-"] {
        let document = access_tokens(&[(&format!("{APP_KEY}{tail}"), &app_entry(&[]))]);
        assert_eq!(plain_tokens(&document, &app_partition()).len(), 1, "{tail}");
    }
    for (name, value) in [
        ("ext_cache_key", "\"\""),
        ("ext_cache_key_hash", "null"),
        ("ext", "{}"),
        ("additionalCacheKeyComponents", "null"),
        ("ext", "\"\""),
        ("key_id", "null"),
        ("kid", "\"\""),
        ("token_type", "\"bearer\""),
        ("token_type", "null"),
        ("token_type", "\"\""),
        ("userAssertionHash", "\"\""),
    ] {
        let document = access_tokens(&[(APP_KEY, &app_entry(&[(name, value)]))]);
        assert_eq!(plain_tokens(&document, &app_partition()).len(), 1, "{name}: {value}");
    }
}

#[test]
fn tokens_bound_to_a_key_in_each_languages_spelling_answer_no_bearer_request() {
    for changes in [
        &[("token_type", "\"pop\"")][..],
        &[("token_type", "\"PoP\""), ("key_id", "\"kid\"")],
        &[("token_type", "\"ssh-cert\"")],
        &[("token_type", "\"mtls_pop\"")],
        &[("token_type", "\"dpop\"")],
        &[("token_type", "\"Bearer \"")],
        &[("token_type", "5")],
        &[("tokenType", "\"pop\""), ("token_type", "")],
        &[("tokenType", "\"pop\"")],
        &[("key_id", "\"kid\"")],
        &[("keyid", "\"kid\"")],
        &[("kid", "\"kid\"")],
        &[("keyId", "\"kid\"")],
        &[("kid", "7")],
        &[("credential_type", "\"AccessToken_With_AuthScheme\""), ("token_type", "")],
        &[("credential_type", "\"accesstoken_with_authscheme\"")],
        &[("credential_type", "\"RefreshToken\"")],
        &[("credential_type", "\"Unheard-of\"")],
    ] {
        for key in [APP_KEY, "k"] {
            assert_never_plain(key, &app_entry(changes));
        }
    }
    for key in [
        format!("-{HOST}-accesstoken_with_authscheme-client-id-tid-{SCOPE}-pop"),
        format!("-{HOST}-AccessToken_With_AuthScheme-client-id-tid-{SCOPE}-"),
        "accesstoken_with_authscheme".to_owned(),
    ] {
        assert_never_plain(&key, &app_entry(&[]));
    }
}

#[test]
fn tokens_of_users_and_on_their_behalf_answer_no_request_of_the_application() {
    let hash = "\"fFsdSeaHX9iH_VIhI8SzQWnUzBGmUCzATLfrj3wWaXI\"";
    for changes in [
        &[("home_account_id", "\"uid.utid\"")][..],
        &[("home_account_id", "\" \"")],
        &[("user_assertion_hash", hash)],
        &[("userAssertionHash", hash)],
        &[("user_assertion_hash", "5")],
        &[("home_account_id", "\"uid.utid\""), ("user_assertion_hash", hash)],
        &[("user_assertion_hash", hash), ("userAssertionHash", "null")],
    ] {
        for key in [APP_KEY, "k"] {
            let document = access_tokens(&[(key, &app_entry(changes))]);
            assert_eq!(document.list(&app_partition()), [], "{changes:?}");
            assert_never_plain(key, &app_entry(changes));
        }
    }
}

#[test]
fn tokens_of_others_answer_no_request_of_the_application() {
    for changes in [
        ("client_id", "\"other\""),
        ("realm", "\"other\""),
        ("environment", "\"login.microsoftonline.us\""),
        ("target", "\"https://vault.azure.net/.default\""),
    ] {
        let document = access_tokens(&[(APP_KEY, &app_entry(&[changes]))]);
        assert!(document.get(&plain_key(SCOPE)).is_none(), "{changes:?}");
    }
}

#[test]
fn extended_requests_are_answered_by_no_plain_token_and_by_no_other_extended_one() {
    let parameters = BTreeMap::from([("fmi_path".to_owned(), "some/path".to_owned())]);
    let extended = ExtendedKey::of(&parameters);
    let key = |extended: &ExtendedKey| {
        app_partition().access_token(&SCOPE.into(), &TokenScheme::Bearer, Some(extended))
    };
    let plain = access_tokens(&[(APP_KEY, &app_entry(&[]))]);
    assert!(plain.get(&key(&extended)).is_none());
    let components = app_entry(&[("additionalCacheKeyComponents", r#"{"fmi_path":"some/path"}"#)]);
    for (stored, entry) in [
        (format!("{APP_KEY}-{HASH}").replace("accesstoken", "atext"), app_entry(&[])),
        (APP_KEY.to_owned(), app_entry(&[("ext_cache_key_hash", &format!("\"{}\"", HASH.to_uppercase()))])),
        // Node hashes by another recipe: the components decide, not its key.
        (format!("{APP_KEY}--7f5unhzrt3y60e4clhx8oakvmvc755ebgt_yvyhqqsm"), components.clone()),
    ] {
        let document = access_tokens(&[(&stored, &entry)]);
        assert!(document.get(&key(&extended)).is_some(), "{stored}");
        let other = BTreeMap::from([("fmi_path".to_owned(), "other/path".to_owned())]);
        assert!(document.get(&key(&ExtendedKey::of(&other))).is_none(), "{stored}");
    }
    // Where the components were dropped, the hash by Node's recipe is still there.
    let stored = format!("{APP_KEY}--7f5unhzrt3y60e4clhx8oakvmvc755ebgt_yvyhqqsm");
    let document = access_tokens(&[(&stored, &app_entry(&[]))]);
    let found =
        ExtendedKey::all_recipes(&parameters).iter().any(|recipe| document.get(&key(recipe)).is_some());
    assert!(found);
}

#[test]
fn a_plain_token_that_finds_its_key_taken_gets_a_place_of_its_own_and_keeps_it() {
    // Python stores a PoP token under a bearer token's key.
    let document =
        access_tokens(&[(APP_KEY, &app_entry(&[("token_type", "\"pop\""), ("key_id", "\"kid\"")]))]);
    let mut after = apply(&document, &change().put(Credential::AccessToken(app_token())));
    for round in 0..3 {
        let token = AccessToken { secret: format!("at-{round}").as_str().into(), ..app_token() };
        after = apply(&after, &change().put(Credential::AccessToken(token)));
        assert_eq!(keys(&after, "AccessToken"), [APP_KEY.to_owned(), format!("{APP_KEY}-")]);
    }
}

#[test]
fn what_is_not_a_plain_token_of_ours_is_not_made_visible_to_python() {
    // Python takes any app token with `null` for a bearer token; MSAL Java's marker means nothing to it.
    let python = app_entry(&[("client_id", "\"python\"")]);
    let entries = [
        ("pop", app_entry(&[("home_account_id", ""), ("token_type", "\"pop\"")])),
        ("java", app_entry(&[("home_account_id", ""), ("ext_cache_key_hash", "\"x\"")])),
        ("obo", app_entry(&[("home_account_id", ""), ("user_assertion_hash", "\"x\"")])),
        ("go", app_entry(&[("home_account_id", ""), ("realm", "\"go\"")])),
    ];
    let mut all = vec![("python", python.as_str())];
    all.extend(entries.iter().map(|(key, entry)| (*key, entry.as_str())));
    let document = access_tokens(&all);
    let pop = AccessToken {
        token_type: "pop".into(),
        scheme: TokenScheme::Bound { token_type: "pop".into(), key_id: Some("kid".into()) },
        ..app_token()
    };
    let obo = AccessToken { user_assertion_hash: Some("aGFzaA".into()), ..app_token() };
    let after =
        apply(&document, &change().put(Credential::AccessToken(pop)).put(Credential::AccessToken(obo)));
    assert_survives(&document, &after, &["go"]);
    assert_eq!(field(&after, "AccessToken", "go", "home_account_id"), Some(serde_json::Value::Null));
    assert_eq!(keys(&after, "AccessToken").len(), 7);
    for (key, _) in entries.iter().take(3) {
        assert_eq!(field(&after, "AccessToken", key, "home_account_id"), None, "{key}");
    }
    let written: Vec<String> =
        keys(&after, "AccessToken").into_iter().filter(|key| key.contains("accesstoken")).collect();
    assert_eq!(written.len(), 2);
    for key in written {
        assert_eq!(field(&after, "AccessToken", &key, "home_account_id"), None, "{key}");
    }
}

#[test]
fn sessions_on_behalf_of_one_user_take_turns_under_the_one_key() {
    // Python finds a user's token by its fields: a second one under a longer key would be served to the wrong session.
    let session = |hash: &str| {
        let token =
            AccessToken { user_assertion_hash: Some(hash.into()), secret: hash.into(), ..user_token() };
        (CredentialKey::of_access_token(&token), Credential::AccessToken(token))
    };
    let (one, first) = session("b25l");
    let (two, second) = session("dHdv");
    let document = apply(&Document::empty(), &change().put(first));
    assert!(document.get(&one).is_some() && document.get(&two).is_none());
    let document = apply(&document, &change().put_if(second, Expectation::Absent));
    assert!(document.get(&one).is_none() && document.get(&two).is_some());
    assert_eq!(keys(&document, "AccessToken").len(), 1);
}

#[test]
fn two_credentials_of_one_change_that_share_a_key_are_both_kept() {
    let app = Credential::AccessToken(app_token());
    let behalf =
        Credential::AccessToken(AccessToken { user_assertion_hash: Some("aGFzaA".into()), ..app_token() });
    let document = apply(&Document::empty(), &change().put(app.clone()).put(behalf.clone()));
    assert!(
        document.get(&CredentialKey::of(&app)).is_some()
            && document.get(&CredentialKey::of(&behalf)).is_some()
    );
}
