//! Numbers of things in words.

use std::collections::BTreeMap;

use strongroom::CredentialType;

/// `2 access tokens, 1 account`; empty where there is nothing.
pub(crate) fn credentials(counts: &BTreeMap<CredentialType, usize>, unreadable: usize) -> String {
    let named = counts.iter().map(|(kind, count)| (*count, noun(*kind)));
    let named = named.chain([(unreadable, ("unreadable entry", "unreadable entries"))]);
    let parts: Vec<String> = named
        .filter(|(count, _)| *count > 0)
        .map(|(count, (one, many))| format!("{count} {}", if count == 1 { one } else { many }))
        .collect();
    parts.join(", ")
}

fn noun(kind: CredentialType) -> (&'static str, &'static str) {
    match kind {
        CredentialType::AccessToken => ("access token", "access tokens"),
        CredentialType::RefreshToken => ("refresh token", "refresh tokens"),
        CredentialType::IdToken => ("ID token", "ID tokens"),
        CredentialType::Account => ("account", "accounts"),
        CredentialType::AppMetadata => ("application's metadata", "applications' metadata"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_named() {
        assert_eq!(credentials(&BTreeMap::new(), 0), "");
        let counts = BTreeMap::from([(CredentialType::AccessToken, 2), (CredentialType::Account, 1)]);
        assert_eq!(credentials(&counts, 1), "2 access tokens, 1 account, 1 unreadable entry");
        assert_eq!(credentials(&BTreeMap::from([(CredentialType::IdToken, 0)]), 2), "2 unreadable entries");
    }
}
