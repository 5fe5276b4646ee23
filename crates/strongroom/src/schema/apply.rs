//! What a change makes of the entries of a document: which get another value, which go, which are new.

mod entries;
mod twins;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::change::{Change, Expectation};
use super::credential::{AccessToken, AppMetadata, Credential, CredentialType};
use super::dialect::{Dialect, Form, NoHomeAccount};
use super::entry::{self, Fields, Shape};
use super::environment::cloud_of;
use super::index::{Index, is_plain_app_token};
use super::key::{CredentialKey, Partition, TokenScheme};
use crate::SecretBytes;

/// A change to a document, worked out entry by entry.
pub(super) struct Edits<'a> {
    pub(super) index: &'a Index,
    change: &'a Change,
    /// By index: a new value, or nothing where the entry goes.
    pub(super) changed: BTreeMap<usize, Option<SecretBytes>>,
    pub(super) added: Vec<Added>,
    added_at: HashMap<(CredentialType, String), usize>,
    /// The tokens of which Node is to find a twin.
    for_node: Vec<AccessToken>,
    /// What the change removes, and how many expired tokens go with it.
    pub(super) removed: Vec<Credential>,
    pub(super) swept: usize,
    /// How many entries that cannot be read go too.
    pub(super) unreadable: usize,
    /// The document's dialect, found out when first asked for.
    dominant: OnceCell<Dialect>,
}

/// An entry that is new.
pub(super) struct Added {
    pub(super) key: String,
    pub(super) credential: Credential,
    pub(super) value: SecretBytes,
}

