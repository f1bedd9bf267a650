//! HTTP/2 by hyper, over a pipe in memory: its connection and its streams are futures of our session, polled in place.
//!
//! A session pushes what arrived into the pipe, polls until nobody has woken anybody, and writes what hyper has left. No task is spawned
//! anywhere, so no runtime is needed. Limits are hyper's, set in [`Http2::builder`]; the time until the first request, that without one,
//! and the age of a connection are ours, and so is what a stream may take (`stream.rs`). What a program sees of requests and answers is
//! the same as over HTTP/1.1 (`tower.rs`).

use super::limits::Http2Limits;
use super::pipe::{Far, Near, pipe};
use super::service::{Answer, Introduce, Program};
use super::signal::Signal;
use super::stream::{Common, Shim, Task, Tasks};
use super::timer::Clock;
use crate::http::Limits;
use crate::http::misuse::Complaints;
use futures_util::stream::{FuturesUnordered, Stream};
use http::Extensions;
use hyper::server::conn::http2;
use ringmill_engine::{CloseReason, Io, Next, Protocol, Step, Tick};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

/// HTTP/2 and nothing else, for a tower service: for connections that agreed on it ([`Alpn`](crate::layer::alpn::Alpn)).
pub struct Http2<S> {
    program: Program<S>,
    limits: Limits,
    own: Http2Limits,
    /// Connections until now.
    opened: u64,
    complaints: Complaints,
}

/// What hyper keeps for a connection, besides the pipe.
const CONNECTION_BYTES: usize = 20 * 1024;
/// Who goes on waking itself has its next turn after those of others.
const ROUNDS_MAX: usize = 64;
/// Output that is more than answers to PING and SETTINGS: a client that takes it is not idle.
const MUCH_BYTES: usize = 1024;

impl<S: Answer> Http2<S> {
    pub(crate) fn new(program: Program<S>, limits: Limits) -> Http2<S> {
        Http2 { program, limits, own: Http2Limits::default(), opened: 0, complaints: Complaints::default() }
    }

    /// Replaces the limits that both versions have. Of them, those of time are used: until the first request, without one, for bodies
    /// of which nothing arrives, and for handlers.
    pub fn with_limits(self, limits: Limits) -> Http2<S> {
        Http2 { limits, ..self }
    }

    /// Replaces those of HTTP/2.
    pub fn with_http2_limits(self, own: Http2Limits) -> Http2<S> {
        Http2 { own, ..self }
    }

    pub(super) fn set_introduce(&mut self, introduce: Rc<Introduce>) {
        self.program.set_introduce(introduce);
    }

    fn builder(&self, clock: &Clock, tasks: &Tasks) -> http2::Builder<Tasks> {
        let (mut builder, own) = (http2::Builder::new(tasks.clone()), &self.own);
        builder
            .timer(clock.clone())
            .keep_alive_interval(own.ping_interval)
            .keep_alive_timeout(own.ping_timeout)
            .max_concurrent_streams(own.streams_max)
            .max_header_list_size(own.field_bytes_max)
            .max_frame_size(own.frame_bytes_max)
            .max_pending_accept_reset_streams(own.resets_pending_max)
            .max_local_error_reset_streams(own.resets_own_max)
            .initial_stream_window_size(own.window_bytes)
            .initial_connection_window_size(own.window_bytes)
            .max_send_buf_size(own.send_bytes_max)
            .enable_connect_protocol();
        builder
    }

    /// By when a connection that begins now is to be told to end.
    fn old_at(&mut self, io: &Io<'_>) -> Tick {
        self.opened += 1;
        self.own.old_at(self.opened, io.now())
    }
}

/// The state of one connection.
pub struct Session<S: Answer> {
    near: Near,
    /// `None` once it is over.
    connection: Option<Pin<Box<Served<S>>>>,
    tasks: Tasks,
    streams: FuturesUnordered<Task>,
    signal: Signal,
    /// Since when it has no streams, and by when that is to change.
    since: Tick,
    /// When it is old; then, when it is cut.
    old_at: Tick,
    /// It had no request yet.
    is_fresh: bool,
    /// It was told to end.
    is_ending: bool,
    /// It was told so for its age.
    is_old: bool,
}

