//! HTTP/2 for services of tower, on the simulated driver: what begins it, what ends it, and that it waits for nobody without end. The
//! client is frames by hand; what hyper makes of HTTP/2 as such is hyper's to test.
#![cfg(feature = "tower")]

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::rt::Write;
use hyper::upgrade::OnUpgrade;
use ringmill_engine::driver::sim::{self, Chaos, Simulation};
use ringmill_engine::{Config, Counters};
use ringmill_protocols::adapt::{Body, BoxError, tower};
use ringmill_protocols::http::Peer;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tower_service::Service;

#[derive(Clone, Default)]
struct Program {
    log: Rc<RefCell<Vec<String>>>,
    /// Streams that were given over.
    given: Rc<RefCell<Vec<OnUpgrade>>>,
    /// Of requests that are never answered.
    peers: Rc<RefCell<Vec<Peer>>>,
}

/// Says that it is dropped.
struct Guard(Program);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.log.borrow_mut().push("dropped".to_owned());
    }
}

impl Service<Request<Body>> for Program {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let program = self.clone();
        Box::pin(async move {
            match request.uri().path() {
                "/" => Ok(Response::new(Full::new("hello".into()))),
                "/count" => {
                    let bytes = request.into_body().collect().await?.to_bytes().len();
                    Ok(Response::new(Full::new(bytes.to_string().into())))
                }
                "/large" => Ok(Response::new(Full::new(vec![b'x'; 3_000_000].into()))),
                "/given" => {
                    program.given.borrow_mut().push(hyper::upgrade::on(&mut request));
                    Ok(Response::new(Full::default()))
                }
                "/fails" => Err("as asked".into()),
                "/panics" => panic!("as asked"),
                _ => {
                    let peer = request.extensions().get::<Peer>().expect("every request has one").clone();
                    program.peers.borrow_mut().push(peer);
                    let _guard = Guard(program);
                    pending().await
                }
            }
        })
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A request without a body, or with one to follow. Fields are from the static table, or literals that are not indexed (RFC 7541).
fn request(stream: u32, method: &str, path: &str, ends: bool) -> Vec<u8> {
    let literal = |index: u8, value: &str| [&[index, value.len() as u8], value.as_bytes()].concat();
    let block = [literal(2, method), literal(4, path), vec![0x86], literal(1, "a")].concat();
    frame(HEADERS, 4 | u8::from(ends), stream, &block)
}

struct Run {
    simulation: Simulation,
    peer: sim::Peer,
    program: Program,
    received: Vec<u8>,
    /// Answers to PING that are not sent.
    pongs: Vec<u8>,
}

/// Of each stream what came, in words and bytes; of the connection under 0.
type Heard = BTreeMap<u32, String>;

impl Run {
    fn new() -> Run {
        let (program, mut simulation) =
            (Program::default(), Simulation::new(0, Chaos::CALM, Config::default()));
        let listener = simulation.listen(tower(program.clone()));
        simulation.start();
        let peer = simulation.net().connect(listener).expect("somebody listens");
        peer.set_window(1 << 22);
        Run { simulation, peer, program, received: Vec::new(), pongs: Vec::new() }
    }

    /// With the preface, and settings that say nothing.
    fn begun() -> Run {
        let mut run = Run::new();
        run.ask(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat());
        run
    }

    fn ask(&mut self, bytes: &[u8]) -> Heard {
        self.peer.send(bytes);
        self.wait(Duration::from_millis(100))
    }

    fn wait(&mut self, time: Duration) -> Heard {
        self.simulation.run_for(time);
        self.received.extend(self.peer.take());
        let mut heard = Heard::new();
        while self.received.len() >= 9 {
            let length =
                u32::from_be_bytes([0, self.received[0], self.received[1], self.received[2]]) as usize;
            let Some(payload) = self.received.get(9..9 + length) else { break };
            let (kind, flags) = (self.received[3], self.received[4]);
            let stream = u32::from_be_bytes(self.received[5..9].try_into().unwrap());
            let told = heard.entry(stream).or_default();
            match kind {
                DATA if payload.len() > 100 => told.push_str(&format!("{} bytes ", payload.len())),
                DATA => told.push_str(&format!("{} ", payload.escape_ascii())),
                // The status is the first field: 200 and 500 are in the static table.
                HEADERS => told.push_str(&format!("{:x} ", payload[0])),
                RST_STREAM => told.push_str("reset "),
                SETTINGS if flags == 1 => told.push_str("ack "),
                SETTINGS => told.push_str("settings "),
                PING if flags == 1 => {}
                PING => {
                    told.push_str("ping ");
                    self.pongs.extend(frame(PING, 1, 0, payload));
                }
                GOAWAY => told
                    .push_str(&format!("goaway {} ", u32::from_be_bytes(payload[4..8].try_into().unwrap()))),
                WINDOW_UPDATE => {}
                other => told.push_str(&format!("frame {other} ")),
            }
            if flags & 1 == 1 && matches!(kind, DATA | HEADERS) {
                told.push_str("end ");
            }
            self.received.drain(..9 + length);
        }
        heard
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *self.program.log.borrow_mut())
    }

