//! Both ways at once: a request's body comes in while its answer is made and sent, or a connection is given over.
//!
//! Who takes the body (an [`Intake`](crate::http::intake::Intake)) may hold the client back; the answer goes on meanwhile. What nobody
//! takes is read for the sake of the next request, up to a limit.

use super::answer::{Context, Flow, TOO_LARGE};
use super::decoder::{Decoded, Decoder};
use super::exchange::{DISCARD_BYTES_MAX, Exchange, Flowing, Place, Sink};
use crate::http::handler::Streaming;
use crate::http::message::{Expect, Framing, Head};
use crate::http::reject::Reject;
use crate::http::reply::{Later, ReplyState, Stage};
use ringmill_engine::{Io, Tick};

/// Why no more of a body is taken.
enum Stop {
    Flow(Flow),
    Malformed(Reject),
}

impl Context {
    /// Begins the exchange of a request whose body is still to come.
    pub(super) fn begin_streaming(
        &mut self,
        place: &mut Place,
        head: &Head<'_, '_>,
        streaming: Streaming,
        mut reply: ReplyState,
        is_body_here: bool,
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        let Streaming { mut intake, work, peer, body_bytes_max } = streaming;
        if let Framing::Length(length) = head.framing
            && length > body_bytes_max
        {
            return Some(self.refuse(413, TOO_LARGE, reply.head_only, io));
        }
        intake.set_waker(io.waker().into());
        let awaits_continue = head.expect == Expect::Continue && !is_body_here;
        reply.stage = Stage::Later;
        reply.later = Some(Box::new(Later { work: Some(work), peer, ..Later::default() }));
        let sink = Sink::Flowing(Flowing { intake, left: body_bytes_max, awaits_continue });
        let decoder = Some(Decoder::new(head.framing));
        *place = Some(Box::new(Exchange { decoder, arrived: None, due: Tick::NEVER, sink, reply }));
        None
    }

    /// Takes what there is of a body, goes on with the answer, and says what is waited for.
    pub(super) fn stream(&mut self, place: &mut Place, input: &[u8], io: &mut Io<'_>) -> Flow {
        let Some(exchange) = place.as_mut() else { return Flow::On(0) };
        let mut at = 0;
        loop {
            match self.take_in(exchange, &input[at..], io) {
                Ok(taken) => at += taken,
                Err(Stop::Flow(flow)) => return flow,
                Err(Stop::Malformed(reject)) => return self.refuse_the_rest(exchange, reject, io),
            }
            exchange.reply.reading = exchange.decoder.is_some() && !exchange.may_discard();
            match self.answer_on(exchange, io) {
                Flow::On(_) if !exchange.reply.keep_alive => return Flow::Close,
                Flow::On(_) if exchange.decoder.is_none() => {
                    *place = None;
                    return Flow::On(at);
                }
                Flow::On(_) if let Sink::Discard { .. } = exchange.sink => {
                    self.wait_for_rest(exchange, io);
                    return Flow::Wait(at);
                }
                Flow::On(_) if !exchange.may_discard() => return Flow::Close,
                Flow::On(_) => exchange.sink = Sink::Discard { left: DISCARD_BYTES_MAX },
                Flow::Hold(_) if exchange.enter_tunnel(io) => {}
                Flow::Hold(_) => return self.wait(exchange, at, io),
                flow => return flow,
            }
        }
    }

