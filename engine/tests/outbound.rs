//! Outbound connections on the simulated driver: a relay under every kind of delay and cut, and the ends that take
//! long on real sockets.

use ringmill_engine::driver::sim::{Answer, Chaos, Peer, Simulation};
use ringmill_engine::{
    Address, CloseReason, Config, ConnId, Datagram, DatagramIo, Dialer, Errno, Io, Next, Protocol, Refusal,
    Step, Tick,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

const ETIMEDOUT: Errno = Errno(110);
const ECONNREFUSED: Errno = Errno(111);

fn address(port: u16) -> Address {
    Address::Ip(SocketAddr::from(([127, 0, 0, 9], port)))
}

type Log = Rc<RefCell<Vec<String>>>;

/// Calls every address once, says hello, and writes down what happens.
struct Caller {
    addresses: Vec<Address>,
    log: Log,
}

impl Caller {
    fn note(&self, line: String) {
        self.log.borrow_mut().push(line);
    }
}

impl Protocol for Caller {
    type Session = u64;

    fn start(&mut self, dialer: Dialer) {
        for (tag, address) in self.addresses.iter().enumerate() {
            dialer.connect(address, tag as u64);
        }
    }

    fn open(&mut self, _: &mut Io<'_>) -> u64 {
        unreachable!("nothing listens")
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> u64 {
        self.note(format!("{tag} connected"));
        io.write(b"hello");
        tag
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) {
        self.note(format!("{tag} {refusal:?}"));
    }

    fn data(&mut self, _: &mut u64, input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }

    fn closed(&mut self, tag: u64, reason: CloseReason) {
        self.note(format!("{tag} {reason:?}"));
    }
}

/// A simulation with a caller, ready to run; and what the caller writes down.
fn call(seed: u64, config: Config, ports: &[u16]) -> (Simulation, Log) {
    let log = Log::default();
    let mut simulation = Simulation::new(seed, Chaos::WILD, config);
    simulation
        .outbound(Caller { addresses: ports.iter().map(|port| address(*port)).collect(), log: log.clone() });
    (simulation, log)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn success_refusal_and_silence_each_end_as_they_should() {
    for seed in 0..50 {
        let (mut simulation, log) = call(seed, Config::default(), &[1, 2, 3, 4]);
        let net = simulation.net();
        net.set_remote(address(1), Answer::Accept);
        net.set_remote(address(2), Answer::Fail(ECONNREFUSED));
        net.set_remote(address(3), Answer::Silence);
        net.set_remote(address(4), Answer::Silence);
        simulation.start();
        simulation.run_for(seconds(5));
        let peer = net.take_connection(&address(1)).expect("it was connected");
        assert_eq!(peer.take(), b"hello", "seed {seed}");
        assert!(!peer.is_closed());
        net.set_remote(address(4), Answer::Accept);
        simulation.run_for(seconds(4));
        assert!(!log.borrow().iter().any(|line| line.starts_with('2')), "seed {seed}: too early");
        simulation.run_for(seconds(2));
        peer.reset();
        simulation.run_for(seconds(1));
        let mut lines = log.borrow().clone();
        lines.sort();
        let expected = [
            "0 Failed(Connection reset by peer (os error 104))",
            "0 connected",
            "1 Failed(Connection refused (os error 111))",
            "2 TimedOut",
            "3 connected",
        ];
        assert_eq!(lines.len(), expected.len(), "seed {seed}: {lines:?}");
        // The reset may be seen by the send as well.
        assert!(lines[0].starts_with("0 Failed"), "seed {seed}: {lines:?}");
        assert_eq!(lines[1..], expected[1..], "seed {seed}");
        let counters = simulation.counters();
        assert_eq!((counters.connected, counters.refused, counters.accepted), (2, 2, 0));
        simulation.drain(seconds(1));
        simulation.run_for(seconds(5));
        assert!(simulation.is_done(), "seed {seed}");
        assert_eq!(net.open_sockets(), 0, "seed {seed}");
        assert_eq!(simulation.buffers_out(), 0);
    }
}

#[test]
fn attempts_count_as_connections_and_a_drain_ends_them() {
    for seed in 0..50 {
        let (mut simulation, log) = call(seed, Config::default().with_connections_max(2), &[1, 1, 2]);
        simulation.net().set_remote(address(1), Answer::Silence);
        simulation.start();
        simulation.run_for(seconds(1));
        assert_eq!(*log.borrow(), ["2 Limit"], "seed {seed}");
        simulation.drain(seconds(2));
        simulation.run_for(seconds(1));
        assert!(!simulation.is_done(), "attempts may still succeed");
        simulation.run_for(seconds(3));
        let mut lines = log.borrow().clone();
        lines.sort();
        assert_eq!(lines, ["0 Stopped", "1 Stopped", "2 Limit"], "seed {seed}");
        assert!(simulation.is_done(), "seed {seed}");
        assert_eq!(simulation.net().open_sockets(), 0, "seed {seed}");
    }
}

#[test]
fn a_failure_of_the_kernel_reaches_the_protocol() {
    let (mut simulation, log) = call(1, Config::default(), &[1]);
    simulation.net().set_remote(address(1), Answer::Fail(ETIMEDOUT));
    simulation.start();
    simulation.run_for(seconds(1));
    assert_eq!(*log.borrow(), ["0 Failed(Connection timed out (os error 110))"]);
}

/// Bytes of a client go to an upstream of its own and back. One side's output waits in the value of the other.
struct Relay {
    dialer: Option<Dialer>,
    others: HashMap<ConnId, Option<ConnId>>,
    output: HashMap<ConnId, Vec<u8>>,
    over: Vec<ConnId>,
    clients: Vec<ConnId>,
}

impl Relay {
    fn rouse(&self, conn: ConnId) {
        self.dialer.as_ref().expect("it was started").wake(conn);
    }
}

impl Protocol for Relay {
    type Session = ConnId;

    fn start(&mut self, dialer: Dialer) {
        self.dialer = Some(dialer);
    }

    fn open(&mut self, io: &mut Io<'_>) -> ConnId {
        io.connect(&address(1), self.clients.len() as u64);
        self.clients.push(io.id());
        self.others.insert(io.id(), None);
        io.id()
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> ConnId {
        let client = self.clients[tag as usize];
        self.others.insert(io.id(), Some(client));
        self.others.insert(client, Some(io.id()));
        self.rouse(client);
        io.id()
    }

    fn data(&mut self, conn: &mut ConnId, input: &mut [u8], _: &mut Io<'_>) -> Step {
        let Some(other) = self.others[conn] else { return Step::pause(0) };
        self.output.entry(other).or_default().extend_from_slice(input);
        self.rouse(other);
        Step::consumed(input.len())
    }

    fn eof(&mut self, conn: &mut ConnId, _: &mut [u8], _: &mut Io<'_>) -> Next {
        if let Some(other) = self.others[conn] {
            self.over.push(other);
            self.rouse(other);
        }
        // An upstream may still answer.
        if self.clients.contains(conn) { Next::Continue } else { Next::Close }
    }

    fn wake(&mut self, conn: &mut ConnId, io: &mut Io<'_>) -> Next {
        io.write(&self.output.remove(conn).unwrap_or_default());
        if self.over.contains(conn) && self.clients.contains(conn) { Next::Close } else { Next::Continue }
    }
}

#[test]
fn a_relay_keeps_every_byte_in_order() {
    for seed in 0..100 {
        let mut simulation = Simulation::new(seed, Chaos::WILD, Config::default());
        let listener = simulation.listen(Relay {
            dialer: None,
            others: HashMap::new(),
            output: HashMap::new(),
            over: Vec::new(),
            clients: Vec::new(),
        });
        let net = simulation.net();
        net.set_remote(address(1), Answer::Silence);
        simulation.start();
        let clients: Vec<Peer> = (0..3).map(|_| net.connect(listener).expect("it listens")).collect();
        let question = |n: usize| -> Vec<u8> { (0..9_000).map(|byte| (byte * 7 + n) as u8).collect() };
        for (n, client) in clients.iter().enumerate() {
            client.send(&question(n));
        }
        simulation.run_for(seconds(1));
        // Late, with the clients' bytes waiting.
        net.set_remote(address(1), Answer::Accept);
        simulation.run_for(seconds(1));
        let upstreams: Vec<Peer> = std::iter::from_fn(|| net.take_connection(&address(1))).collect();
        assert_eq!(upstreams.len(), 3, "seed {seed}");
        let mut seen = Vec::new();
        for upstream in &upstreams {
            let asked = upstream.take();
            upstream.send(&asked.iter().rev().copied().collect::<Vec<u8>>());
            upstream.shutdown();
            seen.push(asked);
        }
        seen.sort();
        let mut expected: Vec<Vec<u8>> = (0..3).map(question).collect();
        expected.sort();
        assert!(seen == expected, "seed {seed}");
        simulation.run_for(seconds(1));
        for (n, client) in clients.iter().enumerate() {
            let answer: Vec<u8> = question(n).into_iter().rev().collect();
            assert!(client.take() == answer, "seed {seed}, client {n}");
            client.shutdown();
        }
        simulation.run_for(seconds(5));
        assert_eq!(simulation.counters().connections, 0, "seed {seed}");
    }
}

/// Sends a datagram at the start, and then one each second.
struct Beacon {
    times: Rc<RefCell<Vec<Tick>>>,
}

const LISTENER: ([u8; 4], u16) = ([127, 0, 0, 8], 9);

impl Beacon {
    fn send(&self, io: &mut DatagramIo<'_>) {
        self.times.borrow_mut().push(io.now());
        assert!(io.send_to(SocketAddr::from(LISTENER), b"here"));
        io.set_timer(Some(io.now().after(seconds(1))));
    }
}

impl Datagram for Beacon {
    fn datagram(&mut self, _: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        if input == b"stop" {
            io.set_timer(None);
        }
    }

    fn start(&mut self, io: &mut DatagramIo<'_>) {
        self.send(io);
    }

    fn tick(&mut self, io: &mut DatagramIo<'_>) {
        self.send(io);
    }
}

#[test]
fn a_datagram_client_sends_first_and_on_time() {
    for seed in 0..20 {
        let times = Rc::new(RefCell::new(Vec::new()));
        let mut simulation = Simulation::new(seed, Chaos::WILD, Config::default());
        let socket = simulation.datagrams(Beacon { times: times.clone() });
        let net = simulation.net();
        simulation.start();
        simulation.run_for(Duration::from_millis(9_500));
        let sent = std::iter::from_fn(|| net.take_datagram(socket)).collect::<Vec<_>>();
        assert_eq!(sent.len(), 10, "seed {seed}");
        assert!(sent.iter().all(|(to, bytes)| *to == SocketAddr::from(LISTENER) && bytes == b"here"));
        for pair in times.borrow().windows(2) {
            // Exact: a turn comes when the timer is due, and not later than the next event may.
            let gap = pair[1].since(pair[0]);
            assert!(gap >= seconds(1) && gap < Duration::from_millis(1_010), "seed {seed}: {gap:?}");
        }
        net.send_datagram(socket, SocketAddr::from(LISTENER), b"stop");
        simulation.run_for(seconds(5));
        assert!(net.take_datagram(socket).is_none(), "seed {seed}: it was stopped");
        simulation.drain(seconds(1));
        simulation.run_for(seconds(3));
        assert!(simulation.is_done(), "seed {seed}");
    }
}

/// Attempts with times of their own: each ends at its own, whichever was begun first, or when it is cancelled.
struct Hasty(Log, Option<Dialer>);

impl Protocol for Hasty {
    type Session = ();

    fn start(&mut self, dialer: Dialer) {
        dialer.connect(&address(1), 0);
        for (tag, seconds) in [(1, 7), (2, 2), (3, 4), (4, 20)] {
            dialer.connect_within(Duration::from_secs(seconds), &address(1), tag);
        }
        // Two with one tag, one that is there, and one of which nobody knows.
        (0..2).for_each(|_| dialer.connect(&address(1), 5));
        dialer.connect(&address(2), 6);
        // Two of three, at once.
        (0..3).for_each(|_| dialer.connect_within(Duration::from_secs(30), &address(1), 8));
        (0..2).for_each(|_| dialer.cancel(8));
        dialer.set_timer(Some(Tick(0).after(Duration::from_millis(500))));
        self.1 = Some(dialer);
    }

    fn tick(&mut self, _: Tick) {
        let dialer = self.1.as_ref().expect("it has started");
        [5, 5, 5, 6, 7].into_iter().for_each(|tag| dialer.cancel(tag));
    }

    fn open(&mut self, io: &mut Io<'_>) {
        // Only the one that was cancelled too late.
        self.0.borrow_mut().push("connected".to_owned());
        io.notify_drained();
    }

    fn drained(&mut self, (): &mut (), _: &mut Io<'_>) -> Next {
        Next::Close
    }

    fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) {
        self.0.borrow_mut().push(format!("{tag} {refusal:?}"));
        let due = match tag {
            1..=4 => [7, 2, 4, 20][tag as usize - 1],
            8 if refusal == Refusal::TimedOut => 30,
            _ => 0,
        };
        let now = self.1.as_ref().expect("it has started").now();
        // A wild machine leaps.
        assert!(now >= Tick(0).after(seconds(due)), "{tag}: {refusal:?} at {now:?}");
    }
}

#[test]
fn an_attempt_may_have_a_time_of_its_own() {
    for seed in 0..20 {
        let log = Log::default();
        let mut simulation = Simulation::new(seed, Chaos::WILD, Config::default());
        simulation.net().set_remote(address(1), Answer::Silence);
        simulation.net().set_remote(address(2), Answer::Accept);
        simulation.outbound(Hasty(log.clone(), None));
        simulation.start();
        let all = [
            "5 Cancelled",
            "5 Cancelled",
            "8 Cancelled",
            "8 Cancelled",
            "connected",
            "2 TimedOut",
            "3 TimedOut",
            "1 TimedOut",
            "0 TimedOut",
            "4 TimedOut",
            "8 TimedOut",
        ];
        for (time, count) in [(1, 5), (2, 6), (2, 7), (3, 8), (3, 9), (8, 9), (2, 10), (8, 10), (2, 11)] {
            simulation.run_for(seconds(time));
            // In whichever order the first ones came.
            let mut told = log.borrow().clone();
            told[..5].sort();
            assert_eq!(told, all[..count], "seed {seed}");
        }
        simulation.drain(seconds(1));
        simulation.run_for(seconds(2));
        assert!(simulation.is_done());
        assert_eq!(simulation.net().open_sockets(), 0);
    }
}
