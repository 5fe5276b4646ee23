//! What is written: byte for byte what MSAL Python finds, the shape of what is replaced, and nothing else touched.

use std::collections::BTreeMap;

use serde_json::Value;
use strongroom::{
    AccessToken, Account, AppMetadata, Applied, Change, Credential, CredentialKey, Dialect, Document,
    Environments, Expectation, ExtendedKey, RefreshToken, TokenScheme, UnixSeconds,
};

use crate::schema_support::*;

const APP_METADATA: &str = r#""AppMetadata": {"appmetadata-login.microsoftonline.com-client-id":
  {"client_id": "client-id", "environment": "login.microsoftonline.com"}}"#;

/// Compares values, and keys as texts: serde_json's maps are sorted by key.
fn assert_writes(change: &Change, expected: &str) {
    let written = apply(&Document::empty(), change);
    assert_eq!(json(&written), serde_json::from_str::<Value>(expected).expect("JSON"));
    // The same again on top of it changes nothing but what it must.
    let again = apply(&written, change);
    assert_eq!(json(&again), json(&written));
}

#[test]
fn client_credentials_are_written_as_python_writes_them() {
    let change =
        change().put(Credential::AccessToken(app_token())).put(Credential::AppMetadata(app_metadata()));
    assert_writes(
        &change,
        &format!(
            r#"{{"AccessToken": {{"-login.microsoftonline.com-accesstoken-client-id-tid-https://graph.microsoft.com/.default":
  {{"credential_type": "AccessToken", "secret": "at", "home_account_id": null, "environment": "login.microsoftonline.com", "client_id": "client-id", "target": "https://graph.microsoft.com/.default", "realm": "tid", "token_type": "Bearer", "cached_at": "1800000000", "expires_on": "1800003600", "extended_expires_on": "1800007200", "refresh_on": "1800001800"}}}},
 {APP_METADATA}}}"#
        ),
    );
}

#[test]
fn fields_stand_in_pythons_order() {
    let document = apply(&Document::empty(), &change().put(Credential::AccessToken(app_token())));
    assert_eq!(
        text(&document),
        r#"{"AccessToken":{"-login.microsoftonline.com-accesstoken-client-id-tid-https://graph.microsoft.com/.default":{"credential_type":"AccessToken","secret":"at","home_account_id":null,"environment":"login.microsoftonline.com","client_id":"client-id","target":"https://graph.microsoft.com/.default","realm":"tid","token_type":"Bearer","cached_at":"1800000000","expires_on":"1800003600","extended_expires_on":"1800007200","refresh_on":"1800001800"}}}"#
    );
}

#[test]
fn extended_tokens_are_written_as_python_writes_them() {
    let extended = ExtendedKey::of(&BTreeMap::from([("fmi_path".to_owned(), "some/path".to_owned())]));
    let change = change()
        .put(Credential::AccessToken(AccessToken { extended: Some(extended), ..app_token() }))
        .put(Credential::AppMetadata(app_metadata()));
    assert_writes(
        &change,
        &format!(
            r#"{{"AccessToken": {{"-login.microsoftonline.com-atext-client-id-tid-https://graph.microsoft.com/.default-szxewqr_oxftvj7t5sfiqin1oqcuxxiaebvv50zvgau":
  {{"credential_type": "AccessToken", "secret": "at", "home_account_id": null, "environment": "login.microsoftonline.com", "client_id": "client-id", "target": "https://graph.microsoft.com/.default", "realm": "tid", "token_type": "Bearer", "cached_at": "1800000000", "expires_on": "1800003600", "extended_expires_on": "1800007200", "ext_cache_key": "szxewqr_oxftvj7t5sfiqin1oqcuxxiaebvv50zvgau", "refresh_on": "1800001800"}}}},
 {APP_METADATA}}}"#
        ),
    );
}

