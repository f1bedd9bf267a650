//! A request that is not answered at once: where its body goes, and how its reply goes on.

use super::answer::{Context, Flow, TOO_LARGE};
use super::decoder::Decoder;
use crate::http::handler::Upload;
use crate::http::intake::Intake;
use crate::http::reject::Reject;
use crate::http::reply::{ReplyState, Stage};
use ringmill_engine::{Io, Tick};

/// One request whose body is still coming, or whose reply is still being made.
pub(super) struct Exchange {
    /// `None` once the body is complete.
    pub(super) decoder: Option<Decoder>,
    /// What arrived of the body since its deadline was set; `None` while it has none.
    pub(super) arrived: Option<u64>,
    /// That deadline, where another one may be in its place.
    pub(super) due: Tick,
    pub(super) sink: Sink,
    pub(super) reply: ReplyState,
}

/// Where a body goes.
pub(super) enum Sink {
    /// Until it is complete; with a copy of the head, which is then parsed again.
    Collect { head: Vec<u8>, body: Vec<u8>, bytes_max: u64 },
    /// As it comes, up to so many more bytes.
    Upload { upload: Box<dyn Upload>, left: u64 },
    /// As it comes, while its answer is made (`streaming.rs`).
    Flowing(Flowing),
    /// To nobody, and no further than so many bytes.
    Discard { left: u64 },
    /// There are no bodies any more: the connection was given over.
    Tunnel(Box<dyn Intake>),
    /// It has ended.
    Ended,
}

/// Where a body goes while its answer is made.
pub(super) struct Flowing {
    pub(super) intake: Box<dyn Intake>,
    /// So many more bytes are not too many.
    pub(super) left: u64,
    /// The client waits for a word before it sends the body.
    pub(super) awaits_continue: bool,
}

/// What is read of a body that nobody wants; a client that sends more is not worth its connection.
pub(super) const DISCARD_BYTES_MAX: u64 = 256 * 1024;

/// Where a session keeps it: most have none.
pub(super) type Place = Option<Box<Exchange>>;

impl Sink {
    /// Tells a client to send the body that somebody waits for now. Not behind the head of the answer.
    pub(super) fn ask_for_body(&mut self, io: &mut Io<'_>) {
        if let Sink::Flowing(flowing) = self
            && flowing.awaits_continue
            && flowing.intake.is_wanted()
        {
            flowing.awaits_continue = false;
            io.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
    }
}

impl Exchange {
    /// One whose request is complete.
    fn answering(reply: ReplyState) -> Exchange {
        Exchange { decoder: None, arrived: None, due: Tick::NEVER, sink: Sink::Ended, reply }
    }

    /// Whether it is for `Context::stream` to go on with.
    pub(super) fn is_streaming(&self) -> bool {
        matches!(self.sink, Sink::Flowing(_) | Sink::Discard { .. } | Sink::Tunnel(_))
    }

    /// Whether the rest of the body may be read for nothing, if nobody wants it.
    pub(super) fn may_discard(&self) -> bool {
        let is_awaited = matches!(&self.sink, Sink::Flowing(flowing) if flowing.awaits_continue);
        let is_long =
            matches!(self.decoder, Some(Decoder::Length { remaining }) if remaining > DISCARD_BYTES_MAX);
        !is_awaited && !is_long
    }

    /// If the answer has given the connection over, whoever takes it gets what comes in from now on.
    pub(super) fn enter_tunnel(&mut self, io: &mut Io<'_>) -> bool {
        let later = self.reply.later.as_mut().filter(|later| later.tunnel.is_some());
        let Some(mut intake) = later.and_then(|later| later.tunnel.take()) else { return false };
        intake.set_waker(io.waker().into());
        self.sink = Sink::Tunnel(intake);
        true
    }

    /// The peer will send no more; whether that is its own affair, and the answer goes on.
    pub(super) fn end_tunnel(&mut self) -> bool {
        let Sink::Tunnel(intake) = &mut self.sink else { return false };
        intake.end(b"");
        true
    }

    /// The client is late with its body; whether it was it that was waited for.
    pub(super) fn blame_client(&mut self) -> bool {
        if let Sink::Flowing(flowing) = &mut self.sink
            && self.arrived.is_some()
        {
            flowing.intake.late();
            return true;
        }
        false
    }

