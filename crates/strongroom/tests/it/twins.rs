//! Python and Node in one document: each finds an application's token in an entry of its own, and the two are kept equal.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;
use strongroom::{
    AccessToken, AccessTokenRequest, Change, Credential, CredentialKey, CredentialType, Dialect, Document,
    DocumentStore, Environments, Expectation, ExtendedKey, FilePersistence, Lookup, Purge, SecretString,
    TokenCache, TokenScheme, UnixSeconds, block_on,
};

use crate::schema_support::*;

/// Where Node's twin of [`app_token`] lies.
const NODE_KEY: &str = "-login.windows.net-accesstoken-client-id-tid-https://graph.microsoft.com/.default-";

fn for_both() -> Change {
    change().dialect(Dialect::PYTHON_AND_NODE)
}

fn put(token: AccessToken) -> Change {
    for_both().put(Credential::AccessToken(token))
}

/// The fields in which twins differ are taken out.
fn but_for_their_shape(document: &Document, key: &str) -> Value {
    let mut entry = json(document)["AccessToken"][key].clone();
    let fields = entry.as_object_mut().expect("an entry");
    for name in ["home_account_id", "environment", "target"] {
        fields.remove(name);
    }
    entry
}

/// An access token as peers look at it.
#[derive(Debug, Clone)]
struct Seen {
    key: String,
    home: Option<Value>,
    environment: String,
    client_id: String,
    realm: String,
    target: String,
    secret: String,
    expires_on: String,
}

fn seen(document: &Document) -> Vec<Seen> {
    if document.is_empty() {
        return Vec::new();
    }
    let document = json(document);
    let Some(tokens) = document["AccessToken"].as_object() else { return Vec::new() };
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let plain = tokens
        .iter()
        .filter(|(_, entry)| entry["token_type"] == "Bearer" && entry["ext_cache_key"].is_null());
    plain
        .map(|(key, entry)| Seen {
            key: key.clone(),
            home: entry.get("home_account_id").cloned(),
            environment: text(entry, "environment"),
            client_id: text(entry, "client_id"),
            realm: text(entry, "realm"),
            target: text(entry, "target"),
            secret: text(entry, "secret"),
            expires_on: text(entry, "expires_on"),
        })
        .collect()
}

impl Seen {
    fn has(&self, scope: &str) -> bool {
        self.target.split(' ').any(|own| own.eq_ignore_ascii_case(scope))
    }

    /// The key that MSAL Python computes from the fields, by which it deletes what has expired.
    fn key_of_python(&self) -> String {
        let home = self.home.as_ref().and_then(Value::as_str).unwrap_or_default();
        format!("{home}-{}-accesstoken-{}-{}-{}", self.environment, self.client_id, self.realm, self.target)
            .to_lowercase()
    }
}

/// What MSAL Python, configured with `host`, finds for a scope.
fn python_finds(document: &Document, host: &str, realm: &str, scope: &str) -> Vec<Seen> {
    let is_it = |entry: &Seen| {
        entry.home == Some(Value::Null)
            && entry.environment == host
            && entry.realm == realm
            && entry.has(scope)
    };
    seen(document).into_iter().filter(is_it).collect()
}

/// What MSAL Node finds for a scope, under any of its authority's aliases. Two are an error to it.
fn node_finds(document: &Document, environments: &Environments, realm: &str, scope: &str) -> Vec<Seen> {
    let is_it = |entry: &Seen| {
        entry.home.as_ref().is_some_and(|home| home == "")
            && environments.contains(&entry.environment)
            && entry.realm == realm
            && entry.has(scope)
    };
    seen(document).into_iter().filter(is_it).collect()
}

fn public() -> Environments {
    Environments::of(HOST)
}

/// That an expired twin of Node's cannot cost Python its own token.
fn assert_python_keeps_its_own(document: &Document) {
    let entries = seen(document);
    let (of_node, others): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| entry.home.as_ref().is_some_and(|home| home == ""));
    for node in of_node {
        let computed = node.key_of_python();
        assert!(others.iter().all(|own| own.key != computed), "{computed} in {}", json(document));
    }
}

#[test]
fn a_new_token_is_written_once_as_python_and_once_as_node_finds_it() {
    let document = apply(&Document::empty(), &put(app_token()));
    assert_eq!(keys(&document, "AccessToken"), [APP_KEY, NODE_KEY]);
    let of = |key: &str, name: &str| field(&document, "AccessToken", key, name).expect("there");
    assert_eq!(of(APP_KEY, "home_account_id"), Value::Null);
    assert_eq!(of(APP_KEY, "environment"), HOST);
    assert_eq!(of(NODE_KEY, "home_account_id"), "");
    assert_eq!(of(NODE_KEY, "environment"), "login.windows.net");
    assert_eq!(of(NODE_KEY, "target"), SCOPE);
    assert_eq!(but_for_their_shape(&document, APP_KEY), but_for_their_shape(&document, NODE_KEY));
    assert_python_keeps_its_own(&document);
    assert_eq!(
        document.concerns(NOW).iter().filter(|concern| concern.harm == strongroom::Harm::Breaks).count(),
        0
    );
}

