//! Strangers at a TLS listener, on both drivers: who begins a handshake and does not end it, sends records that no client sends, or ends
//! in the wrong way, costs only itself. What is HTTP is in `hostile.rs`.
#![cfg(feature = "tls")]

mod common;

use common::http::*;
use common::records::{self, ALERT, CLOSE_NOTIFY, DATA, HANDSHAKE, Handshake, Records};
use common::site::Site;
use common::tls::{Secured, Trust, hello, secure, unsent};
use common::traces::{Traces, total};
use common::*;
use ringmill::http::Server;
use ringmill::{
    Address, CloseReason, Config, Dialer, DriverChoice, Echo, Engine, Io, Protocol, Running, Step, Tls,
    TlsClient, TlsConfig, TlsStore,
};
use rustls::{ClientConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Alerts, all of them fatal but one (RFC 8446, 6; RFC 5246, 7.2).
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const RECORD_OVERFLOW: u8 = 22;
const DECODE_ERROR: u8 = 50;
const NO_RENEGOTIATION: u8 = 100;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

/// A server with HTTP and with echo, both over TLS.
struct Secure {
    running: Running,
    trust: Trust,
    client: Arc<ClientConfig>,
}

impl Secure {
    fn start(driver: DriverChoice) -> Secure {
        Secure::start_with(driver, |config| config)
    }

    fn start_with(driver: DriverChoice, change: impl Fn(TlsConfig) -> TlsConfig) -> Secure {
        let trust = Trust::new();
        let store = TlsStore::new(change(trust.server(&["http/1.1"]))).expect("a sound configuration");
        let other_store = store.clone();
        let running = Engine::builder()
            .config(Config { connections_max: None, ..config(driver) })
            .listen("127.0.0.1:0", move |_| Tls::new(Server::new(Site), store.clone()))
            .listen("127.0.0.1:0", move |_| Tls::new(Echo::default(), other_store.clone()))
            .start()
            .expect("the engine starts");
        let client = Arc::new(trust.client(&["http/1.1"]));
        let secure = Secure { running, trust, client };
        // What is made once for all is made now.
        secure.check_served();
        secure
    }

    fn http(&self) -> SocketAddr {
        ip(&self.running.addresses()[0])
    }

    fn echo(&self) -> SocketAddr {
        ip(&self.running.addresses()[1])
    }

    fn connect(&self) -> Secured {
        secure(self.http(), &self.client).expect("a handshake")
    }

    /// Somebody else is served as ever.
    #[track_caller]
    fn check_served(&self) {
        let mut other = self.connect();
        other.send(get("/hello"));
        assert_eq!(receive(&mut other).text(), "hello");
    }

    /// A connection to either listener behind its handshake, as records; only the last flight is still to be sent.
    fn records(&self, address: SocketAddr, version: &'static SupportedProtocolVersion) -> Raw {
        let mut config = self.trust.client_with(records::provider(), &[version], &["http/1.1"]);
        config.enable_secret_extraction = true;
        Raw::new(connect_to(address), Handshake::new(unsent(&Arc::new(config))))
    }
}

/// A peer that chooses its records.
struct Raw {
    stream: TcpStream,
    records: Records,
}

impl Raw {
    /// Makes the handshake.
    fn new(mut stream: TcpStream, mut handshake: Handshake) -> Raw {
        loop {
            let flight = handshake.take_output();
            if !flight.is_empty() {
                stream.send(flight);
            }
            let mut buffer = [0; 4096];
            let bytes = stream.read(&mut buffer).expect("the other side answers");
            assert!(bytes > 0, "the end in the middle of a handshake");
            if handshake.take_input(&buffer[..bytes]).expect("the other side speaks TLS") {
                let flight = handshake.take_output();
                stream.send(flight);
                return Raw { stream, records: handshake.into_records() };
            }
        }
    }

    fn send(&mut self, content_type: u8, payload: &[u8]) {
        let record = self.records.seal(content_type, payload);
        // The server may have closed because of what came before: that shows when reading.
        let _ = self.stream.write_all(&record);
    }

    /// What comes up to the end of the stream or a reset: data in one piece, and the alerts.
    fn rest(&mut self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut data, mut alerts, mut buffer) = (Vec::new(), Vec::new(), [0; 16 * 1024]);
        while let Ok(bytes @ 1..) = self.stream.read(&mut buffer) {
            for (content_type, payload) in self.records.open(&buffer[..bytes]) {
                match content_type {
                    DATA => data.extend(payload),
                    ALERT => alerts.push(payload),
                    _ => {}
                }
            }
        }
        (data, alerts)
    }

    /// Reads until so many bytes of data have come, and an alert, if one comes before them.
    fn data(&mut self, wanted: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (mut data, mut alerts, mut buffer) = (Vec::new(), Vec::new(), [0; 16 * 1024]);
        while data.len() < wanted {
            let bytes = self.stream.read(&mut buffer).expect("the server answers");
            assert!(bytes > 0, "the end after {} and {alerts:?}", show(&data));
            for (content_type, payload) in self.records.open(&buffer[..bytes]) {
                match content_type {
                    DATA => data.extend(payload),
                    ALERT => alerts.push(payload),
                    _ => {}
                }
            }
        }
        (data, alerts)
    }
}

