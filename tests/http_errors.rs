//! HTTP/1.1 over real sockets, on both drivers: what is refused, what is too much, too slow, or panics.

mod common;

use common::http::*;
use common::site::{check_refused, on_a_site, start};
use common::{Client, connect_to, eventually, expect_pattern, on_both_drivers, pattern, settled};
use ringmill::http::{BodyLimits, HeadLimits, Limits};
use std::io::Write;
use std::time::Duration;

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
        // Short, and yet longer than the writer below can be kept from its CPU.
        let short = Duration::from_secs(1);
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
        std::thread::sleep(short);
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
            client.send(get("/hello").repeat(3) + request);
            for _ in 0..3 {
                assert_eq!(receive(&mut client).text(), "hello", "{request}");
            }
            // A source is asked only when the head is written: then the reply is cut.
            let last = if request.contains("source") { 200 } else { 500 };
            assert_eq!(receive_head(&mut client).status, last, "{request}");
            let rest = client.rest();
            assert!(last == 500 || rest.is_empty(), "{request}: {}", rest.escape_ascii());
            eventually(n as u64 + 1, || running.stats().total().panics);
            other.send(get("/hello"));
            assert_eq!(receive(&mut other).text(), "hello");
        }
    });
}
