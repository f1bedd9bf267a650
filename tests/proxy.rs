//! The reverse proxy over real sockets, on both drivers: what is passed on and what is not, whose reply whose is, who waits for
//! whom. Upstreams follow scripts.
#![cfg(feature = "proxy")]

#[path = "proxy/buffering.rs"]
mod buffering;
mod common;
#[path = "proxy/evil.rs"]
mod evil;
#[path = "proxy/flows.rs"]
mod flows;
#[path = "proxy/relay.rs"]
mod relay;
#[path = "proxy/two.rs"]
mod two;

use common::http::{get, post, receive, receive_head};
use common::upstream::{Line, Upstream};
use common::*;
use ringmill::http::{self, Limits};
use ringmill::proxy::{
    AccessLog, Balance, Batch, Check, Counted, Counts, Ejection, Fleet, HashBy, IdRules, Limit, LineWriter,
    LogFormat, LogRules, Observe, Page, Pages, Per, Proxy, ProxyConfig, RequestIds, RouteRate, ServerCounts,
    Sticky, Traces,
};
use ringmill::{Address, Config, DriverChoice, Running};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

fn serve(driver: DriverChoice, config: ProxyConfig) -> Running {
    start(common::config(driver), move |_| Proxy::new(config.clone(), 1))
}

/// A proxy in front of these.
fn before(driver: DriverChoice, upstreams: &[&Upstream]) -> Running {
    serve(driver, patient(upstreams.iter().map(|upstream| upstream.address.clone()).collect()))
}

fn config(upstream: &Upstream) -> ProxyConfig {
    patient(vec![upstream.address.clone()])
}

/// Idle connections are kept, however slow the machine is.
fn patient(upstreams: Vec<Address>) -> ProxyConfig {
    ProxyConfig { keep_timeout: PATIENCE, ..ProxyConfig::new(upstreams) }
}

/// An address where nobody listens.
fn deaf() -> (socket2::Socket, Address) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, Address::Ip(address))
}

/// The reply to a GET is its own.
#[track_caller]
fn expect_own(client: &mut TcpStream, target: &str) {
    client.send(get(target));
    let reply = receive(client);
    assert_eq!((reply.status, reply.text()), (200, format!("{target} ").as_str()), "{}", reply.head);
}

#[test]
fn a_request_is_rewritten_and_so_is_its_reply() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 201 Made\r\nDate: now\r\nKeep-Alive: 5\r\nX: y\r\nConnection: z\r\nZ: z\r\nContent-Length: 2\r\n\r\nhi");
            line.wait_for_end();
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send("POST /a?b HTTP/1.1\r\nHost: test\r\nA: b\r\nConnection: c, keep-alive\r\nC: d\r\nX-Forwarded-For: 6.6.6.6\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(
            upstream.asked(),
            "POST /a?b HTTP/1.1\r\nhost: test\r\nA: b\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-proto: http\r\n\
             x-forwarded-host: test\r\nvia: 1.1 ringmill\r\ncontent-length: 3\r\n\r\nabc"
        );
        client.expect(
            "HTTP/1.1 201 Made\r\nDate: now\r\nX: y\r\nvia: 1.1 ringmill\r\ncontent-length: 2\r\n\r\nhi",
        );
    });
}

#[test]
fn connections_are_kept_and_shared_by_clients() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let running = before(driver, &[&upstream]);
        for n in 0..3 {
            let mut client = connect(&running);
            for m in 0..3 {
                expect_own(&mut client, &format!("/{n}/{m}"));
            }
        }
        assert_eq!(upstream.accepted(), 1);
    });
}

#[test]
fn requests_in_a_pipeline_are_answered_in_order() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        let all: String = (0..20)
            .map(|n| match n % 3 {
                0 => get(&format!("/{n}")),
                1 => post(&format!("/{n}"), "body"),
                _ => common::http::post_chunked(&format!("/{n}"), "4\r\nbody\r\n0\r\n\r\n"),
            })
            .collect();
        client.send(all);
        for n in 0..20 {
            let body = ["", "body", "4\r\nbody\r\n0\r\n\r\n"][n % 3];
            assert_eq!(receive(&mut client).text(), format!("/{n} {body}"));
        }
    });
}

#[test]
fn replies_without_a_body_leave_the_connection_usable() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let reply = match request.split(' ').nth(1).unwrap_or_default() {
                    "/204" => "HTTP/1.1 204 No\r\nDate: now\r\n\r\n",
                    "/304" => "HTTP/1.1 304 Same\r\nDate: now\r\nContent-Length: 9\r\n\r\n",
                    "/head" => "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 9\r\n\r\n",
                    _ => "HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 4\r\n\r\nlast",
                };
                line.send(reply);
            }
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        let via = "Date: now\r\nvia: 1.1 ringmill\r\n";
        client.ask(get("/204"), format!("HTTP/1.1 204 No\r\n{via}\r\n"));
        client.ask(get("/304"), format!("HTTP/1.1 304 Same\r\n{via}content-length: 9\r\n\r\n"));
        client.ask(
            "HEAD /head HTTP/1.1\r\nHost: a\r\n\r\n",
            format!("HTTP/1.1 200 OK\r\n{via}content-length: 9\r\n\r\n"),
        );
        client.ask(get("/"), format!("HTTP/1.1 200 OK\r\n{via}content-length: 4\r\n\r\nlast"));
        assert_eq!(upstream.accepted(), 1);
    });
}

#[test]
fn bodies_stream_both_ways_at_once() {
    const BYTES: usize = 3 << 20;
    on_both_drivers(|driver| {
        // Sends back what comes, as it comes, and reads no more than it could send.
        let upstream = Upstream::new(|line| {
            line.head();
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let mut left = BYTES;
            while left > 0 {
                let mut chunk = Vec::new();
                while chunk.len() < 10_000.min(left) {
                    chunk.push(line.byte().expect("all of it comes"));
                }
                left -= chunk.len();
                line.send([format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk, b"\r\n"].concat());
            }
            line.send("0\r\n\r\n");
            line.wait_for_end();
        });
        let running = before(driver, &[&upstream]);
        let client = connect(&running);
        let mut sender = client.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            sender.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"));
            sender.send(pattern(0, BYTES));
        });
        let mut client = client;
        assert_eq!(receive_head(&mut client).status, 200);
        let mut body = Vec::new();
        while let Some(chunk) = common::http::receive_chunk(&mut client) {
            body.extend_from_slice(&chunk);
        }
        assert!(body == pattern(0, BYTES));
        sending.join().unwrap();
    });
}

#[test]
fn trailers_pass_both_ways() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\nKeep_Alive: x\r\n\r\n");
            line.wait_for_end();
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send(common::http::post_chunked(
            "/",
            "3;x=y\r\nabc\r\n0\r\nX-Mine: 1\r\nX-Forwarded-For: 6\r\n\r\n",
        ));
        assert!(upstream.asked().ends_with("\r\n\r\n3\r\nabc\r\n0\r\nX-Mine: 1\r\n\r\n"));
        client.expect("HTTP/1.1 200 OK\r\nDate: now\r\nvia: 1.1 ringmill\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n");
    });
}

#[test]
fn a_client_that_does_not_read_pauses_its_upstream_alone() {
    const BYTES: usize = 64 << 20;
    on_both_drivers(|driver| {
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = sent.clone();
        let upstream = Upstream::new(move |line| {
            while let Some(request) = line.request() {
                if request.starts_with("GET /large ") {
                    line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
                    for at in (0..BYTES).step_by(1 << 16) {
                        if !line.try_send(pattern(at, 1 << 16)) {
                            return;
                        }
                        counted.fetch_add(1 << 16, std::sync::atomic::Ordering::SeqCst);
                    }
                } else {
                    line.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n/s ");
                }
            }
        });
        // So that a turn brings much more than the proxy takes at a time: it looks after that itself where it is debugged.
        let config = Config { turn_bytes_max: 1 << 20, ..common::config(driver) };
        let proxy = self::config(&upstream);
        let running = start(config, move |_| Proxy::new(proxy.clone(), 1));
        let mut slow = connect_narrow(ip(&running.addresses()[0]), 16 * 1024);
        slow.send(get("/large"));
        let stuck = settled(|| sent.load(std::sync::atomic::Ordering::SeqCst));
        assert!(stuck < 16 << 20, "the upstream could send {stuck} bytes");
        let mut other = connect(&running);
        other.send(get("/small"));
        assert_eq!(receive(&mut other).text(), "/s ");
        assert_eq!(receive_head(&mut slow).status, 200);
        expect_pattern(&mut slow, BYTES, 1 << 20);
        expect_own_small(&mut slow);
    });
}

