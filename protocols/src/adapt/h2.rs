//! HTTP/2 by hyper, over a pipe in memory: its connection and its streams are futures of our session, polled in place.
//!
//! A session pushes what arrived into the pipe, polls until nobody has woken anybody, and writes what hyper has left. No task is spawned
//! anywhere, so no runtime is needed. Limits are hyper's, set in [`Http2::builder`]; the time until the first request, and that without one,
//! is ours. What a program sees of requests and answers is the same as over HTTP/1.1 (`tower.rs`).

use super::body::Body;
use super::pipe::{Far, Near, pipe};
use super::service::{Answer, BoxError, Introduce, Program, call};
use super::signal::Signal;
use super::timer::Clock;
use crate::http::{Limits, Peer};
use futures_util::stream::{FuturesUnordered, Stream};
use http::{Extensions, Request, Response, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::rt::Executor;
use hyper::server::conn::http2;
use ringmill_engine::{CloseReason, Io, Next, Protocol, Step, Tick};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// HTTP/2 and nothing else, for a tower service: for connections that agreed on it ([`Alpn`](crate::layer::alpn::Alpn)).
pub struct Http2<S> {
    program: Program<S>,
    limits: Limits,
}

/// Streams that one client may have open.
const STREAMS_MAX: u32 = 200;
/// Fields of one request, as HPACK counts them.
const FIELD_BYTES_MAX: u32 = 16 * 1024;
/// Streams that the client has reset and hyper has not looked at (CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;
/// Streams that hyper has reset for what the client did (CVE-2025-8671), in the life of a connection.
const RESETS_OWN_MAX: usize = 1024;
/// What may be received and not read: of a stream, and of a connection.
const WINDOW_BYTES: u32 = 1024 * 1024;
/// What may be written to a stream and not sent.
const SEND_BYTES_MAX: usize = 256 * 1024;
/// A client that is silent for so long is asked whether it is still there...
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// ...and has so long to answer.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was told to end (GOAWAY) and has no streams has so long to say that it heard.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// What hyper keeps for a connection, besides the pipe.
const CONNECTION_BYTES: usize = 20 * 1024;
/// Who goes on waking itself has its next turn after those of others.
const ROUNDS_MAX: usize = 64;

impl<S: Answer> Http2<S> {
    pub(super) fn new(program: Program<S>, limits: Limits) -> Http2<S> {
        Http2 { program, limits }
    }

    /// Replaces the limits. Of them, those of time are used: until the first request, and without one.
    pub fn with_limits(self, limits: Limits) -> Http2<S> {
        Http2 { limits, ..self }
    }

    pub(super) fn set_introduce(&mut self, introduce: Rc<Introduce>) {
        self.program.set_introduce(introduce);
    }

    fn builder(&self, clock: &Clock, tasks: &Tasks) -> http2::Builder<Tasks> {
        let mut builder = http2::Builder::new(tasks.clone());
        builder
            .timer(clock.clone())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(FIELD_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
            .max_local_error_reset_streams(RESETS_OWN_MAX)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(SEND_BYTES_MAX)
            .enable_connect_protocol();
        builder
    }
}

/// The state of one connection.
pub struct Session<S: Answer> {
    near: Near,
    /// `None` once it is over.
    connection: Option<Pin<Box<Served<S>>>>,
    tasks: Tasks,
    streams: FuturesUnordered<Task>,
    census: Rc<Census>,
    clock: Clock,
    signal: Signal,
    /// Since when it has no streams, and by when that is to change.
    since: Tick,
    /// It had no request yet.
    is_fresh: bool,
    /// It was told to end.
    is_ending: bool,
}

type Served<S> = http2::Connection<Far, Shim<S>, Tasks>;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What hyper spawns, until the session takes it.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<Vec<Task>>>);

impl<F: Future + 'static> Executor<F> for Tasks {
    fn execute(&self, future: F) {
        self.0.borrow_mut().push(Box::pin(async move {
            future.await;
        }));
    }
}