#[test]
fn where_nodes_host_is_pythons_the_twin_lies_under_another_alias() {
    for (host, twin) in [
        ("login.windows.net", "sts.windows.net"),
        ("login.microsoftonline.us", "login.usgovcloudapi.net"),
        ("login.partner.microsoftonline.cn", "login.chinacloudapi.cn"),
    ] {
        let token = AccessToken { environment: host.into(), ..app_token() };
        let document = apply(&Document::empty(), &put(token));
        let hosts: Vec<_> =
            seen(&document).into_iter().map(|entry| (entry.environment, entry.home)).collect();
        assert_eq!(hosts.len(), 2);
        assert!(hosts.contains(&(host.to_owned(), Some(Value::Null))), "{hosts:?}");
        assert!(hosts.contains(&(twin.to_owned(), Some("".into()))), "{hosts:?}");
        assert_python_keeps_its_own(&document);
    }
}

#[test]
fn where_there_is_one_host_only_the_twins_target_keeps_python_from_deleting_its_own() {
    let token = AccessToken { environment: "adfs.example".into(), ..app_token() };
    let document = apply(&Document::empty(), &put(token.clone()));
    let environments = Environments::of("adfs.example");
    let [node] = &*node_finds(&document, &environments, "tid", SCOPE) else { panic!("{}", json(&document)) };
    assert_eq!(node.target, format!("{SCOPE} "));
    assert_eq!(node.key, format!("-adfs.example-accesstoken-client-id-tid-{SCOPE}-"));
    assert_eq!(python_finds(&document, "adfs.example", "tid", SCOPE).len(), 1);
    assert_python_keeps_its_own(&document);
    // One token to us, and refreshed as one.
    assert_eq!(document.list(&strongroom::Partition::of_access_token(&token)).len(), 2);
    let again = apply(&document, &put(AccessToken { secret: "new".into(), ..token }));
    assert_eq!(keys(&again, "AccessToken"), keys(&document, "AccessToken"));
    assert!(seen(&again).iter().all(|entry| entry.secret == "new"));
    assert_python_keeps_its_own(&again);
}

#[test]
fn the_twin_of_a_host_with_a_port_has_the_port_as_node_writes_it() {
    let environments = Environments::with_aliases("localhost", Some("localhost:8443"), [""; 0]);
    let token = AccessToken { environment: "localhost".into(), ..app_token() };
    let change = put(token).environments(environments);
    let document = apply(&Document::empty(), &change);
    let hosts: Vec<_> = seen(&document).into_iter().map(|entry| entry.environment).collect();
    assert_eq!(hosts, ["localhost", "localhost:8443"]);
    assert_python_keeps_its_own(&document);
}

#[test]
fn both_twins_are_refreshed_and_keep_what_others_have_put_into_them() {
    let document = apply(&Document::empty(), &put(app_token()));
    let marked = text(&document).replace("\"realm\"", "\"x_unknown\":[1.50],\"realm\"");
    for dialect in [None, Some(Dialect::PYTHON), Some(Dialect::NODE), Some(Dialect::PYTHON_AND_NODE)] {
        let new = AccessToken { secret: "new".into(), expires_on: NOW.plus(9000), ..app_token() };
        let change = change().put(Credential::AccessToken(new));
        let change = match dialect {
            Some(dialect) => change.dialect(dialect),
            None => change,
        };
        let after = apply(&parse(&marked), &change);
        assert_eq!(keys(&after, "AccessToken"), [APP_KEY, NODE_KEY], "{dialect:?}");
        assert_eq!(
            but_for_their_shape(&after, APP_KEY),
            but_for_their_shape(&after, NODE_KEY),
            "{dialect:?}"
        );
        assert_eq!(field(&after, "AccessToken", NODE_KEY, "secret").expect("there"), "new");
        assert_eq!(field(&after, "AccessToken", NODE_KEY, "home_account_id").expect("there"), "");
        assert_eq!(text(&after).matches("\"x_unknown\":[1.50]").count(), 2, "{dialect:?}");
    }
}

#[test]
fn an_entry_of_one_language_gets_its_twin_when_it_is_refreshed_for_both() {
    let python = access_tokens(&[(APP_KEY, &app_entry(&[("x_unknown", "1")]))]);
    let node_entry = app_entry(&[
        ("home_account_id", "\"\""),
        ("environment", "\"login.windows.net\""),
        ("x_unknown", "1"),
    ]);
    let node = access_tokens(&[(NODE_KEY, &node_entry)]);
    let go = access_tokens(&[(APP_KEY, &app_entry(&[("home_account_id", ""), ("x_unknown", "1")]))]);
    for (document, whose) in [(python, "python"), (node, "node"), (go, "go")] {
        let new = AccessToken { secret: "new".into(), ..app_token() };
        // As long as nobody asks for it, it stays alone.
        let alone = apply(&document, &change().put(Credential::AccessToken(new.clone())));
        assert_eq!(keys(&alone, "AccessToken").len(), 1, "{whose}");
        let after = apply(&document, &put(new));
        assert_eq!(keys(&after, "AccessToken"), [APP_KEY, NODE_KEY], "{whose}");
        assert!(seen(&after).iter().all(|entry| entry.secret == "new"), "{whose}");
        assert_eq!(python_finds(&after, HOST, "tid", SCOPE).len(), 1, "{whose}");
        assert_eq!(node_finds(&after, &public(), "tid", SCOPE).len(), 1, "{whose}");
        assert_eq!(text(&after).matches("x_unknown").count(), 1, "{whose}");
    }
}

