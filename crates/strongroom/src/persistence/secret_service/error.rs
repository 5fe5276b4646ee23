//! What can go wrong between us and the Secret Service, and what to do about it.

use std::borrow::Cow;
use std::time::Duration;

use crate::ErrorKind;
use crate::error::Diagnose;

/// Why an item of the Secret Service could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretServiceError {
    #[error("there is no session bus: {0}")]
    NoBus(#[source] zbus::Error),
    #[error("there is no Secret Service on the session bus: {0}")]
    NoService(#[source] zbus::Error),
    #[error("there is no keyring {name:?}")]
    NoKeyring { name: String },
    #[error("the keyring is locked, {reason}")]
    Locked { reason: &'static str },
    #[error("the keyring is locked, and nobody answered the prompt to unlock it within {} s", .0.as_secs_f32())]
    PromptUnanswered(Duration),
    #[error("the Secret Service did not answer within {} s ({doing})", after.as_secs_f32())]
    TimedOut { doing: &'static str, after: Duration },
    #[error("the session bus or the Secret Service denies access: {0}")]
    AccessDenied(#[source] zbus::Error),
    #[error("the item of the Secret Service vanished each time it was about to be read or written")]
    ItemGone,
    #[error("what is to be stored is no text, and an item of the Secret Service holds text")]
    NotText,
    #[error("the Secret Service failed: {0}")]
    Failed(#[source] zbus::Error),
    #[error("the thread that talks to the Secret Service {0}")]
    NoThread(String),
    #[error("{name:?} cannot be an attribute: the schema's name is set with schema_name")]
    ReservedAttribute { name: String },
    #[error("{name:?} is neither an alias of a keyring nor the D-Bus path of one")]
    InvalidCollection { name: String },
}

impl SecretServiceError {
    /// What a failed call of an item means.
    pub(super) fn of_item_call(error: zbus::Error) -> Self {
        match &error {
            // GNOME Keyring knows no object of this name, GDBus no method of an object that is not there.
            zbus::Error::MethodError(name, _, _)
                if matches!(
                    name.as_str(),
                    "org.freedesktop.Secret.Error.NoSuchObject"
                        | "org.freedesktop.DBus.Error.UnknownObject"
                        | "org.freedesktop.DBus.Error.UnknownMethod"
                ) =>
            {
                Self::ItemGone
            }
            _ => Self::of_call(error),
        }
    }

    /// What a failed call means.
    pub(super) fn of_call(error: zbus::Error) -> Self {
        let zbus::Error::MethodError(name, _, _) = &error else {
            return match error {
                zbus::Error::InputOutput(_) => Self::NoBus(error),
                _ => Self::Failed(error),
            };
        };
        match name.as_str() {
            "org.freedesktop.Secret.Error.IsLocked" => Self::Locked { reason: "since a moment ago" },
            "org.freedesktop.DBus.Error.AccessDenied"
            | "org.freedesktop.DBus.Error.AuthFailed"
            | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => Self::AccessDenied(error),
            // The last two: it could not be started, or ended before it answered.
            name if name.starts_with("org.freedesktop.DBus.Error.Spawn.") => Self::NoService(error),
            "org.freedesktop.DBus.Error.ServiceUnknown"
            | "org.freedesktop.DBus.Error.NameHasNoOwner"
            | "org.freedesktop.DBus.Error.TimedOut"
            | "org.freedesktop.DBus.Error.NoReply" => Self::NoService(error),
            _ => Self::Failed(error),
        }
    }
}

impl Diagnose for SecretServiceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ReservedAttribute { .. } | Self::InvalidCollection { .. } | Self::NotText => {
                ErrorKind::Configuration
            }
            Self::NoBus(_)
            | Self::NoService(_)
            | Self::NoKeyring { .. }
            | Self::Locked { .. }
            | Self::PromptUnanswered(_)
            | Self::TimedOut { .. }
            | Self::AccessDenied(_)
            | Self::ItemGone
            | Self::Failed(_)
            | Self::NoThread(_) => ErrorKind::Storage,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::NoBus(_) => "no_session_bus",
            Self::NoService(_) => "no_secret_service",
            Self::NoKeyring { .. } => "no_keyring",
            Self::Locked { .. } => "keyring_locked",
            Self::PromptUnanswered(_) => "keyring_prompt_unanswered",
            Self::TimedOut { .. } => "secret_service_timed_out",
            Self::AccessDenied(_) => "secret_service_access_denied",
            Self::ItemGone => "keyring_item_gone",
            Self::NotText => "not_text",
            Self::Failed(_) | Self::NoThread(_) => "secret_service_failed",
            Self::ReservedAttribute { .. } => "reserved_attribute",
            Self::InvalidCollection { .. } => "invalid_collection",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match self {
            Self::NoBus(_) => {
                "run in a desktop session, or under 'dbus-run-session'; where there is none (cron, ssh, a container) use \
                 a sealed file: --persistence sealed"
            }
            Self::NoService(_) => {
                "install and start one (gnome-keyring, KWallet, KeePassXC), or use a sealed file: --persistence sealed"
            }
            Self::NoKeyring { .. } => {
                "make a default keyring (in 'Passwords and Keys', or at the next login), or name another collection"
            }
            Self::Locked { .. } => {
                "unlock the keyring: log in with a password, or run 'gnome-keyring-daemon --unlock' and give it the \
                 password on standard input; where nobody can, use a sealed file: --persistence sealed"
            }
            Self::PromptUnanswered(_) => {
                "answer the prompt, and allow a longer deadline for it; or unlock the keyring beforehand"
            }
            Self::TimedOut { .. } => {
                "check that the Secret Service is not hanging (a dialog may be open), or allow a longer deadline"
            }
            Self::AccessDenied(_) => {
                "run as the user whose session bus this is, or allow org.freedesktop.secrets in the bus's policy"
            }
            Self::ItemGone => {
                "try again; if it persists, look for a program that deletes and writes the item in a loop"
            }
            Self::NotText => "use a file for documents that are no text",
            Self::Failed(_) => "look at the log of the Secret Service, and whether other programs can use it",
            Self::NoThread(_) => "raise the limits on threads and open files",
            Self::ReservedAttribute { .. } => "give xdg:schema its value with schema_name",
            Self::InvalidCollection { .. } => {
                "use an alias such as default or session, or a path such as /org/freedesktop/secrets/collection/login"
            }
        }))
    }

    fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::PromptUnanswered(_) | Self::ItemGone)
    }
}
