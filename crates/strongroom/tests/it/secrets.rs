//! No token and no client secret in errors and in logs.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use serde_json::json;
use strongroom::{
    ClientCredential, ConfidentialClientApplication, Credential, CredentialStore as _, DocumentStore, Error,
    FilePersistence, HttpResponse, SecretBytes, Step, TransportError, block_on,
};
use strongroom_sts::{Endpoint, Fault};

use crate::client_support::{Canned, Scene, json_response};
use crate::schema_support::{app_token, change};
use crate::support::{Process, another_process};

/// Has to be encoded in a form, so that each of its spellings can be looked for.
pub(crate) const SECRET: &str = "s3cr/t+value~of=the application&more";
pub(crate) const TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIHRva2VuIn0.c2lnbmF0dXJlIG9mIGEgdG9rZW4";

/// Asserts that a text shows no part of these secrets that would be of use, in no spelling.
pub(crate) fn assert_clean<S: AsRef<str>>(text: &str, secrets: &[S]) {
    for secret in secrets.iter().map(AsRef::as_ref) {
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let lower_hex =
            encoded.replace("%2F", "%2f").replace("%2B", "%2b").replace("%7E", "%7e").replace("%3D", "%3d");
        let percent = |text: &str| text.replace('+', "%20");
        // Of bytes within others as well.
        let debugged = format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned();
        let mut spellings =
            vec![secret.to_owned(), percent(&encoded), percent(&lower_hex), encoded, lower_hex, debugged];
        // A token is as good without its header, and half a secret is half the work of guessing it.
        spellings.extend(secret.split('.').filter(|part| part.len() > 12).map(str::to_owned));
        spellings.extend([secret[..8].to_owned(), secret[secret.len() - 8..].to_owned()]);
        for spelling in spellings {
            assert!(!text.contains(&spelling), "{spelling} is in:\n{text}");
        }
    }
}

/// All that a program can get printed of an error.
fn texts(error: &Error) -> String {
    let mut texts = format!(
        "{error}\n{error:?}\n{error:#?}\n{}\n{:?}\n{:?}",
        error.code(),
        error.remedy(),
        error.service()
    );
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        texts += &format!("\n{error}\n{error:?}");
        source = error.source();
    }
    texts
}

/// What an application with [`SECRET`] gets from a provider that answers this.
fn refused(answer: impl Fn() -> Result<HttpResponse, TransportError> + Send + Sync + 'static) -> Error {
    let transport = Canned::new(move |_| answer());
    let authority = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47";
    let secret = ClientCredential::from_secret(SECRET);
    let app = ConfidentialClientApplication::builder("client", authority, secret).transport(transport);
    app.build().unwrap().acquire_token_for_client("api://x/.default").blocking().unwrap_err()
}

#[test]
fn a_provider_that_echoes_the_secret_does_not_get_it_into_an_error() {
    let encoded: String = url::form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
    let spaced = encoded.replace('+', "%20");
    let lower =
        spaced.replace("%2F", "%2f").replace("%2B", "%2b").replace("%7E", "%7e").replace("%3D", "%3d");
    // As quote() of Python's urllib and encodeURIComponent() of JavaScript have it, and as JSON within a text.
    let quoted = spaced.replace("%7E", "~");
    let all_escaped: String = SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let json_slash = SECRET.replace('/', "\\/");
    let json_unicode: String = SECRET.chars().map(|c| format!("\\u{:04X}", u32::from(c))).collect();
    let twice = format!("{SECRET}{SECRET}");
    let between = format!("'{SECRET}'");
    for echo in [
        SECRET,
        &encoded,
        &spaced,
        &lower,
        &quoted,
        &all_escaped,
        &json_slash,
        &json_unicode,
        &twice,
        &between,
    ] {
        // At each place, and where a long text is cut.
        for text in [
            echo.to_owned(),
            format!("{}{echo}", "x".repeat(4096 - 10)),
            format!("{}{echo}", "ü".repeat(2040)),
        ] {
            let body = json!({
                "error": text, "error_description": text, "suberror": text, "claims": text, "correlation_id": text,
                "timestamp": text, "trace_id": text, "error_uri": text, "error_codes": [1],
            });
            for status in [400, 401, 429, 200] {
                let body = body.clone();
                let error = refused(move || Ok(json_response(status, &body)));
                assert!(error.service().is_some(), "{status}");
                let is_whole = text.len() < 1000;
                assert!(!is_whole || texts(&error).contains("[redacted]"), "what was there is marked");
                assert_clean(&texts(&error), &[SECRET]);
            }
        }
        let kind = echo.to_owned();
        let error = refused(move || {
            Ok(json_response(200, &json!({ "access_token": TOKEN, "token_type": kind, "expires_in": 3599 })))
        });
        assert_eq!(error.code(), "unexpected_answer");
        assert_clean(&texts(&error), &[SECRET, TOKEN]);
        let headers = vec![("content-type".to_owned(), format!("text/{echo}"))];
        let body = format!("<html>{echo}{TOKEN}");
        let error = refused(move || {
            Ok(HttpResponse::new(200, headers.clone(), SecretBytes::from(body.clone().into_bytes())))
        });
        assert_eq!(error.code(), "unexpected_answer");
        assert_clean(&texts(&error), &[SECRET, TOKEN]);
    }
}

