//! The body of a request, as a program of the tower world reads it.
//!
//! It is handed over as it arrives; a reader that is slow holds the client back, and one that goes away is told to the
//! session. Nothing here knows a session: what it does with the other end, a [`Writer`], is in `tower.rs`.

use super::timer::Clock;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Sleep, Timer};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

/// What waits for the reader, at most; beyond that the client is held back.
pub(super) const QUEUED_BYTES_MAX: usize = 64 * 1024;

/// The body of a request. It may go to another thread.
pub struct Body(Kind);

enum Kind {
    /// What is there in one piece; nothing, once it was read.
    Whole(Bytes),
    Stream(Reader),
    /// HTTP/2. In a box, so that what is moved with each request is small.
    Streamed(Incoming, Option<Box<Patience>>),
}

/// How long a reader of HTTP/2 waits for a client that sends nothing.
struct Patience {
    clock: Clock,
    time: Duration,
    /// Since it waits.
    sleep: Option<Pin<Box<dyn Sleep>>>,
    is_over: bool,
    /// How often something arrived, for whoever waits for the reader.
    arrivals: Arc<AtomicU64>,
}

/// Why a body has no end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client left, or broke the rules of HTTP, before the body was complete.
    #[error("the client's body is cut")]
    Cut,
    /// The client was too slow.
    #[error("the client's body did not arrive in time")]
    Late,
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

/// The session's end of a body that arrives in pieces. Dropped before the end, it leaves the body cut.
pub(crate) struct Writer(Arc<Mutex<State>>);

struct Reader(Arc<Mutex<State>>);

struct State {
    /// What arrived and was not read. In one piece, so that a client that sends it byte by byte costs no more than its bytes.
    queue: BytesMut,
    /// What the reader does not have yet, if the client said how much it is.
    left: Option<u64>,
    end: End,
    was_polled: bool,
    is_dropped: bool,
    /// The session waits for room.
    is_held: bool,
    reader: Option<Waker>,
    session: Option<Waker>,
}

enum End {
    /// More will come.
    Open,
    /// That was all; with the trailers that are not read yet.
    Complete(Option<HeaderMap>),
    Failed(BodyError),
    /// It was told that it failed.
    Told,
}

impl Body {
    /// A body of nothing.
    pub const fn empty() -> Body {
        Body(Kind::Whole(Bytes::new()))
    }

    pub(super) fn whole(bytes: Bytes) -> Body {
        Body(Kind::Whole(bytes))
    }

    /// Of HTTP/2; a reader that waits for so long without a byte is told that the client is late. It counts
    /// what arrives.
    pub(crate) fn streamed(incoming: Incoming, patience: Option<(Clock, Duration, Arc<AtomicU64>)>) -> Body {
        let patience = patience.map(|(clock, time, arrivals)| {
            Box::new(Patience { clock, time, sleep: None, is_over: false, arrivals })
        });
        Body(Kind::Streamed(incoming, patience))
    }

    /// A body of which `length` bytes will come, if that is known. `session` is woken when it is read for the first time, when there is
    /// room again, and when it is dropped.
    pub(crate) fn stream(length: Option<u64>, session: Option<Waker>) -> (Writer, Body) {
        let state = Arc::new(Mutex::new(State {
            queue: BytesMut::new(),
            left: length,
            end: End::Open,
            was_polled: false,
            is_dropped: false,
            is_held: false,
            reader: None,
            session,
        }));
        (Writer(state.clone()), Body(Kind::Stream(Reader(state))))
    }
}

impl Default for Body {
    fn default() -> Body {
        Body::empty()
    }
}

/// Nothing panics while it holds the lock; and if it did, frames and flags would be as good as before.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever is woken may take the lock.
fn wake(waker: Option<Waker>) {
    waker.into_iter().for_each(Waker::wake);
}

impl Writer {
    /// Whom the reader wakes.
    pub(super) fn set_waker(&self, waker: Waker) {
        lock(&self.0).session = Some(waker);
    }

    /// Whether the reader takes more now. If not, the session is woken once it does. To one that is gone anything can be given.
    pub(crate) fn has_room(&self) -> bool {
        let mut state = lock(&self.0);
        state.is_held = !state.is_dropped && state.queue.len() >= QUEUED_BYTES_MAX;
        !state.is_held
    }

