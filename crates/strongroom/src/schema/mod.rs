//! The unified cache schema: credential types, their identity, and the JSON document that every MSAL shares.
//!
//! Pure: it does no I/O, reads no clock and knows no lock. Bytes and a time come in, bytes go out.

pub(crate) mod lenient;
