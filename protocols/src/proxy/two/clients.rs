//! A client's connection of HTTP/2: its requests are text for a lane each, whose replies are read and answered with.

use super::lane::{Fed, Lane};
use super::lanes::{Carries, Lanes, Turn};
use super::pings::Pings;
use super::ready::{Part, Ready};
use super::replying::Reading;
use super::resets::Resets;
use super::sink::Sent;
use super::text::Heads;
use super::websocket::Socket;
use super::wire::Wire;
use crate::adapt::Http2Limits;
use crate::adapt::grpc::Deadline;
use crate::adapt::timer::Clock;
use crate::http::Limits;
use crate::http::client::reader::{Asked, Reader};
use crate::proxy::groups::Place;
use crate::proxy::plan::Front;
use crate::proxy::state::State;
use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::{Method, Request};
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Reclaim, Step, Tick};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// What the library keeps for a connection, about.
const CONNECTION_BYTES: usize = 20 * 1024;
/// Output that is more than answers to PING and SETTINGS: a client that takes it is not idle.
const MUCH_BYTES: usize = 1024;

/// A connection.
pub(in crate::proxy) struct Streams<L: Layer> {
    wire: Wire,
    link: Link,
    ready: Ready,
    lanes: Lanes<ClientLane<L>>,
    pings: Pings,
    clock: Clock,
    limits: Limits,
    own: Http2Limits,
    resets_per_sec_max: u32,
    /// Since when it has no streams.
    since: Tick,
    /// When it is old; then, when it is cut.
    old_at: Tick,
    life: Life,
    /// Requests that it had.
    requests: u32,
    /// Requests that its client took back before they were answered, as far as they are not forgiven, and since when.
    resets: Resets,
    heads: Rc<RefCell<Heads>>,
    state: Rc<RefCell<State>>,
}

enum Link {
    Handshake(Box<Handshake<Wire, Bytes>>),
    Open(Box<Connection<Wire, Bytes>>),
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    /// It had no request yet.
    Fresh,
    Used,
    /// It was told to end.
    Ending,
    /// It was told so for its age.
    Old,
}

struct ClientLane<L: Layer> {
    lane: Lane<L>,
    /// Until the head is there; then there is a sink.
    answer: Option<SendResponse<Bytes>>,
    reader: Reader,
    deadline: Option<Deadline>,
    has_reply: bool,
    /// What was asked for, where that is a WebSocket.
    socket: Option<Box<Socket>>,
}

/// What became of a lane.
enum Drive {
    On,
    Starved,
    Finished,
    /// The reply or the request broke off.
    Cut,
    /// Its time is over, and its client was told so with this status if there was no other one; or its client makes no room.
    Late(Option<u16>),
    /// Its client took it back.
    Left,
}

impl<L: Layer> Carries<L> for ClientLane<L> {
    fn lane(&mut self) -> &mut Lane<L> {
        &mut self.lane
    }
}

impl<L: Layer> Streams<L> {
    pub(in crate::proxy) fn open(front: &Front, state: Rc<RefCell<State>>, io: &mut Io<'_>) -> Streams<L> {
        let (wire, own, now) = (Wire::default(), front.http2.clone(), io.now());
        let number = state.borrow_mut().bells.count_connection();
        let heads = state.borrow().heads.clone();
        let mut builder = Builder::new();
        builder
            .enable_connect_protocol()
            .max_concurrent_streams(own.streams_max)
            .max_header_list_size(own.field_bytes_max)
            .max_frame_size(own.frame_bytes_max)
            .max_pending_accept_reset_streams(own.resets_pending_max)
            .max_local_error_reset_streams(Some(own.resets_own_max))
            .initial_window_size(own.window_bytes)
            .initial_connection_window_size(own.window_bytes)
            .max_send_buffer_size(own.send_bytes_max);
        let ready = Ready::new(io);
        ready.list_connection();
        io.set_timeout(front.limits.head_timeout);
        Streams {
            link: Link::Handshake(Box::new(builder.handshake(wire.clone()))),
            wire,
            ready,
            lanes: Lanes::default(),
            pings: Pings::new(own.ping_interval.map(|interval| (interval, own.ping_timeout)), now),
            clock: Clock::new(now),
            limits: front.limits.clone(),
            since: now,
            old_at: own.old_at(number, now),
            own,
            resets_per_sec_max: front.http2_resets_per_sec_max,
            life: Life::Fresh,
            requests: 0,
            resets: Resets::new(now),
            heads,
            state,
        }
    }

