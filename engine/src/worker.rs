//! THE LOOP. One worker turns its driver, dispatches each event, and flushes what was written.
//!
//! A turn: give returned buffers back and re-arm; one `Driver::turn`, which submits, waits and reaps; for
//! each event call the connection's protocol with the bytes in place; then one send for each connection
//! that has output and none in flight. All policy lives here and in `worker/*.rs`: connections
//! (`transport.rs`), accepting (`accept.rs`), connecting (`outbound.rs`), datagrams (`datagrams.rs`), want of memory
//! (`pressure.rs`). Nothing here knows which driver runs.

mod accept;
#[cfg(any(test, feature = "sim"))]
mod check;
mod datagrams;
#[cfg(feature = "tokio")]
mod hosted;
mod leap;
mod listeners;
mod outbound;
mod pressure;
mod splice;
mod starved;
mod transport;

use crate::bell::here::Turn;
use crate::bell::{Bell, Orders, Whom};
use crate::config::Config;
use crate::conn::Conn;
use crate::driver::{Driver, Wait};
use crate::event::{Errno, Event, Op, Payload, Socket};
use crate::seam::layer::Call;
use crate::session::life::CloseReason;
use crate::session::service::Service;
use crate::session::shared::{SPARE_OUTPUTS_MAX, Shared};
use crate::stats::WorkerStats;
use crate::time::Tick;
use crate::timer::Timers;
use crate::token::{Kind, Token};
use accept::{Accepted, Listener};
use datagrams::Endpoints;
use leap::Leap;
use listeners::Changes;
#[cfg(test)]
pub(crate) use listeners::SERVICES_MAX;
pub(crate) use listeners::{Change, Made, Make, MakeDatagram};
use outbound::Outbound;
use pressure::Shortage;
use slab::Slab;
use splice::Splices;
use starved::Starved;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use transport::Unflushed;

/// One thread's share of the engine.
pub(crate) struct Worker<D: Driver> {
    driver: D,
    config: Config,
    connections_max: usize,
    /// What a peer must take of waiting output in `Config::write_timeout`.
    write_bytes_min: u64,
    conns: Slab<Conn>,
    services: Vec<Box<dyn Service>>,
    listeners: Vec<Listener>,
    changes: Changes,
    datagrams: Endpoints,
    outbound: Outbound,
    splices: Splices,
    shared: Shared,
    timers: Timers,
    life: Life,
    /// Rises with every connection; its low 24 bits guard reuse of slots.
    next_generation: u32,
    /// Connections with output to send.
    unflushed: Unflushed,
    /// A connection went away while accepting was paused.
    has_room: bool,
    leap: Leap,
    /// Connections that found no receive buffer.
    starved: Starved,
    /// Sockets accepted beyond the limit: they wait as if still in the kernel's queue.
    parked: VecDeque<Accepted>,
    shortage: Shortage,
    /// When to accept again after the process ran out of descriptors.
    accept_at: Tick,
    /// Until when nothing more is said about that.
    accept_quiet_until: Tick,
    events: Vec<Event>,
    reached: Vec<u32>,
    rung: Vec<Whom>,
    /// Whom this worker has rung for itself, and has not looked at.
    own_rings: Vec<Whom>,
    #[cfg(feature = "tokio")]
    hosting: hosted::Hosting,
}

/// How far the worker is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Running,
    /// Until this time connections may finish.
    Draining(Tick),
    /// Everything is being closed; after this time nobody waits any longer.
    Stopping(Tick),
}

/// How long a stopping worker waits for the last completions.
const STOP_WAIT: Duration = Duration::from_secs(2);
/// How many of those that the worker rings for itself one turn looks at: as many as it keeps outputs for.
const OWN_RINGS_A_TURN: usize = SPARE_OUTPUTS_MAX;

impl<D: Driver> Worker<D> {
    pub(crate) fn new(
        mut driver: D,
        config: Config,
        connections_max: usize,
        bell: Arc<Bell>,
        stats: Arc<WorkerStats>,
    ) -> Worker<D> {
        let timers = Timers::new(driver.now());
        driver.set_pipes_max(config.splice_pipes.into());
        let shared = Shared::new(&config, bell, stats);
        Worker {
            driver,
            write_bytes_min: config.write_bytes_min(),
            config,
            connections_max,
            conns: Slab::new(),
            services: Vec::new(),
            listeners: Vec::new(),
            changes: Changes::default(),
            datagrams: Endpoints::default(),
            outbound: Outbound::new(),
            splices: Splices::default(),
            shared,
            timers,
            life: Life::Running,
            next_generation: 0,
            unflushed: Unflushed::default(),
            has_room: false,
            leap: Leap::default(),
            starved: Starved::default(),
            parked: VecDeque::new(),
            shortage: Shortage::new(),
            accept_at: Tick::NEVER,
            accept_quiet_until: Tick(0),
            events: Vec::new(),
            reached: Vec::new(),
            rung: Vec::new(),
            own_rings: Vec::new(),
            #[cfg(feature = "tokio")]
            hosting: hosted::Hosting::default(),
        }
    }

