//! What is told of requests to those who look at a proxy from outside: what a request is called (`ids.rs`, `trace.rs`). Nothing here
//! decides what becomes of a request, and what is not asked for costs nothing.

mod ids;
mod random;
mod seen;
mod trace;

pub use ids::{IdRules, RequestIds, Traces};
pub(super) use ids::{Identity, is_identity};
pub(super) use random::Random;
pub(super) use seen::Seen;

/// What is told of requests. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observe {
    /// What requests are called.
    pub ids: IdRules,
}

impl Observe {
    /// Whether anything is to be noted of a request.
    pub(super) fn is_wanted(&self) -> bool {
        !self.ids.is_off()
    }
}
