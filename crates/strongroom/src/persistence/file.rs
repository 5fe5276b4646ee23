//! One document as a plain file, such as the other MSALs read and write.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use zeroize::Zeroizing;

use super::access::{self, OWNER_ONLY};
use super::atomic::{self, Replacement, StepObserver};
use super::file_system::FileSystem;
use super::probe::Probe;
use super::revision::{Granularity, Stamp, Verdict};
use super::{
    BoxFuture, Fence, LARGEST_BESIDE, Loaded, Location, Persistence, PersistenceError, Protection, Revision,
    Saved, quarantine,
};
use crate::platform::memory;
use crate::{Error, SecretBytes};

/// A document in a plain file: not encrypted, readable by its owner alone, shared with the other MSALs.
///
/// Writes are atomic and durable; a symbolic link is followed if it belongs to this user, and then the file that
/// it names is replaced, not the link.
///
/// ```
/// # fn main() -> Result<(), strongroom::Error> {
/// let persistence = strongroom::FilePersistence::new("token_cache.bin")?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FilePersistence {
    location: PathBuf,
    lock_path: Option<PathBuf>,
    mode: u32,
    only_looks: bool,
    of_trusted_owner: bool,
    max_size: u64,
    like: Option<Metadata>,
    observer: Option<StepObserver>,
    swept: Arc<Swept>,
}

