//! What is counted of topics: by each worker for itself, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a worker counts. Only its own thread writes, or what it counts is rare.
#[derive(Default)]
pub(super) struct Live {
    pub(super) published: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) busy: AtomicU64,
    pub(super) gaps: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) slow_closed: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) cuts: AtomicU64,
    pub(super) topics: AtomicU64,
    pub(super) subscribers: AtomicU64,
    pub(super) kept_bytes: AtomicU64,
}

impl Live {
    /// Adds to a counter of the own worker.
    #[inline]
    pub(super) fn add(counter: &AtomicU64, value: u64) {
        counter.store(counter.load(Relaxed).wrapping_add(value), Relaxed);
    }

    pub(super) fn set(counter: &AtomicU64, value: usize) {
        counter.store(value as u64, Relaxed);
    }

    /// Adds these to `sum`.
    pub(super) fn add_to(&self, sum: &mut TopicCounters) {
        sum.published += self.published.load(Relaxed);
        sum.delivered += self.delivered.load(Relaxed);
        sum.busy += self.busy.load(Relaxed);
        sum.gaps += self.gaps.load(Relaxed);
        sum.skipped += self.skipped.load(Relaxed);
        sum.slow_closed += self.slow_closed.load(Relaxed);
        sum.resets += self.resets.load(Relaxed);
        sum.cuts += self.cuts.load(Relaxed);
        sum.topics += self.topics.load(Relaxed);
        sum.subscribers += self.subscribers.load(Relaxed);
        sum.kept_bytes += self.kept_bytes.load(Relaxed);
    }
}

/// What topics have done since the start, and what there is now: the sum of all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicCounters {
    /// Messages that got a place in their topic.
    pub published: u64,
    /// Messages that were handed to a subscriber.
    pub delivered: u64,
    /// Messages that were refused because the home of their topic was busy, or because they could not be carried to other processes.
    pub busy: u64,
    /// Times that a worker's inbox was full, so that it had to fetch what it had missed of a topic.
    pub gaps: u64,
    /// Messages that slow subscribers were told to have missed.
    pub skipped: u64,
    /// Slow subscribers that were closed.
    pub slow_closed: u64,
    /// Times that a subscriber could not go on where it was.
    pub resets: u64,
    /// Times that something of a topic was missed of other processes, or may have been: all its subscribers are told.
    pub cuts: u64,
    /// Messages of other processes that could not be read, or are longer than they may be here.
    pub unreadable: u64,
    /// Topics that there are, counted by each worker that knows them.
    pub topics: u64,
    /// Subscribers that there are.
    pub subscribers: u64,
    /// Bytes that are kept, counted by each worker that keeps them.
    pub kept_bytes: u64,
}

impl TopicCounters {
    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("published", self.published),
            ("delivered", self.delivered),
            ("busy", self.busy),
            ("gaps", self.gaps),
            ("skipped", self.skipped),
            ("slow_closed", self.slow_closed),
            ("resets", self.resets),
            ("cuts", self.cuts),
            ("unreadable", self.unreadable),
            ("topics", self.topics),
            ("subscribers", self.subscribers),
            ("kept_bytes", self.kept_bytes),
        ]
        .into_iter()
    }
}
