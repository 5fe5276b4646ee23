//! How well something is protected, as a value that every result can show.

use std::fmt;

/// How well a cache is protected at rest, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protection {
    /// Plain text: who can read the file has the tokens.
    None,
    /// Sealed with a key that lies on the same host.
    HostFile,
    /// Sealed with a key that was handed in.
    ProvidedKey,
    /// In the operating system's secret store.
    OsStore,
}

impl Protection {
    /// The word used on the command line and in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::HostFile => "host-file",
            Self::ProvidedKey => "provided-key",
            Self::OsStore => "os-store",
        }
    }

    /// Whether the document is encrypted at rest.
    #[must_use]
    pub const fn is_encrypted(self) -> bool {
        !matches!(self, Self::None)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
