//! An application that signs in with a certificate: which keys are taken, what is signed, and what is said of those
//! that cannot be used.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Value, json};
use strongroom::{
    ClientCertificate, ClientCredential, ConfidentialClientApplication, ConfidentialClientApplicationBuilder,
    Error, ErrorKind, SecretString, TokenCache, TokenSource,
};

use crate::client_support::{Canned, Recorder, Scene, Sent, TestClock, token_response};
use crate::secrets::assert_clean;

const TENANT: &str = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47";
const ENDPOINT: &str =
    "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/oauth2/v2.0/token";
const SHA1: &str = "7CB24DAC1096EFA40B26D6938B91B137E1D36BBF";
const SHA1_BASE64: &str = "fLJNrBCW76QLJtaTi5GxN-HTa78";
const SHA256_BASE64: &str = "Hv2mqQVJFCZIPMmcnhYqdnLxu8dK31PblqXI9ch7L8g";
const PASSPHRASE: &str = "geheim";

fn file(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates").join(name)).unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(file(name)).unwrap()
}

fn pem(key: &str) -> ClientCertificate {
    ClientCertificate::from_pem(text(key)).public_certificate(text("certificate.pem"))
}

fn pfx(name: &str) -> ClientCertificate {
    ClientCertificate::from_pfx(file(name), Some(PASSPHRASE.into()))
}

/// The applications of a test: what they sent, and the clock that they go by.
struct Desk {
    sent: Recorder<Canned>,
    clock: TestClock,
}

impl Desk {
    fn new() -> Self {
        let answer = Canned::new(|_| Ok(token_response("token")));
        Self { sent: Recorder::new(answer), clock: TestClock::now() }
    }

    fn builder(&self, certificate: ClientCertificate) -> ConfidentialClientApplicationBuilder {
        self.builder_with(ClientCredential::from_certificate(certificate))
    }

    fn builder_with(&self, credential: ClientCredential) -> ConfidentialClientApplicationBuilder {
        let cache = TokenCache::builder(strongroom::MemoryStore::new()).clock(self.clock.clone()).build();
        ConfidentialClientApplication::builder("the-client", TENANT, credential)
            .transport(self.sent.clone())
            .token_cache(cache)
    }

    fn assertion(&self, app: &ConfidentialClientApplication) -> String {
        app.acquire_token_for_client("api://a/.default").force_refresh(true).blocking().unwrap();
        assertion_in(self.sent.sent().last().unwrap())
    }

    fn assertion_of(&self, certificate: ClientCertificate) -> String {
        self.assertion(&self.builder(certificate).build().unwrap())
    }
}

fn assertion_in(sent: &Sent) -> String {
    assert_eq!(
        sent.parameter("client_assertion_type"),
        Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
    );
    assert_eq!(sent.parameter("client_secret"), None);
    sent.parameter("client_assertion").unwrap().to_owned()
}

/// The claims, once another implementation has verified the signature.
fn verified(jwt: &str) -> Value {
    let header = decode_header(jwt).unwrap();
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[ENDPOINT]);
    decode(jwt, &DecodingKey::from_rsa_pem(&public_key()).unwrap(), &validation).unwrap().claims
}

/// In PEM: what `openssl x509 -in certificate.pem -noout -pubkey` prints.
fn public_key() -> Vec<u8> {
    file("public-key.pem")
}

/// The DER of a certificate, in base64.
fn der(name: &str) -> String {
    text(name).lines().filter(|line| !line.starts_with("-----")).collect()
}

fn error_of(certificate: ClientCertificate) -> Error {
    Desk::new().builder(certificate).build().unwrap_err()
}

#[test]
fn an_assertion_says_who_asks_whom_and_until_when() {
    let desk = Desk::new();
    let now = desk.clock.read();
    let claims = verified(&desk.assertion_of(pem("key.pem")));
    let id = claims["jti"].as_str().unwrap();
    assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
    let expected = json!({
        "aud": ENDPOINT, "iss": "the-client", "sub": "the-client", "jti": id, "iat": now, "exp": now + 600,
    });
    assert_eq!(claims, expected);
}

