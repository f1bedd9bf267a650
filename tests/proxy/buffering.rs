//! Bodies that come before their requests are given to an upstream: who sends slowly holds no connection with one.

use super::{config, expect_own, serve, two};
use crate::common::http::{get, post, post_chunked, receive, receive_head};
use crate::common::upstream::Upstream;
use crate::common::*;
use ringmill::DriverChoice;
use ringmill::http::Limits;
use ringmill::proxy::ProxyConfig;
use std::net::Shutdown;
use std::time::Duration;

const HEAD: &str = "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n";

/// One connection for all, and bodies up to so many bytes come first.
fn narrow(upstream: &Upstream, buffer_bytes: usize) -> ProxyConfig {
    ProxyConfig { connections_max: 1, queue_timeout: PATIENCE, buffer_bytes, ..config(upstream) }
}

#[test]
fn a_client_that_sends_slowly_holds_no_connection() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let running = serve(driver, narrow(&upstream, 1000));
        let begun: [String; 3] = [
            format!("{HEAD}\r\nabc"),
            "POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".to_owned(),
            // The upstream hears nothing yet, so it is the proxy that says so.
            format!("{HEAD}Expect: 100-continue\r\n\r\n"),
        ];
        let rests = [
            ("def", "abcdef"),
            ("3\r\ndef\r\n0\r\n\r\n", "3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"),
            ("abcdef", "abcdef"),
        ];
        let mut slow: Vec<_> = begun
            .iter()
            .map(|begun| {
                let mut client = connect(&running);
                client.send(begun);
                client
            })
            .collect();
        slow[2].expect("HTTP/1.1 100 Continue\r\n\r\n");
        eventually(3, || running.stats().total().requests);
        for n in 0..3 {
            expect_own(&mut connect(&running), &format!("/{n}"));
        }
        assert_eq!(upstream.accepted(), 1);
        upstream.forget_asked();
        for (client, (rest, body)) in slow.iter_mut().zip(rests) {
            client.send(rest);
            assert_eq!(receive(client).text(), format!("/slow {body}"));
            let asked = upstream.asked();
            assert!(!asked.contains("expect") && asked.ends_with(&format!("\r\n\r\n{body}")), "{asked}");
            // The connection goes on.
            expect_own(client, "/next");
            upstream.forget_asked();
        }
        assert_eq!(upstream.accepted(), 1);
    });
}

#[test]
fn a_client_of_http2_that_sends_slowly_holds_no_connection() {
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let running = serve(driver, narrow(&upstream, 1000));
        let reply = two::post_in_halves(&running, ("abc", "def"), || {
            eventually(1, || running.stats().total().requests);
            expect_own(&mut connect(&running), "/other");
        });
        assert_eq!(reply, "/slow 3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n");
        assert_eq!(upstream.accepted(), 1);
    });
}

#[test]
fn a_longer_body_streams_from_there_on() {
    const BYTES: usize = 1 << 20;
    on_both_drivers(|driver| {
        for buffer_bytes in [10, 100_000, 300_000] {
            let upstream = Upstream::new(|line| {
                // Before its body is whole.
                line.head().unwrap();
                line.send("HTTP/1.1 103 Hints\r\n\r\n");
                for expected in pattern(0, BYTES) {
                    assert_eq!(line.byte(), Some(expected));
                }
                line.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                line.wait_for_end();
            });
            let running = serve(driver, narrow(&upstream, buffer_bytes));
            let mut client = connect(&running);
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BYTES}\r\n\r\n"));
            let body = pattern(0, BYTES);
            client.send(&body[..buffer_bytes - 1]);
            eventually(1, || running.stats().total().requests);
            upstream.expect_silence();
            assert_eq!(upstream.accepted(), 0);
            client.send(&body[buffer_bytes - 1..buffer_bytes]);
            assert_eq!(receive_head(&mut client).status, 103);
            client.send(&body[buffer_bytes..]);
            assert_eq!(receive(&mut client).status, 200);
        }
    });
}

#[test]
fn what_is_wrong_with_a_body_is_said_before_an_upstream_hears_of_it() {
    fn check(driver: DriverChoice, max: ProxyConfig, upstream: &Upstream, input: &str, status: u16) {
        let running = serve(driver, max);
        let mut client = connect(&running);
        client.send(input);
        assert_eq!(receive(&mut client).status, status, "{input}");
        client.rest();
        // It would wait for this end.
        drop(client);
        assert_eq!(upstream.accepted(), 0);
        eventually(0, || running.stats().total().connections);
    }
    on_both_drivers(|driver| {
        let upstream = Upstream::honest();
        let buffered = || ProxyConfig { body_bytes_max: 5, ..narrow(&upstream, 1000) };
        check(driver, buffered(), &upstream, &post_chunked("/", "3\r\nabc\r\n3\r\nabc\r\n"), 413);
        check(driver, buffered(), &upstream, &post("/", "abcdef"), 413);
        check(driver, buffered(), &upstream, &post_chunked("/", "3\r\nabc\r\n0x1\r\n"), 400);
        let body_idle_timeout = Duration::from_millis(100);
        let limits = Limits { body_idle_timeout, ..Limits::default() };
        check(
            driver,
            ProxyConfig { limits, ..buffered() },
            &upstream,
            &post_chunked("/", "3\r\nabc\r\n"),
            408,
        );
        // One that leaves takes its request along.
        let running = serve(driver, buffered());
        let mut client = connect(&running);
        client.send(post_chunked("/", "3\r\nabc\r\n"));
        eventually(1, || running.stats().total().requests);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest(), b"");
        assert_eq!(upstream.accepted(), 0);
    });
}

/// What is kept for another attempt is what came first.
#[test]
fn a_body_that_came_first_is_sent_again_where_its_request_may_be() {
    on_both_drivers(|driver| {
        let upstream = Upstream::new(|line| {
            line.answer_honestly();
            if line.number > 0 {
                while line.answer_honestly() {}
            } else {
                // A kept connection that ends with what it is asked next.
                line.request();
            }
        });
        let running = serve(driver, narrow(&upstream, 1000));
        let mut client = connect(&running);
        client.send(get("/first"));
        assert_eq!(receive(&mut client).status, 200);
        client.send("PUT /again HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
        client.send("3\r\ndef\r\n0\r\n\r\n");
        assert_eq!(receive(&mut client).text(), "/again 3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n");
        assert_eq!(upstream.accepted(), 2);
    });
}
