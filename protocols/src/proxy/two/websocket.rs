//! WebSockets of clients of HTTP/2 (RFC 8441): an extended CONNECT is a handshake of HTTP/1.1 to the session of its lane, and what is said
//! behind its 101 passes as it is. Nothing of the stream is fed to that session before: where the answer is another one, it would be
//! taken for a request.

use super::lane::Lane;
use super::sink::Sink;
use super::text;
use crate::adapt::arena::Arena;
use crate::http::client::reader::Response as Parsed;
use crate::http::websocket_key::{accept_key, key_of};
use crate::proxy::observe::Random;
use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{StatusCode, request};
use ringmill_engine::{Call, Io, Layer};

/// A WebSocket that is asked for, and then is there.
pub(super) struct Socket {
    /// What the server has to answer.
    accept: String,
    stage: Stage,
}

enum Stage {
    /// What the client says is not followed before there is a 101.
    Asked(Option<RecvStream>),
    Agreed(Option<RecvStream>),
    /// The client may say more.
    Open,
    /// It has said all.
    Ended,
}

impl Socket {
    /// Writes the head of a request, and whether its body follows in chunks: where it asks for a WebSocket that is the handshake, and what the
    /// client says is taken.
    pub(super) fn write_head(
        out: &mut Vec<u8>,
        parts: &request::Parts,
        body: &mut Option<RecvStream>,
    ) -> (Option<Box<Socket>>, bool) {
        match Socket::ask(out, parts, body) {
            None => (None, text::write_request(out, parts, body.is_some())),
            socket => (socket, false),
        }
    }

    fn ask(out: &mut Vec<u8>, parts: &request::Parts, body: &mut Option<RecvStream>) -> Option<Box<Socket>> {
        // Nobody behind this proxy could be asked for any other protocol (RFC 9298 and others): what is left is a CONNECT, which is refused.
        parts.extensions.get::<Protocol>().filter(|protocol| protocol.as_str() == "websocket")?;
        let key = key_of(Random::from_os().bytes());
        // HTTP/2 has no key: a proof is for who asks, and that is this proxy.
        let start = ("GET", text::path_of(&parts.uri));
        text::write_start(out, parts, start, |name| {
            *name == SEC_WEBSOCKET_KEY || *name == UPGRADE || *name == CONTENT_LENGTH
        });
        for part in ["connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ", &key, "\r\n\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        let stage = Stage::Asked(body.take());
        Some(Box::new(Socket { accept: accept_key(key.as_bytes()), stage }))
    }

    /// Answers the client where the server's head is its last word of HTTP, or should not be; whether that went well. Any other head, which says
    /// no, is to be passed on. `rest` is what came behind it.
    pub(super) fn answer(
        &mut self,
        response: &Parsed<'_, '_>,
        rest: &[u8],
        arena: &mut Arena,
        (answer, sink): (&mut Option<SendResponse<Bytes>>, &mut Option<Sink>),
    ) -> Option<bool> {
        if !matches!(response.status, 101 | 200..300) {
            return None;
        }
        let Some(to) = answer else { return Some(false) };
        let proof = response.fields.value("sec-websocket-accept").unwrap_or_default();
        let is_agreed = response.status == 101 && proof == self.accept.as_bytes();
        let Some(mut head) = text::response(response, arena).filter(|_| is_agreed) else {
            // Any success would tell the client that it is there.
            return Some(to.send_response(text::plain(StatusCode::BAD_GATEWAY), true).is_ok());
        };
        *head.status_mut() = StatusCode::OK;
        head.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        let Ok(stream) = to.send_response(head, false) else { return Some(false) };
        *answer = None;
        sink.insert(Sink::new(stream)).push(rest);
        if let Stage::Asked(body) = &mut self.stage {
            self.stage = Stage::Agreed(body.take());
        }
        Some(true)
    }

    /// Both sides speak WebSocket.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.stage, Stage::Asked(_))
    }

    /// The client may still say something, whatever was said to it.
    pub(super) fn listens(&self) -> bool {
        matches!(self.stage, Stage::Agreed(_) | Stage::Open)
    }

    /// Begins to pass on what the client says, and passes ends on, each way by itself. Whether the session was called.
    pub(super) fn pass_ends<L: Layer>(&mut self, layer: &mut L, lane: &mut Lane<L>, io: &mut Io<'_>) -> bool {
        if let Stage::Agreed(body) = &mut self.stage {
            body.take().into_iter().for_each(|body| lane.follow(body, false));
            self.stage = Stage::Open;
        }
        if self.is_open()
            && lane.takes_end()
            && let Some(sink) = &mut lane.sink
        {
            sink.end(None);
        }
        let has_ended = matches!(self.stage, Stage::Open) && !lane.is_fed();
        if has_ended {
            self.stage = Stage::Ended;
            lane.call(layer, Call::End(&mut []), io);
        }
        has_ended
    }
}
