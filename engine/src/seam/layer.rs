//! The seam for layers: protocols that stand on a connection and carry another protocol (TLS, PROXY, ALPN).
//!
//! A [`Layer`] has one entry point for all calls of a session and one for all that concerns the whole value, so that a layer
//! cannot forget to forward one: a `drained` that is not forwarded makes a reply stop without a word. Every
//! [`Protocol`] is a layer. The session above a layer stands on an [`Upper`](crate::Upper).

use super::io::Io;
use super::protocol::Protocol;
use super::step::Step;
use crate::dialer::{Dialer, Refusal};
use crate::session::life::CloseReason;
pub use crate::session::shared::Reclaim;
use crate::time::Tick;

/// A call of a session.
#[derive(Debug)]
pub enum Call<'a> {
    /// Everything received and not consumed yet: [`Protocol::data`].
    Data(&'a mut [u8]),
    /// The peer will send no more; with what was not consumed: [`Protocol::eof`].
    End(&'a mut [u8]),
    /// The peer will send no more, and the session pauses: [`Protocol::gone`].
    Gone,
    /// Output fell below low water: [`Protocol::drained`].
    Drained,
    /// The deadline has passed: [`Protocol::timeout`].
    Timeout,
    /// A waker was used: [`Protocol::wake`].
    Wake,
    /// The engine is draining: [`Protocol::drain`].
    Drain,
    /// The worker is short of memory: [`Protocol::shed`].
    Shed,
    /// So many bytes of another connection went out here: [`Protocol::spliced`].
    Spliced(u64),
}

impl Call<'_> {
    /// How many bytes can be consumed.
    #[inline]
    pub fn input_bytes(&self) -> usize {
        match self {
            Call::Data(input) => input.len(),
            _ => 0,
        }
    }
}

/// What concerns a protocol value, and no session of it.
#[derive(Clone, Debug)]
pub enum Notice {
    /// The worker starts: [`Protocol::start`].
    Start(Dialer),
    /// An outbound connection could not be made: [`Protocol::refused`].
    Refused(u64, Refusal),
    /// The value's timer has come: [`Protocol::tick`].
    Tick(Tick),
    /// A waker of the value was used: [`Protocol::rung`].
    Rung,
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A peer connected to a listener: [`Protocol::open`].
    Accepted,
    /// We connected, because of a request with this tag: [`Protocol::connected`].
    Connected(u64),
}

/// A protocol in the form in which the engine calls it.
pub trait Layer: 'static {
    /// What it keeps for each connection.
    type Session: 'static;

    /// A connection begins. Nothing has been received yet.
    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Self::Session;

    /// Any call of a session. Only what [`Call::Data`] brought can be consumed, and only its answer needs bytes.
    fn call(&mut self, session: &mut Self::Session, call: Call<'_>, io: &mut Io<'_>) -> Step;

    /// The session is over. Output written before may still be on its way.
    fn closed(&mut self, session: Self::Session, reason: CloseReason, reclaim: &mut Reclaim<'_>);

    /// Something that concerns all sessions, or none.
    fn notice(&mut self, notice: Notice);
}

impl<P: Protocol> Layer for P {
    type Session = P::Session;

    #[inline]
    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> P::Session {
        match origin {
            Origin::Accepted => Protocol::open(self, io),
            Origin::Connected(tag) => self.connected(tag, io),
        }
    }

    #[inline]
    fn call(&mut self, session: &mut P::Session, call: Call<'_>, io: &mut Io<'_>) -> Step {
        Step::next(match call {
            Call::Data(input) => return self.data(session, input, io),
            Call::End(rest) => self.eof(session, rest, io),
            Call::Gone => self.gone(session, io),
            Call::Drained => self.drained(session, io),
            Call::Timeout => self.timeout(session, io),
            Call::Wake => self.wake(session, io),
            Call::Drain => self.drain(session, io),
            Call::Shed => self.shed(session, io),
            Call::Spliced(bytes) => self.spliced(session, bytes, io),
        })
    }

    fn closed(&mut self, session: P::Session, reason: CloseReason, _: &mut Reclaim<'_>) {
        Protocol::closed(self, session, reason);
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Start(dialer) => self.start(dialer),
            Notice::Refused(tag, refusal) => self.refused(tag, refusal),
            Notice::Tick(now) => self.tick(now),
            Notice::Rung => self.rung(),
        }
    }
}
