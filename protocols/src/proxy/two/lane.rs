//! A stream as a connection of HTTP/1.1: a session of the proxy on a duplex of its own, what it wrote, and what is still to be fed to it.

use super::text;
use crate::adapt::Body;
use crate::adapt::body::BodyError;
use crate::http::one::emit;
use http_body::Body as _;
use ringmill_engine::{Call, CloseReason, Io, Layer, Next, Origin, Reclaim, Tick, Upper};
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) struct Lane<L: Layer> {
    upper: Upper<L>,
    /// What the session wrote, and nobody has read.
    pub(super) rest: Vec<u8>,
    source: Option<Source>,
    due: Option<Tick>,
}

/// A body that comes in frames.
struct Source {
    body: Body,
    /// The session is told of its end by chunks, and else knows its length.
    is_chunked: bool,
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

impl<L: Layer> Lane<L> {
    pub(super) fn open(layer: &mut L, tag: u64, io: &mut Io<'_>) -> Lane<L> {
        let upper = Upper::open(layer, Origin::Connected(tag), io).apart();
        Lane { upper, rest: Vec::new(), source: None, due: None }
    }

    pub(super) fn call(&mut self, layer: &mut L, call: Call<'_>, io: &mut Io<'_>) {
        self.upper.call(layer, call, io);
    }

    /// The memory that it takes, besides what its session says.
    pub(super) fn bytes(&self) -> usize {
        self.upper.queued_bytes() + self.rest.capacity()
    }

    /// The session goes on.
    pub(super) fn is_open(&self) -> bool {
        self.upper.is_open()
    }

    /// Moves what the session wrote to the rest. Whether that was anything.
    pub(super) fn take(&mut self, layer: &mut L, io: &mut Io<'_>) -> bool {
        let Some(output) = self.upper.take_output() else { return false };
        output.pieces().for_each(|piece| self.rest.extend_from_slice(piece));
        io.recycle(output);
        // It may have waited for room.
        self.upper.call(layer, Call::Drained, io);
        true
    }

    /// So many bytes of the rest are done.
    pub(super) fn forget(&mut self, bytes: usize) {
        self.rest.drain(..bytes);
        if self.rest.is_empty() && self.rest.capacity() > 16 * 1024 {
            self.rest = Vec::new();
        }
    }

    /// From now on it is fed with this body.
    pub(super) fn follow(&mut self, body: Body, is_chunked: bool) {
        self.source = Some(Source { body, is_chunked });
    }

    /// The body is not yet complete.
    pub(super) fn is_fed(&self) -> bool {
        self.source.is_some()
    }

    /// Feeds what has come of the body, as long as the session takes it.
    pub(super) fn feed(&mut self, layer: &mut L, io: &mut Io<'_>, context: &mut Context<'_>) -> Fed {
        let (mut fed, mut text) = (Fed::Nothing, Vec::new());
        while self.takes_input(io)
            && let Some(source) = &mut self.source
        {
            text.clear();
            let is_whole = match Pin::new(&mut source.body).poll_frame(context) {
                Poll::Pending => break,
                Poll::Ready(None) => {
                    if source.is_chunked {
                        text.extend_from_slice(emit::LAST_CHUNK);
                    }
                    true
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue,
                    Ok(data) if source.is_chunked => {
                        emit::write_chunk(&mut text, &data);
                        false
                    }
                    Ok(data) => {
                        text.extend_from_slice(&data);
                        false
                    }
                    Err(frame) => {
                        if source.is_chunked {
                            text.extend_from_slice(emit::LAST_CHUNK_SIZE);
                            text::write_trailers(&mut text, &frame.into_trailers().unwrap_or_default());
                            text.extend_from_slice(b"\r\n");
                        }
                        true
                    }
                },
                // The session has the same time, and says so.
                Poll::Ready(Some(Err(BodyError::Late))) => true,
                Poll::Ready(Some(Err(_))) => return Fed::Cut,
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
        self.due = io.deadline().filter(|_| self.upper.is_open());
        step.next == Next::Continue
    }

    /// When its session is to be called next, whatever comes.
    pub(super) fn due(&mut self, io: &mut Io<'_>) -> Option<Tick> {
        self.takes_input(io);
        self.due
    }

    pub(super) fn close(self, layer: &mut L, reason: CloseReason, reclaim: &mut Reclaim<'_>) {
        self.upper.close(layer, reason, reclaim);
    }
}
