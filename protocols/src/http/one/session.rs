//! The state machine of one HTTP/1.1 connection: parse, plan, read, answer, repeat.
//!
//! A request that has arrived in full is answered in place, from the receive buffer, with no state kept. Only a
//! body that is still coming, or a reply that streams, has an [`Exchange`], which is one box. Requests are
//! answered in order: while an exchange is open, what follows it waits with the engine.

use super::answer::{Context, Flow, TOO_LARGE};
use super::decoder::{Decoded, Decoder};
use super::detached::Detached;
use super::exchange::{Exchange, Place, Sink};
use super::head::{Outcome, parse_head, verdict_due};
use super::limits::{Limits, WhenGone};
use crate::http::date::Preamble;
use crate::http::handler::{Handler, Plan};
use crate::http::message::{Expect, Framing, Head, Method, Slots};
use crate::http::misuse::Complaints;
use crate::http::reject::Reject;
use crate::http::reply::ReplyState;
use crate::http::request::Request;
#[cfg(feature = "websocket")]
use crate::http::switch::Endpoint;
use crate::http::switch::Route;
use ringmill_engine::{CloseReason, Facts, Io, Next, Tick};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The HTTP/1.1 protocol with a handler behind it.
pub struct Server<H> {
    handler: H,
    context: Context,
    slots: Slots,
    pub(super) detached: Detached,
    /// Paths whose requests are not the handler's. Few, if any.
    endpoints: Vec<Route>,
}

/// The state of a connection that speaks HTTP.
pub(super) struct Conversation {
    pub(super) exchange: Place,
    /// When the head that is incomplete began; `Tick::NEVER` while there is none.
    pub(super) head_began: Tick,
    /// How many bytes of that head were looked at; `None` while there is none.
    pub(super) searched: Option<u16>,
    requests: u32,
}

impl<H: Handler> Server<H> {
    /// A server with default limits.
    pub fn new(handler: H) -> Server<H> {
        let (limits, preamble) = (Limits::default(), Preamble::new("ringmill"));
        let context =
            Context { limits, preamble, when_gone: WhenGone::default(), complaints: Complaints::default() };
        let (slots, detached, endpoints) = (Slots::new(), Detached::default(), Vec::new());
        Server { handler, context, slots, detached, endpoints }
    }

    /// Has `endpoint` answer the requests of this path instead of the handler. Of two for one path the first counts.
    #[cfg(feature = "websocket")]
    pub(crate) fn with_endpoint(mut self, path: &str, endpoint: Box<dyn Endpoint>) -> Server<H> {
        self.endpoints.push(Route { path: path.as_bytes().into(), endpoint });
        self
    }

