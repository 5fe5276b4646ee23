//! What is left of a key in memory: nothing in a core dump, neither while it is used nor afterwards.

use std::process::Command;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use crate::seal_support::{Vault, has, put};
use crate::support::{Process, another_process, skip};

#[test]
fn a_core_dump_has_no_master_key_in_any_form() {
    if Command::new("gcore").arg("--version").output().is_err() {
        return skip(
            "seal_memory::a_core_dump_has_no_master_key",
            "gcore is missing: install the package gdb",
        );
    }
    let vault = Vault::new();
    let mut process = Process::start(
        another_process("seal_memory::helper_process_seals_and_opens")
            .env("TEST_CACHE", vault.cache())
            .env("TEST_KEY_FILE", vault.key_file())
            .stderr(std::process::Stdio::null()),
    );
    let text = std::fs::read_to_string(vault.key_file()).unwrap();
    let encoded =
        text.trim().strip_prefix("strongroom-key-1:").unwrap().split(' ').next().unwrap().to_owned();
    let key = BASE64_URL_SAFE_NO_PAD.decode(&encoded).unwrap();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms = [
        ("raw", key.clone()),
        // Either half would be half the way.
        ("its first half", key[..16].to_vec()),
        ("its second half", key[16..].to_vec()),
        ("hex", hex.clone().into_bytes()),
        ("hex in capitals", hex.to_uppercase().into_bytes()),
        ("base64url", encoded.into_bytes()),
        ("base64", BASE64_STANDARD.encode(&key).into_bytes()),
        (MARKER, MARKER.into()),
    ];
    for moment in ["the ring is held", "the ring was dropped"] {
        process.wait_for(moment);
        let Some(dump) = dump(&vault, process.id()) else {
            return skip(
                "seal_memory::a_core_dump_has_no_master_key",
                "gcore may not look at processes here",
            );
        };
        let found = found(&dump, &forms);
        assert_eq!(found, [MARKER], "the dump has what the process keeps and nothing of the key: {moment}");
        process.go_on();
    }
    process.finish();
}

/// The memory of a process, as a core dump has it.
fn dump(vault: &Vault, pid: u32) -> Option<Vec<u8>> {
    let prefix = vault.folder.path().join("core");
    let output = Command::new("gcore").arg("-o").arg(&prefix).arg(pid.to_string()).output().unwrap();
    let path = vault.folder.path().join(format!("core.{pid}"));
    if !path.exists() {
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let dump = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    Some(dump)
}

/// Which of the forms are in the dump, looked for in one pass: it is large.
fn found<'a>(dump: &[u8], forms: &[(&'a str, Vec<u8>)]) -> Vec<&'a str> {
    let mut begins = [false; 256];
    forms.iter().for_each(|(_, bytes)| begins[usize::from(bytes[0])] = true);
    let mut found = Vec::new();
    for (at, _) in dump.iter().enumerate().filter(|(_, byte)| begins[usize::from(**byte)]) {
        for (form, bytes) in forms {
            if dump[at..].starts_with(bytes) && !found.contains(form) {
                found.push(form);
            }
        }
    }
    found
}

const MARKER: &str = "a marker that the process keeps";

#[test]
#[ignore = "run by another test, which dumps it"]
fn helper_process_seals_and_opens() {
    let Some(cache) = std::env::var_os("TEST_CACHE") else { return };
    // Not the constant itself: that lies in a part that is not dumped.
    let marker = std::hint::black_box(MARKER.to_owned());
    let wait = || {
        std::io::stdin().read_line(&mut String::new()).unwrap();
    };
    {
        let key_file = std::path::PathBuf::from(std::env::var_os("TEST_KEY_FILE").unwrap());
        let source = strongroom::KeySelector::File(key_file).open().unwrap();
        let file = strongroom::FilePersistence::new(cache).unwrap();
        let sealed = strongroom::SealedPersistence::new(file, source);
        let sealed: Box<dyn strongroom::Persistence> = Box::new(sealed);
        put(&*sealed, "a").unwrap();
        assert!(has(&*sealed, "a").unwrap());
        println!("the ring is held");
        wait();
    }
    println!("the ring was dropped");
    wait();
    drop(std::hint::black_box(marker));
}
