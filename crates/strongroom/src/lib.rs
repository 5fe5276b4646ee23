//! A persisted, encrypted, scalable token cache for applications that speak MSAL's protocol.
//!
//! A daemon starts, asks for a token, calls an API and ends; the next run, in this language or another, finds the
//! token. The cache is one file that MSAL Python, Node, Go, Java and .NET share, written atomically and durably,
//! and safe among any number of processes.
//!
//! ```no_run
//! use strongroom::{ClientCredential, ConfidentialClientApplication, FilePersistence, TokenCache};
//!
//! fn main() -> Result<(), strongroom::Error> {
//!     let app = ConfidentialClientApplication::builder(
//!         "6731de76-14a6-49ae-97bc-6eba6914391e",
//!         "https://login.microsoftonline.com/contoso.onmicrosoft.com",
//!         ClientCredential::from_secret("the secret's value"),
//!     )
//!     .token_cache(TokenCache::with_persistence(FilePersistence::new("token_cache.bin")?))
//!     .build()?;
//!     let result = app.acquire_token_for_client(["https://graph.microsoft.com/.default"]).blocking()?;
//!     println!("a token from the {}", result.token_source().as_str());
//!     Ok(())
//! }
//! ```
//!
//! A [`ClientCredential`] is a secret, a certificate ([`ClientCertificate`]) or a client assertion.
//!
//! [`persistence::encrypted`] keeps the cache encrypted, in the best way that the machine has without set-up;
//! [`SealedPersistence`] seals any persistence with the keys of a [`KeySource`].
//!
//! Only the cache, without the client: [`TokenCache`] in front of a [`CredentialStore`], a [`DocumentStore`] over
//! any [`Persistence`], and [`Document`], the schema itself.

#[cfg(feature = "client")]
mod authority;
mod cache;
#[cfg(feature = "client")]
mod client;
#[cfg(feature = "test-support")]
pub mod conformance;
mod env_vars;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
#[cfg(feature = "client")]
mod oauth;
pub mod persistence;
mod platform;
mod schema;
mod seal;
mod secret;
mod store;
mod time;
mod wait;

pub use self::cache::{
    AccessTokenRequest, Lookup, MissReason, Purge, Remembered, Stats, TokenCache, TokenCacheBuilder,
};
#[cfg(feature = "client")]
pub use self::client::{
    AcquireTokenForClient, AcquireTokenFuture, AcquireTokenSilent, AuthenticationResult,
    ConfidentialClientApplication, ConfidentialClientApplicationBuilder, Renewal, TokenSource,
};
pub use self::error::{Error, ErrorKind};
#[cfg(feature = "client")]
pub use self::oauth::{
    AssertionContext, ClientCertificate, ClientCredential, HttpMethod, HttpRequest, HttpResponse,
    HttpTransport, ServiceError, ServiceErrorClass, Transport, TransportError, TransportFailure,
};
#[cfg(windows)]
pub use self::persistence::FilePersistenceWithDataProtection;
pub use self::persistence::{
    CrossPlatLock, Fence, FilePersistence, FilePersistenceBuilder, Holder, Loaded, Location,
    MemoryPersistence, Persistence, PersistenceError, Protection, Revision, Saved, SealedPersistence, Step,
};
#[cfg(target_os = "macos")]
pub use self::persistence::{KeychainPersistence, KeychainPersistenceBuilder};
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
pub use self::persistence::{SecretServicePersistence, SecretServicePersistenceBuilder};
#[cfg(all(unix, feature = "test-support"))]
#[doc(hidden)]
pub use self::platform::fork_for_tests;
pub use self::schema::{
    AccessToken, Account, AppMetadata, Applied, Change, Concern, Credential, CredentialKey, CredentialType,
    Dialect, DialectError, Document, DocumentError, Entry, EntryProblem, Environments, Expectation,
    ExtendedKey, Harm, IdToken, Partition, Put, RawEntry, RecordRevision, RefreshToken, Scopes, TokenScheme,
};
pub use self::seal::{KeyId, KeyRing, KeySelector, KeySource, KeySourceKind, SealError, SealedWith};
pub use self::secret::{SecretBytes, SecretString};
pub use self::store::{
    CredentialStore, DocumentStore, DocumentStoreBuilder, Lead, LeadGuard, MemoryStore, Outcome, Record,
    StoreInfo,
};
pub use self::time::{Clock, SystemClock, UnixSeconds};
pub use self::wait::{BoxFuture, block_on};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
