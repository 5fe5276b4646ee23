//! The native half of the application: everything that a hit does, and all that waits.

use std::sync::OnceLock;
use std::time::Duration;

use pyo3::PyClassInitializer;
use pyo3::exceptions::{PyAssertionError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use strongroom::{
    AcquireTokenForClient, AcquireTokenSilent, ConfidentialClientApplication, Environments, Error, Renewal,
    Scopes, UnixSeconds,
};

use super::answer;
use super::credential::Credential;
use super::pending::Pending;
use super::transport::Transport;
use crate::cache::Cache;
use crate::error::exception;
use crate::lock::seconds;
use crate::query::{Found, Query};
use crate::wait::{wait_at_most, wait_for};

/// Who asks for more different sets of scopes has those beyond prepared anew each time.
const MOST_REQUESTS: usize = 1024;
/// How long a call waits for a renewal ahead of time where it is not to be made in the background.
const INLINE_RENEWAL: Duration = Duration::from_secs(2);

/// What both forms of the application have in common. Of no use before it is set up.
#[pyclass(frozen, subclass, module = "strongroom._strongroom")]
pub(crate) struct Application(OnceLock<SetUp>);

struct SetUp {
    app: ConfidentialClientApplication,
    client_id: String,
    /// What the entries of users are looked up in; none in an application's own memory.
    cache: Option<Py<Cache>>,
    /// Requests by their scopes. A dictionary of Python's: it knows the hash of a text that it has seen before.
    requests: Py<PyDict>,
}

/// A request that is made again and again.
#[pyclass(frozen)]
struct Request(AcquireTokenForClient);

/// The form whose calls block.
#[pyclass(frozen, subclass, extends = Application, module = "strongroom._strongroom")]
pub(crate) struct BlockingApplication;

#[pymethods]
impl BlockingApplication {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Application(OnceLock::new())).add_subclass(Self)
    }

    /// The application's own token for a list of scopes, ``["RESOURCE/.default"]``: from the cache, else from the
    /// identity provider. Any number of threads and processes that want the same token make one request.
    ///
    /// A token past its ``refresh_on`` is served and renewed behind the caller. While a token lives, nothing that goes
    /// wrong with its renewal is an error.
    ///
    /// :param claims_challenge: claims that an API asks for, as JSON. No cached token answers them.
    /// :param fmi_path: the path of a federated managed identity; its tokens are kept apart.
    /// :param forwarded_client_claims: claims of the application's own, a JSON object as text. Unlike a challenge they are
    ///     part of what the token is kept under.
    /// :return: a dictionary. With ``access_token``, ``token_type``, ``expires_in`` (seconds), ``token_source`` (``cache``
    ///     or ``identity_provider``) and what else the provider sent; with ``stale`` if it is near its end and no newer one
    ///     was to be had, and ``persisted`` if it could not be stored. Or with ``error``, ``error_description``, ... as the
    ///     provider sent them.
    /// :raises MsalServiceError: the identity provider failed (HTTP 5xx).
    /// :raises OSError: it could not be reached: ``ConnectionError``, ``TimeoutError``. Or the cache could not be read.
    /// :raises ValueError: what is asked for cannot work, or the answer is none.
    #[pyo3(signature = (scopes, claims_challenge=None, fmi_path=None, forwarded_client_claims=None, **kwargs))]
    fn acquire_token_for_client<'py>(
        slf: &Bound<'py, Self>,
        scopes: &Bound<'py, PyAny>,
        claims_challenge: Option<&str>,
        fmi_path: Option<&Bound<'py, PyAny>>,
        forwarded_client_claims: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let application = slf.as_super().get();
        let more = More { claims_challenge, fmi_path, forwarded_client_claims, kwargs };
        let request = match application.at_once(py, scopes, &more)? {
            AtOnce::Served(answer) => return Ok(answer),
            AtOnce::Not(request) => request,
        };
        let outcome = wait_for(py, request.into_future())?;
        answer::outcome(py, outcome)
    }
}

