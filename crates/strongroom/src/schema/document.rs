//! The JSON document: read within bounds, indexed by identity, changed by splicing.
//!
//! Bytes that a change does not concern are copied as they are, so unknown sections, unknown entries and unknown
//! fields survive to the letter. A bad entry is kept, reported, and not served; it never costs the others.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::change::{Change, Expectation, Put};
use super::credential::{AccessToken, Credential, CredentialType};
use super::dialect::{Dialect, NoHomeAccount};
use super::entry::{self, EntryProblem, Fields, Shape, Text};
use super::environment::cloud_of;
use super::key::{CredentialKey, Partition, RecordRevision};
use crate::error::{Diagnose, ErrorKind};
use crate::{SecretBytes, UnixSeconds};

/// How deeply a document may nest. Those of the libraries nest four levels.
const DEEPEST: usize = 64;
/// How many entries a document may have.
const MOST_ENTRIES: usize = 1_000_000;

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
            Self::OtherKind => "not_a_token_cache",
            Self::Malformed { .. } => "damaged",
            Self::TooDeep => "too_deep",
            Self::TooManyEntries => "too_large",
            Self::Section(_) => "unusable_section",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(
            match self {
                Self::ByteOrderMark => "save the file as UTF-8 without a byte order mark, or choose another location",
                Self::OtherKind => {
                    "choose another location, or open it with the kind of persistence that wrote it; the file was not touched"
                }
                Self::Malformed { .. } => {
                    "the next write moves it aside and begins a new cache; restore a backup if you need what it held"
                }
                Self::TooDeep | Self::TooManyEntries | Self::Section(_) => {
                    "no MSAL writes such a file: check what it is, and choose another location or move it away"
                }
            }
            .into(),
        )
    }
}

/// A cache document and the index of its entries.
pub struct Document {
    bytes: SecretBytes,
    members: Vec<Member>,
    entries: Vec<Indexed>,
    by_key: HashMap<CredentialKey, Vec<usize>>,
    by_partition: HashMap<Partition, Vec<usize>>,
    /// White space between the last member and the closing brace, and whatever white space follows.
    tail: Range<usize>,
}

/// A member of the top-level object.
struct Member {
    kind: Option<CredentialType>,
    /// White space before the name.
    lead: Range<usize>,
    /// From the name's opening quote to the end of the value.
    span: Range<usize>,
    value: Range<usize>,
    /// White space before the closing brace, if the value is an object.
    tail: Range<usize>,
    is_object: bool,
    /// A later member of the same name takes its place.
    shadowed: bool,
}

struct Indexed {
    kind: CredentialType,
    member: usize,
    key: Box<str>,
    lead: Range<usize>,
    span: Range<usize>,
    value: Range<usize>,
    shadowed: bool,
    /// MSAL Go 1.0 wrote keys with capitals; where the lower-case twin exists, that one is the newer.
    outdated: bool,
    content: Result<Known, EntryProblem>,
}

/// What the index keeps of a readable entry.
struct Known {
    /// Cached or modified at: the newest of several wins.
    written: i64,
    /// When an access token is of no use any more.
    ends: Option<i64>,
    /// How an application's token spells that it has no user.
    no_home_account: Option<NoHomeAccount>,
}

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
    /// The new document, and how many expired access tokens were left out of it.
    Changed {
        /// The new document.
        bytes: SecretBytes,
        /// Expired access tokens that were removed.
        swept: usize,
    },
    /// The record with this key is not as the change expected: nothing was done.
    Lost(CredentialKey),
}

