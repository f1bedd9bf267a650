//! Datagrams over real sockets, on both drivers: every size, many at once, trains, and a protocol that panics.

mod common;

use common::*;
use ringmill::{
    Config, Datagram, DatagramIo, DriverChoice, Engine, Errno, FlowId, FlowRefusal, Running, UdpEcho, Waker,
    WorkerContext,
};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn echo(driver: DriverChoice, workers: usize, address: &str) -> Running {
    let builder = Engine::builder().config(config(driver)).workers(workers);
    // What a peer may ask has tests of its own.
    builder.datagrams(address, |_| UdpEcho::default().with_peer_rate(0)).start().expect("the engine starts")
}

/// A socket that talks to the server only.
fn client(running: &Running, host: &str) -> UdpSocket {
    let host: IpAddr = host.parse().unwrap();
    let unspecified = if host.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(unspecified).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect((host, ip(&running.datagram_addresses()[0]).port())).unwrap();
    socket
}

#[track_caller]
fn recv(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let bytes = socket.recv(&mut buffer).expect("an answer");
    buffer.truncate(bytes);
    buffer
}

#[track_caller]
fn check_echo(socket: &UdpSocket, datagram: &[u8]) {
    check_sent(socket, datagram);
    let answer = recv(socket);
    assert!(answer == datagram, "sent {}, received {}", show(datagram), show(&answer));
}

#[test]
fn datagrams_of_every_size_come_back() {
    on_both_drivers(|driver| {
        for workers in [1, 2] {
            let check = |listen: &str, hosts: &[&str]| {
                let running = echo(driver, workers, listen);
                for host in hosts {
                    let socket = client(&running, host);
                    for bytes in [0, 1, 512, 1472, 1473, 9000, 65_507, 1, 0] {
                        check_echo(&socket, &pattern(bytes, bytes));
                    }
                }
                let expected = 9 * hosts.len() as u64;
                eventually((expected, expected, 0, expected), || {
                    let total = running.stats().total();
                    let refused = total.datagrams_refused;
                    (total.datagrams_received, total.datagrams_sent, refused, total.requests)
                });
            };
            check("127.0.0.1:0", &["127.0.0.1"]);
            check("[::1]:0", &["::1"]);
            check("[::]:0", &["::1", "127.0.0.1"]);
        }
    });
}

#[test]
fn a_thousand_datagrams_from_eight_sockets_all_come_back() {
    const EACH: usize = 125;
    // With eight sockets 32 are on their way at most: about 80 KiB in the kernel's accounts, and none is dropped.
    const WINDOW: usize = 4;
    on_both_drivers(|driver| {
        for workers in [1, 2] {
            let running = echo(driver, workers, "127.0.0.1:0");
            let talking: Vec<_> = (0..8)
                .map(|n| {
                    let socket = client(&running, "127.0.0.1");
                    std::thread::spawn(move || {
                        let datagram = |k: usize| {
                            let mut bytes = pattern(n, 2 + (n * 331 + k * 97) % 1470);
                            bytes[..2].copy_from_slice(&(k as u16).to_be_bytes());
                            bytes
                        };
                        let mut missing: HashSet<Vec<u8>> = HashSet::new();
                        for k in 0..EACH + WINDOW {
                            if k >= WINDOW {
                                let answer = recv(&socket);
                                assert!(missing.remove(&answer), "not sent, or twice: {}", show(&answer));
                            }
                            if k < EACH {
                                socket.send(&datagram(k)).unwrap();
                                missing.insert(datagram(k));
                            }
                        }
                        assert!(missing.is_empty());
                    })
                })
                .collect();
            for talk in talking {
                talk.join().unwrap();
            }
            eventually((1000, 1000), || {
                let total = running.stats().total();
                (total.datagrams_received, total.datagrams_sent)
            });
        }
    });
}

/// Takes its time over the first datagram.
struct Slow(Duration);

impl Datagram for Slow {
    fn datagram(&mut self, from: SocketAddr, bytes: &[u8], io: &mut DatagramIo<'_>) {
        std::thread::sleep(std::mem::take(&mut self.0));
        io.send_to(from, bytes);
    }
}

