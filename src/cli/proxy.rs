//! `ringmill proxy`: a reverse proxy without a file, from options to a clean end. What it does with requests is
//! `ringmill::proxy`.

use super::front::outbound;
use super::gate::GateOptions;
use super::https::{Https, HttpsOptions};
use super::observe::ObserveOptions;
use super::run::run;
use super::signals::{Orders, Reload};
use super::upstream_stats::UpstreamStats;
use super::workers::WorkersOptions;
use crate::config::text::{At, Protocol, Server as Upstream, address_or_port, balance};
use crate::config::{Draft, Drafted, Entry, Known, Trust};
use clap::Args;
use ringmill::http::{Limits, Server};
use ringmill::layer::proxy::{Network, Version};
use ringmill::proxy::{
    Balance, Check, CheckPath, Ejection, FlowRules, Flowing, Flows, Limit, LookupOptions, Observe, Per, Plan,
    Plans, Proxy as Relay, ProxyConfig, Relaying, RouteRate, Watching,
};
use ringmill::{Address, Config, Engine, Error, ListenOptions, Rate, Running, Tls, WorkerContext};
use ringmill_console::options;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Options of `ringmill proxy`.
#[derive(Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Proxy {
    /// Where to listen: PORT (of 127.0.0.1), IP:PORT, [IPV6]:PORT, NAME:PORT, unix:PATH or unix:@NAME
    #[arg(value_name = "LISTEN")]
    listen: Listen,

    /// Where requests go: PORT (of 127.0.0.1), IP:PORT, [IPV6]:PORT, NAME:PORT, unix:PATH, http://HOST[:PORT] or
    /// https://HOST[:PORT], whose certificate must be good. Names are looked up once, at the start; dns:NAME:PORT, with all
    /// its addresses, dns:https://NAME[:PORT] and dns:_SERVICE._tcp.NAME (SRV) again and again, as their TTL says
    #[arg(value_name = "UPSTREAM", required = true)]
    upstreams: Vec<Upstream>,

    #[command(flatten)]
    https: HttpsOptions,
    /// Pass connections on as they are, whatever they speak, instead of serving HTTP; options about requests then mean connections, or nothing
    #[arg(long, env = "RINGMILL_TCP")]
    tcp: bool,

    /// With --tcp: reset connections on which nothing moves for this time, and those of which a side takes nothing for as long (18 hours at most), or twice that
    #[arg(long, value_name = "TIME", env = "RINGMILL_TCP_IDLE", default_value = "10m", value_parser = options::timeout)]
    tcp_idle: Duration,

    /// With --tcp: begin each connection with an upstream with a PROXY protocol header of this version, 1 or 2, which says who the client is
    #[arg(long, value_name = "VERSION", env = "RINGMILL_SEND_PROXY", value_parser = ["1", "2"], requires = "tcp")]
    send_proxy: Option<String>,

    /// Pass datagrams of UDP on as they are, instead of serving HTTP: each client has one upstream for all its datagrams, and gets what that answers
    #[arg(long, env = "RINGMILL_UDP", conflicts_with = "tcp")]
    udp: bool,

    /// With --udp: forget a client when nothing has come for this time, from either side
    #[arg(long, value_name = "TIME", env = "RINGMILL_UDP_IDLE", default_value = "30s", value_parser = options::timeout)]
    udp_idle: Duration,

    /// With --udp: clients at a time; datagrams of one more are dropped
    #[arg(long, value_name = "N", env = "RINGMILL_UDP_FLOWS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    udp_flows: u32,

    /// With --udp: forget a client when so many answers have come for each of its datagrams, such as 1 for DNS
    #[arg(long, value_name = "N", env = "RINGMILL_UDP_REPLIES", requires = "udp")]
    udp_replies: Option<u32>,

    /// What upstreams speak: http/1.1, or h2 for HTTP/2, as gRPC needs it, without TLS by prior knowledge. Clients may speak either in any case
    #[arg(long, value_name = "NAME", env = "RINGMILL_UPSTREAM_PROTOCOL", default_value = "http/1.1")]
    upstream_protocol: Protocol,

    /// Which of several upstreams a request goes to: two-choices takes two at random, and of these the less busy one; round-robin;
    /// least; hash-client, hash-path and hash-field:NAME the same one for the same value, unless it has more than 1.25 of its part to do
    #[arg(long, value_name = "NAME", env = "RINGMILL_BALANCE", default_value = "two-choices", value_parser = balance)]
    balance: Balance,

    /// An upstream, as above, that gets requests only where none of the others can take them; repeat for several
    #[arg(long, value_name = "UPSTREAM")]
    backup: Vec<Upstream>,

    /// Ask each upstream for this path, and give it no requests while its answers are none of 200 to 399: three bad ones in a row
    /// take it out, two good ones bring it back
    #[arg(long, value_name = "PATH", env = "RINGMILL_CHECK")]
    check: Option<CheckPath>,

    /// How often; an answer may take half of it [default: 2s]
    #[arg(long, value_name = "TIME", env = "RINGMILL_CHECK_EVERY", value_parser = options::timeout)]
    check_every: Option<Duration>,

    /// Give an upstream no requests for a while when so many in a row failed; 0 for never. No more than half of the upstreams are
    /// taken out so
    #[arg(long, value_name = "N", env = "RINGMILL_EJECT", default_value_t = 5)]
    eject: u32,

    /// For this time at first, and twice as long each time that follows soon, up to 5 minutes
    #[arg(long, value_name = "TIME", env = "RINGMILL_EJECT_TIME", default_value = "10s", value_parser = options::timeout)]
    eject_time: Duration,

    /// Count replies with a status of 500 or more as failures
    #[arg(long, env = "RINGMILL_EJECT_5XX")]
    eject_5xx: bool,

    /// Where upstreams are told of, as PORT (of 127.0.0.1), IP:PORT or unix:PATH: GET /stats says how each does and what became of
    /// requests, POST /drain/IP:PORT gives it no new requests, /undrain/IP:PORT again. Whoever can connect may do that
    #[arg(long, value_name = "LISTEN", env = "RINGMILL_STATS")]
    stats: Option<Listen>,

    /// Look names after dns: up with this server, instead of those in /etc/resolv.conf; repeat for several
    #[arg(long, value_name = "IP:PORT", env = "RINGMILL_RESOLVER", value_delimiter = ',')]
    resolver: Vec<SocketAddr>,

    /// Networks, as 10.0.0.0/8, an address, or unix, whose word is taken for who the client is (X-Forwarded-For and the like,
    /// Forwarded); from others these fields are dropped; repeat for several
    #[arg(long, value_name = "CIDR", env = "RINGMILL_TRUST", value_delimiter = ',')]
    trust: Vec<Network>,

    /// Trust the certificates in this file (PEM) for https upstreams, instead of the system's; repeat for several
    #[arg(long, value_name = "FILE", env = "RINGMILL_UPSTREAM_CA", value_delimiter = ',')]
    upstream_ca: Vec<PathBuf>,

    /// A connection with an upstream must be there within this time
    #[arg(long, value_name = "TIME", env = "RINGMILL_CONNECT_TIMEOUT", default_value = "2s", value_parser = options::timeout)]
    connect_timeout: Duration,

    /// The reply must begin within this time, once the request was sent, or its head if the client waits for a 100; else the answer is 504
    #[arg(long, value_name = "TIME", env = "RINGMILL_FIRST_BYTE_TIMEOUT", default_value = "30s", value_parser = options::timeout)]
    first_byte_timeout: Duration,

    /// Cut a reply of which nothing comes for this time, unless more of the request goes to the server meanwhile
    #[arg(long, value_name = "TIME", env = "RINGMILL_IDLE_TIMEOUT", default_value = "30s", value_parser = options::timeout)]
    idle_timeout: Duration,

    /// Close a WebSocket on which nothing comes for this time
    #[arg(long, value_name = "TIME", env = "RINGMILL_TUNNEL_TIMEOUT", default_value = "1h", value_parser = options::timeout)]
    tunnel_timeout: Duration,

    /// Connections with one upstream, and so requests that it has at a time
    #[arg(long, value_name = "N", env = "RINGMILL_UPSTREAM_CONNECTIONS", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    upstream_connections: u32,

    /// Idle connections with one upstream that are kept
    #[arg(long, value_name = "N", env = "RINGMILL_UPSTREAM_KEEP", default_value_t = 500)]
    upstream_keep: u32,

    /// Keep them for this time: less than the upstream does, or it closes one that is just being used
    #[arg(long, value_name = "TIME", env = "RINGMILL_UPSTREAM_KEEP_TIME", default_value = "1500ms", value_parser = options::timeout)]
    upstream_keep_time: Duration,

    /// Requests that wait for a connection with one upstream; one more is answered with 503
    #[arg(long, value_name = "N", env = "RINGMILL_QUEUE", default_value_t = 1000)]
    queue: u32,

    /// One that has waited for this time is answered with 503
    #[arg(long, value_name = "TIME", env = "RINGMILL_QUEUE_TIMEOUT", default_value = "5s", value_parser = options::timeout)]
    queue_timeout: Duration,

    /// Largest request body, as 64KiB or 1GiB [default: no limit]
    #[arg(long, value_name = "SIZE", env = "RINGMILL_MAX_BODY", value_parser = options::size)]
    max_body: Option<u64>,

    /// Take a request's body in before the request is given to an upstream, so that clients who send slowly hold no connection: up to so many
    /// bytes, as 64KiB; a longer one streams from there on [default: all bodies stream]
    #[arg(long, value_name = "SIZE", env = "RINGMILL_BUFFER", value_parser = options::size)]
    buffer: Option<u64>,

    /// Requests of one client, as 100/s or 600/m, of which as many may come at once; one more is answered with 429. Behind a trusted proxy the
    /// client is the one that X-Forwarded-For names [default: no limit]
    #[arg(long, value_name = "RATE", env = "RINGMILL_REQUESTS_PER_CLIENT")]
    requests_per_client: Option<Rate>,

    /// A request head must arrive within this time, plus a second for each 256 bytes of it
    #[arg(long, value_name = "TIME", env = "RINGMILL_HEAD_TIMEOUT", default_value = "10s", value_parser = options::timeout)]
    head_timeout: Duration,

    /// Close when nothing of a request body arrives for this time, or less than 256 bytes a second over it, before the server has answered
    #[arg(long, value_name = "TIME", env = "RINGMILL_BODY_TIMEOUT", default_value = "30s", value_parser = options::timeout)]
    body_timeout: Duration,

    /// Close a client's connection that has no request for this time
    #[arg(long, value_name = "TIME", env = "RINGMILL_KEEP_ALIVE_TIMEOUT", default_value = "75s", value_parser = options::timeout)]
    keep_alive_timeout: Duration,

    /// Answer clients that end their stream before they have their reply; otherwise such a client has left
    #[arg(long, env = "RINGMILL_HALF_CLOSE")]
    half_close: bool,

    #[command(flatten)]
    observe: ObserveOptions,

    #[command(flatten)]
    gate: GateOptions,

    #[command(flatten)]
    workers: WorkersOptions,

    /// Open connections a worker, those with upstreams among them; more wait [default: the descriptor limit / workers, less a
    /// reserve]
    #[arg(long, value_name = "N", env = "RINGMILL_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,

    /// Memory a worker spends on buffers and what it holds for slow peers, as 64MiB; at it requests are answered with 503
    #[arg(long, value_name = "SIZE", env = "RINGMILL_MAX_MEMORY", default_value = "256MiB", value_parser = options::size)]
    max_memory: u64,

    /// After SIGTERM or SIGINT, let requests finish for this time; a second one ends at once
    #[arg(long, value_name = "TIME", env = "RINGMILL_DRAIN", default_value = "30s", value_parser = options::duration)]
    drain: Duration,
}

