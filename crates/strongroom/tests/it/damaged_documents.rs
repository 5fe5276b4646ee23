//! What happens to a document that cannot be used: torn, empty, of another kind, damaged for good.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use strongroom::{
    AccessToken, Change, Credential, CredentialKey, CredentialStore, DocumentStore, Error, ErrorKind,
    FilePersistence, MemoryPersistence, Outcome, TokenSource, block_on,
};

use crate::client_support::{NoTransport, Scene};
use crate::persistence_support::{Moment, SteppedIn};
use crate::schema_support::{app_token, change};
use crate::support::{mode_of, names_in, set_mode};

/// The documents that were moved aside, with their names.
fn set_aside(folder: &Path) -> Vec<String> {
    names_in(folder).into_iter().filter(|name| name.contains(".corrupt-")).collect()
}

fn key() -> CredentialKey {
    CredentialKey::of_access_token(&app_token())
}

fn token(secret: &str) -> Credential {
    Credential::AccessToken(AccessToken { secret: secret.into(), ..app_token() })
}

fn secret(store: &dyn CredentialStore) -> Result<Option<String>, Error> {
    let record = block_on(store.get(&key()))?;
    Ok(record.map(|record| record.credential.into_access_token().unwrap().secret.expose().to_owned()))
}

/// A whole document with one token.
fn document(secret: &str) -> Vec<u8> {
    let change: Change = change().put(token(secret));
    match strongroom::Document::empty().apply(&change).unwrap() {
        strongroom::Applied::Changed { bytes, .. } => bytes.expose().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// A whole document but for its end.
fn torn(secret: &str) -> Vec<u8> {
    let mut bytes = document(secret);
    bytes.truncate(bytes.len() - 10);
    bytes
}

/// A file of a program that truncates and rewrites it in place: `step_in` is what it does just before we look.
struct Peer {
    folder: tempfile::TempDir,
    path: PathBuf,
}

impl Peer {
    fn with(content: impl AsRef<[u8]>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.bin");
        std::fs::write(&path, content).unwrap();
        Self { folder, path }
    }

    fn store(
        &self,
        step_in: impl Fn(&Path, Moment) + Send + Sync + 'static,
    ) -> DocumentStore<SteppedIn<FilePersistence>> {
        let (file, path) = (FilePersistence::new(&self.path).unwrap(), self.path.clone());
        DocumentStore::new(SteppedIn::new(file, move |moment| step_in(&path, moment)))
    }
}

#[test]
fn a_daemon_goes_on_with_a_new_document_and_the_damaged_one_is_kept() {
    let scene = Scene::new();
    for (round, damaged) in
        [&torn("was here")[..], b"{ no JSON", b"{}{}", b"{\"AccessToken\":{\xff}}"].into_iter().enumerate()
    {
        std::fs::write(scene.location(), damaged).unwrap();
        set_mode(&scene.location(), 0o644);
        let result = scene.token().unwrap();
        assert_eq!(result.token_source(), TokenSource::IdentityProvider);
        assert!(result.is_persisted());
        let found = scene.acquire(&scene.builder().transport(NoTransport).build().unwrap()).unwrap();
        assert_eq!(found.access_token(), result.access_token());

        let kept = set_aside(scene.folder());
        assert_eq!(kept.len(), (round + 1).min(3), "three are kept");
        assert!(kept.iter().all(|name| name.starts_with("token_cache.bin.corrupt-2")), "{kept:?}");
        assert!(kept.iter().all(|name| mode_of(&scene.folder().join(name)) == 0o600));
        let contents: Vec<_> =
            kept.iter().map(|name| std::fs::read(scene.folder().join(name)).unwrap()).collect();
        assert!(contents.iter().any(|content| content == damaged), "it is moved, not changed");
    }
}

#[test]
fn a_reader_reports_a_damaged_document_and_touches_nothing() {
    let scene = Scene::new();
    std::fs::write(scene.location(), torn("t")).unwrap();
    let silent = scene.app().acquire_token_silent(scene.ready().scope.as_str()).blocking();
    let error = silent.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unusable, "damaged"));
    assert!(error.remedy().unwrap().contains("moves it aside") && !error.is_retryable());
    assert_eq!(std::fs::read(scene.location()).unwrap(), torn("t"));
    assert_eq!(set_aside(scene.folder()), [""; 0]);
    assert_eq!(scene.requests(), 0);
}