/// What a connection's streams tell its session.
#[derive(Default)]
struct Census {
    open: Cell<usize>,
    requests: Cell<u64>,
    panics: Cell<u64>,
}

/// One of them.
struct Counted(Rc<Census>);

impl Counted {
    fn new(census: &Rc<Census>) -> Counted {
        census.open.set(census.open.get() + 1);
        Counted(census.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// The service as hyper calls it.
struct Shim<S> {
    service: S,
    extensions: Extensions,
    census: Rc<Census>,
}

impl<S: Answer> hyper::service::Service<Request<Incoming>> for Shim<S> {
    type Response = Response<StreamBody<S::Body>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let census = &self.census;
        census.requests.set(census.requests.get() + 1);
        let (service, counted) = (self.service.clone(), Counted::new(census));
        let (mut parts, incoming) = request.into_parts();
        parts.extensions.extend(self.extensions.clone());
        let peer = Peer::default();
        parts.extensions.insert(peer.clone());
        let leaving = Leaving(Some(peer));
        let request = Request::from_parts(parts, Body::streamed(incoming));
        Box::pin(async move {
            let answer = Guarded(pin!(call(service, request))).await;
            leaving.stays();
            let answer = answer.unwrap_or_else(|Panicked| {
                counted.0.panics.set(counted.0.panics.get() + 1);
                Ok(failed())
            });
            let answer = answer.unwrap_or_else(|error| {
                tracing::debug!(error = &*error, "a service failed: the answer is 500");
                failed()
            });
            Ok(answer.map(|body| StreamBody { body: body.map(Box::pin), counted }))
        })
    }
}

/// Tells a request's client to have left when the stream goes before it is answered.
struct Leaving(Option<Peer>);

impl Leaving {
    fn stays(mut self) {
        self.0 = None;
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|peer| peer.leave());
    }
}

fn failed<B>() -> Response<Option<B>> {
    let mut response = Response::new(None);
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

struct Panicked;

/// A future that panics ends its own stream only.
struct Guarded<F>(F);

impl<F: Future + Unpin> Future for Guarded<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let future = Pin::new(&mut self.0);
        match catch_unwind(AssertUnwindSafe(|| future.poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

/// The body of an answer: its stream counts as open as long as it is there.
struct StreamBody<B> {
    body: Option<Pin<Box<B>>>,
    counted: Counted,
}

impl<B: http_body::Body> http_body::Body for StreamBody<B>
where
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll_frame(context))) {
            Ok(polled) => polled.map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Err(_) => {
                let census = &self.counted.0;
                census.panics.set(census.panics.get() + 1);
                self.body = None;
                Poll::Ready(Some(Err("the body panicked".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), |body| body.size_hint())
    }
}

impl<S: Answer> Session<S> {
    /// Polls the connection, and its streams as far as they were woken.
    fn poll(&mut self, context: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && let Poll::Ready(over) = connection.as_mut().poll(context)
        {
            if let Err(error) = over {
                tracing::debug!(error = &error as &dyn std::error::Error, "an HTTP/2 connection ended");
            }
            self.connection = None;
        }
        loop {
            self.streams.extend(self.tasks.0.borrow_mut().drain(..));
            match Pin::new(&mut self.streams).poll_next(context) {
                Poll::Ready(Some(())) => {}
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
    }

    /// Tells the client to begin no more streams (GOAWAY).
    fn end(&mut self, io: &Io<'_>) {
        if let Some(connection) = &mut self.connection
            && !self.is_ending
        {
            (self.is_ending, self.since) = (true, io.now());
            connection.as_mut().graceful_shutdown();
        }
    }

    /// Whether a stream is open: one that is answered, or one that was given over.
    fn is_busy(&self) -> bool {
        self.census.open.get() > 0 || !self.streams.is_empty()
    }

    /// Until when it may be without a stream.
    fn wait(&self, limits: &Limits) -> Option<Tick> {
        let time = match (self.is_ending, self.is_fresh) {
            _ if self.is_busy() => return None,
            (true, _) => GOAWAY_TIMEOUT,
            (false, true) => limits.head_timeout,
            (false, false) => limits.keep_alive_timeout,
        };
        Some(self.since.after(time))
    }
}

impl<S: Answer> Protocol for Http2<S> {
    type Session = Session<S>;

    fn open(&mut self, io: &mut Io<'_>) -> Session<S> {
        let (near, far) = pipe(None);
        let (tasks, census, clock) = (Tasks::default(), Rc::<Census>::default(), Clock::new(io.now()));
        let mut extensions = Extensions::new();
        self.program.introduce(io, &mut extensions);
        let shim = Shim { service: self.program.service().clone(), extensions, census: census.clone() };
        let connection = self.builder(&clock, &tasks).serve_connection(far, shim);
        io.set_timeout(self.limits.head_timeout);
        Session {
            near,
            connection: Some(Box::pin(connection)),
            tasks,
            streams: FuturesUnordered::new(),
            census,
            clock,
            signal: Signal::new(io.waker().into()),
            since: io.now(),
            is_fresh: true,
            is_ending: false,
        }
    }

    fn data(&mut self, session: &mut Session<S>, input: &mut [u8], io: &mut Io<'_>) -> Step {
        let mut taken = 0;
        loop {
            let pushed = session.near.push(&input[taken..]);
            taken += pushed;
            let next = self.go_on(session, io);
            if taken == input.len() || pushed == 0 || next != Next::Continue {
                let next = if next == Next::Continue && taken < input.len() { Next::Pause } else { next };
                return Step { consumed: taken, need: 0, next };
            }
        }
    }

    fn drained(&mut self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        self.go_on(session, io)
    }

    fn wake(&mut self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        self.go_on(session, io)
    }

    fn gone(&mut self, _: &mut Session<S>, _: &mut Io<'_>) -> Next {
        Next::Close
    }

    fn eof(&mut self, session: &mut Session<S>, _: &mut [u8], io: &mut Io<'_>) -> Next {
        session.near.end();
        self.go_on(session, io);
        Next::Close
    }

    fn timeout(&mut self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        if session.wait(&self.limits).is_some_and(|at| at <= io.now()) {
            if session.is_ending {
                return Next::Close;
            }
            session.end(io);
        }
        self.go_on(session, io)
    }

    fn drain(&mut self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        session.end(io);
        self.go_on(session, io)
    }

    fn shed(&mut self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        if session.is_busy() {
            return Next::Continue;
        }
        session.end(io);
        self.go_on(session, io);
        Next::Close
    }

    fn closed(&mut self, _: Session<S>, _: CloseReason) {}
}

impl<S: Answer> Http2<S> {
    /// Polls until nothing moves, and writes what there is to send.
    fn go_on(&self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        session.clock.set(io.now());
        let waker = session.signal.waker();
        let context = &mut Context::from_waker(&waker);
        let was_busy = session.is_busy();
        session.signal.begin();
        for _ in 0..ROUNDS_MAX {
            session.signal.lower();
            session.poll(context);
            let output = session.near.take(io.room_bytes());
            if !output.is_empty() {
                io.queue(output);
            } else if !session.signal.is_raised() {
                break;
            }
        }
        session.signal.end();
        let requests = session.census.requests.take();
        session.is_fresh &= requests == 0;
        io.count_requests(requests);
        for _ in 0..session.census.panics.take() {
            io.count_panic();
        }
        if session.connection.is_none() {
            // Less than what the pipe holds: it cannot pass the hard cap of the output.
            io.queue(session.near.take(usize::MAX));
            return Next::Close;
        }
        if session.near.has_output() {
            io.notify_drained();
        }
        let is_busy = session.is_busy();
        if was_busy && !is_busy {
            session.since = io.now();
        }
        let is_affordable = io.hold(CONNECTION_BYTES + session.near.bytes());
        if !is_affordable && !is_busy {
            return Next::Close;
        }
        let own = session.wait(&self.limits);
        io.set_deadline([own, session.clock.next()].into_iter().flatten().min());
        Next::Continue
    }
}
