//! Networks as people write them, and who is in one.

use crate::address::Address;
use ipnet::IpNet;
use std::net::IpAddr;
use std::str::FromStr;

/// A network of peers: `10.0.0.0/8`, `2001:db8::/32`, one address, or `unix` for whoever connects to a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(Peers);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peers {
    Ip(IpNet),
    /// They have no address; who may connect is a matter of the file's permissions.
    Unix,
}

/// The text is no network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadNetwork(String);

impl Network {
    /// Whether a peer is in it. An IPv4 peer of a listener for both families is one here too.
    pub fn contains(&self, peer: &Address) -> bool {
        match (self.0, peer) {
            (Peers::Ip(network), Address::Ip(peer)) => network.contains(&peer.ip().to_canonical()),
            (Peers::Unix, Address::Unix(_) | Address::Abstract(_)) => true,
            (Peers::Ip(_), _) | (Peers::Unix, _) => false,
        }
    }

    /// Its addresses; `None` for whoever connects to a Unix socket.
    pub fn ip(&self) -> Option<IpNet> {
        match self.0 {
            Peers::Ip(network) => Some(network),
            Peers::Unix => None,
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Network, BadNetwork> {
        if text == "unix" {
            return Ok(Network(Peers::Unix));
        }
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let Ok(network) = address.or_else(|_| text.parse::<IpNet>()) else {
            let expected = "expected a network such as 10.0.0.0/8 or 2001:db8::/32, an address, or unix";
            return Err(BadNetwork(expected.to_owned()));
        };
        // One of them is not meant: the address, or the length.
        if network.trunc() != network {
            return Err(BadNetwork(format!(
                "{text} has bits behind its prefix: write {} for that network, or {} for that address",
                network.trunc(),
                network.addr()
            )));
        }
        if is_mapped(&network) {
            return Err(BadNetwork(format!("{text} means IPv4 addresses: write them as IPv4")));
        }
        Ok(Network(Peers::Ip(network)))
    }
}

/// Whether it lies within ::ffff:0:0/96. Peers there are taken for what they are, so that it would never match.
fn is_mapped(network: &IpNet) -> bool {
    matches!(network, IpNet::V6(network) if network.addr().to_ipv4_mapped().is_some())
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Peers::Ip(network) => network.fmt(f),
            Peers::Unix => f.write_str("unix"),
        }
    }
}

impl std::fmt::Display for BadNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadNetwork {}
