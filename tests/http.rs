//! HTTP/1.1 over real sockets, on both drivers: raw request bytes in, exact reply bytes out.
//! The routes of the `ringmill` binary are in `serve.rs`; rules of the parsers, case by case, are in their files.

mod common;

use common::http::*;
use common::{Client, connect_to, eventually, expect_pattern, ip, on_both_drivers, pattern, settled, show};
use ringmill::http::{
    BodyLimits, BodyWriter, Fill, Handler, HeadLimits, Limits, Method, Plan, Reply, Request, Server, Source,
    Upload,
};
use ringmill::{Config, DriverChoice, Running, WorkerContext};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

/// A server with something for each test.
struct Site;

impl Handler for Site {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        let number = |prefix| request.path().strip_prefix(prefix).and_then(|rest| rest.parse::<usize>().ok());
        match request.path() {
            "/hello" => reply.text("hello"),
            "/json" => reply.json(b"{}"),
            "/collect" => reply.content_type("text/plain").body(request.body()),
            "/trailers" => reply.content_type("text/plain").body(request.trailers()),
            "/echo" => reply.empty(),
            "/target" => reply.text(&format!(
                "{} {} {} {:?} {:?}",
                request.method().as_str(),
                request.target(),
                request.path(),
                request.query(),
                request.host()
            )),
            "*" => reply.status(204).field("allow", "GET").empty(),
            "/close" => reply.close().text("closing"),
            "/split" => reply.field("x-a", "b\r\nx-c: d").field("x-e", "f").text("whole"),
            "/teapot" => reply.status(418).text("short and stout"),
            "/unchanged" => reply.status(304).field("etag", "\"1\"").body(b"not sent"),
            "/panic" => panic!("as asked"),
            "/panic-source" => reply.stream(None, Panics),
            "/short" => reply.stream(Some(10), Pattern { at: 0, end: 5, waits: false }),
            "/slow" => reply.stream(None, Pattern { at: 0, end: 3, waits: true }),
            _ => match (number("/bytes/"), number("/chunked/")) {
                (Some(end), _) => reply.stream(Some(end as u64), Pattern { at: 0, end, waits: false }),
                (_, Some(end)) => reply.stream(None, Pattern { at: 0, end, waits: false }),
                _ => reply.status(404).text("nothing"),
            },
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match (request.path(), request.method()) {
            ("/echo", _) => Plan::Stream(Box::new(Back { length: request.body_length(), begun: false })),
            ("/early", Method::Post) => Plan::Stream(Box::new(Early)),
            ("/panic-upload", _) => Plan::Stream(Box::new(Panics)),
            ("/small", _) => Plan::CollectUpTo(10),
            ("/small-stream", _) => Plan::StreamUpTo(10, Box::new(Back { length: None, begun: false })),
            _ => Plan::Collect,
        }
    }
}

/// The pattern from `at` to `end`; one byte at a time and only when woken, if it waits.
struct Pattern {
    at: usize,
    end: usize,
    waits: bool,
}

impl Source for Pattern {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        let bytes = if self.waits { 1 } else { body.room_bytes().min(10_000) };
        let bytes = bytes.min(self.end - self.at);
        body.write(&pattern(self.at, bytes));
        self.at += bytes;
        if self.at == self.end {
            return Fill::End;
        }
        if self.waits {
            let waker = body.waker();
            std::thread::spawn(move || waker.wake());
            return Fill::Pending;
        }
        Fill::More
    }
}

/// Sends the body back as it comes.
struct Back {
    length: Option<u64>,
    begun: bool,
}

impl Upload for Back {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        if !std::mem::replace(&mut self.begun, true) {
            reply.content_type("text/plain").begin(self.length);
        }
        reply.write(bytes);
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        if self.begun { reply.end() } else { reply.empty() }
    }
}

/// Answers before the body is there.
struct Early;

impl Upload for Early {
    fn chunk(&mut self, _: &[u8], reply: &mut Reply<'_>) {
        reply.status(403).text("no need for more");
    }

