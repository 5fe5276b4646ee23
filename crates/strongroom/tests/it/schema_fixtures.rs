//! Every document of another MSAL under `tests/data`: what is found in it, and that it survives being written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use strongroom::{
    AccessToken, Credential, CredentialKey, CredentialType, Document, EntryProblem, ExtendedKey, Partition,
    Scopes, SecretBytes, TokenScheme,
};

use crate::schema_support::*;

/// By file: the readable entries of each type, in the order of [`CredentialType::ALL`], and the unreadable ones.
type Row = (&'static str, [usize; 5], &'static [(CredentialType, EntryProblem)]);

const NO_SECRET: EntryProblem = EntryProblem::Field("secret");
const AN_ENTRY: &[(CredentialType, EntryProblem)] =
    &[(CredentialType::AccessToken, EntryProblem::Field("expires_on"))];

const FOUND: &[Row] = &[
    ("generated/msal-go-1.9.0/cc.json", [1, 0, 0, 0, 1], &[]),
    ("generated/msal-go-1.9.0/claims_from_client.json", [1, 0, 0, 0, 1], &[]),
    ("generated/msal-go-1.9.0/code.json", [1, 1, 1, 1, 1], &[]),
    ("generated/msal-go-1.9.0/fmi.json", [1, 0, 0, 0, 1], &[]),
    ("generated/msal-go-1.9.0/obo-export-bug.json", [0; 5], &[]),
    ("generated/msal-node-2.16.3/cc.json", [1, 0, 0, 0, 0], &[]),
    ("generated/msal-node-2.16.3/obo.json", [1, 1, 1, 1, 0], &[]),
    ("generated/msal-node-7.2.3/cc.json", [1, 0, 0, 0, 0], &[]),
    ("generated/msal-node-7.2.3/claims_from_client.json", [1, 0, 0, 0, 0], &[]),
    ("generated/msal-node-7.2.3/code.json", [1, 1, 1, 1, 0], &[]),
    ("generated/msal-node-7.2.3/fmi.json", [1, 0, 0, 0, 0], &[]),
    ("generated/msal-node-7.2.3/obo.json", [1, 1, 1, 1, 0], &[]),
    ("generated/msal-python-1.39.0/cc.json", [1, 0, 0, 0, 1], &[]),
    ("generated/msal-python-1.39.0/code.json", [1, 1, 1, 1, 1], &[]),
    ("generated/msal-python-1.39.0/fmi.json", [1, 0, 0, 0, 1], &[]),
    ("generated/msal-python-1.39.0/obo.json", [1, 1, 1, 1, 1], &[]),
    ("msal-go/devapps_serialized_cache.json", [1, 1, 1, 1, 1], &[]),
    ("msal-go/serialized_cache_1.1.1.json", [1, 1, 1, 1, 1], &[]),
    ("msal-go/test_serialized_cache.json", [1, 1, 1, 1, 1], AN_ENTRY),
    ("msal-go/v1.0_cache.json", [1, 1, 1, 1, 1], &[]),
    ("msal-go/v1.0_v1.1_cache.json", [2, 2, 2, 2, 2], &[]),
    // Single entities and token responses: objects without sections, so documents without entries.
    ("msal-java/AAD_cache_data/account_cache_entity.json", [0; 5], &[]),
    ("msal-java/AAD_cache_data/at_cache_entity.json", [0; 5], &[]),
    ("msal-java/AAD_cache_data/full_cache.json", [1, 1, 1, 1, 0], &[]),
    ("msal-java/AAD_cache_data/id_token_cache_entity.json", [0; 5], &[]),
    ("msal-java/AAD_cache_data/rt_cache_entity.json", [0; 5], &[]),
    ("msal-java/AAD_cache_data/token_response.json", [0; 5], &[]),
    ("msal-java/AAD_cache_data/token_response_id_token.json", [0; 5], &[]),
    ("msal-java/Foci_cache_data/account_cache_entity.json", [0; 5], &[]),
    ("msal-java/Foci_cache_data/app_metadata_cache_entity.json", [0; 5], &[]),
    ("msal-java/Foci_cache_data/at_cache_entity.json", [0; 5], &[]),
    ("msal-java/Foci_cache_data/id_token_cache_entity.json", [0; 5], &[]),
    ("msal-java/Foci_cache_data/rt_cache_entity.json", [0; 5], &[]),
    ("msal-java/Foci_cache_data/token_response.json", [0; 5], &[]),
    ("msal-java/Foci_cache_data/token_response_id_token.json", [0; 5], &[]),
    ("msal-java/MSA_cache_data/account_cache_entity.json", [0; 5], &[]),
    ("msal-java/MSA_cache_data/at_cache_entity.json", [0; 5], &[]),
    ("msal-java/MSA_cache_data/id_token_cache_entity.json", [0; 5], &[]),
    ("msal-java/MSA_cache_data/rt_cache_entity.json", [0; 5], &[]),
    ("msal-java/MSA_cache_data/token_response.json", [0; 5], &[]),
    ("msal-java/MSA_cache_data/token_response_id_token.json", [0; 5], &[]),
    (
        "msal-java/cache_data/multi-cloud-account-cache.json",
        [0, 0, 2, 2, 0],
        &[
            (CredentialType::RefreshToken, NO_SECRET),
            (CredentialType::RefreshToken, NO_SECRET),
            (CredentialType::AccessToken, NO_SECRET),
            (CredentialType::AccessToken, NO_SECRET),
        ],
    ),
    (
        "msal-java/cache_data/multi-tenant-account-cache.json",
        [0, 0, 0, 5, 0],
        &[(CredentialType::IdToken, NO_SECRET); 5],
    ),
    ("msal-java/cache_data/serialized_cache.json", [1, 1, 1, 1, 1], AN_ENTRY),
    ("msal-java/expected_keys.json", [0; 5], &[]),
    ("msal-java/sample_cache.json", [1, 1, 0, 1, 1], &[(CredentialType::IdToken, NO_SECRET)]),
    ("msal-node/cache-unrecognized-entities.json", [2, 2, 1, 1, 1], &[]),
    ("msal-node/default-cache.json", [3, 2, 1, 1, 1], &[]),
    // The in-memory form of MSAL Node: keys to entries, without sections.
    ("msal-node/msal-common_cacheStore.json", [0; 5], &[]),
    ("msal-node/msal-node_cache.json", [2, 2, 1, 1, 1], &[]),
    ("msal-node/serializer_Account.json", [0, 0, 0, 1, 0], &[]),
    ("msal-node/serializer_cache.json", [3, 2, 1, 1, 1], &[]),
    // An empty file.
    ("remove-account-test-cache.json", [0; 5], &[]),
];

