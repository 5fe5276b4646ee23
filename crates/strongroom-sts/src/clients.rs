//! `clients.json`: who is registered here. Tenants, clients with their secrets, certificates and roles, and the
//! resources for which tokens may be had. The README documents the format; a file that does not
//! follow it is refused and left as it is.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::assertion::RegisteredCertificate;
use crate::error::StsError;
use crate::files::StateFolder;
use crate::time::{self, UnixSeconds};
use crate::{keys, random, tls};

/// Everything in `clients.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Registrations {
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) clients: Vec<Client>,
    /// The first is the sample API.
    pub(crate) resources: Vec<Resource>,
    /// Tokens for resources that are not registered are issued too.
    #[serde(default)]
    pub(crate) any_resource: bool,
}

/// A directory.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tenant {
    pub(crate) id: Uuid,
    /// Names that stand for the id in a URL.
    #[serde(default)]
    pub(crate) domains: Vec<String>,
}

/// An application registered in a tenant.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Client {
    pub(crate) client_id: String,
    #[serde(default)]
    pub(crate) display_name: String,
    /// The tenant's id or one of its domains.
    pub(crate) tenant: String,
    #[serde(default = "enabled_by_default")]
    pub(crate) enabled: bool,
    #[serde(default, deserialize_with = "read_secrets")]
    pub(crate) secrets: Vec<ClientSecret>,
    /// Files in the state folder, each with the certificate of a key that signs its assertions, PEM.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) certificates: Vec<String>,
    /// What is in those files.
    #[serde(skip)]
    pub(crate) registered: Vec<RegisteredCertificate>,
    /// Application permissions, the `roles` of its tokens.
    #[serde(default)]
    pub(crate) roles: Vec<String>,
}

/// A client secret: an object with `value` and optionally `expires` (RFC 3339), or the bare text.
#[derive(Serialize)]
pub(crate) struct ClientSecret {
    pub(crate) value: String,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "write_expiry")]
    pub(crate) expires: Option<UnixSeconds>,
}

/// An API.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resource {
    /// Its client id, the audience of its tokens.
    pub(crate) id: String,
    /// Its app id URI, what clients ask for.
    pub(crate) uri: String,
    #[serde(default)]
    pub(crate) display_name: String,
}

impl Registrations {
    /// Reads the folder's file, or writes the first one, with a certificate for its client.
    pub(crate) fn load_or_create(
        folder: &StateFolder,
        tenant: Option<&str>,
        now: UnixSeconds,
    ) -> Result<Self, StsError> {
        let refused = |problem| StsError::ClientsFile { path: folder.file(FILE), problem };
        let mut registrations = match folder.read(FILE)? {
            Some(text) => {
                let read: Self = serde_json::from_str(&text).map_err(|e| refused(e.to_string()))?;
                read.validate().map_err(refused)?;
                read
            }
            None => {
                let first = Self::first(tenant)?;
                let (key, certificate) = keys::self_signed("Strongroom sample daemon (development)", now)
                    .map_err(tls::failed("the client's certificate"))?;
                folder.write(CLIENT_KEY, &key)?;
                folder.write(CLIENT_CERTIFICATE, &certificate)?;
                // Last: a folder without it is a new one.
                let mut text = serde_json::to_string_pretty(&first).expect("only texts and lists");
                text.push('\n');
                folder.write(FILE, &text)?;
                first
            }
        };
        for client in &mut registrations.clients {
            let read = client.certificates.iter().map(|name| read_certificate(folder, name));
            let registered: Result<_, String> = read.collect();
            client.registered =
                registered.map_err(|problem| refused(format!("client {:?}: {problem}", client.client_id)))?;
        }
        Ok(registrations)
    }

    /// The tenant that a GUID or a domain name stands for.
    pub(crate) fn tenant(&self, name: &str) -> Option<&Tenant> {
        self.tenants.iter().find(|t| t.is_called(name))
    }

    /// The client of this id in this tenant.
    pub(crate) fn client(&self, tenant: &Tenant, client_id: &str) -> Option<&Client> {
        self.clients_of(tenant).find(|c| c.client_id.eq_ignore_ascii_case(client_id))
    }

