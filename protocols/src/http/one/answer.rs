//! How one request is answered: the user's code is called, a source is asked while there is room, and what cannot be served
//! is refused.
//!
//! It never looks at input and knows no connection: `session.rs` does, and goes on as a [`Flow`] says.

use super::limits::{Limits, WhenGone};
use crate::http::content::{BodyLength, BodyWriter, Fill};
use crate::http::date::Preamble;
use crate::http::handler::Handler;
use crate::http::misuse::{self, Complaints};
use crate::http::reply::{Reply, ReplyState, Stage};
use crate::http::request::Request;
use crate::http::status;
use ringmill_engine::{Io, Next, Step};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What answering needs besides the handler.
pub(super) struct Context {
    pub(super) limits: Limits,
    pub(super) preamble: Preamble,
    pub(super) when_gone: WhenGone,
    pub(super) complaints: Complaints,
}

/// What to do after something was handled.
pub(super) enum Flow {
    /// So many bytes are done; look at the rest.
    On(usize),
    /// So many bytes are done; nothing more can happen now.
    Wait(usize),
    /// So many bytes are done; do not read on while the reply is being sent.
    Hold(usize),
    /// So many bytes are done; what follows is not HTTP (`successor.rs`).
    Switch(usize),
    Close,
    /// As `Close`, but with a reset: a reply that only the end of the stream would end is cut.
    Reset,
}

impl Flow {
    /// What the engine is told.
    pub(super) fn next(&self) -> Next {
        match self {
            Flow::On(_) | Flow::Wait(_) | Flow::Switch(_) => Next::Continue,
            Flow::Hold(_) => Next::Pause,
            Flow::Close => Next::Close,
            Flow::Reset => Next::Abort,
        }
    }

    /// The same, with what was done.
    #[inline]
    pub(super) fn step(&self) -> Step {
        match self {
            Flow::On(bytes) | Flow::Wait(bytes) | Flow::Switch(bytes) => Step::consumed(*bytes),
            Flow::Hold(bytes) => Step::pause(*bytes),
            Flow::Close => Step::close(),
            Flow::Reset => Step::abort(),
        }
    }

    /// Ends a connection in the middle of a reply. Where that has a framing of its own, the end of the stream tells that it is
    /// cut (RFC 9112, 8).
    pub(super) fn cut(stage: Stage) -> Flow {
        if stage == Stage::Body(BodyLength::UntilClose) { Flow::Reset } else { Flow::Close }
    }
}

pub(super) const TOO_LARGE: &str = "the body is larger than this resource takes (RFC 9110, 15.5.14)";

impl Context {
    #[inline]
    pub(super) fn reply<'a>(&'a mut self, state: &'a mut ReplyState, io: &'a mut Io<'_>) -> Reply<'a> {
        // A draining server answers what has arrived, and says with the last reply that it closes.
        state.keep_alive &= state.followed || !io.is_draining();
        Reply { io: io.reborrow(), preamble: &mut self.preamble, state }
    }

    #[inline]
    pub(super) fn answer(
        &mut self,
        handler: &mut impl Handler,
        request: &Request<'_>,
        state: &mut ReplyState,
        io: &mut Io<'_>,
    ) -> Option<Flow> {
        self.write_reply(state, io, |reply| {
            handler.handle(request, reply);
            reply.finish();
        })
    }

