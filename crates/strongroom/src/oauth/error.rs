//! The identity provider's refusals: the fields of its error message, the class they fall into, and what its
//! users can do about the codes that they meet.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::credential::{Proof, without_token};
use crate::error::{Diagnose, ErrorKind};
use crate::schema::lenient;
use crate::{Error, SecretString};

/// An error answer of the identity provider (RFC 6749 §5.2, with the fields that Microsoft Entra ID adds).
///
/// Every text is the provider's own and is limited in length; none of them contains a secret that was sent, or a token
/// that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ServiceError {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The OAuth error code: `invalid_client`, `invalid_grant`, …
    pub error: String,
    /// The provider's explanation, usually beginning with an `AADSTS` code.
    pub error_description: Option<String>,
    /// The numbers of the `AADSTS` codes.
    pub error_codes: Vec<u64>,
    /// A finer reason, `consent_required` for example.
    pub suberror: Option<String>,
    /// A claims challenge (JSON text) to hand on to an interactive sign-in.
    pub claims: Option<String>,
    /// Identifies the request in the logs of both sides.
    pub correlation_id: Option<String>,
    /// The provider's time, as it writes it.
    pub timestamp: Option<String>,
    /// Identifies the answer in the provider's logs.
    pub trace_id: Option<String>,
    /// A page about the error.
    pub error_uri: Option<String>,
    /// How long the provider asks to be left alone, at most an hour.
    pub retry_after: Option<Duration>,
    /// The message, a JSON object, with fields that are not among the above, but no tokens and no credentials. `None`
    /// where the answer is none, or is too long to be kept. A refusal that is remembered has only the above in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Whether it was the authority's discovery document that was asked for, and not yet a token.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_discovery: bool,
}

/// What an error answer asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServiceErrorClass {
    /// A user must sign in again, with the `claims` if there are any.
    InteractionRequired,
    /// The request cannot succeed until the configuration of the application or of the tenant changes.
    ClientRefused,
    /// The provider is busy or failing: a later try may succeed.
    Transient,
}

impl ServiceError {
    /// How long a provider may ask to be left alone.
    pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);

    /// What the answer asks of the caller, decided by status, `error` and `suberror`; the codes may change.
    #[must_use]
    pub fn class(&self) -> ServiceErrorClass {
        if self.status == 429 || self.status >= 500 || self.error == "temporarily_unavailable" {
            return ServiceErrorClass::Transient;
        }
        let not_for_users =
            matches!(self.suberror.as_deref(), Some("client_mismatch" | "protection_policy_required"));
        match self.error.as_str() {
            "interaction_required" | "login_required" => ServiceErrorClass::InteractionRequired,
            "invalid_grant" if !not_for_users => ServiceErrorClass::InteractionRequired,
            _ => ServiceErrorClass::ClientRefused,
        }
    }

    /// Reads an error answer to a request that carried `sent`; what is not one becomes an error that
    /// says so.
    pub(crate) fn from_response(
        status: u16,
        body: &[u8],
        retry_after: Option<Duration>,
        sent: Option<&Proof>,
    ) -> Self {
        let retry_after = retry_after.map(|wait| wait.min(Self::LONGEST_RETRY_AFTER));
        let mut message = lenient::object::<Map<String, Value>>(body);
        let mut secrets = Secrets { sent, received: Vec::new() };
        if let Some(message) = &mut message {
            secrets.take_out_of(message);
        }
        let is_message = secrets.received.len() <= MOST_TOKENS;
        let message = message.filter(|_| is_message);
        // Redacted before it is cut, or the beginning of a secret could be what is left.
        let shown = |text: String| bounded(secrets.redact(printable(text)));
        let message = message.map(|mut message| {
            secrets.redact_members(&mut message);
            Value::Object(message).to_string()
        });
        let message = message.filter(|message| message.len() <= LONGEST_MESSAGE);
        match lenient::object::<Wire>(body).filter(|_| is_message) {
            Some(wire) if wire.error.as_deref().is_some_and(|error| !error.is_empty()) => Self {
                status,
                error: shown(wire.error.unwrap_or_default()),
                error_description: wire.error_description.map(shown),
                error_codes: wire.error_codes.into_iter().take(MOST_CODES).collect(),
                suberror: wire.suberror.map(shown),
                claims: wire.claims.map(shown),
                correlation_id: wire.correlation_id.map(shown),
                timestamp: wire.timestamp.map(shown),
                trace_id: wire.trace_id.map(shown),
                error_uri: wire.error_uri.map(shown),
                retry_after,
                body: message,
                in_discovery: false,
            },
            _ => Self {
                status,
                error: if status == 429 { "too_many_requests" } else { "http_error" }.into(),
                retry_after,
                body: message,
                ..Self::default()
            },
        }
    }

    /// As it may be written to a file: the message has the provider's fields that are known, each up to a length, and
    /// nothing else.
    pub(crate) fn to_record(&self, bounded: fn(&str) -> &str) -> Self {
        let text = |text: &Option<String>| text.as_deref().map(|text| bounded(text).to_owned());
        let message =
            self.body.as_deref().and_then(|body| lenient::object::<Map<String, Value>>(body.as_bytes()));
        let message = message.map(|mut message| {
            message.retain(|name, value| {
                match value {
                    Value::String(text) => text.truncate(bounded(text).len()),
                    Value::Array(codes) => {
                        codes.retain(Value::is_number);
                        codes.truncate(MOST_CODES);
                    }
                    Value::Number(_) => {}
                    Value::Object(_) | Value::Bool(_) | Value::Null => return false,
                }
                RECORDED.contains(&name.as_str())
            });
            Value::Object(message).to_string()
        });
        Self {
            error: bounded(&self.error).to_owned(),
            error_description: text(&self.error_description),
            suberror: text(&self.suberror),
            claims: text(&self.claims),
            body: message,
            ..self.clone()
        }
    }

    /// The same as the answer to a request for a discovery document.
    pub(crate) fn in_discovery(self) -> Self {
        Self { in_discovery: true, ..self }
    }

    fn code_remedy(&self) -> Option<&'static str> {
        let code = self.error_codes.first().copied().or_else(|| {
            let description = self.error_description.as_deref()?;
            let digits = description.strip_prefix("AADSTS")?;
            digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        })?;
        REMEDIES.iter().find(|(codes, _)| codes.contains(&code)).map(|(_, remedy)| *remedy)
    }
}

