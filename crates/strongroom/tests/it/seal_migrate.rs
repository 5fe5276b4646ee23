//! Keeping a document otherwise: nothing is lost, whatever goes wrong, and the old one goes only when the new one is
//! proven.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use strongroom::CredentialStore as _;
use strongroom::persistence::{self, Kind, Migration, left_over, migrate, remove_lost, rewrite, sealed_with};
use strongroom::{DocumentStore, FilePersistence, KeySelector, Protection, Step, block_on};

use crate::seal_support::{Vault, code, has, in_process, load, put, replace, scopes};
use crate::support::{another_process, mode_of, names_in, set_mode, wait_until};

fn plain(vault: &Vault) -> FilePersistence {
    FilePersistence::new(vault.cache()).unwrap()
}

fn to_sealed(vault: &Vault) -> Migration {
    migrate(vault.cache()).to(Kind::Sealed).key_source(KeySelector::File(vault.key_file()))
}

/// What lies beside the cache, but for locks and keys.
fn files(vault: &Vault) -> Vec<String> {
    let mut names = names_in(vault.folder.path());
    names.retain(|name| name != "keys" && !name.ends_with(".lock"));
    names
}

#[test]
fn plain_text_is_sealed_where_it_is_and_opened_again() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    let before = vault.content();
    let sealed = to_sealed(&vault).run().unwrap();
    assert_eq!((sealed.kind, sealed.protection), ("sealed", Protection::ProvidedKey));
    assert_eq!((sealed.location, sealed.kept), (vault.cache(), None));
    assert!(vault.content().starts_with(b"\x89STRONG\n"));
    assert!(has(vault.sealed(), "a").unwrap());
    assert_eq!(files(&vault), ["cache.bin"], "nothing else is left");

    let opened = migrate(vault.cache()).to(Kind::File).run().unwrap();
    assert_eq!((opened.kind, opened.key_source, opened.protection), ("file", None, Protection::None));
    assert_eq!(vault.content(), before, "byte for byte");
    assert_eq!(mode_of(&vault.cache()), 0o600);
}

#[test]
fn the_old_document_is_kept_if_that_is_wanted() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    let before = vault.content();
    let kept = to_sealed(&vault).keep(true).run().unwrap().kept.unwrap();
    assert!(kept.display().to_string().contains("cache.bin.old-"), "{}", kept.display());
    assert_eq!(std::fs::read(&kept).unwrap(), before);
    assert_eq!(mode_of(&kept), 0o600);
    assert!(has(vault.sealed(), "a").unwrap());
}

#[test]
fn a_sealed_document_gets_another_key_source() {
    let (vault, other) = (Vault::new(), Vault::new());
    put(vault.sealed(), "a").unwrap();
    let source = KeySelector::File(other.key_file());
    let migrated = migrate(vault.cache()).to(Kind::Sealed).key_source(source.clone()).run().unwrap();
    assert_eq!(migrated.key_source, Some(source.to_string()));
    assert_eq!(code(load(&vault.sealed())), "unknown_key");
    let opened = persistence::builder(vault.cache()).key_source(source).build().unwrap();
    assert_eq!(scopes(opened).unwrap(), ["a"]);
}

#[test]
fn a_document_moves_and_what_is_remembered_beside_it_too() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    replace(&*DocumentStore::new(plain(&vault)).state().unwrap(), b"{\"noted\":1}").unwrap();
    let new = vault.folder.path().join("new/place.bin");
    let migrated = to_sealed(&vault).new_location(&new).run().unwrap();
    assert_eq!((&migrated.location, &migrated.kept), (&new, &None));
    assert_eq!(files(&vault), ["new"]);
    let opened = persistence::builder(&new).key_source(KeySelector::File(vault.key_file())).build().unwrap();
    assert_eq!(load(&*DocumentStore::new(&opened).state().unwrap()).unwrap(), b"{\"noted\":1}");
    assert_eq!(scopes(&opened).unwrap(), ["a"]);

    // And back, in place of nothing.
    let back = migrate(&new).to(Kind::File).new_location(vault.cache()).keep(true).run().unwrap();
    assert_eq!(back.kept, Some(new.clone()));
    assert!(new.exists() && has(plain(&vault), "a").unwrap());
}

#[test]
fn what_is_remembered_is_sealed_and_opened_with_its_document() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    replace(&*DocumentStore::new(plain(&vault)).state().unwrap(), b"{\"noted\":1}").unwrap();
    to_sealed(&vault).run().unwrap();
    let state = vault.folder.path().join("cache.bin.state");
    assert!(std::fs::read(&state).unwrap().starts_with(b"\x89STRONG\n"));
    assert_eq!(load(&*DocumentStore::new(vault.sealed()).state().unwrap()).unwrap(), b"{\"noted\":1}");
    migrate(vault.cache()).to(Kind::File).run().unwrap();
    assert_eq!(std::fs::read(&state).unwrap(), b"{\"noted\":1}");
}

