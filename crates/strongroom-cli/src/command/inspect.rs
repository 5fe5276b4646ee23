//! `strongroom inspect`.

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde_json::{Map, Value};
use strongroom::{
    AccessToken, Clock, Credential, Document, Entry, EntryProblem, Persistence, SecretString, SystemClock,
    TokenScheme, UnixSeconds,
};

use crate::args::{Global, Inspect, Output};
use crate::cache;
use crate::failure::Failure;
use crate::output::{self, human_seconds, printable};

pub(crate) fn run(options: &Inspect, global: &Global) -> Result<(), Failure> {
    let persistence = options.cache.as_it_is(true)?;
    let document = cache::load(&persistence)?;
    let now = SystemClock.now();
    match global.output {
        Output::Json => {
            let rows: Vec<Value> =
                document.entries().map(|entry| as_json(&entry, now, options.show_secrets)).collect();
            output::json(&rows)
        }
        _ => {
            output::note(&heading(&persistence, &document));
            if document.entries().next().is_none() {
                return Ok(());
            }
            output::line(&table(&document, now, options.show_secrets).to_string())
        }
    }
}

fn heading(persistence: &dyn Persistence, document: &Document) -> String {
    let location = persistence.location();
    let entries = document.entries().count();
    if entries == 0 {
        return format!("nothing is cached in {location}");
    }
    let noun = if entries == 1 { "entry" } else { "entries" };
    let (kind, protection) = (persistence.kind(), persistence.protection());
    format!("{location}: {entries} {noun}, persistence {kind}, protection {protection}")
}

fn table(document: &Document, now: UnixSeconds, show_secrets: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    let mut header = vec![
        "TYPE",
        "STATUS",
        "ACCOUNT",
        "CLIENT",
        "ENVIRONMENT",
        "REALM",
        "TARGET",
        "AGE",
        "EXPIRES IN",
        "REFRESH IN",
    ];
    if show_secrets {
        header.push("SECRET");
    }
    table.set_header(header);
    for entry in document.entries() {
        let fields = fields(&entry);
        let text = |name: &str| {
            let value = fields.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str());
            Cell::new(printable(value.unwrap_or_default()))
        };
        let token = match &entry.credential {
            Ok(Credential::AccessToken(token)) => Some(token),
            _ => None,
        };
        let time = |seconds: Option<i64>| Cell::new(seconds.map(human_seconds).unwrap_or_default());
        let mut row = vec![
            Cell::new(kind(&entry)),
            Cell::new(match entry.credential {
                Ok(_) => status(&entry, now).to_owned(),
                Err(problem) => format!("unreadable: {problem}"),
            }),
            text("home_account_id"),
            text("client_id"),
            text("environment"),
            text("realm"),
            text("target"),
            time(token.map(|token| now.since(token.cached_at))),
            time(token.map(|token| token.expires_on.since(now))),
            time(token.and_then(|token| token.refresh_on).map(|at| at.since(now))),
        ];
        if show_secrets {
            let secret = secret(&entry).map(SecretString::expose).unwrap_or_default();
            row.push(Cell::new(printable(secret)));
        }
        table.add_row(row);
    }
    table
}

/// `AccessToken`, with what sets it apart from a plain bearer token.
fn kind(entry: &Entry<'_>) -> String {
    let mut kind = entry.credential_type.to_string();
    if let Ok(Credential::AccessToken(token)) = &entry.credential {
        if let TokenScheme::Bound { token_type, .. } = &token.scheme {
            kind = format!("{kind} ({})", printable(token_type));
        }
        if token.extended.is_some() {
            kind.push_str(" (extended)");
        }
    }
    kind
}

