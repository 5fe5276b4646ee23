//! Every kind of persistence, for what must hold of them all; and one that lets tests step in between, before a
//! document is loaded, before it is saved.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use std::sync::Arc;

use strongroom::conformance::Promise;
use strongroom::{
    BoxFuture, Error, Fence, FilePersistence, KeySelector, Loaded, Location, MemoryPersistence, Persistence,
    Protection, Revision, Saved, SealedPersistence, SecretBytes, persistence,
};

#[cfg(target_os = "linux")]
use crate::keyring_support::Keyring;

/// An empty document that is kept in one way.
pub(crate) struct Kept<'a> {
    pub(crate) name: &'static str,
    /// Opens it anew, as another process does.
    pub(crate) open: &'a (dyn Fn() -> Box<dyn Persistence> + Sync),
    /// What this way cannot promise.
    pub(crate) without: &'static [Promise],
}

/// Runs `check` on an empty document that is kept in each way there is.
pub(crate) fn on_every_persistence(check: impl Fn(&Kept<'_>)) {
    let run = |name, without, open: &(dyn Fn() -> Box<dyn Persistence> + Sync)| {
        check(&Kept { name, open, without });
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let memory = Arc::new(MemoryPersistence::new());
    run("memory", &[Promise::SetAside], &|| Box::new(Arc::clone(&memory)));

    let two_steps: &[Promise] = &[Promise::CompareAndSwap];
    let file = |name: &str| FilePersistence::new(path(name)).unwrap();
    run("a file", two_steps, &|| Box::new(file("cache.bin")));

    persistence::create_key_file(path("cache.key")).unwrap();
    let source = || KeySelector::File(path("cache.key")).open().unwrap();
    run("a sealed file", two_steps, &|| Box::new(SealedPersistence::new(file("sealed.bin"), source())));

    #[cfg(windows)]
    run("a file that Windows protects", two_steps, &|| {
        Box::new(strongroom::FilePersistenceWithDataProtection::over(file("protected.bin")))
    });
    // In the part of `./test` that has a keyring; elsewhere `secret_service` says that there is none.
    #[cfg(target_os = "linux")]
    if std::env::var_os("STRONGROOM_TEST_KEYRING").is_some() {
        let keyring = Keyring::start();
        let neither: &[Promise] = &[Promise::CompareAndSwap, Promise::SetAside];
        let builder = keyring.bus.builder();
        run("the Secret Service", neither, &|| Box::new(builder.clone().build().unwrap()));
    }
}

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
