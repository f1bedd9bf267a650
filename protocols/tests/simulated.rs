//! Protocols on the simulated driver: however input is cut, delayed and interleaved, replies are the same.

use ringmill_engine::driver::sim::{Chaos, Peer, Simulation};
use ringmill_engine::{Config, Waker};
use ringmill_protocols::http::{
    self, BodyWriter, Fill, Handler, Limits, Method, Plan, Reply, Request, Server, Source, Upload,
};
use ringmill_protocols::{Echo, UdpEcho};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A handler with one route for each way to answer.
struct Routes {
    wakers: Rc<RefCell<Vec<Waker>>>,
}

impl Handler for Routes {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match request.path() {
            "/text" => reply.text("text"),
            "/body" => reply.body(request.body()),
            "/empty" => reply.status(204).empty(),
            "/silent" => {}
            "/trailers" => reply.body(request.trailers()),
            "/sized" => reply.stream(Some(300_000), Count { left: 300_000, chunk: 7000 }),
            "/chunked" => reply.stream(None, Count { left: 100_000, chunk: 900 }),
            "/slow" => reply.stream(None, Slow { steps: 3, wakers: self.wakers.clone() }),
            "/short" => reply.stream(Some(10), Count { left: 5, chunk: 5 }),
            "/panic" => panic!("on purpose"),
            "/split" => reply.field("x-a", "b\r\nx-evil: 1").text("one field"),
            "/method" => reply.text(request.method().as_str()),
            _ => reply.status(404).text("404"),
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match (request.path(), request.method()) {
            ("/echo", Method::Post) => Plan::Stream(Box::new(Back { begun: false })),
            ("/big", _) => Plan::Stream(Box::new(Big)),
            ("/early", _) => Plan::Stream(Box::new(Early)),
            ("/small", _) => Plan::CollectUpTo(10),
            _ => Plan::Collect,
        }
    }
}

struct Count {
    left: usize,
    chunk: usize,
}

impl Source for Count {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        let bytes = self.left.min(self.chunk);
        self.left -= bytes;
        body.write(&vec![b'0' + (self.left % 10) as u8; bytes]);
        if self.left == 0 { Fill::End } else { Fill::More }
    }
}

/// Writes a step each time it is woken.
struct Slow {
    steps: u8,
    wakers: Rc<RefCell<Vec<Waker>>>,
}

impl Source for Slow {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        body.write(&[b'0' + self.steps]);
        self.steps -= 1;
        if self.steps == 0 {
            return Fill::End;
        }
        self.wakers.borrow_mut().push(body.waker());
        Fill::Pending
    }
}

/// Sends each piece back as it comes.
struct Back {
    begun: bool,
}

impl Upload for Back {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        if !self.begun {
            self.begun = true;
            reply.begin(None);
        }
        reply.write(bytes);
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        reply.end();
    }
}

/// Answers a few bytes with more than the output holds.
struct Big;

impl Upload for Big {
    fn chunk(&mut self, _: &[u8], reply: &mut Reply<'_>) {
        reply.begin(None).write(&vec![b'x'; 300 * 1024]);
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        reply.write(b"end");
        reply.end();
    }
}

/// Answers before it has the body.
struct Early;

impl Upload for Early {
    fn chunk(&mut self, _: &[u8], reply: &mut Reply<'_>) {
        reply.text("enough");
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        reply.text("empty");
    }
}

struct Run {
    simulation: Simulation,
    peer: Peer,
    wakers: Rc<RefCell<Vec<Waker>>>,
    received: Vec<u8>,
}

impl Run {
    fn new(seed: u64, chaos: Chaos, limits: Limits) -> Run {
        Run::with(Config::default(), seed, chaos, limits)
    }

    fn with(config: Config, seed: u64, chaos: Chaos, limits: Limits) -> Run {
        let mut simulation = Simulation::new(seed, chaos, config);
        let wakers = Rc::new(RefCell::new(Vec::new()));
        let server = Server::new(Routes { wakers: wakers.clone() }).with_limits(limits);
        let listener = simulation.listen(server);
        simulation.start();
        let peer = simulation.net().connect(listener).unwrap();
        Run { simulation, peer, wakers, received: Vec::new() }
    }

