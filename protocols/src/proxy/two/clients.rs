//! A client's connection of HTTP/2: its requests are text for a lane each, whose replies are read and answered with.

use super::lane::{Fed, Lane};
use super::text;
use crate::adapt::Body;
use crate::adapt::body::Writer;
use crate::adapt::h2::{self, Http2};
use crate::adapt::service::{BoxError, Program};
use crate::http::Limits;
use crate::http::client::reader::{Asked, Event, Reader};
use crate::http::message::Slots;
use crate::http::one::decoder::BodyLimits;
use crate::proxy::groups::Place;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Origin, Reclaim, Step};
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;
use tower_service::Service;

/// Streams and lanes wake each other; who goes on with that has its next turn after those of others.
const ROUNDS_MAX: usize = 64;
/// Lanes have times of their own for everything.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A connection.
pub(in crate::proxy) struct Streams<L: Layer> {
    two: Http2<Desk>,
    session: h2::Session<Desk>,
    desk: Desk,
    lanes: Vec<ClientLane<L>>,
    slots: Slots,
}

/// Takes requests in, until the session comes by.
#[derive(Clone, Default)]
struct Desk(Rc<RefCell<Vec<Arrival>>>);

struct Arrival {
    request: Request<Body>,
    answer: oneshot::Sender<Response<Body>>,
}

struct ClientLane<L: Layer> {
    lane: Lane<L>,
    /// Until the head is there; then there is a writer.
    answer: Option<oneshot::Sender<Response<Body>>>,
    writer: Option<Writer>,
    reader: Reader,
    is_done: bool,
}

impl Service<Request<Body>> for Desk {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        self.0.borrow_mut().push(Arrival { request, answer });
        Box::pin(async { answered.await.map_err(Into::into) })
    }
}

impl<L: Layer> Streams<L> {
    pub(in crate::proxy) fn open(limits: &Limits, io: &mut Io<'_>) -> Streams<L> {
        let desk = Desk::default();
        let limits = Limits { handler_timeout: NEVER, ..limits.clone() };
        let mut two = Http2::new(Program::new(desk.clone()), limits).uncounted();
        let session = Layer::open(&mut two, Origin::Accepted, io);
        Streams { two, session, desk, lanes: Vec::new(), slots: Slots::new() }
    }

    pub(in crate::proxy) fn call(&mut self, layer: &mut L, call: Call<'_>, io: &mut Io<'_>) -> Step {
        let for_lanes = match call {
            Call::Timeout => || Call::Timeout,
            Call::Drain => || Call::Drain,
            _ => || Call::Wake,
        };
        let mut step = Layer::call(&mut self.two, &mut self.session, call, io);
        if matches!(step.next, Next::Close | Next::Abort) {
            return step;
        }
        let waker = self.session.signal().waker();
        self.session.signal().begin();
        self.lanes.iter_mut().for_each(|lane| lane.lane.call(layer, for_lanes(), io));
        for _ in 0..ROUNDS_MAX {
            self.session.signal().lower();
            let due = io.deadline();
            self.take_in(layer, io);
            self.drive(layer, io, &waker);
            io.set_deadline(due);
            if !self.session.signal().is_raised() {
                break;
            }
            let next = Layer::call(&mut self.two, &mut self.session, Call::Wake, io).next;
            step.next = next;
            if next != Next::Continue {
                return step;
            }
            // It was polled, and polls no more.
            self.session.signal().begin();
        }
        self.session.signal().end();
        let own = io.deadline();
        let due = self.lanes.iter_mut().filter_map(|lane| lane.lane.due(io)).chain(own).min();
        io.set_deadline(due);
        let lanes: usize = self.lanes.iter().map(ClientLane::bytes).sum();
        io.hold(self.session.bytes() + lanes);
        step
    }

