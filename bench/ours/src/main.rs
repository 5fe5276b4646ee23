//! The in-process cost of a hit: `strongroom-bench CONFIG CACHE N KIND`.
//!
//! Prints `{"us": median of 7 batches, "min", "max"}` per hit. Kinds: `memory` and `persisted` (a prepared request,
//! asked at once), `awaited` and `persisted-awaited` (the builder, awaited), `reload` (the first hit after another
//! process wrote the file); `fstat`, `stat` and `read` are the floors.

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use strongroom::{
    ClientCredential, ConfidentialClientApplication, Credential, Document, Environments, FilePersistence,
    SecretBytes, TokenCache, block_on,
};

const BATCHES: usize = 7;
const BATCH: u32 = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, cache, count, kind] = &arguments[..] else {
        return Err("usage: strongroom-bench CONFIG CACHE N KIND".into());
    };
    let cache = Path::new(cache);
    let config: Value = serde_json::from_slice(&std::fs::read(config)?)?;
    let n: usize = count.parse()?;
    let scope = format!("api://bench-{}/.default", n / 2);
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
    let text = |name: &str| config[name].as_str().ok_or(format!("{name} is missing in the configuration"));
    let secret = ClientCredential::from_secret(text("client_secret")?);
    Ok(ConfidentialClientApplication::builder(text("client_id")?, text("authority")?, secret)
        .instance_discovery(false)
        .token_cache(cache)
        .build()?)
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
        std::thread::sleep(std::time::Duration::from_millis(150));
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

#[allow(clippy::print_stdout)]
fn print(mut nanoseconds: Vec<f64>) {
    nanoseconds.sort_by(f64::total_cmp);
    let us = |at: usize| (nanoseconds[at] / 10.0).round() / 100.0;
    let last = nanoseconds.len() - 1;
    println!("{}", json!({ "us": us(last / 2), "min": us(0), "max": us(last) }));
}
