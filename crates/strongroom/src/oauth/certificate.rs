//! A private key and its certificate: from PEM or PFX to a key that signs client assertions.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

#[cfg(feature = "pfx")]
use crate::SecretBytes;
use crate::SecretString;
use crate::error::{Diagnose, ErrorKind};

/// A private key whose certificate is registered for an application.
///
/// RSA of 2048 to 8192 bits. The provider finds the certificate by a thumbprint in the assertion:
///
/// | given | algorithm | header |
/// |---|---|---|
/// | a certificate | PS256 | `x5t#S256`, `x5c` |
/// | a SHA-1 thumbprint | RS256 | `x5t` |
/// | both | RS256 | `x5t`, `x5c` |
/// | a PFX file | PS256 | `x5t#S256`; `x5c` only with [`send_chain`](Self::send_chain) |
///
/// ```no_run
/// use strongroom::{ClientCertificate, ClientCredential};
///
/// # fn main() -> std::io::Result<()> {
/// let certificate = ClientCertificate::from_pem(std::fs::read_to_string("daemon.key")?)
///     .public_certificate(std::fs::read_to_string("daemon.pem")?);
/// let credential = ClientCredential::from_certificate(certificate);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientCertificate {
    key: Source,
    passphrase: Option<SecretString>,
    thumbprint: Option<String>,
    public_certificate: Option<String>,
    send_chain: Option<bool>,
}

#[derive(Clone)]
enum Source {
    Pem(SecretString),
    #[cfg(feature = "pfx")]
    Pfx(std::sync::Arc<SecretBytes>),
}

impl ClientCertificate {
    /// A private key in PEM: PKCS#8, PKCS#1, or PKCS#8 under a [`passphrase`](Self::passphrase). What else is in the
    /// text is ignored, so it may be the file that holds the certificate too. A
    /// [`public_certificate`](Self::public_certificate) or a [`thumbprint`](Self::thumbprint) has to be added.
    pub fn from_pem(private_key: impl Into<SecretString>) -> Self {
        Self::new(Source::Pem(private_key.into()))
    }

    /// Key and certificates of a PFX file (PKCS#12): its content. The certificate is that of the key.
    #[cfg(feature = "pfx")]
    pub fn from_pfx(pfx: impl Into<SecretBytes>, passphrase: Option<SecretString>) -> Self {
        let source = Source::Pfx(std::sync::Arc::new(pfx.into()));
        Self { passphrase, ..Self::new(source) }
    }

    /// The passphrase that the private key is encrypted with. It is not needed for one that is not. PEM needs the
    /// feature `pfx` for that.
    #[must_use]
    pub fn passphrase(mut self, passphrase: impl Into<SecretString>) -> Self {
        self.passphrase = Some(passphrase.into());
        self
    }

    /// The SHA-1 thumbprint of the registered certificate, in hexadecimal, as the portal shows it. With it assertions
    /// are signed as older providers want it: prefer the certificate itself.
    #[must_use]
    pub fn thumbprint(mut self, sha1_hex: impl Into<String>) -> Self {
        self.thumbprint = Some(sha1_hex.into());
        self
    }

    /// The certificate in PEM, with those that vouch for it if there are any. The key's own may stand anywhere among
    /// them.
    #[must_use]
    pub fn public_certificate(mut self, pem: impl Into<String>) -> Self {
        self.public_certificate = Some(pem.into());
        self
    }

    /// Whether the certificates are sent along (`x5c`), so that one can be registered by the names of its subject and
    /// issuer, and renewed without a change at the provider. Default: those in PEM are, those of a PFX file are not.
    #[must_use]
    pub fn send_chain(mut self, send: bool) -> Self {
        self.send_chain = Some(send);
        self
    }

    fn new(key: Source) -> Self {
        Self { key, passphrase: None, thumbprint: None, public_certificate: None, send_chain: None }
    }

