//! Single flight on the host, among real processes: `CredentialStore::lead` of a document.

use std::fs::OpenOptions;
use std::future::Future as _;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, lchown, symlink};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use strongroom::{
    AccessTokenRequest, CredentialKey, CredentialStore as _, DocumentStore, Environments, FilePersistence,
    Lead, MemoryStore, Scopes, block_on,
};

use crate::support::{
    Process, another_process, is_root, is_unprivileged, mode_of, names_in, set_mode, skip, wait_until,
};

const HELPER: &str = "flight_host::helper_process_that_leads_or_waits";
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(600);

type Store = DocumentStore<FilePersistence>;

struct Place {
    _directory: tempfile::TempDir,
    document: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let document = directory.path().join("cache.bin");
        Self { _directory: directory, document }
    }

    fn store(&self) -> Store {
        open(&self.document)
    }

    fn flight(&self) -> PathBuf {
        with_suffix(&self.document, ".flight")
    }

    /// Another process that does `how` with the key of this name.
    fn other(&self, how: &str, name: &str) -> Process {
        let mut command = another_process(HELPER);
        command.env("STRONGROOM_TEST_PATH", &self.document);
        command.env("STRONGROOM_TEST_HOW", how).env("STRONGROOM_TEST_KEY", name);
        Process::start(&mut command)
    }

    fn leader(&self, name: &str) -> Process {
        let mut leader = self.other("lead", name);
        leader.wait_for("leads");
        leader
    }

    /// Writes down what happens, as the other processes do.
    fn note(&self, event: &str) {
        note(&self.document, event);
    }

    /// What has happened, in order.
    fn events(&self) -> Vec<String> {
        let text = std::fs::read_to_string(events_of(&self.document)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn wait_for_waiters(&self, many: usize) {
        wait_until(&format!("{many} wait in the kernel"), || self.locks().1 == many);
    }

    /// How many locks of the file are held, and how many are waited for.
    fn locks(&self) -> (usize, usize) {
        let inode = format!(":{}", self.flight().metadata().unwrap().ino());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let of_this_file = locks.lines().filter(|line| line.split(' ').any(|word| word.ends_with(&inode)));
        let (waiting, held): (Vec<_>, Vec<_>) = of_this_file.partition(|line| line.contains("->"));
        (held.len(), waiting.len())
    }
}

fn open(document: &Path) -> Store {
    DocumentStore::new(FilePersistence::new(document).unwrap())
}

fn key(name: &str) -> CredentialKey {
    let scopes: Scopes = [name].into_iter().collect();
    let environments = Environments::of("login.microsoftonline.com");
    AccessTokenRequest::for_app("client", &environments, "tenant", scopes).key().clone()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn events_of(document: &Path) -> PathBuf {
    with_suffix(document, ".events")
}

fn note(document: &Path, event: &str) {
    let mut file = OpenOptions::new().create(true).append(true).open(events_of(document)).unwrap();
    file.write_all(format!("{event}\n").as_bytes()).unwrap();
}

fn lead(store: &Store, name: &str, patience: Duration) -> Lead {
    block_on(store.lead(&key(name), patience))
}

/// What an attempt says at its first poll, if it says anything.
fn at_once(store: &Store, name: &str, patience: Duration) -> Option<Lead> {
    let key = key(name);
    match pin!(store.lead(&key, patience)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(lead) => Some(lead),
        Poll::Pending => None,
    }
}

fn signal(process: u32, signal: Signal) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).unwrap();
    kill_process(process, signal).unwrap();
}

