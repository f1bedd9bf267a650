//! A connection in memory: a session holds the near end, and code that reads and writes a stream holds the far end, which it
//! takes for a socket.
//!
//! Both ways are bounded: who is ahead waits. The far end may be on another thread: an upgraded connection often is. Nothing here
//! knows a session or the engine; who polls whom is in `h2.rs` and `upgrade.rs`.

use bytes::{Bytes, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What is under way in one direction, at most.
pub(crate) const PIPE_BYTES_MAX: usize = 256 * 1024;
/// A buffer that is empty and larger than this is given back.
const KEEP_BYTES_MAX: usize = 16 * 1024;

/// The session's end. Dropped, it cuts the connection.
pub(crate) struct Near(Arc<Mutex<State>>);

/// The end of whoever takes it for a socket. Dropped, it ends its output.
pub(crate) struct Far(Arc<Mutex<State>>);

struct State {
    /// From near to far.
    input: BytesMut,
    /// From far to near.
    output: BytesMut,
    phase: Phase,
    /// The near end will send no more.
    is_input_over: bool,
    /// The far end will send no more.
    is_output_over: bool,
    /// The far end is gone: what is sent to it is dropped.
    is_far_gone: bool,
    /// The near end did not get rid of all that it had.
    is_near_held: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    near: Option<Waker>,
}

enum Phase {
    /// The far end reads this, and what it writes is dropped.
    Rehearsal(&'static [u8]),
    Live,
    /// The near end is gone.
    Cut,
}

/// A pipe of which the far end reads `rehearsal` first, and writes to nobody, until [`Near::begin`]. Without one it is live at once.
pub(crate) fn pipe(rehearsal: Option<&'static [u8]>) -> (Near, Far) {
    let state = Arc::new(Mutex::new(State {
        input: BytesMut::new(),
        output: BytesMut::new(),
        phase: rehearsal.map_or(Phase::Live, Phase::Rehearsal),
        is_input_over: false,
        is_output_over: false,
        is_far_gone: false,
        is_near_held: false,
        reader: None,
        writer: None,
        near: None,
    }));
    (Near(state.clone()), Far(state))
}

/// Nothing panics while it holds the lock; and if it did, bytes and flags would be as good as before.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Near {
    /// The rehearsal is over.
    pub(crate) fn begin(&self) {
        let mut state = lock(&self.0);
        state.phase = Phase::Live;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Whom the far end wakes when it has sent, has made room for what was held, or has ended. Not needed by who polls the far end
    /// itself, and looks at this one behind that.
    pub(crate) fn set_waker(&self, waker: Waker) {
        lock(&self.0).near = Some(waker);
    }

    /// Sends from the front of `bytes`; how many were taken. If that is not all, the near end is woken when there is room.
    pub(crate) fn push(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.0);
        if state.is_far_gone {
            return bytes.len();
        }
        let taken = bytes.len().min(PIPE_BYTES_MAX.saturating_sub(state.input.len()));
        state.input.extend_from_slice(&bytes[..taken]);
        state.is_near_held = taken < bytes.len();
        let reader = if taken > 0 { state.reader.take() } else { None };
        drop(state);
        wake(reader);
        taken
    }

    /// How much of what is pushed would be taken. If that is nothing, the near end is woken when there is room.
    pub(crate) fn room(&self) -> usize {
        let mut state = lock(&self.0);
        if state.is_far_gone {
            return usize::MAX;
        }
        let room = PIPE_BYTES_MAX.saturating_sub(state.input.len());
        state.is_near_held |= room == 0;
        room
    }

    /// Nothing more is sent.
    pub(crate) fn end(&self) {
        let mut state = lock(&self.0);
        state.is_input_over = true;
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Takes what was sent to this end, at most so many bytes of it.
    pub(crate) fn take(&self, bytes_max: usize) -> Bytes {
        let mut state = lock(&self.0);
        let bytes = bytes_max.min(state.output.len());
        let taken = state.output.split_to(bytes).freeze();
        let writer = if bytes > 0 { state.writer.take() } else { None };
        drop(state);
        wake(writer);
        taken
    }

    /// Whether nothing more will come from the far end, and all that did was taken.
    pub(crate) fn is_over(&self) -> bool {
        let state = lock(&self.0);
        state.is_output_over && state.output.is_empty()
    }

    /// Whether something is there to be taken.
    pub(crate) fn has_output(&self) -> bool {
        !lock(&self.0).output.is_empty()
    }

    /// The memory that the pipe takes.
    pub(crate) fn bytes(&self) -> usize {
        let state = lock(&self.0);
        state.input.capacity() + state.output.len()
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.phase = Phase::Cut;
        (state.near, state.output) = (None, BytesMut::new());
        let (reader, writer) = (state.reader.take(), state.writer.take());
        drop(state);
        wake(reader);
        wake(writer);
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_far_gone = true;
        state.is_output_over = true;
        (state.input, state.reader, state.writer) = (BytesMut::new(), None, None);
        let near = state.near.clone();
        drop(state);
        wake(near);
    }
}

impl State {
    fn read(&mut self, context: &Context<'_>, into: &mut ReadBufCursor<'_>) -> Poll<Result<()>> {
        let room = into.remaining();
        match &mut self.phase {
            Phase::Rehearsal(text) if !text.is_empty() => {
                let (taken, rest) = text.split_at(room.min(text.len()));
                *text = rest;
                into.put_slice(taken);
                return Poll::Ready(Ok(()));
            }
            Phase::Live | Phase::Cut if !self.input.is_empty() => {
                let taken = self.input.split_to(room.min(self.input.len()));
                into.put_slice(&taken);
                drop(taken);
                if self.input.is_empty() && self.input.capacity() > KEEP_BYTES_MAX {
                    self.input = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            Phase::Live if self.is_input_over => return Poll::Ready(Ok(())),
            Phase::Cut if self.is_input_over => return Poll::Ready(Ok(())),
            Phase::Cut => return Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            Phase::Rehearsal(_) | Phase::Live => {}
        }
        self.reader = Some(context.waker().clone());
        Poll::Pending
    }

    fn write(&mut self, context: &Context<'_>, pieces: &[&[u8]]) -> Poll<Result<usize>> {
        let wanted = pieces.iter().map(|piece| piece.len()).sum();
        match self.phase {
            Phase::Rehearsal(_) => return Poll::Ready(Ok(wanted)),
            Phase::Cut => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            Phase::Live if self.is_output_over => {
                return Poll::Ready(Err(Error::new(ErrorKind::BrokenPipe, "it was shut down")));
            }
            Phase::Live => {}
        }
        let mut room = PIPE_BYTES_MAX.saturating_sub(self.output.len());
        if room == 0 && wanted > 0 {
            self.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut taken = 0;
        for piece in pieces {
            let part = &piece[..piece.len().min(room)];
            self.output.extend_from_slice(part);
            (room, taken) = (room - part.len(), taken + part.len());
        }
        Poll::Ready(Ok(taken))
    }
}

impl Far {
    fn write(&self, context: &Context<'_>, pieces: &[&[u8]]) -> Poll<Result<usize>> {
        let mut state = lock(&self.0);
        let was_empty = state.output.is_empty();
        let written = state.write(context, pieces);
        let near = if was_empty && !state.output.is_empty() { state.near.clone() } else { None };
        drop(state);
        wake(near);
        written
    }
}

impl Read for Far {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<Result<()>> {
        let mut state = lock(&self.0);
        let read = state.read(context, &mut into);
        // Not for every little bit of room: what is held then comes in large pieces.
        let has_room = state.is_near_held && state.input.len() <= PIPE_BYTES_MAX / 2;
        let near = if has_room { state.near.clone() } else { None };
        state.is_near_held &= !has_room;
        drop(state);
        wake(near);
        read
    }
}

impl Write for Far {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Far::write(&self, context, &[bytes])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = lock(&self.0);
        state.is_output_over = !matches!(state.phase, Phase::Rehearsal(_));
        let near = state.near.clone();
        drop(state);
        wake(near);
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
        Far::write(&self, context, &pieces)
    }
}

/// Whoever is woken may take the lock.
fn wake(waker: Option<Waker>) {
    waker.into_iter().for_each(Waker::wake);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::counting::Count;

    struct Ends {
        near: Near,
        far: Option<Far>,
        far_woken: Arc<Count>,
        near_woken: Arc<Count>,
    }

    impl Ends {
        fn new(rehearsal: Option<&'static [u8]>) -> Ends {
            let ((near, far), near_woken) = (pipe(rehearsal), Arc::new(Count::default()));
            near.set_waker(near_woken.clone().into());
            Ends { near, far: Some(far), far_woken: Arc::default(), near_woken }
        }

        fn read(&mut self, room: usize) -> Poll<Result<Vec<u8>>> {
            let (waker, mut memory) = (self.far_woken.clone().into(), vec![0; room]);
            let mut buffer = hyper::rt::ReadBuf::new(&mut memory);
            let far = Pin::new(self.far.as_mut().unwrap());
            far.poll_read(&mut Context::from_waker(&waker), buffer.unfilled())
                .map_ok(|()| buffer.filled().to_vec())
        }

        fn write(&mut self, bytes: &[u8]) -> Poll<Result<usize>> {
            let waker = self.far_woken.clone().into();
            let (first, last) = bytes.split_at(bytes.len() / 2);
            let far = Pin::new(self.far.as_mut().unwrap());
            let pieces = [IoSlice::new(first), IoSlice::new(last)];
            far.poll_write_vectored(&mut Context::from_waker(&waker), &pieces)
        }

        fn shut(&mut self) {
            let far = Pin::new(self.far.as_mut().unwrap());
            assert!(far.poll_shutdown(&mut Context::from_waker(Waker::noop())).is_ready());
        }
    }

    fn ready<T: std::fmt::Debug>(poll: Poll<Result<T>>) -> T {
        match poll {
            Poll::Ready(Ok(value)) => value,
            other => panic!("{other:?}"),
        }
    }

    fn failed<T: std::fmt::Debug>(poll: Poll<Result<T>>) -> ErrorKind {
        match poll {
            Poll::Ready(Err(error)) => error.kind(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_ways_with_wakes_where_somebody_waits() {
        let mut ends = Ends::new(None);
        assert!(ends.read(4).is_pending());
        assert_eq!((ends.near.push(b"hello"), ends.far_woken.take()), (5, 1));
        assert_eq!(ready(ends.read(4)), b"hell");
        assert_eq!(ready(ends.read(4)), b"o");
        assert_eq!((ends.near.push(b"more"), ends.far_woken.take()), (4, 0));
        assert_eq!(ready(ends.write(b"answer")), 6);
        assert_eq!(ready(ends.write(b"!")), 1);
        assert_eq!(ends.near_woken.take(), 1, "once, until it was looked at");
        assert_eq!(
            (&*ends.near.take(3), &*ends.near.take(99), &*ends.near.take(9)),
            (&b"ans"[..], &b"wer!"[..], &b""[..])
        );
    }

    #[test]
    fn both_ways_are_bounded() {
        let (mut ends, much) = (Ends::new(None), vec![b'x'; PIPE_BYTES_MAX + 7]);
        assert_eq!(ends.near.push(&much), PIPE_BYTES_MAX);
        assert_eq!(ends.near.push(&much[..7]), 0);
        assert_eq!(ready(ends.read(8)).len(), 8);
        assert_eq!(ends.near_woken.take(), 0, "for a little room it does not pay");
        assert_eq!(ready(ends.read(PIPE_BYTES_MAX / 2)).len(), PIPE_BYTES_MAX / 2);
        assert_eq!((ends.near_woken.take(), ends.near.push(&much[..7])), (1, 7));
        assert_eq!(ready(ends.write(&much)), PIPE_BYTES_MAX);
        assert!(ends.write(b"x").is_pending());
        assert_eq!(ends.near_woken.take(), 1);
        assert_eq!((ends.near.take(1).len(), ends.far_woken.take()), (1, 1));
        assert_eq!(ready(ends.write(b"xx")), 1);
        assert!(ends.near.bytes() >= PIPE_BYTES_MAX);
    }

    #[test]
    fn ends() {
        let mut ends = Ends::new(None);
        ends.near.push(b"last");
        ends.near.end();
        assert_eq!((&*ready(ends.read(9)), &*ready(ends.read(9))), (&b"last"[..], &b""[..]));
        ready(ends.write(b"mine"));
        ends.near_woken.take();
        ends.shut();
        assert_eq!((ends.near_woken.take(), ends.near.is_over()), (1, false));
        assert_eq!(failed(ends.write(b"more")), ErrorKind::BrokenPipe);
        assert_eq!(&*ends.near.take(9), b"mine");
        assert!(ends.near.is_over());
        ends.far = None;
        assert_eq!(ends.near.push(b"to nobody"), 9);
    }

    #[test]
    fn an_end_that_goes_away_is_told() {
        let mut ends = Ends::new(None);
        ready(ends.write(b"mine"));
        ends.near_woken.take();
        ends.far = None;
        assert_eq!(
            (ends.near_woken.take(), ends.near.is_over(), &*ends.near.take(9)),
            (1, false, &b"mine"[..])
        );
        let mut ends = Ends::new(None);
        assert!(ends.read(9).is_pending());
        ends.near = pipe(None).0;
        assert_eq!(ends.far_woken.take(), 1);
        assert_eq!(
            (failed(ends.read(9)), failed(ends.write(b"x"))),
            (ErrorKind::ConnectionReset, ErrorKind::BrokenPipe)
        );
    }

    #[test]
    fn a_rehearsal_is_heard_by_nobody() {
        let mut ends = Ends::new(Some(b"GET /"));
        ends.near.push(b"real");
        assert_eq!((&*ready(ends.read(3)), &*ready(ends.read(9))), (&b"GET"[..], &b" /"[..]));
        assert!(ends.read(9).is_pending());
        assert_eq!((ready(ends.write(b"answer")), ends.near.has_output()), (6, false));
        ends.near.begin();
        assert_eq!(ends.far_woken.take(), 1);
        assert_eq!(&*ready(ends.read(9)), b"real");
        ready(ends.write(b"heard"));
        assert_eq!(&*ends.near.take(9), b"heard");
    }
}
