//! Authorities: where an identity provider's endpoints are, which hosts are the same, and which can be trusted.
//!
//! This layer knows URLs and discovery documents. It must not know tokens, caches or flows; what it learns is
//! handed up as a value, to be remembered by whoever likes.

mod discovery;
mod entra;
mod region;

pub(crate) use self::discovery::{Discovered, Discovery, Metadata};
pub(crate) use self::entra::Authority;
pub(crate) use self::region::Region;
