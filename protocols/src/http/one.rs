//! HTTP/1.1 on the wire (RFC 9112): bytes to requests and replies to bytes, and the session that does both.
//!
//! `session.rs` is the state machine, `protocol.rs` its calls until HTTP gives the connection over, `exchange.rs` its part for requests that are not answered at once, and `streaming.rs`
//! for bodies that come in while answers go out. `head.rs` and `decoder.rs` read
//! for it, on the lines that `syntax.rs` scans; `answer.rs` has requests answered, `waiting.rs` says for how long anything is waited
//! for, `detached.rs` keeps handlers whose client has left, and `emit.rs` writes what frames the replies. The parsers and
//! `emit.rs` are pure.

mod answer;
#[cfg(feature = "internals")]
pub mod decoder;
#[cfg(not(feature = "internals"))]
pub(crate) mod decoder;
mod detached;
pub(crate) mod emit;
mod exchange;
#[cfg(feature = "internals")]
pub mod head;
#[cfg(not(feature = "internals"))]
pub(crate) mod head;
pub(crate) mod limits;
pub(super) mod protocol;
pub(super) mod session;
mod streaming;
pub(super) mod syntax;
mod waiting;
