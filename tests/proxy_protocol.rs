//! `ringmill serve --proxy-protocol` on real sockets, on both drivers: who is believed, who is refused, and what is shown of it.
#![cfg(feature = "cli")]

mod common;

use common::http::*;
use common::program::{self, Program, ringmill};
use common::{Client, Directory, connect_to, eventually, on_both_drivers};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixStream;

const HEADER: &str = "PROXY TCP4 198.51.100.7 203.0.113.9 40000 443\r\n";

/// What `/peer` says behind this prefix.
#[track_caller]
fn peer(address: SocketAddr, prefix: impl AsRef<[u8]>) -> serde_json::Value {
    let mut client = connect_to(address);
    client.send([prefix.as_ref(), get("/peer").as_bytes()].concat());
    let received = receive(&mut client);
    assert_eq!(received.field("content-type"), Some("application/json"));
    serde_json::from_slice(&received.body).expect("JSON")
}

/// What was counted of PROXY headers, but for those that were taken.
fn counted(address: SocketAddr) -> String {
    let mut client = connect_to(address);
    client.send([HEADER, &get("/stats")].concat());
    let stats: serde_json::Value = serde_json::from_slice(&receive(&mut client).body).expect("JSON");
    let counts = ["unlisted", "missing", "malformed", "late"];
    counts.map(|name| stats["total"][format!("proxy_{name}")].to_string()).join(" ")
}

#[test]
fn a_proxy_that_is_listed_says_who_its_client_is() {
    on_both_drivers(|driver| {
        let server = Program::serve(
            driver,
            &["--tcp-echo", "[::1]:0", "--proxy-protocol", "10.0.0.0/8,127.0.0.0/8,::1"],
        );
        let line = server.line_with("PROXY protocol from").unwrap();
        assert!(line.contains("from 10.0.0.0/8, 127.0.0.0/8, ::1/128; others are refused"), "{line}");
        let told = peer(server.http(), HEADER);
        assert_eq!(
            (&told["peer"], &told["local"]),
            (&"198.51.100.7:40000".into(), &"203.0.113.9:443".into())
        );
        assert!(told["proxied"].is_null() && told["secure"].is_null(), "{told}");

        let vectors = b"\x02\0\x06a.test\x05\0\x03id\xff\x20\0\x0f\x01\0\0\0\0\x21\0\x07TLSv1.3";
        let block = [&[0; 15][..], &[1], &[0; 15], &[2], &[0, 80, 0, 81], vectors].concat();
        let fixed = [0x21, 0x21, 0, block.len() as u8];
        let told = peer(server.http(), [&b"\r\n\r\n\0\r\nQUIT\n"[..], &fixed, &block].concat());
        assert_eq!((&told["peer"], &told["local"]), (&"[::1]:80".into(), &"[::2]:81".into()));
        let proxied = &told["proxied"];
        assert_eq!((&proxied["authority"], &proxied["unique_id"]), (&"a.test".into(), &"id\\xff".into()));
        assert_eq!(
            (&proxied["ssl"]["version"], &proxied["alpn"]),
            (&"TLSv1.3".into(), &serde_json::Value::Null)
        );

        // A health check of the proxy's own.
        let local = peer(server.http(), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        assert!(local["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{local}");

        // Every stream listener has it, and a header may come byte by byte.
        let line = server.line_with("listening on [::1]:").expect("the echo's address");
        let mut client = connect_to(line.rsplit(' ').next().unwrap().parse().unwrap());
        for byte in HEADER.as_bytes() {
            client.send([*byte]);
        }
        client.ask("hello", "hello");
    });
}

/// Lists are about the client that the header tells, and not about its proxy.
#[test]
fn a_proxys_client_may_be_denied() {
    on_both_drivers(|driver| {
        let gate = ["--deny", "198.51.100.0/30,127.0.0.0/8", "--connections-per-ip", "1"];
        let server = Program::serve(driver, &[&["--proxy-protocol", "127.0.0.1"][..], &gate].concat());
        let from = |client: &str| HEADER.replace("198.51.100.7", client);
        let mut denied = connect_to(server.http());
        denied.send([from("198.51.100.1"), get("/peer")].concat());
        denied.expect_reset();
        let mut inside = connect_to(server.http());
        inside.send([HEADER, &get("/peer")].concat());
        assert_eq!(receive(&mut inside).status, 200);
        let mut another = connect_to(server.http());
        another.send([HEADER, &get("/peer")].concat());
        another.expect_reset();
        assert_eq!(peer(server.http(), from("198.51.100.8"))["peer"], "198.51.100.8:40000");
        inside.send(get("/stats"));
        let stats: serde_json::Value = serde_json::from_slice(&receive(&mut inside).body).expect("JSON");
        assert_eq!([&stats["total"]["gate_denied"], &stats["total"]["gate_per_ip"]], [1, 1]);
    });
}

#[test]
fn a_proxy_without_a_good_header_gets_no_answer() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--proxy-protocol", "127.0.0.1"]);
        let closes = |input: &str, expected: &str| {
            let mut client = connect_to(server.http());
            client.send(input);
            client.expect_eof();
            eventually(expected.to_owned(), || counted(server.http()));
        };
        closes(&get("/health"), "0 1 0 0");
        closes(&get("/health").replace("GET", "PROXY"), "0 1 1 0");
        closes(&HEADER.replace("40000", "400000"), "0 1 2 0");
        // It ends in the middle.
        let mut client = connect_to(server.http());
        client.send(&HEADER[..20]);
        client.shutdown(Shutdown::Write).unwrap();
        client.expect_eof();
        eventually("0 1 3 0".to_owned(), || counted(server.http()));
        // It never comes.
        connect_to(server.http()).expect_eof();
        assert_eq!(counted(server.http()), "0 1 3 1");
    });
}

