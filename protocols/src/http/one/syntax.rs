//! The lines of a head: where they end, where their parts stand, and which byte breaks them (RFC 9112
//! sections 2, 3 and 5).
//!
//! Everything here reads from left to right and stops at the first byte that is wrong, so that a verdict on a
//! prefix holds for all that can follow. What the parts mean is for `head.rs`; trailers, read in
//! `decoder.rs`, are fields as well.

use crate::http::message::{Method, Span, Version};
use crate::http::reject::Reject;
use std::net::Ipv6Addr;

/// Why parsing stopped before the end of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Partial,
    Malformed(Reject),
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Stop {
        Stop::Malformed(reject)
    }
}

/// One empty line may come before the request line (RFC 9112 section 2.2).
#[inline(always)]
pub(super) fn skip_empty_line(window: &[u8]) -> Result<usize, Stop> {
    match window {
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(Stop::Malformed(Reject::EmptyLines)),
        [b'\r', b'\n', ..] => Ok(2),
        [b'\r' | b'\n', ..] => Err(bad_line_end(window, 0, Reject::EmptyLines)),
        _ => Ok(0),
    }
}

/// A request line; offsets are into the window.
pub(super) struct RequestLine<'b> {
    pub(super) method: Method<'b>,
    pub(super) target_at: usize,
    pub(super) target_end: usize,
    pub(super) query_at: Option<usize>,
    pub(super) version: Version,
    pub(super) end: usize,
}

/// `method SP request-target SP HTTP-version CRLF` (RFC 9112 section 3), at most `bytes_max` before the CRLF.
#[inline(always)]
pub(super) fn request_line(window: &[u8], start: usize, bytes_max: usize) -> Result<RequestLine<'_>, Stop> {
    let line = &window[..window.len().min(start.saturating_add(bytes_max))];
    // Where the limit, not the window, is what cut the line short, no more can come.
    let run_out =
        |reject| if line.len() - start == bytes_max { Stop::Malformed(reject) } else { Stop::Partial };

    let (method, method_end) = if line[start..].starts_with(b"GET ") {
        (Method::Get, start + 3)
    } else {
        let end = class_end(line, start, TOKEN);
        match line.get(end) {
            Some(b' ') if end > start => (Method::from_token(&line[start..end]), end),
            None => return Err(run_out(Reject::MethodLong)),
            Some(_) => return Err(Stop::Malformed(Reject::MethodMalformed)),
        }
    };
    let target_at = method_end + 1;
    let mut target_end = class_end(line, target_at, PATH);
    let mut query_at = None;
    if line.get(target_end) == Some(&b'?') {
        query_at = Some(target_end + 1);
        target_end = class_end(line, target_end + 1, PATH | QUERY);
    }
    match line.get(target_end) {
        Some(b' ') if target_end > target_at => {}
        None => return Err(run_out(Reject::RequestLineLong)),
        Some(byte) => return Err(Stop::Malformed(bad_target(*byte))),
    }
    const HTTP_11: u64 = u64::from_le_bytes(*b"HTTP/1.1");
    const HTTP_10: u64 = u64::from_le_bytes(*b"HTTP/1.0");
    let version = &line[target_end + 1..];
    let version = match version.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) {
        Some(HTTP_11) => Version::Http11,
        Some(HTTP_10) => Version::Http10,
        _ => {
            return Err(
                bad_version(version).map_or_else(|| run_out(Reject::RequestLineLong), Stop::Malformed)
            );
        }
    };
    let version_end = target_end + 1 + "HTTP/1.1".len();
    if !window[version_end..].starts_with(b"\r\n") {
        return Err(bad_line_end(window, version_end, Reject::VersionMalformed));
    }
    Ok(RequestLine { method, target_at, target_end, query_at, version, end: version_end + 2 })
}

#[cold]
fn bad_target(stop: u8) -> Reject {
    match stop {
        b' ' => Reject::TargetEmpty,
        b'\r' | b'\n' => Reject::VersionMissing,
        b'#' => Reject::TargetFragment,
        0x80.. => Reject::TargetNotAscii,
        _ => Reject::TargetByte,
    }
}

/// What is wrong with a version; `None` where it is only cut short (RFC 9112 section 2.3: `HTTP/` DIGIT `.`
/// DIGIT).
#[cold]
fn bad_version(version: &[u8]) -> Option<Reject> {
    let fits = |(byte, pattern): (&u8, &u8)| byte == pattern || (*pattern == b'd' && byte.is_ascii_digit());
    match version.iter().zip(b"HTTP/d.d").all(fits) {
        false => Some(Reject::VersionMalformed),
        true if version.len() >= 8 => Some(Reject::VersionUnsupported),
        true => None,
    }
}

