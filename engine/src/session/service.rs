//! One listener's protocol with its sessions, behind one virtual call an event.
//!
//! Sessions stay typed in a slab of their protocol, so a connection needs no box of its own. Panics of
//! protocol code end here: the caller learns of them as [`Panicked`].

use super::calls::{Callee, Panicked};
use super::life::CloseReason;
use super::shared::Shared;
use crate::seam::io::Io;
use crate::seam::layer::{Call, Layer, Notice, Origin, Reclaim};
use crate::seam::step::Step;
use slab::Slab;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) trait Service {
    /// Opens a session and returns its key.
    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Result<u32, Panicked>;
    fn call(&mut self, session: u32, call: Call<'_>, io: &mut Io<'_>) -> Result<Step, Panicked>;
    fn close(&mut self, session: u32, reason: CloseReason, shared: &mut Shared) -> Result<(), Panicked>;
    fn notice(&mut self, notice: Notice) -> Result<(), Panicked>;
}

/// One session of a service.
pub(crate) struct Seat<'a> {
    pub(crate) service: &'a mut dyn Service,
    pub(crate) session: u32,
}

impl Callee for Seat<'_> {
    #[inline]
    fn call(&mut self, call: Call<'_>, io: &mut Io<'_>) -> Result<Step, Panicked> {
        self.service.call(self.session, call, io)
    }
}

pub(crate) struct Typed<L: Layer> {
    protocol: L,
    sessions: Slab<L::Session>,
}

impl<L: Layer> Typed<L> {
    pub(crate) fn new(protocol: L) -> Typed<L> {
        Typed { protocol, sessions: Slab::new() }
    }
}

// AssertUnwindSafe below: a panic may leave the session in a state that breaks its own rules, so the
// worker closes it and never calls it again. The protocol value is shared by the other sessions;
// its trait says that it stays in use.
impl<L: Layer> Service for Typed<L> {
    fn open(&mut self, origin: Origin, io: &mut Io<'_>) -> Result<u32, Panicked> {
        let session = guard(|| self.protocol.open(origin, io))?;
        Ok(self.sessions.insert(session) as u32)
    }

    fn call(&mut self, session: u32, call: Call<'_>, io: &mut Io<'_>) -> Result<Step, Panicked> {
        let session = &mut self.sessions[session as usize];
        let input_bytes = call.input_bytes();
        guard(|| {
            let step = self.protocol.call(session, call, io);
            assert!(step.consumed <= input_bytes, "a protocol consumed more than it was given");
            step
        })
    }

    fn close(&mut self, session: u32, reason: CloseReason, shared: &mut Shared) -> Result<(), Panicked> {
        let session = self.sessions.remove(session as usize);
        guard(|| self.protocol.closed(session, reason, &mut Reclaim(shared)))
    }

    fn notice(&mut self, notice: Notice) -> Result<(), Panicked> {
        guard(|| self.protocol.notice(notice))
    }
}

/// Keeps a panic of protocol code from its caller.
pub(crate) fn guard<R>(call: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|_| Panicked)
}
