//! A small random source (SplitMix64): one seed, one sequence, on every machine.

use std::cell::RefCell;

thread_local! {
    /// What is drawn before anything else; the last byte first.
    static TAPE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// From now on the sources of this thread draw these bytes, one each time, before their own numbers: so a fuzzer
/// decides what happens.
pub fn draw_from(bytes: &[u8]) {
    TAPE.set(bytes.iter().rev().copied().collect());
}

/// Numbers that only look random.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    #[expect(
        clippy::should_implement_trait,
        reason = "an endless source is no iterator: it has no end to report"
    )]
    pub fn next(&mut self) -> u64 {
        if let Some(byte) = TAPE.with_borrow_mut(Vec::pop) {
            // Repeated, so that large ranges are covered as well as small ones.
            return u64::from_ne_bytes([byte; 8]);
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `max`, both included.
    pub fn up_to(&mut self, max: u64) -> u64 {
        if max == u64::MAX { self.next() } else { self.next() % (max + 1) }
    }

    /// An index below `len`, which is not zero.
    pub fn below(&mut self, len: usize) -> usize {
        self.up_to(len as u64 - 1) as usize
    }

    /// True once in `n` times; never for 0.
    pub fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.next().is_multiple_of(u64::from(n))
    }

    /// A source of its own, so that what draws from it does not shift what others draw.
    pub fn fork(&mut self) -> Rng {
        Rng(self.next())
    }
}
