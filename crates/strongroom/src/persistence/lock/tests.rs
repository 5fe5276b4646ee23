#![allow(clippy::disallowed_methods)]

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use super::*;
use crate::persistence::{Fence, FilePersistence, MemoryPersistence, Saved};
use crate::{ErrorKind, SecretBytes, block_on};

#[path = "../../../tests/it/support.rs"]
mod support;

use support::{Process, another_process, is_root, is_unprivileged, mode_of, names_in, set_mode, wait_until};

const OTHER: &str = "persistence::lock::tests::helper_process_that_locks";
const SHORT: Duration = Duration::from_millis(60);
const LONG: Duration = Duration::from_secs(60);
/// Far less than [`LONG`], far more than a busy machine takes.
const SOON: Duration = Duration::from_secs(20);

struct Place {
    directory: tempfile::TempDir,
    document: PathBuf,
    paths: LockPaths,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let document = directory.path().join("cache.bin");
        let paths = LockPaths::of(&FilePersistence::new(&document).unwrap());
        Self { directory, document, paths }
    }

    fn lockfile(&self) -> PathBuf {
        access::with_suffix(&self.document, ".lockfile")
    }

    fn our_file(&self) -> PathBuf {
        access::with_suffix(&self.document, ".lock")
    }

    fn acquire(&self, timeout: Duration) -> Result<DocumentLock, Error> {
        block_on(DocumentLock::acquire(&self.paths, timeout))
    }

    /// Acquires with an ample timeout and says how long that took.
    fn time_to_acquire(&self) -> Duration {
        let began = Instant::now();
        let lock = self.acquire(LONG).unwrap();
        assert!(lock.still_held());
        began.elapsed()
    }

    fn leave_lockfile(&self, content: &[u8], age: Duration) {
        std::fs::write(self.lockfile(), content).unwrap();
        let file = File::options().write(true).open(self.lockfile()).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    /// Another process that holds a lock as `how` says until it is told to end.
    fn other(&self, how: &str, argument: &str) -> Process {
        let mut command = another_process(OTHER);
        command.env("STRONGROOM_TEST_HOW", how).env("STRONGROOM_TEST_ARGUMENT", argument);
        command.env("STRONGROOM_TEST_PATH", &self.document);
        let mut process = Process::start(&mut command);
        process.wait_for("ready");
        process
    }
}

/// The number of a process that is dead.
fn dead_pid() -> u32 {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    child.id()
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_locks() {
    let Some(path) = std::env::var_os("STRONGROOM_TEST_PATH") else { return };
    let argument = std::env::var("STRONGROOM_TEST_ARGUMENT").unwrap();
    let document = PathBuf::from(path);
    let paths = LockPaths::of(&FilePersistence::new(&document).unwrap());
    let ready_and_wait = || {
        println!("ready");
        let _ = io::stdin().read_to_end(&mut Vec::new());
    };
    match std::env::var("STRONGROOM_TEST_HOW").unwrap().as_str() {
        "flock" => {
            let path = access::with_suffix(&document, ".lockfile");
            let mut file = File::options().create(true).truncate(false).write(true).open(&path).unwrap();
            file.try_lock().unwrap();
            file.write_all(argument.replace("PID", &std::process::id().to_string()).as_bytes()).unwrap();
            ready_and_wait();
        }
        "azd" => {
            let path = access::with_suffix(&document, ".lock");
            let file = File::options().create(true).truncate(false).write(true).open(&path).unwrap();
            file.try_lock().unwrap();
            ready_and_wait();
        }
        "java" => {
            let path = document.with_file_name(".lockfile");
            let mut file = File::options().create(true).truncate(false).write(true).open(&path).unwrap();
            let locked = rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
            if argument == "in vain" {
                assert!(locked.is_err(), "it is not locked for Java");
            } else {
                locked.unwrap();
                file.write_all(argument.replace("PID", &std::process::id().to_string()).as_bytes()).unwrap();
            }
            ready_and_wait();
        }
        "strongroom" => {
            let lock = block_on(DocumentLock::acquire(&paths, LONG)).unwrap();
            ready_and_wait();
            drop(lock);
        }
        "fork" => {
            let mut lock = Some(block_on(DocumentLock::acquire(&paths.with_java(), LONG)).unwrap());
            let has_none = crate::platform::fork::in_child(|| {
                let lock = lock.take().unwrap();
                let inherited = lock.still_held();
                drop(lock);
                !inherited
            });
            assert!(has_none, "the child has the lock");
            assert!(lock.as_ref().unwrap().still_held());
            ready_and_wait();
        }
        "count" => {
            println!("ready");
            let most = count_in_tasks(&paths, &document, argument.parse().unwrap());
            // One that waits, and perhaps one that has just handed over and is about to end.
            assert!(most <= 2, "{most} threads waited in the kernel");
        }
        how => panic!("unknown way to hold a lock: {how}"),
    }
}

/// Adds one to the number in the file, so slowly that two at a time would lose one. Returns the most threads that
/// were seen waiting in the kernel.
fn count_in_tasks(paths: &LockPaths, counter: &Path, tasks: usize) -> usize {
    let most = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..tasks {
            scope.spawn(|| {
                let lock = block_on(DocumentLock::acquire(paths, LONG)).unwrap();
                let text = std::fs::read_to_string(counter).unwrap_or_default();
                std::thread::yield_now();
                let count = text.parse::<usize>().unwrap_or(0) + 1;
                std::fs::write(counter, count.to_string()).unwrap();
                most.fetch_max(waiting_threads(), Ordering::SeqCst);
                assert!(lock.still_held());
            });
        }
    });
    most.into_inner()
}

