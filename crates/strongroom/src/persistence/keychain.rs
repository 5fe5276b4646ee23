//! A document as a generic password of the macOS keychain, such as `msal_extensions.KeychainPersistence` reads and
//! writes.
//!
//! The item holds the document as UTF-8; a signal file beside the lock file tells every program that it has changed.
//! The keychain may ask the user and wait for the answer, so each operation runs on a thread of its own.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use security_framework::os::macos::keychain::SecKeychain;
use security_framework::os::macos::keychain_item::SecKeychainItem;
use tokio::sync::oneshot;

use super::signal::{SignalFile, Signalled};
use super::{BoxFuture, Fence, Loaded, Location, Persistence, Protection, Revision, Saved};
use crate::error::Diagnose;
use crate::time::Deadline;
use crate::wait::until;
use crate::{Error, ErrorKind, SecretBytes};

/// A document in the default keychain of this user, shared with the `KeychainPersistence` of `msal_extensions`.
///
/// Everything that is asked of the keychain ends within a deadline, 10 s by default, also where nobody answers its
/// dialog.
///
/// A keychain can neither compare and swap nor replace durably as a file can be. Our own processes exclude each other
/// by a lock beside the signal file, the peers by theirs, and the content is compared immediately before it is
/// replaced; a program that respects neither lock, within that moment, loses what it writes or undoes what we do.
/// What is changed without a word in the signal file, in Keychain Access say, is noticed at the next write or in the
/// next process.
///
/// ```no_run
/// # fn main() -> Result<(), strongroom::Error> {
/// let persistence = strongroom::KeychainPersistence::builder("token_cache.bin")
///     .service_name("com.example.daemon")
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct KeychainPersistence {
    signal: SignalFile,
    item: Item,
    deadline: Duration,
}

impl KeychainPersistence {
    /// The item that goes with a signal file, with the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// `Configuration`: the path cannot name a file.
    pub fn new(signal_location: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder(signal_location).build()
    }

    /// The item that goes with a signal file, to be configured.
    ///
    /// The signal file is made at the first save and stays empty; lock files lie beside it. Of its path as it is given
    /// here the account is made, so programs that share an item must spell it alike or name the account.
    pub fn builder(signal_location: impl Into<PathBuf>) -> KeychainPersistenceBuilder {
        KeychainPersistenceBuilder {
            signal_location: signal_location.into(),
            service_name: "msal-extensions".into(),
            account_name: None,
            deadline: Duration::from_secs(10),
        }
    }

    async fn load_now(&self) -> Result<Loaded, Error> {
        let signalled = self.signal.before_reading()?;
        let item = self.item.clone();
        let content = self.answered(start(move || item.read())?, Deadline::after(self.deadline)).await?;
        let revision = revision_of(content.as_ref());
        Ok(Loaded { bytes: content.unwrap_or_default(), revision: revision.with_signal(Some(signalled)) })
    }

