use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::support::{Provider, refusal};

async fn put(provider: &Provider, path: &str, body: &str) -> (u16, Value) {
    let url = format!("{}/{path}", provider.ready().control);
    let answer = provider.http.put(url).body(body.to_owned()).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn stats(provider: &Provider) -> Value {
    provider.get_json(&format!("{}/stats", provider.ready().control)).await
}

#[tokio::test]
async fn statistics_count_requests_until_they_are_reset() {
    let provider = Provider::new();
    let authority = &provider.ready().authority;
    provider.call_api(&provider.token().await).await;
    refusal(provider.token_request(&[("grant_type", "password")]).send().await.unwrap()).await;
    refusal(provider.token_request(&[("grant_type", "made_up")]).send().await.unwrap()).await;
    provider.get_json(&format!("{authority}/v2.0/.well-known/openid-configuration")).await;
    provider.get_json(&format!("{authority}/discovery/v2.0/keys")).await;
    let bare = format!("{}/common/discovery/instance", provider.origin());
    refusal(provider.http.get(bare).send().await.unwrap()).await;
    let by_grant = json!({"client_credentials": 1, "password": 1, "other": 1});
    let expected = json!({"token": 3, "discovery": 1, "openid_configuration": 1, "jwks": 1, "api": 1, "by_grant": by_grant, "held": 0});
    assert_eq!(stats(&provider).await, expected);
    assert_eq!(serde_json::to_value(provider.sts.stats()).unwrap(), expected);

    let reset = format!("{}/reset", provider.ready().control);
    assert_eq!(provider.http.post(reset).send().await.unwrap().status(), 200);
    let zero = json!({"token": 0, "discovery": 0, "openid_configuration": 0, "jwks": 0, "api": 0, "by_grant": {}, "held": 0});
    assert_eq!(stats(&provider).await, zero);
}

#[tokio::test]
async fn the_control_path_cannot_be_guessed() {
    let provider = Provider::new();
    let secret = provider.ready().control.rsplit_once("/control-").unwrap().1;
    assert!(secret.len() == 32 && secret.chars().all(|c| c.is_ascii_hexdigit()), "{secret}");
    let another = Provider::new();
    assert!(!another.ready().control.ends_with(secret));
    for guess in ["control", "control-", &format!("control-{}", "0".repeat(32)), "__stats", ""] {
        let answer = provider.http.get(format!("{}/{guess}/stats", provider.origin())).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{guess}");
    }
}

#[tokio::test]
async fn the_clock_can_be_skewed_by_url() {
    let provider = Provider::new();
    assert_eq!(put(&provider, "clock", r#"{"offset_s": 86400}"#).await.0, 200);
    let answer = provider.token_request(&[("client_secret", "wrong")]).send().await.unwrap();
    let date = httpdate::parse_http_date(answer.headers()["date"].to_str().unwrap()).unwrap();
    #[allow(clippy::disallowed_methods)] // compared with the real clock on purpose
    let ahead = date.duration_since(SystemTime::now()).unwrap();
    assert!(ahead > Duration::from_secs(86_000) && ahead <= Duration::from_secs(86_400), "{ahead:?}");
}

#[tokio::test]
async fn lifetimes_can_be_set_by_url() {
    let provider = Provider::new();
    assert_eq!(put(&provider, "lifetimes", r#"{"expires_in": 10, "refresh_in": 5}"#).await.0, 200);
    let body: Value = provider.token_request(&[]).send().await.unwrap().json().await.unwrap();
    assert_eq!((&body["expires_in"], &body["refresh_in"]), (&10.into(), &5.into()));
}

#[tokio::test]
async fn faults_come_as_one_or_as_many_and_wait_for_their_turn() {
    let provider = Provider::new();
    assert_eq!(put(&provider, "faults", r#"{"path": "token", "count": 2, "status": 503}"#).await.0, 200);
    let more = r#" [{"path": "jwks", "status": 500}, {"path": "token", "status": 429, "headers": {"Retry-After": "3"}}]"#;
    assert_eq!(put(&provider, "faults", more).await.0, 200);
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(provider.token_request(&[]).send().await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [503, 503, 429, 200]);
    let faults = format!("{}/faults", provider.ready().control);
    assert_eq!(provider.http.delete(faults).send().await.unwrap().status(), 200);
    let keys = format!("{}/discovery/v2.0/keys", provider.ready().authority);
    assert_eq!(provider.http.get(keys).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn nonsense_is_answered_with_what_is_wrong() {
    let provider = Provider::new();
    for (path, body, hint) in [
        ("faults", "", "EOF"),
        ("faults", "{}", "path"),
        ("faults", r#"{"path": "nowhere"}"#, "nowhere"),
        ("faults", r#"{"path": "token", "staus": 500}"#, "staus"),
        ("faults", r#"{"path": "token", "status": 99}"#, "200 to 599"),
        ("faults", r#"{"path": "token", "count": 0}"#, "count"),
        ("faults", r#"{"path": "token", "headers": {"a b": "c"}}"#, "a b"),
        ("faults", r#"{"path": "token", "headers": {"Content-Length": "3"}}"#, "framing"),
        ("faults", r#"{"path": "token", "delay_ms": 99999999}"#, "delay_ms"),
        ("faults", r#"[{"path": "token", "status": 500}, {"path": "token", "status": 1}]"#, "200 to 599"),
        ("clock", r#"{"offset_s": "1"}"#, "string"),
        ("clock", r#"{"offset_s": 9999999999999}"#, "offset_s"),
        ("lifetimes", r#"{"expires_in": -1}"#, "-1"),
        ("lifetimes", r#"{"expires_in": 9999999999}"#, "expires_in"),
    ] {
        let (status, answer) = put(&provider, path, body).await;
        assert_eq!(status, 400, "{body}");
        assert!(answer["message"].as_str().unwrap().contains(hint), "{answer}");
    }
    // Not even the good half of an array was taken.
    assert_eq!(provider.token_request(&[]).send().await.unwrap().status(), 200);
}
