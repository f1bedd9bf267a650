//! `ringmill serve`: the bundled server, from options to a clean end.

mod redirect;
mod topics;
mod websocket;

use super::gate::GateOptions;
use super::https::{Https, HttpsOptions};
use super::routes::{Live, Routes, RoutesOptions};
use super::run::run;
use super::signals::Orders;
use super::workers::WorkersOptions;
use clap::Args;
use redirect::Redirect;
use ringmill::broker;
use ringmill::http::{Limits, Server};
use ringmill::layer::proxy::{Network, Prefixed};
use ringmill::topic::Topics;
use ringmill::websocket::Options;
use ringmill::{
    Address, Builder, Config, Echo, Engine, Error, Gate, Layer, ListenOptions, Running, Tls, TokioOptions,
    UdpEcho, WorkerContext,
};
use ringmill_console::options;
use std::path::PathBuf;
use std::time::Duration;
use topics::TopicsOptions;
use websocket::WebSocketOptions;

/// Options of `ringmill serve`.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Serve {
    /// Serve as this file says, a reverse proxy with routes and upstreams, instead of the bundled handlers; with no other option.
    /// `ringmill check` says all that is wrong with a file, SIGHUP has it read again; what may stand in it is in tuning/FILE.md
    #[arg(long, value_name = "FILE", env = "RINGMILL_CONFIG", exclusive = true)]
    config: Option<PathBuf>,

    /// HTTP address: IP:PORT, [IPV6]:PORT, NAME:PORT, unix:PATH or unix:@NAME (abstract); repeat for several
    #[arg(
        long,
        value_name = "ADDR",
        env = "RINGMILL_LISTEN",
        default_value = "127.0.0.1:8080",
        value_delimiter = ','
    )]
    listen: Vec<Address>,

    #[command(flatten)]
    https: HttpsOptions,

    #[command(flatten)]
    websocket: WebSocketOptions,

    #[command(flatten)]
    gate: GateOptions,

    #[command(flatten)]
    topics: TopicsOptions,

    /// Broker that carries topics, as nats://HOST:4222, tls://HOST:4222 (NATS over TLS) or redis://HOST:6379: what is published on
    /// one server reaches subscribers of all that have the same broker. USER:PASSWORD@ goes before the host; the variable keeps it out
    /// of the list of processes
    #[arg(long, value_name = "URL", env = "RINGMILL_BROKER", hide_env_values = true)]
    broker: Option<String>,

    /// TCP echo address; repeat for several
    #[arg(long, value_name = "ADDR", env = "RINGMILL_TCP_ECHO", value_delimiter = ',')]
    tcp_echo: Vec<Address>,

    /// UDP echo address; repeat for several. For loopback or a test network, not for the open internet: with a forged
    /// sender anybody can make an echo answer somebody else, another echo for instance
    #[arg(long, value_name = "ADDR", env = "RINGMILL_UDP_ECHO", value_delimiter = ',')]
    udp_echo: Vec<Address>,

    /// Datagrams a second that a worker echoes to one IPv4 address or IPv6 /64, after a burst of as many; one of more than
    /// 1,500 bytes counts as several; 0 for no limit, to measure
    #[arg(long, value_name = "N", env = "RINGMILL_UDP_ECHO_RATE", default_value_t = UdpEcho::PEER_RATE, value_parser = options::datagram_rate)]
    udp_echo_rate: u32,

    #[command(flatten)]
    workers: WorkersOptions,

    /// Connections that may wait to be accepted (the kernel caps it at net.core.somaxconn)
    #[arg(long, value_name = "N", env = "RINGMILL_BACKLOG", default_value_t = 4096, value_parser = clap::value_parser!(i32).range(1..))]
    backlog: i32,

    /// Congestion control, as in net.ipv4.tcp_available_congestion_control [default: the system's]
    #[arg(long, value_name = "NAME", env = "RINGMILL_CONGESTION")]
    congestion: Option<String>,

    /// Accept a TCP connection only once its first bytes are there, or after about this time in whole seconds: less CPU where
    /// connections are short; a connection that has sent nothing is not drained [default: accept at once]
    #[arg(long, value_name = "TIME", env = "RINGMILL_DEFER_ACCEPT", value_parser = options::defer_accept)]
    defer_accept: Option<Duration>,

    /// Permissions of the file of unix:PATH, as 0660: who may write to it may connect [default: what the umask leaves]
    #[arg(long, value_name = "MODE", env = "RINGMILL_UNIX_MODE", value_parser = options::permissions)]
    unix_mode: Option<u32>,

    /// Group of that file, by name or number; this user must be in it, or root [default: the user's own]
    #[arg(long, value_name = "GROUP", env = "RINGMILL_UNIX_GROUP")]
    unix_group: Option<String>,

    /// Networks of proxies, as 10.0.0.0/8, an address, or unix: a TCP or Unix connection from there must begin with a PROXY
    /// protocol header, version 1 or 2, which says who the client is; repeat for several
    #[arg(long, value_name = "CIDR", env = "RINGMILL_PROXY_PROTOCOL", value_delimiter = ',')]
    proxy_protocol: Vec<Network>,

    /// What becomes of connections from elsewhere where --proxy-protocol is given: refuse closes them, serve serves them without
    /// a header
    #[arg(long, value_name = "WHAT", env = "RINGMILL_PROXY_PROTOCOL_OTHERS", default_value = "refuse")]
    proxy_protocol_others: Others,

    /// Open connections a worker; more wait [default: the descriptor limit / workers, less 64 and the backlog of each
    /// address, but at most a quarter less]
    #[arg(long, value_name = "N", env = "RINGMILL_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,

    /// Memory a worker spends on buffers, queued replies and bodies, as 64MiB; near it, accepting pauses and idle
    /// connections close, at it requests are refused with 503
    #[arg(long, value_name = "SIZE", env = "RINGMILL_MAX_MEMORY", default_value = "256MiB", value_parser = options::size)]
    max_memory: u64,

    /// Largest request body, as 64KiB or 1GiB [default: 1MiB where it is collected, no limit where it streams]
    #[arg(long, value_name = "SIZE", env = "RINGMILL_MAX_BODY", value_parser = options::size)]
    max_body: Option<u64>,

    /// A request head must arrive within this time, plus a second for each 256 bytes of it
    #[arg(long, value_name = "TIME", env = "RINGMILL_HEAD_TIMEOUT", default_value = "10s", value_parser = options::timeout)]
    head_timeout: Duration,

    /// Close when nothing of a body arrives for this time
    #[arg(long, value_name = "TIME", env = "RINGMILL_BODY_TIMEOUT", default_value = "30s", value_parser = options::timeout)]
    body_timeout: Duration,

    /// Close when less of a body arrives, over that time: bytes a second; 0 asks for one byte in it
    #[arg(long, value_name = "SIZE", env = "RINGMILL_MIN_BODY_RATE", default_value = "256", value_parser = options::byte_rate)]
    min_body_rate: u32,

    /// Close a connection that has no request for this time
    #[arg(long, value_name = "TIME", env = "RINGMILL_KEEP_ALIVE_TIMEOUT", default_value = "75s", value_parser = options::timeout)]
    keep_alive_timeout: Duration,

    /// Close when the peer takes no output for this time (noticed within twice as long)
    #[arg(long, value_name = "TIME", env = "RINGMILL_WRITE_TIMEOUT", default_value = "30s", value_parser = options::timeout)]
    write_timeout: Duration,

    /// Close when the peer takes less of waiting output, over that time: bytes a second; 0 asks for one byte in it
    #[arg(long, value_name = "SIZE", env = "RINGMILL_MIN_WRITE_RATE", default_value = "256", value_parser = options::byte_rate)]
    min_write_rate: u32,

    /// Close after so many requests on one connection [default: no limit]
    #[arg(long, value_name = "N", env = "RINGMILL_MAX_REQUESTS", value_parser = clap::value_parser!(u32).range(1..))]
    max_requests: Option<u32>,

    /// After SIGTERM, SIGINT or a closed terminal, let requests finish for this time; a second SIGTERM or SIGINT ends at once
    #[arg(long, value_name = "TIME", env = "RINGMILL_DRAIN", default_value = "30s", value_parser = options::duration)]
    drain: Duration,

    /// Workers hosted by tokio, as those of handlers that wait are: `ringmill compare` measures what that costs
    #[arg(long, hide = true)]
    tokio: bool,
}