/// Threads of this process that wait in the kernel, whichever the path.
fn waiting_threads() -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "strongroom-lock").count()
}

#[test]
fn an_uncontended_lock_is_taken_at_the_first_poll_signed_and_released() {
    let place = Place::new();
    let mut future = pin!(DocumentLock::acquire(&place.paths, Duration::ZERO));
    let Poll::Ready(lock) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("nobody holds the lock")
    };
    let lock = lock.unwrap();
    assert!(lock.still_held());
    for path in [place.lockfile(), place.our_file()] {
        assert_eq!(mode_of(&path), 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let (pid, name) = text.split_once(' ').expect("PID NAME");
        assert_eq!(pid, std::process::id().to_string());
        assert!(name.starts_with("strongroom-"), "{text}");
    }
    assert!(File::open(place.lockfile()).unwrap().try_lock().is_err());
    drop(lock);
    assert_eq!(names_in(place.directory.path()), ["cache.bin.lock"], "ours stays, the peers' is deleted");
    place.acquire(Duration::ZERO).unwrap();
}

#[test]
fn the_future_can_move_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    let place = Place::new();
    is_send(&DocumentLock::acquire(&place.paths, LONG));
}

#[test]
fn the_lock_files_derive_from_the_location_or_from_the_lock_path() {
    let file = FilePersistence::builder("/c/cache.bin").lock_path("/run/peers").build().unwrap();
    let paths = LockPaths::of(&file);
    assert_eq!(paths.ours.as_deref(), Some(Path::new("/c/cache.bin.lock")));
    assert_eq!(paths.peers.as_deref(), Some(Path::new("/run/peers")));
    assert_eq!(side_file(&file, ".state").as_deref(), Some(Path::new("/c/cache.bin.state")));

    #[derive(Debug)]
    struct Keyring(&'static str, MemoryPersistence);
    impl Persistence for Keyring {
        fn load(&self) -> crate::BoxFuture<'_, Result<crate::Loaded, Error>> {
            self.1.load()
        }
        fn save<'a>(
            &'a self,
            bytes: &'a SecretBytes,
            expected: &'a crate::Revision,
            fence: &'a Fence<'a>,
        ) -> crate::BoxFuture<'a, Result<Saved, Error>> {
            self.1.save(bytes, expected, fence)
        }
        fn remove(&self) -> crate::BoxFuture<'_, Result<(), Error>> {
            self.1.remove()
        }
        fn is_current(&self, revision: &crate::Revision) -> Result<bool, Error> {
            self.1.is_current(revision)
        }
        fn lock_path(&self) -> Option<PathBuf> {
            Some(self.0.into())
        }
        fn location(&self) -> Location {
            Location::Item("an item".into())
        }
        fn protection(&self) -> crate::Protection {
            self.1.protection()
        }
        fn kind(&self) -> &'static str {
            "keyring"
        }
    }
    let ours = |lock_path| LockPaths::of(&Keyring(lock_path, MemoryPersistence::new())).ours.unwrap();
    assert_eq!(ours("/c/signal.bin.lockfile"), Path::new("/c/signal.bin.lock"));
    assert_eq!(ours("/c/other"), Path::new("/c/other.lock"));

    let memory = LockPaths::of(&MemoryPersistence::new());
    assert_eq!((&memory.ours, &memory.peers), (&None, &None));
    assert!(block_on(DocumentLock::acquire(&memory, Duration::ZERO)).unwrap().still_held());
}