impl FilePersistence {
    /// The document at `path`, with the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// `Configuration`: the path cannot name a file.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder(path).build()
    }

    /// The document at `path`, to be configured. Nothing needs to be there yet: the file, and the directories
    /// that lead to it, are created at the first save.
    pub fn builder(path: impl Into<PathBuf>) -> FilePersistenceBuilder {
        FilePersistenceBuilder {
            path: path.into(),
            mode: OWNER_ONLY,
            only_looks: false,
            of_trusted_owner: false,
            peers_lock: true,
            lock_path: None,
            max_size: 256 << 20,
            like: None,
            observer: None,
        }
    }

    fn load_now(&self) -> Result<Loaded, PersistenceError> {
        /// A document that is replaced or written while it is read is read again, this many times in all.
        const ATTEMPTS: u32 = 4;

        let mut attempt = 1;
        loop {
            let last = attempt == ATTEMPTS;
            match self.read()? {
                Reading::Absent => {
                    return Ok(Loaded { bytes: SecretBytes::default(), revision: Revision::absent() });
                }
                Reading::File(content) if content.stable || last => {
                    let Content { bytes, stamp, granularity, stable, probe } = content;
                    let revision = Revision::of_file(stamp, &bytes, granularity, stable, probe);
                    return Ok(Loaded { bytes, revision });
                }
                Reading::Replaced if last => {
                    return Err(PersistenceError::Contended {
                        location: self.location.display().to_string(),
                        attempts: ATTEMPTS,
                    });
                }
                Reading::File(_) | Reading::Replaced => attempt += 1,
            }
        }
    }

    /// Reads the file as it is now.
    fn read(&self) -> Result<Reading, PersistenceError> {
        match self.open()? {
            Opened::Absent => Ok(Reading::Absent),
            Opened::Replaced => Ok(Reading::Replaced),
            Opened::File(file, target) => self.read_open(file, &target),
        }
    }

    fn open(&self) -> Result<Opened, PersistenceError> {
        let (target, found) = access::resolve_links(&self.location)?;
        if let Some(found) = found.as_ref().and_then(access::not_a_file) {
            return Err(PersistenceError::NotAFile { path: target, found });
        }
        // Also where nothing is yet: a request whose token could never be stored is better not sent.
        access::check_directory(access::directory_of(&target))?;
        if found.is_none() {
            return Ok(Opened::Absent);
        }
        match access::despite_others(|| access::cautious_options().read(true).open(&target)) {
            Ok(file) => Ok(Opened::File(file, target)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Opened::Absent),
            Err(error) if access::is_link_error(&error) => Ok(Opened::Replaced),
            Err(source) => Err(PersistenceError::io("open", &target, source)),
        }
    }

    fn read_open(&self, file: File, target: &Path) -> Result<Reading, PersistenceError> {
        let stamp = self.admit(&file, target)?;
        let Some(bytes) = read_bounded(&file, stamp.size, self.max_size)
            .map_err(|source| PersistenceError::io("read", target, source))?
        else {
            let (path, limit) = (target.to_owned(), self.max_size);
            return Err(PersistenceError::TooLarge { path, size: stamp.size.max(limit + 1), limit });
        };
        let is_whole = u64::try_from(bytes.len()).ok() == Some(stamp.size);
        let stable = is_whole && stamp_of(&file, target)? == stamp;
        let file_system = FileSystem::of(&file);
        let granularity = Granularity::of(file_system, &stamp);
        let probe = self.probe(file, target, file_system);
        Ok(Reading::File(Content { bytes, stamp, granularity, stable, probe }))
    }

    /// Whether this open file may be read as the document: its stamps.
    fn admit(&self, file: &File, target: &Path) -> Result<Stamp, PersistenceError> {
        let found = look_at(file, target)?;
        if let Some(found) = access::not_a_file(&found) {
            return Err(PersistenceError::NotAFile { path: target.to_owned(), found });
        }
        if self.of_trusted_owner {
            access::require_trusted_owner(target, &found, self.mode)?;
        }
        if self.only_looks {
            if let Some(has) = access::wider(file, &found, self.mode) {
                tracing::warn!(path = %target.display(), "the cache has {has}, others can use it");
            }
        } else if let Ok(Some(had)) = access::tighten(file, &found, self.mode) {
            // A file system that does not let us do this lets others read no more than before.
            tracing::warn!(path = %target.display(), "the cache had {had}, others could use it; tightened");
            return stamp_of(file, target);
        }
        Ok(Stamp::of(&found))
    }

    fn look_through_now(
        &self,
        reader: &mut dyn FnMut(&[u8]) -> usize,
    ) -> Result<Option<Revision>, PersistenceError> {
        // Nearly all are small: that must cost no more than a look.
        let (_, found) = access::resolve_links(&self.location)?;
        if found.is_none_or(|found| found.len() < LARGE) {
            return Ok(None);
        }
        let Opened::File(file, target) = self.open()? else { return Ok(None) };
        let stamp = self.admit(&file, &target)?;
        if !(LARGE..=self.max_size).contains(&stamp.size) {
            return Ok(None);
        }
        let is_done = show_all(&file, stamp.size, reader)
            .map_err(|source| PersistenceError::io("read", &target, source))?;
        if !is_done || stamp_of(&file, &target)? != stamp {
            return Ok(None);
        }
        let file_system = FileSystem::of(&file);
        let granularity = Granularity::of(file_system, &stamp);
        let probe = self.probe(file, &target, file_system);
        Ok(Revision::of_file_that_was_seen(stamp, granularity, probe))
    }

    /// Keeps the file open for the look-ups to come. Where a link leads to it, only the path can tell whether it
    /// still does.
    fn probe(&self, file: File, target: &Path, file_system: FileSystem) -> Option<Probe> {
        (target == self.location).then(|| Probe::of(file, file_system)).flatten()
    }

    fn save_now(
        &self,
        bytes: &SecretBytes,
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> Result<Saved, PersistenceError> {
        let size = bytes.len() as u64;
        if size > self.max_size {
            let (path, limit) = (self.location.clone(), self.max_size);
            return Err(PersistenceError::TooLarge { path, size, limit });
        }
        let (target, old) = self.writable_target()?;
        if old.is_none() {
            access::prepare_directory(access::directory_of(&target), self.mode)?;
        }
        self.sweep(&target);

        let replacement = Replacement {
            target: &target,
            old: old.as_ref(),
            like: self.like.as_ref(),
            bytes: bytes.expose(),
            mode: self.mode,
            observer: self.observer.as_ref(),
        };
        let may_replace = || Ok(fence.holds() && self.still_is(expected, true)? && fence.holds());
        let Some(file) = replacement.run(may_replace)? else { return Ok(Saved::Conflict) };
        let revision = self.revision_of_new(&file, &target, bytes)?;

        // Who wants the lock need not wait for the directory. The next writer builds on what may yet be lost in a crash,
        // but so is then what he wrote: he tells nobody before he has synced the directory himself, and his name stands
        // there for our change and his. We tell nobody before our sync, after which the name is that of our file or of one
        // that came later. Whatever a crash leaves, it is one of the documents that were written and synced as a whole.
        // Writers that queue share the commits of the file system's journal like this.
        //
        // On Windows it is the file that is synced, which is not to be in the way of the next one.
        if cfg!(not(windows)) {
            fence.replaced(&revision);
        }
        replacement.make_durable(&file)?;
        Ok(Saved::Saved(revision))
    }

    /// The revision of the document that has just been written into `file`.
    fn revision_of_new(
        &self,
        file: &File,
        target: &Path,
        bytes: &SecretBytes,
    ) -> Result<Revision, PersistenceError> {
        // Whoever has already written into the new file has changed at least its content: with our length and
        // our bytes the revision does not cover that.
        let stamp = stamp_of(file, target)?.with_size(bytes.len() as u64);
        let file_system = FileSystem::of(file);
        let granularity = Granularity::of(file_system, &stamp);
        // Opened anew: a descriptor that can write would stand in the way of whoever makes the disk read-only.
        let kept = access::cautious_options().read(true).open(target).ok();
        let probe = kept.and_then(|kept| self.probe(kept, target, file_system));
        Ok(Revision::of_file(stamp, bytes, granularity, false, probe))
    }

    /// Where a write goes and what is there, if it may be replaced by us.
    fn writable_target(&self) -> Result<(PathBuf, Option<Metadata>), PersistenceError> {
        let (target, found) = access::resolve_links(&self.location)?;
        if let Some(found) = &found {
            if let Some(found) = access::not_a_file(found) {
                return Err(PersistenceError::NotAFile { path: target, found });
            }
            access::check_directory(access::directory_of(&target))?;
            access::require_owner(&target, found, self.mode)?;
        }
        Ok((target, found))
    }

    fn remove_now(&self) -> Result<(), PersistenceError> {
        let (target, Some(_)) = self.writable_target()? else { return Ok(()) };
        match access::despite_others(|| std::fs::remove_file(&target)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(PersistenceError::io("remove", &target, source)),
        }
        let directory = access::directory_of(&target);
        access::sync_directory(directory)
            .map_err(|source| PersistenceError::io("sync the directory", directory, source))
    }

    /// Whether the path still names this state of the document. With `exact` equal stamps are not relied upon
    /// while they are young, as a look-up does for a moment.
    fn still_is(&self, revision: &Revision, exact: bool) -> Result<bool, PersistenceError> {
        let found = match std::fs::metadata(&self.location) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(revision.is_absent()),
            Err(source) => return Err(PersistenceError::io("look at", &self.location, source)),
        };
        match revision.compare(&Stamp::of(&found)) {
            Verdict::Changed => return Ok(false),
            Verdict::Young(state) if exact || state.is_due() => {
                if !state.confirm(Instant::now(), |content| self.has_content(revision, content))? {
                    return Ok(false);
                }
            }
            Verdict::Same | Verdict::Young(_) => {}
        }
        revision.path_was_seen();
        Ok(true)
    }

    /// Whether this revision's file is there and has this content.
    fn has_content(&self, revision: &Revision, content: &[u8]) -> Result<bool, PersistenceError> {
        let Opened::File(file, target) = self.open()? else { return Ok(false) };
        let bears_the_stamps = || {
            let found = file.metadata().map_err(|source| PersistenceError::io("look at", &target, source))?;
            Ok(!matches!(revision.compare(&Stamp::of(&found)), Verdict::Changed))
        };
        let is_equal =
            || is_content_of(&file, content).map_err(|source| PersistenceError::io("read", &target, source));
        Ok(bears_the_stamps()? && is_equal()? && bears_the_stamps()?)
    }

    fn set_aside_now(&self, expected: &Revision) -> Result<Option<String>, PersistenceError> {
        let (target, Some(_)) = self.writable_target()? else { return Ok(None) };
        if !self.still_is(expected, true)? {
            return Ok(None);
        }
        let path = quarantine::set_aside(&target, expected)?;
        Ok(path.map(|path| path.display().to_string()))
    }

    /// Looks for left-over temporary files at the first write, and then now and again. Before the write, so that
    /// what they occupy on a full disk is free for it.
    fn sweep(&self, target: &Path) {
        if self.swept.is_due() {
            atomic::sweep(target);
        }
    }
}