#[test]
fn with_strict_a_damaged_document_is_an_error_and_stays() {
    let scene = Scene::new();
    std::fs::write(scene.location(), torn("t")).unwrap();
    let file = FilePersistence::new(scene.location()).unwrap();
    let cache = scene.cache_over(DocumentStore::builder(file).strict(true).build());
    let app = scene.builder().token_cache(cache).build().unwrap();
    for _ in 0..2 {
        let error = scene.acquire(&app).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unusable, "damaged"));
    }
    assert_eq!(std::fs::read(scene.location()).unwrap(), torn("t"));
    assert_eq!((set_aside(scene.folder()), scene.requests()), (Vec::new(), 0));
}

#[test]
fn what_is_of_another_kind_is_an_error_with_a_remedy_and_is_never_touched() {
    let envelope = [b"SRVAULT1".as_slice(), &[0, 1, 2, 3, 255, 254]].concat();
    let deep = [b"{\"a\":".repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat();
    let large = vec![b' '; (1 << 20) + 1];
    for (content, code) in [
        (b"\xef\xbb\xbf{}".as_slice(), "byte_order_mark"),
        (b"garbage", "not_a_token_cache"),
        (b"[]", "not_a_token_cache"),
        (b"null", "not_a_token_cache"),
        (b"\0\0\0\0\0\0\0\0", "not_a_token_cache"),
        (b"\x01\x00\x00\x00\xd0\x8c\x9d\xdf\x01\x15\xd1\x11", "not_a_token_cache"),
        (&envelope, "not_a_token_cache"),
        (&deep, "too_deep"),
        (&large, "too_large"),
    ] {
        let scene = Scene::new();
        std::fs::write(scene.location(), content).unwrap();
        let file = FilePersistence::builder(scene.location()).max_size(1 << 20).build().unwrap();
        let cache = scene.cache_over(DocumentStore::new(file));
        let app = scene.builder().token_cache(cache).build().unwrap();
        let scope = scene.ready().scope.as_str();
        for error in [
            scene.acquire(&app).unwrap_err(),
            app.acquire_token_silent(scope).blocking().unwrap_err(),
            scene.acquire(&app).unwrap_err(),
        ] {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Unusable, code));
            assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()) && !error.is_retryable());
        }
        assert_eq!(scene.requests(), 0, "{code}: nothing is fetched that could not be found again");
        let forced = app.acquire_token_for_client(scope).force_refresh(true).blocking().unwrap();
        assert_eq!(
            forced.persistence_error().unwrap().code(),
            code,
            "who insists gets the token all the same"
        );
        assert_eq!(std::fs::read(scene.location()).unwrap(), content, "{code}");
        assert_eq!(set_aside(scene.folder()), [""; 0], "{code}");
    }
}

#[test]
fn nothing_white_space_and_an_empty_object_are_an_empty_cache() {
    for content in ["", " \n", "{}", "\t{ }\r\n", r#"{"AccessToken":{}}"#] {
        let peer = Peer::with(content);
        let store = peer.store(|_, _| {});
        assert_eq!(secret(&store).unwrap(), None, "{content:?}");
        block_on(store.apply(&change().put(token("t")))).unwrap();
        assert_eq!(secret(&store).unwrap().as_deref(), Some("t"), "{content:?}");
        assert_eq!(set_aside(peer.folder.path()), [""; 0], "{content:?}");
    }
}

#[test]
fn a_section_of_another_kind_costs_writes_and_no_other_section() {
    let scene = Scene::new();
    let content = r#"{"AccessToken":[],"RefreshToken":{}}"#;
    std::fs::write(scene.location(), content).unwrap();
    let result = scene.token().unwrap();
    let error = result.persistence_error().unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unusable, "unusable_section"));
    assert_eq!(std::fs::read_to_string(scene.location()).unwrap(), content);
}

#[test]
fn a_reader_waits_for_a_peer_that_is_writing_to_be_done() {
    for begun in [torn("theirs"), document("theirs")[..1].to_vec()] {
        let peer = Peer::with(begun);
        let store = peer.store(|path, moment| {
            if moment == Moment::Load(3) {
                std::fs::write(path, document("theirs")).unwrap();
            }
        });
        assert_eq!(secret(&store).unwrap().as_deref(), Some("theirs"));
    }
}

