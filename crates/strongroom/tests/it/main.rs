//! The behaviour of the library, a file per subject.
//!
//! On Windows the identity provider is not built; what is special there is in `windows`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

#[cfg(unix)]
mod atomic;
#[cfg(unix)]
mod authorities;
#[cfg(unix)]
mod bad_answers;
#[cfg(unix)]
mod client_credentials;
#[cfg(unix)]
mod client_support;
#[cfg(unix)]
mod clock;
mod conformance;
#[cfg(unix)]
mod crash;
#[cfg(unix)]
mod damaged_documents;
#[cfg(target_os = "linux")]
mod flight_host;
#[cfg(target_os = "linux")]
mod fork;
#[cfg(unix)]
mod herd;
#[cfg(target_os = "linux")]
mod keyring_support;
#[cfg(unix)]
mod large_documents;
mod layers;
#[cfg(target_os = "linux")]
mod other_tools;
#[cfg(unix)]
mod persistence_file;
mod persistence_support;
mod raw_entries;
#[cfg(unix)]
mod refusals;
#[cfg(unix)]
mod remembered_refusals;
#[cfg(unix)]
mod renewal;
mod schema_bounds;
mod schema_confusion;
mod schema_fixtures;
#[cfg(unix)]
mod schema_fuzz;
mod schema_identity;
#[cfg(unix)]
mod schema_properties;
#[cfg(unix)]
mod schema_removal;
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
#[cfg(target_os = "linux")]
mod seal_secret_service;
#[cfg(unix)]
mod seal_sources;
#[cfg(unix)]
mod seal_support;
#[cfg(unix)]
mod sealed;
#[cfg(target_os = "linux")]
mod secret_service;
#[cfg(unix)]
mod secrets;
#[cfg(unix)]
mod secrets_in_debug;
#[cfg(unix)]
mod select;
#[cfg(unix)]
mod settle;
#[cfg(unix)]
mod single_flight;
mod source_support;
#[cfg(unix)]
mod state_file;
mod store_conflicts;
mod stores;
mod support;
#[cfg(unix)]
mod token_cache;
#[cfg(unix)]
mod token_confusion;
#[cfg(unix)]
mod unsaved_tokens;
#[cfg(unix)]
mod whole_answers;
#[cfg(windows)]
mod windows;
#[cfg(unix)]
mod wreckage;
