//! What the tests of sealed caches share: key files, tokens, and a process in an environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use strongroom::persistence::{self, ChosenPersistence, Kind};
use strongroom::{
    AccessToken, Credential, CredentialKey, CredentialStore as _, DocumentStore, Error, Fence,
    FilePersistence, KeySelector, KeySource, Partition, Persistence, Saved, SealedPersistence, SecretBytes,
    block_on, conformance,
};

use crate::schema_support::{app_token, change};
use crate::support::another_process;

/// A cache and a key file in a folder of their own.
pub(crate) struct Vault {
    pub(crate) folder: tempfile::TempDir,
}

impl Vault {
    pub(crate) fn new() -> Self {
        let vault = Self { folder: tempfile::tempdir().unwrap() };
        persistence::create_key_file(vault.key_file()).unwrap();
        vault
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.path().join("keys/cache.key")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache.bin")
    }

    pub(crate) fn source(&self) -> Arc<dyn KeySource> {
        KeySelector::File(self.key_file()).open().unwrap()
    }

    pub(crate) fn sealed(&self) -> SealedPersistence<FilePersistence> {
        SealedPersistence::new(FilePersistence::new(self.cache()).unwrap(), self.source())
    }

    pub(crate) fn content(&self) -> Vec<u8> {
        std::fs::read(self.cache()).unwrap()
    }
}

pub(crate) fn load(persistence: &dyn Persistence) -> Result<Vec<u8>, Error> {
    Ok(block_on(persistence.load())?.bytes.expose().to_vec())
}

/// Loads and saves, as an uncontended writer does.
pub(crate) fn replace(persistence: &dyn Persistence, bytes: &[u8]) -> Result<(), Error> {
    let revision = block_on(persistence.load())?.revision;
    let bytes = SecretBytes::from(bytes.to_vec());
    match block_on(persistence.save(&bytes, &revision, &Fence::open()))? {
        Saved::Saved(_) => Ok(()),
        Saved::Conflict => panic!("nobody else writes"),
    }
}

pub(crate) fn for_scope(scope: &str) -> AccessToken {
    AccessToken { target: scope.into(), secret: format!("secret of {scope}").as_str().into(), ..app_token() }
}

pub(crate) fn put(persistence: impl Persistence, scope: &str) -> Result<(), Error> {
    let change = change().put(Credential::AccessToken(for_scope(scope)));
    block_on(DocumentStore::new(persistence).apply(&change)).map(drop)
}

pub(crate) fn has(persistence: impl Persistence, scope: &str) -> Result<bool, Error> {
    let key = CredentialKey::of_access_token(&for_scope(scope));
    block_on(DocumentStore::new(persistence).get(&key)).map(|found| found.is_some())
}

/// The scopes of all tokens, sorted.
pub(crate) fn scopes(persistence: impl Persistence) -> Result<Vec<String>, Error> {
    let partition = Partition::of_access_token(&app_token());
    let records = block_on(DocumentStore::new(persistence).list(&partition))?;
    let token = |record: strongroom::Record| record.credential.into_access_token().unwrap();
    let mut scopes: Vec<_> = records.into_iter().map(|record| token(record).target.to_string()).collect();
    scopes.sort();
    Ok(scopes)
}

/// The error's code. Whatever fails says what to do.
pub(crate) fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()), "{error} has no remedy");
    error.code().to_owned()
}

/// A process with nothing in its environment but these variables, and without the session bus of whoever runs this.
pub(crate) fn process_with(environment: &[(&str, &Path)]) -> Command {
    let mut command = another_process("seal_support::helper_process_uses_a_cache");
    command.env_clear().env("XDG_RUNTIME_DIR", "/nonexistent").envs(environment.iter().copied());
    command
}

