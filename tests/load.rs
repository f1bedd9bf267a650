//! `ringmill load` against servers of the library and servers that misbehave: its numbers add up, a stall shows in an
//! open loop, and an error voids the run.
#![cfg(feature = "cli")]

mod common;

use common::program::{self, Program, ringmill, run};
use common::{Directory, config, eventually, ip, on_both_drivers, start};
use ringmill::http::{self, Limits, Server};
use ringmill::{DriverChoice, Echo, Engine, Running, UdpEcho};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// `ringmill load` of a short run.
fn load(driver: DriverChoice, url: &str, options: &[&str]) -> Command {
    let mut command = ringmill();
    command.args(["load", url, "--driver", &driver.to_string(), "--pin", "off"]);
    for (option, value) in [("--duration", "500ms"), ("--warmup", "100ms"), ("--connections", "8")] {
        if !options.contains(&option) {
            command.args([option, value]);
        }
    }
    command.args(options);
    command
}

/// Runs it with `--json`: exit status and report.
#[track_caller]
fn report(driver: DriverChoice, url: &str, options: &[&str]) -> (Option<i32>, Value) {
    let mut command = load(driver, url, options);
    command.arg("--json");
    let (code, output, errors) = run(command);
    let report =
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output:?} {errors:?}"));
    (code, report)
}

/// The same for a run without errors.
#[track_caller]
fn good(driver: DriverChoice, url: &str, options: &[&str]) -> Value {
    let (code, report) = report(driver, url, options);
    assert_eq!((code, number(&report, "errors")), (Some(0), 0), "{options:?}: {report:#}");
    report
}

#[track_caller]
fn number(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report:#}"))
}

#[track_caller]
fn float(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path} in {report:#}"))
}

fn hello(driver: DriverChoice) -> (Running, String) {
    let running = start(config(driver), |_| http::server(|_, reply| reply.text("hello")));
    let url = format!("http://{}/", ip(&running.addresses()[0]));
    (running, url)
}

#[test]
fn client_and_server_count_the_same() {
    on_both_drivers(|driver| {
        for options in [
            &[][..],
            &["--pipeline", "8"],
            &["--workers", "2"],
            &["--requests-per-connection", "1"],
            &["--requests-per-connection", "7", "--pipeline", "3"],
            &["--requests-per-connection", "1", "--sources", "20"],
            &["--rate", "400"],
            &["--rate", "400", "--workers", "2", "--requests-per-connection", "5", "--pipeline", "2"],
            &["--connections", "1", "--warmup", "0", "--duration", "200ms"],
        ] {
            let (running, url) = hello(driver);
            let report = good(driver, &url, options);
            let total = || running.stats().total();
            eventually(0, || total().connections);
            let counted = (number(&report, "requests_total"), number(&report, "sent_total"));
            assert_eq!(counted, (total().requests, total().requests), "{options:?}");
            // One connection more: the first, which only looks whether anybody listens.
            assert_eq!(number(&report, "connects") + 1, total().accepted, "{options:?}");
            let bytes = (number(&report, "sent_bytes"), number(&report, "received_bytes"));
            assert_eq!(bytes, (total().received_bytes, total().sent_bytes), "{options:?}");
            let requests = number(&report, "requests");
            assert!(requests > 0 && requests <= counted.0, "{options:?}: {report:#}");
            assert_eq!(number(&report["statuses"], "2xx"), requests);
            let rate = float(&report, "/requests_per_second") * float(&report, "/duration_seconds");
            assert!((rate - requests as f64).abs() < 1.0, "{report:#}");
        }
    });
}