    /// Lets things happen for a while, reading and waking all the time.
    fn rest(&mut self) {
        for _ in 0..60 {
            self.simulation.run_for(Duration::from_millis(5));
            self.received.extend(self.peer.take());
            for waker in self.wakers.borrow_mut().drain(..) {
                waker.wake();
            }
        }
    }

    fn end(mut self) -> Ending {
        self.rest();
        self.peer.shutdown();
        self.rest();
        assert_eq!(self.simulation.buffers_out(), 0);
        let closed = self.peer.is_closed();
        self.simulation.drain(Duration::ZERO);
        self.simulation.run_for(Duration::from_secs(5));
        assert!(self.simulation.is_done());
        assert_eq!(self.simulation.net().open_sockets(), 0);
        let counters = self.simulation.counters();
        assert_eq!((counters.accepted, counters.closed, counters.connections), (1, 1, 0));
        Ending { text: unchunk_dates(&self.received), closed, was_reset: self.peer.was_reset() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ending {
    text: String,
    closed: bool,
    was_reset: bool,
}

/// The text with the one thing that time changes made equal.
fn unchunk_dates(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> =
        text.split("\r\n").map(|line| if line.starts_with("date: ") { "date" } else { line }).collect();
    lines.join("\r\n")
}

fn run(pieces: &[&[u8]], seed: u64, chaos: Chaos) -> Ending {
    let mut run = Run::new(seed, chaos, Limits::default());
    for piece in pieces {
        run.peer.send(piece);
        for _ in 0..3 {
            run.simulation.run_for(Duration::from_millis(3));
        }
        run.received.extend(run.peer.take());
    }
    run.end()
}

/// Each line a conversation: what the client sends before it shuts its side.
const CONVERSATIONS: &[&str] = &[
    "GET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /text HTTP/1.1\r\nHost: a\r\n\r\nGET /missing HTTP/1.1\r\nHost: a\r\n\r\nGET /empty HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD /text HTTP/1.1\r\nHost: a\r\n\r\nHEAD /sized HTTP/1.1\r\nHost: a\r\n\r\nHEAD /chunked HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /text HTTP/1.0\r\n\r\n",
    "GET /text HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /chunked HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /silent HTTP/1.1\r\nHost: a\r\n\r\nGET /split HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;x=y\r\n!\r\n0\r\n\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nPOST /method HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxx",
    "POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world",
    "POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
    "GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /slow HTTP/1.1\r\nHost: a\r\n\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /text HTTP/1.1\r\nHost: a\r\n\r\nGET /text HTTP/1.1\r\nBad\r\n\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n",
    "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /text HTTP/2.0\r\nHost: a\r\n\r\n",
    "\r\nGET /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "nonsense\r\n\r\n",
    "GET /te",
    // Malformed from the first x on, with no line end after which a head that drips in is looked at again.
    "GET /text HTTP/1.1x: y",
    // The empty line is refused before the method can be seen, so its reply has a body.
    "\n\r\nHEAD /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\n\r\nHEAD /text HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nHEAD /text HTTP/1.1\r\nBad\r\n\r\n",
    "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel",
];

#[test]
fn replies_do_not_depend_on_how_the_input_was_cut() {
    for conversation in CONVERSATIONS {
        let bytes = conversation.as_bytes();
        let whole = run(&[bytes], 1, Chaos::CALM);
        for cut in (1..bytes.len()).step_by(3) {
            let (first, second) = bytes.split_at(cut);
            assert_eq!(run(&[first, second], 1, Chaos::CALM), whole, "cut at {cut}: {conversation:?}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run(&single, 1, Chaos::CALM), whole, "byte by byte: {conversation:?}");
        for seed in 0..8 {
            assert_eq!(run(&[bytes], seed, Chaos::WILD), whole, "seed {seed}: {conversation:?}");
        }
    }
}

/// A kernel that closes a socket with unread input sends a reset, and not what it kept back for the end of the stream.
#[test]
fn the_last_reply_is_sent_though_input_is_unread_and_nobody_lingers() {
    let config = || Config {
        linger_timeout: Duration::ZERO,
        recv_buffers: 8,
        recv_buffer_bytes: 512,
        ..Config::default()
    };
    for seed in 0..50 {
        let run = Run::with(config(), seed, Chaos::CALM, Limits::default());
        run.peer.send(b"GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        run.peer.send(&[b'x'; 100_000]);
        let ending = run.end();
        assert!(ending.closed && ending.text.starts_with("HTTP/1.1 200 OK\r\n"), "seed {seed}: {ending:?}");
    }
}

/// Sends `conversation` and compares the status lines, and whether the connection was closed by the server.
fn check(conversation: &str, statuses: &[u16], closed: bool) -> String {
    let mut run = Run::new(1, Chaos::CALM, Limits::default());
    run.peer.send(conversation.as_bytes());
    run.rest();
    let text = unchunk_dates(&run.received);
    let status = |reply: &str| reply.get(..4)?.strip_suffix(' ')?.parse().ok();
    let found: Vec<u16> = text.split("HTTP/1.1 ").skip(1).filter_map(status).collect();
    assert_eq!(found, statuses, "{conversation:?} was answered: {text}");
    assert_eq!(run.peer.is_at_end(), closed, "{conversation:?}");
    text
}

#[test]
fn statuses_and_connection_states() {
    let get = "GET /text HTTP/1.1\r\nHost: a\r\n\r\n";
    check(get, &[200], false);
    check(&get.repeat(3), &[200, 200, 200], false);
    check("GET /text HTTP/1.0\r\n\r\n", &[200], true);
    check("GET /text HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", &[200], false);
    check(&format!("GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{get}"), &[200], true);
    check(&format!("GET / HTTP/1.1\r\n\r\n{get}"), &[400], true);
    check(&format!("GET /text HTTP/3.0\r\nHost: a\r\n\r\n{get}"), &[505], true);
    check("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", &[413], true);
    check(
        "POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n",
        &[100],
        false,
    );
    check(
        "POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
        &[200],
        false,
    );
    check("POST /body HTTP/1.1\r\nHost: a\r\nExpect: magic\r\nContent-Length: 1\r\n\r\nx", &[417], true);
    check("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel", &[200], true);
    check("GET /short HTTP/1.1\r\nHost: a\r\n\r\n", &[200], true);
    check("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n", &[500], true);
    check(&format!("GET /text HTTP/1.1\r\nx: {}\r\n", "y".repeat(17_000)), &[431], true);
    check(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(9_000)), &[414], true);
    let empty = check("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n", &[204], false);
    assert!(!empty.contains("content-length") && empty.ends_with("\r\n\r\n"), "{empty}");
    let split = check("GET /split HTTP/1.1\r\nHost: a\r\n\r\n", &[200], false);
    assert!(!split.contains("evil"), "{split}");
    let close = check("GET /text HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n", &[200], true);
    assert!(close.contains("connection: close\r\n"), "{close}");
}

#[test]
fn an_upload_whose_last_bytes_fill_the_output_is_ended() {
    let head = "POST /big HTTP/1.1\r\nHost: a\r\n";
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    {
        let text = check(&format!("{head}{body}"), &[200], false);
        assert!(text.ends_with("\r\n3\r\nend\r\n0\r\n\r\n"), "{body:?}");
    }
}

#[test]
fn deadlines() {
    let check = |sent: &str, expected: &str, secs: std::ops::Range<u64>| {
        let mut run = Run::new(1, Chaos::CALM, Limits::default());
        run.peer.send(sent.as_bytes());
        run.simulation.run_for(Duration::from_secs(secs.start));
        assert!(!run.peer.is_closed() && !run.peer.is_at_end(), "{sent:?} was closed early");
        run.simulation.run_for(Duration::from_secs(secs.end - secs.start));
        let text = String::from_utf8(run.peer.take()).unwrap();
        assert!(run.peer.is_at_end() && text.starts_with(expected), "{sent:?}: {text:?}");
        assert!(!expected.is_empty() || text.is_empty(), "{sent:?}: {text:?}");
    };
    check("", "", 74..76);
    check("GET /text HT", "HTTP/1.1 408 ", 9..11);
    // 1000 bytes earn three more seconds.
    check(&format!("GET /text HTTP/1.1\r\nx: {}", "y".repeat(976)), "HTTP/1.1 408 ", 12..14);
    check("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel", "", 29..31);
    check("GET /text HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 ", 74..76);
}

#[test]
fn a_client_that_never_reads_is_paused_then_closed() {
    let mut run = Run::new(1, Chaos::CALM, Limits::default());
    run.peer.set_window(0);
    run.peer.send("GET /sized HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000).as_bytes());
    run.simulation.run_for(Duration::from_secs(25));
    assert!(!run.peer.is_closed());
    assert_eq!(run.simulation.counters().requests, 1, "the next request waits for room");
    // It is noticed within twice the timeout.
    run.simulation.run_for(Duration::from_secs(40));
    assert!(run.peer.is_closed() && run.peer.was_reset());
    assert_eq!(run.simulation.counters().write_timeouts, 1);
}

#[test]
fn draining_answers_what_is_on_its_way() {
    let mut run = Run::new(1, Chaos::CALM, Limits::default());
    run.simulation.run_for(Duration::from_millis(10));
    run.simulation.drain(Duration::from_secs(30));
    run.simulation.run_for(Duration::from_millis(50));
    run.peer.send(b"GET /text HTTP/1.1\r\nHost: a\r\n\r\n");
    run.simulation.run_for(Duration::from_millis(50));
    let text = String::from_utf8(run.peer.take()).unwrap();
    assert!(text.contains("200 OK") && text.contains("connection: close"), "{text}");
    run.peer.shutdown();
    run.simulation.run_for(Duration::from_secs(5));
    assert!(run.simulation.is_done());
}

#[test]
fn echo_returns_every_byte_whatever_happens() {
    for seed in 0..50 {
        let mut simulation = Simulation::new(seed, Chaos::WILD, Config::default());
        let listener = simulation.listen(Echo::default());
        simulation.start();
        let peers: Vec<Peer> = (0..5).map(|_| simulation.net().connect(listener).unwrap()).collect();
        let sent = |peer: usize| -> Vec<u8> { (0..40_000).map(|n| (n * (peer + 3) / 7) as u8).collect() };
        for (n, peer) in peers.iter().enumerate() {
            peer.set_window(1000 + n * 500);
            peer.send(&sent(n));
            peer.shutdown();
        }
        let mut received = vec![Vec::new(); peers.len()];
        for _ in 0..3000 {
            simulation.run_for(Duration::from_millis(1));
            for (n, peer) in peers.iter().enumerate() {
                received[n].extend(peer.take());
            }
        }
        for (n, peer) in peers.iter().enumerate() {
            assert!(received[n] == sent(n), "seed {seed}: {} bytes of peer {n}", received[n].len());
            assert!(peer.is_closed() && !peer.was_reset());
        }
        assert_eq!(simulation.buffers_out(), 0);
    }
}

#[test]
fn datagrams_come_back() {
    let mut simulation = Simulation::new(1, Chaos::WILD, Config::default());
    let socket = simulation.datagrams(UdpEcho::default());
    simulation.start();
    let from = |n: u16| SocketAddr::from(([127, 0, 0, 9], 1000 + n % 3));
    for n in 0..200u16 {
        simulation.net().send_datagram(socket, from(n), &vec![n as u8; usize::from(n) * 5 % 1500]);
    }
    simulation.run_for(Duration::from_secs(1));
    for n in 0..200u16 {
        let expected = (from(n), vec![n as u8; usize::from(n) * 5 % 1500]);
        assert_eq!(simulation.net().take_datagram(socket), Some(expected));
    }
    assert_eq!(simulation.counters().datagrams_sent, 200);
}

/// Two echoes, one datagram of a forged sender that sets one to answer the other, and a network that takes `step` for each
/// way. Returns how many were answered in all, and how many left unanswered, until it ends or a minute has passed.
fn answers_in_a_loop(step: Duration, bytes: usize) -> (u64, u64) {
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    let sockets = [0; 2].map(|_| simulation.datagrams(UdpEcho::default()));
    let addresses = [1, 2].map(|host| SocketAddr::from(([192, 0, 2, host], 7000)));
    simulation.start();
    let net = simulation.net();
    net.send_datagram(sockets[0], addresses[1], &vec![b'x'; bytes]);
    let begin = simulation.now_of(0);
    while simulation.now_of(0).since(begin) < Duration::from_secs(60) {
        simulation.run_for(step);
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some((peer, bytes)) = net.take_datagram(sockets[from]) {
                assert_eq!(peer, addresses[to]);
                net.send_datagram(sockets[to], addresses[from], &bytes);
            }
        }
        if simulation.counters().datagrams_ignored > 0 {
            break;
        }
    }
    (simulation.counters().datagrams_sent, simulation.counters().datagrams_ignored)
}

#[test]
fn two_echoes_do_not_answer_each_other_without_end() {
    // Faster than the rate: after both bursts, and what flowed in meanwhile, one finds no budget and it is over.
    let (answers, ignored) = answers_in_a_loop(Duration::from_micros(10), 64);
    assert!((2000..2100).contains(&answers) && ignored == 1, "{answers}, {ignored}");
    let (answers, ignored) = answers_in_a_loop(Duration::from_micros(10), 15_000);
    assert!((200..210).contains(&answers) && ignored == 1, "{answers}, {ignored}");
    // Slower than the rate it goes on, at the pace of the network: two ways of 10 ms.
    let (answers, ignored) = answers_in_a_loop(Duration::from_millis(10), 64);
    assert!((5900..=6001).contains(&answers) && ignored == 0, "{answers}, {ignored}");
}

#[test]
fn an_echo_does_not_answer_what_answers_everything_and_counts_it() {
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    let socket = simulation.datagrams(UdpEcho::default().with_peer_rate(5));
    simulation.start();
    let net = simulation.net();
    let mut check = |from: &str, answered: bool| {
        let before = simulation.counters();
        net.send_datagram(socket, from.parse().unwrap(), b"hello");
        simulation.run_for(Duration::from_millis(1));
        let after = simulation.counters();
        assert_eq!(net.take_datagram(socket).is_some(), answered, "{from}");
        let count = u64::from(answered);
        assert_eq!(after.requests - before.requests, count, "{from}");
        assert_eq!(after.datagrams_ignored - before.datagrams_ignored, 1 - count, "{from}");
    };
    for port in [0, 7, 11, 13, 17, 19, 37, 53, 69, 123] {
        check(&format!("192.0.2.1:{port}"), false);
        check(&format!("[2001:db8::1]:{port}"), false);
    }
    for port in [8, 1023, 5353, 65_535, 40_000] {
        check(&format!("192.0.2.1:{port}"), true);
    }
    // It has had its five, whatever its port; its neighbour has not.
    check("192.0.2.1:40001", false);
    check("192.0.2.2:40001", true);
}

#[test]
fn a_closure_with_state_is_a_handler() {
    let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
    let mut served = 0;
    let listener = simulation.listen(http::server(move |_, reply| {
        served += 1;
        reply.text(&served.to_string());
    }));
    simulation.start();
    let peer = simulation.net().connect(listener).unwrap();
    peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(2).as_bytes());
    simulation.run_for(Duration::from_millis(1));
    let text = String::from_utf8(peer.take()).unwrap();
    assert!(text.contains("\r\n\r\n1HTTP/1.1 200 OK") && text.ends_with("\r\n\r\n2"), "{text}");
}
