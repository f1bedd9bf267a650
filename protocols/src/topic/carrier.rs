//! Where topics reach beyond the process: what carries messages away, and what it says of those that it brings.
//!
//! With a carrier no message goes from a publisher to a subscriber of the same process but by it, so that all processes see what it brings
//! in the order in which it does. What was missed lies in a topic as a cut ([`Frame::is_cut`](super::Frame)), which every subscriber comes to.

use super::envelope;
use super::hub::{Published, Shared, Topics};
use bytes::Bytes;
use std::sync::Arc;

/// What carries the messages of topics to other processes, and back to this one. A [`Broker`](crate::broker) is one.
pub trait Carrier: Send + Sync + 'static {
    /// Takes a message to be published, without waiting, or says why not. What it has taken comes back by [`Arrivals::message`].
    fn publish(&self, topic: &str, payload: Bytes) -> Published;

    /// Messages of this topic are wanted once more: each call has its [`unsubscribe`](Carrier::unsubscribe) some time later. What the same
    /// thread publishes after this must come back. When it was not wanted before, [`Arrivals::began`] says where its messages begin.
    fn subscribe(&self, topic: &str);

    /// They are wanted once less.
    fn unsubscribe(&self, topic: &str);
}

/// Where a [`Carrier`] leaves what it brings, from one thread, in its order. Clones are the same.
#[derive(Clone)]
pub struct Arrivals(Arc<Shared>);

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

impl Topics {
    /// Has this carry all messages. What it brings goes to [`Topics::arrivals`].
    ///
    /// # Errors
    /// A worker has a hub of them already, or they have a carrier.
    pub fn carry(&self, carrier: Arc<dyn Carrier>) -> Result<(), InUse> {
        if !self.0.inboxes().is_empty() {
            return Err(InUse);
        }
        self.0.carrier.set(carrier).map_err(|_| InUse)
    }

    /// Where what their carrier brings is left.
    pub fn arrivals(&self) -> Arrivals {
        Arrivals(self.0.clone())
    }
}

impl Arrivals {
    /// A message of a topic; `false` if there is no room for it: it is to be offered again a little later, and what follows waits behind it.
    /// One that cannot be read is missed, counted, and said.
    #[must_use]
    pub fn message(&self, topic: &Arc<str>, payload: &Bytes) -> bool {
        let Some(inbox) = self.0.inboxes().get(self.0.home_of(topic)) else { return true };
        match envelope::decode(payload) {
            Ok(publication) if publication.bytes.len() <= self.0.options.message_bytes_max => {
                inbox.arrive(topic, publication, &self.0.options)
            }
            Ok(publication) => {
                let bytes = publication.bytes.len();
                tracing::warn!(%topic, bytes, "a message of another process is longer than they may be here");
                self.unreadable(topic)
            }
            Err(problem) => {
                tracing::warn!(%topic, %problem, "a message of another process cannot be read");
                self.unreadable(topic)
            }
        }
    }

    /// From here on all messages of this topic arrive: those before belong to a time when it was wanted before.
    pub fn began(&self, topic: &Arc<str>) {
        if let Some(inbox) = self.0.inboxes().get(self.0.home_of(topic)) {
            inbox.began(topic);
        }
    }

    /// Of this topic something was missed: its subscribers are told.
    pub fn missed(&self, topic: &Arc<str>) {
        if let Some(inbox) = self.0.inboxes().get(self.0.home_of(topic)) {
            inbox.missed(topic);
        }
    }

    /// Of all topics something was missed, or may have been: an epoch ends, and another one begins. All subscribers are told.
    pub fn missed_all(&self) {
        let epoch = self.0.next_epoch();
        self.0.inboxes().iter().for_each(|inbox| inbox.restart(epoch));
    }

    fn unreadable(&self, topic: &Arc<str>) -> bool {
        self.0.count_unreadable(topic);
        self.missed(topic);
        true
    }
}
