//! Client assertions (RFC 7523): those that this library signs, and those that the application provides.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::certificate::{ClientCertificate, SigningKey};
use crate::error::{Diagnose, ErrorKind};
use crate::platform::fork::PerProcess;
use crate::time::{Deadline, UnixSeconds};
use crate::{Error, SecretString, wait};

/// How long an assertion is valid, in seconds.
const LIFETIME: i64 = 600;
/// How long one is used, in seconds: it has to arrive before its end.
const USED_FOR: i64 = 540;
/// Who asks more endpoints than that for tokens has the assertions for those beyond signed anew.
const MOST_KEPT: usize = 64;
/// More calls of one assertion provider than that are not under way at once: those that never return would else fill
/// the process with threads.
const MOST_CALLS: usize = 64;

/// What an assertion is asked for: see
/// [`ClientCredential::from_assertion_provider`](crate::ClientCredential::from_assertion_provider).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssertionContext {
    client_id: String,
    token_endpoint: String,
    fmi_path: Option<String>,
}

impl AssertionContext {
    pub(super) fn new(client_id: &str, token_endpoint: &str, fmi_path: Option<&str>) -> Self {
        Self {
            client_id: client_id.to_owned(),
            token_endpoint: token_endpoint.to_owned(),
            fmi_path: fmi_path.map(str::to_owned),
        }
    }

    /// The application, `iss` and `sub` of an assertion that it signs itself.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Where the assertion goes: the `aud` of one that the application signs itself.
    #[must_use]
    pub fn token_endpoint(&self) -> &str {
        &self.token_endpoint
    }

    /// The path of a federated managed identity, if the token is asked for with one.
    #[must_use]
    pub fn fmi_path(&self) -> Option<&str> {
        self.fmi_path.as_deref()
    }
}

/// The application's own source of assertions.
pub(super) struct AssertionProvider {
    function: Box<AssertionFunction>,
    /// Calls of it. Of each process its own: a forked child has none of its parent's threads.
    under_way: PerProcess<AtomicUsize>,
}

type AssertionFunction = dyn Fn(&AssertionContext) -> Result<SecretString, Error> + Send + Sync + 'static;

impl AssertionProvider {
    pub(super) fn new(
        function: impl Fn(&AssertionContext) -> Result<SecretString, Error> + Send + Sync + 'static,
    ) -> Self {
        Self { function: Box::new(function), under_way: PerProcess::new(AtomicUsize::default) }
    }
}

/// The application's own source of keys.
pub(super) type CertificateProvider = dyn Fn() -> Result<ClientCertificate, Error> + Send + Sync + 'static;

/// Where the key comes from.
pub(super) enum KeySource {
    Fixed(Arc<SigningKey>),
    Provided(Arc<CertificateProvider>),
}

/// The key of one token request. What a provider gives is asked for once.
#[derive(Default)]
pub(crate) struct RequestKey(OnceLock<Result<Arc<SigningKey>, Error>>);

impl KeySource {
    fn key(&self, request: &RequestKey) -> Result<Arc<SigningKey>, Error> {
        match self {
            Self::Fixed(key) => Ok(Arc::clone(key)),
            Self::Provided(provider) => request.0.get_or_init(|| Self::load(&**provider)).clone(),
        }
    }

    fn load(provider: &CertificateProvider) -> Result<Arc<SigningKey>, Error> {
        let certificate = provider().map_err(AssertionError::NoCertificate)?;
        Ok(Arc::new(certificate.signing_key()?))
    }
}

/// Assertions that this library signs. One is used for several requests, as MSAL does it.
pub(super) struct SignedAssertions {
    key: KeySource,
    client_claims: Map<String, Value>,
    /// By token endpoint. Of each process its own: the thread that held the lock when it was forked is not there.
    kept: PerProcess<Mutex<HashMap<String, Kept>>>,
}

struct Kept {
    assertion: SecretString,
    signed_at: UnixSeconds,
    key: Arc<SigningKey>,
}

impl Kept {
    /// One from the future was signed under another clock.
    fn is_good(&self, now: UnixSeconds) -> bool {
        (0..USED_FOR).contains(&now.since(self.signed_at))
    }
}

impl SignedAssertions {
    pub(super) fn new(key: KeySource, client_claims: Map<String, Value>) -> Self {
        Self { key, client_claims, kept: PerProcess::new(Mutex::default) }
    }

    /// What tells these assertions from those of another key or certificate or with other claims, without a secret.
    pub(super) fn identity(&self, request: &RequestKey) -> String {
        // Who cannot sign will say so when he has to.
        let key = self.key.key(request).map_or_else(|_| String::new(), |key| key.identity().to_owned());
        format!("{key} {}", Value::Object(self.client_claims.clone()))
    }

    /// What tells them from other ones of this process.
    pub(super) fn fingerprint(&self) -> String {
        let claims = Value::Object(self.client_claims.clone());
        match &self.key {
            KeySource::Fixed(key) => format!("{} {claims}", key.identity()),
            // As long as a request is under way its provider is there, and no other one has its address.
            KeySource::Provided(provider) => format!("{:p} {claims}", Arc::as_ptr(provider)),
        }
    }

