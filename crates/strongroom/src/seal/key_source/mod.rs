//! Where keys come from: one file for each kind of source.
//!
//! A source gives a ring of keys and knows how to find the ring that a certain envelope needs. Files are read and
//! written through [`KeyFiles`], an item of the Secret Service through `KeyItem`, which the layer above provides.

mod env;
mod file;
mod host;
#[cfg(all(feature = "keyutils", target_os = "linux"))]
mod keyutils;
#[cfg(feature = "passphrase")]
mod passphrase;
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
mod secret_service;
mod systemd;
pub(super) mod text;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub(crate) use self::env::EnvironmentSource;
pub(crate) use self::file::FileSource;
pub(crate) use self::host::{HostSource, Place};
#[cfg(all(feature = "keyutils", target_os = "linux"))]
pub(crate) use self::keyutils::KeyutilsSource;
#[cfg(feature = "passphrase")]
pub(crate) use self::passphrase::PassphraseSource;
use self::private::Rings;
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
pub(crate) use self::secret_service::{ItemChange, KeyItem, KeyItems, NewKeys, SecretServiceSource};
pub(crate) use self::systemd::SystemdSource;
use super::error::SealError;
use super::key_ring::{KeyId, KeyRing};
use super::protection::Protection;
use crate::error::shell_word;
use crate::wait::BoxFuture;
use crate::{Error, SecretBytes};

/// A source of the keys that caches are sealed with.
///
/// The kinds are fixed, because an envelope names the one that sealed it: [`KeySelector::open`] gives them.
pub trait KeySource: Rings + fmt::Debug + Send + Sync {
    /// Which kind of source this is.
    fn kind(&self) -> KeySourceKind;

    /// The source as `--key-source` spells it.
    fn name(&self) -> String;

    /// The files that the keys lie in, or would be made in: the first that can be. Empty where they are no files.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// How well a cache is protected whose key is there.
    fn protection(&self) -> Protection {
        self.kind().protection()
    }

    /// Adds a new primary key; the others stay for reading. What is sealed from now on is sealed with it.
    ///
    /// # Errors
    /// `key_source_not_writable`: the keys are handed in from outside, and rotate there, in two steps. Others: the
    /// source cannot be read or written; it is as it was.
    fn rotate(&self) -> BoxFuture<'_, Result<KeyRing, Error>> {
        let error = SealError::NotWritable { source_name: self.name() };
        Box::pin(std::future::ready(Err(error.into())))
    }

    /// Adds keys for reading, behind those that are there: `strongroom-key-1:…`, one a line.
    ///
    /// # Errors
    /// `invalid_keys`. `key_source_not_writable`: the keys are handed in from outside. Others: the source cannot be
    /// read or written; it is as it was.
    fn import<'a>(&'a self, keys: &'a SecretBytes) -> BoxFuture<'a, Result<KeyRing, Error>> {
        let _ = keys;
        let error = SealError::NotWritable { source_name: self.name() };
        Box::pin(std::future::ready(Err(error.into())))
    }

    /// The keys that are there, none of them made for this.
    ///
    /// # Errors
    /// The source has none, or cannot be read.
    fn keys(&self) -> BoxFuture<'_, Result<KeyRing, Error>>;
}

/// What a source does for those who seal and open. In a module of its own, so that nobody else can implement or
/// call it.
pub(crate) mod private {
    use super::{BoxFuture, Error, KeyRing, SealedWith};

    pub trait Rings {
        /// The ring that new envelopes are sealed with; one is made where that is this source's way.
        fn to_seal(&self) -> BoxFuture<'_, Result<KeyRing, Error>>;

        /// The ring that has the key which an envelope was sealed with. A source that is just being written is
        /// waited for.
        fn to_open<'a>(&'a self, sealed_with: &'a SealedWith) -> BoxFuture<'a, Result<KeyRing, Error>>;

        /// Whether the source may have other keys than when it gave its last ring. Cheap: it is asked at each
        /// write.
        fn has_changed(&self) -> bool {
            false
        }
    }
}