#[test]
fn a_task_of_this_process_waits_until_the_deadline_and_learns_who_holds_it() {
    let place = Place::new();
    let lock = place.acquire(LONG).unwrap();
    let began = Instant::now();
    let error = place.acquire(SHORT).unwrap_err();
    assert!(began.elapsed() >= SHORT && began.elapsed() < SOON);
    assert_eq!((error.kind(), error.code()), (ErrorKind::Locked, "locked"));
    assert!(error.to_string().contains(&format!("this process, {}", std::process::id())), "{error}");
    drop(lock);
    place.acquire(Duration::ZERO).unwrap();
}

#[test]
fn another_strongroom_process_is_waited_for_in_the_kernel_and_named_at_the_deadline() {
    let place = Place::new();
    let mut other = place.other("strongroom", "");
    for timeout in [Duration::ZERO, SHORT] {
        let began = Instant::now();
        let error = place.acquire(timeout).unwrap_err();
        assert!(began.elapsed() >= timeout && began.elapsed() < SOON);
        let text = error.to_string();
        assert!(text.contains(&format!("held by process {} (strongroom-", other.id())), "{text}");
        assert!(text.contains("cache.bin.lock ") && text.ends_with(" s"), "{text}");
    }
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| place.time_to_acquire());
        wait_until("a thread waits in the kernel", || waiting_threads() > 0);
        other.finish();
        assert!(waiter.join().unwrap() < SOON);
    });
}

#[test]
fn a_holder_that_is_killed_lets_the_next_one_in_at_once() {
    for how in ["strongroom", "flock", "azd"] {
        let place = Place::new();
        let mut other = place.other(how, "PID stub");
        std::thread::scope(|scope| {
            let (began, entered) = std::sync::mpsc::channel();
            let place = &place;
            scope.spawn(move || {
                let _lock = place.acquire(LONG).unwrap();
                began.send(Instant::now()).unwrap();
            });
            assert!(entered.recv_timeout(SHORT).is_err(), "{how}: it is held");
            let killed = Instant::now();
            other.kill();
            let entered = entered.recv().unwrap();
            assert!(entered.duration_since(killed) < Duration::from_secs(4), "{how}");
        });
    }
}

#[test]
fn a_program_that_holds_our_lock_without_signing_is_not_taken_for_the_last_who_signed() {
    let place = Place::new();
    std::fs::write(place.our_file(), format!("{} long-gone", dead_pid())).unwrap();
    let _other = place.other("azd", "");
    let error = place.acquire(SHORT).unwrap_err().to_string();
    assert!(error.contains("another program") && !error.contains("long-gone"), "{error}");
}

#[test]
fn a_lock_that_a_forked_child_drops_stays_its_parents() {
    let place = Place::new();
    let mut parent = place.other("fork", "");
    assert_eq!(place.acquire(SHORT).unwrap_err().code(), "locked");
    let peers = LockPaths { ours: None, ..place.paths.clone() };
    assert_eq!(block_on(DocumentLock::acquire(&peers, SHORT)).unwrap_err().code(), "locked");
    place.other("java", "in vain").finish();
    parent.finish();
    assert!(place.time_to_acquire() < SOON);
}

