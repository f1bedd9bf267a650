//! A proxy before servers of HTTP/2, on the simulated driver: what becomes of a request whose stream is refused, or is wanted of a connection
//! that ends in the same turn, and of a stream that nobody needs any more. The servers are frames by hand.
#![cfg(feature = "proxy")]

use ringmill_engine::driver::sim::{Answer, Chaos, Peer, Simulation};
use ringmill_engine::event::Socket;
use ringmill_engine::{Address, Config};
use ringmill_protocols::proxy::{Balance, Proxy, ProxyConfig};
use std::net::SocketAddr;
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM_AND_HEADERS: u8 = 5;
const NO_ERROR: [u8; 4] = [0; 4];
const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
const STATUS_200: u8 = 0x88;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn addresses() -> Vec<Address> {
    (1..=2).map(|port| Address::Ip(SocketAddr::from(([192, 0, 2, 1], port)))).collect()
}

/// The server's side of one connection.
struct Line {
    peer: Peer,
    received: Vec<u8>,
    has_begun: bool,
}

impl Line {
    /// The streams of the requests that have come.
    fn asked(&mut self) -> Vec<u32> {
        self.received.extend(self.peer.take());
        if !self.has_begun && self.received.starts_with(PREFACE) {
            self.received.drain(..PREFACE.len());
            // Its own, and that it has those of the proxy.
            self.peer.send(&[frame(SETTINGS, 0, 0, b""), frame(SETTINGS, ACK, 0, b"")].concat());
            self.has_begun = true;
        }
        let mut asked = Vec::new();
        while self.has_begun && self.received.len() >= 9 {
            let length = u32::from_be_bytes([0, self.received[0], self.received[1], self.received[2]]);
            let Some(whole) = self.received.get(..9 + length as usize) else { break };
            if whole[3] == HEADERS {
                asked.push(u32::from_be_bytes(whole[5..9].try_into().unwrap()));
            }
            self.received.drain(..9 + length as usize);
        }
        asked
    }

    fn answer(&self, stream: u32) {
        self.peer.send(&frame(HEADERS, END_STREAM_AND_HEADERS, stream, &[STATUS_200]));
    }
}

impl Line {
    /// More than waits for a client that does not read, and less than a window.
    fn answer_much(&self, stream: u32) {
        let data = [b'~'; 16 * 1024];
        self.peer.send(&frame(HEADERS, END_HEADERS, stream, &[STATUS_200]));
        (1..PIECES).for_each(|_| self.peer.send(&frame(DATA, 0, stream, &data)));
        self.peer.send(&frame(DATA, END_STREAM, stream, &data));
    }
}

const PIECES: usize = 15;

/// A proxy before some of these servers.
struct Run {
    simulation: Simulation,
    listener: Socket,
}

impl Run {
    fn new(seed: u64, config: ProxyConfig) -> Run {
        // A client that does not read makes a server wait soon.
        let engine = Config {
            output_high_water_bytes: 16 * 1024,
            output_low_water_bytes: 4 * 1024,
            ..Config::default()
        };
        let mut simulation = Simulation::new(seed, Chaos::CALM, engine);
        let listener = simulation.listen(Proxy::new(ProxyConfig { is_http2: true, ..config }, seed));
        addresses().into_iter().for_each(|address| simulation.net().set_remote(address, Answer::Accept));
        simulation.start();
        Run { simulation, listener }
    }

    fn connect(&self) -> Peer {
        self.simulation.net().connect(self.listener).expect("it listens")
    }

    fn rest(&mut self) {
        self.simulation.run_for(Duration::from_millis(1));
    }

    fn line(&self, server: &Address) -> Option<Line> {
        let peer = self.simulation.net().take_connection(server)?;
        Some(Line { peer, received: Vec::new(), has_begun: false })
    }
}

