//! Thousands of WebSockets at once, on both drivers: who does not read costs its place in the log, and no more than that; Pings, and the 1001 of
//! a drain, are spread, and hold nobody up. For ten thousand, with figures:
//! `RINGMILL_TEST_ALONE=1 RINGMILL_CONNECTIONS=9900 cargo test --test many_websockets -- --nocapture --test-threads 1`.
#![cfg(feature = "cli")]

mod common;

use common::program::{alone, rss_anon_bytes};
use common::{Client, connect_to, eventually, on_both_drivers, ws};
use ringmill::http::{self, Request};
use ringmill::topic::{Published, Start, Subscribe, Topics};
use ringmill::websocket::{Accept, Endpoint, Handler, Message, Options, Ws};
use ringmill::{Config, Dialer, DriverChoice, Engine, Io, Protocol, Running, Step, Tick, WorkerContext};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How many.
fn connections() -> usize {
    let asked = std::env::var("RINGMILL_CONNECTIONS").ok().and_then(|count| count.parse().ok());
    assert!(ringmill::raise_descriptor_limit() > 4000);
    asked.unwrap_or(1200)
}

/// Connects with buffers that are soon full, here and there: the server's follows the size of segments.
fn connect_narrow(address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.set_tcp_mss(536).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

const MESSAGE_BYTES: usize = 1000;
/// Fewer than the log keeps, so that nobody is closed as too slow.
const MESSAGES: usize = 190;
/// Before them, all at once: the worker keeps the buffers that it needed for that.
const FIRST: usize = 8;
/// The default of `TopicOptions::bytes_max`.
const LOG_BYTES: usize = 1 << 20;
/// What one of 9,900 who does not read may take: the log is not full then.
const STUCK_BYTES: usize = 180;
/// What is resident because something beside it is.
const PAGES_BYTES: usize = 96 << 10;

/// Resident memory in bytes, without what the allocator has free.
fn memory_in_use() -> usize {
    // SAFETY: it may be called at any time.
    unsafe { libc::malloc_trim(0) };
    rss_anon_bytes()
}

/// All subscribe to one topic.
struct Room;

impl Handler for Room {
    type State = ();

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
        Some(())
    }

    fn open(&mut self, _: &mut (), ws: &mut Ws<'_>) {
        ws.subscribe("room");
    }

    /// Goes on from a place that nobody knows, as all do whose broker was lost.
    fn message(&mut self, _: &mut (), _: Message<'_>, ws: &mut Ws<'_>) {
        let start = Start::After("0-7".parse().unwrap());
        ws.subscribe_with("elsewhere", Subscribe { start, ..Subscribe::default() });
    }
}

/// Nobody is asked for a sign of life, however long the test takes.
fn serve_room(driver: DriverChoice, topics: &Topics) -> Running {
    let topics = topics.clone();
    let builder = Engine::builder()
        .config(Config { driver, workers: Some(1), ..Config::default() })
        .outbound(topics.service());
    let server = move |worker: &WorkerContext| {
        let options = Options { ping_after: Duration::from_secs(3600), ..Options::default() };
        let room = Endpoint::with_options(Room, options).with_topics(&topics.hub(worker));
        http::server(|_, reply| reply.text("http")).websocket("/ws", room)
    };
    builder.listen("127.0.0.1:0", server).start().expect("it starts")
}