#[test]
fn a_future_that_is_dropped_leaves_nothing_locked() {
    let place = Place::new();
    let mut context = Context::from_waker(Waker::noop());
    // Behind a task of this process.
    let lock = place.acquire(LONG).unwrap();
    {
        let mut future = pin!(DocumentLock::acquire(&place.paths, LONG));
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    drop(lock);
    place.acquire(Duration::ZERO).unwrap();

    // Behind a process that holds ours: a thread waits in the kernel and is left there.
    let mut other = place.other("strongroom", "");
    {
        let mut future = pin!(DocumentLock::acquire(&place.paths, LONG));
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    other.finish();
    assert!(place.time_to_acquire() < SOON);

    // Behind a peer.
    let mut peer = place.other("flock", "PID peer");
    {
        let mut future = pin!(DocumentLock::acquire(&place.paths, LONG));
        assert!(future.as_mut().poll(&mut context).is_pending());
        assert!(place.our_file().exists());
    }
    peer.finish();
    assert!(place.time_to_acquire() < SOON);
}

#[test]
fn a_waiting_thread_that_was_given_up_serves_the_next_caller_or_gives_the_lock_back() {
    let place = Place::new();
    let mut other = place.other("strongroom", "");
    for _ in 0..5 {
        assert_eq!(place.acquire(Duration::from_millis(5)).unwrap_err().code(), "locked");
    }
    std::thread::scope(|scope| {
        let served = scope.spawn(|| place.time_to_acquire());
        std::thread::yield_now();
        other.finish();
        assert!(served.join().unwrap() < SOON);
    });
    // Nobody waits any more when the lock is granted: it is given back, to other processes as well.
    let mut other = place.other("strongroom", "");
    assert_eq!(place.acquire(Duration::from_millis(5)).unwrap_err().code(), "locked");
    other.finish();
    place.other("strongroom", "").finish();
    assert!(place.time_to_acquire() < SOON);
}

#[test]
fn a_deleted_lock_file_of_ours_does_not_strand_who_waits() {
    let place = Place::new();
    let lock = place.acquire(LONG).unwrap();
    std::fs::remove_file(place.our_file()).unwrap();
    assert!(!lock.still_held());
    drop(lock);

    let mut old = place.other("strongroom", "");
    assert_eq!(place.acquire(Duration::from_millis(5)).unwrap_err().code(), "locked");
    // Our thread waits for the old file now. Another process holds a new one.
    for path in [place.our_file(), place.lockfile()] {
        std::fs::remove_file(path).unwrap();
    }
    let mut new = place.other("strongroom", "");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| place.time_to_acquire());
        std::thread::yield_now();
        new.finish();
        assert!(waiter.join().unwrap() < SOON, "while the old file is still held");
    });
    old.finish();
}

#[test]
fn many_tasks_and_processes_queue_and_none_is_lost() {
    let place = Place::new();
    let mut processes: Vec<_> =
        ["64", "16", "16", "16"].iter().map(|tasks| place.other("count", tasks)).collect();
    processes.iter_mut().for_each(Process::finish);
    assert_eq!(std::fs::read_to_string(&place.document).unwrap(), (64 + 3 * 16).to_string());
    assert_eq!(names_in(place.directory.path()), ["cache.bin", "cache.bin.lock"]);
}

#[test]
fn a_live_kernel_lock_excludes_us_whatever_the_content_until_it_ends() {
    let contents = [
        ("PID python daemon.py", "(python daemon.py)"),
        ("PID NAME\n", "(NAME)"),
        ("{PID} go-tool", "(go-tool)"),
        ("\u{feff}PID dotnet\r\n", "(dotnet)"),
        ("PID", "(MSAL Node)"),
        ("", "another program"),
        ("\u{1}\u{2} garbage", "another program"),
    ];
    for (content, expected) in contents {
        let place = Place::new();
        let mut peer = place.other("flock", content);
        let error = place.acquire(SHORT).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.code(), "locked");
        assert!(text.contains("cache.bin.lockfile ") && text.contains(expected), "{content:?}: {text}");
        assert!(!content.contains("PID") || text.contains(&format!("process {}", peer.id())), "{text}");
        assert!(text.ends_with(" s"), "it says for how long: {text}");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| place.time_to_acquire());
            peer.finish();
            assert!(waiter.join().unwrap() < Duration::from_secs(15), "{content:?}");
        });
        assert_eq!(names_in(place.directory.path()), ["cache.bin.lock"]);
    }
}

