//! Where the command learns who asks: flags, then the file, then the environment.

use crate::support::{World, code, command, failure, json, make_pipe, run, set_mode, stderr};

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_environment() {
    let world = World::new();
    let scope = "api://flag/.default";
    let output = run(world
        .token()
        .args(["--scope", scope, "--output", "json"])
        .env("AZURE_AUTHORITY_HOST", "elsewhere.invalid")
        .env("AZURE_TENANT_ID", "elsewhere")
        .env("AZURE_CLIENT_ID", "somebody")
        .env("AZURE_CLIENT_SECRET", "else")
        .env("STRONGROOM_CONFIG", world.path("no-such.json"))
        .env("STRONGROOM_CACHE", world.path("no-such.bin")));
    assert_eq!(json(&output)["scopes"], serde_json::json!([scope]), "{}", stderr(&output));
    assert_eq!(json(&output)["cache"]["location"], world.cache().to_str().unwrap());
    assert!(!world.path("no-such.bin").exists());
    // Each member on its own: what the file leaves out comes from the environment.
    for (member, variable) in [("client_id", "AZURE_CLIENT_ID"), ("client_secret", "AZURE_CLIENT_SECRET")] {
        let mut value = String::new();
        let config = world.config(|config| {
            value = config.remove(member).and_then(|value| Some(value.as_str()?.to_owned())).unwrap();
        });
        let token = || world.token_with(&config, &world.path(member));
        assert_eq!(failure(&mut token()), (2, "incomplete_config".into()), "{member}");
        assert_eq!(failure(token().env(variable, "")), (2, "incomplete_config".into()), "{member}");
        let output = run(token().env(variable, value));
        assert_eq!(code(&output), 0, "{member}: {}", stderr(&output));
    }
}

