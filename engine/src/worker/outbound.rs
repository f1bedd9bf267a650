//! Outbound connections: attempts until they are connections, and the other requests that protocols make outside
//! the calls of a session (`dialer.rs`). Looked at once a turn; costs a turn without any two comparisons.

use super::{Life, Worker};
use crate::address::Address;
use crate::bell::{ConnId, Waker, Whom};
use crate::dialer::{Dialer, Refusal, Request, To};
use crate::driver::Driver;
use crate::event::{Errno, Op, Socket};
use crate::seam::layer::{Call, Notice, Origin};
use crate::session::calls::Panicked;
use crate::session::service::Service;
use crate::time::Tick;
use crate::token::{Kind, Token};
use slab::Slab;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Attempts to connect, and the timers of protocols.
pub(super) struct Outbound {
    attempts: Slab<Attempt>,
    /// When attempts time out that were not given up.
    timeouts: BTreeSet<(Tick, Token)>,
    /// The same attempts by their protocols and tags.
    going: BTreeSet<(u16, u64, Token)>,
    /// The timers of protocols, by service.
    timers: Vec<Tick>,
    /// The memory that protocols keep beside their sessions, by service.
    held: Vec<usize>,
    /// Nothing here is due before, nor anything of a datagram protocol.
    next_due: Tick,
    requests: Vec<Request>,
    /// The wakers of protocols, by service, and their numbers, which their dialers have as well.
    wakers: Vec<Waker>,
    numbers: Vec<Rc<u16>>,
}

/// One attempt to connect. The slot is freed with the last completion.
struct Attempt {
    token: Token,
    socket: Socket,
    service: u16,
    tag: u64,
    due: Tick,
    /// Why it was given up, if it was.
    refusal: Option<Refusal>,
}

/// Where an attempt stands in the lists of those that go on.
type Keys = ((Tick, Token), (u16, u64, Token));

impl Attempt {
    fn keys(&self) -> Keys {
        ((self.due, self.token), (self.service, self.tag, self.token))
    }
}