#[test]
fn who_does_not_read_costs_its_place_in_the_log() {
    alone(|| {
        on_both_drivers(|driver| {
            let topics = Topics::default();
            let running = serve_room(driver, &topics);
            let address = common::ip(&running.addresses()[0]);
            let count = connections();
            let open = |index: usize| {
                let mut stream =
                    if index.is_multiple_of(2) { connect_to(address) } else { connect_narrow(address) };
                ws::upgrade(&mut stream, "/ws", "");
                stream
            };
            let mut streams: Vec<TcpStream> = (0..count).map(open).collect();
            eventually(true, || topics.subscribers("room") == count);
            let text = |number: usize| format!("{number:>MESSAGE_BYTES$}");
            let frame = |number: usize| ws::unmasked(0x81, text(number).as_bytes());
            let mut received = frame(0);
            let publish = |number: usize| {
                assert_eq!(topics.publish("room", text(number)), Published::Done { offset: None });
            };
            let mut read = |number: usize| {
                let expected = frame(number);
                for stream in streams.iter_mut().step_by(2) {
                    stream.read_exact(&mut received).unwrap();
                    assert!(received == expected, "message {number}");
                }
            };
            (0..FIRST).for_each(publish);
            (0..FIRST).for_each(&mut read);
            // What was sent last is the kernel's until the worker turns again.
            let turn = || connect_to(address).ask(common::http::get("/"), b"HTTP/1.1 200 OK");
            turn();
            let before = memory_in_use();
            for number in FIRST..FIRST + MESSAGES {
                publish(number);
                read(number);
            }
            turn();
            let (grown, stuck) = (memory_in_use().saturating_sub(before), count / 2);
            let each = grown / stuck;
            println!("{driver}: {count} subscribers, {stuck} do not read: {grown} bytes more, {each} each");
            // The bar is for thousands. Of fewer, who does not read may own that: the rest of a frame, and what it takes to send it.
            let kept = MESSAGES * (MESSAGE_BYTES + 300);
            let most = (LOG_BYTES + 8 * count).min(kept + stuck * STUCK_BYTES + PAGES_BYTES);
            assert!(grown <= most, "{grown} bytes more, expected at most {most}");
            // Each of them is where it was: its next messages are all there.
            for number in 0..FIRST + MESSAGES {
                streams[1].read_exact(&mut received).unwrap();
                assert!(received == frame(number), "message {number}");
            }
        });
    });
}

struct Quiet;

impl Handler for Quiet {
    type State = ();

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
        Some(())
    }

    fn message(&mut self, _: &mut (), _: Message<'_>, _: &mut Ws<'_>) {}
}

/// Wants to be called every few milliseconds, and notes the longest time between two calls: a turn of the worker that was that long.
struct Pulse {
    dialer: Option<Dialer>,
    last: Option<Tick>,
    longest_ns: Arc<AtomicU64>,
}

impl Protocol for Pulse {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, _: &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }

    fn start(&mut self, dialer: Dialer) {
        dialer.set_timer(Some(Tick(0)));
        self.dialer = Some(dialer);
    }

    fn tick(&mut self, now: Tick) {
        if let Some(last) = self.last.replace(now) {
            self.longest_ns.fetch_max(now.since(last).as_nanos() as u64, Relaxed);
        }
        if let Some(dialer) = &self.dialer {
            dialer.set_timer(Some(now.after(Duration::from_millis(5))));
        }
    }
}

const PING_AFTER: Duration = Duration::from_secs(6);
const DRAIN: Duration = Duration::from_secs(6);
/// Of a turn, without optimisation and beside other tests.
const TURN_MAX: Duration = Duration::from_secs(2);

fn serve(driver: DriverChoice, longest_ns: Arc<AtomicU64>) -> Running {
    let config = Config { driver, workers: Some(1), ..Config::default() };
    let pulse = move |_: &_| Pulse { dialer: None, last: None, longest_ns: longest_ns.clone() };
    let builder = Engine::builder().config(config).outbound(pulse);
    let server = |_: &_| {
        let options = Options { ping_after: PING_AFTER, pong_within: PING_AFTER, ..Options::default() };
        http::server(|_, reply| reply.text("http")).websocket("/ws", Endpoint::with_options(Quiet, options))
    };
    builder.listen("127.0.0.1:0", server).start().expect("it starts")
}

