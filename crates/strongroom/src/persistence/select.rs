//! Which persistence a document gets: what is at the location decides first, then what is configured, then what
//! the platform has. The reasons are a value.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(windows)]
use super::FilePersistenceWithDataProtection;
use super::access;
use super::file::Making;
use super::key_files::KeyFilesOnDisk;
use super::sealed::{ENOUGH_TO_TELL, Keys, Sources, Unlocked, is_blank};
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
use super::secret_service::KeysInService;
use super::{
    BoxFuture, Fence, FilePersistence, FilePersistenceBuilder, Loaded, Location, Persistence,
    PersistenceError, Protection, Revision, Saved, SealedPersistence,
};
#[cfg(target_os = "macos")]
use super::{KeychainPersistence, KeychainPersistenceBuilder};
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
use super::{SecretServicePersistence, SecretServicePersistenceBuilder};
#[cfg(windows)]
use crate::SecretString;
use crate::env_vars::Environment;
#[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
use crate::seal::SecretServiceSource;
use crate::seal::{
    Envelope, EnvironmentSource, FileSource, HostSource, KEY_LOST, KeyFiles, KeyId, KeyRing, KeySelector,
    KeySource, KeySourceKind, Place, SealError, SealedWith, SystemdSource, is_envelope,
};
use crate::wait::block_on;
use crate::{Error, SecretBytes};

/// The document at `path`, encrypted in the best way that this machine has without any set-up.
///
/// On Windows that is a file that Windows encrypts (DPAPI), on macOS an item of the keychain, or a sealed file with a
/// host key where no keychain is to be had. Something sealed that is there already stays a sealed file.
///
/// On Linux that is a sealed file, or the item of the Secret Service whose signal file is there: the service is asked for
/// one where an empty file is. What is there is opened with the key source that sealed it. A new one is sealed
/// with the first key source that is configured (systemd credential, `STRONGROOM_KEY_FILE`, `STRONGROOM_KEY`), else
/// with a key in the Secret Service, if there is a session bus and it answers unlocked within 2 s, else with a host
/// key. The last two are made at first use. [`Choice`] tells what was chosen and why.
///
/// # Errors
/// `not_sealed`: a plain cache is there; it is left as it is. `unknown_key`: the key of what is there is not to be
/// had. `no_encryption`: nothing on this machine can keep a key.
///
/// ```no_run
/// use strongroom::{TokenCache, persistence};
///
/// # fn main() -> Result<(), strongroom::Error> {
/// let cache = TokenCache::with_persistence(persistence::encrypted("/var/lib/app/token_cache.bin")?);
/// # Ok(()) }
/// ```
pub fn encrypted(path: impl Into<PathBuf>) -> Result<ChosenPersistence, Error> {
    builder(path).build()
}

/// Whatever is at `path`, plain or sealed, opened as it is; makes no key. Nothing is an empty plain document.
///
/// # Errors
/// Something else than a cache is there, or its key is not to be had.
pub fn open(path: impl Into<PathBuf>) -> Result<ChosenPersistence, Error> {
    builder(path).open()
}

/// What the header of the sealed document at `path` says about its key; `None` if nothing sealed is there. Opens
/// nothing and needs no key.
///
/// # Errors
/// It cannot be read, or is damaged or of a later version.
pub fn sealed_with(path: impl Into<PathBuf>) -> Result<Option<SealedWith>, Error> {
    Ok(match builder(path).look()? {
        Found::Sealed(sealed_with) => Some(sealed_with),
        Found::Nothing | Found::Blank | Found::Plain | Found::Other => None,
    })
}

/// The document at `path`, for those who choose how it is kept.
///
/// Of the kinds `secret-service` and `keychain` it is the signal file that lies there: empty, `{}`, or made at the
/// first save. The item is named by `path` as it is given, as `msal_extensions` does it: two spellings are two items,
/// and a relative path is one item in all folders.
pub fn builder(path: impl Into<PathBuf>) -> PersistenceBuilder {
    let path = path.into();
    PersistenceBuilder {
        kind: Kind::Auto,
        key_source: None,
        source: None,
        fallback_to_plaintext: false,
        min_protection: Protection::None,
        making: Making::PRIVATE,
        only_looks: false,
        keeps_lost: false,
        #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
        secret_service: SecretServicePersistence::builder(&path),
        #[cfg(target_os = "macos")]
        keychain: KeychainPersistence::builder(&path),
        #[cfg(windows)]
        entropy: SecretString::from(""),
        path,
    }
}

