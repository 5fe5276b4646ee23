//! One entry of a document: its fields as they are read, and as they are written.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::credential::{
    AccessToken, Account, AppMetadata, Credential, CredentialType, IdToken, RefreshToken,
};
use super::dialect::NoHomeAccount;
use super::extended::ExtendedKey;
use super::key::{TokenScheme, unpadded};
use super::lenient::parse_seconds;
use super::target::Scopes;
use crate::{SecretBytes, UnixSeconds};

/// Why an entry is kept but not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum EntryProblem {
    /// It is no JSON object.
    #[error("the entry is not a JSON object")]
    NotAnObject,
    /// A field that every entry of its type has is missing or of the wrong type.
    #[error("the field {0} is missing or not usable")]
    Field(&'static str),
}

/// The names of the fields that the languages do not agree on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    key_id: &'static str,
    user_assertion_hash: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self { key_id: KEY_IDS[0], user_assertion_hash: USER_ASSERTION_HASHES[0] }
    }
}

/// As Python and Node, Go, .NET and early versions of Node spell it.
const KEY_IDS: [&str; 4] = ["key_id", "keyid", "kid", "keyId"];
/// As all but Node and as Node spell it.
const USER_ASSERTION_HASHES: [&str; 2] = ["user_assertion_hash", "userAssertionHash"];

/// The fields of an entry that mean something to this library. `null` and `""` count as absent.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) credential_type: Option<Cow<'a, str>>,
    secret: Option<Cow<'a, str>>,
    pub(super) home_account_id: Option<Cow<'a, str>>,
    /// How an absent `home_account_id` is spelled.
    pub(super) no_home_account: Option<NoHomeAccount>,
    pub(super) environment: Option<Cow<'a, str>>,
    pub(super) client_id: Option<Cow<'a, str>>,
    realm: Option<Cow<'a, str>>,
    pub(super) target: Option<Cow<'a, str>>,
    token_type: Option<Cow<'a, str>>,
    /// What versions of MSAL Node before the common schema called `token_type`.
    other_token_type: Option<Cow<'a, str>>,
    key_id: Option<Cow<'a, str>>,
    user_assertion_hash: Option<Cow<'a, str>>,
    /// How the writer spells these two.
    pub(super) names: Names,
    extended: Option<ExtendedKey>,
    family_id: Option<Cow<'a, str>>,
    cached_at: Option<i64>,
    expires_on: Option<i64>,
    extended_expires_on: Option<i64>,
    refresh_on: Option<i64>,
    last_modification_time: Option<i64>,
    local_account_id: Option<Cow<'a, str>>,
    username: Option<Cow<'a, str>>,
    authority_type: Option<Cow<'a, str>>,
    account_source: Option<Cow<'a, str>>,
    problem: Option<EntryProblem>,
}

impl<'a> Fields<'a> {
    /// Reads an entry. What is not an object comes back as the problem that it is.
    pub(super) fn read(raw: &'a str) -> Result<Self, EntryProblem> {
        let fields: Self = serde_json::from_str(raw).map_err(|_| EntryProblem::NotAnObject)?;
        match fields.problem {
            Some(problem) => Err(problem),
            None => Ok(fields),
        }
    }

    /// Whether neither a user nor an assertion is named.
    pub(super) fn is_of_no_user(&self) -> bool {
        self.home_account_id.is_none() && self.user_assertion_hash.is_none()
    }

    /// The credential that the entry of section `kind` under `key` is.
    pub(super) fn into_credential(self, kind: CredentialType, key: &str) -> Result<Credential, EntryProblem> {
        Ok(match kind {
            CredentialType::AccessToken => Credential::AccessToken(self.into_access_token(key)?),
            CredentialType::RefreshToken => Credential::RefreshToken(RefreshToken {
                home_account_id: owned(self.home_account_id),
                environment: required(self.environment, "environment")?,
                client_id: required(self.client_id, "client_id")?,
                family_id: owned(self.family_id),
                target: self.target.as_deref().map(Scopes::parse).unwrap_or_default(),
                secret: required(self.secret, "secret")?.into(),
                last_modification_time: self.last_modification_time.map(UnixSeconds::new),
                user_assertion_hash: self.user_assertion_hash.as_deref().map(unpadded),
            }),
            CredentialType::IdToken => Credential::IdToken(IdToken {
                home_account_id: owned(self.home_account_id),
                environment: required(self.environment, "environment")?,
                client_id: required(self.client_id, "client_id")?,
                realm: self.realm.map(Cow::into_owned).unwrap_or_default(),
                secret: required(self.secret, "secret")?.into(),
                user_assertion_hash: self.user_assertion_hash.as_deref().map(unpadded),
            }),
            CredentialType::Account => Credential::Account(Account {
                home_account_id: required(self.home_account_id, "home_account_id")?,
                environment: required(self.environment, "environment")?,
                realm: self.realm.map(Cow::into_owned).unwrap_or_default(),
                local_account_id: self.local_account_id.map(Cow::into_owned).unwrap_or_default(),
                username: self.username.map(Cow::into_owned).unwrap_or_default(),
                authority_type: self.authority_type.map(Cow::into_owned).unwrap_or_default(),
                account_source: owned(self.account_source),
            }),
            CredentialType::AppMetadata => Credential::AppMetadata(AppMetadata {
                client_id: required(self.client_id, "client_id")?,
                environment: required(self.environment, "environment")?,
                family_id: owned(self.family_id),
            }),
        })
    }