/// The names of those threads of this process that the library has started.
fn own_threads() -> Vec<String> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        threads.filter_map(|thread| std::fs::read_to_string(thread.unwrap().path().join("comm")).ok());
    names.map(|name| name.trim().to_owned()).filter(|name| name.starts_with("strongroom-")).collect()
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_leads_or_waits() {
    let Some(document) = std::env::var_os("STRONGROOM_TEST_PATH").map(PathBuf::from) else { return };
    let (how, name) =
        (std::env::var("STRONGROOM_TEST_HOW").unwrap(), std::env::var("STRONGROOM_TEST_KEY").unwrap());
    let store = open(&document);
    match how.as_str() {
        "lead" => {
            let Lead::Taken(guard) = lead(&store, &name, LONG) else { panic!("somebody else leads") };
            println!("leads");
            wait_for_the_end_of_input();
            note(&document, "the leader is done");
            drop(guard);
        }
        "lead and start a program" => {
            let Lead::Taken(_guard) = lead(&store, &name, LONG) else { panic!("somebody else leads") };
            let mut child = Command::new("sleep").arg("600").spawn().unwrap();
            note(&document, &child.id().to_string());
            println!("leads");
            wait_for_the_end_of_input();
            child.kill().unwrap();
            child.wait().unwrap();
        }
        "wait" => match lead(&store, &name, LONG) {
            Lead::Ended => note(&document, "ended"),
            other => panic!("{other:?}"),
        },
        "give up" => {
            assert!(matches!(lead(&store, &name, Duration::from_millis(100)), Lead::Busy));
            println!("gave up");
        }
        "succeed" => loop {
            match lead(&store, &name, LONG) {
                Lead::Ended => {}
                Lead::Taken(guard) => {
                    note(&document, &format!("+{}", std::process::id()));
                    wait_for_the_end_of_input();
                    note(&document, &format!("-{}", std::process::id()));
                    drop(guard);
                    return;
                }
                other => panic!("{other:?}"),
            }
        },
        "never wait" => {
            assert!(matches!(at_once(&store, &name, Duration::ZERO), Some(Lead::Busy)));
            for name in ["one", "two"] {
                assert!(matches!(at_once(&store, name, LONG), Some(Lead::Taken(_))));
            }
            assert_eq!(own_threads(), [""; 0]);
        }
        "wait for many" => wait_for_many(&document),
        other => panic!("{other}"),
    }
}

fn wait_for_the_end_of_input() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn one_leads_and_the_others_are_told_when_it_is_done() {
    let place = Place::new();
    let mut leader = place.leader("token");
    let mut waiters: Vec<_> = (0..3).map(|_| place.other("wait", "token")).collect();
    place.wait_for_waiters(3);
    assert_eq!(place.events(), [""; 0], "nobody is told before");
    leader.finish();
    for waiter in &mut waiters {
        waiter.finish();
    }
    assert_eq!(place.events(), ["the leader is done", "ended", "ended", "ended"]);
    assert_eq!(place.locks(), (0, 0));
}

#[test]
fn a_leader_that_is_killed_is_succeeded() {
    let place = Place::new();
    let mut leader = place.leader("token");
    let mut waiter = place.other("succeed", "token");
    place.wait_for_waiters(1);
    place.note("the leader is killed");
    leader.kill();
    wait_until("the waiter leads", || place.events().len() == 2);
    waiter.finish();
    let id = waiter.id();
    assert_eq!(place.events(), ["the leader is killed".to_owned(), format!("+{id}"), format!("-{id}")]);
}

#[test]
fn a_leader_that_is_stopped_holds_nobody_up_for_longer_than_their_patience() {
    let place = Place::new();
    let mut leader = place.leader("token");
    signal(leader.id(), Signal::STOP);
    let mut others: Vec<_> = (0..3).map(|_| place.other("give up", "token")).collect();
    for other in &mut others {
        other.wait_for("gave up");
        other.finish();
    }
    assert!(matches!(at_once(&place.store(), "token", Duration::ZERO), Some(Lead::Busy)));
    signal(leader.id(), Signal::CONT);
    leader.finish();
    assert!(matches!(at_once(&place.store(), "token", Duration::ZERO), Some(Lead::Taken(_))));
}

