//! Version 1 of the header, a line of text (PROXY protocol, section 2.1). Pure.

use super::told::{Outcome, Told};
use ringmill_engine::Address;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

pub(super) const START: &[u8] = b"PROXY ";

/// The longest line there can be, with its end: `UNKNOWN` and two full IPv6 addresses with their ports.
const LINE_BYTES_MAX: usize = 107;

/// Reads a line that begins with as much of `START` as is there.
pub(super) fn read(input: &[u8]) -> Outcome {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        let is_full = window.len() == LINE_BYTES_MAX;
        return if is_full { Outcome::Malformed(TOO_LONG) } else { Outcome::Partial(input.len() + 1) };
    };
    match &window[end..] {
        [b'\r', b'\n', ..] => match told(&window[START.len()..end]) {
            Ok(told) => Outcome::Complete(end + 2, told),
            Err(problem) => Outcome::Malformed(problem),
        },
        [b'\r'] if window.len() < LINE_BYTES_MAX => Outcome::Partial(end + 2),
        [b'\r'] => Outcome::Malformed(TOO_LONG),
        _ => Outcome::Malformed("a CR or LF alone in the line"),
    }
}

const TOO_LONG: &str = "no end of the line within 107 bytes";

/// What stands between `START` and the end of the line.
fn told(line: &[u8]) -> Result<Told, &'static str> {
    // "The receiver must ignore anything presented before the CRLF is found": anything but a CR or LF alone, at which others
    // might see the end.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Ok(Told::default());
    }
    let line = str::from_utf8(line).map_err(|_| "a line that is not text")?;
    let mut words = line.split(' ');
    let mut word = || words.next();
    let (Some(family), Some(source), Some(target), Some(source_port), Some(target_port), None) =
        (word(), word(), word(), word(), word(), word())
    else {
        return Err("a line that has not its six words, each after one space");
    };
    let end = |ip: &str, digits: &str| {
        let ip = match family {
            "TCP4" => Ipv4Addr::from_str(ip).ok().map(IpAddr::V4),
            "TCP6" => Ipv6Addr::from_str(ip).ok().map(IpAddr::V6),
            _ => return Err("a protocol other than TCP4, TCP6 and UNKNOWN"),
        };
        let ip = ip.ok_or("an address that is none of its family")?;
        let port = port(digits).ok_or("a port that is not 0 to 65535 in plain digits")?;
        Ok(Some(Address::Ip(SocketAddr::new(ip, port))))
    };
    Ok(Told { peer: end(source, source_port)?, local: end(target, target_port)?, proxied: None })
}

/// Decimal digits without a sign and without zeroes in front.
fn port(digits: &str) -> Option<u16> {
    let is_plain =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if is_plain { digits.parse().ok() } else { None }
}