#[test]
fn what_the_server_ends_is_asked_again() {
    on_both_drivers(|driver| {
        let limits = Limits { requests_max: Some(5), ..Limits::default() };
        let running = start(config(driver), move |_| {
            Server::new(|_: &http::Request<'_>, reply: &mut http::Reply<'_>| reply.text("hello"))
                .with_limits(limits.clone())
        });
        let url = format!("http://{}/", ip(&running.addresses()[0]));
        for options in [&[][..], &["--pipeline", "4"], &["--pipeline", "4", "--rate", "300"]] {
            let before = running.stats().total().requests;
            let report = good(driver, &url, options);
            let served = running.stats().total().requests - before;
            assert_eq!(number(&report, "requests_total"), served, "{options:?}: {report:#}");
            assert!(number(&report, "connects") >= served / 5, "{options:?}: {report:#}");
        }
    });
}

#[test]
fn the_json_has_its_names() {
    let (_running, url) = hello(DriverChoice::Poll);
    let report = good(DriverChoice::Poll, &url, &["--rate", "200"]);
    for name in ["p50", "p75", "p90", "p99", "p99_9", "p99_99", "max", "mean", "min"] {
        assert!(float(&report["latency_us"], &format!("/{name}")) > 0.0, "{name}");
    }
    let at = |name: &str| float(&report, &format!("/latency_us/{name}"));
    let rising = ["min", "p50", "p75", "p90", "p99", "p99_9", "p99_99", "max"];
    assert!(rising.windows(2).all(|pair| at(pair[0]) <= at(pair[1])), "{report:#}");
    for name in
        ["requests_per_second", "duration_seconds", "warmup_seconds", "cpu_seconds", "cpu_us_per_request"]
    {
        assert!(report[name].is_f64(), "{name} in {report:#}");
    }
    for name in [
        "requests",
        "requests_total",
        "sent_total",
        "unsent",
        "errors",
        "connects",
        "sent_bytes",
        "received_bytes",
    ] {
        number(&report, name);
    }
    for kind in ["connect", "timeout", "tls", "reset", "closed", "malformed", "status", "body"] {
        assert_eq!(number(&report["errors_by_kind"], kind), 0);
    }
    assert_eq!((&report["url"], &report["tls"]), (&url.as_str().into(), &Value::Null));
    assert_eq!((&report["driver"], &report["rate"]), (&"poll".into(), &200.0.into()));
    assert_eq!((&report["interrupted"], &report["first_error"]), (&false.into(), &Value::Null));
    assert_eq!(
        (number(&report, "connections"), number(&report, "workers"), number(&report, "pipeline")),
        (8, 1, 1)
    );
    assert!(float(&report, "/cpu_seconds") > 0.0);
}

/// A server that answers its `nth` request late by `stall`, and meanwhile nobody.
fn stalling(driver: DriverChoice, nth: u64, stall: Duration) -> (Running, String) {
    let count = Arc::new(AtomicU64::new(0));
    let running = start(config(driver), move |_| {
        let count = count.clone();
        http::server(move |_, reply| {
            if count.fetch_add(1, Relaxed) + 1 == nth {
                std::thread::sleep(stall);
            }
            reply.text("hello");
        })
    });
    let url = format!("http://{}/", ip(&running.addresses()[0]));
    (running, url)
}

#[test]
fn an_open_loop_counts_a_stall_in_every_request_that_was_due() {
    on_both_drivers(|driver| {
        // 400 ms of 1 s: of the 400 requests that are due, 160 wait, and evenly from 400 ms to nothing.
        let (_running, url) = stalling(driver, 100, Duration::from_millis(400));
        let options = ["--rate", "400", "--connections", "4", "--duration", "1s", "--warmup", "0"];
        let report = good(driver, &url, &options);
        assert_eq!(number(&report, "requests_total") + number(&report, "unsent"), 400, "{report:#}");
        assert!(float(&report, "/latency_us/max") >= 390e3, "{report:#}");
        // Were it counted from when it was sent, only four in 400 would show it.
        assert!(float(&report, "/latency_us/p90") >= 100e3, "{report:#}");
    });
}

