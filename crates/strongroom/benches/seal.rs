//! What sealing costs: bytes per second, and a whole load and save of a sealed document beside a plain one.
//!
//! `cargo bench -p strongroom --bench seal`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use strongroom::{
    AccessToken, BoxFuture, Change, Credential, CredentialKey, CredentialStore as _, DocumentStore, Error,
    Fence, FilePersistence, KeySelector, KeySource, Loaded, Location, MemoryPersistence, Persistence,
    Protection, Revision, Saved, SealedPersistence, SecretBytes, TokenScheme, UnixSeconds, block_on,
    persistence,
};

const LARGE: usize = 10_000_000;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("cache.key");
    persistence::create_key_file(&key_file).unwrap();
    throughput(&key_file);
    for tokens in [1, 10_000] {
        whole_documents(folder.path(), &key_file, tokens);
    }
}

/// Sealing and opening alone: nothing is copied on the way in or out. Wiping what was read is part of it.
fn throughput(key_file: &Path) {
    let document = SecretBytes::from(vec![b'x'; LARGE]);
    let memory = SealedPersistence::new(MemoryPersistence::new(), source(key_file));
    let revision = block_on(memory.load()).unwrap().revision;
    block_on(memory.save(&document, &revision, &Fence::open())).unwrap();
    let envelope = block_on(memory.inner().load()).unwrap().bytes;

    let sealed = SealedPersistence::new(Hands::default(), source(key_file));
    let (mut seal, mut open) = (Vec::new(), Vec::new());
    for _ in 0..101 {
        let began = Instant::now();
        let saved = block_on(sealed.save(&document, &Revision::absent(), &Fence::open())).unwrap();
        seal.push(began.elapsed());
        assert!(matches!(saved, Saved::Saved(_)));
        *sealed.inner().0.lock().unwrap() = envelope.expose().to_vec();
        let began = Instant::now();
        let loaded = block_on(sealed.load()).unwrap();
        open.push(began.elapsed());
        assert_eq!(loaded.bytes.len(), LARGE);
    }
    for (what, times) in [("seal", seal), ("open", open)] {
        // The best as well: the median is the machine's other work as much as ours.
        let (best, median) = (times.iter().min().copied().unwrap_or_default(), median(times));
        let rate = |time: Duration| LARGE as f64 / time.as_secs_f64() / 1e9;
        println!(
            "{what} 10 MB: {median:.2?}, {:.2} GB/s; best {best:.2?}, {:.2} GB/s",
            rate(median),
            rate(best)
        );
    }
}

/// What a process does at its start (open, find a token), and what adding a token costs.
fn whole_documents(folder: &Path, key_file: &Path, tokens: usize) {
    let (plain, sealed) =
        (folder.join(format!("plain-{tokens}.bin")), folder.join(format!("sealed-{tokens}.bin")));
    let open_plain = || -> Box<dyn Persistence> { Box::new(FilePersistence::new(&plain).unwrap()) };
    let open_sealed = || -> Box<dyn Persistence> {
        Box::new(SealedPersistence::new(FilePersistence::new(&sealed).unwrap(), source(key_file)))
    };
    let mut change = Change::new(NOW);
    for n in 0..tokens {
        change = change.put(Credential::AccessToken(token(n)));
    }
    for open in [&open_plain as &dyn Fn() -> Box<dyn Persistence>, &open_sealed] {
        block_on(DocumentStore::new(open()).apply(&change)).unwrap();
    }
    let rounds = if tokens == 1 { 400 } else { 25 };
    let mut times = [const { Vec::new() }; 4];
    // Alternating, so that whatever else the machine does hits both.
    for round in 0..rounds {
        for (at, open) in
            [&open_plain as &dyn Fn() -> Box<dyn Persistence>, &open_sealed].into_iter().enumerate()
        {
            let began = Instant::now();
            let store = DocumentStore::new(open());
            let found = block_on(store.get(&CredentialKey::of_access_token(&token(0)))).unwrap();
            times[at].push(began.elapsed());
            assert!(found.is_some());
            // The same token again with another secret: the document keeps its size.
            let new = AccessToken { secret: format!("{round:01200}").into(), ..token(0) };
            let change = Change::new(NOW).put(Credential::AccessToken(new));
            let began = Instant::now();
            block_on(store.apply(&change)).unwrap();
            times[2 + at].push(began.elapsed());
        }
    }
    let [start_plain, start_sealed, add_plain, add_sealed] = times.map(median);
    for (what, plain, sealed) in [("start", start_plain, start_sealed), ("add", add_plain, add_sealed)] {
        let more = (sealed.as_secs_f64() / plain.as_secs_f64() - 1.0) * 100.0;
        println!("{what}, {tokens} tokens: plain {plain:.1?}, sealed {sealed:.1?}, {more:+.0} %");
    }
}

const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

fn source(key_file: &Path) -> std::sync::Arc<dyn KeySource> {
    KeySelector::File(key_file.to_owned()).open().unwrap()
}

fn token(n: usize) -> AccessToken {
    AccessToken {
        home_account_id: None,
        environment: "login.microsoftonline.com".into(),
        client_id: "client-id".into(),
        realm: "tid".into(),
        target: format!("scope-{n}").as_str().into(),
        secret: format!("{n:01200}").into(),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: NOW,
        expires_on: NOW.plus(3600),
        extended_expires_on: NOW.plus(3600),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Hands out what was put into it, without a copy, and forgets what it is to save.
#[derive(Debug, Default)]
struct Hands(Mutex<Vec<u8>>);

impl Persistence for Hands {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        let bytes = SecretBytes::from(std::mem::take(&mut *self.0.lock().unwrap()));
        Box::pin(std::future::ready(Ok(Loaded { bytes, revision: Revision::absent() })))
    }

    fn save<'a>(
        &'a self,
        _bytes: &'a SecretBytes,
        expected: &'a Revision,
        _fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        Box::pin(std::future::ready(Ok(Saved::Saved(expected.clone()))))
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_current(&self, _revision: &Revision) -> Result<bool, Error> {
        Ok(true)
    }

    fn lock_path(&self) -> Option<PathBuf> {
        None
    }

    fn location(&self) -> Location {
        Location::Memory
    }

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn kind(&self) -> &'static str {
        "hands"
    }
}