#[test]
fn nodes_own_entry_becomes_the_twin_under_whatever_alias_and_key_it_stands() {
    for host in ["login.windows.net", "sts.windows.net", "login.microsoft.com"] {
        for tail in ["", "-", "--"] {
            let key = format!("-{host}-accesstoken-client-id-tid-{SCOPE}{tail}");
            let entry = app_entry(&[("home_account_id", "\"\""), ("environment", &format!("{host:?}"))]);
            let after = apply(
                &access_tokens(&[(&key, &entry)]),
                &put(AccessToken { secret: "new".into(), ..app_token() }),
            );
            let [node] = &*node_finds(&after, &public(), "tid", SCOPE) else { panic!("{}", json(&after)) };
            assert_eq!((&*node.key, &*node.environment, &*node.secret), (&*key, host, "new"));
            assert_eq!(python_finds(&after, HOST, "tid", SCOPE).len(), 1);
            assert_python_keeps_its_own(&after);
        }
    }
}

#[test]
fn an_entry_of_nodes_that_would_cost_python_its_token_keeps_its_key_and_moves_out_of_the_way() {
    // Under the host that Python is configured with, under Python's key and under its own.
    for tail in ["", "-"] {
        let key = format!("{APP_KEY}{tail}");
        let document = access_tokens(&[(&key, &app_entry(&[("home_account_id", "\"\"")]))]);
        let after = apply(&document, &put(AccessToken { secret: "new".into(), ..app_token() }));
        assert_eq!(python_finds(&after, HOST, "tid", SCOPE).len(), 1, "{}", json(&after));
        let [node] = &*node_finds(&after, &public(), "tid", SCOPE) else { panic!("{}", json(&after)) };
        assert_eq!(node.environment, "login.windows.net");
        assert_eq!(keys(&after, "AccessToken").len(), 2);
        assert!(seen(&after).iter().all(|entry| entry.secret == "new"));
        assert_python_keeps_its_own(&after);
    }
}

#[test]
fn of_all_that_answers_nodes_request_one_entry_is_left() {
    let at = |host: &str, target: &str| {
        app_entry(&[
            ("home_account_id", "\"\""),
            ("environment", &format!("{host:?}")),
            ("target", &format!("{target:?}")),
        ])
    };
    let other_tenant = app_entry(&[("home_account_id", "\"\""), ("realm", "\"other\"")]);
    let document = access_tokens(&[
        ("one", &at("login.windows.net", "s")),
        ("two", &at("login.microsoftonline.com", "S")),
        ("more", &at("login.windows.net", "s t")),
        ("other", &at("login.windows.net", "u")),
        ("elsewhere", &at("login.microsoftonline.us", "s")),
        ("tenant", &other_tenant),
    ]);
    let after =
        apply(&document, &put(AccessToken { target: "s".into(), secret: "new".into(), ..app_token() }));
    let [node] = &*node_finds(&after, &public(), "tid", "s") else { panic!("{}", json(&after)) };
    assert_eq!((&*node.key, &*node.secret), ("one", "new"));
    assert_survives(&document, &after, &["one", "two", "more"]);
    let mut left = keys(&after, "AccessToken");
    left.retain(|key| !["one", "other", "elsewhere", "tenant"].contains(&&**key));
    assert_eq!(left, ["-login.microsoftonline.com-accesstoken-client-id-tid-s"]);
}

#[test]
fn twins_in_one_change_do_not_answer_the_same_request_either() {
    let token = |scopes: &str| AccessToken { target: scopes.into(), secret: scopes.into(), ..app_token() };
    let changes = [
        put(token("a")).put(Credential::AccessToken(token("a b"))),
        put(token("a b")).put(Credential::AccessToken(token("b"))),
        put(token("a b")).put_unless_answered(token("b c")),
    ];
    for change in changes {
        let document = apply(&Document::empty(), &change);
        for scope in ["a", "b", "c"] {
            assert!(node_finds(&document, &public(), "tid", scope).len() < 2, "{}", json(&document));
        }
        assert_eq!(node_finds(&document, &public(), "tid", "b").len(), 1);
        assert_eq!(seen(&document).iter().filter(|entry| entry.home == Some(Value::Null)).count(), 2);
    }
}

