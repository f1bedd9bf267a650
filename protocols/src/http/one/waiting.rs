//! What a connection waits for, and for how long: its next request, the rest of one, the answer that a handler is making.

use super::answer::{Context, Flow};
use super::limits::WhenGone;
use super::session::Conversation;
use crate::http::reply::{Later, ReplyState, Stage};
use ringmill_engine::{Io, Tick};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

impl ReplyState {
    /// After how long a source that is waiting has to show that the connection is there.
    pub(super) fn heartbeat(&self) -> Option<Duration> {
        self.source.as_ref().filter(|_| self.is_waiting).and_then(|source| source.heartbeat())
    }
}

impl Context {
    /// Goes on with an answer that was put off, and writes it once it is there. A flow while it is not, or if it failed.
    pub(super) fn attend(&mut self, reply: &mut ReplyState, io: &mut Io<'_>) -> Option<Flow> {
        self.attend_with(reply, io, |_| ())
    }

    /// The same, with something to be done before the answer is written.
    pub(super) fn attend_with(
        &mut self,
        reply: &mut ReplyState,
        io: &mut Io<'_>,
        before: impl FnOnce(&mut Io<'_>),
    ) -> Option<Flow> {
        let waker = std::task::Waker::from(io.waker());
        let work = reply.later.as_mut()?.work.as_mut()?;
        let polled =
            catch_unwind(AssertUnwindSafe(|| work.poll(&mut std::task::Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Pending) if reply.stage == Stage::Waiting => Some(Flow::Hold(0)),
            Ok(Poll::Pending) => Some(self.wait_for_handler(reply, io)),
            Ok(Poll::Ready(())) => {
                before(io);
                let later = self.end_wait(reply, io);
                self.write_reply(reply, io, |reply| {
                    later.and_then(|later| later.work).into_iter().for_each(|work| work.answer(reply));
                    reply.finish();
                })
            }
            Err(panic) => {
                let later = self.end_wait(reply, io);
                let flow = self.panicked(&*panic, reply, io);
                drop(later);
                Some(flow)
            }
        }
    }

    /// It is not ready: from now on its time runs, and its memory counts.
    fn wait_for_handler(&mut self, reply: &mut ReplyState, io: &mut Io<'_>) -> Flow {
        reply.stage = Stage::Waiting;
        let work = reply.later.as_ref().and_then(|later| later.work.as_ref());
        if !io.hold(work.map_or(0, |work| work.bytes())) {
            reply.later = None;
            return self.refuse_for_memory(reply.head_only, io);
        }
        io.set_timeout(self.limits.handler_timeout);
        // Its client may have left while the request before this one was answered.
        if io.is_peer_gone() && self.peer_left(reply) { Flow::Close } else { Flow::Hold(0) }
    }

    /// The client of an answer that is being made has ended its stream; whether that ends the connection.
    pub(super) fn peer_left(&self, reply: &ReplyState) -> bool {
        if let Some(peer) = reply.later.as_ref().and_then(|later| later.peer.as_ref()) {
            peer.leave();
        }
        self.when_gone != WhenGone::HalfClose
    }

    /// Its time is over: it is dropped.
    #[cold]
    pub(super) fn give_handler_up(&mut self, reply: &mut ReplyState, io: &mut Io<'_>) {
        let later = self.end_wait(reply, io);
        let time = self.limits.handler_timeout;
        match later.as_ref().and_then(|later| later.work.as_ref()) {
            Some(work) if !work.has_begun() => self.complaints.not_ready(io.now(), time),
            _ => self.complaints.took_long(io.now(), time),
        }
        self.refuse(503, "the handler took too long (RFC 9110, 15.6.4)", reply.head_only, io);
        drop(later);
    }

    /// The wait is over, and what it was for can be written. Gives back what made it.
    fn end_wait(&mut self, reply: &mut ReplyState, io: &mut Io<'_>) -> Option<Box<Later>> {
        reply.stage = Stage::Unsent;
        io.hold(0);
        self.preamble.refresh(io.unix_secs());
        reply.later.take()
    }

    #[cold]
    pub(super) fn wait_for_head(&self, session: &mut Conversation, input: &[u8], io: &mut Io<'_>) -> Flow {
        if session.head_began == Tick::NEVER {
            session.head_began = io.now();
        }
        // A head is never longer than this (`HEAD_BYTES_MAX`); searching a part again does no harm.
        session.searched = Some(u16::try_from(input.len()).unwrap_or(u16::MAX));
        let rate = u64::from(self.limits.head_bytes_per_sec_min.max(1));
        let earned = Duration::from_secs(1) * (input.len() as u64 / rate) as u32;
        io.set_deadline(Some(session.head_began.after(self.limits.head_timeout).after(earned)));
        Flow::Wait(0)
    }

    /// While the client does not read what it is sent, nobody reads from it either: its silence does not count.
    pub(super) fn wait_for_body(&self, arrived: &mut Option<u64>, io: &mut Io<'_>) {
        if io.is_full() {
            *arrived = None;
            io.set_deadline(None);
            io.notify_drained();
        } else if arrived.is_none_or(|bytes| bytes >= self.limits.body_bytes_min()) {
            *arrived = Some(0);
            io.set_timeout(self.limits.body_idle_timeout);
        }
    }

    pub(super) fn wait_for_request(&self, io: &mut Io<'_>) {
        let grace = if io.is_draining() { self.limits.drain_grace } else { self.limits.keep_alive_timeout };
        io.set_timeout(grace);
    }
}
