//! The simulated network: sockets as queues, and the peers at their other ends.

mod remote;

pub use remote::Answer;

use crate::address::Address;
use crate::datagram::{Datagrams, Entry, Local, SLOT_BYTES};
use crate::event::{Errno, Socket, Then};
use crate::output::Output;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// The first simulated socket number; event counters are real descriptors, far below.
const FIRST_SOCKET: i32 = 1 << 20;
/// What a peer's receive queue holds unless it says otherwise.
const WINDOW_BYTES: usize = 64 * 1024;

/// A handle to the network, for tests.
#[derive(Clone)]
pub struct Net(Rc<RefCell<World>>);

pub(super) struct World {
    sockets: BTreeMap<Socket, Kind>,
    next: i32,
    remotes: remote::Remotes,
}

enum Kind {
    Listener(VecDeque<Socket>),
    Stream(Stream),
    Datagrams(AtSocket),
}

/// What is at a datagram socket.
#[derive(Default)]
struct AtSocket {
    inbound: VecDeque<OneDatagram>,
    outbound: VecDeque<OneDatagram>,
    /// Whom it is connected with.
    peer: Option<SocketAddr>,
    /// What the network has said of that.
    error: Option<Errno>,
}

struct OneDatagram {
    peer: SocketAddr,
    local: Option<Local>,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Stream {
    inbound: VecDeque<u8>,
    /// The peer sends no more.
    inbound_end: bool,
    /// The peer reset the connection.
    reset_by_peer: bool,
    outbound: VecDeque<u8>,
    /// Bytes at the end of `outbound` that wait for the end of the stream, as a kernel may have it.
    kept_back: usize,
    window: usize,
    /// The server sends no more.
    outbound_end: bool,
    /// The server reset the connection.
    reset: bool,
    closed: bool,
    /// A fault ended it.
    broken: bool,
}

impl Net {
    pub(super) fn new() -> Net {
        Net(Rc::new(RefCell::new(World {
            sockets: BTreeMap::new(),
            next: FIRST_SOCKET,
            remotes: remote::Remotes::default(),
        })))
    }

    pub(super) fn world(&self) -> Rc<RefCell<World>> {
        self.0.clone()
    }

    /// A listening socket.
    pub fn listen(&self) -> Socket {
        self.0.borrow_mut().add(Kind::Listener(VecDeque::new()))
    }

    /// A datagram socket.
    pub fn datagram_socket(&self) -> Socket {
        self.0.borrow_mut().add(Kind::Datagrams(AtSocket::default()))
    }

    /// Connects; the connection waits in the listener's queue. `None` if nobody listens.
    pub fn connect(&self, listener: Socket) -> Option<Peer> {
        let mut world = self.0.borrow_mut();
        if !matches!(world.sockets.get(&listener), Some(Kind::Listener(_))) {
            return None;
        }
        let socket = world.add(Kind::Stream(Stream { window: WINDOW_BYTES, ..Stream::default() }));
        if let Some(Kind::Listener(queue)) = world.sockets.get_mut(&listener) {
            queue.push_back(socket);
        }
        drop(world);
        Some(Peer { net: self.clone(), socket })
    }

    /// Sends a datagram to a socket.
    pub fn send_datagram(&self, to: Socket, from: SocketAddr, bytes: &[u8]) {
        self.put_datagram(to, OneDatagram { peer: from, local: None, bytes: bytes.to_vec() });
    }

    /// Sends a datagram to one of the addresses of a socket that has all of them.
    pub fn send_datagram_to(&self, to: Socket, asked: IpAddr, from: SocketAddr, bytes: &[u8]) {
        let local = Local::new(asked, 0);
        self.put_datagram(to, OneDatagram { peer: from, local, bytes: bytes.to_vec() });
    }

    fn put_datagram(&self, to: Socket, datagram: OneDatagram) {
        if let Some(Kind::Datagrams(at)) = self.0.borrow_mut().sockets.get_mut(&to) {
            at.inbound.push_back(datagram);
        }
    }