/// What such a process says when it does `what` with the cache at `path`.
pub(crate) fn in_process(environment: &[(&str, &Path)], what: &str, path: &Path) -> String {
    let mut command = process_with(environment);
    let output = command.env("TEST_DO", what).env("TEST_CACHE", path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    answer_in(&text)
}

/// The answer among what libtest prints.
pub(crate) fn answer_in(text: &str) -> String {
    let at = text.find("ANSWER ").unwrap_or_else(|| panic!("no answer in {text}")) + "ANSWER ".len();
    text[at..].lines().next().unwrap().to_owned()
}

#[test]
#[ignore = "run by others, in an environment of its own"]
fn helper_process_uses_a_cache() {
    let Ok(what) = std::env::var("TEST_DO") else { return };
    let path = PathBuf::from(std::env::var_os("TEST_CACHE").unwrap());
    println!(
        "ANSWER {}",
        use_cache(&what, &path).unwrap_or_else(|error| format!("{}: {error}", error.code()))
    );
}

#[allow(clippy::print_stdout)]
fn use_cache(what: &str, path: &Path) -> Result<String, Error> {
    let (verb, argument) = what.split_once(' ').unwrap_or((what, ""));
    let encrypted = || persistence::encrypted(path);
    let described = |chosen: &ChosenPersistence| {
        let choice = chosen.choice();
        format!("{} {} {}", choice.kind, choice.key_source.as_deref().unwrap_or("-"), choice.protection)
    };
    Ok(match verb {
        "put" => {
            let chosen = encrypted()?;
            let described = described(&chosen);
            put(chosen, argument)?;
            described
        }
        "scopes" => scopes(encrypted()?)?.join(" "),
        "choose" => {
            let choice = persistence::builder(path).choose()?;
            format!("{} {}", choice.key_source.unwrap_or_default(), choice.reasons.join(" | "))
        }
        "fall-back" => {
            let chosen = persistence::builder(path).fallback_to_plaintext(true).build()?;
            let described = described(&chosen);
            put(chosen, argument)?;
            described
        }
        "choose-and-wait" => {
            let chosen = encrypted()?;
            println!("chosen");
            std::io::stdin().read_line(&mut String::new()).unwrap();
            put(chosen, argument)?;
            String::new()
        }
        "put-twice" => {
            let chosen = encrypted()?;
            let (one, other) = argument.split_once(' ').unwrap();
            put(&chosen, one)?;
            println!("once");
            std::io::stdin().read_line(&mut String::new()).unwrap();
            put(&chosen, other)?;
            String::new()
        }
        "choose-alone" => {
            let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
            let before = threads();
            let choice = persistence::builder(path).choose()?;
            format!("{} {}", choice.key_source.unwrap_or_default(), threads() - before)
        }
        "conforms" => {
            let open = || persistence::builder(path).kind(Kind::Sealed).key_source(argument.parse()?).build();
            // Whoever has no such key source here says so before the suite does.
            let first = Arc::new(open()?);
            // To stretch a passphrase for each handle would take minutes.
            let is_slow = argument.starts_with("passphrase-file:");
            let handle = || if is_slow { Arc::clone(&first) } else { Arc::new(open().unwrap()) };
            let report = conformance::of(handle).without(conformance::Promise::CompareAndSwap).run();
            if report.failed.is_empty() { "all hold".into() } else { report.to_string() }
        }
        "into-keyring" | "out-of-keyring" => {
            let migration = persistence::migrate(path);
            let migration = match verb {
                "into-keyring" => migration.to(Kind::SecretService),
                _ => migration.from(Kind::SecretService).to(Kind::Sealed),
            };
            let migration = if argument.is_empty() { migration } else { migration.new_location(argument) };
            migration.run()?.kind.to_owned()
        }
        "in-keyring" => scopes(persistence::builder(path).kind(Kind::SecretService).build()?)?.join(" "),
        "seal-with" => {
            let to = persistence::migrate(path).to(Kind::Sealed).key_source(argument.parse()?);
            to.run()?.key_source.unwrap_or_default()
        }
        "migrate" => persistence::migrate(path).to(Kind::File).run()?.kind.to_owned(),
        "open" => described(&persistence::open(path)?),
        "plain" => described(&persistence::builder(path).kind(Kind::File).build()?),
        "key" => {
            let source = argument.parse::<KeySelector>()?.open()?;
            block_on(source.keys())?.primary().to_string()
        }
        "rotate" => {
            let source = argument.parse::<KeySelector>()?.open()?;
            block_on(source.rotate())?.primary().to_string()
        }
        "key-to-seal" => {
            // Of a document of its own, so that nobody else has made the key when it looks.
            let own = path.with_extension(std::process::id().to_string());
            persistence::encrypted(own)?;
            block_on(KeySelector::SecretService.open()?.keys())?.primary().to_string()
        }
        "remedy" => encrypted().map_or_else(|error| error.remedy().unwrap().into_owned(), |_| String::new()),
        "keys" => {
            let source = argument.parse::<KeySelector>()?.open()?;
            block_on(source.keys())?.keys().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(" ")
        }
        "import" => {
            let (selector, file) = argument.split_once(' ').unwrap();
            let keys = SecretBytes::from(std::fs::read(file).unwrap());
            block_on(selector.parse::<KeySelector>()?.open()?.import(&keys))?.keys().count().to_string()
        }
        _ => unreachable!("{what}"),
    })
}
