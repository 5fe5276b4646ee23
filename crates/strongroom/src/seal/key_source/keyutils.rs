//! Keys in the kernel's keyring of this user: in no file, and gone at reboot.
//!
//! Each key is an entry of type `user` named `strongroom:<key id>`; the entry `strongroom:primary` holds the id of
//! the primary one.

use linux_keyutils::{Key, KeyError, KeyRing as Keyring, KeyRingIdentifier};
use zeroize::Zeroizing;

use super::private::Rings;
use super::{KeySource, KeySourceKind, SealedWith, text};
use crate::seal::error::SealError;
use crate::seal::key_ring::{KeyId, KeyRing, MASTER_KEY, MasterKey};
use crate::time::{Clock as _, SystemClock};
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

const PRIMARY: &str = "strongroom:primary";
/// As many entries of a keyring as are looked at: more than the kernel lets a user have by default.
const MOST_LINKS: usize = 1000;

/// The user keyring of the kernel.
#[derive(Debug)]
pub(crate) struct KeyutilsSource;

impl KeyutilsSource {
    fn keyring(&self) -> Result<Keyring, SealError> {
        let keyring = Keyring::from_special_id(KeyRingIdentifier::User, true).map_err(unavailable)?;
        // A session keyring that was made without the user keyring in it (su, some containers) does not let us
        // read what is there. Where this fails, the reading tells why.
        if let Ok(session) = Keyring::from_special_id(KeyRingIdentifier::Session, false) {
            let _ = session.link_keyring(keyring);
        }
        Ok(keyring)
    }

    fn primary(&self, keyring: &Keyring) -> Result<Option<MasterKey>, SealError> {
        let Some(pointer) = find(keyring, PRIMARY)? else { return Ok(None) };
        let mut id = [0; KeyId::LENGTH];
        match pointer.read(&mut id) {
            Ok(KeyId::LENGTH) => self.key(keyring, &KeyId::new(id)),
            Ok(_) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    fn key(&self, keyring: &Keyring, id: &KeyId) -> Result<Option<MasterKey>, SealError> {
        let Some(entry) = find(keyring, &name_of(id))? else { return Ok(None) };
        let mut bytes = Zeroizing::new([0; MASTER_KEY]);
        match entry.read(&mut *bytes) {
            Ok(MASTER_KEY) => Ok(MasterKey::from_slice(&*bytes).filter(|key| key.id() == *id)),
            Ok(_) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// All keys that are there, the primary first.
    fn all(&self) -> Result<KeyRing, SealError> {
        let keyring = self.keyring()?;
        let mut keys: Vec<_> = self.primary(&keyring)?.into_iter().collect();
        // Without a primary there is nothing that seals: what is there opens only.
        if !keys.is_empty() {
            let links = keyring.get_links(MOST_LINKS).map_err(unavailable)?;
            // What is not ours to look at is not ours.
            let entries = links.iter().filter_map(|link| link.as_key()?.metadata().ok());
            let ids: Vec<KeyId> = entries.filter_map(|entry| id_of(entry.get_description())).collect();
            for id in ids {
                keys.extend(self.key(&keyring, &id)?);
            }
        }
        ring_of(keys)
    }

    fn add_older(&self, keys: &SecretBytes) -> Result<KeyRing, SealError> {
        let keys = text::parse_import(keys)?;
        let keyring = self.keyring()?;
        if self.primary(&keyring)?.is_none() {
            self.add_primary()?;
        }
        for key in keys {
            keyring.add_key(&name_of(&key.id()), key.expose()).map_err(unavailable)?;
        }
        self.all()
    }

    fn add_primary(&self) -> Result<KeyRing, SealError> {
        let keyring = self.keyring()?;
        let key = MasterKey::generate(SystemClock.now())?;
        keyring.add_key(&name_of(&key.id()), key.expose()).map_err(unavailable)?;
        // Only now: who finds the name finds the key.
        keyring.add_key(PRIMARY, key.id().as_bytes()).map_err(unavailable)?;
        ring_of(vec![key])
    }
}

impl KeySource for KeyutilsSource {
    fn kind(&self) -> KeySourceKind {
        KeySourceKind::Keyutils
    }

    fn name(&self) -> String {
        self.kind().to_string()
    }

    fn rotate(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move {
            self.add_primary()?;
            Ok(self.all()?)
        })
    }

    fn import<'a>(&'a self, keys: &'a SecretBytes) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(async move { Ok(self.add_older(keys)?) })
    }

    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move { Ok(self.all()?) })
    }
}

impl Rings for KeyutilsSource {
    fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move {
            Ok(match self.primary(&self.keyring()?)? {
                Some(key) => ring_of(vec![key])?,
                None => self.add_primary()?,
            })
        })
    }

    fn to_open<'a>(&'a self, sealed_with: &'a SealedWith) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(async move {
            let key_id = *sealed_with.key_id();
            let keyring = self.keyring()?;
            let Some(key) = self.key(&keyring, &key_id)? else {
                let error = if sealed_with.kind() == Some(self.kind()) {
                    let reason = "the kernel's keyring does not outlive a reboot".into();
                    SealError::KeyLost { key_id, reason }
                } else {
                    SealError::KeyNotThere { key_id, source_name: self.name() }
                };
                return Err(error.into());
            };
            // What is sealed from now on is sealed with the primary one.
            let primary = self.primary(&keyring)?;
            Ok(ring_of(primary.into_iter().chain([key]).collect())?)
        })
    }
}

fn find(keyring: &Keyring, name: &str) -> Result<Option<Key>, SealError> {
    match keyring.search(name) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::KeyDoesNotExist | KeyError::KeyRevoked | KeyError::KeyExpired) => Ok(None),
        Err(error) => Err(unavailable(error)),
    }
}

fn ring_of(keys: Vec<MasterKey>) -> Result<KeyRing, SealError> {
    KeyRing::new(KeySourceKind::Keyutils, Vec::new(), keys).ok_or_else(|| SealError::NoKey {
        source_name: KeySourceKind::Keyutils.to_string(),
        reason: "none was made since this machine started".into(),
    })
}

fn name_of(id: &KeyId) -> String {
    format!("strongroom:{id}")
}

fn id_of(name: &str) -> Option<KeyId> {
    let digits = name.strip_prefix("strongroom:").filter(|digits| digits.len() == 2 * KeyId::LENGTH)?;
    let number = u128::from_str_radix(digits, 16).ok()?;
    Some(KeyId::new(number.to_be_bytes()))
}

fn unavailable(error: KeyError) -> SealError {
    SealError::SourceUnavailable {
        source_name: KeySourceKind::Keyutils.to_string(),
        reason: format!("the kernel's keyring says: {error:?}"),
        source: None,
    }
}
