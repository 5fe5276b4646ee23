//! Keys in the Secret Service of the desktop: one item that holds them as text, as a key file does.
//!
//! The item is made in the default keyring at first use. Any program may have made others like it, in any keyring: a
//! second one, a restored one, one without a password. What is sealed is sealed with a key of the default keyring,
//! and keys are written there alone; those of other keyrings only open.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::private::Rings;
use super::{KeySource, KeySourceKind, SealedWith, text};
use crate::seal::error::SealError;
use crate::seal::key_ring::{KeyRing, MasterKey};
use crate::time::{Clock as _, SystemClock};
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// How the item with the keys is read and written. The layer above owns the session bus.
pub(crate) trait KeyItem: fmt::Debug + Send + Sync {
    /// All such items. Fails as `key_source_unavailable`.
    fn read(&self) -> BoxFuture<'_, Result<KeyItems, Error>>;

    /// Reads while no other process writes, and writes what `change` makes of all, if anything.
    fn update<'a>(&'a self, change: ItemChange<'a>) -> BoxFuture<'a, Result<(), Error>>;
}

/// The contents of the items with keys.
pub(crate) struct KeyItems {
    /// Those in the default keyring, the newest first.
    pub(crate) own: Vec<SecretBytes>,
    /// Those in other keyrings, the newest first.
    pub(crate) others: Vec<SecretBytes>,
    /// Whether the default keyring is locked.
    pub(crate) is_locked: bool,
    /// Whether there is such an item, in any keyring, that is locked.
    pub(crate) has_locked: bool,
}

/// What is to be written.
pub(crate) struct NewKeys {
    pub(crate) content: SecretBytes,
    /// Which of the items in the default keyring it replaces; none: a new one is made there.
    pub(crate) replaces: Option<usize>,
}

/// What is to become of the item with the keys.
pub(crate) type ItemChange<'a> = Box<dyn FnOnce(&KeyItems) -> Result<Option<NewKeys>, Error> + Send + 'a>;

/// The item with the keys.
#[derive(Debug)]
pub(crate) struct SecretServiceSource {
    item: Arc<dyn KeyItem>,
    /// Whether the last ring was of other keyrings alone, so that there is no key yet that seals.
    lacks_own: AtomicBool,
    /// Whether it was told already that there are several items.
    has_warned: AtomicBool,
}

impl SecretServiceSource {
    pub(crate) fn new(item: Arc<dyn KeyItem>) -> Self {
        Self { item, lacks_own: AtomicBool::new(false), has_warned: AtomicBool::new(false) }
    }

    async fn read(&self) -> Result<Found, Error> {
        Ok(self.found(&self.item.read().await?)?)
    }

    /// The keys, or one that is made now. Of all who find none only one makes it.
    async fn existing_or_new(&self) -> Result<KeyRing, Error> {
        let found = self.read().await?;
        if !found.own.is_empty() {
            return found.into_ring().ok_or_else(|| no_key(0).into());
        }
        self.update(|own| Ok(if own.is_empty() { Some(text::format([&new_key()?])) } else { None })).await
    }

    async fn add_primary(&self) -> Result<KeyRing, Error> {
        // Whoever cannot be reached is waited for less patiently than whoever writes.
        self.read().await?;
        self.update(|own| Ok(Some(text::format(std::iter::once(&new_key()?).chain(own))))).await
    }

    async fn add_older(&self, keys: &SecretBytes) -> Result<KeyRing, Error> {
        let keys = text::parse_import(keys)?;
        self.existing_or_new().await?;
        self.update(|own| {
            let new = keys.iter().filter(|key| own.iter().all(|one| one.id() != key.id()));
            Ok(Some(text::format(own.iter().chain(new))))
        })
        .await
    }

    /// The keys as `change` leaves those of the default keyring: the text that it gives, or as they are.
    async fn update(
        &self,
        change: impl FnOnce(&[MasterKey]) -> Result<Option<SecretBytes>, Error> + Send,
    ) -> Result<KeyRing, Error> {
        let mut after = None;
        let update = |items: &KeyItems| {
            let mut found = self.found(items)?;
            if found.own.is_empty() && found.is_locked {
                return Err(unavailable(LOCKED.into()).into());
            }
            let replaces = found.replaces;
            let new = match change(&found.own)? {
                Some(content) => {
                    // Whatever is written can be read again: too many keys, for one thing, could not.
                    found.own = text::parse(content.expose()).map_err(invalid)?;
                    Some(NewKeys { content, replaces })
                }
                None => None,
            };
            after = found.into_ring();
            Ok(new)
        };
        self.item.update(Box::new(update)).await?;
        self.lacks_own.store(false, Ordering::Relaxed);
        after.ok_or_else(|| no_key(0).into())
    }

