//! The index as it was before it was fast, to compare with: every entry decoded, every identity computed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use proptest::prelude::*;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::credential::{Credential, CredentialType};
use super::document::Document;
use super::entry::{EntryProblem, Fields, name_of};
use super::fingerprint::Wanted;
use super::index::{Index, known};
use super::key::{CredentialKey, Partition};
use super::sieve::Sieve;
use super::skim::Known;
use super::target::Scopes;
use crate::SecretBytes;

struct Model {
    entries: Vec<Entry>,
}

struct Entry {
    kind: CredentialType,
    key: String,
    content: Result<(Credential, Known), EntryProblem>,
}

impl Model {
    fn read(text: &str) -> Self {
        let mut entries = Vec::new();
        for (name, raw) in last_of_equal_names(text) {
            let Some(kind) = CredentialType::from_section(&name) else { continue };
            if !raw.starts_with('{') {
                continue;
            }
            for (key, raw) in last_of_equal_names(&raw) {
                let content = Fields::read(&raw).and_then(|fields| {
                    let spelled = fields.no_home_account.unwrap_or_default();
                    let credential = fields.into_credential(kind, &key)?;
                    let known = known(&credential, spelled);
                    Ok((credential, known))
                });
                entries.push(Entry { kind, key, content });
            }
        }
        Self { entries }
    }

    fn readable(&self) -> impl Iterator<Item = (&str, &Credential, &Known)> {
        self.entries.iter().filter_map(|entry| {
            let (credential, known) = entry.content.as_ref().ok()?;
            Some((&*entry.key, credential, known))
        })
    }

    /// The stored keys that MSAL Go wrote anew in lower case.
    fn outdated(&self) -> HashSet<&str> {
        let mut equal: HashMap<CredentialKey, HashSet<&str>> = HashMap::new();
        for (key, credential, _) in self.readable() {
            equal.entry(CredentialKey::of(credential)).or_default().insert(key);
        }
        let has_twin = |key: &str, credential: &Credential| {
            key != key.to_lowercase() && equal[&CredentialKey::of(credential)].contains(&*key.to_lowercase())
        };
        self.readable()
            .filter(|(key, credential, _)| has_twin(key, credential))
            .map(|(key, _, _)| key)
            .collect()
    }

    fn newest(&self, wanted: &CredentialKey) -> Option<Credential> {
        let outdated = self.outdated();
        self.readable()
            .filter(|(key, credential, _)| {
                CredentialKey::of(credential) == *wanted && !outdated.contains(key)
            })
            .max_by_key(|(_, _, known)| (known.written, known.ends))
            .map(|(_, credential, _)| credential.clone())
    }

    fn list(&self, wanted: &Partition) -> Vec<Credential> {
        let outdated = self.outdated();
        self.readable()
            .filter(|(key, credential, _)| Partition::of(credential) == *wanted && !outdated.contains(key))
            .map(|(_, credential, _)| credential.clone())
            .collect()
    }
}

/// The members of an object that nothing shadows, in the order of the text.
fn last_of_equal_names(text: &str) -> Vec<(String, String)> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((name, raw)) = map.next_entry::<&RawValue, &RawValue>()? {
                members.push((name_of(name.get()).into_owned(), raw.get().to_owned()));
            }
            Ok(members)
        }
    }
    let members = serde_json::Deserializer::from_str(text).deserialize_map(Members).expect("an object");
    let last: BTreeMap<String, usize> =
        members.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
    let stands = |at: usize, name: &str| last[name] == at;
    members
        .into_iter()
        .enumerate()
        .filter(|(at, (name, _))| stands(*at, name))
        .map(|(_, member)| member)
        .collect()
}

