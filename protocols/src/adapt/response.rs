//! A response of the `http` crate as our answer: its field lines, and its body in pieces as the client reads them.
//!
//! What frames a message is the server's business: it is taken from the body where that knows its length, and never from two places.

use super::service::BoxError;
use super::upgrade::Wanted;
use crate::http::foreign::Said;
use crate::http::owned::reply::{Body, OwnedReply};
use crate::http::{BodyWriter, Fill, Source};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, StatusCode, header};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// What a response has to know of its request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// The method was HEAD.
    pub(super) is_head: bool,
    /// Trailers are not in vain (`TE: trailers`; RFC 9110, 6.5.1).
    pub(super) takes_trailers: bool,
    /// What the client offered to do with the connection.
    pub(super) wanted: Option<Wanted>,
}

impl Asked {
    /// Whether an answer of this status gives the connection over.
    pub(super) fn is_granted(self, status: StatusCode) -> bool {
        self.wanted.is_some_and(|wanted| wanted.is_granted(status.as_u16()))
    }
}

/// A body that is longer is not taken in one piece.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// What the fields say that the server would say otherwise.
pub(super) fn said(headers: &HeaderMap, is_granted: bool) -> Said {
    let mut said = Said::default();
    for (name, value) in headers {
        match *name {
            header::SERVER => said.server = true,
            header::DATE => said.date = true,
            header::CONNECTION if !is_granted => {
                said.closes |= value.as_bytes().to_ascii_lowercase().windows(5).any(|part| part == b"close");
            }
            _ => {}
        }
    }
    said
}

/// Writes the lines of the fields, but for those that frame the message.
pub(super) fn fields(headers: &HeaderMap, status: StatusCode, is_granted: bool, lines: &mut Vec<u8>) {
    lines.reserve(headers.len() * 48);
    for (name, value) in headers {
        match *name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
            header::CONNECTION if !is_granted => continue,
            header::UPGRADE if !is_granted && status != StatusCode::UPGRADE_REQUIRED => continue,
            _ if is_hop_by_hop(name) => continue,
            _ => write_line(lines, name, value.as_bytes()),
        }
    }
    if status == StatusCode::UPGRADE_REQUIRED && headers.contains_key(header::UPGRADE) {
        // Upgrade is one hop's business (RFC 9110, 7.8), which Connection has to say.
        lines.extend_from_slice(b"connection: upgrade\r\n");
    }
}

/// The length that the fields declare.
fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// The answer where there is none.
pub(super) fn failed() -> OwnedReply {
    OwnedReply::new().status(500).text("500 Internal Server Error\n")
}

/// The lines of trailers.
fn lines(trailers: &HeaderMap) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in trailers {
        if !NO_TRAILERS.contains(name) && !is_hop_by_hop(name) {
            write_line(&mut lines, name, value.as_bytes());
        }
    }
    lines
}

/// Fields that frame or route a message, or are one hop's business (RFC 9110, 6.5.1).
const NO_TRAILERS: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Neither can hold a byte that splits a line: their types see to that.
fn write_line(lines: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    lines.extend_from_slice(name.as_str().as_bytes());
    lines.extend_from_slice(b": ");
    lines.extend_from_slice(value);
    lines.extend_from_slice(b"\r\n");
}

/// Where a body is while it is looked at: a place that is used again if it ends there.
pub(super) type Place<B> = Pin<Box<Option<B>>>;

