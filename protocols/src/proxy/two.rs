//! HTTP/2 on either side of a proxy: each stream is a connection of HTTP/1.1 to all that is not in this folder.
//!
//! A stream is carried by a *lane*: a session of the proxy on a duplex of its own, like the session above TLS, which reads and writes
//! text of HTTP/1.1 that never leaves this process. So routes, limits, retries, rewriting and back-pressure are written once, and a
//! client of either version is served by servers of either. What it costs is that text, twice a message.
//!
//! `clients.rs` are connections of clients, `trunk.rs` those with servers, both by hyper over a pipe (`adapt/pipe.rs`); `lane.rs` is what
//! both have in common, `text.rs` the translation, pure. Beside this folder, `trunks.rs` has which connections there are, and `streams.rs` who opens streams.

pub(super) mod clients;
mod lane;
mod text;
pub(super) mod trunk;
