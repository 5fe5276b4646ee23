//! Many writers of one file at the same time.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use strongroom::{
    ClientCredential, ConfidentialClientApplication, DocumentStore, FilePersistence, HttpTransport,
    TokenCache,
};

use crate::front::Front;
use crate::page;
use crate::peers::Peer;
use crate::support::{Running, World, lines_of};

/// How many processes write, and how many tokens each adds.
#[derive(Clone, Copy)]
struct Crowd {
    peers: usize,
    ours: usize,
    tokens: usize,
    /// What ours are told of the others.
    dialect: Option<&'static str>,
}

const MANY: Crowd = Crowd { peers: 4, ours: 8, tokens: 50, dialect: None };
const FEWER: Crowd = Crowd { peers: 4, ours: 4, tokens: 25, dialect: None };

static ALONE: Mutex<()> = Mutex::new(());

/// How often a process of ours goes on looking.
const PAUSE: Duration = Duration::from_millis(500);
/// How long it waits for the lock.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn beside_four_pythons_eight_processes_that_live_on_lose_none_of_their_tokens() {
    let test = "contention::beside_four_pythons_eight_processes_that_live_on_lose_none_of_their_tokens";
    let contend = |world: &World| contend(world, None, MANY, |scopes| world.gated_python_client(scopes));
    repeatedly(Peer::Python, MANY, test, contend);
}

/// Node takes lock files away that are not its own, and truncates the document in place.
#[test]
fn beside_four_nodes_eight_processes_that_live_on_lose_none_of_their_tokens() {
    let test = "contention::beside_four_nodes_eight_processes_that_live_on_lose_none_of_their_tokens";
    let contend = |world: &World| contend(world, None, MANY, |scopes| world.gated_node_client(scopes));
    repeatedly(Peer::NodeExtensions, MANY, test, contend);
}

/// Go locks what it writes, not what it reads before.
#[test]
fn beside_four_gos_four_processes_that_live_on_lose_none_of_their_tokens() {
    let test = "contention::beside_four_gos_four_processes_that_live_on_lose_none_of_their_tokens";
    repeatedly(Peer::Go, FEWER, test, |world| contend_at_front(world, Peer::Go, FEWER));
}

/// Java's lock is another one, for the whole folder, which is taken for those who say that Java is there.
#[test]
fn beside_four_javas_four_processes_that_live_on_lose_none_of_their_tokens() {
    let test = "contention::beside_four_javas_four_processes_that_live_on_lose_none_of_their_tokens";
    let crowd = Crowd { dialect: Some("python+java"), ..FEWER };
    repeatedly(Peer::Java, crowd, test, |world| contend_at_front(world, Peer::Java, crowd));
}

fn contend_at_front(world: &World, peer: Peer, crowd: Crowd) -> usize {
    let folder = world.folder().join("peer");
    std::fs::create_dir(&folder).unwrap();
    let front = Front::start(&folder, &world.sts);
    contend(world, Some(&front), crowd, |scopes| {
        let mut command = peer.command(&front, &folder);
        command.arg("tokens").arg(world.cache()).args(scopes);
        command
    })
}

/// Contends in a new world each time, and tells what the peers lost.
fn repeatedly(peer: Peer, crowd: Crowd, test: &str, contend: impl Fn(&World) -> usize) {
    let rounds = if std::env::var_os("STRONGROOM_TEST_LONG").is_some() {
        10
    } else if page::is_to_be_written() {
        3
    } else {
        1
    };
    let mut lost = Vec::new();
    for _ in 0..rounds {
        let Some(world) = World::with(peer, test) else { return };
        lost.push(contend(&world));
        report(&format!("{} lost {} of {}", peer.name(), lost[lost.len() - 1], crowd.peers * crowd.tokens));
    }
    if page::is_to_be_written() {
        let Crowd { peers, ours, tokens, .. } = crowd;
        let (least, most) = (lost.iter().min().unwrap(), lost.iter().max().unwrap());
        let range = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let all = peers * tokens;
        page::replace_contention(&format!(
            "| {} | {ours} | {tokens} | {range} of {all} | {rounds} |",
            peer.name()
        ));
    }
}

