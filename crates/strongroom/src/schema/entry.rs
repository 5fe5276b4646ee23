//! One entry of a document: its fields as they are read, and as they are written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::credential::{
    AccessToken, Account, AppMetadata, Credential, CredentialType, IdToken, RefreshToken,
};
use super::dialect::NoHomeAccount;
use super::extended::ExtendedKey;
use super::key::TokenScheme;
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

/// The fields of an entry that mean something to this library. `null` and `""` count as absent.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) credential_type: Option<Cow<'a, str>>,
    secret: Option<Cow<'a, str>>,
    home_account_id: Option<Cow<'a, str>>,
    /// How an absent `home_account_id` is spelled.
    pub(super) no_home_account: Option<NoHomeAccount>,
    pub(super) environment: Option<Cow<'a, str>>,
    client_id: Option<Cow<'a, str>>,
    realm: Option<Cow<'a, str>>,
    pub(super) target: Option<Cow<'a, str>>,
    token_type: Option<Cow<'a, str>>,
    key_id: Option<Cow<'a, str>>,
    user_assertion_hash: Option<Cow<'a, str>>,
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
                user_assertion_hash: owned(self.user_assertion_hash),
            }),
            CredentialType::IdToken => Credential::IdToken(IdToken {
                home_account_id: owned(self.home_account_id),
                environment: required(self.environment, "environment")?,
                client_id: required(self.client_id, "client_id")?,
                realm: self.realm.map(Cow::into_owned).unwrap_or_default(),
                secret: required(self.secret, "secret")?.into(),
                user_assertion_hash: owned(self.user_assertion_hash),
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
        let scheme = self.scheme(key);
        let extended = self.extended_key(key);
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
    fn scheme(&self, key: &str) -> TokenScheme {
        let type_bound = self.token_type.as_deref().filter(|word| !word.eq_ignore_ascii_case("Bearer"));
        let credential_bound = self.credential_type.as_deref().is_some_and(|word| !is_plain(word))
            && !self.credential_type.as_deref().is_some_and(is_extended_type);
        let key_bound = contains_ignoring_case(key, "-accesstoken_with_authscheme-");
        if type_bound.is_none() && self.key_id.is_none() && !credential_bound && !key_bound {
            return TokenScheme::Bearer;
        }
        TokenScheme::Bound {
            token_type: type_bound.unwrap_or("pop").to_ascii_lowercase(),
            key_id: owned(self.key_id.clone()),
        }
    }

    /// The extended key, if any language's marker is there: a field, the credential type, or the stored key.
    fn extended_key(&self, key: &str) -> Option<ExtendedKey> {
        if self.extended.is_some() {
            return self.extended.clone();
        }
        let tail = self.key_tail(key);
        let tail_hash = tail.as_deref().and_then(hash_in_tail);
        let marked = self.credential_type.as_deref().is_some_and(is_extended_type)
            || contains_ignoring_case(key, "-atext-");
        match (marked, tail_hash) {
            (_, Some(hash)) => Some(ExtendedKey::stored(hash)),
            (true, None) => Some(ExtendedKey::unknown()),
            (false, None) => None,
        }
    }

    /// What the stored key has after the target, if it is a key as the languages make them.
    fn key_tail(&self, key: &str) -> Option<String> {
        let text = |field: &Option<Cow<'_, str>>| field.as_deref().unwrap_or_default().to_lowercase();
        let key = key.to_lowercase();
        let rest =
            key.strip_prefix(&format!("{}-{}-", text(&self.home_account_id), text(&self.environment)))?;
        let rest = ["accesstoken-", "atext-", "accesstoken_with_authscheme-"]
            .iter()
            .find_map(|kind| rest.strip_prefix(kind))?;
        let rest = rest.strip_prefix(&format!("{}-{}-", text(&self.client_id), text(&self.realm)))?;
        rest.strip_prefix(&text(&self.target)).map(str::to_owned)
    }

    fn set(&mut self, name: &str, value: Value<'a>) {
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
            "key_id" | "keyid" | "kid" => self.key_id = value.marker().or(self.key_id.take()),
            "user_assertion_hash" | "userAssertionHash" => {
                self.user_assertion_hash = value.marker().or(self.user_assertion_hash.take());
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

/// The hash after the scheme segment of a stored key, in the tail that follows the target: `-`, `--`, `-pop` and
/// the like have none, `--HASH` and `-HASH` have.
fn hash_in_tail(tail: &str) -> Option<&str> {
    let tail = tail.trim_matches('-');
    let after_scheme = ["ssh-cert", "mtls_pop", "pop", "bearer"]
        .iter()
        .find_map(|scheme| tail.strip_prefix(scheme).filter(|rest| rest.is_empty() || rest.starts_with('-')))
        .unwrap_or(tail);
    let hash = after_scheme.trim_matches('-');
    (!hash.is_empty()).then_some(hash)
}

fn is_plain(credential_type: &str) -> bool {
    credential_type.eq_ignore_ascii_case("AccessToken")
}

fn is_extended_type(credential_type: &str) -> bool {
    credential_type.eq_ignore_ascii_case("AText")
}

fn contains_ignoring_case(text: &str, lower: &str) -> bool {
    text.to_ascii_lowercase().contains(lower)
}

fn owned(text: Option<Cow<'_, str>>) -> Option<String> {
    text.map(Cow::into_owned)
}

fn required(text: Option<Cow<'_, str>>, name: &'static str) -> Result<String, EntryProblem> {
    text.map(Cow::into_owned).ok_or(EntryProblem::Field(name))
}

/// An assertion hash in one spelling: Go pads it, the others do not.
fn unpadded(hash: &str) -> String {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    [URL_SAFE, STANDARD]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(hash).ok())
        .map_or_else(|| hash.to_owned(), |bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes))
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
                while let Some(name) = map.next_key::<Text<'de>>()? {
                    fields.set(&name.0, map.next_value()?);
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Entry)
    }
}

