//! What programs of other languages stumble over in a document, or do not find in it.
//!
//! The rules are those of MSAL Python, Go and Node as they were seen to behave. This library reads more than any of
//! them, and writes nothing of all this.

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use super::apply::stored_key;
use super::credential::{AccessToken, Credential, CredentialType};
use super::dialect::{Form, NoHomeAccount};
use super::document::Document;
use super::environment::canonical;
use super::index::Index;
use super::key::CredentialKey;
use crate::UnixSeconds;

/// What [`Document::concerns`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Concern {
    /// The section.
    pub credential_type: CredentialType,
    /// The stored key of the entry; `None` where it is the section itself.
    pub key: Option<String>,
    /// How bad it is.
    pub harm: Harm,
    /// What is wrong, and for whom.
    pub message: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// How bad it is for a program of another language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Harm {
    /// It does not find this entry, or loses it.
    Hides,
    /// It fails on the whole document, or on look-ups that have nothing to do with this entry.
    Breaks,
}

impl Document {
    /// What programs of other languages stumble over in this document at the time `now`, and what they do not find
    /// in it.
    ///
    /// That MSAL Python and Node each find only their own form of an application's token is no concern: a token that
    /// neither of them finds is.
    #[must_use]
    pub fn concerns(&self, now: UnixSeconds) -> Vec<Concern> {
        let index = self.index();
        let apps = Apps::of(index);
        let mut found = Vec::new();
        for member in index.members.iter().filter(|member| !member.shadowed && !member.is_object) {
            let value = &index.bytes().expose()[member.value.clone()];
            found.extend(member.kind.map(|kind| of_section(kind, value)));
        }
        for at in index.standing() {
            Looking { index, at, apps: &apps, now, found: &mut found }.at_entry();
        }
        found
    }
}

fn of_section(credential_type: CredentialType, value: &[u8]) -> Concern {
    let message = if value == b"null" {
        "the section is null: MSAL Python fails at every access to it"
    } else {
        "the section is no object: no library can use the cache"
    };
    let message = message.to_owned();
    Concern { credential_type, key: None, harm: Harm::Breaks, message, remedy: BROKEN }
}

/// One entry, as it is looked at.
struct Looking<'a> {
    index: &'a Index,
    at: usize,
    apps: &'a Apps,
    now: UnixSeconds,
    found: &'a mut Vec<Concern>,
}

