//! `strongroom key`.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::Path;
use std::sync::Arc;

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use strongroom::persistence::{
    self, create_key_file, key_source_for_new, key_source_to_look_at, sealed_with, write_key_file,
};
use strongroom::{
    Clock as _, Error, ErrorKind, KeyId, KeyRing, KeySelector, KeySource, KeySourceKind, SealedWith,
    SecretBytes, SystemClock, UnixSeconds, block_on,
};

use crate::args::{
    Global, Key, KeyCommand, KeyExport, KeyImport, KeyList, KeyNew, KeyRotate, Output, WhichKeys,
};
use crate::failure::Failure;
use crate::output::{self, human_seconds};
use crate::{config, input};

/// The largest file of keys that is read, in bytes: more than a ring may have.
const LARGEST: u64 = 128 << 10;
/// Names stdin or stdout.
const STANDARD: &str = "-";

pub(crate) fn run(options: &Key, global: &Global) -> Result<(), Failure> {
    match &options.command {
        KeyCommand::New(options) => new(options, global),
        KeyCommand::List(options) => list(options, global),
        KeyCommand::Rotate(options) => rotate(options, global),
        KeyCommand::Export(options) => export(options, global),
        KeyCommand::Import(options) => import(options, global),
    }
}

fn new(options: &KeyNew, global: &Global) -> Result<(), Failure> {
    if let Some(path) = &options.file {
        let ring = create_key_file(path)?;
        let source = format!("file:{}", path.display());
        return match global.output {
            Output::Json => output::json(&json!({
                "id": ring.primary().to_string(),
                "file": path,
                "key_source": source,
            })),
            _ => output::line(&format!(
                "the key {} is in {}: use it with --key-source {source}, or STRONGROOM_KEY_FILE",
                ring.primary(),
                path.display()
            )),
        };
    }
    refuse_terminal(options.show_secrets, "pass --file PATH")?;
    let ring = KeyRing::generate()?;
    let text = ring.expose();
    // Without the comment behind it: a list of keys in a variable may go on on the same line.
    let key = text_of(&text)?.split('#').next().unwrap_or_default().trim();
    match global.output {
        Output::Json => output::secret_json(&NewKey { id: ring.primary().to_string(), key }),
        _ => {
            output::note(&format!(
                "the key {} is kept nowhere yet. Hand it in, as one of these:\n  \
                 the environment variable STRONGROOM_KEY\n  \
                 the systemd credential strongroom.key (LoadCredential= or LoadCredentialEncrypted= in the unit)\n  \
                 a file that its owner alone can read, named by STRONGROOM_KEY_FILE (or let --file PATH make it)",
                ring.primary()
            ));
            output::secret_line(key)
        }
    }
}

fn list(options: &KeyList, global: &Global) -> Result<(), Failure> {
    let cache = options.cache.as_deref().map(|path| sealed(path).map(|with| (path, with))).transpose()?;
    let source = match (&options.source.key_source, &cache) {
        (None, Some((_, sealed_with))) => source_of(sealed_with)?,
        _ => options.source.look()?,
    };
    // What a passphrase gives is another key for each cache.
    let ring = match source.kind() {
        KeySourceKind::Passphrase => None,
        _ => Some(block_on(source.keys())?),
    };
    let used = cache.as_ref().map(|(_, sealed_with)| *sealed_with.key_id());
    let is_there = |id: &KeyId| ring.as_ref().is_some_and(|ring| ring.contains(id));
    if global.output == Output::Json {
        let keys = ring.as_ref().map_or_else(Vec::new, keys_as_json);
        let mut object = json!({
            "key_source": source.name(),
            "file": ring.as_ref().and_then(KeyRing::file),
            "protection": source.protection().as_str(),
            "keys": keys,
        });
        if let Some((path, with)) = &cache {
            object["cache"] = json!({
                "location": path,
                "key_id": with.key_id().to_string(),
                "sealed_from": with.kind().map(|kind| kind.to_string()),
                "key_file": with.key_file(),
                "is_listed": is_there(with.key_id()),
            });
        }
        return output::json(&object);
    }
    output::note(&heading(&*source, ring.as_ref()));
    if let Some((path, with)) = &cache {
        let from = with.kind().map_or_else(|| "an unknown source".into(), |kind| kind.to_string());
        let place = with.key_file().map_or_else(String::new, |file| format!(", {}", file.display()));
        let absent = if is_there(with.key_id()) { "" } else { ", which is not among these" };
        output::note(&format!(
            "{} is sealed with the key {} from {from}{place}{absent}",
            path.display(),
            with.key_id()
        ));
    }
    match &ring {
        Some(ring) => output::line(&table(ring, used.as_ref()).to_string()),
        None => Ok(()),
    }
}