#[test]
fn extended_and_bound_tokens_and_those_of_users_have_no_twin() {
    let scheme = TokenScheme::Bound { token_type: "pop".into(), key_id: Some("k".into()) };
    let extended = ExtendedKey::of(&[("fmi_path".to_owned(), "p".to_owned())].into());
    for token in [
        AccessToken { token_type: "pop".into(), scheme, ..app_token() },
        AccessToken { extended: Some(extended), ..app_token() },
        AccessToken { user_assertion_hash: Some("aGFzaA".into()), ..app_token() },
        user_token(),
    ] {
        let document = apply(&Document::empty(), &put(token));
        assert_eq!(keys(&document, "AccessToken").len(), 1, "{}", json(&document));
        assert!(!text(&document).contains("\"home_account_id\":\"\""));
    }
}

#[test]
fn a_document_of_twins_is_gone_on_with_in_twins() {
    let twins = apply(&Document::empty(), &put(app_token()));
    let other = AccessToken { realm: "other".into(), ..app_token() };
    let after = apply(&twins, &change().put(Credential::AccessToken(other.clone())));
    assert_eq!(keys(&after, "AccessToken").len(), 4);
    assert_eq!(node_finds(&after, &public(), "other", SCOPE).len(), 1);
    assert_eq!(python_finds(&after, HOST, "other", SCOPE).len(), 1);
    // Two entries that no writer of twins has made are none, and among many others two are not the rule.
    let born_apart = text(&twins).replacen("\"cached_at\":\"1800000000\"", "\"cached_at\":\"1799999999\"", 1);
    let singles: Vec<(String, String)> =
        (0..3).map(|n| (format!("k{n}"), app_entry(&[("realm", &format!("\"r{n}\""))]))).collect();
    let mut crowded = twins;
    for (key, entry) in &singles {
        let json = SecretString::from(entry.as_str());
        let change = change().put_entry(CredentialType::AccessToken, key, json).expect("an entry");
        crowded = apply(&crowded, &change.dialect(Dialect::PYTHON));
    }
    for document in [parse(&born_apart), crowded] {
        let before = keys(&document, "AccessToken").len();
        let after = apply(&document, &change().put(Credential::AccessToken(other.clone())));
        assert_eq!(keys(&after, "AccessToken").len(), before + 1, "{}", json(&after));
    }
}

#[test]
fn twins_are_swept_together_and_removed_together() {
    let both = |change: Change| change.dialect(Dialect::PYTHON_AND_NODE);
    let twins = apply(&Document::empty(), &put(app_token()));
    // Python's alone would be kept for outages.
    for dialect in [Change::new(NOW.plus(3600)), both(Change::new(NOW.plus(3600)))] {
        let (after, swept) = apply_and_count(&twins, &dialect.sweep_expired());
        assert_eq!((seen(&after).len(), swept), (0, 2));
    }
    let removals = [
        change().remove(CredentialKey::of_access_token(&app_token())),
        change().remove_app_tokens("client-id", &public()),
        change().remove_client("CLIENT-ID"),
        change().remove_where(Arc::new(|credential| matches!(credential, Credential::AccessToken(_)))),
        change()
            .remove_entry(CredentialType::AccessToken, APP_KEY, &app_entry(&[]).as_str().into())
            .expect("an entry"),
    ];
    for removal in removals {
        assert!(seen(&apply(&twins, &removal)).is_empty(), "{removal:?}");
        assert!(seen(&apply(&twins, &both(removal))).is_empty());
    }
}

#[test]
fn what_merely_expired_beside_an_entry_of_nodes_is_kept_for_outages_as_ever() {
    let node = app_entry(&[
        ("home_account_id", "\"\""),
        ("environment", "\"login.windows.net\""),
        ("secret", "\"of node\""),
    ]);
    let document = access_tokens(&[(APP_KEY, &app_entry(&[])), (NODE_KEY, &node)]);
    let (after, swept) = apply_and_count(&document, &Change::new(NOW.plus(3600)).sweep_expired());
    assert_eq!((keys(&after, "AccessToken"), swept), (vec![APP_KEY.to_owned()], 1));
}

#[test]
fn what_go_has_made_of_twins_is_healed_to_what_each_was() {
    let twins = apply(&Document::empty(), &put(app_token()));
    let of_go = rewritten(&twins);
    assert!(python_finds(&of_go, HOST, "tid", SCOPE).is_empty());
    let elsewhere = AccessToken { realm: "other".into(), ..app_token() };
    for change in [put(elsewhere), put(app_token())] {
        let healed = apply(&of_go, &change);
        assert_eq!(python_finds(&healed, HOST, "tid", SCOPE).len(), 1, "{}", json(&healed));
        let [node] = &*node_finds(&healed, &public(), "tid", SCOPE) else { panic!("{}", json(&healed)) };
        assert_eq!(node.key, NODE_KEY);
    }
}

/// What MSAL Go and Java leave of it.
fn rewritten(document: &Document) -> Document {
    let text =
        text(document).replace("\"home_account_id\":null,", "").replace("\"home_account_id\":\"\",", "");
    parse(&text)
}

