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
mod remembered_refusals;
mod renewal;
mod schema_bounds;
mod schema_confusion;
mod schema_fixtures;
mod schema_identity;
mod schema_properties;
mod schema_support;
mod schema_tolerance;
mod schema_write;
#[cfg(unix)]
mod seal_host_key;
#[cfg(unix)]
mod seal_memory;
#[cfg(unix)]
mod seal_migrate;
#[cfg(unix)]
mod seal_rotation;
#[cfg(unix)]
mod seal_sources;
#[cfg(unix)]
mod seal_support;
#[cfg(unix)]
mod sealed;
mod secrets;
#[cfg(unix)]
mod select;
mod single_flight;
mod state_file;
mod stores;
#[cfg(unix)]
mod support;
mod token_cache;
mod token_confusion;
mod unsaved_tokens;
