//! What the place of a document is like: what is used there and why, who else may use it, whether it can be written
//! and locked, and what others have left there.
//!
//! Changes nothing. A probe is written beside the document and removed again, sealed by the same keys; a key that is
//! not there yet is not made for that.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::access::{self, OWNER_ONLY};
use super::file_system::FileSystem;
use super::key_files::KeyFilesOnDisk;
use super::lock::{self, Held, LockState};
use super::select::Found;
use super::{
    ChosenPersistence, Fence, FilePersistence, Persistence, PersistenceBuilder, PersistenceError, Protection,
    Revision, Saved, atomic, quarantine,
};
use crate::platform::range_lock;
use crate::seal::{FileSource, KeyRing, KeySource, KeySourceKind};
use crate::time::{Clock as _, SystemClock};
use crate::wait::block_on;
use crate::{Error, SecretBytes, UnixSeconds};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at, in a word: `persistence`, `lock`, …
    pub check: &'static str,
    /// How it is.
    pub status: FindingStatus,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// How a [`Finding`] is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FindingStatus {
    /// Nothing is to be done.
    Ok,
    /// It works, and should be looked at.
    Warn,
    /// It does not work, or others can get at the secrets.
    Fail,
}

impl FindingStatus {
    /// The word used on the command line and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Finding {
    /// Nothing is to be done.
    pub fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, status: FindingStatus::Ok, message: message.into(), remedy: None }
    }

    /// It works, and should be looked at.
    pub fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (message, remedy) = (message.into(), Some(remedy.into()));
        Self { check, status: FindingStatus::Warn, message, remedy }
    }

    /// It does not work, or others can get at the secrets.
    pub fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (message, remedy) = (message.into(), Some(remedy.into()));
        Self { check, status: FindingStatus::Fail, message, remedy }
    }

    /// An error, with its remedy.
    #[must_use]
    pub fn of_error(check: &'static str, error: &Error) -> Self {
        let remedy = error.remedy().map(|remedy| remedy.into_owned());
        Self { check, status: FindingStatus::Fail, message: error.to_string(), remedy }
    }
}

impl PersistenceBuilder {
    /// What [`build`](Self::build) would choose and why, and whether all is well where the document lies. Changes
    /// nothing, but for a probe that is written beside the document and removed again.
    #[must_use]
    pub fn diagnose(&self) -> Vec<Finding> {
        let mut doctor = Doctor { builder: self.clone().only_looks(true), findings: Vec::new() };
        doctor.examine();
        doctor.findings
    }
}

struct Doctor {
    builder: PersistenceBuilder,
    findings: Vec<Finding>,
}

/// Where everything lies.
struct Place {
    /// The path that was given, from the root: our side files lie beside it.
    location: PathBuf,
    /// The file itself, links followed.
    target: PathBuf,
    /// What is there.
    found: Option<Metadata>,
}

impl Place {
    fn directory(&self) -> &Path {
        access::directory_of(&self.target)
    }

    fn side_file(&self, suffix: &str) -> PathBuf {
        access::with_suffix(&self.location, suffix)
    }
}

impl Doctor {
    fn examine(&mut self) {
        let Some(place) = self.place() else { return };
        let chosen = self.choice(&place);
        let key = chosen.as_ref().and_then(|chosen| self.key(chosen));
        if let Some(chosen) = &chosen {
            self.protection(chosen, key.as_ref(), &place);
        }
        let is_sealed = match &chosen {
            Some(chosen) => chosen.choice().protection.is_encrypted(),
            None => matches!(self.builder.look(), Ok(Found::Sealed(_))),
        };
        self.permissions(&place, is_sealed);
        self.owner(&place);
        self.directory(&place);
        self.locks(&place, chosen.as_ref());
        let ring = key.as_ref().and_then(|key| key.ring.as_ref());
        self.write(&place, chosen.as_ref().filter(|_| !is_sealed || ring.is_some()));
        self.space(&place);
        self.leftovers(&place);
        self.clock(&place, key.as_ref());
    }

    fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Says where the document is. Without that nothing else can be said.
    fn place(&mut self) -> Option<Place> {
        let resolved = super::file::absolute(&self.builder.path).and_then(|location| {
            let (target, found) = access::resolve_links(&location)?;
            Ok(Place { location, target, found })
        });
        let place = match resolved {
            Ok(place) => place,
            Err(error) => {
                self.push(Finding::of_error("location", &error.into()));
                return None;
            }
        };
        let mut message = match self.builder.look() {
            Ok(found) => format!("{}: {found}", place.location.display()),
            Err(error) => {
                self.push(Finding::of_error("location", &error));
                return Some(place);
            }
        };
        if place.target != place.location {
            message.push_str(&format!(", through a link of this user to {}", place.target.display()));
        }
        self.push(match is_mounted_alone(&place.target) {
            false => Finding::ok("location", message),
            true => Finding::fail(
                "location",
                format!("{message}; the file is mounted alone, so it cannot be replaced"),
                "mount the directory that contains the cache instead of the file alone",
            ),
        });
        Some(place)
    }

    fn choice(&mut self, place: &Place) -> Option<ChosenPersistence> {
        let chosen = match self.builder.decide(false, &self.builder.configured()) {
            Ok(chosen) => chosen,
            Err(error) => {
                let is_low = error.code() == "protection_too_low";
                self.push(Finding::of_error(if is_low { "protection" } else { "persistence" }, &error));
                return None;
            }
        };
        let choice = chosen.choice();
        let mut message = choice.kind.to_owned();
        if let Some(source) = &choice.key_source {
            message.push_str(&format!(", with a key from {source}"));
        }
        let what_is_there = format!("{}: ", self.builder.path.display());
        let reasons: Vec<&str> = choice
            .reasons
            .iter()
            .map(String::as_str)
            .filter(|reason| !reason.starts_with(&what_is_there))
            .collect();
        if !reasons.is_empty() {
            message.push_str(&format!(" ({})", reasons.join("; ")));
        }
        let is_lost = matches!(self.builder.look(), Ok(Found::Sealed(_))) && chosen.unlocked().is_none();
        let finding = if is_lost {
            let remedy = format!(
                "restore the key from a backup, or go on without what is in it; 'strongroom purge --cache {} --all' \
                 removes it",
                place.location.display()
            );
            Finding::warn("persistence", message, remedy)
        } else {
            Finding::ok("persistence", message)
        };
        self.push(finding);
        Some(chosen)
    }

    fn protection(&mut self, chosen: &ChosenPersistence, key: Option<&Key>, place: &Place) {
        let level = chosen.choice().protection;
        let what = match level {
            Protection::None => "whoever can read the file has the tokens",
            Protection::HostFile => {
                "a copy of the cache is useless without this host's key; a copy of the whole disk is not"
            }
            Protection::ProvidedKey => "a copy of the cache is useless without the key that is handed in",
            Protection::OsStore => "the key is in the operating system's care",
        };
        let message = format!("{level}: {what}");
        let key_file = key.and_then(|key| key.file.as_deref());
        let is_beside =
            key_file.is_some_and(|file| is_same_directory(access::directory_of(file), place.directory()));
        self.push(if level == Protection::None {
            let remedy = format!(
                "'strongroom migrate --cache {} --to sealed' encrypts it, if no program in another language uses it",
                place.location.display()
            );
            Finding::warn("protection", message, remedy)
        } else if is_beside {
            let message = format!("{level}: the key lies in the folder of the cache; a copy of the folder has both");
            let remedy = "keep them apart: move the cache, or the key and say where it is (STRONGROOM_STATE_DIR for \
                          the host key, STRONGROOM_KEY_FILE for a key file)";
            Finding::warn("protection", message, remedy)
        } else {
            Finding::ok("protection", message)
        });
    }

