//! Clients of HTTP/2 that mean harm: floods, bombs, streams that never end. Each costs its own connection, in flat memory, and others are
//! served meanwhile. Streams that are reset at once are in `protocols/tests/tower_h2.rs`.

mod common;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::routing::{any, get, post};
use common::frames::*;
use common::http::{get as get_request, receive};
use common::program::{alone, rss_anon_bytes};
use common::traces::{Traces, total};
use common::*;
use http_body_util::BodyExt;
use ringmill::http::Limits;
use ringmill::{Config, DriverChoice, Running, Serve};
use std::convert::Infallible;
use std::future::pending;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|n| 1 + 2 * n)
}

/// A client that reads what it is told, on a thread of its own.
struct Attacker {
    stream: TcpStream,
    heard: JoinHandle<Heard>,
    /// Answers so far.
    answered: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Heard {
    /// What GOAWAY said.
    goaway: Option<u32>,
    /// What RST_STREAM said, and of how many streams.
    resets: Vec<u32>,
    /// Answers, each by the first byte of its fields: 0x88 is 200.
    answers: Vec<u8>,
}

impl Attacker {
    fn new(address: SocketAddr, settings: &[u8]) -> Attacker {
        let mut stream = connect_to(address);
        let mut reader = stream.try_clone().unwrap();
        let answered = Arc::<AtomicUsize>::default();
        let count = answered.clone();
        let heard = std::thread::spawn(move || listen(&mut reader, &count));
        stream.send([PREFACE, &*frame(SETTINGS, 0, 0, settings)].concat());
        Attacker { stream, heard, answered }
    }

    /// Sends until the server has enough; whether it took all.
    fn send(&mut self, pieces: impl Iterator<Item = Vec<u8>>) -> bool {
        let mut all = Vec::new();
        for piece in pieces {
            all.extend(piece);
            if all.len() > 64 * 1024 {
                if self.stream.write_all(&all).is_err() {
                    return false;
                }
                all.clear();
            }
        }
        self.stream.write_all(&all).is_ok()
    }

    /// What it heard until the server closed, which it does.
    fn end(self) -> Heard {
        self.heard.join().expect("it is told above")
    }

    /// The same with an end of its own.
    fn leave(self) -> Heard {
        let _ = self.stream.shutdown(Shutdown::Write);
        self.end()
    }
}

fn listen(reader: &mut impl Read, answered: &AtomicUsize) -> Heard {
    let mut heard = Heard::default();
    loop {
        let Frame { kind, payload, .. } = match read_frame(reader) {
            Ok(frame) => frame,
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return heard;
            }
            Err(error) => panic!("the server says and ends nothing: {error}"),
        };
        let code = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        match kind {
            GOAWAY => heard.goaway = Some(code(4)),
            RST_STREAM => heard.resets.push(code(0)),
            HEADERS => {
                heard.answers.push(payload[0]);
                answered.fetch_add(1, SeqCst);
            }
            _ => {}
        }
    }
}

#[derive(Clone, Default)]
struct Shared {
    waiting: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Is never answered, and its body is not read.
async fn wait(State(shared): State<Shared>, _body: Body) {
    let _guard = Guard(shared.dropped.clone());
    shared.waiting.fetch_add(1, SeqCst);
    pending().await
}

async fn endless() -> Body {
    let piece = Bytes::from_static(&[b'x'; 64 * 1024]);
    Body::from_stream(futures_util::stream::repeat_with(move || Ok::<_, Infallible>(piece.clone())))
}

async fn count(body: Body) -> String {
    body.collect().await.map_or(0, |body| body.to_bytes().len()).to_string()
}

struct Server {
    running: Running,
    address: SocketAddr,
    shared: Shared,
    /// What it stands in front of, where it is a proxy.
    _behind: Option<Running>,
}

impl Server {
    fn new(driver: DriverChoice, change: impl FnOnce(Serve<Router>) -> Serve<Router>) -> Server {
        let shared = Shared::default();
        let app = Router::new()
            .route("/", get(async || "hello"))
            .route("/wait", any(wait))
            .route("/endless", get(endless))
            .route("/count", post(count))
            .with_state(shared.clone());
        let serve = ringmill::serve("127.0.0.1:0", app).config(config(driver));
        let running = change(serve).start().expect("the engine starts");
        let address = ip(&running.addresses()[0]);
        Server { running, address, shared, _behind: None }
    }

