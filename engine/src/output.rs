//! What a connection still has to send: copied bytes with shared ones spliced in.
//!
//! Replies are appended to one growing buffer, so that a turn's worth of them leaves in one send. A shared
//! `Bytes` is not copied: its place in the buffer is remembered. The whole value moves into the send
//! operation and comes back with the completion; the box and its buffer are then used again.

use crate::memory::Memory;
use bytes::Bytes;
use std::io::IoSlice;

/// Shared output shorter than this many bytes is copied. Of messages to 1,000 WebSockets a delivery cost, with 512, 1,024 and 2,048 here, in
/// CPU microseconds: of 600 bytes 5.55, 5.71 and 5.56 on io_uring, 6.05, 6.61 and 6.43 on epoll; of 1,000 bytes 5.64, 6.44 and 6.18, 6.14,
/// 6.58 and 6.62; of 1,500 bytes 5.79, 5.55 and 6.17, 6.21, 6.32 and 6.69. (`ringmill load --fan`, medians of 7 interleaved rounds, on a busy machine.)
const SPLICE_BYTES_MIN: usize = 512;
/// A buffer that grew beyond this many bytes is freed instead of kept for the next connection.
const KEEP_BYTES_MAX: usize = 512 * 1024;
/// A rest of at most this many bytes is worth a buffer of its own.
const REST_BYTES_MAX: usize = 4096;
/// Slices handed to one vectored send.
pub(crate) const SLICES_MAX: usize = 64;

/// Bytes to send, in order.
#[derive(Default)]
pub struct Output {
    buffer: Vec<u8>,
    splices: Vec<Splice>,
    shared_bytes: usize,
    sent: usize,
    /// What the worker's ledger has for this buffer.
    counted_bytes: usize,
}

struct Splice {
    /// How much of the buffer precedes the shared bytes.
    at: usize,
    shared: Bytes,
}

