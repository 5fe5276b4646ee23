//! The key of a document: where it is or would be, how old it is, who else can read it.

use std::path::PathBuf;
use std::sync::Arc;

use super::files::{exposed_key_mode, modified};
use super::probe::can_be_written;
use super::{Doctor, Finding};
use crate::error::shell_word;
use crate::persistence::key_files::KeyFilesOnDisk;
use crate::persistence::{ChosenPersistence, access};
use crate::seal::{FileSource, KeyRing, KeySource, KeySourceKind};
use crate::time::{Clock as _, SystemClock};
use crate::wait::block_on;
use crate::{Error, UnixSeconds};

/// The key that a document is sealed with, or would be.
pub(super) struct Key {
    pub(super) ring: Option<Arc<KeyRing>>,
    pub(super) file: Option<PathBuf>,
}

impl Key {
    /// When the primary key was made, and how that is known.
    pub(super) fn made(&self) -> Option<(UnixSeconds, &'static str)> {
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

impl Doctor {
    /// The key that seals what is written next, as far as there is one.
    pub(super) fn key(&mut self, chosen: &ChosenPersistence) -> Option<Key> {
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
        let mode = key.file.as_deref().and_then(exposed_key_mode);
        if let (Some(mode), Some(file)) = (mode, &key.file) {
            let message = format!("{message}; others can read it ({mode})");
            let remedy = format!(
                "run 'chmod 0600 {}' and then 'strongroom key rotate': others could have read it",
                shell_word(&file.display())
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
        let can_rotate =
            matches!(source.kind(), KeySourceKind::Host | KeySourceKind::File | KeySourceKind::SecretService);
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
}

fn is_made_at_first_use(kind: KeySourceKind) -> bool {
    matches!(kind, KeySourceKind::Host | KeySourceKind::SecretService | KeySourceKind::Keyutils)
}

const DAY: i64 = 86_400;
/// When a key should be rotated.
const OLD_KEY: i64 = 365 * DAY;
