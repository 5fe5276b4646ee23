//! Clients that sign in with a certificate: what a MSAL may send, and what is refused.

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::support::{Provider, now, refusal, replace};

const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What an assertion is made of; each test changes what it is about.
struct Assertion {
    algorithm: Algorithm,
    header: Value,
    claims: Value,
}

impl Assertion {
    /// One that is good.
    fn new(provider: &Provider) -> Self {
        let ready = provider.ready();
        let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate(provider));
        Self {
            algorithm: Algorithm::PS256,
            header: json!({ "alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(sha256) }),
            claims: json!({
                "aud": provider.token_url(), "iss": ready.client_id, "sub": ready.client_id,
                "jti": uuid::Uuid::new_v4(), "iat": now(), "exp": now() + 600,
            }),
        }
    }

    /// The same as MSAL signs one for a thumbprint.
    fn by_thumbprint(mut self, provider: &Provider) -> Self {
        let thumbprint = provider.ready().thumbprint.as_deref().unwrap();
        let sha1: Vec<u8> =
            (0..40).step_by(2).map(|at| u8::from_str_radix(&thumbprint[at..at + 2], 16).unwrap()).collect();
        self.algorithm = Algorithm::RS256;
        self.header = json!({ "alg": "RS256", "typ": "JWT", "x5t": URL_SAFE.encode(sha1) });
        self
    }

    fn sign(&self, provider: &Provider) -> String {
        self.sign_as(provider, &URL_SAFE_NO_PAD)
    }

    fn sign_as(&self, provider: &Provider, base64: &GeneralPurpose) -> String {
        let segment = |value: &Value| base64.encode(value.to_string());
        let signed = format!("{}.{}", segment(&self.header), segment(&self.claims));
        let key = std::fs::read(provider.ready().private_key_file.as_ref().unwrap()).unwrap();
        let key = EncodingKey::from_rsa_pem(&key).unwrap();
        format!("{signed}.{}", crypto::sign(signed.as_bytes(), &key, self.algorithm).unwrap())
    }
}

fn certificate(provider: &Provider) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(provider.ready().certificate_file.as_ref().unwrap()).unwrap()
}

/// The form of a request with this assertion instead of the secret.
async fn ask(provider: &Provider, assertion: &str) -> reqwest::Response {
    let changes = [("client_secret", ""), ("client_assertion_type", TYPE), ("client_assertion", assertion)];
    provider.token_request(&changes).send().await.unwrap()
}

async fn code(provider: &Provider, assertion: &Assertion) -> u64 {
    let answer = ask(provider, &assertion.sign(provider)).await;
    match answer.status().as_u16() {
        200 => 0,
        _ => refusal(answer).await.2,
    }
}

#[tokio::test]
async fn both_ways_to_name_the_certificate_get_a_token_that_says_so() {
    let provider = Provider::new();
    let good = Assertion::new(&provider);
    let by_thumbprint = Assertion::new(&provider).by_thumbprint(&provider);
    for assertion in [good, by_thumbprint] {
        let answer = ask(&provider, &assertion.sign(&provider)).await;
        assert_eq!(answer.status(), 200, "{}", assertion.header);
        let body: Value = answer.json().await.unwrap();
        let token = body["access_token"].as_str().unwrap();
        let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["azpacr"], "2");
        assert_eq!(provider.call_api(token).await.status(), 200);
    }
}

#[tokio::test]
async fn what_the_languages_write_differently_is_taken() {
    let provider = Provider::new();
    let der = certificate(&provider);
    let changed = |change: &dyn Fn(&mut Assertion)| {
        let mut assertion = Assertion::new(&provider);
        change(&mut assertion);
        assertion
    };
    let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let one_line = STANDARD.encode(&der);
    let wrapped = one_line.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>();
    for assertion in [
        // .NET
        changed(&|a| {
            a.header["x5c"] = STANDARD.encode(&der).into();
            a.claims["exp"] = (now() + 600).to_string().into();
            a.claims["nbf"] = now().to_string().into();
        }),
        // Python
        changed(&|a| {
            a.header["x5t#S256"] = URL_SAFE.encode(sha256).into();
            a.header["x5c"] = json!([wrapped.join("\n")]);
            a.claims["iat"] = json!(now() as f64 + 0.5);
            a.claims["exp"] = json!(now() as f64 + 600.5);
        }),
        // Go
        changed(&|a| a.header["x5t#S256"] = STANDARD.encode(sha256).into()),
        changed(&|a| a.claims["aud"] = format!("{}/v2.0", provider.ready().authority).into()),
        changed(&|a| {
            a.claims["aud"] = format!("{}/contoso.localhost/oauth2/v2.0/token", provider.origin()).into();
        }),
        changed(&|a| a.claims["iat"] = (now() + 200).into()),
    ] {
        assert_eq!(code(&provider, &assertion).await, 0, "{} {}", assertion.header, assertion.claims);
    }
    // azure-identity pads what it signs.
    let padded = Assertion::new(&provider).sign_as(&provider, &URL_SAFE);
    assert_eq!(ask(&provider, &padded).await.status(), 200);
}

