//! Answers that are no answers, connections that break, and how often each of them is tried.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom::{Error, ErrorKind, HttpTransport, TokenSource};
use strongroom_sts::{Endpoint, Fault};

use crate::client_support::Scene;

/// The outcome of one call under this fault, and how many token requests it took.
fn under(fault: Fault) -> (Error, u64) {
    let scene = Scene::new();
    scene.sts.add_fault(fault.for_ever()).unwrap();
    let error = scene.refusal();
    assert!(!scene.location().exists(), "nothing is stored");
    (error, scene.token_requests())
}

fn answer(status: u16, body: impl Into<String>) -> Fault {
    Fault::new(Endpoint::Token).status(status).body(body)
}

const HTML: &str = "<html><body>Sign in to the hotel's network</body></html>";

#[test]
fn a_page_is_no_token_response() {
    let (error, requests) = under(answer(200, HTML));
    assert_eq!((error.kind(), error.code(), requests), (ErrorKind::Network, "unexpected_answer", 1));
    assert!(error.to_string().contains("text/html"), "{error}");
    assert!(error.remedy().is_some() && !error.is_retryable());

    let (error, requests) = under(answer(400, HTML));
    assert_eq!((error.kind(), error.code(), requests), (ErrorKind::IdentityProvider, "http_error", 1));
    assert_eq!(error.service().unwrap().status, 400);
    assert!(error.remedy().unwrap().contains("prox"));

    let (error, requests) = under(answer(502, HTML));
    assert_eq!((error.kind(), error.code(), requests), (ErrorKind::Network, "http_error", 2));
    assert!(error.is_retryable());
    assert!(!error.to_string().contains("hotel"));
}

#[test]
fn json_that_is_no_token_response() {
    let scene = Scene::new();
    let filler = "x".repeat(1_000_000);
    let token = |changes: Value| {
        let mut token = json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": "the-token" });
        for (name, value) in changes.as_object().unwrap() {
            token[name] = value.clone();
        }
        token.to_string()
    };
    for (name, body) in [
        ("empty", String::new()),
        ("1 MB of other JSON", json!({ "filler": filler }).to_string()),
        ("an array", "[]".to_owned()),
        ("null", "null".to_owned()),
        ("cut JSON", r#"{"token_type":"Bearer","access_tok"#.to_owned()),
        ("deep", "[".repeat(100_000)),
        ("no token", json!({ "token_type": "Bearer", "expires_in": 3599 }).to_string()),
        ("an empty token", token(json!({ "access_token": "" }))),
        ("a token that is a number", token(json!({ "access_token": 7 }))),
        ("another kind of token", token(json!({ "token_type": "pop" }))),
        ("no time left", token(json!({ "expires_in": 0 }))),
        ("less than none", token(json!({ "expires_in": -1 }))),
        ("less than none, as text", token(json!({ "expires_in": "-3600" }))),
        ("a lifetime of centuries", token(json!({ "expires_in": 9_999_999_999_i64 }))),
        ("a lifetime beyond numbers", token(json!({ "expires_in": "99999999999999999999999" }))),
    ] {
        scene.sts.reset();
        scene.forget_refusals();
        scene.sts.add_fault(answer(200, body)).unwrap();
        let error = match scene.token() {
            // What is not understood counts as not said: ten minutes.
            Ok(result) if name == "a lifetime beyond numbers" => {
                assert!(result.expires_in() <= 10 * 365 * 86_400);
                std::fs::remove_file(scene.location()).unwrap();
                scene.sts.clear_faults();
                continue;
            }
            Ok(_) => panic!("{name} is taken for a token response"),
            Err(error) => error,
        };
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Network, "unexpected_answer"),
            "{name}: {error}"
        );
        assert!(!error.is_retryable() && error.remedy().is_some(), "{name}");
        assert_eq!(scene.token_requests(), 1, "{name}");
        assert!(error.to_string().len() < 500, "{name}");
        assert!(!scene.location().exists(), "{name}");
    }
}

