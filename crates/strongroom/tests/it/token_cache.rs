//! The cache without the client: which stored token answers, where it comes from, what is counted.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use strongroom::{
    AccessToken, AccessTokenRequest, Change, Clock, Credential, CredentialStore as _, Dialect, DocumentStore,
    Environments, FilePersistence, Location, Lookup, MissReason, Protection, Stats, TokenCache,
    TokenCacheBuilder, UnixSeconds, block_on,
};

use crate::client_support::TestClock;
use crate::schema_support::{HOST, app_token};

/// A cache in a file, under a clock that can be set.
struct Bench {
    clock: TestClock,
    folder: tempfile::TempDir,
    cache: TokenCache,
}

impl Bench {
    fn new() -> Self {
        Self::with(|builder| builder)
    }

    fn with(options: impl Fn(TokenCacheBuilder) -> TokenCacheBuilder) -> Self {
        let (clock, folder) = (TestClock::now(), tempfile::tempdir().unwrap());
        let file = FilePersistence::new(folder.path().join("cache.bin")).unwrap();
        let cache = options(TokenCache::builder(DocumentStore::new(file)).clock(clock.clone())).build();
        Self { clock, folder, cache }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("cache.bin")
    }

    /// The same cache as another process has it.
    fn other_process(&self) -> TokenCache {
        let file = FilePersistence::new(self.path()).unwrap();
        TokenCache::builder(DocumentStore::new(file)).clock(self.clock.clone()).build()
    }

    /// A token for these scopes that was got `age` seconds ago and ends `left` seconds from now.
    fn token(&self, scopes: &str, secret: &str, age: i64, left: i64) -> AccessToken {
        let now = self.clock.now();
        AccessToken {
            target: scopes.into(),
            secret: secret.into(),
            cached_at: now.plus(-age),
            expires_on: now.plus(left),
            extended_expires_on: now.plus(left),
            refresh_on: None,
            ..app_token()
        }
    }

    fn store(&self, token: AccessToken) {
        let environments = Environments::of(&token.environment);
        block_on(self.cache.store_access_token(token, &environments)).unwrap();
    }

    fn stats(&self) -> Stats {
        self.cache.stats()
    }
}

fn request(scopes: &str) -> AccessTokenRequest {
    AccessTokenRequest::for_app("client-id", &Environments::of(HOST), "tid", scopes.into())
}

