//! Where the simulator looks into the worker: which transitions were met, and breaks on purpose.
//!
//! A simulator that finds nothing may be blind. So its tests break the worker in named ways ([`Break`]) and show that each
//! one is caught, and count every transition of a connection, so that one that is never met is a failure.
//! Without the feature `sim` every function here is empty, and [`is_broken`] is a constant: nothing of it is
//! in a server. Never here: decisions.

use crate::conn::Recv;
use crate::event::Errno;
use crate::session::life::{Phase, Signal};

/// A way to break the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// A completion reaches whoever has the slot now.
    GenerationUnchecked,
    /// What a short send left is not sent.
    ShortSendDropped,
    /// A receive buffer is not returned.
    BufferForgotten,
    /// Input of a connection that is closing still reaches its session.
    CalledAfterClosed,
    /// A session that closed is served on: what its peer sends after the last request is answered.
    AnsweredAfterClose,
    /// A connection that found no buffer is not armed again.
    StarvedForgotten,
    /// A receive without `more` is taken for one that goes on.
    MoreIgnored,
    /// A session that paused stays paused.
    ResumeForgotten,
    /// A connection whose output was above high water is never read again.
    HeldForever,
    /// A send is submitted as one that nobody waits for while that can still change.
    RestTooSoon,
    /// A second send is submitted while one is in flight.
    SendsOverlap,
    /// A socket is closed while the kernel still uses it.
    ClosedTooSoon,
    /// What is in flight on a closing connection is not cancelled.
    CancelForgotten,
    /// What a protocol did not consume is lost.
    InputTailDropped,
    /// A session is not told that its peer ended.
    EofForgotten,
    /// Accepting does not start again after descriptors ran out.
    AcceptNotResumed,
    /// The mailbox is watched once only.
    MailboxForgotten,
    /// A peer that takes no output is waited for without end.
    StallUntimed,
    /// A deadline is not filed.
    TimerForgotten,
    /// A receive that is to be tried again is taken for a failure of the connection.
    AgainFails,
    /// A session that aborts takes back what it wrote before.
    AbortTakesBack,
    /// The reset of a session that aborts overtakes what it wrote before.
    ResetTooSoon,
}

/// What a receive operation brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Data,
    /// Bytes, and the operation is over although the stream goes on.
    LastData,
    Eof,
    NoBuffers,
    Cancelled,
    /// EINTR or EAGAIN.
    Interrupted,
    Failed,
}

impl Arrival {
    /// What a receive without bytes brought.
    pub(crate) fn of(result: Result<u32, Errno>) -> Arrival {
        match result {
            Ok(_) => Arrival::Eof,
            Err(Errno::ENOBUFS) => Arrival::NoBuffers,
            Err(Errno::ECANCELED) => Arrival::Cancelled,
            Err(Errno::EINTR | Errno::EAGAIN) => Arrival::Interrupted,
            Err(_) => Arrival::Failed,
        }
    }
}

#[cfg(not(any(test, feature = "sim")))]
mod off {
    use super::*;

    #[inline(always)]
    pub(crate) const fn is_broken(_: Break) -> bool {
        false
    }

    #[inline(always)]
    pub(crate) const fn stepped(_: Phase, _: Signal, _: bool) {}

    #[inline(always)]
    pub(crate) const fn arrived(_: Recv, _: Arrival) {}
}

#[cfg(not(any(test, feature = "sim")))]
pub(crate) use off::*;

#[cfg(any(test, feature = "sim"))]
mod on {
    use super::*;
    use std::cell::{Cell, RefCell};

    const PHASES: [Phase; 4] = [Phase::Open, Phase::Draining, Phase::Lingering, Phase::Closing];
    const SIGNALS: [Signal; 4] = [Signal::Finish, Signal::Flushed, Signal::PeerEof, Signal::Abort];
    const RECVS: [Recv; 5] = [Recv::Idle, Recv::Armed, Recv::Fed, Recv::Cancelling, Recv::Starved];
    const ARRIVALS: [Arrival; 7] = [
        Arrival::Data,
        Arrival::LastData,
        Arrival::Eof,
        Arrival::NoBuffers,
        Arrival::Cancelled,
        Arrival::Interrupted,
        Arrival::Failed,
    ];

