//! The token-signing keys: two RSA-2048 pairs with self-signed certificates, kept in the state
//! folder. Both are published, the first signs. Knows RS256 and nothing of what is signed.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::Serialize;

use crate::error::StsError;
use crate::files::StateFolder;
use crate::time::UnixSeconds;
use crate::tls;

/// The published keys, the signing one first.
#[derive(Debug)]
pub(crate) struct SigningKeys {
    keys: Vec<SigningKey>,
}

impl SigningKeys {
    /// Takes them from the folder; makes those that are missing.
    pub(crate) fn load_or_create(folder: &StateFolder, now: UnixSeconds) -> Result<Self, StsError> {
        let keys = FILES.iter().map(|name| SigningKey::load_or_create(folder, name, now));
        Ok(Self { keys: keys.collect::<Result<_, _>>()? })
    }

    /// The key that signs new tokens.
    pub(crate) fn current(&self) -> &SigningKey {
        self.keys.first().expect("FILES is not empty")
    }

    /// The key of this id.
    pub(crate) fn find(&self, kid: &str) -> Option<&SigningKey> {
        self.keys.iter().find(|k| k.kid == kid)
    }

    /// The entries of the JWKS; `issuer` is that of the tenant asked about.
    pub(crate) fn published<'a>(&'a self, issuer: &'a str) -> impl Iterator<Item = PublishedKey<'a>> {
        self.keys.iter().map(move |key| PublishedKey {
            kty: "RSA",
            r#use: "sig",
            kid: &key.kid,
            x5t: &key.kid,
            n: &key.modulus,
            e: &key.exponent,
            x5c: [&key.certificate],
            cloud_instance_name: "microsoftonline.com",
            issuer,
        })
    }
}

/// One key pair.
#[derive(Debug)]
pub(crate) struct SigningKey {
    /// Unpadded base64url of the certificate's SHA-1, as Entra's.
    pub(crate) kid: String,
    certificate: String,
    modulus: String,
    exponent: String,
    pair: RsaKeyPair,
}

impl SigningKey {
    /// RS256 over `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
            .expect("a checked key of 2048 bits signs a digest");
        signature
    }

    /// True if `signature` is this key's over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.pair.public_key().as_ref())
            .verify(message, signature)
            .is_ok()
    }

    fn load_or_create(folder: &StateFolder, name: &str, now: UnixSeconds) -> Result<Self, StsError> {
        if let Some(pem) = folder.read(name)? {
            return Self::parse(&pem).map_err(|problem| StsError::KeyFile {
                path: folder.file(name),
                problem: problem.to_owned(),
            });
        }
        let (key, certificate) = self_signed("Strongroom token signing (development)", now)
            .map_err(tls::failed("a signing key"))?;
        let pem = key + &certificate;
        folder.write(name, &pem)?;
        Self::parse(&pem)
            .map_err(|problem| StsError::Crypto { what: "a signing key", problem: problem.to_owned() })
    }

    fn parse(pem: &str) -> Result<Self, &'static str> {
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| "no PKCS#8 key in it")?;
        let certificate =
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "no certificate in it")?;
        let pair = RsaKeyPair::from_pkcs8(key.secret_pkcs8_der())
            .map_err(|_| "its key is not an RSA key of 2048 bits or more")?;
        let thumbprint = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &certificate);
        let public = pair.public_key();
        Ok(Self {
            kid: URL_SAFE_NO_PAD.encode(thumbprint),
            certificate: STANDARD.encode(&certificate),
            modulus: URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
            exponent: URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
            pair,
        })
    }
}

/// An RSA-2048 key and a certificate of ten years that it has signed itself, PEM both.
pub(crate) fn self_signed(name: &str, now: UnixSeconds) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    tls::set_validity(&mut params, now, 3650);
    let certificate = params.self_signed(&key)?;
    Ok((key.serialize_pem(), certificate.pem()))
}

/// One entry of a JWKS.
#[derive(Serialize)]
pub(crate) struct PublishedKey<'a> {
    kty: &'static str,
    r#use: &'static str,
    kid: &'a str,
    x5t: &'a str,
    n: &'a str,
    e: &'a str,
    x5c: [&'a str; 1],
    cloud_instance_name: &'static str,
    issuer: &'a str,
}

const FILES: [&str; 2] = ["signing-1.pem", "signing-2.pem"];
