//! WebSocket on the simulator: an endpoint, what clients say to it, and what of its answers does not depend on time.

use ringmill_engine::driver::sim::{Rng, Watch};
use ringmill_protocols::http::Request;
use ringmill_protocols::websocket::frame::{Opcode, write_masked};
use ringmill_protocols::websocket::{
    Accept, Deflate, Endpoint, Handler, Message, Options, SharedMessage, Ws,
};
use std::time::Duration;

pub const PATH: &str = "/ws";

/// An endpoint whose patience does not end.
pub fn endpoint(watch: Watch) -> Endpoint<Site> {
    let long = Duration::from_secs(1_000_000);
    let options = Options {
        message_bytes_max: 10_000,
        ping_after: long,
        pong_within: long,
        close_within: long,
        deflate: Some(Deflate { bytes_min: 100, ..Deflate::default() }),
        ..Options::default()
    };
    Endpoint::with_options(Site { watch }, options)
}

pub struct Site {
    watch: Watch,
}

const WOKEN: &str = "woken";

impl Handler for Site {
    type State = Vec<u8>;

    fn accept(&mut self, request: &Request<'_>, _: &mut Accept<'_>) -> Option<Vec<u8>> {
        request.query().is_none().then(Vec::new)
    }

    fn open(&mut self, _: &mut Vec<u8>, ws: &mut Ws<'_>) {
        ws.send("welcome");
    }

    fn message(&mut self, before: &mut Vec<u8>, message: Message<'_>, ws: &mut Ws<'_>) {
        match message {
            Message::Text("large") => ws.send_shared(&SharedMessage::binary(vec![7; 200_000])),
            Message::Text("parts") => {
                ws.send_part("a ", false);
                ws.send_part("walk", true);
            }
            Message::Text("wake") => self.watch.leave(ws.waker()),
            Message::Text("close") => ws.close(4000, "as you say"),
            Message::Text("before") => ws.send(&before[..]),
            message => {
                message.as_bytes().clone_into(before);
                ws.send(message);
            }
        }
    }

    fn wake(&mut self, _: &mut Vec<u8>, ws: &mut Ws<'_>) {
        ws.send(WOKEN);
    }
}

/// A handshake, and frames behind it: mostly good ones.
pub fn conversation(rng: &mut Rng) -> Vec<u8> {
    let path = if rng.one_in(20) { "/ws?no" } else { PATH };
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    for _ in 0..rng.up_to(9) {
        let payload = "ä walk ".repeat(rng.below(200));
        let mask = (rng.next() as u32).to_be_bytes();
        let mut frame = |opcode, is_final, payload: &[u8]| {
            write_masked(&mut bytes, opcode, is_final, false, mask, payload);
        };
        match rng.below(20) {
            0 => frame(Opcode::Text, true, b"large"),
            1 => frame(Opcode::Text, true, b"parts"),
            2 => frame(Opcode::Text, true, b"wake"),
            3 => frame(Opcode::Text, true, b"before"),
            4 => frame(Opcode::Ping, true, b"ping"),
            5 => frame(Opcode::Pong, true, b"pong"),
            6 | 7 => {
                let cut = payload.len() / 3;
                frame(Opcode::Text, false, &payload.as_bytes()[..cut]);
                frame(Opcode::Ping, true, b"");
                frame(Opcode::Continuation, true, &payload.as_bytes()[cut..]);
            }
            // RFC 7692, 7.2.3.1.
            8 | 9 => {
                let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
                write_masked(&mut bytes, Opcode::Text, true, true, mask, &hello);
            }
            10 if rng.one_in(3) => frame(Opcode::Text, true, b"close"),
            11 if rng.one_in(3) => frame(Opcode::Close, true, b"\x03\xe8bye"),
            12 if rng.one_in(3) => frame(Opcode::Text, true, b"no text \xff"),
            13 if rng.one_in(3) => frame(Opcode::Continuation, true, b"of nothing"),
            14 if rng.one_in(3) => frame(Opcode::Binary, true, &vec![1; 10_001]),
            _ => frame(Opcode::Binary, true, payload.as_bytes()),
        }
    }
    bytes
}

/// Where HTTP ends in what a client has heard, and frames begin.
pub fn frames_at(heard: &[u8]) -> usize {
    let find = |from: usize, what: &[u8]| {
        heard[from..].windows(what.len()).position(|window| window == what).map(|at| from + at + what.len())
    };
    find(0, b"HTTP/1.1 101 ").and_then(|at| find(at, b"\r\n\r\n")).unwrap_or(heard.len())
}

/// Frames without those that come when they like: Pings, Pongs, what a wake leads to; and without the Close frame of a server that has to
/// go or has no memory, if it may.
pub fn timeless(mut frames: &[u8], may_go: bool) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Some((frame, payload, rest)) = split(frames) {
        let is_going =
            may_go && frame[0] == 0x88 && matches!(payload, [3, 0xe9 | 0xf5, ..] | [0x0f, 0xa8, ..]);
        if is_going {
            return kept;
        }
        if !matches!(frame[0], 0x89 | 0x8a) && payload != WOKEN.as_bytes() {
            kept.extend_from_slice(frame);
        }
        frames = rest;
    }
    // The beginning of one, which may be any of those.
    let is_untold =
        matches!(frames, [] | [0x89 | 0x8a, ..] | [0x81, 5, ..] | [0x81]) || may_go && frames[0] == 0x88;
    if !is_untold {
        kept.extend_from_slice(frames);
    }
    kept
}

/// The first frame, its payload, and the rest.
fn split(frames: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (at, bytes) = match *frames.get(1)? {
        126 => (4, usize::from(u16::from_be_bytes(*frames.get(2..)?.first_chunk()?))),
        127 => (10, u64::from_be_bytes(*frames.get(2..)?.first_chunk()?) as usize),
        bytes => (2, usize::from(bytes)),
    };
    let payload = frames.get(at..at + bytes)?;
    Some((&frames[..at + bytes], payload, &frames[at + bytes..]))
}
