//! Secrets have a type from the first byte to the last: wiped when dropped, redacted when printed, compared in
//! constant time, and let out through one method that a reviewer can search for.

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::Path;
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

    /// The whole of a small file, such as a private key, and what is known of it. Links are followed.
    ///
    /// # Errors
    /// It cannot be read, is larger than `largest` bytes, or is no file: the end of a pipe or a device may never come.
    pub fn read_file(path: impl AsRef<Path>, largest: u64) -> io::Result<(Self, Metadata)> {
        let path = path.as_ref();
        // Before it is opened: opening a pipe waits for its writer.
        require_file(&std::fs::metadata(path)?)?;
        let file = File::open(path)?;
        let found = file.metadata()?;
        require_file(&found)?;
        // In one piece, so that growing leaves no copies behind.
        let mut bytes = Vec::with_capacity(usize::try_from(found.len().min(largest)).unwrap_or(0) + 1);
        let read = file.take(largest.saturating_add(1)).read_to_end(&mut bytes);
        let bytes = Self::from(bytes);
        read?;
        if bytes.len() as u64 > largest {
            return Err(io::Error::other(format!("it is larger than {largest} bytes")));
        }
        Ok((bytes, found))
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

fn require_file(found: &Metadata) -> io::Result<()> {
    if found.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) }
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
impl io::Write for SecretBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
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

    #[cfg(unix)]
    #[test]
    fn a_small_file_is_read_whole_and_what_may_never_end_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link, fifo) = (folder.path().join("f"), folder.path().join("l"), folder.path().join("p"));
        io::Write::write_all(&mut File::create_new(&file).unwrap(), b"12345").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link] {
            let (bytes, found) = SecretBytes::read_file(path, 5).unwrap();
            assert_eq!((bytes.expose(), found.len()), (&b"12345"[..], 5));
            assert!(SecretBytes::read_file(path, 4).unwrap_err().to_string().contains("4 bytes"));
        }
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        for path in [fifo.as_path(), Path::new("/dev/zero"), folder.path()] {
            assert_eq!(SecretBytes::read_file(path, 5).unwrap_err().to_string(), "it is not a file");
        }
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
