//! What the tests of the document share: tokens to put, and ways to look at what came of it.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use strongroom::{
    AccessToken, Account, AppMetadata, Applied, Change, Credential, CredentialKey, Document, IdToken,
    Partition, RefreshToken, Scopes, SecretBytes, TokenScheme, UnixSeconds,
};

/// The time at which the documents that MSAL Python wrote for these tests were written.
pub(crate) const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);
pub(crate) const HOST: &str = "login.microsoftonline.com";
pub(crate) const SCOPE: &str = "https://graph.microsoft.com/.default";
/// The stored key of [`app_token`] as MSAL Python makes it.
pub(crate) const APP_KEY: &str =
    "-login.microsoftonline.com-accesstoken-client-id-tid-https://graph.microsoft.com/.default";

pub(crate) fn parse(text: &str) -> Document {
    Document::parse(SecretBytes::from(text.as_bytes().to_vec())).expect("a document")
}

pub(crate) fn text(document: &Document) -> &str {
    std::str::from_utf8(document.bytes().expose()).expect("UTF-8")
}

pub(crate) fn json(document: &Document) -> Value {
    serde_json::from_slice(document.bytes().expose()).expect("JSON")
}

pub(crate) fn change() -> Change {
    Change::new(NOW)
}

/// The document after `change`, and how many expired tokens were swept; it must have changed.
pub(crate) fn apply_and_count(document: &Document, change: &Change) -> (Document, usize) {
    match document.apply(change).expect("applicable") {
        Applied::Changed { bytes, swept, .. } => {
            (Document::parse(bytes).expect("what we write parses"), swept)
        }
        other => panic!("not changed: {other:?}"),
    }
}

pub(crate) fn apply(document: &Document, change: &Change) -> Document {
    apply_and_count(document, change).0
}

/// An application's token as MSAL Python wrote it.
pub(crate) fn app_token() -> AccessToken {
    AccessToken {
        home_account_id: None,
        environment: HOST.into(),
        client_id: "client-id".into(),
        realm: "tid".into(),
        target: SCOPE.into(),
        secret: "at".into(),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: NOW,
        expires_on: NOW.plus(3600),
        extended_expires_on: NOW.plus(7200),
        refresh_on: Some(NOW.plus(1800)),
        user_assertion_hash: None,
        extended: None,
    }
}

pub(crate) fn user_token() -> AccessToken {
    AccessToken {
        home_account_id: Some("uid.utid".into()),
        target: "User.Read offline_access openid profile".into(),
        ..app_token()
    }
}

pub(crate) fn refresh_token() -> RefreshToken {
    RefreshToken {
        home_account_id: Some("uid.utid".into()),
        environment: HOST.into(),
        client_id: "client-id".into(),
        family_id: None,
        target: "User.Read offline_access openid profile".into(),
        secret: "rt".into(),
        last_modification_time: Some(NOW),
        user_assertion_hash: None,
    }
}

pub(crate) fn id_token() -> IdToken {
    IdToken {
        home_account_id: Some("uid.utid".into()),
        environment: HOST.into(),
        client_id: "client-id".into(),
        realm: "tid".into(),
        secret: "eyJhbGciOiJub25lIn0.eyJvaWQiOiJ1aWQiLCJ0aWQiOiJ0aWQiLCJzdWIiOiJzIiwiYXVkIjoiY2xpZW50LWlkIiwiaXNzIjoiaSIsImV4cCI6NDEwMjQ0NDgwMCwiaWF0IjoxNzAwMDAwMDAwLCJwcmVmZXJyZWRfdXNlcm5hbWUiOiJ1c2VyQGNvbnRvc28uY29tIn0.".into(),
        user_assertion_hash: None,
    }
}

pub(crate) fn account() -> Account {
    Account {
        home_account_id: "uid.utid".into(),
        environment: HOST.into(),
        realm: "tid".into(),
        local_account_id: "uid".into(),
        username: "user@contoso.com".into(),
        authority_type: "MSSTS".into(),
        account_source: Some("authorization_code".into()),
    }
}

pub(crate) fn app_metadata() -> AppMetadata {
    AppMetadata { client_id: "client-id".into(), environment: HOST.into(), family_id: None }
}