#[test]
fn others_are_refused_unless_they_are_to_be_served() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("socket");
        let unix = ["--listen", "127.0.0.1:0", "--listen", &format!("unix:{path}"), "--proxy-protocol"]
            .map(str::to_owned);
        let with = |more: &[&str]| {
            let more: Vec<&str> = unix.iter().map(String::as_str).chain(more.iter().copied()).collect();
            Program::serve(driver, &more)
        };
        let over_unix = |input: &str| {
            let mut client = UnixStream::connect(&path).unwrap();
            client.set_read_timeout(Some(common::PATIENCE)).unwrap();
            let _ = client.write_all(input.as_bytes());
            let mut text = [0; 15];
            let got = client.read(&mut text).unwrap_or(0);
            String::from_utf8_lossy(&text[..got]).into_owned()
        };
        let refusing = with(&["unix"]);
        connect_to(refusing.http()).expect_eof();
        assert_eq!(over_unix(&[HEADER, &get("/health")].concat()), "HTTP/1.1 200 OK");
        assert_eq!(over_unix(&get("/health")), "");
        drop(refusing);

        let serving = with(&["10.0.0.0/8", "--proxy-protocol-others", "serve"]);
        let itself = peer(serving.http(), "");
        assert!(itself["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{itself}");
        // Whoever is not listed cannot say that he is somebody else.
        let reply = exchange(serving.http(), [HEADER, &get("/peer")].concat());
        assert!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
        assert_eq!(over_unix(&get("/health")), "HTTP/1.1 200 OK");
    });
}

#[test]
fn what_is_no_network_is_refused_with_words() {
    let check = |options: &[&str], words: &str| {
        let mut command = ringmill();
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(options);
        let (code, _, errors) = program::run(command);
        assert!(code == Some(2) && errors.contains(words), "{options:?}: {code:?} {errors}");
    };
    check(&["--proxy-protocol", "everybody"], "expected a network such as 10.0.0.0/8");
    check(&["--proxy-protocol", "10.0.0.0/33"], "expected a network such as 10.0.0.0/8");
    check(&["--proxy-protocol", "10.0.0.0/8,"], "expected a network such as 10.0.0.0/8");
    check(
        &["--proxy-protocol", "10.1.2.3/8"],
        "write 10.0.0.0/8 for that network, or 10.1.2.3 for that address",
    );
    check(&["--proxy-protocol", "::ffff:10.0.0.1"], "write them as IPv4");
    check(&["--proxy-protocol", "::1", "--proxy-protocol-others", "guess"], "refuse, serve");
}
