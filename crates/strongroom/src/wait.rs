//! Waiting without an asynchronous runtime: a future driven on the calling thread, and a timer.
//!
//! The library works under any runtime and under none, so it brings the little that it needs: [`block_on`] parks
//! the calling thread, and one timer thread, started at the first wait and ended when idle, wakes those whose
//! time has come. Also the boxed future that this library's traits return.

use std::collections::BinaryHeap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::platform::fork::PerProcess;
use crate::time::Deadline;

/// A boxed future, so that the traits of this library can be used as trait objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs `future` to its end on this thread.
///
/// This is the blocking form of every awaitable of this library; none of them needs a runtime. Do not call it
/// inside an asynchronous task: it would block the runtime's thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

/// Completes after `duration`.
pub(crate) fn sleep(duration: Duration) -> Sleep {
    Sleep { at: Deadline::after(duration).at() }
}

/// `future`'s output, or `None` if the deadline passes first.
pub(crate) async fn until<F: Future>(deadline: Deadline, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut alarm = Sleep { at: deadline.at() };
    std::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        Pin::new(&mut alarm).poll(context).map(|()| None)
    })
    .await
}

/// The future of [`sleep`].
#[derive(Debug)]
pub(crate) struct Sleep {
    at: Instant,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        TIMER.get().wake_at(self.at, context.waker().clone());
        Poll::Pending
    }
}

/// Of each process its own: a forked child does not have its parent's thread.
static TIMER: PerProcess<Timer> = PerProcess::new(Timer::default);

#[derive(Default)]
struct Timer {
    state: Mutex<TimerState>,
    changed: Condvar,
}

#[derive(Default)]
struct TimerState {
    alarms: BinaryHeap<Alarm>,
    running: bool,
}

struct Alarm {
    at: Instant,
    waker: Waker,
}

impl Timer {
    /// How long the thread stays without an alarm before it ends.
    const IDLE: Duration = Duration::from_secs(10);

    fn wake_at(&'static self, at: Instant, waker: Waker) {
        let mut state = self.lock();
        state.alarms.push(Alarm { at, waker });
        if state.running {
            self.changed.notify_one();
        } else {
            let started = thread::Builder::new().name("strongroom-timer".into()).spawn(move || self.run());
            state.running = started.is_ok();
            if started.is_err() {
                // No thread to be had: poll again at once rather than never.
                for alarm in state.alarms.drain() {
                    alarm.waker.wake();
                }
            }
        }
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            while state.alarms.peek().is_some_and(|alarm| alarm.at <= now) {
                if let Some(alarm) = state.alarms.pop() {
                    alarm.waker.wake();
                }
            }
            let wait = state.alarms.peek().map_or(Self::IDLE, |alarm| alarm.at - now);
            let (guard, result) =
                self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if result.timed_out() && state.alarms.is_empty() {
                state.running = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, TimerState> {
        // A waker that panicked leaves the heap whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Alarm {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Alarm {}

impl PartialOrd for Alarm {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Alarm {
    /// The earliest alarm is the greatest, so that the heap yields it first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_ends_and_a_wait_that_never_ends_is_cut_off() {
        block_on(sleep(Duration::from_millis(1)));
        let never = std::future::pending::<()>();
        assert!(block_on(until(Deadline::after(Duration::from_millis(1)), never)).is_none());
        assert_eq!(block_on(until(Deadline::after(Duration::from_secs(60)), async { 7 })), Some(7));
    }

    #[test]
    fn alarms_set_by_many_threads_all_ring() {
        let threads: Vec<_> =
            (0..16).map(|n| thread::spawn(move || block_on(sleep(Duration::from_millis(n))))).collect();
        for thread in threads {
            thread.join().expect("the sleeper does not panic");
        }
    }
}
