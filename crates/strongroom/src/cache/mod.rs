//! The token cache: which stored token answers a request, and who fetches it when none does.
//!
//! This layer owns the look-up rules, the memory in front of a store (L1), single flight, what is remembered
//! beside the document, and the counters. It must not know how a token is requested: the client hands in the
//! request as a future.

mod apply;
#[cfg_attr(not(feature = "client"), allow(dead_code))]
mod backoff;
mod flight;
mod l1;
#[cfg_attr(not(feature = "client"), allow(dead_code))]
mod lookup;
mod purge;
mod refresh;
mod remembered;
mod settle;
#[cfg_attr(not(feature = "client"), allow(dead_code))]
mod state;
mod stats;
mod sync;
mod take_over;
mod tombstone;
mod unsaved;

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "client")]
use std::time::Duration;

#[cfg_attr(not(feature = "client"), allow(unused_imports))]
pub(crate) use self::backoff::{Refusal, RefusalKind};
pub(crate) use self::flight::Flights;
use self::l1::L1;
pub use self::lookup::{AccessTokenRequest, Lookup, MissReason};
#[cfg_attr(not(feature = "client"), allow(unused_imports))]
pub(crate) use self::lookup::{Answer, Fallback, Hit, Miss};
pub use self::purge::Purge;
use self::refresh::{Freshness, freshness};
pub use self::remembered::Remembered;
use self::settle::Settling;
pub(crate) use self::state::AuthorityRecord;
use self::state::{Note, State};
use self::stats::Counters;
pub use self::stats::Stats;
use self::tombstone::Marked;
use self::unsaved::Unsaved;
use crate::Error;
use crate::persistence::Persistence;
use crate::schema::{AccessToken, AppMetadata, Change, Credential, CredentialKey, Dialect, Environments};
use crate::store::{CredentialStore, DocumentStore, MemoryStore, Outcome, StoreInfo};
#[cfg(feature = "client")]
pub(crate) use crate::store::{Lead, LeadGuard};
use crate::time::{Clock, SystemClock, UnixSeconds};

/// Characters of a base64 hash: 18 bits.
#[cfg(feature = "client")]
const SHOWN_OF_CREDENTIAL: usize = 3;

/// A cache of tokens: a bounded memory in front of a [`CredentialStore`].
///
/// Cheap to clone; clones share everything. One cache may serve many clients.
///
/// ```
/// use strongroom::{FilePersistence, TokenCache};
///
/// # fn main() -> Result<(), strongroom::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("token_cache.bin");
/// let cache = TokenCache::with_persistence(FilePersistence::new(path)?);
/// println!("{}, protected: {}", cache.info().location, cache.info().protection);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenCache(Arc<Inner>);

struct Inner {
    store: Box<dyn CredentialStore>,
    clock: Arc<dyn Clock>,
    dialect: Option<Dialect>,
    /// Whether programs of other languages write to the store too.
    is_shared: bool,
    l1: L1,
    unsaved: Unsaved,
    settling: Settling,
    state: Arc<State>,
    counters: Counters,
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    flights: Flights,
}

/// Sets up a [`TokenCache`].
#[derive(Debug)]
pub struct TokenCacheBuilder {
    store: Box<dyn CredentialStore>,
    clock: Arc<dyn Clock>,
    dialect: Option<Dialect>,
    l1_bytes: usize,
}

