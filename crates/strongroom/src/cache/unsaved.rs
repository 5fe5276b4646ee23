//! Tokens that could not be stored: served from memory until they end.
//!
//! On a full disk, or beside a cache that may only be read, every call of a daemon would else become a request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::l1::weight;
use crate::Error;
use crate::platform::fork::PerProcess;
use crate::schema::{AccessToken, CredentialKey, Partition};
use crate::time::UnixSeconds;

/// They are looked through one by one.
const MOST: usize = 1024;

#[derive(Debug)]
pub(super) struct Unsaved {
    bound: usize,
    /// The number of tokens, so that the usual case costs no lock.
    count: AtomicUsize,
    /// A forked child has none: another thread may have held this lock at the moment of the fork.
    tokens: PerProcess<Mutex<VecDeque<Kept>>>,
}

#[derive(Debug, Clone)]
pub(super) struct Kept {
    key: CredentialKey,
    pub(super) partition: Partition,
    pub(super) token: Arc<AccessToken>,
    /// Why it could not be stored.
    pub(super) error: Error,
}

impl Unsaved {
    /// Keeps at most `bound` bytes; the oldest go first.
    pub(super) fn new(bound: usize) -> Self {
        Self { bound, count: AtomicUsize::new(0), tokens: PerProcess::new(Mutex::default) }
    }

    pub(super) fn keep(&self, token: AccessToken, error: Error, now: UnixSeconds) {
        let kept = Kept {
            key: CredentialKey::of_access_token(&token),
            partition: Partition::of_access_token(&token),
            token: Arc::new(token),
            error,
        };
        self.change(|tokens| {
            tokens.retain(|other| other.key != kept.key && other.token.expires_on > now);
            tokens.push_back(kept);
            let mut bytes: usize = tokens.iter().map(|kept| weight(&kept.key, &kept.token)).sum();
            while tokens.len() > MOST || bytes > self.bound {
                let Some(oldest) = tokens.pop_front() else { break };
                bytes -= weight(&oldest.key, &oldest.token);
            }
        });
    }

    /// Forgets what is now in the store.
    pub(super) fn forget(&self, key: &CredentialKey) {
        if !self.is_empty() {
            self.change(|tokens| tokens.retain(|kept| kept.key != *key));
        }
    }

    /// Forgets the tokens that are being removed.
    pub(super) fn forget_those(&self, goes: impl Fn(&AccessToken) -> bool) {
        if !self.is_empty() {
            self.change(|tokens| tokens.retain(|kept| !goes(&kept.token)));
        }
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) {
        if !self.is_empty() {
            self.change(VecDeque::clear);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Those that may answer a request, the newest first.
    pub(super) fn candidates(&self, now: UnixSeconds, wanted: impl Fn(&Kept) -> bool) -> Vec<Kept> {
        if self.is_empty() {
            return Vec::new();
        }
        self.change(|tokens| tokens.retain(|kept| kept.token.ends() > now));
        let tokens = self.tokens.get().lock().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().rev().filter(|kept| wanted(kept)).cloned().collect()
    }

    fn change(&self, change: impl FnOnce(&mut VecDeque<Kept>)) {
        let mut tokens = self.tokens.get().lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut tokens);
        self.count.store(tokens.len(), Ordering::Release);
    }
}