/// What becomes of a peer that is no proxy of ours, where proxies are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Others {
    Refuse,
    Serve,
}

/// What a broker is given with a message, at most: the name of its event, and some bytes.
const ENVELOPE_BYTES_MAX: usize = 68 << 10;

const EXAMPLES: &str = "\
Examples:
  ringmill serve
      HTTP on 127.0.0.1:8080; try: curl -i http://127.0.0.1:8080/
  ringmill serve --listen 0.0.0.0:80 --listen [::]:80 --workers 4 --pin 0-3
  ringmill serve --tls-self-signed
      HTTPS on 127.0.0.1:8443 as well, for development; the log has a curl command that trusts it
  ringmill serve --tls-listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem --tls-min 1.3
  ringmill serve --tls-cert chain.pem --tls-key key.pem --tls-client-ca clients.pem
      HTTPS only for clients with a certificate of that authority
  ringmill serve --tls-cert chain.pem --tls-key key.pem --https-redirect
      HTTP on 127.0.0.1:8080 is sent on to HTTPS on 127.0.0.1:8443
  ringmill serve --listen unix:/run/ringmill.sock
      try: curl --unix-socket /run/ringmill.sock http://localhost/health
  ringmill serve --listen unix:/run/ringmill.sock --unix-mode 0660 --unix-group www-data
      for a reverse proxy that runs as www-data
  ringmill serve --listen 0.0.0.0:8080 --proxy-protocol 10.0.0.5,10.0.0.6
      behind two balancers that send the PROXY protocol; /peer shows the client's address
  ringmill serve --config ringmill.toml
      a reverse proxy by a file
  ringmill serve --listen 127.0.0.1:8081 --broker nats://127.0.0.1:4222
      topics in common with every server that has this broker; try: curl -N http://127.0.0.1:8081/events/news
  ringmill serve --tcp-echo 127.0.0.1:7 --udp-echo 127.0.0.1:7
  RINGMILL_DRIVER=poll RINGMILL_LOG=debug ringmill serve
      every option is also an environment variable";

