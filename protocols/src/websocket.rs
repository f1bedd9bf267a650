//! WebSocket (RFC 6455) with permessage-deflate (RFC 7692): a session that an HTTP session gives its connection to.
//!
//! ```no_run
//! # use ringmill_engine as ringmill;
//! use ringmill_protocols::http::{self, Request};
//! use ringmill_protocols::websocket::{Accept, Handler, Message, Ws};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type State = ();
//!     fn accept(&mut self, _: &Request<'_>, _: &mut Accept<'_>) -> Option<()> {
//!         Some(())
//!     }
//!     fn message(&mut self, _: &mut (), message: Message<'_>, ws: &mut Ws<'_>) {
//!         ws.send(message);
//!     }
//! }
//!
//! ringmill::Engine::builder()
//!     .listen("127.0.0.1:8080", |_worker| {
//!         http::server(|_, reply| reply.status(404).text("404\n")).websocket("/ws", Echo)
//!     })
//!     .run()?;
//! # Ok::<(), ringmill_engine::Error>(())
//! ```
//!
//! Read on in this order: [`Handler`] (what you write), `session.rs` (what calls it), `frame.rs` (frames, pure), `receiving.rs` and
//! `sending.rs` (the two ways), `deflate.rs`; `handshake.rs` and `extension.rs` for how it begins.

mod burst;
mod deflate;
mod endpoint;
mod extension;
pub mod frame;
mod handler;
mod handshake;
mod message;
mod options;
mod publishing;
mod receiving;
mod sending;
mod session;
mod subscriptions;
mod topics;
mod ws;

#[doc(hidden)]
pub use crate::http::websocket_key::accept_key;
pub use deflate::{compress_once, inflate_once};
pub use endpoint::Endpoint;
pub use handler::Handler;
pub use handshake::Accept;
#[doc(hidden)]
pub use message::{Closed, Message, Piece, SharedMessage};
pub use options::{CONTROL_WINDOW, Deflate, Options, Origins};
pub use ws::Ws;