/// The largest rate that is taken: what is due and not sent is reckoned, not counted one by one.
#[test]
fn a_rate_far_beyond_what_can_be_sent_ends_in_time() {
    on_both_drivers(|driver| {
        let running = Engine::builder()
            .config(config(driver))
            .listen("127.0.0.1:0", |_| http::server(|_, reply| reply.text("hello")))
            .datagrams("127.0.0.1:0", |_| UdpEcho::default().with_peer_rate(0))
            .start()
            .unwrap();
        let (http, udp) = (ip(&running.addresses()[0]), ip(&running.datagram_addresses()[0]));
        for url in [format!("http://{http}/"), format!("udp://{udp}")] {
            let options = ["--rate", "1000000000", "--duration", "1s", "--warmup", "0"];
            let report = good(driver, &url, &options);
            let (total, unsent) = (number(&report, "requests_total"), number(&report, "unsent"));
            assert_eq!(total + unsent, 1_000_000_000, "{report:#}");
            // Evenly from a second to nothing.
            let median = float(&report, "/latency_us/p50");
            assert!((0.4e6..0.6e6).contains(&median), "{report:#}");
        }
    });
}

#[test]
fn a_stall_at_the_end_is_not_cut_off() {
    on_both_drivers(|driver| {
        let (_running, url) = stalling(driver, 100, Duration::from_millis(900));
        let options = ["--rate", "200", "--connections", "2", "--duration", "1s", "--warmup", "0"];
        let report = good(driver, &url, &options);
        assert!(number(&report, "unsent") >= 50, "{report:#}");
        assert_eq!(number(&report, "requests_total") + number(&report, "unsent"), 200, "{report:#}");
        assert!(float(&report, "/latency_us/p90") >= 300e3, "{report:#}");
        // The late answers are not part of the rate.
        assert!(number(&report, "requests") < number(&report, "requests_total"), "{report:#}");
    });
}

#[test]
fn a_wrong_status_or_body_voids_the_run() {
    on_both_drivers(|driver| {
        let count = Arc::new(AtomicU64::new(0));
        let running = start(config(driver), move |_| {
            let count = count.clone();
            http::server(move |request, reply| match request.path() {
                "/hello" => reply.text("hello"),
                "/echo" => reply.body(request.body()),
                "/count" => reply.text(&format!("{:08}", count.fetch_add(1, Relaxed))),
                "/teapot" => reply.status(418).text("no coffee"),
                "/method" => reply.text(request.method().as_str()),
                _ => reply.status(404).text("404"),
            })
        });
        let address = ip(&running.addresses()[0]);
        let directory = Directory::new();
        let file = directory.file("body");
        std::fs::write(&file, vec![b'x'; 100_000]).unwrap();
        let at_file = format!("@{file}");
        let check = |path: &str, options: &[&str], failure: Option<&str>| {
            let url = format!("http://{address}{path}");
            let mut all = vec!["--duration", "200ms", "--warmup", "0"];
            all.extend(options);
            let (code, report) = report(driver, &url, &all);
            let errors = number(&report, "errors");
            match failure {
                None => assert_eq!((code, errors), (Some(0), 0), "{path} {options:?}: {report:#}"),
                Some(kind) => {
                    assert_eq!(code, Some(1), "{path} {options:?}: {report:#}");
                    assert!(errors > 0, "{path} {options:?}: {report:#}");
                    assert_eq!(number(&report["errors_by_kind"], kind), errors, "{report:#}");
                    assert!(report["first_error"].is_string());
                }
            }
        };
        check("/hello", &["--expect-body", "hello"], None);
        check("/hello", &["--expect-body", "hellO"], Some("body"));
        check("/hello", &["--expect-body", "hello!"], Some("body"));
        check("/hello", &["--expect-body", "hell"], Some("body"));
        check("/hello", &["--expect-length", "5"], None);
        check("/hello", &["--expect-length", "6"], Some("body"));
        check("/hello", &["--expect-same", "--pipeline", "4"], None);
        check("/count", &["--expect-length", "8"], None);
        check("/count", &["--expect-same"], Some("body"));
        check("/nothing", &[], Some("status"));
        check("/nothing", &["--expect-status", "404"], None);
        check("/hello", &["--expect-status", "204"], Some("status"));
        check("/teapot", &["--expect-status", "418", "--expect-body", "no coffee"], None);
        check("/echo", &["--body", &at_file, "--expect-body", &at_file, "--pipeline", "3"], None);
        check("/method", &["--body", "x", "--expect-body", "POST"], None);
        check("/method", &["--method", "PUT", "--expect-body", "PUT"], None);
        check("/method", &["--method", "HEAD", "--expect-length", "0", "--pipeline", "2"], None);
        check("/hello", &["--header", "Expect: nonsense"], Some("status"));
    });
}