#[test]
fn a_burst_waits_for_a_busy_worker() {
    // The kernel accounts 768 bytes or more for each: more than the system's default, 208 KiB, and less than the 416 KiB
    // that a socket may ask for where net.core.rmem_max is as small.
    const BURST: usize = 300;
    on_both_drivers(|driver| {
        let builder = Engine::builder().config(config(driver)).workers(1);
        let slow = |_: &WorkerContext| Slow(Duration::from_millis(300));
        let running = builder.datagrams("127.0.0.1:0", slow).start().expect("the engine starts");
        let socket = client(&running, "127.0.0.1");
        socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 20).unwrap();
        (0..BURST).for_each(|n| check_sent(&socket, &n.to_be_bytes()));
        (0..BURST).for_each(|n| assert_eq!(recv(&socket), n.to_be_bytes()));
    });
}

#[track_caller]
fn check_sent(socket: &UdpSocket, datagram: &[u8]) {
    assert_eq!(socket.send(datagram).unwrap(), datagram.len());
}

#[test]
fn trains_come_back_as_the_single_datagrams_they_are() {
    on_both_drivers(|driver| {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let running = echo(driver, 1, listen);
            let host = ip(&running.datagram_addresses()[0]).ip().to_string();
            let check = |segment: usize, bytes: usize| {
                let socket = client(&running, &host);
                set_segment(&socket, segment);
                let train = pattern(segment, bytes);
                assert_eq!(socket.send(&train).unwrap(), bytes);
                for expected in train.chunks(segment) {
                    let answer = recv(&socket);
                    assert!(answer == expected, "expected {}, received {}", show(expected), show(&answer));
                }
            };
            check(1000, 20_500);
            check(1000, 20_000);
            check(1000, 1000);
            check(1000, 999);
            check(1, 50);
            check(1400, 1400 * 40 + 1);
            check(512, 512 * 64);
        }
    });
}

/// The addresses that a wildcard socket is asked at. All of 127.0.0.0/8 is the loopback interface's (RFC 6890).
const ASKED: [(&str, &[&str]); 2] =
    [("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.1.2.3"]), ("[::]:0", &["::1", "127.0.0.1", "127.0.0.2"])];

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    on_both_drivers(|driver| {
        for workers in [1, 2] {
            for (listen, hosts) in ASKED {
                let running = echo(driver, workers, listen);
                for host in hosts {
                    // Connected: it takes answers from that address only.
                    let socket = client(&running, host);
                    check_echo(&socket, host.as_bytes());
                    check_echo(&socket, &pattern(1, 65_507));
                    // A train comes with its address, and leaves with it.
                    set_segment(&socket, 700);
                    let train = pattern(2, 700 * 20 + 1);
                    assert_eq!(socket.send(&train).unwrap(), train.len());
                    train
                        .chunks(700)
                        .for_each(|expected| assert!(recv(&socket) == expected, "{listen} {host}"));
                }
            }
        }
    });
}

#[test]
fn questions_to_several_addresses_are_told_apart_in_one_batch() {
    on_both_drivers(|driver| {
        for (listen, hosts) in ASKED {
            let builder = Engine::builder().config(config(driver));
            let slow = |_: &WorkerContext| Slow(Duration::from_millis(100));
            let running = builder.datagrams(listen, slow).start().expect("the engine starts");
            let sockets: Vec<_> = hosts.iter().map(|host| client(&running, host)).collect();
            for n in 0..30u8 {
                sockets.iter().for_each(|socket| check_sent(socket, &[n]));
            }
            for n in 0..30u8 {
                sockets.iter().for_each(|socket| assert_eq!(recv(socket), [n]));
            }
        }
    });
}

#[test]
fn a_broadcast_is_answered_from_the_address_that_stands_for_it() {
    on_both_drivers(|driver| {
        for listen in ["0.0.0.0:0", "[::]:0"] {
            let running = echo(driver, 1, listen);
            let port = ip(&running.datagram_addresses()[0]).port();
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.send_to(b"who is there?", ("127.255.255.255", port)).unwrap();
            let mut buffer = [0; 100];
            let (bytes, from) = socket.recv_from(&mut buffer).expect("an answer");
            assert_eq!((&buffer[..bytes], from), (&b"who is there?"[..], ([127, 0, 0, 1], port).into()));
        }
    });
}

/// Says which address was asked: at once, and once more a little later.
#[derive(Default)]
struct Asked(Vec<(SocketAddr, SocketAddr)>);