#[tokio::test]
async fn what_is_wrong_with_an_assertion_is_said_by_its_code() {
    let provider = Provider::new();
    let expected = |code, change: &dyn Fn(&mut Assertion)| {
        let mut assertion = Assertion::new(&provider);
        change(&mut assertion);
        (code, assertion)
    };
    let claim = |name: &'static str, value: Value| move |a: &mut Assertion| a.claims[name] = value.clone();
    for (expected, assertion) in [
        expected(700_211, &claim("iss", json!("https://issuer.example"))),
        expected(700_021, &claim("sub", json!("99999999-9999-4999-8999-999999999999"))),
        expected(700_023, &claim("aud", json!("https://login.microsoftonline.com/common/oauth2/v2.0/token"))),
        expected(700_024, &claim("exp", json!(now() - 400))),
        expected(700_024, &claim("nbf", json!(now() + 400))),
        expected(700_024, &claim("exp", json!(now() + 100_000))),
        expected(50_027, &claim("exp", Value::Null)),
        expected(700_027, &|a| a.header["x5t#S256"] = URL_SAFE_NO_PAD.encode([7; 32]).into()),
        expected(700_027, &|a| a.header["x5c"] = json!([STANDARD.encode(b"another certificate")])),
        // What was signed is not what is claimed.
        expected(700_027, &|a| a.algorithm = Algorithm::RS256),
        expected(5_002_723, &|a| a.header = json!({ "alg": "PS256", "typ": "JWT" })),
        expected(5_002_738, &|a| a.header["alg"] = "RS512".into()),
        expected(5_002_738, &|a| a.header["alg"] = "none".into()),
        expected(50_027, &|a| a.header["crit"] = json!(["exp"])),
        expected(50_027, &|a| a.header["crit"] = json!([])),
    ] {
        assert_eq!(code(&provider, &assertion).await, expected, "{} {}", assertion.header, assertion.claims);
    }
    for garbage in ["e30", "e30.e30", "a.b.c", "e30.W10.AA"] {
        assert_eq!(refusal(ask(&provider, garbage).await).await.2, 50_027, "{garbage}");
    }
}

#[tokio::test]
async fn the_type_of_the_assertion_is_demanded() {
    let provider = Provider::new();
    let assertion = Assertion::new(&provider).sign(&provider);
    for kind in ["", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"] {
        let changes =
            [("client_secret", ""), ("client_assertion_type", kind), ("client_assertion", &assertion)];
        let answer = provider.token_request(&changes).send().await.unwrap();
        assert_eq!(refusal(answer).await.2, 900_144);
    }
}

#[tokio::test]
async fn an_assertion_may_come_again_and_its_id_not_with_another_one() {
    let provider = Provider::new();
    let assertion = Assertion::new(&provider);
    let first = assertion.sign(&provider);
    assert_eq!(ask(&provider, &first).await.status(), 200);
    assert_eq!(ask(&provider, &first).await.status(), 200);
    // A signature of PS256 is never the same twice.
    assert_eq!(code(&provider, &assertion).await, 50_027);
    provider.sts.set_clock(1000).unwrap();
    let mut later = assertion;
    later.claims["exp"] = (now() + 1600).into();
    assert_eq!(code(&provider, &later).await, 0, "what has ended is forgotten");
}

#[tokio::test]
async fn a_certificate_that_has_expired_or_is_not_valid_yet_is_refused() {
    let provider = Provider::new();
    for (years, reason) in [(11, "expired"), (-11, "not valid yet")] {
        provider.sts.set_clock(years * 365 * 86_400).unwrap();
        let answer = ask(&provider, &Assertion::new(&provider).sign(&provider)).await;
        assert_eq!(answer.status(), 401);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error_codes"], json!([700_027]));
        assert!(body["error_description"].as_str().unwrap().contains(reason), "{body}");
    }
}

#[tokio::test]
async fn a_client_has_one_credential() {
    let provider = Provider::new();
    let ready = provider.ready();
    let secret = ready.client_secret.as_str();
    let assertion = Assertion::new(&provider).sign(&provider);
    let asserted = [("client_assertion_type", TYPE), ("client_assertion", &*assertion)];
    let without_secret = [asserted[0], asserted[1], ("client_secret", "")];
    for request in [
        provider.token_request(&asserted),
        provider.token_request(&without_secret).basic_auth(&ready.client_id, Some(secret)),
        provider.token_request(&[]).basic_auth(&ready.client_id, Some(secret)),
    ] {
        let answer = request.send().await.unwrap();
        assert_eq!(refusal(answer).await, (400, "invalid_request".into(), 90_023));
    }
    assert_eq!(provider.token_request(&without_secret).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_certificate_of_ones_own_is_registered_by_its_file() {
    let provider = Provider::new();
    let other = Provider::new();
    let pem = std::fs::read_to_string(other.ready().certificate_file.as_ref().unwrap()).unwrap();
    replace(&provider.folder.path().join("mine.pem"), &pem);
    let provider = provider.edited(|file| file["clients"][0]["certificates"] = json!(["mine.pem"]));
    assert!(provider.ready().certificate_file.is_none() && provider.ready().thumbprint.is_none());
    let mut mine = Assertion::new(&other);
    mine.claims["aud"] = provider.token_url().into();
    mine.claims["iss"] = provider.ready().client_id.clone().into();
    mine.claims["sub"] = mine.claims["iss"].clone();
    assert_eq!(ask(&provider, &mine.sign(&other)).await.status(), 200);
}

#[tokio::test]
async fn a_federated_managed_identity_is_the_subject_of_its_token() {
    let provider = Provider::new();
    let answer = provider.token_request(&[("fmi_path", "some/path")]).send().await.unwrap();
    let body: Value = answer.json().await.unwrap();
    let claims = body["access_token"].as_str().unwrap().split('.').nth(1).unwrap();
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let subject = claims["sub"].as_str().unwrap();
    assert!(subject.ends_with(&format!("/{}/some/path", provider.ready().client_id)), "{subject}");
}
