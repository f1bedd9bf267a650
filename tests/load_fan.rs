//! `ringmill load --fan`: one publishes and all others read, by WebSocket and as server-sent events; and what must not pass for it.
#![cfg(feature = "cli")]

mod common;

use common::program::{Program, ringmill, run};
use common::{config, ip, on_both_drivers, start};
use ringmill::DriverChoice;
use ringmill::http::{self, Request};
use ringmill::websocket::{Accept, Endpoint, Handler, Message, Ws};
use serde_json::Value;
use std::time::Instant;

/// Exit status and report of a short run.
#[track_caller]
fn load(driver: DriverChoice, url: &str, options: &[&str]) -> (Option<i32>, Value) {
    let mut command = ringmill();
    command.args(["load", url, "--json", "--driver", &driver.to_string()]);
    command.args(["--warmup", "50ms", "--duration", "300ms"]).args(options);
    let (code, output, errors) = run(command);
    let report =
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output:?} {errors:?}"));
    (code, report)
}

#[track_caller]
fn number(report: &Value, name: &str) -> f64 {
    report.pointer(name).and_then(Value::as_f64).unwrap_or_else(|| panic!("{name} in {report:#}"))
}

#[test]
fn every_message_reaches_every_reader() {
    on_both_drivers(|driver| {
        let mut server = Program::serve(driver, &["--workers", "2", "--ws-deflate"]);
        let (address, pid) = (server.http(), server.pid().to_string());
        let cases: &[(&str, &[&str])] = &[
            ("ws://ADDRESS/ws/a", &["--fan", "2"]),
            ("ws://ADDRESS/ws/b", &["--fan", "40", "--workers", "2", "--cpu-of", &pid]),
            ("ws://ADDRESS/ws/c", &["--fan", "20", "--pipeline", "8", "--size", "32"]),
            ("ws://ADDRESS/ws/d", &["--fan", "20", "--deflate", "--size", "4KiB"]),
            ("ws://ADDRESS/ws/e", &["--fan", "10", "--rate", "100"]),
            ("http://ADDRESS/events/f", &["--fan", "20", "--workers", "2"]),
            ("http://ADDRESS/events/g?x=1", &["--fan", "20", "--pipeline", "4", "--size", "4KiB"]),
            ("http://ADDRESS/events/h", &["--fan", "9", "--rate", "100", "--publish", "/publish/h"]),
        ];
        for (url, options) in cases {
            let began = Instant::now();
            let (code, report) = load(driver, &url.replace("ADDRESS", &address.to_string()), options);
            let elapsed = began.elapsed().as_secs_f64();
            assert_eq!((code, number(&report, "/errors")), (Some(0), 0.0), "{options:?}: {report:#}");
            let readers: f64 = options[1].parse::<f64>().unwrap() - 1.0;
            assert_eq!(number(&report, "/fan/readers"), readers);
            let (total, published) = (number(&report, "/requests_total"), number(&report, "/fan/published"));
            // Each message that was sent after all were there was delivered to each of them.
            assert_eq!(total % readers, 0.0, "{options:?}: {report:#}");
            assert!(published > 0.0 && total >= published * readers, "{options:?}: {report:#}");
            if options.contains(&"--rate") {
                // What was due in the warm-up may be late.
                let due = published + number(&report, "/unsent");
                assert!((20.0..=100.0 * elapsed + 1.0).contains(&due), "{options:?}: {report:#}");
            }
            if options.contains(&"--cpu-of") {
                assert!(number(&report, "/fan/watched_cpu_us_per_delivery") > 0.0, "{report:#}");
            }
            if options.contains(&"--deflate") {
                let bytes = number(&report, "/received_bytes") / total;
                assert!(bytes < 3000.0, "{bytes} a message");
            }
        }
        let nobody = ["--fan", "2", "--cpu-of", "4294967295"];
        let (code, report) = load(driver, &format!("ws://{address}/ws/i"), &nobody);
        assert!(report["first_error"].to_string().contains("cannot read /proc/4294967295"), "{report:#}");
        assert_eq!(code, Some(1));
        server.signal(libc::SIGTERM);
        server.wait();
    });
}

/// Sends back what it gets: nobody else hears of it. Or less than it gets.
#[derive(Clone)]
struct Alone {
    spoils: bool,
}

impl Handler for Alone {
    type State = ();

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
        Some(())
    }

    fn open(&mut self, _: &mut (), ws: &mut Ws<'_>) {
        if self.spoils {
            ws.send("this is what nobody has published");
        }
    }

    fn message(&mut self, _: &mut (), message: Message<'_>, ws: &mut Ws<'_>) {
        ws.send(message);
    }
}

#[test]
fn what_reaches_not_everybody_is_an_error() {
    on_both_drivers(|driver| {
        let running = start(config(driver), |_| {
            http::server(|_, reply| reply.text("http"))
                .websocket("/alone", Endpoint::new(Alone { spoils: false }))
                .websocket("/spoils", Endpoint::new(Alone { spoils: true }))
        });
        let address = ip(&running.addresses()[0]);
        let check = |path: &str, kind: &str, said: &str, options: &[&str]| {
            let scheme = if path.starts_with("/events") { "http" } else { "ws" };
            let options = [&["--fan", "5", "--timeout", "300ms"], options].concat();
            let (code, report) = load(driver, &format!("{scheme}://{address}{path}"), &options);
            assert_eq!(code, Some(1), "{report:#}");
            assert!(number(&report, &format!("/errors_by_kind/{kind}")) > 0.0, "{path}: {report:#}");
            assert!(report["first_error"].to_string().contains(said), "{path}: {report:#}");
        };
        check("/alone", "timeout", "0 of 4 readers had a message", &[]);
        check("/spoils", "body", "not what was published", &[]);
        check("/other", "malformed", "no answer to a handshake", &[]);
        check("/events/a", "closed", "the events have ended", &[]);
    });
}

#[test]
fn options_that_are_not_for_it() {
    let check = |arguments: &[&str], words: &str| {
        let mut command = ringmill();
        command.arg("load").args(arguments);
        let (code, _, errors) = run(command);
        assert!(code == Some(1) && errors.contains(words), "{arguments:?}: {code:?} {errors}");
    };
    check(&["tcp://127.0.0.1:1", "--fan", "3"], "--fan is for ws://, wss://, http:// and https:// only");
    check(&["http://127.0.0.1:1/", "--fan", "3"], "--publish is needed");
    check(&["http://127.0.0.1:1/events/a", "--fan", "3", "--publish", "a"], "--publish must be a path");
    check(&["http://127.0.0.1:1/events/a", "--fan", "3", "--deflate"], "--deflate is for ws://");
    check(&["ws://127.0.0.1:1/ws/a", "--fan", "3", "--publish", "/a"], "--publish is for http://");
    check(&["ws://127.0.0.1:1/ws/a", "--fan", "3", "--size", "31"], "--size of --fan must be from 32");
    check(&["ws://127.0.0.1:1/ws/a", "--fan", "3", "--size", "65KiB"], "--size of --fan must be from 32");
}