impl Datagram for Asked {
    fn datagram(&mut self, from: SocketAddr, _: &[u8], io: &mut DatagramIo<'_>) {
        let local = io.local().expect("the socket is open");
        assert!(io.send_to(from, local.to_string().as_bytes()));
        self.0.push((local, from));
        io.set_timer(Some(io.now()));
    }

    fn tick(&mut self, io: &mut DatagramIo<'_>) {
        assert!(io.local().is_none_or(|bound| bound.ip().is_unspecified()), "nobody asks now");
        for (local, from) in self.0.drain(..) {
            assert!(io.send_from(local, from, b"later"));
        }
    }
}

#[test]
fn a_protocol_reads_which_address_was_asked_and_can_answer_from_it_later() {
    on_both_drivers(|driver| {
        for (listen, hosts) in ASKED {
            let builder = Engine::builder().config(config(driver));
            let running = builder.datagrams(listen, |_| Asked::default()).start().unwrap();
            let port = ip(&running.datagram_addresses()[0]).port();
            for host in hosts {
                let socket = client(&running, host);
                socket.send(b"whom?").unwrap();
                let asked: SocketAddr = String::from_utf8(recv(&socket)).unwrap().parse().unwrap();
                // An IPv6 socket sees IPv4 in the mapped form (RFC 4291, 2.5.5.2).
                assert_eq!(asked.is_ipv6(), listen.starts_with('['));
                assert_eq!((asked.ip().to_canonical().to_string().as_str(), asked.port()), (*host, port));
                assert_eq!(recv(&socket), b"later");
            }
            assert_eq!(running.stats().total().panics, 0);
        }
    });
}

/// Passes what it gets on to somebody else.
struct Relay(SocketAddr);

impl Datagram for Relay {
    fn datagram(&mut self, _: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        assert!(io.send_to(self.0, input));
    }
}

#[test]
fn what_is_no_answer_leaves_from_where_the_route_says() {
    on_both_drivers(|driver| {
        let third = UdpSocket::bind("127.0.0.1:0").unwrap();
        third.set_read_timeout(Some(PATIENCE)).unwrap();
        let to = third.local_addr().unwrap();
        let builder = Engine::builder().config(config(driver));
        let running = builder.datagrams("0.0.0.0:0", move |_| Relay(to)).start().unwrap();
        client(&running, "127.0.0.2").send(b"pass it on").unwrap();
        let (bytes, from) = third.recv_from(&mut [0; 100]).unwrap();
        assert_eq!((bytes, from.ip()), (10, IpAddr::from([127, 0, 0, 1])));
    });
}

/// The rate of the tests that wait for it: slower than any machine sends.
const SLOW_RATE: u32 = 20;

#[test]
fn who_answers_every_answer_is_not_answered_for_ever() {
    on_both_drivers(|driver| {
        let builder = Engine::builder().config(config(driver));
        let slow = |_: &WorkerContext| UdpEcho::default().with_peer_rate(SLOW_RATE);
        let running = builder.datagrams("127.0.0.1:0", slow).start().unwrap();
        let other_echo = client(&running, "127.0.0.1");
        other_echo.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (begin, mut answers) = (Instant::now(), 0);
        other_echo.send(b"round").unwrap();
        eventually(1, || {
            while answers < 10_000
                && let Ok(bytes) = other_echo.recv(&mut [0; 100])
            {
                answers += 1;
                other_echo.send(&b"round"[..bytes]).unwrap();
            }
            running.stats().total().datagrams_ignored
        });
        let rate = u64::from(SLOW_RATE);
        let granted = rate + begin.elapsed().as_millis() as u64 * rate / 1000 + 1;
        assert!((rate..=granted).contains(&answers), "{answers} answers, {granted} were granted");
        eventually((answers + 1, answers), || {
            let total = running.stats().total();
            (total.datagrams_received, total.requests)
        });
        // Time brings tokens, and it answers again.
        eventually(true, || {
            other_echo.send(b"again").unwrap();
            other_echo.recv(&mut [0; 100]).is_ok()
        });
    });
}

