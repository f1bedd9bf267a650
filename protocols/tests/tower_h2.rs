//! HTTP/2 for services of tower, on the simulated driver: what begins it, what ends it, and that it waits for nobody without end. The
//! client is frames by hand; what hyper makes of HTTP/2 as such is hyper's to test.
#![cfg(feature = "tower")]

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Frame;
use hyper::rt::Write;
use hyper::upgrade::OnUpgrade;
use ringmill_engine::driver::sim::{self, Chaos, Simulation};
use ringmill_engine::{Config, Counters};
use ringmill_protocols::adapt::{Body, BoxError, Http2Limits, Notices, TowerServer, tower};
use ringmill_protocols::http::Peer;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
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
    is_never_ready: Rc<Cell<bool>>,
}

/// Says that it is dropped.
struct Guard(Program);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.log.borrow_mut().push("dropped".to_owned());
    }
}

/// A body that begins and does not go on.
struct Begun(Option<Bytes>, #[expect(dead_code, reason = "it says that it is dropped")] Guard);

impl hyper::body::Body for Begun {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.take().map_or(Poll::Pending, |first| Poll::Ready(Some(Ok(Frame::data(first)))))
    }
}

type Answered = Either<Full<Bytes>, Begun>;

impl Service<Request<Body>> for Program {
    type Response = Response<Answered>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answered>, BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.is_never_ready.get() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let program = self.clone();
        if request.uri().path() == "/begun" {
            let begun = Begun(Some("begun".into()), Guard(program));
            return Box::pin(std::future::ready(Ok(Response::new(Either::Right(begun)))));
        }
        let answer = async move {
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
                    let peer =
                        request.extensions().get::<Notices>().expect("every request has them").peer().clone();
                    program.peers.borrow_mut().push(peer);
                    let _guard = Guard(program);
                    pending().await
                }
            }
        };
        Box::pin(async { answer.await.map(|answer| answer.map(Either::Left)) })
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

/// The same with fields of its own, which are literals as well.
fn request_with(stream: u32, path: &str, fields: &[(&str, &str)], ends: bool) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let literal = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    let mut all = vec![(":method", "POST"), (":path", path), (":scheme", "http"), (":authority", "a")];
    all.extend(fields);
    frame(HEADERS, 4 | u8::from(ends), stream, &all.iter().flat_map(literal).collect::<Vec<u8>>())
}

/// A call of gRPC, with a deadline if it has one.
fn call(stream: u32, path: &str, timeout: &str) -> Vec<u8> {
    let mut fields = vec![("content-type", "application/grpc"), ("te", "trailers")];
    fields.extend((!timeout.is_empty()).then_some(("grpc-timeout", timeout)));
    request_with(stream, path, &fields, false)
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
        Run::of(|server| server)
    }

    /// With limits, and the preface said.
    fn limited(limits: Http2Limits) -> Run {
        let mut run = Run::of(|server| server.with_http2_limits(limits));
        run.ask(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat());
        run
    }

    fn of(change: impl FnOnce(TowerServer<Program>) -> TowerServer<Program>) -> Run {
        let (program, mut simulation) =
            (Program::default(), Simulation::new(0, Chaos::CALM, Config::default()));
        let listener = simulation.listen(change(tower(program.clone())));
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
                DATA if payload.len() > 100 || payload == b"x" => {
                    told.push_str(&format!("{} bytes ", payload.len()))
                }
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
    run.ask(&call(1, "/never", ""));
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
fn a_call_of_grpc_ends_with_its_deadline() {
    let mut run = Run::begun();
    let calls = [
        call(1, "/never", "500m"),
        call(3, "/begun", "1S"),
        call(5, "/never", ""),
        request_with(7, "/begun", &[("grpc-timeout", "1m")], true),
        call(9, "/never", "soon"),
    ];
    let heard = run.ask(&calls.concat());
    assert_eq!((heard.len(), on(&heard, 3), on(&heard, 7)), (2, "88 begun ", "88 begun "), "{heard:?}");
    assert_eq!(run.wait(Duration::from_millis(350)).len(), 0, "not before its time");
    let heard = run.wait(Duration::from_millis(150));
    // The client has not ended its own side: it is told to stop.
    assert_eq!((heard.len(), on(&heard, 1)), (1, "88 end reset "), "{heard:?}");
    assert_eq!(run.said(), ["dropped"]);
    assert!(run.program.peers.borrow()[0].is_gone(), "whoever works for it elsewhere is told");
    let heard = run.wait(Duration::from_millis(500));
    assert!(heard.len() == 1 && on(&heard, 3).ends_with(" end reset "), "{heard:?}");
    assert_eq!(run.said(), ["dropped"]);
    assert_eq!(stay(&mut run, 120).values().filter(|told| told.contains("end")).count(), 0);
    assert_eq!(on(&run.ask(&request(11, "GET", "/", true)), 11), "88 hello end ");
}

#[test]
fn a_deadline_of_the_server_is_that_of_every_call() {
    let max = Some(Duration::from_secs(2));
    let mut run = Run::limited(Http2Limits { grpc_timeout_max: max, ..Http2Limits::default() });
    let calls = [
        call(1, "/never", "1H"),
        call(3, "/never", ""),
        call(5, "/never", "1S"),
        request(7, "GET", "/never", true),
    ];
    run.ask(&calls.concat());
    let heard = run.wait(Duration::from_secs(1));
    assert_eq!((heard.len(), on(&heard, 5)), (1, "88 end reset "), "{heard:?}");
    let heard = run.wait(Duration::from_secs(1));
    assert_eq!(
        (on(&heard, 1), on(&heard, 3), heard.len()),
        ("88 end reset ", "88 end reset ", 2),
        "{heard:?}"
    );
    assert!(!stay(&mut run, 50).contains_key(&7), "no call of gRPC");
}

#[test]
fn an_old_connection_is_told_to_go_and_its_streams_have_some_time() {
    let limits = Http2Limits {
        age_max: Some(Duration::from_secs(100)),
        age_grace: Duration::from_secs(20),
        ..Http2Limits::default()
    };
    let mut run = Run::limited(limits.clone());
    run.ask(&[call(1, "/never", ""), call(3, "/count", "")].concat());
    let heard = stay(&mut run, 89);
    assert!(!on(&heard, 0).contains("goaway"), "{heard:?}");
    let heard = stay(&mut run, 22);
    assert!(on(&heard, 0).contains("goaway 0 ") && !run.peer.is_at_end(), "{heard:?}");
    // What was begun can be ended, and nothing is begun any more.
    let late = [frame(DATA, 1, 3, b"abc"), request(5, "GET", "/", true)].concat();
    let heard = run.ask(&late);
    assert_eq!((on(&heard, 3), on(&heard, 5)), ("88 3 end ", ""));
    stay(&mut run, 22);
    assert!(run.peer.is_at_end(), "its time is over");
    assert_eq!(run.said(), ["dropped"]);

    let mut run = Run::limited(limits);
    run.ask(&call(1, "/never", ""));
    stay(&mut run, 111);
    run.ask(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]));
    run.wait(Duration::from_secs(3));
    assert!(run.peer.is_at_end(), "nothing is left to wait for");
}

