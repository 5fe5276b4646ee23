//! The cache that a command works on: where it is, and how it is opened.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use strongroom::persistence::{self, ChosenPersistence, PersistenceBuilder};
use strongroom::{CredentialStore, Dialect, Document, DocumentStore, Persistence, TokenCache, block_on};

use crate::args::{Cache, Global, Keeping};
use crate::env_vars;
use crate::failure::Failure;

impl Cache {
    /// The cache, kept as the user wants it; it is asked once.
    pub(crate) fn to_use(
        &self,
        keeping: &Keeping,
        dialect: Option<Dialect>,
        global: &Global,
    ) -> Result<TokenCache, Failure> {
        Ok(once(self.wanted(keeping)?.build()?, dialect, global))
    }

    /// How the user wants the cache to be kept.
    pub(crate) fn wanted(&self, keeping: &Keeping) -> Result<PersistenceBuilder, Failure> {
        Ok(self
            .builder()?
            .kind(keeping.persistence.into())
            .min_protection(keeping.min_protection.into())
            .fallback_to_plaintext(keeping.fallback_to_plaintext))
    }

    /// What is there, as it is; one whose key is lost is an error, not an empty cache. `only_looks`: nothing is changed.
    pub(crate) fn as_it_is(&self, only_looks: bool) -> Result<ChosenPersistence, Failure> {
        Ok(self.builder()?.only_looks(only_looks).keep_lost().open()?)
    }

    fn builder(&self) -> Result<PersistenceBuilder, Failure> {
        let builder = persistence::builder(self.location()?);
        Ok(match &self.key_source {
            Some(source) => builder.key_source(source.clone()),
            None => builder,
        })
    }

    /// The path of the cache document.
    pub(crate) fn location(&self) -> Result<PathBuf, Failure> {
        location(self.path.as_deref())
    }
}

/// The path of the cache document: what `--cache` says, else the environment, else the user's. From the root: an item
/// of the keyring is named by its path as it is spelled, and one spelling from two folders would be one item.
pub(crate) fn location(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let named = named
        .map(Path::to_owned)
        .or_else(|| env_vars::read_os(env_vars::STRONGROOM_CACHE).map(PathBuf::from));
    if let Some(path) = named {
        // A path that cannot be made absolute, an empty one, is refused by who uses it.
        return refuse_store(&path).map(|()| std::path::absolute(&path).unwrap_or(path));
    }
    let folder = env_vars::read_os(env_vars::XDG_CACHE_HOME)
        .map(PathBuf::from)
        // The specification: a relative path counts as not set.
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(env_vars::read_os(env_vars::HOME)?).join(".cache")));
    match folder {
        Some(folder) => Ok(folder.join("strongroom").join("token_cache.bin")),
        None => Err(Failure::usage(
            "no_cache_location",
            "there is no place for the cache: neither XDG_CACHE_HOME nor HOME is set",
            "pass --cache PATH, or set STRONGROOM_CACHE",
        )),
    }
}

/// A cache for a process that looks into it once.
pub(crate) fn once(persistence: ChosenPersistence, dialect: Option<Dialect>, global: &Global) -> TokenCache {
    let store = DocumentStore::builder(persistence).lock_timeout(global.lock_timeout).build();
    asked_once(store, dialect)
}

/// The same in front of any store.
pub(crate) fn asked_once(store: impl CredentialStore + 'static, dialect: Option<Dialect>) -> TokenCache {
    let builder = TokenCache::builder(store).l1_bytes(0);
    match dialect {
        Some(dialect) => builder.dialect(dialect),
        None => builder,
    }
    .build()
}

/// The document; one that a peer is writing to at this moment is read again.
pub(crate) fn load(persistence: &dyn Persistence) -> Result<Document, Failure> {
    let mut patience = 20;
    loop {
        match Document::parse(block_on(persistence.load())?.bytes) {
            Ok(document) => return Ok(document),
            Err(error) if error.may_be_torn() && patience > 0 => {
                patience -= 1;
                thread::sleep(Duration::from_millis(50));
            }
            Err(error) => return Err(strongroom::Error::from(error).into()),
        }
    }
}

/// Refuses what names a store, and any other URL: as a path it would become folders named like it. A URL may
/// have a password in it and is not repeated.
fn refuse_store(path: &Path) -> Result<(), Failure> {
    let text = path.to_string_lossy();
    let is_store = text.starts_with("sqlite:") || text.contains("://");
    match text.split_once(':') {
        Some((scheme, _)) if is_store => Err(Failure::usage(
            "unsupported_cache",
            format!("caches in {scheme} are not supported by this version"),
            "pass the path of a file",
        )),
        _ => Ok(()),
    }
}
