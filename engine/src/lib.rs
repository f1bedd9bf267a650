//! Ringmill's engine: one pinned worker thread a core, each with its own ring or poller, connections,
//! buffers and listeners, sharing nothing. It turns kernel completions into calls of a [`Protocol`].
//!
//! # The life of a byte
//!
//! 1. The kernel puts it into a receive buffer of the worker's pool and reports it as an event
//!    through a driver: `uring` or `poll`.
//! 2. The worker (`worker.rs`, the loop) finds the connection by the event's token, checks that it is
//!    still the same one, and calls [`Protocol::data`] with the bytes in place (`worker/transport.rs`, `session/calls.rs`).
//! 3. The protocol says with a [`Step`] how much it consumed and appends its answer through [`Io`] to the
//!    connection's output. What it did not consume is copied aside; the buffer goes back.
//! 4. After the batch of events the worker submits one send for each connection that has output. The output
//!    moves into the operation and comes back with its completion, where a short send goes on.
//!
//! # Where a protocol stands
//!
//! ```text
//!             ┌────────────── session ──────────────┐
//!   data, end │      drained, timeout, wake, ..     │ writes
//!             │                                     ▼
//!        ┌─ inlet ─┐        ┌ deadline ┐       ┌─ outlet ─┐
//!        │ kept    │        │ life     │       │ pending  │
//!        │ reading │        └──────────┘       │ level    │
//!        │ end     │                           │ wish     │
//!        └─────────┘                           └──────────┘
//!             ▲                                     │
//!        what arrives: from the worker,        what is sent: by the worker,
//!        or from the layer below               or through the layer below
//! ```
//!
//! A session stands on a duplex, which alone knows which call of it is due. The worker has one for each connection. A [`Layer`]
//! is a protocol that carries another one, and has a duplex for the session above it: an [`Upper`]. A session sees the
//! same [`Io`] at any height.
//!
//! # Outbound connections
//!
//! A session opens one with [`Io::connect`], a protocol without a session with the [`Dialer`] that [`Protocol::start`]
//! hands it; [`Builder::outbound`] adds a protocol that has no listener at all. The answer is a call of the same
//! protocol value: [`Protocol::connected`] opens a session, which from then on is like any other, or
//! [`Protocol::refused`] says why not. Sessions of one value reach each other through it and [`Dialer::wake`].
//!
//! Start with [`Engine::builder`].
#![deny(unsafe_code)]
#![deny(clippy::disallowed_methods, clippy::print_stdout, clippy::print_stderr)]

mod address;
mod bell;
mod config;
mod conn;
#[cfg(feature = "sim")]
pub mod coverage;
#[cfg(not(feature = "sim"))]
mod coverage;
mod datagram;
mod dialer;
#[cfg(feature = "sim")]
pub mod driver;
#[cfg(not(feature = "sim"))]
mod driver;
mod engine;
mod error;
#[cfg(feature = "sim")]
pub mod event;
#[cfg(not(feature = "sim"))]
mod event;
mod gate;
#[cfg(feature = "tokio")]
mod host;
mod listen;
mod memory;
#[cfg(feature = "sim")]
pub mod output;
#[cfg(not(feature = "sim"))]
mod output;
#[cfg(feature = "sim")]
pub mod pool;
#[cfg(not(feature = "sim"))]
mod pool;
mod seam;
mod session;
mod stats;
mod sync;
mod sys;
mod time;
#[cfg(feature = "sim")]
pub mod timer;
#[cfg(not(feature = "sim"))]
mod timer;
#[cfg(feature = "sim")]
pub mod token;
#[cfg(not(feature = "sim"))]
mod token;
mod worker;

pub use address::{Address, BadAddress};
pub use bell::{ConnId, Waker};
pub use config::{Config, DriverChoice, ListenOptions, Pin};
pub use datagram::sockets::FlowId;
pub use datagram::{DATAGRAM_BYTES_MAX, Datagrams};
pub use dialer::{Dialer, Refusal};
pub use engine::{Builder, Engine, Handle, Listeners, Running, WorkerContext};
pub use error::Error;
pub use event::Errno;
pub use gate::{BadLine, BadNetwork, ClientKey, Gate, GateRules, Network, Networks, Rate, RateLimiter};
#[cfg(feature = "tokio")]
pub use host::TokioOptions;
pub use listen::on::ListenOn;
pub use output::Output;
pub use seam::datagram::{Admission, Datagram, DatagramIo, FlowRefusal};
pub use seam::facts::{Facts, Proxied, ProxiedSsl, ProxyOutcome, Secure};
pub use seam::io::Io;
pub use seam::layer::{Call, Layer, Notice, Origin, Reclaim};
pub use seam::protocol::Protocol;
pub use seam::step::{Next, Step};
pub use session::life::CloseReason;
pub use session::upper::Upper;
pub use stats::{Counters, Stats, WorkerSnapshot};
pub use time::Tick;

/// Raises this process's limit of open descriptors to its hard limit, and returns it. A server wants this
/// before it starts; a library does not do it unasked.
pub fn raise_descriptor_limit() -> u64 {
    sys::raise_descriptor_limit()
}

/// Tries io_uring as an engine would: sets up a ring and a buffer ring and receives over them. The error says
/// which step failed and what can be done; an engine that may choose runs on epoll then.
pub fn probe_io_uring() -> Result<(), String> {
    driver::uring::probe().map(drop)
}
