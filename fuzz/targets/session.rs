//! A whole HTTP session on a simulated worker: no panic, nothing left behind, and the same replies however the input
//! is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmill_protocols::http::{
    BodyWriter, Fill, Handler, Limits, Plan, Reply, Request, Server, Source, Upload,
};

/// One route for each way to read and to answer.
struct Routes;

impl Handler for Routes {
    fn handle(&mut self, request: &Request<'_>, reply: &mut Reply<'_>) {
        match request.path_bytes() {
            b"/b" => reply.body(request.body()),
            b"/n" => reply.status(204).empty(),
            b"/s" => reply.stream(Some(3000), Ramp(3000)),
            b"/c" => reply.stream(None, Ramp(3000)),
            b"/t" => reply.body(request.trailers()),
            _ => reply.status(404).text(request.path()),
        }
    }

    fn plan(&mut self, request: &Request<'_>) -> Plan {
        match request.path_bytes() {
            b"/u" => Plan::StreamUpTo(500, Box::new(Back(false))),
            _ => Plan::CollectUpTo(200),
        }
    }
}

struct Ramp(usize);

impl Source for Ramp {
    fn fill(&mut self, body: &mut BodyWriter<'_>) -> Fill {
        let bytes = self.0.min(700);
        self.0 -= bytes;
        body.write(&vec![b'0' + (self.0 / 700) as u8; bytes]);
        if self.0 == 0 { Fill::End } else { Fill::More }
    }
}

/// Sends a body back as it comes.
struct Back(bool);

impl Upload for Back {
    fn chunk(&mut self, bytes: &[u8], reply: &mut Reply<'_>) {
        if !std::mem::replace(&mut self.0, true) {
            reply.begin(None);
        }
        reply.write(bytes);
    }

    fn end(self: Box<Self>, reply: &mut Reply<'_>) {
        if !self.0 {
            reply.begin(None);
        }
        reply.end();
    }
}

/// What the client receives, and how it ended.
fn converse(input: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let limits = Limits { requests_max: Some(20), ..Limits::default() };
    let (received, was_reset) =
        ringmill_fuzz::converse(Server::new(Routes).with_limits(limits), b"", input, piece);
    (without_what_may_differ(&received), was_reset)
}

/// The replies without what the cuts may change: virtual time goes on with every piece, a streamed body has a chunk for
/// each piece of its request, and 100 (Continue) is left out where a part of the content came with the head
/// (RFC 9110 section 10.1.1).
fn without_what_may_differ(mut received: &[u8]) -> Vec<u8> {
    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut text = Vec::new();
    while received.starts_with(b"HTTP/1.1 ") {
        if let Some(rest) = received.strip_prefix(CONTINUE) {
            received = rest;
            continue;
        }
        let Some(end) = find(received, b"\r\n\r\n") else { break };
        let head;
        (head, received) = received.split_at(end + 4);
        let mut body_bytes = 0;
        let mut is_chunked = false;
        for line in head.split_inclusive(|byte| *byte == b'\n') {
            if let Some(length) = line.strip_prefix(b"content-length: ") {
                body_bytes = number(length, 10).expect("a length");
            }
            is_chunked |= line == b"transfer-encoding: chunked\r\n";
            if !line.starts_with(b"date: ") {
                text.extend_from_slice(line);
            }
        }
        if is_chunked {
            received = unchunk(received, &mut text);
        } else if !received.starts_with(b"HTTP/1.1 ") {
            // Else it was the reply to HEAD.
            let body;
            (body, received) = received.split_at(body_bytes.min(received.len()));
            text.extend_from_slice(body);
        }
    }
    // A body that ends with the connection, or the start of something that was reset.
    text.extend_from_slice(received);
    text
}

/// Moves the data of the chunks to `text`, those that came; returns what follows the last one.
fn unchunk<'r>(mut received: &'r [u8], text: &mut Vec<u8>) -> &'r [u8] {
    while let Some(end) = find(received, b"\r\n")
        && let Some(bytes) = number(&received[..end], 16)
    {
        let data = &received[end + 2..];
        text.extend_from_slice(&data[..bytes.min(data.len())]);
        received = data.get(bytes + 2..).unwrap_or_default();
        if bytes == 0 {
            text.extend_from_slice(b"(end)");
            break;
        }
    }
    received
}

fn number(text: &[u8], radix: u32) -> Option<usize> {
    usize::from_str_radix(str::from_utf8(text).ok()?.trim_ascii_end(), radix).ok()
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, input)) = data.split_first() else { return };
    if input.len() > 4096 {
        return;
    }
    let (whole, whole_reset) = converse(input, input.len());
    let (pieces, pieces_reset) = converse(input, usize::from(piece));
    assert_eq!(pieces_reset, whole_reset, "in pieces of {piece}");
    if whole_reset {
        // A reset overtakes what was written: how much came before it is a matter of time.
        let len = whole.len().min(pieces.len());
        assert!(whole[..len] == pieces[..len], "in pieces of {piece}");
    } else {
        assert_eq!(String::from_utf8_lossy(&pieces), String::from_utf8_lossy(&whole), "in pieces of {piece}");
    }
});
