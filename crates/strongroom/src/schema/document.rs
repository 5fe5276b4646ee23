//! The JSON document: read within bounds, indexed by identity, changed by splicing.
//!
//! Bytes that a change does not concern are copied as they are, so unknown sections, unknown entries and unknown
//! fields survive to the letter. A bad entry is kept, reported, and not served; it never costs the others.

use std::borrow::Cow;
use std::fmt;

use super::apply::Edits;
use super::change::Change;
use super::credential::{Credential, CredentialType};
use super::entry::EntryProblem;
use super::index::{Index, MOST_ENTRIES};
use super::key::{CredentialKey, Partition, RecordRevision};
use super::scan::DEEPEST;
use super::target::Scopes;
use crate::SecretBytes;
use crate::error::{Diagnose, ErrorKind};

/// Why bytes are not a cache document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// It begins with a UTF-8 byte order mark, which no MSAL reads.
    #[error("the document begins with a byte order mark")]
    ByteOrderMark,
    /// It does not begin as a JSON object: it is something else than a plain token cache.
    #[error("the content is not a plain token cache: it does not begin with a JSON object")]
    OtherKind,
    /// It begins as a JSON object but is not one: half written, or damaged.
    #[error("the document is damaged: no valid JSON at line {line}, column {column}")]
    Malformed {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// It nests deeper than any token cache.
    #[error("the document nests deeper than {DEEPEST} levels")]
    TooDeep,
    /// It has more entries than this library reads.
    #[error("the document has more than {MOST_ENTRIES} entries")]
    TooManyEntries,
    /// It is larger than this library reads.
    #[error("the document is larger than 4 GiB")]
    TooLarge,
    /// It is a JSON object with none of the sections of a cache: the file of another program.
    #[error("the content is JSON, but no token cache: it has none of the sections of one")]
    NoSections,
    /// A section that has to be written to is not a JSON object.
    #[error("the section {0} is not a JSON object")]
    Section(CredentialType),
}

impl DocumentError {
    /// Whether a peer may be in the middle of writing, so that reading again may help.
    #[must_use]
    pub fn may_be_torn(&self) -> bool {
        matches!(self, Self::Malformed { .. })
    }
}

impl Diagnose for DocumentError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Unusable
    }

    fn code(&self) -> &str {
        match self {
            Self::ByteOrderMark => "byte_order_mark",
            Self::OtherKind | Self::NoSections => "not_a_token_cache",
            Self::Malformed { .. } => "damaged",
            Self::TooDeep => "too_deep",
            Self::TooManyEntries | Self::TooLarge => "too_large",
            Self::Section(_) => "unusable_section",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(
            match self {
                Self::ByteOrderMark => "save the file as UTF-8 without a byte order mark, or choose another location",
                Self::OtherKind => {
                    "open it with the kind of persistence that wrote it (--persistence sealed if it is sealed), or choose another location; the file was not touched"
                }
                Self::NoSections => "check the path; the file was not touched",
                Self::Malformed { .. } => {
                    "the next write moves it aside and begins a new cache; restore a backup if you need what it held"
                }
                Self::TooDeep | Self::TooManyEntries | Self::TooLarge | Self::Section(_) => {
                    "no MSAL writes such a file: check what it is, and choose another location or move it away"
                }
            }
            .into(),
        )
    }
}

/// A cache document and the index of its entries.
///
/// Reading one decodes nothing but what is unusual: entries are decoded when they are asked for.
pub struct Document(Index);

/// One entry of a document, as [`Document::entries`] lists it.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The section that it lies in.
    pub credential_type: CredentialType,
    /// The key that it is stored under.
    pub key: &'a str,
    /// What it is, or why it cannot be used.
    pub credential: Result<Credential, EntryProblem>,
}

/// What became of a change.
#[derive(Debug)]
#[non_exhaustive]
pub enum Applied {
    /// The document is already so.
    Unchanged,
    /// The new document, and what is not in it any more.
    Changed {
        /// The new document.
        bytes: SecretBytes,
        /// Expired access tokens that were removed.
        swept: usize,
        /// What the change removed, but for the expired tokens.
        removed: Vec<Credential>,
        /// How many entries it removed that cannot be read.
        unreadable: usize,
    },
    /// The record with this key is not as the change expected: nothing was done.
    Lost(CredentialKey),
}

