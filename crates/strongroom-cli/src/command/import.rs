//! `strongroom migrate --import`: what another tool has cached, added to a cache of ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom::persistence::{self, ChosenPersistence, Kind, OtherCache, OtherTool, other_caches};
use strongroom::{
    Change, Clock as _, Credential, CredentialKey, CredentialStore as _, Document, DocumentStore, Error,
    ErrorKind, Expectation, Outcome, Persistence as _, SystemClock, TokenCache, UnixSeconds, block_on,
};

use crate::args::{Global, Migrate, Output};
use crate::failure::Failure;
use crate::output::{self, printable};

pub(crate) fn run(tool: OtherTool, path: &Path, options: &Migrate, global: &Global) -> Result<(), Failure> {
    let (found, failed) = read(tool, options.from.as_deref())?;
    // Only now: where there is nothing to import, no cache is made.
    let persistence = target(path, options)?;
    let choice = persistence.choice().clone();
    let location = persistence.location();
    let persistence = Arc::new(persistence);
    let store = || DocumentStore::builder(Arc::clone(&persistence)).lock_timeout(global.lock_timeout).build();
    let ours = Ours { store: store(), cache: TokenCache::builder(store()).l1_bytes(0).build() };
    let mut sources = Vec::new();
    for (source, document) in &found {
        let counts = merge(document, &ours)?;
        match global.output {
            Output::Json => sources.push(counts.as_json(&source.location())),
            _ => output::note(&format!("read {}: {}", printable(&source.location()), counts.in_words())),
        }
    }
    for (source, error) in &failed {
        output::note(&not_read(source, error));
    }
    if options.from.is_none()
        && let Some(twin) = found.iter().find_map(|(source, _)| unread_twin(tool, source.path()?))
    {
        output::note(&format!(
            "not read: {}, which is for programs that answer claims challenges (--from names it)",
            printable(&twin.display().to_string())
        ));
    }
    match global.output {
        Output::Json => output::json(&json!({
            "import": tool.as_str(),
            "from": sources,
            "cache": {
                "location": location.to_string(),
                "persistence": choice.kind,
                "key_source": choice.key_source,
                "protection": choice.protection.as_str(),
            },
        })),
        _ => output::line(&format!(
            "{}: {}, protection {}",
            printable(&location.to_string()),
            choice.kind,
            choice.protection
        )),
    }
}

type Found = Vec<(OtherCache, Document)>;
type Failed = Vec<(OtherCache, Error)>;

/// What the tool has cached, and which places could not be read.
fn read(tool: OtherTool, at: Option<&Path>) -> Result<(Found, Failed), Failure> {
    let (mut found, mut failed, mut empty) = (Found::new(), Failed::new(), Vec::new());
    for cache in other_caches(tool, at)? {
        match load(&cache) {
            Ok(Some(document)) => found.push((cache, document)),
            Ok(None) => empty.push(cache.location()),
            Err(error) => failed.push((cache, error)),
        }
    }
    if !found.is_empty() {
        return Ok((found, failed));
    }
    let last = failed.pop();
    for (source, error) in &failed {
        output::note(&not_read(source, error));
    }
    if let Some((source, error)) = last {
        tracing::info!("{}", not_read(&source, &error));
        return Err(error.into());
    }
    let message = format!("{} has no cache here: there is nothing in {}", tool.as_str(), empty.join(", or "));
    Err(Failure::usage(
        "nothing_to_import",
        message,
        "sign in with that tool and let it keep its tokens, or say with --from where its cache is",
    ))
}

fn not_read(source: &OtherCache, error: &Error) -> String {
    printable(&format!("not read: {}: {error}", source.location()))
}

/// The document; one that the tool is writing at this moment is read again.
fn load(cache: &OtherCache) -> Result<Option<Document>, Error> {
    let mut patience = 20;
    loop {
        let Some(bytes) = cache.load()? else { return Ok(None) };
        match Document::parse(bytes) {
            Ok(document) => return Ok(Some(document)),
            Err(error) if error.may_be_torn() && patience > 0 => {
                patience -= 1;
                thread::sleep(Duration::from_millis(50));
            }
            // What the library says of a cache of ours, that the next write mends it, is not true of another's.
            Err(error) => {
                let remedy = "check that the tool itself still finds its tokens; it was not touched";
                return Err(Error::from(error).with_remedy(remedy));
            }
        }
    }
}

