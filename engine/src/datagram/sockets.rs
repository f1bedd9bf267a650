//! The datagram sockets of a worker: what waits to be sent on each, and which of them is to be looked at. Pure data; the worker
//! (`worker/datagrams.rs`) receives, sends and closes.

use super::{DATAGRAM_BYTES_MAX, Datagrams, Entry, Local, QUEUED_BYTES_MAX};
use crate::event::Socket;
use crate::token::{Kind, Token};
use slab::Slab;
use std::net::SocketAddr;

/// Memory in batches that are kept for the next datagrams, in bytes.
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Names a flow of one worker, also after it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

/// One datagram socket.
pub(crate) struct DatagramSocket {
    pub(crate) socket: Socket,
    generation: u32,
    /// The protocol it belongs to.
    pub(crate) owner: u16,
    /// Where a flow leads; `None` for the socket that its protocol began with.
    pub(crate) peer: Option<SocketAddr>,
    /// What waits to be sent.
    pub(crate) pending: Option<Box<Datagrams>>,
    /// An operation waits for datagrams.
    pub(crate) is_awaiting: bool,
    /// An operation waits for room.
    pub(crate) is_blocked: bool,
    /// It is on the list of those to be looked at.
    is_listed: bool,
    pub(crate) end: End,
}

/// How far a socket is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    /// Nobody hears of it any more; it is closed once nothing waits on it.
    Closing,
    /// What waits on it was cancelled.
    Cancelled,
}

/// All of them.
#[derive(Default)]
pub(crate) struct DatagramSockets {
    all: Slab<DatagramSocket>,
    /// Those to be looked at: they have something to send, are new, or are to be closed.
    listed: Vec<u32>,
    flows: usize,
    generation: u32,
    /// What waits to be sent on all of them.
    queued_bytes: usize,
    #[expect(clippy::vec_box, reason = "the box is what is used again: it moves to its next owner as it is")]
    spare: Vec<Box<Datagrams>>,
    spare_bytes: usize,
}

impl DatagramSocket {
    pub(crate) fn token(&self, kind: Kind, index: u32) -> Token {
        Token::new(kind, self.generation, index)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.end == End::Open
    }

    /// The flow that it is, in this slot.
    pub(crate) fn flow(&self, index: u32) -> Option<FlowId> {
        self.peer.map(|_| FlowId { index, generation: self.generation })
    }
}

impl DatagramSockets {
    /// Adds a socket, which is to be looked at.
    pub(crate) fn add(&mut self, socket: Socket, owner: u16, peer: Option<SocketAddr>) -> u32 {
        self.generation = (self.generation + 1) % Token::GENERATIONS;
        self.flows += usize::from(peer.is_some());
        let index = self.all.insert(DatagramSocket {
            socket,
            generation: self.generation,
            owner,
            peer,
            pending: None,
            is_awaiting: false,
            is_blocked: false,
            is_listed: false,
            end: End::Open,
        }) as u32;
        self.list(index);
        index
    }

    /// Forgets a socket that was closed.
    pub(crate) fn remove(&mut self, index: u32) {
        let it = self.all.remove(index as usize);
        self.flows -= usize::from(it.peer.is_some());
        it.pending.into_iter().for_each(|pending| self.recycle(pending));
    }

    pub(crate) fn at(&self, index: u32) -> Option<&DatagramSocket> {
        self.all.get(index as usize)
    }

    pub(crate) fn at_mut(&mut self, index: u32) -> Option<&mut DatagramSocket> {
        self.all.get_mut(index as usize)
    }

    /// The socket of an operation, if it is still the same one.
    pub(crate) fn of_token(&mut self, token: Token) -> Option<&mut DatagramSocket> {
        self.at_mut(token.index()).filter(|it| it.generation == token.generation())
    }

