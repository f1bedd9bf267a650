//! Deadlines of many slots: a timing wheel with lazy entries.
//!
//! Most deadlines move later again and again and never come (every request renews its connection's
//! idle deadline). So an entry is a promise to *look* at a slot not later than its deadline: moving a
//! deadline later costs a comparison, and the entry, once due, is filed again by its owner. Only an
//! earlier deadline moves an entry. Pure: time is an argument.

use crate::time::Tick;

/// Width of a wheel slot in nanoseconds (a power of two, 16.8 ms): how late a deadline may be noticed.
pub const GRAIN_NS: u64 = 1 << 24;
/// Slots of the wheel; entries further away than `SLOTS * GRAIN_NS` (68.7 s) are looked at on the way.
const SLOTS: u64 = 4096;
const NONE: u32 = u32::MAX;

/// Deadlines by slot.
pub struct Timers {
    heads: Box<[u32]>,
    occupied: Box<[u64]>,
    links: Vec<Link>,
    /// The first wheel position that has not been looked at, counted from tick zero.
    current: u64,
    /// No entry is before this position: lets a turn with nothing due cost one comparison.
    soonest: u64,
}

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
    /// The wheel position, counted from tick zero; `u64::MAX` while the slot has no entry.
    at: u64,
}

const UNLINKED: Link = Link { prev: NONE, next: NONE, at: u64::MAX };

impl Timers {
    /// Without deadlines.
    pub fn new(now: Tick) -> Timers {
        Timers {
            heads: vec![NONE; SLOTS as usize].into_boxed_slice(),
            occupied: vec![0; SLOTS as usize / 64].into_boxed_slice(),
            links: Vec::new(),
            current: now.0 / GRAIN_NS,
            soonest: u64::MAX,
        }
    }

    /// Promises to report `index` not later than `due` plus a grain. [`Tick::NEVER`] promises nothing.
    #[inline(always)]
    pub fn schedule(&mut self, index: u32, due: Tick) {
        // The common case: an entry is there and comes early enough.
        let at = self.links.get(index as usize).map_or(u64::MAX, |link| link.at);
        if at > due.0 / GRAIN_NS && due != Tick::NEVER {
            self.file(index, due);
        }
    }

    #[cold]
    fn file(&mut self, index: u32, due: Tick) {
        let at = due.0.div_ceil(GRAIN_NS).clamp(self.current, self.current + SLOTS - 1);
        if self.links.len() <= index as usize {
            self.links.resize(index as usize + 1, UNLINKED);
        }
        if self.links[index as usize].at > at {
            self.remove(index);
            self.link(index, at);
        }
    }

    /// Forgets `index`, so that its slot can have a new tenant.
    pub fn remove(&mut self, index: u32) {
        let Some(link) = self.links.get(index as usize).copied().filter(|link| link.at != u64::MAX) else {
            return;
        };
        let position = (link.at % SLOTS) as usize;
        match link.prev {
            NONE => self.heads[position] = link.next,
            prev => self.links[prev as usize].next = link.next,
        }
        if link.next != NONE {
            self.links[link.next as usize].prev = link.prev;
        }
        if self.heads[position] == NONE {
            self.occupied[position / 64] &= !(1 << (position % 64));
        }
        self.links[index as usize] = UNLINKED;
    }

    /// Moves to `now` and appends every slot whose entry was reached. They have no entry any more.
    pub fn advance(&mut self, now: Tick, reached: &mut Vec<u32>) {
        let now_at = now.0 / GRAIN_NS;
        if now_at < self.soonest {
            self.current = now_at.max(self.current);
            return;
        }
        while self.current <= now_at {
            let Some(at) = self.next_occupied() else { break };
            if at > now_at {
                break;
            }
            self.current = at;
            let position = (at % SLOTS) as usize;
            while self.heads[position] != NONE {
                let index = self.heads[position];
                self.remove(index);
                reached.push(index);
            }
        }
        self.current = self.current.max(now_at);
        self.soonest = self.next_occupied().unwrap_or(u64::MAX);
    }

    /// When `advance` has to be called next; `None` while there is no entry. May be early, after a removal.
    pub fn next_due(&self) -> Option<Tick> {
        (self.soonest != u64::MAX).then(|| Tick(self.soonest * GRAIN_NS))
    }

