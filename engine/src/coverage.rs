//! What the simulator has met of the worker: every pair of a state and an event is counted.
//!
//! A simulator that finds nothing may be blind: so a transition of a connection that can be met and never is, is a failure.
//! (And it must notice a worker that is broken on purpose: see `driver/sim/breaking.rs`.) Without the feature `sim` every
//! function here is empty: nothing of it is in a server. Never here: decisions.

use crate::conn::Recv;
use crate::event::Errno;
use crate::session::life::{Phase, Signal};

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
    pub(crate) const fn stepped(_: Phase, _: Signal, _: bool) {}

    #[inline(always)]
    pub(crate) const fn arrived(_: Recv, _: Arrival) {}
}

#[cfg(not(any(test, feature = "sim")))]
pub(crate) use off::*;

#[cfg(any(test, feature = "sim"))]
mod on {
    use super::*;
    use std::cell::RefCell;

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

    thread_local! {
        static MET: RefCell<Met> = const { RefCell::new(Met::NOTHING) };
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
            Recv::Spliced => Some("what arrives is not told as a receive"),
        }
    }
}

#[cfg(any(test, feature = "sim"))]
pub use on::*;
