//! What a worker does when its memory runs short, in this order: accept no more, close idle connections, refuse
//! (`memory.rs` says from when on). Nothing is done while there is no pressure but one comparison a turn.

use super::{Life, Worker};
use crate::driver::Driver;
use crate::memory::Pressure;
use crate::seam::layer::Call;
use crate::time::Tick;
use std::time::Duration;

/// Idle connections are looked for at most once in this time: looking costs a walk over all connections.
const SHED_INTERVAL: Duration = Duration::from_millis(100);
/// The log says that memory is short at most once in this time.
const QUIET: Duration = Duration::from_secs(60);

/// What the worker remembers of it.
pub(super) struct Shortage {
    shed_at: Tick,
    quiet_until: Tick,
}

impl Shortage {
    pub(super) fn new() -> Shortage {
        Shortage { shed_at: Tick(0), quiet_until: Tick(0) }
    }
}

impl<D: Driver> Worker<D> {
    #[inline]
    pub(super) fn look_at_memory(&mut self) {
        let (before, pressure) = self.shared.memory.judge();
        self.shared.stats.live.memory_bytes.set(self.shared.memory.used() as u64);
        if pressure != Pressure::None || before != Pressure::None {
            self.on_pressure(before, pressure);
        }
    }

    #[cold]
    fn on_pressure(&mut self, before: Pressure, pressure: Pressure) {
        if pressure == Pressure::None {
            self.shared.adapt_to_memory(&self.config);
            // Accepting may be paused for this alone.
            self.has_room = true;
            return;
        }
        if before == Pressure::None {
            self.shared.stats.live.memory_shortages.add(1);
            self.shared.adapt_to_memory(&self.config);
            if self.shortage.quiet_until <= self.shared.now {
                self.shortage.quiet_until = self.shared.now.after(QUIET);
                tracing::warn!(
                    used = self.shared.memory.used(),
                    budget = self.config.memory_bytes_max,
                    "memory runs short: accepting pauses, then idle connections close, then requests are refused; \
                     raise memory_bytes_max, or lower connections_max; said once a minute"
                );
            }
            if self.life == Life::Running {
                self.pause_accepting();
            }
            self.hold_back();
        }
        if pressure >= Pressure::CloseIdle && self.shortage.shed_at <= self.shared.now {
            self.shortage.shed_at = self.shared.now.after(SHED_INTERVAL);
            self.shed();
        }
    }

    /// Lets every connection feel the lower water marks at once: each would take one more receive otherwise before it
    /// noticed, and its queue, which is full by then, would double for that.
    fn hold_back(&mut self) {
        for index in self.open_connections() {
            if self.conns[index as usize].duplex.is_open() {
                self.make_calls(index);
                self.settle(index);
            }
        }
    }

    /// Asks every connection that waits for input, and for nothing else, to close.
    fn shed(&mut self) {
        for index in self.open_connections() {
            let conn = &self.conns[index as usize];
            if conn.is_at_rest() && conn.duplex.inlet.kept.is_none() && conn.sending_bytes == 0 {
                self.call(index, Call::Shed);
                let closed = !self.conns[index as usize].duplex.is_open();
                self.shared.stats.live.shed.add(u64::from(closed));
                self.settle(index);
            }
        }
    }
}
