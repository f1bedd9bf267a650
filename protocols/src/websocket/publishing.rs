//! How much the connections of one endpoint publish in a turn, so that those who subscribe read in between. Plain data.
//!
//! All of them share an eighth of a log, in equal parts where several had to wait before. But each may publish one message in each call,
//! so that none waits for ever.

use crate::topic::TopicOptions;
use ringmill_engine::Tick;
use std::cell::Cell;

/// What was published in this turn.
#[derive(Default)]
pub(super) struct Publishing {
    turn: Cell<Tick>,
    /// Of a log, in parts: by all, ...
    in_turn: Cell<usize>,
    /// ...and in this call.
    in_call: Cell<usize>,
    /// How much one connection may publish.
    share: Cell<usize>,
    /// How many connections wait for the next turn.
    held: Cell<usize>,
}

/// A whole log of a topic, in parts, and how much of one is published before those who subscribe have a turn.
const LOG: usize = 1 << 20;
const PUBLISHED_MAX: usize = LOG / 8;

impl Publishing {
    /// A connection begins to say what it has.
    #[inline]
    pub(super) fn begin(&self, now: Tick) {
        self.in_call.set(0);
        if self.turn.replace(now) != now {
            self.in_turn.set(0);
            self.share.set(PUBLISHED_MAX / self.held.take().max(1));
        }
    }

    /// Counts what was published. Bytes count twice, because an output takes only so many in a turn.
    pub(super) fn count(&self, bytes: usize, options: &TopicOptions) {
        let messages = LOG / options.messages_max.max(1);
        let bytes = bytes.saturating_mul(2 * LOG) / options.bytes_max.max(1);
        let part = messages.saturating_add(bytes);
        self.in_turn.set(self.in_turn.get().saturating_add(part));
        self.in_call.set(self.in_call.get().saturating_add(part));
    }

    /// Whether a connection has published so much that those who subscribe should read before there is more.
    #[inline]
    pub(super) fn is_much(&self) -> bool {
        let in_call = self.in_call.get();
        in_call > 0 && (in_call >= self.share.get() || self.in_turn.get() >= PUBLISHED_MAX)
    }

    /// It waits for the next turn.
    pub(super) fn hold(&self) {
        self.held.set(self.held.get() + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many messages a connection publishes in one call.
    fn publishes(publishing: &Publishing, turn: u64, options: &TopicOptions) -> usize {
        publishing.begin(Tick(turn));
        let mut count = 0;
        while !publishing.is_much() {
            publishing.count(0, options);
            count += 1;
        }
        publishing.hold();
        count
    }

    #[test]
    fn an_eighth_of_a_log_is_much_however_long_it_is() {
        for messages_max in [8, 256, 2000, 100_000] {
            let options = TopicOptions { messages_max, ..TopicOptions::default() };
            let count = publishes(&Publishing::default(), 1, &options);
            assert!(
                (messages_max / 8..=messages_max / 8 + messages_max / 50 + 1).contains(&count),
                "{count} of {messages_max}"
            );
        }
    }

    #[test]
    fn who_waited_shares_a_turn() {
        let (publishing, options) = (Publishing::default(), TopicOptions::default());
        let turn = |turn| -> Vec<usize> { (0..8).map(|_| publishes(&publishing, turn, &options)).collect() };
        assert_eq!(turn(1), [32, 1, 1, 1, 1, 1, 1, 1]);
        assert_eq!(turn(2), [4; 8]);
        assert_eq!(turn(3), [4; 8]);
        assert_eq!(publishes(&publishing, 4, &options), 4);
        assert_eq!(publishes(&publishing, 5, &options), 32);
    }
}