    /// The next bytes of the body. They are taken, whether or not there is room.
    pub(crate) fn push(&self, bytes: &[u8]) {
        self.change(|state| {
            if !state.is_dropped {
                state.queue.extend_from_slice(bytes);
            }
        });
    }

    /// The body is complete.
    pub(crate) fn end(&self, trailers: Option<HeaderMap>) {
        self.change(|state| state.end = End::Complete(trailers));
    }

    /// It will never be.
    pub(crate) fn fail(&self, error: BodyError) {
        self.change(|state| {
            if let End::Open = state.end {
                state.end = End::Failed(error);
            }
        });
    }

    /// Whether somebody has begun to read: a client that asked may be told to go on.
    pub(super) fn was_polled(&self) -> bool {
        lock(&self.0).was_polled
    }

    /// Whether nobody will read it, or read it on.
    pub(crate) fn is_dropped(&self) -> bool {
        lock(&self.0).is_dropped
    }

    /// The memory that it takes.
    pub(crate) fn bytes(&self) -> usize {
        lock(&self.0).queue.capacity()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.0);
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.fail(BodyError::Cut);
        lock(&self.0).session = None;
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_dropped = true;
        state.queue = BytesMut::new();
        let session = state.session.take();
        drop(state);
        wake(session);
    }
}

