//! `strongroom purge`.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use strongroom::persistence::{self, ChosenPersistence};
use strongroom::{
    Applied, Clock as _, Credential, CredentialType, Document, DocumentStore, Error, SystemClock, TokenCache,
    block_on,
};

use crate::args::{Global, Output, Purge};
use crate::cache;
use crate::failure::Failure;
use crate::{output, words};

pub(crate) fn run(options: &Purge, global: &Global) -> Result<(), Failure> {
    require_word(options)?;
    let location = options.cache.location()?;
    let persistence = match options.cache.as_it_is(options.dry_run) {
        Err(failure) if options.all && failure.error.code() == "key_lost" => {
            return remove_lost(options, &location, failure, global);
        }
        opened => opened?,
    };
    let what = what(options);
    let document = cache::load(&persistence)?;
    let found = would_remove(&what, &document)?;
    if found.is_nothing && options.account.as_ref().is_some_and(|account| account.contains('@')) {
        output::note(
            "--account takes the home_account_id that 'strongroom inspect' shows, not a user's name",
        );
    }
    if options.dry_run {
        return print(&Report::new(options, &location, found), global);
    }
    let cache = cache_of(persistence, options, global);
    // Where nothing is found, a peer may just have erased it, and who wrote it has to be told not to put it back.
    let is_for_others = location.exists() && (options.all || options.client.is_some());
    if found.is_nothing && !is_for_others && !(options.all && is_anything_remembered(&cache)) {
        return print(&Report::new(options, &location, found), global);
    }
    confirm(options, &format!("Remove everything from {}?", shown(&location)))?;
    let removed = block_on(cache.purge(&what))?;
    // What cannot be read is not handed back when it is removed.
    let removed = Found { counts: counts(&removed), ..found };
    print(&Report::new(options, &location, removed), global)
}

fn what(options: &Purge) -> strongroom::Purge {
    match (&options.client, &options.account) {
        (Some(client_id), _) => strongroom::Purge::Client(client_id.clone()),
        (_, Some(home_account_id)) => strongroom::Purge::Account(home_account_id.clone()),
        _ if options.all => strongroom::Purge::All,
        _ => strongroom::Purge::Expired,
    }
}

/// What a purge removes.
struct Found {
    counts: BTreeMap<CredentialType, usize>,
    unreadable: usize,
    /// The document is already so.
    is_nothing: bool,
}

fn would_remove(what: &strongroom::Purge, document: &Document) -> Result<Found, Failure> {
    let applied = document.apply(&what.change(SystemClock.now())).map_err(Error::from)?;
    Ok(match applied {
        Applied::Changed { removed, unreadable, .. } => {
            Found { counts: counts(&removed), unreadable, is_nothing: false }
        }
        _ => Found { counts: BTreeMap::new(), unreadable: 0, is_nothing: true },
    })
}

fn counts(removed: &[Credential]) -> BTreeMap<CredentialType, usize> {
    let mut counts = BTreeMap::new();
    for credential in removed {
        *counts.entry(credential.credential_type()).or_default() += 1;
    }
    counts
}

/// A cache that never moves anything aside: what is damaged is left for somebody to look at.
fn cache_of(persistence: ChosenPersistence, options: &Purge, global: &Global) -> TokenCache {
    let store = DocumentStore::builder(persistence).lock_timeout(global.lock_timeout).strict(true).build();
    cache::asked_once(store, options.dialect)
}

fn is_anything_remembered(cache: &TokenCache) -> bool {
    let remembered = block_on(cache.remembered());
    remembered.refusals + remembered.authorities > 0
}

/// Nobody can tell what is in it, so all that can be done is to remove it.
fn remove_lost(options: &Purge, location: &Path, failure: Failure, global: &Global) -> Result<(), Failure> {
    output::note(&format!("what is in {} cannot be told: {}", shown(location), failure.error));
    if !options.dry_run {
        confirm(options, &format!("Remove {}, whose key is lost?", shown(location)))?;
        let key_source = options.cache.key_source.clone();
        if !persistence::remove_lost(location, key_source, global.lock_timeout)? {
            return Err(failure);
        }
    }
    let found = Found { counts: BTreeMap::new(), unreadable: 0, is_nothing: false };
    print(&Report { is_lost: true, ..Report::new(options, location, found) }, global)
}

/// Where nobody can be asked, that everything is to go has to be said twice. Before anything is looked at, so that a
/// script fails at its first try and not at the first cache with something in it.
fn require_word(options: &Purge) -> Result<(), Failure> {
    if !options.all || options.yes || options.dry_run || is_at_terminal() {
        return Ok(());
    }
    Err(Failure::usage(
        "confirmation_needed",
        "--all removes everything, and without a terminal nobody can be asked",
        "pass --yes too, or --dry-run to see what would be removed",
    ))
}

fn is_at_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on a terminal before everything is removed.
fn confirm(options: &Purge, question: &str) -> Result<(), Failure> {
    if !options.all || options.yes {
        return Ok(());
    }
    output::note(&format!("{question} [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::other("not_confirmed", "nothing was removed")),
    }
}

struct Report<'a> {
    location: &'a Path,
    is_rehearsal: bool,
    found: Found,
    /// Its key was lost, so nobody knows what was in it.
    is_lost: bool,
    /// What lies beside the cache, may hold tokens, and was not removed: set aside as damaged, kept by a migration, left
    /// by a writer that was killed a moment ago.
    beside: Vec<PathBuf>,
}

impl<'a> Report<'a> {
    fn new(options: &Purge, location: &'a Path, found: Found) -> Self {
        if options.all && !options.dry_run {
            // Where nothing had to be written, nothing was swept yet.
            let _ = persistence::sweep_left_over(location);
        }
        let beside = options.all.then(|| persistence::left_over(location).unwrap_or_default());
        let beside = beside.unwrap_or_default();
        Self { location, is_rehearsal: options.dry_run, found, is_lost: false, beside }
    }
}

fn print(report: &Report<'_>, global: &Global) -> Result<(), Failure> {
    if global.output == Output::Json {
        return output::json(&as_json(report));
    }
    output::line(&as_text(report))?;
    for path in &report.beside {
        output::note(&format!("{} is still there and may hold tokens", shown(path)));
    }
    Ok(())
}

fn shown(path: &Path) -> String {
    output::printable(&path.display().to_string())
}

fn as_text(report: &Report<'_>) -> String {
    let location = shown(report.location);
    let counted = words::credentials(&report.found.counts, report.found.unreadable);
    let removed = if report.is_rehearsal { "would be removed from" } else { "removed from" };
    match (report.is_lost, counted.is_empty()) {
        (true, _) if report.is_rehearsal => format!("would be removed: {location}"),
        (true, _) => format!("removed: {location}"),
        (false, true) => format!("{removed} {location}: nothing"),
        (false, false) => format!("{removed} {location}: {counted}"),
    }
}

fn as_json(report: &Report<'_>) -> Value {
    let mut removed: Map<String, Value> = CredentialType::ALL
        .iter()
        .map(|kind| (kind.to_string(), report.found.counts.get(kind).copied().unwrap_or_default().into()))
        .collect();
    removed.insert("unreadable".into(), report.found.unreadable.into());
    json!({
        "location": report.location.display().to_string(),
        "dry_run": report.is_rehearsal,
        "removed": removed,
        "key_lost": report.is_lost,
        "set_aside": report.beside.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
    })
}
