//! What is told of requests, and of connections that are passed on as they are, to those who look at a proxy from outside. Nothing here decides what becomes of a request, and what is not asked
//! for costs nothing.
//!
//! `ids.rs` and `trace.rs` are what a request is called. `seen.rs` is what is noted of one while it is served; with its end it is an `entry.rs`
//! in the ring of its worker (`log.rs`), of which whoever reads the rings makes a line (`format.rs`). `counts.rs` has the sums
//! of routes and servers. All is pure but for the rings.

mod counts;
mod entry;
mod format;
mod ids;
mod log;
mod random;
mod seen;
mod trace;

pub(super) use counts::Tally;
pub use counts::{Counted, Counts, LIMITS_MICROS, LineCounts};
pub(super) use entry::Front;
pub use entry::{End, Entry, HttpVersion, Numbers, Text};
pub(super) use format::write_ip;
pub use format::{LineWriter, LogFormat};
pub use ids::{IdRules, RequestIds, Traces};
pub(super) use ids::{Identity, is_identity};
pub(super) use log::Sink;
pub use log::{AccessLog, Batch, LogRules};
pub(super) use random::Random;
pub(super) use seen::{Label, Noted, Seen, Wishes};

/// What is told of requests. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observe {
    /// What requests are called.
    pub ids: IdRules,
    /// Which of them are noted when they have come to their end, and where.
    pub log: Option<LogRules>,
    /// Where routes, listeners and servers are counted.
    pub counts: Option<Counts>,
}

impl Observe {
    /// Whether anything is to be told of a connection that is passed on.
    pub(super) fn is_told(&self) -> bool {
        self.log.is_some() || self.counts.is_some()
    }

    /// Whether anything is to be noted of a request.
    pub(super) fn is_wanted(&self) -> bool {
        !self.ids.is_off() || self.log.is_some() || self.counts.is_some()
    }
}
