//! The PROXY layer on a worker: who is let in, what the session above learns, and how a connection without a header ends.

use crate::layers::PREFIX;
use crate::script::patient;
use crate::site::Site;
use ringmill_engine::driver::sim::{Chaos, Simulation, Watch};
use ringmill_engine::{Config, Counters, Gate, GateRules, Io, Layer, Next, Protocol, Step};
use ringmill_protocols::Echo;
use ringmill_protocols::http::Server;
use ringmill_protocols::layer::proxy::{Network, Prefixed};
use std::time::Duration;

/// Greets by address before anything is said, then echoes; says when the engine drains.
struct Greeter;

impl Protocol for Greeter {
    type Session = ();

    fn open(&mut self, io: &mut Io<'_>) {
        let name = |address: Option<ringmill_engine::Address>| {
            address.map_or("gone".to_owned(), |it| it.to_string())
        };
        let ports = |text: String| text.split_once(':').map_or(text.clone(), |(ip, _)| ip.to_owned());
        let (peer, local) = (ports(name(io.peer())), ports(name(io.local())));
        let authority = io.facts().and_then(|facts| facts.proxied.as_ref()?.authority.clone());
        io.write(format!("{peer} to {local} {}|", authority.as_deref().unwrap_or("-")).as_bytes());
    }

    fn data(&mut self, _: &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        io.write(input);
        Step::consumed(input.len())
    }

    fn eof(&mut self, _: &mut (), _: &mut [u8], io: &mut Io<'_>) -> Next {
        io.write(b"|end");
        Next::Close
    }

    fn drain(&mut self, _: &mut (), io: &mut Io<'_>) -> Next {
        io.write(b"drain|");
        io.set_timeout(Duration::from_millis(20));
        Next::Continue
    }
}

/// One connection to a listener behind proxies in these networks: its peer is 127.0.0.2.
struct Case {
    proxies: &'static str,
    serves_others: bool,
}

const PROXY: Case = Case { proxies: "127.0.0.0/8", serves_others: false };
const STRANGER: Case = Case { proxies: "10.0.0.0/8", serves_others: false };
const DIRECT: Case = Case { proxies: "10.0.0.0/8", serves_others: true };

const TURN: Duration = Duration::from_micros(500);

impl Case {
    fn layer<L: Layer>(&self, inner: L) -> Prefixed<L> {
        let proxies: Vec<Network> = vec![self.proxies.parse().expect("a network")];
        Prefixed::new(inner, proxies).with_others(self.serves_others)
    }

    /// Sends each piece in a turn of its own, and waits for the server's end. Returns what was heard, and how long the end took.
    fn hold<L: Layer>(&self, inner: L, pieces: &[&[u8]], then: Then) -> (String, Duration, Counters) {
        let mut simulation = Simulation::new(1, Chaos::CALM, Config { recv_buffers: 8, ..Config::default() });
        let listener = simulation.listen(self.layer(inner));
        simulation.start();
        let peer = simulation.net().connect(listener).expect("it listens");
        peer.set_window(1 << 20);
        simulation.run_for(TURN);
        if then == Then::DrainFirst {
            simulation.drain(Duration::from_secs(60));
            simulation.run_for(TURN);
        }
        for piece in pieces {
            peer.send(piece);
            simulation.run_for(TURN);
        }
        if then == Then::End {
            peer.shutdown();
        }
        let mut took = Duration::ZERO;
        let mut heard = peer.take();
        while !peer.is_at_end() && took < Duration::from_secs(100) {
            simulation.run_for(TURN);
            heard.extend(peer.take());
            took += TURN;
        }
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(peer.is_at_end() && !peer.was_reset(), "it does not end, or with a reset: {heard}");
        peer.shutdown();
        simulation.drain(Duration::ZERO);
        simulation.run_for(Duration::from_secs(3));
        simulation.check_ended();
        (heard, took, simulation.counters())
    }

    /// Speaks to the greeter; of the counters only those that are not zero.
    #[track_caller]
    fn check(&self, pieces: &[&[u8]], then: Then, expected: &str, counted: &str) -> Duration {
        let (heard, took, counters) = self.hold(Greeter, pieces, then);
        let ours = counters.iter().filter(|(name, count)| name.starts_with("proxy_") && *count > 0);
        let ours: Vec<String> = ours.map(|(name, count)| format!("{name} {count}")).collect();
        assert_eq!((heard.as_str(), ours.join(", ").as_str()), (expected, counted), "{pieces:?}");
        took
    }
}

/// What comes behind the last piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The client's end.
    End,
    /// Nothing.
    Silence,
    /// Nothing; and the engine began to drain before the first piece.
    DrainFirst,
}

