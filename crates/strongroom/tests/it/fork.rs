//! A forked child goes on with the objects of its parent: it inherits what the parent knows, and neither its locks
//! nor its threads nor its connections.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use strongroom::{
    AppMetadata, Change, ClientCredential, ConfidentialClientApplication, Credential, CredentialStore as _,
    DocumentStore, FilePersistence, HttpTransport, Outcome, Step, TokenCache, TokenSource, UnixSeconds,
    block_on, fork_for_tests,
};

use crate::client_support::Scene;
use crate::support::{Process, another_process, wait_until};

#[test]
fn parent_and_child_use_one_cache_and_neither_waits_for_what_the_other_is_or_loses_a_token() {
    let scene = Scene::new();
    let elsewhere = lock_file_of(&scene.folder().join("elsewhere"));
    let somebody = std::fs::File::create(elsewhere).unwrap();
    somebody.try_lock().unwrap();
    let mut parent = start("fork::helper_process_whose_child_goes_on", &scene);
    parent.finish();
    let document = scene.document();
    let targets: Vec<_> = document["AccessToken"].as_object().unwrap().values().collect();
    for scope in
        ["api://one/.default", "api://held/.default", "api://child/.default", "api://parent/.default"]
    {
        assert!(targets.iter().any(|token| token["target"] == scope), "{scope} is lost: {targets:#?}");
    }
    assert!(document["AppMetadata"].to_string().contains("a-queued-change"));
    assert_eq!(scene.token_requests(), 4, "one for each token");
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_whose_child_goes_on() {
    let Some(folder) = folder() else { return };
    let (location, elsewhere) = (folder.join("token_cache.bin"), folder.join("elsewhere"));
    let holding = Holding::default();
    let app = application(TokenCache::builder(holding.store(&location)).build());
    let ask = |scope: &str| {
        let result = app.acquire_token_for_client(scope).blocking().unwrap();
        assert!(result.is_persisted(), "{:?}", result.persistence_error());
        result
    };
    let one = ask("api://one/.default");

    // Another process has this lock: a thread of ours is left waiting for it in the kernel.
    let elsewhere = DocumentStore::builder(FilePersistence::new(elsewhere).unwrap())
        .lock_timeout(Duration::from_millis(50))
        .build();
    let change = change();
    let is_locked_elsewhere =
        || block_on(elsewhere.apply(&change)).is_err_and(|error| error.code() == "locked");
    assert!(is_locked_elsewhere());

    std::thread::scope(|scope| {
        // A thread of ours holds the document's lock, a task of ours waits for it.
        let (held, release) = holding.arm();
        let holder = scope.spawn(|| ask("api://held/.default"));
        held.recv().unwrap();
        let same = DocumentStore::new(FilePersistence::new(&location).unwrap());
        let mut queued = same.apply(&change);
        assert!(queued.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());

        let child = Forked::running(|| {
            let found = ask("api://one/.default");
            assert_eq!(
                (found.token_source(), found.access_token()),
                (TokenSource::Cache, one.access_token())
            );
            assert!(is_locked_elsewhere(), "the child has a timer and waits by itself");
            assert_eq!(ask("api://child/.default").token_source(), TokenSource::IdentityProvider);
            assert_eq!(ask("api://child/.default").token_source(), TokenSource::Cache);
            0
        });

        // The child has its token and waits in the kernel for the lock that its parent holds.
        wait_until("the child waits for both locks", || threads_waiting_in_the_kernel(child.0) == 2);
        release.send(()).unwrap();
        holder.join().unwrap();
        assert!(matches!(block_on(queued).unwrap(), Outcome::Applied { .. }));
        // On a connection that the child would have spoilt, had it spoken on it.
        assert_eq!(ask("api://parent/.default").token_source(), TokenSource::IdentityProvider);
        assert_eq!(child.status(), Some(0));
    });
}

#[test]
fn the_lock_of_a_parent_that_is_killed_is_free_at_once_though_its_child_lives() {
    let scene = Scene::new();
    let mut parent = start("fork::helper_process_that_is_killed_with_the_lock", &scene);
    let child: u32 = parent.wait_for("the child is").rsplit(' ').next().unwrap().trim().parse().unwrap();
    let is_alive = || rustix::process::test_kill_process(Pid::from_raw(child.cast_signed()).unwrap()).is_ok();
    let store = DocumentStore::builder(FilePersistence::new(scene.location()).unwrap())
        .lock_timeout(Duration::ZERO)
        .build();
    let change = change();
    assert_eq!(block_on(store.apply(&change)).unwrap_err().code(), "locked");
    let input = parent.take_input();
    parent.kill();
    assert!(is_alive());
    assert!(matches!(block_on(store.apply(&change)).unwrap(), Outcome::Applied { .. }));
    assert!(is_alive());
    drop(input);
    parent.wait_for_all();
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_is_killed_with_the_lock() {
    let Some(folder) = folder() else { return };
    let holding = Holding::default();
    let store = holding.store(&folder.join("token_cache.bin"));
    let (held, _release) = holding.arm();
    std::thread::scope(|scope| {
        scope.spawn(|| block_on(store.apply(&change())));
        held.recv().unwrap();
        let _child = Forked::running(|| {
            // It says so itself: until it goes on it has not closed anything.
            println!("the child is {}", std::process::id());
            let _ = std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new());
            0
        });
        std::thread::park();
    });
}

/// Another process of this binary beside the scene's provider.
fn start(helper: &str, scene: &Scene) -> Process {
    let ready = scene.ready();
    let mut command = another_process(helper);
    command.env("STRONGROOM_TEST_FOLDER", scene.folder());
    command.env("STRONGROOM_TEST_CA", &ready.ca_file).env("STRONGROOM_TEST_AUTHORITY", &ready.authority);
    command
        .env("STRONGROOM_TEST_CLIENT", &ready.client_id)
        .env("STRONGROOM_TEST_SECRET", &ready.client_secret);
    Process::start(&mut command)
}

fn folder() -> Option<PathBuf> {
    std::env::var_os("STRONGROOM_TEST_FOLDER").map(PathBuf::from)
}

fn application(cache: TokenCache) -> ConfidentialClientApplication {
    let [ca, authority, client, secret] = ["CA", "AUTHORITY", "CLIENT", "SECRET"]
        .map(|name| std::env::var(format!("STRONGROOM_TEST_{name}")).unwrap());
    let roots = std::fs::read(ca).unwrap();
    ConfidentialClientApplication::builder(client, authority, ClientCredential::from_secret(secret))
        .instance_discovery(false)
        .transport(HttpTransport::with_extra_roots(&roots).unwrap())
        .token_cache(cache)
        .build()
        .unwrap()
}

/// Stops a writer while it holds the lock.
#[derive(Default)]
struct Holding {
    armed: Arc<AtomicBool>,
    ends: Arc<Mutex<Option<Ends>>>,
}

/// The writer's: to say that it holds the lock, and to learn that it may go on.
type Ends = (mpsc::Sender<()>, mpsc::Receiver<()>);

impl Holding {
    fn store(&self, location: &Path) -> DocumentStore<FilePersistence> {
        let (armed, ends) = (Arc::clone(&self.armed), Arc::clone(&self.ends));
        let observer = move |step| {
            if step == Step::Compare && armed.swap(false, Ordering::SeqCst) {
                let (held, release) = ends.lock().unwrap().take().unwrap();
                held.send(()).unwrap();
                let _ = release.recv();
            }
            Ok(())
        };
        DocumentStore::new(
            FilePersistence::builder(location).observe_steps(Arc::new(observer)).build().unwrap(),
        )
    }

    /// The next writer stops, says so, and waits until it is told to go on.
    fn arm(&self) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
        let (held, is_held) = mpsc::channel();
        let (release, is_released) = mpsc::channel();
        *self.ends.lock().unwrap() = Some((held, is_released));
        self.armed.store(true, Ordering::SeqCst);
        (is_held, release)
    }
}

fn change() -> Change {
    Change::new(UnixSeconds::new(1_700_000_000)).put(Credential::AppMetadata(AppMetadata {
        client_id: "a-queued-change".into(),
        environment: "localhost".into(),
        family_id: None,
    }))
}

fn lock_file_of(location: &Path) -> PathBuf {
    location.with_extension("lock")
}

fn threads_waiting_in_the_kernel(process: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "strongroom-lock").count()
}

/// A forked child, which is killed if it is not waited for.
struct Forked(u32);

impl Forked {
    fn running(child: impl FnOnce() -> i32) -> Self {
        Self(fork_for_tests(child).unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.cast_signed()).unwrap()
    }

    /// Waits for its end.
    fn status(&self) -> Option<i32> {
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::empty()).unwrap().unwrap();
        status.exit_status()
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = kill_process(self.pid(), Signal::KILL);
        }
    }
}