#[pymethods]
impl Application {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Self(OnceLock::new())
    }

    /// Takes the place of a constructor, so that subclasses may have constructors of their own.
    #[pyo3(signature = (*, client_id, authority, credential, cache, transport, timeout, app_name, app_version,
        client_capabilities, client_claims, azure_region, instance_discovery, known_authorities, renewal,
        extended_lifetime))]
    #[allow(clippy::too_many_arguments)] // as many as MSAL has
    fn _set_up(
        &self,
        py: Python<'_>,
        client_id: String,
        authority: String,
        credential: &Credential,
        cache: Option<Py<Cache>>,
        transport: Option<&Transport>,
        timeout: Option<f64>,
        app_name: Option<String>,
        app_version: Option<String>,
        client_capabilities: Vec<String>,
        client_claims: Option<String>,
        azure_region: Option<String>,
        instance_discovery: bool,
        known_authorities: Vec<String>,
        renewal: &str,
        extended_lifetime: Option<f64>,
    ) -> PyResult<()> {
        let mut builder =
            ConfidentialClientApplication::builder(client_id.clone(), authority, credential.inner())
                .client_capabilities(client_capabilities)
                .instance_discovery(instance_discovery)
                .known_authorities(known_authorities)
                .renewal(match renewal {
                    "background" => Renewal::Background,
                    "inline" => Renewal::Inline(INLINE_RENEWAL),
                    "off" => Renewal::Off,
                    _ => {
                        return Err(PyValueError::new_err(
                            "renewal is \"background\", \"inline\" or \"off\"",
                        ));
                    }
                });
        if let Some(cache) = &cache {
            builder = builder.token_cache(cache.get().token_cache().clone());
        }
        if let Some(transport) = transport {
            builder = builder.transport(transport.shared());
        }
        if let Some(timeout) = timeout {
            builder = builder.timeout(seconds(timeout));
        }
        if let Some(name) = app_name {
            builder = builder.app_name(name);
        }
        if let Some(version) = app_version {
            builder = builder.app_version(version);
        }
        if let Some(claims) = client_claims {
            builder = builder.client_claims(claims);
        }
        if let Some(region) = azure_region {
            builder = builder.azure_region(region);
        }
        if let Some(limit) = extended_lifetime {
            builder = builder.extended_lifetime(seconds(limit));
        }
        let app = builder.build().map_err(|error| exception(py, &error))?;
        let requests = PyDict::new(py).unbind();
        let set_up = SetUp { app, client_id, cache, requests };
        self.0.set(set_up).map_err(|_| PyRuntimeError::new_err("an application is set up once"))
    }

    /// A token for the application itself at once, or what it takes to get it.
    #[pyo3(signature = (scopes, claims_challenge=None, fmi_path=None, forwarded_client_claims=None, **kwargs))]
    fn _for_client<'py>(
        &self,
        py: Python<'py>,
        scopes: &Bound<'py, PyAny>,
        claims_challenge: Option<&str>,
        fmi_path: Option<&Bound<'py, PyAny>>,
        forwarded_client_claims: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let more = More { claims_challenge, fmi_path, forwarded_client_claims, kwargs };
        match self.at_once(py, scopes, &more)? {
            AtOnce::Served(answer) => Ok(answer.into_any()),
            AtOnce::Not(request) => {
                let finish = |py: Python<'_>, outcome| Ok(answer::outcome(py, outcome)?.unbind());
                Ok(Bound::new(py, Pending::new(request.into_future(), finish))?.into_any())
            }
        }
    }

    /// The application's own token from the cache, or ``None``.
    fn _silent_for_client<'py>(
        &self,
        py: Python<'py>,
        scopes: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let set_up = self.set_up()?;
        if let AtOnce::Served(answer) = self.at_once(py, scopes, &More::default())? {
            return Ok(answer.into_any());
        }
        let request: AcquireTokenSilent = set_up.app.acquire_token_silent(scopes_of(scopes)?);
        let finish = |py: Python<'_>, outcome: Result<Option<_>, Error>| match outcome.transpose() {
            Some(outcome) => Ok(Some(answer::outcome(py, outcome)?.unbind())),
            None => Ok(None),
        };
        Ok(Bound::new(py, Pending::new(request.into_future(), finish))?.into_any())
    }

    /// A user's access token from the cache, or ``None``.
    fn _silent_for_user(
        &self,
        py: Python<'_>,
        scopes: &Bound<'_, PyAny>,
        home_account_id: String,
    ) -> PyResult<Pending> {
        let set_up = self.set_up()?;
        let (app, client_id, scopes) = (set_up.app.clone(), set_up.client_id.clone(), scopes_of(scopes)?);
        let cache = set_up.shared_cache(py);
        let look = async move {
            let now = app.token_cache().now();
            let (Some(cache), Some(realm)) = (cache, app.known_tenant_id().await) else {
                return Ok((Vec::new(), now));
            };
            let environments = app.known_environments().await;
            let query =
                Query::for_user(&client_id, environments.own(), &realm, &home_account_id, scopes, now);
            let mut found = cache.get().entries(&query).await?;
            found.retain(|found| found.access_token().is_some_and(|token| app.token_cache().is_fresh(token)));
            Ok((found, now))
        };
        Ok(Pending::new(look, |py, found: Result<(Vec<Found>, UnixSeconds), Error>| {
            let (found, now) = found.map_err(|error| exception(py, &error))?;
            let best = found.first().and_then(Found::access_token);
            best.map(|token| Ok(answer::cached(py, token, now)?.unbind())).transpose()
        }))
    }

    /// The accounts at the authority's host and its aliases, as entries.
    fn _accounts(&self, py: Python<'_>) -> PyResult<Pending> {
        let set_up = self.set_up()?;
        let (app, cache) = (set_up.app.clone(), set_up.shared_cache(py));
        let look = async move {
            let Some(cache) = cache else { return Ok(Vec::new()) };
            let query = Query::accounts_at(app.known_environments().await.own());
            cache.get().entries(&query).await
        };
        Ok(Pending::new(look, |py, found: Result<Vec<Found>, Error>| {
            let found = found.map_err(|error| exception(py, &error))?;
            let accounts = PyList::empty(py);
            for account in &found {
                accounts.append(account.to_dict(py)?)?;
            }
            Ok(accounts.unbind())
        }))
    }

    /// Removes a user with all tokens.
    fn _remove_account(&self, home_account_id: String, environment: String) -> PyResult<Pending> {
        let app = self.set_up()?.app.clone();
        let remove = async move {
            let environments = Environments::of(&environment);
            app.token_cache().remove_account(&home_account_id, &environments).await
        };
        Ok(Pending::new(remove, removed))
    }

    /// Removes the application's own tokens.
    fn _remove_tokens(&self) -> PyResult<Pending> {
        let app = self.set_up()?.app.clone();
        Ok(Pending::new(async move { app.remove_tokens_for_client().await }, removed))
    }

    /// Waits for the renewals that are under way.
    fn _ended(&self) -> PyResult<Pending> {
        let app = self.set_up()?.app.clone();
        Ok(Pending::new(async move { app.shutdown().await }, |_, ()| Ok(())))
    }

    /// Waits for the renewals that are under way, at most so many seconds.
    fn _ended_within(&self, py: Python<'_>, patience: f64) -> PyResult<()> {
        if let Some(set_up) = self.0.get() {
            wait_at_most(py, seconds(patience), set_up.app.shutdown())?;
        }
        Ok(())
    }
}

