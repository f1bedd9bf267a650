//! `ringmill load`: a load generator on the engine itself, from options to the report.
//!
//! Each worker is a client with connections of its own (`load/client.rs`) that counts for itself; the parts are added
//! up at the end. What is sent and how a response is judged is in `load/wire.rs`, when in `load/pace.rs`.

mod client;
mod fan;
mod pace;
mod report;
mod secure;
mod tally;
mod target;
mod template;
mod udp;
mod websocket;
mod wire;
mod worker;

use clap::Args;
use client::Client;
use fan::{Fan, FanOptions};
use report::Report;
use ringmill::{
    Address, Builder, Config, DriverChoice, Engine, Pin, Protocol, Running, Tls, TlsPeer, WorkerContext,
};
use ringmill_console::options::{self, Workers};
use ringmill_console::terminal::{self, NotWritten};
use secure::Secure;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tally::Tally;
use target::{Scheme, Target};
use template::{Header, RawFile, Templates};
use websocket::{Handshake, WebSocket};
use wire::{Echo, Expected, ExpectedBody, Http};
use worker::{Live, Setup};

/// Options of `ringmill load`.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Load {
    /// http://HOST[:PORT]/PATH, https://.., ws://HOST[:PORT]/PATH (WebSocket, echo), wss://.., tcp://HOST:PORT (echo) or
    /// udp://HOST:PORT (echo)
    #[arg(value_name = "URL")]
    target: Target,

    /// Connections in all
    #[arg(long, short = 'c', value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,

    /// Worker threads: a number, or auto for one a CPU
    #[arg(long, short = 't', value_name = "N", default_value = "1")]
    workers: Workers,

    /// Measured time
    #[arg(long, short = 'd', value_name = "TIME", default_value = "10s", value_parser = options::run_time)]
    duration: Duration,

    /// Time under load before that, which does not count
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = options::duration)]
    warmup: Duration,

    /// Requests under way on one connection
    #[arg(long, short = 'p', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pipeline: u32,

    /// Open loop: so many requests a second in all, each timed from when it was due [default: as fast as it goes]
    #[arg(long, short = 'r', value_name = "N", value_parser = options::request_rate)]
    rate: Option<f64>,

    /// Close a connection after so many requests, and open another [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    requests_per_connection: Option<u32>,

    /// A connection or a response that takes longer is an error [default: 10s; 1s for UDP]
    #[arg(long, value_name = "TIME", value_parser = options::timeout)]
    timeout: Option<Duration>,

    /// Method [default: GET, or POST with a body]
    #[arg(long, short = 'X', value_name = "NAME")]
    method: Option<String>,

    /// Header field, as "Name: value"; repeat for several
    #[arg(long = "header", short = 'H', value_name = "FIELD")]
    headers: Vec<Header>,

    /// Request body: text, or @FILE
    #[arg(long, value_name = "TEXT")]
    body: Option<String>,

    /// File with a whole request as it is sent, "{host}" filled in, and how often it comes: FILE or WEIGHT:FILE; repeat
    /// for a mix
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "headers", "body"])]
    raw: Vec<RawFile>,

    /// Bytes of an echo
    #[arg(long, value_name = "SIZE", default_value = "64", value_parser = options::size)]
    size: u64,

    /// Offer compression to a WebSocket, and compress
    #[arg(long)]
    deflate: bool,

    #[command(flatten)]
    fan: FanOptions,

    /// A response with another status is an error [default: 200 to 299]
    #[arg(long, value_name = "CODE", value_parser = clap::value_parser!(u16).range(200..=599))]
    expect_status: Option<u16>,

    /// A response with another body is an error: text, or @FILE
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["expect_length", "expect_same"])]
    expect_body: Option<String>,

    /// A response with a body of another length is an error
    #[arg(long, value_name = "SIZE", value_parser = options::size, conflicts_with = "expect_same")]
    expect_length: Option<u64>,

    /// A response whose body is not that of the first one to the same request is an error
    #[arg(long)]
    expect_same: bool,

    /// Connect from so many addresses in turn, 127.0.0.1 onwards: each has its own ports, which run out where
    /// connections are short. For targets in 127.0.0.0/8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=250))]
    sources: u8,

    /// Allow a target that is neither loopback nor in a private network
    #[arg(long)]
    allow_public: bool,

    #[command(flatten)]
    secure: Secure,

    /// Print the result as JSON on standard output, and nothing else there
    #[arg(long)]
    json: bool,

    /// CPUs to pin workers to: auto, off, or a list such as 0,2,4-7
    #[arg(long, value_name = "LIST", default_value = "off")]
    pin: Pin,

    /// How bytes move: auto (io_uring where it works, else epoll), uring, poll
    #[arg(long, value_name = "NAME", default_value = "auto")]
    driver: DriverChoice,
}

