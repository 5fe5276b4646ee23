//! A look-up in a document that is read piece by piece and not kept: all that cannot answer is left out on the way.
//!
//! What is left is a document like any other, and gives the answers that the whole one would: the entries that may
//! answer, and what may take their place, in their order and in their sections. Whatever is unusual about the whole is
//! not judged here. Then the sieve comes to no end, and the document has to be read as a whole.

use std::collections::HashSet;

use super::credential::CredentialType;
use super::document::Document;
use super::fingerprint::{self, Wanted};
use super::index::{MOST_ENTRIES, name, resolve};
use super::scan::Scanner;
use super::skim::{Skim, Skimmer};
use crate::SecretBytes;

/// Who wants more of a document than so many bytes had better have the whole.
const MOST_KEPT: usize = 1 << 20;

/// Reads a document for one look-up.
pub(crate) struct Sieve {
    wanted: Wanted,
    place: Place,
    kept: SecretBytes,
    /// Fingerprints of the stored keys of the entries that were kept: of equal ones the last one counts.
    names: HashSet<u64>,
    /// How many members and entries there were so far.
    seen: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Start,
    /// Before the name of a member.
    Member,
    /// Before an entry of a section.
    Entry(CredentialType),
    /// Behind a section.
    Section,
    End,
}

impl Sieve {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self { wanted, place: Place::Start, kept: SecretBytes::default(), names: HashSet::new(), seen: 0 }
    }

    /// Reads on: `window` begins where the last one was left, and the number of bytes that are done with is returned.
    /// What is done with has its end in the window, so nothing behind it could have changed what it is.
    pub(crate) fn read(&mut self, window: &[u8]) -> usize {
        let mut done = 0;
        while let Some(end) = self.step(window, done).filter(|end| *end > done) {
            done = end;
        }
        done
    }

    /// The document that is left when all of it was read.
    pub(crate) fn into_document(self) -> Option<Document> {
        if self.place != Place::End {
            return None;
        }
        Document::parse(self.kept).ok()
    }

    /// Reads what begins at `start`, and says where it ends. `None`: it does not end in the window, or is no JSON, or
    /// too much.
    fn step(&mut self, window: &[u8], start: usize) -> Option<usize> {
        if self.seen > MOST_ENTRIES || self.kept.len() > MOST_KEPT {
            return None;
        }
        let mut scanner = Scanner::new(window, start);
        match self.place {
            Place::Start => {
                scanner.space();
                let is_empty = opens(&mut scanner, 1)?;
                self.kept.extend(b"{");
                self.go_on(is_empty);
            }
            Place::Member => self.member(window, &mut scanner)?,
            Place::Entry(kind) => return self.entries(window, start, kind),
            Place::Section => {
                let is_last = scanner.ends(b'}')?;
                self.go_on(is_last);
            }
            Place::End => scanner.space(),
        }
        Some(scanner.at)
    }

    /// A member, or if it is a section only its beginning.
    fn member(&mut self, window: &[u8], scanner: &mut Scanner<'_>) -> Option<()> {
        scanner.space();
        let start = scanner.at;
        let text = scanner.name()?;
        let kind = CredentialType::from_section(&name(window, &text));
        let head = start..scanner.at;
        match kind {
            Some(kind) if scanner.peek()? == b'{' => {
                let is_empty = opens(scanner, 2)?;
                self.begin();
                self.kept.extend(&window[head]);
                self.kept.extend(if is_empty { b"{}" } else { b"{" });
                self.place = if is_empty { Place::Section } else { Place::Entry(kind) };
            }
            _ => {
                scanner.value(2)?;
                let end = scanner.at;
                let is_last = scanner.ends(b'}')?;
                // It may take the place of an earlier section.
                if kind.is_some() {
                    self.begin();
                    self.kept.extend(&window[start..end]);
                }
                self.go_on(is_last);
            }
        }
        self.seen += 1;
        Some(())
    }

    /// As many entries of a section as the window has.
    fn entries(&mut self, window: &[u8], start: usize, kind: CredentialType) -> Option<usize> {
        let mut skimmer = Skimmer::new(window, kind);
        let mut scanner = Scanner::new(window, start);
        let mut done = None;
        while self.seen <= MOST_ENTRIES {
            scanner.space();
            let Some(entry) = skimmer.entry(&mut scanner) else { break };
            let Some(is_last) = scanner.ends(b'}') else { break };
            self.entry(window, kind, &entry);
            done = Some(scanner.at);
            if is_last {
                self.kept.extend(b"}");
                self.place = Place::Section;
                break;
            }
        }
        done
    }

    fn entry(&mut self, window: &[u8], kind: CredentialType, entry: &Skim) {
        self.seen += 1;
        let decoded;
        let skimmed = match &entry.skimmed {
            Some(skimmed) if entry.name.plain => Some(skimmed),
            _ => {
                decoded = resolve(window, kind, entry).1;
                decoded.as_ref()
            }
        };
        let is_wanted = skimmed.is_some_and(|skimmed| {
            self.wanted.takes_in(&Wanted { partition: skimmed.partition, scopes: skimmed.known.scopes })
        });
        if !is_wanted && self.names.is_empty() {
            return;
        }
        let name = fingerprint::of_text(name(window, &entry.name).as_bytes());
        if is_wanted || self.names.contains(&name) {
            self.names.insert(name);
            self.begin();
            self.kept.extend(&window[entry.name.content.start - 1..entry.value.end]);
        }
    }

    /// A comma, unless what follows is the first in its braces.
    fn begin(&mut self) {
        if self.kept.expose().last() != Some(&b'{') {
            self.kept.extend(b",");
        }
    }

    /// To the next member, or the end of them.
    fn go_on(&mut self, is_end: bool) {
        if is_end {
            self.kept.extend(b"}");
        }
        self.place = if is_end { Place::End } else { Place::Member };
    }
}

/// Whether the object that begins here is empty, if enough of it is in the window to tell.
fn opens(scanner: &mut Scanner<'_>, depth: usize) -> Option<bool> {
    let is_empty = scanner.opens(b'{', b'}', depth)?;
    (is_empty || scanner.peek().is_some()).then_some(is_empty)
}
