//! The limits and choices of topics. What a peer may make them keep has its end here.

use super::place::Place;
use std::time::Duration;

/// The limits of the topics of a program.
#[derive(Clone, Debug)]
pub struct TopicOptions {
    /// A topic keeps so many messages: for who is slow, and for who comes back.
    pub messages_max: usize,
    /// A topic keeps so many bytes of messages, but always the last message.
    pub bytes_max: usize,
    /// A message is kept for so long, and a second more.
    pub age_max: Duration,
    /// The last message of a topic is kept however old it is ("retained"). Topics that have had a message are then never forgotten. With a
    /// carrier that holds while a topic is heard: what is kept when it is heard again may not be the last one, and is nobody's.
    pub keeps_last: bool,
    /// A longer message is not taken.
    pub message_bytes_max: usize,
    /// Topics that a worker knows, because it is their home or has subscribers of them: who would need another one is refused, as busy. (Those
    /// of which other workers have subscribers come on top.)
    pub topics_max: usize,
    /// All messages that a worker keeps, in bytes, but no more than a quarter of the worker's memory (`Config::memory_bytes_max`), which
    /// counts them: beyond it the oldest go, whatever topic they are of. What is encoded once for many
    /// subscribers (events, compressed frames) comes on top, and is at most twice as much.
    pub worker_bytes_max: usize,
    /// Messages from other workers that wait for a worker: beyond it those who publish are told that it is busy...
    pub inbox_messages_max: usize,
    /// ...as they are beyond so many bytes.
    pub inbox_bytes_max: usize,
    /// With a carrier ([`Topics::carry`](super::Topics::carry)): a topic that nobody subscribes to any more is heard for so long, and a second
    /// more, so that who comes back has missed nothing.
    pub linger: Duration,
}

impl TopicOptions {
    /// So many messages and bytes may wait for a worker.
    pub(super) fn inbox_limits(&self) -> (usize, usize) {
        (self.inbox_messages_max, self.inbox_bytes_max)
    }

    /// So many of them it takes at once. Fewer bytes than messages: an output takes only so many in a turn.
    pub(super) fn burst_limits(&self) -> (usize, usize) {
        (self.messages_max / 8, self.bytes_max / 16)
    }

    /// A subscriber that is further behind than so many messages and bytes is to be sent more at once than one that does not read may cost:
    /// before it is overtaken, it has several turns in which its output, of a quarter of the bytes, may leave.
    pub(super) fn behind_limits(&self) -> (u64, u64) {
        (self.messages_max as u64 / 2, self.bytes_max as u64 / 4)
    }
}

impl Default for TopicOptions {
    fn default() -> TopicOptions {
        TopicOptions {
            messages_max: 256,
            bytes_max: 1 << 20,
            age_max: Duration::from_secs(300),
            keeps_last: false,
            message_bytes_max: 256 << 10,
            topics_max: 100_000,
            worker_bytes_max: 64 << 20,
            inbox_messages_max: 4096,
            inbox_bytes_max: 8 << 20,
            linger: Duration::from_secs(60),
        }
    }
}

/// Where a subscriber begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Now,
    /// With the last message that there is, if there is one.
    Last,
    /// With all that is kept.
    Oldest,
    /// Behind this one, which it has. Where that is not possible any more, it is told that it has missed something, and begins now.
    After(Place),
}

/// What becomes of a subscriber that is so slow that what it would read next is not kept any more. Each is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SlowPolicy {
    /// It is closed: a WebSocket with the code 4008.
    #[default]
    Close,
    /// It goes on with the oldest message that is kept, and is told how many it has missed.
    Skip,
    /// It goes on with the last message, and is told how many it has missed.
    Latest,
}

/// How to subscribe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subscribe {
    /// Where to begin.
    pub start: Start,
    /// What if it is too slow.
    pub when_slow: SlowPolicy,
}
