//! One connection as data, and the table of its life: [`Phase::step`]. Pure: no driver, no clock.
//!
//! ```text
//! Open ──finish──▶ Draining ──flushed──▶ Lingering ──eof, deadline──▶ Closing ──nothing in flight──▶ gone
//!   └──────────────────────── abort ─────────────────────────────────▶ Closing
//! ```
//! The worker (`worker.rs`) carries out what the table says.

use crate::event::{Errno, Socket, Then};
use crate::memory::Memory;
use crate::output::Output;
use crate::time::Tick;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The protocol is called.
    Open,
    /// The protocol is done; output is still to be sent, input is discarded.
    Draining,
    /// Everything was sent and our side is shut; input is discarded until the peer closes, so that
    /// closing cannot turn into a reset that destroys the last reply on its way (RFC 9112, 9.6).
    Lingering,
    /// Waiting for the last completions; then the socket is closed and the slot is free.
    Closing,
}

/// What can happen to a connection's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The protocol wants to close once the output is sent.
    Finish,
    /// Nothing is left to send.
    Flushed,
    /// The peer will send no more.
    PeerEof,
    /// Something failed, or nobody wants to wait any longer.
    Abort,
}

impl Phase {
    /// The phase after `signal`; `peer_eof` says whether the peer has already closed its side.
    pub(crate) fn step(self, signal: Signal, peer_eof: bool) -> Phase {
        use {Phase::*, Signal::*};
        crate::hooks::stepped(self, signal, peer_eof);
        match (self, signal) {
            (Open, Finish) => Draining,
            (Draining, Flushed) if peer_eof => Closing,
            (Draining, Flushed) => Lingering,
            (Lingering, PeerEof) => Closing,
            (_, Abort) => Closing,
            (phase, _) => phase,
        }
    }
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The protocol asked for it: the end of the stream follows what it wrote.
    Finished,
    /// The protocol asked for it: a reset follows what it wrote.
    Aborted,
    /// The peer reset the connection, or the transport failed.
    Failed(Errno),
    /// The peer took no output, or nearly none, for `Config::write_timeout`.
    WriteTimeout,
    /// The worker's memory budget is used up, and this connection needed more.
    MemoryExhausted,
    /// Queued output passed `Config::output_bytes_max`.
    OutputOverflow,
    /// The protocol left more than `Config::input_bytes_max` unconsumed.
    InputOverflow,
    /// The protocol panicked.
    Panicked,
    /// The engine stopped, or the drain deadline passed.
    Stopped,
}

/// The receive operation of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recv {
    /// None is in flight.
    Idle,
    /// In flight.
    Armed,
    /// In flight, and a cancel is on its way: data may still come first.
    Cancelling,
    /// None is in flight, because no buffer was free; armed again after buffers were returned.
    Starved,
}

/// Bytes that the protocol has not consumed yet. Exists only while there are some.
#[derive(Default)]
pub(crate) struct Carry {
    bytes: Vec<u8>,
    start: usize,
    /// What the worker's ledger has for this buffer.
    counted_bytes: usize,
}

impl Carry {
    /// Tells the ledger when the buffer has grown.
    pub(crate) fn count_memory(&mut self, memory: &mut Memory) {
        memory.change(self.counted_bytes, self.bytes.capacity());
        self.counted_bytes = self.bytes.capacity();
    }

    /// What the ledger has for this buffer.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.counted_bytes
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        // Move the rest to the front before growing: at most one move for each doubling of the input.
        if self.start > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.bytes.len());
    }

    /// Empties the value for its next use; false if its memory is too large to keep.
    pub(crate) fn reset(&mut self) -> bool {
        self.bytes.clear();
        self.start = 0;
        self.bytes.capacity() <= 16 * 1024
    }
}

/// One connection: its slab entry is all the memory an idle one has.
pub(crate) struct Conn {
    pub(crate) generation: u32,
    pub(crate) socket: Socket,
    /// Which listener, and with it which protocol.
    pub(crate) service: u16,
    pub(crate) phase: Phase,
    pub(crate) recv: Recv,
    /// Something was received since receiving was armed.
    pub(crate) fed: bool,
    /// In the worker's list of connections to flush.
    pub(crate) dirty: bool,
    /// The protocol asked to be given no input.
    pub(crate) paused: bool,
    /// Queued output is above high water: no input until it is below low water.
    pub(crate) held: bool,
    /// The protocol is to be told when output is below low water.
    pub(crate) wants_drained: bool,
    /// There is input the protocol has not seen in this form: call `data` when it may be called.
    pub(crate) input_due: bool,
    /// The peer will send no more.
    pub(crate) peer_eof: bool,
    /// The protocol was told so.
    pub(crate) eof_told: bool,
    /// Close with a reset.
    pub(crate) reset: bool,
    /// Everything in flight was asked to end.
    pub(crate) cancelled: bool,
    pub(crate) session: u32,
    /// Memory the session said it holds, in KiB rounded up.
    pub(crate) held_kib: u32,
    /// Call `data` only with at least this many bytes.
    pub(crate) need_bytes: u32,
    /// Output in the send operation; zero when none is in flight.
    pub(crate) in_flight_bytes: usize,
    /// Whether the send operation was submitted as one that somebody waits for.
    pub(crate) awaited: bool,
    /// Output waiting for the send operation.
    pub(crate) pending: Option<Box<Output>>,
    pub(crate) carry: Option<Box<Carry>>,
    /// The protocol's deadline; of a lingering connection, when it is closed whatever is left.
    pub(crate) deadline: Tick,
    /// The engine's own deadline: output must move, or lingering must end, until then.
    pub(crate) stall_deadline: Tick,
    /// What the kernel took of the output since the stall deadline was set.
    pub(crate) taken_bytes: u32,
    /// What the kernel had to deliver when the stall deadline was set; `UNKNOWN_BYTES` for the first one.
    pub(crate) undelivered_bytes: u32,
}

