//! A token cache of Python's, any object that is an `msal.SerializableTokenCache`, as the place where a document lies.
//!
//! It is in memory: whoever owns it decides when and where it is stored, by its `has_state_changed`.

use std::path::PathBuf;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use strongroom::{
    BoxFuture, Error, Fence, Loaded, Location, Persistence, Protection, Revision, Saved, SecretBytes,
};

use crate::attach;
use crate::foreign::attached;

#[derive(Debug)]
pub(crate) struct SerializedPersistence {
    object: Py<PyAny>,
}

impl SerializedPersistence {
    pub(crate) fn new(object: Py<PyAny>) -> Self {
        Self { object }
    }

    fn load_now(&self, py: Python<'_>) -> PyResult<Loaded> {
        let bytes = bytes(&self.document(py)?)?;
        let revision = Revision::of_bytes(bytes.expose());
        Ok(Loaded { bytes, revision })
    }

    fn save_now(
        &self,
        py: Python<'_>,
        text: &SecretBytes,
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> PyResult<Saved> {
        let found = self.document(py)?;
        if Revision::of_bytes(bytes(&found)?.expose()) != *expected || !fence.holds() {
            return Ok(Saved::Conflict);
        }
        let text = crate::persistence::text(py, text)?.into_any();
        let saved = self.call(py, "save", &[text, found])?;
        if saved.is_none() {
            return Ok(Saved::Conflict);
        }
        Ok(Saved::Saved(Revision::of_bytes(bytes(&saved)?.expose())))
    }

    /// What is in the cache.
    fn document<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, "load", &[])
    }

    fn call<'py>(
        &self,
        py: Python<'py>,
        function: &str,
        arguments: &[Bound<'py, PyAny>],
    ) -> PyResult<Bound<'py, PyAny>> {
        let function = py.import(intern!(py, "strongroom._serialized"))?.getattr(function)?;
        let object = std::iter::once(self.object.bind(py));
        let arguments: Vec<_> = object.chain(arguments).collect();
        attach::call(&function, PyTuple::new(py, arguments)?)
    }
}

/// A document, which is nothing where there is none.
fn bytes(text: &Bound<'_, PyAny>) -> PyResult<SecretBytes> {
    if text.is_none() {
        return Ok(SecretBytes::default());
    }
    Ok(text.cast::<PyString>()?.to_cow()?.into_owned().into_bytes().into())
}

impl Persistence for SerializedPersistence {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        Box::pin(async move { attached(|py| self.load_now(py)) })
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        Box::pin(async move { attached(|py| self.save_now(py, bytes, expected, fence)) })
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            attached(|py| {
                let empty = PyString::new(py, "{}").into_any();
                self.call(py, "save", &[empty, self.document(py)?]).map(drop)
            })
        })
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        attached(|py| Ok(self.load_now(py)?.revision == *revision))
    }

    fn lock_path(&self) -> Option<PathBuf> {
        None
    }

    fn location(&self) -> Location {
        Location::Memory
    }

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn kind(&self) -> &'static str {
        "python"
    }
}