impl Document {
    /// A document without entries.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            bytes: SecretBytes::default(),
            members: Vec::new(),
            entries: Vec::new(),
            by_key: HashMap::new(),
            by_partition: HashMap::new(),
            tail: 0..0,
        }
    }

    /// Reads a document. Nothing but white space is an empty one.
    ///
    /// # Errors
    /// The bytes as a whole are no cache document; a bad entry is not an error.
    pub fn parse(bytes: SecretBytes) -> Result<Self, DocumentError> {
        if bytes.expose().starts_with(b"\xef\xbb\xbf") {
            return Err(DocumentError::ByteOrderMark);
        }
        let Some(start) = bytes.expose().iter().position(|byte| !is_space(*byte)) else {
            return Ok(Self::empty());
        };
        if bytes.expose()[start] != b'{' {
            return Err(DocumentError::OtherKind);
        }
        check_depth(bytes.expose())?;
        let text = std::str::from_utf8(bytes.expose()).map_err(|error| {
            let valid = &bytes.expose()[..error.valid_up_to()];
            position(valid)
        })?;

        let mut members: Vec<Member> = Vec::new();
        let mut entries: Vec<Indexed> = Vec::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        let mut cursor = Cursor { text, at: start + 1 };
        let top: Vec<(Cow<'_, str>, &RawValue)> = raw_members(text)?;
        for (name, raw) in top {
            let (lead, span, value) = cursor.member(raw);
            let kind = CredentialType::from_section(&name);
            let index = members.len();
            if let Some(earlier) = names.insert(name.into_owned(), index) {
                members[earlier].shadowed = true;
            }
            let is_object = raw.get().starts_with('{');
            let mut tail = value.end..value.end;
            if let (Some(kind), true) = (kind, is_object) {
                tail = read_section(text, raw, kind, index, &value, &mut entries)?;
            }
            members.push(Member { kind, lead, span, value, tail, is_object, shadowed: false });
        }
        let tail = cursor.rest();
        let mut document =
            Self { members, entries, by_key: HashMap::new(), by_partition: HashMap::new(), tail, bytes };
        document.index();
        Ok(document)
    }

    /// The document's bytes.
    #[must_use]
    pub fn bytes(&self) -> &SecretBytes {
        &self.bytes
    }

    /// Whether it has no readable entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The credential with this identity. Of several entries with the same one the newest.
    #[must_use]
    pub fn get(&self, key: &CredentialKey) -> Option<(Credential, RecordRevision)> {
        let at = self.candidates(key).max_by_key(|at| self.written(*at))?;
        Some((self.credential(at).ok()?, self.revision(at)))
    }

    /// All credentials of a partition.
    #[must_use]
    pub fn list(&self, partition: &Partition) -> Vec<(Credential, RecordRevision)> {
        let indices = self.by_partition.get(partition).map(Vec::as_slice).unwrap_or_default();
        indices
            .iter()
            .filter(|at| !self.entries[**at].outdated)
            .filter_map(|at| Some((self.credential(*at).ok()?, self.revision(*at))))
            .collect()
    }

    /// Every entry of the five sections, in the order of the document, the unreadable ones too.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.entries.iter().enumerate().filter(|(_, entry)| !entry.shadowed).map(|(at, entry)| Entry {
            credential_type: entry.kind,
            key: &entry.key,
            credential: self.credential(at),
        })
    }

    /// Applies `change` to this state of the document.
    ///
    /// # Errors
    /// A section that the change writes to is not an object.
    pub fn apply(&self, change: &Change) -> Result<Applied, DocumentError> {
        let mut edits = Edits::default();
        for put in &change.puts {
            let matching = self.matching(&change.keys_of(&put.credential));
            if !self.as_expected(put, &matching) {
                return Ok(Applied::Lost(CredentialKey::of(&put.credential)));
            }
            match &put.credential {
                Credential::AppMetadata(_) => self.put_app_metadata(put, &matching, &mut edits),
                credential if matching.is_empty() => self.add(credential, change, &mut edits),
                credential => {
                    for at in matching {
                        self.replace(at, credential, &mut edits);
                    }
                }
            }
        }
        self.remove(&change.removals, &mut edits);
        let swept = if change.sweep { self.sweep(change.now, &mut edits) } else { 0 };
        if edits.is_empty() {
            return Ok(Applied::Unchanged);
        }
        self.heal(change, &mut edits);
        Ok(Applied::Changed { bytes: self.splice(&edits)?, swept })
    }

    fn index(&mut self) {
        // The last of equal keys wins, as with every peer.
        let mut last: HashMap<(usize, &str), usize> = HashMap::with_capacity(self.entries.len());
        for (at, entry) in self.entries.iter().enumerate() {
            last.insert((entry.member, &entry.key), at);
        }
        let mut marks = vec![(false, false); self.entries.len()];
        for (at, entry) in self.entries.iter().enumerate() {
            let shadowed = self.members[entry.member].shadowed || last[&(entry.member, &*entry.key)] != at;
            let twin = entry.key.chars().any(char::is_uppercase).then(|| entry.key.to_lowercase());
            let outdated = twin.is_some_and(|key| {
                last.get(&(entry.member, key.as_str()))
                    .is_some_and(|twin| self.entries[*twin].content.is_ok())
            });
            marks[at] = (shadowed, outdated);
        }
        for (entry, (shadowed, outdated)) in self.entries.iter_mut().zip(marks) {
            entry.shadowed = shadowed;
            entry.outdated = outdated;
        }
        for at in 0..self.entries.len() {
            let credential = if self.entries[at].shadowed { None } else { self.credential(at).ok() };
            if let Some(credential) = credential {
                self.by_key.entry(CredentialKey::of(&credential)).or_default().push(at);
                self.by_partition.entry(Partition::of(&credential)).or_default().push(at);
            }
        }
    }

    fn credential(&self, at: usize) -> Result<Credential, EntryProblem> {
        let entry = &self.entries[at];
        if let Err(problem) = &entry.content {
            return Err(*problem);
        }
        Fields::read(self.text(&entry.value))?.into_credential(entry.kind, &entry.key)
    }

    fn revision(&self, at: usize) -> RecordRevision {
        // Only ever compared within this process, with revisions made by the same function.
        let mut hasher = DefaultHasher::new();
        self.text(&self.entries[at].value).hash(&mut hasher);
        RecordRevision::new(hasher.finish())
    }

    fn written(&self, at: usize) -> i64 {
        self.entries[at].content.as_ref().map_or(i64::MIN, |known| known.written)
    }

    fn candidates(&self, key: &CredentialKey) -> impl Iterator<Item = usize> {
        self.by_key.get(key).into_iter().flatten().copied().filter(|at| !self.entries[*at].outdated)
    }

    fn matching(&self, keys: &[CredentialKey]) -> Vec<usize> {
        keys.iter().filter_map(|key| self.by_key.get(key)).flatten().copied().collect()
    }

    fn as_expected(&self, put: &Put, matching: &[usize]) -> bool {
        match put.expectation {
            Expectation::Any => true,
            Expectation::Absent => matching.is_empty(),
            Expectation::Unchanged(revision) => matching
                .iter()
                .copied()
                .max_by_key(|at| self.written(*at))
                .is_some_and(|at| self.revision(at) == revision),
        }
    }

    /// Python finds this one entry by its stored key only, so it is always there under exactly that key.
    fn put_app_metadata(&self, put: &Put, matching: &[usize], edits: &mut Edits) {
        let key = stored_key(&put.credential, Dialect::Python, environment(&put.credential));
        let present = matching.iter().copied().find(|at| *self.entries[*at].key == *key);
        let Credential::AppMetadata(new) = &put.credential else { return };
        match present {
            Some(at) => {
                // A response without a family does not take it away from the application.
                let same = matches!(self.credential(at), Ok(Credential::AppMetadata(old))
                    if new.family_id.is_none() || old.family_id == new.family_id);
                if !same {
                    self.replace(at, &put.credential, edits);
                }
            }
            None => {
                let shape = Shape::new(&put.credential, NoHomeAccount::Null, environment(&put.credential));
                self.add_under(
                    key,
                    CredentialType::AppMetadata,
                    entry::write(&put.credential, &shape),
                    edits,
                );
            }
        }
    }

    /// A new entry, in the caller's dialect or the document's.
    fn add(&self, credential: &Credential, change: &Change, edits: &mut Edits) {
        let app_token = matches!(credential, Credential::AccessToken(token) if token.is_app_token());
        let dialect = match change.dialect {
            _ if !app_token => Dialect::Python,
            Some(dialect) => dialect,
            None => self.dominant_dialect(),
        };
        let environment = match (dialect, &change.environments) {
            (Dialect::Python, _) => environment(credential),
            (Dialect::Node, Some(environments)) => environments.preferred_cache(),
            (Dialect::Node, None) => {
                cloud_of(environment(credential)).map_or(environment(credential), |cloud| cloud.cache)
            }
        };
        let shape = Shape::new(credential, dialect.no_home_account(), environment);
        let key = stored_key(credential, dialect, environment);
        self.add_under(key, credential.credential_type(), entry::write(credential, &shape), edits);
    }

    /// Adds an entry under `key`, or replaces what cannot be read there. Another credential that stands there
    /// (Python stores a PoP token under a bearer token's key) keeps its place: the key gets a dash more.
    fn add_under(&self, mut key: String, kind: CredentialType, value: SecretBytes, edits: &mut Edits) {
        loop {
            if let Some((_, _, place)) =
                edits.added.iter_mut().find(|(k, name, _)| *k == kind && *name == key)
            {
                *place = value;
                return;
            }
            let standing = self
                .entries
                .iter()
                .position(|entry| entry.kind == kind && !entry.shadowed && *entry.key == *key);
            match standing {
                None => return edits.added.push((kind, key, value)),
                Some(at) if self.entries[at].content.is_err() => {
                    edits.changed.insert(at, Some(value));
                    return;
                }
                Some(_) => key.push('-'),
            }
        }
    }

    /// The same entry with another token: it keeps its key, its shape and the fields of others.
    fn replace(&self, at: usize, credential: &Credential, edits: &mut Edits) {
        let raw = self.text(&self.entries[at].value);
        let Ok(fields) = Fields::read(raw) else { return };
        let shape = Shape {
            credential_type: fields.credential_type.as_deref(),
            no_home_account: fields.no_home_account.unwrap_or(NoHomeAccount::Absent),
            environment: fields.environment.as_deref().unwrap_or_else(|| environment(credential)),
            target: fields.target.as_deref(),
            unknown: entry::unknown_fields(raw),
        };
        edits.changed.insert(at, Some(entry::write(credential, &shape)));
    }

    fn remove(&self, keys: &[CredentialKey], edits: &mut Edits) {
        let stored: HashSet<(usize, &str)> = self
            .matching(keys)
            .into_iter()
            .map(|at| (self.entries[at].member, &*self.entries[at].key))
            .collect();
        if stored.is_empty() {
            return;
        }
        for (at, entry) in self.entries.iter().enumerate() {
            // An earlier entry of the same stored key goes too, else it would come back in its place.
            if stored.contains(&(entry.member, &*entry.key)) {
                edits.changed.insert(at, None);
            }
        }
    }

    fn dominant_dialect(&self) -> Dialect {
        let count = |shape| self.app_tokens(shape).count();
        if count(NoHomeAccount::Empty) > count(NoHomeAccount::Null) + count(NoHomeAccount::Absent) {
            Dialect::Node
        } else {
            Dialect::Python
        }
    }

    fn app_tokens(&self, shape: NoHomeAccount) -> impl Iterator<Item = usize> {
        let known = self.entries.iter().enumerate().filter(|(_, entry)| !entry.shadowed);
        known
            .filter(
                move |(_, entry)| matches!(&entry.content, Ok(known) if known.no_home_account == Some(shape)),
            )
            .map(|(at, _)| at)
    }

    fn sweep(&self, now: UnixSeconds, edits: &mut Edits) -> usize {
        let mut swept = 0;
        for (at, entry) in self.entries.iter().enumerate() {
            let ended = matches!(&entry.content, Ok(Known { ends: Some(ends), .. }) if *ends <= now.get());
            if ended && !edits.changed.contains_key(&at) {
                edits.changed.insert(at, None);
                swept += usize::from(!entry.shadowed);
            }
        }
        swept
    }

    /// A Go, Java or .NET rewrite drops `"home_account_id": null`, which Python needs to find an application's
    /// token. Where Python is at home in the document, it is given back.
    fn heal(&self, change: &Change, edits: &mut Edits) {
        let python_at_home =
            change.dialect == Some(Dialect::Python) || self.app_tokens(NoHomeAccount::Null).next().is_some();
        if !python_at_home {
            return;
        }
        for at in self.app_tokens(NoHomeAccount::Absent) {
            let value = &self.entries[at].value;
            edits.changed.entry(at).or_insert_with(|| {
                let mut healed = SecretBytes::with_capacity(value.len() + 32);
                healed.extend(b"{\"home_account_id\": null, ");
                healed.extend(&self.bytes.expose()[value.start + 1..value.end]);
                Some(healed)
            });
        }
    }

    fn splice(&self, edits: &Edits) -> Result<SecretBytes, DocumentError> {
        let bytes = self.bytes.expose();
        let grown: usize =
            edits.added.iter().map(|(_, key, value)| key.len() + value.len() + 64).sum::<usize>()
                + edits.changed.values().flatten().map(SecretBytes::len).sum::<usize>();
        let mut out = SecretBytes::with_capacity(bytes.len() + grown + 256);
        let mut writer = ObjectWriter::begin(&mut out);
        let first_lead = self.members.first().map_or(0..0, |member| member.lead.clone());
        for (index, member) in self.members.iter().enumerate() {
            writer.lead(&bytes[member.lead.clone()]);
            let additions = |kind| edits.added.iter().filter(move |(added, ..)| *added == kind);
            let concerned = member.kind.filter(|kind| {
                !member.shadowed && (additions(*kind).next().is_some() || self.edited(index, edits))
            });
            match concerned {
                Some(kind) => {
                    writer.raw(&bytes[member.span.start..member.value.start]);
                    self.splice_section(index, kind, edits, writer.out)?;
                }
                None => writer.raw(&bytes[member.span.clone()]),
            }
        }
        for kind in CredentialType::ALL {
            let missing = !self.members.iter().any(|member| member.kind == Some(kind) && !member.shadowed);
            if missing && edits.added.iter().any(|(added, ..)| *added == kind) {
                writer.lead(&bytes[first_lead.clone()]);
                entry::write_text(kind.as_str(), writer.out);
                writer.raw(if first_lead.is_empty() { b":" } else { b": " });
                let mut section = ObjectWriter::begin(writer.out);
                write_additions(kind, b"", edits, &mut section);
                section.end(b"");
            }
        }
        let tail = &bytes[self.tail.clone()];
        match tail.iter().position(|byte| *byte == b'}') {
            Some(brace) => {
                writer.end(&tail[..brace]);
                out.extend(&tail[brace + 1..]);
            }
            None => writer.end(b""),
        }
        Ok(out)
    }

    fn edited(&self, member: usize, edits: &Edits) -> bool {
        edits.changed.keys().any(|at| self.entries[*at].member == member)
    }

    fn splice_section(
        &self,
        index: usize,
        kind: CredentialType,
        edits: &Edits,
        out: &mut SecretBytes,
    ) -> Result<(), DocumentError> {
        let bytes = self.bytes.expose();
        let member = &self.members[index];
        if !member.is_object && &bytes[member.value.clone()] != b"null" {
            return Err(DocumentError::Section(kind));
        }
        let mut writer = ObjectWriter::begin(out);
        let mut lead = 0..0;
        // Entries stand together, in the order of the document.
        let first = self.entries.partition_point(|entry| entry.member < index);
        for (at, entry) in self.entries.iter().enumerate().skip(first).take_while(|(_, e)| e.member == index)
        {
            lead = entry.lead.clone();
            match edits.changed.get(&at) {
                Some(None) => {}
                Some(Some(value)) => {
                    writer.lead(&bytes[entry.lead.clone()]);
                    writer.raw(&bytes[entry.span.start..entry.value.start]);
                    writer.raw(value.expose());
                }
                None => {
                    writer.lead(&bytes[entry.lead.clone()]);
                    writer.raw(&bytes[entry.span.clone()]);
                }
            }
        }
        write_additions(kind, &bytes[lead], edits, &mut writer);
        writer.end(&bytes[member.tail.clone()]);
        Ok(())
    }

    fn text(&self, range: &Range<usize>) -> &str {
        // The whole was checked to be UTF-8, and ranges are those of JSON values.
        std::str::from_utf8(&self.bytes.expose()[range.clone()]).unwrap_or_default()
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("bytes", &self.bytes).field("entries", &self.entries.len()).finish()
    }
}