const LINE: &[u8] = b"PROXY TCP4 198.51.100.7 203.0.113.9 40000 443\r\n";

#[test]
fn the_session_above_knows_the_client_from_its_first_call() {
    let told = "198.51.100.7 to 203.0.113.9 -|";
    PROXY.check(&[LINE], Then::End, &format!("{told}|end"), "proxy_headers 1");
    PROXY.check(&[LINE, b"abc"], Then::End, &format!("{told}abc|end"), "proxy_headers 1");
    PROXY.check(&[&[LINE, b"abc"].concat()], Then::End, &format!("{told}abc|end"), "proxy_headers 1");
    // One header is one header: the second is the session's.
    let twice = format!("{told}{}|end", String::from_utf8_lossy(LINE));
    PROXY.check(&[&LINE.repeat(2)], Then::End, &twice, "proxy_headers 1");
    let binary =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x12\x01\x02\x03\x04\x05\x06\x07\x08\0\x01\0\x02\x02\0\x03a.b";
    PROXY.check(&[binary, b"x"], Then::End, "1.2.3.4 to 5.6.7.8 a.b|x|end", "proxy_headers 1");
    // These leave the addresses as the kernel has them.
    for header in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"] {
        PROXY.check(&[header, b"x"], Then::End, "127.0.0.2 to 127.0.0.1 -|x|end", "proxy_headers 1");
    }
}