#[test]
fn a_writer_waits_for_a_peer_that_is_writing_and_keeps_what_it_wrote() {
    let peer = Peer::with(torn("theirs"));
    let other = AccessToken { target: "other".into(), ..app_token() };
    let store = peer.store(|path, moment| match moment {
        Moment::Load(3) => std::fs::write(path, document("theirs")).unwrap(),
        Moment::SetAside(_) => panic!("a peer was only writing"),
        _ => {}
    });
    let outcome = block_on(store.apply(&change().put(Credential::AccessToken(other.clone())))).unwrap();
    assert_eq!(outcome, Outcome::Applied { swept: 0, removed: Vec::new() });
    assert_eq!(secret(&store).unwrap().as_deref(), Some("theirs"));
    assert!(block_on(store.get(&CredentialKey::of_access_token(&other))).unwrap().is_some());
    assert_eq!(set_aside(peer.folder.path()), [""; 0]);
}

#[test]
fn a_document_is_damaged_only_if_it_is_the_same_twice_a_second_apart() {
    let peer = Peer::with(torn("one"));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    // Half way through the second it becomes another one, as torn as before: its own second begins.
    let store = peer.store(move |path, moment| {
        let mut notes = notes.lock().unwrap();
        if moment == Moment::Load(4) {
            std::fs::write(path, torn("another")).unwrap();
        }
        notes.push((moment, Instant::now()));
    });
    block_on(store.apply(&change().put(token("new")))).unwrap();
    let seen = seen.lock().unwrap();
    let at = |wanted: Moment| seen.iter().find(|(moment, _)| *moment == wanted).unwrap().1;
    assert!(at(Moment::SetAside(1)) - at(Moment::Load(4)) >= Duration::from_secs(1));
    let kept = set_aside(peer.folder.path());
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(std::fs::read(peer.folder.path().join(&kept[0])).unwrap(), torn("another"));
    assert_eq!(secret(&store).unwrap().as_deref(), Some("new"));
}

#[test]
fn a_document_that_is_mended_at_the_last_moment_is_not_moved_aside() {
    let peer = Peer::with(torn("theirs"));
    let store = peer.store(|path, moment| {
        if moment == Moment::SetAside(1) {
            std::fs::write(path, document("theirs")).unwrap();
        }
    });
    let other = AccessToken { target: "other".into(), ..app_token() };
    block_on(store.apply(&change().put(Credential::AccessToken(other)))).unwrap();
    assert_eq!(secret(&store).unwrap().as_deref(), Some("theirs"));
    assert_eq!(set_aside(peer.folder.path()), [""; 0]);
}

#[test]
fn a_document_that_is_torn_anew_whenever_one_looks_is_given_up_and_left_alone() {
    let peer = Peer::with("{");
    let store = peer.store(|path, moment| {
        if let Moment::Load(n) = moment {
            std::fs::write(path, torn(&format!("round-{n}"))).unwrap();
        }
    });
    let error = secret(&store).unwrap_err();
    assert_eq!(error.code(), "damaged");
    assert_eq!(set_aside(peer.folder.path()), [""; 0]);
}

#[test]
fn a_document_that_is_suddenly_empty_is_read_again_before_it_is_believed() {
    let peer = Peer::with(document("one"));
    // Load 1 finds the document. Then a peer truncates it, and writes before we look for the third time.
    let store = peer.store(|path, moment| {
        if moment == Moment::Load(3) {
            std::fs::write(path, document("two")).unwrap();
        }
    });
    assert_eq!(secret(&store).unwrap().as_deref(), Some("one"));
    std::fs::write(&peer.path, "").unwrap();
    assert_eq!(store.generation().unwrap(), None, "nothing is served from memory meanwhile");
    assert_eq!(secret(&store).unwrap().as_deref(), Some("two"), "nobody is told of the moment between");

    // One that stays empty is empty.
    std::fs::write(&peer.path, "").unwrap();
    assert_eq!(secret(&store).unwrap(), None);
    std::fs::remove_file(&peer.path).unwrap();
    assert_eq!(secret(&store).unwrap(), None);
}

#[test]
fn what_cannot_be_moved_aside_is_an_error() {
    let store = DocumentStore::new(MemoryPersistence::with_content(torn("t")));
    assert_eq!(secret(&store).unwrap_err().code(), "damaged");
    assert_eq!(block_on(store.apply(&change().put(token("new")))).unwrap_err().code(), "damaged");
}
