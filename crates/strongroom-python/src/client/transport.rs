//! How requests travel: by the library's own HTTP, or through an object of Python's.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use strongroom::{
    BoxFuture, Error, ErrorKind, HttpMethod, HttpRequest, HttpResponse, HttpTransport, SecretBytes,
    TransportError,
};
use tokio::sync::oneshot;

use crate::error::exception;

/// A way to the identity provider.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Transport(Arc<dyn strongroom::Transport>);

#[pymethods]
impl Transport {
    /// HTTP over TLS, with further trust roots (a PEM file, read at the first request) and a proxy.
    #[staticmethod]
    fn http(py: Python<'_>, ca_file: Option<PathBuf>, proxy: Option<String>) -> PyResult<Self> {
        if let Some(proxy) = &proxy {
            let checked = HttpTransport::new().with_proxy(proxy);
            checked.map_err(|error| exception(py, &error))?;
        }
        Ok(Self(Arc::new(Http { ca_file, proxy, made: OnceLock::new() })))
    }

    /// An object with the methods ``post`` and ``get`` of ``requests``.
    #[staticmethod]
    fn foreign(http_client: Py<PyAny>) -> Self {
        Self(Arc::new(Foreign(Arc::new(http_client))))
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
                HttpTransport::with_extra_roots(&fs::read(path).map_err(unreadable)?)?
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
struct Foreign(Arc<Py<PyAny>>);

impl strongroom::Transport for Foreign {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let object = Arc::clone(&self.0);
        Box::pin(async move {
            let setup = |reason: &str| TransportError::Setup { reason: reason.into() };
            let (sender, receiver) = oneshot::channel();
            let send = move || {
                // The receiver is gone where nobody waits any more.
                let _ = sender.send(Python::try_attach(|py| send_now(object.bind(py), &request)));
                // Python's reference count is for those who have the GIL.
                Python::try_attach(|_| drop(object));
            };
            let started = thread::Builder::new().name("strongroom-http-client".into()).spawn(send);
            started.map_err(|_| setup("no thread is to be had for http_client"))?;
            match receiver.await {
                Ok(Some(outcome)) => outcome,
                Ok(None) | Err(_) => Err(setup("Python has ended")),
            }
        })
    }
}

fn send_now(object: &Bound<'_, PyAny>, request: &HttpRequest) -> Result<HttpResponse, TransportError> {
    call(object, request).map_err(|error| {
        let py = object.py();
        let host = host_of(&request.url);
        // Its type alone: its message may hold anything.
        let reason = format!("http_client raised {}", type_name(py, &error));
        if error.is_instance_of::<PyTimeoutError>(py) || reason.contains("Timeout") {
            TransportError::TimedOut { host }
        } else if reason.contains("SSL") {
            TransportError::Tls { host, reason }
        } else {
            TransportError::Connect { host, reason }
        }
    })
}

fn call(object: &Bound<'_, PyAny>, request: &HttpRequest) -> PyResult<HttpResponse> {
    let py = object.py();
    let headers = PyDict::new(py);
    for (name, value) in &request.headers {
        headers.set_item(name, value)?;
    }
    let arguments = PyDict::new(py);
    arguments.set_item("params", PyDict::new(py))?;
    arguments.set_item("headers", headers)?;
    let method = match request.method {
        HttpMethod::Post => {
            let form = request.body.as_ref().map(SecretBytes::expose).unwrap_or_default();
            let form = PyString::new(py, &String::from_utf8_lossy(form));
            let fields = py.import("urllib.parse")?.call_method1("parse_qsl", (form, true))?;
            let data = PyDict::new(py);
            for field in fields.try_iter()? {
                let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = field?.extract()?;
                data.set_item(name, value)?;
            }
            arguments.set_item("data", data)?;
            "post"
        }
        _ => "get",
    };
    let response = object.call_method(method, (&request.url,), Some(&arguments))?;
    let status = response.getattr("status_code")?.extract()?;
    let text: String = response.getattr("text")?.extract()?;
    let mut headers = Vec::new();
    if let Some(found) = response.getattr_opt("headers")?
        && found.hasattr("items")?
    {
        for item in found.call_method0("items")?.try_iter()? {
            let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = item?.extract()?;
            headers.push((name.to_string().to_lowercase(), value.to_string()));
        }
    }
    Ok(HttpResponse::new(status, headers, text.into_bytes().into()))
}

fn type_name(py: Python<'_>, error: &PyErr) -> String {
    error.get_type(py).name().map_or_else(|_| "an exception".into(), |name| name.to_string())
}

fn host_of(url: &str) -> String {
    let rest = url.split_once("//").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
}
