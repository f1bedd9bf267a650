//! Datagram sockets: a batch comes in, answers go out as a batch.
//!
//! Back-pressure: while answers wait to be sent, nothing more is received, and the kernel drops what does
//! not fit its queue. So at most one batch of answers is ever held.

use super::Worker;
use crate::datagram::{Datagrams, Local};
use crate::driver::Driver;
use crate::event::{Errno, Op, Socket};
use crate::seam::datagram::{Datagram, DatagramIo};
use crate::seam::names::Names;
use crate::session::shared::Shared;
use crate::time::Tick;
use crate::token::{Kind, Token};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// One datagram socket of this worker.
pub(super) struct DatagramSocket {
    socket: Socket,
    protocol: Box<dyn Datagram>,
    /// The receive batch; `None` while it is with the driver.
    incoming: Option<Box<Datagrams>>,
    /// Answers that wait for the send in flight.
    pending: Box<Datagrams>,
    /// The other send batch; `None` while it is with the driver.
    spare: Option<Box<Datagrams>>,
    /// When to call `tick`.
    timer: Tick,
    closing: bool,
    closed: bool,
}

impl DatagramSocket {
    pub(super) fn socket(&self) -> Socket {
        self.socket
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn timer(&self) -> Tick {
        self.timer
    }

    /// The protocol, and what it may do during a call.
    fn parts<'a>(
        &'a mut self,
        shared: &'a mut Shared,
        names: &'a dyn Names,
        asked: Option<(SocketAddr, Local)>,
    ) -> (&'a mut dyn Datagram, DatagramIo<'a>) {
        let (batch, timer) = (&mut self.pending, &mut self.timer);
        (&mut *self.protocol, DatagramIo { batch, shared, names, socket: self.socket, timer, asked })
    }

    /// Panics if the socket could go on and does not. Call it between turns.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn check(&self) {
        let (receiving, sending) = self.in_flight();
        assert!(
            receiving || self.closing || !self.pending.is_empty(),
            "datagrams are wanted and nothing receives"
        );
        assert!(sending || self.pending.is_empty(), "answers wait and nothing is sent");
        assert!(!self.closed || !(receiving || sending), "a datagram socket was closed while in use");
    }

    /// Whether the driver has the receive batch, and the send batch.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn in_flight(&self) -> (bool, bool) {
        (self.incoming.is_none(), self.spare.is_none())
    }
}

impl<D: Driver> Worker<D> {
    /// Adds a bound datagram socket, which the worker closes in the end, and the protocol behind it.
    pub(crate) fn add_datagrams(&mut self, socket: Socket, protocol: Box<dyn Datagram>) {
        self.datagrams.push(DatagramSocket {
            socket,
            protocol,
            incoming: Some(Box::new(Datagrams::for_receiving())),
            pending: Box::default(),
            spare: Some(Box::default()),
            timer: Tick::NEVER,
            closing: false,
            closed: false,
        });
    }

    /// Receives the next batch, unless answers of the last one still wait.
    pub(super) fn arm_datagrams(&mut self, index: usize) {
        let entry = &mut self.datagrams[index];
        if entry.closing || !entry.pending.is_empty() {
            return;
        }
        if let Some(batch) = entry.incoming.take() {
            let token = Token::new(Kind::RecvDatagrams, 0, index as u32);
            self.driver.submit(Op::RecvDatagrams { token, socket: entry.socket, batch });
        }
    }

    pub(super) fn on_datagrams(
        &mut self,
        index: usize,
        result: Result<u32, Errno>,
        mut batch: Box<Datagrams>,
    ) {
        let entry = &mut self.datagrams[index];
        let (mut received, mut panics) = (0, 0);
        if let Err(errno) = result
            && errno != Errno::ECANCELED
        {
            // An ICMP answer to something we sent, or a passing shortage. The socket itself is fine.
            tracing::debug!(%errno, "receiving datagrams");
        }
        batch.for_each_with_local(|from, local, bytes| {
            received += 1;
            let asked = local.map(|local| (from, local));
            let (protocol, mut io) = entry.parts(&mut self.shared, &self.driver, asked);
            let call = AssertUnwindSafe(|| protocol.datagram(from, bytes, &mut io));
            panics += u64::from(catch_unwind(call).is_err());
        });
        if panics > 0 {
            tracing::error!(panics, "datagram protocol code panicked");
            self.shared.stats.live.panics.add(panics);
        }
        self.shared.stats.live.datagrams_received.add(received);
        self.outbound.due_by(entry.timer);
        batch.reset_received();
        entry.incoming = Some(batch);
        self.send_datagrams(index);
        self.arm_datagrams(index);
        self.close_datagrams_when_idle(index);
    }

    pub(super) fn on_datagrams_sent(
        &mut self,
        index: usize,
        result: Result<u32, Errno>,
        mut batch: Box<Datagrams>,
    ) {
        let refused = u64::from(batch.refused);
        let sent = match result {
            Ok(count) => u64::from(count).saturating_sub(refused),
            Err(errno) => {
                tracing::debug!(%errno, "sending datagrams");
                0
            }
        };
        self.shared.stats.live.datagrams_sent.add(sent);
        self.shared.stats.live.datagrams_refused.add(batch.len() as u64 - sent);
        batch.reset_sent();
        self.datagrams[index].spare = Some(batch);
        self.send_datagrams(index);
        self.arm_datagrams(index);
        self.close_datagrams_when_idle(index);
    }

    /// Calls the protocol of a socket without a datagram, and sends what it wrote.
    pub(super) fn call_datagrams(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut dyn Datagram, &mut DatagramIo<'_>),
    ) {
        let entry = &mut self.datagrams[index];
        if entry.closing {
            return;
        }
        let (protocol, mut io) = entry.parts(&mut self.shared, &self.driver, None);
        let called = catch_unwind(AssertUnwindSafe(|| call(protocol, &mut io)));
        self.outbound.due_by(entry.timer);
        if called.is_err() {
            tracing::error!("datagram protocol code panicked");
            self.shared.stats.live.panics.add(1);
        }
        self.send_datagrams(index);
    }

    /// Calls the protocols whose timer has come.
    pub(super) fn tick_datagrams(&mut self, now: Tick) {
        for index in 0..self.datagrams.len() {
            if self.datagrams[index].timer <= now {
                self.datagrams[index].timer = Tick::NEVER;
                self.call_datagrams(index, |protocol, io| protocol.tick(io));
            }
        }
    }

    pub(super) fn close_datagrams(&mut self) {
        for index in 0..self.datagrams.len() {
            let entry = &mut self.datagrams[index];
            if !entry.closing {
                entry.closing = true;
                entry.timer = Tick::NEVER;
                if entry.incoming.is_none() || entry.spare.is_none() {
                    self.driver.submit(Op::CancelAll { socket: entry.socket });
                }
                self.close_datagrams_when_idle(index);
            }
        }
    }

    fn send_datagrams(&mut self, index: usize) {
        let entry = &mut self.datagrams[index];
        if entry.pending.is_empty() {
            return;
        }
        if let Some(spare) = entry.spare.take() {
            let batch = std::mem::replace(&mut entry.pending, spare);
            let token = Token::new(Kind::SendDatagrams, 0, index as u32);
            self.driver.submit(Op::SendDatagrams { token, socket: entry.socket, batch });
        }
    }

    fn close_datagrams_when_idle(&mut self, index: usize) {
        let entry = &mut self.datagrams[index];
        if entry.closing && !entry.closed && entry.incoming.is_some() && entry.spare.is_some() {
            entry.closed = true;
            self.driver.submit(Op::Close { socket: entry.socket, reset: false });
        }
    }
}
