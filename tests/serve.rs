//! `ringmill serve` as its users meet it: options, routes, log lines, signals, limits. One child process a case.
#![cfg(feature = "cli")]

mod common;

use common::http::*;
use common::program::{self, Forbidden, Program, forbid, ringmill, ringmill_with_descriptors};
use common::{Client, Directory, PATIENCE, connect_narrow, connect_to, eventually, on_both_drivers, ws};
use ringmill::DriverChoice;
use std::ffi::OsStr;
use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What `/bytes/{n}` answers.
fn bytes(count: usize) -> Vec<u8> {
    let period = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n";
    period.iter().copied().cycle().take(count).collect()
}

/// Sends a request and reads its reply, on a connection that stays open.
#[track_caller]
fn ask(client: &mut TcpStream, request: impl AsRef<[u8]>) -> Received {
    client.send(request);
    receive(client)
}

#[test]
fn it_says_where_it_is_and_how_it_runs() {
    on_both_drivers(|driver| {
        let http = ["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--workers", "2"];
        let echo = ["--tcp-echo", "127.0.0.1:0", "--udp-echo", "127.0.0.1:0"];
        let server = Program::serve(driver, &[&http[..], &echo].concat());
        let line = server.line_with("worker(s) on CPU").unwrap();
        for words in ["2 worker(s) on CPU", &format!("driver {driver} (asked for)"), "descriptors"] {
            assert!(line.contains(words), "expected {words:?} in {line:?}");
        }
        let listening = server.lines().iter().filter(|line| line.contains("listening on ")).count();
        assert_eq!(listening, 3, "{:#?}", server.lines());
        assert!(server.address_after("listening on ").port() > 0);
        assert!(server.address_after("datagrams on ").port() > 0);
    });
}

#[test]
fn every_route_answers_in_full() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &[]);
        let address = server.http();
        let check = |request: String, expected: String| check(address, request, expected);
        let json = |body: &str| ok_as("application/json", body);
        check(get("/plaintext"), ok("Hello, World!"));
        check(get("/pipeline"), ok("ok"));
        check(get("/health"), ok("ok"));
        check(get("/json"), json("{\"message\":\"Hello, World!\"}"));
        check(get("/baseline11?a=1&b=-3"), ok("-2"));
        check(get("/baseline11"), ok("0"));
        check(post("/baseline11?a=13&b=42", "20"), ok("75"));
        check(post_chunked("/baseline11?a=1", "1\r\n2\r\n1\r\n0\r\n0\r\n\r\n"), ok("21"));
        check(post("/upload", "twelve bytes"), ok("12"));
        check(post_chunked("/upload", "c\r\ntwelve bytes\r\n1\r\n!\r\n0\r\n\r\n"), ok("13"));
        check(post("/upload", ""), ok("0"));
        check(post("/upload", "").replace("Content-Length: 0\r\n", ""), ok("0"));
        let raw = "application/octet-stream";
        check(post("/", "whole"), ok_as(raw, "whole"));
        check(post("/echo", "streamed"), ok_as(raw, "streamed"));
        check(
            post("/echo", "x").replace("POST", "PUT").replace("Host", "Content-Type: a/b\r\nHost"),
            ok_as("a/b", "x"),
        );
        check(get("/echo"), reply("200 OK", "content-length: 0\r\n", ""));
        let chunked = format!("content-type: {raw}\r\ntransfer-encoding: chunked\r\n");
        check(post_chunked("/echo", "1\r\nx\r\n0\r\n\r\n"), reply("200 OK", &chunked, "1\r\nx\r\n0\r\n\r\n"));
        check(get("/headers"), ok("Host: test\n"));
        check(
            get("/headers").replace("Host", "X-A: b\r\nx-a: c\r\nHost"),
            ok("X-A: b\nx-a: c\nHost: test\n"),
        );
        for count in [0, 1, 1000, 1_000_000] {
            let text = String::from_utf8(bytes(count)).unwrap();
            check(get(&format!("/bytes/{count}")), ok_as(raw, &text));
        }
        let page = exchange(address, get("/"));
        assert!(page.contains("content-type: text/html; charset=utf-8\r\n") && page.ends_with("</html>\n"));
    });
}

#[test]
fn items_are_serialised_with_their_totals() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &[]);
        let mut client = connect_to(server.http());
        let first = r#"{"id":1,"name":"Part 1","category":"belts","price":42,"quantity":14,"active":true,"tags":["oak","spare"],"total":TOTAL}"#;
        let mut check = |target: &str, total: &str| {
            let received = ask(&mut client, get(target));
            let expected = format!("{{\"items\":[{}],\"count\":1}}", first.replace("TOTAL", total));
            assert_eq!(received.text(), expected, "{target}");
        };
        check("/json/1", "588");
        check("/json/1?m=3", "1764");
        check("/json/1?x=9&m=-1&m=5", "-588");
        for (count, expected) in [(0, 0), (7, 7), (50, 50), (51, 50), (1_000_000, 50)] {
            let received = ask(&mut client, get(&format!("/json/{count}?m=2")));
            assert_eq!(received.field("content-type"), Some("application/json"));
            let page: serde_json::Value = serde_json::from_slice(&received.body).expect("JSON");
            assert_eq!(
                (page["items"].as_array().unwrap().len(), page["count"].as_u64().unwrap()),
                (expected, expected as u64)
            );
            for (n, item) in page["items"].as_array().unwrap().iter().enumerate() {
                assert_eq!(item["id"], n + 1);
                let total = item["price"].as_i64().unwrap() * item["quantity"].as_i64().unwrap() * 2;
                assert_eq!(item["total"], total);
            }
        }
    });
}

