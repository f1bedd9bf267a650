//! The clocks of TLS, while all other time is that of the worker's turn: a stopwatch, because what a handshake costs must be measured,
//! and the calendar, because certificates hold for a part of it.
#![expect(clippy::disallowed_methods, reason = "see above")]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment in the middle of a turn.
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    pub(super) fn start() -> Stopwatch {
        Stopwatch(Instant::now())
    }

    /// The time since.
    pub(super) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Seconds since 1970.
pub(super) fn unix_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
