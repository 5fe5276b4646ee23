//! Who else can use a document, what lies beside it and in its directory, and how much room there is.

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::probe::existing;
use super::{Doctor, Finding, Place};
use crate::UnixSeconds;
use crate::error::shell_word;
use crate::persistence::access::{self, OWNER_ONLY};
use crate::persistence::key_files::widest_mode;
use crate::persistence::{atomic, flight, left_over, lock, quarantine};

impl Doctor {
    pub(super) fn permissions(&mut self, place: &Place, is_sealed: bool) {
        if let Some(has) = exposed_mode(&place.target) {
            let message = format!("the cache has {has}, others can use it");
            let remedy =
                format!("run 'chmod 0600 {}'; the next use does it too", shell_word(&place.target.display()));
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
            let names = exposed.iter().map(|path| shell_word(&path.display())).collect::<Vec<_>>().join(" ");
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

    pub(super) fn owner(&mut self, place: &Place) {
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

    pub(super) fn directory(&mut self, place: &Place) {
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

    pub(super) fn space(&mut self, place: &Place) {
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

    pub(super) fn leftovers(&mut self, place: &Place) {
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
        let kept = of(left_over::KEPT);
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
}

/// The permissions of a file of ours in words, if others can use it.
pub(super) fn exposed_mode(path: &Path) -> Option<String> {
    let file: File = access::cautious_options().read(true).open(path.canonicalize().ok()?).ok()?;
    let found = file.metadata().ok()?;
    access::wider(&file, &found, OWNER_ONLY)
}

/// The same of a key file, which root may have handed to a service.
pub(super) fn exposed_key_mode(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let file: File = access::cautious_options().read(true).open(&path).ok()?;
    let found = file.metadata().ok()?;
    access::wider(&file, &found, widest_mode(&path, &found))
}

pub(super) fn modified(found: &Metadata) -> Option<UnixSeconds> {
    let since = found.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixSeconds::new(i64::try_from(since.as_secs()).ok()?))
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
#[cfg_attr(not(unix), allow(dead_code))]
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
            let remedy = format!("run 'chmod o-w {}', or {choose}", shell_word(&shown));
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
            let remedy = format!("run 'chmod g-w {}' if the group need not write to it", shell_word(&shown));
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

/// What lies beside a document and belongs to it.
const SIDE_FILES: [&str; 3] = [lock::OUR_SUFFIX, flight::SUFFIX, ".state"];