    /// An assertion for this endpoint.
    pub(super) fn assertion(
        &self,
        client_id: &str,
        token_endpoint: &str,
        request: &RequestKey,
        now: UnixSeconds,
    ) -> Result<SecretString, Error> {
        let key = self.key.key(request)?;
        let kept = self.kept.get();
        let is_usable = |kept: &&Kept| kept.is_good(now) && kept.key.identity() == key.identity();
        if let Some(kept) = lock(kept).get(token_endpoint).filter(is_usable) {
            return Ok(kept.assertion.clone());
        }
        let assertion = key.sign(&self.claims(client_id, token_endpoint, now))?;
        let mut kept = lock(kept);
        kept.retain(|_, kept| kept.is_good(now));
        if kept.len() < MOST_KEPT {
            let new = Kept { assertion: assertion.clone(), signed_at: now, key };
            kept.insert(token_endpoint.to_owned(), new);
        }
        Ok(assertion)
    }

    fn claims(&self, client_id: &str, token_endpoint: &str, now: UnixSeconds) -> Map<String, Value> {
        let own = [
            ("aud", json!(token_endpoint)),
            ("iss", json!(client_id)),
            ("sub", json!(client_id)),
            ("jti", json!(Uuid::new_v4().to_string())),
            ("iat", json!(now.get())),
            ("exp", json!(now.plus(LIFETIME).get())),
        ];
        let mut claims: Map<_, _> = own.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        claims.extend(self.client_claims.clone());
        claims
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these mutexes panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the application's provider, on a thread of its own: it may block, and other requests must not wait for it.
pub(super) async fn provided(
    provider: Arc<AssertionProvider>,
    context: AssertionContext,
    deadline: Deadline,
) -> Result<SecretString, AssertionError> {
    let (sender, receiver) = oneshot::channel();
    let call = Call::begin(provider).ok_or(AssertionError::Busy)?;
    std::thread::Builder::new()
        .name("strongroom-assertion".into())
        .spawn(move || {
            let _ = sender.send((call.0.function)(&context));
        })
        .map_err(|error| AssertionError::NoThread(error.to_string()))?;
    let assertion = match wait::until(deadline, receiver).await {
        Some(Ok(outcome)) => outcome.map_err(AssertionError::Failed)?,
        Some(Err(_)) => return Err(AssertionError::Panicked),
        None => return Err(AssertionError::TimedOut),
    };
    if assertion.expose().trim().is_empty() {
        return Err(AssertionError::Empty);
    }
    Ok(assertion)
}

/// A call that is under way.
struct Call(Arc<AssertionProvider>);

impl Call {
    fn begin(provider: Arc<AssertionProvider>) -> Option<Self> {
        let begun = provider.under_way.get().fetch_add(1, Ordering::Relaxed);
        let call = Self(provider);
        (begun < MOST_CALLS).then_some(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.under_way.get().fetch_sub(1, Ordering::Relaxed);
    }
}

/// The application's provider gave no assertion, or no key to sign one with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssertionError {
    #[error("there is no client assertion: {0}")]
    Failed(#[source] Error),
    #[error("there is no client certificate: {0}")]
    NoCertificate(#[source] Error),
    #[error("the assertion provider gave an empty client assertion")]
    Empty,
    #[error("the assertion provider panicked")]
    Panicked,
    #[error("the assertion provider gave no client assertion in time")]
    TimedOut,
    #[error("too many calls of the assertion provider have not returned")]
    Busy,
    #[error("there is no thread for the assertion provider: {0}")]
    NoThread(String),
}

impl Diagnose for AssertionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Failed(error) | Self::NoCertificate(error) => error.kind(),
            Self::Empty => ErrorKind::Configuration,
            Self::Panicked | Self::Busy | Self::NoThread(_) => ErrorKind::Internal,
            Self::TimedOut => ErrorKind::Network,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Failed(error) | Self::NoCertificate(error) => error.code(),
            Self::Empty => "empty_client_assertion",
            Self::Panicked => "assertion_provider_panicked",
            Self::TimedOut => "assertion_timed_out",
            Self::Busy => "assertion_provider_busy",
            Self::NoThread(_) => "no_thread",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Failed(error) | Self::NoCertificate(error) => error.remedy(),
            Self::Empty | Self::Panicked => Some("correct the assertion provider".into()),
            Self::TimedOut | Self::Busy => Some("see what the assertion provider waits for".into()),
            Self::NoThread(_) => Some("see what limits the threads of this process".into()),
        }
    }

    fn is_retryable(&self) -> bool {
        match self {
            Self::Failed(error) | Self::NoCertificate(error) => error.is_retryable(),
            Self::TimedOut | Self::Busy | Self::NoThread(_) => true,
            Self::Empty | Self::Panicked => false,
        }
    }
}
