//! A token that was fetched and cannot be stored: delivered with the reason, served from memory, stored once it can
//! be.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strongroom::{
    AuthenticationResult, ConfidentialClientApplication, DocumentStore, ErrorKind, FilePersistence, Step,
    TokenSource,
};
use strongroom_sts::{Endpoint, Fault};

use crate::client_support::Scene;
use crate::support::{can_mount, is_unprivileged, mount, names_in, set_mode};

/// An application whose cache fails at `step` with an error of this kind for as long as `broken` says.
fn failing(
    scene: &Scene,
    step: Step,
    kind: io::ErrorKind,
    broken: &Arc<AtomicBool>,
) -> ConfidentialClientApplication {
    let broken = Arc::clone(broken);
    observed(
        scene,
        move |now| if now == step && broken.load(Ordering::SeqCst) { Err(kind.into()) } else { Ok(()) },
    )
}

fn observed(
    scene: &Scene,
    observer: impl Fn(Step) -> io::Result<()> + Send + Sync + 'static,
) -> ConfidentialClientApplication {
    let file = FilePersistence::builder(scene.location()).observe_steps(Arc::new(observer)).build().unwrap();
    scene.builder().token_cache(scene.cache_over(DocumentStore::new(file))).build().unwrap()
}

fn force(scene: &Scene, app: &ConfidentialClientApplication) -> AuthenticationResult {
    app.acquire_token_for_client(scene.ready().scope.as_str()).force_refresh(true).blocking().unwrap()
}

/// What must hold while the cache of `app` cannot be written, for this reason.
fn check_unsaved(scene: &Scene, app: &ConfidentialClientApplication, code: &str) -> AuthenticationResult {
    let requests = scene.token_requests();
    let first = scene.acquire(app).unwrap();
    assert_eq!(first.token_source(), TokenSource::IdentityProvider, "{code}");
    let silent = app.acquire_token_silent(scene.ready().scope.as_str()).blocking().unwrap();
    let found = [scene.acquire(app).unwrap(), silent.expect("what is served is found")];
    for result in &found {
        assert_eq!(result.access_token(), first.access_token(), "{code}");
        assert_eq!(result.token_source(), TokenSource::Cache, "{code}");
    }
    for result in [&first, &found[0], &found[1]] {
        let error = result.persistence_error().expect("it says why");
        assert!(!result.is_persisted(), "{code}");
        assert_eq!(error.code(), code, "{error}");
        assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()), "{code}");
    }
    assert_eq!(scene.token_requests(), requests + 1, "{code}: one request, not one for each call");
    let stats = app.token_cache().stats();
    assert_eq!((stats.stored, stats.not_stored, stats.hits_in_memory), (0, 1, 2), "{code}");
    assert_eq!((stats.failed, stats.from_identity_provider), (0, 1), "{code}: the call has not failed");
    first
}

/// What must hold when the cache of `app` can be written again, in the same second too.
fn check_saved(scene: &Scene, app: &ConfidentialClientApplication) {
    let new = force(scene, app);
    assert!(new.is_persisted() && new.persistence_error().is_none());
    for process in [app, &scene.app()] {
        let found = scene.acquire(process).unwrap();
        assert_eq!(found.access_token(), new.access_token());
        assert!(found.is_persisted());
    }
}

#[test]
fn a_full_disk_and_every_other_failure_of_a_write() {
    for (step, kind, code) in [
        (Step::CreateTemporary, io::ErrorKind::StorageFull, "disk_full"),
        (Step::Write, io::ErrorKind::StorageFull, "disk_full"),
        (Step::Write, io::ErrorKind::QuotaExceeded, "disk_full"),
        (Step::Sync, io::ErrorKind::Other, "io_error"),
        (Step::CreateTemporary, io::ErrorKind::PermissionDenied, "permission_denied"),
        (Step::CreateTemporary, io::ErrorKind::ReadOnlyFilesystem, "read_only"),
        (Step::Rename, io::ErrorKind::ResourceBusy, "mounted_alone"),
    ] {
        let scene = Scene::new();
        let broken = Arc::new(AtomicBool::new(true));
        let app = failing(&scene, step, kind, &broken);
        let first = check_unsaved(&scene, &app, code);
        assert_eq!(first.persistence_error().unwrap().kind(), ErrorKind::Storage, "{code}");
        assert!(!scene.location().exists(), "{code}");
        let left = names_in(scene.folder());
        assert!(left.iter().all(|name| !name.ends_with(".tmp")), "{left:?}");
        broken.store(false, Ordering::SeqCst);
        check_saved(&scene, &app);
    }
}

