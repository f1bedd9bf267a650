//! Outbound connections over real sockets, on both drivers: made, refused, late, broken, too many, and at the end of
//! the engine.

mod common;

use common::*;
use ringmill::{
    Address, CloseReason, Config, ConnId, Dialer, Echo, Engine, Errno, Io, Next, Protocol, Refusal, Running,
    Step, Tick,
};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What the caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Connected(u64),
    Data(u64, Vec<u8>),
    Drain(u64),
    Closed(u64, CloseReason),
    Refused(u64, Refusal),
}

/// Connects to addresses at its start, says hello on each connection, and reports what happens.
struct Caller {
    addresses: Vec<Address>,
    told: Sender<Told>,
}

impl Caller {
    fn tell(&self, told: Told) {
        // The test may be over.
        let _ = self.told.send(told);
    }
}

impl Protocol for Caller {
    type Session = u64;

    fn start(&mut self, dialer: Dialer) {
        for (tag, address) in self.addresses.iter().enumerate() {
            dialer.connect(address, tag as u64);
        }
    }

    fn open(&mut self, _: &mut Io<'_>) -> u64 {
        unreachable!("nothing listens")
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> u64 {
        self.tell(Told::Connected(tag));
        io.write(b"hello");
        tag
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) {
        self.tell(Told::Refused(tag, refusal));
    }

    fn data(&mut self, tag: &mut u64, input: &mut [u8], _: &mut Io<'_>) -> Step {
        self.tell(Told::Data(*tag, input.to_vec()));
        Step::consumed(input.len())
    }

    fn drain(&mut self, tag: &mut u64, _: &mut Io<'_>) -> Next {
        self.tell(Told::Drain(*tag));
        Next::Close
    }

    fn closed(&mut self, tag: u64, reason: CloseReason) {
        self.tell(Told::Closed(tag, reason));
    }
}

/// An engine that only calls, and what its caller is told.
struct Call {
    running: Running,
    told: Receiver<Told>,
}

impl Call {
    fn new(config: Config, addresses: &[Address]) -> Call {
        let (told, heard) = channel();
        let addresses = addresses.to_vec();
        let caller = move |_: &_| Caller { addresses: addresses.clone(), told: told.clone() };
        let running = Engine::builder().config(config).outbound(caller).start().expect("the engine starts");
        Call { running, told: heard }
    }

    #[track_caller]
    fn next(&self) -> Told {
        self.told.recv_timeout(PATIENCE).expect("something is told")
    }

    #[track_caller]
    fn expect(&self, told: Told) {
        assert_eq!(self.next(), told);
    }
}

fn listen() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Ip(listener.local_addr().unwrap());
    (listener, address)
}

fn bound_socket() -> (socket2::Socket, Address) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, Address::Ip(address))
}

/// An address that does not answer: a listener's queue for one is full, so the kernel drops what else comes.
struct Silent {
    address: Address,
    listener: socket2::Socket,
    _first: TcpStream,
}

impl Silent {
    fn new() -> Silent {
        let (listener, address) = bound_socket();
        listener.listen(0).unwrap();
        let first = connect_to(ip(&address));
        Silent { address, listener, _first: first }
    }

    /// Makes room: the kernel's next try (a second after the first, RFC 6298) gets through.
    fn answer(&self) -> TcpStream {
        drop(self.listener.accept().unwrap());
        with_patience(self.listener.accept().unwrap().0.into())
    }
}