#[test]
fn two_echo_servers_do_not_keep_each_other_busy() {
    on_both_drivers(|driver| {
        let slow = |_: &WorkerContext| UdpEcho::default().with_peer_rate(SLOW_RATE);
        let servers = [(); 2].map(|()| {
            Engine::builder().config(config(driver)).datagrams("127.0.0.1:0", slow).start().unwrap()
        });
        let addresses = servers.each_ref().map(|server| ip(&server.datagram_addresses()[0]));
        // The forged sender: a wildcard socket that shares the second server's port, sends from the same address, and
        // gets nothing itself, because the kernel prefers the socket that is bound to the one address.
        let forger = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        forger.set_reuse_port(true).unwrap();
        forger.bind(&SocketAddr::from(([0; 4], addresses[1].port())).into()).unwrap();
        forger.send_to(b"to and fro", &addresses[0].into()).unwrap();
        let counted = || servers.each_ref().map(|server| server.stats().total());
        eventually(1, || counted().iter().map(|total| total.datagrams_ignored).sum::<u64>());
        let totals = counted();
        let answers = totals.iter().map(|total| total.requests).sum::<u64>();
        // Each had its burst, and has its rate; it ends when the first of them has neither.
        assert!(answers >= 2 * u64::from(SLOW_RATE), "{answers}");
        assert!(totals.iter().all(|total| total.requests > 0), "{totals:?}");
    });
}

/// From now on the kernel cuts what this socket sends into datagrams of `bytes` (UDP_SEGMENT, udp(7)).
fn set_segment(socket: &UdpSocket, bytes: usize) {
    let value = bytes as i32;
    let size = std::mem::size_of_val(&value) as libc::socklen_t;
    let (level, name) = (libc::IPPROTO_UDP, libc::UDP_SEGMENT);
    // SAFETY: pointer and size are those of a local i32.
    let answer =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    assert_eq!(answer, 0, "UDP_SEGMENT came with Linux 4.18: {}", std::io::Error::last_os_error());
}

/// Panics when it is told to; answers others with how many it has seen.
struct Fragile(u32);

impl Datagram for Fragile {
    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        self.0 += 1;
        assert!(input != b"panic", "as asked");
        assert!(io.send_to(from, self.0.to_string().as_bytes()));
    }
}

#[test]
fn a_datagram_protocol_that_panics_is_survived() {
    on_both_drivers(|driver| {
        let builder = Engine::builder().config(config(driver));
        let running = builder.datagrams("127.0.0.1:0", |_| Fragile(0)).start().unwrap();
        let socket = client(&running, "127.0.0.1");
        for n in 0..5 {
            socket.send(b"panic").unwrap();
            socket.send(b"hello").unwrap();
            assert_eq!(recv(&socket), (2 * n + 2).to_string().as_bytes());
        }
        eventually(5, || running.stats().total().panics);
    });
}

/// Answers with more than a datagram can hold, then with many datagrams, then with one byte.
struct Generous;

impl Datagram for Generous {
    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        assert!(!io.send_to(from, &[0; ringmill::DATAGRAM_BYTES_MAX + 1]), "too long to be queued");
        for n in 0..10 {
            assert!(io.send_to(from, &[n; 3]));
        }
        assert!(io.send_to(from, input));
        assert_eq!(io.local().map(|local| local.ip()), Some([127, 0, 0, 1].into()));
    }
}

#[test]
fn one_datagram_may_have_several_answers() {
    on_both_drivers(|driver| {
        let builder = Engine::builder().config(config(driver));
        let running = builder.datagrams("127.0.0.1:0", |_| Generous).start().unwrap();
        let socket = client(&running, "127.0.0.1");
        socket.send(b"all?").unwrap();
        for n in 0..10 {
            assert_eq!(recv(&socket), [n; 3]);
        }
        assert_eq!(recv(&socket), b"all?");
    });
}

#[test]
fn clients_that_are_gone_do_not_disturb_the_others() {
    on_both_drivers(|driver| {
        let running = echo(driver, 1, "127.0.0.1:0");
        // The answers meet closed ports, and the kernel reports that to the server's socket.
        for _ in 0..100 {
            client(&running, "127.0.0.1").send(b"and gone").unwrap();
        }
        check_echo(&client(&running, "127.0.0.1"), b"still here");
        eventually(101, || running.stats().total().datagrams_received);
    });
}

