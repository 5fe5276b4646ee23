//! The JSON document: read within bounds, indexed by identity, changed by splicing.
//!
//! Bytes that a change does not concern are copied as they are, so unknown sections, unknown entries and unknown
//! fields survive to the letter. A bad entry is kept, reported, and not served; it never costs the others.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::change::{Change, Expectation};
use super::credential::{AppMetadata, Credential, CredentialType};
use super::dialect::{Dialect, NoHomeAccount};
use super::entry::{self, EntryProblem, Fields, Shape};
use super::environment::cloud_of;
use super::key::{CredentialKey, Partition, RecordRevision, TokenScheme};
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
                    "open it with the kind of persistence that wrote it (--persistence sealed if it is sealed), or choose another location; the file was not touched"
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
    /// When an access token ends.
    expires: Option<i64>,
    /// When it is of no use even in an outage.
    ends: Option<i64>,
    /// How an application's plain token spells that it has no user. What is not plain must not become visible to a
    /// peer that does not know what sets it apart.
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
        let mut identities = Vec::new();
        let mut cursor = Cursor { text, at: start + 1 };
        for (name, raw) in raw_members(text)? {
            let (lead, span, value) = cursor.member(name, raw);
            let name = entry::name_of(name);
            let kind = CredentialType::from_section(&name);
            let index = members.len();
            if let Some(earlier) = names.insert(name.into_owned(), index) {
                members[earlier].shadowed = true;
            }
            let is_object = raw.get().starts_with('{');
            let mut tail = value.end..value.end;
            if let (Some(kind), true) = (kind, is_object) {
                let mut section = Section { text, kind, member: index, at: value.start + 1 };
                tail = section.read(raw, &mut entries, &mut identities)?;
            }
            members.push(Member { kind, lead, span, value, tail, is_object, shadowed: false });
        }
        let tail = cursor.rest();
        let mut document =
            Self { members, entries, by_key: HashMap::new(), by_partition: HashMap::new(), tail, bytes };
        document.index(identities);
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
        let at = self.newest(std::slice::from_ref(key))?;
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
        self.remove(&change.removals, &mut edits);
        for put in &change.puts {
            let keys = change.keys_of(&put.credential);
            if !self.as_expected(put.expectation, &keys) {
                return Ok(Applied::Lost(CredentialKey::of(&put.credential)));
            }
            let matching = self.matching(&keys);
            let credential = put.credential.not_ahead_of(change.now);
            match &credential {
                Credential::AppMetadata(app) => {
                    self.put_app_metadata(app, &credential, &matching, &mut edits);
                }
                _ if matching.is_empty() => self.add(&credential, change, &mut edits),
                _ => {
                    for at in matching {
                        self.replace(at, &credential, change, &mut edits);
                    }
                }
            }
        }
        let swept = if change.sweep { self.sweep(change.now, &mut edits) } else { 0 };
        if edits.is_empty() {
            return Ok(Applied::Unchanged);
        }
        self.heal(change, &mut edits);
        Ok(Applied::Changed { bytes: self.splice(&edits)?, swept })
    }

    fn index(&mut self, identities: Vec<Option<Identity>>) {
        // The last of equal keys wins, as with every peer.
        let mut last: HashMap<(usize, &str), usize> = HashMap::with_capacity(self.entries.len());
        for (at, entry) in self.entries.iter().enumerate() {
            last.insert((entry.member, &entry.key), at);
        }
        let shadowed: Vec<bool> = self
            .entries
            .iter()
            .enumerate()
            .map(|(at, entry)| {
                self.members[entry.member].shadowed || last[&(entry.member, &*entry.key)] != at
            })
            .collect();
        drop(last);
        for (at, (identity, shadowed)) in identities.into_iter().zip(shadowed).enumerate() {
            self.entries[at].shadowed = shadowed;
            if let (Some((key, partition)), false) = (identity, shadowed) {
                self.by_key.entry(key).or_default().push(at);
                self.by_partition.entry(partition).or_default().push(at);
            }
        }
        for equal in self.by_key.values().filter(|equal| equal.len() > 1) {
            let keys: HashSet<String> = equal.iter().map(|at| self.entries[*at].key.to_string()).collect();
            for at in equal {
                let key = &self.entries[*at].key;
                let lower = key.to_lowercase();
                self.entries[*at].outdated = **key != lower && keys.contains(&lower);
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

    /// The entry that answers for these keys.
    fn newest(&self, keys: &[CredentialKey]) -> Option<usize> {
        let written =
            |at: &usize| self.entries[*at].content.as_ref().map(|known| (known.written, known.ends)).ok();
        self.matching(keys).into_iter().filter(|at| !self.entries[*at].outdated).max_by_key(written)
    }

    fn matching(&self, keys: &[CredentialKey]) -> Vec<usize> {
        keys.iter().filter_map(|key| self.by_key.get(key)).flatten().copied().collect()
    }

    fn as_expected(&self, expectation: Expectation, keys: &[CredentialKey]) -> bool {
        match expectation {
            Expectation::Any => true,
            Expectation::Absent => self.newest(keys).is_none(),
            Expectation::Unchanged(revision) => {
                self.newest(keys).is_some_and(|at| self.revision(at) == revision)
            }
        }
    }

    /// Python finds this one entry by its stored key only, so it is always there under exactly that key.
    fn put_app_metadata<'a>(
        &'a self,
        app: &AppMetadata,
        new: &Credential,
        matching: &[usize],
        edits: &mut Edits<'a>,
    ) {
        let key = stored_key(new, Dialect::Python, environment(new));
        if let Some(at) = matching.iter().copied().find(|at| *self.entries[*at].key == *key) {
            // A response without a family does not take it away from the application.
            let same = matches!(self.credential(at), Ok(Credential::AppMetadata(old))
                if app.family_id.is_none() || old.family_id == app.family_id);
            edits.changed.remove(&at);
            if !same {
                let shape = self.shape(at, new);
                edits.changed.insert(at, Some(entry::write(new, &shape)));
            }
            return;
        }
        // Where another application's entry stands under that key there is no place that Python would look at.
        if matching.is_empty() || self.standing(edits, new.credential_type(), &key).is_none() {
            let shape = Shape::new(new, NoHomeAccount::Null, environment(new));
            self.add_under(key, new, entry::write(new, &shape), edits);
        }
    }

    /// A new entry, in the caller's dialect or the document's.
    fn add<'a>(&'a self, credential: &Credential, change: &Change, edits: &mut Edits<'a>) {
        let dialect = match change.dialect {
            // Node knows neither the marker of an extended token nor ours of a bound one: it must not see them.
            _ if !is_plain_app_token(credential) => Dialect::Python,
            Some(dialect) => dialect,
            None => *edits.dominant.get_or_init(|| self.dominant_dialect()),
        };
        let no_home_account = match credential {
            // Python takes every app token with `null` for a bearer token, and for nobody's.
            Credential::AccessToken(token)
                if token.scheme != TokenScheme::Bearer || !token.is_app_token() =>
            {
                NoHomeAccount::Absent
            }
            _ => dialect.no_home_account(),
        };
        let environment = match (dialect, &change.environments) {
            (Dialect::Python, _) => environment(credential),
            (Dialect::Node, Some(environments)) => environments.preferred_cache(),
            (Dialect::Node, None) => {
                cloud_of(environment(credential)).map_or(environment(credential), |cloud| cloud.cache)
            }
        };
        let value = entry::write(credential, &Shape::new(credential, no_home_account, environment));
        let key = stored_key(credential, dialect, environment);
        self.add_under(key, credential, value, edits);
    }

    /// Adds an entry under `key`, or replaces what cannot be read there. Another credential that stands there
    /// (Python stores a PoP token under a bearer token's key) keeps its place: the key gets a dash more. Only
    /// another session of the same user gives way: Python would serve either for the other.
    fn add_under<'a>(&'a self, mut key: String, new: &Credential, value: SecretBytes, edits: &mut Edits<'a>) {
        let kind = new.credential_type();
        loop {
            if let Some(at) = edits.added_at.get(&(kind, key.clone())).copied() {
                let added = &mut edits.added[at];
                if gives_way(&added.credential, new) {
                    added.value = value;
                    added.credential = new.clone();
                    return;
                }
            } else if let Some(at) = self.standing(edits, kind, &key) {
                let gone = matches!(edits.changed.get(&at), Some(None));
                let stays = !gone && self.credential(at).is_ok_and(|old| !gives_way(&old, new));
                if !stays {
                    edits.changed.insert(at, Some(value));
                    return;
                }
            } else {
                edits.added_at.insert((kind, key.clone()), edits.added.len());
                edits.added.push(Added { key, credential: new.clone(), value });
                return;
            }
            key.push('-');
        }
    }

    /// The entry under a stored key.
    fn standing<'a>(&'a self, edits: &Edits<'a>, kind: CredentialType, key: &str) -> Option<usize> {
        let standing = edits.standing.get_or_init(|| {
            let entries = self.entries.iter().enumerate().filter(|(_, entry)| !entry.shadowed);
            entries.map(|(at, entry)| ((entry.kind, &*entry.key), at)).collect()
        });
        standing.get(&(kind, key)).copied()
    }

    /// The same entry with another token: it keeps its key, its shape and the fields of others.
    fn replace<'a>(&'a self, at: usize, credential: &Credential, change: &Change, edits: &mut Edits<'a>) {
        let mut shape = self.shape(at, credential);
        if shape.no_home_account == NoHomeAccount::Absent
            && is_plain_app_token(credential)
            && self.python_at_home(change, edits)
        {
            shape.no_home_account = NoHomeAccount::Null;
        }
        edits.changed.insert(at, Some(entry::write(credential, &shape)));
    }

    /// The shape of an entry that is replaced by `credential`.
    fn shape<'a>(&'a self, at: usize, credential: &'a Credential) -> Shape<'a> {
        let raw = self.text(&self.entries[at].value);
        let fields = Fields::read(raw).unwrap_or_default();
        let of_family = matches!(credential, Credential::RefreshToken(token) if token.family_id.is_some());
        Shape {
            credential_type: fields.credential_type,
            no_home_account: fields.no_home_account.unwrap_or(NoHomeAccount::Absent),
            environment: fields.environment.unwrap_or_else(|| environment(credential).into()),
            target: fields.target,
            names: fields.names,
            client_id: fields.client_id.filter(|_| of_family),
            unknown: entry::unknown_fields(raw),
        }
    }

    fn remove(&self, keys: &[CredentialKey], edits: &mut Edits<'_>) {
        self.remove_entries(&self.matching(keys), edits);
    }

    fn remove_entries(&self, indices: &[usize], edits: &mut Edits<'_>) {
        let stored: HashSet<(usize, &str)> =
            indices.iter().map(|at| (self.entries[*at].member, &*self.entries[*at].key)).collect();
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

    fn python_at_home(&self, change: &Change, edits: &Edits<'_>) -> bool {
        *edits.python_at_home.get_or_init(|| {
            change.dialect == Some(Dialect::Python) || self.app_tokens(NoHomeAccount::Null).next().is_some()
        })
    }

    fn app_tokens(&self, shape: NoHomeAccount) -> impl Iterator<Item = usize> {
        let known = self.entries.iter().enumerate().filter(|(_, entry)| !entry.shadowed);
        known
            .filter(
                move |(_, entry)| matches!(&entry.content, Ok(known) if known.no_home_account == Some(shape)),
            )
            .map(|(at, _)| at)
    }

    fn sweep(&self, now: UnixSeconds, edits: &mut Edits<'_>) -> usize {
        let ended: Vec<usize> = self
            .entries
            .iter()
            .enumerate()
            .filter(|(at, entry)| !entry.shadowed && !edits.changed.contains_key(at))
            .filter(|(at, entry)| match &entry.content {
                Ok(Known { expires: Some(expires), ends: Some(ends), .. }) => {
                    *ends <= now.get() || *expires <= now.get() && self.is_foreign(*at)
                }
                _ => false,
            })
            .map(|(at, _)| at)
            .collect();
        self.remove_entries(&ended, edits);
        ended.len()
    }

    /// Whether an entry lies under another key than Python's. Once it has expired, Python tries to delete it at
    /// every look-up, in vain, and may delete its own in its place: such an entry is not kept for outages.
    fn is_foreign(&self, at: usize) -> bool {
        self.credential(at).is_ok_and(|credential| {
            stored_key(&credential, Dialect::Python, environment(&credential)) != *self.entries[at].key
        })
    }

    /// A Go, Java or .NET rewrite drops `"home_account_id": null`, which Python needs to find an application's
    /// token. Where Python is at home in the document, it is given back.
    fn heal(&self, change: &Change, edits: &mut Edits<'_>) {
        if !self.python_at_home(change, edits) {
            return;
        }
        for at in self.app_tokens(NoHomeAccount::Absent) {
            let value = &self.entries[at].value;
            edits.changed.entry(at).or_insert_with(|| {
                let mut healed = SecretBytes::with_capacity(value.len() + 32);
                healed.extend(b"{\"home_account_id\":null,");
                healed.extend(&self.bytes.expose()[value.start + 1..value.end]);
                Some(healed)
            });
        }
    }

    fn splice(&self, edits: &Edits<'_>) -> Result<SecretBytes, DocumentError> {
        let bytes = self.bytes.expose();
        let grown: usize =
            edits.added.iter().map(|added| 6 * added.key.len() + added.value.len() + 64).sum::<usize>()
                + edits.changed.values().flatten().map(SecretBytes::len).sum::<usize>();
        let mut out = SecretBytes::with_capacity(bytes.len() + grown + 256);
        let mut writer = ObjectWriter::begin(&mut out);
        let first_lead = self.members.first().map_or(0..0, |member| member.lead.clone());
        for (index, member) in self.members.iter().enumerate() {
            writer.lead(&bytes[member.lead.clone()]);
            let concerned = member
                .kind
                .filter(|kind| !member.shadowed && (edits.adds_to(*kind) || self.edited(index, edits)));
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
            if missing && edits.adds_to(kind) {
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

    fn edited(&self, member: usize, edits: &Edits<'_>) -> bool {
        edits.changed.keys().any(|at| self.entries[*at].member == member)
    }

    fn splice_section(
        &self,
        index: usize,
        kind: CredentialType,
        edits: &Edits<'_>,
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
        let bound =
            matches!(credential, Credential::AccessToken(token) if token.scheme != TokenScheme::Bearer);
        Self {
            credential_type: bound.then_some("AccessToken_With_AuthScheme".into()),
            no_home_account,
            environment: environment.into(),
            target: None,
            names: entry::Names::default(),
            client_id: None,
            unknown: Vec::new(),
        }
    }
}

/// What is to become of the entries of a document.
#[derive(Default)]
struct Edits<'a> {
    /// By index: a new value, or nothing where the entry goes.
    changed: HashMap<usize, Option<SecretBytes>>,
    added: Vec<Added>,
    added_at: HashMap<(CredentialType, String), usize>,
    /// What stands under each stored key, the document's dialect, and whether Python is at home there: found out
    /// when first asked for.
    standing: OnceCell<HashMap<(CredentialType, &'a str), usize>>,
    dominant: OnceCell<Dialect>,
    python_at_home: OnceCell<bool>,
}

struct Added {
    key: String,
    credential: Credential,
    value: SecretBytes,
}

impl Edits<'_> {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty()
    }

    fn adds_to(&self, kind: CredentialType) -> bool {
        self.added.iter().any(|added| added.credential.credential_type() == kind)
    }
}

/// A bearer token of an application itself that nothing sets apart.
fn is_plain_app_token(credential: &Credential) -> bool {
    matches!(credential, Credential::AccessToken(token)
        if token.is_app_token() && token.extended.is_none() && token.scheme == TokenScheme::Bearer)
}

/// Whether `old` makes room for `new` under the stored key of both: it is the same credential, or another session
/// or family of the same user, of which a document has room for one.
fn gives_way(old: &Credential, new: &Credential) -> bool {
    let key_of_user = |credential: &Credential| {
        let mut credential = credential.clone();
        let home = match &mut credential {
            Credential::AccessToken(token) => {
                token.user_assertion_hash = None;
                token.home_account_id.is_some()
            }
            Credential::RefreshToken(token) => {
                token.user_assertion_hash = None;
                token.family_id = None;
                token.home_account_id.is_some()
            }
            Credential::IdToken(token) => {
                token.user_assertion_hash = None;
                token.home_account_id.is_some()
            }
            Credential::Account(_) | Credential::AppMetadata(_) => false,
        };
        home.then(|| CredentialKey::of(&credential))
    };
    CredentialKey::of(old) == CredentialKey::of(new)
        || key_of_user(old).is_some_and(|key| key_of_user(new) == Some(key))
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
                    (None, TokenScheme::Bearer) => "accesstoken",
                    (None, TokenScheme::Bound { .. }) => "accesstoken_with_authscheme",
                },
                token.client_id,
                token.realm,
                token.target
            );
            if let TokenScheme::Bound { token_type, .. } = &token.scheme {
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

fn write_additions(kind: CredentialType, lead: &[u8], edits: &Edits<'_>, writer: &mut ObjectWriter<'_>) {
    for added in edits.added.iter().filter(|added| added.credential.credential_type() == kind) {
        writer.lead(lead);
        entry::write_text(&added.key, writer.out);
        writer.raw(if lead.is_empty() { b":" } else { b": " });
        writer.raw(added.value.expose());
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

/// Walks over the members of an object, to find the white space before each.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl Cursor<'_> {
    /// The white space before a member, the member, and its value.
    fn member(&mut self, name: &RawValue, raw: &RawValue) -> (Range<usize>, Range<usize>, Range<usize>) {
        let offset = |part: &RawValue| part.get().as_ptr() as usize - self.text.as_ptr() as usize;
        let name = offset(name);
        let value = offset(raw)..offset(raw) + raw.get().len();
        let before = &self.text[self.at..name];
        let lead = before.rfind(',').map_or(self.at, |comma| self.at + comma + 1);
        self.at = value.end;
        (lead..name, name..value.end, value)
    }

    fn rest(&self) -> Range<usize> {
        self.at..self.text.len()
    }
}

/// A section that is being read.
struct Section<'a> {
    text: &'a str,
    kind: CredentialType,
    member: usize,
    at: usize,
}

/// What an entry is found by.
type Identity = (CredentialKey, Partition);

impl Section<'_> {
    /// Indexes the entries; returns the white space before the closing brace.
    fn read(
        &mut self,
        raw: &RawValue,
        entries: &mut Vec<Indexed>,
        identities: &mut Vec<Option<Identity>>,
    ) -> Result<Range<usize>, DocumentError> {
        let end = self.at - 1 + raw.get().len() - 1;
        let mut cursor = Cursor { text: self.text, at: self.at };
        for (name, raw) in raw_members(raw.get())? {
            if entries.len() == MOST_ENTRIES {
                return Err(DocumentError::TooManyEntries);
            }
            let (lead, span, value) = cursor.member(name, raw);
            let key = entry::name_of(name);
            let credential = Fields::read(raw.get()).and_then(|fields| {
                let spelled = fields.no_home_account.unwrap_or(NoHomeAccount::Absent);
                Ok((fields.into_credential(self.kind, &key)?, spelled))
            });
            identities.push(
                credential
                    .as_ref()
                    .ok()
                    .map(|(credential, _)| (CredentialKey::of(credential), Partition::of(credential))),
            );
            entries.push(Indexed {
                kind: self.kind,
                member: self.member,
                key: key.into(),
                lead,
                span,
                value,
                shadowed: false,
                outdated: false,
                content: credential.map(|(credential, spelled)| Known::of(&credential, spelled)),
            });
        }
        Ok(cursor.at..end)
    }
}