    fn into_access_token(self, key: &str) -> Result<AccessToken, EntryProblem> {
        let stored = self.stored_key(key);
        let scheme = self.scheme(&stored);
        let extended = self.extended_key(&stored);
        // A token without an expiry can neither be judged nor swept.
        let expires_on = self.expires_on.ok_or(EntryProblem::Field("expires_on"))?;
        Ok(AccessToken {
            home_account_id: owned(self.home_account_id),
            environment: required(self.environment, "environment")?,
            client_id: required(self.client_id, "client_id")?,
            realm: required(self.realm, "realm")?,
            target: Scopes::parse(&self.target.ok_or(EntryProblem::Field("target"))?),
            secret: required(self.secret, "secret")?.into(),
            token_type: self.token_type.map_or_else(|| "Bearer".to_owned(), Cow::into_owned),
            scheme,
            cached_at: UnixSeconds::new(self.cached_at.ok_or(EntryProblem::Field("cached_at"))?),
            expires_on: UnixSeconds::new(expires_on),
            extended_expires_on: UnixSeconds::new(
                self.extended_expires_on.unwrap_or(expires_on).max(expires_on),
            ),
            refresh_on: self.refresh_on.map(UnixSeconds::new),
            user_assertion_hash: self.user_assertion_hash.as_deref().map(unpadded),
            extended,
        })
    }

    /// Bound if anything at all says so: the token type, the credential type, the key, or a key id.
    fn scheme(&self, stored: &StoredKey) -> TokenScheme {
        let type_bound = self.type_bound();
        let credential_bound = self
            .credential_type
            .as_deref()
            .is_some_and(|word| !word.eq_ignore_ascii_case("AccessToken") && !is_extended_type(word));
        if type_bound.is_none() && self.key_id.is_none() && !credential_bound && !stored.bound {
            return TokenScheme::Bearer;
        }
        TokenScheme::Bound {
            token_type: type_bound.unwrap_or("pop").to_lowercase(),
            key_id: owned(self.key_id.clone()),
        }
    }

    fn type_bound(&self) -> Option<&str> {
        [&self.token_type, &self.other_token_type]
            .into_iter()
            .find_map(|word| word.as_deref().filter(|word| !word.eq_ignore_ascii_case("Bearer")))
    }

    /// The extended key, if any language's marker is there: a field, the credential type, or the stored key.
    fn extended_key(&self, stored: &StoredKey) -> Option<ExtendedKey> {
        if self.extended.is_some() {
            return self.extended.clone();
        }
        match &stored.hash {
            Some(hash) => Some(ExtendedKey::stored(hash)),
            None if stored.extended || self.credential_type.as_deref().is_some_and(is_extended_type) => {
                Some(ExtendedKey::unknown())
            }
            None => None,
        }
    }

