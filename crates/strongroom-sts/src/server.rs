//! The server: from a [`Config`] to a provider that listens, and back. Owns the sockets and the
//! order of start and end; what is answered is decided elsewhere.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{io, mem};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, any, get};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::assertion::{RegisteredCertificate, SeenAssertions};
use crate::clients::{CLIENT_CERTIFICATE, CLIENT_KEY, Registrations};
use crate::connection::Stage;
use crate::control::{self, Control, Lifetimes, Stats};
use crate::error::StsError;
use crate::faults::{Endpoint, Fault};
use crate::files::StateFolder;
use crate::keys::SigningKeys;
use crate::observe::{MAX_BODY, observe};
use crate::provider::Provider;
use crate::tls::{TlsIdentity, hex};
use crate::{api, connection, discovery, random, time, token};

/// What a provider is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder with CA, keys and `clients.json`; made if it is missing. The same folder gives
    /// the same provider again.
    pub state_dir: PathBuf,
    /// The port on 127.0.0.1 and ::1; 0 takes a free one.
    pub port: u16,
    /// A GUID or a domain name: the tenant of a new folder, or which tenant of an existing one the
    /// provider introduces itself with.
    pub tenant: Option<String>,
}

impl Config {
    /// A free port, any tenant.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into(), port: 0, tenant: None }
    }

    /// Sets [`port`](Self::port).
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets [`tenant`](Self::tenant).
    #[must_use]
    pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
        self.tenant = Some(tenant.into());
        self
    }
}

/// What a client needs to know of a running provider. Its JSON form is what `strongroom sts`
/// prints.
#[derive(Clone, Serialize)]
pub struct Ready {
    /// `https://localhost:PORT/TENANT`.
    pub authority: String,
    /// The tenant's GUID.
    pub tenant: String,
    /// A registered client.
    pub client_id: String,
    /// Its secret. Serialized on purpose, kept out of `Debug`.
    pub client_secret: String,
    /// The certificate that is registered for the client, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM, 0600.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key_file: Option<PathBuf>,
    /// Its SHA-1 in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thumbprint: Option<String>,
    /// The sample API's `/.default` scope.
    pub scope: String,
    /// The CA's certificate, PEM.
    pub ca_file: PathBuf,
    /// A complete `config.json` for `strongroom token`.
    pub config_file: PathBuf,
    /// The sample API.
    pub endpoint: String,
    /// Where tests steer the provider. Who knows it may.
    pub control: String,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready")
            .field("authority", &self.authority)
            .field("client_id", &self.client_id)
            .field("scope", &self.scope)
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

/// A running provider. It ends with [`shutdown`](Self::shutdown), or abruptly when it is dropped.
pub struct Sts {
    ready: Ready,
    control: Arc<Control>,
    stage: watch::Sender<Stage>,
    connections: Arc<Semaphore>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl Sts {
    /// Starts a provider on the current tokio runtime. It accepts connections when this returns.
    ///
    /// # Errors
    ///
    /// If the state folder cannot be used, a file in it is not what it should be (such files are
    /// left as they are), or the port is taken.
    pub async fn start(config: Config) -> Result<Self, StsError> {
        let Config { state_dir, port, tenant } = config;
        let prepared = tokio::task::spawn_blocking(move || Prepared::from_folder(&state_dir, tenant))
            .await
            .map_err(|e| StsError::Thread(io::Error::other(e)))??;
        let (listeners, port) = listen(port).await?;
        let Prepared { folder, tls, keys, registrations, tenant } = prepared;
        let provider = Arc::new(Provider {
            host: format!("localhost:{port}"),
            port,
            registrations,
            keys,
            seen_assertions: SeenAssertions::default(),
            control: Arc::new(Control::new()),
        });
        let control_segment = format!("control-{}", hex(&random::bytes::<16>()));
        let ready = introduce(&provider, &folder, &tls, tenant.as_deref(), &control_segment)?;
        let router = routes(&provider, &control_segment);
        let stage = watch::Sender::new(Stage::Running);
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
        let acceptor = TlsAcceptor::from(tls.server_config);
        let listeners = listeners.into_iter().map(|listener| {
            let serve = connection::serve;
            let (acceptor, router, stage) = (acceptor.clone(), router.clone(), stage.subscribe());
            tokio::spawn(accept(listener, connections.clone(), stage.clone(), move |socket| {
                serve(socket, acceptor.clone(), router.clone(), stage.clone())
            }))
        });
        let listeners = Mutex::new(listeners.collect());
        tracing::info!(authority = ready.authority, "identity provider for development is ready");
        Ok(Self { ready, control: provider.control.clone(), stage, connections, listeners })
    }

    /// What a client needs to know.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Stops listening, lets held requests go, and gives the requests under way five seconds.
    pub async fn shutdown(&self) {
        let begun = self.stage.send_if_modified(|stage| {
            *stage == Stage::Running && mem::replace(stage, Stage::Draining) == Stage::Running
        });
        if !begun {
            return self.wait().await;
        }
        self.control.clear_faults();
        let all = self.connections.acquire_many(MAX_CONNECTIONS);
        let drained = tokio::time::timeout(GRACE, all).await;
        if drained.is_err() {
            tracing::debug!("connections are cut off at shutdown");
        }
        let listeners = mem::take(&mut *self.listeners.lock().unwrap_or_else(PoisonError::into_inner));
        for listener in listeners {
            // It ends by itself; that it was cancelled is as good.
            let _ = listener.await;
        }
        self.stage.send_replace(Stage::Stopped);
    }

    /// Waits until [`shutdown`](Self::shutdown), called elsewhere, is done.
    pub async fn wait(&self) {
        // The sender lives in self, so this cannot fail.
        let _ = self.stage.subscribe().wait_for(|stage| *stage == Stage::Stopped).await;
    }

    /// `GET {control}/stats`.
    pub fn stats(&self) -> Stats {
        self.control.stats()
    }

    /// `POST {control}/reset`.
    pub fn reset(&self) {
        self.control.reset();
    }

    /// `PUT {control}/faults`: the fault waits behind those that were added before.
    ///
    /// # Errors
    ///
    /// [`StsError::Control`] if it makes no sense.
    pub fn add_fault(&self, fault: Fault) -> Result<(), StsError> {
        self.control.add_faults(vec![fault])
    }

    /// `DELETE {control}/faults`: held requests go on.
    pub fn clear_faults(&self) {
        self.control.clear_faults();
    }

    /// `PUT {control}/clock`: the provider's clock goes `offset_s` seconds ahead of the real one.
    ///
    /// # Errors
    ///
    /// [`StsError::Control`] beyond a century.
    pub fn set_clock(&self, offset_s: i64) -> Result<(), StsError> {
        self.control.set_clock(offset_s)
    }

    /// `PUT {control}/lifetimes`.
    ///
    /// # Errors
    ///
    /// [`StsError::Control`] beyond ten years.
    pub fn set_lifetimes(&self, lifetimes: Lifetimes) -> Result<(), StsError> {
        self.control.set_lifetimes(lifetimes)
    }

    pub(crate) fn control(&self) -> &Arc<Control> {
        &self.control
    }
}

impl fmt::Debug for Sts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sts").field("ready", &self.ready).finish_non_exhaustive()
    }
}

