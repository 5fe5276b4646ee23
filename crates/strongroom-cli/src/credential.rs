//! The application's credential, as a configuration or the environment names it.
//!
//! Files of keys and tokens are read when a token must be requested: a token from the cache needs none.

use std::path::{Path, PathBuf};

use strongroom::{ClientCertificate, ClientCredential, Error, ErrorKind, SecretBytes, SecretString};

use crate::config::warn_if_others_can_read;
use crate::env_vars;

/// What the application authenticates with.
#[derive(Debug)]
pub(crate) enum Credential {
    Secret(SecretString),
    Certificate(CertificateFiles),
    /// A file with a JWT that something else keeps up to date.
    FederatedToken(PathBuf),
}

/// Where key and certificate are.
#[derive(Debug, Clone)]
pub(crate) struct CertificateFiles {
    pub(crate) key: KeyFile,
    pub(crate) passphrase: Option<SecretString>,
    pub(crate) thumbprint: Option<String>,
    pub(crate) public_certificate: Option<PublicCertificate>,
    pub(crate) send_chain: Option<bool>,
}

/// A private key, perhaps with its certificate.
#[derive(Debug, Clone)]
pub(crate) enum KeyFile {
    Pem(PathBuf),
    Pfx(PathBuf),
    /// Told by what is in it.
    Either(PathBuf),
}

/// A certificate in PEM.
#[derive(Debug, Clone)]
pub(crate) enum PublicCertificate {
    Pem(String),
    File(PathBuf),
}

impl Credential {
    /// What the variables of the Azure SDKs name, in their order.
    pub(crate) fn of_environment() -> Option<Self> {
        if let Some(secret) = env_vars::read(env_vars::AZURE_CLIENT_SECRET) {
            return Some(Self::Secret(secret.into()));
        }
        if let Some(file) = env_vars::read_os(env_vars::AZURE_CLIENT_CERTIFICATE_PATH) {
            let chain = env_vars::read(env_vars::AZURE_CLIENT_SEND_CERTIFICATE_CHAIN).unwrap_or_default();
            return Some(Self::Certificate(CertificateFiles {
                key: KeyFile::Either(file.into()),
                passphrase: env_vars::read(env_vars::AZURE_CLIENT_CERTIFICATE_PASSWORD).map(Into::into),
                thumbprint: None,
                public_certificate: None,
                send_chain: Some(chain == "1" || chain.eq_ignore_ascii_case("true")),
            }));
        }
        env_vars::read_os(env_vars::AZURE_FEDERATED_TOKEN_FILE).map(|file| Self::FederatedToken(file.into()))
    }

    pub(crate) fn to_client_credential(&self) -> ClientCredential {
        match self {
            Self::Secret(secret) => ClientCredential::from_secret(secret.clone()),
            Self::Certificate(files) => {
                let files = files.clone();
                ClientCredential::from_certificate_provider(move || files.read())
            }
            Self::FederatedToken(file) => {
                let file = file.clone();
                ClientCredential::from_assertion_provider(move |_| {
                    Ok(text(&file, "the federated token")?.expose().trim().into())
                })
            }
        }
    }
}

impl CertificateFiles {
    fn read(&self) -> Result<ClientCertificate, Error> {
        let mut certificate = match &self.key {
            KeyFile::Pem(file) => self.of_pem(as_text(&read_key(file)?, file, KEY)?)?,
            KeyFile::Pfx(file) => self.of_pfx(read_key(file)?),
            KeyFile::Either(file) => {
                let bytes = read_key(file)?;
                match as_text(&bytes, file, KEY) {
                    Ok(pem) if pem.expose().contains("-----BEGIN") => self.of_pem(pem)?,
                    _ => self.of_pfx(bytes),
                }
            }
        };
        if let Some(thumbprint) = &self.thumbprint {
            certificate = certificate.thumbprint(thumbprint);
        }
        if let Some(send) = self.send_chain {
            certificate = certificate.send_chain(send);
        }
        Ok(certificate)
    }

    fn of_pem(&self, pem: SecretString) -> Result<ClientCertificate, Error> {
        let certificates = match &self.public_certificate {
            Some(PublicCertificate::Pem(pem)) => Some(pem.clone()),
            Some(PublicCertificate::File(file)) => Some(text(file, "the certificate")?.expose().to_owned()),
            // Key and certificate are often in one file.
            None if self.thumbprint.is_none() => certificates_in(pem.expose()),
            None => None,
        };
        let mut certificate = ClientCertificate::from_pem(pem);
        if let Some(passphrase) = &self.passphrase {
            certificate = certificate.passphrase(passphrase.clone());
        }
        Ok(match certificates {
            Some(certificates) => certificate.public_certificate(certificates),
            None => certificate,
        })
    }

    fn of_pfx(&self, pfx: SecretBytes) -> ClientCertificate {
        ClientCertificate::from_pfx(pfx, self.passphrase.clone())
    }
}

/// The certificates of a PEM text, without the key beside them.
fn certificates_in(pem: &str) -> Option<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";

    let mut certificates = String::new();
    for block in pem.split(BEGIN).skip(1) {
        let body = block.split(END).next().unwrap_or_default();
        certificates += &format!("{BEGIN}{body}{END}\n");
    }
    (!certificates.is_empty()).then_some(certificates)
}

fn read_key(file: &Path) -> Result<SecretBytes, Error> {
    let (bytes, found) =
        SecretBytes::read_file(file, LARGEST).map_err(|error| unreadable(file, KEY, &error.to_string()))?;
    warn_if_others_can_read(file, &found);
    Ok(bytes)
}

fn text(file: &Path, what: &str) -> Result<SecretString, Error> {
    let (bytes, _) =
        SecretBytes::read_file(file, LARGEST).map_err(|error| unreadable(file, what, &error.to_string()))?;
    as_text(&bytes, file, what)
}

fn as_text(bytes: &SecretBytes, file: &Path, what: &str) -> Result<SecretString, Error> {
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| unreadable(file, what, "it is not text"))?;
    Ok(text.into())
}

fn unreadable(file: &Path, what: &str, problem: &str) -> Error {
    let message = format!("{what} {} cannot be read: {problem}", file.display());
    Error::new(ErrorKind::Configuration, "credential_unreadable", message)
        .with_remedy("check the path and its permissions")
}

const KEY: &str = "the private key";
/// The largest file of a key, a certificate or a token that is read, in bytes.
const LARGEST: u64 = 1 << 20;
