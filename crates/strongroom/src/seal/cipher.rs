//! The only caller of the AEAD and of key derivation.
//!
//! AES-256-GCM with a fixed nonce under a key that is derived for one write alone: HKDF-SHA256 of the master key
//! with 32 random bytes of salt. So nonces cannot repeat, however many writers there are. The same derivation
//! gives a check value, which commits the envelope to its key.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{self, HKDF_SHA256, KeyType, Salt};
use aws_lc_rs::rand;
use zeroize::Zeroizing;

use super::envelope::{CHECK, Contents, Envelope, Header, SALT, TAG};
use super::error::{Refusal, SealError};
use super::key_ring::{KeyId, KeyRing, MASTER_KEY, MasterKey};
use crate::SecretBytes;
use crate::platform::memory;

/// Names the format and its version, so that a key derived here is used for nothing else.
const ENVELOPE_INFO: &[u8] = b"strongroom envelope 1";
const KEY_ID_INFO: &[u8] = b"strongroom key id 1";
const AES_KEY: usize = 32;

/// Seals `plaintext` with the primary key of `ring`. `bound_to` is authenticated with it: the key of a record,
/// nothing for a document.
///
/// # Errors
/// The operating system has no random bytes.
pub(crate) fn seal(
    ring: &KeyRing,
    contents: Contents,
    bound_to: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, SealError> {
    let mut salt = [0; SALT];
    rand::fill(&mut salt).map_err(|Unspecified| SealError::NoRandomness)?;
    Ok(seal_with_salt(ring, contents, bound_to, plaintext, salt))
}

fn seal_with_salt(
    ring: &KeyRing,
    contents: Contents,
    bound_to: &[u8],
    plaintext: &[u8],
    salt: [u8; SALT],
) -> Vec<u8> {
    let key = ring.primary_key();
    let derived = Derived::of(key, &salt);
    let header = Header {
        contents,
        source: ring.source().number(),
        key_id: key.id(),
        salt,
        check: *derived.check(),
        parameter: ring.parameter(),
        plaintext: plaintext.len(),
    };
    let (mut envelope, length) = header.write();
    let (header, body) = envelope.split_at_mut(length);
    let (ciphertext, tag) = body.split_at_mut(plaintext.len());
    derived
        .aead()
        .seal_out_of_place_scatter(nonce(), associated(header, bound_to), plaintext, ciphertext, &[], tag)
        .expect("all lengths are right, and no document reaches the limit of GCM, 64 GiB");
    envelope
}

/// Opens an envelope. Nothing of it is let out unless all of it is authentic.
///
/// # Errors
/// `WrongKey`: it was sealed with another key than the one of this id. `Tampered`: with this one, and changed since.
pub(crate) fn open(
    key: &MasterKey,
    envelope: &Envelope<'_>,
    bound_to: &[u8],
) -> Result<SecretBytes, Refusal> {
    let derived = Derived::of(key, envelope.salt);
    verify_slices_are_equal(derived.check(), envelope.check).map_err(|Unspecified| Refusal::WrongKey)?;
    let mut plaintext = Zeroizing::new(memory::reserve(envelope.ciphertext.len()));
    plaintext.resize(envelope.ciphertext.len(), 0);
    let associated = associated(envelope.header, bound_to);
    derived
        .aead()
        .open_separate_gather(nonce(), associated, envelope.ciphertext, envelope.tag, &mut plaintext)
        .map_err(|Unspecified| Refusal::Tampered)?;
    Ok(SecretBytes::from(std::mem::take(&mut *plaintext)))
}

/// The public name of a key: derived from it, and telling nothing about it.
pub(super) fn key_id(master: &[u8]) -> KeyId {
    let mut id = [0; KeyId::LENGTH];
    expand(&Salt::none(HKDF_SHA256), master, KEY_ID_INFO, &mut id);
    KeyId::new(id)
}

/// Fills a new master key with random bytes.
pub(super) fn fill_random(key: &mut [u8]) -> Result<(), SealError> {
    rand::fill(key).map_err(|Unspecified| SealError::NoRandomness)
}

/// What is derived for one envelope.
struct Derived(Zeroizing<[u8; AES_KEY + CHECK]>);

impl Derived {
    fn of(key: &MasterKey, salt: &[u8]) -> Self {
        let mut derived = Self(Zeroizing::new([0; AES_KEY + CHECK]));
        expand(&Salt::new(HKDF_SHA256, salt), key.expose(), ENVELOPE_INFO, &mut *derived.0);
        derived
    }

    fn check(&self) -> &[u8; CHECK] {
        self.0.last_chunk().expect("it is longer")
    }

    fn aead(&self) -> LessSafeKey {
        let key = UnboundKey::new(&AES_256_GCM, &self.0[..AES_KEY]).expect("the length is right");
        LessSafeKey::new(key)
    }
}

fn expand(salt: &Salt, master: &[u8], info: &[u8], out: &mut [u8]) {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }

    debug_assert_eq!(master.len(), MASTER_KEY);
    let extracted: hkdf::Prk = salt.extract(master);
    let filled = extracted.expand(&[info], Length(out.len())).and_then(|okm| okm.fill(out));
    filled.expect("HKDF-SHA256 gives up to 8160 bytes");
}

