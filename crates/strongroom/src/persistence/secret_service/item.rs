//! One item of the Secret Service: which of those that a search finds it is, and how it is read, replaced, removed.

use std::cmp::Reverse;

use tokio::sync::oneshot;

use super::bus::{Attributes, Bus, Path, Progress};
use super::error::SecretServiceError;
use crate::SecretBytes;
use crate::persistence::Revision;

/// The attribute that libsecret keeps the schema's name in.
pub(super) const SCHEMA: &str = "xdg:schema";

/// Which item, and how it is asked for.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// The bus, where it is not the session's.
    pub(super) bus: Option<String>,
    /// All of them, the schema's name among them.
    pub(super) attributes: Attributes,
    pub(super) label: String,
    /// The keyring that the item is made in. It is looked for in all of them, as libsecret does.
    pub(super) collection: Collection,
    /// Whether a locked keyring is unlocked by a prompt.
    pub(super) prompt: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Collection {
    Alias(String),
    At(Path),
}

/// What has become of an attempt to write.
pub(super) enum Written {
    Done,
    /// The item is gone since it was compared.
    Gone,
}

impl Item {
    /// The content; `None` if there is no such item.
    pub(super) async fn read(self, progress: Progress) -> Result<Option<SecretBytes>, SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        Ok(self.newest(&bus).await?.map(|(_, content)| content))
    }

    /// Replaces the content, or makes the item. `found` is told the revision that the item has immediately before,
    /// and only if `go` answers is it written.
    pub(super) async fn write(
        self,
        progress: Progress,
        content: SecretBytes,
        found: oneshot::Sender<Revision>,
        go: oneshot::Receiver<()>,
    ) -> Result<Written, SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        let session = bus.open_session().await?;
        let newest = self.newest(&bus).await?;
        let keyring = match &newest {
            Some(_) => None,
            None => Some(self.keyring(&bus).await?.ok_or_else(|| self.no_keyring())?),
        };
        let _ = found.send(revision_of(newest.as_ref().map(|(_, content)| content)));
        let item = newest.map(|(item, _)| item);
        if go.await.is_err() {
            // Nobody waits any longer.
            return Ok(Written::Gone);
        }
        let result = match (item, keyring) {
            // Where it lies, with the label that it has: replacing it in our keyring could make a second one.
            (Some(item), _) => session.set_secret(&item, &content).await,
            (None, Some(keyring)) => session.create(&keyring, &self.label, &self.attributes, &content).await,
            (None, None) => Err(self.no_keyring()),
        };
        match result {
            Ok(()) => Ok(Written::Done),
            Err(SecretServiceError::ItemGone) => Ok(Written::Gone),
            Err(error) => Err(error),
        }
    }

    /// The contents of all items that can be read without unlocking more than one of them, the newest first.
    pub(super) async fn read_all(self, progress: Progress) -> Result<Vec<SecretBytes>, SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        let (_, contents) = self.all(&bus).await?;
        Ok(contents)
    }

    /// Lets `change` replace the newest content, or make the item, while nobody else does so under the name `turn`:
    /// it is told the contents of all items, and waited for.
    pub(super) async fn update(
        self,
        progress: Progress,
        turn: &'static str,
        found: oneshot::Sender<Vec<SecretBytes>>,
        change: oneshot::Receiver<SecretBytes>,
    ) -> Result<(), SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        bus.take_turn(turn).await?;
        let (newest, contents) = self.all(&bus).await?;
        let _ = found.send(contents);
        let Ok(content) = change.await else { return Ok(()) };
        let session = bus.open_session().await?;
        match newest {
            Some(item) => session.set_secret(&item, &content).await,
            None => {
                let keyring = self.keyring(&bus).await?.ok_or_else(|| self.no_keyring())?;
                session.create(&keyring, &self.label, &self.attributes, &content).await
            }
        }
    }

    /// Whether the service answers and what it has of this item can be read, or the item be made.
    pub(super) async fn probe(self, progress: Progress) -> Result<(), SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        if self.find(&bus, Wanted::Newest).await?.is_empty() && self.keyring(&bus).await?.is_none() {
            return Err(self.no_keyring());
        }
        Ok(())
    }

    /// The path of the newest item, and the contents of all.
    async fn all(&self, bus: &Bus) -> Result<(Option<Path>, Vec<SecretBytes>), SecretServiceError> {
        let session = bus.open_session().await?;
        let (mut newest, mut contents) = (None, Vec::new());
        for item in self.find(bus, Wanted::Newest).await? {
            match session.secret(&item).await {
                Ok(content) => contents.push(content),
                Err(SecretServiceError::ItemGone) => continue,
                Err(error) => return Err(error),
            }
            newest = newest.or(Some(item));
        }
        Ok((newest, contents))
    }

    /// Removes the item, and others with the same attributes: an old one would be the document otherwise. Says
    /// whether there was one.
    pub(super) async fn remove(self, progress: Progress) -> Result<bool, SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        let mut removed = false;
        for item in self.find(&bus, Wanted::All).await? {
            removed |= bus.delete(&item).await?;
        }
        Ok(removed)
    }

    /// The newest item with its content.
    async fn newest(&self, bus: &Bus) -> Result<Option<(Path, SecretBytes)>, SecretServiceError> {
        /// How often an item may vanish between being found and being read.
        const ATTEMPTS: u32 = 3;

        let session = bus.open_session().await?;
        for _ in 0..ATTEMPTS {
            let Some(item) = self.find(bus, Wanted::Newest).await?.into_iter().next() else {
                return Ok(None);
            };
            match session.secret(&item).await {
                Ok(content) => return Ok(Some((item, content))),
                Err(SecretServiceError::ItemGone) => {}
                Err(error) => return Err(error),
            }
        }
        Err(SecretServiceError::ItemGone)
    }

    /// The items with exactly our attributes, newest first, unlocked if need be.
    async fn find(&self, bus: &Bus, wanted: Wanted) -> Result<Vec<Path>, SecretServiceError> {
        let (unlocked, locked) = bus.search(&self.attributes).await?;
        let found = self.ours_among(bus, unlocked).await?;
        if wanted == Wanted::Newest && !found.is_empty() {
            return Ok(found);
        }
        let mut to_unlock = self.ours_among(bus, locked).await?;
        // A keyring that has never been unlocked since the service was started tells nothing of what it has.
        if found.is_empty()
            && to_unlock.is_empty()
            && let Some(keyring) = self.keyring(bus).await?
            && bus.is_locked(&keyring).await?
        {
            to_unlock.push(keyring);
        }
        if to_unlock.is_empty() {
            return Ok(found);
        }
        bus.unlock(&to_unlock, self.prompt).await?;
        let (unlocked, _) = bus.search(&self.attributes).await?;
        self.ours_among(bus, unlocked).await
    }

    /// A search finds every item that has our attributes among others: a schema's name may be shared.
    async fn ours_among(&self, bus: &Bus, items: Vec<Path>) -> Result<Vec<Path>, SecretServiceError> {
        let mut ours = Vec::new();
        for item in items {
            if let Some(found) = bus.properties(&item).await?
                && self.has_attributes(&found.attributes)
            {
                ours.push((Reverse(found.modified), item));
            }
        }
        // The path decides between items of the same second, so that everybody takes the same one.
        ours.sort_by(|one, other| (one.0, one.1.as_str()).cmp(&(other.0, other.1.as_str())));
        Ok(ours.into_iter().map(|(_, item)| item).collect())
    }

    fn has_attributes(&self, found: &Attributes) -> bool {
        self.attributes.iter().all(|(name, value)| found.get(name) == Some(value))
            && found.keys().all(|name| self.attributes.contains_key(name) || is_of_the_service(name))
    }

    async fn keyring(&self, bus: &Bus) -> Result<Option<Path>, SecretServiceError> {
        match &self.collection {
            Collection::Alias(alias) => bus.keyring(alias).await,
            Collection::At(path) => Ok(Some(path.clone())),
        }
    }

    fn no_keyring(&self) -> SecretServiceError {
        let name = match &self.collection {
            Collection::Alias(alias) => alias.clone(),
            Collection::At(path) => path.to_string(),
        };
        SecretServiceError::NoKeyring { name }
    }
}

pub(super) fn revision_of(content: Option<&SecretBytes>) -> Revision {
    content.map_or_else(Revision::absent, |content| Revision::of_bytes(content.expose()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Newest,
    All,
}

/// Whether a service gives its items this attribute of its own accord: GNOME Keyring for clients of an older
/// interface, KeePassXC from an entry's fields.
fn is_of_the_service(name: &str) -> bool {
    const BY_KEEPASSXC: [&str; 6] = ["Notes", "Path", "Title", "URL", "UserName", "Uuid"];

    name.starts_with("gkr:compat:") || BY_KEEPASSXC.contains(&name)
}
