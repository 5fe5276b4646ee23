//! `strongroom doctor`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use strongroom::persistence::{Finding, FindingStatus};
use strongroom::{
    Clock as _, Concern, Credential, CredentialType, Document, Harm, Persistence as _, SystemClock,
    TokenCache, UnixSeconds, block_on,
};
use tracing::subscriber::NoSubscriber;

use crate::args::{Cache, Doctor, Global, Output};
use crate::failure::Failure;
use crate::output::{self, human_seconds, printable};
use crate::{cache, words};

/// The exit code where something fails: as of a cache that cannot be used.
const SOMETHING_FAILS: u8 = 4;

pub(crate) fn run(options: &Doctor, global: &Global) -> Result<ExitCode, Failure> {
    let examine = || {
        let mut findings = options.cache.wanted(&options.keeping)?.diagnose();
        look_inside(&options.cache, &mut findings);
        Ok::<_, Failure>(findings)
    };
    // What is warned of meanwhile is among the findings.
    let findings = match global.verbose {
        0 => tracing::subscriber::with_default(NoSubscriber::default(), examine)?,
        _ => examine()?,
    };
    match global.output {
        Output::Json => output::json(&findings.iter().map(as_json).collect::<Vec<_>>())?,
        _ => output::write_all(&findings.iter().map(as_text).collect::<String>())?,
    }
    let fails = findings.iter().any(|finding| finding.status == FindingStatus::Fail);
    Ok(if fails { ExitCode::from(SOMETHING_FAILS) } else { ExitCode::SUCCESS })
}

/// Looks at what is in the cache, whatever kind it is.
fn look_inside(cache: &Cache, findings: &mut Vec<Finding>) {
    let opened = cache.as_it_is(true).and_then(|persistence| Ok((cache::load(&persistence)?, persistence)));
    let (document, persistence) = match opened {
        Ok(opened) => opened,
        Err(failure) => {
            let finding = Finding::of_error("document", &failure.error);
            // What keeps it from being opened was perhaps said already; of a lost key in other words.
            let is_known = |known: &Finding| known.message == finding.message;
            if !findings.iter().any(is_known) && failure.error.code() != "key_lost" {
                findings.push(finding);
            }
            return;
        }
    };
    findings.push(contents(&document));
    findings.extend(from_the_future(&document, SystemClock.now()));
    // Of what only Strongroom can read no other program takes the lock.
    if persistence.lock_path().is_some() && document.entries().next().is_some() {
        findings.extend(of_concerns(&document.concerns(SystemClock.now())));
    }
    findings.push(remembered(&TokenCache::with_persistence(persistence)));
}

fn contents(document: &Document) -> Finding {
    let mut counts: BTreeMap<CredentialType, usize> = BTreeMap::new();
    let mut unreadable = 0;
    for entry in document.entries() {
        match entry.credential {
            Ok(_) => *counts.entry(entry.credential_type).or_default() += 1,
            Err(_) => unreadable += 1,
        }
    }
    let counted = words::credentials(&counts, unreadable);
    Finding::ok("document", if counted.is_empty() { "nothing is cached yet".to_owned() } else { counted })
}

/// Tokens that were cached at a time that is still to come, by more than clocks of different machines differ.
fn from_the_future(document: &Document, now: UnixSeconds) -> Option<Finding> {
    /// In seconds.
    const SKEW: i64 = 300;

    let ahead = document.entries().filter_map(|entry| match entry.credential {
        Ok(Credential::AccessToken(token)) => Some(token.cached_at.since(now)),
        _ => None,
    });
    let ahead = ahead.max().filter(|ahead| *ahead > SKEW)?;
    let message =
        format!("a token was cached {ahead} s in the future: this clock is wrong, or another one was");
    Some(Finding::warn("clock", message, "set the clock: tokens are judged by it"))
}

/// What concerns programs in other languages, equal things in one line.
fn of_concerns(concerns: &[Concern]) -> Vec<Finding> {
    const CHECK: &str = "other-languages";

    if concerns.is_empty() {
        return vec![Finding::ok(CHECK, "they read all of it, as far as is known")];
    }
    let mut grouped: Vec<(&Concern, usize)> = Vec::new();
    for concern in concerns {
        match grouped.iter_mut().find(|(first, _)| first.message == concern.message) {
            Some((_, more)) => *more += 1,
            None => grouped.push((concern, 0)),
        }
    }
    let finding = |(concern, more): (&Concern, usize)| {
        let key = concern.key.as_ref().map(|key| format!(" {}", printable(key))).unwrap_or_default();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let message = format!("{}{key}{more}: {}", concern.credential_type, concern.message);
        match concern.harm {
            Harm::Breaks => Finding::fail(CHECK, message, concern.remedy),
            _ => Finding::warn(CHECK, message, concern.remedy),
        }
    };
    grouped.into_iter().map(finding).collect()
}

fn remembered(cache: &TokenCache) -> Finding {
    const CHECK: &str = "remembered";

    let remembered = block_on(cache.remembered());
    let mut parts = Vec::new();
    if remembered.removals > 0 {
        parts.push(format!("{} removed entries are kept from coming back", remembered.removals));
    }
    if remembered.authorities > 0 {
        parts.push(format!("{} authorities need no discovery", remembered.authorities));
    }
    if remembered.refusals > 0 {
        let wait = human_seconds(remembered.refused_for);
        parts.insert(0, format!("{} requests were refused and are not sent for {wait}", remembered.refusals));
        let remedy = "'strongroom token' shows the refusal again; --force-refresh asks at once";
        return Finding::warn(CHECK, parts.join(", "), remedy);
    }
    Finding::ok(
        CHECK,
        if parts.is_empty() { "no refusals, no removals".to_owned() } else { parts.join(", ") },
    )
}

#[derive(Serialize)]
struct Printed<'a> {
    check: &'static str,
    status: &'static str,
    message: &'a str,
    remedy: Option<&'a str>,
}

fn as_json(finding: &Finding) -> Printed<'_> {
    Printed {
        check: finding.check,
        status: finding.status.as_str(),
        message: &finding.message,
        remedy: finding.remedy.as_deref(),
    }
}

fn as_text(finding: &Finding) -> String {
    let colour = match finding.status {
        FindingStatus::Ok => 32,
        FindingStatus::Warn => 33,
        _ => 31,
    };
    let (status, check) = (finding.status.as_str(), finding.check);
    let message = printable(&finding.message);
    let mut text = format!("\u{1b}[1;{colour}m{status:<4}\u{1b}[0m  {check:<15}  {message}\n");
    if let Some(remedy) = &finding.remedy {
        let _ = writeln!(text, "{:23}\u{1b}[1mremedy:\u{1b}[0m {}", "", printable(remedy));
    }
    text
}
