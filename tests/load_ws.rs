//! `ringmill load ws://`: messages to a WebSocket and back, counted, compared, compressed; and servers that are none.
#![cfg(feature = "cli")]

mod common;

use common::program::{ringmill, run};
use common::{config, ip, on_both_drivers, start};
use ringmill::http::{self, Request};
use ringmill::websocket::{Accept, Deflate, Endpoint, Handler, Message, Options, Ws};
use ringmill::{DriverChoice, Running};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

#[derive(Clone, Default)]
struct Echo {
    messages: Arc<AtomicU64>,
    spoils: bool,
    closes: bool,
}

impl Handler for Echo {
    type State = ();

    fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
        Some(())
    }

    fn message(&mut self, _: &mut (), message: Message<'_>, ws: &mut Ws<'_>) {
        let number = self.messages.fetch_add(1, Relaxed);
        match message {
            _ if self.closes && number > 20 => ws.close(1013, "come back later"),
            Message::Binary(bytes) if self.spoils => ws.send(&bytes[1..]),
            message => ws.send(message),
        }
    }
}

fn serve(driver: DriverChoice, echo: &Echo) -> (Running, String) {
    let echo = echo.clone();
    let running = start(config(driver), move |_| {
        let options = Options {
            message_bytes_max: 1 << 20,
            deflate: Some(Deflate::default()),
            // So that the generator has to answer Pings while it has nothing to say.
            ping_after: Duration::from_millis(100),
            pong_within: Duration::from_millis(200),
            ..Options::default()
        };
        http::server(|_, reply| reply.text("http"))
            .websocket("/ws", Endpoint::with_options(echo.clone(), options))
    });
    let url = format!("ws://{}/ws", ip(&running.addresses()[0]));
    (running, url)
}

/// Exit status and report of a short run.
#[track_caller]
fn load(driver: DriverChoice, url: &str, options: &[&str]) -> (Option<i32>, Value) {
    let mut command = ringmill();
    command.args([
        "load",
        url,
        "--driver",
        &driver.to_string(),
        "--json",
        "--connections",
        "8",
        "--warmup",
        "0",
    ]);
    if !options.contains(&"--duration") {
        command.args(["--duration", "300ms"]);
    }
    command.args(options);
    let (code, output, errors) = run(command);
    let report =
        serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output:?} {errors:?}"));
    (code, report)
}

#[track_caller]
fn number(report: &Value, name: &str) -> u64 {
    report.pointer(name).and_then(Value::as_u64).unwrap_or_else(|| panic!("{name} in {report:#}"))
}

#[test]
fn messages_add_up() {
    on_both_drivers(|driver| {
        let size = 5000.to_string();
        for options in [
            &[][..],
            &["--pipeline", "16"],
            &["--size", "200KiB"],
            &["--requests-per-connection", "3"],
            &["--workers", "2", "--rate", "500"],
            &["--deflate", "--size", &size],
            &["--deflate", "--size", "64KiB", "--pipeline", "4"],
        ] {
            let echo = Echo::default();
            let (_running, url) = serve(driver, &echo);
            let (code, report) = load(driver, &url, options);
            assert_eq!((code, number(&report, "/errors")), (Some(0), 0), "{options:?}: {report:#}");
            let requests = number(&report, "/requests_total");
            assert!(requests > 0, "{options:?}: {report:#}");
            assert_eq!(requests, echo.messages.load(Relaxed), "{options:?}: {report:#}");
            if options.contains(&"--deflate") {
                let bytes = number(&report, "/received_bytes") / requests;
                assert!(bytes < 2000, "{options:?}: {bytes} a message");
            }
        }
    });
}

#[test]
fn pings_are_answered_by_who_has_nothing_to_say() {
    on_both_drivers(|driver| {
        let (running, url) = serve(driver, &Echo::default());
        let (code, report) = load(driver, &url, &["--rate", "4", "--duration", "1500ms"]);
        assert_eq!((code, number(&report, "/errors")), (Some(0), 0), "{report:#}");
        // The eight, and the one that looked whether anybody listens.
        assert_eq!(running.stats().total().accepted, 9, "{report:#}");
    });
}

#[test]
fn what_goes_wrong_is_an_error_of_its_kind() {
    on_both_drivers(|driver| {
        let (_spoiling, url) = serve(driver, &Echo { spoils: true, ..Echo::default() });
        let (code, report) = load(driver, &url, &[]);
        assert!(code == Some(1) && number(&report, "/errors_by_kind/body") > 0, "{report:#}");
        let (_closing, url) = serve(driver, &Echo { closes: true, ..Echo::default() });
        let (code, report) = load(driver, &url, &[]);
        assert!(code == Some(1) && number(&report, "/errors_by_kind/closed") > 0, "{report:#}");
        let (code, report) = load(driver, &url.replace("/ws", "/"), &[]);
        assert!(code == Some(1) && number(&report, "/errors_by_kind/malformed") > 0, "{report:#}");
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
    check(&["http://127.0.0.1:1/", "--deflate"], "--deflate is for ws:// and wss:// only");
    check(&["ws://127.0.0.1:1/", "--expect-same"], "--expect-same is for http:// and https:// only");
    check(&["ws://127.0.0.1:1/", "--size", "2MiB"], "--size must be from 1 to");
}
