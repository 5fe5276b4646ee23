//! Writers that are killed in the middle of a write: nothing that was reported as stored is lost, no document is
//! torn, and what they leave behind hinders nobody.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use strongroom::{
    AccessToken, Credential, CredentialStore as _, DocumentStore, FilePersistence, Step, block_on,
};

use crate::schema_support::{app_token, change};
use crate::support::{Process, another_process, names_in};

const STEPS: [Step; 6] =
    [Step::CreateTemporary, Step::Write, Step::Sync, Step::Compare, Step::Rename, Step::SyncDirectory];
const TOKENS: usize = 2000;

#[test]
fn thirty_writers_killed_at_every_step_lose_nothing_and_hinder_nobody() {
    kill_writers(30);
}

#[test]
#[ignore = "soak: a thousand writers"]
fn a_thousand_writers_killed_at_every_step_lose_nothing_and_hinder_nobody() {
    if std::env::var_os("STRONGROOM_TEST_LONG").is_some() {
        kill_writers(1000);
    }
}

/// Has `rounds` writers killed one after the other on one document, each at one of the steps of its first or second
/// write. None waits for a lock: what the one before left must not be in its way.
fn kill_writers(rounds: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    let full =
        (0..TOKENS).fold(change(), |change, n| change.put(token(&format!("api://first-{n}/.default"))));
    block_on(store(FilePersistence::new(&path).unwrap()).apply(&full)).unwrap();
    let mut stored: BTreeSet<String> = targets(&path);
    assert_eq!(stored.len(), TOKENS);
    for round in 0..rounds {
        let (step, writes) = (round % STEPS.len(), round / STEPS.len() % 2);
        let mut writer = Process::start(
            another_process("crash::helper_process_that_stops_at_a_step")
                .env("STRONGROOM_TEST_PATH", &path)
                .env("STRONGROOM_TEST_ROUND", round.to_string())
                .env("STRONGROOM_TEST_STEP", step.to_string())
                .env("STRONGROOM_TEST_WRITES", writes.to_string()),
        );
        for n in 0..writes {
            writer.wait_for("stored");
            stored.insert(target(round, n));
        }
        writer.wait_for("stopped");
        writer.kill();

        let step = STEPS[step];
        let found = targets(&path);
        let lost: Vec<_> = stored.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}, {step:?}: {lost:?}");
        let more: Vec<_> = found.difference(&stored).collect();
        assert_eq!(more.len(), usize::from(step == Step::SyncDirectory), "round {round}, {step:?}: {more:?}");
        stored = found;

        // Its own temporary file is there, that of the one before was swept.
        let left = temporary_files(folder.path());
        let leaves = !matches!(step, Step::CreateTemporary | Step::SyncDirectory);
        assert_eq!(left.len(), usize::from(leaves), "round {round}, {step:?}: {left:?}");
        // A minute later no living writer can be using it.
        for name in left {
            let file = std::fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        }
    }
    block_on(store(FilePersistence::new(&path).unwrap()).apply(&change().put(token("api://last/.default"))))
        .unwrap();
    stored.insert("api://last/.default".to_owned());
    assert_eq!(targets(&path), stored);
    assert_eq!(names_in(folder.path()), ["cache.bin", "cache.bin.lock"]);
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_stops_at_a_step() {
    let Some(path) = std::env::var_os("STRONGROOM_TEST_PATH").map(PathBuf::from) else { return };
    let [round, step, writes] = ["ROUND", "STEP", "WRITES"]
        .map(|name| std::env::var(format!("STRONGROOM_TEST_{name}")).unwrap().parse::<usize>().unwrap());
    let fatal = STEPS[step];
    let writes_to_come = AtomicUsize::new(writes);
    let observer = move |step| {
        if step == fatal && writes_to_come.fetch_sub(1, Ordering::SeqCst) == 0 {
            println!("stopped");
            loop {
                std::thread::park();
            }
        }
        Ok(())
    };
    let file = FilePersistence::builder(path).observe_steps(Arc::new(observer)).build().unwrap();
    let store = store(file);
    for n in 0.. {
        block_on(store.apply(&change().put(token(&target(round, n))))).unwrap();
        println!("stored");
    }
}

/// A store that does not wait for a lock.
fn store(file: FilePersistence) -> DocumentStore<FilePersistence> {
    DocumentStore::builder(file).lock_timeout(Duration::ZERO).build()
}

fn target(round: usize, n: usize) -> String {
    format!("api://killed-{round}-{n}/.default")
}

fn token(target: &str) -> Credential {
    Credential::AccessToken(AccessToken {
        target: target.into(),
        secret: format!("{target:~<300}").into(),
        ..app_token()
    })
}

/// The tokens in the document, each whole.
fn targets(path: &Path) -> BTreeSet<String> {
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let tokens = document["AccessToken"].as_object().unwrap().values();
    tokens
        .map(|token| {
            let target = token["target"].as_str().unwrap().to_owned();
            assert_eq!(token["secret"], format!("{target:~<300}"));
            target
        })
        .collect()
}

fn temporary_files(folder: &Path) -> Vec<String> {
    names_in(folder).into_iter().filter(|name| name.ends_with(".tmp")).collect()
}
