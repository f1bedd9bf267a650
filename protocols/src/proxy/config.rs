//! What a proxy may be told, with the defaults and their reasons. Plain data.

use super::fleet::Fleet;
use super::limit::Limit;
use super::observe::Observe;
use super::pages::Pages;
use super::peer::Peer;
use super::rules::{Check, Ejection};
use crate::adapt::Http2Limits;
use crate::http::Limits;
use crate::layer::proxy::{Network, Version};
use ringmill_engine::Address;
use std::time::Duration;

/// How a server is chosen where there are several. What each has to do is what all workers gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two taken at random the one with fewer requests in progress: nearly as even as looking at all of them, and one that
    /// is slow gets less.
    #[default]
    TwoChoices,
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests in progress.
    Least,
    /// The same server for the same key, as long as that one has no more than 1.25 of its part to do.
    Hash(HashBy),
    /// The server that the client had before, which a cookie says; by two choices where there is none, or that server cannot take it.
    Sticky(Sticky),
}

/// What a key is made of. A request that lacks it is sent by two choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The address of the client; behind a trusted proxy that of whom it names in `X-Forwarded-For`.
    Client,
    /// The path, without the query.
    Path,
    /// The value of a field.
    Field(String),
}

/// A cookie by which clients stay with their server.
#[derive(Clone, PartialEq, Eq)]
pub struct Sticky {
    cookie: String,
    secret: Vec<u8>,
}

impl Sticky {
    /// The cookie's name, and the secret that its values are signed with: at least 16 bytes. All proxies in front of the same servers
    /// need the same secret.
    pub fn new(cookie: &str, secret: &[u8]) -> Result<Sticky, String> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if cookie.is_empty() || !cookie.bytes().all(is_name) {
            return Err(format!("{cookie:?} is no name of a cookie: letters, digits, - and _"));
        }
        if secret.len() < 16 {
            return Err("a secret has at least 16 bytes".to_owned());
        }
        Ok(Sticky { cookie: cookie.to_owned(), secret: secret.to_vec() })
    }

    /// The cookie's name.
    pub fn cookie(&self) -> &str {
        &self.cookie
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sticky({:?})", self.cookie)
    }
}

/// A server of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// Its part of the requests is that of its weight; at least 1.
    pub weight: u32,
    /// It gets requests only where no other server can take them.
    pub is_backup: bool,
    /// With whom its connections are secured; they are opened by the part of the proxy that stands under TLS
    /// ([`Proxy::secured`](crate::proxy::Proxy::secured)).
    pub peer: Option<Peer>,
}

impl From<Address> for Server {
    fn from(address: Address) -> Server {
        Server { address, weight: 1, is_backup: false, peer: None }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.address.fmt(f)
    }
}

