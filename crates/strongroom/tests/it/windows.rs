//! What is special on Windows: files that the system encrypts, files that others have open, locks that keep others out.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use strongroom::persistence::{self, Kind};
use strongroom::{
    Change, Credential, CredentialStore as _, DocumentStore, Error, ErrorKind, Fence, FilePersistence,
    FilePersistenceWithDataProtection, KeySelector, Persistence, Protection, Revision, Saved, SecretBytes,
    Step, block_on,
};

use crate::schema_support::{app_token, change};
use crate::stores::{for_scope, put, secret};
use crate::support::{Process, another_process, names_in, skip};

const HELPER: &str = "windows::helper_process_on_windows";
const SHORT: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_secs(60);
const DOCUMENT: &[u8] = br#"{"AccessToken":{}}"#;

/// Share modes, as `CreateFile` has them.
const NOBODY: u32 = 0;
const READERS: u32 = 1;

struct Place {
    folder: tempfile::TempDir,
    document: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let document = folder.path().join("cache.bin");
        Self { folder, document }
    }

    fn lockfile(&self) -> PathBuf {
        self.folder.path().join("cache.bin.lockfile")
    }

    fn plain(&self) -> FilePersistence {
        FilePersistence::new(&self.document).unwrap()
    }

    fn protected(&self) -> FilePersistenceWithDataProtection {
        FilePersistenceWithDataProtection::new(&self.document).unwrap()
    }

    fn change(&self, change: &Change, timeout: Duration) -> Result<(), Error> {
        block_on(DocumentStore::builder(self.plain()).lock_timeout(timeout).build().apply(change)).map(drop)
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.document).unwrap()
    }

    /// Another process that does what `how` says until it is told to end.
    fn other(&self, how: &str) -> Process {
        let mut command = another_process(HELPER);
        command.env("STRONGROOM_TEST_HOW", how).env("STRONGROOM_TEST_PATH", &self.document);
        let mut process = Process::start(&mut command);
        process.wait_for("ready");
        process
    }
}

fn load(persistence: &dyn Persistence) -> Result<(Vec<u8>, Revision), Error> {
    block_on(persistence.load()).map(|loaded| (loaded.bytes.expose().to_vec(), loaded.revision))
}

fn save(persistence: &dyn Persistence, content: &[u8]) -> Result<(), Error> {
    let (bytes, revision) = (SecretBytes::from(content.to_vec()), load(persistence)?.1);
    let saved = block_on(persistence.save(&bytes, &revision, &Fence::open()))?;
    assert!(matches!(saved, Saved::Saved(_)));
    Ok(())
}

