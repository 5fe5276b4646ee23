//! Where the cache is: what the user said, else the user's cache folder.

use std::path::{Path, PathBuf};

use crate::args::Cache;
use crate::env_vars;
use crate::failure::Failure;

impl Cache {
    /// The path of the cache document.
    pub(crate) fn location(&self) -> Result<PathBuf, Failure> {
        let named =
            self.path.clone().or_else(|| env_vars::read_os(env_vars::STRONGROOM_CACHE).map(Into::into));
        if let Some(path) = named {
            return refuse_store(&path).map(|()| path);
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
