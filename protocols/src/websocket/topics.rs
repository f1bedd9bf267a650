//! The topics that a connection subscribes to: their frames go out while the client reads, and wait in the topics' log meanwhile.

use super::frame::{Opcode, Violation, write_header};
use super::handler::Handler;
use super::message::SharedMessage;
use super::sending::{Common, Sending};
use super::session::Session;
use crate::topic::{Frame, Next};
use bytes::Bytes;
use ringmill_engine::Io;
use std::sync::Arc;

/// What the handler has to be told.
struct Skipped {
    topic: Arc<str>,
    messages: Option<u64>,
}

/// What goes to many is compressed once, so that it is worth it sooner than what goes to one.
const SHARED_BYTES_MIN: usize = 256;

/// So much of what was published is written before all of it is sent: the log has the rest, for everybody at once. A client that does not read
/// costs no more.
const AHEAD_BYTES: usize = 16 << 10;

impl<H: Handler> Session<H> {
    /// Sends what was published, and tells the handler what it has to know: what is missing, and that there is room.
    pub(super) fn catch_up(&mut self, io: &mut Io<'_>) -> Result<(), Violation> {
        while let Some(skipped) = self.sending.pump_topics(&self.shared.common, io) {
            self.with_handler(io, |handler, state, ws| {
                handler.skipped(state, &skipped.topic, skipped.messages, ws);
            })?;
        }
        if self.sending.wants_room && !self.sending.is_busy() {
            self.sending.wants_room = false;
            self.with_handler(io, |handler, state, ws| handler.room(state, ws))?;
        }
        Ok(())
    }
}

impl Sending {
    /// Sends what was published, a little ahead of the client. Stops where the handler has to be told something.
    fn pump_topics(&mut self, common: &Common, io: &mut Io<'_>) -> Option<Skipped> {
        let mut topics = self.topics.take()?;
        let mut empty = 0;
        let mut told = None;
        while empty < topics.list.len() {
            if !self.is_open() {
                return None;
            }
            if self.is_busy() || self.in_parts() {
                io.notify_drained();
                break;
            }
            if io.queued_bytes() >= AHEAD_BYTES || io.is_full() {
                io.notify_sent();
                break;
            }
            topics.turn = (topics.turn + 1) % topics.list.len();
            let subscription = &mut topics.list[topics.turn];
            match subscription.next() {
                Next::Frame(frame) => {
                    empty = 0;
                    self.send_frame(&frame, common, io);
                }
                Next::Empty => empty += 1,
                Next::Skipped(messages) => {
                    told = Some(Skipped { topic: subscription.topic(), messages });
                    break;
                }
                Next::Lagged => {
                    self.close_slow(common, io);
                    return None;
                }
            }
        }
        self.topics = Some(topics);
        told
    }

    fn send_frame(&mut self, frame: &Frame, common: &Common, io: &mut Io<'_>) {
        let bytes = frame.as_bytes();
        if let Some(packed) = self.deflated(frame, common) {
            let opcode = if frame.is_text() { Opcode::Text } else { Opcode::Binary };
            write_header(io.buffer(), opcode, true, true, packed.len());
            io.queue(packed);
        } else {
            self.send_shared(&SharedMessage { is_text: frame.is_text(), bytes: bytes.clone() }, common, io);
        }
    }

    /// The compressed frame that all share whose client can read it: but a connection with a window of its own compresses for itself.
    fn deflated(&self, frame: &Frame, common: &Common) -> Option<Bytes> {
        let options = common.options.deflate.as_ref().filter(|_| self.window_bits != 0)?;
        let bytes = frame.as_bytes();
        let is_worth_it =
            (options.bytes_min.min(SHARED_BYTES_MIN)..=options.bytes_max).contains(&bytes.len());
        if !is_worth_it
            || self.in_parts()
            || self.context.as_ref().is_some_and(|context| context.keeps_ours())
        {
            return None;
        }
        let (bits, packed) = frame.deflated(|| {
            let mut codec = common.codec.borrow_mut();
            let packed = codec.compress(None, options.window_bits, bytes, options)?;
            Some((options.window_bits, Bytes::copy_from_slice(packed)))
        })?;
        (*bits <= self.window_bits).then(|| packed.clone())
    }
}
