//! Datagrams that are passed on: a flow a client, which ends by time or by answers, moves on from a dead server, and is bounded.

use super::*;
use ringmill::proxy::{Balance, FlowRules, Flowing, Flows};
use ringmill::{Gate, GateRules};
use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

/// Answers each datagram with its own name before it, as a server of DNS answers questions.
struct Dns {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    /// Who has asked.
    thread: Option<JoinHandle<HashSet<SocketAddr>>>,
}

impl Dns {
    fn start(name: &'static str) -> Dns {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (address, is_over) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stop = is_over.clone();
        let thread = std::thread::spawn(move || {
            let (mut askers, mut buffer) = (HashSet::new(), [0; 2000]);
            while !stop.load(Relaxed) {
                let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
                askers.insert(from);
                let answer = [name.as_bytes(), &buffer[..bytes]].concat();
                socket.send_to(&answer, from).unwrap();
            }
            askers
        });
        Dns { address, is_over, thread: Some(thread) }
    }

    fn stop(mut self) -> HashSet<SocketAddr> {
        self.is_over.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

fn serve(driver: DriverChoice, servers: &[SocketAddr], rules: FlowRules) -> (Running, Flowing) {
    let servers = servers.iter().map(|server| Address::Ip(*server)).collect();
    let config = ProxyConfig { balance: Balance::RoundRobin, ..ProxyConfig::relayed(servers) };
    let flowing = Flowing::new(rules);
    let engine = Config { flows_max: 2000, ..common::config(driver) };
    let of_workers = flowing.clone();
    let builder = ringmill::Engine::builder().config(engine).datagrams("127.0.0.1:0", move |worker| {
        Flows::alone(config.clone(), worker.index as u64, &of_workers)
    });
    (builder.start().unwrap(), flowing)
}

fn rules() -> FlowRules {
    FlowRules { idle_timeout: PATIENCE, ..FlowRules::new(String::new()) }
}

fn client(running: &Running) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(ip(&running.datagram_addresses()[0])).unwrap();
    socket
}

#[track_caller]
fn answer(socket: &UdpSocket) -> String {
    let mut buffer = [0; 2000];
    let bytes = socket.recv(&mut buffer).expect("an answer");
    String::from_utf8(buffer[..bytes].to_vec()).unwrap()
}

#[track_caller]
fn ask(socket: &UdpSocket, question: &str) -> String {
    socket.send(question.as_bytes()).unwrap();
    answer(socket)
}

#[test]
fn a_thousand_clients_have_a_flow_each() {
    const CLIENTS: usize = 1000;
    on_both_drivers(|driver| {
        let dns = Dns::start("a:");
        let (running, flowing) = serve(driver, &[dns.address], rules());
        let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| client(&running)).collect();
        for round in 0..2 {
            // In turns of fifty, so that no queue of the kernel is too short.
            for (n, some) in clients.chunks(50).enumerate() {
                let question = |m: usize| format!("{round} {n} {m}");
                for (m, socket) in some.iter().enumerate() {
                    socket.send(question(m).as_bytes()).unwrap();
                }
                for (m, socket) in some.iter().enumerate() {
                    assert_eq!(answer(socket), format!("a:{}", question(m)));
                }
            }
        }
        let total = running.stats().total();
        assert_eq!((total.flows, total.flows_opened, flowing.open()), (1000, 1000, CLIENTS));
        // They end when they are quiet for so long, whatever held when they began.
        flowing.set(FlowRules { idle_timeout: Duration::from_millis(50), ..rules() });
        eventually((0, 0), || (running.stats().total().flows, flowing.open()));
        assert_eq!(dns.stop().len(), CLIENTS, "each came from a socket of its own");
    });
}

