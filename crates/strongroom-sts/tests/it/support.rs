//! A provider in a folder of its own, and a client that trusts its CA.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use strongroom_sts::{Config, Ready, RunningSts, Stats, spawn};
use tempfile::TempDir;

/// Long enough for a busy machine; nothing waits for it to pass but a failing test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Provider {
    pub(crate) sts: RunningSts,
    pub(crate) http: Client,
    pub(crate) folder: TempDir,
}

impl Provider {
    pub(crate) fn new() -> Self {
        Self::in_folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn in_folder(folder: TempDir) -> Self {
        let sts = spawn(Config::new(folder.path())).unwrap();
        let http = client(sts.ready());
        Self { sts, http, folder }
    }

    /// Stops, lets `edit` change `clients.json`, starts again.
    pub(crate) fn edited(self, edit: impl FnOnce(&mut Value)) -> Self {
        let Self { sts, folder, .. } = self;
        drop(sts);
        edit_clients(folder.path(), edit);
        Self::in_folder(folder)
    }

    pub(crate) fn ready(&self) -> &Ready {
        self.sts.ready()
    }

    /// `https://localhost:PORT`.
    pub(crate) fn origin(&self) -> &str {
        self.ready().authority.rsplit_once('/').unwrap().0
    }

    pub(crate) fn token_url(&self) -> String {
        format!("{}/oauth2/v2.0/token", self.ready().authority)
    }

    /// The form of a request that is granted.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        let ready = self.ready();
        [
            ("grant_type", "client_credentials"),
            ("client_id", &ready.client_id),
            ("client_secret", &ready.client_secret),
            ("scope", &ready.scope),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// That form with these parameters changed; an empty value removes one.
    pub(crate) fn form_with(&self, changes: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut form = self.form();
        for (name, value) in changes {
            form.retain(|(n, _)| n != name);
            if !value.is_empty() {
                form.push(((*name).to_owned(), (*value).to_owned()));
            }
        }
        form
    }

    pub(crate) fn token_request(&self, changes: &[(&str, &str)]) -> RequestBuilder {
        self.http.post(self.token_url()).form(&self.form_with(changes))
    }

    /// An access token for this scope.
    pub(crate) async fn token_for(&self, scope: &str) -> String {
        let answer = self.token_request(&[("scope", scope)]).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn token(&self) -> String {
        self.token_for(&self.ready().scope).await
    }

    pub(crate) async fn call_api(&self, token: &str) -> Response {
        self.http.get(&self.ready().endpoint).bearer_auth(token).send().await.unwrap()
    }

    pub(crate) async fn get_json(&self, url: &str) -> Value {
        let answer = self.http.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        answer.json().await.unwrap()
    }

    pub(crate) fn wait_for(&self, wished: impl FnMut(&Stats) -> bool) -> Stats {
        self.sts.wait_for_stats(PATIENCE, wished).expect("the statistics never came to be as wished")
    }
}

pub(crate) fn edit_clients(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("clients.json");
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut value);
    replace(&path, &serde_json::to_string_pretty(&value).unwrap());
}

#[allow(clippy::disallowed_methods)] // a test is the user with an editor
pub(crate) fn replace(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// The time of this machine, in Unix seconds.
#[allow(clippy::disallowed_methods)] // the other side of the wire has a clock too
pub(crate) fn now() -> i64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().try_into().unwrap()
}

/// A rustls configuration that trusts this provider's CA only.
pub(crate) fn tls_config(ready: &Ready) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ready.ca_file).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

pub(crate) fn client(ready: &Ready) -> Client {
    Client::builder()
        .no_proxy()
        .timeout(PATIENCE)
        .tls_backend_preconfigured(tls_config(ready))
        .build()
        .unwrap()
}

/// Status, `error` and code of a refusal, after a look at everything that all refusals have.
pub(crate) async fn refusal(answer: Response) -> (u16, String, u64) {
    let status = answer.status().as_u16();
    let trace = answer.headers()["x-ms-request-id"].to_str().unwrap().to_owned();
    let body: Value = answer.json().await.unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let code = body["error_codes"][0].as_u64().unwrap();
    assert_eq!(body["error_codes"].as_array().unwrap().len(), 1);
    assert_eq!(text("trace_id"), trace);
    let description = text("error_description");
    assert!(description.starts_with(&format!("AADSTS{code}: ")), "{description}");
    let tail = format!(
        " Trace ID: {trace} Correlation ID: {} Timestamp: {}",
        text("correlation_id"),
        text("timestamp")
    );
    assert!(description.ends_with(&tail), "{description}");
    assert!(text("error_uri").ends_with(&format!("/error?code={code}")));
    let timestamp = text("timestamp");
    assert!(timestamp.len() == 20 && timestamp.ends_with('Z') && &timestamp[10..11] == " ", "{timestamp}");
    (status, text("error"), code)
}