/// Makes a key file with one new key, for `file:PATH`. Never replaces a file that is there.
///
/// Returns the ring that is in it.
///
/// # Errors
/// There is such a file, or it cannot be written.
pub fn create_key_file(path: impl AsRef<Path>) -> Result<KeyRing, Error> {
    let path = absolute(path.as_ref())?;
    let source = FileSource::new(path.clone(), Arc::new(KeyFilesOnDisk::default()));
    source.create_new()?.ok_or_else(|| SealError::KeyFileExists { path }.into())
}

/// Writes keys into a new key file, readable by its owner only: a backup, or what another host is to import. Never
/// replaces a file that is there.
///
/// # Errors
/// There is such a file, or it cannot be written.
pub fn write_key_file(path: impl AsRef<Path>, keys: &KeyRing) -> Result<(), Error> {
    let path = absolute(path.as_ref())?;
    match KeyFilesOnDisk::default().create(&path, &keys.expose())? {
        true => Ok(()),
        false => Err(SealError::KeyFileExists { path }.into()),
    }
}

/// The key source that a new document would be sealed with: what is configured, else what [`encrypted`] chooses.
/// Makes no key.
///
/// # Errors
/// `no_encryption` and others: nothing on this machine can keep a key.
pub fn key_source_for_new() -> Result<Arc<dyn KeySource>, Error> {
    Ok(block_on(Configured::new(Environment::read()).source_for_new(&"a new cache"))?.0)
}

/// The key source that `selector` names, by default [`key_source_for_new`], for those who only look at what it has: key
/// files are read as they are, and none is tightened, made or replaced.
///
/// # Errors
/// As those of [`KeySelector::open`] and [`key_source_for_new`]; what would write fails.
pub fn key_source_to_look_at(selector: Option<&KeySelector>) -> Result<Arc<dyn KeySource>, Error> {
    let files = Arc::new(KeyFilesOnDisk { only_looks: true });
    let configured = Configured { files, ..Configured::new(Environment::read()) };
    match selector {
        Some(selector) => configured.source(selector),
        None => Ok(block_on(configured.source_for_new(&"a new cache"))?.0),
    }
}

impl KeySelector {
    /// The key source itself. Reads nothing but the environment variables that it needs.
    ///
    /// # Errors
    /// `feature_missing`: it is not part of this build.
    pub fn open(&self) -> Result<Arc<dyn KeySource>, Error> {
        Configured::new(Environment::read()).source(self)
    }
}

/// The kinds of persistence, as `--persistence` spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Kind {
    /// What the platform does best.
    #[default]
    Auto,
    /// A plain file, shared with other MSALs.
    File,
    /// A sealed file.
    Sealed,
    /// An item of the Secret Service of the desktop, shared with `msal_extensions.LibsecretPersistence`: on Linux and
    /// other Unixes, with the feature `secret-service`.
    SecretService,
    /// A file that Windows encrypts for its user, shared with `msal_extensions.FilePersistenceWithDataProtection`.
    Dpapi,
    /// An item of the macOS keychain, shared with `msal_extensions.KeychainPersistence`.
    Keychain,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::File => "file",
            Self::Sealed => "sealed",
            Self::SecretService => "secret-service",
            Self::Dpapi => "dpapi",
            Self::Keychain => "keychain",
        })
    }
}

impl Kind {
    /// Whether the document is an item of a keyring, and a signal file at its location.
    pub(super) const fn is_keyring(self) -> bool {
        matches!(self, Self::SecretService | Self::Keychain)
    }

    /// That this build does not have it.
    pub(super) fn missing(self) -> Error {
        let needs = match self {
            Self::Dpapi => "Windows",
            Self::Keychain => "macOS",
            _ => "Linux or another Unix and the feature secret-service",
        };
        PersistenceError::NotInThisBuild { kind: self, needs }.into()
    }
}

/// What was chosen for a document, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Choice {
    /// The kind of persistence, as `--persistence` spells it.
    pub kind: &'static str,
    /// The key source, as `--key-source` spells it, where there is one.
    pub key_source: Option<String>,
    /// How well the document is protected.
    pub protection: Protection,
    /// What was looked at, and what it came to, in the order of looking.
    pub reasons: Vec<String>,
}

/// Configures a persistence. See [`builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct PersistenceBuilder {
    pub(super) path: PathBuf,
    kind: Kind,
    key_source: Option<KeySelector>,
    /// That key source itself, where it is at hand.
    source: Option<Arc<dyn KeySource>>,
    fallback_to_plaintext: bool,
    min_protection: Protection,
    making: Making,
    only_looks: bool,
    keeps_lost: bool,
    #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
    secret_service: SecretServicePersistenceBuilder,
    #[cfg(target_os = "macos")]
    keychain: KeychainPersistenceBuilder,
    #[cfg(windows)]
    entropy: SecretString,
}

