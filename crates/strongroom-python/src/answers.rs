//! What was asked before, and what the answer was: an application asks the same again and again.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyString, PyTuple};
use strongroom::UnixSeconds;

/// Who asks more different questions than that has them all answered anew.
const MOST: usize = 256;

/// The answers that are known, by their questions. A dictionary of Python's: it knows the hash of a text that it has seen
/// before, and is guarded by the GIL, which a fork has as well.
pub(crate) struct Answers(Py<PyDict>);

/// What is asked: the section, the number of scopes, the scopes, and the fields with their values.
pub(crate) struct Question<'py>(Bound<'py, PyTuple>);

/// Entries of one generation of the document.
#[pyclass(frozen)]
pub(crate) struct Answer {
    generation: u64,
    since: UnixSeconds,
    until: Option<UnixSeconds>,
    entries: Py<PyList>,
}

impl Answers {
    pub(crate) fn new(py: Python<'_>) -> Self {
        Self(PyDict::new(py).unbind())
    }

    pub(crate) fn get<'py>(&self, question: &Question<'py>) -> PyResult<Option<Bound<'py, Answer>>> {
        match self.0.bind(question.0.py()).get_item(&question.0) {
            Ok(answer) => answer.map(|answer| Ok(answer.cast_into()?)).transpose(),
            Err(error) if is_unhashable(&error, question.0.py()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps an answer, unless it is none, or its entries could be changed through their copies.
    pub(crate) fn keep(&self, question: Question<'_>, answer: Answer) -> PyResult<()> {
        let py = question.0.py();
        let entries = answer.entries.bind(py);
        if entries.is_empty() || !entries.iter().all(|entry| is_flat(&entry)) {
            return Ok(());
        }
        let answers = self.0.bind(py);
        if answers.len() >= MOST {
            answers.clear();
        }
        match answers.set_item(question.0, Bound::new(py, answer)?) {
            Err(error) if !is_unhashable(&error, py) => Err(error),
            _ => Ok(()),
        }
    }
}

impl<'py> Question<'py> {
    /// `None` if scopes and fields are given as something else than a list and a dictionary.
    pub(crate) fn of(
        kind: &Bound<'py, PyAny>,
        target: Option<&Bound<'py, PyAny>>,
        query: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Self>> {
        let Ok(target) = target.map(|target| target.cast::<PyList>()).transpose() else { return Ok(None) };
        let Ok(query) = query.map(|query| query.cast::<PyDict>()).transpose() else { return Ok(None) };
        let scopes = target.map_or(0, |target| target.len());
        let fields = query.map_or(0, |query| query.len());
        let mut parts = Vec::with_capacity(2 + scopes + 2 * fields);
        parts.push(kind.clone());
        parts.push(PyInt::new(kind.py(), scopes).into_any());
        parts.extend(target.into_iter().flatten());
        parts.extend(query.into_iter().flatten().flat_map(|(name, value)| [name, value]));
        Ok(Some(Self(PyTuple::new(kind.py(), parts)?)))
    }
}

impl Answer {
    /// The answer that `generation` gives at `now`, and until the first of its tokens ends.
    pub(crate) fn new(
        generation: u64,
        now: UnixSeconds,
        until: Option<UnixSeconds>,
        entries: &Bound<'_, PyList>,
    ) -> Self {
        Self { generation, since: now, until, entries: entries.clone().unbind() }
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn holds_at(&self, now: UnixSeconds) -> bool {
        self.since <= now && self.until.is_none_or(|until| now <= until)
    }

    pub(crate) fn entries<'py>(&self, py: Python<'py>) -> Bound<'py, PyList> {
        self.entries.bind(py).clone()
    }
}

/// Whether a copy of it shares nothing with it that can be changed.
fn is_flat(entry: &Bound<'_, PyAny>) -> bool {
    let is_plain = |value: &Bound<'_, PyAny>| {
        value.is_none() || value.is_instance_of::<PyString>() || value.is_instance_of::<PyInt>()
    };
    entry.cast::<PyDict>().is_ok_and(|entry| entry.values().iter().all(|value| is_plain(&value)))
}

/// Something that is asked for cannot be hashed: such a question is not remembered.
fn is_unhashable(error: &PyErr, py: Python<'_>) -> bool {
    error.is_instance_of::<PyTypeError>(py)
}