impl<'a> Edits<'a> {
    pub(super) fn new(index: &'a Index, change: &'a Change) -> Self {
        Self {
            index,
            change,
            changed: BTreeMap::new(),
            added: Vec::new(),
            added_at: HashMap::new(),
            for_node: Vec::new(),
            removed: Vec::new(),
            swept: 0,
            unreadable: 0,
            dominant: OnceCell::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.added.is_empty()
    }

    pub(super) fn adds_to(&self, kind: CredentialType) -> bool {
        self.added.iter().any(|added| added.credential.credential_type() == kind)
    }

    /// Works the change out. Returns the key of the record that is not as the change expects, if there is one.
    pub(super) fn make(&mut self) -> Option<CredentialKey> {
        let change = self.change;
        if change.only_existing && self.index.is_empty() {
            return None;
        }
        self.remove_by_keys();
        self.remove_by_fields();
        for put in &change.puts {
            let keys = change.keys_of(&put.credential);
            if !self.is_as_expected(put.expectation, &keys) {
                return Some(CredentialKey::of(&put.credential));
            }
            self.put(&put.credential, &keys);
        }
        self.put_entries();
        self.put_back();
        self.write_twins();
        if change.sweep {
            self.sweep();
        }
        self.remove_orphans();
        None
    }

    fn is_as_expected(&self, expectation: Expectation, keys: &[CredentialKey]) -> bool {
        let newest = || self.index.newest(keys);
        match expectation {
            Expectation::Any => true,
            Expectation::Absent => newest().is_none(),
            Expectation::Unchanged(revision) => {
                newest().is_some_and(|(at, _)| self.index.revision(at) == revision)
            }
        }
    }

    fn remove_by_keys(&mut self) {
        for key in &self.change.removals {
            let found = self.index.find(key);
            self.remove_credentials(found);
        }
    }

    fn remove_by_fields(&mut self) {
        if !self.change.removes_by_fields() {
            return;
        }
        for at in self.index.standing() {
            match self.index.credential(at) {
                Ok(credential) if self.change.removes(&credential) => {
                    self.remove_credentials(vec![(at, credential)]);
                }
                Ok(_) => {}
                Err(_) => {
                    let kind = self.index.entries[at].kind;
                    let fields = Fields::read(self.index.value(at));
                    if fields.is_ok_and(|fields| self.change.removes_unreadable(kind, &fields)) {
                        self.remove(&[at]);
                        self.unreadable += 1;
                    }
                }
            }
        }
    }

    fn remove_credentials(&mut self, found: Vec<(usize, Credential)>) {
        for (at, credential) in found {
            if !self.is_gone(at) {
                self.remove(&[at]);
                self.removed.push(credential);
            }
        }
    }

    fn is_gone(&self, at: usize) -> bool {
        matches!(self.changed.get(&at), Some(None))
    }

    fn remove_orphans(&mut self) {
        let ids = self.change.orphans(&self.removed);
        if ids.is_empty() {
            return;
        }
        let mut owners: HashSet<String> =
            self.added.iter().filter_map(|added| added.credential.owner_of_token()).collect();
        let mut accounts = Vec::new();
        for at in self.index.standing().filter(|at| !self.is_gone(*at)) {
            match self.index.credential(at) {
                Ok(credential @ Credential::Account(_)) if !self.changed.contains_key(&at) => {
                    accounts.push((at, credential));
                }
                Ok(credential) => owners.extend(credential.owner_of_token()),
                // It may well be a token, though not for us.
                Err(_) => {
                    let fields = Fields::read(self.index.value(at)).unwrap_or_default();
                    owners.extend(fields.home_account_id.map(|id| id.to_lowercase()));
                }
            }
        }
        accounts.retain(|(_, account)| {
            let id = account.home_account_id().unwrap_or_default().to_lowercase();
            ids.contains(&id) && !owners.contains(&id)
        });
        self.remove_credentials(accounts);
    }

    fn put_back(&mut self) {
        let change = self.change;
        let mut stored: Vec<&AccessToken> = change
            .puts
            .iter()
            .filter_map(|put| match &put.credential {
                Credential::AccessToken(token) => Some(token),
                _ => None,
            })
            .collect();
        for token in &change.put_backs {
            let partitions = change.partitions_of(token);
            let is_stored = stored
                .iter()
                .any(|own| own.answers_for(token) && partitions.contains(&Partition::of_access_token(own)));
            if !is_stored && !partitions.iter().any(|partition| self.is_answered(token, partition)) {
                let credential = Credential::AccessToken(token.clone());
                self.put(&credential, &change.keys_of(&credential));
                stored.push(token);
            }
        }
    }

    /// Whether a token that stays in the document serves who wants `token`.
    fn is_answered(&self, token: &AccessToken, partition: &Partition) -> bool {
        let found = self.index.list(partition, &token.target);
        found.iter().filter(|(at, _)| !self.changed.contains_key(at)).any(
            |(_, credential)| matches!(credential, Credential::AccessToken(own) if own.answers_for(token)),
        )
    }

    fn put(&mut self, credential: &Credential, keys: &[CredentialKey]) {
        let matching = self.index.matching(keys);
        let credential = credential.not_ahead_of(self.change.now);
        match &credential {
            Credential::AppMetadata(app) => self.put_app_metadata(app, &credential, &matching),
            _ if matching.is_empty() => self.add(&credential),
            _ => matching.iter().for_each(|at| self.replace(*at, &credential)),
        }
        if let Some(token) = self.twin_of(&credential, &matching) {
            if !self.python_finds(token, &matching) {
                self.add_as(&credential, Form::Python);
            }
            self.note_for_node(token);
        }
    }

    /// Python finds this one entry by its stored key only, so it is always there under exactly that key.
    fn put_app_metadata(&mut self, app: &AppMetadata, new: &Credential, matching: &[usize]) {
        let key = stored_key(new, Form::Python, new.environment());
        if let Some(at) = matching.iter().copied().find(|at| self.index.key(*at) == key) {
            // A response without a family does not take it away from the application.
            let same = matches!(self.index.credential(at), Ok(Credential::AppMetadata(old))
                if app.family_id.is_none() || old.family_id == app.family_id);
            self.changed.remove(&at);
            if !same {
                let value = entry::write(new, &self.shape(at, new));
                self.changed.insert(at, Some(value));
            }
            return;
        }
        // Where another application's entry stands under that key there is no place that Python would look at.
        if matching.is_empty() || self.index.named(new.credential_type(), &key).is_none() {
            let shape = Shape::new(new, NoHomeAccount::Null, new.environment());
            self.add_under(key, new, entry::write(new, &shape));
        }
    }

    /// A new entry, in the caller's dialect or the document's.
    fn add(&mut self, credential: &Credential) {
        // Node knows neither the marker of an extended token nor ours of a bound one: it must not see them.
        let form = if is_plain_app_token(credential) { self.dialect().form() } else { Form::Python };
        self.add_as(credential, form);
    }

    fn add_as(&mut self, credential: &Credential, form: Form) {
        let no_home_account = match credential {
            // Python takes every app token with `null` for a bearer token, and for nobody's.
            Credential::AccessToken(token)
                if token.scheme != TokenScheme::Bearer || !token.is_app_token() =>
            {
                NoHomeAccount::Absent
            }
            _ => form.no_home_account(),
        };
        let environment = match (form, &self.change.environments) {
            (Form::Python, _) => credential.environment(),
            (Form::Node, Some(environments)) => environments.preferred_cache(),
            (Form::Node, None) => {
                cloud_of(credential.environment()).map_or(credential.environment(), |cloud| cloud.cache)
            }
        };
        let value = entry::write(credential, &Shape::new(credential, no_home_account, environment));
        let key = stored_key(credential, form, environment);
        self.add_under(key, credential, value);
    }

    /// Adds an entry under `key`, or replaces what cannot be read there. Another credential that stands there
    /// (Python stores a PoP token under a bearer token's key) keeps its place: the key gets a dash more. Only
    /// another session of the same user gives way: Python would serve either for the other.
    fn add_under(&mut self, mut key: String, new: &Credential, value: SecretBytes) {
        let kind = new.credential_type();
        loop {
            if let Some(at) = self.added_at.get(&(kind, key.clone())).copied() {
                let added = &mut self.added[at];
                if gives_way(&added.credential, new) {
                    added.value = value;
                    added.credential = new.clone();
                    return;
                }
            } else if let Some(at) = self.index.named(kind, &key) {
                let stays =
                    !self.is_gone(at) && self.index.credential(at).is_ok_and(|old| !gives_way(&old, new));
                if !stays {
                    self.changed.insert(at, Some(value));
                    return;
                }
            } else {
                self.added_at.insert((kind, key.clone()), self.added.len());
                self.added.push(Added { key, credential: new.clone(), value });
                return;
            }
            key.push('-');
        }
    }

    /// The same entry with another token: it keeps its key, its shape and the fields of others.
    fn replace(&mut self, at: usize, credential: &Credential) {
        let mut shape = self.shape(at, credential);
        if shape.no_home_account == NoHomeAccount::Absent && is_plain_app_token(credential) {
            shape.no_home_account =
                if self.is_nodes_again(at) { NoHomeAccount::Empty } else { NoHomeAccount::Null };
        }
        let value = entry::write(credential, &shape);
        self.changed.insert(at, Some(value));
    }

    /// The shape of an entry that is replaced by `credential`.
    fn shape<'s>(&self, at: usize, credential: &'s Credential) -> Shape<'s>
    where
        'a: 's,
    {
        Shape::of(self.index.value(at), credential)
    }

