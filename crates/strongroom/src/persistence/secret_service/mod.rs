//! A document as an item of the Secret Service, such as `msal_extensions.LibsecretPersistence` reads and writes.
//!
//! The item holds the document as text; a signal file beside the lock file tells every program that it has changed.
//! `bus` speaks to the service, `item` knows which item is ours, `worker` is the thread that they run on. `key_item`
//! is another item, which holds the keys of sealed files.

mod bus;
mod error;
mod item;
mod key_item;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use self::bus::{Attributes, Path, Progress};
use self::error::SecretServiceError;
use self::item::{Collection, Item, SCHEMA, Written, revision_of};
pub(super) use self::key_item::KeysInService;
use super::signal::{SignalFile, Signalled};
use super::{BoxFuture, Fence, Loaded, Location, Persistence, PersistenceError, Protection, Revision, Saved};
use crate::env_vars::SessionBus;
use crate::time::Deadline;
use crate::wait::until;
use crate::{Error, SecretBytes};

/// A document in the Secret Service of the desktop (GNOME Keyring, KWallet, KeePassXC), shared with the
/// `LibsecretPersistence` of `msal_extensions`.
///
/// Everything that is asked of the service ends within a deadline, 2 s by default, also where nobody answers.
///
/// A keyring can neither compare and swap nor replace durably as a file can be. Our own processes exclude each
/// other by a lock beside the signal file, the peers by theirs, and the content is compared immediately before it is
/// replaced; a program that respects neither lock, within that moment, loses what it writes or undoes what we do.
/// What is changed without a word in the signal file, in a desktop's keyring manager say, is noticed at the next
/// write or in the next process.
///
/// The document crosses the session bus unencrypted: a socket of this user, every program of whom can ask for the
/// same item.
///
/// ```
/// # fn main() -> Result<(), strongroom::Error> {
/// let persistence = strongroom::SecretServicePersistence::builder("token_cache.bin")
///     .attribute("app", "my daemon")
///     .label("My daemon's tokens")
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct SecretServicePersistence {
    signal: SignalFile,
    item: Item,
    deadline: Duration,
}

impl SecretServicePersistence {
    /// The item that goes with a signal file, with the defaults of [`builder`](Self::builder).
    ///
    /// # Errors
    /// `Configuration`: the path cannot name a file.
    pub fn new(signal_location: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::builder(signal_location).build()
    }

    /// The item that goes with a signal file, to be configured.
    ///
    /// The signal file is made at the first save and stays empty; lock files lie beside it. Of its path as it is
    /// given here the schema's name is made, so programs that share an item must spell it alike or name the schema.
    pub fn builder(signal_location: impl Into<PathBuf>) -> SecretServicePersistenceBuilder {
        SecretServicePersistenceBuilder {
            signal_location: signal_location.into(),
            schema_name: None,
            attributes: Attributes::new(),
            label: String::new(),
            collection: "default".into(),
            deadline: Duration::from_secs(2),
            prompt: true,
            session_bus: None,
        }
    }

    async fn load_now(&self) -> Result<Loaded, Error> {
        let signalled = self.signal.before_reading()?;
        let progress = Progress::default();
        let deadline = Limit::of(self.deadline);
        let answer = start(self.item.clone().read(progress.clone()))?;
        let content = answered(answer, deadline, &progress).await?;
        let revision = revision_of(content.as_ref());
        Ok(Loaded { bytes: content.unwrap_or_default(), revision: revision.with_signal(Some(signalled)) })
    }

    async fn save_now(
        &self,
        bytes: &SecretBytes,
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> Result<Saved, Error> {
        if bytes.len() > LARGEST {
            let (path, size) = (self.signal.path().to_owned(), bytes.len() as u64);
            return Err(PersistenceError::TooLarge { path, size, limit: LARGEST as u64 }.into());
        }
        if std::str::from_utf8(bytes.expose()).is_err() {
            return Err(SecretServiceError::NotText.into());
        }
        self.signal.prepare()?;

        let progress = Progress::default();
        let deadline = Limit::of(self.deadline);
        let (found, is_found) = oneshot::channel();
        let (go, may_go) = oneshot::channel();
        let write = self.item.clone().write(progress.clone(), bytes.share(), found, may_go);
        let answer = start(write)?;
        match until(deadline.ends, is_found).await {
            // Dropped without going, it ends without writing.
            Some(Ok(revision)) if revision != *expected || !fence.holds() => return Ok(Saved::Conflict),
            Some(Ok(_)) => drop(go.send(())),
            // It has failed, and its answer says why.
            Some(Err(_)) => {}
            None => return Err(progress.timed_out(self.deadline).into()),
        }
        let written = answered(answer, deadline, &progress).await;
        // Also where it is not known whether the item has changed.
        let signalled = self.signal.advance();
        match written? {
            Written::Gone => Ok(Saved::Conflict),
            Written::Done => {
                let signalled = signalled?.map(Signalled::by_us);
                Ok(Saved::Saved(Revision::of_bytes(bytes.expose()).with_signal(signalled)))
            }
        }
    }

    async fn remove_now(&self) -> Result<(), Error> {
        if self.signal.look()?.is_some() {
            self.signal.prepare()?;
        }
        let progress = Progress::default();
        let deadline = Limit::of(self.deadline);
        let answer = start(self.item.clone().remove(progress.clone()))?;
        match answered(answer, deadline, &progress).await {
            Ok(false) => Ok(()),
            Ok(true) => Ok(self.signal.advance().map(drop)?),
            Err(error) => {
                let _ = self.signal.advance();
                Err(error.into())
            }
        }
    }
}

impl Persistence for SecretServicePersistence {
    item_of_a_keyring!(self, "secret-service", "the Secret Service's item");
}

/// Configures a [`SecretServicePersistence`].
#[derive(Debug, Clone)]
#[must_use]
pub struct SecretServicePersistenceBuilder {
    signal_location: PathBuf,
    schema_name: Option<String>,
    attributes: Attributes,
    label: String,
    collection: String,
    deadline: Duration,
    prompt: bool,
    session_bus: Option<String>,
}

impl SecretServicePersistenceBuilder {
    /// The name of the item's schema, by default the SHA-256 of the signal file's path as it was given, in
    /// hexadecimal digits: the default of `msal_extensions`.
    pub fn schema_name(mut self, name: impl Into<String>) -> Self {
        self.schema_name = Some(name.into());
        self
    }

