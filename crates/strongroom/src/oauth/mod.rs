//! OAuth 2.0 messages: builds token requests, reads responses and errors, decides what may be retried.
//!
//! It does no I/O of its own but through [`Transport`], and knows neither caches nor where an authority's
//! endpoints come from.

mod error;

pub use self::error::{ServiceError, ServiceErrorClass};