impl Looking<'_> {
    fn at_entry(&mut self) {
        let Ok(fields) = serde_json::from_str::<Fields<'_>>(self.index.value(self.at)) else {
            return self.breaks(match self.index.value(self.at) {
                "null" => {
                    "the entry is null: MSAL Go and Node refuse the whole cache, Python fails at look-ups"
                }
                _ => "the entry is no object: MSAL Go refuses the whole cache, Python fails at look-ups",
            });
        };
        let before = self.found.len();
        let kind = self.kind();
        self.texts(kind, &fields);
        self.times(kind, &fields);
        self.missing_fields(kind, &fields);
        match self.index.credential(self.at) {
            Ok(credential) => self.credential(&credential),
            // What makes it unreadable here was named already, if it was anybody else's concern.
            Err(_) if self.found.len() > before => {}
            Err(problem) => self.hides(format!("no library serves it: {problem}")),
        }
    }

    fn kind(&self) -> CredentialType {
        self.index.entries[self.at].kind
    }

    fn breaks(&mut self, message: impl Into<String>) {
        self.push(Harm::Breaks, message.into(), BROKEN);
    }

    fn hides(&mut self, message: impl Into<String>) {
        self.push(Harm::Hides, message.into(), HIDDEN);
    }

    fn push(&mut self, harm: Harm, message: String, remedy: &'static str) {
        let key = Some(self.index.key(self.at).to_owned());
        self.found.push(Concern { credential_type: self.kind(), key, harm, message, remedy });
    }

    fn texts(&mut self, kind: CredentialType, fields: &Fields<'_>) {
        for name in TEXTS {
            match fields.get(*name).map(|raw| Shape::of(raw.get())) {
                None | Some(Shape::Text(_)) => {}
                Some(Shape::Null) if *name == "target" => {
                    self.breaks("the field target is null: MSAL Python fails at look-ups");
                }
                Some(Shape::Null) if *name == "username" && kind == CredentialType::Account => {
                    self.breaks("the field username is null: MSAL Python fails when it filters accounts");
                }
                Some(Shape::Null) => {}
                Some(_) => {
                    self.breaks(format!("the field {name} is no text: MSAL Go refuses the whole cache"));
                }
            }
        }
    }

    fn times(&mut self, kind: CredentialType, fields: &Fields<'_>) {
        for name in TIMES.iter().filter(|_| kind == CredentialType::AccessToken) {
            let what = match fields.get(*name).map(|raw| Shape::of(raw.get())) {
                None | Some(Shape::Integer) => continue,
                Some(Shape::Text(text)) if is_integer(text) => continue,
                Some(Shape::Fraction) => {
                    self.breaks(format!("the field {name} is a fraction: MSAL Go refuses the whole cache"));
                    continue;
                }
                Some(Shape::Null) => "null",
                Some(Shape::Text("")) => "empty",
                Some(_) => "no number",
            };
            self.breaks(format!(
                "the field {name} is {what}: MSAL Go refuses the whole cache, Python fails at look-ups"
            ));
        }
        let modified = fields.get("last_modification_time").map(|raw| Shape::of(raw.get()));
        if kind == CredentialType::RefreshToken && modified == Some(Shape::Null) {
            self.breaks("the field last_modification_time is null: MSAL Python fails at silent sign-ins");
        }
    }

    fn missing_fields(&mut self, kind: CredentialType, fields: &Fields<'_>) {
        let is_missing = |name: &str| !fields.contains_key(name);
        match kind {
            CredentialType::AccessToken => {
                if is_missing("expires_on") {
                    self.breaks("the field expires_on is missing: MSAL Python fails at look-ups");
                }
                if is_missing("cached_at") {
                    self.hides("the field cached_at is missing: MSAL Go does not use the token");
                }
            }
            CredentialType::Account => {
                if is_missing("authority_type") {
                    self.breaks("the field authority_type is missing: MSAL Python cannot list the accounts");
                }
                if is_missing("username") {
                    self.breaks("the field username is missing: MSAL Python fails when it filters accounts");
                }
            }
            CredentialType::RefreshToken | CredentialType::IdToken | CredentialType::AppMetadata => {}
        }
        let accepted: &[&str] = match kind {
            CredentialType::AccessToken => &["AccessToken", "AccessToken_With_AuthScheme"],
            CredentialType::RefreshToken => &["RefreshToken"],
            CredentialType::IdToken => &["IdToken"],
            CredentialType::Account | CredentialType::AppMetadata => return,
        };
        let is_accepted = matches!(
            fields.get("credential_type").map(|raw| Shape::of(raw.get())),
            Some(Shape::Text(text)) if accepted.contains(&text)
        );
        if !is_accepted {
            self.hides(format!("the credential_type is not {}: MSAL Node deletes the entry", accepted[0]));
        }
    }

    fn credential(&mut self, credential: &Credential) {
        match credential {
            Credential::AccessToken(token) => self.access_token(token, credential),
            Credential::RefreshToken(token) => {
                if !self.apps.known.contains(&app(&token.environment, &token.client_id)) {
                    self.hides("its application has no AppMetadata: MSAL Go does not look for the token");
                }
            }
            Credential::AppMetadata(app) => {
                if self.index.key(self.at) != stored_key(credential, Form::Python, &app.environment) {
                    self.hides("it has another key than MSAL Python looks for");
                }
            }
            Credential::IdToken(_) | Credential::Account(_) => {}
        }
    }

    fn access_token(&mut self, token: &AccessToken, credential: &Credential) {
        let ahead = token.cached_at.since(self.now);
        if ahead > 0 {
            self.hides(format!(
                "it was cached {ahead} s in the future: MSAL Go does not use it, and a clock is or was wrong"
            ));
        }
        if token.realm.chars().any(char::is_uppercase) {
            self.hides("its tenant is spelled with capitals: MSAL Python and Go look for small letters");
        }
        let key = stored_key(credential, Form::Python, &token.environment);
        if token.expires_on <= self.now && self.index.key(self.at) != key {
            let message = "it has expired under a key that MSAL Python cannot delete: it rewrites the cache at each look-up";
            self.push(Harm::Hides, message.to_owned(), EXPIRED);
        }
        if no_home_account(self.index, self.at) == Some(NoHomeAccount::Absent) {
            self.hides("it has no home_account_id at all: neither MSAL Python nor Node finds the token");
        }
        if self.apps.ambiguous.contains(&self.at) {
            self.breaks("another entry answers the same request: MSAL Node reports multiple_matching_tokens");
        }
    }
}

type Fields<'a> = HashMap<String, &'a RawValue>;

/// What the entries of applications are together.
struct Apps {
    /// Those that have AppMetadata: host and client.
    known: HashSet<(String, String)>,
    /// The entries of which Node finds another for the same request.
    ambiguous: HashSet<usize>,
}

