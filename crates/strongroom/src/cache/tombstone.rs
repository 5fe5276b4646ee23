//! Tombstones: what was removed here stays removed, though a peer may write it again.
//!
//! MSAL Node and Java keep in memory what others delete, and write it back. A tombstone recognises it by a salted
//! hash of its secret, so a new sign-in, which brings new secrets, is not touched.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::settle;
use super::state::{self, Content, Note, State};
use crate::schema::{AccessToken, Credential, Partition};
use crate::{Error, UnixSeconds};

const LIFETIME: i64 = 90 * 86_400;
/// How far another machine's clock may be ahead, in seconds.
const SKEW: i64 = 300;
/// Stands in a marker for every application.
const EVERY_CLIENT: &str = "*";

/// Something that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    /// Where it would lie again; empty where a removal is noted and nothing was there.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    partition: String,
    /// The salted hash of its secret. An account has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// The account that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    home_account_id: Option<String>,
    /// The application whose own tokens were removed, or [`EVERY_CLIENT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// Unix seconds.
    at: i64,
    /// Until when it holds, where that is less than [`LIFETIME`]: an access token needs none beyond its own end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<i64>,
    /// Fields of later versions are kept.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

impl Tombstone {
    fn new(now: UnixSeconds) -> Self {
        Self {
            partition: String::new(),
            secret: None,
            home_account_id: None,
            client_id: None,
            at: now.get(),
            until: None,
            rest: BTreeMap::new(),
        }
    }

    /// One from the future was made under another clock.
    pub(super) fn holds(&self, now: UnixSeconds) -> bool {
        let age = now.since(UnixSeconds::new(self.at));
        (-SKEW..LIFETIME).contains(&age) && self.until.is_none_or(|until| now.get() < until)
    }

    /// What is removed, whenever that was.
    pub(super) fn identity(&self) -> (&str, Option<&str>, Option<&str>, Option<&str>) {
        (&self.partition, self.secret.as_deref(), self.home_account_id.as_deref(), self.client_id.as_deref())
    }

    /// What is lost with it.
    pub(super) fn worth(&self) -> Worth {
        match (&self.client_id, self.until) {
            (Some(_), _) => Worth::Marker,
            (None, Some(_)) => Worth::AccessToken,
            (None, None) => Worth::SignOut,
        }
    }
}

/// What a tombstone is worth where there is no room for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worth {
    /// Without it a token may come back that ends within hours.
    AccessToken,
    /// Without it a user may be signed in again.
    SignOut,
    /// Without it all of an application's tokens are put back. It is short-lived.
    Marker,
}

impl Worth {
    /// What is given up first comes first.
    pub(super) const ALL: [Self; 3] = [Self::AccessToken, Self::SignOut, Self::Marker];
}

/// Whose tokens are being removed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Marked<'a> {
    Client(&'a str),
    All,
}

/// Notes that an application's own tokens are being removed. Before they are, so that whoever finds one gone and might
/// put it back is told; and whether there are any or not, for a peer may just have erased them.
pub(super) async fn mark(state: &State, marked: Marked<'_>, now: UnixSeconds) -> Result<(), Error> {
    let client_id = match marked {
        Marked::Client(client_id) => client_id,
        Marked::All => EVERY_CLIENT,
    };
    let marker = Tombstone {
        client_id: Some(client_id.to_owned()),
        // Nobody puts back what was stored longer ago.
        until: Some(now.plus(settle::MEMORY + SKEW).get()),
        ..Tombstone::new(now)
    };
    state.try_note(Note::Buried(vec![marker]), now).await
}

/// Notes that these were removed.
pub(super) async fn bury(state: &State, removed: &[Credential], now: UnixSeconds) -> Result<(), Error> {
    // Whoever writes the file first decides on its salt; what was hashed with another is hashed again.
    for _ in 0..3 {
        let salt = state.salt().await;
        let tombstones: Vec<Tombstone> =
            removed.iter().filter_map(|credential| tombstone(credential, &salt, now)).collect();
        if !tombstones.is_empty() {
            state.try_note(Note::Buried(tombstones), now).await?;
        }
        if state.salt().await == salt {
            break;
        }
    }
    Ok(())
}

fn tombstone(credential: &Credential, salt: &str, now: UnixSeconds) -> Option<Tombstone> {
    let blank = Tombstone { partition: Partition::of(credential).as_str().to_owned(), ..Tombstone::new(now) };
    Some(match credential {
        Credential::Account(account) => {
            Tombstone { home_account_id: Some(account.home_account_id.clone()), ..blank }
        }
        _ => Tombstone {
            secret: Some(hash(salt, secret_of(credential)?)),
            until: match credential {
                Credential::AccessToken(token) => Some(token.ends().get()),
                _ => None,
            },
            ..blank
        },
    })
}