fn rotate(options: &KeyRotate, global: &Global) -> Result<(), Failure> {
    let source = options.source.open()?;
    let ring = match block_on(source.rotate()) {
        Ok(ring) => Some(ring),
        Err(error) if error.code() == "key_source_not_writable" => {
            if options.rewrite.is_empty() {
                return Err(error.with_remedy(two_phases(source.kind())).into());
            }
            output::note(&format!(
                "the keys of {} are handed in from outside and were not rotated; what is listed is sealed anew",
                source.name()
            ));
            None
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(ring) = &ring
        && !options.rewrite.is_empty()
    {
        output::note(&format!("{}: the primary key is now {}", source.name(), ring.primary()));
    }
    let (mut rewritten, mut failed) = (Vec::new(), Vec::new());
    for path in &options.rewrite {
        match persistence::rewrite(path, options.source.key_source.clone()) {
            Ok(id) => {
                let location = path.display();
                output::note(&match id {
                    Some(id) => format!("{location}: sealed anew with the key {id}"),
                    None => format!("{location}: sealed with the primary key already"),
                });
                rewritten.push(json!({"location": path, "key_id": id.map(|id| id.to_string())}));
            }
            Err(error) => {
                output::note(&format!("{}: not sealed anew: {error}", path.display()));
                failed.push(match error.remedy() {
                    Some(remedy) => format!("{}: {error} ({remedy})", path.display()),
                    None => format!("{}: {error}", path.display()),
                });
            }
        }
    }
    if !failed.is_empty() {
        let (failures, all) = (failed.len(), options.rewrite.len());
        let message = format!("{failures} of {all} caches were not sealed anew: {}", failed.join("; "));
        return Err(Error::new(ErrorKind::Storage, "not_all_rewritten", message)
            .with_remedy("put that right and run it again with --rewrite; keep the old keys until then")
            .into());
    }
    match (global.output, &ring) {
        (Output::Json, _) => output::json(&json!({
            "key_source": source.name(),
            "rotated": ring.is_some(),
            "primary": ring.as_ref().map(|ring| ring.primary().to_string()),
            "file": ring.as_ref().and_then(KeyRing::file),
            "rewritten": rewritten,
        })),
        (_, Some(ring)) => output::line(&format!("{}: the primary key is {}", source.name(), ring.primary())),
        (_, None) => Ok(()),
    }
}

fn export(options: &KeyExport, global: &Global) -> Result<(), Failure> {
    let to_stdout = options.file == Path::new(STANDARD);
    if to_stdout {
        refuse_terminal(options.show_secrets, "name a file")?;
    }
    let source = options.source.look()?;
    if source.kind() == KeySourceKind::Passphrase {
        return Err(Failure::usage(
            "nothing_to_export",
            format!("{} has no keys of its own: each cache gets one from the passphrase", source.name()),
            "keep the passphrase itself",
        ));
    }
    let ring = block_on(source.keys())?;
    if to_stdout {
        let text = ring.expose();
        let text = text_of(&text)?;
        return match global.output {
            Output::Json => {
                output::secret_json(&Exported { key_source: source.name(), keys: keys_as_json(&ring), text })
            }
            _ => output::write_all(text),
        };
    }
    write_key_file(&options.file, &ring)?;
    match global.output {
        Output::Json => output::json(&json!({
            "key_source": source.name(),
            "keys": keys_as_json(&ring),
            "file": options.file,
        })),
        _ => output::line(&format!("{} of {} in {}", count(&ring), source.name(), options.file.display())),
    }
}

fn import(options: &KeyImport, global: &Global) -> Result<(), Failure> {
    let keys = if options.file == Path::new(STANDARD) {
        from_stdin()?
    } else {
        let (keys, found) = input::read(&options.file, LARGEST).map_err(|error| {
            Failure::usage(
                "keys_unreadable",
                format!("{} cannot be read: {error}", options.file.display()),
                "check the path and its permissions",
            )
        })?;
        config::warn_if_others_can_read(&options.file, &found);
        keys
    };
    let source = options.source.open()?;
    let ring = block_on(source.import(&keys))?;
    match global.output {
        Output::Json => output::json(&json!({
            "key_source": source.name(),
            "file": ring.file(),
            "keys": keys_as_json(&ring),
        })),
        _ => output::line(&format!(
            "{}: {} now, the primary is {}",
            source.name(),
            count(&ring),
            ring.primary()
        )),
    }
}

impl WhichKeys {
    fn open(&self) -> Result<Arc<dyn KeySource>, Failure> {
        Ok(match &self.key_source {
            Some(selector) => selector.open()?,
            None => key_source_for_new()?,
        })
    }

    /// For commands that change nothing.
    fn look(&self) -> Result<Arc<dyn KeySource>, Failure> {
        Ok(key_source_to_look_at(self.key_source.as_ref())?)
    }
}

/// A new key, borrowed: a value of JSON would be a copy that nobody wipes.
#[derive(Serialize)]
struct NewKey<'a> {
    id: String,
    key: &'a str,
}

/// Keys that are exported, borrowed likewise.
#[derive(Serialize)]
struct Exported<'a> {
    key_source: String,
    keys: Vec<Value>,
    text: &'a str,
}

