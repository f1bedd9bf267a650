//! One connection as the worker has it: what concerns its socket, and the duplex of its session. Pure: no driver, no clock.

use crate::event::{Socket, Then};
use crate::seam::io::Link;
use crate::session::duplex::Duplex;
use crate::session::inlet::Reading;
use crate::session::life::{Ending, Phase};
use crate::session::outlet::Last;
use crate::time::Tick;
use std::time::Duration;

/// The receive operation of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recv {
    /// None is in flight.
    Idle,
    /// In flight.
    Armed,
    /// In flight, and it has brought something.
    Fed,
    /// In flight, and a cancel is on its way: data may still come first.
    Cancelling,
    /// None is in flight, because no buffer was free; armed again after buffers were returned.
    Starved,
    /// None is in flight, but what passes the bytes on to another connection is.
    Spliced,
}

/// One connection: its slab entry, and that of its session, is all the memory an idle one has.
pub(crate) struct Conn {
    pub(crate) link: Link,
    pub(crate) duplex: Duplex,
    /// The session's key; `NO_SESSION` once it is over.
    pub(crate) session: u32,
    pub(crate) recv: Recv,
    /// Output in the send operation; zero when none is in flight. One while another connection's bytes go out here.
    pub(crate) sending_bytes: u32,
    /// In the worker's list of connections to flush.
    pub(crate) is_listed: bool,
    /// Everything in flight was asked to end.
    pub(crate) is_cancelled: bool,
    /// Its receive had to be cancelled once, because more came than its session took: it asks for less at once from then on.
    pub(crate) is_limited: bool,
    /// The engine's own deadline: output must move, or lingering must end, until then.
    pub(crate) stall_deadline: Tick,
    /// What the kernel took of the output since the stall deadline was set.
    pub(crate) taken_bytes: u32,
    /// What the kernel had to deliver when the stall deadline was set; `UNKNOWN_BYTES` for the first one.
    pub(crate) undelivered_bytes: u32,
}

/// Nobody has looked yet.
const UNKNOWN_BYTES: u32 = u32::MAX;
/// The key of no session.
pub(crate) const NO_SESSION: u32 = u32::MAX;

impl Conn {
    pub(crate) fn new(generation: u32, socket: Socket, service: u16) -> Conn {
        Conn {
            link: Link { generation, socket, service, write_secs: 0, held_kib: 0, facts: None },
            duplex: Duplex::new(),
            session: NO_SESSION,
            recv: Recv::Idle,
            sending_bytes: 0,
            is_listed: false,
            is_cancelled: false,
            is_limited: false,
            stall_deadline: Tick::NEVER,
            taken_bytes: 0,
            undelivered_bytes: UNKNOWN_BYTES,
        }
    }

    /// Output that was queued and not sent.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.sending_bytes as usize + self.duplex.outlet.pending_bytes()
    }

    pub(crate) fn is_receiving(&self) -> bool {
        matches!(self.recv, Recv::Armed | Recv::Fed | Recv::Cancelling)
    }

    /// Whether the kernel still holds something of this connection.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_receiving() || self.recv == Recv::Spliced || self.sending_bytes > 0
    }

    /// Whether receiving should start or end now. On the hot path it goes on.
    #[inline]
    pub(crate) fn is_recv_due(&self, paused_bytes_max: usize) -> bool {
        let is_armed = matches!(self.recv, Recv::Armed | Recv::Fed);
        let goes_on = is_armed && self.duplex.is_flowing();
        let is_spliced = || self.duplex.inlet.reading == Reading::Spliced || self.recv == Recv::Spliced;
        !goes_on && (self.wants_input(paused_bytes_max) != is_armed || is_spliced())
    }

    /// Whether bytes should be asked for now. A session that pauses goes on receiving until so many bytes are kept for it: an
    /// answer that comes soon costs no operation then, and a reset is noticed.
    pub(crate) fn wants_input(&self, paused_bytes_max: usize) -> bool {
        if !self.duplex.inlet.is_open() {
            return false;
        }
        match self.duplex.phase {
            Phase::Open => self.duplex.wants_input(paused_bytes_max),
            Phase::Draining | Phase::Lingering => true,
            Phase::Closing => false,
        }
    }

    /// Whether an open connection has nothing to do but to wait for input.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.duplex.outlet.pending.is_none() && self.is_at_ease()
    }

    /// The same, though something may be pending.
    #[inline]
    pub(crate) fn is_at_ease(&self) -> bool {
        matches!(self.recv, Recv::Armed | Recv::Fed) && self.duplex.is_at_ease()
    }

    /// What follows once the output that is about to be sent is gone.
    pub(crate) fn after_send(&self) -> Then {
        let duplex = &self.duplex;
        let has_end = match duplex.phase {
            Phase::Draining => duplex.ending == Ending::Eof,
            _ => duplex.outlet.last == Last::Written,
        };
        if self.is_at_rest() {
            Then::Rest
        } else if has_end && duplex.outlet.pending.is_none() {
            Then::End
        } else {
            Then::GoOn
        }
    }

    /// When to look at this connection next.
    pub(crate) fn next_deadline(&self) -> Tick {
        match self.duplex.phase {
            Phase::Open => self.duplex.deadline.min(self.stall_deadline),
            Phase::Draining | Phase::Lingering | Phase::Closing => self.stall_deadline,
        }
    }

    /// Some output went to the kernel, and some is left.
    pub(crate) fn count_taken(&mut self, bytes: u32) {
        self.taken_bytes = self.taken_bytes.saturating_add(bytes);
    }

    /// How long its peer may take nothing, where the configuration says so long of others.
    pub(crate) fn write_timeout(&self, of_others: Duration) -> Duration {
        match self.link.write_secs {
            0 => of_others,
            secs => Duration::from_secs(secs.into()),
        }
    }

    /// All output went to the kernel: nothing can stall.
    pub(crate) fn end_stall(&mut self) {
        self.stall_deadline = Tick::NEVER;
        self.taken_bytes = 0;
        self.undelivered_bytes = UNKNOWN_BYTES;
    }

    /// The stall deadline has passed, and the kernel still has `undelivered` bytes to deliver. Whether the peer took less
    /// than `bytes_min` meanwhile. Never after the first deadline: what the kernel had before is not known then.
    pub(crate) fn has_stalled(&mut self, undelivered: usize, bytes_min: u64) -> bool {
        let before = std::mem::replace(&mut self.undelivered_bytes, undelivered.min(1 << 31) as u32);
        let taken = std::mem::take(&mut self.taken_bytes);
        let delivered = (u64::from(before) + u64::from(taken)).saturating_sub(undelivered as u64);
        before != UNKNOWN_BYTES && delivered < bytes_min
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        assert!(std::mem::size_of::<Conn>() <= 104, "{}", std::mem::size_of::<Conn>());
    }
}