/// Asserts that the index and the model give the same answers; returns how many entries were not decoded.
fn compare(text: &str) -> Result<(), TestCaseError> {
    let index = Index::read(SecretBytes::from(text.as_bytes().to_vec())).expect("a document");
    let model = Model::read(text);
    prop_assert_eq!(index.is_empty(), model.readable().next().is_none());
    let standing: Vec<usize> = index.standing().collect();
    prop_assert_eq!(standing.len(), model.entries.len());
    for (at, entry) in standing.iter().zip(&model.entries) {
        prop_assert_eq!((index.entries[*at].kind, index.key(*at)), (entry.kind, &*entry.key));
        let (credential, known) = match &entry.content {
            Ok((credential, known)) => (Ok(credential.clone()), Some(known.clone())),
            Err(problem) => (Err(*problem), None),
        };
        prop_assert_eq!(&index.entries[*at].known, &known, "{} {}", &entry.key, index.value(*at));
        prop_assert_eq!(index.credential(*at), credential);
        prop_assert_eq!(index.named(entry.kind, &entry.key), Some(*at));
    }
    let mut identities: Vec<(CredentialKey, Partition)> = model
        .readable()
        .map(|(_, credential, _)| (CredentialKey::of(credential), Partition::of(credential)))
        .collect();
    identities.sort();
    identities.dedup();
    // More than once: what is asked for often is found in another way.
    for (key, partition) in identities.iter().chain(&identities) {
        let newest = index.newest(std::slice::from_ref(key)).map(|(_, credential)| credential);
        prop_assert_eq!(newest, model.newest(key), "{:?}", key);
        let listed: Vec<Credential> =
            index.list(partition, &Scopes::default()).into_iter().map(|(_, credential)| credential).collect();
        prop_assert_eq!(&listed, &model.list(partition), "{:?}", partition);
        for wanted in ["a", "b", "A b", "ü"].map(Scopes::parse) {
            let has = |credential: &&Credential| matches!(credential, Credential::AccessToken(token) if wanted.is_subset_of(&token.target));
            let found: Vec<Credential> =
                index.list(partition, &wanted).into_iter().map(|(_, credential)| credential).collect();
            prop_assert!(listed.iter().filter(has).all(|wanted| found.contains(wanted)), "{:?}", wanted);
        }
    }
    for (key, partition) in identities.iter().take(4) {
        compare_sieved(text, &index, key, partition)?;
    }
    Ok(())
}

/// Asserts that what is left of a document that is read in pieces of any size gives the answers of the whole.
fn compare_sieved(
    text: &str,
    index: &Index,
    key: &CredentialKey,
    partition: &Partition,
) -> Result<(), TestCaseError> {
    let bare =
        |found: Option<(usize, Credential)>| found.map(|(at, credential)| (index.revision(at), credential));
    let newest = bare(index.newest(std::slice::from_ref(key)));
    for piece in [usize::MAX, 61] {
        let left =
            sieved(text.as_bytes(), piece, Wanted::of_key(key)).expect("all of it fits into the window");
        let found = left.get(key).map(|(credential, revision)| (revision, credential));
        prop_assert_eq!(&found, &newest, "{:?} in pieces of {}", key, piece);
        for scopes in ["", "A b"].map(Scopes::parse) {
            let wanted = Wanted::of(partition, &scopes);
            let left = sieved(text.as_bytes(), piece, wanted).expect("all of it fits into the window");
            let expected: Vec<_> =
                index.list(partition, &scopes).into_iter().map(|(_, found)| found).collect();
            let listed: Vec<_> =
                left.list_for(partition, &scopes).into_iter().map(|(found, _)| found).collect();
            prop_assert_eq!(listed, expected, "{:?} {:?} in pieces of {}", partition, scopes, piece);
            if wanted.takes_in(&Wanted::of_key(key)) {
                let found = left.get(key).map(|(credential, revision)| (revision, credential));
                prop_assert_eq!(&found, &newest, "{:?} in pieces of {}", key, piece);
            }
        }
    }
    Ok(())
}

/// What a sieve leaves of a text that it is shown in pieces.
fn sieved(text: &[u8], piece: usize, wanted: Wanted) -> Option<Document> {
    let mut sieve = Sieve::new(wanted);
    let (mut done, mut shown) = (0, 0);
    while shown < text.len() {
        shown = text.len().min(shown.saturating_add(piece));
        done += sieve.read(&text[done..shown]);
    }
    sieve.into_document().filter(|_| done == text.len())
}

