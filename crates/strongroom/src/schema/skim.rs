//! What an entry is found and judged by, read off its text without decoding it.
//!
//! Only of entries that nothing is unusual about, so that it is certain what decoding would give: each field that
//! means something stands there once, as a plain string (or `null`), nothing sets a token apart, and an access
//! token's stored key says no more than its fields. Every other entry is left to whoever decodes it.
//!
//! Entries that one program wrote are alike but for some of their values: a template says where the values of the
//! entry before were, so that of the next one only what differs has to be looked at.

use std::ops::Range;

use super::credential::{AccessToken, CredentialType};
use super::dialect::NoHomeAccount;
use super::entry::{EXTENDED_KIND, PLAIN_KIND};
use super::environment::canonical;
use super::fingerprint;
use super::key::unpadded;
use super::scan::{Kind, Scanner, Text, plain_run};
use super::target::Scopes;
use crate::UnixSeconds;

/// How many templates are tried on an entry.
const TEMPLATES: usize = 4;

/// What an entry is found by, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Skimmed {
    /// Fingerprint of its identity.
    pub(super) key: u64,
    /// Fingerprint of its partition.
    pub(super) partition: u64,
    pub(super) known: Known,
}

/// What is known of a readable entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Cached or modified at: the newest of several wins.
    pub(super) written: i64,
    /// When an access token expires.
    pub(super) expires: i64,
    /// When it is of no use even in an outage.
    pub(super) ends: i64,
    /// What an access token is good for, as bits: see [`fingerprint::of_scopes`].
    pub(super) scopes: u64,
    /// How an application's plain token spells that it has no user. What is not plain must not become visible to a
    /// peer that does not know what sets it apart.
    pub(super) no_home_account: Option<NoHomeAccount>,
}

/// An entry of a section.
pub(super) struct Skim {
    /// Its stored key.
    pub(super) name: Text,
    pub(super) value: Range<usize>,
    /// `None`: it has to be decoded.
    pub(super) skimmed: Option<Skimmed>,
}

/// Reads the entries of one section.
pub(super) struct Skimmer<'a> {
    bytes: &'a [u8],
    kind: CredentialType,
    templates: Vec<Template<'a>>,
    /// The template that fitted last, and the one to give up next.
    recent: usize,
    oldest: usize,
    identities: Identities<'a>,
}

/// Fingerprints of identities; those of the parts that were last are not found out again.
struct Identities<'a> {
    kind: u64,
    environment: (&'a [u8], u64),
    target: Option<(&'a [u8], Target)>,
    /// Holds a text in lower case.
    lower: Vec<u8>,
}

/// Fingerprint and bits of a set of scopes.
#[derive(Clone, Copy)]
struct Target {
    fingerprint: u64,
    scopes: u64,
}

/// Whose an entry is.
#[derive(Clone, Copy)]
struct Owner<'a> {
    environment: &'a [u8],
    client_id: &'a [u8],
    realm: &'a [u8],
    home_account_id: &'a [u8],
    user_assertion_hash: &'a [u8],
}

/// An entry, and where its plain strings are: its stored key first, then the values of its fields.
struct Template<'a> {
    span: Range<usize>,
    /// From the end of the stored key to the opening brace.
    colon: usize,
    strings: Vec<Range<usize>>,
    meanings: Vec<Meaning>,
    /// Which of the strings have a meaning, by that.
    places: [Option<usize>; Meaning::COUNT],
    /// `home_account_id` is there and `null`.
    null_home_account: bool,
    /// Which meanings have another value than in the entry before, as bits.
    changed: u32,
    /// Where the strings of the next entry are, as far as is known yet.
    next: Vec<Range<usize>>,
    /// What is known of the access token that the template points to.
    token: Option<Token<'a>>,
}

/// A plain bearer token.
#[derive(Clone, Copy)]
struct Token<'a> {
    partition: u64,
    /// What its stored key begins with, up to the target: no more than its owner says.
    prefix: &'a [u8],
    written: i64,
    expires: i64,
    extended: i64,
    no_home_account: Option<NoHomeAccount>,
}

/// What a field means for the identity and the age of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Secret,
    HomeAccountId,
    Environment,
    ClientId,
    Realm,
    Target,
    CredentialType,
    TokenType,
    UserAssertionHash,
    FamilyId,
    Written,
    ExpiresOn,
    ExtendedExpiresOn,
    /// The same as MSAL.NET once spelled it.
    ExtExpiresOn,
    /// Sets the entry apart, however it is spelled.
    Mark,
    /// Nothing.
    None,
}