/// The kinds of [`KeySource`]. Their numbers stand in the headers of envelopes and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeySourceKind {
    /// A key file that is made at first use, in this host's state folder.
    Host,
    /// A key file that the operator names.
    File,
    /// An environment variable.
    Environment,
    /// A systemd credential.
    Systemd,
    /// An item in the Secret Service of the desktop.
    SecretService,
    /// The kernel's keyring of this user.
    Keyutils,
    /// A passphrase, stretched by Argon2id.
    Passphrase,
}

impl KeySourceKind {
    const ALL: [Self; 7] = [
        Self::Host,
        Self::File,
        Self::Environment,
        Self::Systemd,
        Self::SecretService,
        Self::Keyutils,
        Self::Passphrase,
    ];

    /// How well a cache is protected whose key is in such a source.
    #[must_use]
    pub const fn protection(self) -> Protection {
        match self {
            Self::Host => Protection::HostFile,
            Self::File | Self::Environment | Self::Systemd | Self::Passphrase => Protection::ProvidedKey,
            Self::SecretService | Self::Keyutils => Protection::OsStore,
        }
    }

    /// The number in the header of an envelope.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Host => 1,
            Self::File => 2,
            Self::Environment => 3,
            Self::Systemd => 4,
            Self::SecretService => 5,
            Self::Keyutils => 6,
            Self::Passphrase => 7,
        }
    }

    /// What who does not have the key of the cache at `location` can do about it.
    pub(super) fn how_to_provide(self, location: &str) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Host => "set STRONGROOM_STATE_DIR to the folder with its host.key",
            Self::File => "set STRONGROOM_KEY_FILE to the file that has it",
            Self::Environment => "set STRONGROOM_KEY to the keys, this one among them",
            Self::Systemd => "hand in the credential strongroom.key (LoadCredential= in the unit)",
            Self::SecretService => {
                return Cow::Owned(format!(
                    "run in the desktop session whose Secret Service has it, unlocked; for use without one (cron, ssh) \
                     re-seal it there with 'strongroom migrate --cache {} --to sealed --key-source host'",
                    shell_word(location)
                ));
            }
            Self::Keyutils => "run as the user whose kernel keyring has it",
            Self::Passphrase => "pass --key-source passphrase-file:PATH",
        })
    }
}

impl fmt::Display for KeySourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::File => "file",
            Self::Environment => "env",
            Self::Systemd => "systemd",
            Self::SecretService => "secret-service",
            Self::Keyutils => "keyutils",
            Self::Passphrase => "passphrase-file",
        })
    }
}

/// What the header of an envelope says about the key that sealed it. Not authenticated yet: good for finding the
/// key, and for nothing else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedWith {
    kind: u8,
    key_id: KeyId,
    parameter: Vec<u8>,
}

impl SealedWith {
    pub(super) fn new(kind: u8, key_id: KeyId, parameter: Vec<u8>) -> Self {
        Self { kind, key_id, parameter }
    }

    /// The kind of source that the key came from; `None` if this version does not know it.
    #[must_use]
    pub fn kind(&self) -> Option<KeySourceKind> {
        KeySourceKind::ALL.into_iter().find(|kind| kind.number() == self.kind)
    }

    /// The key.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// The file that the key lay in, where it lay in one.
    #[must_use]
    pub fn key_file(&self) -> Option<PathBuf> {
        match self.kind()? {
            KeySourceKind::Host | KeySourceKind::File => path_of(&self.parameter),
            _ => None,
        }
    }

    pub(super) fn parameter(&self) -> &[u8] {
        &self.parameter
    }
}

/// Which key source is wanted, as `--key-source` spells it.
///
/// ```
/// use strongroom::KeySelector;
///
/// let selector: KeySelector = "file:/etc/app/cache.key".parse()?;
/// assert_eq!(selector.to_string(), "file:/etc/app/cache.key");
/// # Ok::<(), strongroom::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySelector {
    /// `host`: the key file that is made at first use in this host's state folder.
    Host,
    /// `file:PATH`: a key file.
    File(PathBuf),
    /// `env`: the environment variable `STRONGROOM_KEY`.
    Environment,
    /// `systemd`: the credential `strongroom.key`.
    Systemd,
    /// `secret-service`: an item in the desktop's Secret Service, which is made at first use. A locked keyring is an
    /// error, no prompt is shown; what is asked of the service ends within 2 s, a new key within 10 s.
    SecretService,
    /// `keyutils`: the kernel's keyring of this user; gone at reboot.
    Keyutils,
    /// `passphrase-file:PATH`: a file with a passphrase.
    PassphraseFile(PathBuf),
}

