//! HTTP/2 as it is on the wire, by hand: for peers that break its rules (RFC 9113, 6 and 7; RFC 7541, 6.2.2).

use std::io::Read;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags: of DATA and HEADERS, of SETTINGS and PING, of HEADERS and CONTINUATION.
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

// What GOAWAY and RST_STREAM say.
pub const REFUSED_STREAM: u32 = 7;
pub const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// What a head's fields begin with where its status is 200.
pub const STATUS_200: u8 = 0x88;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is not indexed; name and value are short.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// The block of a request, of literals that are not indexed.
pub fn block(method: &str, path: &str) -> Vec<u8> {
    let literal = |index: u8, value: &str| [&[index, value.len() as u8], value.as_bytes()].concat();
    [literal(2, method), literal(4, path), vec![0x86], literal(1, "a")].concat()
}

/// A request's head in a frame.
pub fn request(stream: u32, method: &str, path: &str, ends: bool) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | u8::from(ends), stream, &block(method, path))
}

/// What a peer sent.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The next frame; an error where the connection ends.
pub fn read_frame(reader: &mut impl Read) -> std::io::Result<Frame> {
    let mut head = [0; 9];
    reader.read_exact(&mut head)?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
    let mut payload = vec![0; number(&head[..3]) as usize];
    reader.read_exact(&mut payload)?;
    Ok(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]), payload })
}