#[track_caller]
fn expect_own_small(client: &mut TcpStream) {
    client.send(get("/small"));
    assert_eq!(receive(client).text(), "/s ");
}

#[test]
fn an_upstream_that_does_not_read_pauses_its_client_alone() {
    const BYTES: usize = 48 << 20;
    on_both_drivers(|driver| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |line| {
            while let Some(head) = line.head() {
                if head.starts_with("POST ") {
                    wait.lock().unwrap().recv().unwrap();
                    for expected in pattern(0, BYTES) {
                        assert_eq!(line.byte(), Some(expected));
                    }
                }
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n/s ");
            }
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"));
        client.set_nonblocking(true).unwrap();
        let (mut sent, body) = (0, pattern(0, BYTES));
        let stuck = settled(|| {
            while let Ok(bytes) = client.write(&body[sent..]) {
                sent += bytes;
            }
            sent
        });
        assert!(stuck < 24 << 20, "the client could send {stuck} bytes");
        client.set_nonblocking(false).unwrap();
        expect_own_small(&mut connect(&running));
        go.send(()).unwrap();
        client.send(&body[stuck..]);
        assert_eq!(receive(&mut client).text(), "/s ");
        expect_own_small(&mut client);
    });
}

#[test]
fn interim_replies_pass_to_whom_they_mean_something() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while line.head().is_some() {
                line.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: <a>\r\nConnection: b\r\nB: c\r\n\r\n");
                line.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\nhi");
            }
        });
        let running = before(driver, &[&upstream]);
        let last = "HTTP/1.1 200 OK\r\nDate: now\r\nvia: 1.1 ringmill\r\ncontent-length: 2\r\n";
        let others = "HTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 102 Wait\r\n\r\n";
        let mut client = connect(&running);
        client.ask(get("/"), format!("{others}{last}\r\nhi"));
        let mut asking = connect(&running);
        asking.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
        // The body was not sent: the connection cannot go on.
        asking.expect(format!("HTTP/1.1 100 Continue\r\n\r\n{others}{last}connection: close\r\n\r\nhi"));
        asking.expect_eof();
        let mut old = connect(&running);
        old.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        old.expect(format!("{last}connection: keep-alive\r\n\r\nhi"));
    });
}

#[test]
fn a_body_waits_for_the_upstreams_100() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            let head = line.head().unwrap();
            assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
            line.send("HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!([line.byte(), line.byte()], [Some(b'o'), Some(b'k')]);
            line.send("HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 0\r\n\r\n");
            line.answer_honestly();
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        client.ask("ok", "HTTP/1.1 200 OK\r\nDate: now\r\nvia: 1.1 ringmill\r\ncontent-length: 0\r\n\r\n");
        expect_own(&mut client, "/next");
        assert_eq!(upstream.accepted(), 1);
    });
}

#[test]
fn an_early_answer_passes_and_ends_both_connections() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            if line.number > 0 {
                while line.answer_honestly() {}
                return;
            }
            line.head();
            line.send("HTTP/1.1 413 Too much\r\nDate: now\r\nContent-Length: 2\r\n\r\nno");
            line.wait_for_end();
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegins");
        client.expect("HTTP/1.1 413 Too much\r\nDate: now\r\nvia: 1.1 ringmill\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno");
        client.expect_eof();
        expect_own(&mut connect(&running), "/victim");
        assert_eq!(upstream.accepted(), 2);
    });
}

#[test]
fn an_event_passes_at_once() {
    on_both_drivers(|driver| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |line| {
            line.request();
            line.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
            for n in 0..3 {
                line.send(format!("data: {n}\n\n"));
                wait.lock().unwrap().recv().unwrap();
            }
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send(get("/events"));
        assert_eq!(receive_head(&mut client).field("transfer-encoding"), Some("chunked"));
        for n in 0..3 {
            client.expect(format!("9\r\ndata: {n}\n\n\r\n"));
            go.send(()).unwrap();
        }
        client.ask("", "0\r\n\r\n");
    });
}

/// Whether this is Linux 6.17 or later.
fn limits_receives() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(17))
}

#[test]
fn a_hundred_slow_readers_cost_a_bounded_amount() {
    const READERS: usize = 100;
    const BYTES: usize = 8 << 20;
    alone(|| {
        on_both_drivers(|driver| {
            let upstream = Upstream::new(|line| {
                line.request();
                line.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
                for at in (0..BYTES).step_by(1 << 16) {
                    if !line.try_send(pattern(at, 1 << 16)) {
                        return;
                    }
                }
                line.wait_for_end();
            });
            let running = before(driver, &[&upstream]);
            // What the driver before has left goes away by and by.
            let before = settled(rss_anon_bytes);
            let address = ip(&running.addresses()[0]);
            let mut readers: Vec<TcpStream> = (0..READERS).map(|_| connect_narrow(address, 4096)).collect();
            readers.iter_mut().for_each(|reader| reader.send(get("/")));
            settled(|| running.stats().total().sent_bytes);
            let each = rss_anon_bytes().saturating_sub(before) / READERS;
            // 0.79 MB were seen on io_uring and 0.59 on epoll; where the kernel may always bring what it likes before a pause counts, as before
            // Linux 6.17, 1.8 on io_uring.
            let most = if driver == DriverChoice::Uring && !limits_receives() { 3 << 20 } else { 1 << 20 };
            assert!(each < most, "{each} bytes for each of {READERS} readers of {BYTES}");
            for reader in &mut readers[..5] {
                assert_eq!(receive_head(reader).status, 200);
                expect_pattern(reader, BYTES, 1 << 20);
            }
        });
    });
}

#[test]
fn a_client_of_http_1_0_is_given_no_chunks() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 200 OK\r\nDate: now\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\nX: y\r\n\r\n");
            line.wait_for_end();
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert!(upstream.asked().starts_with(&format!("GET /x HTTP/1.1\r\nhost: {}\r\n", upstream.address)));
        client.expect("HTTP/1.1 200 OK\r\nDate: now\r\nvia: 1.1 ringmill\r\nconnection: close\r\n\r\nhi!");
        client.expect_eof();
    });
}

#[test]
fn a_reply_until_the_end_is_chunked_for_the_client() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.0 200 OK\r\nDate: now\r\n\r\nall of it");
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        for _ in 0..2 {
            client.send(get("/"));
            let reply = receive(&mut client);
            assert_eq!((reply.field("transfer-encoding"), reply.text()), (Some("chunked"), "all of it"));
            assert_eq!(reply.field("via"), Some("1.0 ringmill"));
        }
        assert_eq!(upstream.accepted(), 2);
    });
}

#[test]
fn a_cut_reply_is_not_taken_for_a_whole_one() {
    on_both_drivers(|driver| {
        for start in ["Content-Length: 10\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\n"] {
            let upstream = Upstream::new(move |line| {
                if line.number > 0 {
                    while line.answer_honestly() {}
                    return;
                }
                line.request();
                line.send(format!("HTTP/1.1 200 OK\r\nDate: now\r\n{start}hi"));
            });
            let running = before(driver, &[&upstream]);
            let mut client = connect(&running);
            client.send(get("/"));
            assert_eq!(receive_head(&mut client).status, 200);
            let rest = client.rest();
            assert!((rest.ends_with(b"hi") || rest.ends_with(b"hi\r\n")), "{}", show(&rest));
            // For HTTP/1.0 the end would be the end of the reply.
            expect_own(&mut connect(&running), "/victim");
        }
        let upstream = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        });
        let running = before(driver, &[&upstream]);
        let mut old = connect(&running);
        old.send("GET / HTTP/1.0\r\n\r\n");
        let seen = old.expect_reset();
        assert!(seen.ends_with(b"hi"), "{}", show(&seen));
    });
}

