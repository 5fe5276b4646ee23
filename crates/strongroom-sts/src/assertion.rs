//! Client assertions (RFC 7523): is the JWT signed by a certificate of the client, and is it meant
//! for this endpoint, now. Takes every form in which a MSAL writes one: either base64 alphabet,
//! padded or not, times as numbers or texts, `x5c` as a list or a text.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use aws_lc_rs::signature::{
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, RsaParameters,
};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value};
use x509_parser::parse_x509_certificate;

use crate::error::{Refusal, excerpt};
use crate::provider::issuer;
use crate::time::{self, UnixSeconds};

/// A certificate that is registered for a client.
#[derive(Debug)]
pub(crate) struct RegisteredCertificate {
    sha1: Vec<u8>,
    sha256: Vec<u8>,
    /// `RSAPublicKey`, DER.
    public_key: Vec<u8>,
    not_before: UnixSeconds,
    not_after: UnixSeconds,
}

impl RegisteredCertificate {
    /// The first certificate of a PEM text.
    pub(crate) fn parse(pem: &str) -> Result<Self, &'static str> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| "no certificate in it")?;
        let (_, certificate) = parse_x509_certificate(&der).map_err(|_| "not an X.509 certificate")?;
        let public_key = certificate.public_key().subject_public_key.data.to_vec();
        if ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public_key).is_err() {
            return Err("its key is not an RSA key of 2048 bits or more");
        }
        Ok(Self {
            sha1: digest::digest(&SHA1_FOR_LEGACY_USE_ONLY, &der).as_ref().to_vec(),
            sha256: digest::digest(&SHA256, &der).as_ref().to_vec(),
            public_key,
            not_before: certificate.validity().not_before.timestamp(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// The SHA-1 thumbprint as Entra's portal shows it.
    pub(crate) fn thumbprint(&self) -> String {
        upper_hex(&self.sha1)
    }
}

/// Where the assertion arrived, and whose it has to be.
#[derive(Debug)]
pub(crate) struct Expected<'a> {
    pub(crate) client_id: &'a str,
    pub(crate) certificates: &'a [RegisteredCertificate],
    pub(crate) origin: &'a str,
    /// All that stands for the tenant in a URL.
    pub(crate) tenant_names: Vec<String>,
}

/// Checks an assertion of a client.
pub(crate) fn check(
    assertion: &str,
    expected: &Expected<'_>,
    seen: &SeenAssertions,
    now: UnixSeconds,
) -> Result<(), Refusal> {
    let jwt = Jwt::parse(assertion).ok_or_else(|| malformed("JWT token is invalid or malformed."))?;
    let algorithm: &'static RsaParameters = match jwt.header.get("alg").and_then(Value::as_str) {
        Some("RS256") => &RSA_PKCS1_2048_8192_SHA256,
        Some("PS256") => &RSA_PSS_2048_8192_SHA256,
        other => {
            return Err(Refusal::invalid_client(
                5_002_738,
                format!(
                    "Invalid JWT token. '{}' is not a supported signature algorithm. Supported signing algorithms are: 'RS256, PS256'.",
                    excerpt(other.unwrap_or_default())
                ),
            ));
        }
    };
    // RFC 7515 §4.1.11: what is named there must be understood, and no extension is.
    if jwt.header.contains_key("crit") {
        return Err(malformed("The 'crit' header of the JWT token names extensions that are not supported."));
    }
    check_names(&jwt, expected)?;
    let certificate = find_certificate(&jwt, expected.certificates)?;
    check_chain(&jwt, certificate)?;
    if certificate.not_before > now {
        return Err(bad_signature(certificate, "The key used is not valid yet."));
    }
    if certificate.not_after < now {
        return Err(bad_signature(certificate, "The key used is expired."));
    }
    let signed = ParsedPublicKey::new(algorithm, &certificate.public_key)
        .is_ok_and(|key| key.verify_sig(jwt.signed.as_bytes(), &jwt.signature).is_ok());
    if !signed {
        return Err(bad_signature(
            certificate,
            "The provided signature value did not match the expected signature value.",
        ));
    }
    check_audience(&jwt, expected)?;
    let end = check_times(&jwt, now)?;
    match jwt.text("jti") {
        Some(jti) if !seen.is_new_or_same(expected.client_id, jti, assertion, end, now) => {
            Err(malformed("The 'jti' of the JWT token was used in another token before."))
        }
        _ => Ok(()),
    }
}

/// The assertions that have been taken, by their `jti`. MSAL uses one for several requests, so the
/// same one may come again; another one with its `jti` may not.
#[derive(Debug, Default)]
pub(crate) struct SeenAssertions(Mutex<HashMap<(String, String), Seen>>);

#[derive(Debug)]
struct Seen {
    sha256: Vec<u8>,
    end: UnixSeconds,
}

impl SeenAssertions {
    fn is_new_or_same(
        &self,
        client_id: &str,
        jti: &str,
        assertion: &str,
        end: UnixSeconds,
        now: UnixSeconds,
    ) -> bool {
        let sha256 = digest::digest(&SHA256, assertion.as_bytes()).as_ref().to_vec();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, other| other.end.saturating_add(SKEW_S) >= now);
        let place = (client_id.to_ascii_lowercase(), jti.to_owned());
        let known = seen.entry(place).or_insert_with(|| Seen { sha256: sha256.clone(), end });
        known.sha256 == sha256
    }
}