    fn remove(&mut self, entries: &[usize]) {
        for at in entries {
            // An earlier entry of the same stored key goes too, else it would come back in its place.
            for same in self.index.of_one_name(*at) {
                self.changed.insert(same, None);
            }
        }
    }

    /// The caller's dialect, or the document's.
    fn dialect(&self) -> Dialect {
        self.change.dialect.unwrap_or_else(|| *self.dominant.get_or_init(|| self.dominant_dialect()))
    }

    /// That of most of the document's tokens, of which twins count as one.
    fn dominant_dialect(&self) -> Dialect {
        let born =
            |at: usize| self.index.entries[at].known.as_ref().map(|known| (known.written, known.expires));
        let (lost, of_others): (Vec<_>, Vec<_>) =
            self.app_tokens(NoHomeAccount::Absent).partition(|at| self.has_nodes_key(*at));
        let of_node = self.app_tokens(NoHomeAccount::Empty).chain(lost);
        let of_node: HashMap<u64, _> = of_node.map(|at| (self.index.identity(at), born(at))).collect();
        if of_node.is_empty() {
            return Dialect::PYTHON;
        }
        let (mut pairs, mut others) = (0, 0);
        for at in self.app_tokens(NoHomeAccount::Null).chain(of_others) {
            let has_twin = of_node.get(&self.index.identity(at)).is_some_and(|twin| *twin == born(at));
            *(if has_twin { &mut pairs } else { &mut others }) += 1;
        }
        let of_node = of_node.len().saturating_sub(pairs);
        if pairs > of_node + others {
            Dialect::PYTHON_AND_NODE
        } else if of_node > others + pairs {
            Dialect::NODE
        } else {
            Dialect::PYTHON
        }
    }