#[test]
fn what_cannot_be_done_leaves_everything_as_it_was() {
    let (vault, other) = (Vault::new(), Vault::new());
    assert_eq!(code(to_sealed(&vault).run()), "no_cache");
    put(plain(&vault), "a").unwrap();
    put(plain(&other), "b").unwrap();
    let before = (vault.content(), files(&vault));
    let missing = KeySelector::File(PathBuf::from("/does/not/exist"));
    assert_eq!(code(migrate(vault.cache()).to(Kind::Sealed).key_source(missing).run()), "no_key");
    assert_eq!(code(to_sealed(&vault).min_protection(Protection::OsStore).run()), "protection_too_low");
    assert_eq!(code(to_sealed(&vault).new_location(other.cache()).run()), "location_in_use");
    assert_eq!((vault.content(), files(&vault)), before);
    assert!(has(plain(&other), "b").unwrap());

    put(other.sealed(), "b").unwrap_err();
    to_sealed(&other).run().unwrap();
    std::fs::remove_file(other.key_file()).unwrap();
    let before = (other.content(), files(&other));
    assert_eq!(code(migrate(other.cache()).to(Kind::File).run()), "unknown_key");
    assert_eq!((other.content(), files(&other)), before);
}

#[test]
fn a_document_whose_key_is_lost_is_not_taken_for_an_empty_one() {
    let vault = Vault::new();
    let state = vault.folder.path().join("state");
    std::fs::create_dir(&state).unwrap();
    in_process(&[("STRONGROOM_STATE_DIR", &state)], "put a", &vault.cache());
    std::fs::remove_file(state.join("host.key")).unwrap();
    let before = (vault.content(), files(&vault));
    let said = in_process(&[("STRONGROOM_STATE_DIR", &state)], "migrate", &vault.cache());
    assert!(said.starts_with("key_lost: "), "{said}");
    assert_eq!((vault.content(), files(&vault)), before);
}

#[test]
fn only_a_sealed_document_is_sealed_anew() {
    let vault = Vault::new();
    assert_eq!(code(rewrite(vault.cache(), None)), "no_cache");
    put(plain(&vault), "a").unwrap();
    assert_eq!(code(rewrite(vault.cache(), None)), "not_sealed");
    to_sealed(&vault).run().unwrap();
    let before = vault.content();
    assert_eq!(rewrite(vault.cache(), None).unwrap(), None);
    assert_eq!(vault.content(), before);
    block_on(vault.source().rotate()).unwrap();
    rewrite(vault.cache(), Some(KeySelector::File(vault.key_file()))).unwrap().unwrap();
    assert!(has(vault.sealed(), "a").unwrap());
}

#[test]
fn a_cache_does_not_move_to_where_something_of_it_lies() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    let link = vault.folder.path().join("link.bin");
    std::os::unix::fs::symlink("cache.bin.state", &link).unwrap();
    let (before, beside) = (vault.content(), files(&vault));
    for suffix in [
        ".state",
        ".lock",
        ".flight",
        ".lockfile",
        ".state.lock",
        ".corrupt-20260101T000000Z",
        ".0123456789abcdef0123456789abcdef.tmp",
    ] {
        let side = vault.folder.path().join(format!("cache.bin{suffix}"));
        let _ = std::fs::remove_file(&side);
        assert_eq!(code(to_sealed(&vault).new_location(&side).run()), "location_in_use", "{suffix}");
        assert_eq!((vault.content(), files(&vault)), (before.clone(), beside.clone()), "{suffix}");

        // And the other way round: the side file of the new one is the old one.
        std::fs::write(&side, &before).unwrap();
        set_mode(&side, 0o600);
        std::fs::rename(vault.cache(), vault.folder.path().join("away")).unwrap();
        assert_eq!(code(migrate(&side).to(Kind::File).new_location(vault.cache()).run()), "location_in_use");
        std::fs::rename(vault.folder.path().join("away"), vault.cache()).unwrap();
        assert_eq!(std::fs::read(&side).unwrap(), before);
        std::fs::remove_file(&side).unwrap();
    }
    assert_eq!(code(to_sealed(&vault).new_location(&link).run()), "location_in_use", "through a link");
    assert_eq!(vault.content(), before);
}

/// Stops at the `n`th time that a write comes to a step.
fn at_step(
    n: usize,
    what: impl Fn() + Send + Sync + 'static,
) -> Arc<dyn Fn(Step) -> std::io::Result<()> + Send + Sync> {
    let steps = AtomicUsize::new(0);
    Arc::new(move |_| {
        if steps.fetch_add(1, Ordering::SeqCst) == n {
            what();
        }
        Ok(())
    })
}

