//! `<location>.state`: what this library remembers beside the document, which belongs to all languages.
//!
//! Authorities that are not built in, refusals, and what was removed. Ours alone, owner-only, written like a
//! document, and without secrets: those count only as salted hashes. Losing it costs requests, never correctness
//! (but for tombstones), so a file that cannot be read or written is reported and otherwise ignored: what could not
//! be written holds in this process all the same.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::backoff::Refusal;
use super::tombstone::{Tombstone, Worth};
use crate::persistence::lock::{DocumentLock, LockPaths};
use crate::persistence::{Fence, Location, Persistence, Revision, Saved};
use crate::platform::fork::PerProcess;
use crate::{Error, ErrorKind, SecretBytes, UnixSeconds};

/// How many authorities and refusals are remembered; the oldest go first.
const MOST: usize = 256;
/// How many tombstones; what is worth least goes first, and of that the oldest.
const MOST_TOMBSTONES: usize = 4096;
/// Remembering is not worth a long wait.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct State {
    file: Option<Box<dyn Persistence>>,
    /// The document's own: both are written by the same processes, and seldom this one.
    lock: LockPaths,
    /// A forked child reads the file anew: another thread may have held this lock at the moment of the fork.
    seen: PerProcess<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    content: Content,
    revision: Option<Revision>,
    /// Changes that could not be written: they hold in this process all the same.
    unsaved: Vec<Note>,
}

/// The file. Fields of later versions are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Content {
    /// A random UUID: hashes in this file mean nothing elsewhere.
    #[serde(default)]
    salt: String,
    #[serde(default)]
    authorities: BTreeMap<String, Remembered<AuthorityRecord>>,
    /// By a hash of what was asked for. What a later version wrote differently is kept.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    refusals: BTreeMap<String, Remembered<Refusal>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tombstones: Vec<Remembered<Tombstone>>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// A record, or what could not be understood.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Remembered<T> {
    Known(T),
    Unknown(serde_json::Value),
}

/// What discovery said of an authority that is not built in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AuthorityRecord {
    pub(crate) token_endpoint: String,
    pub(crate) realm: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) preferred_cache: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aliases: Vec<String>,
    /// Whether the cloud was asked about the host. Where it was not, because the application trusts the host as it
    /// is, the record is no answer for an application that does not.
    #[serde(default)]
    pub(crate) instance_discovery: bool,
    /// Unix seconds.
    pub(crate) fetched_at: i64,
    /// Fields of later versions are kept.
    #[serde(flatten)]
    pub(crate) rest: BTreeMap<String, serde_json::Value>,
}

#[cfg(feature = "client")]
impl AuthorityRecord {
    pub(crate) fn age(&self, now: UnixSeconds) -> i64 {
        now.since(UnixSeconds::new(self.fetched_at))
    }
}

/// Something to be remembered or forgotten: like a change of the document, it can be replayed.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "client"), allow(dead_code))] // refusals are the client's
pub(super) enum Note {
    Authority(String, AuthorityRecord),
    Refused(String, Refusal),
    /// The request with this hash succeeded.
    Granted(String),
    Buried(Vec<Tombstone>),
    /// These tombstones have served their purpose.
    Risen(Vec<Tombstone>),
    /// All but the tombstones is to be forgotten.
    Forgotten,
}

impl Content {
    #[cfg(feature = "client")]
    pub(super) fn refusal(&self, request: &str) -> Option<&Refusal> {
        self.refusals.get(request)?.known()
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.values().filter_map(Remembered::known)
    }

    /// How many authorities are known.
    pub(super) fn authorities(&self) -> usize {
        self.authorities.len()
    }

    /// Whether there is nothing to forget.
    pub(super) fn is_forgotten(&self) -> bool {
        self.authorities.is_empty() && self.refusals.is_empty() && self.rest.is_empty()
    }

    pub(super) fn tombstones(&self) -> impl Iterator<Item = &Tombstone> {
        self.tombstones.iter().filter_map(Remembered::known)
    }