const HOST: &str = "login.microsoftonline.com";

/// An entry with the fields and the stored key that a language gives it, and what is odd about it.
fn entry(kind: CredentialType) -> impl Strategy<Value = (String, String)> {
    let usually = |usual: &'static str, others: &[&'static str]| prop_oneof![6 => Just(usual), 1 => prop::sample::select(others.to_vec())];
    let identity = (
        prop_oneof![
            3 => Just("\"\""),
            3 => Just("null"),
            1 => Just(""),
            3 => prop::sample::select(vec!["\"uid.utid\"", "\"UID.utid\"", "\"x-atext-client-tid-y\"", "5", "\"\\u0075id\""]),
        ],
        usually(
            "\"login.microsoftonline.com\"",
            &[
                "\"login.windows.net\"",
                "\"STS.windows.net\"",
                "\"other.example\"",
                "\"other.example:8443\"",
                "\"\"",
                "null",
                "",
                "\"ü\"",
                "\"a-accesstoken-b\"",
            ],
        ),
        usually("\"client\"", &["\"Client\"", "\"other\"", "\"\"", "null", "1", "\"\u{212a}\"", "\"tid-x\""]),
        usually("\"tid\"", &["\"TID\"", "\"t2\"", "\"\"", "null", ""]),
        prop_oneof![
            3 => Just("\"a\""),
            2 => Just("\"b\""),
            4 => prop::sample::select(vec!["\"A b\"", "\"b a\"", "\" a\"", "\"\"", "null", "7", "\"ü\"", "\"a\\tb\"", "\"a-x\"", "\"a a\""]),
        ],
    );
    let rest = (
        usually(
            "\"secret-one\"",
            &["\"secret-another\"", "\"\"", "null", "5", "\"\\ud800\"", "\"\\u0041\"", "\"ü\"", ""],
        ),
        usually(
            "\"AccessToken\"",
            &["\"accesstoken\"", "\"AText\"", "\"AccessToken_With_AuthScheme\"", "null", "\"x\"", ""],
        ),
        usually("\"Bearer\"", &["\"bearer\"", "\"pop\"", "\"\"", "null", "", "5"]),
        usually(
            "\"1799999000\"",
            &[
                "\"1799999001\"",
                "1799999000",
                "\"5.5\"",
                "\" 7\"",
                "\"-3\"",
                "\"99999999999999999999\"",
                "null",
                "",
            ],
        ),
        usually("\"1800003600\"", &["\"1800003601\"", "5", "\"x\"", "null", "\"007\"", ""]),
        usually("\"1800007200\"", &["\"1\"", "\"1800999999\"", "null", "\"\"", ""]),
        (any::<u8>(), any::<prop::sample::Index>(), 0..3_usize, 0..4_usize),
    );
    let odd = prop_oneof![
        8 => Just(""),
        4 => prop::sample::select(vec![
            "\"ext_cache_key\":\"h\"",
            "\"ext_cache_key\":null",
            "\"ext\":{\"a\":\"b\"}",
            "\"key_id\":\"k\"",
            "\"tokenType\":\"pop\"",
            "\"user_assertion_hash\":\"aGFzaA\"",
            "\"user_assertion_hash\":\"aGFzaA==\"",
            "\"userAssertionHash\":\"other\"",
            "\"user_assertion_hash\":\"\"",
            "\"family_id\":\"1\"",
            "\"family_id\":null",
            "\"family_id\":1",
            "\"last_modification_time\":\"1799999500\"",
            "\"last_modification_time\":null",
            "\"ext_expires_on\":\"1800009999\"",
            "\"unknown\":[1,{\"secret\":\"x\"}]",
            "\"unknown\":\"\\u00fc\"",
            "\"client_id\":\"other\"",
            "\"home_account_id\":null",
            "\"home_account_id\":\"again\"",
            "\"\\u0065xpires_on\":\"1800003602\"",
            "\"secret\":null",
            "\"ünknown\":\"ü\"",
        ]),
    ];
    (identity, rest, odd).prop_map(move |(identity, rest, odd)| {
        let (home, environment, client, realm, target) = identity;
        let (secret, credential_type, token_type, written, expires, extended, (name, place, spaces, order)) =
            rest;
        let mut fields: Vec<String> = [
            ("credential_type", credential_type),
            ("secret", secret),
            ("home_account_id", home),
            ("environment", environment),
            ("client_id", client),
            ("target", target),
            ("realm", realm),
            ("token_type", token_type),
            ("cached_at", written),
            ("expires_on", expires),
            ("extended_expires_on", extended),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
        if order == 1 {
            fields.reverse();
        }
        if !odd.is_empty() {
            fields.insert(place.index(fields.len() + 1), odd.to_owned());
        }
        let space = ["", " ", "\n            "][spaces];
        let value = format!("{{{space}{}{space}}}", fields.join(&format!(",{space}")));
        (stored_key(kind, name, [home, environment, client, realm, target]), value)
    })
}

