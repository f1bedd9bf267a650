//! A connection of HTTP/2 with a server: each of its lanes writes requests, one after the other, and reads their replies.

use super::lane::{Fed, Lane};
use super::text;
use crate::adapt::Body;
use crate::adapt::body::Writer;
use crate::adapt::pipe::{Far, Near, pipe};
use crate::adapt::signal::Signal;
use crate::adapt::stream::Task;
use crate::adapt::timer::Clock;
use crate::http::message::{Expect, Slots};
use crate::http::one::decoder::{BodyLimits, Decoded, Decoder};
use crate::http::one::head::{HeadLimits, Outcome, parse_head};
use crate::proxy::groups::Place;
use crate::proxy::state::State;
use futures_util::stream::{FuturesUnordered, Stream};
use http::Response;
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper::rt::Executor;
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Reclaim, Refusal, Step, Tick};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What hyper keeps for a connection, besides the pipe.
const CONNECTION_BYTES: usize = 20 * 1024;
/// Who goes on waking itself has its next turn after those of others.
const ROUNDS_MAX: usize = 64;
/// What a server may send that nobody has read: of a stream, and of all together.
const WINDOW_BYTES: u32 = 256 * 1024;
const WINDOWS_BYTES: u32 = 1024 * 1024;
/// A server that is silent for so long while it has requests is asked whether it is there, and has so long to answer.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// What a client is told that waits with its body.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// What one head may have: it is our own text, of what was judged.
const HEAD_LIMITS: HeadLimits =
    HeadLimits { request_line_bytes_max: 1 << 20, head_bytes_max: 1 << 20, fields_max: usize::MAX };

pub(in crate::proxy) struct Trunk<L: Layer> {
    near: Near,
    clock: Clock,
    signal: Signal,
    tasks: FuturesUnordered<Task>,
    spawned: Spawned,
    connecting: Option<Connecting>,
    connection: Option<Pin<Box<Served>>>,
    sender: Option<SendRequest<Body>>,
    lanes: Vec<ServerLane<L>>,
    purpose: Purpose,
    is_secured: bool,
    /// Without a lane it is kept for so long...
    keep_timeout: Duration,
    /// ...until then.
    kept_until: Tick,
    /// Its handshake came to HTTP/2.
    is_spoken: bool,
    slots: Slots,
    state: Rc<RefCell<State>>,
}

type Connecting = Pin<Box<dyn Future<Output = hyper::Result<(SendRequest<Body>, Served)>>>>;
type Served = Connection<Far, Body, Spawned>;
type Reply = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>>>>;

/// What it is for.
#[derive(Clone, Copy)]
enum Purpose {
    /// Requests: its number among those that there are.
    Requests(usize),
    /// One check.
    Check,
    /// Nobody wants it any more.
    Nothing,
}

/// What hyper spawns, until it is taken.
#[derive(Clone, Default)]
struct Spawned(Rc<RefCell<Vec<Task>>>);

impl<F: Future + 'static> Executor<F> for Spawned {
    fn execute(&self, future: F) {
        self.0.borrow_mut().push(Box::pin(async move {
            future.await;
        }));
    }
}

struct ServerLane<L: Layer> {
    lane: Lane<L>,
    /// The rest of the request's body.
    decoder: Option<Decoder>,
    writer: Option<Writer>,
    reply: Option<Reply>,
    is_head: bool,
}

