//! Strangers, byte by byte: other protocols, urgent data, one byte at a time, ends in every place, panics they can cause.
//! Many at once are in `hostile_load.rs`; time, descriptors and buffers in `hostile_limits.rs`.

mod common;

use common::http::*;
use common::site::{check_refused, on_a_site, start};
use common::traces::{Traces, total};
use common::*;
use ringmill::http::{BodyWriter, Fill, Handler, Limits, Plan, Reply, Request, Server, Source, Upload};
use ringmill::{Config, Echo, Engine, Protocol};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Barrier};

/// Requests of every framing in one string, and what they are answered. Both depend on `n`, so that an answer that
/// went to somebody else shows.
fn conversation(n: usize) -> (String, String) {
    let body = format!("body {n}");
    let chunks = format!("2;x=y\r\nbo\r\n{:x}\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n", body.len() - 2, &body[2..]);
    let input = post_chunked("/collect", &chunks)
        + &get("/hello").replace("GET", "HEAD")
        + &post("/echo", &body)
        + "\r\n"
        + &get(&format!("/bytes/{}", n % 5));
    let bytes = String::from_utf8(pattern(0, n % 5)).unwrap();
    let expected = ok(&body)
        + &ok("hello").replace("\r\nhello", "\r\n")
        + &ok(&body)
        + &reply("200 OK", &format!("content-length: {}\r\n", n % 5), &bytes);
    (input, expected)
}

#[test]
fn a_hundred_clients_send_one_byte_at_a_time_and_take_turns() {
    const CLIENTS: usize = 100;
    alone(|| {
        on_both_drivers(|driver| {
            let limits = Limits { head_timeout: 6 * PATIENCE, ..Limits::default() };
            let (running, address) = start(driver, limits);
            check(address, get("/hello"), ok("hello"));
            let traces = Traces::before(&running);
            let mut clients: Vec<(TcpStream, String, String)> = (0..CLIENTS)
                .map(|n| {
                    let (input, expected) = conversation(n);
                    (connect_to(address), input, expected)
                })
                .collect();
            let longest = clients.iter().map(|(_, input, _)| input.len()).max().unwrap();
            for at in 0..longest {
                for (client, input, _) in &mut clients {
                    if let Some(byte) = input.as_bytes().get(at) {
                        client.send([*byte]);
                    }
                }
            }
            for (n, (client, _, expected)) in clients.iter_mut().enumerate() {
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(&undated(&client.rest()), expected, "client {n}");
            }
            drop(clients);
            traces.expect_none(&running);
            let total = total(&running);
            assert_eq!((total.requests, total.failures), (1 + 4 * CLIENTS as u64, 0));
        });
    });
}

#[test]
fn who_speaks_something_else_is_told_so_and_let_go() {
    on_a_site(|address| {
        let check = |bytes: &[u8], status: u16| check_refused(address, bytes, status);
        // A TLS ClientHello, in its first bytes and with all kinds of bytes behind them.
        let mut tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
        tls.extend((0..512).map(|n| (n * 37 % 256) as u8));
        check(&tls, 400);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64", 505);
        check(b"SSH-2.0-OpenSSH_9.9\r\n", 400);
        check(b"EHLO example.org\r\n", 400);
        check(b"*1\r\n$4\r\nPING\r\n", 400);
        check(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
        check(b"GET /\r\n", 400);
        check(b"OPTIONS sip:a@b SIP/2.0\r\nHost: a\r\n\r\n", 400);
        check(b"\0\0\0\x85\xffSMBr\0\0\0\0\x18S\xc8", 400);
        check(&[0; 5000], 400);
        check(&[0xff; 5000], 400);
        check("\r\n".repeat(5000).as_bytes(), 400);
        // More of everything than anybody sends, with an end and without one.
        let fields = |count: usize| "a: b\r\n".repeat(count);
        check(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(101)).as_bytes(), 431);
        check(format!("GET / HTTP/1.1\r\nHost: a\r\n{}", fields(100_000)).as_bytes(), 431);
        check(format!("GET / HTTP/1.1\r\nHost: a\r\n{}: b\r\n\r\n", "a".repeat(1_000_000)).as_bytes(), 431);
        check(format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(1_000_000)).as_bytes(), 431);
        check(format!("GET /{}", "a".repeat(1_000_000)).as_bytes(), 414);
        check("G".repeat(1_000_000).as_bytes(), 400);
        check(" ".repeat(1_000_000).as_bytes(), 400);
        let extension = format!("1;a={}\r\n", "b".repeat(1_000_000));
        check(post_chunked("/collect", &extension).as_bytes(), 400);
        check(post_chunked("/collect", &("0\r\n".to_owned() + &fields(100_000))).as_bytes(), 400);
        check(post_chunked("/collect", &("0".repeat(1_000_000) + "\r\n\r\n")).as_bytes(), 400);
    });
}