fn find(cache: &TokenCache, request: &AccessTokenRequest) -> Result<String, MissReason> {
    match block_on(cache.find_access_token(request)).unwrap() {
        Lookup::Hit(token) => Ok(token.secret.expose().to_owned()),
        Lookup::Miss(reason) => Err(reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_stored_is_found_by_this_process_and_by_another() {
    let bench = Bench::new();
    assert_eq!(find(&bench.cache, &request("a")), Err(MissReason::Absent));
    assert!(!bench.path().exists(), "a look-up creates nothing");
    bench.store(bench.token("a", "t", 0, 3600));
    for cache in [&bench.cache, &bench.other_process()] {
        assert_eq!(find(cache, &request("a")).as_deref(), Ok("t"));
        assert_eq!(find(cache, &request("A")).as_deref(), Ok("t"), "scopes have no case");
        assert_eq!(find(cache, &request("b")), Err(MissReason::Absent));
    }
    let info = bench.cache.info();
    assert_eq!((info.location, info.kind), (Location::File(bench.path()), "file"));
    assert_eq!(info.protection, Protection::None);
    assert_eq!(TokenCache::in_memory().info().location, Location::Memory);
}

#[test]
fn every_token_is_stored_with_what_go_needs_to_look_for_it() {
    let bench = Bench::new();
    bench.store(bench.token("a", "t", 0, 3600));
    let document: Value = serde_json::from_slice(&std::fs::read(bench.path()).unwrap()).unwrap();
    let app = &document["AppMetadata"]["appmetadata-login.microsoftonline.com-client-id"];
    assert_eq!((&app["client_id"], &app["environment"]), (&"client-id".into(), &HOST.into()));
}

#[test]
fn the_exact_token_answers_before_one_with_more_scopes() {
    let bench = Bench::new();
    bench.store(bench.token("a", "exact", 100, 3600));
    bench.store(bench.token("a b", "more", 0, 3600));
    assert_eq!(find(&bench.cache, &request("a")).as_deref(), Ok("exact"), "though the other is newer");
    assert_eq!(find(&bench.cache, &request("b")).as_deref(), Ok("more"));
    assert_eq!(find(&bench.cache, &request("b a")).as_deref(), Ok("more"));
    assert_eq!(find(&bench.cache, &request("a b c")), Err(MissReason::Absent), "less is no answer");
    // Where the exact one is over, the other answers.
    bench.store(bench.token("a", "over", 4000, 10));
    assert_eq!(find(&bench.cache, &request("a")).as_deref(), Ok("more"));
}

#[test]
fn of_several_valid_tokens_the_newest_answers() {
    let bench = Bench::new();
    bench.store(bench.token("a x", "old", 200, 9000));
    bench.store(bench.token("a y", "new", 50, 3600));
    bench.store(bench.token("a z", "older", 100, 3600));
    bench.store(bench.token("a w", "newest, but over", 10, 0));
    assert_eq!(find(&bench.cache, &request("a")).as_deref(), Ok("new"));
}

#[test]
fn a_token_is_served_until_its_margin_and_again_by_nobody() {
    for (lifetime, margin) in [(3600, 300), (1500, 300), (600, 120)] {
        let bench = Bench::new();
        bench.store(bench.token("a", "t", 0, lifetime));
        for cache in [bench.cache.clone(), bench.other_process()] {
            let before = bench.clock.read();
            bench.clock.advance(lifetime - margin - 1);
            assert!(find(&cache, &request("a")).is_ok(), "{lifetime}");
            bench.clock.advance(1);
            assert_eq!(find(&cache, &request("a")), Err(MissReason::Expired), "{lifetime}, from memory too");
            bench.clock.advance(before - bench.clock.read());
        }
    }
}

#[test]
fn a_clock_that_was_set_back_makes_expiry_untrustworthy() {
    let bench = Bench::new();
    bench.store(bench.token("a", "t", 0, 3600));
    assert!(find(&bench.cache, &request("a")).is_ok());
    bench.clock.advance(-300);
    assert!(find(&bench.cache, &request("a")).is_ok(), "machines differ a little");
    bench.clock.advance(-1);
    assert_eq!(find(&bench.cache, &request("a")), Err(MissReason::ClockSetBack));
    assert_eq!(find(&bench.other_process(), &request("a")), Err(MissReason::ClockSetBack));
    // What is fetched under the wrong clock is served under it.
    bench.store(bench.token("a", "new", 0, 3600));
    assert_eq!(find(&bench.cache, &request("a")).as_deref(), Ok("new"));
}

#[test]
fn tokens_under_the_names_of_one_host_answer_and_others_do_not() {
    let bench = Bench::new();
    bench.store(AccessToken { environment: "sts.windows.net".into(), ..bench.token("a", "alias", 0, 3600) });
    assert_eq!(find(&bench.cache, &request("a")).as_deref(), Ok("alias"));
    let under = |environments: &Environments| {
        AccessTokenRequest::for_app("client-id", environments, "tid", "a".into())
    };
    assert!(find(&bench.cache, &under(&Environments::of("login.microsoftonline.us"))).is_err());

    bench.store(AccessToken { environment: "alias.example".into(), ..bench.token("a", "own", 0, 3600) });
    assert!(find(&bench.cache, &under(&Environments::of("own.example"))).is_err());
    let discovered = Environments::with_aliases("own.example", None, ["alias.example", "other.example"]);
    for _ in 0..3 {
        assert_eq!(find(&bench.cache, &under(&discovered)).as_deref(), Ok("own"));
        // From memory neither: it is not this authority's.
        assert!(find(&bench.cache, &under(&Environments::of("own.example"))).is_err());
    }
}

#[test]
fn memory_answers_until_the_document_changes() {
    let bench = Bench::new();
    bench.store(bench.token("a", "t", 0, 3600));
    for _ in 0..3 {
        find(&bench.cache, &request("a")).unwrap();
    }
    assert_eq!((bench.stats().hits_in_store, bench.stats().hits_in_memory), (1, 2));
    let one = block_on(bench.cache.find_access_token(&request("a"))).unwrap();
    let two = block_on(bench.cache.find_access_token(&request("a"))).unwrap();
    let (Lookup::Hit(one), Lookup::Hit(two)) = (one, two) else { panic!("a hit") };
    assert!(Arc::ptr_eq(&one, &two), "a hit is shared, not copied");

    let other = bench.other_process();
    let token = AccessToken { secret: "theirs".into(), ..bench.token("a", "", 0, 3600) };
    block_on(other.store_access_token(token, &Environments::of(HOST))).unwrap();
    assert_eq!(find(&bench.cache, &request("a")).as_deref(), Ok("theirs"));
    std::fs::remove_file(bench.path()).unwrap();
    assert_eq!(find(&bench.cache, &request("a")), Err(MissReason::Absent), "what was removed is not served");
}

#[test]
fn memory_in_front_of_the_store_is_bounded_and_can_be_done_without() {
    const TOKENS: u64 = 40;
    let scopes: Vec<String> = (0..TOKENS).map(|n| format!("scope-{n}")).collect();
    // A token of a kilobyte costs somewhat more than that: some of the forty have room.
    for (l1_bytes, fewest, most) in [(0, 0, 0), (20_000, 5, 19), (16 << 20, TOKENS, TOKENS)] {
        let bench = Bench::with(|builder| builder.l1_bytes(l1_bytes));
        for scope in &scopes {
            bench.store(bench.token(scope, &"x".repeat(1000), 0, 3600));
        }
        let ask_all =
            || scopes.iter().rev().for_each(|scope| drop(find(&bench.cache, &request(scope)).unwrap()));
        ask_all();
        ask_all();
        let before = bench.stats();
        // Backwards: what was asked last is what is there.
        scopes.iter().for_each(|scope| drop(find(&bench.cache, &request(scope)).unwrap()));
        let after = bench.stats();
        let in_memory = after.hits_in_memory - before.hits_in_memory;
        assert!((fewest..=most).contains(&in_memory), "{l1_bytes}: {in_memory}");
        assert_eq!(in_memory + after.hits_in_store - before.hits_in_store, TOKENS);
    }
}

#[test]
fn each_look_up_is_counted_once_by_where_it_ended() {
    let bench = Bench::new();
    let counted = || {
        let Stats { hits_in_memory, hits_in_store, misses_absent, misses_expired, misses_clock, .. } =
            bench.stats();
        [hits_in_memory, hits_in_store, misses_absent, misses_expired, misses_clock]
    };
    assert_eq!(bench.stats(), Stats::default());
    let _ = find(&bench.cache, &request("a"));
    assert_eq!(counted(), [0, 0, 1, 0, 0]);
    bench.store(bench.token("a b", "t", 0, 3600));
    find(&bench.cache, &request("a")).unwrap();
    assert_eq!(counted(), [0, 1, 1, 0, 0], "however many places were looked in");
    find(&bench.cache, &request("a")).unwrap();
    assert_eq!(counted(), [1, 1, 1, 0, 0]);
    bench.clock.advance(3600);
    let _ = find(&bench.cache, &request("a"));
    assert_eq!(counted(), [1, 1, 1, 1, 0]);
    bench.clock.advance(-7200);
    let _ = find(&bench.cache, &request("a"));
    assert_eq!(counted(), [1, 1, 1, 1, 1]);
    // An expired token of other scopes is no reason.
    let _ = find(&bench.cache, &request("other"));
    assert_eq!(counted(), [1, 1, 2, 1, 1]);
    let stats = bench.stats();
    assert_eq!((stats.misses_forced, stats.misses_claims, stats.from_identity_provider), (0, 0, 0));
    assert_eq!((stats.stored, stats.not_stored, stats.swept), (1, 0, 0));
}

#[test]
fn what_has_expired_is_swept_by_the_next_store_and_counted() {
    let bench = Bench::new();
    let expired = bench.token("a", "over", 7200, -1);
    let document = DocumentStore::new(FilePersistence::new(bench.path()).unwrap());
    let change = Change::new(UnixSeconds::new(0)).put(Credential::AccessToken(expired));
    block_on(document.apply(&change)).unwrap();
    bench.store(bench.token("b", "t", 0, 3600));
    assert_eq!((bench.stats().stored, bench.stats().swept), (1, 1));
    assert!(!std::fs::read_to_string(bench.path()).unwrap().contains("over"));
}

#[test]
fn new_tokens_are_written_in_the_dialect_that_was_asked_for() {
    for (dialect, home_account_id, tail) in [
        (None, Value::Null, ""),
        (Some(Dialect::PYTHON), Value::Null, ""),
        (Some(Dialect::NODE), "".into(), "-"),
    ] {
        let bench = Bench::with(|builder| match dialect {
            Some(dialect) => builder.dialect(dialect),
            None => builder,
        });
        bench.store(bench.token("a", "t", 0, 3600));
        let document: Value = serde_json::from_slice(&std::fs::read(bench.path()).unwrap()).unwrap();
        let (key, entry) = document["AccessToken"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(entry["home_account_id"], home_account_id, "{dialect:?}");
        assert!(key.ends_with(&format!("-tid-a{tail}")), "{dialect:?}: {key}");
        assert_eq!(find(&bench.other_process(), &request("a")).as_deref(), Ok("t"), "{dialect:?}");
    }
}
