//! The seam for protocols: raw bytes in, raw bytes out.
//!
//! A [`Protocol`] is one value a worker, made on that worker's thread: it needs no `Send`, no `Sync` and no lock.
//! The engine calls it with what arrived, in place in the receive buffer, and takes what it writes through
//! [`Io`]. Read `ringmill-protocols/src/echo.rs` for the smallest one. Never here: sockets, clocks, retries.

use super::io::Io;
use super::step::{Next, Step};
use crate::dialer::{Dialer, Refusal};
use crate::session::life::CloseReason;
use crate::time::Tick;

/// A byte-stream protocol.
///
/// The calls of one session never overlap, and none follows `closed`. A call may panic: the
/// connection is then closed and counted, the value stays in use for the others.
pub trait Protocol: 'static {
    /// What the protocol keeps for each connection.
    type Session: 'static;

    /// A connection was accepted, or made ([`Protocol::connected`]). Nothing has been received yet.
    fn open(&mut self, io: &mut Io<'_>) -> Self::Session;

    /// `input` is everything received and not consumed yet. Consume what is complete; the rest comes again
    /// with more behind it, when more arrives or, after a pause, when reading resumes. It may be changed in place: what is
    /// left comes again as it was left.
    fn data(&mut self, session: &mut Self::Session, input: &mut [u8], io: &mut Io<'_>) -> Step;

    /// Output fell below low water, after [`Io::notify_drained`] asked to be told; or all is sent, after [`Io::notify_sent`].
    fn drained(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Continue
    }

    /// The peer will send no more. `data` has seen everything; `rest` is what it did not consume, perhaps a last message
    /// without its end. `Continue` keeps our side open.
    fn eof(&mut self, _session: &mut Self::Session, _rest: &mut [u8], _io: &mut Io<'_>) -> Next {
        Next::Close
    }

    /// The peer will send no more, told at once to a session that pauses: it may be busy with what nobody waits for any more. What
    /// came before the end was perhaps not shown yet: `eof` follows behind all of it, if the session goes on.
    /// (A reset is told at once in any case, by `closed`, as long as the session pauses with no more than one receive buffer kept.)
    fn gone(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Pause
    }

    /// The deadline set with [`Io::set_deadline`] has passed; it is no longer set.
    fn timeout(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Close
    }

    /// A [`Waker`](crate::Waker) of this connection was used. Several uses may become one call.
    fn wake(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Continue
    }

    /// The engine is draining: finish what is in progress and close. Called once; for a session that is opened while
    /// the engine drains, right after `open`.
    fn drain(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Close
    }

    /// The worker is short of memory, and this connection is idle as far as the engine can see: nothing is kept for it
    /// and nothing waits to be sent. `Close` helps where nothing is lost by it.
    fn shed(&mut self, _session: &mut Self::Session, _io: &mut Io<'_>) -> Next {
        Next::Continue
    }

    /// So many bytes of another connection went out here since the last call, after [`Io::splice`]; what is left of them is
    /// [queued](Io::queued_bytes).
    fn spliced(&mut self, _session: &mut Self::Session, _bytes: u64, _io: &mut Io<'_>) -> Next {
        Next::Continue
    }

    /// The session is over. Output written before may still be on its way.
    fn closed(&mut self, _session: Self::Session, _reason: CloseReason) {}

    /// The worker starts; nothing was accepted yet. Keep the dialer for outbound connections that no session asks for,
    /// for waking other sessions, and for a timer.
    fn start(&mut self, _dialer: Dialer) {}

    /// An outbound connection is there, which [`Io::connect`] or [`Dialer::connect`] asked for with this tag. From
    /// here on it is like an accepted one.
    fn connected(&mut self, _tag: u64, io: &mut Io<'_>) -> Self::Session {
        self.open(io)
    }

    /// An outbound connection could not be made. There is no session.
    fn refused(&mut self, _tag: u64, _refusal: Refusal) {}

    /// The time set with [`Dialer::set_timer`] has come; it is no longer set.
    fn tick(&mut self, _now: Tick) {}

    /// A waker of this value ([`Dialer::waker`]) was used. Several uses may become one call.
    fn rung(&mut self) {}
}
