//! Any bytes as the answer of a token endpoint: no panic, a token that is accepted is one that can be stored, and
//! no secret of ours gets into an error.

use strongroom::fuzzing::read_token_response;
use strongroom::{HttpResponse, SecretBytes};

const SECRET: &str = "a-client-secret-of-ours";

/// Panics if anything does not hold. The first byte chooses the status.
pub fn check(bytes: &[u8]) {
    let (first, body) = bytes.split_first().unwrap_or((&0, &[]));
    let status = [200, 400, 401, 429, 500, 503][usize::from(*first) % 6];
    let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    let response = HttpResponse::new(status, headers, SecretBytes::from(body.to_vec()));
    match read_token_response(response, SECRET) {
        Ok(token) => {
            assert_eq!(status, 200);
            assert!(!token.access_token.is_empty() && !token.token_type.is_empty());
            assert!(token.expires_in > 0 && token.ext_expires_in >= token.expires_in);
            assert!(token.refresh_in.is_none_or(|seconds| (0..=token.expires_in).contains(&seconds)));
        }
        Err(error) => assert!(!format!("{error} {error:?}").contains(SECRET)),
    }
}
