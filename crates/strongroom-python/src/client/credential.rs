//! What an application proves itself with.

use std::io;
use std::path::PathBuf;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use strongroom::{AssertionContext, ClientCertificate, ClientCredential, SecretBytes, SecretString};

use crate::attach::call;
use crate::foreign::attached;

/// A larger file is no key.
const LARGEST_FILE: u64 = 1 << 20;

/// A client credential.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Credential(ClientCredential);

#[pymethods]
impl Credential {
    /// A secret: its value.
    #[staticmethod]
    fn secret(secret: String) -> Self {
        Self(ClientCredential::from_secret(secret))
    }

    /// A private key in PEM, with what its certificate is known by.
    #[staticmethod]
    fn pem(
        private_key: String,
        passphrase: Option<String>,
        thumbprint: Option<String>,
        public_certificate: Option<String>,
    ) -> Self {
        let certificate = ClientCertificate::from_pem(private_key);
        Self::signing(certificate, passphrase, thumbprint, public_certificate)
    }

    /// A PFX file. With ``send_chain`` its certificates are sent along; with ``public_certificate`` those are.
    #[staticmethod]
    fn pfx(
        py: Python<'_>,
        path: PathBuf,
        passphrase: Option<String>,
        send_chain: bool,
        public_certificate: Option<String>,
    ) -> PyResult<Self> {
        let read = py.detach(|| SecretBytes::read_file(&path, LARGEST_FILE));
        let (content, _) =
            read.map_err(|error| unreadable(py, path, &error).unwrap_or_else(|failed| failed))?;
        let mut certificate = ClientCertificate::from_pfx(content, passphrase.map(SecretString::from));
        if send_chain || public_certificate.is_some() {
            certificate = certificate.send_chain(true);
        }
        Ok(Self::signing(certificate, None, None, public_certificate))
    }

    /// An assertion that somebody else has signed.
    #[staticmethod]
    fn assertion(assertion: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self(ClientCredential::from_assertion(text(assertion)?)))
    }

    /// Assertions from a function, which is called with a dictionary for each request.
    #[staticmethod]
    fn provider(function: Py<PyAny>) -> Self {
        Self(ClientCredential::from_assertion_provider(move |context| {
            attached(|py| provided(function.bind(py), context))
        }))
    }
}

impl Credential {
    pub(super) fn inner(&self) -> ClientCredential {
        self.0.clone()
    }

    fn signing(
        mut certificate: ClientCertificate,
        passphrase: Option<String>,
        thumbprint: Option<String>,
        public_certificate: Option<String>,
    ) -> Self {
        if let Some(passphrase) = passphrase {
            certificate = certificate.passphrase(passphrase);
        }
        if let Some(thumbprint) = thumbprint {
            certificate = certificate.thumbprint(thumbprint);
        }
        if let Some(pem) = public_certificate {
            certificate = certificate.public_certificate(pem);
        }
        Self(ClientCredential::from_certificate(certificate))
    }
}

fn provided(function: &Bound<'_, PyAny>, context: &AssertionContext) -> PyResult<SecretString> {
    let asked = PyDict::new(function.py());
    asked.set_item("client_id", context.client_id())?;
    asked.set_item("token_endpoint", context.token_endpoint())?;
    if let Some(path) = context.fmi_path() {
        asked.set_item("fmi_path", path)?;
    }
    text(&call(function, PyTuple::new(function.py(), [asked])?)?)
}

/// Python's own exception for a file, with its path.
fn unreadable(py: Python<'_>, path: PathBuf, error: &io::Error) -> PyResult<PyErr> {
    let errno = match error.raw_os_error() {
        Some(errno) => errno,
        None if path.is_dir() => py.import("errno")?.getattr("EISDIR")?.extract()?,
        None => return Ok(PyOSError::new_err(format!("{}: {error}", path.display()))),
    };
    // The class follows from the number: FileNotFoundError, PermissionError, ...
    let words = py.import("os")?.call_method1("strerror", (errno,))?;
    Ok(PyOSError::new_err((errno, words.unbind(), path.into_os_string())))
}

/// An assertion, which may come as bytes.
fn text(assertion: &Bound<'_, PyAny>) -> PyResult<SecretString> {
    if let Ok(bytes) = assertion.cast::<PyBytes>() {
        let text = std::str::from_utf8(bytes.as_bytes());
        return text
            .map(SecretString::from)
            .map_err(|_| PyValueError::new_err("a client assertion is ASCII"));
    }
    match assertion.cast::<PyString>() {
        // Without the error of Python's, which has the whole text.
        Ok(text) => match text.to_cow() {
            Ok(text) => Ok(SecretString::from(&*text)),
            Err(_) => Err(PyValueError::new_err("a client assertion is ASCII")),
        },
        Err(_) => Err(PyTypeError::new_err("a client assertion is a text or bytes")),
    }
}
