//! A connection of HTTP/2 with a server: each of its lanes writes requests, one after the other, and reads their replies.

use super::lane::Lane;
use super::lanes::Lanes;
use super::pings::Pings;
use super::ready::{Complaint, Part, Ready};
use super::requesting::To;
use super::server_lane::ServerLane;
use super::text::Heads;
use super::wire::Wire;
use crate::proxy::groups::Place;
use crate::proxy::state::State;
use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Reclaim, Refusal, Step, Tick};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What the library keeps for a connection, about.
const CONNECTION_BYTES: usize = 20 * 1024;
/// What a server may send that nobody has read: of a stream, and of all together.
const WINDOW_BYTES: u32 = 256 * 1024;
const WINDOWS_BYTES: u32 = 1024 * 1024;
/// Fields of one reply, as HPACK counts them.
const FIELD_BYTES_MAX: u32 = 64 * 1024;
/// What is written to a stream and not sent: of the request's body, so that it costs one lane no more than the others.
const SEND_BYTES_MAX: usize = 64 * 1024;
/// Streams that a server did wrong, in the life of a connection: beyond them it ends.
const RESETS_MAX: usize = 1024;
/// A server that is silent for so long while it has requests is asked whether it is there, and has so long to answer.
const PING_TIMES: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// Requests have times of their own.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
pub(in crate::proxy) struct Trunk<L: Layer> {
    wire: Wire,
    link: Link,
    sender: Option<SendRequest<Bytes>>,
    ready: Ready,
    lanes: Lanes<ServerLane<L>>,
    pings: Pings,
    purpose: Purpose,
    is_secured: bool,
    /// A reply may be waited for so long.
    first_byte_timeout: Duration,
    /// When the last one came.
    replied: Tick,
    /// Without a lane it is kept for so long...
    keep_timeout: Duration,
    /// ...until then.
    kept_until: Tick,
    /// Its handshake came to HTTP/2.
    is_spoken: bool,
    /// It takes requests: not behind a GOAWAY, and not when all numbers of streams were used.
    is_usable: bool,
    heads: Rc<RefCell<Heads>>,
    state: Rc<RefCell<State>>,
}

enum Link {
    Connecting(Connecting),
    Open(Box<Served>),
    Over,
}

