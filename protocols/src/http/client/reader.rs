//! A whole reply as a strict client reads it: interim heads, the final head with its fields, the body, its trailers. Pure:
//! bytes in, events out; however the bytes are cut, the events are the same.
//!
//! What frames a body is decided by the request as well (RFC 9112, 6.3): a reply to HEAD has none, nor have 1xx, 204, 304 and
//! a 2xx to CONNECT. Where one must not be and a field announces it, the reply is refused: whoever reads it otherwise would take
//! its body for the next reply. Field lines are scanned as those of requests are (`one/syntax.rs`), bodies decoded by the same
//! decoder (`one/decoder.rs`).

use super::known::Known;
use super::response::Framing;
use crate::http::message::{self, FIELDS_MAX, Fields, HEAD_BYTES_MAX, Slot, Slots, Span, Version};
use crate::http::one::decoder::{BodyLimits, Decoded, Decoder};
use crate::http::one::syntax::{Stop, fields, head_end, is_text};
use crate::http::reject::Reject;

/// Interim replies (1xx) to one request; one more is a defect. Each costs the reader a head, and nobody needs many.
const INTERIM_MAX: u8 = 32;

/// Why the bytes are no reply to pass on. Nothing behind them can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defect(pub &'static str);

impl From<Reject> for Defect {
    fn from(reject: Reject) -> Defect {
        Defect(match reject {
            Reject::FieldsMany => "the head has more fields than are taken",
            reject => reject.reason(),
        })
    }
}

/// What of the request decides how its reply is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The method is HEAD.
    pub is_head: bool,
    /// The method is CONNECT.
    pub is_connect: bool,
    /// Another protocol was asked for: 101 may come.
    pub upgrades: bool,
}

/// The head of a reply.
#[derive(Clone, Copy, Debug)]
pub struct Response<'h, 'b> {
    /// Bytes of the head, with its empty line.
    pub bytes: usize,
    /// From 100 to 999.
    pub status: u16,
    /// What stands behind the status; perhaps nothing.
    pub reason: &'b [u8],
    /// Of the server.
    pub version: Version,
    /// All fields in order.
    pub fields: Fields<'h, 'b>,
    /// How the end of the body is found; `None` where there is none, whatever the fields say.
    pub body: Option<Framing>,
    /// What Content-Length says. A reply to HEAD has one, and no body.
    pub length: Option<u64>,
    /// The server goes on with this connection behind this reply.
    pub keep_alive: bool,
    /// Connection names `upgrade`.
    pub upgrade: bool,
}

/// What the front of the input held.
#[derive(Debug)]
pub enum Event<'h, 'b> {
    /// The head of an interim reply (1xx); others follow.
    Interim(Response<'h, 'b>),
    /// The final head. With status 101 the other protocol follows it, in which nothing is read here.
    Head(Response<'h, 'b>),
    /// Of the body, never empty.
    Data {
        /// Bytes to drop from the input.
        consumed: usize,
        /// The data.
        data: &'b [u8],
    },
    /// All that could be used is used.
    Partial {
        /// Bytes to drop from the input; perhaps none.
        consumed: usize,
    },
    /// The reply is complete.
    End {
        /// Bytes to drop from the input.
        consumed: usize,
        /// The field lines of the trailer section, each with its CRLF; mostly empty.
        trailers: &'b [u8],
    },
    /// The reply is broken.
    Bad(Defect),
}

/// Reads one reply.
#[derive(Clone, Debug)]
pub struct Reader {
    asked: Asked,
    at: At,
}

#[derive(Clone, Debug)]
enum At {
    Head { searched: u16, interim: u8 },
    Framed(Decoder),
    UntilClose,
    Done,
    Broken(Defect),
}

impl Reader {
    /// At the front of a reply to such a request.
    pub fn new(asked: Asked) -> Reader {
        Reader { asked, at: At::Head { searched: 0, interim: 0 } }
    }

