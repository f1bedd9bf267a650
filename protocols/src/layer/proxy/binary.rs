//! Version 2 of the header, in binary (PROXY protocol, section 2.2). Pure.

use super::told::{Outcome, Told};
use ringmill_engine::{Address, Proxied, ProxiedSsl};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header that is taken. Its length field allows for 64 KiB; two Unix addresses and every vector that is defined,
/// with room for a long common name, are below 2 KiB.
pub(super) const HEADER_BYTES_MAX: usize = 4096;

/// Signature, version and command, family and transport, and the length of what follows.
const FIXED_BYTES: usize = 16;
/// The size of `sun_path` (unix(7)).
const UNIX_BYTES: usize = 108;
/// The longest unique id (section 2.2.5).
const UNIQUE_ID_BYTES_MAX: usize = 128;

type Parsed<T> = Result<T, &'static str>;

/// Reads a header that begins with as much of `SIGNATURE` as is there.
pub(super) fn read(input: &[u8]) -> Outcome {
    let Some((fixed, rest)) = input.split_first_chunk::<FIXED_BYTES>() else {
        // Each byte of the signature may show that this is none.
        let is_sure = input.len() >= SIGNATURE.len();
        return Outcome::Partial(if is_sure { FIXED_BYTES } else { input.len() + 1 });
    };
    let [.., version_command, family_transport, high, low] = *fixed;
    let block_bytes = usize::from(u16::from_be_bytes([high, low]));
    let bytes = FIXED_BYTES + block_bytes;
    let command = match version_command {
        0x20 => Command::Local,
        0x21 => Command::Proxy,
        0x22..=0x2f => return Outcome::Malformed("a command other than LOCAL and PROXY"),
        _ => return Outcome::Malformed("a version other than 2"),
    };
    if bytes > HEADER_BYTES_MAX {
        return Outcome::Malformed("a header of more than 4096 bytes");
    }
    if rest.len() < block_bytes {
        return Outcome::Partial(bytes);
    }
    let told = match command {
        // "The receiver must [..] discard the protocol block including the family which is ignored."
        Command::Local => Ok(Told::default()),
        Command::Proxy => told(family_transport, &input[..bytes]),
    };
    told.map_or_else(Outcome::Malformed, |told| Outcome::Complete(bytes, told))
}

enum Command {
    Local,
    Proxy,
}

/// What a whole header with the command PROXY says.
fn told(family_transport: u8, header: &[u8]) -> Parsed<Told> {
    let (family, transport) = (family_transport >> 4, family_transport & 0xf);
    if family > 3 || transport > 2 {
        return Err("a family or transport that is not defined");
    }
    // How long the addresses are is then not said, so neither is where vectors would begin.
    if family == 0 || transport == 0 {
        return Ok(Told::default());
    }
    let mut block = &header[FIXED_BYTES..];
    let ends = ends(family, &mut block).ok_or("addresses that are cut")?;
    let proxied = vectors(header, block)?;
    let proxied = (proxied != Proxied::default()).then_some(proxied);
    // What arrives on a stream is not a client's datagram: the addresses stay the kernel's, as with haproxy and nginx.
    let is_stream = transport == 1;
    let (peer, local) = if is_stream { (Some(ends.0), Some(ends.1)) } else { (None, None) };
    Ok(Told { peer, local, proxied })
}

/// Takes source and destination off the front of the block.
fn ends(family: u8, block: &mut &[u8]) -> Option<(Address, Address)> {
    let ip = |ip, port| Address::Ip(SocketAddr::new(ip, u16::from_be_bytes(port)));
    match family {
        1 => {
            let (source, target) = (Ipv4Addr::from(take::<4>(block)?), Ipv4Addr::from(take::<4>(block)?));
            Some((ip(source.into(), take(block)?), ip(target.into(), take(block)?)))
        }
        2 => {
            let (source, target) = (Ipv6Addr::from(take::<16>(block)?), Ipv6Addr::from(take::<16>(block)?));
            Some((ip(source.into(), take(block)?), ip(target.into(), take(block)?)))
        }
        _ => {
            let (source, target) = (take::<UNIX_BYTES>(block)?, take::<UNIX_BYTES>(block)?);
            Some((Address::from_sun_path(&source), Address::from_sun_path(&target)))
        }
    }
}

