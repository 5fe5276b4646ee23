//! `strongroom token`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Serialize;
use strongroom::{
    AuthenticationResult, BoxFuture, ConfidentialClientApplication, ConfidentialClientApplicationBuilder,
    HttpRequest, HttpResponse, HttpTransport, Renewal, SecretBytes, StoreInfo, TokenCache, Transport,
    TransportError,
};

use crate::args::{Global, Output, Refresh, Token};
use crate::config::Config;
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(options: &Token, global: &Global) -> Result<(), Failure> {
    let config = Config::load(options.config.as_deref(), &options.scopes)?;
    let cache = options.cache.to_use(&options.keeping, options.dialect.or(config.dialect), global)?;
    let builder = application(&config, cache, options.ca_file.clone(), global);
    let app = builder.renewal(renewal(options.refresh)).build()?;
    let result =
        app.acquire_token_for_client(config.scopes).force_refresh(options.force_refresh).blocking()?;
    tracing::info!(
        "a token from the {}, good for {}",
        result.token_source().as_str().replace('_', " "),
        output::human_seconds(result.expires_in())
    );
    if options.require_persist
        && let Some(error) = result.persistence_error()
    {
        return Err(error.clone().into());
    }
    print(&result, &app.token_cache().info(), options.output)?;
    // The process ends here: its memory goes back to the system, which clears it. Wiping a large document first would
    // take longer than all the rest.
    std::mem::forget(app);
    Ok(())
}

/// This process ends at once, so nothing goes on behind it.
fn renewal(refresh: Refresh) -> Renewal {
    match refresh {
        Refresh::Inline => Renewal::Inline(Duration::from_secs(2)),
        Refresh::Off => Renewal::Off,
    }
}

pub(crate) fn application(
    config: &Config,
    cache: TokenCache,
    ca_file: Option<PathBuf>,
    global: &Global,
) -> ConfidentialClientApplicationBuilder {
    let credential = config.credential.to_client_credential();
    let builder = ConfidentialClientApplication::builder(&config.client_id, &config.authority, credential)
        .token_cache(cache)
        .instance_discovery(config.instance_discovery)
        .known_authorities(&config.known_authorities)
        .timeout(global.timeout);
    match ca_file {
        Some(file) => builder.transport(TransportWithCa { file, inner: OnceLock::new() }),
        None => builder,
    }
}

/// What `--output json` prints.
#[derive(Serialize)]
struct Printed<'a> {
    access_token: &'a str,
    token_type: &'a str,
    expires_on: i64,
    expires_in: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_on: Option<i64>,
    scopes: Vec<&'a str>,
    token_source: &'static str,
    stale: bool,
    persisted: bool,
    cache: PrintedCache,
}

#[derive(Serialize)]
struct PrintedCache {
    location: String,
    persistence: &'static str,
    encrypted: bool,
    protection: &'static str,
}

fn print(result: &AuthenticationResult, info: &StoreInfo, format: Output) -> Result<(), Failure> {
    match format {
        Output::Text => output::line(result.access_token().expose()),
        Output::Header => output::line(&format!("Authorization: {}", result.authorization_header().expose())),
        Output::Json => output::json(&Printed {
            access_token: result.access_token().expose(),
            token_type: result.token_type(),
            expires_on: result.expires_on().get(),
            expires_in: result.expires_in(),
            refresh_on: result.refresh_on().map(strongroom::UnixSeconds::get),
            scopes: result.scopes().iter().collect(),
            token_source: result.token_source().as_str(),
            stale: result.is_stale(),
            persisted: result.is_persisted(),
            cache: PrintedCache {
                location: info.location.to_string(),
                persistence: info.kind,
                encrypted: info.protection.is_encrypted(),
                protection: info.protection.as_str(),
            },
        }),
    }
}

/// HTTP that trusts the certificates of a file too; else the reason why not.
pub(crate) fn transport_with_roots(file: &Path) -> Result<HttpTransport, String> {
    /// The largest file of certificates that is read, in bytes: several times what a system trusts.
    const LARGEST: u64 = 16 << 20;

    let (pem, _) = SecretBytes::read_file(file, LARGEST)
        .map_err(|error| format!("the trust roots {} cannot be read: {error}", file.display()))?;
    HttpTransport::with_extra_roots(pem.expose()).map_err(|error| format!("{}: {error}", file.display()))
}

/// HTTP that trusts the certificates of a file too. The file is read when the first request is sent: a token
/// from the cache needs none.
#[derive(Debug)]
struct TransportWithCa {
    file: PathBuf,
    inner: OnceLock<Result<HttpTransport, TransportError>>,
}

impl TransportWithCa {
    fn inner(&self) -> Result<&HttpTransport, TransportError> {
        let inner = self.inner.get_or_init(|| {
            transport_with_roots(&self.file).map_err(|reason| TransportError::Setup { reason })
        });
        inner.as_ref().map_err(Clone::clone)
    }
}

impl Transport for TransportWithCa {
    fn send(&self, request: HttpRequest) -> BoxFuture<'_, Result<HttpResponse, TransportError>> {
        match self.inner() {
            Ok(transport) => transport.send(request),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}