#[test]
fn a_websocket_is_passed_on_behind_the_101_and_not_before() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            let head = line.head().unwrap();
            assert!(head.ends_with("connection: upgrade\r\nupgrade: websocket\r\n\r\n"), "{head}");
            if head.starts_with("GET /no ") {
                line.send("HTTP/1.1 403 No\r\nDate: now\r\nContent-Length: 0\r\n\r\n");
                // What the client sent behind its request is no request of ours.
                line.answer_honestly();
                return;
            }
            line.send("HTTP/1.1 101 Switching\r\nDate: now\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst");
            while let Some(heard) = line.some() {
                line.try_send(heard.to_ascii_uppercase());
            }
            line.try_send("last");
        });
        let running = before(driver, &[&upstream]);
        let ask = |target| {
            format!(
                "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
            )
        };
        let mut client = connect(&running);
        client.send(ask("/"));
        client.expect("HTTP/1.1 101 Switching\r\nDate: now\r\nSec-WebSocket-Accept: x\r\nvia: 1.1 ringmill\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nfirst");
        client.ask("hello", "HELLO");
        client.ask("GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n");
        let large = vec![b'a'; 1 << 20];
        let mut sender = client.try_clone().unwrap();
        let sent = large.clone();
        let sending = std::thread::spawn(move || sender.send(sent));
        client.expect(large.to_ascii_uppercase());
        sending.join().unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // Its end is passed on, and what is said behind that still comes.
        assert_eq!(client.rest(), b"last");
        // Whoever leaves with a reset leaves nothing behind.
        let mut leaving = connect(&running);
        leaving.send(ask("/"));
        leaving.expect("HTTP/1.1 101 ");
        reset(leaving);
        eventually(0, || running.stats().total().connections);
        let mut refused = connect(&running);
        refused.send(ask("/no") + &get("/behind"));
        assert_eq!(receive(&mut refused).status, 403);
        assert_eq!(receive(&mut refused).text(), "/behind ");
    });
}

#[test]
fn a_kept_connection_that_has_ended_costs_no_request_that_may_be_repeated() {
    on_both_drivers(|driver| {
        for (request, expected) in [
            (get("/again"), Ok("/again ")),
            (post("/again", "x").replace("POST", "PUT"), Ok("/again x")),
            (post("/again", "x").replace("Host", "Idempotency-Key: 1\r\nHost"), Ok("/again x")),
            (post("/again", "x"), Err(502)),
        ] {
            // The first connection ends when it is used again.
            let upstream = Upstream::new(|line| {
                line.answer_honestly();
                match line.number {
                    0 => drop(line.request()),
                    _ => while line.answer_honestly() {},
                }
            });
            let running = before(driver, &[&upstream]);
            let mut client = connect(&running);
            expect_own(&mut client, "/first");
            client.send(&request);
            let reply = receive(&mut client);
            match expected {
                Ok(text) => assert_eq!((reply.status, reply.text()), (200, text), "{request}"),
                Err(status) => assert_eq!(reply.status, status, "{request}"),
            }
            expect_own(&mut client, "/victim");
        }
    });
}

#[test]
fn an_upstream_that_fails_is_not_asked_twice_for_everything() {
    const REQUESTS: usize = 300;
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| drop(line.request()));
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        let began = Instant::now();
        for _ in 0..REQUESTS {
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 502);
        }
        // A fifth, ten to begin with, and three a second.
        let most = REQUESTS + REQUESTS / 5 + 10 + 3 * (1 + began.elapsed().as_secs() as usize);
        let asked = upstream.accepted();
        assert!((REQUESTS + REQUESTS / 5..=most).contains(&asked), "{asked} of {REQUESTS}, at most {most}");
    });
}

#[test]
fn an_end_of_a_kept_connection_is_seen_before_it_is_used() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            line.answer_honestly();
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        for n in 0..10 {
            client.send(post(&format!("/{n}"), "x"));
            assert_eq!(receive(&mut client).text(), format!("/{n} x"));
            // The upstream's connection is gone when nothing but the client's is left.
            eventually(1, || running.stats().total().connections);
        }
        assert_eq!(upstream.accepted(), 10);
    });
}

#[test]
fn of_several_upstreams_those_that_live_are_used() {
    on_both_drivers(|driver| {
        for balance in [Balance::TwoChoices, Balance::RoundRobin] {
            let (one, two, (_bound, deaf)) = (Upstream::honest(), Upstream::honest(), deaf());
            let upstreams = vec![one.address.clone(), deaf, two.address.clone()];
            let running = serve(driver, ProxyConfig { balance, ..ProxyConfig::new(upstreams) });
            let mut clients: Vec<TcpStream> = (0..8).map(|_| connect(&running)).collect();
            for n in 0..10 {
                for client in &mut clients {
                    client.send(post(&format!("/{n}"), "x"));
                }
                for client in &mut clients {
                    assert_eq!(receive(client).text(), format!("/{n} x"));
                }
            }
            assert!(one.accepted() > 0 && two.accepted() > 0, "{} and {}", one.accepted(), two.accepted());
        }
    });
}

#[test]
fn who_does_not_answer_is_said_to_the_client() {
    on_both_drivers(|driver| {
        let (_bound, deaf) = deaf();
        let running = serve(driver, ProxyConfig::new(vec![deaf]));
        let mut client = connect(&running);
        for _ in 0..2 {
            client.send(post("/", "x"));
            let reply = receive(&mut client);
            assert_eq!(
                (reply.status, reply.text()),
                (502, "502 Bad Gateway: the upstream could not be reached\n")
            );
        }
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive_head(&mut client).status, 502);

        let silent = Upstream::new(|line| {
            line.request();
            line.wait_for_end();
        });
        let timeout = Duration::from_millis(100);
        let running = serve(driver, ProxyConfig { first_byte_timeout: timeout, ..config(&silent) });
        let mut client = connect(&running);
        let began = Instant::now();
        client.send(get("/"));
        let reply = receive(&mut client);
        assert_eq!(
            (reply.status, reply.text()),
            (504, "504 Gateway Timeout: the upstream did not answer in time\n")
        );
        assert!(began.elapsed() >= timeout);

        let stops = Upstream::new(|line| {
            line.request();
            line.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi");
            line.wait_for_end();
        });
        let running = serve(driver, ProxyConfig { idle_timeout: timeout, ..config(&stops) });
        let mut client = connect(&running);
        client.send(get("/"));
        assert!(client.rest().ends_with(b"\r\n\r\nhi"));
    });
}

#[test]
fn a_connection_that_is_not_made_in_time_is_504() {
    on_both_drivers(|driver| {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        // Its queue for one is full, so the kernel drops what else comes.
        let _first = connect_to(address);
        let config = Config { connect_timeout: Duration::from_millis(100), ..common::config(driver) };
        let running = start(config, move |_| Proxy::new(ProxyConfig::new(vec![address.into()]), 1));
        let mut client = connect(&running);
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 504);
    });
}