#[test]
fn what_was_in_the_cache_stays_there_and_is_still_served() {
    let scene = Scene::new();
    let old = scene.token().unwrap();
    let before = std::fs::read(scene.location()).unwrap();
    let broken = Arc::new(AtomicBool::new(true));
    let app = failing(&scene, Step::Write, io::ErrorKind::StorageFull, &broken);
    scene.clock.advance(1);
    let new = force(&scene, &app);
    assert!(!new.is_persisted());
    assert_eq!(
        scene.acquire(&app).unwrap().access_token(),
        new.access_token(),
        "the newer one is served here"
    );
    assert_eq!(scene.token().unwrap().access_token(), old.access_token(), "and the stored one elsewhere");
    assert_eq!(std::fs::read(scene.location()).unwrap(), before);

    // What another process stores later is newer still.
    scene.clock.advance(1);
    let others = force(&scene, &scene.app());
    let found = scene.acquire(&app).unwrap();
    assert_eq!(found.access_token(), others.access_token());
    assert!(found.is_persisted());
}

#[test]
fn a_token_in_memory_ends_like_any_other() {
    let scene = Scene::new();
    let broken = Arc::new(AtomicBool::new(true));
    let app = failing(&scene, Step::Write, io::ErrorKind::StorageFull, &broken);
    let first = scene.acquire(&app).unwrap();
    scene.clock.advance(first.expires_in() - 300);
    let second = scene.acquire(&app).unwrap();
    assert_eq!(second.token_source(), TokenSource::IdentityProvider);
    assert_ne!(second.access_token(), first.access_token());
    let stats = app.token_cache().stats();
    assert_eq!((stats.misses_expired, stats.not_stored, scene.token_requests()), (1, 2, 2));
}

#[test]
fn tokens_in_memory_are_kept_apart_and_bounded() {
    let scene = Scene::new();
    let file = FilePersistence::builder(scene.location())
        .observe_steps(Arc::new(|_| Err(io::ErrorKind::StorageFull.into())))
        .build()
        .unwrap();
    let store = DocumentStore::new(file);
    // The sample provider's tokens take about three kilobytes each: some have room, twenty have not.
    let cache = strongroom::TokenCache::builder(store).clock(scene.clock.clone()).l1_bytes(20_000).build();
    let app = scene.builder().token_cache(cache).build().unwrap();
    let ask =
        |n: u32| app.acquire_token_for_client(format!("api://{n}/.default").as_str()).blocking().unwrap();
    let tokens: Vec<_> = (0..20).map(ask).collect();
    let newest = ask(19);
    assert_eq!(newest.token_source(), TokenSource::Cache);
    assert_eq!(newest.access_token(), tokens[19].access_token());
    assert_eq!(ask(18).access_token(), tokens[18].access_token());
    assert_eq!(ask(0).token_source(), TokenSource::IdentityProvider, "the oldest have gone");
    assert_eq!(scene.token_requests(), 21);
}

#[test]
fn a_lock_that_another_program_holds_past_the_deadline() {
    let scene = Scene::new();
    let path = scene.folder().join("token_cache.bin.lockfile");
    std::fs::write(&path, "4711 python daemon.py").unwrap();
    let held = std::fs::File::open(&path).unwrap();
    held.lock().unwrap();
    let file = FilePersistence::new(scene.location()).unwrap();
    let store = DocumentStore::builder(file).lock_timeout(Duration::from_millis(50)).build();
    let app = scene.builder().token_cache(scene.cache_over(store)).build().unwrap();
    let first = check_unsaved(&scene, &app, "locked");
    let error = first.persistence_error().unwrap();
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.is_retryable() && error.to_string().contains("process 4711 (python daemon.py)"), "{error}");
    assert!(error.remedy().unwrap().contains("4711"));
    assert!(!scene.location().exists());

    std::fs::remove_file(&path).unwrap();
    drop(held);
    check_saved(&scene, &app);
}

