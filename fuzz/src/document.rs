//! Any bytes as a cache document: no panic, valid JSON is accepted and nothing else, every readable entry is found,
//! and a change leaves what it does not concern as it is, to the letter.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use strongroom::{
    AccessToken, Applied, Change, Credential, CredentialKey, Document, DocumentError, Partition, SecretBytes,
    TokenScheme, UnixSeconds,
};

const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

/// Panics if anything does not hold.
pub fn check(bytes: &[u8]) {
    let document = match Document::parse(SecretBytes::from(bytes.to_vec())) {
        Ok(document) => document,
        Err(
            error @ (DocumentError::Malformed { .. }
            | DocumentError::OtherKind
            | DocumentError::ByteOrderMark),
        ) => {
            assert!(!is_object(bytes), "JSON was refused: {error}");
            return;
        }
        Err(_) => return,
    };
    assert!(is_object(bytes) || bytes.iter().all(u8::is_ascii_whitespace), "what is no JSON was accepted");
    check_look_ups(&document);
    check_adding(&document);
    check_removing(&document);
}

fn is_object(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| {
        text.trim_start().starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok()
    })
}

fn check_look_ups(document: &Document) {
    let mut readable = 0;
    for credential in document.entries().filter_map(|entry| entry.credential.ok()) {
        readable += 1;
        let key = CredentialKey::of(&credential);
        let (found, _) = document.get(&key).expect("found by its own identity");
        assert_eq!(CredentialKey::of(&found), key);
        let listed = document.list(&Partition::of(&credential));
        assert!(listed.iter().any(|(listed, _)| CredentialKey::of(listed) == key));
    }
    assert_eq!(document.is_empty(), readable == 0);
}

fn check_adding(document: &Document) {
    let new = Credential::AccessToken(AccessToken {
        home_account_id: None,
        environment: "fuzz.example".into(),
        client_id: "fuzz".into(),
        realm: "fuzz".into(),
        target: "fuzz".into(),
        secret: "secret".into(),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: NOW,
        expires_on: NOW.plus(3_600),
        extended_expires_on: NOW.plus(3_600),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    });
    let Some(after) = changed(document, &Change::new(NOW).put(new.clone())) else { return };
    let (found, _) = after.get(&CredentialKey::of(&new)).expect("what was stored is found");
    assert_eq!(found, new);
    let pieces: HashSet<Piece<'_>> = pieces(&after).into_iter().collect();
    for piece in self::pieces(document) {
        let healed = format!("{{\"home_account_id\":null,{}", piece.value.get(1..).unwrap_or_default());
        let survives = pieces.contains(&piece) || pieces.contains(&Piece { value: &healed, ..piece });
        // What stood where the new one has to stand, and sections that are no objects.
        let gives_way = piece.key.contains("fuzz") || piece.key.is_empty() && piece.value == "null";
        assert!(survives || gives_way || is_shown_as_new(piece), "{piece:?} is gone");
    }
}

/// Whether an entry is the new one's own identity in another spelling, which it replaces.
fn is_shown_as_new(piece: Piece<'_>) -> bool {
    let alone = format!("{{{}:{{{}:{}}}}}", piece.section, piece.key, piece.value);
    Document::parse(SecretBytes::from(alone.into_bytes())).is_ok_and(|alone| {
        !alone.list(&Partition::of_app_tokens("fuzz.example", "fuzz", "fuzz")).is_empty()
            || alone.entries().any(|entry| entry.key.contains("fuzz"))
    })
}

fn check_removing(document: &Document) {
    let change = Change::new(NOW).remove_where(Arc::new(|_| true)).sweep_expired();
    let Some(after) = changed(document, &change) else { return };
    assert!(after.is_empty());
    let unreadable = |document: &Document| {
        let entries = document.entries().filter(|entry| entry.credential.is_err());
        entries.map(|entry| entry.key.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(unreadable(document), unreadable(&after));
}

/// The document after `change`, if it changes and can be changed.
fn changed(document: &Document, change: &Change) -> Option<Document> {
    match document.apply(change) {
        Ok(Applied::Changed { bytes, .. }) => {
            Some(Document::parse(bytes).expect("what is written can be read"))
        }
        Ok(Applied::Unchanged) | Err(DocumentError::Section(_)) => None,
        other => panic!("{other:?}"),
    }
}

/// An entry, or a section that is no object, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Piece<'a> {
    section: &'a str,
    key: &'a str,
    value: &'a str,
}

fn pieces(document: &Document) -> Vec<Piece<'_>> {
    let text = std::str::from_utf8(document.bytes().expose()).expect("UTF-8");
    let mut pieces = Vec::new();
    for (section, value) in members(text) {
        match value.strip_prefix('{') {
            Some(_) => {
                pieces.extend(members(value).into_iter().map(|(key, value)| Piece { section, key, value }));
            }
            None => pieces.push(Piece { section, key: "", value }),
        }
    }
    pieces
}

/// The members of an object, as they are written.
fn members(text: &str) -> Vec<(&str, &str)> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(&'de str, &'de str)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                members.push((name.get(), value.get()));
            }
            Ok(members)
        }
    }
    if text.trim().is_empty() {
        return Vec::new();
    }
    serde_json::Deserializer::from_str(text).deserialize_map(Members).expect("an object")
}