#[test]
fn of_sixteen_processes_one_leads_at_a_time_and_one_succeeds_it() {
    let place = Place::new();
    let mut processes: Vec<_> = (0..16).map(|_| place.other("succeed", "token")).collect();
    for round in 0..16 {
        wait_until("somebody leads", || {
            place.events().iter().filter(|event| event.starts_with('+')).count() > round
        });
        place.wait_for_waiters(15 - round);
        let events = place.events();
        assert_eq!(events.len(), 2 * round + 1, "one leads: {events:?}");
        let leader = events.last().unwrap().strip_prefix('+').unwrap();
        let index = processes.iter().position(|process| process.id().to_string() == leader).unwrap();
        let mut leader = processes.swap_remove(index);
        if round % 2 == 0 {
            place.note(&format!("-{}", leader.id()));
            leader.kill();
        } else {
            leader.finish();
        }
    }
    let mut leading = None;
    for event in place.events() {
        match event.split_at(1) {
            ("+", id) => assert_eq!(leading.replace(id.to_owned()), None, "two lead"),
            (_, id) => assert_eq!(leading.take().as_deref(), Some(id)),
        }
    }
    assert_eq!((leading, place.locks()), (None, (0, 0)));
}

#[test]
fn different_keys_never_wait_for_each_other() {
    let place = Place::new();
    let mut leader = place.leader("slow");
    let store = place.store();
    let held: Vec<_> = (0..100).map(|n| at_once(&store, &n.to_string(), LONG)).collect();
    assert!(held.iter().all(|lead| matches!(lead, Some(Lead::Taken(_)))));
    assert!(matches!(at_once(&store, "slow", Duration::ZERO), Some(Lead::Busy)));
    leader.finish();
}

#[test]
fn stores_of_one_process_exclude_each_other_too() {
    let place = Place::new();
    let (first, second) = (place.store(), place.store());
    let Lead::Taken(guard) = lead(&first, "token", LONG) else { panic!("nobody else leads") };
    assert!(matches!(at_once(&second, "token", Duration::ZERO), Some(Lead::Busy)));
    assert!(matches!(at_once(&first, "token", Duration::ZERO), Some(Lead::Busy)));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| lead(&second, "token", LONG));
        place.wait_for_waiters(1);
        drop(guard);
        assert!(matches!(waiter.join().unwrap(), Lead::Ended));
    });
    assert!(matches!(at_once(&second, "token", Duration::ZERO), Some(Lead::Taken(_))));
}

#[test]
fn a_wait_that_is_cancelled_leaves_nothing_locked() {
    let place = Place::new();
    let mut leader = place.leader("token");
    let store = place.store();
    assert!(at_once(&store, "token", LONG).is_none());
    // Its thread stays, and serves whoever waits next.
    place.wait_for_waiters(1);
    assert!(at_once(&store, "token", LONG).is_none());
    assert!(matches!(lead(&store, "token", Duration::from_millis(20)), Lead::Busy));
    assert_eq!(place.locks(), (1, 1));
    leader.finish();
    wait_until("the lead is free", || {
        matches!(at_once(&store, "token", Duration::ZERO), Some(Lead::Taken(_)))
    });
    assert_eq!(place.locks(), (0, 0));
}

#[test]
fn who_has_no_patience_never_waits_and_who_has_no_need_starts_no_thread() {
    let place = Place::new();
    let mut leader = place.leader("token");
    place.other("never wait", "token").finish();
    leader.finish();
}

#[test]
fn at_most_64_threads_wait_one_for_each_key() {
    let place = Place::new();
    place.other("wait for many", "").finish();
}

fn wait_for_many(document: &Path) {
    let (first, second) = (open(document), open(document));
    let names: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    let mut guards: Vec<_> = names.iter().map(|name| lead(&first, name, Duration::ZERO)).collect();
    // The timer's thread is one more.
    let before = std::fs::read_dir("/proc/self/task").unwrap().count() + 1;
    let waiting = || std::fs::read_dir("/proc/self/task").unwrap().count() - before;
    for name in &names[..64] {
        for _ in 0..3 {
            assert!(at_once(&second, name, LONG).is_none());
        }
    }
    assert_eq!(waiting(), 64);
    assert!(matches!(at_once(&second, &names[64], LONG), Some(Lead::Unavailable)));
    assert!(matches!(at_once(&second, &names[64], Duration::ZERO), Some(Lead::Busy)));
    assert!(at_once(&second, &names[0], LONG).is_none(), "a thread that waits already serves everybody");
    // The wait for one ends, and there is room again.
    guards.remove(0);
    wait_until("a thread has ended", || waiting() == 63);
    assert!(at_once(&second, &names[64], LONG).is_none());
    assert_eq!(waiting(), 64);
    drop(guards);
    wait_until("all threads have ended", || waiting() == 0);
}