    /// The key that seals what is written next, as far as there is one.
    fn key(&mut self, chosen: &ChosenPersistence) -> Option<Key> {
        let source = chosen.source()?;
        let name = source.name();
        let files = source.files();
        let ring = match chosen.unlocked() {
            Some(unlocked) => Ok(Arc::clone(&unlocked.ring)),
            None if source.kind() == KeySourceKind::Host => return self.host_key(&name, &files),
            None => block_on(source.keys()).map(Arc::new),
        };
        let file = files.into_iter().next();
        match ring {
            Ok(ring) => {
                let key = Key { ring: Some(ring), file };
                self.key_that_is_there(&**source, &key);
                Some(key)
            }
            Err(error) if error.code() == "no_key" && is_made_at_first_use(source.kind()) => {
                self.push(Finding::ok("key", format!("{name}: there is none yet; it is made at first use")));
                Some(Key { ring: None, file })
            }
            Err(error) => {
                self.push(Finding::of_error("key", &error));
                Some(Key { ring: None, file })
            }
        }
    }

    /// The host key of a new document: the first that is there or can be made, in the order of the places.
    fn host_key(&mut self, name: &str, files: &[PathBuf]) -> Option<Key> {
        let mut failed = Vec::new();
        for file in files {
            let source = FileSource::new(file.clone(), Arc::new(KeyFilesOnDisk { only_looks: true }));
            let result = match source.read() {
                Ok(Some(ring)) => {
                    let key = Key { ring: Some(Arc::new(ring)), file: Some(file.clone()) };
                    self.key_that_is_there(&source, &key);
                    return Some(key);
                }
                Ok(None) => can_be_written(access::directory_of(file)).map_err(Error::from),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => {
                    let message =
                        format!("{name}: it would be made at {}, where files can be made", file.display());
                    self.push(Finding::ok("key", message));
                    return Some(Key { ring: None, file: Some(file.clone()) });
                }
                Err(error) => failed.push(error.to_string()),
            }
        }
        let message = format!("{name}: no key can be made: {}", failed.join("; "));
        let remedy =
            "set STRONGROOM_STATE_DIR to a folder of this user, or hand in a key with STRONGROOM_KEY_FILE";
        self.push(Finding::fail("key", message, remedy));
        None
    }

    fn key_that_is_there(&mut self, source: &dyn KeySource, key: &Key) {
        let Some(ring) = &key.ring else { return };
        let now = SystemClock.now();
        let mut message = match &key.file {
            Some(file) => file.display().to_string(),
            None => source.name(),
        };
        // The id of a stretched passphrase is another one for each cache.
        if source.kind() != KeySourceKind::Passphrase {
            message.push_str(&format!(": key {}", ring.primary()));
        }
        let mode = key.file.as_deref().and_then(exposed_mode);
        if let (Some(mode), Some(file)) = (mode, &key.file) {
            let message = format!("{message}; others can read it ({mode})");
            let remedy = format!(
                "run 'chmod 0600 {}' and then 'strongroom key rotate': others could have read it",
                file.display()
            );
            return self.push(Finding::fail("key", message, remedy));
        }
        let age = key.made().map(|(made, how)| (now.since(made), how));
        let is_old = age.is_some_and(|(age, _)| age > OLD_KEY);
        if let Some((age, how)) = age.filter(|(age, _)| *age >= 0) {
            message.push_str(&format!(", made {} days ago{how}", age / DAY));
        }
        let number = ring.keys().count();
        if number > 1 {
            message.push_str(&format!(", with {} older ones for reading", number - 1));
        }
        if source.kind() == KeySourceKind::Environment {
            message.push_str("; it stays visible in the environment of the process");
        }
        let can_rotate = matches!(source.kind(), KeySourceKind::Host | KeySourceKind::File);
        self.push(match (is_old, can_rotate) {
            (false, _) => Finding::ok("key", message),
            (true, true) => {
                Finding::warn("key", message, "it is more than a year old: run 'strongroom key rotate'")
            }
            (true, false) => {
                let remedy =
                    "it is more than a year old: hand out a new one behind it, then put the new one first";
                Finding::warn("key", message, remedy)
            }
        });
    }

