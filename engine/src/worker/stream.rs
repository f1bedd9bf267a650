//! Connections: what each event does to one, and [`Worker::settle`], which brings it to rest afterwards.

use super::{SPARE_CARRIES_MAX, Worker};
use crate::conn::{CloseReason, Conn, Phase, Recv, Signal};
use crate::driver::{Driver, Names};
use crate::event::{Errno, Op, Then};
use crate::hooks::{Arrival, Break, arrived, is_broken};
use crate::output::Output;
use crate::protocol::{Io, Next, Shared, Step};
use crate::service::{Call, Panicked, Service};
use crate::time::Tick;
use crate::token::{Kind, Token};
use std::time::Duration;

/// How often a connection that waits for the kernel to deliver its last bytes is looked at.
const DELIVERY_LOOK: Duration = Duration::from_millis(20);

impl<D: Driver> Worker<D> {
    /// The connection a token means, unless the slot is free or has a new tenant: completions may be stale.
    pub(super) fn live(&mut self, token: Token) -> Option<&mut Conn> {
        let conn = self.conns.get_mut(token.index() as usize)?;
        (conn.generation == token.generation() || is_broken(Break::GenerationUnchecked)).then_some(conn)
    }

    /// Bytes arrived. The hot path: the protocol sees them where the kernel put them.
    pub(super) fn on_received(&mut self, token: Token, more: bool, bytes: &[u8]) {
        let Some(conn) = self.live(token) else { return };
        arrived(conn.recv, if more { Arrival::Data } else { Arrival::LastData });
        if !more && !is_broken(Break::MoreIgnored) {
            conn.recv = Recv::Idle;
        }
        conn.fed = true;
        let index = token.index();
        if conn.phase == Phase::Open || is_broken(Break::CalledAfterClosed) {
            if conn.takes_in_place(bytes.len()) {
                self.deliver(index, bytes);
            } else {
                self.keep(index, bytes);
                self.conns[index as usize].input_due = true;
            }
        }
        self.shared.stats.live.received_bytes.add(bytes.len() as u64);
        // Whoever sends learns from that whether the connection still exists.
        if !self.conns[index as usize].is_sending() && self.unanswered.last() != Some(&index) {
            self.unanswered.push(index);
        }
        self.settle(index);
    }