#[test]
fn what_a_killed_migration_leaves_is_found_and_swept() {
    // Six steps of the rehearsal and six of the document itself.
    for step in 0..12 {
        let vault = Vault::new();
        put(vault.sealed(), "a").unwrap();
        let status = another_process("seal_migrate::helper_process_killed_at_a_step")
            .env("TEST_CACHE", vault.cache())
            .env("TEST_KEY", vault.key_file())
            .env("TEST_STEP", step.to_string())
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "step {step}: {status}");
        let opened =
            persistence::builder(vault.cache()).key_source(KeySelector::File(vault.key_file())).open();
        assert_eq!(scopes(opened.unwrap()).unwrap(), ["a"], "step {step}");

        let is_part = |name: &String| !name.ends_with(".lock") && name != "cache.bin" && name != "keys";
        let left: Vec<PathBuf> = names_in(vault.folder.path())
            .into_iter()
            .filter(is_part)
            .map(|name| vault.folder.path().join(name))
            .collect();
        assert_eq!(left_over(vault.cache()).unwrap(), left, "step {step}");
        // Nothing is made yet, or all is done.
        assert!([0, 6, 11].contains(&step) || !left.is_empty(), "step {step}");
        for path in &left {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
        if !left.is_empty() {
            let found = persistence::builder(vault.cache()).diagnose();
            let told = found.iter().find(|finding| finding.check == "leftovers").unwrap();
            for path in &left {
                assert!(told.message.contains(path.file_name().unwrap().to_str().unwrap()), "{told:?}");
            }
        }
        let opened =
            persistence::builder(vault.cache()).key_source(KeySelector::File(vault.key_file())).open();
        put(opened.unwrap(), "b").unwrap();
        assert_eq!(left_over(vault.cache()).unwrap(), [""; 0].map(PathBuf::from), "step {step}");
    }
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_killed_at_a_step() {
    let (Some(path), Ok(step)) = (std::env::var_os("TEST_CACHE"), std::env::var("TEST_STEP")) else { return };
    let kill = || {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    };
    let key = KeySelector::File(std::env::var_os("TEST_KEY").unwrap().into());
    let migration = migrate(path).to(Kind::File).from_key_source(key);
    migration.observe_steps(at_step(step.parse().unwrap(), kill)).run().unwrap();
}

#[test]
fn of_a_cache_behind_a_link_everything_lies_beside_the_file_itself() {
    let vault = Vault::new();
    let (real, link) = (vault.folder.path().join("real"), vault.folder.path().join("link.bin"));
    std::fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink("real/cache.bin", &link).unwrap();
    put(FilePersistence::new(&link).unwrap(), "a").unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let (counted, folder) = (Arc::clone(&seen), vault.folder.path().to_owned());
    let observer = Arc::new(move |step| {
        if step == Step::Rename {
            let is_beside_the_link = |name: &String| name.ends_with(".tmp");
            counted.fetch_add(1, Ordering::SeqCst);
            assert!(!names_in(&folder).iter().any(is_beside_the_link));
        }
        Ok(())
    });
    let migration = migrate(&link).to(Kind::Sealed).key_source(KeySelector::File(vault.key_file()));
    let kept = migration.keep(true).observe_steps(observer).run().unwrap().kept.unwrap();
    assert_eq!(seen.load(Ordering::SeqCst), 3, "the rehearsal, the old one and the new one");
    assert_eq!(kept.parent().unwrap().canonicalize().unwrap(), real.canonicalize().unwrap());
    assert_eq!(left_over(&link).unwrap(), [kept]);
    assert!(link.is_symlink());
}

#[test]
fn a_cache_that_a_group_shares_stays_the_groups() {
    use std::os::unix::fs::MetadataExt as _;

    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    let state = vault.folder.path().join("cache.bin.state");
    let shared = FilePersistence::builder(vault.cache()).mode(0o660).build().unwrap();
    replace(&*DocumentStore::new(shared).state().unwrap(), b"{\"noted\":1}").unwrap();
    // Another group than that of this process, where it may give one.
    let group = if rustix::process::geteuid().is_root() { 4711 } else { rustix::process::getegid().as_raw() };
    std::os::unix::fs::chown(vault.cache(), None, Some(group)).unwrap();
    set_mode(&vault.cache(), 0o660);
    let shared = |path: &Path| (mode_of(path), path.metadata().unwrap().gid());
    let expected = (0o660, group);
    let lock = vault.folder.path().join("cache.bin.lock");
    std::fs::remove_file(&lock).unwrap();

    let kept = to_sealed(&vault).keep(true).run().unwrap().kept.unwrap();
    for path in [&vault.cache(), &kept, &state, &lock] {
        assert_eq!(shared(path), expected, "{}", path.display());
    }
    block_on(vault.source().rotate()).unwrap();
    rewrite(vault.cache(), Some(KeySelector::File(vault.key_file()))).unwrap().unwrap();
    assert_eq!((shared(&vault.cache()), shared(&state)), (expected, expected));

    // Nor is it taken from the group by who only finds that its key is not lost.
    let found = remove_lost(vault.cache(), Some(KeySelector::File(vault.key_file())), Duration::ZERO);
    assert_eq!((found.unwrap(), shared(&vault.cache())), (false, expected));

    let new = vault.folder.path().join("new.bin");
    let opening = migrate(vault.cache()).from_key_source(KeySelector::File(vault.key_file()));
    opening.to(Kind::File).new_location(&new).run().unwrap();
    for suffix in ["", ".state", ".lock"] {
        let path = vault.folder.path().join(format!("new.bin{suffix}"));
        assert_eq!(shared(&path), expected, "{}", path.display());
    }

    // What others can use as well is shared by mistake.
    set_mode(&new, 0o664);
    migrate(&new).to(Kind::Sealed).key_source(KeySelector::File(vault.key_file())).run().unwrap();
    assert_eq!(mode_of(&new), 0o600);
}

#[test]
fn an_old_document_stays_where_the_new_one_does_not_open_by_itself() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    let before = vault.content();
    let key = vault.key_file();
    let new = vault.folder.path().join("new.bin");
    // The handle that has written knows the key still; nobody who comes later does.
    let migration = to_sealed(&vault).new_location(&new);
    let lose = at_step(5, move || std::fs::remove_file(&key).unwrap());
    assert_eq!(code(migration.observe_steps(lose).run()), "unknown_key");
    assert_eq!((vault.content(), new.exists()), (before, false));
}