#[test]
fn statistics_count_what_was_done() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--workers", "2"]);
        for _ in 0..40 {
            check(server.http(), get("/plaintext"), ok("Hello, World!"));
        }
        let mut client = connect_to(server.http());
        let stats = |client: &mut TcpStream| -> serde_json::Value {
            let received = ask(client, get("/stats"));
            assert_eq!(received.field("content-type"), Some("application/json"));
            serde_json::from_slice(&received.body).expect("JSON")
        };
        eventually(40, || stats(&mut client)["total"]["closed"].as_u64().unwrap());
        let stats = stats(&mut client);
        let limits = &stats["limits"];
        assert_eq!(
            (&limits["worker_memory_bytes_max"], &limits["head_bytes_max"]),
            (&(256 << 20).into(), &16384.into())
        );
        assert!(limits["worker_connections_max"].as_u64().unwrap() > 0, "{stats}");
        let workers = stats["workers"].as_array().unwrap();
        assert_eq!(workers.len(), 2);
        assert!(workers.iter().all(|worker| worker["cpu_ns"].as_u64().unwrap() > 0), "{stats}");
        assert_eq!((&stats["total"]["accepted"], &stats["total"]["connections"]), (&41.into(), &1.into()));
        assert_eq!(stats["total"]["panics"], 0);
    });
}

#[test]
fn what_is_not_there_is_404_the_wrong_method_405_and_an_unknown_one_501() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &[]);
        let address = server.http();
        let check = |method: &str, target: &str, status: u16, allow: Option<&str>| {
            let mut client = connect_to(address);
            let received = ask(&mut client, get(target).replace("GET", method));
            assert_eq!((received.status, received.field("allow")), (status, allow), "{method} {target}");
            if status != 204 {
                assert!(received.text().starts_with(&format!("{status} ")), "{received:?}");
            }
            // A refusal of this kind costs nobody the connection.
            assert_eq!(ask(&mut client, get("/health")).text(), "ok");
        };
        let (only_get, only_post) = (Some("GET, HEAD, OPTIONS"), Some("POST, OPTIONS"));
        let both = Some("GET, HEAD, POST, OPTIONS");
        for target in [
            "/plaintext",
            "/json",
            "/pipeline",
            "/health",
            "/headers",
            "/peer",
            "/stats",
            "/bytes/1",
            "/json/1",
        ] {
            check("DELETE", target, 405, only_get);
            check("POST", target, 405, only_get);
            check("OPTIONS", target, 204, only_get);
        }
        check("GET", "/upload", 405, only_post);
        check("OPTIONS", "/upload", 204, only_post);
        check("PUT", "/", 405, both);
        check("PUT", "/baseline11", 405, both);
        check("OPTIONS", "/", 204, both);
        check("OPTIONS", "*", 204, both);
        for target in ["/plaintext", "/upload", "/nowhere"] {
            check("FOO", target, 501, None);
        }
        for target in ["/nowhere", "/plaintext/", "/Plaintext", "/json2", "//"] {
            check("GET", target, 404, None);
            check("POST", target, 404, None);
            check("OPTIONS", target, 404, None);
        }
        for target in ["/bytes/", "/bytes/x", "/bytes/-1", "/json/x", "/json/1?m=x", "/baseline11?a=x"] {
            check("GET", target, 400, None);
        }
        check("GET", "/baseline11?a=9223372036854775807&b=1", 400, None);
    });
}

#[test]
fn websocket_and_its_options() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &[]);
        ws::open(server.http(), "/ws").ask(ws::text("hello"), ws::unmasked(0x81, b"hello"));
        let mut foreign = connect_to(server.http());
        let offer = "Origin: https://a.example\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";
        foreign.send(ws::handshake("/ws", offer));
        assert!(ws::head(&mut foreign).starts_with("HTTP/1.1 403 "));
        let options = ["--ws-max-message", "1000", "--ws-origin", "https://a.example", "--ws-deflate"];
        let server = Program::serve(driver, &[&options[..], &["--ws-contexts", "1"]].concat());
        let mut client = connect_to(server.http());
        let answer = ws::upgrade(&mut client, "/ws", offer);
        assert!(answer.contains("\r\nsec-websocket-extensions: permessage-deflate\r\n"), "{answer}");
        client.ask(ws::text(&"x".repeat(1000)), ws::unmasked(0x81, "x".repeat(1000).as_bytes()));
        client.send(ws::text(&"x".repeat(1001)));
        assert_eq!(ws::expect_close(&mut client), 1009);
        let server = Program::serve(driver, &["--ws-origin", "any"]);
        ws::upgrade(&mut connect_to(server.http()), "/ws", "Origin: null\r\n");
    });
}