/// All begin at once; ours go on looking until the last peer has ended. Returns how many tokens the peers lost.
///
/// At the front both sides are the same application to the document; a Go that knows nothing of ours yet would otherwise
/// empty it of all that is ours, which looks like a removal and is put back once only.
fn contend(
    world: &World,
    front: Option<&Front>,
    crowd: Crowd,
    client: impl Fn(&[String]) -> Command,
) -> usize {
    // Two crowds at once would contend for the machine instead.
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (theirs, our_own) =
        (scopes_of("peer", crowd.peers, crowd.tokens), scopes_of("ours", crowd.ours, crowd.tokens));
    let mut peers: Vec<Running> = theirs.iter().map(|scopes| Running::start(&mut client(scopes))).collect();
    let mut ours: Vec<Running> = our_own
        .iter()
        .map(|scopes| Running::start(&mut Orders::command(world, front, crowd.dialect, scopes)))
        .collect();
    peers.iter_mut().chain(&mut ours).for_each(|process| process.wait_for("ready"));
    peers.iter_mut().chain(&mut ours).for_each(Running::go);

    let refused: Vec<String> = std::thread::scope(|threads| {
        let readers: Vec<_> = peers.iter_mut().map(|peer| threads.spawn(|| peer.rest())).collect();
        let lines = readers.into_iter().flat_map(|reader| reader.join().unwrap());
        lines
            .filter(|line| !serde_json::from_str::<Value>(line).is_ok_and(|line| line["error"].is_null()))
            .collect()
    });
    ours.iter_mut().for_each(|process| process.wait_for("added"));
    ours.iter_mut().for_each(Running::end);
    ours.iter_mut().for_each(Running::finish);

    let found = world.targets();
    let missing = |scopes: &[Vec<String>]| -> Vec<String> {
        scopes.iter().flatten().filter(|scope| !found.contains(*scope)).cloned().collect()
    };
    let lost = missing(&theirs).len();
    refused.iter().for_each(|line| report(&format!("a peer failed: {line}")));
    assert_eq!(missing(&our_own), [""; 0], "tokens of ours are not there");
    let names: Vec<String> = std::fs::read_dir(world.folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // Two Nodes that write at the same time leave a document that is none, and a writer of ours sets it aside.
    let set_aside = names.iter().filter(|name| name.contains(".corrupt-")).count();
    report(&format!("torn documents that were set aside: {set_aside}"));
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "left behind: {names:?}");
    lost
}

/// For the log, which libtest keeps the words of a test that passes from.
fn report(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn scopes_of(who: &str, processes: usize, tokens: usize) -> Vec<Vec<String>> {
    let of = |p| (0..tokens).map(|n| format!("api://{who}{p}-{n}/.default")).collect();
    (0..processes).map(of).collect()
}

/// What a process of ours is to do.
#[derive(Serialize, Deserialize)]
struct Orders {
    config: PathBuf,
    cache: PathBuf,
    ca: PathBuf,
    dialect: Option<String>,
    scopes: Vec<String>,
}

impl Orders {
    const VARIABLE: &str = "STRONGROOM_TEST_ORDERS";

    /// This test binary again, as a process that follows these orders.
    fn command(world: &World, front: Option<&Front>, dialect: Option<&str>, scopes: &[String]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([
            "contention::helper_process_that_adds_tokens_and_goes_on_looking",
            "--exact",
            "--ignored",
        ]);
        command.args(["--nocapture", "--test-threads=1"]);
        let ready = world.sts.ready();
        let (mut config, mut ca) = (ready.config_file.clone(), ready.ca_file.clone());
        if let Some(front) = front {
            (config, ca) = (front.config_file.clone(), front.ca_file.clone());
            command.env("HTTPS_PROXY", front.proxy());
        }
        let dialect = dialect.map(str::to_owned);
        let orders = Self { config, cache: world.cache(), ca, dialect, scopes: scopes.to_vec() };
        command.env(Self::VARIABLE, serde_json::to_string(&orders).unwrap());
        command
    }

    fn app(&self) -> ConfidentialClientApplication {
        let config: Value = serde_json::from_slice(&std::fs::read(&self.config).unwrap()).unwrap();
        let text = |name: &str| config[name].as_str().unwrap();
        let secret = ClientCredential::from_secret(text("client_secret"));
        let roots = std::fs::read(&self.ca).unwrap();
        ConfidentialClientApplication::builder(text("client_id"), text("authority"), secret)
            .instance_discovery(false)
            .transport(HttpTransport::with_extra_roots(&roots).unwrap())
            .token_cache(self.cache())
            .build()
            .unwrap()
    }

    fn cache(&self) -> TokenCache {
        // A machine that is busy with much else is not what is tested.
        let store = DocumentStore::builder(FilePersistence::new(&self.cache).unwrap()).lock_timeout(PATIENCE);
        let cache = TokenCache::builder(store.build());
        match &self.dialect {
            Some(dialect) => cache.dialect(dialect.parse().unwrap()).build(),
            None => cache.build(),
        }
    }
}

#[test]
#[ignore = "run by other tests as another process"]
fn helper_process_that_adds_tokens_and_goes_on_looking() {
    let Ok(orders) = std::env::var(Orders::VARIABLE) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let app = orders.app();
    // A message for each line of the standard input; the channel ends with it.
    let (sender, told) = mpsc::channel();
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|_| sender.send(())));
    say("ready");
    told.recv().unwrap();
    for scope in &orders.scopes {
        let result = app.acquire_token_for_client(scope.as_str()).blocking().unwrap();
        assert!(result.is_persisted(), "{scope}: {:?}", result.persistence_error());
    }
    say("added");
    // Nobody erases anything after the last peer has ended, but what it has erased is still to be put back.
    // On a busy machine that is not done in one try: whoever only looks does not wait long for the lock.
    let mut looks_left = 200;
    let mut all_are_there = false;
    while looks_left > 0 && !all_are_there {
        let has_last_ended = match told.recv_timeout(PAUSE) {
            Err(RecvTimeoutError::Disconnected) => {
                looks_left -= 1;
                std::thread::sleep(PAUSE);
                true
            }
            Ok(()) | Err(RecvTimeoutError::Timeout) => false,
        };
        // One that a peer has erased a moment ago may be missing; an error may not be.
        let look = |scope: &&String| app.acquire_token_silent(scope.as_str()).blocking().unwrap().is_some();
        all_are_there = orders.scopes.iter().filter(look).count() == orders.scopes.len() && has_last_ended;
    }
}