    /// Adds an attribute that the item is found by; by default there are none but the schema's name. Names and
    /// values are not encrypted at rest.
    pub fn attribute(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.insert(name.into(), value.into());
        self
    }

    /// What a keyring manager calls the item, by default nothing. Not encrypted at rest.
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// The keyring that the item is made in: an alias (`default`, which is the default, or `session`) or a D-Bus
    /// path. An item that is there already is found and replaced in whichever keyring it lies.
    pub fn collection(mut self, collection: impl Into<String>) -> Self {
        self.collection = collection.into();
        self
    }

    /// How long each load, save or removal may take in all, connecting and unlocking included; 2 s by default. Where
    /// a person is to answer the prompt of a locked keyring, it is their time as well.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether a locked keyring is unlocked by a prompt, by default yes. Else it is an error at once.
    pub fn prompt(mut self, wanted: bool) -> Self {
        self.prompt = wanted;
        self
    }

    /// The address of the bus, by default the session's (`DBUS_SESSION_BUS_ADDRESS`, else `bus` in
    /// `XDG_RUNTIME_DIR`).
    pub fn session_bus(mut self, address: impl Into<String>) -> Self {
        self.session_bus = Some(address.into());
        self
    }

    /// Whether there is a bus to ask, told at a glance. `session`: the bus of this session.
    pub(super) fn has_bus(&self, session: &SessionBus) -> bool {
        self.session_bus.is_some() || KeysInService::of(session).has_bus().is_ok()
    }

    /// The persistence. Touches no file, and asks nothing of the service.
    ///
    /// Its operations fail with these codes, all of kind `Storage`: `no_session_bus`, `no_secret_service`,
    /// `no_keyring`, `keyring_locked`, `keyring_prompt_unanswered`, `secret_service_timed_out`,
    /// `secret_service_access_denied`, `keyring_item_gone`, `secret_service_failed`; and, of kind `Unusable`, with
    /// `not_a_signal_file` where something else lies at the signal file's path.
    ///
    /// # Errors
    /// `Configuration`: the path cannot name a file (`invalid_path`), an attribute has the name that the schema's is
    /// kept under (`reserved_attribute`), or the collection cannot be one (`invalid_collection`).
    pub fn build(self) -> Result<SecretServicePersistence, Error> {
        let signal = SignalFile::at(&self.signal_location)?;
        let mut attributes = self.attributes;
        let schema_name = self.schema_name.unwrap_or_else(|| SignalFile::name_of_item(&self.signal_location));
        if attributes.insert(SCHEMA.into(), schema_name).is_some() {
            return Err(SecretServiceError::ReservedAttribute { name: SCHEMA.into() }.into());
        }
        let collection = match Path::try_from(self.collection.as_str()) {
            Ok(path) if path.as_str() != "/" => Collection::At(path),
            _ if self.collection.is_empty() || self.collection.contains('/') => {
                return Err(SecretServiceError::InvalidCollection { name: self.collection }.into());
            }
            _ => Collection::Alias(self.collection),
        };
        Ok(SecretServicePersistence {
            signal,
            item: Item {
                bus: self.session_bus,
                attributes,
                label: self.label,
                collection,
                prompt: self.prompt,
            },
            deadline: self.deadline,
        })
    }
}

/// As much as one argument of a D-Bus call may hold, less what goes with it.
const LARGEST: usize = (64 << 20) - 4096;

fn start<T: Send + 'static>(
    operation: impl Future<Output = T> + Send + 'static,
) -> Result<oneshot::Receiver<T>, SecretServiceError> {
    worker::start(operation)
        .map_err(|error| SecretServiceError::NoThread(format!("cannot be started: {error}")))
}

/// What an operation that was started comes to, within its time.
async fn answered<T>(
    answer: oneshot::Receiver<Result<T, SecretServiceError>>,
    limit: Limit,
    progress: &Progress,
) -> Result<T, SecretServiceError> {
    match until(limit.ends, answer).await {
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(SecretServiceError::NoThread("has ended".into())),
        None => Err(progress.timed_out(limit.given)),
    }
}

/// How long an operation may take, and when that is over.
#[derive(Debug, Clone, Copy)]
struct Limit {
    given: Duration,
    ends: Deadline,
}

impl Limit {
    fn of(given: Duration) -> Self {
        Self { given, ends: Deadline::after(given) }
    }
}
