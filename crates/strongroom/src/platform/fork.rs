//! What a forked child must not inherit: locks, waiters, runtimes.
//!
//! A kernel lock belongs to an open file, which parent and child share after a fork: a child that keeps the
//! descriptor keeps the lock of a parent that was killed. So a handler in the child closes the descriptors of all
//! locks, without unlocking. What lives in memory (queues, threads, runtimes) is recognised by the generation, a
//! number that is another one in the child; comparing it costs no system call.

use std::fmt;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// Counts the forks between this process and the one that first used this library.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// Tells a process from the parent that it was forked from.
pub(crate) fn generation() -> u32 {
    imp::install();
    GENERATION.load(Ordering::Relaxed)
}

/// A file that exists in the process that opened it alone: a forked child closes its descriptor at once.
pub(crate) struct OwnFile {
    file: ManuallyDrop<File>,
    generation: u32,
    #[cfg_attr(not(unix), allow(dead_code))]
    slot: Option<usize>,
}

impl OwnFile {
    pub(crate) fn new(file: File) -> Self {
        let generation = generation();
        let slot = imp::register(&file);
        Self { file: ManuallyDrop::new(file), generation, slot }
    }

    /// Whether this is the process that opened the file. In a child the descriptor is closed, and its number may
    /// be that of another file by now.
    pub(crate) fn is_own(&self) -> bool {
        self.generation == generation()
    }
}

impl Deref for OwnFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.file
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        if !self.is_own() {
            return;
        }
        if let Some(slot) = self.slot {
            imp::unregister(slot);
        }
        // SAFETY: `file` is not used after this, and dropped nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.file) }
    }
}

impl fmt::Debug for OwnFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// A value that each process makes for itself. A child never touches its parent's, which may have been locked at
/// the moment of the fork and whose threads it does not have.
pub(crate) struct PerProcess<T> {
    slot: AtomicPtr<Slot<T>>,
    make: fn() -> T,
}

struct Slot<T> {
    generation: u32,
    value: T,
}

impl<T: Send + Sync> PerProcess<T> {
    pub(crate) const fn new(make: fn() -> T) -> Self {
        Self { slot: AtomicPtr::new(std::ptr::null_mut()), make }
    }

    /// This process's value, made at the first call; when several make it at once, one of them is kept. A parent's
    /// stays where it is, unused.
    pub(crate) fn get(&self) -> &T {
        let generation = generation();
        let mut current = self.slot.load(Ordering::Acquire);
        loop {
            // SAFETY: a pointer that is not null came from `Box::into_raw` below. Once published it is not freed
            // before `self` is dropped, and the result borrows `self`.
            if let Some(slot) = unsafe { current.as_ref() }
                && slot.generation == generation
            {
                return &slot.value;
            }
            let made = Box::into_raw(Box::new(Slot { generation, value: (self.make)() }));
            match self.slot.compare_exchange(current, made, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => current = made,
                Err(others) => {
                    // SAFETY: it was not published, so this is its only owner.
                    drop(unsafe { Box::from_raw(made) });
                    current = others;
                }
            }
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let slot = *self.slot.get_mut();
        // SAFETY: as in `get`.
        if unsafe { slot.as_ref() }.is_some_and(|slot| slot.generation == generation()) {
            // SAFETY: it came from `Box::into_raw`, and nobody can borrow it any more.
            drop(unsafe { Box::from_raw(slot) });
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}

/// Runs `child` in a forked child of this process, which then ends with the status that it returned: no destructors,
/// no exit handlers. Returns the child's process id; the caller waits for its end, which comes after a minute at the
/// latest.
///
/// For tests. The child of a test has one thread of many, so it must be careful about locks that others may have
/// held.
///
/// # Errors
/// The process could not be forked.
#[cfg(all(unix, any(test, feature = "test-support")))]
pub fn fork_for_tests(child: impl FnOnce() -> i32) -> std::io::Result<u32> {
    // SAFETY: the child neither returns nor unwinds into what forked it; the allocator and the standard output are fit
    // for use after a fork.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            libc::alarm(60);
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            libc::_exit(status.unwrap_or(101));
        }
        u32::try_from(pid).map_err(|_| std::io::Error::last_os_error())
    }
}

#[cfg(unix)]
mod imp {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;
    use std::sync::Once;
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::GENERATION;

