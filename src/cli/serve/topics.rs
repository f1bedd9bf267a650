//! Topics of `ringmill serve`: their options.

use clap::{Args, ValueEnum};
use ringmill::sse::EventOptions;
use ringmill::topic::{SlowPolicy, Start, TopicOptions};
use ringmill_console::options;
use std::time::Duration;

/// Options of topics.
#[derive(Args)]
pub(super) struct TopicsOptions {
    /// Messages that a topic keeps, for who is slow and for who comes back
    #[arg(long, value_name = "N", env = "RINGMILL_TOPIC_MAX_MESSAGES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    topic_max_messages: u32,

    /// Bytes of messages that a topic keeps, as 1MiB; the last message is kept whatever its size
    #[arg(long, value_name = "SIZE", env = "RINGMILL_TOPIC_MAX_BYTES", default_value = "1MiB", value_parser = options::size)]
    topic_max_bytes: u64,

    /// A message is kept for this time
    #[arg(long, value_name = "TIME", env = "RINGMILL_TOPIC_MAX_AGE", default_value = "300s", value_parser = options::timeout)]
    topic_max_age: Duration,

    /// Keep the last message of each topic however old it is
    #[arg(long, env = "RINGMILL_TOPIC_RETAIN")]
    topic_retain: bool,

    /// Messages of all topics that a worker keeps, as 64MiB; the oldest go first
    #[arg(long, value_name = "SIZE", env = "RINGMILL_TOPIC_MAX_MEMORY", default_value = "64MiB", value_parser = options::size)]
    topic_max_memory: u64,

    /// Topics of a worker; what would need another one is answered with 503
    #[arg(long, value_name = "N", env = "RINGMILL_TOPIC_MAX_COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    topic_max_count: u32,

    /// Where a subscriber begins: now, last (with the last message), oldest (with all that is kept); who comes back to events goes on
    /// where it was
    #[arg(long, value_name = "WHERE", env = "RINGMILL_TOPIC_START", default_value = "now")]
    topic_start: Begin,

    /// What becomes of a reader of events that is too slow for what is kept: skip (on to the oldest that is kept) or latest (on to the
    /// last), and it is told how many it missed; close. A WebSocket is closed
    #[arg(long, value_name = "WHAT", env = "RINGMILL_TOPIC_SLOW", default_value = "skip")]
    topic_slow: Slow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Begin {
    Now,
    Last,
    Oldest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Slow {
    Close,
    Skip,
    Latest,
}

impl TopicsOptions {
    /// The limits of topics whose messages may have so many bytes.
    pub(super) fn limits(&self, message_bytes_max: usize) -> TopicOptions {
        let bytes = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        TopicOptions {
            messages_max: self.topic_max_messages as usize,
            bytes_max: bytes(self.topic_max_bytes),
            age_max: self.topic_max_age,
            keeps_last: self.topic_retain,
            message_bytes_max: message_bytes_max.min(bytes(self.topic_max_bytes)),
            topics_max: self.topic_max_count as usize,
            worker_bytes_max: bytes(self.topic_max_memory),
            ..TopicOptions::default()
        }
    }

    /// How events are sent. A WebSocket begins where they do.
    pub(super) fn events(&self) -> EventOptions {
        let start = match self.topic_start {
            Begin::Now => Start::Now,
            Begin::Last => Start::Last,
            Begin::Oldest => Start::Oldest,
        };
        let when_slow = match self.topic_slow {
            Slow::Close => SlowPolicy::Close,
            Slow::Skip => SlowPolicy::Skip,
            Slow::Latest => SlowPolicy::Latest,
        };
        EventOptions { start, when_slow, ..EventOptions::default() }
    }
}