/// How a [`Proxy`](crate::proxy::Proxy) runs. Numbers are for the process: workers share them through `fleet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where requests go. At least one.
    pub upstreams: Vec<Server>,
    /// What the workers share: clones of a configuration have the same.
    pub fleet: Fleet,
    /// Which of them.
    pub balance: Balance,
    /// When a server is given no requests for a while.
    pub ejection: Ejection,
    /// How servers are asked whether they are up; `None` for not at all.
    pub check: Option<Check>,
    /// A server that has come back gets its part of the requests after so long, and until then less.
    pub slow_start: Duration,
    /// Of clients: heads, bodies, and how long they may take.
    pub limits: Limits,
    /// What clients of HTTP/2 may do besides.
    pub http2: Http2Limits,
    /// Requests that one of them may take back a second (RST_STREAM), with ten seconds' worth at once: beyond them its connection ends.
    pub http2_resets_per_sec_max: u32,
    /// The largest request body in bytes: beyond it the answer is 413.
    pub body_bytes_max: u64,
    /// A request's body is here before it is given a connection, up to so many bytes ([`Route`](crate::proxy::Route)); 0 for none.
    pub buffer_bytes: usize,
    /// How many requests are taken, if not all.
    pub limit: Option<Limit>,
    /// Who may say who the client is (`X-Forwarded-*`, `Forwarded`): from anybody else these fields are dropped, and with `_` for `-` from all.
    pub trusted: Vec<Network>,
    /// What stands in `Via` (RFC 9110, 7.6.3).
    pub name: String,
    /// Connections with one server, and so requests that it has at a time.
    pub connections_max: usize,
    /// Idle connections with one server that are kept; a worker that has no other keeps one. Where more requests are under way at a time,
    /// connections are made and closed all the while, which costs more than the requests.
    pub keep_max: usize,
    /// An idle connection is kept for so long: less than what servers do, so that none of them closes it under a request. Of those in use
    /// gunicorn has the shortest time, 2 s.
    pub keep_timeout: Duration,
    /// A connection that is older takes no further request.
    pub age_max: Duration,
    /// Requests that wait for a connection with one server: for one more the answer is 503.
    pub queue_max: usize,
    /// A request that has waited for so long is answered with 503.
    pub queue_timeout: Duration,
    /// From the last byte of the request, or of its head if the client waits for a 100, to the first of its reply; then 504.
    pub first_byte_timeout: Duration,
    /// A reply of which nothing comes for so long is cut, unless more of the request goes up meanwhile.
    pub idle_timeout: Duration,
    /// The same for a connection that speaks another protocol now, in both directions.
    pub tunnel_timeout: Duration,
    /// How often a request may be sent: beyond the first time only where its connection ended without a byte of a reply, and
    /// it is GET, HEAD or OPTIONS; or PUT, DELETE or one with an `Idempotency-Key`, and that connection had been kept. A
    /// fifth of the requests and three a second are repeated at most. Attempts to connect are not counted here.
    pub tries_max: u8,
    /// A request with more bytes than this is not kept, so it is sent once. At most 64 KiB.
    pub replay_bytes_max: usize,
    /// An attempt to connect may take so long; `None` for `Config::connect_timeout` of the engine.
    pub connect_timeout: Option<Duration>,
    /// Connections with these servers are joined with those of clients as they are, and no requests are given to them
    /// ([`Relaying`](crate::proxy::Relaying)).
    pub is_relayed: bool,
    /// What a relayed connection begins with: a header that says who the client is.
    pub proxy_protocol: Option<Version>,
    /// Servers speak HTTP/2: at once (prior knowledge) where connections are plain, and where they are secured by ALPN, which the layer below
    /// has to offer. Connections are then streams, which share few of them.
    pub is_http2: bool,
    /// A client that has ended its stream is still answered. Otherwise it has left: its request is given up.
    pub half_close: bool,
    /// What is told of requests to those who look from outside.
    pub observe: Observe,
    /// Pages of HTML for what the proxy answers itself, instead of its own.
    pub pages: Pages,
}

impl ProxyConfig {
    /// The defaults, for these upstreams.
    pub fn new(upstreams: Vec<Address>) -> ProxyConfig {
        ProxyConfig {
            upstreams: upstreams.into_iter().map(Server::from).collect(),
            fleet: Fleet::default(),
            balance: Balance::default(),
            ejection: Ejection::default(),
            check: None,
            slow_start: Duration::from_secs(10),
            limits: Limits::default(),
            http2: Http2Limits::default(),
            http2_resets_per_sec_max: 100,
            body_bytes_max: u64::MAX,
            buffer_bytes: 0,
            limit: None,
            trusted: Vec::new(),
            name: "ringmill".to_owned(),
            connections_max: 500,
            keep_max: 500,
            keep_timeout: Duration::from_millis(1500),
            age_max: Duration::from_secs(3600),
            queue_max: 1000,
            queue_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            tunnel_timeout: Duration::from_secs(3600),
            tries_max: 2,
            replay_bytes_max: 64 * 1024,
            is_http2: false,
            half_close: false,
            observe: Observe::default(),
            pages: Pages::default(),
            connect_timeout: None,
            is_relayed: false,
            proxy_protocol: None,
        }
    }

    /// Whether one of its servers is there.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.upstreams.iter().any(|server| server.address == *address)
    }

    /// The defaults for upstreams that connections are relayed to.
    pub fn relayed(upstreams: Vec<Address>) -> ProxyConfig {
        let connect_timeout = Some(Duration::from_secs(5));
        ProxyConfig { is_relayed: true, connect_timeout, ..ProxyConfig::new(upstreams) }
    }
}