#[test]
fn topics_by_websocket_events_and_requests() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--workers", "2", "--ws-max-message", "1000"]);
        let mut client = connect_to(server.http());
        let mut socket = ws::open(server.http(), "/ws/news");
        let mut page = connect_to(server.http());
        page.send(get("/events/news"));
        assert_eq!(receive_head(&mut page).field("content-type"), Some("text/event-stream"));
        receive_chunk(&mut page).unwrap();
        let stats = |client: &mut TcpStream| -> serde_json::Value {
            serde_json::from_slice(&ask(client, get("/stats")).body).expect("JSON")
        };
        eventually(2, || stats(&mut client)["topics"]["subscribers"].as_u64().unwrap());
        let check = |client: &mut TcpStream, request: String, status: u16| {
            assert_eq!(ask(client, &request).status, status, "{request}");
        };
        check(&mut client, post("/publish/news", "one"), 202);
        socket.expect(ws::unmasked(0x81, b"one"));
        let event = receive_event(&mut page).unwrap();
        assert!(event.ends_with("\ndata: one\n\n"), "{event:?}");
        socket.ask(ws::text("two"), ws::unmasked(0x81, b"two"));
        let event = receive_event(&mut page).unwrap();
        assert!(event.ends_with("\ndata: two\n\n"), "{event:?}");
        let from = |origin: &str| {
            post("/publish/news", "x").replace("Host: test", &format!("Host: test\r\nOrigin: {origin}"))
        };
        check(&mut client, from("http://test"), 202);
        check(&mut client, from("http://evil.example"), 403);
        check(&mut client, post("/publish/a/b", "x"), 404);
        check(&mut client, get("/events/"), 404);
        check(&mut client, get("/ws/a%20b"), 404);
        check(&mut client, get("/publish/news"), 405);
        check(&mut client, post("/publish/news", &"x".repeat(1001)), 413);
        let mut foreign = connect_to(server.http());
        foreign.send(ws::handshake("/ws/news", "Origin: http://evil.example\r\n"));
        assert!(ws::head(&mut foreign).starts_with("HTTP/1.1 403 "));
        let stats = stats(&mut connect_to(server.http()));
        assert_eq!((&stats["topics"]["published"], &stats["topics"]["busy"]), (&3.into(), &0.into()));
    });
}

#[test]
fn topics_and_their_options() {
    on_both_drivers(|driver| {
        let options = ["--topic-max-count", "1", "--topic-max-messages", "2", "--topic-start", "oldest"];
        let server = Program::serve(driver, &[&options[..], &["--workers", "1"]].concat());
        let mut client = connect_to(server.http());
        for text in ["one", "two", "three"] {
            assert_eq!(ask(&mut client, post("/publish/news", text)).status, 202);
        }
        // There is one topic, with its last two messages.
        let refused = ask(&mut client, post("/publish/more", "x"));
        assert_eq!((refused.status, refused.field("retry-after")), (503, Some("1")));
        assert_eq!(ask(&mut client, get("/events/more")).status, 503);
        let full = ws::receive(&mut ws::open(server.http(), "/ws/more"));
        assert_eq!((full.0, &full.1[..2]), (0x88, &1013_u16.to_be_bytes()[..]));
        let mut socket = ws::open(server.http(), "/ws/news");
        socket.expect(ws::unmasked(0x81, b"two"));
        socket.expect(ws::unmasked(0x81, b"three"));
        let mut page = connect_to(server.http());
        page.send(get("/events/news"));
        receive_head(&mut page);
        let _greeting = receive_chunk(&mut page);
        for text in ["two", "three"] {
            let event = receive_event(&mut page).unwrap();
            assert!(event.ends_with(&format!("\ndata: {text}\n\n")), "{event:?}");
        }
        // A message is no longer than what a topic keeps.
        let small = ["--topic-max-bytes", "100", "--topic-start", "last", "--topic-retain"];
        let slow = ["--topic-max-age", "1s", "--topic-slow", "latest", "--topic-max-memory", "1MiB"];
        let server = Program::serve(driver, &[&small[..], &slow].concat());
        let long = ask(&mut connect_to(server.http()), post("/publish/news", &"x".repeat(101)));
        assert_eq!(long.status, 413);
        let mut client = connect_to(server.http());
        for text in ["one", "two"] {
            assert_eq!(ask(&mut client, post("/publish/news", text)).status, 202);
        }
        ws::open(server.http(), "/ws/news").expect(ws::unmasked(0x81, b"two"));
    });
}

#[test]
fn help_names_every_option_its_variable_and_examples() {
    let mut command = ringmill();
    command.args(["serve", "--help"]);
    let (code, help, errors) = program::run(command);
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    let names = [
        "config",
        "listen",
        "tcp-echo",
        "udp-echo",
        "udp-echo-rate",
        "tls-listen",
        "tls-cert",
        "tls-key",
        "tls-self-signed",
        "tls-client-ca",
        "tls-client-optional",
        "tls-crl",
        "tls-min",
        "tls-tickets",
        "tls-handshake-timeout",
        "tls-watch",
        "tls-key-log",
        "https-redirect",
        "ws-max-message",
        "ws-origin",
        "ws-deflate",
        "ws-contexts",
        "topic-max-messages",
        "topic-max-bytes",
        "topic-max-age",
        "topic-retain",
        "topic-max-memory",
        "topic-max-count",
        "topic-start",
        "topic-slow",
        "broker",
        "workers",
        "pin",
        "driver",
        "backlog",
        "congestion",
        "defer-accept",
        "unix-mode",
        "unix-group",
        "proxy-protocol",
        "proxy-protocol-others",
        "allow",
        "deny",
        "connections-per-ip",
        "connections-per-prefix",
        "new-connections-per-ip",
        "max-connections",
        "max-memory",
        "max-body",
        "head-timeout",
        "body-timeout",
        "min-body-rate",
        "keep-alive-timeout",
        "write-timeout",
        "min-write-rate",
        "max-requests",
        "drain",
    ];
    for option in names {
        let variable = format!("RINGMILL_{}", option.replace('-', "_").to_uppercase());
        assert!(
            help.lines()
                .any(|line| line.trim() == format!("--{option}") || line.contains(&format!("--{option} "))),
            "--{option} in: {help}"
        );
        assert!(help.contains(&variable), "{variable} in: {help}");
    }
    assert!(help.contains("Examples:") && help.contains("ringmill serve --listen"), "{help}");
    // The list above is complete: one more is --help.
    let options =
        help.lines().filter(|line| line.trim_start().starts_with("--") || line.contains("-h, --help"));
    assert_eq!(options.count(), names.len() + 1, "an option without a test: {help}");
}

