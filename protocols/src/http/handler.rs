//! What a server's user writes: a handler, and for bodies that stream, an upload or a source.

use super::reply::{Reply, write_chunk, write_chunk_size};
use super::request::Request;
use bytes::Bytes;
use ringmill_engine::{Io, Waker};

/// Answers requests. One value a worker, on that worker's thread: state needs no lock and no `Send`.
///
/// Closures that take a request and a reply are handlers.
pub trait Handler: 'static {
    /// Answers. A handler that writes nothing has answered 200 with no body.
    ///
    /// A panic is answered with 500 where nothing of the answer was written yet, closes the connection after the replies
    /// before it, and is logged; other connections do not notice.
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>);

    /// Says what to do with the body of this request, before it is read. Asked only if there is one.
    fn plan(&mut self, _request: &Request<'_>) -> Plan {
        Plan::Collect
    }
}

impl<F: FnMut(&Request<'_>, &mut Reply<'_>) + 'static> Handler for F {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        self(request, reply);
    }
}

/// What to do with a request's body.
pub enum Plan {
    /// Collect it, up to the server's limit, and call [`Handler::handle`] with all of it.
    Collect,
    /// Collect it up to this many bytes; beyond, the answer is 413.
    CollectUpTo(u64),
    /// Hand it over as it comes; `Handler::handle` is not called.
    Stream(Box<dyn Upload>),
    /// The same, up to this many bytes; beyond, the answer is 413, or is cut where it has begun.
    StreamUpTo(u64, Box<dyn Upload>),
}

/// Takes a request's body piece by piece. Nothing is buffered: a piece is gone after its call.
pub trait Upload {
    /// The next bytes, at least one. Replying in full before the end closes the connection after the reply; one that
    /// is begun and ended here should say so first, with [`Reply::close`]. A reply that was begun with [`Reply::begin`] may be written here as the body comes in, and reading
    /// pauses while the client does not read it.
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>);

    /// The body is complete. Answer here, or finish the answer.
    fn end(self: Box<Self>, reply: &mut Reply<'_>);
}

/// Makes a reply's body when there is room to send it.
pub trait Source {
    /// Writes the next bytes; as many as it likes, best until [`BodyWriter::room_bytes`] is zero.
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill;
}

/// What a [`Source`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// It wrote something, and there is more.
    More,
    /// That was all.
    End,
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
            BodyLength::Chunked => write_chunk(io.buffer(), bytes),
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
                write_chunk_size(self.io.buffer(), bytes.len());
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

    /// How much may be written before it is better to wait.
    pub fn room_bytes(&self) -> usize {
        self.io.room_bytes()
    }

    /// Wakes this source from any thread, after it answered [`Fill::Pending`].
    pub fn waker(&self) -> Waker {
        self.io.waker()
    }
}
