//! Which credential answers a request: the exact one first, then one with more scopes, the newest of the valid.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Inner;
use super::l1::{L1, L1Key};
use super::refresh::{Freshness, freshness};
use crate::Error;
use crate::schema::{
    AccessToken, Credential, CredentialKey, Environments, ExtendedKey, Partition, Scopes, TokenScheme,
};
use crate::time::UnixSeconds;

/// What an application asks of the cache: its own token for these scopes.
#[derive(Debug, Clone)]
pub struct AccessTokenRequest {
    environments: Environments,
    scopes: Scopes,
    /// Of an extended token: its key under each recipe, ours first.
    extended: Option<[ExtendedKey; 3]>,
    key: L1Key,
    /// One for each group of equal hosts, the authority's own first.
    places: Vec<(CredentialKey, Partition)>,
}

/// The answer of the cache.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Lookup {
    /// A token that is good for a while.
    Hit(Arc<AccessToken>),
    /// There is none, for this reason.
    Miss(MissReason),
}

/// Why the cache has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissReason {
    /// No token for this client, tenant and scopes.
    Absent,
    /// There is one, but it has expired or is about to.
    Expired,
    /// There is one that seems to have been stored in the future: the clock was set back, so its expiry cannot be
    /// trusted.
    ClockSetBack,
    /// The caller asked for a new token.
    Forced,
    /// The caller passed a claims challenge, which no cached token answers.
    Claims,
}

impl AccessTokenRequest {
    /// A request for an application's own bearer token.
    ///
    /// `realm` is the tenant's id as it stands in stored tokens: the GUID, in lower case.
    #[must_use]
    pub fn for_app(client_id: &str, environments: &Environments, realm: &str, scopes: Scopes) -> Self {
        let places: Vec<_> = environments
            .canonical()
            .iter()
            .map(|environment| {
                let partition = Partition::of_app_tokens(environment, client_id, realm);
                (partition.access_token(&scopes, &TokenScheme::Bearer, None), partition)
            })
            .collect();
        let key = L1Key::new(places[0].0.clone());
        Self { environments: environments.clone(), scopes, extended: None, key, places }
    }

    /// The same for a token that these further parameters of the request set apart (`fmi_path`, `client_claims`): no
    /// token without them answers it, nor the reverse. Without parameters it is the plain request.
    #[must_use]
    pub fn extended_by(mut self, parameters: &BTreeMap<String, String>) -> Self {
        self.extended = (!parameters.is_empty()).then(|| ExtendedKey::all_recipes(parameters));
        let extended = self.extended.as_ref().map(|[own, ..]| own);
        for (key, partition) in &mut self.places {
            *key = partition.access_token(&self.scopes, &TokenScheme::Bearer, extended);
        }
        self.key = L1Key::new(self.places[0].0.clone());
        self
    }

    /// The key of the token that answers exactly.
    #[must_use]
    pub fn key(&self) -> &CredentialKey {
        self.key.key()
    }

    /// The hosts that are looked under.
    #[must_use]
    pub fn environments(&self) -> &Environments {
        &self.environments
    }

    fn looks_in(&self, partition: &Partition) -> bool {
        self.places.iter().any(|(_, own)| own == partition)
    }

    fn is_answered_by(&self, token: &AccessToken) -> bool {
        token.scheme == TokenScheme::Bearer
            && match (&self.extended, &token.extended) {
                (None, None) => true,
                (Some(keys), Some(stored)) => keys.contains(stored),
                (Some(_), None) | (None, Some(_)) => false,
            }
            && token.is_app_token()
            && self.environments.admits(&token.environment)
            && self.scopes.is_subset_of(&token.target)
    }
}

pub(super) async fn find(
    cache: &Inner,
    now: UnixSeconds,
    request: &AccessTokenRequest,
) -> Result<Answer, Error> {
    let mut best = Best::new(now);
    // First, because what could not be stored is as a rule newer than what is stored.
    for kept in cache.unsaved.candidates(now, |kept| request.looks_in(&kept.partition)) {
        best.consider(kept.token, Tier::Memory, Some(kept.error), request);
    }
    match find_stored(cache, request, &mut best).await {
        Ok(()) => {}
        // A cache that cannot be read any more takes nothing away from who has a token.
        Err(error) if best.hit.is_some() => tracing::warn!(%error, "the cache cannot be read"),
        Err(error) => return Err(error),
    }
    Ok(best.into_answer())
}

/// The generation of the store, after what peers have made of it is set right.
async fn settled(
    cache: &Inner,
    now: UnixSeconds,
    request: &AccessTokenRequest,
) -> Result<Option<u64>, Error> {
    let store = &*cache.store;
    let generation = store.generation()?;
    if !cache.is_shared || generation.is_some_and(|generation| cache.settling.has_seen(generation)) {
        return Ok(generation);
    }
    // Has it loaded; this is the entry that is wanted next.
    if let Err(error) = store.get(request.key()).await {
        // Peers that write at the same time tear it, and with it goes what this process has written.
        if !error.is_damaged() || !cache.settling.has_written() {
            return Err(error);
        }
        cache.settling.mend(store, &cache.state, now).await;
        store.get(request.key()).await?;
    }
    if let Some(generation) = store.generation()? {
        cache.settling.settle(store, &cache.state, cache.dialect, now, generation).await;
    }
    store.generation()
}

