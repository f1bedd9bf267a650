//! Real sockets on loopback, for the drivers that have a kernel.

use super::fixture::{Fixture, Peer};
use crate::address::Address;
use crate::driver::Driver;
use crate::event::Socket;
use std::io::{ErrorKind, Read, Write};
use std::marker::PhantomData;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::IntoRawFd;
use std::time::Duration;

pub(super) trait Make {
    type Driver: Driver;
    fn refusal() -> Option<String> {
        None
    }
    fn limits_receives() -> bool {
        true
    }
    fn make(buffers: u16, bytes: usize) -> Self::Driver;
}

pub(super) struct Sockets<M: Make> {
    driver: M::Driver,
    datagrams: UdpSocket,
    remotes: Vec<TcpListener>,
    /// Kept so that their addresses stay taken.
    others: Vec<socket2::Socket>,
    make: PhantomData<M>,
}

impl<M: Make> Fixture for Sockets<M> {
    type Driver = M::Driver;
    type Peer = Client;

    fn refusal() -> Option<String> {
        M::refusal()
    }

    fn limits_receives() -> bool {
        M::limits_receives()
    }

    fn new(buffers: u16, bytes: usize) -> Self {
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        datagrams.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Sockets {
            driver: M::make(buffers, bytes),
            datagrams,
            remotes: Vec::new(),
            others: Vec::new(),
            make: PhantomData,
        }
    }

    fn driver(&mut self) -> &mut M::Driver {
        &mut self.driver
    }

    fn listener(&mut self) -> Socket {
        Socket(TcpListener::bind("127.0.0.1:0").unwrap().into_raw_fd())
    }

    fn connect(&mut self, listener: Socket) -> Client {
        let address = crate::sys::local(listener).unwrap().ip().unwrap();
        let peer = TcpStream::connect(address).unwrap();
        peer.set_nonblocking(true).unwrap();
        Client(Some(peer))
    }

    fn datagram_socket(&mut self) -> Socket {
        Socket(UdpSocket::bind("127.0.0.1:0").unwrap().into_raw_fd())
    }

    fn send_datagram(&mut self, to: Socket, bytes: &[u8]) {
        let to: SocketAddr = crate::sys::local(to).unwrap().ip().unwrap();
        assert_eq!(self.datagrams.send_to(bytes, to).unwrap(), bytes.len());
    }

    fn steal_datagram(&mut self, at: Socket) {
        crate::sys::recv(at, &mut [0; 512]).unwrap();
    }

    fn take_datagram(&mut self, _: Socket) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        let bytes = self.datagrams.recv(&mut buffer).unwrap();
        buffer.truncate(bytes);
        buffer
    }

    fn flow_remote(&mut self) -> SocketAddr {
        self.datagrams.local_addr().unwrap()
    }

    fn take_from_flow(&mut self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = vec![0; 65_536];
        let (bytes, from) = self.datagrams.recv_from(&mut buffer).unwrap();
        buffer.truncate(bytes);
        (from, buffer)
    }

    fn send_to_flow(&mut self, flow: SocketAddr, bytes: &[u8]) {
        self.datagrams.send_to(bytes, flow).unwrap();
    }

    fn remote(&mut self) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        self.remotes.push(listener);
        Address::Ip(address)
    }

    fn take_connection(&mut self, remote: &Address) -> Client {
        let found = self.remotes.iter().find(|listener| listener.local_addr().ok() == remote.ip()).unwrap();
        let (peer, _) = found.accept().unwrap();
        peer.set_nonblocking(true).unwrap();
        Client(Some(peer))
    }

    fn deaf(&mut self) -> Address {
        // Bound, so that nobody else gets the port, and not listening.
        let socket = self.bound();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        self.others.push(socket);
        Address::Ip(address)
    }

    fn silent(&mut self) -> Address {
        // A queue for one, and it is full: the kernel drops what else comes (listen(2)).
        let socket = self.bound();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        self.others.push(socket);
        self.others.push(TcpStream::connect(address).unwrap().into());
        Address::Ip(address)
    }
}

impl<M: Make> Sockets<M> {
    fn bound(&self) -> socket2::Socket {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket
    }
}

/// A connected client; `None` once it was reset.
pub(super) struct Client(Option<TcpStream>);

impl Client {
    fn stream(&mut self) -> &mut TcpStream {
        self.0.as_mut().expect("a client that was not reset")
    }
}

impl Peer for Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream().set_nonblocking(false).unwrap();
        self.stream().write_all(bytes).unwrap();
        self.stream().set_nonblocking(true).unwrap();
    }

    fn take(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        match self.stream().read_to_end(&mut all) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("{error}"),
            _ => all,
        }
    }

    fn shutdown(&mut self) {
        self.stream().shutdown(Shutdown::Write).unwrap();
    }

    fn reset(&mut self) {
        // Closing with no time to linger sends a reset (socket(7)).
        let stream = self.0.take().expect("reset once");
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn is_at_end(&mut self) -> bool {
        match self.stream().read(&mut [0; 4096]) {
            Ok(bytes) => bytes == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }
}
