//! Environments: the hosts of identity providers, and which of them are the same.

/// A cloud whose hosts are built in, so that no network is needed to know them.
#[derive(Debug)]
pub(crate) struct Cloud {
    /// The host to talk to (`preferred_network`).
    pub(crate) network: &'static str,
    /// The host that Node, Java and .NET store tokens under (`preferred_cache`).
    pub(crate) cache: &'static str,
    pub(crate) aliases: &'static [&'static str],
}

const CLOUDS: &[Cloud] = &[
    Cloud {
        network: "login.microsoftonline.com",
        cache: "login.windows.net",
        aliases: &[
            "login.microsoftonline.com",
            "login.windows.net",
            "login.microsoft.com",
            "sts.windows.net",
        ],
    },
    Cloud {
        network: "login.partner.microsoftonline.cn",
        cache: "login.partner.microsoftonline.cn",
        aliases: &["login.partner.microsoftonline.cn", "login.chinacloudapi.cn"],
    },
    Cloud {
        network: "login.microsoftonline.us",
        cache: "login.microsoftonline.us",
        aliases: &["login.microsoftonline.us", "login.usgovcloudapi.net"],
    },
    Cloud {
        network: "login-us.microsoftonline.com",
        cache: "login-us.microsoftonline.com",
        aliases: &["login-us.microsoftonline.com"],
    },
    Cloud {
        network: "login.microsoftonline.de",
        cache: "login.microsoftonline.de",
        aliases: &["login.microsoftonline.de"],
    },
    Cloud {
        network: "login.sovcloud-identity.fr",
        cache: "login.sovcloud-identity.fr",
        aliases: &["login.sovcloud-identity.fr"],
    },
    Cloud {
        network: "login.sovcloud-identity.de",
        cache: "login.sovcloud-identity.de",
        aliases: &["login.sovcloud-identity.de"],
    },
    Cloud {
        network: "login.sovcloud-identity.sg",
        cache: "login.sovcloud-identity.sg",
        aliases: &["login.sovcloud-identity.sg"],
    },
];

/// The built-in cloud that `host` belongs to. Case does not matter.
pub(crate) fn cloud_of(host: &str) -> Option<&'static Cloud> {
    CLOUDS.iter().find(|cloud| cloud.aliases.iter().any(|alias| alias.eq_ignore_ascii_case(host)))
}

/// One name for all hosts that are the same: the network host of a built-in cloud, else the host in lower case. Without
/// a port: MSAL Node stores tokens under it, Python leaves it out.
pub(crate) fn canonical(host: &str) -> String {
    cloud_of(host).map_or_else(|| without_port(host).to_ascii_lowercase(), |cloud| cloud.network.to_owned())
}

/// A built-in cloud has no ports: what claims to be one is none.
fn without_port(host: &str) -> &str {
    match host.split_once(':') {
        Some((name, port))
            if !port.is_empty()
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && cloud_of(name).is_none() =>
        {
            name
        }
        _ => host,
    }
}

/// The port that `host` names, if it names one.
fn port_of(host: &str) -> Option<&str> {
    host.get(without_port(host).len() + 1..)
}

/// The hosts under which an authority's credentials may be stored: its own and its aliases.
///
/// The aliases of Microsoft's clouds are built in; others come from instance discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environments {
    own: String,
    preferred_cache: Option<String>,
    canonical: Vec<String>,
}

impl Environments {
    /// The environments of the authority at `host` (no scheme, no port).
    #[must_use]
    pub fn of(host: &str) -> Self {
        Self::with_aliases(host, None, std::iter::empty::<&str>())
    }

