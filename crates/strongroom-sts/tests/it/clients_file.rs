use serde_json::{Value, json};
use strongroom_sts::{Config, StsError, spawn};

use crate::support::{Provider, edit_clients, refusal, replace};

#[tokio::test]
async fn a_second_client_and_tenant_can_be_added() {
    let other_tenant = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
    let provider = Provider::new().edited(|file| {
        let tenant = json!({"id": other_tenant, "domains": ["fabrikam.localhost"]});
        file["tenants"].as_array_mut().unwrap().push(tenant);
        let client = json!({"client_id": "my-app", "tenant": "fabrikam.localhost", "secrets": ["geheim"]});
        file["clients"].as_array_mut().unwrap().push(client);
    });
    let form = provider.form_with(&[("client_id", "my-app"), ("client_secret", "geheim")]);
    let url = format!("{}/{other_tenant}/oauth2/v2.0/token", provider.origin());
    assert_eq!(provider.http.post(url).form(&form).send().await.unwrap().status(), 200);
    // It is no client of the first tenant.
    let answer = provider.http.post(provider.token_url()).form(&form).send().await.unwrap();
    assert_eq!(refusal(answer).await, (400, "unauthorized_client".to_owned(), 700_016));
}

#[tokio::test]
async fn a_secret_expires() {
    let provider = Provider::new().edited(|file| {
        let secrets = &mut file["clients"][0]["secrets"];
        let old = json!({"value": "old", "expires": "2001-01-01T00:00:00Z"});
        let next = json!({"value": "next", "expires": "2099-01-01T00:00:00Z"});
        secrets.as_array_mut().unwrap().extend([old, next]);
    });
    let answer = provider.token_request(&[("client_secret", "old")]).send().await.unwrap();
    assert_eq!(refusal(answer).await, (401, "invalid_client".to_owned(), 7_000_222));
    let ask = async || provider.token_request(&[("client_secret", "next")]).send().await.unwrap();
    assert_eq!(ask().await.status(), 200);
    provider.sts.set_clock(100 * 365 * 86_400).unwrap();
    assert_eq!(refusal(ask().await).await.2, 7_000_222);
}

#[tokio::test]
async fn a_disabled_client_gets_nothing() {
    let provider = Provider::new().edited(|file| file["clients"][0]["enabled"] = json!(false));
    let answer = provider.token_request(&[]).send().await.unwrap();
    assert_eq!(refusal(answer).await, (400, "unauthorized_client".to_owned(), 7_000_112));
}

#[tokio::test]
async fn only_registered_resources_when_the_file_says_so() {
    let provider = Provider::new().edited(|file| file["any_resource"] = json!(false));
    let answer = provider.token_request(&[("scope", "api://p1-7/.default")]).send().await.unwrap();
    assert_eq!(refusal(answer).await, (400, "invalid_resource".to_owned(), 500_011));
    provider.token().await;
}

#[test]
fn a_bad_file_is_refused_by_name_and_left_as_it_is() {
    let folder = Provider::new().folder;
    let path = folder.path().join("clients.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let bad = |edit: &dyn Fn(&mut Value)| {
        let mut file = good.clone();
        edit(&mut file);
        file.to_string()
    };
    let first_client = |name: &str, value: Value| bad(&|f| f["clients"][0][name] = value.clone());
    for (text, hint) in [
        (String::new(), "EOF"),
        ("{\"tenants\": [".to_owned(), "line 1"),
        (bad(&|f| f["surprise"] = json!(1)), "surprise"),
        (bad(&|f| f["tenants"] = json!([])), "tenants is empty"),
        (bad(&|f| f["resources"] = json!([])), "sample API"),
        (bad(&|f| f["tenants"][0]["domains"] = json!(["common"])), "common"),
        (first_client("tenant", json!("nowhere.localhost")), "nowhere.localhost"),
        (first_client("secrets", json!([{"value": "hush", "expires": "tomorrow"}])), "RFC 3339"),
        (first_client("secrets", json!([{"value": "hush", "expire": "x"}])), "expire"),
        (first_client("secrets", json!([""])), "empty"),
        (first_client("secrets", json!("hush")), "list"),
        (first_client("secrets", json!([["hush"]])), "object"),
        (first_client("certificates", json!(["none.pem"])), "none.pem"),
        (first_client("certificates", json!(["../client.pem"])), "state folder"),
        (first_client("certificates", json!(["ca.key"])), "no certificate"),
        (bad(&|f| f["clients"] = json!([f["clients"][0], f["clients"][0]])), "twice"),
        (bad(&|f| f["resources"] = json!([f["resources"][0], f["resources"][0]])), "two resources"),
    ] {
        replace(&path, &text);
        let error = spawn(Config::new(folder.path())).unwrap_err();
        assert!(matches!(error, StsError::ClientsFile { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.contains("clients.json") && message.contains(hint), "{message}");
        assert!(!message.contains("hush"), "{message}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn a_tenant_without_a_secret_cannot_be_introduced() {
    let folder = Provider::new().folder;
    edit_clients(folder.path(), |file| file["clients"][0]["secrets"] = json!([]));
    let error = spawn(Config::new(folder.path())).unwrap_err();
    assert!(error.to_string().contains("secret"), "{error}");
}
