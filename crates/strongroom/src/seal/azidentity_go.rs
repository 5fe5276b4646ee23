//! The file that azidentity for Go keeps its cache in on Linux: a compact JWE under a key in the kernel's keyring.
//!
//! It is read, never written. Algorithm `dir`, encryption `A128CBC-HS256` (RFC 7518, section 5.2.3), but for one
//! thing: the authenticated data is empty there, not the header as RFC 7516 says, so a JWE library refuses it.

use aws_lc_rs::cipher::{AES_128, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use linux_keyutils::{Key, KeyError, KeyRing as Keyring, KeyRingIdentifier};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::SealError;
use crate::SecretBytes;

/// Opens what is in the file at `location`, with the key that the cache's name finds.
///
/// # Errors
/// It is no such file, or its key is not to be had, or is another one.
pub(crate) fn open(content: &[u8], name: &str, location: &str) -> Result<SecretBytes, SealError> {
    let refused = |reason: &str| SealError::NotOpened { location: location.into(), reason: reason.into() };
    let sealed = Sealed::parse(content).ok_or_else(|| refused("it is not what azidentity for Go writes"))?;
    let unavailable = |error: KeyError| refused(&format!("the kernel's keyring says: {error:?}"));
    let entry = find(name).map_err(unavailable)?;
    let entry = entry.ok_or_else(|| SealError::ToolKeyGone { location: location.into() })?;
    let key = read(&entry).map_err(unavailable)?;
    let key = key.ok_or_else(|| refused("what the kernel's keyring has under its name is no key of it"))?;
    sealed.open(&key).ok_or_else(|| refused("it was sealed with another key, or is damaged"))
}

const KEY: usize = 32;
/// One half of the key authenticates, the other one encrypts; a tag is half a hash.
const HALF: usize = KEY / 2;

struct Sealed {
    iv: [u8; HALF],
    ciphertext: Vec<u8>,
    tag: [u8; HALF],
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    enc: String,
}

impl Sealed {
    /// Header, an empty key, initialization vector, ciphertext, tag: each in base64url, with dots between them.
    fn parse(content: &[u8]) -> Option<Self> {
        // Of one more the rest is not taken apart: a file of dots would take sixteen times its size.
        let mut parts = content.trim_ascii().splitn(6, |byte| *byte == b'.');
        let parts = std::array::from_fn(|_| parts.next());
        let [Some(header), Some([]), Some(iv), Some(ciphertext), Some(tag), None] = parts else {
            return None;
        };
        let decode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        if (header.alg.as_str(), header.enc.as_str()) != ("dir", "A128CBC-HS256") {
            return None;
        }
        let (iv, ciphertext, tag) = (decode(iv)?, decode(ciphertext)?, decode(tag)?);
        Some(Self { iv: iv.try_into().ok()?, ciphertext, tag: tag.try_into().ok()? })
    }

    fn open(self, key: &[u8; KEY]) -> Option<SecretBytes> {
        let (authenticating, encrypting) = key.split_at(HALF);
        let mut context = hmac::Context::with_key(&hmac::Key::new(HMAC_SHA256, authenticating));
        context.update(&self.iv);
        context.update(&self.ciphertext);
        // The length of the authenticated data.
        context.update(&0u64.to_be_bytes());
        verify_slices_are_equal(&context.sign().as_ref()[..HALF], &self.tag).ok()?;

        let key = UnboundCipherKey::new(&AES_128, encrypting).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(key).ok()?;
        let mut buffer = Zeroizing::new(self.ciphertext);
        let context = DecryptionContext::Iv128(FixedLength::from(self.iv));
        let length = key.decrypt(&mut buffer, context).ok()?.len();
        buffer.truncate(length);
        Some(std::mem::take(&mut *buffer).into())
    }
}

/// The key of this name: in the user keyring, or in the one that outlives this user's sessions.
fn find(name: &str) -> Result<Option<Key>, KeyError> {
    // Only who possesses a key may read it, and whatever hangs on the keyring of this process is possessed. It ends
    // with the process: nobody else's keyring is changed.
    let ours = Keyring::from_special_id(KeyRingIdentifier::Process, true)?;
    if let Ok(user) = Keyring::from_special_id(KeyRingIdentifier::User, false) {
        ours.link_keyring(user)?;
    }
    // Some kernels have none.
    let _ = Keyring::get_persistent(KeyRingIdentifier::Process);
    match ours.search(name) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::KeyDoesNotExist | KeyError::KeyRevoked | KeyError::KeyExpired) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an entry holds; `None` if that is no key.
fn read(key: &Key) -> Result<Option<Zeroizing<[u8; KEY]>>, KeyError> {
    // Go ends the payload with a zero, and there is room for one byte more, so that another length shows.
    let mut payload = Zeroizing::new([0; KEY + 2]);
    let length = key.read(&mut *payload)?;
    if length != KEY + 1 || payload[KEY] != 0 {
        return Ok(None);
    }
    let mut key = Zeroizing::new([0; KEY]);
    key.copy_from_slice(&payload[..KEY]);
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What azidentity/cache 0.4.0 for Go wrote, and the key that it had put into the keyring.
    const WRITTEN_BY_GO: &[u8] = include_bytes!("../../tests/data/sealed-azidentity-go-0.4.0/msal.cache");
    const KEY_OF_GO: &str = include_str!("../../tests/data/sealed-azidentity-go-0.4.0/key.hex");

    fn key() -> [u8; KEY] {
        let digits = KEY_OF_GO.trim();
        std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
    }

    #[test]
    fn what_go_wrote_is_opened() {
        let plain = Sealed::parse(WRITTEN_BY_GO).unwrap().open(&key()).unwrap();
        assert!(plain.expose().starts_with(b"{\"AccessToken\":"));
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let text = std::str::from_utf8(WRITTEN_BY_GO).unwrap();
        let parts: Vec<&str> = text.split('.').collect();
        for part in 2..5 {
            let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(parts[part]).unwrap();
            for at in [0, bytes.len() - 1] {
                bytes[at] ^= 1;
                let changed = BASE64_URL_SAFE_NO_PAD.encode(&bytes);
                let mut changed_parts = parts.clone();
                changed_parts[part] = &changed;
                let changed = changed_parts.join(".");
                assert!(Sealed::parse(changed.as_bytes()).unwrap().open(&key()).is_none(), "part {part}");
                bytes[at] ^= 1;
            }
        }
        assert!(Sealed::parse(WRITTEN_BY_GO).unwrap().open(&[1; KEY]).is_none());
    }

    #[test]
    fn what_is_something_else_is_not_taken_for_it() {
        let text = std::str::from_utf8(WRITTEN_BY_GO).unwrap();
        let (header, rest) = text.split_once('.').unwrap();
        let other = |json: &str| format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(json));
        for wrong in [
            String::new(),
            "{}".into(),
            format!("{header}.x{rest}"),
            format!("{text}."),
            other(r#"{"alg":"dir","enc":"A128GCM"}"#),
            other(r#"{"alg":"none","enc":"A128CBC-HS256"}"#),
        ] {
            assert!(Sealed::parse(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