impl<'a> Shape<'a> {
    fn new(credential: &Credential, no_home_account: NoHomeAccount, environment: &'a str) -> Self {
        let bound = matches!(credential, Credential::AccessToken(AccessToken { scheme, .. })
            if *scheme != super::key::TokenScheme::Bearer);
        Self {
            credential_type: bound.then_some("AccessToken_With_AuthScheme"),
            no_home_account,
            environment,
            target: None,
            unknown: Vec::new(),
        }
    }
}

/// What is to become of the entries of a document.
#[derive(Default)]
struct Edits {
    /// By index: a new value, or nothing where the entry goes.
    changed: HashMap<usize, Option<SecretBytes>>,
    added: Vec<(CredentialType, String, SecretBytes)>,
}

impl Edits {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty()
    }
}

/// The key that a new entry is stored under.
fn stored_key(credential: &Credential, dialect: Dialect, environment: &str) -> String {
    let home = |id: &Option<String>| id.clone().unwrap_or_default();
    match credential {
        Credential::AccessToken(token) => {
            let mut key = format!(
                "{}-{environment}-{}-{}-{}-{}",
                home(&token.home_account_id),
                match (&token.extended, &token.scheme) {
                    (Some(_), _) => "atext",
                    (None, super::key::TokenScheme::Bearer) => "accesstoken",
                    (None, super::key::TokenScheme::Bound { .. }) => "accesstoken_with_authscheme",
                },
                token.client_id,
                token.realm,
                token.target
            );
            if let super::key::TokenScheme::Bound { token_type, .. } = &token.scheme {
                key.push('-');
                key.push_str(token_type);
            }
            if let Some(extended) = &token.extended {
                key.push('-');
                key.push_str(extended.as_str());
            }
            if dialect == Dialect::Node {
                key.push('-');
            }
            key.to_lowercase()
        }
        Credential::RefreshToken(token) => {
            let home = home(&token.home_account_id);
            format!("{home}-{environment}-refreshtoken-{}--{}", token.client_id, token.target).to_lowercase()
        }
        Credential::IdToken(token) => {
            let home = home(&token.home_account_id);
            format!("{home}-{environment}-idtoken-{}-{}-", token.client_id, token.realm).to_lowercase()
        }
        Credential::Account(account) => {
            format!("{}-{environment}-{}", account.home_account_id, account.realm).to_lowercase()
        }
        // Python does not lower-case this one, and finds it by nothing else.
        Credential::AppMetadata(app) => format!("appmetadata-{environment}-{}", app.client_id),
    }
}

