//! What the HTTP/2 library takes for a socket: bytes that have arrived for it, and bytes that it sends. Its session has the other end, polls
//! it, and looks at this one before and behind that.

use ringmill_engine::{Io, Next, Step};
use std::cell::RefCell;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is under way in one direction, at most.
const BYTES_MAX: usize = 128 * 1024;
/// A buffer that is empty and larger than this is given back.
const KEEP_BYTES_MAX: usize = 16 * 1024;

/// Both ends are the same.
#[derive(Clone, Default)]
pub(super) struct Wire(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    input: Vec<u8>,
    /// So many bytes of it were read.
    read: usize,
    is_input_over: bool,
    output: Vec<u8>,
    /// There was no room for all of the output.
    is_held: bool,
    /// What is sent is dropped.
    is_muted: bool,
}

impl Wire {
    /// Sends from the front of `bytes`; how many were taken.
    fn push(&self, bytes: &[u8]) -> usize {
        let mut state = self.0.borrow_mut();
        let taken = bytes.len().min(BYTES_MAX.saturating_sub(state.input.len() - state.read));
        if state.read == state.input.len() {
            state.forget_input();
        }
        state.input.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Sends all of `input`, as far as there is room, and has the session go on behind each part.
    pub(super) fn feed(&self, input: &[u8], mut go_on: impl FnMut() -> Next) -> Step {
        let mut taken = 0;
        loop {
            let pushed = self.push(&input[taken..]);
            taken += pushed;
            let next = go_on();
            if taken == input.len() || pushed == 0 || next != Next::Continue {
                let next = if next == Next::Continue && taken < input.len() { Next::Pause } else { next };
                return Step { consumed: taken, need: 0, next };
            }
        }
    }

    /// Nothing more is sent.
    pub(super) fn end(&self) {
        self.0.borrow_mut().is_input_over = true;
    }

    /// What the other end has sent and sends from now on is dropped.
    pub(super) fn mute(&self) {
        let mut state = self.0.borrow_mut();
        (state.output, state.is_muted) = (Vec::new(), true);
    }

    /// Moves output to the connection, at most so many bytes of it; whether there was room for something that had waited.
    pub(super) fn pour(&self, bytes_max: usize, io: &mut Io<'_>) -> bool {
        let mut state = self.0.borrow_mut();
        let bytes = bytes_max.min(state.output.len());
        if bytes == 0 {
            return false;
        }
        if bytes == state.output.len() {
            io.write_vec(&mut state.output);
            if state.output.is_empty() && state.output.capacity() > KEEP_BYTES_MAX {
                state.output = Vec::new();
            }
        } else {
            io.write(&state.output[..bytes]);
            state.output.drain(..bytes);
        }
        std::mem::take(&mut state.is_held)
    }

    /// What was sent to this end and is not poured.
    pub(super) fn output_bytes(&self) -> usize {
        self.0.borrow().output.len()
    }

    /// The memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        let state = self.0.borrow();
        state.input.capacity() + state.output.capacity()
    }
}

impl State {
    fn forget_input(&mut self) {
        self.read = 0;
        self.input.clear();
        if self.input.capacity() > KEEP_BYTES_MAX {
            self.input = Vec::new();
        }
    }

    fn write(&mut self, pieces: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        if self.is_muted {
            return Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()));
        }
        let mut room = BYTES_MAX.saturating_sub(self.output.len());
        if room == 0 {
            self.is_held = true;
            return Poll::Pending;
        }
        let before = self.output.len();
        for piece in pieces {
            let part = &piece[..piece.len().min(room)];
            self.output.extend_from_slice(part);
            room -= part.len();
        }
        Poll::Ready(Ok(self.output.len() - before))
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let mut state = self.0.borrow_mut();
        let rest = &state.input[state.read..];
        if rest.is_empty() {
            // Its session polls again when there is more.
            return if state.is_input_over { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        let bytes = rest.len().min(into.remaining());
        into.put_slice(&rest[..bytes]);
        state.read += bytes;
        if state.read == state.input.len() {
            state.forget_input();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        self.0.borrow_mut().write(&[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.0.borrow_mut().write(pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}