impl PersistenceBuilder {
    /// The kind of persistence, by default what the platform does best.
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The only key source to use, instead of the one that sealed what is there or that is configured. With it
    /// [`Kind::Auto`] is a sealed file on every platform.
    pub fn key_source(mut self, source: KeySelector) -> Self {
        self.key_source = Some(source);
        self
    }

    /// Uses a plain file where nothing can be encrypted, or where a plain cache is already. Dangerous: a warning
    /// is logged each time.
    pub fn fallback_to_plaintext(mut self, allowed: bool) -> Self {
        self.fallback_to_plaintext = allowed;
        self
    }

    /// The least protection that will do. Default: any.
    pub fn min_protection(mut self, least: Protection) -> Self {
        self.min_protection = least;
        self
    }

    /// How the item of [`Kind::SecretService`] is found and asked for: schema, attributes, label and the rest. By default
    /// as [`SecretServicePersistence::builder`] has it.
    ///
    /// ```
    /// use strongroom::persistence::{self, Kind};
    ///
    /// # fn main() -> Result<(), strongroom::Error> {
    /// let persistence = persistence::builder("token_cache.bin")
    ///     .kind(Kind::SecretService)
    ///     .secret_service(|item| item.schema_name("com.example.daemon").label("My daemon's tokens"))
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
    pub fn secret_service(
        mut self,
        configure: impl FnOnce(SecretServicePersistenceBuilder) -> SecretServicePersistenceBuilder,
    ) -> Self {
        self.secret_service = configure(self.secret_service);
        self
    }

    /// How the item of [`Kind::Keychain`] is found and asked for. By default as [`KeychainPersistence::builder`] has it.
    #[cfg(target_os = "macos")]
    pub fn keychain(
        mut self,
        configure: impl FnOnce(KeychainPersistenceBuilder) -> KeychainPersistenceBuilder,
    ) -> Self {
        self.keychain = configure(self.keychain);
        self
    }

    /// The entropy of [`Kind::Dpapi`], as [`FilePersistenceWithDataProtection::entropy`] has it. Default: none.
    #[cfg(windows)]
    pub fn entropy(mut self, entropy: impl Into<SecretString>) -> Self {
        self.entropy = entropy.into();
        self
    }

    /// Permission bits of the document and of our side files, 0600 by default; 0660 shares them with a group.
    pub fn mode(mut self, mode: u32) -> Self {
        self.making.mode = mode;
        self
    }

    /// For who only looks at what is there and acts on none of it: a document of another user is read too, and one
    /// of ours with wider permissions is not tightened. Default: no.
    pub fn only_looks(mut self, only_looks: bool) -> Self {
        self.only_looks = only_looks;
        self
    }