impl Persistence for FilePersistence {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        Box::pin(async move { Ok(self.load_now()?) })
    }

    fn look_through<'a>(
        &'a self,
        reader: &'a mut (dyn FnMut(&[u8]) -> usize + Send),
    ) -> BoxFuture<'a, Result<Option<Revision>, Error>> {
        Box::pin(async move { Ok(self.look_through_now(reader)?) })
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        Box::pin(async move { Ok(self.save_now(bytes, expected, fence)?) })
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { Ok(self.remove_now()?) })
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        Ok(revision.shows_current() || self.still_is(revision, false)?)
    }

    fn set_aside<'a>(&'a self, expected: &'a Revision) -> BoxFuture<'a, Result<Option<String>, Error>> {
        Box::pin(async move { Ok(self.set_aside_now(expected)?) })
    }

    fn beside(&self, path: &Path) -> Result<Box<dyn Persistence>, Error> {
        let file = Self::builder(path).mode(self.mode).only_looks(self.only_looks).peers_lock(false);
        let making = Making { mode: self.mode, like: self.like.clone(), observer: None };
        Ok(Box::new(file.made(making).max_size(LARGEST_BESIDE).build()?))
    }

    fn lock_path(&self) -> Option<PathBuf> {
        self.lock_path.clone()
    }

    fn lock_mode(&self) -> u32 {
        self.mode
    }

    fn location(&self) -> Location {
        Location::File(self.location.clone())
    }

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn kind(&self) -> &'static str {
        "file"
    }
}

