//! Targets: the scopes of a token, an unordered set without regard to case.

use std::fmt;

/// A set of OAuth scopes.
///
/// Sorted by code point without duplicates, in the case they were given in; compared without regard to case.
///
/// ```
/// use strongroom::Scopes;
///
/// let scopes = Scopes::parse("User.Read  openid User.Read");
/// assert_eq!(scopes.to_string(), "User.Read openid");
/// assert!(Scopes::from("user.read").is_subset_of(&scopes));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// Reads scopes separated by white space, as in `target` and in `scope`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        // One scope is its own set. It is what nearly all requests of an application ask for.
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Self(vec![text.to_owned()]);
        }
        text.split_whitespace().collect()
    }

    /// The scopes, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of scopes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether each of these scopes is among `others`.
    #[must_use]
    pub fn is_subset_of(&self, others: &Self) -> bool {
        self.0.iter().all(|scope| others.0.iter().any(|other| same(scope, other)))
    }

    /// Whether any of these scopes is among `others`.
    pub(crate) fn meets(&self, others: &Self) -> bool {
        self.0.iter().any(|scope| others.0.iter().any(|other| same(scope, other)))
    }

    /// Sorted, as they were written.
    #[cfg_attr(not(feature = "client"), allow(dead_code))]
    pub(crate) fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// One spelling for equal sets.
    pub(crate) fn canonical(&self) -> String {
        let mut scopes: Vec<String> = self.0.iter().map(|scope| scope.to_lowercase()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes.join(" ")
    }
}

fn same(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || (!a.is_ascii() || !b.is_ascii()) && a.to_lowercase() == b.to_lowercase()
}

impl PartialEq for Scopes {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.canonical() == other.canonical()
    }
}

impl Eq for Scopes {}

impl<S: Into<String>> FromIterator<S> for Scopes {
    fn from_iter<I: IntoIterator<Item = S>>(scopes: I) -> Self {
        let mut scopes: Vec<String> = scopes.into_iter().map(Into::into).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self(scopes)
    }
}

impl From<&str> for Scopes {
    fn from(text: &str) -> Self {
        Self::parse(text)
    }
}

impl<const N: usize> From<[&str; N]> for Scopes {
    fn from(scopes: [&str; N]) -> Self {
        scopes.into_iter().collect()
    }
}

impl From<&[String]> for Scopes {
    fn from(scopes: &[String]) -> Self {
        scopes.iter().cloned().collect()
    }
}

impl From<Vec<String>> for Scopes {
    fn from(scopes: Vec<String>) -> Self {
        scopes.into_iter().collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, scope) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equality_is_that_of_sets_without_case() {
        assert_eq!(Scopes::parse("b A"), Scopes::parse("a B b"));
        assert_ne!(Scopes::parse("a"), Scopes::parse("a b"));
        assert_eq!(Scopes::parse("b A B").canonical(), "a b");
        assert_eq!(Scopes::parse("Ü"), Scopes::parse("ü"));
    }

    #[test]
    fn the_empty_set_is_a_subset_of_every_set() {
        assert!(Scopes::default().is_subset_of(&Scopes::parse("a")));
        assert!(!Scopes::parse("a").is_subset_of(&Scopes::default()));
    }
}