/// What was removed and must not come back.
#[derive(Debug, Clone)]
pub(super) struct Graveyard {
    salt: String,
    tombstones: Vec<Tombstone>,
}

impl Graveyard {
    pub(super) async fn of(state: &State, now: UnixSeconds) -> Self {
        let tombstones = state.read(now, |content| standing(content, now)).await;
        // Only who has removed something needs to know by what it is recognised.
        let salt = if tombstones.is_empty() { String::new() } else { state.salt().await };
        Self { salt, tombstones }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tombstones.is_empty()
    }

    /// Where something may have come back.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        let names: BTreeSet<&str> = self.tombstones.iter().map(|tombstone| &*tombstone.partition).collect();
        names.into_iter().filter(|name| !name.is_empty()).map(Partition::from_stored).collect()
    }

    /// Whether `credential` was removed and has come back. Of an account that can only be said of its name.
    pub(super) fn holds(&self, credential: &Credential) -> bool {
        let partition = Partition::of(credential);
        let here = || self.tombstones.iter().filter(|tombstone| tombstone.partition == partition.as_str());
        if here().next().is_none() {
            return false;
        }
        match secret_of(credential) {
            Some(secret) => {
                let hash = hash(&self.salt, secret);
                here().any(|tombstone| tombstone.secret.as_ref() == Some(&hash))
            }
            None => matches!(credential, Credential::Account(_)),
        }
    }

    /// Whether the application's own tokens were removed at `since` or later.
    pub(super) fn has_removal_since(&self, client_id: &str, since: UnixSeconds) -> bool {
        has_removal_since(&self.tombstones, client_id, since)
    }

    /// The tombstones of this very credential.
    pub(super) fn of_credential(&self, credential: &Credential) -> Vec<Tombstone> {
        let Some(secret) = secret_of(credential).filter(|_| !self.is_empty()) else { return Vec::new() };
        let hash = hash(&self.salt, secret);
        self.tombstones.iter().filter(|tombstone| tombstone.secret.as_ref() == Some(&hash)).cloned().collect()
    }

    /// The accounts that were removed.
    pub(super) fn accounts(&self) -> Vec<String> {
        self.tombstones.iter().filter_map(|tombstone| tombstone.home_account_id.clone()).collect()
    }

    /// The tombstones of accounts that are in use again.
    pub(super) fn of_accounts(&self, home_account_ids: &[String]) -> Vec<Tombstone> {
        let theirs = |tombstone: &&Tombstone| {
            tombstone.home_account_id.as_ref().is_some_and(|id| home_account_ids.contains(id))
        };
        self.tombstones.iter().filter(theirs).cloned().collect()
    }
}

/// Those of `tokens` whose application's tokens were not removed since they were stored, as the file says now: to be
/// asked by who has the lock, without which nobody can note a removal.
pub(super) async fn without_removed(
    state: &State,
    tokens: Vec<(AccessToken, UnixSeconds)>,
    now: UnixSeconds,
) -> Vec<AccessToken> {
    let tombstones = state.read_anew(now, |content| standing(content, now)).await;
    let stays = |token: &AccessToken, stored| !has_removal_since(&tombstones, &token.client_id, stored);
    tokens.into_iter().filter(|(token, stored)| stays(token, *stored)).map(|(token, _)| token).collect()
}

fn standing(content: &Content, now: UnixSeconds) -> Vec<Tombstone> {
    content.tombstones().filter(|tombstone| tombstone.holds(now)).cloned().collect()
}

fn has_removal_since(tombstones: &[Tombstone], client_id: &str, since: UnixSeconds) -> bool {
    tombstones.iter().any(|tombstone| {
        tombstone
            .client_id
            .as_ref()
            .is_some_and(|id| id == EVERY_CLIENT || id.eq_ignore_ascii_case(client_id))
            && UnixSeconds::new(tombstone.at).since(since) >= 0
    })
}

fn hash(salt: &str, secret: &str) -> String {
    state::hash(salt, &[b"tombstone", secret.as_bytes()])
}

fn secret_of(credential: &Credential) -> Option<&str> {
    match credential {
        Credential::AccessToken(token) => Some(token.secret.expose()),
        Credential::RefreshToken(token) => Some(token.secret.expose()),
        Credential::IdToken(token) => Some(token.secret.expose()),
        Credential::Account(_) | Credential::AppMetadata(_) => None,
    }
}
