//! Responses as a strict client reads them: head, framing, body. Pure: bytes in, verdicts out.
//!
//! However the bytes are cut, the result is the same (tested below). What a correct server never sends is malformed,
//! not repaired: a load generator that guesses counts answers that nobody sent. RFC 9112. A folded field is the exception: a
//! user agent has to read it (5.2). Field lines are scanned as those of requests are, in `one/syntax.rs`.

use super::known::Known;
use crate::http::one::syntax::{Stop, fields, is_text};
use crate::http::reject::Reject;
use memchr::{memchr, memmem};

/// A head longer than this is malformed.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A chunk's size line, or a line of the trailer, longer than this is malformed.
const LINE_BYTES_MAX: usize = 4096;
/// Trailer lines a body may have.
const TRAILER_LINES_MAX: u32 = 100;

/// The bytes are no response that a correct server sends. The rest of the connection cannot be read: close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, with its empty line.
    pub bytes: usize,
    /// From 100 to 999.
    pub status: u16,
    /// How the end of the body is found.
    pub framing: Framing,
    /// The server goes on with this connection.
    pub keep_alive: bool,
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// Where the connection ends.
    UntilClose,
}

/// Reads the head at the front of `input`; `None` while it is not complete. `to_head` says that the request was HEAD,
/// whose response has no body.
///
/// The verdict on a complete head does not depend on how the input was cut; one of more than 64 KiB is malformed. Source:
/// RFC 9112, 4 to 6; obs-fold, 5.2.
pub fn parse_head(input: &[u8], to_head: bool) -> Result<Option<Head>, Malformed> {
    let Some(end) = memmem::find(input, b"\r\n\r\n") else {
        return if input.len() > HEAD_BYTES_MAX { Err(Malformed) } else { Ok(None) };
    };
    if end > HEAD_BYTES_MAX {
        return Err(Malformed);
    }
    let bytes = end + 4;
    let line_feed = memchr(b'\n', &input[..bytes]).ok_or(Malformed)?;
    let (line, section) = input[..bytes].split_at(line_feed + 1);
    let (status, is_10) = parse_status_line(line.strip_suffix(b"\r\n").ok_or(Malformed)?)?;
    let (known, length, is_chunked) = known_fields(section)?;
    if is_chunked && is_10 {
        return Err(Malformed);
    }
    let has_no_body = to_head || matches!(status, 100..=199 | 204 | 304);
    let framing = match (length, is_chunked) {
        _ if has_no_body => Framing::Length(0),
        (Some(length), _) => Framing::Length(length),
        (None, true) => Framing::Chunked,
        (None, false) => Framing::UntilClose,
    };
    let keep_alive = !known.close && (!is_10 || known.keep_alive) && framing != Framing::UntilClose;
    Ok(Some(Head { bytes, status, framing, keep_alive }))
}

/// Reads on to the head of the final response (RFC 9110, 15.2). Gives the bytes of the interim responses (1xx) before it,
/// which are passed over and need not come again, and the head once it is complete.
///
/// 101 is malformed here: nobody asked to switch protocols.
pub fn parse_final_head(input: &[u8], to_head: bool) -> Result<(usize, Option<Head>), Malformed> {
    let mut at = 0;
    loop {
        match parse_head(&input[at..], to_head)? {
            Some(Head { status: 101, .. }) => return Err(Malformed),
            Some(Head { status: 100..200, bytes, .. }) => at += bytes,
            head => return Ok((at, head)),
        }
    }
}

/// Reads the field lines of a head and the empty line behind them: what they say of the connection, the length, and whether
/// the body is in chunks. Folded fields are rare: only a head that has some is unfolded, and read again.
fn known_fields(section: &[u8]) -> Result<(Known, Option<u64>, bool), Malformed> {
    let known = match scan(section) {
        Err(Stop::Malformed(Reject::FieldFolded)) => scan(&unfold(section)),
        known => known,
    };
    known.map_err(|_| Malformed)
}

/// The same for fields that are not folded. Values are judged when the last line was scanned: before that, the next one
/// may go on with the field. All offsets fit into spans: with the shortest status line, a section has at most 65,526 bytes.
fn scan(section: &[u8]) -> Result<(Known, Option<u64>, bool), Stop> {
    let mut known = Known::default();
    fields(section, 0, |name, value| {
        known.note(section, name, value);
        Ok(())
    })?;
    let (length, is_chunked) = known.framing(section)?;
    Ok((known, length, is_chunked))
}