impl TokenCache {
    /// A cache that ends with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        Self::builder(MemoryStore::new()).build()
    }

    /// A cache in the document that `persistence` keeps, shared with every other MSAL.
    pub fn with_persistence(persistence: impl Persistence + 'static) -> Self {
        Self::builder(DocumentStore::new(persistence)).build()
    }

    /// Sets up a cache in front of `store`.
    pub fn builder(store: impl CredentialStore + 'static) -> TokenCacheBuilder {
        TokenCacheBuilder {
            store: Box::new(store),
            clock: Arc::new(SystemClock),
            dialect: None,
            l1_bytes: 16 * 1024 * 1024,
        }
    }

    /// Where the cache is and how well it is protected.
    #[must_use]
    pub fn info(&self) -> StoreInfo {
        self.0.store.info()
    }

    /// What the cache has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.read()
    }

    /// The access token that answers `request`, if that can be told at once: it is in memory, good for a while, not due
    /// for renewal, and the store has not changed since it was read. Waits for nothing, takes no lock and allocates
    /// nothing; for a document it costs one look at the file.
    ///
    /// `None` says nothing about the store: ask [`find_access_token`](Self::find_access_token).
    #[must_use]
    pub fn find_at_once(&self, request: &AccessTokenRequest) -> Option<Arc<AccessToken>> {
        self.hit_at_once(request).map(|(hit, _)| hit.token)
    }

    /// The hit, and when that was: the clock is a quarter of what it costs.
    pub(crate) fn hit_at_once(&self, request: &AccessTokenRequest) -> Option<(Hit, UnixSeconds)> {
        // What could not be stored may be newer.
        if !self.0.unsaved.is_empty() {
            return None;
        }
        let generation = self.0.store.generation().ok()??;
        if self.0.is_shared && !self.0.settling.has_seen(generation) {
            return None;
        }
        let now = self.now();
        let hit = lookup::find_in_memory(&self.0.l1, generation, now, request)?;
        if hit.refresh_due {
            return None;
        }
        self.0.counters.hit_in_memory();
        Some((hit, now))
    }

    /// Looks for an access token that answers `request`: the memory first, then the store.
    ///
    /// # Errors
    /// The store cannot be read, or holds something that is no cache.
    pub async fn find_access_token(&self, request: &AccessTokenRequest) -> Result<Lookup, Error> {
        let answer = self.look(request).await?;
        self.0.counters.count(&answer);
        Ok(answer.into())
    }

    /// As [`find_access_token`](Self::find_access_token), not counted.
    pub(crate) async fn look(&self, request: &AccessTokenRequest) -> Result<Answer, Error> {
        lookup::find(&self.0, self.now(), request).await
    }

    /// As [`look`](Self::look), by someone who is about to write: a reader reports a damaged document, a writer has
    /// it moved aside and goes on.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) async fn look_to_write(&self, request: &AccessTokenRequest) -> Result<Answer, Error> {
        let answer = self.look(request).await;
        if !answer.as_ref().is_err_and(Error::is_damaged) {
            return answer;
        }
        match self.0.store.apply(&Change::new(self.now())).await {
            Ok(_) => self.look(request).await,
            Err(error) if error.is_damaged() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the cache is damaged and cannot be mended now");
                Ok(Answer::absent())
            }
        }
    }

    /// Stores a token as one change, removing on the way what has expired. `environments` says which hosts are
    /// equal to the token's.
    ///
    /// A token that cannot be stored is served from the memory of this cache as long as it lasts.
    ///
    /// # Errors
    /// The token could not be stored; the store is as it was.
    pub async fn store_access_token(
        &self,
        token: AccessToken,
        environments: &Environments,
    ) -> Result<(), Error> {
        let began = self.now();
        // MSAL Go looks for nothing where it finds no AppMetadata, so it is written with every token.
        let app = AppMetadata {
            client_id: token.client_id.clone(),
            environment: token.environment.clone(),
            family_id: None,
        };
        let key = CredentialKey::of_access_token(&token);
        let change = Change::new(self.now())
            .put(Credential::AccessToken(token.clone()))
            .put(Credential::AppMetadata(app))
            .environments(environments.clone())
            .dialect_if(self.0.dialect)
            .sweep_expired();
        match self.0.store.apply(&change).await {
            Ok(Outcome::Applied { swept, .. }) => {
                self.0.unsaved.forget(&key);
                self.0.counters.stored(swept);
                if self.0.is_shared {
                    self.0.settling.wrote(&self.0.state, token, environments, self.0.dialect, began).await;
                }
                Ok(())
            }
            // Nothing was expected of the records, so none can differ from it.
            Ok(Outcome::Lost(_)) => Ok(()),
            Err(error) => {
                self.0.counters.not_stored();
                self.0.unsaved.keep(token, error.clone(), self.now());
                Err(error)
            }
        }
    }

    /// Removes a user: the Account, and the access, refresh and id tokens that came with it or on its behalf, of every
    /// application and tenant, under whatever keys a library has stored them. Returns how many entries that were.
    ///
    /// `home_account_id` is `uid.utid`; `environments` are the hosts of the authority. What another program writes back
    /// within 90 days is removed again, as far as this library meets it; a new sign-in is not touched.
    ///
    /// # Errors
    /// The store cannot be read or written; then nothing was removed.
    pub async fn remove_account(
        &self,
        home_account_id: &str,
        environments: &Environments,
    ) -> Result<usize, Error> {
        self.0.unsaved.forget_those(|token| {
            token.is_of_user(home_account_id) && environments.contains(&token.environment)
        });
        let change = Change::new(self.now()).remove_account(home_account_id, environments);
        Ok(self.remove(change, None).await?.len())
    }

    /// Removes all of an application's own tokens, for whatever tenant, scopes and further parameters they were issued.
    /// Returns how many entries that were: a token of which Python and Node each have one counts twice.
    ///
    /// What another program writes back within 90 days is removed again, as far as this library meets it.
    ///
    /// # Errors
    /// The store cannot be read or written; then nothing was removed.
    pub async fn remove_tokens_for_client(
        &self,
        client_id: &str,
        environments: &Environments,
    ) -> Result<usize, Error> {
        let is_own = |token: &AccessToken| token.client_id.eq_ignore_ascii_case(client_id);
        self.0.unsaved.forget_those(|token| is_own(token) && token.is_app_token());
        self.0.settling.forget(client_id);
        let change = Change::new(self.now()).remove_app_tokens(client_id, environments);
        Ok(self.remove(change, Some(Marked::Client(client_id))).await?.len())
    }

    /// Makes a change that removes something, and sees to it that it stays removed. Returns what was removed.
    async fn remove(&self, change: Change, marked: Option<Marked<'_>>) -> Result<Vec<Credential>, Error> {
        let now = self.now();
        if let Some(marked) = marked {
            self.announce_removal(marked, now).await;
        }
        let change = change.dialect_if(self.0.dialect);
        let Outcome::Applied { removed, .. } = self.0.store.apply(&change).await? else {
            return Ok(Vec::new());
        };
        self.bury(&removed, now).await;
        Ok(removed)
    }

    /// Tells other processes of ours, before the removal, what they must not put back.
    async fn announce_removal(&self, marked: Marked<'_>, now: UnixSeconds) {
        if self.0.is_shared
            && let Err(error) = tombstone::mark(&self.0.state, marked, now).await
        {
            tracing::warn!(
                %error,
                "other processes cannot be told of the removal; they may put tokens back for five minutes"
            );
        }
    }

    /// Remembers what was removed, against those who write it back.
    async fn bury(&self, removed: &[Credential], now: UnixSeconds) {
        if self.0.is_shared
            && !removed.is_empty()
            && let Err(error) = tombstone::bury(&self.0.state, removed, now).await
        {
            tracing::warn!(%error, "it cannot be noted what was removed; another program may bring it back");
        }
    }

    /// Whether `token` is served as it is: neither at its end nor so near to it (300 seconds, or a fifth of its lifetime if
    /// that is less) that it is renewed first, nor stored in the future by this cache's clock.
    #[must_use]
    pub fn is_fresh(&self, token: &AccessToken) -> bool {
        matches!(freshness(token, self.now()), Freshness::Fresh | Freshness::RefreshDue)
    }

    /// The current time by this cache's clock.
    #[must_use]
    pub fn now(&self) -> UnixSeconds {
        self.0.clock.now()
    }

    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn flights(&self) -> &Flights {
        &self.0.flights
    }

    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// What is remembered of an authority that is not built in.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) async fn remembered_authority(&self, authority: &str) -> Option<AuthorityRecord> {
        self.0.state.authority(authority, self.now()).await
    }

    /// Remembers an authority. That it cannot be remembered costs requests, nothing else, so it is only logged.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) async fn remember_authority(&self, authority: &str, record: AuthorityRecord) {
        self.0.state.note(Note::Authority(authority.to_owned(), record), self.now()).await;
    }
}