#[test]
fn bytes_behind_urgent_data_are_not_forgotten() {
    on_both_drivers(|driver| {
        let running = common::start(config(driver), |_| Echo::default());
        for n in 0..50 {
            let mut client = connect(&running);
            client.ask("before", "before");
            client.send("one");
            socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
            client.send("two");
            client.shutdown(Shutdown::Write).unwrap();
            // The kernel's word for urgent data that is read in line (RFC 6093): a byte like any other.
            assert_eq!(show(&client.rest()), show(b"one!two"), "client {n}");
        }
    });
}

/// Answers with the path; a request for `/gate` stops the worker until the test comes to the gate twice.
fn gated(gate: Arc<Barrier>) -> impl Protocol {
    ringmill::http::server(move |request: &Request<'_>, reply: &mut Reply<'_>| {
        if request.path() == "/gate" {
            gate.wait();
            gate.wait();
        }
        reply.text(request.path());
    })
}

#[test]
fn urgent_data_that_came_in_one_piece_with_the_rest_does_not_stop_a_request() {
    on_both_drivers(|driver| {
        let (gate, directory) = (Arc::new(Barrier::new(2)), Directory::new());
        let path = directory.file("http.sock");
        let mut builder = Engine::builder().config(config(driver));
        for address in ["127.0.0.1:0", &format!("unix:{path}")] {
            let gate = gate.clone();
            builder = builder.listen(address, move |_| gated(gate.clone()));
        }
        let running = builder.start().unwrap();
        let mut first = connect(&running);
        let mut check = |urgent: &mut TcpStream, inline: &str| {
            urgent.send(get("/warm"));
            assert_eq!(receive(urgent).text(), "/warm");
            // The worker stands still until everything has arrived: it finds all of it at once.
            first.send(get("/gate"));
            gate.wait();
            urgent.send("GET /ur");
            socket2::SockRef::from(&*urgent).send_out_of_band(b"g").unwrap();
            urgent.send(&get("/urgent")["GET /urg".len()..]);
            gate.wait();
            assert_eq!(receive(&mut first).text(), "/gate");
            assert_eq!(receive(urgent).text(), inline);
            urgent.send(get("/more"));
            assert_eq!(receive(urgent).text(), "/more");
        };
        check(&mut connect(&running), "/urgent");
        // Nobody reads a Unix socket's urgent byte: connections do not inherit the listener's options.
        let unix = UnixStream::connect(&path).unwrap();
        unix.set_read_timeout(Some(PATIENCE)).unwrap();
        check(&mut OwnedFd::from(unix).into(), "/urent");
    });
}

