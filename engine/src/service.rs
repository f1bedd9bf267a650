//! One listener's protocol with its sessions, behind one virtual call an event.
//!
//! Sessions stay typed in a slab of their protocol, so a connection needs no box of its own. Panics of
//! protocol code end here: the caller learns of them as [`Panicked`].

use crate::conn::CloseReason;
use crate::dialer::{Dialer, Refusal};
use crate::protocol::{Io, Next, Protocol, Step};
use crate::time::Tick;
use slab::Slab;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The protocol panicked; the panic hook has already reported where.
#[derive(Debug)]
pub(crate) struct Panicked;

/// The calls besides `data`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call<'a> {
    Drained,
    /// With the input that was not consumed.
    Eof(&'a [u8]),
    Timeout,
    Wake,
    Drain,
    Shed,
}

pub(crate) trait Service {
    /// Opens a session and returns its key.
    fn open(&mut self, io: &mut Io<'_>) -> Result<u32, Panicked>;
    fn data(&mut self, session: u32, input: &[u8], io: &mut Io<'_>) -> Result<Step, Panicked>;
    fn call(&mut self, call: Call<'_>, session: u32, io: &mut Io<'_>) -> Result<Next, Panicked>;
    fn close(&mut self, session: u32, reason: CloseReason) -> Result<(), Panicked>;
    fn start(&mut self, dialer: Dialer) -> Result<(), Panicked>;
    /// Opens a session for an outbound connection and returns its key.
    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> Result<u32, Panicked>;
    fn refused(&mut self, tag: u64, refusal: Refusal) -> Result<(), Panicked>;
    fn tick(&mut self, now: Tick) -> Result<(), Panicked>;
}

pub(crate) struct Typed<P: Protocol> {
    protocol: P,
    sessions: Slab<P::Session>,
}

impl<P: Protocol> Typed<P> {
    pub(crate) fn new(protocol: P) -> Typed<P> {
        Typed { protocol, sessions: Slab::new() }
    }
}

// AssertUnwindSafe below: a panic may leave the session in a state that breaks its own rules, so the
// worker closes it and never calls it again. The protocol value is shared by the other sessions;
// its trait says that it stays in use.
impl<P: Protocol> Service for Typed<P> {
    fn open(&mut self, io: &mut Io<'_>) -> Result<u32, Panicked> {
        let session = guard(|| self.protocol.open(io))?;
        Ok(self.sessions.insert(session) as u32)
    }

    fn data(&mut self, session: u32, input: &[u8], io: &mut Io<'_>) -> Result<Step, Panicked> {
        let session = &mut self.sessions[session as usize];
        guard(|| {
            let step = self.protocol.data(session, input, io);
            assert!(step.consumed <= input.len(), "a protocol consumed more than it was given");
            step
        })
    }

    fn call(&mut self, call: Call<'_>, session: u32, io: &mut Io<'_>) -> Result<Next, Panicked> {
        let session = &mut self.sessions[session as usize];
        let protocol = &mut self.protocol;
        guard(|| match call {
            Call::Drained => protocol.drained(session, io),
            Call::Eof(rest) => protocol.eof(session, rest, io),
            Call::Timeout => protocol.timeout(session, io),
            Call::Wake => protocol.wake(session, io),
            Call::Drain => protocol.drain(session, io),
            Call::Shed => protocol.shed(session, io),
        })
    }

    fn close(&mut self, session: u32, reason: CloseReason) -> Result<(), Panicked> {
        let session = self.sessions.remove(session as usize);
        guard(|| self.protocol.closed(session, reason))
    }

    fn start(&mut self, dialer: Dialer) -> Result<(), Panicked> {
        guard(|| self.protocol.start(dialer))
    }

    fn connected(&mut self, tag: u64, io: &mut Io<'_>) -> Result<u32, Panicked> {
        let session = guard(|| self.protocol.connected(tag, io))?;
        Ok(self.sessions.insert(session) as u32)
    }

    fn refused(&mut self, tag: u64, refusal: Refusal) -> Result<(), Panicked> {
        guard(|| self.protocol.refused(tag, refusal))
    }

    fn tick(&mut self, now: Tick) -> Result<(), Panicked> {
        guard(|| self.protocol.tick(now))
    }
}

fn guard<R>(call: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Panicked)
}
