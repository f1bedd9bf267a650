//! The one clock of a protocol: what a handshake costs must be measured, while all other time is that of the turn.
#![expect(clippy::disallowed_methods, reason = "it measures the CPU of handshakes")]

use std::time::{Duration, Instant};

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
