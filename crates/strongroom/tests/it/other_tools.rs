//! Caches of other tools: found where they keep them, opened as they seal them, and never written.

use std::path::Path;

use strongroom::Document;
use strongroom::persistence::{OtherTool, other_caches};

use crate::support::names_in;

/// The access tokens that the tool has cached.
fn secrets_of(tool: OtherTool, at: Option<&Path>) -> Result<Vec<String>, strongroom::Error> {
    let mut secrets = Vec::new();
    for cache in other_caches(tool, at)? {
        let Some(bytes) = cache.load()? else { continue };
        let document = Document::parse(bytes).unwrap();
        let tokens = document.entries().filter_map(|entry| entry.credential.unwrap().into_access_token());
        secrets.extend(tokens.map(|token| token.secret.expose().to_owned()));
    }
    Ok(secrets)
}

#[cfg(unix)]
#[test]
fn what_another_user_has_put_there_is_not_read() {
    const SOMEBODY: u32 = 12_345;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("msal_token_cache.json");
    std::fs::write(&path, r#"{"AccessToken": {}, "Account": {}}"#).unwrap();
    crate::support::set_mode(&path, 0o644);
    assert_eq!(secrets_of(OtherTool::AzureCli, Some(&path)).unwrap(), [""; 0]);
    assert_eq!(crate::support::mode_of(&path), 0o644, "not ours to tighten");
    if !rustix::process::geteuid().is_root() {
        return crate::support::skip(
            "other_tools::what_another_user_has_put_there_is_not_read",
            "needs root",
        );
    }
    std::os::unix::fs::chown(&path, Some(SOMEBODY), None).unwrap();
    assert_eq!(secrets_of(OtherTool::AzureCli, Some(&path)).unwrap_err().code(), "wrong_owner");
}

#[cfg(all(feature = "keyutils", target_os = "linux"))]
#[test]
fn what_azidentity_for_go_sealed_opens_with_the_key_of_its_name() {
    use linux_keyutils::{KeyRing, KeyRingIdentifier};

    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sealed-azidentity-go-0.4.0");
    let digits = std::fs::read_to_string(data.join("key.hex")).unwrap();
    let mut key: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect();
    // Go ends it with a zero.
    key.push(0);
    let folder = tempfile::tempdir().unwrap();
    let name = format!("strongroom-test-{}", std::process::id());
    let path = folder.path().join(&name);
    std::fs::copy(data.join("msal.cache"), &path).unwrap();
    let keyring = match KeyRing::from_special_id(KeyRingIdentifier::User, true) {
        Ok(keyring) => keyring,
        Err(error) => {
            return crate::support::skip("other_tools::what_azidentity_for_go_sealed", &format!("{error:?}"));
        }
    };
    let read = || secrets_of(OtherTool::AzidentityGo, Some(&path));
    assert_eq!(read().unwrap_err().code(), "tool_key_gone");

    let entry = keyring.add_key(&name, &key).unwrap();
    let found = read();
    key[0] ^= 1;
    let _ = entry.update(&key);
    let other_key = read();
    let _ = entry.update(b"no key");
    let no_key = read();
    entry.invalidate().unwrap();
    assert_eq!(found.unwrap(), ["token of azidentity for Go"]);
    for refused in [other_key, no_key] {
        assert_eq!(refused.unwrap_err().code(), "tool_cache_not_opened");
    }
    assert_eq!(names_in(folder.path()), [name], "and nothing is left beside it");
}

/// In the Secret Service: a real keyring, written by the tools' own code. `./test keyring` runs these.
mod secret_service {
    use std::process::Command;

    use super::*;
    use crate::keyring_support::{Bus, Keyring, has_keyring};
    use crate::support::{Process, another_process, skip};

    /// azure-identity's own cache, which keeps itself in the keyring.
    const AZURE_IDENTITY: &str = r#"
from azure.identity import TokenCachePersistenceOptions
from azure.identity._persistent_cache import _load_persistent_cache
for is_cae in [False, True]:
    cache = _load_persistent_cache(TokenCachePersistenceOptions(), is_cae=is_cae)
    cache.add({"client_id": "client", "scope": ["scope"], "grant_type": "client_credentials", "data": {}, "params": {},
        "token_endpoint": "https://login.microsoftonline.com/tenant/oauth2/v2.0/token",
        "response": {"access_token": "of Python, cae" if is_cae else "of Python", "expires_in": 3600,
            "token_type": "Bearer"}})
print("written", flush=True)
"#;

    /// What keytar asks of libsecret, with which @azure/identity keeps its cache.
    const KEYTAR: &str = r#"
import gi
gi.require_version("Secret", "1")
from gi.repository import Secret
attributes = {"service": Secret.SchemaAttributeType.STRING, "account": Secret.SchemaAttributeType.STRING}
schema = Secret.Schema.new("org.freedesktop.Secret.Generic", Secret.SchemaFlags.NONE, attributes)
document = """{"AccessToken": {"k": {"credential_type": "AccessToken", "secret": "of JavaScript", "home_account_id": "",
    "environment": "login.windows.net", "client_id": "client", "realm": "tenant", "target": "scope",
    "cached_at": "1", "expires_on": "4000000000", "token_type": "Bearer"}}}"""
service, account = "Microsoft.Developer.IdentityService", "MSALCache"
assert Secret.password_store_sync(schema, {"service": service, "account": account}, Secret.COLLECTION_DEFAULT,
    f"{service}/{account}", document, None)
print("written", flush=True)
"#;

    fn has_python(test: &str) -> bool {
        if std::env::var_os("STRONGROOM_TEST_KEYRING_PYTHON").is_none() {
            let reason = "needs a Python with azure-identity and PyGObject (./test keyring)";
            skip(&format!("other_tools::secret_service::{test}"), reason);
            return false;
        }
        has_keyring(&format!("other_tools::secret_service::{test}"))
    }

    fn python(bus: &Bus, program: &str) {
        let mut command = Command::new(std::env::var_os("STRONGROOM_TEST_KEYRING_PYTHON").unwrap());
        bus.join(&mut command);
        if let Some(path) = std::env::var_os("STRONGROOM_TEST_KEYRING_PYTHONPATH") {
            command.env("PYTHONPATH", path);
        }
        let output = command.args(["-W", "ignore", "-c", program]).output().unwrap();
        assert_eq!(output.stdout, b"written\n", "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a program of this session reads of the tool's cache.
    fn read(bus: &Bus, tool: &str, at: &str) -> String {
        let mut command = another_process("other_tools::secret_service::helper_process_reads");
        bus.join(&mut command);
        let mut process = Process::start(command.env("TEST_TOOL", tool).env("TEST_AT", at));
        process.wait_for("READ ").trim().trim_start_matches("READ ").trim_start_matches("READ").to_owned()
    }

    #[test]
    #[ignore = "run by others, in a session of their own"]
    fn helper_process_reads() {
        let Ok(name) = std::env::var("TEST_TOOL") else { return };
        let tool = [OtherTool::AzureIdentityPython, OtherTool::AzureIdentityJavaScript]
            .into_iter()
            .find(|tool| tool.as_str() == name)
            .unwrap();
        let at = std::env::var("TEST_AT").unwrap();
        let at = (!at.is_empty()).then(|| Path::new(&at));
        match secrets_of(tool, at) {
            Ok(secrets) => println!("\nREAD {}", secrets.join("; ")),
            Err(error) => println!("\nREAD {}", error.code()),
        }
    }

    #[test]
    fn what_azure_identity_for_python_keeps_there_is_read() {
        if !has_python("what_azure_identity_for_python_keeps_there_is_read") {
            return;
        }
        let keyring = Keyring::start();
        let bus = &keyring.bus;
        assert_eq!(read(bus, "azure-identity-py", ""), "", "nothing is there yet");
        python(bus, AZURE_IDENTITY);
        let signals = bus.folder.path().join(".IdentityService");
        let before = names_in(&signals);
        assert_eq!(read(bus, "azure-identity-py", ""), "of Python");
        let cae = signals.join("msal.cache.cae").display().to_string();
        assert_eq!(read(bus, "azure-identity-py", &cae), "of Python, cae");
        assert_eq!(names_in(&signals), before);
    }

    #[test]
    fn what_keytar_keeps_there_for_javascript_is_read() {
        if !has_python("what_keytar_keeps_there_for_javascript_is_read") {
            return;
        }
        let keyring = Keyring::start();
        let bus = &keyring.bus;
        assert_eq!(read(bus, "azure-identity-js", ""), "");
        python(bus, KEYTAR);
        assert_eq!(read(bus, "azure-identity-js", ""), "of JavaScript");
    }
}
