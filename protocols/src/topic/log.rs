//! The messages that a topic keeps: those from `first` up to `next`, without a gap. Pure.

use super::message::Frame;
use ringmill_engine::Tick;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// The messages that a topic keeps.
pub(super) struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// All that were ever appended.
    pushed_bytes: u64,
    end: End,
}

/// How far a log has come.
#[derive(Clone, Copy)]
pub(super) struct End {
    /// What the next message will be.
    pub(super) next: u64,
    /// Of which epoch it is now.
    pub(super) epoch: u64,
    /// The last cut of what is not kept any more.
    pub(super) cut: Option<u64>,
}

struct Entry {
    frame: Arc<Frame>,
    /// How many bytes were appended before it.
    bytes_before: u64,
    /// When it was first seen by [`Log::expire`].
    seen: Option<Tick>,
}

impl Log {
    pub(super) fn new(next: u64, epoch: u64) -> Log {
        Log { entries: VecDeque::new(), bytes: 0, pushed_bytes: 0, end: End { next, epoch, cut: None } }
    }

    #[inline]
    pub(super) fn end(&self) -> End {
        self.end
    }

    /// Whether something was missed between these two; the first one is not kept any more.
    pub(super) fn is_cut(&self, from: u64, to: u64) -> bool {
        let is_kept = |offset| self.at(offset).is_some_and(|frame| frame.is_cut());
        self.end.cut.is_some_and(|cut| cut >= from) || (self.first()..to).any(is_kept)
    }

    /// It is of this epoch from here on.
    pub(super) fn follow(&mut self, epoch: u64) {
        self.end.epoch = epoch;
    }

    /// The oldest that is kept; `next` if there is none.
    #[inline]
    pub(super) fn first(&self) -> u64 {
        self.end.next - self.entries.len() as u64
    }

    /// What the next one will be.
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.end.next
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A message that is kept.
    #[inline]
    pub(super) fn at(&self, offset: u64) -> Option<&Arc<Frame>> {
        let index = usize::try_from(offset.checked_sub(self.first())?).ok()?;
        self.entries.get(index).map(|entry| &entry.frame)
    }

    /// So many messages and bytes come from this one on, which is kept or was.
    pub(super) fn behind(&self, offset: u64) -> (u64, u64) {
        let first = self.first().max(offset);
        let entry = self.entries.get((first - self.first()) as usize);
        let bytes = entry.map_or(0, |entry| self.pushed_bytes - entry.bytes_before);
        (self.next().saturating_sub(offset), bytes)
    }

    pub(super) fn push(&mut self, frame: Arc<Frame>) {
        let bytes_before = self.pushed_bytes;
        self.bytes += frame.cost();
        self.pushed_bytes += frame.cost() as u64;
        self.end.epoch = frame.place().epoch;
        self.end.next += 1;
        self.entries.push_back(Entry { frame, bytes_before, seen: None });
    }

    /// Goes on elsewhere, with nothing kept: with the oldest that a log keeps which has come to this end.
    pub(super) fn jump(&mut self, next: u64, end: End) {
        self.entries.clear();
        self.bytes = 0;
        self.end = End { next, ..end };
    }

    /// Drops the oldest.
    pub(super) fn pop(&mut self) {
        let first = self.first();
        if let Some(entry) = self.entries.pop_front() {
            if entry.frame.is_cut() {
                self.end.cut = Some(first);
            }
            self.bytes -= entry.frame.cost();
        }
    }

    /// All from `offset` on.
    pub(super) fn since(&self, offset: u64) -> Vec<Arc<Frame>> {
        let skipped = usize::try_from(offset.saturating_sub(self.first())).unwrap_or(usize::MAX);
        self.entries.iter().skip(skipped).map(|entry| entry.frame.clone()).collect()
    }

    /// Drops what was seen `age_max` ago, but for so many of the last ones.
    pub(super) fn expire(&mut self, now: Tick, age_max: Duration, keep: usize) {
        // New ones are at the end.
        for entry in self.entries.iter_mut().rev() {
            if entry.seen.is_some() {
                break;
            }
            entry.seen = Some(now);
        }
        while self.entries.len() > keep
            && self
                .entries
                .front()
                .and_then(|entry| entry.seen)
                .is_some_and(|seen| now.since(seen) >= age_max)
        {
            self.pop();
        }
    }
}