#[test]
fn requests_wait_for_a_connection_and_not_all_may() {
    on_both_drivers(|driver| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |line| {
            while line.request().is_some() {
                wait.lock().unwrap().recv().unwrap();
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
            }
        });
        let limits = ProxyConfig { connections_max: 1, queue_max: 2, ..config(&upstream) };
        let running = serve(driver, limits.clone());
        let mut clients: Vec<TcpStream> = (0..4).map(|_| connect(&running)).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(get(&format!("/{n}")));
            eventually(n as u64 + 1, || running.stats().total().requests);
        }
        let reply = receive(&mut clients[3]);
        assert_eq!((reply.status, reply.field("retry-after")), (503, Some("1")));
        // One that waits leaves: the others move up.
        drop(clients.remove(1));
        // The client's and the upstream's are left.
        eventually(4, || running.stats().total().connections);
        for client in &mut clients[..2] {
            go.send(()).unwrap();
            assert_eq!(receive(client).text(), "hi");
        }
        assert_eq!(upstream.accepted(), 1);

        let queue_timeout = Duration::from_millis(100);
        let running = serve(driver, ProxyConfig { queue_timeout, fleet: Fleet::default(), ..limits });
        let mut clients: Vec<TcpStream> = (0..2).map(|_| connect(&running)).collect();
        clients[0].send(get("/first"));
        eventually(1, || running.stats().total().requests);
        clients[1].send(get("/second"));
        assert_eq!(receive(&mut clients[1]).status, 503);
        go.send(()).unwrap();
        assert_eq!(receive(&mut clients[0]).status, 200);
    });
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    on_both_drivers(|driver| {
        let (ended, end) = std::sync::mpsc::channel();
        let upstream = Upstream::new(move |line| {
            if line.number == 0 {
                line.request();
                line.wait_for_end();
                ended.send(()).unwrap();
            } else {
                while line.answer_honestly() {}
            }
        });
        let running = before(driver, &[&upstream]);
        let mut client = connect(&running);
        client.send(get("/"));
        upstream.asked();
        drop(client);
        end.recv_timeout(PATIENCE).expect("the upstream is told");
        eventually(0, || running.stats().total().connections);
        expect_own(&mut connect(&running), "/victim");

        let upstream = Upstream::honest();
        let running = serve(driver, ProxyConfig { half_close: true, ..config(&upstream) });
        let mut client = connect(&running);
        client.send(get("/one") + &get("/two"));
        client.shutdown(Shutdown::Write).unwrap();
        let all = String::from_utf8(client.rest()).unwrap();
        assert!(all.contains("/one ") && all.ends_with("/two "), "{all}");
    });
}

/// Its address is what the upstream is told of it: a request without one would look like one that came by no proxy.
#[test]
fn whoever_has_left_before_it_was_asked_for_its_address_is_not_passed_on() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let proxy = config(&upstream);
        let running = ringmill::Engine::builder()
            .config(common::config(driver))
            .listen("127.0.0.1:0", move |_| Proxy::new(proxy.clone(), 1))
            .listen("127.0.0.1:0", |_| {
                http::server(|_: &http::Request<'_>, reply: &mut http::Reply<'_>| {
                    std::thread::sleep(Duration::from_millis(100));
                    reply.text("");
                })
            })
            .start()
            .unwrap();
        // There is a kept connection for whoever comes next.
        expect_own(&mut connect(&running), "/first");
        let clients: Vec<TcpStream> = (0..3).map(|_| connect(&running)).collect();
        let mut busy = [(); 2].map(|()| connect_to(ip(&running.addresses()[1])));
        // The first one keeps the worker from looking, the second one from what it sees next to it: requests of clients that leave.
        busy[0].send(get("/"));
        std::thread::sleep(Duration::from_millis(20));
        busy[1].send(get("/"));
        for mut client in &clients {
            client.send(post("/left", ""));
        }
        receive(&mut busy[0]);
        std::thread::sleep(Duration::from_millis(20));
        clients.into_iter().for_each(reset);
        receive(&mut busy[1]);
        expect_own(&mut connect(&running), "/stays");
        loop {
            let asked = upstream.asked();
            assert!(asked.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"), "{asked}");
            if asked.starts_with("GET /stays ") {
                break;
            }
        }
    });
}

#[test]
fn what_has_two_readings_goes_nowhere() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let running = before(driver, &[&upstream]);
        for (request, status) in [
            (
                "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                400,
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
            ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 421),
        ] {
            let mut client = connect(&running);
            client.send(request.to_owned() + &get("/smuggled"));
            assert_eq!(receive(&mut client).status, status, "{request}");
            client.rest();
        }
        upstream.expect_silence();
        // A body that is malformed is noticed when its request is on its way: it is not taken for whole.
        let mut client = connect(&running);
        client.send(common::http::post_chunked("/", "0x1\r\na\r\n0\r\n\r\n") + &get("/smuggled"));
        assert_eq!(receive(&mut client).status, 400);
        client.rest();
        upstream.expect_silence();
        expect_own(&mut connect(&running), "/victim");
        let max = ProxyConfig { body_bytes_max: 3, ..config(&upstream) };
        let running = serve(driver, max);
        for request in [post("/", "four"), common::http::post_chunked("/", "2\r\nfo\r\n2\r\nur\r\n0\r\n\r\n")]
        {
            let mut client = connect(&running);
            client.send(request);
            assert_eq!(receive(&mut client).status, 413);
            client.rest();
        }
        let mut client = connect(&running);
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n");
        assert_eq!(receive(&mut client).status, 200);
    });
}

/// What an evil upstream says first, and the status that its own client gets; `None` where the reply is cut.
const EVIL: &[(&str, Option<u16>)] = &[
    ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some(200)),
    (
        "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        Some(502),
    ),
    (
        "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        Some(502),
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 4\r\n\r\nhello", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi", Some(502)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n", None),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nContent-Length: 9\r\n\r\n", None),
    (
        "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Some(502),
    ),
    ("HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nevil", Some(502)),
    ("HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", Some(204)),
    (
        "HTTP/1.1 304 Same\r\nContent-Length: 60\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Some(304),
    ),
    (
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        Some(200),
    ),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n", Some(200)),
    ("HTTP/1.1 200 OK\nContent-Length: 4\n\nevil", Some(502)),
    ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 4\r\n\r\nevil", Some(502)),
    ("HTTP/1.1 200 OK\r\nA: \0\r\nContent-Length: 4\r\n\r\nevil", Some(502)),
    ("HTTP/9.9 200 OK\r\n\r\n", Some(502)),
    ("evil", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut", None),
    (
        "HTTP/1.1 200 OK\r\nConnection: a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q\r\nContent-Length: 0\r\n\r\n",
        Some(502),
    ),
    // The first of these ends, the second one waits.
    ("HTTP/1.1 200 OK\r\nContent-Le", Some(502)),
    ("HTTP/1.1 200 OK\r\nContent-Le", Some(504)),
    // Ends without a byte of a reply: it is asked once more, and then it is honest.
    ("", Some(200)),
];

#[test]
fn evil_upstreams_harm_nobody_but_who_asked_them() {
    on_both_drivers(|driver| {
        let storm = "HTTP/1.1 102 Wait\r\n\r\n".repeat(1000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(70_000));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
        let more = [(storm.as_str(), Some(502)), (&long, Some(502)), (&many, Some(502))];
        for (n, (evil, status)) in EVIL.iter().copied().chain(more).enumerate() {
            let said = evil.to_owned();
            let upstream = Upstream::new(move |line| {
                if line.number > 0 {
                    while line.answer_honestly() {}
                    return;
                }
                line.request();
                line.try_send(&said);
                if n % 2 == 0 {
                    // It ends, or it waits what becomes of it.
                    let _ = line.stream.shutdown(Shutdown::Write);
                }
                line.wait_for_end();
            });
            let limits = ProxyConfig {
                idle_timeout: Duration::from_millis(200),
                first_byte_timeout: Duration::from_millis(200),
                ..config(&upstream)
            };
            let running = serve(driver, limits);
            let (mut asking, mut victim) = (connect(&running), connect(&running));
            asking.send(get("/asking"));
            match status {
                Some(status) => {
                    let mut reply = receive_head(&mut asking);
                    while reply.status < 200 {
                        reply = receive_head(&mut asking);
                    }
                    if !matches!(reply.status, 204 | 304) {
                        let length = reply.field("content-length").expect("a length").parse().unwrap();
                        asking.read_exact(&mut vec![0; length]).unwrap();
                    }
                    assert_eq!(reply.status, status, "{n}: {evil:?}: {}", reply.head);
                    expect_own(&mut asking, "/next");
                }
                None => {
                    let all = String::from_utf8_lossy(&asking.rest()).into_owned();
                    assert!(!all.ends_with("0\r\n\r\n") && !all.contains("evil"), "{n}: {evil:?}: {all}");
                }
            }
            expect_own(&mut victim, "/victim/1");
            expect_own(&mut victim, "/victim/2");
        }
    });
}

#[test]
fn evil_servers_of_http2_harm_nobody_but_who_asked_them() {
    alone(|| on_both_drivers(evil::check_all));
}

