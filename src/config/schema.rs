//! What may stand in the file: one type for each table, from which it is read, checked and described
//! (`tuning/FILE.md`). There is no key that does nothing.

mod upstream;

pub(crate) use super::answers::{Redirect, Reply};
pub(crate) use upstream::{Connections, Eject, Health, Retry, Timeouts};

use super::either::{FromText, OneOrMany, TextOr};
use super::http2::Http2;
use super::limit::RateLimit;
use super::observe::{AccessLogTable, Ids};
use super::text::{
    BalanceText, Driver, HostText, ListText, ListenAddress, NetworkText, PinText, ProtocolText, RateText,
    ResolverText, SecretText, ServerText, Size, Text, Time, Timeout, TlsMin, WorkersText,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::PathBuf;
use toml::Spanned;

/// The whole file.
#[derive(Clone, Debug, Default, JsonSchema)]
#[serde(default)]
pub(crate) struct File {
    /// How the process runs. A change needs a restart.
    pub(crate) server: Server,
    /// What clients may do.
    pub(crate) limits: Limits,
    /// What those that speak HTTP/2 may do besides.
    pub(crate) http2: Http2,
    /// What requests are called.
    pub(crate) ids: Ids,
    /// How names of servers (`dns:`) are looked up. Left out, as the system says (`/etc/resolv.conf`).
    #[schemars(with = "Dns")]
    pub(crate) dns: Option<Spanned<Dns>>,
    /// A line for each request, and for each connection of `tcp`.
    pub(crate) access_log: Option<AccessLogTable>,
    /// Pages of HTML for what is answered here instead of by an upstream, by status: `"503" = "/etc/ringmill/503.html"`. `{request_id}` in a page becomes the
    /// name of the request. Who prefers JSON is told a problem (RFC 9457) in any case. 64 KiB at most, read with this file.
    #[schemars(with = "BTreeMap<String, PathBuf>")]
    pub(crate) error_pages: BTreeMap<String, Spanned<PathBuf>>,
    /// Where to listen; at least one.
    pub(crate) listen: Vec<Listen>,
    /// Which requests go where. The most special route that matches takes a request: an exact host before one with a wildcard and
    /// that before any, then an exact path before a prefix and a longer prefix before a shorter one, then one for certain methods.
    pub(crate) route: Vec<Route>,
    /// Servers, by a name that routes know: `[upstream.NAME]`.
    pub(crate) upstream: BTreeMap<String, Upstream>,
}

/// How the process runs. A change needs a restart.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Server {
    /// Worker threads; auto is one a CPU.
    pub(crate) workers: Text<WorkersText>,
    /// CPUs to pin workers to.
    pub(crate) pin: Text<PinText>,
    /// How bytes move: auto is io_uring where it works, else epoll.
    pub(crate) driver: Text<Driver>,
    /// Open connections a worker, those with upstreams among them; more wait. Left out, what the limit of descriptors leaves room for.
    pub(crate) max_connections: Option<u32>,
    /// Memory a worker spends on buffers and what it holds for slow peers; at it requests are answered with 503.
    pub(crate) max_memory: Text<Size>,
    /// A connection with an upstream must be there, and secured where it is TLS, within this time.
    pub(crate) connect_timeout: Text<Timeout>,
    /// After SIGTERM or SIGINT, let requests finish for this time; a second one ends at once.
    pub(crate) drain: Text<Time>,
    /// Look at this file about every so often, and follow it when it has changed, as on SIGHUP. Left out, only SIGHUP counts. Files
    /// of certificates are looked at every ten seconds in any case.
    pub(crate) watch: Option<Text<Timeout>>,
    /// Where upstreams and routes are told of: GET /stats says how each server does and what became of requests and connections, POST /drain/IP:PORT gives a server no
    /// new requests, /undrain/IP:PORT again. Whoever can connect may do that. Left out, nothing is counted.
    pub(crate) stats: Option<Text<ListenAddress>>,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            workers: Text::of("auto"),
            pin: Text::of("auto"),
            driver: Text::of("auto"),
            max_connections: None,
            max_memory: Text::of("256MiB"),
            connect_timeout: Text::of("2s"),
            drain: Text::of("30s"),
            watch: None,
            stats: None,
        }
    }
}

impl Server {
    /// The keys that say something else.
    pub(crate) fn differs_in(&self, other: &Server) -> Vec<String> {
        let [one, other] = [self, other].map(|server| serde_json::to_value(server).expect("keys and texts"));
        let keys = one.as_object().into_iter().flatten();
        keys.filter(|(key, value)| other.get(key) != Some(value))
            .map(|(key, _)| format!("server.{key}"))
            .collect()
    }
}