#[test]
fn a_url_becomes_the_target_that_it_names() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| {
            http::server(|request, reply| reply.text(&format!("{} {:?}", request.target(), request.host())))
        });
        let host = ip(&running.addresses()[0]).to_string();
        let check = |rest: &str, target: &str| {
            let body = format!("{target} {:?}", Some(&host));
            let url = format!("http://{host}{rest}");
            good(driver, &url, &["--duration", "200ms", "--warmup", "0", "--expect-body", &body]);
        };
        check("", "/");
        check("?x=1", "/?x=1");
        check("/?q=\u{fc}", "/?q=%C3%BC");
        check("/a/%C3%BC?x=1#part", "/a/%C3%BC?x=1");
    });
}

/// What of a request's framing depends on its method (RFC 9110, 8.6).
#[test]
fn a_request_that_could_have_a_body_says_that_it_has_none() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| {
            http::server(|request, reply| {
                let length = request.field("content-length").map(String::from_utf8_lossy);
                reply.text(&format!("{} {length:?} {}", request.method().as_str(), request.body().len()))
            })
        });
        let url = format!("http://{}/", ip(&running.addresses()[0]));
        let check = |options: &[&str], expected: &str| {
            let all =
                [&["--duration", "200ms", "--warmup", "0", "--expect-body", expected], options].concat();
            good(driver, &url, &all);
        };
        check(&["-X", "POST"], "POST Some(\"0\") 0");
        check(&["-X", "PUT"], "PUT Some(\"0\") 0");
        check(&["-X", "PATCH"], "PATCH Some(\"0\") 0");
        check(&["-X", "GET"], "GET None 0");
        check(&["-X", "DELETE"], "DELETE None 0");
        check(&["-X", "OPTIONS"], "OPTIONS None 0");
        // Said by the user, or in another way.
        check(&["-X", "POST", "-H", "content-length: 0"], "POST Some(\"0\") 0");
        check(&["-X", "POST", "-H", "Transfer-Encoding: chunked", "--body", "0\r\n\r\n"], "POST None 0");
        check(&["--body", ""], "POST Some(\"0\") 0");
        check(&["-X", "GET", "--body", "x"], "GET Some(\"1\") 1");
    });
}

/// `localhost` may be ::1 and then 127.0.0.1, or the other way round; whichever has the server is found.
#[test]
fn a_name_is_served_at_any_of_its_addresses() {
    on_both_drivers(|driver| {
        let mut all: Vec<IpAddr> = ("localhost", 0).to_socket_addrs().unwrap().map(|at| at.ip()).collect();
        all.dedup();
        for address in all {
            let running = Engine::builder()
                .config(config(driver))
                .listen(SocketAddr::new(address, 0), |_| http::server(|_, reply| reply.text("hello")))
                .listen(SocketAddr::new(address, 0), |_| Echo::default())
                .datagrams(SocketAddr::new(address, 0), |_| UdpEcho::default().with_peer_rate(0))
                .start()
                .unwrap();
            let port = |address| ip(address).port();
            let options = ["--duration", "200ms", "--warmup", "0"];
            let [http, tcp] = [0, 1].map(|n| port(&running.addresses()[n]));
            good(driver, &format!("http://localhost:{http}/"), &options);
            good(driver, &format!("tcp://localhost:{tcp}"), &options);
            good(driver, &format!("udp://localhost:{}", port(&running.datagram_addresses()[0])), &options);
        }
    });
}

