use reqwest::Response;
use serde_json::Value;
use strongroom_sts::Config;

use crate::support::{Provider, client};

fn challenge(answer: &Response) -> String {
    assert_eq!(answer.status(), 401);
    answer.headers()["www-authenticate"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_good_token_gets_the_weather() {
    let provider = Provider::new();
    let answer = provider.call_api(&provider.token().await).await;
    assert_eq!(answer.status(), 200);
    let forecasts: Vec<Value> = answer.json().await.unwrap();
    assert_eq!(forecasts.len(), 5);
    assert_eq!(forecasts[0]["summary"], "Freezing");
}

#[tokio::test]
async fn no_token_is_challenged_without_an_error() {
    let provider = Provider::new();
    let answer = provider.http.get(&provider.ready().endpoint).send().await.unwrap();
    let challenge = challenge(&answer);
    assert!(challenge.starts_with("Bearer ") && !challenge.contains("error"), "{challenge}");
}

#[tokio::test]
async fn garbage_and_forgeries_are_refused() {
    let provider = Provider::new();
    let token = provider.token().await;
    let (message, signature) = token.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    for forged in [
        "garbage".to_owned(),
        "a.b.c".to_owned(),
        format!("{message}."),
        format!("{message}.{flipped}{}", &signature[1..]),
        format!("{header}.{claims}A.{signature}"),
        // {"alg":"none"}
        format!("eyJhbGciOiJub25lIn0.{claims}."),
    ] {
        let challenge = challenge(&provider.call_api(&forged).await);
        assert!(challenge.contains(r#"error="invalid_token""#), "{challenge}");
    }
}

#[tokio::test]
async fn a_token_for_another_api_is_refused() {
    let provider = Provider::new();
    let token = provider.token_for("api://another/.default").await;
    let challenge = challenge(&provider.call_api(&token).await);
    assert!(challenge.contains("audience"), "{challenge}");
}

#[tokio::test]
async fn another_providers_token_is_refused() {
    let (provider, other) = (Provider::new(), Provider::new());
    challenge(&provider.call_api(&other.token().await).await);
}

#[tokio::test]
async fn time_is_the_providers_clock() {
    let provider = Provider::new();
    let token = provider.token().await;
    provider.sts.set_clock(3_700).unwrap();
    assert!(challenge(&provider.call_api(&token).await).contains("expired"));
    provider.sts.set_clock(-3_600).unwrap();
    assert!(challenge(&provider.call_api(&token).await).contains("not valid yet"));
    provider.sts.set_clock(0).unwrap();
    assert_eq!(provider.call_api(&token).await.status(), 200);
}

#[tokio::test]
async fn a_token_outlives_a_restart_on_another_port() {
    let first = Provider::new();
    let token = first.token().await;
    // Both at once, so that the second cannot get the first one's port.
    let second = strongroom_sts::spawn(Config::new(first.folder.path())).unwrap();
    let http = client(second.ready());
    let answer = http.get(&second.ready().endpoint).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}
