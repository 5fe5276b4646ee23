//! Where the cache is: what the user said, else the user's cache folder.

use std::path::PathBuf;

use crate::args::Cache;
use crate::env_vars;
use crate::failure::Failure;

impl Cache {
    /// The path of the cache document.
    pub(crate) fn location(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.path {
            let text = path.to_string_lossy();
            let is_store = ["sqlite:", "redis://", "rediss://", "postgres://"]
                .iter()
                .any(|scheme| text.starts_with(scheme));
            if is_store {
                let scheme = text.split(':').next().unwrap_or_default();
                return Err(Failure::usage(
                    "unsupported_cache",
                    format!("caches in {scheme} are not supported by this version"),
                    "pass the path of a file",
                ));
            }
            return Ok(path.clone());
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