    /// A proxy in front of it: each of its streams is a request to this server.
    #[cfg(feature = "proxy")]
    fn behind_a_proxy(self, driver: DriverChoice) -> Server {
        let upstream = ringmill::proxy::ProxyConfig::new(vec![ringmill::Address::Ip(self.address)]);
        let http2 = ringmill::adapt::Http2Limits {
            stalled_timeout: Duration::from_secs(2),
            ..ringmill::adapt::Http2Limits::default()
        };
        let proxied = ringmill::proxy::ProxyConfig {
            http2,
            http2_resets_per_sec_max: 2,
            connections_max: 1000,
            ..upstream
        };
        let proxy = move |_: &_| ringmill::proxy::Proxy::new(proxied.clone(), 1);
        let running = start(config(driver), proxy);
        let address = ip(&running.addresses()[0]);
        Server { running, address, shared: self.shared, _behind: Some(self.running) }
    }

    fn client(&self) -> Attacker {
        Attacker::new(self.address, b"")
    }

    /// Others are served, over both versions.
    #[track_caller]
    fn serves(&self) {
        let since = Instant::now();
        let mut client = connect_to(self.address);
        client.send(get_request("/"));
        assert_eq!(receive(&mut client).text(), "hello");
        drop(client);
        let mut client = self.client();
        client.send([request(1, "GET", "/", true)].into_iter());
        eventually(1, || client.answered.load(SeqCst));
        assert_eq!(client.leave().answers, [STATUS_200]);
        assert!(since.elapsed() < Duration::from_secs(5), "others wait: {:?}", since.elapsed());
    }
}

/// Has a server attacked on both drivers, in a process of its own: its memory may grow by so much, also while the attack goes on.
fn attacked(
    mib_max: usize,
    change: impl Fn(Serve<Router>) -> Serve<Router>,
    attack: impl Fn(&Server, &dyn Fn()),
) {
    on_both_drivers(|driver| {
        let server = Server::new(driver, &change);
        // What a server allocates once.
        server.serves();
        let traces = Traces::before(&server.running);
        let is_flat = || {
            let growth = traces.growth_bytes();
            assert!(growth < mib_max * MIB, "memory grew by {} KiB", growth / 1024);
        };
        attack(&server, &is_flat);
        is_flat();
        server.serves();
        traces.expect_none(&server.running);
        assert_eq!(
            server.shared.waiting.load(SeqCst),
            server.shared.dropped.load(SeqCst),
            "no future is left"
        );
    });
}

/// A server with the limits that it has anyway.
fn unchanged(serve: Serve<Router>) -> Serve<Router> {
    serve
}

/// CVE-2024-27316 and its family: a head without an end.
fn continue_for_ever(server: &Server, _: &dyn Fn()) {
    // Of fields, and of nothing.
    let field = [&[0, 1, b'a', 100], &[b'x'; 100][..]].concat();
    for payload in [field.repeat(150), Vec::new()] {
        let mut client = server.client();
        let begin = frame(HEADERS, 1, 1, &block("GET", "/"));
        let more = (0..20_000).map(|_| frame(CONTINUATION, 0, 1, &payload));
        client.send([begin].into_iter().chain(more));
        let heard = client.end();
        assert_eq!((heard.goaway, heard.answers.len()), (Some(ENHANCE_YOUR_CALM), 0), "{heard:?}");
    }
}

#[test]
fn a_flood_of_continuations() {
    alone(|| attacked(8, unchanged, continue_for_ever));
}

/// CVE-2016-6581: a field of 4,000 bytes in the table, and many references of a byte each. Every head would be 48 MB.
fn refer_to_much(server: &Server, _: &dyn Fn()) {
    let asked = total(&server.running).requests;
    let mut client = server.client();
    // Into the table (RFC 7541, 6.2.1): a name of a byte, a value of 4,000.
    let stored = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e], &[b'x'; 4000][..]].concat();
    let store = frame(HEADERS, 5, 1, &[block("GET", "/"), stored].concat());
    let bomb = |stream| frame(HEADERS, 5, stream, &[block("GET", "/"), vec![0xbe; 12_000]].concat());
    client.send([store].into_iter());
    eventually(asked + 1, || total(&server.running).requests);
    client.send(streams(500).skip(1).map(bomb));
    let heard = client.leave();
    let requests = total(&server.running).requests - asked;
    assert_eq!(requests, 1, "only the one that is none: {heard:?}");
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "{heard:?}");
}

