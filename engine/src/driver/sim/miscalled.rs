//! A layer between the engine and a protocol that breaks the calls of its sessions, as a broken duplex would: the other half of
//! `breaking.rs`. Without a break it hands on everything as it is.

use super::breaking::Break;
use crate::seam::io::Io;
use crate::seam::layer::{Call, Layer, Notice, Origin, Reclaim};
use crate::seam::step::{Next, Step};
use crate::session::inlet::Reading;
use crate::session::life::CloseReason;
use crate::session::outlet::Last;

/// A protocol whose sessions may be called wrongly.
pub(super) struct Miscalled<L> {
    pub(super) protocol: L,
    pub(super) broken: Option<Break>,
}

impl<L: Layer> Layer for Miscalled<L> {
    type Session = L::Session;

    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> L::Session {
        self.protocol.open(origin, io)
    }

    fn call(&mut self, session: &mut L::Session, call: Call<'_>, io: &mut Io<'_>) -> Step {
        let Some(broken) = self.broken else { return self.protocol.call(session, call, io) };
        let is_paused = io.duplex.inlet.reading != Reading::Flowing;
        let as_before = if is_paused { Next::Pause } else { Next::Continue };
        let is_forgotten = match call {
            Call::End(_) => broken == Break::EndUntold,
            Call::Gone => broken == Break::EndHidden,
            Call::Drained => broken == Break::HeldForever,
            Call::Timeout => broken == Break::TimeoutForgotten,
            Call::Wake => broken == Break::WakeForgotten,
            Call::Data(_) | Call::Drain | Call::Shed | Call::Spliced(_) => false,
        };
        if is_forgotten {
            return Step::next(as_before);
        }
        let input_bytes = call.input_bytes();
        let step = self.protocol.call(session, call, io);
        let ends_output = io.duplex.outlet.last == Last::Written;
        let takes_back = match broken {
            Break::AbortTakesBack => step.next == Next::Abort,
            Break::LastTakesBack => ends_output,
            _ => false,
        };
        if takes_back && let Some(output) = io.duplex.outlet.pending.take() {
            io.recycle(output);
        }
        match (broken, step.next) {
            (Break::InputTailDropped, Next::Continue) => Step::consumed(input_bytes),
            (Break::ResumeForgotten, Next::Continue) => Step { next: as_before, ..step },
            (Break::HoldForgotten, Next::Pause) => Step { next: Next::Continue, ..step },
            (Break::AnsweredAfterClose, Next::Close) => Step { next: Next::Continue, ..step },
            (Break::HalfCloseEnds, Next::Continue | Next::Pause) if ends_output => {
                Step { next: Next::Close, ..step }
            }
            _ => step,
        }
    }

    fn closed(&mut self, session: L::Session, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        self.protocol.closed(session, reason, reclaim);
    }

    fn notice(&mut self, notice: Notice) {
        self.protocol.notice(notice);
    }
}
