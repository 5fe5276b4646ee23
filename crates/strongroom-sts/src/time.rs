//! The wall clock and the forms in which the provider writes a moment. The only place that reads
//! the system's clock; what the provider calls "now" is this plus the skew that [`crate::control`]
//! holds.

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

/// Seconds since 1970-01-01 UTC.
pub(crate) type UnixSeconds = i64;

/// The system's clock.
pub(crate) fn system_now() -> UnixSeconds {
    Timestamp::now().as_second()
}

/// `2026-01-09 02:02:12Z`, as in Entra's error answers.
pub(crate) fn entra_text(at: UnixSeconds) -> String {
    timestamp(at).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// `2026-01-09`.
pub(crate) fn date_text(at: UnixSeconds) -> String {
    timestamp(at).strftime("%Y-%m-%d").to_string()
}

/// The form of the HTTP `Date` header.
pub(crate) fn http_text(at: UnixSeconds) -> String {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&timestamp(at)).unwrap_or_default()
}

/// Reads RFC 3339, such as `2027-01-01T00:00:00Z`.
pub(crate) fn parse_rfc3339(text: &str) -> Option<UnixSeconds> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// Writes RFC 3339.
pub(crate) fn rfc3339_text(at: UnixSeconds) -> String {
    timestamp(at).to_string()
}

/// Moments beyond the calendar's end become its end: only a skewed clock leads there.
fn timestamp(at: UnixSeconds) -> Timestamp {
    Timestamp::from_second(at).unwrap_or(if at < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