#[test]
fn what_go_has_made_of_a_whole_document_is_healed_whoever_is_declared() {
    let python = |realm: &str| {
        let key = format!("-{HOST}-accesstoken-client-id-{realm}-{SCOPE}");
        (key, app_entry(&[("realm", &format!("{realm:?}"))]))
    };
    let node = |realm: &str, tail: &str| {
        let key = format!("-login.windows.net-accesstoken-client-id-{realm}-{SCOPE}{tail}");
        let fields = [
            ("home_account_id", "\"\""),
            ("environment", "\"login.windows.net\""),
            ("realm", &*format!("{realm:?}")),
        ];
        (key, app_entry(&fields))
    };
    // Twins, each alone, and one of an older Node.
    let all = [python("both"), node("both", "-"), python("p"), node("n", "-"), node("old", "--")];
    let entries: Vec<(&str, &str)> = all.iter().map(|(key, entry)| (&**key, &**entry)).collect();
    let whole = access_tokens(&entries);
    let of_go = rewritten(&whole);
    assert!(seen(&of_go).iter().all(|entry| entry.home.is_none()));
    let other = change().put(Credential::AccessToken(AccessToken { realm: "other".into(), ..app_token() }));
    let changes = Dialect::ALL.map(|dialect| other.clone().dialect(dialect));
    for change in changes.into_iter().chain([other]) {
        let healed = apply(&of_go, &change);
        for (key, _) in &all {
            let home = |document: &Document| field(document, "AccessToken", key, "home_account_id");
            assert_eq!(home(&healed), home(&whole), "{key} with {change:?}");
        }
        // As often as it happens.
        assert_eq!(seen(&apply(&rewritten(&healed), &change)).len(), seen(&healed).len());
    }
}

#[test]
fn healing_gives_node_no_second_answer() {
    let gone = |host: &str, target: &str| {
        app_entry(&[
            ("home_account_id", ""),
            ("environment", &format!("{host:?}")),
            ("target", &format!("{target:?}")),
        ])
    };
    let key = |host: &str, target: &str| format!("-{host}-accesstoken-client-id-tid-{target}-");
    let entry = |host: &str, target: &str| (key(host, target), gone(host, target));
    let stays = app_entry(&[("home_account_id", "\"\""), ("target", "\"c\"")]);
    let all = [
        entry("login.windows.net", "a"),
        entry("sts.windows.net", "A b"),
        entry("login.microsoftonline.com", "b"),
        entry("login.windows.net", "c"),
        (key(HOST, "c"), stays),
        entry("login.microsoftonline.us", "a"),
    ];
    let entries: Vec<(&str, &str)> = all.iter().map(|(key, entry)| (&**key, &**entry)).collect();
    let document = access_tokens(&entries);
    let token = |scopes: &str| AccessToken { target: scopes.into(), secret: "new".into(), ..app_token() };
    for dialect in [None, Some(Dialect::PYTHON), Some(Dialect::NODE), Some(Dialect::PYTHON_AND_NODE)] {
        // One that is among them, and one that is new.
        for scopes in ["A b", "c", "d"] {
            let change = change().put(Credential::AccessToken(token(scopes)));
            let change = dialect.into_iter().fold(change, Change::dialect);
            let healed = apply(&document, &change);
            for scope in ["a", "b", "c"] {
                let found = node_finds(&healed, &public(), "tid", scope);
                assert_eq!(found.len(), 1, "{scope} of {} with {change:?}", json(&healed));
            }
            let elsewhere = Environments::of("login.microsoftonline.us");
            assert_eq!(node_finds(&healed, &elsewhere, "tid", "a").len(), 1);
            assert!(seen(&healed).iter().all(|entry| entry.home.is_some()), "{}", json(&healed));
        }
    }
}

#[test]
fn an_entry_that_python_made_gets_its_twin_and_stays_as_it_was_made() {
    let entry = app_entry(&[("x_unknown", "1")]);
    let change = |entry: &str| {
        for_both().put_entry(CredentialType::AccessToken, APP_KEY, entry.into()).expect("an entry")
    };
    let document = apply(&Document::empty(), &change(&entry));
    assert_eq!(keys(&document, "AccessToken"), [APP_KEY, NODE_KEY]);
    assert_eq!(field(&document, "AccessToken", APP_KEY, "x_unknown").expect("there"), 1);
    assert_eq!(but_for_their_shape(&document, NODE_KEY)["secret"], "at");
    let again = apply(&document, &change(&app_entry(&[("secret", "\"new\"")])));
    assert_eq!(keys(&again, "AccessToken"), [APP_KEY, NODE_KEY]);
    assert!(seen(&again).iter().all(|entry| entry.secret == "new"));
    // Beside Node's own entry Python's is made.
    let node = app_entry(&[("home_account_id", "\"\""), ("environment", "\"login.windows.net\"")]);
    let beside = apply(&access_tokens(&[(NODE_KEY, &node)]), &change(&entry));
    assert_eq!(keys(&beside, "AccessToken"), [APP_KEY, NODE_KEY]);
    assert_eq!(field(&beside, "AccessToken", APP_KEY, "x_unknown").expect("there"), 1);
}

