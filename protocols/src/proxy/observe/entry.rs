//! One finished request as it goes through the ring of its worker: numbers of a fixed size, then texts, each behind its length. Pure;
//! `log.rs` has the rings, `format.rs` makes lines of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How a request came to its end, or a connection that is passed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of the reply went to the client; or both sides ended in order.
    Complete,
    /// This proxy refused it, for reasons of its own.
    Refused,
    /// The client left before that; its connection was reset, or is closed.
    ClientLeft,
    /// The upstream could not be reached, ended too early, or broke the rules.
    UpstreamFailed,
    /// Somebody took too long.
    TimedOut,
}

impl End {
    /// All of them.
    pub const ALL: [End; 5] =
        [End::Complete, End::Refused, End::ClientLeft, End::UpstreamFailed, End::TimedOut];
}

/// In which version of HTTP a request came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

impl HttpVersion {
    const ALL: [HttpVersion; 3] = [HttpVersion::Http10, HttpVersion::Http11, HttpVersion::Http2];
}

/// What is measured of a request, or of a connection that is passed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Numbers {
    /// When its head was complete, or it was accepted, since 1970.
    pub began: Duration,
    /// From then to its end.
    pub total: Duration,
    /// How long it waited for a connection with its upstream, queue and connecting together; `None` where it got none.
    pub waited: Option<Duration>,
    /// From then to the first byte that its server sent; `None` where none came.
    pub first_byte: Option<Duration>,
    /// Bytes of it, head and framing included; or what the client sent.
    pub received: u64,
    /// Bytes of its reply, likewise; or what the server sent.
    pub sent: u64,
    /// What the client was answered; 0 for nothing.
    pub status: u16,
    /// How often it was sent beyond the first time; or how many servers did not take the connection.
    pub retries: u8,
    /// How it came to its end.
    pub end: End,
    /// The version of HTTP that it came in.
    pub version: HttpVersion,
    /// It is a connection that was passed on as it is.
    pub is_relayed: bool,
    /// The client's address, where it has one.
    pub client: Option<IpAddr>,
    /// Its trace; zeros where it is in none that is known here.
    pub trace: [u8; 16],
}

/// A text as it came, control bytes and all; perhaps only its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// There were more.
    pub is_cut: bool,
}

/// One finished request, or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// What is measured of it.
    pub numbers: Numbers,
    /// The server that it was given to last.
    pub upstream: Text<'a>,
    /// What it is called.
    pub id: Text<'a>,
    /// What its listener is called, of a connection.
    pub listener: Text<'a>,
    /// Its method; empty where it was not understood, like all that follows.
    pub method: Text<'a>,
    /// Host and port; of a connection the name that was asked for in TLS.
    pub host: Text<'a>,
    /// The path as it came.
    pub path: Text<'a>,
    /// What came behind the question mark.
    pub query: Text<'a>,
    /// The version of TLS.
    pub tls: Text<'a>,
    /// `Referer`, where it is asked for.
    pub referer: Text<'a>,
    /// `User-Agent`, likewise.
    pub agent: Text<'a>,
}

/// What is kept of a text, in bytes.
pub(crate) const SHORT_MAX: usize = 64;
pub(crate) const LONG_MAX: usize = 512;
/// Texts that are written by whoever notes a request; three more come in front of them.
pub(crate) const TEXTS: usize = 7;
/// The most that an entry takes.
pub(crate) const ENTRY_BYTES_MAX: usize = NUMBERS + (TEXTS + 3) * (2 + LONG_MAX);
const NUMBERS: usize = 78;
/// In the length of a text: it was longer.
const CUT: u16 = 1 << 15;
const NONE: u32 = u32::MAX;

/// Appends a text, or as much of it as so many bytes.
pub(crate) fn put_text(out: &mut Vec<u8>, bytes: &[u8], bytes_max: usize) {
    let kept = &bytes[..bytes.len().min(bytes_max)];
    let cut = if kept.len() < bytes.len() { CUT } else { 0 };
    out.extend_from_slice(&(kept.len() as u16 | cut).to_le_bytes());
    out.extend_from_slice(kept);
}

/// The texts in front of the others.
#[derive(Clone, Copy, Default)]
pub(crate) struct Front<'a> {
    pub(crate) upstream: &'a [u8],
    pub(crate) id: &'a [u8],
    pub(crate) listener: &'a [u8],
}

