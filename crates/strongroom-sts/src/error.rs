//! What can go wrong: [`StsError`] when the provider starts, [`Refusal`] when it answers. A refusal
//! is Entra's: an OAuth `error`, an AADSTS code, and a text that carries trace, correlation and time.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use crate::answer::RequestIds;
use crate::time::{self, UnixSeconds};

/// Why the provider could not start, or refuses what it was asked in process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StsError {
    /// The state folder or a file in it could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The folder holds other things, and others may read it.
    #[error("{} is open to other users and holds files of others; give the provider a folder of its own", path.display())]
    FolderOpenToOthers {
        /// The folder.
        path: PathBuf,
    },
    /// `clients.json` is not what the README describes. The file was not touched.
    #[error("{}: {problem}; correct the file, or remove it to start with a new one", path.display())]
    ClientsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A key or certificate in the state folder cannot be used. The file was not touched.
    #[error("{}: {problem}; remove the file to get a new one", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The tenant asked for is neither a GUID nor a domain name, or the folder has other tenants.
    #[error("tenant {tenant:?}: {problem}")]
    Tenant {
        /// As it was asked for.
        tenant: String,
        /// Why it cannot be had.
        problem: String,
    },
    /// Keys or certificates could not be made.
    #[error("cannot make {what}: {problem}")]
    Crypto {
        /// What was to be made.
        what: &'static str,
        /// Why not.
        problem: String,
    },
    /// The port could not be had.
    #[error("cannot listen on {address}")]
    Listen {
        /// The loopback address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The thread or runtime of [`spawn`](crate::spawn) could not be started.
    #[error("cannot start the provider's thread")]
    Thread(#[source] io::Error),
    /// A fault, clock or lifetime that makes no sense.
    #[error("{problem}")]
    Control {
        /// What is wrong with it.
        problem: String,
    },
}

impl StsError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn control(problem: impl Into<String>) -> Self {
        Self::Control { problem: problem.into() }
    }
}

/// One answer of Entra that is not a success.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: &'static str,
    pub(crate) code: u32,
    pub(crate) message: String,
}

impl Refusal {
    /// 400 with this OAuth error.
    pub(crate) fn bad_request(error: &'static str, code: u32, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, code, message: message.into() }
    }

    /// 401 `invalid_client`.
    pub(crate) fn invalid_client(code: u32, message: impl Into<String>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, error: "invalid_client", code, message: message.into() }
    }

    /// AADSTS900144, the commonest of all.
    pub(crate) fn missing_parameter(name: &str) -> Self {
        Self::bad_request(
            "invalid_request",
            900_144,
            format!("The request body must contain the following parameter: '{name}'."),
        )
    }

    /// AADSTS90002, or 900023 if it cannot be a tenant's name at all; `error` differs between the
    /// token endpoint (`invalid_request`) and discovery (`invalid_tenant`).
    pub(crate) fn unknown_tenant(error: &'static str, tenant: &str) -> Self {
        let well_formed = tenant.len() <= 255
            && tenant.contains(['.', '-'])
            && tenant.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
        if !well_formed {
            return Self::bad_request(
                error,
                900_023,
                format!(
                    "Specified tenant identifier '{}' is neither a valid DNS name, nor a valid external domain.",
                    excerpt(tenant)
                ),
            );
        }
        Self::bad_request(
            error,
            90_002,
            format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the tenant."
            ),
        )
    }

    pub(crate) fn into_response(self, ids: &RequestIds, now: UnixSeconds) -> Response {
        let timestamp = time::entra_text(now);
        tracing::debug!(status = self.status.as_u16(), error = self.error, code = self.code, "refused");
        let body = RefusalBody {
            error: self.error,
            error_description: format!(
                "AADSTS{}: {} Trace ID: {} Correlation ID: {} Timestamp: {timestamp}",
                self.code, self.message, ids.trace_id, ids.correlation_id
            ),
            error_codes: [self.code],
            timestamp,
            trace_id: ids.trace_id.to_string(),
            correlation_id: ids.correlation_id.to_string(),
            // A page for people; no client follows it.
            error_uri: format!("https://login.microsoftonline.com/error?code={}", self.code),
        };
        (self.status, Json(body)).into_response()
    }
}

/// What came from outside, cut to a length that suits a message.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[derive(Serialize)]
struct RefusalBody {
    error: &'static str,
    error_description: String,
    error_codes: [u32; 1],
    timestamp: String,
    trace_id: String,
    correlation_id: String,
    error_uri: String,
}
