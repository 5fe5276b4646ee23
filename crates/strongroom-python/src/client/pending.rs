//! Work that is not done yet: waited for by a thread, or by an event loop of asyncio that is woken when there is progress.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::attach::attached;
use crate::wait::wait_for;

type Finish = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
type Work = Pin<Box<dyn Future<Output = Finish> + Send>>;

/// An operation under way.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Pending(Mutex<Option<Work>>);

impl Pending {
    /// What `future` comes to, as `finish` shows it to Python.
    pub(super) fn new<F, T>(
        future: F,
        finish: impl FnOnce(Python<'_>, F::Output) -> PyResult<T> + Send + 'static,
    ) -> Self
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
        T: for<'py> IntoPyObject<'py>,
    {
        let work = async move {
            let output = future.await;
            let finish: Finish = Box::new(move |py| {
                let made = finish(py, output)?;
                pyo3::IntoPyObjectExt::into_py_any(made, py)
            });
            finish
        };
        Self(Mutex::new(Some(Box::pin(work))))
    }

    fn take(&self) -> PyResult<Work> {
        let work = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        work.ok_or_else(|| PyRuntimeError::new_err("it is done, or somebody else waits for it"))
    }
}

#[pymethods]
impl Pending {
    /// Waits in this thread, without the GIL, until it is done.
    fn wait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let work = self.take()?;
        wait_for(py, work)?(py)
    }

    /// Goes on as far as is possible now. What it came to, in a tuple; or ``None``, and ``wake`` will be called, by
    /// whatever thread, when there is reason to try again.
    fn poll(&self, py: Python<'_>, wake: Py<PyAny>) -> PyResult<Option<(Py<PyAny>,)>> {
        let mut work = self.take()?;
        let waker = Waker::from(Arc::new(Call(Mutex::new(Some(wake)))));
        // Without the GIL: whoever calls the waker may hold a lock that is waited for here, and waits for the GIL.
        let polled = py.detach(|| match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(finish) => Some(finish),
            Poll::Pending => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
                None
            }
        });
        polled.map(|finish| Ok((finish(py)?,))).transpose()
    }

    /// Gives up. What others wait for too, or what goes on in the background, goes on.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

/// Calls Python once.
struct Call(Mutex<Option<Py<PyAny>>>);

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let call = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(call) = call {
            // An event loop that is closed meanwhile cannot be told, nor a Python that has ended.
            let _ = attached(|py| call.call0(py));
        }
    }
}