    /// What [`build`](Self::build) would choose and why, without making a key or touching the document.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn choose(&self) -> Result<Choice, Error> {
        Ok(self.decide(false, &self.configured())?.choice)
    }

    /// The persistence.
    ///
    /// # Errors
    /// `not_sealed`: a plain cache is there and sealed is wanted. `not_a_token_cache`: something else is there.
    /// `unknown_key` and others: the key of what is there is not to be had. `no_encryption`: no key can be made or
    /// found for a new document; the message lists what was tried. `protection_too_low`. `feature_missing`: this build
    /// does not have the kind. `not_a_signal_file`: a keyring is wanted and something else is there.
    /// `signal_file_there`: a file is wanted, and there is the signal file of a cache in a keyring.
    /// `Configuration`: the path or the mode cannot be used.
    pub fn build(self) -> Result<ChosenPersistence, Error> {
        let decided = self.decide(true, &self.configured())?;
        tracing::debug!(location = %self.path.display(), choice = ?decided.choice, "the persistence was chosen");
        Ok(decided)
    }

    /// Whatever is there, plain, sealed or in the keyring whose signal file is there, opened as it is, instead of the
    /// kind that was set; makes no key. Nothing is an empty plain document.
    ///
    /// # Errors
    /// Something else than a cache is there, or its key is not to be had. `protection_too_low`.
    pub fn open(mut self) -> Result<ChosenPersistence, Error> {
        self.kind = match self.look()? {
            Found::Nothing | Found::Blank => match self.signalled_keyring() {
                Some(keyring) => keyring,
                None => return self.plain(Vec::new()),
            },
            Found::Plain => Kind::File,
            // Whether Windows has encrypted it, only decrypting tells.
            Found::Other if cfg!(windows) => Kind::Dpapi,
            Found::Sealed(_) | Found::Other => Kind::Sealed,
        };
        self.decide(false, &self.configured())
    }

    /// Makes a document whose key is lost for good an error, for those who need what is in it. By default it counts as
    /// empty, and the next write moves it aside.
    pub fn keep_lost(mut self) -> Self {
        self.keeps_lost = true;
        self
    }

    /// As `other` is kept: a persistence of its kind, with its key source.
    pub(super) fn kept_as(mut self, other: &ChosenPersistence) -> Self {
        self.kind = other.kind;
        self.source = other.source.clone();
        self
    }

    /// How its files are made.
    pub(super) fn made(mut self, making: Making) -> Self {
        self.making = making;
        self
    }

    pub(super) fn configured(&self) -> Configured {
        let files = Arc::new(KeyFilesOnDisk { only_looks: self.only_looks });
        Configured { files, ..Configured::new(Environment::read()) }
    }

    pub(super) fn decide(&self, make: bool, configured: &Configured) -> Result<ChosenPersistence, Error> {
        let mut reasons = Vec::new();
        if !self.kind.is_keyring()
            && let Some(keyring) = self.signalled_keyring()
        {
            return self.signalled(keyring);
        }
        if self.kind == Kind::File {
            return self.plain(reasons);
        }
        let found = self.look()?;
        reasons.push(format!("{}: {found}", self.path.display()));
        match found {
            Found::Plain if self.fallback_to_plaintext => return self.fall_back(reasons),
            Found::Plain if !self.kind.is_keyring() => {
                return Err(SealError::NotSealed { location: self.path.display().to_string() }.into());
            }
            _ => {}
        }
        let result = self.encrypted(&found, make, configured, reasons.clone());
        match result {
            Err(error) if self.fallback_to_plaintext && matches!(found, Found::Nothing | Found::Blank) => {
                reasons.push(error.to_string());
                self.fall_back(reasons)
            }
            result => result,
        }
    }

    /// The document in `keyring`, whose signal file is at the location: a file there would be a second cache, and the
    /// first could not be opened any more.
    fn signalled(&self, keyring: Kind) -> Result<ChosenPersistence, Error> {
        if self.kind != Kind::Auto || self.key_source.is_some() {
            return Err(PersistenceError::SignalFileThere { path: self.path.clone(), kind: keyring }.into());
        }
        let reason = format!("{}: {}", self.path.display(), signal_file_of(keyring));
        self.keyring(keyring, vec![reason])
    }

    /// The persistence of `found`, which is not plain, or of a new document.
    fn encrypted(
        &self,
        found: &Found,
        make: bool,
        configured: &Configured,
        mut reasons: Vec<String>,
    ) -> Result<ChosenPersistence, Error> {
        let is_new = matches!(found, Found::Nothing | Found::Blank);
        let mut kind = self.kind;
        if kind == Kind::Auto {
            let (chosen, why) = self.best_for(found);
            (kind, reasons) = (chosen, reasons.into_iter().chain(why).collect());
        } else {
            reasons.push(format!("the persistence {kind} was asked for"));
        }
        if kind.is_keyring() {
            return if is_new {
                self.keyring(kind, reasons)
            } else {
                Err(PersistenceError::NotASignalFile { path: self.path.clone() }.into())
            };
        }
        let location = self.path.display().to_string();
        match (kind, found) {
            (Kind::Dpapi, Found::Nothing | Found::Blank | Found::Other) => self.protected(reasons),
            (Kind::Dpapi, _) => Err(SealError::OtherKind { location }.into()),
            (_, Found::Sealed(sealed_with)) => self.sealed(Some(sealed_with), make, configured, reasons),
            (_, Found::Nothing | Found::Blank) => self.sealed(None, make, configured, reasons),
            (_, Found::Plain | Found::Other) => Err(SealError::OtherKind { location }.into()),
        }
    }

    /// What the platform does best with what is at the location, and why.
    fn best_for(&self, found: &Found) -> (Kind, Option<String>) {
        match found {
            _ if self.key_source.is_some() => (Kind::Sealed, None),
            Found::Nothing | Found::Blank | Found::Other if cfg!(windows) => {
                (Kind::Dpapi, Some("Windows keeps the key of this user".into()))
            }
            Found::Nothing | Found::Blank => self.best_for_new(),
            Found::Plain | Found::Sealed(_) | Found::Other => (Kind::Sealed, None),
        }
    }

    /// The keychain, unless there is none here that could be opened: launchd, ssh.
    #[cfg(target_os = "macos")]
    fn best_for_new(&self) -> (Kind, Option<String>) {
        // The signal file of a document that is in the keychain already: elsewhere would be a second cache.
        if self.path.symlink_metadata().is_ok() {
            return (Kind::Keychain, Some("it is a keychain's signal file".into()));
        }
        let found = self.keychain.clone().build().and_then(|keychain| block_on(keychain.load()));
        match found {
            Err(error) if matches!(error.code(), "no_keychain" | "keychain_locked") => {
                (Kind::Sealed, Some(error.to_string()))
            }
            _ => (Kind::Keychain, Some("this user has a keychain".into())),
        }
    }

    #[cfg(not(target_os = "macos"))]
    #[allow(clippy::unused_self)] // as on macOS
    fn best_for_new(&self) -> (Kind, Option<String>) {
        (Kind::Sealed, None)
    }

    /// A document in a keyring, whose signal file is at the location.
    #[allow(unused_variables)] // where there is no keyring
    fn keyring(&self, kind: Kind, reasons: Vec<String>) -> Result<ChosenPersistence, Error> {
        #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
        if kind == Kind::SecretService {
            return self.by_the_system(kind, self.secret_service.clone().build()?, reasons);
        }
        #[cfg(target_os = "macos")]
        if kind == Kind::Keychain {
            return self.by_the_system(kind, self.keychain.clone().build()?, reasons);
        }
        Err(kind.missing())
    }

    /// The keyring that has a document whose signal file is at the location. Asked only where a file is that may be
    /// one, and a bus; and for nothing that needs a prompt.
    #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
    pub(super) fn signalled_keyring(&self) -> Option<Kind> {
        if !self.may_be_signal_file() || !self.secret_service.has_bus(&Environment::read().session_bus) {
            return None;
        }
        let item = self.secret_service.clone().prompt(false).build().ok()?;
        let document = block_on(item.load()).ok()?;
        (!document.bytes.is_empty()).then_some(Kind::SecretService)
    }

    #[cfg(target_os = "macos")]
    pub(super) fn signalled_keyring(&self) -> Option<Kind> {
        if !self.may_be_signal_file() {
            return None;
        }
        let document = block_on(self.keychain.clone().build().ok()?.load()).ok()?;
        (!document.bytes.is_empty()).then_some(Kind::Keychain)
    }

    #[cfg(not(any(target_os = "macos", all(feature = "secret-service", unix))))]
    #[allow(clippy::unused_self)] // as where there is one
    pub(super) fn signalled_keyring(&self) -> Option<Kind> {
        None
    }

    /// Whether a file is there, and nothing in it.
    #[cfg(any(target_os = "macos", all(feature = "secret-service", unix)))]
    fn may_be_signal_file(&self) -> bool {
        /// In bytes: an empty object and some white space. No cache with anything in it is that small, so what is in it
        /// is not looked at for this.
        const LARGEST: u64 = 64;

        self.path.metadata().is_ok_and(|found| found.len() <= LARGEST)
            && matches!(self.look(), Ok(Found::Nothing | Found::Blank))
    }

    #[cfg(windows)]
    fn protected(&self, reasons: Vec<String>) -> Result<ChosenPersistence, Error> {
        let file = self.file().build()?;
        let protected = FilePersistenceWithDataProtection::over(file).entropy(self.entropy.clone());
        self.by_the_system(Kind::Dpapi, protected, reasons)
    }

    #[cfg(not(windows))]
    fn protected(&self, _: Vec<String>) -> Result<ChosenPersistence, Error> {
        Err(Kind::Dpapi.missing())
    }

    /// A persistence whose keys are the operating system's.
    #[cfg(any(windows, target_os = "macos", all(feature = "secret-service", unix)))]
    fn by_the_system(
        &self,
        kind: Kind,
        persistence: impl Persistence + 'static,
        reasons: Vec<String>,
    ) -> Result<ChosenPersistence, Error> {
        self.check(persistence.protection(), || false)?;
        let choice = Choice {
            kind: persistence.kind(),
            key_source: None,
            protection: persistence.protection(),
            reasons,
        };
        Ok(ChosenPersistence { inner: Box::new(persistence), kind, choice, keys: None, source: None })
    }

    fn plain(&self, mut reasons: Vec<String>) -> Result<ChosenPersistence, Error> {
        if reasons.is_empty() {
            reasons.push("a plain file was asked for".into());
        }
        let file = self.file().build()?;
        self.check(Protection::None, || matches!(self.look(), Ok(Found::Plain)))?;
        let choice = Choice { kind: file.kind(), key_source: None, protection: Protection::None, reasons };
        Ok(ChosenPersistence { inner: Box::new(file), kind: Kind::File, choice, keys: None, source: None })
    }

    fn fall_back(&self, reasons: Vec<String>) -> Result<ChosenPersistence, Error> {
        let chosen = self.plain(reasons)?;
        tracing::warn!(
            location = %self.path.display(),
            "the cache is kept in plain text: {}",
            chosen.choice.reasons.last().map_or("", String::as_str)
        );
        Ok(chosen)
    }

    fn sealed(
        &self,
        existing: Option<&SealedWith>,
        make: bool,
        configured: &Configured,
        mut reasons: Vec<String>,
    ) -> Result<ChosenPersistence, Error> {
        // No other program reads it, so theirs is no lock to wait for.
        let file = self.file().peers_lock(false).build()?;
        let sources = match (&self.source, &self.key_source) {
            (Some(source), _) => Sources::One(Arc::clone(source)),
            (None, Some(selector)) => Sources::One(configured.source(selector)?),
            (None, None) => Sources::AsSealed(configured.clone()),
        };
        let explicit = match &sources {
            Sources::One(source) => Some(Arc::clone(source)),
            Sources::AsSealed(_) => None,
        };
        let keys = Keys::new(sources, self.min_protection, self.keeps_lost);
        let mut source = None;
        if let Some(sealed_with) = existing {
            match block_on(keys.to_open(sealed_with, &file.location())) {
                Ok(_) => {
                    source = keys.current().map(|unlocked| Arc::clone(&unlocked.source));
                    reasons.push("it is opened with the key source that has its key".into());
                }
                Err(error) if error.code() == KEY_LOST && !self.keeps_lost => {
                    reasons.push(format!("{error}; the next write moves it aside"));
                }
                Err(error) => return Err(error),
            }
        }
        let mut looked_at = Vec::new();
        let source = match (source, explicit) {
            (Some(source), _) => source,
            (None, Some(source)) => {
                reasons.push(format!("the key source {} was asked for", source.name()));
                source
            }
            (None, None) => {
                let (source, why) = block_on(configured.source_for_new(&self.path.display()))?;
                reasons.extend(why.iter().cloned());
                looked_at = why;
                source
            }
        };
        self.check(source.protection(), || existing.is_some())?;
        if keys.current().is_none() && make {
            let ring = block_on(source.to_seal()).map_err(|error| match source.kind() {
                KeySourceKind::Host if !looked_at.is_empty() => {
                    nothing(&self.path.display(), looked_at, &error)
                }
                _ => error,
            })?;
            let ring = Arc::new(ring);
            keys.begin_with(Unlocked { source: Arc::clone(&source), ring });
        }
        let choice = Choice {
            kind: "sealed",
            key_source: Some(source.name()),
            protection: source.protection(),
            reasons,
        };
        let keys = Arc::new(keys);
        let inner = SealedPersistence::with_keys(file, Arc::clone(&keys));
        Ok(ChosenPersistence {
            inner: Box::new(inner),
            kind: Kind::Sealed,
            choice,
            keys: Some(keys),
            source: Some(source),
        })
    }

    fn file(&self) -> FilePersistenceBuilder {
        FilePersistence::builder(&self.path).made(self.making.clone()).only_looks(self.only_looks)
    }

    fn check(&self, has: Protection, is_there: impl FnOnce() -> bool) -> Result<(), Error> {
        if has >= self.min_protection {
            return Ok(());
        }
        let (location, least, is_there) = (self.path.display().to_string(), self.min_protection, is_there());
        Err(SealError::ProtectionTooLow { location, has, least, is_there }.into())
    }

    /// What is at the location.
    pub(super) fn look(&self) -> Result<Found, Error> {
        let (target, found) = access::resolve_links(&self.path)?;
        let Some(found) = found else { return Ok(Found::Nothing) };
        if let Some(found) = access::not_a_file(&found) {
            return Err(PersistenceError::NotAFile { path: target, found }.into());
        }
        let file = match access::cautious_options().read(true).open(&target) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(source) => return Err(PersistenceError::io("open", &target, source).into()),
        };
        let mut start = Vec::new();
        file.take(ENOUGH_TO_TELL as u64)
            .read_to_end(&mut start)
            .map_err(|source| PersistenceError::io("read", &target, source))?;
        if start.len() < ENOUGH_TO_TELL && is_blank(&start) {
            return Ok(if start.is_empty() { Found::Nothing } else { Found::Blank });
        }
        if is_envelope(&start) {
            let location = self.path.display().to_string();
            return match Envelope::peek(&start) {
                Ok(sealed_with) => Ok(Found::Sealed(sealed_with)),
                Err(refusal) => Err(SealError::refused(refusal, location, KeyId::NONE, false).into()),
            };
        }
        // With a byte order mark it is a plain one still, which reading it complains about.
        let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start).trim_ascii_start();
        Ok(if text.starts_with(b"{") { Found::Plain } else { Found::Other })
    }
}

