//! Makes the calls that `duplex.rs` says are due, for the worker as for a layer: bytes in, and what follows from them, until
//! the session has nothing more to do. Each method answers with the reason if the session is over with it.

use super::duplex::{Due, Duplex};
use super::inlet::{End, News};
use super::life::CloseReason;
use super::outlet::Wish;
use super::shared::Shared;
use crate::seam::io::Io;
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

impl Io<'_> {
    /// Bytes arrived. The hot path: the session sees them where they are.
    #[inline]
    pub(crate) fn receive(&mut self, callee: &mut impl Callee, input: &mut [u8]) -> Option<CloseReason> {
        if !self.duplex.takes_in_place(input.len()) {
            self.keep(input);
            self.duplex.inlet.kept.as_mut().expect("input was kept").is_due = true;
            return self.settle(callee);
        }
        let len = input.len();
        let Ok(step) = callee.call(Call::Data(input), self) else {
            return Some(self.duplex.finish(CloseReason::Panicked));
        };
        if step == Step::consumed(len) {
            // Nothing is left, and nothing special is wanted.
            self.duplex.inlet.need_bytes = 0;
        } else {
            let rest = &input[step.consumed..];
            if !rest.is_empty() {
                self.keep(rest);
            }
            if let Some(reason) = self.after_data(step) {
                return Some(reason);
            }
        }
        self.settle(callee)
    }

    /// The peer will send no more.
    pub(crate) fn end(&mut self, callee: &mut impl Callee) -> Option<CloseReason> {
        if self.duplex.inlet.end == End::Open {
            self.duplex.inlet.end = End::Arrived;
        }
        self.gone(callee)
    }

    /// The peer will send no more, but what it sent last is still below.
    pub(crate) fn gone(&mut self, callee: &mut impl Callee) -> Option<CloseReason> {
        if self.duplex.inlet.news == News::None {
            self.duplex.inlet.news = News::Gone;
        }
        self.settle(callee)
    }

    /// A call without input, and what follows.
    pub(crate) fn call(&mut self, callee: &mut impl Callee, call: Call<'_>) -> Option<CloseReason> {
        let reason = self.call_once(callee, call);
        if reason.is_some() { reason } else { self.settle(callee) }
    }

    /// Makes the calls that are due, if any.
    #[inline(always)]
    pub(crate) fn settle(&mut self, callee: &mut impl Callee) -> Option<CloseReason> {
        let queued = self.queued_bytes();
        let is_due =
            self.duplex.is_open() && self.duplex.may_have_calls_due(queued, &self.below.shared.marks);
        if is_due { self.settle_due(callee) } else { None }
    }

    /// Ends because each turn of the loop uses up what it reacts to.
    #[inline(never)]
    fn settle_due(&mut self, callee: &mut impl Callee) -> Option<CloseReason> {
        let mut may_tell = true;
        loop {
            let queued = self.queued_bytes();
            if queued > self.below.shared.marks.output_max {
                self.below.shared.stats.live.overflows.add(1);
                return Some(self.duplex.abort(CloseReason::OutputOverflow));
            }
            let reason = match self.duplex.due(queued, &self.below.shared.marks, may_tell) {
                Due::Nothing => return None,
                Due::Drained => {
                    may_tell = false;
                    self.duplex.outlet.wish = Wish::None;
                    self.call_once(callee, Call::Drained)
                }
                Due::Gone => {
                    self.duplex.inlet.news = News::Told;
                    self.call_once(callee, Call::Gone)
                }
                Due::Data => self.show_kept(callee),
                Due::End => self.tell_end(callee),
            };
            if reason.is_some() {
                return reason;
            }
        }
    }

    fn call_once(&mut self, callee: &mut impl Callee, call: Call<'_>) -> Option<CloseReason> {
        self.duplex.before_call();
        match callee.call(call, self) {
            Ok(step) => self.follow(step.next),
            Err(Panicked) => Some(self.duplex.finish(CloseReason::Panicked)),
        }
    }

    /// Calls `data` with bytes that were kept, and drops what it consumed of them.
    fn show_kept(&mut self, callee: &mut impl Callee) -> Option<CloseReason> {
        let mut kept = self.duplex.inlet.kept.take().expect("what is due is kept");
        kept.is_due = false;
        let Ok(step) = callee.call(Call::Data(kept.bytes()), self) else {
            self.below.shared.recycle_unread(kept);
            return Some(self.duplex.finish(CloseReason::Panicked));
        };
        kept.consume(step.consumed);
        if kept.len() > 0 {
            self.duplex.inlet.kept = Some(kept);
        } else {
            self.below.shared.recycle_unread(kept);
        }
        self.after_data(step)
    }

    fn tell_end(&mut self, callee: &mut impl Callee) -> Option<CloseReason> {
        (self.duplex.inlet.end, self.duplex.inlet.news) = (End::Told, News::Told);
        let mut kept = self.duplex.inlet.kept.take();
        let rest = kept.as_mut().map_or(&mut [][..], |kept| kept.bytes());
        let reason = self.call_once(callee, Call::End(rest));
        self.duplex.inlet.kept = kept;
        reason
    }

    fn after_data(&mut self, step: Step) -> Option<CloseReason> {
        self.duplex.inlet.need_bytes = u32::try_from(step.need).unwrap_or(u32::MAX);
        let reason = self.follow(step.next);
        if reason.is_some() {
            return reason;
        }
        let queued = self.queued_bytes();
        let is_exhausted = self.below.shared.memory.is_exhausted();
        let reason = self.duplex.leave(step, queued, &self.below.shared.marks, is_exhausted)?;
        match reason {
            CloseReason::MemoryExhausted => self.below.shared.stats.live.memory_refused.add(1),
            _ => self.below.shared.stats.live.overflows.add(1),
        }
        Some(reason)
    }

    fn follow(&mut self, next: Next) -> Option<CloseReason> {
        self.duplex.apply(next, self.below.shared.now, self.below.shared.pause_timeout)
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = self.duplex.inlet.kept.get_or_insert_with(|| self.below.shared.unread());
        kept.append(bytes);
        kept.count_memory(&mut self.below.shared.memory);
    }
}

impl Duplex {
    /// The session has ended: what it leaves goes back, but for output, which is still to be sent.
    pub(crate) fn leave_session(&mut self, shared: &mut Shared) {
        if let Some(kept) = self.inlet.kept.take() {
            shared.recycle_unread(kept);
        }
        self.deadline = Tick::NEVER;
        self.outlet.wish = Wish::None;
    }
}
