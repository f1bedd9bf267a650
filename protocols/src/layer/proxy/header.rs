//! A header of the PROXY protocol: bytes in, what they say out. Pure. Version 1 is `text.rs`, version 2 `binary.rs`.
//!
//! The verdict never depends on how the bytes were cut: what is not complete is judged by its first bytes only.

use super::told::Outcome;
use super::{binary, text};

/// Reads a header at the start of `input`.
pub(super) fn read(input: &[u8]) -> Outcome {
    if may_begin(input, text::START) {
        text::read(input)
    } else if may_begin(input, binary::SIGNATURE) {
        binary::read(input)
    } else {
        Outcome::Missing
    }
}

/// Whether `input` begins with `start`, or still can when more of it comes.
fn may_begin(input: &[u8], start: &[u8]) -> bool {
    input.starts_with(start) || start.starts_with(input)
}