/// What clients may do.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Limits {
    /// Networks whose word is taken for who the client is (`X-Forwarded-For` and the like, `Forwarded`); from others these fields are
    /// dropped, and with `_` for `-` from all.
    pub(crate) trust: Vec<Text<NetworkText>>,
    /// A request head must arrive within this time, plus a second for each 256 bytes of it.
    pub(crate) head_timeout: Text<Timeout>,
    /// Close when nothing of a request body arrives for this time, or less than 256 bytes a second over it. Behind a server's answer `timeout.idle`
    /// of its upstream counts instead.
    pub(crate) body_timeout: Text<Timeout>,
    /// Close a client's connection that has no request for this time.
    pub(crate) keep_alive_timeout: Text<Timeout>,
    /// Close after so many requests on one connection. Left out, there is no limit.
    pub(crate) max_requests: Option<u32>,
    /// Largest request body; beyond it the answer is 413. Left out, there is no limit.
    pub(crate) max_body: Option<Text<Size>>,
    /// Answer clients that end their stream before they have their reply; otherwise such a client has left.
    pub(crate) half_close: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            trust: Vec::new(),
            head_timeout: Text::of("10s"),
            body_timeout: Text::of("30s"),
            keep_alive_timeout: Text::of("75s"),
            max_requests: None,
            max_body: None,
            half_close: false,
        }
    }
}

/// Where to listen: `[[listen]]`, once for each address.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Listen {
    /// IP and port, or a Unix socket.
    #[schemars(with = "Text<ListenAddress>")]
    pub(crate) address: Spanned<Text<ListenAddress>>,
    /// Certificates for HTTPS, each with its key. Clients are shown the one that has the name they ask for, else the first. Left out, the
    /// address speaks plain HTTP.
    #[serde(default)]
    #[schemars(with = "Vec<Certificate>")]
    pub(crate) tls: Option<Spanned<Vec<Certificate>>>,
    /// Oldest version of TLS.
    #[serde(default)]
    pub(crate) tls_min: Option<Text<TlsMin>>,
    /// Clients must show a certificate that an authority in one of these files (PEM) has signed.
    #[serde(default)]
    pub(crate) client_ca: Vec<PathBuf>,
    /// Answer every request with 308 and the same URL with https, and this port.
    #[serde(default)]
    pub(crate) redirect_to_https: Option<NonZeroU16>,
    /// Networks of proxies: each connection must come from there and begin with a PROXY protocol header (version 1 or 2), which says who
    /// the client is.
    #[serde(default)]
    pub(crate) proxy_protocol: Vec<Text<NetworkText>>,
    /// Only who comes from these networks may come in: others are closed at once. A file has one on each line, and perhaps comments behind `#`; it
    /// is read again on a reload. Lists and limits are about clients: with `proxy_protocol` about those that its header tells.
    #[serde(default)]
    #[schemars(with = "Lists")]
    pub(crate) allow: Option<Spanned<Lists>>,
    /// Nobody who comes from these networks may come in; it comes before `allow`.
    #[serde(default)]
    #[schemars(with = "Lists")]
    pub(crate) deny: Option<Spanned<Lists>>,
    /// Connections of one address at a time. Of IPv6 a /64 is one address. Left out, there is no limit.
    #[serde(default)]
    pub(crate) connections_per_ip: Option<u32>,
    /// Connections of one network at a time, which is a /24 of IPv4 and a /48 of IPv6. Left out, there is no limit.
    #[serde(default)]
    pub(crate) connections_per_prefix: Option<u32>,
    /// New connections of one address; as many as it says may come at once. Left out, there is no limit.
    #[serde(default)]
    pub(crate) new_connections_per_ip: Option<Text<RateText>>,
    /// Pass connections on to servers as they are, instead of serving HTTP.
    #[serde(default)]
    #[schemars(with = "Option<Tcp>")]
    pub(crate) tcp: Option<Spanned<Tcp>>,
    /// Pass datagrams of UDP on to servers as they are, instead of serving HTTP. Networks and limits above then hold for flows.
    #[serde(default)]
    #[schemars(with = "Option<Udp>")]
    pub(crate) udp: Option<Spanned<Udp>>,
}

/// Where connections go as they are: `tcp = { to = "NAME" }`. Either end may finish and listen on, and a reset of one is a reset of the other. What
/// is said of requests at an upstream holds for connections: how a server is chosen, when it gets none, and how many there are.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Tcp {
    /// The name of an upstream. With `sni` the one of clients that ask for no name listed there; left out, those are refused.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(crate) to: Option<Spanned<String>>,
    /// Connections on which nothing moves for this time are reset, and those of which a side takes nothing for as long (18 hours at most), or
    /// twice that.
    #[serde(default = "ten_minutes")]
    pub(crate) idle: Text<Timeout>,
    /// Let the kernel pass on what comes in bulk: behind 256 KiB in a row one way, bytes go from one connection to the other without being
    /// copied, as long as much of it comes. What goes through TLS or behind a PROXY header is copied in any case.
    #[serde(default = "yes")]
    pub(crate) splice: bool,
    /// Names of upstreams by the names that clients ask for in TLS, which is not opened: `{ "db.example.com" = "postgres" }`;
    /// `*.example.com` is all below example.com and not itself. A client that does not begin with TLS is let go.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub(crate) sni: BTreeMap<String, Spanned<String>>,
}