#[test]
fn a_token_that_is_given_back_is_given_back_to_both_and_only_if_neither_is_answered() {
    let twins = apply(&Document::empty(), &for_both().put_unless_answered(app_token()));
    assert_eq!(keys(&twins, "AccessToken"), [APP_KEY, NODE_KEY]);
    for key in [APP_KEY, NODE_KEY] {
        let entry = json(&twins)["AccessToken"][key].to_string();
        let one = access_tokens(&[(key, &entry)]);
        let change = for_both().put_unless_answered(app_token());
        assert!(matches!(one.apply(&change), Ok(strongroom::Applied::Unchanged)), "{key}");
    }
}

#[test]
fn a_twin_is_expected_as_its_token_is() {
    let twins = apply(&Document::empty(), &put(app_token()));
    let key = CredentialKey::of_access_token(&app_token());
    let (_, revision) = twins.get(&key).expect("there");
    let new = Credential::AccessToken(AccessToken { secret: "new".into(), ..app_token() });
    let after = apply(&twins, &for_both().put_if(new.clone(), Expectation::Unchanged(revision)));
    assert!(seen(&after).iter().all(|entry| entry.secret == "new"));
    let lost = after.apply(&for_both().put_if(new, Expectation::Unchanged(revision)));
    assert!(matches!(lost, Ok(strongroom::Applied::Lost(_))));
}

/// A cache in a file that is shared with these languages.
struct Shared {
    folder: tempfile::TempDir,
    cache: TokenCache,
}

impl Shared {
    fn with(dialect: Dialect) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = FilePersistence::new(folder.path().join("cache.bin")).expect("a path");
        let store = DocumentStore::builder(file).lock_timeout(std::time::Duration::from_millis(60)).build();
        let cache = TokenCache::builder(store).dialect(dialect).build();
        Self { folder, cache }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("cache.bin")
    }

    fn document(&self) -> Document {
        parse(&std::fs::read_to_string(self.path()).expect("a document"))
    }

    fn write(&self, document: &Document) {
        std::fs::write(self.path(), text(document)).expect("writable");
    }

    fn token(&self, scope: &str) -> AccessToken {
        let now = self.cache.now();
        AccessToken {
            target: scope.into(),
            secret: scope.into(),
            cached_at: now,
            expires_on: now.plus(3600),
            extended_expires_on: now.plus(7200),
            refresh_on: None,
            ..app_token()
        }
    }

    fn store(&self, token: AccessToken) -> Result<(), strongroom::Error> {
        block_on(self.cache.store_access_token(token, &public()))
    }

    fn finds(&self, scope: &str) -> bool {
        let request = AccessTokenRequest::for_app("client-id", &public(), "tid", scope.into());
        matches!(block_on(self.cache.find_access_token(&request)), Ok(Lookup::Hit(_)))
    }

    fn both_find(&self, scope: &str) -> bool {
        let document = self.document();
        node_finds(&document, &public(), "tid", scope).len() == 1
            && python_finds(&document, HOST, "tid", scope).len() == 1
    }
}

#[test]
fn twins_that_a_peer_erased_are_both_put_back() {
    let shared = Shared::with(Dialect::PYTHON_AND_NODE);
    shared.store(shared.token("a")).expect("stored");
    let before = shared.document();
    shared.store(shared.token("b")).expect("stored");
    assert!(shared.finds("b") && shared.both_find("b"));
    shared.write(&before);
    assert!(shared.finds("a") && shared.finds("b"));
    assert!(shared.both_find("a") && shared.both_find("b"), "{}", json(&shared.document()));
}

#[test]
fn twins_that_were_removed_stay_removed_whichever_of_them_a_peer_writes_back() {
    for keep in [|key: &str| key.ends_with('-'), |key: &str| !key.ends_with('-'), |_: &str| true] {
        let shared = Shared::with(Dialect::PYTHON_AND_NODE);
        shared.store(shared.token("a")).expect("stored");
        let resurrected = {
            let mut document = json(&shared.document());
            let tokens = document["AccessToken"].as_object_mut().expect("tokens");
            tokens.retain(|key, _| keep(key));
            parse(&document.to_string())
        };
        let removed = block_on(shared.cache.remove_tokens_for_client("client-id", &public()));
        assert_eq!(removed.expect("removed"), 2, "both entries of the token");
        assert!(!shared.finds("a") && seen(&shared.document()).is_empty());
        shared.write(&resurrected);
        assert!(!shared.finds("a"));
        assert!(seen(&shared.document()).is_empty(), "{}", json(&shared.document()));
    }
}

#[test]
fn a_purge_takes_both_twins() {
    for purge in [Purge::Client("client-id".into()), Purge::All] {
        let shared = Shared::with(Dialect::PYTHON_AND_NODE);
        shared.store(shared.token("a")).expect("stored");
        block_on(shared.cache.purge(&purge)).expect("purged");
        assert!(seen(&shared.document()).is_empty());
    }
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_locks_as_java() {
    let Some(path) = std::env::var_os("STRONGROOM_TEST_PATH") else { return };
    let file = std::fs::File::create(path).expect("writable");
    rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .expect("nobody has it");
    println!("ready");
    let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new());
}