#[test]
fn connections_are_made_over_ipv4_ipv6_and_unix() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("socket");
        let (v4, v4_address) = listen();
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let v6_address = Address::Ip(v6.local_addr().unwrap());
        let unix = UnixListener::bind(&path).unwrap();
        let name = format!("ringmill-connect-{}-{driver}", std::process::id());
        let without_file = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let without_file = UnixListener::bind_addr(&without_file).unwrap();
        let accept: [(Address, Accept<'_>); 4] = [
            (v4_address, Box::new(|| Box::new(with_patience(v4.accept().unwrap().0)))),
            (v6_address, Box::new(|| Box::new(with_patience(v6.accept().unwrap().0)))),
            (Address::Unix(path.into()), Box::new(|| Box::new(unix.accept().unwrap().0))),
            (Address::Abstract(name.into()), Box::new(|| Box::new(without_file.accept().unwrap().0))),
        ];
        for (address, accept) in accept {
            let call = Call::new(config(driver), std::slice::from_ref(&address));
            let mut peer = accept();
            let mut hello = [0; 5];
            peer.read_exact(&mut hello).unwrap();
            assert_eq!(&hello, b"hello", "{address}");
            peer.write_all(b"welcome").unwrap();
            call.expect(Told::Connected(0));
            call.expect(Told::Data(0, b"welcome".to_vec()));
            drop(peer);
            call.expect(Told::Closed(0, CloseReason::Finished));
            let total = call.running.stats().total();
            assert_eq!((total.connected, total.accepted, total.refused), (1, 0, 0));
        }
    });
}

type Accept<'a> = Box<dyn Fn() -> Box<dyn Conversation> + 'a>;

trait Conversation: Read + Write {}
impl<S: Read + Write> Conversation for S {}

#[test]
fn a_refusal_says_why() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let stale = directory.file("stale");
        drop(UnixListener::bind(&stale).unwrap());
        let (_bound, deaf) = bound_socket();
        let unix = |path: String| Address::Unix(path.into());
        for (address, errno) in [
            (deaf, libc::ECONNREFUSED),
            (unix(stale), libc::ECONNREFUSED),
            (unix(directory.file("nothing")), libc::ENOENT),
            (unix("/x".repeat(100)), libc::EINVAL),
        ] {
            let call = Call::new(config(driver), std::slice::from_ref(&address));
            call.expect(Told::Refused(0, Refusal::Failed(Errno(errno))));
            assert_eq!(call.running.stats().total().refused, 1, "{address}");
        }
    });
}

#[test]
fn an_attempt_times_out_and_leaves_nothing_behind() {
    alone(|| {
        on_both_drivers(|driver| {
            let silent = Silent::new();
            let timeout = Duration::from_millis(150);
            let before = descriptors("self");
            let began = Instant::now();
            let config = Config { connect_timeout: timeout, ..config(driver) };
            let call = Call::new(config, &[silent.address.clone(), silent.address.clone()]);
            call.expect(Told::Refused(0, Refusal::TimedOut));
            call.expect(Told::Refused(1, Refusal::TimedOut));
            assert!(began.elapsed() >= timeout, "it gave up after {:?}", began.elapsed());
            assert_eq!(call.running.stats().total().refused, 2);
            call.running.handle().drain(PATIENCE);
            call.running.join().unwrap();
            eventually(before, || descriptors("self"));
        });
    });
}

#[test]
fn a_late_answer_is_in_time_before_the_timeout() {
    on_both_drivers(|driver| {
        let silent = Silent::new();
        let call = Call::new(config(driver), std::slice::from_ref(&silent.address));
        assert_eq!(call.told.recv_timeout(Duration::from_millis(100)).ok(), None);
        let mut peer = silent.answer();
        call.expect(Told::Connected(0));
        peer.expect("hello");
    });
}

#[test]
fn a_reset_closes_the_session_with_its_cause() {
    on_both_drivers(|driver| {
        let (listener, address) = listen();
        let call = Call::new(config(driver), &[address]);
        let peer = with_patience(listener.accept().unwrap().0);
        call.expect(Told::Connected(0));
        reset(peer);
        call.expect(Told::Closed(0, CloseReason::Failed(Errno(libc::ECONNRESET))));
    });
}

