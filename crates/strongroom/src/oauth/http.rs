//! The one implementation of [`Transport`]: HTTP over rustls, on one runtime thread of this library.
//!
//! A pooled connection dies with the runtime that opened it, so requests do not run on the caller's: they run on
//! a thread of ours that is started when the first request is really sent. Until then no thread, no TLS and no
//! trust root is touched.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;
use tokio::runtime::Runtime;

use super::transport::{HttpMethod, HttpRequest, HttpResponse, Transport, TransportError};
use crate::platform::fork::PerProcess;
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// No token response is larger.
const LARGEST_BODY: usize = 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// HTTP/1.1 over TLS with the platform's trust roots, through the proxy that `HTTPS_PROXY` names.
///
/// Redirects are not followed. Connections are kept for the next request.
pub struct HttpTransport {
    roots: Roots,
    proxy: Option<reqwest::Proxy>,
    /// Of each process its own: a forked child shares its parent's connections, so it must never speak on one.
    client: PerProcess<OnceLock<reqwest::Client>>,
}

/// Whose certificates are trusted.
enum Roots {
    /// The platform's, and further ones.
    Platform(Vec<CertificateDer<'static>>),
    Only(Vec<CertificateDer<'static>>),
}

impl HttpTransport {
    /// A transport that trusts the platform's roots. Costs nothing until the first request.
    #[must_use]
    pub fn new() -> Self {
        Self::trusting(Roots::Platform(Vec::new()))
    }

    /// A transport that trusts further roots beside the platform's: `pem` holds one or more certificates.
    ///
    /// # Errors
    /// There is no certificate in `pem`, or one that cannot be read.
    pub fn with_extra_roots(pem: &[u8]) -> Result<Self, Error> {
        Ok(Self::trusting(Roots::Platform(certificates(pem)?)))
    }

    /// A transport that trusts the roots in `pem` and no others: none of the platform's.
    ///
    /// # Errors
    /// There is no certificate in `pem`, or one that cannot be read.
    pub fn with_roots_only(pem: &[u8]) -> Result<Self, Error> {
        Ok(Self::trusting(Roots::Only(certificates(pem)?)))
    }

    /// The same transport through the proxy at `url` instead of the one that `HTTPS_PROXY` names, for every host. A user
    /// name and a password in the URL are for the proxy.
    ///
    /// # Errors
    /// It is no URL of a proxy that is spoken to by HTTP or HTTPS.
    pub fn with_proxy(self, url: &str) -> Result<Self, Error> {
        // Without the URL, which may hold a password.
        let bad = |reason: &str| TransportError::Setup { reason: reason.into() };
        // As a proxy is often written.
        let url = if url.contains("://") { Cow::Borrowed(url) } else { Cow::Owned(format!("http://{url}")) };
        let no_url = "the proxy is not given as a URL";
        let url = url::Url::parse(&url).map_err(|_| bad(no_url))?;
        // With another scheme it would be passed by in silence.
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("the proxy's URL begins neither with http:// nor with https://").into());
        }
        let proxy = reqwest::Proxy::all(url).map_err(|_| bad(no_url))?;
        Ok(Self { proxy: Some(proxy), ..self })
    }

    fn trusting(roots: Roots) -> Self {
        Self { roots, proxy: None, client: PerProcess::new(OnceLock::new) }
    }

    fn client(&self) -> Result<reqwest::Client, TransportError> {
        // A failure is not kept: what was in the way may be gone at the next request.
        let client = self.client.get();
        if let Some(client) = client.get() {
            return Ok(client.clone());
        }
        let built = build_client(&self.roots, self.proxy.clone())?;
        Ok(client.get_or_init(|| built).clone())
    }
}

impl Default for HttpTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HttpTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, roots) = match &self.roots {
            Roots::Platform(extra) => ("extra_roots", extra),
            Roots::Only(roots) => ("roots_only", roots),
        };
        f.debug_struct("HttpTransport").field(kind, &roots.len()).finish_non_exhaustive()
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let runtime = runtime()?;
            let client = self.client()?;
            let host = request.host();
            let task = runtime.spawn(exchange(client, request));
            let abort = AbortOnDrop(task.abort_handle());
            let outcome = task.await;
            drop(abort);
            outcome.unwrap_or_else(|error| {
                Err(TransportError::CutOff { host, reason: format!("the request was abandoned: {error}") })
            })
        })
    }
}

