//! Where other tools keep the same document: found and read on request, never written.
//!
//! The places are those of the tools' own source code; they differ from platform to platform.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::sealed::is_blank;
use super::{FilePersistence, Persistence};
use crate::env_vars::Folders;
use crate::error::ErrorKind;
use crate::wait::block_on;
use crate::{Error, SecretBytes};

/// Another tool that keeps a cache of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OtherTool {
    /// `azure-identity-py`: azure-identity for Python.
    AzureIdentityPython,
    /// `azure-identity-js`: @azure/identity for JavaScript, with its plugin for persistence.
    AzureIdentityJavaScript,
    /// `azidentity-go`: azidentity/cache for Go.
    AzidentityGo,
    /// `azure-cli`: the Azure CLI.
    AzureCli,
}

impl OtherTool {
    /// The tool, as `--import` spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AzureIdentityPython => "azure-identity-py",
            Self::AzureIdentityJavaScript => "azure-identity-js",
            Self::AzidentityGo => "azidentity-go",
            Self::AzureCli => "azure-cli",
        }
    }
}

/// The places where `tool` may have a cache on this platform. Nothing is opened yet.
///
/// Of the Azure SDKs that is the cache for programs without continuous access evaluation, unless `at` says
/// otherwise: the path of a cache file (of a keyring's item: of its signal file), whose last part is the cache's name;
/// of the Azure CLI, its folder will do.
///
/// # Errors
/// `no_home`: the user's folders are not known.
pub fn other_caches(tool: OtherTool, at: Option<&Path>) -> Result<Vec<OtherCache>, Error> {
    let folders = Folders::read();
    let places = match tool {
        OtherTool::AzureCli => azure_cli(at, &folders)?,
        _ => azure_identity(tool, at, &folders)?,
    };
    Ok(places.into_iter().map(|place| OtherCache { place }).collect())
}

/// A cache of another tool. It is read, and never written: not even a lock file is left beside it.
#[derive(Debug, Clone)]
pub struct OtherCache {
    place: Place,
}

impl OtherCache {
    /// Where it is, for people.
    #[must_use]
    pub fn location(&self) -> String {
        match &self.place {
            Place::Plain(path) | Place::AzidentityGo(path) | Place::DataProtection(path) => {
                path.display().to_string()
            }
            Place::SecretService(item) => format!("the Secret Service's item {}", item.describe()),
            Place::Keychain { service, account } => format!("the keychain's item {service} of {account}"),
        }
    }

    /// Its file; of a keyring's item, its signal file. `None` where there is none.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Plain(path) | Place::AzidentityGo(path) | Place::DataProtection(path) => Some(path),
            Place::SecretService(item) => Some(&item.signal),
            Place::Keychain { .. } => None,
        }
    }

    /// The document as it is now, opened; `None` if there is none. The tool may be writing it at this moment.
    ///
    /// # Errors
    /// `tool_key_gone`: its key did not outlive a reboot. `tool_cache_not_opened`: it is of another kind, or damaged.
    /// `needs_windows`, `needs_macos`: only that system opens it. Those of the persistence that it lies in.
    pub fn load(&self) -> Result<Option<SecretBytes>, Error> {
        let bytes = match &self.place {
            Place::Plain(path) => {
                let bytes = read(path)?;
                if bytes.expose().starts_with(DATA_PROTECTION_BLOB) {
                    return Err(needs("Windows", "needs_windows", &self.location(), "Windows (DPAPI)"));
                }
                bytes
            }
            Place::AzidentityGo(path) => match read(path)? {
                empty if is_blank(empty.expose()) => empty,
                sealed => open_azidentity_go(&sealed, path, &self.location())?,
            },
            Place::SecretService(item) => item.load()?,
            Place::DataProtection(path) => load_protected(path, &self.location())?,
            Place::Keychain { service, account } => load_keychain(service, account, &self.location())?,
        };
        Ok((!is_blank(bytes.expose())).then_some(bytes))
    }
}

/// How a DPAPI blob begins: its version, and the identifier of the provider.
const DATA_PROTECTION_BLOB: &[u8] = b"\x01\x00\x00\x00\xd0\x8c\x9d\xdf";

#[derive(Debug, Clone)]
enum Place {
    Plain(PathBuf),
    /// A JWE, whose key is named as the file.
    AzidentityGo(PathBuf),
    SecretService(Item),
    DataProtection(PathBuf),
    Keychain {
        service: String,
        account: String,
    },
}