/// The body of an answer with these fields; `None` where it fails before it begins. `place` is empty before, and behind it.
pub(super) fn body<B>(headers: &HeaderMap, body: B, asked: Asked, place: &mut Place<B>) -> Option<Body>
where
    B: http_body::Body<Error: Into<BoxError>> + 'static,
{
    let exact = body.size_hint().exact();
    if asked.is_head {
        // What GET would declare: of the field that says so, or of the body that is not sent.
        let length = declared_length(headers).or(exact.filter(|&length| length > 0));
        return Some(Body::Source(length, Box::new(Nothing)));
    }
    if exact == Some(0) {
        return Some(Body::Whole(Bytes::new()));
    }
    let length = exact.or_else(|| declared_length(headers));
    place.set(Some(body));
    let pinned = place.as_mut().as_pin_mut()?;
    // A body that is not ready is polled again before it is waited for, with the connection's waker.
    let first = match pinned.poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => Bytes::new(),
        Poll::Ready(None) if length.is_none_or(|length| length == 0) => {
            place.set(None);
            return Some(Body::Whole(Bytes::new()));
        }
        Poll::Ready(None) => Bytes::new(),
        Poll::Ready(Some(Err(error))) => {
            place.set(None);
            let error: BoxError = error.into();
            tracing::debug!(error = &*error, "the body of an answer failed at once: the client is told 500");
            return None;
        }
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(mut data) => data.copy_to_bytes(data.remaining()),
            Err(_) => Bytes::new(),
        },
    };
    let bytes = first.len() as u64;
    if exact == Some(bytes) && bytes <= WHOLE_BYTES_MAX {
        place.set(None);
        return Some(Body::Whole(first));
    }
    let body = std::mem::replace(place, Box::pin(None));
    let source = Frames { body, rest: first, takes_trailers: asked.takes_trailers };
    Some(Body::Source(length, Box::new(source)))
}

/// The body of an answer that has none to send.
struct Nothing;

impl Source for Nothing {
    fn fill(&mut self, _: &mut BodyWriter<'_>) -> Fill {
        Fill::End
    }
}

/// A body, frame by frame; of a frame as much as there is room for.
struct Frames<B> {
    body: Place<B>,
    rest: Bytes,
    takes_trailers: bool,
}

