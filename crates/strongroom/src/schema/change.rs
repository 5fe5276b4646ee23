//! Changes to a cache: put these, remove those.
//!
//! A change is not a new state, so that it can be replayed on whatever state another process has made meanwhile.

use super::credential::{Credential, RefreshToken};
use super::dialect::Dialect;
use super::environment::Environments;
use super::key::{CredentialKey, RecordRevision};
use crate::UnixSeconds;

/// What to do to a cache, as one step: all of it happens or nothing.
#[derive(Debug, Clone)]
pub struct Change {
    pub(crate) puts: Vec<Put>,
    pub(crate) removals: Vec<CredentialKey>,
    pub(crate) now: UnixSeconds,
    pub(crate) environments: Option<Environments>,
    pub(crate) dialect: Option<Dialect>,
    pub(crate) sweep: bool,
}

/// One credential to be stored, and what must hold of the record that it replaces.
#[derive(Debug, Clone)]
pub struct Put {
    /// The credential.
    pub credential: Credential,
    /// The condition under which it is stored.
    pub expectation: Expectation,
}

/// What a conditional write expects of the record that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expectation {
    /// Nothing: the write is unconditional.
    Any,
    /// There is no such record.
    Absent,
    /// The record is still at this revision.
    Unchanged(RecordRevision),
}

impl Change {
    /// A change that does nothing yet. `now` is the time that expiry is judged by and that no stored time of ours
    /// may be ahead of.
    #[must_use]
    pub fn new(now: UnixSeconds) -> Self {
        Self { puts: Vec::new(), removals: Vec::new(), now, environments: None, dialect: None, sweep: false }
    }

    /// Stores `credential`, whatever is there.
    #[must_use]
    pub fn put(self, credential: Credential) -> Self {
        self.put_if(credential, Expectation::Any)
    }

    /// Stores `credential` if `expectation` holds; otherwise the whole change is not made.
    #[must_use]
    pub fn put_if(mut self, credential: Credential, expectation: Expectation) -> Self {
        self.puts.push(Put { credential, expectation });
        self
    }

    /// Removes the credential with this key, every entry of it. That there is none is no error.
    #[must_use]
    pub fn remove(mut self, key: CredentialKey) -> Self {
        self.removals.push(key);
        self
    }

    /// Also removes access tokens that have expired, whoever wrote them.
    #[must_use]
    pub fn sweep_expired(mut self) -> Self {
        self.sweep = true;
        self
    }

    /// Which hosts are equal to the authority's, beyond the built-in clouds.
    #[must_use]
    pub fn environments(mut self, environments: Environments) -> Self {
        self.environments = Some(environments);
        self
    }

    /// The shape of new application tokens; by default that of the document's other ones.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// The keys under which `credential` may be stored, one for each host that is equal to its own.
    pub(crate) fn keys_of(&self, credential: &Credential) -> Vec<CredentialKey> {
        let mut keys = vec![CredentialKey::of(credential)];
        if let Credential::RefreshToken(RefreshToken { family_id: Some(_), .. }) = credential {
            // One that the application had for itself is used up together with the family's.
            let mut own = credential.clone();
            if let Credential::RefreshToken(token) = &mut own {
                token.family_id = None;
            }
            keys.extend(self.keys_of(&own));
        }
        if let Some(environments) = &self.environments {
            for environment in environments.canonical() {
                let mut moved = credential.clone();
                match &mut moved {
                    Credential::AccessToken(token) => token.environment.clone_from(environment),
                    Credential::RefreshToken(token) => token.environment.clone_from(environment),
                    Credential::IdToken(token) => token.environment.clone_from(environment),
                    Credential::Account(account) => account.environment.clone_from(environment),
                    Credential::AppMetadata(app) => app.environment.clone_from(environment),
                }
                let key = CredentialKey::of(&moved);
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        keys
    }
}
