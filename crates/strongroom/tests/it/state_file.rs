//! `<location>.state`: what is remembered beside the document. Losing it costs requests, nothing else.

use std::path::PathBuf;

use serde_json::{Value, json};
use strongroom::{
    AuthenticationResult, ClientCredential, Clock as _, ConfidentialClientApplication, DocumentStore, Error,
    FilePersistence, TokenCache,
};

use crate::client_support::{Canned, Recorder, Scene, TestClock, discovery_document, token_response};
use crate::support::{is_root, mode_of, names_in};

const TENANT: &str = "3aa1a6c8-51c4-4f0d-9a5e-3c1d2f8f2f10";
const AUTHORITY: &str = "https://own.example/t.example";
const ENDPOINT: &str = "https://own.example/3aa1a6c8-51c4-4f0d-9a5e-3c1d2f8f2f10/oauth2/v2.0/token";
const SECRET: &str = "s3cret-value";

/// A place for a cache, and an identity provider that answers everything.
struct Bench {
    folder: tempfile::TempDir,
    clock: TestClock,
    sent: Recorder<Canned>,
}

impl Bench {
    fn new() -> Self {
        let provider = Canned::new(|request| {
            if request.body.is_some() {
                return Ok(token_response("the-token"));
            }
            Ok(discovery_document("https://own.example", TENANT))
        });
        Self { folder: tempfile::tempdir().unwrap(), clock: TestClock::now(), sent: Recorder::new(provider) }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("cache.json.state")
    }

    fn write(&self, state: &Value) {
        std::fs::write(self.path(), state.to_string()).unwrap();
    }

    fn read(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.path()).unwrap()).unwrap()
    }

    /// What is remembered of the authority, as it was found a minute ago.
    fn record(&self) -> Value {
        json!({ "token_endpoint": ENDPOINT, "realm": TENANT, "fetched_at": self.clock.read() - 60 })
    }

    /// An application as a new process has it.
    fn app(&self, authority: &str) -> ConfidentialClientApplication {
        let file = FilePersistence::new(self.folder.path().join("cache.json")).unwrap();
        let cache = TokenCache::builder(DocumentStore::new(file)).clock(self.clock.clone()).build();
        let secret = ClientCredential::from_secret(SECRET);
        ConfidentialClientApplication::builder("client", authority, secret)
            .instance_discovery(false)
            .transport(self.sent.clone())
            .token_cache(cache)
            .build()
            .unwrap()
    }

    /// How many requests for the discovery document and for a token a forced call of `app` makes.
    fn requests(&self, app: &ConfidentialClientApplication) -> (usize, usize) {
        self.sent.clear();
        force(app).unwrap();
        let sent = self.sent.sent();
        let tokens = sent.iter().filter(|sent| sent.has_a_secret()).count();
        (sent.len() - tokens, tokens)
    }
}

fn force(app: &ConfidentialClientApplication) -> Result<AuthenticationResult, Error> {
    app.acquire_token_for_client("api://x/.default").force_refresh(true).blocking()
}

#[test]
fn it_holds_what_discovery_said_for_its_owner_alone_and_no_secret() {
    let scene = Scene::new();
    let authority = format!("{}/{}", scene.origin(), scene.domain());
    let app = scene.builder_for(&authority).build().unwrap();
    let token = scene.acquire(&app).unwrap();
    let text = std::fs::read_to_string(scene.state_file()).unwrap();
    let ready = scene.ready();
    let expected = json!({ "authorities": { format!("{authority}/"): {
        "token_endpoint": format!("{}/{}/oauth2/v2.0/token", scene.origin(), ready.tenant),
        "realm": ready.tenant,
        "instance_discovery": false,
        "fetched_at": scene.clock.read(),
    }}});
    let mut content: Value = serde_json::from_str(&text).unwrap();
    let salt = content.as_object_mut().unwrap().remove("salt").unwrap();
    assert_eq!(salt.as_str().unwrap().len(), 32, "a random UUID");
    assert_eq!(content, expected);
    assert!(!text.contains(&ready.client_secret) && !text.contains(token.access_token().expose()));
    assert_eq!(mode_of(&scene.state_file()), 0o600);
    assert_eq!(
        names_in(scene.folder()),
        ["token_cache.bin", "token_cache.bin.flight", "token_cache.bin.lock", "token_cache.bin.state"],
        "nothing else is left beside the document"
    );
    // It is replaced like a document: who has the old one open reads it to its end.
    let old = scene.folder().join("old");
    std::fs::hard_link(scene.state_file(), &old).unwrap();
    scene.clock.advance(86_400);
    app.acquire_token_for_client(ready.scope.as_str()).force_refresh(true).blocking().unwrap();
    assert_eq!(std::fs::read_to_string(old).unwrap(), text);
    assert_ne!(std::fs::read_to_string(scene.state_file()).unwrap(), text);
    assert_eq!(mode_of(&scene.state_file()), 0o600);
}

