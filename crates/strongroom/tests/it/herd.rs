//! A herd: many processes with many tasks each want the same missing token at once.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use strongroom::{
    ClientCredential, ConfidentialClientApplication, DocumentStore, FilePersistence, HttpTransport, Step,
    TokenCache, block_on,
};
use strongroom_sts::{Endpoint, Fault};

use crate::client_support::Scene;
use crate::support::{Process, another_process};

const HELPER: &str = "herd::helper_process_that_asks";
const PROCESSES: usize = 16;
const TASKS: usize = 8;

/// Another process that asks with all its tasks as soon as it has begun.
fn start(scene: &Scene, cannot_store: bool) -> Process {
    let ready = scene.ready();
    let order = json!({
        "authority": ready.authority, "client_id": ready.client_id, "client_secret": ready.client_secret,
        "scope": ready.scope, "ca_file": ready.ca_file, "cache": scene.location(), "cannot_store": cannot_store,
    });
    Process::start(another_process(HELPER).env("STRONGROOM_TEST_ORDER", order.to_string()))
}

/// Starts processes and waits until each of their tasks waits for its token.
fn start_and_wait(scene: &Scene, count: usize, cannot_store: bool) -> Vec<Process> {
    let mut processes: Vec<_> = (0..count).map(|_| start(scene, cannot_store)).collect();
    for process in &mut processes {
        for _ in 0..TASKS {
            process.wait_for("waits");
        }
    }
    processes
}

/// Waits until so many processes wait in the kernel for the one that leads.
fn wait_for_followers(scene: &Scene, count: usize) {
    let flight = std::fs::metadata(format!("{}.flight", scene.location().display())).unwrap();
    let inode = format!(":{} ", std::os::unix::fs::MetadataExt::ino(&flight));
    let followers = || {
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().filter(|lock| lock.contains("-> ") && lock.contains(&inode)).count()
    };
    while followers() < count {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the tasks of these processes got, one line each.
fn answers(processes: impl IntoIterator<Item = Process>) -> Vec<Value> {
    let mut answers = Vec::new();
    for mut process in processes {
        for _ in 0..TASKS {
            let line = process.wait_for("answer ");
            answers.push(serde_json::from_str(line.split_once("answer ").unwrap().1).unwrap());
        }
        process.finish();
    }
    answers
}

fn tokens(answers: &[Value]) -> BTreeSet<&str> {
    answers.iter().map(|answer| answer["token"].as_str().unwrap_or_else(|| panic!("{answer}"))).collect()
}

#[test]
fn a_herd_makes_one_request() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let processes = start_and_wait(&scene, PROCESSES, false);
    scene.wait_for(|stats| stats.held == 1);
    wait_for_followers(&scene, PROCESSES - 1);
    scene.sts.clear_faults();
    let answers = answers(processes);
    assert_eq!(answers.len(), PROCESSES * TASKS);
    assert_eq!(tokens(&answers).len(), 1, "all have the same token");
    assert_eq!(scene.token_requests(), 1);
}

#[test]
fn when_the_leader_is_killed_one_other_asks() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().for_ever()).unwrap();
    let mut leader = start_and_wait(&scene, 1, false);
    scene.wait_for(|stats| stats.token == 1);
    let others = start_and_wait(&scene, PROCESSES - 1, false);
    wait_for_followers(&scene, PROCESSES - 1);
    leader[0].kill();
    // Nothing else has happened: its death is what the next one was waiting for.
    scene.wait_for(|stats| stats.token == 2);
    scene.sts.clear_faults();
    let answers = answers(others);
    assert_eq!((answers.len(), tokens(&answers).len()), ((PROCESSES - 1) * TASKS, 1));
    assert_eq!(scene.token_requests(), 2);
}

#[test]
fn a_leader_that_is_stopped_does_not_stop_the_others() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    let mut leader = start_and_wait(&scene, 1, false);
    scene.wait_for(|stats| stats.held == 1);
    let id = Pid::from_raw(i32::try_from(leader[0].id()).unwrap()).unwrap();
    kill_process(id, Signal::STOP).unwrap();
    let answers = answers(start_and_wait(&scene, PROCESSES - 1, false));
    assert_eq!(answers.len(), (PROCESSES - 1) * TASKS);
    assert!(tokens(&answers).len() < PROCESSES, "each process asks once at most");
    assert!(scene.token_requests() <= PROCESSES as u64);
    leader[0].kill();
}

