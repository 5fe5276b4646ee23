//! The host key: a key file that is made at first use, so that a bare server needs no set-up.
//!
//! It lies in the first of some state folders, which differ between a service and a shell of the same user. So
//! what is sealed with it tells where it lay, and all folders are searched by the key's id.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::private::Rings;
use super::{FileSource, KeyFiles, KeySource, KeySourceKind, SealedWith, text};
use crate::seal::error::{KEY_NOT_THERE, SealError};
use crate::seal::key_ring::{KeyId, KeyRing};
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// The name of the file in each place.
const HOST_KEY: &str = "host.key";

/// A folder that the host key may lie in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The folder itself; it is made if it is missing.
    pub(crate) folder: PathBuf,
    /// The folder that has to be there for "there is no key" to be believed: without it, a disk may not be
    /// mounted, or a home not be there yet.
    pub(crate) base: PathBuf,
    /// Whether the operator named it: then no other is taken in its place.
    pub(crate) is_named: bool,
}

/// The key of this host.
#[derive(Debug)]
pub(crate) struct HostSource {
    places: Vec<Place>,
    files: Arc<dyn KeyFiles>,
    /// The file that gave the last ring.
    found: Mutex<Option<Arc<FileSource>>>,
}

impl HostSource {
    /// Makes a key in the first of the `places` that can be used; searches all of them for one.
    pub(crate) fn new(places: Vec<Place>, files: Arc<dyn KeyFiles>) -> Self {
        Self { places, files, found: Mutex::default() }
    }

    /// The key file that a new document is sealed with, and whether it is there already.
    ///
    /// # Errors
    /// There is no place for one, or none can be looked at.
    pub(crate) fn would_use(&self) -> Result<(PathBuf, bool), Error> {
        let (file, found) = self.first_usable(FileSource::read)?;
        Ok((file.path().to_owned(), found.is_some()))
    }

    /// The key in the first place that has one, or can have one.
    fn existing_or_new(&self) -> Result<KeyRing, Error> {
        let (file, ring) = self.first_usable(|file| file.read()?.map_or_else(|| file.create(), Ok))?;
        self.remember(file);
        Ok(ring)
    }

    /// What `attempt` gives in the first place where it succeeds.
    fn first_usable<T>(
        &self,
        attempt: impl Fn(&FileSource) -> Result<T, Error>,
    ) -> Result<(FileSource, T), Error> {
        let mut failed = Vec::new();
        for place in &self.places {
            let file = self.file_in(&place.folder);
            match attempt(&file) {
                Ok(result) => return Ok((file, result)),
                Err(error) => failed.push(error.to_string()),
            }
            if place.is_named {
                break;
            }
        }
        if failed.is_empty() {
            return Err(no_place().into());
        }
        let (source_name, reason) = (self.name(), failed.join("; "));
        Err(SealError::SourceUnavailable { source_name, reason, source: None }.into())
    }

    /// The first key that there is, where a new document would look for one.
    fn existing(&self) -> Result<KeyRing, Error> {
        for place in &self.places {
            let file = self.file_in(&place.folder);
            if let Some(ring) = file.read()? {
                self.remember(file);
                return Ok(ring);
            }
            if place.is_named {
                break;
            }
        }
        let reason = "none was made on this host yet".into();
        Err(SealError::NoKey { source_name: self.name(), reason }.into())
    }

    /// Searches the place that the envelope names, then all others.
    async fn search(&self, sealed_with: &SealedWith) -> Result<KeyRing, Error> {
        let key_id = sealed_with.key_id();
        let is_host_key = sealed_with.kind() == Some(KeySourceKind::Host);
        let hint = sealed_with.key_file().filter(|_| is_host_key).and_then(|path| place_of(&path));
        let mut places: Vec<&Place> = self.places.iter().collect();
        if let Some(hint) = &hint {
            match places.iter().position(|place| place.folder == hint.folder) {
                Some(at) => places[..=at].rotate_right(1),
                None => places.insert(0, hint),
            }
        }
        let mut doubtful: Option<Error> = None;
        let mut others = false;
        for place in places {
            match self.look_for(key_id, place).await {
                Ok(Looked::Found(ring)) => return Ok(ring),
                Ok(Looked::OtherKeys) => others = true,
                Ok(Looked::NoFile) => {}
                Err(error) => doubtful = doubtful.or(Some(error)),
            }
        }
        match doubtful {
            Some(error) => Err(error),
            None if is_host_key => {
                let reason = if others { "this host has another one" } else { "this host has none" };
                Err(SealError::KeyLost { key_id: *key_id, reason: reason.into() }.into())
            }
            None => Err(SealError::KeyNotThere { key_id: *key_id, source_name: self.name() }.into()),
        }
    }