    fn take(&mut self, note: &Note, now: UnixSeconds) {
        match note {
            Note::Authority(authority, record) => {
                self.authorities.insert(authority.clone(), Remembered::Known(record.clone()));
            }
            Note::Refused(request, refusal) => {
                let standing = self.refusals.get(request).and_then(Remembered::known);
                if standing.is_none_or(|standing| refusal.replaces(standing, now)) {
                    self.refusals.insert(request.clone(), Remembered::Known(refusal.clone()));
                }
            }
            Note::Granted(request) => {
                self.refusals.remove(request);
            }
            Note::Buried(tombstones) => {
                let new: HashSet<_> = tombstones.iter().map(Tombstone::identity).collect();
                let stays = |standing: &Tombstone| !new.contains(&standing.identity());
                self.tombstones.retain(|standing| standing.known().is_none_or(stays));
                self.tombstones.extend(tombstones.iter().cloned().map(Remembered::Known));
            }
            Note::Risen(tombstones) => {
                let stays = |standing: &Tombstone| !tombstones.contains(standing);
                self.tombstones.retain(|standing| standing.known().is_none_or(stays));
            }
            Note::Forgotten => {
                self.authorities.clear();
                self.refusals.clear();
                self.rest.clear();
            }
        }
        self.refusals.retain(|_, refusal| refusal.known().is_none_or(|known| known.is_worth_keeping(now)));
        self.tombstones.retain(|tombstone| tombstone.known().is_none_or(|known| known.holds(now)));
        keep_the_newest(&mut self.authorities, |record| record.known().map_or(0, |known| known.fetched_at));
        keep_the_newest(&mut self.refusals, |refusal| refusal.known().map_or(0, Refusal::noted_at));
        self.keep_the_most_valuable();
    }

    fn keep_the_most_valuable(&mut self) {
        let mut surplus = self.tombstones.len().saturating_sub(MOST_TOMBSTONES);
        for worth in Worth::ALL {
            self.tombstones.retain(|tombstone| {
                // What a later version wrote may be anything.
                let own = tombstone.known().map_or(Worth::SignOut, Tombstone::worth);
                let goes = surplus > 0 && own == worth;
                surplus -= usize::from(goes);
                !goes
            });
        }
    }
}

impl<T> Remembered<T> {
    fn known(&self) -> Option<&T> {
        match self {
            Self::Known(record) => Some(record),
            Self::Unknown(_) => None,
        }
    }
}

/// A hash of `parts`, some of them secret, by which they are recognised where the salt is known, and by nobody else.
pub(super) fn hash(salt: &str, parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in std::iter::once(salt.as_bytes()).chain(parts.iter().copied()) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    BASE64_URL_SAFE_NO_PAD.encode(&context.finish().as_ref()[..16])
}

impl State {
    /// The state beside a store: in `file`, or only in memory.
    pub(super) fn kept_in(file: Option<Box<dyn Persistence>>) -> Self {
        let path = file.as_ref().and_then(|file| match file.location() {
            Location::File(path) => Some(path.with_extension("lock")),
            Location::Item(_) | Location::Memory => None,
        });
        let mode = file.as_ref().map_or(0o600, |file| file.lock_mode());
        Self { file, lock: LockPaths::ours(path, mode), seen: PerProcess::new(Mutex::default) }
    }

    pub(super) async fn authority(&self, authority: &str, now: UnixSeconds) -> Option<AuthorityRecord> {
        self.read(now, |content| content.authorities.get(authority).and_then(Remembered::known).cloned())
            .await
    }

    /// What `look` finds in the newest content.
    pub(super) async fn read<T>(&self, now: UnixSeconds, look: impl FnOnce(&Content) -> T) -> T {
        self.refresh().await;
        let seen = self.seen();
        if seen.unsaved.is_empty() {
            return look(&seen.content);
        }
        let mut content = seen.content.clone();
        for note in &seen.unsaved {
            content.take(note, now);
        }
        look(&content)
    }

    /// The salt of this file's hashes. Made up where there is none yet; whoever writes first decides.
    pub(super) async fn salt(&self) -> String {
        self.refresh().await;
        let mut seen = self.seen();
        if seen.content.salt.is_empty() {
            seen.content.salt = Uuid::new_v4().simple().to_string();
        }
        seen.content.salt.clone()
    }

    /// Remembers. That it cannot be remembered for other processes costs requests, so it is only logged.
    pub(super) async fn note(&self, note: Note, now: UnixSeconds) {
        if let Err(error) = self.try_note(note, now).await {
            tracing::debug!(%error, "nothing could be remembered for other processes");
        }
    }

