//! The five credential types of the schema.

use std::fmt;

use super::extended::ExtendedKey;
use super::key::TokenScheme;
use super::target::Scopes;
use crate::{SecretString, UnixSeconds};

/// How long after its expiry a token may be kept for outages, in seconds.
const LONGEST_EXTENSION: i64 = 86_400;

/// The sections of a cache document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CredentialType {
    /// Access tokens.
    AccessToken,
    /// Refresh tokens.
    RefreshToken,
    /// ID tokens.
    IdToken,
    /// Accounts of users.
    Account,
    /// What is known of an application.
    AppMetadata,
}

impl CredentialType {
    /// All five, in the order in which they are listed.
    pub const ALL: [Self; 5] =
        [Self::AccessToken, Self::RefreshToken, Self::IdToken, Self::Account, Self::AppMetadata];

    /// The name of the section, which is also the `credential_type` of its entries.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "AccessToken",
            Self::RefreshToken => "RefreshToken",
            Self::IdToken => "IdToken",
            Self::Account => "Account",
            Self::AppMetadata => "AppMetadata",
        }
    }

    pub(crate) fn from_section(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for CredentialType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One entry of a cache document.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// An access token.
    AccessToken(AccessToken),
    /// A refresh token.
    RefreshToken(RefreshToken),
    /// An ID token.
    IdToken(IdToken),
    /// A user's account.
    Account(Account),
    /// What is known of an application.
    AppMetadata(AppMetadata),
}

impl Credential {
    /// Which section it belongs to.
    #[must_use]
    pub const fn credential_type(&self) -> CredentialType {
        match self {
            Self::AccessToken(_) => CredentialType::AccessToken,
            Self::RefreshToken(_) => CredentialType::RefreshToken,
            Self::IdToken(_) => CredentialType::IdToken,
            Self::Account(_) => CredentialType::Account,
            Self::AppMetadata(_) => CredentialType::AppMetadata,
        }
    }

    /// Whose it is: `uid.utid` of the user.
    pub(crate) fn home_account_id(&self) -> Option<&str> {
        match self {
            Self::AccessToken(token) => token.home_account_id.as_deref(),
            Self::RefreshToken(token) => token.home_account_id.as_deref(),
            Self::IdToken(token) => token.home_account_id.as_deref(),
            Self::Account(account) => Some(&account.home_account_id),
            Self::AppMetadata(_) => None,
        }
    }

    /// The application that it was issued to; accounts are no application's.
    pub(crate) fn client_id(&self) -> Option<&str> {
        match self {
            Self::AccessToken(token) => Some(&token.client_id),
            Self::RefreshToken(token) => Some(&token.client_id),
            Self::IdToken(token) => Some(&token.client_id),
            Self::Account(_) => None,
            Self::AppMetadata(app) => Some(&app.client_id),
        }
    }

    /// The authority's host.
    pub(super) fn environment(&self) -> &str {
        match self {
            Self::AccessToken(token) => &token.environment,
            Self::RefreshToken(token) => &token.environment,
            Self::IdToken(token) => &token.environment,
            Self::Account(account) => &account.environment,
            Self::AppMetadata(app) => &app.environment,
        }
    }

    /// The user that this token belongs to, in lower case; accounts are no tokens.
    pub(crate) fn owner_of_token(&self) -> Option<String> {
        match self {
            Self::Account(_) | Self::AppMetadata(_) => None,
            token => token.home_account_id().map(str::to_lowercase),
        }
    }

    /// The same with no time of writing later than `now`: MSAL Go refuses an entry from the future, and Python
    /// wants every refresh token to have a time.
    pub(crate) fn not_ahead_of(&self, now: UnixSeconds) -> Self {
        let mut credential = self.clone();
        match &mut credential {
            Self::AccessToken(token) => token.cached_at = token.cached_at.min(now),
            Self::RefreshToken(token) => {
                let modified = token.last_modification_time.unwrap_or(now);
                token.last_modification_time = Some(modified.min(now));
            }
            Self::IdToken(_) | Self::Account(_) | Self::AppMetadata(_) => {}
        }
        credential
    }

    /// The access token, if it is one.
    #[must_use]
    pub fn into_access_token(self) -> Option<AccessToken> {
        match self {
            Self::AccessToken(token) => Some(token),
            _ => None,
        }
    }
}