    fn permissions(&mut self, place: &Place, is_sealed: bool) {
        if let Some(has) = exposed_mode(&place.target) {
            let message = format!("the cache has {has}, others can use it");
            let remedy = format!("run 'chmod 0600 {}'; the next use does it too", place.target.display());
            self.push(if is_sealed {
                Finding::warn("permissions", message, remedy)
            } else {
                let remedy = format!("{remedy}. Whoever has read it has the tokens until they expire");
                Finding::fail("permissions", message, remedy)
            });
        }
        let exposed: Vec<PathBuf> = SIDE_FILES
            .iter()
            .map(|suffix| place.side_file(suffix))
            .filter(|path| exposed_mode(path).is_some())
            .collect();
        if !exposed.is_empty() {
            let names = exposed.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ");
            let message = format!("others can use what lies beside the cache: {names}");
            self.push(Finding::warn("permissions", message, format!("run 'chmod 0600 {names}'")));
        }
        if !self.findings.iter().any(|finding| finding.check == "permissions") {
            let message = if place.found.is_some() {
                "the cache and what lies beside it are for their owner alone"
            } else {
                "what is made here is for its owner alone"
            };
            self.push(Finding::ok("permissions", message));
        }
    }

    fn owner(&mut self, place: &Place) {
        let peers = place.side_file(lock::PEERS_SUFFIX);
        let side_files = SIDE_FILES.iter().map(|suffix| place.side_file(suffix));
        let mut is_ours = true;
        for path in [place.target.clone(), peers].into_iter().chain(side_files) {
            let Ok(found) = path.symlink_metadata() else { continue };
            if let Err(error) = access::require_owner(&path, &found, OWNER_ONLY) {
                is_ours = false;
                self.push(Finding::of_error("owner", &error.into()));
            }
        }
        if is_ours && place.found.is_some() {
            self.push(Finding::ok("owner", "the cache and what lies beside it belong to this user"));
        }
    }

    fn directory(&mut self, place: &Place) {
        let wanted = place.directory();
        let directory = match existing(wanted) {
            Ok(directory) => directory,
            Err(error) => return self.push(Finding::of_error("directory", &error.into())),
        };
        let mut message = directory.display().to_string();
        if directory != wanted {
            message = format!("{} would be made in {message}", wanted.display());
        }
        self.push(match others_in(&directory) {
            None => Finding::ok("directory", format!("{message}: nobody else can replace what is in it")),
            Some(Others { how, remedy, is_open: true }) => {
                Finding::fail("directory", format!("{message}: {how}"), remedy)
            }
            Some(Others { how, remedy, is_open: false }) => {
                Finding::warn("directory", format!("{message}: {how}"), remedy)
            }
        });
    }

    fn locks(&mut self, place: &Place, chosen: Option<&ChosenPersistence>) {
        let path = place.side_file(lock::OUR_SUFFIX);
        let state = until_free(|| lock::look_at_ours(&path));
        self.lock("lock", &path, state);
        let peers = match chosen {
            Some(chosen) => chosen.lock_path(),
            None => Some(place.side_file(lock::PEERS_SUFFIX)),
        };
        if let Some(path) = peers {
            let state = until_free(|| lock::look_at_peers(&path));
            self.lock("peers-lock", &path, state);
        }
    }

    fn lock(&mut self, check: &'static str, path: &Path, state: Result<LockState, PersistenceError>) {
        let location = path.display();
        self.push(match state {
            Err(error) => Finding::of_error(check, &error.into()),
            Ok(LockState::Absent) => {
                Finding::ok(check, format!("{location}: nobody holds it, it is not there"))
            }
            Ok(LockState::Free) => Finding::ok(check, format!("{location}: nobody holds it")),
            Ok(LockState::Held(Held { holder, .. })) => {
                let remedy = match holder.pid {
                    Some(pid) => format!("wait until process {pid} is done; if it hangs, end it"),
                    None => "wait until the program that holds it is done".to_owned(),
                };
                Finding::warn(check, format!("{location}: held by {holder}"), remedy)
            }
            Ok(LockState::Left(Held { holder, by_existence })) => {
                let mut remedy = format!("run 'rm {location}'");
                if by_existence {
                    remedy.push_str(": Strongroom takes it over, but MSAL Node waits for it in vain");
                }
                Finding::warn(check, format!("{location}: left by {holder}, who holds it no longer"), remedy)
            }
        });
    }