    /// Reads on at the front of `input`. Call it again with the input less the bytes that the event names (of a head,
    /// [`Response::bytes`]) until it says partial, end or bad; it keeps the last two for good.
    ///
    /// The data in all, the heads and the verdict do not depend on how the input was cut. A head has at most 64 KiB and 100
    /// fields, and 32 interim ones may come before the final one.
    pub fn read<'h, 'b>(
        &mut self,
        input: &'b [u8],
        slots: &'h mut Slots,
        limits: &BodyLimits,
    ) -> Event<'h, 'b> {
        match &mut self.at {
            At::Head { .. } => self.head(input, slots),
            At::Framed(decoder) => match decoder.decode(input, limits) {
                Decoded::Data { consumed, data } => Event::Data { consumed, data },
                Decoded::Partial { consumed } => Event::Partial { consumed },
                Decoded::End { consumed, trailers } => Event::End { consumed, trailers },
                Decoded::Malformed(reject) => self.fail(reject.into()),
            },
            At::UntilClose if input.is_empty() => Event::Partial { consumed: 0 },
            At::UntilClose => Event::Data { consumed: input.len(), data: input },
            At::Done => Event::End { consumed: 0, trailers: &[] },
            At::Broken(defect) => Event::Bad(*defect),
        }
    }

    /// Whether the final head was read, and not all that follows it.
    #[cfg(any(test, feature = "internals"))]
    pub fn is_in_body(&self) -> bool {
        matches!(self.at, At::Framed(_) | At::UntilClose)
    }

    /// Whether the reply is complete if the connection ends now, though [`Reader::read`] has not said so.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.at, At::UntilClose)
    }

    fn head<'h, 'b>(&mut self, input: &'b [u8], slots: &'h mut Slots) -> Event<'h, 'b> {
        let At::Head { searched, interim } = &mut self.at else { return Event::Partial { consumed: 0 } };
        let window = &input[..input.len().min(HEAD_BYTES_MAX)];
        let from = usize::from(*searched);
        let is_due = || head_end(window, from).is_some() || window.len() == HEAD_BYTES_MAX;
        // Most come whole. One that drips in is not parsed anew with every drop.
        let parsed = if from > 0 && !is_due() { Ok(None) } else { parse_response(input, slots, self.asked) };
        let response = match parsed {
            Ok(Some(response)) => response,
            Err(defect) if is_due() => return self.fail(defect),
            Ok(None) | Err(_) if !begins_well(window) => return self.fail(BAD_STATUS_LINE),
            // Of what is wrong behind that nothing is said before the end of the head, however much of it comes at once.
            Ok(None) | Err(_) => {
                *searched = window.len() as u16;
                return Event::Partial { consumed: 0 };
            }
        };
        *searched = 0;
        match response.status {
            101 => match self.asked.upgrades && response.upgrade {
                true => self.at = At::Done,
                false => return self.fail(Defect("101 without having been asked for another protocol")),
            },
            100..200 if *interim == INTERIM_MAX => return self.fail(Defect("too many interim replies")),
            100..200 => {
                *interim += 1;
                return Event::Interim(response);
            }
            _ => {
                self.at = match response.body {
                    None => At::Done,
                    Some(Framing::Length(length)) => {
                        At::Framed(Decoder::new(message::Framing::Length(length)))
                    }
                    Some(Framing::Chunked) => At::Framed(Decoder::new(message::Framing::Chunked)),
                    Some(Framing::UntilClose) => At::UntilClose,
                }
            }
        }
        Event::Head(response)
    }

    fn fail<'h, 'b>(&mut self, defect: Defect) -> Event<'h, 'b> {
        self.at = At::Broken(defect);
        Event::Bad(defect)
    }
}

