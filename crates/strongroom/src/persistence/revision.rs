//! Revisions of a document.

/// The revision of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(u64);
impl Revision {
    /// A version number.
    #[must_use]
    pub fn of_version(version: u64) -> Self {
        Self(version)
    }
}