#[test]
fn what_is_built_in_needs_none() {
    let bench = Bench::new();
    let app = bench.app(&format!("https://login.microsoftonline.com/{TENANT}"));
    assert_eq!(bench.requests(&app), (0, 1));
    assert!(!bench.path().exists());
}

#[test]
fn one_that_cannot_be_understood_costs_requests_and_is_replaced() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let record_of_another_type = json!({ "authorities": { "x": 5 } }).to_string();
    for content in [
        b"".as_slice(),
        b"{",
        b"[]",
        b"null",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe\x00",
        b"SRVAULT1\x00\x01\x02",
        br#"{"authorities":[]}"#,
        br#"{"authorities":{"https://own.example/t.example/":{"token_endpoint":1}}}"#,
        record_of_another_type.as_bytes(),
        deep.as_bytes(),
    ] {
        let bench = Bench::new();
        std::fs::write(bench.path(), content).unwrap();
        let shown = String::from_utf8_lossy(&content[..content.len().min(40)]).into_owned();
        assert_eq!(bench.requests(&bench.app(AUTHORITY)), (1, 1), "{shown}");
        assert_eq!(bench.requests(&bench.app(AUTHORITY)), (0, 1), "{shown}");
        // What only one record of is not understood is kept beside the others.
        let kept = usize::from(content == record_of_another_type.as_bytes() || shown.contains("endpoint"));
        let authorities = bench.read()["authorities"].as_object().unwrap().len();
        assert!((1..=1 + kept).contains(&authorities), "{shown}: {authorities}");
    }
}

#[test]
fn one_that_cannot_be_used_costs_requests_and_is_left_alone() {
    for name in ["too large", "a folder", "somebody else's"] {
        let bench = Bench::new();
        match name {
            "too large" => std::fs::write(bench.path(), vec![b' '; (4 << 20) + 1]).unwrap(),
            "a folder" => std::fs::create_dir(bench.path()).unwrap(),
            // Only root can give a file away.
            _ if !is_root() => continue,
            _ => {
                std::fs::write(bench.path(), "{}").unwrap();
                std::os::unix::fs::chown(bench.path(), Some(65_534), None).unwrap();
            }
        }
        let before = std::fs::symlink_metadata(bench.path()).unwrap();
        let app = bench.app(AUTHORITY);
        assert_eq!(bench.requests(&app), (1, 1), "{name}");
        assert_eq!(bench.requests(&app), (0, 1), "{name}: in memory it holds");
        assert_eq!(bench.requests(&bench.app(AUTHORITY)), (1, 1), "{name}");
        let after = std::fs::symlink_metadata(bench.path()).unwrap();
        assert_eq!((before.len(), before.file_type()), (after.len(), after.file_type()), "{name}");
    }
}

#[test]
fn fields_of_later_versions_are_kept() {
    let bench = Bench::new();
    let mut theirs = bench.record();
    theirs["later"] = json!({ "n": [1, null] });
    let state =
        json!({ "refusals": { "a": [1.5, "x"] }, "authorities": { "https://other.example/t/": theirs } });
    bench.write(&state);
    assert_eq!(bench.requests(&bench.app(AUTHORITY)), (1, 1));
    let mut now = bench.read();
    let own = now["authorities"].as_object_mut().unwrap().remove("https://own.example/t.example/");
    assert_eq!(own.unwrap()["token_endpoint"], ENDPOINT);
    now["authorities"]["https://other.example/t/"].as_object_mut().unwrap().remove("instance_discovery");
    now.as_object_mut().unwrap().remove("salt");
    assert_eq!(now, state);
}