fn environment(credential: &Credential) -> &str {
    match credential {
        Credential::AccessToken(token) => &token.environment,
        Credential::RefreshToken(token) => &token.environment,
        Credential::IdToken(token) => &token.environment,
        Credential::Account(account) => &account.environment,
        Credential::AppMetadata(app) => &app.environment,
    }
}

fn write_additions(kind: CredentialType, lead: &[u8], edits: &Edits, writer: &mut ObjectWriter<'_>) {
    for (_, key, value) in edits.added.iter().filter(|(added, ..)| *added == kind) {
        writer.lead(lead);
        entry::write_text(key, writer.out);
        writer.raw(if lead.is_empty() { b":" } else { b": " });
        writer.raw(value.expose());
    }
}

/// Writes the braces and commas of an object whose members are copied.
struct ObjectWriter<'a> {
    out: &'a mut SecretBytes,
    first: bool,
}

impl<'a> ObjectWriter<'a> {
    fn begin(out: &'a mut SecretBytes) -> Self {
        out.extend(b"{");
        Self { out, first: true }
    }

    fn lead(&mut self, space: &[u8]) {
        if !std::mem::take(&mut self.first) {
            self.out.extend(b",");
        }
        self.out.extend(space);
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.extend(bytes);
    }

    fn end(self, space: &[u8]) {
        self.out.extend(space);
        self.out.extend(b"}");
    }
}