#[test]
fn the_certificate_is_named_as_the_form_of_the_credential_demands() {
    let certificate = der("certificate.pem");
    let with_thumbprint = || ClientCertificate::from_pem(text("key.pem")).thumbprint(SHA1);
    for (credential, algorithm, sha1, sha256, chain) in [
        (pem("key.pem"), Algorithm::PS256, None, Some(SHA256_BASE64), Some(vec![certificate.clone()])),
        (pem("key.pem").send_chain(false), Algorithm::PS256, None, Some(SHA256_BASE64), None),
        (with_thumbprint(), Algorithm::RS256, Some(SHA1_BASE64), None, None),
        (
            with_thumbprint().public_certificate(text("certificate.pem")),
            Algorithm::RS256,
            Some(SHA1_BASE64),
            None,
            Some(vec![certificate.clone()]),
        ),
        (pfx("client.pfx"), Algorithm::PS256, None, Some(SHA256_BASE64), None),
        (
            pfx("client.pfx").send_chain(true),
            Algorithm::PS256,
            None,
            Some(SHA256_BASE64),
            Some(vec![certificate.clone(), der("other-certificate.pem")]),
        ),
        (pfx("client-3des.pfx"), Algorithm::PS256, None, Some(SHA256_BASE64), None),
    ] {
        let shown = format!("{credential:?}");
        let jwt = Desk::new().assertion_of(credential);
        let header = decode_header(&jwt).unwrap();
        assert_eq!((header.alg, header.typ.as_deref()), (algorithm, Some("JWT")), "{shown}");
        assert_eq!((header.x5t.as_deref(), header.x5t_s256.as_deref()), (sha1, sha256), "{shown}");
        assert_eq!(header.x5c, chain, "{shown}");
        verified(&jwt);
    }
}

#[test]
fn keys_are_taken_in_every_form_that_is_in_use() {
    let both_in_one = format!("a comment\n{}{}", text("certificate.pem"), text("key.pem"));
    let windows = text("key.pem").replace('\n', "\r\n");
    let root_first = format!("{}{}", text("other-certificate.pem"), text("certificate.pem"));
    for credential in [
        pem("key.pem"),
        pem("key-pkcs1.pem"),
        pem("key-encrypted.pem").passphrase(PASSPHRASE),
        pem("key-encrypted-3des.pem").passphrase(PASSPHRASE),
        // One that is not encrypted needs none, and minds none.
        pem("key.pem").passphrase("another"),
        ClientCertificate::from_pem(both_in_one.as_str()).public_certificate(both_in_one.as_str()),
        ClientCertificate::from_pem(windows).public_certificate(text("certificate.pem")),
        ClientCertificate::from_pem(text("key.pem")).public_certificate(root_first),
        ClientCertificate::from_pem(text("key.pem")).public_certificate(text("certificate-v1.pem")),
        pfx("client.pfx"),
        ClientCertificate::from_pfx(file("client-no-password.pfx"), Some("".into())),
        ClientCertificate::from_pfx(file("client-no-password.pfx"), None),
    ] {
        verified(&Desk::new().assertion_of(credential));
    }
    let chain = format!("{}{}", text("other-certificate.pem"), text("certificate.pem"));
    let jwt =
        Desk::new().assertion_of(ClientCertificate::from_pem(text("key.pem")).public_certificate(chain));
    let own_first = vec![der("certificate.pem"), der("other-certificate.pem")];
    assert_eq!(decode_header(&jwt).unwrap().x5c, Some(own_first));
}

#[test]
fn a_thumbprint_is_read_as_people_copy_it() {
    let pairs: Vec<_> = SHA1.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    for thumbprint in
        [SHA1.to_owned(), SHA1.to_lowercase(), pairs.join(":"), format!("\u{200e}{}", pairs.join(" "))]
    {
        let credential = ClientCertificate::from_pem(text("key.pem")).thumbprint(thumbprint);
        let header = decode_header(Desk::new().assertion_of(credential)).unwrap();
        assert_eq!(header.x5t.as_deref(), Some(SHA1_BASE64));
    }
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_sent() {
    let key = || ClientCertificate::from_pem(text("key.pem"));
    let named = |key: &str| ClientCertificate::from_pem(key).thumbprint(SHA1);
    let broken = text("key.pem").replacen("MII", "M!I", 1);
    let truncated = text("key.pem").replacen("MIIE", "MIIF", 1);
    for (credential, code) in [
        (key(), "no_certificate"),
        (key().thumbprint("").public_certificate(""), "no_certificate"),
        (key().thumbprint("7CB24D"), "invalid_thumbprint"),
        (key().thumbprint(SHA1.replace('7', "Z")), "invalid_thumbprint"),
        (key().public_certificate("MIIC"), "invalid_certificate"),
        (key().public_certificate(text("key.pem")), "invalid_certificate"),
        (
            key().public_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "invalid_certificate",
        ),
        (key().public_certificate(text("other-certificate.pem")), "certificate_of_other_key"),
        (named(""), "invalid_private_key"),
        (named("not a key"), "invalid_private_key"),
        (named(&text("certificate.pem")), "invalid_private_key"),
        (named(&broken), "invalid_private_key"),
        (named(&truncated), "invalid_private_key"),
        (named(&text("key-ec.pem")), "invalid_private_key"),
        (named(&text("key-1024.pem")), "invalid_private_key"),
        (pem("key-encrypted.pem"), "no_passphrase"),
        (pem("key-encrypted.pem").passphrase("wrong"), "wrong_passphrase"),
        (pem("key-encrypted-3des.pem").passphrase("wrong"), "wrong_passphrase"),
        (pem("key-encrypted-pbes1.pem").passphrase(PASSPHRASE), "unsupported_key_encryption"),
        (pem("key-encrypted-openssl.pem").passphrase(PASSPHRASE), "unsupported_key_encryption"),
        (ClientCertificate::from_pfx(file("client.pfx"), None), "no_passphrase"),
        (ClientCertificate::from_pfx(file("client.pfx"), Some("wrong".into())), "wrong_passphrase"),
        (ClientCertificate::from_pfx(file("client-3des.pfx"), Some("wrong".into())), "wrong_passphrase"),
        (pfx("no-key.pfx"), "invalid_pfx"),
        (pfx("key.pem"), "invalid_pfx"),
        (ClientCertificate::from_pfx(Vec::new(), None), "invalid_pfx"),
    ] {
        let error = error_of(credential);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, code), "{error}");
        assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()), "{code}");
        let shown = format!("{error} {error:?} {:?}", error.remedy());
        let secrets = [der("key.pem"), der("key-encrypted.pem"), SHA1.to_owned()];
        assert_clean(&shown, &secrets);
        assert!(!shown.contains(PASSPHRASE) && !shown.contains("M!I"), "{shown}");
    }
}

