//! Keeping a document otherwise than before: sealed, opened, sealed anew, somewhere else.
//!
//! What was written is read back and compared before anything is replaced or removed, so whatever goes wrong, one
//! complete document is there, in the old form or the new.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::access;
use super::atomic::{self, StepObserver};
use super::file::{self, Making};
use super::left_over::KEPT;
use super::lock::{DocumentLock, LockPaths};
use super::quarantine;
use super::select::{Configured, Found};
use super::{
    Choice, ChosenPersistence, Fence, FilePersistence, Kind, Loaded, Persistence, PersistenceError,
    Protection, Revision, Saved, SealedPersistence, builder, sealed_with,
};
use crate::env_vars::Environment;
use crate::error::ErrorKind;
use crate::schema::Document;
use crate::seal::{KeyId, KeySelector, KeySource, SealError};
use crate::time::{Clock as _, Deadline, SystemClock};
use crate::wait::{block_on, sleep};
use crate::{Error, SecretBytes};

/// Changes how the document at `path` is kept. [`Migration::run`] does it.
///
/// ```no_run
/// use strongroom::persistence::{Kind, migrate};
///
/// # fn main() -> Result<(), strongroom::Error> {
/// let migrated = migrate("/var/lib/app/token_cache.bin").to(Kind::Sealed).keep(true).run()?;
/// println!("now {}, the old one is {:?}", migrated.kind, migrated.kept);
/// # Ok(()) }
/// ```
pub fn migrate(path: impl Into<PathBuf>) -> Migration {
    Migration {
        path: path.into(),
        from: Kind::Auto,
        to: None,
        from_key_source: None,
        key_source: None,
        new_location: None,
        keep: false,
        min_protection: Protection::None,
        lock_timeout: Duration::from_secs(10),
        observer: None,
    }
}

/// Seals the document at `path` anew if it is not sealed with the primary key of its source, and what is
/// remembered beside it. Says which key that is; `None` if there was nothing to do.
///
/// `key_source`: where the keys are, if the envelope cannot tell.
///
/// # Errors
/// It is not sealed, it does not open, or it cannot be written.
pub fn rewrite(path: impl Into<PathBuf>, key_source: Option<KeySelector>) -> Result<Option<KeyId>, Error> {
    let path = file::absolute(&path.into())?;
    let place = Place::of(&path, None)?;
    let mut builder = builder(&path).kind(Kind::Sealed).keep_lost().made(place.making.clone());
    if let Some(selector) = key_source {
        builder = builder.key_source(selector);
    }
    let found = match builder.look()? {
        Found::Sealed(found) => found,
        Found::Nothing | Found::Blank => return Err(nothing_at(&path)),
        Found::Plain => return Err(SealError::NotSealed { location: path.display().to_string() }.into()),
        Found::Other => {
            return Err(SealError::OtherKind { location: path.display().to_string() }.into());
        }
    };
    let old = builder.build()?;
    let unlocked = old.unlocked().ok_or_else(|| nothing_at(&path))?;
    let primary = unlocked.ring.primary();
    if primary == *found.key_id() {
        // What a process that was killed, or the one that changed the document, left under the old key.
        let state_key = sealed_with(state_of(&path))?.map(|sealed_with| *sealed_with.key_id());
        if state_key.is_none_or(|key| key == primary) {
            return Ok(None);
        }
        let _lock = lock(&old, Duration::from_secs(10), &place)?;
        try_to_carry_state(&old, &path, &old, &path, &place.making)?;
        return Ok(Some(primary));
    }
    let lock = lock(&old, Duration::from_secs(10), &place)?;
    let form = Form::Sealed(Arc::clone(&unlocked.source));
    InPlace { path: &path, place: &place, old: &old, form, keep: false }.run(&lock)?;
    // A passphrase gives each envelope a key of its own.
    Ok(sealed_with(&path)?.map(|sealed_with| *sealed_with.key_id()))
}

/// A change of how a document is kept. See [`migrate`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Migration {
    path: PathBuf,
    from: Kind,
    to: Option<Kind>,
    from_key_source: Option<KeySelector>,
    key_source: Option<KeySelector>,
    new_location: Option<PathBuf>,
    keep: bool,
    min_protection: Protection,
    lock_timeout: Duration,
    observer: Option<StepObserver>,
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// How the document was kept before, and why it was opened so.
    pub from: Choice,
    /// Where the document is now.
    pub location: PathBuf,
    /// The kind of persistence, as `--persistence` spells it.
    pub kind: &'static str,
    /// The key source, as `--key-source` spells it, where there is one.
    pub key_source: Option<String>,
    /// How well it is protected now.
    pub protection: Protection,
    /// Where the old document still is, if it was to be kept.
    pub kept: Option<PathBuf>,
}