#[test]
fn the_file_is_for_the_owner_only_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let document = directory.path().join("new/folder/cache.bin");
    let store = open(&document);
    let Lead::Taken(guard) = lead(&store, "token", LONG) else { panic!("nobody else leads") };
    drop(guard);
    assert_eq!(names_in(document.parent().unwrap()), ["cache.bin.flight"]);
    assert_eq!(mode_of(&with_suffix(&document, ".flight")), 0o600);
    assert_eq!(mode_of(document.parent().unwrap()), 0o700);
}

#[test]
fn a_file_that_somebody_deletes_costs_one_flight_at_most() {
    let place = Place::new();
    let store = place.store();
    let Lead::Taken(_gone) = lead(&store, "token", LONG) else { panic!("nobody else leads") };
    std::fs::remove_file(place.flight()).unwrap();
    let Lead::Taken(_guard) = lead(&store, "token", LONG) else { panic!("the file is another one") };
    assert!(matches!(at_once(&store, "token", Duration::ZERO), Some(Lead::Busy)));
}

#[test]
fn a_link_is_not_followed() {
    let place = Place::new();
    let target = place.document.with_file_name("target");
    symlink(&target, place.flight()).unwrap();
    assert!(matches!(at_once(&place.store(), "token", LONG), Some(Lead::Unavailable)));
    assert!(!target.exists());
    std::fs::write(&target, "precious").unwrap();
    set_mode(&target, 0o644);
    assert!(matches!(at_once(&place.store(), "token", LONG), Some(Lead::Unavailable)));
    assert_eq!((std::fs::read(&target).unwrap(), mode_of(&target)), (b"precious".to_vec(), 0o644));
}

#[test]
fn what_is_no_file_of_ours_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.flight()).unwrap();
    assert!(matches!(at_once(&place.store(), "token", LONG), Some(Lead::Unavailable)));
    std::fs::remove_dir(place.flight()).unwrap();
    if !is_root() {
        return skip("flight_host::what_is_no_file_of_ours_is_refused", "needs root to give a file away");
    }
    std::fs::write(place.flight(), "").unwrap();
    lchown(place.flight(), Some(65_534), None).unwrap();
    assert!(matches!(at_once(&place.store(), "token", LONG), Some(Lead::Unavailable)));
}

#[test]
fn a_program_that_the_leader_has_started_does_not_keep_the_lead() {
    struct Kill(u32);
    impl Drop for Kill {
        fn drop(&mut self) {
            signal(self.0, Signal::KILL);
        }
    }

    let place = Place::new();
    let mut leader = place.other("lead and start a program", "token");
    leader.wait_for("leads");
    let program = Kill(place.events()[0].parse().unwrap());
    leader.kill();
    assert!(matches!(at_once(&place.store(), "token", Duration::ZERO), Some(Lead::Taken(_))));
    assert!(Path::new(&format!("/proc/{}", program.0)).exists(), "it still runs");
}

#[test]
fn where_nothing_is_shared_there_is_no_lead() {
    let store = MemoryStore::new();
    assert!(matches!(block_on(store.lead(&key("token"), LONG)), Lead::Unavailable));
}

mod unprivileged {
    use super::*;

    #[test]
    fn in_a_folder_that_cannot_be_written_there_is_no_lead() {
        if !is_unprivileged("flight_host::unprivileged::in_a_folder_that_cannot_be_written_there_is_no_lead")
        {
            return;
        }
        let place = Place::new();
        let folder = place.document.parent().unwrap();
        set_mode(folder, 0o500);
        assert!(matches!(at_once(&place.store(), "token", LONG), Some(Lead::Unavailable)));
        set_mode(folder, 0o700);
        assert!(matches!(at_once(&place.store(), "token", LONG), Some(Lead::Taken(_))));
        // Nor where the file is there, but not for writing.
        set_mode(&place.flight(), 0o400);
        assert!(matches!(at_once(&place.store(), "token", LONG), Some(Lead::Unavailable)));
    }
}
