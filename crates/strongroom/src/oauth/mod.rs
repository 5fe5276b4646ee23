//! OAuth 2.0 messages: builds token requests, reads responses and errors, decides what may be retried.
//!
//! It does no I/O of its own but through [`Transport`], and knows neither caches nor where an authority's
//! endpoints come from.

mod credential;
mod error;
mod http;
mod request;
mod response;
mod retry;
mod transport;

pub use self::credential::ClientCredential;
pub use self::error::{ServiceError, ServiceErrorClass};
pub use self::http::HttpTransport;
pub(crate) use self::http::spawn;
pub(crate) use self::request::{Application, RefreshReason, TokenRequest};
pub(crate) use self::response::TokenResponse;
pub(crate) use self::retry::Exchange;
pub use self::transport::{HttpMethod, HttpRequest, HttpResponse, Transport, TransportError};
