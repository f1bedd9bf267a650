//! What the benches and the instruction counts measure: the same inputs and the same server.

use ringmill_engine::driver::sim::{Chaos, Peer, Simulation};
use ringmill_engine::event::Socket;
use ringmill_engine::{Config, Layer};
use ringmill_protocols::http::message::{Framing, Slots};
use ringmill_protocols::http::one::decoder::{BodyLimits, Decoded, Decoder};
use ringmill_protocols::http::one::head::{HeadLimits, Outcome, parse_head};
use ringmill_protocols::http::{Handler, Reply, Request, Server};
use std::hint::black_box;
use std::time::Duration;

/// What a load generator sends.
pub const SMALL: &[u8] = b"GET /text HTTP/1.1\r\nHost: localhost:8080\r\n\r\n";

/// What a browser sends.
pub const BROWSER: &[u8] = b"GET /assets/app.9f2c41.js?v=3 HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Referer: https://www.example.org/articles/2026/11/a-longer-path\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=1f4c0b7e5a9d4c2f8e6b; theme=dark; consent=yes\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Priority: u=0, i\r\n\
    \r\n";

/// Requests of one pipelined batch.
pub const BATCH: usize = 16;

/// A body of 8 chunks with 512 bytes each.
pub fn chunked() -> Vec<u8> {
    let mut body = [b"200\r\n".as_slice(), &[b'x'; 512], b"\r\n"].concat().repeat(8);
    body.extend_from_slice(b"0\r\n\r\n");
    body
}

/// Parses a head that is complete; returns its length.
#[inline]
pub fn parse(slots: &mut Slots, input: &[u8]) -> usize {
    match parse_head(black_box(input), slots, &HeadLimits::default()) {
        Outcome::Complete { head, len } => {
            black_box(&head);
            len
        }
        other => panic!("not a whole head: {other:?}"),
    }
}

/// Decodes a chunked body that is complete; returns how many bytes of data it had.
#[inline]
pub fn decode(input: &[u8]) -> usize {
    let (mut decoder, limits) = (Decoder::new(Framing::Chunked), BodyLimits::default());
    let (mut at, mut bytes) = (0, 0);
    loop {
        match decoder.decode(&black_box(input)[at..], &limits) {
            Decoded::Data { consumed, data } => {
                at += consumed;
                bytes += black_box(data).len();
            }
            Decoded::End { .. } => return bytes,
            other => panic!("not a whole body: {other:?}"),
        }
    }
}

/// A server with a route for each way to reply.
pub fn server() -> Server<impl Handler> {
    let page = bytes::Bytes::from(vec![b'p'; 16 * 1024]);
    ringmill_protocols::http::server(move |request: &Request<'_>, reply: &mut Reply<'_>| {
        match request.path() {
            "/text" => reply.text("Hello, World!"),
            "/json" => reply.json(br#"{"message":"Hello, World!"}"#),
            "/fields" => reply
                .field("Cache-Control", "max-age=3600")
                .field("ETag", "\"9f2c41\"")
                .field("Vary", "Accept-Encoding")
                .text("Hello, World!"),
            "/shared" => reply.body_shared(page.clone()),
            "/count" => reply.text(if request.body().len() == 4096 { "4096" } else { "another length" }),
            _ => reply.status(404).text("404"),
        }
    })
}

/// A worker on a simulated kernel without faults, and open keep-alive connections to it.
pub struct Rig {
    pub simulation: Simulation,
    listener: Socket,
    peers: Vec<Peer>,
}

impl Rig {
    /// So many connections are open, have had a request, and then nothing happened for a second: what is done once a
    /// connection is done, and deadlines are filed.
    pub fn new(connections: usize, server: impl Layer) -> Rig {
        let mut simulation = Simulation::new(1, Chaos::CALM, Config::default());
        let listener = simulation.listen_unwatched(server);
        simulation.start();
        let mut rig = Rig { simulation, listener, peers: Vec::new() };
        rig.peers = (0..connections).map(|_| rig.connect()).collect();
        while rig.simulation.counters().connections < connections as u64 {
            rig.simulation.turn();
        }
        rig.send(SMALL);
        rig.simulation.run_for(Duration::from_secs(1));
        assert!(connections == 0 || rig.take() > 0, "no reply");
        rig
    }

    /// Every peer sends.
    pub fn send(&self, input: &[u8]) {
        self.peers.iter().for_each(|peer| peer.send(input));
    }

    /// Every peer takes what it got; returns how many bytes that were.
    pub fn take(&self) -> usize {
        self.peers.iter().map(|peer| peer.take().len()).sum()
    }

    /// One more peer connects.
    pub fn connect(&self) -> Peer {
        self.simulation.net().connect(self.listener).expect("it listens")
    }
}