    /// Takes the oldest datagram that waits at a socket, as another process would that has it too.
    #[cfg(test)]
    pub(in crate::driver) fn steal_datagram(&self, at: Socket) {
        if let Some(Kind::Datagrams(at)) = self.0.borrow_mut().sockets.get_mut(&at) {
            at.inbound.pop_front();
        }
    }

    /// Takes the oldest datagram a socket sent.
    pub fn take_datagram(&self, from: Socket) -> Option<(SocketAddr, Vec<u8>)> {
        self.take_datagram_from(from).map(|(_, peer, bytes)| (peer, bytes))
    }

    /// Takes the oldest datagram a socket sent, with the address it is to leave from; `None` leaves that to the route.
    pub fn take_datagram_from(&self, from: Socket) -> Option<(Option<IpAddr>, SocketAddr, Vec<u8>)> {
        match self.0.borrow_mut().sockets.get_mut(&from)? {
            Kind::Datagrams(at) => {
                at.outbound.pop_front().map(|sent| (sent.local.map(|local| local.ip), sent.peer, sent.bytes))
            }
            _ => None,
        }
    }

    /// How many sockets the driver has not closed.
    pub fn open_sockets(&self) -> usize {
        self.names_of_open_sockets().len()
    }

    /// What the open sockets are, for a message.
    pub fn names_of_open_sockets(&self) -> Vec<String> {
        let name = |(socket, kind): (&Socket, &Kind)| match kind {
            Kind::Listener(queue) => Some(format!("{socket:?}: listener, {} waiting", queue.len())),
            Kind::Stream(stream) if stream.closed => None,
            Kind::Stream(stream) => {
                Some(format!("{socket:?}: stream, {} bytes to receive", stream.inbound.len()))
            }
            Kind::Datagrams(_) => Some(format!("{socket:?}: datagrams")),
        };
        self.0.borrow().sockets.iter().filter_map(name).collect()
    }
}

/// The other end of a connection.
pub struct Peer {
    net: Net,
    socket: Socket,
}

impl Peer {
    /// Sends bytes; what the server closed takes no more.
    pub fn send(&self, bytes: &[u8]) {
        self.with(|stream| stream.inbound.extend(bytes));
    }

    /// Takes what has arrived.
    pub fn take(&self) -> Vec<u8> {
        self.with(|stream| stream.outbound.drain(..stream.outbound.len() - stream.kept_back).collect())
    }

    /// Holds at most so many bytes that were not taken; 0 is a peer that never reads.
    pub fn set_window(&self, bytes: usize) {
        self.with(|stream| stream.window = bytes);
    }

    /// Sends no more.
    pub fn shutdown(&self) {
        self.with(|stream| stream.inbound_end = true);
    }

    /// Resets the connection.
    pub fn reset(&self) {
        self.with(|stream| {
            stream.reset_by_peer = true;
            (stream.outbound, stream.kept_back) = (VecDeque::new(), 0);
        });
    }

    /// Whether everything was taken and the server sends no more.
    pub fn is_at_end(&self) -> bool {
        self.with(|stream| stream.outbound.is_empty() && (stream.outbound_end || stream.closed))
    }

    /// Whether the server's stream ended, and not with a reset.
    pub fn was_ended(&self) -> bool {
        self.with(|stream| stream.outbound_end || stream.closed && !stream.reset)
    }

    /// Whether a fault ended the connection: neither end is to blame.
    pub fn was_broken(&self) -> bool {
        self.with(|stream| stream.broken)
    }

    /// Whether the server reset the connection.
    pub fn was_reset(&self) -> bool {
        self.with(|stream| stream.reset)
    }

    /// Whether the server closed its socket.
    pub fn is_closed(&self) -> bool {
        self.with(|stream| stream.closed)
    }