/// The alert that a record in the clear is.
fn clear_alert(answer: &[u8]) -> Option<u8> {
    match answer {
        [ALERT, 3, _, 0, 2, 2, alert] => Some(*alert),
        _ => None,
    }
}

#[test]
fn whoever_does_not_end_its_handshake_is_let_go() {
    const SHORT: Duration = Duration::from_secs(1);
    on_both_drivers(|driver| {
        let server = Secure::start_with(driver, |config| config.with_handshake_timeout(SHORT));
        let mut served = server.connect();
        let hello = hello(&server.client);
        let began = Instant::now();
        let mut silent = connect_to(server.http());
        let mut dripping = connect_to(server.http());
        let mut answered = connect_to(server.http());
        answered.send(&hello);
        // Each byte in far less than the whole time.
        for byte in &hello {
            if dripping.write_all(&[*byte]).is_err() || server.running.stats().total().connections == 1 {
                break;
            }
            std::thread::sleep(SHORT / 20);
        }
        silent.expect_eof();
        let flight = answered.rest();
        assert_eq!(flight.first(), Some(&HANDSHAKE), "{}", show(&flight));
        // It sent behind the server's end.
        let mut rest = Vec::new();
        let _ = dripping.read_to_end(&mut rest);
        assert_eq!(show(&rest), show(b""), "an answer to a part of a first message");
        let took = began.elapsed();
        assert!(took >= SHORT - SHORT / 20 && took < PATIENCE, "{took:?}");
        // The deadline is the handshake's.
        served.send(get("/hello"));
        assert_eq!(receive(&mut served).text(), "hello");
    });
}

#[test]
fn thousands_of_halves_of_first_messages_cost_little() {
    const CLIENTS: usize = 2000;
    alone(|| {
        on_both_drivers(|driver| {
            let server = Secure::start_with(driver, |config| config.with_handshake_timeout(6 * PATIENCE));
            let hello = hello(&server.client);
            let traces = Traces::before(&server.running);
            let held_before = total(&server.running).memory_bytes;
            let clients: Vec<TcpStream> = (0..CLIENTS)
                .map(|_| {
                    let mut client = connect_to(server.http());
                    client.send(&hello[..hello.len() / 2]);
                    client
                })
                .collect();
            let received = (CLIENTS * (hello.len() / 2)) as u64;
            let before = total(&server.running).received_bytes;
            eventually(true, || total(&server.running).received_bytes >= received.min(before));
            eventually(CLIENTS as u64, || total(&server.running).connections);
            settled(|| total(&server.running).received_bytes);
            let held = (total(&server.running).memory_bytes - held_before) as usize / CLIENTS;
            let growth = traces.growth_bytes() / CLIENTS;
            say_past_capture(&format!(
                "{driver}: half a first message holds {held} bytes and takes {growth}"
            ));
            // What is kept of its bytes, and what rustls may keep for a connection: all of it is in the worker's budget.
            assert!((hello.len() / 2..8 << 10).contains(&held), "{held} bytes each are counted");
            assert!(growth < 12 << 10, "{growth} bytes each");
            server.check_served();
            drop(clients);
            traces.expect_none(&server.running);
            assert_eq!(total(&server.running).memory_refused, 0);
        });
    });
}

