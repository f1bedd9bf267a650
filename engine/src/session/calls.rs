//! Makes the calls that `duplex.rs` says are due, for the worker as for a layer: bytes in, and what follows from them, until
//! the session has nothing more to do. Each method answers with the reason if the session is over with it.

use super::duplex::{Due, Duplex};
use super::inlet::End;
use super::life::CloseReason;
use super::outlet::{Level, Wish};
use super::shared::Shared;
use crate::hooks::{Break, is_broken};
use crate::seam::io::{Below, Io};
use crate::seam::layer::Call;
use crate::seam::step::{Next, Step};
use crate::time::Tick;

/// The protocol panicked; the panic hook has already reported where.
#[derive(Debug)]
pub(crate) struct Panicked;

/// A session that can be called.
pub(crate) trait Callee {
    fn call(&mut self, call: Call<'_>, io: &mut Io<'_>) -> Result<Step, Panicked>;
}

impl Duplex {
    /// Bytes arrived. The hot path: the session sees them where they are.
    #[inline]
    pub(crate) fn receive(
        &mut self,
        callee: &mut impl Callee,
        input: &mut [u8],
        below: &mut Below<'_>,
    ) -> Option<CloseReason> {
        if !self.takes_in_place(input.len()) {
            self.keep(input, below);
            self.inlet.kept.as_mut().expect("input was kept").is_due = true;
            return self.settle(callee, below);
        }
        let len = input.len();
        let Ok(step) = callee.call(Call::Data(input), &mut self.io(below)) else {
            return Some(self.finish(CloseReason::Panicked));
        };
        if step == Step::consumed(len) {
            // Nothing is left, and nothing special is wanted.
            self.inlet.need_bytes = 0;
        } else {
            let rest = &input[step.consumed..];
            if !rest.is_empty() && !is_broken(Break::InputTailDropped) {
                self.keep(rest, below);
            }
            if let Some(reason) = self.after_data(step, below) {
                return Some(reason);
            }
        }
        self.settle(callee, below)
    }

    /// The peer will send no more.
    pub(crate) fn end(&mut self, callee: &mut impl Callee, below: &mut Below<'_>) -> Option<CloseReason> {
        if self.inlet.end == End::Open {
            self.inlet.end = End::Arrived;
        }
        self.settle(callee, below)
    }

    /// A call without input, and what follows.
    pub(crate) fn call(
        &mut self,
        callee: &mut impl Callee,
        call: Call<'_>,
        below: &mut Below<'_>,
    ) -> Option<CloseReason> {
        let reason = self.call_once(callee, call, below);
        if reason.is_some() { reason } else { self.settle(callee, below) }
    }

    /// The calls that are due. Ends because each turn of the loop uses up what it reacts to.
    #[inline]
    pub(crate) fn settle(&mut self, callee: &mut impl Callee, below: &mut Below<'_>) -> Option<CloseReason> {
        if !self.is_open() || !self.may_have_calls_due(self.queued_bytes(below), &below.shared.marks) {
            return None;
        }
        self.settle_due(callee, below)
    }

    fn settle_due(&mut self, callee: &mut impl Callee, below: &mut Below<'_>) -> Option<CloseReason> {
        let mut may_tell = true;
        loop {
            let queued = self.queued_bytes(below);
            if queued > below.shared.marks.output_max {
                below.shared.stats.live.overflows.add(1);
                return Some(self.abort(CloseReason::OutputOverflow));
            }
            let before = self.outlet.level;
            let due = self.due(queued, &below.shared.marks, may_tell);
            if before == Level::High && is_broken(Break::HeldForever) {
                self.outlet.level = Level::High;
                return None;
            }
            let reason = match due {
                Due::Nothing => return None,
                Due::Drained => {
                    may_tell = false;
                    self.outlet.wish = Wish::None;
                    self.call_once(callee, Call::Drained, below)
                }
                Due::Data => self.show_kept(callee, below),
                Due::End if is_broken(Break::EofForgotten) => return None,
                Due::End => self.tell_end(callee, below),
            };
            if reason.is_some() {
                return reason;
            }
        }
    }

    fn call_once(
        &mut self,
        callee: &mut impl Callee,
        call: Call<'_>,
        below: &mut Below<'_>,
    ) -> Option<CloseReason> {
        self.before_call();
        match callee.call(call, &mut self.io(below)) {
            Ok(step) => self.follow(step.next, below),
            Err(Panicked) => Some(self.finish(CloseReason::Panicked)),
        }
    }

    /// Calls `data` with bytes that were kept, and drops what it consumed of them.
    fn show_kept(&mut self, callee: &mut impl Callee, below: &mut Below<'_>) -> Option<CloseReason> {
        let mut kept = self.inlet.kept.take().expect("what is due is kept");
        kept.is_due = false;
        let Ok(step) = callee.call(Call::Data(kept.bytes()), &mut self.io(below)) else {
            below.shared.recycle_unread(kept);
            return Some(self.finish(CloseReason::Panicked));
        };
        kept.consume(step.consumed);
        if kept.len() > 0 {
            self.inlet.kept = Some(kept);
        } else {
            below.shared.recycle_unread(kept);
        }
        self.after_data(step, below)
    }

    fn tell_end(&mut self, callee: &mut impl Callee, below: &mut Below<'_>) -> Option<CloseReason> {
        self.inlet.end = End::Told;
        let mut kept = self.inlet.kept.take();
        let rest = kept.as_mut().map_or(&mut [][..], |kept| kept.bytes());
        let reason = self.call_once(callee, Call::End(rest), below);
        self.inlet.kept = kept;
        reason
    }

    fn after_data(&mut self, step: Step, below: &mut Below<'_>) -> Option<CloseReason> {
        self.inlet.need_bytes = u32::try_from(step.need).unwrap_or(u32::MAX);
        if step.next != Next::Close || !is_broken(Break::AnsweredAfterClose) {
            let reason = self.follow(step.next, below);
            if reason.is_some() {
                return reason;
            }
        }
        let queued = self.queued_bytes(below);
        let is_exhausted = below.shared.memory.is_exhausted();
        let reason = self.leave(step, queued, &below.shared.marks, is_exhausted)?;
        match reason {
            CloseReason::MemoryExhausted => below.shared.stats.live.memory_refused.add(1),
            _ => below.shared.stats.live.overflows.add(1),
        }
        Some(reason)
    }

    fn follow(&mut self, next: Next, below: &mut Below<'_>) -> Option<CloseReason> {
        if next == Next::Continue && is_broken(Break::ResumeForgotten) {
            return None;
        }
        self.apply(next, below.shared.now, below.shared.pause_timeout)
    }

    fn keep(&mut self, bytes: &[u8], below: &mut Below<'_>) {
        let kept = self.inlet.kept.get_or_insert_with(|| below.shared.unread());
        kept.append(bytes);
        kept.count_memory(&mut below.shared.memory);
    }

    /// Output that is queued here and below.
    #[inline]
    pub(crate) fn queued_bytes(&self, below: &Below<'_>) -> usize {
        below.queued_bytes + self.outlet.pending_bytes()
    }

    #[inline]
    pub(crate) fn io<'a>(&'a mut self, below: &'a mut Below<'_>) -> Io<'a> {
        Io { duplex: self, below: below.reborrow() }
    }

    /// The session has ended: what it leaves goes back, but for output, which is still to be sent.
    pub(crate) fn leave_session(&mut self, shared: &mut Shared) {
        if let Some(kept) = self.inlet.kept.take() {
            shared.recycle_unread(kept);
        }
        self.deadline = Tick::NEVER;
        self.outlet.wish = Wish::None;
    }
}