    /// The resource that a client means: by app id URI or by client id.
    pub(crate) fn resource(&self, name: &str) -> Option<&Resource> {
        self.resources.iter().find(|r| r.uri == name || r.id.eq_ignore_ascii_case(name))
    }

    /// The API that this provider serves itself.
    pub(crate) fn sample_api(&self) -> &Resource {
        self.resources.first().expect("validated: there is a resource")
    }

    /// The tenant and client that the provider introduces itself with: the tenant asked for or the
    /// first, and in it the first client that can get a token, else the first with a secret (so
    /// that a file in which all are disabled can still be tried out).
    pub(crate) fn introduction(
        &self,
        tenant: Option<&str>,
        now: UnixSeconds,
    ) -> Result<(&Tenant, &Client, &ClientSecret), StsError> {
        let tenant = match tenant {
            None => self.tenants.first().expect("validated: there is a tenant"),
            Some(name) => self.tenant(name).ok_or_else(|| StsError::Tenant {
                tenant: name.to_owned(),
                problem: "the state folder has other tenants; take one of them, another folder, or add it to clients.json".to_owned(),
            })?,
        };
        let secrets = || self.clients_of(tenant).flat_map(|c| c.secrets.iter().map(move |s| (c, s)));
        secrets()
            .find(|(client, secret)| client.enabled && !secret.is_expired(now))
            .or_else(|| secrets().next())
            .map(|(client, secret)| (tenant, client, secret))
            .ok_or_else(|| StsError::Tenant {
                tenant: tenant.id.to_string(),
                problem: "no client in it has a secret; add one to clients.json".to_owned(),
            })
    }

    fn clients_of(&self, tenant: &Tenant) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|c| tenant.is_called(&c.tenant))
    }

    fn first(tenant: Option<&str>) -> Result<Self, StsError> {
        let given_id = tenant.and_then(|t| Uuid::parse_str(t).ok());
        let domain = match tenant {
            Some(name) if given_id.is_none() => {
                check_domain(name)
                    .map_err(|problem| StsError::Tenant { tenant: name.to_owned(), problem })?;
                name.to_ascii_lowercase()
            }
            _ => "contoso.localhost".to_owned(),
        };
        let tenant = Tenant { id: given_id.unwrap_or_else(Uuid::new_v4), domains: vec![domain] };
        let api = Uuid::new_v4().to_string();
        Ok(Self {
            clients: vec![Client {
                client_id: Uuid::new_v4().to_string(),
                display_name: "Sample daemon".to_owned(),
                tenant: tenant.id.to_string(),
                enabled: true,
                secrets: vec![ClientSecret {
                    value: format!("dev8Q~{}", random::text::<24>()),
                    expires: None,
                }],
                certificates: vec![CLIENT_CERTIFICATE.to_owned()],
                registered: Vec::new(),
                roles: vec!["Forecast.Read.All".to_owned()],
            }],
            tenants: vec![tenant],
            resources: vec![Resource {
                uri: format!("api://{api}"),
                id: api,
                display_name: "Sample API".to_owned(),
            }],
            any_resource: true,
        })
    }

    fn validate(&self) -> Result<(), String> {
        if self.tenants.is_empty() {
            return Err("tenants is empty".to_owned());
        }
        if self.resources.is_empty() {
            return Err("resources is empty; the first one is the sample API".to_owned());
        }
        let mut names = HashSet::new();
        for tenant in &self.tenants {
            for domain in &tenant.domains {
                check_domain(domain).map_err(|problem| format!("domain {domain:?}: {problem}"))?;
            }
            let domains = tenant.domains.iter().map(|d| d.to_ascii_lowercase());
            for name in domains.chain([tenant.id.to_string()]) {
                if !names.insert(name.clone()) {
                    return Err(format!("two tenants are called {name:?}"));
                }
            }
        }
        let mut ids = HashSet::new();
        for client in &self.clients {
            let id = &client.client_id;
            check_word(id).map_err(|problem| format!("client_id {id:?} {problem}"))?;
            let tenant = self
                .tenant(&client.tenant)
                .ok_or_else(|| format!("client {id:?}: no tenant is called {:?}", client.tenant))?;
            if !ids.insert((tenant.id, id.to_ascii_lowercase())) {
                return Err(format!("client {id:?} is twice in tenant {}", tenant.id));
            }
        }
        let mut uris = HashSet::new();
        for resource in &self.resources {
            for name in HashSet::from([&resource.uri, &resource.id]) {
                check_word(name).map_err(|problem| format!("resource {name:?} {problem}"))?;
                if !uris.insert(name.to_ascii_lowercase()) {
                    return Err(format!("two resources are called {name:?}"));
                }
            }
        }
        Ok(())
    }
}

