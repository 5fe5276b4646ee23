//! One document in a file that Windows encrypts for its user, byte for byte as `msal_extensions` keeps it: the blob of
//! the Data Protection API and nothing around it.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::{BoxFuture, Fence, FilePersistence, Loaded, Location, Persistence, Protection, Revision, Saved};
use crate::error::Diagnose;
use crate::platform::windows::data_protection::{protect, unprotect};
use crate::time::Deadline;
use crate::wait;
use crate::{Error, ErrorKind, SecretBytes, SecretString};

/// A document in a file that only this user on this machine can read: Windows keeps the key (DPAPI, current user).
///
/// The file is the one of `msal_extensions.FilePersistenceWithDataProtection`, so both can open it. Writes, locks and
/// permissions are those of [`FilePersistence`].
///
/// Besides the errors of a file there are these codes: `not_sealed` (a plain text lies there) and
/// `dpapi_decryption_failed`, both of kind `Unusable`, and `dpapi_encryption_failed`, of kind `Storage`. Whatever
/// cannot be decrypted is left as it is.
///
/// ```no_run
/// # fn main() -> Result<(), strongroom::Error> {
/// let persistence = strongroom::FilePersistenceWithDataProtection::new("token_cache.bin")?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FilePersistenceWithDataProtection {
    file: FilePersistence,
    entropy: Option<SecretString>,
}

impl FilePersistenceWithDataProtection {
    /// The document at `path`, without entropy, in a [`FilePersistence`] with its defaults.
    ///
    /// # Errors
    /// `Configuration`: the path cannot name a file.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, Error> {
        FilePersistence::new(path).map(Self::over)
    }

    /// The document in `file`, without entropy.
    #[must_use]
    pub fn over(file: FilePersistence) -> Self {
        Self { file, entropy: None }
    }

    /// The same with `entropy`: without it nobody can decrypt, other programs of this user included. It is used as
    /// UTF-8; an empty text is none, as with `msal_extensions`.
    #[must_use]
    pub fn entropy(mut self, entropy: impl Into<SecretString>) -> Self {
        self.entropy = Some(entropy.into()).filter(|entropy| !entropy.is_empty());
        self
    }

    /// Other programs write in place: what does not decrypt may be half written, so it is read again for a moment.
    async fn load_now(&self) -> Result<Loaded, Error> {
        const PATIENCE: Duration = Duration::from_millis(250);
        const LONGEST_PAUSE: Duration = Duration::from_millis(50);

        let patience = Deadline::after(PATIENCE);
        let mut pause = Duration::from_millis(5);
        loop {
            let Loaded { bytes, revision } = self.file.load().await?;
            match self.decrypt(&bytes) {
                Ok(bytes) => return Ok(Loaded { bytes, revision }),
                Err(error) if patience.has_passed() => return Err(error.into()),
                Err(_) => {}
            }
            wait::sleep(pause).await;
            pause = LONGEST_PAUSE.min(2 * pause);
        }
    }

    fn decrypt(&self, bytes: &SecretBytes) -> Result<SecretBytes, DataProtectionError> {
        if bytes.is_empty() {
            return Ok(SecretBytes::default());
        }
        unprotect(bytes.expose(), self.entropy_bytes())
            .map(|mut clear| SecretBytes::from(std::mem::take(&mut *clear)))
            .map_err(|source| {
                let location = self.location();
                if begins_as_json(bytes.expose()) {
                    DataProtectionError::NotSealed { location }
                } else {
                    DataProtectionError::Decryption { location, source }
                }
            })
    }

    fn encrypt(&self, bytes: &SecretBytes) -> Result<SecretBytes, DataProtectionError> {
        protect(bytes.expose(), DESCRIPTION, self.entropy_bytes())
            .map(SecretBytes::from)
            .map_err(|source| DataProtectionError::Encryption { location: self.location(), source })
    }

    fn entropy_bytes(&self) -> Option<&[u8]> {
        self.entropy.as_ref().map(|entropy| entropy.expose().as_bytes())
    }
}

impl Persistence for FilePersistenceWithDataProtection {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        Box::pin(self.load_now())
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        Box::pin(async move { self.file.save(&self.encrypt(bytes)?, expected, fence).await })
    }

    forward_persistence!(self => self.file; remove, is_current, set_aside, lock_path, lock_mode, location);

    fn protection(&self) -> Protection {
        Protection::OsStore
    }

    fn kind(&self) -> &'static str {
        "dpapi"
    }
}

impl fmt::Debug for FilePersistenceWithDataProtection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FilePersistenceWithDataProtection")
            .field("file", &self.file)
            .field("entropy", &self.entropy)
            .finish()
    }
}

/// Why a document could not be encrypted or decrypted.
#[derive(Debug, thiserror::Error)]
enum DataProtectionError {
    #[error("{location} is not encrypted: a plain text lies where a file protected by Windows is expected")]
    NotSealed { location: Location },
    #[error("Windows cannot decrypt {location}: {source}")]
    Decryption { location: Location, source: io::Error },
    #[error("Windows cannot encrypt {location}: {source}")]
    Encryption { location: Location, source: io::Error },
}

impl Diagnose for DataProtectionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSealed { .. } | Self::Decryption { .. } => ErrorKind::Unusable,
            Self::Encryption { .. } => ErrorKind::Storage,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::NotSealed { .. } => "not_sealed",
            Self::Decryption { .. } => "dpapi_decryption_failed",
            Self::Encryption { .. } => "dpapi_encryption_failed",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match self {
            Self::NotSealed { .. } => {
                "use the persistence 'file' for it, migrate it with 'strongroom migrate --to dpapi', or move it away"
            }
            Self::Decryption { .. } => {
                "use the user, the machine and the entropy that it was encrypted with; if they are gone (a reset \
                 password, a copied file), move it away to start with an empty cache"
            }
            Self::Encryption { .. } => "check that this user's profile is loaded and its keys are intact",
        }))
    }
}

/// What Windows keeps beside the data, in clear. It is `msal_extensions`' word.
const DESCRIPTION: &str = "python_data";

fn begins_as_json(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    bytes.trim_ascii_start().first().is_some_and(|first| matches!(first, b'{' | b'['))
}