/// What `acquire_token_for_client` may be asked for beside scopes.
#[derive(Default)]
struct More<'a, 'py> {
    claims_challenge: Option<&'a str>,
    fmi_path: Option<&'a Bound<'py, PyAny>>,
    forwarded_client_claims: Option<&'a Bound<'py, PyAny>>,
    kwargs: Option<&'a Bound<'py, PyDict>>,
}

enum AtOnce<'py> {
    Served(Bound<'py, PyDict>),
    Not(AcquireTokenForClient),
}

impl Application {
    fn set_up(&self) -> PyResult<&SetUp> {
        let missing = || PyRuntimeError::new_err("the constructor of the application was not called");
        self.0.get().ok_or_else(missing)
    }

    /// The token, if it can be told without waiting; else the request.
    fn at_once<'py>(
        &self,
        py: Python<'py>,
        scopes: &Bound<'py, PyAny>,
        more: &More<'_, 'py>,
    ) -> PyResult<AtOnce<'py>> {
        let set_up = self.set_up()?;
        if !more.is_empty() {
            return Ok(AtOnce::Not(more.apply(set_up.app.acquire_token_for_client(scopes_of(scopes)?))?));
        }
        let key = key_of(scopes)?;
        let requests = set_up.requests.bind(py);
        let request = match requests.get_item(&key)? {
            Some(request) => request.cast_into::<Request>()?,
            None => {
                let request = Request(set_up.app.acquire_token_for_client(scopes_of(scopes)?));
                let request = Bound::new(py, request)?;
                if requests.len() < MOST_REQUESTS {
                    requests.set_item(key, &request)?;
                }
                request
            }
        };
        let request = &request.get().0;
        match request.at_once() {
            Some(result) => Ok(AtOnce::Served(answer::served(py, &result)?)),
            None => Ok(AtOnce::Not(request.clone())),
        }
    }
}