#[test]
fn a_left_over_file_of_dead_or_unknown_writers_is_taken_over_at_once() {
    let dead = dead_pid();
    let contents = [
        String::new(),
        format!("{dead}"),
        format!("{dead}\n"),
        format!("{dead} python"),
        format!("{{{dead}}} go"),
        "garbage".into(),
        "{} {".into(),
        "99999999999999999999".into(),
        "0".into(),
        "4294967295 name".into(),
    ];
    for content in contents {
        let place = Place::new();
        place.leave_lockfile(content.as_bytes(), Duration::from_secs(1));
        let lock = place.acquire(Duration::ZERO).unwrap_or_else(|error| panic!("{content:?}: {error}"));
        let signed = std::fs::read_to_string(place.lockfile()).unwrap();
        assert!(signed.starts_with(&format!("{} strongroom-", std::process::id())), "{signed:?}");
        drop(lock);
        assert!(!place.lockfile().exists());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_holder_that_was_killed_and_that_nobody_has_reaped_is_dead() {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pid = child.id();
    let contents = [format!("{pid}"), format!("{pid} python daemon.py")];
    let of_a_living_one = Place::new();
    for content in &contents {
        of_a_living_one.leave_lockfile(content.as_bytes(), Duration::ZERO);
        assert_eq!(of_a_living_one.acquire(Duration::ZERO).unwrap_err().code(), "locked", "{content:?}");
    }
    child.kill().unwrap();
    // It has ended, and stays what it is: a number that the system keeps for its parent.
    let whose = WaitId::Pid(Pid::from_raw(pid.cast_signed()).unwrap());
    waitid(whose, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap().unwrap();
    for content in &contents {
        let place = Place::new();
        place.leave_lockfile(content.as_bytes(), Duration::ZERO);
        place.acquire(Duration::ZERO).unwrap_or_else(|error| panic!("{content:?}: {error}"));
    }
    child.wait().unwrap();
}

#[test]
fn a_live_node_process_is_respected_until_its_file_is_a_minute_old() {
    let mut node = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    for age in [0, 30, 55] {
        let place = Place::new();
        place.leave_lockfile(node.id().to_string().as_bytes(), Duration::from_secs(age));
        let error = place.acquire(SHORT).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} (MSAL Node) for ", node.id())), "{error}");
        assert!(place.lockfile().exists());
    }
    // It lets go: its file vanishes.
    let place = Place::new();
    place.leave_lockfile(node.id().to_string().as_bytes(), Duration::ZERO);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| place.time_to_acquire());
        std::fs::remove_file(place.lockfile()).unwrap();
        assert!(waiter.join().unwrap() < SOON);
    });

    let place = Place::new();
    place.leave_lockfile(node.id().to_string().as_bytes(), Duration::from_secs(61));
    place.acquire(Duration::ZERO).unwrap();

    // It dies.
    let place = Place::new();
    place.leave_lockfile(node.id().to_string().as_bytes(), Duration::ZERO);
    node.kill().unwrap();
    node.wait().unwrap();
    place.acquire(Duration::ZERO).unwrap();
}

#[test]
fn a_live_python_without_a_kernel_lock_is_given_its_five_seconds() {
    let mut python = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let place = Place::new();
    let content = format!("{} daemon.py", python.id());
    place.leave_lockfile(content.as_bytes(), Duration::from_millis(3500));
    let error = place.acquire(SHORT).unwrap_err().to_string();
    assert!(error.contains("(daemon.py)"), "{error}");
    assert!(place.time_to_acquire() < SOON, "the rest of the five seconds");

    place.leave_lockfile(content.as_bytes(), Duration::from_secs(5));
    place.acquire(Duration::ZERO).unwrap();
    python.kill().unwrap();
    python.wait().unwrap();
}

#[test]
fn a_lock_file_that_was_deleted_or_replaced_is_a_conflict_and_the_foreign_one_stays() {
    for replaced in [false, true] {
        let place = Place::new();
        let persistence = FilePersistence::new(&place.document).unwrap();
        let lock = place.acquire(LONG).unwrap();
        let loaded = block_on(persistence.load()).unwrap();
        std::fs::remove_file(place.lockfile()).unwrap();
        if replaced {
            std::fs::write(place.lockfile(), "1").unwrap();
        }
        let still_held = || lock.still_held();
        let fence = Fence::new(&still_held);
        let bytes = SecretBytes::from(b"{}".to_vec());
        let saved = block_on(persistence.save(&bytes, &loaded.revision, &fence)).unwrap();
        assert!(matches!(saved, Saved::Conflict));
        assert!(!place.document.exists());
        drop(lock);
        assert_eq!(place.lockfile().exists(), replaced, "what is not ours is not deleted");
    }
}

