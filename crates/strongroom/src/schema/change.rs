//! Changes to a cache: put these, remove those.
//!
//! A change is not a new state, so that it can be replayed on whatever state another process has made meanwhile.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use super::credential::{AccessToken, Credential, CredentialType, RefreshToken};
use super::dialect::Dialect;
use super::entry::Fields;
use super::environment::Environments;
use super::key::{CredentialKey, Partition, RecordRevision};
use super::raw::{EntryPut, Instead};
use crate::UnixSeconds;

/// What to do to a cache, as one step: all of it happens or nothing.
#[derive(Debug, Clone)]
pub struct Change {
    pub(crate) puts: Vec<Put>,
    pub(crate) removals: Vec<CredentialKey>,
    removals_by_fields: Vec<Removal>,
    orphans: HashSet<String>,
    orphans_of_removed: bool,
    all: bool,
    pub(crate) put_backs: Vec<AccessToken>,
    pub(super) entry_puts: Vec<EntryPut>,
    pub(super) removed_from: Vec<String>,
    pub(super) instead: Option<Arc<Instead>>,
    still_missed: Option<StillMissed>,
    pub(crate) only_existing: bool,
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
        Self {
            puts: Vec::new(),
            removals: Vec::new(),
            removals_by_fields: Vec::new(),
            orphans: HashSet::new(),
            orphans_of_removed: false,
            all: false,
            put_backs: Vec::new(),
            entry_puts: Vec::new(),
            removed_from: Vec::new(),
            instead: None,
            still_missed: None,
            only_existing: false,
            now,
            environments: None,
            dialect: None,
            sweep: false,
        }
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

    /// Removes all that the user `home_account_id` (`uid.utid`) has under any of these hosts: access tokens (on
    /// behalf of him, extended and bound ones too), refresh tokens of any application and family, ID tokens,
    /// accounts in all tenants; under whatever keys and in whatever dialect they were stored, unreadable ones
    /// included. An empty `home_account_id` removes nothing.
    #[must_use]
    pub fn remove_account(mut self, home_account_id: &str, environments: &Environments) -> Self {
        let home_account_id = home_account_id.to_lowercase();
        if !home_account_id.is_empty() {
            self.removals_by_fields.push(Removal::Account(home_account_id, Some(environments.clone())));
        }
        self
    }

    /// As [`remove_account`](Self::remove_account), under whatever host.
    #[must_use]
    pub fn remove_account_everywhere(mut self, home_account_id: &str) -> Self {
        let home_account_id = home_account_id.to_lowercase();
        if !home_account_id.is_empty() {
            self.removals_by_fields.push(Removal::Account(home_account_id, None));
        }
        self
    }

    /// Removes all that the application `client_id` has, under whatever host: its own tokens, those of its users, its
    /// AppMetadata, unreadable entries included; and the accounts of which no token is left then. A refresh token of a
    /// family is the application's that it is stored for.
    #[must_use]
    pub fn remove_client(mut self, client_id: &str) -> Self {
        self.removals_by_fields.push(Removal::Client(client_id.to_lowercase()));
        self.orphans_of_removed = true;
        self
    }

    /// Removes everything before anything else is done: all credentials, and in a document also what this library does
    /// not know. An empty document is left.
    #[must_use]
    pub fn remove_all(mut self) -> Self {
        self.removals_by_fields.push(Removal::All);
        self.all = true;
        self
    }

    /// Removes all access tokens that the application `client_id` got for itself under any of these hosts: for all
    /// tenants and scopes, extended and bound ones too, unreadable ones included. Tokens of users stay.
    #[must_use]
    pub fn remove_app_tokens(mut self, client_id: &str, environments: &Environments) -> Self {
        self.removals_by_fields.push(Removal::AppTokens(client_id.to_lowercase(), environments.clone()));
        self
    }

    /// Removes every credential of which `predicate` says so. It is asked again when the change is replayed.
    #[must_use]
    pub fn remove_where(mut self, predicate: Arc<dyn Fn(&Credential) -> bool + Send + Sync>) -> Self {
        self.removals_by_fields.push(Removal::Where(predicate));
        self
    }

    /// Removes the accounts with these `home_account_id`s of which no token is left after all other removals, puts
    /// and the sweep. Accounts that this change stores stay.
    #[must_use]
    pub fn remove_orphan_accounts(mut self, home_account_ids: Vec<String>) -> Self {
        self.orphans.extend(home_account_ids.iter().map(|id| id.to_lowercase()));
        self
    }

    /// Stores an application's own `token` unless a valid one is there that is as good: of the same client, tenant
    /// and kind, with its scopes or more, and not to expire earlier. A token that has expired, or that is a user's,
    /// is not stored. For giving back what another program has erased.
    #[must_use]
    pub fn put_unless_answered(mut self, token: AccessToken) -> Self {
        if token.is_app_token() && token.expires_on > self.now {
            self.put_backs.push(token);
        }
        self
    }

    /// Has `ask` say, each time that the change is tried and under the lock, which tokens are still to be given back.
    pub(crate) fn still_missed(mut self, ask: Ask) -> Self {
        self.still_missed = Some(StillMissed(ask));
        self
    }

