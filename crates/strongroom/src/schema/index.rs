//! The index of a document: where its members and entries lie and what they are found by.
//!
//! Made in one pass that decodes nothing but what is unusual. What is found by a fingerprint is decoded and
//! compared before it counts.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::credential::{Credential, CredentialType};
use super::dialect::NoHomeAccount;
use super::document::DocumentError;
use super::entry::{self, EntryProblem, Fields};
use super::fingerprint::{self, Fingerprints};
use super::key::{CredentialKey, Partition, RecordRevision, TokenScheme};
use super::scan::{DEEPEST, Scanner, Text, is_space};
use super::skim::{Known, Skim, Skimmed, Skimmer};
use super::target::Scopes;
use crate::{SecretBytes, UnixSeconds};

/// How many entries a document may have.
pub(super) const MOST_ENTRIES: usize = 1_000_000;
/// So many times an entry's name is compared with all later ones before it pays to sort them.
const PATIENCE: u32 = 16;

/// The bytes of a document and what is known of them.
#[derive(Default)]
pub(super) struct Index {
    bytes: SecretBytes,
    pub(super) members: Vec<Member>,
    /// In the order of the document.
    pub(super) entries: Vec<Indexed>,
    /// Of each entry: fingerprints of its stored key, of its identity and of its partition. The latter two mean
    /// nothing where it is unreadable.
    names: Fingerprints,
    keys: Fingerprints,
    partitions: Fingerprints,
    /// The stored keys that are written with escapes.
    spelled: HashMap<usize, Box<str>>,
    shadowed: OnceLock<Box<[usize]>>,
    asked_for_shadows: AtomicU32,
    /// Where the last member ends, or the opening brace.
    pub(super) end_of_members: usize,
}

/// A member of the top-level object.
pub(super) struct Member {
    pub(super) kind: Option<CredentialType>,
    /// From the name's opening quote to the end of the value.
    pub(super) span: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) is_object: bool,
    /// Its entries, if it is a section.
    pub(super) entries: Range<usize>,
    /// A later member of the same name takes its place.
    pub(super) shadowed: bool,
}

/// An entry of a section. Documents are smaller than 4 GiB.
pub(super) struct Indexed {
    pub(super) kind: CredentialType,
    member: u32,
    /// The stored key, quotes included.
    name: Range<u32>,
    value: Range<u32>,
    /// `None`: unreadable.
    pub(super) known: Option<Known>,
}

impl Indexed {
    /// Where its stored key begins.
    pub(super) fn start(&self) -> usize {
        self.name.start as usize
    }

    pub(super) fn value(&self) -> Range<usize> {
        self.value.start as usize..self.value.end as usize
    }
}

impl Index {
    pub(super) fn read(bytes: SecretBytes) -> Result<Self, DocumentError> {
        let text = bytes.expose();
        if text.starts_with(b"\xef\xbb\xbf") {
            return Err(DocumentError::ByteOrderMark);
        }
        let Some(start) = text.iter().position(|byte| !is_space(*byte)) else {
            return Ok(Self::default());
        };
        if text[start] != b'{' {
            return Err(DocumentError::OtherKind);
        }
        if u32::try_from(text.len()).is_err() {
            return Err(DocumentError::TooLarge);
        }
        let mut reading = Reading {
            bytes: text,
            scanner: Scanner::new(text, start),
            index: Self::default(),
            overflow: false,
        };
        match reading.document() {
            None => Err(damage(text, reading.scanner.at)),
            Some(()) if reading.overflow => Err(DocumentError::TooManyEntries),
            Some(()) => {
                let index = reading.index;
                Ok(Self { bytes, ..index })
            }
        }
    }

    pub(super) fn bytes(&self) -> &SecretBytes {
        &self.bytes
    }

    /// Whether it has no readable entry.
    pub(super) fn is_empty(&self) -> bool {
        !(0..self.entries.len()).any(|at| self.entries[at].known.is_some() && !self.is_shadowed(at))
    }

    /// The entries that nothing shadows, in the order of the document.
    pub(super) fn standing(&self) -> impl Iterator<Item = usize> {
        (0..self.entries.len()).filter(|at| !self.is_shadowed(*at))
    }