#[test]
fn raw_requests_come_as_often_as_their_weights_say() {
    on_both_drivers(|driver| {
        let counts = [0, 1].map(|_| Arc::new(AtomicU64::new(0)));
        let served = counts.clone();
        let running = start(config(driver), move |_| {
            let served = served.clone();
            http::server(move |request, reply| {
                let which = usize::from(request.path() == "/b" && request.body() == b"body");
                served[which].fetch_add(1, Relaxed);
                reply.text(request.path());
            })
        });
        let url = format!("http://{}/", ip(&running.addresses()[0]));
        let directory = Directory::new();
        let (a, b) = (directory.file("a"), directory.file("b"));
        std::fs::write(&a, "GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        std::fs::write(&b, "POST /b HTTP/1.1\r\nHost: {host}\r\nContent-Length: 4\r\n\r\nbody").unwrap();
        let options = ["--raw", &format!("3:{a}"), "--raw", &b, "--expect-same", "--pipeline", "2"];
        let report = good(driver, &url, &options);
        let counts = counts.map(|count| count.load(Relaxed));
        assert_eq!(counts[0] + counts[1], number(&report, "requests_total"));
        assert!(counts[1] > 0 && (counts[0] as f64 / counts[1] as f64 - 3.0).abs() < 0.2, "{counts:?}");
    });
}

/// A server that reads a request and then does this with the connection, on each one.
fn rough(answer: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                // The client's first look sends nothing.
                if stream.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0) {
                    answer(stream);
                }
            });
        }
    });
    address
}

#[test]
fn a_server_that_misbehaves_is_an_error_of_its_kind() {
    on_both_drivers(|driver| {
        let check = |answer: fn(TcpStream), kind: &str| {
            let url = format!("http://{}/", rough(answer));
            let options = ["--connections", "2", "--timeout", "300ms", "--duration", "700ms"];
            let (code, report) = report(driver, &url, &options);
            assert_eq!(code, Some(1), "{kind}: {report:#}");
            assert!(number(&report["errors_by_kind"], kind) > 0, "{kind}: {report:#}");
            number(&report, "requests_total")
        };
        let none = |answer, kind| assert_eq!(check(answer, kind), 0, "{kind}");
        none(drop, "closed");
        none(
            |mut stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort").unwrap(),
            "closed",
        );
        none(|mut stream| stream.write_all(b"nonsense\r\n\r\n").unwrap(), "malformed");
        none(common::reset, "reset");
        none(
            |stream| {
                std::thread::sleep(Duration::from_secs(2));
                drop(stream);
            },
            "timeout",
        );
        // The response is good; what follows it was not asked for.
        let more: fn(TcpStream) =
            |mut stream| stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nand more").unwrap();
        assert!(check(more, "malformed") > 0);
    });
}

#[test]
fn a_body_may_end_with_the_connection() {
    on_both_drivers(|driver| {
        let url = format!(
            "http://{}/",
            rough(|mut stream| stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").unwrap())
        );
        let report = good(driver, &url, &["--expect-body", "all of it"]);
        // What was connecting at the end was not asked any more.
        let (requests, connects) = (number(&report, "requests_total"), number(&report, "connects"));
        assert!(requests <= connects && connects <= requests + 8, "{report:#}");
    });
}

/// A user agent reads a folded field as one line (RFC 9112, 5.2).
#[test]
fn folded_fields_are_read_as_one_line() {
    on_both_drivers(|driver| {
        let check = |answer: fn(TcpStream)| {
            let url = format!("http://{}/", rough(answer));
            good(driver, &url, &["--duration", "200ms", "--warmup", "0", "--expect-body", "hello"]);
        };
        check(|mut stream| {
            let head = "HTTP/1.1 200 OK\r\nX-A: b\r\n  c\r\nContent-Length:\r\n\t5\r\nConnection: x,\r\n close\r\n\r\n";
            stream.write_all(format!("{head}hello").as_bytes()).unwrap();
        });
        check(|mut stream| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\nConnection: close\r\n\r\n";
            let body = "5\r\nhello\r\n0\r\nX-A: b\r\n  c\r\n\r\n";
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        });
    });
}

