//! What carries messages to other processes.
//!
//! With a carrier no message goes from a publisher to a subscriber of the same process but by it, so that all processes see what it brings
//! in the order in which it does. What it brings goes on in `arrivals.rs`.

use super::message::Published;
use bytes::Bytes;

/// What carries the messages of topics to other processes, and back to this one. A [`Broker`](crate::broker) is one.
pub trait Carrier: Send + Sync + 'static {
    /// Takes a message to be published, without waiting, or says why not. What it has taken comes back by
    /// [`Arrivals::message`](super::Arrivals::message).
    fn publish(&self, topic: &str, payload: Bytes) -> Published;

    /// Messages of this topic are wanted once more: each call has its [`unsubscribe`](Carrier::unsubscribe) some time later. What the same
    /// thread publishes after this must come back. When it was not wanted before, [`Arrivals::began`](super::Arrivals::began) says where its
    /// messages begin.
    fn subscribe(&self, topic: &str);

    /// They are wanted once less.
    fn unsubscribe(&self, topic: &str);
}

/// Topics have one carrier, from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InUse;

impl std::fmt::Display for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "these topics have a carrier already, or are in use: give them one before the engine starts",
        )
    }
}

impl std::error::Error for InUse {}
