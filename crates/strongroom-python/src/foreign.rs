//! A persistence that a user wrote in Python, by its own four methods.
//!
//! A hash of what it loads is the revision. Whether it has changed is asked of its `time_last_modified`, and of its
//! content while that time is too young to be relied upon.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use strongroom::{
    BoxFuture, Error, ErrorKind, Fence, Loaded, Location, Persistence, Protection, Revision, Saved,
    SecretBytes,
};

use crate::attach;
use crate::error::carried;

#[derive(Debug)]
pub(crate) struct ForeignPersistence {
    object: Py<PyAny>,
    location: PathBuf,
    is_encrypted: bool,
    seen: Mutex<Option<Seen>>,
}

/// The state of the document that was loaded or saved last.
#[derive(Debug)]
struct Seen {
    revision: Revision,
    /// `None`: nothing was there.
    modified: Option<f64>,
    /// Whether a later change must have another time.
    settled: bool,
}

impl ForeignPersistence {
    pub(crate) fn new(object: Py<PyAny>, location: PathBuf, is_encrypted: bool) -> Self {
        Self { object, location, is_encrypted, seen: Mutex::default() }
    }

    fn load_now(&self, py: Python<'_>) -> PyResult<Loaded> {
        // First: what is written while it is loaded has a later time then.
        let modified = self.modified(py)?;
        let bytes: SecretBytes = match self.call(py, "load", None) {
            Ok(text) => text.cast::<PyString>()?.to_cow()?.into_owned().into_bytes().into(),
            Err(error) if is_not_found(py, &error)? => {
                self.remember(Revision::absent(), None);
                return Ok(Loaded { bytes: SecretBytes::default(), revision: Revision::absent() });
            }
            Err(error) => return Err(error),
        };
        let revision = Revision::of_bytes(bytes.expose());
        self.remember(revision.clone(), modified);
        Ok(Loaded { bytes, revision })
    }

    fn save_now(
        &self,
        py: Python<'_>,
        bytes: &SecretBytes,
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> PyResult<Saved> {
        if self.load_now(py)?.revision != *expected || !fence.holds() {
            return Ok(Saved::Conflict);
        }
        self.call(py, "save", Some(crate::persistence::text(py, bytes)?))?;
        let revision = Revision::of_bytes(bytes.expose());
        let modified = self.modified(py)?;
        self.remember(revision.clone(), modified);
        Ok(Saved::Saved(revision))
    }

    fn is_current_now(&self, py: Python<'_>, revision: &Revision) -> PyResult<bool> {
        let modified = self.modified(py)?;
        let unchanged = match &*self.seen() {
            Some(seen) if seen.revision == *revision && seen.modified == modified => seen.settled,
            _ => return Ok(false),
        };
        Ok(unchanged || self.load_now(py)?.revision == *revision)
    }

    /// One of its methods, with what there is to save.
    fn call<'py>(
        &self,
        py: Python<'py>,
        method: &str,
        text: Option<Bound<'py, PyString>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        attach::call(&self.object.bind(py).getattr(method)?, PyTuple::new(py, text)?)
    }

    /// When it was last modified; `None` if nothing is there.
    fn modified(&self, py: Python<'_>) -> PyResult<Option<f64>> {
        match self.call(py, "time_last_modified", None) {
            Ok(time) => Ok(Some(time.extract()?)),
            Err(error) if is_not_found(py, &error)? => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn remember(&self, revision: Revision, modified: Option<f64>) {
        let settled = modified.is_none_or(is_settled);
        *self.seen() = Some(Seen { revision, modified, settled });
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what was modified then would get another time if it were modified now.
fn is_settled(modified: f64) -> bool {
    /// A tick of the clock that files are stamped with, with room to spare; where there are no fractions, of whole
    /// seconds, or of two as on FAT.
    const TICK: f64 = 0.05;
    const WHOLE: f64 = 2.0;

    let tick = if modified.fract() == 0.0 { WHOLE } else { TICK };
    // The time of a file is compared with, not that of a token.
    #[allow(clippy::disallowed_methods)]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    now - modified > tick
}

/// Whether this is a `PersistenceNotFound`, be it ours or that of `msal_extensions`.
fn is_not_found(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    let is_it = py.import("strongroom._errors")?.getattr("is_not_found")?;
    is_it.call1((error.value(py),))?.is_truthy()
}

/// Calls Python, which may have ended while a thread was here.
pub(crate) fn attached<T>(call: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T, Error> {
    let ended = || Err(Error::new(ErrorKind::Internal, "python_has_ended", "Python has ended"));
    attach::attached(call).map_or_else(ended, |result| result.map_err(carried))
}

impl Persistence for ForeignPersistence {
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
        Box::pin(async move { attached(|py| self.call(py, "save", Some(PyString::new(py, ""))).map(drop)) })
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        attached(|py| self.is_current_now(py, revision))
    }

    fn lock_path(&self) -> Option<PathBuf> {
        None
    }

    fn location(&self) -> Location {
        Location::File(self.location.clone())
    }

    fn protection(&self) -> Protection {
        // How its author keeps the key is not known: the least that encryption can be worth.
        if self.is_encrypted { Protection::HostFile } else { Protection::None }
    }

    fn kind(&self) -> &'static str {
        "python"
    }
}