    fn end(self: Box<Self>, _: &mut Reply<'_>) {}
}

struct Panics;

impl Source for Panics {
    fn fill(&mut self, _: &mut BodyWriter<'_>) -> Fill {
        panic!("as asked");
    }
}

impl Upload for Panics {
    fn chunk(&mut self, _: &[u8], _: &mut Reply<'_>) {
        panic!("as asked");
    }

    fn end(self: Box<Self>, _: &mut Reply<'_>) {}
}

fn start(driver: DriverChoice, limits: Limits) -> (Running, SocketAddr) {
    start_with(common::config(driver), limits)
}

fn start_with(config: Config, limits: Limits) -> (Running, SocketAddr) {
    let running =
        common::start(config, move |_: &WorkerContext| Server::new(Site).with_limits(limits.clone()));
    let address = ip(&running.addresses()[0]);
    (running, address)
}

/// Calls `test` with a server of default limits, on each driver.
fn on_a_site(test: impl Fn(SocketAddr)) {
    on_both_drivers(|driver| {
        let (_running, address) = start(driver, Limits::default());
        test(address);
    });
}

#[test]
fn simple_requests_get_exact_replies() {
    on_a_site(|address| {
        let check = |request: &str, expected: String| check(address, request, expected);
        let text = "content-type: text/plain\r\ncontent-length: ";
        check(&get("/hello"), ok("hello"));
        check(&get("/json"), ok_as("application/json", "{}"));
        check(&post("/collect", "body"), ok("body"));
        check(&post("/collect", ""), ok(""));
        check(&format!("\r\n{}", get("/hello")), ok("hello"));
        check(&get("/nowhere"), reply("404 Not Found", &format!("{text}7\r\n"), "nothing"));
        check(&get("/teapot"), reply("418 ", &format!("{text}15\r\n"), "short and stout"));
        check(&get("/split"), reply("200 OK", &format!("x-e: f\r\n{text}5\r\n"), "whole"));
        check(&get("/unchanged"), reply("304 Not Modified", "etag: \"1\"\r\ncontent-length: 8\r\n", ""));
        check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", reply("204 No Content", "allow: GET\r\n", ""));
        check(
            "PURGE /target?a=%20&b HTTP/1.1\r\nhOsT: a:80\r\n\r\n",
            ok("PURGE /target?a=%20&b /target Some(\"a=%20&b\") Some(\"a:80\")"),
        );
        check(
            "GET http://a.example/target HTTP/1.1\r\nHost: a.example\r\n\r\n",
            ok("GET http://a.example/target /target None Some(\"a.example\")"),
        );
    });
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    on_a_site(|address| {
        for target in ["/hello", "/json", "/bytes/100000", "/chunked/100000", "/nowhere"] {
            let full = exchange(address, get(target));
            let head = full.split_inclusive("\r\n\r\n").next().unwrap();
            let twice = get(target).replace("GET", "HEAD").repeat(2);
            check(address, twice, head.repeat(2));
        }
    });
}

#[test]
fn connections_stay_open_as_the_version_and_the_fields_say() {
    on_a_site(|address| {
        let check = |version: &str, fields: &str, stays: bool, says: &str| {
            let mut client = connect_to(address);
            let request = format!("GET /hello {version}\r\nHost: a\r\n{fields}\r\n");
            let text = format!("content-type: text/plain\r\ncontent-length: 5\r\n{says}");
            for _ in 0..3 {
                client.send(&request);
                let head = receive_head(&mut client);
                assert_eq!(head.head, reply("200 OK", &text, ""), "{version} {fields}");
                client.expect("hello");
                if !stays {
                    return client.expect_eof();
                }
            }
        };
        check("HTTP/1.1", "", true, "");
        check("HTTP/1.1", "Connection: keep-alive\r\n", true, "");
        check("HTTP/1.1", "Connection: close\r\n", false, "connection: close\r\n");
        check("HTTP/1.1", "Connection: x, CLOSE\r\n", false, "connection: close\r\n");
        check("HTTP/1.1", "Connection: x\r\nConnection: close\r\n", false, "connection: close\r\n");
        check("HTTP/1.0", "", false, "connection: close\r\n");
        check("HTTP/1.0", "Connection: Keep-Alive\r\n", true, "connection: keep-alive\r\n");
        check("HTTP/1.0", "Connection: keep-alive, close\r\n", false, "connection: close\r\n");
    });
}

#[test]
fn nothing_is_answered_after_a_close() {
    on_a_site(|address| {
        let closing = "content-type: text/plain\r\ncontent-length: 7\r\nconnection: close\r\n";
        let expected = reply("200 OK", closing, "closing");
        check(address, get("/close") + &get("/hello") + &get("/hello"), expected);
    });
    on_both_drivers(|driver| {
        let (_running, address) = start(driver, Limits { requests_max: Some(2), ..Limits::default() });
        let last = ok("hello").replace("5\r\n", "5\r\nconnection: close\r\n");
        check(address, get("/hello").repeat(5), ok("hello") + &last);
    });
}

#[test]
fn a_streamed_reply_is_chunked_or_sized_or_ends_with_a_1_0_connection() {
    on_a_site(|address| {
        let mut client = connect_to(address);
        for bytes in [0, 1, 9_999, 1_000_000] {
            client.send(get(&format!("/chunked/{bytes}")));
            let chunked = receive(&mut client);
            assert_eq!(chunked.head, reply("200 OK", "transfer-encoding: chunked\r\n", ""));
            assert!(chunked.body == pattern(0, bytes), "{bytes} bytes in chunks");
            client.send(get(&format!("/bytes/{bytes}")));
            let sized = receive(&mut client);
            assert_eq!(sized.head, reply("200 OK", &format!("content-length: {bytes}\r\n"), ""));
            assert!(sized.body == pattern(0, bytes), "{bytes} bytes at once");
        }
        client.send("GET /chunked/100000 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let head = receive_head(&mut client);
        assert_eq!(head.head, reply("200 OK", "connection: close\r\n", ""));
        expect_pattern(&mut client, 100_000, 5_000);
        client.expect_eof();
    });
}

#[test]
fn a_source_that_waits_is_woken_and_one_that_falls_short_resets() {
    on_a_site(|address| {
        let mut client = connect_to(address);
        for _ in 0..20 {
            client.send(get("/slow") + &get("/hello"));
            assert_eq!(receive(&mut client).body, [0, 1, 2]);
            assert_eq!(receive(&mut client).text(), "hello");
        }
        client.send(get("/short"));
        let received = client.expect_reset();
        assert!(received.len() < 300, "{}", show(&received));
    });
}

#[test]
fn a_hundred_pipelined_requests_are_answered_in_order() {
    on_a_site(|address| {
        let (mut input, mut expected) = (String::new(), String::new());
        for n in 0..100 {
            let body = format!("body {n}");
            let chunks =
                format!("3;x=y\r\nbod\r\n1\r\ny\r\n{:x}\r\n {n}\r\n0\r\n\r\n", format!(" {n}").len());
            let chunked = |body: &str| format!("6\r\n{body}\r\n0\r\n\r\n");
            let (request, answer) = match n % 7 {
                0 => (get("/hello"), ok("hello")),
                1 => (post("/collect", &body), ok(&body)),
                2 => (post_chunked("/collect", &chunks), ok(&body)),
                3 => (get("/hello").replace("GET", "HEAD"), ok("hello").replace("\r\nhello", "\r\n")),
                4 => (post("/echo", &body), ok(&body)),
                5 => {
                    let fields = "transfer-encoding: chunked\r\n";
                    (get("/chunked/6"), reply("200 OK", fields, &chunked("\0\x01\x02\x03\x04\x05")))
                }
                _ => {
                    (get("/unchanged"), reply("304 Not Modified", "etag: \"1\"\r\ncontent-length: 8\r\n", ""))
                }
            };
            input += &request;
            expected += &answer;
        }
        check(address, &input, &expected);
        let mut client = connect_to(address);
        for byte in input.as_bytes() {
            client.send([*byte]);
        }
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(undated(&client.rest()), expected, "byte by byte");
    });
}

#[test]
fn pipelined_replies_beyond_the_output_limit_wait_for_the_reader() {
    const REQUESTS: usize = 300;
    on_a_site(|address| {
        let mut client = common::connect_narrow(address, 16 * 1024);
        let mut writer = client.try_clone().unwrap();
        let writing = std::thread::spawn(move || writer.send(get("/bytes/50000").repeat(REQUESTS)));
        for n in 0..REQUESTS {
            assert!(receive(&mut client).body == pattern(0, 50_000), "reply {n}");
        }
        writing.join().unwrap();
    });
}

#[test]
fn chunked_uploads_are_decoded() {
    on_a_site(|address| {
        let check = |target: &str, chunks: &str, body: &str| {
            check(address, post_chunked(target, chunks) + &get("/hello"), ok(body) + &ok("hello"));
        };
        check("/collect", "0\r\n\r\n", "");
        check("/collect", "5\r\nhello\r\n0\r\n\r\n", "hello");
        check("/collect", "A\r\n0123456789\r\na\r\n0123456789\r\n00\r\n\r\n", "01234567890123456789");
        check("/collect", "5;a;b=c;d=\"e;\\\"\"\r\nhello\r\n0;z\r\n\r\n", "hello");
        check("/collect", "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", "hello");
        check("/trailers", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "X-Sum: 1\r\n");
    });
}

#[test]
fn an_echo_streams_both_ways() {
    const BYTES: usize = 8_000_000;
    on_a_site(|address| {
        for chunked in [false, true] {
            let mut client = connect_to(address);
            let mut writer = client.try_clone().unwrap();
            let writing = std::thread::spawn(move || {
                let framing = if chunked {
                    "Transfer-Encoding: chunked".to_owned()
                } else {
                    format!("Content-Length: {BYTES}")
                };
                writer.send(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
                for at in (0..BYTES).step_by(40_000) {
                    let data = pattern(at, 40_000);
                    if chunked {
                        writer.send(b"9c40\r\n");
                        writer.send(data);
                        writer.send(b"\r\n");
                    } else {
                        writer.send(data);
                    }
                }
                writer.send(if chunked { "0\r\n\r\n".to_owned() + &get("/hello") } else { get("/hello") });
            });
            let received = receive(&mut client);
            assert_eq!(received.field("content-length").is_some(), !chunked);
            assert!(received.body == pattern(0, BYTES), "{} bytes", received.body.len());
            assert_eq!(receive(&mut client).text(), "hello");
            writing.join().unwrap();
        }
    });
}

#[test]
fn a_large_download_reaches_a_slow_reader_whole() {
    const BYTES: usize = 20_000_000;
    on_both_drivers(|driver| {
        let (running, address) = start(driver, Limits::default());
        let mut client = common::connect_narrow(address, 32 * 1024);
        client.send(get(&format!("/bytes/{BYTES}")));
        // It is made as it is read: not at once.
        let made = settled(|| running.stats().total().sent_bytes);
        assert!(made < BYTES as u64, "the server sent {made} bytes to nobody");
        assert_eq!(receive_head(&mut client).status, 200);
        expect_pattern(&mut client, BYTES, 10_000);
        client.send(get("/hello"));
        assert_eq!(receive(&mut client).text(), "hello");
    });
}

#[test]
fn after_a_half_close_the_answer_still_comes() {
    on_a_site(|address| {
        let mut client = connect_to(address);
        client.send(get("/bytes/5000000"));
        client.shutdown(Shutdown::Write).unwrap();
        assert!(receive(&mut client).body == pattern(0, 5_000_000));
        client.expect_eof();
        // The end in the middle of a request is no request.
        check(address, "GET /hello HTTP/1.1\r\nHost: a\r\n", "");
        check(address, "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell", "");
        check(address, post_chunked("/collect", "5\r\nhello\r\n"), "");
        check(address, "", "");
    });
}

#[test]
fn a_client_that_expects_100_is_told_to_go_on() {
    on_a_site(|address| {
        let head = |path: &str, fields: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\n{fields}\r\n")
        };
        let mut client = connect_to(address);
        for (path, fields, body) in [
            ("/collect", "Content-Length: 5\r\n", "hello"),
            ("/echo", "Content-Length: 5\r\n", "hello"),
            ("/collect", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ] {
            client.ask(head(path, fields), "HTTP/1.1 100 Continue\r\n\r\n");
            client.send(body);
            let received = receive(&mut client);
            assert_eq!((received.status, received.text()), (200, "hello"), "{path} {fields}");
        }
        // No 100 when the body, or some of it, is there; when there is none; when the answer is final already.
        check(address, head("/collect", "Content-Length: 5\r\n") + "hello", ok("hello"));
        check(address, head("/collect", "Content-Length: 0\r\n"), ok(""));
        check(address, head("/hello", "").replace("POST", "GET"), ok("hello"));
        check_refused(address, head("/small", "Content-Length: 11\r\n"), 413);
        check_refused(
            address,
            head("/collect", "Content-Length: 5\r\n").replace("100-Continue", "200-ok"),
            417,
        );
        // HTTP/1.0 knows no expectations (RFC 9110 section 10.1.1).
        let old = head("/collect", "Content-Length: 5\r\n").replace("HTTP/1.1", "HTTP/1.0");
        let closing = ok("hello").replace("5\r\n", "5\r\nconnection: close\r\n");
        check(address, old + "hello", closing);
    });
}

/// The server answers with this error, says that it closes, does so, and answers nothing that comes after.
#[track_caller]
fn check_refused(address: SocketAddr, request: impl AsRef<[u8]>, status: u16) {
    let request = request.as_ref();
    let answer = exchange(address, [request, get("/hello").as_bytes()].concat());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let length = format!("content-length: {}", body.len());
    let good = head.starts_with(&format!("HTTP/1.1 {status} "))
        && head.lines().any(|line| line == length)
        && head.lines().any(|line| line == "connection: close")
        && body.starts_with(&format!("{status} "))
        && answer.matches("server: ringmill").count() == 1;
    assert!(good, "asked {}, expected {status}, received {}", show(request), show(answer.as_bytes()));
}

#[test]
fn what_could_smuggle_a_request_is_refused() {
    on_a_site(|address| {
        let fields = |fields: &str| {
            check_refused(
                address,
                format!("POST /collect HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n"),
                400,
            );
        };
        fields("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
        fields("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n");
        fields("Content-Length: 5\r\nContent-Length: 5\r\n");
        fields("Content-Length: 5\r\nContent-Length: 6\r\n");
        for length in ["", "+5", "-5", "5,5", "0x5", "5 5", "5.0", "99999999999999999999"] {
            fields(&format!("Content-Length: {length}\r\n"));
        }
        for coding in ["", "xchunked", "chunked, chunked", "chunked, gzip", "gzip", "identity", "chunked,"] {
            fields(&format!("Transfer-Encoding: {coding}\r\n"));
        }
        fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
        fields("Transfer-Encoding : chunked\r\n");
        fields(" Transfer-Encoding: chunked\r\n");
        fields("X: a\r\n folded\r\n");
        fields("X: a\rTransfer-Encoding: chunked\r\n");
        fields("X: a\nTransfer-Encoding: chunked\r\n");
        fields("X: a\0b\r\n");
        fields("X Y: a\r\n");
        fields(": a\r\n");
        fields("X\r\n");
        fields("Host: b\r\n");
        check_refused(
            address,
            "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            501,
        );
        check_refused(
            address,
            "POST /collect HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        );
        for chunks in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5;\r\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5;a=\"\0\"\r\nhello\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "00000000000000005\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\nX: y\n\r\n",
            "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
            "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "5\r\nhello\r\n0\r\n folded\r\n\r\n",
        ] {
            check_refused(address, post_chunked("/collect", chunks), 400);
        }
    });
}

#[test]
fn malformed_requests_are_refused() {
    on_a_site(|address| {
        let check = |line: &str, host: &str, status: u16| {
            check_refused(address, format!("{line}\r\n{host}\r\n"), status);
        };
        let host = "Host: a\r\n";
        check("GET /hello HTTP/1.1", "", 400);
        for bad in ["", "a b", "a,b", "a/b", "u@a", "a:b", "[::1", ":80"] {
            check("GET /hello HTTP/1.1", &format!("Host: {bad}\r\n"), 400);
        }
        check("GET /hello", host, 400);
        check("GET  /hello HTTP/1.1", host, 400);
        check("GET /hello  HTTP/1.1", host, 400);
        check("GET /hello HTTP/1.1 ", host, 400);
        check("GET /hello http/1.1", host, 400);
        check("GET /hel\u{e4}lo HTTP/1.1", host, 400);
        check("GET /hello#part HTTP/1.1", host, 400);
        check("GET hello HTTP/1.1", host, 400);
        check("GET * HTTP/1.1", host, 400);
        check("GET a:80 HTTP/1.1", host, 400);
        check("GET ftp://a/hello HTTP/1.1", host, 400);
        check("GET http://b/hello HTTP/1.1", host, 400);
        check("G@T /hello HTTP/1.1", host, 400);
        check("\r\n\r\nGET /hello HTTP/1.1", host, 400);
        check("CONNECT a:80 HTTP/1.1", host, 501);
        check("CONNECT /hello HTTP/1.1", host, 400);
        check("GET /hello HTTP/2.0", host, 505);
        check("GET /hello HTTP/1.2", host, 505);
        check("\u{16}\u{3}\u{1}\u{2}", "", 400);
    });
}

#[test]
fn limits_have_answers_of_their_own() {
    on_both_drivers(|driver| {
        let head = HeadLimits { request_line_bytes_max: 100, head_bytes_max: 1000, fields_max: 10 };
        let body = BodyLimits { framing_bytes_max: 100 };
        let (_running, address) =
            start(driver, Limits { head, body, body_bytes_max: 1000, ..Limits::default() });
        let with = |fields: String| format!("GET /hello HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
        let small = "B\r\nhello world\r\n0\r\n\r\n";
        check(address, with("A: b\r\n".repeat(9)), ok("hello"));
        check(address, post("/collect", &"x".repeat(1000)), ok(&"x".repeat(1000)));
        check_refused(address, get(&format!("/{}", "x".repeat(100))), 414);
        check_refused(address, with("A: b\r\n".repeat(10)), 431);
        check_refused(address, with(format!("A: {}\r\n", "b".repeat(1000))), 431);
        check_refused(
            address,
            post_chunked("/collect", &format!("1;{}\r\nx\r\n0\r\n\r\n", "y".repeat(100))),
            400,
        );
        check_refused(
            address,
            post_chunked("/collect", &format!("0\r\nX: {}\r\n\r\n", "y".repeat(100))),
            400,
        );
        check_refused(address, post("/collect", &"x".repeat(1001)), 413);
        check_refused(address, post_chunked("/collect", &format!("{chunk}{chunk}0\r\n\r\n")), 413);
        check_refused(address, post("/small", "hello world"), 413);
        check_refused(address, post_chunked("/small", small), 413);
        check_refused(address, post("/small-stream", "hello world"), 413);
        check_refused(address, post_chunked("/small-stream", small), 413);
        check_refused(address, post("/collect", "").replace("0\r\n", "18446744073709551615\r\n"), 413);
    });
}

#[test]
fn errors_reach_a_client_that_is_still_sending() {
    const BYTES: usize = 16_000_000;
    on_a_site(|address| {
        let check = |head: &str, piece: &str, status: u16| {
            let mut client = connect_to(address);
            client.send(format!("{head}\r\n\r\n"));
            for _ in 0..BYTES / 16_000 {
                // Nothing is read meanwhile: a server that closed at once would answer this with a reset.
                client.send(piece);
            }
            assert_eq!(receive(&mut client).status, status, "{head}");
            client.expect_eof();
        };
        let data = "x".repeat(16_000);
        let chunk = format!("3e80\r\n{data}\r\n");
        let sized = format!("POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}");
        let chunked = "POST /collect HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked";
        check(&sized, &data, 413);
        check(chunked, &chunk, 413);
        check(&sized.replace("/collect", "/early"), &data, 403);
        check(&sized.replace("Host", "H ost"), &data, 400);
        check("CONNECT a:80 HTTP/1.1\r\nHost: a", &data, 501);
    });
}

#[test]
fn slow_heads_bodies_and_idle_connections_are_timed_out() {
    let short = Duration::from_millis(300);
    on_both_drivers(|driver| {
        let check = |limits: Limits, requests: &str, replies: usize, last: Option<u16>| {
            let (running, address) = start(driver, limits);
            let mut client = connect_to(address);
            client.send(requests);
            for _ in 0..replies {
                assert_eq!(receive(&mut client).status, 200);
            }
            if let Some(status) = last {
                let received = receive(&mut client);
                assert_eq!((received.status, received.field("connection")), (status, Some("close")));
            }
            client.expect_eof();
            eventually(1, || running.stats().total().timeouts);
        };
        let head = || Limits { head_timeout: short, ..Limits::default() };
        let body = || Limits { body_idle_timeout: short, ..Limits::default() };
        let idle = || Limits { keep_alive_timeout: short, ..Limits::default() };
        check(head(), "GET /hello HTTP/1.1\r\nHost: a\r\n", 0, Some(408));
        check(head(), &(get("/hello") + "G"), 1, Some(408));
        check(body(), "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell", 0, None);
        check(body(), &post_chunked("/echo", ""), 0, None);
        check(idle(), "", 0, None);
        check(idle(), &get("/hello"), 1, None);
        check(idle(), &(get("/chunked/100000") + &post("/echo", "x")), 2, None);
    });
}

#[test]
fn a_head_that_drips_is_timed_out_all_the_same() {
    on_both_drivers(|driver| {
        let limits = Limits { head_timeout: Duration::from_millis(300), ..Limits::default() };
        let (running, address) = start(driver, limits);
        let mut client = connect_to(address);
        client.send("GET /hello HTTP/1.1\r\nHost: a\r\nX: ");
        eventually(1, || {
            // About 50 bytes a second, where 256 would do. It may be over while this is being sent.
            let _ = client.write(b"x");
            std::thread::sleep(Duration::from_millis(20));
            running.stats().total().timeouts
        });
        assert_eq!(receive(&mut client).status, 408);
    });
}

#[test]
fn a_client_that_does_not_read_its_echo_for_a_while_is_not_an_idle_one() {
    const BYTES: usize = 12_000_000;
    on_both_drivers(|driver| {
        let short = Duration::from_millis(200);
        let limits = Limits { body_idle_timeout: short, keep_alive_timeout: short, ..Limits::default() };
        let (running, address) = start(driver, limits);
        let mut client = common::connect_narrow(address, 32 * 1024);
        let mut writer = client.try_clone().unwrap();
        let head = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n");
        let writing = std::thread::spawn(move || {
            // A failure shows at the reading end.
            let _ = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&pattern(0, BYTES)));
        });
        eventually(true, || running.stats().total().received_bytes > 0);
        // Longer than the timeouts: but it is the server that does not read on.
        settled(|| running.stats().total().received_bytes);
        assert_eq!(receive_head(&mut client).status, 200);
        expect_pattern(&mut client, BYTES, 50_000);
        writing.join().unwrap();
    });
}

#[test]
fn a_panic_closes_its_own_connection_only() {
    on_both_drivers(|driver| {
        let (running, address) = start(driver, Limits::default());
        let mut other = connect_to(address);
        let targets = ["/panic", "/panic-source", "/panic-upload"];
        for (n, request) in targets.map(|target| post(target, "x")).iter().enumerate() {
            let mut client = connect_to(address);
            client.send(request);
            assert_eq!(client.expect_reset(), b"", "{request}");
            eventually(n as u64 + 1, || running.stats().total().panics);
            other.send(get("/hello"));
            assert_eq!(receive(&mut other).text(), "hello");
        }
    });
}

#[test]
fn requests_are_counted() {
    on_both_drivers(|driver| {
        let (running, address) = start_with(common::config(driver).with_workers(2), Limits::default());
        let clients: Vec<_> = (0..20)
            .map(|n| {
                std::thread::spawn(move || check(address, get("/hello").repeat(n), ok("hello").repeat(n)))
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        eventually((190, 20, 20), || {
            let total = running.stats().total();
            (total.requests, total.accepted, total.closed)
        });
    });
}
