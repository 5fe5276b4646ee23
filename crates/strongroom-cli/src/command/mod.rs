//! One file for each command.

pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod doctor;
mod import;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod migrate;
pub(crate) mod purge;
pub(crate) mod sts;
pub(crate) mod token;
