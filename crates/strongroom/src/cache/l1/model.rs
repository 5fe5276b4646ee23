//! Model checks of the memory in front of the store.

use shuttle::rand::{Rng as _, thread_rng};
use shuttle::sync::atomic::{AtomicUsize as Step, Ordering::SeqCst};
use shuttle::thread;

use super::*;
use crate::schema::{Partition, TokenScheme};
use crate::{SecretString, UnixSeconds};

/// Room for two entries of the three that there are.
const BOUND: usize = 2 * (OVERHEAD + 200);

/// A token of one of three requests, as the store has it at `generation`.
fn token(request: usize, generation: usize) -> (L1Key, Arc<AccessToken>) {
    let token = AccessToken {
        home_account_id: None,
        environment: "h".into(),
        client_id: "c".into(),
        realm: "r".into(),
        target: ["a", "b", "c"][request].into(),
        secret: SecretString::from("x".repeat(generation)),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: UnixSeconds::new(generation as i64),
        expires_on: UnixSeconds::new(1),
        extended_expires_on: UnixSeconds::new(1),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    };
    let key = Partition::of_access_token(&token).access_token(&token.target, &TokenScheme::Bearer, None);
    (L1Key::new(key), Arc::new(token))
}

/// Asks the memory, then the store, in the order of a look-up. The generation of the store that the answer is of.
fn look(l1: &L1, store: &Step, request: usize) -> usize {
    let generation = store.load(SeqCst);
    let (key, _) = token(request, 0);
    let found = l1.get(&key, &Environments::of("h"), generation as u64).unwrap_or_else(|| {
        let (key, token) = token(request, store.load(SeqCst));
        l1.insert(key, Arc::clone(&token), generation as u64);
        token
    });
    found.cached_at.get() as usize
}

/// What holds whenever nobody is in the middle of an insertion.
fn check(l1: &L1) {
    let hand = l1.hand.lock().unwrap();
    let bytes = l1.bytes.load(Ordering::Relaxed);
    assert!(bytes <= BOUND, "{bytes}");
    let entries: Vec<_> = hand
        .iter()
        .map(|key| l1.entries.get_or_init(Entries::default).pin().get(key).expect("a key has an entry"))
        .collect();
    assert_eq!(entries.iter().map(|slot| slot.bytes).sum::<usize>(), bytes, "the counter drifts");
    assert_eq!(
        l1.entries.get_or_init(Entries::default).len(),
        hand.len(),
        "an entry is out of the hand's reach"
    );
}

fn readers_beside_a_writer() {
    let l1 = Arc::new(L1::new(BOUND));
    let store = Arc::new(Step::new(1));
    let mut threads: Vec<_> = (0..3)
        .map(|_| {
            let (l1, store) = (Arc::clone(&l1), Arc::clone(&store));
            thread::spawn(move || {
                for _ in 0..4 {
                    let before = store.load(SeqCst);
                    let answer = look(&l1, &store, thread_rng().gen_range(0..3));
                    assert!(answer >= before, "of generation {answer}, the store was at {before} already");
                    check(&l1);
                }
            })
        })
        .collect();
    threads.push(thread::spawn(move || {
        for _ in 0..3 {
            store.fetch_add(1, SeqCst);
            check(&l1);
        }
    }));
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn nothing_stale_is_served_and_the_bound_and_the_counter_hold() {
    shuttle::check_random(readers_beside_a_writer, 1000);
    shuttle::check_pct(readers_beside_a_writer, 1000, 3);
}