    /// Whether `index` will be looked at not later than `due` plus a grain.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn keeps(&self, index: u32, due: Tick) -> bool {
        let at = self.links.get(index as usize).map_or(u64::MAX, |link| link.at);
        due == Tick::NEVER || at <= due.0.div_ceil(GRAIN_NS).max(self.current)
    }

    fn link(&mut self, index: u32, at: u64) {
        let position = (at % SLOTS) as usize;
        let next = self.heads[position];
        if next != NONE {
            self.links[next as usize].prev = index;
        }
        self.links[index as usize] = Link { prev: NONE, next, at };
        self.heads[position] = index;
        self.soonest = self.soonest.min(at);
        self.occupied[position / 64] |= 1 << (position % 64);
    }

    /// The first occupied wheel position from `current` on. All entries lie within one revolution.
    fn next_occupied(&self) -> Option<u64> {
        let start = (self.current % SLOTS) as usize;
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                last if last == words => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.occupied[word] & mask;
            if bits != 0 {
                let position = (word * 64) as u64 + u64::from(bits.trailing_zeros());
                return Some(self.current + (position + SLOTS - start as u64) % SLOTS);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn reached(timers: &mut Timers, now: Tick) -> Vec<u32> {
        let mut all = Vec::new();
        timers.advance(now, &mut all);
        all.sort_unstable();
        all
    }

    #[test]
    fn a_deadline_is_reported_once_and_not_early() {
        let mut timers = Timers::new(Tick(0));
        timers.schedule(3, Tick(10 * GRAIN_NS));
        timers.schedule(5, Tick(10 * GRAIN_NS + 1));
        assert_eq!(timers.next_due(), Some(Tick(10 * GRAIN_NS)));
        assert!(reached(&mut timers, Tick(10 * GRAIN_NS - 1)).is_empty());
        assert_eq!(reached(&mut timers, Tick(10 * GRAIN_NS)), [3]);
        assert_eq!(reached(&mut timers, Tick(11 * GRAIN_NS)), [5]);
        assert_eq!(timers.next_due(), None);
    }

    #[test]
    fn later_is_lazy_and_earlier_moves() {
        let mut timers = Timers::new(Tick(0));
        timers.schedule(1, Tick(20 * GRAIN_NS));
        timers.schedule(1, Tick(30 * GRAIN_NS));
        assert_eq!(timers.next_due(), Some(Tick(20 * GRAIN_NS)), "the entry stays where it is");
        timers.schedule(1, Tick(5 * GRAIN_NS));
        assert_eq!(timers.next_due(), Some(Tick(5 * GRAIN_NS)));
    }

    #[test]
    fn far_deadlines_are_looked_at_on_the_way() {
        let mut timers = Timers::new(Tick(7 * GRAIN_NS));
        timers.schedule(0, Tick(1_000_000 * GRAIN_NS));
        let look = timers.next_due().unwrap();
        assert!(look < Tick(1_000_000 * GRAIN_NS));
        assert_eq!(reached(&mut timers, look), [0]);
    }

    #[test]
    fn a_clock_leap_reports_everything_that_is_due() {
        let mut timers = Timers::new(Tick(0));
        for index in 0..100 {
            timers.schedule(index, Tick(u64::from(index) * 50 * GRAIN_NS));
        }
        assert_eq!(reached(&mut timers, Tick(u64::MAX - 1)).len(), 100);
        timers.schedule(4, Tick(1));
        assert_eq!(reached(&mut timers, Tick(u64::MAX - 1)), [4], "a deadline in the past is due at once");
    }

    proptest::proptest! {
        /// Against a map of true deadlines: never early, never more than a grain late once filed again.
        #[test]
        fn agrees_with_a_map(steps in proptest::collection::vec((0u32..40, 0u64..5_000, 0u64..300), 1..200)) {
            let mut timers = Timers::new(Tick(0));
            let mut dues: BTreeMap<u32, Tick> = BTreeMap::new();
            let mut now = Tick(0);
            for (index, delay, pass) in steps {
                let due = Tick(now.0 + delay * GRAIN_NS / 3);
                dues.insert(index, due);
                timers.schedule(index, due);
                now = Tick(now.0 + pass * GRAIN_NS / 2);
                for index in reached(&mut timers, now) {
                    match dues.get(&index) {
                        Some(due) if *due <= now => { dues.remove(&index); }
                        Some(due) => timers.schedule(index, *due),
                        None => panic!("slot {index} was reported twice"),
                    }
                }
                for (index, due) in &dues {
                    assert!(due.0 + GRAIN_NS > now.0, "slot {index} was forgotten");
                }
                if let (Some(look), Some(first)) = (timers.next_due(), dues.values().min()) {
                    assert!(look.0 <= first.0 + GRAIN_NS);
                }
            }
        }
    }
}