#[test]
fn a_file_is_read_only_if_it_is_named() {
    let world = World::new();
    std::fs::copy(&world.ready().config_file, world.path("config.json")).unwrap();
    let token = || {
        let mut command = command("token");
        command.current_dir(world.folder.path()).arg("--ca-file").arg(&world.ready().ca_file);
        command.env("STRONGROOM_CACHE", world.cache());
        command
    };
    assert_eq!(failure(&mut token()), (2, "incomplete_config".into()));
    assert_eq!(failure(token().env("STRONGROOM_CONFIG", "")), (2, "incomplete_config".into()));
    let output = run(token().env("STRONGROOM_CONFIG", "config.json"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(world.cache().exists());
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
    // There is no variable that keeps the command from asking the cloud about this host.
    let config = world.file("discovery.json", serde_json::json!({"instance_discovery": false}).to_string());
    let output = run(token().env("AZURE_CLIENT_SECRET", &ready.client_secret).arg("--config").arg(config));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

/// A configuration with these members instead of the secret.
fn with_key(world: &World, members: &serde_json::Value) -> std::path::PathBuf {
    world.config(|config| {
        config.remove("client_secret");
        config.extend(members.as_object().unwrap().clone());
    })
}

#[test]
fn a_certificate_serves_in_the_place_of_the_secret() {
    let world = World::new();
    let [key, certificate] = [&world.ready().private_key_file, &world.ready().certificate_file]
        .map(|file| file.as_ref().unwrap().clone());
    let pem = std::fs::read_to_string(&certificate).unwrap();
    let both = std::fs::read_to_string(&key).unwrap() + &pem;
    world.file("both.pem", both);
    for (at, members) in [
        serde_json::json!({ "private_key_file": key, "public_certificate": certificate }),
        serde_json::json!({ "private_key_file": key, "public_certificate": pem }),
        serde_json::json!({ "private_key_file": key, "thumbprint": world.ready().thumbprint }),
        // Relative to the configuration, and with the certificate in it.
        serde_json::json!({ "private_key_file": "both.pem" }),
    ]
    .iter()
    .enumerate()
    {
        let output =
            run(&mut world.token_with(&with_key(&world, members), &world.path(&format!("{at}.bin"))));
        assert_eq!(code(&output), 0, "{members}: {}", stderr(&output));
    }
    let azure = |file: &std::path::Path| {
        let config = world.config(|config| drop(config.remove("client_secret")));
        let mut token = world.token_with(&config, &world.path("azure.bin"));
        token.env("AZURE_CLIENT_CERTIFICATE_PATH", file);
        token
    };
    let output = run(&mut azure(&world.path("both.pem")));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // Of a token in the cache nobody asks for the key.
    std::fs::remove_file(world.path("both.pem")).unwrap();
    world.hits(&mut azure(&world.path("both.pem")));
    let forced = failure(azure(&world.path("both.pem")).arg("--force-refresh"));
    assert_eq!(forced, (2, "credential_unreadable".into()));
}

#[test]
fn a_key_under_a_passphrase_and_a_pfx_file_are_opened() {
    let world = World::new();
    let fixture = |name: &str| {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        folder.join("../strongroom/tests/certificates").join(name)
    };
    let (encrypted, pfx) = (fixture("key-encrypted.pem"), fixture("client.pfx"));
    let (thumbprint, right) = ("7CB24DAC1096EFA40B26D6938B91B137E1D36BBF", "geheim");
    // The provider does not know this certificate: that it says so proves that the key was opened.
    let opened = (3, "invalid_client");
    for (members, expected) in [
        (
            serde_json::json!({ "private_key_file": encrypted, "thumbprint": thumbprint }),
            (2, "no_passphrase"),
        ),
        (
            serde_json::json!({ "private_key_file": encrypted, "thumbprint": thumbprint, "passphrase": "x" }),
            (2, "wrong_passphrase"),
        ),
        (
            serde_json::json!({ "private_key_file": encrypted, "thumbprint": thumbprint, "passphrase": right }),
            opened,
        ),
        (serde_json::json!({ "private_key_pfx_path": pfx, "passphrase": "x" }), (2, "wrong_passphrase")),
        (serde_json::json!({ "private_key_pfx_path": pfx, "passphrase": right }), opened),
        (
            serde_json::json!({ "private_key_pfx_path": pfx, "passphrase": right, "public_certificate": true }),
            opened,
        ),
        (serde_json::json!({ "private_key_file": fixture("key.pem") }), (2, "no_certificate")),
        (serde_json::json!({ "private_key_file": world.path("none") }), (2, "credential_unreadable")),
    ] {
        world.forget_refusals();
        let mut token = world.token_with(&with_key(&world, &members), &world.cache());
        assert_eq!(failure(&mut token), (expected.0, expected.1.into()), "{members}");
    }
    world.forget_refusals();
    let config = world.config(|config| drop(config.remove("client_secret")));
    let azure = || {
        let mut token = world.token_with(&config, &world.cache());
        token.env("AZURE_CLIENT_CERTIFICATE_PATH", &pfx);
        token
    };
    assert_eq!(failure(&mut azure()), (2, "no_passphrase".into()));
    assert_eq!(
        failure(azure().env("AZURE_CLIENT_CERTIFICATE_PASSWORD", right)),
        (3, "invalid_client".into())
    );
}

#[test]
fn a_federated_token_is_read_for_each_request() {
    let world = World::new();
    let config = world.config(|config| drop(config.remove("client_secret")));
    let token = || {
        let mut token = world.token_with(&config, &world.cache());
        token.arg("--force-refresh").env("AZURE_FEDERATED_TOKEN_FILE", world.path("token.jwt"));
        token
    };
    assert_eq!(failure(&mut token()), (2, "credential_unreadable".into()));
    world.file("token.jwt", "\n");
    assert_eq!(failure(&mut token()), (2, "empty_client_assertion".into()));
    world.file("token.jwt", "no.jwt.at-all\n");
    assert_eq!(failure(&mut token()), (3, "invalid_request".into()), "it was sent");
    // {"alg":"RS256","x5t":"AA"} and an issuer that is not the application.
    world.file("token.jwt", "eyJhbGciOiJSUzI1NiIsIng1dCI6IkFBIn0.eyJpc3MiOiJhIn0.AA");
    let output = run(&mut token());
    assert!(stderr(&output).contains("AADSTS700211"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("eyJpc3MiOiJhIn0"), "{}", stderr(&output));
}

#[test]
fn both_spellings_of_secret_and_scope_are_understood() {
    let world = World::new();
    let config = world.config(|config| {
        let secret = config.remove("client_secret").unwrap();
        config.insert("secret".into(), secret);
        config["scope"] = world.ready().scope.as_str().into();
        config.insert("known_authorities".into(), serde_json::json!(["localhost"]));
        config.insert("instance_discovery".into(), true.into());
        config.insert("a_field_of_somebody_else".into(), serde_json::json!({}));
    });
    let output = run(&mut world.token_with(&config, &world.cache()));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn a_bad_configuration_is_named_and_never_quoted() {
    let world = World::new();
    let canary = "c4n4ry-secret";
    let good = serde_json::json!({"authority": "https://h/t", "client_id": "c", "client_secret": canary, "scope": "s/.default"});
    let with = |name: &str, value: serde_json::Value| {
        let mut config = good.clone();
        config[name] = value;
        config.to_string()
    };
    let cases = [
        ("{\"client_secret\": \"c4n4ry-secret\"".to_owned(), "invalid_config"),
        (format!("[\"{canary}\"]"), "invalid_config"),
        (String::new(), "invalid_config"),
        (with("client_secret", serde_json::json!([canary])), "invalid_config"),
        (with("client_secret", serde_json::json!("")), "incomplete_config"),
        (with("authority", serde_json::json!(7)), "invalid_config"),
        (with("client_id", serde_json::json!({})), "invalid_config"),
        (with("scope", serde_json::json!([1])), "invalid_config"),
        (with("private_key_file", serde_json::json!("key.pem")), "invalid_config"),
        (with("private_key_pfx_path", serde_json::json!("key.pfx")), "invalid_config"),
        (with("thumbprint", serde_json::json!(1)), "invalid_config"),
        (with("passphrase", serde_json::json!([canary])), "invalid_config"),
        (with("scope", serde_json::json!([])), "incomplete_config"),
        (with("instance_discovery", serde_json::json!("no")), "invalid_config"),
        (with("known_authorities", serde_json::json!({})), "invalid_config"),
        (with("authority", serde_json::json!("http://h/t")), "authority_not_https"),
        (
            with("authority", serde_json::json!("https://login.microsoftonline.com/common")),
            "authority_without_tenant",
        ),
        (with("authority", serde_json::json!(format!("https://u:{canary}@h/t"))), "invalid_authority"),
        (with("scope", serde_json::json!("openid")), "invalid_scope"),
        ("x".repeat(2_000_000), "config_unreadable"),
    ];
    for (content, expected) in cases {
        let config = world.file("bad.json", &content);
        let token = || world.token_with(&config, &world.cache());
        assert_eq!(failure(&mut token()), (2, expected.into()), "{}", &content[..content.len().min(200)]);
        let output = run(&mut token());
        assert!(output.stdout.is_empty());
        assert!(!stderr(&output).contains(canary), "{}", stderr(&output));
    }
    assert!(!world.cache().exists());
    // Opening a pipe that nobody writes to would wait for ever.
    make_pipe(&world.path("pipe"));
    for path in [world.path("absent.json"), world.folder.path().to_owned(), world.path("pipe")] {
        assert_eq!(failure(&mut world.token_with(&path, &world.cache())), (2, "config_unreadable".into()));
    }
}

#[test]
fn a_secret_that_others_can_read_draws_a_warning() {
    let world = World::new();
    let config = world.config(|_| {});
    let token = || world.token_with(&config, &world.cache());
    assert_eq!(stderr(&run(&mut token())), "");
    for mode in [0o644, 0o640, 0o604] {
        set_mode(&config, mode);
        let output = run(token().args(["--output", "json"]));
        assert_eq!((code(&output), json(&output)["token_type"].as_str()), (0, Some("Bearer")));
        assert!(stderr(&output).contains("chmod 600"), "{mode:o}");
    }
    // Nothing to hide in it.
    let config = world.config(|config| drop(config.remove("client_secret")));
    set_mode(&config, 0o644);
    let mut token = world.token_with(&config, &world.cache());
    let output = run(token.env("AZURE_CLIENT_SECRET", &world.ready().client_secret));
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}

#[test]
fn proxies_and_trust_roots_of_the_environment_are_honoured() {
    let world = World::new();
    let token = |name: &str| {
        let mut command = command("token");
        command.arg("--config").arg(&world.ready().config_file).arg("--cache").arg(world.path(name));
        command.env("SSL_CERT_FILE", &world.ready().ca_file);
        command
    };
    let output = run(&mut token("direct.bin"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    // Nobody listens on the port: its listener is gone again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let proxy = format!("http://user:p4ssw0rd@127.0.0.1:{port}");
    let output = run(token("proxy.bin").arg("-vvv").env("HTTPS_PROXY", &proxy));
    assert_eq!(code(&output), 5, "{}", stderr(&output));
    assert!(!stderr(&output).contains("p4ssw0rd"), "{}", stderr(&output));
    let output = run(token("past-the-proxy.bin").env("HTTPS_PROXY", &proxy).env("NO_PROXY", "localhost"));
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}
