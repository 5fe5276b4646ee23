//! How an application proves who it is.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::assertion::{
    self, AssertionContext, AssertionProvider, CertificateProvider, KeySource, RequestKey, SignedAssertions,
};
use super::certificate::{CertificateError, ClientCertificate};
use super::request::Form;
use crate::error::{Diagnose, ErrorKind};
use crate::time::{Deadline, UnixSeconds};
use crate::{Error, SecretString};

/// What an application authenticates with.
///
/// Cheap to clone. Whether it can be used is told by
/// [`ConfidentialClientApplicationBuilder::build`](crate::ConfidentialClientApplicationBuilder::build).
#[derive(Clone)]
pub struct ClientCredential(Given);

/// As the application gave it.
#[derive(Clone)]
enum Given {
    Secret(SecretString),
    Certificate(ClientCertificate),
    CertificateProvider(Arc<CertificateProvider>),
    Assertion(SecretString),
    Provider(Arc<AssertionProvider>),
}

impl ClientCredential {
    /// A client secret: its value, not its id. Sent in the body of the request (RFC 6749 §2.3.1).
    pub fn from_secret(secret: impl Into<SecretString>) -> Self {
        Self(Given::Secret(secret.into()))
    }

    /// A private key whose certificate is registered for the application. It signs an assertion for the provider's
    /// token endpoint (RFC 7523 §2.2); the key itself is never sent.
    #[must_use]
    pub fn from_certificate(certificate: ClientCertificate) -> Self {
        Self(Given::Certificate(certificate))
    }

    /// As [`from_certificate`](Self::from_certificate), from a function: for keys that are replaced while the program
    /// runs, and for programs that seldom need theirs, because the token is in the cache.
    ///
    /// It is called once for each token request and never for a token from the cache. It may read files, and should not
    /// wait for a network: it runs where the request was polled. Its error is the request's, and is not remembered.
    pub fn from_certificate_provider(
        provider: impl Fn() -> Result<ClientCertificate, Error> + Send + Sync + 'static,
    ) -> Self {
        Self(Given::CertificateProvider(Arc::new(provider)))
    }

    /// A client assertion that somebody else has signed: a JWT. Sent as it is, also when it has expired; where it has
    /// to be renewed, use [`from_assertion_provider`](Self::from_assertion_provider).
    pub fn from_assertion(assertion: impl Into<SecretString>) -> Self {
        Self(Given::Assertion(assertion.into()))
    }

    /// Client assertions from a function: one that reads the file of a workload identity, or asks a key vault to sign.
    ///
    /// It is called once for each token request and never for a token from the cache. It runs on a thread of its own,
    /// so it may block; the time that it takes counts as the request's
    /// ([`timeout`](crate::ConfidentialClientApplicationBuilder::timeout)). Its error is the request's, and is not
    /// remembered: the next request calls it again. Neither is it remembered that the identity provider refused the
    /// assertion, for the next one may be another; it only defers the renewal of a token that is still good.
    ///
    /// ```no_run
    /// use strongroom::{ClientCredential, Error, ErrorKind};
    ///
    /// let credential = ClientCredential::from_assertion_provider(|_| {
    ///     let token = std::fs::read_to_string("/var/run/secrets/azure/tokens/azure-identity-token");
    ///     let token = token.map_err(|error| Error::new(ErrorKind::Configuration, "no_token_file", error.to_string()))?;
    ///     Ok(token.trim().into())
    /// });
    /// ```
    pub fn from_assertion_provider(
        provider: impl Fn(&AssertionContext) -> Result<SecretString, Error> + Send + Sync + 'static,
    ) -> Self {
        Self(Given::Provider(Arc::new(AssertionProvider::new(provider))))
    }
}

/// Shows which form the credential has, and nothing of it.
impl fmt::Debug for ClientCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_tuple("ClientCredential");
        match &self.0 {
            Given::Secret(secret) => shown.field(&"secret").field(secret),
            Given::Certificate(certificate) => shown.field(certificate),
            Given::CertificateProvider(_) => shown.field(&"certificate provider"),
            Given::Assertion(assertion) => shown.field(&"assertion").field(assertion),
            Given::Provider(_) => shown.field(&"assertion provider"),
        };
        shown.finish()
    }
}

/// A credential that has been checked, of one application.
pub(crate) struct Authentication {
    client_id: String,
    method: Method,
}

enum Method {
    Secret(SecretString),
    Certificate(Box<SignedAssertions>),
    Assertion(SecretString),
    Provider(Arc<AssertionProvider>),
}