#[test]
fn it_has_a_version_and_explains_itself_without_arguments() {
    let run = |argument: Option<&str>| {
        let mut command = ringmill();
        command.args(argument);
        program::run(command)
    };
    let (code, output, _) = run(Some("--version"));
    assert_eq!((code, output.as_str()), (Some(0), concat!("ringmill ", env!("CARGO_PKG_VERSION"), "\n")));
    let (code, _, errors) = run(None);
    assert!(code == Some(2) && errors.contains("serve") && errors.contains("Usage"), "{errors}");
}

#[test]
fn variables_work_like_options() {
    on_both_drivers(|driver| {
        let mut command = ringmill();
        command.arg("serve").env("RINGMILL_LISTEN", "127.0.0.1:0,[::1]:0").env("RINGMILL_WORKERS", "3");
        command
            .env("RINGMILL_DRIVER", driver.to_string())
            .env("RINGMILL_MAX_BODY", "1KiB")
            .env("RINGMILL_PIN", "off");
        let server = Program::start(command, "worker(s) on CPU");
        let line = server.line_with("worker(s) on CPU").unwrap();
        assert!(
            line.contains("3 worker(s) on CPU any,any,any; ") && line.contains(&format!("driver {driver} ")),
            "{line}"
        );
        assert_eq!(server.lines().iter().filter(|line| line.contains("listening on ")).count(), 2);
        let mut client = connect_to(server.http());
        assert_eq!(ask(&mut client, post("/upload", &"x".repeat(1025))).status, 413);
    });
}

/// The variables of all options, as the help has them.
fn variables() -> Vec<String> {
    let mut command = ringmill();
    command.args(["serve", "--help"]);
    let (_, help, _) = program::run(command);
    let names = help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap().to_owned());
    names.chain(["RINGMILL_LOG".to_owned()]).collect()
}

#[test]
fn an_empty_variable_is_unset() {
    on_both_drivers(|driver| {
        let variables = variables();
        assert!(variables.len() > 20, "{variables:?}");
        let mut command = ringmill();
        command.envs(variables.iter().map(|name| (name, "")));
        command.args(["serve", "--listen", "127.0.0.1:0", "--driver", &driver.to_string()]);
        let server = Program::start(command, "worker(s) on CPU");
        check(server.http(), get("/health"), ok("ok"));
    });
    // The help still names it.
    let mut command = ringmill();
    command.args(["serve", "--help"]).env("RINGMILL_WORKERS", "");
    let (_, help, _) = program::run(command);
    assert!(help.contains("RINGMILL_WORKERS"), "{help}");
}

