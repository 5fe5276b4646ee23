//! The provider for code that has no runtime of its own, tests above all: a thread, a handle, and an
//! end when the handle is dropped.

use std::ops::Deref;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io};

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::control::Stats;
use crate::error::StsError;
use crate::server::{Config, Sts};

/// Starts a provider on a thread and runtime of its own and waits until it accepts connections.
///
/// ```
/// use strongroom_sts::{Config, Endpoint, Fault};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let sts = strongroom_sts::spawn(Config::new(folder.path()))?;
/// assert!(sts.ready().authority.starts_with("https://localhost:"));
/// sts.add_fault(Fault::new(Endpoint::Token).status(503).times(2))?;
/// assert_eq!(sts.stats().token, 0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`Sts::start`], or [`StsError::Thread`].
pub fn spawn(config: Config) -> Result<RunningSts, StsError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("strongroom-sts")
        .enable_all()
        .build()
        .map_err(StsError::Thread)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let (started, start) = std::sync::mpsc::channel();
    let thread = thread::Builder::new()
        .name("strongroom-sts".to_owned())
        .spawn(move || {
            let sts = runtime.block_on(Sts::start(config));
            // Nobody listens any more if the caller's thread has died; then there is no need to stay.
            if started.send(sts).is_ok() {
                let _ = runtime.block_on(stopped);
            }
            runtime.shutdown_background();
        })
        .map_err(StsError::Thread)?;
    let sts = start.recv().unwrap_or_else(|_| {
        Err(StsError::Thread(io::Error::other("it ended before the provider was ready")))
    })?;
    Ok(RunningSts { sts, stop: Some(stop), thread: Some(thread) })
}

/// A provider on its own thread, to be used as an [`Sts`]. Dropping it ends it at once, requests under way
/// included.
pub struct RunningSts {
    sts: Sts,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningSts {
    /// Waits until the statistics are as wished, such as `|s| s.held == 16`; `None` if they are not
    /// within `timeout`.
    pub fn wait_for_stats(&self, timeout: Duration, wished: impl FnMut(&Stats) -> bool) -> Option<Stats> {
        self.sts.control().wait_for_stats(timeout, wished)
    }
}

impl Deref for RunningSts {
    type Target = Sts;

    fn deref(&self) -> &Sts {
        &self.sts
    }
}

impl fmt::Debug for RunningSts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningSts").field("ready", self.ready()).finish_non_exhaustive()
    }
}

impl Drop for RunningSts {
    fn drop(&mut self) {
        // Dropping the sender is the order to stop.
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}