impl Error {
    /// The identity provider's answer, where it was the provider that refused or failed.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceError> {
        // A remembered refusal has it as its source.
        self.carried().or_else(|| StdError::source(self)?.downcast_ref())
    }
}

impl std::fmt::Display for ServiceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the identity provider answered HTTP {} with {}", self.status, self.error)?;
        if let Some(suberror) = &self.suberror {
            write!(f, " ({suberror})")?;
        }
        if let Some(description) = &self.error_description {
            write!(f, ": {description}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServiceError {}

impl Diagnose for ServiceError {
    fn kind(&self) -> ErrorKind {
        if self.status >= 500 { ErrorKind::Network } else { ErrorKind::IdentityProvider }
    }

    fn code(&self) -> &str {
        &self.error
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        if let Some(wait) = self.retry_after {
            return Some(format!("try again in {} seconds", wait.as_secs()).into());
        }
        self.code_remedy().map(Cow::Borrowed).or(match self.class() {
            ServiceErrorClass::Transient => {
                Some("the identity provider is busy or failing; try again later".into())
            }
            ServiceErrorClass::InteractionRequired => {
                Some("a user has to sign in again; hand the claims on, if there are any".into())
            }
            ServiceErrorClass::ClientRefused if self.error == "http_error" => Some(
                "the answer is not an identity provider's: check the authority, and proxies on the way"
                    .into(),
            ),
            ServiceErrorClass::ClientRefused => None,
        })
    }

    fn is_retryable(&self) -> bool {
        self.class() == ServiceErrorClass::Transient
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Control characters of a hostile provider have no business on a terminal.
fn printable(mut text: String) -> String {
    if text.chars().any(|c| c.is_control() && c != '\n') {
        text.retain(|c| !c.is_control() || c == '\n');
    }
    text
}

/// What of a message is written to a file.
const RECORDED: [&str; 9] = [
    "error",
    "error_codes",
    "error_description",
    "suberror",
    "claims",
    "correlation_id",
    "trace_id",
    "timestamp",
    "error_uri",
];

/// A longer message is not kept as a whole.
const LONGEST_MESSAGE: usize = 16 * 1024;

/// What no error may show.
struct Secrets<'a> {
    sent: Option<&'a Proof>,
    /// The tokens of an answer that is an error message all the same.
    received: Vec<SecretString>,
}

impl Secrets<'_> {
    /// Takes the tokens out of a message, wherever they stand in it.
    fn take_out_of(&mut self, message: &mut Map<String, Value>) {
        message.retain(|name, value| {
            if holds_token(name) {
                self.keep(std::mem::take(value));
                return false;
            }
            self.take_out_of_value(value);
            true
        });
    }

    fn take_out_of_value(&mut self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.take_out_of_value(item)),
            Value::Object(members) => self.take_out_of(members),
            _ => {}
        }
    }

    fn keep(&mut self, value: Value) {
        match value {
            Value::String(text) => self.received.push(text.into()),
            Value::Array(items) => items.into_iter().for_each(|item| self.keep(item)),
            Value::Object(members) => members.into_iter().for_each(|(_, member)| self.keep(member)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn redact(&self, mut text: String) -> String {
        if let Some(proof) = self.sent {
            text = proof.redact(text);
        }
        self.received.iter().fold(text, |text, token| without_token(text, token.expose()))
    }

    /// Redacts every text of a message.
    fn redact_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.redact(std::mem::take(text)),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact_value(item)),
            Value::Object(members) => self.redact_members(members),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Redacts every text of a message, names of members included.
    fn redact_members(&self, members: &mut Map<String, Value>) {
        for (name, mut value) in std::mem::take(members) {
            self.redact_value(&mut value);
            members.insert(self.redact(name), value);
        }
    }
}

/// Whether a field of this name holds what is as good as a token, or says whose it is.
fn holds_token(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.ends_with("token")
        || matches!(
            &*name,
            "client_secret" | "client_assertion" | "assertion" | "client_info" | "device_code"
        )
}

/// More codes than that are not a provider's.
const MOST_CODES: usize = 16;
/// An answer with more tokens than that is no error message.
const MOST_TOKENS: usize = 16;

/// Longer texts are cut: an error is printed and logged.
fn bounded(mut text: String) -> String {
    const LONGEST: usize = 4096;
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default, deserialize_with = "lenient::text")]
    error: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    error_description: Option<String>,
    #[serde(default, deserialize_with = "lenient::numbers")]
    error_codes: Vec<u64>,
    #[serde(default, deserialize_with = "lenient::text")]
    suberror: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    claims: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    correlation_id: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    timestamp: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    trace_id: Option<String>,
    #[serde(default, deserialize_with = "lenient::text")]
    error_uri: Option<String>,
}

