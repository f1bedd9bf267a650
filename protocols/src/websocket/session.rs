//! The session of one WebSocket: frames to calls of the handler, pings, and the end.
//!
//! A message that is whole in the input is unmasked and handed over where it is. One that is not is kept in a [`Partial`] as it comes.

use super::burst::Burst;
use super::frame::{Header, Opcode, Parsed, Rules, TOO_LARGE, Violation, is_control, parse, parse_close};
use super::frame::{apply_mask, write_header};
use super::handler::Handler;
use super::message::{Closed, Message, Piece};
use super::receiving::{CONFUSED, Partial, Progress, Receiving, text};
use super::sending::{Common, Departure, Phase, Sending};
use super::ws::Ws;
use crate::http::Successor;
use ringmill_engine::{Call, CloseReason, Io, Next, Step};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

/// What all connections of an endpoint share.
pub(super) struct Shared<H> {
    pub(super) handler: RefCell<H>,
    pub(super) common: Common,
}

/// One connection.
pub(super) struct Session<H: Handler> {
    pub(super) shared: Rc<Shared<H>>,
    /// `None` once the handler was told of the end.
    state: Option<H::State>,
    pub(super) sending: Sending,
    receiving: Receiving,
    /// Memory was declared, so that it has to be taken back.
    is_holding: bool,
    /// The client will send no more.
    is_ended: bool,
}

/// What became of the front of the input.
enum Flow {
    /// So many bytes are done.
    On(usize),
    /// Nothing can happen before so many bytes are there.
    Need(usize),
    /// Not before what is being sent has gone out, or before the next turn.
    Hold(usize),
    /// The client does not read.
    Full,
    /// Both sides have closed.
    Over,
    Fail(Violation),
}

/// A binary frame that is no longer than this waits with the engine until it is whole.
const WAITING_BYTES_MAX: usize = 256;

const OUT_OF_MEMORY: Violation = Violation { code: 1013, reason: "out of memory" };
const PANICKED: Violation = Violation { code: 1011, reason: "the handler failed" };

impl<H: Handler> Session<H> {
    pub(super) fn new(shared: Rc<Shared<H>>, state: H::State, sending: Sending) -> Session<H> {
        let receiving = Receiving::default();
        shared.common.open.set(shared.common.open.get() + 1);
        Session { shared, state: Some(state), sending, receiving, is_holding: false, is_ended: false }
    }

    fn data(&mut self, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut burst = Burst::default();
        let mut at = 0;
        self.shared.common.publishing.begin(io.now());
        let step = loop {
            let flow = if self.is_due() {
                self.complete(0, io)
            } else if at == input.len() {
                break Step::consumed(at);
            } else {
                self.frame(&mut input[at..], &mut burst, io)
            };
            match flow {
                Flow::On(bytes) => at += bytes,
                Flow::Need(need) => break Step::need(at, need),
                Flow::Hold(bytes) => break Step::pause(at + bytes),
                Flow::Full => break Step::consumed(at),
                Flow::Over => return Step::close(),
                Flow::Fail(violation) => {
                    self.fail(violation, io);
                    return Step::close();
                }
            }
        };
        burst.flush(&self.sending, io);
        if self.sending.phase == Phase::Open {
            self.receiving.is_pinged = false;
            io.set_timeout(self.shared.common.options.ping_after);
        }
        self.account(io);
        step
    }

    /// Takes a frame, or a part of one, from the front of the input.
    #[inline]
    fn frame(&mut self, input: &mut [u8], burst: &mut Burst, io: &mut Io<'_>) -> Flow {
        if self.receiving.in_frame() {
            return self.payload(0, input, io);
        }
        let options = &self.shared.common.options;
        let rules = Rules {
            from_client: true,
            may_deflate: self.sending.window_bits != 0,
            in_message: self.receiving.in_message(),
            bytes_max: self.receiving.bytes_left(options),
        };
        let header = match parse(input, &rules) {
            Parsed::Complete(header) => header,
            Parsed::Partial(need) => return Flow::Need(need),
            Parsed::Malformed(violation) => return Flow::Fail(violation),
        };
        let frame_bytes = header.bytes.saturating_add(header.payload_bytes as usize);
        if is_control(header.opcode) {
            return match input.get_mut(header.bytes..frame_bytes) {
                Some(payload) => self.control(header, payload, burst, io),
                None => Flow::Need(frame_bytes),
            };
        }
        if self.sending.is_busy() {
            return Flow::Hold(0);
        }
        if io.is_full() {
            return Flow::Full;
        }
        if self.shared.common.publishing.is_much() {
            self.shared.common.publishing.hold();
            io.waker().wake();
            return Flow::Hold(0);
        }
        let is_whole = header.is_final && !rules.in_message && self.sending.is_open();
        if is_whole && !options.in_pieces && !header.is_deflated {
            if header.payload_bytes > options.message_bytes_max as u64 {
                return Flow::Fail(TOO_LARGE);
            }
            if let Some(payload) = input.get_mut(header.bytes..frame_bytes) {
                apply_mask(payload, header.mask, 0);
                let message = match header.opcode {
                    Opcode::Text => match text(payload) {
                        Ok(text) => Message::Text(text),
                        Err(violation) => return Flow::Fail(violation),
                    },
                    _ => Message::Binary(payload),
                };
                return match self.hand_over(message, io) {
                    Ok(()) => Flow::On(frame_bytes),
                    Err(violation) => Flow::Fail(violation),
                };
            }
            if header.opcode == Opcode::Binary && frame_bytes <= WAITING_BYTES_MAX {
                return Flow::Need(frame_bytes);
            }
        }
        match self.receiving.begin_frame(header, options) {
            Ok(_) => self.payload(header.bytes, input, io),
            Err(violation) => Flow::Fail(violation),
        }
    }

