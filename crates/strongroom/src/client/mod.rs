//! The clients: the flows of MSAL, one public method each.
//!
//! This layer puts authority, OAuth messages and cache together. It owns no format and no storage.

mod client_credentials;
mod confidential;
mod fetch;
mod prepared;
mod refusal;
mod renewal;
mod result;
mod silent;

pub use self::client_credentials::{AcquireTokenForClient, AcquireTokenFuture};
pub use self::confidential::{ConfidentialClientApplication, ConfidentialClientApplicationBuilder};
pub use self::renewal::Renewal;
pub use self::result::{AuthenticationResult, TokenSource};
pub use self::silent::AcquireTokenSilent;
