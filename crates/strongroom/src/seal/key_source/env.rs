//! Keys in an environment variable. They stay visible in the process's environment: that is the price of it.

use super::private::Rings;
use super::{KeySource, KeySourceKind, SealedWith, text};
use crate::seal::error::SealError;
use crate::seal::key_ring::KeyRing;
use crate::wait::BoxFuture;
use crate::{Error, SecretString};

/// The value of the variable, as it was when the source was made.
#[derive(Debug)]
pub(crate) struct EnvironmentSource(Option<SecretString>);

impl EnvironmentSource {
    pub(crate) fn new(value: Option<SecretString>) -> Self {
        Self(value)
    }

    fn ring(&self) -> Result<KeyRing, SealError> {
        let (source_name, reason) = (self.name(), "STRONGROOM_KEY is not set".to_owned());
        let Some(value) = &self.0 else { return Err(SealError::NoKey { source_name, reason }) };
        let invalid = |reason| SealError::InvalidKeys { source_name: self.name(), reason };
        let keys = text::parse(value.expose().as_bytes()).map_err(invalid)?;
        KeyRing::new(self.kind(), Vec::new(), keys).ok_or_else(|| invalid("STRONGROOM_KEY is empty".into()))
    }
}

impl KeySource for EnvironmentSource {
    fn kind(&self) -> KeySourceKind {
        KeySourceKind::Environment
    }

    fn name(&self) -> String {
        self.kind().to_string()
    }

    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        self.to_seal()
    }
}

impl Rings for EnvironmentSource {
    fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        Box::pin(async move { Ok(self.ring()?) })
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
