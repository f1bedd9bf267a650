//! What a worker's topics tell of themselves: to whoever reads counters, and to the budget of the worker's memory.

use super::core::{Core, Outside};
use super::counters::Live;

/// What a topic takes besides its messages, roughly.
const TOPIC_BYTES: usize = 512;

impl Core {
    /// Tells what there is now.
    pub(super) fn tell(&mut self, outside: Outside<'_>) {
        Live::set(&outside.live.topics, self.topics.len());
        Live::set(&outside.live.kept_bytes, self.bytes);
        let kib = (self.bytes + self.topics.len() * TOPIC_BYTES).div_ceil(1024);
        if kib != self.held_kib
            && let Some(dialer) = outside.dialer
        {
            self.held_kib = kib;
            dialer.hold(kib * 1024);
        }
    }
}