#[test]
fn a_document_that_others_change_each_time() {
    let scene = Scene::new();
    let (path, quiet) = (scene.location(), Arc::new(AtomicBool::new(false)));
    let is_quiet = Arc::clone(&quiet);
    let count = std::sync::atomic::AtomicUsize::new(0);
    let app = observed(&scene, move |step| {
        if step == Step::Compare && !is_quiet.load(Ordering::SeqCst) {
            std::fs::write(&path, format!("{{{}}}", " ".repeat(count.fetch_add(1, Ordering::SeqCst))))?;
        }
        Ok(())
    });
    let first = check_unsaved(&scene, &app, "contended");
    let error = first.persistence_error().unwrap();
    assert!(error.kind() == ErrorKind::Contended && error.is_retryable(), "{error}");
    quiet.store(true, Ordering::SeqCst);
    check_saved(&scene, &app);
}

#[test]
fn a_failure_to_store_is_told_to_all_who_shared_the_request() {
    let scene = Scene::new();
    let broken = Arc::new(AtomicBool::new(true));
    let app = failing(&scene, Step::Write, io::ErrorKind::StorageFull, &broken);
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    let scope = scene.ready().scope.as_str();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let call = app.acquire_token_for_client(scope);
            std::thread::spawn(|| call.blocking())
        })
        .collect();
    scene.wait_for(|stats| stats.held == 1);
    scene.sts.clear_faults();
    for call in calls {
        let result = call.join().unwrap().unwrap();
        assert_eq!(result.persistence_error().map(strongroom::Error::code), Some("disk_full"));
    }
    assert_eq!(scene.token_requests(), 1);
}

#[test]
fn a_damaged_document_that_cannot_be_moved_aside_costs_nobody_the_token() {
    let scene = Scene::new();
    std::fs::write(scene.location(), "{ torn").unwrap();
    let lock = scene.folder().join("token_cache.bin.lockfile");
    std::fs::write(&lock, "4711 python").unwrap();
    let held = std::fs::File::open(&lock).unwrap();
    held.lock().unwrap();
    let file = FilePersistence::new(scene.location()).unwrap();
    let store = DocumentStore::builder(file).lock_timeout(Duration::from_millis(50)).build();
    let app = scene.builder().token_cache(scene.cache_over(store)).build().unwrap();
    let result = scene.acquire(&app).unwrap();
    assert_eq!(result.persistence_error().unwrap().code(), "locked");
    assert_eq!(scene.acquire(&app).unwrap().access_token(), result.access_token());
    assert_eq!(std::fs::read(scene.location()).unwrap(), b"{ torn");
    assert_eq!(scene.token_requests(), 1);
}

#[test]
fn a_read_only_file_system() {
    if !can_mount("unsaved_tokens::a_read_only_file_system") {
        return;
    }
    let scene = Scene::new();
    let folder = tempfile::tempdir().unwrap();
    let _mount = mount(&["-t", "tmpfs", "-o", "ro", "tmpfs"], folder.path()).unwrap();
    check_unsaved(&scene, &app_at(&scene, folder.path()), "read_only");
}

fn app_at(scene: &Scene, folder: &Path) -> ConfidentialClientApplication {
    let file = FilePersistence::new(folder.join("cache.bin")).unwrap();
    scene.builder().token_cache(scene.cache_over(DocumentStore::new(file))).build().unwrap()
}

/// What an ordinary user meets. The part `permissions` of `./test` runs these.
mod unprivileged {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_written() {
        if !is_unprivileged("unsaved_tokens::unprivileged::a_folder_that_cannot_be_written") {
            return;
        }
        let scene = Scene::new();
        let folder = scene.folder().join("folder");
        std::fs::create_dir(&folder).unwrap();
        set_mode(&folder, 0o500);
        let app = app_at(&scene, &folder);
        check_unsaved(&scene, &app, "permission_denied");
        set_mode(&folder, 0o700);
        assert!(force(&scene, &app).is_persisted());
        let found = scene.acquire(&app_at(&scene, &folder)).unwrap();
        assert_eq!(found.token_source(), TokenSource::Cache);
    }
}
