//! What the user sees: the announcement, the progress line, the result as text or JSON.

use super::Load;
use super::tally::{Agreed, Failure, Handshakes, Tally, histogram};
use super::target::Scheme;
use super::worker::Setup;
use hdrhistogram::Histogram;
use ringmill::Running;
use ringmill_console::terminal;
use serde::Serialize;
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Says what is about to be done, before the first request's answer can be back.
pub(super) fn announce(load: &Load, setup: &Setup, address: SocketAddr, running: &Running) {
    let mut text = format!("{} at {address}: {} connections", url(load), setup.connections);
    if load.target.scheme == Scheme::Udp {
        text = format!("{} at {address}: {} sockets", url(load), setup.connections);
    }
    if load.fan.connections().is_some() {
        text = format!("{} at {address}: 1 publisher, {} readers", url(load), setup.connections - 1);
    }
    if setup.pipeline > 1 {
        let what = if load.fan.connections().is_some() { "messages under way" } else { "requests each" };
        let _ = write!(text, " with {} {what}", setup.pipeline);
    }
    if let Some(requests) = setup.requests_per_connection {
        let _ = write!(text, ", closed after {requests} request(s)");
    }
    let _ = match setup.rate {
        Some(rate) => write!(text, "; {rate} a second, timed from when they are due"),
        None => write!(text, "; as fast as it goes"),
    };
    let _ = write!(text, "; {:?} after {:?} of warm-up", load.duration, load.warmup);
    let _ = write!(text, "; {} worker(s), driver {}", setup.workers, running.driver());
    terminal::remark(text);
}

fn url(load: &Load) -> String {
    let target = &load.target;
    match target.scheme {
        Scheme::Http | Scheme::Ws => {
            let scheme = match (target.scheme, target.is_secure) {
                (Scheme::Ws, false) => "ws",
                (Scheme::Ws, true) => "wss",
                (_, false) => "http",
                (_, true) => "https",
            };
            format!("{scheme}://{}{}", target.authority, target.path)
        }
        Scheme::Tcp => format!("tcp://{}", target.authority),
        Scheme::Udp => format!("udp://{}", target.authority),
    }
}

/// One line on a terminal that is written over and over.
pub(super) struct ProgressLine<'a> {
    setup: &'a Setup,
    begin: Instant,
    before: (Instant, u64),
}

impl<'a> ProgressLine<'a> {
    pub(super) const INTERVAL: Duration = Duration::from_millis(1000);