fn token(scope: &str) -> Change {
    change().put(Credential::AccessToken(for_scope(scope)))
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_on_windows() {
    let Some(path) = std::env::var_os("STRONGROOM_TEST_PATH") else { return };
    let document = PathBuf::from(path);
    let lockfile = document.with_extension("bin.lockfile");
    let how = std::env::var("STRONGROOM_TEST_HOW").unwrap();
    let ready_and_wait = || {
        println!("ready");
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    };
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    match how.as_str() {
        // MSAL Python and Go: LockFileEx on a file that others can open.
        "locks" => {
            let mut file = options.open(&lockfile).unwrap();
            file.write_all(format!("{} peer", std::process::id()).as_bytes()).unwrap();
            file.try_lock().unwrap();
            ready_and_wait();
        }
        // MSAL .NET: a file that others cannot open.
        "opens alone" => {
            let _file = options.share_mode(NOBODY).open(&lockfile).unwrap();
            ready_and_wait();
        }
        // Strongroom's own file.
        "locks ours" => {
            let file = options.open(document.with_extension("bin.lock")).unwrap();
            file.try_lock().unwrap();
            ready_and_wait();
        }
        "lives" => ready_and_wait(),
        name => {
            println!("ready");
            let protected = FilePersistenceWithDataProtection::new(&document).unwrap();
            let store = DocumentStore::builder(protected).lock_timeout(LONG).build();
            for number in 0..6 {
                put(&store, for_scope(&format!("{name}-{number}")));
            }
        }
    }
}

#[test]
fn a_document_is_kept_encrypted_and_read_back() {
    let place = Place::new();
    let persistence = place.protected();
    assert_eq!(load(&persistence).unwrap().0, b"");
    save(&persistence, DOCUMENT).unwrap();
    let content = place.content();
    assert!(!content.windows(11).any(|part| part == b"AccessToken"), "it lies there in clear");
    assert_eq!(content[..4], [1, 0, 0, 0], "a blob begins with its version");
    let (bytes, revision) = load(&place.protected()).unwrap();
    assert_eq!(bytes, DOCUMENT);
    assert!(persistence.is_current(&revision).unwrap());
    assert_eq!((persistence.kind(), persistence.protection()), ("dpapi", Protection::OsStore));

    // An empty file is an empty document, as everywhere.
    std::fs::write(&place.document, "").unwrap();
    assert_eq!(load(&persistence).unwrap().0, b"");
    assert!(!persistence.is_current(&revision).unwrap());
}

#[test]
fn what_is_best_here_is_a_file_that_windows_encrypts_unless_something_sealed_is_there() {
    let place = Place::new();
    let chosen = persistence::encrypted(&place.document).unwrap();
    assert_eq!((chosen.choice().kind, chosen.choice().protection), ("dpapi", Protection::OsStore));
    save(&chosen, DOCUMENT).unwrap();
    assert_eq!(load(&place.protected()).unwrap().0, DOCUMENT, "it is the file of the persistence itself");
    let opened = persistence::open(&place.document).unwrap();
    assert_eq!((opened.choice().kind, load(&opened).unwrap().0), ("dpapi", DOCUMENT.to_vec()));
    assert_eq!(persistence::encrypted(&place.document).unwrap().choice().kind, "dpapi");
    let with_entropy = persistence::builder(&place.document).kind(Kind::Dpapi).entropy("another");
    assert_eq!(load(&with_entropy.build().unwrap()).unwrap_err().code(), "dpapi_decryption_failed");

    let migrated = persistence::migrate(&place.document).to(Kind::File).run().unwrap();
    assert_eq!((migrated.kind, place.content()), ("file", DOCUMENT.to_vec()));
    assert_eq!(persistence::encrypted(&place.document).unwrap_err().code(), "not_sealed");
    assert_eq!(persistence::migrate(&place.document).run().unwrap().kind, "dpapi");
    assert_eq!(load(&place.protected()).unwrap().0, DOCUMENT);

    let key_file = place.folder.path().join("cache.key");
    persistence::create_key_file(&key_file).unwrap();
    let sealed =
        persistence::migrate(&place.document).to(Kind::Sealed).key_source(KeySelector::File(key_file));
    assert_eq!(sealed.run().unwrap().kind, "sealed");
    let chosen = persistence::encrypted(&place.document).unwrap();
    assert_eq!((chosen.choice().kind, load(&chosen).unwrap().0), ("sealed", DOCUMENT.to_vec()));
    std::fs::write(&place.document, "SQLite format 3").unwrap();
    let chosen = persistence::encrypted(&place.document).unwrap();
    assert_eq!(load(&chosen).unwrap_err().code(), "dpapi_decryption_failed");
    assert_eq!(place.content(), b"SQLite format 3");
}

#[test]
fn with_entropy_only_the_same_entropy_opens_it() {
    let place = Place::new();
    save(&place.protected().entropy("Entropie äöü"), DOCUMENT).unwrap();
    assert_eq!(load(&place.protected().entropy("Entropie äöü")).unwrap().0, DOCUMENT);
    let content = place.content();
    for persistence in [place.protected(), place.protected().entropy(""), place.protected().entropy("other")]
    {
        let error = load(&persistence).unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Unusable, "dpapi_decryption_failed"));
        assert!(error.to_string().contains("cache.bin"), "{error}");
        assert!(error.remedy().unwrap().contains("entropy"));
        assert!(!format!("{persistence:?}").contains("other"));
    }
    assert_eq!(place.content(), content, "it is left as it is");
}