/// Refusals and the lead, for those who fetch.
#[cfg(feature = "client")]
impl TokenCache {
    /// Takes the lead in fetching the token `key`, or waits for who has it.
    pub(crate) async fn lead(&self, key: &CredentialKey, patience: Duration) -> Lead {
        self.0.store.lead(key, patience).await
    }

    /// What a refusal of this request is known by. Of the credential, which may be a secret, only 18 bits count: enough
    /// to notice a corrected one, too little to guess it from.
    pub(crate) async fn refusal_key(&self, request: &[&str], credential: &str) -> String {
        let salt = self.0.state.salt().await;
        let credential = state::hash(&salt, &[b"credential", credential.as_bytes()]);
        let mut parts: Vec<&[u8]> = vec![b"refusal", &credential.as_bytes()[..SHOWN_OF_CREDENTIAL]];
        parts.extend(request.iter().map(|part| part.as_bytes()));
        state::hash(&salt, &parts)
    }

    /// The refusal of this request that is remembered, if it still counts.
    pub(crate) async fn refusal(&self, key: &str) -> Option<Refusal> {
        let now = self.now();
        let refusal = self.0.state.read(now, |content| content.refusal(key).cloned()).await;
        refusal.filter(|refusal| refusal.remaining(now).is_some())
    }

