//! The simulated driver, once as it is meant and once with faults that a kernel may make.

use super::fixture::{Fixture, Peer};
use crate::address::Address;
use crate::driver::sim::{self, Answer, Chaos, Net, Sim};
use crate::event::{Errno, Socket};
use std::net::SocketAddr;

pub(super) struct Simulated<const WILD: bool> {
    driver: Sim,
    net: Net,
}

impl<const WILD: bool> Fixture for Simulated<WILD> {
    type Driver = Sim;
    type Peer = sim::Peer;

    fn new(buffers: u16, bytes: usize) -> Self {
        let chaos = if WILD { Chaos::SHORT } else { Chaos::CALM };
        let (driver, net) = Sim::new(7, chaos, buffers, bytes);
        Simulated { driver, net }
    }

    fn driver(&mut self) -> &mut Sim {
        &mut self.driver
    }

    fn listener(&mut self) -> Socket {
        self.net.listen()
    }

    fn connect(&mut self, listener: Socket) -> sim::Peer {
        self.net.connect(listener).unwrap()
    }

    fn datagram_socket(&mut self) -> Socket {
        self.net.datagram_socket()
    }

    fn send_datagram(&mut self, to: Socket, bytes: &[u8]) {
        self.net.send_datagram(to, SocketAddr::from(([127, 0, 0, 1], 9)), bytes);
    }

    fn steal_datagram(&mut self, at: Socket) {
        self.net.steal_datagram(at);
    }

    fn take_datagram(&mut self, from: Socket) -> Vec<u8> {
        self.net.take_datagram(from).expect("a simulated datagram arrives at once").1
    }

    fn flow_remote(&mut self) -> SocketAddr {
        self.answering(4, Answer::Accept).ip().expect("an IP address")
    }

    fn take_from_flow(&mut self) -> (SocketAddr, Vec<u8>) {
        let remote = self.flow_remote();
        self.net.take_from_flow(remote).expect("a simulated datagram arrives at once")
    }

    fn send_to_flow(&mut self, flow: SocketAddr, bytes: &[u8]) {
        let remote = self.flow_remote();
        assert!(self.net.send_to_flow(remote, flow, bytes));
    }

    fn remote(&mut self) -> Address {
        self.answering(1, Answer::Accept)
    }

    fn take_connection(&mut self, remote: &Address) -> sim::Peer {
        self.net.take_connection(remote).expect("it was connected")
    }

    fn deaf(&mut self) -> Address {
        self.answering(2, Answer::Fail(Errno::ECONNREFUSED))
    }

    fn silent(&mut self) -> Address {
        self.answering(3, Answer::Silence)
    }
}

impl<const WILD: bool> Simulated<WILD> {
    fn answering(&mut self, port: u16, answer: Answer) -> Address {
        let address = Address::Ip(SocketAddr::from(([127, 0, 0, 3], port)));
        self.net.set_remote(address.clone(), answer);
        address
    }
}

impl Peer for sim::Peer {
    fn send(&mut self, bytes: &[u8]) {
        sim::Peer::send(self, bytes);
    }

    fn take(&mut self) -> Vec<u8> {
        sim::Peer::take(self)
    }

    fn shutdown(&mut self) {
        sim::Peer::shutdown(self);
    }

    fn reset(&mut self) {
        sim::Peer::reset(self);
    }

    fn is_at_end(&mut self) -> bool {
        sim::Peer::is_at_end(self)
    }
}

mod calm {
    use super::Simulated;
    all_cases!(Simulated<false>);
}

mod wild {
    use super::Simulated;
    all_cases!(Simulated<true>);
}
