//! What can go wrong with envelopes and keys, and what to do about it. No secret is in any of it.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;

use super::key_ring::KeyId;
use super::key_source::KeySourceKind;
use super::protection::Protection;
use crate::ErrorKind;
use crate::error::{Diagnose, shell_word};

/// Why an envelope was not opened. What it was about stands in [`SealError::Refused`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    NotSealed,
    Version(u8),
    Truncated { has: u64, needs: u64 },
    OtherContents,
    WrongKey,
    Tampered,
}

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Plain text lies where an envelope should be.
    #[error("{location} holds a plain token cache, not a sealed one")]
    NotSealed {
        /// What was to be opened.
        location: String,
    },
    /// Neither an envelope nor a plain cache lies there.
    #[error("{location} holds no token cache: it is neither sealed nor begins as a JSON object")]
    OtherKind {
        /// What was to be opened.
        location: String,
    },
    /// The envelope was written by a later version of this library.
    #[error("{location} is sealed in version {version} of the format, this program reads version 1")]
    LaterVersion {
        /// What was to be opened.
        location: String,
        /// The version of its format.
        version: u8,
    },
    /// The end of the envelope is missing.
    #[error("{location} is cut off: it has {has} bytes of {needs}")]
    Truncated {
        /// What was to be opened.
        location: String,
        /// Bytes that are there.
        has: u64,
        /// Bytes that there should be, at least.
        needs: u64,
    },
    /// The envelope holds something else of ours, not a cache document.
    #[error("{location} is sealed, but is no token cache")]
    OtherContents {
        /// What was to be opened.
        location: String,
    },
    /// It was sealed with another key than the one that its header names.
    #[error("{location} was not sealed with the key {key_id} that its header names")]
    WrongKey {
        /// What was to be opened.
        location: String,
        /// The key that the header names.
        key_id: KeyId,
    },
    /// It was sealed with this key and has been changed since.
    #[error("{location} was changed after it was sealed, or is damaged")]
    Tampered {
        /// What was to be opened.
        location: String,
    },
    /// None of the sources that may have it has the key.
    #[error("{location} is sealed with the key {key_id} from {source_kind}, which is not to be had: {}", why(*source_kind, tried))]
    UnknownKey {
        /// What was to be opened.
        location: String,
        /// The key that the header names.
        key_id: KeyId,
        /// Where it came from, as the header says.
        source_kind: KeySourceKind,
        /// What was tried, and why it did not help.
        tried: Vec<String>,
    },
    /// The envelope names a kind of key source that this version does not know.
    #[error(
        "{location} is sealed with the key {key_id} from a kind of source that this program does not know"
    )]
    UnsupportedSource {
        /// What was to be opened.
        location: String,
        /// The key that the header names.
        key_id: KeyId,
    },
    /// The key lay on a host or in a kernel keyring that no longer has it: it is gone for good.
    #[error("the key {key_id} is lost: {reason}")]
    KeyLost {
        /// The key.
        key_id: KeyId,
        /// How that is known.
        reason: String,
    },
    /// The source does not have this key.
    #[error("{source_name} does not have the key {key_id}")]
    KeyNotThere {
        /// The key.
        key_id: KeyId,
        /// The source, as `--key-source` spells it.
        source_name: String,
    },
    /// The source has no key at all: it is not set up.
    #[error("{source_name} has no key: {reason}")]
    NoKey {
        /// The source, as `--key-source` spells it.
        source_name: String,
        /// What is missing.
        reason: String,
    },
    /// What should be keys are none.
    #[error("{source_name} holds no valid keys: {reason}")]
    InvalidKeys {
        /// The source, as `--key-source` spells it.
        source_name: String,
        /// Where and why, without the text itself.
        reason: String,
    },
    /// Others than its owner can read a key file, and that cannot be changed.
    #[error("{} can be read by others (mode {mode:04o})", path.display())]
    KeyFileExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What another tool sealed does not open.
    #[error("{location} cannot be opened: {reason}")]
    NotOpened {
        /// What was to be opened.
        location: String,
        /// Why it was not.
        reason: String,
    },
    /// What another tool sealed cannot be opened any more: its key lay in the kernel's keyring.
    #[error(
        "the key of {location} is gone from the kernel's keyring, which does not outlive a reboot: nothing can be read"
    )]
    ToolKeyGone {
        /// What was to be opened.
        location: String,
    },
    /// A key file was to be made, and there is one.
    #[error("there is a file {} already", path.display())]
    KeyFileExists {
        /// The file.
        path: PathBuf,
    },
    /// The source of the keys cannot be reached.
    #[error("{source_name} cannot be used: {reason}")]
    SourceUnavailable {
        /// The source, as `--key-source` spells it.
        source_name: String,
        /// Why.
        reason: String,
        /// What the operating system said.
        source: Option<io::Error>,
    },
    /// The source can be read only: whoever provides the keys has to rotate them.
    #[error("the keys of {source_name} are provided from outside and cannot be changed here")]
    NotWritable {
        /// The source, as `--key-source` spells it.
        source_name: String,
    },
    /// This program was built without this kind of key source.
    #[error("the key source {source_name} is not part of this build")]
    FeatureMissing {
        /// The source, as `--key-source` spells it.
        source_name: String,
        /// The feature of the crate that has it.
        feature: &'static str,
    },
    /// A text names no key source.
    #[error("{text:?} is no key source")]
    UnknownSource {
        /// What was asked for.
        text: String,
    },
    /// The cache would be protected less well than was demanded.
    #[error(
        "{location} {} the protection {has}, and at least {least} is demanded",
        if *is_there { "has" } else { "would have" }
    )]
    ProtectionTooLow {
        /// The cache.
        location: String,
        /// What it would have.
        has: Protection,
        /// What was demanded.
        least: Protection,
        /// Whether the cache is there already.
        is_there: bool,
    },
    /// Nothing on this machine can keep a key.
    #[error("{location} cannot be encrypted: {}", tried.join("; "))]
    NothingAvailable {
        /// The cache.
        location: String,
        /// What was tried, and why it failed.
        tried: Vec<String>,
    },
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    NoRandomness,
}