/// What finds an item of the Secret Service.
#[derive(Debug, Clone)]
#[cfg_attr(not(all(feature = "secret-service", unix, not(target_vendor = "apple"))), allow(dead_code))]
struct Item {
    /// Where its signal file would be.
    signal: PathBuf,
    schema: String,
    attributes: &'static [(&'static str, &'static str)],
}

impl Item {
    fn describe(&self) -> String {
        let attributes = self.attributes.iter().map(|(name, value)| format!(", {name}={value}"));
        format!("{}{}", self.schema, attributes.collect::<String>())
    }

    #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
    fn load(&self) -> Result<SecretBytes, Error> {
        // Some tools fall back to plain text where the signal file would be; that is no reason not to look at the item.
        let signal = super::access::with_suffix(&self.signal, ".none");
        let builder = super::SecretServicePersistence::builder(signal).schema_name(&self.schema);
        let builder =
            self.attributes.iter().fold(builder, |builder, (name, value)| builder.attribute(*name, *value));
        Ok(block_on(builder.build()?.load()).map_err(as_of_another)?.bytes)
    }

    #[cfg(not(all(feature = "secret-service", unix, not(target_vendor = "apple"))))]
    #[allow(clippy::unused_self)] // as where there is one
    fn load(&self) -> Result<SecretBytes, Error> {
        let source_name = "secret-service".into();
        Err(crate::seal::SealError::FeatureMissing { source_name, feature: "secret-service" }.into())
    }
}

/// What helps who wants to read another tool's item: it is there, or nowhere.
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
fn as_of_another(error: Error) -> Error {
    match error.code() {
        "no_session_bus" | "no_secret_service" => {
            error.with_remedy("run it in the desktop session in which the tool keeps its tokens")
        }
        _ => error,
    }
}

/// The service that all Azure SDKs name.
const IDENTITY_SERVICE: &str = "Microsoft.Developer.IdentityService";
/// The account of it that most do.
const ACCOUNT: &str = "MSALCache";
const FOLDER: &str = ".IdentityService";

fn azure_identity(tool: OtherTool, at: Option<&Path>, folders: &Folders) -> Result<Vec<Place>, Error> {
    let is_go = tool == OtherTool::AzidentityGo;
    let default_name = if is_go { "msal.cache" } else { "msal.cache.nocae" };
    let paths = match at {
        Some(path) => vec![path.to_owned()],
        None if cfg!(windows) => vec![in_folder(folders.local_app_data.as_deref(), default_name)?],
        None if is_go && cfg!(not(target_os = "macos")) => {
            let cache =
                folders.xdg_cache_home.clone().or_else(|| Some(folders.home.as_ref()?.join(".cache")));
            // Until 0.3 it was the home folder itself.
            vec![
                in_folder(cache.as_deref(), default_name)?,
                in_folder(folders.home.as_deref(), default_name)?,
            ]
        }
        None => vec![in_folder(folders.home.as_deref(), default_name)?],
    };
    Ok(paths.into_iter().flat_map(|path| places_of_azure_identity(tool, path)).collect())
}

fn places_of_azure_identity(tool: OtherTool, path: PathBuf) -> Vec<Place> {
    let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    if cfg!(windows) {
        return vec![Place::DataProtection(path)];
    }
    if cfg!(target_os = "macos") {
        let (service, account) = match tool {
            OtherTool::AzidentityGo => (name, ACCOUNT.to_owned()),
            OtherTool::AzureIdentityPython if name != "msal.cache.nocae" => {
                (IDENTITY_SERVICE.to_owned(), name)
            }
            _ => (IDENTITY_SERVICE.to_owned(), ACCOUNT.to_owned()),
        };
        return vec![Place::Keychain { service, account }];
    }
    let (schema, attributes): (String, &[_]) = match tool {
        OtherTool::AzidentityGo => return vec![Place::AzidentityGo(path)],
        OtherTool::AzureIdentityPython => (name, &[("MsalClientID", IDENTITY_SERVICE)]),
        // As keytar keeps it: the same item, whatever the cache's name.
        _ => (
            "org.freedesktop.Secret.Generic".to_owned(),
            &[("service", IDENTITY_SERVICE), ("account", ACCOUNT)],
        ),
    };
    // Where there is no Secret Service, and the program allows it, the signal file is the cache.
    vec![Place::Plain(path.clone()), Place::SecretService(Item { signal: path, schema, attributes })]
}

