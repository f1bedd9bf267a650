//! The way out of a WebSocket: messages to frames, at once where there is room, and piece by piece where they are large.
//!
//! A large message goes out in frames of [`FRAGMENT_BYTES`], cut from one shared buffer as the client reads: control frames pass between
//! them, and no message is too large for the output. What is sent meanwhile waits behind it, in order.

use super::deflate::{Codec, Context};
use super::extension::Agreement;
use super::frame::{FRAGMENT_BYTES, Opcode, write_close, write_header};
use super::message::{Message, SharedMessage};
use super::options::Options;
use super::publishing::Publishing;
use super::subscriptions::Subscriptions;
use crate::topic::Hub;
use bytes::Bytes;
use ringmill_engine::Io;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

/// What all connections of one endpoint of a worker share.
pub(super) struct Common {
    pub(super) options: Options,
    pub(super) codec: RefCell<Codec>,
    /// How many connections there are.
    pub(super) open: Cell<u32>,
    /// Where its connections publish and subscribe.
    pub(super) hub: Option<Hub>,
    pub(super) publishing: Publishing,
    /// Counts what is to be spread over time.
    sequence: Cell<u32>,
}

/// The state of the way out.
pub(super) struct Sending {
    queue: Option<Box<Queue>>,
    pub(super) topics: Option<Box<Subscriptions>>,
    pub(super) context: Option<Box<Context>>,
    /// Zero if nothing is compressed.
    pub(super) window_bits: u8,
    pub(super) phase: Phase,
    /// A message is being sent in parts.
    in_parts: bool,
    /// The handler wants to be told that there is room.
    pub(super) wants_room: bool,
    /// The handler has a waker.
    pub(super) has_waker: bool,
    /// What our Close frame said; zero if it gave no code, or there was none.
    pub(super) code: u16,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// At the deadline the connection closes.
    Leaving,
    /// Our Close frame waits behind what was sent before it.
    ClosingSoon,
    /// It is written: nothing more may be, and the client has some time to answer.
    Closing,
}

/// Why many connections are closed at about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Departure {
    /// The server is draining.
    GoingAway,
    /// Messages were missed: the client has to begin anew.
    Missed,
}

/// What waits because a large message is being sent.
#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Those that nobody else accounts for.
    owned_bytes: usize,
}

enum Item {
    /// So much of a message, or of a part of one, was sent.
    Message {
        opcode: Opcode,
        bytes: Bytes,
        /// The message ends with it.
        is_last: bool,
        sent: usize,
        is_owned: bool,
    },
    /// A frame, header and all.
    Frame(Vec<u8>),
    Close(u16, Box<str>),
}

/// What something that waits counts for besides its bytes.
const ITEM_BYTES: usize = 64;
/// The code for a client that does not read what it is sent: there is none in the registry.
const TOO_SLOW: u16 = 4008;
/// Connections that are to go are closed one every so often on average, or faster, if there is less time for all of them.
const GOING_APART: Duration = Duration::from_millis(20);
/// The time for those that missed messages.
const MISSED_WITHIN: Duration = Duration::from_secs(5);

impl Common {
    pub(super) fn new(options: Options) -> Common {
        let (open, sequence) = (Cell::new(0), Cell::new(0));
        Common {
            options,
            codec: RefCell::default(),
            open,
            hub: None,
            publishing: Publishing::default(),
            sequence,
        }
    }

    /// The next of a sequence of numbers from zero to one that fills the space between them evenly, however many there are.
    pub(super) fn spread(&self) -> f64 {
        // The golden ratio, as a fraction of 2^32: of all numbers the one that is worst to approximate (Knuth, 6.4).
        let next = self.sequence.get().wrapping_add(0x9e37_79b9);
        self.sequence.set(next);
        f64::from(next) / f64::from(u32::MAX)
    }
}

impl Sending {
    pub(super) fn new(agreed: Option<Agreement>, context: Option<Box<Context>>) -> Sending {
        Sending {
            queue: None,
            topics: None,
            context,
            window_bits: agreed.map_or(0, |agreed| agreed.window_bits),
            phase: Phase::Open,
            in_parts: false,
            wants_room: false,
            has_waker: false,
            code: 0,
        }
    }