#[test]
fn an_answer_that_is_refused_does_not_get_its_token_into_an_error() {
    for (body, code) in [
        (json!({ "access_token": TOKEN, "token_type": "pop" }), "unexpected_answer"),
        (json!({ "access_token": TOKEN, "token_type": TOKEN }), "unexpected_answer"),
        (json!({ "access_token": TOKEN, "expires_in": -1 }), "unexpected_answer"),
        (json!({ "access_token": [TOKEN] }), "unexpected_answer"),
        (json!([TOKEN]), "unexpected_answer"),
        // By the order of its fields this would be a token response.
        (json!([null, TOKEN, "Bearer", 3599]), "unexpected_answer"),
        (json!({ "access_token": TOKEN, "error": "invalid_grant" }), "invalid_grant"),
    ] {
        let shown = body.clone();
        let error = refused(move || Ok(json_response(200, &shown)));
        assert_eq!(error.code(), code, "{body}");
        assert_clean(&texts(&error), &[SECRET, TOKEN]);
    }
}

#[test]
fn an_error_message_that_brings_tokens_shows_them_nowhere() {
    let signature = TOKEN.rsplit('.').next().unwrap();
    for name in ["access_token", "refresh_token", "id_token", "client_info", "Access_Token", "device_code"] {
        for token in [json!(TOKEN), json!([TOKEN]), json!({ "secret": TOKEN })] {
            for status in [200, 400, 403, 503] {
                let body = json!({
                    "error": "invalid_grant", "error_description": format!("not {TOKEN}"), "suberror": signature,
                    "hint": "kept", "inner": [{ name: token }], name: token, "echo": [TOKEN],
                });
                let error = refused(move || Ok(json_response(status, &body)));
                let service = error.service().unwrap();
                assert_eq!(service.error, "invalid_grant");
                assert_eq!(service.error_description.as_deref(), Some("not [redacted]"));
                let message: serde_json::Value =
                    serde_json::from_str(service.body.as_ref().unwrap()).unwrap();
                assert_eq!(message["hint"], "kept");
                assert_clean(&texts(&error), &[SECRET, TOKEN]);
                let written = serde_json::to_string(service).unwrap();
                assert_clean(&written, &[SECRET, TOKEN]);
            }
        }
    }
    let many =
        json!({ "error": "invalid_grant", "error_description": TOKEN, "access_token": vec![TOKEN; 17] });
    let error = refused(move || Ok(json_response(400, &many)));
    assert_eq!(error.code(), "http_error");
    assert_clean(&texts(&error), &[SECRET, TOKEN]);
}

