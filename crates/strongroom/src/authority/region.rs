//! Regional endpoints: the same authority nearer to the application.

use url::Url;

use super::entra::AuthorityError;
use crate::schema::cloud_of;

/// The public cloud has its regions below this host, whichever of its names it is addressed by.
const PUBLIC_CLOUD: &str = "login.microsoft.com";

/// A region of Azure: `westeurope`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Region(String);

impl Region {
    /// Reads a region's name: one label of a host name, in lower case.
    pub(crate) fn parse(name: &str) -> Result<Self, AuthorityError> {
        let is_label = (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if is_label { Ok(Self(name.to_owned())) } else { Err(AuthorityError::Region) }
    }

    /// Where the region answers for the token endpoint of a cloud.
    pub(crate) fn endpoint(&self, central: &str) -> Option<String> {
        let mut url = Url::parse(central).ok()?;
        let host = url.host_str()?;
        let is_public = cloud_of(host).is_some_and(|cloud| cloud.aliases.contains(&PUBLIC_CLOUD));
        let host = format!("{}.{}", self.0, if is_public { PUBLIC_CLOUD } else { host });
        url.set_host(Some(&host)).ok()?;
        Some(url.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_stands_before_the_host_of_its_cloud() {
        let region = Region::parse("westeurope").unwrap();
        for (central, regional) in [
            (
                "https://login.microsoftonline.com/t/oauth2/v2.0/token",
                "https://westeurope.login.microsoft.com/t/oauth2/v2.0/token",
            ),
            ("https://sts.windows.net/t/token", "https://westeurope.login.microsoft.com/t/token"),
            (
                "https://login.microsoftonline.us/t/token",
                "https://westeurope.login.microsoftonline.us/t/token",
            ),
            ("https://h.example:8443/t/token", "https://westeurope.h.example:8443/t/token"),
        ] {
            assert_eq!(region.endpoint(central).as_deref(), Some(regional));
        }
    }

    #[test]
    fn a_region_is_no_way_to_another_host() {
        for name in
            ["", "evil.example/", "a.b", "West", "-a", "a-", "a b", "ü", "a/b", "a@b", &"a".repeat(64)]
        {
            assert!(Region::parse(name).is_err(), "{name:?}");
        }
    }
}