/// A reply is left at each of its bytes, by an end and by a reset: who asked is not told that it was whole, and nobody else notices.
#[test]
fn a_reply_that_is_left_at_any_byte_is_nobodys_but_who_asked() {
    const REPLY: &str = "HTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        4\r\nevil\r\n0\r\nX-Sum: 1\r\n\r\n";
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let target = request.split(' ').nth(1).unwrap_or_default();
                let Some(cut) = target.strip_prefix("/cut/") else {
                    line.try_send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target} ",
                        target.len() + 1
                    ));
                    continue;
                };
                let (at, end) = cut.split_once('/').expect("where and how");
                line.try_send(&REPLY[..at.parse::<usize>().expect("a number")]);
                if end == "reset" {
                    // As the script ends.
                    socket2::SockRef::from(&line.stream).set_linger(Some(Duration::ZERO)).unwrap();
                }
                return;
            }
        });
        let running = before(driver, &[&upstream]);
        let mut victim = connect(&running);
        for at in 0..REPLY.len() {
            for end in ["end", "reset"] {
                let mut asking = connect(&running);
                let request = post(&format!("/cut/{at}/{end}"), "");
                // It ends behind whatever comes.
                asking.send(request.replace("Host:", "Connection: close\r\nHost:"));
                let mut all = Vec::new();
                // A cut may be told by a reset.
                let _ = asking.read_to_end(&mut all);
                let all =
                    String::from_utf8_lossy(&all).replace("HTTP/1.1 103 Hints\r\nLink: <a>\r\n\r\n", "");
                let is_refused = all.starts_with("HTTP/1.1 502 ") && all.ends_with("had answered\n");
                let is_cut = all.starts_with("HTTP/1.1 200 ") && !all.ends_with("\r\n0\r\nX-Sum: 1\r\n\r\n");
                assert!(is_refused || is_cut, "{at} {end}: {all:?}");
                assert!(!is_refused || at <= REPLY.find("4\r\n").unwrap() || end == "reset", "{at}: {all:?}");
                expect_own(&mut victim, "/victim");
            }
        }
    });
}

/// What follows the head of a reply to HEAD is no reply to anybody.
#[test]
fn a_body_behind_the_reply_to_head_goes_nowhere() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let is_head = request.starts_with("HEAD ");
                let body = if is_head { "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil" } else { "/v " };
                line.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            }
        });
        let running = before(driver, &[&upstream]);
        let (mut client, mut other) = (connect(&running), connect(&running));
        for _ in 0..3 {
            client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(receive_head(&mut client).status, 200);
            expect_own(&mut client, "/v");
            expect_own(&mut other, "/v");
        }
    });
}

#[test]
fn bytes_on_an_idle_connection_end_it() {
    on_both_drivers(|driver| {
        const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        for (greeting, early) in [("", EVIL), ("", "x"), (EVIL, "")] {
            let upstream = Upstream::new(move |line| {
                if line.number > 0 {
                    while line.answer_honestly() {}
                    return;
                }
                // Before anybody has asked, so that the honest answer is the one that nobody has asked for.
                line.try_send(greeting);
                line.answer_honestly();
                line.stream.flush().unwrap();
                std::thread::sleep(Duration::from_millis(30));
                line.try_send(early);
                line.wait_for_end();
            });
            let running = before(driver, &[&upstream]);
            let mut client = connect(&running);
            client.send(get("/first"));
            let first = if greeting.is_empty() { "/first " } else { "evil" };
            assert_eq!(receive(&mut client).text(), first);
            // The upstream's connection is gone.
            eventually(1, || running.stats().total().connections);
            expect_own(&mut client, "/victim");
            assert_eq!(upstream.accepted(), 2);
        }
    });
}

#[test]
fn a_drain_answers_what_has_arrived() {
    on_both_drivers(|driver| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |line| {
            while line.request().is_some() {
                wait.lock().unwrap().recv().unwrap();
                line.send("HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\nhi");
            }
        });
        let running = before(driver, &[&upstream]);
        let (mut busy, mut idle) = (connect(&running), connect(&running));
        busy.send(get("/"));
        upstream.asked();
        running.handle().drain(PATIENCE);
        idle.expect_eof();
        go.send(()).unwrap();
        busy.expect("HTTP/1.1 200 OK\r\nDate: now\r\nvia: 1.1 ringmill\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
        busy.expect_eof();
        running.join().unwrap();
    });
}

#[test]
fn slow_bodies_and_heads_of_clients_have_an_end() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line: &mut Line| {
            line.request();
            line.wait_for_end();
        });
        let timeout = Duration::from_millis(100);
        let limits = Limits { head_timeout: timeout, body_idle_timeout: timeout, ..Limits::default() };
        let running = serve(driver, ProxyConfig { limits, ..config(&upstream) });
        for begun in ["GET / HTTP/1.1\r\nHost", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab"] {
            let mut client = connect(&running);
            client.send(begun);
            assert_eq!(receive(&mut client).status, 408, "{begun}");
            client.rest();
        }
        eventually(0, || running.stats().total().connections);
    });
}

#[test]
fn the_peer_may_say_who_the_client_is_where_it_is_trusted() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let trusted = vec!["127.0.0.0/8".parse().unwrap()];
        let running = serve(driver, ProxyConfig { trusted, ..config(&upstream) });
        let mut client = connect(&running);
        client.send(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\r\n",
        );
        let asked = upstream.asked();
        assert!(asked.contains("\r\nx-forwarded-for: 6.6.6.6\r\n"), "{asked}");
        assert!(asked.contains("\r\nx-forwarded-for: 127.0.0.1\r\nx-forwarded-host: a\r\n"), "{asked}");
        assert!(asked.contains("\r\nX-Forwarded-Proto: https\r\n"), "{asked}");
        let mut buffer = [0; 1];
        client.read_exact(&mut buffer).unwrap();
    });
}

/// So many clients, each with one request at a time. Returns how many connections upstreams were given.
fn connections_used(driver: DriverChoice, workers: usize) -> usize {
    const CLIENTS: usize = 48;
    let upstreams = [(); 2].map(|()| Upstream::honest());
    let addresses = upstreams.iter().map(|upstream| upstream.address.clone()).collect();
    let proxy = patient(addresses);
    let config = common::config(driver).with_workers(workers);
    let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&running)).collect();
    for n in 0..20 {
        for client in &mut clients {
            client.send(get(&format!("/{n}")));
        }
        for client in &mut clients {
            assert_eq!(receive(client).text(), format!("/{n} "));
        }
    }
    let accepted = running.stats().workers().iter().filter(|worker| worker.counters.accepted > 0).count();
    assert_eq!(accepted, workers, "not every worker has clients");
    upstreams.iter().map(Upstream::accepted).sum()
}

#[test]
fn more_workers_do_not_multiply_connections() {
    on_both_drivers(|driver| {
        // Two workers choose by chance, and who is run when adds to it: one count in thirty was above the bound on a busy machine.
        let median = |workers| {
            let mut counts = [(); 5].map(|()| connections_used(driver, workers));
            counts.sort_unstable();
            counts[2]
        };
        let [one, two] = [1, 2].map(median);
        say_past_capture(&format!("{driver}: {one} connections with upstreams of one worker, {two} of two"));
        assert!(two * 10 <= one * 12, "{two} connections of two workers, {one} of one");
    });
}

#[test]
fn limits_and_the_queue_hold_for_all_workers() {
    const CLIENTS: usize = 24;
    on_both_drivers(|driver| {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let upstream = Upstream::new(move |line| {
            while line.request().is_some() {
                wait.lock().unwrap().recv().unwrap();
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
            }
        });
        let proxy =
            ProxyConfig { connections_max: 3, queue_max: 15, queue_timeout: PATIENCE, ..config(&upstream) };
        let fleet = proxy.fleet.clone();
        let config = common::config(driver).with_workers(2);
        let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
        let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&running)).collect();
        let counts = move || fleet.counts().remove(0);
        clients[..3].iter_mut().for_each(|client| client.send(get("/")));
        eventually(3, || counts().in_flight);
        clients[3..].iter_mut().for_each(|client| client.send(get("/")));
        eventually((3, 15), || (counts().open, counts().waiting));
        eventually(CLIENTS as u64, || running.stats().total().requests);
        assert_eq!((counts().open, counts().waiting), (3, 15));
        // Three and fifteen are answered, whatever worker they are with; the others are told so.
        (0..18).for_each(|_| go.send(()).unwrap());
        let mut statuses: Vec<u16> = clients.iter_mut().map(|client| receive(client).status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [[200; 18].as_slice(), &[503; 6]].concat());
        // Idle connections may end; no request is left.
        eventually((0, 0), || (counts().in_flight, counts().waiting));
        drop(running);
        assert_eq!(counts().open, 0);
    });
}