    async fn look_for(&self, key_id: &KeyId, place: &Place) -> Result<Looked, Error> {
        let file = self.file_in(&place.folder);
        if let Some(ring) = file.read()? {
            if ring.contains(key_id) {
                self.remember(file);
                return Ok(Looked::Found(ring));
            }
            // Somebody may be rotating it.
            let sought = SealedWith::new(KeySourceKind::Host.number(), *key_id, Vec::new());
            return match file.to_open(&sought).await {
                Ok(ring) => {
                    self.remember(file);
                    Ok(Looked::Found(ring))
                }
                Err(error) if error.code() == KEY_NOT_THERE => Ok(Looked::OtherKeys),
                Err(error) => Err(error),
            };
        }
        if self.files.has_directory(&place.base)? {
            return Ok(Looked::NoFile);
        }
        let reason = format!("the folder {} is missing: is its disk mounted?", place.base.display());
        Err(SealError::SourceUnavailable { source_name: self.name(), reason, source: None }.into())
    }

    fn file_in(&self, folder: &Path) -> FileSource {
        FileSource::of_kind(KeySourceKind::Host, folder.join(HOST_KEY), Arc::clone(&self.files))
    }

    fn remember(&self, file: FileSource) {
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(file));
    }

    fn found(&self) -> Option<Arc<FileSource>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

enum Looked {
    Found(KeyRing),
    OtherKeys,
    NoFile,
}

impl KeySource for HostSource {
    fn kind(&self) -> KeySourceKind {
        KeySourceKind::Host
    }

    fn name(&self) -> String {
        self.kind().to_string()
    }

    fn files(&self) -> Vec<PathBuf> {
        if let Some(file) = self.found() {
            return vec![file.path().to_owned()];
        }
        // Where the operator named a place, no other is taken.
        let named = self.places.iter().position(|place| place.is_named);
        let places = named.map_or(&self.places[..], |at| &self.places[..=at]);
        places.iter().map(|place| place.folder.join(HOST_KEY)).collect()
    }

    fn rotate(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move {
            self.existing_or_new()?;
            let file = self.found().expect("a ring was just found");
            file.rotate().await
        })
    }

    fn import<'a>(&'a self, keys: &'a SecretBytes) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(async move {
            // No key is made for what is none.
            text::parse_import(keys)?;
            self.existing_or_new()?;
            let file = self.found().expect("a ring was just found");
            file.import(keys).await
        })
    }

    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move { self.existing() })
    }
}

impl Rings for HostSource {
    fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move {
            // One that was deleted meanwhile is made anew: who seals has the document.
            let found = self.found().map(|file| file.read()).transpose()?.flatten();
            found.map_or_else(|| self.existing_or_new(), Ok)
        })
    }

    fn to_open<'a>(&'a self, sealed_with: &'a SealedWith) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(self.search(sealed_with))
    }

    fn has_changed(&self) -> bool {
        self.found().is_some_and(|file| file.has_changed())
    }
}

/// The place of a host key that an envelope names. Anybody who can write the envelope can name a path: only files
/// of this name are looked at.
fn place_of(path: &Path) -> Option<Place> {
    if path.file_name()? != HOST_KEY {
        return None;
    }
    let folder = path.parent()?;
    let base = match folder.file_name() {
        // The folder that we make in one that has to be there.
        Some(name) if name == "strongroom" => folder.parent()?,
        _ => folder,
    };
    Some(Place { folder: folder.to_owned(), base: base.to_owned(), is_named: false })
}

fn no_place() -> SealError {
    let reason = "none of STRONGROOM_STATE_DIR, STATE_DIRECTORY, XDG_STATE_HOME and HOME is set".into();
    SealError::NoKey { source_name: KeySourceKind::Host.to_string(), reason }
}