/// `*( field-line CRLF ) CRLF` from `at` on (RFC 9112 section 5), for heads and for trailers.
///
/// `each` sees the places of every name and value, and may refuse. Returns the offset after the empty line.
#[inline(always)]
pub(crate) fn fields(
    window: &[u8],
    mut at: usize,
    mut each: impl FnMut(Span, Span) -> Result<(), Reject>,
) -> Result<usize, Stop> {
    loop {
        let name_end = class_end(window, at, TOKEN);
        if name_end == at || window.get(name_end) != Some(&b':') {
            return match window[at..] {
                [b'\r', b'\n', ..] => Ok(at + 2),
                _ => no_field_line(window, at, name_end),
            };
        }
        let mut value_at = name_end + 1;
        while let Some(b' ' | b'\t') = window.get(value_at) {
            value_at += 1;
        }
        let line_end = value_end(window, value_at);
        if !window[line_end..].starts_with(b"\r\n") {
            return Err(bad_line_end(window, line_end, Reject::FieldValueByte));
        }
        let mut value_end = line_end;
        while value_end > value_at && matches!(window[value_end - 1], b' ' | b'\t') {
            value_end -= 1;
        }
        each(Span::new(at, name_end), Span::new(value_at, value_end))?;
        at = line_end + 2;
    }
}

/// A line that is neither a field line nor empty: a partial one or a bad one.
#[cold]
fn no_field_line(window: &[u8], at: usize, name_end: usize) -> Result<usize, Stop> {
    let reject = match window.get(name_end) {
        None => return Err(Stop::Partial),
        Some(b'\r' | b'\n') if name_end == at => return Err(bad_line_end(window, at, Reject::FieldNameByte)),
        Some(b' ' | b'\t') if name_end == at => Reject::FieldFolded,
        Some(b' ' | b'\t') => Reject::FieldNameSpace,
        Some(b'\r' | b'\n') => Reject::FieldColon,
        Some(b':') => Reject::FieldNameEmpty,
        Some(_) => Reject::FieldNameByte,
    };
    Err(Stop::Malformed(reject))
}

/// What stands where CRLF should: it alone ends a line (RFC 9112 section 2.2).
#[cold]
fn bad_line_end(window: &[u8], at: usize, otherwise: Reject) -> Stop {
    match window[at..] {
        [] | [b'\r'] => Stop::Partial,
        [b'\r', ..] => Stop::Malformed(Reject::BareCr),
        [b'\n', ..] => Stop::Malformed(Reject::BareLf),
        _ => Stop::Malformed(otherwise),
    }
}

/// The value of Content-Length, RFC 9110 section 8.6: `1*DIGIT`. Leading zeros are digits too.
pub(crate) fn content_length(value: &[u8]) -> Result<u64, Reject> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::LengthMalformed);
    }
    let append = |length: u64, digit: &u8| length.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    value.iter().try_fold(0, append).ok_or(Reject::LengthOverflow)
}

/// `uri-host [ ":" port ]` with a host that is not empty (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
///
/// Stricter than the grammar: no comma, which would hide a joined list; no IPvFuture, which nobody defined.
#[inline]
pub(super) fn is_authority(text: &[u8]) -> bool {
    is_authority_in(text, 0, text.len())
}

/// The same for a part of a text. Bytes behind the part are looked at, eight at once, but never count.
#[inline(always)]
pub(super) fn is_authority_in(text: &[u8], at: usize, end: usize) -> bool {
    let host_end = class_end(text, at, HOST).min(end);
    if host_end == at {
        return is_rare_authority(&text[at..end]);
    }
    match text.get(host_end) {
        _ if host_end == end => true,
        Some(b':') if end - host_end <= HIGHEST_PORT.len() => {
            let is_sure = end - host_end < HIGHEST_PORT.len() || text[host_end..end] <= *HIGHEST_PORT;
            class_end(text, host_end + 1, DIGIT) >= end && is_sure
        }
        _ => is_rare_authority(&text[at..end]),
    }
}

/// Digits of the same number compare like the ports that they are; with fewer of them every port is lower.
const HIGHEST_PORT: &[u8] = b":65535";

/// Authorities with an IPv6 literal, percent-encoding or a port with zeros before it, and bad ones.
#[cold]
fn is_rare_authority(text: &[u8]) -> bool {
    let is_port = |port: &[u8]| {
        let digit = |port: u16, digit: &u8| {
            port.checked_mul(10)?.checked_add(digit.is_ascii_digit().then(|| u16::from(digit - b'0'))?)
        };
        matches!(port, [] | [b':', ..]) && port.iter().skip(1).try_fold(0, digit).is_some()
    };
    if let [b'[', rest @ ..] = text {
        let Some(close) = rest.iter().position(|byte| *byte == b']') else { return false };
        let literal =
            str::from_utf8(&rest[..close]).ok().and_then(|literal| literal.parse::<Ipv6Addr>().ok());
        return literal.is_some() && is_port(&rest[close + 1..]);
    }
    let mut rest = text;
    loop {
        rest = match rest {
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => rest,
            [byte, rest @ ..] if CLASSES[usize::from(*byte)] & HOST != 0 => rest,
            port => return port.len() < text.len() && is_port(port),
        };
    }
}

