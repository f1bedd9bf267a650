//! Much at once and for long: pipelines, gigabytes, resets, readers that are slow or deaf, the end in the middle of it.
//! Odd bytes are in `hostile.rs`; time, descriptors and buffers in `hostile_limits.rs`.
#![cfg(feature = "cli")]

mod common;

use common::http::*;
use common::program::Program;
use common::site::{start, start_with};
use common::traces::{Traces, total};
use common::*;
use ringmill::Config;
use ringmill::http::Limits;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

/// Numbers that look random and are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn new(seed: usize) -> Numbers {
        Numbers((seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

fn join<T>(threads: Vec<JoinHandle<T>>) -> Vec<T> {
    threads.into_iter().map(|thread| thread.join().expect("it says above what is wrong")).collect()
}

/// A request of the n-th kind and its reply, both with a text of their own.
fn pipelined(n: usize, numbers: &mut Numbers) -> (String, String) {
    let body = format!("{n} ").repeat(1 + numbers.below(200));
    let chunks: String = [body.split_at(numbers.below(body.len())).0, &body]
        .windows(2)
        .flat_map(|cut| [cut[0], &cut[1][cut[0].len()..]])
        .filter(|piece| !piece.is_empty())
        .map(|piece| format!("{:x};n={n}\r\n{piece}\r\n", piece.len()))
        .collect();
    let chunks = chunks + "0\r\n\r\n";
    let expecting = |request: String| request.replacen("Host", "Expect: 100-continue\r\nHost", 1);
    match n % 9 {
        0 => (
            get(&format!("/target?{n}")),
            ok(&format!("GET /target?{n} /target Some(\"{n}\") Some(\"test\")")),
        ),
        1 => (post("/collect", &body), ok(&body)),
        2 => (post_chunked("/collect", &chunks), ok(&body)),
        3 => (post("/echo", &body), ok(&body)),
        4 => (expecting(post("/collect", &body)), ok(&body)),
        5 => (expecting(post_chunked("/collect", &chunks)), ok(&body)),
        6 => (get("/hello").replace("GET", "HEAD"), ok("hello").replace("\r\nhello", "\r\n")),
        7 => (
            post_chunked("/trailers", &chunks.replace("\r\n\r\n", &format!("\r\nX-N: {n}\r\n\r\n"))),
            ok(&format!("x-n: {n}\r\n")),
        ),
        _ => (get("/hello"), ok("hello")),
    }
}

#[test]
fn thousands_of_pipelined_requests_with_all_kinds_of_bodies_are_answered_in_order() {
    const REQUESTS: usize = 9000;
    on_both_drivers(|driver| {
        let (running, address) = start(driver, Limits::default());
        let (mut numbers, mut input, mut expected) = (Numbers::new(7), String::new(), String::new());
        for n in 0..REQUESTS {
            let (request, answer) = pipelined(n, &mut numbers);
            input += &request;
            expected += &answer;
        }
        let mut client = connect_to(address);
        let mut writer = client.try_clone().unwrap();
        let writing = spawn(move || {
            writer.send(input);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        // Whether the server has to say "go on" depends on where the stream was cut: it may, before the reply.
        let received = undated(&client.rest()).replace("HTTP/1.1 100 Continue\r\n\r\n", "");
        writing.join().unwrap();
        let same = received.bytes().zip(expected.bytes()).take_while(|(one, other)| one == other).count();
        let from = same.saturating_sub(200);
        assert!(
            received == expected,
            "from byte {from} it is {}, expected {}",
            show(&received.as_bytes()[from..]),
            show(&expected.as_bytes()[from..])
        );
        eventually((REQUESTS as u64, 0), || (total(&running).requests, total(&running).connections));
    });
}

#[test]
fn who_reads_only_after_the_server_stopped_taking_requests_gets_every_reply() {
    on_both_drivers(|driver| {
        let (running, address) = start(driver, Limits::default());
        let mut client = connect_narrow(address, 16 * 1024);
        let input: String = (0..40_000).map(|n| get(&format!("/target?{n}"))).collect();
        let mut writer = client.try_clone().unwrap();
        let bytes = input.len() as u64;
        let writing = spawn(move || {
            writer.send(input);
            writer.shutdown(Shutdown::Write).unwrap();
        });
        eventually(true, || total(&running).requests > 0);
        let taken = settled(|| total(&running).received_bytes);
        assert!(taken < bytes, "it took all {bytes} bytes, and nobody reads");
        let received = String::from_utf8(client.rest()).unwrap();
        writing.join().unwrap();
        let mut answers = received.lines().filter(|line| line.contains("GET "));
        for n in 0..40_000 {
            let expected = format!("GET /target?{n} /target Some(\"{n}\") Some(\"test\")");
            assert!(answers.next().is_some_and(|line| line.starts_with(&expected)), "reply {n}");
        }
        assert!(answers.next().is_none());
    });
}

#[test]
fn clients_that_never_read_their_replies_cost_little_and_hold_nobody_up() {
    const DEAF: usize = 40;
    // Output is held at 256 KiB; what grows by doubling has twice its size, and a turn's input may wait beside it.
    const BYTES_EACH_MAX: usize = 1024 * 1024;
    alone(|| {
        on_both_drivers(|driver| {
            // Nobody is closed for it here, however long this takes.
            let config = Config { write_timeout: 60 * PATIENCE, ..config(driver) };
            let (running, address) = start_with(config, Limits::default());
            check(address, get("/hello"), ok("hello"));
            let traces = Traces::before(&running);
            let mut deaf: Vec<TcpStream> = (0..DEAF).map(|_| connect_narrow(address, 32 * 1024)).collect();
            for (n, client) in deaf.iter_mut().enumerate() {
                client.set_nonblocking(true).unwrap();
                // As many requests as it takes: for replies that are made at once, and for such that stream.
                let requests = get(["/hello", "/bytes/20000"][n % 2]).repeat(100);
                match n % 3 {
                    0 => client.send(get("/bytes/1000000000")),
                    _ => while client.write(requests.as_bytes()).is_ok() {},
                }
            }
            // They are all stuck, and stay so while somebody else is served.
            settled(|| (total(&running).sent_bytes, total(&running).received_bytes));
            let mut other = connect_to(address);
            for n in 0..500 {
                let body = n.to_string().repeat(50);
                other.send(post("/collect", &body));
                assert_eq!(receive(&mut other).text(), body);
            }
            let growth = traces.growth_bytes();
            assert!(growth < DEAF * BYTES_EACH_MAX, "{DEAF} clients that never read cost {growth} bytes");
            assert_eq!(total(&running).connections, DEAF as u64 + 1);
            // One finds its hearing again.
            let mut healed = deaf.swap_remove(0);
            healed.set_nonblocking(false).unwrap();
            assert_eq!(receive_head(&mut healed).status, 200);
            expect_pattern(&mut healed, 5_000_000, 50_000);
            drop((deaf, healed, other));
            traces.expect_none(&running);
        });
    });
}

#[test]
fn slow_readers_get_every_byte_each_at_its_own_pace() {
    const CLIENTS: usize = 50;
    const BYTES: usize = 300_000;
    on_both_drivers(|driver| {
        let (running, address) = start(driver, Limits::default());
        let mut clients: Vec<(TcpStream, usize)> = (0..CLIENTS)
            .map(|_| {
                let mut client = connect_narrow(address, 16 * 1024);
                client.send(get(&format!("/bytes/{BYTES}")));
                assert_eq!(receive_head(&mut client).status, 200);
                (client, 0)
            })
            .collect();
        let mut round = 0;
        while clients.iter().any(|(_, at)| *at < BYTES) {
            round += 1;
            for (n, (client, at)) in clients.iter_mut().enumerate() {
                // Some read little and often, some much and seldom.
                let piece = (1000 * (1 + n % 5)).min(BYTES - *at);
                if round % (1 + n % 5) == 0 && piece > 0 {
                    expect_pattern_at(client, *at, piece);
                    *at += piece;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        for (client, _) in &mut clients {
            client.send(get("/hello"));
            assert_eq!(receive(client).text(), "hello");
        }
        assert_eq!((total(&running).write_timeouts, total(&running).timeouts), (0, 0));
    });
}

#[track_caller]
fn expect_pattern_at(client: &mut TcpStream, at: usize, bytes: usize) {
    let mut piece = vec![0; bytes];
    client.read_exact(&mut piece).unwrap_or_else(|error| panic!("{error} at byte {at}"));
    assert!(piece == pattern(at, bytes), "bytes {at} to {} are wrong", at + bytes);
}

/// Connects, goes so far as the numbers say, and resets the connection.
fn conversation_cut_short(address: SocketAddr, numbers: &mut Numbers) {
    // The server may be done with us at any of these places: nothing here has to succeed.
    let Ok(mut client) = TcpStream::connect_timeout(&address, PATIENCE) else { return };
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let chunks = format!("ffff;x\r\n{}\r\n0\r\n\r\n", "x".repeat(0xffff));
    let request = match numbers.below(6) {
        0 => get("/hello").repeat(50),
        1 => get("/bytes/3000000"),
        2 => post_chunked("/collect", &chunks),
        3 => post_chunked("/echo", &chunks),
        4 => get("/slow"),
        _ => post("/early", &"x".repeat(30_000)),
    };
    // In the head, in the body, or at the end.
    let sent = [numbers.below(60), numbers.below(request.len()), request.len()][numbers.below(3)];
    let _ = client.write_all(&request.as_bytes()[..sent.min(request.len())]);
    if sent == request.len() && numbers.below(2) == 0 {
        let _ = client.read(&mut vec![0; 1 + numbers.below(100_000)]);
    }
    reset(client);
}

/// Connects and asks, again and again, until nobody listens. How often it was answered, and how often it was connected and was
/// not.
fn connect_until_refused(address: SocketAddr) -> (u64, u64) {
    let (mut answered, mut lost) = (0, 0);
    while let Ok(client) = TcpStream::connect_timeout(&address, PATIENCE) {
        let mut client = with_patience(client);
        let mut answer = Vec::new();
        let asked = client.write_all(get("/hello").as_bytes());
        let _ = asked
            .and_then(|()| client.shutdown(Shutdown::Write))
            .and_then(|()| client.read_to_end(&mut answer));
        if answer.ends_with(b"hello") { answered += 1 } else { lost += 1 }
    }
    (answered, lost)
}

#[test]
fn a_drain_in_a_storm_of_connects_loses_none_that_was_connected() {
    const ROUNDS: u64 = 10;
    const CLIENTS: usize = 8;
    alone(|| {
        on_both_drivers(|driver| {
            let (mut answered, mut lost) = (0, 0);
            for _ in 0..ROUNDS {
                let (running, address) = start_with(config(driver), Limits::default());
                let clients: Vec<_> =
                    (0..CLIENTS).map(|_| spawn(move || connect_until_refused(address))).collect();
                eventually(true, || total(&running).requests > 500);
                running.handle().drain(PATIENCE);
                running.join().unwrap();
                for client in clients {
                    let (with, without) = client.join().unwrap();
                    (answered, lost) = (answered + with, lost + without);
                }
            }
            // One a round may be in the middle of its handshake.
            assert!(
                lost <= ROUNDS,
                "{driver}: {lost} of {answered} clients that were connected got no answer"
            );
        });
    });
}

fn storm(address: SocketAddr, connections: usize) {
    let threads = (1..=4).map(|n| {
        spawn(move || {
            let mut numbers = Numbers::new(n);
            for _ in 0..connections / 4 {
                conversation_cut_short(address, &mut numbers);
            }
        })
    });
    join(threads.collect());
}

#[test]
fn thousands_of_resets_in_random_places_leave_nothing_behind() {
    const STORM: usize = 2000;
    alone(|| {
        on_both_drivers(|driver| {
            // So few buffers that losing one in a hundred resets would already starve the server.
            let config = Config { recv_buffers: 16, recv_buffer_bytes: 1024, ..config(driver) };
            let (running, address) = start_with(config, Limits::default());
            check(address, get("/hello"), ok("hello"));
            let traces = Traces::before(&running);
            // The first ones show how much memory this takes: spare buffers are kept, and the worst moment decides how many. The others show
            // that it takes no more.
            storm(address, STORM);
            traces.expect_none(&running);
            let growth = (0..4).map(|_| {
                let traces = Traces::before(&running);
                storm(address, STORM);
                storm(address, STORM);
                traces.expect_none(&running);
                traces.growth_bytes()
            });
            let growth: Vec<usize> = growth.take_while(|bytes| *bytes >= 1 << 20).collect();
            assert!(growth.len() < 4, "{} resets cost {growth:?} bytes, again and again", 2 * STORM);
            let total = total(&running);
            assert!(total.failures > STORM as u64, "they were resets: {total:?}");
            assert_eq!(total.panics, 0);
            // All buffers are home: a body many times larger than all of them comes back.
            let body = String::from_utf8(vec![b'x'; 1_000_000]).unwrap();
            check(address, post("/collect", &body), ok(&body));
        });
    });
}

const GIGABYTE: usize = 1 << 30;
const PIECE: usize = 256 * 1024;

/// How much memory the server had at its peak (VmHWM in proc_pid_status(5)).
fn peak_bytes(server: &Program) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}

/// Reads so many bytes of what `/bytes/{n}` answers.
#[track_caller]
fn expect_bytes(client: &mut TcpStream, count: usize) {
    let alphabet = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";
    let expected = alphabet.repeat(PIECE / alphabet.len() + 1);
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    while at < count {
        let bytes = client.read(&mut buffer[..PIECE.min(count - at)]).expect("the download goes on");
        assert!(bytes > 0, "it ended after {at} bytes");
        let from = at % alphabet.len();
        assert!(buffer[..bytes] == expected[from..from + bytes], "bytes {at} to {} are wrong", at + bytes);
        at += bytes;
    }
}

/// A POST of a so large body; returns what is left to read.
fn upload(address: SocketAddr, target: &str, bytes: usize, chunked: bool) -> (TcpStream, JoinHandle<()>) {
    let client = connect_to(address);
    let mut writer = client.try_clone().unwrap();
    let framing =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {bytes}") };
    let head = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n");
    let data: Vec<u8> = pattern(0, PIECE);
    let piece = if chunked { [format!("{PIECE:x}\r\n").as_bytes(), &data, b"\r\n"].concat() } else { data };
    let writing = spawn(move || {
        writer.send(head);
        for _ in 0..bytes / PIECE {
            writer.send(&piece);
        }
        writer.send(if chunked { "0\r\n\r\n" } else { "" });
    });
    (client, writing)
}

#[test]
fn gigabytes_go_down_and_up_and_back_in_flat_memory() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &[]);
        let round = |bytes: usize| {
            let mut client = connect_to(server.http());
            client.send(get(&format!("/bytes/{bytes}")));
            assert_eq!(receive_head(&mut client).status, 200);
            expect_bytes(&mut client, bytes);
            for chunked in [false, true] {
                let (mut client, writing) = upload(server.http(), "/upload", bytes, chunked);
                // The patience of a read begins where nothing is left to send.
                writing.join().unwrap();
                assert_eq!(receive(&mut client).text(), bytes.to_string());
            }
            let (mut client, writing) = upload(server.http(), "/echo", bytes, false);
            assert_eq!(receive_head(&mut client).status, 200);
            let (data, mut back) = (pattern(0, PIECE), vec![0; PIECE]);
            for n in 0..bytes / PIECE {
                client.read_exact(&mut back).unwrap_or_else(|error| panic!("{error} in piece {n}"));
                assert!(back == data, "piece {n} came back otherwise");
            }
            writing.join().unwrap();
        };
        round(64 << 20);
        let before = peak_bytes(&server);
        round(GIGABYTE);
        let growth = peak_bytes(&server) - before;
        assert!(growth < 4 << 20, "sixteen times as much took {growth} bytes more");
    });
}

/// Asks in bursts until the server wants no more, on one connection after the other until it takes none.
/// Returns how many replies came, whole; all others would be a failure.
fn ask_until_the_end(address: SocketAddr, n: usize, replies: &AtomicU64) {
    let mut numbers = Numbers::new(n);
    while let Ok(client) = TcpStream::connect_timeout(&address, PATIENCE) {
        let mut client = with_patience(client);
        'connection: for _ in 0..100 {
            let burst: Vec<usize> = (0..1 + numbers.below(4)).map(|_| numbers.below(30_000)).collect();
            let requests = burst.iter().map(|length| match length % 3 {
                0 => get(&format!("/bytes/{length}")),
                1 => post("/upload", &"x".repeat(*length)),
                _ => post_chunked("/", &format!("{length:x}\r\n{}\r\n0\r\n\r\n", "y".repeat(*length))),
            });
            // The server may have ended this connection already: then it tells below what it has answered.
            let _ = client.write_all(requests.collect::<String>().as_bytes());
            for length in burst {
                // An end between replies is one; in the middle of a reply, `receive` fails.
                if !client.peek(&mut [0]).is_ok_and(|bytes| bytes > 0) {
                    break 'connection;
                }
                let answer = receive(&mut client);
                let good = match length % 3 {
                    0 => answer.body.len() == length,
                    1 => answer.text() == length.to_string(),
                    _ => answer.body == "y".repeat(length).as_bytes(),
                };
                assert!(answer.status == 200 && good, "client {n}, {length} bytes: {}", answer.head);
                replies.fetch_add(1, SeqCst);
                if answer.field("connection") == Some("close") {
                    break 'connection;
                }
            }
        }
    }
}

#[test]
fn a_signal_under_load_loses_no_request_that_was_taken() {
    on_both_drivers(|driver| {
        let mut server = Program::serve(driver, &["--workers", "2"]);
        let (address, replies) = (server.http(), std::sync::Arc::new(AtomicU64::new(0)));
        let clients = (1..=12).map(|n| {
            let replies = replies.clone();
            spawn(move || ask_until_the_end(address, n, &replies))
        });
        let clients: Vec<_> = clients.collect();
        eventually(true, || replies.load(SeqCst) > 600);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0), "{:#?}", server.lines());
        join(clients);
        // The server counts a request when it has its head. Each of them was answered to somebody, in full.
        eventually(true, || server.line_with("ended").is_some());
        let line = server.line_with("ended").unwrap();
        let requests = line.split("requests=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        assert_eq!(requests, Some(replies.load(SeqCst)), "{line}");
    });
}