    /// Whether messages may still be sent.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Leaving)
    }

    /// Whether our Close frame is not written yet, so that others may be.
    #[inline]
    pub(super) fn may_answer(&self) -> bool {
        self.phase != Phase::Closing
    }

    /// Whether something waits behind a large message.
    #[inline]
    pub(super) fn is_busy(&self) -> bool {
        self.queue.is_some()
    }

    /// Whether a message is being sent in parts, so that no other may be.
    pub(super) fn in_parts(&self) -> bool {
        self.in_parts
    }

    /// Memory that is this connection's.
    pub(super) fn held_bytes(&self) -> usize {
        let queue = self.queue.as_ref().map_or(0, |queue| queue.owned_bytes);
        queue + self.context.as_ref().map_or(0, |context| context.bytes())
    }

    /// Sends while there is room. Half of it is left for control frames, and so that reading goes on.
    pub(super) fn pump(&mut self, common: &Common, io: &mut Io<'_>) {
        let Some(queue) = &mut self.queue else { return };
        while io.room_bytes() > io.queued_bytes() {
            match queue.items.front_mut() {
                None => {
                    self.queue = None;
                    return;
                }
                Some(Item::Message { opcode, bytes, is_last, sent, is_owned }) => {
                    let part = bytes.slice(*sent..bytes.len().min(*sent + FRAGMENT_BYTES));
                    let part_opcode = if *sent == 0 { *opcode } else { Opcode::Continuation };
                    *sent += part.len();
                    let is_sent = *sent == bytes.len();
                    write_header(io.buffer(), part_opcode, is_sent && *is_last, false, part.len());
                    queue.bytes -= part.len();
                    io.queue(part);
                    if is_sent {
                        queue.owned_bytes -= if *is_owned { bytes.len() } else { 0 };
                        queue.items.pop_front();
                    }
                }
                Some(Item::Frame(frame)) => {
                    queue.bytes -= frame.len();
                    queue.owned_bytes -= frame.len();
                    io.queue(Bytes::from(std::mem::take(frame)));
                    queue.items.pop_front();
                }
                Some(Item::Close(code, reason)) => {
                    write_close(io.buffer(), (*code != 0).then_some(*code), reason);
                    self.phase = Phase::Closing;
                    io.set_timeout(common.options.close_within);
                    self.queue = None;
                    return;
                }
            }
        }
        io.notify_drained();
    }

    /// Writes our Close frame behind all that was sent, and waits for the client's.
    pub(super) fn close(&mut self, code: u16, reason: &str, common: &Common, io: &mut Io<'_>) {
        if !self.is_open() {
            return;
        }
        self.code = code;
        match &mut self.queue {
            Some(queue) => {
                queue.items.push_back(Item::Close(code, reason.into()));
                self.phase = Phase::ClosingSoon;
            }
            None => self.close_now(code, reason, common, io),
        }
    }

    /// The same, in place of all that still waits.
    pub(super) fn close_now(&mut self, code: u16, reason: &str, common: &Common, io: &mut Io<'_>) {
        if self.phase == Phase::Closing {
            return;
        }
        self.queue = None;
        self.code = code;
        self.phase = Phase::Closing;
        write_close(io.buffer(), (code != 0).then_some(code), reason);
        io.set_timeout(common.options.close_within);
    }

    /// Closes in a while, if not all are to go at once: clients that come back do so at the same time. Who goes already keeps its reason, but
    /// not its time.
    pub(super) fn leave(&mut self, why: Departure, most: Duration, common: &Common, io: &mut Io<'_>) {
        if self.phase == Phase::Open {
            self.phase = Phase::Leaving;
            self.code = why.code();
        }
        let time = most.min(GOING_APART * common.open.get());
        io.set_timeout(time.mul_f64(common.spread()));
    }

    /// The same for a client that has to begin anew: until then it is sent nothing of what it subscribed to.
    pub(super) fn begin_anew(&mut self, common: &Common, io: &mut Io<'_>) {
        if self.is_open() {
            self.topics = None;
        }
        // Who goes already is sent as little.
        if self.phase == Phase::Open {
            self.leave(Departure::Missed, MISSED_WITHIN, common, io);
        }
    }

    /// The time has come.
    pub(super) fn leave_now(&mut self, common: &Common, io: &mut Io<'_>) {
        let why =
            if self.code == Departure::Missed.code() { Departure::Missed } else { Departure::GoingAway };
        self.close(why.code(), why.reason(), common, io);
    }

    /// Gives up a client that does not read.
    pub(super) fn close_slow(&mut self, common: &Common, io: &mut Io<'_>) {
        self.close_now(TOO_SLOW, "messages are not read in time", common, io);
    }

    /// Sends a message whose bytes are copied.
    #[inline]
    pub(super) fn send(&mut self, message: Message<'_>, common: &Common, io: &mut Io<'_>) {
        let (opcode, bytes) = match &message {
            Message::Text(text) => (Opcode::Text, text.as_bytes()),
            Message::Binary(bytes) => (Opcode::Binary, *bytes),
        };
        if !self.may_send(common, io) || self.send_deflated(opcode, bytes, common, io) {
            return;
        }
        if self.queue.is_none() && bytes.len() <= FRAGMENT_BYTES {
            let buffer = io.buffer();
            write_header(buffer, opcode, true, false, bytes.len());
            buffer.extend_from_slice(bytes);
        } else {
            self.put_off(opcode, Bytes::copy_from_slice(bytes), true, true, common, io);
        }
    }

    pub(super) fn send_shared(&mut self, message: &SharedMessage, common: &Common, io: &mut Io<'_>) {
        let opcode = if message.is_text { Opcode::Text } else { Opcode::Binary };
        let bytes = &message.bytes;
        if !self.may_send(common, io) || self.send_deflated(opcode, bytes, common, io) {
            return;
        }
        self.send_plain(opcode, bytes, common, io);
    }

    /// The same as it is: not compressed.
    #[inline]
    pub(super) fn send_plain(&mut self, opcode: Opcode, bytes: &Bytes, common: &Common, io: &mut Io<'_>) {
        if !self.may_send(common, io) {
            return;
        }
        if self.queue.is_some() || bytes.len() > FRAGMENT_BYTES {
            return self.put_off(opcode, bytes.clone(), true, false, common, io);
        }
        let buffer = io.buffer();
        write_header(buffer, opcode, true, false, bytes.len());
        io.queue_ref(bytes);
    }

    /// Sends a whole message, of which others share the frame.
    #[inline]
    pub(super) fn send_framed(&mut self, framed: &Bytes, common: &Common, io: &mut Io<'_>) {
        if self.may_send(common, io) {
            io.queue_ref(framed);
        }
    }

    /// Sends a part of a message.
    pub(super) fn send_part(
        &mut self,
        message: Message<'_>,
        is_last: bool,
        common: &Common,
        io: &mut Io<'_>,
    ) {
        if !self.has_room(common, io) {
            return;
        }
        let first = if message.is_text() { Opcode::Text } else { Opcode::Binary };
        let opcode = if self.in_parts { Opcode::Continuation } else { first };
        self.in_parts = !is_last;
        let bytes = message.as_bytes();
        if self.queue.is_none() && bytes.len() <= FRAGMENT_BYTES {
            self.write_frame(opcode, is_last, false, bytes, io);
        } else {
            self.put_off(opcode, Bytes::copy_from_slice(bytes), is_last, true, common, io);
        }
    }

    /// Sends a message compressed; `false` if it is better sent as it is, or has to be.
    fn send_deflated(&mut self, opcode: Opcode, bytes: &[u8], common: &Common, io: &mut Io<'_>) -> bool {
        let Some(options) = &common.options.deflate else { return false };
        if self.window_bits == 0 || !(options.bytes_min..=options.bytes_max).contains(&bytes.len()) {
            return false;
        }
        let codec = &mut *common.codec.borrow_mut();
        match codec.compress(self.context.as_deref_mut(), self.window_bits, bytes, options) {
            Some(packed) => {
                self.write_frame(opcode, true, true, packed, io);
                true
            }
            None if self.context.as_ref().is_some_and(|context| context.keeps_ours()) => {
                // What the client would have to refer to is lost. Not known to happen.
                self.close_now(1011, "compression failed", common, io);
                true
            }
            None => false,
        }
    }

    fn write_frame(
        &mut self,
        opcode: Opcode,
        is_final: bool,
        is_deflated: bool,
        payload: &[u8],
        io: &mut Io<'_>,
    ) {
        match &mut self.queue {
            None => {
                let buffer = io.buffer();
                write_header(buffer, opcode, is_final, is_deflated, payload.len());
                buffer.extend_from_slice(payload);
            }
            Some(queue) => {
                let mut frame = Vec::with_capacity(payload.len() + 10);
                write_header(&mut frame, opcode, is_final, is_deflated, payload.len());
                frame.extend_from_slice(payload);
                queue.bytes += frame.len();
                queue.owned_bytes += frame.len();
                queue.items.push_back(Item::Frame(frame));
            }
        }
    }

    fn put_off(
        &mut self,
        opcode: Opcode,
        bytes: Bytes,
        is_last: bool,
        is_owned: bool,
        common: &Common,
        io: &mut Io<'_>,
    ) {
        let queue = self.queue.get_or_insert_default();
        queue.bytes += bytes.len();
        queue.owned_bytes += if is_owned { bytes.len() } else { 0 };
        let is_first = queue.items.is_empty();
        queue.items.push_back(Item::Message { opcode, bytes, is_last, sent: 0, is_owned });
        if is_first {
            self.pump(common, io);
        }
    }

    /// Whether a whole message may be sent.
    #[inline]
    fn may_send(&mut self, common: &Common, io: &mut Io<'_>) -> bool {
        if self.in_parts {
            tracing::error!("a message was sent within one that is sent in parts: ignored");
            return false;
        }
        self.has_room(common, io)
    }

    /// Whether the connection is open, and its client reads fast enough.
    #[inline]
    fn has_room(&mut self, common: &Common, io: &mut Io<'_>) -> bool {
        if !self.is_open() {
            return false;
        }
        let waiting = io.queued_bytes() + self.queue.as_ref().map_or(0, |queue| queue.bytes_behind());
        if waiting >= common.options.outgoing_bytes_max {
            self.close_slow(common, io);
            return false;
        }
        true
    }
}

impl Departure {
    pub(super) fn code(self) -> u16 {
        match self {
            Departure::GoingAway => 1001,
            Departure::Missed => 4009,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Departure::GoingAway => "the server goes away",
            Departure::Missed => "messages were missed",
        }
    }
}

impl Queue {
    /// What waits behind the message that is being sent.
    fn bytes_behind(&self) -> usize {
        let bytes = match self.items.front() {
            Some(Item::Message { bytes, sent, .. }) => self.bytes - (bytes.len() - sent),
            _ => self.bytes,
        };
        bytes + self.items.len() * ITEM_BYTES
    }
}
