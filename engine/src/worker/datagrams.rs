//! Datagram protocols and their sockets: a batch comes in, answers go out as a batch.
//!
//! The driver says when there is something to receive, or room again; what is received lies in one batch of the worker until its
//! protocol has seen it, so that a socket that is quiet has no memory for datagrams. A socket that was written to, that is new, or that is to be
//! closed is on a list, and is looked at behind the call.
//!
//! Back-pressure: while something waits to be sent on a socket nothing more is received there, and the kernel drops what does
//! not fit its queue. What waits is bounded for each socket, and for all flows together (`datagram/sockets.rs`).

use super::{Life, Worker};
use crate::bell::{Waker, Whom};
use crate::datagram::Datagrams;
use crate::datagram::sockets::{DatagramSockets, End, FlowId};
use crate::driver::Driver;
use crate::event::{Errno, Op, Socket};
use crate::seam::datagram::{Datagram, DatagramIo, Standing};
use crate::time::Tick;
use crate::token::{Kind, Token};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The datagram protocols of a worker.
#[derive(Default)]
pub(super) struct Endpoints {
    all: Vec<Endpoint>,
    pub(super) sockets: DatagramSockets,
    /// What was received lies here; `None` until something is, and while protocols see it.
    incoming: Option<Box<Datagrams>>,
    /// The numbers of those behind listeners, which have the same place here on all workers.
    listening: Vec<usize>,
    /// Flows whose protocols are to be told of an error, each with its protocol.
    failures: Vec<(u16, FlowId, Errno)>,
}

struct Endpoint {
    /// `None` during its own call, and once it has finished.
    protocol: Option<Box<dyn Datagram>>,
    standing: Standing,
}

impl Endpoints {
    /// When a protocol has to be called again, or closed.
    pub(super) fn next_due(&self) -> Tick {
        if !self.failures.is_empty() {
            return Tick(0);
        }
        let due = |it: &Endpoint| it.standing.timer.min(it.standing.drain_until.unwrap_or(Tick::NEVER));
        self.all.iter().filter(|it| !it.standing.is_finished).map(due).min().unwrap_or(Tick::NEVER)
    }

    /// Panics if a socket could go on and does not. Call it between turns.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn check(&self) {
        for (_, it) in self.sockets.iter() {
            let waits = it.pending.is_some();
            assert!(
                it.is_awaiting || waits || !it.is_open(),
                "datagrams are wanted and nothing waits for them"
            );
            assert!(it.is_blocked || !waits || !it.is_open(), "datagrams wait and nothing waits for room");
            assert!(it.end != End::Closing, "a datagram socket is to be closed and nobody does it");
        }
    }

    /// The token of every operation in flight.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.sockets.iter().flat_map(|(index, it)| {
            let awaiting = it.is_awaiting.then(|| it.token(Kind::Datagrams, index));
            awaiting.into_iter().chain(it.is_blocked.then(|| it.token(Kind::Room, index)))
        })
    }
}

impl<D: Driver> Worker<D> {
    /// [`Worker::add_datagrams`] for a socket that all workers have.
    pub(crate) fn add_datagram_listener(&mut self, socket: Socket, protocol: Box<dyn Datagram>) {
        self.datagrams.listening.push(self.datagrams.all.len());
        self.add_datagrams(socket, protocol);
    }

    /// Adds a bound datagram socket, which the worker closes in the end, and the protocol behind it.
    pub(crate) fn add_datagrams(&mut self, socket: Socket, protocol: Box<dyn Datagram>) {
        let number = self.datagrams.all.len() as u16;
        let standing = Standing {
            number,
            socket: self.datagrams.sockets.add(socket, number, None),
            timer: Tick::NEVER,
            drain_until: None,
            is_finished: false,
            waker: Waker::new(self.shared.bell.clone(), Whom::Datagrams(number)),
        };
        self.datagrams.all.push(Endpoint { protocol: Some(protocol), standing });
    }

    /// Calls `start` of all protocols.
    pub(super) fn start_datagrams(&mut self) {
        for number in 0..self.datagrams.all.len() {
            self.call_datagrams(number, |protocol, io| protocol.start(io));
        }
    }

    /// Adds a listener to a worker that runs.
    pub(super) fn join_datagrams(&mut self, socket: Socket, protocol: Box<dyn Datagram>) {
        let number = self.datagrams.all.len();
        self.add_datagram_listener(socket, protocol);
        self.call_datagrams(number, |protocol, io| protocol.start(io));
        match self.life {
            Life::Running => {}
            Life::Draining(until) => self.drain_endpoint(number, until),
            Life::Stopping(_) => self.finish_datagrams(number),
        }
    }

