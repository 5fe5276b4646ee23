//! Through the client: what lies in the cache beside an application's own token never answers for it. A request goes
//! out instead, and what lay there stays.

use serde_json::{Map, Value, json};
use strongroom::TokenSource;

use crate::client_support::{NoTransport, Scene};

const HASH: &str = "szxewqr_oxftvj7t5sfiqin1oqcuxxiaebvv50zvgau";

/// Documents of other programs in the cache of the provider's sample application.
struct Beside {
    scene: Scene,
}

impl Beside {
    fn new() -> Self {
        let scene = Scene::new();
        // What has to be known of the authority is known, so that a hit would need no request at all.
        scene.token().unwrap();
        Self { scene }
    }

    /// The key of the application's own token as MSAL Python makes it.
    fn plain_key(&self) -> String {
        let ready = self.scene.ready();
        format!("-localhost-accesstoken-{}-{}-{}", ready.client_id, ready.tenant, ready.scope).to_lowercase()
    }

    /// The entry of a valid token of the application itself, with `changes`.
    fn entry(&self, changes: &[(&str, Value)]) -> Value {
        let (ready, now) = (self.scene.ready(), self.scene.clock.read());
        let mut entry = json!({
            "credential_type": "AccessToken", "secret": "somebody-elses", "home_account_id": null,
            "environment": "localhost", "client_id": ready.client_id, "realm": ready.tenant, "target": ready.scope,
            "token_type": "Bearer", "cached_at": now.to_string(), "expires_on": (now + 3600).to_string(),
            "extended_expires_on": (now + 3600).to_string(),
        });
        for (name, value) in changes {
            entry[name] = value.clone();
        }
        entry
    }

    /// Writes the cache, and forgets what the provider has seen.
    fn lay_down(&self, entries: Map<String, Value>) {
        let document = json!({ "AccessToken": entries });
        std::fs::write(self.scene.location(), document.to_string()).unwrap();
        self.scene.sts.reset();
    }

    /// Asserts that this entry is served to nobody, whatever way is asked, and is as it was afterwards.
    fn assert_not_served(&self, which: &str, key: &str, entry: &Value) {
        let what = format!("{which}: {key}: {entry}");
        self.lay_down(Map::from_iter([(key.to_owned(), entry.clone())]));
        let app = self.scene.app();
        let scope = self.scene.ready().scope.as_str();
        assert!(app.acquire_token_silent(scope).blocking().unwrap().is_none(), "{what}");
        assert_eq!(self.scene.requests(), 0, "{what}");
        for source in [TokenSource::IdentityProvider, TokenSource::Cache] {
            let result = self.scene.acquire(&app).unwrap();
            assert_eq!(result.token_source(), source, "{what}");
            assert_ne!(result.access_token().expose(), "somebody-elses", "{what}");
        }
        assert_eq!(self.scene.token_requests(), 1, "{what}");
        let next = self.scene.builder().transport(NoTransport).build().unwrap();
        let next = self.scene.acquire(&next).unwrap();
        assert_ne!(next.access_token().expose(), "somebody-elses", "{what}");
        assert_eq!(self.scene.document()["AccessToken"][key], *entry, "it is not ours to change: {what}");
    }
}

#[test]
fn the_entry_that_all_of_these_begin_from_would_be_served() {
    let beside = Beside::new();
    for key in [beside.plain_key(), "k".to_owned(), format!("{}-", beside.plain_key())] {
        for home_account_id in [Value::Null, json!("")] {
            let entry = beside.entry(&[("home_account_id", home_account_id)]);
            beside.lay_down(Map::from_iter([(key.clone(), entry)]));
            let result = beside.scene.token().unwrap();
            assert_eq!(result.access_token().expose(), "somebody-elses");
            assert_eq!(beside.scene.requests(), 0);
        }
    }
}

#[test]
fn a_token_that_is_bound_to_a_key_is_never_served() {
    let beside = Beside::new();
    let ready = beside.scene.ready();
    let bound = format!(
        "-localhost-accesstoken_with_authscheme-{}-{}-{}-pop",
        ready.client_id, ready.tenant, ready.scope
    );
    let node = json!("AccessToken_With_AuthScheme");
    for (language, key, changes) in [
        (
            "Python, under a bearer token's key",
            beside.plain_key(),
            vec![("token_type", json!("pop")), ("key_id", json!("kid"))],
        ),
        ("Python, an SSH certificate", beside.plain_key(), vec![("token_type", json!("ssh-cert"))]),
        (
            "Go",
            format!("{}-pop", beside.plain_key()),
            vec![("token_type", json!("pop")), ("keyid", json!("kid"))],
        ),
        (
            "Node",
            bound.clone(),
            vec![("credential_type", node.clone()), ("token_type", json!("pop")), ("key_id", json!("kid"))],
        ),
        ("Node, by its type alone", "k".to_owned(), vec![("credential_type", node)]),
        (".NET", bound, vec![("token_type", json!("pop")), ("kid", json!("kid"))]),
        (".NET, by its key id alone", "k".to_owned(), vec![("kid", json!("kid"))]),
    ] {
        beside.assert_not_served(language, &key, &beside.entry(&changes));
    }
}