    fn counters(&self) -> Counters {
        self.simulation.counters()
    }
}

fn on(heard: &Heard, stream: u32) -> &str {
    heard.get(&stream).map_or("", |told| told)
}

#[test]
fn a_preface_begins_it_however_it_is_cut() {
    let said = [PREFACE, &frame(SETTINGS, 0, 0, b""), &request(1, "GET", "/", true)].concat();
    for cut in 0..said.len() {
        let mut run = Run::new();
        let before = run.ask(&said[..cut]);
        let behind = run.ask(&said[cut..]);
        assert_eq!(on(&behind, 1), "88 hello end ", "cut at {cut}: {before:?} {behind:?}");
        assert_eq!(run.counters().requests, 1);
    }
}

#[test]
fn what_is_none_is_http1() {
    let check = |said: &[&[u8]], expected: &str| {
        let mut run = Run::new();
        for piece in said {
            run.peer.send(piece);
            run.simulation.run_for(Duration::from_millis(5));
        }
        let heard = run.peer.take();
        assert!(heard.starts_with(expected.as_bytes()), "{}", heard.escape_ascii());
    };
    check(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"], "HTTP/1.1 200 ");
    check(&[b"P", b"OST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"], "HTTP/1.1 200 ");
    check(&[b"PRI * HTTP/2.0\r\n\r\n", b"no\r\n"], "HTTP/1.1 505 ");
    check(&[b"PRI / HTTP/1.1\r\nHost: a\r\n\r\n"], "HTTP/1.1 200 ");
}

#[test]
fn streams_are_answered_each_for_itself() {
    let mut run = Run::begun();
    let all = [
        request(1, "GET", "/never", true),
        request(3, "POST", "/count", false),
        request(5, "GET", "/fails", true),
        request(7, "GET", "/panics", true),
        request(9, "GET", "/", true),
    ];
    let heard = run.ask(&all.concat());
    assert_eq!((on(&heard, 1), on(&heard, 3), on(&heard, 9)), ("", "", "88 hello end "));
    assert_eq!((on(&heard, 5), on(&heard, 7)), ("8e end ", "8e end "), "500, and nobody else notices");
    assert_eq!(run.counters().panics, 1);
    let heard = run.ask(&frame(DATA, 1, 3, b"abc"));
    assert_eq!(on(&heard, 3), "88 3 end ");
    let heard = run.ask(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    assert_eq!((run.said(), heard.len()), (vec!["dropped".to_owned()], 0));
    assert_eq!(on(&run.ask(&request(11, "GET", "/", true)), 11), "88 hello end ");
}

#[test]
fn a_large_answer_waits_for_its_window() {
    let mut run = Run::begun();
    let heard = run.ask(&request(1, "GET", "/large", true));
    let bytes = |heard: &Heard| -> usize {
        on(heard, 1)
            .split(' ')
            .filter_map(|word| word.parse::<usize>().ok())
            .filter(|&bytes| bytes != 88)
            .sum()
    };
    assert_eq!(bytes(&heard), 65_535, "the window that a stream begins with");
    let window = |stream| frame(WINDOW_UPDATE, 0, stream, &3_000_000_u32.to_be_bytes());
    let heard = run.ask(&[window(0), window(1)].concat());
    assert_eq!(bytes(&heard), 3_000_000 - 65_535);
    assert!(on(&heard, 1).ends_with("end "));
    assert!(run.counters().memory_bytes < 4 << 20, "{}", run.counters().memory_bytes);
}

#[test]
fn who_asks_for_nothing_is_told_to_go() {
    let mut run = Run::begun();
    assert_eq!(run.wait(Duration::from_secs(9)).len(), 0);
    let heard = run.wait(Duration::from_secs(3));
    assert!(on(&heard, 0).contains("goaway 0 "), "{heard:?}");
    assert!(run.peer.is_at_end());
    // Not even the preface comes.
    let mut run = Run::new();
    run.ask(&PREFACE[..20]);
    run.simulation.run_for(Duration::from_secs(11));
    assert!(run.peer.is_at_end());
}

/// Answers every PING, for so many seconds.
fn stay(run: &mut Run, secs: u64) -> Heard {
    let mut all = Heard::new();
    for _ in 0..10 * secs {
        for (stream, told) in run.wait(Duration::from_millis(100)) {
            all.entry(stream).or_default().push_str(&told);
        }
        let pongs = std::mem::take(&mut run.pongs);
        run.peer.send(&pongs);
    }
    all
}

#[test]
fn an_idle_connection_is_told_to_go_and_one_with_a_stream_is_not() {
    let mut run = Run::begun();
    run.ask(&request(1, "GET", "/", true));
    let heard = stay(&mut run, 70);
    assert!(!on(&heard, 0).contains("goaway"), "{heard:?}");
    let heard = stay(&mut run, 10);
    assert!(on(&heard, 0).contains("goaway 0 ") && run.peer.is_at_end(), "{heard:?}");

    let mut run = Run::begun();
    run.ask(&request(1, "GET", "/never", true));
    let heard = stay(&mut run, 200);
    assert!(on(&heard, 0).contains("ping ") && !on(&heard, 0).contains("goaway"), "{heard:?}");
    assert!(!run.peer.is_at_end());
}

/// RFC 8441: what WebSocket over HTTP/2 is made of.
#[test]
fn a_stream_that_was_given_over_is_a_stream() {
    let mut run = Run::begun();
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let fields = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/given"),
        (":authority", "a"),
    ];
    let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let heard = run.ask(&frame(HEADERS, 4, 1, &block));
    assert_eq!(on(&heard, 1), "88 ");
    let given = run.program.given.borrow_mut().pop().expect("it was asked for");
    let context = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(mut given)) = pin!(given).poll(context) else { panic!("it is not given") };
    let heard = stay(&mut run, 200);
    assert!(!on(&heard, 0).contains("goaway") && !run.peer.is_at_end(), "{heard:?}");
    assert!(matches!(Pin::new(&mut given).poll_write(context, b"hello"), Poll::Ready(Ok(5))));
    assert_eq!(on(&run.wait(Duration::from_millis(100)), 1), "hello ");
    drop(given);
    let heard = stay(&mut run, 80);
    assert!(on(&heard, 0).contains("goaway 0 ") && run.peer.is_at_end(), "{heard:?}");
}

