//! HTTP/1.1 over real sockets, on both drivers: raw request bytes in, exact reply bytes out.
//! Refusals, limits and timeouts are in `http_errors.rs`, the routes of the `ringmill` binary in `serve.rs`; rules
//! of the parsers, case by case, in their own files.

mod common;

use common::http::*;
use common::site::{check_refused, on_a_site, start, start_with};
use common::{
    Client, PATIENCE, connect_to, eventually, expect_pattern, on_both_drivers, pattern, settled, show,
};
use ringmill::http::{self, Limits};
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Barrier};

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
fn a_source_that_waits_is_woken_and_one_that_falls_short_is_cut() {
    on_a_site(|address| {
        let mut client = connect_to(address);
        for _ in 0..20 {
            client.send(get("/slow") + &get("/hello"));
            assert_eq!(receive(&mut client).body, [0, 1, 2]);
            assert_eq!(receive(&mut client).text(), "hello");
        }
        client.send(get("/short"));
        let received = client.rest();
        assert!(
            received.ends_with(b"\r\n\r\n\0\x01\x02\x03\x04") && received.len() < 300,
            "{}",
            show(&received)
        );
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
        check("/trailers", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "x-sum: 1\r\n");
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

#[test]
fn a_drain_answers_all_that_has_arrived_and_closes_with_the_last() {
    const REQUESTS: usize = 16;
    on_both_drivers(|driver| {
        // Long enough for this test, however busy the machine is.
        let limits = Limits { drain_grace: PATIENCE, ..Limits::default() };
        let (running, address) = common::site::start(driver, limits);
        let mut client = connect_to(address);
        client.ask(get("/hello"), "HTTP/1.1 200 OK\r\n");
        running.handle().drain(PATIENCE);
        eventually(true, || TcpStream::connect(address).is_err());
        client.send(get("/hello").repeat(REQUESTS));
        // The reply of which the start was read before.
        let answers = String::from_utf8(client.rest()).unwrap();
        assert_eq!(answers.matches("\r\n\r\nhello").count(), 1 + REQUESTS, "{answers}");
        let close = answers.find("connection: close\r\n").expect("the last reply says so");
        assert_eq!(answers[close..].matches("hello").count(), 1, "{answers}");
    });
}

#[test]
fn a_drain_serves_those_who_had_connected_before_it() {
    on_both_drivers(|driver| {
        // The worker stands still in a handler while others connect, send, and the drain is ordered.
        let gate = Arc::new(Barrier::new(2));
        let handler_gate = gate.clone();
        let running = common::start(common::config(driver), move |_| {
            let gate = handler_gate.clone();
            http::server(move |request, reply| {
                if request.path() == "/gate" {
                    gate.wait();
                    gate.wait();
                }
                reply.text("hello");
            })
        });
        let mut first = common::connect(&running);
        first.send(get("/gate"));
        gate.wait();
        let mut waiting: Vec<TcpStream> = (0..200).map(|_| common::connect(&running)).collect();
        for client in &mut waiting {
            client.send(get("/hello"));
        }
        running.handle().drain(PATIENCE);
        gate.wait();
        waiting.push(first);
        let answers: Vec<bool> = waiting
            .into_iter()
            .map(|mut client| {
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).is_ok() && answer.ends_with(b"hello")
            })
            .collect();
        let lost = answers.iter().filter(|answered| !**answered).count();
        assert_eq!(lost, 0, "so many of {} were connected, had asked, and got no answer", answers.len());
        running.join().unwrap();
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