/// Waits until each has been sent a frame that begins so; when each was, after `since`. They are answered.
fn arrivals(streams: &mut [TcpStream], first: u8, since: Instant, answer: &[u8]) -> Vec<Duration> {
    let mut times = vec![None; streams.len()];
    let mut missing = streams.len();
    let deadline = since + Duration::from_secs(60);
    while missing > 0 {
        assert!(Instant::now() < deadline, "{missing} are missing");
        for (stream, time) in streams.iter_mut().zip(&mut times).filter(|(_, time)| time.is_none()) {
            let mut frame = [0; 128];
            match stream.read(&mut frame) {
                Ok(bytes) => {
                    assert!(bytes >= 2 && frame[0] == first, "{:?}", &frame[..bytes]);
                    *time = Some(since.elapsed());
                    missing -= 1;
                    stream.write_all(answer).unwrap();
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut times: Vec<Duration> = times.into_iter().flatten().collect();
    times.sort();
    times
}

/// What came was spread over this time at least, but for a few stragglers.
#[track_caller]
fn expect_spread(
    what: &str,
    driver: DriverChoice,
    times: &[Duration],
    least: Duration,
    longest_ns: &AtomicU64,
) {
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    let turn = Duration::from_nanos(longest_ns.swap(0, Relaxed));
    println!("{driver}: {} {what} from {:?} to {:?}, longest turn {turn:?}", times.len(), times[0], at(100));
    assert!(at(95) - at(5) >= least, "{what}: {:?} to {:?}", at(5), at(95));
    assert!(turn < TURN_MAX, "{what}: a turn of {turn:?}");
}

#[test]
fn pings_and_goodbyes_to_many_are_spread_and_hold_nobody_up() {
    on_both_drivers(|driver| {
        let longest_ns = Arc::new(AtomicU64::new(0));
        let running = serve(driver, longest_ns.clone());
        let address = common::ip(&running.addresses()[0]);
        let mut streams: Vec<TcpStream> = (0..connections()).map(|_| connect_to(address)).collect();
        // All in one moment, as after a restart.
        for stream in &mut streams {
            stream.send(ws::handshake("/ws", ""));
        }
        let since = Instant::now();
        for stream in &mut streams {
            ws::head(stream);
            stream.set_nonblocking(true).unwrap();
        }
        longest_ns.store(0, Relaxed);
        let pong = ws::masked(0x8a, b"");
        let pings = arrivals(&mut streams, 0x89, since, &pong);
        // They are spread over a quarter of it.
        expect_spread("Pings", driver, &pings, PING_AFTER / 8, &longest_ns);
        let since = Instant::now();
        running.handle().drain(DRAIN);
        let closes = arrivals(&mut streams, 0x88, since, &ws::masked(0x88, &1001u16.to_be_bytes()));
        // Over a half of it.
        expect_spread("Closes", driver, &closes, DRAIN / 4, &longest_ns);
        drop(streams);
        eventually(true, || running.stats().total().closed >= closes.len() as u64);
    });
}

#[test]
fn those_that_missed_messages_begin_anew_one_after_another() {
    const MANY: usize = 60;
    on_both_drivers(|driver| {
        let topics = Topics::default();
        let running = serve_room(driver, &topics);
        let address = common::ip(&running.addresses()[0]);
        let mut streams: Vec<TcpStream> = (0..MANY).map(|_| connect_to(address)).collect();
        for stream in &mut streams {
            ws::upgrade(stream, "/ws", "");
        }
        eventually(true, || topics.subscribers("room") == MANY);
        let since = Instant::now();
        for stream in &mut streams {
            stream.send(ws::text("on"));
            stream.set_nonblocking(true).unwrap();
        }
        eventually(true, || topics.subscribers("room") == 0);
        let closes = arrivals(&mut streams, 0x88, since, &ws::masked(0x88, &4009u16.to_be_bytes()));
        // They have 20 ms each.
        expect_spread("Closes", driver, &closes, Duration::from_millis(400), &AtomicU64::new(0));
    });
}
