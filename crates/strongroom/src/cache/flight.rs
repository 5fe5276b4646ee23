//! Single flight: of all who want the same token at the same time, one asks and the others share the answer.
//!
//! Here within one process. Where a leader's caller goes away, the next in line leads.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

use crate::Error;

/// The flights that are under way, by what they fetch.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<String, Arc<Flight>>>);

type Flight = OnceCell<Result<Landed, Error>>;
type Landed = Arc<dyn std::any::Any + Send + Sync>;

impl Flights {
    /// The outcome of `fetch`, or of the same fetch that is already under way. The second value says whether it
    /// was shared.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) async fn join<T, F>(&self, key: &str, fetch: F) -> (Result<Arc<T>, Error>, bool)
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Error>>,
    {
        let flight = Arc::clone(self.flights().entry(key.to_owned()).or_default());
        let boarding = Boarding { flights: self, key, flight: &flight };
        let mut led = false;
        let outcome = flight
            .get_or_init(|| async {
                led = true;
                fetch.await.map(|landed| Arc::new(landed) as Landed)
            })
            .await
            .clone();
        drop(boarding);
        let landed = outcome.map(|landed| {
            // A key belongs to one kind of fetch, so the type is always the caller's.
            landed.downcast::<T>().expect("flights of one key fetch one type")
        });
        (landed, !led)
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
    flight: &'a Arc<Flight>,
}

impl Drop for Boarding<'_> {
    fn drop(&mut self) {
        let mut flights = self.flights.flights();
        // The map holds one reference and this caller one.
        let over = self.flight.initialized() || Arc::strong_count(self.flight) <= 2;
        if over && flights.get(self.key).is_some_and(|flight| Arc::ptr_eq(flight, self.flight)) {
            flights.remove(self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::block_on;

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_fetch() {
        let flights = Flights::default();
        let fetches = AtomicUsize::new(0);
        let (release, gate) = tokio::sync::watch::channel(false);
        let ask = || {
            let mut gate = gate.clone();
            let fetches = &fetches;
            let flights = &flights;
            async move {
                let fetch = async {
                    fetches.fetch_add(1, Ordering::Relaxed);
                    gate.wait_for(|open| *open).await.unwrap();
                    Ok(7)
                };
                let (outcome, shared) = flights.join("key", fetch).await;
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
        let mut leader = Box::pin(flights.join::<u8, _>("key", std::future::pending()));
        assert!(leader.as_mut().poll(&mut context).is_pending());
        let mut next = pin!(flights.join("key", async { Ok(1_u8) }));
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(leader);
        let Poll::Ready((outcome, shared)) = next.as_mut().poll(&mut context) else {
            panic!("the next one does not lead")
        };
        assert_eq!((*outcome.unwrap(), shared), (1, false));
        assert!(flights.flights().is_empty());
    }

    #[test]
    fn a_failure_is_shared_and_the_next_caller_tries_again() {
        let flights = Flights::default();
        let failing = async { Err::<u8, _>(Error::new(crate::ErrorKind::Network, "test", "no")) };
        assert!(block_on(flights.join("key", failing)).0.is_err());
        assert_eq!(*block_on(flights.join("key", async { Ok(2_u8) })).0.unwrap(), 2);
    }

    #[test]
    fn a_slow_key_does_not_delay_another() {
        let flights = Flights::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut slow = pin!(flights.join::<u8, _>("slow", std::future::pending()));
        assert!(slow.as_mut().poll(&mut context).is_pending());
        assert_eq!(*block_on(flights.join("fast", async { Ok(3_u8) })).0.unwrap(), 3);
    }
}
