//! The lock file of Strongroom's own processes, `<location>.lock`: created once, never deleted, locked in the
//! kernel.
//!
//! Tasks of this process queue in the process first, so that at most one of them waits in the kernel, on one
//! thread per path. The thread outlives a caller that gives up: it hands the lock to whoever waits by then, or
//! releases it.

use std::collections::HashMap;
use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use tokio::sync::{OwnedMutexGuard, oneshot};

use super::super::PersistenceError;
use super::super::access::{self, FileId};
use super::super::error::Holder;
use super::{Content, Locked, age, open_existing};
use crate::platform::fork::{OwnFile, PerProcess};
use crate::time::Deadline;
use crate::wait::until;

/// Our lock, held until this is dropped.
#[derive(Debug)]
pub(super) struct OurLock {
    // In this order they are dropped: the next task of this process finds the kernel lock free.
    locked: Locked,
    path: PathBuf,
    turn: Option<Turn>,
}

/// To be the one of this process's tasks that has the lock, or is about to take it.
#[derive(Debug)]
pub(crate) struct Turn {
    _guard: OwnedMutexGuard<()>,
    // The queue is kept registered: whoever comes next must find this one.
    _queue: Arc<Queue>,
}

impl OurLock {
    pub(super) fn still_held(&self) -> bool {
        self.locked.is_at(&self.path)
    }

    /// What is left to be dropped when this is.
    pub(super) fn keep_turn(&mut self) -> Option<Turn> {
        self.turn.take()
    }
}

impl Drop for OurLock {
    fn drop(&mut self) {
        if !self.locked.is_own() {
            // A thread of the parent may have been in its queue when this child was forked: it is left alone.
            std::mem::forget(self.turn.take());
        }
    }
}

pub(super) async fn acquire(path: &Path, mode: u32, deadline: Deadline) -> Result<OurLock, PersistenceError> {
    let failed = |source| PersistenceError::io("lock", path, source);
    let queue = Queue::of(path);
    let Some(turn) = until(deadline, Arc::clone(&queue.turn).lock_owned()).await else {
        return Err(held(path, mode));
    };
    loop {
        let (file, id) = open(path, mode)?;
        let locked = match file.try_lock() {
            Ok(()) => Locked::new(file, id),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) if deadline.has_passed() => return Err(held(path, mode)),
            Err(TryLockError::WouldBlock) => {
                let granted = queue.wait_in_kernel(file, id).map_err(failed)?;
                match until(deadline, granted).await {
                    None => return Err(held(path, mode)),
                    Some(Ok(result)) => result.map_err(failed)?,
                    // The thread is gone without an answer: only a panic does that. Start again.
                    Some(Err(_)) => continue,
                }
            }
        };
        // Nobody should delete this file; if somebody does, the lock is on the one that is there now.
        if locked.is_at(path) {
            locked.sign(&super::program_name());
            return Ok(OurLock {
                locked,
                path: path.to_owned(),
                turn: Some(Turn { _guard: turn, _queue: queue }),
            });
        }
    }
}

/// Opens a lock file of ours, and makes it if there is none.
pub(in super::super) fn open(path: &Path, mode: u32) -> Result<(OwnFile, FileId), PersistenceError> {
    let failed = |source| PersistenceError::io("open the lock file", path, source);
    let file = loop {
        match access::despite_others(|| open_existing(path, mode)) {
            Ok(result) => break result?.0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(source)),
        }
        match access::create_new(path, mode) {
            Ok(file) => break OwnFile::new(file),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(PersistenceError::io("create the lock file", path, source)),
        }
    };
    let id = FileId::of(&file).map_err(failed)?;
    Ok((file, id))
}

/// The error that says who holds the lock, as far as its last holder has signed.
fn held(path: &Path, mode: u32) -> PersistenceError {
    let read = || {
        let (file, found) = open_existing(path, mode).ok()?.ok()?;
        let content = Content::read(&file).ok()?;
        // Others lock this file without signing it: what a dead process has written is not about the holder.
        let alive = content.pid().is_some_and(access::is_alive);
        alive.then_some(content.into_holder(age(&found).ok()?))
    };
    PersistenceError::Locked { path: path.to_owned(), holder: read().unwrap_or_else(Holder::default) }
}

/// The tasks of this process that want one lock file.
#[derive(Debug)]
struct Queue {
    /// First come, first served.
    turn: Arc<tokio::sync::Mutex<()>>,
    waiter: Mutex<Waiter>,
}

/// What the thread that waits in the kernel and the task whose turn it is share.
#[derive(Debug, Default)]
struct Waiter {
    /// On which file a thread waits, if one does.
    waits_on: Option<FileId>,
    /// Counts the threads, so that one whose file was deleted knows that it was replaced.
    generation: u64,
    /// Who gets the lock.
    next: Option<oneshot::Sender<Grant>>,
}

type Grant = io::Result<Locked>;

impl Queue {
    fn of(path: &Path) -> Arc<Self> {
        // A forked child has neither the tasks nor the threads of its parent, so it does not use its queues.
        static QUEUES: PerProcess<Mutex<HashMap<PathBuf, Weak<Queue>>>> = PerProcess::new(Mutex::default);

        // One document, one queue, however its directory is spelled. Were it missed, the kernel would decide.
        let directory = access::directory_of(path);
        let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let key = directory.join(path.file_name().unwrap_or_default());

        let mut queues = QUEUES.get().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&key).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(Self { turn: Arc::default(), waiter: Mutex::default() });
        queues.insert(key, Arc::downgrade(&queue));
        queue
    }

    /// Has a thread wait for the lock on `file`: the one that waits already, or a new one.
    fn wait_in_kernel(self: &Arc<Self>, file: OwnFile, id: FileId) -> io::Result<oneshot::Receiver<Grant>> {
        let (sender, receiver) = oneshot::channel();
        let mut waiter = self.waiter();
        if waiter.waits_on != Some(id) {
            let (queue, generation) = (Arc::clone(self), waiter.generation + 1);
            thread::Builder::new()
                .name("strongroom-lock".into())
                .spawn(move || queue.wait_on_this_thread(file, id, generation))?;
            waiter.generation = generation;
            waiter.waits_on = Some(id);
        }
        waiter.next = Some(sender);
        Ok(receiver)
    }

    fn wait_on_this_thread(&self, file: OwnFile, id: FileId, generation: u64) {
        let result = loop {
            match file.lock() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        // Dropped, and with it the lock released, if nobody waits any more.
        let grant = result.map(|()| Locked::new(file, id));
        let next = {
            let mut waiter = self.waiter();
            if waiter.generation != generation {
                return;
            }
            // From here on whoever comes starts a new thread, which gets the lock when this one drops it.
            waiter.waits_on = None;
            waiter.next.take()
        };
        if let Some(next) = next {
            let _ = next.send(grant);
        }
    }

    fn waiter(&self) -> MutexGuard<'_, Waiter> {
        // Nothing under this mutex panics half-way.
        self.waiter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