#[test]
fn what_is_no_cache_is_not_made_one() {
    let vault = Vault::new();
    for (content, expected) in [
        (&b"{\"AccessToken\": {\"k"[..], "damaged"),
        (b"{\"client_id\": \"c\", \"client_secret\": \"s\"}", "not_a_token_cache"),
        (b"{\"Account\": \"prod\"}", "not_a_token_cache"),
        (b"\xef\xbb\xbf{}", "byte_order_mark"),
    ] {
        std::fs::write(vault.cache(), content).unwrap();
        assert_eq!(code(to_sealed(&vault).run()), expected);
        let new = vault.folder.path().join("new.bin");
        assert_eq!(code(to_sealed(&vault).new_location(&new).run()), expected);
        assert_eq!((vault.content(), new.exists()), (content.to_vec(), false));
    }
    // One that is written at this moment is waited for: by a peer without locks, which is done when ours is taken.
    let vault = Vault::new();
    std::fs::write(vault.cache(), "{\"AccessToken\": {").unwrap();
    set_mode(&vault.cache(), 0o600);
    let (path, lock) = (vault.cache(), vault.folder.path().join("cache.bin.lock"));
    let writer = std::thread::spawn(move || {
        wait_until("the lock is taken", || lock.exists());
        std::fs::write(path, "{\"AccessToken\": {}}").unwrap();
    });
    to_sealed(&vault).run().unwrap();
    writer.join().unwrap();
    assert_eq!(load(&vault.sealed()).unwrap(), b"{\"AccessToken\": {}}");
}

#[test]
fn what_is_remembered_is_sealed_anew_though_the_document_already_is() {
    let vault = Vault::new();
    put(plain(&vault), "a").unwrap();
    to_sealed(&vault).run().unwrap();
    let state = vault.folder.path().join("cache.bin.state");
    replace(&*DocumentStore::new(vault.sealed()).state().unwrap(), b"{\"noted\":1}").unwrap();
    block_on(vault.source().rotate()).unwrap();
    // A daemon has written the document since, but nothing to remember.
    put(vault.sealed(), "b").unwrap();
    let key = |path: &Path| *sealed_with(path).unwrap().unwrap().key_id();
    put(vault.sealed(), "c").unwrap();
    assert_ne!(key(&vault.cache()), key(&state));
    let selector = Some(KeySelector::File(vault.key_file()));
    assert_eq!(rewrite(vault.cache(), selector.clone()).unwrap(), Some(key(&vault.cache())));
    assert_eq!(key(&vault.cache()), key(&state));
    assert_eq!(load(&*DocumentStore::new(vault.sealed()).state().unwrap()).unwrap(), b"{\"noted\":1}");
    assert_eq!(rewrite(vault.cache(), selector).unwrap(), None);
}
