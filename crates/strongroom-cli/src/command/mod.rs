//! One file for each command.

pub(crate) mod completions;
pub(crate) mod demo;
mod import;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod migrate;
pub(crate) mod sts;
pub(crate) mod token;