#[test]
fn a_lock_path_that_is_no_plain_file_is_refused_and_left_alone() {
    for suffix in [".lock", ".lockfile"] {
        let place = Place::new();
        let path = access::with_suffix(&place.document, suffix);
        let target = place.directory.path().join("target");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert_eq!(place.acquire(LONG).unwrap_err().code(), "unsafe_link");
        std::fs::write(&target, "precious").unwrap();
        assert_eq!(place.acquire(LONG).unwrap_err().code(), "unsafe_link");
        assert_eq!(std::fs::read(&target).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();

        std::fs::create_dir(&path).unwrap();
        assert_eq!(place.acquire(LONG).unwrap_err().code(), "not_a_file");
        std::fs::remove_dir(&path).unwrap();

        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert_eq!(place.acquire(LONG).unwrap_err().code(), "not_a_file");
        std::fs::remove_file(&path).unwrap();
        place.acquire(LONG).unwrap();
    }
}

#[test]
fn a_lock_file_of_another_owner_fails_at_once_and_names_the_owner() {
    let (mut place, owner) = (Place::new(), if is_root() { 65_534 } else { 0 });
    if is_root() {
        std::fs::write(place.lockfile(), "1").unwrap();
        std::os::unix::fs::chown(place.lockfile(), Some(owner), None).unwrap();
    } else {
        // A file of root's that everybody may read.
        place.paths.peers = Some("/etc/passwd".into());
    }
    let began = Instant::now();
    let error = place.acquire(LONG).unwrap_err();
    assert!(began.elapsed() < SOON);
    assert_eq!(error.code(), "wrong_owner");
    assert!(error.to_string().contains(&format!("belongs to user {owner}")), "{error}");
    if is_root() {
        assert_eq!(std::fs::read(place.lockfile()).unwrap(), b"1");
        // Among a group that shares the cache it is a lock file like any other.
        place.paths.mode = 0o660;
        std::fs::remove_file(place.lockfile()).unwrap();
        place.leave_lockfile(b"garbage", LONG);
        std::os::unix::fs::chown(place.lockfile(), Some(owner), None).unwrap();
        place.acquire(Duration::ZERO).unwrap();
    }
}

/// What an ordinary user meets. The part `permissions` of `./test` runs these.
mod unprivileged {
    use super::*;

    #[test]
    fn without_permission_the_lock_fails_at_once_and_says_why() {
        if !is_unprivileged(
            "persistence::lock::unprivileged::without_permission_the_lock_fails_at_once_and_says_why",
        ) {
            return;
        }
        let place = Place::new();
        std::fs::write(place.lockfile(), "1 peer").unwrap();
        set_mode(&place.lockfile(), 0o000);
        let error = place.acquire(LONG).unwrap_err();
        assert_eq!(error.code(), "permission_denied");
        assert!(error.to_string().contains("cache.bin.lockfile"), "{error}");
        std::fs::remove_file(place.lockfile()).unwrap();

        std::fs::remove_file(place.our_file()).unwrap();
        set_mode(place.directory.path(), 0o500);
        let error = place.acquire(LONG).unwrap_err();
        set_mode(place.directory.path(), 0o700);
        assert_eq!((error.code(), error.kind()), ("permission_denied", ErrorKind::Storage));
        assert!(error.to_string().contains("cache.bin.lock"), "{error}");
    }
}

#[test]
fn lock_files_are_made_where_the_first_write_makes_directories() {
    let directory = tempfile::tempdir().unwrap();
    let document = directory.path().join("one/two/cache.bin");
    let paths = LockPaths::of(&FilePersistence::new(&document).unwrap());
    assert!(names_in(directory.path()).is_empty());
    block_on(DocumentLock::acquire(&paths, Duration::ZERO)).unwrap();
    assert_eq!(mode_of(document.parent().unwrap()), 0o700);

    set_mode(document.parent().unwrap(), 0o777);
    let error = block_on(DocumentLock::acquire(&paths, Duration::ZERO)).unwrap_err();
    assert_eq!(error.code(), "unsafe_directory");
}

#[test]
fn the_content_of_every_peers_lock_file_is_understood() {
    let other = |pid, program: Option<&str>| Content::Other { pid, program: program.map(str::to_owned) };
    let cases = [
        ("", Content::Empty),
        (" \n", Content::Empty),
        ("\u{feff}", Content::Empty),
        ("4711", Content::DigitsOnly(Some(4711))),
        ("4711\n", Content::DigitsOnly(Some(4711))),
        ("99999999999", Content::DigitsOnly(None)),
        ("4711 python daemon.py", other(Some(4711), Some("python daemon.py"))),
        ("\u{feff}4711 app\r\n", other(Some(4711), Some("app"))),
        ("{4711} /usr/bin/go tool", other(Some(4711), Some("/usr/bin/go tool"))),
        ("{4711}", other(Some(4711), None)),
        ("4711 \u{1b}[31mred", other(Some(4711), Some("[31mred"))),
        ("-1 x", other(None, None)),
        ("{", other(None, None)),
        ("}{", other(None, None)),
        ("garbage", other(None, None)),
    ];
    for (text, expected) in cases {
        assert_eq!(Content::parse(text.as_bytes()), expected, "{text:?}");
    }
    assert_eq!(Content::parse(b"\xff\xfe\x00"), other(None, None));
}

#[test]
fn on_a_read_only_file_system_the_lock_fails_at_once_and_says_why() {
    if !support::can_mount(
        "persistence::lock::on_a_read_only_file_system_the_lock_fails_at_once_and_says_why",
    ) {
        return;
    }
    let mut place = Place::new();
    for left_over in [false, true] {
        if left_over {
            place.acquire(LONG).unwrap();
            std::fs::write(place.lockfile(), "1 peer").unwrap();
        }
        let at = place.directory.path().to_str().unwrap().to_owned();
        let _mount = if left_over {
            support::mount(&["--bind", "-o", "ro", &at], place.directory.path())
        } else {
            support::mount(&["-t", "tmpfs", "-o", "ro", "tmpfs"], place.directory.path())
        };
        assert_eq!(place.acquire(LONG).unwrap_err().code(), "read_only", "{left_over}");
        // The same where ours is elsewhere.
        let ours = place.paths.ours.take();
        assert_eq!(place.acquire(LONG).unwrap_err().code(), "read_only", "{left_over}");
        place.paths.ours = ours;
    }
}

#[test]
fn tasks_of_one_process_queue_in_the_process() {
    let place = Place::new();
    let held = place.acquire(LONG).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = (0..8).map(|_| Box::pin(DocumentLock::acquire(&place.paths, LONG))).collect();
    for future in &mut waiting {
        assert!(future.as_mut().poll(&mut context).is_pending());
    }
    // Nobody has gone to the kernel: once free, the lock goes to the first that asked, at its next poll.
    drop(held);
    assert!(waiting[1].as_mut().poll(&mut context).is_pending());
    for future in &mut waiting {
        assert!(future.as_mut().poll(&mut context).is_ready());
    }
}

/// As [`Place`], beside programs in Java.
struct JavaPlace(Place);

impl JavaPlace {
    fn new() -> Self {
        let mut place = Place::new();
        place.paths = place.paths.with_java();
        Self(place)
    }

    fn lockfile(&self) -> PathBuf {
        self.0.document.with_file_name(".lockfile")
    }
}

#[test]
fn javas_lock_is_signed_with_the_host_keeps_java_out_and_is_deleted() {
    let place = JavaPlace::new();
    let lock = place.0.acquire(Duration::ZERO).unwrap();
    assert_eq!(mode_of(&place.lockfile()), 0o600);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(std::fs::read_to_string(place.lockfile()).unwrap(), format!("{} {host}", std::process::id()));
    place.0.other("java", "in vain").finish();
    assert!(lock.still_held());
    drop(lock);
    assert_eq!(names_in(place.0.directory.path()), ["cache.bin.lock"]);
    // Nobody who does not share the document with Java takes it.
    let _held = place.0.other("java", "PID host");
    block_on(DocumentLock::acquire(&Place::new().paths, Duration::ZERO)).unwrap();
}

#[test]
fn a_program_in_java_keeps_us_out_until_it_leaves_or_dies() {
    for is_killed in [false, true] {
        let place = JavaPlace::new();
        let mut other = place.0.other("java", "PID some-host");
        for timeout in [Duration::ZERO, SHORT] {
            let error = place.0.acquire(timeout).unwrap_err();
            assert_eq!(error.code(), "locked");
            let text = error.to_string();
            assert!(text.contains(&format!("held by process {} (some-host)", other.id())), "{text}");
            assert!(text.contains("/.lockfile "), "{text}");
        }
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| place.0.time_to_acquire());
            if is_killed {
                other.kill();
            } else {
                other.finish();
            }
            assert!(waiter.join().unwrap() < SOON);
        });
        assert!(!place.lockfile().exists(), "what is left behind keeps Java waiting for six seconds");
    }
}