    /// The handler, to be changed before it is used.
    #[cfg(feature = "tower")]
    pub(crate) fn handler_mut(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Replaces the limits.
    pub fn with_limits(mut self, limits: Limits) -> Server<H> {
        self.context.limits = limits;
        self
    }

    /// What becomes of handlers whose client leaves before the answer is there; they are dropped unless this is set.
    pub fn when_gone(mut self, when_gone: WhenGone) -> Server<H> {
        self.context.when_gone = when_gone;
        self
    }

    /// Replaces the Server field's value; empty leaves the field out.
    pub fn with_name(mut self, name: &str) -> Server<H> {
        self.context.preamble = Preamble::new(name);
        self
    }

    /// Takes one request, in full or in part, from the front of the input.
    #[inline]
    fn request(&mut self, session: &mut Conversation, input: &[u8], io: &mut Io<'_>) -> Flow {
        if input == b"\r\n" {
            // An empty line behind the last body (RFC 9112, 2.2) does not begin a head.
            self.context.wait_for_request(io);
            return Flow::Wait(0);
        }
        if io.is_exhausted() {
            return self.context.refuse_for_memory(begins_with_head(input), io);
        }
        let limits = &self.context.limits;
        if let Some(searched) = session.searched
            && !verdict_due(input, usize::from(searched), &limits.head)
        {
            return self.context.wait_for_head(session, input, io);
        }
        let outcome = parse_head(input, &mut self.slots, &limits.head);
        let (head, len) = match &outcome {
            Outcome::Complete { head, len } => (head, *len),
            Outcome::Partial => return self.context.wait_for_head(session, input, io),
            Outcome::Malformed(reject) => return self.context.refuse_head(*reject, input, io),
        };
        let facts = io.share_facts();
        if head.is_https && !facts.as_deref().is_some_and(Facts::is_secured) {
            return self.context.refuse_head(Reject::TargetSecured, input, io);
        }
        session.head_began = Tick::NEVER;
        session.searched = None;
        session.requests = session.requests.saturating_add(1);
        io.count_requests(1);
        let last = limits.requests_max.is_some_and(|max| session.requests >= max);
        let mut reply = ReplyState::new(head, !last);
        if !self.endpoints.is_empty()
            && let Some(flow) = self.context.ask_endpoint(&mut self.endpoints, session, head, len, io)
        {
            return flow;
        }
        if head.framing == Framing::None && (head.method != Method::Connect || self.handler.takes_connect()) {
            reply.followed = len < input.len();
            let request = Request::new(head, b"", b"", facts.as_deref());
            return match self.context.answer(&mut self.handler, &request, &mut reply, io) {
                Some(flow) => flow,
                None => self.context.after(&mut session.exchange, reply, len, io),
            };
        }
        let parts = input.split_at(len);
        self.context.with_body(&mut self.handler, session, head, parts, reply, io)
    }

    /// Goes on with a body that is coming in.
    fn body(&mut self, session: &mut Conversation, input: &[u8], io: &mut Io<'_>) -> Flow {
        let Some(exchange) = session.exchange.as_mut() else { return Flow::On(0) };
        if exchange.is_streaming() {
            return self.context.stream(&mut session.exchange, input, io);
        }
        let mut at = 0;
        while let Some(decoder) = &mut exchange.decoder {
            if io.is_full() {
                self.context.wait_for_body(&mut exchange.arrived, io);
                return Flow::Wait(at);
            }
            match decoder.decode(&input[at..], &self.context.limits.body) {
                Decoded::Data { consumed, data } => {
                    at += consumed;
                    exchange.arrived = exchange.arrived.map(|bytes| bytes + consumed as u64);
                    if let Some(flow) = self.context.body_data(exchange, data, io) {
                        return flow;
                    }
                }
                Decoded::Partial { consumed } => {
                    exchange.arrived = exchange.arrived.map(|bytes| bytes + consumed as u64);
                    self.context.wait_for_body(&mut exchange.arrived, io);
                    return Flow::Wait(at + consumed);
                }
                Decoded::End { consumed, trailers } => {
                    at += consumed;
                    exchange.decoder = None;
                    exchange.reply.reading = false;
                    exchange.reply.followed = at < input.len();
                    return match self.body_end(session, trailers, io) {
                        Some(flow) => flow,
                        None => self.context.resume(&mut session.exchange, at, io),
                    };
                }
                Decoded::Malformed(reject) => return self.context.refuse_body(exchange, reject, io),
            }
        }
        self.context.resume(&mut session.exchange, at, io)
    }

    /// Tells whoever takes the body that it is complete; a flow if that ends the connection.
    fn body_end(&mut self, session: &mut Conversation, trailers: &[u8], io: &mut Io<'_>) -> Option<Flow> {
        let exchange = session.exchange.as_mut()?;
        match std::mem::replace(&mut exchange.sink, Sink::Ended) {
            Sink::Ended | Sink::Flowing(_) | Sink::Discard { .. } | Sink::Tunnel(_) => None,
            Sink::Upload { upload, .. } => self.context.write_reply(&mut exchange.reply, io, |reply| {
                upload.end(reply);
                reply.finish();
            }),
            Sink::Collect { head, body, .. } => {
                // The reply may hold its own; this one goes with the exchange's sink.
                io.hold(0);
                let limits = &self.context.limits.head;
                let Outcome::Complete { head, .. } = parse_head(&head, &mut self.slots, limits) else {
                    unreachable!("the same head was complete before")
                };
                let facts = io.share_facts();
                let request = Request::new(&head, &body, trailers, facts.as_deref());
                self.context.answer(&mut self.handler, &request, &mut exchange.reply, io)
            }
        }
    }
}

impl Context {
    /// Has whoever has this path answer; `None` if that is nobody. What it refuses ends the connection: of a client that took
    /// something else for granted, nobody knows what comes next.
    #[cold]
    fn ask_endpoint(
        &mut self,
        endpoints: &mut [Route],
        session: &mut Conversation,
        head: &Head<'_, '_>,
        len: usize,
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        let Route { endpoint, .. } =
            endpoints.iter_mut().find(|route| *route.path == *head.path.as_bytes())?;
        let facts = io.share_facts();
        let request = Request::new(head, b"", b"", facts.as_deref());
        let mut reply = ReplyState::new(head, false);
        let panicked = self.write_reply(&mut reply, io, |reply| {
            endpoint.answer(&request, reply);
            reply.finish();
        });
        Some(panicked.unwrap_or_else(|| self.after(&mut session.exchange, reply, len, io)))
    }

