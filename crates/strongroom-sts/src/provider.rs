//! The one identity provider that all handlers share: where it is, who is registered, its keys and
//! its control. Holds; does nothing by itself.

use std::sync::Arc;

use uuid::Uuid;

use crate::assertion::SeenAssertions;
use crate::clients::{Registrations, Tenant};
use crate::control::Control;
use crate::keys::SigningKeys;

/// See the module.
#[derive(Debug)]
pub(crate) struct Provider {
    /// `localhost:PORT`.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) registrations: Registrations,
    pub(crate) keys: SigningKeys,
    pub(crate) seen_assertions: SeenAssertions,
    pub(crate) control: Arc<Control>,
}

impl Provider {
    /// `https://localhost:PORT`.
    pub(crate) fn origin(&self) -> String {
        format!("https://{}", self.host)
    }

    /// What a tenant's segment in a URL means, `None` if there is no such tenant.
    pub(crate) fn realm(&self, segment: &str) -> Option<Realm<'_>> {
        let shared = SHARED.iter().find(|name| name.eq_ignore_ascii_case(segment));
        match shared {
            Some(name) => Some(Realm::Shared(name)),
            None => self.registrations.tenant(segment).map(Realm::Tenant),
        }
    }
}

/// Whose endpoint was called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Realm<'a> {
    Tenant(&'a Tenant),
    /// `common`, `organizations` or `consumers`.
    Shared(&'static str),
}

impl Realm<'_> {
    /// The segment of its canonical URLs: a tenant's GUID even where a domain was asked about.
    pub(crate) fn segment(self) -> String {
        match self {
            Self::Tenant(tenant) => tenant.id.to_string(),
            Self::Shared(name) => name.to_owned(),
        }
    }

    /// The tenant in an issuer. Where any may sign in, the client is to fill it in.
    pub(crate) fn issuer_tenant(self) -> String {
        match self {
            Self::Tenant(tenant) => tenant.id.to_string(),
            Self::Shared("consumers") => CONSUMERS.to_string(),
            Self::Shared(_) => "{tenantid}".to_owned(),
        }
    }
}

/// The issuer of v2.0 tokens.
pub(crate) fn issuer(origin: &str, tenant: &str) -> String {
    format!("{origin}/{tenant}/v2.0")
}

const SHARED: [&str; 3] = ["common", "organizations", "consumers"];
/// The tenant of personal accounts.
const CONSUMERS: Uuid = Uuid::from_u128(0x9188040d_6c67_4c5b_b112_36a304b66dad);