impl Client {
    /// The certificate that was made with the folder, if this client still has it.
    pub(crate) fn own_certificate(&self) -> Option<&RegisteredCertificate> {
        let at = self.certificates.iter().position(|name| name == CLIENT_CERTIFICATE)?;
        self.registered.get(at)
    }
}

impl Tenant {
    /// All that stands for it in a URL.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        self.domains.iter().cloned().chain([self.id.to_string()])
    }

    fn is_called(&self, name: &str) -> bool {
        self.domains.iter().any(|d| d.eq_ignore_ascii_case(name))
            || (name.len() == 36 && Uuid::parse_str(name).is_ok_and(|id| id == self.id))
    }
}

impl ClientSecret {
    pub(crate) fn is_expired(&self, now: UnixSeconds) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

impl fmt::Debug for ClientSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSecret").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// By hand, because a derived one would quote the secret in its complaint.
impl TryFrom<Value> for ClientSecret {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let (value, expires) = match value {
            Value::String(text) => (text, None),
            Value::Object(mut object) => {
                let Some(Value::String(text)) = object.remove("value") else {
                    return Err("a secret needs a \"value\" that is a text".to_owned());
                };
                let expires = match object.remove("expires") {
                    None | Some(Value::Null) => None,
                    Some(at) => Some(
                        at.as_str()
                            .and_then(time::parse_rfc3339)
                            .ok_or("the \"expires\" of a secret is RFC 3339: \"2027-01-01T00:00:00Z\"")?,
                    ),
                };
                if let Some(name) = object.keys().next() {
                    return Err(format!("a secret has \"value\" and \"expires\", not {name:?}"));
                }
                (text, expires)
            }
            _ => return Err("a secret is a text or an object with \"value\" and \"expires\"".to_owned()),
        };
        if value.is_empty() {
            return Err("a secret is empty".to_owned());
        }
        Ok(Self { value, expires })
    }
}

/// Through [`Value`] for the same reason: a bare secret in place of the list.
fn read_secrets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ClientSecret>, D::Error> {
    match Value::deserialize(from)? {
        Value::Array(secrets) => {
            secrets.into_iter().map(|s| s.try_into().map_err(D::Error::custom)).collect()
        }
        _ => Err(D::Error::custom("\"secrets\" is a list")),
    }
}

fn write_expiry<S: serde::Serializer>(at: &Option<UnixSeconds>, to: S) -> Result<S::Ok, S::Error> {
    at.map(time::rfc3339_text).serialize(to)
}

fn read_certificate(folder: &StateFolder, name: &str) -> Result<RegisteredCertificate, String> {
    if name.is_empty() || name.contains(['/', '\\']) {
        return Err(format!("certificate {name:?} is not the name of a file in the state folder"));
    }
    let pem = match folder.read(name) {
        Ok(Some(pem)) => pem,
        Ok(None) => return Err(format!("there is no certificate {name:?} in the state folder")),
        Err(error) => return Err(format!("certificate {name:?}: {error}")),
    };
    RegisteredCertificate::parse(&pem).map_err(|problem| format!("certificate {name:?}: {problem}"))
}

fn enabled_by_default() -> bool {
    true
}

/// A name that can stand for a tenant in a URL without being taken for something else.
fn check_domain(name: &str) -> Result<(), String> {
    let label =
        |l: &str| !l.is_empty() && l.len() <= 63 && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if name.len() <= 253 && name.contains('.') && name.split('.').all(label) {
        Ok(())
    } else {
        Err("is neither a GUID nor a domain name such as contoso.localhost".to_owned())
    }
}

fn check_word(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("is empty or has white space in it");
    }
    Ok(())
}

const FILE: &str = "clients.json";
pub(crate) const CLIENT_KEY: &str = "client.key";
pub(crate) const CLIENT_CERTIFICATE: &str = "client.pem";