    fn with<R>(&self, call: impl FnOnce(&mut Stream) -> R) -> R {
        match self.net.0.borrow_mut().sockets.get_mut(&self.socket) {
            Some(Kind::Stream(stream)) => call(stream),
            _ => unreachable!("a peer's stream stays in the world"),
        }
    }
}

impl World {
    fn add(&mut self, kind: Kind) -> Socket {
        let socket = Socket(self.next);
        self.next += 1;
        self.sockets.insert(socket, kind);
        socket
    }

    fn stream(&mut self, socket: Socket) -> &mut Stream {
        match self.sockets.get_mut(&socket) {
            Some(Kind::Stream(stream)) if !stream.closed => stream,
            _ => panic!("socket {socket:?} is not an open stream"),
        }
    }

    pub(super) fn has_input(&self, socket: Socket) -> bool {
        match self.sockets.get(&socket) {
            Some(Kind::Listener(queue)) => !queue.is_empty(),
            Some(Kind::Stream(stream)) => {
                !stream.inbound.is_empty() || stream.inbound_end || stream.reset_by_peer
            }
            Some(Kind::Datagrams(at)) => !at.inbound.is_empty() || at.error.is_some(),
            None => panic!("socket {socket:?} does not exist"),
        }
    }

    pub(super) fn has_room(&self, socket: Socket) -> bool {
        match self.sockets.get(&socket) {
            Some(Kind::Stream(stream)) => stream.reset_by_peer || stream.outbound.len() < stream.window,
            _ => true,
        }
    }

    /// What a send would take.
    pub(super) fn room_bytes(&self, socket: Socket) -> usize {
        match self.sockets.get(&socket) {
            Some(Kind::Stream(stream)) if !stream.reset_by_peer => {
                stream.window.saturating_sub(stream.outbound.len())
            }
            _ => 0,
        }
    }

    /// What the peer has not taken.
    pub(super) fn unacknowledged_bytes(&self, socket: Socket) -> usize {
        match self.sockets.get(&socket) {
            Some(Kind::Stream(stream)) if !stream.reset_by_peer => stream.outbound.len(),
            _ => 0,
        }
    }

    /// Whether the peer was told that nothing more comes.
    pub(super) fn is_shut(&self, socket: Socket) -> bool {
        matches!(self.sockets.get(&socket), Some(Kind::Stream(stream)) if stream.outbound_end)
    }

    /// What a receive could bring.
    pub(super) fn available_bytes(&self, socket: Socket) -> usize {
        match self.sockets.get(&socket) {
            Some(Kind::Stream(stream)) => stream.inbound.len(),
            _ => 0,
        }
    }

    /// Ends a connection as a reset on the way would.
    pub(super) fn break_off(&mut self, socket: Socket) {
        let stream = self.stream(socket);
        (stream.broken, stream.reset_by_peer) = (true, true);
    }

    /// Ends a connection that nobody has accepted.
    pub(super) fn abort(&mut self, socket: Socket) {
        let stream = self.stream(socket);
        (stream.broken, stream.reset, stream.closed) = (true, true, true);
    }

    pub(super) fn accept(&mut self, listener: Socket) -> Option<Socket> {
        match self.sockets.get_mut(&listener) {
            Some(Kind::Listener(queue)) => queue.pop_front(),
            _ => None,
        }
    }

    pub(super) fn recv(&mut self, socket: Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
        let stream = self.stream(socket);
        let bytes = buffer.len().min(stream.inbound.len());
        if stream.reset_by_peer {
            return Err(Errno::ECONNRESET);
        }
        if bytes == 0 && !stream.inbound_end {
            return Err(Errno::EAGAIN);
        }
        for (slot, byte) in buffer.iter_mut().zip(stream.inbound.drain(..bytes)) {
            *slot = byte;
        }
        Ok(bytes)
    }