impl FromStr for KeySelector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => return Ok(Self::File(path.into())),
            Some(("passphrase-file", path)) if !path.is_empty() => {
                return Ok(Self::PassphraseFile(path.into()));
            }
            _ => {}
        }
        Ok(match text {
            "host" => Self::Host,
            "env" => Self::Environment,
            "systemd" => Self::Systemd,
            "secret-service" => Self::SecretService,
            "keyutils" => Self::Keyutils,
            _ => return Err(SealError::UnknownSource { text: text.into() }.into()),
        })
    }
}

impl fmt::Display for KeySelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => KeySourceKind::Host.fmt(f),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Environment => KeySourceKind::Environment.fmt(f),
            Self::Systemd => KeySourceKind::Systemd.fmt(f),
            Self::SecretService => KeySourceKind::SecretService.fmt(f),
            Self::Keyutils => KeySourceKind::Keyutils.fmt(f),
            Self::PassphraseFile(path) => write!(f, "passphrase-file:{}", path.display()),
        }
    }
}

/// How files with keys are read and written. The layer above owns files, their permissions and their locks.
pub(crate) trait KeyFiles: fmt::Debug + Send + Sync {
    /// The content of a file that only this user (or root) may change and others cannot read; `None` if there is
    /// no such file.
    fn read(&self, path: &Path) -> Result<Option<SecretBytes>, Error>;

    /// Tells one state of the file from another, cheaply; `None` if there is no such file.
    fn mark(&self, path: &Path) -> Option<FileMark>;

    /// Makes the file, durably, if there is none: `false` if there is one by now.
    fn create(&self, path: &Path, content: &SecretBytes) -> Result<bool, Error>;

    /// Reads the file while nobody else writes it, and replaces it with what `change` makes of it, if anything.
    fn update<'a>(&'a self, path: &'a Path, change: Change<'a>) -> BoxFuture<'a, Result<(), Error>>;

    /// Whether there is such a directory.
    fn has_directory(&self, path: &Path) -> Result<bool, Error>;
}

/// What is to become of a key file.
pub(crate) type Change<'a> =
    Box<dyn FnOnce(Option<&SecretBytes>) -> Result<Option<SecretBytes>, Error> + Send + 'a>;

/// One state of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileMark(pub(crate) [i128; 5]);

/// A path as the parameter of an envelope.
fn parameter_of(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

/// The path in the parameter of an envelope, if it is one from the root.
fn path_of(parameter: &[u8]) -> Option<PathBuf> {
    #[cfg(unix)]
    let path = {
        use std::os::unix::ffi::OsStrExt as _;
        PathBuf::from(std::ffi::OsStr::from_bytes(parameter))
    };
    #[cfg(not(unix))]
    let path = PathBuf::from(std::str::from_utf8(parameter).ok()?);
    (path.is_absolute() && !parameter.contains(&0)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_spelled_as_it_is_read() {
        for text in
            ["host", "file:/a b/c:d", "env", "systemd", "secret-service", "keyutils", "passphrase-file:p"]
        {
            assert_eq!(text.parse::<KeySelector>().unwrap().to_string(), text);
        }
        for text in ["", "file", "file:", "Host", "passphrase", "host:x"] {
            let error = text.parse::<KeySelector>().unwrap_err();
            assert_eq!(error.code(), "unknown_key_source", "{text}");
        }
    }

    #[test]
    fn each_kind_has_a_number_of_its_own() {
        for (at, kind) in KeySourceKind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.number()), at + 1);
            let sealed_with = SealedWith::new(kind.number(), KeyId::new([0; 16]), Vec::new());
            assert_eq!(sealed_with.kind(), Some(kind));
        }
        assert_eq!(SealedWith::new(99, KeyId::new([0; 16]), Vec::new()).kind(), None);
    }
}
