//! One error for the whole library.
//!
//! Each layer has a precise enum of its own; [`Error`] carries any of them and answers the questions that a
//! program asks: what kind it is, what its stable code is, what to do next, whether a later try may help.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What went wrong, what to do about it, and never a secret.
///
/// Cheap to clone: callers that shared one request share its error.
///
/// ```
/// use strongroom::{Error, ErrorKind};
///
/// let error = Error::new(ErrorKind::Storage, "disk_full", "the disk is full").with_remedy("free some space");
/// assert_eq!(error.code(), "disk_full");
/// assert_eq!(error.remedy().as_deref(), Some("free some space"));
/// ```
#[derive(Clone)]
pub struct Error {
    cause: Arc<dyn Diagnose>,
    remedy: Option<Arc<str>>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The kinds of [`Error`], by what a caller does about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The program or its configuration asks for something that cannot work. Trying again does not help.
    Configuration,
    /// The identity provider refused the request (HTTP 4xx, 429 included). [`Error::service`] has its words.
    IdentityProvider,
    /// The identity provider could not be reached, was too slow, or failed (HTTP 5xx).
    Network,
    /// Another process holds the lock of the cache and did not leave in time.
    Locked,
    /// Others kept changing the cache while it was being written.
    Contended,
    /// What is at the cache's location cannot be used as a cache. It was not touched.
    Unusable,
    /// The cache could not be read or written: permissions, a full disk, a failing device.
    Storage,
    /// A fault in this library or in an implementation handed to it.
    Internal,
}

/// What each layer's own error enum tells [`Error`].
pub(crate) trait Diagnose: StdError + Send + Sync + 'static {
    fn kind(&self) -> ErrorKind;
    /// Stable, in snake case: scripts compare it.
    fn code(&self) -> &str;
    fn remedy(&self) -> Option<Cow<'_, str>>;
    fn is_retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Network | ErrorKind::Locked | ErrorKind::Contended)
    }
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl Error {
    /// An error of an implementation outside this library, of a `Persistence` for example.
    ///
    /// `code` is a stable word in snake case that scripts can compare; `message` says what failed and on what.
    /// Neither may contain a secret.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Custom { kind, code, message: message.into() }.into()
    }

    /// The same error with a sentence that says what to do next.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl AsRef<str>) -> Self {
        self.remedy = Some(Arc::from(remedy.as_ref()));
        self
    }

    /// The same error with the error that caused it, as [`source`](StdError::source) reports it.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.cause.kind()
    }

    /// A stable word in snake case. For a refusal it is the provider's own OAuth code, `invalid_client` say.
    #[must_use]
    pub fn code(&self) -> &str {
        self.cause.code()
    }

    /// Whether the store holds what is no cache, torn or damaged for good.
    pub(crate) fn is_damaged(&self) -> bool {
        self.kind() == ErrorKind::Unusable && self.code() == "damaged"
    }

    /// What to do next, where there is something to do.
    #[must_use]
    pub fn remedy(&self) -> Option<Cow<'_, str>> {
        self.remedy.as_deref().map(Cow::Borrowed).or_else(|| self.cause.remedy())
    }

    /// Whether the same call may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.cause.is_retryable()
    }

    /// How long the identity provider asked to be left alone (`Retry-After`, at most an hour).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.cause.retry_after()
    }

    /// The error of a layer that this one carries.
    #[cfg(feature = "client")]
    pub(crate) fn carried<E: StdError + 'static>(&self) -> Option<&E> {
        (&*self.cause as &(dyn StdError + 'static)).downcast_ref()
    }
}

impl<E: Diagnose> From<E> for Error {
    fn from(error: E) -> Self {
        Self { cause: Arc::new(error), remedy: None, source: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.cause, f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind())
            .field("code", &self.code())
            .field("message", &self.to_string())
            .finish_non_exhaustive()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.source {
            Some(source) => Some(&**source),
            None => self.cause.source(),
        }
    }
}

/// A path as a shell takes it for one word, for the commands of remedies. In quotes only where it needs them.
pub(crate) fn shell_word(path: &(impl fmt::Display + ?Sized)) -> String {
    let path = path.to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) {
        return path;
    }
    format!("'{}'", path.replace('\'', r"'\''"))
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Custom {
    kind: ErrorKind,
    code: &'static str,
    message: String,
}

impl Diagnose for Custom {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn code(&self) -> &str {
        self.code
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_to_a_shell_and_quoted_only_where_it_needs_it() {
        for (path, word) in [
            ("/var/lib/app/token_cache.bin", "/var/lib/app/token_cache.bin"),
            ("/home/Jörg/a+b@c.bin", "/home/Jörg/a+b@c.bin"),
            ("/my caches/a.bin", "'/my caches/a.bin'"),
            ("/it's/$HOME", r"'/it'\''s/$HOME'"),
            ("~/a", "'~/a'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(path), word);
        }
    }
}
