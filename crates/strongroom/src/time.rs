//! The two clocks: the wall clock that tokens expire by, which a test can set, and the monotonic one that waits
//! are measured by.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// A moment in whole seconds since 1970-01-01T00:00:00Z, the time of the cache schema and of OAuth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixSeconds(i64);

impl UnixSeconds {
    /// The moment `seconds` after the epoch.
    #[must_use]
    pub const fn new(seconds: i64) -> Self {
        Self(seconds)
    }

    /// Seconds since the epoch.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Seconds from `earlier` to this moment, negative if this one is the earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `seconds` later (earlier if negative), at the end of time if that overflows.
    #[must_use]
    pub const fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where the library learns what time it is. Tests hand in one that they can set.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current time, rounded down to a whole second.
    fn now(&self) -> UnixSeconds;
}

/// The clock of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixSeconds {
        // Asked at each hit, and of whole seconds: the time of the last tick, some milliseconds ago, costs a fifth.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            use rustix::time::{ClockId, clock_gettime};
            UnixSeconds(clock_gettime(ClockId::RealtimeCoarse).tv_sec)
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        UnixSeconds(wall_clock().duration_since(SystemTime::UNIX_EPOCH).map_or_else(
            |before| -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
            |after| i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        ))
    }
}

/// The operating system's wall clock: for ages of files, which only it can be compared with.
#[allow(clippy::disallowed_methods)] // the one place
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// The end of a wait, on the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(duration: Duration) -> Self {
        let now = Instant::now();
        // A duration beyond the clock's range means "for ever"; a year is as good.
        Self(now.checked_add(duration).unwrap_or_else(|| now + Duration::from_secs(365 * 86_400)))
    }

    pub(crate) fn at(self) -> Instant {
        self.0
    }

    pub(crate) fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }

    pub(crate) fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
