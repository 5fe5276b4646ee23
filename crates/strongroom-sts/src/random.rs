//! Random bytes and the opaque texts made of them.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// `N` bytes from the system's generator.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random generator does not fail once it is seeded");
    bytes
}

/// `N` random bytes, base64url without padding.
pub(crate) fn text<const N: usize>() -> String {
    URL_SAFE_NO_PAD.encode(bytes::<N>())
}
