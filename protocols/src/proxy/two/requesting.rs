//! Requests as text become requests of HTTP/2.

use super::sink::Sink;
use super::text::{self, Heads};
use crate::http::message::Expect;
use crate::http::one::decoder::{BodyLimits, Decoded, Decoder};
use crate::http::one::head::{HeadLimits, Outcome, parse_head};
use bytes::Bytes;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};

/// What one head may have: it is our own text, of what was judged.
const HEAD_LIMITS: HeadLimits =
    HeadLimits { request_line_bytes_max: 1 << 20, head_bytes_max: 1 << 20, fields_max: usize::MAX };

/// To whom requests are sent.
pub(super) struct To<'a> {
    pub(super) sender: Option<&'a SendRequest<Bytes>>,
    pub(super) is_secured: bool,
}

const BAD: &str = "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n";
const NOT_OVER_TWO: &str = "HTTP/1.1 501 Not Implemented\r\ncontent-length: 0\r\n\r\n";

/// A request that was sent.
pub(super) struct Sending {
    /// Those of its head.
    pub(super) bytes: usize,
    pub(super) reply: ResponseFuture,
    pub(super) sink: Option<Sink>,
    pub(super) decoder: Option<Decoder>,
    pub(super) is_head: bool,
    pub(super) waits: bool,
}

/// Sends the request that a text begins with, once its head is there.
pub(super) fn begin(text: &[u8], to: &To<'_>, heads: &mut Heads) -> Result<Option<Sending>, &'static str> {
    let Some(sender) = to.sender else { return Ok(None) };
    let (head, bytes) = match parse_head(text, &mut heads.slots, &HEAD_LIMITS) {
        Outcome::Partial => return Ok(None),
        Outcome::Malformed(_) => return Err(BAD),
        Outcome::Complete { head, .. } if head.upgrade && head.fields.value("upgrade").is_some() => {
            return Err(NOT_OVER_TWO);
        }
        Outcome::Complete { head, len } => (head, len),
    };
    let request = text::request(&head, to.is_secured, &mut heads.arena).ok_or(BAD)?;
    let has_body = text::has_body(&head);
    // A clone of its own: how many streams there may be is known before, and the library keeps the rest back.
    let (reply, stream) = sender.clone().send_request(request, !has_body).map_err(|_| BAD)?;
    let sink = has_body.then(|| Sink::new(stream));
    let decoder = has_body.then(|| Decoder::new(head.framing));
    let (is_head, waits) = (text::is_head(&head), head.expect == Expect::Continue);
    Ok(Some(Sending { bytes, reply, sink, decoder, is_head, waits }))
}

/// Reads on in a request's body; how many bytes are done.
pub(super) fn read_body(
    text: &[u8],
    decoder: &mut Option<Decoder>,
    sink: &mut Option<Sink>,
) -> Result<usize, &'static str> {
    let mut at = 0;
    while let Some(body) = decoder {
        match body.decode(&text[at..], &BodyLimits::default()) {
            Decoded::Data { consumed, data } => {
                at += consumed;
                sink.iter_mut().for_each(|sink| sink.push(data));
            }
            Decoded::Partial { consumed } => return Ok(at + consumed),
            Decoded::End { consumed, trailers } => {
                at += consumed;
                sink.iter_mut().for_each(|sink| sink.end(text::trailers(trailers)));
                *decoder = None;
            }
            Decoded::Malformed(_) => return Err(BAD),
        }
    }
    Ok(at)
}

/// Whether the server says that it has not looked at the request (RFC 9113, 8.7).
pub(super) fn is_unprocessed(error: &h2::Error) -> bool {
    let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (is_refused || error.is_go_away())
}