#[test]
fn a_bad_value_of_a_variable_names_the_variable() {
    let check = |name: &str, value: &OsStr, words: &str| {
        let mut command = ringmill();
        command.arg("serve").env(name, value);
        if name != "RINGMILL_LISTEN" {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let (code, output, errors) = program::run(command);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{name}: {errors}");
        let is_named = errors.contains(&format!("of the variable {name}: "));
        let names_option = errors.contains("--");
        assert!(is_named && errors.contains(words) && !names_option, "{name}, {words:?}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
    };
    check("RINGMILL_LISTEN", "nonsense".as_ref(), "'nonsense'");
    check("RINGMILL_WORKERS", "many".as_ref(), "auto or a number");
    check("RINGMILL_BACKLOG", "0".as_ref(), "0 is not in");
    check("RINGMILL_DRAIN", "soon".as_ref(), "500ms");
    check("RINGMILL_LOG", "loud".as_ref(), "error, warn, info");
    // A path may be any bytes.
    const PATHS: &[&str] = &["TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "TLS_CRL", "TLS_KEY_LOG"];
    let is_path = |name: &String| PATHS.contains(&name.trim_start_matches("RINGMILL_"));
    for name in variables().into_iter().filter(|name| !is_path(name)) {
        check(&name, OsStr::from_bytes(b"\xff"), "");
    }
    // The command line comes first.
    let mut command = ringmill();
    command.args(["serve", "--workers", "few"]).env("RINGMILL_WORKERS", "many");
    let (code, _, errors) = program::run(command);
    assert!(code == Some(2) && errors.contains("'few' for '--workers <N>'"), "{errors}");
}

#[test]
fn no_error_shows_a_password() {
    let check = |arguments: &[&str], broker: &[u8]| {
        let mut command = ringmill();
        command.arg("serve").args(arguments).env("RINGMILL_BROKER", OsStr::from_bytes(broker));
        let (code, output, errors) = program::run(command);
        let is_refused = code.is_some_and(|code| code > 0) && output.is_empty();
        assert!(is_refused && !errors.contains("secret"), "{arguments:?}: {errors}");
    };
    check(&["--config", "missing.toml"], b"nats://user:secret@b.example");
    check(&[], b"nats://user:secret\xff@b.example");
    check(&[], b"nats://user:secret");
    check(&["--broker", "kafka://:secret@b.example"], b"");
    check(&["--broker", "nats://user:secret"], b"");
    check(&["nats://user:secret@b.example"], b"");
    check(&["--workers", "nats://user:secret@b.example"], b"");
}

#[test]
fn what_cannot_work_ends_with_one_clear_line() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let check = |arguments: &[&str], words: &[&str]| {
        let mut command = ringmill();
        command.arg("serve").args(arguments);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let (code, output, errors) = program::run(command);
        assert!(code.is_some_and(|code| code > 0), "{arguments:?}: exit code {code:?}");
        assert_eq!(output, "", "{arguments:?}");
        let lines: Vec<&str> = errors.lines().filter(|line| line.contains("error: ")).collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {errors}");
        for word in words {
            assert!(lines[0].contains(word), "{arguments:?}: expected {word:?} in: {errors}");
        }
        assert!(!errors.contains("panicked") && !errors.contains("secret"), "{errors}");
    };
    let words = ["--broker", "no broker's address: kafka://b.example.", "nats://host:4222"];
    check(&["--broker", "kafka://user:secret@b.example"], &words);
    if !cfg!(feature = "broker-redis") {
        check(
            &["--broker", "redis://b.example"],
            &["--broker", "without broker-redis", "--features broker-redis"],
        );
    }
    check(&["--driver", "kqueue"], &["--driver", "kqueue", "auto, uring or poll"]);
    check(&["--workers", "0"], &["--workers", "at least 1"]);
    check(&["--workers", "many"], &["--workers", "many", "auto or a number"]);
    check(&["--workers", "2000"], &["workers is over 1024"]);
    check(&["--pin", "9999"], &["cannot pin", "CPU 9999"]);
    check(&["--pin", "x"], &["--pin", "bad CPU list"]);
    check(&["--max-body", "lots"], &["--max-body", "lots", "64KiB"]);
    check(&["--drain", "soon"], &["--drain", "soon", "500ms"]);
    check(&["--head-timeout", "0"], &["--head-timeout", "zero"]);
    check(&["--max-connections", "0"], &["--max-connections", "0"]);
    check(&["--backlog", "0"], &["--backlog", "0"]);
    check(&["--congestion", "nonesuch"], &["TCP_CONGESTION"]);
    check(&["--nonsense"], &["--nonsense"]);
    check(&["--listen", "nonsense"], &["--listen", "nonsense", "IP:PORT"]);
    check(&["--listen", "192.0.2.1:0"], &["192.0.2.1:0", "no interface of this machine"]);
    check(&["--listen", "unix:/nonexistent/ringmill.sock"], &["/nonexistent/ringmill.sock"]);
    check(&["--listen", &taken], &[&taken, "in use", "choose another port"]);
    check(&["--listen", "[fe80::1%nonesuch]:0"], &["nonesuch", "no network interface", "ip link"]);
    check(&["--unix-mode", "rw"], &["--unix-mode", "octal", "0660"]);
    let group = ["--listen", "unix:/tmp/ringmill-never", "--unix-group", "no-such-group"];
    check(&group, &["no-such-group", "getent group"]);
    check(&["--listen", "unix:@ringmill-never", "--unix-mode", "0660"], &["unix:@ringmill-never", "no file"]);
    check(&["--udp-echo", "unix:/tmp/ringmill-udp"], &["datagrams over a Unix socket"]);
}

/// Starts a server that is killed where it listens; returns its error.
#[track_caller]
fn fails_before_it_listens(mut command: std::process::Command, arguments: &[&str]) -> String {
    let directory = Directory::new();
    let unix = format!("unix:{}", directory.file("http.sock"));
    command.args(["serve", "--pin", "off", "--listen", "127.0.0.1:0", "--listen", &unix]).args(arguments);
    let (code, _, errors) = program::run(command);
    assert!(code.is_some_and(|code| code > 0), "exit code {code:?}; it said: {errors}");
    errors
}

#[test]
fn a_driver_that_is_forbidden_is_told_before_anybody_can_connect() {
    let check = |arguments: &[&str]| {
        let mut command = ringmill();
        let refused =
            [libc::SYS_epoll_create1, libc::SYS_io_uring_setup].map(|call| (call, Forbidden::Refused));
        forbid(&mut command, &[&refused[..], &[(libc::SYS_listen, Forbidden::Deadly)]].concat());
        let errors = fails_before_it_listens(command, arguments);
        assert!(errors.contains("opening epoll") && errors.contains("seccomp"), "{errors}");
        assert!(!errors.contains("1024"), "{errors}");
    };
    check(&["--driver", "poll", "--workers", "2"]);
    check(&["--driver", "auto", "--workers", "1"]);
}

#[test]
fn workers_that_cannot_all_be_made_are_told_before_anybody_can_connect() {
    on_both_drivers(|driver| {
        let mut command = ringmill_with_descriptors(100);
        forbid(&mut command, &[(libc::SYS_listen, Forbidden::Deadly)]);
        let errors = fails_before_it_listens(command, &["--driver", &driver.to_string(), "--workers", "64"]);
        assert!(errors.contains("ulimit -n"), "{errors}");
    });
}

#[test]
fn it_starts_again_at_once_after_it_was_killed() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let unix = format!("unix:{}", directory.file("http.sock"));
        let name = format!("unix:@ringmill-killed-{driver}-{}", std::process::id());
        let first = Program::serve(driver, &["--udp-echo", "127.0.0.1:0"]);
        let (tcp, udp) = (first.http().to_string(), first.address_after("datagrams on ").to_string());
        drop(first);
        for _ in 0..5 {
            let addresses = ["--listen", &tcp, "--listen", &unix, "--listen", &name, "--udp-echo", &udp];
            let server = Program::serve(driver, &[&addresses[..], &["--workers", "2"]].concat());
            check(tcp.parse().unwrap(), get("/health"), ok("ok"));
            // Its end is SIGKILL, waited for.
            drop(server);
        }
    });
}

