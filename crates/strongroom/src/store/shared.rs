//! A store that several own is one.

use std::sync::Arc;
use std::time::Duration;

use super::{CredentialStore, Lead, Outcome, Record, StoreInfo};
use crate::Error;
use crate::persistence::Persistence;
use crate::schema::{Change, CredentialKey, Partition, Scopes};
use crate::wait::BoxFuture;

impl<S: CredentialStore + ?Sized> CredentialStore for Arc<S> {
    fn get<'a>(&'a self, key: &'a CredentialKey) -> BoxFuture<'a, Result<Option<Record>, Error>> {
        (**self).get(key)
    }

    fn list<'a>(&'a self, partition: &'a Partition) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        (**self).list(partition)
    }

    fn list_for<'a>(
        &'a self,
        partition: &'a Partition,
        scopes: &'a Scopes,
    ) -> BoxFuture<'a, Result<Vec<Record>, Error>> {
        (**self).list_for(partition, scopes)
    }

    fn apply<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Outcome, Error>> {
        (**self).apply(change)
    }

    fn generation(&self) -> Result<Option<u64>, Error> {
        (**self).generation()
    }

    fn lead<'a>(&'a self, key: &'a CredentialKey, patience: Duration) -> BoxFuture<'a, Lead> {
        (**self).lead(key, patience)
    }

    fn is_shared_with_peers(&self) -> bool {
        (**self).is_shared_with_peers()
    }

    fn info(&self) -> StoreInfo {
        (**self).info()
    }

    fn state(&self) -> Option<Box<dyn Persistence>> {
        (**self).state()
    }
}
