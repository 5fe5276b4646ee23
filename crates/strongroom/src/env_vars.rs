//! Every environment variable that the library reads.
//!
//! Only [`persistence::encrypted`](crate::persistence::encrypted) and its builder read them, to find a key that
//! was handed in or the place of the host key, and [`other_caches`](crate::persistence::other_caches), to find those of
//! other tools; nothing else acts on the environment. `HTTPS_PROXY` and `NO_PROXY`
//! are honoured by the HTTP library, `SSL_CERT_FILE` and `SSL_CERT_DIR` by the TLS library.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::SecretString;

/// The keys that seal and open caches, the primary first: `strongroom-key-1:…` or plain base64 of 32 bytes,
/// separated by commas or line ends. Stays visible in the process's environment.
pub(crate) const STRONGROOM_KEY: &str = "STRONGROOM_KEY";
/// The path of a file with such keys.
pub(crate) const STRONGROOM_KEY_FILE: &str = "STRONGROOM_KEY_FILE";
/// The folder that systemd puts a service's credentials into; ours is `strongroom.key`.
pub(crate) const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// The folder of the host key, before all others.
pub(crate) const STRONGROOM_STATE_DIR: &str = "STRONGROOM_STATE_DIR";
/// The state folders that systemd made for a service, separated by colons; the first is used.
pub(crate) const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// The user's state folder.
pub(crate) const XDG_STATE_HOME: &str = "XDG_STATE_HOME";
/// The address of the session bus, on which the Secret Service is.
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
pub(crate) const DBUS_SESSION_BUS_ADDRESS: &str = "DBUS_SESSION_BUS_ADDRESS";
/// The folder of this login's sockets, among them `bus`, the session bus without an address; by default
/// `/run/user/UID`.
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
pub(crate) const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
/// The user's home folder.
pub(crate) const HOME: &str = "HOME";

/// What these variables said at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) key: Option<SecretString>,
    pub(crate) key_file: Option<PathBuf>,
    pub(crate) credentials_directory: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) state_directory: Option<PathBuf>,
    pub(crate) xdg_state_home: Option<PathBuf>,
    #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
    pub(crate) session_bus: SessionBus,
    pub(crate) home: Option<PathBuf>,
}

/// What tells whether there is a session bus. Its address itself is the D-Bus library's to read.
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionBus {
    pub(crate) has_address: bool,
    pub(crate) runtime_dir: Option<PathBuf>,
}

impl Environment {
    /// The environment of this process, now.
    pub(crate) fn read() -> Self {
        Self {
            // What is no Unicode is no key either: it is refused as one, not passed over.
            key: read(STRONGROOM_KEY).map(|value| {
                value.into_string().unwrap_or_else(|value| value.to_string_lossy().into_owned()).into()
            }),
            key_file: read(STRONGROOM_KEY_FILE).map(PathBuf::from),
            credentials_directory: read(CREDENTIALS_DIRECTORY).map(PathBuf::from),
            state_dir: read(STRONGROOM_STATE_DIR).map(PathBuf::from),
            state_directory: read(STATE_DIRECTORY).map(first_of_list),
            // The specification: a relative path counts as not set.
            xdg_state_home: read(XDG_STATE_HOME).map(PathBuf::from).filter(|path| path.is_absolute()),
            #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
            session_bus: SessionBus {
                has_address: read(DBUS_SESSION_BUS_ADDRESS).is_some(),
                runtime_dir: read(XDG_RUNTIME_DIR).map(PathBuf::from),
            },
            home: read(HOME).map(PathBuf::from).filter(|path| path.is_absolute()),
        }
    }
}

/// The user's cache folder.
const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";
/// The folder of the Azure CLI.
const AZURE_CONFIG_DIR: &str = "AZURE_CONFIG_DIR";
/// The user's folder for data of programs on Windows.
const LOCALAPPDATA: &str = "LOCALAPPDATA";
/// The user's home folder on Windows.
const USERPROFILE: &str = "USERPROFILE";

/// Where other tools keep their caches. Read for an import alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Folders {
    pub(crate) home: Option<PathBuf>,
    pub(crate) xdg_cache_home: Option<PathBuf>,
    pub(crate) azure_config_dir: Option<PathBuf>,
    pub(crate) local_app_data: Option<PathBuf>,
}

impl Folders {
    /// The folders of this process's user, now.
    pub(crate) fn read() -> Self {
        let folder = |name| read(name).map(PathBuf::from);
        Self {
            home: folder(if cfg!(windows) { USERPROFILE } else { HOME }),
            xdg_cache_home: folder(XDG_CACHE_HOME),
            azure_config_dir: folder(AZURE_CONFIG_DIR),
            local_app_data: folder(LOCALAPPDATA),
        }
    }
}

/// The value of a variable; empty counts as not set.
#[allow(clippy::disallowed_methods)] // the one place
fn read(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

fn first_of_list(value: OsString) -> PathBuf {
    match value.to_str().and_then(|text| text.split_once(':')) {
        Some((first, _)) => first.into(),
        None => value.into(),
    }
}