impl Document {
    /// A document without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self(Index::default())
    }

    /// Reads a document. Nothing but white space is an empty one.
    ///
    /// # Errors
    /// The bytes as a whole are no cache document; a bad entry is not an error.
    pub fn parse(bytes: SecretBytes) -> Result<Self, DocumentError> {
        Index::read(bytes).map(Self)
    }

    /// The document's bytes.
    #[must_use]
    pub fn bytes(&self) -> &SecretBytes {
        self.0.bytes()
    }

    /// Whether it has no readable entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That it is a cache, or empty: a JSON object with members of which none is a section of a cache is the file of
    /// another program.
    ///
    /// # Errors
    /// [`DocumentError::NoSections`].
    pub fn require_sections(&self) -> Result<(), DocumentError> {
        match self.0.members.is_empty()
            || self.0.members.iter().any(|member| member.kind.is_some() && member.is_object)
        {
            true => Ok(()),
            false => Err(DocumentError::NoSections),
        }
    }

    /// The credential with this identity. Of several entries with the same one the newest.
    #[must_use]
    pub fn get(&self, key: &CredentialKey) -> Option<(Credential, RecordRevision)> {
        let (at, credential) = self.0.newest(std::slice::from_ref(key))?;
        Some((credential, self.0.revision(at)))
    }

    /// All credentials of a partition.
    #[must_use]
    pub fn list(&self, partition: &Partition) -> Vec<(Credential, RecordRevision)> {
        self.list_for(partition, &Scopes::default())
    }

    /// The access tokens of a partition that have all of these scopes, and maybe others: what cannot have them is
    /// not decoded.
    #[must_use]
    pub fn list_for(&self, partition: &Partition, scopes: &Scopes) -> Vec<(Credential, RecordRevision)> {
        let found = self.0.list(partition, scopes).into_iter();
        found.map(|(at, credential)| (credential, self.0.revision(at))).collect()
    }

    /// Every entry of the five sections, in the order of the document, the unreadable ones too.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.0.standing().map(|at| Entry {
            credential_type: self.0.entries[at].kind,
            key: self.0.key(at),
            credential: self.0.credential(at),
        })
    }

    pub(super) fn index(&self) -> &Index {
        &self.0
    }

    /// Applies `change` to this state of the document.
    ///
    /// # Errors
    /// A section that the change writes to is not an object. All is to be removed from what is no cache.
    pub fn apply(&self, change: &Change) -> Result<Applied, DocumentError> {
        if let Some(rest) = change.after_removing_all().filter(|_| !self.0.members.is_empty()) {
            return self.begin_anew(&rest);
        }
        let instead = change.instead.as_ref().and_then(|instead| instead.of(self));
        let mut edits = Edits::new(instead.as_ref().map_or(&self.0, |document| &document.0), change);
        if let Some(lost) = edits.make() {
            return Ok(Applied::Lost(lost));
        }
        if edits.is_empty() && instead.is_none() {
            return Ok(Applied::Unchanged);
        }
        edits.heal();
        Ok(Applied::Changed {
            bytes: edits.splice()?,
            swept: edits.swept,
            removed: edits.removed,
            unreadable: edits.unreadable,
        })
    }

    /// Nothing of this document stays.
    fn begin_anew(&self, change: &Change) -> Result<Applied, DocumentError> {
        self.require_sections()?;
        let bytes = match Self::empty().apply(change)? {
            Applied::Changed { bytes, .. } => bytes,
            Applied::Unchanged => SecretBytes::from(b"{}".to_vec()),
            lost @ Applied::Lost(_) => return Ok(lost),
        };
        let (mut removed, mut unreadable) = (Vec::new(), 0);
        for entry in self.entries() {
            match entry.credential {
                Ok(credential) => removed.push(credential),
                Err(_) => unreadable += 1,
            }
        }
        Ok(Applied::Changed { bytes, swept: 0, removed, unreadable })
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