#[test]
fn many_at_once_each_talk() {
    const CONNECTIONS: usize = 400;
    on_both_drivers(|driver| {
        let server = start(config(driver), |_| Echo::default());
        let addresses = vec![server.addresses()[0].clone(); CONNECTIONS];
        let call = Call::new(config(driver), &addresses);
        let mut connected = vec![false; CONNECTIONS];
        let mut echoed = vec![Vec::new(); CONNECTIONS];
        while echoed.iter().any(|bytes| bytes != b"hello") {
            match call.next() {
                Told::Connected(tag) => assert!(!std::mem::replace(&mut connected[tag as usize], true)),
                Told::Data(tag, bytes) => echoed[tag as usize].extend(bytes),
                other => panic!("{other:?}"),
            }
        }
        assert!(connected.iter().all(|is_connected| *is_connected));
        assert_eq!(call.running.stats().total().connections, CONNECTIONS as u64);
        call.running.handle().drain(PATIENCE);
        call.running.join().unwrap();
        eventually(0, || server.stats().total().connections);
    });
}

#[test]
fn outbound_connections_count_to_the_limit() {
    on_both_drivers(|driver| {
        let (listener, address) = listen();
        let config = config(driver).with_connections_max(3);
        let call = Call::new(config, &vec![address; 5]);
        let mut told: Vec<Told> = (0..5).map(|_| call.next()).collect();
        told.sort_by_key(|told| match told {
            Told::Connected(tag) | Told::Refused(tag, _) => *tag,
            other => panic!("{other:?}"),
        });
        let expected = [
            Told::Connected(0),
            Told::Connected(1),
            Told::Connected(2),
            Told::Refused(3, Refusal::Limit),
            Told::Refused(4, Refusal::Limit),
        ];
        assert_eq!(told, expected);
        drop(listener);
    });
}

