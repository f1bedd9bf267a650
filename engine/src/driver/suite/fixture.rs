//! What a case needs of a driver: sockets of its kind, and who is at their other ends.

use crate::address::Address;
use crate::driver::Driver;
use crate::event::Socket;
use std::net::SocketAddr;

/// A driver with the other ends of its sockets.
pub(super) trait Fixture: Sized {
    type Driver: Driver;
    type Peer: Peer;

    /// Why the driver cannot be used on this machine, if it cannot.
    fn refusal() -> Option<String> {
        None
    }
    /// Whether the kernel can do what is asked of `Op::Recv` with `is_limited`.
    fn limits_receives() -> bool {
        true
    }
    fn new(buffers: u16, bytes: usize) -> Self;
    fn driver(&mut self) -> &mut Self::Driver;
    fn listener(&mut self) -> Socket;
    fn connect(&mut self, listener: Socket) -> Self::Peer;
    fn datagram_socket(&mut self) -> Socket;
    fn send_datagram(&mut self, to: Socket, bytes: &[u8]);
    /// Takes the datagram that waits at a socket of the driver, as another process would that has it too.
    fn steal_datagram(&mut self, at: Socket);
    /// Waits for the next datagram that `from` sent.
    fn take_datagram(&mut self, from: Socket) -> Vec<u8>;
    /// An address that takes datagrams of flows.
    fn flow_remote(&mut self) -> SocketAddr;
    /// Waits for the next datagram that came there, with the address it came from.
    fn take_from_flow(&mut self) -> (SocketAddr, Vec<u8>);
    /// Sends a datagram from there.
    fn send_to_flow(&mut self, flow: SocketAddr, bytes: &[u8]);
    /// An address that takes connections.
    fn remote(&mut self) -> Address;
    /// The other end of the connection that was made to it.
    fn take_connection(&mut self, remote: &Address) -> Self::Peer;
    /// An address where nobody listens.
    fn deaf(&mut self) -> Address;
    /// An address that does not answer.
    fn silent(&mut self) -> Address;
}

pub(super) trait Peer {
    fn send(&mut self, bytes: &[u8]);
    /// What has arrived by now.
    fn take(&mut self) -> Vec<u8>;
    fn shutdown(&mut self);
    fn reset(&mut self);
    /// Whether the server's end was seen, or a reset.
    fn is_at_end(&mut self) -> bool;
}