/// The longest that somebody who is served waits for an answer while so many handshakes begin at once.
fn worst_beside_handshakes(driver: DriverChoice, clients: usize, turn: Duration) -> Duration {
    let server = Secure::start_with(driver, |config| config.with_handshake_turn(turn));
    let hello = hello(&server.client);
    let traces = Traces::before(&server.running);
    let mut served = server.connect();
    let mut clients: Vec<TcpStream> = (0..clients).map(|_| connect_to(server.http())).collect();
    eventually(clients.len() as u64 + 1, || total(&server.running).connections);
    // All of them are answered when so much was sent: a certificate and more to each.
    let sent_bytes_min = total(&server.running).sent_bytes + (clients.len() * 600) as u64;
    clients.iter_mut().for_each(|client| client.send(&hello));
    let (mut worst, began) = (Duration::ZERO, Instant::now());
    while total(&server.running).sent_bytes < sent_bytes_min {
        let asked = Instant::now();
        served.send(get("/hello"));
        assert_eq!(receive(&mut served).text(), "hello");
        worst = worst.max(asked.elapsed());
        assert!(began.elapsed() < PATIENCE, "{} handshakes take too long", clients.len());
    }
    for client in &mut clients {
        client.expect([HANDSHAKE]);
    }
    drop((clients, served));
    traces.expect_none(&server.running);
    worst
}

#[test]
fn hundreds_of_handshakes_at_once_do_not_stop_those_who_are_served() {
    const CLIENTS: usize = 500;
    alone(|| {
        on_both_drivers(|driver| {
            let without = worst_beside_handshakes(driver, CLIENTS, PATIENCE);
            // The best of some: this machine may be busy with something else.
            let turns = [(); 5].map(|()| worst_beside_handshakes(driver, CLIENTS, Duration::from_millis(2)));
            let with = turns.into_iter().min().expect("five of them");
            assert!(with < without / 2, "{turns:?} with turns, {without:?} without");
        });
    });
}

#[test]
fn a_thousand_first_messages_with_a_reset_behind_leave_nothing() {
    const CLIENTS: usize = 1000;
    alone(|| {
        on_both_drivers(|driver| {
            let server = Secure::start(driver);
            let hello = hello(&server.client);
            let storm = || {
                for n in 0..CLIENTS {
                    let mut client = connect_to(server.http());
                    // All of it, or a part, or all and some of the answer is taken.
                    client.send(if n % 3 == 0 { &hello[..n % hello.len()] } else { &hello });
                    if n % 3 == 1 {
                        client.expect([HANDSHAKE]);
                    }
                    reset(client);
                }
            };
            // The first one shows how much memory this takes, the second that it takes no more.
            storm();
            let traces = Traces::before(&server.running);
            storm();
            traces.expect_none(&server.running);
            let growth = traces.growth_bytes();
            assert!(growth < 2 << 20, "{CLIENTS} resets cost {growth} bytes");
            let total = total(&server.running);
            assert_eq!(total.panics, 0);
            assert!(total.failures > CLIENTS as u64 / 2, "they were resets: {total:?}");
            server.check_served();
        });
    });
}

