//! Clocks that are wrong, and times beyond what a program expects: nobody is kept out, nothing wrong is served, and
//! what is written can be read by all.

use serde_json::{Value, json};
use strongroom::{
    AccessToken, AuthenticationResult, DocumentStore, Environments, ErrorKind, FilePersistence, Renewal,
    TokenCache, TokenSource, UnixSeconds, block_on,
};
use strongroom_sts::{Endpoint, Fault, Lifetimes};

use crate::client_support::{Scene, TestClock};
use crate::schema_support::app_token;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 86_400;
/// The last second of a signed number of 32 bits: 2038-01-19T03:14:07Z.
const I32_END: i64 = i32::MAX as i64;
/// What one of 32 bits without a sign holds ends in 2106.
const U32_END: i64 = u32::MAX as i64;
/// Moments at which programs have been known to stumble.
const MOMENTS: [i64; 12] = [
    -62_135_596_800, // the year 1
    -HOUR,
    -1,
    0,
    1,
    I32_END - HOUR / 2,
    I32_END,
    I32_END + 1,
    U32_END,
    253_402_300_799, // the last second of the year 9999
    1 << 53,
    i64::MAX / 2,
];

fn text(result: &AuthenticationResult) -> String {
    result.access_token().expose().to_owned()
}

/// The one access token in the document.
fn entry(scene: &Scene) -> Value {
    let document = scene.document();
    let tokens = document["AccessToken"].as_object().unwrap();
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    tokens.values().next().unwrap().clone()
}

fn seconds_of(entry: &Value, field: &str) -> i64 {
    entry[field].as_str().unwrap_or_else(|| panic!("{field} is no string: {entry}")).parse().unwrap()
}

fn edit(scene: &Scene, change: impl Fn(&mut Value)) {
    let mut document = scene.document();
    document["AccessToken"].as_object_mut().unwrap().values_mut().for_each(change);
    std::fs::write(scene.location(), document.to_string()).unwrap();
}

fn set(clock: &TestClock, moment: i64) {
    clock.advance(moment.saturating_sub(clock.read()));
}

#[test]
fn at_any_moment_a_token_is_written_for_that_moment_and_found_until_its_end() {
    let scene = Scene::new();
    let lifetimes = Lifetimes { expires_in: Some(7200), refresh_in: Some(3600) };
    scene.sts.set_lifetimes(lifetimes).unwrap();
    for moment in MOMENTS {
        let _ = std::fs::remove_file(scene.location());
        set(&scene.clock, moment);
        let first = scene.token().unwrap();
        assert!(first.is_persisted(), "{moment}");
        let entry = entry(&scene);
        assert_eq!(seconds_of(&entry, "cached_at"), moment);
        assert_eq!(seconds_of(&entry, "expires_on"), moment + 7200);
        assert_eq!(seconds_of(&entry, "refresh_on"), moment + 3600);
        assert_eq!(first.expires_in(), 7200, "{moment}");

        let before = scene.token_requests();
        scene.clock.advance(3599);
        let again = scene.token().unwrap();
        assert_eq!((text(&again), again.token_source()), (text(&first), TokenSource::Cache), "{moment}");
        assert_eq!(scene.token_requests(), before, "{moment}");
        scene.clock.advance(3601);
        assert_ne!(text(&scene.token().unwrap()), text(&first), "{moment}: at its end");
    }
}

#[test]
fn a_token_that_lives_across_2038_is_good_on_both_sides() {
    let scene = Scene::new();
    for end in [I32_END, U32_END] {
        let _ = std::fs::remove_file(scene.location());
        set(&scene.clock, end - 1800);
        let first = text(&scene.token().unwrap());
        for moment in [end, end + 1, end + 1498] {
            set(&scene.clock, moment);
            assert_eq!(text(&scene.token().unwrap()), first, "{moment}");
        }
    }
}