impl SetUp {
    fn shared_cache(&self, py: Python<'_>) -> Option<Py<Cache>> {
        self.cache.as_ref().map(|cache| cache.clone_ref(py))
    }
}

impl More<'_, '_> {
    fn is_empty(&self) -> bool {
        self.claims_challenge.is_none()
            && self.fmi_path.is_none()
            && self.forwarded_client_claims.is_none()
            && self.kwargs.is_none()
    }

    fn apply(&self, mut request: AcquireTokenForClient) -> PyResult<AcquireTokenForClient> {
        for (name, value) in self.kwargs.into_iter().flatten() {
            let name = name.to_string();
            match &*name {
                "force_refresh" if !value.is_truthy()? => {}
                "force_refresh" => {
                    return Err(PyValueError::new_err(
                        "acquire_token_for_client() does not support force_refresh: pass a claims_challenge, or \
                         remove_tokens_for_client() first",
                    ));
                }
                "data" if !value.is_truthy()? => {}
                "data" => {
                    return Err(PyValueError::new_err(
                        "further parameters of the token request (data) are not supported: use msal, with \
                         strongroom.PersistedTokenCache as its token_cache",
                    ));
                }
                _ => {
                    let message = format!("acquire_token_for_client() has no argument {name:?}");
                    return Err(PyTypeError::new_err(message));
                }
            }
        }
        if let Some(path) = self.fmi_path {
            let no_text = |_| {
                let kind = path.get_type().name().map(|name| name.to_string()).unwrap_or_default();
                PyValueError::new_err(format!("fmi_path must be a string, got {kind}"))
            };
            let path = path.cast::<PyString>().map_err(no_text)?.to_cow()?.into_owned();
            if !path.is_empty() {
                request = request.fmi_path(path);
            }
        }
        if let Some(claims) = self.forwarded_client_claims {
            request = request.forwarded_client_claims(own_claims(claims)?);
        }
        if let Some(claims) = self.claims_challenge.filter(|claims| !claims.is_empty()) {
            request = request.claims(claims);
        }
        Ok(request)
    }
}

/// What a list of scopes is remembered by.
fn key_of<'py>(scopes: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let scopes = list_of(scopes)?;
    if scopes.len() == 1 { scopes.get_item(0) } else { Ok(scopes.to_tuple().into_any()) }
}

fn scopes_of(scopes: &Bound<'_, PyAny>) -> PyResult<Scopes> {
    let mut texts = Vec::new();
    for scope in list_of(scopes)? {
        match scope.cast::<PyString>() {
            Ok(text) => texts.push(text.to_cow()?.into_owned()),
            Err(_) => return Err(PyTypeError::new_err("scopes are texts")),
        }
    }
    Ok(Scopes::parse(&texts.join(" ")))
}

/// A list, as MSAL insists: a text would be taken for the scopes that its letters are.
fn list_of<'a, 'py>(scopes: &'a Bound<'py, PyAny>) -> PyResult<&'a Bound<'py, PyList>> {
    scopes.cast::<PyList>().map_err(|_| PyAssertionError::new_err("Invalid parameter type: scopes is a list"))
}

/// Claims of the application's own: the text of a JSON object.
fn own_claims(claims: &Bound<'_, PyAny>) -> PyResult<String> {
    let refused = |_| PyValueError::new_err("forwarded_client_claims must be a JSON object as a string");
    let claims = claims.cast::<PyString>().map_err(|_| refused(()))?.to_cow()?.into_owned();
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&claims).map_err(|_| refused(()))?;
    Ok(claims)
}

fn removed(py: Python<'_>, removed: Result<usize, Error>) -> PyResult<()> {
    removed.map(drop).map_err(|error| exception(py, &error))
}
