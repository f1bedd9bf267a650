//! Buffers of exchanges that ended, for those to come: bulk grows into large ones, and to get these from the system anew costs as much as
//! copying what is in them.

/// How many are kept, and how many bytes of them together.
const BUFFERS_MAX: usize = 256;
const BYTES_MAX: usize = 4 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Spare {
    buffers: Vec<Vec<u8>>,
    /// Their capacities.
    bytes: usize,
}

impl Spare {
    /// An empty buffer, the one that was put last.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < BUFFERS_MAX && self.bytes + buffer.capacity() <= BYTES_MAX {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_many_nor_large_ones_are_kept_without_end() {
        let mut spare = Spare::default();
        (0..1000).for_each(|_| spare.put(Vec::with_capacity(100 * 1024)));
        let bytes: usize = spare.buffers.iter().map(Vec::capacity).sum();
        assert_eq!((spare.buffers.len(), spare.bytes), (40, bytes));
        (0..50).for_each(|_| assert!(spare.take().is_empty()));
        assert_eq!(spare.bytes, 0);
        (0..1000).for_each(|_| spare.put(Vec::from(*b"abc")));
        assert_eq!(spare.buffers.len(), 256);
        assert!(spare.take().is_empty());
    }
}
