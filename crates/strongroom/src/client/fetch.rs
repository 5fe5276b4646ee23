//! One token from the identity provider: for all who want it, in this process and on this host.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::client_credentials::{Purpose, look_up};
use super::confidential::Shared;
use super::prepared::Prepared;
use super::refusal::{self, Remembered};
use super::result::{AuthenticationResult, TokenSource};
use crate::Error;
use crate::authority::{Metadata, Region};
use crate::cache::{Answer, Lead, LeadGuard, MissReason, Refusal, RefusalKind};
use crate::oauth::{RefreshReason, RequestKey, TokenRequest, TokenResponse};
use crate::schema::{AccessToken, ExtendedKey, Scopes, TokenScheme};
use crate::time::{Deadline, UnixSeconds};

/// How long a caller waits for the request of another process before it makes its own.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often it waits: whoever it waited for may have died, or failed to store the token.
const MOST_WAITS: u32 = 2;

/// A request for one token of an application.
pub(super) struct Fetch {
    pub(super) shared: Arc<Shared>,
    prepared: Arc<Prepared>,
    claims: Option<String>,
    /// No cached token will do.
    past_the_cache: bool,
    correlation_id: String,
    /// What it signs with, if it does.
    key: RequestKey,
    /// What distinguishes this request from another within the process.
    flight: String,
}

/// Why a token is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// There is nothing to serve.
    Missing(MissReason),
    /// There is a token that is near its end.
    Margin,
    /// There is a token that is good for a while.
    Refresh,
}

/// Who asks the provider.
enum Led {
    /// This caller, who leads as long as it holds what is in here.
    Here(Option<LeadGuard>),
    /// Nobody: somebody else has done it meanwhile.
    Elsewhere(AuthenticationResult),
    /// Somebody else is doing it, and it is not worth waiting.
    Busy,
}

impl Fetch {
    pub(super) fn new(
        shared: Arc<Shared>,
        prepared: &Arc<Prepared>,
        claims: Option<String>,
        past_the_cache: bool,
        correlation_id: Option<String>,
    ) -> Self {
        let (url, scopes) = (prepared.authority().url(), prepared.scopes().canonical());
        let extended = prepared.extension().key();
        let flight = format!("{:?}", (&shared.distinction, url, scopes, extended, &claims, past_the_cache));
        let correlation_id = correlation_id.unwrap_or_else(|| Uuid::new_v4().to_string());
        let (prepared, key) = (Arc::clone(prepared), RequestKey::default());
        Self { shared, prepared, claims, past_the_cache, correlation_id, key, flight }
    }

    /// What this fetch is known by in the process.
    pub(super) fn flight(&self) -> &str {
        &self.flight
    }

    /// The token, requested once for all callers in this process that want it at the same time.
    pub(super) async fn join(&self, need: Need) -> Result<AuthenticationResult, Error> {
        let cache = &self.shared.cache;
        // Nobody waits longer for another in this process than that one may wait for the host and for the provider.
        let patience = self.shared.timeout.saturating_add(LONGEST_WAIT);
        let fetch = || async {
            let fetched = self.fetch(need, LONGEST_WAIT).await?;
            Ok(fetched.expect("only who has no patience is told that another is busy"))
        };
        // Who has a token asks once and gives way to a provider that was slow; who has none must not share that.
        let margin;
        let flight = match need {
            Need::Missing(_) => &self.flight,
            Need::Margin | Need::Refresh => {
                margin = format!("{} margin", self.flight);
                &margin
            }
        };
        let (outcome, was_shared) = cache.flights().join(flight, patience, fetch).await;
        let counters = cache.counters();
        match &outcome {
            _ if was_shared => counters.shared(),
            Ok(result) if result.token_source() == TokenSource::IdentityProvider => counters.fetched(),
            Ok(_) => counters.shared(),
            Err(_) => counters.failed(),
        }
        outcome.map(|result| (*result).clone())
    }

    /// A token that is newer than one that is good for a while. `None` where somebody else is at it: it never makes
    /// anyone wait for another.
    pub(super) async fn renew(&self) -> Result<Option<AuthenticationResult>, Error> {
        let outcome = self.fetch(Need::Refresh, Duration::ZERO).await;
        let counters = self.shared.cache.counters();
        match &outcome {
            Ok(Some(result)) if result.token_source() == TokenSource::IdentityProvider => counters.fetched(),
            Ok(_) => {}
            Err(_) => counters.failed(),
        }
        outcome
    }

