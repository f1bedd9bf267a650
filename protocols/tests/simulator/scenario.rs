//! One seed: workers, clients and faults at random; then the faults stop, and nothing may be left.

use crate::client::{Client, Excuse};
use crate::layers::{SPEECHES, Speech};
use crate::script::{self, SERVICES, Script};
use ringmill_engine::Config;
use ringmill_engine::driver::sim::{Break, Chaos, Fault, Rng, Simulation, fire};
use ringmill_engine::event::Socket;
use ringmill_protocols::UdpEcho;
use ringmill_protocols::http::Limits;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Virtual time after which everybody must have been served, or given up on, once the faults have stopped.
const SETTLE_MAX: Duration = Duration::from_secs(90);
/// Virtual time in which a drain ends once no connection is left.
const DRAIN_MAX: Duration = Duration::from_secs(5);

struct Scenario {
    rng: Rng,
    simulation: Simulation,
    listeners: Vec<[Socket; SERVICES.len()]>,
    clients: Vec<Client>,
    is_impatient: bool,
    /// Which workers were told to end.
    ended: Vec<bool>,
    datagrams: Option<Datagrams>,
}

struct Datagrams {
    socket: Socket,
    /// Sent and not answered: to which address, from where, and what.
    open: Vec<(Option<IpAddr>, SocketAddr, Vec<u8>)>,
    may_be_lost: bool,
}

/// Runs one seed; panics when a rule is broken. Returns a number that only an equal run has.
pub fn run(seed: u64) -> u64 {
    run_broken(seed, None)
}

/// Runs one seed, perhaps with broken workers: then it should panic.
pub fn run_broken(seed: u64, broken: Option<Break>) -> u64 {
    run_as(seed, broken, None)
}

/// Runs one seed with everybody over TLS. What workers and clients do of their own is the seed's. But keys and signatures are new each
/// time, signatures differ in length, and what a handshake costs is measured: so a seed need not do the same again.
pub fn run_secured(seed: u64) {
    run_as(seed, None, Some(Speech::Secured));
}

fn run_as(seed: u64, broken: Option<Break>, speech: Option<Speech>) -> u64 {
    let mut rng = Rng::new(seed);
    let chaos = Chaos::random(&mut rng);
    let mut scenario = Scenario::new(seed, rng, chaos, broken, speech);
    scenario.disturb(&chaos);
    scenario.settle();
    scenario.check_clients();
    scenario.end()
}

impl Scenario {
    fn new(seed: u64, mut rng: Rng, chaos: Chaos, broken: Option<Break>, speech: Option<Speech>) -> Scenario {
        let workers = 1 + rng.below(3);
        let high = [400, 2000, 20_000][rng.below(3)];
        let (recv_buffers, recv_buffer_bytes) = ([8, 8, 16][rng.below(3)], [512, 2048][rng.below(2)]);
        let is_small = chaos.hits(Fault::SmallBudget, &mut rng);
        let small_budget = 2 * usize::from(recv_buffers) * recv_buffer_bytes + rng.below(8 * 1024);
        let config = Config {
            connections_max: [None, None, Some(2)][rng.below(3)],
            recv_buffers,
            recv_buffer_bytes,
            memory_bytes_max: if is_small { small_budget } else { Config::default().memory_bytes_max },
            turn_bytes_max: [512, 4096][rng.below(2)],
            // No protocol here leaves so much unconsumed, however its input comes; but a client's first message over TLS may have to
            // wait for its turn.
            input_bytes_max: [1024, 64 * 1024][rng.below(2)].max(if speech.is_some() {
                16 * 1024
            } else {
                0
            }),
            output_high_water_bytes: high,
            output_low_water_bytes: high / 4,
            output_bytes_max: 512 * 1024,
            flush_bytes: [1, 1000, 100_000][rng.below(3)],
            write_timeout: Duration::from_secs(5),
            linger_timeout: Duration::from_secs(1),
            accept_retry: Duration::from_millis(50),
            ..Config::default()
        };
        let mut simulation = Simulation::with_workers(workers, seed, chaos, config);
        if let Some(how) = broken {
            simulation.break_by(how);
        }
        let is_impatient = rng.one_in(5);
        let (limits, idle) = if is_impatient { hurried() } else { (script::patient(), None) };
        let drawn = if rng.one_in(2) { Speech::Plain } else { SPEECHES[rng.below(SPEECHES.len())] };
        let speech = speech.unwrap_or(drawn);
        let listeners =
            (0..workers).map(|n| script::listen(&mut simulation, n, limits.clone(), idle, speech)).collect();
        let datagrams = rng.one_in(6).then(|| Datagrams {
            socket: simulation.datagrams_on(0, UdpEcho::default()),
            open: Vec::new(),
            may_be_lost: chaos.is_on(Fault::DatagramFault),
        });
        simulation.start();
        let clients =
            (0..1 + rng.below(7)).map(|_| Client::random(&mut rng, &chaos, workers, speech)).collect();
        let ended = vec![false; workers];
        Scenario { rng, simulation, listeners, clients, is_impatient, ended, datagrams }
    }

