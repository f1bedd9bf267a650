//! Where a protocol stands: an inlet, an outlet, a deadline and a life. The one place that knows which call is due.
//! The drawing is on the crate's first page.
//!
//! The worker has one for each connection, and moves bytes between it and the driver. A layer (TLS, PROXY) has one for the
//! session above it, and moves bytes between it and the connection. Pure: no driver, no socket, no clock. Who makes
//! the calls is `calls.rs`.

use super::inlet::{End, Inlet, News, Reading};
use super::life::{CloseReason, Ending, Phase, Signal};
use super::outlet::{Last, Level, Marks, Outlet, Wish};
use crate::seam::step::{Next, Step};
use crate::time::Tick;
use std::time::Duration;

/// A session's place.
pub struct Duplex {
    pub(crate) inlet: Inlet,
    pub(crate) outlet: Outlet,
    /// The session's deadline.
    pub(crate) deadline: Tick,
    /// Memory that the session said it holds, in KiB rounded up.
    pub(crate) held_kib: u32,
    pub(crate) phase: Phase,
    /// What follows the output of a session that is over.
    pub(crate) ending: Ending,
    /// Another session stands on this one.
    pub(crate) is_layered: bool,
}

/// The call that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Drained,
    Gone,
    Data,
    End,
}

impl Duplex {
    pub(crate) fn new() -> Duplex {
        Duplex {
            inlet: Inlet::new(),
            outlet: Outlet::new(),
            deadline: Tick::NEVER,
            held_kib: 0,
            phase: Phase::Open,
            ending: Ending::Eof,
            is_layered: false,
        }
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Whether an end of the stream is to follow what is queued, of the session or of its output alone.
    #[inline]
    pub(crate) fn is_ending(&self) -> bool {
        self.phase != Phase::Open || self.outlet.last == Last::Written
    }

    /// The same, or that more than what the session wrote goes out here.
    #[inline]
    pub(crate) fn is_ending_or_fed(&self) -> bool {
        self.phase != Phase::Open || self.outlet.last >= Last::Written
    }

    /// Whether bytes that arrive can be shown to the session where they are.
    #[inline]
    pub(crate) fn takes_in_place(&self, bytes: usize) -> bool {
        self.outlet.level == Level::Low && self.inlet.takes_in_place(bytes)
    }

    /// Whether an open session takes what comes.
    #[inline]
    pub(crate) fn is_flowing(&self) -> bool {
        self.phase == Phase::Open
            && self.inlet.end == End::Open
            && self.inlet.reading == Reading::Flowing
            && self.outlet.level == Level::Low
    }

    /// Whether an open session should be sent more. While it pauses, so many bytes may be kept for it.
    #[inline]
    pub(crate) fn wants_input(&self, paused_bytes_max: usize) -> bool {
        let has_space = match self.inlet.reading {
            Reading::Flowing => true,
            Reading::Paused | Reading::PausedForAWhile => self.inlet.unread_bytes() < paused_bytes_max,
            Reading::Spliced => false,
        };
        has_space && self.outlet.level == Level::Low
    }

    /// Whether an open session may have to be called, held back or given up. The hot path has none of it.
    #[inline]
    pub(crate) fn may_have_calls_due(&self, queued: usize, marks: &Marks) -> bool {
        self.inlet.end != End::Open
            || self.inlet.news == News::Gone
            || self.outlet.level == Level::High
            || self.outlet.wish != Wish::None
            || queued >= marks.output_high
            || self.inlet.is_due()
    }

    /// Whether an open session has nothing to do but to wait for input.
    #[inline]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.outlet.pending.is_none() && self.is_at_ease()
    }

    /// The same, though it may have written something.
    #[inline]
    pub(crate) fn is_at_ease(&self) -> bool {
        self.phase == Phase::Open
            && self.outlet.level == Level::Low
            && self.outlet.wish == Wish::None
            && self.outlet.last < Last::Written
            && self.inlet.reading == Reading::Flowing
            && !self.inlet.is_due()
    }