#[test]
fn datagrams_and_streams_share_an_engine_and_end_together() {
    on_both_drivers(|driver| {
        let running = Engine::builder()
            .config(config(driver).with_workers(2))
            .listen("127.0.0.1:0", |_| ringmill::Echo::default())
            .datagrams("127.0.0.1:0", |_| UdpEcho::default())
            .datagrams("[::1]:0", |_| UdpEcho::default())
            .start()
            .unwrap();
        check_echo(&client(&running, "127.0.0.1"), b"a datagram");
        let mut stream = connect(&running);
        stream.ask("a stream", "a stream");
        running.handle().drain(PATIENCE);
        stream.expect_eof();
        drop(stream);
        running.join().unwrap();
    });
}

#[test]
fn a_udp_port_that_is_taken_is_refused() {
    on_both_drivers(|driver| {
        let running = echo(driver, 2, "127.0.0.1:0");
        let address = running.datagram_addresses()[0].to_string();
        let builder =
            Engine::builder().config(config(driver)).datagrams(address.as_str(), |_| UdpEcho::default());
        let text = builder.start().err().expect("a port of another server is not shared").to_string();
        assert!(text.contains(&address) && text.contains("in use"), "{text}");
        let builder =
            Engine::builder().config(config(driver)).datagrams("unix:/tmp/x", |_| UdpEcho::default());
        let text = builder.start().err().expect("Unix sockets carry no datagrams here").to_string();
        assert!(text.contains("unix:/tmp/x") && text.contains("datagrams"), "{text}");
    });
}

/// Has a flow for each of its clients, and does what they say.
struct Concierge {
    upstream: SocketAddr,
    flows: HashMap<SocketAddr, FlowId>,
    wakers: mpsc::Sender<Waker>,
    is_leaving: bool,
}

impl Concierge {
    fn tell_all(&self, what: &[u8], io: &mut DatagramIo<'_>) {
        self.flows.keys().for_each(|client| assert!(io.send_to(*client, what)));
    }

    fn client(&self, flow: FlowId) -> SocketAddr {
        *self.flows.iter().find(|(_, of)| **of == flow).expect("only open flows are told of").0
    }
}

impl Datagram for Concierge {
    fn start(&mut self, io: &mut DatagramIo<'_>) {
        self.wakers.send(io.waker()).unwrap();
    }

    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        let to = std::str::from_utf8(input).ok().and_then(|text| text.strip_prefix("to "));
        let to = to.map(|to| to.parse().unwrap());
        let is_open = self.flows.contains_key(&from);
        match (input, is_open) {
            (b"panic", _) => panic!("as asked"),
            (b"close", true) => {
                let flow = self.flows.remove(&from).unwrap();
                assert!(io.send_on(flow, b"the last word"));
                io.close(flow);
                assert!(!io.send_on(flow, b"too late"));
                io.send_to(from, b"closed");
            }
            (b"leave", _) => {
                assert!(self.is_leaving && io.drain_deadline().is_some());
                io.send_to(from, b"left");
                io.finish();
            }
            (_, true) => assert!(io.send_on(self.flows[&from], input)),
            (_, false) => match io.open(to.unwrap_or(self.upstream)) {
                Ok(flow) => {
                    self.flows.insert(from, flow);
                    assert!(io.send_on(flow, input));
                }
                Err(refusal) => assert!(io.send_to(from, refusal.to_string().as_bytes())),
            },
        }
    }

    fn received(&mut self, flow: FlowId, input: &[u8], io: &mut DatagramIo<'_>) {
        assert!(io.send_to(self.client(flow), input));
    }

    fn failed(&mut self, flow: FlowId, errno: Errno, io: &mut DatagramIo<'_>) {
        assert_eq!(errno, Errno::ECONNREFUSED);
        let client = self.client(flow);
        io.send_to(client, b"refused");
    }

    fn wake(&mut self, io: &mut DatagramIo<'_>) {
        self.tell_all(b"woken", io);
    }

    fn drain(&mut self, io: &mut DatagramIo<'_>) {
        self.is_leaving = true;
        self.tell_all(b"draining", io);
    }
}