    /// The plain application tokens that spell in this way that they have no user.
    fn app_tokens(&self, shape: NoHomeAccount) -> impl Iterator<Item = usize> + use<'a> {
        let index = self.index;
        index.standing_with(move |known| known.no_home_account == Some(shape))
    }

    fn sweep(&mut self) {
        let now = self.change.now.get();
        let tokens = self.index.standing_with(|known| known.ends.min(known.expires) <= now);
        let ended: Vec<usize> = tokens
            .filter(|at| {
                let entry = &self.index.entries[*at];
                entry.kind == CredentialType::AccessToken && !self.changed.contains_key(at)
            })
            .filter(|at| {
                self.index.entries[*at].known.as_ref().is_some_and(|known| known.ends <= now)
                    || self.is_foreign(*at)
            })
            .collect();
        let ended = self.with_twins(ended);
        self.remove(&ended);
        self.swept = ended.len();
    }

    /// Whether an entry lies under another key than Python's. Once it has expired, Python tries to delete it at
    /// every look-up, in vain, and may delete its own in its place: such an entry is not kept for outages.
    fn is_foreign(&self, at: usize) -> bool {
        self.index.credential(at).is_ok_and(|credential| {
            stored_key(&credential, Form::Python, credential.environment()) != self.index.key(at)
        })
    }

    /// A Go, Java or .NET rewrite drops `home_account_id` where it is `null` or `""`, and without it neither Python nor
    /// Node finds an application's token. Each entry gets back what its key says that it had.
    pub(super) fn heal(&mut self) {
        let missing = self.app_tokens(NoHomeAccount::Absent).filter(|at| !self.changed.contains_key(at));
        let missing: Vec<usize> = missing.collect();
        let (of_node, others): (Vec<_>, Vec<_>) = missing.into_iter().partition(|at| self.has_nodes_key(*at));
        let (of_node, too_many) = self.answers_for_node(of_node);
        self.give_back(&of_node, b"{\"home_account_id\":\"\",");
        // What would be a second answer to Node is left to Python.
        self.give_back(&too_many, b"{\"home_account_id\":null,");
        self.give_back(&others, b"{\"home_account_id\":null,");
    }

    fn give_back(&mut self, entries: &[usize], home: &[u8]) {
        for at in entries {
            let value = self.index.value(*at).as_bytes();
            let mut healed = SecretBytes::with_capacity(value.len() + home.len());
            healed.extend(home);
            healed.extend(&value[1..]);
            self.changed.insert(*at, Some(healed));
        }
    }
}

