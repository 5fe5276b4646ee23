//! The command as its users meet it, a file per subject.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

mod bad_files;
mod configuration;
mod demo_and_sts;
mod dialect;
mod doctor;
mod hit;
mod inspect;
mod key;
mod migrate;
mod purge;
mod renewal;
mod sealed;
mod secret_service;
mod secrets;
mod support;
mod terminal;
mod token;
