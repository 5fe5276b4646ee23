//! Keys in the Secret Service of the desktop: one item that holds them as text, as a key file does.
//!
//! The item is made at first use. Should there be several (a second keyring, a restored one), all their keys open.

use std::fmt;
use std::sync::Arc;

use super::private::Rings;
use super::{KeySource, KeySourceKind, SealedWith, text};
use crate::seal::error::SealError;
use crate::seal::key_ring::{KeyRing, MasterKey};
use crate::time::{Clock as _, SystemClock};
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// How the item with the keys is read and written. The layer above owns the session bus.
pub(crate) trait KeyItem: fmt::Debug + Send + Sync {
    /// The contents of all such items, the newest first. Fails as `key_source_unavailable`.
    fn read(&self) -> BoxFuture<'_, Result<Vec<SecretBytes>, Error>>;

    /// Reads while no other process writes, and replaces the newest with what `change` makes of all, if anything; makes
    /// the item if there is none.
    fn update<'a>(&'a self, change: ItemChange<'a>) -> BoxFuture<'a, Result<(), Error>>;
}

/// What is to become of the item with the keys.
pub(crate) type ItemChange<'a> =
    Box<dyn FnOnce(&[SecretBytes]) -> Result<Option<SecretBytes>, Error> + Send + 'a>;

/// The item with the keys.
#[derive(Debug)]
pub(crate) struct SecretServiceSource {
    item: Arc<dyn KeyItem>,
}

impl SecretServiceSource {
    pub(crate) fn new(item: Arc<dyn KeyItem>) -> Self {
        Self { item }
    }

    /// `None` if no key was made yet.
    async fn read(&self) -> Result<Option<KeyRing>, Error> {
        Ok(ring_of(&self.item.read().await?)?)
    }

    /// The keys, or one that is made now. Of all who find none only one makes it.
    async fn existing_or_new(&self) -> Result<KeyRing, Error> {
        match self.read().await? {
            Some(ring) => Ok(ring),
            None => {
                self.update(|ring| Ok(if ring.is_some() { None } else { Some(text::format([&new_key()?])) }))
                    .await
            }
        }
    }

    async fn add_primary(&self) -> Result<KeyRing, Error> {
        // Whoever cannot be reached is waited for less patiently than whoever writes.
        self.read().await?;
        self.update(|ring| {
            let new = new_key()?;
            let old = ring.map_or(&[][..], KeyRing::master_keys);
            Ok(Some(text::format(std::iter::once(&new).chain(old))))
        })
        .await
    }

    async fn add_older(&self, keys: &SecretBytes) -> Result<KeyRing, Error> {
        let keys = text::parse(keys.expose()).map_err(|reason| {
            let source_name = "what is to be imported".into();
            SealError::InvalidKeys { source_name, reason }
        })?;
        self.existing_or_new().await?;
        self.update(|ring| {
            let ours = ring.map_or(&[][..], KeyRing::master_keys);
            let new = keys.iter().filter(|key| ours.iter().all(|one| one.id() != key.id()));
            Ok(Some(text::format(ours.iter().chain(new))))
        })
        .await
    }

    /// The keys as `change` leaves them: the text that it gives, or as they are.
    async fn update(
        &self,
        change: impl FnOnce(Option<&KeyRing>) -> Result<Option<SecretBytes>, Error> + Send,
    ) -> Result<KeyRing, Error> {
        let mut after = None;
        let update = |contents: &[SecretBytes]| {
            let before = ring_of(contents)?;
            let text = change(before.as_ref())?;
            after = match &text {
                // Whatever is written can be read again: too many keys, for one thing, could not.
                Some(text) => ring_of(std::slice::from_ref(text))?,
                None => before,
            };
            Ok(text)
        };
        self.item.update(Box::new(update)).await?;
        after.ok_or_else(|| no_key().into())
    }
}

impl KeySource for SecretServiceSource {
    fn kind(&self) -> KeySourceKind {
        KeySourceKind::SecretService
    }

    fn name(&self) -> String {
        self.kind().to_string()
    }

    fn rotate(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(self.add_primary())
    }

    fn import<'a>(&'a self, keys: &'a SecretBytes) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(self.add_older(keys))
    }

    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move { self.read().await?.ok_or_else(|| no_key().into()) })
    }
}

impl Rings for SecretServiceSource {
    fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(self.existing_or_new())
    }

    fn to_open<'a>(&'a self, sealed_with: &'a SealedWith) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(async move {
            let key_id = *sealed_with.key_id();
            // A key is in the item before anything is sealed with it, so nobody has to be waited for.
            match self.read().await? {
                Some(ring) if ring.contains(&key_id) => Ok(ring),
                _ => Err(SealError::KeyNotThere { key_id, source_name: self.name() }.into()),
            }
        })
    }
}

/// The keys of all items, those of the newest first; `None` if there is no item.
fn ring_of(contents: &[SecretBytes]) -> Result<Option<KeyRing>, SealError> {
    let mut keys = Vec::new();
    for content in contents {
        keys.extend(text::parse(content.expose()).map_err(invalid)?);
    }
    let ring = KeyRing::new(KeySourceKind::SecretService, Vec::new(), keys);
    if ring.is_none() && !contents.is_empty() {
        return Err(invalid("its item is empty".into()));
    }
    Ok(ring)
}

fn new_key() -> Result<MasterKey, SealError> {
    MasterKey::generate(SystemClock.now())
}

fn source_name() -> String {
    KeySourceKind::SecretService.to_string()
}

fn invalid(reason: String) -> SealError {
    SealError::InvalidKeys { source_name: source_name(), reason }
}

fn no_key() -> SealError {
    SealError::NoKey { source_name: source_name(), reason: "none was made in this keyring yet".into() }
}
