//! What the place of a document is like: what is used there and why, who else may use it, whether it can be written
//! and locked, and what others have left there.
//!
//! Changes nothing. A probe is written beside the document and removed again, sealed by the same keys; a key that is
//! not there yet is not made for that.

mod files;
mod key;
mod locks;
mod probe;

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use self::files::modified;
use self::key::Key;
use super::select::{Found, signal_file_of};
use super::{ChosenPersistence, PersistenceBuilder, Protection, access, file};
use crate::error::shell_word;
use crate::time::{Clock as _, SystemClock};
use crate::{Error, UnixSeconds};

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
        self.write(&place, chosen.as_ref(), key.as_ref().is_some_and(|key| key.ring.is_some()));
        self.space(&place);
        self.leftovers(&place);
        self.clock(&place, key.as_ref());
    }

    /// What was said already is not said again by another check that failed of it.
    fn push(&mut self, finding: Finding) {
        if !self.findings.iter().any(|known| known.message == finding.message) {
            self.findings.push(finding);
        }
    }

    /// Says where the document is. Without that nothing else can be said.
    fn place(&mut self) -> Option<Place> {
        let resolved = file::absolute(&self.builder.path).and_then(|location| {
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
            Ok(found) => match self.builder.signalled_keyring() {
                Some(keyring) => format!("{}: {}", place.location.display(), signal_file_of(keyring)),
                None => format!("{}: {found}", place.location.display()),
            },
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
                shell_word(&place.location.display())
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
                shell_word(&place.location.display())
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

fn is_same_directory(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
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