#[cfg(target_os = "linux")]
#[test]
fn who_shares_a_cache_with_java_waits_for_javas_lock_at_every_change_and_nobody_else_does() {
    use crate::support::{Process, another_process};

    for dialect in Dialect::ALL {
        let shared = Shared::with(dialect);
        shared.store(shared.token("a")).expect("stored");
        let path = shared.folder.path().join(".lockfile");
        assert!(!path.exists());
        let mut command = another_process("twins::helper_process_that_locks_as_java");
        let mut java = Process::start(command.env("STRONGROOM_TEST_PATH", &path));
        java.wait_for("ready");
        let stored = shared.store(shared.token("b"));
        let removed = block_on(shared.cache.remove_tokens_for_client("client-id", &public()));
        if dialect.as_str().contains("java") {
            for error in [stored.expect_err("locked"), removed.expect_err("locked")] {
                assert_eq!(error.code(), "locked", "{dialect}");
                assert!(error.to_string().contains("/.lockfile "), "{error}");
            }
            java.finish();
            shared.store(shared.token("b")).expect("stored");
            assert!(!path.exists(), "Java waits for six seconds where the file is left");
        } else {
            assert!(stored.is_ok() && removed.is_ok(), "{dialect}");
            assert!(path.exists(), "it is none of our business");
        }
    }
}

/// One step of a program's life beside Python and Node.
#[derive(Debug, Clone)]
enum Operation {
    Put(Token),
    PutEntry(Token),
    PutBack(Token),
    Remove(Token),
    RemoveOfHost(usize),
    Sweep,
    Wait(i64),
}

#[derive(Debug, Clone)]
struct Token {
    host: usize,
    realm: usize,
    scopes: usize,
    secret: u32,
    lifetime: i64,
}

const HOSTS: [&str; 4] =
    ["login.microsoftonline.com", "login.windows.net", "login.microsoftonline.us", "adfs.example"];
const REALMS: [&str; 2] = ["tid", "other"];
const SCOPES: [&str; 5] = ["a", "b", "a b", "c", "B c"];

impl Token {
    fn at(&self, now: UnixSeconds) -> AccessToken {
        AccessToken {
            environment: HOSTS[self.host].into(),
            realm: REALMS[self.realm].into(),
            target: SCOPES[self.scopes].into(),
            secret: format!("s{}", self.secret).into(),
            cached_at: now,
            expires_on: now.plus(self.lifetime),
            extended_expires_on: now.plus(2 * self.lifetime),
            refresh_on: None,
            ..app_token()
        }
    }
}

fn token() -> impl Strategy<Value = Token> {
    (0..HOSTS.len(), 0..REALMS.len(), 0..SCOPES.len(), any::<u32>(), 1..4000_i64)
        .prop_map(|(host, realm, scopes, secret, lifetime)| Token { host, realm, scopes, secret, lifetime })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => token().prop_map(Operation::Put),
        2 => token().prop_map(Operation::PutEntry),
        2 => token().prop_map(Operation::PutBack),
        1 => token().prop_map(Operation::Remove),
        1 => (0..HOSTS.len()).prop_map(Operation::RemoveOfHost),
        1 => Just(Operation::Sweep),
        2 => (0..3000_i64).prop_map(Operation::Wait),
    ]
}

fn make(operation: &Operation, now: UnixSeconds) -> Option<(Change, Option<AccessToken>)> {
    let blank = Change::new(now).dialect(Dialect::PYTHON_AND_NODE);
    Some(match operation {
        Operation::Put(token) => {
            let token = token.at(now);
            (blank.put(Credential::AccessToken(token.clone())).sweep_expired(), Some(token))
        }
        Operation::PutEntry(token) => {
            let token = token.at(now);
            // As MSAL Python makes it.
            let key =
                format!("-{}-accesstoken-client-id-{}-{}", token.environment, token.realm, token.target);
            let entry = app_entry(&[
                ("environment", &format!("{:?}", token.environment)),
                ("realm", &format!("{:?}", token.realm)),
                ("target", &format!("{:?}", token.target.to_string())),
                ("secret", &format!("{:?}", token.secret.expose())),
                ("cached_at", &format!("\"{}\"", token.cached_at)),
                ("expires_on", &format!("\"{}\"", token.expires_on)),
                ("extended_expires_on", &format!("\"{}\"", token.extended_expires_on)),
            ]);
            let key = key.to_lowercase();
            let change = blank.put_entry(CredentialType::AccessToken, key, entry.as_str().into());
            (change.expect("an entry").sweep_expired(), Some(token))
        }
        Operation::PutBack(token) => (blank.put_unless_answered(token.at(now)), None),
        Operation::Remove(token) => (blank.remove(CredentialKey::of_access_token(&token.at(now))), None),
        Operation::RemoveOfHost(host) => {
            (blank.remove_app_tokens("client-id", &Environments::of(HOSTS[*host])), None)
        }
        Operation::Sweep => (blank.sweep_expired(), None),
        Operation::Wait(_) => return None,
    })
}

