//! What a proxy may be told, with the defaults and their reasons. Plain data.

use crate::http::Limits;
use crate::layer::proxy::Network;
use ringmill_engine::Address;
use std::time::Duration;

/// How an upstream is chosen where there are several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two taken at random the one with fewer requests in progress: nearly as even as looking at all of them, and one that
    /// is slow gets less.
    #[default]
    TwoChoices,
    /// One after the other.
    RoundRobin,
}

/// How a [`Proxy`](crate::proxy::Proxy) runs. Numbers are for each worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where requests go. At least one.
    pub upstreams: Vec<Address>,
    /// Which of them.
    pub balance: Balance,
    /// Of clients: heads, bodies, and how long they may take.
    pub limits: Limits,
    /// The largest request body in bytes: beyond it the answer is 413.
    pub body_bytes_max: u64,
    /// Who may say who the client is (`X-Forwarded-*`, `Forwarded`): from anybody else these fields are dropped.
    pub trusted: Vec<Network>,
    /// What stands in `Via` (RFC 9110, 7.6.3).
    pub name: String,
    /// Connections with one upstream.
    pub connections_max: usize,
    /// Idle connections with one upstream that are kept.
    pub keep_max: usize,
    /// An idle connection is kept for so long: less than what servers do, so that none of them closes it under a request.
    pub keep_timeout: Duration,
    /// A connection that is older takes no further request.
    pub age_max: Duration,
    /// Requests that wait for a connection with one upstream: for one more the answer is 503.
    pub queue_max: usize,
    /// A request that has waited for so long is answered with 503.
    pub queue_timeout: Duration,
    /// From the last byte of the request to the first of its reply; then 504.
    pub first_byte_timeout: Duration,
    /// A reply of which nothing comes for so long is cut.
    pub idle_timeout: Duration,
    /// The same for a connection that speaks another protocol now, in both directions.
    pub tunnel_timeout: Duration,
    /// How often a request may be sent: beyond the first time only where its connection ended without a byte of a reply, and
    /// it is GET, HEAD or OPTIONS; or PUT, DELETE or one with an `Idempotency-Key`, and that connection had been kept. A
    /// fifth of the requests and three a second are repeated at most. Attempts to connect are not counted here.
    pub tries_max: u8,
    /// A request with more bytes than this is not kept, so it is sent once. At most 64 KiB.
    pub replay_bytes_max: usize,
    /// A client that has ended its stream is still answered. Otherwise it has left: its request is given up.
    pub half_close: bool,
}

impl ProxyConfig {
    /// The defaults, for these upstreams.
    pub fn new(upstreams: Vec<Address>) -> ProxyConfig {
        ProxyConfig {
            upstreams,
            balance: Balance::default(),
            limits: Limits::default(),
            body_bytes_max: u64::MAX,
            trusted: Vec::new(),
            name: "ringmill".to_owned(),
            connections_max: 500,
            keep_max: 64,
            keep_timeout: Duration::from_secs(10),
            age_max: Duration::from_secs(3600),
            queue_max: 1000,
            queue_timeout: Duration::from_secs(5),
            first_byte_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            tunnel_timeout: Duration::from_secs(3600),
            tries_max: 2,
            replay_bytes_max: 64 * 1024,
            half_close: false,
        }
    }
}
