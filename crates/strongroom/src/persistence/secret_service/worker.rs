//! The one thread that all D-Bus work of this process runs on, started at first need.
//!
//! The connection needs a runtime of its kind while it lives, whatever executor a caller has, or none. Callers
//! await a channel; who stops waiting stops the work.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::thread;

use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use crate::platform::fork::PerProcess;
use crate::wait::BoxFuture;

/// Has the thread do `operation`. It is dropped, wherever it is, when the receiver is.
///
/// # Errors
/// There is no thread to be had.
pub(super) fn start<T: Send + 'static>(
    operation: impl Future<Output = T> + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    // Of each process its own: a forked child does not have its parent's thread.
    static WORKER: PerProcess<Mutex<Option<Sender>>> = PerProcess::new(Mutex::default);

    let (answer, answered) = oneshot::channel();
    let mut job: Job = Box::pin(while_awaited(answer, operation));
    let mut worker = WORKER.get().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = &*worker {
        match sender.send(job) {
            Ok(()) => return Ok(answered),
            // The thread is gone: only a panic does that.
            Err(mpsc::error::SendError(unsent)) => job = unsent,
        }
    }
    let sender = worker.insert(start_thread()?);
    sender.send(job).map_err(|_| io::Error::other("has ended"))?;
    Ok(answered)
}

type Job = BoxFuture<'static, ()>;
type Sender = mpsc::UnboundedSender<Job>;

fn start_thread() -> io::Result<Sender> {
    let (sender, mut jobs) = mpsc::unbounded_channel::<Job>();
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("strongroom-secrets".into()).spawn(move || {
        runtime.block_on(async {
            // Beside each other: a prompt that one waits for is none of the others' business.
            while let Some(job) = jobs.recv().await {
                tokio::spawn(job);
            }
        });
    })?;
    Ok(sender)
}

async fn while_awaited<T>(mut answer: oneshot::Sender<T>, operation: impl Future<Output = T>) {
    let mut operation = pin!(operation);
    let result = poll_fn(|context| match operation.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Pin::new(&mut answer).poll_closed(context).map(|()| None),
    })
    .await;
    if let Some(result) = result {
        let _ = answer.send(result);
    }
}
