//! Any persistence, sealed: what it keeps is an envelope, what goes in and comes out is the document.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::{BoxFuture, Fence, Loaded, Location, Persistence, Protection, Revision, Saved};
use crate::seal::{
    self, Contents, Envelope, KEY_LOST, KEY_NOT_THERE, KeyId, KeyRing, KeySource, LARGEST_HEADER, Refusal,
    SealError, SealedWith,
};
use crate::{Error, SecretBytes};

/// A document that another persistence keeps sealed.
///
/// What is there is opened by the key that its header names, looked for in the key source; what is written is
/// sealed with the primary key of the ring that opened it. A document that does not open is an error, and is left
/// as it is.
///
/// ```
/// use strongroom::{FilePersistence, KeySelector, SealedPersistence, TokenCache};
///
/// # fn main() -> Result<(), strongroom::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let (path, key) = (folder.path().join("cache.bin"), folder.path().join("cache.key"));
/// # strongroom::persistence::create_key_file(&key)?;
/// let source = KeySelector::File(key).open()?;
/// let persistence = SealedPersistence::new(FilePersistence::new(path)?, source);
/// let cache = TokenCache::with_persistence(persistence);
/// assert!(cache.info().protection.is_encrypted());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SealedPersistence<P> {
    inner: P,
    keys: Arc<Keys>,
    contents: Contents,
    /// The revision of a document whose key is lost for good. It is moved aside when the next one is written.
    lost: Mutex<Option<Revision>>,
}

impl<P: Persistence> SealedPersistence<P> {
    /// Seals what `inner` keeps with the keys of `source`.
    pub fn new(inner: P, source: Arc<dyn KeySource>) -> Self {
        Self::with_keys(inner, Arc::new(Keys::of_source(source)))
    }

    pub(super) fn with_keys(inner: P, keys: Arc<Keys>) -> Self {
        Self { inner, keys, contents: Contents::Document, lost: Mutex::default() }
    }

    /// The persistence that keeps the envelope.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    async fn load_now(&self) -> Result<Loaded, Error> {
        let Loaded { bytes, revision } = self.inner.load().await?;
        if is_blank(bytes.expose()) {
            return Ok(Loaded { bytes: SecretBytes::default(), revision });
        }
        match self.open(&bytes).await {
            Ok(bytes) => Ok(Loaded { bytes, revision }),
            // The file of our own records is no loss: an unusable one is as good as none.
            Err(error) if self.contents == Contents::State => {
                tracing::debug!(%error, "what was remembered beside the cache cannot be opened");
                Ok(Loaded { bytes: SecretBytes::default(), revision })
            }
            Err(error) if error.code() == KEY_LOST && !self.keys.keeps_lost => {
                if self.lost.lock().unwrap_or_else(PoisonError::into_inner).replace(revision.clone())
                    != Some(revision.clone())
                {
                    tracing::warn!(
                        location = %self.location(),
                        "the cache cannot be opened any more, {error}; the next write moves it aside and begins a \
                         new one"
                    );
                }
                Ok(Loaded { bytes: SecretBytes::default(), revision })
            }
            Err(error) => Err(error),
        }
    }

    async fn open(&self, bytes: &SecretBytes) -> Result<SecretBytes, Error> {
        let location = || self.location().to_string();
        let refused = |refusal, key_id| {
            let begins_as_json = bytes.expose().trim_ascii_start().starts_with(b"{");
            Error::from(SealError::refused(refusal, location(), key_id, begins_as_json))
        };
        let envelope = Envelope::parse(bytes.expose(), self.contents)
            .map_err(|refusal| refused(refusal, KeyId::NONE))?;
        let sealed_with = envelope.sealed_with();
        let ring = self.keys.to_open(sealed_with, &self.location()).await?;
        let key_id = *sealed_with.key_id();
        let key = ring.key(&key_id).ok_or_else(|| refused(Refusal::WrongKey, key_id))?;
        seal::open(key, &envelope, b"").map_err(|refusal| refused(refusal, key_id))
    }

    async fn save_now(
        &self,
        bytes: &SecretBytes,
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> Result<Saved, Error> {
        let ring = self.keys.to_seal(&self.location()).await?;
        let sealed = SecretBytes::from(seal::seal(&ring, self.contents, b"", bytes.expose())?);
        let is_lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(expected);
        if !is_lost {
            return self.inner.save(&sealed, expected, fence).await;
        }
        if !fence.holds() {
            return Ok(Saved::Conflict);
        }
        match self.inner.set_aside(expected).await? {
            Some(kept) => tracing::warn!(
                location = %self.location(),
                kept,
                "the key of the cache is lost; it was moved aside and a new one is begun"
            ),
            None if !self.inner.is_current(expected)? => return Ok(Saved::Conflict),
            // What cannot be moved is replaced: nobody can ever read it.
            None => return self.inner.save(&sealed, expected, fence).await,
        }
        self.inner.save(&sealed, &Revision::absent(), fence).await
    }
}

impl<P: Persistence> Persistence for SealedPersistence<P> {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        Box::pin(self.load_now())
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        Box::pin(self.save_now(bytes, expected, fence))
    }

    forward_persistence!(self => self.inner; remove, is_current, set_aside, lock_path, lock_mode, location);

    fn beside(&self, path: &Path) -> Result<Box<dyn Persistence>, Error> {
        Ok(Box::new(SealedPersistence {
            inner: self.inner.beside(path)?,
            keys: Arc::clone(&self.keys),
            contents: Contents::State,
            lost: Mutex::default(),
        }))
    }

    fn protection(&self) -> Protection {
        self.keys.protection()
    }

    fn kind(&self) -> &'static str {
        "sealed"
    }
}