impl Serve {
    pub(crate) fn run(self) -> Result<(), Box<dyn std::error::Error>> {
        if let Some(file) = &self.config {
            return super::front::serve(file);
        }
        // Not by clap, which repeats a value that it refuses: this one may have a password.
        let server = self.broker.as_deref().map(str::parse::<broker::Server>).transpose();
        let server = server.map_err(|error| format!("--broker: {error}"))?;
        let descriptors = ringmill::raise_descriptor_limit();
        let drain = self.drain;
        let ws = self.websocket.options();
        let limits = self.topics.limits(ws.message_bytes_max);
        // With what tells about a message.
        let carried_bytes_max = limits.message_bytes_max.saturating_add(ENVELOPE_BYTES_MAX);
        let topics = Topics::new(limits);
        // Before anybody can see that we run: who sees it may rely on the handlers.
        let orders = Orders::listen()?;
        let https = Https::new(&self.https, &self.listen, &["http/1.1"])?;
        // It lives as long as the server: what was taken to be published leaves at the end.
        let mut options = broker::Options::default();
        options.message_bytes_max = options.message_bytes_max.max(carried_bytes_max);
        let broker = server.map(|server| topics.connect(server, options)).transpose()?;
        let link = broker.as_ref().map(broker::Broker::link);
        let running = self.start(https.as_ref(), ws, topics, link)?;
        let reload = https.as_ref().and_then(Https::reload);
        run(running, orders, drain, descriptors, reload, None, |running| announce(running, https.as_ref()))?;
        Ok(())
    }