#[test]
fn a_rate_holds_for_all_workers() {
    const CLIENTS: usize = 24;
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        for per in [Per::Route, Per::Client] {
            let limit = Limit::new(RouteRate { per, rate: "10/h".parse().unwrap() });
            let proxy = ProxyConfig { limit: Some(limit), ..config(&upstream) };
            let config = common::config(driver).with_workers(2);
            let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
            let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect(&running)).collect();
            clients.iter_mut().for_each(|client| client.send(get("/")));
            let mut statuses: Vec<u16> = clients.iter_mut().map(|client| receive(client).status).collect();
            statuses.sort_unstable();
            assert_eq!(statuses, [[200; 10].as_slice(), &[429; 14]].concat());
            let stats = running.stats();
            let accepted = stats.workers().iter().filter(|worker| worker.counters.accepted > 0).count();
            assert_eq!(accepted, 2, "not every worker has clients");
        }
    });
}

/// Answers everything with this status.
fn with_status(status: u16) -> Upstream {
    Upstream::new(move |line| {
        while line.request().is_some() {
            line.try_send(format!("HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n"));
        }
    })
}

#[test]
fn who_fails_is_ejected_and_comes_back() {
    on_both_drivers(|driver| {
        let (good, bad) = (Upstream::honest(), with_status(500));
        let upstreams = vec![good.address.clone(), bad.address.clone()];
        let time = Duration::from_millis(400);
        let ejection = Ejection { on_server_errors: true, time, ..Ejection::default() };
        let proxy = ProxyConfig { balance: Balance::RoundRobin, ejection, ..ProxyConfig::new(upstreams) };
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        let mut ask = || {
            client.send(get("/"));
            receive(&mut client).status
        };
        let failed = (0..10).filter(|_| ask() == 500).count();
        assert_eq!(failed, 5, "every other one");
        let began = Instant::now();
        while began.elapsed() < time / 2 {
            assert_eq!(ask(), 200);
        }
        eventually(500, ask);
        let of = |upstream: &Upstream| {
            fleet.counts().into_iter().find(|it| it.address == upstream.address).unwrap()
        };
        assert_eq!((of(&bad).ejections, of(&good).failures), (1, 0));
        // Replies that begin well and always break off are no sign of health.
        let breaks = Upstream::new(|line| {
            line.request();
            line.try_send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
        });
        let upstreams = vec![good.address.clone(), breaks.address.clone()];
        let proxy = ProxyConfig { balance: Balance::RoundRobin, ..ProxyConfig::new(upstreams) };
        let broken = proxy.fleet.clone();
        let running = serve(driver, proxy);
        for _ in 0..12 {
            let mut client = connect(&running);
            client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            // It may be cut by a reset.
            let _ = client.read_to_end(&mut Vec::new());
        }
        let ejections = broken.counts().iter().map(|it| (it.address == breaks.address, it.ejections)).max();
        assert_eq!(ejections, Some((true, 1)));
        // Left alone it is never ejected: that would help nobody.
        let alone = ProxyConfig { ejection, ..config(&bad) };
        let fleet = alone.fleet.clone();
        let running = serve(driver, alone);
        let mut client = connect(&running);
        for _ in 0..12 {
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 500);
        }
        let counts = fleet.counts().remove(0);
        assert_eq!((counts.ejections, counts.spared, counts.requests), (0, 2, 12));
    });
}

#[test]
fn an_upstream_that_is_always_busy_is_asked_once_for_each_request() {
    const REQUESTS: usize = 200;
    on_both_drivers(|driver| {
        let busy = with_status(503);
        let proxy = config(&busy);
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        for _ in 0..REQUESTS {
            client.send(get("/"));
            assert_eq!(receive(&mut client).status, 503);
        }
        let asked = fleet.counts().remove(0).requests;
        assert!(asked <= REQUESTS as u64 * 5 / 4, "{asked} for {REQUESTS}");
    });
}

#[test]
fn checks_take_a_server_out_and_bring_it_back() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
    on_both_drivers(|driver| {
        let (is_up, checks) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (up, count) = (is_up.clone(), checks.clone());
        let sick = Upstream::new(move |line| {
            while let Some(request) = line.request() {
                let is_check = request.starts_with("GET /health HTTP/1.1\r\n");
                count.fetch_add(usize::from(is_check), SeqCst);
                let status = if is_check && !up.load(SeqCst) { 503 } else { 200 };
                line.try_send(format!("HTTP/1.1 {status} Said\r\nContent-Length: 4\r\n\r\nsick"));
            }
        });
        let well = Upstream::new(|line| {
            while line.request().is_some() {
                line.try_send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell");
            }
        });
        let every = Duration::from_millis(40);
        let proxy = ProxyConfig {
            check: Some(Check { every, ..Check::new("/health".parse().unwrap()) }),
            ..ProxyConfig::new(vec![sick.address.clone(), well.address.clone()])
        };
        let fleet = proxy.fleet.clone();
        let config = common::config(driver).with_workers(2);
        let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
        let of_sick = || fleet.counts().into_iter().find(|it| it.address == sick.address).unwrap();
        let mut client = connect(&running);
        let mut ask = || {
            client.send(get("/"));
            receive(&mut client).text().to_owned()
        };
        eventually("sick".to_owned(), &mut ask);
        is_up.store(false, SeqCst);
        eventually(true, || of_sick().is_down);
        assert!((0..50).all(|_| ask() == "well"));
        is_up.store(true, SeqCst);
        eventually(false, || of_sick().is_down);
        eventually("sick".to_owned(), &mut ask);
        // Two workers do not ask twice as often.
        let (before, began) = (checks.load(SeqCst), Instant::now());
        eventually(true, || checks.load(SeqCst) >= before + 10);
        assert!(began.elapsed() >= every * 7, "10 checks in {:?}", began.elapsed());
    });
}

#[test]
fn keys_and_drained_servers_decide_where_requests_go() {
    on_both_drivers(|driver| {
        let upstreams = [(); 3].map(|()| Upstream::honest());
        let addresses: Vec<Address> = upstreams.iter().map(|upstream| upstream.address.clone()).collect();
        let balance = Balance::Hash(HashBy::Field("x-user".to_owned()));
        let proxy = ProxyConfig { balance, ..ProxyConfig::new(addresses.clone()) };
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        let mut ask = |user: &str| {
            let before = fleet.counts();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-User: {user}\r\n\r\n"));
            assert_eq!(receive(&mut client).status, 200);
            let grown = |(a, b): (ServerCounts, ServerCounts)| (a.requests > b.requests).then_some(a.address);
            fleet.counts().into_iter().zip(before).find_map(grown).expect("somebody was asked")
        };
        let users: Vec<String> = (0..30).map(|n| format!("user{n}")).collect();
        let homes: Vec<Address> = users.iter().map(|user| ask(user)).collect();
        assert!(addresses.iter().all(|address| homes.contains(address)), "{homes:?}");
        assert!((0..3).all(|_| users.iter().zip(&homes).all(|(user, home)| ask(user) == *home)));
        // Whoever was at home elsewhere stays there.
        assert!(fleet.drain(&addresses[1], true));
        for (user, home) in users.iter().zip(&homes) {
            let now = ask(user);
            assert!(
                if *home == addresses[1] { now != *home } else { now == *home },
                "{user}: {home} and {now}"
            );
        }
        // By the client whom a trusted proxy names, and not by that proxy.
        let balance = Balance::Hash(HashBy::Client);
        let trusted = vec!["127.0.0.1".parse().unwrap()];
        let proxy =
            ProxyConfig { balance, trusted, fleet: Fleet::default(), ..ProxyConfig::new(addresses.clone()) };
        let by_client = proxy.fleet.clone();
        let running_by_client = serve(driver, proxy);
        let mut client = connect(&running_by_client);
        for n in 0..30 {
            let before = by_client.counts();
            for _ in 0..3 {
                client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.{n}\r\n\r\n"));
                assert_eq!(receive(&mut client).status, 200);
            }
            let grown = by_client.counts().into_iter().zip(before).map(|(a, b)| a.requests - b.requests);
            assert_eq!(grown.max(), Some(3), "all three of 192.0.2.{n} to one");
        }
        assert!(by_client.counts().iter().all(|it| it.requests > 0), "{:?}", by_client.counts());

        addresses.iter().for_each(|address| assert!(fleet.drain(address, true)));
        let mut client = connect(&running);
        client.send(get("/"));
        assert_eq!(receive(&mut client).status, 503);
        assert!(fleet.drain(&addresses[0], false));
        expect_own(&mut client, "/again");
    });
}

