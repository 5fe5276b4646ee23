//! A token cache of Python's, any object that is an `msal.SerializableTokenCache`, as the place where a document lies.
//!
//! It is in memory: whoever owns it decides when and where it is stored, by its `has_state_changed`.

use std::path::PathBuf;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;
use strongroom::{
    BoxFuture, Error, Fence, Loaded, Location, Persistence, Protection, Revision, Saved, SecretBytes,
};

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
        let bytes = self.locked(py, document)?;
        let revision = Revision::of_bytes(bytes.expose());
        Ok(Loaded { bytes, revision })
    }

    fn save_now(
        &self,
        py: Python<'_>,
        bytes: &SecretBytes,
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> PyResult<Saved> {
        let text = crate::persistence::text(py, bytes)?;
        self.locked(py, |object| {
            if Revision::of_bytes(document(object)?.expose()) != *expected || !fence.holds() {
                return Ok(Saved::Conflict);
            }
            object.call_method1(intern!(py, "deserialize"), (text,))?;
            object.setattr(intern!(py, "has_state_changed"), true)?;
            // It may write the same in other words.
            Ok(Saved::Saved(Revision::of_bytes(document(object)?.expose())))
        })
    }

    /// Calls with the lock that the methods of MSAL's caches take.
    fn locked<T>(&self, py: Python<'_>, call: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> PyResult<T> {
        let object = self.object.bind(py);
        let Some(lock) = object.getattr_opt(intern!(py, "_lock"))? else { return call(object) };
        lock.call_method0(intern!(py, "acquire"))?;
        let outcome = call(object);
        lock.call_method0(intern!(py, "release"))?;
        outcome
    }
}

/// What is in the cache. That it is looked at does not make it one that has been stored.
fn document(object: &Bound<'_, PyAny>) -> PyResult<SecretBytes> {
    let flag = intern!(object.py(), "has_state_changed");
    let has_changed = object.getattr_opt(flag)?;
    let text = object.call_method0(intern!(object.py(), "serialize"))?;
    if let Some(has_changed) = has_changed {
        object.setattr(flag, has_changed)?;
    }
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
            attached(|py| self.locked(py, |object| object.call_method1("deserialize", ("{}",)).map(drop)))
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