#[test]
fn flows_end_by_answers_and_are_bounded() {
    on_both_drivers(|driver| {
        let dns = Dns::start("a:");
        let (running, flowing) = serve(driver, &[dns.address], FlowRules { replies: Some(1), ..rules() });
        let sockets = [(); 3].map(|()| client(&running));
        for n in 0..3 {
            assert_eq!(ask(&sockets[0], &n.to_string()), format!("a:{n}"));
            eventually((n + 1, 0), || (running.stats().total().flows_opened, flowing.open()));
        }
        // Of two at most, the third is not served; and nobody is given up for it.
        flowing.set(FlowRules { flows_max: 2, ..rules() });
        eventually(true, || {
            ask(&sockets[0], "x");
            flowing.open() == 1
        });
        ask(&sockets[1], "y");
        sockets[2].send(b"one too many").unwrap();
        eventually(1, || running.stats().total().datagrams_ignored);
        assert_eq!((ask(&sockets[0], "0"), ask(&sockets[1], "1")), ("a:0".to_owned(), "a:1".to_owned()));
        assert_eq!(running.stats().total().flows, 2);
        // A gate is asked before a flow begins, and not for those that are there.
        let deny = GateRules { connections_per_ip: Some(0), ..GateRules::default() };
        flowing.set(FlowRules { gate: Some(Gate::new(deny)), ..rules() });
        eventually(1, || {
            sockets[2].send(b"not me").unwrap();
            running.stats().total().gate_per_ip.min(1)
        });
        assert_eq!(ask(&sockets[1], "still"), "a:still");
    });
}

#[test]
fn flows_are_noted_with_their_ends() {
    on_both_drivers(|driver| {
        let (dns, log) = (Dns::start("a:"), AccessLog::default());
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let rules =
            FlowRules { idle_timeout: Duration::from_millis(100), listener: "udp x".to_owned(), ..rules() };
        let observe = Observe {
            log: Some(LogRules {
                to: log.clone(),
                sampled_per_million: 1_000_000,
                slow: Duration::from_secs(3600),
                has_agents: false,
            }),
            ..Observe::default()
        };
        let mut known = Vec::new();
        for (server, end, bytes) in [(dns.address, "complete", (12, 16)), (deaf, "upstream", (12, 0))] {
            let config =
                ProxyConfig { observe: observe.clone(), ..ProxyConfig::relayed(vec![Address::Ip(server)]) };
            let flowing = Flowing::new(rules.clone());
            let builder = ringmill::Engine::builder().config(common::config(driver));
            let running =
                builder.datagrams("127.0.0.1:0", move |_| Flows::alone(config.clone(), 1, &flowing));
            let running = running.start().unwrap();
            let socket = client(&running);
            for _ in 0..2 {
                socket.send(b"where?").unwrap();
            }
            let before = known.len();
            eventually(before + 1, || lines(&log, &mut known));
            let line = &known[before];
            assert_eq!(
                (line["end"].as_str(), line["listener"].as_str()),
                (Some(end), Some("udp x")),
                "{line}"
            );
            assert_eq!(
                (line["bytes_in"].as_u64(), line["bytes_out"].as_u64()),
                (Some(bytes.0), Some(bytes.1))
            );
            assert_eq!(line["upstream"].as_str(), Some(server.to_string().as_str()), "{line}");
        }
    });
}

#[test]
fn flows_leave_a_server_that_nobody_listens_at() {
    on_both_drivers(|driver| {
        let dns = Dns::start("alive:");
        let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (running, _) = serve(driver, &[dead, dns.address], rules());
        let sockets = [(); 4].map(|()| client(&running));
        for socket in &sockets {
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            // What met the dead one is lost; a client asks again, as all do that speak UDP.
            eventually(true, || {
                socket.send(b"who?").unwrap();
                let mut buffer = [0; 100];
                socket.recv(&mut buffer).is_ok_and(|bytes| &buffer[..bytes] == b"alive:who?")
            });
        }
        assert_eq!(running.stats().total().flows, 4);
        // With nobody there at all flows stay, and work once somebody is.
        drop(running);
        let (running, _) = serve(driver, &[dead], rules());
        let socket = client(&running);
        for _ in 0..3 {
            socket.send(b"is anybody there?").unwrap();
        }
        eventually(3, || running.stats().total().datagrams_received);
        let back = UdpSocket::bind(dead).unwrap();
        back.set_read_timeout(Some(PATIENCE)).unwrap();
        eventually(true, || {
            socket.send(b"and now?").unwrap();
            back.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            back.recv(&mut [0; 100]).is_ok()
        });
        // A drain waits for flows no longer than it may.
        let begin = Instant::now();
        running.handle().drain(Duration::from_millis(200));
        running.join().unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(200) && begin.elapsed() < PATIENCE);
    });
}
