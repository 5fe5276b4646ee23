//! How an application proves who it is.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::OnceLock;

use url::form_urlencoded;
use zeroize::Zeroizing;

use super::request::Form;
use crate::SecretString;

/// What an application authenticates with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ClientCredential {
    /// A client secret, sent in the body of the request (RFC 6749 §2.3.1).
    Secret(SecretString),
}

impl ClientCredential {
    /// A client secret: its value, not its id.
    pub fn from_secret(secret: impl Into<SecretString>) -> Self {
        Self::Secret(secret.into())
    }

    /// What the credential rests on.
    pub(crate) fn secret(&self) -> &SecretString {
        match self {
            Self::Secret(secret) => secret,
        }
    }

    pub(super) fn fill(&self, form: &mut Form) {
        match self {
            Self::Secret(secret) => form.add("client_secret", secret.expose()),
        }
    }

    /// Tells one credential from another within this process, and nothing else about it.
    pub(crate) fn fingerprint(&self) -> u64 {
        // Not from the cryptographic provider: starting its generator takes longer than all the rest of a hit.
        static SEED: OnceLock<RandomState> = OnceLock::new();
        match self {
            Self::Secret(secret) => SEED.get_or_init(RandomState::new).hash_one(secret.expose()),
        }
    }

    /// `text`, as an error is to show it: a provider, or a gateway before it, may have echoed what was sent.
    pub(super) fn redact(&self, text: String) -> String {
        let Self::Secret(secret) = self;
        // Shorter ones would only make holes into every message.
        if secret.len() < 4 {
            return text;
        }
        let encoded =
            Zeroizing::new(form_urlencoded::byte_serialize(secret.expose().as_bytes()).collect::<String>());
        let spaced = Zeroizing::new(encoded.replace('+', "%20"));
        let (lower, spaced_lower) = (lower_hex(&encoded), lower_hex(&spaced));
        let mut text = text;
        for form in [secret.expose(), &encoded, &spaced, &lower, &spaced_lower] {
            if text.contains(form) {
                text = text.replace(form, "[redacted]");
            }
        }
        text
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Secret(secret) => secret.is_empty(),
        }
    }
}

/// The same with escapes as .NET writes them: `%2b` for `%2B`.
fn lower_hex(encoded: &str) -> Zeroizing<String> {
    let mut rest_of_escape = 0;
    let lower = encoded.chars().map(|c| {
        let escaped = rest_of_escape > 0;
        rest_of_escape = if c == '%' { 2_u8 } else { rest_of_escape.saturating_sub(1) };
        if escaped { c.to_ascii_lowercase() } else { c }
    });
    Zeroizing::new(lower.collect())
}
