//! Where to listen, and who is there: an IP address with a port, or the name of a Unix socket.

use crate::sys::interface::interface_index;
use std::ffi::OsStr;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 with a port.
    Ip(SocketAddr),
    /// A Unix stream socket: its path, empty for an unnamed peer.
    Unix(PathBuf),
    /// A Unix stream socket in the abstract namespace of Linux (unix(7)): its name without the leading zero byte. It has no
    /// file and no permissions: whoever is in the same network namespace can connect. It ends with its last descriptor.
    Abstract(Vec<u8>),
}

/// The text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bad address {text:?}: {problem}")]
pub struct BadAddress {
    text: String,
    problem: String,
}

const EXPECTED: &str =
    "expected IP:PORT, [IPV6]:PORT, [IPV6%INTERFACE]:PORT, NAME:PORT, unix:PATH or unix:@NAME";

impl Address {
    /// Reads a name as `sun_path` has it (unix(7)), with zero bytes behind it or without: a path up to the first one, or an abstract
    /// name behind one. Where it says no length, zero bytes at the end of an abstract name are taken for padding.
    pub fn from_sun_path(name: &[u8]) -> Address {
        let name_bytes = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match name[..name_bytes].split(|byte| *byte == 0).next() {
            Some(b"") if name_bytes > 0 => Address::Abstract(name[1..name_bytes].to_vec()),
            Some(path) => Address::Unix(PathBuf::from(OsStr::from_bytes(path))),
            None => Address::Unix(PathBuf::new()),
        }
    }

    /// The IP address and port, if it has them.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) | Address::Abstract(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    /// Reads `127.0.0.1:80`, `[::1]:80`, `[fe80::1%eth0]:80` (an interface by name or number, RFC 4007, section 11),
    /// `localhost:80` (the first address it resolves to), `unix:/run/x.sock`, or `unix:@x` for a name in the abstract
    /// namespace; a file that is called so is `unix:./@x`.
    fn from_str(text: &str) -> Result<Address, BadAddress> {
        let bad = |problem: String| BadAddress { text: text.to_owned(), problem };
        let expected = || bad(EXPECTED.to_owned());
        match text.strip_prefix("unix:").map(|name| (name, name.strip_prefix('@'))) {
            Some(("", _) | (_, Some(""))) => return Err(expected()),
            Some((_, Some(name))) => return Ok(Address::Abstract(name.into())),
            Some((path, None)) => return Ok(Address::Unix(path.into())),
            None => {}
        }
        if let Some((ip, zone, port)) = split_zone(text) {
            let (Ok(ip), Ok(port)) = (ip.parse(), port.parse()) else { return Err(expected()) };
            let scope = zone_index(zone).ok_or_else(|| {
                bad(format!("there is no network interface {zone:?} here; `ip link` lists them"))
            })?;
            let scope = if needs_zone(ip) { scope } else { 0 };
            return Ok(Address::Ip(SocketAddrV6::new(ip, port, 0, scope).into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Address::Ip(address));
        }
        let resolved = text.to_socket_addrs().map_err(|_| expected())?.next();
        resolved.map(Address::Ip).ok_or_else(expected)
    }
}

/// The parts of `[IP%ZONE]:PORT`.
fn split_zone(text: &str) -> Option<(&str, &str, &str)> {
    let (host, port) = text.strip_prefix('[')?.split_once("]:")?;
    let (ip, zone) = host.split_once('%')?;
    Some((ip, zone, port))
}

fn zone_index(zone: &str) -> Option<u32> {
    zone.parse().ok().or_else(|| interface_index(zone))
}

/// Whether an address means something else on each interface. Elsewhere a zone says nothing, and the kernel drops it (RFC 4007,
/// section 6): keeping it would make two addresses of one.
pub(crate) fn needs_zone(ip: Ipv6Addr) -> bool {
    // Of multicast addresses those that stay on the interface or the link (RFC 4291, section 2.7).
    ip.is_unicast_link_local() || matches!(ip.segments()[0] & 0xff0f, 0xff01 | 0xff02)
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Ip(address)
    }
}

impl std::fmt::Display for Address {
    /// What `from_str` reads as the same address, where the name is text: an interface is its number.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Ip(address) => write!(f, "{address}"),
            Address::Unix(path) if path.as_os_str().as_encoded_bytes().starts_with(b"@") => {
                write!(f, "unix:./{}", path.display())
            }
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_unix_sockets_end_at_a_zero_byte() {
        let check =
            |name: &[u8], printed: &str| assert_eq!(Address::from_sun_path(name).to_string(), printed);
        check(b"/run/a", "unix:/run/a");
        check(b"/run/a\0\0", "unix:/run/a");
        check(b"/run/a\0rest", "unix:/run/a");
        check(b"\0name\0\0", "unix:@name");
        check(b"\0na\0me", "unix:@na\0me");
        check(b"", "unix:");
        check(b"\0\0", "unix:");
    }

    #[test]
    fn addresses_read_as_they_print() {
        let check = |text: &str, printed: &str| {
            let address: Address = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse(), Ok(address));
        };
        for text in ["127.0.0.1:8080", "[::1]:0", "unix:/run/ringmill.sock", "unix:@ringmill", "unix:./@file"]
        {
            check(text, text);
        }
        // The loopback interface is the first of every machine.
        check("[fe80::1%lo]:80", "[fe80::1%1]:80");
        check("[ff02::1%lo]:80", "[ff02::1%1]:80");
        check("[fe80::1%7]:80", "[fe80::1%7]:80");
        check("[::1%lo]:80", "[::1]:80");
        let unusual = Address::Unix("@file".into());
        assert_eq!(unusual.to_string(), "unix:./@file");
        for text in [
            "",
            "8080",
            "1.2.3.4",
            "unix:",
            "unix:@",
            "1.2.3.4:99999",
            "[::1]",
            "[::1%lo]",
            "[::1%lo]:x",
            "[x%lo]:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let unknown = "[fe80::1%nonesuch]:80".parse::<Address>().unwrap_err().to_string();
        assert!(unknown.contains("no network interface \"nonesuch\""), "{unknown}");
    }
}
