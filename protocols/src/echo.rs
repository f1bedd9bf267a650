//! Echo (RFC 862): every byte goes back. The smallest protocol there is: read it first.

use ringmill_engine::{Facts, Io, Next, Protocol, Step};
use std::time::Duration;

/// Sends back what it receives, in order, until the peer closes.
#[derive(Clone, Debug, Default)]
pub struct Echo {
    idle_timeout: Option<Duration>,
}

impl Echo {
    /// Closes a connection that sent nothing for so long.
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Echo {
        self.idle_timeout = Some(timeout);
        self
    }

    fn renew(&self, io: &mut Io<'_>) {
        if let Some(timeout) = self.idle_timeout {
            io.set_timeout(timeout);
        }
    }
}

impl Protocol for Echo {
    type Session = ();

    fn open(&mut self, io: &mut Io<'_>) {
        self.renew(io);
    }

    fn data(&mut self, _: &mut (), input: &mut [u8], io: &mut Io<'_>) -> Step {
        self.renew(io);
        // A reader that is slower than its own writing fills the output; the engine then pauses us.
        io.write(input);
        Step::consumed(input.len())
    }

    fn eof(&mut self, _: &mut (), _: &mut [u8], io: &mut Io<'_>) -> Next {
        // Only the end says that this was all: where it may be a cut, the answer is cut as well.
        if io.facts().is_some_and(Facts::is_truncated) { Next::Abort } else { Next::Close }
    }
}
