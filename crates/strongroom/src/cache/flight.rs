//! Single flight: of all who want the same token at the same time, one asks and the others share the answer.
//!
//! Here within one process. Where a leader's caller goes away, the next in line leads; where a leader is neither
//! polled nor dropped, the others lose patience and ask for themselves.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::{Error, wait};

/// The flights that are under way, by what they fetch.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<String, Arc<Flight>>>);

#[derive(Debug, Default)]
struct Flight {
    outcome: OnceCell<Result<Landed, Error>>,
    /// How many callers are aboard. Changed only under the lock of the board.
    aboard: AtomicUsize,
}

type Landed = Arc<dyn std::any::Any + Send + Sync>;

impl Flights {
    /// The outcome of `fetch`, or of the same fetch that is already under way. The second value says whether it
    /// was shared. Who has waited for another caller longer than `patience` fetches for itself.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) async fn join<T, F>(
        &self,
        key: &str,
        patience: Duration,
        fetch: impl Fn() -> F,
    ) -> (Result<Arc<T>, Error>, bool)
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Error>>,
    {
        let boarding = self.board(key);
        let leads = AtomicBool::new(false);
        let landed = {
            let mut landing = pin!(boarding.flight.outcome.get_or_init(|| async {
                leads.store(true, Ordering::Relaxed);
                fetch().await.map(|landed| Arc::new(landed) as Landed)
            }));
            let mut alarm = pin!(wait::sleep(patience));
            std::future::poll_fn(|context| match landing.as_mut().poll(context) {
                Poll::Ready(landed) => Poll::Ready(Some(landed.clone())),
                // A leader is bounded by its own request.
                Poll::Pending if leads.load(Ordering::Relaxed) => Poll::Pending,
                Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
            })
            .await
        };
        drop(boarding);
        let Some(landed) = landed else { return (fetch().await.map(Arc::new), false) };
        let landed = landed.map(|landed| {
            // A key belongs to one kind of fetch, so the type is always the caller's.
            landed.downcast::<T>().expect("flights of one key fetch one type")
        });
        (landed, !leads.load(Ordering::Relaxed))
    }

    fn board<'a>(&'a self, key: &'a str) -> Boarding<'a> {
        let mut flights = self.flights();
        let flight = flights.entry(key.to_owned()).or_default();
        // An outcome is shared by those who waited for it, never by those who come later.
        if flight.outcome.initialized() {
            *flight = Arc::default();
        }
        flight.aboard.fetch_add(1, Ordering::Relaxed);
        Boarding { flights: self, key, flight: Arc::clone(flight) }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<String, Arc<Flight>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A caller's place in a flight; the last one to leave, or the first after the landing, takes the flight off the
/// board.
struct Boarding<'a> {
    flights: &'a Flights,
    key: &'a str,
    flight: Arc<Flight>,
}

impl Drop for Boarding<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.flights();
        let was_last = self.flight.aboard.fetch_sub(1, Ordering::Relaxed) == 1;
        let over = was_last || self.flight.outcome.initialized();
        if over && flights.get(self.key).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::block_on;

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_fetch() {
        let flights = Flights::default();
        let fetches = AtomicUsize::new(0);
        let (release, gate) = tokio::sync::watch::channel(false);
        let ask = || {
            let gate = gate.clone();
            let fetches = &fetches;
            let flights = &flights;
            async move {
                let fetch = || async {
                    fetches.fetch_add(1, Ordering::Relaxed);
                    gate.clone().wait_for(|open| *open).await.unwrap();
                    Ok(7)
                };
                let (outcome, shared) = flights.join("key", LONG, fetch).await;
                (*outcome.unwrap(), shared)
            }
        };
        let (first, second, third, ()) = tokio::join!(ask(), ask(), ask(), async {
            release.send(true).unwrap();
        });
        assert_eq!((first, second, third), ((7, false), (7, true), (7, true)));
        assert_eq!(fetches.load(Ordering::Relaxed), 1);
        assert!(flights.flights().is_empty());
    }

    #[test]
    fn when_the_leader_goes_away_the_next_one_leads() {
        let flights = Flights::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut leader = Box::pin(flights.join::<u8, _>("key", LONG, std::future::pending));
        assert!(leader.as_mut().poll(&mut context).is_pending());
        let mut next = pin!(flights.join("key", LONG, || async { Ok(1_u8) }));
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(leader);
        let Poll::Ready((outcome, shared)) = next.as_mut().poll(&mut context) else {
            panic!("the next one does not lead")
        };
        assert_eq!((*outcome.unwrap(), shared), (1, false));
        assert!(flights.flights().is_empty());
    }

    #[test]
    fn a_leader_that_nobody_polls_holds_the_others_up_only_for_a_while() {
        let flights = Flights::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut leader = Box::pin(flights.join::<u8, _>("key", LONG, std::future::pending));
        assert!(leader.as_mut().poll(&mut context).is_pending());
        let impatient = flights.join("key", Duration::from_millis(1), || async { Ok(1_u8) });
        let (outcome, shared) = block_on(impatient);
        assert_eq!((*outcome.unwrap(), shared), (1, false));
        drop(leader);
        assert!(flights.flights().is_empty());
    }

    #[test]
    fn callers_that_all_go_away_leave_nothing_behind() {
        let flights = Flights::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut callers: Vec<_> =
            (0..3).map(|_| Box::pin(flights.join::<u8, _>("key", LONG, std::future::pending))).collect();
        for caller in &mut callers {
            assert!(caller.as_mut().poll(&mut context).is_pending());
        }
        drop(callers);
        assert!(flights.flights().is_empty());
    }

    #[test]
    fn a_failure_is_shared_and_the_next_caller_tries_again() {
        let flights = Flights::default();
        let failing = || async { Err::<u8, _>(Error::new(crate::ErrorKind::Network, "test", "no")) };
        assert!(block_on(flights.join("key", LONG, failing)).0.is_err());
        assert_eq!(*block_on(flights.join("key", LONG, || async { Ok(2_u8) })).0.unwrap(), 2);
    }

    #[test]
    fn a_slow_key_does_not_delay_another() {
        let flights = Flights::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut slow = pin!(flights.join::<u8, _>("slow", LONG, std::future::pending));
        assert!(slow.as_mut().poll(&mut context).is_pending());
        assert_eq!(*block_on(flights.join("fast", LONG, || async { Ok(3_u8) })).0.unwrap(), 3);
    }
}
