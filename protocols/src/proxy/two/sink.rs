//! The body that a stream sends: as much of it as the other side has room for, and no more than the connection has.

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;
use ringmill_engine::Tick;
use std::task::{Context, Poll};
use std::time::Duration;

/// So much waits for the other side before the session's output is left where it is; what that has at once is added to it.
const QUEUED_BYTES_MAX: usize = 32 * 1024;

pub(super) struct Sink {
    stream: SendStream<Bytes>,
    /// What is sent next...
    front: Bytes,
    /// ...and what follows it.
    behind: Vec<u8>,
    /// Nothing follows but these trailers, if any.
    end: Option<Option<HeaderMap>>,
    /// When it has waited too long for the other side.
    due: Tick,
}

/// What sending came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// All that there was, and more will follow.
    On,
    /// The last of it.
    Whole,
    /// The other side has no room.
    Waits,
    /// The connection has none.
    Starved,
    /// The other side takes nothing any more.
    Broken,
}

impl Sink {
    pub(super) fn new(stream: SendStream<Bytes>) -> Sink {
        Sink { stream, front: Bytes::new(), behind: Vec::new(), end: None, due: Tick::NEVER }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.behind.extend_from_slice(data);
    }

    pub(super) fn end(&mut self, trailers: Option<HeaderMap>) {
        self.end = Some(trailers);
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes() < QUEUED_BYTES_MAX
    }

    pub(super) fn bytes(&self) -> usize {
        self.front.len() + self.behind.len()
    }

    /// When it is to be given up.
    pub(super) fn due(&self) -> Tick {
        self.due
    }

    /// The other side has reset it.
    pub(super) fn is_reset(&mut self, context: &mut Context<'_>) -> bool {
        self.stream.poll_reset(context).is_ready()
    }

    /// Sends what there is, of which `credit` is taken. Who finds no room for longer than `patience` is broken.
    pub(super) fn send(
        &mut self,
        context: &mut Context<'_>,
        credit: &mut usize,
        (now, patience): (Tick, Duration),
    ) -> Sent {
        loop {
            if self.front.is_empty() {
                self.front = std::mem::take(&mut self.behind).into();
            }
            if self.front.is_empty() {
                return self.finish();
            }
            if *credit == 0 {
                return Sent::Starved;
            }
            self.stream.reserve_capacity(self.front.len());
            let mut room = self.stream.capacity();
            if room == 0 {
                match self.stream.poll_capacity(context) {
                    Poll::Ready(Some(Ok(bytes))) if bytes > 0 => room = bytes,
                    Poll::Ready(None | Some(Err(_))) => return Sent::Broken,
                    _ if self.due <= now => return Sent::Broken,
                    _ => {
                        if self.due == Tick::NEVER {
                            self.due = now.after(patience);
                        }
                        return Sent::Waits;
                    }
                }
            }
            self.due = Tick::NEVER;
            let piece = self.front.split_to(self.front.len().min(room).min(*credit));
            *credit -= piece.len();
            let is_last = self.bytes() == 0 && matches!(self.end, Some(None));
            if self.stream.send_data(piece, is_last).is_err() {
                return Sent::Broken;
            }
            if is_last {
                return Sent::Whole;
            }
        }
    }

    fn finish(&mut self) -> Sent {
        let sent = match self.end.take() {
            None => return Sent::On,
            Some(None) => self.stream.send_data(Bytes::new(), true),
            Some(Some(trailers)) => self.stream.send_trailers(trailers),
        };
        if sent.is_ok() { Sent::Whole } else { Sent::Broken }
    }
}