/// What one request is authenticated with.
#[derive(Debug)]
pub(crate) enum Proof {
    Secret(SecretString),
    Assertion(SecretString),
}

/// The credential cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    #[error("the client credential is empty")]
    Empty,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl Authentication {
    /// Checks what was given. `client_claims` are signed into the assertions of a certificate.
    pub(crate) fn new(
        credential: ClientCredential,
        client_id: &str,
        client_claims: Map<String, Value>,
    ) -> Result<Self, CredentialError> {
        let given = |text: SecretString| match text.expose().trim().is_empty() {
            true => Err(CredentialError::Empty),
            false => Ok(text),
        };
        let method = match credential.0 {
            Given::Secret(secret) => Method::Secret(given(secret)?),
            Given::Certificate(certificate) => {
                let key = KeySource::Fixed(Arc::new(certificate.signing_key()?));
                Method::Certificate(Box::new(SignedAssertions::new(key, client_claims)))
            }
            Given::CertificateProvider(provider) => {
                let key = KeySource::Provided(provider);
                Method::Certificate(Box::new(SignedAssertions::new(key, client_claims)))
            }
            Given::Assertion(assertion) => Method::Assertion(given(assertion)?),
            Given::Provider(provider) => Method::Provider(provider),
        };
        Ok(Self { client_id: client_id.to_owned(), method })
    }

    /// What a request to this endpoint is to be authenticated with.
    pub(crate) async fn prove(
        &self,
        token_endpoint: &str,
        fmi_path: Option<&str>,
        key: &RequestKey,
        now: UnixSeconds,
        deadline: Deadline,
    ) -> Result<Proof, Error> {
        Ok(match &self.method {
            Method::Secret(secret) => Proof::Secret(secret.clone()),
            Method::Certificate(signed) => {
                Proof::Assertion(signed.assertion(&self.client_id, token_endpoint, key, now)?)
            }
            Method::Assertion(assertion) => Proof::Assertion(assertion.clone()),
            Method::Provider(provider) => {
                let context = AssertionContext::new(&self.client_id, token_endpoint, fmi_path);
                Proof::Assertion(assertion::provided(Arc::clone(provider), context, deadline).await?)
            }
        })
    }

    /// Whether [`identity`](Self::identity) tells a corrected credential from this one. Of an assertion that is still to
    /// be provided it cannot.
    pub(crate) fn has_identity(&self) -> bool {
        !matches!(self.method, Method::Provider(_))
    }

    /// What tells this credential from the application's next one, if it is corrected.
    pub(crate) fn identity(&self, key: &RequestKey) -> Cow<'_, str> {
        match &self.method {
            Method::Secret(secret) | Method::Assertion(secret) => secret.expose().into(),
            Method::Certificate(signed) => signed.identity(key).into(),
            // What it will give is not known.
            Method::Provider(_) => "assertion provider".into(),
        }
    }

    /// Tells one credential from another within this process, and nothing else about it.
    pub(crate) fn fingerprint(&self) -> u64 {
        // Not from the cryptographic provider: starting its generator takes longer than all the rest of a hit.
        static SEED: OnceLock<RandomState> = OnceLock::new();
        let seed = SEED.get_or_init(RandomState::new);
        match &self.method {
            Method::Secret(secret) => seed.hash_one((0, secret.expose())),
            Method::Assertion(assertion) => seed.hash_one((1, assertion.expose())),
            Method::Certificate(signed) => seed.hash_one((2, signed.fingerprint())),
            // As long as a request is under way its provider is there, and no other one has its address.
            Method::Provider(provider) => seed.hash_one((3, Arc::as_ptr(provider))),
        }
    }
}