impl<L: Layer> Trunk<L> {
    /// A connection is there that was asked for with this tag.
    pub(in crate::proxy) fn open(
        layer: &mut L,
        state: Rc<RefCell<State>>,
        tag: u64,
        io: &mut Io<'_>,
    ) -> Trunk<L> {
        let place = Place::of_tag(tag);
        let secure = io.facts().and_then(|facts| facts.secure.as_ref());
        let is_secured = secure.is_some();
        let is_spoken = secure.is_none_or(|secure| secure.alpn.as_deref() == Some(b"h2"));
        let ((near, far), clock, spawned) = (pipe(None), Clock::new(io.now()), Spawned::default());
        let mut builder = Builder::new(spawned.clone());
        builder
            .timer(clock.clone())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOWS_BYTES)
            .max_header_list_size(64 * 1024);
        let connecting: Connecting = Box::pin(async move { builder.handshake(far).await });
        let mut it = state.borrow_mut();
        let keep_timeout = it.groups.config(place.group).keep_timeout;
        let purpose = match (Place::is_check(tag), is_spoken) {
            (true, true) => Purpose::Check,
            (true, false) => {
                it.check_refused(place, Refusal::Unsecured);
                Purpose::Nothing
            }
            (false, _) => it.trunk_open(place, io).map_or(Purpose::Nothing, Purpose::Requests),
        };
        drop(it);
        let mut trunk = Trunk {
            near,
            clock,
            signal: Signal::new(io.waker().into()),
            tasks: FuturesUnordered::new(),
            spawned,
            connecting: Some(connecting).filter(|_| is_spoken),
            connection: None,
            sender: None,
            lanes: Vec::new(),
            purpose,
            is_secured,
            keep_timeout,
            kept_until: Tick::NEVER,
            is_spoken,
            slots: Slots::new(),
            state,
        };
        if let Purpose::Check = purpose {
            trunk.add_lane(layer, tag | Place::LANE, io);
        }
        if trunk.advance(layer, io) != Next::Continue {
            // Only a call can close, and this asks for one at once.
            io.notify_drained();
        }
        trunk
    }

    pub(in crate::proxy) fn call(&mut self, layer: &mut L, call: Call<'_>, io: &mut Io<'_>) -> Step {
        let for_lanes = match call {
            Call::Timeout => || Call::Timeout,
            Call::Drain => || Call::Drain,
            Call::Shed => || Call::Shed,
            _ => || Call::Wake,
        };
        let is_asked_to_end = match call {
            Call::Timeout => self.kept_until <= io.now(),
            Call::Shed | Call::Drain => true,
            _ => false,
        };
        self.signal.begin();
        self.lanes.iter_mut().for_each(|lane| lane.lane.call(layer, for_lanes(), io));
        let (mut taken, mut next) = (0, Next::Continue);
        match call {
            Call::Data(input) => {
                while next == Next::Continue && taken < input.len() {
                    let pushed = self.near.push(&input[taken..]);
                    taken += pushed;
                    next = self.advance(layer, io);
                    if pushed == 0 && next == Next::Continue {
                        next = Next::Pause;
                    }
                }
            }
            Call::End(_) => {
                self.near.end();
                self.advance(layer, io);
                next = Next::Close;
            }
            _ => next = self.advance(layer, io),
        }
        if is_asked_to_end && self.lanes.is_empty() && next == Next::Continue {
            next = Next::Close;
        }
        Step { consumed: taken, need: 0, next }
    }

    /// Polls until nothing moves, and writes what there is to send.
    fn advance(&mut self, layer: &mut L, io: &mut Io<'_>) -> Next {
        self.clock.set(io.now());
        let waker = self.signal.waker();
        let mut is_over = !self.is_spoken;
        self.signal.begin();
        for _ in 0..ROUNDS_MAX {
            self.signal.lower();
            is_over |= self.poll(&mut Context::from_waker(&waker));
            self.open_lanes(layer, io);
            self.drive(layer, io, &waker, is_over);
            // Below high water: the engine would not read replies above it, and both sides would wait.
            let output = self.near.take(io.room_bytes().saturating_sub(1));
            let has_moved = !output.is_empty();
            io.queue(output);
            if is_over || !has_moved && !self.signal.is_raised() {
                break;
            }
        }
        self.signal.end();
        self.note(is_over);
        if is_over || self.is_done(io) {
            return Next::Close;
        }
        if self.near.has_output() {
            io.notify_drained();
        }
        let lanes: usize = self.lanes.iter().map(ServerLane::bytes).sum();
        io.hold(CONNECTION_BYTES + self.near.bytes() + lanes);
        if !self.lanes.is_empty() {
            self.kept_until = Tick::NEVER;
        } else if self.kept_until == Tick::NEVER {
            self.kept_until = io.now().after(self.keep_timeout);
        }
        let lanes = self.lanes.iter_mut().filter_map(|lane| lane.lane.due(io));
        let due = lanes.chain([self.kept_until]).chain(self.clock.next()).min();
        io.set_deadline(due.filter(|due| *due != Tick::NEVER));
        Next::Continue
    }

    /// Whether it has nothing to do, and nobody will want it.
    fn is_done(&self, io: &Io<'_>) -> bool {
        let is_wanted = matches!(self.purpose, Purpose::Requests(_)) && !io.is_draining();
        self.lanes.is_empty() && !is_wanted
    }

    /// Polls hyper; whether the connection is over.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(connecting) = &mut self.connecting
            && let Poll::Ready(connected) = connecting.as_mut().poll(context)
        {
            self.connecting = None;
            let Ok((sender, connection)) = connected else { return true };
            self.sender = Some(sender);
            self.connection = Some(Box::pin(connection));
        }
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(over) = connection.as_mut().poll(context)
        {
            if let Err(error) = over {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a server's connection of HTTP/2 ended"
                );
            }
            self.connection = None;
        }
        loop {
            self.tasks.extend(self.spawned.0.take());
            match Pin::new(&mut self.tasks).poll_next(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        self.connecting.is_none() && self.connection.is_none() && self.tasks.is_empty()
    }

    fn add_lane(&mut self, layer: &mut L, tag: u64, io: &mut Io<'_>) {
        let lane = Lane::open(layer, tag, io);
        self.lanes.push(ServerLane { lane, decoder: None, writer: None, reply: None, is_head: false });
    }

    fn open_lanes(&mut self, layer: &mut L, io: &mut Io<'_>) {
        let (Purpose::Requests(key), Some(sender)) = (self.purpose, &self.sender) else { return };
        if sender.is_closed() {
            return;
        }
        let mut state = self.state.borrow_mut();
        let (wanted, place) = (state.take_wanted(key), state.trunks[key].place);
        drop(state);
        for _ in 0..wanted {
            self.add_lane(layer, place.tag() | Place::LANE, io);
        }
    }

    fn drive(&mut self, layer: &mut L, io: &mut Io<'_>, waker: &Waker, is_over: bool) {
        let is_closed = is_over || self.sender.as_ref().is_some_and(SendRequest::is_closed);
        let mut at = 0;
        while let Some(lane) = self.lanes.get_mut(at) {
            let to = (self.sender.as_mut(), self.is_secured);
            lane.drive(layer, io, waker, to, &mut self.slots);
            if is_over || is_closed && lane.is_idle() {
                lane.lane.call(layer, Call::End(&mut []), io);
            }
            if lane.lane.is_open() {
                at += 1;
            } else {
                let lane = self.lanes.swap_remove(at).lane;
                lane.close(layer, CloseReason::Finished, &mut io.reclaim());
            }
        }
    }

    /// Says how many streams there are, and may be.
    fn note(&self, is_over: bool) {
        let Purpose::Requests(key) = self.purpose else { return };
        let is_closed = is_over || self.sender.as_ref().is_some_and(SendRequest::is_closed);
        let streams_max = match &self.connection {
            _ if is_closed => None,
            Some(connection) => Some(connection.current_max_send_streams()),
            None => Some(usize::MAX),
        };
        self.state.borrow_mut().note_trunk(key, self.lanes.len(), streams_max);
    }

    pub(in crate::proxy) fn close(self, layer: &mut L, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        self.lanes.into_iter().for_each(|lane| lane.lane.close(layer, reason, reclaim));
        if let Purpose::Requests(key) = self.purpose {
            self.state.borrow_mut().trunk_closed(key, self.is_spoken);
        }
    }
}

