//! One item of the Secret Service: which of those that a search finds it is, and how it is read, replaced, removed.

use std::cmp::Reverse;

use tokio::sync::oneshot;

use super::bus::{Attributes, Bus, NEEDS_PROMPT, Path, Progress, Session};
use super::error::SecretServiceError;
use crate::SecretBytes;
use crate::persistence::Revision;
use crate::seal::{KeyItems, NewKeys};

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

    /// The contents of all items with our attributes that can be read, in our keyring and in others.
    pub(super) async fn read_all(self, progress: Progress) -> Result<KeyItems, SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        let session = bus.open_session().await?;
        Ok(self.everywhere(&bus).await?.read(&session).await?.1)
    }

    /// Lets `change` replace an item of our keyring, or make one there, while nobody else does so under the name
    /// `turn`: it is told the contents of all items, and waited for. Items of other keyrings are never written.
    pub(super) async fn update(
        self,
        progress: Progress,
        turn: &'static str,
        found: oneshot::Sender<KeyItems>,
        change: oneshot::Receiver<NewKeys>,
    ) -> Result<(), SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        bus.take_turn(turn).await?;
        let session = bus.open_session().await?;
        let (own, contents) = self.everywhere(&bus).await?.read(&session).await?;
        let _ = found.send(contents);
        let Ok(new) = change.await else { return Ok(()) };
        match new.replaces.and_then(|at| own.get(at)) {
            Some(item) => session.set_secret(item, &new.content).await,
            None => {
                let keyring = self.keyring(&bus).await?.ok_or_else(|| self.no_keyring())?;
                session.create(&keyring, &self.label, &self.attributes, &new.content).await
            }
        }
    }

    /// Whether the service answers and what our keyring has of this item can be read, or the item be made there.
    pub(super) async fn probe(self, progress: Progress) -> Result<(), SecretServiceError> {
        let bus = Bus::connect(self.bus.as_deref(), progress).await?;
        let everywhere = self.everywhere(&bus).await?;
        match everywhere.keyring {
            None => Err(self.no_keyring()),
            Some(_) if everywhere.is_locked && everywhere.own.is_empty() => {
                Err(SecretServiceError::Locked { reason: NEEDS_PROMPT })
            }
            Some(_) => Ok(()),
        }
    }

    /// Our items in all keyrings, unlocked where that takes no prompt.
    async fn everywhere(&self, bus: &Bus) -> Result<Everywhere, SecretServiceError> {
        let keyring = self.keyring(bus).await?;
        let mut everywhere = self.look_everywhere(bus, keyring).await?;
        let mut to_unlock = std::mem::take(&mut everywhere.locked);
        // A keyring that has never been unlocked since the service was started tells nothing of what it has.
        to_unlock.extend(everywhere.keyring.clone().filter(|_| everywhere.is_locked));
        if to_unlock.is_empty() {
            return Ok(everywhere);
        }
        match bus.unlock(&to_unlock, false).await {
            // What needs a prompt stays locked. The others may have what is wanted.
            Ok(()) | Err(SecretServiceError::Locked { .. }) => {
                self.look_everywhere(bus, everywhere.keyring).await
            }
            Err(error) => Err(error),
        }
    }

    async fn look_everywhere(
        &self,
        bus: &Bus,
        keyring: Option<Path>,
    ) -> Result<Everywhere, SecretServiceError> {
        let (unlocked, locked) = bus.search(&self.attributes).await?;
        let found = self.ours_among(bus, unlocked).await?;
        let (own, others) =
            found.into_iter().partition(|item| keyring.as_ref().is_some_and(|keyring| is_in(item, keyring)));
        let locked = self.ours_among(bus, locked).await?;
        let is_locked = match &keyring {
            Some(keyring) => bus.is_locked(keyring).await?,
            None => false,
        };
        Ok(Everywhere { keyring, own, others, locked, is_locked })
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

/// Our items, the newest first.
struct Everywhere {
    keyring: Option<Path>,
    /// Those in our keyring.
    own: Vec<Path>,
    others: Vec<Path>,
    /// Those that cannot be read, wherever they are.
    locked: Vec<Path>,
    /// Whether our keyring is locked.
    is_locked: bool,
}

impl Everywhere {
    /// The items of our keyring that are still there, and the contents of all.
    async fn read(self, session: &Session<'_>) -> Result<(Vec<Path>, KeyItems), SecretServiceError> {
        let (own, own_contents) = contents_of(self.own, session).await?;
        let (_, others) = contents_of(self.others, session).await?;
        let has_locked = !self.locked.is_empty();
        Ok((own, KeyItems { own: own_contents, others, is_locked: self.is_locked, has_locked }))
    }
}

async fn contents_of(
    items: Vec<Path>,
    session: &Session<'_>,
) -> Result<(Vec<Path>, Vec<SecretBytes>), SecretServiceError> {
    let (mut there, mut contents) = (Vec::new(), Vec::new());
    for item in items {
        match session.secret(&item).await {
            Ok(content) => {
                contents.push(content);
                there.push(item);
            }
            Err(SecretServiceError::ItemGone) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((there, contents))
}

/// Whether an item lies in a keyring: the path of an item begins with that of its keyring.
fn is_in(item: &Path, keyring: &Path) -> bool {
    item.as_str().strip_prefix(keyring.as_str()).is_some_and(|rest| rest.starts_with('/'))
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
