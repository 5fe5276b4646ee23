//! Single flight: of all who want the same token at the same time, one asks and the others share the answer.
//!
//! Here within one process. Where a leader's caller goes away, the next in line leads; where a leader is neither
//! polled nor dropped, the others lose patience and begin another flight. Agreeing with other processes is part of
//! what is fetched: only who leads here asks [`CredentialStore::lead`](crate::CredentialStore::lead), so that of the
//! callers of a process one waits on the host.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::sync::{AtomicBool, Mutex, MutexGuard, sleep};
use crate::Error;
use crate::platform::fork::{PerProcess, generation};

/// The flights that are under way, by what they fetch. A forked child takes no part in those of its parent.
pub(crate) struct Flights(PerProcess<Board>);

type Board = Mutex<HashMap<String, Flight>>;

#[derive(Debug, Default)]
struct Flight {
    landing: Arc<Landing>,
    /// How many callers are aboard.
    aboard: usize,
}

type Landing = OnceCell<Result<Arc<dyn Any + Send + Sync>, Error>>;

impl Flights {
    /// The outcome of `fetch`, or of the same fetch that is already under way. The second value says whether it
    /// was shared.
    ///
    /// Who has waited for another caller longer than `patience` begins another flight; who has done so twice fetches
    /// for itself.
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
        for _ in 0..2 {
            let boarding = Boarding::of(self, key);
            if let Some(landed) = boarding.land(patience, &fetch).await {
                return landed;
            }
            // Nobody else is to wait for this leader; and all who have done so are not to fetch at once.
            boarding.abandon();
        }
        (fetch().await.map(Arc::new), false)
    }
}

impl Default for Flights {
    fn default() -> Self {
        Self(PerProcess::new(Board::default))
    }
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

/// A caller's place in a flight. The last one to leave takes the flight off the board.
struct Boarding<'a> {
    board: &'a Board,
    generation: u32,
    key: &'a str,
    landing: Arc<Landing>,
}

impl<'a> Boarding<'a> {
    fn of(flights: &'a Flights, key: &'a str) -> Self {
        let board = flights.0.get();
        let mut flights = lock(board);
        let flight = flights.entry(key.to_owned()).or_default();
        // An outcome is shared by those who waited for it, never by those who come later.
        if flight.landing.initialized() {
            *flight = Flight::default();
        }
        flight.aboard += 1;
        Self { board, generation: generation(), key, landing: Arc::clone(&flight.landing) }
    }

    /// Waits for the landing, and leads if nobody else does. `None` if another leads for longer than `patience`.
    async fn land<T, F>(
        &self,
        patience: Duration,
        fetch: &impl Fn() -> F,
    ) -> Option<(Result<Arc<T>, Error>, bool)>
    where
        T: Send + Sync + 'static,
        F: Future<Output = Result<T, Error>>,
    {
        let leads = AtomicBool::new(false);
        let mut landing = pin!(self.landing.get_or_init(|| async {
            leads.store(true, Ordering::Relaxed);
            fetch().await.map(|landed| Arc::new(landed) as Arc<dyn Any + Send + Sync>)
        }));
        let mut alarm = pin!(sleep(patience));
        let landed = std::future::poll_fn(|context| {
            if !self.is_own() {
                // Whoever leads has stayed in the parent.
                return Poll::Ready(None);
            }
            match landing.as_mut().poll(context) {
                Poll::Ready(landed) => Poll::Ready(Some(landed.clone())),
                // A leader is bounded by its own request.
                Poll::Pending if leads.load(Ordering::Relaxed) => Poll::Pending,
                Poll::Pending => alarm.as_mut().poll(context).map(|()| None),
            }
        })
        .await?;
        let landed = landed.map(|landed| {
            // A key belongs to one kind of fetch, so the type is always the caller's.
            landed.downcast::<T>().expect("flights of one key fetch one type")
        });
        Some((landed, !leads.load(Ordering::Relaxed)))
    }

    /// Takes the flight off the board: who comes from now on begins another one.
    fn abandon(&self) {
        self.leave(|_| true);
    }

    fn leave(&self, is_over: impl FnOnce(&mut Flight) -> bool) {
        if !self.is_own() {
            // Another thread of the parent may have had the board locked when this process was forked.
            return;
        }
        let mut flights = lock(self.board);
        if let Some(flight) = flights.get_mut(self.key)
            && Arc::ptr_eq(&flight.landing, &self.landing)
            && is_over(flight)
        {
            flights.remove(self.key);
        }
    }

    fn is_own(&self) -> bool {
        self.generation == generation()
    }
}

impl Drop for Boarding<'_> {
    fn drop(&mut self) {
        self.leave(|flight| {
            flight.aboard -= 1;
            flight.aboard == 0
        });
    }
}

fn lock(board: &Board) -> MutexGuard<'_, HashMap<String, Flight>> {
    // Nothing under this mutex panics half-way.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[cfg(shuttle)]
mod model;

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Waker};

    use super::*;
    use crate::block_on;

    const LONG: Duration = Duration::from_secs(600);

    fn board_of(flights: &Flights) -> MutexGuard<'_, HashMap<String, Flight>> {
        lock(flights.0.get())
    }

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
        assert!(board_of(&flights).is_empty());
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
        assert!(board_of(&flights).is_empty());
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
        assert!(board_of(&flights).is_empty());
    }

    #[test]
    fn those_who_lose_patience_together_begin_one_flight_together() {
        const PATIENCE: Duration = Duration::from_millis(50);

        let flights = Flights::default();
        let fetches = AtomicUsize::new(0);
        let mut context = Context::from_waker(Waker::noop());
        let mut stalled = Box::pin(flights.join::<u8, _>("key", LONG, std::future::pending));
        assert!(stalled.as_mut().poll(&mut context).is_pending());

        let (release, gate) = tokio::sync::watch::channel(false);
        let fetch = || async {
            fetches.fetch_add(1, Ordering::Relaxed);
            gate.clone().wait_for(|open| *open).await.unwrap();
            Ok(7_u8)
        };
        let mut callers: Vec<_> = (0..3).map(|_| Box::pin(flights.join("key", PATIENCE, fetch))).collect();
        for pause in [PATIENCE, Duration::ZERO] {
            for caller in &mut callers {
                assert!(caller.as_mut().poll(&mut context).is_pending());
            }
            block_on(sleep(pause));
        }
        release.send(true).unwrap();
        let shared: Vec<_> = callers.into_iter().map(|caller| block_on(caller).1).collect();
        assert_eq!((shared, fetches.into_inner()), (vec![false, true, true], 1));
        drop(stalled);
        assert!(board_of(&flights).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_forked_child_takes_no_part_in_the_flights_of_its_parent() {
        let flights = Flights::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut leader = Some(Box::pin(flights.join::<u8, _>("key", LONG, std::future::pending)));
        assert!(leader.as_mut().unwrap().as_mut().poll(&mut context).is_pending());
        let mut waiter = Box::pin(flights.join("key", LONG, || async { Ok(1_u8) }));
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        // As another thread may have it at the moment of the fork.
        let locked = board_of(&flights);
        assert!(crate::platform::fork::in_child(|| {
            let (own, shared) = block_on(flights.join("key", LONG, || async { Ok(2_u8) }));
            let has_own = !shared && *own.unwrap() == 2;
            let (inherited, shared) = block_on(&mut waiter);
            leader.take();
            has_own && !shared && *inherited.unwrap() == 1 && board_of(&flights).is_empty()
        }));
        assert_eq!(locked["key"].aboard, 2);
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
        assert!(board_of(&flights).is_empty());
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
