//! One cache document, as `PersistedTokenCache` needs it: entries as JSON, read and changed one by one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use strongroom::{
    Change, Credential, CredentialKey, CredentialStore, CredentialType, Dialect, Document, DocumentStore,
    Environments, Error, FilePersistence, Persistence, SecretBytes, SecretString, TokenCache, UnixSeconds,
};

use crate::answers::{Answer, Answers, Question};
use crate::error::exception;
use crate::foreign::ForeignPersistence;
use crate::json::to_dict;
use crate::lead::Lead;
use crate::lock::seconds;
use crate::locked::Locked;
use crate::persistence::{NativePersistence, text};
use crate::query::{Found, Query, place_of};
use crate::serialized::SerializedPersistence;
use crate::wait::wait_for;

/// A cache in one document.
#[pyclass(frozen, module = "strongroom._strongroom")]
pub(crate) struct Cache {
    store: Arc<DocumentStore<Locked>>,
    cache: TokenCache,
    dialect: Dialect,
    answers: Answers,
    /// What takes the place of the document in memory. Its lock is taken with the GIL and never waited under, so that a
    /// fork, which has the GIL as well, never finds it taken.
    deserialized: Mutex<Option<Arc<Deserialized>>>,
}

/// A document that was handed in, and the one that was known then: it holds until that one changes.
struct Deserialized {
    document: Document,
    known: SecretBytes,
}

#[pymethods]
impl Cache {
    /// The cache in what ``persistence`` keeps at ``location``: one of this module's, or any object with the methods of
    /// ``BasePersistence``. A change waits ``lock_timeout`` seconds for ``lock_path``. ``dialect``: which languages share it.
    #[new]
    #[pyo3(signature = (persistence, location, is_encrypted, lock_path, lock_timeout, dialect=None))]
    fn new(
        py: Python<'_>,
        persistence: &Bound<'_, PyAny>,
        location: PathBuf,
        is_encrypted: bool,
        lock_path: PathBuf,
        lock_timeout: f64,
        dialect: Option<&str>,
    ) -> PyResult<Self> {
        let dialect = dialect.map_or(Ok(Dialect::PYTHON), |text| {
            text.parse::<Dialect>().map_err(|error| exception(py, &error.into()))
        })?;
        // The lock file is deleted when it is released: it must be no file that is something else.
        let checked = FilePersistence::builder(&location).lock_path(&lock_path).build();
        let checked = checked.map_err(|error| exception(py, &error))?;
        let lock_path = checked.lock_path().or(Some(lock_path));
        let inner: Arc<dyn Persistence> = match persistence.cast::<NativePersistence>() {
            Ok(native) => native.get().inner(),
            Err(_) => {
                let location = std::path::absolute(location)?;
                Arc::new(ForeignPersistence::new(persistence.clone().unbind(), location, is_encrypted))
            }
        };
        Ok(Self::of(py, Locked { inner, lock_path }, seconds(lock_timeout), dialect))
    }

    /// The cache in what ``cache`` keeps, an object with the methods ``serialize`` and ``deserialize``.
    #[staticmethod]
    fn serialized(cache: &Bound<'_, PyAny>) -> Self {
        let inner = Arc::new(SerializedPersistence::new(cache.clone().unbind()));
        Self::of(cache.py(), Locked { inner, lock_path: None }, Duration::ZERO, Dialect::PYTHON)
    }

