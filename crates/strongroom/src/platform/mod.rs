//! What only the operating system's own interface can do: the one place with unsafe code.
//!
//! This module owns safe wrappers with types of the standard library. It must not know what they are used for.
#![allow(unsafe_code)]

pub(crate) mod fork;
pub(crate) mod locked_memory;
pub(crate) mod memory;
pub(crate) mod range_lock;
#[cfg(windows)]
pub(crate) mod windows;

#[cfg(all(unix, feature = "test-support"))]
pub use self::fork::fork_for_tests;
