//! Messages out: the token request.

use url::form_urlencoded;

use super::credential::Proof;
use super::transport::HttpRequest;
use crate::SecretBytes;
use crate::schema::Scopes;

/// Who is asking, as the provider's logs are to show it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Application {
    pub(crate) name: Option<String>,
    pub(crate) version: Option<String>,
}

/// Why a token is requested although there is a cache (the telemetry of MSAL).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefreshReason {
    ForcedOrClaims = 1,
    NoToken = 2,
    Expired = 3,
    Refresh = 4,
}

/// A request for an application's own token (RFC 6749 §4.4).
#[derive(Debug)]
pub(crate) struct TokenRequest<'a> {
    pub(crate) token_endpoint: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) proof: &'a Proof,
    pub(crate) scopes: &'a Scopes,
    pub(crate) claims: Option<&'a str>,
    pub(crate) fmi_path: Option<&'a str>,
    pub(crate) reason: RefreshReason,
}

impl TokenRequest<'_> {
    /// The HTTP request. Parameters that are empty are not sent.
    pub(crate) fn to_http(&self) -> HttpRequest {
        let mut form = Form::default();
        form.add("client_id", self.client_id);
        self.proof.fill(&mut form);
        form.add("grant_type", "client_credentials");
        form.add("scope", &self.scopes.to_string());
        if let Some(claims) = self.claims {
            form.add("claims", claims);
        }
        if let Some(path) = self.fmi_path {
            form.add("fmi_path", path);
        }
        let mut request = HttpRequest::post_form(self.token_endpoint, form.0);
        // Schema 5 of MSAL's server telemetry: API 1004 is the client credentials flow.
        request
            .headers
            .push(("x-client-current-telemetry", format!("5|1004,{},,,|,,,,,", self.reason as u8)));
        request
    }
}

impl Application {
    /// The headers that every request to the provider carries.
    pub(crate) fn headers(&self, correlation_id: &str) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("client-request-id", correlation_id.to_owned()),
            ("return-client-request-id", "true".to_owned()),
            ("x-client-sku", "Strongroom".to_owned()),
            ("x-client-ver", env!("CARGO_PKG_VERSION").to_owned()),
            ("x-client-os", std::env::consts::OS.to_owned()),
            ("x-client-cpu", std::env::consts::ARCH.to_owned()),
            ("x-ms-lib-capability", "retry-after, h429".to_owned()),
        ];
        headers.extend(self.name.clone().map(|name| ("x-app-name", name)));
        headers.extend(self.version.clone().map(|version| ("x-app-ver", version)));
        headers
    }
}

/// A form body that may hold secrets.
#[derive(Default)]
pub(super) struct Form(SecretBytes);

impl Form {
    pub(super) fn add(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        if !self.0.is_empty() {
            self.0.extend(b"&");
        }
        // Piece by piece into memory that is wiped, instead of through a serializer's own buffer.
        for part in form_urlencoded::byte_serialize(name.as_bytes()) {
            self.0.extend(part.as_bytes());
        }
        self.0.extend(b"=");
        for part in form_urlencoded::byte_serialize(value.as_bytes()) {
            self.0.extend(part.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded_and_leaves_out_what_is_empty() {
        let mut form = Form::default();
        form.add("a", "x y&z=ü");
        form.add("b", "");
        form.add("c", "~*-._");
        assert_eq!(form.0.expose(), b"a=x+y%26z%3D%C3%BC&c=%7E*-._");
    }
}
