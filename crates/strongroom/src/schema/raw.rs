//! Entries as they are written, for who speaks the languages' own JSON: with every field that is there, under the
//! keys that they are stored under.
//!
//! Identity is computed from the fields here too. A stored key says where a new entry goes, nothing else.

use std::fmt;
use std::sync::Arc;

use super::change::Change;
use super::credential::{Credential, CredentialType};
use super::document::Document;
use super::entry::{EntryProblem, Fields};
use super::key::{CredentialKey, Partition};
use super::target::Scopes;
use crate::{SecretBytes, SecretString};

/// One entry of a document as it is written.
pub struct RawEntry<'a> {
    key: &'a str,
    json: &'a str,
    credential: Credential,
}

impl RawEntry<'_> {
    /// The key that it is stored under.
    #[must_use]
    pub fn key(&self) -> &str {
        self.key
    }

    /// Its JSON object, token included.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.json
    }

    /// What it is.
    #[must_use]
    pub fn credential(&self) -> &Credential {
        &self.credential
    }
}

impl fmt::Debug for RawEntry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawEntry").field("key", &self.key).finish_non_exhaustive()
    }
}

/// An entry to be stored under a key of the caller's.
#[derive(Debug, Clone)]
pub(crate) struct EntryPut {
    pub(super) key: String,
    pub(super) credential: Credential,
    pub(super) json: SecretString,
}

/// A document that takes the place of another one. See [`Change::instead_of`].
pub(crate) struct Instead {
    known: SecretBytes,
    document: SecretBytes,
}

impl Document {
    /// The entries of one section that can be read, in the order of the document.
    pub fn raw_entries(&self, kind: CredentialType) -> impl Iterator<Item = RawEntry<'_>> {
        let index = self.index();
        index.standing().filter(move |at| index.entries[*at].kind == kind).filter_map(|at| self.raw(at))
    }

    /// The access tokens of a partition that have all of these scopes, and maybe others: what cannot have them is not
    /// decoded.
    #[must_use]
    pub fn raw_access_tokens(&self, partition: &Partition, scopes: &Scopes) -> Vec<RawEntry<'_>> {
        let index = self.index();
        let found = index.list(partition, scopes).into_iter();
        found
            .map(|(at, credential)| RawEntry { key: index.key(at), json: index.value(at), credential })
            .collect()
    }

    /// The entry that is stored under `key`, if it can be read.
    #[must_use]
    pub fn raw_entry(&self, kind: CredentialType, key: &str) -> Option<RawEntry<'_>> {
        self.raw(self.index().named(kind, key)?)
    }

    fn raw(&self, at: usize) -> Option<RawEntry<'_>> {
        let index = self.index();
        let credential = index.credential(at).ok()?;
        Some(RawEntry { key: index.key(at), json: index.value(at), credential })
    }
}

impl Change {
    /// Stores an entry that a caller has as JSON, under a key of its own making, with all of its fields.
    ///
    /// Where the same credential is stored already, that entry is replaced and keeps its key. Where another one
    /// stands under `key`, that one stays, and a dash is put to the key; but of tokens that are bound to a key a
    /// place has room for one, as with MSAL Python.
    ///
    /// # Errors
    /// It is no object, or lacks a field that every entry of its kind has: some language could not read the document
    /// any more, or not find its own tokens in it.
    pub fn put_entry(
        mut self,
        kind: CredentialType,
        key: impl Into<String>,
        json: SecretString,
    ) -> Result<Self, EntryProblem> {
        let key = key.into();
        let credential = credential(kind, &key, &json)?;
        self.entry_puts.push(EntryPut { key, credential, json });
        Ok(self)
    }

    /// Removes the credential that an entry is, every entry of it, under whatever key. Of `json` the fields count that
    /// say what it is.
    ///
    /// # Errors
    /// It is no object, or lacks a field that every entry of its kind has.
    pub fn remove_entry(
        mut self,
        kind: CredentialType,
        key: &str,
        json: &SecretString,
    ) -> Result<Self, EntryProblem> {
        let credential = credential(kind, key, json)?;
        if let Credential::AccessToken(token) = &credential
            && token.is_app_token()
            && !self.removed_from.contains(&token.client_id)
        {
            self.removed_from.push(token.client_id.clone());
        }
        Ok(self.remove(CredentialKey::of(&credential)))
    }

    /// Makes the change to `document` if the document that is stored is still `known`, byte for byte. Otherwise to the
    /// one that is stored, as always.
    #[must_use]
    pub fn instead_of(mut self, known: SecretBytes, document: &Document) -> Self {
        self.instead = Some(Arc::new(Instead { known, document: document.bytes().share() }));
        self
    }

    /// The access tokens that it stores.
    pub(crate) fn access_tokens(&self) -> impl Iterator<Item = &super::AccessToken> {
        let puts = self.puts.iter().map(|put| &put.credential);
        puts.chain(self.entry_puts.iter().map(|put| &put.credential)).filter_map(
            |credential| match credential {
                Credential::AccessToken(token) => Some(token),
                _ => None,
            },
        )
    }

    /// The applications of whose own tokens it removes some by their identity.
    pub(crate) fn removed_from(&self) -> &[String] {
        &self.removed_from
    }
}

impl fmt::Debug for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Instead")
    }
}

impl Instead {
    /// The document to change instead of `stored`.
    pub(super) fn of(&self, stored: &Document) -> Option<Document> {
        if *stored.bytes() != self.known {
            return None;
        }
        // It was parsed before.
        Document::parse(self.document.share()).ok()
    }
}

/// The credential that an entry of section `kind` is.
fn credential(kind: CredentialType, key: &str, json: &SecretString) -> Result<Credential, EntryProblem> {
    Fields::read(json.expose())?.into_credential(kind, key)
}