#[test]
fn javas_lock_file_that_java_deletes_when_it_leaves_is_no_longer_held() {
    let place = JavaPlace::new();
    let lock = place.0.acquire(LONG).unwrap();
    std::fs::remove_file(place.lockfile()).unwrap();
    assert!(!lock.still_held());
    // Another program's by now: it is left alone.
    std::fs::write(place.lockfile(), "1 another").unwrap();
    assert!(!lock.still_held());
    drop(lock);
    assert_eq!(std::fs::read(place.lockfile()).unwrap(), b"1 another");
    let lock = place.0.acquire(Duration::ZERO).unwrap();
    assert!(lock.still_held());
}

#[test]
fn a_file_that_is_called_like_javas_lock_and_is_none_is_neither_overwritten_nor_deleted() {
    let place = JavaPlace::new();
    let too_long = format!("1 {}", "h".repeat(300));
    for content in ["{\"AccessToken\": {}}", "text", "1 a\n2 b\n", "12x", " ", "\0", "-1 host", &too_long] {
        std::fs::write(place.lockfile(), content).unwrap();
        let error = place.0.acquire(Duration::ZERO).unwrap_err();
        assert_eq!(error.code(), "not_a_lock_file", "{content}");
        assert!(error.to_string().contains("/.lockfile is "), "{error}");
        assert!(error.remedy().unwrap().contains("move the file away"));
        assert_eq!(std::fs::read_to_string(place.lockfile()).unwrap(), content);
    }
    for content in ["", "1", "4194304 some-host.example", "17@some-host"] {
        std::fs::write(place.lockfile(), content).unwrap();
        drop(place.0.acquire(Duration::ZERO).unwrap());
        assert!(!place.lockfile().exists());
    }
}

