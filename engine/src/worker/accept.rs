//! Accepting: armed once, paused when descriptors or slots run out, never spinning.

use super::{Life, Worker};
use crate::address::Address;
use crate::conn::Conn;
use crate::driver::Driver;
use crate::event::{Errno, Op, Socket};
use crate::gate::{Gate, Pass};
use crate::seam::io::{Below, Io};
use crate::seam::layer::{Call, Origin};
use crate::session::calls::Panicked;
use crate::session::life::CloseReason;
use crate::session::service::Service;
use crate::time::Tick;
use crate::token::{Kind, Token};
use std::time::Duration;

/// A shortage of descriptors can come and go with every connection: the log says so once in this time.
const ACCEPT_QUIET: Duration = Duration::from_secs(60);

/// One listening socket of this worker.
pub(super) struct Listener {
    socket: Socket,
    /// Which protocol.
    service: u16,
    /// Who may come in.
    gate: Option<Gate>,
    state: Accept,
    /// It is to be closed when its queue is empty.
    is_leaving: bool,
}

/// A socket that was accepted, and is let in.
pub(super) struct Accepted {
    pub(super) service: u16,
    pub(super) socket: Socket,
    pub(super) pass: Option<Pass>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    /// Nothing in flight; armed again when there is room.
    Paused,
    Armed,
    /// A cancel is on its way; connections may still come first.
    Cancelling,
    /// The engine drains: what is queued comes out, then the listener is closed.
    Emptying,
    Closed,
}

impl Listener {
    pub(super) fn socket(&self) -> Socket {
        self.socket
    }

    pub(super) fn service(&self) -> u16 {
        self.service
    }

    /// From now on another protocol; the one before is returned.
    pub(super) fn replace_service(&mut self, service: u16) -> u16 {
        std::mem::replace(&mut self.service, service)
    }

    /// From now on this gate is asked; who is in already stays.
    pub(super) fn set_gate(&mut self, gate: Option<Gate>) {
        self.gate = gate;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state == Accept::Closed
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, Accept::Armed | Accept::Cancelling | Accept::Emptying)
    }
}

impl<D: Driver> Worker<D> {
    /// Adds a listening socket, which the worker closes in the end, the gate before it and the protocol behind it.
    pub(crate) fn add_listener(&mut self, socket: Socket, gate: Option<Gate>, service: Box<dyn Service>) {
        self.push_listener(socket, gate, self.services.len() as u16);
        self.services.push(service);
    }

    pub(super) fn push_listener(&mut self, socket: Socket, gate: Option<Gate>, service: u16) {
        self.listeners.push(Listener { socket, service, gate, state: Accept::Paused, is_leaving: false });
    }

    /// Takes in what has queued up, and then closes a listener.
    pub(super) fn remove_listener(&mut self, index: usize) {
        self.listeners[index].is_leaving = true;
        match (self.listeners[index].state, self.life) {
            (Accept::Armed, _) => self.cancel_accept(index),
            (Accept::Paused, Life::Running) if self.accept_at == Tick::NEVER => self.accept_rest(index),
            (Accept::Paused | Accept::Cancelling | Accept::Emptying | Accept::Closed, _) => {}
        }
    }

    pub(super) fn arm_accept(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.state = Accept::Armed;
        let token = Token::new(Kind::Accept, 0, index as u32);
        self.driver.submit(Op::Accept { token, listener: listener.socket });
    }

    pub(super) fn on_accept(&mut self, index: usize, result: Result<u32, Errno>, more: bool) {
        let is_emptied =
            !more && self.listeners[index].state == Accept::Emptying && result == Err(Errno::ECANCELED);
        if !more {
            self.listeners[index].state = Accept::Paused;
        }
        match result {
            Ok(socket) => self.take_in(index, Socket(socket as i32)),
            // The peer gave up before we came, or a signal did: there may be others.
            Err(Errno::ECANCELED | Errno::ECONNABORTED | Errno::EINTR | Errno::EAGAIN | Errno::EPROTO) => {}
            Err(errno) => {
                // Out of descriptors or memory, or an error we do not know. Accepting again at once would spin:
                // the connection stays in the queue. A closing connection, or time, gives the next try.
                self.shared.stats.live.accept_paused.add(1);
                if self.accept_quiet_until <= self.shared.now {
                    self.accept_quiet_until = self.shared.now.after(ACCEPT_QUIET);
                    tracing::warn!(%errno, "accepting pauses until a connection closes; said once a minute");
                }
                self.accept_at = self.shared.now.after(self.config.accept_retry);
            }
        }
        if self.listeners[index].state == Accept::Paused {
            let is_leaving = self.listeners[index].is_leaving;
            match self.life {
                Life::Running if is_leaving && is_emptied => self.close_listener(index),
                Life::Running if is_leaving && self.accept_at == Tick::NEVER => self.accept_rest(index),
                Life::Running if is_leaving => {}
                Life::Running if self.may_accept() => self.arm_accept(index),
                Life::Running => {}
                Life::Draining(_) if is_emptied => self.close_listener(index),
                Life::Draining(_) if self.accept_at == Tick::NEVER => self.accept_rest(index),
                Life::Draining(_) => {}
                Life::Stopping(_) => self.close_listener(index),
            }
        }
    }