impl<'a> Skimmer<'a> {
    pub(super) fn new(bytes: &'a [u8], kind: CredentialType) -> Self {
        let kind_itself = fingerprint::of_text(kind.as_str().as_bytes());
        let identities = Identities {
            kind: kind_itself,
            environment: Default::default(),
            target: None,
            lower: Vec::new(),
        };
        Self { bytes, kind, templates: Vec::new(), recent: 0, oldest: 0, identities }
    }

    /// Consumes the next entry, stored key and value. `None`: it is no JSON.
    pub(super) fn entry(&mut self, scanner: &mut Scanner<'a>) -> Option<Skim> {
        let template = match self.fitting(scanner.at) {
            Some(template) => {
                scanner.at = self.templates[template].span.end;
                template
            }
            None => {
                let name = scanner.name()?;
                let start = scanner.at;
                match Template::read(self.bytes, self.kind, &name, scanner)? {
                    Some(template) => self.keep(template),
                    None => return Some(Skim { name, value: start..scanner.at, skimmed: None }),
                }
            }
        };
        let skimmed = self.skim(template);
        let template = &self.templates[template];
        let content = template.strings[0].clone();
        let value = content.end + template.colon..template.span.end;
        Some(Skim { name: Text { content, literal: true, plain: true }, value, skimmed })
    }

    /// The template that the entry fits.
    fn fitting(&mut self, start: usize) -> Option<usize> {
        let others = (0..self.templates.len()).filter(|other| *other != self.recent);
        let mut all = std::iter::once(self.recent).chain(others);
        let fitting = all
            .find(|at| self.templates.get_mut(*at).is_some_and(|template| template.fit(self.bytes, start)))?;
        self.recent = fitting;
        Some(fitting)
    }

    fn keep(&mut self, template: Template<'a>) -> usize {
        if self.templates.len() < TEMPLATES {
            self.recent = self.templates.len();
            self.templates.push(template);
        } else {
            self.recent = self.oldest;
            self.templates[self.oldest] = template;
            self.oldest = (self.oldest + 1) % TEMPLATES;
        }
        self.recent
    }

    /// What the entry that the template points to is; `None` if it has to be decoded.
    fn skim(&mut self, template: usize) -> Option<Skimmed> {
        let template = &mut self.templates[template];
        let identities = &mut self.identities;
        if self.kind == CredentialType::AccessToken {
            template.token = template.read_token(self.bytes, identities);
            let token = template.token?;
            let target = identities.target(template.value(self.bytes, Meaning::Target)?);
            let ends =
                AccessToken::ends_of(UnixSeconds::new(token.expires), UnixSeconds::new(token.extended));
            return Some(Skimmed {
                key: fingerprint::join(token.partition, target.fingerprint),
                partition: token.partition,
                known: Known {
                    written: token.written,
                    expires: token.expires,
                    ends: ends.get(),
                    scopes: target.scopes,
                    no_home_account: token.no_home_account,
                },
            });
        }
        let filled = |meaning| template.value(self.bytes, meaning).filter(|text| !text.is_empty());
        let owner = template.owner(self.bytes)?;
        let client_id = filled(Meaning::ClientId);
        let mut known =
            Known { written: 0, expires: i64::MAX, ends: i64::MAX, scopes: 0, no_home_account: None };
        let key = match self.kind {
            CredentialType::RefreshToken => {
                filled(Meaning::Secret)?;
                let family_or_client = filled(Meaning::FamilyId).unwrap_or(client_id?);
                if let Some(written) = template.value(self.bytes, Meaning::Written) {
                    known.written = seconds(written)?;
                }
                identities.of(&[family_or_client, owner.home_account_id], owner, true)
            }
            CredentialType::IdToken => {
                filled(Meaning::Secret)?;
                identities.of(&[client_id?, owner.realm, owner.home_account_id], owner, true)
            }
            CredentialType::Account => {
                identities.of(&[owner.realm, filled(Meaning::HomeAccountId)?], owner, false)
            }
            _ => identities.of(&[client_id?], owner, false),
        };
        Some(Skimmed { key, partition: key, known })
    }
}

impl<'a> Identities<'a> {
    /// The fingerprint of an identity: the environment, these parts, and where it counts the assertion's hash.
    fn of(&mut self, parts: &[&[u8]], owner: Owner<'a>, with_assertion: bool) -> u64 {
        if self.environment.0 != owner.environment {
            let canonical = canonical(text(owner.environment));
            self.environment = (owner.environment, fingerprint::of_text(canonical.as_bytes()));
        }
        let mut identity = fingerprint::join(self.kind, self.environment.1);
        for part in parts {
            identity = fingerprint::join(identity, self.lower(part));
        }
        if with_assertion {
            let hash = match text(owner.user_assertion_hash) {
                "" => String::new(),
                hash => unpadded(hash),
            };
            identity = fingerprint::join(identity, fingerprint::of_text(hash.as_bytes()));
        }
        identity
    }

