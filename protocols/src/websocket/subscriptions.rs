//! The topics that a connection subscribes to. Plain data.

use crate::topic::Subscription;

/// What a connection subscribes to.
#[derive(Default)]
pub(super) struct Subscriptions {
    pub(super) list: Vec<Subscription>,
    /// Whose turn it is.
    pub(super) turn: usize,
}