    pub(in crate::proxy) fn call(&mut self, layer: &mut L, call: Call<'_>, io: &mut Io<'_>) -> Step {
        self.ready.begin();
        self.clock.set(io.now());
        match call {
            Call::Data(input) => return self.data(layer, input, io),
            Call::Gone => return Step::close(),
            Call::End(_) => {
                self.wire.end();
                self.ready.list_connection();
                self.go_on(layer, io);
                return Step::close();
            }
            Call::Drained | Call::Wake | Call::Spliced(_) => {}
            Call::Timeout => {
                self.lanes.time_out(layer, &self.ready, io);
                if !self.look_at_clock(io) {
                    return Step::close();
                }
            }
            Call::Drain => {
                self.lanes.call_all(layer, || Call::Drain, &self.ready, io);
                self.end(Life::Ending, io);
            }
            Call::Shed if self.lanes.is_empty() => {
                self.end(Life::Ending, io);
                self.go_on(layer, io);
                return Step::close();
            }
            Call::Shed => {}
        }
        Step::next(self.go_on(layer, io))
    }

    fn data(&mut self, layer: &mut L, input: &[u8], io: &mut Io<'_>) -> Step {
        self.pings.hear(io.now());
        self.wire.clone().feed(input, || {
            self.ready.begin();
            self.ready.list_connection();
            self.go_on(layer, io)
        })
    }

    /// Goes on with all that can, and writes what there is to send.
    fn go_on(&mut self, layer: &mut L, io: &mut Io<'_>) -> Next {
        let was_busy = !self.lanes.is_empty();
        let mut sent_bytes = 0;
        while let Some(part) = self.ready.next(|ready| sent_bytes += self.lanes.pour(&self.wire, ready, io)) {
            match part {
                Part::Connection => self.poll(layer, io),
                Part::Lane(lane, is_rung) => self.drive(layer, lane, is_rung, io),
            }
        }
        self.ready.end();
        if matches!(self.link, Link::Over) {
            self.wire.pour(usize::MAX, io);
            return Next::Close;
        }
        let is_busy = !self.lanes.is_empty();
        if !is_busy && (was_busy || sent_bytes >= MUCH_BYTES) {
            self.since = io.now();
        }
        let is_affordable = io.hold(self.bytes());
        if !is_affordable && !is_busy {
            return Next::Close;
        }
        if self.wire.output_bytes() > 0 || self.lanes.has_starved() {
            io.notify_drained();
        }
        let pinged = if is_busy { self.pings.due() } else { Tick::NEVER };
        let due = [self.wait(), self.old_at, pinged, self.lanes.due()].into_iter().chain(self.clock.next());
        io.set_deadline(due.min().filter(|due| *due != Tick::NEVER));
        Next::Continue
    }

    fn bytes(&self) -> usize {
        CONNECTION_BYTES + self.wire.bytes() + self.ready.bytes() + self.lanes.bytes()
    }

    /// Reads on in what has arrived, and gives each request that has come a lane.
    fn poll(&mut self, layer: &mut L, io: &mut Io<'_>) {
        loop {
            let context = &mut Context::from_waker(self.ready.connection_waker());
            match &mut self.link {
                Link::Handshake(handshake) => match Pin::new(&mut **handshake).poll(context) {
                    Poll::Pending => return,
                    Poll::Ready(Err(error)) => return self.over(&error),
                    Poll::Ready(Ok(mut connection)) => {
                        self.pings.begin(connection.ping_pong());
                        self.link = Link::Open(Box::new(connection));
                    }
                },
                Link::Open(connection) => match connection.poll_accept(context) {
                    Poll::Pending => return,
                    Poll::Ready(None) => return self.link = Link::Over,
                    Poll::Ready(Some(Err(error))) => return self.over(&error),
                    Poll::Ready(Some(Ok((request, answer)))) => self.take_in(layer, request, answer, io),
                },
                Link::Over => return,
            }
        }
    }

