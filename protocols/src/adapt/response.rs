//! A response of the `http` crate as one of ours: its field lines, and its body in pieces as the client reads them.
//!
//! What frames a message is the server's business: it is taken from the body where that knows its length, and never from two places.

use super::service::BoxError;
use super::upgrade::Wanted;
use crate::http::owned::reply::{Body, OwnedReply};
use crate::http::{BodyWriter, Fill, Source};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, header, response};
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

/// A body that is longer is not taken in one piece.
const WHOLE_BYTES_MAX: u64 = 64 * 1024;

/// The answer without its body, and the length that its fields declare. `memory` is empty: the lines of the fields go there.
pub(super) fn head(parts: &response::Parts, asked: Asked, memory: Vec<u8>) -> (OwnedReply, Option<u64>) {
    let status = parts.status.as_u16();
    let is_granted = asked.wanted.is_some_and(|wanted| wanted.is_granted(status));
    if !is_granted && parts.status.is_informational() {
        tracing::error!(
            status,
            "a service answered with what is no final answer here: the client is told 500"
        );
        return (failed(), None);
    }
    let mut answer = OwnedReply { fields: memory, ..OwnedReply::new() };
    (answer.status, answer.has_type) = (status, true);
    let (mut length, lines) = (None, &mut answer.fields);
    lines.reserve(parts.headers.len() * 48);
    for (name, value) in &parts.headers {
        match *name {
            header::CONTENT_LENGTH => {
                length = value.to_str().ok().and_then(|text| text.parse().ok());
                continue;
            }
            header::CONNECTION if !is_granted => {
                answer.closes |=
                    value.as_bytes().to_ascii_lowercase().windows(5).any(|part| part == b"close");
                continue;
            }
            header::UPGRADE if !is_granted && status != 426 => continue,
            header::TRANSFER_ENCODING => continue,
            header::SERVER => answer.signed.server = true,
            header::DATE => answer.signed.date = true,
            _ if is_hop_by_hop(name) => continue,
            _ => {}
        }
        write_line(lines, name, value.as_bytes());
    }
    if status == 426 && parts.headers.contains_key(header::UPGRADE) {
        // Upgrade is one hop's business (RFC 9110, 7.8), which Connection has to say.
        lines.extend_from_slice(b"connection: upgrade\r\n");
    }
    (answer, length)
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

/// The body of an answer with this head. `place` is empty before, and behind it.
pub(super) fn body<B>(
    (mut answer, declared): (OwnedReply, Option<u64>),
    body: B,
    asked: Asked,
    place: &mut Place<B>,
    context: &mut Context<'_>,
) -> OwnedReply
where
    B: http_body::Body<Error: Into<BoxError>> + 'static,
{
    let exact = body.size_hint().exact();
    if asked.is_head {
        // What GET would declare: of the field that says so, or of the body that is not sent.
        let length = declared.or(exact.filter(|&length| length > 0));
        answer.body = Body::Source(length, Box::new(Nothing));
        return answer;
    }
    if exact == Some(0) {
        return answer;
    }
    place.set(Some(body));
    let Some(mut pinned) = place.as_mut().as_pin_mut() else { return answer };
    let first = match pinned.as_mut().poll_frame(context) {
        Poll::Pending => Bytes::new(),
        Poll::Ready(None) if exact.or(declared).is_none_or(|length| length == 0) => {
            place.set(None);
            return answer;
        }
        Poll::Ready(None) => Bytes::new(),
        Poll::Ready(Some(Err(error))) => {
            place.set(None);
            let error: BoxError = error.into();
            tracing::debug!(error = &*error, "the body of an answer failed at once: the client is told 500");
            return failed();
        }
        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
            Ok(mut data) => data.copy_to_bytes(data.remaining()),
            Err(_) => Bytes::new(),
        },
    };
    let length = first.len() as u64;
    if exact == Some(length) && length <= WHOLE_BYTES_MAX {
        place.set(None);
        answer.body = Body::Whole(first);
        return answer;
    }
    let body = std::mem::replace(place, Box::pin(None));
    let source = Frames { body, rest: first, takes_trailers: asked.takes_trailers };
    answer.body = Body::Source(exact.or(declared), Box::new(source));
    answer
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
    use crate::http::owned::reply::Signed;
    use http::Response;
    use http_body_util::{Empty, Full, StreamBody};

    fn shown(response: response::Builder, asked: Asked) -> String {
        let (parts, ()) = response.body(()).unwrap().into_parts();
        let (answer, length) = head(&parts, asked, Vec::new());
        let fields = String::from_utf8(answer.fields).unwrap().replace("\r\n", ";");
        let closes = if answer.closes { " closes" } else { "" };
        let Signed { server, date } = answer.signed;
        format!("{} {fields} {length:?}{closes} {server}{date}", answer.status)
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
        check(ok().status(101).header("upgrade", "websocket"), plain, "500  None falsefalse");
        check(ok().status(999), plain, "999  None falsefalse");
    }

    fn made<B>(response: Response<B>, asked: Asked) -> (OwnedReply, Place<B>)
    where
        B: http_body::Body<Error: Into<BoxError>> + 'static,
    {
        let (parts, content) = response.into_parts();
        let mut place = Box::pin(None);
        let context = &mut Context::from_waker(Waker::noop());
        (body(head(&parts, asked, Vec::new()), content, asked, &mut place, context), place)
    }

    fn told<B>(response: Response<B>, asked: Asked) -> String
    where
        B: http_body::Body<Error: Into<BoxError>> + 'static,
    {
        let (answer, place) = made(response, asked);
        assert!(place.is_none(), "the place can be used again");
        match answer.body {
            Body::Known(_, bytes) | Body::Whole(bytes) => format!("{} whole {}", answer.status, bytes.len()),
            Body::Source(length, _) => format!("{} source {length:?}", answer.status),
            Body::Tunnel(..) => "a tunnel".to_owned(),
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
        assert_eq!(told(Response::new(full(5)), plain), "200 whole 5");
        assert_eq!(told(Response::new(full(0)), plain), "200 whole 0");
        assert_eq!(told(Response::new(Empty::<Bytes>::new()), plain), "200 whole 0");
        assert_eq!(told(Response::new(full(70_000)), plain), "200 source Some(70000)");
        assert_eq!(told(Response::new(frames(&[3, 2])), plain), "200 source None");
        assert_eq!(told(Response::new(frames(&[])), plain), "200 whole 0");
        assert_eq!(told(declared("5", frames(&[3, 2])), plain), "200 source Some(5)");
        assert_eq!(told(declared("9", full(5)), plain), "200 whole 5", "the body knows better");
        assert_eq!(told(declared("9", full(0)), head), "200 source Some(9)");
        assert_eq!(told(Response::new(full(5)), head), "200 source Some(5)");
        assert_eq!(told(Response::new(full(0)), head), "200 source None");
        let failing =
            StreamBody::new(futures_util::stream::iter([Err::<hyper::body::Frame<Bytes>, BoxError>(
                "no".into(),
            )]));
        assert_eq!(told(Response::new(failing), plain), "500 whole 26");
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