/// Walks over the members of an object whose values are known, to find where their names stand.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    /// The white space before the next member's name, the member, and its value.
    fn member(&mut self, raw: &RawValue) -> (Range<usize>, Range<usize>, Range<usize>) {
        let bytes = self.text.as_bytes();
        let start = raw.get().as_ptr() as usize - bytes.as_ptr() as usize;
        let value = start..start + raw.get().len();
        let mut lead = self.at;
        let mut name = self.at;
        while is_space(bytes[name]) || bytes[name] == b',' {
            if bytes[name] == b',' {
                lead = name + 1;
            }
            name += 1;
        }
        self.at = value.end;
        (lead..name, name..value.end, value)
    }

    fn rest(&self) -> Range<usize> {
        self.at..self.text.len()
    }
}

/// Indexes the entries of one section; returns the white space before its closing brace.
fn read_section(
    text: &str,
    raw: &RawValue,
    kind: CredentialType,
    member: usize,
    value: &Range<usize>,
    entries: &mut Vec<Indexed>,
) -> Result<Range<usize>, DocumentError> {
    let mut cursor = Cursor { text, at: value.start + 1 };
    for (key, raw) in raw_members(raw.get())? {
        if entries.len() == MOST_ENTRIES {
            return Err(DocumentError::TooManyEntries);
        }
        let (lead, span, value) = cursor.member(raw);
        let content = Fields::read(raw.get()).and_then(|fields| {
            let no_home_account = fields.no_home_account.unwrap_or(NoHomeAccount::Absent);
            let credential = fields.into_credential(kind, &key)?;
            Ok(Known::of(&credential, no_home_account))
        });
        entries.push(Indexed {
            kind,
            member,
            key: key.into(),
            lead,
            span,
            value,
            shadowed: false,
            outdated: false,
            content,
        });
    }
    Ok(cursor.at..value.end - 1)
}

