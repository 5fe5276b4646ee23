//! Keys in a file that the operator names.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::private::Rings;
use super::{FileMark, KeyFiles, KeySource, KeySourceKind, SealedWith, parameter_of, text};
use crate::seal::error::SealError;
use crate::seal::key_ring::{KeyRing, MasterKey};
use crate::time::{Clock as _, SystemClock};
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// A key file.
#[derive(Debug)]
pub(crate) struct FileSource {
    kind: KeySourceKind,
    path: PathBuf,
    files: Arc<dyn KeyFiles>,
    seen: Mutex<Option<FileMark>>,
}

impl FileSource {
    pub(crate) fn new(path: PathBuf, files: Arc<dyn KeyFiles>) -> Self {
        Self::of_kind(KeySourceKind::File, path, files)
    }

    pub(super) fn of_kind(kind: KeySourceKind, path: PathBuf, files: Arc<dyn KeyFiles>) -> Self {
        Self { kind, path, files, seen: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The keys in the file; `None` if there is no file.
    pub(crate) fn read(&self) -> Result<Option<KeyRing>, Error> {
        // Before it is read: a change that comes in between is then one to look at, not one to miss.
        let mark = self.files.mark(&self.path);
        let ring = self.ring_of(self.files.read(&self.path)?.as_ref())?;
        self.saw(mark);
        Ok(ring)
    }

    /// The keys in the file, while nobody writes it.
    async fn read_under_lock(&self) -> Result<Option<KeyRing>, Error> {
        let mut ring = None;
        let look = |content: Option<&SecretBytes>| {
            self.saw(self.files.mark(&self.path));
            ring = self.ring_of(content)?;
            Ok(None)
        };
        self.files.update(&self.path, Box::new(look)).await?;
        Ok(ring)
    }

    /// Makes the file with one new key; `None` if there is one already.
    pub(crate) fn create_new(&self) -> Result<Option<KeyRing>, Error> {
        let key = MasterKey::generate(SystemClock.now())?;
        if self.files.create(&self.path, &text::format([&key]))? { self.read() } else { Ok(None) }
    }

    /// Makes the file with one new key, unless somebody else has made it by now. Whoever was first, his is read.
    pub(super) fn create(&self) -> Result<KeyRing, Error> {
        let created = self.create_new()?;
        let ring = if created.is_some() { created } else { self.read()? };
        ring.ok_or_else(|| self.missing().into())
    }

    async fn add_primary(&self) -> Result<KeyRing, Error> {
        let key = MasterKey::generate(SystemClock.now())?;
        self.replace(move |ring| text::format(std::iter::once(&key).chain(ring.master_keys()))).await
    }

    async fn add_older(&self, keys: &SecretBytes) -> Result<KeyRing, Error> {
        let keys = text::parse_import(keys)?;
        self.replace(move |ring| {
            let new = keys.iter().filter(|key| !ring.contains(&key.id()));
            text::format(ring.master_keys().iter().chain(new))
        })
        .await
    }

    /// Writes what `change` makes of the keys, while nobody else writes them.
    async fn replace(&self, change: impl FnOnce(&KeyRing) -> SecretBytes + Send) -> Result<KeyRing, Error> {
        let mut replaced = None;
        let replace = |content: Option<&SecretBytes>| {
            let ring = self.ring_of(content)?.ok_or_else(|| self.missing())?;
            let content = change(&ring);
            // Whatever is written can be read again: too many keys, for one thing, could not.
            replaced = self.ring_of(Some(&content))?;
            Ok(Some(content))
        };
        self.files.update(&self.path, Box::new(replace)).await?;
        Ok(replaced.expect("the change was asked for"))
    }

    fn ring_of(&self, content: Option<&SecretBytes>) -> Result<Option<KeyRing>, SealError> {
        let Some(content) = content else { return Ok(None) };
        let keys = text::parse(content.expose()).map_err(|reason| self.invalid(reason))?;
        match KeyRing::new(self.kind, parameter_of(&self.path), keys) {
            Some(ring) => Ok(Some(ring)),
            None => Err(self.invalid("the file is empty".into())),
        }
    }

    fn saw(&self, mark: Option<FileMark>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = mark;
    }

    fn missing(&self) -> SealError {
        let reason = "there is no such file".into();
        SealError::NoKey { source_name: format!("file:{}", self.path.display()), reason }
    }

    fn invalid(&self, reason: String) -> SealError {
        SealError::InvalidKeys { source_name: format!("file:{}", self.path.display()), reason }
    }
}

impl KeySource for FileSource {
    fn kind(&self) -> KeySourceKind {
        self.kind
    }

    fn name(&self) -> String {
        format!("{}:{}", self.kind, self.path.display())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn rotate(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(self.add_primary())
    }

    fn import<'a>(&'a self, keys: &'a SecretBytes) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(self.add_older(keys))
    }

    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        self.to_seal()
    }
}

impl Rings for FileSource {
    fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move { self.read()?.ok_or_else(|| self.missing().into()) })
    }

    fn to_open<'a>(&'a self, sealed_with: &'a SealedWith) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(async move {
            let key_id = *sealed_with.key_id();
            let ring = self.read()?.ok_or_else(|| self.missing())?;
            if ring.contains(&key_id) {
                return Ok(ring);
            }
            match self.read_under_lock().await? {
                Some(ring) if ring.contains(&key_id) => Ok(ring),
                _ => Err(SealError::KeyNotThere { key_id, source_name: self.name() }.into()),
            }
        })
    }

    fn has_changed(&self) -> bool {
        self.files.mark(&self.path) != *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