#[test]
fn a_signal_lets_requests_finish_and_ends_with_status_0() {
    const BYTES: usize = 20_000_000;
    on_both_drivers(|driver| {
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            let mut server = Program::serve(driver, &[]);
            let address = server.http();
            let mut download = connect_narrow(address, 32 * 1024);
            download.send(get(&format!("/bytes/{BYTES}")));
            assert_eq!(receive_head(&mut download).status, 200);
            let (mut upload, mut idle) = (connect_to(address), connect_to(address));
            assert_eq!(ask(&mut idle, get("/health")).text(), "ok");
            upload.send(
                "POST /upload HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n",
            );
            upload.expect("HTTP/1.1 100 Continue\r\n\r\n");

            server.signal(signal);
            server.expect_line("draining");
            eventually(true, || TcpStream::connect_timeout(&address, PATIENCE).is_err());
            idle.expect_eof();
            upload.send("0123456789");
            assert_eq!(receive(&mut upload).text(), "10");
            upload.expect_eof();
            let mut body = vec![0; BYTES];
            download.read_exact(&mut body).expect("the download is finished");
            assert!(body == bytes(BYTES));
            download.expect_eof();
            drop((download, upload, idle));
            assert_eq!(server.wait().code(), Some(0), "{:#?}", server.lines());
            eventually(true, || server.line_with("ended").is_some());
        }
    });
}

#[test]
fn replies_during_a_drain_say_that_they_are_the_last() {
    on_both_drivers(|driver| {
        let mut server = Program::serve(driver, &[]);
        let [mut streamed, mut collected, mut late] = [(); 3].map(|()| connect_to(server.http()));
        let head = "POST /upload HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
        streamed.ask(head, "HTTP/1.1 100 Continue\r\n\r\n");
        collected.ask(head.replace("/upload", "/"), "HTTP/1.1 100 Continue\r\n\r\n");
        late.send("GET /health HTTP/1.1\r\nHost: a\r\n");
        server.signal(libc::SIGTERM);
        server.expect_line("draining");
        // The line comes before the worker knows; that it takes no connections comes after.
        eventually(true, || TcpStream::connect_timeout(&server.http(), PATIENCE).is_err());
        for (client, rest) in [(&mut late, "\r\n"), (&mut streamed, "ok"), (&mut collected, "ok")] {
            let answer = ask(client, rest);
            assert_eq!(answer.field("connection"), Some("close"), "{answer:?}");
            client.expect_eof();
        }
    });
}

#[test]
fn a_signal_right_after_the_start_line_drains_too() {
    on_both_drivers(|driver| {
        for _ in 0..20 {
            let mut server = Program::serve_at_once(driver, &[]);
            server.signal(libc::SIGTERM);
            let status = server.wait();
            assert_eq!(status.code(), Some(0), "{status}: who sees the line may rely on the handlers");
        }
    });
}

/// A server with a download that does not move.
fn with_a_stuck_download(driver: DriverChoice, arguments: &[&str]) -> (Program, TcpStream) {
    let server = Program::serve(driver, arguments);
    let mut download = connect_narrow(server.http(), 32 * 1024);
    download.send(get("/bytes/100000000"));
    assert_eq!(receive_head(&mut download).status, 200);
    (server, download)
}

#[test]
fn a_second_signal_ends_at_once() {
    on_both_drivers(|driver| {
        let (mut server, _download) = with_a_stuck_download(driver, &[]);
        server.signal(libc::SIGTERM);
        server.expect_line("draining");
        assert!(!server.has_ended());
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(128 + libc::SIGTERM));
    });
}

#[test]
fn a_hangup_drains_and_ends_nothing_at_once() {
    on_both_drivers(|driver| {
        let (mut server, mut download) = with_a_stuck_download(driver, &[]);
        // Twice, as a terminal that closes may send it, and behind the order to end, as systemd can.
        for signal in [libc::SIGHUP, libc::SIGHUP, libc::SIGTERM, libc::SIGHUP] {
            let told = server.lines().len();
            server.signal(signal);
            eventually(true, || server.lines()[told..].iter().any(|line| line.contains("draining")));
        }
        let mut body = vec![0; 100_000_000];
        download.read_exact(&mut body).expect("the download is finished");
        drop(download);
        assert_eq!(server.wait().code(), Some(0));
    });
}

#[test]
fn a_hangup_that_is_ignored_stays_ignored() {
    let server = Program::serve_from_a_shell(DriverChoice::Poll, "trap '' HUP", &[]);
    assert!(server.catches(libc::SIGTERM) && !server.catches(libc::SIGHUP));
    let server = Program::serve(DriverChoice::Poll, &[]);
    assert!(server.catches(libc::SIGTERM) && server.catches(libc::SIGHUP));
}