    /// Those of them that can be read and of which this is known.
    pub(super) fn standing_with(&self, is_it: impl Fn(&Known) -> bool) -> impl Iterator<Item = usize> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter(move |(_, entry)| entry.known.as_ref().is_some_and(&is_it))
            .map(|(at, _)| at)
            .filter(|at| !self.is_shadowed(*at))
    }

    /// The stored key of an entry.
    pub(super) fn key(&self, at: usize) -> &str {
        match self.spelled.get(&at) {
            Some(key) => key,
            None => {
                let name = &self.entries[at].name;
                self.text(name.start as usize + 1..name.end as usize - 1)
            }
        }
    }

    pub(super) fn credential(&self, at: usize) -> Result<Credential, EntryProblem> {
        let entry = &self.entries[at];
        Fields::read(self.value(at))?.into_credential(entry.kind, self.key(at))
    }

    /// The value of an entry as it is written.
    pub(super) fn value(&self, at: usize) -> &str {
        self.text(self.entries[at].value())
    }

    /// A fingerprint of the identity of a readable entry.
    pub(super) fn identity(&self, at: usize) -> u64 {
        self.keys.get(at)
    }

    pub(super) fn revision(&self, at: usize) -> RecordRevision {
        // Only ever compared within this process, with revisions made by the same function.
        let mut hasher = DefaultHasher::new();
        self.value(at).hash(&mut hasher);
        RecordRevision::new(hasher.finish())
    }

    /// The entry that answers for these keys: the newest.
    pub(super) fn newest(&self, keys: &[CredentialKey]) -> Option<(usize, Credential)> {
        let written = |at: usize| self.entries[at].known.as_ref().map(|known| (known.written, known.ends));
        let found = keys.iter().flat_map(|key| self.without_outdated(self.find(key)));
        found.max_by_key(|(at, _)| written(*at))
    }

    /// The entries with these identities.
    pub(super) fn matching(&self, keys: &[CredentialKey]) -> Vec<usize> {
        keys.iter().flat_map(|key| self.find(key)).map(|(at, _)| at).collect()
    }

    /// The entries of a partition; access tokens only if they may have all of these scopes.
    pub(super) fn list(&self, partition: &Partition, scopes: &Scopes) -> Vec<(usize, Credential)> {
        let wanted = fingerprint::of_scopes(scopes);
        let mut candidates = self.partitions.find(fingerprint::of_partition(partition));
        candidates.retain(|at| {
            self.entries[*at].known.as_ref().is_some_and(|known| known.scopes & wanted == wanted)
        });
        let found = self.verified(candidates, |credential| Partition::of(credential) == *partition);
        self.without_outdated(found)
    }

    /// The entry of a section under a stored key.
    pub(super) fn named(&self, kind: CredentialType, key: &str) -> Option<usize> {
        let candidates = self.names.find(fingerprint::of_text(key.as_bytes()));
        candidates
            .into_iter()
            .rev()
            .find(|at| self.entries[*at].kind == kind && self.key(*at) == key && !self.is_shadowed(*at))
    }

    /// All entries of the same section that lie under the same stored key: one, but for the shadowed ones.
    pub(super) fn of_one_name(&self, at: usize) -> Vec<usize> {
        let candidates = self.names.find(self.names.get(at));
        candidates.into_iter().filter(|other| self.place(at) == self.place(*other)).collect()
    }

    /// The entries with this identity.
    pub(super) fn find(&self, key: &CredentialKey) -> Vec<(usize, Credential)> {
        let candidates = self.keys.find(fingerprint::of_key(key));
        self.verified(candidates, |credential| CredentialKey::of(credential) == *key)
    }

    fn verified(
        &self,
        candidates: Vec<usize>,
        is_it: impl Fn(&Credential) -> bool,
    ) -> Vec<(usize, Credential)> {
        candidates
            .into_iter()
            .filter(|at| self.entries[*at].known.is_some() && !self.is_shadowed(*at))
            .filter_map(|at| Some((at, self.credential(at).ok()?)))
            .filter(|(_, credential)| is_it(credential))
            .collect()
    }

    /// MSAL Go 1.0 wrote keys with capitals; where the lower-case twin exists, that one is the newer.
    fn without_outdated(&self, mut found: Vec<(usize, Credential)>) -> Vec<(usize, Credential)> {
        let twin = |at: usize| {
            let key = self.key(at);
            let lower = if key.is_ascii() { key.to_ascii_lowercase() } else { key.to_lowercase() };
            (lower != key).then_some(lower)
        };
        let capital =
            |at: usize| self.key(at).bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii());
        if found.len() < 2 || !found.iter().any(|(at, _)| capital(*at)) {
            return found;
        }
        let outdated: HashSet<usize> = {
            let keys: HashSet<(CredentialKey, &str)> =
                found.iter().map(|(at, credential)| (CredentialKey::of(credential), self.key(*at))).collect();
            let has_twin = |at: usize, credential: &Credential| {
                twin(at).is_some_and(|twin| keys.contains(&(CredentialKey::of(credential), &*twin)))
            };
            found.iter().filter(|(at, credential)| has_twin(*at, credential)).map(|(at, _)| *at).collect()
        };
        found.retain(|(at, _)| !outdated.contains(at));
        found
    }

    /// Whether a later entry of the same stored key, or a later section of the same name, takes its place: the last
    /// one wins, as with every peer.
    fn is_shadowed(&self, at: usize) -> bool {
        if self.members[self.entries[at].member as usize].shadowed {
            return true;
        }
        if self.shadowed.get().is_none() && self.asked_for_shadows.fetch_add(1, Ordering::Relaxed) < PATIENCE
        {
            return self
                .names
                .find_from(self.names.get(at), at + 1)
                .any(|later| self.place(at) == self.place(later));
        }
        let shadowed = self.shadowed.get_or_init(|| {
            let mut shadowed = Vec::new();
            for mut same in self.names.repeated() {
                // Names that differ are kept apart even where their fingerprints are equal, so that nobody can
                // make this quadratic.
                same.sort_by_key(|at| self.place(*at));
                let pairs = same.windows(2).filter(|pair| self.place(pair[0]) == self.place(pair[1]));
                shadowed.extend(pairs.map(|pair| pair[0]));
            }
            shadowed.sort_unstable();
            shadowed.into()
        });
        shadowed.binary_search(&at).is_ok()
    }

    fn place(&self, at: usize) -> (u32, &str) {
        (self.entries[at].member, self.key(at))
    }

    fn text(&self, range: Range<usize>) -> &str {
        // The whole was checked to be UTF-8, and ranges are those of JSON values.
        std::str::from_utf8(&self.bytes.expose()[range]).unwrap_or_default()
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("bytes", &self.bytes).field("entries", &self.entries.len()).finish()
    }
}

