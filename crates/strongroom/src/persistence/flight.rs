//! Single flight on the host: of all who want the same thing at the same time, one leads.
//!
//! Each thing has a byte of `<location>.flight`, a file of ours that is created once and never deleted. Who leads
//! holds the byte exclusively. Who finds it taken waits for it shared, in the kernel, so that all wake at once when
//! the leader is done or dead; a shared lock is dropped before anybody is told, because it stands in the way of the
//! next leader.
//!
//! This module must not know what is fetched. Whatever goes wrong is an error here, and for the caller a reason to
//! go on without leading.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::digest;
use tokio::sync::watch;

use super::PersistenceError;
use super::access::{self, FileId};
use super::lock;
use crate::platform::fork::{OwnFile, PerProcess};
use crate::platform::range_lock;
use crate::time::Deadline;
use crate::wait::{self, until};

/// What follows the location in the name of the file.
pub(crate) const SUFFIX: &str = ".flight";
/// So many threads of a process may wait at a time, one for each thing that is waited for.
const MOST_THREADS: usize = 64;

/// What became of an attempt to lead.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The caller leads as long as it keeps this.
    Taken(Held),
    /// Somebody else led, and does no longer.
    Ended,
    /// Somebody else leads, and the patience is used up.
    Busy,
}

/// The lead in one flight, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    file: OwnFile,
    byte: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Explicitly, because a child that is being started may have the descriptor for a moment: closing ours alone
        // would not end the lock. A forked child in turn must not end its parent's.
        if self.file.is_own() {
            let _ = range_lock::unlock(&self.file, self.byte);
        }
    }
}

/// Takes the lead in fetching `name`, at the first poll if nobody has it, or waits at most `patience` for whoever has
/// it. `path` is the document's file for flights, `mode` its permissions.
///
/// A future that is dropped leaves nothing locked.
///
/// # Errors
/// Nothing can be agreed here: the file cannot be used, the file system has no such locks, too many wait already.
pub(crate) async fn lead(
    path: &Path,
    mode: u32,
    name: &str,
    patience: Duration,
) -> Result<Attempt, PersistenceError> {
    let deadline = Deadline::after(patience);
    let byte = byte_of(name);
    let path = &file_of(path, byte);
    let failed = |source| PersistenceError::io("lock", path, source);
    access::prepare_directory(access::directory_of(path), mode)?;
    loop {
        let (file, id) = lock::open(path, mode)?;
        if range_lock::try_lock(&file, byte).map_err(failed)? {
            let held = Held { file, byte };
            // Nobody should delete this file; if somebody does, the lead is on the one that is there now.
            if FileId::at(path).is_ok_and(|at_path| at_path == id) {
                return Ok(Attempt::Taken(held));
            }
        } else if !deadline.has_passed() && range_lock::is_locked(&file, byte).map_err(failed)? {
            let granted = wait_in_kernel(path, file, id, byte).map_err(failed)?;
            return match until(deadline, granted).await {
                None => Ok(Attempt::Busy),
                Some(Ok(())) => Ok(Attempt::Ended),
                Some(Err(source)) => Err(failed(source)),
            };
        }
        // Nobody leads, but those who have waited for the last leader have the byte for another instant. That is no
        // flight that has ended.
        if deadline.has_passed() {
            return Ok(Attempt::Busy);
        }
        wait::sleep(pause().min(deadline.remaining())).await;
    }
}

/// Which byte stands for `name`, the same in every process: 63 bits, as far as offsets of files go.
fn byte_of(name: &str) -> u64 {
    let hash = digest::digest(&digest::SHA256, name.as_bytes());
    let first = hash.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
    u64::from_be_bytes(*first) >> 1
}

/// The file that the byte is locked in: one for all, or one of 256 where only whole files can be locked.
fn file_of(path: &Path, byte: u64) -> PathBuf {
    if range_lock::WHOLE_FILE {
        access::with_suffix(path, &format!("-{:02x}", byte & 0xff))
    } else {
        path.to_owned()
    }
}

/// 1 to 2 ms, so that those who wait for the same instant do not look all at once.
fn pause() -> Duration {
    Duration::from_micros(1000 + RandomState::new().hash_one(0) % 1000)
}

/// The threads of this process that wait. A forked child has none of them.
static WAITS: PerProcess<Mutex<Vec<Arc<Wait>>>> = PerProcess::new(Mutex::default);

/// One thread that waits until nobody leads.
#[derive(Debug)]
struct Wait {
    path: PathBuf,
    id: FileId,
    byte: u64,
    /// Set when the wait is over, before the next one can lead: who finds a leader after that needs another wait.
    over: AtomicBool,
    outcome: watch::Sender<Option<Result<(), io::ErrorKind>>>,
}