#[test]
fn refusals_and_authorities_are_remembered_at_any_moment() {
    for moment in MOMENTS {
        let scene = Scene::new();
        set(&scene.clock, moment);
        scene.sts.add_fault(Fault::new(Endpoint::Token).status(400).times(1)).unwrap();
        assert!(scene.token().is_err());
        assert!(scene.token().is_err());
        let seen = scene.sts.stats();
        assert_eq!((seen.token, seen.openid_configuration), (1, 1), "{moment}");
        scene.clock.advance(60);
        assert!(scene.token().is_ok(), "{moment}");
        assert_eq!(scene.sts.stats().openid_configuration, 1, "{moment}");
    }
}

/// A process that lives on while its clock jumps, and one that starts after the jump.
#[test]
fn a_clock_that_jumps_costs_a_request_and_nothing_else() {
    for jump in [-HOUR, -YEAR, -60 * YEAR, HOUR, YEAR, 20 * YEAR, 300 * YEAR] {
        for lives_on in [true, false] {
            let scene = Scene::new();
            let app = scene.app();
            let first = text(&scene.acquire(&app).unwrap());
            scene.clock.advance(jump);
            let app = if lives_on { app } else { scene.app() };
            let renewed = scene.acquire(&app).unwrap();
            assert_ne!(text(&renewed), first, "{jump}");
            assert!(renewed.is_persisted() && !renewed.is_stale());
            assert_eq!(scene.token_requests(), 2, "{jump}");
            // Under the new time all is as usual.
            assert_eq!(text(&scene.acquire(&app).unwrap()), text(&renewed));
            assert_eq!(text(&scene.token().unwrap()), text(&renewed));
            // And when the clock is put right it costs one more at most.
            scene.clock.advance(-jump);
            let after = scene.acquire(&app).unwrap();
            assert!((0..=HOUR).contains(&after.expires_in()), "{jump}: {}", after.expires_in());
            assert_eq!(text(&scene.token().unwrap()), text(&after));
            assert!(scene.token_requests() <= 3, "{jump}");
        }
    }
}

#[test]
fn a_token_that_is_not_trusted_stays_where_it_is_until_there_is_another() {
    let scene = Scene::new();
    let first = text(&scene.token().unwrap());
    let before = entry(&scene);
    scene.sts.add_fault(Fault::new(Endpoint::Token).status(503).for_ever()).unwrap();
    scene.clock.advance(-HOUR);
    assert_eq!(scene.token().unwrap_err().kind(), ErrorKind::Network);
    assert_eq!(entry(&scene), before);
    scene.clock.advance(HOUR);
    assert_eq!(text(&scene.token().unwrap()), first, "the right time makes it good again");
}

#[test]
fn machines_whose_clocks_differ_a_little_share_their_tokens() {
    for seconds in [-290, 290] {
        let scene = Scene::new();
        let other = Machine::beside(&scene, seconds);
        let first = text(&other.token());
        assert_eq!(text(&scene.token().unwrap()), first, "{seconds}");
        assert_eq!(text(&other.token()), first, "{seconds}");
        assert_eq!(scene.token_requests(), 1, "{seconds}");
    }
}

#[test]
fn machines_whose_clocks_differ_by_an_hour_keep_nothing_from_each_other() {
    for seconds in [-HOUR, HOUR] {
        let scene = Scene::new();
        let other = Machine::beside(&scene, seconds);
        for round in 1..=3 {
            // Neither can tell how long the other's token lives, so each gets its own.
            for (token, clock) in [(other.token(), &other.clock), (scene.token().unwrap(), &scene.clock)] {
                assert!(token.is_persisted() && !token.is_stale(), "{seconds}");
                assert_eq!(token.expires_in(), 3599, "{seconds}");
                assert_eq!(token.expires_on(), UnixSeconds::new(clock.read() + 3599), "{seconds}");
            }
            assert!(scene.token_requests() <= 2 * round, "{seconds}");
            assert_eq!(seconds_of(&entry(&scene), "cached_at"), scene.clock.read(), "{seconds}");
        }
    }
}

