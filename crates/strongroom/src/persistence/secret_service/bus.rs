//! The calls of the Secret Service that one document needs, over a connection of their own to the session bus.
//!
//! A connection lives as long as one operation. What ends with it need not be watched: a bus that is restarted, a
//! session that the service has forgotten, prompts that nobody waits for. It must not know which item is wanted.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures_core::Stream as _;
use serde::{Serialize, Serializer};
use zbus::message::Type as MessageType;
use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue, Signature, Type, Value};
use zbus::{MatchRule, Message, MessageStream};

use super::error::SecretServiceError;
use crate::SecretBytes;

/// The path of an object of the service.
pub(super) type Path = OwnedObjectPath;
pub(super) type Attributes = HashMap<String, String>;

/// An open connection to the service.
pub(super) struct Bus {
    connection: zbus::Connection,
    progress: Progress,
}

/// What an item says about itself without being unlocked.
pub(super) struct Properties {
    pub(super) attributes: Attributes,
    /// Seconds since the epoch.
    pub(super) modified: u64,
}

impl Bus {
    /// Connects to the bus at `address`, or to the session's.
    pub(super) async fn connect(
        address: Option<&str>,
        progress: Progress,
    ) -> Result<Self, SecretServiceError> {
        let builder = match address {
            Some(address) => zbus::connection::Builder::address(address),
            None => zbus::connection::Builder::session(),
        };
        let builder = builder.map_err(SecretServiceError::NoBus)?;
        let connection = builder.build().await.map_err(SecretServiceError::NoBus)?;
        progress.is(Stage::Asking);
        let bus = Self { connection, progress };
        bus.introduce().await;
        Ok(bus)
    }

    /// Asks the service for nothing, so that it knows this connection. One call in a thousand that is the first of its
    /// connection meets a GNOME Keyring that does not know it yet: `SearchItems` is answered with an error then, and
    /// `OpenSession` ends the daemon. Whatever the answer is, the next call gets its own.
    async fn introduce(&self) {
        let object = "/org/freedesktop/secrets";
        let ping = ("org.freedesktop.DBus.Peer", "Ping");
        let _ = self.connection.call_method(Some(SERVICE), object, Some(ping.0), ping.1, &()).await;
    }

    /// Waits until this connection has `name` on the bus, which one has at a time: a lock among those who agree on the
    /// name. It ends with the connection, however that ends.
    pub(super) async fn take_turn(&self, name: &'static str) -> Result<(), SecretServiceError> {
        /// The answer that the name will be ours once all who came before are gone.
        const IN_QUEUE: u32 = 2;

        let failed = SecretServiceError::of_call;
        let rule = MatchRule::builder()
            .msg_type(MessageType::Signal)
            .sender(DBUS)
            .and_then(|rule| rule.interface(DBUS))
            .and_then(|rule| rule.member("NameAcquired"))
            .and_then(|rule| rule.arg(0, name));
        let mut acquired =
            MessageStream::for_match_rule(rule.map_err(failed)?.build(), &self.connection, None)
                .await
                .map_err(failed)?;
        let before = self.progress.is(Stage::Queueing);
        let (object, request) = ("/org/freedesktop/DBus", (name, 0_u32));
        let reply = self.connection.call_method(Some(DBUS), object, Some(DBUS), "RequestName", &request);
        let answer: u32 = read(&reply.await.map_err(failed)?)?;
        if answer == IN_QUEUE && next(&mut acquired).await.map_err(failed)?.is_none() {
            return Err(connection_ended());
        }
        self.progress.is(before);
        Ok(())
    }

    /// The items of all keyrings that have these attributes among theirs: those that are unlocked, and the others.
    pub(super) async fn search(
        &self,
        attributes: &Attributes,
    ) -> Result<(Vec<Path>, Vec<Path>), SecretServiceError> {
        self.ask_service("SearchItems", &(attributes,)).await
    }

    /// The keyring with this alias, if there is one.
    pub(super) async fn keyring(&self, alias: &str) -> Result<Option<Path>, SecretServiceError> {
        let (path,): (Path,) = self.ask_service("ReadAlias", &(alias,)).await?;
        Ok(is_object(&path).then_some(path))
    }

    pub(super) async fn is_locked(&self, keyring: &Path) -> Result<bool, SecretServiceError> {
        let reply = self.call(keyring, PROPERTIES, "Get", &(COLLECTION, "Locked")).await;
        let reply = reply.map_err(SecretServiceError::of_call)?;
        let value: OwnedValue = read(&reply)?;
        bool::try_from(value).map_err(|error| SecretServiceError::Failed(error.into()))
    }