    /// What the stored key says beyond the fields: a peer that does not know a marker field drops it, and the
    /// key is all that is left of it.
    fn stored_key(&self, key: &str) -> StoredKey {
        let text = |field: &Option<Cow<'_, str>>| field.as_deref().unwrap_or_default().to_lowercase();
        let key = key.to_lowercase();
        let owner = format!("-{}-{}-", text(&self.client_id), text(&self.realm));
        let kind = KINDS
            .iter()
            .filter_map(|kind| Some((key.find(&format!("-{kind}{owner}"))?, *kind)))
            .min_by_key(|(at, _)| *at);
        let Some((at, kind)) = kind else {
            // Not a key as the languages make them: a marker anywhere in it counts.
            return StoredKey {
                extended: key.contains(EXTENDED_KIND),
                bound: key.contains(BOUND_KIND),
                hash: None,
            };
        };
        let rest = &key[at + 1 + kind.len() + owner.len()..];
        let target = text(&self.target);
        let tail = rest.strip_prefix(&target).filter(|tail| tail.is_empty() || tail.starts_with('-'));
        let hash = tail.and_then(|tail| hash_in_tail(tail, self.type_bound()));
        // Neither the target alone, in whatever order, nor the target and what may follow it: something that this
        // library does not know sets the token apart.
        let odd = tail.is_none() && Scopes::parse(rest.trim_end_matches('-')) != Scopes::parse(&target);
        StoredKey {
            extended: odd || kind == EXTENDED_KIND,
            bound: kind == BOUND_KIND,
            hash: hash.map(str::to_owned),
        }
    }

    fn set(&mut self, name: &str, raw: &'a RawValue) {
        if !MEANINGFUL.contains(&name) {
            return;
        }
        let value = Value::of(raw);
        match name {
            "credential_type" => self.credential_type = value.text(),
            "secret" => self.secret = value.text(),
            "home_account_id" => {
                self.no_home_account = Some(if matches!(&value, Value::Text(_)) {
                    NoHomeAccount::Empty
                } else {
                    NoHomeAccount::Null
                });
                self.home_account_id = match value {
                    // A user's token with an id that cannot be read must not become an application's.
                    Value::Null | Value::Text(_) => value.text(),
                    _ => return self.problem = Some(EntryProblem::Field("home_account_id")),
                };
            }
            "environment" => self.environment = value.text(),
            "client_id" => self.client_id = value.text(),
            "realm" => self.realm = value.text(),
            "target" => {
                // "" is a set of no scopes, which is a target.
                self.target = match value {
                    Value::Text(text) => Some(text),
                    _ => None,
                }
            }
            "token_type" => self.token_type = value.marker(),
            "tokenType" => self.other_token_type = value.marker(),
            "key_id" | "keyid" | "kid" | "keyId" => {
                if let Some(key_id) = value.marker() {
                    self.key_id = Some(key_id);
                    self.names.key_id = spelling(&KEY_IDS, name);
                }
            }
            "user_assertion_hash" | "userAssertionHash" => {
                if let Some(hash) = value.marker() {
                    self.user_assertion_hash = Some(hash);
                    self.names.user_assertion_hash = spelling(&USER_ASSERTION_HASHES, name);
                }
            }
            "ext_cache_key" | "ext_cache_key_hash" => {
                // A set of parameters says more than a hash of them.
                if let Some(hash) = value.marker().filter(|_| self.extended.is_none()) {
                    self.extended = Some(ExtendedKey::stored(&hash));
                }
            }
            "additionalCacheKeyComponents" | "ext" => {
                self.extended = match value {
                    Value::Null => self.extended.take(),
                    Value::Text(text) if text.is_empty() => self.extended.take(),
                    Value::Object(parameters) if parameters.is_empty() => self.extended.take(),
                    Value::Object(parameters) => Some(ExtendedKey::of(&parameters)),
                    _ => self.extended.take().or_else(|| Some(ExtendedKey::unknown())),
                };
            }
            "family_id" => self.family_id = value.text(),
            "cached_at" => self.cached_at = value.seconds(),
            "expires_on" => self.expires_on = value.seconds(),
            "extended_expires_on" | "ext_expires_on" => {
                self.extended_expires_on = value.seconds().or(self.extended_expires_on);
            }
            "refresh_on" => self.refresh_on = value.seconds(),
            "last_modification_time" => self.last_modification_time = value.seconds(),
            "local_account_id" => self.local_account_id = value.text(),
            "username" => self.username = value.text(),
            "authority_type" => self.authority_type = value.text(),
            "account_source" => self.account_source = value.text(),
            _ => {}
        }
    }
}

/// What a stored key says of a token.
struct StoredKey {
    extended: bool,
    bound: bool,
    hash: Option<String>,
}

pub(super) const PLAIN_KIND: &str = "accesstoken";
pub(super) const EXTENDED_KIND: &str = "atext";
const BOUND_KIND: &str = "accesstoken_with_authscheme";
const KINDS: [&str; 3] = [PLAIN_KIND, EXTENDED_KIND, BOUND_KIND];

