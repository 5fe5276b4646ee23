//! Where the command learns who asks: flags, then the file, then the environment.

use serde_json::json;

use crate::support::{World, code, command, failure, run, set_mode, stderr};

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_environment() {
    let world = World::new();
    let scope = "api://flag/.default";
    let output = run(world
        .token()
        .args(["--scope", scope, "--output", "json"])
        .env("AZURE_TENANT_ID", "elsewhere")
        .env("AZURE_CLIENT_ID", "somebody")
        .env("AZURE_CLIENT_SECRET", "else"));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["scopes"], json!([scope]), "{}", stderr(&output));
}

#[test]
fn the_variables_of_the_azure_sdks_are_understood() {
    let world = World::new();
    let ready = world.ready();
    let host = ready.authority.rsplit_once('/').unwrap().0;
    let token = || {
        let mut command = command("token");
        command
            .args(["--scope", &ready.scope])
            .arg("--ca-file")
            .arg(&ready.ca_file)
            .arg("--cache")
            .arg(world.cache())
            .env("AZURE_AUTHORITY_HOST", format!("{host}/"))
            .env("AZURE_TENANT_ID", &ready.tenant)
            .env("AZURE_CLIENT_ID", &ready.client_id);
        command
    };
    assert_eq!(failure(&mut token()), (2, "incomplete_config".into()));
    let federated = failure(token().env("AZURE_FEDERATED_TOKEN_FILE", "/token"));
    assert_eq!(federated, (2, "unsupported_credential".into()));
    // A host that the cloud does not know is asked about; where that fails the authority is used as it is.
    let config = world.file("discovery.json", json!({"instance_discovery": false}).to_string());
    let output = run(token().env("AZURE_CLIENT_SECRET", &ready.client_secret).arg("--config").arg(config));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn both_spellings_of_secret_and_scope_are_understood() {
    let world = World::new();
    let config = world.config(|config| {
        let secret = config.remove("client_secret").unwrap();
        config.insert("secret".into(), secret);
        config["scope"] = world.ready().scope.as_str().into();
        config.insert("known_authorities".into(), json!(["localhost"]));
        config.insert("instance_discovery".into(), true.into());
        config.insert("a_field_of_somebody_else".into(), json!({}));
    });
    let output = run(command("token")
        .arg("--config")
        .arg(config)
        .arg("--ca-file")
        .arg(&world.ready().ca_file)
        .arg("--cache")
        .arg(world.cache()));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_bad_configuration_is_named_and_never_quoted() {
    let world = World::new();
    let canary = "c4n4ry-secret";
    let good =
        json!({"authority": "https://h/t", "client_id": "c", "client_secret": canary, "scope": "s/.default"});
    let with = |name: &str, value: serde_json::Value| {
        let mut config = good.clone();
        config[name] = value;
        config.to_string()
    };
    let cases = [
        ("{\"client_secret\": \"c4n4ry-secret\"".to_owned(), "invalid_config"),
        (format!("[\"{canary}\"]"), "invalid_config"),
        (String::new(), "invalid_config"),
        (with("client_secret", json!([canary])), "invalid_config"),
        (with("client_secret", json!("")), "incomplete_config"),
        (with("authority", json!(7)), "invalid_config"),
        (with("client_id", json!({})), "invalid_config"),
        (with("scope", json!([1])), "invalid_config"),
        (with("scope", json!([])), "incomplete_config"),
        (with("instance_discovery", json!("no")), "invalid_config"),
        (with("known_authorities", json!({})), "invalid_config"),
        (with("authority", json!("http://h/t")), "authority_not_https"),
        (with("authority", json!("https://login.microsoftonline.com/common")), "authority_without_tenant"),
        (with("authority", json!(format!("https://u:{canary}@h/t"))), "invalid_authority"),
        (with("scope", json!("openid")), "invalid_scope"),
        ("x".repeat(2_000_000), "config_unreadable"),
    ];
    for (content, expected) in cases {
        let config = world.file("bad.json", &content);
        let token = || {
            let mut command = command("token");
            command.arg("--config").arg(&config).arg("--cache").arg(world.cache());
            command
        };
        assert_eq!(failure(&mut token()), (2, expected.into()), "{}", &content[..content.len().min(200)]);
        let output = run(&mut token());
        assert!(output.stdout.is_empty());
        assert!(!stderr(&output).contains(canary), "{}", stderr(&output));
    }
    assert!(!world.cache().exists());
    for path in [world.path("absent.json"), world.folder.path().to_owned()] {
        let (exit, error) =
            failure(command("token").arg("--config").arg(path).arg("--cache").arg(world.cache()));
        assert_eq!(exit, 2);
        assert!(["config_unreadable", "invalid_config"].contains(&error.as_str()), "{error}");
    }
}

#[test]
fn a_secret_that_others_can_read_draws_a_warning() {
    let world = World::new();
    let config = world.config(|_| {});
    let token = || {
        let mut command = command("token");
        command.arg("--config").arg(&config).arg("--cache").arg(world.cache());
        command.arg("--ca-file").arg(&world.ready().ca_file);
        command
    };
    assert_eq!(stderr(&run(&mut token())), "");
    set_mode(&config, 0o644);
    assert!(stderr(&run(&mut token())).contains("chmod 600"));
}
