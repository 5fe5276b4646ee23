use std::fs;

use serde_json::{Value, json};
use strongroom_sts::{Config, StsError, spawn};

use crate::support::{Provider, replace};

#[tokio::test]
async fn the_same_folder_gives_the_same_provider_again() {
    let first = Provider::new();
    let before = first.ready().clone();
    let files = [
        "ca.pem",
        "ca.key",
        "tls.pem",
        "signing-1.pem",
        "signing-2.pem",
        "client.pem",
        "client.key",
        "clients.json",
    ];
    let read = |p: &Provider| files.map(|f| fs::read(p.folder.path().join(f)).unwrap());
    let bytes = read(&first);
    let token = first.token().await;
    let again = first.edited(|_| {});
    assert_eq!(before.tenant, again.ready().tenant);
    assert_eq!(before.client_id, again.ready().client_id);
    assert_eq!(before.client_secret, again.ready().client_secret);
    assert_eq!(before.scope, again.ready().scope);
    assert_ne!(before.control, again.ready().control);
    let reread = read(&again);
    assert_eq!(bytes[..7], reread[..7]);
    assert_eq!(again.call_api(&token).await.status(), 200);
}

#[test]
fn the_configuration_is_complete_and_written_anew() {
    let provider = Provider::new();
    let ready = provider.ready().clone();
    let read = || serde_json::from_slice::<Value>(&fs::read(&ready.config_file).unwrap()).unwrap();
    let expected = |authority: &str, endpoint: &str| {
        json!({
            "authority": authority,
            "client_id": ready.client_id,
            "client_secret": ready.client_secret,
            "scope": [ready.scope],
            "endpoint": endpoint,
            "instance_discovery": false,
        })
    };
    assert_eq!(read(), expected(&ready.authority, &ready.endpoint));
    let second = spawn(Config::new(provider.folder.path())).unwrap();
    assert_ne!(second.ready().authority, ready.authority);
    assert_eq!(read(), expected(&second.ready().authority, &second.ready().endpoint));
}

#[test]
fn what_is_printed_has_exactly_the_contracts_fields() {
    let provider = Provider::new();
    let printed = serde_json::to_value(provider.ready()).unwrap();
    let fields: Vec<_> = printed.as_object().unwrap().keys().map(String::as_str).collect();
    let contract = [
        "authority",
        "ca_file",
        "certificate_file",
        "client_id",
        "client_secret",
        "config_file",
        "control",
        "endpoint",
        "private_key_file",
        "scope",
        "tenant",
        "thumbprint",
    ];
    assert_eq!(fields, contract);
    let debug = format!("{:?} {:?}", provider.ready(), provider.sts);
    assert!(!debug.contains(&provider.ready().client_secret), "{debug}");
}

#[cfg(unix)]
#[test]
fn files_are_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a/state");
    let _sts = spawn(Config::new(&folder)).unwrap();
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        seen += 1;
    }
    assert_eq!(seen, 10);
}

#[cfg(unix)]
#[test]
fn a_folder_of_others_is_not_taken_over() {
    use std::os::unix::fs::PermissionsExt as _;

    let folder = tempfile::tempdir().unwrap();
    let open = || fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    open();
    replace(&folder.path().join("thesis.txt"), "");
    let error = spawn(Config::new(folder.path())).unwrap_err();
    assert!(matches!(error, StsError::FolderOpenToOthers { .. }), "{error:?}");
    fs::remove_file(folder.path().join("thesis.txt")).unwrap();
    drop(spawn(Config::new(folder.path())).unwrap());
    // Now it is ours, and closed again if somebody has opened it.
    open();
    drop(spawn(Config::new(folder.path())).unwrap());
    assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_key_that_cannot_be_read_is_named_and_left() {
    let folder = Provider::new().folder;
    for name in ["ca.key", "ca.pem", "signing-2.pem"] {
        let path = folder.path().join(name);
        let good = fs::read_to_string(&path).unwrap();
        replace(&path, "broken");
        let error = spawn(Config::new(folder.path())).unwrap_err();
        assert!(matches!(&error, StsError::KeyFile { .. }), "{error:?}");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "broken");
        replace(&path, &good);
    }
    spawn(Config::new(folder.path())).unwrap();
}

#[test]
fn the_first_tenant_can_be_chosen() {
    let id = "0f0e0d0c-0b0a-4908-8706-050403020100";
    let folder = tempfile::tempdir().unwrap();
    let sts = spawn(Config::new(folder.path()).tenant(id)).unwrap();
    assert_eq!(sts.ready().tenant, id);
    drop(sts);
    // Known by both its names later, and no other.
    spawn(Config::new(folder.path()).tenant("contoso.localhost")).unwrap();
    let error = spawn(Config::new(folder.path()).tenant("fabrikam.localhost")).unwrap_err();
    assert!(matches!(error, StsError::Tenant { .. }), "{error:?}");
}

#[tokio::test]
async fn the_first_tenants_domain_can_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    drop(spawn(Config::new(folder.path()).tenant("Fabrikam.example")).unwrap());
    let provider = Provider::in_folder(folder);
    let url = format!("{}/fabrikam.example/v2.0/.well-known/openid-configuration", provider.origin());
    let document = provider.get_json(&url).await;
    assert_eq!(document["issuer"], format!("{}/v2.0", provider.ready().authority));
}

#[test]
fn a_tenant_must_be_a_guid_or_a_domain() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["common", "", "a b.c", "../x.y"] {
        let error = spawn(Config::new(folder.path()).tenant(name)).unwrap_err();
        assert!(matches!(error, StsError::Tenant { .. }), "{error:?}");
    }
}

#[test]
fn first_starts_at_once_make_one_provider() {
    let folder = tempfile::tempdir().unwrap();
    let starts: Vec<_> = (0..3)
        .map(|_| {
            let config = Config::new(folder.path());
            std::thread::spawn(move || spawn(config).unwrap().ready().clone())
        })
        .collect();
    let ready: Vec<_> = starts.into_iter().map(|s| s.join().unwrap()).collect();
    assert!(ready.iter().all(|r| r.client_id == ready[0].client_id && r.tenant == ready[0].tenant));
}