#[test]
fn a_bomb_of_hpack() {
    alone(|| attacked(8, unchanged, refer_to_much));
}

/// One field that is too large is one answer, and no end of the connection.
#[test]
fn a_head_that_is_too_large() {
    alone(|| {
        attacked(8, unchanged, |server, _| {
            let mut client = server.client();
            let field = [&[0, 1, b'a', 100], &[b'x'; 100][..]].concat();
            let large = [block("GET", "/"), field.repeat(150)].concat();
            let begin = frame(HEADERS, 1, 1, &large[..8000]);
            client.send([begin, frame(CONTINUATION, 4, 1, &large[8000..])].into_iter());
            // 16 KiB as HPACK counts them, with 32 bytes a field.
            let many = [block("GET", "/"), vec![0x90; 500]].concat();
            client.send([frame(HEADERS, 5, 3, &many), request(5, "GET", "/", true)].into_iter());
            let heard = client.leave();
            assert!(heard.goaway.is_none_or(|code| code == 0), "{heard:?}");
            assert_eq!(heard.answers.iter().filter(|&&status| status == STATUS_200).count(), 1, "{heard:?}");
            assert_eq!(heard.answers.len() + heard.resets.len(), 3, "{heard:?}");
        });
    });
}

/// CVE-2019-9512, 9515 and 9513: frames that have to be answered, and frames that mean nothing. Who takes the answers may go on.
fn ask_for_nothing(server: &Server, is_flat: &dyn Fn()) {
    let ping = frame(PING, 0, 0, &[7; 8]);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let priority = frame(PRIORITY, 0, 1001, &[0, 0, 0, 1, 16]);
    let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    for kind in [ping, settings, priority, window] {
        let mut client = server.client();
        for _ in 0..10 {
            client.send((0..20_000).map(|_| kind.clone()));
            is_flat();
        }
        server.serves();
        client.leave();
    }
}

#[test]
fn a_flood_of_frames_without_a_stream() {
    alone(|| attacked(8, unchanged, ask_for_nothing));
}

/// CVE-2019-9517: the same from a client that reads nothing. It is held back, and then let go.
#[test]
fn a_flood_of_frames_whose_answers_nobody_reads() {
    alone(|| {
        on_both_drivers(|driver| {
            let impatient = Config { write_timeout: Duration::from_secs(2), ..config(driver) };
            let server = Server::new(driver, |serve| serve.config(impatient.clone()));
            server.serves();
            let traces = Traces::before(&server.running);
            for kind in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, b"")] {
                let mut stream = connect_narrow(server.address, 4096);
                stream.send([PREFACE, &*frame(SETTINGS, 0, 0, b"")].concat());
                let much = kind.repeat(10_000);
                let sent = (0..1000).take_while(|_| stream.write_all(&much).is_ok()).count();
                assert!(sent < 1000, "it takes all, and answers all");
                assert!(traces.growth_bytes() < 8 * MIB, "{} bytes", traces.growth_bytes());
                server.serves();
            }
            traces.expect_none(&server.running);
        });
    });
}