impl Known {
    fn of(credential: &Credential, no_home_account: NoHomeAccount) -> Self {
        let nothing = Self { written: 0, expires: None, ends: None, no_home_account: None };
        match credential {
            Credential::AccessToken(token) => Self {
                written: token.cached_at.get(),
                expires: Some(token.expires_on.get()),
                ends: Some(token.ends().get()),
                no_home_account: is_plain_app_token(credential).then_some(no_home_account),
            },
            Credential::RefreshToken(token) => {
                Self { written: token.last_modification_time.map_or(0, UnixSeconds::get), ..nothing }
            }
            _ => nothing,
        }
    }
}

/// The members of an object, names and values as they are written.
fn raw_members(text: &str) -> Result<Vec<(&RawValue, &RawValue)>, DocumentError> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = Option<Vec<(&'de RawValue, &'de RawValue)>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = map.next_entry()? {
                members.push(member);
                if members.len() > MOST_ENTRIES {
                    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                    return Ok(None);
                }
            }
            Ok(Some(members))
        }
    }
    // The parser's message could quote the document: only its position is kept.
    let malformed =
        |error: serde_json::Error| DocumentError::Malformed { line: error.line(), column: error.column() };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = deserializer.deserialize_map(Members).map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    members.ok_or(DocumentError::TooManyEntries)
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