fn status(entry: &Entry<'_>, now: UnixSeconds) -> &'static str {
    match &entry.credential {
        Err(_) => "unreadable",
        Ok(Credential::AccessToken(token)) if token.expires_on <= now => "expired",
        Ok(Credential::AccessToken(token)) if refresh_due(token, now) => "refresh_due",
        Ok(_) => "valid",
    }
}

fn refresh_due(token: &AccessToken, now: UnixSeconds) -> bool {
    token.refresh_on.is_some_and(|at| at <= now)
}

fn secret<'a>(entry: &'a Entry<'_>) -> Option<&'a SecretString> {
    match entry.credential.as_ref().ok()? {
        Credential::AccessToken(token) => Some(&token.secret),
        Credential::RefreshToken(token) => Some(&token.secret),
        Credential::IdToken(token) => Some(&token.secret),
        _ => None,
    }
}

/// An entry under the schema's own names.
fn as_json(entry: &Entry<'_>, now: UnixSeconds, show_secrets: bool) -> Value {
    let mut object = Map::new();
    object.insert("credential_type".into(), entry.credential_type.as_str().into());
    object.insert("key".into(), entry.key.into());
    for (name, value) in fields(entry) {
        object.insert(name.into(), value.into());
    }
    if show_secrets && let Some(secret) = secret(entry) {
        object.insert("secret".into(), secret.expose().into());
    }
    object.insert("status".into(), status(entry, now).into());
    if let Err(problem) = &entry.credential {
        object.insert("problem".into(), EntryProblem::to_string(problem).into());
    }
    Value::Object(object)
}

fn fields(entry: &Entry<'_>) -> Vec<(&'static str, String)> {
    let mut fields = Vec::new();
    let mut put = |name, value: Option<&str>| fields.extend(value.map(|value| (name, value.to_owned())));
    match &entry.credential {
        Err(_) => {}
        Ok(Credential::AccessToken(token)) => {
            put("home_account_id", token.home_account_id.as_deref());
            put("environment", Some(&token.environment));
            put("client_id", Some(&token.client_id));
            put("realm", Some(&token.realm));
            put("target", Some(&token.target.to_string()));
            put("token_type", Some(&token.token_type));
            if let TokenScheme::Bound { key_id, .. } = &token.scheme {
                put("key_id", key_id.as_deref());
            }
            put("cached_at", Some(&token.cached_at.to_string()));
            put("expires_on", Some(&token.expires_on.to_string()));
            put("extended_expires_on", Some(&token.extended_expires_on.to_string()));
            put("refresh_on", token.refresh_on.map(|at| at.to_string()).as_deref());
            put("user_assertion_hash", token.user_assertion_hash.as_deref());
            put("ext_cache_key", token.extended.as_ref().map(strongroom::ExtendedKey::as_str));
        }
        Ok(Credential::RefreshToken(token)) => {
            put("home_account_id", token.home_account_id.as_deref());
            put("environment", Some(&token.environment));
            put("client_id", Some(&token.client_id));
            put("family_id", token.family_id.as_deref());
            put("target", Some(&token.target.to_string()).filter(|target| !target.is_empty()).map(|t| &**t));
            put("last_modification_time", token.last_modification_time.map(|at| at.to_string()).as_deref());
            put("user_assertion_hash", token.user_assertion_hash.as_deref());
        }
        Ok(Credential::IdToken(token)) => {
            put("home_account_id", token.home_account_id.as_deref());
            put("environment", Some(&token.environment));
            put("client_id", Some(&token.client_id));
            put("realm", Some(&token.realm));
            put("user_assertion_hash", token.user_assertion_hash.as_deref());
        }
        Ok(Credential::Account(account)) => {
            put("home_account_id", Some(&account.home_account_id));
            put("environment", Some(&account.environment));
            put("realm", Some(&account.realm));
            put("local_account_id", Some(&account.local_account_id));
            put("username", Some(&account.username));
            put("authority_type", Some(&account.authority_type));
            put("account_source", account.account_source.as_deref());
        }
        Ok(Credential::AppMetadata(app)) => {
            put("client_id", Some(&app.client_id));
            put("environment", Some(&app.environment));
            put("family_id", app.family_id.as_deref());
        }
        Ok(_) => {}
    }
    fields
}