    /// Notes that the provider was too slow to be waited for, so that the next one who has a token does not wait.
    pub(super) async fn defer(&self) {
        let key = self.refusal_key().await;
        let error = serde_json::Value::Null;
        self.shared.cache.refused(&key, RefusalKind::Slow, None, error).await;
    }

    /// Seconds for which a refusal is remembered that stops who has a token.
    pub(super) async fn deferred_for(&self) -> Option<i64> {
        let refusal = self.shared.cache.refusal(&self.refusal_key().await).await?;
        refusal.remaining(self.shared.cache.now())
    }

    async fn fetch(&self, need: Need, patience: Duration) -> Result<Option<AuthenticationResult>, Error> {
        // Held until the token is stored or the refusal noted.
        let _lead = match self.lead(need, patience).await? {
            Led::Here(guard) => guard,
            Led::Elsewhere(result) => return Ok(Some(result)),
            Led::Busy => return Ok(None),
        };
        let key = self.refusal_key().await;
        if let Some(refusal) = self.standing_refusal(need, &key).await {
            return Err(Remembered::read(&refusal, self.shared.cache.now()).into());
        }
        let outcome = self.request(need).await;
        match &outcome {
            Ok(result) if result.token_source() == TokenSource::IdentityProvider => {
                self.shared.cache.granted(&key).await;
            }
            Ok(_) => {}
            Err(error) => {
                let has_identity = self.shared.authentication.has_identity();
                if let Some((kind, retry_after)) = refusal::kind_of(error, has_identity) {
                    self.shared.cache.refused(&key, kind, retry_after, refusal::record(error)).await;
                }
            }
        }
        outcome.map(Some)
    }

    /// Takes the lead on this host, or learns what the one who had it has achieved.
    async fn lead(&self, need: Need, patience: Duration) -> Result<Led, Error> {
        if self.past_the_cache {
            return Ok(Led::Here(None));
        }
        let key = self.prepared.lead_key(&self.shared.client_id);
        let deadline = Deadline::after(patience);
        for _ in 0..MOST_WAITS {
            match self.shared.cache.lead(&key, deadline.remaining()).await {
                Lead::Taken(guard) => return Ok(Led::Here(Some(guard))),
                Lead::Unavailable => return Ok(Led::Here(None)),
                Lead::Busy if patience.is_zero() => return Ok(Led::Busy),
                Lead::Busy => return Ok(Led::Here(None)),
                Lead::Ended => {}
            }
            if let Some(result) = self.look_again(need).await? {
                return Ok(Led::Elsewhere(result));
            }
            let refusal = self.standing_refusal(need, &self.refusal_key().await).await;
            if let Some(refusal) = refusal {
                return Err(Remembered::read(&refusal, self.shared.cache.now()).into());
            }
        }
        Ok(Led::Here(None))
    }

    /// What another has stored meanwhile, if that is what is needed.
    async fn look_again(&self, need: Need) -> Result<Option<AuthenticationResult>, Error> {
        let answer = look_up(&self.shared, &self.prepared, Purpose::Write).await?;
        Ok(self.satisfied(need, answer))
    }

    fn satisfied(&self, need: Need, answer: Answer) -> Option<AuthenticationResult> {
        match answer {
            // A token that is due for renewal is what this fetch began with.
            Answer::Hit(hit) if !(hit.refresh_due && need == Need::Refresh) => Some(self.shared.served(hit)),
            Answer::Hit(_) | Answer::Miss(_) => None,
        }
    }

    /// The remembered refusal that keeps this fetch from asking, if there is one.
    async fn standing_refusal(&self, need: Need, key: &str) -> Option<Refusal> {
        let refusal = self.shared.cache.refusal(key).await?;
        let stands = match refusal.kind {
            RefusalKind::RetryAfter => true,
            RefusalKind::Outage | RefusalKind::Permanent => !self.past_the_cache,
            RefusalKind::Slow => !matches!(need, Need::Missing(_)),
        };
        (stands && refusal.remaining(self.shared.cache.now()).is_some()).then_some(refusal)
    }