    /// The same with what instance discovery said: `preferred_cache` and further aliases.
    pub fn with_aliases(
        host: &str,
        preferred_cache: Option<&str>,
        aliases: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Self {
        let mut names = vec![canonical(host)];
        for alias in aliases {
            let name = canonical(alias.as_ref());
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self {
            own: host.to_ascii_lowercase(),
            preferred_cache: cloud_of(host)
                .map(|cloud| cloud.cache.to_owned())
                .or_else(|| preferred_cache.map(str::to_ascii_lowercase)),
            canonical: names,
        }
    }

    /// The host that the authority is configured with, in lower case: what Python and Go store under.
    #[must_use]
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The host that Node, Java and .NET store under.
    #[must_use]
    pub fn preferred_cache(&self) -> &str {
        self.preferred_cache.as_deref().unwrap_or(&self.own)
    }

    /// The host for an entry that Node is to find and that MSAL Python must not take for its own, which lies under
    /// `python`, and maybe under the hosts `taken`: the one that Node itself would take if it can be, else another one of
    /// the same. `None`: there is no other.
    pub(crate) fn of_twin(environments: Option<&Self>, python: &str, taken: &[String]) -> Option<String> {
        let cloud = cloud_of(python);
        let preferred = environments.map(Self::preferred_cache).or(cloud.map(|cloud| cloud.cache));
        // The last of a cloud's hosts is the one that the fewest are configured with.
        let aliases = cloud.into_iter().flat_map(|cloud| cloud.aliases.iter().rev().copied());
        let discovered = environments.into_iter().flat_map(|hosts| &hosts.canonical).map(String::as_str);
        let mut hosts = preferred.into_iter().chain(aliases).chain(discovered);
        let is_free = |host: &&str| {
            !host.eq_ignore_ascii_case(python) && !taken.iter().any(|taken| taken.eq_ignore_ascii_case(host))
        };
        hosts.find(is_free).map(str::to_owned)
    }

    /// One name for each group of equal hosts, the own one first.
    pub(crate) fn canonical(&self) -> &[String] {
        &self.canonical
    }

    /// Whether a token under `environment`, which is [contained](Self::contains), may be served: not if both name a port,
    /// and not the same.
    pub(crate) fn admits(&self, environment: &str) -> bool {
        match (port_of(environment), port_of(self.preferred_cache())) {
            (Some(stored), Some(own)) => stored == own,
            _ => true,
        }
    }

    /// Whether credentials stored under `environment` are this authority's.
    #[must_use]
    pub fn contains(&self, environment: &str) -> bool {
        let name = canonical(environment);
        self.canonical.contains(&name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_of_a_cloud_are_equal_and_other_hosts_are_not() {
        let public = Environments::of("login.microsoftonline.com");
        for alias in
            ["login.windows.net", "STS.windows.net", "login.microsoft.com", "login.microsoftonline.com"]
        {
            assert!(public.contains(alias), "{alias}");
        }
        assert!(!public.contains("login.microsoftonline.us"));
        assert_eq!(public.preferred_cache(), "login.windows.net");
        assert_eq!(Environments::of("Example.com").preferred_cache(), "example.com");
    }

    #[test]
    fn a_port_tells_no_hosts_apart_but_a_cloud_has_none() {
        let own = Environments::with_aliases("sts.example", Some("sts.example:8443"), ["sts.example:8443"]);
        assert!(
            own.contains("STS.example:8443") && own.contains("sts.example") && own.contains("sts.example:1")
        );
        assert_eq!(own.canonical(), ["sts.example"]);
        assert!(
            !own.contains("sts.example:")
                && !own.contains("sts.example:x")
                && !own.contains("sts.example:1:2")
        );
        assert!(!Environments::of("login.windows.net").contains("login.windows.net:443"));
    }

    #[test]
    fn a_token_of_another_port_is_not_served() {
        let own = Environments::with_aliases("sts.example", Some("sts.example:8443"), [""; 0]);
        assert!(own.admits("sts.example") && own.admits("STS.example:8443"));
        assert!(!own.admits("sts.example:9443"));
        // MSAL Python names hosts without their ports.
        assert!(Environments::of("sts.example").admits("sts.example:9443"));
    }

    #[test]
    fn a_twin_lies_under_another_host_where_there_is_one() {
        let of = |host: &str| Environments::of_twin(None, host, &[]);
        assert_eq!(of("login.microsoftonline.com").as_deref(), Some("login.windows.net"));
        assert_eq!(of("login.windows.net").as_deref(), Some("sts.windows.net"));
        assert_eq!(of("login.microsoftonline.us").as_deref(), Some("login.usgovcloudapi.net"));
        assert_eq!(of("login.partner.microsoftonline.cn").as_deref(), Some("login.chinacloudapi.cn"));
        assert_eq!(of("login.microsoftonline.de"), None);
        assert_eq!(of("adfs.example"), None);
        let own = Environments::with_aliases("a.example", Some("a.example"), ["a.example", "b.example"]);
        assert_eq!(Environments::of_twin(Some(&own), "a.example", &[]).as_deref(), Some("b.example"));
        let port = Environments::with_aliases("a.example", Some("a.example:1"), [""; 0]);
        assert_eq!(Environments::of_twin(Some(&port), "a.example", &[]).as_deref(), Some("a.example:1"));
        let taken = Environments::of_twin(None, "login.microsoftonline.com", &["LOGIN.windows.net".into()]);
        assert_eq!(taken.as_deref(), Some("sts.windows.net"));
    }

    #[test]
    fn discovered_aliases_count() {
        let own = Environments::with_aliases("a.example", Some("b.example"), ["a.example", "b.example"]);
        assert!(own.contains("B.example") && own.contains("a.example") && !own.contains("c.example"));
        assert_eq!(own.preferred_cache(), "b.example");
    }
}
