//! Secrets have a type from the first byte to the last: wiped when dropped, redacted when printed, compared in
//! constant time, and let out through one method that a reviewer can search for.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::{Zeroize, Zeroizing};

use crate::platform::memory;

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
pub struct SecretBytes(Arc<Wiped>);

impl SecretBytes {
    /// No bytes yet, with room for `capacity` of them.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        memory::reserve(capacity).into()
    }

    /// The bytes themselves. Search for this name to find where secrets leave their type.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0.0
    }

    /// The number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.0.is_empty()
    }

    /// The same bytes once more, without a copy: they are wiped when the last of those who share them is dropped.
    #[must_use]
    pub fn share(&self) -> Self {
        Self(Arc::clone(&self.0))
    }

    /// Appends bytes; memory that is outgrown is wiped before it is given back. Shared bytes are copied first, and
    /// whoever shares them keeps what there was.
    pub fn extend(&mut self, bytes: &[u8]) {
        let needed = self.len() + bytes.len();
        match Arc::get_mut(&mut self.0) {
            Some(own) if needed <= own.0.capacity() => own.0.extend_from_slice(bytes),
            own => {
                let capacity = own.map_or(0, |own| own.0.capacity());
                let mut larger = Vec::with_capacity(needed.max(2 * capacity));
                larger.extend_from_slice(self.expose());
                larger.extend_from_slice(bytes);
                *self = larger.into();
            }
        }
    }
}

/// Bytes that are wiped when dropped, what they have outgrown included.
#[derive(Default, PartialEq, Eq)]
struct Wiped(Vec<u8>);

impl Drop for Wiped {
    fn drop(&mut self) {
        // Slice by slice: a vector is wiped byte by byte, which a document of many megabytes would feel.
        self.0.as_mut_slice().zeroize();
        self.0.spare_capacity_mut().zeroize();
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Wiped(bytes)))
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes([{} bytes redacted])", self.len())
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
    fn shared_bytes_are_not_copied() {
        let bytes = SecretBytes::from(b"secret".to_vec());
        assert_eq!(bytes.share().expose().as_ptr(), bytes.expose().as_ptr());
    }

    #[test]
    fn who_shares_bytes_keeps_them_when_another_appends() {
        let kept = SecretBytes::from(b"one".to_vec());
        let mut grown = kept.share();
        grown.extend(b" two");
        assert_eq!((kept.expose(), grown.expose()), (&b"one"[..], &b"one two"[..]));
        grown.extend(b" three");
        assert_eq!(grown.expose(), b"one two three");
    }

    #[test]
    fn bytes_grow_where_they_are_while_there_is_room() {
        let mut bytes = SecretBytes::with_capacity(8);
        bytes.extend(b"1234");
        let place = bytes.expose().as_ptr();
        bytes.extend(b"5678");
        assert_eq!(bytes.expose().as_ptr(), place);
        bytes.extend(b"9");
        assert_eq!(bytes.expose(), b"123456789");
    }
}
