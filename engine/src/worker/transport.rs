//! Connections: what each event means for one, and [`Worker::settle`], which brings its socket to rest afterwards. Which call of
//! its session is due is the duplex's business (`session/duplex.rs`).

use super::Worker;
use crate::conn::{Conn, NO_SESSION, Recv};
use crate::coverage::{Arrival, arrived, stepped};
use crate::driver::Driver;
use crate::event::{Errno, Op, Then};
use crate::output::Output;
use crate::seam::io::{Below, Io};
use crate::seam::layer::Call;
use crate::session::inlet::End;
use crate::session::life::{CloseReason, Ending, Phase, Signal};
use crate::session::outlet::Last;
use crate::session::service::Seat;
use crate::time::Tick;
use crate::token::{Kind, Token};
use std::time::Duration;

/// How often a connection that waits for the kernel to deliver its last bytes is looked at.
const DELIVERY_LOOK: Duration = Duration::from_millis(20);

impl<D: Driver> Worker<D> {
    /// The connection a token means, unless the slot is free or has a new tenant: completions may be stale.
    pub(super) fn live(&mut self, token: Token) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(token.index() as usize)?;
        (conn.link.generation == token.generation()).then_some(conn)
    }

    /// Bytes arrived. The hot path: the session sees them where the kernel put them.
    pub(super) fn on_received(&mut self, token: Token, more: bool, bytes: &mut [u8]) {
        let Some(conn) = self.live(token) else { return };
        arrived(conn.recv, if more { Arrival::Data } else { Arrival::LastData });
        if !more {
            conn.recv = Recv::Idle;
        } else if conn.recv == Recv::Armed {
            conn.recv = Recv::Fed;
        }
        let index = token.index();
        if conn.duplex.is_open() {
            self.enter(index, |io, seat| io.receive(seat, bytes));
        }
        self.shared.stats.live.received_bytes.add(bytes.len() as u64);
        self.settle(index);
    }

    /// A receive ended, or went on, without bytes.
    pub(super) fn on_recv_end(&mut self, token: Token, result: Result<u32, Errno>, more: bool) {
        let Some(conn) = self.live(token) else { return };
        arrived(conn.recv, Arrival::of(result));
        let is_fed = conn.recv == Recv::Fed;
        if !more {
            conn.recv = Recv::Idle;
        }
        let index = token.index();
        match result {
            Ok(_) => self.on_peer_end(index),
            Err(Errno::ENOBUFS) => {
                if !more {
                    conn.recv = Recv::Starved;
                    self.starved.push(index, is_fed);
                }
                self.shared.stats.live.buffers_starved.add(1);
            }
            Err(Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => self.fail(index, errno),
        }
        self.settle(index);
    }

    pub(super) fn on_peer_end(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if conn.duplex.is_open() {
            stepped(Phase::Open, Signal::PeerEof, true);
            return self.enter(index, |io, seat| io.end(seat));
        }
        conn.duplex.inlet.end = End::Told;
        // A reset waits until what was written before it is delivered, whether the peer goes on sending or not.
        if !(conn.duplex.ending == Ending::Reset && conn.duplex.phase == Phase::Lingering) {
            conn.step(Signal::PeerEof);
        }
    }

    /// A send came back.
    pub(super) fn on_sent(&mut self, token: Token, result: Result<u32, Errno>, mut output: Box<Output>) {
        let index = token.index();
        let conn = self.conns.get_mut(index as usize);
        let Some(conn) = conn.filter(|conn| conn.link.generation == token.generation()) else {
            return self.shared.recycle(output);
        };
        conn.sending_bytes = 0;
        match result {
            Ok(0) => self.fail(index, Errno::EPIPE),
            Ok(bytes) => {
                output.advance(bytes as usize);
                self.shared.stats.live.sent_bytes.add(u64::from(bytes));
                if !output.is_empty() && conn.duplex.phase != Phase::Closing {
                    conn.count_taken(bytes);
                    return self.send_rest(index, output);
                }
                if conn.duplex.outlet.pending.is_some() {
                    conn.count_taken(bytes)
                } else {
                    conn.end_stall()
                }
                // The hot path: everything was sent, and nothing waited for that but what was written since, which is not too much.
                if conn.is_at_ease() && conn.duplex.outlet.pending_bytes() < self.shared.marks.output_high {
                    self.unflushed.list(index, conn);
                    return self.shared.recycle(output);
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) if conn.duplex.phase != Phase::Closing => {
                return self.send_rest(index, output);
            }
            Err(Errno::ECANCELED) => {}
            Err(errno) => self.fail(index, errno),
        }
        self.shared.recycle(output);
        self.make_calls(index);
        self.settle(index);
    }

    /// The wheel wants this connection looked at: one of its deadlines may have passed.
    pub(super) fn on_deadline(&mut self, index: u32) {
        let now = self.shared.now;
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        if conn.stall_deadline <= now {
            conn.stall_deadline = Tick::NEVER;
            if conn.duplex.phase == Phase::Lingering {
                self.linger(index);
                return self.settle(index);
            }
            let undelivered = self.driver.unacknowledged_bytes(conn.link.socket);
            let is_idle = self.splices.has_idle_sink(index, &self.conns, &self.driver);
            let conn = &mut self.conns[index as usize];
            let has_own_time = conn.link.write_secs > 0;
            let bytes_min = if has_own_time { 1 } else { self.write_bytes_min };
            if is_idle {
                conn.end_stall();
                conn.stall_deadline = now.after(conn.write_timeout(self.config.write_timeout));
            } else if conn.has_stalled(undelivered, bytes_min) {
                self.shared.stats.live.write_timeouts.add(u64::from(conn.sending_bytes > 0));
                self.abort(index, CloseReason::WriteTimeout);
            } else {
                conn.stall_deadline = now.after(conn.write_timeout(self.config.write_timeout));
            }
        } else if conn.duplex.is_open() && conn.duplex.deadline <= now {
            conn.duplex.deadline = Tick::NEVER;
            self.shared.stats.live.timeouts.add(1);
            self.call(index, Call::Timeout);
        }
        self.settle(index);
    }

    /// Calls a session without input, and does what follows.
    pub(super) fn call(&mut self, index: u32, call: Call<'_>) {
        self.enter(index, |io, seat| io.call(seat, call));
    }

    /// The same, unless the session is over.
    pub(super) fn call_if_open(&mut self, index: u32, call: Call<'_>) {
        if self.conns[index as usize].duplex.is_open() {
            self.call(index, call);
        }
    }

    /// Makes the calls that are due, if any.
    #[inline]
    pub(super) fn make_calls(&mut self, index: u32) {
        let conn = &self.conns[index as usize];
        if conn.duplex.may_have_calls_due(conn.queued_bytes(), &self.shared.marks) {
            self.enter(index, |io, seat| io.settle(seat));
        }
    }

    /// Has a connection's duplex call its session, and ends the session where that was its end.
    #[inline]
    pub(super) fn enter(
        &mut self,
        index: u32,
        calls: impl FnOnce(&mut Io<'_>, &mut Seat<'_>) -> Option<CloseReason>,
    ) {
        let conn = &mut self.conns[index as usize];
        let queued_bytes = conn.sending_bytes as usize;
        let service = &mut *self.services[usize::from(conn.link.service)];
        let mut seat = Seat { service, session: conn.session };
        let (link, shared) = (&mut conn.link, &mut self.shared);
        let below = Below { index, link, shared, names: &self.driver, queued_bytes };
        if let Some(reason) = calls(&mut Io { duplex: &mut conn.duplex, below }, &mut seat) {
            let signal = if conn.duplex.phase == Phase::Closing { Signal::Abort } else { Signal::Finish };
            stepped(Phase::Open, signal, !conn.duplex.inlet.is_open());
            self.end_session(index, reason);
        }
    }

    /// Gives up on a connection: the session ends, unsent output is lost, the peer sees a reset.
    pub(super) fn abort(&mut self, index: u32, reason: CloseReason) {
        let conn = &mut self.conns[index as usize];
        if conn.duplex.phase == Phase::Closing {
            return;
        }
        stepped(conn.duplex.phase, Signal::Abort, !conn.duplex.inlet.is_open());
        let reason = conn.duplex.abort(reason);
        self.end_session(index, reason);
    }

    /// The transport failed: nothing can be sent any more.
    pub(super) fn fail(&mut self, index: u32, errno: Errno) {
        if self.conns[index as usize].duplex.phase != Phase::Closing {
            self.shared.stats.live.failures.add(1);
            self.abort(index, CloseReason::Failed(errno));
        }
    }

    /// A session is over, for whatever reason: its memory goes back, and nobody calls it any more.
    pub(super) fn end_session(&mut self, index: u32, reason: CloseReason) {
        let conn = &mut self.conns[index as usize];
        let session = std::mem::replace(&mut conn.session, NO_SESSION);
        conn.duplex.leave_session(&mut self.shared);
        if conn.duplex.phase == Phase::Closing
            && let Some(output) = conn.duplex.outlet.pending.take()
        {
            self.shared.recycle(output);
        }
        if session == NO_SESSION {
            return;
        }
        if reason == CloseReason::Panicked {
            self.shared.count_panic(index);
        }
        let service = usize::from(conn.link.service);
        if self.services[service].close(session, reason, &mut self.shared).is_err() {
            self.shared.count_panic(index);
        }
        let held_kib = std::mem::take(&mut self.conns[index as usize].link.held_kib);
        self.shared.memory.change(held_kib as usize * 1024, 0);
    }

    /// Sends what was written: one send for each connection with output and none in flight. Only at the end of a turn is it
    /// known that nothing waits for a send to be told: what comes later in the turn may change that.
    #[inline]
    pub(super) fn flush(&mut self, is_end_of_turn: bool) {
        if !self.unflushed.listed.is_empty() {
            self.send_listed(is_end_of_turn);
        }
    }

    fn send_listed(&mut self, is_end_of_turn: bool) {
        self.unflushed.bytes = 0;
        let mut listed = std::mem::take(&mut self.unflushed.listed);
        for index in listed.drain(..) {
            // A slot in this list may have been closed and reused since; its tenant's own flag decides.
            let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.is_listed) else {
                continue;
            };
            conn.is_listed = false;
            if conn.sending_bytes > 0 {
                continue;
            }
            if let Some(output) = conn.duplex.outlet.pending.take() {
                if output.is_empty() {
                    self.shared.recycle(output);
                } else {
                    let then = self.conns[index as usize].after_send();
                    let is_too_soon = then == Then::Rest && !is_end_of_turn;
                    self.send(index, output, if is_too_soon { Then::GoOn } else { then });
                }
            }
        }
        self.unflushed.listed = listed;
    }

    /// Arms the connections that found no buffer. Only now, after this turn's buffers were returned: trying again at once
    /// would spin on ENOBUFS. And no more of them than there are buffers: of thousands most would be refused again.
    pub(super) fn rearm_starved(&mut self) {
        if self.starved.is_empty() {
            return;
        }
        self.starved.end_turn();
        for _ in 0..self.config.recv_buffers {
            let Some(index) = self.starved.pop() else { return };
            if let Some(conn) = self.conns.get_mut(index as usize)
                && conn.recv == Recv::Starved
            {
                conn.recv = Recv::Idle;
                self.update_recv(index);
            }
        }
    }

    /// Brings a connection to rest after anything happened to it and its session was called: what has to be sent, received,
    /// timed or closed.
    pub(super) fn settle(&mut self, index: u32) {
        let mut conn = &mut self.conns[index as usize];
        if conn.duplex.is_ending_or_fed() {
            self.settle_spliced(index);
            // It may be gone with that.
            let Some(settled) = self.conns.get_mut(index as usize) else { return };
            conn = settled;
            if conn.duplex.is_ending() && conn.queued_bytes() == 0 {
                self.flushed(index);
                conn = &mut self.conns[index as usize];
            }
            if conn.duplex.phase == Phase::Closing {
                return self.close(index);
            }
        }
        if let Some(output) = &mut conn.duplex.outlet.pending {
            output.count_memory(&mut self.shared.memory);
            self.unflushed.list(index, conn);
        }
        self.timers.schedule(index, conn.next_deadline());
        if conn.is_recv_due(self.config.recv_buffer_bytes) {
            self.update_recv(index);
        }
    }

    /// Everything that a session wrote is with the kernel: the end of the stream follows, or a reset.
    fn flushed(&mut self, index: u32) {
        match self.conns[index as usize].duplex.phase {
            Phase::Open => self.tell_end(index),
            Phase::Draining => self.part(index),
            Phase::Lingering | Phase::Closing => {}
        }
    }

    /// The peer sees the end of our stream, once.
    fn tell_end(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if conn.duplex.outlet.last != Last::Told {
            conn.duplex.outlet.last = Last::Told;
            self.driver.submit(Op::Shutdown { socket: conn.link.socket });
        }
    }

    /// The session is over as well: what is waited for before the socket may be closed.
    fn part(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let peer_ended = !conn.duplex.inlet.is_open();
        let (is_reset, last) = (conn.duplex.ending == Ending::Reset, conn.duplex.outlet.last);
        // A reset drops what the kernel has not delivered yet, so it waits for that.
        let at_once = if is_reset {
            self.driver.unacknowledged_bytes(conn.link.socket) == 0
        } else {
            peer_ended || self.config.linger_timeout.is_zero()
        };
        stepped(conn.duplex.phase, Signal::Flushed, at_once);
        conn.duplex.phase = conn.duplex.phase.step(Signal::Flushed, at_once);
        if conn.duplex.phase == Phase::Lingering {
            let wait = if is_reset { DELIVERY_LOOK } else { self.config.linger_timeout };
            conn.stall_deadline = self.shared.now.after(wait);
            // From here on it is not the session's, which has ended.
            conn.duplex.deadline = self.shared.now.after(self.config.write_timeout);
        }
        // The end is sent even if the socket is closed at once, which drops what was kept back if input is unread; and in front of a
        // reset, where the session had ended its output before.
        if !peer_ended && !is_reset || last == Last::Written {
            self.tell_end(index);
        }
    }

    /// Looks whether a lingering connection may be closed: whatever closes it, what the kernel has not delivered yet would
    /// be lost with a reset, or with the next byte that the peer sends.
    fn linger(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let is_late = conn.duplex.deadline <= self.shared.now;
        if is_late || self.driver.unacknowledged_bytes(conn.link.socket) == 0 {
            conn.step(Signal::Abort);
        } else {
            conn.stall_deadline = self.shared.now.after(DELIVERY_LOOK);
        }
    }

    /// Sends what a send left over. Mostly the socket was full, so this one is waited for.
    #[inline(never)]
    fn send_rest(&mut self, index: u32, mut output: Box<Output>) {
        if let Some(rest) = output.small_rest() {
            self.shared.recycle(std::mem::replace(&mut output, rest));
            output.count_memory(&mut self.shared.memory);
        }
        let then = match self.conns[index as usize].after_send() {
            Then::Rest => Then::GoOn,
            then => then,
        };
        self.send(index, output, then);
    }

    #[inline]
    fn send(&mut self, index: u32, output: Box<Output>, then: Then) {
        let conn = &mut self.conns[index as usize];
        conn.sending_bytes = output.len() as u32;
        if conn.stall_deadline == Tick::NEVER {
            conn.stall_deadline = self.shared.now.after(conn.write_timeout(self.config.write_timeout));
            self.timers.schedule(index, conn.stall_deadline);
        }
        let token = Token::new(Kind::Send, conn.link.generation, index);
        self.driver.submit(Op::Send { token, socket: conn.link.socket, output, then });
    }

    /// Starts or ends receiving, as the connection now wants it.
    fn update_recv(&mut self, index: u32) {
        if self.steer_splice(index) {
            return;
        }
        let conn = &mut self.conns[index as usize];
        let token = Token::new(Kind::Recv, conn.link.generation, index);
        let socket = conn.link.socket;
        match (conn.recv, conn.wants_input(self.config.recv_buffer_bytes)) {
            (Recv::Idle, true) => {
                conn.recv = Recv::Armed;
                let (turn_bytes_max, is_limited) = (self.config.turn_bytes_max, conn.is_limited);
                self.driver.submit(Op::Recv { token, socket, turn_bytes_max, is_limited });
            }
            (Recv::Armed | Recv::Fed, false) => {
                conn.recv = Recv::Cancelling;
                conn.is_limited = true;
                self.shared.stats.live.receives_cancelled.add(1);
                self.driver.submit(Op::Cancel { target: token, socket });
            }
            _ => {}
        }
    }

    /// Frees the slot if nothing is in flight; else sees to it that it soon is so.
    fn close(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let socket = conn.link.socket;
        if conn.is_busy() {
            if !conn.is_cancelled {
                conn.is_cancelled = true;
                self.driver.submit(Op::CancelAll { socket });
            }
            return;
        }
        self.driver.submit(Op::Close { socket, reset: conn.duplex.ending == Ending::Reset });
        self.timers.remove(index);
        self.shared.wakers.forget(index);
        self.shared.passes.drop(index);
        self.conns.remove(index as usize);
        self.shared.stats.live.connections.set(self.conns.len() as u64);
        self.shared.stats.live.closed.add(1);
        self.has_room |= self.is_accept_paused();
    }
}

/// Connections with output that is to be sent, and how much they have.
#[derive(Default)]
pub(super) struct Unflushed {
    listed: Vec<u32>,
    pub(super) bytes: usize,
}

impl Unflushed {
    /// Lists a connection, if it has output and none of it is in flight.
    #[inline]
    pub(super) fn list(&mut self, index: u32, conn: &mut Conn) {
        if let Some(output) = &conn.duplex.outlet.pending
            && !conn.is_listed
            && conn.sending_bytes == 0
        {
            conn.is_listed = true;
            self.bytes += output.len();
            self.listed.push(index);
        }
    }
}

impl Conn {
    /// Takes a step of its life, and tells the simulator of it.
    fn step(&mut self, signal: Signal) {
        let peer_ended = !self.duplex.inlet.is_open();
        stepped(self.duplex.phase, signal, peer_ended);
        self.duplex.phase = self.duplex.phase.step(signal, peer_ended);
    }
}
