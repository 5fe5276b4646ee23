//! Why a command failed, with the exit code that its caller sees.

use strongroom::{Error, ErrorKind};

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    exit_code: u8,
}

impl Failure {
    /// Something that the caller has to put right in flags, configuration or environment.
    pub(crate) fn usage(code: &'static str, message: impl Into<String>, remedy: &str) -> Self {
        Error::new(ErrorKind::Configuration, code, message).with_remedy(remedy).into()
    }

    /// Anything that is neither the cache's, nor the network's, nor the provider's fault.
    pub(crate) fn other(code: &'static str, message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, code, message).into()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit_code = match error.kind() {
            ErrorKind::Configuration => 2,
            ErrorKind::IdentityProvider => 3,
            ErrorKind::Locked | ErrorKind::Contended | ErrorKind::Unusable | ErrorKind::Storage => 4,
            ErrorKind::Network => 5,
            _ => 1,
        };
        Self { error, exit_code }
    }
}

impl From<clap::Error> for Failure {
    /// A command line that cannot be parsed.
    fn from(error: clap::Error) -> Self {
        let text = error.to_string();
        // What follows the first paragraph is the usage and where to find help.
        let problem = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let message = problem.split_whitespace().collect::<Vec<_>>().join(" ");
        Self::usage("wrong_usage", message, "see `strongroom --help`, and --help of each command")
    }
}

impl From<std::io::Error> for Failure {
    /// Output that cannot be written.
    fn from(error: std::io::Error) -> Self {
        Self::other("output_failed", format!("the result cannot be written: {error}"))
    }
}
