//! HTTP/1.1, server side (RFC 9110, RFC 9112): strict framing, pipelining, bodies that stream both ways.
//!
//! ```no_run
//! # use ringmill_engine as ringmill;
//! # use ringmill_protocols::http;
//! ringmill::Engine::builder()
//!     .listen("127.0.0.1:8080", |_worker| http::server(|_request, reply| reply.text("Hello, World!")))
//!     .run()?;
//! # Ok::<(), ringmill_engine::Error>(())
//! ```
//!
//! Read on in this order: [`Handler`] (what you write), `one/session.rs` (the state machine that calls it),
//! `one/head.rs` and `one/decoder.rs` (bytes to requests, pure), `reply.rs` (replies to bytes). What every version of HTTP
//! shares is in this folder, what is HTTP/1.1 in `one/`. [`client`] reads responses.

pub mod client;
mod content;
pub(crate) mod date;
mod field;
#[cfg(feature = "tower")]
pub(crate) mod foreign;
mod handler;
pub(crate) mod intake;
mod later;
#[cfg(feature = "internals")]
pub mod message;
#[cfg(not(feature = "internals"))]
pub(crate) mod message;
pub(crate) mod misuse;
#[cfg(feature = "internals")]
pub mod one;
#[cfg(not(feature = "internals"))]
pub(crate) mod one;
pub(crate) mod owned;
mod peer;
pub(crate) mod reject;
pub(crate) mod reply;
mod request;
#[cfg(feature = "tower")]
mod shutdown;
pub(crate) mod status;
mod successor;
pub(crate) mod switch;
#[cfg(any(feature = "proxy", feature = "websocket"))]
pub(crate) mod websocket_key;
pub(crate) mod work;

pub use content::{BodyWriter, Fill, Source};
#[doc(hidden)]
pub use handler::Streaming;
pub use handler::{Handler, Plan, Upload};
pub use later::Async;
pub use message::{FIELDS_MAX, Field, Fields, HEAD_BYTES_MAX, Method, Version};
pub use one::decoder::BodyLimits;
pub use one::head::HeadLimits;
pub use one::limits::{Limits, WhenGone};
pub use one::protocol::Session;
pub use one::session::Server;
pub use owned::reply::OwnedReply;
pub use owned::request::OwnedRequest;
pub use peer::Peer;
pub use reply::Reply;
pub use request::Request;
#[cfg(feature = "tower")]
pub use shutdown::{Begun, Shutdown};
pub use successor::Successor;

/// A server for an async closure: it may wait for whatever wakes a future. Each worker has its own, so it may keep state without
/// locks.
///
/// ```no_run
/// # use ringmill_engine as ringmill;
/// # use ringmill_protocols::http;
/// # async fn lookup(_: Option<&str>) -> String { String::new() }
/// ringmill::Engine::builder()
///     .listen("127.0.0.1:8080", |_worker| {
///         http::server_async(async |request: http::OwnedRequest, reply: http::OwnedReply| {
///             let user = lookup(request.query_value("id")).await;
///             reply.json(user)
///         })
///     })
///     .run()?;
/// # Ok::<(), ringmill_engine::Error>(())
/// ```
pub fn server_async<F>(handler: F) -> Server<Async>
where
    F: AsyncFn(OwnedRequest, OwnedReply) -> OwnedReply + 'static,
{
    Server::new(Async::new(handler))
}

/// A server for a closure. Each worker has its own, so the closure may keep state without locks.
pub fn server<F: FnMut(&Request<'_>, &mut Reply<'_>) + 'static>(handler: F) -> Server<F> {
    Server::new(handler)
}
