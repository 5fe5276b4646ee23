//! A persistence that lets tests step in between: before a document is loaded, before it is saved.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use strongroom::{
    BoxFuture, Error, Fence, Loaded, Location, Persistence, Protection, Revision, Saved, SecretBytes,
};

/// What happens next, and for which time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    Load(u32),
    Save(u32),
    SetAside(u32),
}

/// A persistence that calls `step_in` before each of its operations.
pub(crate) struct SteppedIn<P> {
    inner: P,
    step_in: Box<dyn Fn(Moment) + Send + Sync>,
    loads: AtomicU32,
    saves: AtomicU32,
    set_aside: AtomicU32,
}

impl<P: Persistence> SteppedIn<P> {
    pub(crate) fn new(inner: P, step_in: impl Fn(Moment) + Send + Sync + 'static) -> Self {
        let zero = || AtomicU32::new(0);
        Self { inner, step_in: Box::new(step_in), loads: zero(), saves: zero(), set_aside: zero() }
    }

    fn announce(&self, counter: &AtomicU32, moment: impl Fn(u32) -> Moment) {
        (self.step_in)(moment(counter.fetch_add(1, Ordering::SeqCst) + 1));
    }
}

impl<P: Persistence> Persistence for SteppedIn<P> {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        self.announce(&self.loads, Moment::Load);
        self.inner.load()
    }

    fn look_through<'a>(
        &'a self,
        reader: &'a mut (dyn FnMut(&[u8]) -> usize + Send),
    ) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
        self.inner.look_through(reader)
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        self.announce(&self.saves, Moment::Save);
        self.inner.save(bytes, expected, fence)
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        self.inner.remove()
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        self.inner.is_current(revision)
    }

    fn set_aside<'a>(&'a self, expected: &'a Revision) -> BoxFuture<'a, Result<Option<String>, Error>> {
        self.announce(&self.set_aside, Moment::SetAside);
        self.inner.set_aside(expected)
    }

    fn lock_path(&self) -> Option<PathBuf> {
        self.inner.lock_path()
    }

    fn lock_mode(&self) -> u32 {
        self.inner.lock_mode()
    }

    fn location(&self) -> Location {
        self.inner.location()
    }

    fn protection(&self) -> Protection {
        self.inner.protection()
    }

    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

impl<P> fmt::Debug for SteppedIn<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SteppedIn")
    }
}
