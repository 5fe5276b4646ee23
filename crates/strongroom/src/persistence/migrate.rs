//! Keeping a document otherwise than before: sealed, opened, sealed anew, somewhere else.
//!
//! What was written is read back and compared before anything is replaced or removed, so whatever goes wrong, one
//! complete document is there, in the old form or the new.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::access;
use super::lock::{DocumentLock, LockPaths};
use super::quarantine;
use super::select::{Configured, Found};
use super::{
    Choice, ChosenPersistence, Fence, FilePersistence, Kind, Persistence, PersistenceError, Protection,
    Revision, Saved, SealedPersistence, builder, sealed_with,
};
use crate::env_vars::Environment;
use crate::error::ErrorKind;
use crate::seal::{KeyId, KeySelector, KeySource, SealError};
use crate::time::{Clock as _, SystemClock};
use crate::wait::block_on;
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
        to: Kind::Auto,
        from_key_source: None,
        key_source: None,
        new_location: None,
        keep: false,
        min_protection: Protection::None,
        lock_timeout: Duration::from_secs(10),
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
    let path = path.into();
    let mut builder = builder(&path).kind(Kind::Sealed).keep_lost();
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
        return Ok(None);
    }
    let lock = block_on(DocumentLock::acquire(&LockPaths::of(&old), Duration::from_secs(10)))?;
    let form = Form::Sealed(Arc::clone(&unlocked.source));
    InPlace { path: &path, old: &old, form, keep: false }.run(&lock)?;
    // A passphrase gives each envelope a key of its own.
    Ok(sealed_with(&path)?.map(|sealed_with| *sealed_with.key_id()))
}

/// A change of how a document is kept. See [`migrate`].
#[derive(Debug, Clone)]
#[must_use]
pub struct Migration {
    path: PathBuf,
    from: Kind,
    to: Kind,
    from_key_source: Option<KeySelector>,
    key_source: Option<KeySelector>,
    new_location: Option<PathBuf>,
    keep: bool,
    min_protection: Protection,
    lock_timeout: Duration,
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
    /// What the document is now: by default what lies there. Only of an item in a keyring it has to be said, because
    /// nothing but its signal file lies there.
    pub fn from(mut self, kind: Kind) -> Self {
        self.from = kind;
        self
    }

