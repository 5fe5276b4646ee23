//! A write leaves the old document or the new one, whatever happens at whichever step.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use strongroom::{
    Credential, CredentialStore as _, DocumentStore, Error, Fence, FilePersistence, Loaded, Persistence as _,
    Revision, Saved, SecretBytes, Step, block_on,
};

use crate::schema_support::{app_token, change};
use crate::stores::{for_scope, put, secret};
use crate::support::{another_process, mode_of, names_in};

const STEPS: [Step; 6] =
    [Step::CreateTemporary, Step::Write, Step::Sync, Step::Compare, Step::Rename, Step::SyncDirectory];

const OLD: &[u8] = b"the old document";
const NEW: &[u8] = b"the new document, which is longer than the old one";

fn with_observer(
    path: &Path,
    observer: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static,
) -> FilePersistence {
    FilePersistence::builder(path).observe_steps(Arc::new(observer)).build().unwrap()
}

fn load(persistence: &FilePersistence) -> Loaded {
    block_on(persistence.load()).unwrap()
}

fn save(persistence: &FilePersistence, bytes: &[u8], expected: &Revision) -> Result<Saved, Error> {
    block_on(persistence.save(&SecretBytes::from(bytes.to_vec()), expected, &Fence::open()))
}

fn document(directory: &Path) -> PathBuf {
    let path = directory.join("cache.bin");
    std::fs::write(&path, OLD).unwrap();
    path
}

#[test]
fn the_steps_come_in_the_order_that_makes_a_write_durable() {
    let directory = tempfile::tempdir().unwrap();
    let path = document(directory.path());
    let steps = Arc::new(Mutex::new(Vec::new()));
    let recorder = Arc::clone(&steps);
    let (seen_path, folder) = (path.clone(), directory.path().to_owned());
    let persistence = with_observer(&path, move |step| {
        let temporary =
            names_in(&folder).into_iter().filter(|name| name.ends_with(".tmp")).collect::<Vec<_>>();
        recorder.lock().unwrap().push((step, std::fs::read(&seen_path).unwrap() == NEW));
        let is_there = !matches!(step, Step::CreateTemporary | Step::SyncDirectory);
        assert_eq!(temporary.len(), usize::from(is_there), "{step:?}");
        for name in temporary {
            assert_eq!(mode_of(&folder.join(&name)), 0o600, "{step:?}");
            if matches!(step, Step::Sync | Step::Compare | Step::Rename) {
                assert_eq!(std::fs::read(folder.join(&name)).unwrap(), NEW, "{step:?}");
            }
        }
        Ok(())
    });
    let revision = load(&persistence).revision;
    let saved = save(&persistence, NEW, &revision).unwrap();
    let expected: Vec<_> = STEPS.into_iter().map(|step| (step, step == Step::SyncDirectory)).collect();
    assert_eq!(*steps.lock().unwrap(), expected, "write < fsync < rename < fsync of the directory < return");
    let Saved::Saved(revision) = saved else { panic!("{saved:?}") };
    assert!(persistence.is_current(&revision).unwrap());
    assert_eq!(load(&persistence).bytes.expose(), NEW);
}

#[test]
fn an_error_at_any_step_leaves_a_whole_document_and_no_temporary_file() {
    for failing in STEPS {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other, io::ErrorKind::ResourceBusy] {
            let directory = tempfile::tempdir().unwrap();
            let path = document(directory.path());
            let persistence =
                with_observer(&path, move |step| if step == failing { Err(kind.into()) } else { Ok(()) });
            let revision = load(&persistence).revision;
            let error = save(&persistence, NEW, &revision).unwrap_err();
            let code = match kind {
                io::ErrorKind::StorageFull => "disk_full",
                io::ErrorKind::ResourceBusy if failing == Step::Rename => "mounted_alone",
                _ => "io_error",
            };
            assert_eq!(error.code(), code, "{failing:?}");
            assert!(error.remedy().is_some());
            // The new name is there, only its durability is not certain.
            let expected = if failing == Step::SyncDirectory { NEW } else { OLD };
            assert_eq!(std::fs::read(&path).unwrap(), expected, "{failing:?}");
            assert_eq!(names_in(directory.path()), ["cache.bin"], "{failing:?}");
            assert_eq!(persistence.is_current(&revision).unwrap(), expected == OLD, "{failing:?}");
        }
    }
}