/// The cache of ours. One that is there stays as it is kept, unless that was asked for.
fn target(path: &Path, options: &Migrate) -> Result<ChosenPersistence, Failure> {
    let builder = |kind| {
        let builder = persistence::builder(path).kind(kind).min_protection(options.min_protection.into());
        match &options.key_source {
            Some(source) => builder.key_source(source.clone()),
            None => builder,
        }
    };
    match options.to {
        Some(kind) => Ok(builder(kind.into()).build()?),
        None => match builder(Kind::Auto).build() {
            Err(error) if error.code() == "not_sealed" => Ok(builder(Kind::File).build()?),
            result => Ok(result?),
        },
    }
}

/// What became of the entries of one cache.
#[derive(Debug, Default)]
struct Counts {
    imported: usize,
    kept: usize,
    expired: usize,
    implausible: usize,
    unreadable: usize,
}

/// The cache of ours: record by record, and with what is remembered beside it.
struct Ours {
    store: DocumentStore<Arc<ChosenPersistence>>,
    cache: TokenCache,
}

impl Counts {
    fn in_words(&self) -> String {
        let Self { imported, kept, expired, implausible, unreadable } = self;
        let mut text = format!("{imported} taken over");
        for (number, what) in [
            (kept, "known already"),
            (expired, "expired"),
            (implausible, "refused: no token lasts that long"),
            (unreadable, "unreadable"),
        ] {
            if *number > 0 {
                text.push_str(&format!(", {number} {what}"));
            }
        }
        text
    }

    fn as_json(&self, source: &str) -> Value {
        json!({
            "location": source,
            "imported": self.imported,
            "kept": self.kept,
            "expired": self.expired,
            "implausible": self.implausible,
            "unreadable": self.unreadable,
        })
    }
}

/// Stores what `document` has and the cache of ours has not, or has an older one of, as one change.
fn merge(document: &Document, ours: &Ours) -> Result<Counts, Failure> {
    /// As often as others may change the very records.
    const ATTEMPTS: usize = 10;

    for _ in 0..ATTEMPTS {
        let now = SystemClock.now();
        let (mut change, mut counts) = (Change::new(now), Counts::default());
        for entry in document.entries() {
            let Ok(credential) = entry.credential else {
                counts.unreadable += 1;
                continue;
            };
            if let Credential::AccessToken(token) = &credential {
                let lasts = token.expires_on.since(now);
                if lasts <= 0 || lasts > LONGEST_LIFE {
                    *(if lasts <= 0 { &mut counts.expired } else { &mut counts.implausible }) += 1;
                    continue;
                }
            }
            let expectation = match block_on(ours.store.get(&CredentialKey::of(&credential)))? {
                None => Expectation::Absent,
                Some(own) if is_newer(&credential, &own.credential, now) => {
                    Expectation::Unchanged(own.revision)
                }
                Some(_) => {
                    counts.kept += 1;
                    continue;
                }
            };
            counts.imported += 1;
            change = change.put_if(credential, expectation);
        }
        match block_on(ours.cache.take_over(&change))? {
            Outcome::Lost(_) => {}
            _ => return Ok(counts),
        }
    }
    Err(Error::new(ErrorKind::Contended, "contended", "others keep changing the same entries of the cache")
        .with_remedy("try again")
        .into())
}

/// For how many seconds from now an access token may still last. Entra's last an hour or so, up to a day by policy, and
/// up to 28 hours for programs that answer claims challenges; the rest is for clocks that differ.
const LONGEST_LIFE: i64 = 30 * 3600;

/// Whether what was read is known to be newer than what is there. A token that is good is never replaced: whoever has
/// planted a file could else take its place. A time that is still to come says nothing.
fn is_newer(read: &Credential, own: &Credential, now: UnixSeconds) -> bool {
    match (read, own) {
        (Credential::AccessToken(read), Credential::AccessToken(own)) => {
            own.expires_on <= now && read.cached_at.min(now) >= own.cached_at.min(now)
        }
        (Credential::RefreshToken(read), Credential::RefreshToken(own)) => {
            let (read, own) = (read.last_modification_time, own.last_modification_time);
            read.zip(own).is_some_and(|(read, own)| read.min(now) > own.min(now))
        }
        _ => false,
    }
}

/// The cache of the same tool for programs with continuous access evaluation, which is not taken over unasked: its
/// tokens live longer, and an API may refuse them to a program that cannot answer a claims challenge.
fn unread_twin(tool: OtherTool, path: &Path) -> Option<PathBuf> {
    if tool == OtherTool::AzureCli {
        return None;
    }
    let name = path.file_name()?.to_str()?;
    let twin = path.with_file_name(format!("{}.cae", name.strip_suffix(".nocae").unwrap_or(name)));
    twin.exists().then_some(twin)
}