/// Finds the first line end from which a head may be decided: an empty line, or an LF without its CR.
///
/// Looks at the LFs in `input[from..]`; `from` is how much was searched before. Returns the offset after that
/// LF. A head that was partial stays partial until this finds something, unless a limit is reached: see
/// `head::verdict_due`.
pub(crate) fn head_end(input: &[u8], from: usize) -> Option<usize> {
    let tail = input.get(from..)?;
    let ends = |at: usize| match at.checked_sub(1).map(|cr| input[cr]) {
        Some(b'\r') => at == 1 || input[at - 2] == b'\n',
        _ => true,
    };
    memchr::memchr_iter(b'\n', tail).map(|at| from + at).find(|&at| ends(at)).map(|at| at + 1)
}

/// Whether a byte may stand in a token (RFC 9110 section 5.6.2).
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & TOKEN != 0
}

/// Whether a byte may stand in a field value or a quoted string (RFC 9110 sections 5.5 and 5.6.4).
#[inline]
pub(crate) fn is_text(byte: u8) -> bool {
    CLASSES[usize::from(byte)] & VALUE != 0
}

/// The first offset from `at` whose byte is in none of the classes.
#[inline(always)]
fn class_end(input: &[u8], mut at: usize, classes: u8) -> usize {
    // Unrolled: three instructions a byte, where the plain loop has six.
    while let Some(bytes) = input[at..].first_chunk::<8>() {
        for (index, byte) in bytes.iter().enumerate() {
            if CLASSES[usize::from(*byte)] & classes == 0 {
                return at + index;
            }
        }
        at += 8;
    }
    while at < input.len() && CLASSES[usize::from(input[at])] & classes != 0 {
        at += 1;
    }
    at
}

/// The first offset from `at` whose byte may not stand in a field value: a control byte other than HTAB.
#[inline(always)]
fn value_end(input: &[u8], mut at: usize) -> usize {
    // Eight bytes at once: a byte below space borrows into its high bit, DEL becomes zero and does the same. Only
    // the lowest mark is exact, and only that one is used.
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let controls = |word: u64| {
        let below_space = word.wrapping_sub(ONES * 0x20) & !word;
        let flipped = word ^ (ONES * 0x7f);
        let delete = flipped.wrapping_sub(ONES) & !flipped;
        (below_space | delete) & (ONES * 0x80)
    };
    while let Some(bytes) = input[at..].first_chunk() {
        let marks = controls(u64::from_le_bytes(*bytes));
        if marks == 0 {
            at += 8;
            continue;
        }
        at += (marks.trailing_zeros() / 8) as usize;
        if input[at] != b'\t' {
            return at;
        }
        at += 1;
    }
    class_end(input, at, VALUE)
}

/// Bytes of a token (RFC 9110 section 5.6.2).
const TOKEN: u8 = 1;
/// Bytes of a host name: unreserved and sub-delims of RFC 3986 section 2 without the comma.
const HOST: u8 = 2;
/// Bytes of a target before its query: visible ASCII without `?` and `#`.
const PATH: u8 = 4;
/// The `?` that a query may hold as well.
const QUERY: u8 = 8;
/// Bytes of a field value with the white space in and around it (RFC 9110 section 5.5).
const VALUE: u8 = 16;
const DIGIT: u8 = 32;
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' => TOKEN | HOST | PATH | VALUE | DIGIT,
            b'a'..=b'z' | b'A'..=b'Z' => TOKEN | HOST | PATH | VALUE,
            b'!' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'_' | b'~' => {
                TOKEN | HOST | PATH | VALUE
            }
            b'%' | b'^' | b'`' | b'|' => TOKEN | PATH | VALUE,
            b'#' => TOKEN | VALUE,
            b'(' | b')' | b';' | b'=' => HOST | PATH | VALUE,
            b'?' => QUERY | VALUE,
            b'"' | b',' | b'/' | b':' | b'<' | b'>' | b'@' | b'[' | b'\\' | b']' | b'{' | b'}' => {
                PATH | VALUE
            }
            b'\t' | b' ' | 0x80.. => VALUE,
            _ => 0,
        };
        byte += 1;
    }
    classes
}