#[test]
fn a_flood_of_empty_records_ends_or_is_borne() {
    const RECORDS: usize = 20_000;
    alone(|| {
        on_both_drivers(|driver| {
            let server = Secure::start(driver);
            let traces = Traces::before(&server.running);
            // Before a handshake none may be empty.
            let mut client = connect_to(server.http());
            let _ = client.write_all(&[HANDSHAKE, 3, 1, 0, 0].repeat(RECORDS));
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer);
            assert_eq!(clear_alert(&answer), Some(DECODE_ERROR), "{}", show(&answer));
            drop(client);
            for version in VERSIONS {
                let mut client = server.records(server.http(), version);
                for _ in 0..RECORDS {
                    client.send(DATA, b"");
                }
                client.send(DATA, get("/hello").as_bytes());
                client.send(ALERT, &CLOSE_NOTIFY);
                let (data, alerts) = client.rest();
                let is_served = data.ends_with(b"\r\n\r\nhello") && alerts == [CLOSE_NOTIFY];
                // rustls takes 32 of them in a row, and has no alert for more.
                let is_refused = data.is_empty() && alerts.is_empty();
                assert!(is_served || is_refused, "{version:?}: {} and {alerts:?}", show(&data));
            }
            server.check_served();
            traces.expect_none(&server.running);
        });
    });
}

/// rustls keeps the bytes of a message that comes in parts, and those of a part that is empty for good: it may see neither less
/// than it keeps, nor more and more of it.
#[test]
fn empty_parts_of_messages_between_data_harm_nobody() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        for version in VERSIONS {
            let mut client = server.records(server.echo(), version);
            for n in 0..100 {
                client.send(HANDSHAKE, b"");
                client.send(DATA, &[n]);
            }
            client.send(ALERT, &CLOSE_NOTIFY);
            let (data, alerts) = client.rest();
            assert_eq!((data, alerts), ((0..100).collect(), vec![CLOSE_NOTIFY.to_vec()]), "{version:?}");
            // More output than there is room for: the records behind it wait, and the session is called without any.
            let mut client = server.records(server.http(), version);
            for _ in 0..100 {
                client.send(HANDSHAKE, b"");
                client.send(DATA, get("/bytes/50000").as_bytes());
            }
            client.send(ALERT, &CLOSE_NOTIFY);
            std::thread::sleep(Duration::from_millis(100));
            let (data, alerts) = client.rest();
            assert_eq!(alerts, [CLOSE_NOTIFY], "{version:?}");
            assert!(data.len() > 100 * 50_000 && data.ends_with(&pattern(0, 50_000)), "{} bytes", data.len());
            // Too many.
            let mut client = server.records(server.echo(), version);
            for _ in 0..10_000 {
                client.send(HANDSHAKE, b"");
                client.send(DATA, b"x");
            }
            let (data, _) = client.rest();
            assert!((500..5000).contains(&data.len()), "{version:?}: {} were taken", data.len());
        }
        server.check_served();
        assert_eq!(total(&server.running).panics, 0);
    });
}

/// Connects, says what it hears, and in the end why it was the end.
struct Hearer {
    address: Address,
    heard: Sender<Heard>,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Data(Vec<u8>),
    Closed(CloseReason),
}

impl Protocol for Hearer {
    type Session = ();

    fn open(&mut self, _: &mut Io<'_>) {}

    fn start(&mut self, dialer: Dialer) {
        dialer.connect(&self.address, 0);
    }

    fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        self.heard.send(Heard::Data(input.to_vec())).expect("the test listens");
        Step::consumed(input.len())
    }

    fn closed(&mut self, (): (), reason: CloseReason) {
        self.heard.send(Heard::Closed(reason)).expect("the test listens");
    }
}

/// All data up to the end, and its reason.
fn all_heard(heard: &Receiver<Heard>) -> (Vec<u8>, CloseReason) {
    let mut data = Vec::new();
    loop {
        match heard.recv_timeout(PATIENCE).expect("the end comes") {
            Heard::Data(more) => data.extend(more),
            Heard::Closed(reason) => return (data, reason),
        }
    }
}