    fn target(&mut self, target: &'a [u8]) -> Target {
        if let Some((last, known)) = self.target
            && last == target
        {
            return known;
        }
        // One scope is its own set. In a plain string a blank is the only white space.
        let known = if target.is_empty() || target.contains(&b' ') {
            let scopes = Scopes::parse(text(target));
            Target {
                fingerprint: fingerprint::of_text(scopes.canonical().as_bytes()),
                scopes: fingerprint::of_scopes(&scopes),
            }
        } else {
            let fingerprint = self.lower(target);
            Target { fingerprint, scopes: fingerprint::bits_of_scope(fingerprint) }
        };
        self.target = Some((target, known));
        known
    }

    fn lower(&mut self, text: &[u8]) -> u64 {
        self.lower.clear();
        self.lower.extend_from_slice(text);
        self.lower.make_ascii_lowercase();
        fingerprint::of_text(&self.lower)
    }
}

/// The document is at 1, a section at 2.
const ENTRY_DEPTH: usize = 3;

impl<'a> Owner<'a> {
    /// What a plain bearer token's stored key begins with, up to the target.
    fn key_prefix(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        let rest = strip(key, self.home_account_id)?;
        let rest = strip(strip(rest, b"-")?, self.environment)?;
        // Nothing before may be taken for the segment that tells the kind.
        let mut dashes = (0..key.len() - rest.len()).filter(|at| key[*at] == b'-');
        if dashes.any(|at| {
            [PLAIN_KIND, EXTENDED_KIND].iter().any(|kind| strip(&key[at + 1..], kind.as_bytes()).is_some())
        }) {
            return None;
        }
        let rest = strip(strip(strip(rest, b"-")?, PLAIN_KIND.as_bytes())?, b"-")?;
        let rest = strip(strip(rest, self.client_id)?, b"-")?;
        let rest = strip(strip(rest, self.realm)?, b"-")?;
        Some(&key[..key.len() - rest.len()])
    }
}

impl<'a> Template<'a> {
    /// Consumes the value of an entry and makes a template of it; the inner `None` if something is unusual about it.
    fn read(
        bytes: &[u8],
        kind: CredentialType,
        name: &Text,
        scanner: &mut Scanner<'_>,
    ) -> Option<Option<Self>> {
        let start = scanner.at;
        if scanner.peek()? != b'{' {
            scanner.value(ENTRY_DEPTH)?;
            return Some(None);
        }
        let mut template = Self {
            span: 0..0,
            colon: start - name.content.end,
            strings: vec![name.content.clone()],
            meanings: vec![Meaning::None],
            places: [None; Meaning::COUNT],
            null_home_account: false,
            changed: u32::MAX,
            next: Vec::new(),
            token: None,
        };
        let (mut usual, mut seen) = (name.plain, 0);
        let mut ended = scanner.opens(b'{', b'}', ENTRY_DEPTH)?;
        while !ended {
            let name = scanner.name()?;
            let value = scanner.value(ENTRY_DEPTH + 1)?;
            // A name with escapes may be any.
            usual &= name.literal;
            let meaning = Meaning::of(kind, &bytes[name.content]);
            if meaning != Meaning::None {
                // Of two the last one wins, or not, as the case may be.
                usual &= meaning != Meaning::Mark && seen & meaning.bit() == 0;
                seen |= meaning.bit();
            }
            match value {
                Kind::Text(text) if text.plain => {
                    template.places[meaning as usize] = Some(template.strings.len());
                    template.strings.push(text.content);
                    template.meanings.push(meaning);
                }
                Kind::Null => template.null_home_account |= meaning == Meaning::HomeAccountId,
                _ => usual &= meaning == Meaning::None,
            }
            ended = scanner.ends(b'}')?;
        }
        template.span = name.content.start - 1..scanner.at;
        Some(usual.then_some(template))
    }