fn stored_key(kind: CredentialType, name: u8, fields: [&str; 5]) -> String {
    let [home, environment, client, realm, target] = fields.map(|field| match field {
        "null" | "" => "",
        field => field.trim_matches('"'),
    });
    let (kind, tail) = match (kind, name % 16) {
        (CredentialType::AccessToken, 0) => ("atext", "-hash"),
        (CredentialType::AccessToken, 1) => ("accesstoken_with_authscheme", "-pop"),
        (CredentialType::AccessToken, 2) => ("accesstoken", "--hash"),
        (CredentialType::AccessToken, 3) => ("accesstoken", "-pop"),
        (CredentialType::AccessToken, 4 | 5) => ("accesstoken", "-"),
        (CredentialType::AccessToken, 6) => ("accesstoken", "--"),
        (CredentialType::AccessToken, 7) => ("accesstoken", "x"),
        (CredentialType::AccessToken, _) => ("accesstoken", ""),
        _ => ("other", ""),
    };
    let key = format!("{home}-{environment}-{kind}-{client}-{realm}-{target}{tail}");
    match name / 16 {
        0 => key,
        1 => key.replace('a', "\\u0061"),
        2 => format!("k{}", name % 4),
        3 => key.replace(HOST, "login.windows.net"),
        4 => format!("-atext-{client}-{realm}-{key}"),
        _ => key.to_lowercase(),
    }
}