#[test]
fn without_descriptors_a_connection_is_refused_and_the_others_live() {
    const ATTEMPTS: usize = 100;
    alone(|| {
        on_both_drivers(|driver| {
            let (listener, address) = listen();
            let limit = limit_descriptors(descriptors("self") + 40);
            // Above what the descriptors allow: the kernel's limit is to be met, not ours.
            let call = Call::new(config(driver).with_connections_max(1000), &vec![address; ATTEMPTS]);
            let (mut connected, mut refused) = (Vec::new(), 0);
            for _ in 0..ATTEMPTS {
                match call.next() {
                    Told::Connected(tag) => connected.push(tag),
                    Told::Refused(_, Refusal::Failed(errno)) => {
                        assert_eq!(errno, Errno(libc::EMFILE));
                        refused += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert!(!connected.is_empty() && refused > 0, "{} made, {refused} refused", connected.len());
            limit_descriptors(limit);
            // One that was made is as good as ever.
            let mut peer = with_patience(listener.accept().unwrap().0);
            peer.ask("still there", "hello");
            let Told::Data(_, bytes) = call.next() else { panic!("no data") };
            assert_eq!(bytes, b"still there");
        });
    });
}

/// Sets how many descriptors this process may have, and returns how many it might before.
fn limit_descriptors(descriptors: usize) -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes into a local struct of the right type.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    let before = limit.rlim_cur as usize;
    limit.rlim_cur = descriptors as u64;
    // SAFETY: reads a local struct of the right type.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    before
}

#[test]
fn draining_waits_for_an_attempt_and_drains_what_comes_of_it() {
    on_both_drivers(|driver| {
        let silent = Silent::new();
        let call = Call::new(config(driver), std::slice::from_ref(&silent.address));
        assert_eq!(call.told.recv_timeout(Duration::from_millis(50)).ok(), None);
        call.running.handle().drain(PATIENCE);
        let mut peer = silent.answer();
        call.expect(Told::Connected(0));
        call.expect(Told::Drain(0));
        call.expect(Told::Closed(0, CloseReason::Finished));
        peer.expect("hello");
        drop(peer);
        call.running.join().unwrap();
    });
}

#[test]
fn a_drain_that_takes_too_long_and_a_stop_end_attempts() {
    on_both_drivers(|driver| {
        for stops in [false, true] {
            let silent = Silent::new();
            let call = Call::new(config(driver), std::slice::from_ref(&silent.address));
            assert_eq!(call.told.recv_timeout(Duration::from_millis(50)).ok(), None);
            let began = Instant::now();
            if stops {
                call.running.handle().stop();
            } else {
                call.running.handle().drain(Duration::from_millis(50));
            }
            call.expect(Told::Refused(0, Refusal::Stopped));
            call.running.join().unwrap();
            assert!(began.elapsed() < PATIENCE, "it waited for the connect timeout");
        }
    });
}

#[test]
fn a_stop_closes_what_was_connected() {
    on_both_drivers(|driver| {
        let (listener, address) = listen();
        let call = Call::new(config(driver), &[address]);
        let mut peer = with_patience(listener.accept().unwrap().0);
        call.expect(Told::Connected(0));
        peer.expect("hello");
        call.running.handle().stop();
        call.expect(Told::Closed(0, CloseReason::Stopped));
        peer.expect_reset();
        call.running.join().unwrap();
    });
}

/// Bytes of each client go to an upstream of its own and back: sessions of both kinds in one protocol value.
struct Relay {
    upstream: Address,
    dialer: Option<Dialer>,
    sides: HashMap<ConnId, Side>,
    /// By tag: the client that waits for its upstream.
    waiting: HashMap<u64, ConnId>,
    next_tag: u64,
}

/// One connection of a pair.
struct Side {
    /// The other connection; `None` while it is being made.
    other: Option<ConnId>,
    /// Bytes to write to this one.
    output: Vec<u8>,
    is_over: bool,
}

impl Relay {
    fn new(upstream: Address) -> Relay {
        Relay { upstream, dialer: None, sides: HashMap::new(), waiting: HashMap::new(), next_tag: 0 }
    }

    fn rouse(&self, conn: ConnId) {
        self.dialer.as_ref().expect("it was started").wake(conn);
    }
}

impl Protocol for Relay {
    type Session = ConnId;

    fn start(&mut self, dialer: Dialer) {
        self.dialer = Some(dialer);
    }

    fn open(&mut self, io: &mut Io<'_>) -> ConnId {
        self.waiting.insert(self.next_tag, io.id());
        io.connect(&self.upstream, self.next_tag);
        self.next_tag += 1;
        self.sides.insert(io.id(), Side { other: None, output: Vec::new(), is_over: false });
        io.id()
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> ConnId {
        let client = self.waiting.remove(&tag).expect("one answer to a tag");
        if let Some(side) = self.sides.get_mut(&client) {
            side.other = Some(io.id());
            self.rouse(client);
        }
        self.sides.insert(io.id(), Side { other: Some(client), output: Vec::new(), is_over: false });
        io.id()
    }

    fn refused(&mut self, tag: u64, _: Refusal) {
        let client = self.waiting.remove(&tag).expect("one answer to a tag");
        if let Some(side) = self.sides.get_mut(&client) {
            side.is_over = true;
            side.output.extend_from_slice(b"no upstream");
            self.rouse(client);
        }
    }

    fn data(&mut self, conn: &mut ConnId, input: &mut [u8], _: &mut Io<'_>) -> Step {
        let Some(other) = self.sides[conn].other else { return Step::pause(0) };
        let Some(side) = self.sides.get_mut(&other) else { return Step::close() };
        side.output.extend_from_slice(input);
        self.rouse(other);
        Step::consumed(input.len())
    }

    fn eof(&mut self, conn: &mut ConnId, _: &mut [u8], _: &mut Io<'_>) -> Next {
        if let Some(other) = self.sides[conn].other
            && let Some(side) = self.sides.get_mut(&other)
        {
            side.is_over = true;
            self.rouse(other);
        }
        Next::Close
    }

    fn wake(&mut self, conn: &mut ConnId, io: &mut Io<'_>) -> Next {
        let side = self.sides.get_mut(conn).expect("it is there until it is closed");
        io.write(&side.output);
        side.output.clear();
        if side.is_over { Next::Close } else { Next::Continue }
    }

    fn closed(&mut self, conn: ConnId, _: CloseReason) {
        self.sides.remove(&conn);
    }
}

#[test]
fn one_protocol_relays_between_a_client_and_an_upstream() {
    on_both_drivers(|driver| {
        let upstream = start(config(driver), |_| Echo::default());
        let address = upstream.addresses()[0].clone();
        let running = start(config(driver), move |_| Relay::new(address.clone()));
        let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(&running)).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(format!("I am {n}, "));
            client.send(pattern(n, 50_000));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            client.expect(format!("I am {n}, "));
            client.expect(pattern(n, 50_000));
        }
        let total = running.stats().total();
        assert_eq!((total.accepted, total.connected, total.connections), (20, 20, 40));
        drop(clients);
        eventually(0, || running.stats().total().connections);
        eventually(0, || upstream.stats().total().connections);
    });
}

#[test]
fn a_relay_without_an_upstream_tells_its_client() {
    on_both_drivers(|driver| {
        let (_bound, deaf) = bound_socket();
        let running = start(config(driver), move |_| Relay::new(deaf.clone()));
        let mut client = connect(&running);
        client.expect("no upstream");
        client.expect_eof();
    });
}

/// Sets its timer again and again, and panics where it is told to.
struct Clockwork {
    dialer: Option<Dialer>,
    ticks: Sender<Tick>,
    panics: bool,
}

impl Protocol for Clockwork {
    type Session = ();

    fn start(&mut self, dialer: Dialer) {
        dialer.set_timer(Some(Tick(0)));
        self.dialer = Some(dialer);
    }

    fn tick(&mut self, now: Tick) {
        let _ = self.ticks.send(now);
        let dialer = self.dialer.as_ref().expect("it was started");
        // The second call replaces what the first one asked for.
        dialer.set_timer(None);
        dialer.set_timer(Some(now.after(Duration::from_millis(3))));
        assert!(!self.panics, "in tick, as asked");
    }

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }
}

