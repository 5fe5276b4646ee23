//! Entra-shaped authorities: `https://HOST/TENANT`.

use std::borrow::Cow;

use url::Url;

use crate::error::{Diagnose, ErrorKind};
use crate::schema::{Environments, cloud_of};

/// Why an authority cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AuthorityError {
    #[error("the authority {0:?} is not an absolute https URL with a tenant")]
    Malformed(String),
    #[error("the authority {0:?} is not https")]
    NotHttps(String),
    #[error("the authority {0:?} contains a user name or password")]
    Credentials(String),
    #[error("the authority {0:?} has no tenant")]
    NoTenant(String),
    #[error("an application's own token needs a tenant, and {0:?} is none")]
    NotATenant(String),
    #[error("{kind} authorities are not supported yet: {authority:?}")]
    Unsupported { kind: &'static str, authority: String },
    #[error("the host {host:?} is not known to the cloud")]
    UnknownHost { host: String },
    #[error("the discovery document of {authority:?} names an endpoint elsewhere: {endpoint:?}")]
    ForeignEndpoint { authority: String, endpoint: String },
    #[error("the discovery document of {authority:?} names another issuer: {issuer:?}")]
    ForeignIssuer { authority: String, issuer: String },
    #[error("the region is not the name of one")]
    Region,
    #[error("the answer of {url:?} is not a discovery document")]
    NotADiscoveryDocument { url: String },
}

impl Diagnose for AuthorityError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotADiscoveryDocument { .. } => ErrorKind::Network,
            _ => ErrorKind::Configuration,
        }
    }

    fn code(&self) -> &str {
        match self {
            Self::Malformed(_) | Self::Credentials(_) => "invalid_authority",
            Self::NotHttps(_) => "authority_not_https",
            Self::NoTenant(_) | Self::NotATenant(_) => "authority_without_tenant",
            Self::Unsupported { .. } => "unsupported_authority",
            Self::UnknownHost { .. } => "invalid_instance",
            Self::ForeignEndpoint { .. } | Self::ForeignIssuer { .. } => "untrusted_discovery",
            Self::Region => "invalid_region",
            Self::NotADiscoveryDocument { .. } => "unexpected_answer",
        }
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Malformed(_) | Self::NoTenant(_) | Self::Credentials(_) => {
                "write it as https://login.microsoftonline.com/TENANT, with the tenant's id or a verified domain".into()
            }
            Self::NotHttps(_) => "use https: a client secret must not travel in the clear".into(),
            Self::NotATenant(_) => "use the tenant's id or a verified domain instead of a shared endpoint".into(),
            Self::Unsupported { .. } => "use an Entra authority, https://HOST/TENANT".into(),
            Self::UnknownHost { .. } => {
                "check the authority; if you trust the host, list it in known_authorities".into()
            }
            Self::ForeignEndpoint { .. } | Self::ForeignIssuer { .. } => {
                "check the authority and who answers under its name; nothing was sent there".into()
            }
            Self::Region => "write it as Azure does: westeurope".into(),
            Self::NotADiscoveryDocument { .. } => "check the authority, and proxies on the way".into(),
        })
    }
}

/// `https://HOST[:PORT]/TENANT`, in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Host in lower case, with the port if it is not 443.
    host_and_port: String,
    host: String,
    tenant: String,
}