impl fmt::Debug for FilePersistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePersistence")
            .field("location", &self.location)
            .field("lock_path", &self.lock_path)
            .field("mode", &format_args!("{:04o}", self.mode))
            .field("max_size", &self.max_size)
            .finish_non_exhaustive()
    }
}

/// Configures a [`FilePersistence`].
#[must_use]
pub struct FilePersistenceBuilder {
    path: PathBuf,
    mode: u32,
    only_looks: bool,
    of_trusted_owner: bool,
    peers_lock: bool,
    lock_path: Option<PathBuf>,
    max_size: u64,
    like: Option<Metadata>,
    observer: Option<StepObserver>,
}

/// How the files of a document are made.
#[derive(Debug, Clone)]
pub(super) struct Making {
    /// Permission bits.
    pub(super) mode: u32,
    /// The file whose group they get, where a group shares them.
    pub(super) like: Option<Metadata>,
    pub(super) observer: Option<StepObserver>,
}

impl Making {
    /// For their owner alone.
    pub(super) const PRIVATE: Self = Self { mode: OWNER_ONLY, like: None, observer: None };

    /// As the document that is there: shared with the group that shares it, else for their owner alone.
    pub(super) fn as_of(target: &Path, found: Option<Metadata>) -> Self {
        match found.filter(|found| access::is_shared_by_group(target, found)) {
            Some(found) => Self { mode: access::GROUP, like: Some(found), observer: None },
            None => Self::PRIVATE,
        }
    }
}

impl FilePersistenceBuilder {
    /// Though it is only looked at, it must be of this user or root.
    pub(super) fn of_trusted_owner(mut self) -> Self {
        self.of_trusted_owner = true;
        self
    }

    pub(super) fn made(mut self, making: Making) -> Self {
        (self.mode, self.like, self.observer) = (making.mode, making.like, making.observer);
        self
    }

    /// Permission bits of the document and of our side files, 0600 by default. 0660 shares them with the
    /// directory's group: then files of other owners are accepted.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// For who only looks at what is there and acts on none of it: a document of another user is read too, and one of
    /// ours with wider permissions is not tightened. Default: no.
    pub fn only_looks(mut self, only_looks: bool) -> Self {
        self.only_looks = only_looks;
        self
    }