/// What lies at a location whose document is in a keyring.
pub(super) fn signal_file_of(keyring: Kind) -> String {
    let service = match keyring {
        Kind::Keychain => "keychain",
        _ => "Secret Service",
    };
    format!("the signal file of a cache that is an item of the {service}")
}

/// What lies at a location.
pub(super) enum Found {
    Nothing,
    /// An empty object, or white space.
    Blank,
    Plain,
    Sealed(SealedWith),
    /// No cache, or one that Windows has encrypted.
    Other,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing is there yet"),
            Self::Blank => f.write_str("an empty document is there"),
            Self::Plain => f.write_str("a plain cache is there"),
            Self::Other => f.write_str("something is there that is neither sealed nor JSON"),
            Self::Sealed(sealed_with) => match sealed_with.kind() {
                Some(kind) => write!(f, "a cache is there that was sealed with a key from {kind}"),
                None => f.write_str("a cache is there that was sealed with a key of an unknown source"),
            },
        }
    }
}

/// The key sources of this process's environment.
#[derive(Debug, Clone)]
pub(super) struct Configured {
    environment: Environment,
    files: Arc<dyn KeyFiles>,
}

impl Configured {
    pub(super) fn new(environment: Environment) -> Self {
        Self { environment, files: Arc::new(KeyFilesOnDisk::default()) }
    }

