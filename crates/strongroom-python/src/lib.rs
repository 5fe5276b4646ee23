//! Strongroom for Python: the native half of the package `strongroom`, whose other half is Python.
//!
//! Here is what must be fast or must wait; the names and signatures of `msal_extensions`, and how the classes of `msal` are
//! used, are Python's. Everything that waits does so without the GIL, and no Rust lock is waited for while it is held.

mod cache;
mod error;
mod foreign;
mod json;
mod lock;
mod log;
mod persistence;
mod query;
mod wait;

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// The native half of the package.
#[pyo3::pymodule(gil_used = true)]
mod _strongroom {
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const version: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use super::cache::Cache;
    #[pymodule_export]
    use super::lock::Lock;
    #[pymodule_export]
    use super::persistence::{NativePersistence, is_sealed};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        super::require_one_interpreter(module.py())?;
        super::log::install();
        Ok(())
    }
}

/// The classes belong to the interpreter that has imported them first: in another one they would be half there.
fn require_one_interpreter(py: Python<'_>) -> PyResult<()> {
    static OWNER: AtomicUsize = AtomicUsize::new(0);

    // Each interpreter has its own, as long as it lives.
    let own = py.import("sys")?.getattr("modules")?.as_ptr() as usize;
    match OWNER.compare_exchange(0, own, Ordering::Relaxed, Ordering::Relaxed) {
        Err(owner) if owner != own => Err(PyImportError::new_err(
            "strongroom does not work in sub-interpreters: another interpreter of this process has imported it",
        )),
        _ => Ok(()),
    }
}