#[test]
fn a_lifetime_is_read_as_number_and_as_text() {
    let scene = Scene::new();
    for (expires_in, seconds) in
        [(json!("1800"), 1800), (json!(1800), 1800), (json!(1800.7), 1800), (Value::Null, 600)]
    {
        let body = json!({ "token_type": "bearer", "expires_in": expires_in, "access_token": "t" });
        scene.sts.add_fault(answer(200, body.to_string())).unwrap();
        let app = scene.app();
        let request = app.acquire_token_for_client(scene.ready().scope.as_str()).force_refresh(true);
        assert_eq!(request.blocking().unwrap().expires_in(), seconds, "{expires_in}");
    }
}

#[test]
fn an_error_within_a_success_is_an_error() {
    let (error, requests) =
        under(answer(200, r#"{"error":"invalid_grant","error_description":"no","access_token":"t"}"#));
    assert_eq!((error.kind(), error.code(), requests), (ErrorKind::IdentityProvider, "invalid_grant", 1));
    assert_eq!(error.service().unwrap().status, 200);
}

#[test]
fn more_than_a_mebibyte_is_not_read() {
    for status in [200, 400] {
        let (error, requests) = under(answer(status, format!("\"{}\"", "x".repeat(1024 * 1024))));
        assert_eq!((error.kind(), error.code(), requests), (ErrorKind::Network, "unexpected_answer", 1));
        assert!(error.to_string().contains("1048576"), "{error}");
    }
}

#[test]
fn a_connection_that_breaks_is_tried_once_more() {
    for bytes in [0, 100] {
        let fault = || Fault::new(Endpoint::Token).cut_after_bytes(bytes);
        let (error, requests) = under(fault());
        assert_eq!(
            (error.kind(), error.code(), requests),
            (ErrorKind::Network, "answer_cut_off", 2),
            "{error}"
        );
        assert!(error.is_retryable());

        let scene = Scene::new();
        scene.sts.add_fault(fault().times(1)).unwrap();
        assert_eq!(scene.token().unwrap().token_source(), TokenSource::IdentityProvider);
        assert_eq!(scene.token_requests(), 2);
    }
}

#[test]
fn a_failing_provider_is_tried_once_more_unless_it_says_when() {
    for status in [500, 502, 503, 504] {
        let (error, requests) = under(Fault::new(Endpoint::Token).status(status));
        assert_eq!((error.kind(), requests), (ErrorKind::Network, 2), "{status}");
        assert!(error.is_retryable() && error.retry_after().is_none() && error.remedy().is_some());
        assert_eq!(error.service().unwrap().status, status);
    }
    let (error, requests) = under(Fault::new(Endpoint::Token).status(503).header("Retry-After", "7"));
    assert_eq!((error.kind(), requests), (ErrorKind::Network, 1));
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    assert!(error.remedy().unwrap().contains("7 seconds"));

    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).status(503).times(1)).unwrap();
    assert!(scene.token().is_ok());
    assert_eq!(scene.token_requests(), 2);
}

#[test]
fn discovery_is_tried_once_more_as_well() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::OpenidConfiguration).status(503).times(1)).unwrap();
    assert!(scene.token().is_ok());
    assert_eq!((scene.sts.stats().openid_configuration, scene.token_requests()), (2, 1));

    let scene = Scene::new();
    for (fault, kind, code) in [
        (Fault::new(Endpoint::OpenidConfiguration).body(HTML), ErrorKind::Network, "unexpected_answer"),
        (
            Fault::new(Endpoint::OpenidConfiguration).status(404).body(HTML),
            ErrorKind::IdentityProvider,
            "http_error",
        ),
        (
            Fault::new(Endpoint::OpenidConfiguration).body("x".repeat(2 * 1024 * 1024)),
            ErrorKind::Network,
            "unexpected_answer",
        ),
    ] {
        scene.forget_refusals();
        scene.sts.add_fault(fault).unwrap();
        let error = scene.refusal();
        assert_eq!((error.kind(), error.code()), (kind, code));
    }
    assert_eq!(scene.token_requests(), 0);
}

#[test]
fn a_redirect_is_not_followed() {
    let fault = answer(302, "").header("Location", "https://localhost:1/elsewhere");
    let (error, requests) = under(fault);
    assert_eq!((error.code(), requests), ("http_error", 1));
    assert_eq!(error.service().unwrap().status, 302);
}