/// The hash after the scheme segment of a stored key, in the tail that follows the target: `-`, `--`, `-pop` and
/// the like have none, `--HASH` and `-HASH` have.
fn hash_in_tail<'a>(tail: &'a str, token_type: Option<&str>) -> Option<&'a str> {
    let token_type = token_type.unwrap_or_default().to_lowercase();
    let scheme_and_hash = tail.trim_matches('-');
    let hash = ["ssh-cert", "mtls_pop", "pop", "bearer", &*token_type]
        .into_iter()
        .filter(|scheme| !scheme.is_empty())
        .find_map(|scheme| {
            scheme_and_hash.strip_prefix(scheme).filter(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .unwrap_or(scheme_and_hash)
        .trim_matches('-');
    (!hash.is_empty()).then_some(hash)
}

fn spelling(names: &[&'static str], name: &str) -> &'static str {
    names.iter().copied().find(|known| *known == name).unwrap_or(names[0])
}

fn is_extended_type(credential_type: &str) -> bool {
    credential_type.eq_ignore_ascii_case("AText")
}

fn owned(text: Option<Cow<'_, str>>) -> Option<String> {
    text.map(Cow::into_owned)
}

fn required(text: Option<Cow<'_, str>>, name: &'static str) -> Result<String, EntryProblem> {
    text.map(Cow::into_owned).ok_or(EntryProblem::Field(name))
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;
        impl<'de> Visitor<'de> for Entry {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Fields::default();
                // A key that stands twice: the last one wins, as with every peer.
                while let Some(name) = map.next_key::<&RawValue>()? {
                    fields.set(&name_of(name.get()), map.next_value()?);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Entry)
    }
}

/// The name that a member's raw name stands for. One that is no text (half of a surrogate pair, which Python can
/// write) stands for itself, quotes and all: it must not cost the document.
pub(super) fn name_of(raw: &str) -> Cow<'_, str> {
    serde_json::from_str(raw).map_or(Cow::Borrowed(raw), |Text(name)| name)
}

/// A text that borrows from the document where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(Borrow).map(Self)
    }
}

/// The value of a field, as far as any field of the schema can be one.
enum Value<'a> {
    Null,
    Text(Cow<'a, str>),
    Number(Option<i64>),
    /// The members of an object that are texts.
    Object(BTreeMap<String, String>),
    Other,
}

impl<'a> Value<'a> {
    /// What cannot be read (a number out of range, half of a surrogate pair) costs its field, not the entry.
    fn of(raw: &'a RawValue) -> Self {
        serde_json::from_str(raw.get()).unwrap_or(Self::Other)
    }

    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// A field whose mere presence changes what the token may be used for: one of the wrong type is still there.
    fn marker(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Null => None,
            Self::Text(text) => Some(text).filter(|text| !text.is_empty()),
            _ => Some(Cow::Borrowed("?")),
        }
    }

    fn seconds(self) -> Option<i64> {
        match self {
            Self::Number(seconds) => seconds,
            Self::Text(text) => parse_seconds(&text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Value::Other)
            }

            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Value::Number(Some(number)))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Value::Number(i64::try_from(number).ok()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Value::Number(super::lenient::float_seconds(number)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    // .NET stores each component as a pair of value and flag, the others as a text.
                    let value = match map.next_value::<Box<RawValue>>()? {
                        raw if raw.get().starts_with('"') => {
                            serde_json::from_str(raw.get()).unwrap_or_default()
                        }
                        raw => raw.get().to_owned(),
                    };
                    members.insert(name, value);
                }
                Ok(Value::Object(members))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The shape that an entry is written in: a new one's, or that of the entry it replaces.
pub(super) struct Shape<'a> {
    pub(super) credential_type: Option<Cow<'a, str>>,
    pub(super) no_home_account: NoHomeAccount,
    pub(super) environment: Cow<'a, str>,
    pub(super) target: Option<Cow<'a, str>>,
    pub(super) names: Names,
    /// Of a refresh token of a family: the application that first got it.
    pub(super) client_id: Option<Cow<'a, str>>,
    /// Fields of the replaced entry that this library does not know.
    pub(super) unknown: Vec<(&'a RawValue, &'a RawValue)>,
}

/// The fields of `raw` that this library does not know, each in its first place with its last value.
pub(super) fn unknown_fields(raw: &str) -> Vec<(&RawValue, &RawValue)> {
    struct Unknown;
    impl<'de> Visitor<'de> for Unknown {
        type Value = Vec<(&'de RawValue, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an entry")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields: Self::Value = Vec::new();
            let mut places: HashMap<Cow<'de, str>, usize> = HashMap::new();
            while let Some((raw, value)) = map.next_entry::<&RawValue, &RawValue>()? {
                let name = name_of(raw.get());
                if KNOWN.contains(&&*name) {
                    continue;
                }
                match places.get(&name) {
                    Some(at) => fields[*at] = (raw, value),
                    None => {
                        places.insert(name, fields.len());
                        fields.push((raw, value));
                    }
                }
            }
            Ok(fields)
        }
    }
    // The entry was read before, so it is an object.
    serde_json::Deserializer::from_str(raw).deserialize_map(Unknown).unwrap_or_default()
}

/// The fields that a new token brings anew or makes void; all others belong to whoever wrote them.
const KNOWN: &[&str] = &[
    "credential_type",
    "secret",
    "home_account_id",
    "environment",
    "client_id",
    "target",
    "realm",
    "token_type",
    "cached_at",
    "expires_on",
    "extended_expires_on",
    "ext_expires_on",
    "refresh_on",
    "key_id",
    "keyid",
    "kid",
    "keyId",
    "user_assertion_hash",
    "userAssertionHash",
    "ext_cache_key",
    "family_id",
    "last_modification_time",
    "local_account_id",
    "username",
    "authority_type",
    "account_source",
];

/// The fields whose values are read; all others are passed over.
pub(super) const MEANINGFUL: &[&str] = &[
    "credential_type",
    "secret",
    "home_account_id",
    "environment",
    "client_id",
    "realm",
    "target",
    "token_type",
    "tokenType",
    "key_id",
    "keyid",
    "kid",
    "keyId",
    "user_assertion_hash",
    "userAssertionHash",
    "ext_cache_key",
    "ext_cache_key_hash",
    "additionalCacheKeyComponents",
    "ext",
    "family_id",
    "cached_at",
    "expires_on",
    "extended_expires_on",
    "ext_expires_on",
    "refresh_on",
    "last_modification_time",
    "local_account_id",
    "username",
    "authority_type",
    "account_source",
];

/// `credential` as JSON, in this shape. Fields stand in the order of MSAL Python, unknown ones after them.
pub(super) fn write(credential: &Credential, shape: &Shape<'_>) -> SecretBytes {
    let mut known = SecretBytes::with_capacity(4096);
    let mut serializer = serde_json::Serializer::with_formatter(&mut known, AsciiFormatter);
    let written = Writing { credential, shape }.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "strings always serialise");
    if shape.unknown.is_empty() {
        return known;
    }
    let more: usize =
        shape.unknown.iter().map(|(name, value)| name.get().len() + value.get().len() + 2).sum();
    let mut out = SecretBytes::with_capacity(known.len() + more);
    // Every entry has fields that are known, so a comma follows them.
    out.extend(known.expose().strip_suffix(b"}").unwrap_or_default());
    for (name, value) in &shape.unknown {
        for part in [",", name.get(), ":", value.get()] {
            out.extend(part.as_bytes());
        }
    }
    out.extend(b"}");
    out
}

