//! What clients say, and what they must hear: the oracle is the same protocol, fed at once on a calm kernel.

use crate::framed::{self, Framed, frame};
use crate::lane;
use crate::layers::{Sealed, Speech, prefixed};
use crate::site::Site;
use crate::sockets;
use crate::voice;
use ringmill_engine::driver::sim::{Chaos, Peer, Rng, Simulation, Watch};
use ringmill_engine::event::Socket;
use ringmill_engine::{Config, Layer};
use ringmill_protocols::Echo;
use ringmill_protocols::http::{Limits, Server, WhenGone};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    Echo,
    Framed,
    Http,
    /// HTTP as well, by a tower service.
    Tower,
}

pub const SERVICES: [Service; 4] = [Service::Echo, Service::Framed, Service::Http, Service::Tower];

impl Service {
    pub fn is_http(self) -> bool {
        matches!(self, Service::Http | Service::Tower)
    }
}

/// What one client says.
#[derive(Clone, Debug)]
pub struct Script {
    pub service: Service,
    /// The layers between the client and the service.
    pub speech: Speech,
    pub bytes: Vec<u8>,
}

/// What a client hears.
#[derive(Clone, Default)]
pub struct Heard {
    pub bytes: Vec<u8>,
    /// A reset ends it: the session aborted or panicked.
    pub was_reset: bool,
    /// The server said that this was all; a reset may follow.
    pub was_ended: bool,
}

impl Script {
    pub fn random(rng: &mut Rng, speech: Speech) -> Script {
        let service = SERVICES[rng.below(SERVICES.len())];
        let bytes = match service {
            Service::Echo => (0..rng.up_to(2500)).map(|n| (n * 7 + n / 251) as u8).collect::<Vec<u8>>(),
            Service::Framed => frames(rng),
            Service::Http => requests(rng),
            Service::Tower => lane::requests(rng),
        };
        let bytes = speech.encode(&bytes, [1, 50, 1000][rng.below(3)], true);
        Script { service, speech, bytes }
    }
}

fn frames(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.up_to(9) {
        let payload = vec![rng.next() as u8; rng.below(120)];
        let next = match rng.below(17) {
            0 | 1 => frame(framed::SLEEP, b""),
            2..=4 => frame(framed::MUCH, &[1 + rng.below(60) as u8]),
            5 => frame(framed::SHARED, b""),
            6 => frame(framed::TIMER, b""),
            7 => frame(framed::CLOSE, b""),
            10 => [frame(framed::LAST, b""), frame(framed::REVERSE, &payload)].concat(),
            // What comes behind it may be more than is received before it.
            9 => return [bytes, frame(framed::GONE, b"")].concat(),
            8 => {
                let end = frame([framed::ABORT, framed::PANIC][rng.below(2)], b"");
                return [bytes, end].concat();
            }
            _ => frame(framed::REVERSE, &payload),
        };
        bytes.extend(next);
    }
    bytes
}

fn requests(rng: &mut Rng) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..1 + rng.up_to(4) {
        let number = rng.up_to(2500);
        let body = "body".repeat(rng.below(100));
        let post = |path: &str, body: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        };
        let chunks = |path: &str, body: &str| {
            let half = body.len() / 2;
            let chunk = |part: &str| {
                if part.is_empty() { String::new() } else { format!("{:x}\r\n{part}\r\n", part.len()) }
            };
            let (a, b) = (chunk(&body[..half]), chunk(&body[half..]));
            format!(
                "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{a}{b}0\r\nx: y\r\n\r\n"
            )
        };
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let next = match rng.below(28) {
            0 => get(&format!("/sized/{}", number + 1)),
            1 => get(&format!("/chunked/{}", number + 1)),
            2 | 3 => get(&format!("/slow/{}", 1 + number % 5)),
            4 => get(&format!("/shared/{number}")),
            5 => get("/empty"),
            6 => get("/missing"),
            7 => post("/body", &body),
            8 => chunks("/body", &body),
            9..=11 => post("/mirror", &body),
            12 | 13 => chunks("/recut", &body),
            14 => post("/small", &body),
            15 => format!("HEAD /sized/{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
            16 => "GET /text HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            17 => "GET /text HTTP/1.1\r\nBad\r\n\r\n".to_owned(),
            18 if rng.one_in(2) => get("/panic"),
            20 | 21 => get(&format!("/later/{}", 1 + number % 4)),
            22 | 23 => post(&format!("/wait/{}", 1 + number % 4), &body),
            24 => {
                text += &get("/gone");
                return text.into_bytes();
            }
            19 => chunks("/recut", &body).replace("0\r\nx: y\r\n\r\n", "SEE-THIS"),
            _ => get("/text"),
        };
        text += &next;
    }
    let mut bytes = text.into_bytes();
    if rng.one_in(5) {
        bytes.extend(sockets::conversation(rng));
    }
    bytes
}

