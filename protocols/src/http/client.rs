//! HTTP/1.1, client side: responses as a strict client reads them (RFC 9112). Pure.

mod response;

pub use response::{Body, Framing, Head, Malformed, Progress, parse_final_head, parse_head};
