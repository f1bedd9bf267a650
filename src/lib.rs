//! Ringmill: a thread-per-core server engine for Linux, on io_uring where it is allowed and epoll where not.
//!
//! One dependency is enough: this crate re-exports the engine ([`Engine`], [`Protocol`], [`Config`]) and the
//! protocols ([`http`], [`Echo`], [`UdpEcho`]). Start with [`Engine::builder`] and [`http::server`].
#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

#[cfg(feature = "axum")]
mod app;

#[cfg(feature = "axum")]
pub use app::{App, Incoming, Serve, serve, serve_with};
pub use ringmill_engine::*;
#[cfg(feature = "tower")]
pub use ringmill_protocols::adapt::Notices;
#[cfg(feature = "tower")]
pub use ringmill_protocols::http::Shutdown;
pub use ringmill_protocols::*;

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
