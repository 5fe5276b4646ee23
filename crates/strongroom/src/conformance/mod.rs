//! One suite for every [`Persistence`]: what the library relies on, tried out on yours.
//!
//! Behind the feature `test-support`, for tests. The suite is given a function that opens the same document anew each
//! time, as another process would, and a place that it may empty; it says what does not hold.
//!
//! ```
//! use strongroom::{FilePersistence, conformance};
//!
//! let folder = tempfile::tempdir().unwrap();
//! let path = folder.path().join("cache.bin");
//! conformance::of(|| FilePersistence::new(&path).unwrap())
//!     // To compare and to replace are two steps of a file; the lock makes up for it.
//!     .without(conformance::Promise::CompareAndSwap)
//!     .check();
//! ```
//!
//! What a kind of persistence cannot do is said by name with [`Suite::without`]: the checks that need it are left out,
//! and [`Report::left_out`] tells which. A document that no lock file goes with (see
//! [`Persistence::lock_path`]) lives in one process; what concerns several is then left out of itself.
//!
//! This module owns what is demanded. It must not know any implementation.

mod checks;

use std::fmt;

use crate::Persistence;
use crate::persistence::lock::side_file;

/// The suite over the document that `open` gives, a further handle of it each time.
pub fn of<P: Persistence + 'static>(
    open: impl Fn() -> P + Sync,
) -> Suite<impl Fn() -> Box<dyn Persistence> + Sync> {
    Suite { open: move || Box::new(open()) as Box<dyn Persistence>, without: Vec::new(), only: None }
}

/// What not every kind of persistence can promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Promise {
    /// Of all who save at one revision at the same time, without any lock, one succeeds. Without it that holds only
    /// for those who take the lock: between the comparison and the replacement somebody may write. Files and keyrings
    /// compare immediately before.
    CompareAndSwap,
    /// What cannot be read is moved out of the way on request. Without it a damaged document is an error until somebody
    /// removes it; it is never overwritten.
    SetAside,
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CompareAndSwap => "comparing and replacing are two steps here",
            Self::SetAside => "a document cannot be moved out of the way here",
        })
    }
}

/// The suite, to be configured and run. See [`of`].
#[derive(Clone)]
#[must_use]
pub struct Suite<F> {
    open: F,
    without: Vec<Promise>,
    only: Option<&'static str>,
}

/// What came of a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The checks that hold.
    pub passed: Vec<&'static str>,
    /// The checks that do not, and what was seen.
    pub failed: Vec<(&'static str, String)>,
    /// The checks that were left out, and why.
    pub left_out: Vec<(&'static str, String)>,
}

impl<F: Fn() -> Box<dyn Persistence> + Sync> Suite<F> {
    /// Leaves out what needs `promise`.
    pub fn without(mut self, promise: Promise) -> Self {
        self.without.push(promise);
        self
    }

    /// Runs no check but this one, to look into it.
    pub fn only(mut self, check: &'static str) -> Self {
        self.only = Some(check);
        self
    }

    /// Runs every check, each on an empty document.
    ///
    /// # Panics
    /// Some do not hold; the message names them all.
    pub fn check(&self) {
        let report = self.run();
        assert!(report.failed.is_empty(), "{report}");
    }

    /// Runs every check, each on an empty document, and says what came of them. The document is removed in the end.
    pub fn run(&self) -> Report {
        let mut report = Report { passed: Vec::new(), failed: Vec::new(), left_out: Vec::new() };
        let document = checks::Document::new(&self.open);
        let is_shared = side_file(&*(self.open)(), "").is_some();
        let chosen = |name| self.only.is_none_or(|only| only == name);
        for (name, needs, check) in checks::ALL.iter().filter(|(name, ..)| chosen(*name)) {
            let missing = match needs {
                checks::Needs::Nothing => None,
                checks::Needs::Others => {
                    (!is_shared).then(|| "no other process shares this document".to_owned())
                }
                checks::Needs::Promise(promise) => {
                    self.without.contains(promise).then(|| promise.to_string())
                }
            };
            if let Some(why) = missing {
                report.left_out.push((name, why));
                continue;
            }
            match document.emptied().and_then(|()| check(&document)) {
                Ok(()) => report.passed.push(name),
                Err(what) => report.failed.push((name, what)),
            }
        }
        if let Err(what) = document.emptied() {
            report.failed.push(("the_document_is_removed_in_the_end", what));
        }
        report
    }
}

impl<F> fmt::Debug for Suite<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suite")
            .field("without", &self.without)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks hold, {} do not", self.passed.len(), self.failed.len())?;
        for (name, what) in &self.failed {
            write!(f, "\n  {name}: {what}")?;
        }
        for (name, why) in &self.left_out {
            write!(f, "\n  {name} was left out: {why}")?;
        }
        Ok(())
    }
}
