//! Identity comes from an entry's fields: spellings, case, aliases and order do not matter.

use strongroom::{Change, Credential, CredentialKey, Document, Partition, Scopes, TokenScheme};

use crate::schema_support::*;

#[test]
fn absent_null_and_empty_home_account_ids_are_an_applications() {
    for spelling in ["", "null", "\"\""] {
        let document = access_tokens(&[(APP_KEY, &app_entry(&[("home_account_id", spelling)]))]);
        assert_eq!(secret_of(&document, &plain_key(SCOPE)).as_deref(), Some("at"), "{spelling:?}");
        assert_eq!(plain_tokens(&document, &app_partition()).len(), 1, "{spelling:?}");
    }
}

#[test]
fn a_home_account_id_of_another_type_is_not_an_applications() {
    for spelling in ["0", "false", "[]", "{}"] {
        let document = access_tokens(&[(APP_KEY, &app_entry(&[("home_account_id", spelling)]))]);
        assert!(document.is_empty(), "{spelling:?}");
    }
}

#[test]
fn aliases_of_the_environment_and_case_do_not_matter() {
    let entry = app_entry(&[
        ("environment", "\"STS.windows.net\""),
        ("client_id", "\"CLIENT-ID\""),
        ("realm", "\"TID\""),
        ("target", "\"HTTPS://graph.microsoft.com/.DEFAULT\""),
    ]);
    let document = access_tokens(&[("k", &entry)]);
    assert!(document.get(&plain_key(SCOPE)).is_some());
    let partition = Partition::of_app_tokens("login.windows.net", "client-id", "tid");
    assert_eq!(plain_tokens(&document, &partition).len(), 1);
    assert!(
        plain_tokens(&document, &Partition::of_app_tokens("login.microsoftonline.us", "client-id", "tid"))
            .is_empty()
    );
}

#[test]
fn the_stored_key_does_not_matter() {
    for key in ["", "k", "an-entry", "-login.windows.net-accesstoken-other-tenant-scope", "ü\u{1F600}"] {
        let document = access_tokens(&[(key, &app_entry(&[]))]);
        assert!(document.get(&plain_key(SCOPE)).is_some(), "{key}");
    }
}

#[test]
fn scopes_are_sets() {
    let document = access_tokens(&[("k", &app_entry(&[("target", "\"b  A\\tc b\"")]))]);
    assert!(document.get(&plain_key("c B a")).is_some());
    assert!(document.get(&plain_key("a b")).is_none(), "a subset is found by list");
    let token = &plain_tokens(&document, &app_partition())[0];
    assert!(Scopes::parse("B a").is_subset_of(&token.target));
    assert_eq!(token.target.to_string(), "A b c");
}

#[test]
fn a_target_without_scopes_is_one() {
    let document = access_tokens(&[("k", &app_entry(&[("target", "\"\"")]))]);
    assert!(document.get(&plain_key("")).is_some());
}

#[test]
fn assertion_hashes_are_compared_as_bytes_for_every_type() {
    let hash = "fFsdSeaHX9iH_VIhI8SzQWnUzBGmUCzATLfrj3wWaXI";
    let of_access_token = CredentialKey::of_access_token(&strongroom::AccessToken {
        user_assertion_hash: Some(hash.into()),
        ..user_token()
    });
    let of_refresh_token = CredentialKey::of(&Credential::RefreshToken(strongroom::RefreshToken {
        user_assertion_hash: Some(hash.into()),
        ..refresh_token()
    }));
    for name in ["user_assertion_hash", "userAssertionHash"] {
        for spelling in [format!("\"{hash}\""), format!("\"{hash}=\"")] {
            let at = app_entry(&[
                ("home_account_id", "\"uid.utid\""),
                ("target", "\"openid profile User.Read offline_access\""),
                (name, &spelling),
            ]);
            let document = parse(&format!(
                r#"{{"AccessToken":{{"a":{at}}},"RefreshToken":{{"r":{{"secret":"rt","home_account_id":"uid.utid",
                "environment":"login.windows.net","client_id":"client-id","{name}":{spelling}}}}}}}"#
            ));
            assert!(document.get(&of_access_token).is_some(), "{name} {spelling}");
            assert!(document.get(&of_refresh_token).is_some(), "{name} {spelling}");
        }
    }
    // A caller that pads its hash means the same record.
    let padded = strongroom::AccessToken { user_assertion_hash: Some(format!("{hash}=")), ..user_token() };
    assert_eq!(CredentialKey::of_access_token(&padded), of_access_token);
}

