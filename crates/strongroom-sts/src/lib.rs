#![doc = include_str!("../README.md")]

mod answer;
mod api;
mod assertion;
mod checks;
mod clients;
mod connection;
mod control;
mod discovery;
mod error;
mod faults;
mod files;
mod keys;
mod observe;
mod provider;
mod random;
mod running;
mod server;
mod time;
mod tls;
mod token;

pub use control::{Lifetimes, Stats};
pub use error::StsError;
pub use faults::{Endpoint, Fault};
pub use running::{RunningSts, spawn};
pub use server::{Config, Ready, Sts, serve};