impl Authority {
    /// Reads an authority. More path, a query and a fragment are dropped, as every MSAL does.
    pub(crate) fn parse(text: &str) -> Result<Self, AuthorityError> {
        let malformed = || AuthorityError::Malformed(printable(text));
        let url = Url::parse(text.trim()).map_err(|_| malformed())?;
        if url.scheme() != "https" {
            return Err(AuthorityError::NotHttps(printable(text)));
        }
        if !url.username().is_empty() || url.password().is_some() {
            // Not even repeated in the message.
            return Err(AuthorityError::Credentials(format!(
                "https://{}/…",
                url.host_str().unwrap_or_default()
            )));
        }
        let host = url.host_str().ok_or_else(malformed)?.to_ascii_lowercase();
        let mut segments = url.path_segments().ok_or_else(malformed)?.filter(|segment| !segment.is_empty());
        let unsupported = |kind| AuthorityError::Unsupported { kind, authority: printable(text) };
        let below = |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        if below("ciamlogin.com") {
            return Err(unsupported("External ID (CIAM)"));
        }
        if ["b2clogin.com", "b2clogin.cn", "b2clogin.us", "b2clogin.de"].into_iter().any(below) {
            return Err(unsupported("B2C"));
        }
        let tenant = segments.next().ok_or_else(|| AuthorityError::NoTenant(printable(text)))?.to_lowercase();
        // What is neither an id nor a domain would stand in URLs and keys as it is.
        if !tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
            return Err(malformed());
        }
        let policy = segments.next().is_some_and(|policy| policy.to_ascii_lowercase().starts_with("b2c_"));
        match tenant.as_str() {
            "adfs" => return Err(unsupported("AD FS")),
            "tfp" => return Err(unsupported("B2C")),
            "dstsv2" => return Err(unsupported("dSTS")),
            _ if policy => return Err(unsupported("B2C")),
            _ => {}
        }
        let host_and_port = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        Ok(Self { host_and_port, host, tenant })
    }

    /// The same authority for another tenant.
    pub(crate) fn with_tenant(&self, tenant: &str) -> Result<Self, AuthorityError> {
        // Only the tenant may differ: no further path, no query, no way up.
        if tenant.contains(['/', '\\', '?', '#']) {
            return Err(AuthorityError::Malformed(printable(&format!("{}{tenant}", self.url()))));
        }
        Self::parse(&format!("https://{}/{tenant}", self.host_and_port))
    }

    /// An error if the tenant is one of the endpoints that many tenants share.
    pub(crate) fn require_tenant(&self) -> Result<(), AuthorityError> {
        match self.tenant.as_str() {
            "common" | "organizations" | "consumers" | "9188040d-6c67-4c5b-b112-36a304b66dad" => {
                Err(AuthorityError::NotATenant(self.tenant.clone()))
            }
            _ => Ok(()),
        }
    }

    /// `https://HOST[:PORT]/TENANT/`.
    pub(crate) fn url(&self) -> String {
        format!("https://{}/{}/", self.host_and_port, self.tenant)
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn host_and_port(&self) -> &str {
        &self.host_and_port
    }

    /// The tenant as it is configured, by its id or by a domain.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The tenant's id, if the authority is configured with it and not with a domain.
    pub(crate) fn tenant_id(&self) -> Option<&str> {
        // Not in one of the other forms of a GUID: stored tokens have the one with hyphens.
        let is_id = self.tenant.len() == 36 && uuid::Uuid::try_parse(&self.tenant).is_ok();
        is_id.then_some(self.tenant.as_str())
    }

    /// Whether the host belongs to one of Microsoft's clouds and has no port of its own.
    pub(crate) fn is_built_in(&self) -> bool {
        self.host == self.host_and_port && cloud_of(&self.host).is_some()
    }

    pub(crate) fn environments(&self) -> Environments {
        Environments::of(&self.host)
    }

    pub(crate) fn endpoint(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// Whether an endpoint that a discovery document names may be talked to: https, on this authority's own host
    /// and port, or on a host of the same built-in cloud.
    pub(crate) fn accepts_endpoint(&self, endpoint: &str) -> bool {
        let Ok(url) = Url::parse(endpoint) else { return false };
        let plain = url.scheme() == "https" && url.username().is_empty() && url.password().is_none();
        let Some(host) = url.host_str() else { return false };
        let same = match url.port() {
            Some(port) => format!("{host}:{port}").eq_ignore_ascii_case(&self.host_and_port),
            None => host.eq_ignore_ascii_case(&self.host_and_port),
        };
        let same_cloud = self.is_built_in() && url.port().is_none() && self.environments().contains(host);
        plain && (same || same_cloud)
    }

    /// Whether a discovery document with this `issuer` can be this authority's (any of the rules of the MSALs):
    /// the same host, a host of Microsoft's clouds, such a host or this one behind a region's label.
    pub(crate) fn accepts_issuer(&self, issuer: &str) -> bool {
        let Ok(url) = Url::parse(issuer) else { return false };
        let Some(host) = url.host_str().filter(|_| url.scheme() == "https") else { return false };
        let same_port = url.port().is_none_or(|port| self.host_and_port.ends_with(&format!(":{port}")));
        let own = host.eq_ignore_ascii_case(&self.host) && same_port;
        let regional = host.split_once('.').is_some_and(|(label, rest)| {
            !label.is_empty() && (rest.eq_ignore_ascii_case(&self.host) || cloud_of(rest).is_some())
        });
        own || cloud_of(host).is_some() || regional
    }
}

/// A text from a configuration, cut to what belongs into a message: no query, and nothing of a user name and
/// password.
fn printable(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) =
        text.split_once("//").map_or(("", text), |(scheme, rest)| (&text[..scheme.len() + 2], rest));
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    format!("{scheme}{rest}").chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_have_one_form() {
        for (text, url) in [
            ("https://Login.MicrosoftOnline.com/TENANT", "https://login.microsoftonline.com/tenant/"),
            ("https://h:8443/t/v2.0/?a=b#c", "https://h:8443/t/"),
            ("https://h:443/t", "https://h/t/"),
            (" https://h//t// ", "https://h/t/"),
        ] {
            assert_eq!(Authority::parse(text).unwrap().url(), url, "{text}");
        }
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        for (text, code) in [
            ("http://login.microsoftonline.com/t", "authority_not_https"),
            ("https://login.microsoftonline.com", "authority_without_tenant"),
            ("https://login.microsoftonline.com/", "authority_without_tenant"),
            ("login.microsoftonline.com/t", "invalid_authority"),
            ("", "invalid_authority"),
            ("https://user:hunter2@h/t", "invalid_authority"),
            ("http://user:hunter2@h/t", "authority_not_https"),
            ("user:hunter2@h/t", "authority_not_https"),
            ("//user:hunter2@h/t", "invalid_authority"),
            ("https://user:hunter2@/t?secret=hunter2", "invalid_authority"),
            ("https://h/?secret=hunter2", "authority_without_tenant"),
            ("https://h/{72f988bf-86f1-41af-91ab-2d7cd011db47}", "invalid_authority"),
            ("https://h/a%2fb", "invalid_authority"),
            ("https://h/t t", "invalid_authority"),
            ("https://h/adfs", "unsupported_authority"),
            ("https://c.b2clogin.com/t/p", "unsupported_authority"),
            ("https://h/t/B2C_1_signin", "unsupported_authority"),
            ("https://c.ciamlogin.com/", "unsupported_authority"),
        ] {
            let error = Authority::parse(text).unwrap_err();
            assert_eq!(error.code(), code, "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn shared_endpoints_are_no_tenants() {
        for tenant in ["common", "Organizations", "consumers", "9188040d-6c67-4c5b-b112-36a304b66dad"] {
            assert!(Authority::parse(&format!("https://h/{tenant}")).unwrap().require_tenant().is_err());
        }
    }

    #[test]
    fn a_tenant_is_no_way_to_another_endpoint() {
        let own = Authority::parse("https://h/t").unwrap();
        assert_eq!(own.with_tenant("Other.Example").unwrap().url(), "https://h/other.example/");
        for tenant in ["", "..", "a/b", "../x", "x/../common", "a?b", "a#b", "a\\b", "%2e%2e", "a b", "@evil"]
        {
            assert!(own.with_tenant(tenant).is_err(), "{tenant:?}");
        }
    }

    #[test]
    fn a_tenant_id_has_one_form() {
        let id = |tenant: &str| {
            Authority::parse(&format!("https://h/{tenant}")).unwrap().tenant_id().map(str::to_owned)
        };
        let guid = "72f988bf-86f1-41af-91ab-2d7cd011db47";
        assert_eq!(id(guid).as_deref(), Some(guid));
        assert_eq!(id(&guid.to_uppercase()).as_deref(), Some(guid));
        assert_eq!(id(&guid.replace('-', "")), None);
        assert_eq!(id("contoso.example"), None);
    }

    #[test]
    fn endpoints_elsewhere_are_not_accepted() {
        let own = Authority::parse("https://h:8443/t").unwrap();
        assert!(own.accepts_endpoint("https://H:8443/x/token"));
        for foreign in [
            "https://h/t",
            "https://h:8444/t",
            "http://h:8443/t",
            "https://evil/t",
            "https://u@h:8443/t",
            "https://h.evil:8443/t",
            "https://login.microsoftonline.com/t",
            "nonsense",
        ] {
            assert!(!own.accepts_endpoint(foreign), "{foreign}");
        }
        let public = Authority::parse("https://login.windows.net/t").unwrap();
        assert!(public.accepts_endpoint("https://login.microsoftonline.com/t/oauth2/v2.0/token"));
        assert!(!public.accepts_endpoint("https://login.microsoftonline.us/t/oauth2/v2.0/token"));
    }

    #[test]
    fn issuers_of_others_are_not_accepted() {
        let own = Authority::parse("https://h.example:8443/t").unwrap();
        for good in [
            "https://h.example:8443/t/v2.0",
            "https://H.example/t",
            "https://sts.windows.net/t/",
            "https://westeurope.login.microsoft.com/t",
            "https://eu.h.example/t",
        ] {
            assert!(own.accepts_issuer(good), "{good}");
        }
        for bad in [
            "http://h.example:8443/t",
            "https://evil/t",
            "https://h.example.evil/t",
            "https://h.example:1/t",
            "",
        ] {
            assert!(!own.accepts_issuer(bad), "{bad}");
        }
    }
}