    /// Writes, reads and removes a probe, and tries the locks on it.
    fn write(&mut self, place: &Place, chosen: Option<&ChosenPersistence>) {
        let directory = match existing(place.directory()) {
            Ok(directory) => directory,
            // Was told already.
            Err(_) => return,
        };
        // Of the name that a later write takes away, should this process be killed.
        let name = place.target.file_name().map(PathBuf::from).unwrap_or_default();
        let path = atomic::temporary_path(&directory.join(name));
        let written =
            can_be_written(&directory).map_err(Error::from).and_then(|()| write_probe(&path, chosen));
        let locked = written.is_ok().then(|| try_locks(&path));
        let removed =
            std::fs::remove_file(&path).map_err(|source| PersistenceError::io("remove", &path, source));
        let outcome = written.and_then(|what| Ok(removed.map(|()| what)?));
        self.push(match outcome {
            Ok(what) => Finding::ok("write", what),
            Err(error) => Finding::of_error("write", &error),
        });
        self.findings.extend(locked);
    }

    fn space(&mut self, place: &Place) {
        /// A cache that needs more than this is rare.
        const LEAST: u64 = 1 << 20;

        let Some(free) = existing(place.directory()).ok().and_then(|directory| free_bytes(&directory)) else {
            return;
        };
        let needed = LEAST.max(3 * place.found.as_ref().map_or(0, Metadata::len));
        let message = format!("{} free", in_words(free));
        self.push(if free < needed {
            Finding::warn(
                "space",
                message,
                "free some space: a write needs room for the old cache and the new one",
            )
        } else {
            Finding::ok("space", message)
        });
    }

    fn leftovers(&mut self, place: &Place) {
        let mut names: Vec<String> = std::fs::read_dir(place.directory())
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        let stem = place.target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of = |mark: &str| {
            let prefix = format!("{stem}{mark}");
            names
                .iter()
                .filter(|name| name.starts_with(&prefix))
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let temporary: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| atomic::is_temporary_name(&place.target, name.as_ref()))
            .filter(|name| atomic::is_abandoned(&place.directory().join(name)))
            .collect();
        let before = self.findings.len();
        if !temporary.is_empty() {
            let message = format!("a writer that was killed left {}", temporary.join(" "));
            self.push(Finding::warn("leftovers", message, "the next write removes it"));
        }
        let set_aside = of(quarantine::MARK);
        if !set_aside.is_empty() {
            let message = format!("caches that could not be read were set aside: {set_aside}");
            let remedy = "look what damaged them, and delete them: there may be tokens in them";
            self.push(Finding::warn("leftovers", message, remedy));
        }
        let kept = of(".old-");
        if !kept.is_empty() {
            let message = format!("migrations kept what was there before: {kept}");
            self.push(Finding::warn(
                "leftovers",
                message,
                "delete it when it is no longer needed: there are tokens in it",
            ));
        }
        if self.findings.len() == before {
            self.push(Finding::ok("leftovers", "nothing is left over from earlier"));
        }
    }

    fn clock(&mut self, place: &Place, key: Option<&Key>) {
        /// How far another machine's clock may be ahead, in seconds.
        const SKEW: i64 = 300;
        /// This program did not exist before 2026.
        const NEVER_BEFORE: UnixSeconds = UnixSeconds::new(1_767_225_600);
        const REMEDY: &str = "set the clock: tokens are judged by it, and TLS fails where it is far off";

        let now = SystemClock.now();
        if now < NEVER_BEFORE {
            return self.push(Finding::fail(
                "clock",
                "it is set to a time before this program was made",
                REMEDY,
            ));
        }
        let written = place.found.as_ref().and_then(modified);
        let made = key.and_then(Key::made).map(|(made, _)| made);
        for (what, time) in [("the cache was written", written), ("the key was made", made)] {
            if let Some(ahead) = time.map(|time| time.since(now)).filter(|ahead| *ahead > SKEW) {
                let message =
                    format!("{what} {ahead} s in the future: this clock is wrong, or another one was");
                return self.push(Finding::warn("clock", message, REMEDY));
            }
        }
        self.push(Finding::ok("clock", "nothing here was written in its future"));
    }
}

/// The key that a document is sealed with, or would be.
struct Key {
    ring: Option<Arc<KeyRing>>,
    file: Option<PathBuf>,
}