    /// What the document is to become: by default what the platform does best. An item of a keyring and a file cannot
    /// have one location: from one to the other takes a [`new_location`](Self::new_location).
    pub fn to(mut self, kind: Kind) -> Self {
        self.to = kind;
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

    /// Does it.
    ///
    /// # Errors
    /// `no_cache`: nothing is there. `location_in_use`: something is at the new location. `new_location_needed`: from
    /// or to a keyring none was given. `feature_missing`: this build does not have the kind. Those of opening the old
    /// document and of choosing how the new one is kept. `Locked`, `Contended`, `Storage`. The old document is as
    /// it was.
    pub fn run(self) -> Result<Migrated, Error> {
        let mut from = builder(&self.path).keep_lost();
        if let Some(selector) = self.from_key_source.clone() {
            from = from.key_source(selector);
        }
        let is_in_keyring = self.from.is_keyring();
        if !is_in_keyring && matches!(from.look()?, Found::Nothing) {
            return Err(nothing_at(&self.path));
        }
        let old = if is_in_keyring { from.kind(self.from).build()? } else { from.open()? };
        match &self.new_location {
            Some(new) if !is_same(&self.path, new) => self.move_to(new, &old),
            _ if is_in_keyring || self.to.is_keyring() => {
                let message =
                    format!("{} is the signal file of a keyring, and cannot be a cache", self.path.display());
                Err(Error::new(ErrorKind::Configuration, "new_location_needed", message)
                    .with_remedy("give a new location for the cache"))
            }
            _ => self.in_place(&old),
        }
    }

    fn in_place(&self, old: &ChosenPersistence) -> Result<Migrated, Error> {
        let configured = Configured::new(Environment::read());
        let form = match (self.to, &self.key_source) {
            (Kind::File, _) => Form::Plain,
            (Kind::Dpapi, _) => Form::protected()?,
            (Kind::Auto, None) if cfg!(windows) => Form::protected()?,
            (_, Some(selector)) => Form::Sealed(configured.source(selector)?),
            (_, None) => Form::Sealed(block_on(configured.source_for_new(&self.path.display()))?.0),
        };
        let (kind, key_source, protection) = form.described();
        self.check(protection)?;
        let lock = block_on(DocumentLock::acquire(&LockPaths::of(old), self.lock_timeout))?;
        let kept = InPlace { path: &self.path, old, form, keep: self.keep }.run(&lock)?;
        let from = old.choice().clone();
        Ok(Migrated { from, location: self.path.clone(), kind, key_source, protection, kept })
    }

    fn move_to(&self, path: &Path, old: &ChosenPersistence) -> Result<Migrated, Error> {
        let mut to = builder(path).kind(self.to).min_protection(self.min_protection);
        if let Some(selector) = self.key_source.clone() {
            to = to.key_source(selector);
        }
        if !matches!(to.look()?, Found::Nothing | Found::Blank) {
            let message = format!("there is something at {} already", path.display());
            return Err(Error::new(ErrorKind::Configuration, "location_in_use", message)
                .with_remedy("choose a new location where nothing is yet"));
        }
        let new = to.build()?;
        // In the order of their paths, so that two that move the other way round do not wait for each other.
        let (mut first, mut second) = (LockPaths::of(old), LockPaths::of(&new));
        if path < self.path.as_path() {
            std::mem::swap(&mut first, &mut second);
        }
        let first = block_on(DocumentLock::acquire(&first, self.lock_timeout))?;
        let second = block_on(DocumentLock::acquire(&second, self.lock_timeout))?;
        let still_held = || first.still_held() && second.still_held();

        let document = block_on(old.load())?;
        if self.from.is_keyring() && document.bytes.is_empty() {
            return Err(nothing_at(&self.path));
        }
        let there = block_on(new.load())?;
        if !there.bytes.is_empty() {
            return Err(contended(path));
        }
        save(&new, &document.bytes, &there.revision, &still_held, path)?;
        let written = block_on(new.load())?;
        if written.bytes != document.bytes {
            return Err(not_as_written(path));
        }
        carry_state(old, &self.path, Some(&new), path);
        if !self.keep {
            // A keyring's signal file that is young proves nothing: then its item is compared.
            let is_same =
                old.is_current(&document.revision)? || block_on(old.load())?.revision == document.revision;
            if !still_held() || !is_same {
                return Err(contended(&self.path));
            }
            block_on(old.remove())?;
            if let Ok(state) = old.beside(&state_of(&self.path)) {
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
            kept: self.keep.then(|| self.path.clone()),
        })
    }

    fn check(&self, has: Protection) -> Result<(), Error> {
        if has >= self.min_protection {
            return Ok(());
        }
        let (location, least) = (self.path.display().to_string(), self.min_protection);
        Err(SealError::ProtectionTooLow { location, has, least }.into())
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

    fn at(&self, path: &Path) -> Result<Box<dyn Persistence>, Error> {
        let file = file_at(path)?;
        Ok(match self {
            Self::Plain => Box::new(file),
            Self::Sealed(source) => Box::new(SealedPersistence::new(file, Arc::clone(source))),
            #[cfg(windows)]
            Self::Protected => Box::new(super::FilePersistenceWithDataProtection::over(file)),
        })
    }
}

/// Replaces a document by itself in another form.
struct InPlace<'a> {
    path: &'a Path,
    old: &'a ChosenPersistence,
    form: Form,
    keep: bool,
}

impl InPlace<'_> {
    /// Says where the old document is kept.
    fn run(self, lock: &DocumentLock) -> Result<Option<PathBuf>, Error> {
        let still_held = || lock.still_held();
        let document = block_on(self.old.load())?;
        // As the file is, to be kept, and to be sure that it is still this one at the end.
        let file = file_at(self.path)?;
        let raw = block_on(file.load())?;

        let rehearsal = access::with_suffix(self.path, &format!(".{}.tmp", uuid::Uuid::new_v4().simple()));
        let written = (|| {
            let new = self.form.at(&rehearsal)?;
            save(&new, &document.bytes, &Revision::absent(), &still_held, &rehearsal)?;
            // Opened anew, by keys that come from their source anew.
            if block_on(self.form.at(&rehearsal)?.load())?.bytes != document.bytes {
                return Err(not_as_written(&rehearsal));
            }
            Ok(block_on(file_at(&rehearsal)?.load())?.bytes)
        })();
        let _ = std::fs::remove_file(&rehearsal);
        let written = written?;

        let kept = if self.keep { Some(self.keep_old(&raw.bytes)?) } else { None };
        if !file.is_current(&raw.revision)? || !self.old.is_current(&document.revision)? {
            return Err(contended(self.path));
        }
        save(&file, &written, &raw.revision, &still_held, self.path)?;
        let new = self.form.at(self.path)?;
        carry_state(self.old, self.path, Some(&new), self.path);
        Ok(kept)
    }

    fn keep_old(&self, content: &SecretBytes) -> Result<PathBuf, Error> {
        let suffix = format!(".old-{}", quarantine::utc(SystemClock.now()));
        let path = access::with_suffix(self.path, &suffix);
        let file = file_at(&path)?;
        save(&file, content, &Revision::absent(), &|| true, &path)?;
        Ok(path)
    }
}

/// Takes along what is remembered beside a document. It is no loss if that fails.
fn carry_state(old: &dyn Persistence, from: &Path, new: Option<&dyn Persistence>, to: &Path) {
    let carry = || -> Result<(), Error> {
        let state = block_on(old.beside(&state_of(from))?.load())?.bytes;
        let Some(new) = new.filter(|_| !state.is_empty()) else { return Ok(()) };
        let file = new.beside(&state_of(to))?;
        // What is there in the old form is replaced as a whole.
        let revision = match block_on(file.load()) {
            Ok(there) => there.revision,
            Err(_) => block_on(file_at(&state_of(to))?.load())?.revision,
        };
        save(&file, &state, &revision, &|| true, to)
    };
    if let Err(error) = carry() {
        tracing::warn!(%error, "what was remembered beside the cache was not taken along; it is learned again");
    }
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

fn file_at(path: &Path) -> Result<FilePersistence, Error> {
    FilePersistence::builder(path).peers_lock(false).build()
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