#[test]
fn a_protocol_opens_flows_and_is_told_what_becomes_of_them() {
    on_both_drivers(|driver| {
        let upstream = echo(driver, 1, "127.0.0.1:0");
        let to = ip(&upstream.datagram_addresses()[0]);
        let (wakers, woken) = mpsc::channel();
        let builder = Engine::builder().config(Config { flows_max: 3, ..config(driver) }).workers(1);
        let running = builder.listen("127.0.0.1:0", |_| ringmill::Echo::default()).datagrams(
            "127.0.0.1:0",
            move |_| {
                let (flows, wakers) = (HashMap::new(), wakers.clone());
                Concierge { upstream: to, flows, wakers, is_leaving: false }
            },
        );
        let running = running.start().unwrap();
        let waker = woken.recv_timeout(PATIENCE).unwrap();
        let clients = [(); 2].map(|()| client(&running, "127.0.0.1"));
        // Each has its own flow, and its own answers.
        for round in 0..20 {
            for (n, socket) in clients.iter().enumerate() {
                check_sent(socket, &pattern(n, round * 60));
            }
            for (n, socket) in clients.iter().enumerate() {
                assert!(recv(socket) == pattern(n, round * 60), "client {n}");
            }
        }
        // Nobody listens there: that is told, once for each datagram that met it.
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let third = client(&running, "127.0.0.1");
        for _ in 0..2 {
            check_sent(&third, format!("to {deaf}").as_bytes());
            assert_eq!(recv(&third), b"refused");
        }
        let fourth = client(&running, "127.0.0.1");
        check_sent(&fourth, b"one too many");
        assert_eq!(recv(&fourth), FlowRefusal::Limit.to_string().as_bytes());
        eventually((3, 3), || (running.stats().total().flows, running.stats().total().flows_opened));
        check_sent(&third, b"close");
        assert_eq!(recv(&third), b"closed");
        eventually(2, || running.stats().total().flows);
        check_echo(&fourth, b"there is room again");
        check_sent(&fourth, b"panic");
        check_echo(&fourth, b"and nobody minds");
        waker.wake();
        for socket in clients.iter().chain([&fourth]) {
            assert_eq!(recv(socket), b"woken");
        }
        running.handle().drain(PATIENCE);
        for socket in clients.iter().chain([&fourth]) {
            assert_eq!(recv(socket), b"draining");
        }
        check_echo(&clients[0], b"what is open goes on");
        check_sent(&clients[1], b"leave");
        assert_eq!(recv(&clients[1]), b"left");
        running.join().unwrap();
        waker.wake();
    });
}

#[test]
fn datagram_listeners_come_and_go_and_a_drain_ends_at_its_time() {
    on_both_drivers(|driver| {
        let running = echo(driver, 2, "127.0.0.1:0");
        let (listeners, (wakers, woken)) = (running.listeners().unwrap(), mpsc::channel());
        let upstream = ip(&running.datagram_addresses()[0]);
        let concierge = move |_: &WorkerContext| {
            let (flows, wakers) = (HashMap::new(), wakers.clone());
            Concierge { upstream, flows, wakers, is_leaving: false }
        };
        let address = listeners.add_datagrams(&"127.0.0.1:0".parse().unwrap(), concierge.clone()).unwrap();
        let sockets = [(); 4].map(|()| {
            let socket = client(&running, "127.0.0.1");
            socket.connect(ip(&address)).unwrap();
            check_echo(&socket, b"a listener that came later");
            socket
        });
        let text = listeners.add_datagrams(&address, concierge.clone()).unwrap_err().to_string();
        assert!(text.contains("listed twice"), "{text}");
        let made =
            listeners.add_datagrams(&"127.0.0.1:0".parse().unwrap(), |_| -> UdpEcho { panic!("as asked") });
        assert!(made.is_err());
        // Nobody says that it is done: so the time ends it.
        assert!(listeners.remove_datagrams(&address, Duration::from_millis(300)));
        assert!(!listeners.remove_datagrams(&address, Duration::ZERO));
        for socket in &sockets {
            assert_eq!(recv(socket), b"draining");
        }
        eventually(0, || running.stats().total().flows);
        eventually(true, || {
            let _ = sockets[0].send(b"gone");
            sockets[0].set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            sockets[0]
                .recv(&mut [0; 9])
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        });
        // The address is free again, and what was there at the start goes the same way.
        assert_eq!(listeners.add_datagrams(&address, concierge.clone()).unwrap(), address);
        assert!(listeners.remove_datagrams(&running.datagram_addresses()[0], PATIENCE));
        drop(woken);
        running.handle().drain(Duration::from_millis(200));
        running.join().unwrap();
    });
}
