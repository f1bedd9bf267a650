//! The wire of `ws://` and `wss://` targets: a handshake, then messages that come back. Pure.

use super::tally::Failure;
use super::target::Target;
use super::template::Header;
use super::wire::{Read, Response, Wire};
use ringmill::http::client::Malformed;
use ringmill::websocket::frame::{
    Header as FrameHeader, Opcode, Parsed, Rules, is_control, parse, write_masked,
};
use ringmill::websocket::{accept_key, compress_once, inflate_once};
use std::sync::Arc;

/// Messages of one payload, each of which comes back.
#[derive(Clone)]
pub(super) struct WebSocket {
    handshake: Handshake,
    /// The same each time: a frame, masked. (Who measures has no proxies to protect from it; RFC 6455, 10.3.)
    frame: Arc<[u8]>,
    payload: Arc<[u8]>,
    /// How the payload comes back compressed. It was inflated once.
    deflated: Option<Vec<u8>>,
}

const KEY: &str = "cmluZ21pbGwgYnkgbG9hZA==";
const MASK: [u8; 4] = [0x1e, 0xaf, 0x5e, 0xa7];

/// The message that is coming back, and what is to be said to other frames.
#[derive(Default)]
pub(super) struct Reader {
    /// What is left of its frame.
    left: u64,
    is_final: bool,
    in_message: bool,
    is_deflated: bool,
    /// So much has come, and was the same.
    bytes: usize,
    is_different: bool,
    /// The message, where it is compressed.
    packed: Vec<u8>,
    reply: Vec<u8>,
    /// The server has said that it closes.
    is_closing: bool,
}

/// What a connection begins with.
#[derive(Clone)]
pub(super) struct Handshake {
    pub(super) request: Arc<[u8]>,
    /// It offers compression.
    pub(super) deflates: bool,
}

impl Handshake {
    pub(super) fn new(target: &Target, headers: &[Header], deflates: bool) -> Handshake {
        let mut head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n", target.path, target.authority);
        head += &format!("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\n");
        head += "Sec-WebSocket-Version: 13\r\n";
        if deflates {
            head += "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
                     client_no_context_takeover\r\n";
        }
        headers.iter().for_each(|header| head += &header.line());
        head += "\r\n";
        Handshake { request: head.into_bytes().into(), deflates }
    }

    /// Reads the answer: how much of the input it was, once it is there.
    pub(super) fn read(&self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
            return if input.len() > 16 << 10 { Err(Malformed) } else { Ok(None) };
        };
        let head = str::from_utf8(&input[..end + 4]).map_err(|_| Malformed)?;
        let accept =
            format!("\r\nsec-websocket-accept: {}\r\n", accept_key(KEY.as_bytes()).to_ascii_lowercase());
        let is_good = head.starts_with("HTTP/1.1 101 ") && head.to_ascii_lowercase().contains(&accept);
        let is_agreed = self.deflates || !head.to_ascii_lowercase().contains("\r\nsec-websocket-extensions:");
        if is_good && is_agreed { Ok(Some(end + 4)) } else { Err(Malformed) }
    }
}

impl WebSocket {
    pub(super) fn new(handshake: Handshake, payload: Arc<[u8]>) -> WebSocket {
        let packed = if handshake.deflates { compress_once(&payload) } else { None };
        let mut frame = Vec::new();
        let sent = packed.as_deref().unwrap_or(&payload);
        write_masked(&mut frame, Opcode::Binary, true, packed.is_some(), MASK, sent);
        WebSocket { handshake, frame: frame.into(), payload, deflated: None }
    }

    /// Takes a control frame that is there in full; its length.
    fn take_control(reader: &mut Reader, header: &FrameHeader, input: &[u8]) -> Option<usize> {
        let end = header.bytes + header.payload_bytes as usize;
        let payload = input.get(header.bytes..end)?;
        match header.opcode {
            Opcode::Ping => write_masked(&mut reader.reply, Opcode::Pong, true, false, MASK, payload),
            Opcode::Close => {
                reader.is_closing = true;
                write_masked(&mut reader.reply, Opcode::Close, true, false, MASK, payload);
            }
            _ => {}
        }
        Some(end)
    }

    fn header(&self, reader: &Reader, input: &[u8]) -> Result<Option<FrameHeader>, Malformed> {
        let rules = Rules {
            from_client: false,
            may_deflate: self.handshake.deflates,
            in_message: reader.in_message,
            bytes_max: 2 * self.payload.len() as u64 + 1024,
        };
        match parse(input, &rules) {
            Parsed::Complete(header) => Ok(Some(header)),
            Parsed::Partial(_) => Ok(None),
            Parsed::Malformed(_) => Err(Malformed),
        }
    }

    /// Takes what has come of a payload.
    fn take(&self, reader: &mut Reader, bytes: &[u8]) {
        if reader.is_deflated {
            reader.packed.extend_from_slice(bytes);
        } else {
            let rest = self.payload.get(reader.bytes..).unwrap_or_default();
            reader.is_different |= !rest.starts_with(bytes);
            reader.bytes += bytes.len();
        }
    }