/// Refuses to write keys to stdout if it is a terminal, unless that is wanted. `instead`: what else can be done.
fn refuse_terminal(show_secrets: bool, instead: &str) -> Result<(), Failure> {
    if show_secrets || !io::stdout().is_terminal() {
        return Ok(());
    }
    Err(Failure::usage(
        "terminal",
        "keys are not written to a terminal, where others may read them",
        &format!("{instead}, pipe the output into another program, or pass --show-secrets"),
    ))
}

/// What the header of a sealed cache says.
fn sealed(path: &Path) -> Result<SealedWith, Failure> {
    let none = || {
        Error::new(
            ErrorKind::Unusable,
            "not_sealed",
            format!("there is no sealed cache at {}", path.display()),
        )
        .with_remedy("check the path; what is kept in plain text has no key")
    };
    Ok(sealed_with(path)?.ok_or_else(none)?)
}

/// The source that a cache was sealed from.
fn source_of(sealed_with: &SealedWith) -> Result<Arc<dyn KeySource>, Failure> {
    let selector = match sealed_with.kind() {
        Some(KeySourceKind::Host) => Some(KeySelector::Host),
        Some(KeySourceKind::File) => sealed_with.key_file().map(KeySelector::File),
        Some(KeySourceKind::Environment) => Some(KeySelector::Environment),
        Some(KeySourceKind::Systemd) => Some(KeySelector::Systemd),
        Some(KeySourceKind::SecretService) => Some(KeySelector::SecretService),
        Some(KeySourceKind::Keyutils) => Some(KeySelector::Keyutils),
        _ => None,
    };
    match selector {
        Some(selector) => Ok(key_source_to_look_at(Some(&selector))?),
        None => Err(Failure::usage(
            "key_source_unknown",
            format!("where the key {} came from, the cache does not tell", sealed_with.key_id()),
            "name the source with --key-source",
        )),
    }
}

