//! Who asks for a token: flags first, then `config.json`, then the environment.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use strongroom::{Dialect, SecretBytes};

use crate::credential::{CertificateFiles, Credential, KeyFile, PublicCertificate};
use crate::env_vars;
use crate::failure::Failure;

const DEFAULT_HOST: &str = "login.microsoftonline.com";

/// The application and what it asks for.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) authority: String,
    pub(crate) client_id: String,
    pub(crate) credential: Credential,
    pub(crate) scopes: Vec<String>,
    pub(crate) instance_discovery: bool,
    pub(crate) known_authorities: Vec<String>,
    /// The languages that share the cache.
    pub(crate) dialect: Option<Dialect>,
    /// The API to call, for the daemon of the demonstration.
    pub(crate) endpoint: Option<String>,
}

impl Config {
    /// Reads the file, if one is named, and fills the gaps from the environment. `file` and `scopes` are the
    /// flags'.
    pub(crate) fn load(file: Option<&Path>, scopes: &[String]) -> Result<Self, Failure> {
        let named = env_vars::read_os(env_vars::STRONGROOM_CONFIG).map(PathBuf::from);
        let file = file.or(named.as_deref());
        let members = file.map(read).transpose()?.unwrap_or_default();
        let mut members = Members { members, file };
        let authority = match members.text("authority")? {
            Some(authority) => Some(authority),
            None => authority_of_environment()?,
        };
        let client_id = members.text("client_id")?.or_else(|| env_vars::read(env_vars::AZURE_CLIENT_ID));
        let credential = match members.credential()? {
            Some(credential) => Some(credential),
            None => Credential::of_environment(),
        };
        let scopes = if scopes.is_empty() { members.texts("scope")? } else { scopes.to_vec() };
        if scopes.is_empty() {
            return Err(missing(
                "scope",
                "pass --scope RESOURCE/.default, or set \"scope\" in the configuration",
            ));
        }
        Ok(Self {
            authority: authority.ok_or_else(|| {
                missing("authority", "set \"authority\" in the configuration, or AZURE_TENANT_ID")
            })?,
            client_id: client_id.ok_or_else(|| {
                missing("client id", "set \"client_id\" in the configuration, or AZURE_CLIENT_ID")
            })?,
            credential: credential.ok_or_else(no_credential)?,
            scopes,
            instance_discovery: members.flag("instance_discovery")?.unwrap_or(true),
            known_authorities: members.texts("known_authorities")?,
            dialect: members.dialect()?,
            endpoint: members.text("endpoint")?,
        })
    }
}

/// The members of a configuration file, read one by one so that an error can name the member and never quotes
/// what it holds.
struct Members<'a> {
    members: Map<String, Value>,
    file: Option<&'a Path>,
}