    /// A receive ended, or went on, without bytes.
    pub(super) fn on_recv_end(&mut self, token: Token, result: Result<u32, Errno>, more: bool) {
        let Some(conn) = self.live(token) else { return };
        arrived(conn.recv, Arrival::of(result));
        if !more {
            conn.recv = Recv::Idle;
        }
        let index = token.index();
        match result {
            Ok(_) => {
                conn.peer_eof = true;
                // A reset waits until what was written before it is delivered, whether the peer goes on sending or not.
                if !(conn.reset && conn.phase == Phase::Lingering) {
                    conn.phase = conn.phase.step(Signal::PeerEof, true);
                }
            }
            Err(Errno::ENOBUFS) => {
                if !more {
                    conn.recv = Recv::Starved;
                    let is_fed = conn.fed;
                    let queue = if is_fed { &mut self.fed_and_starved } else { &mut self.starved };
                    if !is_broken(Break::StarvedForgotten) {
                        queue.push_back(index);
                    }
                }
                self.shared.stats.live.buffers_starved.add(1);
            }
            Err(Errno::EAGAIN) if is_broken(Break::AgainFails) => self.fail(index, Errno::EAGAIN),
            Err(Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => self.fail(index, errno),
        }
        self.settle(index);
    }

    /// A send came back.
    pub(super) fn on_sent(&mut self, token: Token, result: Result<u32, Errno>, mut output: Box<Output>) {
        let index = token.index();
        let conn = self.conns.get_mut(index as usize).filter(|conn| conn.generation == token.generation());
        let Some(conn) = conn else { return self.shared.recycle(output) };
        conn.in_flight_bytes = 0;
        match result {
            Ok(0) => self.fail(index, Errno::EPIPE),
            Ok(bytes) => {
                output.advance(bytes as usize);
                self.shared.stats.live.sent_bytes.add(u64::from(bytes));
                let drop_rest = is_broken(Break::ShortSendDropped);
                if !output.is_empty() && conn.phase != Phase::Closing && !drop_rest {
                    conn.count_taken(bytes);
                    return self.send_rest(index, output);
                }
                if conn.pending.is_some() {
                    conn.count_taken(bytes)
                } else {
                    conn.end_stall()
                }
                // The hot path: everything was sent, and nothing waited for that.
                if conn.is_at_rest() {
                    return self.shared.recycle(output);
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) if conn.phase != Phase::Closing => {
                return self.send_rest(index, output);
            }
            Err(Errno::ECANCELED) => {}
            Err(errno) => self.fail(index, errno),
        }
        self.shared.recycle(output);
        self.settle(index);
    }

    /// The wheel wants this connection looked at: one of its deadlines may have passed.
    pub(super) fn on_deadline(&mut self, index: u32) {
        let now = self.shared.now;
        let Some(conn) = self.conns.get_mut(index as usize) else { return };
        if conn.stall_deadline <= now {
            conn.stall_deadline = Tick::NEVER;
            if conn.phase == Phase::Lingering {
                self.linger(index);
                return self.settle(index);
            }
            let undelivered = self.driver.unacknowledged_bytes(conn.socket);
            if conn.has_stalled(undelivered, self.write_bytes_min) {
                self.shared.stats.live.write_timeouts.add(u64::from(conn.in_flight_bytes > 0));
                self.abort(index, CloseReason::WriteTimeout);
            } else {
                conn.stall_deadline = now.after(self.config.write_timeout);
            }
        } else if conn.phase == Phase::Open && conn.deadline <= now {
            conn.deadline = Tick::NEVER;
            self.shared.stats.live.timeouts.add(1);
            self.call(index, Call::Timeout);
        }
        self.settle(index);
    }

    /// Calls a session without input and does what it wants next.
    pub(super) fn call(&mut self, index: u32, call: Call<'_>) {
        let conn = &mut self.conns[index as usize];
        let (service, session) = (usize::from(conn.service), conn.session);
        let mut io = Io { conn, shared: &mut self.shared, index, names: &self.driver };
        match self.services[service].call(call, session, &mut io) {
            Ok(next) => self.apply(index, next),
            Err(panicked) => self.on_panic(index, panicked),
        }
    }

    pub(super) fn on_panic(&mut self, index: u32, _: Panicked) {
        self.shared.count_panic(index);
        self.break_off(index, CloseReason::Panicked);
    }

    /// Ends a session in the middle of something: what it wrote before is sent, because that may be whole, and then the
    /// peer sees a reset instead of the end of the stream.
    fn break_off(&mut self, index: u32, reason: CloseReason) {
        let conn = &mut self.conns[index as usize];
        if conn.phase != Phase::Open {
            return;
        }
        if is_broken(Break::AbortTakesBack) {
            return self.abort(index, reason);
        }
        conn.phase = conn.phase.step(Signal::Finish, conn.peer_eof);
        conn.reset = true;
        self.end_session(index, reason);
    }

    /// Gives up on a connection: the session ends, unsent output is lost, the peer sees a reset.
    pub(super) fn abort(&mut self, index: u32, reason: CloseReason) {
        let conn = &mut self.conns[index as usize];
        if conn.phase == Phase::Closing {
            return;
        }
        conn.phase = conn.phase.step(Signal::Abort, conn.peer_eof);
        conn.reset = !matches!(reason, CloseReason::Failed(_));
        if let Some(output) = conn.pending.take() {
            self.shared.recycle(output);
        }
        self.end_session(index, reason);
    }

    /// Sends what was written: one send for each connection with output and none in flight.
    pub(super) fn flush(&mut self) {
        self.dirty_bytes = 0;
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            // A slot in this list may have been closed and reused since; its tenant's own flag decides.
            let Some(conn) = self.conns.get_mut(index as usize).filter(|conn| conn.dirty) else { continue };
            conn.dirty = false;
            if conn.in_flight_bytes > 0 && !is_broken(Break::SendsOverlap) {
                continue;
            }
            if let Some(output) = conn.pending.take() {
                if output.is_empty() {
                    self.shared.recycle(output);
                } else {
                    let then = self.conns[index as usize].after_send();
                    self.send(index, output, then);
                }
            }
        }
        self.dirty = dirty;
    }

    /// Has the driver look for resets where bytes came and no send would find out.
    pub(super) fn look_at_unanswered(&mut self) {
        while let Some(index) = self.unanswered.pop() {
            if let Some(conn) = self.conns.get(index as usize)
                && conn.recv == Recv::Armed
                && !conn.is_sending()
            {
                let target = Token::new(Kind::Recv, conn.generation, index);
                self.driver.submit(Op::FindReset { target, socket: conn.socket });
            }
        }
    }

    /// Arms the connections that found no buffer. Only now, after this turn's buffers were returned: trying again at once
    /// would spin on ENOBUFS. And no more of them than there are buffers: of thousands most would be refused again.
    /// First come those that got nothing: a few peers that send without end use up all buffers in every turn.
    pub(super) fn rearm_starved(&mut self) {
        if self.starved.is_empty() && self.fed_and_starved.is_empty() {
            return;
        }
        self.starved.append(&mut self.fed_and_starved);
        for _ in 0..self.config.recv_buffers {
            let Some(index) = self.starved.pop_front() else { return };
            if let Some(conn) = self.conns.get_mut(index as usize)
                && conn.recv == Recv::Starved
            {
                conn.recv = Recv::Idle;
                self.update_recv(index);
            }
        }
        // The others have nothing in flight that would end a wait.
        self.impatient |= !self.starved.is_empty();
    }

    /// Brings a connection to rest after anything happened to it: input it may see, callbacks that are due,
    /// then what has to be sent, received, timed or closed.
    pub(super) fn settle(&mut self, index: u32) {
        let mut conn = &mut self.conns[index as usize];
        if conn.phase == Phase::Open && conn.may_have_calls_due(self.shared.output_high) {
            self.settle_open(index);
            conn = &mut self.conns[index as usize];
        }
        if conn.phase != Phase::Open {
            if conn.phase == Phase::Draining && conn.queued_bytes() == 0 {
                self.flushed(index);
                conn = &mut self.conns[index as usize];
            }
            if conn.phase == Phase::Closing {
                return self.close(index);
            }
        }
        if let Some(output) = &mut conn.pending {
            output.count_memory(&mut self.shared.memory);
            if !conn.dirty && (conn.in_flight_bytes == 0 || is_broken(Break::SendsOverlap)) {
                conn.dirty = true;
                self.dirty_bytes += output.len();
                self.dirty.push(index);
            }
        }
        // A send that nobody waited for when it was submitted may have somebody waiting now.
        let is_awaited_now = conn.in_flight_bytes > 0 && !conn.awaited && !conn.is_at_rest();
        self.impatient |= is_awaited_now && !is_broken(Break::ImpatienceForgotten);
        if !is_broken(Break::TimerForgotten) {
            self.timers.schedule(index, conn.next_deadline());
        }
        if conn.wants_input() != (conn.recv == Recv::Armed) {
            self.update_recv(index);
        }
    }

    /// Everything that a session wrote is with the kernel: the end of the stream follows, or a reset.
    fn flushed(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        // A reset drops what the kernel has not delivered yet, so it waits for that.
        let at_once = if conn.reset {
            self.driver.unacknowledged_bytes(conn.socket) == 0 || is_broken(Break::ResetTooSoon)
        } else {
            conn.peer_eof || self.config.linger_timeout.is_zero()
        };
        conn.phase = conn.phase.step(Signal::Flushed, at_once);
        if conn.phase == Phase::Lingering {
            let wait = if conn.reset { DELIVERY_LOOK } else { self.config.linger_timeout };
            conn.stall_deadline = self.shared.now.after(wait);
            // From here on it is not the session's, which has ended.
            conn.deadline = self.shared.now.after(self.config.write_timeout);
        }
        // The end is sent even if the socket is closed at once, which drops what was kept back if input is unread.
        if !conn.peer_eof && !conn.reset {
            self.driver.submit(Op::Shutdown { socket: conn.socket });
        }
    }

    /// Looks whether a lingering connection may be closed: whatever closes it, what the kernel has not delivered yet would
    /// be lost with a reset, or with the next byte that the peer sends.
    fn linger(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let is_late = conn.deadline <= self.shared.now;
        if is_late || self.driver.unacknowledged_bytes(conn.socket) == 0 {
            conn.phase = conn.phase.step(Signal::Abort, conn.peer_eof);
        } else {
            conn.stall_deadline = self.shared.now.after(DELIVERY_LOOK);
        }
    }

    /// The calls that are due. Ends because each turn of the loop uses up what it reacts to.
    fn settle_open(&mut self, index: u32) {
        let mut may_tell_drained = true;
        loop {
            let conn = &mut self.conns[index as usize];
            if conn.phase != Phase::Open {
                return;
            }
            let queued = conn.queued_bytes();
            if queued > self.config.output_bytes_max {
                self.shared.stats.live.overflows.add(1);
                return self.abort(index, CloseReason::OutputOverflow);
            }
            let low = queued <= self.shared.output_low;
            conn.held = if conn.held {
                !low || is_broken(Break::HeldForever)
            } else {
                queued >= self.shared.output_high
            };
            if conn.wants_drained && low && may_tell_drained {
                may_tell_drained = false;
                conn.wants_drained = false;
                self.call(index, Call::Drained);
            } else if conn.paused || conn.held {
                return;
            } else if conn.input_due && conn.unread_bytes() >= (conn.need_bytes as usize).max(1) {
                conn.input_due = false;
                self.deliver_kept(index);
            } else if conn.peer_eof && !conn.eof_told && !is_broken(Break::EofForgotten) {
                conn.eof_told = true;
                self.tell_eof(index);
            } else {
                return;
            }
        }
    }

    fn tell_eof(&mut self, index: u32) {
        let carry = self.conns[index as usize].carry.take();
        self.call(index, Call::Eof(carry.as_ref().map_or(&[], |carry| carry.unread())));
        let Some(carry) = carry else { return };
        let conn = &mut self.conns[index as usize];
        if conn.phase == Phase::Open {
            conn.carry = Some(carry);
        } else {
            self.spare_carry(carry);
        }
    }

    /// Calls `data` with bytes in place in a receive buffer, and keeps a copy of what it did not consume.
    #[inline]
    fn deliver(&mut self, index: u32, input: &[u8]) {
        let conn = &mut self.conns[index as usize];
        let step = match data(&mut self.services, &mut self.shared, &self.driver, conn, index, input) {
            Ok(step) => step,
            Err(panicked) => return self.on_panic(index, panicked),
        };
        if step == Step::consumed(input.len()) {
            // The hot path: nothing is left, and nothing special is wanted.
            conn.need_bytes = 0;
            conn.paused = false;
            return;
        }
        let rest = &input[step.consumed..];
        if !rest.is_empty() && !is_broken(Break::InputTailDropped) {
            self.keep(index, rest);
        }
        self.apply_step(index, step, rest.len());
    }

    /// Calls `data` with bytes that were kept, and drops what it consumed of them.
    fn deliver_kept(&mut self, index: u32) {
        let mut carry = self.conns[index as usize].carry.take().expect("unread bytes are in the carry");
        let conn = &mut self.conns[index as usize];
        match data(&mut self.services, &mut self.shared, &self.driver, conn, index, carry.unread()) {
            Ok(step) => {
                carry.consume(step.consumed);
                let rest_bytes = carry.unread().len();
                if rest_bytes > 0 {
                    self.conns[index as usize].carry = Some(carry);
                } else {
                    self.spare_carry(carry);
                }
                self.apply_step(index, step, rest_bytes);
            }
            Err(panicked) => {
                self.spare_carry(carry);
                self.on_panic(index, panicked);
            }
        }
    }

    fn apply_step(&mut self, index: u32, step: Step, rest_bytes: usize) {
        self.conns[index as usize].need_bytes = u32::try_from(step.need).unwrap_or(u32::MAX);
        if step.next != Next::Close || !is_broken(Break::AnsweredAfterClose) {
            self.apply(index, step.next);
        }
        let conn = &mut self.conns[index as usize];
        if conn.phase != Phase::Open {
            return;
        }
        if step.need > self.config.input_bytes_max {
            self.shared.stats.live.overflows.add(1);
            return self.break_off(index, CloseReason::InputOverflow);
        }
        if rest_bytes == 0 {
            return;
        }
        // What is left is the start of something incomplete; or it waits for room or a resume; or it is already what
        // the protocol asked for (unless it consumed nothing: asking for what it has just seen would never end).
        let is_met = step.need > 0 && rest_bytes >= step.need && step.consumed > 0;
        let is_full = conn.queued_bytes() >= self.shared.output_high;
        conn.input_due = conn.paused || is_full || is_met;
        if conn.input_due {
            return;
        }
        if rest_bytes > self.config.input_bytes_max {
            self.shared.stats.live.overflows.add(1);
            self.break_off(index, CloseReason::InputOverflow);
        } else if self.shared.memory.is_exhausted() {
            self.shared.stats.live.memory_refused.add(1);
            self.break_off(index, CloseReason::MemoryExhausted);
        }
    }

    fn apply(&mut self, index: u32, next: Next) {
        let conn = &mut self.conns[index as usize];
        match next {
            Next::Continue => conn.paused &= is_broken(Break::ResumeForgotten),
            Next::Pause => conn.paused = true,
            Next::Close => {
                conn.phase = conn.phase.step(Signal::Finish, conn.peer_eof);
                self.end_session(index, CloseReason::Finished);
            }
            Next::Abort => self.break_off(index, CloseReason::Aborted),
        }
    }

    /// The transport failed: nothing can be sent any more.
    fn fail(&mut self, index: u32, errno: Errno) {
        if self.conns[index as usize].phase != Phase::Closing {
            self.shared.stats.live.failures.add(1);
            self.abort(index, CloseReason::Failed(errno));
        }
    }

    fn end_session(&mut self, index: u32, reason: CloseReason) {
        let conn = &mut self.conns[index as usize];
        let session = std::mem::replace(&mut conn.session, u32::MAX);
        let (service, carry) = (usize::from(conn.service), conn.carry.take());
        let held_kib = std::mem::take(&mut conn.held_kib);
        self.shared.memory.change(held_kib as usize * 1024, 0);
        conn.deadline = Tick::NEVER;
        conn.wants_drained = false;
        if let Some(carry) = carry {
            self.spare_carry(carry);
        }
        if session != u32::MAX && self.services[service].close(session, reason).is_err() {
            self.shared.count_panic(index);
        }
    }

    /// Sends what a send left over. Mostly the socket was full, so this one is waited for.
    fn send_rest(&mut self, index: u32, output: Box<Output>) {
        let then = match self.conns[index as usize].after_send() {
            Then::Rest => Then::GoOn,
            then => then,
        };
        self.send(index, output, then);
    }

    fn send(&mut self, index: u32, output: Box<Output>, then: Then) {
        let conn = &mut self.conns[index as usize];
        conn.in_flight_bytes = output.len();
        if conn.stall_deadline == Tick::NEVER && !is_broken(Break::StallUntimed) {
            conn.stall_deadline = self.shared.now.after(self.config.write_timeout);
            self.timers.schedule(index, conn.stall_deadline);
        }
        let token = Token::new(Kind::Send, conn.generation, index);
        conn.awaited = then != Then::Rest;
        self.driver.submit(Op::Send { token, socket: conn.socket, output, then });
    }

    /// Starts or ends receiving, as the connection now wants it.
    fn update_recv(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let token = Token::new(Kind::Recv, conn.generation, index);
        let socket = conn.socket;
        match (conn.recv, conn.wants_input()) {
            (Recv::Idle, true) => {
                conn.recv = Recv::Armed;
                conn.fed = false;
                let turn_bytes_max = self.config.turn_bytes_max;
                self.driver.submit(Op::Recv { token, socket, turn_bytes_max });
            }
            (Recv::Armed, false) => {
                conn.recv = Recv::Cancelling;
                self.driver.submit(Op::Cancel { target: token, socket });
            }
            _ => {}
        }
    }

    /// Frees the slot if nothing is in flight; else sees to it that it soon is so.
    fn close(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if conn.is_busy() && !is_broken(Break::ClosedTooSoon) {
            self.impatient |= conn.in_flight_bytes > 0 && !conn.awaited;
            if !conn.cancelled && !is_broken(Break::CancelForgotten) {
                conn.cancelled = true;
                self.driver.submit(Op::CancelAll { socket: conn.socket });
            }
            return;
        }
        self.driver.submit(Op::Close { socket: conn.socket, reset: conn.reset });
        self.timers.remove(index);
        self.conns.remove(index as usize);
        self.shared.stats.live.connections.set(self.conns.len() as u64);
        self.shared.stats.live.closed.add(1);
        self.has_room |= self.is_accept_paused();
    }

    fn keep(&mut self, index: u32, bytes: &[u8]) {
        let conn = &mut self.conns[index as usize];
        if conn.carry.is_none() {
            conn.carry = Some(self.spare_carries.pop().unwrap_or_default());
        }
        let carry = conn.carry.as_mut().expect("set above");
        carry.append(bytes);
        carry.count_memory(&mut self.shared.memory);
    }

    fn spare_carry(&mut self, mut carry: Box<crate::conn::Carry>) {
        let is_kept = carry.reset() && self.spare_carries.len() < SPARE_CARRIES_MAX;
        if is_kept && !self.shared.memory.is_short() {
            self.spare_carries.push(carry);
        } else {
            self.shared.memory.change(carry.memory_bytes(), 0);
        }
    }
}

/// Calls a session's `data`. Not a method, so that the caller keeps hold of the connection.
#[inline]
fn data(
    services: &mut [Box<dyn Service>],
    shared: &mut Shared,
    names: &dyn Names,
    conn: &mut Conn,
    index: u32,
    input: &[u8],
) -> Result<Step, Panicked> {
    let (service, session) = (usize::from(conn.service), conn.session);
    services[service].data(session, input, &mut Io { conn, shared, index, names })
}
