//! Twins: an application's token once as MSAL Python finds it and once as MSAL Node does.
//!
//! Python deletes what has expired by the key that it computes from an entry's fields. Of Node's form that is the key of
//! its own entry, so that it would delete its own good token by a twin that it has outlived. Hence the two never have
//! the same host, or, where a provider has but one, the same text as their target.

use std::collections::{HashMap, HashSet};

use super::{
    AccessToken, Credential, Dialect, Edits, Form, NoHomeAccount, Partition, SecretBytes, Shape, entry,
    is_plain_app_token, stored_key,
};
use crate::schema::entry::Fields;
use crate::schema::environment::Environments;
use crate::schema::target::Scopes;

impl Edits<'_> {
    /// The token that `credential` is, if Python and Node are both to find it. `matching` are the entries that it replaces:
    /// as long as nobody asks for twins, single ones stay single.
    pub(super) fn twin_of<'c>(
        &self,
        credential: &'c Credential,
        matching: &[usize],
    ) -> Option<&'c AccessToken> {
        let Credential::AccessToken(token) = credential else { return None };
        let asks = |edits: &Self| match edits.change.dialect {
            Some(dialect) => dialect.has_twins(),
            None => matching.is_empty() && edits.dialect().has_twins(),
        };
        (is_plain_app_token(credential) && asks(self)).then_some(token)
    }

    /// Whether one of the entries that the token replaces is one that Python finds: under the host that it is configured
    /// with, and not by Node's form.
    pub(super) fn python_finds(&self, token: &AccessToken, matching: &[usize]) -> bool {
        if matching.is_empty() {
            // It was just added, as Python finds it.
            return true;
        }
        matching.iter().any(|at| {
            let home = self.no_home_account(*at);
            matches!(home, Some(NoHomeAccount::Null | NoHomeAccount::Absent))
                // There the twin is about to stand.
                && !self.has_nodes_key(*at)
                && self.index.credential(*at).is_ok_and(|old| old.environment() == token.environment)
        })
    }

    /// Has a twin for Node written, in the place of those for which Node would take the same request as answered twice:
    /// that is an error to it.
    pub(super) fn note_for_node(&mut self, token: &AccessToken) {
        let change = self.change;
        let partitions = change.partitions_of(token);
        self.for_node.retain(|other| {
            !(partitions.contains(&Partition::of_access_token(other)) && other.target.meets(&token.target))
        });
        self.for_node.push(token.clone());
    }

    pub(super) fn write_twins(&mut self) {
        for token in std::mem::take(&mut self.for_node) {
            let mut rivals = self.visible_to_node(&token);
            let pythons = self.hosts_of_python(&token);
            // Where it stands, Node's memory has it too: under another key there would soon be two.
            let is_safe = |at: &usize| {
                self.index.credential(*at).is_ok_and(|old| !is_among(&pythons, old.environment()))
            };
            let own = rivals.iter().filter(|(_, is_own)| *is_own).map(|(at, _)| *at);
            let kept = own.clone().find(is_safe).or_else(|| own.clone().next());
            rivals.retain(|(at, _)| Some(*at) != kept);
            for (at, _) in rivals {
                self.remove(&[at]);
            }
            self.write_twin(token, kept, &pythons);
        }
    }

    fn write_twin(&mut self, token: AccessToken, kept: Option<usize>, pythons: &[String]) {
        let environments = self.change.environments.as_ref();
        let environment = Environments::of_twin(environments, &token.environment, pythons);
        let environment = environment.unwrap_or_else(|| token.environment.clone());
        // With a blank more it is the same set of scopes to all, and another key to Python.
        let target = format!("{} ", token.target);
        let credential = Credential::AccessToken(token);
        let shape = |mut shape: Shape<'_>| {
            shape.no_home_account = NoHomeAccount::Empty;
            if is_among(pythons, &shape.environment) {
                shape.environment = environment.clone().into();
            }
            if is_among(pythons, &shape.environment) {
                shape.target = Some(target.clone().into());
            }
            entry::write(&credential, &shape)
        };
        match kept {
            Some(at) => {
                let value = shape(self.shape(at, &credential));
                self.changed.insert(at, Some(value));
            }
            None => {
                let value = shape(Shape::new(&credential, NoHomeAccount::Empty, &environment));
                self.add_under(stored_key(&credential, Form::Node, &environment), &credential, value);
            }
        }
    }

    /// The entries of the document that Node may take for an answer where it wants `token`, and whether they are that
    /// token.
    fn visible_to_node(&self, token: &AccessToken) -> Vec<(usize, bool)> {
        let mut found = Vec::new();
        for partition in self.change.partitions_of(token) {
            for (at, credential) in self.index.list(&partition, &Scopes::default()) {
                if let Credential::AccessToken(other) = &credential
                    && is_plain_app_token(&credential)
                    && other.target.meets(&token.target)
                    && self.no_home_account_now(at) == Some(NoHomeAccount::Empty)
                {
                    found.push((at, other.target == token.target));
                }
            }
        }
        found
    }

    /// The hosts under which Python has the token or may have it.
    fn hosts_of_python(&self, token: &AccessToken) -> Vec<String> {
        let mut hosts = vec![token.environment.clone()];
        let is_same = |credential: &Credential| {
            matches!(credential, Credential::AccessToken(other) if other.target == token.target)
                && is_plain_app_token(credential)
        };
        let partitions = self.change.partitions_of(token);
        for partition in &partitions {
            for (at, credential) in self.index.list(partition, &token.target) {
                let is_pythons =
                    self.no_home_account_now(at) != Some(NoHomeAccount::Empty) && !self.is_gone(at);
                if is_pythons && is_same(&credential) {
                    hosts.push(credential.environment().to_owned());
                }
            }
        }
        let added = self.added.iter().map(|added| &added.credential);
        let added = added.filter(|added| is_same(added) && partitions.contains(&Partition::of(added)));
        hosts.extend(added.map(|added| added.environment().to_owned()));
        hosts
    }

    /// Those of the tokens that have ended whose twins are to go with them, and these twins.
    pub(super) fn with_twins(&self, mut ended: Vec<usize>) -> Vec<usize> {
        let now = self.change.now;
        let mut twins = Vec::new();
        for at in ended.iter().filter(|at| self.no_home_account(**at) == Some(NoHomeAccount::Empty)) {
            let Ok(credential) = self.index.credential(*at) else { continue };
            let Credential::AccessToken(token) = &credential else { continue };
            for twin in self.index.matching(&self.change.keys_of(&credential)) {
                let is_twin = matches!(self.index.credential(twin), Ok(Credential::AccessToken(other))
                    if other.secret == token.secret && other.expires_on <= now);
                if is_twin && !self.changed.contains_key(&twin) {
                    twins.push(twin);
                }
            }
        }
        ended.extend(twins);
        ended.sort_unstable();
        ended.dedup();
        ended
    }

    /// Whether an entry lies under a key as Node makes it: with one dash at the end, or more of older ones.
    pub(super) fn has_nodes_key(&self, at: usize) -> bool {
        self.index.credential(at).is_ok_and(|credential| {
            let key = stored_key(&credential, Form::Python, credential.environment());
            let tail = self.index.key(at).strip_prefix(&key);
            tail.is_some_and(|tail| !tail.is_empty() && tail.bytes().all(|byte| byte == b'-'))
        })
    }

    /// Whether an entry that lacks `home_account_id`, and is to be replaced, is Node's: another language has taken it.
    pub(super) fn is_nodes_again(&self, at: usize) -> bool {
        // Of twins one is left for each request, at the end.
        self.has_nodes_key(at)
            && (self.change.dialect.is_some_and(Dialect::has_twins)
                || self.answers_for_node(vec![at]).1.is_empty())
    }

    /// Parts entries into those that Node may be shown, and those of which it would find two for one request then: that
    /// is an error to it.
    pub(super) fn answers_for_node(&self, entries: Vec<usize>) -> (Vec<usize>, Vec<usize>) {
        if entries.is_empty() {
            return Default::default();
        }
        let mut answered = Answered::default();
        let standing = self.index.standing();
        let visible = standing.filter(|at| self.no_home_account_now(*at) == Some(NoHomeAccount::Empty));
        visible.filter_map(|at| self.app_token_now(at)).for_each(|token| answered.add(&token));
        for added in &self.added {
            if let Credential::AccessToken(token) = &added.credential
                && is_plain_app_token(&added.credential)
                && no_home_account_of(&added.value) == Some(NoHomeAccount::Empty)
            {
                answered.add(token);
            }
        }
        entries.into_iter().partition(|at| {
            let token = self.app_token_now(*at);
            let token = token.filter(|token| !answered.meets(token, &self.change.partitions_of(token)));
            token.inspect(|token| answered.add(token)).is_some()
        })
    }

    /// With what this change has made of the entry so far.
    fn app_token_now(&self, at: usize) -> Option<AccessToken> {
        let credential = match self.changed.get(&at) {
            None => self.index.credential(at).ok()?,
            Some(value) => {
                let value = std::str::from_utf8(value.as_ref()?.expose()).ok()?;
                let entry = &self.index.entries[at];
                Fields::read(value).ok()?.into_credential(entry.kind, self.index.key(at)).ok()?
            }
        };
        let is_plain = is_plain_app_token(&credential);
        match credential {
            Credential::AccessToken(token) if is_plain => Some(token),
            _ => None,
        }
    }

    fn no_home_account(&self, at: usize) -> Option<NoHomeAccount> {
        self.index.entries[at].known.as_ref()?.no_home_account
    }

    /// With what this change has made of the entry so far.
    fn no_home_account_now(&self, at: usize) -> Option<NoHomeAccount> {
        match self.changed.get(&at) {
            None => self.no_home_account(at),
            Some(None) => None,
            Some(Some(value)) => no_home_account_of(value),
        }
    }
}

/// The scopes for which Node finds a token, by partition.
#[derive(Default)]
struct Answered(HashMap<Partition, HashSet<String>>);

impl Answered {
    fn add(&mut self, token: &AccessToken) {
        let scopes = self.0.entry(Partition::of_access_token(token)).or_default();
        scopes.extend(token.target.iter().map(str::to_lowercase));
    }

    fn meets(&self, token: &AccessToken, partitions: &[Partition]) -> bool {
        let mut answered = partitions.iter().filter_map(|partition| self.0.get(partition));
        answered.any(|scopes| token.target.iter().any(|scope| scopes.contains(&scope.to_lowercase())))
    }
}

fn no_home_account_of(value: &SecretBytes) -> Option<NoHomeAccount> {
    let value = std::str::from_utf8(value.expose()).unwrap_or_default();
    Fields::read(value).ok().map(|fields| fields.no_home_account.unwrap_or_default())
}

fn is_among(hosts: &[String], environment: &str) -> bool {
    hosts.iter().any(|host| host.eq_ignore_ascii_case(environment))
}