impl Drop for Sts {
    fn drop(&mut self) {
        self.stage.send_replace(Stage::Stopped);
        self.control.clear_faults();
    }
}

/// Serves until the future `until` is done, then shuts down: all of it in one call.
///
/// `when_ready` is called once, when connections are accepted.
///
/// # Errors
///
/// As [`Sts::start`].
pub async fn serve(
    config: Config,
    when_ready: impl FnOnce(&Ready),
    until: impl Future<Output = ()>,
) -> Result<(), StsError> {
    let sts = Sts::start(config).await?;
    when_ready(sts.ready());
    until.await;
    sts.shutdown().await;
    Ok(())
}

/// All that comes from the state folder.
struct Prepared {
    folder: StateFolder,
    tls: TlsIdentity,
    keys: SigningKeys,
    registrations: Registrations,
    tenant: Option<String>,
}

impl Prepared {
    fn from_folder(path: &std::path::Path, tenant: Option<String>) -> Result<Self, StsError> {
        let now = time::system_now();
        let folder = StateFolder::open(path)?;
        let _lock = folder.lock()?;
        // First what a user may have got wrong: that should not cost them the making of keys.
        let registrations = Registrations::load_or_create(&folder, tenant.as_deref(), now)?;
        registrations.introduction(tenant.as_deref(), now)?;
        let tls = TlsIdentity::load_or_create(&folder, now)?;
        let keys = SigningKeys::load_or_create(&folder, now)?;
        Ok(Self { folder, tls, keys, registrations, tenant })
    }
}

