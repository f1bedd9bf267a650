//! A broker that carries the messages of topics.

use super::{Broker, Event, Inbox, Link, Options, Refused, Server};
use crate::topic::{Arrivals, Carrier, InUse, Published, Topics};
use bytes::Bytes;
use std::sync::Arc;

/// Why topics have no broker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// They cannot have one any more.
    #[error(transparent)]
    InUse(#[from] InUse),
    /// There is no thread to be had.
    #[error("cannot start the thread of the broker: {0}")]
    Thread(#[from] std::io::Error),
}

impl Topics {
    /// Has a broker carry all messages, so that all processes with the same one and the same [`Options::prefix`] have these topics in
    /// common. Before the engine starts; keep the [`Broker`], which ends when it is dropped: nothing is published then.
    ///
    /// A broker that is down keeps nobody from starting: until it is there, and whenever it is lost, publishing says [`Published::Busy`].
    /// When it is back, subscribers are told that they may have missed something, and places have a new epoch.
    ///
    /// ```no_run
    /// # use ringmill_protocols::topic::Topics;
    /// let topics = Topics::default();
    /// let _broker = topics.connect("nats://127.0.0.1:4222".parse()?, Default::default())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A worker uses these topics already, or they have a broker; or there is no thread to be had.
    pub fn connect(&self, server: Server, options: Options) -> Result<Broker, ConnectError> {
        let broker = Broker::start(server, options, Arc::new(self.arrivals()))?;
        self.carry(Arc::new(broker.link()))?;
        Ok(broker)
    }
}

impl Carrier for Link {
    fn publish(&self, topic: &str, payload: Bytes) -> Published {
        match Link::publish(self, topic, payload) {
            Ok(()) => Published::Done { offset: None },
            Err(Refused::Lost | Refused::Busy) => Published::Busy,
            Err(Refused::TooLarge) => Published::TooLarge,
        }
    }

    fn subscribe(&self, topic: &str) {
        Link::subscribe(self, topic);
    }

    fn unsubscribe(&self, topic: &str) {
        Link::unsubscribe(self, topic);
    }
}

impl Inbox for Arrivals {
    fn offer(&self, event: Event) -> Result<(), Event> {
        match &event {
            // That publishing is refused, the link says; and what was missed is told once it is over.
            Event::Lost(_) => {}
            Event::Up => self.missed_all(),
            Event::Subscribed { topic } => self.began(topic),
            Event::Missed { topic } => self.missed(topic),
            Event::Message { topic, payload } if !self.message(topic, payload) => return Err(event),
            Event::Message { .. } => {}
        }
        Ok(())
    }
}