#[test]
fn of_several_entries_the_newest_answers() {
    let document = access_tokens(&[
        ("a", &app_entry(&[("cached_at", "1799999000"), ("secret", "\"old\"")])),
        (
            "b",
            &app_entry(&[
                ("cached_at", "1799999900"),
                ("secret", "\"new\""),
                ("environment", "\"login.windows.net\""),
            ]),
        ),
        ("c", &app_entry(&[("cached_at", "1799999500"), ("secret", "\"middle\"")])),
    ]);
    assert_eq!(secret_of(&document, &plain_key(SCOPE)).as_deref(), Some("new"));
    assert_eq!(document.list(&app_partition()).len(), 3);
}

#[test]
fn a_lower_case_key_outdates_its_twin_with_capitals_even_if_that_is_newer() {
    let capital = APP_KEY.replace("accesstoken", "AccessToken");
    for twins in [[APP_KEY, &capital], [&capital, APP_KEY]] {
        let secret = |key: &str| if key == APP_KEY { "\"right\"" } else { "\"wrong\"" };
        let cached = |key: &str| if key == APP_KEY { "1" } else { "2" };
        let entries =
            twins.map(|key| (key, app_entry(&[("secret", secret(key)), ("cached_at", cached(key))])));
        let document = access_tokens(&entries.each_ref().map(|(key, entry)| (*key, entry.as_str())));
        let (_, revision) = document.get(&plain_key(SCOPE)).expect("a token");
        assert_eq!(secret_of(&document, &plain_key(SCOPE)).as_deref(), Some("right"));
        assert_eq!(plain_tokens(&document, &app_partition()).len(), 1);
        // What `get` returned is what a conditional write compares with.
        let conditional = change()
            .put_if(Credential::AccessToken(app_token()), strongroom::Expectation::Unchanged(revision));
        let after = apply(&document, &conditional);
        assert_eq!(keys(&after, "AccessToken").len(), 2);
        assert_eq!(field(&after, "AccessToken", &capital, "secret").expect("kept"), "at");
    }
}

#[test]
fn a_lower_case_key_of_another_credential_outdates_nothing() {
    let document = access_tokens(&[("K", &app_entry(&[])), ("k", &app_entry(&[("realm", "\"other\"")]))]);
    assert!(document.get(&plain_key(SCOPE)).is_some());
    assert_eq!(plain_tokens(&document, &app_partition()).len(), 1);
}

#[test]
fn the_last_of_equal_keys_wins() {
    let document = access_tokens(&[
        ("k", &app_entry(&[("secret", "\"first\""), ("cached_at", "9")])),
        ("\u{6b}", &app_entry(&[("secret", "\"last\""), ("cached_at", "8")])),
    ]);
    assert_eq!(secret_of(&document, &plain_key(SCOPE)).as_deref(), Some("last"));
    assert_eq!(document.entries().count(), 1);
    // The last one wins even if it cannot be read.
    let document = access_tokens(&[("k", &app_entry(&[])), ("k", "null")]);
    assert!(document.is_empty());
}