struct Writing<'a> {
    credential: &'a Credential,
    shape: &'a Shape<'a>,
}

impl Serialize for Writing<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shape = self.shape;
        let mut map = serializer.serialize_map(None)?;
        match self.credential {
            Credential::AccessToken(token) => {
                map.serialize_entry(
                    "credential_type",
                    shape.credential_type.as_deref().unwrap_or("AccessToken"),
                )?;
                map.serialize_entry("secret", token.secret.expose())?;
                match (&token.home_account_id, shape.no_home_account) {
                    (Some(id), _) => map.serialize_entry("home_account_id", id)?,
                    (None, NoHomeAccount::Null) => map.serialize_entry("home_account_id", &())?,
                    (None, NoHomeAccount::Empty) => map.serialize_entry("home_account_id", "")?,
                    (None, NoHomeAccount::Absent) => {}
                }
                map.serialize_entry("environment", &shape.environment)?;
                map.serialize_entry("client_id", &token.client_id)?;
                map.serialize_entry("target", shape.target.as_deref().unwrap_or(&token.target.to_string()))?;
                map.serialize_entry("realm", &token.realm)?;
                map.serialize_entry("token_type", &token.token_type)?;
                map.serialize_entry("cached_at", &token.cached_at.to_string())?;
                map.serialize_entry("expires_on", &token.expires_on.to_string())?;
                map.serialize_entry("extended_expires_on", &token.extended_expires_on.to_string())?;
                if let TokenScheme::Bound { key_id: Some(key_id), .. } = &token.scheme {
                    map.serialize_entry(shape.names.key_id, key_id)?;
                }
                if let Some(hash) = &token.user_assertion_hash {
                    map.serialize_entry(shape.names.user_assertion_hash, hash)?;
                }
                // A mark without a hash is written by the key and by the fields that are kept.
                if let Some(key) = token.extended.as_ref().filter(|key| !key.as_str().is_empty()) {
                    map.serialize_entry("ext_cache_key", key.as_str())?;
                }
                if let Some(refresh_on) = token.refresh_on {
                    map.serialize_entry("refresh_on", &refresh_on.to_string())?;
                }
            }
            Credential::RefreshToken(token) => {
                map.serialize_entry("credential_type", "RefreshToken")?;
                map.serialize_entry("secret", token.secret.expose())?;
                map.serialize_entry("home_account_id", &token.home_account_id)?;
                map.serialize_entry("environment", &shape.environment)?;
                map.serialize_entry("client_id", shape.client_id.as_deref().unwrap_or(&token.client_id))?;
                map.serialize_entry("target", shape.target.as_deref().unwrap_or(&token.target.to_string()))?;
                // Python compares it with numbers: it must be there.
                let modified = token.last_modification_time.unwrap_or_default();
                map.serialize_entry("last_modification_time", &modified.to_string())?;
                if let Some(family) = &token.family_id {
                    map.serialize_entry("family_id", family)?;
                }
                if let Some(hash) = &token.user_assertion_hash {
                    map.serialize_entry(shape.names.user_assertion_hash, hash)?;
                }
            }
            Credential::IdToken(token) => {
                map.serialize_entry("credential_type", "IdToken")?;
                map.serialize_entry("secret", token.secret.expose())?;
                map.serialize_entry("home_account_id", &token.home_account_id)?;
                map.serialize_entry("environment", &shape.environment)?;
                map.serialize_entry("realm", &token.realm)?;
                map.serialize_entry("client_id", &token.client_id)?;
                if let Some(hash) = &token.user_assertion_hash {
                    map.serialize_entry(shape.names.user_assertion_hash, hash)?;
                }
            }
            Credential::Account(account) => {
                map.serialize_entry("home_account_id", &account.home_account_id)?;
                map.serialize_entry("environment", &shape.environment)?;
                map.serialize_entry("realm", &account.realm)?;
                map.serialize_entry("local_account_id", &account.local_account_id)?;
                map.serialize_entry("username", &account.username)?;
                map.serialize_entry("authority_type", &account.authority_type)?;
                if let Some(source) = &account.account_source {
                    map.serialize_entry("account_source", source)?;
                }
            }
            Credential::AppMetadata(app) => {
                map.serialize_entry("client_id", &app.client_id)?;
                map.serialize_entry("environment", &shape.environment)?;
                if let Some(family) = &app.family_id {
                    map.serialize_entry("family_id", family)?;
                }
            }
        }
        map.end()
    }
}