    /// Whether what begins at `start` is the same entry but for its plain strings. If so, the template becomes that
    /// of this one.
    fn fit(&mut self, bytes: &[u8], start: usize) -> bool {
        self.next.clear();
        let mut changed = 0;
        // The same place in this entry and in the new one.
        let (mut at, mut new) = (self.span.start, start);
        loop {
            let same = common(&bytes[at..self.span.end], &bytes[new..]);
            let ahead = new - at;
            at += same;
            // Strings that lie in the stretch that is the same, their closing quotes included.
            let passed = self.strings[self.next.len()..].iter().take_while(|string| string.end < at);
            self.next.extend(passed.map(|string| string.start + ahead..string.end + ahead));
            if at == self.span.end {
                std::mem::swap(&mut self.strings, &mut self.next);
                self.span = start..at + ahead;
                self.changed = changed;
                return true;
            }
            // The difference must lie in a string. What is the same of it is plain.
            let place = self.next.len();
            let Some(string) = self.strings.get(place).filter(|string| string.start <= at) else {
                return false;
            };
            new = at + ahead;
            new += plain_run(&bytes[new..]);
            if bytes.get(new) != Some(&b'"') {
                return false;
            }
            self.next.push(string.start + ahead..new);
            changed |= self.meanings[place].bit();
            at = string.end;
        }
    }

