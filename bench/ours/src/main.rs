//! What has to be measured inside a process: `strongroom-bench CONFIG CACHE N KIND`.
//!
//! Prints `{"us": median of 7 batches, "min", "max"}` per hit. Kinds: `memory` and `persisted` (a prepared request,
//! asked at once), `awaited` and `persisted-awaited` (the builder, awaited), `reload` (the first hit after another
//! process wrote the file); `fstat`, `stat` and `read` are the floors. `add` stores one token and in turn writes, syncs
//! and renames as many bytes: the milliseconds of both. `herd SCOPE START CA`: N threads ask for one token at START
//! (Unix time); when the last of them had it. `contend PREFIX START CA`: from START on, N tokens one after the other.

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use strongroom::{
    AccessToken, ClientCredential, ConfidentialClientApplication, ConfidentialClientApplicationBuilder,
    Credential, Document, Environments, FilePersistence, HttpTransport, SecretBytes, TokenCache, block_on,
};

const BATCHES: usize = 7;
const BATCH: u32 = 20_000;
const ADDS: usize = 15;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, cache, count, kind, more @ ..] = &arguments[..] else {
        return Err("usage: strongroom-bench CONFIG CACHE N KIND".into());
    };
    let cache = Path::new(cache);
    let config: Value = serde_json::from_slice(&std::fs::read(config)?)?;
    let n: usize = count.parse()?;
    let scope = format!("api://bench-{}/.default", n / 2);
    match (kind.as_str(), more) {
        ("add", _) => return add(cache),
        ("contend", [prefix, start, ca]) => return contend(&config, cache, n, prefix, start.parse()?, ca),
        ("herd", [scope, start, ca]) => return herd(&config, cache, n, scope, start.parse()?, ca),
        _ => {}
    }
    let nanoseconds = match kind.as_str() {
        "memory" => at_once(&application(&config, in_memory(cache)?)?, &scope),
        "awaited" => awaited(&application(&config, in_memory(cache)?)?, &scope),
        "persisted" => at_once(&application(&config, persisted(cache)?)?, &scope),
        "persisted-awaited" => awaited(&application(&config, persisted(cache)?)?, &scope),
        "reload" => reloaded(&application(&config, persisted(cache)?)?, &scope, cache)?,
        "fstat" => {
            let file = File::open(cache)?;
            batches(10_000, || black_box(rustix::fs::fstat(&file)).is_ok())
        }
        "stat" => batches(10_000, || black_box(rustix::fs::stat(cache)).is_ok()),
        "read" => {
            let mut samples = Vec::new();
            for _ in 0..BATCHES {
                let start = Instant::now();
                black_box(std::fs::read(cache)?);
                samples.push(start.elapsed().as_secs_f64() * 1e9);
            }
            samples
        }
        other => return Err(format!("there is no kind {other}").into()),
    };
    print(nanoseconds);
    Ok(())
}

fn application(config: &Value, cache: TokenCache) -> Result<ConfidentialClientApplication, Box<dyn Error>> {
    Ok(set_up(config, cache)?.build()?)
}

fn set_up(config: &Value, cache: TokenCache) -> Result<ConfidentialClientApplicationBuilder, Box<dyn Error>> {
    let text = |name: &str| config[name].as_str().ok_or(format!("{name} is missing in the configuration"));
    let secret = ClientCredential::from_secret(text("client_secret")?);
    Ok(ConfidentialClientApplication::builder(text("client_id")?, text("authority")?, secret)
        .instance_discovery(false)
        .token_cache(cache))
}

fn persisted(path: &Path) -> Result<TokenCache, Box<dyn Error>> {
    Ok(TokenCache::with_persistence(FilePersistence::new(path)?))
}

/// The document's tokens, in a store that has nothing behind it.
fn in_memory(path: &Path) -> Result<TokenCache, Box<dyn Error>> {
    let document = Document::parse(SecretBytes::from(std::fs::read(path)?))?;
    let cache = TokenCache::in_memory();
    for entry in document.entries() {
        if let Ok(Credential::AccessToken(token)) = entry.credential {
            let environments = Environments::of(&token.environment);
            block_on(cache.store_access_token(token, &environments))?;
        }
    }
    Ok(cache)
}

fn at_once(app: &ConfidentialClientApplication, scope: &str) -> Vec<f64> {
    let request = app.acquire_token_for_client(scope);
    warm(app, scope);
    batches(BATCH, || request.at_once().is_some())
}

fn awaited(app: &ConfidentialClientApplication, scope: &str) -> Vec<f64> {
    warm(app, scope);
    let mut samples = Vec::new();
    for _ in 0..=BATCHES {
        let start = Instant::now();
        block_on(async {
            for _ in 0..BATCH {
                assert!(black_box(app.acquire_token_for_client(scope).await).is_ok());
            }
        });
        samples.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(BATCH));
    }
    samples.split_off(1)
}

/// Until the token is in memory and the file's time is old enough to be believed.
fn warm(app: &ConfidentialClientApplication, scope: &str) {
    for _ in 0..3 {
        let result = app.acquire_token_for_client(scope).blocking().expect("the token is cached");
        assert_eq!(result.token_source().as_str(), "cache");
        std::thread::sleep(Duration::from_millis(150));
    }
}

