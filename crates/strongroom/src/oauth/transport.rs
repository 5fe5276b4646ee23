//! How messages travel: the trait, and what goes through it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::credential::Proof;
use super::error::ServiceError;
use super::retry::retry_after;
use crate::SecretBytes;
use crate::error::{Diagnose, ErrorKind};
use crate::wait::BoxFuture;

/// Sends one HTTP request and returns the answer, whatever its status. No retries, no redirects, no cache.
///
/// [`HttpTransport`](super::HttpTransport) is the one that is used unless another is handed in: a test's, or one
/// that goes through a company's gateway.
pub trait Transport: fmt::Debug + Send + Sync {
    /// Sends `request`. The future must work under any runtime and under none.
    ///
    /// # Errors
    /// There was no complete answer within the request's time-out and the transport's size limit.
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>>;
}

/// An HTTP request.
///
/// `Debug` shows the method and the URL without its query, never headers or body.
#[non_exhaustive]
pub struct HttpRequest {
    /// `GET` or `POST`.
    pub method: HttpMethod,
    /// Absolute, https.
    pub url: String,
    /// Names in lower case.
    pub headers: Vec<(&'static str, String)>,
    /// Form-encoded for `POST`; may hold a client secret or assertion.
    pub body: Option<SecretBytes>,
    /// From the first byte sent to the last one received; `None` for the transport's own.
    pub timeout: Option<Duration>,
}

/// The methods that OAuth needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpMethod {
    /// Reads a document.
    Get,
    /// Sends a form.
    Post,
}

/// An HTTP response, complete.
///
/// `Debug` does not show the body, which may hold tokens.
#[non_exhaustive]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: SecretBytes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// No connection: nobody listens, no route, the name does not resolve.
    #[error("cannot connect to {host}: {reason}")]
    Connect {
        /// The host.
        host: String,
        /// The operating system's words.
        reason: String,
    },
    /// The server's certificate is not trusted, or no common TLS version.
    #[error("no TLS connection to {host}: {reason}")]
    Tls {
        /// The host.
        host: String,
        /// The TLS library's words.
        reason: String,
    },
    /// No complete answer in time.
    #[error("{host} did not answer in time")]
    TimedOut {
        /// The host.
        host: String,
    },
    /// The connection ended before the answer did.
    #[error("the connection to {host} ended before the answer was complete: {reason}")]
    CutOff {
        /// The host.
        host: String,
        /// What ended it.
        reason: String,
    },
    /// The answer is larger than any token response.
    #[error("the answer of {host} is larger than {limit} bytes")]
    TooLarge {
        /// The host.
        host: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// A transport of the application's own failed, in a way that is for the application to see.
    #[error("the request to {host} failed: {cause}")]
    Failed {
        /// The host.
        host: String,
        /// Why.
        #[source]
        cause: TransportFailure,
    },
    /// The transport cannot be set up: bad trust roots, a bad proxy, no thread.
    #[error("requests cannot be sent: {reason}")]
    Setup {
        /// What is missing.
        reason: String,
    },
}

/// Why a transport of the application's own failed, in its own words, and whether another try is worth while.
///
/// `Debug` does not show the source, whose words may be anything.
#[derive(Clone)]
pub struct TransportFailure {
    reason: String,
    source: Arc<dyn StdError + Send + Sync>,
    is_connection_failure: bool,
}

impl TransportFailure {
    /// A failure because of `source`, which [`Error`](crate::Error) hands on; `reason` is what is said of it in texts.
    ///
    /// With `is_connection_failure` the request may be sent a second time.
    pub fn new(
        reason: impl Into<String>,
        source: impl StdError + Send + Sync + 'static,
        is_connection_failure: bool,
    ) -> Self {
        Self { reason: reason.into(), source: Arc::new(source), is_connection_failure }
    }
}

impl fmt::Debug for TransportFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportFailure").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl fmt::Display for TransportFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl StdError for TransportFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

impl PartialEq for TransportFailure {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.source, &other.source)
    }
}

impl Eq for TransportFailure {}

impl HttpRequest {
    /// A `GET` of `url`.
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self {
            method: HttpMethod::Get,
            url: url.to_owned(),
            headers: vec![("accept", "application/json".into())],
            body: None,
            timeout: None,
        }
    }

    /// A `POST` of a form to `url`.
    #[must_use]
    pub fn post_form(url: &str, form: SecretBytes) -> Self {
        Self {
            method: HttpMethod::Post,
            url: url.to_owned(),
            headers: vec![
                ("accept", "application/json".into()),
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8".into()),
            ],
            body: Some(form),
            timeout: None,
        }
    }

    /// The host that it goes to, without a port, to be said in an error or a log line; empty where the URL names none.
    #[must_use]
    pub fn host(&self) -> String {
        url::Url::parse(&self.url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
    }

    pub(crate) fn timeout_at_most(mut self, timeout: Duration) -> Self {
        self.timeout = Some(self.timeout.map_or(timeout, |own| own.min(timeout)));
        self
    }
}

impl HttpResponse {
    /// A response with these parts, for implementations of [`Transport`].
    #[must_use]
    pub fn new(status: u16, headers: Vec<(String, String)>, body: SecretBytes) -> Self {
        Self { status, headers, body }
    }

    /// The first header with this name (in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The error that this answer to a request that carried `sent` is.
    pub(crate) fn into_service_error(self, sent: Option<&Proof>) -> ServiceError {
        ServiceError::from_response(self.status, self.body.expose(), retry_after(&self), sent)
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.split(['?', '#']).next().unwrap_or_default();
        f.debug_struct("HttpRequest").field("method", &self.method).field("url", &url).finish_non_exhaustive()
    }
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl TransportError {
    /// Whether the request failed at the connection, so that sending it again is worth a try.
    pub(crate) fn is_connection_failure(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::CutOff { .. } => true,
            Self::Failed { cause, .. } => cause.is_connection_failure,
            Self::Tls { .. } | Self::TimedOut { .. } | Self::TooLarge { .. } | Self::Setup { .. } => false,
        }
    }
}

impl Diagnose for TransportError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Setup { .. } => ErrorKind::Configuration,
            _ => ErrorKind::Network,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Connect { .. } => "connection_failed",
            Self::Tls { .. } => "tls_failed",
            Self::TimedOut { .. } => "timed_out",
            Self::CutOff { .. } => "answer_cut_off",
            Self::TooLarge { .. } => "unexpected_answer",
            Self::Failed { .. } => "transport_failed",
            Self::Setup { .. } => "transport_setup_failed",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(
            match self {
                Self::Connect { .. } => "check the network, the name in the authority, and HTTPS_PROXY",
                Self::Tls { .. } => {
                    "check the authority and this machine's clock; for a private CA pass --ca-file or set SSL_CERT_FILE"
                }
                Self::TimedOut { .. } => "try again later, or allow more time with --timeout",
                Self::CutOff { .. } => "try again; check proxies on the way",
                Self::TooLarge { .. } => "check the authority: this is no identity provider's answer",
                Self::Failed { .. } => "see what the application's own transport says",
                Self::Setup { .. } => "check the trust roots (--ca-file, SSL_CERT_FILE) and the proxy's URL",
            }
            .into(),
        )
    }
}
