//! Workers with protocols on one simulated network, in one thread: who has the next turn is the caller's choice.
//!
//! Each worker has its own driver, clock and bell, as in a server; they share the network, and
//! whatever protocols share. After every turn the worker and its driver are compared: see
//! `worker/check.rs`.

use super::breaking::{Break, Breaking};
use super::miscalled::Miscalled;
use super::watch::{Watch, Watched};
use super::{Chaos, Net, Sim};
use crate::bell::Bell;
use crate::config::Config;
use crate::event::Socket;
use crate::gate::Gate;
use crate::seam::datagram::Datagram;
use crate::seam::layer::Layer;
use crate::session::service::Typed;
use crate::stats::{Counters, Stats};
use crate::time::Tick;
use crate::worker::Worker;
use std::sync::Arc;
use std::time::Duration;

/// Turns after which a simulation that still has something to do is taken for one that spins.
const TURNS_MAX: usize = 200_000;

const NEVER_FAILS: &str = "the simulated driver does not fail";

/// Workers with protocols on a simulated network.
pub struct Simulation {
    workers: Vec<Worker<Breaking>>,
    bells: Vec<Arc<Bell>>,
    net: Net,
    stats: Stats,
    watch: Watch,
    broken: Option<Break>,
}

impl Simulation {
    /// One worker that is not started yet; add protocols first.
    pub fn new(seed: u64, chaos: Chaos, config: Config) -> Simulation {
        Simulation::with_workers(1, seed, chaos, config)
    }

    /// Several workers that are not started yet.
    pub fn with_workers(workers: usize, seed: u64, chaos: Chaos, config: Config) -> Simulation {
        config.check().expect("a sound configuration");
        let (net, stats) = (Net::new(), Stats::new(workers));
        let bell = |_| Arc::new(Bell::new().expect("an event counter"));
        let bells: Vec<Arc<Bell>> = (0..workers).map(bell).collect();
        let make = |n: usize| {
            let seed = seed.wrapping_add((n as u64) << 56);
            let sim = Sim::on(&net, seed, chaos, config.recv_buffers, config.recv_buffer_bytes);
            let connections_max = config.connections_max.unwrap_or(usize::MAX);
            Worker::new(
                Breaking::new(sim),
                config.clone(),
                connections_max,
                bells[n].clone(),
                stats.worker(n),
            )
        };
        let workers = (0..workers).map(make).collect();
        Simulation { workers, bells, net, stats, watch: Watch::default(), broken: None }
    }