#[test]
fn who_ends_his_half_gets_what_he_asked_for() {
    const REQUESTS: usize = 100;
    on_a_site(|address| {
        let end = |client: &TcpStream| client.shutdown(Shutdown::Write).unwrap();
        // Before anything.
        let mut client = connect_to(address);
        end(&client);
        client.expect_eof();
        // After more than the server's output holds, of which nothing has been read.
        let mut client = connect_narrow(address, 16 * 1024);
        client.send(get("/bytes/50000").repeat(REQUESTS));
        end(&client);
        for n in 0..REQUESTS {
            assert!(receive(&mut client).body == pattern(0, 50_000), "reply {n}");
        }
        client.expect_eof();
        // While the reply waits for somebody else to go on with it.
        check(
            address,
            get("/slow"),
            reply(
                "200 OK",
                "transfer-encoding: chunked\r\n",
                "1\r\n\0\r\n1\r\n\x01\r\n1\r\n\x02\r\n0\r\n\r\n",
            ),
        );
        // Behind whole requests comes a part of one: those are answered, this is not.
        for rest in [
            "G",
            "GET /hello HTTP/1.1\r\nHost: a",
            "\r\n",
            "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
        ] {
            check(address, get("/hello").repeat(3) + rest, ok("hello").repeat(3));
        }
        // After the server said to go on.
        let mut client = connect_to(address);
        client.send("POST /collect HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        client.expect("HTTP/1.1 100 Continue\r\n\r\n");
        end(&client);
        client.expect_eof();
        // In the middle of a body whose echo has begun: the part does not look like the whole.
        let mut client = connect_to(address);
        client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
        assert_eq!(receive_head(&mut client).status, 200);
        end(&client);
        assert_eq!(client.rest(), b"hello");
    });
}

/// Falls over where it is told to.
struct Traps;

impl Handler for Traps {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match request.path() {
            "/head" => panic!("in a handler, as asked"),
            "/begun" => {
                reply.begin(Some(10));
                reply.write(b"hello");
                panic!("in a reply, as asked");
            }
            "/source" => reply.stream(None, Trap { left: 3 }),
            _ => reply.content_type("text/plain").body(request.body()),
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match request.path() {
            "/plan" => panic!("in a plan, as asked"),
            "/upload" => Plan::Stream(Box::new(Trap { left: 3 })),
            "/end" => Plan::Stream(Box::new(Trap { left: usize::MAX })),
            _ => Plan::Collect,
        }
    }
}

struct Trap {
    left: usize,
}

impl Source for Trap {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        self.left = self.left.checked_sub(1).expect("in the middle of a reply, as asked");
        // More than is held back: the beginning leaves before the end is made.
        body.write(&[b'x'; 300_000]);
        Fill::More
    }
}

impl Upload for Trap {
    fn chunk(&mut self, _: &[u8], _: &mut Reply<'_>) {
        self.left = self.left.checked_sub(1).expect("in the middle of a body, as asked");
    }

    fn end(self: Box<Self>, _: &mut Reply<'_>) {
        panic!("at the end of a body, as asked");
    }
}

#[test]
fn panics_in_every_place_cost_their_own_connections_and_nothing_else() {
    const ROUNDS: usize = 10;
    alone(|| {
        on_both_drivers(|driver| {
            // So few buffers that one lost in each panic would starve the server.
            let config = Config { recv_buffers: 8, recv_buffer_bytes: 512, ..config(driver) };
            let running = common::start(config, |_| Server::new(Traps));
            let address = ip(&running.addresses()[0]);
            check(address, post("/collect", "warm"), ok("warm"));
            let traces = Traces::before(&running);
            let (mut other, mut uploader) = (connect_to(address), connect_to(address));
            uploader.send("POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n");
            let data =
                String::from_utf8(pattern(0, 60_000).into_iter().map(|byte| b'a' + byte % 26).collect());
            let data = data.unwrap();
            let pieces = data.as_bytes().chunks(1000);
            // Where nothing of the answer was written, it is 500; else the answer is cut.
            let requests = [
                (post("/head", "x"), true),
                (post("/begun", "x"), false),
                (get("/source"), false),
                (post("/plan", "x"), true),
                (post_chunked("/upload", &"1\r\nx\r\n".repeat(4)), true),
                (post("/end", "x"), true),
            ];
            let mut panics = 0;
            for ((n, piece), (request, is_unsent)) in pieces.enumerate().zip(requests.iter().cycle()) {
                let mut client = connect_to(address);
                // What was answered before it is sent; what comes after it is nobody's business any more.
                client.send(get("/first").repeat(3) + request + &get("/last"));
                for _ in 0..3 {
                    assert_eq!(receive(&mut client).status, 200, "{n}");
                }
                let answer = client.rest();
                let status: &[u8] = if *is_unsent { b"HTTP/1.1 500 " } else { b"HTTP/1.1 200 " };
                assert!(answer.starts_with(status), "{n}: {}", show(&answer));
                let heads = answer.windows(7).filter(|bytes| *bytes == b"HTTP/1.").count();
                assert_eq!(heads, 1, "{n}: {}", show(&answer));
                panics += 1;
                eventually(panics, || total(&running).panics);
                uploader.send(piece);
                let body = format!("{n} is well");
                other.send(post("/collect", &body));
                assert_eq!(receive(&mut other).text(), body);
            }
            assert_eq!(panics as usize, ROUNDS * requests.len());
            assert_eq!(receive(&mut uploader).text(), data);
            drop((other, uploader));
            traces.expect_none(&running);
        });
    });
}
