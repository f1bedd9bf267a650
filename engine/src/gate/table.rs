//! A fixed table of atomics that all workers share, by keys: it takes no lock, and its memory is that of the start. Pure.
//!
//! A key has two lines, by a hash with a secret of the process, so that nobody outside can aim at a line. A line is what a
//! processor fetches at once: eight words. Of a key its word has a tag, some bits of the same hash; the key itself is not
//! kept, so that two keys of one line with the same tag are one. What the other bits of a word are, and what happens where both
//! lines are taken, is the user's business (`counts.rs`, `rate.rs`).

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::AtomicU64;

/// Words of a line.
const LINE_WORDS: usize = 8;

#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; LINE_WORDS]);

/// Words by keys.
pub(super) struct Table {
    /// A power of two of them, two at least.
    lines: Box<[Line]>,
    hasher: RandomState,
}

/// Where the word of a key may be.
pub(super) struct Place<'a> {
    table: &'a Table,
    lines: [usize; 2],
    hash: u64,
}

impl Table {
    /// A table of at least so many words.
    pub(super) fn new(words: usize) -> Table {
        let lines = words.div_ceil(LINE_WORDS).next_power_of_two().max(2);
        Table { lines: (0..lines).map(|_| Line::default()).collect(), hasher: RandomState::new() }
    }

    /// Where a key's word may be.
    pub(super) fn place(&self, key: impl Hash) -> Place<'_> {
        let (hash, last) = (self.hasher.hash_one(key), self.lines.len() - 1);
        let first = hash as usize & last;
        // Another line in any case: an odd distance is none of the length.
        let second = first.wrapping_add((hash >> 20) as usize | 1) & last;
        Place { table: self, lines: [first, second], hash }
    }

    /// The word with this number.
    pub(super) fn word(&self, number: u32) -> &AtomicU64 {
        let number = number as usize;
        &self.lines[number / LINE_WORDS].0[number % LINE_WORDS]
    }

    /// All of them.
    #[cfg(test)]
    pub(super) fn words(&self) -> impl Iterator<Item = &AtomicU64> {
        self.lines.iter().flat_map(|line| &line.0)
    }
}

impl<'a> Place<'a> {
    /// The tag, in so many bits.
    pub(super) fn tag(&self, bits: u32) -> u64 {
        self.hash >> (64 - bits)
    }

    /// The words that may be the key's, each with its number.
    pub(super) fn words(&self) -> impl Iterator<Item = (u32, &'a AtomicU64)> + use<'a> {
        let table = self.table;
        self.lines.into_iter().flat_map(move |line| {
            let first = (line * LINE_WORDS) as u32;
            table.lines[line].0.iter().enumerate().map(move |(n, word)| (first + n as u32, word))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_sixteen_words_of_two_lines() {
        for words in [0, 1, 16, 17, 4096] {
            let table = Table::new(words);
            assert!(table.words().count() >= words.max(16) && table.words().count() <= 2 * words.max(16));
            for key in 0..1000_u32 {
                let place = table.place(key);
                let mut numbers: Vec<u32> = place.words().map(|(number, _)| number).collect();
                numbers.sort_unstable();
                numbers.dedup();
                assert_eq!(numbers.len(), 16, "{key} of {words}");
                for (number, word) in place.words() {
                    assert!(std::ptr::eq(table.word(number), word));
                }
                assert_eq!(place.tag(24), table.place(key).tag(24));
            }
        }
    }
}