    #[allow(unreachable_patterns)] // what is built in is matched before what is missing
    pub(super) fn source(&self, selector: &KeySelector) -> Result<Arc<dyn KeySource>, Error> {
        let files = || Arc::clone(&self.files);
        let missing = |feature| -> Error {
            let source_name = selector.to_string();
            SealError::FeatureMissing { source_name, feature }.into()
        };
        Ok(match selector {
            KeySelector::Host => Arc::new(self.host()),
            KeySelector::File(path) => Arc::new(FileSource::new(absolute(path)?, files())),
            KeySelector::Environment => Arc::new(EnvironmentSource::new(self.environment.key.clone())),
            KeySelector::Systemd => {
                Arc::new(SystemdSource::new(self.environment.credentials_directory.clone(), files()))
            }
            #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
            KeySelector::SecretService => Arc::new(SecretServiceSource::new(Arc::new(self.in_service()))),
            #[cfg(all(feature = "keyutils", target_os = "linux"))]
            KeySelector::Keyutils => Arc::new(crate::seal::KeyutilsSource),
            #[cfg(feature = "passphrase")]
            KeySelector::PassphraseFile(path) => {
                Arc::new(crate::seal::PassphraseSource::new(absolute(path)?, files()))
            }
            KeySelector::SecretService => return Err(missing("secret-service")),
            KeySelector::Keyutils => return Err(missing("keyutils")),
            KeySelector::PassphraseFile(_) => return Err(missing("passphrase")),
        })
    }