    /// The key, ready to sign.
    pub(super) fn signing_key(&self) -> Result<SigningKey, CertificateError> {
        let (key, mut certificates) = match &self.key {
            Source::Pem(pem) => (private_key(pem, self.passphrase.as_ref())?, Vec::new()),
            #[cfg(feature = "pfx")]
            Source::Pfx(pfx) => pfx::open(pfx.expose(), self.passphrase.as_ref())?,
        };
        let are_sent = self.send_chain.unwrap_or(certificates.is_empty());
        if let Some(pem) = self.public_certificate.as_deref().filter(|pem| !pem.is_empty()) {
            certificates = certificates_of(pem)?;
        }
        let thumbprint = self.thumbprint.as_deref().filter(|thumbprint| !thumbprint.is_empty());
        if thumbprint.is_none() && certificates.is_empty() {
            return Err(CertificateError::NotIdentified);
        }
        own_first(&key, &mut certificates)?;
        let (algorithm, mut header) = match thumbprint {
            Some(thumbprint) => {
                let sha1 = BASE64_URL_SAFE_NO_PAD.encode(sha1_of(thumbprint)?);
                (Algorithm::Rs256, json!({ "x5t": sha1 }))
            }
            None => {
                let sha256 = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &certificates[0]));
                (Algorithm::Ps256, json!({ "x5t#S256": sha256 }))
            }
        };
        header["typ"] = "JWT".into();
        header["alg"] = algorithm.name().into();
        if are_sent && !certificates.is_empty() {
            header["x5c"] = certificates.iter().map(|der| BASE64_STANDARD.encode(der)).collect();
        }
        let header = header.to_string();
        // A thumbprint may stand beside a key that is not its certificate's.
        let public_key = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, key.public_key().as_ref()));
        let identity = format!("{header} {public_key}");
        Ok(SigningKey { key, algorithm, header, identity })
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("thumbprint", &self.thumbprint).finish_non_exhaustive()
    }
}

/// A key that signs assertions, and what they say of it.
pub(super) struct SigningKey {
    key: KeyPair,
    algorithm: Algorithm,
    /// The protected header (RFC 7515 §4.1).
    header: String,
    /// The header and a hash of the public key.
    identity: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Ps256,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    fn encoding(self) -> &'static dyn RsaEncoding {
        match self {
            Self::Rs256 => &RSA_PKCS1_SHA256,
            Self::Ps256 => &RSA_PSS_SHA256,
        }
    }
}

impl SigningKey {
    /// Tells keys and certificates apart, without a secret.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// The claims as a signed token, in the compact form (RFC 7515 §3.1).
    pub(super) fn sign(&self, claims: &Map<String, Value>) -> Result<SecretString, CertificateError> {
        let claims = serde_json::to_vec(claims).map_err(|_| CertificateError::NotSigned)?;
        let mut jwt = BASE64_URL_SAFE_NO_PAD.encode(&self.header);
        jwt.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(claims, &mut jwt);
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(self.algorithm.encoding(), &SystemRandom::new(), jwt.as_bytes(), &mut signature)
            .map_err(|_| CertificateError::NotSigned)?;
        // One allocation, so that no half of it is left behind.
        let mut signed = String::with_capacity(jwt.len() + 1 + signature.len() * 4 / 3 + 4);
        signed.push_str(&jwt);
        signed.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut signed);
        Ok(signed.into())
    }
}

/// Why key and certificate cannot be used. Never quotes what was given.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("there is no private key in the PEM text")]
    NoKey,
    #[error("the private key cannot be read: {0}")]
    Key(String),
    #[error("the private key is encrypted, and there is no passphrase")]
    NoPassphrase,
    #[cfg(feature = "pfx")]
    #[error("the passphrase is not that of the private key")]
    WrongPassphrase,
    #[error("the private key is encrypted in a way that is not supported: {0}")]
    Encryption(String),
    #[error("the thumbprint is not a SHA-1 in hexadecimal, 40 digits")]
    Thumbprint,
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    #[error("there is neither a certificate nor a thumbprint")]
    NotIdentified,
    #[error("the certificate is not that of the private key")]
    OtherKey,
    #[cfg(feature = "pfx")]
    #[error("the PFX file cannot be read: {0}")]
    Pfx(String),
    #[error("the client assertion could not be signed")]
    NotSigned,
}

