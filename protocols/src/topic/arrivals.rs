//! What other processes have published, on its way to the homes of its topics; and where something of it was missed.
//!
//! What was missed lies in a topic as a cut, which every subscriber comes to.

use super::carrier::{Carrier, InUse};
use super::envelope;
use super::hub::{Shared, Topics};
use bytes::Bytes;
use std::sync::Arc;

/// Where a [`Carrier`] leaves what it brings, from one thread, in its order. Clones are the same.
#[derive(Clone)]
pub struct Arrivals(Arc<Shared>);

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
            Ok(publication) if publication.len() <= self.0.options.message_bytes_max => {
                inbox.arrive(topic, publication, &self.0.options)
            }
            Ok(publication) => self.unreadable(topic, &format!("it has {} bytes", publication.len())),
            Err(problem) => self.unreadable(topic, &problem.to_string()),
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

    /// Of all topics something was missed, or may have been: an epoch ends, and another one begins. All who have subscribed before are told.
    pub fn missed_all(&self) {
        let restart = self.0.next_epoch();
        self.0.inboxes().iter().for_each(|inbox| inbox.restart(restart));
    }

    fn unreadable(&self, topic: &Arc<str>, problem: &str) -> bool {
        let count = self.0.count_unreadable();
        // Somebody else may publish thousands.
        if count.is_power_of_two() {
            tracing::warn!(%topic, count, problem, "a message of another process cannot be read, or is too long");
        }
        self.missed(topic);
        true
    }
}
