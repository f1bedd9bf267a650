//! What goes over a connection: requests out, responses in. HTTP/1.1 and echo. Pure: the client (`client.rs`) has
//! the connections, the schedule and the counts.

use super::tally::Failure;
use super::template::Templates;
use ringmill::http::client::{Body, Malformed, parse_final_head};
use std::sync::Arc;

/// One kind of request and response.
pub(super) trait Wire: 'static {
    /// The response that is being read.
    type Reader: Default + 'static;

    /// The next request of the order.
    fn next(&mut self) -> u16;

    /// What a connection begins with, before any request.
    fn opening(&self) -> Option<&[u8]> {
        None
    }

    /// Reads the answer to that: how much of the input it was, once it is there.
    fn read_opening(&mut self, _input: &[u8]) -> Result<Option<usize>, Malformed> {
        Ok(Some(0))
    }

    /// Appends a request.
    fn write(&self, request: u16, out: &mut Vec<u8>);

    /// Reads on in the response to a request. What is not consumed comes again with more behind it.
    fn read(&mut self, reader: &mut Self::Reader, request: u16, input: &[u8]) -> Result<Read, Malformed>;

    /// Reads what comes although no request is under way; `None` if nothing may.
    fn read_unasked(&mut self, _reader: &mut Self::Reader, _input: &[u8]) -> Option<usize> {
        None
    }

    /// What is to be said to what was read, beside requests.
    fn reply(&self, _reader: &mut Self::Reader, _out: &mut Vec<u8>) {}

    /// The server has closed: the response that this completes, if it does.
    fn end(&mut self, reader: &mut Self::Reader, request: u16) -> Option<Response>;
}

/// What one look at the input gave.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) consumed: usize,
    pub(super) response: Option<Response>,
}

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// Zero for an echo.
    pub(super) status: u16,
    /// The server goes on with this connection.
    pub(super) keep_alive: bool,
    /// What is wrong with it, if anything is.
    pub(super) failure: Option<Failure>,
}

/// What a good response is.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// `None` is any from 200 to 299.
    pub(super) status: Option<u16>,
    pub(super) body: ExpectedBody,
}

#[derive(Clone, Debug, Default)]
pub(super) enum ExpectedBody {
    #[default]
    Any,
    Length(u64),
    Exactly(Arc<[u8]>),
    /// The same as the first good one to the same request.
    Same,
}

/// HTTP/1.1.
pub(super) struct Http {
    templates: Arc<Templates>,
    at: usize,
    expected: Expected,
    /// By request, for `ExpectedBody::Same`.
    first: Vec<Option<Box<[u8]>>>,
}

impl Http {
    /// `start` is where in the order this worker begins, so that workers do not go in step.
    pub(super) fn new(templates: Arc<Templates>, expected: Expected, start: usize) -> Http {
        let first = templates.all.iter().map(|_| None).collect();
        Http { at: start % templates.order.len(), templates, expected, first }
    }

    fn judge(&mut self, reader: &mut Reader, request: u16) -> Response {
        let Reading { status, keep_alive, bytes, is_equal, .. } =
            reader.0.take().expect("a response was being read");
        let is_status = match self.expected.status {
            Some(expected) => status == expected,
            None => (200..300).contains(&status),
        };
        let is_body = match &self.expected.body {
            ExpectedBody::Any => true,
            ExpectedBody::Length(expected) => bytes == *expected,
            ExpectedBody::Exactly(expected) => is_equal && bytes == expected.len() as u64,
            ExpectedBody::Same => match &self.first[usize::from(request)] {
                Some(first) => is_equal && bytes == first.len() as u64,
                None => {
                    if is_status {
                        self.first[usize::from(request)] = Some(std::mem::take(&mut reader.1).into());
                    }
                    true
                }
            },
        };
        let failure = match (is_status, is_body) {
            (false, _) => Some(Failure::Status),
            (true, false) => Some(Failure::Body),
            (true, true) => None,
        };
        Response { status, keep_alive, failure }
    }
}

/// The response that is being read; and the first body, where later ones must be the same.
#[derive(Default)]
pub(super) struct Reader(Option<Reading>, Vec<u8>);

struct Reading {
    status: u16,
    keep_alive: bool,
    body: Body,
    /// Of the body, so far.
    bytes: u64,
    /// The body so far is the front of the expected one.
    is_equal: bool,
}

impl Wire for Http {
    type Reader = Reader;

