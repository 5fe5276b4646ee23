//! Fingerprints: numbers that are equal where identities or names are equal, so that what cannot match is passed
//! over without a look at it. Equal fingerprints prove nothing: whoever finds by them compares in full.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::credential::CredentialType;
use super::key::{CredentialKey, Partition};
use super::target::Scopes;

/// So many times all fingerprints are looked through, which costs microseconds, before it pays to sort them.
const PATIENCE: u32 = 16;
/// Environment, client, realm, user, assertion.
const PARTITION_PARTS: usize = 5;

/// The fingerprint of an identity. Access tokens that differ by scheme or extended key only have the same.
pub(super) fn of_key(key: &CredentialKey) -> u64 {
    let mut parts = key.parts();
    let kind = parts.next().unwrap_or_default();
    if kind != CredentialType::AccessToken.as_str() {
        return of_parts(kind, parts);
    }
    let partition = of_parts(kind, parts.by_ref().take(PARTITION_PARTS));
    let target = parts.last().unwrap_or_default();
    join(partition, of_text(target.as_bytes()))
}

/// The fingerprint of a partition.
pub(super) fn of_partition(partition: &Partition) -> u64 {
    let mut parts = partition.parts();
    let kind = parts.next().unwrap_or_default();
    of_parts(kind, parts)
}

fn of_parts<'a>(kind: &str, parts: impl Iterator<Item = &'a str>) -> u64 {
    parts.fold(of_text(kind.as_bytes()), |fingerprint, part| join(fingerprint, of_text(part.as_bytes())))
}

/// What a look-up can be answered with: access tokens of a partition with at least these scopes, or the one other
/// credential of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(super) partition: u64,
    pub(super) scopes: u64,
}

impl Wanted {
    pub(crate) fn of_key(key: &CredentialKey) -> Self {
        let mut parts = key.parts();
        let kind = parts.next().unwrap_or_default();
        if kind != CredentialType::AccessToken.as_str() {
            return Self { partition: of_key(key), scopes: 0 };
        }
        let partition = of_parts(kind, parts.by_ref().take(PARTITION_PARTS));
        Self { partition, scopes: of_scopes(&Scopes::parse(parts.last().unwrap_or_default())) }
    }

    pub(crate) fn of(partition: &Partition, scopes: &Scopes) -> Self {
        Self { partition: of_partition(partition), scopes: of_scopes(scopes) }
    }

    /// Whether all that `other` can be answered with answers this too.
    pub(crate) const fn takes_in(&self, other: &Self) -> bool {
        self.partition == other.partition && other.scopes & self.scopes == self.scopes
    }
}

/// Bits that stand for a set of scopes: those of a subset are among those of the set.
pub(super) fn of_scopes(scopes: &Scopes) -> u64 {
    scopes.iter().fold(0, |bits, scope| bits | bits_of_scope(of_text(scope.to_lowercase().as_bytes())))
}

/// The bits of the scope with this fingerprint, which is in lower case.
pub(super) fn bits_of_scope(scope: u64) -> u64 {
    1 << (scope & 63) | 1 << (scope >> 6 & 63)
}

/// The fingerprint of a text.
pub(super) fn of_text(text: &[u8]) -> u64 {
    let (blocks, rest) = text.as_chunks::<16>();
    let mut fingerprint = text.len() as u64 ^ seed();
    for block in blocks {
        fingerprint = mix(fingerprint, block);
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    mix(fingerprint, &last)
}

/// The fingerprint of a sequence that goes on with a part of fingerprint `next`.
pub(super) fn join(fingerprint: u64, next: u64) -> u64 {
    fold(fingerprint ^ 0x9e37_79b9_7f4a_7c15, next ^ 0xd6e8_feb8_6659_fd93)
}

/// Another one in each process, so that nobody can write a document whose entries all have one fingerprint.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| RandomState::new().hash_one(0))
}

fn mix(fingerprint: u64, block: &[u8; 16]) -> u64 {
    let half =
        |half: usize| block[8 * half..].first_chunk().map_or(0, |eight: &[u8; 8]| u64::from_le_bytes(*eight));
    fold(fingerprint ^ half(0) ^ 0xa076_1d64_78bd_642f, half(1) ^ seed() ^ 0xe703_7ed1_a0b4_28db)
}

#[allow(clippy::cast_possible_truncation)] // the two halves of a product
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A fingerprint for each entry of a document, and the entries that have a given one.
#[derive(Default)]
pub(super) struct Fingerprints {
    all: Vec<u64>,
    asked: AtomicU32,
    sorted: OnceLock<Box<[(u64, u32)]>>,
}

impl Fingerprints {
    pub(super) fn push(&mut self, fingerprint: u64) {
        self.all.push(fingerprint);
    }

    pub(super) fn get(&self, at: usize) -> u64 {
        self.all[at]
    }

    /// The entries with this fingerprint, in their order.
    pub(super) fn find(&self, wanted: u64) -> Vec<usize> {
        if self.sorted.get().is_none() && self.asked.fetch_add(1, Ordering::Relaxed) < PATIENCE {
            return self.find_from(wanted, 0).collect();
        }
        let sorted = self.sorted();
        let first = sorted.partition_point(|(fingerprint, _)| *fingerprint < wanted);
        sorted[first..]
            .iter()
            .take_while(|(fingerprint, _)| *fingerprint == wanted)
            .map(|(_, at)| *at as usize)
            .collect()
    }

    /// The entries that share their fingerprint with others, those with the same one together and in their order.
    pub(super) fn repeated(&self) -> impl Iterator<Item = Vec<usize>> {
        let groups = self.sorted().chunk_by(|one, other| one.0 == other.0);
        groups.filter(|group| group.len() > 1).map(|group| group.iter().map(|(_, at)| *at as usize).collect())
    }

    fn sorted(&self) -> &[(u64, u32)] {
        self.sorted.get_or_init(|| {
            let mut sorted: Box<[(u64, u32)]> = self.all.iter().copied().zip(0..).collect();
            sorted.sort_unstable();
            sorted
        })
    }

    /// The entries from `first` on with this fingerprint, always found by looking through them.
    pub(super) fn find_from(&self, wanted: u64, first: usize) -> impl Iterator<Item = usize> {
        let rest = self.all[first..].iter().enumerate();
        rest.filter(move |(_, fingerprint)| **fingerprint == wanted).map(move |(at, _)| first + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_a_byte_or_in_length_differ() {
        let text = [b'a'; 40];
        let mut seen = std::collections::HashSet::new();
        for length in 0..=40 {
            assert!(seen.insert(of_text(&text[..length])));
            for at in 0..length {
                let mut other = text;
                other[at] = b'b';
                assert!(seen.insert(of_text(&other[..length])), "{at} of {length}");
            }
        }
        assert_ne!(of_text(b""), of_text(b"\0"));
        assert_ne!(join(join(0, 1), 2), join(join(0, 2), 1));
    }

    #[test]
    fn what_is_found_stays_the_same_when_it_is_sorted() {
        let mut fingerprints = Fingerprints::default();
        for n in 0..100 {
            fingerprints.push(n % 7);
        }
        for _ in 0..=PATIENCE {
            assert_eq!(fingerprints.find(3), (0..100).filter(|n| n % 7 == 3).collect::<Vec<_>>());
            assert!(fingerprints.find(7).is_empty());
        }

        let repeated: Vec<Vec<usize>> = fingerprints.repeated().collect();
        assert_eq!(repeated.len(), 7);
        assert!(fingerprints.sorted.get().is_some());
    }
}
