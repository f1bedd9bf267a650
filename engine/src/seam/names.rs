//! What a protocol may ask of sockets during a call. Each answer is a system call, which never waits.

use crate::address::Address;
use crate::event::{Errno, Socket};
use std::net::SocketAddr;

/// Who is at the ends of a socket, and what lies between them.
pub trait Names {
    /// The other end; `None` once it is gone.
    fn peer(&self, socket: Socket) -> Option<Address>;

    /// Our end.
    fn local(&self, socket: Socket) -> Option<Address>;

    /// Bytes that the kernel took from us and the peer has not acknowledged (SIOCOUTQ, tcp(7)).
    fn unacknowledged_bytes(&self, socket: Socket) -> usize;

    /// A new datagram socket that is connected to `peer`.
    fn flow_socket(&self, peer: SocketAddr) -> Result<Socket, Errno>;
}