#[test]
fn a_server_that_sends_what_no_server_sends_harms_no_client() {
    on_both_drivers(|driver| {
        let trust = Trust::new();
        let hear = |version, say: &dyn Fn(&mut Raw)| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::from(listener.local_addr().unwrap());
            let peer = TlsClient::new(trust.our_client()).unwrap().peer("localhost").unwrap();
            let (sender, heard) = channel();
            let factory = move |_: &_| {
                let (hearer, peer) =
                    (Hearer { address: address.clone(), heard: sender.clone() }, peer.clone());
                Tls::client(hearer, move |_| Some(peer.clone()))
            };
            let running = Engine::builder().config(config(driver)).outbound(factory).start().unwrap();
            let mut config = trust.server_with(records::provider(), &[version]);
            config.enable_secret_extraction = true;
            let tls = ServerConnection::new(Arc::new(config)).unwrap();
            let stream = with_patience(listener.accept().unwrap().0);
            let mut server = Raw::new(stream, Handshake::new(tls));
            say(&mut server);
            let all = all_heard(&heard);
            drop(server);
            eventually(0, || total(&running).connections);
            assert_eq!(total(&running).panics, 0);
            all
        };
        for version in VERSIONS {
            let (data, reason) = hear(version, &|server| {
                for n in 0..100 {
                    server.send(HANDSHAKE, b"");
                    server.send(DATA, &[n]);
                }
                server.send(ALERT, &CLOSE_NOTIFY);
            });
            assert_eq!((data, reason), ((0..100).collect(), CloseReason::Finished), "{version:?}");
            let (data, _) = hear(version, &|server| {
                for _ in 0..10_000 {
                    server.send(HANDSHAKE, b"");
                    server.send(DATA, b"x");
                }
            });
            assert!((500..5000).contains(&data.len()), "{version:?}: {} were taken", data.len());
            for (content_type, payload) in
                [(DATA, vec![0; 16_385]), (ALERT, vec![2, 80]), (HANDSHAKE, vec![1; 100]), (99, vec![0])]
            {
                let (data, reason) = hear(version, &|server| {
                    server.send(DATA, b"before");
                    server.send(content_type, &payload);
                    server.send(DATA, b"behind");
                });
                assert_eq!(
                    (show(&data), reason),
                    (show(b"before"), CloseReason::Aborted),
                    "{version:?} {content_type}"
                );
            }
        }
    });
}

#[test]
fn a_record_that_is_too_long_is_an_overflow() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        for version in VERSIONS {
            // The longest is more than any ciphertext may have: for rustls that is no record at all.
            let over = [2, RECORD_OVERFLOW];
            for (bytes, alert) in [(16_384, CLOSE_NOTIFY), (16_385, over), (30_000, [2, DECODE_ERROR])] {
                let mut client = server.records(server.echo(), version);
                client.send(DATA, b"before");
                client.send(DATA, &pattern(0, bytes));
                client.send(ALERT, &CLOSE_NOTIFY);
                let (data, alerts) = client.rest();
                let echoed = if alert == CLOSE_NOTIFY { bytes } else { 0 };
                let expected = [b"before", &pattern(0, echoed)[..]].concat();
                assert!(data == expected, "{bytes} bytes: {} of data, {alerts:?}", data.len());
                assert_eq!(alerts, [alert], "{version:?}, {bytes} bytes");
            }
        }
        // Before a handshake, and more than any ciphertext has.
        let mut client = connect_to(server.http());
        let _ = client.write_all(&[&[HANDSHAKE, 3, 1, 0xff, 0xff][..], &[0; 70_000]].concat());
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty() || clear_alert(&answer).is_some(), "{}", show(&answer));
        server.check_served();
    });
}

