//! Modules use only what lies below them, as the section Layers of `ARCHITECTURE.md` has it.

use std::path::Path;

use crate::source_support::{Crate, module_of, tokens};

/// Which modules at the root of the crate each of them may use; beside itself nothing else. `platform` and `seal`
/// have their place, filled or not.
const MAY_USE: &[(&str, &[&str])] = &[
    ("fuzzing", &["oauth", "schema", "error", "secret", "time"]),
    ("conformance", &["store", "persistence", "schema", "error", "secret", "time", "wait"]),
    ("client", &["authority", "oauth", "cache", "schema", "platform", "error", "secret", "time", "wait"]),
    ("authority", &["oauth", "schema", "error", "secret", "time", "wait"]),
    ("oauth", &["schema", "platform", "error", "secret", "time", "wait"]),
    ("cache", &["store", "persistence", "schema", "platform", "error", "secret", "time", "wait"]),
    ("store", &["persistence", "schema", "platform", "error", "secret", "time", "wait"]),
    ("persistence", &["schema", "seal", "platform", "env_vars", "error", "secret", "time", "wait"]),
    ("seal", &["platform", "error", "secret", "time", "wait"]),
    ("schema", &["error", "secret", "time"]),
    ("wait", &["platform", "time"]),
    ("platform", &[]),
    ("env_vars", &["secret"]),
    ("error", &[]),
    ("secret", &["platform"]),
    ("time", &[]),
];

/// What the pure layer must not name: it does no I/O, reads no clock and knows no lock.
const IMPURE: &[&str] = &[
    "fs",
    "net",
    "env",
    "process",
    "thread",
    "Mutex",
    "RwLock",
    "Condvar",
    "tokio",
    "rustix",
    "SystemTime",
    "Instant",
    "Clock",
    "SystemClock",
];

#[test]
fn modules_use_only_what_lies_below_them() {
    let crate_ = Crate::read();
    let mut forbidden = Vec::new();
    let mut uses = 0;
    for (path, source) in &crate_.files {
        let found = crate_.uses(path, source);
        uses += found.len();
        let from = &module_of(path)[0];
        let allowed = may_use(from).unwrap_or_else(|| panic!("{from} has no place among the layers"));
        for module in found.into_iter().filter(|module| module != from && !allowed.contains(&module.as_str()))
        {
            forbidden.push(format!("{}: {from} -> {module}", path.display()));
        }
    }
    assert_eq!(forbidden, [""; 0]);
    assert!(uses > 100, "only {uses} uses were seen: the test has gone blind");
}

#[test]
fn every_module_has_its_place_and_the_places_form_no_circle() {
    for module in Crate::read().modules() {
        assert!(may_use(&module).is_some(), "{module} has no place among the layers");
    }
    // The table itself is a proof only if nothing lies above itself.
    let mut below: Vec<&str> = Vec::new();
    let mut rest: Vec<_> = MAY_USE.to_vec();
    while !rest.is_empty() {
        let (ready, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|(_, uses)| uses.iter().all(|module| below.contains(module)));
        assert!(!ready.is_empty(), "a circle among {others:?}");
        below.extend(ready.iter().map(|(module, _)| module));
        rest = others;
    }
}

#[test]
fn an_upward_use_is_seen_in_every_spelling() {
    let crate_ = Crate::read();
    let uses = |path: &str, source: &str| crate_.uses(Path::new(path), source);
    for source in [
        "use crate::client::TokenSource;",
        "use crate::{SecretString, client::TokenSource};",
        "use crate::{\n    schema::{Scopes, Change},\n    client::{self, *},\n};",
        "pub(crate) use crate::client as up;",
        "fn f() -> crate::client::TokenSource { x }",
        "fn f(x: &dyn Fn(crate :: client :: TokenSource)) {}",
        // What the root re-exports belongs to the module that it comes from.
        "use crate::TokenSource;",
        "use crate::{Error, TokenSource};",
        "fn f() { let x = crate::ConfidentialClientApplication::builder(a, b, c); }",
        // Upwards step by step.
        "use super::super::client::TokenSource;",
        "use super::super::{TokenSource};",
        "mod tests { use super::super::super::client; }",
        "fn f<'a>(x: &'a str) -> char { super::super::client::f(); 'x' }",
        "const X: &str = r#\"\"# ; use crate::client::X;",
        "const X: char = '\"'; use crate::client::X; const Y: char = '\\'';",
    ] {
        assert!(uses("store/document.rs", source).contains(&"client".to_owned()), "{source}");
    }
    assert!(uses("wait.rs", "use super::client;").contains(&"client".to_owned()));
    assert!(uses("store/mod.rs", "use super::client;").contains(&"client".to_owned()));
    for source in [
        "// use crate::client::X;",
        "/* use crate::client::X; /* */ crate::client */",
        "const X: &str = \"crate::client::X\";",
        "const X: &str = r#\"crate::client\"# ;",
        "pub(crate) fn client() {}",
        "use super::client;",
        "mod tests { use super::super::client; }",
    ] {
        assert!(!uses("store/document.rs", source).contains(&"client".to_owned()), "{source}");
    }
}

#[test]
#[should_panic(expected = "the root has no nonsense")]
fn a_name_that_cannot_be_resolved_is_not_passed_over() {
    Crate::read().uses(Path::new("store/document.rs"), "use crate::nonsense::X;");
}

#[test]
fn the_schema_is_pure() {
    let crate_ = Crate::read();
    let schema = crate_.files.iter().filter(|(path, _)| path.starts_with("schema"));
    let mut read = 0;
    for (path, source) in schema {
        read += 1;
        let named: Vec<_> =
            tokens(source).into_iter().filter(|token| IMPURE.contains(&token.as_str())).collect();
        assert_eq!(named, [""; 0], "{}", path.display());
    }
    assert!(read >= 10, "only {read} files of the schema were read");
}

#[test]
fn unsafe_code_is_in_platform_alone() {
    for (path, source) in Crate::read().files.iter().filter(|(path, _)| !path.starts_with("platform")) {
        assert!(!tokens(source).contains(&"unsafe".to_owned()), "{}", path.display());
    }
}

fn may_use(module: &str) -> Option<&'static [&'static str]> {
    MAY_USE.iter().find(|(own, _)| *own == module).map(|(_, uses)| *uses)
}
