//! What MSAL asks of its cache, and which entries answer.
//!
//! The rules are the library's, not those of MSAL Python: absent, `null` and empty are equal, hosts of one cloud are
//! equal, case does not matter; and a token never answers a request that it was not issued for. A question that names
//! neither a tenant nor scopes is no request for a token: it asks what there is, to remove it, and gets everything.

use std::cmp::Reverse;
use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use strongroom::{
    AccessToken, Credential, CredentialKey, CredentialType, Document, Environments, Partition, RawEntry,
    Scopes, SecretString, TokenScheme, UnixSeconds,
};

use crate::json::to_dict;

/// A question. A field that is empty asks for entries without it.
pub(crate) struct Query {
    kind: CredentialType,
    scopes: Scopes,
    now: UnixSeconds,
    environment: Option<String>,
    home_account_id: Option<String>,
    client_id: Option<String>,
    realm: Option<String>,
    family_id: Option<String>,
    key_id: Option<String>,
    ext_cache_key: Option<String>,
    /// What the library has no rules for: equal in Python, or not.
    rest: Vec<(Py<PyAny>, Py<PyAny>)>,
}

/// An entry that answers.
pub(crate) struct Found {
    json: SecretString,
    credential: Credential,
}

impl Query {
    pub(crate) fn new(
        kind: CredentialType,
        scopes: Scopes,
        query: &Bound<'_, PyDict>,
        now: UnixSeconds,
    ) -> PyResult<Self> {
        let mut asked = Self {
            kind,
            scopes,
            now,
            environment: None,
            home_account_id: None,
            client_id: None,
            realm: None,
            family_id: None,
            key_id: None,
            ext_cache_key: None,
            rest: Vec::new(),
        };
        for (name, value) in query {
            let text = match value.cast::<PyString>() {
                Ok(text) => Some(text.to_cow()?.into_owned()),
                Err(_) if value.is_none() => Some(String::new()),
                Err(_) => None,
            };
            let field = name.cast::<PyString>().ok().and_then(|name| asked.field(&name.to_cow().ok()?));
            match (field, text) {
                (Some(field), Some(text)) => *field = Some(text),
                _ => asked.rest.push((name.unbind(), value.unbind())),
            }
        }
        Ok(asked)
    }

    /// The access tokens of a user for `scopes` at this application.
    pub(crate) fn for_user(
        client_id: &str,
        environment: &str,
        realm: &str,
        home_account_id: &str,
        scopes: Scopes,
        now: UnixSeconds,
    ) -> Self {
        Self {
            kind: CredentialType::AccessToken,
            scopes,
            now,
            environment: Some(environment.to_owned()),
            home_account_id: Some(home_account_id.to_owned()),
            client_id: Some(client_id.to_owned()),
            realm: Some(realm.to_owned()),
            family_id: None,
            key_id: None,
            ext_cache_key: None,
            rest: Vec::new(),
        }
    }

    /// All accounts at a host.
    pub(crate) fn accounts_at(environment: &str) -> Self {
        Self {
            kind: CredentialType::Account,
            scopes: Scopes::default(),
            now: UnixSeconds::default(),
            environment: Some(environment.to_owned()),
            home_account_id: None,
            client_id: None,
            realm: None,
            family_id: None,
            key_id: None,
            ext_cache_key: None,
            rest: Vec::new(),
        }
    }

