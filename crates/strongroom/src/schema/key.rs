//! Identity: which credential answers which question.
//!
//! The languages disagree on the keys that entries are stored under, so identity is computed from an entry's
//! fields: absent, `null` and empty are equal, aliases of an environment are equal, case does not matter.

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::credential::{AccessToken, Credential, CredentialType};
use super::environment::canonical;
use super::extended::ExtendedKey;
use super::target::Scopes;

/// How an access token is presented to an API. Tokens of different schemes never answer for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum TokenScheme {
    /// Whoever holds the token may use it.
    #[default]
    Bearer,
    /// Bound to a key: proof of possession, an SSH certificate.
    Bound {
        /// `pop`, `ssh-cert`, `mtls_pop`, in lower case.
        token_type: String,
        /// Names the key.
        key_id: Option<String>,
    },
}

/// The identity of one credential, the key of a [`CredentialStore`](crate::CredentialStore).
///
/// It contains no secret.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialKey(String);

impl CredentialKey {
    /// The identity of `credential`.
    #[must_use]
    pub fn of(credential: &Credential) -> Self {
        match credential {
            Credential::AccessToken(token) => Self::of_access_token(token),
            Credential::RefreshToken(token) => join(
                CredentialType::RefreshToken,
                &[
                    &canonical(&token.environment),
                    &lower(token.family_id.as_deref().unwrap_or(&token.client_id)),
                    &lower(opt(&token.home_account_id)),
                    &assertion(&token.user_assertion_hash),
                ],
            ),
            Credential::IdToken(token) => join(
                CredentialType::IdToken,
                &[
                    &canonical(&token.environment),
                    &lower(&token.client_id),
                    &lower(&token.realm),
                    &lower(opt(&token.home_account_id)),
                    &assertion(&token.user_assertion_hash),
                ],
            ),
            Credential::Account(account) => join(
                CredentialType::Account,
                &[&canonical(&account.environment), &lower(&account.realm), &lower(&account.home_account_id)],
            ),
            Credential::AppMetadata(app) => {
                join(CredentialType::AppMetadata, &[&canonical(&app.environment), &lower(&app.client_id)])
            }
        }
    }

    /// The identity of `token`.
    #[must_use]
    pub fn of_access_token(token: &AccessToken) -> Self {
        Partition::of_access_token(token).access_token(&token.target, &token.scheme, token.extended.as_ref())
    }

    /// The key as text: stable within a version of this library, not a format.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The credential type and the parts of the identity, as they are compared.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        split(&self.0)
    }
}

impl fmt::Debug for CredentialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CredentialKey({})", self.0)
    }
}

/// The credentials that one look-up has to look through: those of one type, client, tenant and user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(String);

impl Partition {
    /// The partition whose text was kept.
    pub(crate) fn from_stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The text itself, to be kept.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The access tokens of an application itself, got with its own credential.
    ///
    /// `environment` is a host; equal hosts of the built-in clouds give equal partitions.
    #[must_use]
    pub fn of_app_tokens(environment: &str, client_id: &str, realm: &str) -> Self {
        Self(
            join(
                CredentialType::AccessToken,
                &[&canonical(environment), &lower(client_id), &lower(realm), "", ""],
            )
            .0,
        )
    }

    /// The partition that `token` lies in.
    #[must_use]
    pub fn of_access_token(token: &AccessToken) -> Self {
        Self(
            join(
                CredentialType::AccessToken,
                &[
                    &canonical(&token.environment),
                    &lower(&token.client_id),
                    &lower(&token.realm),
                    &lower(opt(&token.home_account_id)),
                    &assertion(&token.user_assertion_hash),
                ],
            )
            .0,
        )
    }

    /// The partition that `credential` lies in. All but access tokens lie in a partition by themselves.
    #[must_use]
    pub fn of(credential: &Credential) -> Self {
        match credential {
            Credential::AccessToken(token) => Self::of_access_token(token),
            other => Self(CredentialKey::of(other).0),
        }
    }

    /// The credential type and the parts of the identity, as they are compared.
    pub(super) fn parts(&self) -> impl Iterator<Item = &str> {
        split(&self.0)
    }