/// CVE-2025-8671: the client has the server reset its streams, which do not count as open then.
fn have_streams_reset(server: &Server, is_flat: &dyn Fn()) {
    let mut client = server.client();
    // A window beyond 2^31-1 is an error of the stream (RFC 9113, 6.9.1).
    let made = |stream| {
        [request(stream, "GET", "/wait", true), frame(WINDOW_UPDATE, 0, stream, &[0x7f, 255, 255, 255])]
            .concat()
    };
    client.send(streams(20_000).map(made));
    is_flat();
    let heard = client.end();
    assert_eq!(heard.goaway, Some(ENHANCE_YOUR_CALM), "{} resets", heard.resets.len());
    assert!(heard.resets.len() <= 1100, "{}", heard.resets.len());
}

#[test]
fn a_client_that_has_its_streams_reset() {
    alone(|| attacked(8, unchanged, have_streams_reset));
}

/// CVE-2019-9518: frames that bring nothing, for a handler that does not read them, and for one that does.
#[test]
fn a_flood_of_data_without_data() {
    alone(|| {
        attacked(8, unchanged, |server, is_flat| {
            for path in ["/wait", "/count"] {
                let mut client = server.client();
                client.send([request(1, "POST", path, false)].into_iter());
                for _ in 0..100 {
                    if !client.send((0..10_000).map(|_| frame(DATA, 0, 1, b""))) {
                        break;
                    }
                    is_flat();
                }
                server.serves();
                assert_eq!(client.leave().goaway, Some(ENHANCE_YOUR_CALM));
            }
        });
    });
}

/// Bytes one by one, each in a frame of its own, for a handler that does not read them.
fn send_single_bytes(server: &Server, is_flat: &dyn Fn()) {
    let mut client = server.client();
    client.send([request(1, "POST", "/wait", false)].into_iter());
    for _ in 0..100 {
        if !client.send((0..10_000).map(|_| frame(DATA, 0, 1, b"x"))) {
            break;
        }
        is_flat();
    }
    server.serves();
    assert_eq!(client.leave().goaway, Some(ENHANCE_YOUR_CALM));
}

#[test]
fn a_flood_of_data_byte_by_byte() {
    alone(|| attacked(8, unchanged, send_single_bytes));
}

/// CVE-2019-9517 as well: all streams want much, and there is no window. They are reset in time.
#[test]
fn streams_without_a_window() {
    alone(|| {
        let impatient = |serve: Serve<Router>| {
            let http2 = ringmill::adapt::Http2Limits {
                stalled_timeout: Duration::from_secs(2),
                ..ringmill::adapt::Http2Limits::default()
            };
            serve.http2(http2)
        };
        attacked(8, impatient, |server, is_flat| {
            // SETTINGS_INITIAL_WINDOW_SIZE is 0.
            let mut client = Attacker::new(server.address, &[0, 4, 0, 0, 0, 0]);
            client.send(streams(200).map(|stream| request(stream, "GET", "/endless", true)));
            std::thread::sleep(Duration::from_secs(1));
            is_flat();
            server.serves();
            std::thread::sleep(Duration::from_secs(3));
            client.send([request(401, "GET", "/", true), request(403, "GET", "/", true)].into_iter());
            let heard = client.leave();
            assert_eq!((heard.answers.len(), heard.resets.len()), (202, 200), "{heard:?}");
            assert!(heard.resets.iter().all(|&code| code == CANCEL), "{heard:?}");
        });
    });
}

/// Requests that are begun and not ended: as many as may, and no more. They are given up in time.
#[test]
fn streams_that_are_half_open() {
    alone(|| {
        let impatient = |serve: Serve<Router>| {
            serve.limits(Limits { body_idle_timeout: Duration::from_secs(3), ..Limits::default() })
        };
        attacked(32, impatient, |server, is_flat| {
            let mut clients: Vec<Attacker> = (0..10).map(|_| server.client()).collect();
            for client in &mut clients {
                client.send(streams(250).map(|stream| request(stream, "POST", "/count", false)));
            }
            std::thread::sleep(Duration::from_secs(1));
            is_flat();
            server.serves();
            std::thread::sleep(Duration::from_secs(4));
            for client in clients {
                let heard = client.leave();
                assert_eq!(heard.answers.len(), 200, "{heard:?}");
                let refused = heard.resets.iter().filter(|&&code| code == REFUSED_STREAM).count();
                assert_eq!(refused, 50, "{heard:?}");
            }
        });
    });
}