    /// More locks than that are not held at a time; one without a place here is still closed by an exec.
    const MOST: usize = 1024;
    const FREE: i32 = -1;

    static DESCRIPTORS: [AtomicI32; MOST] = [const { AtomicI32::new(FREE) }; MOST];

    pub(super) fn install() {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            // SAFETY: the handler does only what is allowed between fork and exec: it touches atomics and calls
            // `close`. Where it cannot be installed (no memory), forking is as unsafe as in other libraries.
            unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
        });
    }

    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
        for descriptor in &DESCRIPTORS {
            let descriptor = descriptor.swap(FREE, Ordering::Relaxed);
            if descriptor != FREE {
                // SAFETY: the descriptor is open, because its owner takes it off the list before closing it; and
                // nobody in this child uses it, because `OwnFile` compares the generation.
                unsafe { libc::close(descriptor) };
            }
        }
    }

    pub(super) fn register(file: &File) -> Option<usize> {
        let descriptor = file.as_raw_fd();
        DESCRIPTORS.iter().position(|place| {
            place.compare_exchange(FREE, descriptor, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        })
    }

    pub(super) fn unregister(slot: usize) {
        DESCRIPTORS[slot].store(FREE, Ordering::Relaxed);
    }
}

#[cfg(not(unix))]
mod imp {
    use std::fs::File;

    pub(super) fn install() {}

    pub(super) fn register(_file: &File) -> Option<usize> {
        None
    }

    pub(super) fn unregister(_slot: usize) {}
}

/// Whether `body` returns `true` in a forked child. See [`fork_for_tests`].
#[cfg(all(test, unix))]
pub(crate) fn in_child(body: impl FnOnce() -> bool) -> bool {
    let child = fork_for_tests(|| i32::from(!body())).expect("a process can be forked");
    let child = rustix::process::Pid::from_raw(child.cast_signed());
    let ended = rustix::process::waitpid(child, rustix::process::WaitOptions::empty());
    ended.is_ok_and(|ended| ended.is_some_and(|(_, status)| status.exit_status() == Some(0)))
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_child_makes_values_of_its_own_and_leaves_its_parents_alone() {
        let shared = Arc::new(());
        let value = PerProcess::new(Mutex::<Option<Arc<()>>>::default);
        *value.get().lock().unwrap() = Some(Arc::clone(&shared));
        let locked = value.get().lock().unwrap();
        assert!(in_child(|| value.get().lock().unwrap().is_none()));
        drop(locked);
        let count = || Arc::strong_count(&shared);
        assert!(in_child(move || {
            drop(value);
            count() == 2
        }));
        assert_eq!(count(), 1, "the parent has dropped its own");
    }

    #[test]
    fn what_a_process_has_made_ends_with_its_place() {
        let shared = Arc::new(());
        let value = PerProcess::new(Mutex::<Option<Arc<()>>>::default);
        *value.get().lock().unwrap() = Some(Arc::clone(&shared));
        assert!(value.get().lock().unwrap().is_some());
        drop(value);
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[test]
    fn a_child_does_not_keep_the_lock_of_its_parent() {
        static VALUE: PerProcess<u32> = PerProcess::new(std::process::id);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(&path).unwrap();
        let held = OwnFile::new(open());
        held.lock().unwrap();
        assert_eq!(*VALUE.get(), std::process::id());
        let is_rid_of_it = in_child(|| {
            // SAFETY: the call takes any number.
            let open = unsafe { libc::fcntl(held.as_raw_fd(), libc::F_GETFD) } != -1;
            !open && !held.is_own()
        });
        assert!(is_rid_of_it, "the child still has the descriptor");
        assert!(held.is_own());
        assert!(open().try_lock().is_err(), "the parent still has its lock");
        drop(held);
        open().try_lock().unwrap();
    }
}