    fn over(&mut self, error: &h2::Error) {
        tracing::debug!(error = error as &dyn std::error::Error, "a client's connection of HTTP/2 ended");
        self.link = Link::Over;
    }

    fn take_in(
        &mut self,
        layer: &mut L,
        request: Request<RecvStream>,
        answer: SendResponse<Bytes>,
        io: &mut Io<'_>,
    ) {
        self.requests = self.requests.saturating_add(1);
        if self.life == Life::Fresh {
            self.life = Life::Used;
        }
        if self.limits.requests_max.is_some_and(|max| self.requests >= max) {
            self.end(Life::Ending, io);
        }
        let (parts, body) = request.into_parts();
        let mut body = Some(body).filter(|body| !body.is_end_stream());
        let mut head = std::mem::take(&mut self.heads.borrow_mut().text);
        let (socket, is_chunked) = Socket::write_head(&mut head, &parts, &mut body);
        let (is_head, upgrades) = (parts.method == Method::HEAD, socket.is_some());
        let asked = Asked { is_head, is_connect: false, upgrades };
        let deadline = Deadline::of(&parts.headers, self.own.grpc_timeout_max, &self.clock);
        let number = self.lanes.next_number();
        let mut lane = Lane::open(layer, &self.state, Place::STREAM, self.ready.bell(number), io);
        body.into_iter().for_each(|body| lane.follow(body, is_chunked));
        lane.call(layer, Call::Data(&mut head), io);
        head.clear();
        self.heads.borrow_mut().text = head;
        let (answer, reader) = (Some(answer), Reader::new(asked));
        self.lanes.insert(ClientLane { lane, answer, reader, deadline, has_reply: false, socket });
        self.ready.list_lane(number);
    }

    fn drive(&mut self, layer: &mut L, number: usize, is_rung: bool, io: &mut Io<'_>) {
        let patience = self.own.stalled_timeout;
        let Some((lane, turn)) = self.lanes.get(number, is_rung, patience, layer, io) else { return };
        let context = &mut Context::from_waker(self.ready.lane_waker(number));
        let reason = match lane.drive(layer, (turn, context), &self.heads, io) {
            Drive::On => return self.lanes.note(number, io),
            Drive::Starved => {
                self.lanes.starve(number);
                return self.lanes.note(number, io);
            }
            Drive::Finished => CloseReason::Finished,
            Drive::Cut => CloseReason::Aborted,
            Drive::Late(told) => {
                told.into_iter().for_each(|status| self.state.borrow_mut().bells.answer(status));
                CloseReason::WriteTimeout
            }
            Drive::Left => {
                if self.resets.add(io.now(), self.resets_per_sec_max)
                    && let Link::Open(connection) = &mut self.link
                {
                    tracing::debug!("a client of HTTP/2 takes too many requests back");
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    self.ready.list_connection();
                }
                CloseReason::Aborted
            }
        };
        // A reply that is not complete ends with its stream, which is reset.
        if let Some(ClientLane { lane, .. }) = self.lanes.remove(number) {
            lane.close(layer, &self.state, reason, &mut io.reclaim());
        }
    }

    /// Tells the client to begin no more streams (GOAWAY).
    fn end(&mut self, life: Life, io: &Io<'_>) {
        if matches!(self.life, Life::Ending | Life::Old) {
            return;
        }
        (self.life, self.since) = (life, io.now());
        match &mut self.link {
            Link::Open(connection) => connection.graceful_shutdown(),
            // It has not said what it is.
            Link::Handshake(_) => self.link = Link::Over,
            Link::Over => {}
        }
        self.ready.list_connection();
    }

    /// Until when it may be without a stream.
    fn wait(&self) -> Tick {
        let time = match self.life {
            _ if !self.lanes.is_empty() => return Tick::NEVER,
            Life::Ending | Life::Old => self.own.goaway_timeout,
            Life::Fresh => self.limits.head_timeout,
            Life::Used => self.limits.keep_alive_timeout,
        };
        self.since.after(time)
    }

