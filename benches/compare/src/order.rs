//! What a load generator is told, and what it reports: the same for ours and for others.

use super::profile::Shape;
use super::results::Latency;
use std::net::SocketAddrV4;
use std::time::Duration;

/// One run of the client.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub(super) shape: Shape,
    pub(super) target: SocketAddrV4,
    /// Over TLS.
    pub(super) is_secure: bool,
    pub(super) duration: Duration,
    /// Requests a second in all; `None` for as fast as it goes.
    pub(super) rate: Option<f64>,
    /// The server's process, where there is one.
    pub(super) server: Option<u32>,
}

/// What the client reports.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loaded {
    /// Right responses.
    pub(super) requests: u64,
    pub(super) requests_per_second: f64,
    pub(super) latency_us: Latency,
    /// What the server took for them, where the client has looked: connecting is not in it.
    pub(super) server_cpu_ns: Option<u64>,
}