#[test]
fn one_assertion_serves_for_nine_minutes() {
    let desk = Desk::new();
    let app = desk.builder(pem("key.pem")).build().unwrap();
    let first = desk.assertion(&app);
    desk.clock.advance(539);
    assert_eq!(desk.assertion(&app), first);
    desk.clock.advance(1);
    let second = desk.assertion(&app);
    assert_ne!(second, first);
    assert_eq!(verified(&second)["exp"], desk.clock.read() + 600);
    // What is dated ahead of the clock may be refused.
    desk.clock.advance(-10);
    assert_ne!(desk.assertion(&app), second);
}

#[test]
fn each_token_endpoint_has_assertions_of_its_own() {
    let desk = Desk::new();
    let app = desk.builder(pem("key.pem")).build().unwrap();
    let first = desk.assertion(&app);
    let other =
        app.acquire_token_for_client("api://a/.default").tenant_id("11111111-2222-4333-8444-555555555555");
    other.blocking().unwrap();
    let sent = desk.sent.sent();
    assert_ne!(assertion_in(&sent[1]), first);
    assert_ne!(sent[1].url, sent[0].url);
    assert_eq!(desk.assertion(&app), first);
}

#[test]
fn claims_of_the_applications_own_are_signed_too() {
    let desk = Desk::new();
    let app = desk.builder(pem("key.pem")).client_claims(r#"{"client_ip":"192.0.2.7","jti":"mine"}"#);
    let claims = verified(&desk.assertion(&app.build().unwrap()));
    assert_eq!((&claims["client_ip"], &claims["jti"]), (&json!("192.0.2.7"), &json!("mine")));
    assert_eq!(claims["sub"], "the-client");
    for bad in ["", "1", "[]", "{", r#""text""#] {
        let error = desk.builder(pem("key.pem")).client_claims(bad).build().unwrap_err();
        assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "invalid_client_claims"));
    }
}

#[test]
fn the_provider_takes_what_is_signed() {
    let scene = Scene::new();
    let [key, certificate] = scene.key_and_certificate();
    let thumbprint = scene.ready().thumbprint.clone().unwrap();
    let key = || ClientCertificate::from_pem(key.as_str());
    for credential in [
        key().public_certificate(certificate.as_str()),
        key().thumbprint(thumbprint.as_str()),
        key().thumbprint(thumbprint.as_str()).public_certificate(certificate.as_str()),
    ] {
        let app = scene.builder_with(ClientCredential::from_certificate(credential)).build().unwrap();
        for scope in ["api://a/.default", "api://b/.default"] {
            let token = app.acquire_token_for_client(scope).force_refresh(true).blocking().unwrap();
            assert_eq!(token.token_source(), TokenSource::IdentityProvider);
            assert_eq!(scene.acquire(&app).unwrap().scopes().to_string(), scene.ready().scope);
        }
    }
}

#[test]
fn a_certificate_that_is_not_registered_is_named_and_a_corrected_one_is_asked_with_at_once() {
    let scene = Scene::new();
    let wrong = scene.builder_with(ClientCredential::from_certificate(pem("key.pem")));
    let error = scene.acquire(&wrong.build().unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::IdentityProvider, "invalid_client"));
    assert_eq!(error.service().unwrap().error_codes, [700_027]);
    assert!(error.remedy().unwrap().contains("thumbprint"), "{:?}", error.remedy());
    let again = scene.builder_with(ClientCredential::from_certificate(pem("key.pem"))).build().unwrap();
    assert!(scene.acquire(&again).unwrap_err().to_string().contains("remembered"));
    assert_eq!(scene.token_requests(), 1);

    let [key, certificate] = scene.key_and_certificate();
    let right = ClientCertificate::from_pem(key).public_certificate(certificate);
    let right = scene.builder_with(ClientCredential::from_certificate(right)).build().unwrap();
    scene.acquire(&right).unwrap();
}