    /// Whether the lock file of the other MSALs is taken for a write, by default yes. Without it a write costs
    /// less, and only Strongroom may use the file.
    pub fn peers_lock(mut self, wanted: bool) -> Self {
        self.peers_lock = wanted;
        self
    }

    /// The lock file of the other MSALs, by default the document's path with `.lockfile` appended.
    pub fn lock_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.lock_path = Some(path.into());
        self.peers_lock = true;
        self
    }

    /// The largest document that is read or written, in bytes; 256 MiB by default.
    pub fn max_size(mut self, bytes: u64) -> Self {
        self.max_size = bytes;
        self
    }

    /// Tells `observer` each step of a write before it is done, and fails the step if it says so. For tests.
    #[cfg(any(test, feature = "test-support"))]
    pub fn observe_steps(
        mut self,
        observer: Arc<dyn Fn(super::Step) -> io::Result<()> + Send + Sync>,
    ) -> Self {
        self.observer = Some(StepObserver(observer));
        self
    }

    /// The persistence. Touches no file.
    ///
    /// # Errors
    /// `Configuration`: a path cannot name a file (`invalid_path`), the lock path is a file that Strongroom uses
    /// for something else (`lock_path_taken`), or the mode gives others access or takes it from the owner
    /// (`invalid_mode`).
    pub fn build(self) -> Result<FilePersistence, Error> {
        let location = absolute(&self.path)?;
        if self.mode & !0o660 != 0 || self.mode & OWNER_ONLY != OWNER_ONLY {
            return Err(PersistenceError::InvalidMode { mode: self.mode }.into());
        }
        let lock_path = match (self.peers_lock, &self.lock_path) {
            (false, _) => None,
            (true, None) => Some(access::with_suffix(&location, super::lock::PEERS_SUFFIX)),
            (true, Some(path)) => Some(checked_lock_path(path, &location)?),
        };
        Ok(FilePersistence {
            location,
            lock_path,
            mode: self.mode,
            only_looks: self.only_looks,
            of_trusted_owner: self.of_trusted_owner || !self.only_looks,
            max_size: self.max_size,
            like: self.like,
            observer: self.observer,
            swept: Arc::default(),
        })
    }
}

impl fmt::Debug for FilePersistenceBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePersistenceBuilder").field("path", &self.path).finish_non_exhaustive()
    }
}

fn checked_lock_path(path: &Path, location: &Path) -> Result<PathBuf, PersistenceError> {
    let path = absolute(path)?;
    let is_default = names_same(&path, &access::with_suffix(location, super::lock::PEERS_SUFFIX));
    match role_beside(&path, location).filter(|_| !is_default) {
        Some(role) => Err(PersistenceError::LockPathTaken { path, document: location.to_owned(), role }),
        None => Ok(path),
    }
}

/// What `path` is to the document at `location`, if something of it lies there.
pub(super) fn role_beside(path: &Path, location: &Path) -> Option<&'static str> {
    const TAKEN: [(&str, &str); 6] = [
        (super::lock::PEERS_SUFFIX, "the lock file of other programs"),
        ("", "the document itself"),
        (".lock", "the lock file of Strongroom's own processes"),
        (".flight", "the file that coordinates requests"),
        (".state", "the file of Strongroom's own records"),
        (".state.lock", "the lock file of Strongroom's own records"),
    ];
    let is_one = |(suffix, _): &&(&str, &str)| names_same(path, &access::with_suffix(location, suffix));
    TAKEN.iter().find(is_one).map(|(_, role)| *role)
}

/// The path from the root, so that a later change of the working directory does not move the document.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, PersistenceError> {
    let invalid = || PersistenceError::InvalidPath { path: path.to_owned() };
    let absolute = std::path::absolute(path).map_err(|_| invalid())?;
    match (absolute.parent(), absolute.file_name()) {
        // Puts `name/` right as well.
        (Some(parent), Some(name)) => Ok(parent.join(name)),
        _ => Err(invalid()),
    }
}

/// Whether two paths name the same file, their directories spelled differently perhaps.
pub(super) fn names_same(one: &Path, other: &Path) -> bool {
    let directory = |path: &Path| {
        let directory = access::directory_of(path);
        directory.canonicalize().unwrap_or_else(|_| directory.to_owned())
    };
    one.file_name() == other.file_name() && directory(one) == directory(other)
}

