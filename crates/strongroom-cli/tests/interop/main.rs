//! One cache file, ours on one side and the real MSAL of another language on the other: Python, Node, Go and Java, each
//! with the extensions that persist its cache.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr, unreachable_pub)]

mod certificates;
mod contention;
mod front;
mod matrix;
mod other_tools;
mod page;
mod peers;
mod sealed;
mod sharing;
mod sign_out;
mod support;
mod twins;