/// Appends an entry, of which the last texts are there already.
pub(crate) fn put_entry(out: &mut Vec<u8>, numbers: &Numbers, front: Front<'_>, texts: &[u8]) {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let short =
        |time: Option<Duration>| time.map_or(NONE, |time| micros(time).min(u64::from(NONE - 1)) as u32);
    for number in [micros(numbers.began), micros(numbers.total), numbers.received, numbers.sent] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for number in [short(numbers.waited), short(numbers.first_byte)] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&numbers.status.to_le_bytes());
    let (family, octets) = match numbers.client {
        None => (0, [0; 16]),
        Some(IpAddr::V4(ip)) => (4, ip.to_ipv6_mapped().octets()),
        Some(IpAddr::V6(ip)) => (6, ip.octets()),
    };
    let kind = numbers.version as u8 | u8::from(numbers.is_relayed) << 2;
    out.extend_from_slice(&[numbers.retries, numbers.end as u8, kind, family]);
    out.extend_from_slice(&octets);
    out.extend_from_slice(&numbers.trace);
    put_text(out, front.upstream, LONG_MAX);
    put_text(out, front.id, SHORT_MAX);
    put_text(out, front.listener, LONG_MAX);
    out.extend_from_slice(texts);
}

/// Reads forward in what was put.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn micros(&mut self) -> Option<Duration> {
        self.take().map(u64::from_le_bytes).map(Duration::from_micros)
    }

    fn short(&mut self) -> Option<Option<Duration>> {
        let micros = self.take().map(u32::from_le_bytes)?;
        Some((micros != NONE).then(|| Duration::from_micros(micros.into())))
    }

    fn text(&mut self) -> Option<Text<'a>> {
        let length = u16::from_le_bytes(self.take()?);
        let (bytes, rest) = self.0.split_at_checked(usize::from(length & !CUT))?;
        self.0 = rest;
        Some(Text { bytes, is_cut: length & CUT != 0 })
    }
}

impl<'a> Entry<'a> {
    /// Reads one that was put.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Entry<'a>> {
        let mut from = Reader(bytes);
        let (began, total) = (from.micros()?, from.micros()?);
        let (received, sent) = (from.take().map(u64::from_le_bytes)?, from.take().map(u64::from_le_bytes)?);
        let (waited, first_byte) = (from.short()?, from.short()?);
        let status = from.take().map(u16::from_le_bytes)?;
        let [retries, end, kind, family] = from.take()?;
        let octets = from.take::<16>()?;
        let client = match family {
            4 => Some(IpAddr::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(octets))),
            _ => None,
        };
        let numbers = Numbers {
            began,
            total,
            waited,
            first_byte,
            received,
            sent,
            status,
            retries,
            end: *End::ALL.get(usize::from(end))?,
            version: *HttpVersion::ALL.get(usize::from(kind & 3))?,
            is_relayed: kind & 4 != 0,
            client,
            trace: from.take()?,
        };
        Some(Entry {
            numbers,
            upstream: from.text()?,
            id: from.text()?,
            listener: from.text()?,
            method: from.text()?,
            host: from.text()?,
            path: from.text()?,
            query: from.text()?,
            tls: from.text()?,
            referer: from.text()?,
            agent: from.text()?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry with these texts in front of its path, and nothing else of interest.
    pub(crate) fn numbers() -> Numbers {
        Numbers {
            began: Duration::from_micros(1_790_000_000_123_456),
            total: Duration::from_micros(1234),
            waited: Some(Duration::from_micros(5)),
            first_byte: None,
            received: 80,
            sent: 1 << 40,
            status: 200,
            retries: 1,
            end: End::Complete,
            version: HttpVersion::Http11,
            is_relayed: false,
            client: Some(IpAddr::from([1, 2, 3, 4])),
            trace: [0; 16],
        }
    }

    #[test]
    fn what_is_put_is_read() {
        for (client, end, version) in [
            (None, End::Refused, HttpVersion::Http10),
            (Some(IpAddr::from([1, 2, 3, 4])), End::TimedOut, HttpVersion::Http11),
            (Some("2001:db8::1".parse().unwrap()), End::ClientLeft, HttpVersion::Http2),
        ] {
            let is_relayed = end == End::TimedOut;
            let numbers = Numbers { client, end, trace: [7; 16], version, is_relayed, ..numbers() };
            let (mut texts, mut out) = (Vec::new(), Vec::new());
            let long = vec![b'x'; LONG_MAX + 1];
            for text in [&b"GET"[..], b"", &long, &long[1..], b"TLSv1.3", b"\xff\n", b"y"] {
                put_text(&mut texts, text, LONG_MAX);
            }
            let front = Front { upstream: b"127.0.0.1:80", id: b"id", listener: b"127.0.0.1:1" };
            put_entry(&mut out, &numbers, front, &texts);
            assert!(out.len() <= ENTRY_BYTES_MAX);
            let text = |bytes| Text { bytes, is_cut: false };
            let expected = Entry {
                numbers,
                upstream: text(b"127.0.0.1:80"),
                id: text(b"id"),
                listener: text(b"127.0.0.1:1"),
                method: text(b"GET"),
                host: text(b""),
                path: Text { bytes: &long[1..], is_cut: true },
                query: text(&long[1..]),
                tls: text(b"TLSv1.3"),
                referer: text(b"\xff\n"),
                agent: text(b"y"),
            };
            assert_eq!(Entry::read(&out), Some(expected));
            (0..out.len()).for_each(|cut| assert_eq!(Entry::read(&out[..cut]), None));
        }
    }
}
