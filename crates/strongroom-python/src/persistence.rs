//! The library's persistences as one Python class. What users see of them is made of it in Python.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyUnicodeDecodeError;
use pyo3::prelude::*;
use pyo3::types::PyString;
use strongroom::persistence::{self, Kind};
use strongroom::{Error, ErrorKind, Fence, FilePersistence, Persistence, Revision, Saved, SecretBytes};

use crate::error::exception;
use crate::wait::wait_for;

/// A place where one document lies.
#[pyclass(frozen, module = "strongroom._strongroom", name = "Persistence")]
pub(crate) struct NativePersistence {
    inner: Arc<dyn Persistence>,
    /// Why it is kept in this way, where that was a choice.
    reasons: Vec<String>,
}

#[pymethods]
impl NativePersistence {
    /// A plain file.
    #[staticmethod]
    fn file(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Self::made(py, || FilePersistence::new(path))
    }

    /// A sealed file, opened with the key source that sealed it, or sealed with the first that there is.
    #[staticmethod]
    fn sealed(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let chosen = py.detach(|| persistence::builder(path).kind(Kind::Sealed).build());
        let chosen = chosen.map_err(|error| exception(py, &error))?;
        let reasons = chosen.choice().reasons.clone();
        Ok(Self { inner: Arc::new(chosen), reasons })
    }

    /// An item of the Secret Service; each of its operations may take ``deadline`` seconds.
    #[cfg(all(unix, not(target_vendor = "apple")))]
    #[staticmethod]
    fn secret_service(
        py: Python<'_>,
        signal_location: PathBuf,
        schema_name: String,
        attributes: BTreeMap<String, String>,
        label: String,
        collection: Option<String>,
        deadline: f64,
    ) -> PyResult<Self> {
        let deadline = crate::lock::seconds(deadline);
        Self::made(py, || {
            let mut builder = strongroom::SecretServicePersistence::builder(signal_location)
                .schema_name(schema_name)
                .label(label)
                .deadline(deadline);
            for (name, value) in attributes {
                builder = builder.attribute(name, value);
            }
            if let Some(collection) = collection {
                builder = builder.collection(collection);
            }
            builder.build()
        })
    }

    /// An item of the default keychain.
    #[cfg(target_os = "macos")]
    #[staticmethod]
    fn keychain(
        py: Python<'_>,
        signal_location: PathBuf,
        service_name: String,
        account_name: String,
    ) -> PyResult<Self> {
        Self::made(py, || {
            strongroom::KeychainPersistence::builder(signal_location)
                .service_name(service_name)
                .account_name(account_name)
                .build()
        })
    }

    /// A file that Windows encrypts for its user.
    #[cfg(windows)]
    #[staticmethod]
    fn data_protection(py: Python<'_>, path: PathBuf, entropy: String) -> PyResult<Self> {
        Self::made(py, || Ok(strongroom::FilePersistenceWithDataProtection::new(path)?.entropy(entropy)))
    }

    /// The text that is kept; ``None`` if nothing is there.
    fn load<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyString>>> {
        let loaded = wait_for(py, self.inner.load())?.map_err(|error| exception(py, &error))?;
        if loaded.revision == Revision::absent() {
            return Ok(None);
        }
        text(py, &loaded.bytes).map(Some)
    }

    /// Replaces what is there, whatever it is. Takes no lock.
    fn save(&self, py: Python<'_>, content: String) -> PyResult<()> {
        let content = SecretBytes::from(content.into_bytes());
        wait_for(py, replace(&*self.inner, &content))?.map_err(|error| exception(py, &error))
    }

    /// Removes what is there.
    fn remove(&self, py: Python<'_>) -> PyResult<()> {
        wait_for(py, self.inner.remove())?.map_err(|error| exception(py, &error))
    }

    /// The kind, as ``strongroom --persistence`` spells it.
    #[getter]
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    /// How well it is protected: ``none``, ``host-file``, ``provided-key``, ``os-store``.
    #[getter]
    fn protection(&self) -> &'static str {
        self.inner.protection().as_str()
    }

    /// What was looked at when it was chosen, and what it came to.
    #[getter]
    fn reasons(&self) -> Vec<String> {
        self.reasons.clone()
    }
}

impl NativePersistence {
    fn made<P: Persistence + 'static>(
        py: Python<'_>,
        make: impl FnOnce() -> Result<P, Error>,
    ) -> PyResult<Self> {
        let inner = make().map_err(|error| exception(py, &error))?;
        Ok(Self { inner: Arc::new(inner), reasons: Vec::new() })
    }

    pub(crate) fn inner(&self) -> Arc<dyn Persistence> {
        Arc::clone(&self.inner)
    }
}

/// Whether a sealed document lies there, of whatever key.
#[pyfunction]
pub(crate) fn is_sealed(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    let found = py.detach(|| persistence::sealed_with(path));
    found.map(|sealed_with| sealed_with.is_some()).map_err(|error| exception(py, &error))
}

/// The text that a document is.
pub(crate) fn text<'py>(py: Python<'py>, bytes: &SecretBytes) -> PyResult<Bound<'py, PyString>> {
    match std::str::from_utf8(bytes.expose()) {
        Ok(text) => Ok(PyString::new(py, text)),
        // Without the bytes themselves, which an exception would show to whoever prints it.
        Err(error) => Err(PyUnicodeDecodeError::new_utf8(py, b"", error)?.into()),
    }
}

/// Saves whatever is there: others that write at the same time are replaced as well.
async fn replace(persistence: &dyn Persistence, content: &SecretBytes) -> Result<(), Error> {
    /// Whoever writes without a lock may be overtaken again and again.
    const ATTEMPTS: u32 = 32;

    for _ in 0..ATTEMPTS {
        let found = persistence.load().await?.revision;
        if let Saved::Saved(_) = persistence.save(content, &found, &Fence::open()).await? {
            return Ok(());
        }
    }
    let message = format!("{} was changed by others each time it was to be replaced", persistence.location());
    Err(Error::new(ErrorKind::Contended, "contended", message))
}
