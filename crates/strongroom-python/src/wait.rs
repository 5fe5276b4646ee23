//! Waiting without the GIL, so that other threads run, and with an ear for Ctrl-C.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

/// How often somebody who waits looks for signals.
const ATTENTION: Duration = Duration::from_millis(50);

/// Runs `future` to its end, without the GIL.
///
/// # Errors
/// What a signal handler of Python raises, `KeyboardInterrupt` by default. The future is dropped then, so a lock that was
/// waited for is not taken.
pub(crate) fn wait_for<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future + Send,
    F::Output: Send,
{
    Ok(drive(py, future, None)?.expect("there is no deadline"))
}

/// The same, but no longer than this.
///
/// # Errors
/// As [`wait_for`].
pub(crate) fn wait_at_most<F>(py: Python<'_>, patience: Duration, future: F) -> PyResult<Option<F::Output>>
where
    F: Future + Send,
    F::Output: Send,
{
    drive(py, future, Some(Instant::now() + patience))
}

fn drive<F>(py: Python<'_>, future: F, until: Option<Instant>) -> PyResult<Option<F::Output>>
where
    F: Future + Send,
    F::Output: Send,
{
    py.detach(|| {
        let mut future = pin!(future);
        // What a look at a file answers is not to pay for a waker and a clock.
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return Ok(Some(output));
        }
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut looked = Instant::now();
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                return Ok(Some(output));
            }
            let left = until.map_or(ATTENTION, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(None);
            }
            thread::park_timeout(left.min(ATTENTION));
            if looked.elapsed() >= ATTENTION {
                // Does nothing in threads other than the main one: there signals are not handled. When Python ends
                // nobody is there to be told.
                Python::try_attach(|py| py.check_signals()).unwrap_or(Ok(()))?;
                looked = Instant::now();
            }
        }
    })
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