fn ask(client: &Peer) {
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

fn status(client: &Peer) -> Option<String> {
    String::from_utf8(client.take()).unwrap().get(9..12).map(str::to_owned)
}

#[test]
fn a_stream_that_nobody_needs_makes_room_for_others() {
    let server = addresses().remove(0);
    let config = ProxyConfig { connections_max: 1, keep_max: 0, ..ProxyConfig::new(vec![server.clone()]) };
    let mut run = Run::new(1, config);
    run.simulation.net().set_remote(server.clone(), Answer::Silence);
    let left = run.connect();
    ask(&left);
    run.rest();
    left.reset();
    run.rest();
    // Nobody waits any more when it opens, and it is not kept.
    run.simulation.net().set_remote(server.clone(), Answer::Accept);
    run.rest();
    let mut line = run.line(&server).expect("a connection");
    assert!(line.asked().is_empty());
    let client = run.connect();
    for _ in 0..3 {
        ask(&client);
        run.rest();
        let asked = line.asked();
        assert_eq!(asked.len(), 1, "its stream");
        line.answer(asked[0]);
        run.rest();
        assert_eq!(status(&client).as_deref(), Some("200"));
    }
}

#[test]
fn a_stream_of_a_connection_that_ends_in_that_turn_is_opened_on_another() {
    for seed in 0..20 {
        let server = addresses().remove(0);
        let mut run = Run::new(seed, ProxyConfig::new(vec![server.clone()]));
        let (slow, client) = (run.connect(), run.connect());
        ask(&slow);
        run.rest();
        let mut line = run.line(&server).expect("a connection");
        assert_eq!(line.asked(), [1]);
        run.rest();
        // As soon as it is asked it ends, kindly: what it has begun keeps it open.
        ask(&client);
        line.peer.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
        run.rest();
        run.rest();
        let mut other =
            run.line(&server).unwrap_or_else(|| panic!("seed {seed}: it has no other connection"));
        assert_eq!((other.asked(), line.asked()), (vec![1], Vec::new()), "seed {seed}");
        other.answer(1);
        line.answer(1);
        run.rest();
        for client in [slow, client] {
            assert_eq!(status(&client).as_deref(), Some("200"), "seed {seed}");
        }
    }
}

/// Of how many requests, each answered with this status, how many came to a server that refuses all, with these servers.
fn refusals(servers: &[Address], status_expected: &str) -> usize {
    let config = ProxyConfig { balance: Balance::RoundRobin, ..ProxyConfig::new(servers.to_vec()) };
    let mut run = Run::new(1, config);
    let client = run.connect();
    let (mut lines, mut refused) = (Vec::new(), 0);
    for n in 0..REQUESTS {
        ask(&client);
        let mut told = None;
        for _ in 0..100 {
            run.rest();
            for (server, address) in servers.iter().enumerate() {
                lines.extend(run.line(address).map(|line| (server, line)));
            }
            for (server, line) in &mut lines {
                for stream in line.asked() {
                    if *server == 0 {
                        refused += 1;
                        line.peer.send(&frame(RST_STREAM, 0, stream, &REFUSED_STREAM));
                    } else {
                        line.answer(stream);
                    }
                }
            }
            told = status(&client);
            if told.is_some() {
                break;
            }
        }
        assert_eq!(told.as_deref(), Some(status_expected), "{n}");
    }
    refused
}

const REQUESTS: usize = 50;

#[test]
fn a_server_that_refuses_all_streams_is_not_asked_for_ever() {
    // Each once more, and then as what is repeated otherwise: a fifth of all, and ten to begin with.
    let refused = refusals(&addresses()[..1], "502");
    assert!((2 * REQUESTS..=2 * REQUESTS + REQUESTS / 5 + 11).contains(&refused), "{refused}");
    // Where there is another server it is asked instead.
    let refused = refusals(&addresses(), "200");
    assert!((REQUESTS / 4..=REQUESTS).contains(&refused), "{refused}");
}

/// Reads what is left of much, which is all of it.
fn expect_much(run: &mut Run, client: &Peer) {
    client.set_window(1 << 20);
    run.simulation.run_for(Duration::from_millis(100));
    let reply = String::from_utf8(client.take()).unwrap();
    let bytes = reply.matches('~').count();
    assert_eq!((bytes, reply.ends_with("\r\n0\r\n\r\n")), (PIECES * 16 * 1024, true));
}

#[test]
fn a_reply_outlives_the_connection_it_came_on() {
    let server = addresses().remove(0);
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    for (goes_away, ends) in [(true, false), (false, true), (true, true)] {
        let mut run = Run::new(1, ProxyConfig::new(vec![server.clone()]));
        let client = run.connect();
        client.set_window(1000);
        ask(&client);
        run.rest();
        let mut line = run.line(&server).expect("a connection");
        assert_eq!(line.asked(), [1]);
        line.answer_much(1);
        run.rest();
        line.peer.send(if goes_away { &goaway } else { b"" });
        if ends {
            line.peer.shutdown();
        }
        run.simulation.run_for(Duration::from_secs(1));
        expect_much(&mut run, &client);
        // The next request has another connection.
        ask(&client);
        run.rest();
        let mut other = run.line(&server).expect("another connection");
        assert_eq!((other.asked(), line.asked()), (vec![1], Vec::new()));
        other.answer(1);
        run.rest();
        assert_eq!(status(&client).as_deref(), Some("200"));
    }
}

#[test]
fn the_rest_of_a_body_is_no_request() {
    let server = addresses().remove(0);
    let mut run = Run::new(1, ProxyConfig::new(vec![server.clone()]));
    let client = run.connect();
    client.set_window(1000);
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbegin");
    run.rest();
    let mut line = run.line(&server).expect("a connection");
    assert_eq!(line.asked(), [1]);
    // It has answered, and reads no further (RFC 9113, 8.1).
    line.answer_much(1);
    line.peer.send(&frame(RST_STREAM, 0, 1, &NO_ERROR));
    run.rest();
    for piece in ["more", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n", "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n"] {
        client.send(piece.as_bytes());
        run.rest();
        assert!(line.asked().is_empty(), "{piece}");
    }
    expect_much(&mut run, &client);
    assert!(line.asked().is_empty());
}

#[test]
fn a_client_that_waited_for_a_100_has_another_try() {
    let server = addresses().remove(0);
    let mut run = Run::new(1, ProxyConfig::new(vec![server.clone()]));
    let client = run.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    run.rest();
    let mut line = run.line(&server).expect("a connection");
    assert_eq!(line.asked(), [1]);
    run.rest();
    assert_eq!(status(&client).as_deref(), Some("100"));
    line.peer.send(&frame(RST_STREAM, 0, 1, &REFUSED_STREAM));
    run.rest();
    assert_eq!(line.asked(), [3]);
    client.send(b"x");
    run.rest();
    line.answer(3);
    run.rest();
    assert_eq!(status(&client).as_deref(), Some("200"));
}
