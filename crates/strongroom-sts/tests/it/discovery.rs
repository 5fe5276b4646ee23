use serde_json::Value;

use crate::support::{Provider, refusal};

#[tokio::test]
async fn the_openid_configuration_of_a_tenant_names_this_host_and_the_guid() {
    let provider = Provider::new();
    let authority = &provider.ready().authority;
    for tenant in [provider.ready().tenant.as_str(), "contoso.localhost", "CONTOSO.localhost"] {
        let url = format!("{}/{tenant}/v2.0/.well-known/openid-configuration", provider.origin());
        let document = provider.get_json(&url).await;
        assert_eq!(document["issuer"], format!("{authority}/v2.0"));
        assert_eq!(document["token_endpoint"], format!("{authority}/oauth2/v2.0/token"));
        assert_eq!(document["authorization_endpoint"], format!("{authority}/oauth2/v2.0/authorize"));
        assert_eq!(document["jwks_uri"], format!("{authority}/discovery/v2.0/keys"));
    }
}

#[tokio::test]
async fn the_v1_configuration_has_the_v1_issuer() {
    let provider = Provider::new();
    let url = format!("{}/.well-known/openid-configuration", provider.ready().authority);
    let document = provider.get_json(&url).await;
    assert_eq!(document["issuer"], format!("https://sts.windows.net/{}/", provider.ready().tenant));
}

#[tokio::test]
async fn the_shared_configuration_leaves_the_tenant_to_the_client() {
    let provider = Provider::new();
    for shared in ["common", "organizations"] {
        let base = format!("{}/{shared}", provider.origin());
        let document = provider.get_json(&format!("{base}/v2.0/.well-known/openid-configuration")).await;
        assert_eq!(document["issuer"], format!("{}/{{tenantid}}/v2.0", provider.origin()));
        assert_eq!(document["token_endpoint"], format!("{base}/oauth2/v2.0/token"));
        let keys = provider.get_json(&format!("{base}/discovery/v2.0/keys")).await;
        assert_eq!(keys["keys"][0]["issuer"], document["issuer"]);
    }
}

#[tokio::test]
async fn two_signing_keys_are_published_with_their_certificates() {
    let provider = Provider::new();
    let url = format!("{}/discovery/v2.0/keys", provider.ready().authority);
    let answer = provider.http.get(url).send().await.unwrap();
    assert_eq!(answer.headers()["cache-control"], "max-age=86400, private");
    let document: Value = answer.json().await.unwrap();
    let keys = document["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_ne!(keys[0]["kid"], keys[1]["kid"]);
    for key in keys {
        assert_eq!((&key["kty"], &key["use"], &key["e"]), (&"RSA".into(), &"sig".into(), &"AQAB".into()));
        assert_eq!(key["kid"], key["x5t"]);
        // 2048 bits in base64url.
        assert_eq!(key["n"].as_str().unwrap().len(), 342);
        assert_eq!(key["x5c"].as_array().unwrap().len(), 1);
        assert_eq!(key["issuer"], format!("{}/v2.0", provider.ready().authority));
    }
}

#[tokio::test]
async fn a_tenant_that_is_not_here_has_no_documents() {
    let provider = Provider::new();
    let elsewhere = format!("{}/11111111-2222-3333-4444-555555555555", provider.origin());
    for path in
        ["v2.0/.well-known/openid-configuration", ".well-known/openid-configuration", "discovery/v2.0/keys"]
    {
        let answer = provider.http.get(format!("{elsewhere}/{path}")).send().await.unwrap();
        assert_eq!(refusal(answer).await, (400, "invalid_tenant".to_owned(), 90_002));
    }
}

#[tokio::test]
async fn instance_discovery_knows_this_host_and_the_clouds() {
    let provider = Provider::new();
    let host = provider.origin().strip_prefix("https://").unwrap();
    for authority in [&provider.ready().authority, "https://login.microsoftonline.com/common"] {
        let url = format!(
            "{}/common/discovery/instance?api-version=1.1&authorization_endpoint={authority}/oauth2/v2.0/authorize",
            provider.origin()
        );
        let document = provider.get_json(&url).await;
        let tenant = authority.rsplit_once('/').unwrap().1;
        assert_eq!(
            document["tenant_discovery_endpoint"],
            format!("{}/{tenant}/v2.0/.well-known/openid-configuration", provider.origin())
        );
        let metadata = document["metadata"].as_array().unwrap();
        assert!(metadata.iter().any(|m| m["preferred_network"] == host));
        assert!(metadata.iter().any(|m| {
            m["preferred_network"] == "login.microsoftonline.com"
                && m["preferred_cache"] == "login.windows.net"
        }));
        assert!(metadata.iter().all(|m| m["aliases"].as_array().unwrap().contains(&m["preferred_cache"])));
    }
}

#[tokio::test]
async fn instance_discovery_refuses_a_host_that_is_no_authority() {
    let provider = Provider::new();
    for endpoint in [
        "https://login.example.com/common/oauth2/v2.0/authorize",
        "http://login.microsoftonline.com/common/oauth2/v2.0/authorize",
        "https://localhost:1/common/oauth2/v2.0/authorize",
        "nonsense",
    ] {
        let url = format!(
            "{}/common/discovery/instance?api-version=1.1&authorization_endpoint={endpoint}",
            provider.origin()
        );
        let answer = provider.http.get(url).send().await.unwrap();
        assert_eq!(refusal(answer).await, (400, "invalid_instance".to_owned(), 50_049), "{endpoint}");
    }
    let bare = format!("{}/common/discovery/instance", provider.origin());
    let answer = provider.http.get(bare).send().await.unwrap();
    assert_eq!(refusal(answer).await, (400, "invalid_request".to_owned(), 900_144));
}
