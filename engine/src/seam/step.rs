//! What a session answers to a call. Pure.

/// What `data` did and what it wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// So many bytes from the front of the input are done.
    pub consumed: usize,
    /// Nothing can happen before so many bytes of the rest are there; 0 or 1 is any.
    pub need: usize,
    /// What follows.
    pub next: Next,
}

/// What a session wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read on (and resume, after a pause).
    Continue,
    /// Call `data` no more until a later call answers `Continue`; what comes meanwhile waits, up to one receive buffer of it with us
    /// and the rest with the kernel. That the peer has ended is told at once ([`Protocol::gone`](crate::Protocol::gone)).
    Pause,
    /// Close gracefully once the output is sent.
    Close,
    /// End the session here: what was written is sent, because all of it but the last may be whole, and then the peer sees a
    /// reset instead of the end of the stream. For what only a reset can tell to be cut.
    Abort,
}

impl Step {
    /// `bytes` from the front of the input are done; read on.
    pub const fn consumed(bytes: usize) -> Step {
        Step { consumed: bytes, need: 0, next: Next::Continue }
    }

    /// `bytes` are done, and nothing can happen before `need` bytes of the rest are there. A `need` beyond
    /// `Config::input_bytes_max` closes the connection.
    pub const fn need(bytes: usize, need: usize) -> Step {
        Step { consumed: bytes, need, next: Next::Continue }
    }

    /// `bytes` are done; call `data` no more until a later call answers `Continue`.
    pub const fn pause(bytes: usize) -> Step {
        Step { consumed: bytes, need: 0, next: Next::Pause }
    }

    /// Close once the output is sent.
    pub const fn close() -> Step {
        Step { consumed: 0, need: 0, next: Next::Close }
    }

    /// Nothing was consumed, because there was nothing: what answers a call without input.
    pub const fn next(next: Next) -> Step {
        Step { consumed: 0, need: 0, next }
    }

    /// End here, with a reset behind what was written.
    pub const fn abort() -> Step {
        Step { consumed: 0, need: 0, next: Next::Abort }
    }
}
