//! Requests as the cache understands them, made once for each set of scopes that an application asks for.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::confidential::{ConfigurationError, Shared};
use crate::Error;
use crate::authority::{Authority, Metadata};
use crate::cache::AccessTokenRequest;
use crate::schema::Scopes;

/// Who asks for more different scopes has those beyond prepared anew each time.
const MOST: usize = 1024;

/// What an application asks for, and under which names the cache has it.
#[derive(Debug)]
pub(super) struct Prepared {
    authority: Authority,
    scopes: Scopes,
    /// Under the authority's own host, where its tenant is configured by its id.
    own: Option<AccessTokenRequest>,
    /// Under all names, once they were learned.
    learned: OnceLock<AccessTokenRequest>,
}

impl Prepared {
    fn new(client_id: &str, authority: Authority, scopes: Scopes) -> Self {
        let own = authority.tenant_id().map(|realm| {
            AccessTokenRequest::for_app(client_id, &authority.environments(), realm, scopes.clone())
        });
        Self { authority, scopes, own, learned: OnceLock::new() }
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    pub(super) fn own(&self) -> Option<&AccessTokenRequest> {
        self.own.as_ref()
    }

    /// The request that is worth a look into the memory.
    pub(super) fn request(&self) -> Option<&AccessTokenRequest> {
        self.learned.get().or(self.own.as_ref())
    }

    /// The request under all names that `metadata` tells.
    pub(super) fn resolved(&self, client_id: &str, metadata: &Metadata) -> AccessTokenRequest {
        let scopes = self.scopes.clone();
        let request = AccessTokenRequest::for_app(client_id, &metadata.environments, &metadata.realm, scopes);
        // What is asked for without waiting. Names seldom change; if they do, the look-up that waits knows the new ones.
        let _ = self.learned.set(request.clone());
        request
    }

    /// The same for another tenant, if one is named; checked, so that it can be sent.
    pub(super) fn for_tenant(
        self: &Arc<Self>,
        shared: &Shared,
        tenant: Option<&str>,
    ) -> Result<Arc<Self>, Error> {
        check_scopes(&self.scopes)?;
        let Some(tenant) = tenant else { return Ok(Arc::clone(self)) };
        let authority = shared.authority.with_tenant(tenant)?;
        authority.require_tenant()?;
        Ok(Arc::new(Self::new(&shared.client_id, authority, self.scopes.clone())))
    }
}

/// The prepared requests of one application.
/// Read at every request and seldom written, so it is replaced as a whole.
#[derive(Debug, Default)]
pub(super) struct PreparedRequests(ArcSwap<HashMap<Vec<String>, Arc<Prepared>>>);

impl PreparedRequests {
    pub(super) fn get(&self, shared: &Shared, scopes: Scopes) -> Arc<Prepared> {
        if let Some(prepared) = self.0.load().get(scopes.as_slice()) {
            return Arc::clone(prepared);
        }
        let key = scopes.as_slice().to_vec();
        let prepared = Arc::new(Prepared::new(&shared.client_id, shared.authority.clone(), scopes));
        if self.0.load().len() < MOST {
            self.0.rcu(|requests| {
                let mut requests = HashMap::clone(requests);
                requests.insert(key.clone(), Arc::clone(&prepared));
                requests
            });
        }
        prepared
    }
}

fn check_scopes(scopes: &Scopes) -> Result<(), Error> {
    if scopes.is_empty() {
        return Err(ConfigurationError::NoScopes.into());
    }
    match scopes.iter().find(|scope| matches!(*scope, "openid" | "profile" | "offline_access")) {
        Some(scope) => Err(ConfigurationError::UserScope(scope.to_owned()).into()),
        None => Ok(()),
    }
}
