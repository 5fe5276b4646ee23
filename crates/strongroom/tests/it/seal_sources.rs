//! Where keys come from: each source gives its keys, and says what is wrong when it does not.

use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::path::Path;

use strongroom::persistence::{create_key_file, sealed_with};
use strongroom::{FilePersistence, KeySelector, KeySourceKind, Protection, SealedPersistence, block_on};

use crate::seal_support::{Vault, code, has, in_process, load, put, replace};
use crate::support::{is_root, mode_of, names_in, set_mode, skip};

/// Base64 of the bytes 0 to 31, and the id of that key.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const KEY_ID: &str = "5255f5d52ba16cb962284ea6d29c584d";

fn key_in(path: &Path) -> Result<String, strongroom::Error> {
    let source = KeySelector::File(path.into()).open()?;
    block_on(source.keys()).map(|ring| ring.primary().to_string())
}

#[test]
fn a_new_key_file_is_the_owners_alone_and_never_replaces_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/folder/cache.key");
    let ring = create_key_file(&path).unwrap();
    assert_eq!(key_in(&path).unwrap(), ring.primary().to_string());
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(mode_of(path.parent().unwrap()), 0o700);
    assert_eq!(names_in(path.parent().unwrap()), ["cache.key"], "nothing else is left");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("strongroom-key-1:") && text.lines().count() == 1, "{}", text.len());
    let created = ring.keys().next().unwrap().1.unwrap();
    assert!(created.get() > 1_700_000_000, "it knows when it was made");

    create_key_file(&path).unwrap_err();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_key_file_may_hold_comments_and_plain_base64() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.key");
    for text in [format!("# ours\n\nstrongroom-key-1:{KEY}\n"), format!("{KEY}=\n")] {
        std::fs::write(&path, text).unwrap();
        set_mode(&path, 0o600);
        assert_eq!(key_in(&path).unwrap(), KEY_ID);
    }
}

#[test]
fn a_key_file_that_is_none_is_refused_by_its_line_and_its_text_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.key");
    assert_eq!(code(key_in(&path)), "no_key");
    for text in ["", "# nothing\n", "c2hvcnQ", "hunter2hunter2", "strongroom-key-9:xxxx"] {
        std::fs::write(&path, text).unwrap();
        set_mode(&path, 0o600);
        let error = key_in(&path).unwrap_err();
        assert_eq!(error.code(), "invalid_keys", "{text}");
        assert!(text.is_empty() || !format!("{error} {error:?}").contains(text), "{error}");
    }
    std::fs::write(&path, vec![b'#'; 200_000]).unwrap();
    assert_eq!(code(key_in(&path)), "too_large");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(code(key_in(&path)), "not_a_file");
}

#[test]
fn a_key_file_that_others_could_read_is_tightened() {
    let vault = Vault::new();
    set_mode(&vault.key_file(), 0o644);
    key_in(&vault.key_file()).unwrap();
    assert_eq!(mode_of(&vault.key_file()), 0o600);

    // A file that says nothing of being one of ours is not changed, whoever has named it.
    std::fs::write(vault.key_file(), KEY).unwrap();
    set_mode(&vault.key_file(), 0o640);
    assert_eq!(code(key_in(&vault.key_file())), "key_file_exposed");
    assert_eq!(mode_of(&vault.key_file()), 0o640);
}

#[test]
fn keys_are_exported_and_imported_for_reading() {
    let (vault, other) = (Vault::new(), Vault::new());
    put(other.sealed(), "a").unwrap();
    let theirs = block_on(other.source().keys()).unwrap();
    let ours = block_on(vault.source().keys()).unwrap().primary();
    let imported = block_on(vault.source().import(&theirs.expose())).unwrap();
    let ids: Vec<_> = imported.keys().map(|(id, _)| id).collect();
    assert_eq!(ids, [ours, theirs.primary()], "the primary stays");
    let sealed = SealedPersistence::new(FilePersistence::new(other.cache()).unwrap(), vault.source());
    assert!(has(sealed, "a").unwrap());

    let again = block_on(vault.source().import(&theirs.expose())).unwrap();
    assert_eq!(again.keys().count(), 2);
    let nonsense = strongroom::SecretBytes::from(b"nonsense".to_vec());
    assert_eq!(code(block_on(vault.source().import(&nonsense))), "invalid_keys");
    assert_eq!(
        code(block_on(KeySelector::Environment.open().unwrap().import(&theirs.expose()))),
        "key_source_not_writable"
    );

    let new = strongroom::KeyRing::generate().unwrap();
    assert!(new.expose().expose().starts_with(b"strongroom-key-1:"));
    assert!(!format!("{new:?}").contains(std::str::from_utf8(&new.expose().expose()[17..40]).unwrap()));
}

