//! Extended tokens: those that extra request parameters (an FMI path, claims of the application) set apart from
//! a plain token for the same client, realm and scopes.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// What sets an extended token apart: a hash of the extra request parameters, in lower case.
///
/// The languages compute it by different recipes. Where an entry stores the parameters themselves the hash is
/// recomputed; where it stores only a hash, a request compares its own under each recipe.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExtendedKey(String);

impl ExtendedKey {
    /// The key of these parameters as MSAL Python, Go and Java (1.25.1 and later) compute it: each name and value
    /// preceded by its length in UTF-8 bytes and a colon, in the order of the names.
    #[must_use]
    pub fn of(parameters: &BTreeMap<String, String>) -> Self {
        let mut text = String::new();
        for (name, value) in parameters {
            text.push_str(&format!("{}:{name}{}:{value}", name.len(), value.len()));
        }
        Self::hash(&text)
    }

    /// The key under each recipe that is in use, [`of`](Self::of)'s first: any of them may be stored.
    #[must_use]
    pub fn all_recipes(parameters: &BTreeMap<String, String>) -> [Self; 3] {
        let concatenated: String =
            parameters.iter().flat_map(|(name, value)| [name.as_str(), value]).collect();
        let json = serde_json::to_string(parameters).unwrap_or_default();
        [Self::of(parameters), Self::hash(&concatenated), Self::hash(&json)]
    }

    /// A hash as it is stored.
    pub(crate) fn stored(hash: &str) -> Self {
        Self(hash.to_lowercase())
    }

    /// For an entry that is marked as extended but does not say how: it answers nothing.
    pub(crate) fn unknown() -> Self {
        Self(String::new())
    }

    /// The hash in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn hash(text: &str) -> Self {
        Self(BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, text.as_bytes())).to_lowercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn hashes_are_those_of_msal_python() {
        for (pairs, hash) in [
            (&[("fmi_path", "some/path")][..], "szxewqr_oxftvj7t5sfiqin1oqcuxxiaebvv50zvgau"),
            (&[("fmi_path", "ü/x")], "wzftwu-3e_wq93syzjdmlrm8n5erbjywyqsd8xbznv4"),
            (&[("client_claims", r#"{"a":1}"#)], "xdmjlz0zwrstgjaehevog4ojgscbobntwudxxaie1ui"),
            (
                &[("fmi_path", "p"), ("client_claims", r#"{"a":1}"#)],
                "jxzeom6jvkm4uppbbtulqfaa5ruo-mrmb8d62gprs54",
            ),
        ] {
            assert_eq!(ExtendedKey::of(&parameters(pairs)).as_str(), hash, "{pairs:?}");
        }
    }

    #[test]
    fn the_other_languages_recipes_are_known() {
        let [_, concatenated, json] = ExtendedKey::all_recipes(&parameters(&[("fmi_path", "some/path")]));
        assert_eq!(concatenated.as_str(), "lx1z9ssmq_nrctedbfmmajjm1v3zgiw9knfjw9h6jh8");
        assert_eq!(json.as_str(), "7f5unhzrt3y60e4clhx8oakvmvc755ebgt_yvyhqqsm");
    }
}