    /// Runs until stopped or drained. An error means that the driver broke; everything is closed then.
    pub(crate) fn run(&mut self) -> Result<(), Errno> {
        self.start();
        while !self.is_done() {
            self.turn()?;
        }
        Ok(())
    }

    /// Arms what a worker waits for: its bell, its listeners, its datagram sockets.
    pub(crate) fn start(&mut self) {
        self.watch_bell();
        self.start_serving();
    }

    fn start_serving(&mut self) {
        self.refresh_clock();
        for index in 0..self.listeners.len() {
            self.arm_accept(index);
        }
        self.settle_datagrams();
        self.start_services();
    }

    /// One turn.
    pub(crate) fn turn(&mut self) -> Result<(), Errno> {
        self.turn_until(Tick::NEVER)
    }

    /// One turn that waits no longer than until `until`.
    pub(crate) fn turn_until(&mut self, until: Tick) -> Result<(), Errno> {
        let wait = self.next_wait(until);
        self.turn_with(wait)
    }

    fn turn_with(&mut self, wait: Wait) -> Result<(), Errno> {
        let own = Turn::begin(self.shared.bell.address());
        let mut events = std::mem::take(&mut self.events);
        self.driver.turn(wait, &mut events)?;
        self.shared.is_behind = self.driver.is_behind();
        self.refresh_clock();
        self.shared.stats.live.turns.add(1);
        self.shared.stats.live.events.add(events.len() as u64);
        let is_idle = events.is_empty();
        for event in events.drain(..) {
            self.dispatch(event);
            if self.unflushed.bytes >= self.config.flush_bytes {
                self.flush(false);
            }
        }
        // What was there meanwhile has no memory: to drop it costs a call in every turn.
        std::mem::forget(std::mem::replace(&mut self.events, events));
        #[cfg(feature = "tokio")]
        self.look_at_bell_if_hosted();
        if !self.leap.puts_off(self.shared.now, self.timers.next_due(), is_idle) {
            self.look_at_deadlines();
        }
        if self.outbound.next_due() <= self.shared.now || !self.shared.requests.is_empty() {
            self.look_at_outbound();
        }
        if own.has_rung() || !self.own_rings.is_empty() {
            self.look_at_own_rings(&own);
        }
        self.look_at_memory();
        if std::mem::take(&mut self.has_room) {
            self.resume_accepting();
        }
        self.flush(true);
        self.rearm_starved();
        if own.has_rung() {
            own.take(&mut self.own_rings);
        }
        Ok(())
    }