    /// Whether the end of the client's stream is to be told behind all that came before it, and not at once.
    pub(super) fn is_taking(&self) -> bool {
        self.decoder.is_some() || matches!(self.sink, Sink::Tunnel(_))
    }
}

impl Context {
    /// Goes on with a reply, and ends the exchange when it is complete.
    pub(super) fn resume(&mut self, place: &mut Place, consumed: usize, io: &mut Io<'_>) -> Flow {
        let Some(exchange) = place.as_mut() else { return Flow::On(consumed) };
        if exchange.reply.is_put_off()
            && let Some(flow) = self.attend(&mut exchange.reply, io)
        {
            return if let Flow::Hold(_) = flow { Flow::Hold(consumed) } else { flow };
        }
        if exchange.reply.is_switched() {
            return Flow::Switch(consumed);
        }
        if exchange.enter_tunnel(io) {
            return Flow::On(consumed);
        }
        match self.pump(&mut exchange.reply, io) {
            Flow::On(_) => {
                let keep_alive = exchange.reply.keep_alive;
                *place = None;
                if keep_alive { Flow::On(consumed) } else { Flow::Close }
            }
            Flow::Hold(_) => Flow::Hold(consumed),
            flow => flow,
        }
    }

    /// What follows an answer that was made in place.
    #[inline]
    pub(super) fn after(
        &mut self,
        place: &mut Place,
        reply: ReplyState,
        consumed: usize,
        io: &mut Io<'_>,
    ) -> Flow {
        if reply.stage == Stage::Done {
            let ReplyState { keep_alive, later, .. } = reply;
            // Asked here, because dropping it without asking is a function call.
            if let Some(later) = later {
                drop(later);
            }
            return if keep_alive { Flow::On(consumed) } else { Flow::Close };
        }
        self.after_a_part(place, reply, consumed, io)
    }

    /// The same where the answer is not complete.
    #[inline(never)]
    fn after_a_part(
        &mut self,
        place: &mut Place,
        mut reply: ReplyState,
        consumed: usize,
        io: &mut Io<'_>,
    ) -> Flow {
        if reply.later.is_some() {
            *place = Some(Box::new(Exchange::answering(reply)));
            return self.resume(place, consumed, io);
        }
        match self.pump(&mut reply, io) {
            Flow::On(_) if reply.keep_alive => Flow::On(consumed),
            Flow::On(_) => Flow::Close,
            Flow::Hold(_) => {
                *place = Some(Box::new(Exchange::answering(reply)));
                Flow::Hold(consumed)
            }
            flow => flow,
        }
    }

    /// Gives a piece of a body to whoever takes it; a flow if that ends the exchange.
    pub(super) fn body_data(
        &mut self,
        exchange: &mut Exchange,
        data: &[u8],
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        match &mut exchange.sink {
            Sink::Ended | Sink::Flowing(_) | Sink::Discard { .. } | Sink::Tunnel(_) => {}
            Sink::Collect { head, body, bytes_max } => {
                if body.len() as u64 + data.len() as u64 > *bytes_max {
                    return Some(self.refuse(413, TOO_LARGE, exchange.reply.head_only, io));
                }
                body.extend_from_slice(data);
                if !io.hold(head.capacity() + body.capacity()) {
                    return Some(self.refuse_for_memory(exchange.reply.head_only, io));
                }
            }
            Sink::Upload { upload, left } => {
                let Some(rest) = left.checked_sub(data.len() as u64) else {
                    return Some(match exchange.reply.stage {
                        Stage::Unsent => self.refuse(413, TOO_LARGE, exchange.reply.head_only, io),
                        stage => Flow::cut(stage),
                    });
                };
                *left = rest;
                let panicked = self.write_reply(&mut exchange.reply, io, |reply| upload.chunk(data, reply));
                return match exchange.reply.stage {
                    Stage::Done | Stage::Broken => Some(Flow::Close),
                    _ => panicked,
                };
            }
        }
        None
    }

    pub(super) fn refuse_body(&mut self, exchange: &Exchange, reject: Reject, io: &mut Io<'_>) -> Flow {
        if exchange.reply.is_begun() {
            return Flow::cut(exchange.reply.stage);
        }
        self.refuse(reject.status(), reject.reason(), exchange.reply.head_only, io)
    }
}