    pub(super) fn new(setup: &'a Setup) -> ProgressLine<'a> {
        let begin = Instant::now();
        ProgressLine { setup, begin, before: (begin, 0) }
    }

    /// Rate and p99 since it was last shown.
    pub(super) fn show(&mut self) {
        if self.setup.live.is_empty() {
            return;
        }
        let (mut requests, mut latency) = (0, histogram());
        for live in &self.setup.live {
            let mut live = live.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            requests += live.requests;
            latency.add(&live.latency).expect("all histograms have the same bounds");
            live.latency.reset();
        }
        let now = Instant::now();
        let (then, before) = std::mem::replace(&mut self.before, (now, requests));
        let rate = requests.saturating_sub(before) as f64 / (now - then).as_secs_f64().max(1e-3);
        let p99 = latency.value_at_quantile(0.99);
        let stage = if self.begin.elapsed() < self.setup.warmup { "warming up, " } else { "" };
        terminal::progress(&format!(
            "{:>4.0} s  {stage}{rate:.0} requests/s  p99 {}",
            self.begin.elapsed().as_secs_f64(),
            time(p99 as f64)
        ));
    }

    pub(super) fn clear(&self) {
        if !self.setup.live.is_empty() {
            terminal::progress("");
        }
    }
}

/// The result of a run. Its JSON form is what other programs read: names stay.
#[derive(Serialize)]
pub(super) struct Report {
    url: String,
    driver: &'static str,
    workers: usize,
    connections: usize,
    pipeline: usize,
    requests_per_connection: Option<u32>,
    /// The rate asked for; null in a closed loop.
    rate: Option<f64>,
    warmup_seconds: f64,
    /// The measured time.
    duration_seconds: f64,
    /// A signal ended it early.
    interrupted: bool,
    /// Good responses in the measured time.
    requests: u64,
    requests_per_second: f64,
    /// Good responses in all, with the warm-up and the last ones after the end.
    requests_total: u64,
    /// Requests sent in all.
    sent_total: u64,
    /// Requests that were due by the rate and were not sent by the end.
    unsent: u64,
    errors: u64,
    errors_by_kind: Map<String, Value>,
    first_error: Option<String>,
    /// Responses in the measured time by their status; none for an echo.
    statuses: Map<String, Value>,
    connects: u64,
    /// Null without TLS.
    tls: Option<Tls>,
    /// Null without --fan; with it, requests are deliveries.
    fan: Option<FanOut>,
    sent_bytes: u64,
    received_bytes: u64,
    /// Microseconds; from the time a request was due, in an open loop, else from when it was sent.
    latency_us: Latency,
    /// CPU time of the load's own workers, all of the run.
    cpu_seconds: f64,
    cpu_us_per_request: f64,
}

/// A fan-out.
#[derive(Serialize)]
struct FanOut {
    readers: usize,
    /// Messages in the measured time.
    published: u64,
    /// CPU time of the process that was watched, from when all readers were there until all had the last message.
    watched_cpu_seconds: Option<f64>,
    watched_cpu_us_per_delivery: Option<f64>,
}

impl FanOut {
    fn new(setup: &Setup, tally: &Tally) -> FanOut {
        let seconds = tally.watched_cpu.map(|cpu| cpu.as_secs_f64());
        FanOut {
            readers: setup.connections - 1,
            published: tally.published,
            watched_cpu_seconds: seconds,
            watched_cpu_us_per_delivery: seconds
                .map(|seconds| ratio(seconds * 1e6, tally.requests_all as f64)),
        }
    }
}

/// TLS, as the first handshake agreed on it, and the handshakes.
#[derive(Serialize)]
struct Tls {
    version: &'static str,
    cipher_suite: &'static str,
    alpn: Option<String>,
    /// In the measured time.
    handshakes: u64,
    handshakes_per_second: f64,
    /// With the warm-up, and what came after the end.
    handshakes_total: u64,
    resumed_total: u64,
    /// From 0 to 1: of those in the measured time, or of all if there were none in it.
    resumed_share: f64,
}

impl Tls {
    fn new(agreed: Agreed, measured: Handshakes, all: Handshakes, seconds: f64) -> Tls {
        let Handshakes { made, resumed } = if measured.made > 0 { measured } else { all };
        Tls {
            version: agreed.version,
            cipher_suite: agreed.cipher_suite,
            alpn: agreed.alpn,
            handshakes: measured.made,
            handshakes_per_second: ratio(measured.made as f64, seconds),
            handshakes_total: all.made,
            resumed_total: all.resumed,
            resumed_share: ratio(resumed as f64, made as f64),
        }
    }
}

fn ratio(count: f64, of: f64) -> f64 {
    if of > 0.0 { count / of } else { 0.0 }
}

#[derive(Serialize)]
struct Latency {
    min: f64,
    mean: f64,
    p50: f64,
    p75: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    p99_99: f64,
    max: f64,
}

impl Latency {
    fn new(latency: &Histogram<u64>) -> Latency {
        let us = |ns: u64| ns as f64 / 1e3;
        let at = |quantile| us(latency.value_at_quantile(quantile));
        Latency {
            min: us(latency.min()),
            mean: latency.mean() / 1e3,
            p50: at(0.5),
            p75: at(0.75),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: us(latency.max()),
        }
    }
}

impl Report {
    pub(super) fn new(
        load: &Load,
        setup: &Setup,
        tally: Tally,
        cpu: Duration,
        driver: &'static str,
    ) -> Report {
        let kinds = Failure::ALL.iter().zip(tally.failures);
        let statuses = tally.statuses.iter().enumerate().skip(1).filter(|(_, count)| **count > 0);
        let seconds = tally.elapsed.as_secs_f64();
        Report {
            url: url(load),
            driver,
            workers: setup.workers,
            connections: setup.connections,
            pipeline: setup.pipeline,
            requests_per_connection: setup.requests_per_connection,
            rate: setup.rate,
            warmup_seconds: setup.warmup.as_secs_f64(),
            duration_seconds: seconds,
            interrupted: setup.stop.load(Relaxed),
            requests: tally.requests,
            requests_per_second: ratio(tally.requests as f64, seconds),
            requests_total: tally.requests_all,
            sent_total: tally.sent,
            unsent: tally.unsent,
            errors: tally.errors(),
            errors_by_kind: kinds.map(|((_, name), count)| ((*name).to_owned(), count.into())).collect(),
            statuses: statuses.map(|(digit, count)| (format!("{digit}xx"), (*count).into())).collect(),
            connects: tally.connects,
            fan: load.fan.connections().map(|_| FanOut::new(setup, &tally)),
            tls: tally.agreed.map(|agreed| Tls::new(agreed, tally.handshakes, tally.handshakes_all, seconds)),
            sent_bytes: tally.sent_bytes,
            received_bytes: tally.received_bytes,
            latency_us: Latency::new(&tally.latency),
            cpu_seconds: cpu.as_secs_f64(),
            cpu_us_per_request: ratio(cpu.as_secs_f64() * 1e6, tally.requests_all as f64),
            first_error: tally.first_failure,
        }
    }

