//! Pings that come at once: some are answered, and of the others the last.

use super::frame::{Opcode, write_header};
use super::sending::Sending;
use ringmill_engine::Io;

/// So many pings of one call are answered at once, and of all others the last (RFC 6455, 5.5.3).
const PONGS_MAX: u32 = 16;

/// The pings of one call.
pub(super) struct Burst {
    answered: u32,
    /// The last one that was not answered.
    last: Option<u8>,
    payload: [u8; 125],
}

impl Default for Burst {
    fn default() -> Burst {
        Burst { answered: 0, last: None, payload: [0; 125] }
    }
}

impl Burst {
    /// Answers one, or keeps it as the last.
    pub(super) fn ping(&mut self, payload: &[u8], io: &mut Io<'_>) {
        if self.answered < PONGS_MAX {
            self.answered += 1;
            write_header(io.buffer(), Opcode::Pong, true, false, payload.len());
            io.write(payload);
        } else if let Some(place) = self.payload.get_mut(..payload.len()) {
            place.copy_from_slice(payload);
            self.last = Some(payload.len() as u8);
        }
    }

    /// Answers the last one.
    #[inline]
    pub(super) fn flush(&mut self, sending: &Sending, io: &mut Io<'_>) {
        if let Some(bytes) = self.last.take()
            && sending.may_answer()
        {
            write_header(io.buffer(), Opcode::Pong, true, false, usize::from(bytes));
            io.write(&self.payload[..usize::from(bytes)]);
        }
    }
}