/// A caller that goes away takes its request with it.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange(client: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, TransportError> {
    let host = request.host();
    let mut builder = match request.method {
        HttpMethod::Get => client.get(&request.url),
        HttpMethod::Post => client.post(&request.url),
    };
    for (name, value) in &request.headers {
        builder = builder.header(*name, value);
    }
    if let Some(body) = request.body {
        builder = builder.body(Bytes::from_owner(Body(body)));
    }
    let failed = |error: reqwest::Error| describe(&host, &error);
    let mut response =
        builder.timeout(request.timeout.unwrap_or(DEFAULT_TIMEOUT)).send().await.map_err(failed)?;
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let mut body = SecretBytes::default();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > LARGEST_BODY {
            return Err(TransportError::TooLarge { host, limit: LARGEST_BODY });
        }
        body.extend(&chunk);
    }
    Ok(HttpResponse::new(status, headers, body))
}

/// A body that is wiped when the HTTP library has sent it.
struct Body(SecretBytes);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// The runtime that requests run on: one thread, started at first need, for the rest of the process's life. A
/// forked child does not have that thread and starts its own.
fn runtime() -> Result<&'static Runtime, TransportError> {
    static RUNTIME: PerProcess<OnceLock<Runtime>> = PerProcess::new(OnceLock::new);
    static STARTING: PerProcess<Mutex<()>> = PerProcess::new(Mutex::default);
    // One at a time, and a failure is not kept.
    let starting = STARTING.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get().get() {
        return Ok(runtime);
    }
    let started = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("strongroom-http")
        .enable_all()
        .build()
        .map_err(|error| TransportError::Setup { reason: format!("no thread for requests: {error}") })?;
    let runtime = RUNTIME.get().get_or_init(|| started);
    drop(starting);
    Ok(runtime)
}

/// Runs a future behind its caller; `false` if no thread is to be had for it.
pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> bool {
    match runtime() {
        Ok(runtime) => {
            runtime.spawn(future);
            true
        }
        Err(error) => {
            tracing::warn!(%error, "nothing can run in the background");
            false
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let bad = |reason: String| TransportError::Setup { reason };
    let roots = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(format!("a certificate of the trust roots cannot be read: {error}")))?;
    if roots.is_empty() {
        return Err(bad("there is no PEM certificate among the trust roots".into()));
    }
    Ok(roots)
}

fn verifier(roots: &Roots, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let trusted = match roots {
        Roots::Platform(extra) => {
            let verifier = Verifier::new_with_extra_roots(extra.iter().cloned(), provider);
            return match verifier {
                Ok(verifier) => Ok(Arc::new(verifier)),
                Err(error) => Err(format!("the platform's trust roots cannot be used: {error}")),
            };
        }
        Roots::Only(roots) => roots,
    };
    let mut store = RootCertStore::empty();
    // A bundle of many may have old ones that cannot be used.
    if store.add_parsable_certificates(trusted.iter().cloned()).0 == 0 {
        return Err("none of the trust roots can be used".into());
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider).build();
    verifier.map(|verifier| verifier as _).map_err(|error| format!("the trust roots cannot be used: {error}"))
}

fn build_client(roots: &Roots, proxy: Option<reqwest::Proxy>) -> Result<reqwest::Client, TransportError> {
    let bad = |reason: String| TransportError::Setup { reason };
    // Named, never the process's default: an application may have compiled in two providers and chosen none.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = verifier(roots, Arc::clone(&provider)).map_err(bad)?;
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| bad(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let mut builder = reqwest::Client::builder();
    if let Some(proxy) = proxy {
        builder = builder.proxy(proxy);
    }
    builder
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .build()
        .map_err(|error| bad(chain(&error)))
}

/// The error in the words of its deepest cause. reqwest's own would repeat the URL.
fn describe(host: &str, error: &reqwest::Error) -> TransportError {
    let host = host.to_owned();
    if error.is_timeout() {
        return TransportError::TimedOut { host };
    }
    let reason = chain(error);
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(inner) = cause {
        if inner.is::<rustls::Error>() {
            return TransportError::Tls { host, reason };
        }
        cause = next_cause(inner);
    }
    if error.is_connect() {
        TransportError::Connect { host, reason }
    } else if error.is_builder() {
        TransportError::Setup { reason }
    } else {
        TransportError::CutOff { host, reason }
    }
}

/// The text of the deepest cause.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut deepest = error;
    while let Some(cause) = next_cause(deepest) {
        deepest = cause;
    }
    deepest.to_string()
}

/// What caused `error`. An I/O error that wraps another one does not report that one, but that one's cause.
fn next_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}