    /// Datagrams have arrived at a socket, or an error.
    pub(super) fn on_datagrams(&mut self, token: Token, result: Result<u32, Errno>) {
        let Some(it) = self.datagrams.sockets.of_token(token) else { return };
        it.is_awaiting = false;
        let (socket, owner, is_open) = (it.socket, it.owner, it.is_open());
        let flow = it.flow(token.index());
        self.datagrams.sockets.list(token.index());
        if result.is_ok() && is_open {
            let mut batch =
                self.datagrams.incoming.take().unwrap_or_else(|| Box::new(Datagrams::for_receiving()));
            match self.driver.recv_datagrams(socket, &mut batch) {
                Ok(_) => self.deliver(owner, token.index(), flow, &batch),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => self.note_failure(owner, flow, errno),
            }
            batch.reset_received();
            self.datagrams.incoming = Some(batch);
        }
        self.settle_datagrams();
    }

    /// There is room again at a socket.
    pub(super) fn on_room(&mut self, token: Token) {
        let Some(it) = self.datagrams.sockets.of_token(token) else { return };
        it.is_blocked = false;
        self.datagrams.sockets.list(token.index());
        self.settle_datagrams();
    }

    /// Shows a batch to its protocol.
    fn deliver(&mut self, owner: u16, index: u32, flow: Option<FlowId>, batch: &Datagrams) {
        let Some(mut protocol) = self.datagrams.all[usize::from(owner)].protocol.take() else { return };
        let (mut received, mut panics) = (0, 0);
        batch.for_each_with_local(|from, local, bytes| {
            received += 1;
            let mut io = self.datagram_io(owner);
            // The protocol may have closed it meanwhile.
            if io.standing.is_finished || !io.sockets.at(index).is_some_and(|it| it.is_open()) {
                return;
            }
            let call = AssertUnwindSafe(|| match flow {
                Some(flow) => protocol.received(flow, bytes, &mut io),
                None => {
                    io.asked = local.map(|local| (from, local));
                    protocol.datagram(from, bytes, &mut io);
                }
            });
            panics += u64::from(catch_unwind(call).is_err());
        });
        self.shared.stats.live.datagrams_received.add(received);
        self.end_call(owner, protocol, panics);
    }

    /// Calls a protocol without a datagram, and sends what it wrote.
    fn call_datagrams(&mut self, number: usize, call: impl FnOnce(&mut dyn Datagram, &mut DatagramIo<'_>)) {
        let Some(mut protocol) = self.datagrams.all[number].protocol.take() else { return };
        let mut io = self.datagram_io(number as u16);
        let called = catch_unwind(AssertUnwindSafe(|| call(&mut *protocol, &mut io)));
        self.end_call(number as u16, protocol, u64::from(called.is_err()));
        self.settle_datagrams();
    }

    fn datagram_io(&mut self, number: u16) -> DatagramIo<'_> {
        let flows = self.datagrams.sockets.flows();
        let room = self.connections_max.saturating_sub(self.open_count());
        let room = if self.shared.memory.is_short() { 0 } else { room };
        DatagramIo {
            flows_max: self.config.flows_max.min(flows + room),
            sockets: &mut self.datagrams.sockets,
            shared: &mut self.shared,
            names: &self.driver,
            standing: &mut self.datagrams.all[usize::from(number)].standing,
            asked: None,
        }
    }

    /// A call, or several, of a protocol are over.
    fn end_call(&mut self, number: u16, protocol: Box<dyn Datagram>, panics: u64) {
        if panics > 0 {
            tracing::error!(panics, "datagram protocol code panicked");
            self.shared.stats.live.panics.add(panics);
        }
        let it = &mut self.datagrams.all[usize::from(number)];
        if it.standing.is_finished {
            self.datagrams.sockets.close_all(number);
        } else {
            it.protocol = Some(protocol);
            self.outbound.due_by(it.standing.timer);
        }
    }

    /// Somebody rang for a protocol.
    pub(super) fn ring_datagrams(&mut self, number: u16) {
        self.datagrams.all[usize::from(number)].standing.waker.lower();
        self.call_datagrams(usize::from(number), |protocol, io| protocol.wake(io));
    }

    /// Calls the protocols whose timer has come, tells of errors, and closes those whose time is over.
    pub(super) fn look_at_datagrams(&mut self, now: Tick) {
        // What fails meanwhile is told of in the next turn: nobody can keep the worker here.
        for (owner, flow, errno) in std::mem::take(&mut self.datagrams.failures) {
            if self.datagrams.sockets.of_flow(owner, flow).is_some() {
                self.call_datagrams(usize::from(owner), |protocol, io| protocol.failed(flow, errno, io));
            }
        }
        for number in 0..self.datagrams.all.len() {
            let standing = &mut self.datagrams.all[number].standing;
            if standing.timer <= now {
                standing.timer = Tick::NEVER;
                self.call_datagrams(number, |protocol, io| protocol.tick(io));
            }
            if self.datagrams.all[number].standing.drain_until.is_some_and(|until| until <= now) {
                self.finish_datagrams(number);
            }
        }
    }

