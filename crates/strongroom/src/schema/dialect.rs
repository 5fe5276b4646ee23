//! Dialects: what each language needs of an application's own token in order to find it.

/// The shape that a new application token is written in.
///
/// No single shape is found by all languages: MSAL Python needs `home_account_id` to be there and `null` under
/// the configured host, MSAL Node needs it to be `""` and looks under all aliases. An entry that is replaced
/// keeps its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// As MSAL Python writes: found by Python, Go, Java and .NET.
    #[default]
    Python,
    /// As MSAL Node writes: found by Node, Go, Java and .NET.
    Node,
}

/// How an entry spells that it has no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum NoHomeAccount {
    Null,
    Empty,
    #[default]
    Absent,
}

impl Dialect {
    pub(super) const fn no_home_account(self) -> NoHomeAccount {
        match self {
            Self::Python => NoHomeAccount::Null,
            Self::Node => NoHomeAccount::Empty,
        }
    }
}
