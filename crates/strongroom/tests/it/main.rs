//! The behaviour of the library, a file per subject.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

#[cfg(unix)]
mod atomic;
mod authorities;
mod bad_answers;
mod client_credentials;
mod client_support;
mod damaged_documents;
mod layers;
#[cfg(unix)]
mod persistence_file;
mod refusals;
mod schema_bounds;
mod schema_confusion;
mod schema_fixtures;
mod schema_fuzz;
mod schema_identity;
mod schema_properties;
mod schema_removal;
mod schema_support;
mod schema_tolerance;
mod schema_write;
mod secrets;
mod single_flight;
mod state_file;
mod stores;
#[cfg(unix)]
mod support;
mod token_cache;
mod token_confusion;
mod unsaved_tokens;
