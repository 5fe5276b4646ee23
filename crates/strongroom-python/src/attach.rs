//! Where threads and Python meet.
//!
//! A thread that is in Python while Python ends takes the process down, if there is Rust below it: Python would unwind
//! it. So a thread of the library goes in for moments only, with [`attached`]; what the program has handed in, which may
//! take its time, runs on a thread of Python's own, with nothing of Rust below, by [`call`] and [`start`]. When Python
//! begins to end, whoever is inside is waited for, and then nobody is let in any more.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// How long whoever is inside is waited for when Python ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether Python has begun to end.
static IS_ENDING: AtomicBool = AtomicBool::new(false);
/// Those who are inside.
static INSIDE: Count = Count::new();

thread_local! {
    /// Python ends in this thread, so it does not do so meanwhile.
    static ENDS_PYTHON: Cell<bool> = const { Cell::new(false) };
}

/// Calls with Python; `None` if that has ended, or is about to.
pub(crate) fn attached<T>(call: impl FnOnce(Python<'_>) -> T) -> Option<T> {
    let _inside = Inside::enter()?;
    Python::try_attach(call)
}

/// Calls a function of the program's: here if this is a thread of Python's, else on one. To be used within [`attached`].
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    arguments: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    if is_of_python(py)? {
        return function.call1(arguments);
    }
    let (sender, receiver) = mpsc::channel();
    let done = move |outcome| {
        // Whoever waits does so until it is there.
        let _ = sender.send(outcome);
    };
    start(function, &arguments, done)?;
    match outside(py, move || receiver.recv()) {
        Ok(outcome) => outcome.map(|result| result.into_bound(py)),
        Err(_) => Err(PyRuntimeError::new_err("the thread of a call has ended before the call")),
    }
}

/// Calls a function of the program's on a thread of Python's, which does not hold Python up when it ends. `done` gets what
/// it comes to, and is dropped if that is nothing.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn start(
    function: &Bound<'_, PyAny>,
    arguments: &Bound<'_, PyTuple>,
    done: impl FnOnce(PyResult<Py<PyAny>>) + Send + 'static,
) -> PyResult<()> {
    let py = function.py();
    let run = py.import(intern!(py, "strongroom._calls"))?.getattr(intern!(py, "run"))?;
    let done = Bound::new(py, Done(Mutex::new(Some(Box::new(done)))))?;
    // One of `threading` would be waited for until it has begun.
    let threads = py.import(intern!(py, "_thread"))?;
    if threads.call_method1("start_new_thread", (run, (function, arguments, &done))).is_ok() {
        return Ok(());
    }
    // Python 3.12.0 and 3.12.1 have none to give once `main` is over, while other threads live on.
    let (function, arguments, done) = (function.clone().unbind(), arguments.clone().unbind(), done.unbind());
    let call = move || {
        attached(|py| {
            let outcome = function.bind(py).call1(arguments.bind(py)).map(Bound::unbind);
            done.get().finish(py, outcome);
        });
    };
    let started = thread::Builder::new().name("strongroom-call".into()).spawn(call);
    started.map(drop).map_err(|error| PyRuntimeError::new_err(format!("no thread is to be had: {error}")))
}

/// Has Python say when it is about to end: after all that registers itself with `atexit` later.
pub(crate) fn end_with(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    IS_ENDING.store(false, Ordering::SeqCst);
    let ends = pyo3::wrap_pyfunction!(python_ends, module)?;
    py.import("atexit")?.call_method1("register", (ends,)).map(drop)
}

#[pyfunction]
fn python_ends(py: Python<'_>) {
    ENDS_PYTHON.set(true);
    IS_ENDING.store(true, Ordering::SeqCst);
    py.detach(|| {
        let until = Instant::now() + PATIENCE;
        while INSIDE.get() > 0 && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Waits without Python, within [`attached`].
fn outside<T: Send>(py: Python<'_>, wait: impl FnOnce() -> T + Send) -> T {
    py.detach(|| {
        INSIDE.leave();
        let outcome = wait();
        INSIDE.enter();
        if is_closed() {
            INSIDE.leave();
            // There is no way back, and nobody whom it would be of use to.
            loop {
                thread::park();
            }
        }
        outcome
    })
}

fn is_closed() -> bool {
    IS_ENDING.load(Ordering::SeqCst) && !ENDS_PYTHON.get()
}

/// Whether it was Python that called this thread: there is a frame of it below.
fn is_of_python(py: Python<'_>) -> PyResult<bool> {
    Ok(py.import(intern!(py, "sys"))?.call_method0(intern!(py, "_getframe")).is_ok())
}

struct Inside;

impl Inside {
    fn enter() -> Option<Self> {
        INSIDE.enter();
        // First in, then looked: who ends Python looks in the opposite order.
        let inside = Self;
        (!is_closed()).then_some(inside)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.leave();
    }
}

/// How many of something there are in this process. In a forked child there are none of its parent's.
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more. How many there are then.
    pub(crate) fn enter(&self) -> u32 {
        self.change(|count| count.saturating_add(1))
    }

    pub(crate) fn leave(&self) {
        self.change(|count| count.saturating_sub(1));
    }

    fn get(&self) -> u32 {
        self.change(|count| count)
    }

    fn change(&self, change: impl Fn(u32) -> u32) -> u32 {
        let process = u64::from(std::process::id()) << 32;
        let changed = |packed: u64| {
            let count = if packed & !u64::from(u32::MAX) == process { packed as u32 } else { 0 };
            process | u64::from(change(count))
        };
        let mut found = self.0.load(Ordering::SeqCst);
        loop {
            let new = changed(found);
            match self.0.compare_exchange_weak(found, new, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return new as u32,
                Err(other) => found = other,
            }
        }
    }
}

type Callback = Box<dyn FnOnce(PyResult<Py<PyAny>>) + Send>;

/// What a thread of Python's calls when it is done.
#[pyclass(frozen)]
struct Done(Mutex<Option<Callback>>);

#[pymethods]
impl Done {
    fn __call__(&self, py: Python<'_>, result: Py<PyAny>, error: Option<Bound<'_, PyAny>>) {
        self.finish(py, error.map_or(Ok(result), |error| Err(PyErr::from_value(error))));
    }
}

impl Done {
    fn finish(&self, py: Python<'_>, outcome: PyResult<Py<PyAny>>) {
        // Without the GIL: whoever is woken may hold a lock, and wait for the GIL.
        py.detach(|| {
            let callback = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(callback) = callback {
                callback(outcome);
            }
        });
    }
}
