//! What goes between a broker's connection and those who use it: events, limits, counters.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A message to be published, and its topic.
pub(super) type Outgoing = (Arc<str>, Bytes);

/// What a broker tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is a connection, and what was subscribed to is. Between [`Event::Lost`], or the start, and this, messages were missed.
    Up,
    /// There is no connection, or the broker has dropped messages because they were not taken in time. Why, for people.
    Lost(String),
    /// Somebody published this, maybe this process.
    Message {
        /// Where to.
        topic: Arc<str>,
        /// What.
        payload: Bytes,
    },
    /// A topic was subscribed to that was not: messages of it before this are of an earlier subscription.
    Subscribed {
        /// Which one.
        topic: Arc<str>,
    },
    /// Somebody published something that is longer than [`Options::message_bytes_max`]: it was dropped.
    Missed {
        /// Where to.
        topic: Arc<str>,
    },
}

/// Where events go.
pub trait Inbox: Send + Sync + 'static {
    /// Takes an event, or gives it back because it is full: it is offered again a little later, and what follows waits behind it.
    /// Called on the broker's thread: do not block.
    ///
    /// # Errors
    /// The event itself, when there is no room for it.
    fn offer(&self, event: Event) -> Result<(), Event>;
}

/// Why something is not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There is no connection to the broker.
    #[error("there is no connection to the broker")]
    Lost,
    /// More is being published than the broker takes.
    #[error("the broker does not take messages as fast as they are published")]
    Busy,
    /// The broker takes no message of this length.
    #[error("the broker takes no message of this length")]
    TooLarge,
}

/// Limits and waits of a [`Broker`](super::Broker).
#[derive(Clone, Debug)]
pub struct Options {
    /// So many messages may wait to be published; beyond that they are refused ([`Refused::Busy`]).
    pub outgoing_max: usize,
    /// So many messages may wait to be taken by the inbox, and with NATS as many of each topic. More are dropped, which is told as a loss.
    pub incoming_max: usize,
    /// Longer messages, with some bytes more than what was published, are refused here, and from elsewhere not handed over. It is told ([`Event::Missed`]), and they are counted ([`Counters::too_large`]).
    pub message_bytes_max: usize,
    /// A connection that is not there after this time has failed.
    pub connect_within: Duration,
    /// A server that does not answer in this time is gone.
    pub answer_within: Duration,
    /// Each connection is asked this often for an answer, because a server that lost its power says nothing, and nor does a firewall that
    /// forgets one.
    pub ask_every: Duration,
    /// The first wait before another attempt to connect; it doubles with each one, and is spread by half...
    pub retry_after: Duration,
    /// ...up to this.
    pub retry_after_max: Duration,
    /// What the broker calls a topic begins with this.
    pub prefix: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            outgoing_max: 1024,
            incoming_max: 8192,
            message_bytes_max: 2 << 20,
            connect_within: Duration::from_secs(5),
            answer_within: Duration::from_secs(5),
            ask_every: Duration::from_secs(10),
            retry_after: Duration::from_millis(100),
            retry_after_max: Duration::from_secs(5),
            prefix: "ringmill".to_owned(),
        }
    }
}

/// What a broker has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Whether there is a connection.
    pub is_up: bool,
    /// Connections that were made.
    pub connections: u64,
    /// Messages that were handed to the broker.
    pub published: u64,
    /// Messages that were refused.
    pub refused: u64,
    /// Messages that were taken, and not handed on because the connection was lost meanwhile.
    pub dropped: u64,
    /// Messages that arrived.
    pub received: u64,
    /// Messages that arrived and were too long.
    pub too_large: u64,
}

impl Counters {
    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("is_up", self.is_up.into()),
            ("connections", self.connections),
            ("published", self.published),
            ("refused", self.refused),
            ("dropped", self.dropped),
            ("received", self.received),
            ("too_large", self.too_large),
        ]
        .into_iter()
    }
}

/// The same, being counted.
pub(super) struct State {
    pub(super) is_up: AtomicBool,
    /// The longest message that the broker takes.
    pub(super) payload_max: AtomicUsize,
    pub(super) connections: AtomicU64,
    pub(super) published: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) too_large: AtomicU64,
}

impl State {
    pub(super) fn new() -> State {
        State {
            is_up: AtomicBool::new(false),
            payload_max: AtomicUsize::new(usize::MAX),
            connections: AtomicU64::new(0),
            published: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            received: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
        }
    }

    pub(super) fn counters(&self) -> Counters {
        let State { is_up, connections, published, refused, dropped, received, too_large, .. } = self;
        let [connections, published, refused, dropped, received, too_large] =
            [connections, published, refused, dropped, received, too_large]
                .map(|count| count.load(Ordering::Relaxed));
        let is_up = is_up.load(Ordering::Acquire);
        Counters { is_up, connections, published, refused, dropped, received, too_large }
    }
}
