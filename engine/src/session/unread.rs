//! Bytes that a session was given and did not consume, or was not given yet: in order, with a place in the ledger. Pure.

use crate::memory::Memory;

/// Longer buffers are freed instead of kept for the next connection.
const KEEP_BYTES_MAX: usize = 16 * 1024;

/// Unconsumed input. Exists only while there is some.
#[derive(Default)]
pub(crate) struct Unread {
    bytes: Vec<u8>,
    start: usize,
    /// What the worker's ledger has for this buffer.
    counted_bytes: usize,
    /// The session has not seen it in this form, and is to be called with it when it may be called.
    pub(crate) is_due: bool,
}

impl Unread {
    /// Tells the ledger when the buffer has grown.
    pub(crate) fn count_memory(&mut self, memory: &mut Memory) {
        memory.change(self.counted_bytes, self.bytes.capacity());
        self.counted_bytes = self.bytes.capacity();
    }

    /// What the ledger has for this buffer.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.counted_bytes
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) {
        // Move the rest to the front before growing: at most one move for each doubling of the input.
        if self.start > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        debug_assert!(self.start <= self.bytes.len());
    }

    /// Empties the value for its next use; false if its memory is too large to keep.
    pub(crate) fn reset(&mut self) -> bool {
        self.bytes.clear();
        self.start = 0;
        self.is_due = false;
        self.bytes.capacity() <= KEEP_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_while_it_is_eaten_from_the_front() {
        let mut unread = Unread::default();
        let (mut expected, mut next) = (Vec::new(), 0u8);
        for round in 0..200usize {
            let piece: Vec<u8> = (0..round % 37)
                .map(|_| {
                    next = next.wrapping_add(1);
                    next
                })
                .collect();
            unread.append(&piece);
            expected.extend_from_slice(&piece);
            let eat = (round * 7 % 41).min(expected.len());
            assert_eq!(unread.bytes(), expected);
            assert_eq!(unread.len(), expected.len());
            unread.consume(eat);
            expected.drain(..eat);
        }
    }

    #[test]
    fn the_rest_moves_to_the_front_only_where_that_saves_growing() {
        let mut unread = Unread::default();
        unread.bytes.reserve_exact(100);
        let capacity = unread.bytes.capacity();
        unread.append(&vec![1; capacity - 10]);
        unread.consume(5);
        unread.append(&[2; 10]);
        assert_eq!((unread.start, unread.len()), (5, capacity - 5), "it just fits");
        unread.append(&[3; 5]);
        assert_eq!((unread.start, unread.len()), (0, capacity));
        assert_eq!(unread.bytes.capacity(), capacity, "the room at the front was used");
    }
}
