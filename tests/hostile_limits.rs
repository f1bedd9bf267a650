//! Time, descriptors, buffers and connections run out, because somebody sees to it: who is slow is let go, who waits is
//! served in the end, and nothing spins. Odd bytes are in `hostile.rs`, much at once in `hostile_load.rs`.
#![cfg(feature = "cli")]

mod common;

use common::http::*;
use common::program::Program;
use common::site::{start, start_with};
use common::traces::{Traces, total};
use common::*;
use ringmill::http::{Handler, Limits, Plan, Reply, Request, Server, Upload};
use ringmill::{Config, DriverChoice, Echo, Engine, ListenOptions, UdpEcho, WorkerContext};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(300);

fn connection_closing(request: String) -> String {
    request.replacen("Host", "Connection: close\r\nHost", 1)
}

/// Waits a little, as a slow client does, or until the server has something to say: whether it has ended the connection.
fn dawdles(client: &mut TcpStream) -> bool {
    client.set_read_timeout(Some(SHORT / 10)).unwrap();
    match client.read(&mut [0]) {
        Ok(0) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(_) => panic!("an answer to half a request"),
    }
}

#[test]
fn a_body_that_drips_ends_and_one_that_keeps_up_a_little_does_not() {
    on_both_drivers(|driver| {
        // 300 bytes in each 300 ms.
        let limits = Limits { body_idle_timeout: SHORT, body_bytes_per_sec_min: 1000, ..Limits::default() };
        let (running, address) = start(driver, limits);
        let sized = "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n";
        for (request, drop) in [(sized.to_owned(), "x"), (post_chunked("/collect", ""), "1\r\nx\r\n")] {
            let mut client = connect_to(address);
            client.send(&request);
            let until = Instant::now() + PATIENCE;
            while !dawdles(&mut client) {
                assert!(Instant::now() < until, "a byte in each tenth of the time kept it open: {request}");
                let _ = client.write(drop.as_bytes());
            }
        }
        assert_eq!(total(&running).timeouts, 2);
        let mut client = connect_to(address);
        client.send(sized);
        // In a tenth of the time what is wanted in all of it, so that a busy machine may take its time; and longer than it.
        for _ in 1..20 {
            client.send("x".repeat(300));
            assert!(!dawdles(&mut client), "who sends enough was let go");
        }
        client.send("x".repeat(300));
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(receive(&mut client).body.len(), 6000);
    });
}

#[test]
fn a_reader_that_sips_ends_and_one_that_keeps_up_a_little_does_not() {
    const BYTES: usize = 20_000_000;
    on_both_drivers(|driver| {
        let rates = [(100 << 20, true), (1000, false)];
        for (write_bytes_per_sec_min, is_let_go) in rates {
            let config = Config { write_timeout: SHORT, write_bytes_per_sec_min, ..config(driver) };
            let (running, address) = start_with(config, Limits::default());
            let mut client = connect_narrow(address, 64 * 1024);
            client.send(get(&format!("/bytes/{BYTES}")));
            assert_eq!(receive_head(&mut client).status, 200);
            // About 600 kB a second: so slow that the kernel's buffer on the server's side is hardly ever said to have room.
            let (mut at, since) = (0, Instant::now());
            while since.elapsed() < 8 * SHORT && total(&running).write_timeouts == 0 {
                expect_pattern_from(&mut client, at, 6_000);
                at += 6_000;
                std::thread::sleep(Duration::from_millis(10));
            }
            let let_go = total(&running).write_timeouts;
            assert_eq!(
                let_go,
                u64::from(is_let_go),
                "of a reader that has to take {write_bytes_per_sec_min} a second"
            );
            if !is_let_go {
                expect_pattern_from(&mut client, at, BYTES - at);
            }
        }
    });
}

