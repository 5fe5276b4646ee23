//! The byte layout of an envelope, within bounds. `docs/format.md` has it field by field.
//!
//! Nothing here is secret and nothing here is believed: what the header says is authenticated only when the body
//! is opened.

use super::error::Refusal;
use super::key_ring::KeyId;
use super::key_source::SealedWith;
use crate::platform::memory;

/// Not text and no other known format; the line end shows a copy that "converted" it.
const MAGIC: [u8; 8] = *b"\x89STRONG\n";
/// The version that is written, and the only one that there is.
const VERSION: u8 = 1;
/// The header without the parameter of the key source.
const FIXED: usize = 104;
/// The longest parameter: a path.
pub(crate) const LONGEST_PARAMETER: usize = 1024;
/// No header is longer.
pub(crate) const LARGEST_HEADER: usize = FIXED + LONGEST_PARAMETER;
pub(super) const SALT: usize = 32;
pub(super) const CHECK: usize = 32;
pub(super) const TAG: usize = 16;

/// What is in an envelope. Part of what is authenticated, so that one kind is never taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contents {
    /// A cache document.
    Document,
    /// One record of a store, bound to its key.
    #[allow(dead_code)] // for the stores of single records
    Record,
    /// What the library remembers beside a document.
    State,
}

impl Contents {
    const fn number(self) -> u8 {
        match self {
            Self::Document => 1,
            Self::Record => 2,
            Self::State => 3,
        }
    }
}

/// The variable part of a header, to be written.
pub(super) struct Header<'a> {
    pub(super) contents: Contents,
    pub(super) source: u8,
    pub(super) key_id: KeyId,
    pub(super) salt: [u8; SALT],
    pub(super) check: [u8; CHECK],
    pub(super) parameter: &'a [u8],
    pub(super) plaintext: usize,
}

impl Header<'_> {
    /// An envelope with this header and zeros where ciphertext and tag will be, and the length of the header.
    pub(super) fn write(&self) -> (Vec<u8>, usize) {
        // A parameter that does not fit is only a hint: it is left out.
        let parameter = if self.parameter.len() > LONGEST_PARAMETER { &[] } else { self.parameter };
        let header = FIXED + parameter.len();
        let length = header + self.plaintext + TAG;
        let mut bytes = memory::reserve(length);
        bytes.resize(length, 0);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = VERSION;
        bytes[9] = self.contents.number();
        bytes[10] = self.source;
        // One byte stays zero.
        let length = u32::try_from(parameter.len()).expect("a parameter is bounded");
        bytes[12..16].copy_from_slice(&length.to_be_bytes());
        bytes[16..24].copy_from_slice(&(self.plaintext as u64).to_be_bytes());
        bytes[24..40].copy_from_slice(self.key_id.as_bytes());
        bytes[40..72].copy_from_slice(&self.salt);
        bytes[72..104].copy_from_slice(&self.check);
        bytes[FIXED..header].copy_from_slice(parameter);
        (bytes, header)
    }
}

/// An envelope, taken apart.
pub(crate) struct Envelope<'a> {
    pub(super) salt: &'a [u8],
    pub(super) check: &'a [u8],
    /// All of it is authenticated.
    pub(super) header: &'a [u8],
    pub(super) ciphertext: &'a [u8],
    pub(super) tag: &'a [u8],
    sealed_with: SealedWith,
}

/// Whether bytes begin as an envelope does, or as a piece of one.
pub(crate) fn is_envelope(bytes: &[u8]) -> bool {
    !bytes.is_empty() && (bytes.starts_with(&MAGIC) || MAGIC.starts_with(bytes))
}

impl<'a> Envelope<'a> {
    /// Takes an envelope apart that should hold `contents`.
    pub(crate) fn parse(bytes: &'a [u8], contents: Contents) -> Result<Self, Refusal> {
        let sealed_with = Self::peek(bytes)?;
        if bytes[9] != contents.number() {
            return Err(Refusal::OtherContents);
        }
        let header = FIXED + sealed_with.parameter().len();
        let plaintext = u64::from_be_bytes(array(&bytes[16..24]));
        let whole = usize::try_from(plaintext).ok().and_then(|plaintext| plaintext.checked_add(header + TAG));
        let Some(whole) = whole.filter(|whole| *whole <= bytes.len()) else {
            let needs = plaintext.saturating_add((header + TAG) as u64);
            return Err(Refusal::Truncated { has: bytes.len() as u64, needs });
        };
        if whole < bytes.len() {
            return Err(Refusal::Tampered);
        }
        let (ciphertext, tag) = bytes[header..].split_at(bytes.len() - header - TAG);
        Ok(Self {
            salt: &bytes[40..72],
            check: &bytes[72..104],
            header: &bytes[..header],
            ciphertext,
            tag,
            sealed_with,
        })
    }

    /// What the header says about the key. The body need not be there.
    pub(crate) fn peek(bytes: &[u8]) -> Result<SealedWith, Refusal> {
        let needs = |length: usize| {
            if bytes.len() < length {
                Err(Refusal::Truncated { has: bytes.len() as u64, needs: length as u64 })
            } else {
                Ok(())
            }
        };
        if !is_envelope(bytes) {
            return Err(Refusal::NotSealed);
        }
        needs(MAGIC.len() + 1)?;
        if bytes[8] != VERSION {
            return Err(Refusal::Version(bytes[8]));
        }
        needs(FIXED)?;
        let length = u32::from_be_bytes(array(&bytes[12..16])) as usize;
        if bytes[11] != 0 || length > LONGEST_PARAMETER {
            return Err(Refusal::Tampered);
        }
        needs(FIXED + length)?;
        let key_id = KeyId::new(array(&bytes[24..40]));
        Ok(SealedWith::new(bytes[10], key_id, bytes[FIXED..FIXED + length].to_vec()))
    }

    /// What the header says about the key.
    pub(crate) fn sealed_with(&self) -> &SealedWith {
        &self.sealed_with
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}