    /// Where an open flow of this protocol is.
    pub(crate) fn of_flow(&self, owner: u16, flow: FlowId) -> Option<u32> {
        let is_meant =
            |it: &DatagramSocket| it.owner == owner && it.generation == flow.generation && it.is_open();
        self.at(flow.index).filter(|it| is_meant(it)).and(Some(flow.index))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &DatagramSocket)> {
        self.all.iter().map(|(index, it)| (index as u32, it))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those that a protocol opened.
    pub(crate) fn flows(&self) -> usize {
        self.flows
    }

    /// Queues a datagram on an open socket; `false` where too much waits, or where it is too long.
    pub(crate) fn push(&mut self, index: u32, local: Option<Local>, peer: SocketAddr, bytes: &[u8]) -> bool {
        let it = &mut self.all[index as usize];
        let is_flow = it.peer.is_some();
        let is_too_much = is_flow && self.queued_bytes >= QUEUED_BYTES_MAX;
        // Before a batch is taken: an empty one would be in the way of receiving.
        if is_too_much || bytes.len() > DATAGRAM_BYTES_MAX {
            return false;
        }
        if it.pending.is_none() {
            let mut batch = self.spare.pop().unwrap_or_default();
            self.spare_bytes -= batch.memory_bytes();
            batch.is_connected = is_flow;
            it.pending = Some(batch);
        }
        let Some(batch) = &mut it.pending else { return false };
        if batch.is_full() || !batch.push_from(local, peer, bytes) {
            return false;
        }
        self.queued_bytes += bytes.len() + size_of::<Entry>();
        self.list(index);
        true
    }

    /// Takes a batch back that was sent, or that nobody sends any more.
    pub(crate) fn recycle(&mut self, mut batch: Box<Datagrams>) {
        self.queued_bytes -= batch.queued_bytes();
        batch.reset_sent();
        if self.spare_bytes + batch.memory_bytes() <= SPARE_BYTES_MAX {
            self.spare_bytes += batch.memory_bytes();
            self.spare.push(batch);
        }
    }

    /// Closes a socket once it was looked at: what waits is sent before, if the kernel takes it.
    pub(crate) fn close(&mut self, index: u32) {
        let it = &mut self.all[index as usize];
        if it.is_open() {
            it.end = End::Closing;
            self.list(index);
        }
    }

    /// Closes all sockets of a protocol.
    pub(crate) fn close_all(&mut self, owner: u16) {
        let own = self.iter().filter(|(_, it)| it.owner == owner).map(|(index, _)| index);
        own.collect::<Vec<u32>>().into_iter().for_each(|index| self.close(index));
    }

    /// This socket is to be looked at.
    pub(crate) fn list(&mut self, index: u32) {
        let it = &mut self.all[index as usize];
        if !std::mem::replace(&mut it.is_listed, true) {
            self.listed.push(index);
        }
    }

    /// The next one to be looked at.
    pub(crate) fn next_listed(&mut self) -> Option<u32> {
        let index = self.listed.pop()?;
        if let Some(it) = self.at_mut(index) {
            it.is_listed = false;
        }
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_over_all_flows() {
        let (mut sockets, peer) = (DatagramSockets::default(), SocketAddr::from(([127, 0, 0, 1], 1)));
        let own = sockets.add(Socket(1), 0, None);
        assert!(!sockets.push(own, None, peer, &[0; DATAGRAM_BYTES_MAX + 1]));
        assert!(sockets.at(own).is_some_and(|it| it.pending.is_none()), "nothing waits");
        let flows = [2, 3].map(|fd| sockets.add(Socket(fd), 0, Some(peer)));
        let fill = |sockets: &mut DatagramSockets, index| {
            (0..).take_while(|_| sockets.push(index, None, peer, &[0; 60_000])).count()
        };
        let first = fill(&mut sockets, flows[0]);
        assert!((QUEUED_BYTES_MAX / 60_100..=QUEUED_BYTES_MAX / 60_000 + 1).contains(&first), "{first}");
        assert_eq!(fill(&mut sockets, flows[1]), 0, "the other one has filled the room");
        assert!(fill(&mut sockets, own) > 100, "answers have a room of their own");
        let batch = sockets.at_mut(flows[0]).and_then(|it| it.pending.take()).unwrap();
        let own_batch = sockets.at_mut(own).and_then(|it| it.pending.take()).unwrap();
        sockets.recycle(batch);
        sockets.recycle(own_batch);
        assert_eq!(sockets.queued_bytes, 0);
        assert!(sockets.spare_bytes <= SPARE_BYTES_MAX, "{}", sockets.spare_bytes);
        assert!(sockets.push(flows[1], None, peer, b"room again"));
    }

    #[test]
    fn a_flow_is_known_to_its_protocol_and_while_it_is_open() {
        let (mut sockets, peer) = (DatagramSockets::default(), SocketAddr::from(([127, 0, 0, 1], 1)));
        let index = sockets.add(Socket(1), 3, Some(peer));
        let flow = sockets.at(index).and_then(|it| it.flow(index)).unwrap();
        assert_eq!((sockets.of_flow(3, flow), sockets.of_flow(2, flow)), (Some(index), None));
        sockets.close(index);
        assert_eq!(sockets.of_flow(3, flow), None);
        // Listed once, however often something happens.
        assert_eq!((sockets.next_listed(), sockets.next_listed()), (Some(index), None));
        sockets.remove(index);
        let again = sockets.add(Socket(1), 3, Some(peer));
        assert_eq!((again, sockets.of_flow(3, flow)), (index, None), "another tenant of the slot");
    }
}
