//! Removing a part of a cache on purpose, or all of it.

use std::sync::Arc;

use super::TokenCache;
use super::state::Note;
use super::tombstone::Marked;
use crate::Error;
use crate::schema::{Change, Credential};
use crate::time::UnixSeconds;

/// What [`TokenCache::purge`] removes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purge {
    /// The access tokens that have expired, those too that are kept a while for outages.
    Expired,
    /// All of the application with this client id: its own tokens, those of its users, and the accounts of which no
    /// token is left then.
    Client(String),
    /// All of the user with this `home_account_id` (`uid.utid`): of every application, tenant and host.
    Account(String),
    /// Everything, also what this library does not know. An empty cache is left: programs that have the old content in
    /// memory see that it has changed.
    All,
}

impl Purge {
    /// The change of the cache that this is. With [`Document::apply`](crate::Document::apply) it tells what would be
    /// removed.
    #[must_use]
    pub fn change(&self, now: UnixSeconds) -> Change {
        let change = Change::new(now);
        match self {
            Self::Expired => change.remove_where(Arc::new(
                move |credential| matches!(credential, Credential::AccessToken(token) if token.expires_on <= now),
            )),
            Self::Client(client_id) => change.remove_client(client_id),
            Self::Account(home_account_id) => change.remove_account_everywhere(home_account_id),
            Self::All => change.remove_all(),
        }
    }
}