/// Nobody has looked yet.
pub(crate) const UNKNOWN_BYTES: u32 = u32::MAX;

impl Conn {
    pub(crate) fn new(generation: u32, socket: Socket, service: u16) -> Conn {
        Conn {
            generation,
            socket,
            service,
            phase: Phase::Open,
            recv: Recv::Idle,
            fed: false,
            dirty: false,
            paused: false,
            held: false,
            wants_drained: false,
            input_due: false,
            peer_eof: false,
            eof_told: false,
            reset: false,
            cancelled: false,
            session: u32::MAX,
            held_kib: 0,
            need_bytes: 0,
            in_flight_bytes: 0,
            awaited: false,
            pending: None,
            carry: None,
            deadline: Tick::NEVER,
            stall_deadline: Tick::NEVER,
            taken_bytes: 0,
            undelivered_bytes: UNKNOWN_BYTES,
        }
    }

    /// Output that was queued and not sent.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.in_flight_bytes + self.pending.as_ref().map_or(0, |output| output.len())
    }

    /// Whether output waits or is on its way.
    pub(crate) fn is_sending(&self) -> bool {
        self.in_flight_bytes > 0 || self.pending.is_some()
    }

    pub(crate) fn is_recv_in_flight(&self) -> bool {
        matches!(self.recv, Recv::Armed | Recv::Cancelling)
    }

    /// Whether the kernel still holds something of this connection.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_recv_in_flight() || self.in_flight_bytes > 0
    }

    /// Whether bytes should be asked for now.
    pub(crate) fn wants_input(&self) -> bool {
        match self.phase {
            Phase::Open => !self.peer_eof && !self.paused && !self.held,
            Phase::Draining | Phase::Lingering => !self.peer_eof,
            Phase::Closing => false,
        }
    }

    /// Whether bytes that arrive can be handed to the protocol where they are.
    #[inline]
    pub(crate) fn takes_in_place(&self, bytes: usize) -> bool {
        self.carry.is_none() && !(self.paused | self.held) && bytes >= self.need_bytes as usize
    }

    /// Whether an open connection may have to be called, held back or given up. The hot path has none of it.
    #[inline]
    pub(crate) fn may_have_calls_due(&self, output_high_water_bytes: usize) -> bool {
        self.held | self.wants_drained | self.input_due | self.peer_eof
            || self.queued_bytes() >= output_high_water_bytes
    }

    /// Whether an open connection has nothing to do but to wait for input.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.phase == Phase::Open
            && self.recv == Recv::Armed
            && self.pending.is_none()
            && !(self.held | self.paused | self.wants_drained | self.input_due)
    }

    /// What follows once the output that is about to be sent is gone.
    pub(crate) fn after_send(&self) -> Then {
        if self.is_at_rest() {
            Then::Rest
        } else if self.phase == Phase::Draining && self.pending.is_none() && !self.reset {
            Then::End
        } else {
            Then::GoOn
        }
    }

    pub(crate) fn unread_bytes(&self) -> usize {
        self.carry.as_ref().map_or(0, |carry| carry.unread().len())
    }

    /// When to look at this connection next.
    pub(crate) fn next_deadline(&self) -> Tick {
        match self.phase {
            Phase::Open => self.deadline.min(self.stall_deadline),
            Phase::Draining | Phase::Lingering | Phase::Closing => self.stall_deadline,
        }
    }

    /// Some output went to the kernel, and some is left.
    pub(crate) fn count_taken(&mut self, bytes: u32) {
        self.taken_bytes = self.taken_bytes.saturating_add(bytes);
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
    fn the_table_of_a_life() {
        use {Phase::*, Signal::*};
        let check =
            |from: Phase, signal, eof, to| assert_eq!(from.step(signal, eof), to, "{from:?} {signal:?}");
        for eof in [false, true] {
            check(Open, Finish, eof, Draining);
            check(Open, Flushed, eof, Open);
            check(Open, PeerEof, eof, Open);
            check(Draining, Finish, eof, Draining);
            check(Draining, Flushed, eof, if eof { Closing } else { Lingering });
            check(Draining, PeerEof, eof, Draining);
            check(Lingering, Finish, eof, Lingering);
            check(Lingering, Flushed, eof, Lingering);
            check(Lingering, PeerEof, eof, Closing);
            for phase in [Open, Draining, Lingering, Closing] {
                check(phase, Abort, eof, Closing);
                check(Closing, Finish, eof, Closing);
            }
            check(Closing, Flushed, eof, Closing);
            check(Closing, PeerEof, eof, Closing);
        }
    }

    #[test]
    fn a_carry_keeps_order_while_it_is_eaten_from_the_front() {
        let mut carry = Carry::default();
        let (mut expected, mut next) = (Vec::new(), 0u8);
        for round in 0..200usize {
            let piece: Vec<u8> = (0..round % 37)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            carry.append(&piece);
            expected.extend_from_slice(&piece);
            let eat = (round * 7 % 41).min(expected.len());
            assert_eq!(carry.unread(), expected);
            carry.consume(eat);
            expected.drain(..eat);
        }
    }

    #[test]
    fn an_idle_connection_is_small() {
        assert!(std::mem::size_of::<Conn>() <= 96, "{}", std::mem::size_of::<Conn>());
    }
}