#[test]
fn echoes_add_up() {
    on_both_drivers(|driver| {
        let running = Engine::builder()
            .config(config(driver))
            .listen("127.0.0.1:0", |_| Echo::default())
            .datagrams("127.0.0.1:0", |_| UdpEcho::default().with_peer_rate(0))
            .start()
            .unwrap();
        let (tcp, udp) = (ip(&running.addresses()[0]), ip(&running.datagram_addresses()[0]));
        for options in [
            &[][..],
            &["--size", "100KiB", "--pipeline", "4"],
            &["--size", "1", "--rate", "500", "--workers", "2"],
        ] {
            let before = running.stats().total();
            let report = good(driver, &format!("tcp://{tcp}"), options);
            let after = running.stats().total();
            let bytes = (number(&report, "sent_bytes"), number(&report, "received_bytes"));
            assert_eq!(bytes.0, after.received_bytes - before.received_bytes, "{options:?}");
            assert_eq!(bytes, (bytes.0, bytes.0), "{options:?}");
            assert_eq!(number(&report, "requests_total"), number(&report, "sent_total"), "{options:?}");
        }
        for options in [&[][..], &["--pipeline", "4", "--size", "1200"], &["--rate", "500", "--workers", "2"]]
        {
            let before = running.stats().total();
            let report = good(driver, &format!("udp://{udp}"), options);
            let after = running.stats().total();
            let requests = number(&report, "requests_total");
            assert_eq!(requests, after.datagrams_received - before.datagrams_received, "{options:?}");
            assert_eq!(requests, number(&report, "sent_total"), "{options:?}");
            assert_eq!(number(&report, "connects"), 8);
        }
    });
}

#[test]
fn an_echo_that_is_not_one_is_an_error() {
    on_both_drivers(|driver| {
        let (_running, url) = hello(driver);
        let url = url.replace("http://", "tcp://");
        let (code, report) = report(driver, url.trim_end_matches('/'), &["--timeout", "300ms"]);
        assert_eq!((code, number(&report, "requests_total")), (Some(1), 0), "{report:#}");
        assert!(number(&report, "errors") > 0);
        // Nobody answers datagrams there.
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let url = format!("udp://{}", silent.local_addr().unwrap());
        let (code, report) = self::report(driver, &url, &["--timeout", "200ms"]);
        assert_eq!((code, number(&report, "requests_total")), (Some(1), 0), "{report:#}");
        assert!(number(&report["errors_by_kind"], "timeout") > 0, "{report:#}");
    });
}

#[test]
fn bad_input_is_one_clear_line() {
    let check = |arguments: &[&str], code: i32, word: &str| {
        let mut command = ringmill();
        command.arg("load").args(arguments);
        let (status, output, errors) = run(command);
        assert_eq!(status, Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(word) && output.is_empty(), "{arguments:?}: {word:?} in {errors:?}");
    };
    let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let deaf = format!("http://{}/", bound.local_addr().unwrap().as_socket().unwrap());
    check(&[&deaf], 1, "Connection refused (os error 111) (nobody listens there");
    check(&[&format!("http://{}.test/", "a".repeat(64))], 1, "cannot resolve");
    check(&["http://192.0.2.1/"], 1, "--allow-public");
    check(&["udp://[2001:db8::1]:7"], 1, "--allow-public");
    check(&["http://127.0.0.1/", "--insecure"], 1, "--insecure is for https://");
    check(&["tcp://127.0.0.1:7", "--no-resume"], 1, "--no-resume is for https://");
    check(&["https://127.0.0.1/", "--cert", "a"], 2, "--key");
    check(&["https://127.0.0.1/", "--cacert", "a", "--insecure"], 2, "cannot be used with");
    check(&["ftp://127.0.0.1/"], 2, "unknown scheme");
    check(&["127.0.0.1:80"], 2, "no scheme");
    check(&["tcp://127.0.0.1:7", "--header", "a: b"], 1, "--header is for http://");
    check(&["udp://127.0.0.1:7", "--requests-per-connection", "1"], 1, "not for udp://");
    check(&["udp://127.0.0.1:7", "--sources", "2"], 1, "--sources is for");
    check(&["http://[::1]:1/", "--sources", "2"], 1, "--sources is for");
    check(&["udp://127.0.0.1:7", "--size", "4"], 1, "from 8 to 65507");
    check(&[&deaf, "--rate", "0"], 2, "requests a second");
    check(&[&deaf, "--connections", "0"], 2, "--connections");
    check(&[&deaf, "--workers", "0"], 2, "0 workers");
    check(&[&deaf, "--duration", "soon"], 2, "duration");
    check(&[&deaf, "--header", "nonsense"], 2, "NAME: VALUE");
    check(&[&deaf, "--raw", "/nonexistent"], 1, "os error");
    check(&[&deaf, "--raw", "a", "--body", "b"], 2, "cannot be used with");
}

