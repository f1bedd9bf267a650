//! The topics that a connection subscribes to: their frames go out while the client reads, and wait in the topics' log meanwhile.

use super::frame::{Opcode, Violation, to_all};
use super::handler::Handler;
use super::message::SharedMessage;
use super::sending::{Common, Sending};
use super::session::Session;
use crate::topic::{AT_ONCE_BYTES, Frame, Next};
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
    /// Sends what was published, a little at a time: what a client does not read waits in the log, where it takes nothing more. Stops where
    /// the handler has to be told something.
    fn pump_topics(&mut self, common: &Common, io: &mut Io<'_>) -> Option<Skipped> {
        let mut topics = self.topics.take()?;
        let mut empty = 0;
        let mut told = None;
        // Before what it was sent has left, a client is sent nothing more: that would take memory for who does not read.
        let is_behind = io.sending_bytes() > 0;
        while empty < topics.len() {
            if !self.is_open() {
                return None;
            }
            if self.is_busy() || self.in_parts() {
                io.notify_drained();
                break;
            }
            if is_behind || io.is_full() {
                io.notify_sent();
                break;
            }
            let Some(subscription) = topics.next() else { break };
            if io.queued_bytes() >= AT_ONCE_BYTES && !subscription.is_urgent() {
                io.notify_sent();
                empty += 1;
                continue;
            }
            let (next, is_all) = subscription.next_of_all();
            empty = if is_all { empty + 1 } else { 0 };
            match next {
                Next::Frame(frame) => self.send_frame(&frame, common, io),
                Next::Empty => {}
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
        match (self.form(frame, common), frame.framed()) {
            (Form::Plain, Some(framed)) | (Form::Deflated(framed), _) => self.send_framed(framed, common, io),
            (Form::Plain, None) => self.send_plain(opcode(frame), &frame.to_bytes(), common, io),
            (Form::Own, _) => {
                let message = SharedMessage { is_text: frame.is_text(), bytes: frame.to_bytes() };
                self.send_shared(&message, common, io);
            }
        }
    }

    /// In which form a connection is sent what goes to many.
    #[inline]
    fn form<'f>(&self, frame: &'f Frame, common: &Common) -> Form<'f> {
        let Some(options) = common.options.deflate.as_ref().filter(|_| self.window_bits != 0) else {
            return Form::Plain;
        };
        if self.context.as_ref().is_some_and(|context| context.keeps_ours()) {
            return Form::Own;
        }
        let bytes = frame.as_bytes();
        if !(options.bytes_min.min(SHARED_BYTES_MIN)..=options.bytes_max).contains(&bytes.len()) {
            return Form::Plain;
        }
        let deflated = frame.deflated(|| {
            let mut codec = common.codec.borrow_mut();
            let packed = codec.compress(None, options.window_bits, bytes, options)?;
            Some((options.window_bits, to_all(opcode(frame), true, packed)))
        });
        match deflated {
            None => Form::Plain,
            Some((bits, packed)) if *bits <= self.window_bits => Form::Deflated(packed),
            Some(_) => Form::Own,
        }
    }
}

fn opcode(frame: &Frame) -> Opcode {
    if frame.is_text() { Opcode::Text } else { Opcode::Binary }
}

/// What a connection is sent of a message that goes to many.
enum Form<'a> {
    Plain,
    /// Compressed once: the frame for all whose clients can read it.
    Deflated(&'a Bytes),
    /// Compressed for this connection, which has a window of its own, or a smaller one.
    Own,
}