#[test]
fn neither_a_document_nor_its_lock_file_is_javas_lock_file() {
    let place = Place::new();
    let java = place.directory.path().join(".lockfile");
    let builder = FilePersistence::builder(place.directory.path().join("cache.bin")).lock_path(&java);
    for persistence in [FilePersistence::new(&java).unwrap(), builder.build().unwrap()] {
        let paths = LockPaths::of(&persistence);
        let error = block_on(DocumentLock::acquire(&paths.with_java(), LONG)).unwrap_err();
        assert_eq!(error.code(), "not_a_lock_file");
        drop(block_on(DocumentLock::acquire(&paths, LONG)).unwrap());
    }
    assert!(!java.exists());
}

#[test]
fn two_documents_of_one_directory_have_one_lock_of_javas_and_neither_ends_the_others() {
    let place = JavaPlace::new();
    let other = LockPaths::of(&FilePersistence::new(place.0.directory.path().join("other.bin")).unwrap());
    let lock = place.0.acquire(LONG).unwrap();
    for _ in 0..2 {
        let error = block_on(DocumentLock::acquire(&other.with_java(), SHORT)).unwrap_err();
        assert_eq!(error.code(), "locked");
        // Of a lock that belongs to the process this would be the end.
        drop(File::open(place.lockfile()).unwrap());
        place.0.other("java", "in vain").finish();
    }
    drop(lock);
    block_on(DocumentLock::acquire(&other.with_java(), Duration::ZERO)).unwrap();
}

#[test]
fn what_no_peer_reads_has_no_lock_of_javas() {
    let ours = LockPaths::ours(Some("/c/cache.bin.lock".into()), 0o600);
    assert_eq!(ours.with_java(), ours);
    assert_eq!(LockPaths::of(&MemoryPersistence::new()).with_java().java, None);
    let elsewhere = FilePersistence::builder("/c/cache.bin").lock_path("/run/peers").build().unwrap();
    assert_eq!(LockPaths::of(&elsewhere).with_java().java.as_deref(), Some(Path::new("/c/.lockfile")));
}