    /// Whether it goes on.
    fn look_at_clock(&mut self, io: &Io<'_>) -> bool {
        let now = io.now();
        if self.old_at <= now {
            if self.life == Life::Old {
                tracing::debug!("an old connection is cut: its streams did not end in time");
                return false;
            }
            self.end(Life::Old, io);
            (self.life, self.old_at) = (Life::Old, now.after(self.own.age_grace));
        }
        if self.wait() <= now {
            if matches!(self.life, Life::Ending | Life::Old) {
                return false;
            }
            self.end(Life::Ending, io);
        }
        self.lanes.is_empty() || self.pings.look(now)
    }

    pub(in crate::proxy) fn close(self, layer: &mut L, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        for ClientLane { lane, .. } in self.lanes.into_all() {
            lane.close(layer, &self.state, reason, reclaim);
        }
    }
}

impl<L: Layer> ClientLane<L> {
    /// Moves what there is to move.
    fn drive(
        &mut self,
        layer: &mut L,
        (mut turn, context): (Turn<'_>, &mut Context<'_>),
        heads: &RefCell<Heads>,
        io: &mut Io<'_>,
    ) -> Drive {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.is_over(context)) {
            return self.end_late(context, &mut turn);
        }
        let drive = loop {
            let mut has_moved = false;
            if let Some(output) = self.lane.take() {
                has_moved = true;
                let is_good = output.pieces().all(|piece| self.read_piece(piece, &mut heads.borrow_mut()));
                self.lane.give_back(layer, output, io);
                if !is_good {
                    break Drive::Cut;
                }
            }
            if let Some(socket) = &mut self.socket {
                has_moved |= socket.pass_ends(layer, &mut self.lane, io);
            }
            let sent = match &mut self.lane.sink {
                Some(sink) => turn.send(sink, context),
                None if self.has_reply => Sent::Whole,
                None => Sent::On,
            };
            match sent {
                Sent::Whole if self.socket.as_ref().is_some_and(|socket| socket.listens()) => {}
                // What is reset takes nothing, so a reply that is finished was not taken back: nobody has to look.
                Sent::Whole => return Drive::Finished,
                Sent::Broken if self.is_stalled(io.now()) => break Drive::Late(None),
                Sent::Broken => break Drive::Cut,
                Sent::Starved => break Drive::Starved,
                Sent::On | Sent::Waits => {}
            }
            match self.lane.feed(layer, context, io) {
                Fed::Cut => break Drive::Cut,
                Fed::Some => {}
                Fed::Nothing if has_moved || self.lane.has_more() => {}
                Fed::Nothing if self.lane.is_open() || sent == Sent::Waits => break Drive::On,
                Fed::Nothing => break Drive::Cut,
            }
        };
        if self.has_left(context) { Drive::Left } else { drive }
    }

    fn has_left(&mut self, context: &mut Context<'_>) -> bool {
        match (&mut self.lane.sink, &mut self.answer) {
            (Some(sink), _) => sink.is_reset(context),
            (None, Some(answer)) => answer.poll_reset(context).is_ready(),
            (None, None) => false,
        }
    }

    /// Its client has made no room for too long.
    fn is_stalled(&self, now: Tick) -> bool {
        self.lane.sink.as_ref().is_some_and(|sink| sink.due() <= now)
    }

    /// The call's time is over: says so instead of the reply, or behind what there is of it.
    fn end_late(&mut self, context: &mut Context<'_>, turn: &mut Turn<'_>) -> Drive {
        let Some(deadline) = self.deadline.take() else { return Drive::Cut };
        let mut told = None;
        if let Some(answer) = &mut self.answer {
            let response = deadline.answer::<()>().map(drop);
            told = Some(response.status().as_u16());
            let _ = answer.send_response(response, true);
        } else if let Some(sink) = &mut self.lane.sink {
            match deadline.last_frame().into_data() {
                Ok(data) => {
                    sink.push(&data);
                    sink.end(None);
                }
                Err(frame) => sink.end(frame.into_trailers().ok()),
            }
            turn.send(sink, context);
        }
        Drive::Late(told)
    }

    fn read_piece(&mut self, piece: &[u8], heads: &mut Heads) -> bool {
        let ClientLane { lane, answer, reader, has_reply, socket, .. } = self;
        let sink = &mut lane.sink;
        lane.rest.read(piece, |text| {
            let socket = socket.as_deref_mut();
            let mut reading = Reading { answer, reader, sink, has_reply, socket };
            reading.read(text, heads)
        })
    }
}
