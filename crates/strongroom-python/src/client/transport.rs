//! How requests travel: by the library's own HTTP, or through an object of Python's.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use strongroom::{
    BoxFuture, Error, ErrorKind, HttpMethod, HttpRequest, HttpResponse, HttpTransport, TransportError,
    TransportFailure,
};
use tokio::sync::oneshot;

use crate::attach::{Count, attached, start};
use crate::error::exception;

/// A way to the identity provider.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Transport(Arc<dyn strongroom::Transport>);

#[pymethods]
impl Transport {
    /// HTTP over TLS, with trust roots of its own (a PEM file, read at the first request) and a proxy.
    #[staticmethod]
    fn http(py: Python<'_>, ca_file: Option<PathBuf>, proxy: Option<String>) -> PyResult<Self> {
        if let Some(proxy) = &proxy {
            let checked = HttpTransport::new().with_proxy(proxy);
            checked.map_err(|error| exception(py, &error))?;
        }
        Ok(Self(Arc::new(Http { ca_file, proxy, made: OnceLock::new() })))
    }

    /// An object that is called with method, URL, headers, form and time-out of each request, and returns status, headers
    /// and text of the answer.
    #[staticmethod]
    fn foreign(http_client: Py<PyAny>) -> Self {
        Self(Arc::new(Foreign(http_client)))
    }
}

impl Transport {
    pub(super) fn shared(&self) -> Shared {
        Shared(Arc::clone(&self.0))
    }
}

/// One transport for all applications that are made with it.
#[derive(Debug)]
pub(super) struct Shared(Arc<dyn strongroom::Transport>);

impl strongroom::Transport for Shared {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        self.0.send(request)
    }
}

/// The library's own, made when something is sent: a hit reads no trust roots.
#[derive(Debug)]
struct Http {
    ca_file: Option<PathBuf>,
    proxy: Option<String>,
    made: OnceLock<HttpTransport>,
}

impl Http {
    fn made(&self) -> Result<&HttpTransport, TransportError> {
        if let Some(made) = self.made.get() {
            return Ok(made);
        }
        // A failure is not kept.
        let made = self.make().map_err(|error| TransportError::Setup { reason: error.to_string() })?;
        Ok(self.made.get_or_init(|| made))
    }

    fn make(&self) -> Result<HttpTransport, Error> {
        let transport = match &self.ca_file {
            None => HttpTransport::new(),
            Some(path) => {
                let unreadable = |error| {
                    let message = format!("{}: {error}", path.display());
                    Error::new(ErrorKind::Configuration, "unreadable_trust_roots", message)
                };
                HttpTransport::with_roots_only(&fs::read(path).map_err(unreadable)?)?
            }
        };
        match &self.proxy {
            None => Ok(transport),
            Some(proxy) => transport.with_proxy(proxy),
        }
    }
}

impl strongroom::Transport for Http {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move { self.made()?.send(request).await })
    }
}

/// An object of Python's. It may take its time, so each request has a thread of its own.
#[derive(Debug)]
struct Foreign(Py<PyAny>);

/// More requests than that are not under way at once in a process: those that never return would else fill it with
/// threads.
const MOST_CALLS: u32 = 64;

static CALLS: Count = Count::new();

struct Call;

impl Call {
    fn begin() -> Option<Self> {
        let under_way = CALLS.enter();
        let call = Self;
        (under_way <= MOST_CALLS).then_some(call)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLS.leave();
    }
}

impl strongroom::Transport for Foreign {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(async move {
            let ended = || TransportError::Setup { reason: "Python has ended".into() };
            let host = request.host();
            let (sender, receiver) = oneshot::channel();
            let started = attached(|py| self.start(py, &request, sender)).ok_or_else(ended)?;
            let outcome = match started {
                Ok(()) => receiver.await.map_err(|_| ended())?,
                Err(error) => Err(error),
            };
            let read = |py: Python<'_>| match outcome.and_then(|answer| answered(answer.bind(py))) {
                Ok(answer) => Ok(answer),
                Err(error) => Err(failed(py, host, error)),
            };
            attached(read).ok_or_else(ended)?
        })
    }
}

impl Foreign {
    fn start(
        &self,
        py: Python<'_>,
        request: &HttpRequest,
        sender: oneshot::Sender<PyResult<Py<PyAny>>>,
    ) -> PyResult<()> {
        let busy = "too many calls of http_client have not returned; see what it waits for";
        let under_way = Call::begin().ok_or_else(|| PyRuntimeError::new_err(busy))?;
        let headers = PyDict::new(py);
        for (name, value) in &request.headers {
            headers.set_item(name, value)?;
        }
        let form = request.body.as_ref().map(|form| String::from_utf8_lossy(form.expose()));
        let method = match request.method {
            HttpMethod::Post => "post",
            _ => "get",
        };
        let timeout = request.timeout.map(|timeout| timeout.as_secs_f64());
        let arguments = (method, &request.url, headers, form, timeout).into_pyobject(py)?;
        let done = move |outcome| {
            drop(under_way);
            // The receiver is gone where nobody waits any more.
            let _ = sender.send(outcome);
        };
        start(self.0.bind(py), &arguments, done)
    }
}

fn answered(answer: &Bound<'_, PyAny>) -> PyResult<HttpResponse> {
    let (status, headers, text): (u16, Vec<(String, String)>, Vec<u8>) = answer.extract()?;
    Ok(HttpResponse::new(status, headers, text.into()))
}

/// What `http_client` has raised. It is for the caller; texts have its type alone, for its message may hold anything.
fn failed(py: Python<'_>, host: String, error: PyErr) -> TransportError {
    let name = error.get_type(py).name().map_or_else(|_| "an exception".into(), |name| name.to_string());
    // Those of requests are no ConnectionError of Python's, but all but those are its OSError.
    let is_connection_failure = error.is_instance_of::<PyOSError>(py)
        && name.contains("Connection")
        && !["Timeout", "SSL"].iter().any(|other| name.contains(other));
    let reason = format!("http_client raised {name}");
    TransportError::Failed { host, cause: TransportFailure::new(reason, error, is_connection_failure) }
}