/// A JWT, decoded and not believed.
struct Jwt<'a> {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// What the signature is over.
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let object = |part: &str| serde_json::from_slice(&decode(part)?).ok();
        Some(Self { header: object(header)?, claims: object(claims)?, signed, signature: decode(signature)? })
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    /// A time as a number, a number with a fraction, or a text of digits.
    fn seconds(&self, claim: &str) -> Option<UnixSeconds> {
        match self.claims.get(claim)? {
            Value::Number(number) => {
                number.as_i64().or_else(|| number.as_f64().map(|seconds| seconds as UnixSeconds))
            }
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }
}

fn check_names(jwt: &Jwt<'_>, expected: &Expected<'_>) -> Result<(), Refusal> {
    let is_client = |claim| jwt.text(claim).is_some_and(|id| id.eq_ignore_ascii_case(expected.client_id));
    if !is_client("iss") {
        let message = format!(
            "No matching federated identity record found for presented assertion issuer '{}'.",
            excerpt(jwt.text("iss").unwrap_or_default())
        );
        return Err(Refusal::invalid_client(700_211, message));
    }
    if !is_client("sub") {
        let message = "Client assertion application identifier doesn't match 'client_id' parameter.";
        return Err(Refusal::invalid_client(700_021, message));
    }
    Ok(())
}

fn find_certificate<'a>(
    jwt: &Jwt<'_>,
    registered: &'a [RegisteredCertificate],
) -> Result<&'a RegisteredCertificate, Refusal> {
    let thumbprint = |name: &str| jwt.header.get(name).and_then(Value::as_str).map(decode);
    let (given, found) = match (thumbprint("x5t#S256"), thumbprint("x5t")) {
        (Some(sha256), _) => {
            (sha256.clone(), registered.iter().find(|known| sha256.as_ref() == Some(&known.sha256)))
        }
        (None, Some(sha1)) => {
            (sha1.clone(), registered.iter().find(|known| sha1.as_ref() == Some(&known.sha1)))
        }
        (None, None) => {
            let message = "Invalid JWT token. No certificate SHA-1 thumbprint, certificate SHA-256 thumbprint, nor keyId are specified in token header.";
            return Err(Refusal::invalid_client(5_002_723, message));
        }
    };
    found.ok_or_else(|| {
        Refusal::invalid_client(
            700_027,
            format!(
                "The certificate with identifier used to sign the client assertion is not registered on application. [Reason - The key was not found., Thumbprint of key used by client: '{}']",
                upper_hex(&given.unwrap_or_default())
            ),
        )
    })
}

/// The first certificate that is sent along has to be the one that the thumbprint names.
fn check_chain(jwt: &Jwt<'_>, certificate: &RegisteredCertificate) -> Result<(), Refusal> {
    let first = match jwt.header.get("x5c") {
        None => return Ok(()),
        Some(Value::Array(chain)) => chain.first().and_then(Value::as_str),
        Some(leaf) => leaf.as_str(),
    };
    let der = first.and_then(|text| decode(&text.split_whitespace().collect::<String>()));
    if der.is_some_and(|der| digest::digest(&SHA256, &der).as_ref() == certificate.sha256) {
        return Ok(());
    }
    Err(bad_signature(certificate, "The certificate in the 'x5c' header is another one."))
}

fn check_audience(jwt: &Jwt<'_>, expected: &Expected<'_>) -> Result<(), Refusal> {
    let audience = jwt.text("aud").unwrap_or_default();
    let is_here = expected.tenant_names.iter().any(|tenant| {
        let base = format!("{}/{tenant}", expected.origin);
        audience == format!("{base}/oauth2/v2.0/token") || audience == issuer(expected.origin, tenant)
    });
    if is_here {
        return Ok(());
    }
    Err(Refusal::invalid_client(700_023, "Client assertion audience claim does not match Realm issuer."))
}

/// Checks when the assertion is valid, and says when it ends.
fn check_times(jwt: &Jwt<'_>, now: UnixSeconds) -> Result<UnixSeconds, Refusal> {
    let begin = jwt.seconds("nbf").or_else(|| jwt.seconds("iat"));
    let end = jwt.seconds("exp").ok_or_else(|| malformed("The JWT token has no 'exp'."))?;
    let has_begun = begin.is_none_or(|at| at <= now.saturating_add(SKEW_S));
    let lasts = end.saturating_add(SKEW_S) > now;
    if has_begun && lasts && end.saturating_sub(now) <= LONGEST_S {
        return Ok(end);
    }
    Err(Refusal::invalid_client(
        700_024,
        format!(
            "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry time of assertion {}.",
            time::entra_text(now),
            time::entra_text(begin.unwrap_or(now)),
            time::entra_text(end)
        ),
    ))
}

fn bad_signature(certificate: &RegisteredCertificate, reason: &str) -> Refusal {
    Refusal::invalid_client(
        700_027,
        format!(
            "Client assertion contains an invalid signature. [Reason - {reason}, Thumbprint of key used by client: '{}']",
            certificate.thumbprint()
        ),
    )
}

fn malformed(message: &str) -> Refusal {
    Refusal::bad_request("invalid_request", 50_027, message)
}

/// Base64 of either alphabet, padded or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['+', '/']) { &alphabet::STANDARD } else { &alphabet::URL_SAFE };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()
}

fn upper_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// How far the clocks of client and provider may differ.
const SKEW_S: i64 = 300;
/// No assertion may be valid for longer.
const LONGEST_S: i64 = 86_400;