    /// What ``search`` has found before, if it would find it again: for who asks the same. That costs one look at the
    /// file. ``None`` if it is not known.
    #[pyo3(signature = (kind, target, query, now))]
    fn known<'py>(
        &self,
        py: Python<'py>,
        kind: &Bound<'py, PyAny>,
        target: Option<&Bound<'py, PyAny>>,
        query: Option<&Bound<'py, PyAny>>,
        now: Option<f64>,
    ) -> PyResult<Option<Bound<'py, PyList>>> {
        let Some(question) = Question::of(kind, target, query)? else { return Ok(None) };
        let Some(answer) = self.answers.get(&question)? else { return Ok(None) };
        let answer = answer.get();
        let holds = answer.holds_at(self.time(now)) && self.is_at(py, answer.generation())?;
        Ok(holds.then(|| answer.entries(py)))
    }

    /// The entries of section ``kind`` that answer at ``now``, in seconds, or at once, as dictionaries that are to be
    /// copied.
    fn search<'py>(
        &self,
        py: Python<'py>,
        kind: &str,
        target: &Bound<'py, PyList>,
        query: &Bound<'py, PyDict>,
        now: Option<f64>,
    ) -> PyResult<Bound<'py, PyList>> {
        let now = self.time(now);
        let question = Question::of(&PyString::new(py, kind), Some(target), Some(query))?;
        let scopes = target.extract::<Vec<String>>()?.into_iter().collect();
        let query = Query::new(section(kind)?, scopes, query, now)?;
        let (found, generation) = self.find(py, &query)?;
        let (entries, mut until) = (PyList::empty(py), None);
        for found in found {
            let entry = found.to_dict(py)?;
            if query.accepts(py, &entry)? {
                let ends = found.access_token().map(|token| token.expires_on);
                until = until.into_iter().chain(ends).min();
                entries.append(entry)?;
            }
        }
        if let (Some(question), Some(generation)) = (question, generation) {
            self.answers.keep(question, Answer::new(generation, now, until, &entries))?;
        }
        Ok(entries)
    }

    /// Stores and removes entries as one step: tuples of section, key, JSON, and whether it is to be removed. ``now`` is
    /// the time that tokens expire by, in seconds, if not the current one; with ``sweep`` those that have expired go.
    fn change(
        &self,
        py: Python<'_>,
        entries: Vec<(String, String, String, bool)>,
        now: Option<i64>,
        sweep: bool,
    ) -> PyResult<()> {
        let now = now.map_or_else(|| self.cache.now(), UnixSeconds::new);
        let mut change = Change::new(now).dialect(self.dialect);
        for (kind, key, json, removed) in entries {
            let kind = section(&kind)?;
            let json = SecretString::from(json);
            let changed = if removed {
                let change = match kind {
                    CredentialType::Account => with_what_is_left(change, py, json.expose(), now)?,
                    _ => change,
                };
                change.remove_entry(kind, &key, &json)
            } else {
                change.put_entry(kind, key, json)
            };
            change = changed.map_err(|problem| PyValueError::new_err(format!("no {kind}: {problem}")))?;
        }
        if sweep {
            change = change.sweep_expired();
        }
        let deserialized = self.deserialized().clone();
        if let Some(deserialized) = &deserialized {
            change = change.instead_of(deserialized.known.share(), &deserialized.document);
        }
        wait_for(py, self.cache.apply(&change))?.map_err(|error| exception(py, &error))?;
        if let Some(written) = &deserialized {
            self.forget(written);
        }
        Ok(())
    }

    /// Takes the lead, among the processes of this host, in fetching an application's token, or waits at most
    /// ``patience`` seconds for whoever has it.
    fn lead(
        &self,
        py: Python<'_>,
        environment: String,
        client_id: String,
        realm: String,
        target: Vec<String>,
        patience: f64,
    ) -> PyResult<Lead> {
        let scopes = target.into_iter().collect();
        let key = CredentialKey::of_access_token(&place_of(None, environment, client_id, realm, scopes));
        Ok(Lead::new(wait_for(py, self.store.lead(&key, seconds(patience)))?))
    }

    /// The entry under ``key`` as it was last read or written; reads nothing.
    fn entry<'py>(&self, py: Python<'py>, kind: &str, key: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
        let kind = section(kind)?;
        let json = |document: &Document| {
            document.raw_entry(kind, key).map(|entry| SecretString::from(entry.expose()))
        };
        let json = match &*self.deserialized() {
            Some(deserialized) => json(&deserialized.document),
            None => self.store.read_last(json).and_then(|(_, json)| json),
        };
        json.map(|json| to_dict(py, json.expose())).transpose()
    }

    /// Reads the document if it has changed.
    fn refresh(&self, py: Python<'_>) -> PyResult<()> {
        wait_for(py, async { self.store.read(|_| ()).await })?.map_err(|error| exception(py, &error))?;
        Ok(())
    }

    /// The document as it was last read or written; reads nothing.
    fn serialize<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        let bytes = match &*self.deserialized() {
            Some(deserialized) => deserialized.document.bytes().share(),
            None => self.last(),
        };
        text(py, &bytes)
    }

    /// Takes ``text`` for the document until that changes; writes nothing.
    fn deserialize(&self, py: Python<'_>, text: String) -> PyResult<()> {
        let document = py.detach(|| Document::parse(text.into_bytes().into()));
        let document = document.map_err(|error| exception(py, &Error::from(error)))?;
        let known = self.last();
        *self.deserialized() = Some(Arc::new(Deserialized { document, known }));
        Ok(())
    }

    /// How well the document is protected: ``none``, ``host-file``, ``provided-key``, ``os-store``.
    #[getter]
    fn protection(&self) -> &'static str {
        self.store.info().protection.as_str()
    }
}