impl<L: Layer> ServerLane<L> {
    fn bytes(&self) -> usize {
        self.lane.bytes() + self.writer.as_ref().map_or(0, Writer::bytes)
    }

    /// It has no request.
    fn is_idle(&self) -> bool {
        self.decoder.is_none() && self.reply.is_none() && !self.lane.is_fed() && self.lane.rest.is_empty()
    }

    /// Moves what there is to move.
    fn drive(
        &mut self,
        layer: &mut L,
        io: &mut Io<'_>,
        waker: &Waker,
        (mut sender, is_secured): (Option<&mut SendRequest<Body>>, bool),
        slots: &mut Slots,
    ) {
        let context = &mut Context::from_waker(waker);
        while self.lane.is_open() {
            let has_room = self.writer.as_ref().is_none_or(Writer::has_room);
            let mut has_moved = has_room && self.lane.take(layer, io);
            let said =
                sender.as_mut().map_or(Ok(false), |sender| self.read(sender, is_secured, waker, slots));
            match said {
                // hyper does not show it, and the body may as well come at once.
                Ok(true) => self.lane.call(layer, Call::Data(&mut CONTINUE.to_vec()), io),
                Ok(false) => {}
                Err(said) => {
                    (self.decoder, self.writer) = (None, None);
                    self.lane.rest.clear();
                    self.lane.call(layer, Call::Data(&mut said.as_bytes().to_vec()), io);
                    continue;
                }
            }
            if let Some(reply) = &mut self.reply
                && let Poll::Ready(replied) = reply.as_mut().poll(context)
            {
                self.reply = None;
                let Ok(response) = replied else {
                    return self.lane.call(layer, Call::End(&mut []), io);
                };
                let (parts, incoming) = response.into_parts();
                let (mut head, has_body) = (Vec::new(), !incoming.is_end_stream());
                let is_chunked = text::write_response(&mut head, &parts, (self.is_head, has_body));
                if has_body {
                    self.lane.follow(Body::streamed(incoming, None), is_chunked);
                }
                self.lane.call(layer, Call::Data(&mut head), io);
                has_moved = true;
            }
            match self.lane.feed(layer, io, context) {
                Fed::Cut => return self.lane.call(layer, Call::End(&mut []), io),
                Fed::Some => {}
                Fed::Nothing if has_moved => {}
                Fed::Nothing => return,
            }
        }
    }

