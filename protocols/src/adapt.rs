//! Programs of other worlds on our sessions: tower services, and with them axum's routers.
//!
//! Read on in this order: `tower.rs` (a service as a handler of our HTTP/1.1), with what it is made of: `arena.rs`, `request.rs`, `body.rs`, `notices.rs`,
//! `response.rs`, `upgrade.rs`; `h2.rs` (HTTP/2 by hyper over a `pipe.rs`), with `stream.rs` and `grpc.rs`; `first.rs`, which tells the two apart, and is what users make. `feed.rs` has topics for such programs.

pub(crate) mod arena;
mod body;
#[cfg(test)]
mod counting;
mod feed;
pub(crate) mod first;
pub(crate) mod grpc;
mod h2;
mod limits;
mod notices;
mod pipe;
mod request;
mod response;
mod service;
pub(crate) mod signal;
mod stream;
pub(crate) mod timer;
mod tower;
mod upgrade;

pub use body::{Body, BodyError};
pub use feed::{EventBody, Feed, Update};
pub use first::{TowerServer, http2, tower};
pub use h2::Http2;
pub use limits::Http2Limits;
pub use notices::Notices;
pub use service::{Answer, BoxError, Connection};
