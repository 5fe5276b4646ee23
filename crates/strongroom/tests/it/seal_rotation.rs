//! New keys while others read and write: nothing fails, nothing is lost, and old documents open.

use std::path::{Path, PathBuf};

use strongroom::{FilePersistence, KeySelector, Persistence as _, SealedPersistence, block_on, persistence};

use crate::seal_support::{Vault, code, has, in_process, put, scopes};
use crate::support::{Process, another_process, names_in, set_mode};

fn key_of(vault: &Vault) -> String {
    key_in(&vault.content())
}

fn key_in(envelope: &[u8]) -> String {
    envelope[24..40].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_new_primary_seals_what_is_written_and_the_old_key_still_opens() {
    let vault = Vault::new();
    put(vault.sealed(), "a").unwrap();
    let before = key_of(&vault);
    let rotated = block_on(vault.source().rotate()).unwrap();
    assert_ne!(rotated.primary().to_string(), before);
    assert_eq!(rotated.keys().count(), 2);
    assert!(has(vault.sealed(), "a").unwrap());
    assert_eq!(key_of(&vault), before, "reading re-seals nothing");
    put(vault.sealed(), "b").unwrap();
    assert_eq!(key_of(&vault), rotated.primary().to_string());
    assert_eq!(scopes(vault.sealed()).unwrap(), ["a", "b"]);
    assert_eq!(names_in(vault.key_file().parent().unwrap()), ["cache.key", "cache.key.lock"]);
}

#[test]
fn who_has_the_old_ring_reads_and_writes_on() {
    let vault = Vault::new();
    let long_lived = vault.sealed();
    let dynamic: &dyn strongroom::Persistence = &long_lived;
    put(dynamic, "a").unwrap();
    let rotated = block_on(vault.source().rotate()).unwrap().primary().to_string();
    // It writes with the new key without having met it.
    put(dynamic, "b").unwrap();
    assert_eq!(key_of(&vault), rotated);
    block_on(vault.source().rotate()).unwrap();
    put(vault.sealed(), "c").unwrap();
    // It meets a key that it does not know.
    assert!(has(dynamic, "c").unwrap());
}

#[test]
fn a_ring_that_is_no_keys_cannot_be_rotated_and_stays_as_it_is() {
    let vault = Vault::new();
    std::fs::write(vault.key_file(), "nonsense").unwrap();
    assert_eq!(code(block_on(vault.source().rotate())), "invalid_keys");
    assert_eq!(std::fs::read(vault.key_file()).unwrap(), b"nonsense");
    std::fs::remove_file(vault.key_file()).unwrap();
    assert_eq!(code(block_on(vault.source().rotate())), "no_key");
    assert!(!vault.key_file().exists());
}

#[test]
fn eight_processes_read_and_add_while_the_key_is_rotated_twenty_times() {
    const PROCESSES: usize = 8;
    const EACH: usize = 12;

    let vault = Vault::new();
    put(vault.sealed(), "first").unwrap();
    let mut processes: Vec<_> = (0..PROCESSES)
        .map(|n| {
            let mut command = another_process("seal_rotation::helper_process_reads_and_adds");
            command.env("TEST_CACHE", vault.cache()).env("TEST_KEY_FILE", vault.key_file());
            command.env("TEST_NAME", n.to_string()).env("TEST_COUNT", EACH.to_string());
            Process::start(&mut command)
        })
        .collect();
    for process in &mut processes {
        process.wait_for("ready");
        process.go_on();
    }
    for n in 0..20 {
        block_on(vault.source().rotate()).unwrap();
        // Each new key is met by the others, whoever of them reads next.
        put(vault.sealed(), &format!("rotation{n:02}")).unwrap();
    }
    for process in &mut processes {
        process.finish();
    }
    let mut expected: Vec<_> = (0..PROCESSES)
        .flat_map(|n| (0..EACH).map(move |k| format!("p{n}-{k:02}")))
        .chain((0..20).map(|n| format!("rotation{n:02}")))
        .chain(["first".to_owned()])
        .collect();
    expected.sort();
    assert_eq!(scopes(vault.sealed()).unwrap(), expected);
    assert_eq!(block_on(vault.source().keys()).unwrap().keys().count(), 21);
    assert!(!names_in(vault.folder.path()).iter().any(|name| name.contains("corrupt")));
}

#[test]
#[ignore = "run by another test, eight at a time"]
fn helper_process_reads_and_adds() {
    let Some(cache) = std::env::var_os("TEST_CACHE") else { return };
    let number = |name: &str| std::env::var(name).unwrap().parse::<usize>().unwrap();
    let key_file = PathBuf::from(std::env::var_os("TEST_KEY_FILE").unwrap());
    let file = FilePersistence::new(cache).unwrap();
    let sealed = SealedPersistence::new(file, KeySelector::File(key_file).open().unwrap());
    let sealed: &dyn strongroom::Persistence = &sealed;
    println!("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    for k in 0..number("TEST_COUNT") {
        let scope = format!("p{}-{k:02}", number("TEST_NAME"));
        put(sealed, &scope).unwrap();
        assert!(has(sealed, &scope).unwrap());
        assert!(has(sealed, "first").unwrap());
    }
}

#[test]
fn keys_that_are_handed_in_rotate_in_two_phases() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache.bin");
    let (old, new) =
        ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8");
    let (reading, promoted) = (format!("{old},{new}"), format!("{new},{old}"));
    let with = |keys: &str, what: &str| in_process(&[("STRONGROOM_KEY", Path::new(keys))], what, &cache);
    let sealed_with = || key_in(&std::fs::read(&cache).unwrap());
    let id = |key: &str| with(key, "key env");

    with(old, "put a");
    // First everybody learns the new key, for reading. Those who have not yet find what those write who have.
    assert_eq!(with(&reading, "put b"), "sealed env provided-key");
    assert_eq!(sealed_with(), id(old));
    assert_eq!(with(old, "scopes"), "a b");
    // Then it is promoted, by some sooner than by others.
    with(&promoted, "put c");
    assert_eq!(sealed_with(), id(new));
    assert_eq!(with(&reading, "scopes"), "a b c");
    with(&reading, "put d");
    assert_eq!(sealed_with(), id(old));
    with(&promoted, "put e");
    // Then the old one is no longer needed.
    assert_eq!(with(new, "scopes"), "a b c d e");
    assert!(with(old, "scopes").starts_with("unknown_key: "));
}

#[test]
fn what_is_sealed_with_an_old_key_is_sealed_anew_on_request() {
    let vault = Vault::new();
    put(vault.sealed(), "a").unwrap();
    let state = persistence::builder(vault.cache()).key_source(KeySelector::File(vault.key_file()));
    drop(state.build().unwrap());
    let primary = block_on(vault.source().rotate()).unwrap().primary();
    let rewritten = persistence::rewrite(vault.cache(), None).unwrap();
    assert_eq!(rewritten, Some(primary));
    assert_eq!(key_of(&vault), primary.to_string());
    assert_eq!(scopes(vault.sealed()).unwrap(), ["a"]);
    assert_eq!(persistence::rewrite(vault.cache(), None).unwrap(), None, "there is nothing to do any more");

    // Without the old key it still opens.
    let text = std::fs::read_to_string(vault.key_file()).unwrap();
    std::fs::write(vault.key_file(), text.lines().next().unwrap()).unwrap();
    set_mode(&vault.key_file(), 0o600);
    assert_eq!(scopes(vault.sealed()).unwrap(), ["a"]);
    assert_eq!(vault.sealed().kind(), "sealed");
}
