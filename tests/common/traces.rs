//! What clients may not leave behind when they are gone: connections, descriptors, memory.

use super::{descriptors, eventually, rss_anon_bytes};
use ringmill::{Counters, Running};

/// What this process had before they came. For tests that run `alone`.
pub struct Traces {
    descriptors: usize,
    rss_bytes: usize,
}

impl Traces {
    /// Looks as soon as nobody is connected.
    #[track_caller]
    pub fn before(running: &Running) -> Traces {
        eventually(0, || total(running).connections);
        Traces { descriptors: descriptors("self"), rss_bytes: rss_anon_bytes() }
    }

    /// Everybody is gone: nothing is open that was not open before, and what was accepted is closed.
    #[track_caller]
    pub fn expect_none(&self, running: &Running) {
        eventually((0, 0), || {
            let total = total(running);
            (total.connections, total.accepted - total.closed)
        });
        eventually(self.descriptors, || descriptors("self"));
    }

    /// How much more memory is resident than before.
    pub fn growth_bytes(&self) -> usize {
        rss_anon_bytes().saturating_sub(self.rss_bytes)
    }
}

pub fn total(running: &Running) -> Counters {
    running.stats().total()
}