    /// Takes a request whose head declares a body, from the text of that head and what follows it.
    fn with_body(
        &mut self,
        handler: &mut impl Handler,
        session: &mut Conversation,
        head: &Head<'_, '_>,
        (text, rest): (&[u8], &[u8]),
        mut reply: ReplyState,
        io: &mut Io<'_>,
    ) -> Flow {
        if head.method == Method::Connect {
            return self.refuse(
                501,
                "CONNECT is not served here: nothing tunnels (RFC 9110, 9.3.6)",
                false,
                io,
            );
        }
        let facts = io.share_facts();
        let request = Request::new(head, b"", b"", facts.as_deref());
        let is_here = matches!(head.framing, Framing::Length(length) if length <= rest.len() as u64);
        if !is_here {
            let mut writer = self.reply(&mut reply, io);
            let streaming = catch_unwind(AssertUnwindSafe(|| handler.stream(&request, &mut writer)));
            match streaming {
                Ok(None) => {}
                Ok(Some(streaming)) => {
                    let (place, is_body_here) = (&mut session.exchange, !rest.is_empty());
                    let begun = self.begin_streaming(place, head, streaming, reply, is_body_here, io);
                    return begun.unwrap_or(Flow::On(text.len()));
                }
                Err(panic) => return self.panicked(&*panic, &reply, io),
            }
        }
        let plan = catch_unwind(AssertUnwindSafe(|| handler.plan(&request)));
        let plan = match plan {
            Ok(plan) => plan,
            Err(panic) => return self.panicked(&*panic, &reply, io),
        };
        let (bytes_max, upload) = match plan {
            Plan::Collect => (self.limits.body_bytes_max, None),
            Plan::CollectUpTo(bytes_max) => (bytes_max, None),
            Plan::Stream(upload) => (u64::MAX, Some(upload)),
            Plan::StreamUpTo(bytes_max, upload) => (bytes_max, Some(upload)),
        };
        if let Framing::Length(length) = head.framing {
            if length > bytes_max {
                return self.refuse(413, TOO_LARGE, reply.head_only, io);
            }
            if upload.is_none() && length <= rest.len() as u64 {
                // The whole body is here: answer in place.
                let body = &rest[..length as usize];
                let request = Request::new(head, body, b"", facts.as_deref());
                reply.followed = body.len() < rest.len();
                return match self.answer(handler, &request, &mut reply, io) {
                    Some(flow) => flow,
                    None => self.after(&mut session.exchange, reply, text.len() + body.len(), io),
                };
            }
        }
        let sink = match upload {
            Some(upload) => Sink::Upload { upload, left: bytes_max },
            None if !io.hold(text.len()) => return self.refuse_for_memory(reply.head_only, io),
            None => Sink::Collect { head: text.to_vec(), body: Vec::new(), bytes_max },
        };
        if head.expect == Expect::Continue && rest.is_empty() {
            io.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        reply.reading = true;
        // Allocated, because it outlives this call; a request that is all there has no exchange.
        let decoder = Some(Decoder::new(head.framing));
        session.exchange = Some(Box::new(Exchange { decoder, arrived: None, due: Tick::NEVER, sink, reply }));
        Flow::On(text.len())
    }

    fn refuse_head(&mut self, reject: Reject, input: &[u8], io: &mut Io<'_>) -> Flow {
        self.refuse(reject.status(), reject.reason(), begins_with_head(input), io)
    }
}

/// The calls of a connection that speaks HTTP. What [`Protocol`](ringmill_engine::Protocol) says of each holds.
impl<H: Handler> Server<H> {
    pub(super) fn open_conversation(&mut self, io: &mut Io<'_>) -> Conversation {
        self.context.wait_for_request(io);
        Conversation { exchange: None, head_began: Tick::NEVER, searched: None, requests: 0 }
    }

