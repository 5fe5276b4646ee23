//! One bad entry never costs the others: it is kept as it is, reported, and not served.

use strongroom::{AccessToken, Credential, CredentialType, Document, EntryProblem, UnixSeconds};

use crate::schema_support::*;

/// A document whose section `kind` has the entry `bad` under `bad`, beside one of the application that is fine.
fn beside(kind: CredentialType, bad: &str) -> Document {
    let good = app_entry(&[]);
    parse(&match kind {
        CredentialType::AccessToken => format!(r#"{{"AccessToken":{{"bad" : {bad},"good":{good}}}}}"#),
        _ => format!(r#"{{"{kind}":{{"bad" : {bad}}},"AccessToken":{{"good":{good}}}}}"#),
    })
}

/// Asserts that `bad` is reported as `problem` and costs nothing else.
fn assert_kept(kind: CredentialType, bad: &str, problem: Option<EntryProblem>) {
    let document = beside(kind, bad);
    let found = document.entries().find(|entry| entry.key == "bad").expect("listed");
    assert_eq!(found.credential.as_ref().err().copied(), problem, "{bad}");
    assert_eq!(secret_of(&document, &plain_key(SCOPE)).as_deref(), Some("at"), "{bad}");
    if problem.is_some() {
        assert_eq!(plain_tokens(&document, &app_partition()).len(), 1, "{bad}");
    }
    let token = AccessToken { target: "other".into(), ..app_token() };
    let after = apply(&document, &change().sweep_expired().put(Credential::AccessToken(token)));
    assert_survives(&document, &after, &[]);
}

#[test]
fn entries_that_are_no_objects_are_kept_and_not_served() {
    for kind in CredentialType::ALL {
        for bad in ["null", "\"text\"", "5", "-1e999", "true", "[]", "[{\"a\":1}]", "\"\\ud800\""] {
            assert_kept(kind, bad, Some(EntryProblem::NotAnObject));
        }
    }
}

#[test]
fn access_tokens_without_what_they_need_are_kept_and_not_served() {
    for name in ["secret", "environment", "client_id", "realm", "target", "cached_at", "expires_on"] {
        for value in ["", "null", "true", "[]", "{}", "{\"a\":[1,{}]}", "\"\\udc00\"", "1e999"] {
            // A time is a number as well.
            assert_kept(
                CredentialType::AccessToken,
                &app_entry(&[(name, value)]),
                Some(EntryProblem::Field(name)),
            );
        }
    }
    for name in ["secret", "environment", "client_id", "realm", "target"] {
        for value in ["5", "5.5"] {
            assert_kept(
                CredentialType::AccessToken,
                &app_entry(&[(name, value)]),
                Some(EntryProblem::Field(name)),
            );
        }
    }
    for name in ["secret", "environment", "client_id", "realm", "cached_at", "expires_on"] {
        assert_kept(
            CredentialType::AccessToken,
            &app_entry(&[(name, "\"\"")]),
            Some(EntryProblem::Field(name)),
        );
    }
    for value in ["5", "false", "[]", "{}"] {
        let entry = app_entry(&[("home_account_id", value)]);
        assert_kept(CredentialType::AccessToken, &entry, Some(EntryProblem::Field("home_account_id")));
    }
}

#[test]
fn what_is_not_needed_may_be_missing_or_of_any_type() {
    let realm = ("realm", "\"other\"");
    for name in ["extended_expires_on", "refresh_on", "token_type", "credential_type"] {
        for value in ["", "null", "\"\""] {
            assert_kept(CredentialType::AccessToken, &app_entry(&[realm, (name, value)]), None);
        }
    }
    for name in ["extended_expires_on", "refresh_on", "unheard-of"] {
        for value in ["true", "[]", "{\"a\":{\"b\":1}}", "1e999", "\"\\ud800\"", "\"soon\""] {
            assert_kept(CredentialType::AccessToken, &app_entry(&[realm, (name, value)]), None);
        }
    }
    // Names that mean something to a decoder in Go.
    for name in ["Secret", "AdditionalFields", "SECRET", "\\ud800"] {
        assert_kept(CredentialType::AccessToken, &app_entry(&[realm, (name, "\"wrong\"")]), None);
        let document = access_tokens(&[("k", &app_entry(&[(name, "\"wrong\"")]))]);
        assert_eq!(secret_of(&document, &plain_key(SCOPE)).as_deref(), Some("at"), "{name}");
    }
}

#[test]
fn entries_of_the_other_types_are_judged_by_what_they_need() {
    use CredentialType::{Account, AppMetadata, IdToken, RefreshToken};
    let refresh_token = |more: &str| {
        format!(r#"{{"home_account_id":"uid.utid","environment":"e","client_id":"c","secret":"s"{more}}}"#)
    };
    for more in [
        "",
        r#","last_modification_time":null"#,
        r#","last_modification_time":"soon""#,
        r#","target":null"#,
        r#","target":5"#,
    ] {
        assert_kept(RefreshToken, &refresh_token(more), None);
        assert_kept(IdToken, &refresh_token(more), None);
    }
    for (more, name) in [
        (r#","secret":5"#, "secret"),
        (r#","client_id":null"#, "client_id"),
        (r#","environment":"""#, "environment"),
    ] {
        assert_kept(RefreshToken, &refresh_token(more), Some(EntryProblem::Field(name)));
        assert_kept(IdToken, &refresh_token(more), Some(EntryProblem::Field(name)));
    }
    // Python cannot do without these two, we can.
    let account = r#"{"home_account_id":"uid.utid","environment":"e","realm":"r","local_account_id":"l"}"#;
    assert_kept(Account, account, None);
    assert_kept(Account, r#"{"environment":"e"}"#, Some(EntryProblem::Field("home_account_id")));
    assert_kept(AppMetadata, r#"{"environment":"e","client_id":"c","family_id":null}"#, None);
    assert_kept(AppMetadata, r#"{"environment":"e"}"#, Some(EntryProblem::Field("client_id")));
    assert_kept(AppMetadata, "{}", Some(EntryProblem::Field("client_id")));
}

#[test]
fn a_replaced_entry_is_written_as_every_peer_can_read_it() {
    let document = parse(
        r#"{"Account":{"a":{"home_account_id":"uid.utid","environment":"login.microsoftonline.com","realm":"tid","name":"N"}},
        "RefreshToken":{"r":{"home_account_id":"uid.utid","environment":"login.microsoftonline.com","client_id":"client-id","secret":"s","last_modification_time":null,"target":null}},
        "AccessToken":{"t":{"environment":"login.microsoftonline.com","client_id":"client-id","realm":"tid","target":"https://graph.microsoft.com/.default","secret":"s","cached_at":5.5,"expires_on":7}}}"#,
    );
    let change = change()
        .put(Credential::Account(account()))
        .put(Credential::RefreshToken(refresh_token()))
        .put(Credential::AccessToken(app_token()));
    let after = json(&apply(&document, &change));
    for name in
        ["home_account_id", "environment", "realm", "local_account_id", "username", "authority_type", "name"]
    {
        assert!(after["Account"]["a"][name].is_string(), "{name}");
    }
    for name in ["last_modification_time", "target"] {
        assert!(after["RefreshToken"]["r"][name].is_string(), "{name}");
    }
    for name in
        ["cached_at", "expires_on", "extended_expires_on", "token_type", "realm", "target", "credential_type"]
    {
        assert!(after["AccessToken"]["t"][name].is_string(), "{name}");
    }
}

#[test]
fn sections_that_are_no_objects_cost_only_themselves() {
    for value in ["null", "5", "[]", "\"text\"", "true", "[[{}]]"] {
        let good = app_entry(&[]);
        let document =
            parse(&format!(r#"{{"RefreshToken":{value},"AccessToken":{{"k":{good}}},"Other" : {value}}}"#));
        assert!(document.get(&plain_key(SCOPE)).is_some(), "{value}");
        let token = AccessToken { target: "other".into(), ..app_token() };
        let after = apply(&document, &change().put(Credential::AccessToken(token)));
        assert_survives(&document, &after, &[]);
        let refresh = document.apply(&change().put(Credential::RefreshToken(refresh_token())));
        // Python cannot read a section that is null: it becomes one.
        assert_eq!(refresh.is_ok(), value == "null", "{value}");
    }
}

#[test]
fn times_are_read_in_every_spelling() {
    for (spelling, seconds) in [
        ("\"1800003600\"", 1_800_003_600),
        ("1800003600", 1_800_003_600),
        ("1800003600.9", 1_800_003_600),
        ("1.8000036e9", 1_800_003_600),
        ("\"1800003600.5\"", 1_800_003_600),
        ("\" 1800003600 \"", 1_800_003_600),
        ("-5", -5),
        ("\"-5\"", -5),
        ("-0.5", -1),
        ("0", 0),
        ("\"9999999999999\"", 9_999_999_999_999),
        ("9223372036854775807", i64::MAX),
        ("\"-9223372036854775808\"", i64::MIN),
    ] {
        let entry =
            app_entry(&[("expires_on", spelling), ("cached_at", spelling), ("extended_expires_on", "")]);
        let document = access_tokens(&[("k", &entry)]);
        let tokens = plain_tokens(&document, &app_partition());
        assert_eq!(tokens.len(), 1, "{spelling}");
        assert_eq!(tokens[0].expires_on, UnixSeconds::new(seconds), "{spelling}");
        assert_eq!(tokens[0].cached_at, UnixSeconds::new(seconds), "{spelling}");
        assert_eq!(tokens[0].extended_expires_on, UnixSeconds::new(seconds), "{spelling}");
        // No time overflows what is computed from it.
        let _ = document.apply(&change().sweep_expired());
        let _ = document.apply(&strongroom::Change::new(UnixSeconds::new(i64::MAX)).sweep_expired());
        let _ = document.apply(&strongroom::Change::new(UnixSeconds::new(i64::MIN)).sweep_expired());
    }
    for spelling in [
        "9223372036854775808",
        "1e300",
        "\"1e300\"",
        "\"NaN\"",
        "\"inf\"",
        "\"\"",
        "null",
        "\"soon\"",
        "[1]",
        "true",
    ] {
        let document = access_tokens(&[("k", &app_entry(&[("expires_on", spelling)]))]);
        let entry = document.entries().next().expect("listed");
        assert_eq!(entry.credential.err(), Some(EntryProblem::Field("expires_on")), "{spelling}");
    }
}

#[test]
fn the_end_of_the_extension_is_never_before_the_end() {
    for (name, value) in
        [("extended_expires_on", "\"5\""), ("ext_expires_on", "6"), ("extended_expires_on", "\"x\"")]
    {
        let document = access_tokens(&[("k", &app_entry(&[("extended_expires_on", ""), (name, value)]))]);
        let tokens = plain_tokens(&document, &app_partition());
        assert_eq!(tokens[0].extended_expires_on, tokens[0].expires_on, "{name}: {value}");
    }
    let document = access_tokens(&[(
        "k",
        &app_entry(&[("extended_expires_on", ""), ("ext_expires_on", "\"1800009999\"")]),
    )]);
    assert_eq!(plain_tokens(&document, &app_partition())[0].extended_expires_on.get(), 1_800_009_999);
}
