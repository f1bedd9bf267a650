//! The relay: each end by itself, resets as resets, who waits for whom, which server is tried, and what it is told.

use super::observing::observe_all;
use super::*;
use crate::common::frames::{
    END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, STATUS_200, frame, read_frame,
};
use ringmill::layer::proxy::Version;
use ringmill::proxy::Relaying;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// A server whose connections the test takes.
struct Server {
    listener: TcpListener,
    address: Address,
}

impl Server {
    fn new() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(listener.local_addr().unwrap());
        Server { listener, address }
    }

    fn accept(&self) -> TcpStream {
        with_patience(self.listener.accept().unwrap().0)
    }
}

/// An address that does not answer: a listener's queue for one is full, so the kernel drops what else comes.
fn silent() -> (socket2::Socket, TcpStream, Address) {
    let (listener, address) = deaf();
    listener.listen(0).unwrap();
    let first = connect_to(ip(&address));
    (listener, first, address)
}

fn relay_within(driver: DriverChoice, config: &ProxyConfig, idle_timeout: Duration) -> Running {
    let relaying = Relaying { idle_timeout, ..Relaying::new(Some(String::new())) };
    let config = config.clone();
    start(common::config(driver), move |_| Proxy::new(config.clone(), 1).with_relaying(relaying.clone()))
}

fn relay(driver: DriverChoice, config: &ProxyConfig) -> Running {
    relay_within(driver, config, Duration::from_secs(600))
}

/// What is relayed is not HTTP, whatever version requests of the same servers would go in; their checks do.
#[test]
fn what_is_relayed_to_a_server_of_http2_stays_as_it_is() {
    on_both_drivers(|driver| {
        let server = Server::new();
        let check = Check { every: Duration::from_secs(60), ..Check::new("/up".parse().unwrap()) };
        let config = ProxyConfig {
            is_http2: true,
            check: Some(check),
            ..ProxyConfig::relayed(vec![server.address.clone()])
        };
        let running = relay(driver, &config);
        server.accept().expect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut client = connect(&running);
        client.send(b"GET / HTTP/1.1\r\n\r\n");
        let mut server = server.accept();
        server.expect(b"GET / HTTP/1.1\r\n\r\n");
        server.send(b"as it is");
        client.expect(b"as it is");
    });
}

/// Both ends of a relayed connection.
fn pair(driver: DriverChoice) -> (Running, TcpStream, TcpStream) {
    let server = Server::new();
    let running = relay(driver, &ProxyConfig::relayed(vec![server.address.clone()]));
    let client = connect(&running);
    let server = server.accept();
    (running, client, server)
}

#[test]
fn bytes_go_both_ways_and_each_end_ends_by_itself() {
    on_both_drivers(|driver| {
        // Whoever ends first goes on listening, also where it ends before the other one has said anything.
        for client_first in [true, false] {
            let (running, client, server) = pair(driver);
            let (mut first, mut second) = if client_first { (client, server) } else { (server, client) };
            first.send(b"ping");
            second.expect(b"ping");
            second.send(b"pong");
            first.expect(b"pong");
            first.send(b"last");
            first.shutdown(Shutdown::Write).unwrap();
            assert_eq!(second.rest(), b"last");
            for _ in 0..3 {
                second.send(b"more");
                first.expect(b"more");
            }
            second.send(b"end");
            second.shutdown(Shutdown::Write).unwrap();
            assert_eq!(first.rest(), b"end");
            eventually(0, || running.stats().total().connections);
            assert_eq!(running.stats().total().failures, 0);
        }
        // As `printf question | nc`: all is said and ended before the server is even connected.
        let server = Server::new();
        let running = relay(driver, &ProxyConfig::relayed(vec![server.address.clone()]));
        let mut client = connect(&running);
        client.send(b"question");
        client.shutdown(Shutdown::Write).unwrap();
        let mut server = server.accept();
        assert_eq!(server.rest(), b"question");
        server.send(b"answer");
        drop(server);
        assert_eq!(client.rest(), b"answer");
        eventually(0, || running.stats().total().connections);
    });
}

#[test]
fn a_reset_is_a_reset_both_ways() {
    on_both_drivers(|driver| {
        for from_client in [true, false] {
            let (running, client, server) = pair(driver);
            let (one, mut other) = if from_client { (client, server) } else { (server, client) };
            reset(one);
            assert_eq!(other.expect_reset(), b"");
            eventually(0, || running.stats().total().connections);
        }
        // Also where its own side had ended before.
        let (_running, client, server) = pair(driver);
        client.shutdown(Shutdown::Write).unwrap();
        reset(server);
        let mut client = client;
        assert_eq!(client.expect_reset(), b"");
    });
}