fn introduce(
    provider: &Provider,
    folder: &StateFolder,
    tls: &TlsIdentity,
    tenant: Option<&str>,
    control_segment: &str,
) -> Result<Ready, StsError> {
    let (tenant, client, secret) = provider.registrations.introduction(tenant, provider.control.now())?;
    let certificate = client.own_certificate();
    let origin = provider.origin();
    let mut ready = Ready {
        authority: format!("{origin}/{}", tenant.id),
        tenant: tenant.id.to_string(),
        client_id: client.client_id.clone(),
        client_secret: secret.value.clone(),
        certificate_file: certificate.map(|_| folder.file(CLIENT_CERTIFICATE)),
        private_key_file: certificate.map(|_| folder.file(CLIENT_KEY)),
        thumbprint: certificate.map(RegisteredCertificate::thumbprint),
        scope: format!("{}/.default", provider.registrations.sample_api().uri),
        ca_file: tls.ca_file.clone(),
        config_file: PathBuf::new(),
        endpoint: format!("{origin}/weatherforecast"),
        control: format!("{origin}/{control_segment}"),
    };
    let config = json!({
        "authority": ready.authority,
        "client_id": ready.client_id,
        "client_secret": ready.client_secret,
        "scope": [ready.scope],
        "endpoint": ready.endpoint,
        "instance_discovery": false,
    });
    ready.config_file = folder.write("config.json", &format!("{config:#}\n"))?;
    Ok(ready)
}

fn routes(provider: &Arc<Provider>, control_segment: &str) -> Router {
    let observed = |endpoint: Endpoint, handler: MethodRouter<Arc<Provider>>| {
        handler.layer(from_fn_with_state((provider.clone(), endpoint), observe))
    };
    let openid = |handler| observed(Endpoint::OpenidConfiguration, handler);
    let jwks = || observed(Endpoint::Jwks, get(discovery::keys));
    Router::new()
        .route("/{tenant}/discovery/instance", observed(Endpoint::Discovery, get(discovery::instance)))
        .route(
            "/{tenant}/v2.0/.well-known/openid-configuration",
            openid(get(discovery::openid_configuration)),
        )
        .route("/{tenant}/.well-known/openid-configuration", openid(get(discovery::openid_configuration_v1)))
        .route("/{tenant}/discovery/v2.0/keys", jwks())
        .route("/{tenant}/discovery/keys", jwks())
        .route("/{tenant}/oauth2/v2.0/token", observed(Endpoint::Token, any(token::token)))
        .route("/weatherforecast", observed(Endpoint::Api, get(api::weather_forecast)))
        .with_state(provider.clone())
        .nest(&format!("/{control_segment}"), control::routes(provider.control.clone()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// Loopback in both families with one port: clients take `localhost` for either.
async fn listen(port: u16) -> Result<(Vec<TcpListener>, u16), StsError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |address| move |source| StsError::Listen { address, source };
        let first = TcpListener::bind(v4).await.map_err(failed(v4))?;
        let chosen = first.local_addr().map_err(failed(v4))?.port();
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, chosen));
        match TcpListener::bind(v6).await {
            Ok(second) => return Ok((vec![first, second], chosen)),
            // Someone else's port there: who asks for `localhost` might get them instead of us.
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                if port != 0 || tries == MAX_TRIES {
                    return Err(failed(v6)(e));
                }
            }
            // No IPv6 on this machine.
            Err(_) => return Ok((vec![first], chosen)),
        }
    }
}

async fn accept<F>(
    listener: TcpListener,
    connections: Arc<Semaphore>,
    mut stage: watch::Receiver<Stage>,
    serve: impl Fn(tokio::net::TcpStream) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let next = async {
            // Never closed, so this cannot fail.
            let permit = connections.clone().acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((socket, _)) => Some((permit, socket)),
                Err(e) => {
                    tracing::debug!(error = %e, "cannot accept");
                    // Out of descriptors, mostly: trying again at once would only burn the CPU.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    None
                }
            }
        };
        tokio::select! {
            accepted = next => if let Some((permit, socket)) = accepted {
                let served = serve(socket);
                tokio::spawn(async move {
                    served.await;
                    drop(permit);
                });
            },
            _ = stage.wait_for(|s| *s != Stage::Running) => return,
        }
    }
}

const MAX_CONNECTIONS: u32 = 512;
const GRACE: Duration = Duration::from_secs(5);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_TRIES: u32 = 20;
