//! Replies as hyper's client reads them: what we take, it takes and sees the same in it; where it takes what we refuse, the
//! list says why. Both read in memory; the connection ends behind the input.

use super::tests::{LIMITS, cases, mutated, text_of};
use super::*;
use ::hyper::client::conn::http1;
use ::hyper::rt::{Read, ReadBufCursor, Write};
use ::hyper::{Method, Request};
use http_body_util::{BodyExt, Empty};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

const REPLIES: u64 = 30_000;

/// What a client made of its input: status, fields, content, and trailers; or why not.
type Taken = Result<(u16, Fields, Vec<u8>, Fields), String>;
type Fields = Vec<(String, Vec<u8>)>;

/// What the end of the connection cuts off.
const CUT: &str = "cut off";

/// What hyper takes though we do not, and why we do not.
const LENIENT: &[(&str, &str)] = &[
    ("the status line is malformed", "hyper takes more for a status line: LF alone, empty lines before it"),
    (
        "A line ended in LF",
        "RFC 9112, 2.2: MAY be taken for an end of a line; who does and who does not disagree",
    ),
    ("an interim reply announces", "RFC 9112, 6.1: MUST NOT be sent; hyper passes over it"),
    ("204 announces", "RFC 9112, 6.1: MUST NOT be sent; hyper passes over it"),
    ("Content-Length and Transfer-Encoding", "RFC 9112, 6.3: ought to be an error; hyper takes the chunks"),
    ("Content-Length came more than once", "RFC 9110, 8.6: MAY be taken where the values are equal"),
    ("Content-Length is decimal digits", "RFC 9110, 8.6: a list of equal values MAY be taken"),
    (
        "Content-Length does not fit",
        "RFC 9110, 8.6: what overflows is an error; hyper takes it for no content",
    ),
    ("Transfer-Encoding is given once", "RFC 9112, 6.1: chunked MUST NOT be applied twice"),
    ("The only transfer coding", "RFC 9112, 6.1: codings that we do not decode; hyper hands them on encoded"),
    (
        "Transfer-Encoding does not exist",
        "RFC 9112, 6.1: HTTP/1.0 has none; hyper takes the connection's end",
    ),
    ("A chunk", "RFC 9112, 7.1: white space around the size, extensions that are none"),
    ("A field that frames", "RFC 9110, 6.5.1: never as a trailer"),
    ("101 without", "RFC 9110, 7.8: nobody asked; hyper has 101 as a response"),
];

fn ours(asked: Asked, mut input: &[u8]) -> Taken {
    let (mut reader, mut slots) = (Reader::new(asked), Slots::new());
    let (mut status, mut fields, mut data) = (0, Vec::new(), Vec::new());
    let owned = |name: &[u8], value: &[u8]| (String::from_utf8_lossy(name).to_lowercase(), value.to_vec());
    loop {
        let consumed = match reader.read(input, &mut slots, &LIMITS) {
            Event::Interim(response) => response.bytes,
            Event::Head(response) => {
                status = response.status;
                fields = sorted(response.fields.iter().map(|field| owned(field.name, field.value)).collect());
                response.bytes
            }
            Event::Data { consumed, data: part } => {
                data.extend_from_slice(part);
                consumed
            }
            Event::Partial { .. } if reader.ends_with_connection() => {
                return Ok((status, fields, data, Vec::new()));
            }
            Event::Partial { .. } => return Err(CUT.to_owned()),
            Event::End { trailers, .. } => {
                let lines = trailers.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let trailers = lines.map(|line| {
                    let colon = line.iter().position(|byte| *byte == b':').expect("a field");
                    owned(&line[..colon], line[colon + 1..].trim_ascii())
                });
                return Ok((status, fields, data, sorted(trailers.collect())));
            }
            Event::Bad(defect) => return Err(defect.0.to_owned()),
        };
        input = &input[consumed..];
    }
}