    fn judge(&mut self, reader: &mut Reader) -> Response {
        let is_same = match (&self.deflated, reader.is_deflated) {
            (_, false) => !reader.is_different && reader.bytes == self.payload.len(),
            (Some(deflated), true) => *deflated == reader.packed,
            (None, true) => {
                let is_same =
                    inflate_once(&reader.packed, self.payload.len()).as_deref() == Some(&*self.payload);
                self.deflated = is_same.then(|| reader.packed.clone());
                is_same
            }
        };
        (reader.in_message, reader.bytes, reader.is_different) = (false, 0, false);
        reader.packed.clear();
        Response { status: 0, keep_alive: true, failure: (!is_same).then_some(Failure::Body) }
    }
}

impl Wire for WebSocket {
    type Reader = Reader;

    fn next(&mut self) -> u16 {
        0
    }

    fn opening(&self) -> Option<&[u8]> {
        Some(&self.handshake.request)
    }

    fn read_opening(&mut self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        self.handshake.read(input)
    }

    fn write(&self, _: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.frame);
    }

    fn read(&mut self, reader: &mut Reader, _: u16, input: &[u8]) -> Result<Read, Malformed> {
        let mut at = 0;
        loop {
            if reader.is_closing {
                // What it still says is not looked at.
                return Ok(Read { consumed: input.len(), response: None });
            }
            if reader.left == 0 {
                let Some(header) = self.header(reader, &input[at..])? else {
                    return Ok(Read { consumed: at, response: None });
                };
                if is_control(header.opcode) {
                    match WebSocket::take_control(reader, &header, &input[at..]) {
                        Some(bytes) => at += bytes,
                        None => return Ok(Read { consumed: at, response: None }),
                    }
                    continue;
                }
                at += header.bytes;
                (reader.left, reader.is_final) = (header.payload_bytes, header.is_final);
                if !std::mem::replace(&mut reader.in_message, true) {
                    reader.is_deflated = header.is_deflated;
                }
            }
            let bytes = usize::try_from(reader.left).unwrap_or(usize::MAX).min(input.len() - at);
            self.take(reader, &input[at..at + bytes]);
            reader.left -= bytes as u64;
            at += bytes;
            if reader.left > 0 {
                return Ok(Read { consumed: at, response: None });
            }
            if reader.is_final {
                return Ok(Read { consumed: at, response: Some(self.judge(reader)) });
            }
        }
    }

    fn read_unasked(&mut self, reader: &mut Reader, input: &[u8]) -> Option<usize> {
        if reader.is_closing {
            return Some(input.len());
        }
        match self.header(reader, input).ok()? {
            None => Some(0),
            Some(header) if is_control(header.opcode) => {
                Some(WebSocket::take_control(reader, &header, input).unwrap_or(0))
            }
            Some(_) => None,
        }
    }

    fn reply(&self, reader: &mut Reader, out: &mut Vec<u8>) {
        out.append(&mut reader.reply);
    }

    fn end(&mut self, _: &mut Reader, _: u16) -> Option<Response> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringmill::websocket::frame::write_header;

    fn wire(deflates: bool) -> WebSocket {
        let target = "ws://a/ws".parse().expect("a URL");
        WebSocket::new(Handshake::new(&target, &[], deflates), (0..251).cycle().take(1000).collect())
    }

    fn frame(opcode: Opcode, is_final: bool, is_deflated: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_header(&mut frame, opcode, is_final, is_deflated, payload.len());
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn messages_are_compared_however_they_are_cut() {
        let good = wire(false).payload.to_vec();
        let packed = compress_once(&good).expect("it compresses");
        let different: Vec<u8> = good.iter().map(|byte| byte ^ 1).collect();
        let stream = [
            frame(Opcode::Binary, true, false, &good),
            frame(Opcode::Binary, false, false, &good[..300]),
            frame(Opcode::Ping, true, false, b"?"),
            frame(Opcode::Continuation, true, false, &good[300..]),
            frame(Opcode::Binary, true, false, &different),
            frame(Opcode::Binary, true, false, &good[..999]),
            frame(Opcode::Binary, true, true, &packed),
            frame(Opcode::Binary, true, true, &packed),
            frame(Opcode::Binary, true, true, &packed[..9]),
        ]
        .concat();
        let expected =
            [None, None, Some(Failure::Body), Some(Failure::Body), None, None, Some(Failure::Body)];
        for cut in 0..stream.len() {
            let (mut wire, mut reader, mut heard) = (wire(true), Reader::default(), Vec::new());
            let mut at = 0;
            for end in [cut, stream.len()] {
                while at < end {
                    let read = wire.read(&mut reader, 0, &stream[at..end]).expect("good frames");
                    at += read.consumed;
                    match read.response {
                        Some(response) => heard.push(response.failure),
                        None => break,
                    }
                }
            }
            assert_eq!(heard, expected, "cut at {cut}");
            let mut reply = Vec::new();
            wire.reply(&mut reader, &mut reply);
            let mut pong = Vec::new();
            write_masked(&mut pong, Opcode::Pong, true, false, MASK, b"?");
            assert_eq!(reply, pong);
        }
    }

    #[test]
    fn answers_to_a_handshake() {
        let check =
            |head: &str, expected| assert_eq!(wire(false).read_opening(head.as_bytes()), expected, "{head}");
        let accept = accept_key(KEY.as_bytes());
        let good = format!("HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        check(&good, Ok(Some(good.len())));
        check(&good[..good.len() - 1], Ok(None));
        check(&good.replace("101", "200"), Err(Malformed));
        check(&good.replace(&accept, "other"), Err(Malformed));
        check(&good.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x\r\n\r\n"), Err(Malformed));
    }
}
