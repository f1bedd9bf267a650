//! Protocols for Ringmill's engine. Read [`echo`] first, then [`http`].
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "tower")]
pub mod adapt;
#[cfg(feature = "broker")]
pub mod broker;
pub mod echo;
pub mod http;
pub mod layer;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod sse;
pub mod topic;
pub mod udp;
#[cfg(feature = "websocket")]
pub mod websocket;

pub use echo::Echo;
#[cfg(feature = "tls-layer")]
pub use layer::tls::{
    Tls, TlsClient, TlsClientConfig, TlsConfig, TlsError, TlsPeer, TlsStats, TlsStore, TlsTerm, TlsVersion,
};
pub use udp::UdpEcho;