#[test]
fn the_last_lines_of_the_log_are_in_order() {
    on_both_drivers(|driver| {
        // Said in the other order, about one round in 25 had it wrong.
        for _ in 0..100 {
            let mut server = Program::serve_at_once(driver, &["--workers", "8"]);
            server.signal(libc::SIGTERM);
            assert_eq!(server.wait().code(), Some(0));
            eventually(true, || server.line_with("ended").is_some());
            let lines = server.lines();
            let at = |text: &str| lines.iter().position(|line| line.contains(text));
            assert!(at("worker(s) on CPU") < at("draining") && at("draining") < at("ended"), "{lines:#?}");
        }
    });
}

#[test]
fn a_drain_ends_when_its_time_is_over() {
    on_both_drivers(|driver| {
        let (mut server, mut download) = with_a_stuck_download(driver, &["--drain", "300ms"]);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        download.expect_reset();
    });
}

/// Clients whose requests are on their way when the signal comes; each must be answered.
fn check_drain(driver: DriverChoice, arguments: &[&str]) {
    let mut server = Program::serve(driver, arguments);
    let mut clients: Vec<TcpStream> = Vec::new();
    for _ in 0..100 {
        let mut client = connect_to(server.http());
        client.send(get("/plaintext"));
        clients.push(client);
    }
    server.signal(libc::SIGTERM);
    server.expect_line("draining");
    for (n, client) in clients.iter_mut().enumerate() {
        let mut answer = Vec::new();
        let end = client.read_to_end(&mut answer);
        let whole = end.is_ok() && answer.ends_with(b"Hello, World!");
        assert!(whole, "client {n}: {end:?} after {:?}", undated(&answer));
        // Room for one that waits; it may be gone already.
        let _ = client.shutdown(Shutdown::Both);
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_drain_loses_no_request_that_was_sent_before_it() {
    on_both_drivers(|driver| {
        check_drain(driver, &["--workers", "1"]);
        check_drain(driver, &["--workers", "2"]);
        check_drain(driver, &["--workers", "2", "--defer-accept", "60s"]);
    });
}

#[test]
fn a_drain_at_the_connection_limit_loses_no_request_either() {
    on_both_drivers(|driver| check_drain(driver, &["--max-connections", "10"]));
}

#[test]
fn it_serves_a_unix_socket_and_removes_it() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("http.sock");
        let mut server = Program::serve(driver, &["--listen", &format!("unix:{path}")]);
        assert!(server.line_with(&format!("listening on unix:{path}")).is_some());
        let mut client = UnixStream::connect(&path).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(get("/health"));
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(undated(&client.rest()), ok("ok"));
        drop(client);
        server.signal(libc::SIGTERM);
        assert_eq!(server.wait().code(), Some(0));
        assert!(!std::fs::exists(&path).unwrap());
    });
}

#[test]
fn who_may_connect_to_a_unix_socket_is_an_option() {
    on_both_drivers(|driver| {
        let directory = Directory::new();
        let path = directory.file("http.sock");
        let group = common::a_group().to_string();
        let listen = ["--listen", &format!("unix:{path}")];
        let _server =
            Program::serve(driver, &[&listen[..], &["--unix-mode", "0620", "--unix-group", &group]].concat());
        let file = std::fs::metadata(&path).unwrap();
        assert_eq!((file.mode() & 0o7777, file.gid().to_string()), (0o620, group));
        UnixStream::connect(&path).unwrap();
    });
}

#[test]
fn it_echoes_streams_and_datagrams() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--tcp-echo", "[::1]:0", "--udp-echo", "127.0.0.1:0"]);
        let line = server.line_with("listening on [::1]:").expect("the echo's address");
        let mut stream = connect_to(line.rsplit(' ').next().unwrap().parse().unwrap());
        stream.ask("a stream", "a stream");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(server.address_after("datagrams on ")).unwrap();
        socket.send(b"a datagram").unwrap();
        let mut buffer = [0; 100];
        let received = socket.recv(&mut buffer).expect("an answer");
        assert_eq!(&buffer[..received], b"a datagram");
    });
}

#[test]
fn the_largest_body_is_an_option() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--max-body", "64KiB"]);
        let (fits, too_long) = ("x".repeat(65_536), "x".repeat(65_537));
        let chunked = |body: &str| format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for target in ["/upload", "/echo", "/"] {
            let check = |request: String, status: u16| {
                let mut client = connect_to(server.http());
                assert_eq!(ask(&mut client, request).status, status, "{target}");
            };
            check(post(target, &fits), 200);
            check(post_chunked(target, &chunked(&fits)), 200);
            check(post(target, &too_long), 413);
            if target != "/echo" {
                check(post_chunked(target, &chunked(&too_long)), 413);
            }
        }
        // An echo of unknown length has begun its answer: it has no last chunk.
        let mut client = connect_to(server.http());
        client.send(post_chunked("/echo", &chunked(&too_long)));
        let answer = client.rest();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && !answer.ends_with(b"\r\n0\r\n\r\n"));
        // What is collected has a limit also without the option; what streams has none.
        let server = Program::serve(driver, &[]);
        let long = "x".repeat(1024 * 1024 + 1);
        let mut client = connect_to(server.http());
        assert_eq!(ask(&mut client, post("/upload", &long)).text(), "1048577");
        assert_eq!(ask(&mut client, post("/", &long)).status, 413);
    });
}