    /// Remembers that this request was refused. `retry_after`: seconds, where the provider named them.
    pub(crate) async fn refused(
        &self,
        key: &str,
        kind: RefusalKind,
        retry_after: Option<i64>,
        error: serde_json::Value,
    ) {
        let now = self.now();
        let earlier = self.0.state.read(now, |content| content.refusal(key).cloned()).await;
        let refusal = Refusal::new(kind, retry_after, error, earlier.as_ref(), now);
        self.0.state.note(Note::Refused(key.to_owned(), refusal), now).await;
    }

    /// Forgets that this request was ever refused.
    pub(crate) async fn granted(&self, key: &str) {
        let now = self.now();
        if self.0.state.read(now, |content| content.refusal(key).is_some()).await {
            self.0.state.note(Note::Granted(key.to_owned()), now).await;
        }
    }
}

impl TokenCacheBuilder {
    /// The clock that tokens expire by. Default: the operating system's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The languages that share the document: in which shapes new application tokens are written, so that these find
    /// them, and whose lock is taken besides. By default the shape that the document's other ones have,
    /// [`Dialect::PYTHON`] in a new document, and nobody's.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = Some(dialect);
        self
    }

    /// How many bytes of tokens are kept in memory in front of the store. Default 16 MiB; the least recently
    /// used go first.
    #[must_use]
    pub fn l1_bytes(mut self, bytes: usize) -> Self {
        self.l1_bytes = bytes;
        self
    }

    /// The cache.
    #[must_use]
    pub fn build(self) -> TokenCache {
        TokenCache(Arc::new(Inner {
            state: Arc::new(State::kept_in(self.store.state())),
            is_shared: self.store.is_shared_with_peers(),
            store: self.store,
            clock: self.clock,
            dialect: self.dialect,
            l1: L1::new(self.l1_bytes),
            unsaved: Unsaved::new(self.l1_bytes),
            settling: Settling::new(),
            counters: Counters::default(),
            flights: Flights::default(),
        }))
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("store", &self.0.store).finish_non_exhaustive()
    }
}