impl Apps {
    fn of(index: &Index) -> Self {
        let mut known = HashSet::new();
        let mut requests: HashMap<CredentialKey, Vec<usize>> = HashMap::new();
        for at in index.standing() {
            match index.credential(at) {
                Ok(Credential::AppMetadata(metadata)) => {
                    known.insert(app(&metadata.environment, &metadata.client_id));
                }
                Ok(token @ Credential::AccessToken(_))
                    if no_home_account(index, at) == Some(NoHomeAccount::Empty) =>
                {
                    requests.entry(CredentialKey::of(&token)).or_default().push(at);
                }
                _ => {}
            }
        }
        let ambiguous = requests.into_values().filter(|entries| entries.len() > 1).flatten().collect();
        Self { known, ambiguous }
    }
}

fn app(environment: &str, client_id: &str) -> (String, String) {
    (canonical(environment), client_id.to_lowercase())
}

/// How an application's plain token spells that it has no user.
fn no_home_account(index: &Index, at: usize) -> Option<NoHomeAccount> {
    index.entries[at].known.as_ref()?.no_home_account
}

/// What a value is, as far as the languages tell values apart.
#[derive(Debug, PartialEq, Eq)]
enum Shape<'a> {
    Null,
    /// What stands between the quotes, as it stands there.
    Text(&'a str),
    Integer,
    Fraction,
    Other,
}

impl<'a> Shape<'a> {
    fn of(raw: &'a str) -> Self {
        match raw.as_bytes().first() {
            Some(b'n') => Self::Null,
            Some(b'"') => Self::Text(raw.trim_matches('"')),
            Some(b'-' | b'0'..=b'9') if is_integer(raw) => Self::Integer,
            Some(b'-' | b'0'..=b'9') => Self::Fraction,
            _ => Self::Other,
        }
    }
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The fields that MSAL Go reads as texts.
const TEXTS: &[&str] = &[
    "credential_type",
    "secret",
    "home_account_id",
    "environment",
    "client_id",
    "realm",
    "target",
    "token_type",
    "family_id",
    "local_account_id",
    "username",
    "authority_type",
];
const TIMES: &[&str] = &["cached_at", "expires_on", "extended_expires_on", "refresh_on"];

const BROKEN: &str = "find the program that wrote it, and remove what it wrote ('strongroom purge' with --client, --account \
                      or --all); tokens are requested anew";
const HIDDEN: &str = "nothing breaks: who does not find it requests it for itself; if that costs too much, purge it and \
                      see who writes it";
const EXPIRED: &str = "run 'strongroom purge --expired'";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretBytes;
    use crate::schema::{AppMetadata, Applied, Change};

    const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

    fn concerns(text: &str) -> Vec<Concern> {
        Document::parse(SecretBytes::from(text.as_bytes().to_vec())).unwrap().concerns(NOW)
    }