    async fn save_now(
        &self,
        bytes: &SecretBytes,
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> Result<Saved, Error> {
        self.signal.prepare()?;

        let deadline = Deadline::after(self.deadline);
        let (found, is_found) = oneshot::channel();
        let (go, may_go) = oneshot::channel();
        let (item, content) = (self.item.clone(), bytes.share());
        let answer = start(move || item.write(&content, found, may_go))?;
        match until(deadline, is_found).await {
            // Dropped without going, it ends without writing.
            Some(Ok(revision)) if revision != *expected || !fence.holds() => return Ok(Saved::Conflict),
            Some(Ok(_)) => drop(go.send(())),
            // It has failed, and its answer says why.
            Some(Err(_)) => {}
            None => return Err(KeychainError::TimedOut(self.deadline).into()),
        }
        let written = self.answered(answer, deadline).await;
        // Also where it is not known whether the item has changed.
        let signalled = self.signal.advance();
        written?;
        let signalled = signalled?.map(Signalled::by_us);
        Ok(Saved::Saved(Revision::of_bytes(bytes.expose()).with_signal(signalled)))
    }

    async fn remove_now(&self) -> Result<(), Error> {
        if self.signal.look()?.is_some() {
            self.signal.prepare()?;
        }
        let item = self.item.clone();
        match self.answered(start(move || item.remove())?, Deadline::after(self.deadline)).await {
            Ok(false) => Ok(()),
            Ok(true) => Ok(self.signal.advance().map(drop)?),
            Err(error) => {
                let _ = self.signal.advance();
                Err(error.into())
            }
        }
    }

    async fn answered<T>(
        &self,
        answer: oneshot::Receiver<Result<T, KeychainError>>,
        deadline: Deadline,
    ) -> Result<T, KeychainError> {
        match until(deadline, answer).await {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(KeychainError::NoThread(io::Error::other("it has ended"))),
            None => Err(KeychainError::TimedOut(self.deadline)),
        }
    }
}

impl Persistence for KeychainPersistence {
    item_of_a_keyring!(self, "keychain", "the keychain's item");
}

/// Configures a [`KeychainPersistence`].
#[derive(Debug, Clone)]
#[must_use]
pub struct KeychainPersistenceBuilder {
    signal_location: PathBuf,
    service_name: String,
    account_name: Option<String>,
    deadline: Duration,
}

impl KeychainPersistenceBuilder {
    /// The item's service, `msal-extensions` by default. Not encrypted at rest.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = name.into();
        self
    }

    /// The item's account, by default the SHA-256 of the signal file's path as it was given, in hexadecimal digits:
    /// the default of `msal_extensions`. Not encrypted at rest.
    pub fn account_name(mut self, name: impl Into<String>) -> Self {
        self.account_name = Some(name.into());
        self
    }

    /// How long each load, save or removal may take in all; 10 s by default. Where a person is to answer the
    /// keychain's dialog, it is their time as well.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The persistence. Touches no file, and asks nothing of the keychain.
    ///
    /// Its operations fail with these codes, all of kind `Storage`: `no_keychain`, `keychain_locked`,
    /// `keychain_access_denied`, `keychain_timed_out`, `keychain_failed`; and, of kind `Unusable`, with
    /// `not_a_signal_file` where something else lies at the signal file's path.
    ///
    /// # Errors
    /// `Configuration`: the path cannot name a file (`invalid_path`).
    pub fn build(self) -> Result<KeychainPersistence, Error> {
        let signal = SignalFile::at(&self.signal_location)?;
        let account = self.account_name.unwrap_or_else(|| SignalFile::name_of_item(&self.signal_location));
        Ok(KeychainPersistence {
            signal,
            item: Item { service: self.service_name, account },
            deadline: self.deadline,
        })
    }
}

/// Which item is ours.
#[derive(Debug, Clone)]
struct Item {
    service: String,
    account: String,
}

impl Item {
    fn read(&self) -> Result<Option<SecretBytes>, KeychainError> {
        Ok(self.find(&keychain()?)?.map(|(content, _)| content))
    }

    /// Says what is there, and replaces it once it may.
    fn write(
        &self,
        content: &SecretBytes,
        found: oneshot::Sender<Revision>,
        may_go: oneshot::Receiver<()>,
    ) -> Result<(), KeychainError> {
        let keychain = keychain()?;
        let item = self.find(&keychain)?;
        let _ = found.send(revision_of(item.as_ref().map(|(content, _)| content)));
        if may_go.blocking_recv().is_err() {
            return Ok(());
        }
        match item {
            Some((_, mut item)) => item.set_password(content.expose())?,
            None => keychain.add_generic_password(&self.service, &self.account, content.expose())?,
        }
        Ok(())
    }

    /// Whether there was one.
    fn remove(&self) -> Result<bool, KeychainError> {
        let keychain = keychain()?;
        let Some((_, item)) = self.find(&keychain)? else { return Ok(false) };
        item.delete();
        // It does not say whether that worked.
        match self.find(&keychain)? {
            None => Ok(true),
            Some(_) => Err(KeychainError::NotRemoved),
        }
    }