#[test]
fn a_collected_body_of_any_size_that_is_allowed_comes_back() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--max-body", "16MiB"]);
        let body = String::from_utf8(bytes(8_000_000)).unwrap();
        let mut client = connect_to(server.http());
        client.send(post("/", &body));
        assert!(receive(&mut client).body == body.as_bytes());
    });
}

#[test]
fn a_connection_is_accepted_once_it_has_a_request_if_asked_for() {
    on_both_drivers(|driver| {
        let accepted = |arguments: &[&str]| {
            let server = Program::serve(driver, &[&["--workers", "1"], arguments].concat());
            let mut silent = connect_to(server.http());
            let mut client = connect_to(server.http());
            let reply = ask(&mut client, get("/stats"));
            let statistics = reply.text();
            // It loses nothing by having waited.
            assert_eq!(ask(&mut silent, get("/plaintext")).status, 200, "{arguments:?}");
            let found =
                statistics.split("\"accepted\":").nth(1).and_then(|rest| rest.split([',', '}']).next());
            found.expect("a counter of accepted connections").to_owned()
        };
        assert_eq!(accepted(&[]), "2");
        assert_eq!(accepted(&["--defer-accept", "60s"]), "1");
    });
}

#[test]
fn timeouts_and_counts_are_options() {
    on_both_drivers(|driver| {
        let check = |arguments: &[&str], requests: &str, statuses: &[u16]| {
            let server = Program::serve(driver, arguments);
            let mut client = connect_to(server.http());
            client.send(requests);
            for status in statuses {
                assert_eq!(receive(&mut client).status, *status, "{arguments:?}");
            }
            client.expect_eof();
        };
        check(&["--head-timeout", "200ms"], "GET / HT", &[408]);
        check(&["--body-timeout", "200ms"], "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nx", &[]);
        check(&["--keep-alive-timeout", "0.2"], &get("/health"), &[200]);
        check(&["--max-requests", "3"], &get("/health").repeat(9), &[200, 200, 200]);
        let (server, mut download) = with_a_stuck_download(driver, &["--write-timeout", "200ms"]);
        let mut client = connect_to(server.http());
        eventually(true, || ask(&mut client, get("/stats")).text().contains("\"write_timeouts\":1"));
        download.expect_reset();
    });
}

#[test]
fn without_descriptors_it_neither_spins_nor_dies_and_recovers() {
    const CLIENTS: usize = 200;
    on_both_drivers(|driver| {
        // First with its own limit of connections far too high, then with the one that it finds for itself.
        for arguments in [&["--max-connections", "1000"][..], &[]] {
            let mut server = Program::serve_with_descriptors(driver, 64, arguments);
            let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| connect_to(server.http())).collect();
            if !arguments.is_empty() {
                server.expect_line("accepting pauses");
            }
            let (cpu, began) = (server.cpu(), Instant::now());
            while began.elapsed() < Duration::from_secs(1) {
                assert!(!server.has_ended());
                std::thread::sleep(Duration::from_millis(20));
            }
            let spent = server.cpu() - cpu;
            assert!(spent < began.elapsed() / 2, "it spent {spent:?} on {:?} of nothing", began.elapsed());
            // Each that leaves makes room for one that waits.
            for (n, client) in clients.iter_mut().enumerate() {
                let mut answer = String::new();
                client.send(get("/health").replace("Host", "Connection: close\r\nHost"));
                let end = client.read_to_string(&mut answer);
                assert!(end.is_ok() && answer.ends_with("ok"), "client {n}: {end:?} {answer:?}");
                client.shutdown(Shutdown::Both).unwrap();
            }
            drop(clients);
            check(server.http(), get("/health"), ok("ok"));
            server.signal(libc::SIGTERM);
            assert_eq!(server.wait().code(), Some(0));
        }
    });
}

#[test]
fn most_clients_are_served_at_once_with_few_descriptors() {
    const CLIENTS: usize = 64;
    on_both_drivers(|driver| {
        let server = Program::serve_with_descriptors(driver, 64, &[]);
        assert!(server.line_with("only 48 connection(s) a worker").is_some(), "{:#?}", server.lines());
        let clients: Vec<TcpStream> = (0..CLIENTS)
            .map(|_| {
                let mut client = connect_to(server.http());
                client.send(get("/health"));
                client.set_nonblocking(true).unwrap();
                client
            })
            .collect();
        // None leaves, and keep-alive lasts longer than this waits: they are served side by side.
        let is_answered = |client: &&TcpStream| client.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
        eventually(true, || clients.iter().filter(is_answered).count() >= 40);
        let other = Program::serve_with_descriptors(driver, 1024, &[]);
        assert!(other.line_with("connection(s) a worker").is_none(), "{:#?}", other.lines());
    });
}

#[test]
fn a_storm_of_connections_leaves_no_descriptor_behind() {
    on_both_drivers(|driver| {
        let server = Program::serve(driver, &["--workers", "2"]);
        let address: SocketAddr = server.http();
        check(address, get("/health"), ok("ok"));
        let mut client = connect_to(address);
        let connections = |client: &mut TcpStream| {
            ask(client, get("/stats")).text().rsplit("\"connections\":").next().unwrap().starts_with("1,")
        };
        eventually(true, || connections(&mut client));
        let before = server.descriptors();
        let storms: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || {
                    for _ in 0..125 {
                        check(address, get("/plaintext"), ok("Hello, World!"));
                    }
                })
            })
            .collect();
        for storm in storms {
            storm.join().unwrap();
        }
        eventually(before, || server.descriptors());
    });
}