impl Proof {
    pub(super) fn fill(&self, form: &mut Form) {
        match self {
            Self::Secret(secret) => form.add("client_secret", secret.expose()),
            Self::Assertion(assertion) => {
                form.add("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
                form.add("client_assertion", assertion.expose());
            }
        }
    }

    /// `text`, as an error is to show it: a provider, or a gateway before it, may have echoed what was sent.
    pub(super) fn redact(&self, text: String) -> String {
        match self {
            Self::Secret(secret) => redacted(text, secret.expose()),
            Self::Assertion(assertion) => without_token(text, assertion.expose()),
        }
    }
}

/// `text` without a token, part by part as well: the signature alone makes a token of the rest, which can be guessed.
pub(super) fn without_token(mut text: String, token: &str) -> String {
    text = redacted(text, token);
    for part in token.split('.').filter(|part| part.len() > SHORTEST_PART).take(MOST_PARTS) {
        text = redacted(text, part);
    }
    text
}

/// A part of a token that is shorter says nothing.
const SHORTEST_PART: usize = 12;
/// An encrypted token has so many (RFC 7516 §7.1).
const MOST_PARTS: usize = 5;

/// `text` without `secret`, however each of its characters is written there: as it is, as an escape of a form or a URL
/// (which characters need one differs by language), as one of JSON.
fn redacted(text: String, secret: &str) -> String {
    // Shorter ones would only make holes into every message.
    if secret.len() < 4 {
        return text;
    }
    let mut clean = String::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(c) = text[at..].chars().next() {
        match end_of(secret, &text, at) {
            Some(end) => {
                clean.push_str(&text[kept..at]);
                clean.push_str("[redacted]");
                (kept, at) = (end, end);
            }
            None => at += c.len_utf8(),
        }
    }
    if kept == 0 {
        return text;
    }
    clean.push_str(&text[kept..]);
    clean
}

/// Where `secret` ends if it is what `text` has at `start`.
fn end_of(secret: &str, text: &str, start: usize) -> Option<usize> {
    let mut ends = vec![start];
    let mut next = Vec::new();
    for c in secret.chars() {
        for end in ends.drain(..) {
            for length in spellings(c, &text[end..]).into_iter().flatten() {
                // Two spellings seldom fit at once: `%` alone and `%25`.
                if !next.contains(&(end + length)) {
                    next.push(end + length);
                }
            }
        }
        if next.is_empty() {
            return None;
        }
        std::mem::swap(&mut ends, &mut next);
    }
    ends.into_iter().max()
}

/// How long the spellings of `c` are that `text` begins with.
fn spellings(c: char, text: &str) -> [Option<usize>; 4] {
    let itself = text.starts_with(c).then_some(c.len_utf8());
    let escape = match text.as_bytes().first() {
        Some(b'%') => percent_escaped(c, text).map(|length| [Some(length), None]),
        Some(b'\\') => Some([
            unicode_escaped(c, text),
            text[1..].chars().next().filter(|escaped| unescaped(*escaped) == Some(c)).map(|_| 2),
        ]),
        _ => None,
    };
    let [escaped, short] = escape.unwrap_or_default();
    [itself, (c == ' ' && text.starts_with('+')).then_some(1), escaped, short]
}

/// `%2B` or, as .NET writes it, `%2b`; one for each byte.
fn percent_escaped(c: char, text: &str) -> Option<usize> {
    let mut bytes = [0; 4];
    let bytes = c.encode_utf8(&mut bytes).as_bytes();
    let escapes = text.as_bytes().chunks(3).take(bytes.len());
    let is_it = escapes.clone().zip(bytes).all(|(escape, byte)| hex(escape, b"%") == Some((*byte).into()));
    (is_it && escapes.len() == bytes.len()).then_some(3 * bytes.len())
}

/// `\u002B`; two of them beyond 16 bits.
fn unicode_escaped(c: char, text: &str) -> Option<usize> {
    let mut units = [0; 2];
    let units = c.encode_utf16(&mut units);
    let escapes = text.as_bytes().chunks(6).take(units.len());
    let is_it =
        escapes.clone().zip(&*units).all(|(escape, unit)| hex(escape, b"\\u") == Some((*unit).into()));
    (is_it && escapes.len() == units.len()).then_some(6 * units.len())
}

/// What stands behind a backslash in JSON.
fn unescaped(escape: char) -> Option<char> {
    Some(match escape {
        '"' | '\\' | '/' => escape,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        _ => return None,
    })
}

/// The number in hexadecimal behind `prefix`, in an escape of a byte or of two.
fn hex(escape: &[u8], prefix: &[u8]) -> Option<u32> {
    let digits = escape.strip_prefix(prefix)?;
    if digits.len() != 2 * prefix.len() {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| Some(number * 16 + char::from(*digit).to_digit(16)?))
}

impl Diagnose for CredentialError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Configuration
    }

    fn code(&self) -> &str {
        match self {
            Self::Empty => "no_client_credential",
            Self::Certificate(error) => error.code(),
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Empty => {
                Some("set the client secret (its value, not its id), or the client assertion".into())
            }
            Self::Certificate(error) => error.remedy(),
        }
    }
}