impl Members<'_> {
    /// The credential, in one of the forms of MSAL's samples.
    fn credential(&mut self) -> Result<Option<Credential>, Failure> {
        const CERTIFICATE: &str = "public_certificate";

        let (secret, other_spelling) = (self.text("client_secret")?, self.text("secret")?);
        let (pem, pfx) = (self.text("private_key_file")?, self.text("private_key_pfx_path")?);
        let (thumbprint, passphrase) = (self.text("thumbprint")?, self.text("passphrase")?);
        let mut files = CertificateFiles {
            key: match (secret.or(other_spelling), pem, pfx) {
                (None, None, None) => return Ok(None),
                (Some(secret), None, None) => return Ok(Some(Credential::Secret(secret.into()))),
                (None, Some(pem), None) => KeyFile::Pem(self.beside(&pem)),
                (None, None, Some(pfx)) => KeyFile::Pfx(self.beside(&pfx)),
                _ => {
                    let problem = "there are several credentials, and an application has one";
                    return Err(invalid_config(format!("{}: {problem}", self.name())));
                }
            },
            passphrase: passphrase.map(Into::into),
            thumbprint,
            public_certificate: None,
            send_chain: None,
        };
        // With a PFX file `true` says that the certificates are sent along, with PEM it is the certificate.
        if let KeyFile::Pfx(_) = files.key {
            files.send_chain = self.flag(CERTIFICATE)?;
        } else if let Some(certificate) = self.text(CERTIFICATE)? {
            files.public_certificate = Some(match certificate.contains("-----BEGIN") {
                true => PublicCertificate::Pem(certificate),
                false => PublicCertificate::File(self.beside(&certificate)),
            });
        }
        Ok(Some(Credential::Certificate(files)))
    }

    /// A path, which is relative to the folder of the configuration.
    fn beside(&self, path: &str) -> PathBuf {
        self.file.and_then(Path::parent).unwrap_or(Path::new("")).join(path)
    }

    /// Takes the text out, so that a secret leaves no copy behind.
    fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.members.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(name, "a text is expected")),
        }
    }

    fn texts(&self, name: &str) -> Result<Vec<String>, Failure> {
        let expected = || self.invalid(name, "an array of texts, or one text, is expected");
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(text.split_whitespace().map(str::to_owned).collect()),
            Some(Value::Array(items)) => {
                items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(expected)).collect()
            }
            Some(_) => Err(expected()),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Failure> {
        match self.members.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.invalid(name, "true or false is expected")),
        }
    }

    fn dialect(&mut self) -> Result<Option<Dialect>, Failure> {
        let Some(text) = self.text("dialect")? else { return Ok(None) };
        text.parse().map(Some).map_err(|error| self.invalid("dialect", &format!("{error}")))
    }

    fn invalid(&self, name: &str, problem: &str) -> Failure {
        invalid_config(format!("{}: \"{name}\": {problem}", self.name()))
    }

    fn name(&self) -> impl fmt::Display {
        self.file.unwrap_or(Path::new("the configuration")).display()
    }
}

fn read(file: &Path) -> Result<Map<String, Value>, Failure> {
    /// The largest configuration that is read, in bytes.
    const LARGEST: u64 = 1 << 20;

    let (bytes, found) = SecretBytes::read_file(file, LARGEST).map_err(|error| {
        Failure::usage(
            "config_unreadable",
            format!("the configuration {} cannot be read: {error}", file.display()),
            "check the path and its permissions",
        )
    })?;
    // The parser's own words could quote a secret: only the position is repeated.
    let members: Map<String, Value> = serde_json::from_slice(bytes.expose()).map_err(|error| {
        invalid_config(format!(
            "{} is not a JSON object (line {}, column {})",
            file.display(),
            error.line(),
            error.column()
        ))
    })?;
    if ["client_secret", "secret", "passphrase"].iter().any(|name| members.contains_key(*name)) {
        warn_if_others_can_read(file, &found);
    }
    Ok(members)
}

#[cfg(unix)]
pub(crate) fn warn_if_others_can_read(file: &Path, found: &std::fs::Metadata) {
    use std::os::unix::fs::PermissionsExt;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            "{} holds a secret and others can read it (mode {mode:04o}): chmod 600 it",
            file.display()
        );
    }
}

#[cfg(not(unix))]
pub(crate) fn warn_if_others_can_read(_: &Path, _: &std::fs::Metadata) {}

/// `AZURE_AUTHORITY_HOST` and `AZURE_TENANT_ID`, as the Azure SDKs read them.
fn authority_of_environment() -> Result<Option<String>, Failure> {
    let Some(tenant) = env_vars::read(env_vars::AZURE_TENANT_ID) else { return Ok(None) };
    if !tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')) {
        return Err(Failure::usage(
            "invalid_config",
            "AZURE_TENANT_ID is neither a tenant's id nor a domain",
            "use letters, digits, dots and dashes",
        ));
    }
    let host = env_vars::read(env_vars::AZURE_AUTHORITY_HOST).unwrap_or_else(|| DEFAULT_HOST.into());
    let host = host.trim().trim_end_matches('/');
    let base = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
    Ok(Some(format!("{base}/{tenant}")))
}

fn no_credential() -> Failure {
    missing(
        "client credential",
        "set \"client_secret\" or \"private_key_file\" in the configuration, or AZURE_CLIENT_SECRET",
    )
}

fn missing(what: &str, remedy: &str) -> Failure {
    Failure::usage("incomplete_config", format!("no {what} is given"), remedy)
}

fn invalid_config(message: String) -> Failure {
    Failure::usage("invalid_config", message, "see `strongroom token --help` for what the file looks like")
}