fn theirs(asked: Asked, input: &[u8]) -> Taken {
    let mut exchange = pin!(exchange(asked, input.to_vec()));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let Poll::Ready(taken) = exchange.as_mut().poll(&mut context) {
            return taken;
        }
    }
    panic!("hyper waits for ever: {}", text_of(input));
}

async fn exchange(asked: Asked, input: Vec<u8>) -> Taken {
    let tell = |error: ::hyper::Error| {
        let source = std::error::Error::source(&error);
        source.map_or(error.to_string(), |source| format!("{error}: {source}"))
    };
    let wire = Wire { input, taken: 0, is_asked: false };
    let (mut sender, connection) = http1::handshake(wire).await.map_err(tell)?;
    let mut connection = pin!(connection.with_upgrades());
    let mut is_over = false;
    let mut request = Request::new(Empty::<&[u8]>::new());
    if asked.is_head {
        *request.method_mut() = Method::HEAD;
    }
    request.headers_mut().insert("host", "a".parse().expect("a value"));
    let mut reply = pin!(async move {
        let (head, mut body) = sender.send_request(request).await.map_err(tell)?.into_parts();
        let (mut data, mut trailers) = (Vec::new(), Vec::new());
        while let Some(frame) = body.frame().await {
            match frame.map_err(tell)?.into_data() {
                Ok(part) => data.extend_from_slice(&part),
                Err(frame) => trailers = owned(&frame.into_trailers().expect("data or trailers")),
            }
        }
        Ok::<_, String>((head.status.as_u16(), owned(&head.headers), data, trailers))
    });
    poll_fn(|context| {
        if !is_over {
            is_over = connection.as_mut().poll(context).is_ready();
        }
        reply.as_mut().poll(context)
    })
    .await
}

/// By name, as a header map keeps no order between names.
fn sorted(mut fields: Fields) -> Fields {
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

fn owned(fields: &::http::HeaderMap) -> Fields {
    sorted(fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect())
}

/// The server's end: its input comes when something was asked, and then the connection ends.
struct Wire {
    input: Vec<u8>,
    taken: usize,
    is_asked: bool,
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_asked {
            return Poll::Pending;
        }
        let bytes = buffer.remaining().min(self.input.len() - self.taken);
        buffer.put_slice(&self.input[self.taken..self.taken + bytes]);
        self.taken += bytes;
        Poll::Ready(Ok(()))
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn hyper_reads_replies_as_we_do_or_it_is_said_why() {
    let all: Vec<Vec<u8>> = cases().map(|(_, _, input, _)| input).collect();
    let (mut taken, mut explained, mut unexplained) = (0, vec![0; LENIENT.len()], BTreeMap::new());
    let inputs = all.iter().cloned().chain((0..REPLIES).map(|seed| mutated(&all, seed)));
    for (at, input) in inputs.enumerate() {
        let asked = Asked { is_head: at % 5 == 0, ..Asked::default() };
        let difference = match (ours(asked, &input), theirs(asked, &input)) {
            (Ok(ours), Ok(theirs)) if ours == theirs => {
                taken += 1;
                continue;
            }
            (Err(_), Err(_)) => continue,
            (Err(ours), Ok(theirs)) => {
                if let Some(rule) = LENIENT.iter().position(|(start, _)| ours.starts_with(start)) {
                    explained[rule] += 1;
                    continue;
                }
                format!("{ours}, hyper: {theirs:?}")
            }
            (Ok(ours), Err(theirs)) => format!("{ours:?}, hyper: {theirs}"),
            (Ok(ours), Ok(theirs)) => format!("{ours:?}, hyper: {theirs:?}"),
        };
        unexplained.entry(difference).or_insert_with(|| text_of(&input));
    }
    assert!(unexplained.is_empty(), "{} differences: {unexplained:#?}", unexplained.len());
    assert!(taken > REPLIES / 5, "{taken} were taken");
    for ((start, _), count) in LENIENT.iter().zip(explained) {
        assert!(count > 0, "no reply needs the explanation of {start:?}");
    }
}