    /// Gives the input to whoever takes it: how much of it; a flow if that ends the connection.
    fn take_in(&mut self, exchange: &mut Exchange, input: &[u8], io: &mut Io<'_>) -> Result<usize, Stop> {
        let mut at = 0;
        if let Sink::Tunnel(intake) = &mut exchange.sink {
            while at < input.len() {
                let taken = intake.room().min(input.len() - at);
                if taken == 0 {
                    break;
                }
                intake.put(&input[at..at + taken]);
                at += taken;
            }
            return Ok(at);
        }
        while let Some(decoder) = &mut exchange.decoder {
            if let Sink::Flowing(flowing) = &mut exchange.sink
                && flowing.intake.room() == 0
            {
                break;
            }
            let (consumed, data) = match decoder.decode(&input[at..], &self.limits.body) {
                Decoded::Data { consumed, data } => (consumed, data),
                Decoded::Partial { consumed } => (consumed, &b""[..]),
                Decoded::End { consumed, trailers } => {
                    if let Sink::Flowing(flowing) = &mut exchange.sink {
                        flowing.intake.end(trailers);
                    }
                    (exchange.decoder, exchange.sink) = (None, Sink::Ended);
                    at += consumed;
                    exchange.reply.followed = at < input.len();
                    break;
                }
                Decoded::Malformed(reject) => return Err(Stop::Malformed(reject)),
            };
            at += consumed;
            exchange.arrived = exchange.arrived.map(|bytes| bytes + consumed as u64);
            if data.is_empty() {
                break;
            }
            let bytes = data.len() as u64;
            match &mut exchange.sink {
                Sink::Flowing(flowing) if bytes <= flowing.left => {
                    (flowing.left, flowing.awaits_continue) = (flowing.left - bytes, false);
                    flowing.intake.put(data);
                }
                Sink::Flowing(_) if exchange.reply.is_begun() => {
                    return Err(Stop::Flow(Flow::cut(exchange.reply.stage)));
                }
                Sink::Flowing(_) => {
                    let flow = self.refuse(413, TOO_LARGE, exchange.reply.head_only, io);
                    return Err(Stop::Flow(flow));
                }
                Sink::Discard { left } if bytes <= *left => *left -= bytes,
                _ => return Err(Stop::Flow(Flow::Close)),
            }
        }
        Ok(at)
    }

    /// The body is malformed. What came before that may be what the answer needs, however the input was cut.
    fn refuse_the_rest(&mut self, exchange: &mut Exchange, reject: Reject, io: &mut Io<'_>) -> Flow {
        exchange.reply.reading = true;
        match self.answer_on(exchange, io) {
            Flow::On(_) => Flow::Close,
            Flow::Hold(_) => self.refuse_body(exchange, reject, io),
            flow => flow,
        }
    }

    /// Goes on with the answer: `On` once it is complete, `Hold` while it is not.
    fn answer_on(&mut self, exchange: &mut Exchange, io: &mut Io<'_>) -> Flow {
        let Exchange { reply, sink, .. } = exchange;
        if reply.is_put_off()
            && let Some(flow) = self.attend_with(reply, io, |io| sink.ask_for_body(io))
        {
            return flow;
        }
        if exchange.reply.is_given_over() { Flow::Hold(0) } else { self.pump(&mut exchange.reply, io) }
    }

    /// Nothing more can happen now. Of the client's deadline and the handler's, the one counts that holds things up.
    fn wait(&mut self, exchange: &mut Exchange, at: usize, io: &mut Io<'_>) -> Flow {
        if let Sink::Tunnel(intake) = &mut exchange.sink {
            io.set_deadline(None);
            io.hold(intake.bytes());
            return if intake.room() == 0 { Flow::Hold(at) } else { Flow::Wait(at) };
        }
        if let Sink::Flowing(flowing) = &mut exchange.sink {
            let work_bytes = exchange.reply.work_bytes();
            if !io.hold(work_bytes + flowing.intake.bytes()) && !exchange.reply.is_begun() {
                return self.refuse_for_memory(exchange.reply.head_only, io);
            }
            if !exchange.reply.is_begun() {
                exchange.sink.ask_for_body(io);
            }
        }
        if let Sink::Flowing(flowing) = &mut exchange.sink {
            if flowing.awaits_continue {
                return Flow::Wait(at);
            }
            if flowing.intake.room() > 0 {
                self.wait_for_rest(exchange, io);
                return Flow::Wait(at);
            }
        }
        if exchange.arrived.take().is_some() && exchange.reply.stage == Stage::Waiting {
            // The client has done its part, or is held back: the handler's time begins.
            io.set_timeout(self.limits.handler_timeout);
        }
        Flow::Hold(at)
    }

    /// The client is to send more of a body, at its least rate. While it does not read what it is sent, its silence does not count.
    fn wait_for_rest(&self, exchange: &mut Exchange, io: &mut Io<'_>) {
        if io.is_full() {
            exchange.arrived = None;
            return;
        }
        if exchange.arrived.is_none_or(|bytes| bytes >= self.limits.body_bytes_min()) {
            exchange.arrived = Some(0);
            exchange.due = io.now().after(self.limits.body_idle_timeout);
        }
        io.set_deadline(Some(exchange.due));
    }
}
