//! Where to listen, and who is there: an IP address with a port, or a Unix socket's path.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 with a port.
    Ip(SocketAddr),
    /// A Unix stream socket: its path, empty for an unnamed peer.
    Unix(PathBuf),
}

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad address {text:?}: expected IP:PORT, [IPV6]:PORT, NAME:PORT or unix:PATH")]
pub struct BadAddress {
    text: String,
}

impl Address {
    /// The IP address and port, if it has them.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    /// Reads `127.0.0.1:80`, `[::1]:80`, `localhost:80` (the first address it resolves to) or `unix:/run/x.sock`.
    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let bad = || BadAddress { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad()) } else { Ok(Address::Unix(path.into())) };
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Ip(address));
        }
        let resolved = text.to_socket_addrs().map_err(|_| bad())?.next();
        resolved.map(Address::Ip).ok_or_else(bad)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Ip(address)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Ip(address) => write!(f, "{address}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_print() {
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/ringmill.sock"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["", "8080", "1.2.3.4", "unix:", "1.2.3.4:99999", "[::1]"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
