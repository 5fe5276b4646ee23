//! `Debug` shows no token and no client secret, whatever holds them.

use std::fmt::Debug;
use std::sync::Arc;

use strongroom::{
    AccessToken, AccessTokenRequest, Applied, ClientCertificate, ClientCredential,
    ConfidentialClientApplication, Credential, CredentialKey, CredentialStore as _, CredentialType, Document,
    DocumentStore, Environments, Expectation, HttpRequest, HttpTransport, IdToken, KeyRing, KeySelector,
    Lookup, MemoryPersistence, MemoryStore, Persistence as _, Put, RefreshToken, SealedPersistence,
    SecretBytes, SecretString, TokenCache, block_on,
};

use crate::client_support::{Canned, TestClock, token_response};
use crate::schema_support::{app_token, change, id_token, refresh_token, user_token};
use crate::secrets::{SECRET, TOKEN, assert_clean};
use crate::source_support::Crate;

const AUTHORITY: &str = "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47";

#[test]
fn nothing_that_is_public_shows_a_secret() {
    let shown = |value: &dyn Debug| format!("{value:?}\n{value:#?}");
    let secret = || SecretString::from(TOKEN);
    let access = AccessToken { secret: secret(), ..app_token() };
    let refresh = RefreshToken { secret: secret(), ..refresh_token() };
    let id = IdToken { secret: secret(), ..id_token() };
    let put = change()
        .put(Credential::AccessToken(AccessToken { secret: secret(), ..user_token() }))
        .put(Credential::RefreshToken(refresh.clone()))
        .put_if(Credential::AccessToken(access.clone()), Expectation::Absent);
    let applied = Document::empty().apply(&put).unwrap();
    let Applied::Changed { bytes, .. } = &applied else { panic!("{applied:?}") };
    let bytes = bytes.expose().to_vec();
    let document = Document::parse(SecretBytes::from(bytes.clone())).unwrap();
    let kind = CredentialType::AccessToken;
    let raw_entries: Vec<_> = document.raw_entries(kind).collect();
    let persistence = MemoryPersistence::with_content(bytes.clone());
    let loaded = block_on(persistence.load()).unwrap();
    let memory = MemoryStore::new();
    block_on(memory.apply(&put)).unwrap();
    let key = CredentialKey::of_access_token(&access);
    let record = block_on(memory.get(&key)).unwrap().unwrap();
    let store = DocumentStore::new(MemoryPersistence::with_content(bytes.clone()));
    block_on(store.get(&key)).unwrap().unwrap();
    let cache = TokenCache::builder(DocumentStore::new(MemoryPersistence::with_content(bytes.clone())));
    let cache_builder = shown(&cache);
    let cache = cache.clock(TestClock::now()).build();
    let request = AccessTokenRequest::for_app("c", &Environments::of("h"), "r", "s".into());
    let lookup = Lookup::Hit(Arc::new(access.clone()));

    let credential = ClientCredential::from_secret(SECRET);
    let builder = ConfidentialClientApplication::builder("client", AUTHORITY, credential.clone())
        .transport(Canned::new(|_| Ok(token_response(TOKEN))))
        .token_cache(cache.clone());
    let application_builder = shown(&builder);
    let app = builder.build().unwrap();
    let (ask, silent) = (app.acquire_token_for_client("s"), app.acquire_token_silent("s"));
    let other = ConfidentialClientApplication::builder("client", AUTHORITY, credential.clone())
        .transport(Canned::new(|_| Ok(token_response(TOKEN))));
    let result = other.build().unwrap().acquire_token_for_client("s").blocking().unwrap();
    let form = format!("client_secret={SECRET}&token={TOKEN}");
    let mut request_out = HttpRequest::post_form("https://h/t", SecretBytes::from(form.clone().into_bytes()));
    request_out.headers.push(("authorization", format!("Bearer {TOKEN}")));
    let mut response = token_response(TOKEN);
    response.headers.push(("authorization".into(), format!("Bearer {TOKEN}")));

    let ring = KeyRing::generate().unwrap();
    let key = String::from_utf8(ring.expose().expose()[17..60].to_vec()).unwrap();
    let source = KeySelector::Environment.open().unwrap();
    let sealed = SealedPersistence::new(MemoryPersistence::with_content(bytes.clone()), source);

    let shown = [
        ("KeyRing", shown(&ring)),
        ("SealedPersistence", shown(&sealed)),
        ("SecretString", shown(&secret())),
        ("SecretBytes", shown(&SecretBytes::from(form.into_bytes()))),
        ("AccessToken", shown(&access)),
        ("RefreshToken", shown(&refresh)),
        ("IdToken", shown(&id)),
        ("Credential", shown(&Credential::IdToken(id.clone()))),
        ("Change", shown(&put)),
        ("Put", shown(&Put { credential: Credential::AccessToken(access), expectation: Expectation::Any })),
        ("Applied", shown(&applied)),
        ("Document", shown(&document)),
        ("Entry", shown(&document.entries().collect::<Vec<_>>())),
        ("RawEntry", shown(&raw_entries)),
        ("Change", shown(&change().put_entry(kind, "key", raw_entries[0].expose().into()).unwrap())),
        ("Change", shown(&change().instead_of(document.bytes().share(), &document))),
        ("Loaded", shown(&loaded)),
        ("MemoryPersistence", shown(&persistence)),
        ("MemoryStore", shown(&memory)),
        ("Record", shown(&record)),
        ("DocumentStore", shown(&store)),
        ("DocumentStoreBuilder", shown(&DocumentStore::builder(persistence))),
        ("TokenCache", shown(&cache)),
        ("TokenCacheBuilder", cache_builder),
        ("AccessTokenRequest", shown(&request)),
        ("Lookup", shown(&lookup)),
        ("ClientCredential", shown(&credential)),
        ("ClientCredential", shown(&ClientCredential::from_assertion(TOKEN))),
        ("ClientCertificate", shown(&ClientCertificate::from_pem(SECRET).passphrase(TOKEN))),
        (
            "ClientCertificate",
            shown(&ClientCertificate::from_pfx(SECRET.as_bytes().to_vec(), Some(TOKEN.into()))),
        ),
        ("ConfidentialClientApplication", shown(&app)),
        ("ConfidentialClientApplicationBuilder", application_builder),
        ("AcquireTokenForClient", shown(&ask)),
        ("AcquireTokenSilent", shown(&silent)),
        ("AuthenticationResult", shown(&result)),
        ("HttpRequest", shown(&request_out)),
        ("HttpResponse", shown(&response)),
        ("HttpTransport", shown(&HttpTransport::new())),
    ];
    for (name, text) in &shown {
        assert!(!text.is_empty(), "{name}");
        assert_clean(text, &[SECRET, TOKEN, &key]);
    }
    // Whoever adds a public type says here whether a secret can be in it.
    let seen: Vec<&str> =
        shown.iter().map(|(name, _)| *name).chain(WITHOUT_SECRETS.iter().copied()).collect();
    let public = Crate::read().re_exports();
    let missing: Vec<_> = public.iter().filter(|name| !seen.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "can there be a secret in {missing:?}?");
    assert!(public.len() > 60, "only {} names are public", public.len());
}

