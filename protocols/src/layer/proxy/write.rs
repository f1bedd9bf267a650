//! Headers of the PROXY protocol for the server behind us. Pure.

use super::binary::SIGNATURE;
use ringmill_engine::Address;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt;

/// Which version of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// The size of `sun_path` (unix(7)).
const UNIX_BYTES: usize = 108;
/// The type of the vector with the name that the client asked for (section 2.2.2).
const AUTHORITY: u8 = 2;

/// Appends a header that says whose connection this is, and where it was made to; version 2 also the name that was asked for. Where
/// the two addresses are not both known and of one kind, it says that they are unknown.
pub fn write_header(
    version: Version,
    peer: Option<&Address>,
    local: Option<&Address>,
    authority: Option<&str>,
    out: &mut Vec<u8>,
) {
    let ips =
        peer.and_then(Address::ip).zip(local.and_then(Address::ip)).map(|(peer, local)| alike(peer, local));
    match version {
        Version::One => write_line(ips, out),
        Version::Two => {
            let unix = peer.and_then(sun_path).zip(local.and_then(sun_path));
            write_block(ips, unix, authority, out);
        }
    }
}

/// The header of a connection that we make for ourselves, such as one that checks a server: it speaks of nobody.
pub fn write_own_header(version: Version, out: &mut Vec<u8>) {
    match version {
        Version::One => write_line(None, out),
        Version::Two => out.extend_from_slice(&[SIGNATURE, &[0x20, 0, 0, 0]].concat()),
    }
}

/// The same addresses in one family.
fn alike(peer: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let ends = (canonical(peer), canonical(local));
    if ends.0.is_ipv4() == ends.1.is_ipv4() {
        return ends;
    }
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (mapped(ends.0), mapped(ends.1))
}

fn write_line(ips: Option<(SocketAddr, SocketAddr)>, out: &mut Vec<u8>) {
    let Some((peer, local)) = ips else { return out.extend_from_slice(b"PROXY UNKNOWN\r\n") };
    let family = if peer.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (peer.ip(), local.ip());
    write!(out, "PROXY {family} {from} {to} {} {}\r\n", peer.port(), local.port()).expect("a Vec takes all");
}

fn write_block(
    ips: Option<(SocketAddr, SocketAddr)>,
    unix: Option<([u8; UNIX_BYTES], [u8; UNIX_BYTES])>,
    authority: Option<&str>,
    out: &mut Vec<u8>,
) {
    let (mut block, mut family) = (Vec::new(), 0);
    if let Some((peer, local)) = ips {
        for end in [peer, local] {
            match end.ip() {
                IpAddr::V4(ip) => (family, _) = (0x11, block.extend_from_slice(&ip.octets())),
                IpAddr::V6(ip) => (family, _) = (0x21, block.extend_from_slice(&ip.octets())),
            }
        }
        for end in [peer, local] {
            block.extend_from_slice(&end.port().to_be_bytes());
        }
    } else if let Some((peer, local)) = unix {
        family = 0x31;
        block.extend_from_slice(&[peer, local].concat());
    }
    // Where the addresses end is known only where they are.
    if let Some(name) = authority.filter(|name| family != 0 && name.len() <= 255) {
        block.extend_from_slice(&[AUTHORITY, 0, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
    }
    let bytes = (block.len() as u16).to_be_bytes();
    out.extend_from_slice(&[SIGNATURE, &[0x21, family], &bytes, &block].concat());
}

/// A name as `sun_path` has it, if it fits.
fn sun_path(address: &Address) -> Option<[u8; UNIX_BYTES]> {
    let (start, name) = match address {
        Address::Ip(_) => return None,
        Address::Unix(path) => (0, path.as_os_str().as_bytes()),
        Address::Abstract(name) => (1, &name[..]),
    };
    let mut path = [0; UNIX_BYTES];
    path.get_mut(start..start + name.len())?.copy_from_slice(name);
    // A path has a zero byte behind it.
    (start == 1 || name.len() < UNIX_BYTES).then_some(path)
}