/// Listens with all services on a worker, in the order of [`SERVICES`].
pub fn listen(
    simulation: &mut Simulation,
    worker: usize,
    limits: Limits,
    idle: Option<Duration>,
    speech: Speech,
) -> [Socket; SERVICES.len()] {
    let watch = simulation.watch();
    let echo = idle.map_or_else(Echo::default, |idle| Echo::default().with_idle_timeout(idle));
    let site = Server::new(Site::new(watch.clone()));
    let server = site.with_limits(limits.clone()).when_gone(WhenGone::HalfClose);
    let server = server.websocket(sockets::PATH, sockets::endpoint(watch.clone()));
    let lane = lane::server(watch.clone(), limits);
    [
        listen_with(simulation, worker, echo, speech),
        listen_with(simulation, worker, Framed::new(watch), speech),
        listen_with(simulation, worker, server, speech),
        listen_with(simulation, worker, lane, speech),
    ]
}

/// Listens with a protocol on layers.
pub fn listen_with(
    simulation: &mut Simulation,
    worker: usize,
    protocol: impl Layer,
    speech: Speech,
) -> Socket {
    match speech {
        Speech::Plain => simulation.listen_on(worker, protocol),
        Speech::Prefixed => simulation.listen_on(worker, prefixed(protocol)),
        Speech::Sealed => simulation.listen_on(worker, Sealed(protocol)),
        Speech::PrefixedSealed => simulation.listen_on(worker, prefixed(Sealed(protocol))),
        Speech::SealedPrefixed => simulation.listen_on(worker, Sealed(prefixed(protocol))),
        // It wakes those that wait for their turn.
        Speech::Secured => simulation.listen_waking_on(worker, voice::secured(protocol)),
    }
}

/// HTTP limits that no simulated client reaches.
pub fn patient() -> Limits {
    let long = Duration::from_secs(1_000_000);
    Limits {
        head_timeout: long,
        body_idle_timeout: long,
        source_timeout: long,
        handler_timeout: long,
        keep_alive_timeout: long,
        ..Limits::default()
    }
}

/// Uses every waker that is there now.
pub fn wake_all(watch: &Watch) {
    for _ in 0..watch.left() {
        watch.wake(&watch.take(0));
    }
}

/// What each client would hear if all were said at once and nothing went wrong. All speak alike; what is said over TLS is said
/// without.
pub fn oracle(scripts: &[&Script]) -> Vec<Heard> {
    let mut simulation = Simulation::new(0, Chaos::CALM, Config { recv_buffers: 8, ..Config::default() });
    let speech = match scripts[0].speech {
        Speech::Secured => Speech::Plain,
        speech => speech,
    };
    let listeners = listen(&mut simulation, 0, patient(), None, speech);
    simulation.start();
    let say = |script: &&Script| {
        let peer = simulation.net().connect(listeners[script.service as usize]).expect("somebody listens");
        peer.set_window(1 << 20);
        peer.send(&script.bytes);
        peer.shutdown();
        peer
    };
    let peers: Vec<Peer> = scripts.iter().map(say).collect();
    let mut heard = vec![Heard::default(); peers.len()];
    let watch = simulation.watch();
    for _ in 0..1000 {
        simulation.run_for(Duration::from_millis(5));
        for (peer, heard) in peers.iter().zip(&mut heard) {
            heard.bytes.extend(peer.take());
            heard.was_reset = peer.was_reset();
            heard.was_ended = peer.was_ended();
        }
        if peers.iter().all(Peer::is_closed) {
            return heard;
        }
        wake_all(&watch);
    }
    panic!("the oracle does not end");
}
