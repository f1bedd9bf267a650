//! What goes over a connection: requests out, responses in. HTTP/1.1 and echo. Pure: the client (`client.rs`) has
//! the connections, the schedule and the counts.

use super::response::{Body, Framing, Malformed, parse_head};
use super::tally::Failure;
use super::template::Templates;
use std::sync::Arc;

/// One kind of request and response.
pub(super) trait Wire: 'static {
    /// The response that is being read.
    type Reader: Default + 'static;

    /// The next request of the order.
    fn next(&mut self) -> u16;

    /// Appends a request.
    fn write(&self, request: u16, out: &mut Vec<u8>);

    /// Reads on in the response to a request. What is not consumed comes again with more behind it.
    fn read(&mut self, reader: &mut Self::Reader, request: u16, input: &[u8]) -> Result<Read, Malformed>;

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
            let head = loop {
                let Some(head) = parse_head(&input[at..], is_head)? else {
                    return Ok(Read { consumed: at, response: None });
                };
                at += head.bytes;
                match head.status {
                    // Nobody asked to switch protocols.
                    101 => return Err(Malformed),
                    100..200 => {}
                    _ => break head,
                }
            };
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
        let is_whole =
            reader.0.as_ref().is_some_and(|reading| reading.body == Body::new(Framing::UntilClose));
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