const EXAMPLES: &str = "\
Examples:
  ringmill proxy 8080 127.0.0.1:3000
      HTTP on 127.0.0.1:8080, answered by the server on port 3000; try: curl -i http://127.0.0.1:8080/
  ringmill proxy 0.0.0.0:80 10.0.0.5:3000 10.0.0.6:3000 10.0.0.7:3000
      three servers behind one address, which is open to the network
  ringmill proxy 0.0.0.0:80 10.0.0.5:3000 10.0.0.6:3000 --check /health --backup 10.0.0.9:3000
      two servers that are asked every two seconds whether they are well, and one for when neither is
  ringmill proxy 8080 dns:api.internal:3000
      all servers that this name stands for, also those that come later
  ringmill proxy 8080 https://api.example.com
      TLS to the upstream, whose certificate must be good for that name
  ringmill proxy 0.0.0.0:80 10.0.0.5:3000 --tls-listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem --https-redirect
      HTTPS to clients, and plain HTTP sent on to it
  ringmill proxy unix:/run/front.sock unix:/run/app.sock --trust unix
      Unix sockets on both sides, behind another proxy that says who the client is
  ringmill proxy --tcp 5432 10.0.0.5:5432 10.0.0.6:5432
      connections as they are, to whichever of two servers has fewer of them
  ringmill proxy --udp 0.0.0.0:53 10.0.0.5:53 10.0.0.6:53 --udp-replies 1
      datagrams as they are: questions of DNS, each client to one of two servers";

