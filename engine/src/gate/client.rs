//! What counts as one client, and as the network around it. Pure.

use std::net::IpAddr;

/// One client, as far as addresses tell: an address of IPv4, or a /64 of IPv6, of which who has one address has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey(Key);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    V4(u32),
    V6(u64),
    V4Around(u32),
    V6Around(u64),
}

impl ClientKey {
    /// Of this address. One of IPv4 in the form of IPv6 is one of IPv4.
    pub fn of(ip: IpAddr) -> ClientKey {
        ClientKey(match ip.to_canonical() {
            IpAddr::V4(ip) => Key::V4(ip.to_bits()),
            IpAddr::V6(ip) => Key::V6((ip.to_bits() >> 64) as u64),
        })
    }

    /// The network around it: a /24 of IPv4, a /48 of IPv6.
    pub(super) fn around(self) -> ClientKey {
        ClientKey(match self.0 {
            Key::V4(ip) => Key::V4Around(ip >> 8),
            Key::V6(network) => Key::V6Around(network >> 16),
            Key::V4Around(_) | Key::V6Around(_) => self.0,
        })
    }
}
