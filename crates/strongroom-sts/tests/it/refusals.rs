use crate::support::{Provider, refusal};

async fn refused(provider: &Provider, changes: &[(&str, &str)]) -> (u16, String, u64) {
    refusal(provider.token_request(changes).send().await.unwrap()).await
}

fn is(status: u16, error: &str, code: u64) -> (u16, String, u64) {
    (status, error.to_owned(), code)
}

#[tokio::test]
async fn an_unknown_client_is_not_found_in_the_directory() {
    let provider = Provider::new();
    let unknown = "99999999-9999-4999-8999-999999999999";
    assert_eq!(refused(&provider, &[("client_id", unknown)]).await, is(400, "unauthorized_client", 700_016));
}

#[tokio::test]
async fn a_wrong_secret_is_refused_however_it_is_sent() {
    let provider = Provider::new();
    assert_eq!(refused(&provider, &[("client_secret", "no")]).await, is(401, "invalid_client", 7_000_215));
    let form = provider.form_with(&[("client_id", ""), ("client_secret", "")]);
    let request = provider.http.post(provider.token_url()).form(&form);
    let answer = request.basic_auth(&provider.ready().client_id, Some("no")).send().await.unwrap();
    assert_eq!(refusal(answer).await, is(401, "invalid_client", 7_000_215));
}

#[tokio::test]
async fn no_secret_at_all_is_its_own_error() {
    let provider = Provider::new();
    assert_eq!(refused(&provider, &[("client_secret", "")]).await, is(401, "invalid_client", 7_000_218));
}

#[tokio::test]
async fn missing_parameters_are_named() {
    let provider = Provider::new();
    for name in ["grant_type", "client_id", "scope"] {
        let answer = provider.token_request(&[(name, "")]).send().await.unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.contains(&format!("must contain the following parameter: '{name}'")), "{text}");
        assert_eq!(refused(&provider, &[(name, "")]).await, is(400, "invalid_request", 900_144));
    }
    let not_a_form = provider.http.post(provider.token_url()).json(&"grant_type=client_credentials");
    assert_eq!(refusal(not_a_form.send().await.unwrap()).await, is(400, "invalid_request", 900_144));
}

#[tokio::test]
async fn other_grants_are_unsupported() {
    let provider = Provider::new();
    for grant in ["password", "authorization_code", "made_up"] {
        let expected = is(400, "unsupported_grant_type", 70_003);
        assert_eq!(refused(&provider, &[("grant_type", grant)]).await, expected);
    }
}

#[tokio::test]
async fn a_parameter_must_not_come_twice() {
    let provider = Provider::new();
    let mut form = provider.form();
    form.push(form[3].clone());
    let answer = provider.http.post(provider.token_url()).form(&form).send().await.unwrap();
    assert_eq!(refusal(answer).await, is(400, "invalid_request", 9_000_411));
}

#[tokio::test]
async fn an_app_needs_exactly_one_default_scope() {
    let provider = Provider::new();
    for (scope, code) in [
        ("User.Read", 1_002_012),
        ("api://x/.default/more", 1_002_012),
        ("api://x/.default api://y/.default", 70_011),
        ("/.default", 70_011),
        ("openid", 70_011),
    ] {
        assert_eq!(refused(&provider, &[("scope", scope)]).await, is(400, "invalid_scope", code), "{scope}");
    }
}

#[tokio::test]
async fn the_tenant_must_be_known_and_named() {
    let provider = Provider::new();
    for (tenant, code) in [
        ("11111111-2222-3333-4444-555555555555", 90_002),
        ("fabrikam.localhost", 90_002),
        ("%20", 900_023),
        ("common", 50_059),
        ("organizations", 50_059),
    ] {
        let url = format!("{}/{tenant}/oauth2/v2.0/token", provider.origin());
        let answer = provider.http.post(url).form(&provider.form()).send().await.unwrap();
        assert_eq!(refusal(answer).await, is(400, "invalid_request", code), "{tenant}");
    }
}

#[tokio::test]
async fn the_token_endpoint_takes_only_posts() {
    let provider = Provider::new();
    let answer = provider.http.get(provider.token_url()).send().await.unwrap();
    assert_eq!(refusal(answer).await, is(405, "invalid_request", 900_561));
}

#[tokio::test]
async fn what_a_client_sent_is_not_repeated_at_any_length() {
    let provider = Provider::new();
    let long = "x".repeat(100_000);
    let answer = provider.token_request(&[("client_id", &long)]).send().await.unwrap();
    assert!(answer.text().await.unwrap().len() < 2_000);
}
