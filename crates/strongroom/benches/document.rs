//! What a document costs, beside copying its bytes and reading its file: `cargo bench -p strongroom --bench document`.
//!
//! For 1, 1,000, 10,000 and 100,000 application tokens of 1.5 kB, as MSAL Python writes them. Medians.
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::unwrap_used)]

use std::fmt::Write;
use std::time::{Duration, Instant};

use strongroom::{
    AccessToken, Applied, Change, Credential, Document, Partition, Scopes, SecretBytes, TokenScheme,
    UnixSeconds,
};

const NOW: i64 = 1_800_000_000;
const HOST: &str = "login.microsoftonline.com";
const CLIENT: &str = "99999999-8888-7777-6666-555555555555";
const TENANT: &str = "11111111-2222-3333-4444-555555555555";

fn main() {
    println!("{:>8} {:>9}  {:>10} {:>10}  parse, get", "tokens", "MB", "copy", "read");
    for tokens in [1, 1_000, 10_000, 100_000] {
        measure(tokens);
    }
}

fn measure(tokens: usize) {
    let text = document(tokens);
    let rounds = (200_000 / tokens).clamp(9, 1_000);
    let middle = token(tokens / 2, 0);
    let partition = Partition::of_app_tokens(HOST, CLIENT, TENANT);
    let key = partition.access_token(&middle.target, &TokenScheme::Bearer, None);

    let mut target = vec![0_u8; text.len()];
    let copy = median(rounds, || (), |()| target.copy_from_slice(&text));
    let file = std::env::temp_dir().join(format!("strongroom-bench-{}", std::process::id()));
    std::fs::write(&file, &text).unwrap();
    let read = median(rounds, || (), |()| std::fs::read(&file).unwrap());
    std::fs::remove_file(&file).unwrap();

    let bytes = || SecretBytes::from(text.clone());
    let parse = median(rounds, bytes, |bytes| Document::parse(bytes).unwrap());
    let parse_and_get = median(rounds, bytes, |bytes| {
        let document = Document::parse(bytes).unwrap();
        assert!(document.get(&key).is_some());
        document
    });
    let document = Document::parse(bytes()).unwrap();
    for _ in 0..100 {
        assert!(document.get(&key).is_some());
    }
    let get = median(10_000, || (), |()| document.get(&key));
    let list = median(rounds.min(100), || (), |()| document.list(&partition).len());
    let change = |token: AccessToken| {
        Change::new(UnixSeconds::new(NOW)).put(Credential::AccessToken(token)).sweep_expired()
    };
    let apply = |change: Change| {
        median(
            rounds,
            || Document::parse(bytes()).unwrap(),
            |document| {
                assert!(matches!(document.apply(&change), Ok(Applied::Changed { .. })));
                document
            },
        )
    };
    let add = apply(change(token(tokens, 0)));
    let replace = apply(change(token(tokens / 2, 60)));
    let megabytes = text.len() as f64 / 1e6;
    println!(
        "{tokens:>8} {megabytes:>9.3}  {:>10} {:>10}  {:>10} {:>10}  get {:>8}  list {:>10}  add {:>10} replace {:>10}",
        show(copy),
        show(read),
        show(parse),
        show(parse_and_get),
        show(get),
        show(list),
        show(add),
        show(replace)
    );
}

/// The median of `rounds` runs; what is made before and dropped after does not count.
fn median<I, O>(rounds: usize, mut before: impl FnMut() -> I, mut run: impl FnMut(I) -> O) -> Duration {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let input = before();
            let start = Instant::now();
            let output = run(input);
            let time = start.elapsed();
            drop(std::hint::black_box(output));
            time
        })
        .collect();
    times.sort_unstable();
    times[rounds / 2]
}

fn show(time: Duration) -> String {
    format!("{:.1} us", time.as_secs_f64() * 1e6)
}

fn token(number: usize, age: i64) -> AccessToken {
    AccessToken {
        home_account_id: None,
        environment: HOST.into(),
        client_id: CLIENT.into(),
        realm: TENANT.into(),
        target: Scopes::from(format!("api://bench-{number}/.default").as_str()),
        secret: secret(number).into(),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: UnixSeconds::new(NOW + age),
        expires_on: UnixSeconds::new(NOW + age + 3_600),
        extended_expires_on: UnixSeconds::new(NOW + age + 3_600),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    }
}

/// Looks like a token: no two are alike, and nothing in it compresses.
fn secret(number: usize) -> String {
    let mut state = number as u64;
    let mut secret = String::from("eyJ0eXAiOiJKV1Qi.");
    while secret.len() < 1_500 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let _ = write!(secret, "{:08x}", state >> 32);
    }
    secret
}

/// Indented by four, as MSAL Python does.
fn document(tokens: usize) -> Vec<u8> {
    let mut text = String::from("{\n    \"AccessToken\": {");
    for number in 0..tokens {
        let comma = if number == 0 { "" } else { "," };
        let scope = format!("api://bench-{number}/.default");
        let _ = write!(
            text,
            "{comma}\n        \"-{HOST}-accesstoken-{CLIENT}-{TENANT}-{scope}\": {{\n            \
            \"credential_type\": \"AccessToken\",\n            \"secret\": \"{}\",\n            \
            \"home_account_id\": null,\n            \"environment\": \"{HOST}\",\n            \
            \"client_id\": \"{CLIENT}\",\n            \"target\": \"{scope}\",\n            \
            \"realm\": \"{TENANT}\",\n            \"token_type\": \"Bearer\",\n            \
            \"cached_at\": \"{}\",\n            \"expires_on\": \"{}\",\n            \
            \"extended_expires_on\": \"{}\"\n        }}",
            secret(number),
            NOW - number as i64 % 1_000,
            NOW + 3_600,
            NOW + 3_600
        );
    }
    text.push_str("\n    }\n}");
    text.into_bytes()
}
