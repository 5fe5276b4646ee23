//! One cache file, the command on one side and the real `msal` and `msal-extensions` from PyPI on the other.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

mod contention;
mod sharing;
mod support;
