//! Request bodies: bytes in, slices of body data out (RFC 9112 sections 6 and 7).
//!
//! Pure and without allocation: data comes out as slices of the input. Size lines of chunks are read byte by
//! byte and consumed at once, so that a dripping client costs no more than a fast one; only a trailer section
//! waits in the caller's buffer until it is whole. Every rule is judged at the byte that breaks it, so that
//! cutting the input changes nothing.
//!
//! It never looks into data, never decompresses and never counts a body against its limit: the session does.
//! Heads are in `head.rs`.

use super::syntax::{Stop, fields, head_end, is_text, is_token};
use crate::http::message::{Framing, HEAD_BYTES_MAX};
use crate::http::reject::Reject;

/// Limits on what frames a body. How long the body itself may be is the caller's to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes of all chunk extensions and trailers of one body, at most [`HEAD_BYTES_MAX`]; beyond it the
    /// answer is 400.
    pub framing_bytes_max: usize,
}

impl Default for BodyLimits {
    fn default() -> Self {
        BodyLimits { framing_bytes_max: 16 << 10 }
    }
}

/// What the front of the input held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'b> {
    /// Body data, never empty. Call again with what follows the consumed bytes.
    Data {
        /// Bytes to drop from the input: the data and the framing before it.
        consumed: usize,
        /// The data.
        data: &'b [u8],
    },
    /// All that could be used is used. Call again when there is more input after the bytes that were not
    /// consumed.
    Partial {
        /// Bytes to drop from the input; perhaps none.
        consumed: usize,
    },
    /// The body is complete. What follows the consumed bytes is the next request.
    End {
        /// Bytes to drop from the input.
        consumed: usize,
        /// The field lines of the trailer section, each with its CRLF; mostly empty. Their syntax is good and
        /// none frames.
        trailers: &'b [u8],
    },
    /// The framing is broken and the rest of the connection cannot be read. Answer with [`Reject::status`]
    /// and close.
    Malformed(Reject),
}

/// Finds the data of one request's body.
#[derive(Clone, Debug)]
pub enum Decoder {
    /// A body whose length in bytes is known.
    Length {
        /// Bytes still to come.
        remaining: u64,
    },
    /// A body in chunks.
    Chunked(Chunks),
}

/// How far a chunked body was read.
#[derive(Clone, Debug)]
pub struct Chunks {
    state: State,
    /// Bytes of extensions so far.
    framing_bytes: u32,
}

/// Where the next byte stands. `chunked-body = *chunk last-chunk trailer-section CRLF` (RFC 9112 section
/// 7.1).
#[derive(Clone, Copy, Debug)]
enum State {
    Size {
        size: u64,
        digits: u8,
    },
    Extension {
        size: u64,
        at: Extension,
    },
    SizeLf {
        size: u64,
    },
    Data {
        remaining: u64,
    },
    DataCr,
    DataLf,
    /// No line end that could finish the section is in the first `searched` bytes of it.
    Trailers {
        searched: u32,
    },
    Done,
    Failed(Reject),
}

/// `chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )` (RFC 9112 section 7.1.1).
/// White space before the first `;` is refused: some parsers take it for part of the size.
#[derive(Clone, Copy, Debug)]
enum Extension {
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    Value,
    Quoted,
    QuotedPair,
    AfterQuoted,
    AfterValue,
}

impl Decoder {
    /// Starts a body. Without framing it is empty (RFC 9112 section 6.3).
    pub fn new(framing: Framing) -> Decoder {
        match framing {
            Framing::None => Decoder::Length { remaining: 0 },
            Framing::Length(remaining) => Decoder::Length { remaining },
            Framing::Chunked => {
                Decoder::Chunked(Chunks { state: State::Size { size: 0, digits: 0 }, framing_bytes: 0 })
            }
        }
    }

    /// Decodes from the front of `input`: how many bytes were consumed, and what they were.
    ///
    /// Call it again with the input less the consumed bytes until it says partial, end or malformed. It keeps
    /// the last two for good. Split invariant: cutting the input changes neither the data in all, nor the
    /// trailers, nor the verdict.
    pub fn decode<'b>(&mut self, input: &'b [u8], limits: &BodyLimits) -> Decoded<'b> {
        match self {
            Decoder::Length { remaining: 0 } => Decoded::End { consumed: 0, trailers: &[] },
            Decoder::Length { .. } if input.is_empty() => Decoded::Partial { consumed: 0 },
            Decoder::Length { remaining } => {
                let data = front(input, *remaining);
                *remaining -= data.len() as u64;
                Decoded::Data { consumed: data.len(), data }
            }
            Decoder::Chunked(chunks) => chunks.decode(input, limits),
        }
    }
}

/// At most `bytes_max` bytes of the input.
fn front(input: &[u8], bytes_max: u64) -> &[u8] {
    let len = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(input.len());
    &input[..len]
}

