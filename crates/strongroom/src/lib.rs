//! A persisted, encrypted, scalable token cache for applications that speak MSAL's protocol.

mod error;
#[cfg(feature = "client")]
mod oauth;
mod persistence;
mod schema;
mod secret;
mod time;
mod wait;

pub use self::error::{Error, ErrorKind};
#[cfg(feature = "client")]
pub use self::oauth::{ServiceError, ServiceErrorClass};
pub use self::persistence::{
    BoxFuture, Fence, FilePersistence, FilePersistenceBuilder, Holder, Loaded, Location, MemoryPersistence,
    Persistence, PersistenceError, Protection, Revision, Saved, Step,
};
pub use self::secret::{SecretBytes, SecretString};
pub use self::time::{Clock, SystemClock, UnixSeconds};
pub use self::wait::block_on;
