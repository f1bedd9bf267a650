//! What runs the case files of `tests/data/http`.

pub mod format;
pub mod line;
pub mod replies;
pub mod simulated;
pub mod sockets;

use ringmill::http::{BodyLimits, HeadLimits, Limits};

/// The limits that users get.
pub fn limits() -> Limits {
    Limits::default()
}

/// Small enough that an input which reaches one can be cut at every byte. The README of the case files names them.
pub fn small_limits() -> Limits {
    Limits {
        head: HeadLimits { request_line_bytes_max: 100, head_bytes_max: 400, fields_max: 10 },
        body: BodyLimits { framing_bytes_max: 100 },
        body_bytes_max: 200,
        requests_max: Some(5),
        ..Limits::default()
    }
}