impl Cache {
    fn of(py: Python<'_>, persistence: Locked, lock_timeout: Duration, dialect: Dialect) -> Self {
        let store = Arc::new(DocumentStore::builder(persistence).lock_timeout(lock_timeout).build());
        let cache = TokenCache::builder(Arc::clone(&store)).dialect(dialect).build();
        Self { store, cache, dialect, answers: Answers::new(py), deserialized: Mutex::default() }
    }

    /// What an application of ours looks into: the same memory, the same flights.
    pub(crate) fn token_cache(&self) -> &TokenCache {
        &self.cache
    }

    /// The entries that answer, of the document as it is kept.
    pub(crate) async fn entries(&self, query: &Query) -> Result<Vec<Found>, Error> {
        let read = || self.store.read(|document| query.find(document));
        let (generation, found) = read().await?;
        Ok(if self.cache.settle(generation).await { read().await?.1 } else { found })
    }

    /// What a caller means by ``now``.
    fn time(&self, now: Option<f64>) -> UnixSeconds {
        now.map_or_else(|| self.cache.now(), |now| UnixSeconds::new(now as i64))
    }

    /// Whether what was found in this generation of the document would be found again.
    fn is_at(&self, py: Python<'_>, generation: u64) -> PyResult<bool> {
        if self.deserialized().is_some() {
            return Ok(false);
        }
        let is_same =
            || Ok(self.store.generation()? == Some(generation) && self.cache.is_settled(generation));
        py.detach(is_same).map_err(|error: Error| exception(py, &error))
    }

    fn find(&self, py: Python<'_>, query: &Query) -> PyResult<(Vec<Found>, Option<u64>)> {
        let deserialized = self.deserialized().clone();
        let read = || {
            self.store.read(|document| match &deserialized {
                Some(deserialized) if *document.bytes() == deserialized.known => {
                    (query.find(&deserialized.document), true)
                }
                _ => (query.find(document), false),
            })
        };
        let find = async {
            let (generation, found) = read().await?;
            let settled = self.cache.settle(generation).await;
            Ok::<_, Error>(if settled { read().await? } else { (generation, found) })
        };
        let (generation, (found, was_deserialized)) =
            wait_for(py, find)?.map_err(|error| exception(py, &error))?;
        if let Some(outdated) = deserialized.filter(|_| !was_deserialized) {
            self.forget(&outdated);
        }
        Ok((found, Some(generation).filter(|_| !was_deserialized)))
    }

    /// The document that was read or written last.
    fn last(&self) -> SecretBytes {
        let last = self.store.read_last(|document| document.bytes().share());
        last.map(|(_, bytes)| bytes).unwrap_or_default()
    }

    fn forget(&self, deserialized: &Arc<Deserialized>) {
        let mut current = self.deserialized();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, deserialized)) {
            *current = None;
        }
    }

    fn deserialized(&self) -> MutexGuard<'_, Option<Arc<Deserialized>>> {
        self.deserialized.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn section(kind: &str) -> PyResult<CredentialType> {
    let found = CredentialType::ALL.into_iter().find(|known| known.as_str() == kind);
    found.ok_or_else(|| PyKeyError::new_err(kind.to_owned()))
}

/// The removal of a user takes along what was not removed before it: the access tokens that have expired, which no search
/// has shown, and those that are set apart in a way that no field tells.
fn with_what_is_left(change: Change, py: Python<'_>, account: &str, now: UnixSeconds) -> PyResult<Change> {
    let account = to_dict(py, account)?;
    let text = |name: &str| -> PyResult<String> {
        let value = account.get_item(name)?;
        Ok(value.and_then(|value| value.extract().ok()).unwrap_or_default())
    };
    let (id, environment) = (text("home_account_id")?.to_lowercase(), text("environment")?);
    let environments = Environments::of(&environment);
    Ok(change.remove_where(Arc::new(move |credential| {
        matches!(credential, Credential::AccessToken(token)
            if (token.expires_on < now || token.extended.as_ref().is_some_and(|key| key.as_str().is_empty()))
                && environments.contains(&token.environment)
                && token.home_account_id.as_ref().is_some_and(|own| own.to_lowercase() == id))
    })))
}