    /// What is configured, in the order of preference.
    fn handed_in(&self) -> Vec<KeySelector> {
        let has_credential =
            self.environment.credentials_directory.as_ref().is_some_and(|directory| {
                directory.join(SystemdSource::CREDENTIAL).symlink_metadata().is_ok()
            });
        let mut selectors = Vec::new();
        if has_credential {
            selectors.push(KeySelector::Systemd);
        }
        selectors.extend(self.environment.key_file.clone().map(KeySelector::File));
        if self.environment.key.is_some() {
            selectors.push(KeySelector::Environment);
        }
        selectors
    }

    /// The source that seals a new document at `location`, and why it is that one.
    pub(super) async fn source_for_new(
        &self,
        location: &(dyn fmt::Display + Sync),
    ) -> Result<(Arc<dyn KeySource>, Vec<String>), Error> {
        if let Some(selector) = self.handed_in().first() {
            return Ok((self.source(selector)?, vec![format!("the key source {selector} is configured")]));
        }
        let mut reasons = vec![NO_KEY_CONFIGURED.to_owned()];
        match self.secret_service_at_hand().await {
            Ok(source) => {
                reasons.push("the Secret Service of this session answers and is unlocked".into());
                return Ok((source, reasons));
            }
            Err(reason) => reasons.push(reason),
        }
        let host = self.host();
        let (path, exists) = host.would_use().map_err(|error| nothing(location, reasons.clone(), &error))?;
        let made = if exists { "is this host's key" } else { "is where this host's key is made" };
        reasons.push(format!("{} {made}", path.display()));
        Ok((Arc::new(host), reasons))
    }

    /// The Secret Service, if it can keep keys here and now; else why not.
    #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
    async fn secret_service_at_hand(&self) -> Result<Arc<dyn KeySource>, String> {
        let keys = self.in_service();
        keys.probe().await.map_err(|error| error.to_string())?;
        Ok(Arc::new(SecretServiceSource::new(Arc::new(keys))))
    }

    #[cfg(not(all(feature = "secret-service", unix, not(target_vendor = "apple"))))]
    #[allow(clippy::unused_async)] // as where there is one
    async fn secret_service_at_hand(&self) -> Result<Arc<dyn KeySource>, String> {
        Err("the Secret Service is not part of this build".into())
    }

