//! `strongroom migrate`.

use std::path::Path;

use serde_json::{Value, json};
use strongroom::Protection;
use strongroom::persistence::{self, Choice, Kind, Migrated};

use super::import;
use crate::args::{Global, Migrate, Output};
use crate::cache::location;
use crate::failure::Failure;
use crate::output::{self, printable};

pub(crate) fn run(options: &Migrate, global: &Global) -> Result<(), Failure> {
    let path = location(options.cache.as_deref())?;
    if let Some(name) = options.import {
        return import::run(name.into(), &path, options, global);
    }
    let mut migration = persistence::migrate(&path)
        .from(options.from_persistence.map_or(Kind::Auto, Kind::from))
        .keep(options.keep)
        .min_protection(options.min_protection.into())
        .lock_timeout(global.lock_timeout);
    if let Some(kind) = options.to {
        migration = migration.to(kind.into());
    }
    if let Some(source) = &options.key_source {
        migration = migration.key_source(source.clone());
    }
    if let Some(source) = &options.from_key_source {
        migration = migration.from_key_source(source.clone());
    }
    if let Some(new) = &options.new_location {
        migration = migration.new_location(location(Some(new))?);
    }
    let migrated = migration.run()?;
    match global.output {
        Output::Json => output::json(&json!({
            "from": as_json(&path, migrated.from.kind, migrated.from.key_source.as_deref(), migrated.from.protection),
            "to": as_json(&migrated.location, migrated.kind, migrated.key_source.as_deref(), migrated.protection),
            "kept": migrated.kept,
        })),
        _ => {
            if let Some(kept) = &migrated.kept {
                output::note(&format!("the old one is kept as {}", printable(&kept.display().to_string())));
            }
            output::line(&printable(&format!(
                "{}, was {}{}",
                now(&migrated),
                was(&migrated.from),
                at(&path, &migrated)
            )))
        }
    }
}

fn as_json(location: &Path, kind: &str, key_source: Option<&str>, protection: Protection) -> Value {
    json!({
        "location": location,
        "persistence": kind,
        "key_source": key_source,
        "protection": protection.as_str(),
    })
}

fn now(migrated: &Migrated) -> String {
    let kept = described(migrated.kind, migrated.key_source.as_deref(), migrated.protection);
    format!("{}: {kept}", migrated.location.display())
}

fn was(from: &Choice) -> String {
    described(from.kind, from.key_source.as_deref(), from.protection)
}

/// Where it was, if it has moved.
fn at(path: &Path, migrated: &Migrated) -> String {
    if migrated.location == path { String::new() } else { format!(" at {}", path.display()) }
}

fn described(kind: &str, key_source: Option<&str>, protection: Protection) -> String {
    let key = key_source.map_or_else(String::new, |source| format!(" with a key from {source}"));
    format!("{kind}{key} (protection {protection})")
}