    /// As [`note`](Self::note), for what others have to know.
    ///
    /// # Errors
    /// It holds in this process alone.
    pub(super) async fn try_note(&self, note: Note, now: UnixSeconds) -> Result<(), Error> {
        {
            let mut seen = self.seen();
            seen.unsaved.push(note);
            let surplus = seen.unsaved.len().saturating_sub(MOST);
            seen.unsaved.drain(..surplus);
        }
        let Some(file) = &self.file else {
            let mut seen = self.seen();
            let notes = std::mem::take(&mut seen.unsaved);
            notes.iter().for_each(|note| seen.content.take(note, now));
            return Ok(());
        };
        if self.write(&**file, now).await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Contended,
            "contended",
            "others keep writing what is remembered beside the cache",
        ))
    }

    /// As [`read`](Self::read), from the file as it is now, which is not asked whether it has changed.
    pub(super) async fn read_anew<T>(&self, now: UnixSeconds, look: impl FnOnce(&Content) -> T) -> T {
        self.seen().revision = None;
        self.read(now, look).await
    }

    /// Reads the file again if it has changed.
    async fn refresh(&self) {
        let Some(file) = &self.file else { return };
        let revision = self.seen().revision.clone();
        if revision.is_some_and(|revision| file.is_current(&revision).unwrap_or(false)) {
            return;
        }
        match read(&**file).await {
            Ok((content, revision)) => self.saw(content, revision),
            Err(error) => tracing::debug!(%error, "what was remembered beside the cache cannot be read"),
        }
    }

    /// Writes what is not written yet; `false` if others were faster each time.
    async fn write(&self, file: &dyn Persistence, now: UnixSeconds) -> Result<bool, Error> {
        let lock = DocumentLock::acquire(&self.lock, LOCK_TIMEOUT).await?;
        for _ in 0..8 {
            let (mut content, revision) = match read(file).await {
                Ok(read) => read,
                Err(error) => (Content::default(), self.without_damage(file, &error).await?),
            };
            let notes = {
                let seen = self.seen();
                if content.salt.is_empty() {
                    content.salt.clone_from(&seen.content.salt);
                }
                seen.unsaved.clone()
            };
            notes.iter().for_each(|note| content.take(note, now));
            let bytes = SecretBytes::from(serde_json::to_vec(&content).unwrap_or_default());
            let still_held = || lock.still_held();
            if let Saved::Saved(revision) = file.save(&bytes, &revision, &Fence::new(&still_held)).await? {
                self.saw(content, revision);
                // Those that came meanwhile are behind them and stay.
                let mut seen = self.seen();
                let written = notes.len().min(seen.unsaved.len());
                seen.unsaved.drain(..written);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves a file that cannot be understood out of the way; where that cannot be done, it is replaced.
    async fn without_damage(&self, file: &dyn Persistence, error: &Error) -> Result<Revision, Error> {
        let revision = file.load().await?.revision;
        match file.set_aside(&revision).await {
            Ok(Some(kept)) => {
                tracing::warn!(%error, kept, "what was remembered beside the cache is damaged; it was moved aside");
                Ok(file.load().await?.revision)
            }
            Ok(None) | Err(_) => Ok(revision),
        }
    }

    fn saw(&self, mut content: Content, revision: Revision) {
        let mut seen = self.seen();
        if content.salt.is_empty() {
            content.salt.clone_from(&seen.content.salt);
        }
        seen.content = content;
        seen.revision = Some(revision);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.get().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep_the_newest<T>(records: &mut BTreeMap<String, T>, noted_at: impl Fn(&T) -> i64) {
    while records.len() > MOST {
        let oldest = records.iter().min_by_key(|(_, record)| noted_at(record));
        let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
        records.remove(&oldest);
    }
}

async fn read(file: &dyn Persistence) -> Result<(Content, Revision), Error> {
    let loaded = file.load().await?;
    if loaded.bytes.is_empty() {
        return Ok((Content::default(), loaded.revision));
    }
    let content = serde_json::from_slice(loaded.bytes.expose())
        .map_err(|_| Error::new(ErrorKind::Unusable, "damaged", "the state file is no valid JSON"))?;
    Ok((content, loaded.revision))
}
