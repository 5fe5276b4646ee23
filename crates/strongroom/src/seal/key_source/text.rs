//! Keys as text: one a line, the primary first, `strongroom-key-1:` and 32 bytes in base64url. What stands behind
//! a `#` is a comment.
//!
//! Base64 alone is a key too, in either alphabet, so that `openssl rand -base64 32` makes one.

use std::io::Write as _;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use zeroize::Zeroize as _;

use super::super::error::SealError;
use super::super::key_ring::{MASTER_KEY, MasterKey};
use crate::{SecretBytes, UnixSeconds};

const PREFIX: &[u8] = b"strongroom-key-1:";
/// The form of a later version.
const OTHER_PREFIX: &[u8] = b"strongroom-key-";
/// Written behind a key, and read again to tell its age.
const CREATED: &str = "created ";
/// A source with more keys than this is no key ring.
const MOST_KEYS: usize = 1000;

/// Reads keys that are separated by line ends, or by commas.
///
/// # Errors
/// Which line is wrong and how, never the text itself.
pub(super) fn parse(text: &[u8]) -> Result<Vec<MasterKey>, String> {
    let mut keys = Vec::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let (content, comment) = match line.iter().position(|byte| *byte == b'#') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        for item in content.split(|byte| *byte == b',') {
            let item = item.trim_ascii();
            if item.is_empty() {
                continue;
            }
            let wrong = |how: &str| format!("line {}: {how}", number + 1);
            let encoded = match item.strip_prefix(PREFIX) {
                Some(encoded) => encoded,
                None if item.starts_with(OTHER_PREFIX) => {
                    return Err(wrong("the key is of a version that this program does not know"));
                }
                None => item,
            };
            let key = decode(encoded, created_of(comment))
                .ok_or_else(|| wrong("this is not a key of 32 bytes in base64"))?;
            if keys.len() == MOST_KEYS {
                return Err(wrong("there are too many keys; remove old ones that nothing is sealed with"));
            }
            keys.push(key);
        }
    }
    Ok(keys)
}

/// Reads keys that are to be added to a source: one at least.
///
/// # Errors
/// What is wrong with them.
pub(super) fn parse_import(keys: &SecretBytes) -> Result<Vec<MasterKey>, SealError> {
    let parsed = match parse(keys.expose()) {
        Ok(keys) if keys.is_empty() => Err("there is no key in it".to_owned()),
        parsed => parsed,
    };
    parsed.map_err(|reason| SealError::InvalidKeys { source_name: "what is to be imported".into(), reason })
}

/// Writes keys, one a line.
pub(in crate::seal) fn format<'a>(keys: impl IntoIterator<Item = &'a MasterKey>) -> SecretBytes {
    let mut text = SecretBytes::with_capacity(1024);
    let mut encoded = [0; 4 * MASTER_KEY.div_ceil(3)];
    for key in keys {
        let length = BASE64_URL_SAFE_NO_PAD
            .encode_slice(key.expose(), &mut encoded)
            .expect("there is room for the padded form");
        text.extend(PREFIX);
        text.extend(&encoded[..length]);
        if let Some(created) = key.created() {
            write!(text, " # {CREATED}{created}").expect("appending never fails");
        }
        text.extend(b"\n");
    }
    encoded.zeroize();
    text
}

fn decode(encoded: &[u8], created: Option<UnixSeconds>) -> Option<MasterKey> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let is_standard = encoded.iter().any(|byte| matches!(byte, b'+' | b'/'));
    let engine = GeneralPurpose::new(if is_standard { &STANDARD } else { &URL_SAFE }, config);
    MasterKey::filled_by(created, |bytes| engine.decode_slice(encoded, bytes).ok())
}

fn created_of(comment: &[u8]) -> Option<UnixSeconds> {
    let text = std::str::from_utf8(comment).ok()?.trim().strip_prefix(CREATED)?;
    text.parse().ok().map(UnixSeconds::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<super::super::KeyId> {
        parse(text.as_bytes()).unwrap().iter().map(MasterKey::id).collect()
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let keys: Vec<_> =
            (1..4).map(|n| MasterKey::generate(UnixSeconds::new(1_700_000_000 + n)).unwrap()).collect();
        let text = format(&keys);
        let read = parse(text.expose()).unwrap();
        assert_eq!(read.len(), 3);
        for (one, other) in keys.iter().zip(&read) {
            assert_eq!((one.id(), one.created()), (other.id(), other.created()));
        }
    }

    #[test]
    fn every_spelling_of_a_key_is_that_key() {
        let standard = "+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=";
        let url = standard.replace('+', "-").replace('/', "_");
        let unpadded = url.trim_end_matches('=');
        let expected = ids(standard);
        for text in [
            url.clone(),
            unpadded.to_owned(),
            format!("strongroom-key-1:{unpadded}"),
            format!("# a comment\n\n  strongroom-key-1:{url}  # another\r\n"),
        ] {
            assert_eq!(ids(&text), expected, "{text}");
        }
        let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
        assert_eq!(ids(&format!("{standard},{other}")), ids(&format!("{standard}\n{other}\n")));
    }

    #[test]
    fn what_is_no_key_is_refused_by_its_line_and_not_repeated() {
        for text in [
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHg",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g",
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9",
            "hunter2",
            "strongroom-key-2:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
        ] {
            let reason = parse(format!("# ok\n{text}").as_bytes()).unwrap_err();
            assert!(reason.starts_with("line 2: "), "{reason}");
            assert!(!reason.contains(text), "{reason}");
        }
        assert!(parse(b"\n# nothing\n").unwrap().is_empty());
    }
}