    /// Whether the figures mean something: there were responses, and all of them were right.
    pub(super) fn is_good(&self) -> bool {
        self.errors == 0 && self.requests > 0
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings only") + "\n"
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let mut add = |line: std::fmt::Arguments<'_>| {
            writeln!(text, "{line}").expect("writing to a String cannot fail");
        };
        let latency = &self.latency_us;
        let from = if self.rate.is_some() { "due" } else { "sent" };
        let what = if self.fan.is_some() { "deliveries" } else { "requests" };
        add(format_args!(
            "{what:<11} {} in {:.2} s: {:.1} a second",
            self.requests, self.duration_seconds, self.requests_per_second
        ));
        if let Some(fan) = &self.fan {
            add(format_args!("published   {} messages to {} readers", fan.published, fan.readers));
        }
        let rows = [
            ("mean", latency.mean),
            ("p50", latency.p50),
            ("p75", latency.p75),
            ("p90", latency.p90),
            ("p99", latency.p99),
            ("p99.9", latency.p99_9),
            ("p99.99", latency.p99_99),
            ("max", latency.max),
        ];
        if self.requests > 0 {
            add(format_args!("latency     from when {from}"));
            for (name, us) in rows {
                add(format_args!("  {name:<9} {}", time(us * 1e3)));
            }
        }
        add(format_args!(
            "connects    {}; {} sent, {} received",
            self.connects,
            bytesize::ByteSize(self.sent_bytes),
            bytesize::ByteSize(self.received_bytes)
        ));
        if let Some(tls) = &self.tls {
            let agreed = [Some(tls.version), Some(tls.cipher_suite), tls.alpn.as_deref()];
            let agreed = agreed.into_iter().flatten().collect::<Vec<_>>().join(", ");
            add(format_args!("tls         {agreed}"));
            add(format_args!(
                "handshakes  {} in {:.2} s: {:.1} a second, {:.1}% resumed; {} in all",
                tls.handshakes,
                self.duration_seconds,
                tls.handshakes_per_second,
                tls.resumed_share * 100.0,
                tls.handshakes_total
            ));
        }
        if let Some(fan) = &self.fan
            && let (Some(seconds), Some(us)) = (fan.watched_cpu_seconds, fan.watched_cpu_us_per_delivery)
        {
            add(format_args!("its CPU     {seconds:.2} s, {us:.2} us a delivery"));
        }
        let each = if self.fan.is_some() { "delivery" } else { "request" };
        add(format_args!(
            "own CPU     {:.2} s, {:.2} us a {each}",
            self.cpu_seconds, self.cpu_us_per_request
        ));
        if self.unsent > 0 {
            add(format_args!("not sent    {} that were due: the rate was not held", self.unsent));
        }
        if self.interrupted {
            add(format_args!("ended early by a signal"));
        }
        match self.errors {
            0 if self.requests == 0 => {
                add(format_args!("errors      none, and no response either: this run is void"));
            }
            0 => add(format_args!("errors      none")),
            errors => {
                let kinds = self.errors_by_kind.iter().filter(|(_, count)| count.as_u64() != Some(0));
                let kinds: Vec<String> = kinds.map(|(name, count)| format!("{name} {count}")).collect();
                let (kinds, first) = (kinds.join(", "), self.first_error.as_deref().unwrap_or_default());
                add(format_args!("errors      {errors} ({kinds}): this run is void; the first: {first}"));
            }
        }
        text
    }
}

/// Nanoseconds as people read them.
fn time(ns: f64) -> String {
    match ns {
        ..1e3 => format!("{ns:.0} ns"),
        ..1e6 => format!("{:.1} us", ns / 1e3),
        ..1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}
