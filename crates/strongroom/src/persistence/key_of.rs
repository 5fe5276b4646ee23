//! The key of a sealed document, looked for without changing anything.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Kind, builder, sealed_with};
use crate::Error;
use crate::error::ErrorKind;
use crate::seal::{KeyRing, KeySelector, KeySource};

/// Where the key of a sealed document is. See [`key_of`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KeyFound {
    /// The source that has it. It only looks: what would write fails.
    pub source: Arc<dyn KeySource>,
    /// The keys of that source, the one of the document among them; of a passphrase file those up to it.
    pub keys: Arc<KeyRing>,
}

/// Looks for the key of the sealed document at `path`: in `key_source`, else where its header says and in what is
/// configured. Opens the document with nothing and changes nothing.
///
/// # Errors
/// `not_sealed`: nothing sealed is there. `unknown_key`, `key_lost`: the key is not to be had; the message says where it
/// came from and what was tried. Others: what is there cannot be read.
pub fn key_of(path: impl Into<PathBuf>, key_source: Option<&KeySelector>) -> Result<KeyFound, Error> {
    let path = path.into();
    let not_sealed = || {
        let message = format!("there is no sealed cache at {}", path.display());
        Error::new(ErrorKind::Unusable, "not_sealed", message)
            .with_remedy("check the path; what is kept in plain text has no key")
    };
    if sealed_with(&path)?.is_none() {
        return Err(not_sealed());
    }
    let mut builder = builder(&path).kind(Kind::Sealed).keep_lost().only_looks(true);
    if let Some(selector) = key_source {
        builder = builder.key_source(selector.clone());
    }
    let found = builder.decide(false, &builder.configured())?;
    // Nothing was opened if the document has just gone.
    let unlocked = found.unlocked().ok_or_else(not_sealed)?;
    Ok(KeyFound { source: Arc::clone(&unlocked.source), keys: Arc::clone(&unlocked.ring) })
}
