//! The provider as its clients see it: over real TLS, trusting nothing but its CA.

// clippy.toml's allowance covers the test functions, not what they call.
#![allow(clippy::unwrap_used)]

mod assertions;
mod clients_file;
mod connections;
mod control;
mod discovery;
mod faults;
mod refusals;
mod sample_api;
mod state;
mod support;
mod tls;
mod token;