    /// Takes what has come of a frame's payload; its header is so many bytes in front of it.
    fn payload(&mut self, header_bytes: usize, input: &mut [u8], io: &mut Io<'_>) -> Flow {
        let Some(partial) = &mut self.receiving.partial else { return Flow::Fail(CONFUSED) };
        let payload = &mut input[header_bytes..];
        let taken =
            if self.sending.is_open() { partial.take(payload) } else { Ok(partial.skip(payload.len())) };
        let (bytes, progress) = match taken {
            Ok(taken) => taken,
            Err(violation) => return Flow::Fail(violation),
        };
        let is_kept = partial.is_deflated || !self.shared.common.options.in_pieces;
        match progress {
            Progress::Complete => self.complete(header_bytes + bytes, io),
            _ if is_kept => {
                if self.account(io) {
                    Flow::On(header_bytes + bytes)
                } else {
                    Flow::Fail(OUT_OF_MEMORY)
                }
            }
            _ => match self.hand_over_part(false, io) {
                Ok(()) => Flow::On(header_bytes + bytes),
                Err(violation) => Flow::Fail(violation),
            },
        }
    }

    /// The message is complete; so many bytes of input were the last of it.
    fn complete(&mut self, bytes: usize, io: &mut Io<'_>) -> Flow {
        if !self.sending.is_open() {
            self.receiving.partial = None;
            return Flow::On(bytes);
        }
        let shared = self.shared.clone();
        let options = &shared.common.options;
        let Some(partial) = &mut self.receiving.partial else { return Flow::Fail(CONFUSED) };
        if partial.is_deflated {
            let is_spent = options
                .deflate
                .as_ref()
                .is_some_and(|deflate| shared.common.codec.borrow().is_spent(io.now(), deflate));
            if is_spent {
                partial.is_due = true;
                io.waker().wake();
                return Flow::Hold(bytes);
            }
        } else if options.in_pieces {
            let handed = self.hand_over_part(true, io);
            self.receiving.partial = None;
            return handed.map_or_else(Flow::Fail, |()| Flow::On(bytes));
        }
        let Some(partial) = self.receiving.partial.take() else { return Flow::Fail(CONFUSED) };
        let handed = if partial.is_deflated {
            self.inflate(&partial, io)
        } else {
            self.hand_over_bytes(&partial.buffer, partial.is_text, io)
        };
        handed.map_or_else(Flow::Fail, |()| Flow::On(bytes))
    }

    fn inflate(&mut self, partial: &Partial, io: &mut Io<'_>) -> Result<(), Violation> {
        let shared = self.shared.clone();
        let codec = &shared.common.codec;
        let bytes_max = shared.common.options.message_bytes_max;
        let context = self.sending.context.as_deref_mut();
        let inflated = codec.borrow_mut().inflate(context, &partial.buffer, bytes_max, io.now());
        // The handler may compress what it sends, so the codec is let go meanwhile.
        let (output, bytes) = inflated?;
        let handed = self.hand_over_bytes(&output[..bytes], partial.is_text, io);
        codec.borrow_mut().put_back(output);
        handed
    }

    fn hand_over_bytes(&mut self, bytes: &[u8], is_text: bool, io: &mut Io<'_>) -> Result<(), Violation> {
        let part = if is_text { Message::Text(text(bytes)?) } else { Message::Binary(bytes) };
        if self.shared.common.options.in_pieces {
            let piece = Piece { part, is_last: true };
            return self.with_handler(io, |handler, state, ws| handler.piece(state, piece, ws));
        }
        self.hand_over(part, io)
    }