    #[inline]
    pub(super) fn take_data(&mut self, session: &mut Conversation, input: &[u8], io: &mut Io<'_>) -> Flow {
        self.context.preamble.refresh(io.unix_secs());
        let mut at = 0;
        loop {
            let flow = if session.exchange.is_some() {
                self.body(session, &input[at..], io)
            } else if at == input.len() {
                self.context.wait_for_request(io);
                return Flow::Wait(at);
            } else if io.is_full() {
                // The client does not read its replies: answer no more until it does.
                io.set_deadline(None);
                return Flow::Wait(at);
            } else {
                self.request(session, &input[at..], io)
            };
            match flow {
                Flow::On(bytes) => at += bytes,
                Flow::Wait(bytes) => return Flow::Wait(at + bytes),
                Flow::Hold(bytes) => return Flow::Hold(at + bytes),
                Flow::Switch(bytes) => return Flow::Switch(at + bytes),
                Flow::Close | Flow::Reset => return flow,
            }
        }
    }

    pub(super) fn hear_of_end(&mut self, session: &mut Conversation, _: &mut Io<'_>) -> Next {
        match &session.exchange {
            Some(exchange) if exchange.is_taking() => Next::Pause,
            Some(exchange)
                if exchange.reply.is_waiting
                    && (self.context.when_gone != WhenGone::HalfClose
                        || exchange.reply.heartbeat().is_some()) =>
            {
                session.give_up()
            }
            Some(exchange) if exchange.reply.is_put_off() && self.context.peer_left(&exchange.reply) => {
                Next::Close
            }
            _ => Next::Pause,
        }
    }

    pub(super) fn run_out(&mut self, session: &mut Conversation, io: &mut Io<'_>) -> Next {
        if session.exchange.as_mut().is_some_and(|exchange| exchange.blame_client()) {
            return session.give_up();
        }
        if let Some(exchange) = &mut session.exchange
            && self.context.beat(&mut exchange.reply, io)
        {
            return Next::Pause;
        }
        if let Some(exchange) = &mut session.exchange
            && exchange.reply.is_put_off()
        {
            self.context.give_handler_up(&mut exchange.reply, io);
            return Next::Close;
        }
        if session.head_began != Tick::NEVER {
            self.context.preamble.refresh(io.unix_secs());
            self.context.refuse(408, "the head did not arrive in time (RFC 9110, 15.5.9)", false, io);
        } else if session.exchange.is_none() && io.queued_bytes() > 0 {
            // The time without a request counts from when the last reply was taken.
            self.context.wait_for_request(io);
            return Next::Continue;
        }
        session.give_up()
    }