/// A bearer token of an application itself that nothing sets apart.
pub(super) fn is_plain_app_token(credential: &Credential) -> bool {
    matches!(credential, Credential::AccessToken(token)
        if token.is_app_token() && token.extended.is_none() && token.scheme == TokenScheme::Bearer)
}

/// A document that is being read. Methods give `None` where it is not JSON.
struct Reading<'a> {
    bytes: &'a [u8],
    scanner: Scanner<'a>,
    index: Index,
    overflow: bool,
}

impl Reading<'_> {
    fn document(&mut self) -> Option<()> {
        let mut names: HashMap<Cow<'_, str>, usize> = HashMap::new();
        let start = self.scanner.at;
        let mut ended = self.scanner.opens(b'{', b'}', 1)?;
        self.index.end_of_members = start + 1;
        while !ended {
            self.scanner.space();
            let start = self.scanner.at;
            let text = self.scanner.name()?;
            let name = name(self.bytes, &text);
            let kind = CredentialType::from_section(&name);
            let value = self.scanner.at;
            let is_object = self.scanner.peek()? == b'{';
            let first = self.index.entries.len();
            match kind {
                Some(kind) if is_object => self.section(kind)?,
                _ => {
                    self.scanner.value(2)?;
                }
            }
            let end = self.scanner.at;
            if self.index.members.len() == MOST_ENTRIES {
                self.overflow = true;
            } else {
                if let Some(earlier) = names.insert(name, self.index.members.len()) {
                    self.index.members[earlier].shadowed = true;
                }
                self.index.members.push(Member {
                    kind,
                    span: start..end,
                    value: value..end,
                    is_object,
                    entries: first..self.index.entries.len(),
                    shadowed: false,
                });
            }
            self.index.end_of_members = end;
            ended = self.scanner.ends(b'}')?;
        }
        self.scanner.space();
        (self.scanner.at == self.bytes.len()).then_some(())
    }

    fn section(&mut self, kind: CredentialType) -> Option<()> {
        let mut skimmer = Skimmer::new(self.bytes, kind);
        let mut ended = self.scanner.opens(b'{', b'}', 2)?;
        while !ended {
            self.scanner.space();
            let entry = skimmer.entry(&mut self.scanner)?;
            if self.index.entries.len() == MOST_ENTRIES {
                self.overflow = true;
            } else {
                self.add(kind, entry);
            }
            ended = self.scanner.ends(b'}')?;
        }
        Some(())
    }

    fn add(&mut self, kind: CredentialType, entry: Skim) {
        let (name, skimmed) = resolve(self.bytes, kind, &entry);
        let Skim { name: text, value, .. } = entry;
        let index = &mut self.index;
        index.names.push(fingerprint::of_text(name.as_bytes()));
        if !text.literal {
            index.spelled.insert(index.entries.len(), (&*name).into());
        }
        index.keys.push(skimmed.as_ref().map_or(0, |skimmed| skimmed.key));
        index.partitions.push(skimmed.as_ref().map_or(0, |skimmed| skimmed.partition));
        // What is larger than 4 GiB was refused.
        let offset = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        index.entries.push(Indexed {
            kind,
            member: offset(index.members.len()),
            name: offset(text.content.start - 1)..offset(text.content.end + 1),
            value: offset(value.start)..offset(value.end),
            known: skimmed.map(|skimmed| skimmed.known),
        });
    }
}