#[test]
fn every_document_has_what_the_table_says_and_every_file_is_in_it() {
    let mut seen = Vec::new();
    for (name, document) in documents() {
        let Some((_, readable, problems)) = FOUND.iter().find(|(file, ..)| *file == name) else {
            panic!("{name} is not in the table");
        };
        let found = CredentialType::ALL.map(|kind| {
            document
                .entries()
                .filter(|entry| entry.credential_type == kind && entry.credential.is_ok())
                .count()
        });
        let unreadable: Vec<(CredentialType, EntryProblem)> = document
            .entries()
            .filter_map(|entry| Some((entry.credential_type, entry.credential.err()?)))
            .collect();
        assert_eq!(found, *readable, "{name}");
        assert_eq!(unreadable, *problems, "{name}");
        assert_eq!(document.is_empty(), *readable == [0; 5], "{name}");
        seen.push(name);
    }
    let missing: Vec<&str> =
        FOUND.iter().map(|row| row.0).filter(|file| !seen.iter().any(|name| name == file)).collect();
    assert_eq!(missing, [""; 0], "in the table, not in the folder");
}

#[test]
fn the_applications_tokens_of_every_language_answer_the_same_request() {
    for (file, secret, expires_on) in [
        ("generated/msal-go-1.9.0/cc.json", "go-at-1", 1_795_537_820),
        ("generated/msal-node-2.16.3/cc.json", "msal-node-2-at-1", 1_795_537_822),
        ("generated/msal-node-7.2.3/cc.json", "@azure/msal-node-at-1", 1_795_537_821),
        ("generated/msal-python-1.39.0/cc.json", "py-at-1", 1_795_537_875),
    ] {
        let document = document(file);
        for host in [HOST, "login.windows.net"] {
            let partition = Partition::of_app_tokens(host, "client-id", "tid");
            let tokens = plain_tokens(&document, &partition);
            assert_eq!(tokens.len(), 1, "{file} {host}");
            assert!(tokens[0].is_app_token() && tokens[0].token_type == "Bearer", "{file}");
            assert_eq!(tokens[0].secret.expose(), secret, "{file}");
            assert_eq!(tokens[0].expires_on.get(), expires_on, "{file}");
            assert_eq!(tokens[0].refresh_on.map(|time| expires_on - time.get()), Some(1800), "{file}");
            assert!(
                document.get(&partition.access_token(&SCOPE.into(), &TokenScheme::Bearer, None)).is_some()
            );
        }
    }
}

