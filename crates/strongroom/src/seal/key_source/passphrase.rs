//! Keys from passphrases, stretched by Argon2id (RFC 9106). What is needed to stretch one again stands in the
//! header of each envelope: 4 bytes of memory in KiB, 4 bytes of passes, 4 bytes of lanes, 16 bytes of salt.

use std::path::PathBuf;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::private::Rings;
use super::{KeyFiles, KeySource, KeySourceKind, SealedWith};
use crate::Error;
use crate::seal::error::SealError;
use crate::seal::key_ring::{KeyRing, MASTER_KEY, MasterKey};
use crate::wait::BoxFuture;

/// A file with one passphrase a line, the primary first.
#[derive(Debug)]
pub(crate) struct PassphraseSource {
    path: PathBuf,
    files: Arc<dyn KeyFiles>,
}

impl PassphraseSource {
    pub(crate) fn new(path: PathBuf, files: Arc<dyn KeyFiles>) -> Self {
        Self { path, files }
    }

    /// The ring that these settings give, as far as `enough` says.
    fn ring(&self, stretching: &Stretching, enough: impl Fn(&MasterKey) -> bool) -> Result<KeyRing, Error> {
        let no_key = |reason: &str| SealError::NoKey { source_name: self.name(), reason: reason.into() };
        let content = self.files.read(&self.path)?.ok_or_else(|| no_key("there is no such file"))?;
        let lines = content.expose().split(|byte| *byte == b'\n');
        let mut keys = Vec::new();
        for passphrase in lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)) {
            if passphrase.is_empty() {
                continue;
            }
            let key = stretching.apply(passphrase).map_err(|reason| SealError::SourceUnavailable {
                source_name: self.name(),
                reason,
                source: None,
            })?;
            let enough = enough(&key);
            keys.push(key);
            if enough {
                break;
            }
        }
        let ring = KeyRing::new(self.kind(), stretching.to_parameter(), keys);
        Ok(ring.ok_or_else(|| no_key("the file is empty"))?)
    }
}

impl KeySource for PassphraseSource {
    fn kind(&self) -> KeySourceKind {
        KeySourceKind::Passphrase
    }

    fn name(&self) -> String {
        format!("{}:{}", self.kind(), self.path.display())
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        // The ids depend on the salt, which each new cache has of its own.
        self.to_seal()
    }
}

impl Rings for PassphraseSource {
    fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move { self.ring(&Stretching::new()?, |_| true) })
    }

    fn to_open<'a>(&'a self, sealed_with: &'a SealedWith) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(async move {
            let key_id = *sealed_with.key_id();
            let not_there = || SealError::KeyNotThere { key_id, source_name: self.name() };
            let is_ours = sealed_with.kind() == Some(self.kind());
            let stretching = is_ours.then(|| Stretching::from_parameter(sealed_with.parameter())).flatten();
            let stretching = stretching.ok_or_else(not_there)?;
            // Each further passphrase costs as much again: the search ends with the one that is sought.
            let ring = self.ring(&stretching, |key| key.id() == key_id)?;
            if !ring.contains(&key_id) {
                return Err(not_there().into());
            }
            Ok(ring)
        })
    }
}

/// How a passphrase becomes a key.
struct Stretching {
    memory: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 16],
}

impl Stretching {
    /// RFC 9106, section 4, the second recommendation but for the lanes: there is one thread.
    fn new() -> Result<Self, SealError> {
        let mut salt = [0; 16];
        rand::fill(&mut salt).map_err(|_| SealError::NoRandomness)?;
        Ok(Self { memory: 64 * 1024, passes: 3, lanes: 1, salt })
    }

    /// `None` for what would cost more than anybody has reason to ask for: a header is not to be trusted.
    fn from_parameter(parameter: &[u8]) -> Option<Self> {
        const MOST_MEMORY: u32 = 1024 * 1024;
        const MOST_PASSES: u32 = 16;
        const MOST_LANES: u32 = 16;

        let number = |at: usize| Some(u32::from_be_bytes(parameter.get(at..at + 4)?.try_into().ok()?));
        let salt = parameter.get(12..)?.try_into().ok()?;
        let stretching = Self { memory: number(0)?, passes: number(4)?, lanes: number(8)?, salt };
        let bounded = stretching.memory <= MOST_MEMORY
            && stretching.passes <= MOST_PASSES
            && stretching.lanes <= MOST_LANES;
        bounded.then_some(stretching)
    }

    fn to_parameter(&self) -> Vec<u8> {
        let numbers = [self.memory, self.passes, self.lanes].map(u32::to_be_bytes);
        [&numbers.concat()[..], &self.salt].concat()
    }

    fn apply(&self, passphrase: &[u8]) -> Result<MasterKey, String> {
        let parameters = Params::new(self.memory, self.passes, self.lanes, Some(MASTER_KEY));
        let argon = parameters.map(|parameters| Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters));
        let mut key = Zeroizing::new([0; MASTER_KEY]);
        let stretched = argon.and_then(|argon| argon.hash_password_into(passphrase, &self.salt, &mut *key));
        stretched.map_err(|error| error.to_string())?;
        Ok(MasterKey::from_slice(&*key).expect("the length is right"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_tells_how_to_stretch_again_and_is_bounded() {
        let stretching = Stretching { memory: 8, passes: 1, lanes: 1, salt: [7; 16] };
        let again = Stretching::from_parameter(&stretching.to_parameter()).unwrap();
        let id = |stretching: &Stretching| stretching.apply(b"correct horse").unwrap().id();
        assert_eq!(id(&stretching), id(&again));
        assert_ne!(id(&stretching), id(&Stretching { salt: [8; 16], ..again }));
        for costly in [(u32::MAX, 1, 1), (8, 17, 1), (8, 1, 17)] {
            let (memory, passes, lanes) = costly;
            let parameter = Stretching { memory, passes, lanes, salt: [7; 16] }.to_parameter();
            assert!(Stretching::from_parameter(&parameter).is_none(), "{costly:?}");
        }
        assert!(Stretching::from_parameter(&[0; 27]).is_none());
        assert!(Stretching::from_parameter(&[0; 29]).is_none());
    }
}