fn take<const N: usize>(block: &mut &[u8]) -> Option<[u8; N]> {
    let (front, rest) = block.split_first_chunk::<N>()?;
    *block = rest;
    Some(*front)
}

/// Reads the type-length-value vectors, which are the rest of the header. Unknown ones are skipped.
fn vectors(header: &[u8], mut rest: &[u8]) -> Parsed<Proxied> {
    let mut proxied = Proxied::default();
    let (mut checksum, mut ssl) = (None, None);
    while let Some((kind, value)) = vector(&mut rest)? {
        match kind {
            0x01 => once(&mut proxied.alpn, value.to_vec())?,
            0x02 => once(&mut proxied.authority, text(value)?)?,
            0x03 => {
                once(&mut checksum, ())?;
                check(header, header.len() - rest.len(), value)?;
            }
            0x05 if value.len() > UNIQUE_ID_BYTES_MAX => return Err("a unique id of more than 128 bytes"),
            0x05 => once(&mut proxied.unique_id, value.to_vec())?,
            0x20 => once(&mut ssl, encryption(value)?)?,
            _ => {}
        }
    }
    proxied.ssl = ssl.flatten();
    Ok(proxied)
}

/// PP2_TYPE_SSL (section 2.2.6): `None` where it says that the client does not use TLS.
fn encryption(value: &[u8]) -> Parsed<Option<ProxiedSsl>> {
    const CLIENT_SSL: u8 = 0x01;
    const CLIENT_CERT_CONN: u8 = 0x02;
    const CLIENT_CERT_SESS: u8 = 0x04;
    let ([client, verify @ ..], mut rest) =
        value.split_first_chunk::<5>().ok_or("an SSL vector that is cut")?;
    // Zero is success, also where there was nothing to verify.
    let has_certificate = client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) != 0;
    let mut ssl =
        ProxiedSsl { is_client_verified: has_certificate && *verify == [0; 4], ..ProxiedSsl::default() };
    while let Some((kind, value)) = vector(&mut rest)? {
        match kind {
            0x21 => once(&mut ssl.version, text(value)?)?,
            0x22 => once(&mut ssl.common_name, text(value)?)?,
            0x23 => once(&mut ssl.cipher, text(value)?)?,
            _ => {}
        }
    }
    Ok((client & CLIENT_SSL != 0).then_some(ssl))
}

/// Checks PP2_TYPE_CRC32C (section 2.2.3), whose value ends at `end` of the header and counts as zero.
fn check(header: &[u8], end: usize, value: &[u8]) -> Parsed<()> {
    let stored = <[u8; 4]>::try_from(value).map_err(|_| "a checksum that is not four bytes")?;
    let computed = crc32c(&[&header[..end - 4], &[0; 4], &header[end..]]);
    if computed == u32::from_be_bytes(stored) { Ok(()) } else { Err("a checksum that is wrong") }
}

/// CRC-32C (RFC 9260, appendix A), bit by bit: a header is short, and few have a checksum.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut crc = !0;
    for byte in parts.iter().copied().flatten() {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            // 0x1EDC6F41, its bits in reverse.
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    !crc
}

/// Takes a vector off the front.
fn vector<'a>(rest: &mut &'a [u8]) -> Parsed<Option<(u8, &'a [u8])>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let cut = "a vector that is cut";
    let ([kind, high, low], behind) = rest.split_first_chunk().ok_or(cut)?;
    let value_bytes = usize::from(u16::from_be_bytes([*high, *low]));
    let (value, behind) = behind.split_at_checked(value_bytes).ok_or(cut)?;
    *rest = behind;
    Ok(Some((*kind, value)))
}

/// Two of a kind are an attack or a mistake: who takes which differs.
fn once<T>(place: &mut Option<T>, value: T) -> Parsed<()> {
    if place.replace(value).is_some() { Err("two vectors of one type") } else { Ok(()) }
}

fn text(value: &[u8]) -> Parsed<String> {
    String::from_utf8(value.to_vec()).map_err(|_| "a text that is not UTF-8")
}