#[test]
fn a_server_that_cannot_be_reached_is_passed_by() {
    on_both_drivers(|driver| {
        let (one, two, (_nobody, deaf), (_listener, _first, silent)) =
            (Server::new(), Server::new(), deaf(), silent());
        let servers = vec![one.address.clone(), deaf.clone(), two.address.clone(), silent.clone()];
        let connect_timeout = Some(Duration::from_millis(200));
        let balance = Balance::RoundRobin;
        let config = ProxyConfig { connect_timeout, balance, ..ProxyConfig::relayed(servers) };
        let running = relay(driver, &config);
        let clients: Vec<TcpStream> = (0..6).map(|_| connect(&running)).collect();
        // Whoever came to the others got one of these.
        let counts = || config.fleet.counts().iter().map(|it| it.in_flight).sum::<u32>();
        eventually(6, counts);
        for mut client in clients {
            client.send(b"hello");
            client.shutdown(Shutdown::Write).unwrap();
        }
        let of =
            |server: &Server| config.fleet.counts().iter().find(|it| it.address == server.address).cloned();
        for server in [&one, &two] {
            let requests = of(server).unwrap().requests;
            assert!(requests >= 2, "{requests} of six");
            for _ in 0..requests {
                server.accept().expect(b"hello");
            }
        }
        eventually(0, || running.stats().total().connections);

        let config = ProxyConfig { connect_timeout, ..ProxyConfig::relayed(vec![deaf, silent]) };
        let running = relay(driver, &config);
        let began = Instant::now();
        assert_eq!(connect(&running).expect_reset(), b"");
        assert!(began.elapsed() >= Duration::from_millis(150), "one of them does not answer");
        let failures: Vec<u64> = config.fleet.counts().iter().map(|it| it.failures).collect();
        assert_eq!(failures, [1, 1]);
        eventually(0, || running.stats().total().connections);
    });
}

/// However many refuse, each is tried once; where they do not answer, the client's time is one for all of them.
#[test]
fn a_client_whom_no_server_takes_is_not_kept() {
    on_both_drivers(|driver| {
        let (_nobody, servers) = many_deaf(300);
        let config = ProxyConfig::relayed(servers);
        let running = relay(driver, &config);
        assert_eq!(connect(&running).expect_reset(), b"");
        assert_eq!(config.fleet.counts().iter().map(|it| it.failures).sum::<u64>(), 300);
        eventually(0, || running.stats().total().connections);

        let silent = [(); 12].map(|()| silent());
        let servers = silent.iter().map(|(_, _, address)| address.clone()).collect();
        let timeout = Duration::from_millis(100);
        let config = ProxyConfig {
            connect_timeout: Some(timeout),
            queue_timeout: timeout,
            ..ProxyConfig::relayed(servers)
        };
        let running = relay(driver, &config);
        assert_eq!(connect(&running).expect_reset(), b"");
        let failures = config.fleet.counts().iter().map(|it| it.failures).sum::<u64>();
        assert!(failures <= 6, "{failures} attempts of 100 ms each in 200 ms");
        eventually(0, || running.stats().total().connections);
    });
}

#[test]
fn a_client_that_leaves_takes_its_attempt_along() {
    on_both_drivers(|driver| {
        let (_listener, _first, address) = silent();
        let running = relay(driver, &ProxyConfig::relayed(vec![address]));
        let client = connect(&running);
        eventually(1, || running.stats().total().connections);
        reset(client);
        // Long before it would time out.
        eventually(1, || running.stats().total().refused);
        eventually(0, || running.stats().total().connections);
    });
}

#[test]
fn who_does_not_move_is_reset_and_who_does_is_not() {
    on_both_drivers(|driver| {
        let server = Server::new();
        let idle_timeout = Duration::from_millis(400);
        let running = relay_within(driver, &ProxyConfig::relayed(vec![server.address.clone()]), idle_timeout);
        let mut client = connect(&running);
        let mut server = server.accept();
        // In one direction, for more than twice as long.
        for _ in 0..9 {
            std::thread::sleep(idle_timeout / 4);
            server.send(b"tick");
            client.expect(b"tick");
        }
        assert_eq!(client.expect_reset(), b"");
        assert_eq!(server.expect_reset(), b"");
        eventually(0, || running.stats().total().connections);
    });
}

