//! The body of a reply that is made as the client reads it: its source, where that writes, and how the body's end is told.

use super::one::emit;
use bytes::Bytes;
use ringmill_engine::{Io, Waker};
use std::time::Duration;

/// Makes a reply's body when there is room to send it.
pub trait Source {
    /// Writes the next bytes; as many as it likes, best until [`BodyWriter::room_bytes`] is zero.
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill;

    /// For a source that may be waiting ([`Fill::Waiting`]) for ever: [`Source::beat`] is called after each so much time without anything to
    /// write. It is asked to fill as well when the server begins to drain ([`BodyWriter::is_draining`]), and a client that ends its
    /// stream has left.
    fn heartbeat(&self) -> Option<Duration> {
        None
    }

    /// Writes something that shows that the connection is there.
    fn beat(&mut self, _body: &mut BodyWriter<'_>) {}
}

/// What a [`Source`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// It wrote something, and there is more.
    More,
    /// There is more, which waits elsewhere: call again once all that was written is sent. So a client that does not read costs little
    /// memory here.
    MoreOnceSent,
    /// That was all.
    End,
    /// There is nothing now, and there may be none for long: call again after the [`Waker`] from [`BodyWriter::waker`] was used.
    /// A client that leaves ends the wait, and so does [`Limits::waiting_timeout`](super::Limits::waiting_timeout).
    Waiting,
    /// There is nothing now: call again after the [`Waker`] from [`BodyWriter::waker`] was used. Not for longer than
    /// the server's limit: meanwhile nothing is read, so that a client that leaves is not noticed.
    Pending,
    /// The body cannot be completed: what was made of it is sent, and the connection ends without the end of the body, so that
    /// the client does not take the part for the whole. (With a reset where only the end of the stream would end the body.)
    Abort,
}

/// Where a [`Source`] writes.
pub struct BodyWriter<'a> {
    pub(super) io: Io<'a>,
    pub(super) length: BodyLength,
}

/// How the end of a reply's body is told, and what is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// So many bytes are still to come; `None` once more was written than was declared.
    Sized(Option<u64>),
    Chunked,
    /// HTTP/1.0 without a length: the end of the connection.
    UntilClose,
}

impl BodyLength {
    /// Writes a piece of a body, framed. More than was declared is not written, and is remembered.
    pub(super) fn write(&mut self, bytes: &[u8], io: &mut Io<'_>) {
        match self {
            _ if bytes.is_empty() => {}
            BodyLength::Chunked => emit::write_chunk(io.buffer(), bytes),
            BodyLength::UntilClose => io.write(bytes),
            BodyLength::Sized(left) => {
                *left = left.and_then(|left| left.checked_sub(bytes.len() as u64));
                if left.is_some() {
                    io.write(bytes);
                }
            }
        }
    }
}

impl BodyWriter<'_> {
    /// Copies bytes into the body.
    pub fn write(&mut self, bytes: &[u8]) {
        self.length.write(bytes, &mut self.io);
    }

    /// Adds shared bytes without copying them.
    pub fn queue(&mut self, bytes: Bytes) {
        match &mut self.length {
            _ if bytes.is_empty() => {}
            BodyLength::Chunked => {
                emit::write_chunk_size(self.io.buffer(), bytes.len());
                self.io.queue(bytes);
                self.io.write(b"\r\n");
            }
            BodyLength::UntilClose => self.io.queue(bytes),
            BodyLength::Sized(left) => {
                *left = left.and_then(|left| left.checked_sub(bytes.len() as u64));
                if left.is_some() {
                    self.io.queue(bytes);
                }
            }
        }
    }

    /// Ends a body in chunks with these field lines (RFC 9112, 7.1.2); of any other they are dropped.
    #[cfg(feature = "tower")]
    pub(crate) fn trailers(&mut self, lines: &[u8]) {
        if self.length == BodyLength::Chunked {
            self.io.write(emit::LAST_CHUNK_SIZE);
            self.io.write(lines);
            self.io.write(b"\r\n");
            self.length = BodyLength::Sized(Some(0));
        }
    }

    /// How much may be written before it is better to wait.
    pub fn room_bytes(&self) -> usize {
        self.io.room_bytes()
    }

    /// Bytes that were written and not sent yet.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.io.queued_bytes()
    }

    /// Of those, the ones that were on their way before this call.
    pub(crate) fn sending_bytes(&self) -> usize {
        self.io.sending_bytes()
    }

    /// Whether the server is draining: what can go on elsewhere is better ended.
    pub fn is_draining(&self) -> bool {
        self.io.is_draining()
    }

    /// Wakes this source from any thread, after it answered [`Fill::Pending`].
    pub fn waker(&mut self) -> Waker {
        self.io.waker()
    }
}

/// A body that is all there.
pub(super) struct Whole(pub(super) Bytes);

impl Source for Whole {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        let bytes = self.0.len().min(body.room_bytes().max(1));
        body.queue(self.0.split_to(bytes));
        if self.0.is_empty() { Fill::End } else { Fill::More }
    }
}