impl Diagnose for CertificateError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotSigned => ErrorKind::Internal,
            _ => ErrorKind::Configuration,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::NoKey | Self::Key(_) => "invalid_private_key",
            Self::NoPassphrase => "no_passphrase",
            #[cfg(feature = "pfx")]
            Self::WrongPassphrase => "wrong_passphrase",
            Self::Encryption(_) => "unsupported_key_encryption",
            Self::Thumbprint => "invalid_thumbprint",
            Self::Certificate(_) => "invalid_certificate",
            Self::NotIdentified => "no_certificate",
            Self::OtherKey => "certificate_of_other_key",
            #[cfg(feature = "pfx")]
            Self::Pfx(_) => "invalid_pfx",
            Self::NotSigned => "signing_failed",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(
            match self {
                Self::NoKey => "pass the text of the key file: -----BEGIN PRIVATE KEY-----",
                Self::Key(_) => "use an RSA key of 2048 to 8192 bits, in PEM (PKCS#8 or PKCS#1)",
                Self::NoPassphrase => "pass the passphrase that the key was encrypted with",
                #[cfg(feature = "pfx")]
                Self::WrongPassphrase => "pass the passphrase that the key was encrypted with",
                Self::Encryption(_) => {
                    "encrypt the key anew: openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW"
                }
                Self::Thumbprint => {
                    "copy the thumbprint that the portal shows, or pass the certificate instead"
                }
                Self::Certificate(_) => "pass the certificate in PEM: -----BEGIN CERTIFICATE-----",
                Self::NotIdentified => {
                    "pass the certificate that is registered for the application, or its thumbprint"
                }
                Self::OtherKey => "pass the certificate that was made for this key",
                #[cfg(feature = "pfx")]
                Self::Pfx(_) => {
                    "export it anew with a password, or convert it: openssl pkcs12 -in FILE -out PEM -nodes"
                }
                Self::NotSigned => return None,
            }
            .into(),
        )
    }
}

/// The key of a PEM text.
fn private_key(pem: &SecretString, passphrase: Option<&SecretString>) -> Result<KeyPair, CertificateError> {
    const ENCRYPTED: (&str, &str) =
        ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----");

    let text = pem.expose();
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::Encryption("by OpenSSL's old format".into()));
    }
    if let Some(begin) = text.find(ENCRYPTED.0)
        && let Some(length) = text[begin..].find(ENCRYPTED.1)
    {
        let passphrase = passphrase.ok_or(CertificateError::NoPassphrase)?;
        return decrypted(&text[begin..begin + length + ENCRYPTED.1.len()], passphrase);
    }
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => CertificateError::NoKey,
        // Its words could quote what it stumbled over.
        _ => CertificateError::Key("it is not PEM".into()),
    })?;
    let der = Zeroizing::new(der);
    let key = match &*der {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(CertificateError::Key("it is not an RSA key".into())),
    };
    key.map_err(|rejected| CertificateError::Key(rejected.to_string()))
}

#[cfg(not(feature = "pfx"))]
fn decrypted(_: &str, _: &SecretString) -> Result<KeyPair, CertificateError> {
    Err(CertificateError::Encryption("this build of the library lacks the feature `pfx`".into()))
}