#[test]
fn a_timer_comes_not_before_its_time_and_outlives_a_panic() {
    on_both_drivers(|driver| {
        for panics in [false, true] {
            let (ticks, ticked) = channel();
            let running = Engine::builder()
                .config(config(driver))
                .outbound(move |_| Clockwork { dialer: None, ticks: ticks.clone(), panics })
                .start()
                .unwrap();
            let times: Vec<Tick> = (0..10).map(|_| ticked.recv_timeout(PATIENCE).unwrap()).collect();
            for pair in times.windows(2) {
                let gap = pair[1].since(pair[0]);
                assert!(gap >= Duration::from_millis(3), "it came after {gap:?}");
            }
            let counted = running.stats().total().panics;
            assert_eq!(counted >= 9, panics, "{counted} panics");
        }
    });
}

/// Connects from two addresses of its own.
struct FromTwo {
    target: Address,
}

impl Protocol for FromTwo {
    type Session = ();

    fn start(&mut self, dialer: Dialer) {
        for last in [5, 6] {
            dialer.connect_from([127, 0, 0, last].into(), &self.target, 0);
        }
    }

    fn open(&mut self, _: &mut Io<'_>) {}

    fn data(&mut self, (): &mut (), input: &mut [u8], _: &mut Io<'_>) -> Step {
        Step::consumed(input.len())
    }
}

#[test]
fn the_address_to_connect_from_can_be_chosen() {
    on_both_drivers(|driver| {
        let (listener, target) = listen();
        let engine = Engine::builder().config(config(driver));
        let _running = engine.outbound(move |_| FromTwo { target: target.clone() }).start().unwrap();
        let mut from: Vec<String> = (0..2).map(|_| listener.accept().unwrap().1.ip().to_string()).collect();
        from.sort();
        assert_eq!(from, ["127.0.0.5", "127.0.0.6"]);
    });
}
