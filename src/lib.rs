//! Ringmill: a thread-per-core server engine for Linux, on io_uring where it is allowed and epoll where not.
#![forbid(unsafe_code)]

pub use ringmill_engine::*;
pub use ringmill_protocols::*;