    /// Breaks all workers from now on. Call it before protocols are added.
    pub fn break_by(&mut self, how: Break) {
        self.broken = Some(how);
        for worker in &mut self.workers {
            worker.driver_mut().break_by(how);
        }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Listens with a protocol on the first worker; connect to what this returns.
    pub fn listen(&mut self, protocol: impl Layer) -> Socket {
        self.listen_on(0, protocol)
    }

    /// Listens with a protocol on one worker.
    pub fn listen_on(&mut self, worker: usize, protocol: impl Layer) -> Socket {
        let listener = self.net.listen();
        let protocol = self.under_watch(protocol);
        self.workers[worker].add_listener(listener, None, Box::new(Typed::new(protocol)));
        listener
    }

    /// The same behind a gate, to which all of these peers come from one address.
    pub fn listen_gated_on(&mut self, worker: usize, gate: &Gate, protocol: impl Layer) -> Socket {
        let listener = self.net.listen();
        let protocol = self.under_watch(protocol);
        self.workers[worker].add_listener(listener, Some(gate.clone()), Box::new(Typed::new(protocol)));
        listener
    }

    /// The same for a layer that wakes its sessions itself.
    pub fn listen_waking_on(&mut self, worker: usize, protocol: impl Layer) -> Socket {
        let listener = self.net.listen();
        let Miscalled { protocol, broken } = self.under_watch(protocol);
        let protocol = Miscalled { protocol: protocol.with_wakes_of_its_own(), broken };
        self.workers[worker].add_listener(listener, None, Box::new(Typed::new(protocol)));
        listener
    }

    /// Listens with a protocol on the first worker, and nobody watches it: for benches.
    pub fn listen_unwatched(&mut self, protocol: impl Layer) -> Socket {
        let listener = self.net.listen();
        self.workers[0].add_listener(listener, None, Box::new(Typed::new(protocol)));
        listener
    }

    /// Adds a protocol without a listener to the first worker.
    pub fn outbound(&mut self, protocol: impl Layer) {
        self.outbound_on(0, protocol);
    }

    /// The same on one worker.
    pub fn outbound_on(&mut self, worker: usize, protocol: impl Layer) {
        let protocol = self.under_watch(protocol);
        self.workers[worker].add_outbound(Box::new(Typed::new(protocol)));
    }

    fn under_watch<L: Layer>(&self, protocol: L) -> Miscalled<Watched<L>> {
        Miscalled { protocol: Watched::new(protocol, self.watch.clone()), broken: self.broken }
    }

    /// Serves datagrams with a protocol on the first worker.
    pub fn datagrams(&mut self, protocol: impl Datagram) -> Socket {
        self.datagrams_on(0, protocol)
    }

    /// Serves datagrams with a protocol on one worker.
    pub fn datagrams_on(&mut self, worker: usize, protocol: impl Datagram) -> Socket {
        let socket = self.net.datagram_socket();
        self.workers[worker].add_datagrams(socket, Box::new(protocol));
        socket
    }

    /// Starts the workers. Call it once, after all protocols were added.
    pub fn start(&mut self) {
        for worker in &mut self.workers {
            worker.start();
        }
    }

    /// The network, for peers.
    pub fn net(&self) -> Net {
        self.net.clone()
    }

    /// What protocols are watched by.
    pub fn watch(&self) -> Watch {
        self.watch.clone()
    }

    /// Changes the faults of all workers from now on.
    pub fn set_chaos(&mut self, chaos: Chaos) {
        for worker in &mut self.workers {
            worker.driver_mut().sim.set_chaos(chaos);
        }
    }

    /// One turn of the first worker.
    pub fn turn(&mut self) {
        self.turn_of(0, Tick::NEVER);
    }

    /// One turn of one worker that waits no longer than until `until` on that worker's clock; nothing, once it
    /// has ended. Panics when a rule is broken.
    pub fn turn_of(&mut self, worker: usize, until: Tick) {
        let worker = &mut self.workers[worker];
        if worker.is_done() {
            return;
        }
        worker.turn_until(until).expect(NEVER_FAILS);
        worker.check();
        if worker.is_done() {
            worker.driver_mut().sim.finish();
        }
        if let Some(violation) = self.watch.violation() {
            panic!("{violation}");
        }
    }

    /// One turn of the first worker in which no time passes, and after which nothing is checked: for benches. Never inlined,
    /// so that a profiler can tell the worker's part by this name.
    #[inline(never)]
    pub fn turn_unchecked(&mut self) {
        let worker = &mut self.workers[0];
        worker.turn_until(worker.now()).expect(NEVER_FAILS);
    }

    /// A worker's clock.
    pub fn now_of(&self, worker: usize) -> Tick {
        self.workers[worker].now()
    }

    /// Runs all workers for so much of their virtual time, or less, if they end.
    pub fn run_for(&mut self, time: Duration) {
        let until: Vec<Tick> = self.workers.iter().map(|worker| worker.now().after(time)).collect();
        for _ in 0..TURNS_MAX {
            let mut is_over = true;
            for (n, until) in until.iter().enumerate() {
                if self.workers[n].now() < *until && !self.workers[n].is_done() {
                    is_over = false;
                    self.turn_of(n, *until);
                }
            }
            if is_over {
                return;
            }
        }
        panic!("a worker spins: {TURNS_MAX} turns in less than {time:?} of virtual time");
    }

    /// Asks all workers to drain.
    pub fn drain(&self, deadline: Duration) {
        (0..self.workers.len()).for_each(|worker| self.drain_worker(worker, deadline));
    }

    /// Asks one worker to drain.
    pub fn drain_worker(&self, worker: usize, deadline: Duration) {
        self.bells[worker].order_drain(deadline);
    }

    /// Asks one worker to stop.
    pub fn stop_worker(&self, worker: usize) {
        self.bells[worker].order_stop();
    }

    /// Whether all workers have ended.
    pub fn is_done(&self) -> bool {
        self.workers.iter().all(Worker::is_done)
    }

    /// The counters, summed.
    pub fn counters(&self) -> Counters {
        self.stats.total()
    }

    /// Receive buffers that are neither free nor lent: none between turns.
    pub fn buffers_out(&self) -> usize {
        self.workers.iter().map(|worker| worker.driver().sim.buffers_out()).sum()
    }

    /// How often the clock of a worker leapt.
    pub fn leaps_of(&self, worker: usize) -> u64 {
        self.workers[worker].driver().sim.leaps()
    }

    /// A number that two runs share only if everything happened in the same order at the same times.
    pub fn trace(&self) -> u64 {
        let traces = self.workers.iter().map(|worker| worker.driver().sim.trace());
        traces.fold(0, |sum: u64, trace| sum.rotate_left(7) ^ trace)
    }

    /// Whether a worker has ended without having heard of everything: only when its clock leapt while it was stopping.
    pub fn has_given_up(&self, worker: usize) -> bool {
        self.workers[worker].is_done() && self.workers[worker].has_given_up()
    }

    /// Whether a worker has no connection; or has given up, and its driver closes them.
    pub fn is_empty(&self, worker: usize) -> bool {
        self.stats.workers()[worker].counters.connections == 0 || self.has_given_up(worker)
    }

    /// The workers and their connections as they are, for the message of a failure.
    pub fn describe(&self) -> String {
        let workers = self.workers.iter().map(Worker::describe).collect::<Vec<String>>().join("\n");
        format!("{workers}\nopen sockets: {:?}", self.net.names_of_open_sockets())
    }

    /// Panics if anything of the workers, which have ended, is left.
    pub fn check_ended(&self) {
        for worker in &self.workers {
            assert!(worker.is_done(), "a worker has not ended");
            worker.driver().sim.check();
        }
        if (0..self.workers.len()).any(|worker| self.has_given_up(worker)) {
            return;
        }
        self.workers.iter().for_each(Worker::check_ended);
        assert_eq!(self.watch.open_sessions(), 0, "sessions are left");
        let left = self.net.names_of_open_sockets();
        assert!(left.is_empty(), "sockets are left: {left:?}");
    }
}

impl Drop for Simulation {
    /// The workers of a simulation that is thrown away in the middle close nothing.
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.driver_mut().sim.abandon();
        }
    }
}