    /// A token as MSAL Python writes it, with other fields in the place of some of its own.
    fn token(other: &str) -> String {
        let mut fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(
            r#"{"credential_type": "AccessToken", "secret": "s", "home_account_id": null, "environment": "h",
                "client_id": "c", "target": "t", "realm": "r", "token_type": "Bearer", "cached_at": "1799999000",
                "expires_on": "1800003600", "extended_expires_on": "1800003600"}"#,
        )
        .unwrap();
        let other: serde_json::Map<String, serde_json::Value> = serde_json::from_str(other).unwrap();
        for (name, value) in other {
            if value == "gone" {
                fields.remove(&name);
            } else {
                fields.insert(name, value);
            }
        }
        serde_json::Value::Object(fields).to_string()
    }

    fn of_tokens(tokens: &[(&str, String)]) -> Vec<Concern> {
        let entries: Vec<String> = tokens.iter().map(|(key, token)| format!("{key:?}: {token}")).collect();
        concerns(&format!("{{\"AccessToken\": {{{}}}}}", entries.join(",")))
    }

    #[test]
    fn what_python_writes_and_what_we_write_concerns_nobody() {
        assert_eq!(of_tokens(&[("-h-accesstoken-c-r-t", token("{}"))]), []);
        let mut written = SecretBytes::from(b"{}".to_vec());
        let ours = Document::parse(SecretBytes::from(
            format!("{{\"AccessToken\": {{\"k\": {}}}}}", token("{}")).into_bytes(),
        ))
        .unwrap();
        for entry in ours.entries() {
            let change =
                Change::new(NOW).put(entry.credential.unwrap()).put(Credential::AppMetadata(AppMetadata {
                    client_id: "C".into(),
                    environment: "h".into(),
                    family_id: None,
                }));
            let Ok(Applied::Changed { bytes, .. }) = Document::parse(written.share()).unwrap().apply(&change)
            else {
                panic!()
            };
            written = bytes;
        }
        assert_eq!(Document::parse(written).unwrap().concerns(NOW), []);
    }

    #[test]
    fn each_thing_that_breaks_a_peer_is_named_with_its_entry() {
        for (other, what, whom) in [
            (r#"{"secret": 5}"#, "secret", "Go"),
            (r#"{"target": null}"#, "target", "Python"),
            (r#"{"target": 5}"#, "target", "Go"),
            (r#"{"expires_on": 1.5}"#, "expires_on", "Go"),
            (r#"{"expires_on": null}"#, "expires_on", "Python"),
            (r#"{"cached_at": ""}"#, "cached_at", "Python"),
            (r#"{"refresh_on": "soon"}"#, "refresh_on", "Go"),
            (r#"{"expires_on": "gone"}"#, "expires_on", "Python"),
        ] {
            let found = of_tokens(&[("-h-accesstoken-c-r-t", token(other))]);
            let is_it = |concern: &&Concern| {
                concern.message.contains(what)
                    && concern.message.contains(whom)
                    && concern.harm == Harm::Breaks
            };
            assert!(found.iter().any(|concern| is_it(&concern)), "{other}: {found:?}");
            assert!(found.iter().all(|concern| concern.key.as_deref() == Some("-h-accesstoken-c-r-t")));
        }
        for text in [
            r#"{"AccessToken": null}"#,
            r#"{"IdToken": []}"#,
            r#"{"AccessToken": {"k": null}}"#,
            r#"{"RefreshToken": {"k": "text"}}"#,
            r#"{"Account": {"k": {"home_account_id": "u.t", "environment": "h", "username": "n"}}}"#,
            r#"{"Account": {"k": {"home_account_id": "u.t", "environment": "h", "authority_type": "MSSTS", "username": null}}}"#,
        ] {
            let found = concerns(text);
            assert!(found.iter().any(|concern| concern.harm == Harm::Breaks), "{text}: {found:?}");
        }
        assert_eq!(of_tokens(&[("-h-accesstoken-c-r-t", token(r#"{"expires_on": 1800003600}"#))]), []);
    }

    #[test]
    fn what_a_peer_does_not_find_or_loses_is_named() {
        for (key, other, what) in [
            ("-h-accesstoken-c-r-t", r#"{"cached_at": "gone"}"#, "cached_at"),
            ("-h-accesstoken-c-r-t", r#"{"cached_at": "1800000001"}"#, "in the future"),
            ("-h-accesstoken-c-r-t", r#"{"realm": "Contoso"}"#, "capitals"),
            ("-h-accesstoken-c-r-t", r#"{"home_account_id": "gone"}"#, "home_account_id"),
            ("-h-atext-c-r-t-x", r#"{"credential_type": "AText"}"#, "Node deletes"),
            (
                "-h-accesstoken-c-r-t-",
                r#"{"home_account_id": "", "expires_on": "1799999999", "extended_expires_on": "1799999999"}"#,
                "expired",
            ),
        ] {
            let found = of_tokens(&[(key, token(other))]);
            let is_it = |concern: &Concern| concern.message.contains(what) && concern.harm == Harm::Hides;
            assert!(found.iter().any(is_it), "{other}: {found:?}");
        }
        let refresh = r#"{"RefreshToken": {"k": {"credential_type": "RefreshToken", "secret": "s", "home_account_id": "u.t",
            "environment": "login.microsoftonline.com", "client_id": "c"}}}"#;
        assert!(concerns(refresh)[0].message.contains("AppMetadata"));
        let with_app = refresh.trim_end_matches('}').to_owned()
            + r#"}}, "AppMetadata": {"appmetadata-login.windows.net-c": {"client_id": "c", "environment": "login.windows.net"}}}"#;
        assert_eq!(concerns(&with_app), []);
        let elsewhere = with_app.replace("appmetadata-", "AppMetadata-");
        assert!(concerns(&elsewhere)[0].message.contains("another key"));
    }

    #[test]
    fn two_entries_for_one_request_are_one_too_many_for_node() {
        let of_node = |host: &str| token(&format!(r#"{{"home_account_id": "", "environment": {host:?}}}"#));
        let (one, other) = ("login.windows.net", "login.microsoftonline.com");
        let found = of_tokens(&[("a-", of_node(one)), ("b-", of_node(other))]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|concern| concern.message.contains("multiple_matching_tokens")));
        assert_eq!(of_tokens(&[("a-", of_node(one)), ("b-", of_node("sts.example"))]), []);
    }
}
