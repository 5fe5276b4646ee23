//! Secrets have a type from the first byte to the last: wiped when dropped, redacted when printed, compared in
//! constant time, and let out through one method that a reviewer can search for.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

/// A secret text: an access token, a client secret.
///
/// Cloning shares the text instead of copying it; it is wiped from memory when the last clone is dropped.
///
/// ```
/// let secret = strongroom::SecretString::from("s3cret");
/// assert_eq!(format!("{secret:?}"), "SecretString([redacted])");
/// assert_eq!(secret.expose(), "s3cret");
/// ```
#[derive(Clone)]
pub struct SecretString(Arc<Zeroizing<String>>);

impl SecretString {
    /// The text itself. Search for this name to find where secrets leave their type.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The number of bytes of the text.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the text is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for SecretString {
    fn from(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }
}

impl From<&str> for SecretString {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl PartialEq for SecretString {
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), other.0.as_bytes()).is_ok()
    }
}

impl Eq for SecretString {}

impl fmt::Debug for SecretString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretString([redacted])")
    }
}

/// Secret bytes: a whole cache document, the body of a token response.
///
/// Wiped from memory when dropped. Not `Clone`, so that no copy is made by accident; [`share`](Self::share) makes
/// none.
#[derive(Default, PartialEq, Eq)]
pub struct SecretBytes(Arc<Zeroizing<Vec<u8>>>);

impl SecretBytes {
    /// No bytes yet, with room for `capacity` of them.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Vec::with_capacity(capacity).into()
    }

    /// The same bytes once more, not copied. They are wiped when the last who shares them is dropped.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// The bytes themselves. Search for this name to find where secrets leave their type.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends bytes; memory that is outgrown is wiped before it is given back. Who shares the bytes keeps them as
    /// they were.
    pub fn extend(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        match Arc::get_mut(&mut self.0) {
            Some(own) if needed <= own.capacity() => own.extend_from_slice(bytes),
            _ => {
                let mut larger = Vec::with_capacity(needed.max(2 * self.0.capacity()));
                larger.extend_from_slice(&self.0);
                larger.extend_from_slice(bytes);
                *self = larger.into();
            }
        }
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes([{} bytes redacted])", self.0.len())
    }
}

/// Appending never fails.
impl std::io::Write for SecretBytes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_bytes_are_not_copied_and_appending_leaves_who_shares_them_as_they_were() {
        let mut bytes = SecretBytes::from(b"abc".to_vec());
        let shared = bytes.share();
        assert_eq!(shared.expose().as_ptr(), bytes.expose().as_ptr());
        bytes.extend(b"def");
        assert_eq!((shared.expose(), bytes.expose()), (&b"abc"[..], &b"abcdef"[..]));
    }
}
