//! The item that holds the keys of sealed files, for `seal`.
//!
//! A session that has no bus is told from one that has at a glance: nothing is started, nobody is waited for.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::bus::{Attributes, Progress};
use super::error::SecretServiceError;
use super::item::{Collection, Item, SCHEMA};
use super::{Limit, answered, start};
use crate::Error;
use crate::env_vars::SessionBus;
use crate::seal::{ItemChange, KeyItem, KeyItems, KeySourceKind, SealError};
use crate::wait::{BoxFuture, until};

/// The name of the item's schema, and on the bus the name of whoever is writing the item.
const NAME: &str = "strongroom.KeyRing";
const LABEL: &str = "Strongroom: keys of token caches";
/// How long the service may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long a write may take, those who write before included.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// The keys in the Secret Service of this session.
#[derive(Debug, Clone)]
pub(in crate::persistence) struct KeysInService {
    has_address: bool,
    /// The bus where there is no address.
    socket: PathBuf,
    item: Item,
}

impl KeysInService {
    pub(in crate::persistence) fn of(bus: &SessionBus) -> Self {
        let runtime_dir = || format!("/run/user/{}", rustix::process::geteuid().as_raw()).into();
        let attributes = [(SCHEMA, NAME), ("application", "strongroom")];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            has_address: bus.has_address,
            socket: bus.runtime_dir.clone().unwrap_or_else(runtime_dir).join("bus"),
            item: Item {
                bus: None,
                attributes: Attributes::from(attributes.map(owned)),
                label: LABEL.into(),
                collection: Collection::Alias("default".into()),
                // Caches are opened where nobody looks: a dialog would come out of the blue, and be gone in 2 s.
                prompt: false,
            },
        }
    }

    /// Whether the keys can be read, or made.
    pub(in crate::persistence) async fn probe(&self) -> Result<(), Error> {
        self.has_bus().map_err(unavailable)?;
        let progress = Progress::default();
        let limit = Limit::of(DEADLINE);
        let answer = start(self.item.clone().probe(progress.clone())).map_err(unavailable)?;
        answered(answer, limit, &progress).await.map_err(unavailable)
    }

    async fn read_now(&self) -> Result<KeyItems, SecretServiceError> {
        self.has_bus()?;
        let progress = Progress::default();
        let limit = Limit::of(DEADLINE);
        let answer = start(self.item.clone().read_all(progress.clone()))?;
        answered(answer, limit, &progress).await
    }

    async fn update_now(&self, change: ItemChange<'_>) -> Result<(), Error> {
        self.has_bus().map_err(unavailable)?;
        let progress = Progress::default();
        let limit = Limit::of(WRITE_DEADLINE);
        let (found, is_found) = oneshot::channel();
        let (go, may_go) = oneshot::channel();
        let update = self.item.clone().update(progress.clone(), NAME, found, may_go);
        let answer = start(update).map_err(unavailable)?;
        match until(limit.ends, is_found).await {
            Some(Ok(items)) => match change(&items)? {
                Some(new) => drop(go.send(new)),
                None => return Ok(()),
            },
            // It has failed, and its answer says why.
            Some(Err(_)) => {}
            None => return Err(unavailable(progress.timed_out(limit.given))),
        }
        answered(answer, limit, &progress).await.map_err(unavailable)
    }

    pub(super) fn has_bus(&self) -> Result<(), SecretServiceError> {
        if self.has_address || self.socket.exists() {
            return Ok(());
        }
        let reason =
            format!("DBUS_SESSION_BUS_ADDRESS is not set, and there is no {}", self.socket.display());
        Err(SecretServiceError::NoBus(zbus::Error::Failure(reason)))
    }
}

impl KeyItem for KeysInService {
    fn read(&self) -> BoxFuture<'_, Result<KeyItems, Error>> {
        Box::pin(async move { self.read_now().await.map_err(unavailable) })
    }

    fn update<'a>(&'a self, change: ItemChange<'a>) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(self.update_now(change))
    }
}

fn unavailable(error: SecretServiceError) -> Error {
    let (source_name, reason) = (KeySourceKind::SecretService.to_string(), error.to_string());
    Error::from(SealError::SourceUnavailable { source_name, reason, source: None }).with_source(error)
}