    fn field(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "environment" => &mut self.environment,
            "home_account_id" => &mut self.home_account_id,
            "client_id" => &mut self.client_id,
            "realm" => &mut self.realm,
            "family_id" => &mut self.family_id,
            "key_id" => &mut self.key_id,
            "ext_cache_key" => &mut self.ext_cache_key,
            _ => return None,
        })
    }

    /// The entries of `document` that answer, the best first.
    pub(crate) fn find(&self, document: &Document) -> Vec<Found> {
        let mut found: Vec<RawEntry<'_>> = match self.partition() {
            Some(partition) => document.raw_access_tokens(&partition, &self.scopes),
            None => document.raw_entries(self.kind).collect(),
        };
        found.retain(|entry| self.is_answered_by(entry.credential()));
        found.sort_by_cached_key(|entry| self.rank(entry.credential()));
        without_twins(&mut found);
        found
            .into_iter()
            .map(|entry| Found { json: entry.expose().into(), credential: entry.credential().clone() })
            .collect()
    }

    /// The one partition that an answer lies in, if the question names it: then nothing else is looked at.
    fn partition(&self) -> Option<Partition> {
        if self.kind != CredentialType::AccessToken {
            return None;
        }
        let home_account_id = self.home_account_id.clone()?;
        let id = Some(home_account_id).filter(|id| !id.is_empty());
        let (environment, client_id) = (self.environment.clone()?, self.client_id.clone()?);
        let place = place_of(id, environment, client_id, self.realm.clone()?, Scopes::default());
        Some(Partition::of_access_token(&place))
    }

    /// Whether MSAL Python would find this token by its key, without a look at its end: it judges that by itself then.
    fn is_exactly(&self, token: &AccessToken) -> bool {
        self.partition().is_some() && !self.scopes.is_empty() && self.scopes == token.target
    }

    /// Whether somebody wants to use what is found, and not just know what there is.
    fn is_request(&self) -> bool {
        match self.kind {
            CredentialType::AccessToken => self.realm.is_some() || !self.scopes.is_empty(),
            CredentialType::RefreshToken => self.client_id.is_some() || self.family_id.is_some(),
            _ => false,
        }
    }

    fn is_answered_by(&self, credential: &Credential) -> bool {
        match credential {
            Credential::AccessToken(token) => {
                self.is_at(&token.environment)
                    && same(&self.home_account_id, token.home_account_id.as_deref())
                    && same(&self.client_id, Some(&token.client_id))
                    && same(&self.realm, Some(&token.realm))
                    && same(&self.ext_cache_key, token.extended.as_ref().map(|key| key.as_str()))
                    && same(&self.key_id, key_id(token))
                    && same(&self.family_id, None)
                    && self.scopes.is_subset_of(&token.target)
                    && (token.expires_on >= self.now || self.is_exactly(token))
                    && (!self.is_request() || self.may_use(token))
            }
            Credential::RefreshToken(token) => {
                self.is_at(&token.environment)
                    && same(&self.home_account_id, token.home_account_id.as_deref())
                    && same(&self.client_id, Some(&token.client_id))
                    && same(&self.family_id, token.family_id.as_deref())
                    && same(&self.realm, None)
                    && self.scopes.is_subset_of(&token.target)
                    && (!self.is_request() || token.user_assertion_hash.is_none())
            }
            Credential::IdToken(token) => {
                self.is_at(&token.environment)
                    && same(&self.home_account_id, token.home_account_id.as_deref())
                    && same(&self.client_id, Some(&token.client_id))
                    && same(&self.realm, Some(&token.realm))
                    && self.scopes.is_empty()
            }
            Credential::Account(account) => {
                self.is_at(&account.environment)
                    && same(&self.home_account_id, Some(&account.home_account_id))
                    && same(&self.realm, Some(&account.realm))
                    && self.client_id.is_none()
                    && self.scopes.is_empty()
            }
            Credential::AppMetadata(app) => {
                self.is_at(&app.environment)
                    && same(&self.client_id, Some(&app.client_id))
                    && same(&self.family_id, app.family_id.as_deref())
                    && self.scopes.is_empty()
            }
            _ => false,
        }
    }

    /// Whether this token may be served: what sets it apart from a plain one, the question must name.
    fn may_use(&self, token: &AccessToken) -> bool {
        let is_unnamed = |asked: &Option<String>| asked.as_deref().is_none_or(str::is_empty);
        token.user_assertion_hash.is_none()
            && (token.extended.is_none() || !is_unnamed(&self.ext_cache_key))
            && (token.scheme == TokenScheme::Bearer || !is_unnamed(&self.key_id))
    }

    fn is_at(&self, environment: &str) -> bool {
        self.environment.as_deref().is_none_or(|asked| Environments::of(asked).contains(environment))
    }

    /// Of tokens to use: what lives and has exactly the scopes, then the newest. Else the host that was asked for.
    fn rank(&self, credential: &Credential) -> impl Ord + use<> {
        let elsewhere = |environment: &str| {
            self.environment.as_deref().is_some_and(|asked| !asked.eq_ignore_ascii_case(environment))
        };
        match credential {
            Credential::AccessToken(token) if self.is_request() => {
                let more = !self.scopes.is_empty() && token.target.len() > self.scopes.len();
                let expired = token.expires_on < self.now;
                (expired || more, Reverse(token.cached_at.get()), elsewhere(&token.environment))
            }
            Credential::AccessToken(token) => (elsewhere(&token.environment), Reverse(0), false),
            Credential::RefreshToken(token) => (elsewhere(&token.environment), Reverse(0), false),
            Credential::IdToken(token) => (elsewhere(&token.environment), Reverse(0), false),
            Credential::Account(account) => (elsewhere(&account.environment), Reverse(0), false),
            Credential::AppMetadata(app) => (elsewhere(&app.environment), Reverse(0), false),
            _ => (true, Reverse(0), true),
        }
    }

    /// Whether an entry is as the library has no rules for.
    pub(crate) fn accepts(&self, py: Python<'_>, entry: &Bound<'_, PyDict>) -> PyResult<bool> {
        for (name, value) in &self.rest {
            match entry.get_item(name)? {
                Some(own) if own.eq(value.bind(py))? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Found {
    /// The access token that this is, if it is one.
    pub(crate) fn access_token(&self) -> Option<&AccessToken> {
        match &self.credential {
            Credential::AccessToken(token) => Some(token),
            _ => None,
        }
    }

    /// The entry as MSAL Python would have written it, whoever did: with what it relies upon, and nothing that it cannot
    /// read.
    pub(crate) fn to_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let entry = to_dict(py, self.json.expose())?;
        match &self.credential {
            Credential::AccessToken(token) => {
                entry.set_item("credential_type", "AccessToken")?;
                entry.set_item("home_account_id", token.home_account_id.as_deref())?;
                entry.set_item("token_type", &token.token_type)?;
                // A mark that only the stored key has would be lost, and the entry could not be removed by its fields.
                if let Some(extended) = token.extended.as_ref().filter(|key| !key.as_str().is_empty()) {
                    entry.set_item("ext_cache_key", extended.as_str())?;
                }
                entry.set_item("cached_at", token.cached_at.to_string())?;
                entry.set_item("expires_on", token.expires_on.to_string())?;
                if let Some(refresh_on) = token.refresh_on {
                    entry.set_item("refresh_on", refresh_on.to_string())?;
                } else if entry.contains("refresh_on")? {
                    entry.del_item("refresh_on")?;
                }
            }
            Credential::RefreshToken(token) => {
                entry.set_item("credential_type", "RefreshToken")?;
                if let Some(modified) = token.last_modification_time {
                    entry.set_item("last_modification_time", modified.to_string())?;
                } else if entry.contains("last_modification_time")? {
                    entry.del_item("last_modification_time")?;
                }
            }
            Credential::IdToken(_) => entry.set_item("credential_type", "IdToken")?,
            Credential::Account(account) => {
                entry.set_item("username", &account.username)?;
                entry.set_item("realm", &account.realm)?;
                entry.set_item("local_account_id", &account.local_account_id)?;
                let authority_type = match (&*account.authority_type, &*account.realm) {
                    ("", "adfs") => "ADFS",
                    ("", _) => "MSSTS",
                    (known, _) => known,
                };
                entry.set_item("authority_type", authority_type)?;
            }
            _ => {}
        }
        Ok(entry)
    }
}

/// A token that says where those like it lie, and nothing else.
pub(crate) fn place_of(
    home_account_id: Option<String>,
    environment: String,
    client_id: String,
    realm: String,
    target: Scopes,
) -> AccessToken {
    let ends = UnixSeconds::default();
    AccessToken {
        home_account_id,
        environment,
        client_id,
        realm,
        target,
        secret: SecretString::from(""),
        token_type: String::new(),
        scheme: TokenScheme::Bearer,
        cached_at: ends,
        expires_on: ends,
        extended_expires_on: ends,
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    }
}

/// Of the two entries of one token that Python and Node each find theirs of, the better one stays.
fn without_twins(found: &mut Vec<RawEntry<'_>>) {
    if found.len() < 2 {
        return;
    }
    let mut seen: HashMap<CredentialKey, Vec<SecretString>> = HashMap::new();
    found.retain(|entry| match entry.credential() {
        Credential::AccessToken(token) if token.is_app_token() => {
            let secrets = seen.entry(CredentialKey::of_access_token(token)).or_default();
            let is_new = !secrets.contains(&token.secret);
            if is_new {
                secrets.push(token.secret.clone());
            }
            is_new
        }
        _ => true,
    });
}

fn key_id(token: &AccessToken) -> Option<&str> {
    match &token.scheme {
        TokenScheme::Bound { key_id, .. } => key_id.as_deref(),
        _ => None,
    }
}

/// Whether a field is as it was asked for. What was not asked for may be anything.
fn same(asked: &Option<String>, own: Option<&str>) -> bool {
    match asked.as_deref() {
        None => true,
        Some(asked) => {
            let own = own.unwrap_or_default();
            asked == own || asked.to_lowercase() == own.to_lowercase()
        }
    }
}