#[test]
fn a_cookie_keeps_a_client_with_its_server() {
    on_both_drivers(|driver| {
        let upstreams = [(); 3].map(|()| Upstream::honest());
        let addresses: Vec<Address> = upstreams.iter().map(|upstream| upstream.address.clone()).collect();
        let balance = Balance::Sticky(Sticky::new("place", b"a secret of the test").unwrap());
        let proxy = ProxyConfig { balance, ..ProxyConfig::new(addresses) };
        let fleet = proxy.fleet.clone();
        let running = serve(driver, proxy);
        let mut client = connect(&running);
        let mut ask = |cookie: &str| {
            let before = fleet.counts();
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: a=b; {cookie}\r\n\r\n"));
            let reply = receive(&mut client);
            assert_eq!(reply.status, 200);
            let grown = |(a, b): (ServerCounts, ServerCounts)| (a.requests > b.requests).then_some(a.address);
            let server = fleet.counts().into_iter().zip(before).find_map(grown).expect("somebody was asked");
            (server, reply.field("set-cookie").map(str::to_owned))
        };
        let mut seen = Vec::new();
        for _ in 0..20 {
            let (home, cookie) = ask("x=y");
            let cookie = cookie.expect("a new client is given one");
            assert!(
                cookie.starts_with("place=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"),
                "{cookie}"
            );
            let cookie = cookie.split(';').next().unwrap();
            assert!((0..5).all(|_| ask(cookie) == (home.clone(), None)));
            seen.push((home, cookie.to_owned()));
        }
        let (home, cookie) = &seen[0];
        assert!(seen.iter().any(|(other, _)| other != home), "all are with {home}");
        // A server that takes no more is left, and another one is named.
        assert!(fleet.drain(home, true));
        let (other, next) = ask(cookie);
        assert!(other != *home && next.is_some_and(|next| next.starts_with("place=")));
        assert!(ask("place=0123456789abcdef0123456789abcdef").1.is_some(), "nobody can make one");
    });
}

/// A worker whose requests wait gets its part of few connections, whoever had them all before.
#[test]
fn no_worker_keeps_connections_that_another_one_waits_for() {
    const CLIENTS: usize = 24;
    on_both_drivers(|driver| {
        for connections_max in [1, 2, 5] {
            let upstream = Upstream::honest();
            let proxy = ProxyConfig { connections_max, queue_timeout: PATIENCE, ..config(&upstream) };
            let fleet = proxy.fleet.clone();
            let config = common::config(driver).with_workers(2);
            let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
            let address = ip(&running.addresses()[0]);
            std::thread::scope(|scope| {
                for n in 0..CLIENTS {
                    scope.spawn(move || {
                        let mut client = connect_to(address);
                        (0..30).for_each(|m| expect_own(&mut client, &format!("/{n}/{m}")));
                    });
                }
            });
            let counts = fleet.counts().remove(0);
            let used = upstream.accepted();
            say_past_capture(&format!(
                "{driver}: {used} connections for {} requests, {connections_max} at a time",
                counts.requests
            ));
            assert_eq!((counts.waiting, counts.in_flight), (0, 0));
            assert!(counts.open as usize <= connections_max);
            assert!(used <= CLIENTS * 30 / 4, "{used} connections of {connections_max} at a time");
        }
    });
}

/// Idle connections of one worker are not in the way of another one's requests.
#[test]
fn an_idle_connection_makes_room_for_another_worker() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let proxy = ProxyConfig { connections_max: 1, ..config(&upstream) };
        let config = common::config(driver).with_workers(2);
        let running = start(config, move |worker| Proxy::new(proxy.clone(), worker.index as u64));
        let mut clients: Vec<TcpStream> = (0..12).map(|_| connect(&running)).collect();
        for n in 0..5 {
            for client in &mut clients {
                expect_own(client, &format!("/{n}"));
            }
        }
        let accepted = running.stats().workers().iter().filter(|worker| worker.counters.accepted > 0).count();
        assert_eq!(accepted, 2, "not every worker has clients");
    });
}

#[test]
fn requests_are_named_and_their_traces_go_on() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                let status = if request.contains(" /broken ") { "what" } else { "200 OK" };
                line.send(format!("HTTP/1.1 {status}\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n"));
            }
        });
        let named = |is_trusted, request, trace| {
            let trusted = if is_trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { Vec::new() };
            let observe = Observe { ids: IdRules { request, trace }, ..Observe::default() };
            serve(driver, ProxyConfig { trusted, observe, ..config(&upstream) })
        };
        let told = format!(
            "X-Request-Id: mine\r\ntraceparent: 00-{TRACE}-b7ad6b7169203331-00\r\ntracestate: a=b\r\n"
        );
        let field = |request: &str, name: &str| {
            let all = request.lines().filter_map(|line| line.split_once(": "));
            let all: Vec<_> =
                all.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect();
            all.join(" and ")
        };
        let is_made = |id: &str| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());

        let running = named(true, RequestIds::Both, Traces::Trusted);
        let mut client = connect(&running);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n"));
        let asked = upstream.asked();
        assert_eq!(field(&asked, "x-request-id"), "mine");
        let parent = field(&asked, "traceparent");
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"), "{parent}");
        assert!(!parent.contains("b7ad6b7169203331"), "{parent}");
        assert_eq!(field(&asked, "tracestate"), "a=b");
        assert_eq!(field(&receive(&mut client).head, "x-request-id"), "mine");
        // What the upstream is not asked, or does not answer, has its name too.
        client.send("GET /broken HTTP/1.1\r\nHost: a\r\nX-Request-Id: broken\r\n\r\n");
        let reply = receive(&mut client);
        assert_eq!((reply.status, field(&reply.head, "x-request-id")), (502, "broken".to_owned()));
        client.send("TRACE / HTTP/1.1\r\nHost: a\r\nX-Request-Id: refused\r\n\r\n");
        let reply = receive(&mut client);
        assert_eq!((reply.status, field(&reply.head, "x-request-id")), (501, "refused".to_owned()));
        upstream.asked();

        let running = named(false, RequestIds::Upstream, Traces::Trusted);
        let mut client = connect(&running);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n").repeat(2));
        let ids = [(); 2].map(|()| {
            let asked = upstream.asked();
            let (id, parent) = (field(&asked, "x-request-id"), field(&asked, "traceparent"));
            assert!(is_made(&id), "{id}");
            assert!(parent.len() == 55 && !parent.contains(TRACE) && parent.ends_with("-01"), "{parent}");
            assert_eq!(field(&asked, "tracestate"), "");
            assert_eq!(field(&receive(&mut client).head, "x-request-id"), "theirs");
            (id, parent)
        });
        assert!(ids[0].0 != ids[1].0 && ids[0].1[3..35] != ids[1].1[3..35], "{ids:?}");

        let running = named(false, RequestIds::Off, Traces::Off);
        let mut client = connect(&running);
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{told}\r\n"));
        assert!(upstream.asked().contains(&told));
        assert_eq!(field(&receive(&mut client).head, "x-request-id"), "theirs");
    });
}

/// The lines of a log that have come so far.
fn lines(log: &AccessLog, known: &mut Vec<serde_json::Value>) -> usize {
    let (mut batch, mut writer, mut text) = (Batch::default(), LineWriter::new(LogFormat::Json), Vec::new());
    log.take(&mut batch);
    batch.entries().for_each(|entry| writer.write(&mut text, &entry));
    let text = String::from_utf8(text).unwrap();
    known.extend(text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()));
    known.len()
}

