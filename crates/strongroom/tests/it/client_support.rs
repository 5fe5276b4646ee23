//! A scene for tests of the client: a local identity provider, a folder for the cache, a clock that can be set,
//! and transports that watch, lead elsewhere or answer by themselves.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use serde_json::Value;
use strongroom::{
    AuthenticationResult, BoxFuture, ClientCredential, Clock, ConfidentialClientApplication,
    ConfidentialClientApplicationBuilder, DocumentStore, Error, FilePersistence, HttpMethod, HttpRequest,
    HttpResponse, HttpTransport, SecretBytes, SystemClock, TokenCache, Transport, TransportError,
    UnixSeconds,
};
use strongroom_sts::{Config, Ready, RunningSts, Stats, spawn};
use tempfile::TempDir;

/// Long enough for a busy machine; nothing waits for it to pass but a failing test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// An identity provider and a place for the cache of its clients.
pub(crate) struct Scene {
    pub(crate) sts: RunningSts,
    pub(crate) clock: TestClock,
    http: SharedTransport,
    state: TempDir,
    folder: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::in_folder(provider_folder())
    }

    /// A provider whose registrations `edit` has changed.
    pub(crate) fn edited(edit: impl FnOnce(&mut Value)) -> Self {
        let state = provider_folder();
        let path = state.path().join("clients.json");
        let mut clients: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut clients);
        std::fs::write(&path, clients.to_string()).unwrap();
        Self::in_folder(state)
    }

    fn in_folder(state: TempDir) -> Self {
        let sts = spawn(Config::new(state.path())).unwrap();
        let roots = std::fs::read(&sts.ready().ca_file).unwrap();
        let http = SharedTransport(Arc::new(HttpTransport::with_extra_roots(&roots).unwrap()));
        Self { sts, clock: TestClock::now(), http, state, folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn ready(&self) -> &Ready {
        self.sts.ready()
    }

    /// `https://localhost:PORT`.
    pub(crate) fn origin(&self) -> &str {
        self.ready().authority.rsplit_once('/').unwrap().0
    }

    /// The first domain of the first tenant.
    pub(crate) fn domain(&self) -> String {
        let clients = std::fs::read(self.state.path().join("clients.json")).unwrap();
        let clients: Value = serde_json::from_slice(&clients).unwrap();
        clients["tenants"][0]["domains"][0].as_str().unwrap().to_owned()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the cache document is.
    pub(crate) fn location(&self) -> PathBuf {
        self.folder().join("token_cache.bin")
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.folder().join("token_cache.bin.state")
    }

    /// As if what the provider refused had never been remembered.
    pub(crate) fn forget_refusals(&self) {
        let _ = std::fs::remove_file(self.state_file());
    }

    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.location()).unwrap()).unwrap()
    }

    /// A cache as a new process has it: nothing in memory, the document on disk.
    pub(crate) fn cache(&self) -> TokenCache {
        self.cache_over(DocumentStore::new(FilePersistence::new(self.location()).unwrap()))
    }

    pub(crate) fn cache_over(&self, store: impl strongroom::CredentialStore + 'static) -> TokenCache {
        TokenCache::builder(store).clock(self.clock.clone()).build()
    }

    /// The default transport, with the provider's CA among the trust roots.
    pub(crate) fn http(&self) -> SharedTransport {
        self.http.clone()
    }

    /// The provider's sample application, as a new process has it.
    pub(crate) fn builder(&self) -> ConfidentialClientApplicationBuilder {
        self.builder_for(&self.ready().authority)
    }

    pub(crate) fn builder_for(&self, authority: &str) -> ConfidentialClientApplicationBuilder {
        let ready = self.ready();
        let secret = ClientCredential::from_secret(ready.client_secret.as_str());
        ConfidentialClientApplication::builder(ready.client_id.as_str(), authority, secret)
            .instance_discovery(false)
            .transport(self.http())
            .token_cache(self.cache())
    }

    pub(crate) fn app(&self) -> ConfidentialClientApplication {
        self.builder().build().unwrap()
    }

    /// The application with this secret instead of its own.
    pub(crate) fn app_with_secret(&self, secret: &str) -> ConfidentialClientApplication {
        self.builder_with(ClientCredential::from_secret(secret)).build().unwrap()
    }

    /// The application with this credential instead of its secret.
    pub(crate) fn builder_with(&self, credential: ClientCredential) -> ConfidentialClientApplicationBuilder {
        let ready = self.ready();
        ConfidentialClientApplication::builder(ready.client_id.as_str(), ready.authority.as_str(), credential)
            .instance_discovery(false)
            .transport(self.http())
            .token_cache(self.cache())
    }

    /// The key of the certificate that is registered for the application, and the certificate.
    pub(crate) fn key_and_certificate(&self) -> [String; 2] {
        let ready = self.ready();
        [&ready.private_key_file, &ready.certificate_file]
            .map(|file| std::fs::read_to_string(file.as_ref().unwrap()).unwrap())
    }

    /// The application's token for the sample API.
    pub(crate) fn acquire(&self, app: &ConfidentialClientApplication) -> Result<AuthenticationResult, Error> {
        app.acquire_token_for_client(self.ready().scope.as_str()).blocking()
    }

    /// What a new process gets.
    pub(crate) fn token(&self) -> Result<AuthenticationResult, Error> {
        self.acquire(&self.app())
    }

    pub(crate) fn refusal(&self) -> Error {
        self.token().expect_err("the provider refuses")
    }

    /// Requests of any kind that the provider has seen.
    pub(crate) fn requests(&self) -> u64 {
        let Stats { token, discovery, openid_configuration, jwks, api, .. } = self.sts.stats();
        token + discovery + openid_configuration + jwks + api
    }

    pub(crate) fn token_requests(&self) -> u64 {
        self.sts.stats().token
    }

    pub(crate) fn wait_for(&self, wished: impl FnMut(&Stats) -> bool) {
        let reached = self.sts.wait_for_stats(PATIENCE, wished);
        assert!(reached.is_some(), "the provider saw {:?}", self.sts.stats());
    }
}

