//! The lead in fetching a token, among the processes of this host.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

/// What an attempt to lead has come to, and the lead itself if it was taken.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Lead {
    /// ``taken``: look again, fetch, store, then release it. ``ended``: somebody else led and is done: look again.
    /// ``busy``: somebody else still leads. ``unavailable``: nothing can be agreed here.
    #[pyo3(get)]
    state: &'static str,
    held: Mutex<Option<strongroom::LeadGuard>>,
}

impl Lead {
    pub(crate) fn new(lead: strongroom::Lead) -> Self {
        let (state, held) = match lead {
            strongroom::Lead::Taken(guard) => ("taken", Some(guard)),
            strongroom::Lead::Ended => ("ended", None),
            strongroom::Lead::Busy => ("busy", None),
            _ => ("unavailable", None),
        };
        Self { state, held: Mutex::new(held) }
    }
}

#[pymethods]
impl Lead {
    /// Lets the next one lead. Does nothing the second time.
    fn release(&self, py: Python<'_>) {
        py.detach(|| drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}
