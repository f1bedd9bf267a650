//! What a session may ask about its socket. Each answer is a system call.

use crate::address::Address;
use crate::event::Socket;

/// Who is at the ends of a socket, and what lies between them.
pub trait Names {
    /// The other end; `None` once it is gone.
    fn peer(&self, socket: Socket) -> Option<Address>;

    /// Our end.
    fn local(&self, socket: Socket) -> Option<Address>;

    /// Bytes that the kernel took from us and the peer has not acknowledged (SIOCOUTQ, tcp(7)).
    fn unacknowledged_bytes(&self, socket: Socket) -> usize;
}