    fn start(
        self,
        https: Option<&Https>,
        ws: Options,
        topics: Topics,
        broker: Option<broker::Link>,
    ) -> Result<Running, Error> {
        let config = Config {
            connections_max: self.max_connections.map(|connections| connections as usize),
            memory_bytes_max: usize::try_from(self.max_memory).unwrap_or(usize::MAX),
            write_timeout: self.write_timeout,
            write_bytes_per_sec_min: self.min_write_rate,
            ..self.workers.config()
        };
        let gate = self.gate.gate()?;
        let options = ListenOptions {
            backlog: self.backlog,
            congestion: self.congestion,
            defer_accept: self.defer_accept,
            unix_mode: self.unix_mode,
            unix_group: self.unix_group,
            // Behind a header it is asked for the client that the header tells.
            gate: gate.clone().filter(|_| self.proxy_protocol.is_empty()),
            ..ListenOptions::default()
        };
        let defaults = Limits::default();
        let limits = Limits {
            body_bytes_max: self.max_body.unwrap_or(defaults.body_bytes_max),
            head_timeout: self.head_timeout,
            body_idle_timeout: self.body_timeout,
            body_bytes_per_sec_min: self.min_body_rate,
            keep_alive_timeout: self.keep_alive_timeout,
            requests_max: self.max_requests,
            ..defaults
        };
        let stream_bytes_max = self.max_body.unwrap_or(u64::MAX);
        let idle = self.keep_alive_timeout;
        let front = Front {
            options,
            gate,
            proxies: self.proxy_protocol,
            serves_others: self.proxy_protocol_others == Others::Serve,
        };
        let mut builder = Engine::builder().config(config);
        if self.tokio {
            builder = builder.tokio(TokioOptions::default());
        }
        let store = https.map(|https| https.store.clone());
        let redirect_port = https.and_then(|https| https.redirect_port);
        builder = builder.outbound(topics.service());
        let events = self.topics.events();
        let options = RoutesOptions { limits: limits.clone(), stream_bytes_max, store, broker, events };
        for address in self.listen {
            let (limits, options, ws) = (limits.clone(), options.clone(), ws.clone());
            let topics = topics.clone();
            builder = front.listen(builder, address, move |worker| {
                let live = Live::new(&topics.hub(worker), &ws, &options);
                let routes = Routes::new(worker, &options, live);
                let server = Server::new(Redirect::new(routes, redirect_port)).with_limits(limits.clone());
                if redirect_port.is_some() { server } else { server.websocket("/ws", websocket::echo(&ws)) }
            });
        }
        for (address, store) in https.iter().flat_map(|https| https.listeners()) {
            let (limits, ws, topics) = (limits.clone(), ws.clone(), topics.clone());
            let options = options.clone();
            builder = front.listen(builder, address, move |worker| {
                let live = Live::new(&topics.hub(worker), &ws, &options);
                let routes = Routes::new(worker, &options, live);
                let server = Server::new(routes).with_limits(limits.clone());
                Tls::new(server.websocket("/ws", websocket::echo(&ws)), store.clone())
            });
        }
        for address in self.tcp_echo {
            builder = front.listen(builder, address, move |_| Echo::default().with_idle_timeout(idle));
        }
        for address in self.udp_echo {
            let rate = self.udp_echo_rate;
            builder = builder.datagrams(address, move |_| UdpEcho::default().with_peer_rate(rate));
        }
        let running = builder.start()?;
        front.announce();
        Ok(running)
    }
}

/// What all stream listeners have in common.
struct Front {
    options: ListenOptions,
    gate: Option<Gate>,
    proxies: Vec<Network>,
    serves_others: bool,
}

impl Front {
    /// Listens with a protocol, behind the header of a proxy where proxies are listed.
    fn listen<L: Layer>(
        &self,
        builder: Builder,
        address: Address,
        factory: impl Fn(&WorkerContext) -> L + Send + Sync + 'static,
    ) -> Builder {
        if self.proxies.is_empty() {
            return builder.listen_with(address, self.options.clone(), factory);
        }
        let (proxies, serves_others, gate) = (self.proxies.clone(), self.serves_others, self.gate.clone());
        builder.listen_with(address, self.options.clone(), move |worker| {
            let prefixed = Prefixed::new(factory(worker), proxies.clone());
            prefixed.with_others(serves_others).with_gate(gate.clone())
        })
    }

    fn announce(&self) {
        if !self.proxies.is_empty() {
            let networks: Vec<String> = self.proxies.iter().map(Network::to_string).collect();
            let others = if self.serves_others { "served without" } else { "refused" };
            tracing::info!("PROXY protocol from {}; others are {others}", networks.join(", "));
        }
    }
}

/// Says where the server is.
fn announce(running: &Running, https: Option<&Https>) {
    let secured = https.map_or(0..0, Https::range);
    let plain = running.addresses().iter().enumerate().filter(|(n, _)| !secured.contains(n));
    plain.for_each(|(_, address)| tracing::info!("listening on {address}"));
    if let Some(https) = https {
        https.announce(&running.addresses()[secured]);
    }
    for address in running.datagram_addresses() {
        tracing::info!("datagrams on {address}");
    }
}