type Connecting = Pin<Box<dyn Future<Output = Result<(SendRequest<Bytes>, Served), h2::Error>>>>;
type Served = Connection<Wire, Bytes>;

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
        let wire = Wire::default();
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOWS_BYTES)
            .max_header_list_size(FIELD_BYTES_MAX)
            .max_send_buffer_size(SEND_BYTES_MAX)
            .max_local_error_reset_streams(Some(RESETS_MAX));
        let far = wire.clone();
        let connecting: Connecting = Box::pin(async move { builder.handshake(far).await });
        let mut it = state.borrow_mut();
        let heads = it.heads.clone();
        let config = it.groups.config(place.group);
        let (keep_timeout, first_byte_timeout) = (config.keep_timeout, config.first_byte_timeout);
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
            wire,
            link: if is_spoken { Link::Connecting(connecting) } else { Link::Over },
            sender: None,
            ready: Ready::new(io),
            lanes: Lanes::default(),
            pings: Pings::new(Some(PING_TIMES), io.now()),
            purpose,
            is_secured,
            first_byte_timeout,
            replied: io.now(),
            keep_timeout,
            kept_until: Tick::NEVER,
            is_spoken,
            is_usable: true,
            heads,
            state,
        };
        if let Purpose::Check = purpose {
            trunk.add_lane(layer, tag | Place::LANE, io);
        }
        trunk.ready.begin();
        trunk.ready.list_connection();
        if trunk.go_on(layer, io) != Next::Continue {
            // Only a call can close, and this asks for one at once.
            io.notify_drained();
        }
        trunk
    }

    pub(in crate::proxy) fn call(&mut self, layer: &mut L, call: Call<'_>, io: &mut Io<'_>) -> Step {
        self.ready.begin();
        let is_asked_to_end = match call {
            Call::Timeout => self.kept_until <= io.now(),
            Call::Shed | Call::Drain => true,
            _ => false,
        };
        if matches!(call, Call::Wake | Call::Timeout | Call::Shed) {
            // Streams may be wanted: then it goes on.
            self.open_lanes(layer, io);
        }
        match call {
            Call::Data(input) => return self.data(layer, input, io),
            Call::End(_) => {
                self.wire.end();
                // Whatever is sent to a server that has closed its end may have the rest of its replies thrown away by a reset.
                self.wire.mute();
                self.ready.list_connection();
                return Step::next(self.go_on(layer, io));
            }
            Call::Timeout => {
                self.lanes.time_out(layer, &self.ready, io);
                if !self.lanes.is_empty() && !self.is_over() && !self.pings.look(io.now()) {
                    tracing::debug!("a server of HTTP/2 does not answer a PING");
                    self.over();
                }
                self.ready.list_connection();
            }
            Call::Drain => self.lanes.call_all(layer, || Call::Drain, &self.ready, io),
            Call::Shed => self.lanes.call_all(layer, || Call::Shed, &self.ready, io),
            Call::Drained | Call::Gone | Call::Spliced(_) | Call::Wake => {}
        }
        let next = self.go_on(layer, io);
        let ends = is_asked_to_end && self.lanes.is_empty() && next == Next::Continue;
        Step::next(if ends { Next::Close } else { next })
    }

    fn data(&mut self, layer: &mut L, input: &[u8], io: &mut Io<'_>) -> Step {
        if self.is_over() {
            return Step { consumed: input.len(), need: 0, next: self.go_on(layer, io) };
        }
        self.pings.hear(io.now());
        self.wire.clone().feed(input, || {
            self.ready.begin();
            self.ready.list_connection();
            self.go_on(layer, io)
        })
    }

    /// Goes on with all that can, and writes what there is to send.
    fn go_on(&mut self, layer: &mut L, io: &mut Io<'_>) -> Next {
        while let Some(part) = self.ready.next(|ready| _ = self.lanes.pour(&self.wire, ready, io)) {
            match part {
                Part::Connection => self.poll(layer, io),
                Part::Lane(lane, is_rung) => self.drive(layer, lane, is_rung, io),
            }
        }
        self.ready.end();
        self.note();
        // Replies that have come whole are their clients', who take them when they like.
        if self.is_over() && self.lanes.is_empty() || self.is_done(io) {
            return Next::Close;
        }
        if self.wire.output_bytes() > 0 || self.lanes.has_starved() {
            io.notify_drained();
        }
        io.hold(CONNECTION_BYTES + self.wire.bytes() + self.ready.bytes() + self.lanes.bytes());
        if !self.lanes.is_empty() {
            self.kept_until = Tick::NEVER;
        } else if self.kept_until == Tick::NEVER {
            self.kept_until = io.now().after(self.keep_timeout);
        }
        let is_silent = self.lanes.is_empty() || self.is_over();
        let pinged = if is_silent { Tick::NEVER } else { self.pings.due() };
        let due = self.lanes.due().min(self.kept_until).min(pinged);
        io.set_deadline(Some(due).filter(|due| *due != Tick::NEVER));
        Next::Continue
    }

    /// Whether it has nothing to do, and nobody will want it.
    fn is_done(&self, io: &Io<'_>) -> bool {
        self.lanes.is_empty()
            && match self.purpose {
                Purpose::Requests(key) => {
                    io.is_draining() || self.is_closed() || !self.state.borrow().wants_trunk(key)
                }
                Purpose::Check | Purpose::Nothing => true,
            }
    }

    /// Reads on in what has arrived.
    fn poll(&mut self, layer: &mut L, io: &mut Io<'_>) {
        if let Link::Connecting(connecting) = &mut self.link {
            let context = &mut Context::from_waker(self.ready.connection_waker());
            match connecting.as_mut().poll(context) {
                Poll::Pending => return,
                Poll::Ready(Err(error)) => return self.fail(&error),
                Poll::Ready(Ok((sender, mut connection))) => {
                    self.pings.begin(connection.ping_pong());
                    self.sender = Some(sender);
                    self.link = Link::Open(Box::new(connection));
                    self.open_lanes(layer, io);
                    self.lanes.list_all(&self.ready);
                }
            }
        }
        if let Link::Open(connection) = &mut self.link {
            let context = &mut Context::from_waker(self.ready.connection_waker());
            let polled = Pin::new(connection).poll(context);
            self.is_usable &= self.sender.as_mut().is_none_or(is_usable) && !self.is_disproved(io.now());
            match polled {
                Poll::Pending if self.is_closed() => self.leave(),
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.over(),
                Poll::Ready(Err(error)) => self.fail(&error),
            }
        }
    }

    fn fail(&mut self, error: &h2::Error) {
        tracing::debug!(error = error as &dyn std::error::Error, "a server's connection of HTTP/2 ended");
        self.over();
    }

    fn over(&mut self) {
        self.link = Link::Over;
        self.leave();
    }

    /// It takes no more requests: nobody is to want streams of it, those that are wanted open elsewhere, and lanes without a request end.
    fn leave(&mut self) {
        if let Purpose::Requests(key) = self.purpose {
            self.state.borrow_mut().trunk_leaves(key);
        }
        self.lanes.list_all(&self.ready);
    }

    /// Whether what lanes say of it is enough to give it no more requests: a reply that breaks the rules, or one that did not come for a
    /// time in which no other one came either.
    fn is_disproved(&self, now: Tick) -> bool {
        match self.ready.take_complaint() {
            None => false,
            Some(Complaint::Late) => self.replied.after(self.first_byte_timeout) <= now,
            Some(Complaint::Broken) => true,
        }
    }

    /// It takes no more requests.
    fn is_closed(&self) -> bool {
        self.is_over() || !self.is_usable
    }

    /// Nothing comes any more, and nothing is sent.
    fn is_over(&self) -> bool {
        matches!(self.link, Link::Over)
    }

    fn add_lane(&mut self, layer: &mut L, tag: u64, io: &mut Io<'_>) {
        let number = self.lanes.next_number();
        let lane = Lane::open(layer, &self.state, tag, self.ready.bell(number), io);
        self.lanes.insert(ServerLane::new(lane));
        self.ready.list_lane(number);
    }

    fn open_lanes(&mut self, layer: &mut L, io: &mut Io<'_>) {
        let Purpose::Requests(key) = self.purpose else { return };
        if self.sender.is_none() || self.is_closed() {
            return;
        }
        let mut state = self.state.borrow_mut();
        let (wanted, place) = (state.take_wanted(key), state.trunks[key].place);
        drop(state);
        for _ in 0..wanted {
            self.add_lane(layer, place.tag() | Place::LANE, io);
        }
    }

    fn drive(&mut self, layer: &mut L, number: usize, is_rung: bool, io: &mut Io<'_>) {
        let (is_over, is_closed) = (self.is_over(), self.is_closed());
        let sender = self.sender.as_ref().filter(|_| !is_closed);
        let to = To { sender, is_secured: self.is_secured };
        let Some((lane, mut turn)) = self.lanes.get(number, is_rung, NEVER, layer, io) else { return };
        if is_closed && !std::mem::replace(&mut lane.is_last, true) {
            self.state.borrow_mut().lane_leaves(lane.lane.key());
        }
        let context = &mut Context::from_waker(self.ready.lane_waker(number));
        // What it asks for stays with its session until there is somebody to ask: it is taken once.
        let is_starved = (sender.is_some() || lane.has_begun())
            && lane.drive(layer, (&mut turn, context), (&to, &self.state), &self.heads, io);
        self.replied = self.replied.max(lane.replied);
        // What has come of a reply is read to its end, which the library has as well.
        if is_over && !lane.lane.is_fed() || is_closed && !lane.has_begun() {
            if !lane.has_begun() {
                self.state.borrow_mut().unprocessed(lane.lane.key(), false);
            }
            lane.lane.call(layer, Call::End(&mut []), io);
        }
        if lane.lane.is_open() {
            if is_starved {
                self.lanes.starve(number);
            }
            self.lanes.note(number, io);
        } else if let Some(ServerLane { lane, .. }) = self.lanes.remove(number) {
            lane.close(layer, &self.state, CloseReason::Finished, &mut io.reclaim());
        }
    }

    /// Says how many streams there are, and may be.
    fn note(&self) {
        let Purpose::Requests(key) = self.purpose else { return };
        let streams_max = match &self.sender {
            _ if self.is_closed() => None,
            Some(sender) => Some(sender.current_max_send_streams()),
            None => Some(usize::MAX),
        };
        self.state.borrow_mut().note_trunk(key, self.lanes.len(), streams_max);
    }

    pub(in crate::proxy) fn close(self, layer: &mut L, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        for ServerLane { lane, .. } in self.lanes.into_all() {
            lane.close(layer, &self.state, reason, reclaim);
        }
        if let Purpose::Requests(key) = self.purpose {
            self.state.borrow_mut().trunk_closed(key, self.is_spoken);
        }
    }
}

fn is_usable(sender: &mut SendRequest<Bytes>) -> bool {
    !matches!(sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
}