    impl Break {
        /// Every one.
        pub const ALL: &'static [Break] = &[
            Break::GenerationUnchecked,
            Break::ShortSendDropped,
            Break::BufferForgotten,
            Break::CalledAfterClosed,
            Break::AnsweredAfterClose,
            Break::StarvedForgotten,
            Break::MoreIgnored,
            Break::ResumeForgotten,
            Break::HeldForever,
            Break::RestTooSoon,
            Break::SendsOverlap,
            Break::ClosedTooSoon,
            Break::CancelForgotten,
            Break::InputTailDropped,
            Break::EofForgotten,
            Break::AcceptNotResumed,
            Break::MailboxForgotten,
            Break::StallUntimed,
            Break::TimerForgotten,
            Break::AgainFails,
            Break::AbortTakesBack,
            Break::ResetTooSoon,
        ];
    }

    thread_local! {
        static BROKEN: Cell<Option<Break>> = const { Cell::new(None) };
        static MET: RefCell<Met> = const { RefCell::new(Met::NOTHING) };
    }

    /// Breaks the workers of this thread, or mends them. Returns how they were.
    pub fn set_broken(broken: Option<Break>) -> Option<Break> {
        BROKEN.replace(broken)
    }

    #[inline(always)]
    pub(crate) fn is_broken(which: Break) -> bool {
        BROKEN.get() == Some(which)
    }

    pub(crate) fn stepped(phase: Phase, signal: Signal, peer_eof: bool) {
        MET.with_borrow_mut(|met| met.steps[phase as usize][signal as usize][usize::from(peer_eof)] += 1);
    }

    pub(crate) fn arrived(recv: Recv, arrival: Arrival) {
        MET.with_borrow_mut(|met| met.arrivals[recv as usize][arrival as usize] += 1);
    }

    /// The transitions that the workers of this thread have met since the last call.
    pub fn take_met() -> Met {
        MET.replace(Met::NOTHING)
    }

    /// How often each pair of a state and an event was met.
    #[derive(Clone, Debug)]
    pub struct Met {
        steps: [[[u64; 2]; SIGNALS.len()]; PHASES.len()],
        arrivals: [[u64; ARRIVALS.len()]; RECVS.len()],
    }

    /// One pair of a state and an event.
    #[derive(Clone, Debug)]
    pub struct Pair {
        /// State and event.
        pub name: String,
        /// How often it was met.
        pub count: u64,
        /// Why it cannot be met, if it cannot.
        pub unreachable: Option<&'static str>,
    }

    impl Met {
        const NOTHING: Met = Met { steps: [[[0; 2]; 4]; 4], arrivals: [[0; 7]; 5] };

        /// All pairs, met or not.
        pub fn pairs(&self) -> Vec<Pair> {
            let mut pairs = Vec::new();
            for phase in PHASES {
                for signal in SIGNALS {
                    for eof in [false, true] {
                        let name = format!("{phase:?} {signal:?}{}", if eof { " after eof" } else { "" });
                        let count = self.steps[phase as usize][signal as usize][usize::from(eof)];
                        pairs.push(Pair { name, count, unreachable: no_step(phase, signal, eof) });
                    }
                }
            }
            for recv in RECVS {
                for arrival in ARRIVALS {
                    let name = format!("receive {recv:?} {arrival:?}");
                    let count = self.arrivals[recv as usize][arrival as usize];
                    pairs.push(Pair { name, count, unreachable: no_arrival(recv) });
                }
            }
            pairs
        }
    }

    impl std::ops::AddAssign<&Met> for Met {
        fn add_assign(&mut self, other: &Met) {
            let steps = self.steps.as_flattened_mut().as_flattened_mut().iter_mut();
            let arrivals = self.arrivals.as_flattened_mut().iter_mut();
            let others = other.steps.as_flattened().as_flattened().iter();
            for (sum, more) in steps.chain(arrivals).zip(others.chain(other.arrivals.as_flattened())) {
                *sum += more;
            }
        }
    }

    /// Why a phase never gets a signal, where it does not.
    fn no_step(phase: Phase, signal: Signal, peer_eof: bool) -> Option<&'static str> {
        match (phase, signal) {
            (Phase::Open, Signal::Flushed) => {
                Some("only a connection that drains is asked whether it is flushed")
            }
            (Phase::Draining | Phase::Lingering | Phase::Closing, Signal::Finish) => {
                Some("only a session finishes, and it ended when the connection left Open")
            }
            (Phase::Lingering | Phase::Closing, Signal::Flushed) => Some("it was flushed, or never will be"),
            (Phase::Closing, Signal::Abort) => Some("giving up happens once: `abort` and `fail` look first"),
            // The signal is given together with the fact, so "before" does not exist.
            (_, Signal::PeerEof) if !peer_eof => Some("the signal says that the peer ended"),
            _ => None,
        }
    }

    /// Why an arrival never meets a receive in this state.
    fn no_arrival(recv: Recv) -> Option<&'static str> {
        match recv {
            Recv::Idle | Recv::Starved => Some("no operation is in flight"),
            Recv::Armed | Recv::Fed | Recv::Cancelling => None,
        }
    }
}

#[cfg(any(test, feature = "sim"))]
pub use on::*;