#[test]
fn extended_tokens_are_found_by_their_parameters_only() {
    let parameters = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let fmi = parameters("fmi_path", "some/path");
    let claims = parameters("client_claims", r#"{"access_token":{"nsp":{"value":"x"}}}"#);
    for (file, parameters) in [
        ("generated/msal-go-1.9.0/fmi.json", &fmi),
        ("generated/msal-node-7.2.3/fmi.json", &fmi),
        ("generated/msal-python-1.39.0/fmi.json", &fmi),
        ("generated/msal-node-7.2.3/claims_from_client.json", &claims),
    ] {
        let document = document(file);
        assert_eq!(plain_tokens(&document, &app_partition()), [], "{file}");
        assert!(document.get(&plain_key(SCOPE)).is_none(), "{file}");
        let key = app_partition().access_token(
            &SCOPE.into(),
            &TokenScheme::Bearer,
            Some(&ExtendedKey::of(parameters)),
        );
        assert!(document.get(&key).is_some(), "{file}");
    }
    let file = "generated/msal-go-1.9.0/claims_from_client.json";
    let tokens = access_tokens_of(&document(file));
    let hash = tokens[0].extended.as_ref().map(ExtendedKey::as_str);
    assert_eq!(hash, Some("2t0q2nu_mzuh-6c2v4bzj5q4xciyxs3alee_2jvw8pk"));
    assert_eq!(plain_tokens(&document(file), &app_partition()), []);
}

#[test]
fn tokens_on_behalf_of_a_user_have_the_hash_of_their_assertion_but_python_writes_none() {
    for (file, hash) in [
        ("generated/msal-node-2.16.3/obo.json", Some("cxLjxX38mL2CafUfrJZnPOfo8Z7gwVA4Jbl_w7Jdv5A")),
        ("generated/msal-node-7.2.3/obo.json", Some("cxLjxX38mL2CafUfrJZnPOfo8Z7gwVA4Jbl_w7Jdv5A")),
        ("generated/msal-python-1.39.0/obo.json", None),
    ] {
        let document = document(file);
        let tokens = access_tokens_of(&document);
        assert_eq!(tokens[0].user_assertion_hash.as_deref(), hash, "{file}");
        assert_eq!(tokens[0].home_account_id.as_deref(), Some("uid.utid"), "{file}");
        assert_eq!(document.list(&app_partition()), [], "{file}");
        assert!(document.get(&CredentialKey::of_access_token(&tokens[0])).is_some(), "{file}");
    }
}

#[test]
fn tokens_of_users_are_found_under_every_languages_keys() {
    for file in [
        "generated/msal-go-1.9.0/code.json",
        "generated/msal-node-7.2.3/code.json",
        "generated/msal-python-1.39.0/code.json",
    ] {
        let document = document(file);
        let token =
            AccessToken { target: Scopes::parse("profile openid user.read offline_access"), ..user_token() };
        for key in [
            CredentialKey::of_access_token(&token),
            CredentialKey::of(&Credential::RefreshToken(refresh_token())),
            CredentialKey::of(&Credential::IdToken(id_token())),
        ] {
            assert!(document.get(&key).is_some(), "{file} {key:?}");
        }
        // Node stores the account of a guest under its home tenant.
        let realm = if file.contains("node") { "utid" } else { "tid" };
        let account = strongroom::Account { realm: realm.into(), ..account() };
        let (found, _) = document.get(&CredentialKey::of(&Credential::Account(account))).expect("an account");
        let Credential::Account(found) = found else { panic!("no account") };
        assert_eq!((found.local_account_id.as_str(), found.username.as_str()), ("uid", "user@contoso.com"));
    }
}

#[test]
fn tokens_bound_to_a_key_are_not_found_as_bearer() {
    for (file, realm) in
        [("msal-node/default-cache.json", "microsoft"), ("msal-node/serializer_cache.json", "utid")]
    {
        let document = document(file);
        let bound: Vec<AccessToken> = access_tokens_of(&document)
            .into_iter()
            .filter(|token| token.scheme != TokenScheme::Bearer)
            .collect();
        assert_eq!(bound.len(), 1, "{file}");
        assert_eq!(
            bound[0].scheme,
            TokenScheme::Bound {
                token_type: "pop".into(),
                key_id: Some("NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs".into())
            }
        );
        // A bearer token for the same scopes stands beside it and is the one that is found.
        let partition = Partition::of_access_token(&bound[0]);
        let key = partition.access_token(&"scope5 scope4".into(), &TokenScheme::Bearer, None);
        assert_eq!(secret_of(&document, &key).as_deref(), Some("an access token"), "{file} {realm}");
    }
}

#[test]
fn keys_with_capitals_lose_to_their_lower_case_twins() {
    let document = document("msal-go/v1.0_v1.1_cache.json");
    for entry in document.entries() {
        let Ok(credential) = entry.credential else { panic!("unreadable") };
        let (found, _) = document.get(&CredentialKey::of(&credential)).expect("found");
        assert!(!format!("{found:?}").contains("wrong value"));
        if !matches!(found, Credential::AppMetadata(_) | Credential::Account(_)) {
            assert_ne!(secret_of(&document, &CredentialKey::of(&credential)).as_deref(), Some("wrong value"));
        }
    }
    let old = self::document("msal-go/v1.0_cache.json");
    assert_eq!(access_tokens_of(&old)[0].secret.expose(), "an access token");
}

#[test]
fn an_id_token_of_an_early_msal_go_is_one() {
    let document = document("msal-go/serialized_cache_1.1.1.json");
    assert!(document.entries().any(|entry| matches!(entry.credential, Ok(Credential::IdToken(_)))));
}

#[test]
fn families_are_read_where_they_are_spelled_as_in_the_schema() {
    for (file, families) in [
        ("msal-node/default-cache.json", 1),
        ("msal-node/serializer_cache.json", 1),
        ("msal-node/cache-unrecognized-entities.json", 1),
        // "familyId": a slip of that file.
        ("msal-node/msal-node_cache.json", 0),
    ] {
        let document = document(file);
        let of_family = document.entries().filter(
            |entry| matches!(&entry.credential, Ok(Credential::RefreshToken(token)) if token.family_id.as_deref() == Some("1")),
        );
        assert_eq!(of_family.count(), families, "{file}");
        let app = document.entries().find_map(|entry| match entry.credential {
            Ok(Credential::AppMetadata(app)) => Some(app),
            _ => None,
        });
        assert_eq!(app.and_then(|app| app.family_id).as_deref(), Some("1"), "{file}");
    }
    for file in ["msal-go/devapps_serialized_cache.json", "msal-java/sample_cache.json"] {
        let document = document(file);
        let none = document.entries().any(
            |entry| matches!(&entry.credential, Ok(Credential::AppMetadata(app)) if app.family_id.is_none()),
        );
        assert!(none, "{file}: null is no family");
    }
}

#[test]
fn accounts_of_several_clouds_and_tenants_are_apart() {
    for (file, accounts) in [
        ("msal-java/cache_data/multi-cloud-account-cache.json", 2),
        ("msal-java/cache_data/multi-tenant-account-cache.json", 5),
    ] {
        let document = document(file);
        let mut keys: Vec<CredentialKey> = document
            .entries()
            .filter_map(|entry| entry.credential.ok())
            .filter(|credential| credential.credential_type() == CredentialType::Account)
            .map(|credential| CredentialKey::of(&credential))
            .collect();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), accounts, "{file}");
    }
}