fn reloaded(
    app: &ConfidentialClientApplication,
    scope: &str,
    path: &Path,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let content = std::fs::read(path)?;
    let other = path.with_extension("other");
    warm(app, scope);
    let mut samples = Vec::new();
    for _ in 0..BATCHES {
        replace(&other, path, &content)?;
        let start = Instant::now();
        let result = app.acquire_token_for_client(scope).blocking()?;
        samples.push(start.elapsed().as_secs_f64() * 1e9);
        assert_eq!(result.token_source().as_str(), "cache");
    }
    Ok(samples)
}

fn add(path: &Path) -> Result<(), Box<dyn Error>> {
    let cache = persisted(path)?;
    let document = Document::parse(SecretBytes::from(std::fs::read(path)?))?;
    let model = document.entries().find_map(|entry| entry.credential.ok()?.into_access_token());
    let model = model.ok_or("there is no token in the document")?;
    let environments = Environments::of(&model.environment);
    drop(document);
    let temporary = path.with_extension("floor");
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for number in 0..=ADDS {
        let target = format!("api://added-{number}/.default");
        let token = AccessToken { target: target.as_str().into(), ..model.clone() };
        let start = Instant::now();
        block_on(cache.store_access_token(token, &environments))?;
        ours.push(start.elapsed().as_secs_f64() * 1e3);
        let content = std::fs::read(path)?;
        let start = Instant::now();
        replace_durably(&temporary, &path.with_extension("floor-document"), &content)?;
        floor.push(start.elapsed().as_secs_f64() * 1e3);
    }
    // The first one loads the document.
    let [mut ours, mut floor] = [ours.split_off(1), floor.split_off(1)];
    ours.sort_by(f64::total_cmp);
    floor.sort_by(f64::total_cmp);
    let median = |sorted: &[f64]| sorted[sorted.len() / 2];
    let round = |number: f64| (number * 100.0).round() / 100.0;
    say(&json!({
        "ms": round(median(&ours)), "min": round(ours[0]), "max": round(ours[ours.len() - 1]),
        "floor_ms": round(median(&floor)), "floor_min": round(floor[0]),
        "ratio": round(median(&ours) / median(&floor)), "ratio_of_min": round(ours[0] / floor[0]),
    }));
    Ok(())
}

fn herd(
    config: &Value,
    cache: &Path,
    threads: usize,
    scope: &str,
    start: f64,
    ca: &str,
) -> Result<(), Box<dyn Error>> {
    let transport = HttpTransport::with_extra_roots(&std::fs::read(ca)?)?;
    let app = &set_up(config, persisted(cache)?)?.transport(transport).build()?;
    let start = Duration::from_secs_f64(start);
    let asked: Vec<Result<Duration, String>> = std::thread::scope(|scoped| {
        let ask = || {
            std::thread::sleep(start.saturating_sub(now()));
            let result = app.acquire_token_for_client(scope).blocking();
            result.map(|_| now()).map_err(|error| error.code().to_owned())
        };
        let threads: Vec<_> = (0..threads).map(|_| scoped.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(Err("panic".into()))).collect()
    });
    let end = asked.iter().flatten().max().map_or(0.0, Duration::as_secs_f64);
    let errors: Vec<&String> = asked.iter().filter_map(|asked| asked.as_ref().err()).collect();
    say(&json!({ "end": end, "errors": errors }));
    Ok(())
}

fn contend(
    config: &Value,
    cache: &Path,
    tokens: usize,
    prefix: &str,
    start: f64,
    ca: &str,
) -> Result<(), Box<dyn Error>> {
    let transport = HttpTransport::with_extra_roots(&std::fs::read(ca)?)?;
    let app = set_up(config, persisted(cache)?)?.transport(transport).build()?;
    std::thread::sleep(Duration::from_secs_f64(start).saturating_sub(now()));
    let ask = |number| app.acquire_token_for_client(format!("{prefix}{number}/.default").as_str()).blocking();
    let (got, failed): (Vec<_>, Vec<_>) = (0..tokens).map(ask).partition(Result::is_ok);
    let errors: Vec<String> =
        failed.iter().filter_map(|result| Some(result.as_ref().err()?.code().to_owned())).collect();
    say(&json!({ "tokens": got.len(), "errors": errors }));
    Ok(())
}

#[allow(clippy::disallowed_methods)]
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// The least that a durable replacement costs.
#[allow(clippy::disallowed_methods)]
fn replace_durably(temporary: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// As another process writes it.
#[allow(clippy::disallowed_methods)]
fn replace(temporary: &Path, path: &Path, content: &[u8]) -> std::io::Result<()> {
    std::fs::write(temporary, content)?;
    std::fs::rename(temporary, path)
}

/// Nanoseconds per call, of several batches.
fn batches(size: u32, mut call: impl FnMut() -> bool) -> Vec<f64> {
    let mut samples = Vec::new();
    for _ in 0..=BATCHES {
        let start = Instant::now();
        for _ in 0..size {
            assert!(black_box(call()));
        }
        samples.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(size));
    }
    // The first one warms the processor's caches.
    samples.split_off(1)
}

fn print(mut nanoseconds: Vec<f64>) {
    nanoseconds.sort_by(f64::total_cmp);
    let us = |at: usize| (nanoseconds[at] / 10.0).round() / 100.0;
    let last = nanoseconds.len() - 1;
    say(&json!({ "us": us(last / 2), "min": us(0), "max": us(last) }));
}

#[allow(clippy::print_stdout)]
fn say(result: &Value) {
    println!("{result}");
}