    /// A connection went away, or time passed: try again whatever was paused.
    pub(super) fn resume_accepting(&mut self) {
        self.accept_at = Tick::NEVER;
        while self.has_slot()
            && let Some(accepted) = self.parked.pop_front()
        {
            self.open(accepted);
        }
        for index in 0..self.listeners.len() {
            if self.listeners[index].state == Accept::Paused {
                match self.life {
                    Life::Running if self.listeners[index].is_leaving => self.accept_rest(index),
                    Life::Running if self.may_accept() => self.arm_accept(index),
                    Life::Draining(_) => self.accept_rest(index),
                    Life::Running | Life::Stopping(_) => {}
                }
            }
        }
    }

    /// Whether anything waits for a connection to go away.
    pub(super) fn is_accept_paused(&self) -> bool {
        self.accept_at != Tick::NEVER
            || !self.parked.is_empty()
            || self.listeners.iter().any(|listener| listener.state == Accept::Paused)
    }

    /// Ends accepting. When draining, what the kernel has queued is still taken in, because closing the listener
    /// would reset it.
    pub(super) fn close_listeners(&mut self) {
        for index in 0..self.listeners.len() {
            match (self.listeners[index].state, self.life) {
                (Accept::Armed, _) => self.cancel_accept(index),
                (Accept::Paused, Life::Draining(_)) => self.accept_rest(index),
                (Accept::Paused, _) => self.close_listener(index),
                (Accept::Cancelling | Accept::Emptying | Accept::Closed, _) => {}
            }
        }
        if matches!(self.life, Life::Stopping(_)) {
            for Accepted { socket, .. } in self.parked.drain(..) {
                self.driver.submit(Op::Close { socket, reset: true });
            }
        }
    }

    fn accept_rest(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.state = Accept::Emptying;
        let token = Token::new(Kind::Accept, 0, index as u32);
        self.driver.submit(Op::AcceptRest { token, listener: listener.socket });
    }

    fn close_listener(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.state = Accept::Closed;
        self.driver.submit(Op::Close { socket: listener.socket, reset: false });
    }

    pub(super) fn may_accept(&self) -> bool {
        self.accept_at == Tick::NEVER && self.parked.is_empty() && self.has_slot()
    }

    /// Whether one more connection may be opened.
    fn has_slot(&self) -> bool {
        self.open_count() < self.connections_max && !self.shared.memory.is_short()
    }

    fn take_in(&mut self, index: usize, socket: Socket) {
        if matches!(self.life, Life::Stopping(_)) {
            return self.driver.submit(Op::Close { socket, reset: true });
        }
        // Before anything is kept of it: whoever may not come in takes nobody's place.
        let Some(pass) = self.ask_gate(index, socket) else {
            return self.driver.submit(Op::Close { socket, reset: true });
        };
        let accepted = Accepted { service: self.listeners[index].service, socket, pass };
        if self.has_slot() && self.parked.is_empty() {
            self.open(accepted);
        } else {
            self.parked.push_back(accepted);
            return self.pause_accepting();
        }
        if self.open_count() >= self.connections_max {
            self.pause_accepting();
        }
    }

    pub(super) fn pause_accepting(&mut self) {
        for index in 0..self.listeners.len() {
            if self.listeners[index].state == Accept::Armed {
                self.shared.stats.live.accept_paused.add(1);
                self.cancel_accept(index);
            }
        }
    }

    fn cancel_accept(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.state = Accept::Cancelling;
        let target = Token::new(Kind::Accept, 0, index as u32);
        self.driver.submit(Op::Cancel { target, socket: listener.socket });
    }

    /// The one place where it is decided who may come in; `None` for who may not. One system call, where there is a gate, for the
    /// address.
    fn ask_gate(&self, index: usize, socket: Socket) -> Option<Option<Pass>> {
        let Some(gate) = &self.listeners[index].gate else { return Some(None) };
        match self.driver.peer(socket) {
            Some(Address::Ip(peer)) => gate.ask(peer.ip(), self.shared.now, &self.shared.stats).ok(),
            Some(Address::Unix(_) | Address::Abstract(_)) => Some(None),
            // It was reset. What it had sent before could still be read, and nobody knows whether it may say anything.
            None => {
                self.shared.stats.live.gate_gone.add(1);
                None
            }
        }
    }

    fn open(&mut self, Accepted { service, socket, pass }: Accepted) {
        self.shared.stats.live.accepted.add(1);
        self.shared.passes.put(self.conns.vacant_key() as u32, pass);
        self.open_connection(service, socket, Origin::Accepted);
    }

    /// Makes a connection of a socket, and opens its session.
    pub(super) fn open_connection(&mut self, service: u16, socket: Socket, origin: Origin) {
        self.next_generation = self.next_generation.wrapping_add(1) % Token::GENERATIONS;
        let slot = self.conns.vacant_entry();
        let index = slot.key() as u32;
        let conn = slot.insert(Conn::new(self.next_generation, socket, service));
        let (link, shared) = (&mut conn.link, &mut self.shared);
        let below = Below { index, link, shared, names: &self.driver, queued_bytes: 0 };
        let mut io = Io { duplex: &mut conn.duplex, below };
        match self.services[usize::from(service)].open(origin, &mut io) {
            Ok(session) => conn.session = session,
            Err(Panicked) => {
                self.shared.count_panic(index);
                self.abort(index, CloseReason::Panicked);
            }
        }
        self.shared.stats.live.connections.set(self.conns.len() as u64);
        if self.shared.draining {
            self.call_if_open(index, Call::Drain);
        } else {
            self.make_calls(index);
        }
        self.settle(index);
    }
}
