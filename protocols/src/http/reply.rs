//! Replies to bytes: written straight into the connection's output, framed by what the request allows.

use super::content::{BodyLength, Source, Whole};
use super::date::{KnownType, Preamble};
use super::field::is_field;
use super::intake::Intake;
use super::message::{Head, Method, Version};
use super::one::emit;
use super::owned::reply::{Body, OwnedReply};
use super::peer::Peer;
use super::status::{RESET_CONTENT, is_bodiless};
use super::successor::Successor;
use bytes::Bytes;
use ringmill_engine::{Address, Facts, Io};
use std::task::{Context, Poll};

/// The answer to one request: status, then fields, then a body. Each `body` method finishes it.
///
/// Server, Date, Connection and the framing fields are the server's business.
pub struct Reply<'a> {
    pub(crate) io: Io<'a>,
    pub(super) preamble: &'a mut Preamble,
    pub(super) state: &'a mut ReplyState,
}

/// What is known of a reply between calls.
pub(super) struct ReplyState {
    pub(super) stage: Stage,
    /// The body is not sent: the request was HEAD.
    pub(super) head_only: bool,
    /// The client speaks 1.0: no chunks, and keeping alive must be said.
    pub(super) http10: bool,
    /// Whether the connection stays open after this reply.
    pub(super) keep_alive: bool,
    /// The request's body has not arrived in full: a reply that is finished now ends the connection.
    pub(super) reading: bool,
    /// More has arrived behind the request.
    pub(super) followed: bool,
    pub(super) source: Option<Box<dyn Source>>,
    /// There while the answer is put off. One box, so that all others pay for one pointer.
    pub(super) later: Option<Box<Later>>,
    /// The source waits, and nobody but the client would miss it.
    pub(super) is_waiting: bool,
    /// A Content-Type was written.
    pub(super) has_type: bool,
    pub(super) status: u16,
}

/// An answer that is put off.
#[derive(Default)]
pub(super) struct Later {
    /// What makes it.
    pub(super) work: Option<Box<dyn Work>>,
    /// What tells it that the client has left.
    pub(super) peer: Option<Peer>,
    /// It is there, and gives the connection over: who takes what comes in.
    pub(super) tunnel: Option<Box<dyn Intake>>,
    /// The same, for a session that gets the whole connection.
    pub(super) successor: Option<Box<dyn Successor>>,
}

/// What an exchange waits for.
pub(crate) trait Work {
    /// Goes on. Not to be called again once it is ready.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// Writes what it has made: to be called once it is ready, and its place can be used again behind that.
    fn answer(self: Box<Self>, reply: &mut Reply<'_>);

    /// Whether whoever makes the answer has the request: a service may say that it is not ready for one.
    fn has_begun(&self) -> bool {
        true
    }

    /// The memory it takes, with its request.
    fn bytes(&self) -> usize;

    /// Nobody waits for it any more: what it has is dropped, and its place can be used again.
    fn retire(self: Box<Self>) {}
}

/// How far a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is written; a status may be set.
    Unsent,
    /// Nothing is written, and nothing more may be: the answer was put off, and nobody has waited for it yet.
    Later,
    /// It is being waited for.
    Waiting,
    /// The status line is written, fields are being added.
    Fields,
    /// The head is complete, the body is being written.
    Body(BodyLength),
    Done,
    /// It was 101, and the connection is somebody else's.
    Switched,
    /// The body does not match its declared length, which tells the client that it is cut.
    Broken,
}

impl ReplyState {
    /// Whether the answer is still being made.
    #[inline]
    pub(super) fn is_put_off(&self) -> bool {
        matches!(self.stage, Stage::Later | Stage::Waiting)
    }

    pub(super) fn new(head: &Head<'_, '_>, keep_alive: bool) -> ReplyState {
        ReplyState {
            http10: head.version == Version::Http10,
            keep_alive: keep_alive && head.keep_alive,
            ..ReplyState::last(200, head.method == Method::Head)
        }
    }

    /// Whether nothing stands in the way of a reply that was rendered beforehand.
    #[inline]
    fn is_plain(&self) -> bool {
        self.stage == Stage::Unsent
            && self.status == 200
            && self.keep_alive
            && !(self.http10 || self.head_only || self.reading)
    }

    /// Whether something of it is written.
    pub(super) fn is_begun(&self) -> bool {
        !self.is_put_off() && self.stage != Stage::Unsent
    }

    /// Whether it ends HTTP on this connection.
    pub(super) fn is_given_over(&self) -> bool {
        self.later.as_ref().is_some_and(|later| later.tunnel.is_some())
    }

    /// The memory that its making takes.
    pub(super) fn work_bytes(&self) -> usize {
        self.later.as_ref().and_then(|later| later.work.as_ref()).map_or(0, |work| work.bytes())
    }

    /// That of a reply behind which the connection ends, as one does to a request that could not be understood.
    pub(super) fn last(status: u16, head_only: bool) -> ReplyState {
        ReplyState {
            stage: Stage::Unsent,
            head_only,
            http10: false,
            keep_alive: false,
            reading: false,
            followed: false,
            source: None,
            later: None,
            is_waiting: false,
            has_type: false,
            status,
        }
    }
}

