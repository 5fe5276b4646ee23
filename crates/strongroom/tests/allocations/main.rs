//! What a hit costs in memory: nothing. A binary of its own, because it counts every allocation of the process.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, unreachable_pub)]
#![cfg(unix)]

use std::future::{Future as _, IntoFuture as _};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use strongroom::{
    AccessToken, ClientCredential, Clock as _, ConfidentialClientApplication, Environments, FilePersistence,
    SystemClock, TokenCache, TokenScheme, block_on,
};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const TENANT: &str = "11111111-2222-3333-4444-555555555555";

/// An application with one token in its cache, in memory already.
fn application(cache: TokenCache) -> ConfidentialClientApplication {
    let now = SystemClock.now();
    let token = AccessToken {
        home_account_id: None,
        environment: "login.microsoftonline.com".into(),
        client_id: "client".into(),
        realm: TENANT.into(),
        target: "api://a/.default".into(),
        secret: "token".into(),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: now,
        expires_on: now.plus(86_400),
        extended_expires_on: now.plus(86_400),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    };
    block_on(cache.store_access_token(token, &Environments::of("login.microsoftonline.com"))).unwrap();
    let authority = format!("https://login.microsoftonline.com/{TENANT}");
    let secret = ClientCredential::from_secret("secret");
    let app = ConfidentialClientApplication::builder("client", authority, secret)
        .token_cache(cache)
        .build()
        .unwrap();
    for _ in 0..3 {
        app.acquire_token_for_client("api://a/.default").blocking().unwrap();
    }
    app
}

fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}

/// Only one test at a time can count.
static COUNTING: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[cfg(all(feature = "keyutils", target_os = "linux"))]
#[test]
fn a_file_of_dots_is_refused_for_little_more_than_its_size() {
    use strongroom::persistence::{OtherTool, other_caches};
    const SIZE: usize = 4 << 20;

    let _counting = COUNTING.lock();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("msal.cache");
    std::fs::write(&path, vec![b'.'; SIZE]).unwrap();
    let _profiler = dhat::Profiler::builder().testing().build();
    let cache = other_caches(OtherTool::AzidentityGo, Some(&path)).unwrap().remove(0);
    assert_eq!(cache.load().unwrap_err().code(), "tool_cache_not_opened");
    let most = dhat::HeapStats::get().max_bytes;
    assert!(most < 3 * SIZE, "{most} bytes");
}

#[test]
fn a_hit_of_a_prepared_request_allocates_nothing() {
    let _counting = COUNTING.lock();
    let _profiler = dhat::Profiler::builder().testing().build();
    let folder = tempfile::tempdir().unwrap();
    let file = FilePersistence::new(folder.path().join("cache.bin")).unwrap();
    for cache in [TokenCache::in_memory(), TokenCache::with_persistence(file)] {
        let app = application(cache);
        let request = app.acquire_token_for_client("api://a/.default");
        // A document that has just been written is compared with its content while it is young.
        while request.at_once().is_none() {
            app.acquire_token_for_client("api://a/.default").blocking().unwrap();
        }
        let kind = app.token_cache().info().kind;
        let requests = vec![request; 1000];
        most_allocate_nothing(kind, requests.iter(), |request| request.at_once().is_some());
        most_allocate_nothing(kind, requests.into_iter(), |request| {
            let mut future = pin!(request.into_future());
            let polled = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            matches!(polled, Poll::Ready(Ok(_)))
        });
    }
}

/// Once a second a hit looks at the document's path, and that allocates. A busy machine may take so long that a few of the
/// hits do; what each hit allocates, all do.
fn most_allocate_nothing<R>(kind: &str, requests: impl ExactSizeIterator<Item = R>, hit: impl Fn(R) -> bool) {
    let all = requests.len();
    let allocating = requests.filter_map(|request| {
        let before = allocations();
        assert!(hit(request), "{kind}");
        (allocations() > before).then_some(())
    });
    let allocating = allocating.count();
    assert!(allocating * 20 < all, "{kind}: {allocating} of {all}");
}