#[test]
fn a_stream_whose_client_leaves_no_window_is_reset() {
    let mut run = Run::begun();
    run.ask(&[request(1, "GET", "/large", true), request(3, "GET", "/large", true)].concat());
    run.ask(&frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes()));
    // One of them takes a little now and then.
    for _ in 0..6 {
        let heard = stay(&mut run, 29);
        assert!(!on(&heard, 3).contains("reset"), "{heard:?}");
        run.ask(&frame(WINDOW_UPDATE, 0, 3, &20_000_u32.to_be_bytes()));
    }
    assert_eq!(on(&run.ask(&request(5, "GET", "/", true)), 5), "88 hello end ");
    let before = run.counters().memory_bytes;
    let heard = stay(&mut run, 90);
    assert!(on(&heard, 3).contains("reset") && !on(&heard, 1).contains("reset"), "{heard:?}");
    assert!(run.counters().memory_bytes < before);
    assert_eq!(on(&run.ask(&request(7, "GET", "/", true)), 7), "88 hello end ");
}

/// What is left of an answer when its body has ended is waited for while it moves.
#[test]
fn a_slow_reader_has_all_of_an_answer() {
    let mut run = Run::begun();
    let mut bytes = 0;
    let mut count = |heard: Heard| {
        assert!(!on(&heard, 0).contains("goaway"), "{heard:?}");
        bytes += on(&heard, 1).split(' ').filter_map(|word| word.parse::<usize>().ok()).sum::<usize>();
        on(&heard, 1).contains("end")
    };
    run.ask(&frame(WINDOW_UPDATE, 0, 0, &4_000_000_u32.to_be_bytes()));
    count(run.ask(&request(1, "GET", "/large", true)));
    run.ask(&frame(WINDOW_UPDATE, 0, 1, &(3_000_000_u32 - 65_535 - 110_000).to_be_bytes()));
    let mut has_ended = false;
    for window in [20_000_u32, 20_000, 20_000, 20_000, 20_000, 9000, 1000] {
        assert!(!has_ended);
        count(stay(&mut run, 50));
        has_ended = count(run.ask(&frame(WINDOW_UPDATE, 0, 1, &window.to_be_bytes())));
    }
    assert!(has_ended);
}

#[test]
fn who_is_not_answered_in_time_is_told_so() {
    let mut run = Run::begun();
    run.ask(
        &[request(1, "GET", "/never", true), call(3, "/never", ""), request(5, "GET", "/begun", true)]
            .concat(),
    );
    let heard = stay(&mut run, 59);
    assert!(!heard.contains_key(&1), "{heard:?}");
    let heard = stay(&mut run, 2);
    assert_eq!(
        (heard.contains_key(&1), heard.contains_key(&3), heard.contains_key(&5)),
        (true, false, false)
    );
    assert_eq!(run.said(), ["dropped"]);
    assert_eq!(on(&run.ask(&request(7, "GET", "/", true)), 7), "88 hello end ");
}

#[test]
fn a_service_that_is_never_ready_costs_its_clients_a_while() {
    let mut run = Run::begun();
    run.program.is_never_ready.set(true);
    run.ask(&[request(1, "GET", "/", true), call(3, "/", "")].concat());
    assert!(stay(&mut run, 59).keys().all(|stream| *stream == 0));
    let heard = stay(&mut run, 2);
    assert!(heard.contains_key(&1) && heard.contains_key(&3), "{heard:?}");
    run.program.is_never_ready.set(false);
    assert_eq!(on(&run.ask(&request(5, "GET", "/", true)), 5), "88 hello end ");
}

#[test]
fn a_body_of_which_nothing_arrives_is_late() {
    let mut run = Run::begun();
    run.ask(&[request(1, "POST", "/count", false), call(3, "/count", "")].concat());
    for _ in 0..5 {
        let heard = stay(&mut run, 20);
        assert_eq!(on(&heard, 1), "");
        run.ask(&frame(DATA, 0, 1, b"a"));
    }
    let heard = stay(&mut run, 40);
    assert_eq!((on(&heard, 1), on(&heard, 3)), ("8e end reset ", ""), "a call waits for its client");
    assert_eq!(on(&run.ask(&frame(DATA, 1, 3, b"abc")), 3), "88 3 end ");
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
