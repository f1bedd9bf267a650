//! HTTP/1.1, client side: responses as a strict client reads them (RFC 9112). Pure.
//!
//! `response.rs` is for who only counts replies, such as a load generator: no field is kept. `reader.rs` keeps them, and is for
//! who passes replies on.

mod known;
#[cfg(feature = "internals")]
pub mod reader;
#[cfg(all(feature = "proxy", not(feature = "internals")))]
pub(crate) mod reader;
mod response;

pub use response::{Body, Framing, Head, Malformed, Progress, parse_final_head, parse_head};