/// What to do about the `AADSTS` codes that users meet.
const REMEDIES: &[(&[u64], &str)] = &[
    (
        &[700_016, 700_011],
        "the application is not in this tenant: check the client id, the tenant and the cloud",
    ),
    (&[7_000_112, 70_001], "the application is disabled: ask an administrator to enable it"),
    (
        &[7_000_215],
        "wrong client secret: use the secret's value, not its id, and check which application it belongs to",
    ),
    (&[7_000_218], "no client credential was sent: configure a client secret, certificate or assertion"),
    (&[7_000_222], "the client secret has expired: create a new one, or use a certificate"),
    (
        &[700_027, 50_012, 700_030],
        "the certificate is not registered for the application, or the signature is wrong: compare its thumbprint; try only the leaf in x5c",
    ),
    (
        &[700_024],
        "the client assertion is outside its time range: check this machine's clock, and read the assertion file again",
    ),
    (
        &[70_021, 700_211, 700_212, 700_213],
        "no federated credential of the application has this issuer, subject and audience",
    ),
    (
        &[90_002, 900_023, 50_059, 90_019],
        "the tenant is unknown, malformed or missing: check the authority; an application's own token needs a tenant id or a verified domain",
    ),
    (
        &[50_194, 9_001_023, 90_038],
        "the authority does not fit the application: use the tenant's own authority, in the right cloud",
    ),
    (&[50_011], "the redirect URI is not registered for the application"),
    (
        &[70_011, 28_002, 700_022, 1_002_012],
        "bad scope: an application's own token takes exactly one resource, as RESOURCE/.default",
    ),
    (
        &[500_011, 650_057, 50_001],
        "the resource is not in the tenant, or not among the application's permissions: check the scope",
    ),
    (
        &[65_001, 65_004, 90_094],
        "consent is missing: an administrator has to grant the application's permissions",
    ),
    (
        &[50_076, 50_079, 50_072, 50_074, 50_078, 50_158],
        "multi-factor authentication is needed: sign in interactively with the claims",
    ),
    (
        &[53_000, 53_001, 53_002, 53_003, 53_004, 530_032, 50_005, 50_097],
        "a conditional access policy blocks this sign-in: ask an administrator",
    ),
    (&[50_173, 50_133, 50_132, 50_089], "the session was revoked or the password changed: sign in again"),
    (&[70_008, 700_082, 70_043, 70_000], "the refresh token or code has expired: sign in again"),
    (
        &[54_005, 501_481],
        "the authorization code was redeemed before, or the PKCE verifier is wrong: start the sign-in again",
    ),
    (
        &[500_133, 50_013, 240_002, 7_000_114],
        "the user assertion is expired or invalid, or the application may not act on behalf of users: pass the access token that this API received",
    ),
    (&[50_058], "there is no session to sign in with silently: sign in interactively"),
    (&[50_196], "the same request was sent too often: cache the tokens, and wait at least 60 seconds"),
    (&[50_034, 50_020, 90_072], "the user is not in this tenant: check the tenant, or invite the user"),
    (
        &[90_055, 90_033, 90_006, 50_033, 90_024],
        "the tenant is throttled or the service is busy: try again later",
    ),
    (&[100_007], "there is no regional endpoint for this application: do not set a region"),
    (&[50_049], "the authority's host is unknown to the cloud: check it, or trust it with known_authorities"),
];
