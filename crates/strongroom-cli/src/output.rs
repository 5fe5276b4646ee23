//! What the user sees: results on stdout, everything else on stderr.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value, json};
use strongroom::{Error, SecretBytes};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::env_vars;
use crate::failure::Failure;

/// Sends logs to stderr. Warnings are shown unless `STRONGROOM_LOG` says otherwise; `-v` wins over it.
pub(crate) fn start_logging(verbose: u8) {
    let ours = |level| Targets::new().with_target("strongroom", level).with_target("strongroom_sts", level);
    let wanted = env_vars::read(env_vars::STRONGROOM_LOG).map(|text| text.parse::<Targets>());
    let filter = match (verbose, &wanted) {
        (0, Some(Ok(targets))) => targets.clone(),
        (0, _) => ours(LevelFilter::WARN),
        (1, _) => ours(LevelFilter::INFO),
        (2, _) => ours(LevelFilter::DEBUG),
        _ => Targets::new().with_default(LevelFilter::TRACE),
    };
    let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    let layer = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colours)
        .with_target(verbose > 1)
        .without_time()
        .with_filter(filter);
    tracing_subscriber::registry().with(layer).init();
    if let Some(Err(error)) = wanted {
        tracing::warn!("STRONGROOM_LOG is not understood: {error}");
    }
}

/// Writes one line of result to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    write_all(&format!("{text}\n"))
}

/// Writes a value as JSON to stdout.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string(value).map_err(|error| Failure::other("output_failed", error.to_string()))?;
    line(&text)
}

/// Writes one line of result that is secret to stdout, with no copy of it that is not wiped.
pub(crate) fn secret_line(text: &str) -> Result<(), Failure> {
    write_all(text)?;
    write_all("\n")
}

/// Writes a value with secrets in it as JSON to stdout, likewise.
pub(crate) fn secret_json(value: &impl Serialize) -> Result<(), Failure> {
    let failed = |error: String| Failure::other("output_failed", error);
    let mut text = SecretBytes::default();
    serde_json::to_writer(&mut text, value).map_err(|error| failed(error.to_string()))?;
    secret_line(std::str::from_utf8(text.expose()).map_err(|error| failed(error.to_string()))?)
}

/// Writes text to stdout, colours only if it is a terminal.
pub(crate) fn write_all(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        // Who closed the pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// Writes a note for people to stderr, without what could play tricks on a terminal. Names of files in it may still
/// have a line break, which [`printable`] takes too.
pub(crate) fn note(text: &str) {
    write_note(&printable_lines(text));
}

fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

fn write_note(text: &str) {
    // Where stderr is closed nobody reads notes.
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Says why the command failed: for people on stderr, for programs as one JSON object on stdout.
pub(crate) fn report(failure: &Failure, as_json: bool) {
    if as_json {
        let _ = json(&error_object(&failure.error));
        return;
    }
    let mut text = format!("\u{1b}[1;31merror:\u{1b}[0m {}", printable_lines(&failure.error.to_string()));
    if let Some(remedy) = failure.error.remedy() {
        let _ = write!(text, "\n  \u{1b}[1mhint:\u{1b}[0m {}", printable_lines(&remedy));
    }
    write_note(&text);
}

fn error_object(error: &Error) -> Value {
    let mut object = Map::new();
    object.insert("error".into(), error.code().into());
    object.insert("message".into(), error.to_string().into());
    object.insert("remedy".into(), error.remedy().as_deref().into());
    if let Some(wait) = error.retry_after() {
        object.insert("retry_after".into(), wait.as_secs().into());
    }
    if let Some(service) = error.service() {
        let mut put = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                object.insert(name.into(), value.as_str().into());
            }
        };
        put("error_description", &service.error_description);
        put("suberror", &service.suberror);
        put("claims", &service.claims);
        put("correlation_id", &service.correlation_id);
        put("timestamp", &service.timestamp);
        put("trace_id", &service.trace_id);
        put("error_uri", &service.error_uri);
        object.insert("error_codes".into(), json!(service.error_codes));
        object.insert("status".into(), service.status.into());
    }
    Value::Object(object)
}

/// A number of seconds in the two largest units that matter: `1h 5m`, `42s`, `-3d 2h`.
pub(crate) fn human_seconds(seconds: i64) -> String {
    let sign = if seconds < 0 { "-" } else { "" };
    let rest = seconds.unsigned_abs();
    let (days, hours, minutes, seconds) = (rest / 86_400, rest / 3600 % 24, rest / 60 % 60, rest % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{seconds}s"),
        (0, 0, _) => format!("{sign}{minutes}m {seconds}s"),
        (0, _, _) => format!("{sign}{hours}h {minutes}m"),
        (1..=999, _, _) => format!("{sign}{days}d {hours}h"),
        _ => format!("{sign}{days}d"),
    }
}

/// A text of somebody else's, without what could play tricks on a terminal.
pub(crate) fn printable(text: &str) -> String {
    let plays_tricks = |c: char| {
        // Those that turn the direction of the text make a name look like another one.
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if plays_tricks(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (61, "1m 1s"),
            (3_900, "1h 5m"),
            (90_000, "1d 1h"),
            (-5, "-5s"),
            (i64::MIN, "-106751991167300d"),
        ] {
            assert_eq!(human_seconds(seconds), text);
        }
    }
}
