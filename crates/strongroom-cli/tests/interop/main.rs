//! One cache file, ours on one side and the real MSAL of another language on the other: `msal` and `msal-extensions` from
//! PyPI, `@azure/msal-node` and `@azure/msal-node-extensions` from npm.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

mod contention;
mod front;
mod matrix;
mod other_tools;
mod peers;
mod sealed;
mod sharing;
mod sign_out;
mod support;
