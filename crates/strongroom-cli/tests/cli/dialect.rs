//! Which languages share the cache, as the command is told.

use serde_json::Value;

use crate::support::{World, code, command, failure, json, run, stderr, stdout};

fn entries(world: &World) -> usize {
    let document: Value = serde_json::from_slice(&std::fs::read(world.cache()).unwrap()).unwrap();
    document["AccessToken"].as_object().unwrap().len()
}

#[test]
fn a_token_for_python_and_node_is_stored_twice_listed_twice_and_renewed_as_one() {
    let world = World::new();
    let cache = world.cache();
    let token = || {
        let mut token = world.token();
        token.args(["--dialect", "node+python"]);
        token
    };
    assert_eq!(code(&run(&mut token())), 0);
    assert_eq!(entries(&world), 2);
    world.hits(&mut token());
    world.hits(&mut world.token());
    // Whoever renews it, told or not, renews both.
    assert_eq!(code(&run(world.token().arg("--force-refresh"))), 0);
    assert_eq!(entries(&world), 2);
    let listed = run(&mut world.ours("inspect", &["--output", "json", "--cache", cache.to_str().unwrap()]));
    let listed = json(&listed);
    let tokens: Vec<&Value> =
        listed.as_array().unwrap().iter().filter(|entry| entry["credential_type"] == "AccessToken").collect();
    assert_eq!(tokens.len(), 2, "{listed}");
    assert_eq!(tokens[0]["expires_on"], tokens[1]["expires_on"]);
    let concerns = run(&mut world.ours("doctor", &["--cache", cache.to_str().unwrap()]));
    assert!(!stdout(&concerns).contains("multiple_matching_tokens"), "{}", stdout(&concerns));

    let client = world.ready().client_id.clone();
    let purge = ["--client", &client, "--dialect", "python+node+java", "--cache", cache.to_str().unwrap()];
    assert_eq!(code(&run(&mut world.ours("purge", &purge))), 0);
    assert_eq!(entries(&world), 0);
    assert!(!world.path(".lockfile").exists());
}

#[test]
fn a_dialect_is_taken_from_the_flag_else_from_the_configuration() {
    for (configured, flag, expected) in [
        (None, None, 1),
        (Some("python+node"), None, 2),
        (Some("python+node"), Some("python"), 1),
        (Some("python"), Some("python+node"), 2),
        (Some(""), None, 1),
    ] {
        let world = World::new();
        let config = world.config(|config| {
            if let Some(dialect) = configured {
                config.insert("dialect".into(), dialect.into());
            }
        });
        let mut token = world.token_with(&config, &world.cache());
        token.args(flag.map(|dialect| format!("--dialect={dialect}")));
        let output = run(&mut token);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(entries(&world), expected, "{configured:?} {flag:?}");
    }
}

#[test]
fn what_is_no_dialect_is_a_usage_error_that_says_why() {
    let world = World::new();
    let mut token = world.token();
    let output = run(token.args(["--dialect", "python+node+dotnet"]));
    assert_eq!(code(&output), 2);
    let said = stderr(&output);
    assert!(said.contains("two tokens for one request") && said.contains("a cache of its own"), "{said}");
    assert_eq!(failure(world.token().args(["--dialect", "rust"])), (2, "wrong_usage".into()));
    for dialect in [Value::from("python+rust"), Value::from("dotnet+node+python"), Value::from(5)] {
        let config = world.config(|config| drop(config.insert("dialect".into(), dialect)));
        assert_eq!(failure(&mut world.token_with(&config, &world.cache())), (2, "invalid_config".into()));
    }
    assert!(!world.cache().exists());
}

#[test]
fn shells_complete_the_usual_dialects() {
    let mut completions = command("completions");
    let script = stdout(&run(completions.arg("bash")));
    assert!(script.contains("python+node+java"), "{script}");
}
