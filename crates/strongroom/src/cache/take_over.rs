//! Bringing in on purpose what may have been removed before.

use super::TokenCache;
use super::state::Note;
use super::tombstone::Graveyard;
use crate::Error;
use crate::schema::{Change, Credential};
use crate::store::Outcome;

impl TokenCache {
    /// Makes a change that stores what somebody wants to have here, from another cache say. What of it was removed
    /// earlier is no longer kept from coming back.
    ///
    /// # Errors
    /// The store cannot be read or written; it is as it was.
    pub async fn take_over(&self, change: &Change) -> Result<Outcome, Error> {
        let outcome = self.0.store.apply(change).await?;
        if self.0.is_shared && matches!(outcome, Outcome::Applied { .. }) {
            let now = self.now();
            let graveyard = Graveyard::of(&self.0.state, now).await;
            let credentials = || change.puts.iter().map(|put| &put.credential);
            let accounts: Vec<String> = credentials()
                .filter_map(|credential| match credential {
                    Credential::Account(account) => Some(account.home_account_id.clone()),
                    _ => None,
                })
                .collect();
            let mut risen = graveyard.of_accounts(&accounts);
            risen.extend(credentials().flat_map(|credential| graveyard.of_credential(credential)));
            if !risen.is_empty() {
                self.0.state.note(Note::Risen(risen), now).await;
            }
        }
        Ok(outcome)
    }
}