/// An access token with what it is for and how long it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// `uid.utid` of the user; `None` for an application's own token.
    pub home_account_id: Option<String>,
    /// The authority's host, without port.
    pub environment: String,
    /// The application.
    pub client_id: String,
    /// The tenant.
    pub realm: String,
    /// The scopes that were granted.
    pub target: Scopes,
    /// The token itself.
    pub secret: SecretString,
    /// As the server wrote it, usually `Bearer`.
    pub token_type: String,
    /// How the token is presented: bearer, or bound to a key.
    pub scheme: TokenScheme,
    /// When it was stored.
    pub cached_at: UnixSeconds,
    /// When it ends.
    pub expires_on: UnixSeconds,
    /// Until when it may be used in an outage.
    pub extended_expires_on: UnixSeconds,
    /// From when on it should be renewed.
    pub refresh_on: Option<UnixSeconds>,
    /// Hash of the assertion that a token on behalf of a user was got with: unpadded base64url of SHA-256.
    pub user_assertion_hash: Option<String>,
    /// What sets it apart from a plain token.
    pub extended: Option<ExtendedKey>,
}

impl AccessToken {
    /// When the token is of no use any more, not even in an outage: at the end of its extension, of which a day
    /// counts (MSAL Node writes it too late).
    #[must_use]
    pub fn ends(&self) -> UnixSeconds {
        Self::ends_of(self.expires_on, self.extended_expires_on)
    }

    pub(super) fn ends_of(expires_on: UnixSeconds, extended_expires_on: UnixSeconds) -> UnixSeconds {
        extended_expires_on.min(expires_on.plus(LONGEST_EXTENSION)).max(expires_on)
    }

    /// Whether this token serves whoever would be served by `other`: it is of the same kind, has its scopes or
    /// more, and does not expire earlier. That both are of one partition is not looked at.
    pub(crate) fn answers_for(&self, other: &Self) -> bool {
        self.scheme == other.scheme
            && self.extended == other.extended
            && other.target.is_subset_of(&self.target)
            && self.expires_on >= other.expires_on
    }

    /// Whether this is an application's own token: it has no user.
    #[must_use]
    pub fn is_app_token(&self) -> bool {
        self.home_account_id.is_none() && self.user_assertion_hash.is_none()
    }

    pub(crate) fn is_of_user(&self, home_account_id: &str) -> bool {
        self.home_account_id.as_ref().is_some_and(|own| own.to_lowercase() == home_account_id.to_lowercase())
    }
}

/// A refresh token. It is good for any tenant and resource that its user may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// `uid.utid` of the user.
    pub home_account_id: Option<String>,
    /// The authority's host, without port.
    pub environment: String,
    /// The application.
    pub client_id: String,
    /// The family of applications that share it: `1`.
    pub family_id: Option<String>,
    /// The scopes of the token response (Python stores them).
    pub target: Scopes,
    /// The token itself.
    pub secret: SecretString,
    /// When it was stored or rotated (Python stores it).
    pub last_modification_time: Option<UnixSeconds>,
    /// See [`AccessToken::user_assertion_hash`].
    pub user_assertion_hash: Option<String>,
}

/// An ID token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdToken {
    /// `uid.utid` of the user.
    pub home_account_id: Option<String>,
    /// The authority's host, without port.
    pub environment: String,
    /// The application.
    pub client_id: String,
    /// The tenant.
    pub realm: String,
    /// The token itself, a JWT.
    pub secret: SecretString,
    /// See [`AccessToken::user_assertion_hash`].
    pub user_assertion_hash: Option<String>,
}

/// A user's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// `uid.utid` of the user.
    pub home_account_id: String,
    /// The authority's host, without port.
    pub environment: String,
    /// The tenant.
    pub realm: String,
    /// The user's object id in that tenant.
    pub local_account_id: String,
    /// The name that the user signs in with.
    pub username: String,
    /// `MSSTS` or `ADFS`.
    pub authority_type: String,
    /// The grant that brought the account, where Python wrote it.
    pub account_source: Option<String>,
}

/// What is known of an application in an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppMetadata {
    /// The application.
    pub client_id: String,
    /// The authority's host, without port.
    pub environment: String,
    /// The family of applications that share refresh tokens: `1`.
    pub family_id: Option<String>,
}