impl State {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.queue.is_empty() {
            let bytes = std::mem::take(&mut self.queue).freeze();
            self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match std::mem::replace(&mut self.end, End::Told) {
            End::Complete(Some(trailers)) => {
                self.end = End::Complete(None);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            End::Complete(None) => {
                self.end = End::Complete(None);
                Poll::Ready(None)
            }
            End::Failed(error) => Poll::Ready(Some(Err(error))),
            End::Told => Poll::Ready(None),
            End::Open => {
                self.end = End::Open;
                self.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Reader {
    fn poll(&self, context: &Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = lock(&self.0);
        let is_first = !std::mem::replace(&mut state.was_polled, true);
        let polled = state.poll(context);
        let has_room = state.is_held && state.queue.is_empty();
        state.is_held &= !has_room;
        let session = if is_first || has_room { state.session.clone() } else { None };
        drop(state);
        wake(session);
        polled
    }
}

impl Patience {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| self.clock.sleep(self.time));
        ready!(sleep.as_mut().poll(context));
        self.is_over = true;
        Poll::Ready(())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Stream(reader) => reader.poll(context),
            Kind::Streamed(_, Some(patience)) if patience.is_over => Poll::Ready(None),
            Kind::Streamed(incoming, patience) => {
                let polled = Pin::new(incoming).poll_frame(context);
                if let Some(patience) = patience {
                    if polled.is_pending() {
                        return patience.poll(context).map(|()| Some(Err(BodyError::Late)));
                    }
                    patience.sleep = None;
                    patience.arrivals.fetch_add(1, Relaxed);
                }
                polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Stream(reader) => {
                let state = lock(&reader.0);
                state.queue.is_empty() && matches!(state.end, End::Complete(None))
            }
            Kind::Streamed(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Stream(reader) => {
                let state = lock(&reader.0);
                match state.left {
                    Some(left) => SizeHint::with_exact(left),
                    None => {
                        let mut hint = SizeHint::new();
                        hint.set_lower(state.queue.len() as u64);
                        hint
                    }
                }
            }
            Kind::Streamed(incoming, _) => incoming.size_hint(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("size_hint", &http_body::Body::size_hint(self)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::counting::Count;
    use http_body::Body as _;

    /// What one poll gives, in a word.
    fn read(body: &mut Body, waker: &Arc<Count>) -> String {
        match Pin::new(body).poll_frame(&mut Context::from_waker(&waker.clone().into())) {
            Poll::Pending => "pending".to_owned(),
            Poll::Ready(None) => "end".to_owned(),
            Poll::Ready(Some(Err(error))) => format!("error: {error}"),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => String::from_utf8_lossy(&data).into_owned(),
                Err(frame) => format!("{:?}", frame.into_trailers()),
            },
        }
    }

    fn stream(length: Option<u64>) -> (Writer, Body, Arc<Count>, Arc<Count>) {
        let (session, reader) = (Arc::<Count>::default(), Arc::default());
        let (writer, body) = Body::stream(length, Some(session.clone().into()));
        (writer, body, session, reader)
    }

    fn must_be_send_and_static<T: Send + 'static>(_: &T) {}

    #[test]
    fn a_body_that_is_there() {
        let (mut body, waker) = (Body::whole(Bytes::from_static(b"all")), Arc::default());
        must_be_send_and_static(&body);
        assert_eq!((body.size_hint().exact(), body.is_end_stream()), (Some(3), false));
        assert_eq!((&*read(&mut body, &waker), &*read(&mut body, &waker)), ("all", "end"));
        assert!(body.is_end_stream() && Body::empty().is_end_stream());
    }

    #[test]
    fn pieces_trailers_and_the_end() {
        let (writer, mut body, session, reader) = stream(None);
        assert!(!writer.was_polled());
        assert_eq!(read(&mut body, &reader), "pending");
        assert_eq!(
            (session.take(), writer.was_polled()),
            (1, true),
            "only when it is read, the client may send"
        );
        writer.push(b"a");
        writer.push(b"bc");
        assert_eq!((reader.take(), body.size_hint().lower(), body.size_hint().exact()), (1, 3, None));
        assert_eq!((&*read(&mut body, &reader), &*read(&mut body, &reader)), ("abc", "pending"));
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", http::HeaderValue::from_static("7"));
        writer.end(Some(trailers));
        drop(writer);
        assert!(!body.is_end_stream());
        assert_eq!(read(&mut body, &reader), r#"Ok({"x-sum": "7"})"#);
        assert!(body.is_end_stream());
        assert_eq!(
            (&*read(&mut body, &reader), &*read(&mut body, &reader), session.take()),
            ("end", "end", 0)
        );
    }

    #[test]
    fn a_slow_reader_holds_the_client_back() {
        let (writer, mut body, session, reader) = stream(Some(200_000));
        let piece = vec![b'x'; 16 * 1024];
        let mut pieces = 0;
        while writer.has_room() {
            writer.push(&piece);
            pieces += 1;
        }
        assert_eq!((pieces, session.take()), (4, 0));
        assert!((QUEUED_BYTES_MAX..2 * QUEUED_BYTES_MAX).contains(&writer.bytes()));
        assert_eq!(read(&mut body, &reader).len(), QUEUED_BYTES_MAX);
        assert_eq!((session.take(), writer.has_room(), writer.bytes()), (1, true, 0));
        assert_eq!(body.size_hint().exact(), Some(200_000 - QUEUED_BYTES_MAX as u64));
        assert_eq!((&*read(&mut body, &reader), session.take()), ("pending", 0));
    }

    #[test]
    fn a_client_that_drips_costs_no_more_than_its_bytes() {
        let (writer, mut body, ..) = stream(None);
        while writer.has_room() {
            writer.push(b"x");
        }
        assert!(writer.bytes() < 2 * QUEUED_BYTES_MAX, "{}", writer.bytes());
        assert_eq!(read(&mut body, &Arc::default()).len(), QUEUED_BYTES_MAX);
    }

    #[test]
    fn a_cut_body_says_so_once() {
        let (writer, mut body, _, reader) = stream(Some(9));
        writer.push(b"ab");
        assert_eq!(read(&mut body, &reader), "ab");
        assert_eq!(read(&mut body, &reader), "pending");
        drop(writer);
        assert_eq!(reader.take(), 1);
        assert_eq!(
            (&*read(&mut body, &reader), &*read(&mut body, &reader)),
            ("error: the client's body is cut", "end")
        );
    }

    #[test]
    fn a_body_that_nobody_reads_takes_all_and_keeps_nothing() {
        let (writer, body, session, _) = stream(None);
        writer.push(b"kept");
        drop(body);
        assert_eq!((session.take(), writer.is_dropped(), writer.bytes()), (1, true, 0));
        for _ in 0..9 {
            writer.push(&[0; 16 * 1024]);
            assert!(writer.has_room() && writer.bytes() == 0);
        }
    }
}