/// Parses the head at the front of `input`; `None` while it is not complete. Nothing in it is repaired: a folded field is refused
/// as well, as a proxy may (RFC 9112, 5.2).
pub fn parse_response<'h, 'b>(
    input: &'b [u8],
    slots: &'h mut Slots,
    asked: Asked,
) -> Result<Option<Response<'h, 'b>>, Defect> {
    let window = &input[..input.len().min(HEAD_BYTES_MAX)];
    let (mut known, mut fields_len) = (Known::default(), 0);
    let scanned = status_line(window).and_then(|line| {
        let end = fields(window, line.end, |name, value| {
            let slot = slots.0.get_mut(fields_len).ok_or(Reject::FieldsMany)?;
            *slot = Slot { name, value };
            fields_len += 1;
            known.note(window, name, value);
            Ok(())
        });
        end.map(|bytes| (line, bytes)).map_err(Scan::from)
    });
    let (line, bytes) = match scanned {
        Ok(scanned) => scanned,
        Err(Scan::Partial) if input.len() >= HEAD_BYTES_MAX => {
            return Err(Defect("the head is longer than is taken"));
        }
        Err(Scan::Partial) => return Ok(None),
        Err(Scan::Bad(defect)) => return Err(defect),
    };
    debug_assert!(fields_len <= FIELDS_MAX, "each has a slot");
    let text = &window[..bytes];
    let is_http11 = line.version == Version::Http11;
    let (length, is_chunked) = known.framing(text)?;
    if is_chunked && !is_http11 {
        return Err(Reject::CodingVersion.into());
    }
    let body = match line.status {
        // RFC 9110, 8.6 and RFC 9112, 6.1: a server must not send these, and some readers would wait for a body.
        100..200 if length.is_some() || is_chunked => {
            return Err(Defect("an interim reply announces a body (RFC 9112 section 6.1)"));
        }
        204 if length.is_some_and(|length| length > 0) || is_chunked => {
            return Err(Defect("204 announces a body (RFC 9112 section 6.1)"));
        }
        200..300 if asked.is_connect => None,
        100..200 | 204 | 304 => None,
        _ if asked.is_head => None,
        _ => Some(match length {
            Some(length) => Framing::Length(length),
            None if is_chunked => Framing::Chunked,
            None => Framing::UntilClose,
        }),
    };
    let keep_alive = !known.close && (is_http11 || known.keep_alive) && body != Some(Framing::UntilClose);
    Ok(Some(Response {
        bytes,
        status: line.status,
        reason: line.reason.of(text),
        version: line.version,
        fields: Fields { text, slots: &slots.0[..fields_len] },
        body,
        length,
        keep_alive,
        upgrade: known.upgrade,
    }))
}

/// Why scanning stopped.
enum Scan {
    Partial,
    Bad(Defect),
}

impl From<Stop> for Scan {
    fn from(stop: Stop) -> Scan {
        match stop {
            Stop::Partial => Scan::Partial,
            Stop::Malformed(reject) => Scan::Bad(reject.into()),
        }
    }
}

struct StatusLine {
    version: Version,
    status: u16,
    reason: Span,
    end: usize,
}

const BAD_STATUS_LINE: Defect = Defect("the status line is malformed (RFC 9112 section 4)");

/// How a status line begins: v is 0 or 1, s is 1 to 9.
const SHAPE: &[u8; 12] = b"HTTP/1.v sdd";

/// Whether a status line may begin so, as far as it is there.
fn begins_well(window: &[u8]) -> bool {
    window.iter().zip(SHAPE).all(|(byte, shape)| match shape {
        b'v' => matches!(byte, b'0' | b'1'),
        b's' => matches!(byte, b'1'..=b'9'),
        b'd' => byte.is_ascii_digit(),
        _ => byte == shape,
    })
}

/// `HTTP-version SP status-code SP [ reason-phrase ] CRLF` (RFC 9112, 4). The space behind the status may be missing with the
/// reason: many servers leave both out.
fn status_line(window: &[u8]) -> Result<StatusLine, Scan> {
    const BAD: Scan = Scan::Bad(BAD_STATUS_LINE);
    if !begins_well(window) {
        return Err(BAD);
    }
    let Some(rest) = window.get(SHAPE.len()..) else { return Err(Scan::Partial) };
    let text_len = rest.iter().position(|byte| !is_text(*byte)).unwrap_or(rest.len());
    if !matches!(rest.first(), None | Some(b' ' | b'\r')) {
        return Err(BAD);
    }
    match rest[text_len..] {
        [b'\r', b'\n', ..] => {}
        [] | [b'\r'] => return Err(Scan::Partial),
        _ => return Err(BAD),
    }
    let line_end = SHAPE.len() + text_len;
    let status = window[9..12].iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    Ok(StatusLine {
        version: if window[7] == b'1' { Version::Http11 } else { Version::Http10 },
        status,
        reason: Span::new(line_end.min(SHAPE.len() + 1), line_end),
        end: line_end + 2,
    })
}

#[cfg(test)]
mod hyper;
#[cfg(test)]
mod tests;