/// The authorization code document; an on-behalf-of one lacks the account's source.
fn users_document(account_source: &str) -> String {
    format!(
        r#"{{"AccessToken": {{"uid.utid-login.microsoftonline.com-accesstoken-client-id-tid-user.read offline_access openid profile":
  {{"credential_type": "AccessToken", "secret": "at", "home_account_id": "uid.utid", "environment": "login.microsoftonline.com", "client_id": "client-id", "target": "User.Read offline_access openid profile", "realm": "tid", "token_type": "Bearer", "cached_at": "1800000000", "expires_on": "1800003600", "extended_expires_on": "1800007200", "refresh_on": "1800001800"}}}},
 "Account": {{"uid.utid-login.microsoftonline.com-tid":
  {{"home_account_id": "uid.utid", "environment": "login.microsoftonline.com", "realm": "tid", "local_account_id": "uid", "username": "user@contoso.com", "authority_type": "MSSTS"{account_source}}}}},
 "IdToken": {{"uid.utid-login.microsoftonline.com-idtoken-client-id-tid-":
  {{"credential_type": "IdToken", "secret": "{}", "home_account_id": "uid.utid", "environment": "login.microsoftonline.com", "realm": "tid", "client_id": "client-id"}}}},
 "RefreshToken": {{"uid.utid-login.microsoftonline.com-refreshtoken-client-id--user.read offline_access openid profile":
  {{"credential_type": "RefreshToken", "secret": "rt", "home_account_id": "uid.utid", "environment": "login.microsoftonline.com", "client_id": "client-id", "target": "User.Read offline_access openid profile", "last_modification_time": "1800000000"}}}},
 {APP_METADATA}}}"#,
        id_token().secret.expose()
    )
}

fn users_change(account: Account) -> Change {
    change()
        .put(Credential::AccessToken(user_token()))
        .put(Credential::Account(account))
        .put(Credential::IdToken(id_token()))
        .put(Credential::RefreshToken(refresh_token()))
        .put(Credential::AppMetadata(app_metadata()))
}