    /// The value that has this meaning, if it is there and not `null`.
    fn value(&self, bytes: &'a [u8], meaning: Meaning) -> Option<&'a [u8]> {
        Some(&bytes[self.strings[self.places[meaning as usize]?].clone()])
    }

    /// `None` if there is no environment, which every entry has.
    fn owner(&self, bytes: &'a [u8]) -> Option<Owner<'a>> {
        let value = |meaning| self.value(bytes, meaning).unwrap_or_default();
        let environment = self.value(bytes, Meaning::Environment).filter(|text| !text.is_empty())?;
        Some(Owner {
            environment,
            client_id: value(Meaning::ClientId),
            realm: value(Meaning::Realm),
            home_account_id: value(Meaning::HomeAccountId),
            user_assertion_hash: value(Meaning::UserAssertionHash),
        })
    }

    /// What is known of the access token, if it is a plain one that nothing is unusual about: what it has in common
    /// with the one before, and what is new.
    fn read_token(&self, bytes: &'a [u8], identities: &mut Identities<'a>) -> Option<Token<'a>> {
        let changed = |meanings: &[Meaning]| {
            self.token.is_none() || meanings.iter().any(|meaning| self.changed & meaning.bit() != 0)
        };
        let value = |meaning| self.value(bytes, meaning);
        if changed(&[Meaning::Secret]) {
            value(Meaning::Secret).filter(|secret| !secret.is_empty())?;
        }
        if changed(&[Meaning::CredentialType, Meaning::TokenType]) {
            let says = |meaning, word: &str| {
                value(meaning)
                    .is_none_or(|text| text.is_empty() || text.eq_ignore_ascii_case(word.as_bytes()))
            };
            if !says(Meaning::CredentialType, "AccessToken") || !says(Meaning::TokenType, "Bearer") {
                return None;
            }
        }
        let key = &bytes[self.strings[0].clone()];
        let mut token = match self.token {
            Some(token) if !changed(&Meaning::OF_OWNER) => token,
            _ => {
                let owner = self.owner(bytes)?;
                if owner.client_id.is_empty() || owner.realm.is_empty() {
                    return None;
                }
                let parts = [owner.client_id, owner.realm, owner.home_account_id];
                let no_user = owner.home_account_id.is_empty() && owner.user_assertion_hash.is_empty();
                Token {
                    partition: identities.of(&parts, owner, true),
                    prefix: owner.key_prefix(key)?,
                    written: 0,
                    expires: 0,
                    extended: 0,
                    no_home_account: no_user.then_some(self.no_home_account()),
                }
            }
        };
        if !key.starts_with(token.prefix) {
            token.prefix = self.owner(bytes)?.key_prefix(key)?;
        }
        // What follows the target in the stored key must not set the token apart.
        let dashes = strip(&key[token.prefix.len()..], value(Meaning::Target)?)?;
        if dashes.iter().any(|byte| *byte != b'-') {
            return None;
        }
        if changed(&Meaning::OF_AGE) || changed(&Meaning::OF_OWNER) {
            token.written = seconds(value(Meaning::Written)?)?;
            token.expires = seconds(value(Meaning::ExpiresOn)?)?;
            let extended = [value(Meaning::ExtendedExpiresOn), value(Meaning::ExtExpiresOn)];
            token.extended = match extended {
                [Some(one), Some(other)] if one != other => return None,
                [Some(extended), _] | [None, Some(extended)] => seconds(extended)?.max(token.expires),
                [None, None] => token.expires,
            };
        }
        Some(token)
    }

    fn no_home_account(&self) -> NoHomeAccount {
        match self.places[Meaning::HomeAccountId as usize] {
            Some(_) => NoHomeAccount::Empty,
            None if self.null_home_account => NoHomeAccount::Null,
            None => NoHomeAccount::Absent,
        }
    }
}

impl Meaning {
    const COUNT: usize = Self::None as usize + 1;
    const OF_OWNER: [Self; 5] =
        [Self::Environment, Self::ClientId, Self::Realm, Self::HomeAccountId, Self::UserAssertionHash];
    const OF_AGE: [Self; 4] = [Self::Written, Self::ExpiresOn, Self::ExtendedExpiresOn, Self::ExtExpiresOn];

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    fn of(kind: CredentialType, name: &[u8]) -> Self {
        use CredentialType::{AccessToken, IdToken, RefreshToken};
        match (kind, name) {
            (_, b"home_account_id") => Self::HomeAccountId,
            (_, b"environment") => Self::Environment,
            (_, b"client_id") => Self::ClientId,
            (_, b"realm") => Self::Realm,
            (AccessToken | RefreshToken | IdToken, b"secret") => Self::Secret,
            (AccessToken | RefreshToken | IdToken, b"user_assertion_hash" | b"userAssertionHash") => {
                Self::UserAssertionHash
            }
            (AccessToken, b"target") => Self::Target,
            (AccessToken, b"credential_type") => Self::CredentialType,
            (AccessToken, b"token_type") => Self::TokenType,
            (AccessToken, b"cached_at") | (RefreshToken, b"last_modification_time") => Self::Written,
            (AccessToken, b"expires_on") => Self::ExpiresOn,
            (AccessToken, b"extended_expires_on") => Self::ExtendedExpiresOn,
            (AccessToken, b"ext_expires_on") => Self::ExtExpiresOn,
            (RefreshToken, b"family_id") => Self::FamilyId,
            (
                AccessToken,
                b"tokenType"
                | b"key_id"
                | b"keyid"
                | b"kid"
                | b"keyId"
                | b"ext_cache_key"
                | b"ext_cache_key_hash"
                | b"additionalCacheKeyComponents"
                | b"ext",
            ) => Self::Mark,
            _ => Self::None,
        }
    }
}

/// How many bytes two texts have in common at their beginning.
fn common(one: &[u8], other: &[u8]) -> usize {
    let blocks = one.as_chunks::<32>().0.iter().zip(other.as_chunks::<32>().0);
    let mut same = 32 * blocks.take_while(|(one, other)| one == other).count();
    let words = one[same..].as_chunks::<8>().0.iter().zip(other[same..].as_chunks::<8>().0);
    for (one, other) in words {
        let difference = u64::from_le_bytes(*one) ^ u64::from_le_bytes(*other);
        if difference != 0 {
            return same + difference.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    same + one[same..].iter().zip(&other[same..]).take_while(|(one, other)| one == other).count()
}

/// What follows `prefix`, without regard to case.
fn strip<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    (start == prefix || start.eq_ignore_ascii_case(prefix)).then_some(rest)
}

/// A time as the languages write it. Everything else that can be read as one is decoded.
fn seconds(digits: &[u8]) -> Option<i64> {
    let usual = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    usual.then(|| digits.iter().fold(0, |number, digit| 10 * number + i64::from(digit - b'0')))
}

/// A plain string is ASCII.
fn text(plain: &[u8]) -> &str {
    std::str::from_utf8(plain).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::entry::MEANINGFUL;

    #[test]
    fn what_two_texts_have_in_common_ends_at_the_first_difference() {
        for length in [0, 1, 7, 8, 31, 32, 33, 40, 64, 77] {
            let one = vec![b'a'; length];
            assert_eq!(common(&one, &[b'a'; 100]), length);
            assert_eq!(common(&[b'a'; 100], &one), length);
            for at in 0..length {
                let mut other = one.clone();
                other[at] = b'b';
                assert_eq!(common(&one, &other), at, "{at} of {length}");
            }
        }
    }

    #[test]
    fn every_field_that_sets_an_access_token_apart_is_noticed() {
        for name in MEANINGFUL {
            let passed_over = Meaning::of(CredentialType::AccessToken, name.as_bytes()) == Meaning::None;
            let harmless = [
                "family_id",
                "refresh_on",
                "last_modification_time",
                "local_account_id",
                "username",
                "authority_type",
                "account_source",
            ];
            assert_eq!(passed_over, harmless.contains(name), "{name}");
        }
    }
}