#[test]
fn nothing_is_said_before_the_header() {
    let missing = "proxy_missing 1";
    let malformed = "proxy_malformed 1";
    assert!(
        PROXY.check(&[b"GET / HTTP/1.1\r\n\r\n"], Then::Silence, "", missing) < Duration::from_millis(10)
    );
    PROXY.check(&[b"PROXY", b"!"], Then::Silence, "", missing);
    PROXY.check(&[b"PROXY TCP4 \r\n"], Then::Silence, "", malformed);
    PROXY.check(&[b"PROXY ", &[b'x'; 200]], Then::Silence, "", malformed);
    PROXY.check(&[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"], Then::Silence, "", malformed);
    for cut in 1..LINE.len() {
        PROXY.check(&[&LINE[..cut]], Then::End, "", malformed);
    }
    // Somebody who only looks whether the port is open.
    PROXY.check(&[], Then::End, "", "");
}

#[test]
fn a_header_has_its_time() {
    for pieces in [&[][..], &[&LINE[..40]]] {
        let took = PROXY.check(pieces, Then::Silence, "", "proxy_late 1");
        assert!((4900..5100).contains(&took.as_millis()), "{took:?}");
    }
    // Its time ends with it: the session above has none.
    let mut simulation = Simulation::new(1, Chaos::CALM, Config { recv_buffers: 8, ..Config::default() });
    let listener = simulation.listen(PROXY.layer(Echo::default()));
    simulation.start();
    let peer = simulation.net().connect(listener).expect("it listens");
    peer.set_window(100);
    peer.send(LINE);
    simulation.run_for(Duration::from_secs(1000));
    peer.send(b"still here");
    simulation.run_for(TURN);
    assert_eq!(peer.take(), b"still here");
}

#[test]
fn who_is_not_listed_is_refused_or_served_as_he_is() {
    // At once, whether it speaks or not.
    for pieces in [&[][..], &[LINE]] {
        let took = STRANGER.check(pieces, Then::Silence, "", "proxy_unlisted 1");
        assert!(took < Duration::from_millis(10), "{took:?}");
    }
    STRANGER.check(&[], Then::DrainFirst, "", "proxy_unlisted 1");
    let itself = "127.0.0.2 to 127.0.0.1 -|";
    DIRECT.check(&[b"abc"], Then::End, &format!("{itself}abc|end"), "");
    DIRECT.check(&[], Then::End, &format!("{itself}|end"), "");
    // What it says of others is no header.
    DIRECT.check(&[LINE], Then::End, &format!("{itself}{}|end", String::from_utf8_lossy(LINE)), "");
}

#[test]
fn a_drain_waits_for_a_header_that_is_on_its_way() {
    let took = PROXY.check(&[], Then::DrainFirst, "", "");
    assert!((80..150).contains(&took.as_millis()), "{took:?}");
    let mut simulation = Simulation::new(1, Chaos::CALM, Config { recv_buffers: 8, ..Config::default() });
    let server = Server::new(Site::new(Watch::default())).with_limits(patient());
    let listener = simulation.listen(PROXY.layer(server));
    simulation.start();
    let peer = simulation.net().connect(listener).expect("it listens");
    peer.set_window(1 << 20);
    simulation.run_for(TURN);
    simulation.drain(Duration::from_secs(60));
    simulation.run_for(TURN);
    peer.send(&[PREFIX, b"GET /text HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
    simulation.run_for(TURN);
    let reply = String::from_utf8_lossy(&peer.take()).into_owned();
    assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.contains("connection: close\r\n"), "{reply}");
}

/// A session above a header that comes while the engine drains is told so.
#[test]
fn the_session_above_is_told_of_a_drain_that_began_before_it() {
    PROXY.check(
        &[&[LINE, b"x"].concat()],
        Then::DrainFirst,
        "198.51.100.7 to 203.0.113.9 -|drain|x",
        "proxy_headers 1",
    );
}

fn two_of_an_address() -> Gate {
    Gate::new(GateRules { connections_per_ip: Some(2), ..GateRules::default() })
}

/// A gate behind the header knows clients by what it tells, and not their proxy, of which all of them come.
#[test]
fn a_gate_behind_the_header_counts_clients() {
    let mut simulation = Simulation::new(1, Chaos::CALM, Config { recv_buffers: 8, ..Config::default() });
    let listener = simulation.listen(PROXY.layer(Echo::default()).with_gate(Some(two_of_an_address())));
    simulation.start();
    let mut says = |header: &[u8]| {
        let peer = simulation.net().connect(listener).expect("it listens");
        peer.set_window(100);
        peer.send(header);
        peer.send(b"hello");
        simulation.run_for(TURN);
        simulation.run_for(TURN);
        let heard = peer.take();
        assert_eq!(peer.was_reset(), heard.is_empty(), "who is refused is reset");
        (peer, String::from_utf8_lossy(&heard).into_owned())
    };
    let (other, local) = (b"PROXY TCP4 198.51.100.8 203.0.113.9 1 2\r\n", b"PROXY UNKNOWN\r\n");
    let (first, heard) = says(LINE);
    let (_second, heard_too) = says(LINE);
    assert_eq!((heard.as_str(), heard_too.as_str(), says(LINE).1.as_str()), ("hello", "hello", ""));
    let more: Vec<_> = [&other[..], other, local, local, local].map(&mut says).into();
    assert!(more.iter().all(|(_, heard)| heard == "hello"));
    assert_eq!(says(other).1, "");
    first.reset();
    assert_eq!(says(LINE).1, "hello");
    assert_eq!(says(LINE).1, "");
    let counters = simulation.counters();
    assert_eq!((counters.gate_per_ip, counters.proxy_headers), (3, 11));

    // Who is served without a header counts for himself, and an address that is denied is denied there too.
    let mut simulation = Simulation::new(1, Chaos::CALM, Config { recv_buffers: 8, ..Config::default() });
    let listener = simulation.listen(DIRECT.layer(Echo::default()).with_gate(Some(two_of_an_address())));
    simulation.start();
    let peers: Vec<_> = (0..3).map(|_| simulation.net().connect(listener).expect("it listens")).collect();
    simulation.run_for(TURN);
    assert_eq!(peers.iter().filter(|peer| peer.is_at_end()).count(), 1);
}

/// Whatever happens to connections, no more are inside than may be, and who leaves makes room.
#[test]
fn a_gate_knows_how_many_are_inside() {
    let mut refused = 0;
    for seed in 0..40 {
        let gate = two_of_an_address();
        let config = Config { recv_buffers: 8, connections_max: Some(2), ..Config::default() };
        let mut simulation = Simulation::with_workers(2, seed, Chaos::WILD, config);
        let listeners = [0, 1].map(|worker| simulation.listen_gated_on(worker, &gate, Echo::default()));
        simulation.start();
        let mut peers = Vec::new();
        for round in 0..60 {
            peers.push(simulation.net().connect(listeners[round % 2]).expect("it listens"));
            if round % 3 == 2 {
                let leaves = peers.swap_remove(round % peers.len());
                if round % 2 == 0 { leaves.reset() } else { leaves.shutdown() }
            }
            simulation.run_for(TURN);
            assert!(simulation.counters().connections <= 2, "seed {seed}, round {round}");
        }
        peers.iter().for_each(ringmill_engine::driver::sim::Peer::reset);
        simulation.set_chaos(Chaos::CALM);
        simulation.run_for(Duration::from_secs(10));
        assert_eq!(simulation.counters().connections, 0, "seed {seed}");
        let before = simulation.counters();
        for round in 0..4 {
            drop(simulation.net().connect(listeners[round % 2]).expect("it listens"));
            simulation.run_for(TURN);
        }
        let counters = simulation.counters();
        let more = (counters.connections, counters.gate_per_ip - before.gate_per_ip);
        assert_eq!(more, (2, 2), "seed {seed}");
        refused += before.gate_per_ip;
    }
    assert!(refused > 100, "{refused}");
}
