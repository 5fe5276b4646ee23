use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};
use reqwest::Client;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use strongroom_sts::{Config, spawn};

use crate::support::{Provider, client, replace, tls_config};

#[tokio::test]
async fn every_loopback_name_is_served() {
    let provider = Provider::new();
    let path = provider.token_url().replacen("https://localhost", "", 1);
    let port_and_path = path.as_str();
    for name in ["localhost", "127.0.0.1", "[::1]"] {
        let url = format!("https://{name}{port_and_path}");
        let answer = provider.http.post(url).form(&provider.form()).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{name}");
    }
}

#[tokio::test]
async fn another_host_name_is_not_vouched_for() {
    let provider = Provider::new();
    let port: u16 = provider.origin().rsplit_once(':').unwrap().1.parse().unwrap();
    let http = Client::builder()
        .no_proxy()
        .resolve("login.example.com", ([127, 0, 0, 1], port).into())
        .tls_backend_preconfigured(tls_config(provider.ready()))
        .build()
        .unwrap();
    let error = http.get(format!("https://login.example.com:{port}/")).send().await.unwrap_err();
    assert!(format!("{error:?}").contains("NotValidForName"), "{error:?}");
}

#[tokio::test]
async fn without_the_ca_nothing_is_trusted() {
    let (provider, other) = (Provider::new(), Provider::new());
    other.http.get(&provider.ready().endpoint).send().await.unwrap_err();
}

#[test]
fn the_ca_cannot_vouch_for_names_that_are_not_loopback() {
    let provider = Provider::new();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&provider.ready().ca_file).unwrap()).unwrap();
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(aws_lc_rs::default_provider()))
            .build()
            .unwrap();
    let verify = |names: Vec<SanType>, name: &'static str| {
        let pem = signed_by_the_ca(provider.folder.path(), names, 100 * DAY);
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).map(drop)
    };
    verify(vec![dns("localhost")], "localhost").unwrap();
    verify(vec![ip("127.0.0.2")], "127.0.0.2").unwrap();
    for (names, name) in [
        (vec![dns("login.microsoftonline.com")], "login.microsoftonline.com"),
        (vec![dns("localhost"), dns("example.com")], "localhost"),
        (vec![ip("10.0.0.1")], "10.0.0.1"),
        (vec![ip("::2")], "::2"),
    ] {
        let error = verify(names, name).unwrap_err();
        assert!(error.to_string().contains("NameConstraintViolation"), "{error}");
    }
}

#[tokio::test]
async fn a_certificate_that_clients_would_not_take_for_long_is_renewed() {
    let folder = Provider::new().folder;
    let path = folder.path().join("tls.pem");
    let loopback = || vec![dns("localhost"), ip("127.0.0.1"), ip("::1")];
    let (soon, late) = (10 * DAY, 100 * DAY);
    let of_another_ca = fs::read_to_string(Provider::new().folder.path().join("tls.pem")).unwrap();
    for (stored, renewed) in [
        ("broken".to_owned(), true),
        (of_another_ca, true),
        (signed_by_the_ca(folder.path(), vec![dns("other.localhost")], late), true),
        (signed_by_the_ca(folder.path(), loopback(), soon), true),
        (signed_by_the_ca(folder.path(), loopback(), late), false),
    ] {
        replace(&path, &stored);
        let sts = spawn(Config::new(folder.path())).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap() != stored, renewed);
        let answer = client(sts.ready()).get(&sts.ready().endpoint).send().await.unwrap();
        assert_eq!(answer.status(), 401);
    }
}

/// A server's key and certificate, PEM.
fn signed_by_the_ca(folder: &Path, names: Vec<SanType>, valid_for: Duration) -> String {
    let ca_key = KeyPair::from_pem(&fs::read_to_string(folder.join("ca.key")).unwrap()).unwrap();
    let ca = CertificateDer::from_pem_file(folder.join("ca.pem")).unwrap();
    let mut ca_params = CertificateParams::default();
    ca_params.distinguished_name.push(DnType::CommonName, common_name(&ca));
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    let end = Duration::from_secs(UnixTime::now().as_secs()) + valid_for;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
    let leaf = params.signed_by(&key, &Issuer::new(ca_params, ca_key)).unwrap();
    key.serialize_pem() + &leaf.pem()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn ip(ip: &str) -> SanType {
    SanType::IpAddress(ip.parse().unwrap())
}

/// The CA's own name, which differs from key to key.
fn common_name(ca: &CertificateDer<'_>) -> String {
    let prefix = b"Strongroom development CA ";
    let start = ca.windows(prefix.len()).position(|w| w == prefix).unwrap();
    String::from_utf8(ca[start..start + prefix.len() + 8].to_vec()).unwrap()
}

const DAY: Duration = Duration::from_secs(86_400);
