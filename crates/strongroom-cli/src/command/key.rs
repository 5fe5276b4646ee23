//! `strongroom key`.

use std::fmt;
use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};
use strongroom::persistence::{
    self, KeyFound, Kind, Persistence as _, create_key_file, key_of, key_source_for_new,
    key_source_to_look_at, sealed_with, write_key_file,
};
use strongroom::{
    Clock as _, Error, ErrorKind, KeyId, KeyRing, KeySelector, KeySource, KeySourceKind, SealedWith,
    SecretBytes, SystemClock, UnixSeconds, block_on,
};

use crate::args::{
    Global, Key, KeyCommand, KeyExport, KeyImport, KeyList, KeyNew, KeyRotate, Output, WhichKeys,
};
use crate::config;
use crate::failure::Failure;
use crate::output::{self, human_seconds};

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
    let cache = match &options.cache {
        Some(path) => Some(Needed::by(path, options.source.key_source.as_ref())?),
        None => None,
    };
    let (source, ring) = match &cache {
        Some(needed) => needed.keys_to_list(options.source.key_source.as_ref()),
        None => {
            let source = options.source.look()?;
            // What a passphrase gives is another key for each cache.
            let ring = match source.kind() {
                KeySourceKind::Passphrase => None,
                _ => Some(Arc::new(block_on(source.keys())?)),
            };
            (Some(source), ring)
        }
    };
    if global.output == Output::Json {
        let keys = ring.as_ref().map_or_else(Vec::new, |ring| keys_as_json(ring));
        let mut object = json!({
            "key_source": source.as_ref().map(|source| source.name()),
            "file": ring.as_ref().and_then(|ring| ring.file()),
            "protection": source.as_ref().map(|source| source.protection().as_str()),
            "keys": keys,
        });
        if let Some(needed) = &cache {
            object["sealed_with"] = needed.to_json();
        }
        return output::json(&object);
    }
    if let (Some(source), true) = (&source, ring.is_some() || cache.is_none()) {
        output::note(&heading(&**source, ring.as_deref()));
    }
    if let Some(needed) = &cache {
        output::note(&needed.to_string());
    }
    match &ring {
        Some(ring) => {
            let used = cache.as_ref().map(|needed| needed.sealed_with.key_id());
            output::line(&table(ring, used).to_string())
        }
        None => Ok(()),
    }
}

fn rotate(options: &KeyRotate, global: &Global) -> Result<(), Failure> {
    let rotated = if options.no_new_key {
        None
    } else {
        let source = source_to_rotate(options)?;
        let ring = new_primary(&*source, options)?;
        Some((source, ring))
    };
    let ring = rotated.as_ref().and_then(|(_, ring)| ring.as_ref());
    let name = rotated.as_ref().map(|(source, _)| source.name());
    let name = name.as_deref();
    if let (Some(ring), Some(name), false) = (ring, name, options.rewrite.is_empty()) {
        output::note(&format!("{name}: the primary key is now {}", ring.primary()));
    }
    let rewritten = rewrite(options)?;
    match (global.output, ring, name) {
        (Output::Json, ..) => output::json(&json!({
            "key_source": name,
            "rotated": ring.is_some(),
            "primary": ring.map(|ring| ring.primary().to_string()),
            "file": ring.and_then(KeyRing::file),
            "rewritten": rewritten,
        })),
        (_, Some(ring), Some(name)) => {
            output::line(&format!("{name}: the primary key is {}", ring.primary()))
        }
        _ => Ok(()),
    }
}