/// The keys of one document, of what lies beside it, and of everything that is opened through the same choice.
#[derive(Debug)]
pub(super) struct Keys {
    /// Gives the sources that may have the key of an envelope, the likeliest first.
    sources: Sources,
    least: Protection,
    /// Whether a document whose key is lost is an error, where nobody goes on without what is in it.
    keeps_lost: bool,
    current: RwLock<Option<Arc<Unlocked>>>,
}

/// Where keys are looked for.
#[derive(Debug)]
pub(super) enum Sources {
    /// Nowhere but there.
    One(Arc<dyn KeySource>),
    /// Where the envelope says, then in what is configured.
    AsSealed(super::select::Configured),
}

/// A source and the ring that it gave last.
#[derive(Debug)]
pub(super) struct Unlocked {
    pub(super) source: Arc<dyn KeySource>,
    pub(super) ring: Arc<KeyRing>,
}

impl Keys {
    fn of_source(source: Arc<dyn KeySource>) -> Self {
        Self::new(Sources::One(source), Protection::None, false)
    }

    pub(super) fn new(sources: Sources, least: Protection, keeps_lost: bool) -> Self {
        Self { sources, least, keeps_lost, current: RwLock::default() }
    }

    /// Begins with these keys, until the document says otherwise.
    pub(super) fn begin_with(&self, unlocked: Unlocked) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(unlocked));
    }

    pub(super) fn current(&self) -> Option<Arc<Unlocked>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn protection(&self) -> Protection {
        match (self.current(), &self.sources) {
            (Some(unlocked), _) => unlocked.source.protection(),
            (None, Sources::One(source)) => source.protection(),
            // Sealed by something; by what is not known before it was opened.
            (None, Sources::AsSealed(_)) => Protection::HostFile,
        }
    }

    /// The ring that has the key of an envelope.
    pub(super) async fn to_open(
        &self,
        sealed_with: &SealedWith,
        location: &Location,
    ) -> Result<Arc<KeyRing>, Error> {
        if let Some(unlocked) = self.current()
            && unlocked.ring.contains(sealed_with.key_id())
        {
            return Ok(Arc::clone(&unlocked.ring));
        }
        let unlocked = self.find(sealed_with, location).await?;
        let has = unlocked.source.protection();
        if has < self.least {
            let (location, least) = (location.to_string(), self.least);
            return Err(SealError::ProtectionTooLow { location, has, least, is_there: true }.into());
        }
        let ring = Arc::clone(&unlocked.ring);
        self.begin_with(unlocked);
        Ok(ring)
    }

    async fn find(&self, sealed_with: &SealedWith, location: &Location) -> Result<Unlocked, Error> {
        let (sources, mut failed) = match &self.sources {
            Sources::One(source) => (vec![Arc::clone(source)], Vec::new()),
            Sources::AsSealed(configured) => configured.sources_for(sealed_with),
        };
        let mut lost = None;
        for source in sources {
            match source.to_open(sealed_with).await {
                Ok(ring) => return Ok(Unlocked { source, ring: Arc::new(ring) }),
                Err(error) if error.code() == KEY_LOST => lost = Some(error),
                Err(error) => failed.push(error),
            }
        }
        match lost {
            // Only if nobody else may still have it.
            Some(error) if failed.iter().all(|error| error.code() == KEY_NOT_THERE) => Err(error),
            lost => {
                let tried: Vec<_> = lost.iter().chain(&failed).map(ToString::to_string).collect();
                let (location, key_id) = (location.to_string(), *sealed_with.key_id());
                let error = match sealed_with.kind() {
                    Some(source_kind) => SealError::UnknownKey { location, key_id, source_kind, tried },
                    None => SealError::UnsupportedSource { location, key_id },
                };
                let error = Error::from(error);
                Err(match failed.pop() {
                    Some(source) => error.with_source(source),
                    None => error,
                })
            }
        }
    }

    /// The ring that new envelopes are sealed with: the one that opened the document, as it is now.
    pub(super) async fn to_seal(&self, location: &Location) -> Result<Arc<KeyRing>, Error> {
        let source = match (self.current(), &self.sources) {
            (Some(unlocked), _) if !unlocked.source.has_changed() => return Ok(Arc::clone(&unlocked.ring)),
            (Some(unlocked), _) => Arc::clone(&unlocked.source),
            (None, Sources::One(source)) => Arc::clone(source),
            (None, Sources::AsSealed(configured)) => configured.source_for_new(location).await?.0,
        };
        let ring = Arc::new(source.to_seal().await?);
        self.begin_with(Unlocked { source, ring: Arc::clone(&ring) });
        Ok(ring)
    }
}

/// Whether nothing is there yet: no bytes, or the empty object that marks a place.
pub(super) fn is_blank(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii();
    text.is_empty()
        || text
            .strip_prefix(b"{")
            .and_then(|rest| rest.strip_suffix(b"}"))
            .is_some_and(|inside| inside.trim_ascii().is_empty())
}

/// Enough of a document to tell what it is.
pub(super) const ENOUGH_TO_TELL: usize = LARGEST_HEADER;