/// Who takes nothing has as long as a connection on which nothing moves, whatever the engine gives others.
#[test]
fn who_does_not_read_has_the_time_of_the_relay() {
    on_both_drivers(|driver| {
        let within = |idle_timeout| {
            let server = Server::new();
            let config = Config { write_timeout: Duration::from_millis(100), ..common::config(driver) };
            let proxy = ProxyConfig::relayed(vec![server.address.clone()]);
            let relaying = Relaying { idle_timeout, ..Relaying::new(Some(String::new())) };
            let running =
                start(config, move |_| Proxy::new(proxy.clone(), 1).with_relaying(relaying.clone()));
            let client = connect(&running);
            let mut server = server.accept();
            server.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let (data, mut sent) = (pattern(0, 1 << 16), 0);
            while let Ok(bytes) = server.write(&data[sent % data.len()..]) {
                sent += bytes;
            }
            (running, client, server, sent)
        };
        let (_running, mut client, server, sent) = within(Duration::from_secs(600));
        // Ten times as long as others have.
        std::thread::sleep(Duration::from_secs(1));
        server.shutdown(Shutdown::Write).unwrap();
        let data = pattern(0, 1 << 16);
        for at in (0..sent).step_by(data.len()) {
            client.expect(&data[..data.len().min(sent - at)]);
        }
        client.expect_eof();
        // It says something all the time, so nothing is idle.
        let (_running, mut client, mut server, _) = within(Duration::from_secs(1));
        let ticking = std::thread::spawn(move || {
            while client.write(b"tick").is_ok() {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        server.expect_reset();
        ticking.join().unwrap();
    });
}

/// What the relay holds is bounded, whoever does not read; and the other direction goes on.
#[test]
fn a_slow_reader_pauses_its_partner_alone() {
    on_both_drivers(|driver| {
        for from_client in [true, false] {
            let (running, client, server) = pair(driver);
            let (mut one, mut other) = if from_client { (client, server) } else { (server, client) };
            one.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            let (data, mut sent) = (pattern(0, 1 << 16), 0);
            while let Ok(bytes) = one.write(&data[sent % data.len()..]) {
                sent += bytes;
            }
            assert!(sent < 64 << 20, "{sent} bytes went somewhere");
            // With receive buffers (2 MiB) and outputs that are kept for the next connection (8 MiB).
            let held = running.stats().total().memory_bytes;
            assert!(held < 11 << 20, "{held} bytes are held");
            // Against the stream everything passes at once.
            for _ in 0..100 {
                other.send(b"against");
                one.expect(b"against");
            }
            one.shutdown(Shutdown::Write).unwrap();
            for at in (0..sent).step_by(data.len()) {
                other.expect(&data[..data.len().min(sent - at)]);
            }
            other.expect_eof();
            let spliced = running.stats().total().spliced_bytes as usize;
            // How many depends on how much came in a row, and so on what else the machine does.
            assert!(spliced > 0 && spliced <= sent, "{spliced} of {sent} bytes were not copied");
        }
    });
}

/// Both directions at once, many times what is held.
#[test]
fn much_goes_both_ways_at_once_in_little_memory() {
    const PIECE: usize = 1 << 16;
    const PIECES: usize = 1 << 10;
    on_both_drivers(|driver| {
        let (running, client, server) = pair(driver);
        let data = pattern(0, PIECE);
        std::thread::scope(|scope| {
            for end in [client, server] {
                let (mut writer, mut reader, data) = (end.try_clone().unwrap(), end, &data);
                scope.spawn(move || {
                    (0..PIECES).for_each(|_| writer.send(data));
                    writer.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || {
                    let mut piece = vec![0; PIECE];
                    for n in 0..PIECES {
                        reader.read_exact(&mut piece).unwrap_or_else(|error| panic!("{error} in piece {n}"));
                        assert!(piece == *data, "piece {n} came otherwise");
                    }
                    reader.expect_eof();
                });
            }
        });
        eventually(0, || running.stats().total().connections);
        let counters = running.stats().total();
        assert!(counters.memory_bytes < 11 << 20);
        let all = 2 * (PIECE * PIECES) as u64;
        assert_eq!((counters.received_bytes, counters.sent_bytes), (all, all));
        assert!(counters.spliced_bytes > all / 2, "{} bytes were not copied", counters.spliced_bytes);
    });
}

/// Bulk goes by unseen where there are pipes, little does not, and neither changes how it ends.
#[test]
fn bulk_is_spliced_until_little_comes() {
    const BULK: usize = 4 << 20;
    let spliced = |running: &Running| running.stats().total().spliced_bytes as usize;
    on_both_drivers(|driver| {
        for pipes in [0, 1] {
            let server = Server::new();
            let config = Config { splice_pipes: pipes, ..common::config(driver) };
            let relayed = ProxyConfig::relayed(vec![server.address.clone()]);
            let relaying = Relaying::new(Some(String::new()));
            let proxy = move |_: &_| Proxy::new(relayed.clone(), 1).with_relaying(relaying.clone());
            let running = start(config, proxy);
            let mut client = connect(&running);
            let mut server = server.accept();
            let data = pattern(0, BULK);
            let bulk = |from: &mut TcpStream, to: &mut TcpStream| {
                std::thread::scope(|scope| {
                    scope.spawn(|| from.send(&data));
                    to.expect(&data);
                });
            };
            for _ in 0..2 {
                let before = spliced(&running);
                bulk(&mut server, &mut client);
                let piped = spliced(&running) - before;
                // On a busy machine bulk may come in little pieces now and then, which are copied.
                assert_eq!(piped > BULK / 8, pipes > 0, "{piped} of {BULK} bytes were not copied");
                for _ in 0..20 {
                    server.send(b"little");
                    client.expect(b"little");
                    client.send(b"answer");
                    server.expect(b"answer");
                }
                let before = spliced(&running);
                server.send(b"last");
                client.expect(b"last");
                assert_eq!(spliced(&running), before);
            }
            bulk(&mut client, &mut server);
            if pipes > 0 {
                bulk(&mut server, &mut client);
                client.shutdown(Shutdown::Write).unwrap();
                server.expect_eof();
                bulk(&mut server, &mut client);
                reset(server);
                assert_eq!(client.expect_reset(), b"");
            } else {
                reset(client);
                assert_eq!(server.expect_reset(), b"");
            }
            eventually(0, || running.stats().total().connections);
        }
    });
}

#[test]
fn servers_are_told_whose_connection_it_is() {
    on_both_drivers(|driver| {
        for version in [Version::One, Version::Two] {
            let server = Server::new();
            let servers = vec![server.address.clone()];
            let config = ProxyConfig { proxy_protocol: Some(version), ..ProxyConfig::relayed(servers) };
            let running = relay(driver, &config);
            let mut client = connect(&running);
            let (peer, local) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let header = match version {
                Version::One => {
                    format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", peer.port(), local.port())
                        .into_bytes()
                }
                Version::Two => {
                    let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01";
                    [&fixed[..], &peer.port().to_be_bytes(), &local.port().to_be_bytes()].concat()
                }
            };
            let mut server = server.accept();
            server.expect(&header);
            client.send(b"hello");
            server.expect(b"hello");
            server.send(b"hi");
            client.expect(b"hi");
        }
    });
}

/// Checks are answered, in either version of HTTP. The connection of one begins like all others with that server: where it is told whose
/// they are, with a header that speaks of nobody, ahead of whatever is spoken.
#[test]
fn servers_that_answer_their_checks_are_up() {
    const BEGINNINGS: [(Option<Version>, &[u8]); 3] = [
        (None, b""),
        (Some(Version::One), b"PROXY UNKNOWN\r\n"),
        (Some(Version::Two), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
    ];
    /// Reads this, or something else as long.
    fn begins_with(line: &mut Line, expected: &[u8]) -> bool {
        let mut begins = vec![0; expected.len()];
        line.stream.read_exact(&mut begins).is_ok() && begins == expected
    }
    on_both_drivers(|driver| {
        for (proxy_protocol, header) in BEGINNINGS {
            for is_http2 in [false, true] {
                let answered = Arc::new(AtomicUsize::new(0));
                let count = answered.clone();
                let upstream = Upstream::new(move |line| {
                    if !begins_with(line, header) {
                        return;
                    }
                    if !is_http2 {
                        line.request();
                        line.try_send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                    } else if begins_with(line, PREFACE) {
                        line.try_send(frame(SETTINGS, 0, 0, b""));
                        while read_frame(&mut line.stream).is_ok_and(|frame| frame.kind != HEADERS) {}
                        line.try_send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &[STATUS_200]));
                    }
                    count.fetch_add(1, SeqCst);
                    line.wait_for_end();
                });
                // One that is bad, and it is down for good.
                let check = Check {
                    every: Duration::from_millis(20),
                    timeout: PATIENCE,
                    fall: 1,
                    rise: 1000,
                    ..Check::new("/up".parse().unwrap())
                };
                let config = ProxyConfig {
                    proxy_protocol,
                    is_http2,
                    check: Some(check),
                    ..ProxyConfig::relayed(vec![upstream.address.clone()])
                };
                let fleet = config.fleet.clone();
                let _running = relay(driver, &config);
                let what = format!("{proxy_protocol:?}, HTTP/2: {is_http2}");
                let is_down = || fleet.counts().iter().any(|server| server.is_down);
                eventually((&what, true, false), || (&what, answered.load(SeqCst) >= 3, is_down()));
            }
        }
    });
}

/// A line and counts for each connection, with its end.
#[test]
fn connections_are_noted_with_their_ends() {
    on_both_drivers(|driver| {
        let server = Server::new();
        let (observe, log, counts) = observe_all();
        let servers = vec![server.address.clone()];
        let config = ProxyConfig { observe: observe.clone(), ..ProxyConfig::relayed(servers) };
        let (_nobody, nobody) = deaf();
        let of_nobody = ProxyConfig { observe, ..ProxyConfig::relayed(vec![nobody]) };
        let relaying = Relaying {
            listener: "front".to_owned(),
            idle_timeout: Duration::from_millis(600),
            ..Relaying::new(Some(String::new()))
        };
        let serve = |config: &ProxyConfig| {
            let (config, relaying) = (config.clone(), relaying.clone());
            start(common::config(driver), move |_| {
                Proxy::new(config.clone(), 1).with_relaying(relaying.clone())
            })
        };
        let (running, nowhere) = (serve(&config), serve(&of_nobody));
        let mut known = Vec::new();
        let mut check = |running: &Running, act: &dyn Fn(TcpStream), end: &str, bytes: (u64, u64)| {
            let before = known.len();
            // A connection that is reset at once was there: `connect_timeout` would say otherwise.
            act(with_patience(TcpStream::connect(ip(&running.addresses()[0])).unwrap()));
            eventually(before + 1, || lines(&log, &mut known));
            let line = &known[before];
            assert_eq!(
                (line["end"].as_str(), line["listener"].as_str()),
                (Some(end), Some("front")),
                "{line}"
            );
            assert_eq!(
                (line["bytes_in"].as_u64(), line["bytes_out"].as_u64()),
                (Some(bytes.0), Some(bytes.1))
            );
            assert_eq!(line["client"].as_str(), Some("127.0.0.1"));
            assert!(line["ms"].is_number() && line.get("status").is_none(), "{line}");
            line.clone()
        };
        let whole = |mut client: TcpStream| {
            let mut server = server.accept();
            client.send(b"question");
            server.expect(b"question");
            server.send(b"an answer");
            client.shutdown(Shutdown::Write).unwrap();
            server.expect_eof();
            drop(server);
            client.rest();
        };
        let line = check(&running, &whole, "complete", (8, 9));
        assert_eq!(line["upstream"].as_str(), Some(&*server.address.to_string()));
        assert!(line["wait_ms"].is_number() && line["first_byte_ms"].is_number(), "{line}");
        let leaving = |mut client: TcpStream| {
            let mut server = server.accept();
            server.send(b"hello");
            client.expect(b"hello");
            reset(client);
            server.expect_reset();
        };
        check(&running, &leaving, "client", (0, 5));
        let left = |mut client: TcpStream| {
            let mut server = server.accept();
            client.send(b"hello");
            server.expect(b"hello");
            reset(server);
            client.expect_reset();
        };
        check(&running, &left, "upstream", (5, 0));
        let idle = |mut client: TcpStream| {
            let _server = server.accept();
            client.expect_reset();
        };
        let line = check(&running, &idle, "timeout", (0, 0));
        assert!(line["ms"].as_f64() >= Some(500.0) && line.get("first_byte_ms").is_none(), "{line}");
        let unserved = |mut client: TcpStream| drop(client.expect_reset());
        let line = check(&nowhere, &unserved, "upstream", (0, 0));
        assert!(line.get("upstream").is_none() && line.get("wait_ms").is_none(), "{line}");
        let sum = |what: Counted| counts.all().into_iter().find(|(known, _)| *known == what).unwrap().1;
        let of_listener = sum(Counted::Listener("front".to_owned()));
        // Complete, refused, client, upstream, timeout.
        assert_eq!(of_listener.ends, [1, 0, 1, 2, 1]);
        assert_eq!((of_listener.received, of_listener.sent), (13, 14));
        let of_server = sum(Counted::Relayed(String::new(), server.address.clone()));
        assert_eq!((of_server.ends, of_server.times.iter().sum::<u64>()), ([1, 0, 1, 1, 1], 2));
    });
}