/// What is public and cannot hold a secret; errors are looked at above.
const WITHOUT_SECRETS: &[&str] = &[
    "Account",
    "AppMetadata",
    "AssertionContext",
    "AcquireTokenFuture",
    "FilePersistenceWithDataProtection",
    "KeychainPersistence",
    "KeychainPersistenceBuilder",
    "SecretServicePersistence",
    "SecretServicePersistenceBuilder",
    "BoxFuture",
    "Lead",
    "fork_for_tests",
    "LeadGuard",
    "Renewal",
    "Clock",
    "Concern",
    "CredentialKey",
    "CredentialStore",
    "CredentialType",
    "CrossPlatLock",
    "Dialect",
    "DialectError",
    "DocumentError",
    "EntryProblem",
    "Environments",
    "Error",
    "ErrorKind",
    "Expectation",
    "ExtendedKey",
    "Fence",
    "FilePersistence",
    "FilePersistenceBuilder",
    "Holder",
    "KeyId",
    "KeySelector",
    "KeySource",
    "KeySourceKind",
    "SealError",
    "SealedWith",
    "Harm",
    "HttpMethod",
    "Location",
    "MissReason",
    "Outcome",
    "Partition",
    "Persistence",
    "PersistenceError",
    "Protection",
    "Purge",
    "RecordRevision",
    "Remembered",
    "Revision",
    "Saved",
    "Scopes",
    "ServiceError",
    "ServiceErrorClass",
    "Stats",
    "Step",
    "StoreInfo",
    "SystemClock",
    "TokenScheme",
    "TokenSource",
    "Transport",
    "TransportError",
    "TransportFailure",
    "UnixSeconds",
    "block_on",
];