    fn next(&mut self) -> u16 {
        let request = self.templates.order[self.at];
        self.at = if self.at + 1 == self.templates.order.len() { 0 } else { self.at + 1 };
        request
    }

    fn write(&self, request: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.templates.all[usize::from(request)].bytes);
    }

    fn read(&mut self, reader: &mut Reader, request: u16, input: &[u8]) -> Result<Read, Malformed> {
        let mut at = 0;
        if reader.0.is_none() {
            let is_head = self.templates.all[usize::from(request)].is_head;
            let (passed, head) = parse_final_head(input, is_head)?;
            let Some(head) = head else { return Ok(Read { consumed: passed, response: None }) };
            at = passed + head.bytes;
            reader.1.clear();
            reader.0 = Some(Reading {
                status: head.status,
                keep_alive: head.keep_alive,
                body: Body::new(head.framing),
                bytes: 0,
                is_equal: true,
            });
        }
        let reading = reader.0.as_mut().expect("set above");
        let known: Option<&[u8]> = match &self.expected.body {
            ExpectedBody::Exactly(body) => Some(body),
            ExpectedBody::Same => self.first[usize::from(request)].as_deref(),
            ExpectedBody::Any | ExpectedBody::Length(_) => None,
        };
        let keeps = matches!(self.expected.body, ExpectedBody::Same) && known.is_none();
        let (bytes, is_equal, kept) = (&mut reading.bytes, &mut reading.is_equal, &mut reader.1);
        let progress = reading.body.read(&input[at..], |data| {
            if let Some(known) = known {
                let start = usize::try_from(*bytes).unwrap_or(usize::MAX).min(known.len());
                *is_equal &= known[start..].starts_with(data);
            }
            if keeps {
                kept.extend_from_slice(data);
            }
            *bytes += data.len() as u64;
        })?;
        let response = progress.is_complete.then(|| self.judge(reader, request));
        Ok(Read { consumed: at + progress.consumed, response })
    }

    fn end(&mut self, reader: &mut Reader, request: u16) -> Option<Response> {
        let is_whole = reader.0.as_ref().is_some_and(|reading| reading.body.ends_with_connection());
        is_whole.then(|| self.judge(reader, request))
    }
}

/// Every byte comes back.
pub(super) struct Echo {
    pub(super) payload: Arc<[u8]>,
}

/// How much of the payload has come back, and whether it was the same.
#[derive(Default)]
pub(super) struct Echoed {
    bytes: usize,
    is_different: bool,
}

impl Wire for Echo {
    type Reader = Echoed;

    fn next(&mut self) -> u16 {
        0
    }

