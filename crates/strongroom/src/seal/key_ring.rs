//! The keys that seal and open: one primary key that new envelopes are sealed with, older ones for reading.

use std::fmt;
use std::path::PathBuf;

use super::cipher;
use super::error::SealError;
use super::key_source::{KeySourceKind, SealedWith, text};
use crate::platform::locked_memory::LockedBytes;
use crate::time::{Clock as _, SystemClock, UnixSeconds};
use crate::{Error, SecretBytes};

/// The length of a master key in bytes.
pub(super) const MASTER_KEY: usize = 32;

/// The public name of a key. It is derived from the key and tells nothing about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; Self::LENGTH]);

impl KeyId {
    pub(crate) const LENGTH: usize = 16;
    /// No key has it, as far as anybody can tell: for what names none.
    pub(crate) const NONE: Self = Self([0; Self::LENGTH]);

    pub(crate) const fn new(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// 32 random bytes that everything else is derived from. In locked memory, wiped when dropped.
pub(crate) struct MasterKey {
    bytes: LockedBytes,
    id: KeyId,
    created: Option<UnixSeconds>,
}

impl MasterKey {
    /// A new random key.
    pub(super) fn generate(now: UnixSeconds) -> Result<Self, SealError> {
        let mut bytes = LockedBytes::zeroed(MASTER_KEY);
        cipher::fill_random(&mut bytes)?;
        Ok(Self::new(bytes, Some(now)))
    }

    /// The key that `fill` writes; `None` if it does not write one of the right length.
    pub(super) fn filled_by(
        created: Option<UnixSeconds>,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Option<Self> {
        // Room for a text that is too long, so that its length shows.
        let mut bytes = LockedBytes::zeroed(MASTER_KEY + 16);
        let length = fill(&mut bytes)?;
        (length == MASTER_KEY).then(|| Self::new(bytes, created))
    }

    /// A copy of 32 bytes.
    #[cfg(any(test, feature = "passphrase", all(feature = "keyutils", target_os = "linux")))]
    pub(super) fn from_slice(key: &[u8]) -> Option<Self> {
        Self::filled_by(None, |bytes| {
            bytes.get_mut(..key.len())?.copy_from_slice(key);
            Some(key.len())
        })
    }

    fn new(bytes: LockedBytes, created: Option<UnixSeconds>) -> Self {
        let id = cipher::key_id(&bytes[..MASTER_KEY]);
        Self { bytes, id, created }
    }

    /// The key itself. Search for this name to find where it leaves its type.
    pub(super) fn expose(&self) -> &[u8] {
        &self.bytes[..MASTER_KEY]
    }

    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn created(&self) -> Option<UnixSeconds> {
        self.created
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({}, [redacted])", self.id)
    }
}

/// The keys of one source.
pub struct KeyRing {
    source: KeySourceKind,
    parameter: Vec<u8>,
    keys: Vec<MasterKey>,
}

impl KeyRing {
    /// The keys of a source, the primary first; `None` if there are none. `parameter` goes into the header of
    /// what is sealed with them, and helps to find the source again.
    pub(super) fn new(source: KeySourceKind, parameter: Vec<u8>, mut keys: Vec<MasterKey>) -> Option<Self> {
        let mut seen = Vec::with_capacity(keys.len());
        keys.retain(|key| {
            let new = !seen.contains(&key.id);
            seen.push(key.id);
            new
        });
        (!keys.is_empty()).then_some(Self { source, parameter, keys })
    }

    /// A ring of one new random key, which is nowhere yet.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn generate() -> Result<Self, Error> {
        let key = MasterKey::generate(SystemClock.now())?;
        Ok(Self { source: KeySourceKind::File, parameter: Vec::new(), keys: vec![key] })
    }

    /// The keys themselves, as a key file holds them: `strongroom-key-1:…`, one a line, the primary first. With
    /// them whoever has the text opens all that was sealed.
    #[must_use]
    pub fn expose(&self) -> SecretBytes {
        text::format(&self.keys)
    }

    /// The key that new envelopes are sealed with.
    #[must_use]
    pub fn primary(&self) -> KeyId {
        self.primary_key().id
    }

    /// All keys, the primary first, and when each was made as far as that is known.
    pub fn keys(&self) -> impl Iterator<Item = (KeyId, Option<UnixSeconds>)> + '_ {
        self.keys.iter().map(|key| (key.id, key.created))
    }

    /// The file that the keys lie in, where they lie in one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        SealedWith::new(self.source.number(), self.primary(), self.parameter.clone()).key_file()
    }

    /// Whether the ring has this key.
    #[must_use]
    pub fn contains(&self, id: &KeyId) -> bool {
        self.key(id).is_some()
    }

    pub(crate) fn key(&self, id: &KeyId) -> Option<&MasterKey> {
        self.keys.iter().find(|key| key.id == *id)
    }

    pub(super) fn primary_key(&self) -> &MasterKey {
        self.keys.first().expect("a ring has a key")
    }

    pub(super) fn source(&self) -> KeySourceKind {
        self.source
    }

    pub(super) fn parameter(&self) -> &[u8] {
        &self.parameter
    }

    /// The keys themselves, the primary first.
    pub(super) fn master_keys(&self) -> &[MasterKey] {
        &self.keys
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("source", &self.source).field("keys", &self.keys).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_id_and_never_shown() {
        let key = MasterKey::from_slice(&[0x41; 32]).unwrap();
        let other = MasterKey::from_slice(&[0x42; 32]).unwrap();
        assert_ne!(key.id(), other.id());
        let ring = KeyRing::new(KeySourceKind::Environment, Vec::new(), vec![key, other]).unwrap();
        let shown = format!("{ring:?} {ring:#?}");
        assert!(shown.contains(&ring.primary().to_string()), "{shown}");
        for secret in ["AAAA", "4141", "65, 65"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_there_once_and_no_key_makes_no_ring() {
        let key = || MasterKey::from_slice(&[1; 32]).unwrap();
        let ring = KeyRing::new(KeySourceKind::File, Vec::new(), vec![key(), key()]).unwrap();
        assert_eq!(ring.keys().count(), 1);
        assert!(KeyRing::new(KeySourceKind::File, Vec::new(), Vec::new()).is_none());
        assert!(MasterKey::from_slice(&[1; 31]).is_none() && MasterKey::from_slice(&[1; 33]).is_none());
    }
}