impl Migration {
    /// What the document is now: by default what lies there. Only of an item in a keyring that does not answer it has
    /// to be said, because nothing but its signal file lies there.
    pub fn from(mut self, kind: Kind) -> Self {
        self.from = kind;
        self
    }

    /// What the document is to become: by default what the platform does best; at a
    /// [`new_location`](Self::new_location), if no [`key_source`](Self::key_source) is given either, what it is, sealed
    /// with a key from the same source. An item of a keyring and a file cannot have one location: from one to the
    /// other takes a new one.
    pub fn to(mut self, kind: Kind) -> Self {
        self.to = Some(kind);
        self
    }

    /// The key source that it is sealed with from now on; by default that of a new document.
    pub fn key_source(mut self, source: KeySelector) -> Self {
        self.key_source = Some(source);
        self
    }

    /// The key source that opens it, if the envelope cannot tell: a file with a passphrase.
    pub fn from_key_source(mut self, source: KeySelector) -> Self {
        self.from_key_source = Some(source);
        self
    }

    /// Where it is kept from now on, by default where it is. Nothing may be there yet.
    pub fn new_location(mut self, path: impl Into<PathBuf>) -> Self {
        self.new_location = Some(path.into());
        self
    }

    /// Whether the old document is kept: where it is, or beside the new one as `<name>.old-<UTC time>`.
    pub fn keep(mut self, wanted: bool) -> Self {
        self.keep = wanted;
        self
    }

    /// The least protection that the new document must have. Default: any.
    pub fn min_protection(mut self, least: Protection) -> Self {
        self.min_protection = least;
        self
    }

    /// How long to wait for the locks. Default 10 s.
    pub fn lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// Tells `observer` each step of a write before it is done, and fails the step if it says so. For tests.
    #[cfg(any(test, feature = "test-support"))]
    pub fn observe_steps(
        mut self,
        observer: Arc<dyn Fn(super::Step) -> std::io::Result<()> + Send + Sync>,
    ) -> Self {
        self.observer = Some(StepObserver(observer));
        self
    }

    /// Does it.
    ///
    /// # Errors
    /// `no_cache`: nothing is there. `location_in_use`: something is at the new location, or Strongroom itself uses it
    /// for the old document or would use the old one for it. `not_a_token_cache`, `damaged` and others: what is there
    /// is no cache. `new_location_needed`: from or to a keyring none was given. `feature_missing`: this build does not
    /// have the kind. Those of opening the old document and of choosing how the new one is kept. `Locked`, `Contended`,
    /// `Storage`. The old document is as it was.
    pub fn run(self) -> Result<Migrated, Error> {
        let path = file::absolute(&self.path)?;
        let place = Place::of(&path, self.observer.clone())?;
        let mut from = builder(&path).keep_lost().made(place.making.clone());
        if let Some(selector) = self.from_key_source.clone() {
            from = from.key_source(selector);
        }
        let is_nothing = matches!(from.look()?, Found::Nothing);
        let old = if self.from.is_keyring() { from.kind(self.from).build()? } else { from.open()? };
        let is_in_keyring = old.is_in_keyring();
        if !is_in_keyring && is_nothing {
            return Err(nothing_at(&path));
        }
        match &self.new_location {
            Some(new) if !is_same(&path, new) => self.move_to(&path, &file::absolute(new)?, &old, &place),
            _ if is_in_keyring || self.to.is_some_and(Kind::is_keyring) => {
                let message =
                    format!("{} is the signal file of a keyring, and cannot be a cache", path.display());
                Err(Error::new(ErrorKind::Configuration, "new_location_needed", message)
                    .with_remedy("give a new location for the cache"))
            }
            _ => self.in_place(&path, &old, &place),
        }
    }

