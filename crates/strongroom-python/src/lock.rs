//! The lock file of the other MSALs, by itself.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use strongroom::CrossPlatLock;

use crate::error::exception;
use crate::wait::wait_for;

/// A lock file that is held.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Lock(Mutex<Option<CrossPlatLock>>);

#[pymethods]
impl Lock {
    /// Takes the lock file at ``path``, waiting at most ``timeout`` seconds.
    #[staticmethod]
    fn acquire(py: Python<'_>, path: PathBuf, timeout: f64) -> PyResult<Self> {
        let lock = wait_for(py, CrossPlatLock::acquire(path, seconds(timeout)))?;
        let lock = lock.map_err(|error| exception(py, &error))?;
        Ok(Self(Mutex::new(Some(lock))))
    }

    /// Releases the lock and deletes its file. Does nothing the second time.
    fn release(&self, py: Python<'_>) {
        py.detach(|| drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

/// Seconds as Python has them. Less than none is none, and more than can be counted is for ever.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