    /// `None`: the item is gone.
    pub(super) async fn properties(&self, item: &Path) -> Result<Option<Properties>, SecretServiceError> {
        let reply = match self.call(item, PROPERTIES, "GetAll", &(ITEM,)).await {
            Ok(reply) => reply,
            Err(error) => match SecretServiceError::of_item_call(error) {
                SecretServiceError::ItemGone => return Ok(None),
                error => return Err(error),
            },
        };
        let mut all: HashMap<String, OwnedValue> = read(&reply)?;
        let failed = |error: zbus::zvariant::Error| SecretServiceError::Failed(error.into());
        let attributes = match all.remove("Attributes") {
            Some(value) => value.try_into().map_err(failed)?,
            None => Attributes::new(),
        };
        let modified = all.remove("Modified").map(u64::try_from).transpose().map_err(failed)?;
        Ok(Some(Properties { attributes, modified: modified.unwrap_or_default() }))
    }

    /// Unlocks items or keyrings, with a prompt where that takes one and is wanted.
    pub(super) async fn unlock(&self, objects: &[Path], with_prompt: bool) -> Result<(), SecretServiceError> {
        let (_, prompt): (Vec<Path>, Path) = self.ask_service("Unlock", &(objects,)).await?;
        if is_object(&prompt) {
            if !with_prompt {
                return Err(SecretServiceError::Locked { reason: NEEDS_PROMPT });
            }
            self.prompt(prompt).await?;
        }
        Ok(())
    }

    /// A session for the exchange of secrets, in plain text.
    ///
    /// The bus is a socket of this user, whose every program can ask for the same item. Encryption would hide the
    /// document from the memory of the bus's daemon alone, with a group of 1024 bits and without authentication,
    /// and would need a second cryptographic library.
    pub(super) async fn open_session(&self) -> Result<Session<'_>, SecretServiceError> {
        let (_, path): (OwnedValue, Path) =
            self.ask_service("OpenSession", &("plain", Value::from(""))).await?;
        Ok(Session { bus: self, path })
    }

    /// Deletes an item; `false`: it was gone already.
    pub(super) async fn delete(&self, item: &Path) -> Result<bool, SecretServiceError> {
        self.progress.is(Stage::Writing);
        let reply = match self.call(item, ITEM, "Delete", &()).await {
            Ok(reply) => reply,
            Err(error) => match SecretServiceError::of_item_call(error) {
                SecretServiceError::ItemGone => return Ok(false),
                error => return Err(error),
            },
        };
        let prompt: Path = read(&reply)?;
        if is_object(&prompt) {
            self.prompt(prompt).await?;
        }
        Ok(true)
    }

    /// Shows a prompt and waits until it is answered.
    ///
    /// A prompt ends with the connection of who asked for it. It is never dismissed by a call: GNOME Keyring 42
    /// aborts, for every program, when that is done to a prompt that is shown.
    async fn prompt(&self, path: Path) -> Result<(), SecretServiceError> {
        let failed = SecretServiceError::of_call;
        let rule = MatchRule::builder()
            .msg_type(MessageType::Signal)
            .sender(SERVICE)
            .and_then(|rule| rule.path(path.clone()))
            .and_then(|rule| rule.interface(PROMPT))
            .and_then(|rule| rule.member("Completed"));
        let mut completed =
            MessageStream::for_match_rule(rule.map_err(failed)?.build(), &self.connection, None)
                .await
                .map_err(failed)?;
        let before = self.progress.is(Stage::Prompting);
        self.call(&path, PROMPT, "Prompt", &("",)).await.map_err(failed)?;
        let answer = next(&mut completed).await;
        self.progress.is(before);
        let Some(answer) = answer.map_err(failed)? else { return Err(connection_ended()) };
        let (dismissed, _): (bool, OwnedValue) = read(&answer)?;
        if dismissed {
            let reason = "and the prompt to unlock it was dismissed, or could not be shown";
            return Err(SecretServiceError::Locked { reason });
        }
        Ok(())
    }

    async fn ask_service<B, R>(&self, method: &'static str, body: &B) -> Result<R, SecretServiceError>
    where
        B: Serialize + DynamicType + Sync,
        R: for<'de> serde::Deserialize<'de> + Type,
    {
        let call = self.connection.call_method(
            Some(SERVICE),
            "/org/freedesktop/secrets",
            Some("org.freedesktop.Secret.Service"),
            method,
            body,
        );
        read(&call.await.map_err(SecretServiceError::of_call)?)
    }

    async fn call<B>(
        &self,
        object: &Path,
        interface: &'static str,
        method: &'static str,
        body: &B,
    ) -> zbus::Result<Message>
    where
        B: Serialize + DynamicType + Sync,
    {
        self.connection.call_method(Some(SERVICE), object, Some(interface), method, body).await
    }
}

/// A session in which secrets are exchanged. It ends with the connection.
pub(super) struct Session<'a> {
    bus: &'a Bus,
    path: Path,
}