/// The stored key of an entry and what it is found by, which is decoded where it could not be skimmed; `None` if it is
/// unreadable.
pub(super) fn resolve<'a>(
    bytes: &'a [u8],
    kind: CredentialType,
    entry: &Skim,
) -> (Cow<'a, str>, Option<Skimmed>) {
    let name = name(bytes, &entry.name);
    let skimmed = match &entry.skimmed {
        Some(skimmed) if entry.name.plain => Some(skimmed.clone()),
        _ => decoded(kind, &name, std::str::from_utf8(&bytes[entry.value.clone()]).unwrap_or_default()),
    };
    (name, skimmed)
}

/// The name of a member.
pub(super) fn name<'a>(bytes: &'a [u8], text: &Text) -> Cow<'a, str> {
    let read = |range| std::str::from_utf8(&bytes[range]).unwrap_or_default();
    if text.literal {
        Cow::Borrowed(read(text.content.clone()))
    } else {
        entry::name_of(read(text.content.start - 1..text.content.end + 1))
    }
}

/// What decoding an entry tells; `None` if it is unreadable.
fn decoded(kind: CredentialType, key: &str, value: &str) -> Option<Skimmed> {
    if !value.starts_with('{') {
        return None;
    }
    let fields = Fields::read(value).ok()?;
    let no_home_account = fields.no_home_account.unwrap_or_default();
    let credential = fields.into_credential(kind, key).ok()?;
    Some(Skimmed {
        key: fingerprint::of_key(&CredentialKey::of(&credential)),
        partition: fingerprint::of_partition(&Partition::of(&credential)),
        known: known(&credential, no_home_account),
    })
}

pub(super) fn known(credential: &Credential, no_home_account: NoHomeAccount) -> Known {
    let nothing = Known { written: 0, expires: i64::MAX, ends: i64::MAX, scopes: 0, no_home_account: None };
    match credential {
        Credential::AccessToken(token) => Known {
            written: token.cached_at.get(),
            expires: token.expires_on.get(),
            ends: token.ends().get(),
            scopes: fingerprint::of_scopes(&token.target),
            no_home_account: is_plain_app_token(credential).then_some(no_home_account),
        },
        Credential::RefreshToken(token) => {
            Known { written: token.last_modification_time.map_or(0, UnixSeconds::get), ..nothing }
        }
        _ => nothing,
    }
}

/// What is wrong with bytes that are no document; `at` is where the scanner gave up.
fn damage(bytes: &[u8], at: usize) -> DocumentError {
    if is_too_deep(bytes) {
        return DocumentError::TooDeep;
    }
    match std::str::from_utf8(bytes) {
        Err(error) => position(&bytes[..error.valid_up_to()]),
        // The parser's message could quote the document: only its position is kept.
        Ok(text) => match parse(text) {
            Err(error) => DocumentError::Malformed { line: error.line(), column: error.column() },
            Ok(()) => position(&bytes[..at]),
        },
    }
}

/// Reads an object as `serde_json` does, for what it says.
fn parse(text: &str) -> serde_json::Result<()> {
    struct Members;
    impl<'de> Visitor<'de> for Members {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while map.next_entry::<&RawValue, &RawValue>()?.is_some() {}
            Ok(())
        }
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.deserialize_map(Members)?;
    deserializer.end()
}

fn is_too_deep(bytes: &[u8]) -> bool {
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
                        return true;
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    false
}

fn position(before: &[u8]) -> DocumentError {
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    DocumentError::Malformed {
        line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
        column: before.len() - line_start + 1,
    }
}