/// The keys with a new primary one; `None` if that comes from outside and only sealing anew is left to do.
fn new_primary(source: &dyn KeySource, options: &KeyRotate) -> Result<Option<KeyRing>, Failure> {
    match block_on(source.rotate()) {
        Ok(ring) => Ok(Some(ring)),
        Err(error) if error.code() == "key_source_not_writable" => {
            if options.rewrite.is_empty() {
                return Err(error.with_remedy(two_phases(source.kind())).into());
            }
            output::note(&format!(
                "the keys of {} are handed in from outside and were not rotated; what is listed is sealed anew",
                source.name()
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Seals anew all that is listed, and says what became of it.
fn rewrite(options: &KeyRotate) -> Result<Vec<Value>, Failure> {
    let (mut rewritten, mut failed, mut left) = (Vec::new(), Vec::new(), String::new());
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
                failed.push(about(path, &error));
                left.push_str(&format!(" {}", path.display()));
            }
        }
    }
    if failed.is_empty() {
        return Ok(rewritten);
    }
    let (failures, all) = (failed.len(), options.rewrite.len());
    let message = format!("{failures} of {all} caches were not sealed anew: {}", failed.join("; "));
    let source = options.source.key_source.as_ref();
    let source = source.map_or_else(String::new, |source| format!(" --key-source {source}"));
    let remedy = format!(
        "put that right and run 'strongroom key rotate{source} --no-new-key --rewrite{left}', which makes no further \
         key; keep the old keys until then"
    );
    Err(Error::new(ErrorKind::Storage, "not_all_rewritten", message).with_remedy(remedy).into())
}

/// The source that opens all the caches that are listed; without any, the one that was asked for or that is configured.
fn source_to_rotate(options: &KeyRotate) -> Result<Arc<dyn KeySource>, Failure> {
    let (paths, wanted) = (&options.rewrite, options.source.key_source.as_ref());
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for path in paths {
        match key_that_opens(path, wanted) {
            Ok(key) => found.push((path, key)),
            Err(error) => failed.push(about(path, &error)),
        }
    }
    if !failed.is_empty() {
        let (failures, all) = (failed.len(), paths.len());
        return Err(Failure::usage(
            "not_rotated",
            format!(
                "no key was made, {failures} of {all} caches cannot be sealed anew: {}",
                failed.join("; ")
            ),
            "put that right, or leave them out; of caches that are sealed from different sources list those of one, and \
             name it with --key-source",
        ));
    }
    let place = |key: &KeyFound| (key.source.name(), key.keys.file());
    let Some((_, first)) = found.first() else { return options.source.open() };
    if found.iter().any(|(_, key)| place(key) != place(first)) {
        let each: Vec<_> = found
            .iter()
            .map(|(path, key)| match key.keys.file().filter(|_| key.source.kind() == KeySourceKind::Host) {
                Some(file) => format!("{}: host, {}", path.display(), file.display()),
                None => format!("{}: {}", path.display(), key.source.name()),
            })
            .collect();
        return Err(Failure::usage(
            "different_key_sources",
            format!("no key was made, the caches are sealed from different sources: {}", each.join("; ")),
            "rotate one source after the other: name it with --key-source, and list only what it sealed",
        ));
    }
    // A host may have key files in several places. It is the one that sealed them, not the one for new caches.
    let selector = match (first.source.kind(), first.keys.file(), wanted) {
        (KeySourceKind::Host, Some(file), _) => KeySelector::File(file),
        (_, _, Some(wanted)) => wanted.clone(),
        (kind, file, None) => selector_of(kind, file).ok_or_else(|| {
            Failure::usage(
                "key_source_unknown",
                format!("the keys of {} cannot be rotated as such", first.source.name()),
                "name the source with --key-source",
            )
        })?,
    };
    Ok(selector.open()?)
}

/// The key of a cache, if the cache opens with it.
fn key_that_opens(path: &Path, wanted: Option<&KeySelector>) -> Result<KeyFound, Error> {
    let key = key_of(path, wanted)?;
    let mut cache = persistence::builder(path).kind(Kind::Sealed).keep_lost().only_looks(true);
    if let Some(selector) = wanted {
        cache = cache.key_source(selector.clone());
    }
    block_on(cache.build()?.load())?;
    Ok(key)
}

/// What is wrong with a cache, for a list.
fn about(path: &Path, error: &Error) -> String {
    match error.remedy() {
        Some(remedy) => format!("{}: {error} ({remedy})", path.display()),
        None => format!("{}: {error}", path.display()),
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
        let (keys, found) = SecretBytes::read_file(&options.file, LARGEST).map_err(|error| {
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

/// What is listed: a source and its keys, as far as they are to be had.
type Listed = (Option<Arc<dyn KeySource>>, Option<Arc<KeyRing>>);

/// The key that a cache needs.
struct Needed<'a> {
    path: &'a Path,
    sealed_with: SealedWith,
    /// Where it is, or why it is not at hand.
    found: Result<KeyFound, Error>,
}

impl<'a> Needed<'a> {
    fn by(path: &'a Path, wanted: Option<&KeySelector>) -> Result<Self, Failure> {
        let found = key_of(path, wanted);
        match (sealed_with(path)?, found) {
            (Some(sealed_with), found) => Ok(Self { path, sealed_with, found }),
            (None, Err(error)) => Err(error.into()),
            // It has gone in between.
            (None, Ok(_)) => Err(Failure::usage(
                "not_sealed",
                format!("there is no sealed cache at {} any more", path.display()),
                "run it again",
            )),
        }
    }

    /// The keys that are where it is, or where it should be: as far as there are any.
    fn keys_to_list(&self, wanted: Option<&KeySelector>) -> Listed {
        if let Ok(key) = &self.found {
            return (Some(Arc::clone(&key.source)), Some(Arc::clone(&key.keys)));
        }
        let origin = || {
            let sealed_with = &self.sealed_with;
            selector_of(sealed_with.kind()?, sealed_with.key_file())
        };
        // Why there are none is told with the key that is missing.
        let source = wanted.cloned().or_else(origin).and_then(|it| key_source_to_look_at(Some(&it)).ok());
        let with_keys = source.as_ref().filter(|source| source.kind() != KeySourceKind::Passphrase);
        let ring = with_keys.and_then(|source| block_on(source.keys()).ok()).map(Arc::new);
        (source, ring)
    }

    fn kind(&self) -> Option<String> {
        self.sealed_with.kind().map(|kind| kind.to_string())
    }

    fn to_json(&self) -> Value {
        let missing = self.found.as_ref().err();
        json!({
            "location": self.path,
            "key_id": self.sealed_with.key_id().to_string(),
            "kind": self.kind(),
            "key_file": self.sealed_with.key_file(),
            "is_listed": missing.is_none(),
            "problem": missing.map(ToString::to_string),
            "remedy": missing.and_then(|error| error.remedy()),
        })
    }
}

impl fmt::Display for Needed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.found {
            // It says all of that itself.
            Err(error) if error.code() == "unknown_key" => write!(f, "{error}")?,
            found => {
                let (path, id) = (self.path.display(), self.sealed_with.key_id());
                let from = self.kind().unwrap_or_else(|| "an unknown source".into());
                write!(f, "{path} is sealed with the key {id} from {from}")?;
                if let Some(file) = self.sealed_with.key_file() {
                    write!(f, ", {}", file.display())?;
                }
                if let Err(error) = found {
                    write!(f, ", which is not to be had: {error}")?;
                }
            }
        }
        let remedy = self.found.as_ref().err().and_then(Error::remedy);
        remedy.map_or(Ok(()), |remedy| write!(f, "\n{remedy}"))
    }
}

/// How a source is spelled of which this is known; `None` if that is not enough to find it.
fn selector_of(kind: KeySourceKind, file: Option<PathBuf>) -> Option<KeySelector> {
    match kind {
        KeySourceKind::Host => Some(KeySelector::Host),
        KeySourceKind::File => file.map(KeySelector::File),
        KeySourceKind::Environment => Some(KeySelector::Environment),
        KeySourceKind::Systemd => Some(KeySelector::Systemd),
        KeySourceKind::SecretService => Some(KeySelector::SecretService),
        KeySourceKind::Keyutils => Some(KeySelector::Keyutils),
        _ => None,
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