    #[inline]
    fn hand_over(&mut self, message: Message<'_>, io: &mut Io<'_>) -> Result<(), Violation> {
        self.with_handler(io, |handler, state, ws| handler.message(state, message, ws))
    }

    /// Hands what has come of a message over to a handler that takes pieces.
    fn hand_over_part(&mut self, is_last: bool, io: &mut Io<'_>) -> Result<(), Violation> {
        let Some(mut partial) = self.receiving.partial.take() else { return Err(CONFUSED) };
        let ready = partial.ready();
        if !ready.is_empty() || is_last {
            let part = if partial.is_text { Message::Text(text(ready)?) } else { Message::Binary(ready) };
            let piece = Piece { part, is_last };
            self.with_handler(io, |handler, state, ws| handler.piece(state, piece, ws))?;
        }
        partial.drop_ready();
        self.receiving.partial = Some(partial);
        Ok(())
    }

    /// Calls the handler, if it has not been told of the end.
    #[inline]
    pub(super) fn with_handler(
        &mut self,
        io: &mut Io<'_>,
        call: impl FnOnce(&mut H, &mut H::State, &mut Ws<'_>),
    ) -> Result<(), Violation> {
        let Some(state) = &mut self.state else { return Ok(()) };
        let common = &self.shared.common;
        let mut ws = Ws { io: io.reborrow(), sending: &mut self.sending, common };
        let handler = &self.shared.handler;
        let called = catch_unwind(AssertUnwindSafe(|| call(&mut handler.borrow_mut(), state, &mut ws)));
        called.map_err(|_| {
            io.count_panic();
            PANICKED
        })
    }

    fn control(&mut self, header: Header, payload: &mut [u8], burst: &mut Burst, io: &mut Io<'_>) -> Flow {
        let options = &self.shared.common.options;
        if header.opcode == Opcode::Close && self.sending.is_busy() && self.sending.is_open() {
            // What was sent before it first.
            return Flow::Hold(0);
        }
        apply_mask(payload, header.mask, 0);
        let done = Flow::On(header.bytes + payload.len());
        if header.opcode != Opcode::Close {
            if let Err(violation) = self.receiving.count_control(io.now(), options) {
                return Flow::Fail(violation);
            }
            if header.opcode == Opcode::Ping && self.sending.may_answer() {
                burst.ping(payload, io);
            }
            return done;
        }
        let (code, reason) = match parse_close(payload) {
            Ok(parts) => parts,
            Err(violation) => return Flow::Fail(violation),
        };
        burst.flush(&self.sending, io);
        self.sending.close_now(code.unwrap_or(0), "", &self.shared.common, io);
        self.end(code.unwrap_or(1005), reason, true, io);
        Flow::Over
    }

    /// Says why, and ends. The client's Close frame is not waited for: it broke a rule, or something broke here.
    #[cold]
    fn fail(&mut self, violation: Violation, io: &mut Io<'_>) {
        self.sending.close_now(violation.code, violation.reason, &self.shared.common, io);
        if violation == OUT_OF_MEMORY {
            io.count_refused(1);
        }
        self.end(violation.code, violation.reason, false, io);
    }

    /// Tells the handler of the end.
    fn end(&mut self, code: u16, reason: &str, is_clean: bool, io: &mut Io<'_>) {
        if !self.tell_end(code, reason, is_clean) {
            io.count_panic();
        }
    }

    /// The same; `false` if the handler panicked.
    fn tell_end(&mut self, code: u16, reason: &str, is_clean: bool) -> bool {
        self.sending.topics = None;
        let Some(state) = self.state.take() else { return true };
        let closed = Closed { code, reason, is_clean };
        let handler = &self.shared.handler;
        catch_unwind(AssertUnwindSafe(|| handler.borrow_mut().closed(state, closed))).is_ok()
    }

    /// Declares the memory that is kept; `false` if the worker has none left.
    fn account(&mut self, io: &mut Io<'_>) -> bool {
        let bytes = self.receiving.held_bytes() + self.sending.held_bytes();
        if bytes == 0 && !self.is_holding {
            return true;
        }
        self.is_holding = bytes > 0;
        io.hold(bytes)
    }

    /// Goes on with what is being sent, and with what was published.
    fn go_on(&mut self, io: &mut Io<'_>) -> Next {
        if self.is_due()
            && let Flow::Fail(violation) = self.complete(0, io)
        {
            self.fail(violation, io);
            return Next::Close;
        }
        self.sending.pump(&self.shared.common, io);
        if let Err(violation) = self.catch_up(io) {
            self.fail(violation, io);
            return Next::Close;
        }
        self.account(io);
        if self.is_ended && !self.sending.is_busy() { Next::Close } else { self.next() }
    }

    /// Whether a message is complete and waits for its turn.
    #[inline]
    fn is_due(&self) -> bool {
        self.receiving.partial.as_ref().is_some_and(|partial| partial.is_due)
    }

    /// Reading goes on, unless a message waits for its turn: what comes behind it waits as well, and so does the end.
    fn next(&self) -> Next {
        if self.is_due() { Next::Pause } else { Next::Continue }
    }

    fn wake(&mut self, io: &mut Io<'_>) -> Next {
        if self.sending.has_waker
            && let Err(violation) = self.with_handler(io, |handler, state, ws| handler.wake(state, ws))
        {
            self.fail(violation, io);
            return Next::Close;
        }
        self.go_on(io)
    }

    fn timeout(&mut self, io: &mut Io<'_>) -> Next {
        let options = &self.shared.common.options;
        match self.sending.phase {
            Phase::Closing => return Next::Close,
            Phase::Leaving => self.sending.leave_now(&self.shared.common, io),
            // Nothing is heard of a client that does not read: how long that may last is the engine's to say.
            Phase::Open | Phase::ClosingSoon if io.queued_bytes() > 0 || self.sending.is_busy() => {
                io.set_timeout(options.ping_after);
            }
            Phase::Open if !self.receiving.is_pinged => {
                self.receiving.is_pinged = true;
                write_header(io.buffer(), Opcode::Ping, true, false, 0);
                io.set_timeout(options.pong_within);
            }
            Phase::Open | Phase::ClosingSoon => {
                self.end(1006, "", false, io);
                return Next::Close;
            }
        }
        self.next()
    }

    /// Everybody is told to go, but not in the same moment: they all come back somewhere else.
    fn drain(&mut self, io: &mut Io<'_>) -> Next {
        if self.sending.is_open() {
            let most = io.drain_deadline().map_or(Duration::ZERO, |until| until.since(io.now()) / 2);
            self.sending.leave(Departure::GoingAway, most, &self.shared.common, io);
        }
        self.next()
    }

    fn shed(&mut self, io: &mut Io<'_>) -> Next {
        if !io.is_exhausted() {
            return self.next();
        }
        self.fail(OUT_OF_MEMORY, io);
        Next::Close
    }
}

impl<H: Handler> Successor for Session<H> {
    fn open(&mut self, io: &mut Io<'_>) -> Next {
        // The first Pings of many that came at once are spread; later ones follow what each does.
        let after = self.shared.common.options.ping_after;
        io.set_timeout(after.mul_f64(1.0 - self.shared.common.spread() / 4.0));
        if let Err(violation) = self.with_handler(io, |handler, state, ws| handler.open(state, ws)) {
            self.fail(violation, io);
            return Next::Close;
        }
        self.account(io);
        Next::Continue
    }