impl Outbound {
    pub(super) fn new() -> Outbound {
        Outbound {
            attempts: Slab::new(),
            timeouts: BTreeSet::new(),
            going: BTreeSet::new(),
            timers: Vec::new(),
            held: Vec::new(),
            next_due: Tick::NEVER,
            requests: Vec::new(),
            wakers: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// Attempts in progress: each has a descriptor and becomes a connection.
    pub(super) fn len(&self) -> usize {
        self.attempts.len()
    }

    /// The token of each attempt: it is in flight until its completion.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn tokens(&self) -> impl Iterator<Item = Token> {
        self.attempts.iter().map(|(_, attempt)| attempt.token)
    }

    /// Whether an attempt is this protocol's.
    pub(super) fn is_connecting(&self, service: u16) -> bool {
        self.attempts.iter().any(|(_, attempt)| attempt.service == service)
    }

    pub(super) fn next_due(&self) -> Tick {
        self.next_due
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = Socket> {
        self.attempts.iter().map(|(_, attempt)| attempt.socket)
    }

    /// Something else is due at `at`.
    #[inline]
    pub(super) fn due_by(&mut self, at: Tick) {
        self.next_due = self.next_due.min(at);
    }

    fn find(&mut self, token: Token) -> Option<&mut Attempt> {
        self.attempts.get_mut(token.index() as usize).filter(|attempt| attempt.token == token)
    }

    /// An attempt goes on no longer.
    fn forget(&mut self, (timeout, tag): Keys) {
        self.timeouts.remove(&timeout);
        self.going.remove(&tag);
    }

    /// A protocol is gone. Whether nobody can ask for anything in its name any more.
    pub(super) fn release(&mut self, service: u16) -> bool {
        self.set_timer(service, Tick::NEVER);
        Rc::strong_count(&self.numbers[usize::from(service)]) == 1
    }

    fn set_timer(&mut self, service: u16, at: Tick) {
        let service = usize::from(service);
        if self.timers.len() <= service {
            self.timers.resize(service + 1, Tick::NEVER);
        }
        self.timers[service] = at;
    }

    /// What it was before.
    pub(super) fn set_held(&mut self, service: u16, bytes: usize) -> usize {
        let service = usize::from(service);
        if self.held.len() <= service {
            self.held.resize(service + 1, 0);
        }
        std::mem::replace(&mut self.held[service], bytes)
    }

    fn first_due(&self) -> Tick {
        let timeout = self.timeouts.first().map_or(Tick::NEVER, |(at, _)| *at);
        self.timers.iter().fold(timeout, |due, at| due.min(*at))
    }
}

impl<D: Driver> Worker<D> {
    /// Adds a protocol that has no listener.
    pub(crate) fn add_outbound(&mut self, service: Box<dyn Service>) {
        self.services.push(service);
    }

    /// Starts the service with this number: one that was never used, or one that is used again.
    pub(super) fn start_service(&mut self, service: u16) {
        let index = usize::from(service);
        if index == self.outbound.wakers.len() {
            self.outbound.wakers.push(Waker::new(self.shared.bell.clone(), Whom::Service(service)));
            self.outbound.numbers.push(Rc::new(service));
        }
        let (waker, number) = (self.outbound.wakers[index].clone(), self.outbound.numbers[index].clone());
        let dialer = Dialer::new(self.shared.requests.clone(), number, waker);
        let started = self.services[usize::from(service)].notice(Notice::Start(dialer));
        self.count_panic(started);
    }

    pub(super) fn start_services(&mut self) {
        for index in 0..self.services.len() {
            self.start_service(index as u16);
        }
        self.start_datagrams();
        self.look_at_outbound();
    }

    /// Timers and timeouts that are due, then what protocols asked for. What they ask for meanwhile is for the next
    /// turn, which then does not wait: a protocol cannot keep the worker here.
    pub(super) fn look_at_outbound(&mut self) {
        let now = self.shared.now;
        if self.outbound.next_due <= now {
            self.time_attempts_out(now);
            for service in 0..self.outbound.timers.len() {
                if self.outbound.timers[service] <= now {
                    self.outbound.timers[service] = Tick::NEVER;
                    let ticked = self.services[service].notice(Notice::Tick(now));
                    self.count_panic(ticked);
                }
            }
            self.look_at_datagrams(now);
        }
        let mut requests = std::mem::take(&mut self.outbound.requests);
        self.shared.requests.swap(&mut requests);
        for request in requests.drain(..) {
            match request {
                Request::Connect(service, address, to) => self.connect(service, address, to),
                Request::Cancel(service, tag) => self.cancel(service, tag),
                Request::Timer(service, at) => self.outbound.set_timer(service, at),
                Request::Hold(service, bytes) => {
                    let before = self.outbound.set_held(service, bytes);
                    self.shared.memory.change(before, bytes);
                }
            }
        }
        self.outbound.requests = requests;
        self.outbound.next_due = self.outbound.first_due().min(self.datagrams.next_due());
    }

    /// An attempt has come to its end.
    pub(super) fn on_connected(&mut self, token: Token, result: Result<u32, Errno>) {
        if self.outbound.find(token).is_none() {
            return;
        }
        let attempt = self.outbound.attempts.remove(token.index() as usize);
        self.outbound.forget(attempt.keys());
        let Attempt { socket, service, tag, refusal, .. } = attempt;
        match (result, refusal) {
            // A timeout that came too late is none.
            (Ok(_), None | Some(Refusal::TimedOut)) => {
                self.shared.stats.live.connected.add(1);
                self.open_connection(service, socket, Origin::Connected(tag));
            }
            (Ok(_), Some(refusal)) => self.give_up(service, socket, tag, refusal),
            (Err(errno), refusal) => {
                self.give_up(service, socket, tag, refusal.unwrap_or(Refusal::Failed(errno)));
            }
        }
    }

    /// Ends every attempt; their protocols are told with the last completion.
    pub(super) fn stop_connecting(&mut self) {
        for (_, attempt) in &mut self.outbound.attempts {
            attempt.refusal = Some(Refusal::Stopped);
            self.driver.submit(Op::CancelAll { socket: attempt.socket });
        }
    }

    /// Calls `wake` of a connection that is still the same one.
    pub(super) fn wake(&mut self, conn: ConnId) {
        let token = Token::new(Kind::Recv, conn.generation, conn.index);
        if self.live(token).is_some() {
            self.call_if_open(conn.index, Call::Wake);
            self.settle(conn.index);
        }
    }

    /// Somebody rang for a protocol.
    pub(super) fn ring_service(&mut self, service: u16) {
        let index = usize::from(service);
        self.outbound.wakers[index].lower();
        let rung = self.services[index].notice(Notice::Rung);
        self.count_panic(rung);
    }

    fn connect(&mut self, service: u16, address: Box<Address>, to: To) {
        let To { tag, from, timeout } = to;
        if matches!(self.life, Life::Stopping(_)) {
            return self.refuse(service, tag, Refusal::Stopped);
        }
        if self.open_count() >= self.connections_max {
            return self.refuse(service, tag, Refusal::Limit);
        }
        let socket = match self.driver.stream_socket(&address, from) {
            Ok(socket) => socket,
            Err(errno) => return self.refuse(service, tag, Refusal::Failed(errno)),
        };
        self.next_generation = self.next_generation.wrapping_add(1) % Token::GENERATIONS;
        let slot = self.outbound.attempts.vacant_entry();
        let token = Token::new(Kind::Connect, self.next_generation, slot.key() as u32);
        let due = self.shared.now.after(timeout.unwrap_or(self.config.connect_timeout));
        slot.insert(Attempt { token, socket, service, tag, due, refusal: None });
        self.outbound.timeouts.insert((due, token));
        self.outbound.going.insert((service, tag, token));
        self.driver.submit(Op::Connect { token, socket, address });
    }

    /// Gives up one attempt with this tag, the one that was begun last.
    fn cancel(&mut self, service: u16, tag: u64) {
        let end = |generation, index| (service, tag, Token::new(Kind::Connect, generation, index));
        let asked = self.outbound.going.range(end(0, 0)..=end(u32::MAX, u32::MAX));
        if let Some((.., token)) = asked.last().copied() {
            self.end_attempt(token, Refusal::Cancelled);
        }
    }

    fn time_attempts_out(&mut self, now: Tick) {
        while let Some((due, token)) = self.outbound.timeouts.first().copied()
            && due <= now
        {
            self.end_attempt(token, Refusal::TimedOut);
        }
    }

    /// Gives up an attempt, which then ends with its last completion.
    fn end_attempt(&mut self, token: Token, refusal: Refusal) {
        let Some(attempt) = self.outbound.find(token) else { return };
        attempt.refusal.get_or_insert(refusal);
        let (socket, keys) = (attempt.socket, attempt.keys());
        self.outbound.forget(keys);
        self.driver.submit(Op::CancelAll { socket });
    }

    fn give_up(&mut self, service: u16, socket: Socket, tag: u64, refusal: Refusal) {
        self.driver.submit(Op::Close { socket, reset: false });
        self.has_room |= self.is_accept_paused();
        self.refuse(service, tag, refusal);
    }

    fn refuse(&mut self, service: u16, tag: u64, refusal: Refusal) {
        self.shared.stats.live.refused.add(1);
        let told = self.services[usize::from(service)].notice(Notice::Refused(tag, refusal));
        self.count_panic(told);
    }

    fn count_panic(&mut self, called: Result<(), Panicked>) {
        if called.is_err() {
            self.shared.count_panic_outside();
        }
    }
}
