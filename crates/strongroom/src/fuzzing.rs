//! The way in for the fuzz targets of `fuzz/`: what the flows read from the network. No part of the API.

use crate::oauth::{self, HttpResponse, Proof};
use crate::{Error, SecretString, UnixSeconds};

/// What a flow takes from the answer of a token endpoint.
#[derive(Debug)]
pub struct TokenResponse {
    /// The token.
    pub access_token: SecretString,
    /// As the server wrote it.
    pub token_type: String,
    /// Seconds.
    pub expires_in: i64,
    /// Seconds.
    pub ext_expires_in: i64,
    /// Seconds.
    pub refresh_in: Option<i64>,
}

/// Reads the answer to a request that was authenticated with `client_secret`.
///
/// # Errors
/// It is no token response.
pub fn read_token_response(response: HttpResponse, client_secret: &str) -> Result<TokenResponse, Error> {
    let proof = Proof::Secret(client_secret.into());
    let response = oauth::TokenResponse::read(response, &proof, UnixSeconds::new(1_800_000_000))?;
    Ok(TokenResponse {
        access_token: response.access_token,
        token_type: response.token_type,
        expires_in: response.expires_in,
        ext_expires_in: response.ext_expires_in,
        refresh_in: response.refresh_in,
    })
}
