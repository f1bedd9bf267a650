//! A WebSocket on a simulated worker: no panic, nothing left behind, and the same answers however the input is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmill_protocols::http::{self, Request};
use ringmill_protocols::websocket::{Accept, Deflate, Endpoint, Handler, Message, Options, Piece, Ws};

/// Sends back what it gets.
struct Echo;

impl Handler for Echo {
    type State = usize;

    fn accept(&mut self, _: &Request<'_>, accept: &mut Accept<'_>) -> Option<usize> {
        if let Some(protocol) = accept.protocols().first().copied() {
            accept.choose(protocol);
        }
        Some(0)
    }

    fn message(&mut self, _: &mut usize, message: Message<'_>, ws: &mut Ws<'_>) {
        match message {
            Message::Text("bye") => ws.close(4000, "bye"),
            message => ws.send(message),
        }
    }

    fn piece(&mut self, bytes: &mut usize, piece: Piece<'_>, ws: &mut Ws<'_>) {
        *bytes += piece.part.as_bytes().len();
        if piece.is_last {
            ws.send(&bytes.to_string());
        }
    }
}

const HANDSHAKE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

/// What the client receives behind the head of the answer.
fn converse(kind: u8, input: &[u8], piece: usize) -> Vec<u8> {
    let deflate = Deflate {
        contexts_max: usize::from(kind & 2),
        bytes_min: 16,
        // Time may stand still here from one turn to the next, and with it what a turn may inflate.
        turn_bytes_max: usize::MAX,
        ..Deflate::default()
    };
    let options = Options {
        message_bytes_max: 2000,
        in_pieces: kind & 1 != 0,
        deflate: Some(deflate),
        ..Options::default()
    };
    let endpoint = Endpoint::with_options(Echo, options);
    let server = http::server(|_, reply| reply.empty()).websocket("/", endpoint);
    // The rest of the head comes from the fuzzer as well, if it likes.
    let more = if kind & 4 == 0 { "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n" } else { "" };
    let opening = format!("{HANDSHAKE}{more}");
    let (received, _) = ringmill_fuzz::converse(server, opening.as_bytes(), input, piece);
    let head =
        received.windows(4).position(|window| window == b"\r\n\r\n").map_or(received.len(), |at| at + 4);
    if !received.starts_with(b"HTTP/1.1 101 ") {
        // Refused: only the date differs.
        return received[..received.len().min(12)].to_vec();
    }
    without_pongs(&received[head..])
}

/// How many pings are answered depends on how many come at once.
fn without_pongs(mut frames: &[u8]) -> Vec<u8> {
    let mut kept = Vec::new();
    while let [first, length, ..] = *frames {
        let bytes = match length {
            126 => 4 + usize::from(u16::from_be_bytes([frames[2], frames[3]])),
            length => 2 + usize::from(length),
        };
        let (frame, rest) = frames.split_at(bytes.min(frames.len()));
        if first != 0x8a {
            kept.extend_from_slice(frame);
        }
        frames = rest;
    }
    kept
}

fuzz_target!(|data: &[u8]| {
    let [kind, piece, input @ ..] = data else { return };
    if input.len() > 2048 {
        return;
    }
    let whole = converse(*kind, input, input.len());
    let pieces = converse(*kind, input, usize::from(*piece));
    assert_eq!(pieces.escape_ascii().to_string(), whole.escape_ascii().to_string(), "in pieces of {piece}");
});