#[test]
fn a_client_that_answers_no_ping_is_gone() {
    let mut run = Run::begun();
    run.ask(&request(1, "GET", "/never", true));
    let heard = run.wait(Duration::from_secs(25));
    assert!(on(&heard, 0).contains("ping ") && run.said().is_empty(), "{heard:?}");
    run.wait(Duration::from_secs(10));
    assert_eq!(run.said(), ["dropped"]);
    assert!(run.peer.is_at_end());
}

#[test]
fn who_leaves_takes_the_futures_along() {
    for is_reset in [false, true] {
        let mut run = Run::begun();
        run.ask(&[request(1, "GET", "/never", true), request(3, "GET", "/never", true)].concat());
        if is_reset {
            run.peer.reset()
        } else {
            run.peer.shutdown()
        }
        run.simulation.run_for(Duration::from_millis(5));
        assert_eq!(run.said(), ["dropped", "dropped"], "reset: {is_reset}");
        assert!(run.program.peers.borrow().iter().all(|peer| peer.is_gone()), "whoever kept it is told");
    }
}

#[test]
fn a_drain_says_goaway_and_waits_for_streams() {
    let mut run = Run::begun();
    run.ask(&request(1, "POST", "/count", false));
    run.simulation.drain(Duration::from_secs(30));
    let heard = run.wait(Duration::from_secs(5));
    assert!(on(&heard, 0).contains("goaway 0 ") && !run.peer.is_at_end(), "{heard:?}");
    let heard = run.ask(&frame(DATA, 1, 1, b"abcd"));
    assert_eq!(on(&heard, 1), "88 4 end ");
    run.wait(Duration::from_secs(3));
    assert!(run.peer.is_at_end() && run.simulation.is_done());
}

/// CVE-2023-44487, CVE-2025-8671: streams that are opened and reset cost what they cost, and then the connection.
#[test]
fn streams_that_are_reset_at_once_do_not_pile_up() {
    let mut run = Run::begun();
    let before = run.counters().memory_bytes;
    for round in 0..100 {
        let streams = (0..100).map(|n| 1 + 2 * (100 * round + n));
        let attack = streams.flat_map(|stream| {
            [request(stream, "GET", "/never", true), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        });
        run.ask(&attack.collect::<Vec<u8>>());
        if run.peer.is_at_end() || run.peer.was_reset() {
            break;
        }
        let grown = run.counters().memory_bytes.saturating_sub(before);
        assert!(grown < 1 << 20, "{grown} bytes after {round} rounds");
    }
    let (asked, dropped) = (run.counters().requests as usize, run.said().len());
    assert_eq!(asked, dropped, "no future is left");
}
