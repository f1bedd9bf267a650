//! What runs the case files of `tests/data/http`.

pub mod format;
pub mod line;
pub mod replies;
pub mod simulated;
pub mod sockets;

use ringmill::http::{BodyLimits, HeadLimits, Limits};

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A handler of ours.
    Native,
    /// The same as a service of tower.
    Tower,
}

/// Cases that are otherwise with a service of tower, and why.
pub const NOT_BY_TOWER: &[(&str, &str)] = &[
    ("line-http2-preface", "HTTP/2 is served"),
    ("reply-chunked-empty", "a body that is over at once has a length"),
    ("target-absolute-scheme-in-capitals", "`http::Uri` tells it in lower case"),
    ("target-origin-other-bytes", "`http::Uri` does not take them, the answer is 400"),
];

impl Lane {
    /// Whether a case is one for it.
    pub fn has(self, case: &format::Case) -> bool {
        match self {
            Lane::Native => true,
            Lane::Tower => NOT_BY_TOWER.iter().all(|(name, _)| *name != case.name),
        }
    }
}

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