const EXAMPLES: &str = "\
Examples:
  ringmill load http://127.0.0.1:8080/plaintext --connections 64 --duration 10s
      as fast as it goes, on 64 keep-alive connections
  ringmill load http://127.0.0.1:8080/plaintext --rate 20000
      20000 requests a second whatever happens; a response that waited for a stall shows it
  ringmill load http://127.0.0.1:8080/ --requests-per-connection 1
  ringmill load http://127.0.0.1:8080/upload --body @file --expect-status 200
  ringmill load http://127.0.0.1:8080/ --raw 9:get.http --raw 1:post.http
  ringmill load https://localhost:8443/plaintext --cacert ca.pem --requests-per-connection 1 --no-resume
      a new connection with a full TLS handshake for every request; without --no-resume they are resumed
  ringmill load ws://127.0.0.1:8080/ws --size 20 --pipeline 16
      messages to a WebSocket that sends them back, 16 of them on their way on each connection
  ringmill load ws://127.0.0.1:8080/ws/room --fan 1001 --cpu-of $(pidof ringmill)
      one publishes, a thousand read: a message follows when all have the one before, or by --rate
  ringmill load http://127.0.0.1:8080/events/room --fan 1001 --rate 10
      the same with server-sent events, ten messages a second
  ringmill load tcp://127.0.0.1:7 --size 1KiB --pipeline 8
  ringmill load udp://127.0.0.1:7 --connections 16 --pipeline 16
      our own echo takes such a load with ringmill serve --udp-echo-rate 0

Exit status: 0 for a run without errors, 1 for one with errors or none at all, 2 for bad options.";