    fn in_place(&self, path: &Path, old: &ChosenPersistence, place: &Place) -> Result<Migrated, Error> {
        let configured = Configured::new(Environment::read());
        let form = match (self.to.unwrap_or_default(), &self.key_source) {
            (Kind::File, _) => Form::Plain,
            (Kind::Dpapi, _) => Form::protected()?,
            (Kind::Auto, None) if cfg!(windows) => Form::protected()?,
            (_, Some(selector)) => Form::Sealed(configured.source(selector)?),
            (_, None) => Form::Sealed(block_on(configured.source_for_new(&path.display()))?.0),
        };
        let (kind, key_source, protection) = form.described();
        self.check(protection)?;
        let lock = lock(old, self.lock_timeout, place)?;
        let kept = InPlace { path, place, old, form, keep: self.keep }.run(&lock)?;
        let from = old.choice().clone();
        Ok(Migrated { from, location: path.to_owned(), kind, key_source, protection, kept })
    }

    fn move_to(
        &self,
        from: &Path,
        path: &Path,
        old: &ChosenPersistence,
        place: &Place,
    ) -> Result<Migrated, Error> {
        refuse_entangled(from, path)?;
        let mut to = builder(path).min_protection(self.min_protection).keep_lost().made(place.making.clone());
        to = match (self.to, self.key_source.clone()) {
            // Who only moves it means nothing else, least of all less protection.
            (None, None) => to.kept_as(old),
            (kind, None) => to.kind(kind.unwrap_or_default()),
            (kind, Some(selector)) => to.kind(kind.unwrap_or_default()).key_source(selector),
        };
        if !matches!(to.look()?, Found::Nothing | Found::Blank) {
            return Err(in_use(path));
        }
        let new = to.clone().build()?;
        // In the order of their paths, so that two that move the other way round do not wait for each other.
        let (mut first, mut second): (&dyn Persistence, &dyn Persistence) = (old, &new);
        if path < from {
            std::mem::swap(&mut first, &mut second);
        }
        let first = lock(first, self.lock_timeout, place)?;
        let second = lock(second, self.lock_timeout, place)?;
        let still_held = || first.still_held() && second.still_held();

        let (document, revision) = load_cache(old)?;
        if old.is_in_keyring() && document.bytes().is_empty() {
            return Err(nothing_at(from));
        }
        let there = block_on(new.load())?;
        if !there.bytes.is_empty() {
            return Err(if new.is_in_keyring() { in_use(path) } else { contended(path) });
        }
        save(&new, document.bytes(), &there.revision, &still_held, path)?;
        // Opened anew, by keys that come from their source anew: as whoever comes next has to.
        let written = to.build().and_then(|opened| Ok(block_on(opened.load())?.bytes == *document.bytes()));
        if !matches!(written, Ok(true)) {
            // Nobody else knows of it yet.
            let _ = block_on(new.remove());
            return Err(written.err().unwrap_or_else(|| not_as_written(path)));
        }
        carry_state(old, from, &new, path, &place.making);
        if !self.keep {
            // A keyring's signal file that is young proves nothing: then its item is compared.
            let is_same = old.is_current(&revision)? || block_on(old.load())?.revision == revision;
            if !still_held() || !is_same || is_same_file(from, path) {
                return Err(contended(from));
            }
            block_on(old.remove())?;
            let state = state_of(from);
            if !is_same_file(&state, path)
                && !is_same_file(&state, &state_of(path))
                && let Ok(state) = old.beside(&state)
            {
                let _ = block_on(state.remove());
            }
        }
        let choice = new.choice();
        Ok(Migrated {
            from: old.choice().clone(),
            location: path.to_owned(),
            kind: choice.kind,
            key_source: choice.key_source.clone(),
            protection: choice.protection,
            kept: self.keep.then(|| from.to_owned()),
        })
    }

    fn check(&self, has: Protection) -> Result<(), Error> {
        if has >= self.min_protection {
            return Ok(());
        }
        let (location, least) = (self.path.display().to_string(), self.min_protection);
        Err(SealError::ProtectionTooLow { location, has, least, is_there: false }.into())
    }
}

/// The forms that a document can have in a file.
enum Form {
    Plain,
    Sealed(Arc<dyn KeySource>),
    #[cfg(windows)]
    Protected,
}

impl Form {
    #[cfg(windows)]
    #[allow(clippy::unnecessary_wraps)] // as elsewhere
    fn protected() -> Result<Self, Error> {
        Ok(Self::Protected)
    }

    #[cfg(not(windows))]
    fn protected() -> Result<Self, Error> {
        Err(Kind::Dpapi.missing())
    }

    /// Kind, key source and protection.
    fn described(&self) -> (&'static str, Option<String>, Protection) {
        match self {
            Self::Plain => ("file", None, Protection::None),
            Self::Sealed(source) => ("sealed", Some(source.name()), source.protection()),
            #[cfg(windows)]
            Self::Protected => ("dpapi", None, Protection::OsStore),
        }
    }

