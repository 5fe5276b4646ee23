//! What a real Azure SDK has cached is taken over, and the SDK still has it.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::skip;

#[test]
fn what_azure_identity_keeps_without_a_keyring_is_taken_over_and_stays_there() {
    let test = "other_tools::what_azure_identity_keeps_without_a_keyring_is_taken_over_and_stays_there";
    let Some(python) = std::env::var_os("STRONGROOM_TEST_PYTHON") else {
        return skip(test, "STRONGROOM_TEST_PYTHON names no Python with azure-identity");
    };
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join("cache.bin");
    let alone = |command: &mut Command| {
        command.env("HOME", home.path()).env("XDG_RUNTIME_DIR", home.path());
        command.env_remove("DBUS_SESSION_BUS_ADDRESS").env_remove("DISPLAY");
        succeeded(command.output().unwrap())
    };
    let azure_identity = |what: &str| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/azure_identity.py");
        alone(Command::new(&python).arg(script).arg(what))
    };
    let ours = |arguments: &[&str]| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args(arguments).arg("--cache").arg(&cache).args(["--output", "json"]);
        command.env("STRONGROOM_STATE_DIR", home.path().join("state"));
        serde_json::from_str(&alone(&mut command)).unwrap()
    };
    azure_identity("add");
    let imported = ours(&["migrate", "--import", "azure-identity-py"]);
    assert_eq!(imported["cache"]["persistence"], "sealed");
    let entries = ours(&["inspect", "--show-secrets"]);
    let secrets: Vec<&Value> =
        entries.as_array().unwrap().iter().filter_map(|entry| entry.get("secret")).collect();
    assert_eq!(secrets, ["of azure-identity"]);
    assert_eq!(azure_identity("look"), "['of azure-identity']\n");
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
