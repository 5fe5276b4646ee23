//! What the library seals, read by a program that knows nothing but `docs/format.md`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use strongroom::{
    Fence, FilePersistence, KeySelector, Persistence as _, Saved, SealedPersistence, SecretBytes, block_on,
    persistence,
};

use crate::support::skip;

const DOCUMENT: &[u8] = b"{\"AccessToken\":{\"k\":{\"secret\":\"gr\xc3\xbc\xc3\x9fe\"}}}";

/// A Python that has `cryptography`, which `msal` needs.
fn python(test: &str) -> Option<PathBuf> {
    let python = std::env::var_os("STRONGROOM_TEST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        skip(test, "STRONGROOM_TEST_PYTHON names no Python with cryptography");
    }
    python
}

fn read(python: &Path, key_file: &Path, sealed: &Path, record_key: Option<&str>) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/read_envelope.py");
    Command::new(python).arg(script).arg(key_file).arg(sealed).args(record_key).output().unwrap()
}

fn read_well(python: &Path, key_file: &Path, sealed: &Path, record_key: Option<&str>) -> Vec<u8> {
    let output = read(python, key_file, sealed, record_key);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn an_independent_reader_opens_what_the_library_sealed() {
    let Some(python) = python("sealed::an_independent_reader_opens_what_the_library_sealed") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (cache, key_file) = (folder.path().join("cache.bin"), folder.path().join("cache.key"));
    persistence::create_key_file(&key_file).unwrap();
    let source = KeySelector::File(key_file.clone()).open().unwrap();
    // Also with a key that is not the primary one any more.
    for rotated in [false, true] {
        let file = FilePersistence::new(&cache).unwrap();
        let sealed = SealedPersistence::new(file, source.clone());
        let revision = block_on(sealed.load()).unwrap().revision;
        let document = SecretBytes::from(DOCUMENT.to_vec());
        let saved = block_on(sealed.save(&document, &revision, &Fence::open())).unwrap();
        assert!(matches!(saved, Saved::Saved(_)));
        if rotated {
            block_on(source.rotate()).unwrap();
        }
        assert_eq!(read_well(&python, &key_file, &cache, None), DOCUMENT);
    }
    let mut changed = std::fs::read(&cache).unwrap();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&cache, changed).unwrap();
    assert!(!read(&python, &key_file, &cache, None).status.success(), "it would believe anything");
}

#[test]
fn an_independent_reader_opens_the_test_vectors_and_the_file_of_version_1() {
    let Some(python) = python("sealed::an_independent_reader_opens_the_test_vectors") else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let data = root.join("strongroom/tests/data");
    let page = std::fs::read_to_string(root.with_file_name("docs/format.md")).unwrap();
    let vectors: Vec<Vec<u8>> = page.split("```hex").skip(1).map(bytes_in).collect();
    let [_key_id, document, record] = &vectors[..] else { panic!("{} vectors", vectors.len()) };

    let folder = tempfile::tempdir().unwrap();
    let (sealed, key_file) = (folder.path().join("sealed"), folder.path().join("key"));
    let key = page.split("strongroom-key-1:AAE").nth(1).unwrap().split('`').next().unwrap();
    std::fs::write(&key_file, format!("strongroom-key-1:AAE{key}\n")).unwrap();
    std::fs::write(&sealed, document).unwrap();
    assert_eq!(read_well(&python, &key_file, &sealed, None), b"{\"AccessToken\":{}}");
    std::fs::write(&sealed, record).unwrap();
    assert_eq!(read_well(&python, &key_file, &sealed, Some("a key")), b"a record");

    let version_1 = data.join("sealed-1");
    let found = read_well(&python, &version_1.join("cache.key"), &version_1.join("cache.bin"), None);
    assert_eq!(found, std::fs::read(data.join("generated/msal-python-1.39.0/code.json")).unwrap());
}

/// The bytes of the hexadecimal digits up to the end of a block.
fn bytes_in(block: &str) -> Vec<u8> {
    let digits: Vec<_> = block.split("```").next().unwrap().split_whitespace().flat_map(str::chars).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap()).collect()
}
