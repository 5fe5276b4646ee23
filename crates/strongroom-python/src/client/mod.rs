//! The client: `strongroom.ConfidentialClientApplication` and its form for asyncio.
//!
//! What is here hands calls to the library's client and makes dictionaries and exceptions of what it says. What
//! arguments mean, and how they are called, is Python's.

mod answer;
mod application;
mod credential;
mod pending;
mod transport;

pub(crate) use self::application::{Application, BlockingApplication};
pub(crate) use self::credential::Credential;
pub(crate) use self::pending::Pending;
pub(crate) use self::transport::Transport;