impl Reply<'_> {
    /// Sets the status, 200 to 599; call it first. Out of range, or once fields were written, it is ignored and logged.
    pub fn status(&mut self, status: u16) -> &mut Self {
        if self.state.stage == Stage::Unsent && (200..600).contains(&status) {
            self.state.status = status;
        } else {
            tracing::warn!(status, "a reply's status came after its fields, or is not one: ignored");
        }
        self
    }

    /// Adds a field. A name that is not a token, a value with control bytes, and fields that are the server's
    /// business (framing, Connection) are ignored and logged: a peer's data cannot split a reply.
    pub fn field(&mut self, name: &str, value: &str) -> &mut Self {
        if !is_field(name, value) {
            tracing::warn!(name, "a reply's field is malformed or the server's business: ignored");
            return self;
        }
        if self.start() {
            self.state.has_type |= name.eq_ignore_ascii_case("content-type");
            emit::write_field(self.io.buffer(), name, value);
        }
        self
    }

    /// Sets Content-Type.
    #[inline]
    pub fn content_type(&mut self, value: &str) -> &mut Self {
        self.field("content-type", value)
    }

    /// Finishes with a text body, as `text/plain` unless a type was set.
    #[inline]
    pub fn text(&mut self, text: &str) {
        self.known_type(KnownType::Text, text.as_bytes());
    }

    /// Finishes with a JSON body that is already serialised, as `application/json` unless a type was set.
    #[inline]
    pub fn json(&mut self, json: &[u8]) {
        self.known_type(KnownType::Json, json);
    }

    /// Finishes with a body, copied. A large one is sent as the client reads it.
    pub fn body(&mut self, bytes: &[u8]) {
        if self.is_streamed(bytes.len()) {
            self.io.hold(bytes.len());
            self.stream(Some(bytes.len() as u64), Whole(Bytes::copy_from_slice(bytes)));
        } else if self.start_sized(bytes.len() as u64) {
            self.io.write(bytes);
        }
    }

    /// Finishes with a body that is shared and not copied.
    pub fn body_shared(&mut self, bytes: Bytes) {
        if self.is_streamed(bytes.len()) {
            self.stream(Some(bytes.len() as u64), Whole(bytes));
        } else if self.start_sized(bytes.len() as u64) {
            self.io.queue(bytes);
        }
    }

    /// Finishes with no body.
    pub fn empty(&mut self) {
        self.body(b"");
    }

    /// Finishes with a body that `source` makes as the client reads it: of `length` bytes, or chunked.
    pub fn stream(&mut self, length: Option<u64>, source: impl Source + 'static) {
        self.stream_boxed(length, Box::new(source));
    }

    /// Writes an answer that was made as a value.
    pub(crate) fn put(&mut self, answer: OwnedReply) {
        if self.state.stage == Stage::Unsent && answer.status != 200 {
            self.state.status = answer.status;
        }
        self.state.keep_alive &= !answer.closes;
        if !answer.fields.is_empty() && self.start() {
            self.state.has_type |= answer.has_type;
            self.io.write(&answer.fields);
        }
        self.content(answer.body);
    }

    /// What follows the fields.
    pub(crate) fn content(&mut self, body: Body) {
        match body {
            Body::Known(known, bytes) if bytes.len() <= COPIED_BYTES_MAX => self.known_type(known, &bytes),
            Body::Known(known, bytes) => {
                if !self.state.has_type {
                    self.content_type(known.value());
                }
                self.body_shared(bytes);
            }
            Body::Whole(bytes) => self.body_shared(bytes),
            Body::Source(length, source) => self.stream_boxed(length, source),
            #[cfg(feature = "tower")]
            Body::Tunnel(intake, source) => self.give_over(intake, source),
        }
    }

    fn stream_boxed(&mut self, length: Option<u64>, source: Box<dyn Source>) {
        self.begin(length);
        if matches!(self.state.stage, Stage::Body(_)) {
            if self.state.head_only || length == Some(0) {
                return self.end();
            }
            self.state.source = Some(source);
        }
    }

    /// Begins a body that is written with [`Reply::write`] and finished with [`Reply::end`]: for uploads that
    /// answer while they read.
    pub fn begin(&mut self, length: Option<u64>) -> &mut Self {
        if !self.start() {
            return self;
        }
        if is_bodiless(self.state.status) {
            // What is written is dropped, as for HEAD.
            self.state.head_only = true;
            match (self.state.status, length) {
                (RESET_CONTENT, _) => emit::write_length(self.io.buffer(), 0),
                (304, Some(length)) if length > 0 => emit::write_length(self.io.buffer(), length),
                _ => {}
            }
            self.finish_head();
            self.state.stage = Stage::Body(BodyLength::Sized(Some(0)));
            return self;
        }
        let length = match length {
            Some(length) => {
                emit::write_length(self.io.buffer(), length);
                BodyLength::Sized(Some(length))
            }
            None if self.state.http10 => {
                self.state.keep_alive = false;
                BodyLength::UntilClose
            }
            None => {
                self.io.write(emit::CHUNKED);
                BodyLength::Chunked
            }
        };
        self.finish_head();
        self.state.stage = Stage::Body(length);
        self
    }

    /// Writes the next bytes of a body that was begun.
    pub fn write(&mut self, bytes: &[u8]) {
        let Stage::Body(length) = &mut self.state.stage else {
            tracing::warn!("a reply's body was written before `begin` or after its end: ignored");
            return;
        };
        if !self.state.head_only {
            length.write(bytes, &mut self.io);
        }
    }

    /// Ends a body that was begun. Where a declared length was not met, the connection ends, so that the client sees a cut
    /// reply.
    pub fn end(&mut self) {
        self.state.stage = match self.state.stage {
            Stage::Body(BodyLength::Sized(left)) if left != Some(0) && !self.state.head_only => Stage::Broken,
            Stage::Body(BodyLength::Chunked) if !self.state.head_only => {
                self.io.write(emit::LAST_CHUNK);
                Stage::Done
            }
            Stage::Body(_) => Stage::Done,
            other => other,
        };
    }

    /// Closes the connection after this reply. Call it before the body.
    pub fn close(&mut self) -> &mut Self {
        self.state.keep_alive = false;
        self
    }

    /// The client's address, as [`Io::peer`]. Costs a system call where no proxy in front told it.
    pub fn peer(&self) -> Option<Address> {
        self.io.peer()
    }

    /// The address the client connected to, as [`Io::local`]. Costs a system call where no proxy in front told it.
    pub fn local(&self) -> Option<Address> {
        self.io.local()
    }

    #[cfg(feature = "tower")]
    pub(crate) fn io(&self) -> &Io<'_> {
        &self.io
    }

    /// What the layers below have learned of the connection.
    pub fn facts(&self) -> Option<&Facts> {
        self.io.facts()
    }

    /// Completes whatever the handler left open.
    pub(super) fn finish(&mut self) {
        match self.state.stage {
            Stage::Unsent | Stage::Fields => self.empty(),
            Stage::Body(_) if self.state.source.is_none() => self.end(),
            _ => {}
        }
    }

    /// The hot path: two copies.
    #[inline]
    fn known_type(&mut self, known: KnownType, body: &[u8]) {
        if !self.state.is_plain() || body.len() > STREAM_BYTES_MIN {
            if !self.state.has_type {
                self.content_type(known.value());
            }
            return self.body(body);
        }
        self.state.stage = Stage::Done;
        let head = self.preamble.typed(known, body.len());
        let buffer = self.io.buffer();
        buffer.extend_from_slice(head);
        buffer.extend_from_slice(body);
    }

    /// Whether a body of this length is better sent piece by piece than queued as a whole. An answer that comes
    /// before the end of the request cannot be: reading goes on until it is sent.
    fn is_streamed(&self, bytes: usize) -> bool {
        bytes > STREAM_BYTES_MIN
            && !self.state.reading
            && !self.state.head_only
            && !is_bodiless(self.state.status)
    }

    /// Writes the status line if it is not written yet; whether fields may follow.
    pub(super) fn start(&mut self) -> bool {
        match self.state.stage {
            Stage::Unsent => {
                self.state.stage = Stage::Fields;
                if self.state.status == 200 {
                    self.io.buffer().extend_from_slice(self.preamble.ok());
                } else {
                    let fields = self.preamble.fields();
                    let buffer = self.io.buffer();
                    emit::write_status_line(buffer, self.state.status);
                    buffer.extend_from_slice(fields);
                }
                true
            }
            Stage::Fields => true,
            Stage::Body(_)
            | Stage::Done
            | Stage::Switched
            | Stage::Broken
            | Stage::Later
            | Stage::Waiting => {
                tracing::warn!("a second answer to one request: ignored");
                false
            }
        }
    }

    /// Writes the whole head of a reply with a body of `length` bytes; whether to write the body too.
    fn start_sized(&mut self, length: u64) -> bool {
        if !self.start() {
            return false;
        }
        if self.state.reading {
            self.state.keep_alive = false;
        }
        let bodiless = is_bodiless(self.state.status);
        let buffer = self.io.buffer();
        if !bodiless || (self.state.status == 304 && length > 0) {
            emit::write_length(buffer, length);
        } else if self.state.status == RESET_CONTENT {
            emit::write_length(buffer, 0);
        }
        buffer.extend_from_slice(emit::head_end(self.state.keep_alive, self.state.http10));
        self.state.stage = Stage::Done;
        !bodiless && !self.state.head_only
    }

    fn finish_head(&mut self) {
        self.io.write(emit::head_end(self.state.keep_alive, self.state.http10));
    }
}

/// A body with a known type that is no longer is copied behind its head; a longer one is shared.
const COPIED_BYTES_MAX: usize = 4 * 1024;
/// Longer bodies go out as the client reads them, so that a reply of any size passes the output's hard cap.
const STREAM_BYTES_MIN: usize = 256 * 1024;