    /// Whether nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        match self.life {
            Life::Running => false,
            Life::Draining(_) => self.is_empty(),
            Life::Stopping(until) => self.is_empty() || self.shared.now >= until,
        }
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn now(&self) -> Tick {
        self.shared.now
    }

    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn driver(&self) -> &D {
        &self.driver
    }

    fn is_empty(&self) -> bool {
        self.conns.is_empty()
            && self.outbound.len() == 0
            && self.parked.is_empty()
            && self.listeners.iter().all(Listener::is_closed)
            && self.datagrams.sockets.is_empty()
    }

    /// How long the next turn may wait: not at all where something is to be looked at again that no event will tell of.
    fn next_wait(&self, until: Tick) -> Wait {
        // What was just accepted may be closed again; not all that found no buffer were armed; calls ask for more.
        let is_asked = !(self.shared.requests.is_empty() && self.own_rings.is_empty());
        let is_behind = self.has_room || !self.starved.is_empty() || is_asked;
        if is_behind || self.leap.is_on() {
            return Wait::Poll;
        }
        let mut until = self.timers.next_due().unwrap_or(Tick::NEVER).min(self.accept_at).min(until);
        until = until.min(self.outbound.next_due());
        if let Life::Draining(at) | Life::Stopping(at) = self.life {
            until = until.min(at);
        }
        if until == Tick::NEVER { Wait::Forever } else { Wait::Until(until) }
    }

    fn refresh_clock(&mut self) {
        self.shared.now = self.driver.now();
        self.shared.requests.set_now(self.shared.now);
        if self.shared.wall.is_stale(self.shared.now) {
            self.shared.wall.set(self.shared.now, self.driver.since_epoch());
        }
    }

    fn dispatch(&mut self, event: Event) {
        let token = event.token;
        match (token.kind(), event.payload) {
            (Kind::Recv, Payload::Block(mut block)) => {
                self.on_received(token, event.more, &mut block);
                self.driver.submit(Op::Provide(block));
            }
            (Kind::Recv, _) => self.on_recv_end(token, event.result, event.more),
            (Kind::Send, Payload::Output(output)) => self.on_sent(token, event.result, output),
            (Kind::Splice, payload) => self.on_spliced(token, event.result, event.more, payload),
            (Kind::Accept, _) => self.on_accept(token.index() as usize, event.result, event.more),
            (Kind::Wake, _) => self.on_wake(),
            (Kind::Connect, _) => self.on_connected(token, event.result),
            (Kind::Datagrams, _) => self.on_datagrams(token, event.result),
            (Kind::Room, _) => self.on_room(token),
            (kind, payload) => unreachable!("a driver answered {kind:?} with {payload:?}"),
        }
    }

    fn look_at_deadlines(&mut self) {
        let now = self.shared.now;
        self.timers.advance(now, &mut self.reached);
        if !self.reached.is_empty() {
            let mut reached = std::mem::take(&mut self.reached);
            for index in reached.drain(..) {
                self.on_deadline(index);
            }
            self.reached = reached;
        }
        if self.accept_at <= now {
            self.resume_accepting();
        }
        if let Life::Draining(at) = self.life
            && at <= now
        {
            self.stop();
        }
    }

    fn watch_bell(&mut self) {
        let socket = self.shared.bell.counter().socket();
        self.driver.submit(Op::Watch { token: Token::new(Kind::Wake, 0, 0), socket });
    }

    fn on_wake(&mut self) {
        self.watch_bell();
        self.look_at_bell();
    }

    /// Whoever was rung for from elsewhere.
    fn look_at_bell(&mut self) {
        let mut rung = std::mem::take(&mut self.rung);
        self.shared.bell.take(&mut rung);
        self.look_at(rung.drain(..));
        self.rung = rung;
    }

    /// Whoever this worker has rung for itself, or the first of many. The others, and whom it rings for meanwhile, have to wait for the
    /// next turn, which then does not wait: nobody can keep the worker here, and what thousands write is sent before the next thousand
    /// writes, in the same memory.
    fn look_at_own_rings(&mut self, own: &Turn) {
        own.take(&mut self.own_rings);
        let mut rung = std::mem::take(&mut self.own_rings);
        let count = rung.len().min(OWN_RINGS_A_TURN);
        self.look_at(rung.drain(..count));
        self.own_rings = rung;
    }

    /// Flags go down before anybody looks at what they were raised for.
    fn look_at(&mut self, rung: impl Iterator<Item = Whom>) {
        for whom in rung {
            match whom {
                Whom::Conn(conn) => {
                    self.shared.wakers.lower(conn);
                    self.wake(conn);
                }
                Whom::Service(service) => self.ring_service(service),
                Whom::Datagrams(number) => self.ring_datagrams(number),
                Whom::Worker => self.follow_orders(),
            }
        }
    }

    fn follow_orders(&mut self) {
        let Orders { drain, stop } = self.shared.bell.take_orders();
        if let Some(timeout) = drain {
            self.drain(timeout);
        }
        if stop {
            self.stop();
        }
        self.follow_changes();
    }

    /// Accept no more, tell every session, and end when the last connection is gone or the time is over.
    fn drain(&mut self, timeout: Duration) {
        let until = self.shared.now.after(timeout);
        match &mut self.life {
            Life::Running => self.life = Life::Draining(until),
            Life::Draining(at) => {
                *at = until.min(*at);
                self.shared.drain_until = *at;
                return;
            }
            Life::Stopping(_) => return,
        }
        (self.shared.draining, self.shared.drain_until) = (true, until);
        self.close_listeners();
        self.drain_datagrams(until);
        for index in self.open_connections() {
            self.call_if_open(index, Call::Drain);
            self.settle(index);
        }
    }

    /// Close everything now.
    fn stop(&mut self) {
        if matches!(self.life, Life::Stopping(_)) {
            return;
        }
        self.life = Life::Stopping(self.shared.now.after(STOP_WAIT));
        self.shared.draining = true;
        self.close_listeners();
        self.close_datagrams();
        for index in self.open_connections() {
            self.abort(index, CloseReason::Stopped);
            self.settle(index);
        }
        self.stop_connecting();
    }

    /// Connections, attempts that will be connections, and flows: what `connections_max` limits.
    fn open_count(&self) -> usize {
        self.conns.len() + self.outbound.len() + self.datagrams.sockets.flows()
    }

    fn open_connections(&self) -> Vec<u32> {
        self.conns.iter().map(|(index, _)| index as u32).collect()
    }
}

impl<D: Driver> Drop for Worker<D> {
    /// Nothing is left open by a worker that ends normally. One that panicked, or whose driver broke, must not keep its
    /// listeners: the kernel would go on queueing connections that nobody accepts.
    fn drop(&mut self) {
        let listeners = self.listeners.iter().filter(|listener| !listener.is_closed()).map(Listener::socket);
        let datagrams = self.datagrams.sockets.iter().map(|(_, it)| it.socket);
        let parked = self.parked.iter().map(|accepted| accepted.socket);
        let open = self.conns.iter().map(|(_, conn)| conn.link.socket);
        let connecting = self.outbound.sockets();
        let sockets: Vec<Socket> =
            listeners.chain(datagrams).chain(parked).chain(open).chain(connecting).collect();
        if sockets.is_empty() {
            return;
        }
        for socket in sockets {
            self.driver.submit(Op::CancelAll { socket });
            self.driver.submit(Op::Close { socket, reset: false });
        }
        // Submits; whether it succeeds, nobody can be told any more.
        let _ = self.driver.turn(Wait::Poll, &mut Vec::new());
    }
}