impl TokenCache {
    /// Removes what `purge` says, and returns it; unreadable entries are removed too, but not returned.
    ///
    /// What another program writes back within 90 days is removed again, as far as this library meets it. Where all is
    /// removed, what is remembered beside the cache goes too, but for the salted hashes by which that is recognised.
    ///
    /// # Errors
    /// The store cannot be read or written; then nothing was removed.
    pub async fn purge(&self, purge: &Purge) -> Result<Vec<Credential>, Error> {
        let now = self.now();
        let marked = match purge {
            Purge::Client(client_id) => {
                self.0.unsaved.forget_those(|token| token.client_id.eq_ignore_ascii_case(client_id));
                self.0.settling.forget(client_id);
                Some(Marked::Client(client_id))
            }
            Purge::All => {
                self.0.unsaved.clear();
                self.0.settling.clear();
                Some(Marked::All)
            }
            Purge::Account(home_account_id) => {
                self.0.unsaved.forget_those(|token| token.is_of_user(home_account_id));
                None
            }
            Purge::Expired => None,
        };
        let removed = self.remove(purge.change(now), marked).await?;
        if *purge == Purge::All && !self.0.state.read(now, |content| content.is_forgotten()).await {
            self.0.state.note(Note::Forgotten, now).await;
        }
        Ok(removed)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use crate::schema::{Account, Applied, CredentialType, Document, Environments};
    use crate::{DocumentStore, MemoryPersistence, MemoryStore, SecretBytes, block_on};

    const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

    /// Two applications, of which one has tokens of itself and both have those of one user; another user of the second.
    fn document() -> SecretBytes {
        let token = |home: &str, client: &str, expires_on: &str| {
            format!(
                r#"{{"credential_type": "AccessToken", "secret": "s-{client}-{home}", "home_account_id": "{home}",
                    "environment": "h", "client_id": "{client}", "target": "t", "realm": "r", "cached_at": "1799990000",
                    "expires_on": "{expires_on}", "extended_expires_on": "1800009999"}}"#
            )
        };
        let account = |home: &str| {
            format!(r#"{{"home_account_id": "{home}", "environment": "h", "realm": "r", "username": "n"}}"#)
        };
        format!(
            r#"{{"AccessToken": {{"1": {}, "2": {}, "3": {}, "4": {}, "bad": {{"client_id": "ONE"}}}},
                "Account": {{"u": {}, "v": {}}},
                "AppMetadata": {{"m": {{"client_id": "one", "environment": "h"}}}},
                "Unknown": {{"x": 1}}}}"#,
            token("", "one", "1799999999"),
            token("u.t", "one", "1800003600"),
            token("u.t", "two", "1800003600"),
            token("v.t", "one", "1800003600"),
            account("u.t"),
            account("v.t"),
        )
        .into_bytes()
        .into()
    }

    fn removes(purge: &Purge) -> (Vec<Credential>, usize, Document) {
        let applied = Document::parse(document()).unwrap().apply(&purge.change(NOW)).unwrap();
        let Applied::Changed { bytes, removed, unreadable, .. } = applied else { panic!("{applied:?}") };
        (removed, unreadable, Document::parse(bytes).unwrap())
    }

    fn count(removed: &[Credential], kind: CredentialType) -> usize {
        removed.iter().filter(|credential| credential.credential_type() == kind).count()
    }

    #[test]
    fn an_application_goes_with_its_users_of_whom_nothing_else_is_left() {
        let (removed, unreadable, left) = removes(&Purge::Client("One".into()));
        assert_eq!((count(&removed, CredentialType::AccessToken), unreadable), (3, 1));
        assert_eq!(count(&removed, CredentialType::AppMetadata), 1);
        let accounts: Vec<_> = removed
            .iter()
            .filter_map(|credential| match credential {
                Credential::Account(Account { home_account_id, .. }) => Some(home_account_id.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(accounts, ["v.t"]);
        assert_eq!(left.entries().count(), 2);
    }

    #[test]
    fn a_user_goes_under_every_host_and_what_has_expired_goes_though_it_is_kept_for_outages() {
        let (removed, _, left) = removes(&Purge::Account("U.T".into()));
        assert_eq!((removed.len(), left.entries().count()), (3, 5));
        let (removed, _, left) = removes(&Purge::Expired);
        assert_eq!((removed.len(), left.entries().count()), (1, 7));
    }

    #[test]
    fn of_everything_nothing_is_left_and_what_is_put_with_it_is_put_afterwards() {
        let (removed, unreadable, left) = removes(&Purge::All);
        assert_eq!((removed.len(), unreadable), (7, 1));
        assert_eq!(left.bytes().expose(), b"{}");
        let put = removed[0].clone();
        let applied = Document::parse(document()).unwrap().apply(&Purge::All.change(NOW).put(put)).unwrap();
        let Applied::Changed { bytes, .. } = applied else { panic!() };
        let document = Document::parse(bytes).unwrap();
        assert_eq!((document.entries().count(), document.concerns(NOW)), (1, Vec::new()));
        let again = document.apply(&Purge::All.change(NOW)).unwrap();
        assert!(matches!(again, Applied::Changed { .. }));
        let empty = Document::parse(SecretBytes::from(b"{}".to_vec())).unwrap();
        assert!(matches!(empty.apply(&Purge::All.change(NOW)), Ok(Applied::Unchanged)));
    }

    #[test]
    fn every_store_removes_the_same() {
        let all: Vec<Credential> = Document::parse(document())
            .unwrap()
            .entries()
            .filter_map(|entry| entry.credential.ok())
            .collect();
        let caches = [
            TokenCache::builder(MemoryStore::new()).clock(Fixed).build(),
            TokenCache::builder(DocumentStore::new(MemoryPersistence::new())).clock(Fixed).build(),
        ];
        for (purge, expected) in [
            (Purge::Client("one".into()), 5),
            (Purge::Account("u.t".into()), 3),
            (Purge::Expired, 1),
            (Purge::All, 7),
        ] {
            for cache in &caches {
                let put = all.iter().cloned().fold(Change::new(NOW).remove_all(), Change::put);
                block_on(cache.0.store.apply(&put)).unwrap();
                assert_eq!(block_on(cache.purge(&purge)).unwrap().len(), expected, "{purge:?} {cache:?}");
            }
        }
    }

    #[test]
    fn what_could_not_be_stored_goes_too() {
        let all: Vec<Credential> = Document::parse(document())
            .unwrap()
            .entries()
            .filter_map(|entry| entry.credential.ok())
            .collect();
        let left = |remove: &dyn Fn(&TokenCache)| {
            let cache = TokenCache::builder(MemoryStore::new()).clock(Fixed).build();
            for credential in &all {
                if let Credential::AccessToken(token) = credential {
                    let error = Error::new(crate::ErrorKind::Storage, "full", "no space");
                    cache.0.unsaved.keep(token.clone(), error, UnixSeconds::new(0));
                }
            }
            remove(&cache);
            cache.0.unsaved.candidates(UnixSeconds::new(0), |_| true).len()
        };
        let host = Environments::of("h");
        assert_eq!(left(&|_| {}), 4);
        for (purge, expected) in [
            (Purge::Client("ONE".into()), 1),
            (Purge::Account("U.T".into()), 2),
            (Purge::Expired, 4),
            (Purge::All, 0),
        ] {
            let purged = |cache: &TokenCache| assert!(block_on(cache.purge(&purge)).unwrap().is_empty());
            assert_eq!(left(&purged), expected, "{purge:?}");
        }
        let signed_out =
            |cache: &TokenCache| assert_eq!(block_on(cache.remove_account("u.t", &host)).unwrap(), 0);
        assert_eq!(left(&signed_out), 2);
        let removed = |cache: &TokenCache| {
            assert_eq!(block_on(cache.remove_tokens_for_client("one", &host)).unwrap(), 0);
        };
        assert_eq!(left(&removed), 3, "those of users stay");
    }

    #[derive(Debug)]
    struct Fixed;

    impl crate::Clock for Fixed {
        fn now(&self) -> UnixSeconds {
            NOW
        }
    }
}