#[test]
fn a_plain_document_is_an_error_of_its_own_and_is_left_as_it_is() {
    for plain in ["{}", "\u{feff} {\"AccessToken\": {}}", "[]"] {
        let place = Place::new();
        std::fs::write(&place.document, plain).unwrap();
        let store = DocumentStore::new(place.protected());
        for error in [load(&place.protected()).unwrap_err(), block_on(store.apply(&token("a"))).unwrap_err()]
        {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Unusable, "not_sealed"), "{error}");
            assert!(error.remedy().unwrap().contains("migrate"));
        }
        assert_eq!(place.content(), plain.as_bytes());
        assert!(!names_in(place.folder.path()).iter().any(|name| name.contains("corrupt")));
    }
}

#[test]
fn a_document_that_was_changed_or_cut_is_refused_and_left_as_it_is() {
    let place = Place::new();
    save(&place.protected(), DOCUMENT).unwrap();
    let sound = place.content();
    // Wine does not look at the header, which lies in the first half.
    let mut changed = sound.clone();
    changed[sound.len() * 3 / 4] ^= 0x10;
    let mut last = sound.clone();
    *last.last_mut().unwrap() ^= 1;
    for unsound in [changed, last, sound[..sound.len() - 1].to_vec(), b"no blob at all".to_vec()] {
        std::fs::write(&place.document, &unsound).unwrap();
        let store = DocumentStore::new(place.protected());
        for error in [load(&place.protected()).unwrap_err(), block_on(store.apply(&token("a"))).unwrap_err()]
        {
            assert_eq!((error.kind(), error.code()), (ErrorKind::Unusable, "dpapi_decryption_failed"));
        }
        assert_eq!(place.content(), unsound);
    }
}

/// The program `tests/cross/data_protection.c`.
fn other_program(arguments: &[&str], path: &Path, entropy: Option<&str>, input: &[u8]) -> (i32, Vec<u8>) {
    let mut command = Command::new(std::env::var_os("STRONGROOM_TEST_DATA_PROTECTION").unwrap());
    command.args(arguments).arg(path).args(entropy);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), output.stdout)
}

#[test]
fn another_program_reads_what_we_write_and_we_what_it_writes() {
    if std::env::var_os("STRONGROOM_TEST_DATA_PROTECTION").is_none() {
        skip(
            "windows::another_program_reads_what_we_write_and_we_what_it_writes",
            "tests/cross/data_protection.c is not built (./test windows does)",
        );
        return;
    }
    for entropy in [None, Some("my-entropy")] {
        let place = Place::new();
        let persistence = place.protected().entropy(entropy.unwrap_or_default());
        save(&persistence, DOCUMENT).unwrap();
        let unprotect = |entropy| other_program(&["unprotect"], &place.document, entropy, b"");
        let expected = [b"python_data\n", DOCUMENT].concat();
        assert_eq!(unprotect(entropy), (0, expected));
        assert_eq!(unprotect(Some("another")).0, 3, "it refuses another entropy");
        let mut changed = place.content();
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(&place.document, changed).unwrap();
        assert_eq!(unprotect(entropy).0, 3, "it refuses what was changed");

        let theirs = br#"{"RefreshToken":{}}"#;
        assert_eq!(other_program(&["protect"], &place.document, entropy, theirs).0, 0);
        assert_eq!(load(&persistence).unwrap().0, theirs);
    }
}

#[test]
fn processes_that_add_to_one_protected_document_lose_nothing() {
    let place = Place::new();
    let mut processes: Vec<_> = ["a", "b", "c"].iter().map(|name| place.other(name)).collect();
    processes.iter_mut().for_each(Process::finish);
    let store = DocumentStore::new(place.protected());
    for name in ["a", "b", "c"] {
        for number in 0..6 {
            let scope = format!("{name}-{number}");
            assert_eq!(secret(&store, &for_scope(&scope)), Some(scope));
        }
    }
    assert_eq!(names_in(place.folder.path()), ["cache.bin", "cache.bin.lock"]);
}

