//! WebSocket as a client sees it: raw frames out, raw frames in. Written apart from the server's own code.

use super::{Client, connect_to, show};
use std::io::Read;
use std::net::{SocketAddr, TcpStream};

/// A handshake, with more field lines.
pub fn handshake(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
}

/// Connects and opens a WebSocket.
#[track_caller]
pub fn open(address: SocketAddr, path: &str) -> TcpStream {
    let mut stream = connect_to(address);
    upgrade(&mut stream, path, "");
    stream
}

/// Opens a WebSocket; the head of the answer.
#[track_caller]
pub fn upgrade(stream: &mut impl Client, path: &str, fields: &str) -> String {
    stream.send(handshake(path, fields));
    let head = head(stream);
    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    assert!(head.contains("\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
    assert!(
        head.contains("\r\nupgrade: websocket\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
        "{head}"
    );
    head
}

/// Reads the head of an answer, and nothing behind it.
#[track_caller]
pub fn head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            end => panic!("{end:?} after {}", show(&head)),
        }
    }
    String::from_utf8(head).expect("a head is text")
}

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of a client, with its first byte as it is.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0x80);
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A frame of a server.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len(), 0);
    frame.extend_from_slice(payload);
    frame
}

fn header(first: u8, bytes: usize, mask_bit: u8) -> Vec<u8> {
    match bytes {
        0..=125 => vec![first, mask_bit | bytes as u8],
        126..=65535 => vec![first, mask_bit | 126, (bytes >> 8) as u8, bytes as u8],
        _ => [&[first, mask_bit | 127][..], &(bytes as u64).to_be_bytes()].concat(),
    }
}

pub fn text(text: &str) -> Vec<u8> {
    masked(0x81, text.as_bytes())
}

pub fn binary(bytes: &[u8]) -> Vec<u8> {
    masked(0x82, bytes)
}

fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat()
}

/// A Close frame of a client.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    masked(0x88, &close_payload(code, reason))
}

/// A Close frame of a server.
pub fn closing(code: u16, reason: &str) -> Vec<u8> {
    unmasked(0x88, &close_payload(code, reason))
}

/// A frame that was received: its first byte and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame(pub u8, pub Vec<u8>);

/// Reads a frame of a server.
#[track_caller]
pub fn receive(stream: &mut impl Read) -> Frame {
    let mut start = [0; 2];
    stream.read_exact(&mut start).expect("a frame");
    assert!(start[1] & 0x80 == 0, "a server does not mask");
    let long = match start[1] {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mut length = [0; 8];
    stream.read_exact(&mut length[8 - long..]).expect("a length");
    let bytes = if long == 0 { u64::from(start[1]) } else { u64::from_be_bytes(length) };
    let mut payload = vec![0; bytes as usize];
    stream.read_exact(&mut payload).expect("a payload");
    Frame(start[0], payload)
}

/// Reads a message in as many frames as it comes in: its first byte, with the bit for the last frame, and its payload.
#[track_caller]
pub fn receive_message(stream: &mut impl Read) -> Frame {
    let Frame(first, mut all) = receive(stream);
    let mut last = first;
    while last & 0x80 == 0 {
        let Frame(first, payload) = receive(stream);
        assert_eq!(first & 0x7f, 0, "a continuation");
        all.extend(payload);
        last = first;
    }
    Frame(first | 0x80, all)
}

/// Reads a Close frame, and the end of the stream behind it: its code.
#[track_caller]
pub fn expect_close(stream: &mut impl Client) -> u16 {
    let Frame(first, payload) = receive(stream);
    assert_eq!(first, 0x88, "a Close frame: {}", show(&payload));
    let code = u16::from_be_bytes([payload[0], payload[1]]);
    stream.expect_eof();
    code
}