impl Chunks {
    fn decode<'b>(&mut self, input: &'b [u8], limits: &BodyLimits) -> Decoded<'b> {
        let framing_bytes_max = limits.framing_bytes_max.min(HEAD_BYTES_MAX - 2);
        let mut at = 0;
        loop {
            match self.state {
                State::Data { remaining } if at < input.len() => {
                    let data = front(&input[at..], remaining);
                    let remaining = remaining - data.len() as u64;
                    self.state = if remaining == 0 { State::DataCr } else { State::Data { remaining } };
                    return Decoded::Data { consumed: at + data.len(), data };
                }
                State::Trailers { searched } => return self.trailers(input, at, searched, framing_bytes_max),
                State::Done => return Decoded::End { consumed: at, trailers: &[] },
                State::Failed(reject) => return Decoded::Malformed(reject),
                state => {
                    let Some(byte) = input.get(at) else { return Decoded::Partial { consumed: at } };
                    self.state = step(state, *byte).unwrap_or_else(State::Failed);
                    at += 1;
                    if let State::Extension { .. } = self.state {
                        self.framing_bytes += 1;
                        if self.framing_bytes as usize > framing_bytes_max {
                            self.state = State::Failed(Reject::ChunkFramingLong);
                        }
                    }
                }
            }
        }
    }

    /// `trailer-section CRLF` at `at`: consumed only when it is whole. `searched` spares a dripping one the
    /// search.
    fn trailers<'b>(
        &mut self,
        input: &'b [u8],
        at: usize,
        searched: u32,
        framing_bytes_max: usize,
    ) -> Decoded<'b> {
        let rest = &input[at..];
        let room = framing_bytes_max - self.framing_bytes as usize + 2; // the empty line is free
        let window = &rest[..rest.len().min(room)];
        if let Some(end) = head_end(window, searched as usize) {
            match trailer_fields(&window[..end]) {
                Ok(len) => {
                    self.state = State::Done;
                    return Decoded::End { consumed: at + len, trailers: &rest[..len - 2] };
                }
                Err(Stop::Malformed(reject)) => return self.fail(reject),
                Err(Stop::Partial) => {}
            }
        }
        if rest.len() >= room {
            return self.fail(Reject::ChunkFramingLong);
        }
        self.state = State::Trailers { searched: window.len() as u32 };
        Decoded::Partial { consumed: at }
    }

    fn fail<'b>(&mut self, reject: Reject) -> Decoded<'b> {
        self.state = State::Failed(reject);
        Decoded::Malformed(reject)
    }
}

/// The transition table of size lines and of the line ends after data.
fn step(state: State, byte: u8) -> Result<State, Reject> {
    Ok(match (state, byte) {
        (State::Size { digits: 0, .. }, b';' | b'\r') => return Err(Reject::ChunkSize),
        (State::Size { size, .. }, b'\r') => State::SizeLf { size },
        (State::Size { size, .. }, b';') => State::Extension { size, at: Extension::BeforeName },
        (State::Size { size, digits }, _) => match char::from(byte).to_digit(16) {
            Some(_) if digits == 16 => return Err(Reject::ChunkSizeLong),
            Some(digit) => State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 },
            None => return Err(Reject::ChunkSize),
        },
        (State::Extension { size, at }, b'\r') if at.may_end() => State::SizeLf { size },
        (State::Extension { size, at }, _) => State::Extension { size, at: at.step(byte)? },
        (State::SizeLf { size: 0 }, b'\n') => State::Trailers { searched: 0 },
        (State::SizeLf { size }, b'\n') => State::Data { remaining: size },
        (State::SizeLf { .. }, _) => return Err(Reject::ChunkLine),
        (State::DataCr, b'\r') => State::DataLf,
        (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
        (State::DataCr | State::DataLf, _) => return Err(Reject::ChunkEnd),
        // `decode` keeps these to itself: they take more than a byte, or none.
        (State::Data { .. } | State::Trailers { .. } | State::Done | State::Failed(_), _) => state,
    })
}

impl Extension {
    /// Whether the line may end here: not before a name or value, in quotes, or after white space that leads
    /// nowhere.
    fn may_end(self) -> bool {
        matches!(self, Extension::Name | Extension::Value | Extension::AfterQuoted)
    }

    fn step(self, byte: u8) -> Result<Extension, Reject> {
        use Extension::*;
        Ok(match (self, byte) {
            (BeforeName | AfterName | BeforeValue | AfterValue, b' ' | b'\t') => self,
            (BeforeName | Name, _) if is_token(byte) => Name,
            (BeforeValue | Value, _) if is_token(byte) => Value,
            (Name, b' ' | b'\t') => AfterName,
            (Name | AfterName, b'=') => BeforeValue,
            (Value | AfterQuoted, b' ' | b'\t') => AfterValue,
            (Name | AfterName | Value | AfterQuoted | AfterValue, b';') => BeforeName,
            (BeforeValue, b'"') => Quoted,
            (Quoted, b'"') => AfterQuoted,
            (Quoted, b'\\') => QuotedPair,
            (Quoted | QuotedPair, _) if is_text(byte) => Quoted,
            _ => return Err(Reject::ChunkExtension),
        })
    }
}

/// Checks a trailer section. Returns its length with the empty line.
fn trailer_fields(section: &[u8]) -> Result<usize, Stop> {
    fields(section, 0, |name, _| match is_forbidden(name.of(section)) {
        true => Err(Reject::TrailerForbidden),
        false => Ok(()),
    })
}

/// Whether a field must not come late because it frames, routes or describes the message (RFC 9110 section
/// 6.5.1).
fn is_forbidden(name: &[u8]) -> bool {
    const FORBIDDEN: [&str; 13] = [
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
}

#[cfg(test)]
mod tests;
