//! The seam for datagram protocols: one call for each datagram, answers in batches.
//!
//! A protocol begins with one socket, and may open further ones that are connected with a peer each: flows. Whatever it writes in a
//! call, on any of its sockets, is sent behind the call.

use crate::bell::Waker;
use crate::datagram::Local;
use crate::datagram::sockets::{DatagramSockets, FlowId};
use crate::event::Errno;
use crate::gate::{Gate, Pass};
use crate::seam::names::Names;
use crate::session::shared::Shared;
use crate::time::Tick;
use std::net::{IpAddr, SocketAddr};

/// A datagram protocol: one call for each datagram, answers in batches.
pub trait Datagram: 'static {
    /// A datagram of 0 to 65,507 bytes arrived.
    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>);

    /// The worker starts, or this protocol joins it; nothing was received yet. A client sends its first datagrams here.
    fn start(&mut self, _io: &mut DatagramIo<'_>) {}

    /// The time set with [`DatagramIo::set_timer`] has come; it is no longer set.
    fn tick(&mut self, _io: &mut DatagramIo<'_>) {}

    /// A datagram came from the peer of a flow.
    fn received(&mut self, _flow: FlowId, _input: &[u8], _io: &mut DatagramIo<'_>) {}

    /// The network says that the peer of a flow cannot be reached: nobody listens there (ECONNREFUSED), there is no way to it, or a
    /// firewall is in the way. Something that was sent before is lost. The flow stays open.
    fn failed(&mut self, _flow: FlowId, _errno: Errno, _io: &mut DatagramIo<'_>) {}

    /// A waker of this value ([`DatagramIo::waker`]) was used. Several uses may become one call.
    fn wake(&mut self, _io: &mut DatagramIo<'_>) {}

    /// The engine is draining, or this protocol is to go: finish what is in progress, and say [`DatagramIo::finish`]. Called once.
    /// Datagrams and the timer come until then; at the drain deadline all is closed.
    fn drain(&mut self, io: &mut DatagramIo<'_>) {
        io.finish();
    }
}

/// What the worker knows of a datagram protocol.
pub(crate) struct Standing {
    /// Its number on this worker.
    pub(crate) number: u16,
    /// The socket it began with.
    pub(crate) socket: u32,
    /// When to call `tick`.
    pub(crate) timer: Tick,
    /// While it drains: when it is closed at the latest.
    pub(crate) drain_until: Option<Tick>,
    pub(crate) is_finished: bool,
    pub(crate) waker: Waker,
}

/// What a datagram protocol can do during a call.
pub struct DatagramIo<'a> {
    pub(crate) sockets: &'a mut DatagramSockets,
    pub(crate) shared: &'a mut Shared,
    pub(crate) names: &'a dyn Names,
    pub(crate) standing: &'a mut Standing,
    /// So many flows may be open in all.
    pub(crate) flows_max: usize,
    /// Who asked, and which of our addresses, where the socket has several.
    pub(crate) asked: Option<(SocketAddr, Local)>,
}

/// Why a flow could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlowRefusal {
    /// The worker has `Config::flows_max` flows, or `Config::connections_max` connections and flows.
    #[error("the limit of flows is reached")]
    Limit,
    /// The kernel's answer: no route, out of descriptors or ports.
    #[error("{0}")]
    Failed(Errno),
}

/// That a gate let somebody in, who is counted there until this is dropped.
pub struct Admission(#[expect(dead_code, reason = "it counts while it is there")] Option<Pass>);

impl DatagramIo<'_> {
    /// Queues a datagram. `false` if it is longer than 65,507 bytes and was not queued, or if more than a batch
    /// waits already: answers to one datagram are bounded.
    ///
    /// What [`Datagram::datagram`] sends to where the datagram came from leaves from the address that was asked; a peer
    /// may take answers from no other (udp(7), connected sockets). Everything else leaves from the address that the route
    /// to `peer` has.
    pub fn send_to(&mut self, peer: SocketAddr, bytes: &[u8]) -> bool {
        let local = self.asked.filter(|(from, _)| *from == peer).map(|(_, local)| local);
        self.sockets.push(self.standing.socket, local, peer, bytes)
    }

    /// [`DatagramIo::send_to`] from an address of ours, for an answer that comes later: keep what
    /// [`DatagramIo::local`] was when the question came. Its port means nothing, the socket has one. The kernel refuses
    /// an address that is not ours any more, which is counted.
    pub fn send_from(&mut self, local: SocketAddr, peer: SocketAddr, bytes: &[u8]) -> bool {
        self.sockets.push(self.standing.socket, Local::from_address(local), peer, bytes)
    }

    /// Opens a flow: a socket of its own that is connected with `peer`. Only what `peer` sends comes there, and what the network says of
    /// `peer`. It has a descriptor, and counts among the connections that `Config::connections_max` limits. Costs three system calls.
    pub fn open(&mut self, peer: SocketAddr) -> Result<FlowId, FlowRefusal> {
        if self.sockets.flows() >= self.flows_max || self.standing.is_finished {
            return Err(FlowRefusal::Limit);
        }
        let socket = self.names.flow_socket(peer).map_err(FlowRefusal::Failed)?;
        let index = self.sockets.add(socket, self.standing.number, Some(peer));
        self.shared.stats.live.flows.set(self.sockets.flows() as u64);
        self.shared.stats.live.flows_opened.add(1);
        self.sockets.at(index).and_then(|it| it.flow(index)).ok_or(FlowRefusal::Limit)
    }

    /// Queues a datagram for the peer of a flow. `false` if it was not queued: the flow is closed, the datagram too long, or too much
    /// waits already on this flow or on all of them.
    pub fn send_on(&mut self, flow: FlowId, bytes: &[u8]) -> bool {
        let Some(index) = self.sockets.of_flow(self.standing.number, flow) else { return false };
        let peer = self.sockets.at(index).and_then(|it| it.peer);
        peer.is_some_and(|peer| self.sockets.push(index, None, peer, bytes))
    }

    /// Closes a flow: nothing of it is told any more. What was queued before is sent, if the kernel takes it at once.
    pub fn close(&mut self, flow: FlowId) {
        if let Some(index) = self.sockets.of_flow(self.standing.number, flow) {
            self.sockets.close(index);
        }
    }

    /// This protocol is done: behind this call all its sockets are closed, and no call follows.
    pub fn finish(&mut self) {
        self.standing.is_finished = true;
    }

    /// A handle that can call [`Datagram::wake`] from any thread.
    pub fn waker(&self) -> Waker {
        self.standing.waker.clone()
    }

    /// Sets or clears the one timer of this protocol, which is exact: see [`Dialer::set_timer`](crate::Dialer::set_timer).
    pub fn set_timer(&mut self, at: Option<Tick>) {
        self.standing.timer = at.unwrap_or(Tick::NEVER);
    }

    /// Our address: the one that the first socket is bound to, and during [`Datagram::datagram`] the one that was asked, also
    /// where the socket is bound to all of them. (Of a group, multicast or broadcast, it is the address of ours that
    /// stands for it; over IPv6 it stays unspecified.) Costs a system call.
    pub fn local(&self) -> Option<SocketAddr> {
        let socket = self.sockets.at(self.standing.socket)?.socket;
        let bound = self.names.local(socket)?.ip()?;
        Some(self.asked.map_or(bound, |(_, local)| local.to_address(bound.port())))
    }

    /// Which of our addresses was asked, during [`Datagram::datagram`] of a socket that has all of them, for [`DatagramIo::send_from`].
    /// Costs nothing.
    pub fn asked(&self) -> Option<SocketAddr> {
        self.asked.map(|(_, local)| local.to_address(0))
    }

    /// Whether a gate lets in who is at this address. If so, it is counted there as long as the answer is kept; if not, that is counted
    /// by reason.
    pub fn admit(&mut self, gate: &Gate, ip: IpAddr) -> Option<Admission> {
        gate.ask(ip, self.shared.now, &self.shared.stats).ok().map(Admission)
    }

    /// The time of this turn.
    pub fn now(&self) -> Tick {
        self.shared.now
    }

    /// Seconds since 1970. Renewed once a second.
    pub fn unix_secs(&self) -> u64 {
        self.shared.wall.unix_secs()
    }

    /// The time since 1970 of this turn, as [`Io::unix_time`](crate::Io::unix_time) has it.
    pub fn unix_time(&self) -> std::time::Duration {
        self.shared.wall.unix_time(self.shared.now)
    }

    /// While this protocol drains: when it is closed at the latest.
    pub fn drain_deadline(&self) -> Option<Tick> {
        self.standing.drain_until
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
