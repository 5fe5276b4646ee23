//! Strongroom for Python: the native half of the package `strongroom`, whose other half is Python.
//!
//! Here is what must be fast or must wait; the names and signatures of `msal_extensions`, and how the classes of `msal` are
//! used, are Python's. Everything that waits does so without the GIL, and no Rust lock is waited for while it is held.

mod answers;
mod attach;
mod cache;
mod client;
mod error;
mod foreign;
mod interpreter;
mod json;
mod lead;
mod lock;
mod locked;
mod log;
mod persistence;
mod query;
mod serialized;
mod wait;

/// The native half of the package.
#[pyo3::pymodule(gil_used = true)]
mod _strongroom {
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const version: &str = env!("CARGO_PKG_VERSION");
    #[pymodule_export]
    use super::cache::Cache;
    #[pymodule_export]
    use super::client::{Application, BlockingApplication, Credential, Pending, Transport};
    #[pymodule_export]
    use super::lead::Lead;
    #[pymodule_export]
    use super::lock::Lock;
    #[pymodule_export]
    use super::persistence::{NativePersistence, is_sealed};

    #[pymodule_init]
    fn init(module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        super::interpreter::require_the_first(module.py())?;
        super::attach::end_with(module.py(), module)?;
        super::log::install();
        Ok(())
    }
}