#[test]
fn the_header_tells_the_key_without_any() {
    let vault = Vault::new();
    assert_eq!(sealed_with(vault.cache()).unwrap(), None);
    put(vault.sealed(), "a").unwrap();
    let found = sealed_with(vault.cache()).unwrap().unwrap();
    assert_eq!(found.kind(), Some(KeySourceKind::File));
    assert_eq!(*found.key_id(), block_on(vault.source().keys()).unwrap().primary());
    assert_eq!(found.key_file(), Some(vault.key_file()));
}

#[test]
fn a_key_file_of_another_user_and_a_link_of_another_user_are_refused() {
    const SOMEBODY: u32 = 65_534;
    if !is_root() {
        skip("seal_sources::a_key_file_of_another_user", "only root can give files away");
        return;
    }
    let vault = Vault::new();
    chown(vault.key_file(), Some(SOMEBODY), None).unwrap();
    assert_eq!(code(key_in(&vault.key_file())), "wrong_owner");
    assert_eq!(std::fs::metadata(vault.key_file()).unwrap().uid(), SOMEBODY);
    chown(vault.key_file(), Some(0), None).unwrap();
    let link = vault.folder.path().join("link.key");
    symlink(vault.key_file(), &link).unwrap();
    key_in(&link).unwrap();
    std::os::unix::fs::lchown(&link, Some(SOMEBODY), None).unwrap();
    assert_eq!(code(key_in(&link)), "unsafe_link");
}

#[test]
fn a_folder_that_everybody_can_write_gives_no_key() {
    let vault = Vault::new();
    set_mode(vault.key_file().parent().unwrap(), 0o777);
    assert_eq!(code(key_in(&vault.key_file())), "unsafe_directory");
}

#[test]
fn the_environment_gives_keys_the_first_is_the_primary() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache.bin");
    let with = |keys: &str, what: &str| in_process(&[("STRONGROOM_KEY", Path::new(keys))], what, &cache);
    assert_eq!(with(KEY, "key env"), KEY_ID);
    let other = "_____________________________________________w0";
    assert!(with("nonsense", "key env").starts_with("invalid_keys: "));
    assert!(!with(other, "key env").contains(other));
    assert_eq!(with(KEY, "put a"), "sealed env provided-key");
    assert_eq!(with(KEY, "scopes"), "a");
    assert!(with(KEY, "rotate env").starts_with("key_source_not_writable: "));
    let without = in_process(&[("HOME", folder.path())], "scopes", &cache);
    assert!(
        without.starts_with("unknown_key: ") && without.contains("STRONGROOM_KEY is not set"),
        "{without}"
    );
}

#[test]
fn a_systemd_credential_gives_keys() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache.bin");
    let credentials = folder.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    std::fs::write(credentials.join("strongroom.key"), format!("strongroom-key-1:{KEY}\n")).unwrap();
    set_mode(&credentials.join("strongroom.key"), 0o400);
    let environment = [("CREDENTIALS_DIRECTORY", credentials.as_path())];
    assert_eq!(in_process(&environment, "put a", &cache), "sealed systemd provided-key");
    assert_eq!(in_process(&environment, "scopes", &cache), "a");
    assert_eq!(in_process(&environment, "key systemd", &cache), KEY_ID);
    // The same key, handed in otherwise.
    assert_eq!(in_process(&[("STRONGROOM_KEY", Path::new(KEY))], "scopes", &cache), "a");
    let without = in_process(&[("HOME", folder.path())], "key systemd", &cache);
    assert!(without.starts_with("no_key: "), "{without}");
}

#[test]
fn a_key_file_that_is_configured_is_used_and_named_in_the_header() {
    let vault = Vault::new();
    let key_file = vault.key_file();
    let environment = [("STRONGROOM_KEY_FILE", key_file.as_path())];
    let expected = format!("sealed file:{} provided-key", key_file.display());
    assert_eq!(in_process(&environment, "put a", &vault.cache()), expected);
    // The header says where the key lay, so that it is found without being configured.
    assert_eq!(in_process(&[("HOME", vault.folder.path())], "scopes", &vault.cache()), "a");
}