#[test]
fn a_cache_that_cannot_be_used_does_not_get_its_tokens_into_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.bin");
    for content in [
        format!("{{\"AccessToken\":{{\"k\":{{\"secret\":\"{TOKEN}\",}}}}}}"),
        format!("\"{TOKEN}\""),
        format!("\u{feff}{TOKEN}"),
        TOKEN.to_owned(),
        format!("{{\"{TOKEN}\":{}{}}}", "[".repeat(100), "]".repeat(100)),
        format!("{{\"AccessToken\":[\"{TOKEN}\"]}}"),
    ] {
        std::fs::write(&path, content).unwrap();
        let store = DocumentStore::builder(FilePersistence::new(&path).unwrap()).strict(true).build();
        let error = block_on(store.apply(&change().put(Credential::AccessToken(app_token())))).unwrap_err();
        assert_clean(&texts(&error), &[TOKEN]);
    }
}

#[test]
fn logs_at_the_most_verbose_level_show_no_secret() {
    // In a process of its own, because what is logged on the library's threads is seen by a global subscriber only.
    Process::start(&mut another_process("secrets::helper_process_that_logs")).finish();
}

static LOG: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other façade: what crates below us say goes there.
impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}: {}\n", record.level(), record.target(), record.args());
        LOG.lock().unwrap().extend_from_slice(line.as_bytes());
    }

    fn flush(&self) {}
}

#[test]
#[ignore = "runs in another process, started by a test"]
fn helper_process_that_logs() {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(|| Log)
        .init();
    log::set_logger(&Log).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let scene = Scene::new();
    let scope = scene.ready().scope.as_str();
    let mut secrets = vec![scene.ready().client_secret.clone(), SECRET.to_owned()];

    let app = scene.app();
    let _ = app.acquire_token_silent(scope).blocking().unwrap();
    secrets.push(scene.acquire(&app).unwrap().access_token().expose().to_owned());
    scene.acquire(&app).unwrap();
    let _ = scene.app().acquire_token_silent(scope).blocking().unwrap();
    let forced = || app.acquire_token_for_client(scope).force_refresh(true).blocking();
    secrets.push(forced().unwrap().access_token().expose().to_owned());

    // Refused, with the secret in the provider's own words; failing; cut off; nonsense.
    scene.acquire(&scene.app_with_secret(SECRET)).unwrap();
    let with = scene.app_with_secret(SECRET);
    let ask = || with.acquire_token_for_client(scope).force_refresh(true).blocking();
    let echo =
        json!({ "error": "invalid_client", "error_description": format!("wrong: {SECRET}") }).to_string();
    for fault in [
        Fault::new(Endpoint::Token).status(401).body(echo.clone()),
        Fault::new(Endpoint::Token).status(503).body(echo.clone()).times(2),
        Fault::new(Endpoint::Token).status(200).body(format!("{SECRET}{TOKEN}")),
        Fault::new(Endpoint::Token).cut_after_bytes(50).times(2),
    ] {
        scene.sts.add_fault(fault).unwrap();
        assert!(ask().is_err());
    }
    assert_eq!(ask().unwrap_err().code(), "invalid_client");
    // Not stored; damaged; a document with other permissions.
    let broken = Arc::new(AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let fail = move |step: Step| match step {
        Step::Write if is_broken.load(Ordering::SeqCst) => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    };
    let file = FilePersistence::builder(scene.location()).observe_steps(Arc::new(fail)).build().unwrap();
    let full = scene.builder().token_cache(scene.cache_over(DocumentStore::new(file))).build().unwrap();
    let unsaved = full.acquire_token_for_client("api://other/.default").blocking().unwrap();
    assert!(!unsaved.is_persisted());
    secrets.push(unsaved.access_token().expose().to_owned());
    broken.store(false, Ordering::SeqCst);
    let torn = std::fs::read(scene.location()).unwrap();
    std::fs::write(scene.location(), &torn[..torn.len() - 5]).unwrap();
    std::fs::write(scene.state_file(), format!("{{{TOKEN}")).unwrap();
    secrets.push(scene.token().unwrap().access_token().expose().to_owned());

    let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
    for expected in
        ["requesting a token", "could not be stored", "was damaged", "trying once more", "reqwest"]
    {
        assert!(log.contains(expected), "{expected:?} was not logged:\n{log}");
    }
    secrets.push(TOKEN.to_owned());
    assert_clean(&log, &secrets);
}