/// `text` as a JSON string.
pub(super) fn write_text(text: &str, out: &mut SecretBytes) {
    let written = text.serialize(&mut serde_json::Serializer::with_formatter(out, AsciiFormatter));
    debug_assert!(written.is_ok(), "a string always serialises");
}

/// Escapes what is not ASCII, as Python does: its file persistence reads in the locale's encoding.
struct AsciiFormatter;

impl serde_json::ser::Formatter for AsciiFormatter {
    fn write_string_fragment<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> std::io::Result<()> {
        let mut plain = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| !c.is_ascii()) {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            plain = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_of_keys_tell_schemes_from_hashes() {
        for plain in ["", "-", "--", "-pop", "-ssh-cert", "-bearer-", "-pop-"] {
            assert_eq!(hash_in_tail(plain, None), None, "{plain}");
        }
        for (tail, hash) in [("--abc", "abc"), ("-abc", "abc"), ("-pop-abc", "abc"), ("-popx", "popx")] {
            assert_eq!(hash_in_tail(tail, None), Some(hash), "{tail}");
        }
        assert_eq!(hash_in_tail("-dpop", Some("DPoP")), None);
        assert_eq!(hash_in_tail("-dpop-abc", Some("DPoP")), Some("abc"));
    }

    #[test]
    fn non_ascii_text_is_escaped() {
        let mut out = SecretBytes::default();
        write_text("ü\u{1f600}\"\n", &mut out);
        assert_eq!(out.expose(), br#""\u00fc\ud83d\ude00\"\n""#);
    }
}