#[test]
fn each_source_says_what_it_is_and_how_well_it_protects() {
    for (text, kind, protection) in [
        ("host", KeySourceKind::Host, Protection::HostFile),
        ("file:/k", KeySourceKind::File, Protection::ProvidedKey),
        ("env", KeySourceKind::Environment, Protection::ProvidedKey),
        ("systemd", KeySourceKind::Systemd, Protection::ProvidedKey),
    ] {
        let source = text.parse::<KeySelector>().unwrap().open().unwrap();
        assert_eq!((source.kind(), source.protection(), source.name()), (kind, protection, text.into()));
    }
}

#[cfg(not(feature = "passphrase"))]
#[test]
fn a_source_that_is_not_built_in_names_the_feature() {
    let error = KeySelector::PassphraseFile("/p".into()).open().unwrap_err();
    assert_eq!(error.code(), "feature_missing");
    assert!(error.remedy().unwrap().contains("passphrase"));
}

#[cfg(feature = "passphrase")]
#[test]
fn the_same_passphrase_opens_it_another_does_not_and_several_lines_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, file) = (folder.path().join("cache.bin"), folder.path().join("passphrase"));
    let sealed = || {
        let source = KeySelector::PassphraseFile(file.clone()).open().unwrap();
        SealedPersistence::new(FilePersistence::new(&cache).unwrap(), source)
    };
    let write = |text: &str| {
        std::fs::write(&file, text).unwrap();
        set_mode(&file, 0o600);
    };
    write("correct horse battery staple\n");
    replace(&sealed(), b"{\"a\":1}").unwrap();
    assert_eq!(load(&sealed()).unwrap(), b"{\"a\":1}");
    write("correct horse battery staple");
    assert_eq!(load(&sealed()).unwrap(), b"{\"a\":1}", "the line end is no part of it");
    write("another\n");
    assert_eq!(code(load(&sealed())), "unknown_key");
    write("another\ncorrect horse battery staple\n");
    assert_eq!(load(&sealed()).unwrap(), b"{\"a\":1}");
    write("\n");
    assert_eq!(code(load(&sealed())), "unknown_key");
    assert!(!String::from_utf8_lossy(&std::fs::read(&cache).unwrap()).contains("horse"));
}

#[cfg(all(feature = "keyutils", target_os = "linux"))]
#[test]
fn the_kernels_keyring_gives_keys_and_one_that_is_gone_is_lost() {
    let source = || KeySelector::Keyutils.open().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache.bin");
    let sealed = || SealedPersistence::new(FilePersistence::new(&cache).unwrap(), source());
    match put(sealed(), "a") {
        Ok(()) => {}
        Err(error) if error.code() == "key_source_unavailable" => {
            return skip("seal_sources::the_kernels_keyring_gives_keys", &error.to_string());
        }
        Err(error) => panic!("{error}"),
    }
    assert!(has(sealed(), "a").unwrap());
    assert_eq!(source().protection(), Protection::OsStore);
    let before = block_on(source().keys()).unwrap().primary();
    let after = block_on(source().rotate()).unwrap().primary();
    assert_ne!(before, after);
    put(sealed(), "b").unwrap();
    assert!(has(sealed(), "a").unwrap() && has(sealed(), "b").unwrap());

    let keyring =
        linux_keyutils::KeyRing::from_special_id(linux_keyutils::KeyRingIdentifier::User, false).unwrap();
    for id in [before, after] {
        let _ = keyring.search(&format!("strongroom:{id}")).unwrap().invalidate();
    }
    let _ = keyring.search("strongroom:primary").unwrap().invalidate();
    assert!(!has(sealed(), "a").unwrap(), "gone as after a reboot");
    put(sealed(), "c").unwrap();
    assert!(has(sealed(), "c").unwrap());
    assert!(names_in(folder.path()).iter().any(|name| name.contains(".corrupt-")), "and set aside");
    for name in [
        "strongroom:primary".to_owned(),
        format!("strongroom:{}", block_on(source().keys()).unwrap().primary()),
    ] {
        let _ = keyring.search(&name).unwrap().invalidate();
    }
}