/// When left-over files were last looked for.
#[derive(Debug)]
struct Swept {
    made: Instant,
    /// Seconds after `made` from when on it is time to look again.
    due: AtomicU64,
}

impl Default for Swept {
    fn default() -> Self {
        Self { made: Instant::now(), due: AtomicU64::new(0) }
    }
}

impl Swept {
    /// Whether to look now: so is told one of those who ask at the same time.
    fn is_due(&self) -> bool {
        const INTERVAL: u64 = 600;
        let now = self.made.elapsed().as_secs();
        let due = self.due.load(Ordering::Relaxed);
        now >= due
            && self.due.compare_exchange(due, now + INTERVAL, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

enum Opened {
    Absent,
    /// The path named another file when it was opened than when it was looked at.
    Replaced,
    /// The file itself and its path, links followed.
    File(File, PathBuf),
}

enum Reading {
    Absent,
    /// The path named another file when it was opened than when it was looked at.
    Replaced,
    File(Content),
}

struct Content {
    bytes: SecretBytes,
    stamp: Stamp,
    granularity: Granularity,
    probe: Option<Probe>,
    /// Nobody has written to the file while it was read.
    stable: bool,
}

/// From this size on it is noticed whether a document is loaded or only looked through.
const LARGE: u64 = 1 << 20;

fn look_at(file: &File, target: &Path) -> Result<Metadata, PersistenceError> {
    file.metadata().map_err(|source| PersistenceError::io("look at", target, source))
}

fn stamp_of(file: &File, target: &Path) -> Result<Stamp, PersistenceError> {
    look_at(file, target).map(|found| Stamp::of(&found))
}

/// The content of a file of about `size` bytes; `None` if it has more than `limit`.
fn read_bounded(file: &File, size: u64, limit: u64) -> io::Result<Option<SecretBytes>> {
    if size > limit {
        return Ok(None);
    }
    // One byte more than expected, so that the end is seen without another buffer.
    let expected = usize::try_from(size).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut buffer = Zeroizing::new(memory::reserve(expected + 1));
    loop {
        let room = buffer.capacity() - buffer.len();
        if file.take(room as u64).read_to_end(&mut buffer)? < room {
            break;
        }
        if buffer.len() as u64 > limit {
            return Ok(None);
        }
        // It grows while it is read. A plain `reserve` could leave a copy behind that is not wiped.
        let mut larger = Zeroizing::new(memory::reserve(2 * buffer.len()));
        larger.extend_from_slice(&buffer);
        buffer = larger;
    }
    Ok(Some(SecretBytes::from(std::mem::take(&mut *buffer))))
}

/// Shows a file of `size` bytes to `reader`, and says whether that is all there was and the reader got through.
fn show_all(mut file: &File, size: u64, reader: &mut dyn FnMut(&[u8]) -> usize) -> io::Result<bool> {
    /// It stays in the processor's cache from the copying to the reading. Memory for the whole document would have to
    /// be given to us first, and costs more than both.
    const PIECE: usize = 256 * 1024;

    let mut window = Zeroizing::new(vec![0; PIECE]);
    let (mut shown, mut filled) = (0, 0);
    loop {
        let read = match file.read(&mut window[filled..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if read == 0 {
            return Ok(filled == 0 && shown == size);
        }
        (shown, filled) = (shown + read as u64, filled + read);
        let done = reader(&window[..filled]).min(filled);
        window.copy_within(done..filled, 0);
        filled -= done;
        if filled == PIECE {
            return Ok(false);
        }
    }
}

/// Whether the file holds just these bytes.
fn is_content_of(mut file: &File, mut expected: &[u8]) -> io::Result<bool> {
    /// A large document is not read into memory once more.
    const PIECE: usize = 64 * 1024;

    let mut piece = Zeroizing::new(vec![0; PIECE.min(expected.len() + 1)]);
    loop {
        let read = match file.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        match expected.strip_prefix(&piece[..read]) {
            Some(rest) if read > 0 => expected = rest,
            Some(rest) => return Ok(rest.is_empty()),
            None => return Ok(false),
        }
    }
}
