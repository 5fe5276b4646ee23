//! Writing a changed document: the new pieces, and between them what was there, in stretches as long as can be.

use super::apply::Edits;
use super::credential::CredentialType;
use super::document::DocumentError;
use super::entry;
use super::index::Member;
use super::scan::is_space;
use crate::SecretBytes;

impl Edits<'_> {
    /// The new document.
    pub(super) fn splice(&self) -> Result<SecretBytes, DocumentError> {
        let bytes = self.index.bytes().expose();
        let added = self.added.iter().map(|added| 6 * added.key.len() + added.value.len() + 64);
        let changed = self.changed.values().flatten().map(SecretBytes::len);
        let grown: usize = added.chain(changed).sum();
        let mut splicer =
            Splicer { bytes, copied: 0, out: SecretBytes::with_capacity(bytes.len() + grown + 256) };
        for member in self.index.members.iter().filter(|member| !member.shadowed) {
            if let Some(kind) = member.kind {
                let edited = self.changed.range(member.entries.clone()).next().is_some();
                if edited || self.adds_to(kind) {
                    self.splice_section(member, kind, &mut splicer)?;
                }
            }
        }
        self.add_sections(&mut splicer);
        splicer.copy_to(bytes.len());
        Ok(splicer.out)
    }

    fn splice_section(
        &self,
        member: &Member,
        kind: CredentialType,
        splicer: &mut Splicer<'_>,
    ) -> Result<(), DocumentError> {
        if !member.is_object {
            if &splicer.bytes[member.value.clone()] != b"null" {
                return Err(DocumentError::Section(kind));
            }
            splicer.copy_to(member.value.start);
            splicer.copied = member.value.end;
            splicer.out.extend(b"{");
            self.write_additions(kind, b"", false, splicer);
            splicer.out.extend(b"}");
            return Ok(());
        }
        let entries = &self.index.entries;
        let end_before = |at: usize| match at {
            first if first == member.entries.start => member.value.start + 1,
            at => entries[at - 1].value().end,
        };
        // Whether an entry stays before the one that is looked at, which then begins with a comma.
        let mut follows = false;
        let mut next = member.entries.start;
        let gone_at_first = |next: usize, follows: bool| !follows && next > member.entries.start;
        for (&at, edit) in self.changed.range(member.entries.clone()) {
            if at > next || edit.is_some() {
                if gone_at_first(next, follows) {
                    splicer.copied = splicer.lead(entries[next].start());
                }
                follows = true;
            }
            let value = entries[at].value();
            match edit {
                Some(new) => {
                    splicer.copy_to(value.start);
                    splicer.out.extend(new.expose());
                }
                None => splicer.copy_to(end_before(at)),
            }
            splicer.copied = value.end;
            next = at + 1;
        }
        if next < member.entries.end {
            if gone_at_first(next, follows) {
                splicer.copied = splicer.lead(entries[next].start());
            }
            follows = true;
        }
        if self.adds_to(kind) {
            splicer.copy_to(end_before(member.entries.end));
            let lead = match entries[member.entries.clone()].last() {
                Some(last) => splicer.lead(last.start())..last.start(),
                None => 0..0,
            };
            let bytes = splicer.bytes;
            self.write_additions(kind, &bytes[lead], follows, splicer);
        }
        Ok(())
    }

    /// Sections that are not there yet, after the last member.
    fn add_sections(&self, splicer: &mut Splicer<'_>) {
        let members = &self.index.members;
        let bytes = splicer.bytes;
        let lead = match members.first() {
            Some(first) => &bytes[splicer.lead(first.span.start)..first.span.start],
            None => b"",
        };
        let missing = |kind: &CredentialType| {
            self.adds_to(*kind)
                && !members.iter().any(|member| member.kind == Some(*kind) && !member.shadowed)
        };
        splicer.copy_to(self.index.end_of_members);
        if bytes.is_empty() {
            splicer.out.extend(b"{");
        }
        let mut follows = !members.is_empty();
        for kind in CredentialType::ALL.into_iter().filter(missing) {
            splicer.name(kind.as_str(), lead, std::mem::replace(&mut follows, true));
            splicer.out.extend(b"{");
            self.write_additions(kind, b"", false, splicer);
            splicer.out.extend(b"}");
        }
        if bytes.is_empty() {
            splicer.out.extend(b"}");
        }
    }

    fn write_additions(
        &self,
        kind: CredentialType,
        lead: &[u8],
        mut follows: bool,
        splicer: &mut Splicer<'_>,
    ) {
        for added in self.added.iter().filter(|added| added.credential.credential_type() == kind) {
            splicer.name(&added.key, lead, std::mem::replace(&mut follows, true));
            splicer.out.extend(added.value.expose());
        }
    }
}

/// A copy in the making.
struct Splicer<'a> {
    bytes: &'a [u8],
    /// Up to here the old document is copied or left out.
    copied: usize,
    out: SecretBytes,
}

impl Splicer<'_> {
    fn copy_to(&mut self, end: usize) {
        if end > self.copied {
            self.out.extend(&self.bytes[self.copied..end]);
            self.copied = end;
        }
    }

    /// Where the white space before a member begins.
    fn lead(&self, start: usize) -> usize {
        self.bytes[..start].iter().rposition(|byte| !is_space(*byte)).map_or(0, |before| before + 1)
    }

    /// The name of a new member, after a comma if it `follows` another.
    fn name(&mut self, name: &str, lead: &[u8], follows: bool) {
        if follows {
            self.out.extend(b",");
        }
        self.out.extend(lead);
        entry::write_text(name, &mut self.out);
        self.out.extend(if lead.is_empty() { b":" } else { b": " });
    }
}