/// The key is used once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// The header ends where its own length says, so nothing that follows can be taken for a part of it.
fn associated(header: &[u8], bound_to: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([header, bound_to].concat())
}

const _: () = assert!(TAG == 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::key_source::KeySourceKind;

    /// The ring of the test vectors in `docs/format.md`: one key, the bytes 0 to 31.
    fn ring() -> KeyRing {
        let key: Vec<u8> = (0..32).collect();
        KeyRing::new(KeySourceKind::Host, b"/h".to_vec(), vec![MasterKey::from_slice(&key).unwrap()]).unwrap()
    }

    fn opened(bytes: &[u8], contents: Contents, bound_to: &[u8]) -> Result<SecretBytes, Refusal> {
        let envelope = Envelope::parse(bytes, contents)?;
        let ring = ring();
        let key = ring.key(envelope.sealed_with().key_id()).ok_or(Refusal::WrongKey)?;
        open(key, &envelope, bound_to)
    }

    #[test]
    fn what_was_sealed_is_opened_by_the_same_key_alone() {
        let sealed = seal(&ring(), Contents::Document, b"", b"{\"a\":1}").unwrap();
        assert_eq!(opened(&sealed, Contents::Document, b"").unwrap().expose(), b"{\"a\":1}");
        let other = MasterKey::from_slice(&[9; 32]).unwrap();
        let envelope = Envelope::parse(&sealed, Contents::Document).unwrap();
        assert_eq!(open(&other, &envelope, b"").unwrap_err(), Refusal::WrongKey);
    }

    #[test]
    fn two_envelopes_of_one_text_have_nothing_but_their_names_in_common() {
        let [one, other] = [(); 2].map(|()| seal(&ring(), Contents::Document, b"", &[0; 64]).unwrap());
        assert_eq!(one[..40], other[..40]);
        assert_ne!(one[40..104], other[40..104], "salt and check value");
        assert!(one[104..].iter().zip(&other[104..]).filter(|(one, other)| one == other).count() < 20);
    }

    #[test]
    fn a_record_is_bound_to_its_key_and_one_kind_of_contents_is_not_another() {
        let sealed = seal(&ring(), Contents::Record, b"key one", b"secret").unwrap();
        assert_eq!(opened(&sealed, Contents::Record, b"key one").unwrap().expose(), b"secret");
        assert_eq!(opened(&sealed, Contents::Record, b"key two").unwrap_err(), Refusal::Tampered);
        assert_eq!(opened(&sealed, Contents::Record, b"").unwrap_err(), Refusal::Tampered);
        assert_eq!(opened(&sealed, Contents::Document, b"key one").unwrap_err(), Refusal::OtherContents);
        let mut relabelled = sealed;
        relabelled[9] = 1;
        assert_eq!(opened(&relabelled, Contents::Document, b"key one").unwrap_err(), Refusal::Tampered);
    }

    #[test]
    fn every_byte_that_is_flipped_and_every_length_that_is_cut_is_noticed() {
        let sealed = seal(&ring(), Contents::Document, b"", b"some text").unwrap();
        for at in 0..sealed.len() {
            for bit in [1, 0x80] {
                let mut changed = sealed.clone();
                changed[at] ^= bit;
                let refusal = opened(&changed, Contents::Document, b"").unwrap_err();
                let expected = match at {
                    0..8 => Refusal::NotSealed,
                    8 => Refusal::Version(changed[8]),
                    9 => Refusal::OtherContents,
                    // The parameter seems longer or shorter than it is, the text too.
                    12..24 => refusal.clone(),
                    // An id that the ring does not have, or a check value of another salt or key.
                    24..104 => Refusal::WrongKey,
                    _ => Refusal::Tampered,
                };
                assert_eq!(refusal, expected, "byte {at}");
            }
        }
        for length in 0..sealed.len() {
            let refusal = opened(&sealed[..length], Contents::Document, b"").unwrap_err();
            assert_eq!(matches!(refusal, Refusal::Truncated { .. }), length > 0, "{length}: {refusal:?}");
        }
        let longer = [&sealed[..], &[0]].concat();
        assert_eq!(opened(&longer, Contents::Document, b"").unwrap_err(), Refusal::Tampered);
    }

    #[test]
    fn the_test_vectors_of_the_format_page_are_what_is_written() {
        let page = include_str!("../../../../docs/format.md");
        let stated: Vec<String> = page
            .split("```hex")
            .skip(1)
            .map(|rest| rest.split("```").next().unwrap().split_whitespace().collect())
            .collect();
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
        let document =
            seal_with_salt(&ring(), Contents::Document, b"", b"{\"AccessToken\":{}}", [0x55; SALT]);
        let record = seal_with_salt(&ring(), Contents::Record, b"a key", b"a record", [0xaa; SALT]);
        assert_eq!(stated, [hex(ring().primary().as_bytes()), hex(&document), hex(&record)]);
    }
}