    pub(super) fn send(
        &mut self,
        socket: Socket,
        output: &Output,
        max: usize,
        then: Then,
    ) -> Result<usize, Errno> {
        let stream = self.stream(socket);
        if stream.reset_by_peer {
            return Err(Errno::EPIPE);
        }
        assert!(!stream.outbound_end, "socket {socket:?} was shut down and sends");
        assert!(stream.kept_back == 0, "socket {socket:?} was to end and sends");
        let mut left = max.min(stream.window.saturating_sub(stream.outbound.len()));
        let before = stream.outbound.len();
        output.for_each(|slice| {
            let bytes = slice.len().min(left);
            left -= bytes;
            stream.outbound.extend(&slice[..bytes]);
        });
        let sent = stream.outbound.len() - before;
        if then == Then::End && sent == output.len() {
            stream.kept_back = sent;
        }
        Ok(sent)
    }

    pub(super) fn recv_datagrams(
        &mut self,
        socket: Socket,
        batch: &mut Datagrams,
        max: usize,
    ) -> Result<usize, Errno> {
        batch.reset_received();
        let Some(Kind::Datagrams(at)) = self.sockets.get_mut(&socket) else { return Err(Errno::EBADF) };
        if let Some(error) = at.error.take() {
            return Err(error);
        }
        let count = at.inbound.len().min(max);
        for (n, OneDatagram { peer, local, bytes }) in at.inbound.drain(..count).enumerate() {
            let start = n * SLOT_BYTES;
            batch.arena[start..start + bytes.len()].copy_from_slice(&bytes);
            batch.entries.push(Entry { peer, local, start, len: bytes.len(), segment: bytes.len() });
        }
        if count == 0 { Err(Errno::EAGAIN) } else { Ok(count) }
    }

    pub(super) fn send_datagrams(&mut self, socket: Socket, batch: &mut Datagrams) {
        let Some(Kind::Datagrams(at)) = self.sockets.get_mut(&socket) else { return };
        batch.done = batch.entries.len();
        if at.peer.is_some() {
            batch.failure = at.error.take();
            return self.send_on_flow(socket, batch);
        }
        batch.for_each_with_local(|peer, local, bytes| {
            at.outbound.push_back(OneDatagram { peer, local, bytes: bytes.to_vec() });
        });
    }

    pub(super) fn shutdown(&mut self, socket: Socket) {
        let stream = self.stream(socket);
        (stream.outbound_end, stream.kept_back) = (true, 0);
    }

    pub(super) fn close(&mut self, socket: Socket, reset: bool) {
        if let Some(Kind::Stream(stream)) = self.sockets.get_mut(&socket) {
            assert!(!stream.closed, "socket {socket:?} is closed twice");
            stream.closed = true;
            stream.reset = reset;
            if !stream.inbound.is_empty() {
                // The kernel resets then, and does not send what it kept back.
                stream.outbound.truncate(stream.outbound.len() - stream.kept_back);
            }
            stream.kept_back = 0;
            if reset {
                stream.outbound.clear();
            }
            // The peer may still read what was sent, so the stream stays.
            stream.inbound.clear();
        } else {
            match self.sockets.remove(&socket) {
                None => panic!("socket {socket:?} is closed twice"),
                // What waits in a listener's queue is reset.
                Some(Kind::Listener(queue)) => queue.into_iter().for_each(|waiting| self.abort(waiting)),
                Some(_) => {}
            }
        }
    }

    pub(super) fn peer_address(&self, socket: Socket) -> Option<Address> {
        matches!(self.sockets.get(&socket), Some(Kind::Stream(stream)) if !stream.reset_by_peer)
            .then(|| address(socket, 2))
    }

    pub(super) fn local_address(&self, socket: Socket) -> Option<Address> {
        self.sockets.contains_key(&socket).then(|| address(socket, 1))
    }
}

fn address(socket: Socket, host: u8) -> Address {
    Address::Ip(SocketAddr::from(([127, 0, 0, host], (socket.0 % 60_000) as u16 + 1)))
}
