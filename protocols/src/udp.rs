//! Echo over UDP (RFC 862): every datagram goes back to where it came from.
//!
//! Senders can be forged, and a datagram that claims to come from another server that answers everything would go back
//! and forth between the two for ever (CERT CA-1996-01; CVE-2024-2169). What is not answered, and how much a peer is
//! answered, bounds that.

mod budget;

use budget::Budgets;
use ringmill_engine::{Datagram, DatagramIo, Tick};
use std::hash::RandomState;
use std::net::SocketAddr;

/// Ports of services that answer whatever they get, if only with an error: echo, systat, daytime, qotd, chargen, time (RFC
/// 862, 866, 867, 865, 864, 868), DNS, TFTP and NTP: those of CVE-2024-2169. Nobody asks from port 0, nor can it be
/// answered.
const ANSWERING_PORTS: [u16; 10] = [0, 7, 11, 13, 17, 19, 37, 53, 69, 123];

/// Sends each datagram back, within what a peer may ask.
///
/// It is for loopback and test networks. On the open internet anybody could make it answer somebody else, with a forged
/// sender. A datagram whose sender is a port of a small service (echo, chargen, DNS and such) or our own is not
/// answered, and each peer only up to a rate: [`UdpEcho::with_peer_rate`]. `Counters::datagrams_ignored` counts the rest.
#[derive(Clone, Debug)]
pub struct UdpEcho {
    /// Where our socket is bound.
    own: Option<SocketAddr>,
    budgets: Option<Budgets>,
}

impl Default for UdpEcho {
    fn default() -> UdpEcho {
        UdpEcho { own: None, budgets: None }.with_peer_rate(UdpEcho::PEER_RATE)
    }
}

impl UdpEcho {
    /// The rate that holds where none is set, in datagrams a second.
    pub const PEER_RATE: u32 = 1000;

    /// Answers each peer, an IPv4 address or an IPv6 network of 64 bits, at most so many datagrams a second, after a burst
    /// of as many; 0 for no limit. A datagram of more than 1,500 bytes counts as one for each 1,500. Each value, so each
    /// worker, counts for itself. Peers are counted in a table of 4,096 places: some may have to share one.
    pub fn with_peer_rate(mut self, datagrams: u32) -> UdpEcho {
        self.budgets = (datagrams > 0).then(|| Budgets::new(datagrams, RandomState::new()));
        self
    }

    /// Whether a datagram is answered, which its sender then pays for.
    fn answers(&mut self, from: SocketAddr, bytes: usize, now: Tick) -> bool {
        // What we sent ourselves would come back to us.
        let is_own = |own: SocketAddr| {
            from.port() == own.port() && (own.ip().is_unspecified() || own.ip() == from.ip())
        };
        !ANSWERING_PORTS.contains(&from.port())
            && !self.own.is_some_and(is_own)
            && self.budgets.as_mut().is_none_or(|budgets| budgets.take(from.ip(), bytes, now))
    }
}

impl Datagram for UdpEcho {
    fn start(&mut self, io: &mut DatagramIo<'_>) {
        self.own = io.local();
    }

    fn datagram(&mut self, from: SocketAddr, input: &[u8], io: &mut DatagramIo<'_>) {
        if self.answers(from, input.len(), io.now()) {
            io.count_requests(1);
            io.send_to(from, input);
        } else {
            io.count_ignored(1);
        }
    }
}
