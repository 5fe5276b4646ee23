//! The behaviour of the library, a file per subject.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

#[cfg(unix)]
mod atomic;
#[cfg(unix)]
mod persistence_file;
#[cfg(unix)]
mod support;