    #[cfg(all(feature = "secret-service", unix, not(target_vendor = "apple")))]
    fn in_service(&self) -> KeysInService {
        KeysInService::of(&self.environment.session_bus)
    }

    /// The sources that may have the key of an envelope, the one that its header names first; and which of them
    /// cannot even be tried.
    pub(super) fn sources_for(&self, sealed_with: &SealedWith) -> (Vec<Arc<dyn KeySource>>, Vec<Error>) {
        let mut selectors = Vec::new();
        match sealed_with.kind() {
            Some(KeySourceKind::Host) => selectors.push(KeySelector::Host),
            Some(KeySourceKind::File) => {
                selectors.extend(self.environment.key_file.clone().map(KeySelector::File));
                selectors.extend(sealed_with.key_file().map(KeySelector::File));
            }
            Some(KeySourceKind::Environment) => selectors.push(KeySelector::Environment),
            Some(KeySourceKind::Systemd) => selectors.push(KeySelector::Systemd),
            Some(KeySourceKind::SecretService) => selectors.push(KeySelector::SecretService),
            Some(KeySourceKind::Keyutils) => selectors.push(KeySelector::Keyutils),
            // Where the file with the passphrase is, only the user can say.
            Some(KeySourceKind::Passphrase) | None => {}
        }
        // The same key may have moved to another source.
        selectors.extend(self.handed_in());
        let (mut sources, mut failed, mut seen) = (Vec::new(), Vec::new(), Vec::new());
        for selector in selectors {
            if seen.contains(&selector) {
                continue;
            }
            match self.source(&selector) {
                Ok(source) => sources.push(source),
                Err(error) => failed.push(error),
            }
            seen.push(selector);
        }
        (sources, failed)
    }

    fn host(&self) -> HostSource {
        HostSource::new(self.places(), Arc::clone(&self.files))
    }

    /// The folders that the host key may lie in, in the order in which one is made.
    fn places(&self) -> Vec<Place> {
        let place = |folder: PathBuf, base: &Path| Place { folder, base: base.to_owned(), is_named: false };
        let environment = &self.environment;
        let mut places = Vec::new();
        if let Some(folder) = &environment.state_dir {
            places.push(Place { is_named: true, ..place(folder.clone(), folder) });
        }
        if let Some(folder) = &environment.state_directory {
            places.push(place(folder.clone(), folder));
        }
        if let Some(folder) = &environment.xdg_state_home {
            // That folder itself is made by whoever needs it first.
            places.push(place(folder.join("strongroom"), access::directory_of(folder)));
        }
        if is_root() {
            places.push(place("/var/lib/strongroom".into(), Path::new("/var/lib")));
        }
        if let Some(folder) = &environment.home {
            places.push(place(folder.join(".local/state/strongroom"), folder));
        }
        places
    }
}

const NO_KEY_CONFIGURED: &str = "no key is configured: there is no systemd credential strongroom.key, no STRONGROOM_KEY_FILE, no STRONGROOM_KEY";

/// Where a key was asked for or configured, its own error says most; of the host key all is listed that was tried.
fn nothing(location: &(dyn fmt::Display + Sync), mut tried: Vec<String>, error: &Error) -> Error {
    if !matches!(error.code(), "no_key" | "key_source_unavailable") {
        return error.clone();
    }
    tried.push(error.to_string());
    SealError::NothingAvailable { location: location.to_string(), tried }.into()
}

#[cfg(unix)]
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

fn absolute(path: &Path) -> Result<PathBuf, PersistenceError> {
    std::path::absolute(path).map_err(|_| PersistenceError::InvalidPath { path: path.to_owned() })
}

/// A persistence that was chosen, and why.
#[derive(Debug)]
pub struct ChosenPersistence {
    inner: Box<dyn Persistence>,
    kind: Kind,
    choice: Choice,
    keys: Option<Arc<Keys>>,
    /// Where the keys come from that it is sealed with next.
    source: Option<Arc<dyn KeySource>>,
}

impl ChosenPersistence {
    /// What was chosen, and why.
    #[must_use]
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// Whether it is an item of a keyring.
    pub(super) fn is_in_keyring(&self) -> bool {
        self.kind.is_keyring()
    }

    pub(super) fn source(&self) -> Option<&Arc<dyn KeySource>> {
        self.source.as_ref()
    }

    /// The source and the ring that opened it, if it is sealed and was opened.
    pub(super) fn unlocked(&self) -> Option<Arc<Unlocked>> {
        self.keys.as_ref()?.current()
    }
}

impl Persistence for ChosenPersistence {
    forward_persistence!(self => self.inner);
}
