//! The life of a session and of its connection: a table, [`Phase::step`]. Pure.
//!
//! ```text
//! Open ──finish──▶ Draining ──flushed──▶ Lingering ──eof, deadline──▶ Closing ──nothing in flight──▶ gone
//!   └──────────────────────── abort ─────────────────────────────────▶ Closing
//! ```
//! The session of a layer has the first two phases: what follows is its connection's.

use crate::event::Errno;

/// Where a session, or the connection below it, is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The session is called.
    Open,
    /// The session is over; its output is still to be sent, input is discarded.
    Draining,
    /// Everything was sent and our side is shut; input is discarded until the peer closes, so that
    /// closing cannot turn into a reset that destroys the last reply on its way (RFC 9112, 9.6).
    Lingering,
    /// Waiting for the last completions; then the socket is closed and the slot is free.
    Closing,
}

/// What can happen to a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The session is over, and what it wrote is to be sent.
    Finish,
    /// Nothing is left to send.
    Flushed,
    /// The peer will send no more.
    PeerEof,
    /// Something failed, or nobody wants to wait any longer.
    Abort,
}

impl Phase {
    /// The phase after `signal`; `peer_eof` says whether the peer has already closed its side.
    pub(crate) fn step(self, signal: Signal, peer_eof: bool) -> Phase {
        use {Phase::*, Signal::*};
        match (self, signal) {
            (Open, Finish) => Draining,
            (Draining, Flushed) if peer_eof => Closing,
            (Draining, Flushed) => Lingering,
            (Lingering, PeerEof) => Closing,
            (_, Abort) => Closing,
            (phase, _) => phase,
        }
    }
}

/// What the peer sees behind the last of what a session wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The end of the stream.
    Eof,
    /// A reset, once what was written is delivered.
    Reset,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The protocol asked for it: the end of the stream follows what it wrote.
    Finished,
    /// The protocol asked for it: a reset follows what it wrote.
    Aborted,
    /// The peer reset the connection, or the transport failed.
    Failed(Errno),
    /// The peer took no output, or nearly none, for `Config::write_timeout`.
    WriteTimeout,
    /// The worker's memory budget is used up, and this connection needed more.
    MemoryExhausted,
    /// Queued output passed `Config::output_bytes_max`.
    OutputOverflow,
    /// The protocol left more than `Config::input_bytes_max` unconsumed.
    InputOverflow,
    /// The protocol panicked.
    Panicked,
    /// The engine stopped, or the drain deadline passed.
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_life() {
        use {Phase::*, Signal::*};
        let check =
            |from: Phase, signal, eof, to| assert_eq!(from.step(signal, eof), to, "{from:?} {signal:?}");
        for eof in [false, true] {
            check(Open, Finish, eof, Draining);
            check(Open, Flushed, eof, Open);
            check(Open, PeerEof, eof, Open);
            check(Draining, Finish, eof, Draining);
            check(Draining, Flushed, eof, if eof { Closing } else { Lingering });
            check(Draining, PeerEof, eof, Draining);
            check(Lingering, Finish, eof, Lingering);
            check(Lingering, Flushed, eof, Lingering);
            check(Lingering, PeerEof, eof, Closing);
            for phase in [Open, Draining, Lingering, Closing] {
                check(phase, Abort, eof, Closing);
                check(Closing, Finish, eof, Closing);
            }
            check(Closing, Flushed, eof, Closing);
            check(Closing, PeerEof, eof, Closing);
        }
    }
}