    /// As it is to be tried now; `None` if that is as it is.
    pub(crate) async fn asked_again(&self) -> Option<Self> {
        let missed = (self.still_missed.as_ref()?.0)().await;
        let blank = Self { put_backs: Vec::new(), ..self.clone() };
        Some(missed.into_iter().fold(blank, Self::put_unless_answered))
    }

    /// Makes the change only if there is a credential already: an absent cache is not created, and an emptied one
    /// is not filled again.
    #[must_use]
    pub fn only_existing(mut self) -> Self {
        self.only_existing = true;
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

    /// The shape of new application tokens, and whose lock is taken besides; by default the shape that the document's other
    /// ones have, and nobody's.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// The same, if there is one.
    pub(crate) fn dialect_if(self, dialect: Option<Dialect>) -> Self {
        Self { dialect: dialect.or(self.dialect), ..self }
    }

    /// Whether it removes anything by its fields.
    pub(crate) fn removes_by_fields(&self) -> bool {
        !self.removals_by_fields.is_empty()
    }

    /// Whether it removes `credential` by its fields.
    pub(crate) fn removes(&self, credential: &Credential) -> bool {
        self.removals_by_fields.iter().any(|removal| removal.takes(credential))
    }

    /// Whether it removes an entry that cannot be read, by the fields that can be.
    pub(super) fn removes_unreadable(&self, kind: CredentialType, fields: &Fields<'_>) -> bool {
        self.removals_by_fields.iter().any(|removal| removal.takes_unreadable(kind, fields))
    }

    /// The accounts that are to go with the last token of theirs, where `removed` is what was removed already.
    pub(crate) fn orphans(&self, removed: &[Credential]) -> HashSet<String> {
        let mut orphans = self.orphans.clone();
        if self.orphans_of_removed {
            orphans.extend(removed.iter().filter_map(Credential::owner_of_token));
        }
        orphans
    }

    /// What is left to do when everything has been removed; `None` if that is not asked for.
    pub(super) fn after_removing_all(&self) -> Option<Self> {
        self.all.then(|| Self {
            removals: Vec::new(),
            removals_by_fields: Vec::new(),
            orphans: HashSet::new(),
            all: false,
            ..self.clone()
        })
    }

    /// The partitions in which a token may stand that answers for `token`.
    pub(crate) fn partitions_of(&self, token: &AccessToken) -> Vec<Partition> {
        let mut partitions = vec![Partition::of_access_token(token)];
        for environment in self.environments.iter().flat_map(Environments::canonical) {
            let partition = Partition::of_app_tokens(environment, &token.client_id, &token.realm);
            if !partitions.contains(&partition) {
                partitions.push(partition);
            }
        }
        partitions
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

/// Says which tokens are to be given back. What it looks at for that is no business of this layer.
pub(crate) type Ask = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<AccessToken>> + Send>> + Send + Sync>;

#[derive(Clone)]
struct StillMissed(Ask);

impl fmt::Debug for StillMissed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StillMissed(..)")
    }
}

/// Which credentials go, told by their fields: stored keys differ from language to language.
#[derive(Clone)]
enum Removal {
    /// Those of the user with this `home_account_id`, in lower case; without hosts under any.
    Account(String, Option<Environments>),
    /// The own tokens of the application with this `client_id`, in lower case.
    AppTokens(String, Environments),
    /// All of the application with this `client_id`, in lower case.
    Client(String),
    All,
    Where(Arc<dyn Fn(&Credential) -> bool + Send + Sync>),
}

impl Removal {
    fn takes(&self, credential: &Credential) -> bool {
        match self {
            Self::Account(id, environments) => {
                credential.home_account_id().is_some_and(|own| own.to_lowercase() == *id)
                    && environments.as_ref().is_none_or(|hosts| hosts.contains(credential.environment()))
            }
            Self::AppTokens(id, environments) => matches!(credential, Credential::AccessToken(token)
                if token.is_app_token()
                    && token.client_id.to_lowercase() == *id
                    && environments.contains(&token.environment)),
            Self::Client(id) => credential.client_id().is_some_and(|own| own.to_lowercase() == *id),
            Self::All => true,
            Self::Where(predicate) => predicate(credential),
        }
    }

    fn takes_unreadable(&self, kind: CredentialType, fields: &Fields<'_>) -> bool {
        let is = |field: Option<&str>, id: &str| field.is_some_and(|own| own.to_lowercase() == id);
        let environment = fields.environment.as_deref().unwrap_or_default();
        match self {
            Self::Account(id, environments) => {
                is(fields.home_account_id.as_deref(), id)
                    && environments.as_ref().is_none_or(|hosts| hosts.contains(environment))
            }
            Self::AppTokens(id, environments) => {
                kind == CredentialType::AccessToken
                    && fields.is_of_no_user()
                    && is(fields.client_id.as_deref(), id)
                    && environments.contains(environment)
            }
            Self::Client(id) => is(fields.client_id.as_deref(), id),
            Self::All => true,
            Self::Where(_) => false,
        }
    }
}

impl fmt::Debug for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(id, environments) => {
                f.debug_tuple("Account").field(id).field(environments).finish()
            }
            Self::AppTokens(id, environments) => {
                f.debug_tuple("AppTokens").field(id).field(environments).finish()
            }
            Self::Client(id) => f.debug_tuple("Client").field(id).finish(),
            Self::All => f.write_str("All"),
            Self::Where(_) => f.write_str("Where(..)"),
        }
    }
}
