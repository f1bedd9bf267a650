//! The seam for datagram protocols: one call for each datagram, answers in batches.

use crate::datagram::{Datagrams, Local};
use crate::event::Socket;
use crate::seam::names::Names;
use crate::session::shared::Shared;
use crate::time::Tick;
use std::net::SocketAddr;

/// A datagram protocol: one call for each datagram, answers in batches.
pub trait Datagram: 'static {
    /// A datagram of 0 to 65,507 bytes arrived.
    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>);

    /// The worker starts; nothing was received yet. A client sends its first datagrams here.
    fn start(&mut self, _io: &mut DatagramIo<'_>) {}

    /// The time set with [`DatagramIo::set_timer`] has come; it is no longer set.
    fn tick(&mut self, _io: &mut DatagramIo<'_>) {}
}

/// What a datagram protocol can do during a call.
pub struct DatagramIo<'a> {
    pub(crate) batch: &'a mut Datagrams,
    pub(crate) shared: &'a mut Shared,
    pub(crate) names: &'a dyn Names,
    pub(crate) socket: Socket,
    pub(crate) timer: &'a mut Tick,
    /// Who asked, and which of our addresses, where the socket has several.
    pub(crate) asked: Option<(SocketAddr, Local)>,
}

impl DatagramIo<'_> {
    /// Queues a datagram. `false` if it is longer than 65,507 bytes and was not queued, or if more than a batch
    /// waits already: answers to one datagram are bounded.
    ///
    /// What [`Datagram::datagram`] sends to where the datagram came from leaves from the address that was asked; a peer
    /// may take answers from no other (udp(7), connected sockets). Everything else leaves from the address that the route
    /// to `peer` has.
    pub fn send_to(&mut self, peer: SocketAddr, bytes: &[u8]) -> bool {
        let local = self.asked.filter(|(from, _)| *from == peer).map(|(_, local)| local);
        self.push(local, peer, bytes)
    }

    /// [`DatagramIo::send_to`] from an address of ours, for an answer that comes later: keep what
    /// [`DatagramIo::local`] was when the question came. Its port means nothing, the socket has one. The kernel refuses
    /// an address that is not ours any more, which is counted.
    pub fn send_from(&mut self, local: SocketAddr, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.push(Local::from_address(local), peer, bytes)
    }

    fn push(&mut self, local: Option<Local>, peer: SocketAddr, bytes: &[u8]) -> bool {
        !self.batch.is_full() && self.batch.push_from(local, peer, bytes)
    }

    /// Sets or clears this socket's one timer, which is exact: see [`Dialer::set_timer`](crate::Dialer::set_timer).
    pub fn set_timer(&mut self, at: Option<Tick>) {
        *self.timer = at.unwrap_or(Tick::NEVER);
    }

    /// Our address: the one that the socket is bound to, and during [`Datagram::datagram`] the one that was asked, also
    /// where the socket is bound to all of them. (Of a group, multicast or broadcast, it is the address of ours that
    /// stands for it; over IPv6 it stays unspecified.) Costs a system call.
    pub fn local(&self) -> Option<SocketAddr> {
        let bound = self.names.local(self.socket)?.ip()?;
        Some(self.asked.map_or(bound, |(_, local)| local.to_address(bound.port())))
    }

    /// The time of this turn.
    pub fn now(&self) -> Tick {
        self.shared.now
    }

    /// Seconds since 1970. Renewed once a second.
    pub fn unix_secs(&self) -> u64 {
        self.shared.wall.unix_secs()
    }

    /// Adds to the worker's count of requests.
    pub fn count_requests(&mut self, requests: u64) {
        self.shared.stats.live.requests.add(requests);
    }

    /// Adds to the worker's count of datagrams that were left unanswered on purpose.
    pub fn count_ignored(&mut self, datagrams: u64) {
        self.shared.stats.live.datagrams_ignored.add(datagrams);
    }
}