    fn find(&self, keychain: &SecKeychain) -> Result<Option<(SecretBytes, SecKeychainItem)>, KeychainError> {
        const NOT_FOUND: i32 = -25300;

        match keychain.find_generic_password(&self.service, &self.account) {
            Ok((content, item)) => Ok(Some((SecretBytes::from(content.to_vec()), item))),
            Err(error) if error.code() == NOT_FOUND => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn keychain() -> Result<SecKeychain, KeychainError> {
    Ok(SecKeychain::default()?)
}

/// Runs an operation on a thread of its own. It outlives whoever does not wait for it.
fn start<T: Send + 'static>(
    operation: impl FnOnce() -> Result<T, KeychainError> + Send + 'static,
) -> Result<oneshot::Receiver<Result<T, KeychainError>>, KeychainError> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("strongroom-keychain".into())
        .spawn(move || drop(sender.send(operation())))
        .map_err(KeychainError::NoThread)?;
    Ok(receiver)
}

fn revision_of(content: Option<&SecretBytes>) -> Revision {
    content.map_or_else(Revision::absent, |content| Revision::of_bytes(content.expose()))
}

/// Why an item of the keychain could not be read or written.
#[derive(Debug, thiserror::Error)]
enum KeychainError {
    #[error("this user has no default keychain here: {0}")]
    NoKeychain(#[source] security_framework::base::Error),
    #[error("the keychain is locked, and nobody can be asked to unlock it: {0}")]
    Locked(#[source] security_framework::base::Error),
    #[error("the keychain denies access: {0}")]
    AccessDenied(#[source] security_framework::base::Error),
    #[error("the keychain failed: {0}")]
    Failed(#[source] security_framework::base::Error),
    #[error("the keychain did not remove the item")]
    NotRemoved,
    #[error("the keychain did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("there is no thread to ask the keychain: {0}")]
    NoThread(#[source] io::Error),
}

impl From<security_framework::base::Error> for KeychainError {
    fn from(error: security_framework::base::Error) -> Self {
        match error.code() {
            // None at all, none of this name, no default one.
            -25291 | -25294 | -25307 => Self::NoKeychain(error),
            // No dialog may be shown: launchd, ssh.
            -25308 => Self::Locked(error),
            // The dialog was cancelled, the password was wrong, the item is another program's.
            -128 | -25293 | -25243 => Self::AccessDenied(error),
            _ => Self::Failed(error),
        }
    }
}

impl Diagnose for KeychainError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Storage
    }

    fn code(&self) -> &str {
        match self {
            Self::NoKeychain(_) => "no_keychain",
            Self::Locked(_) => "keychain_locked",
            Self::AccessDenied(_) => "keychain_access_denied",
            Self::TimedOut(_) => "keychain_timed_out",
            Self::Failed(_) | Self::NotRemoved | Self::NoThread(_) => "keychain_failed",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match self {
            Self::NoKeychain(_) => {
                "run as a user who has a login keychain, or use a sealed file (persistence 'sealed')"
            }
            Self::Locked(_) => {
                "run 'security unlock-keychain', or use a sealed file (persistence 'sealed') for daemons and ssh"
            }
            Self::AccessDenied(_) => {
                "let this program use the item, in Keychain Access or when it is asked for"
            }
            Self::TimedOut(_) => "answer the keychain's dialog, or allow a longer deadline",
            Self::Failed(_) | Self::NotRemoved | Self::NoThread(_) => {
                "look at the item in Keychain Access, then try again"
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_item_is_named_as_msal_extensions_names_it() {
        let persistence = KeychainPersistence::new("~/cache.bin").unwrap();
        assert_eq!(persistence.item.service, "msal-extensions");
        assert_eq!(persistence.item.account, SignalFile::name_of_item("~/cache.bin".as_ref()));
        assert_eq!(
            SignalFile::name_of_item("".as_ref()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
