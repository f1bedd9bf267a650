//! Runs one case so many times, for counting its instructions: `instructions CASE TIMES`. Without a case, as
//! `cargo bench` calls it, it runs every case once and lists them.
//!
//! benches/instructions.sh runs it in callgrind and counts only inside of [`counted`] and
//! `Simulation::turn_unchecked`, and there not inside of the simulated kernel.

mod common;

use common::{BATCH, BROWSER, Rig, SMALL};
use ringmill_engine::driver::sim::Alone;
use ringmill_protocols::adapt::{Body, tower};
use ringmill_protocols::http::message::Slots;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};

type Case = (&'static str, fn(usize));

const CASES: &[Case] = &[
    ("parse-small", |times| parse(times, SMALL)),
    ("parse-browser", |times| parse(times, BROWSER)),
    ("decode-chunked", decode),
    ("session-small", |times| session(times, SMALL)),
    ("session-browser", |times| session(times, BROWSER)),
    ("worker-request", |times| worker(times, Rig::new(1, common::server()), 1, 1)),
    ("worker-pipelined-16", |times| worker(times, Rig::new(1, common::server()), 1, BATCH)),
    ("worker-64-connections", |times| worker(times, Rig::new(64, common::server()), 64, 1)),
    ("tower-pipelined-16", |times| worker(times, Rig::new(1, tower(Greeter)), 1, BATCH)),
    ("worker-connection", connections),
];

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let case = |name: &str| CASES.iter().find(|(case, _)| *case == name).map(|(_, run)| run);
    match arguments.iter().map(String::as_str).collect::<Vec<&str>>()[..] {
        [] => {
            for (name, run) in CASES {
                run(1);
                println!("{name}");
            }
        }
        [name, times] if case(name).is_some() && times.parse::<usize>().is_ok() => {
            case(name).expect("looked up above")(times.parse().expect("looked at above"));
        }
        _ => {
            eprintln!("usage: instructions [CASE TIMES]");
            std::process::exit(2);
        }
    }
}

/// What happens in here is counted.
#[inline(never)]
fn counted<R>(call: impl FnOnce() -> R) -> R {
    call()
}

fn parse(times: usize, input: &[u8]) {
    let mut slots = Slots::new();
    for _ in 0..times {
        assert_eq!(counted(|| common::parse(&mut slots, input)), input.len());
    }
}

fn decode(times: usize) {
    let body = common::chunked();
    for _ in 0..times {
        assert_eq!(counted(|| common::decode(&body)), 8 * 512);
    }
}

/// A request and its reply by a session without a worker.
fn session(times: usize, input: &[u8]) {
    let mut input = input.to_vec();
    let mut session = Alone::new(common::server());
    for _ in 0..times {
        let mut bytes = 0;
        counted(|| {
            session.data(black_box(&mut input));
            session.take(|output| bytes += output.len());
        });
        assert!(bytes > 100, "no reply");
    }
}

/// Requests on each of some connections, all in one turn. A turn also brings the completions of the turn before.
fn worker(times: usize, mut rig: Rig, connections: usize, pipelined: usize) {
    let (input, mut taken) = (SMALL.repeat(pipelined), 0);
    let requests_before = rig.simulation.counters().requests;
    for _ in 0..times {
        rig.send(&input);
        rig.simulation.turn_unchecked();
        taken += rig.take();
    }
    let requests = connections * pipelined;
    assert_eq!(rig.simulation.counters().requests - requests_before, (times * requests) as u64);
    assert!(taken >= times.saturating_sub(1) * requests * 100, "replies are missing");
}

/// Accept, receive, send, the end, close: each is brought by a turn of its own.
const TURNS: usize = 5;

/// A connection with one request; the client closes.
fn connections(times: usize) {
    let mut rig = Rig::new(0, common::server());
    for _ in 0..times {
        let peer = rig.connect();
        peer.send(SMALL);
        for _ in 0..TURNS {
            rig.simulation.turn_unchecked();
            if !peer.take().is_empty() {
                peer.shutdown();
            }
        }
        assert!(peer.is_closed(), "{TURNS} turns are not enough");
    }
    assert_eq!(rig.simulation.counters().requests, times as u64);
}

/// A service of tower that answers at once, with the fields of a small app: what is around it is what costs.
#[derive(Clone)]
struct Greeter;

impl tower_service::Service<http::Request<Body>> for Greeter {
    type Response = http::Response<http_body_util::Full<bytes::Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let text: &[u8] = if request.uri().path() == "/text" { b"Hello, World!" } else { b"another path" };
        let mut response = http::Response::new(bytes::Bytes::from_static(text).into());
        let headers = response.headers_mut();
        headers.insert(http::header::SERVER, http::HeaderValue::from_static("greeter"));
        headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        headers.insert(http::header::CONTENT_LENGTH, http::HeaderValue::from(text.len()));
        ready(Ok(response))
    }
}
