//! Encryption at rest: envelopes, the keys that open them, and where those keys come from.
//!
//! This layer owns the byte layout, the only calls of AEAD and key derivation, and the key sources. It must not
//! know what is sealed or where it lies: `persistence` hands in bytes, and the files and the keyring's item that keys
//! lie in ([`KeyFiles`], `KeyItem`). `docs/format.md` describes the layout for other implementations.

#[cfg(all(feature = "keyutils", target_os = "linux"))]
mod azidentity_go;
mod cipher;
mod envelope;
mod error;
mod key_ring;
mod key_source;
mod protection;

#[cfg(all(feature = "keyutils", target_os = "linux"))]
pub(crate) use self::azidentity_go::open as open_azidentity_go;
pub(crate) use self::cipher::{open, seal};
pub(crate) use self::envelope::{Contents, Envelope, LARGEST_HEADER, is_envelope};
pub use self::error::SealError;
pub(crate) use self::error::{KEY_LOST, KEY_NOT_THERE, Refusal};
pub use self::key_ring::{KeyId, KeyRing};
#[cfg(all(feature = "keyutils", target_os = "linux"))]
pub(crate) use self::key_source::KeyutilsSource;
#[cfg(feature = "passphrase")]
pub(crate) use self::key_source::PassphraseSource;
pub(crate) use self::key_source::{
    EnvironmentSource, FileMark, FileSource, HostSource, KeyFiles, Place, SystemdSource,
};
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
pub(crate) use self::key_source::{ItemChange, KeyItem, KeyItems, NewKeys, SecretServiceSource};
pub use self::key_source::{KeySelector, KeySource, KeySourceKind, SealedWith};
pub use self::protection::Protection;