    #[inline]
    fn call(&mut self, call: Call<'_>, io: &mut Io<'_>) -> Step {
        Step::next(match call {
            Call::Data(input) => return self.data(input, io),
            Call::Drained => self.go_on(io),
            Call::Wake => self.wake(io),
            Call::Timeout => self.timeout(io),
            Call::Drain => self.drain(io),
            Call::Shed => self.shed(io),
            Call::Gone => Next::Pause,
            Call::Spliced(_) => Next::Continue,
            Call::End(_) => {
                // What was sent before is still sent.
                self.is_ended = true;
                if self.sending.is_busy() { Next::Continue } else { Next::Close }
            }
        })
    }

    fn closed(mut self: Box<Self>, _: CloseReason) {
        let code = if self.sending.phase == Phase::Closing { self.sending.code } else { 1006 };
        if !self.tell_end(code, "", false) {
            tracing::error!("a WebSocket handler panicked when it was told of the end");
        }
    }
}

impl<H: Handler> Drop for Session<H> {
    fn drop(&mut self) {
        let open = &self.shared.common.open;
        open.set(open.get() - 1);
        if self.sending.context.is_some() {
            self.shared.common.codec.borrow_mut().contexts -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Request;
    use crate::websocket::Accept;

    struct Silent;

    impl Handler for Silent {
        type State = ();

        fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
            None
        }

        fn message(&mut self, _: &mut (), _: Message<'_>, _: &mut Ws<'_>) {}
    }

    #[test]
    fn most_are_idle_and_small() {
        assert!(size_of::<Session<Silent>>() <= 80, "{}", size_of::<Session<Silent>>());
    }
}