    /// All protocols are to finish by then.
    pub(super) fn drain_datagrams(&mut self, until: Tick) {
        for number in 0..self.datagrams.all.len() {
            self.drain_endpoint(number, until);
        }
    }

    /// The protocol behind a listener is to finish within this time.
    pub(super) fn remove_datagrams(&mut self, place: usize, time: Duration) {
        self.drain_endpoint(self.datagrams.listening[place], self.shared.now.after(time));
    }

    fn drain_endpoint(&mut self, number: usize, until: Tick) {
        let standing = &mut self.datagrams.all[number].standing;
        let before = standing.drain_until;
        standing.drain_until = Some(before.map_or(until, |before| before.min(until)));
        self.outbound.due_by(until);
        if before.is_none() {
            self.call_datagrams(number, |protocol, io| protocol.drain(io));
        }
    }

    /// Ends all protocols now.
    pub(super) fn close_datagrams(&mut self) {
        (0..self.datagrams.all.len()).for_each(|number| self.finish_datagrams(number));
    }

    fn finish_datagrams(&mut self, number: usize) {
        let it = &mut self.datagrams.all[number];
        if !it.standing.is_finished {
            it.standing.is_finished = true;
            it.protocol = None;
            self.datagrams.sockets.close_all(number as u16);
            self.settle_datagrams();
        }
    }

    fn note_failure(&mut self, owner: u16, flow: Option<FlowId>, errno: Errno) {
        match flow.filter(|_| errno.is_of_peer()) {
            Some(flow) => {
                self.datagrams.failures.push((owner, flow, errno));
                self.outbound.due_by(self.shared.now);
            }
            // An ICMP answer to something we sent, or a passing shortage. The socket itself is fine.
            None => tracing::debug!(%errno, "receiving datagrams"),
        }
    }

    /// Looks at the sockets that are on the list.
    pub(super) fn settle_datagrams(&mut self) {
        while let Some(index) = self.datagrams.sockets.next_listed() {
            self.send_datagrams(index);
            let Some(it) = self.datagrams.sockets.at_mut(index) else { continue };
            let socket = it.socket;
            match it.end {
                End::Open if !it.is_awaiting && it.pending.is_none() => {
                    it.is_awaiting = true;
                    let token = it.token(Kind::Datagrams, index);
                    self.driver.submit(Op::AwaitDatagrams { token, socket });
                }
                End::Open => {}
                _ if !it.is_awaiting && !it.is_blocked => self.close_datagram_socket(index, socket),
                End::Closing => {
                    it.end = End::Cancelled;
                    let waiting = [(it.is_awaiting, Kind::Datagrams), (it.is_blocked, Kind::Room)];
                    for (_, kind) in waiting.into_iter().filter(|(is_waiting, _)| *is_waiting) {
                        let target = it.token(kind, index);
                        self.driver.submit(Op::Cancel { target, socket });
                    }
                }
                End::Cancelled => {}
            }
        }
    }

    /// Sends what waits on a socket, unless there was no room just before.
    fn send_datagrams(&mut self, index: u32) {
        let Some(it) = self.datagrams.sockets.at_mut(index).filter(|it| !it.is_blocked) else { return };
        let Some(mut batch) = it.pending.take() else { return };
        let (socket, owner, flow) = (it.socket, it.owner, it.flow(index));
        let result = self.driver.send_datagrams(socket, &mut batch);
        if result == Err(Errno::EAGAIN) && it.is_open() {
            it.pending = Some(batch);
            it.is_blocked = true;
            let token = it.token(Kind::Room, index);
            return self.driver.submit(Op::AwaitRoom { token, socket });
        }
        let refused = u64::from(batch.refused);
        let sent = match result {
            Ok(()) => (batch.len() as u64).saturating_sub(refused),
            Err(errno) => {
                tracing::debug!(%errno, "sending datagrams");
                0
            }
        };
        self.shared.stats.live.datagrams_sent.add(sent);
        self.shared.stats.live.datagrams_refused.add(batch.len() as u64 - sent);
        let failure = batch.failure.or(result.err());
        self.datagrams.sockets.recycle(batch);
        if let Some(errno) = failure {
            self.note_failure(owner, flow, errno);
        }
    }

    fn close_datagram_socket(&mut self, index: u32, socket: Socket) {
        self.driver.submit(Op::Close { socket, reset: false });
        self.datagrams.sockets.remove(index);
        self.shared.stats.live.flows.set(self.datagrams.sockets.flows() as u64);
        self.has_room |= self.is_accept_paused();
    }
}