fn yes() -> bool {
    true
}

/// Where datagrams go as they are: `udp = { to = "NAME" }`. Each client has a flow, which is one server for all its datagrams, and gets what that
/// answers. How a server is chosen is what holds for connections; one that nobody listens at, as ICMP tells, has failed, and its flows move on to
/// another one. `connections` and `proxy_protocol` of the upstream do not concern datagrams, and `health`, which asks over HTTP, is refused where it has
/// nothing else.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Udp {
    /// The name of an upstream.
    #[schemars(with = "String")]
    pub(crate) to: Spanned<String>,
    /// A flow ends when nothing has come for this time, from either side.
    #[serde(default = "thirty_seconds")]
    pub(crate) idle: Text<Timeout>,
    /// Flows of the process. Datagrams of one more client are dropped, and counted.
    #[serde(default = "ten_thousand")]
    pub(crate) flows: u32,
    /// A flow ends when so many answers have come for each datagram of its client: 1 for DNS. Left out, only time ends it.
    #[serde(default)]
    pub(crate) replies: Option<u32>,
}

fn thirty_seconds() -> Text<Timeout> {
    Text::of("30s")
}

fn ten_thousand() -> u32 {
    10_000
}

fn ten_minutes() -> Text<Timeout> {
    Text::of("10m")
}

/// Networks, and files of them.
pub(crate) type Lists = OneOrMany<Text<ListText>>;

/// A certificate with its key: `{ cert = "chain.pem", key = "key.pem" }`. Files are read again when they change.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The certificate as PEM, its chain behind it.
    pub(crate) cert: PathBuf,
    /// The private key as PEM, not encrypted; `env:NAME` is a variable of the environment that holds it.
    pub(crate) key: PathBuf,
}

/// Which requests go where: `[[route]]`. One of `to`, `reply` and `redirect` says where.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Route {
    /// Which requests. Left out, all.
    #[serde(default, rename = "match")]
    #[schemars(with = "Match")]
    pub(crate) matches: Option<Spanned<Match>>,
    /// The name of an upstream.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub(crate) to: Option<Spanned<String>>,
    /// An answer that is always the same.
    #[serde(default)]
    #[schemars(with = "Option<Reply>")]
    pub(crate) reply: Option<Spanned<Reply>>,
    /// Another address that clients are sent to.
    #[serde(default)]
    #[schemars(with = "Option<Redirect>")]
    pub(crate) redirect: Option<Spanned<Redirect>>,
    /// Largest request body, instead of the one in `limits`.
    #[serde(default)]
    pub(crate) max_body: Option<Text<Size>>,
    /// Take a request's body in before the request is given to a server, so that clients who send slowly hold no connection: up to so many bytes,
    /// of which chunks take some. A longer body streams from there on, unless `max_body` refuses it. Left out, all bodies stream.
    #[serde(default)]
    #[schemars(with = "Option<Text<Size>>")]
    pub(crate) buffer: Option<Spanned<Text<Size>>>,
    /// How many requests it takes. Left out, all.
    #[serde(default)]
    #[schemars(with = "Option<RateLimit>")]
    pub(crate) rate: Option<Spanned<RateLimit>>,
}

/// Which requests a route takes: `match = { host = "example.com", path = "/api" }`. What is left out matches all.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Match {
    /// Hosts, without ports; `*.example.com` is all below example.com and not itself.
    pub(crate) host: OneOrMany<Text<HostText>>,
    /// A path and all below it: `/api` and `/api/` are both `/api`, `/api/` and `/api/x`, and not `/apis`.
    #[schemars(with = "Option<String>")]
    pub(crate) path: Option<Spanned<String>>,
    /// A path that has to be exactly this one.
    #[schemars(with = "Option<String>")]
    pub(crate) exact: Option<Spanned<String>>,
    /// Methods, such as `GET`.
    pub(crate) method: OneOrMany<String>,
}