    pub(super) fn take_end(&mut self, session: &mut Conversation, rest: &mut [u8], io: &mut Io<'_>) -> Next {
        if session.exchange.as_mut().is_some_and(|exchange| exchange.end_tunnel()) {
            return self.go_on(session, io).next();
        }
        // A head that dripped in was not looked at with every drop: it may have been malformed for long.
        if session.exchange.is_none()
            && !rest.is_empty()
            && let Outcome::Malformed(reject) = parse_head(rest, &mut self.slots, &self.context.limits.head)
        {
            self.context.preamble.refresh(io.unix_secs());
            self.context.refuse_head(reject, rest, io);
        }
        session.give_up()
    }

    pub(super) fn drain_conversation(&mut self, session: &mut Conversation, io: &mut Io<'_>) -> Next {
        let idle = session.exchange.is_none() && session.head_began == Tick::NEVER;
        if idle && !io.is_full() {
            self.context.wait_for_request(io);
        }
        if session.exchange.as_ref().is_some_and(|exchange| exchange.reply.heartbeat().is_some()) {
            return self.go_on(session, io).next();
        }
        if session.is_sending() { Next::Pause } else { Next::Continue }
    }

    pub(super) fn shed_conversation(&mut self, session: &mut Conversation, _: &mut Io<'_>) -> Next {
        if session.exchange.is_none() && session.head_began == Tick::NEVER {
            Next::Close
        } else {
            Next::Continue
        }
    }

    pub(super) fn close_conversation(&mut self, session: Conversation, reason: CloseReason) {
        let Some(mut exchange) = session.exchange else { return };
        if exchange.reply.is_put_off() {
            self.context.peer_left(&exchange.reply);
        }
        if let Some(work) = exchange.reply.later.take().and_then(|later| later.work)
            && self.context.when_gone == WhenGone::RunOn
            && reason != CloseReason::Stopped
        {
            self.detached.keep(work, &self.context.limits);
        }
    }

    /// Ends handlers that have run on for too long without their clients.
    pub(super) fn run_on(&mut self, now: Tick) {
        self.detached.tick(now, &self.context.limits);
    }

    /// Goes on after there is room, or something was waited for.
    pub(super) fn go_on(&mut self, session: &mut Conversation, io: &mut Io<'_>) -> Flow {
        loop {
            let flow = match &session.exchange {
                None => return Flow::Wait(0),
                // The last of a body may have filled the output: its end is then still to be told.
                Some(exchange) if exchange.decoder.is_some() || exchange.is_streaming() => {
                    self.body(session, b"", io)
                }
                Some(_) => self.context.resume(&mut session.exchange, 0, io),
            };
            match flow {
                // The connection was given over.
                Flow::On(_) if session.exchange.is_some() => {}
                Flow::On(_) => {
                    self.context.wait_for_request(io);
                    return Flow::Wait(0);
                }
                flow => return flow,
            }
        }
    }
}

/// Whether a refused head is that of a HEAD request, whose reply has no body. If it was refused for its syntax, that was for
/// something behind the method then, so this does not depend on how the input was cut.
fn begins_with_head(input: &[u8]) -> bool {
    input.strip_prefix(b"\r\n").unwrap_or(input).starts_with(b"HEAD ")
}

impl Conversation {
    /// Ends a session whose peer stopped short, perhaps in the middle of a reply.
    fn give_up(&self) -> Next {
        match self.exchange.as_ref().map(|exchange| Flow::cut(exchange.reply.stage)) {
            Some(Flow::Reset) => Next::Abort,
            _ => Next::Close,
        }
    }

    /// Whether a reply is being made while nothing is read.
    fn is_sending(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| !exchange.is_taking())
    }
}