#[test]
fn a_body_that_is_cut_is_no_body() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        let sized = "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf".to_owned();
        for request in [sized, post_chunked("/collect", "4\r\nhalf\r\n"), get("/hello").trim_end().to_owned()]
        {
            for version in VERSIONS {
                let mut client = server.records(server.http(), version);
                client.send(DATA, get("/hello").as_bytes());
                client.send(DATA, request.as_bytes());
                client.stream.shutdown(Shutdown::Write).unwrap();
                let (data, _) = client.rest();
                let text = String::from_utf8_lossy(&data);
                assert!(text.ends_with("\r\n\r\nhello") && text.matches("HTTP/1.1 ").count() == 1, "{text}");
            }
        }
    });
}

#[test]
fn who_ends_its_half_with_close_notify_gets_what_it_asked_for() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        for is_shut in [false, true] {
            let mut client = server.connect();
            client.send(get("/bytes/2000000") + &get("/slow"));
            client.conn.send_close_notify();
            client.flush().unwrap();
            if is_shut {
                client.sock.stream.shutdown(Shutdown::Write).unwrap();
            }
            assert!(receive(&mut client).body == pattern(0, 2_000_000));
            assert_eq!(receive(&mut client).body, [0, 1, 2]);
            // Our close_notify: without one it would be an error.
            client.expect_eof();
        }
    });
}

#[test]
fn what_comes_behind_close_notify_is_not_looked_at() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        for version in VERSIONS {
            let mut client = server.records(server.echo(), version);
            client.send(DATA, b"before");
            client.send(ALERT, &CLOSE_NOTIFY);
            client.send(DATA, b"behind");
            let _ = client.stream.write_all(&[0xff; 100_000]);
            let (data, alerts) = client.rest();
            assert_eq!((show(&data), alerts), (show(b"before"), vec![CLOSE_NOTIFY.to_vec()]), "{version:?}");
        }
    });
}

#[test]
fn garbage_is_refused_before_and_behind_a_handshake() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        let check = |bytes: &[u8], expected: &[u8]| {
            let mut client = connect_to(server.http());
            let _ = client.write_all(bytes);
            let _ = client.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer);
            let is_right = answer.starts_with(expected) && answer.is_empty() == expected.is_empty();
            assert!(is_right, "{}: {}", show(bytes), show(&answer));
        };
        let alert: &[u8] = &[ALERT, 3, 3, 0, 2, 2];
        let noise: Vec<u8> =
            (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 | 0x80).collect();
        check(&noise, alert);
        check(&[0; 5000], alert);
        check(&[0xff; 5000], alert);
        check(b"SSH-2.0-OpenSSH_9.9\r\n", alert);
        check(b"*1\r\n$4\r\nPING\r\n", alert);
        check(&"G".repeat(100_000).into_bytes(), alert);
        // HTTP without TLS, of which the first word is enough; so a word of others may be taken for it.
        check(b"EHLO example.org\r\n", b"HTTP/1.1 400 Bad Request\r\n");
        check(get("/").as_bytes(), b"HTTP/1.1 400 Bad Request\r\n");
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n");
        check(b"GET ", b"HTTP/1.1 400 Bad Request\r\n");
        check(b"GET", b"");
        check(b"", b"");
        for version in VERSIONS {
            let mut client = server.records(server.http(), version);
            client.send(DATA, get("/hello").as_bytes());
            // The header of a record that nobody sealed.
            let _ = client.stream.write_all(&[&[DATA, 3, 3, 0, 40][..], &[7; 40]].concat());
            let (data, alerts) = client.rest();
            assert!(data.ends_with(b"\r\n\r\nhello"), "{}", show(&data));
            assert_eq!(alerts, [[2, BAD_RECORD_MAC]], "{version:?}");
        }
        eventually(0, || total(&server.running).connections);
        server.check_served();
    });
}

