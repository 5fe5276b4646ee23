//! The languages whose MSAL may be here, and how a program of each is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::front::Front;
use crate::support::{lines_of, script_path};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Python,
    /// With a cache plugin of a few lines, as in the samples.
    Node,
    NodeExtensions,
    Go,
    Java,
}

impl Peer {
    pub const ALL: [Self; 5] = [Self::Python, Self::Node, Self::NodeExtensions, Self::Go, Self::Java];

    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "MSAL Python",
            Self::Node => "MSAL Node, file plugin",
            Self::NodeExtensions => "MSAL Node, extensions",
            Self::Go => "MSAL Go",
            Self::Java => "MSAL Java",
        }
    }

    /// A Python that has its libraries, a folder that has them for Node or Java, or the program that was built with them.
    pub fn path(self) -> Option<PathBuf> {
        std::env::var_os(self.variable()).map(Into::into)
    }

    /// Why there is nothing to test.
    pub fn nothing(self) -> String {
        format!("there is no {} here ({})", self.name(), self.variable())
    }

    fn variable(self) -> &'static str {
        match self {
            Self::Python => "STRONGROOM_TEST_PYTHON",
            Self::Node | Self::NodeExtensions => "STRONGROOM_TEST_NODE",
            Self::Go => "STRONGROOM_TEST_GO",
            Self::Java => "STRONGROOM_TEST_JAVA",
        }
    }

    /// Its program in `peers`, which signs in at `front`. `folder` is for what it needs there beside its cache.
    pub fn command(self, front: &Front, folder: &Path) -> Command {
        let here = self.path().unwrap();
        let mut command = match self {
            Self::Python => {
                let mut python = Command::new(here);
                python.arg(script_path("peers/peer.py"));
                python.env("REQUESTS_CA_BUNDLE", &front.ca_file);
                python
            }
            Self::Node | Self::NodeExtensions => {
                let persistence = if self == Self::Node { "plain" } else { "extensions" };
                let mut node = Command::new("node");
                node.arg(script_path("peers/peer.mjs")).arg(here).arg(persistence);
                node.env("NODE_EXTRA_CA_CERTS", &front.ca_file).env_remove("NODE_OPTIONS");
                node
            }
            Self::Go => {
                let mut go = Command::new(here);
                go.env("SSL_CERT_FILE", &front.ca_file);
                go
            }
            Self::Java => java(&here, front, folder),
        };
        front.introduce_to(&mut command);
        command
    }
}

fn java(here: &Path, front: &Front, folder: &Path) -> Command {
    let trusted = folder.join("trusted.p12");
    if !trusted.exists() {
        let mut keytool = Command::new("keytool");
        keytool.args(["-importcert", "-noprompt", "-storetype", "PKCS12", "-storepass", "changeit"]);
        keytool.arg("-file").arg(&front.ca_file).arg("-keystore").arg(&trusted);
        lines_of(&mut keytool);
    }
    let mut java = Command::new("java");
    // It lives for a moment: what takes long to compile does not pay.
    java.args(["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Xmx128m"]);
    java.arg(format!("-Djavax.net.ssl.trustStore={}", trusted.display()));
    java.arg("-Djavax.net.ssl.trustStorePassword=changeit");
    java.arg("-Dhttps.proxyHost=127.0.0.1").arg(format!("-Dhttps.proxyPort={}", front.port()));
    java.arg("-cp").arg(format!("{0}/classes:{0}/lib/*", here.display())).arg("Peer");
    java
}

/// What a program of `peers` prints: first its versions, then its answers.
pub fn answers_of(command: &mut Command) -> (Vec<String>, Vec<Value>) {
    let mut lines = lines_of(command);
    let first = lines.remove(0);
    let versions = first["versions"].as_array().unwrap();
    (versions.iter().map(|version| version.as_str().unwrap().to_owned()).collect(), lines)
}