impl<'a> Shape<'a> {
    fn new(credential: &Credential, no_home_account: NoHomeAccount, environment: &'a str) -> Self {
        let bound =
            matches!(credential, Credential::AccessToken(token) if token.scheme != TokenScheme::Bearer);
        Self {
            credential_type: bound.then_some("AccessToken_With_AuthScheme".into()),
            no_home_account,
            environment: environment.into(),
            target: None,
            names: entry::Names::default(),
            client_id: None,
            unknown: Vec::new(),
        }
    }

    /// The shape of the entry `raw`, for `credential`, which is to be written in it.
    fn of(raw: &'a str, credential: &'a Credential) -> Self {
        let fields = Fields::read(raw).unwrap_or_default();
        let of_family = matches!(credential, Credential::RefreshToken(token) if token.family_id.is_some());
        Self {
            credential_type: fields.credential_type,
            no_home_account: fields.no_home_account.unwrap_or_default(),
            environment: fields.environment.unwrap_or_else(|| credential.environment().into()),
            target: fields.target,
            names: fields.names,
            client_id: fields.client_id.filter(|_| of_family),
            unknown: entry::unknown_fields(raw),
        }
    }
}

/// Whether `old` makes room for `new` under the stored key of both: it is the same credential, or another session
/// or family of the same user, of which a document has room for one.
fn gives_way(old: &Credential, new: &Credential) -> bool {
    let key_of_user = |credential: &Credential| {
        let mut credential = credential.clone();
        let home = match &mut credential {
            Credential::AccessToken(token) => {
                token.user_assertion_hash = None;
                token.home_account_id.is_some()
            }
            Credential::RefreshToken(token) => {
                token.user_assertion_hash = None;
                token.family_id = None;
                token.home_account_id.is_some()
            }
            Credential::IdToken(token) => {
                token.user_assertion_hash = None;
                token.home_account_id.is_some()
            }
            Credential::Account(_) | Credential::AppMetadata(_) => false,
        };
        home.then(|| CredentialKey::of(&credential))
    };
    CredentialKey::of(old) == CredentialKey::of(new)
        || key_of_user(old).is_some_and(|key| key_of_user(new) == Some(key))
}

/// The key that a new entry is stored under.
pub(super) fn stored_key(credential: &Credential, form: Form, environment: &str) -> String {
    let home = |id: &Option<String>| id.clone().unwrap_or_default();
    match credential {
        Credential::AccessToken(token) => {
            let mut key = format!(
                "{}-{environment}-{}-{}-{}-{}",
                home(&token.home_account_id),
                match (&token.extended, &token.scheme) {
                    (Some(_), _) => "atext",
                    (None, TokenScheme::Bearer) => "accesstoken",
                    (None, TokenScheme::Bound { .. }) => "accesstoken_with_authscheme",
                },
                token.client_id,
                token.realm,
                token.target
            );
            if let TokenScheme::Bound { token_type, .. } = &token.scheme {
                key.push('-');
                key.push_str(token_type);
            }
            if let Some(extended) = &token.extended {
                key.push('-');
                key.push_str(extended.as_str());
            }
            if form == Form::Node {
                key.push('-');
            }
            key.to_lowercase()
        }
        Credential::RefreshToken(token) => {
            let home = home(&token.home_account_id);
            format!("{home}-{environment}-refreshtoken-{}--{}", token.client_id, token.target).to_lowercase()
        }
        Credential::IdToken(token) => {
            let home = home(&token.home_account_id);
            format!("{home}-{environment}-idtoken-{}-{}-", token.client_id, token.realm).to_lowercase()
        }
        Credential::Account(account) => {
            format!("{}-{environment}-{}", account.home_account_id, account.realm).to_lowercase()
        }
        // Python does not lower-case this one, and finds it by nothing else.
        Credential::AppMetadata(app) => format!("appmetadata-{environment}-{}", app.client_id),
    }
}