impl Session<'_> {
    /// The content of an item that is unlocked.
    pub(super) async fn secret(&self, item: &Path) -> Result<SecretBytes, SecretServiceError> {
        let reply = self.bus.call(item, ITEM, "GetSecret", &(&self.path,)).await;
        let reply = reply.map_err(SecretServiceError::of_item_call)?;
        let body = reply.body();
        let ((_, _, content, _),): ((Path, &[u8], &[u8], &str),) =
            body.deserialize().map_err(SecretServiceError::Failed)?;
        Ok(SecretBytes::from(content.to_vec()))
    }

    /// Replaces the content of an item, nothing else of it.
    pub(super) async fn set_secret(
        &self,
        item: &Path,
        content: &SecretBytes,
    ) -> Result<(), SecretServiceError> {
        self.bus.progress.is(Stage::Writing);
        let reply = self.bus.call(item, ITEM, "SetSecret", &(self.text(content),)).await;
        reply.map(drop).map_err(SecretServiceError::of_item_call)
    }

    /// Makes an item in a keyring, and never replaces one: GNOME Keyring would replace what has our attributes among
    /// others, which is somebody else's.
    pub(super) async fn create(
        &self,
        keyring: &Path,
        label: &str,
        attributes: &Attributes,
        content: &SecretBytes,
    ) -> Result<(), SecretServiceError> {
        self.bus.progress.is(Stage::Writing);
        let properties = HashMap::from([
            ("org.freedesktop.Secret.Item.Label", Value::from(label)),
            ("org.freedesktop.Secret.Item.Attributes", Value::from(attributes.clone())),
        ]);
        let body = (properties, self.text(content), false);
        let reply = self.bus.call(keyring, COLLECTION, "CreateItem", &body).await;
        let (item, prompt): (Path, Path) = read(&reply.map_err(SecretServiceError::of_call)?)?;
        if !is_object(&item) && is_object(&prompt) {
            self.bus.prompt(prompt).await?;
        }
        Ok(())
    }

    /// A secret as the service takes it: session, no parameters of an encryption, the value and its type.
    fn text<'a>(&'a self, content: &'a SecretBytes) -> (&'a Path, Bytes<'a>, Bytes<'a>, &'static str) {
        (&self.path, Bytes(&[]), Bytes(content.expose()), "text/plain")
    }
}

/// What an operation is doing: it is told by whoever has waited for it in vain.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    Connecting,
    Asking,
    Prompting,
    Queueing,
    Writing,
}

impl Progress {
    pub(super) fn timed_out(&self, after: Duration) -> SecretServiceError {
        let doing = match self.stage() {
            Stage::Connecting => "connecting to the session bus",
            Stage::Asking => "looking for the item",
            Stage::Prompting => return SecretServiceError::PromptUnanswered(after),
            Stage::Queueing => "waiting for another program that writes the item",
            Stage::Writing => "writing the item",
        };
        SecretServiceError::TimedOut { doing, after }
    }

    /// Sets what is being done, and gives what was done before.
    fn is(&self, stage: Stage) -> Stage {
        let before = self.stage();
        self.0.store(stage as u8, Ordering::Relaxed);
        before
    }

    fn stage(&self) -> Stage {
        const ALL: [Stage; 5] =
            [Stage::Connecting, Stage::Asking, Stage::Prompting, Stage::Queueing, Stage::Writing];
        ALL.into_iter().find(|stage| *stage as u8 == self.0.load(Ordering::Relaxed)).unwrap_or(Stage::Asking)
    }
}

/// Bytes that are written as they are, not number by number.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl Type for Bytes<'_> {
    const SIGNATURE: &'static Signature = <Vec<u8> as Type>::SIGNATURE;
}

/// The service says `/` where there is no object.
fn is_object(path: &Path) -> bool {
    path.as_str() != "/"
}

async fn next(stream: &mut MessageStream) -> zbus::Result<Option<Message>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await.transpose()
}

fn connection_ended() -> SecretServiceError {
    SecretServiceError::NoBus(zbus::Error::Failure("the connection ended".into()))
}

fn read<R>(message: &Message) -> Result<R, SecretServiceError>
where
    R: for<'de> serde::Deserialize<'de> + Type,
{
    message.body().deserialize().map_err(SecretServiceError::Failed)
}

/// Why what is locked stays so.
pub(super) const NEEDS_PROMPT: &str = "and it takes a prompt to unlock it";
const DBUS: &str = "org.freedesktop.DBus";
const SERVICE: &str = "org.freedesktop.secrets";
const COLLECTION: &str = "org.freedesktop.Secret.Collection";
const ITEM: &str = "org.freedesktop.Secret.Item";
const PROMPT: &str = "org.freedesktop.Secret.Prompt";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
