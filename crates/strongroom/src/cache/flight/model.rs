//! Model checks of single flight within the process. A caller that waits in vain ends a model as a deadlock.

use shuttle::future::{block_on, yield_now};
use shuttle::rand::{Rng as _, thread_rng};
use shuttle::sync::atomic::AtomicUsize;
use shuttle::sync::atomic::Ordering::SeqCst;
use shuttle::thread;

use super::*;

/// A patience that never ends, as the models' clock goes.
const LONG: Duration = Duration::from_secs(600);
/// One that ends when the model likes.
const SHORT: Duration = Duration::from_secs(1);

/// What callers ask for: each fetch has the next number.
#[derive(Debug, Default)]
struct Provider {
    flights: Flights,
    begun: AtomicUsize,
    under_way: AtomicUsize,
    /// How many callers have had an outcome that they fetched themselves.
    fetched: AtomicUsize,
    /// The fetch that has ended last. Not one of the model's, because its end and the landing are one step.
    ended: std::sync::atomic::AtomicUsize,
}

impl Provider {
    async fn fetch(&self) -> Result<usize, Error> {
        let number = self.begun.fetch_add(1, SeqCst) + 1;
        let under_way = UnderWay::new(&self.under_way);
        yield_now().await;
        drop(under_way);
        self.ended.fetch_max(number, SeqCst);
        Ok(number)
    }

    /// As [`fetch`](Self::fetch), where only one may do so at a time.
    async fn fetch_alone(&self) -> Result<usize, Error> {
        assert_eq!(self.under_way.load(SeqCst), 0, "two fetch at a time");
        self.fetch().await
    }

    async fn ask(&self) {
        let ended = self.ended.load(SeqCst);
        let (outcome, shared) = self.flights.join("key", LONG, || self.fetch_alone()).await;
        self.deliver(*outcome.unwrap(), shared, ended);
    }

    async fn ask_impatiently(&self) {
        let ended = self.ended.load(SeqCst);
        let (outcome, shared) = self.flights.join("key", SHORT, || self.fetch()).await;
        self.deliver(*outcome.unwrap(), shared, ended);
    }

    /// Asks, and goes away at any moment.
    async fn ask_and_go_away(&self) {
        let mut looks = thread_rng().gen_range(0..4);
        let mut ask = pin!(self.ask());
        std::future::poll_fn(|context| {
            looks -= 1;
            if looks < 0 { Poll::Ready(()) } else { ask.as_mut().poll(context) }
        })
        .await;
    }

    fn deliver(&self, outcome: usize, shared: bool, ended_before: usize) {
        assert!(outcome > ended_before, "an outcome is shared with who came later");
        self.fetched.fetch_add(usize::from(!shared), SeqCst);
    }

    /// Lets callers come at once, and checks what must be so when all are gone.
    fn serve(self: &Arc<Self>, callers: &[fn(&Self)]) {
        let start = |caller: &fn(&Self)| {
            let (provider, caller) = (Arc::clone(self), *caller);
            thread::spawn(move || caller(&provider))
        };
        let threads: Vec<_> = callers.iter().map(start).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(self.under_way.load(SeqCst), 0);
    }

    fn check_fetches(&self) {
        assert_eq!(
            self.begun.load(SeqCst),
            self.fetched.load(SeqCst),
            "a fetch is cut off, or counted twice"
        );
    }

    fn check_board(&self) {
        assert!(lock(self.flights.0.get()).is_empty(), "a flight is left on the board");
    }
}

/// Ends with the fetch, also where its caller goes away.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, SeqCst);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn ask(provider: &Provider) {
    block_on(provider.ask());
}

fn ask_twice(provider: &Provider) {
    ask(provider);
    ask(provider);
}

fn ask_impatiently(provider: &Provider) {
    block_on(provider.ask_impatiently());
}

fn ask_and_go_away(provider: &Provider) {
    block_on(provider.ask_and_go_away());
}

fn check(model: fn()) {
    shuttle::check_random(model, 1000);
    shuttle::check_pct(model, 1000, 3);
}

#[test]
fn one_fetches_at_a_time_and_all_who_waited_have_its_outcome() {
    check(|| {
        let provider = Arc::new(Provider::default());
        provider.serve(&[ask_twice, ask_twice, ask_twice]);
        provider.check_fetches();
        provider.check_board();
    });
}

#[test]
fn callers_who_go_away_strand_nobody() {
    check(|| {
        let provider = Arc::new(Provider::default());
        provider.serve(&[ask, ask_and_go_away, ask, ask_and_go_away]);
        provider.check_board();
    });
}

#[test]
fn a_leader_that_nobody_polls_strands_nobody() {
    check(|| {
        let provider = Arc::new(Provider::default());
        let mut stalled =
            Box::pin(provider.flights.join("key", LONG, std::future::pending::<Result<usize, _>>));
        block_on(std::future::poll_fn(|context| {
            assert!(stalled.as_mut().poll(context).is_pending());
            Poll::Ready(())
        }));
        provider.serve(&[ask_impatiently, ask_impatiently, ask_impatiently]);
        provider.check_fetches();
        drop(stalled);
        provider.check_board();
    });
}
