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
    Sleep { at: Deadline::after(duration).at(), alarm: None }
}

/// `future`'s output, or `None` if the deadline passes first.
pub(crate) async fn until<F: Future>(deadline: Deadline, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut alarm = Sleep { at: deadline.at(), alarm: None };
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
    /// Whom to wake, shared with the timer; emptied when this is dropped.
    alarm: Option<Slot>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() >= self.at {
            return Poll::Ready(());
        }
        match &self.alarm {
            // One alarm, however often this is polled.
            Some(alarm) => match &mut *lock(alarm) {
                Some(waker) => waker.clone_from(context.waker()),
                // It has just rung, for whoever waited then.
                None => context.waker().wake_by_ref(),
            },
            None => {
                let alarm = Arc::new(Mutex::new(Some(context.waker().clone())));
                self.alarm = Some(Arc::clone(&alarm));
                TIMER.get().wake_at(self.at, alarm);
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(alarm) = &self.alarm {
            lock(alarm).take();
        }
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
    waker: Slot,
}

/// Whom to wake; nobody any more once it has rung, or the sleep is over.
type Slot = Arc<Mutex<Option<Waker>>>;

impl Timer {
    /// How long the thread stays without an alarm before it ends.
    const IDLE: Duration = Duration::from_secs(10);

    fn wake_at(&'static self, at: Instant, waker: Slot) {
        let mut state = self.lock();
        state.alarms.push(Alarm { at, waker });
        if state.running {
            self.changed.notify_one();
        } else {
            let started = thread::Builder::new().name("strongroom-timer".into()).spawn(move || self.run());
            state.running = started.is_ok();
            if started.is_err() {
                // No thread to be had: poll again at once rather than never.
                let all = std::mem::take(&mut state.alarms);
                drop(state);
                ring(all.into_vec());
            }
        }
    }

    fn run(&self) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let mut due = Vec::new();
            while state.alarms.peek().is_some_and(|alarm| alarm.at <= now) {
                due.extend(state.alarms.pop());
            }
            if !due.is_empty() {
                // Who is woken may set an alarm, or hold a lock that somebody holds who does.
                drop(state);
                ring(due);
                state = self.lock();
                continue;
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
        lock(&self.state)
    }
}

/// Wakes those who wait. A waker is foreign code: one that panics must not end the timer.
fn ring(alarms: Vec<Alarm>) {
    for alarm in alarms {
        if let Some(waker) = lock(&alarm.waker).take() {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| waker.wake()));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn a_sleep_that_is_polled_again_and_again_sets_one_alarm_and_one_that_is_dropped_keeps_nobody() {
        let timer = || TIMER.get().lock().alarms.iter().filter(|alarm| lock(&alarm.waker).is_some()).count();
        struct Counted;
        impl Wake for Counted {
            fn wake(self: Arc<Self>) {}
        }
        let counted = Arc::new(Counted);
        let waker = Waker::from(Arc::clone(&counted));
        let mut context = Context::from_waker(&waker);
        let mut long = Box::pin(sleep(Duration::from_secs(600)));
        let before = timer();
        for _ in 0..100 {
            assert!(long.as_mut().poll(&mut context).is_pending());
        }
        assert!(Arc::strong_count(&counted) <= 3, "kept once: {}", Arc::strong_count(&counted));
        assert!(timer() <= before + 16, "other tests may set some, not a hundred");
        drop(long);
        assert_eq!(Arc::strong_count(&counted), 2);
    }

    #[test]
    fn a_waker_that_panics_does_not_end_the_timer() {
        struct Panics;
        impl Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("a waker of somebody else");
            }
        }
        let waker = Waker::from(Arc::new(Panics));
        let mut hostile = Box::pin(sleep(Duration::from_millis(1)));
        assert!(hostile.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        block_on(sleep(Duration::from_millis(20)));
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