    /// The keys in the items. One that holds none is passed over as long as another has some.
    fn found(&self, items: &KeyItems) -> Result<Found, SealError> {
        let (mut own, mut others, mut replaces, mut problem) = (Vec::new(), Vec::new(), None, None);
        let in_own = items.own.iter().enumerate().map(|(at, content)| (Some(at), content));
        for (at, content) in in_own.chain(items.others.iter().map(|content| (None, content))) {
            let keys = match text::parse(content.expose()) {
                Ok(keys) if keys.is_empty() => Err("its item is empty".to_owned()),
                parsed => parsed,
            };
            match (keys, at) {
                (Ok(keys), Some(_)) => {
                    own.extend(keys);
                    replaces = replaces.or(at);
                }
                (Ok(keys), None) => others.extend(keys),
                (Err(reason), _) => problem = problem.or(Some(reason)),
            }
        }
        if let Some(reason) = &problem
            && own.is_empty()
            && others.is_empty()
        {
            return Err(invalid(reason.clone()));
        }
        let number = items.own.len() + items.others.len();
        if number > 1 && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                in_default_keyring = items.own.len(),
                not_valid = problem,
                "the Secret Service has {number} items with keys: the newest of the default keyring seals, the others \
                 open only; remove those that are not yours"
            );
        }
        Ok(Found { own, others, replaces, is_locked: items.is_locked, has_locked: items.has_locked })
    }
}

/// The keys in the items.
struct Found {
    /// Those of the default keyring, the primary first.
    own: Vec<MasterKey>,
    /// Those of other keyrings.
    others: Vec<MasterKey>,
    /// The item that a change replaces: the newest of the default keyring that holds keys.
    replaces: Option<usize>,
    is_locked: bool,
    has_locked: bool,
}

impl Found {
    fn into_ring(mut self) -> Option<KeyRing> {
        self.own.append(&mut self.others);
        KeyRing::new(KeySourceKind::SecretService, Vec::new(), self.own)
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
        Box::pin(async move {
            let found = self.read().await?;
            if found.own.is_empty() {
                let error =
                    if found.is_locked { unavailable(LOCKED.into()) } else { no_key(found.others.len()) };
                return Err(error.into());
            }
            found.into_ring().ok_or_else(|| no_key(0).into())
        })
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
            let found = self.read().await?;
            let (is_locked, has_locked) = (found.is_locked, found.has_locked);
            let lacks_own = found.own.is_empty();
            if let Some(ring) = found.into_ring().filter(|ring| ring.contains(&key_id)) {
                self.lacks_own.store(lacks_own, Ordering::Relaxed);
                return Ok(ring);
            }
            Err(match (is_locked, has_locked) {
                (true, _) => unavailable(LOCKED.into()),
                (false, true) => unavailable(format!(
                    "what is unlocked does not have the key {key_id}, and there is an item in a keyring that is locked"
                )),
                (false, false) => SealError::KeyNotThere { key_id, source_name: self.name() },
            }
            .into())
        })
    }

    /// A ring of other keyrings seals nothing: before that is done, the default keyring gets a key.
    fn has_changed(&self) -> bool {
        self.lacks_own.load(Ordering::Relaxed)
    }
}

const LOCKED: &str = "the keyring is locked, and it takes a prompt to unlock it";

fn new_key() -> Result<MasterKey, SealError> {
    MasterKey::generate(SystemClock.now())
}

fn source_name() -> String {
    KeySourceKind::SecretService.to_string()
}

fn invalid(reason: String) -> SealError {
    SealError::InvalidKeys { source_name: source_name(), reason }
}

fn unavailable(reason: String) -> SealError {
    SealError::SourceUnavailable { source_name: source_name(), reason, source: None }
}

/// `others`: how many keys there are that only open.
fn no_key(others: usize) -> SealError {
    let reason = match others {
        0 => "none was made in this keyring yet".into(),
        others => {
            format!("none was made in the default keyring yet; other keyrings have {others}, which only open")
        }
    };
    SealError::NoKey { source_name: source_name(), reason }
}
