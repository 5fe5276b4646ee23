//! `<location>.state`: what this library remembers beside the document, which belongs to all languages.
//!
//! Ours alone, owner-only, written like a document, and without secrets. Losing it costs requests, never
//! correctness, so a file that cannot be read or written is reported and otherwise ignored.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::persistence::lock::{DocumentLock, LockPaths};
use crate::persistence::{Fence, FilePersistence, Persistence, Revision, Saved};
use crate::{Error, SecretBytes, UnixSeconds};

/// How many authorities are remembered; the oldest go first.
const MOST_AUTHORITIES: usize = 256;
/// The file is small by nature.
const LARGEST: u64 = 1024 * 1024;
/// Remembering is not worth a long wait.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct State {
    file: Option<FilePersistence>,
    /// The document's own: both are written by the same processes, and seldom this one.
    lock: LockPaths,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    content: Content,
    revision: Option<Revision>,
    /// What could not be written: it holds in this process all the same.
    unsaved: BTreeMap<String, AuthorityRecord>,
}

/// The file. Fields of later versions are kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Content {
    #[serde(default)]
    authorities: BTreeMap<String, AuthorityRecord>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
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
}

impl AuthorityRecord {
    pub(crate) fn age(&self, now: UnixSeconds) -> i64 {
        now.since(UnixSeconds::new(self.fetched_at))
    }
}

impl State {
    /// The state beside a store: in `path`, or only in memory.
    pub(super) fn beside(path: Option<PathBuf>) -> Self {
        let lock = LockPaths::ours(path.as_ref().map(|path| path.with_extension("lock")));
        let file = path.and_then(|path| {
            let built = FilePersistence::builder(path).peers_lock(false).max_size(LARGEST).build();
            built
                .inspect_err(|error| tracing::warn!(%error, "nothing can be remembered beside the cache"))
                .ok()
        });
        Self { file, lock, seen: Mutex::default() }
    }

    pub(super) async fn authority(&self, authority: &str) -> Option<AuthorityRecord> {
        self.refresh().await;
        let seen = self.seen();
        let records = [seen.unsaved.get(authority), seen.content.authorities.get(authority)];
        records.into_iter().flatten().max_by_key(|record| record.fetched_at).cloned()
    }

    pub(super) async fn remember_authority(&self, authority: &str, record: AuthorityRecord) {
        let change = |content: &mut Content| {
            content.authorities.insert(authority.to_owned(), record.clone());
            keep_the_newest(&mut content.authorities);
        };
        // In memory it holds whatever becomes of the file.
        {
            let mut seen = self.seen();
            seen.unsaved.insert(authority.to_owned(), record.clone());
            keep_the_newest(&mut seen.unsaved);
        }
        let Some(file) = &self.file else { return };
        match self.write(file, change).await {
            Ok(true) => {
                self.seen().unsaved.remove(authority);
            }
            Ok(false) => {
                tracing::debug!("the authority could not be remembered: others keep writing the file");
            }
            Err(error) => {
                tracing::debug!(%error, "the authority could not be remembered for other processes");
            }
        }
    }

    /// Reads the file again if it has changed.
    async fn refresh(&self) {
        let Some(file) = &self.file else { return };
        let revision = self.seen().revision.clone();
        if revision.is_some_and(|revision| file.is_current(&revision).unwrap_or(false)) {
            return;
        }
        match read(file).await {
            Ok((content, revision)) => self.saw(content, revision),
            Err(error) => tracing::debug!(%error, "what was remembered beside the cache cannot be read"),
        }
    }

    /// Makes a change; `false` if others were faster each time.
    async fn write(&self, file: &FilePersistence, change: impl Fn(&mut Content)) -> Result<bool, Error> {
        let lock = DocumentLock::acquire(&self.lock, LOCK_TIMEOUT).await?;
        for _ in 0..8 {
            // A file that cannot be understood is replaced: nothing in it is missed.
            let (mut content, revision) = match read(file).await {
                Ok(read) => read,
                Err(_) => (Content::default(), file.load().await?.revision),
            };
            change(&mut content);
            let bytes = SecretBytes::from(serde_json::to_vec(&content).unwrap_or_default());
            let still_held = || lock.still_held();
            if let Saved::Saved(revision) = file.save(&bytes, &revision, &Fence::new(&still_held)).await? {
                self.saw(content, revision);
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn saw(&self, content: Content, revision: Revision) {
        let mut seen = self.seen();
        seen.content = content;
        seen.revision = Some(revision);
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn keep_the_newest(authorities: &mut BTreeMap<String, AuthorityRecord>) {
    while authorities.len() > MOST_AUTHORITIES {
        let oldest = authorities.iter().min_by_key(|(_, record)| record.fetched_at);
        let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
        authorities.remove(&oldest);
    }
}

async fn read(file: &FilePersistence) -> Result<(Content, Revision), Error> {
    let loaded = file.load().await?;
    if loaded.bytes.is_empty() {
        return Ok((Content::default(), loaded.revision));
    }
    let content = serde_json::from_slice(loaded.bytes.expose())
        .map_err(|_| Error::new(crate::ErrorKind::Unusable, "damaged", "the state file is no valid JSON"))?;
    Ok((content, loaded.revision))
}