impl<B: http_body::Body<Error: Into<BoxError>>> Source for Frames<B> {
    fn fill(&mut self, writer: &mut BodyWriter<'_>) -> Fill {
        loop {
            if !self.rest.is_empty() {
                let bytes = self.rest.len().min(writer.room_bytes().max(1));
                writer.queue(self.rest.split_to(bytes));
                return Fill::More;
            }
            let waker: Waker = writer.waker().into();
            let Some(body) = self.body.as_mut().as_pin_mut() else { return Fill::End };
            match body.poll_frame(&mut Context::from_waker(&waker)) {
                Poll::Pending => return Fill::Waiting,
                Poll::Ready(None) => return Fill::End,
                Poll::Ready(Some(Err(error))) => {
                    let error: BoxError = error.into();
                    tracing::debug!(error = &*error, "the body of an answer failed: the answer is cut");
                    return Fill::Abort;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(mut data) => self.rest = data.copy_to_bytes(data.remaining()),
                    Err(frame) => {
                        let lines =
                            frame.into_trailers().map(|trailers| lines(&trailers)).unwrap_or_default();
                        if self.takes_trailers && !lines.is_empty() {
                            writer.trailers(&lines);
                        }
                        return Fill::End;
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Response, response};
    use http_body_util::{Empty, Full, StreamBody};

    fn shown(response: response::Builder, asked: Asked) -> String {
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let mut lines = Vec::new();
        let is_granted = asked.is_granted(parts.status);
        fields(&parts.headers, parts.status, is_granted, &mut lines);
        let said = said(&parts.headers, is_granted);
        let lines = String::from_utf8(lines).unwrap().replace("\r\n", ";");
        let length = declared_length(&parts.headers);
        let closes = if said.closes { " closes" } else { "" };
        format!("{} {lines} {length:?}{closes} {}{}", parts.status.as_u16(), said.server, said.date)
    }

    #[test]
    fn heads() {
        let plain = Asked::default();
        let upgrade = Asked { wanted: Some(Wanted::Upgrade), ..plain };
        let check =
            |response: response::Builder, asked, expected: &str| assert_eq!(shown(response, asked), expected);
        let ok = || Response::builder();
        check(ok().header("x-a", "1").header("X-A", "2"), plain, "200 x-a: 1;x-a: 2; None falsefalse");
        check(ok().header("content-length", "5"), plain, "200  Some(5) falsefalse");
        check(ok().header("content-length", "5, 5"), plain, "200  None falsefalse");
        check(ok().header("transfer-encoding", "gzip, chunked"), plain, "200  None falsefalse");
        check(ok().header("connection", "Close"), plain, "200  None closes falsefalse");
        check(ok().header("connection", "x").header("keep-alive", "9"), plain, "200  None falsefalse");
        check(ok().header("server", "s").header("date", "d"), plain, "200 server: s;date: d; None truetrue");
        check(ok().status(204).header("upgrade", "h2c"), plain, "204  None falsefalse");
        check(
            ok().status(426).header("upgrade", "a"),
            plain,
            "426 upgrade: a;connection: upgrade; None falsefalse",
        );
        let switch = ok().status(101).header("connection", "upgrade").header("upgrade", "websocket");
        check(switch, upgrade, "101 connection: upgrade;upgrade: websocket; None falsefalse");
        check(ok().status(999), plain, "999  None falsefalse");
    }

    fn told<B>(response: Response<B>, asked: Asked) -> String
    where
        B: http_body::Body<Error: Into<BoxError>> + 'static,
    {
        let (parts, content) = response.into_parts();
        let mut place = Box::pin(None);
        let content = body(&parts.headers, content, asked, &mut place);
        assert!(place.is_none(), "the place can be used again");
        match content {
            Some(Body::Known(_, bytes) | Body::Whole(bytes)) => format!("whole {}", bytes.len()),
            Some(Body::Source(length, _)) => format!("source {length:?}"),
            Some(Body::Tunnel(..)) => "a tunnel".to_owned(),
            None => "failed".to_owned(),
        }
    }

    fn frames(lengths: &'static [usize]) -> impl http_body::Body<Data = Bytes, Error = BoxError> {
        let frame = |&length: &usize| Ok(hyper::body::Frame::data(Bytes::from(vec![b'x'; length])));
        StreamBody::new(futures_util::stream::iter(lengths.iter().map(frame)))
    }

    fn declared<B>(length: &str, body: B) -> Response<B> {
        Response::builder().header("content-length", length).body(body).unwrap()
    }

    #[test]
    fn lengths_come_from_bodies_where_they_know_them() {
        let (plain, head) = (Asked::default(), Asked { is_head: true, ..Asked::default() });
        let full = |length| Full::new(Bytes::from(vec![0; length]));
        assert_eq!(told(Response::new(full(5)), plain), "whole 5");
        assert_eq!(told(Response::new(full(0)), plain), "whole 0");
        assert_eq!(told(Response::new(Empty::<Bytes>::new()), plain), "whole 0");
        assert_eq!(told(Response::new(full(70_000)), plain), "source Some(70000)");
        assert_eq!(told(Response::new(frames(&[3, 2])), plain), "source None");
        assert_eq!(told(Response::new(frames(&[])), plain), "whole 0");
        assert_eq!(told(declared("5", frames(&[3, 2])), plain), "source Some(5)");
        assert_eq!(told(declared("9", full(5)), plain), "whole 5", "the body knows better");
        assert_eq!(told(declared("9", full(0)), head), "source Some(9)");
        assert_eq!(told(Response::new(full(5)), head), "source Some(5)");
        assert_eq!(told(Response::new(full(0)), head), "source None");
        let failing =
            StreamBody::new(futures_util::stream::iter([Err::<hyper::body::Frame<Bytes>, BoxError>(
                "no".into(),
            )]));
        assert_eq!(told(Response::new(failing), plain), "failed");
    }

    #[test]
    fn trailer_lines_frame_nothing() {
        let mut trailers = HeaderMap::new();
        for (name, value) in
            [("x-sum", "7"), ("content-length", "9"), ("grpc-status", "0"), ("keep-alive", "1")]
        {
            trailers.insert(name, http::HeaderValue::from_static(value));
        }
        assert_eq!(lines(&trailers), b"x-sum: 7\r\ngrpc-status: 0\r\n");
    }
}
