//! One topic as a worker knows it: its log, who subscribes here, and who of them waits for the next message.

use super::log::Log;
use super::options::{SlowPolicy, Start};
use super::place::Place;
use ringmill_engine::{ConnId, Dialer, Tick};
use slab::Slab;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One topic.
pub(super) struct Topic {
    pub(super) name: Arc<str>,
    pub(super) log: Log,
    pub(super) role: Role,
    pub(super) subscribers: Slab<Subscriber>,
    /// Where those begin whose place is not known before the home has answered this question. Seldom anybody, so that it is not with
    /// each subscriber.
    pub(super) waiting: BTreeMap<usize, (Start, u64)>,
    /// Those that have read everything, so that the next message wakes them; and some that have left.
    pub(super) resting: Vec<usize>,
    pub(super) is_touched: bool,
}

pub(super) enum Role {
    /// Here it gets its order. These other workers have subscribers.
    Home {
        interested: Vec<usize>,
        hearing: Hearing,
        /// The first message that was heard since it was asked for.
        heard_from: u64,
        /// How many epochs had ended by then.
        restarts: u64,
    },
    /// Its home is asked for what follows what is here. Questions have numbers, and are answered in their order; what was asked before the
    /// first one was for an earlier mirror. One is on its way at a time: who waits for a later one has it asked once that is answered.
    Mirror { first: u64, asked: u64, answered: u64 },
}

/// Whether what carries messages was asked for those of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// Not, or there is nothing that carries them.
    Not,
    Wanted,
    /// Nobody wants them any more, since about then.
    Lingers(Option<Tick>),
}

/// There are many, so that each is small.
pub(super) struct Subscriber {
    pub(super) notify: Notify,
    /// It reads this one next; [`WAITING`] if it is not known yet.
    pub(super) at: u64,
    pub(super) when_slow: SlowPolicy,
    pub(super) is_resting: bool,
    /// It was sent as much as one that does not read may cost in this turn, and in the one before as well.
    pub(super) is_prompt: bool,
    /// In which turn that was last.
    pub(super) turn: u32,
}

impl Subscriber {
    /// One that has no place yet.
    pub(super) fn new(notify: Notify, when_slow: SlowPolicy) -> Subscriber {
        Subscriber { notify, at: WAITING, when_slow, is_resting: false, is_prompt: false, turn: 0 }
    }
}

/// What is sent has left so many turns later, unless its reader is slow: one, and one more where many events are due.
const PROMPT_TURNS: u32 = 2;
/// In place of an offset, of which there are not so many.
pub(super) const WAITING: u64 = u64::MAX;

/// How a subscriber is told that there is something to read.
pub(super) enum Notify {
    /// A connection of this worker.
    Conn(ConnId),
    Task(std::task::Waker),
}

impl Notify {
    pub(super) fn wake(&self, dialer: Option<&Dialer>) {
        match self {
            Notify::Conn(conn) => {
                if let Some(dialer) = dialer {
                    dialer.wake(*conn);
                }
            }
            Notify::Task(waker) => waker.wake_by_ref(),
        }
    }
}

impl Topic {
    /// Where a subscriber reads: `Some(None)` if nobody knows yet, `None` if it cannot go on where it was.
    pub(super) fn cursor(&mut self, slot: usize) -> Option<Option<u64>> {
        let at = self.subscribers[slot].at;
        if at != WAITING {
            return Some(Some(at));
        }
        let (start, until) = self.waiting.get(&slot).copied().unwrap_or_default();
        if let Role::Mirror { answered, .. } = self.role
            && answered < until
        {
            return Some(None);
        }
        let (first, next) = (self.log.first(), self.log.next());
        let at = match start {
            Start::Now => next,
            Start::Oldest => first,
            // Behind a cut nobody knows which the last one was.
            Start::Last => {
                let last = first.max(next.saturating_sub(1));
                if self.log.at(last).is_some_and(|frame| frame.is_cut()) { next } else { last }
            }
            Start::After(place) => {
                let at = behind(place);
                let is_known = place.epoch == self.log.end().epoch && (first..=next).contains(&at);
                is_known.then_some(at)?
            }
        };
        self.set_cursor(slot, at);
        Some(Some(at))
    }

    /// Whether only the home can know where that is: its subscriber was with another worker, which may be further than this mirror.
    pub(super) fn is_beyond(&self, start: Start) -> bool {
        match (&self.role, start) {
            (Role::Mirror { answered, .. }, Start::After(place)) => {
                *answered == 0 || place.epoch != self.log.end().epoch || behind(place) > self.log.next()
            }
            _ => false,
        }
    }

    /// Behind which message a subscriber goes on, where that is known.
    pub(super) fn place(&mut self, slot: usize) -> Option<Place> {
        let at = self.cursor(slot)??;
        Some(Place { epoch: self.log.end().epoch, offset: at.wrapping_sub(1) })
    }

    /// Where a subscriber reads next.
    pub(super) fn set_cursor(&mut self, slot: usize, at: u64) {
        if self.subscribers[slot].at == WAITING {
            self.waiting.remove(&slot);
        }
        self.subscribers[slot].at = at;
    }

    /// Whether one that was sent as much as one that does not read may cost is to be sent more in this turn, because others publish faster
    /// than that. It has to be known for a prompt reader: what it was sent in the turn before has left.
    pub(super) fn is_urgent(&mut self, slot: usize, turn: u32, limits: (u64, u64)) -> bool {
        let subscriber = &mut self.subscribers[slot];
        if subscriber.turn != turn {
            subscriber.is_prompt = turn.wrapping_sub(subscriber.turn) <= PROMPT_TURNS;
            subscriber.turn = turn;
        }
        let (messages, bytes) = self.log.behind(subscriber.at);
        subscriber.is_prompt && (messages > limits.0 || bytes > limits.1)
    }

    /// It has read everything.
    pub(super) fn rest(&mut self, slot: usize) {
        let subscriber = &mut self.subscribers[slot];
        if !subscriber.is_resting {
            subscriber.is_resting = true;
            self.resting.push(slot);
        }
    }

    /// Wakes all that rest.
    pub(super) fn wake(&mut self, dialer: Option<&Dialer>) {
        for slot in self.resting.drain(..) {
            let Some(subscriber) = self.subscribers.get_mut(slot).filter(|subscriber| subscriber.is_resting)
            else {
                continue;
            };
            subscriber.is_resting = false;
            subscriber.notify.wake(dialer);
        }
    }

    /// Wakes one, if it rests.
    pub(super) fn wake_one(&mut self, slot: usize, dialer: Option<&Dialer>) {
        let subscriber = &mut self.subscribers[slot];
        if std::mem::take(&mut subscriber.is_resting) {
            subscriber.notify.wake(dialer);
        }
    }

    /// Drops the places of those who have left, once there are many.
    pub(super) fn tidy(&mut self) {
        if self.resting.len() > 2 * self.subscribers.len() + 16 {
            let resting = self.subscribers.iter().filter(|(_, subscriber)| subscriber.is_resting);
            self.resting = resting.map(|(slot, _)| slot).collect();
        }
    }
}

/// What follows a place. In front of the first message is the last of all offsets.
fn behind(place: Place) -> u64 {
    place.offset.wrapping_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_many_and_each_is_small() {
        assert_eq!(size_of::<Subscriber>(), 32);
    }
}
