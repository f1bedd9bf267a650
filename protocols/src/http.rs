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
//! Read on in this order: [`Handler`] (what you write), `session.rs` (the state machine that calls it),
//! `parse.rs` and `body.rs` (bytes to requests, pure), `reply.rs` (replies to bytes).

#[cfg(feature = "internals")]
pub mod body;
#[cfg(not(feature = "internals"))]
mod body;
mod date;
mod handler;
#[cfg(feature = "internals")]
pub mod parse;
#[cfg(not(feature = "internals"))]
mod parse;
mod reject;
mod reply;
mod request;
mod session;
mod syntax;

pub use body::BodyLimits;
pub use handler::{BodyWriter, Fill, Handler, Plan, Source, Upload};
pub use parse::{FIELDS_MAX, Field, Fields, HEAD_BYTES_MAX, HeadLimits, Method, Version};
pub use reply::Reply;
pub use request::Request;
pub use session::{Limits, Server, Session};

/// A server for a closure. Each worker has its own, so the closure may keep state without locks.
pub fn server<F: FnMut(&Request<'_>, &mut Reply<'_>) + 'static>(handler: F) -> Server<F> {
    Server::new(handler)
}