fn section() -> impl Strategy<Value = (CredentialType, String)> {
    let kind = prop_oneof![
        5 => Just(CredentialType::AccessToken),
        1 => Just(CredentialType::RefreshToken),
        1 => Just(CredentialType::IdToken),
        1 => Just(CredentialType::Account),
        1 => Just(CredentialType::AppMetadata),
    ];
    kind.prop_flat_map(|kind| {
        let entries = prop::collection::vec((entry(kind), 0..24_usize), 0..10);
        entries.prop_map(move |entries| {
            let members: Vec<String> = entries
                .into_iter()
                .map(|((key, value), odd)| match odd {
                    0 => format!("\"{key}\":null"),
                    1 => format!("\"{key}\" : [{value}]"),
                    2 => format!("\"{key}\"\n:\n{value}\n"),
                    _ => format!("\n        \"{key}\": {value}"),
                })
                .collect();
            (kind, format!("{{{}}}", members.join(",")))
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_answer_of_the_index_is_that_of_decoding_all_entries(sections in prop::collection::vec(section(), 1..4)) {
        let members: Vec<String> =
            sections.iter().map(|(kind, entries)| format!("\"{kind}\":{entries}")).collect();
        compare(&format!("{{{}}}", members.join(", ")))?;
    }
}

/// What is taken over from the entry before must be taken over no further than it is the same.
#[test]
fn an_entry_that_differs_from_its_neighbours_in_one_place_is_read_as_it_is() {
    let others = [
        "",
        "x",
        "7",
        "AText",
        "pop",
        "login.windows.net",
        "aGFzaA==",
        "x-atext-c-t-a",
        "x-accesstoken-c-t-a",
    ];
    for kind in CredentialType::ALL {
        for (home, hash) in [("u", "aGFzaA"), ("", "")] {
            let fields = [
                ("credential_type", "AccessToken"),
                ("secret", "s"),
                ("home_account_id", home),
                ("environment", HOST),
                ("client_id", "c"),
                ("target", "a"),
                ("realm", "t"),
                ("token_type", "Bearer"),
                ("cached_at", "1"),
                ("expires_on", "2"),
                ("extended_expires_on", "3"),
                ("ext_expires_on", "3"),
                ("user_assertion_hash", hash),
                ("last_modification_time", "4"),
                ("family_id", "f"),
            ];
            for changed in 0..fields.len() {
                for other in others {
                    let text = neighbours(kind, &fields, changed, other);
                    compare(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
                }
            }
        }
    }
}

/// Entries with these fields, two of them with another value of one.
fn neighbours(kind: CredentialType, fields: &[(&str, &str)], changed: usize, other: &str) -> String {
    let entry = |number: usize, changed: usize, other: &str| {
        let value = |at: usize| if at == changed { other } else { fields[at].1 };
        let members: Vec<String> =
            (0..fields.len()).map(|at| format!("\"{}\": \"{}\"", fields[at].0, value(at))).collect();
        let owner = format!("{}-{}-accesstoken-{}-{}", value(2), value(3), value(4), value(6));
        format!("\"{owner}-{}{}\": {{{}}}", value(5), "-".repeat(number), members.join(", "))
    };
    let entries =
        [entry(0, 0, fields[0].1), entry(1, changed, other), entry(2, 5, "b"), entry(3, changed, other)];
    format!("{{\"{kind}\": {{{}}}}}", entries.join(", "))
}

#[test]
fn usual_documents_are_read_without_decoding() {
    let entry = |home: &str, target: &str| {
        format!(
            "{{\"credential_type\": \"AccessToken\", \"secret\": \"s\", \"home_account_id\": {home}, \"environment\": \
             \"{HOST}\", \"client_id\": \"c\", \"target\": \"{target}\", \"realm\": \"t\", \"token_type\": \"Bearer\", \
             \"cached_at\": \"1\", \"expires_on\": \"2\", \"extended_expires_on\": \"3\"}}"
        )
    };
    for (key, value) in [
        (format!("-{HOST}-accesstoken-c-t-a"), entry("null", "a")),
        (format!("-{HOST}-accesstoken-c-t-a-"), entry("\"\"", "A")),
        (format!("u.v-{HOST}-accesstoken-c-t-a b"), entry("\"u.V\"", "a b")),
    ] {
        let text = format!("\"{key}\": {value}");
        let mut scanner = super::scan::Scanner::new(text.as_bytes(), 0);
        let mut skimmer = super::skim::Skimmer::new(text.as_bytes(), CredentialType::AccessToken);
        assert!(skimmer.entry(&mut scanner).is_some_and(|entry| entry.skimmed.is_some()), "{text}");
    }
}

#[test]
fn a_sieve_judges_no_document_that_is_damaged_or_goes_on() {
    let wanted = Wanted::of(&Partition::of_app_tokens(HOST, "c", "t"), &Scopes::default());
    let whole = "{\"AccessToken\": {\"k\": {}, \"l\": 5}, \"x\": [1]}";
    assert!(sieved(whole.as_bytes(), 5, wanted).is_some());
    for end in 0..whole.len() {
        assert!(sieved(&whole.as_bytes()[..end], usize::MAX, wanted).is_none(), "{end}");
        let mut damaged = whole.as_bytes().to_vec();
        damaged[end] = b'\x01';
        assert!(sieved(&damaged, usize::MAX, wanted).is_none(), "{end}");
    }
    assert!(sieved(format!("{whole} \n").as_bytes(), 5, wanted).is_some());
    for rest in ["}", "{}", ",", "\0"] {
        assert!(sieved(format!("{whole}{rest}").as_bytes(), usize::MAX, wanted).is_none(), "{rest}");
    }
    for other in ["", " ", "[]", "\u{feff}{}", "{\"AccessToken\": {]}"] {
        assert!(sieved(other.as_bytes(), usize::MAX, wanted).is_none(), "{other}");
    }
}