fn heading(source: &dyn KeySource, ring: Option<&KeyRing>) -> String {
    let (name, protection) = (source.name(), source.protection());
    match ring {
        None => format!("{name}: each cache gets a key of its own, protection {protection}"),
        Some(ring) => match ring.file().filter(|file| !name.ends_with(&file.display().to_string())) {
            Some(file) => format!("{name}, {}: {}, protection {protection}", file.display(), count(ring)),
            None => format!("{name}: {}, protection {protection}", count(ring)),
        },
    }
}

fn count(ring: &KeyRing) -> String {
    match ring.keys().count() {
        1 => "1 key".into(),
        more => format!("{more} keys"),
    }
}

fn table(ring: &KeyRing, used: Option<&KeyId>) -> Table {
    let now = SystemClock.now();
    let age =
        |created: Option<UnixSeconds>| created.map_or_else(String::new, |at| human_seconds(now.since(at)));
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["KEY", "USE", "AGE", "CACHE"]);
    for (id, created) in ring.keys() {
        let sealed_it = if used == Some(&id) { "sealed with it" } else { "" };
        let what_for = if id == ring.primary() { "seals and opens" } else { "opens" };
        table.add_row([&id.to_string(), what_for, &age(created), sealed_it].map(Cell::new));
    }
    table
}

fn keys_as_json(ring: &KeyRing) -> Vec<Value> {
    let keys = ring.keys().map(|(id, created)| {
        json!({
            "id": id.to_string(),
            "primary": id == ring.primary(),
            "created": created.map(UnixSeconds::get),
        })
    });
    keys.collect()
}

fn from_stdin() -> Result<SecretBytes, Failure> {
    let unreadable = |problem: String| {
        Failure::usage(
            "keys_unreadable",
            problem,
            "pipe in keys, one a line, as 'strongroom key export' writes them",
        )
    };
    // In one piece, so that growing leaves no copies behind.
    let mut bytes = Vec::with_capacity(usize::try_from(LARGEST + 1).unwrap_or(0));
    let read = io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes);
    let bytes = SecretBytes::from(bytes);
    read.map_err(|error| unreadable(format!("stdin cannot be read: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(unreadable(format!("stdin has more than {LARGEST} bytes")));
    }
    Ok(bytes)
}

fn text_of(keys: &SecretBytes) -> Result<&str, Failure> {
    std::str::from_utf8(keys.expose()).map_err(|error| Failure::other("invalid_keys", error.to_string()))
}

/// How keys rotate that are handed in from outside.
fn two_phases(kind: KeySourceKind) -> String {
    let (make, hand_out, promote, seal) = match kind {
        KeySourceKind::Systemd => (
            "make a key: strongroom key new > new.key",
            "on every host, append it to the credential behind the old key, and restart the services; an encrypted one: \
             (systemd-creds decrypt strongroom.key -; cat new.key) | systemd-creds encrypt --name=strongroom.key - \
             strongroom.key.new && mv strongroom.key.new strongroom.key",
            "when all have it, put the new key first in the same way, and restart the services",
            "seal anew: systemd-run --wait --pipe --property=LoadCredential=strongroom.key:CREDENTIAL strongroom key \
             rotate --key-source systemd --rewrite PATH... (LoadCredentialEncrypted= for an encrypted one)",
        ),
        KeySourceKind::Passphrase => (
            "choose a new passphrase",
            "on every host, write it into the file on a line behind the old one",
            "when all have it, move it to the first line",
            "seal anew: strongroom key rotate --key-source passphrase-file:FILE --rewrite PATH...",
        ),
        _ => (
            "make a key: NEW=$(strongroom key new)",
            "on every host, hand it in behind the old one, STRONGROOM_KEY=\"$OLD,$NEW\", and restart what uses it",
            "when all have it, put it first, STRONGROOM_KEY=\"$NEW,$OLD\", and restart what uses it",
            "seal anew: strongroom key rotate --key-source env --rewrite PATH...",
        ),
    };
    format!(
        "rotate in two phases, so that at no time anybody meets a key that he does not have:\n    \
         1. {make}\n    2. {hand_out}\n    3. {promote}\n    4. {seal}\n    \
         5. when 'strongroom key list --cache PATH' shows the new key for each cache, take the old one away"
    )
}
