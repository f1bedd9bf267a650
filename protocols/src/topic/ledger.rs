//! How many topics a worker has: whether there may be another one, and what is told to whoever reads counters and to the budget of the
//! worker's memory.

use super::core::{Busy, Core, Outside};
use super::counters::Live;
use std::sync::atomic::Ordering;

/// What a topic takes besides its messages, roughly.
const TOPIC_BYTES: usize = 512;

impl Core {
    /// Whether somebody may name this topic: it is known, or there is room for another one.
    pub(super) fn admit(&self, name: &str, outside: Outside<'_>) -> Result<(), Busy> {
        if !self.names.contains_key(name) && self.topics.len() >= outside.options.topics_max {
            outside.live.busy.fetch_add(1, Ordering::Relaxed);
            return Err(Busy);
        }
        Ok(())
    }

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