#[test]
fn a_process_killed_at_any_step_leaves_the_old_document_or_the_new_and_hinders_nobody() {
    for (index, step) in STEPS.into_iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let path = document(directory.path());
        let status = another_process("atomic::helper_process_killed_at_a_step")
            .env("STRONGROOM_TEST_PATH", &path)
            .env("STRONGROOM_TEST_STEP", index.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{step:?}: {status}");
        let expected = if step == Step::SyncDirectory { NEW } else { OLD };
        assert_eq!(std::fs::read(&path).unwrap(), expected, "{step:?}");

        // What it left is not in the way, and is left alone while it may belong to a living writer.
        let left: Vec<_> =
            names_in(directory.path()).into_iter().filter(|name| name.ends_with(".tmp")).collect();
        let leaves = !matches!(step, Step::CreateTemporary | Step::SyncDirectory);
        assert_eq!(left.len(), usize::from(leaves), "{step:?}");
        let next = FilePersistence::new(&path).unwrap();
        let revision = load(&next).revision;
        assert!(matches!(save(&next, b"next", &revision).unwrap(), Saved::Saved(_)));
        assert_eq!(names_in(directory.path()).len(), 1 + left.len(), "{step:?}");

        // A minute later the next writer sweeps it.
        for name in &left {
            let file = std::fs::File::options().write(true).open(directory.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
        let next = FilePersistence::new(&path).unwrap();
        let revision = load(&next).revision;
        assert!(matches!(save(&next, b"later", &revision).unwrap(), Saved::Saved(_)));
        assert_eq!(names_in(directory.path()), ["cache.bin"], "{step:?}");
        assert_eq!(load(&next).bytes.expose(), b"later");
    }
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_killed_at_a_step() {
    let (Some(path), Ok(step)) =
        (std::env::var_os("STRONGROOM_TEST_PATH"), std::env::var("STRONGROOM_TEST_STEP"))
    else {
        return;
    };
    let fatal = STEPS[step.parse::<usize>().unwrap()];
    let persistence = with_observer(Path::new(&path), move |step| {
        if step == fatal {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL)?;
        }
        Ok(())
    });
    let revision = load(&persistence).revision;
    let _ = save(&persistence, NEW, &revision);
    unreachable!("killed at {fatal:?}");
}

#[test]
fn only_temporary_files_of_this_document_are_swept_and_none_of_a_living_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = document(directory.path());
    let random = "0123456789abcdef0123456789abcdef";
    let others = [
        format!("other.bin.{random}.tmp"),
        "cache.bin.tmp".to_owned(),
        "cache.bin.notes.tmp".to_owned(),
        format!("cache.bin.{random}.tmp.bak"),
    ];
    let mine = format!("cache.bin.{random}.tmp");
    let living = format!("cache.bin.{}.tmp", random.replace('0', "f"));
    for name in others.iter().chain([&mine, &living]) {
        let file = std::fs::File::create(directory.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
    }
    let writer = std::fs::File::open(directory.path().join(&living)).unwrap();
    writer.try_lock().unwrap();

    let persistence = FilePersistence::new(&path).unwrap();
    let revision = load(&persistence).revision;
    save(&persistence, NEW, &revision).unwrap();
    let names = names_in(directory.path());
    assert!(!names.contains(&mine), "{names:?}");
    assert!(names.contains(&living) && others.iter().all(|name| names.contains(name)), "{names:?}");
}

#[test]
fn a_lock_that_is_lost_before_the_rename_is_a_conflict_and_nothing_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = document(directory.path());
    let lost = Arc::new(AtomicBool::new(false));
    let loses = Arc::clone(&lost);
    let persistence = with_observer(&path, move |step| {
        if step == Step::Compare {
            loses.store(true, Ordering::SeqCst);
        }
        Ok(())
    });
    let revision = load(&persistence).revision;
    let still_ours = || !lost.load(Ordering::SeqCst);
    let new = SecretBytes::from(NEW.to_vec());
    let saved = block_on(persistence.save(&new, &revision, &Fence::new(&still_ours))).unwrap();
    assert!(matches!(saved, Saved::Conflict));
    assert_eq!(std::fs::read(&path).unwrap(), OLD);
    assert_eq!(names_in(directory.path()), ["cache.bin"]);
    assert!(persistence.is_current(&revision).unwrap());
}

#[test]
fn while_a_writer_syncs_the_directory_the_next_one_writes_on_what_it_wrote() {
    let token = |scope| change().put(Credential::AccessToken(for_scope(scope)));
    let (first, second) = ("api://first/.default", "api://second/.default");
    for error in [None, Some(io::ErrorKind::Other)] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.bin");
        let (folder, document, others) =
            (directory.path().to_owned(), path.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&others);
        let observer = move |step| {
            if step != Step::SyncDirectory || counted.fetch_add(1, Ordering::SeqCst) > 0 {
                return Ok(());
            }
            assert!(!names_in(&folder).contains(&"cache.bin.lockfile".to_owned()), "peers have to wait");
            let other = FilePersistence::new(&document).unwrap();
            let other = DocumentStore::builder(other).lock_timeout(Duration::ZERO).build();
            block_on(other.apply(&token(second))).expect("the lock is free");
            error.map_or(Ok(()), |kind| Err(kind.into()))
        };
        let store = DocumentStore::new(with_observer(&path, observer));
        let written = block_on(store.apply(&token(first)));
        assert_eq!(written.err().map(|error| error.code().to_owned()), error.map(|_| "io_error".into()));
        assert_eq!(others.load(Ordering::SeqCst), 1);
        // The writer remembers what was there before the other one, and does not take it for the newest.
        for scope in [first, second] {
            assert_eq!(secret(&store, &for_scope(scope)).as_deref(), Some(scope), "{error:?}");
        }
        put(&store, app_token());
        assert_eq!(block_on(store.read(|document| document.entries().count())).unwrap().1, 3);
    }
}