#[test]
fn a_throttled_request_is_never_retried() {
    let throttled = || Fault::new(Endpoint::Token).status(429);
    for (header, seconds) in [
        (None, None),
        (Some("3"), Some(3)),
        (Some("999999"), Some(3600)),
        (Some("99999999999999999999999999"), Some(3600)),
        (Some("soon"), None),
        (Some("-5"), None),
        (Some("Sun, 06 Nov 1994 08:49:37 GMT"), Some(0)),
        (Some("Sat, 06 Nov 2094 08:49:37 GMT"), Some(3600)),
    ] {
        let fault = header.map_or_else(throttled, |value| throttled().header("Retry-After", value));
        let (error, requests) = under(fault);
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::IdentityProvider, "too_many_requests"),
            "{header:?}"
        );
        assert_eq!(requests, 1, "{header:?}");
        assert_eq!(error.retry_after(), seconds.map(Duration::from_secs), "{header:?}");
        assert!(error.is_retryable() && error.remedy().is_some());
    }
}

#[test]
fn a_provider_that_does_not_answer_costs_the_time_out() {
    let scene = Scene::new();
    scene.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let app = scene.builder().timeout(Duration::from_millis(400)).build().unwrap();
    let error = scene.acquire(&app).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Network, "timed_out"));
    assert!(error.is_retryable() && error.remedy().is_some());
    // The request is abandoned, not left behind.
    scene.wait_for(|stats| stats.held == 0);
    assert_eq!(scene.token_requests(), 1);
    scene.sts.clear_faults();
    assert!(scene.acquire(&app).is_ok());
}

#[test]
fn nobody_listens() {
    let scene = Scene::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let authority = format!("https://localhost:{free}/{}", scene.ready().tenant);
    let error = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Network, "connection_failed"), "{error}");
    assert!(error.is_retryable() && error.remedy().is_some());
    assert!(error.to_string().contains("localhost"), "{error}");
}

#[test]
fn a_name_that_does_not_resolve() {
    let scene = Scene::new();
    let authority = format!("https://no-such-host.invalid/{}", scene.ready().tenant);
    let error = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Network, "connection_failed"), "{error}");
}

#[test]
fn a_certificate_of_an_unknown_authority_is_not_accepted() {
    let scene = Scene::new();
    let app = scene.builder().transport(HttpTransport::new()).build().unwrap();
    let error = scene.acquire(&app).unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Network, "tls_failed"), "{error}");
    assert!(error.remedy().unwrap().contains("--ca-file"));
    assert_eq!(scene.requests(), 0);
}

#[test]
fn a_certificate_for_another_name_is_not_accepted() {
    let scene = Scene::new();
    let port = scene.origin().rsplit_once(':').unwrap().1;
    let authority = format!("https://localhost.localdomain:{port}/{}", scene.ready().tenant);
    let error = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(["tls_failed", "connection_failed"].contains(&error.code()), "{error}");
    assert_eq!(scene.requests(), 0);
}

#[test]
fn a_server_that_speaks_no_tls() {
    let scene = Scene::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap();
    });
    let authority = format!("https://127.0.0.1:{port}/{}", scene.ready().tenant);
    let error = scene.acquire(&scene.builder_for(&authority).build().unwrap()).unwrap_err();
    server.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Network, "{error}");
}

#[test]
fn trust_roots_that_are_none_are_refused_at_once() {
    for pem in [&b""[..], b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA"] {
        for made in [HttpTransport::with_extra_roots(pem), HttpTransport::with_roots_only(pem)] {
            let error = made.unwrap_err();
            assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "transport_setup_failed"));
        }
    }
    let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let scene = Scene::new();
    if let Ok(transport) = HttpTransport::with_extra_roots(garbage) {
        let error = scene.acquire(&scene.builder().transport(transport).build().unwrap()).unwrap_err();
        assert_eq!(
            (error.kind(), error.code()),
            (ErrorKind::Configuration, "transport_setup_failed"),
            "{error}"
        );
    }
}