    /// Has the user's code write a reply; a flow if it panicked, which ends the connection and takes no earlier reply back.
    #[inline]
    pub(super) fn write_reply(
        &mut self,
        state: &mut ReplyState,
        io: &mut Io<'_>,
        write: impl FnOnce(&mut Reply<'_>),
    ) -> Option<Flow> {
        let mut reply = self.reply(state, io);
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut reply)));
        written.err().map(|panic| self.panicked(&*panic, state, io))
    }

    /// The user's code panicked. The handler stays in use for others, as [`Handler::handle`] says.
    #[cold]
    pub(super) fn panicked(&mut self, panic: &(dyn Any + Send), state: &ReplyState, io: &mut Io<'_>) -> Flow {
        io.count_panic();
        misuse::tell(panic);
        match state.stage {
            Stage::Unsent => self.refuse(500, "the handler failed (RFC 9110, 15.6.1)", state.head_only, io),
            stage => Flow::cut(stage),
        }
    }

    /// Lets a reply's source write while there is room.
    pub(super) fn pump(&mut self, reply: &mut ReplyState, io: &mut Io<'_>) -> Flow {
        loop {
            let (Stage::Body(length), Some(source)) = (reply.stage, reply.source.as_mut()) else {
                return if reply.stage == Stage::Done { Flow::On(0) } else { Flow::cut(reply.stage) };
            };
            if io.is_full() {
                io.set_deadline(None);
                io.notify_drained();
                return Flow::Hold(0);
            }
            let before = io.queued_bytes();
            reply.is_waiting = false;
            let mut body = BodyWriter { io: io.reborrow(), length };
            let fill = catch_unwind(AssertUnwindSafe(|| source.fill(&mut body)));
            reply.stage = match body.length {
                BodyLength::Sized(None) => Stage::Broken,
                length => Stage::Body(length),
            };
            let fill = match fill {
                Ok(fill) => fill,
                Err(panic) => return self.panicked(&*panic, reply, io),
            };
            let idle = if fill == Fill::MoreOnceSent { 0 } else { before };
            match fill {
                Fill::More | Fill::MoreOnceSent if io.queued_bytes() == idle => {
                    tracing::error!("a source said More and wrote nothing: the reply is cut");
                    return Flow::cut(reply.stage);
                }
                Fill::More => {}
                Fill::MoreOnceSent => {
                    io.set_deadline(None);
                    io.notify_sent();
                    return Flow::Hold(0);
                }
                Fill::End => {
                    reply.source = None;
                    io.hold(0);
                    self.reply(reply, io).end();
                }
                Fill::Waiting => {
                    reply.is_waiting = true;
                    let heartbeat = reply.heartbeat();
                    io.set_timeout(heartbeat.unwrap_or(self.limits.waiting_timeout));
                    let is_left =
                        io.is_peer_gone() && (self.when_gone != WhenGone::HalfClose || heartbeat.is_some());
                    return if is_left { Flow::cut(reply.stage) } else { Flow::Hold(0) };
                }
                Fill::Pending => {
                    // Nothing is read now, so a client that leaves is not noticed: the wait must end by itself.
                    io.set_timeout(self.limits.source_timeout);
                    return Flow::Hold(0);
                }
                Fill::Abort => return Flow::cut(reply.stage),
            }
        }
    }

    /// Has a source that is waiting show that the connection is there; whether it does so.
    pub(super) fn beat(&mut self, reply: &mut ReplyState, io: &mut Io<'_>) -> bool {
        let (Some(after), Stage::Body(length), Some(source)) =
            (reply.heartbeat(), reply.stage, reply.source.as_mut())
        else {
            return false;
        };
        let mut body = BodyWriter { io: io.reborrow(), length };
        if catch_unwind(AssertUnwindSafe(|| source.beat(&mut body))).is_err() {
            io.count_panic();
            return false;
        }
        io.set_timeout(after);
        true
    }

    /// Answers what cannot be served, and closes: after a framing error nobody knows where the next request starts.
    #[cold]
    pub(super) fn refuse(&mut self, status: u16, reason: &str, head_only: bool, io: &mut Io<'_>) -> Flow {
        let mut state = ReplyState::last(status, head_only);
        let mut reply = self.reply(&mut state, io);
        reply.content_type("text/plain");
        reply.body(format!("{status} {}: {reason}\n", status::reason(status)).as_bytes());
        Flow::Close
    }

    /// The worker's memory budget is used up: the client may come back later (RFC 9110, 15.6.4).
    #[cold]
    pub(super) fn refuse_for_memory(&mut self, head_only: bool, io: &mut Io<'_>) -> Flow {
        io.hold(0);
        io.count_refused(1);
        let mut state = ReplyState::last(503, head_only);
        self.reply(&mut state, io).field("retry-after", "1").text("503 Service Unavailable: out of memory\n");
        Flow::Close
    }
}