#[test]
fn single_entities_of_msal_java_get_the_keys_that_it_expects_where_python_agrees() {
    let root = data().join("msal-java");
    let expected: BTreeMap<String, String> =
        serde_json::from_slice(&fs::read(root.join("expected_keys.json")).expect("readable")).expect("JSON");
    for (file, key) in expected {
        let entity = fs::read_to_string(root.join(&file)).expect("readable");
        let entity = ["<expires_on>", "<cached_at>", "<extended_expires_on>"]
            .iter()
            .fold(entity, |text, placeholder| text.replace(placeholder, "1800000000"));
        let section = match file.rsplit('/').next() {
            Some("account_cache_entity.json") => "Account",
            Some("at_cache_entity.json") => "AccessToken",
            Some("id_token_cache_entity.json") => "IdToken",
            Some("rt_cache_entity.json") => "RefreshToken",
            _ => "AppMetadata",
        };
        let read = parse(&format!(r#"{{"{section}":{{"{key}":{entity}}}}}"#));
        let entry = read.entries().next().expect("an entry");
        let credential = entry.credential.unwrap_or_else(|problem| panic!("{file}: {problem}"));
        // A key of Java's marks nothing as extended or bound.
        if let Credential::AccessToken(token) = &credential {
            assert!(token.extended.is_none() && token.scheme == TokenScheme::Bearer, "{file}");
        }
        let written = apply(&Document::empty(), &change().put(credential.clone()));
        // Python sorts the scopes, and its refresh tokens' keys have scopes and never a family.
        if !matches!(section, "AccessToken" | "RefreshToken") {
            assert_eq!(keys(&written, section), [key], "{file}");
        }
        assert!(written.get(&CredentialKey::of(&credential)).is_some(), "{file}");
    }
}

#[test]
fn every_document_survives_a_new_token_to_the_letter() {
    for (name, before) in documents() {
        let token = AccessToken { client_id: "strongroom".into(), ..app_token() };
        let credential = Credential::AccessToken(token.clone());
        let after = apply(&before, &change().put(credential.clone()));
        // But for what Go and Java take from applications' tokens, which Python needs.
        let now = raw_parts(&after);
        let is_healed = |(place, raw): &(&(String, String), &String)| {
            raw.starts_with("{")
                && now.get(*place) == Some(&raw.replacen('{', "{\"home_account_id\":null,", 1))
        };
        let parts = raw_parts(&before);
        let healed: Vec<&str> = parts.iter().filter(is_healed).map(|((_, key), _)| &**key).collect();
        let is_of_go_or_java = name.contains("msal-go") || name.contains("msal-java");
        assert!(healed.is_empty() || is_of_go_or_java, "{name}: {healed:?}");
        assert_survives(&before, &after, &healed);
        let entries = |document: &Document| -> Vec<(String, Result<Credential, EntryProblem>)> {
            document.entries().map(|entry| (entry.key.to_owned(), entry.credential)).collect()
        };
        let (old, mut new) = (entries(&before), entries(&after));
        let at = new.iter().position(|entry| !old.contains(entry)).expect("the new entry");
        let (key, added) = new.remove(at);
        assert_eq!(new, old, "{name}");
        let Ok(Credential::AccessToken(added)) = added else { panic!("{name}: unreadable") };
        // A document of Node alone is gone on with in its dialect.
        let node = name.contains("node") && name.ends_with("/cc.json");
        assert_eq!(added.environment, if node { "login.windows.net" } else { HOST }, "{name}");
        assert_eq!(key.ends_with('-'), node, "{name}");
        assert_eq!(AccessToken { environment: HOST.into(), ..added }, token, "{name}");
        assert!(after.get(&CredentialKey::of(&credential)).is_some(), "{name}");
        // And taking it away again leaves what was there.
        let gone = apply(&after, &change().remove(CredentialKey::of(&credential)));
        assert_eq!(entries(&gone), old, "{name}");
    }
}

#[test]
fn every_readable_entry_can_be_replaced_and_keeps_what_it_had() {
    for (name, before) in documents() {
        for entry in before.entries() {
            let Ok(credential) = entry.credential else { continue };
            let key = CredentialKey::of(&credential);
            let renewed = match credential {
                Credential::AccessToken(token) => {
                    Credential::AccessToken(AccessToken { secret: "new".into(), cached_at: NOW, ..token })
                }
                Credential::RefreshToken(token) => {
                    Credential::RefreshToken(strongroom::RefreshToken { secret: "new".into(), ..token })
                }
                Credential::IdToken(token) => {
                    Credential::IdToken(strongroom::IdToken { secret: "new".into(), ..token })
                }
                _ => continue,
            };
            let section = entry.credential_type.as_str();
            let after = apply(&before, &change().put(renewed));
            assert_eq!(keys(&after, section), keys(&before, section), "{name}: no key is new");
            assert_eq!(secret_of(&after, &key).as_deref(), Some("new"), "{name}");
            let old = field_names(&before, section, entry.key);
            let new = field_names(&after, section, entry.key);
            for field in old {
                assert!(new.contains(&field), "{name}: {section} {} lost {field}", entry.key);
            }
        }
    }
}

fn field_names(document: &Document, section: &str, key: &str) -> Vec<String> {
    let sections = raw_members(text(document));
    let entries = raw_members(sections[section].get());
    raw_members(entries[key].get()).into_keys().collect()
}

fn access_tokens_of(document: &Document) -> Vec<AccessToken> {
    document.entries().filter_map(|entry| entry.credential.ok()?.into_access_token()).collect()
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn document(name: &str) -> Document {
    let bytes = fs::read(data().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    Document::parse(SecretBytes::from(bytes)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn documents() -> Vec<(String, Document)> {
    let mut files = Vec::new();
    collect(&data(), &mut files);
    let mut names: Vec<String> = files
        .iter()
        .map(|path| path.strip_prefix(data()).expect("below it").to_string_lossy().replace('\\', "/"))
        .filter(|name| name != "README.md" && !name.starts_with("sealed-"))
        .collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), document(&name))).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