fn applied(document: Document, change: &Change) -> Document {
    match document.apply(change).expect("applicable") {
        strongroom::Applied::Changed { bytes, .. } => Document::parse(bytes).expect("what we write parses"),
        _ => document,
    }
}

/// An entry of a language, odd or not.
fn foreign() -> impl Strategy<Value = (String, String)> {
    let home = prop::sample::select(vec!["null", "\"\"", ""]);
    let tail = prop::sample::select(vec!["", "-", "--"]);
    let hosts = prop::sample::select(vec![
        "login.microsoftonline.com",
        "login.windows.net",
        "sts.windows.net",
        "login.microsoftonline.us",
        "adfs.example",
    ]);
    (home, tail, hosts, token()).prop_map(|(home, tail, host, token)| {
        let token = AccessToken { environment: host.into(), ..token.at(NOW) };
        let key =
            format!("-{host}-accesstoken-client-id-{}-{}{tail}", token.realm, token.target).to_lowercase();
        let entry = app_entry(&[
            ("home_account_id", home),
            ("environment", &format!("{host:?}")),
            ("realm", &format!("{:?}", token.realm)),
            ("target", &format!("{:?}", token.target.to_string())),
            ("secret", &format!("{:?}", token.secret.expose())),
        ]);
        (key, entry)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_done_twins_are_equal_and_each_request_of_nodes_has_one_answer_at_most(
        operations in prop::collection::vec(operation(), 1..24),
    ) {
        let (mut document, mut now) = (Document::empty(), NOW);
        for operation in &operations {
            let Some((change, stored)) = make(operation, now) else {
                let Operation::Wait(seconds) = operation else { unreachable!() };
                now = now.plus(*seconds);
                continue;
            };
            document = applied(document, &change);
            let entries = seen(&document);
            let (of_node, of_python): (Vec<_>, Vec<_>) =
                entries.iter().partition(|entry| entry.home.as_ref().is_some_and(|home| home == ""));
            for node in of_node {
                let is_twin = |own: &&&Seen| {
                    own.home == Some(Value::Null)
                        && Environments::of(&own.environment).contains(&node.environment)
                        && own.realm == node.realm
                        && own.target.to_lowercase() == node.target.trim_end().to_lowercase()
                        && (&own.secret, &own.expires_on) == (&node.secret, &node.expires_on)
                };
                // One for each host of the group that a Python program may be configured with.
                prop_assert!(of_python.iter().any(|own| is_twin(&own)), "{node:?} of {entries:?}");
            }
            assert_python_keeps_its_own(&document);
            for host in HOSTS {
                for realm in REALMS {
                    for scope in ["a", "b", "c"] {
                        let found = node_finds(&document, &Environments::of(host), realm, scope);
                        prop_assert!(found.len() < 2, "{found:?}");
                    }
                }
            }
            if let Some(token) = stored {
                let environments = Environments::of(&token.environment);
                for scope in token.target.iter() {
                    let node = node_finds(&document, &environments, &token.realm, scope);
                    prop_assert_eq!(node.len(), 1, "{}", json(&document));
                    prop_assert_eq!(&*node[0].secret, token.secret.expose());
                    let python = python_finds(&document, &token.environment, &token.realm, scope);
                    prop_assert!(python.iter().any(|own| own.secret == token.secret.expose()), "{}", json(&document));
                }
            }
        }
    }

    #[test]
    fn a_token_that_is_stored_beside_whatever_others_wrote_is_found_by_both_and_by_node_once(
        others in prop::collection::vec(foreign(), 0..12),
        token in token(),
    ) {
        let others: std::collections::BTreeMap<String, String> = others.into_iter().collect();
        let entries: Vec<(&str, &str)> = others.iter().map(|(key, entry)| (&**key, &**entry)).collect();
        let before = access_tokens(&entries);
        let token = token.at(NOW);
        let after = applied(access_tokens(&entries), &put(token.clone()));
        let environments = Environments::of(&token.environment);
        for scope in token.target.iter() {
            let node = node_finds(&after, &environments, &token.realm, scope);
            prop_assert_eq!(node.len(), 1, "{} from {}", text(&after), text(&before));
            prop_assert_eq!(&*node[0].secret, token.secret.expose());
            let python = python_finds(&after, &token.environment, &token.realm, scope);
            prop_assert!(python.iter().any(|own| own.secret == token.secret.expose()), "{}", json(&after));
        }
        // What has nothing to do with it is as it was, but for what Go took away from it.
        let untouched = json(&before);
        for (key, entry) in untouched["AccessToken"].as_object().into_iter().flatten() {
            let is_same_place = environments.contains(entry["environment"].as_str().unwrap_or_default())
                && entry["realm"] == token.realm.as_str();
            if !is_same_place && entry.get("home_account_id").is_some() {
                prop_assert_eq!(&json(&after)["AccessToken"][key], entry);
            }
        }
    }
}