/// An address, of which the port is enough.
#[derive(Clone, Debug)]
struct Listen(Address);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        address_or_port(text).map(Listen)
    }
}

impl Proxy {
    pub(crate) fn run(self) -> Result<(), Error> {
        let descriptors = ringmill::raise_descriptor_limit();
        let (drain, is_tcp) = (self.drain, self.tcp);
        // Before anybody can see that we run: who sees it may rely on the handlers.
        let orders = Orders::listen()?;
        let upstreams: Vec<String> =
            self.upstreams.iter().chain(&self.backup).map(Upstream::to_string).collect();
        // Names are looked up until the end.
        // What is passed on as it is stays what it was.
        let protocols = if self.tcp { &["http/1.1"][..] } else { &["h2", "http/1.1"] };
        let https = Https::new(&self.https, std::slice::from_ref(&self.listen.0), protocols)?;
        let observing = self.observe.clone().start(self.stats.is_some())?;
        let reloads = [https.as_ref().and_then(Https::reload), observing.reload()];
        let (running, _watching) = self.start(https.as_ref(), observing.observe.clone())?;
        run(running, orders, drain, descriptors, Reload::all(reloads), observing.writer(), |running| {
            // The one for datagrams comes first, if there is one.
            let addresses = [running.datagram_addresses(), running.addresses()].concat();
            let secured = https.as_ref().map_or(1..1, Https::range);
            let what = match (is_tcp, running.datagram_addresses().is_empty()) {
                (_, false) => "datagrams on",
                (true, true) => "relaying",
                (false, true) => "listening on",
            };
            tracing::info!("{what} {} for {}", addresses[0], upstreams.join(", "));
            if let Some(https) = &https {
                https.announce(&addresses[secured.clone()]);
            }
            if let Some(stats) = addresses.get(secured.end) {
                tracing::info!("stats of upstreams on {stats}");
            }
        })
    }