fn azure_cli(at: Option<&Path>, folders: &Folders) -> Result<Vec<Place>, Error> {
    let folder = match at {
        Some(path) if !path.is_dir() => return Ok(vec![of_azure_cli(path.to_owned())]),
        Some(folder) => folder.to_owned(),
        None => match &folders.azure_config_dir {
            Some(folder) => folder.clone(),
            None => folders.home.as_deref().ok_or_else(no_home)?.join(".azure"),
        },
    };
    let (plain, sealed) = (folder.join("msal_token_cache.json"), folder.join("msal_token_cache.bin"));
    let mut places = vec![Place::Plain(plain)];
    if sealed.exists() {
        places.push(of_azure_cli(sealed));
    }
    Ok(places)
}

/// A file of the Azure CLI; one that ends in `.bin` is sealed as the platform does it.
fn of_azure_cli(path: PathBuf) -> Place {
    match path.extension().and_then(OsStr::to_str) {
        Some("bin") if cfg!(windows) => Place::DataProtection(path),
        Some("bin") if cfg!(target_os = "macos") => {
            Place::Keychain { service: "my_service_name".into(), account: "my_account_name".into() }
        }
        // The names of the example that it was made from. Elsewhere a file with content is a copy of another machine's.
        Some("bin") if path.metadata().is_ok_and(|found| found.len() == 0) => Place::SecretService(Item {
            signal: path,
            schema: "my_schema_name".into(),
            attributes: &[("my_attr1", "foo"), ("my_attr2", "bar")],
        }),
        _ => Place::Plain(path),
    }
}

fn in_folder(base: Option<&Path>, name: &str) -> Result<PathBuf, Error> {
    Ok(base.ok_or_else(no_home)?.join(FOLDER).join(name))
}

fn read(path: &Path) -> Result<SecretBytes, Error> {
    Ok(block_on(file_of(path)?.load())?.bytes)
}

/// Only looked at: the permissions of others' files are left as they are. But what is in it becomes ours, so it must be
/// this user's or root's.
fn file_of(path: &Path) -> Result<FilePersistence, Error> {
    FilePersistence::builder(path).peers_lock(false).only_looks(true).of_trusted_owner().build()
}

#[cfg(all(feature = "keyutils", target_os = "linux"))]
fn open_azidentity_go(sealed: &SecretBytes, path: &Path, location: &str) -> Result<SecretBytes, Error> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    Ok(crate::seal::open_azidentity_go(sealed.expose(), name, location)?)
}

#[cfg(not(all(feature = "keyutils", target_os = "linux")))]
fn open_azidentity_go(_: &SecretBytes, _: &Path, _: &str) -> Result<SecretBytes, Error> {
    Err(crate::seal::SealError::FeatureMissing { source_name: "keyutils".into(), feature: "keyutils" }.into())
}

#[cfg(windows)]
fn load_protected(path: &Path, _location: &str) -> Result<SecretBytes, Error> {
    let file = file_of(path)?;
    Ok(block_on(super::FilePersistenceWithDataProtection::over(file).load())?.bytes)
}

#[cfg(not(windows))]
fn load_protected(_path: &Path, location: &str) -> Result<SecretBytes, Error> {
    Err(needs("Windows", "needs_windows", location, "Windows (DPAPI)"))
}

#[cfg(target_os = "macos")]
fn load_keychain(service: &str, account: &str, _location: &str) -> Result<SecretBytes, Error> {
    // Its signal file is not looked at: that is for who reads more than once.
    let signal = "/var/empty/strongroom-no-signal";
    let builder = super::KeychainPersistence::builder(signal).service_name(service).account_name(account);
    Ok(block_on(builder.build()?.load())?.bytes)
}

#[cfg(not(target_os = "macos"))]
fn load_keychain(_service: &str, _account: &str, location: &str) -> Result<SecretBytes, Error> {
    Err(needs("macOS", "needs_macos", location, "the keychain of macOS"))
}

fn needs(system: &str, code: &'static str, location: &str, sealed_by: &str) -> Error {
    let message = format!("{location} is sealed by {sealed_by}, which needs {system}");
    Error::new(ErrorKind::Unusable, code, message)
        .with_remedy(format!("import it on the machine and as the user that wrote it, under {system}"))
}

fn no_home() -> Error {
    Error::new(ErrorKind::Configuration, "no_home", "the user's home folder is not known")
        .with_remedy("set HOME, or name the cache itself")
}