    async fn refusal_key(&self) -> String {
        let shared = &self.shared;
        let scopes = self.prepared.scopes().canonical();
        let url = self.prepared.authority().url();
        let claims = self.claims.as_deref().unwrap_or_default();
        let mut request = vec![shared.client_id.as_str(), &url, &scopes, claims];
        let extended = self.prepared.extension().key();
        request.extend(extended.as_ref().map(ExtendedKey::as_str));
        request.extend(shared.region.as_ref().map(Region::name));
        shared.cache.refusal_key(&request, &shared.authentication.identity(&self.key)).await
    }

    /// Asks the provider and stores what it answers.
    async fn request(&self, need: Need) -> Result<AuthenticationResult, Error> {
        let shared = &*self.shared;
        let exchange = shared.exchange(&self.correlation_id);
        let metadata = shared.metadata(self.prepared.authority(), &exchange).await?;
        if !self.past_the_cache {
            // Another flight may just have landed, or discovery may have told under which names to look.
            let request = self.prepared.resolved(&shared.client_id, &metadata);
            let answer = shared.cache.look_to_write(&request).await?;
            if let Some(result) = self.satisfied(need, answer) {
                return Ok(result);
            }
        }
        let fmi_path = self.prepared.extension().fmi_path();
        let (endpoint, now) = (metadata.token_endpoint.as_str(), shared.cache.now());
        let (key, deadline) = (&self.key, exchange.deadline());
        let proof = shared.authentication.prove(endpoint, fmi_path, key, now, deadline).await?;
        // The assertion is for the authority, whoever answers for it.
        let regional = shared.region.as_ref().and_then(|region| region.endpoint(endpoint));
        let endpoint = regional.as_deref().unwrap_or(endpoint);
        let request = TokenRequest {
            token_endpoint: endpoint,
            client_id: &shared.client_id,
            proof: &proof,
            scopes: self.prepared.scopes(),
            claims: self.claims.as_deref(),
            fmi_path,
            reason: match need {
                Need::Missing(MissReason::Forced | MissReason::Claims) => RefreshReason::ForcedOrClaims,
                Need::Missing(MissReason::Absent) => RefreshReason::NoToken,
                Need::Missing(MissReason::Expired | MissReason::ClockSetBack) | Need::Margin => {
                    RefreshReason::Expired
                }
                Need::Refresh => RefreshReason::Refresh,
            },
        };
        tracing::debug!(endpoint, correlation_id = self.correlation_id, ?need, "requesting a token");
        let response = match need {
            Need::Missing(_) => exchange.with_retry(|| request.to_http()).await?,
            // Who has a token needs no second try.
            Need::Margin | Need::Refresh => exchange.once(request.to_http()).await?,
        };
        let now = shared.cache.now();
        let response = TokenResponse::read(response, &proof, now)?;
        let body = response.body.clone();
        let token = access_token(shared, &metadata, &self.prepared, response, now);
        let stored = shared.cache.store_access_token(token.clone(), &metadata.environments).await;
        if let Err(error) = &stored {
            tracing::warn!(
                code = error.code(),
                remedy = error.remedy().as_deref().unwrap_or_default(),
                "the token could not be stored: {error}"
            );
        }
        let source = TokenSource::IdentityProvider;
        Ok(AuthenticationResult::new(Arc::new(token), source, now, stored.err()).with_response(body))
    }
}

fn access_token(
    shared: &Shared,
    metadata: &Metadata,
    prepared: &Prepared,
    response: TokenResponse,
    now: UnixSeconds,
) -> AccessToken {
    AccessToken {
        home_account_id: None,
        environment: metadata.environments.own().to_owned(),
        client_id: shared.client_id.clone(),
        realm: metadata.realm.clone(),
        target: granted(prepared.scopes(), response.scope.as_deref()),
        secret: response.access_token,
        token_type: response.token_type,
        scheme: TokenScheme::Bearer,
        cached_at: now,
        expires_on: now.plus(response.expires_in),
        extended_expires_on: now.plus(response.ext_expires_in),
        refresh_on: response.refresh_in.map(|seconds| now.plus(seconds)),
        user_assertion_hash: None,
        extended: prepared.extension().key(),
    }
}

/// The scopes that a token is stored under. Those that the provider names, where it names any; but `.default` stands
/// for whatever they are, so it stays, or the same request would never find the token again.
fn granted(requested: &Scopes, response: Option<&str>) -> Scopes {
    let Some(response) = response else { return requested.clone() };
    let defaults = requested.iter().filter(|scope| scope.ends_with("/.default"));
    defaults.chain(response.split_whitespace()).collect()
}
