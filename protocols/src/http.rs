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
mod date;
mod handler;
#[cfg(feature = "internals")]
pub mod message;
#[cfg(not(feature = "internals"))]
mod message;
#[cfg(feature = "internals")]
pub mod one;
#[cfg(not(feature = "internals"))]
mod one;
mod reject;
mod reply;
mod request;
mod status;

pub use content::{BodyWriter, Fill, Source};
pub use handler::{Handler, Plan, Upload};
pub use message::{FIELDS_MAX, Field, Fields, HEAD_BYTES_MAX, Method, Version};
pub use one::decoder::BodyLimits;
pub use one::head::HeadLimits;
pub use one::limits::Limits;
pub use one::session::{Server, Session};
pub use reply::Reply;
pub use request::Request;

/// A server for a closure. Each worker has its own, so the closure may keep state without locks.
pub fn server<F: FnMut(&Request<'_>, &mut Reply<'_>) + 'static>(handler: F) -> Server<F> {
    Server::new(handler)
}
