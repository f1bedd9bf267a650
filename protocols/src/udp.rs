//! Echo over UDP (RFC 862): every datagram goes back to where it came from.

use ringmill_engine::{Datagram, DatagramIo};
use std::net::SocketAddr;

/// Sends each datagram back.
#[derive(Clone, Copy, Debug, Default)]
pub struct UdpEcho {
    /// Where our socket is bound.
    own: Option<SocketAddr>,
}

impl Datagram for UdpEcho {
    fn start(&mut self, io: &mut DatagramIo<'_>) {
        self.own = io.local();
    }

    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        if !self.is_own(from) {
            io.count_requests(1);
            io.send_to(from, input);
        }
    }
}

impl UdpEcho {
    /// Whether an answer would come back to us, to be answered again, for ever: a forged sender can start that
    /// (CERT CA-1996-01). Port 0 cannot be answered at all.
    fn is_own(&self, from: SocketAddr) -> bool {
        let same = |own: SocketAddr| {
            from.port() == own.port() && (own.ip().is_unspecified() || own.ip() == from.ip())
        };
        from.port() == 0 || self.own.is_some_and(same)
    }
}