#[test]
fn all_five_types_of_an_authorization_code_are_written_as_python_writes_them() {
    assert_writes(&users_change(account()), &users_document(r#", "account_source": "authorization_code""#));
}

#[test]
fn tokens_on_behalf_of_a_user_are_written_as_python_writes_them() {
    assert_writes(&users_change(Account { account_source: None, ..account() }), &users_document(""));
    // With a hash they have one field more and the same key.
    let token = AccessToken { user_assertion_hash: Some("aGFzaA".into()), ..user_token() };
    let document = apply(&Document::empty(), &change().put(Credential::AccessToken(token)));
    let key = "uid.utid-login.microsoftonline.com-accesstoken-client-id-tid-user.read offline_access openid profile";
    assert_eq!(field(&document, "AccessToken", key, "user_assertion_hash").expect("there"), "aGFzaA");
}

#[test]
fn a_document_of_node_is_gone_on_with_as_node_writes() {
    let node = app_entry(&[
        ("home_account_id", "\"\""),
        ("environment", "\"login.windows.net\""),
        ("realm", "\"other\""),
    ]);
    let document = access_tokens(&[("n", &node)]);
    let after = apply(&document, &change().put(Credential::AccessToken(app_token())));
    let key = "-login.windows.net-accesstoken-client-id-tid-https://graph.microsoft.com/.default-";
    assert_eq!(field(&after, "AccessToken", key, "home_account_id").expect("there"), "");
    assert_eq!(field(&after, "AccessToken", key, "environment").expect("there"), "login.windows.net");
    // Unless the caller says otherwise, or others are more.
    let python =
        apply(&document, &change().dialect(Dialect::PYTHON).put(Credential::AccessToken(app_token())));
    assert_eq!(field(&python, "AccessToken", APP_KEY, "home_account_id"), Some(Value::Null));
    let mixed = access_tokens(&[("n", &node), ("p", &app_entry(&[("realm", "\"third\"")]))]);
    let mixed = apply(&mixed, &change().put(Credential::AccessToken(app_token())));
    assert_eq!(field(&mixed, "AccessToken", APP_KEY, "home_account_id"), Some(Value::Null));
    // Users' tokens and extended ones are written in one shape only.
    let extended = ExtendedKey::of(&BTreeMap::from([("fmi_path".to_owned(), "p".to_owned())]));
    let others = change()
        .put(Credential::AccessToken(user_token()))
        .put(Credential::AccessToken(AccessToken { extended: Some(extended), ..app_token() }));
    let after = apply(&document, &others);
    let written: Vec<String> = keys(&after, "AccessToken").into_iter().filter(|key| key != "n").collect();
    assert!(written.iter().all(|key| key.contains(HOST) && !key.ends_with('-')), "{written:?}");
    let atext = written.iter().find(|key| key.contains("atext")).expect("the extended one");
    assert_eq!(
        field(&after, "AccessToken", atext, "home_account_id"),
        Some(Value::Null),
        "Node must not see it"
    );
}

#[test]
fn nodes_dialect_stores_under_the_preferred_cache_of_the_authority() {
    let environments = Environments::with_aliases("a.example", Some("b.example"), ["a.example", "b.example"]);
    let token = AccessToken { environment: "a.example".into(), ..app_token() };
    let change =
        change().dialect(Dialect::NODE).environments(environments).put(Credential::AccessToken(token));
    let document = apply(&Document::empty(), &change);
    let key = "-b.example-accesstoken-client-id-tid-https://graph.microsoft.com/.default-";
    assert_eq!(field(&document, "AccessToken", key, "environment").expect("there"), "b.example");
}

#[test]
fn what_is_replaced_keeps_its_dialect() {
    let old_key = "-login.windows.net-accesstoken-client-id-tid-https://graph.microsoft.com/.default--";
    // Where another language has taken it, the key tells what it was.
    let empty = Value::from("");
    for (spelling, written) in [("null", Value::Null), ("\"\"", empty.clone()), ("", empty)] {
        let entry = app_entry(&[
            ("home_account_id", spelling),
            ("environment", "\"login.windows.net\""),
            ("target", "\"HTTPS://graph.microsoft.com/.default\""),
            ("token_type", ""),
            ("ext_expires_on", "\"1\""),
            ("requestedClaims", "\"x\""),
            ("resource", r#"{"a" : [1, "\u00fc", "ü"]}"#),
            ("odd \\u0065 name", "1e999"),
        ]);
        let document = access_tokens(&[(old_key, &entry)]);
        let token = AccessToken { secret: "new".into(), ..app_token() };
        let after = apply(&document, &change().put(Credential::AccessToken(token)));
        assert_eq!(keys(&after, "AccessToken"), [old_key]);
        let is = |name: &str| field(&after, "AccessToken", old_key, name);
        assert_eq!(is("home_account_id"), Some(written));
        assert_eq!(is("environment").expect("kept"), "login.windows.net");
        assert_eq!(is("target").expect("kept"), "HTTPS://graph.microsoft.com/.default");
        assert_eq!(is("secret").expect("new"), "new");
        assert_eq!(is("token_type").expect("always written"), "Bearer");
        assert_eq!(is("requestedClaims").expect("kept"), "x");
        assert!(text(&after).contains(r#""resource":{"a" : [1, "\u00fc", "ü"]}"#));
        assert!(text(&after).contains(r#""odd \u0065 name":1e999"#));
        assert_eq!(is("ext_expires_on"), None, "it would contradict the new time");
    }
}

#[test]
fn what_is_replaced_keeps_the_names_of_its_fields() {
    for name in ["user_assertion_hash", "userAssertionHash"] {
        let entry = app_entry(&[("home_account_id", "\"uid.utid\""), (name, "\"aGFzaA\"")]);
        let token = AccessToken {
            home_account_id: Some("uid.utid".into()),
            user_assertion_hash: Some("aGFzaA".into()),
            secret: "new".into(),
            ..app_token()
        };
        let after = apply(&access_tokens(&[("k", &entry)]), &change().put(Credential::AccessToken(token)));
        assert_eq!(field(&after, "AccessToken", "k", name).expect("kept"), "aGFzaA");
        assert_eq!(keys(&after, "AccessToken"), ["k"]);
    }
    for name in ["key_id", "keyid", "kid", "keyId"] {
        let entry = app_entry(&[("token_type", "\"pop\""), (name, "\"id\"")]);
        let scheme = TokenScheme::Bound { token_type: "pop".into(), key_id: Some("id".into()) };
        let token = AccessToken { token_type: "pop".into(), scheme, secret: "new".into(), ..app_token() };
        let after = apply(&access_tokens(&[("k", &entry)]), &change().put(Credential::AccessToken(token)));
        assert_eq!(field(&after, "AccessToken", "k", name).expect("kept"), "id");
        assert_eq!(field(&after, "AccessToken", "k", "credential_type").expect("kept"), "AccessToken");
        assert_eq!(keys(&after, "AccessToken"), ["k"]);
    }
    let entry = app_entry(&[("credential_type", "\"AText\""), ("ext_cache_key_hash", "\"hash\"")]);
    let document = access_tokens(&[("k", &entry)]);
    let (found, _) = document.list(&app_partition()).remove(0);
    let Credential::AccessToken(found) = found else { panic!("no access token") };
    let after = apply(
        &document,
        &change().put(Credential::AccessToken(AccessToken { secret: "new".into(), ..found })),
    );
    assert_eq!(field(&after, "AccessToken", "k", "credential_type").expect("kept"), "AText");
    assert_eq!(field(&after, "AccessToken", "k", "ext_cache_key_hash").expect("kept"), "hash");
}

#[test]
fn every_entry_of_an_identity_gets_the_new_token() {
    let document = access_tokens(&[
        ("python", &app_entry(&[])),
        ("node", &app_entry(&[("home_account_id", "\"\""), ("environment", "\"login.windows.net\"")])),
    ]);
    let after = apply(
        &document,
        &change().put(Credential::AccessToken(AccessToken { secret: "new".into(), ..app_token() })),
    );
    for key in ["python", "node"] {
        assert_eq!(field(&after, "AccessToken", key, "secret").expect("there"), "new");
    }
}

#[test]
fn a_missing_home_account_id_is_given_back_whoever_is_declared() {
    let go = app_entry(&[("home_account_id", ""), ("realm", "\"go\"")]);
    let other = change().put(Credential::AccessToken(AccessToken { realm: "third".into(), ..app_token() }));
    let python = access_tokens(&[("g", &go), ("p", &app_entry(&[]))]);
    let alone = access_tokens(&[("g", &go)]);
    for document in [&python, &alone] {
        let healed = apply(document, &other);
        assert_eq!(field(&healed, "AccessToken", "g", "home_account_id"), Some(Value::Null));
        for dialect in Dialect::ALL {
            let healed = apply(document, &other.clone().dialect(dialect));
            assert_eq!(field(&healed, "AccessToken", "g", "home_account_id"), Some(Value::Null), "{dialect}");
        }
        // One that is itself replaced is given it back at once.
        let own = change().put(Credential::AccessToken(AccessToken { realm: "go".into(), ..app_token() }));
        assert_eq!(field(&apply(document, &own), "AccessToken", "g", "home_account_id"), Some(Value::Null));
        // A change of nothing heals nothing.
        assert!(matches!(document.apply(&change()), Ok(Applied::Unchanged)));
    }
    // A user's entry that lacks it, and a bound one, are not what Python looks for.
    let sets_apart = [("user_assertion_hash", "\"aGFzaA\""), ("key_id", "\"k\"")];
    for part in sets_apart {
        let entry = app_entry(&[("home_account_id", ""), ("realm", "\"go\""), part]);
        let healed = apply(&access_tokens(&[("g", &entry)]), &other);
        assert_eq!(field(&healed, "AccessToken", "g", "home_account_id"), None, "{part:?}");
    }
}

#[test]
fn app_metadata_stands_under_exactly_pythons_key() {
    let app = AppMetadata { client_id: "Client-ID".into(), ..app_metadata() };
    let put = change().put(Credential::AppMetadata(app));
    let key = "appmetadata-login.microsoftonline.com-Client-ID";
    let document = apply(&Document::empty(), &put);
    assert_eq!(keys(&document, "AppMetadata"), [key]);
    assert!(matches!(document.apply(&put), Ok(Applied::Unchanged)));
    // Another language's entry for the same application is not enough, and is left alone.
    let foreign = parse(
        r#"{"AppMetadata":{"AppMetadata-login.windows.net-client-id":{"client_id":"client-id","environment":"login.windows.net","x":1}}}"#,
    );
    let after = apply(&foreign, &put);
    assert_survives(&foreign, &after, &[]);
    assert_eq!(keys(&after, "AppMetadata").len(), 2);
    assert!(matches!(after.apply(&put), Ok(Applied::Unchanged)));
}

#[test]
fn app_metadata_learns_a_family_and_does_not_forget_it() {
    let of_family = AppMetadata { family_id: Some("1".into()), ..app_metadata() };
    let before = parse(
        r#"{"AppMetadata":{"appmetadata-login.microsoftonline.com-client-id":{"client_id":"client-id","environment":"login.microsoftonline.com","family_id":null,"x":1}}}"#,
    );
    assert!(matches!(
        before.apply(&change().put(Credential::AppMetadata(app_metadata()))),
        Ok(Applied::Unchanged)
    ));
    let after = apply(&before, &change().put(Credential::AppMetadata(of_family)));
    let key = "appmetadata-login.microsoftonline.com-client-id";
    assert_eq!(field(&after, "AppMetadata", key, "family_id").expect("there"), "1");
    assert_eq!(field(&after, "AppMetadata", key, "x").expect("kept"), 1);
    assert!(matches!(
        after.apply(&change().put(Credential::AppMetadata(app_metadata()))),
        Ok(Applied::Unchanged)
    ));
}

#[test]
fn app_metadata_whose_place_is_taken_does_not_pile_up() {
    let taken = parse(
        r#"{"AppMetadata":{"appmetadata-login.microsoftonline.com-client-id":{"client_id":"other","environment":"h"}}}"#,
    );
    let put = change().put(Credential::AppMetadata(app_metadata()));
    let after = apply(&taken, &put);
    assert_survives(&taken, &after, &[]);
    assert!(matches!(after.apply(&put), Ok(Applied::Unchanged)));
}

#[test]
fn a_rotated_refresh_token_replaces_every_one_that_it_used_up() {
    let entry = |client: &str, more: &str| {
        format!(
            r#"{{"secret":"old","home_account_id":"uid.utid","environment":"login.windows.net","client_id":"{client}"{more}}}"#
        )
    };
    let document = parse(&format!(
        r#"{{"RefreshToken":{{"go":{},"node":{},"family":{},"other":{},"obo":{}}}}}"#,
        entry("client-id", ""),
        entry("client-id", r#","target":"a b","last_modification_time":"5""#),
        entry("first", r#","family_id":"1""#),
        entry("other", ""),
        entry("client-id", r#","user_assertion_hash":"aGFzaA""#),
    ));
    let secrets = |document: &Document| -> Vec<String> {
        ["go", "node", "family", "other", "obo"]
            .iter()
            .map(|key| {
                field(document, "RefreshToken", key, "secret")
                    .expect("there")
                    .as_str()
                    .expect("text")
                    .to_owned()
            })
            .collect()
    };
    let own = apply(&document, &change().put(Credential::RefreshToken(refresh_token())));
    assert_eq!(secrets(&own), ["rt", "rt", "old", "old", "old"]);
    assert_eq!(keys(&own, "RefreshToken").len(), 5);
    assert_eq!(field(&own, "RefreshToken", "node", "target").expect("kept"), "a b");
    let family =
        RefreshToken { family_id: Some("1".into()), last_modification_time: None, ..refresh_token() };
    let family = apply(&document, &change().put(Credential::RefreshToken(family)));
    assert_eq!(secrets(&family), ["rt", "rt", "rt", "old", "old"]);
    assert_eq!(field(&family, "RefreshToken", "family", "client_id").expect("kept"), "first");
    // Python compares it with numbers: it is always written.
    assert_eq!(field(&family, "RefreshToken", "go", "last_modification_time").expect("there"), "1800000000");
}

#[test]
fn no_time_of_writing_is_ahead_of_the_clock() {
    let ahead = NOW.plus(100);
    let document = apply(
        &Document::empty(),
        &change().put(Credential::AccessToken(AccessToken { cached_at: ahead, ..app_token() })).put(
            Credential::RefreshToken(RefreshToken { last_modification_time: Some(ahead), ..refresh_token() }),
        ),
    );
    assert_eq!(field(&document, "AccessToken", APP_KEY, "cached_at").expect("there"), "1800000000");
    let key = &keys(&document, "RefreshToken")[0];
    assert_eq!(field(&document, "RefreshToken", key, "last_modification_time").expect("there"), "1800000000");
}

#[test]
fn an_unreadable_entry_under_the_key_of_a_new_one_gives_way() {
    let document = access_tokens(&[(APP_KEY, "null"), ("other", "5")]);
    let after = apply(&document, &change().put(Credential::AccessToken(app_token())));
    assert_eq!(keys(&after, "AccessToken"), [APP_KEY, "other"]);
    assert_survives(&document, &after, &[APP_KEY]);
    assert!(after.get(&plain_key(SCOPE)).is_some());
}

#[test]
fn removing_takes_every_entry_of_the_identity_and_resurrects_none() {
    let old = app_entry(&[("secret", "\"old\"")]);
    let node = app_entry(&[("home_account_id", "\"\""), ("environment", "\"login.windows.net\"")]);
    let kept = app_entry(&[("realm", "\"other\"")]);
    let document =
        access_tokens(&[("k", &old), ("k", &app_entry(&[])), ("n", &node), ("x", &kept), ("n", &node)]);
    let after = apply(&document, &change().remove(plain_key(SCOPE)));
    assert_eq!(text(&after), format!(r#"{{"AccessToken":{{"x":{kept}}}}}"#));
    // An earlier section of the same name stays what it was: overruled.
    let section = format!(r#"{{"k":{old}}}"#);
    let document = parse(&format!(r#"{{"AccessToken":{section},"AccessToken":{section}}}"#));
    let after = apply(&document, &change().remove(plain_key(SCOPE)));
    assert!(after.is_empty());
    assert!(matches!(after.apply(&change().remove(plain_key(SCOPE))), Ok(Applied::Unchanged)));
    let twin = APP_KEY.replace("accesstoken", "AccessToken");
    let document = access_tokens(&[(&twin, &old), (APP_KEY, &old)]);
    assert!(apply(&document, &change().remove(plain_key(SCOPE))).is_empty());
}

#[test]
fn what_is_removed_and_put_in_one_change_is_there() {
    let change = change()
        .remove(plain_key(SCOPE))
        .put(Credential::AccessToken(AccessToken { secret: "new".into(), ..app_token() }))
        .put(Credential::AppMetadata(app_metadata()))
        .remove(CredentialKey::of(&Credential::AppMetadata(app_metadata())));
    let metadata = r#"{"client_id":"client-id","environment":"login.microsoftonline.com"}"#;
    let before = parse(&format!(
        r#"{{"AccessToken":{{"{APP_KEY}":{}}},"AppMetadata":{{"appmetadata-{HOST}-client-id":{metadata}}}}}"#,
        app_entry(&[])
    ));
    for document in [Document::empty(), before] {
        let after = apply(&document, &change);
        assert_eq!(secret_of(&after, &plain_key(SCOPE)).as_deref(), Some("new"));
        assert_eq!(keys(&after, "AccessToken"), [APP_KEY]);
        assert_eq!(keys(&after, "AppMetadata").len(), 1);
    }
}

#[test]
fn expired_tokens_are_swept_and_others_are_not() {
    let python = |realm: &str| format!("-{HOST}-accesstoken-client-id-{realm}-{SCOPE}");
    let entry = |realm: &str, expires: &str, extended: &str| {
        let quoted = format!("\"{realm}\"");
        app_entry(&[("realm", &quoted), ("expires_on", expires), ("extended_expires_on", extended)])
    };
    let document = access_tokens(&[
        (&python("ended"), &entry("ended", "\"1799990000\"", "\"1800000000\"")),
        // It may serve in an outage, but for at most a day.
        (&python("outage"), &entry("outage", "\"1799999000\"", "\"1800001000\"")),
        (&python("too-long"), &entry("too-long", "\"1799900000\"", "\"1900000000\"")),
        (&python("valid"), &entry("valid", "\"1800000001\"", "\"1800000001\"")),
        // Python cannot delete it, tries at every look-up, and may delete its own token instead.
        ("foreign", &entry("foreign", "\"1799999000\"", "\"1800001000\"")),
        ("unreadable", &entry("unreadable", "\"soon\"", "\"1800001000\"")),
        ("refresh", "5"),
    ]);
    let (after, swept) = apply_and_count(&document, &change().sweep_expired());
    assert_eq!(swept, 3);
    let mut left = vec![python("outage"), python("valid"), "refresh".into(), "unreadable".into()];
    left.sort();
    assert_eq!(keys(&after, "AccessToken"), left);
    assert_survives(&document, &after, &[&python("ended"), &python("too-long"), "foreign"]);
    assert!(matches!(after.apply(&change().sweep_expired()), Ok(Applied::Unchanged)));
    assert!(matches!(document.apply(&change()), Ok(Applied::Unchanged)), "only when asked for");
}

#[test]
fn sweeping_resurrects_nothing_and_spares_what_is_put() {
    let expired = app_entry(&[("expires_on", "5"), ("extended_expires_on", "5")]);
    let document = access_tokens(&[("k", &app_entry(&[("secret", "\"earlier\"")])), ("k", &expired)]);
    let (after, swept) = apply_and_count(&document, &change().sweep_expired());
    assert_eq!((swept, after.entries().count()), (1, 0));
    let renewal = change().sweep_expired().put(Credential::AccessToken(app_token()));
    let (after, swept) = apply_and_count(&document, &renewal);
    assert_eq!((swept, secret_of(&after, &plain_key(SCOPE)).as_deref()), (0, Some("at")));
    // What an overruled section holds is nobody's.
    let section = format!(r#"{{"k":{expired}}}"#);
    let document = parse(&format!(r#"{{"AccessToken":{section},"AccessToken":{{}}}}"#));
    assert!(matches!(document.apply(&change().sweep_expired()), Ok(Applied::Unchanged)));
}

#[test]
fn conditional_writes_hold_what_they_expect() {
    let token = |secret: &str| Credential::AccessToken(AccessToken { secret: secret.into(), ..app_token() });
    let absent = change().put_if(token("new"), Expectation::Absent);
    let document = apply(&Document::empty(), &absent);
    match document.apply(&absent).expect("applicable") {
        Applied::Lost(key) => assert_eq!(key, plain_key(SCOPE)),
        other => panic!("{other:?}"),
    }
    let (_, revision) = document.get(&plain_key(SCOPE)).expect("there");
    let unchanged = change().put_if(token("newer"), Expectation::Unchanged(revision));
    let after = apply(&document, &unchanged);
    assert!(matches!(after.apply(&unchanged), Ok(Applied::Lost(_))), "another token by now");
    assert!(matches!(Document::empty().apply(&unchanged), Ok(Applied::Lost(_))), "gone");
    // All of a change happens or nothing.
    let both =
        Change::new(NOW).put(Credential::AppMetadata(app_metadata())).put_if(token("x"), Expectation::Absent);
    assert!(matches!(document.apply(&both), Ok(Applied::Lost(_))));
    // `list` gives the same revision, and it is stable over parsing the same bytes.
    let again = parse(text(&document));
    assert_eq!(again.list(&app_partition())[0].1, revision);
}

#[test]
fn indentation_and_compactness_are_kept() {
    let indented = parse(
        "{\n    \"AccessToken\": {\n        \"k\": {\n            \"foo\": \"bar\"\n        }\n    },\n    \"x\": 1\n}\n",
    );
    let change =
        change().put(Credential::AccessToken(app_token())).put(Credential::AppMetadata(app_metadata()));
    let after = apply(&indented, &change);
    assert_survives(&indented, &after, &[]);
    let lines: Vec<&str> = text(&after).lines().collect();
    assert!(lines.iter().any(|line| line.starts_with(&format!("        \"{APP_KEY}\": {{"))), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("    \"AppMetadata\": {")), "{lines:?}");
    assert!(text(&after).ends_with("\n}\n"));
    let compact = parse(r#"{"AccessToken":{},"x":1}"#);
    let after = apply(&compact, &change);
    assert!(
        !text(&after).contains(['\n', ' ']) || text(&after).matches(' ').count() == 0,
        "{}",
        text(&after)
    );
    for odd in
        ["{}", " { } ", "{\"AccessToken\" : { } }", "\n{\n}\n", "{\"AccessToken\":null}", "", " \t\r\n"]
    {
        let after = apply(&parse(odd), &change);
        assert!(after.get(&plain_key(SCOPE)).is_some(), "{odd:?}");
        assert_eq!(after.entries().count(), 2, "{odd:?}");
    }
}

#[test]
fn text_beyond_ascii_is_escaped_and_read_back() {
    let token = AccessToken { secret: "ü\u{1F600}\"\\\n".into(), realm: "tenant-é".into(), ..app_token() };
    let document = apply(&Document::empty(), &change().put(Credential::AccessToken(token.clone())));
    assert!(document.bytes().expose().is_ascii());
    assert!(text(&document).contains(r#"\u00fc\ud83d\ude00\"\\\n"#));
    let (found, _) = document.get(&CredentialKey::of_access_token(&token)).expect("found");
    assert_eq!(found, Credential::AccessToken(token));
}

#[test]
fn times_are_written_as_strings_of_digits() {
    let far = AccessToken {
        expires_on: UnixSeconds::new(i64::MAX),
        extended_expires_on: UnixSeconds::new(i64::MAX),
        refresh_on: None,
        ..app_token()
    };
    let document = apply(&Document::empty(), &change().put(Credential::AccessToken(far)));
    assert_eq!(field(&document, "AccessToken", APP_KEY, "expires_on").expect("there"), "9223372036854775807");
    assert_eq!(field(&document, "AccessToken", APP_KEY, "refresh_on"), None);
}

#[test]
fn a_section_that_is_no_object_refuses_writes_and_nothing_else() {
    let document = parse(&format!(r#"{{"IdToken":[1],"AccessToken":{{"k":{}}}}}"#, app_entry(&[])));
    assert!(document.get(&plain_key(SCOPE)).is_some());
    let error = document.apply(&change().put(Credential::IdToken(id_token()))).expect_err("refused");
    assert_eq!(error.to_string(), "the section IdToken is not a JSON object");
    let after = apply(
        &document,
        &change().put(Credential::AccessToken(AccessToken { secret: "n".into(), ..app_token() })),
    );
    assert_survives(&document, &after, &["k"]);
}
