//! OAuth 2.0 messages: builds token requests, reads responses and errors, decides what may be retried.
//!
//! It does no I/O of its own but through [`Transport`], and knows neither caches nor where an authority's
//! endpoints come from.

mod assertion;
mod certificate;
mod credential;
mod error;
mod http;
mod request;
mod response;
mod retry;
mod transport;

pub use self::assertion::AssertionContext;
pub(crate) use self::assertion::{AssertionError, RequestKey};
pub use self::certificate::ClientCertificate;
pub(crate) use self::credential::Authentication;
pub use self::credential::ClientCredential;
#[cfg(feature = "fuzzing")]
pub(crate) use self::credential::Proof;
pub use self::error::{ServiceError, ServiceErrorClass};
pub use self::http::HttpTransport;
pub(crate) use self::http::spawn;
pub(crate) use self::request::{Application, RefreshReason, TokenRequest};
pub(crate) use self::response::TokenResponse;
pub(crate) use self::retry::Exchange;
pub use self::transport::{
    HttpMethod, HttpRequest, HttpResponse, Transport, TransportError, TransportFailure,
};
