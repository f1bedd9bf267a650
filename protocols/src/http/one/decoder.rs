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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: BodyLimits = BodyLimits { framing_bytes_max: 16 << 10 };

    /// Feeds the pieces one after the other, as a session would, and says in one line what came of it: the
    /// data, then `...` (partial), `.` (end, with trailers and what is left over) or `!` and the reason.
    fn decode<'p>(
        framing: Framing,
        limits: &BodyLimits,
        pieces: impl IntoIterator<Item = &'p [u8]>,
    ) -> String {
        let mut decoder = Decoder::new(framing);
        let (mut buffer, mut data) = (Vec::new(), Vec::new());
        let mut end = None;
        for piece in pieces {
            buffer.extend_from_slice(piece);
            while end.is_none() {
                let consumed = match decoder.decode(&buffer, limits) {
                    Decoded::Data { consumed, data: part } => {
                        assert!(!part.is_empty() && buffer[..consumed].ends_with(part));
                        data.extend_from_slice(part);
                        consumed
                    }
                    Decoded::Partial { consumed } => {
                        buffer.drain(..consumed);
                        assert!(buffer.len() <= limits.framing_bytes_max + 2, "the buffer must stay bounded");
                        break;
                    }
                    Decoded::End { consumed, trailers } => {
                        let trailers = trailers.escape_ascii().to_string();
                        end = Some(if trailers.is_empty() { ".".into() } else { format!(". [{trailers}]") });
                        consumed
                    }
                    Decoded::Malformed(reject) => {
                        assert_eq!(decoder.decode(&buffer, limits), Decoded::Malformed(reject), "for good");
                        return format!("{}! {} {reject:?}", data.escape_ascii(), reject.status());
                    }
                };
                buffer.drain(..consumed);
            }
        }
        let Some(end) = end else { return format!("{}...", data.escape_ascii()) };
        assert_eq!(decoder.decode(b"GET", limits), Decoded::End { consumed: 0, trailers: b"" }, "for good");
        let left = if buffer.is_empty() { String::new() } else { format!(" + {}", buffer.escape_ascii()) };
        format!("{}{end}{left}", data.escape_ascii())
    }

    /// The law of split invariance: every cut in two, and byte by byte.
    fn check_cuts(framing: Framing, limits: &BodyLimits, input: &[u8]) {
        let whole = decode(framing, limits, [input]);
        for cut in 0..=input.len() {
            let (head, tail) = input.split_at(cut);
            assert_eq!(decode(framing, limits, [head, tail]), whole, "cut at {cut}");
        }
        let bytes = [&input[..0]].into_iter().chain(input.chunks(1));
        assert_eq!(decode(framing, limits, bytes), whole, "byte by byte");
    }

    #[track_caller]
    fn check_with(framing: Framing, limits: &BodyLimits, input: impl AsRef<[u8]>, expected: &str) {
        let input = input.as_ref();
        assert_eq!(decode(framing, limits, [input]), expected, "{:?}", input.escape_ascii().to_string());
        check_cuts(framing, limits, input);
    }

    #[track_caller]
    fn check_length(length: u64, input: &str, expected: &str) {
        check_with(Framing::Length(length), &LIMITS, input, expected);
    }

    /// A chunked body.
    #[track_caller]
    fn check(input: impl AsRef<[u8]>, expected: &str) {
        check_with(Framing::Chunked, &LIMITS, input, expected);
    }

    /// What stands between a chunk's size and the CRLF.
    #[track_caller]
    fn check_extension(extension: impl AsRef<[u8]>, expected: &str) {
        check([b"3", extension.as_ref(), b"\r\nabc\r\n0\r\n\r\n"].concat(), expected);
        check(
            [b"0", extension.as_ref(), b"\r\n\r\n"].concat(),
            expected.strip_prefix("abc").unwrap_or(expected),
        );
    }

    /// What stands between the last chunk and the empty line.
    #[track_caller]
    fn check_trailers(trailers: impl AsRef<[u8]>, expected: &str) {
        check([b"0\r\n", trailers.as_ref(), b"\r\n\r\n"].concat(), expected);
    }

    #[test]
    fn lengths_rfc9112_section_6_2() {
        check_with(Framing::None, &LIMITS, "", ".");
        check_with(Framing::None, &LIMITS, "GET", ". + GET");
        check_length(0, "GET", ". + GET");
        check_length(5, "", "...");
        check_length(5, "hell", "hell...");
        check_length(5, "hello", "hello.");
        check_length(5, "hello\r\nGET", "hello. + \\r\\nGET");
        check_length(u64::MAX, "hello", "hello...");
    }

    #[test]
    fn chunks_rfc9112_section_7_1() {
        check("", "...");
        check("0\r\n\r\n", ".");
        check("5\r\nhello\r\n0\r\n\r\n", "hello.");
        check("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET", "hello world. + GET");
        check("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n\r\n", "abc. + \\r\\n");
        check("a\r\n0123456789\r\n0\r\n\r\n", "0123456789.");
        check("A\r\n0123456789\r\n0\r\n\r\n", "0123456789.");
        check("005\r\nhello\r\n000\r\n\r\n", "hello.");
        check("0000000000000003\r\nabc\r\n0000000000000000\r\n\r\n", "abc."); // 16 digits
        check("4\r\n\r\n\r\n\r\n0\r\n\r\n", "\\r\\n\\r\\n."); // data looks like framing
        check("5\r\nhel", "hel...");
        check("5\r\nhello", "hello...");
        check("5\r\nhello\r", "hello...");
        check("5\r\nhello\r\n", "hello...");
        check("5\r\nhello\r\n0\r\n", "hello...");
        check("5\r\nhello\r\n0\r\n\r", "hello...");
        check("ffffffffffffffff\r\nabc", "abc..."); // u64::MAX
        check("7fffffffffffffff\r\nabc", "abc...");
    }

    #[test]
    fn chunk_sizes_rfc9112_section_7_1() {
        check("00000000000000003\r\nabc", "! 400 ChunkSizeLong"); // 17 digits
        check("10000000000000000\r\nabc", "! 400 ChunkSizeLong"); // 2^64
        check("\r\nabc", "! 400 ChunkSize");
        check("\nabc", "! 400 ChunkSize");
        check("g\r\nabc", "! 400 ChunkSize");
        check("0x3\r\nabc", "! 400 ChunkSize");
        check("+3\r\nabc", "! 400 ChunkSize");
        check("-3\r\nabc", "! 400 ChunkSize");
        check(" 3\r\nabc", "! 400 ChunkSize");
        check("3 \r\nabc", "! 400 ChunkSize");
        check("3\t\r\nabc", "! 400 ChunkSize");
        check("3 ;a\r\nabc", "! 400 ChunkSize");
        check("3_0\r\nabc", "! 400 ChunkSize");
        check("3,3\r\nabc", "! 400 ChunkSize");
        check("3h\r\nabc", "! 400 ChunkSize");
        check("3\0\r\nabc", "! 400 ChunkSize");
        check("٣\r\nabc", "! 400 ChunkSize"); // a digit, but not an ASCII one
        check(";a\r\nabc", "! 400 ChunkSize");
        check("3\r\nabc\r\n\r\n", "abc! 400 ChunkSize");
        check("3\r\nabc\r\nGET / HTTP/1.1\r\n", "abc! 400 ChunkSize");
    }

    #[test]
    fn chunk_line_ends_rfc9112_section_2_2() {
        check("3\nabc\r\n0\r\n\r\n", "! 400 ChunkSize");
        check("3\rabc\r\n0\r\n\r\n", "! 400 ChunkLine");
        check("3\r\r\nabc\r\n0\r\n\r\n", "! 400 ChunkLine");
        check("3;a\nabc\r\n0\r\n\r\n", "! 400 ChunkExtension");
        check("3;a\rb\r\nabc\r\n0\r\n\r\n", "! 400 ChunkLine");
        check("3\r\nabc\n0\r\n\r\n", "abc! 400 ChunkEnd");
        check("3\r\nabc\r0\r\n\r\n", "abc! 400 ChunkEnd");
        check("3\r\nabc0\r\n\r\n", "abc! 400 ChunkEnd");
        check("3\r\nabcd\r\n0\r\n\r\n", "abc! 400 ChunkEnd"); // longer than its size
        check("3\r\nab\r\n0\r\n\r\n", "ab\\r! 400 ChunkEnd"); // shorter than its size
        check("0\n\n", "! 400 ChunkSize");
        check("0\r\n\n", "! 400 BareLf");
        check("0\r\n\rX\n", "! 400 BareCr");
    }

    #[test]
    fn chunk_extensions_rfc9112_section_7_1_1() {
        check_extension(";a", "abc.");
        check_extension(";a=b", "abc.");
        check_extension(";a=\"b\"", "abc.");
        check_extension(";a=\"\"", "abc.");
        check_extension(";a=\"b;c=d, \t\"", "abc.");
        check_extension(";a=\"b\\\"c\\\\\"", "abc."); // quoted pairs
        check_extension(";a=\"\\\t\\ é\"", "abc."); // obs-text
        check_extension(";a;b=c;d=\"e\";f", "abc.");
        check_extension("; a = b ;\tc\t=\t\"d\" ; e", "abc."); // BWS
        check_extension(";", "! 400 ChunkExtension");
        check_extension(";;a", "! 400 ChunkExtension");
        check_extension(";a;", "! 400 ChunkExtension");
        check_extension("; ", "! 400 ChunkExtension");
        check_extension(";=b", "! 400 ChunkExtension");
        check_extension(";a=", "! 400 ChunkExtension");
        check_extension(";a= ", "! 400 ChunkExtension");
        check_extension(";a=;b", "! 400 ChunkExtension");
        check_extension(";a==b", "! 400 ChunkExtension");
        check_extension(";a b", "! 400 ChunkExtension");
        check_extension(";a ", "! 400 ChunkExtension");
        check_extension(";a=b ", "! 400 ChunkExtension");
        check_extension(";a=b c", "! 400 ChunkExtension");
        check_extension(";a=b\"c\"", "! 400 ChunkExtension");
        check_extension(";a=\"b\"c", "! 400 ChunkExtension");
        check_extension(";a=\"b", "! 400 ChunkExtension");
        check_extension(";a=\"b\\", "! 400 ChunkExtension");
        check_extension(";\"a\"", "! 400 ChunkExtension");
        check_extension(";a\0", "! 400 ChunkExtension");
        check_extension(";a=b\x01", "! 400 ChunkExtension");
        check_extension(";a=\"\x7f\"", "! 400 ChunkExtension");
        check_extension(";a=\"\\\0\"", "! 400 ChunkExtension");
        check_extension(";a=\"\n\"", "! 400 ChunkExtension");
        check_extension(";é", "! 400 ChunkExtension");
        check_extension(";a,b", "! 400 ChunkExtension");
    }

    #[test]
    fn trailers_rfc9112_section_7_1_2() {
        check_trailers("A: b", ". [A: b\\r\\n]");
        check_trailers("A: b\r\nC:\td \r\nE:", ". [A: b\\r\\nC:\\td \\r\\nE:\\r\\n]");
        check("3\r\nabc\r\n0;a=b\r\nD: \"e\"\r\n\r\nGET", "abc. [D: \\\"e\\\"\\r\\n] + GET");
        check_trailers(b"A: \xff", ". [A: \\xff\\r\\n]");
        check("0\r\nA: b\r\n", "...");
        check("0\r\nA: b\r\n\r", "...");
        check("0\r\nA", "...");
        check_trailers(" A: b", "! 400 FieldFolded");
        check_trailers("A: b\r\n c", "! 400 FieldFolded");
        check_trailers("A : b", "! 400 FieldNameSpace");
        check_trailers("A", "! 400 FieldColon");
        check_trailers(": b", "! 400 FieldNameEmpty");
        check_trailers("A\0: b", "! 400 FieldNameByte");
        check_trailers("A: \0", "! 400 FieldValueByte");
        check_trailers("A: b\nC: d", "! 400 BareLf");
        check_trailers("A: b\rC: d", "! 400 BareCr");
        check("0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "! 400 FieldNameSpace"); // the client forgot the empty line
    }

    #[test]
    fn trailers_must_not_frame_rfc9110_section_6_5_1() {
        check_trailers("Content-Length: 5", "! 400 TrailerForbidden");
        check_trailers("A: b\r\ncontent-length: 5", "! 400 TrailerForbidden");
        check_trailers("Transfer-Encoding: chunked", "! 400 TrailerForbidden");
        check_trailers("HOST: a", "! 400 TrailerForbidden");
        check_trailers("Trailer: a", "! 400 TrailerForbidden");
        check_trailers("TE: trailers", "! 400 TrailerForbidden");
        check_trailers("Connection: close", "! 400 TrailerForbidden");
        check_trailers("Upgrade: a", "! 400 TrailerForbidden");
        check_trailers("Expect: 100-continue", "! 400 TrailerForbidden");
        check_trailers("Content-Type: a/b", "! 400 TrailerForbidden");
        check_trailers("Content-Encoding: gzip", "! 400 TrailerForbidden");
        check_trailers("Content-Range: bytes 0-1/2", "! 400 TrailerForbidden");
        check_trailers("Content-MD5: a", ". [Content-MD5: a\\r\\n]");
    }

    #[test]
    fn limit_on_framing_rfc9112_section_7_1_1() {
        let limits = BodyLimits { framing_bytes_max: 8 };
        let check = |input: &str, expected: &str| check_with(Framing::Chunked, &limits, input, expected);
        check("3;abcdefg\r\nabc\r\n0\r\n\r\n", "abc."); // the semicolon counts, size and CRLF do not
        check("3;abcdefgh\r\nabc\r\n0\r\n\r\n", "! 400 ChunkFramingLong");
        check("3;abcdefghijklmnopqrst", "! 400 ChunkFramingLong");
        check("3;a=\"              ", "! 400 ChunkFramingLong");
        check("3;abc\r\nabc\r\n3;abc\r\ndef\r\n0\r\n\r\n", "abcdef."); // in all
        check("3;abc\r\nabc\r\n3;abcd\r\ndef\r\n0\r\n\r\n", "abc! 400 ChunkFramingLong");
        check("0\r\nA: bcd\r\n\r\n", ". [A: bcd\\r\\n]"); // a trailer counts with its CRLF, the empty line does not
        check("0\r\nA: bcde\r\n\r\n", "! 400 ChunkFramingLong");
        check("0\r\nA: bcdefghijklmnop", "! 400 ChunkFramingLong");
        check("0\r\nAAAAAAAAAAAAAAAAAA", "! 400 ChunkFramingLong");
        check("0;abc\r\nA:\r\n\r\n", ". [A:\\r\\n]"); // both in all
        check("0;abcd\r\nA:\r\n\r\n", "! 400 ChunkFramingLong");
        check("0;abcdefg\r\n\r\n", ".");
        let tiny_chunks = "1\r\na\r\n".repeat(100);
        check(&format!("{tiny_chunks}0\r\n\r\n"), &format!("{}.", "a".repeat(100))); // sizes are not bounded in all
        let huge = BodyLimits { framing_bytes_max: usize::MAX };
        let trailers = format!("0\r\nA: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(decode(Framing::Chunked, &huge, [trailers.as_bytes()]), "! 400 ChunkFramingLong");
    }

    #[test]
    fn decoder_is_small() {
        assert!(size_of::<Decoder>() <= 32);
    }

    /// Pieces that make chunked bodies, nearly good ones more often than not.
    fn soup() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(
            &[
                "3\r\nabc\r\n",
                "3\r\nabc\r\n",
                "0\r\n\r\n",
                "0\r\n",
                "3",
                "\r\n",
                "\r",
                "\n",
                "abc",
                ";a",
                ";a=b",
                ";a=\"b\"",
                "\"",
                "\\",
                " ",
                "=",
                ";",
                "A: b\r\n",
                "A:",
                "Host: a\r\n",
                "ffffffffffffffff",
                "\0",
                "é",
            ][..],
        );
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn random_bytes_never_panic_nor_depend_on_cuts(input in prop::collection::vec(any::<u8>(), 0..48)) {
            check_cuts(Framing::Chunked, &LIMITS, &input);
            check_cuts(Framing::Length(20), &LIMITS, &input);
        }

        #[test]
        fn nearly_good_bodies_do_not_depend_on_cuts(input in soup()) {
            check_cuts(Framing::Chunked, &LIMITS, &input);
            check_cuts(Framing::Chunked, &BodyLimits { framing_bytes_max: 6 }, &input);
        }

        #[test]
        fn chunks_carry_what_was_put_in(chunks in prop::collection::vec("[ -~\r\n]{1,40}", 0..8)) {
            let encode = |chunk: &String| format!("{:x}\r\n{chunk}\r\n", chunk.len());
            let body: String = chunks.iter().map(encode).chain(["0\r\n\r\nnext".into()]).collect();
            let expected = format!("{}. + next", chunks.concat().as_bytes().escape_ascii());
            prop_assert_eq!(decode(Framing::Chunked, &LIMITS, [body.as_bytes()]), expected);
            check_cuts(Framing::Chunked, &LIMITS, body.as_bytes());
        }
    }
}
