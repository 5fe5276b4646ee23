use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde_json::Value;
use strongroom_sts::{Endpoint, Fault};

use crate::support::{PATIENCE, Provider, tls_config};

#[tokio::test]
async fn a_fault_answers_in_the_providers_place() {
    let provider = Provider::new();
    let body = r#"{"error": "temporarily_unavailable"}"#;
    let fault = Fault::new(Endpoint::Token).status(429).header("Retry-After", "3").body(body);
    provider.sts.add_fault(fault).unwrap();
    let answer = provider.token_request(&[]).send().await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "3");
    assert_eq!(answer.headers()["content-type"], "application/json; charset=utf-8");
    assert!(answer.headers().contains_key("x-ms-request-id"));
    assert_eq!(answer.text().await.unwrap(), body);
    assert_eq!(provider.token_request(&[]).send().await.unwrap().status(), 200);
    assert_eq!(provider.sts.stats().token, 2);
    assert_eq!(provider.sts.stats().by_grant["client_credentials"], 2);
}

#[tokio::test]
async fn a_body_alone_comes_with_200_and_html_is_seen() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::Token).body("<html>proxy</html>")).unwrap();
    let answer = provider.token_request(&[]).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
    let plain = Fault::new(Endpoint::Token).body("<x>").header("content-type", "text/plain");
    provider.sts.add_fault(plain).unwrap();
    let answer = provider.token_request(&[]).send().await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/plain");
}

#[tokio::test]
async fn headers_alone_replace_those_of_the_real_answer() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::Token).header("Cache-Control", "max-age=9")).unwrap();
    let answer = provider.token_request(&[]).send().await.unwrap();
    let values: Vec<_> = answer.headers().get_all("cache-control").iter().collect();
    assert_eq!(values, ["max-age=9"]);
    assert!(answer.json::<Value>().await.unwrap()["access_token"].is_string());
}

#[tokio::test]
async fn a_fault_of_everything_strikes_every_endpoint_for_ever() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::Any).status(500).for_ever()).unwrap();
    let authority = &provider.ready().authority;
    for url in [
        format!("{authority}/v2.0/.well-known/openid-configuration"),
        format!("{authority}/discovery/v2.0/keys"),
        format!("{}/common/discovery/instance", provider.origin()),
        provider.ready().endpoint.clone(),
        provider.token_url(),
    ] {
        assert_eq!(provider.http.get(&url).send().await.unwrap().status(), 500, "{url}");
    }
    provider.sts.clear_faults();
    assert_eq!(provider.token_request(&[]).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_delay_lasts_until_the_faults_are_deleted() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::Token).delay_ms(150)).unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        provider.token().await;
        assert!(start.elapsed() >= Duration::from_millis(150));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_requests_wait_for_all_and_are_answered_then() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let requests: Vec<_> = (0..32).map(|_| tokio::spawn(provider.token_request(&[]).send())).collect();
    let stats = provider.wait_for(|s| s.held == 32);
    assert_eq!((stats.token, stats.by_grant["client_credentials"]), (32, 32));
    assert!(requests.iter().all(|r| !r.is_finished()));
    provider.sts.clear_faults();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
    provider.wait_for(|s| s.held == 0);
    provider.token().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_client_that_goes_away_is_held_no_more() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let request = tokio::spawn(provider.token_request(&[]).send());
    provider.wait_for(|s| s.held == 1);
    request.abort();
    let _ = request.await;
    provider.wait_for(|s| s.held == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_can_be_dropped_while_it_holds_requests() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let request = tokio::spawn(provider.token_request(&[]).send());
    provider.wait_for(|s| s.held == 1);
    drop(provider);
    assert!(request.await.unwrap().is_err());
}

/// Everything that comes over the wire after one request, and how it ended.
fn raw_answer(provider: &Provider) -> (Vec<u8>, io::Result<()>) {
    let host = provider.origin().strip_prefix("https://").unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::new(tls_config(provider.ready())), name).unwrap();
    let socket = TcpStream::connect(host).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let path = provider.ready().authority.strip_prefix(provider.origin()).unwrap();
    let request = format!(
        "GET {path}/v2.0/.well-known/openid-configuration HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer).map(drop);
    (answer, end)
}

#[test]
fn an_answer_that_is_not_cut_ends_with_tls_close_notify() {
    let provider = Provider::new();
    let (answer, end) = raw_answer(&provider);
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    end.unwrap();
}

#[test]
fn a_cut_at_zero_leaves_no_byte_of_the_answer() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::OpenidConfiguration).cut_after_bytes(0)).unwrap();
    let (answer, end) = raw_answer(&provider);
    assert_eq!(answer, b"");
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(provider.sts.stats().openid_configuration, 1);
    raw_answer(&provider).1.unwrap();
}

#[test]
fn a_cut_at_100_leaves_100_bytes_of_the_promised_body() {
    let provider = Provider::new();
    provider.sts.add_fault(Fault::new(Endpoint::OpenidConfiguration).cut_after_bytes(100)).unwrap();
    let (answer, end) = raw_answer(&provider);
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body.len(), 100);
    let promised = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap();
    assert!(promised.parse::<usize>().unwrap() > 1_000);
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_cut_beyond_the_body_still_cuts() {
    let provider = Provider::new();
    let fault = Fault::new(Endpoint::OpenidConfiguration).body("{}").cut_after_bytes(1_000);
    provider.sts.add_fault(fault).unwrap();
    let (answer, end) = raw_answer(&provider);
    assert!(answer.ends_with(b"\r\n\r\n{}"));
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_cut_answer_is_an_error_to_an_http_client() {
    let provider = Provider::new();
    for bytes in [0, 100] {
        // For ever: reqwest may try a second time on a fresh connection.
        provider.sts.add_fault(Fault::new(Endpoint::Token).cut_after_bytes(bytes).for_ever()).unwrap();
        let outcome = match provider.token_request(&[]).send().await {
            Err(e) => Err(e),
            Ok(answer) => answer.bytes().await,
        };
        outcome.unwrap_err();
        provider.sts.clear_faults();
    }
}