impl SealError {
    /// What a refusal means for `location`, whose header names `key_id`.
    pub(crate) fn refused(refusal: Refusal, location: String, key_id: KeyId, begins_as_json: bool) -> Self {
        match refusal {
            Refusal::NotSealed if begins_as_json => Self::NotSealed { location },
            Refusal::NotSealed => Self::OtherKind { location },
            Refusal::Version(version) => Self::LaterVersion { location, version },
            Refusal::Truncated { has, needs } => Self::Truncated { location, has, needs },
            Refusal::OtherContents => Self::OtherContents { location },
            Refusal::WrongKey => Self::WrongKey { location, key_id },
            Refusal::Tampered => Self::Tampered { location },
        }
    }
}

impl Diagnose for SealError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSealed { .. }
            | Self::OtherKind { .. }
            | Self::LaterVersion { .. }
            | Self::Truncated { .. }
            | Self::OtherContents { .. }
            | Self::WrongKey { .. }
            | Self::Tampered { .. }
            | Self::UnknownKey { .. }
            | Self::UnsupportedSource { .. }
            | Self::KeyLost { .. }
            | Self::NotOpened { .. }
            | Self::ToolKeyGone { .. }
            | Self::KeyNotThere { .. } => ErrorKind::Unusable,
            Self::SourceUnavailable { .. }
            | Self::NothingAvailable { .. }
            | Self::ProtectionTooLow { .. }
            | Self::KeyFileExposed { .. } => ErrorKind::Storage,
            Self::NoKey { .. }
            | Self::InvalidKeys { .. }
            | Self::NotWritable { .. }
            | Self::KeyFileExists { .. }
            | Self::FeatureMissing { .. }
            | Self::UnknownSource { .. } => ErrorKind::Configuration,
            Self::NoRandomness => ErrorKind::Internal,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::NotSealed { .. } => "not_sealed",
            Self::OtherKind { .. } => "not_a_token_cache",
            Self::LaterVersion { .. } => "later_version",
            Self::Truncated { .. } => "truncated",
            Self::OtherContents { .. } => "other_contents",
            Self::WrongKey { .. } => "wrong_key",
            Self::Tampered { .. } => "tampered",
            Self::UnknownKey { .. } => "unknown_key",
            Self::UnsupportedSource { .. } => "unsupported_key_source",
            Self::KeyLost { .. } => KEY_LOST,
            Self::KeyNotThere { .. } => KEY_NOT_THERE,
            Self::NoKey { .. } => "no_key",
            Self::InvalidKeys { .. } => "invalid_keys",
            Self::KeyFileExposed { .. } => "key_file_exposed",
            Self::NotOpened { .. } => "tool_cache_not_opened",
            Self::ToolKeyGone { .. } => "tool_key_gone",
            Self::KeyFileExists { .. } => "key_file_exists",
            Self::SourceUnavailable { .. } => "key_source_unavailable",
            Self::NotWritable { .. } => "key_source_not_writable",
            Self::FeatureMissing { .. } => "feature_missing",
            Self::UnknownSource { .. } => "unknown_key_source",
            Self::ProtectionTooLow { .. } => "protection_too_low",
            Self::NothingAvailable { .. } => "no_encryption",
            Self::NoRandomness => "no_randomness",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::NotSealed { location } => Cow::Owned(format!(
                "seal it with 'strongroom migrate --cache {} --to sealed', or open it with --persistence file; it was not \
                 touched",
                shell_word(location)
            )),
            Self::OtherKind { .. } => Cow::Borrowed("choose another location; the file was not touched"),
            Self::LaterVersion { .. } | Self::UnsupportedSource { .. } => {
                Cow::Borrowed("update this program, or choose another location; the file was not touched")
            }
            Self::Truncated { .. } | Self::Tampered { .. } => Cow::Borrowed(
                "restore a backup, or move the file away to begin a new cache, and find out who changed it; it was \
                 not touched",
            ),
            Self::WrongKey { .. } => Cow::Borrowed(
                "its header was changed, or the key behind this id is not the one it was sealed with: restore a \
                 backup, or move the file away to begin a new cache; it was not touched",
            ),
            Self::OtherContents { .. } => {
                Cow::Borrowed("choose the path of the cache itself; the file was not touched")
            }
            Self::UnknownKey { source_kind, location, .. } => Cow::Owned(format!(
                "{}, or name the source that has it with --key-source; if the key is gone for good, move the file \
                 away to begin a new cache; it was not touched",
                source_kind.how_to_provide(location)
            )),
            Self::KeyLost { .. } => Cow::Borrowed(
                "restore the key from a backup, or go on: the next write moves the cache aside and begins a new one",
            ),
            Self::KeyNotThere { .. } => {
                Cow::Borrowed("name the source that has the key, or add the key to this one")
            }
            Self::NoKey { .. } => Cow::Borrowed(
                "make one with 'strongroom key new', hand it in as this source expects it, or choose another source",
            ),
            Self::InvalidKeys { .. } => Cow::Borrowed(
                "write one key a line, 'strongroom-key-1:' and 32 random bytes in base64, as 'strongroom key new' \
                 makes it",
            ),
            Self::KeyFileExposed { path, .. } => Cow::Owned(format!(
                "run 'chmod 0600 {}', and rotate the key: others could have read it",
                shell_word(&path.display())
            )),
            Self::NotOpened { .. } => Cow::Borrowed(
                "check that the tool itself still finds its tokens, on this machine and as this user; it was not touched",
            ),
            Self::ToolKeyGone { .. } => Cow::Borrowed(
                "sign in with that tool again, which begins a new cache, or do without its tokens",
            ),
            Self::KeyFileExists { .. } => Cow::Borrowed(
                "choose another path, or add a key to that file with 'strongroom key rotate --key-source file:PATH'; it \
                 was not touched",
            ),
            Self::SourceUnavailable { .. } => {
                Cow::Borrowed("make the source available, or choose another one with --key-source")
            }
            Self::NotWritable { .. } => Cow::Borrowed(
                "rotate in two steps: hand out the new key behind the old one everywhere, then put it first, and \
                 re-seal with 'strongroom key rotate --rewrite PATH'",
            ),
            Self::FeatureMissing { feature, .. } => {
                Cow::Owned(format!("build with the feature {feature}, or choose another key source"))
            }
            Self::UnknownSource { .. } => Cow::Borrowed(
                "use host, file:PATH, env, systemd, secret-service, keyutils or passphrase-file:PATH",
            ),
            Self::ProtectionTooLow { location, is_there: true, .. } => Cow::Owned(format!(
                "seal it with a better key source, 'strongroom migrate --cache {} --to sealed --key-source SOURCE', or \
                 demand less; it was not touched",
                shell_word(location)
            )),
            Self::ProtectionTooLow { is_there: false, .. } => Cow::Borrowed(
                "choose a better key source (--key-source SOURCE, with --persistence sealed or migrate's --to sealed), \
                 or demand less",
            ),
            Self::NothingAvailable { .. } => Cow::Borrowed(
                "set STRONGROOM_STATE_DIR to a folder of this user for a host key, or hand in a key with \
                 STRONGROOM_KEY_FILE; plain text is used only if it is asked for (--persistence file)",
            ),
            Self::NoRandomness => Cow::Borrowed("check that the system call getrandom is allowed"),
        })
    }
}

/// Why a key is not to be had. Where nothing could be tried, it was not said where to look.
fn why(kind: KeySourceKind, tried: &[String]) -> String {
    if !tried.is_empty() {
        return tried.join("; ");
    }
    match kind {
        KeySourceKind::Passphrase => "its passphrase file was not named".into(),
        KeySourceKind::File => "its key file was not named".into(),
        _ => "no source was named".into(),
    }
}

/// The codes that the search for a key acts on.
pub(crate) const KEY_LOST: &str = "key_lost";
pub(crate) const KEY_NOT_THERE: &str = "key_not_there";