#[test]
fn a_certificate_provider_is_called_once_for_each_request_and_its_new_key_is_used_at_once() {
    let desk = Desk::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let credential = ClientCredential::from_certificate_provider(move || {
        Ok(match counted.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => pem("key.pem"),
            _ => ClientCertificate::from_pem(text("key.pem")).thumbprint(SHA1),
        })
    });
    let app = desk.builder_with(credential).build().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    let first = desk.assertion(&app);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    app.acquire_token_for_client("api://a/.default").blocking().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1, "a hit");
    assert_eq!(desk.assertion(&app), first);
    assert_eq!(decode_header(&first).unwrap().alg, Algorithm::PS256);
    assert_eq!(decode_header(desk.assertion(&app)).unwrap().alg, Algorithm::RS256);
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[test]
fn the_error_of_a_certificate_provider_is_the_requests_and_is_not_remembered() {
    let scene = Scene::new();
    let fails = || Err(Error::new(ErrorKind::Configuration, "no_key_file", "the key file is gone"));
    let broken = || ClientCredential::from_certificate_provider(|| Ok(pem("key-encrypted.pem")));
    for (credential, code) in
        [(ClientCredential::from_certificate_provider(fails), "no_key_file"), (broken(), "no_passphrase")]
    {
        let app = scene.builder_with(credential).build().unwrap();
        for _ in 0..2 {
            let error = scene.acquire(&app).unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, code));
            assert!(!error.to_string().contains("remembered"), "{error}");
        }
    }
    assert_eq!(scene.token_requests(), 0);
    // Who has a token needs no key.
    scene.token().unwrap();
    assert_eq!(
        scene.acquire(&scene.builder_with(broken()).build().unwrap()).unwrap().token_source(),
        TokenSource::Cache
    );
}

#[test]
fn a_key_that_is_corrected_behind_a_provider_is_asked_with_at_once() {
    let scene = Scene::new();
    let given = Arc::new(Mutex::new(pem("key.pem")));
    let run = || {
        let given = Arc::clone(&given);
        let credential =
            ClientCredential::from_certificate_provider(move || Ok(given.lock().unwrap().clone()));
        scene.acquire(&scene.builder_with(credential).build().unwrap())
    };
    assert_eq!(run().unwrap_err().code(), "invalid_client");
    assert!(run().unwrap_err().to_string().contains("remembered"));
    let [key, certificate] = scene.key_and_certificate();
    *given.lock().unwrap() = ClientCertificate::from_pem(key).public_certificate(certificate);
    run().unwrap();
}

#[test]
fn a_key_that_is_corrected_under_the_same_thumbprint_is_asked_with_at_once() {
    let scene = Scene::new();
    let thumbprint = scene.ready().thumbprint.clone().unwrap();
    let [registered, _] = scene.key_and_certificate();
    for is_provided in [false, true] {
        let given = Arc::new(Mutex::new(text("key.pem")));
        let builder = || {
            let (given, thumbprint) = (Arc::clone(&given), thumbprint.clone());
            let certificate =
                move || ClientCertificate::from_pem(given.lock().unwrap().as_str()).thumbprint(&*thumbprint);
            scene.builder_with(match is_provided {
                true => ClientCredential::from_certificate_provider(move || Ok(certificate())),
                false => ClientCredential::from_certificate(certificate()),
            })
        };
        let old = builder().build().unwrap();
        assert_eq!(scene.acquire(&old).unwrap_err().code(), "invalid_client");
        assert!(scene.acquire(&builder().build().unwrap()).unwrap_err().to_string().contains("remembered"));
        given.lock().unwrap().clone_from(&registered);
        // The same application, where it asks for its key: the assertion of the old one is not sent again.
        let corrected = if is_provided { old } else { builder().build().unwrap() };
        scene.acquire(&corrected).unwrap();
        std::fs::remove_file(scene.location()).unwrap();
        scene.forget_refusals();
    }
}

#[test]
fn a_passphrase_shows_nowhere() {
    let passphrase: SecretString = "a passphrase".into();
    let credential = ClientCredential::from_certificate(pem("key.pem").passphrase(passphrase));
    let shown = format!("{credential:?}");
    assert!(!shown.contains("a passphrase") && !shown.contains("BEGIN"), "{shown}");
}
