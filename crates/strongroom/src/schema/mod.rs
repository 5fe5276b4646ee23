//! The unified cache schema: credential types, their identity, and the JSON document that every MSAL shares.
//!
//! Pure: it does no I/O, reads no clock and knows no lock. Bytes and a time come in, bytes go out.

mod apply;
mod change;
mod credential;
mod dialect;
mod document;
mod entry;
mod environment;
mod extended;
mod fingerprint;
mod index;
mod key;
#[cfg_attr(not(feature = "client"), allow(dead_code))]
pub(crate) mod lenient;
#[cfg(test)]
#[cfg(not(any(shuttle, windows)))]
mod model;
mod peers;
mod raw;
mod scan;
mod sieve;
mod skim;
mod splice;
mod target;

pub(crate) use self::change::Ask;
pub use self::change::{Change, Expectation, Put};
pub use self::credential::{
    AccessToken, Account, AppMetadata, Credential, CredentialType, IdToken, RefreshToken,
};
pub use self::dialect::{Dialect, DialectError};
pub use self::document::{Applied, Document, DocumentError, Entry};
pub use self::entry::EntryProblem;
pub use self::environment::Environments;
pub(crate) use self::environment::canonical;
#[cfg(feature = "client")]
pub(crate) use self::environment::cloud_of;
pub use self::extended::ExtendedKey;
pub(crate) use self::fingerprint::Wanted;
pub use self::key::{CredentialKey, Partition, RecordRevision, TokenScheme};
pub use self::peers::{Concern, Harm};
pub use self::raw::RawEntry;
pub(crate) use self::sieve::Sieve;
pub use self::target::Scopes;