pub(crate) fn app_partition() -> Partition {
    Partition::of_app_tokens(HOST, "client-id", "tid")
}

/// The key that a plain request of the application for `scope` looks up.
pub(crate) fn plain_key(scope: &str) -> CredentialKey {
    app_partition().access_token(&Scopes::parse(scope), &TokenScheme::Bearer, None)
}

/// The access tokens of a partition that a plain bearer request may be answered with.
pub(crate) fn plain_tokens(document: &Document, partition: &Partition) -> Vec<AccessToken> {
    let tokens =
        document.list(partition).into_iter().filter_map(|(credential, _)| credential.into_access_token());
    tokens.filter(|token| token.scheme == TokenScheme::Bearer && token.extended.is_none()).collect()
}

pub(crate) fn secret_of(document: &Document, key: &CredentialKey) -> Option<String> {
    let (credential, _) = document.get(key)?;
    Some(match credential {
        Credential::AccessToken(token) => token.secret.expose().to_owned(),
        Credential::RefreshToken(token) => token.secret.expose().to_owned(),
        Credential::IdToken(token) => token.secret.expose().to_owned(),
        other => panic!("no secret: {other:?}"),
    })
}

/// A document with these entries of the section `AccessToken`.
pub(crate) fn access_tokens(entries: &[(&str, &str)]) -> Document {
    let entries: Vec<String> = entries.iter().map(|(key, entry)| format!("{key:?}:{entry}")).collect();
    parse(&format!(r#"{{"AccessToken":{{{}}}}}"#, entries.join(",")))
}

/// The entry of [`app_token`] with some fields set to other JSON (`""`: left out).
pub(crate) fn app_entry(changes: &[(&str, &str)]) -> String {
    let mut fields = vec![
        ("credential_type", "\"AccessToken\""),
        ("secret", "\"at\""),
        ("home_account_id", "null"),
        ("environment", "\"login.microsoftonline.com\""),
        ("client_id", "\"client-id\""),
        ("target", "\"https://graph.microsoft.com/.default\""),
        ("realm", "\"tid\""),
        ("token_type", "\"Bearer\""),
        ("cached_at", "\"1800000000\""),
        ("expires_on", "\"1800003600\""),
        ("extended_expires_on", "\"1800007200\""),
    ];
    for (name, value) in changes {
        match fields.iter_mut().find(|(field, _)| field == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    let fields: Vec<String> = fields
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// The members of a JSON object, their values as they are written; the last of equal names.
pub(crate) fn raw_members(text: &str) -> BTreeMap<String, Box<RawValue>> {
    let text = if text.trim().is_empty() { "{}" } else { text };
    serde_json::from_str(text).expect("an object")
}

/// Every entry of every section that is an object, and every other section, as written.
pub(crate) fn raw_parts(document: &Document) -> BTreeMap<(String, String), String> {
    let mut parts = BTreeMap::new();
    for (section, raw) in raw_members(text(document)) {
        match serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(raw.get()) {
            Ok(entries) => parts
                .extend(entries.into_iter().map(|(key, raw)| ((section.clone(), key), raw.get().to_owned()))),
            Err(_) => {
                parts.insert((section, String::new()), raw.get().to_owned());
            }
        }
    }
    parts
}

/// Asserts that all that stood in `before` but the entries with these keys stands in `after` to the letter.
pub(crate) fn assert_survives(before: &Document, after: &Document, but: &[&str]) {
    let now = raw_parts(after);
    for ((section, key), raw) in raw_parts(before) {
        if !but.contains(&key.as_str()) {
            assert_eq!(now.get(&(section.clone(), key.clone())), Some(&raw), "{section} {key}");
        }
    }
}

/// The field of an entry, `None` if it is not there.
pub(crate) fn field(document: &Document, section: &str, key: &str, name: &str) -> Option<Value> {
    let raw = raw_members(text(document)).remove(section)?;
    let entry = raw_members(raw.get()).remove(key)?;
    let value = raw_members(entry.get()).remove(name)?;
    serde_json::from_str(value.get()).ok()
}

pub(crate) fn keys(document: &Document, section: &str) -> Vec<String> {
    raw_members(text(document))
        .get(section)
        .map(|raw| raw_members(raw.get()).into_keys().collect())
        .unwrap_or_default()
}