impl Key {
    /// When the primary key was made, and how that is known.
    fn made(&self) -> Option<(UnixSeconds, &'static str)> {
        let (_, made) = self.ring.as_ref()?.keys().next()?;
        match made {
            Some(made) => Some((made, "")),
            None => {
                let found = self.file.as_ref()?.metadata().ok()?;
                Some((modified(&found)?, " by the time of its file"))
            }
        }
    }
}

const DAY: i64 = 86_400;
/// When a key should be rotated.
const OLD_KEY: i64 = 365 * DAY;
/// What lies beside a document and belongs to it.
const SIDE_FILES: [&str; 3] = [lock::OUR_SUFFIX, super::flight::SUFFIX, ".state"];

fn is_made_at_first_use(kind: KeySourceKind) -> bool {
    matches!(kind, KeySourceKind::Host | KeySourceKind::SecretService | KeySourceKind::Keyutils)
}

/// Looks again for a moment: a lock that is held for a write is soon free.
fn until_free(look: impl Fn() -> Result<LockState, PersistenceError>) -> Result<LockState, PersistenceError> {
    const LOOKS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(30);

    for _ in 1..LOOKS {
        match look()? {
            LockState::Held(_) => block_on(crate::wait::sleep(PAUSE)),
            state => return Ok(state),
        }
    }
    look()
}

/// The nearest directory that is there.
fn existing(directory: &Path) -> Result<PathBuf, PersistenceError> {
    let mut directory = directory;
    loop {
        match std::fs::metadata(directory) {
            Ok(found) if found.is_dir() => return Ok(directory.to_owned()),
            Ok(_) => {
                let source = io::ErrorKind::NotADirectory.into();
                return Err(PersistenceError::io("use the directory", directory, source));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
                directory = parent.unwrap_or(Path::new("."));
            }
            Err(source) => return Err(PersistenceError::io("look at the directory", directory, source)),
        }
    }
}

/// Whether a file can be made in this directory, or in the nearest one that is there.
fn can_be_written(directory: &Path) -> Result<(), PersistenceError> {
    let directory = existing(directory)?;
    access::check_directory(&directory)?;
    let path = atomic::temporary_path(&directory.join("strongroom"));
    access::create_new(&path, OWNER_ONLY)
        .map_err(|source| PersistenceError::io("create a file in", &directory, source))?;
    std::fs::remove_file(&path).map_err(|source| PersistenceError::io("remove", &path, source))
}

/// Writes a probe as the document would be written, and reads it again. Says what was done.
fn write_probe(path: &Path, chosen: Option<&ChosenPersistence>) -> Result<&'static str, Error> {
    let content = SecretBytes::from(b"{\"probe\":\"written by a diagnosis\"}".to_vec());
    let (probe, what): (Box<dyn Persistence>, _) = match chosen {
        Some(chosen) if chosen.choice().protection.is_encrypted() => {
            (chosen.beside(path)?, "a probe was sealed, written, read back and removed")
        }
        _ => {
            let file = FilePersistence::builder(path).peers_lock(false).only_looks(true).build()?;
            (Box::new(file), "a probe was written, read back and removed")
        }
    };
    match block_on(probe.save(&content, &Revision::absent(), &Fence::open()))? {
        Saved::Saved(_) if block_on(probe.load())?.bytes == content => Ok(what),
        Saved::Saved(_) | Saved::Conflict => {
            let source = io::Error::other("it does not read back as it was written");
            Err(PersistenceError::io("write", path, source).into())
        }
    }
}