/// The state folder of a provider of its own. Keys are made once for all of them: that takes longest.
fn provider_folder() -> TempDir {
    static FIRST: LazyLock<TempDir> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        drop(spawn(Config::new(folder.path())).unwrap());
        folder
    });
    let folder = tempfile::tempdir().unwrap();
    copy(FIRST.path(), folder.path());
    folder
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            std::fs::set_permissions(&target, entry.metadata().unwrap().permissions()).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A clock that tests set.
#[derive(Debug, Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn now() -> Self {
        Self(Arc::new(AtomicI64::new(SystemClock.now().get())))
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn read(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixSeconds {
        UnixSeconds::new(self.read())
    }
}

/// One transport for several applications.
#[derive(Debug, Clone)]
pub(crate) struct SharedTransport(Arc<HttpTransport>);

impl Transport for SharedTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        self.0.send(request)
    }
}

/// The proof that a hit needs no network.
#[derive(Debug)]
pub(crate) struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        panic!("a request was made: {request:?}")
    }
}

/// What went through a transport.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) method: HttpMethod,
    pub(crate) url: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Decoded.
    pub(crate) form: Vec<(String, String)>,
    /// As it was sent.
    pub(crate) body: String,
}

impl Sent {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.form.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn has_a_secret(&self) -> bool {
        self.parameter("client_secret").is_some()
    }

    pub(crate) fn host(&self) -> String {
        url::Url::parse(&self.url).unwrap().host_str().unwrap().to_owned()
    }
}

/// Notes what is sent, and sends it on.
#[derive(Clone)]
pub(crate) struct Recorder<T> {
    inner: T,
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl<T: Transport> Recorder<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self { inner, sent: Arc::default() }
    }

    pub(crate) fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    pub(crate) fn hosts(&self) -> Vec<String> {
        self.sent().iter().map(Sent::host).collect()
    }

    pub(crate) fn clear(&self) {
        self.sent.lock().unwrap().clear();
    }
}

impl<T> fmt::Debug for Recorder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

impl<T: Transport> Transport for Recorder<T> {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        let body = request.body.as_ref().map_or("", |body| std::str::from_utf8(body.expose()).unwrap());
        self.sent.lock().unwrap().push(Sent {
            method: request.method,
            url: request.url.clone(),
            headers: request.headers.clone(),
            form: url::form_urlencoded::parse(body.as_bytes()).into_owned().collect(),
            body: body.to_owned(),
        });
        self.inner.send(request)
    }
}

/// Answers by itself.
#[derive(Clone)]
pub(crate) struct Canned(Arc<Answer>);

type Answer = dyn Fn(&HttpRequest) -> Result<HttpResponse, TransportError> + Send + Sync;

impl Canned {
    pub(crate) fn new(
        answer: impl Fn(&HttpRequest) -> Result<HttpResponse, TransportError> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(answer))
    }
}

impl fmt::Debug for Canned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canned")
    }
}

impl Transport for Canned {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        Box::pin(std::future::ready((self.0)(&request)))
    }
}

pub(crate) fn json_response(status: u16, body: &Value) -> HttpResponse {
    let headers = vec![("content-type".into(), "application/json".into())];
    HttpResponse::new(status, headers, SecretBytes::from(body.to_string().into_bytes()))
}

/// A token response with this token in it.
pub(crate) fn token_response(token: &str) -> HttpResponse {
    json_response(
        200,
        &serde_json::json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": token }),
    )
}

/// The discovery document of a tenant at `origin`.
pub(crate) fn discovery_document(origin: &str, tenant: &str) -> HttpResponse {
    json_response(
        200,
        &serde_json::json!({
            "token_endpoint": format!("{origin}/{tenant}/oauth2/v2.0/token"),
            "authorization_endpoint": format!("{origin}/{tenant}/oauth2/v2.0/authorize"),
            "issuer": format!("{origin}/{tenant}/v2.0"),
        }),
    )
}
