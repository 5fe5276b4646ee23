//! Which answers may be retried, and when.
//!
//! Once, after about a second, for failures of the connection and for 5xx without `Retry-After`. With the header
//! the provider has said what it wants: the request fails at once and says so.

use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ConstantBuilder};

use super::error::ServiceError;
use super::transport::{HttpRequest, HttpResponse, Transport, TransportError};
use crate::time::{Deadline, wall_clock};
use crate::wait;

const PAUSE: Duration = Duration::from_millis(750);

/// Sends requests within one deadline.
#[derive(Debug)]
pub(crate) struct Exchange<'a> {
    transport: &'a dyn Transport,
    deadline: Deadline,
    /// Headers that every request of this exchange carries.
    headers: Vec<(&'static str, String)>,
}

impl<'a> Exchange<'a> {
    pub(crate) fn new(
        transport: &'a dyn Transport,
        timeout: Duration,
        headers: Vec<(&'static str, String)>,
    ) -> Self {
        Self { transport, deadline: Deadline::after(timeout), headers }
    }

    /// What is left of the time.
    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.remaining()
    }

    /// When the time is over.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Sends a request, and has no second try.
    pub(crate) async fn once(&self, mut request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let host = request.host();
        if self.deadline.has_passed() {
            return Err(TransportError::TimedOut { host });
        }
        request = request.timeout_at_most(self.deadline.remaining());
        request.headers.extend(self.headers.iter().cloned());
        // A transport that ignores the time-out must not hold the caller up.
        let sent = wait::until(self.deadline, self.transport.send(request)).await;
        sent.unwrap_or(Err(TransportError::TimedOut { host }))
    }

    /// Sends what `request` makes, a second time if that is worth it.
    pub(crate) async fn with_retry(
        &self,
        request: impl Fn() -> HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        // Jitter, so that a fleet that failed together does not come back together.
        let mut pauses = ConstantBuilder::new().with_delay(PAUSE).with_max_times(1).with_jitter().build();
        loop {
            let outcome = self.once(request()).await;
            let again = match &outcome {
                Ok(response) => response.status >= 500 && retry_after(response).is_none(),
                Err(error) => error.is_connection_failure(),
            };
            let Some(pause) = pauses.next().filter(|pause| again && *pause < self.deadline.remaining())
            else {
                return outcome;
            };
            tracing::debug!(?pause, "the identity provider failed; trying once more");
            wait::sleep(pause).await;
        }
    }
}

/// `Retry-After` (RFC 9110 §10.2.3): seconds, or a date. At most an hour; a date in the past is zero.
pub(crate) fn retry_after(response: &HttpResponse) -> Option<Duration> {
    parse_retry_after(response.header("retry-after")?, wall_clock())
}

fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More digits than a number holds: as long as may be.
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => Duration::MAX,
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(ServiceError::LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_each_of_its_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, seconds) in [
            ("3", Some(3)),
            (" 120 ", Some(120)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(3600)),
            ("86400", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sunday, 06-Nov-94 08:50:37 GMT", Some(60)),
            ("Sun Nov  6 08:50:37 1994", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