    /// Gives each request that has come a lane.
    fn take_in(&mut self, layer: &mut L, io: &mut Io<'_>) {
        let arrivals = self.desk.0.take();
        for Arrival { request, answer } in arrivals {
            let (parts, body) = request.into_parts();
            let (mut head, has_body) = (Vec::new(), !body.is_end_stream());
            let is_chunked = match text::write_request(&mut head, &parts, has_body) {
                Ok(is_chunked) => is_chunked,
                Err(status) => {
                    let _ = answer.send(plain(status));
                    continue;
                }
            };
            let asked = Asked { is_head: parts.method == Method::HEAD, is_connect: false, upgrades: false };
            let mut lane = Lane::open(layer, Place::STREAM, io);
            if has_body {
                lane.follow(body, is_chunked);
            }
            lane.call(layer, Call::Data(&mut head), io);
            self.lanes.push(ClientLane {
                lane,
                answer: Some(answer),
                writer: None,
                reader: Reader::new(asked),
                is_done: false,
            });
        }
    }

    fn drive(&mut self, layer: &mut L, io: &mut Io<'_>, waker: &Waker) {
        let mut at = 0;
        while let Some(lane) = self.lanes.get_mut(at) {
            let reason = match lane.drive(layer, io, waker, &mut self.slots) {
                true => {
                    at += 1;
                    continue;
                }
                false if lane.is_done => CloseReason::Finished,
                false => CloseReason::Aborted,
            };
            // A reply that is not complete ends with its writer: the stream is reset.
            self.lanes.swap_remove(at).lane.close(layer, reason, &mut io.reclaim());
        }
    }

    pub(in crate::proxy) fn close(self, layer: &mut L, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        self.lanes.into_iter().for_each(|lane| lane.lane.close(layer, reason, reclaim));
    }
}

impl<L: Layer> ClientLane<L> {
    fn bytes(&self) -> usize {
        self.lane.bytes() + self.writer.as_ref().map_or(0, Writer::bytes)
    }

    /// Moves what there is to move; whether it goes on.
    fn drive(&mut self, layer: &mut L, io: &mut Io<'_>, waker: &Waker, slots: &mut Slots) -> bool {
        let context = &mut Context::from_waker(waker);
        loop {
            let has_left = self.answer.as_ref().is_some_and(oneshot::Sender::is_closed)
                || self.writer.as_ref().is_some_and(Writer::is_dropped);
            if has_left {
                return false;
            }
            let has_room = self.writer.as_ref().is_none_or(Writer::has_room);
            let has_moved = has_room && self.lane.take(layer, io);
            if has_moved && !self.read(waker, slots) || self.is_done {
                return false;
            }
            match self.lane.feed(layer, io, context) {
                Fed::Cut => return false,
                Fed::Some => {}
                Fed::Nothing if has_moved => {}
                Fed::Nothing => return self.lane.is_open() || !has_room,
            }
        }
    }

    /// Reads on in the reply; whether that is good so far.
    fn read(&mut self, waker: &Waker, slots: &mut Slots) -> bool {
        let mut at = 0;
        loop {
            match self.reader.read(&self.lane.rest[at..], slots, &BodyLimits::default()) {
                // hyper has no way to say them.
                Event::Interim(response) => at += response.bytes,
                Event::Head(response) => {
                    at += response.bytes;
                    let Some(answer) = self.answer.take() else { return false };
                    let Some(head) = text::response(&response) else { return false };
                    let body = if response.body.is_some() {
                        let (writer, body) = Body::stream(response.length, Some(waker.clone()));
                        self.writer = Some(writer);
                        body
                    } else {
                        Body::empty()
                    };
                    if answer.send(head.map(|()| body)).is_err() {
                        return false;
                    }
                }
                Event::Data { consumed, data } => {
                    at += consumed;
                    self.writer.iter().for_each(|writer| writer.push(data));
                }
                Event::End { trailers, .. } => {
                    self.writer.take().iter().for_each(|writer| writer.end(text::trailers(trailers)));
                    self.is_done = true;
                    return true;
                }
                Event::Partial { consumed } => {
                    self.lane.forget(at + consumed);
                    return true;
                }
                Event::Bad(_) => return false,
            }
        }
    }
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