#[test]
fn too_few_descriptors_are_said_beforehand() {
    let mut command = program::clean(Command::new("sh"));
    command.args(["-c", "ulimit -n 100; exec \"$0\" load http://127.0.0.1:1/ --connections 64"]);
    command.arg(program::ringmill_path());
    let (code, _, errors) = run(command);
    assert_eq!(code, Some(1));
    assert!(errors.contains("room is for 36; raise `ulimit -n`"), "{errors}");
}

#[test]
fn a_raw_request_without_an_end_is_refused_before_anything_is_sent() {
    let (running, url) = hello(DriverChoice::Poll);
    let directory = Directory::new();
    let file = directory.file("request");
    std::fs::write(&file, "GET / HTTP/1.1\nHost: x\n\n").unwrap();
    let (code, _, errors) = run(load(DriverChoice::Poll, &url, &["--raw", &file]));
    assert_eq!(code, Some(1));
    assert!(errors.contains("end in CR LF"), "{errors}");
    assert_eq!(running.stats().total().requests, 0);
}

#[test]
fn an_interrupt_ends_early_with_a_result() {
    on_both_drivers(|driver| {
        let (running, url) = hello(driver);
        let command = load(driver, &url, &["--duration", "10m", "--warmup", "0", "--json"]);
        let mut program = Program::start(command, "as fast as it goes");
        eventually(true, || running.stats().total().requests > 1000);
        program.signal(libc::SIGINT);
        let status = program.wait();
        eventually(true, || program.line_with("\"cpu_us_per_request\"").is_some());
        assert_eq!(status.code(), Some(0), "{:?}", program.lines());
        assert!(program.line_with("\"interrupted\": true").is_some(), "{:?}", program.lines());
    });
}

#[test]
fn a_server_that_goes_away_is_an_error_and_the_run_ends_in_time() {
    on_both_drivers(|driver| {
        let (running, url) = hello(driver);
        let mut command = load(driver, &url, &["--duration", "1500ms", "--warmup", "0"]);
        command.arg("--json");
        let loading = std::thread::spawn(move || run(command));
        eventually(true, || running.stats().total().requests > 100);
        drop(running);
        let (code, output, errors) = loading.join().unwrap();
        let report: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {errors}"));
        assert_eq!(code, Some(1), "{report:#}");
        assert!(number(&report["errors_by_kind"], "connect") > 0, "{report:#}");
    });
}

#[test]
fn text_goes_to_standard_output_and_no_progress_to_a_pipe() {
    let (_running, url) = hello(DriverChoice::Poll);
    let (code, output, errors) = run(load(DriverChoice::Poll, &url, &["--duration", "1500ms"]));
    assert_eq!(code, Some(0), "{errors}");
    for word in ["requests ", " a second", "p99.99", "own CPU", "errors      none"] {
        assert!(output.contains(word), "{word:?} in {output}");
    }
    assert_eq!(errors.lines().count(), 1, "only what it is about to do: {errors}");
    assert!(errors.contains(&url) && errors.contains("8 connections"), "{errors}");
}
