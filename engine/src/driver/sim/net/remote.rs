//! Remote addresses that the worker connects to, by streams and by flows of datagrams, and how each answers.

use super::super::OutKind;
use super::{AtSocket, Kind, Net, OneDatagram, Peer, Stream, WINDOW_BYTES, World};
use crate::address::Address;
use crate::datagram::Datagrams;
use crate::event::{Errno, Socket};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;

/// What an address does with whoever connects to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is made; [`Net::take_connection`] has its other end.
    Accept,
    /// The attempt fails at once.
    Fail(Errno),
    /// Nothing, until another answer is set.
    Silence,
}

/// By address. One that was never set refuses.
#[derive(Default)]
pub(super) struct Remotes(HashMap<Address, Remote>);

struct Remote {
    answer: Answer,
    connected: VecDeque<Socket>,
    /// What came on flows, each with the flow's own address.
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
}

impl Net {
    /// Sets how an address answers, also those who wait already.
    pub fn set_remote(&self, address: Address, answer: Answer) {
        let mut world = self.0.borrow_mut();
        let remote = world.remotes.0.entry(address);
        let fresh = || Remote { answer, connected: VecDeque::new(), datagrams: VecDeque::new() };
        remote.or_insert_with(fresh).answer = answer;
    }

    /// Takes the oldest datagram that a flow brought to an address, with the address that it came from.
    pub fn take_from_flow(&self, remote: SocketAddr) -> Option<(SocketAddr, Vec<u8>)> {
        self.0.borrow_mut().remotes.0.get_mut(&Address::Ip(remote))?.datagrams.pop_front()
    }

    /// Sends a datagram from an address to where a flow came from. False where none is there any more that is connected with it.
    pub fn send_to_flow(&self, remote: SocketAddr, flow: SocketAddr, bytes: &[u8]) -> bool {
        let mut world = self.0.borrow_mut();
        let is_there = |socket: &Socket| super::address(*socket, 1) == Address::Ip(flow);
        let at = world.sockets.iter_mut().find_map(|(socket, kind)| match kind {
            Kind::Datagrams(at) if at.peer == Some(remote) && is_there(socket) => Some(at),
            _ => None,
        });
        at.map(|at| at.inbound.push_back(OneDatagram { peer: remote, local: None, bytes: bytes.to_vec() }))
            .is_some()
    }

    /// The other end of the oldest connection to an address that was not taken yet.
    pub fn take_connection(&self, address: &Address) -> Option<Peer> {
        let socket = self.0.borrow_mut().remotes.0.get_mut(address)?.connected.pop_front()?;
        Some(Peer { net: self.clone(), socket })
    }
}

impl World {
    pub(in crate::driver::sim) fn stream_socket(&mut self) -> Socket {
        self.add(Kind::Stream(Stream { window: WINDOW_BYTES, ..Stream::default() }))
    }

    pub(in crate::driver::sim) fn flow_socket(&mut self, peer: SocketAddr) -> Socket {
        self.add(Kind::Datagrams(AtSocket { peer: Some(peer), ..AtSocket::default() }))
    }

    /// Where nobody takes datagrams the socket hears of it.
    pub(super) fn send_on_flow(&mut self, socket: Socket, batch: &Datagrams) {
        let Address::Ip(from) = super::address(socket, 1) else { return };
        let mut error = None;
        batch.for_each(|peer, bytes| match self.remotes.0.get_mut(&Address::Ip(peer)) {
            Some(Remote { answer: Answer::Accept, datagrams, .. }) => {
                datagrams.push_back((from, bytes.to_vec()))
            }
            Some(Remote { answer: Answer::Silence, .. }) => {}
            Some(Remote { answer: Answer::Fail(errno), .. }) => error = Some(*errno),
            None => error = Some(Errno::ECONNREFUSED),
        });
        if let Some(Kind::Datagrams(at)) = self.sockets.get_mut(&socket) {
            at.error = error.or(at.error);
        }
    }

    /// Whether an operation that gives something away would come to an end now.
    pub(in crate::driver::sim) fn can_end(&self, socket: Socket, kind: &OutKind) -> bool {
        match kind {
            OutKind::Connect(address) => self.answers(address),
            OutKind::Send(..) | OutKind::Room => self.has_room(socket),
            OutKind::Fed(_) => false,
        }
    }

    fn answers(&self, address: &Address) -> bool {
        self.remotes.0.get(address).is_none_or(|remote| remote.answer != Answer::Silence)
    }

    pub(in crate::driver::sim) fn connect(
        &mut self,
        socket: Socket,
        address: &Address,
    ) -> Result<u32, Errno> {
        let Some(remote) = self.remotes.0.get_mut(address) else { return Err(Errno::ECONNREFUSED) };
        match remote.answer {
            Answer::Accept => {
                remote.connected.push_back(socket);
                Ok(0)
            }
            Answer::Fail(errno) => Err(errno),
            // Set while an answer was on its way already.
            Answer::Silence => Err(Errno::ETIMEDOUT),
        }
    }
}
