//! Replies as text become answers of HTTP/2.

use super::sink::Sink;
use super::text::{self, Heads};
use super::websocket::Socket;
use crate::http::client::Framing;
use crate::http::client::reader::{Event, Reader};
use crate::http::one::decoder::BodyLimits;
use bytes::Bytes;
use h2::server::SendResponse;

/// What reading a reply changes.
pub(super) struct Reading<'a> {
    pub(super) answer: &'a mut Option<SendResponse<Bytes>>,
    pub(super) reader: &'a mut Reader,
    pub(super) sink: &'a mut Option<Sink>,
    /// All of it was read.
    pub(super) has_reply: &'a mut bool,
    /// What was asked for, where that is a WebSocket.
    pub(super) socket: Option<&'a mut Socket>,
}

impl Reading<'_> {
    /// Reads on in the reply; how many bytes are done, and whether that is good so far.
    pub(super) fn read(&mut self, text: &[u8], heads: &mut Heads) -> (usize, bool) {
        let Heads { slots, arena, .. } = heads;
        if let (Some(socket), Some(sink)) = (&self.socket, &mut *self.sink)
            && socket.is_open()
        {
            sink.push(text);
            return (text.len(), true);
        }
        let mut at = 0;
        loop {
            match self.reader.read(&text[at..], slots, &BodyLimits::default()) {
                Event::Interim(response) => {
                    at += response.bytes;
                    if let (Some(answer), Some(head)) = (&mut *self.answer, text::response(&response, arena))
                    {
                        let _ = answer.send_informational(head);
                    }
                }
                Event::Head(response) => {
                    at += response.bytes;
                    if let Some(socket) = &mut self.socket
                        && let Some(answered) =
                            socket.answer(&response, &text[at..], arena, (self.answer, self.sink))
                    {
                        *self.has_reply = !socket.is_open();
                        return (text.len(), answered);
                    }
                    let (Some(answer), Some(head)) = (&mut *self.answer, text::response(&response, arena))
                    else {
                        return (at, false);
                    };
                    // The head ends the stream where nothing follows it: callers of gRPC take status and message from such a one alone.
                    let is_last = matches!(response.body, None | Some(Framing::Length(0)));
                    // Where it takes no head it can still say why.
                    let Ok(stream) = answer.send_response(head, is_last) else { return (at, false) };
                    *self.answer = None;
                    if !is_last {
                        *self.sink = Some(Sink::new(stream));
                    }
                }
                Event::Data { consumed, data } => {
                    at += consumed;
                    self.sink.iter_mut().for_each(|sink| sink.push(data));
                }
                Event::End { consumed, trailers } => {
                    at += consumed;
                    self.sink.iter_mut().for_each(|sink| sink.end(text::trailers(trailers)));
                    *self.has_reply = true;
                    return (text.len().max(at), true);
                }
                Event::Partial { consumed } => return (at + consumed, true),
                Event::Bad(_) => return (at, false),
            }
        }
    }
}
