//! Requests as the cache understands them, made once for each set of scopes that an application asks for.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::confidential::{ConfigurationError, Shared};
use crate::Error;
use crate::authority::{Authority, Metadata};
use crate::cache::AccessTokenRequest;
use crate::schema::{CredentialKey, ExtendedKey, Scopes};

/// Who asks for more different scopes has those beyond prepared anew each time.
const MOST: usize = 1024;

/// What an application asks for, and under which names the cache has it.
#[derive(Debug)]
pub(super) struct Prepared {
    authority: Authority,
    scopes: Scopes,
    extension: Extension,
    /// Under the authority's own host, where its tenant is configured by its id.
    own: Option<AccessTokenRequest>,
    /// Under all names, once they were learned.
    learned: OnceLock<AccessTokenRequest>,
}

/// Further parameters of a request that set its token apart, by the names that MSAL hashes them under. Those that are
/// empty are none.
#[derive(Debug, Clone, Default)]
pub(super) struct Extension(BTreeMap<String, String>);

impl Extension {
    const FMI_PATH: &str = "fmi_path";
    const CLIENT_CLAIMS: &str = "client_claims";

    pub(super) fn fmi_path(&self) -> Option<&str> {
        self.0.get(Self::FMI_PATH).map(String::as_str)
    }

    /// JSON text. It is sent within `claims`.
    pub(super) fn client_claims(&self) -> Option<&str> {
        self.0.get(Self::CLIENT_CLAIMS).map(String::as_str)
    }

    /// What its token is stored under.
    pub(super) fn key(&self) -> Option<ExtendedKey> {
        (!self.0.is_empty()).then(|| ExtendedKey::of(&self.0))
    }

    fn with(&self, name: &str, value: String) -> Self {
        let mut parameters = self.0.clone();
        match value.is_empty() {
            true => parameters.remove(name),
            false => parameters.insert(name.to_owned(), value),
        };
        Self(parameters)
    }
}

impl Prepared {
    fn new(client_id: &str, authority: Authority, scopes: Scopes, extension: Extension) -> Self {
        let own = authority.tenant_id().map(|realm| {
            AccessTokenRequest::for_app(client_id, &authority.environments(), realm, scopes.clone())
                .extended_by(&extension.0)
        });
        Self { authority, scopes, extension, own, learned: OnceLock::new() }
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(super) fn scopes(&self) -> &Scopes {
        &self.scopes
    }

    pub(super) fn extension(&self) -> &Extension {
        &self.extension
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
        let request = AccessTokenRequest::for_app(client_id, &metadata.environments, &metadata.realm, scopes)
            .extended_by(&self.extension.0);
        // What is asked for without waiting. Names seldom change; if they do, the look-up that waits knows the new ones.
        let _ = self.learned.set(request.clone());
        request
    }

    /// The token as all processes of a host call it, whatever each of them knows of the authority.
    pub(super) fn lead_key(&self, client_id: &str) -> CredentialKey {
        let (environments, tenant) = (self.authority.environments(), self.authority.tenant());
        AccessTokenRequest::for_app(client_id, &environments, tenant, self.scopes.clone())
            .extended_by(&self.extension.0)
            .key()
            .clone()
    }

    /// The same with the path of a federated managed identity.
    pub(super) fn with_fmi_path(&self, client_id: &str, path: String) -> Arc<Self> {
        self.with_extension(client_id, self.extension.with(Extension::FMI_PATH, path))
    }

    /// The same with claims of the application's own.
    pub(super) fn with_client_claims(&self, client_id: &str, claims: String) -> Arc<Self> {
        self.with_extension(client_id, self.extension.with(Extension::CLIENT_CLAIMS, claims))
    }

    fn with_extension(&self, client_id: &str, extension: Extension) -> Arc<Self> {
        Arc::new(Self::new(client_id, self.authority.clone(), self.scopes.clone(), extension))
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
        let extension = self.extension.clone();
        Ok(Arc::new(Self::new(&shared.client_id, authority, self.scopes.clone(), extension)))
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
        let authority = shared.authority.clone();
        let prepared = Arc::new(Prepared::new(&shared.client_id, authority, scopes, Extension::default()));
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