/// What the memory has of this generation of the store: no lock, no allocation, no waiting.
pub(super) fn find_in_memory(
    l1: &L1,
    generation: u64,
    now: UnixSeconds,
    request: &AccessTokenRequest,
) -> Option<Hit> {
    // What is kept under the key of a request has answered that request; only time can have changed that.
    let token = l1.get(&request.key, &request.environments, generation)?;
    let freshness = freshness(&token, now);
    matches!(freshness, Freshness::Fresh | Freshness::RefreshDue).then(|| Hit {
        token,
        tier: Tier::Memory,
        not_persisted: None,
        refresh_due: freshness == Freshness::RefreshDue,
    })
}

async fn find_stored(cache: &Inner, request: &AccessTokenRequest, best: &mut Best) -> Result<(), Error> {
    let (store, l1) = (&*cache.store, &cache.l1);
    // Asked before anything is read: what changes in between makes an L1 entry void, not stale. The first look-up
    // of a document loads it and has no generation before that, so what it finds is not kept.
    let generation = settled(cache, best.now, request).await?;
    if let Some(hit) = generation.and_then(|generation| find_in_memory(l1, generation, best.now, request)) {
        best.offer(hit);
        return Ok(());
    }
    let mut stored = Best::new(best.now);
    for (key, _) in &request.places {
        if let Some(record) = store.get(key).await? {
            stored.consider_record(record.credential, request);
        }
    }
    if stored.hit.is_none() {
        for (_, partition) in &request.places {
            for record in store.list_for(partition, &request.scopes).await? {
                stored.consider_record(record.credential, request);
            }
        }
    }
    if let (Some(hit), Some(generation)) = (&stored.hit, generation) {
        l1.insert(request.key.clone(), Arc::clone(&hit.token), generation);
    }
    best.merge(stored);
    Ok(())
}

/// What was found, and where.
#[derive(Debug)]
pub(crate) enum Answer {
    Hit(Hit),
    Miss(Miss),
}

#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) token: Arc<AccessToken>,
    pub(super) tier: Tier,
    /// Why the token is in memory alone, if it could not be stored.
    #[cfg_attr(not(feature = "client"), allow(dead_code))] // it tells the client
    pub(crate) not_persisted: Option<Error>,
    /// It is to be renewed ahead of time.
    pub(crate) refresh_due: bool,
}

#[derive(Debug)]
pub(crate) struct Miss {
    pub(crate) reason: MissReason,
    /// The token that lasts longest of those that are in their margin or at their end.
    #[cfg_attr(not(feature = "client"), allow(dead_code))] // it tells the client
    pub(crate) fallback: Option<Fallback>,
}

/// A token that is served only if no better one is to be had.
#[derive(Debug, Clone)]
pub(crate) struct Fallback {
    pub(crate) token: Arc<AccessToken>,
    /// Why the token is in memory alone, if it could not be stored.
    #[cfg_attr(not(feature = "client"), allow(dead_code))] // it tells the client
    pub(crate) not_persisted: Option<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    Memory,
    Store,
}

impl Answer {
    /// There is nothing at all.
    pub(crate) const fn absent() -> Self {
        Self::Miss(Miss { reason: MissReason::Absent, fallback: None })
    }
}

impl From<Answer> for Lookup {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Hit(hit) => Self::Hit(hit.token),
            Answer::Miss(miss) => Self::Miss(miss.reason),
        }
    }
}

/// The newest of the tokens that answer and are good, and the longest-lived of those that are not.
struct Best {
    now: UnixSeconds,
    hit: Option<Hit>,
    fallback: Option<Fallback>,
    reason: MissReason,
}

impl Best {
    fn new(now: UnixSeconds) -> Self {
        Self { now, hit: None, fallback: None, reason: MissReason::Absent }
    }

    fn consider(
        &mut self,
        token: Arc<AccessToken>,
        tier: Tier,
        not_persisted: Option<Error>,
        request: &AccessTokenRequest,
    ) {
        if !request.is_answered_by(&token) {
            return;
        }
        let freshness = freshness(&token, self.now);
        match freshness {
            Freshness::Fresh | Freshness::RefreshDue => self.offer(Hit {
                token,
                tier,
                not_persisted,
                refresh_due: freshness == Freshness::RefreshDue,
            }),
            Freshness::Margin | Freshness::Expired => {
                self.reason = MissReason::Expired;
                self.fall_back_to(Fallback { token, not_persisted });
            }
            Freshness::ClockSetBack => self.reason = MissReason::ClockSetBack,
        }
    }

    fn consider_record(&mut self, credential: Credential, request: &AccessTokenRequest) {
        if let Some(token) = credential.into_access_token() {
            self.consider(Arc::new(token), Tier::Store, None, request);
        }
    }

    fn offer(&mut self, hit: Hit) {
        if self.hit.as_ref().is_none_or(|best| best.token.cached_at < hit.token.cached_at) {
            self.hit = Some(hit);
        }
    }

    fn fall_back_to(&mut self, other: Fallback) {
        if self.fallback.as_ref().is_none_or(|best| best.token.expires_on < other.token.expires_on) {
            self.fallback = Some(other);
        }
    }

    fn merge(&mut self, other: Self) {
        if other.reason != MissReason::Absent {
            self.reason = other.reason;
        }
        if let Some(fallback) = other.fallback {
            self.fall_back_to(fallback);
        }
        if let Some(hit) = other.hit {
            self.offer(hit);
        }
    }

    fn into_answer(self) -> Answer {
        match self.hit {
            Some(hit) => Answer::Hit(hit),
            None => Answer::Miss(Miss { reason: self.reason, fallback: self.fallback }),
        }
    }
}
