//! How an application proves who it is.

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

    pub(super) fn fill(&self, form: &mut Form) {
        match self {
            Self::Secret(secret) => form.add("client_secret", secret.expose()),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Secret(secret) => secret.is_empty(),
        }
    }
}