#[test]
fn a_document_that_somebody_has_for_himself_for_a_moment_is_waited_for() {
    let place = Place::new();
    save(&place.plain(), DOCUMENT).unwrap();
    // As a program that writes: nobody else can read meanwhile.
    let alone = OpenOptions::new().write(true).share_mode(NOBODY).open(&place.document).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(alone);
        });
        assert_eq!(load(&place.plain()).unwrap().0, DOCUMENT);
    });

    // As a program that reads: nobody else can replace it meanwhile. It opens it at the last moment.
    let document = place.document.clone();
    let persistence = FilePersistence::builder(&place.document)
        .observe_steps(std::sync::Arc::new(move |step| {
            if step == Step::Rename {
                let reader = OpenOptions::new().read(true).share_mode(READERS).open(&document)?;
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(100));
                    drop(reader);
                });
            }
            Ok(())
        }))
        .build()
        .unwrap();
    save(&persistence, b"{}").unwrap();
    assert_eq!(place.content(), b"{}");
}

#[test]
fn a_document_that_somebody_keeps_for_himself_is_an_error_and_stays_whole() {
    let place = Place::new();
    save(&place.plain(), DOCUMENT).unwrap();
    let reader = OpenOptions::new().read(true).share_mode(READERS).open(&place.document).unwrap();
    let error = save(&place.plain(), b"{}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains("cache.bin"), "{error}");
    assert_eq!(load(&place.plain()).unwrap().0, DOCUMENT);
    drop(reader);
    assert_eq!(names_in(place.folder.path()), ["cache.bin"], "no temporary file is left");
    save(&place.plain(), b"{}").unwrap();
}

#[test]
fn every_kind_of_lock_excludes_us_until_its_holder_leaves_or_dies() {
    for how in ["locks", "opens alone", "locks ours"] {
        for is_killed in [false, true] {
            let place = Place::new();
            let mut other = place.other(how);
            let error = place.change(&token("early"), SHORT).unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Locked, "locked"), "{how}: {error}");
            thread::scope(|scope| {
                let waiting = scope.spawn(|| place.change(&token("late"), LONG));
                if is_killed {
                    other.kill();
                } else {
                    other.finish();
                }
                waiting.join().unwrap().unwrap_or_else(|error| panic!("{how}: {error}"));
            });
            let store = DocumentStore::new(place.plain());
            assert!(secret(&store, &for_scope("late")).is_some(), "{how}");
            assert!(secret(&store, &for_scope("early")).is_none(), "{how}");
            assert!(!place.lockfile().exists(), "{how}");
        }
    }
}

#[test]
fn a_live_node_process_is_respected_and_a_dead_one_is_not() {
    let place = Place::new();
    let mut node = place.other("lives");
    std::fs::write(place.lockfile(), node.id().to_string()).unwrap();
    let error = place.change(&token("a"), SHORT).unwrap_err();
    assert!(error.to_string().contains(&format!("process {} (MSAL Node)", node.id())), "{error}");
    node.kill();
    place.change(&token("a"), Duration::from_secs(5)).unwrap();
    assert!(!place.lockfile().exists());
}

#[test]
fn a_left_over_temporary_file_is_removed_unless_its_writer_lives() {
    let place = Place::new();
    let name = |digit: &str| place.folder.path().join(format!("cache.bin.{}.tmp", digit.repeat(32)));
    let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
    let leave = |path| {
        let file = std::fs::File::create(path).unwrap();
        file.set_modified(long_ago).unwrap();
        file
    };
    drop(leave(name("a")));
    let alive = leave(name("b"));
    save(&place.plain(), DOCUMENT).unwrap();
    assert!(!name("a").exists());
    assert!(name("b").exists());
    drop(alive);
    put(&DocumentStore::new(place.plain()), app_token());
    assert!(!name("b").exists());
}
