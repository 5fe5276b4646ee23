//! The whole document, for those who look for more than one credential.

use super::DocumentStore;
use crate::Error;
use crate::persistence::Persistence;
use crate::schema::Document;

impl<P: Persistence> DocumentStore<P> {
    /// Hands the newest document to `read`, and returns what it says with the
    /// [generation](crate::CredentialStore::generation) of the document. Takes no lock.
    ///
    /// # Errors
    /// The document cannot be read, or is none.
    pub async fn read<T>(&self, read: impl FnOnce(&Document) -> T) -> Result<(u64, T), Error> {
        let snapshot = self.snapshot().await?;
        Ok((snapshot.generation, read(&snapshot.document)))
    }

    /// The same with the document that was read or written last, be it the newest or not: reads nothing. `None` if there
    /// was none yet.
    pub fn read_last<T>(&self, read: impl FnOnce(&Document) -> T) -> Option<(u64, T)> {
        let snapshot = self.snapshot.load_full()?;
        Some((snapshot.generation, read(&snapshot.document)))
    }
}