/// The same at a proxy, whose upstream is one of these servers: nothing of an attack is left at either, and others are served.
#[cfg(feature = "proxy")]
#[test]
fn a_proxy_is_attacked() {
    type Attack = fn(&Server, &dyn Fn());
    // Memory is that of the proxy and of the server behind it, each of whose replies fills buffers at both.
    const ATTACKS: [(&str, usize, Attack); 7] = [
        ("heads without an end", 8, continue_for_ever),
        ("bombs of HPACK", 8, refer_to_much),
        ("frames without a stream", 8, ask_for_nothing),
        ("streams that are to be reset", 8, have_streams_reset),
        ("resets at once", 8, reset_in_the_same_breath),
        ("resets one by one", 8, reset_one_by_one),
        ("no windows", 256, leave_no_window),
    ];
    alone(|| {
        on_both_drivers(|driver| {
            let server = Server::new(driver, unchanged).behind_a_proxy(driver);
            server.serves();
            for (what, mib_max, attack) in ATTACKS {
                let before = rss_anon_bytes();
                let is_flat = || {
                    let growth = rss_anon_bytes().saturating_sub(before);
                    assert!(growth < mib_max * MIB, "{what}: memory grew by {} KiB", growth / 1024);
                };
                attack(&server, &is_flat);
                is_flat();
                server.serves();
                let Shared { waiting, dropped } = &server.shared;
                eventually((what, 0), || (what, waiting.load(SeqCst) - dropped.load(SeqCst)));
            }
        });
    });
}

/// CVE-2023-44487, as it was.
#[cfg(feature = "proxy")]
fn reset_in_the_same_breath(server: &Server, is_flat: &dyn Fn()) {
    let mut client = server.client();
    let reset = |stream| {
        [request(stream, "GET", "/wait", true), frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].concat()
    };
    client.send(streams(20_000).map(reset));
    is_flat();
    assert_eq!(client.end().goaway, Some(ENHANCE_YOUR_CALM));
}

/// The same, each only when its request is under way, so that none of them waits to be looked at.
#[cfg(feature = "proxy")]
fn reset_one_by_one(server: &Server, _: &dyn Fn()) {
    let mut client = server.client();
    let before = server.shared.waiting.load(SeqCst);
    for (n, stream) in streams(200).enumerate() {
        if !client.send([request(stream, "GET", "/wait", true)].into_iter()) {
            break;
        }
        let since = Instant::now();
        while server.shared.waiting.load(SeqCst) <= before + n && since.elapsed() < Duration::from_millis(500)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !client.send([frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())].into_iter()) {
            break;
        }
    }
    assert_eq!(client.end().goaway, Some(ENHANCE_YOUR_CALM));
    let asked = server.shared.waiting.load(SeqCst) - before;
    assert!((10..100).contains(&asked), "{asked} requests came through");
}

/// Many replies, and no window for any.
#[cfg(feature = "proxy")]
fn leave_no_window(server: &Server, is_flat: &dyn Fn()) {
    let mut client = Attacker::new(server.address, &[0, 4, 0, 0, 0, 0]);
    client.send(streams(200).map(|stream| request(stream, "GET", "/endless", true)));
    std::thread::sleep(Duration::from_secs(1));
    is_flat();
    server.serves();
    std::thread::sleep(Duration::from_secs(3));
    client.send([request(401, "GET", "/", true)].into_iter());
    eventually(201, || client.answered.load(SeqCst));
    let heard = client.leave();
    assert_eq!((heard.answers.len(), heard.resets.len()), (201, 200), "{heard:?}");
}

/// What this process has is what the server has: clients here keep nothing.
#[test]
fn memory_is_measured() {
    alone(|| {
        let before = rss_anon_bytes();
        let kept = vec![7_u8; 32 * MIB];
        assert!(rss_anon_bytes() > before + 30 * MIB, "{}", kept.len());
    });
}
