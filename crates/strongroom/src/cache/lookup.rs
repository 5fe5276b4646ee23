//! Which credential answers a request: the exact one first, then one with more scopes, the newest of the valid.

use std::sync::Arc;

use super::l1::L1;
use super::unsaved::Unsaved;
use crate::Error;
use crate::schema::{AccessToken, Credential, CredentialKey, Environments, Partition, Scopes, TokenScheme};
use crate::store::CredentialStore;
use crate::time::UnixSeconds;

/// A token is renewed this long before its end, in seconds, or a fifth of its lifetime if that is less.
const MARGIN: i64 = 300;
/// How far `cached_at` may be ahead of the clock: machines that share a cache differ a little.
const SKEW: i64 = 300;

/// What an application asks of the cache: its own token for these scopes.
#[derive(Debug, Clone)]
pub struct AccessTokenRequest {
    environments: Environments,
    scopes: Scopes,
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
        let places = environments
            .canonical()
            .iter()
            .map(|environment| {
                let partition = Partition::of_app_tokens(environment, client_id, realm);
                (partition.access_token(&scopes, &TokenScheme::Bearer, None), partition)
            })
            .collect();
        Self { environments: environments.clone(), scopes, places }
    }

    /// The key of the token that answers exactly.
    #[must_use]
    pub fn key(&self) -> &CredentialKey {
        &self.places[0].0
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
            && token.extended.is_none()
            && token.is_app_token()
            && self.scopes.is_subset_of(&token.target)
    }
}

/// Whether `token` may be served now, or why not.
pub(super) fn usable(token: &AccessToken, now: UnixSeconds) -> Result<(), MissReason> {
    if token.cached_at.since(now) > SKEW {
        return Err(MissReason::ClockSetBack);
    }
    let lifetime = token.expires_on.since(token.cached_at);
    let margin = MARGIN.min(lifetime.max(0) / 5);
    if token.expires_on.since(now) > margin { Ok(()) } else { Err(MissReason::Expired) }
}

pub(super) async fn find(
    store: &dyn CredentialStore,
    l1: &L1,
    unsaved: &Unsaved,
    now: UnixSeconds,
    request: &AccessTokenRequest,
) -> Result<Answer, Error> {
    let mut best = Best { now, hit: None, reason: MissReason::Absent };
    // First, because what could not be stored is as a rule newer than what is stored.
    for kept in unsaved.candidates(|kept| request.looks_in(&kept.partition)) {
        best.consider(
            Hit { token: kept.token, tier: Tier::Memory, not_persisted: Some(kept.error) },
            request,
        );
    }
    match find_stored(store, l1, request, &mut best).await {
        Ok(()) => {}
        // A cache that cannot be read any more takes nothing away from who has a token.
        Err(error) if best.hit.is_some() => tracing::warn!(%error, "the cache cannot be read"),
        Err(error) => return Err(error),
    }
    Ok(best.hit.map_or(Answer::Miss(best.reason), Answer::Hit))
}

async fn find_stored(
    store: &dyn CredentialStore,
    l1: &L1,
    request: &AccessTokenRequest,
    best: &mut Best,
) -> Result<(), Error> {
    // Asked before anything is read: what changes in between makes an L1 entry void, not stale. The first look-up
    // of a document loads it and has no generation before that, so what it finds is not kept.
    let generation = store.generation()?;
    if let Some(generation) = generation
        && let Some(token) = l1.get(request.key(), generation)
        && request.environments.contains(&token.environment)
        && usable(&token, best.now).is_ok()
    {
        best.consider(Hit { token, tier: Tier::Memory, not_persisted: None }, request);
        return Ok(());
    }
    let mut stored = Best { now: best.now, hit: None, reason: best.reason };
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
    best.reason = stored.reason;
    if let Some(hit) = stored.hit {
        if let Some(generation) = generation {
            l1.insert(request.key().clone(), Arc::clone(&hit.token), generation);
        }
        best.consider(hit, request);
    }
    Ok(())
}

/// What was found, and where.
#[derive(Debug)]
pub(crate) enum Answer {
    Hit(Hit),
    Miss(MissReason),
}

#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) token: Arc<AccessToken>,
    pub(super) tier: Tier,
    /// Why the token is in memory alone, if it could not be stored.
    pub(crate) not_persisted: Option<Error>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    Memory,
    Store,
}

impl From<Answer> for Lookup {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Hit(hit) => Self::Hit(hit.token),
            Answer::Miss(reason) => Self::Miss(reason),
        }
    }
}

/// The newest of the tokens that answer and are valid.
struct Best {
    now: UnixSeconds,
    hit: Option<Hit>,
    reason: MissReason,
}

impl Best {
    fn consider(&mut self, hit: Hit, request: &AccessTokenRequest) {
        if !request.is_answered_by(&hit.token) {
            return;
        }
        match usable(&hit.token, self.now) {
            Ok(()) if self.hit.as_ref().is_none_or(|best| best.token.cached_at < hit.token.cached_at) => {
                self.hit = Some(hit);
            }
            Ok(()) => {}
            Err(reason) => self.reason = reason,
        }
    }

    fn consider_record(&mut self, credential: Credential, request: &AccessTokenRequest) {
        if let Some(token) = credential.into_access_token() {
            self.consider(Hit { token: Arc::new(token), tier: Tier::Store, not_persisted: None }, request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretString;

    fn token(cached_at: i64, lifetime: i64) -> AccessToken {
        AccessToken {
            home_account_id: None,
            environment: "h".into(),
            client_id: "c".into(),
            realm: "r".into(),
            target: "s".into(),
            secret: SecretString::from("t"),
            token_type: "Bearer".into(),
            scheme: TokenScheme::Bearer,
            cached_at: UnixSeconds::new(cached_at),
            expires_on: UnixSeconds::new(cached_at + lifetime),
            extended_expires_on: UnixSeconds::new(cached_at + lifetime),
            refresh_on: None,
            user_assertion_hash: None,
            extended: None,
        }
    }

    #[test]
    fn the_margin_is_five_minutes_or_a_fifth_of_the_lifetime() {
        for (lifetime, last_good) in [(3600, 3299), (1500, 1199), (1000, 799), (299, 239), (60, 47)] {
            let token = token(1000, lifetime);
            let at = |second: i64| usable(&token, UnixSeconds::new(1000 + second));
            assert_eq!(at(last_good), Ok(()), "lifetime {lifetime}");
            assert_eq!(at(last_good + 1), Err(MissReason::Expired), "lifetime {lifetime}");
        }
        assert_eq!(usable(&token(1000, 0), UnixSeconds::new(1000)), Err(MissReason::Expired));
    }

    #[test]
    fn a_token_from_the_future_is_not_trusted() {
        let token = token(10_000, 3600);
        assert_eq!(usable(&token, UnixSeconds::new(9_700)), Ok(()));
        assert_eq!(usable(&token, UnixSeconds::new(9_699)), Err(MissReason::ClockSetBack));
    }
}