    /// Reads on in the request; whether its client waits for a 100. An error is what is said instead of a reply.
    fn read(
        &mut self,
        sender: &mut SendRequest<Body>,
        is_secured: bool,
        waker: &Waker,
        slots: &mut Slots,
    ) -> Result<bool, &'static str> {
        const BAD: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
        const NOT_OVER_TWO: &str = "HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\n\r\n";
        let mut waits = false;
        if self.decoder.is_none() && self.reply.is_none() && !self.lane.is_fed() {
            match parse_head(&self.lane.rest, slots, &HEAD_LIMITS) {
                Outcome::Partial => return Ok(false),
                Outcome::Malformed(_) => return Err(BAD),
                Outcome::Complete { head, .. } if head.upgrade && head.fields.value("upgrade").is_some() => {
                    return Err(NOT_OVER_TWO);
                }
                Outcome::Complete { head, len } => {
                    let request = text::request(&head, is_secured).ok_or(BAD)?;
                    let body = if text::has_body(&head) {
                        let length = request.headers().get(http::header::CONTENT_LENGTH);
                        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
                        let (writer, body) = Body::stream(length, Some(waker.clone()));
                        (self.writer, self.decoder) = (Some(writer), Some(Decoder::new(head.framing)));
                        body
                    } else {
                        Body::empty()
                    };
                    self.is_head = text::is_head(&head);
                    waits = head.expect == Expect::Continue;
                    self.reply = Some(Box::pin(sender.send_request(request.map(|()| body))));
                    self.lane.forget(len);
                }
            }
        }
        let mut at = 0;
        while let Some(decoder) = &mut self.decoder {
            match decoder.decode(&self.lane.rest[at..], &BodyLimits::default()) {
                Decoded::Data { consumed, data } => {
                    at += consumed;
                    self.writer.iter().for_each(|writer| writer.push(data));
                }
                Decoded::Partial { consumed } => {
                    at += consumed;
                    break;
                }
                Decoded::End { consumed, trailers } => {
                    at += consumed;
                    self.writer.take().iter().for_each(|writer| writer.end(text::trailers(trailers)));
                    self.decoder = None;
                }
                Decoded::Malformed(_) => return Err(BAD),
            }
        }
        self.lane.forget(at);
        Ok(waits)
    }
}
