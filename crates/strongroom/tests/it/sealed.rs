//! A sealed document: what comes out is what went in, and what does not open is refused and left as it is.

use strongroom::{
    CredentialStore as _, DocumentStore, ErrorKind, FilePersistence, KeySelector, Location,
    MemoryPersistence, Persistence as _, Protection, SealedPersistence, TokenCache, block_on,
};

use crate::seal_support::{Vault, code, has, load, put, replace};
use crate::support::{mode_of, names_in, set_mode};

const DOCUMENT: &[u8] = b"{\"AccessToken\":{},\"a secret word\":1}";

#[test]
fn what_was_saved_is_loaded_and_nothing_of_it_can_be_read_in_the_file() {
    let vault = Vault::new();
    let sealed = vault.sealed();
    assert!(load(&sealed).unwrap().is_empty(), "nothing is there yet");
    replace(&sealed, DOCUMENT).unwrap();
    assert_eq!(load(&vault.sealed()).unwrap(), DOCUMENT);
    assert!(!String::from_utf8_lossy(&vault.content()).contains("secret word"));
    assert_eq!(mode_of(&vault.cache()), 0o600);
    assert_eq!(sealed.kind(), "sealed");
    assert_eq!(sealed.protection(), Protection::ProvidedKey);
    assert_eq!(sealed.location(), Location::File(vault.cache()));
}

#[test]
fn any_persistence_can_be_sealed() {
    let vault = Vault::new();
    let sealed = SealedPersistence::new(MemoryPersistence::new(), vault.source());
    replace(&sealed, DOCUMENT).unwrap();
    assert_eq!(load(&sealed).unwrap(), DOCUMENT);
    assert_ne!(load(sealed.inner()).unwrap(), DOCUMENT);
    assert_eq!(sealed.location(), Location::Memory);
    let cache = TokenCache::with_persistence(sealed);
    assert_eq!((cache.info().kind, cache.info().protection), ("sealed", Protection::ProvidedKey));
}

/// Reads and writes `content` in place of the cache, and sees that both are refused and nothing is touched.
fn refused(vault: &Vault, content: &[u8]) -> String {
    std::fs::write(vault.cache(), content).unwrap();
    set_mode(&vault.cache(), 0o600);
    let before = names_in(vault.folder.path());
    let reading = code(load(&vault.sealed()));
    let error = put(vault.sealed(), "a").unwrap_err();
    assert_eq!(error.code(), reading, "a writer says the same");
    assert_eq!(error.kind(), ErrorKind::Unusable, "{error}");
    let path = vault.cache().display().to_string();
    assert!(error.to_string().contains(&path), "{error}");
    assert_eq!(vault.content(), content, "{error}");
    // But for the lock that the writer took.
    let mut after = names_in(vault.folder.path());
    after.retain(|name| before.contains(name) || name != "cache.bin.lock");
    assert_eq!(after, before, "nothing is set aside: {error}");
    reading
}

#[test]
fn every_byte_that_is_flipped_is_refused_and_the_file_is_left_as_it_is() {
    let vault = Vault::new();
    replace(&vault.sealed(), b"{\"a\":1}").unwrap();
    let whole = vault.content();
    let header = 104 + vault.key_file().as_os_str().len();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        let code = refused(&vault, &changed);
        let expected: &[&str] = match at {
            0..8 => &["not_a_token_cache"],
            8 => &["later_version"],
            9 => &["other_contents"],
            // The kind of the source: the key is found by its id all the same.
            10 => &["tampered"],
            11 => &["tampered"],
            // Lengths that do not fit, or that hide a part.
            12..24 => &["tampered", "truncated"],
            // The key's id.
            24..40 => &["unknown_key"],
            // Salt and check value.
            40..104 => &["wrong_key"],
            _ if at < header => &["tampered"],
            _ => &["tampered"],
        };
        assert!(expected.contains(&code.as_str()), "byte {at}: {code}");
    }
    std::fs::write(vault.cache(), &whole).unwrap();
    assert_eq!(load(&vault.sealed()).unwrap(), b"{\"a\":1}");
}

#[test]
fn an_envelope_that_is_cut_off_anywhere_is_refused() {
    let vault = Vault::new();
    replace(&vault.sealed(), b"{\"a\":1}").unwrap();
    let whole = vault.content();
    for length in 1..whole.len() {
        assert_eq!(refused(&vault, &whole[..length]), "truncated", "{length} bytes");
    }
    assert_eq!(refused(&vault, &[&whole[..], b"\0"].concat()), "tampered", "and one that goes on");
}

#[test]
fn plain_text_a_later_version_and_anything_else_have_an_error_of_their_own() {
    let vault = Vault::new();
    assert_eq!(refused(&vault, b"{\"AccessToken\":{\"k\":{}}}"), "not_sealed");
    assert_eq!(refused(&vault, b" \n{\"AccessToken\""), "not_sealed", "damaged plain text too");
    assert_eq!(refused(&vault, b"\xef\xbb\xbf{}"), "not_a_token_cache");
    assert_eq!(refused(&vault, b"SQLite format 3\0"), "not_a_token_cache");
    replace(
        &{
            std::fs::remove_file(vault.cache()).unwrap();
            vault.sealed()
        },
        b"{\"a\":1}",
    )
    .unwrap();
    let mut later = vault.content();
    later[8] = 2;
    assert_eq!(refused(&vault, &later), "later_version");
    let error = load(&vault.sealed()).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    let mut unknown_source = vault.content();
    unknown_source[8] = 1;
    unknown_source[10] = 99;
    unknown_source[30] ^= 1;
    assert_eq!(refused(&vault, &unknown_source), "unsupported_key_source");
}

