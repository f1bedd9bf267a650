//! Random numbers for names that nobody else gives: good enough that two are never the same, and no secret.

use std::hash::{BuildHasher, RandomState};

/// xoshiro256** (Blackman and Vigna, "Scrambled Linear Pseudorandom Number Generators", 2018): 256 bits of state, so that workers and
/// processes do not meet.
pub(crate) struct Random([u64; 4]);

impl Random {
    /// With a state of the operating system's: what std keys its hash maps with.
    pub(crate) fn from_os() -> Random {
        let keys = RandomState::new();
        Random::new([0, 1, 2, 3].map(|n: u64| keys.hash_one(n)))
    }

    pub(crate) fn new(state: [u64; 4]) -> Random {
        // All zeros would stay so.
        Random([state[0] | 1, state[1], state[2], state[3]])
    }

    pub(crate) fn next(&mut self) -> u64 {
        let state = &mut self.0;
        let number = state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = state[1] << 17;
        state[2] ^= state[0];
        state[3] ^= state[1];
        state[1] ^= state[2];
        state[0] ^= state[3];
        state[2] ^= shifted;
        state[3] = state[3].rotate_left(45);
        number
    }

    /// So many random bytes, of which one at least is not zero.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        loop {
            let mut bytes = [0; N];
            for part in bytes.chunks_mut(8) {
                part.copy_from_slice(&self.next().to_ne_bytes()[..part.len()]);
            }
            if bytes != [0; N] {
                return bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of the authors' program for the state 1, 2, 3, 4.
    #[test]
    fn numbers_are_those_of_the_algorithm() {
        let mut random = Random::new([1, 2, 3, 4]);
        let numbers = [(); 5].map(|()| random.next());
        assert_eq!(numbers, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240, 1_216_172_134_540_287_360]);
    }

    #[test]
    fn no_two_are_alike() {
        let (mut one, mut other) = (Random::from_os(), Random::from_os());
        let mut all: Vec<[u8; 16]> = (0..1000).flat_map(|_| [one.bytes(), other.bytes()]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2000);
    }
}