    /// The key of the access token of this partition with exactly these scopes.
    #[must_use]
    pub fn access_token(
        &self,
        target: &Scopes,
        scheme: &TokenScheme,
        extended: Option<&ExtendedKey>,
    ) -> CredentialKey {
        let (token_type, key_id) = match scheme {
            TokenScheme::Bearer => (String::new(), ""),
            TokenScheme::Bound { token_type, key_id } => (lower(token_type), opt(key_id)),
        };
        // An extended token without a hash must not have a plain one's key.
        let extended = extended.map_or_else(String::new, |key| format!("x{}", key.as_str()));
        let mut key = self.0.clone();
        for part in [&token_type, key_id, &extended, &target.canonical()] {
            push(&mut key, part);
        }
        CredentialKey(key)
    }
}

/// The revision of one record of a store: it changes whenever the record does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordRevision(u64);

impl RecordRevision {
    /// A revision from a store's own counter or hash.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The counter or hash.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Each part is preceded by its length, so that no content can make two different identities equal.
fn join(kind: CredentialType, parts: &[&str]) -> CredentialKey {
    let mut key = kind.as_str().to_owned();
    for part in parts {
        push(&mut key, part);
    }
    CredentialKey(key)
}

fn push(key: &mut String, part: &str) {
    use fmt::Write;
    // Writing to a String does not fail.
    let _ = write!(key, "|{}:{part}", part.len());
}

/// What was joined.
fn split(key: &str) -> impl Iterator<Item = &str> {
    let (kind, mut rest) = key.split_at(key.find('|').unwrap_or(key.len()));
    std::iter::once(kind).chain(std::iter::from_fn(move || {
        let (length, after) = rest.strip_prefix('|')?.split_once(':')?;
        let (part, after) = after.split_at_checked(length.parse().ok()?)?;
        rest = after;
        Some(part)
    }))
}

fn opt(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

fn lower(text: &str) -> String {
    text.to_lowercase()
}

fn assertion(hash: &Option<String>) -> Cow<'_, str> {
    hash.as_deref().map_or(Cow::Borrowed(""), |hash| Cow::Owned(unpadded(hash)))
}

/// An assertion hash in one spelling: Go pads it, the others do not.
pub(super) fn unpadded(hash: &str) -> String {
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    [URL_SAFE, STANDARD]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(hash).ok())
        .map_or_else(|| hash.to_owned(), |bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_content_makes_two_identities_equal() {
        let a = Partition::of_app_tokens("h", "a|1:b", "c");
        let b = Partition::of_app_tokens("h", "a", "b|1:c");
        assert_ne!(a, b);
        let plain = a.access_token(&"s".into(), &TokenScheme::Bearer, None);
        let extended = a.access_token(&"s".into(), &TokenScheme::Bearer, Some(&ExtendedKey::unknown()));
        assert_ne!(plain, extended);
    }

    #[test]
    fn what_is_joined_can_be_split() {
        let parts = ["a|1:b", "", "ü", "|"];
        let key = join(CredentialType::IdToken, &parts);
        assert_eq!(key.parts().collect::<Vec<_>>(), [&["IdToken"], &parts[..]].concat());
    }

    #[test]
    fn case_and_aliases_do_not_matter() {
        assert_eq!(
            Partition::of_app_tokens("login.windows.net", "Client", "TID"),
            Partition::of_app_tokens("Login.MicrosoftOnline.com", "client", "tid")
        );
    }

    #[test]
    fn assertion_hashes_are_compared_as_bytes() {
        let hash = "fFsdSeaHX9iH_VIhI8SzQWnUzBGmUCzATLfrj3wWaXI";
        assert_eq!(unpadded(hash), hash);
        assert_eq!(unpadded(&format!("{hash}=")), hash);
        assert_eq!(unpadded("fFsdSeaHX9iH/VIhI8SzQWnUzBGmUCzATLfrj3wWaXI="), hash);
        assert_eq!(unpadded("not base64!"), "not base64!");
    }
}
