//! What all sessions of a worker share: the time, the ledger of memory, buffers that are not in use.

use super::ends::Ends;
use super::outlet::Marks;
use super::unread::Unread;
use crate::bell::{Bell, ConnId, Wakers};
use crate::config::Config;
use crate::dialer::Requests;
use crate::gate::Passes;
use crate::memory::Memory;
use crate::output::Output;
use crate::stats::WorkerStats;
use crate::time::{Tick, WallClock};
use std::sync::Arc;
use std::time::Duration;

/// What all sessions of a worker share.
pub(crate) struct Shared {
    pub(crate) now: Tick,
    pub(crate) wall: WallClock,
    pub(crate) draining: bool,
    /// While draining: when whatever is left is stopped.
    pub(crate) drain_until: Tick,
    /// More has happened than this turn is told of.
    pub(crate) is_behind: bool,
    pub(crate) memory: Memory,
    /// The water marks are lower while memory is short.
    pub(crate) marks: Marks,
    /// After so long a pause that has no deadline of its own ends.
    pub(crate) pause_timeout: Duration,
    pub(crate) stats: Arc<WorkerStats>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) wakers: Wakers,
    pub(crate) requests: Requests,
    pub(crate) ends: Ends,
    pub(crate) passes: Passes,
    /// The source that a session has asked for just now, and the session's own connection ([`Io::splice`](crate::Io::splice)).
    pub(crate) splice: Option<(ConnId, ConnId)>,
    /// Outputs that are not in use, emptied.
    #[expect(clippy::vec_box, reason = "the box is what is used again: it moves to its next owner as it is")]
    spare: Vec<Box<Output>>,
    /// The memory in them.
    spare_bytes: usize,
    #[expect(clippy::vec_box, reason = "as above")]
    spare_unread: Vec<Box<Unread>>,
}

/// Where the memory of a session that is over goes.
pub struct Reclaim<'a>(pub(crate) &'a mut Shared);

impl Reclaim<'_> {
    /// The time of this turn.
    pub fn now(&self) -> Tick {
        self.0.now
    }
}

/// Outputs a worker keeps for the next turns; more are freed.
pub(crate) const SPARE_OUTPUTS_MAX: usize = 1024;
/// The memory in them. An output of a large reply that is freed costs the next one a page fault for every 4 KiB.
pub(super) const SPARE_OUTPUT_BYTES_MAX: usize = 8 << 20;
/// Buffers of unconsumed input kept for the next use.
pub(super) const SPARE_UNREAD_MAX: usize = 256;
/// High water of a connection's output while memory is short: enough to go on, slowly.
const PRESSED_HIGH_WATER_BYTES: usize = 16 * 1024;

impl Shared {
    pub(crate) fn new(config: &Config, bell: Arc<Bell>, stats: Arc<WorkerStats>) -> Shared {
        let mut memory = Memory::new(config.memory_bytes_max);
        memory.change(0, config.pool_bytes());
        Shared {
            memory,
            now: Tick(0),
            wall: WallClock::default(),
            draining: false,
            drain_until: Tick::NEVER,
            is_behind: false,
            marks: Marks {
                output_low: config.output_low_water_bytes,
                output_high: config.output_high_water_bytes,
                output_max: config.output_bytes_max,
                input_max: config.input_bytes_max,
            },
            pause_timeout: config.pause_timeout,
            stats,
            bell,
            wakers: Wakers::default(),
            requests: Requests::default(),
            ends: Ends::default(),
            passes: Passes::default(),
            splice: None,
            spare: Vec::new(),
            spare_bytes: 0,
            spare_unread: Vec::new(),
        }
    }

    /// Protocol code panicked; the panic's own message is on standard error already.
    #[cold]
    pub(crate) fn count_panic(&mut self, index: u32) {
        self.stats.live.panics.add(1);
        tracing::error!(connection = index, "protocol code panicked: the connection is closed");
    }

    /// The same, where no connection is known or none is to blame.
    #[cold]
    pub(crate) fn count_panic_outside(&mut self) {
        self.stats.live.panics.add(1);
        tracing::error!("protocol code panicked outside a session");
    }

    /// Takes an output that is done, for the next connection that writes.
    #[inline]
    pub(crate) fn recycle(&mut self, mut output: Box<Output>) {
        output.count_memory(&mut self.memory);
        let bytes = output.memory_bytes();
        let has_room =
            self.spare.len() < SPARE_OUTPUTS_MAX && self.spare_bytes + bytes <= SPARE_OUTPUT_BYTES_MAX;
        if output.reset() && has_room && !self.memory.is_short() {
            self.spare_bytes += bytes;
            self.spare.push(output);
        } else {
            self.memory.change(bytes, 0);
        }
    }

    /// An empty output for whoever begins to write.
    #[inline]
    pub(crate) fn output(&mut self) -> Box<Output> {
        let Some(output) = self.spare.pop() else { return Box::default() };
        self.spare_bytes -= output.memory_bytes();
        output
    }

    /// An empty buffer for input that is kept.
    pub(crate) fn unread(&mut self) -> Box<Unread> {
        self.spare_unread.pop().unwrap_or_default()
    }

    /// Takes a buffer of input that is consumed, for the next connection that keeps some.
    pub(crate) fn recycle_unread(&mut self, mut unread: Box<Unread>) {
        let is_kept = unread.reset() && self.spare_unread.len() < SPARE_UNREAD_MAX;
        if is_kept && !self.memory.is_short() {
            self.spare_unread.push(unread);
        } else {
            self.memory.change(unread.memory_bytes(), 0);
        }
    }

    /// While memory is short, connections queue less and nothing is kept for later.
    pub(crate) fn adapt_to_memory(&mut self, config: &Config) {
        let marks = &mut self.marks;
        (marks.output_high, marks.output_low) =
            (config.output_high_water_bytes, config.output_low_water_bytes);
        if self.memory.is_short() {
            marks.output_high = marks.output_high.min(PRESSED_HIGH_WATER_BYTES);
            marks.output_low = marks.output_low.min(marks.output_high / 4);
            self.spare_bytes = 0;
            self.spare.drain(..).for_each(|output| self.memory.change(output.memory_bytes(), 0));
            self.spare_unread.drain(..).for_each(|unread| self.memory.change(unread.memory_bytes(), 0));
        }
    }
}