#[test]
fn nobody_negotiates_anew() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        let hello = hello(&Arc::new(server.trust.client_of(&[&rustls::version::TLS12], &[])));
        // Its message, without the header of its record.
        let message = &hello[5..];
        let mut client = server.records(server.echo(), &rustls::version::TLS12);
        client.send(DATA, b"before");
        client.send(HANDSHAKE, message);
        client.send(DATA, b"behind");
        let (data, alerts) = client.data("beforebehind".len());
        assert_eq!(show(&data), show(b"beforebehind"));
        // A warning (RFC 5746, 5): the connection goes on.
        assert_eq!(alerts, [[1, NO_RENEGOTIATION]]);
        // Who insists is let go.
        for _ in 0..100 {
            client.send(HANDSHAKE, message);
        }
        client.send(DATA, b"never");
        let (data, alerts) = client.rest();
        assert!(data.is_empty() && alerts.len() < 10, "{} refusals, then {}", alerts.len(), show(&data));
        // With TLS 1.3 it breaks a rule.
        let mut client = server.records(server.echo(), &rustls::version::TLS13);
        client.send(DATA, b"before");
        client.send(HANDSHAKE, message);
        client.send(DATA, b"behind");
        let (data, alerts) = client.rest();
        assert_eq!((show(&data), alerts), (show(b"before"), vec![vec![2, UNEXPECTED_MESSAGE]]));
    });
}

#[test]
fn a_drain_lets_handshakes_end_and_waits_for_no_others() {
    on_both_drivers(|driver| {
        let server = Secure::start(driver);
        let hello = hello(&server.client);
        let mut idle = server.connect();
        idle.send(get("/hello"));
        assert_eq!(receive(&mut idle).text(), "hello");
        let mut silent = connect_to(server.http());
        let mut half = connect_to(server.http());
        half.send(&hello[..hello.len() / 2]);
        let mut answered = connect_to(server.http());
        answered.send(&hello);
        answered.expect([HANDSHAKE]);
        // These two have the server's answer, and send theirs while it drains.
        let mut late = [server.http(), server.echo()].map(|address| {
            let mut stream = connect_to(address);
            let mut tls = unsent(&server.client);
            tls.write_tls(&mut stream).unwrap();
            while tls.is_handshaking() {
                tls.read_tls(&mut stream).unwrap();
                tls.process_new_packets().unwrap();
            }
            (tls, stream)
        });
        let began = Instant::now();
        server.running.handle().drain(3 * PATIENCE);
        idle.expect_eof();
        let [http, echo] = &mut late;
        http.0.writer().write_all(get("/hello").as_bytes()).unwrap();
        for (tls, stream) in [&mut *http, &mut *echo] {
            while tls.wants_write() {
                tls.write_tls(stream).unwrap();
            }
        }
        let mut answer = Vec::new();
        rustls::Stream::new(&mut http.0, &mut http.1)
            .read_to_end(&mut answer)
            .expect("close_notify at its end");
        let answer = undated(&answer);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("connection: close"),
            "{answer}"
        );
        // Who has nothing in progress is told of the drain as well, though it began before the session.
        let mut answer = Vec::new();
        rustls::Stream::new(&mut echo.0, &mut echo.1)
            .read_to_end(&mut answer)
            .expect("close_notify at its end");
        assert_eq!(show(&answer), show(b""));
        silent.expect_eof();
        half.expect_eof();
        answered.rest();
        drop((late, answered, idle, silent, half));
        server.running.join().expect("it ends");
        assert!(began.elapsed() < PATIENCE, "the drain waited for somebody: {:?}", began.elapsed());
    });
}

#[cfg(feature = "cli")]
#[test]
fn a_signal_in_a_storm_of_handshakes_ends_the_program_well() {
    on_both_drivers(|driver| {
        let mut server = Program::serve(driver, &["--tls-listen", "127.0.0.1:0", "--tls-self-signed"]);
        let address = server.address_after("TLS on ");
        let hello = hello(&Arc::new(Trust::new().client(&["http/1.1"])));
        let mut clients: Vec<TcpStream> = (0..200).map(|_| connect_to(address)).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(&hello[..hello.len() >> (n % 3)]);
        }
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0), "{:#?}", server.lines());
        eventually(true, || server.line_with("ended").is_some());
    });
}