    fn write(&self, _: u16, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.payload);
    }

    fn read(&mut self, reader: &mut Echoed, _: u16, input: &[u8]) -> Result<Read, Malformed> {
        let rest = &self.payload[reader.bytes..];
        let consumed = rest.len().min(input.len());
        reader.is_different |= rest[..consumed] != input[..consumed];
        reader.bytes += consumed;
        let response = (reader.bytes == self.payload.len()).then(|| Response {
            status: 0,
            keep_alive: true,
            failure: std::mem::take(reader).is_different.then_some(Failure::Body),
        });
        Ok(Read { consumed, response })
    }

    fn end(&mut self, _: &mut Echoed, _: u16) -> Option<Response> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Template;
    use super::*;

    /// A client of two requests in turn, the second of them HEAD.
    fn http(body: ExpectedBody) -> Http {
        let template = |is_head| Template { bytes: Vec::new(), is_head };
        let templates = Templates { all: vec![template(false), template(true)], order: vec![0, 1] };
        Http::new(Arc::new(templates), Expected { status: None, body }, 0)
    }

    /// Reads a stream in pieces that end at `cuts`, as the engine gives it: what was not consumed comes again.
    fn read(wire: &mut Http, stream: &[u8], cuts: &[usize]) -> Result<Vec<Response>, Malformed> {
        let (mut reader, mut responses, mut at) = (Reader::default(), Vec::new(), 0);
        for end in cuts.iter().copied().chain([stream.len()]) {
            while at < end {
                let read = wire.read(&mut reader, (responses.len() % 2) as u16, &stream[at..end])?;
                at += read.consumed;
                match read.response {
                    Some(response) => responses.push(response),
                    None => break,
                }
            }
        }
        responses.extend(wire.end(&mut reader, (responses.len() % 2) as u16));
        Ok(responses)
    }

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
        HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\
        HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n\
        3\r\nhel\r\n2;x\r\nlo\r\n0\r\na: b\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n\
        HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n\
        HTTP/1.0 200 OK\r\n\r\nhello";

    #[test]
    fn responses_read_the_same_however_they_are_cut() {
        let all = |body: &ExpectedBody, cuts: &[usize]| read(&mut http(body.clone()), STREAM, cuts);
        let hello = ExpectedBody::Exactly(b"hello".as_slice().into());
        for body in [ExpectedBody::Any, ExpectedBody::Same, ExpectedBody::Length(5), hello] {
            let expected = all(&body, &[]).unwrap();
            let heads: Vec<(u16, bool)> =
                expected.iter().map(|response| (response.status, response.keep_alive)).collect();
            let good =
                [(200, true), (200, true), (201, true), (204, true), (404, true), (204, false), (200, false)];
            assert_eq!(heads, good);
            for first in 0..=STREAM.len() {
                for second in (first..=STREAM.len()).step_by(11) {
                    assert_eq!(
                        all(&body, &[first, second]).as_ref(),
                        Ok(&expected),
                        "{body:?} {first} {second}"
                    );
                }
            }
            let everywhere: Vec<usize> = (0..STREAM.len()).collect();
            assert_eq!(all(&body, &everywhere), Ok(expected), "{body:?} byte by byte");
        }
    }

    #[test]
    fn bodies_are_judged() {
        let failures = |body| -> Vec<Option<Failure>> {
            read(&mut http(body), STREAM, &[]).unwrap().into_iter().map(|response| response.failure).collect()
        };
        let (status, body) = (Some(Failure::Status), Some(Failure::Body));
        assert_eq!(failures(ExpectedBody::Any), [None, None, None, None, status, None, None]);
        // The responses to HEAD have a first body of their own: none.
        assert_eq!(failures(ExpectedBody::Same), [None, None, None, None, status, None, None]);
        assert_eq!(failures(ExpectedBody::Length(5)), [None, body, None, body, status, body, None]);
        let hello = |text: &[u8]| ExpectedBody::Exactly(text.into());
        assert_eq!(failures(hello(b"hello")), [None, body, None, body, status, body, None]);
        assert_eq!(failures(hello(b"hellooo")), [body, body, body, body, status, body, body]);
    }

    /// Bytes that are no responses never panic, and their verdict does not depend on the cuts either.
    #[test]
    fn damaged_responses_read_the_same_however_they_are_cut() {
        let mut seed = 1u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut malformed = 0;
        for _ in 0..3000 {
            let mut stream = STREAM.to_vec();
            for _ in 0..1 + random(3) {
                let at = random(stream.len());
                match random(3) {
                    0 => stream[at] = b"\r\n :;0a\0\xff"[random(9)],
                    1 => drop(stream.remove(at)),
                    _ => stream.truncate(at + 1),
                }
            }
            let whole = read(&mut http(ExpectedBody::Any), &stream, &[]);
            malformed += usize::from(whole.is_err());
            let mut cuts: Vec<usize> = (0..4).map(|_| random(stream.len() + 1)).collect();
            cuts.sort_unstable();
            assert_eq!(
                read(&mut http(ExpectedBody::Any), &stream, &cuts),
                whole,
                "{:?}",
                stream.escape_ascii()
            );
        }
        assert!(malformed > 500, "the damage shows: {malformed}");
    }

    #[test]
    fn echoes_are_compared_across_pieces() {
        let check = |pieces: &[&[u8]], expected: &[Option<Failure>]| {
            let mut wire = Echo { payload: b"abcd".as_slice().into() };
            let (mut reader, mut seen) = (Echoed::default(), Vec::new());
            for piece in pieces {
                let mut at = 0;
                while at < piece.len() {
                    let read = wire.read(&mut reader, 0, &piece[at..]).unwrap();
                    at += read.consumed;
                    seen.extend(read.response.map(|response| response.failure));
                }
            }
            assert_eq!(seen, expected, "{pieces:?}");
        };
        check(&[b"abcdabcd"], &[None, None]);
        check(&[b"ab", b"c", b"dab", b"cd"], &[None, None]);
        check(&[b"abXdabcd"], &[Some(Failure::Body), None]);
        check(&[b"Xb", b"cdab"], &[Some(Failure::Body)]);
    }
}