fn say(word: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{word}").unwrap();
    stdout.flush().unwrap();
}

#[test]
fn eight_processes_with_twenty_five_tokens_each_lose_none() {
    // Needs no Python to write, but it must be able to read the outcome.
    let Some(world) = World::new("contention::eight_processes_with_twenty_five_tokens_each_lose_none") else {
        return;
    };
    let expected: BTreeSet<String> =
        (0..8).flat_map(|p| (0..25).map(move |n| format!("api://p{p}-{n}/.default"))).collect();
    std::thread::scope(|scope| {
        for p in 0..8 {
            let world = &world;
            scope.spawn(move || {
                for n in 0..25 {
                    let token = world.our_token(Some(&format!("api://p{p}-{n}/.default")));
                    assert_eq!(token["persisted"], true);
                }
            });
        }
    });
    assert_eq!(world.targets(), expected);
    assert_eq!(world.sts.stats().token, 200);
    let scopes: Vec<String> = expected.into_iter().collect();
    let theirs = lines_of(&mut world.python_client(&scopes));
    assert!(theirs.iter().all(|line| line["source"] == "cache"));
}

#[test]
fn beside_python_that_writes_too_all_of_our_tokens_are_there() {
    let Some(world) = World::new("contention::beside_python_that_writes_too_all_of_our_tokens_are_there")
    else {
        return;
    };
    let scope = |who: &str, p: usize, n: usize| format!("api://{who}{p}-{n}/.default");
    std::thread::scope(|threads| {
        for p in 0..3 {
            let world = &world;
            threads.spawn(move || {
                let scopes: Vec<String> = (0..10).map(|n| scope("python", p, n)).collect();
                let lines = lines_of(&mut world.python_client(&scopes));
                assert_eq!(lines.len(), 10);
            });
            threads.spawn(move || {
                for n in 0..10 {
                    assert_eq!(world.our_token(Some(&scope("ours", p, n)))["persisted"], true);
                }
            });
        }
    });
    // Python can erase what was written between its reload and its save; asking again puts it back.
    for p in 0..3 {
        for n in 0..10 {
            world.our_token(Some(&scope("ours", p, n)));
        }
    }
    let targets = world.targets();
    let ours = targets.iter().filter(|target| target.contains("ours")).count();
    assert_eq!(ours, 30);
    let python = targets.iter().filter(|target| target.contains("python")).count();
    eprintln!("of 30 tokens of Python's own {python} are there");
}
