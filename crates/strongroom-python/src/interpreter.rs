//! Which interpreter of the process this module works in.

use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;

/// The classes belong to the interpreter that has imported them first: in another one they would be half there.
pub(crate) fn require_the_first(py: Python<'_>) -> PyResult<()> {
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