#[test]
fn an_extended_token_in_each_languages_spelling_is_never_served() {
    let beside = Beside::new();
    let plain = beside.plain_key();
    let atext = format!("{}-{HASH}", plain.replace("-accesstoken-", "-atext-"));
    let components = json!({ "fmi_path": "some/path" });
    for (language, key, changes) in [
        ("Python and Go", &atext, vec![("ext_cache_key", json!(HASH))]),
        ("Java", &atext, vec![("credential_type", json!("AText")), ("ext_cache_key_hash", json!(HASH))]),
        (
            ".NET",
            &atext,
            vec![
                ("credential_type", json!("ATExt")),
                ("ext", json!({ "fmi_path": { "Item1": "some/path", "Item2": false } })),
            ],
        ),
        (
            "Node",
            &format!("{plain}--7f5unhzrt3y60e4clhx8oakvmvc755ebgt_yvyhqqsm"),
            vec![("additionalCacheKeyComponents", components.clone())],
        ),
        // A writer dropped the marker, and the key is what is left.
        ("Python and Go, without the marker", &atext, vec![]),
        (
            "Node, without the marker",
            &format!("{plain}--7f5unhzrt3y60e4clhx8oakvmvc755ebgt_yvyhqqsm"),
            vec![],
        ),
        // Or the key is of no known form, and the marker is what is left.
        ("Python and Go, under a foreign key", &"k".to_owned(), vec![("ext_cache_key", json!(HASH))]),
        ("Java, under a plain key", &plain, vec![("ext_cache_key_hash", json!(HASH))]),
        ("Node, under a plain key", &plain, vec![("additionalCacheKeyComponents", components)]),
        (".NET, under a plain key", &plain, vec![("ext", json!({ "fmi_path": "some/path" }))]),
    ] {
        beside.assert_not_served(language, key, &beside.entry(&changes));
    }
}

#[test]
fn a_users_token_and_one_on_behalf_of_a_user_are_never_served() {
    let beside = Beside::new();
    let user = ("home_account_id", json!("uid.utid"));
    let hash = json!("fFsdSeaHX9iH_VIhI8SzQWnUzBGmUCzATLfrj3wWaXI");
    let more = json!(format!("{} openid profile", beside.scene.ready().scope));
    for (what, changes) in [
        ("a user's", vec![user.clone()]),
        ("a user's with more scopes", vec![user.clone(), ("target", more.clone())]),
        (
            "on behalf of, as Go, Java and .NET write it",
            vec![user.clone(), ("user_assertion_hash", hash.clone())],
        ),
        ("on behalf of, as Node writes it", vec![user, ("userAssertionHash", hash.clone())]),
        ("on behalf of nobody known", vec![("user_assertion_hash", hash.clone())]),
        ("on behalf of nobody known, with more scopes", vec![("userAssertionHash", hash), ("target", more)]),
    ] {
        for key in [beside.plain_key(), "k".to_owned(), format!("uid.utid{}", beside.plain_key())] {
            beside.assert_not_served(what, &key, &beside.entry(&changes));
        }
    }
}

#[test]
fn a_token_of_another_application_tenant_host_or_resource_is_never_served() {
    let beside = Beside::new();
    for (field, value) in [
        ("client_id", json!("another")),
        ("realm", json!("another")),
        ("environment", json!("login.microsoftonline.com")),
        ("environment", json!("localhost.example")),
        ("target", json!("api://another/.default")),
        ("target", json!("")),
    ] {
        beside.assert_not_served(field, "k", &beside.entry(&[(field, value)]));
    }
}

#[test]
fn an_entry_that_cannot_be_read_is_never_served_and_costs_no_other() {
    let beside = Beside::new();
    for (field, value) in [
        ("secret", json!(5)),
        ("secret", json!("")),
        ("expires_on", json!("soon")),
        ("expires_on", Value::Null),
        ("home_account_id", json!(5)),
        ("token_type", json!({ "pop": true })),
    ] {
        let bad = beside.entry(&[(field, value)]);
        beside.assert_not_served(field, "k", &bad);
        let good = beside.entry(&[("secret", json!("good"))]);
        beside.lay_down(Map::from_iter([("a".to_owned(), bad.clone()), (beside.plain_key(), good)]));
        assert_eq!(beside.scene.token().unwrap().access_token().expose(), "good", "{bad}");
    }
}

#[test]
fn among_all_of_these_the_applications_own_token_is_found() {
    let beside = Beside::new();
    let plain = beside.plain_key();
    let newer = json!((beside.scene.clock.read() + 5).to_string());
    let mut entries = Map::new();
    for (n, change) in [
        ("token_type", json!("pop")),
        ("kid", json!("kid")),
        ("ext_cache_key", json!(HASH)),
        ("ext", json!({ "a": "b" })),
        ("home_account_id", json!("uid.utid")),
        ("user_assertion_hash", json!("aGFzaA")),
        ("client_id", json!("another")),
        ("realm", json!("another")),
    ]
    .into_iter()
    .enumerate()
    {
        entries.insert(format!("k{n}"), beside.entry(&[change, ("cached_at", newer.clone())]));
    }
    entries.insert(plain, beside.entry(&[("secret", json!("own"))]));
    beside.lay_down(entries);
    let app = beside.scene.app();
    for _ in 0..3 {
        assert_eq!(beside.scene.acquire(&app).unwrap().access_token().expose(), "own");
    }
    assert_eq!(beside.scene.requests(), 0);
}

#[test]
fn a_token_from_another_port_of_the_host() {
    let beside = Beside::new();
    let port = beside.scene.origin().rsplit_once(':').unwrap().1.to_owned();
    for (environment, is_served) in [
        ("localhost:1".to_owned(), false),
        (format!("localhost:{port}"), true),
        ("localhost".to_owned(), true),
    ] {
        let entry = beside.entry(&[("environment", environment.clone().into())]);
        let key = beside.plain_key().replacen("localhost", &environment, 1);
        beside.lay_down(Map::from_iter([(key, entry)]));
        let app = beside.scene.app();
        let served = app.acquire_token_silent(beside.scene.ready().scope.as_str()).blocking().unwrap();
        assert_eq!(served.is_some(), is_served, "{environment}");
    }
}