    /// The upstreams, those that stand by behind the others.
    fn entries(&self) -> Result<Vec<Entry>, Error> {
        let servers = self.upstreams.iter().map(|server| (server, false));
        let servers: Vec<_> = servers.chain(self.backup.iter().map(|server| (server, true))).collect();
        let is_secure = servers.iter().any(|(server, _)| server.secure_name.is_some());
        if !is_secure && !self.upstream_ca.is_empty() {
            return Err(problem("--upstream-ca is for https upstreams: write https://HOST[:PORT]"));
        }
        let trust = Trust::new(&self.upstream_ca, self.connect_timeout, self.upstream_protocol);
        let mut known = Known::default();
        let entry = |(server, is_backup): (&Upstream, bool)| {
            let peer = server.secure_name.as_ref().map(|name| known.peer(name, &trust)).transpose();
            let peer = peer.map_err(|error| problem(&error))?;
            Ok(Entry { server: server.clone(), weight: 1, is_backup, peer })
        };
        servers.into_iter().map(entry).collect()
    }

    fn start(self, https: Option<&Https>, observe: Observe) -> Result<(Running, Option<Watching>), Error> {
        let entries = self.entries()?;
        let config = Config {
            connections_max: self.max_connections.map(|connections| connections as usize),
            memory_bytes_max: usize::try_from(self.max_memory).unwrap_or(usize::MAX),
            connect_timeout: self.connect_timeout,
            // The kernel spreads clients over workers by a hash, not evenly.
            flows_max: self.udp_flows as usize,
            ..self.workers.config()
        };
        if self.udp && (https.is_some() || self.listen.0.ip().is_none()) {
            return Err(problem("--udp takes datagrams on IP:PORT, without TLS"));
        }
        if self.udp && self.check.is_some() {
            return Err(problem("--check asks over HTTP, and the servers of --udp have datagrams alone"));
        }
        let takes_datagrams = |entry: &Entry| {
            let is_ip = matches!(&entry.server.at, At::Address(address) if address.ip().is_some());
            entry.peer.is_none() && (is_ip || matches!(entry.server.at, At::Name(_)))
        };
        if self.udp && !entries.iter().all(takes_datagrams) {
            return Err(problem("--udp passes datagrams on to IP:PORT or NAME:PORT"));
        }
        let limits = Limits {
            head_timeout: self.head_timeout,
            body_idle_timeout: self.body_timeout,
            keep_alive_timeout: self.keep_alive_timeout,
            ..Limits::default()
        };
        if self.check.is_none() && self.check_every.is_some() {
            return Err(problem("--check-every is how often upstreams are asked: --check says for what"));
        }
        let check_every = self.check_every.unwrap_or(Duration::from_secs(2));
        let check =
            self.check.map(|path| Check { every: check_every, timeout: check_every / 2, ..Check::new(path) });
        let proxy = ProxyConfig {
            balance: self.balance,
            is_http2: self.upstream_protocol == Protocol::Http2,
            check,
            ejection: Ejection {
                after: self.eject,
                time: self.eject_time,
                on_server_errors: self.eject_5xx,
                ..Ejection::default()
            },
            limits,
            body_bytes_max: self.max_body.unwrap_or(u64::MAX),
            buffer_bytes: self.buffer.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            limit: self.requests_per_client.map(|rate| Limit::new(RouteRate { per: Per::Client, rate })),
            trusted: self.trust,
            connections_max: self.upstream_connections as usize,
            keep_max: self.upstream_keep as usize,
            keep_timeout: self.upstream_keep_time,
            queue_max: self.queue as usize,
            queue_timeout: self.queue_timeout,
            first_byte_timeout: self.first_byte_timeout,
            idle_timeout: self.idle_timeout,
            tunnel_timeout: self.tunnel_timeout,
            half_close: self.half_close,
            observe,
            is_relayed: self.tcp || self.udp,
            proxy_protocol: self
                .send_proxy
                .map(|version| if version == "1" { Version::One } else { Version::Two }),
            ..ProxyConfig::new(Vec::new())
        };
        let (tcp, tcp_idle) = (self.tcp, self.tcp_idle);
        let relaying = |listener: &Address| Relaying {
            listener: listener.to_string(),
            idle_timeout: tcp_idle,
            ..Relaying::new(Some(String::new()))
        };
        let drafted = Drafted { name: String::new(), entries, config: proxy };
        let draft = Draft::new(vec![drafted], |mut upstreams| {
            Plan::one(ProxyConfig::clone(&upstreams.remove(0).config))
        });
        if !self.resolver.is_empty() && draft.names().is_empty() {
            return Err(problem("--resolver is for names that are looked up: write dns:NAME:PORT"));
        }
        let options = LookupOptions { resolvers: self.resolver, ..LookupOptions::default() };
        let lookups = draft.look_up(options, None).map_err(|error| problem(&error))?;
        let plans = Plans::new(draft.first(lookups.as_ref()));
        let watching = draft.watch(lookups, &plans)?;
        let mut builder = outbound(Engine::builder().config(config), &plans);
        let redirect_port = https.and_then(|https| https.redirect_port);
        let planned = plans.clone();
        let front = |listener: &Address| {
            let (planned, relaying) = (planned.clone(), tcp.then(|| relaying(listener)));
            move |worker: &WorkerContext| {
                let proxy = Relay::listening(&planned, worker);
                match &relaying {
                    Some(relaying) => proxy.with_relaying(relaying.clone()),
                    None => proxy,
                }
            }
        };
        let plain = front(&self.listen.0);
        let options = ListenOptions { gate: self.gate.gate()?, ..ListenOptions::default() };
        builder = if self.udp {
            let flowing = Flowing::new(FlowRules {
                idle_timeout: self.udp_idle,
                flows_max: self.udp_flows as usize,
                replies: self.udp_replies,
                gate: options.gate.clone(),
                listener: format!("udp {}", self.listen.0),
                ..FlowRules::new(String::new())
            });
            let planned = plans.clone();
            builder.datagrams(self.listen.0, move |worker| Flows::new(&planned, worker, &flowing))
        } else {
            builder.listen_with(self.listen.0, options.clone(), move |worker| {
                plain(worker).with_https_port(redirect_port)
            })
        };
        for (address, store) in https.iter().flat_map(|https| https.listeners()) {
            let front = front(&address);
            builder = builder
                .listen_with(address, options.clone(), move |worker| Tls::new(front(worker), store.clone()));
        }
        if let Some(Listen(address)) = self.stats {
            builder = builder.listen(address, move |worker| {
                Server::new(UpstreamStats { plans: plans.clone(), stats: worker.stats.clone() })
            });
        }
        Ok((builder.start()?, watching))
    }
}

fn problem(problem: &str) -> Error {
    Error::Config { problems: vec![problem.to_owned()] }
}
