//! Errors of the library as exceptions: which ones, `strongroom._errors` decides.

use std::error::Error as StdError;
use std::io;

use pyo3::prelude::*;
use strongroom::{Error, ErrorKind};

/// The exception for `error`. One that Python code raised below the library comes out as it went in.
pub(crate) fn exception(py: Python<'_>, error: &Error) -> PyErr {
    if let Some(raised) = source::<PyErr>(error) {
        return raised.clone_ref(py);
    }
    let errno = source::<io::Error>(error).and_then(io::Error::raw_os_error);
    let made = py.import("strongroom._errors").and_then(|errors| errors.getattr("exception")).and_then(
        |exception| {
            let remedy = error.remedy().map(|remedy| remedy.into_owned());
            exception.call1((kind(error.kind()), error.code(), error.to_string(), remedy, errno))
        },
    );
    made.map_or_else(|failed| failed, PyErr::from_value)
}

/// What `raised` is in the library, on its way from Python code below to Python code above.
pub(crate) fn carried(raised: PyErr) -> Error {
    Error::new(ErrorKind::Storage, "python_exception", "the persistence raised an exception")
        .with_source(raised)
}

pub(crate) fn source<E: StdError + 'static>(error: &Error) -> Option<&E> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(one) = next {
        if let Some(found) = one.downcast_ref() {
            return Some(found);
        }
        next = one.source();
    }
    None
}

pub(crate) fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Configuration => "configuration",
        ErrorKind::Locked => "locked",
        ErrorKind::Contended => "contended",
        ErrorKind::Unusable => "unusable",
        ErrorKind::Storage => "storage",
        ErrorKind::Network => "network",
        ErrorKind::IdentityProvider => "identity_provider",
        _ => "internal",
    }
}
