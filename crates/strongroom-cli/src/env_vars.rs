//! Every environment variable that the command reads.
//!
//! The library reads some of its own where a cache is sealed: STRONGROOM_KEY, STRONGROOM_KEY_FILE, CREDENTIALS_DIRECTORY
//! and those of state folders. `HTTPS_PROXY` and `NO_PROXY` are honoured by the HTTP library, `SSL_CERT_FILE`
//! and `SSL_CERT_DIR` by the TLS library where the platform's trust roots are files.

use std::ffi::OsString;

/// Where the cache is, if `--cache` does not say.
pub(crate) const STRONGROOM_CACHE: &str = "STRONGROOM_CACHE";
/// Where the application is described, if `--config` does not say.
pub(crate) const STRONGROOM_CONFIG: &str = "STRONGROOM_CONFIG";
/// What is logged: `warn`, or `strongroom=debug,hyper=info`.
pub(crate) const STRONGROOM_LOG: &str = "STRONGROOM_LOG";
/// The folder of the host key, before all others. Read by the library; set for the demonstration's daemon.
pub(crate) const STRONGROOM_STATE_DIR: &str = "STRONGROOM_STATE_DIR";
/// The user's cache folder.
pub(crate) const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";
/// The user's home folder.
pub(crate) const HOME: &str = "HOME";
/// The tenant: an id or a verified domain.
pub(crate) const AZURE_TENANT_ID: &str = "AZURE_TENANT_ID";
/// The application.
pub(crate) const AZURE_CLIENT_ID: &str = "AZURE_CLIENT_ID";
/// The application's secret.
pub(crate) const AZURE_CLIENT_SECRET: &str = "AZURE_CLIENT_SECRET";
/// The cloud: a host or an https URL, by default `login.microsoftonline.com`.
pub(crate) const AZURE_AUTHORITY_HOST: &str = "AZURE_AUTHORITY_HOST";
/// A certificate instead of a secret: a file with it and its private key, PEM or PFX.
pub(crate) const AZURE_CLIENT_CERTIFICATE_PATH: &str = "AZURE_CLIENT_CERTIFICATE_PATH";
/// The passphrase of that file.
pub(crate) const AZURE_CLIENT_CERTIFICATE_PASSWORD: &str = "AZURE_CLIENT_CERTIFICATE_PASSWORD";
/// Whether the certificates are sent along: `1` or `true`.
pub(crate) const AZURE_CLIENT_SEND_CERTIFICATE_CHAIN: &str = "AZURE_CLIENT_SEND_CERTIFICATE_CHAIN";
/// A federated token instead of a secret: a file that something else keeps up to date.
pub(crate) const AZURE_FEDERATED_TOKEN_FILE: &str = "AZURE_FEDERATED_TOKEN_FILE";

/// The value of a variable; empty counts as not set.
pub(crate) fn read(name: &str) -> Option<String> {
    read_os(name)?.into_string().ok()
}

/// The value of a variable that is a path; empty counts as not set.
#[allow(clippy::disallowed_methods)] // the one place
pub(crate) fn read_os(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