#[test]
fn whoever_is_slow_is_let_go_and_told_so_where_there_is_something_to_say() {
    const ROUNDS: usize = 25;
    alone(|| {
        on_both_drivers(|driver| {
            let limits = Limits {
                head_timeout: SHORT,
                body_idle_timeout: SHORT,
                // Longer than we can be kept from sending anything at all.
                keep_alive_timeout: Duration::from_secs(2),
                ..Limits::default()
            };
            let (running, address) = start(driver, limits);
            let traces = Traces::before(&running);
            // What comes, and the status that says good-bye. A body that stops is no head that was late: it just ends.
            let kinds: [(String, Option<u16>); 8] = [
                (String::new(), None),
                ("\r\n".to_owned(), None),
                ("G".to_owned(), Some(408)),
                ("GET /hello HTTP/1.1\r\nHost: a\r\n".to_owned(), Some(408)),
                (get(&format!("/{}", "x".repeat(100))).trim_end().to_owned(), Some(408)),
                ("POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".to_owned(), None),
                (post_chunked("/collect", "5\r\nhel"), None),
                (post_chunked("/collect", "5\r\nhello\r\n0\r\nX-Sum"), None),
            ];
            let mut clients: Vec<TcpStream> = Vec::new();
            for n in 0..ROUNDS * kinds.len() {
                clients.push(connect_to(address));
                clients[n].send(&kinds[n % kinds.len()].0);
            }
            // Each head that drips is one, too: some 50 bytes a second, where 256 would do.
            while total(&running).timeouts < clients.len() as u64 {
                for client in clients.iter_mut().skip(2).step_by(kinds.len()) {
                    let _ = client.write(b"G");
                }
                std::thread::sleep(Duration::from_millis(20));
                let mut other = connect_to(address);
                other.send(connection_closing(get("/hello")));
                assert_eq!(receive(&mut other).text(), "hello");
            }
            for (n, client) in clients.iter_mut().enumerate() {
                let (sent, status) = &kinds[n % kinds.len()];
                if let Some(status) = status {
                    let answer = receive(client);
                    assert_eq!(
                        (answer.status, answer.field("connection")),
                        (*status, Some("close")),
                        "{sent:?}"
                    );
                }
                client.expect_eof();
            }
            drop(clients);
            traces.expect_none(&running);
        });
    });
}