/// A part of what is to be sent.
enum Part<'a> {
    Copied(&'a [u8]),
    /// Shared bytes, and how many of them were sent.
    Shared(&'a Bytes, usize),
}

impl Output {
    /// The bytes that have not been sent.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.shared_bytes - self.sent
    }

    /// Whether everything was sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer that copied bytes are appended to. Never shorten it below its length at the last splice.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends without copying, unless the piece is too short to be worth a vector element.
    pub fn push_shared(&mut self, shared: Bytes) {
        if shared.len() < SPLICE_BYTES_MIN {
            self.buffer.extend_from_slice(&shared);
            return;
        }
        self.splice(shared);
    }

    /// The same for what others have as well: a short piece is copied without being counted up and down.
    pub fn push_shared_ref(&mut self, shared: &Bytes) {
        if shared.len() < SPLICE_BYTES_MIN {
            self.buffer.extend_from_slice(shared);
            return;
        }
        self.splice(shared.clone());
    }

    fn splice(&mut self, shared: Bytes) {
        self.shared_bytes += shared.len();
        self.splices.push(Splice { at: self.buffer.len(), shared });
    }

    /// Appends another output, of which nothing was sent. Shared bytes are not copied.
    pub(crate) fn append(&mut self, other: &Output) {
        debug_assert_eq!(other.sent, 0, "an output that was sent in part");
        other.unsent(|part| match part {
            Part::Copied(bytes) => self.buffer.extend_from_slice(bytes),
            Part::Shared(shared, _) => self.push_shared_ref(shared),
        });
    }

    /// All of an output of which nothing was sent, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        let spliced = self.splices.iter().flat_map(move |splice| {
            let copied = &self.buffer[std::mem::replace(&mut start, splice.at)..splice.at];
            [copied, &splice.shared[..]]
        });
        let last = self.splices.last().map_or(0, |splice| splice.at);
        spliced.chain([&self.buffer[last..]]).filter(|piece| !piece.is_empty())
    }

    /// Tells the ledger when the buffer has grown. Shared bytes are their owner's to count.
    #[inline]
    pub(crate) fn count_memory(&mut self, memory: &mut Memory) {
        let bytes = self.buffer.capacity();
        if bytes != self.counted_bytes {
            memory.change(self.counted_bytes, bytes);
            self.counted_bytes = bytes;
        }
    }

    /// What the ledger has for this output.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.counted_bytes
    }

    /// What is left, in buffers of just that size, where it is little beside those of this value: the peer may be long in taking it, and
    /// others have a use for this value meanwhile.
    pub(crate) fn small_rest(&self) -> Option<Box<Output>> {
        let own = |bytes: usize, splices: usize| bytes + splices * size_of::<Splice>();
        let (mut bytes, mut splices) = (0, 0);
        self.unsent(|part| match part {
            Part::Copied(part) => bytes += part.len(),
            Part::Shared(..) => splices += 1,
        });
        let has = own(self.buffer.capacity(), self.splices.capacity());
        if bytes > REST_BYTES_MAX || own(bytes, splices) * 2 >= has {
            return None;
        }
        let (buffer, splices) = (Vec::with_capacity(bytes), Vec::with_capacity(splices));
        let mut rest = Output { buffer, splices, ..Output::default() };
        self.unsent(|part| match part {
            Part::Copied(part) => rest.buffer.extend_from_slice(part),
            Part::Shared(shared, sent) => rest.splice(shared.slice(sent..)),
        });
        Some(Box::new(rest))
    }

    /// Calls `each` for what was not sent, in order: of shared bytes with how many of them were.
    fn unsent<'a>(&'a self, mut each: impl FnMut(Part<'a>)) {
        let (mut skip, mut start) = (self.sent, 0);
        let mut sent_of = |bytes: usize| {
            let sent = skip.min(bytes);
            skip -= sent;
            sent
        };
        for splice in &self.splices {
            let copied = &self.buffer[start..splice.at];
            each(Part::Copied(&copied[sent_of(copied.len())..]));
            let sent = sent_of(splice.shared.len());
            if sent < splice.shared.len() {
                each(Part::Shared(&splice.shared, sent));
            }
            start = splice.at;
        }
        let copied = &self.buffer[start..];
        each(Part::Copied(&copied[sent_of(copied.len())..]));
    }

    /// Counts `bytes` as sent.
    pub fn advance(&mut self, bytes: usize) {
        assert!(bytes <= self.len(), "more sent than there was");
        self.sent += bytes;
    }

    /// The rest as one slice, where it is copied or shared as a whole: the common cases need no vector.
    pub fn as_single(&self) -> Option<&[u8]> {
        match &self.splices[..] {
            [] => Some(&self.buffer[self.sent..]),
            [splice] if self.buffer.is_empty() => Some(&splice.shared[self.sent..]),
            _ => None,
        }
    }

    /// The next unsent slices, at most `SLICES_MAX` of them.
    pub fn slices<'a>(&'a self, into: &mut Vec<IoSlice<'a>>) {
        self.for_each(|slice| into.push(IoSlice::new(slice)));
    }

    /// Calls `each` for the next unsent slices in order, at most `SLICES_MAX` times.
    pub(crate) fn for_each<'a>(&'a self, mut each: impl FnMut(&'a [u8])) {
        let mut left = SLICES_MAX;
        self.unsent(|part| {
            let slice = match part {
                Part::Copied(bytes) => bytes,
                Part::Shared(shared, sent) => &shared[sent..],
            };
            if !slice.is_empty() && left > 0 {
                left -= 1;
                each(slice);
            }
        });
    }

    /// Empties the value for its next use. Returns whether it is small enough to be kept.
    pub(crate) fn reset(&mut self) -> bool {
        self.buffer.clear();
        self.splices.clear();
        self.shared_bytes = 0;
        self.sent = 0;
        self.buffer.capacity() <= KEEP_BYTES_MAX && self.splices.capacity() <= SLICES_MAX
    }
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Output({} of {} bytes)", self.len(), self.len() + self.sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rest(output: &Output) -> Vec<u8> {
        let mut slices = Vec::new();
        output.slices(&mut slices);
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn shared_bytes_keep_their_place_at_every_cut() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(b"head");
        output.push_shared(Bytes::from(vec![b'x'; 3000]));
        output.push_shared(Bytes::from(vec![b'y'; 2000]));
        output.push_shared(Bytes::from_static(b"copied"));
        output.buffer().extend_from_slice(b"tail");
        let whole = rest(&output);
        let expected = [b"head".as_slice(), &[b'x'; 3000], &[b'y'; 2000], b"copiedtail"].concat();
        assert_eq!(whole, expected);
        assert!(output.as_single().is_none());
        for cut in 0..whole.len() {
            assert_eq!(rest(&output), &whole[cut..]);
            assert_eq!(output.len(), whole.len() - cut);
            output.advance(1);
        }
        assert!(output.is_empty());
    }

    #[test]
    fn what_is_copied_or_shared_as_a_whole_is_one_slice() {
        let shared = Bytes::from(vec![b'x'; 1000]);
        let mut output = Output::default();
        output.push_shared_ref(&shared);
        for cut in 0..=shared.len() {
            assert_eq!(output.as_single(), Some(&shared[cut..]));
            output.advance(usize::from(cut < shared.len()));
        }
        output.buffer().push(b'y');
        assert_eq!(output.as_single(), None);
        output.reset();
        output.push_shared_ref(&shared.slice(..9));
        assert_eq!((output.as_single(), output.splices.len()), (Some(&b"xxxxxxxxx"[..]), 0));
    }

    #[test]
    fn a_vectored_send_is_bounded() {
        let mut output = Output::default();
        for _ in 0..200 {
            output.push_shared(Bytes::from(vec![b'z'; 1024]));
        }
        let mut slices = Vec::new();
        output.slices(&mut slices);
        assert_eq!(slices.len(), SLICES_MAX);
    }

    #[test]
    fn a_reset_value_is_as_new_and_big_buffers_are_not_kept() {
        let mut output = Output::default();
        output.buffer().extend_from_slice(b"abc");
        output.advance(2);
        assert!(output.reset());
        assert!(output.is_empty());
        assert_eq!(output.as_single(), Some(&b""[..]));
        output.buffer().resize(KEEP_BYTES_MAX + 1, 0);
        assert!(!output.reset());
    }

    #[test]
    fn little_that_is_left_gets_a_buffer_of_its_size() {
        let mut output = Output::default();
        output.buffer().resize(10_000, b'a');
        output.buffer().extend_from_slice(b"rest");
        output.advance(5000);
        assert!(output.small_rest().is_none(), "more is left than is worth it");
        output.advance(5000);
        let small = output.small_rest().expect("little is left");
        assert_eq!((small.as_single(), small.buffer.capacity()), (Some(&b"rest"[..]), 4));
        assert!(small.small_rest().is_none(), "it is small already");
    }

    #[test]
    fn a_rest_is_the_same_in_buffers_of_its_size_at_every_cut() {
        let mut output = Output::default();
        output.buffer().reserve(100_000);
        for shared in [700, 800] {
            output.buffer().extend_from_slice(b"head");
            output.push_shared(Bytes::from(vec![b'x'; shared]));
        }
        output.buffer().extend_from_slice(b"tail");
        while !output.is_empty() {
            let small = output.small_rest().expect("what is left is little");
            assert_eq!((rest(&small), small.len()), (rest(&output), output.len()));
            assert_eq!(
                (small.buffer.len(), small.splices.len()),
                (small.buffer.capacity(), small.splices.capacity())
            );
            output.advance(1);
        }
    }

    #[test]
    #[should_panic(expected = "more sent than there was")]
    fn a_driver_cannot_send_more_than_it_was_given() {
        Output::default().advance(1);
    }
}