/// Servers that are as good as each other: `[upstream.NAME]`. Numbers are for the process, however many workers it has.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Upstream {
    /// `IP:PORT`, `NAME:PORT`, `unix:PATH`, `http://HOST[:PORT]` or `https://HOST[:PORT]`, whose certificate must be good. Names are looked
    /// up when the file is read; `dns:NAME:PORT`, with all its addresses, `dns:https://NAME[:PORT]` and `dns:_SERVICE._tcp.NAME` (SRV)
    /// when serving begins, and again and again, as their TTL says. Each is such a text, or a table with more to say.
    #[schemars(with = "Vec<Member>")]
    pub(crate) servers: Spanned<Vec<TextOr<Member>>>,
    /// What they speak: h2 is HTTP/2, as gRPC needs it, at once (h2c) where a server has no TLS. Its requests are streams on few connections, and
    /// `connections` counts streams. Clients may speak either, whatever this is; WebSockets do not pass to servers of HTTP/2.
    #[serde(default = "http1")]
    pub(crate) protocol: Text<ProtocolText>,
    /// Which of them a request goes to: of two at random the one with less to do, one after the other, the one with the least to do, always the same one
    /// for the same client, path or field, unless it has more than 1.25 of its part to do, or the one that a cookie names.
    #[serde(default = "two_choices")]
    pub(crate) balance: Text<BalanceText>,
    /// The cookie of `balance = "sticky"`.
    #[serde(default)]
    #[schemars(with = "Option<Sticky>")]
    pub(crate) sticky: Option<Spanned<Sticky>>,
    /// Servers that get requests only where none of the others can take them; as `backup = true` says it of one.
    #[serde(default)]
    pub(crate) backup: Vec<Text<ServerText>>,
    /// Whether a server is asked if it is well; left out, none is.
    #[serde(default)]
    pub(crate) health: Option<Health>,
    /// When a server is given no requests for a while.
    #[serde(default)]
    pub(crate) eject: Eject,
    /// A server that has come back gets its part of the requests after this time, and until then less.
    #[serde(default = "ten_seconds")]
    pub(crate) slow_start: Text<Time>,
    /// Trust the certificates in these files (PEM) for https servers, instead of the system's.
    #[serde(default)]
    #[schemars(with = "Vec<PathBuf>")]
    pub(crate) ca: Option<Spanned<Vec<PathBuf>>>,
    /// Connections with each of the servers.
    #[serde(default)]
    pub(crate) connections: Connections,
    /// How long replies may take.
    #[serde(default)]
    pub(crate) timeout: Timeouts,
    /// When a request is sent once more.
    #[serde(default)]
    pub(crate) retry: Retry,
    /// Begin each connection with a PROXY protocol header of this version, 1 or 2, which says who the client is. For connections of `tcp`
    /// alone: others carry requests of many clients.
    #[serde(default)]
    #[schemars(with = "Option<u8>")]
    pub(crate) proxy_protocol: Option<Spanned<u8>>,
}

/// A server with more to say: `{ address = "10.0.0.5:3000", weight = 2 }`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Member {
    /// Where it is.
    pub(crate) address: Text<ServerText>,
    /// Its part of the requests, from 1 to 65535. Each server that a name stands for has it; of a service times the weight there.
    #[serde(default = "one")]
    pub(crate) weight: u16,
    /// It gets requests only where none of the others can take them.
    #[serde(default)]
    pub(crate) backup: bool,
}

fn one() -> u16 {
    1
}

impl FromText for Member {
    type Text = Text<ServerText>;
}

impl From<Text<ServerText>> for Member {
    fn from(address: Text<ServerText>) -> Member {
        Member { address, weight: 1, backup: false }
    }
}

/// A cookie that keeps clients with their server: `sticky = { secret = "file:/run/secrets/cookie" }`. Its value is signed: nobody can choose
/// a server by it, and nobody learns an address from it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(crate) struct Sticky {
    /// What values are signed with, at least 16 bytes: `file:PATH`, or `env:NAME`, a variable of the environment. All proxies in front of the same
    /// servers need the same one.
    pub(crate) secret: Text<SecretText>,
    /// The name of the cookie.
    #[serde(default = "cookie")]
    pub(crate) cookie: String,
}

fn cookie() -> String {
    "ringmill".to_owned()
}

/// How names of servers are looked up.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Dns {
    /// Whom to ask, as `IP:PORT`. Left out, those in `/etc/resolv.conf`.
    pub(crate) resolver: OneOrMany<Text<ResolverText>>,
    /// An answer holds at least so long, whatever its TTL says.
    #[schemars(with = "Text<Timeout>")]
    pub(crate) min_ttl: Spanned<Text<Timeout>>,
    /// And at most so long.
    #[schemars(with = "Text<Timeout>")]
    pub(crate) max_ttl: Spanned<Text<Timeout>>,
}

impl Default for Dns {
    fn default() -> Dns {
        let [min_ttl, max_ttl] = ["1s", "60s"].map(|time| Spanned::new(0..0, Text::of(time)));
        Dns { resolver: OneOrMany::default(), min_ttl, max_ttl }
    }
}

fn http1() -> Text<ProtocolText> {
    Text::of("http/1.1")
}

fn two_choices() -> Text<BalanceText> {
    Text::of("two-choices")
}

fn ten_seconds() -> Text<Time> {
    Text::of("10s")
}