#[test]
fn the_last_of_equal_sections_wins() {
    let entry = app_entry(&[]);
    for last in ["{}", "null", "[]", "5"] {
        let document = parse(&format!(r#"{{"AccessToken":{{"k":{entry}}},"Access\u0054oken":{last}}}"#));
        assert!(document.is_empty(), "{last}");
        assert_eq!(document.entries().count(), 0);
    }
    let document = parse(&format!(r#"{{"AccessToken":null,"AccessToken":{{"k":{entry}}}}}"#));
    assert!(document.get(&plain_key(SCOPE)).is_some());
}

#[test]
fn the_last_of_equal_fields_wins() {
    let mut entry = app_entry(&[("secret", "\"first\"")]);
    entry.truncate(entry.len() - 1);
    let document = access_tokens(&[("k", &format!("{entry},\"secr\\u0065t\":\"last\"}}"))]);
    assert_eq!(secret_of(&document, &plain_key(SCOPE)).as_deref(), Some("last"));
}

#[test]
fn section_names_are_case_sensitive() {
    let document = parse(&format!(r#"{{"accesstoken":{{"k":{}}}}}"#, app_entry(&[])));
    assert!(document.is_empty());
    let after = apply(&document, &change().put(Credential::AccessToken(app_token())));
    assert_survives(&document, &after, &[]);
    assert!(after.get(&plain_key(SCOPE)).is_some());
}

#[test]
fn discovered_aliases_are_equal_for_a_change() {
    let document = access_tokens(&[("k", &app_entry(&[("environment", "\"b.example\"")]))]);
    let token =
        strongroom::AccessToken { environment: "a.example".into(), secret: "new".into(), ..app_token() };
    let environments =
        strongroom::Environments::with_aliases("a.example", Some("b.example"), ["a.example", "b.example"]);
    let after =
        apply(&document, &change().environments(environments).put(Credential::AccessToken(token.clone())));
    assert_eq!(keys(&after, "AccessToken"), ["k"]);
    assert_eq!(field(&after, "AccessToken", "k", "environment").expect("kept"), "b.example");
    assert_eq!(field(&after, "AccessToken", "k", "secret").expect("kept"), "new");
    // Without them the hosts are different ones.
    let after = apply(&document, &change().put(Credential::AccessToken(token)));
    assert_eq!(keys(&after, "AccessToken").len(), 2);
}

#[test]
fn every_credential_is_found_under_its_own_key_after_it_was_put() {
    let bound = |token_type: &str, key_id: Option<&str>| TokenScheme::Bound {
        token_type: token_type.into(),
        key_id: key_id.map(Into::into),
    };
    let at = Credential::AccessToken;
    let odd = "-atext-accesstoken_with_authscheme-ü Σ.";
    let credentials = [
        at(app_token()),
        at(strongroom::AccessToken {
            token_type: "PoP".into(),
            scheme: bound("PoP", Some("kid")),
            ..app_token()
        }),
        at(strongroom::AccessToken { token_type: "DPoP".into(), scheme: bound("dpop", None), ..app_token() }),
        at(strongroom::AccessToken { target: "api://my-atext-app/.default".into(), ..app_token() }),
        at(strongroom::AccessToken { client_id: odd.into(), realm: odd.into(), ..app_token() }),
        at(strongroom::AccessToken { target: odd.into(), ..app_token() }),
        at(strongroom::AccessToken { target: Scopes::default(), ..app_token() }),
        at(user_token()),
        at(strongroom::AccessToken { user_assertion_hash: Some("aGFzaA==".into()), ..user_token() }),
        at(strongroom::AccessToken { user_assertion_hash: Some("aGFzaA==".into()), ..app_token() }),
        Credential::RefreshToken(refresh_token()),
        Credential::RefreshToken(strongroom::RefreshToken { family_id: Some("1".into()), ..refresh_token() }),
        Credential::RefreshToken(strongroom::RefreshToken {
            user_assertion_hash: Some("x=".into()),
            ..refresh_token()
        }),
        Credential::IdToken(id_token()),
        Credential::Account(account()),
        Credential::AppMetadata(app_metadata()),
    ];
    for credential in credentials {
        let key = CredentialKey::of(&credential);
        let once = apply(&Document::empty(), &change().put(credential.clone()));
        assert!(once.get(&key).is_some(), "{key:?} in {}", text(&once));
        // Put again it takes the same place.
        let later = Change::new(NOW.plus(10)).put(credential);
        if let strongroom::Applied::Changed { bytes, .. } = once.apply(&later).expect("applicable") {
            let twice = Document::parse(bytes).expect("a document");
            assert_eq!(twice.entries().count(), 1, "{}", text(&twice));
        }
    }
}

#[test]
fn what_has_the_wanted_scopes_is_listed_for_them() {
    let targets = ["a", "b A", "a b c", "ab", "", "ü a"];
    let entries: Vec<String> =
        targets.iter().map(|target| app_entry(&[("target", &format!("\"{target}\""))])).collect();
    let entries: Vec<(&str, &str)> =
        targets.iter().zip(&entries).map(|(key, entry)| (*key, entry.as_str())).collect();
    let document = access_tokens(&entries);
    let listed = |scopes: &str| {
        let scopes = Scopes::parse(scopes);
        let found = document.list_for(&app_partition(), &scopes).into_iter();
        let tokens = found.filter_map(|(credential, _)| credential.into_access_token());
        tokens.filter(|token| scopes.is_subset_of(&token.target)).count()
    };
    assert_eq!((listed("A"), listed("b a"), listed("Ü"), listed("ab"), listed("")), (4, 2, 1, 1, 6));
    assert_eq!(document.list_for(&app_partition(), &Scopes::default()).len(), 6);
    let many: Vec<String> = (0..1_000).map(|n| app_entry(&[("target", &format!("\"s{n}\""))])).collect();
    let many: Vec<(String, &str)> =
        many.iter().enumerate().map(|(n, entry)| (n.to_string(), entry.as_str())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, entry)| (key.as_str(), *entry)).collect();
    let found = access_tokens(&many).list_for(&app_partition(), &Scopes::parse("s500"));
    assert!((1..100).contains(&found.len()), "most of the others are left out");
}