#[test]
fn a_wrong_key_is_told_from_a_changed_document() {
    let vault = Vault::new();
    replace(&vault.sealed(), b"{\"a\":1}").unwrap();
    let whole = vault.content();
    std::fs::remove_file(vault.key_file()).unwrap();
    strongroom::persistence::create_key_file(vault.key_file()).unwrap();
    let error = load(&vault.sealed()).unwrap_err();
    assert_eq!(error.code(), "unknown_key");
    assert!(error.remedy().unwrap().contains("STRONGROOM_KEY_FILE"), "{:?}", error.remedy());

    // Relabelled with the id of the key that there is now.
    let now = block_on(vault.source().keys()).unwrap().primary().to_string();
    let id: Vec<u8> = (0..16).map(|n| u8::from_str_radix(&now[2 * n..2 * n + 2], 16).unwrap()).collect();
    let mut relabelled = whole;
    relabelled[24..40].copy_from_slice(&id);
    assert_eq!(refused(&vault, &relabelled), "wrong_key");
}

#[test]
fn a_place_that_holds_an_empty_object_or_nothing_is_an_empty_cache() {
    let vault = Vault::new();
    for empty in ["", "{}", " \n", "{ }\n"] {
        std::fs::write(vault.cache(), empty).unwrap();
        assert!(load(&vault.sealed()).unwrap().is_empty(), "{empty:?}");
    }
    put(vault.sealed(), "a").unwrap();
    assert!(vault.content().starts_with(b"\x89STRONG\n"));
}

#[test]
fn an_envelope_where_plain_text_is_expected_says_how_to_open_it() {
    let vault = Vault::new();
    put(vault.sealed(), "a").unwrap();
    let error = has(FilePersistence::new(vault.cache()).unwrap(), "a").unwrap_err();
    assert_eq!(error.code(), "not_a_token_cache");
    assert!(error.remedy().unwrap().contains("--persistence sealed"), "{:?}", error.remedy());
}

#[test]
fn what_is_damaged_inside_an_envelope_is_set_aside_by_a_writer_still_sealed() {
    let vault = Vault::new();
    replace(&vault.sealed(), b"{\"AccessToken\": {\"half").unwrap();
    let sealed = vault.content();
    put(vault.sealed(), "a").unwrap();
    assert!(has(vault.sealed(), "a").unwrap());
    let aside = names_in(vault.folder.path()).into_iter().find(|name| name.contains(".corrupt-")).unwrap();
    assert_eq!(std::fs::read(vault.folder.path().join(aside)).unwrap(), sealed);
}

#[test]
fn what_is_remembered_beside_a_sealed_document_is_sealed_with_the_same_keys() {
    let vault = Vault::new();
    let store = DocumentStore::new(vault.sealed());
    let state = store.state().unwrap();
    replace(&*state, b"{\"refusals\":{}}").unwrap();
    let path = vault.folder.path().join("cache.bin.state");
    assert!(std::fs::read(&path).unwrap().starts_with(b"\x89STRONG\n"));
    let again = || DocumentStore::new(vault.sealed()).state().unwrap();
    assert_eq!(load(&*again()).unwrap(), b"{\"refusals\":{}}");

    // It is no loss: what cannot be used counts as nothing, and is replaced.
    for unusable in [&b"{\"plain\":1}"[..], b"\x89STRONG\n", b"nonsense"] {
        std::fs::write(&path, unusable).unwrap();
        assert!(load(&*again()).unwrap().is_empty());
        replace(&*again(), b"{\"new\":1}").unwrap();
        assert_eq!(load(&*again()).unwrap(), b"{\"new\":1}");
    }

    // Neither is ever taken for the other.
    std::fs::copy(&path, vault.cache()).unwrap();
    assert_eq!(code(load(&vault.sealed())), "other_contents");
}

#[test]
fn a_moved_document_opens_where_it_is() {
    let vault = Vault::new();
    put(vault.sealed(), "a").unwrap();
    let moved = vault.folder.path().join("elsewhere.bin");
    std::fs::rename(vault.cache(), &moved).unwrap();
    let sealed = SealedPersistence::new(FilePersistence::new(moved).unwrap(), vault.source());
    assert!(has(sealed, "a").unwrap());
}

#[test]
fn a_sealed_file_of_version_1_is_read_for_ever() {
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sealed-1");
    let vault = Vault::new();
    for name in ["cache.bin", "cache.key"] {
        std::fs::copy(data.join(name), vault.folder.path().join(name)).unwrap();
    }
    let source = KeySelector::File(vault.folder.path().join("cache.key")).open().unwrap();
    let sealed = SealedPersistence::new(FilePersistence::new(vault.cache()).unwrap(), source);
    let expected = data.with_file_name("generated/msal-python-1.39.0/code.json");
    assert_eq!(load(&sealed).unwrap(), std::fs::read(expected).unwrap());
}
