//! A stream as a connection of HTTP/1.1: a session of the proxy on a duplex of its own, with the body that it is fed from and the one that
//! it writes.

use super::ready::Bell;
use super::sink::Sink;
use super::text;
use crate::http::one::emit;
use crate::proxy::state::State;
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Origin, Output, Reclaim, Tick, Upper};
use std::cell::RefCell;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a stream takes, about, besides what it has queued.
const STREAM_BYTES: usize = 3 * 1024;

pub(super) struct Lane<L: Layer> {
    upper: Upper<L>,
    /// Where sessions find its bell.
    key: usize,
    pub(super) rest: Rest,
    source: Option<Source>,
    pub(super) sink: Option<Sink>,
    due: Tick,
}

/// What the session wrote and nobody could use yet.
#[derive(Default)]
pub(super) struct Rest(Vec<u8>);

/// A body that comes in frames.
struct Source {
    body: RecvStream,
    /// The session is told of its end by chunks, and else knows its length.
    is_chunked: bool,
    is_data_over: bool,
}

/// What feeding came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// There is nothing now, or it takes nothing.
    Nothing,
    Some,
    /// The body broke off.
    Cut,
}

impl Rest {
    /// Has what comes next read behind what is here: `read` says how many bytes it could use.
    pub(super) fn read<T>(&mut self, next: &[u8], read: impl FnOnce(&[u8]) -> (usize, T)) -> T {
        if self.0.is_empty() {
            let (used, said) = read(next);
            self.0.extend_from_slice(&next[used..]);
            return said;
        }
        self.0.extend_from_slice(next);
        let (used, said) = read(&self.0);
        self.0.drain(..used);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        said
    }

    pub(super) fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

impl<L: Layer> Lane<L> {
    pub(super) fn open(
        layer: &mut L,
        state: &RefCell<State>,
        tag: u64,
        bell: &Arc<Bell>,
        io: &mut Io<'_>,
    ) -> Lane<L> {
        let key = state.borrow_mut().bells.enter(bell.clone());
        let mut upper = Upper::open(layer, Origin::Connected(tag), io).apart();
        state.borrow_mut().bells.entered();
        // As the engine does with a connection that opens: its session may have asked to be called once there is room.
        upper.call(layer, Call::Drained, io);
        Lane { upper, key, rest: Rest::default(), source: None, sink: None, due: Tick::NEVER }
    }

    pub(super) fn call(&mut self, layer: &mut L, call: Call<'_>, io: &mut Io<'_>) {
        self.upper.call(layer, call, io);
    }

    /// Where sessions find its bell.
    pub(super) fn key(&self) -> usize {
        self.key
    }

    /// The memory that it takes, besides what its session says.
    pub(super) fn bytes(&self) -> usize {
        let queued = self.sink.as_ref().map_or(0, Sink::bytes);
        STREAM_BYTES + self.upper.queued_bytes() + self.rest.0.capacity() + queued
    }

    /// The session goes on.
    pub(super) fn is_open(&self) -> bool {
        self.upper.is_open()
    }

    /// What the session wrote, where there is room for what it says; give it back with [`Lane::give_back`].
    pub(super) fn take(&mut self) -> Option<Box<Output>> {
        if self.has_room() { self.upper.take_output() } else { None }
    }

    fn has_room(&self) -> bool {
        self.sink.as_ref().is_none_or(Sink::has_room)
    }

    /// Something is left of what the session wrote.
    pub(super) fn has_output(&self) -> bool {
        self.upper.queued_bytes() > 0
    }

    /// Something is left of what the session wrote, and there is room for it now.
    pub(super) fn has_more(&self) -> bool {
        self.has_output() && self.has_room()
    }

    pub(super) fn give_back(&mut self, layer: &mut L, output: Box<Output>, io: &mut Io<'_>) {
        io.recycle(output);
        // It may have waited for room.
        self.upper.call(layer, Call::Drained, io);
    }

    /// The session has ended its output, and all of that was taken: said once.
    pub(super) fn takes_end(&mut self) -> bool {
        self.upper.queued_bytes() == 0 && self.upper.take_end()
    }

    /// From now on it is fed with this body.
    pub(super) fn follow(&mut self, body: RecvStream, is_chunked: bool) {
        self.source = Some(Source { body, is_chunked, is_data_over: false });
    }

    /// Both bodies end here, complete or not: the library tells the other side, where it has to know.
    pub(super) fn let_go(&mut self) {
        (self.source, self.sink) = (None, None);
    }

    /// The body is not yet complete.
    pub(super) fn is_fed(&self) -> bool {
        self.source.is_some()
    }

    /// Feeds what has come of the body, as long as the session takes it.
    pub(super) fn feed(&mut self, layer: &mut L, context: &mut Context<'_>, io: &mut Io<'_>) -> Fed {
        let mut fed = Fed::Nothing;
        while self.source.is_some() && self.takes_input(io) {
            let mut text = BytesMut::new();
            let is_whole = match self.source.as_mut().map(|source| source.read(&mut text, context)) {
                None | Some(Poll::Pending) => break,
                Some(Poll::Ready(Err(_))) => return Fed::Cut,
                Some(Poll::Ready(Ok(is_whole))) => is_whole,
            };
            if is_whole {
                self.source = None;
            }
            fed = Fed::Some;
            if !text.is_empty() {
                self.upper.call(layer, Call::Data(&mut text), io);
            }
        }
        fed
    }

    fn takes_input(&mut self, io: &mut Io<'_>) -> bool {
        let step = self.upper.step(0, io);
        self.due = io.deadline().filter(|_| self.upper.is_open()).unwrap_or(Tick::NEVER);
        step.next == Next::Continue
    }

    /// When its session is to be called next, whatever comes.
    pub(super) fn due(&mut self, io: &mut Io<'_>) -> Tick {
        self.takes_input(io);
        self.due.min(self.sink.as_ref().map_or(Tick::NEVER, Sink::due))
    }

    pub(super) fn close(
        self,
        layer: &mut L,
        state: &RefCell<State>,
        reason: CloseReason,
        reclaim: &mut Reclaim<'_>,
    ) {
        self.upper.close(layer, reason, reclaim);
        state.borrow_mut().bells.leave(self.key);
    }
}

impl Source {
    /// Reads on, into the text that the session is to see; whether that is all.
    fn read(&mut self, text: &mut BytesMut, context: &mut Context<'_>) -> Poll<Result<bool, h2::Error>> {
        while !self.is_data_over {
            let Some(data) = std::task::ready!(self.body.poll_data(context)?) else {
                self.is_data_over = true;
                break;
            };
            // It is taken, whatever the session does with it.
            self.body.flow_control().release_capacity(data.len())?;
            if !data.is_empty() {
                *text = if self.is_chunked { chunk(&data) } else { own(data) };
                return Poll::Ready(Ok(false));
            }
        }
        let trailers = std::task::ready!(self.body.poll_trailers(context)?);
        if self.is_chunked {
            let mut last = emit::LAST_CHUNK_SIZE.to_vec();
            text::write_trailers(&mut last, &trailers.unwrap_or_default());
            last.extend_from_slice(b"\r\n");
            text.extend_from_slice(&last);
        }
        Poll::Ready(Ok(true))
    }
}

fn chunk(data: &[u8]) -> BytesMut {
    let mut text = Vec::with_capacity(data.len() + 20);
    emit::write_chunk(&mut text, data);
    own(text.into())
}

/// Without a copy where nobody else has it.
fn own(data: Bytes) -> BytesMut {
    data.try_into_mut().unwrap_or_else(|data| BytesMut::from(&data[..]))
}
