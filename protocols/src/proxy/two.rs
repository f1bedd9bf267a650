//! HTTP/2 on either side of a proxy: each stream is a connection of HTTP/1.1 to all that is not in this folder.
//!
//! A stream is carried by a *lane*: a session of the proxy on a duplex of its own, like the session above TLS, which reads and writes
//! text of HTTP/1.1 that never leaves this process. So routes, limits, retries, rewriting and back-pressure are written once, and a
//! client of either version is served by servers of either. What it costs is that text, twice a message.
//!
//! `clients.rs` are connections of clients, `trunk.rs` those with servers, both by the library `h2` over a `wire.rs`. What both have in common:
//! `lanes.rs` and in it a `lane.rs` for each stream (`server_lane.rs` for one with a server), with the body that it sends (`sink.rs`); `ready.rs`, which says who is to go on; `pings.rs`; `resets.rs`;
//! and `text.rs`, the translation, pure, used by `requesting.rs` and `replying.rs`. A `websocket.rs` is a stream that is given over. Beside this folder, `trunks.rs` has which connections there are, and `streams.rs` who opens streams.

pub(super) mod clients;
mod lane;
mod lanes;
mod pings;
pub(super) mod ready;
mod replying;
mod requesting;
mod resets;
mod server_lane;
mod sink;
pub(super) mod text;
pub(super) mod trunk;
mod websocket;
mod wire;
