//! Copies of heads, parts of which go on as shared bytes: the values of fields, and targets.

use bytes::{Buf, Bytes, BytesMut};
use std::ops::Range;

/// Memory from which the copies of a worker are cut. Who keeps a part keeps the piece that it is in.
#[derive(Default)]
pub(crate) struct Arena(BytesMut);

/// Copies are cut from pieces of this size.
const PIECE_BYTES: usize = 4 * 1024;

/// A text with its copy.
pub(crate) struct Copied<'a> {
    text: &'a [u8],
    copy: Bytes,
}

impl Arena {
    pub(crate) fn copy<'a>(&mut self, text: &'a [u8]) -> Copied<'a> {
        if self.0.capacity() < text.len() {
            // The rest of the piece is left to those who have parts of it.
            self.0 = BytesMut::with_capacity(PIECE_BYTES.max(text.len()));
        }
        self.0.extend_from_slice(text);
        Copied { text, copy: self.0.split().freeze() }
    }
}

impl Copied<'_> {
    /// A part of the text; what stands elsewhere is copied.
    pub(crate) fn part(&self, part: &[u8]) -> Bytes {
        match self.place(part) {
            Some(place) => self.copy.slice(place),
            None => Bytes::copy_from_slice(part),
        }
    }

    /// The same for the last part that is wanted: a count less.
    pub(crate) fn last_part(mut self, part: &[u8]) -> Bytes {
        match self.place(part) {
            Some(place) => {
                self.copy.truncate(place.end);
                self.copy.advance(place.start);
                self.copy
            }
            None => Bytes::copy_from_slice(part),
        }
    }

    fn place(&self, part: &[u8]) -> Option<Range<usize>> {
        let at = part.as_ptr().addr().checked_sub(self.text.as_ptr().addr())?;
        let is_within = part.len() <= self.text.len() && at <= self.text.len() - part.len();
        is_within.then_some(at..at + part.len())
    }
}