#[test]
fn a_token_from_a_machine_ahead_is_not_touched_by_writing_another() {
    let scene = Scene::new();
    let ahead = Machine::beside(&scene, HOUR);
    ahead.token();
    let before = scene.document()["AccessToken"].as_object().unwrap().clone();
    scene.app().acquire_token_for_client("api://another/.default").blocking().unwrap();
    let after = scene.document()["AccessToken"].as_object().unwrap().clone();
    assert_eq!(after.len(), 2);
    for (key, entry) in &after {
        match before.get(key) {
            Some(before) => assert_eq!(entry, before),
            None => assert_eq!(seconds_of(entry, "cached_at"), scene.clock.read()),
        }
    }
}

#[test]
fn what_says_that_it_was_written_later_is_never_written_so() {
    let scene = Scene::new();
    let now = UnixSeconds::new(scene.clock.read());
    let token = AccessToken { cached_at: now.plus(YEAR), expires_on: now.plus(2 * YEAR), ..app_token() };
    let environments = Environments::of(&token.environment);
    block_on(scene.cache().store_access_token(token, &environments)).unwrap();
    assert_eq!(seconds_of(&entry(&scene), "cached_at"), now.get());
}

#[test]
fn an_entry_with_times_beyond_all_bounds_costs_a_request_at_most() {
    let (largest, smallest) = (i64::MAX.to_string(), i64::MIN.to_string());
    let spellings = [
        json!(largest),
        json!(smallest),
        json!("9223372036854775808"),
        json!("99999999999999999999999999"),
        json!(u64::MAX),
        json!(1e300),
        json!("-1e300"),
        json!("0"),
        json!("-1"),
        json!("2147483648"),
        json!("4294967296"),
    ];
    let fields = ["expires_on", "cached_at", "extended_expires_on", "refresh_on"];
    let scene = Scene::new();
    let ask = || {
        let app = scene.builder().renewal(Renewal::Off).build().unwrap();
        scene.acquire(&app).unwrap()
    };
    for field in fields {
        for value in &spellings {
            let what = format!("{field}: {value}");
            let _ = std::fs::remove_file(scene.location());
            ask();
            edit(&scene, |entry| entry[field] = value.clone());
            let before = scene.token_requests();
            let served = ask();
            assert!(served.is_persisted(), "{what}");
            assert!(served.expires_in() > 0, "{what}");
            assert!(scene.token_requests() <= before + 1, "{what}");
            // Whatever was done about it, the next one is content.
            let again = ask();
            assert_eq!((text(&again), again.is_stale()), (text(&served), false), "{what}");
            assert!(seconds_of(&entry(&scene), "expires_on") > scene.clock.read(), "{what}");
        }
    }
    // An end that no number holds is not taken for one far away.
    ask();
    for value in [json!("9223372036854775808"), json!(u64::MAX), json!(1e300)] {
        edit(&scene, |entry| entry["expires_on"] = value.clone());
        let before = scene.token_requests();
        assert_eq!(ask().token_source(), TokenSource::IdentityProvider, "{value}");
        assert_eq!(scene.token_requests(), before + 1);
    }
}

#[test]
fn a_provider_whose_clock_is_wrong_changes_nothing() {
    for offset in [-YEAR, -HOUR, HOUR, YEAR] {
        let scene = Scene::new();
        scene.sts.set_clock(offset).unwrap();
        let first = scene.token().unwrap();
        assert_eq!(first.expires_in(), 3599, "{offset}");
        assert_eq!(seconds_of(&entry(&scene), "cached_at"), scene.clock.read(), "{offset}");
        assert_eq!(text(&scene.token().unwrap()), text(&first), "{offset}");
    }
}

/// Another machine that has the same file, and another idea of the time.
struct Machine<'a> {
    scene: &'a Scene,
    clock: TestClock,
}

impl<'a> Machine<'a> {
    fn beside(scene: &'a Scene, seconds: i64) -> Self {
        let clock = TestClock::now();
        set(&clock, scene.clock.read() + seconds);
        Self { scene, clock }
    }

    /// What a new process there gets.
    fn token(&self) -> AuthenticationResult {
        let file = FilePersistence::new(self.scene.location()).unwrap();
        let cache = TokenCache::builder(DocumentStore::new(file)).clock(self.clock.clone()).build();
        self.scene.acquire(&self.scene.builder().token_cache(cache).build().unwrap()).unwrap()
    }
}