type Served<S> = http2::Connection<Far, Shim<S>, Tasks>;

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
            self.streams.extend(self.tasks.take());
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

    /// The memory that it takes.
    fn bytes(&self) -> usize {
        CONNECTION_BYTES + self.near.bytes() + self.common().census.bytes()
    }

    fn common(&self) -> &Common {
        self.tasks.common()
    }

    /// Whether a stream is open: one that is answered, or one that was given over.
    fn is_busy(&self) -> bool {
        self.common().census.open() > 0 || !self.streams.is_empty()
    }

    /// Until when it may be without a stream.
    fn wait(&self, limits: &Limits, own: &Http2Limits) -> Option<Tick> {
        let time = match (self.is_ending, self.is_fresh) {
            _ if self.is_busy() => return None,
            (true, _) => own.goaway_timeout,
            (false, true) => limits.head_timeout,
            (false, false) => limits.keep_alive_timeout,
        };
        Some(self.since.after(time))
    }
}

impl<S: Answer> Protocol for Http2<S> {
    type Session = Session<S>;

    fn open(&mut self, io: &mut Io<'_>) -> Session<S> {
        let ((near, far), clock) = (pipe(None), Clock::new(io.now()));
        let tasks = Tasks::new(clock.clone(), &self.limits, &self.own);
        let mut extensions = Extensions::new();
        self.program.introduce(io, &mut extensions);
        let shim = Shim {
            service: self.program.service().clone(),
            extensions,
            shutdown: self.program.shutdown().clone(),
            common: tasks.common().clone(),
        };
        let connection = self.builder(&clock, &tasks).serve_connection(far, shim);
        io.set_timeout(self.limits.head_timeout);
        Session {
            near,
            connection: Some(Box::pin(connection)),
            tasks,
            streams: FuturesUnordered::new(),
            signal: Signal::new(io.waker().into()),
            since: io.now(),
            old_at: self.old_at(io),
            is_fresh: true,
            is_ending: false,
            is_old: false,
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
        if session.old_at <= io.now() {
            if std::mem::replace(&mut session.is_old, true) {
                tracing::debug!("an old connection is cut: its streams did not end in time");
                return Next::Close;
            }
            session.old_at = io.now().after(self.own.age_grace);
            session.end(io);
        }
        if session.wait(&self.limits, &self.own).is_some_and(|at| at <= io.now()) {
            if session.is_ending {
                return Next::Close;
            }
            session.end(io);
        }
        self.go_on(session, io)
    }

    fn drain(&mut self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        self.program.shutdown().begin();
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
    fn go_on(&mut self, session: &mut Session<S>, io: &mut Io<'_>) -> Next {
        session.common().clock.set(io.now());
        let waker = session.signal.waker();
        let context = &mut Context::from_waker(&waker);
        let was_busy = session.is_busy();
        let mut sent_bytes = 0;
        session.signal.begin();
        for _ in 0..ROUNDS_MAX {
            session.signal.lower();
            session.poll(context);
            let output = session.near.take(io.room_bytes());
            if !output.is_empty() {
                sent_bytes += output.len();
                io.queue(output);
            } else if !session.signal.is_raised() {
                break;
            }
        }
        session.signal.end();
        let census = &session.tasks.common().census;
        let requests = census.requests.take();
        session.is_fresh &= requests == 0;
        io.count_requests(requests);
        io.count_refused(census.refused.take());
        if census.not_ready.take() {
            self.complaints.not_ready(io.now(), self.limits.handler_timeout);
        }
        if census.took_long.take() {
            self.complaints.took_long(io.now(), self.limits.handler_timeout);
        }
        for _ in 0..census.panics.take() {
            io.count_panic();
        }
        if session.connection.is_none() {
            // Less than what the pipe holds: it cannot pass the hard cap of the output.
            io.queue(session.near.take(usize::MAX));
            return Next::Close;
        }
        if session.near.has_output() {
            census.behind.set(Some(io.now()));
            io.notify_drained();
        }
        let is_busy = session.is_busy();
        // What a body has left behind may still be on its way, as far as the client's window lets it.
        if !is_busy && (was_busy || sent_bytes >= MUCH_BYTES) {
            session.since = io.now();
        }
        let is_affordable = io.hold(session.bytes());
        census.is_exhausted.set(!is_affordable);
        if !is_affordable && !is_busy {
            return Next::Close;
        }
        let wait = session.wait(&self.limits, &self.own);
        io.set_deadline(
            [wait, session.common().clock.next()].into_iter().flatten().chain([session.old_at]).min(),
        );
        Next::Continue
    }
}
