//! How long the first byte of a reply is waited for: from when all of its request was sent. To be told of that by the engine costs a turn for
//! each request, and nearly all are taken at once. So it is looked a little later whether this one was, and only who sends for longer
//! asks to be told.

use super::exchange::Exchange;
use ringmill_engine::Io;
use std::time::Duration;

/// It is looked after an eighth of the time that the reply may take, and at most after this.
const LOOK_MAX: Duration = Duration::from_secs(1);

fn look_after(first_byte_timeout: Duration) -> Duration {
    (first_byte_timeout / 8).min(LOOK_MAX)
}

impl Exchange {
    /// All of the request is in its connection's output, or that was just sent; or its head is, whose client waits for a 100.
    pub(super) fn wait_for_reply(&mut self, first_byte_timeout: Duration, io: &mut Io<'_>) {
        self.has_left = io.queued_bytes() == 0;
        self.unsent_bytes = usize::MAX;
        io.set_timeout(if self.has_left { first_byte_timeout } else { look_after(first_byte_timeout) });
    }

    /// More is to be sent than the connection takes, and nobody else waits: a stream may be given no room for ever, and is no connection
    /// whose sending the engine watches.
    pub(super) fn wait_for_room(&mut self, first_byte_timeout: Duration, io: &mut Io<'_>) {
        // Its head alone may have left before, if its client waited for a 100.
        self.has_left = false;
        self.unsent_bytes = self.up.len() + io.queued_bytes();
        io.set_timeout(first_byte_timeout);
    }

    /// The time is over; whether more is given, because the request was not sent all the while. Who takes nothing of it for the whole time is
    /// given no more.
    pub(super) fn waits_on(&mut self, first_byte_timeout: Duration, io: &mut Io<'_>) -> bool {
        let unsent = self.up.len() + io.queued_bytes();
        if self.has_left || unsent >= self.unsent_bytes {
            return false;
        }
        self.has_left = unsent == 0;
        self.unsent_bytes = unsent;
        if self.has_left {
            io.set_timeout(first_byte_timeout.saturating_sub(look_after(first_byte_timeout)));
        } else {
            io.notify_sent();
            io.set_timeout(first_byte_timeout);
        }
        true
    }
}
