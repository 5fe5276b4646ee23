//! Keys in a credential that systemd hands to a service (`LoadCredential=`, `LoadCredentialEncrypted=`).

use std::path::PathBuf;
use std::sync::Arc;

use super::private::Rings;
use super::{KeyFiles, KeySource, KeySourceKind, SealedWith, text};
use crate::Error;
use crate::seal::error::SealError;
use crate::seal::key_ring::KeyRing;
use crate::wait::BoxFuture;

/// The credential `strongroom.key` in `$CREDENTIALS_DIRECTORY`.
#[derive(Debug)]
pub(crate) struct SystemdSource {
    directory: Option<PathBuf>,
    files: Arc<dyn KeyFiles>,
}

impl SystemdSource {
    pub(crate) const CREDENTIAL: &str = "strongroom.key";

    pub(crate) fn new(directory: Option<PathBuf>, files: Arc<dyn KeyFiles>) -> Self {
        Self { directory, files }
    }

    fn ring(&self) -> Result<KeyRing, Error> {
        let no_key = |reason: &str| SealError::NoKey { source_name: self.name(), reason: reason.into() };
        let Some(directory) = &self.directory else {
            return Err(no_key("CREDENTIALS_DIRECTORY is not set: no credentials are loaded").into());
        };
        let content = self.files.read(&directory.join(Self::CREDENTIAL))?;
        let content = content.ok_or_else(|| no_key("there is no credential strongroom.key"))?;
        let invalid = |reason| SealError::InvalidKeys { source_name: self.name(), reason };
        let keys = text::parse(content.expose()).map_err(invalid)?;
        let ring = KeyRing::new(self.kind(), Vec::new(), keys);
        Ok(ring.ok_or_else(|| invalid("the credential is empty".into()))?)
    }
}

impl KeySource for SystemdSource {
    fn kind(&self) -> KeySourceKind {
        KeySourceKind::Systemd
    }

    fn name(&self) -> String {
        self.kind().to_string()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.directory.iter().map(|directory| directory.join(Self::CREDENTIAL)).collect()
    }

    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        self.to_seal()
    }
}

impl Rings for SystemdSource {
    fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move { self.ring() })
    }

    fn to_open<'a>(&'a self, sealed_with: &'a SealedWith) -> BoxFuture<'a, Result<KeyRing, Error>> {
        Box::pin(async move {
            let key_id = *sealed_with.key_id();
            let ring = self.ring()?;
            if !ring.contains(&key_id) {
                return Err(SealError::KeyNotThere { key_id, source_name: self.name() }.into());
            }
            Ok(ring)
        })
    }
}