    fn at(&self, path: &Path, making: &Making) -> Result<Box<dyn Persistence>, Error> {
        let file = file_at(path, making)?;
        Ok(match self {
            Self::Plain => Box::new(file),
            Self::Sealed(source) => Box::new(SealedPersistence::new(file, Arc::clone(source))),
            #[cfg(windows)]
            Self::Protected => Box::new(super::FilePersistenceWithDataProtection::over(file)),
        })
    }
}

/// Where a document lies, and how its files are made.
struct Place {
    /// The file itself, links followed: what is made of it lies beside that.
    target: PathBuf,
    making: Making,
}

impl Place {
    fn of(location: &Path, observer: Option<StepObserver>) -> Result<Self, Error> {
        let (target, found) = access::resolve_links(location)?;
        let making = Making { observer, ..Making::as_of(&target, found) };
        Ok(Self { target, making })
    }
}

/// Replaces a document by itself in another form.
struct InPlace<'a> {
    /// Where its records lie beside.
    path: &'a Path,
    place: &'a Place,
    old: &'a ChosenPersistence,
    form: Form,
    keep: bool,
}

impl InPlace<'_> {
    /// Says where the old document is kept.
    fn run(self, lock: &DocumentLock) -> Result<Option<PathBuf>, Error> {
        let still_held = || lock.still_held();
        let (document, revision) = load_cache(self.old)?;
        let (target, making) = (self.place.target.as_path(), &self.place.making);
        // As the file is, to be kept, and to be sure that it is still this one at the end.
        let file = file_at(target, making)?;
        let raw = block_on(file.load())?;

        let rehearsal = atomic::temporary_path(target);
        let written = (|| {
            let new = self.form.at(&rehearsal, making)?;
            save(&new, document.bytes(), &Revision::absent(), &still_held, &rehearsal)?;
            // Opened anew, by keys that come from their source anew.
            if block_on(self.form.at(&rehearsal, making)?.load())?.bytes != *document.bytes() {
                return Err(not_as_written(&rehearsal));
            }
            Ok(block_on(file_at(&rehearsal, making)?.load())?.bytes)
        })();
        let _ = std::fs::remove_file(&rehearsal);
        let written = written?;

        let kept = if self.keep { Some(self.keep_old(&raw.bytes)?) } else { None };
        if !file.is_current(&raw.revision)? || !self.old.is_current(&revision)? {
            return Err(contended(self.path));
        }
        save(&file, &written, &raw.revision, &still_held, self.path)?;
        let new = self.form.at(self.path, making)?;
        carry_state(self.old, self.path, &new, self.path, making);
        Ok(kept)
    }

    fn keep_old(&self, content: &SecretBytes) -> Result<PathBuf, Error> {
        let time = quarantine::utc(SystemClock.now());
        let mut number = 1;
        loop {
            let suffix = format!("{KEPT}{}", quarantine::numbered(&time, number));
            let path = access::with_suffix(&self.place.target, &suffix);
            let file = file_at(&path, &self.place.making)?;
            match block_on(file.save(content, &Revision::absent(), &Fence::new(&|| true)))? {
                Saved::Saved(_) => return Ok(path),
                // Another one of this second.
                Saved::Conflict if number < quarantine::MOST => number += 1,
                Saved::Conflict => return Err(contended(&path)),
            }
        }
    }
}

/// Takes along what is remembered beside a document. It is no loss if that fails.
fn carry_state(old: &dyn Persistence, from: &Path, new: &dyn Persistence, to: &Path, making: &Making) {
    if let Err(error) = try_to_carry_state(old, from, new, to, making) {
        tracing::warn!(%error, "what was remembered beside the cache was not taken along; it is learned again");
    }
}

fn try_to_carry_state(
    old: &dyn Persistence,
    from: &Path,
    new: &dyn Persistence,
    to: &Path,
    making: &Making,
) -> Result<(), Error> {
    let state = block_on(old.beside(&state_of(from))?.load())?.bytes;
    if state.is_empty() {
        return Ok(());
    }
    let file = new.beside(&state_of(to))?;
    // What is there in the old form is replaced as a whole.
    let revision = match block_on(file.load()) {
        Ok(there) => there.revision,
        Err(_) => block_on(file_at(&state_of(to), making)?.load())?.revision,
    };
    save(&file, &state, &revision, &|| true, to)
}

