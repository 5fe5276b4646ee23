//! The integration tests: one binary, a file per behaviour.

// Tests write files and read clocks as any program does.
#![allow(clippy::disallowed_methods)]

mod authorities;
mod bad_answers;
mod client_credentials;
mod client_support;
mod damaged_documents;
mod layers;
mod refusals;
mod secrets;
mod single_flight;
mod state_file;
mod stores;
mod token_cache;
mod token_confusion;
mod unsaved_tokens;
