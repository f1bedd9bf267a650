//! How many there are of each key, for all workers, and never more than a limit. Pure.
//!
//! A word is a tag and a count; one whose count is zero is free. A key's words are summed up before it is counted and once more
//! behind that: two workers that count the same key for the first time may take two words for it, and the last one that does
//! sees all others. So no limit is ever passed; where several come at the very moment in which one place is left, all may be
//! turned away.

use super::table::{Place, Table};
use std::hash::Hash;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

/// Bits of a word that are the count; the others are the tag.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// The largest limit that can be kept.
pub(super) const COUNT_MAX: u32 = COUNT_MASK as u32;
/// How often a word may change under our hands. Each time it does, another worker has got on.
const TRIES_MAX: usize = 1000;

pub(super) struct Counts(Table);

/// What became of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// It is counted in the word with this number.
    Counted(u32),
    /// There are as many as there may be.
    Full,
    /// All words that could be its are other keys'.
    NoPlace,
}

impl Counts {
    /// For about so many keys at a time, less an eighth.
    pub(super) fn new(keys: usize) -> Counts {
        Counts(Table::new(keys))
    }

    /// Counts one more of a key, if there are less than `limit`.
    pub(super) fn enter(&self, key: impl Hash, limit: u32) -> Entered {
        let place = self.0.place(key);
        let tag = place.tag(64 - COUNT_BITS);
        for _ in 0..TRIES_MAX {
            if let Some(entered) = Found::of(&place, tag).enter(&place, tag, limit) {
                return entered;
            }
        }
        Entered::NoPlace
    }

    /// One that was counted in this word is gone.
    pub(super) fn leave(&self, number: u32) {
        let before = self.0.word(number).fetch_sub(1, SeqCst);
        debug_assert!(before & COUNT_MASK > 0, "more have left than were counted");
    }

    /// How many there are of all keys.
    #[cfg(test)]
    fn all(&self) -> u64 {
        self.0.words().map(|word| word.load(SeqCst) & COUNT_MASK).sum()
    }
}

/// What the words of a key say.
struct Found<'a> {
    total: u64,
    /// The word to count in, and what it was: one that is the key's already, or a free one.
    own: Option<(u32, &'a AtomicU64, u64)>,
}

impl Found<'_> {
    fn of<'a>(place: &Place<'a>, tag: u64) -> Found<'a> {
        let (mut total, mut own, mut free) = (0, None, None);
        for (number, word) in place.words() {
            let value = word.load(SeqCst);
            let count = value & COUNT_MASK;
            if count == 0 {
                free = free.or(Some((number, word, value)));
            } else if value >> COUNT_BITS == tag {
                total += count;
                own = own.or(Some((number, word, value)));
            }
        }
        Found { total, own: own.or(free) }
    }

    /// Counts one more by what was found; `None` if that has changed meanwhile.
    fn enter(self, place: &Place<'_>, tag: u64, limit: u32) -> Option<Entered> {
        if self.total >= u64::from(limit) {
            return Some(Entered::Full);
        }
        let Some((number, word, before)) = self.own else { return Some(Entered::NoPlace) };
        let after = (tag << COUNT_BITS) | ((before & COUNT_MASK) + 1);
        word.compare_exchange(before, after, SeqCst, SeqCst).ok()?;
        if Found::of(place, tag).total <= u64::from(limit) {
            return Some(Entered::Counted(number));
        }
        word.fetch_sub(1, SeqCst);
        Some(Entered::Full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicBool, AtomicU32};

    #[test]
    fn as_many_enter_as_may_and_again_when_some_have_left() {
        let counts = Counts::new(1024);
        let mut inside = HashMap::new();
        for key in 0..200_u32 {
            for n in 0..3 {
                match counts.enter(key, 3) {
                    Entered::Counted(number) => inside.insert((key, n), number),
                    other => panic!("{key}: {other:?}"),
                };
            }
            assert_eq!(counts.enter(key, 3), Entered::Full);
            assert_eq!(counts.enter(key, 2), Entered::Full, "a limit that has fallen");
        }
        assert_eq!(counts.all(), 600);
        for number in inside.values() {
            counts.leave(*number);
        }
        assert_eq!(counts.all(), 0);
        assert!(matches!(counts.enter(1, 1), Entered::Counted(_)));
        assert_eq!(counts.enter(1, 0), Entered::Full);
    }

    #[test]
    fn a_full_table_has_no_place_and_forgets_nobody() {
        let counts = Counts::new(64);
        let entered: Vec<(u32, Entered)> = (0..1000).map(|key| (key, counts.enter(key, 1))).collect();
        let placed = entered.iter().filter(|(_, entered)| matches!(entered, Entered::Counted(_)));
        let placed: Vec<u32> = placed.map(|(key, _)| *key).collect();
        assert!(placed.len() > 48 && placed.len() <= 64, "{}", placed.len());
        for key in placed {
            assert_eq!(counts.enter(key, 1), Entered::Full, "{key}");
        }
    }

    /// What workers that come at the same time can leave behind.
    #[test]
    fn all_words_of_a_key_are_summed_up() {
        let counts = Counts::new(64);
        let place = counts.0.place("key");
        let words: Vec<_> = place.words().map(|(_, word)| word).collect();
        for at in [0, 3, 12] {
            words[at].store((place.tag(64 - COUNT_BITS) << COUNT_BITS) | 2, SeqCst);
        }
        assert_eq!(counts.enter("key", 6), Entered::Full);
        assert!(matches!(counts.enter("key", 7), Entered::Counted(_)));
    }

    /// Two that find different words free, since somebody else has left meanwhile: the second one finds the first.
    #[test]
    fn the_last_one_sees_all_others() {
        let counts = Counts::new(16);
        let place = counts.0.place("key");
        let tag = place.tag(64 - COUNT_BITS);
        let other = place.words().next().expect("a word");
        other.1.store(((tag ^ 1) << COUNT_BITS) | 1, SeqCst);
        let found = Found::of(&place, tag);
        counts.leave(other.0);
        assert_eq!(counts.enter("key", 1), Entered::Counted(other.0));
        assert_eq!(found.enter(&place, tag, 1), Some(Entered::Full));
        counts.leave(other.0);
        assert_eq!(counts.all(), 0);
        // And one whose word another one has taken looks again.
        let found = Found::of(&place, tag);
        assert!(matches!(counts.enter("key", 2), Entered::Counted(_)));
        assert_eq!(found.enter(&place, tag, 2), None);
    }

    /// At any time no more are inside than may be, whoever comes and goes; in the end nobody is. Others of the same lines come and go
    /// as well, so that two workers find different words free.
    #[test]
    fn no_limit_is_passed_by_several_workers() {
        let counts = Counts::new(16);
        let inside = AtomicU32::new(0);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for other in 0..2 {
                let (counts, is_over) = (&counts, &is_over);
                scope.spawn(move || {
                    while !is_over.load(SeqCst) {
                        if let Entered::Counted(number) = counts.enter(("other", other), 1) {
                            counts.leave(number);
                        }
                    }
                });
            }
            let workers = [(); 3].map(|()| {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Entered::Counted(number) = counts.enter("key", 1) {
                            let before = inside.fetch_add(1, SeqCst);
                            inside.fetch_sub(1, SeqCst);
                            counts.leave(number);
                            if before > 0 {
                                return false;
                            }
                        }
                    }
                    true
                })
            });
            let are_sound = workers.map(|worker| worker.join().is_ok_and(|is_sound| is_sound));
            is_over.store(true, SeqCst);
            assert_eq!(are_sound, [true; 3], "two were inside");
        });
        assert_eq!(counts.all(), 0);
    }
}