#[test]
fn a_head_that_comes_fast_enough_may_take_longer_than_its_timeout() {
    on_both_drivers(|driver| {
        let limits = Limits { head_timeout: Duration::from_secs(1), ..Limits::default() };
        let (_running, address) = start(driver, limits);
        let mut client = connect_to(address);
        // 2 KiB earn eight seconds more: time enough for the slowest of machines to send the rest.
        client.send(format!("GET /hello HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(2048)));
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(1500) {
            client.send("x");
            std::thread::sleep(Duration::from_millis(50));
        }
        client.send("\r\n\r\n");
        assert_eq!(receive(&mut client).text(), "hello");
    });
}

#[test]
fn who_fills_the_connection_limit_with_nothing_keeps_nobody_out_for_long() {
    const LIMIT: usize = 40;
    on_both_drivers(|driver| {
        let limits =
            Limits { head_timeout: SHORT, keep_alive_timeout: Duration::from_secs(1), ..Limits::default() };
        // Whoever is let go has a place for as long as we wait for his end.
        let config = Config { linger_timeout: SHORT, ..config(driver).with_connections_max(LIMIT) };
        let (running, address) = start_with(config, limits);
        // Twice the limit: when the first are let go, the next of them come before whoever is honest.
        let mut idle: Vec<TcpStream> = (0..2 * LIMIT).map(|_| connect_to(address)).collect();
        for client in idle.iter_mut().step_by(2) {
            client.send("GET / HT");
        }
        let mut honest: Vec<TcpStream> = (0..10).map(|_| connect_to(address)).collect();
        for client in &mut honest {
            client.send(connection_closing(get("/hello")));
        }
        for client in &mut honest {
            assert_eq!(receive(client).text(), "hello");
            assert!(total(&running).connections <= LIMIT as u64);
        }
        assert!(total(&running).accept_paused > 0);
        // The idle are still here, and do not matter.
        drop((idle, honest));
        eventually((0, 2 * LIMIT as u64 + 10), || (total(&running).connections, total(&running).closed));
    });
}

/// The limit bounds connections. Descriptors it bounds up to what one turn can take from the listener's queue: a
/// multishot accept hands all of that over before it can be told to stop. These wait with the worker, and until they
/// are served it takes no more.
#[test]
fn a_flood_beyond_the_limit_costs_no_more_descriptors_than_one_queue_holds() {
    const LIMIT: usize = 4;
    const BACKLOG: usize = 16;
    // The kernel lets one more wait than it was told.
    const QUEUE: usize = BACKLOG + 1;
    alone(|| {
        on_both_drivers(|driver| {
            let gate = Arc::new(Barrier::new(2));
            let handler_gate = gate.clone();
            let options = ListenOptions { backlog: BACKLOG as i32, ..ListenOptions::default() };
            let running = Engine::builder()
                .config(config(driver).with_connections_max(LIMIT))
                .listen_with("127.0.0.1:0", options, move |_| {
                    let gate = handler_gate.clone();
                    ringmill::http::server(move |request, reply| {
                        if request.path() == "/gate" {
                            gate.wait();
                            gate.wait();
                        }
                        reply.text("hello");
                    })
                })
                .start()
                .unwrap();
            let traces = Traces::before(&running);
            let before = descriptors("self");
            let mut clients = vec![connect(&running)];
            let held = |clients: &Vec<TcpStream>| descriptors("self") - before - clients.len();
            // The worker stands still in a handler while others fill the queue: it finds them all at once.
            clients[0].send(connection_closing(get("/gate")));
            gate.wait();
            clients.extend((0..QUEUE).map(|_| connect(&running)));
            gate.wait();
            // The first one is answered, but stays: it takes one of the places.
            eventually(LIMIT as u64, || total(&running).connections);
            assert!(settled(|| held(&clients)) <= LIMIT + QUEUE);
            // Now there is room in the queue again: what comes stays there.
            clients.extend((0..QUEUE / 2).map(|_| connect(&running)));
            assert!(settled(|| held(&clients)) <= LIMIT + QUEUE);
            for client in &mut clients[1..] {
                client.send(connection_closing(get("/hello")));
            }
            while !clients.is_empty() {
                let mut client = clients.remove(0);
                assert_eq!(receive(&mut client).text(), "hello");
                assert!(total(&running).connections <= LIMIT as u64);
                drop(client);
                assert!(held(&clients) <= LIMIT + QUEUE);
            }
            traces.expect_none(&running);
            assert_eq!(total(&running).accepted as usize, 1 + QUEUE + QUEUE / 2);
        });
    });
}

#[test]
fn without_descriptors_it_serves_whom_it_has_and_waits_without_turning() {
    const CLIENTS: usize = 150;
    on_both_drivers(|driver| {
        let mut server = Program::serve_with_descriptors(driver, 64, &["--max-connections", "1000"]);
        let mut veteran = connect_to(server.http());
        let mut stats = || -> serde_json::Value {
            veteran.send(get("/stats"));
            serde_json::from_slice(&receive(&mut veteran).body).expect("JSON")
        };
        let counted = |stats: &serde_json::Value, name: &str| stats["total"][name].as_u64().unwrap();
        assert_eq!(counted(&stats(), "accepted"), 1);
        let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect_to(server.http())).collect();
        server.expect_line("accepting pauses");
        for _ in 0..100 {
            assert!(counted(&stats(), "connections") < 64);
        }
        // It tries again ten times a second. Turns are what spinning is made of, however fast the machine.
        let (before, began) = (counted(&stats(), "turns"), Instant::now());
        std::thread::sleep(Duration::from_secs(1));
        let (turns, elapsed) = (counted(&stats(), "turns") - before, began.elapsed());
        assert!(turns < 100 + 100 * elapsed.as_secs(), "{turns} turns in {elapsed:?} of nothing");
        // Each one that leaves makes room.
        for mut client in clients {
            client.send(connection_closing(get("/health")));
            assert_eq!(receive(&mut client).text(), "ok");
        }
        eventually((CLIENTS as u64 + 1, 1), || {
            (counted(&stats(), "accepted"), counted(&stats(), "connections"))
        });
    });
}

#[test]
fn thousands_of_bodies_at_once_share_a_handful_of_receive_buffers() {
    const CLIENTS: usize = 2000;
    alone(|| {
        // Both ends of each connection are ours.
        let clients_max = (ringmill::raise_descriptor_limit() as usize - 50) / 2;
        on_both_drivers(|driver| {
            let config = Config { recv_buffers: 8, recv_buffer_bytes: 512, ..config(driver) };
            let (running, address) = start_with(config, Limits::default());
            check(address, get("/hello"), ok("hello"));
            let traces = Traces::before(&running);
            let mut clients: Vec<TcpStream> =
                (0..CLIENTS.min(clients_max)).map(|_| connect_to(address)).collect();
            let body = |n: usize| format!("{n} ").repeat(500);
            // Each sends a part, and only then each the next one: all bodies are open at the same time.
            let request = |n: usize| match n % 2 {
                0 => post("/collect", &body(n)),
                _ => post_chunked("/collect", &format!("{:x}\r\n{}\r\n0\r\n\r\n", body(n).len(), body(n))),
            };
            for part in 0..3 {
                for (n, client) in clients.iter_mut().enumerate() {
                    let request = request(n);
                    let cut = request.len() / 3;
                    let end = if part == 2 { request.len() } else { cut * (part + 1) };
                    client.send(&request[cut * part..end]);
                }
            }
            for (n, client) in clients.iter_mut().enumerate() {
                assert!(receive(client).text() == body(n), "client {n}");
            }
            let counters = total(&running);
            // Over epoll a socket without a buffer is not told so: it stays ready, and has its turn when one is home.
            assert_eq!(counters.buffers_starved > 0, driver == DriverChoice::Uring, "{counters:?}");
            // Whoever finds no buffer waits for his turn: of the thousands no more ask again than there are buffers.
            // Each turn takes in a buffer at least, so with 9000 of them to fill that is the bound.
            assert!(counters.buffers_starved < 8 * 9000 + 3 * CLIENTS as u64, "{counters:?}");
            assert_eq!((counters.failures, counters.timeouts), (0, 0));
            drop(clients);
            traces.expect_none(&running);
        });
    });
}

#[test]
fn who_goes_on_talking_after_the_good_bye_is_cut_off() {
    const TALKERS: usize = 20;
    alone(|| {
        on_both_drivers(|driver| {
            let config = Config { linger_timeout: SHORT, ..config(driver) };
            let (running, address) = start_with(config, Limits::default());
            let traces = Traces::before(&running);
            let talking: Vec<_> = (0..TALKERS)
                .map(|_| {
                    std::thread::spawn(move || {
                        let mut client = connect_to(address);
                        client.send("nonsense\r\n\r\n");
                        // The end of the connection is the end of this: it says so with a reset, to the writer.
                        while client.write(&[b'x'; 10_000]).is_ok() {}
                    })
                })
                .collect();
            eventually((TALKERS as u64, 0), || (total(&running).closed, total(&running).connections));
            for talker in talking {
                talker.join().unwrap();
            }
            traces.expect_none(&running);
        });
    });
}

#[test]
fn peers_whose_window_stays_shut_are_let_go_all_at_once() {
    const DEAF: usize = 50;
    alone(|| {
        on_both_drivers(|driver| {
            let config = Config { write_timeout: SHORT, ..config(driver) };
            let (running, address) = start_with(config, Limits::default());
            let traces = Traces::before(&running);
            let mut deaf: Vec<TcpStream> = (0..DEAF).map(|_| connect_narrow(address, 16 * 1024)).collect();
            for client in &mut deaf {
                client.send(get("/bytes/100000000"));
            }
            eventually((DEAF as u64, 0), || (total(&running).write_timeouts, total(&running).connections));
            for client in &mut deaf {
                client.expect_reset();
            }
            drop(deaf);
            traces.expect_none(&running);
        });
    });
}

/// Reads bodies of any length and forgets them.
struct Forgetful;

impl Handler for Forgetful {
    fn handle(&mut self, _: &Request<'_>, reply: &mut Reply<'_>) {
        reply.text("ok");
    }

    fn plan(&mut self, _: &Request<'_>) -> Plan {
        Plan::StreamUpTo(u64::MAX, Box::new(Forgetful))
    }
}

impl Upload for Forgetful {
    fn chunk(&mut self, _: &[u8], _: &mut Reply<'_>) {}

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        reply.text("ok");
    }
}

#[test]
fn uploads_that_need_every_buffer_leave_others_their_turns() {
    alone(|| {
        on_both_drivers(|driver| {
            // Each upload alone can use up all buffers in every turn.
            let config =
                Config { recv_buffers: 8, recv_buffer_bytes: 512, turn_bytes_max: 8 * 512, ..config(driver) };
            let running = common::start(config, |_| Server::new(Forgetful));
            let over = Arc::new(AtomicBool::new(false));
            let upload = || {
                let (mut client, over) = (connect(&running), over.clone());
                std::thread::spawn(move || {
                    client.send(format!(
                        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
                        1u64 << 40
                    ));
                    while !over.load(SeqCst) {
                        client.send(vec![b'x'; 64 * 1024]);
                    }
                })
            };
            let uploads: Vec<_> = (0..4).map(|_| upload()).collect();
            eventually(true, || total(&running).received_bytes > 1 << 20);
            let mut client = connect(&running);
            for _ in 0..50 {
                client.send(get("/"));
                assert_eq!(receive(&mut client).text(), "ok");
            }
            over.store(true, SeqCst);
            for upload in uploads {
                upload.join().unwrap();
            }
        });
    });
}

#[test]
fn a_flood_of_datagrams_leaves_streams_their_turns_and_takes_no_memory() {
    alone(|| {
        on_both_drivers(|driver| {
            let builder = Engine::builder().config(config(driver)).listen("127.0.0.1:0", |_| Echo::default());
            let unlimited = |_: &WorkerContext| UdpEcho::default().with_peer_rate(0);
            let running = builder.datagrams("127.0.0.1:0", unlimited).start().unwrap();
            let address = ip(&running.datagram_addresses()[0]);
            let traces = Traces::before(&running);
            let over = Arc::new(AtomicBool::new(false));
            let flood = |bytes: usize, stays: bool| {
                let over = over.clone();
                std::thread::spawn(move || {
                    let data = vec![7; bytes];
                    while !over.load(SeqCst) {
                        // Nobody reads the answers; and most of those who asked are gone when they come.
                        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                        for _ in 0..if stays { 1000 } else { 10 } {
                            let _ = socket.send_to(&data, address);
                        }
                    }
                })
            };
            let floods = [flood(0, true), flood(0, false), flood(65_507, true), flood(1472, false)];
            eventually(true, || total(&running).datagrams_received > 1000);
            let mut client = connect(&running);
            for n in 0..200 {
                let text = format!("turn {n}");
                client.ask(&text, &text);
            }
            over.store(true, SeqCst);
            for flood in floods {
                flood.join().unwrap();
            }
            // It still answers datagrams, as soon as its queue has room for one.
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            eventually(Some(5), || {
                socket.send_to(b"still", address).unwrap();
                socket.recv(&mut [0; 100]).ok()
            });
            drop((client, socket));
            traces.expect_none(&running);
            let growth = traces.growth_bytes();
            assert!(growth < 16 << 20, "it took {growth} bytes");
        });
    });
}

/// What a machine that was suspended, or a process that was stopped, sees: much time has passed, and much has arrived.
/// Whoever was in time must not pay for it.
#[test]
fn a_leap_of_time_lets_nobody_go_who_was_in_time() {
    const EACH: usize = 40;
    const TIMEOUT: Duration = Duration::from_secs(4);
    on_both_drivers(|driver| {
        let timeouts = ["--head-timeout", "4s", "--body-timeout", "4s", "--keep-alive-timeout", "4s"];
        let server = Program::serve(driver, &timeouts);
        let requests = [
            (String::new(), get("/health")),
            ("GET /hea".to_owned(), get("/health")["GET /hea".len()..].to_owned()),
            (post("/upload", "1234567890").replace("67890", ""), "67890".to_owned()),
        ];
        let mut clients: Vec<TcpStream> = Vec::new();
        for n in 0..EACH * requests.len() {
            let mut client = connect_to(server.http());
            client.send(get("/health"));
            assert_eq!(receive(&mut client).text(), "ok");
            client.send(&requests[n % requests.len()].0);
            clients.push(client);
        }
        server.signal(libc::SIGSTOP);
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(&requests[n % requests.len()].1);
        }
        std::thread::sleep(TIMEOUT + SHORT);
        server.signal(libc::SIGCONT);
        for (n, client) in clients.iter_mut().enumerate() {
            let answer = receive(client);
            assert_eq!(
                (answer.status, answer.text()),
                (200, ["ok", "ok", "10"][n % requests.len()]),
                "client {n}"
            );
        }
    });
}