/// Has a thread wait until nobody leads: the one that waits already, or a new one. The thread outlives a caller that
/// gives up, and releases what it gets too late.
fn wait_in_kernel(
    path: &Path,
    file: OwnFile,
    id: FileId,
    byte: u64,
) -> io::Result<impl Future<Output = io::Result<()>> + use<>> {
    let mut waits = waits();
    let same = |wait: &&Arc<Wait>| {
        wait.byte == byte && wait.id == id && wait.path == path && !wait.over.load(Ordering::Acquire)
    };
    let mut outcome = match waits.iter().find(same) {
        Some(wait) => wait.outcome.subscribe(),
        None if waits.len() >= MOST_THREADS => {
            return Err(io::Error::other("too many threads of this process wait for others already"));
        }
        None => {
            let (sender, receiver) = watch::channel(None);
            let wait = Arc::new(Wait {
                path: path.to_owned(),
                id,
                byte,
                over: AtomicBool::new(false),
                outcome: sender,
            });
            thread::Builder::new().name("strongroom-lead".into()).spawn({
                let wait = Arc::clone(&wait);
                move || wait.on_this_thread(file)
            })?;
            waits.push(wait);
            receiver
        }
    };
    Ok(async move {
        let outcome = outcome.wait_for(Option::is_some).await;
        // Without an outcome the thread is gone, which only a panic does.
        outcome
            .ok()
            .and_then(|outcome| *outcome)
            .unwrap_or(Err(io::ErrorKind::Other))
            .map_err(io::Error::from)
    })
}

impl Wait {
    fn on_this_thread(self: Arc<Self>, file: OwnFile) {
        let granted = range_lock::lock_shared(&file, self.byte);
        self.over.store(true, Ordering::Release);
        let released = granted.and_then(|()| range_lock::unlock(&file, self.byte));
        drop(file);
        waits().retain(|wait| !Arc::ptr_eq(wait, &self));
        self.outcome.send_replace(Some(released.map_err(|error| error.kind())));
    }
}

fn waits() -> MutexGuard<'static, Vec<Arc<Wait>>> {
    // Nothing under this mutex panics half-way.
    WAITS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::block_on;

    const LONG: Duration = Duration::from_secs(600);

    struct Place {
        _directory: tempfile::TempDir,
        path: PathBuf,
    }

    impl Place {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("cache.bin.flight");
            Self { _directory: directory, path }
        }

        async fn lead(&self) -> Attempt {
            lead(&self.path, 0o600, "token", LONG).await.unwrap()
        }

        /// The waits for what is locked here.
        fn waits(&self) -> Vec<Arc<Wait>> {
            let here = |wait: &&Arc<Wait>| wait.path.parent() == self.path.parent();
            waits().iter().filter(here).map(Arc::clone).collect()
        }

        fn is_taken(&self) -> bool {
            matches!(block_on(lead(&self.path, 0o600, "token", Duration::ZERO)), Ok(Attempt::Busy))
        }

        /// Somebody who has waited for the last leader and has not yet let go.
        fn somebody_in_transit(&self) -> OwnFile {
            let byte = byte_of("token");
            let (file, _) = lock::open(&file_of(&self.path, byte), 0o600).unwrap();
            range_lock::lock_shared(&file, byte).unwrap();
            file
        }
    }

    #[test]
    fn a_name_has_the_same_byte_in_every_process() {
        assert_eq!(byte_of(""), 0x71d8_6221_4c7e_0e0a);
        assert_ne!(byte_of("a"), byte_of("b"));
    }

    #[test]
    fn who_only_lets_go_of_the_last_flight_is_not_taken_for_one_that_has_ended() {
        let place = Place::new();
        let transit = place.somebody_in_transit();
        let mut next = pin!(place.lead());
        let for_a_while = Deadline::after(Duration::from_millis(20));
        assert!(block_on(until(for_a_while, &mut next)).is_none());
        assert!(place.waits().is_empty(), "there is nothing to wait for in the kernel");
        drop(transit);
        assert!(matches!(block_on(next), Attempt::Taken(_)));
    }

    #[test]
    fn a_wait_that_is_over_does_not_serve_those_who_meet_the_next_leader() {
        let place = Place::new();
        let Attempt::Taken(first) = block_on(place.lead()) else { panic!("nobody else leads") };
        let mut context = Context::from_waker(Waker::noop());
        let mut waiter = pin!(place.lead());
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        // As if its thread were halted just there, with the first leader gone and the next one there already.
        place.waits()[0].over.store(true, Ordering::Release);
        let mut late = pin!(place.lead());
        assert!(late.as_mut().poll(&mut context).is_pending());
        assert_eq!(place.waits().len(), 2);
        drop(first);
        assert!(matches!(block_on(waiter), Attempt::Ended));
        assert!(matches!(block_on(late), Attempt::Ended));
    }

    #[cfg(unix)]
    #[test]
    fn a_forked_child_neither_has_nor_ends_the_lead_of_its_parent() {
        let place = Place::new();
        let Attempt::Taken(held) = block_on(place.lead()) else { panic!("nobody else leads") };
        let mut held = Some(held);
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(place.lead()).poll(&mut context).is_pending());
        // As another thread may have it at the moment of the fork.
        let locked = waits();
        assert!(crate::platform::fork::in_child(|| {
            held.take();
            place.is_taken() && waits().is_empty()
        }));
        drop(locked);
        assert!(place.is_taken());
        drop(held);
        assert!(matches!(block_on(place.lead()), Attempt::Taken(_)));
    }
}