/// The key of an encrypted PEM block.
#[cfg(feature = "pfx")]
fn decrypted(block: &str, passphrase: &SecretString) -> Result<KeyPair, CertificateError> {
    use pkcs8::pkcs5::Error as Pkcs5Error;
    use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};

    let unreadable = |_| CertificateError::Key("it is not PEM".into());
    let (_, document) = SecretDocument::from_pem(block).map_err(unreadable)?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .map_err(|_| CertificateError::Key("it is no encrypted PKCS#8 key".into()))?;
    let key = encrypted.decrypt(passphrase.expose()).map_err(|error| match error {
        pkcs8::Error::EncryptedPrivateKey(
            Pkcs5Error::NoPbes1CryptSupport
            | Pkcs5Error::UnsupportedAlgorithm { .. }
            | Pkcs5Error::AlgorithmParametersInvalid { .. },
        ) => CertificateError::Encryption(error.to_string()),
        // A wrong key can give a padding that looks right, and then no ASN.1.
        _ => CertificateError::WrongPassphrase,
    })?;
    KeyPair::from_pkcs8(key.as_bytes()).map_err(|rejected| CertificateError::Key(rejected.to_string()))
}

/// The certificates of a PEM text.
fn certificates_of(pem: &str) -> Result<Vec<Vec<u8>>, CertificateError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| CertificateError::Certificate("it is not PEM".into()))?;
    if certificates.is_empty() {
        return Err(CertificateError::Certificate("there is none in the PEM text".into()));
    }
    Ok(certificates)
}

/// Brings the key's own certificate to the front: files hold them in either order.
fn own_first(key: &KeyPair, certificates: &mut [Vec<u8>]) -> Result<(), CertificateError> {
    let mut own = None;
    for (at, der) in certificates.iter().enumerate() {
        let (_, certificate) = x509_parser::parse_x509_certificate(der)
            .map_err(|_| CertificateError::Certificate("it is not an X.509 certificate".into()))?;
        if own.is_none()
            && certificate.public_key().subject_public_key.data.as_ref() == key.public_key().as_ref()
        {
            own = Some(at);
        }
    }
    match own {
        Some(at) => certificates[..=at].rotate_right(1),
        None if certificates.is_empty() => {}
        None => return Err(CertificateError::OtherKey),
    }
    Ok(())
}

/// The bytes of a thumbprint as people copy it: with colons, with spaces, with the invisible mark that the certificate
/// dialog of Windows puts before it.
fn sha1_of(thumbprint: &str) -> Result<[u8; 20], CertificateError> {
    let digits: Vec<char> =
        thumbprint.chars().filter(|c| !c.is_whitespace() && !matches!(c, ':' | '\u{200e}')).collect();
    let mut bytes = [0; 20];
    if digits.len() != 2 * bytes.len() {
        return Err(CertificateError::Thumbprint);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        for digit in pair {
            let value = digit.to_digit(16).and_then(|value| u8::try_from(value).ok());
            *byte = *byte << 4 | value.ok_or(CertificateError::Thumbprint)?;
        }
    }
    Ok(bytes)
}

/// PKCS#12.
#[cfg(feature = "pfx")]
mod pfx {
    use aws_lc_rs::rsa::KeyPair;
    use p12_keystore::{Pkcs12Archive, error::Error as PfxError};

    use super::CertificateError;
    use crate::SecretString;

    /// The one private key, and all certificates.
    pub(super) fn open(
        pfx: &[u8],
        passphrase: Option<&SecretString>,
    ) -> Result<(KeyPair, Vec<Vec<u8>>), CertificateError> {
        let words = passphrase.map_or("", SecretString::expose);
        let archive = Pkcs12Archive::from_pkcs12(pfx, words).map_err(|error| match error {
            PfxError::MacError(_) if passphrase.is_none() => CertificateError::NoPassphrase,
            PfxError::MacError(_) | PfxError::UnpadError => CertificateError::WrongPassphrase,
            error => CertificateError::Pfx(error.to_string()),
        })?;
        let [key] = &archive.keys[..] else {
            return Err(CertificateError::Pfx(format!("it holds {} private keys", archive.keys.len())));
        };
        let key = KeyPair::from_pkcs8(key.key.as_der())
            .map_err(|rejected| CertificateError::Key(rejected.to_string()))?;
        let certificates =
            archive.certs.iter().map(|certificate| certificate.cert.as_der().to_vec()).collect();
        Ok((key, certificates))
    }
}