#[test]
fn a_remembered_endpoint_is_used_only_if_the_secret_may_go_there() {
    let by_id = format!("https://own.example/{TENANT}");
    let key = |authority: &str| format!("{authority}/");
    let remembering = |authority: &str, changes: &[(&str, &str)]| {
        let bench = Bench::new();
        let mut record = bench.record();
        for (name, value) in changes {
            record[name] = json!(value);
        }
        bench.write(&json!({ "authorities": { key(authority): record } }));
        let requests = bench.requests(&bench.app(authority));
        let all_to_own = bench.sent.sent().iter().all(|sent| sent.url.starts_with("https://own.example/"));
        assert!(all_to_own, "{changes:?}: {:?}", bench.sent.hosts());
        requests
    };
    for authority in [AUTHORITY, &by_id] {
        assert_eq!(remembering(authority, &[]), (0, 1));
        for endpoint in [
            format!("http://own.example/{TENANT}/oauth2/v2.0/token"),
            format!("https://evil.example/{TENANT}/oauth2/v2.0/token"),
            format!("https://own.example.evil/{TENANT}/oauth2/v2.0/token"),
            format!("https://own.example@evil.example/{TENANT}/oauth2/v2.0/token"),
            format!("https://u:p@own.example/{TENANT}/oauth2/v2.0/token"),
            format!("https://own.example:8443/{TENANT}/oauth2/v2.0/token"),
            format!("https://sub.own.example/{TENANT}/oauth2/v2.0/token"),
            format!("https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"),
            format!("//own.example/{TENANT}"),
            String::new(),
        ] {
            assert_eq!(remembering(authority, &[("token_endpoint", &endpoint)]), (1, 1), "{endpoint}");
        }
        for realm in ["", "another"] {
            assert_eq!(remembering(authority, &[("realm", realm)]), (1, 1), "{realm:?}");
        }
    }
}

#[test]
fn a_remembered_alias_does_not_make_a_host_one_of_microsofts() {
    let bench = Bench::new();
    let mut record = bench.record();
    record["aliases"] = json!(["own.example", "login.microsoftonline.com", "alias.example"]);
    bench.write(&json!({ "authorities": { "https://own.example/t.example/": record } }));
    let token = |environment: &str| {
        let now = bench.clock.now();
        json!({
            "credential_type": "AccessToken", "secret": environment, "home_account_id": null, "client_id": "client",
            "environment": environment, "realm": TENANT, "target": "api://x/.default", "token_type": "Bearer",
            "cached_at": now.get().to_string(), "expires_on": now.plus(3600).get().to_string(),
            "extended_expires_on": now.plus(3600).get().to_string(),
        })
    };
    let ask = |environment: &str| {
        let document = json!({ "AccessToken": { "k": token(environment) } }).to_string();
        std::fs::write(bench.folder.path().join("cache.json"), document).unwrap();
        let found = bench.app(AUTHORITY).acquire_token_silent("api://x/.default").blocking().unwrap();
        found.map(|found| found.access_token().expose().to_owned())
    };
    assert_eq!(ask("alias.example").as_deref(), Some("alias.example"));
    assert_eq!(ask("login.microsoftonline.com"), None);
}

#[test]
fn the_number_of_remembered_authorities_is_bounded_and_the_oldest_go_first() {
    let bench = Bench::new();
    let records: serde_json::Map<_, _> = (0..256)
        .map(|n| {
            let mut record = bench.record();
            record["fetched_at"] = json!(bench.clock.read() - 1000 + n);
            (format!("https://own.example/t{n}.example/"), record)
        })
        .collect();
    bench.write(&json!({ "authorities": records }));
    assert_eq!(bench.requests(&bench.app(AUTHORITY)), (1, 1));
    let now = bench.read();
    let now = now["authorities"].as_object().unwrap();
    assert_eq!(now.len(), 256);
    assert!(now.contains_key("https://own.example/t.example/"));
    assert!(!now.contains_key("https://own.example/t0.example/"));
    assert!(now.contains_key("https://own.example/t1.example/"));
}

#[test]
fn processes_that_remember_at_the_same_time_forget_nothing() {
    let bench = Bench::new();
    std::thread::scope(|threads| {
        for process in 0..4 {
            let app = bench.app(AUTHORITY);
            threads.spawn(move || {
                for n in 0..5 {
                    let request = app.acquire_token_for_client("api://x/.default");
                    let tenant = format!("t{process}-{n}.example");
                    request.tenant_id(tenant).force_refresh(true).blocking().unwrap();
                }
            });
        }
    });
    assert_eq!(bench.read()["authorities"].as_object().unwrap().len(), 20);
}