/// The document, if it is one: what is no cache is not taken for one and moved. One that a peer is writing at this
/// moment is read again, for as long as a change would wait for it.
fn load_cache(persistence: &dyn Persistence) -> Result<(Document, Revision), Error> {
    const PAUSE: Duration = Duration::from_millis(50);

    let patience = Deadline::after(Duration::from_secs(1));
    loop {
        let Loaded { bytes, revision } = block_on(persistence.load())?;
        match Document::parse(bytes) {
            Ok(document) => {
                document.require_sections()?;
                return Ok((document, revision));
            }
            Err(error) if error.may_be_torn() && !patience.has_passed() => block_on(sleep(PAUSE)),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Takes the lock of a document. Where a group shares that, it shares the lock files too.
fn lock(persistence: &dyn Persistence, timeout: Duration, place: &Place) -> Result<DocumentLock, Error> {
    let paths = LockPaths::of(persistence);
    let lock = block_on(DocumentLock::acquire(&paths, timeout))?;
    if let Some(like) = &place.making.like {
        for path in paths.files() {
            // Fails for one of another member, who has shared it already.
            let opened = access::cautious_options().read(true).open(path);
            let _ = opened.and_then(|file| access::adopt_group(&file, like));
        }
    }
    Ok(lock)
}

/// Refuses a new location that Strongroom itself uses for what is at the old one, or the other way round: removing
/// the old document would remove the new one with it.
fn refuse_entangled(from: &Path, to: &Path) -> Result<(), Error> {
    let (old, _) = access::resolve_links(from)?;
    let (new, _) = access::resolve_links(to)?;
    let pairs = [(from, to), (from, &*new), (&*old, to), (&*old, &*new)];
    let role = pairs.into_iter().find_map(|(from, to)| {
        let of_old = file::role_beside(to, from).map(|role| (to, role, from));
        of_old.or_else(|| file::role_beside(from, to).map(|role| (from, role, to)))
    });
    let left_over = |(from, to): &(&Path, &Path)| {
        let is_of = |target: &Path, path: &Path| {
            path.file_name().is_some_and(|name| {
                let aside = access::with_suffix(target, quarantine::MARK);
                let aside = aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
                atomic::is_temporary_name(target, name) || name.to_string_lossy().starts_with(&aside)
            })
        };
        access::directory_of(from) == access::directory_of(to) && (is_of(from, to) || is_of(to, from))
    };
    let message = match role {
        Some((path, role, document)) => {
            format!("{} is {role}, of the cache at {}", path.display(), document.display())
        }
        None if pairs.iter().any(left_over) => {
            format!("{} has a name that Strongroom gives to files and removes", to.display())
        }
        None => return Ok(()),
    };
    Err(Error::new(ErrorKind::Configuration, "location_in_use", message)
        .with_remedy("choose a new location with another name"))
}

fn save(
    persistence: &dyn Persistence,
    bytes: &SecretBytes,
    expected: &Revision,
    still_held: &(dyn Fn() -> bool + Sync),
    path: &Path,
) -> Result<(), Error> {
    match block_on(persistence.save(bytes, expected, &Fence::new(still_held)))? {
        Saved::Saved(_) => Ok(()),
        Saved::Conflict => Err(contended(path)),
    }
}

fn file_at(path: &Path, making: &Making) -> Result<FilePersistence, Error> {
    FilePersistence::builder(path).made(making.clone()).peers_lock(false).build()
}

fn state_of(path: &Path) -> PathBuf {
    access::with_suffix(path, ".state")
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// Whether two paths lead to one file, by whatever names.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| access::FileId::at(&path.canonicalize().ok()?).ok();
    id(one).is_some_and(|one| id(other) == Some(one))
}

fn in_use(path: &Path) -> Error {
    let message = format!("there is something at {} already", path.display());
    Error::new(ErrorKind::Configuration, "location_in_use", message)
        .with_remedy("choose a new location where nothing is yet")
}

fn contended(path: &Path) -> Error {
    PersistenceError::Contended { location: path.display().to_string(), attempts: 1 }.into()
}

fn not_as_written(path: &Path) -> Error {
    let message = format!("{} does not read back as it was written", path.display());
    Error::new(ErrorKind::Storage, "not_as_written", message)
        .with_remedy("check the file system; the old document was left as it was")
}

fn nothing_at(path: &Path) -> Error {
    Error::new(ErrorKind::Configuration, "no_cache", format!("there is no cache at {}", path.display()))
        .with_remedy("check the path")
}