/// Puts a space in place of each line end behind which a field goes on (obs-fold). What goes on with no field stays as it
/// is, and is malformed.
fn unfold(section: &[u8]) -> Vec<u8> {
    let mut unfolded = Vec::with_capacity(section.len());
    let mut rest = section;
    while let Some(at) = memmem::find(rest, b"\r\n") {
        let next = &rest[at + 2..];
        unfolded.extend_from_slice(&rest[..at]);
        unfolded.extend_from_slice(if is_continuation(next) { b" " } else { b"\r\n" });
        rest = next;
    }
    unfolded.extend_from_slice(rest);
    unfolded
}

/// Whether a line goes on with the field of the line before it (obs-fold).
fn is_continuation(line: &[u8]) -> bool {
    matches!(line.first(), Some(b' ' | b'\t'))
}

/// Status and whether the version is 1.0. The reason may be missing: many servers leave it out.
fn parse_status_line(line: &[u8]) -> Result<(u16, bool), Malformed> {
    let rest = line.strip_prefix(b"HTTP/1.").ok_or(Malformed)?;
    let [minor @ (b'0' | b'1'), b' ', status @ ..] = rest else { return Err(Malformed) };
    let (digits, reason) = status.split_at_checked(3).ok_or(Malformed)?;
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' {
        return Err(Malformed);
    }
    if !(reason.is_empty() || reason[0] == b' ') || !reason.iter().all(|byte| is_text(*byte)) {
        return Err(Malformed);
    }
    let status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    Ok((status, *minor == b'0'))
}

/// The rest of a body that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body(Rest);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// So many bytes are still to come.
    Left(u64),
    /// At the size line of a chunk.
    ChunkSize,
    /// In a chunk's data.
    Chunk(u64),
    /// At the CRLF after a chunk's data.
    ChunkEnd,
    /// In the trailer, with so many lines still allowed.
    Trailer(u32),
    /// Until the connection ends.
    UntilClose,
}

/// What one look at a body gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes to drop from the input.
    pub consumed: usize,
    /// The body ends there.
    pub is_complete: bool,
}

impl Body {
    /// At the front of a body.
    pub fn new(framing: Framing) -> Body {
        Body(match framing {
            Framing::Length(length) => Rest::Left(length),
            Framing::Chunked => Rest::ChunkSize,
            Framing::UntilClose => Rest::UntilClose,
        })
    }

    /// Whether the body is complete if the connection ends now, though [`Body::read`] has not said so.
    pub fn ends_with_connection(&self) -> bool {
        self.0 == Rest::UntilClose
    }

    /// Reads as much as `input` has of the body and hands its data to `each`. What is not consumed comes again with
    /// more behind it.
    ///
    /// The data in all and the verdict do not depend on how the input was cut. Lines of chunk sizes and of trailers have at
    /// most 4 KiB, a trailer section 100 lines; beyond that it is malformed. Source: RFC 9112, 6 and 7.
    pub fn read(&mut self, input: &[u8], mut each: impl FnMut(&[u8])) -> Result<Progress, Malformed> {
        let mut at = 0;
        let stop = |consumed, is_complete| Ok(Progress { consumed, is_complete });
        loop {
            let rest = &input[at..];
            match &mut self.0 {
                Rest::Left(left) => {
                    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    if bytes > 0 {
                        each(&rest[..bytes]);
                    }
                    *left -= bytes as u64;
                    return stop(at + bytes, *left == 0);
                }
                Rest::UntilClose => {
                    each(rest);
                    return stop(input.len(), false);
                }
                Rest::ChunkSize => {
                    let Some(line) = whole_line(rest)? else { return stop(at, false) };
                    at += line.len() + 2;
                    self.0 = match chunk_size(line)? {
                        0 => Rest::Trailer(TRAILER_LINES_MAX),
                        size => Rest::Chunk(size),
                    };
                }
                Rest::Chunk(left) => {
                    let bytes = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    if bytes > 0 {
                        each(&rest[..bytes]);
                    }
                    at += bytes;
                    *left -= bytes as u64;
                    if *left > 0 {
                        return stop(at, false);
                    }
                    self.0 = Rest::ChunkEnd;
                }
                Rest::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        self.0 = Rest::ChunkSize;
                    }
                    [] | [b'\r'] => return stop(at, false),
                    _ => return Err(Malformed),
                },
                Rest::Trailer(lines_left) => {
                    let Some(line) = whole_line(rest)? else { return stop(at, false) };
                    at += line.len() + 2;
                    if line.is_empty() {
                        return stop(at, true);
                    }
                    let is_first = *lines_left == TRAILER_LINES_MAX;
                    let is_field = match is_continuation(line) {
                        true => !is_first,
                        false => memchr(b':', line).is_some_and(|colon| colon > 0),
                    };
                    if !is_field || *lines_left == 0 {
                        return Err(Malformed);
                    }
                    *lines_left -= 1;
                }
            }
        }
    }
}