#[test]
fn each_request_is_noted_with_its_end() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            while let Some(request) = line.request() {
                match request.split([' ', '?']).nth(1).unwrap_or_default() {
                    "/cut" => {
                        line.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi");
                        return;
                    }
                    "/broken" => line.send("what\r\n\r\n"),
                    "/silent" => line.wait_for_end(),
                    "/ends" if line.number < 1 => return,
                    "/500" => line.send("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
                    "/ws" => {
                        line.send(
                            "HTTP/1.1 101 Go\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
                        );
                        return;
                    }
                    _ => line.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
                }
            }
        });
        let log = AccessLog::default();
        let rules = |sampled_per_million| LogRules {
            to: log.clone(),
            sampled_per_million,
            slow: Duration::from_secs(3600),
            has_agents: true,
        };
        let observe = |part| Observe {
            ids: IdRules { request: RequestIds::Both, trace: Traces::Any },
            log: Some(rules(part)),
            ..Observe::default()
        };
        let limits = Limits { head_timeout: Duration::from_millis(50), ..Limits::default() };
        let with = |part| ProxyConfig {
            observe: observe(part),
            limits: limits.clone(),
            first_byte_timeout: Duration::from_millis(150),
            body_bytes_max: 10,
            ..config(&upstream)
        };
        let running = serve(driver, with(1_000_000));
        let mut known = Vec::new();
        // Sends this, reads up to the end, and gives the line.
        let mut check = |input: &str, expected: (u64, &str, &str)| {
            let before = known.len();
            let mut client = connect(&running);
            client.send(input);
            let is_whole = input.ends_with("\r\n\r\n") || input.contains("Content-Length");
            let end = expected.1;
            let mut reply = Vec::new();
            if end == "client" {
                upstream.asked();
                client.shutdown(Shutdown::Both).unwrap();
            } else {
                let mut buffer = [0; 4096];
                // The client ends what is kept.
                while let Ok(bytes) = client.read(&mut buffer)
                    && bytes > 0
                {
                    reply.extend_from_slice(&buffer[..bytes]);
                    if reply.ends_with(b"\r\n\r\nhi") || reply.ends_with(b"\r\n\r\n") {
                        break;
                    }
                }
            }
            // Where another protocol is spoken, it goes on until both have ended.
            if expected.0 == 101 {
                client.shutdown(Shutdown::Write).unwrap();
            }
            eventually(before + 1, || lines(&log, &mut known));
            let line = known[before].clone();
            let told = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
            assert_eq!(
                (line["status"].as_u64(), told("end").as_str(), told("path").as_str()),
                (Some(expected.0), end, expected.2),
                "{input}: {line}"
            );
            if is_whole && end != "client" {
                assert_eq!(line["bytes_in"].as_u64(), Some(input.len() as u64), "{input}: {line}");
            }
            if end != "client" {
                assert_eq!(line["bytes_out"].as_u64(), Some(reply.len() as u64), "{input}: {line}");
                let id = format!("x-request-id: {}\r\n", told("request_id"));
                assert!(
                    told("request_id").len() == 32 && String::from_utf8_lossy(&reply).contains(&id),
                    "{input}: {line}"
                );
            }
            assert_eq!((told("client").as_str(), told("trace_id").len()), ("127.0.0.1", 32), "{line}");
            line
        };
        let get = |target: &str| {
            format!(
                "GET {target} HTTP/1.1\r\nHost: a.test:80\r\nUser-Agent: \"\t\u{e4}\\\r\nConnection: close\r\n\r\n"
            )
        };
        let line = check(&get("/x?y=%0a&\"z\\"), (200, "complete", "/x"));
        let all = ["method", "host", "query", "user_agent", "upstream"]
            .map(|key| line[key].as_str().unwrap_or_default());
        assert_eq!(all, ["GET", "a.test:80", "y=%0a&\"z\\", "\"\t\u{e4}\\", &upstream.address.to_string()]);
        assert!(
            line["first_byte_ms"].as_f64() <= line["ms"].as_f64() && line["wait_ms"].is_number(),
            "{line}"
        );
        assert!(line["retries"].is_null(), "{line}");
        check(&get("/ends"), (200, "complete", "/ends"))["retries"].as_u64().expect("it was repeated");
        check("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345", (200, "complete", "/x"));
        check(&get("/500"), (500, "complete", "/500"));
        check(&get("/cut"), (200, "upstream", "/cut"));
        check(&get("/broken"), (502, "upstream", "/broken"));
        let line = check(&get("/silent"), (504, "timeout", "/silent"));
        assert!(line["ms"].as_f64() >= Some(150.0) && line["first_byte_ms"].is_null(), "{line}");
        check(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            (101, "complete", "/ws"),
        );
        check("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n", (413, "refused", "/x"));
        check("TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n", (501, "refused", "/x"));
        check("GET / HTTP/1.1\r\nHost a\r\n\r\n", (400, "refused", ""));
        check("GET /slow HTTP/1.1\r\nHost:", (408, "timeout", ""));
        upstream.forget_asked();
        check(&get("/silent"), (0, "client", "/silent"));

        // Of those that are well, none.
        let running = serve(driver, with(0));
        known = Vec::new();
        for (target, status) in [("/x", 200), ("/500", 500), ("/x", 200), ("/broken", 502)] {
            let mut client = connect(&running);
            client.send(get(target));
            assert_eq!(receive(&mut client).status, status);
        }
        eventually(2, || lines(&log, &mut known));
        let told: Vec<_> = known.iter().map(|line| line["status"].as_u64().unwrap()).collect();
        assert_eq!(told, [500, 502]);
        assert_eq!(log.dropped(), 0);
    });
}

/// What the proxy says itself comes in the form that a client wants, whoever was to answer.
#[test]
fn answers_of_its_own_have_the_form_that_is_asked_for() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            if line.head().is_some_and(|head| head.starts_with("POST ")) {
                // More than is kept for another time.
                let _ = (0..100_000).filter_map(|_| line.byte()).count();
            }
        });
        let page = Page::new("<p>sorry, {request_id}</p>").unwrap();
        let running = serve(
            driver,
            ProxyConfig {
                observe: Observe {
                    ids: IdRules { request: RequestIds::Both, ..IdRules::default() },
                    ..Observe::default()
                },
                pages: Pages::new([(501, page)].into()),
                ..config(&upstream)
            },
        );
        let body = "x".repeat(100_000);
        let large = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nAccept: text/html\r\n\r\n{body}"
        );
        let get = |accept: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let trace = |accept: &str| format!("TRACE / HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
        let (text, html, problem) = ("text/plain", "text/html; charset=utf-8", "application/problem+json");
        for (request, status, content_type, says) in [
            (get("*/*"), 502, text, "502 Bad Gateway: the upstream closed"),
            (get("text/html"), 502, html, "<h1>502 Bad Gateway</h1>"),
            (get("application/json"), 502, problem, "\"status\":502,\"detail\":\"the upstream closed"),
            (large, 502, html, "<h1>502 Bad Gateway</h1>"),
            (trace("text/html"), 501, html, "<p>sorry, "),
            (trace("*/*"), 501, html, "<p>sorry, "),
            (trace("application/problem+json"), 501, problem, "\"title\":\"Not Implemented\""),
            (
                "GET / HTTP/1.1\r\nHost a\r\nAccept: text/html\r\n\r\n".to_owned(),
                400,
                text,
                "400 Bad Request: ",
            ),
        ] {
            let mut client = connect(&running);
            client.send(&request);
            let reply = receive(&mut client);
            assert_eq!(
                (reply.status, reply.field("content-type")),
                (status, Some(content_type)),
                "{}",
                reply.head
            );
            let id = reply.field("x-request-id").expect("a name");
            assert!(reply.text().contains(says) && reply.text().contains(id), "{}", reply.text());
            assert_eq!(reply.field("vary"), Some("accept"));
        }
        // Of a head alone there is the length of the same.
        let mut client = connect(&running);
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
        let head = receive_head(&mut client);
        assert_eq!((head.status, head.field("content-type")), (502, Some(html)));
        assert!(head.field("content-length").is_some_and(|length| length != "0"));
        client.send("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(receive(&mut client).status, 501, "no body came in between");
    });
}