impl Known {
    fn of(credential: &Credential, no_home_account: NoHomeAccount) -> Self {
        match credential {
            Credential::AccessToken(token) => Self {
                written: token.cached_at.get(),
                ends: Some(token.ends().get()),
                no_home_account: token.is_app_token().then_some(no_home_account),
            },
            Credential::RefreshToken(token) => Self {
                written: token.last_modification_time.map_or(0, UnixSeconds::get),
                ends: None,
                no_home_account: None,
            },
            _ => Self { written: 0, ends: None, no_home_account: None },
        }
    }
}

fn raw_members(text: &str) -> Result<Vec<(Cow<'_, str>, &RawValue)>, DocumentError> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(name) = map.next_key::<Text<'de>>()? {
                members.push((name.0, map.next_value()?));
                if members.len() > MOST_ENTRIES {
                    break;
                }
            }
            Ok(members)
        }
    }
    // The parser's message could quote the document: only its position is kept.
    let malformed =
        |error: serde_json::Error| DocumentError::Malformed { line: error.line(), column: error.column() };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(Members).map_err(malformed)?;
    if members.len() > MOST_ENTRIES {
        return Err(DocumentError::TooManyEntries);
    }
    deserializer.end().map_err(malformed)?;
    Ok(members)
}

/// Skipping a raw value has no limit of its own.
fn check_depth(bytes: &[u8]) -> Result<(), DocumentError> {
    let mut depth = 0_usize;
    let mut in_text = false;
    let mut escaped = false;
    for byte in bytes {
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => in_text = true,
                b'{' | b'[' => {
                    depth += 1;
                    if depth > DEEPEST {
                        return Err(DocumentError::TooDeep);
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    Ok(())
}

fn position(before: &[u8]) -> DocumentError {
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    DocumentError::Malformed {
        line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
        column: before.len() - line_start + 1,
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}