#[test]
fn a_peer_that_truncates_and_rewrites_until_the_last_moment_is_a_conflict() {
    const PEER: &[u8] = b"the peer's new s"; // as long as the old one
    assert_eq!(PEER.len(), OLD.len());
    for at in [Step::CreateTemporary, Step::Write, Step::Sync, Step::Compare] {
        for content in [PEER, b"", b"{}"] {
            let directory = tempfile::tempdir().unwrap();
            let path = document(directory.path());
            let peer = path.clone();
            let persistence = with_observer(&path, move |step| {
                if step == at {
                    let modified = std::fs::metadata(&peer)?.modified()?;
                    std::fs::write(&peer, content)?;
                    std::fs::File::options().write(true).open(&peer)?.set_modified(modified)?;
                }
                Ok(())
            });
            let revision = load(&persistence).revision;
            assert!(matches!(save(&persistence, NEW, &revision).unwrap(), Saved::Conflict), "{at:?}");
            assert_eq!(std::fs::read(&path).unwrap(), content, "{at:?}");
            assert_eq!(names_in(directory.path()), ["cache.bin"], "{at:?}");
            // The change, applied again to what the peer wrote, is stored.
            let loaded = load(&persistence);
            assert_eq!(loaded.bytes.expose(), content);
        }
    }
}

#[test]
fn a_document_that_appears_at_the_last_moment_is_not_overwritten() {
    for at in [Step::Sync, Step::Rename] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cache.bin");
        let peer = path.clone();
        let persistence = with_observer(&path, move |step| {
            if step == at {
                std::fs::write(&peer, "the peer's")?;
            }
            Ok(())
        });
        let revision = load(&persistence).revision;
        assert!(matches!(save(&persistence, NEW, &revision).unwrap(), Saved::Conflict), "{at:?}");
        assert_eq!(std::fs::read(&path).unwrap(), b"the peer's");
        assert_eq!(names_in(directory.path()), ["cache.bin"]);
    }
}

#[test]
fn readers_beside_a_writer_see_whole_documents_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    let writer = FilePersistence::new(&path).unwrap();
    let Saved::Saved(mut revision) = save(&writer, &[b'a'; 100_000], &Revision::absent()).unwrap() else {
        panic!("nobody else writes")
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let reader = FilePersistence::new(&path).unwrap();
                while !done.load(Ordering::SeqCst) {
                    let loaded = load(&reader);
                    let bytes = loaded.bytes.expose();
                    assert_eq!(bytes.len(), 100_000);
                    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixture of two documents");
                }
            });
        }
        for round in 0..100_u8 {
            match save(&writer, &[b'a' + round % 26; 100_000], &revision).unwrap() {
                Saved::Saved(next) => revision = next,
                Saved::Conflict => panic!("nobody else writes"),
            }
        }
        done.store(true, Ordering::SeqCst);
    });
}
