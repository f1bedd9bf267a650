//! HTTP/1.1 on the wire (RFC 9112): bytes to requests and replies to bytes, and the session that does both.
//!
//! `head.rs` and `decoder.rs` read, on the lines that `syntax.rs` scans; all three are pure.

#[cfg(feature = "internals")]
pub mod decoder;
#[cfg(not(feature = "internals"))]
pub(super) mod decoder;
pub(super) mod emit;
#[cfg(feature = "internals")]
pub mod head;
#[cfg(not(feature = "internals"))]
pub(super) mod head;
pub(super) mod session;
mod syntax;