#[test]
fn where_nothing_can_be_stored_all_have_a_token_and_do_not_wait_in_line() {
    let scene = Scene::new();
    // The first ones are led by one process after the other; then all others ask at the same time.
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    let processes = start_and_wait(&scene, PROCESSES, true);
    scene.wait_for(|stats| stats.held == 1);
    scene.sts.clear_faults();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    scene.wait_for(|stats| stats.token == 2);
    scene.sts.clear_faults();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().for_ever()).unwrap();
    // Whoever has waited twice waits no more: the rest of the herd is held at once.
    scene.wait_for(|stats| stats.held >= (PROCESSES - 2) as u64);
    scene.sts.clear_faults();
    let answers = answers(processes);
    assert_eq!(answers.len(), PROCESSES * TASKS);
    assert!(
        answers.iter().all(|answer| answer["token"].is_string() && answer["persisted"] == false),
        "{answers:?}"
    );
    assert_eq!(scene.token_requests(), PROCESSES as u64, "one for each process");
}

#[test]
fn a_token_that_is_held_up_delays_no_other() {
    let scene = Scene::new();
    let app = scene.app();
    scene.token().unwrap();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold().times(1)).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let ask = |n: usize| {
        let request = app.acquire_token_for_client(format!("api://herd-{n}/.default").as_str());
        async move { request.await.map(|result| result.access_token().expose().to_owned()) }
    };
    let held = runtime.spawn(ask(0));
    scene.wait_for(|stats| stats.held == 1);
    let also_held: Vec<_> = (0..9).map(|_| runtime.spawn(ask(0))).collect();
    let others: Vec<_> = (0..990).map(|n| runtime.spawn(ask(1 + n % 99))).collect();
    let tokens: BTreeSet<String> =
        others.into_iter().map(|task| runtime.block_on(task).unwrap().unwrap()).collect();
    assert_eq!(tokens.len(), 99);
    assert!(!held.is_finished() && also_held.iter().all(|task| !task.is_finished()));
    scene.sts.clear_faults();
    for task in also_held.into_iter().chain([held]) {
        runtime.block_on(task).unwrap().unwrap();
    }
    assert_eq!(scene.token_requests(), 1 + 1 + 99);
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_asks() {
    let order: Value = serde_json::from_str(&std::env::var("STRONGROOM_TEST_ORDER").unwrap()).unwrap();
    let text = |name: &str| order[name].as_str().unwrap().to_owned();
    let persistence = FilePersistence::builder(text("cache"));
    let persistence = if order["cannot_store"] == true {
        persistence.observe_steps(Arc::new(|step| match step {
            Step::Write => Err(std::io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }))
    } else {
        persistence
    };
    let roots = std::fs::read(text("ca_file")).unwrap();
    let store = DocumentStore::builder(persistence.build().unwrap()).lock_timeout(Duration::from_secs(60));
    let secret = ClientCredential::from_secret(text("client_secret"));
    let app = ConfidentialClientApplication::builder(text("client_id"), text("authority"), secret)
        .instance_discovery(false)
        .timeout(Duration::from_secs(120))
        .transport(HttpTransport::with_extra_roots(&roots).unwrap())
        .token_cache(TokenCache::builder(store.build()).build())
        .build()
        .unwrap();
    let say = Arc::new(|line: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{line}").and_then(|()| out.flush()).unwrap();
    });
    let threads: Vec<_> = (0..TASKS)
        .map(|_| {
            let (app, scope, say) = (app.clone(), text("scope"), Arc::clone(&say));
            std::thread::spawn(move || {
                let mut asked = pin!(app.acquire_token_for_client(scope.as_str()).into_future());
                let at_once = asked.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                say("waits".into());
                let result = match at_once {
                    Poll::Ready(result) => result,
                    Poll::Pending => block_on(asked),
                };
                let answer = match result {
                    Ok(result) => json!({
                        "token": result.access_token().expose(), "persisted": result.is_persisted(),
                        "source": result.token_source().as_str(),
                    }),
                    Err(error) => json!({ "error": error.to_string() }),
                };
                say(format!("answer {answer}"));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
