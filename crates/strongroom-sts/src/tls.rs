//! The provider's TLS: a CA of its own that can vouch for loopback names only, and the server's
//! certificate. Both live in the state folder; the certificate is renewed when it is near its end.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{RootCertStore, ServerConfig};

use crate::error::StsError;
use crate::files::StateFolder;
use crate::time::UnixSeconds;

/// What the server needs to speak TLS, and its clients to believe it.
#[derive(Debug)]
pub(crate) struct TlsIdentity {
    /// The CA's certificate, PEM.
    pub(crate) ca_file: PathBuf,
    pub(crate) server_config: Arc<ServerConfig>,
}

impl TlsIdentity {
    /// Takes CA and certificate from the folder; makes what is missing.
    pub(crate) fn load_or_create(folder: &StateFolder, now: UnixSeconds) -> Result<Self, StsError> {
        let authority = Authority::load_or_create(folder, now)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let stored = folder.read(LEAF)?.and_then(|pem| Leaf::parse(&pem));
        let leaf = match stored.filter(|leaf| leaf.is_good(&authority.certificate, &provider, now)) {
            Some(leaf) => leaf,
            None => {
                tracing::debug!("issuing a server certificate");
                let pem = authority.issue_leaf(now)?;
                folder.write(LEAF, &pem)?;
                Leaf::parse(&pem).ok_or_else(|| StsError::Crypto {
                    what: "the server's certificate",
                    problem: "what was made cannot be read".to_owned(),
                })?
            }
        };
        let made = |e: rustls::Error| StsError::Crypto { what: "the TLS set-up", problem: e.to_string() };
        let mut server_config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(made)?
            .with_no_client_auth()
            .with_single_cert(vec![leaf.certificate], leaf.key)
            .map_err(made)?;
        server_config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { ca_file: folder.file(CA_CERTIFICATE), server_config: Arc::new(server_config) })
    }
}

/// The CA.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    /// The key is written before the certificate: a start that dies between the two leaves a key
    /// from which the next one makes the same CA.
    fn load_or_create(folder: &StateFolder, now: UnixSeconds) -> Result<Self, StsError> {
        let key = match folder.read(CA_KEY)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|e| StsError::KeyFile {
                path: folder.file(CA_KEY),
                problem: format!("not a private key in PEM ({e})"),
            })?,
            None => {
                let key = KeyPair::generate().map_err(failed("the CA's key"))?;
                folder.write(CA_KEY, &key.serialize_pem())?;
                // A certificate of another key would not verify anything.
                Self::write_certificate(folder, &key, now)?;
                key
            }
        };
        let pem = match folder.read(CA_CERTIFICATE)? {
            Some(pem) => pem,
            None => Self::write_certificate(folder, &key, now)?,
        };
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| StsError::KeyFile {
            path: folder.file(CA_CERTIFICATE),
            problem: format!("not a certificate in PEM ({e})"),
        })?;
        Ok(Self { issuer: Issuer::new(Self::params(&key, now), key), certificate })
    }

    fn write_certificate(folder: &StateFolder, key: &KeyPair, now: UnixSeconds) -> Result<String, StsError> {
        let certificate = Self::params(key, now).self_signed(key).map_err(failed("the CA's certificate"))?;
        let pem = certificate.pem();
        folder.write(CA_CERTIFICATE, &pem)?;
        Ok(pem)
    }

    /// All but the dates follow from the key, so the issuer of a certificate can be had without
    /// reading the CA's own. The name differs from key to key: two CAs of one name in one trust
    /// store would be mistaken for each other.
    fn params(key: &KeyPair, now: UnixSeconds) -> CertificateParams {
        let mut params = CertificateParams::default();
        let id = hex(&params.key_identifier(&key)[..4]);
        params.distinguished_name.push(DnType::CommonName, format!("Strongroom development CA {id}"));
        set_validity(&mut params, now - DAY, 3650);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![
                GeneralSubtree::DnsName("localhost".to_owned()),
                GeneralSubtree::IpAddress(CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0])),
                GeneralSubtree::IpAddress(CidrSubnet::V6(Ipv6Addr::LOCALHOST.octets(), [0xff; 16])),
            ],
            excluded_subtrees: Vec::new(),
        });
        params
    }

    /// A certificate for the loopback names with its key before it, PEM.
    fn issue_leaf(&self, now: UnixSeconds) -> Result<String, StsError> {
        let key = KeyPair::generate().map_err(failed("the server's key"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.subject_alt_names = vec![
            SanType::DnsName("localhost".try_into().map_err(failed("the server's name"))?),
            SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            SanType::IpAddress(Ipv6Addr::LOCALHOST.into()),
        ];
        // Clients whose clock is a little behind must not stumble over a first start.
        set_validity(&mut params, now - DAY, 365);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer).map_err(failed("the server's certificate"))?;
        Ok(key.serialize_pem() + &leaf.pem())
    }
}

/// The server's certificate and key.
struct Leaf {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Leaf {
    fn parse(pem: &str) -> Option<Self> {
        Some(Self {
            certificate: CertificateDer::from_pem_slice(pem.as_bytes()).ok()?,
            key: PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?,
        })
    }

    /// True if a client that trusts this CA will accept it for a good while. Asking a client's own
    /// verifier covers all that can be wrong: another CA, the dates, the names.
    fn is_good(&self, ca: &CertificateDer<'_>, provider: &Arc<CryptoProvider>, now: UnixSeconds) -> bool {
        let mut roots = RootCertStore::empty();
        if roots.add(ca.clone().into_owned()).is_err() {
            return false;
        }
        let Ok(verifier) =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()
        else {
            return false;
        };
        let at = |s: UnixSeconds| UnixTime::since_unix_epoch(Duration::from_secs(s.max(0).unsigned_abs()));
        let name = ServerName::try_from("localhost").expect("a DNS name");
        [now, now + RENEW_BEFORE]
            .into_iter()
            .all(|s| verifier.verify_server_cert(&self.certificate, &[], &name, &[], at(s)).is_ok())
    }
}

/// Maps a certificate library's error.
pub(crate) fn failed(what: &'static str) -> impl FnOnce(rcgen::Error) -> StsError {
    move |e| StsError::Crypto { what, problem: e.to_string() }
}

/// Fills in a certificate's dates.
pub(crate) fn set_validity(params: &mut CertificateParams, from: UnixSeconds, days: i64) {
    let after_epoch = |s: UnixSeconds| Duration::from_secs(s.max(0).unsigned_abs());
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + after_epoch(from);
    params.not_after = params.not_before + after_epoch(days * DAY);
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const DAY: i64 = 86_400;
const RENEW_BEFORE: i64 = 30 * DAY;
const CA_KEY: &str = "ca.key";
const CA_CERTIFICATE: &str = "ca.pem";
const LEAF: &str = "tls.pem";