/// Whether locks work between two that have the probe open, as two processes would.
fn try_locks(path: &Path) -> Finding {
    const CHECK: &str = "file-locks";
    const BYTE: u64 = 4711;

    let try_them = || -> io::Result<(bool, bool, FileSystem)> {
        let open = || access::cautious_options().read(true).write(true).open(path);
        let (one, other) = (open()?, open()?);
        let whole = one.try_lock().is_ok() && other.try_lock().is_err();
        let _ = one.unlock();
        let byte = range_lock::try_lock(&one, BYTE)? && range_lock::is_locked(&other, BYTE)?;
        range_lock::unlock(&one, BYTE)?;
        Ok((whole, byte, FileSystem::of(&one)))
    };
    match try_them() {
        Ok((true, true, FileSystem::Remote)) if cfg!(target_os = "linux") => Finding::warn(
            CHECK,
            "they work here, but on a network or user-space file system they may not hold between hosts",
            "keep the cache on a disk of this host; each host then requests its tokens for itself",
        ),
        Ok((true, true, _)) => Finding::ok(CHECK, "they work here: one process requests a token for all"),
        Ok((false, _, _)) => Finding::warn(
            CHECK,
            "they do not work here: only the comparison before each write protects the cache",
            "keep the cache on a file system with locks (flock)",
        ),
        Ok((true, false, _)) | Err(_) => Finding::warn(
            CHECK,
            "locks on a part of a file do not work here: each process requests tokens for itself",
            "keep the cache on a file system with locks (fcntl)",
        ),
    }
}

/// The permissions of a file of ours in words, if others can use it.
fn exposed_mode(path: &Path) -> Option<String> {
    let file: File = access::cautious_options().read(true).open(path.canonicalize().ok()?).ok()?;
    let found = file.metadata().ok()?;
    access::wider(&file, &found, OWNER_ONLY)
}

fn modified(found: &Metadata) -> Option<UnixSeconds> {
    let since = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixSeconds::new(i64::try_from(since.as_secs()).ok()?))
}

fn is_same_directory(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

fn in_words(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{} kB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MB", bytes >> 20),
        _ => format!("{} GB", bytes >> 30),
    }
}

/// Who else can put files into a directory, or take it away.
struct Others {
    how: String,
    remedy: String,
    /// Whether they can replace files of ours in it.
    is_open: bool,
}

#[cfg(unix)]
fn others_in(directory: &Path) -> Option<Others> {
    use std::os::unix::fs::MetadataExt as _;
    const STICKY: u32 = 0o1000;
    const ROOT: u32 = 0;

    let own = directory.canonicalize().ok()?;
    for (directory, is_own) in own.ancestors().zip(std::iter::once(true).chain(std::iter::repeat(false))) {
        let found = directory.metadata().ok()?;
        let mode = found.mode() & 0o7777;
        let shown = directory.display();
        let choose = "choose another directory";
        let others = |how: String, remedy: String, is_open| Some(Others { how, remedy, is_open });
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            let remedy = format!("run 'chmod o-w {shown}', or {choose}");
            // Above, the library does not look: what is refused is the directory itself.
            return others(format!("everybody can write to {shown} (mode {mode:04o})"), remedy, is_own);
        }
        if let Some((owner, _)) = access::foreign_owner(&found).filter(|(owner, _)| *owner != ROOT) {
            return others(
                format!("{shown} belongs to user {owner}, who can replace it"),
                choose.into(),
                false,
            );
        }
        if is_own && mode & 0o002 != 0 {
            let how =
                format!("everybody can make files in it (mode {mode:04o}), lock files of that name too");
            return others(how, choose.into(), false);
        }
        if is_own && mode & 0o020 != 0 && mode & STICKY == 0 {
            let remedy = format!("run 'chmod g-w {shown}' if the group need not write to it");
            return others(format!("the group of {shown} can write to it (mode {mode:04o})"), remedy, false);
        }
    }
    None
}

#[cfg(not(unix))]
fn others_in(_directory: &Path) -> Option<Others> {
    None
}

/// The bytes that this user may still write there, where the system tells.
#[cfg(unix)]
fn free_bytes(directory: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_directory: &Path) -> Option<u64> {
    None
}

/// Whether the file is a mount point of its own: then nothing can be renamed over it.
#[cfg(target_os = "linux")]
fn is_mounted_alone(target: &Path) -> bool {
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    let Ok(target) = target.canonicalize() else { return false };
    let is_target = |line: &str| {
        let point = line.split(' ').nth(4).unwrap_or_default();
        Path::new(&point.replace("\\040", " ").replace("\\134", "\\")) == target
    };
    mounts.lines().any(is_target)
}

#[cfg(not(target_os = "linux"))]
fn is_mounted_alone(_target: &Path) -> bool {
    false
}