/// Why there was no run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot resolve {host}: {source}")]
    Name { host: String, source: std::io::Error },
    #[error(
        "{address} is neither loopback nor in a private network: load only what is yours, and say so with --allow-public"
    )]
    Public { address: SocketAddr },
    #[error("cannot connect to {}", target::failures(tried))]
    Connect { tried: Vec<(SocketAddr, std::io::Error)> },
    #[error("cannot read {}: {source}", path.display())]
    File { path: std::path::PathBuf, source: std::io::Error },
    #[error("bad request: {0}")]
    Request(String),
    #[error("{0}")]
    Options(String),
    #[error("TLS: {0}")]
    Tls(#[from] ringmill::TlsError),
    #[error(transparent)]
    Engine(#[from] ringmill::Error),
    #[error(transparent)]
    NotWritten(#[from] NotWritten),
    #[error("cannot handle signals: {0}")]
    Signals(std::io::Error),
    #[error("a worker ended without its results: see the messages above")]
    Lost,
}

/// Requests under way on one connection, in bytes: what a worker may have to keep for each.
const OUTPUT_BYTES_MAX: usize = 256 << 20;

impl Load {
    /// Runs the load and prints the result.
    pub(crate) fn run(self) -> Result<ExitCode, LoadError> {
        self.check()?;
        let connections = self.fan.connections().unwrap_or(self.connections);
        let descriptors = ringmill::raise_descriptor_limit();
        let mut addresses = self.target.resolve(self.allow_public)?;
        if self.sources > 1 {
            let is_tcp = self.target.scheme != Scheme::Udp;
            addresses.retain(|address| is_tcp && address.is_ipv4() && address.ip().is_loopback());
        }
        if addresses.is_empty() {
            let problem = "--sources is for http:// and tcp:// targets in 127.0.0.0/8";
            return Err(LoadError::Options(problem.to_owned()));
        }
        let timeout = self.timeout.unwrap_or(match self.target.scheme {
            Scheme::Udp => Duration::from_secs(1),
            Scheme::Http | Scheme::Ws | Scheme::Tcp => Duration::from_secs(10),
        });
        let peer = match self.target.is_secure {
            true => Some(self.secure.peer(&self.target, connections, timeout)?),
            false => None,
        };
        let workers =
            self.workers.0.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        // A worker without a connection would only look busy.
        let workers = workers.min(connections as usize);
        // The engine leaves as many to each worker.
        let room = descriptors.saturating_sub(64 * workers as u64);
        if u64::from(connections) > room {
            let problem = format!("{connections} connections need more descriptors than there are");
            return Err(LoadError::Options(format!("{problem}: room is for {room}; raise `ulimit -n`")));
        }
        let address = match (self.target.scheme, addresses.as_slice()) {
            // To say what is wrong before anything starts; the server sees one connection without a request, with its handshake.
            (Scheme::Http | Scheme::Ws | Scheme::Tcp, all) => target::first_that_answers(all, |address| {
                secure::try_address(address, peer.as_ref(), timeout)
            })?,
            // Without a choice the run itself says whether anybody answers.
            (Scheme::Udp, [only]) => *only,
            (Scheme::Udp, all) => {
                let payload = payload(self.size as usize);
                target::first_that_answers(all, |address| udp::is_echoed(address, &payload, timeout))?
            }
        };
        let templates = Templates::new(&self, &self.target)?;
        let output_bytes = templates.largest().max(self.size as usize) * self.pipeline as usize;
        if output_bytes > OUTPUT_BYTES_MAX {
            let problem =
                format!("{output_bytes} bytes of requests under way on one connection are too many");
            return Err(LoadError::Options(format!(
                "{problem}: at most {OUTPUT_BYTES_MAX}; lower --pipeline"
            )));
        }
        let signals = Signals::new([SIGTERM, SIGINT]).map_err(LoadError::Signals)?;
        let (results, handed_in) = channel();
        let shows = std::io::IsTerminal::is_terminal(&std::io::stderr());
        let setup = Arc::new(Setup {
            address: Address::Ip(address),
            workers,
            connections: connections as usize,
            pipeline: self.pipeline as usize,
            requests_per_connection: self.requests_per_connection,
            sources: self.sources,
            rate: self.rate,
            warmup: self.warmup,
            duration: self.duration,
            timeout,
            peer,
            stop: AtomicBool::new(false),
            live: (0..if shows { workers } else { 0 }).map(|_| Mutex::new(Live::new())).collect(),
            results,
        });
        let builder = Engine::builder().config(self.config(&setup, output_bytes));
        let builder = self.add_clients(builder, &setup, templates)?;
        let running = builder.start()?;
        report::announce(&self, &setup, address, &running);
        stop_on_signals(signals, setup.clone())?;
        let report = self.collect(&setup, handed_in, running)?;
        terminal::print(&if self.json { report.json() } else { report.text() })?;
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// What the option parser cannot see.
    fn check(&self) -> Result<(), LoadError> {
        let http = [
            ("--method", self.method.is_some()),
            ("--header", !self.headers.is_empty() && self.target.scheme != Scheme::Ws),
            ("--body", self.body.is_some()),
            ("--raw", !self.raw.is_empty()),
            ("--expect-status", self.expect_status.is_some()),
            ("--expect-body", self.expect_body.is_some()),
            ("--expect-length", self.expect_length.is_some()),
            ("--expect-same", self.expect_same),
        ];
        let wrong = |option: &str| {
            Err(LoadError::Options(format!(
                "{option} is for http:// and https:// only: an echo is checked byte by byte"
            )))
        };
        if self.target.scheme != Scheme::Http
            && let Some((option, _)) = http.into_iter().find(|(_, is_given)| *is_given)
        {
            return wrong(option);
        }
        if !self.target.is_secure
            && let Some(option) = self.secure.given()
        {
            return Err(LoadError::Options(format!("{option} is for https:// and wss:// only")));
        }
        self.fan.check(self)?;
        if self.deflate && self.target.scheme != Scheme::Ws {
            return Err(LoadError::Options("--deflate is for ws:// and wss:// only".to_owned()));
        }
        let (least, most) = match self.target.scheme {
            Scheme::Udp => (udp::NUMBER_BYTES as u64, 65_507),
            Scheme::Http | Scheme::Ws | Scheme::Tcp => (1, 1 << 20),
        };
        if self.size < least || self.size > most {
            return Err(LoadError::Options(format!("--size must be from {least} to {most} bytes")));
        }
        if self.requests_per_connection.is_some() && self.target.scheme == Scheme::Udp {
            return Err(LoadError::Options("--requests-per-connection is not for udp://".to_owned()));
        }
        if self.pipeline > udp::PIPELINE_MAX && self.target.scheme == Scheme::Udp {
            let problem = format!("--pipeline must be at most {} for udp://", udp::PIPELINE_MAX);
            return Err(LoadError::Options(format!("{problem}: a socket's queue takes no more")));
        }
        Ok(())
    }

    fn config(&self, setup: &Setup, output_bytes: usize) -> Config {
        let defaults = Config::default();
        // Never stop reading because much is still to be sent: an echo server would then stop as well, for ever.
        let output_high_water_bytes = defaults.output_high_water_bytes.max(output_bytes + 1);
        Config {
            workers: Some(setup.workers),
            output_high_water_bytes,
            output_bytes_max: output_high_water_bytes + defaults.output_bytes_max,
            pin: self.pin.clone(),
            driver: self.driver,
            connect_timeout: setup.timeout,
            write_timeout: setup.timeout,
            // Every response was read by then: nothing can be lost.
            linger_timeout: Duration::ZERO,
            ..defaults
        }
    }

    fn add_clients(
        &self,
        builder: Builder,
        setup: &Arc<Setup>,
        templates: Templates,
    ) -> Result<Builder, LoadError> {
        let setup = setup.clone();
        if self.fan.connections().is_some() {
            let (plan, peer) = (Arc::new(self.fan.plan(self)?), setup.peer.clone());
            let client = move |worker: &WorkerContext| Fan::new(plan.clone(), setup.clone(), worker.index);
            return Ok(outbound(builder, client, peer));
        }
        match self.target.scheme {
            Scheme::Http => {
                let templates = Arc::new(templates);
                let (expected, peer) = (self.expected()?, setup.peer.clone());
                let client = move |worker: &WorkerContext| {
                    // Far apart in the order, so that workers do not go in step.
                    let start = worker.index * templates.order.len() / worker.workers;
                    let http = Http::new(templates.clone(), expected.clone(), start);
                    Client::new(http, setup.clone(), worker.index)
                };
                Ok(outbound(builder, client, peer))
            }
            Scheme::Ws => {
                let payload = payload(self.size as usize);
                let handshake = Handshake::new(&self.target, &self.headers, self.deflate);
                let wire = WebSocket::new(handshake, payload);
                let peer = setup.peer.clone();
                let client =
                    move |worker: &WorkerContext| Client::new(wire.clone(), setup.clone(), worker.index);
                Ok(outbound(builder, client, peer))
            }
            Scheme::Tcp => {
                let payload = payload(self.size as usize);
                Ok(builder.outbound(move |worker| {
                    Client::new(Echo { payload: payload.clone() }, setup.clone(), worker.index)
                }))
            }
            Scheme::Udp => {
                let payload = payload(self.size as usize);
                let target = setup.address.ip().expect("a target is an IP address");
                Ok(builder.datagram_clients(udp::own_address(target), move |worker| {
                    udp::flows(&setup, target, &payload, worker.index)
                }))
            }
        }
    }

    fn expected(&self) -> Result<Expected, LoadError> {
        let body = match (&self.expect_body, self.expect_length) {
            (Some(text), _) => ExpectedBody::Exactly(template::text_or_file(text)?.into()),
            (None, Some(length)) => ExpectedBody::Length(length),
            (None, None) if self.expect_same => ExpectedBody::Same,
            (None, None) => ExpectedBody::Any,
        };
        Ok(Expected { status: self.expect_status, body })
    }

    /// Waits for the results of all workers, and adds them up.
    fn collect(
        &self,
        setup: &Setup,
        handed_in: Receiver<Tally>,
        running: Running,
    ) -> Result<Report, LoadError> {
        let mut total = Tally::new();
        let mut missing = setup.workers;
        let mut line = report::ProgressLine::new(setup);
        // A worker that is alive hands in within its time and the last wait; the rest is for a slow machine.
        let deadline = Instant::now() + self.warmup + self.duration + setup.timeout + Duration::from_secs(30);
        while missing > 0 {
            match handed_in.recv_timeout(report::ProgressLine::INTERVAL) {
                Ok(tally) => {
                    total.merge(&tally);
                    missing -= 1;
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => line.show(),
                Err(_) => {
                    // Those that still run wait for nothing else.
                    running.handle().stop();
                    return Err(running.join().err().map_or(LoadError::Lost, Into::into));
                }
            }
        }
        line.clear();
        let stats = running.stats();
        let cpu = stats.workers().iter().map(|worker| Duration::from_nanos(worker.cpu_ns)).sum();
        let counters = stats.total();
        // Datagrams count for themselves.
        total.sent_bytes += counters.sent_bytes;
        total.received_bytes += counters.received_bytes;
        let report = Report::new(self, setup, total, cpu, running.driver());
        running.handle().stop();
        running.join()?;
        Ok(report)
    }
}

/// Adds clients, over TLS where there is a server for it.
fn outbound<P: Protocol + 'static>(
    builder: Builder,
    client: impl Fn(&WorkerContext) -> P + Send + Sync + 'static,
    peer: Option<TlsPeer>,
) -> Builder {
    match peer {
        None => builder.outbound(client),
        Some(peer) => builder.outbound(move |worker| {
            let peer = peer.clone();
            Tls::client(client(worker), move |_| Some(peer.clone()))
        }),
    }
}

/// Bytes that differ from their neighbours, so that a lost or doubled piece shows.
fn payload(bytes: usize) -> Arc<[u8]> {
    (0..251).cycle().take(bytes).collect()
}

/// The first signal ends the run early, with a result; a second one ends the process.
fn stop_on_signals(mut signals: Signals, setup: Arc<Setup>) -> Result<(), LoadError> {
    let watch = move || {
        for signal in signals.forever() {
            if setup.stop.swap(true, Relaxed) {
                std::process::exit(128 + signal);
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".to_owned()).spawn(watch);
    thread.map(drop).map_err(LoadError::Signals)
}