/// A text that borrows from the document where it has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

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
    pub(super) credential_type: Option<&'a str>,
    pub(super) no_home_account: NoHomeAccount,
    pub(super) environment: &'a str,
    pub(super) target: Option<&'a str>,
    /// Fields of the replaced entry that this library does not know.
    pub(super) unknown: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// The fields of `raw` that this library does not know, in their order, the last of equal names.
pub(super) fn unknown_fields(raw: &str) -> Vec<(Cow<'_, str>, &RawValue)> {
    struct Unknown;
    impl<'de> Visitor<'de> for Unknown {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an entry")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields: Self::Value = Vec::new();
            while let Some(name) = map.next_key::<Text<'de>>()? {
                let value = map.next_value()?;
                if !KNOWN.contains(&&*name.0) {
                    fields.retain(|(earlier, _)| *earlier != name.0);
                    fields.push((name.0, value));
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

/// `credential` as JSON, in this shape. Fields stand in the order of MSAL Python.
pub(super) fn write(credential: &Credential, shape: &Shape<'_>) -> SecretBytes {
    let mut out = SecretBytes::with_capacity(4096);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, AsciiFormatter);
    let written = Writing { credential, shape }.serialize(&mut serializer);
    debug_assert!(written.is_ok(), "strings and raw JSON always serialise");
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
                map.serialize_entry("credential_type", shape.credential_type.unwrap_or("AccessToken"))?;
                map.serialize_entry("secret", token.secret.expose())?;
                match (&token.home_account_id, shape.no_home_account) {
                    (Some(id), _) => map.serialize_entry("home_account_id", id)?,
                    (None, NoHomeAccount::Null) => map.serialize_entry("home_account_id", &())?,
                    (None, NoHomeAccount::Empty) => map.serialize_entry("home_account_id", "")?,
                    (None, NoHomeAccount::Absent) => {}
                }
                map.serialize_entry("environment", shape.environment)?;
                map.serialize_entry("client_id", &token.client_id)?;
                map.serialize_entry("target", shape.target.unwrap_or(&token.target.to_string()))?;
                map.serialize_entry("realm", &token.realm)?;
                map.serialize_entry("token_type", &token.token_type)?;
                map.serialize_entry("cached_at", &token.cached_at.to_string())?;
                map.serialize_entry("expires_on", &token.expires_on.to_string())?;
                map.serialize_entry("extended_expires_on", &token.extended_expires_on.to_string())?;
                if let TokenScheme::Bound { key_id: Some(key_id), .. } = &token.scheme {
                    map.serialize_entry("key_id", key_id)?;
                }
                if let Some(hash) = &token.user_assertion_hash {
                    map.serialize_entry("user_assertion_hash", hash)?;
                }
                if let Some(key) = &token.extended {
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
                map.serialize_entry("environment", shape.environment)?;
                map.serialize_entry("client_id", &token.client_id)?;
                map.serialize_entry("target", shape.target.unwrap_or(&token.target.to_string()))?;
                // Python compares it with numbers: it must be there.
                let modified = token.last_modification_time.unwrap_or_default();
                map.serialize_entry("last_modification_time", &modified.to_string())?;
                if let Some(family) = &token.family_id {
                    map.serialize_entry("family_id", family)?;
                }
                if let Some(hash) = &token.user_assertion_hash {
                    map.serialize_entry("user_assertion_hash", hash)?;
                }
            }
            Credential::IdToken(token) => {
                map.serialize_entry("credential_type", "IdToken")?;
                map.serialize_entry("secret", token.secret.expose())?;
                map.serialize_entry("home_account_id", &token.home_account_id)?;
                map.serialize_entry("environment", shape.environment)?;
                map.serialize_entry("realm", &token.realm)?;
                map.serialize_entry("client_id", &token.client_id)?;
                if let Some(hash) = &token.user_assertion_hash {
                    map.serialize_entry("user_assertion_hash", hash)?;
                }
            }
            Credential::Account(account) => {
                map.serialize_entry("home_account_id", &account.home_account_id)?;
                map.serialize_entry("environment", shape.environment)?;
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
                map.serialize_entry("environment", shape.environment)?;
                if let Some(family) = &app.family_id {
                    map.serialize_entry("family_id", family)?;
                }
            }
        }
        for (name, value) in &shape.unknown {
            map.serialize_entry(name, value)?;
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
    fn assertion_hashes_are_compared_as_bytes() {
        let hash = "fFsdSeaHX9iH_VIhI8SzQWnUzBGmUCzATLfrj3wWaXI";
        assert_eq!(unpadded(hash), hash);
        assert_eq!(unpadded(&format!("{hash}=")), hash);
        assert_eq!(unpadded("fFsdSeaHX9iH/VIhI8SzQWnUzBGmUCzATLfrj3wWaXI="), hash);
        assert_eq!(unpadded("not base64!"), "not base64!");
    }

    #[test]
    fn tails_of_keys_tell_schemes_from_hashes() {
        for plain in ["", "-", "--", "-pop", "-ssh-cert", "-bearer-", "-pop-"] {
            assert_eq!(hash_in_tail(plain), None, "{plain}");
        }
        for (tail, hash) in [("--abc", "abc"), ("-abc", "abc"), ("-pop-abc", "abc"), ("-popx", "popx")] {
            assert_eq!(hash_in_tail(tail), Some(hash), "{tail}");
        }
    }

    #[test]
    fn non_ascii_text_is_escaped() {
        let mut out = SecretBytes::default();
        write_text("ü\u{1f600}\"\n", &mut out);
        assert_eq!(out.expose(), br#""\u00fc\ud83d\ude00\"\n""#);
    }
}