/// The line at the front of `input`, without its CRLF; `None` while it is not complete.
fn whole_line(input: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    match memchr(b'\n', input) {
        Some(line_feed) if line_feed <= LINE_BYTES_MAX => {
            let line = input[..line_feed].strip_suffix(b"\r").ok_or(Malformed)?;
            if line.iter().all(|byte| is_text(*byte)) { Ok(Some(line)) } else { Err(Malformed) }
        }
        None if input.len() <= LINE_BYTES_MAX => Ok(None),
        _ => Err(Malformed),
    }
}

/// Up to 16 hexadecimal digits; an extension is passed over.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = if digits.len() < line.len() { digits.trim_ascii_end() } else { digits };
    if digits.is_empty() || digits.len() > 16 {
        return Err(Malformed);
    }
    let add = |size: u64, digit: &u8| Some(size << 4 | u64::from(char::from(*digit).to_digit(16)?));
    digits.iter().try_fold(0, add).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Option<Head>, Malformed> {
        parse_head(text.as_bytes(), false)
    }

    #[track_caller]
    fn check(text: &str, status: u16, framing: Framing, keep_alive: bool) {
        let expected = Head { bytes: text.len(), status, framing, keep_alive };
        assert_eq!(head(text), Ok(Some(expected)), "{text:?}");
        assert_eq!(head(&format!("{text}more")), Ok(Some(expected)), "{text:?} with more behind it");
        for cut in 0..text.len() {
            assert_eq!(head(&text[..cut]), Ok(None), "{text:?} cut at {cut}");
        }
    }

    #[test]
    fn heads() {
        use Framing::*;
        check("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n", 200, Length(13), true);
        check("HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", 200, Length(0), true);
        check("HTTP/1.1 404 Not Found\r\nDate: x\r\nCONTENT-LENGTH:  7 \r\n\r\n", 404, Length(7), true);
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", 200, Chunked, true);
        check("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x, Close\r\n\r\n", 200, Length(1), false);
        check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", 200, Length(1), false);
        check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", 200, Length(1), true);
        check("HTTP/1.1 200 OK\r\n\r\n", 200, UntilClose, false);
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, Length(0), true);
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304, Length(0), true);
        check("HTTP/1.1 100 Continue\r\n\r\n", 100, Length(0), true);
        check(
            "HTTP/1.1 200 OK\r\nX: 1\r\n folded\r\n\t\r\n \t: twice\r\nContent-Length: 1\r\n\r\n",
            200,
            Length(1),
            true,
        );
        check(
            "HTTP/1.1 200 OK\r\nX: 1\r\n Content-Length: 9\r\nContent-Length:\r\n 1\r\n \r\n\r\n",
            200,
            Length(1),
            true,
        );
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n", 200, Chunked, true);
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x,\r\n close\r\n\r\n",
            200,
            Length(1),
            false,
        );
    }

    #[test]
    fn a_response_to_head_has_no_body() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n";
        assert_eq!(parse_head(text, true).unwrap().unwrap().framing, Framing::Length(0));
    }

    #[test]
    fn interim_heads_are_passed_over() {
        let check = |text: &str, expected: Result<(usize, Option<u16>), Malformed>| {
            let read = parse_final_head(text.as_bytes(), false);
            assert_eq!(
                read.map(|(passed, head)| (passed, head.map(|head| head.status))),
                expected,
                "{text:?}"
            );
        };
        let (interim, last) = ("HTTP/1.1 100\r\n\r\n", "HTTP/1.1 204\r\n\r\n");
        check(last, Ok((0, Some(204))));
        check(interim, Ok((interim.len(), None)));
        check(&format!("{interim}{interim}HTTP/1.1 20"), Ok((2 * interim.len(), None)));
        check(&format!("{interim}{interim}{last}more"), Ok((2 * interim.len(), Some(204))));
        check(&format!("{interim}HTTP/1.1 101\r\n\r\n"), Err(Malformed));
    }

    #[test]
    fn malformed_heads() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\nX: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: no name\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\n",
            // Folded where there is no field, or into no field.
            "HTTP/1.1 200 OK\r\n X: 1\r\n\r\n",
            "HTTP/1.1 200\r\n OK\r\nX: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX\r\n : 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n X: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\r\n folded\nY: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: 1\r\n fol\0ded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chun\r\n ked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(head(text), Err(Malformed), "{text:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(head(&long), Err(Malformed));
    }

    #[test]
    fn a_head_of_the_most_bytes_is_read_to_its_end() {
        let text = |more| {
            let (start, end) = ("HTTP/1.1 200\r\nX: ", "\r\n\t\r\nContent-Length:\r\n 7");
            let filler = "x".repeat(HEAD_BYTES_MAX - start.len() - end.len() + more);
            format!("{start}{filler}{end}\r\n\r\n")
        };
        let (bytes, framing) = (text(0).len(), Framing::Length(7));
        assert_eq!(head(&text(0)), Ok(Some(Head { bytes, status: 200, framing, keep_alive: true })));
        assert_eq!(head(&text(1)), Err(Malformed));
    }

    /// Reads a body in pieces that end at `cuts`: data, bytes consumed, whether it is complete.
    fn read(framing: Framing, input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize, bool), Malformed> {
        let (mut body, mut data, mut at) = (Body::new(framing), Vec::new(), 0);
        for end in cuts.iter().copied().chain([input.len()]) {
            let progress = body.read(&input[at..end], |bytes| data.extend_from_slice(bytes))?;
            at += progress.consumed;
            if progress.is_complete {
                return Ok((data, at, true));
            }
        }
        Ok((data, at, false))
    }

    #[test]
    fn bodies_read_the_same_however_they_are_cut() {
        let check = |framing, input: &str, data: &str, consumed: usize, is_complete| {
            let expected = Ok((data.as_bytes().to_vec(), consumed, is_complete));
            assert_eq!(read(framing, input.as_bytes(), &[]), expected, "{input:?}");
            for first in 0..=input.len() {
                for second in first..=input.len() {
                    let cut = read(framing, input.as_bytes(), &[first, second]);
                    assert_eq!(cut, expected, "{input:?} cut at {first} and {second}");
                }
            }
            let everywhere: Vec<usize> = (0..input.len()).collect();
            assert_eq!(read(framing, input.as_bytes(), &everywhere), expected, "{input:?} byte by byte");
        };
        check(Framing::Length(0), "next", "", 0, true);
        check(Framing::Length(5), "helloHTTP", "hello", 5, true);
        check(Framing::Length(5), "hell", "hell", 4, false);
        check(Framing::Chunked, "0\r\n\r\nHTTP", "", 5, true);
        check(
            Framing::Chunked,
            "5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            "hello0123456789",
            34,
            true,
        );
        check(Framing::Chunked, "1 ;x\r\nh\r\n0\r\nx: y\r\nz: \r\n\r\n!", "h", 25, true);
        check(Framing::Chunked, "0\r\nx: y\r\n folded\r\n\t\r\n\r\n", "", 23, true);
        check(Framing::UntilClose, "anything", "anything", 8, false);
        for (framing, expected) in
            [(Framing::UntilClose, true), (Framing::Chunked, false), (Framing::Length(0), false)]
        {
            assert_eq!(Body::new(framing).ends_with_connection(), expected, "{framing:?}");
        }
    }

    #[test]
    fn malformed_chunks() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\nh\r\n",
            "1\nh\r\n",
            " 1\r\nh\r\n",
            "1 \r\nh\r\n",
            "0x1\r\nh\r\n",
            "00000000000000001\r\nh\r\n",
            "1\r\nhX",
            "1\r\nh\rX",
            "0\r\nno colon\r\n",
            "0\r\n: y\r\n",
            "0\r\n x: y\r\n",
            "1;\0\r\nh\r\n",
        ] {
            for cut in 0..text.len() {
                assert_eq!(
                    read(Framing::Chunked, text.as_bytes(), &[cut]),
                    Err(Malformed),
                    "{text:?} at {cut}"
                );
            }
        }
        let endless = format!("1;{}", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(read(Framing::Chunked, endless.as_bytes(), &[]), Err(Malformed));
    }
}
