//! The Data Protection API: bytes that only this user of this machine can read.

use std::io;
use std::ptr;
use std::slice;

use windows_sys::Win32::Security::Cryptography::{
    CRYPT_INTEGER_BLOB, CRYPTPROTECT_UI_FORBIDDEN, CryptProtectData, CryptUnprotectData,
};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Allocated, checked, wide_text};

/// Encrypts `bytes` for this user. `description` is kept beside them in clear; the same `entropy`, if any, is needed
/// to decrypt.
pub(crate) fn protect(bytes: &[u8], description: &str, entropy: Option<&[u8]>) -> io::Result<Vec<u8>> {
    let description = wide_text(description);
    let (bytes, entropy) = (blob_of(bytes)?, entropy.map(blob_of).transpose()?);
    let mut protected = Output::empty();
    // SAFETY: what goes in outlives the call, which does not write to it; what comes out is freed by its owner.
    checked(unsafe {
        CryptProtectData(
            &raw const bytes,
            description.as_ptr(),
            entropy.as_ref().map_or(ptr::null(), ptr::from_ref),
            ptr::null(),
            ptr::null(),
            CRYPTPROTECT_UI_FORBIDDEN,
            &raw mut protected.0,
        )
    })?;
    Ok(protected.bytes().to_vec())
}

/// Decrypts what this user has encrypted with the same `entropy`.
pub(crate) fn unprotect(bytes: &[u8], entropy: Option<&[u8]>) -> io::Result<Zeroizing<Vec<u8>>> {
    let (bytes, entropy) = (blob_of(bytes)?, entropy.map(blob_of).transpose()?);
    let mut clear = Output::empty();
    // SAFETY: as in `protect`. The description is not asked for.
    checked(unsafe {
        CryptUnprotectData(
            &raw const bytes,
            ptr::null_mut(),
            entropy.as_ref().map_or(ptr::null(), ptr::from_ref),
            ptr::null(),
            ptr::null(),
            CRYPTPROTECT_UI_FORBIDDEN,
            &raw mut clear.0,
        )
    })?;
    Ok(Zeroizing::new(clear.bytes().to_vec()))
}

fn blob_of(bytes: &[u8]) -> io::Result<CRYPT_INTEGER_BLOB> {
    let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    Ok(CRYPT_INTEGER_BLOB { cbData: length, pbData: bytes.as_ptr().cast_mut() })
}

/// What a call has allocated for us. Wiped before it is given back.
struct Output(CRYPT_INTEGER_BLOB);

impl Output {
    fn empty() -> Self {
        Self(CRYPT_INTEGER_BLOB { cbData: 0, pbData: ptr::null_mut() })
    }

    fn bytes(&self) -> &[u8] {
        if self.0.pbData.is_null() {
            return &[];
        }
        // SAFETY: the call has filled so many bytes, which are ours.
        unsafe { slice::from_raw_parts(self.0.pbData, self.0.cbData as usize) }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let memory = Allocated(self.0.pbData.cast());
        if !self.0.pbData.is_null() {
            // SAFETY: as in `bytes`, and nobody has a reference to them.
            unsafe { slice::from_raw_parts_mut(self.0.pbData, self.0.cbData as usize) }.zeroize();
        }
        drop(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_protected_can_be_read_with_the_same_entropy_alone() {
        for entropy in [None, Some(&b"entropy"[..])] {
            for bytes in [&b""[..], b"{}", &[7; 100_000]] {
                let protected = protect(bytes, "python_data", entropy).unwrap();
                assert_eq!(*unprotect(&protected, entropy).unwrap(), bytes);
                let other = if entropy.is_some() { None } else { Some(&b"another"[..]) };
                assert!(unprotect(&protected, other).is_err());
            }
        }
    }

    #[test]
    fn what_was_changed_or_is_no_such_data_is_refused() {
        let protected = protect(b"a secret that is worth it", "python_data", None).unwrap();
        // Wine does not look at the header; what follows it is checked there as well.
        for index in protected.len() * 2 / 3..protected.len() {
            let mut changed = protected.clone();
            changed[index] ^= 1;
            assert!(unprotect(&changed, None).is_err(), "byte {index}");
        }
        for length in 0..protected.len() {
            assert!(unprotect(&protected[..length], None).is_err(), "{length} bytes");
        }
        assert!(unprotect(b"{}", None).is_err());
    }
}
