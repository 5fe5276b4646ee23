//! `strongroom inspect`: what is cached, and never the secrets.

use std::path::{Path, PathBuf};

use crate::support::{World, code, command, json, mode, run, set_mode, stderr, stdout};

pub fn fixtures() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../strongroom/tests/data")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "json") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 40);
    found
}

/// Every `secret` in a document, however deep.
pub fn secrets(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    // Shorter ones ("at") stand in any text.
                    Some(text) if name == "secret" && text.len() > 12 => found.push(text.to_owned()),
                    _ => secrets(member, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| secrets(item, found)),
        _ => {}
    }
}

#[test]
fn what_any_msal_wrote_is_listed_without_its_secrets() {
    for path in fixtures() {
        let bytes = std::fs::read(&path).unwrap();
        let permissions = mode(&path);
        let mut found = Vec::new();
        secrets(&serde_json::from_slice(&bytes).unwrap_or_default(), &mut found);
        for format in ["text", "json"] {
            let output = run(command("inspect").arg("--cache").arg(&path).args(["--output", format]));
            assert_eq!(code(&output), 0, "{}: {}", path.display(), stderr(&output));
            let text = stdout(&output) + &stderr(&output);
            for secret in &found {
                assert!(!text.contains(secret.as_str()), "{}", path.display());
            }
        }
        assert_eq!((std::fs::read(&path).unwrap(), mode(&path)), (bytes, permissions));
    }
}

#[test]
fn json_has_the_schemas_names_and_a_status() {
    let world = World::new();
    world.token_json();
    let inspect = |more: &[&str]| {
        json(&run(command("inspect").arg("--cache").arg(world.cache()).args(["--output", "json"]).args(more)))
    };
    let rows = inspect(&[]);
    let token = rows.as_array().unwrap().iter().find(|row| row["credential_type"] == "AccessToken").unwrap();
    assert_eq!((&token["status"], &token["environment"]), (&"valid".into(), &"localhost".into()));
    assert_eq!(token["realm"], world.ready().tenant.as_str());
    assert!(token.get("secret").is_none());
    let shown = inspect(&["--show-secrets"]);
    assert!(
        shown
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["secret"].as_str().is_some_and(|t| t.starts_with("eyJ")))
    );
}

#[test]
fn a_status_says_what_a_token_is_still_good_for() {
    let world = World::new();
    let token = |realm: &str, expires_on: i64, refresh_on: i64| {
        serde_json::json!({
            "credential_type": "AccessToken", "secret": "s", "environment": "h", "client_id": "c", "realm": realm,
            "target": "t", "cached_at": "1", "expires_on": expires_on.to_string(), "refresh_on": refresh_on.to_string(),
        })
    };
    let far = 4_000_000_000;
    let document = serde_json::json!({"AccessToken": {
        "a": token("valid", far, far), "b": token("refresh_due", far, 2), "c": token("expired", 3, 2),
        "d": {"realm": 5},
    }});
    let path = world.file("statuses.bin", document.to_string());
    let rows = json(&run(command("inspect").arg("--cache").arg(path).args(["--output", "json"])));
    let rows = rows.as_array().unwrap();
    for row in &rows[..3] {
        assert_eq!(row["status"], row["realm"]);
    }
    assert_eq!((&rows[3]["status"], rows.len()), (&"unreadable".into(), 4));
    assert!(rows[3]["problem"].is_string());
}

#[test]
fn what_cannot_be_read_is_listed_and_tricks_do_not_reach_the_terminal() {
    let world = World::new();
    let content = r#"{"AccessToken": {"bad": {"secret": 5}, "k": {"secret": "s", "environment": "h[2J", "client_id": "c", "realm": "r", "target": "t", "cached_at": "1", "expires_on": "2"}}}"#;
    let path = world.file("odd.bin", content);
    let output = run(command("inspect").arg("--cache").arg(&path));
    assert!(stdout(&output).contains("unreadable") && stdout(&output).contains("expired"));
    assert!(!stdout(&output).contains('\u{1b}'));
}

#[test]
fn permissions_are_left_as_they_are_and_told_of() {
    let world = World::new();
    run(&mut world.token());
    let inspect = || run(command("inspect").arg("--cache").arg(world.cache()));
    assert!(!stderr(&inspect()).contains("mode"));
    set_mode(&world.cache(), 0o640);
    let output = inspect();
    assert!(stdout(&output).contains("AccessToken"));
    assert!(stderr(&output).contains("mode 0640, others can use it"), "{}", stderr(&output));
    assert_eq!(mode(&world.cache()), 0o640);
}

#[test]
fn where_nothing_is_cached_it_says_so() {
    let world = World::new();
    let output = run(command("inspect").arg("--cache").arg(world.cache()));
    assert_eq!((code(&output), stdout(&output).as_str()), (0, ""));
    assert!(stderr(&output).contains("nothing is cached"));
    let output = run(command("inspect").arg("--cache").arg(world.cache()).args(["--output", "json"]));
    assert_eq!(stdout(&output), "[]\n");
    assert!(!world.cache().exists());
}
