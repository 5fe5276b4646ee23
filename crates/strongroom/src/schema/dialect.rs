//! Dialects: what each language needs of an application's own token in order to find it, and of whoever writes it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use crate::error::{Diagnose, ErrorKind};

/// The languages whose programs share a document with this one, as far as they need something of their own.
///
/// An application's own token is found by no two of MSAL Python and Node in one shape: Python needs `home_account_id` to
/// be there and `null`, under the host that it is configured with; Node needs it to be `""`, and looks under all
/// aliases. With [`PYTHON_AND_NODE`](Self::PYTHON_AND_NODE) such a token is written twice, as twins that are kept equal.
/// An entry that is replaced keeps its shape; users' tokens, extended and bound ones have one shape only.
///
/// MSAL4J (Java) finds either shape, but locks with a file of its own, which [`with_java`](Self::with_java) has writers
/// take too. Go and .NET find either shape and know the lock file that is taken anyway; but .NET calls twins an error.
///
/// ```
/// use strongroom::Dialect;
///
/// # fn main() -> Result<(), strongroom::Error> {
/// let dialect: Dialect = "python+node+java".parse()?;
/// assert_eq!(dialect, Dialect::PYTHON_AND_NODE.with_java());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dialect {
    shapes: Shapes,
    java: bool,
}

/// Why a text names no [`Dialect`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DialectError {
    /// It names a language that there is not.
    #[error("{0:?} is no language that can share a cache")]
    UnknownLanguage(String),
    /// .NET cannot share a document with twins.
    #[error(
        "dotnet cannot share a cache with both python and node: they need each token twice, and MSAL.NET calls two \
             tokens for one request an error"
    )]
    DotNetBesideTwins,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Shapes {
    #[default]
    Python,
    Node,
    PythonAndNode,
}

/// The shape of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Python,
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
    /// As MSAL Python writes: found by Python, Go, Java and .NET.
    pub const PYTHON: Self = Self { shapes: Shapes::Python, java: false };
    /// As MSAL Node writes: found by Node, Go, Java and .NET.
    pub const NODE: Self = Self { shapes: Shapes::Node, java: false };
    /// Twins: found by Python, Node, Go and Java.
    pub const PYTHON_AND_NODE: Self = Self { shapes: Shapes::PythonAndNode, java: false };
    /// All there are, in the order in which they are listed.
    pub const ALL: [Self; 6] = [
        Self::PYTHON,
        Self::NODE,
        Self::PYTHON_AND_NODE,
        Self::PYTHON.with_java(),
        Self::NODE.with_java(),
        Self::PYTHON_AND_NODE.with_java(),
    ];

    /// The same beside programs that use MSAL4J's persistence extension: whoever writes also takes the lock file that
    /// these have for the whole directory, `.lockfile`.
    #[must_use]
    pub const fn with_java(self) -> Self {
        Self { java: true, ..self }
    }

    /// Its languages, joined with `+`: `python+node+java` say. What needs nothing of its own is left out.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match (self.shapes, self.java) {
            (Shapes::Python, false) => "python",
            (Shapes::Node, false) => "node",
            (Shapes::PythonAndNode, false) => "python+node",
            (Shapes::Python, true) => "python+java",
            (Shapes::Node, true) => "node+java",
            (Shapes::PythonAndNode, true) => "python+node+java",
        }
    }

    /// Whether writers take Java's lock.
    pub(crate) const fn has_java(self) -> bool {
        self.java
    }

    /// Whether new application tokens are written as twins.
    pub(super) const fn has_twins(self) -> bool {
        matches!(self.shapes, Shapes::PythonAndNode)
    }

    /// The shape of a new application token; of twins that of the first one.
    pub(super) const fn form(self) -> Form {
        match self.shapes {
            Shapes::Python | Shapes::PythonAndNode => Form::Python,
            Shapes::Node => Form::Node,
        }
    }
}

impl Form {
    pub(super) const fn no_home_account(self) -> NoHomeAccount {
        match self {
            Self::Python => NoHomeAccount::Null,
            Self::Node => NoHomeAccount::Empty,
        }
    }
}

/// Languages joined with `+`, in any order: `python`, `node`, `java`, `go`, `dotnet`. Case does not matter.
impl FromStr for Dialect {
    type Err = DialectError;

    fn from_str(text: &str) -> Result<Self, DialectError> {
        let (mut python, mut node, mut java, mut dotnet) = (false, false, false, false);
        for language in text.split('+') {
            match language.trim().to_ascii_lowercase().as_str() {
                "python" => python = true,
                "node" => node = true,
                "java" => java = true,
                "dotnet" => dotnet = true,
                "go" => {}
                _ => return Err(DialectError::UnknownLanguage(language.trim().to_owned())),
            }
        }
        let shapes = match (python, node) {
            (true, true) if dotnet => return Err(DialectError::DotNetBesideTwins),
            (true, true) => Shapes::PythonAndNode,
            (false, true) => Shapes::Node,
            (_, false) => Shapes::Python,
        };
        Ok(Self { shapes, java })
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialect({})", self.as_str())
    }
}

impl Diagnose for DialectError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Configuration
    }

    fn code(&self) -> &str {
        "invalid_dialect"
    }

    fn remedy(&self) -> Option<Cow<'_, str>> {
        Some(
            match self {
                Self::UnknownLanguage(_) => {
                    "join with + those of python, node, java, go and dotnet that share the cache: python+node say"
                }
                Self::DotNetBesideTwins => {
                    "give .NET a cache of its own, or leave out one of python and node, which then asks for its tokens itself"
                }
            }
            .into(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_read_as_it_is_written_and_in_any_order() {
        for dialect in Dialect::ALL {
            assert_eq!(dialect.to_string().parse(), Ok(dialect));
        }
        for (text, dialect) in [
            ("node+python", Dialect::PYTHON_AND_NODE),
            ("Java + Node + python", Dialect::PYTHON_AND_NODE.with_java()),
            ("go", Dialect::PYTHON),
            ("java", Dialect::PYTHON.with_java()),
            ("dotnet+java", Dialect::PYTHON.with_java()),
            ("node+go+dotnet", Dialect::NODE),
            ("python+python", Dialect::PYTHON),
        ] {
            assert_eq!(text.parse(), Ok(dialect), "{text}");
        }
        assert_eq!(Dialect::default(), Dialect::PYTHON);
    }

    #[test]
    fn what_is_no_language_and_what_cannot_be_together_is_refused_with_the_reason() {
        for text in ["", "python+", "rust", "python,node", "python node"] {
            let error = text.parse::<Dialect>().unwrap_err();
            assert!(matches!(&error, DialectError::UnknownLanguage(_)), "{text}");
        }
        let error = "dotnet+node+python".parse::<Dialect>().unwrap_err();
        assert_eq!(error, DialectError::DotNetBesideTwins);
        let error = crate::Error::from(error);
        assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, "invalid_dialect"));
        assert!(error.to_string().contains("two tokens for one request"));
        assert!(error.remedy().unwrap().contains("a cache of its own"));
    }
}