    /// Everybody does what he likes, and so does the kernel.
    fn disturb(&mut self, chaos: &Chaos) {
        let steps = 100 + self.rng.below(600);
        let drain_at = chaos.hits(Fault::Drained, &mut self.rng).then(|| self.rng.below(steps));
        let stop_at = chaos.hits(Fault::Stopped, &mut self.rng).then(|| self.rng.below(steps));
        let mut old_wakers = Vec::new();
        let watch = self.simulation.watch();
        for step in 0..steps {
            if drain_at == Some(step) {
                let (worker, deadline) = (self.rng.below(self.ended.len()), self.rng.up_to(300));
                self.ended[worker] = true;
                self.simulation.drain_worker(worker, Duration::from_millis(deadline));
                fire(Fault::Drained);
            }
            if stop_at == Some(step) {
                let worker = self.rng.below(self.ended.len());
                self.ended[worker] = true;
                self.simulation.stop_worker(worker);
                fire(Fault::Stopped);
            }
            match self.rng.below(16) {
                0..=6 => {
                    let worker = self.rng.below(self.ended.len());
                    let until = self.simulation.now_of(worker).0 + self.rng.up_to(5_000_000);
                    self.simulation.turn_of(worker, ringmill_engine::Tick(until));
                }
                7 if watch.left() > 0 => {
                    let waker = watch.take(self.rng.below(watch.left()));
                    watch.wake(&waker);
                    old_wakers.push(waker);
                }
                // A waker may be used twice, and after its connection is gone.
                8 if !old_wakers.is_empty() => watch.wake(&old_wakers.swap_remove(0)),
                9 => self.exchange_datagrams(),
                _ => {
                    let n = self.rng.below(self.clients.len());
                    let client = &mut self.clients[n];
                    let listener = self.listeners[client.worker][client.script.service as usize];
                    let leaps = self.simulation.leaps_of(client.worker);
                    client.act(&mut self.rng, &self.simulation.net(), listener, leaps);
                }
            }
        }
    }

    /// The faults stop, and the clients finish: all connections come to an end by themselves.
    fn settle(&mut self) {
        self.simulation.set_chaos(Chaos::CALM);
        let mut left = SETTLE_MAX;
        let mut step = Duration::from_millis(5);
        loop {
            for client in &mut self.clients {
                let listener = self.listeners[client.worker][client.script.service as usize];
                let leaps = self.simulation.leaps_of(client.worker);
                client.finish(&self.simulation.net(), listener, leaps);
            }
            self.take_datagrams();
            script::wake_all(&self.simulation.watch());
            if self.is_over() {
                return;
            }
            if left.is_zero() {
                panic!(
                    "the faults have stopped, and connections or datagrams are left\n{}",
                    self.simulation.describe()
                );
            }
            self.simulation.run_for(step);
            left = left.saturating_sub(step);
            step = (step * 5 / 4).min(Duration::from_secs(1));
        }
    }

    fn check_clients(&mut self) {
        let scripts: Vec<&Script> = self.clients.iter().map(|client| &client.script).collect();
        let expected = script::oracle(&scripts);
        let counters = self.simulation.counters();
        // A budget that is used up within a turn, as by TLS connections that begin, is seen by who is refused alone.
        let is_short = counters.memory_shortages > 0 || counters.memory_refused > 0;
        if is_short {
            fire(Fault::SmallBudget);
        }
        for (client, expected) in self.clients.iter_mut().zip(&expected) {
            let excuse = Excuse {
                leaps: self.simulation.leaps_of(client.worker),
                is_ended: self.ended[client.worker],
                is_impatient: self.is_impatient,
                is_short,
            };
            client.check(expected, &excuse);
        }
    }

    /// Drains; then nothing is left anywhere.
    fn end(mut self) -> u64 {
        self.simulation.drain(Duration::ZERO);
        self.simulation.run_for(DRAIN_MAX);
        self.simulation.check_ended();
        let counters = self.simulation.counters();
        let has_given_up = (0..self.ended.len()).any(|worker| self.simulation.has_given_up(worker));
        let is_even = counters.accepted == counters.closed;
        assert!(is_even || has_given_up, "connections that were accepted and not closed");
        let mut hash = self.simulation.trace();
        for byte in self.clients.iter().flat_map(Client::received) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        hash
    }

    fn is_over(&self) -> bool {
        let is_served = |client: &Client| client.is_over() || self.simulation.has_given_up(client.worker);
        self.clients.iter().all(is_served)
            && self.are_datagrams_over()
            && (0..self.ended.len()).all(|worker| self.simulation.is_empty(worker))
    }

    /// Every datagram was answered, unless some may be lost.
    fn are_datagrams_over(&self) -> bool {
        let is_over = |of: &Datagrams| of.open.is_empty() || of.may_be_lost || self.ended[0];
        self.datagrams.as_ref().is_none_or(is_over)
    }

    fn exchange_datagrams(&mut self) {
        let Some(datagrams) = &mut self.datagrams else { return };
        let from = SocketAddr::from(([127, 0, 0, 9], 1000 + self.rng.below(3) as u16));
        let bytes = vec![self.rng.next() as u8; self.rng.below(200)];
        let asked = IpAddr::from([127, 0, 0, 1 + bytes.len() as u8 % 2]);
        self.simulation.net().send_datagram_to(datagrams.socket, asked, from, &bytes);
        datagrams.open.push((Some(asked), from, bytes));
        self.take_datagrams();
    }

    fn take_datagrams(&mut self) {
        let Some(datagrams) = &mut self.datagrams else { return };
        while let Some(answer) = self.simulation.net().take_datagram_from(datagrams.socket) {
            let place = datagrams.open.iter().position(|sent| *sent == answer);
            let place = place.expect("a datagram came that nobody had asked for");
            datagrams.open.swap_remove(place);
        }
    }
}

/// Deadlines that clients run into.
fn hurried() -> (Limits, Option<Duration>) {
    let short = Duration::from_millis(60);
    let limits = Limits {
        head_timeout: short,
        body_idle_timeout: short,
        source_timeout: short,
        handler_timeout: short,
        keep_alive_timeout: short,
        ..Limits::default()
    };
    (limits, Some(short))
}
