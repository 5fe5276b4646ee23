//! One file for each command.

pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod inspect;
pub(crate) mod sts;
pub(crate) mod token;
