//! What programs of other languages leave when they die or write in place: it costs a look-up nothing and a write
//! next to nothing.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use strongroom::{
    AccessToken, Applied, Credential, CredentialKey, CredentialStore, Document, DocumentStore, Error,
    FilePersistence, Outcome, block_on,
};

use crate::schema_support::{app_metadata, app_token, change};
use crate::support::names_in;

struct Place {
    folder: tempfile::TempDir,
    document: PathBuf,
    lock_file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let document = folder.path().join("cache.bin");
        std::fs::write(&document, whole_document()).unwrap();
        Self { lock_file: folder.path().join("cache.bin.lockfile"), document, folder }
    }

    /// As a new process has it, without any time to wait for a lock.
    fn store(&self) -> DocumentStore<FilePersistence> {
        let file = FilePersistence::new(&self.document).unwrap();
        DocumentStore::builder(file).lock_timeout(Duration::ZERO).build()
    }

    fn names(&self) -> Vec<String> {
        names_in(self.folder.path())
    }
}

/// The left-over lock files of dead processes, in each peer's manner, and ones that nobody understands.
fn lock_files_of_the_dead() -> Vec<(&'static str, String)> {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let dead = child.id();
    vec![
        ("Python, with portalocker or without", format!("{dead} daemon.py")),
        ("MSAL Node", dead.to_string()),
        ("extensions-go", format!("{{{dead}}} go-tool")),
        (".NET", format!("\u{feff}{dead} dotnet\r\n")),
        ("Strongroom", format!("{dead} strongroom")),
        ("somebody, before it has signed", String::new()),
        ("nobody", "\u{0}\u{1} {".into()),
    ]
}

#[test]
fn a_lock_file_that_a_dead_process_left_costs_a_look_up_nothing_and_a_write_no_pause() {
    for (whose, content) in lock_files_of_the_dead() {
        let place = Place::new();
        std::fs::write(&place.lock_file, &content).unwrap();
        let lock_file = std::fs::File::options().write(true).open(&place.lock_file).unwrap();
        lock_file.set_modified(SystemTime::now() - Duration::from_secs(1)).unwrap();

        let store = place.store();
        assert!(at_the_first_poll(store.get(&key())).is_some(), "{whose}");
        assert_eq!(place.names(), ["cache.bin", "cache.bin.lockfile"], "{whose}: a look-up takes no lock");
        assert_eq!(std::fs::read(&place.lock_file).unwrap(), content.as_bytes(), "{whose}");

        let outcome = at_the_first_poll(store.apply(&change().put(Credential::AppMetadata(app_metadata()))));
        assert!(matches!(outcome, Outcome::Applied { .. }), "{whose}");
        assert_eq!(place.names(), ["cache.bin", "cache.bin.lock"], "{whose}");
    }
}

#[test]
fn a_lock_file_that_is_not_signed_yet_is_waited_for_three_times_at_most() {
    let place = Place::new();
    std::fs::write(&place.lock_file, "").unwrap();
    let store = DocumentStore::new(FilePersistence::new(&place.document).unwrap());
    let change = change().put(Credential::AppMetadata(app_metadata()));
    let mut writing = store.apply(&change);
    let mut polls = 0;
    let outcome = block_on(std::future::poll_fn(|context| {
        polls += 1;
        writing.as_mut().poll(context)
    }));
    assert!(matches!(outcome.unwrap(), Outcome::Applied { .. }));
    // 10 + 20 + 40 ms, after which its owner has signed it or is dead.
    assert!(polls <= 4, "{polls} polls");
}

#[test]
fn whatever_part_of_a_document_a_dead_writer_left_a_daemon_goes_on_and_the_part_is_kept() {
    let whole = whole_document();
    for (length, (whose, lock)) in
        [1, 20, whole.len() / 2, whole.len() - 1].iter().zip(lock_files_of_the_dead())
    {
        let place = Place::new();
        std::fs::write(&place.document, &whole[..*length]).unwrap();
        std::fs::write(&place.lock_file, lock).unwrap();
        let store = DocumentStore::new(FilePersistence::new(&place.document).unwrap());
        let outcome = block_on(store.apply(&change().put(Credential::AccessToken(app_token())))).unwrap();
        assert!(matches!(outcome, Outcome::Applied { .. }), "{whose}");
        assert!(at_the_first_poll(store.get(&key())).is_some());
        let names = place.names();
        let [document, kept, lock] = &names[..] else { panic!("{whose}: {names:?}") };
        assert_eq!((document.as_str(), lock.as_str()), ("cache.bin", "cache.bin.lock"));
        assert_eq!(std::fs::read(place.folder.path().join(kept)).unwrap(), &whole[..*length], "{whose}");
    }
}

#[test]
fn a_peer_that_truncates_and_rewrites_the_document_while_we_read_never_costs_a_reader_its_token() {
    let place = Place::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                rewrite_in_place(&place.document);
            }
        });
        for round in 0..100 {
            let found = block_on(place.store().get(&key())).unwrap();
            assert!(found.is_some(), "round {round}");
        }
        done.store(true, Ordering::SeqCst);
    });
}

/// As MSAL Python, .NET, Go and Node write: what is read meanwhile is empty or ends somewhere. Then it rests for a
/// moment, as it does between two tokens.
fn rewrite_in_place(path: &Path) {
    let whole = whole_document();
    std::fs::write(path, "").unwrap();
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    for part in whole.chunks(whole.len() / 4 + 1) {
        std::io::Write::write_all(&mut file, part).unwrap();
        std::thread::yield_now();
    }
    drop(file);
    std::thread::sleep(Duration::from_millis(1));
}

fn key() -> CredentialKey {
    CredentialKey::of_access_token(&app_token())
}

/// A document with one token, of some kilobytes.
fn whole_document() -> Vec<u8> {
    let secret = "at".repeat(4000);
    let change =
        change().put(Credential::AccessToken(AccessToken { secret: secret.as_str().into(), ..app_token() }));
    match Document::empty().apply(&change).unwrap() {
        Applied::Changed { bytes, .. } => bytes.expose().to_vec(),
        other => panic!("{other:?}"),
    }
}

/// The output of a future that waits for nothing.
fn at_the_first_poll<T>(future: impl Future<Output = Result<T, Error>>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output.unwrap(),
        Poll::Pending => panic!("it waits"),
    }
}