    /// THE TABLE. Which call is due where so many bytes are queued in all; it changes the level on the way. A session is told
    /// once in a series of calls that there is room (`may_tell`): it can ask for it again, and would be told for ever.
    pub(crate) fn due(&mut self, queued: usize, marks: &Marks, may_tell: bool) -> Due {
        self.outlet.level = self.outlet.level.after(queued, marks);
        let has_room = queued <= marks.output_low;
        let is_paused = self.inlet.is_paused();
        let takes_input = self.inlet.reading == Reading::Flowing && self.outlet.level == Level::Low;
        let has_enough = self.inlet.unread_bytes() >= (self.inlet.need_bytes as usize).max(1);
        match (self.outlet.wish, self.inlet.end) {
            (Wish::Drained, _) if has_room && may_tell => Due::Drained,
            (Wish::Sent, _) if queued == 0 && may_tell => Due::Drained,
            _ if is_paused && self.inlet.news == News::Gone => Due::Gone,
            _ if !takes_input => Due::Nothing,
            _ if self.inlet.is_due() && has_enough => Due::Data,
            (_, End::Arrived) => Due::End,
            (_, End::Open | End::Told) => Due::Nothing,
        }
    }

    /// Something is about to be called while the session pauses: a deadline that it did not set ends with the pause.
    #[inline]
    pub(crate) fn before_call(&mut self) {
        if self.inlet.reading == Reading::PausedForAWhile {
            self.inlet.reading = Reading::Paused;
            self.deadline = Tick::NEVER;
        }
    }

    /// Takes what a session wants next; the reason, if it ends with that. Who pauses without a deadline is given one, so that
    /// no wait is without an end.
    #[inline]
    pub(crate) fn apply(&mut self, next: Next, now: Tick, pause_timeout: Duration) -> Option<CloseReason> {
        match next {
            Next::Continue => {
                if self.inlet.reading != Reading::Spliced {
                    self.inlet.reading = Reading::Flowing;
                }
                return None;
            }
            Next::Pause if self.deadline != Tick::NEVER => {
                self.inlet.reading = Reading::Paused;
                return None;
            }
            Next::Pause => {
                self.inlet.reading = Reading::PausedForAWhile;
                self.deadline = now.after(pause_timeout);
                return None;
            }
            Next::Close | Next::Abort => {}
        }
        let reason = if next == Next::Close { CloseReason::Finished } else { CloseReason::Aborted };
        Some(self.finish(reason))
    }

    /// What is left of the input of a `data` call, which answered `step`: when the session sees it again. The reason, if that
    /// is more than the limits allow.
    pub(crate) fn leave(
        &mut self,
        step: Step,
        queued: usize,
        marks: &Marks,
        is_memory_exhausted: bool,
    ) -> Option<CloseReason> {
        if step.need > marks.input_max {
            return Some(self.finish(CloseReason::InputOverflow));
        }
        let rest_bytes = self.inlet.unread_bytes();
        let kept = self.inlet.kept.as_mut()?;
        // What is left is the start of something incomplete; or it waits for room or a resume; or it is already what
        // the session asked for (unless it consumed nothing: asking for what it has just seen would never end).
        let is_met = step.need > 0 && rest_bytes >= step.need && step.consumed > 0;
        let is_full = queued >= marks.output_high;
        kept.is_due = self.inlet.reading != Reading::Flowing || is_full || is_met;
        if kept.is_due {
            None
        } else if rest_bytes > marks.input_max {
            Some(self.finish(CloseReason::InputOverflow))
        } else if is_memory_exhausted {
            Some(self.finish(CloseReason::MemoryExhausted))
        } else {
            None
        }
    }

    /// The session is over. What it wrote is sent, and then comes the end of the stream, or a reset where it broke off.
    pub(crate) fn finish(&mut self, reason: CloseReason) -> CloseReason {
        self.phase = self.phase.step(Signal::Finish, !self.inlet.is_open());
        self.ending = if reason == CloseReason::Finished { Ending::Eof } else { Ending::Reset };
        reason
    }

    /// The session is given up, and what it wrote is lost. The peer sees a reset, unless it is the transport that failed.
    pub(crate) fn abort(&mut self, reason: CloseReason) -> CloseReason {
        self.phase = self.phase.step(Signal::Abort, !self.inlet.is_open());
        self.ending = if matches!(reason, CloseReason::Failed(_)) { Ending::Eof } else { Ending::Reset };
        reason
    }
}
