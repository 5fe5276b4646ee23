//! The behaviour of the library, a file per subject.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

#[cfg(unix)]
mod atomic;
#[cfg(unix)]
mod persistence_file;
mod schema_bounds;
mod schema_confusion;
mod schema_fixtures;
mod schema_identity;
mod schema_properties;
mod schema_support;
mod schema_tolerance;
mod schema_write;
#[cfg(unix)]
mod support;
