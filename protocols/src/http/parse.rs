//! HTTP/1.1 request heads: bytes in, a checked [`Head`] out (RFC 9110, RFC 9112).
//!
//! Pure: it reads no clock, does no I/O, allocates nothing and keeps no state between calls. One parser reads from left to
//! right, eight bytes at a time where it can, and stops at the first byte that breaks the syntax or a limit: so the verdict
//! does not depend on how the input was cut. Rules on meaning (Host, framing, Expect) are applied to complete heads only.
//!
//! It never decodes percent-encoding, never normalizes a path and never looks at a body: see `body.rs` for that.

use std::fmt;
use std::net::Ipv6Addr;

/// The most header fields one head can have, whatever the limits say.
pub const FIELDS_MAX: usize = 100;

/// The most bytes one head can have, whatever the limits say: slots hold offsets of 16 bits.
pub const HEAD_BYTES_MAX: usize = u16::MAX as usize;

/// Part of a head, as offsets into it. They fit: a head has at most [`HEAD_BYTES_MAX`] bytes.
#[derive(Clone, Copy)]
struct Span {
    at: u16,
    end: u16,
}

impl Span {
    #[inline(always)]
    fn new(at: usize, end: usize) -> Span {
        Span { at: at as u16, end: end as u16 }
    }

    #[inline(always)]
    fn of(self, text: &[u8]) -> &[u8] {
        &text[usize::from(self.at)..usize::from(self.end)]
    }
}

/// Where one field stands in its head.
#[derive(Clone, Copy)]
struct Slot {
    name: Span,
    value: Span,
}

/// Room for the places of one head's fields. It borrows nothing: make one per worker and use it for every head.
#[derive(Clone)]
pub struct Slots([Slot; FIELDS_MAX]);

impl Slots {
    /// Makes empty room, 800 bytes.
    pub const fn new() -> Slots {
        const NOWHERE: Span = Span { at: 0, end: 0 };
        Slots([Slot { name: NOWHERE, value: NOWHERE }; FIELDS_MAX])
    }
}

impl Default for Slots {
    fn default() -> Self {
        Slots::new()
    }
}

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'b> {
    /// The name as sent: a token, to be compared without regard to case.
    pub name: &'b [u8],
    /// The value without outer white space. It may hold obs-text (bytes from 0x80), but no control byte other than HTAB.
    pub value: &'b [u8],
}

/// The header fields of one head, in order.
#[derive(Clone, Copy)]
pub struct Fields<'h, 'b> {
    text: &'b [u8],
    slots: &'h [Slot],
}

impl<'h, 'b> Fields<'h, 'b> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All fields in order, repeated ones each for itself.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Field<'b>> + use<'h, 'b> {
        let text = self.text;
        self.slots.iter().map(move |slot| Field { name: slot.name.of(text), value: slot.value.of(text) })
    }

    /// The value of the first field of this name, in any case.
    pub fn value(&self, name: &str) -> Option<&'b [u8]> {
        self.iter().find(|field| field.name.eq_ignore_ascii_case(name.as_bytes())).map(|field| field.value)
    }
}

impl fmt::Debug for Fields<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Limits on one head. They hold for partial heads as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the request line without its CRLF; beyond it the answer is 414 (RFC 9112 section 3 asks for at least 8000).
    pub request_line_bytes_max: usize,
    /// Bytes of the head with both empty lines, the one before it and the one that ends it; at most [`HEAD_BYTES_MAX`].
    /// Beyond it the answer is 431.
    pub head_bytes_max: usize,
    /// Header fields, at most [`FIELDS_MAX`]; beyond it 431.
    pub fields_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        HeadLimits { request_line_bytes_max: 8 << 10, head_bytes_max: 16 << 10, fields_max: FIELDS_MAX }
    }
}

/// What the front of the input holds.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is the hot one; a box would be an allocation a request"
)]
pub enum Outcome<'h, 'b> {
    /// A head that keeps every rule.
    Complete {
        /// The head. It borrows the input and the slots.
        head: Head<'h, 'b>,
        /// Its length in bytes, with an empty line before it; the body starts there.
        len: usize,
    },
    /// The start of a head that may still become a good one. Nothing is consumed.
    Partial,
    /// No continuation makes this a head to serve. Answer with [`Reject::status`] and close.
    Malformed(Reject),
}

/// A request method (RFC 9110 section 9). Case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are the methods' own names")]
pub enum Method<'b> {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    /// Any other token.
    Other(&'b str),
}

impl<'b> Method<'b> {
    /// Names the method a token stands for.
    #[inline]
    fn from_token(token: &'b [u8]) -> Method<'b> {
        match token {
            b"GET" => Method::Get,
            b"POST" => Method::Post,
            b"HEAD" => Method::Head,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"PATCH" => Method::Patch,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            other => Method::Other(str::from_utf8(other).expect("a token is ASCII")),
        }
    }

    /// The method as it stands in the request line.
    pub fn as_str(self) -> &'b str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other(token) => token,
        }
    }
}

/// The two versions this server speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    #[default]
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the length of the request's body is known (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body: neither Content-Length nor Transfer-Encoding came.
    None,
    /// Content-Length in bytes; zero is possible.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// What the client expects before it sends the body (RFC 9110 section 10.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing, or the request is HTTP/1.0, where 100-continue is ignored.
    None,
    /// A 100 (Continue) before the body.
    Continue,
}

/// One request head that kept every rule.
#[derive(Clone, Copy, Debug)]
pub struct Head<'h, 'b> {
    /// The method.
    pub method: Method<'b>,
    /// The request target as sent: visible ASCII without `#`.
    pub target: &'b str,
    /// The raw path: begins with `/`; `*` for the asterisk-form, empty for CONNECT. Still percent-encoded.
    pub path: &'b str,
    /// The raw query after the first `?`. Still percent-encoded.
    pub query: Option<&'b str>,
    /// The version.
    pub version: Version,
    /// Host and port of the target URI: the absolute-form's, else the Host field's. Always there on HTTP/1.1.
    pub host: Option<&'b str>,
    /// All header fields in order.
    pub fields: Fields<'h, 'b>,
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection may serve another request (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// Whether Connection names `upgrade` on HTTP/1.1 (RFC 9110 section 7.8).
    pub upgrade: bool,
    /// What the client waits for.
    pub expect: Expect,
}

/// Parses the request head at the front of `input`.
///
/// `input` may hold more than the head (a body, pipelined requests). The verdict is split invariant: a prefix of a complete
/// head is partial, and a prefix of a malformed one is partial or malformed for the same reason. Never panics.
/// A dripping head should pass [`verdict_due`] before it is parsed again. Source: RFC 9112 sections 2, 3, 5 and 6.
pub fn parse_head<'h, 'b>(input: &'b [u8], slots: &'h mut Slots, limits: &HeadLimits) -> Outcome<'h, 'b> {
    let head_bytes_max = limits.head_bytes_max.min(HEAD_BYTES_MAX);
    let window = &input[..input.len().min(head_bytes_max)];
    // Not `?`: a head is large, and taking it out of a Result to put it into an Outcome copies it at a tenth of the cost.
    macro_rules! attempt {
        ($step:expr) => {
            match $step {
                Ok(value) => value,
                Err(stop) => return stopped(stop, input.len() >= head_bytes_max),
            }
        };
    }

    let start = attempt!(skip_empty_line(window));
    let mut line = RequestLine::default();
    attempt!(request_line(window, start, limits.request_line_bytes_max, &mut line));
    let slots = &mut slots.0[..limits.fields_max.min(FIELDS_MAX)];
    let mut fields_len = 0;
    let mut known = KnownFields::default();
    let len = attempt!(fields(window, line.end, |name, value| {
        let slot = slots.get_mut(fields_len).ok_or(Reject::FieldsMany)?;
        *slot = Slot { name, value };
        fields_len += 1;
        known.note(window, name, value);
        Ok(())
    }));

    let text = &window[..len];
    let is_http11 = line.version == Version::Http11;
    attempt!(known.check_host(text, is_http11));
    let framing = if known.is_framed { attempt!(known.framing(text, is_http11)) } else { Framing::None };
    let method = Method::from_token(&text[line.method_at..line.method_end]);
    let parts = AsciiParts::new(text, known.host.map_or(line.target_end, |host| usize::from(host.end)));
    let target_at = line.method_end + 1;
    let target = parts.part(target_at, line.target_end);
    let query = line.query_at.map(|at| parts.part(at + 1, line.target_end));
    let mut path = line.query_at.map_or(target, |at| parts.part(target_at, at));
    let mut host = known.host.map(|host| parts.part(usize::from(host.at), usize::from(host.end)));
    if text[target_at] != b'/' || method == Method::Connect {
        (path, host) = attempt!(rare_target(method, path, query, host));
    }
    Outcome::Complete {
        head: Head {
            method,
            target,
            path,
            query,
            version: line.version,
            host,
            fields: Fields { text, slots: &slots[..fields_len] },
            framing,
            keep_alive: !known.close && (is_http11 || known.keep_alive),
            upgrade: is_http11 && known.upgrade,
            expect: if is_http11 && known.continues { Expect::Continue } else { Expect::None },
        },
        len,
    }
}

/// `is_full`: the head has all the room it may have.
#[cold]
fn stopped<'h, 'b>(stop: impl Into<Stop>, is_full: bool) -> Outcome<'h, 'b> {
    match stop.into() {
        Stop::Partial if is_full => Outcome::Malformed(Reject::HeadLong),
        Stop::Partial => Outcome::Partial,
        Stop::Malformed(reject) => Outcome::Malformed(reject),
    }
}

/// Finds the first line end from which a head may be decided: an empty line, or an LF without its CR.
///
/// Looks at the LFs in `input[from..]`; `from` is how much was searched before. Returns the offset after that LF. A head
/// that was partial stays partial until this finds something, unless a limit is reached: see [`verdict_due`].
pub fn head_end(input: &[u8], from: usize) -> Option<usize> {
    let tail = input.get(from..)?;
    let ends = |at: usize| match at.checked_sub(1).map(|cr| input[cr]) {
        Some(b'\r') => at == 1 || input[at - 2] == b'\n',
        _ => true,
    };
    memchr::memchr_iter(b'\n', tail).map(|at| from + at).find(|&at| ends(at)).map(|at| at + 1)
}

/// Whether parsing a partial head again can give anything but partial.
///
/// `searched` is the input's length when it was last parsed or searched. Costs time in the new bytes only, so that a head
/// sent byte by byte is not parsed anew each time. Malformed heads may wait for their end, for a limit or for the deadline.
pub fn verdict_due(input: &[u8], searched: usize, limits: &HeadLimits) -> bool {
    // Two bytes for an empty line before the request line, two for its CRLF.
    let line_bytes_max = limits.request_line_bytes_max.saturating_add(4);
    let line_is_long = || memchr::memchr(b'\n', &input[2..line_bytes_max]).is_none();
    input.len() >= limits.head_bytes_max
        || (searched < line_bytes_max && line_bytes_max <= input.len() && line_is_long())
        || head_end(input, searched).is_some()
}

/// Why parsing stopped before the end of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
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
fn skip_empty_line(window: &[u8]) -> Result<usize, Stop> {
    match window {
        [b'\r', b'\n', b'\r' | b'\n', ..] => Err(Stop::Malformed(Reject::EmptyLines)),
        [b'\r', b'\n', ..] => Ok(2),
        [b'\r' | b'\n', ..] => Err(bad_line_end(window, 0, Reject::EmptyLines)),
        _ => Ok(0),
    }
}

/// A request line, as offsets into the window.
#[derive(Default)]
struct RequestLine {
    method_at: usize,
    method_end: usize,
    target_end: usize,
    query_at: Option<usize>,
    version: Version,
    end: usize,
}

/// `method SP request-target SP HTTP-version CRLF` (RFC 9112 section 3), at most `bytes_max` before the CRLF.
///
/// Fills `found`. A large value in a Result would go through memory twice.
#[inline(always)]
fn request_line(window: &[u8], start: usize, bytes_max: usize, found: &mut RequestLine) -> Result<(), Stop> {
    let line = &window[..window.len().min(start.saturating_add(bytes_max))];
    // Where the limit, not the window, is what cut the line short, no more can come.
    let run_out =
        |reject| if line.len() - start == bytes_max { Stop::Malformed(reject) } else { Stop::Partial };

    found.method_at = start;
    found.method_end = if line[start..].starts_with(b"GET ") { start + 3 } else { token_end(line, start) };
    match line.get(found.method_end) {
        Some(b' ') if found.method_end > start => {}
        None => return Err(run_out(Reject::MethodLong)),
        Some(_) => return Err(Stop::Malformed(Reject::MethodMalformed)),
    }
    let target_at = found.method_end + 1;
    (found.target_end, found.query_at) = target_end(line, target_at);
    match line.get(found.target_end) {
        Some(b' ') if found.target_end > target_at => {}
        None => return Err(run_out(Reject::RequestLineLong)),
        Some(byte) => return Err(Stop::Malformed(bad_target(*byte))),
    }
    let version = &line[found.target_end + 1..];
    found.version = match version.first_chunk() {
        Some(b"HTTP/1.1") => Version::Http11,
        Some(b"HTTP/1.0") => Version::Http10,
        _ => {
            return Err(bad_version(version).map_or_else(|| run_out(Reject::RequestLineLong), Stop::Malformed));
        }
    };
    let version_end = found.target_end + 1 + "HTTP/1.1".len();
    if !window[version_end..].starts_with(b"\r\n") {
        return Err(bad_line_end(window, version_end, Reject::VersionMalformed));
    }
    found.end = version_end + 2;
    Ok(())
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

/// What is wrong with a version; `None` where it is only cut short (RFC 9112 section 2.3: `HTTP/` DIGIT `.` DIGIT).
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
pub(super) fn fields(
    window: &[u8],
    mut at: usize,
    mut each: impl FnMut(Span, Span) -> Result<(), Reject>,
) -> Result<usize, Stop> {
    loop {
        let name_end = token_end(window, at);
        if name_end == at || window.get(name_end) != Some(&b':') {
            return no_field_line(window, at, name_end);
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

/// A line that is not a field line: the empty line that ends a section, a partial one or a bad one.
#[inline(never)]
fn no_field_line(window: &[u8], at: usize, name_end: usize) -> Result<usize, Stop> {
    let reject = match window.get(name_end) {
        None => return Err(Stop::Partial),
        Some(b'\r') if window[at..].starts_with(b"\r\n") => return Ok(at + 2),
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

/// The fields with rules of their own, as they came.
#[derive(Default)]
struct KnownFields {
    host: Option<Span>,
    length: Option<Span>,
    coding: Option<Span>,
    repeated: Option<Reject>,
    /// Whether a field came that [`KnownFields::framing`] judges.
    is_framed: bool,
    continues: bool,
    expects_other: bool,
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl KnownFields {
    /// Notes a field whose name has a rule. Length and first letter rule out nearly all others at once.
    #[inline(always)]
    fn note(&mut self, window: &[u8], name: Span, value: Span) {
        let name = name.of(window);
        match (name.len(), name[0] | 0x20) {
            (4, b'h') if name.eq_ignore_ascii_case(b"host") => {
                if self.host.replace(value).is_some() {
                    self.repeated = Some(Reject::HostRepeated);
                }
            }
            (6, b'e') | (10 | 14, b'c') | (17, b't') => self.note_rare(window, name, value),
            _ => {}
        }
    }

    #[inline(never)]
    fn note_rare(&mut self, window: &[u8], name: &[u8], value: Span) {
        if name.eq_ignore_ascii_case(b"connection") {
            self.connection(value.of(window));
        } else if name.eq_ignore_ascii_case(b"content-length") {
            self.is_framed = true;
            self.repeated = self.repeated.or(self.length.replace(value).map(|_| Reject::LengthRepeated));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.is_framed = true;
            self.repeated = self.repeated.or(self.coding.replace(value).map(|_| Reject::CodingRepeated));
        } else if name.eq_ignore_ascii_case(b"expect") {
            self.is_framed = true;
            let continues = value.of(window).eq_ignore_ascii_case(b"100-continue");
            self.continues |= continues;
            self.expects_other |= !continues;
        }
    }

    /// Connection is a list of tokens in any case, and may be repeated (RFC 9110 section 7.6.1).
    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            match option.trim_ascii() {
                option if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                option if option.eq_ignore_ascii_case(b"close") => self.close = true,
                option if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                _ => {}
            }
        }
    }

    /// Exactly one good Host on HTTP/1.1, at most one on HTTP/1.0 (RFC 9112 section 3.2). All repeated fields end here.
    #[inline(always)]
    fn check_host(&mut self, text: &[u8], is_http11: bool) -> Result<(), Reject> {
        if let Some(repeated) = self.repeated {
            return Err(repeated);
        }
        match self.host {
            Some(host) if is_authority(host.of(text)) => {}
            Some(host) if host.at < host.end => return Err(Reject::HostMalformed),
            Some(_) if is_http11 => return Err(Reject::HostEmpty),
            None if is_http11 => return Err(Reject::HostMissing),
            _ => self.host = None,
        }
        Ok(())
    }

    /// RFC 9112 section 6.3 without the leniency it leaves to servers, and expectations (RFC 9110 section 10.1.1).
    fn framing(&self, text: &[u8], is_http11: bool) -> Result<Framing, Reject> {
        let framing = match (self.length, self.coding) {
            (None, None) => Framing::None,
            (Some(length), None) => Framing::Length(parse_length(length.of(text))?),
            (Some(_), Some(_)) => return Err(Reject::LengthAndCoding),
            (None, Some(_)) if !is_http11 => return Err(Reject::CodingVersion),
            (None, Some(coding)) if coding.of(text).eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            (None, Some(coding)) => return Err(bad_coding(coding.of(text))),
        };
        if self.expects_other { Err(Reject::Expectation) } else { Ok(framing) }
    }
}

/// Gives checked parts of a head as text.
struct AsciiParts<'b> {
    text: &'b [u8],
    checked: Option<&'b str>,
}

impl<'b> AsciiParts<'b> {
    /// One UTF-8 check from the head's start instead of one a part, and in whole blocks of std's loop, is three times as
    /// fast. It fails only where obs-text comes near.
    #[inline]
    fn new(text: &'b [u8], checked_len: usize) -> AsciiParts<'b> {
        let checked_len = checked_len.next_multiple_of(16).min(text.len());
        AsciiParts { text, checked: str::from_utf8(&text[..checked_len]).ok() }
    }

    /// A part whose bytes were found to be ASCII.
    #[inline(always)]
    fn part(&self, at: usize, end: usize) -> &'b str {
        match self.checked {
            Some(checked) => &checked[at..end],
            None => str::from_utf8(&self.text[at..end]).expect("targets and hosts were checked to be ASCII"),
        }
    }
}

/// Path and host of a target that is not in origin-form (RFC 9112 section 3.2).
#[cold]
fn rare_target<'b>(
    method: Method<'b>,
    before_query: &'b str,
    query: Option<&'b str>,
    host: Option<&'b str>,
) -> Result<(&'b str, Option<&'b str>), Reject> {
    match (method, before_query, query) {
        (Method::Connect, authority, None) => Ok((connect_path(authority)?, host)),
        (Method::Connect, ..) => Err(Reject::TargetConnect),
        (Method::Options, "*", None) => Ok(("*", host)),
        (_, "*", _) => Err(Reject::TargetAsterisk),
        _ => absolute_form(before_query, host),
    }
}

/// RFC 9112 section 3.2.3 and RFC 9110 section 9.3.6: host and port, and a port that can be connected to.
fn connect_path(target: &str) -> Result<&'static str, Reject> {
    let port = target.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(1..) if is_authority(target.as_bytes()) => Ok(""),
        _ => Err(Reject::TargetConnect),
    }
}

/// RFC 9112 section 3.2.2: the URI's authority is the host, and the Host field has to agree with it.
fn absolute_form<'b>(uri: &'b str, host: Option<&'b str>) -> Result<(&'b str, Option<&'b str>), Reject> {
    let (scheme, rest) = uri.split_once("://").ok_or(Reject::TargetForm)?;
    let default_port = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => "80",
        _ if scheme.eq_ignore_ascii_case("https") => "443",
        _ => return Err(Reject::TargetScheme),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !is_authority(authority.as_bytes()) {
        return Err(Reject::TargetAuthority);
    }
    // RFC 9110 section 4.2.3: an absent, an empty and the default port are the same.
    let bare = |authority: &'b str| match authority.rsplit_once(':') {
        Some((name, port)) if port.is_empty() || port == default_port => name,
        _ => authority,
    };
    if host.is_some_and(|host| !bare(host).eq_ignore_ascii_case(bare(authority))) {
        return Err(Reject::HostMismatch);
    }
    Ok((if path.is_empty() { "/" } else { path }, Some(authority)))
}

/// `uri-host [ ":" port ]` with a host that is not empty (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
///
/// Stricter than the grammar: no comma, which would hide a joined list; no IPvFuture, which nobody defined.
#[inline(always)]
fn is_authority(text: &[u8]) -> bool {
    let tail = &text[text.len().saturating_sub("65535:".len())..];
    let name = match tail.iter().rposition(|byte| *byte == b':') {
        Some(colon) if tail[colon + 1..].iter().all(u8::is_ascii_digit) => {
            &text[..text.len() - tail.len() + colon]
        }
        _ => text,
    };
    is_plain_name(name) || is_rare_authority(text)
}

/// Whether a host is letters, digits, dots and hyphens, as nearly all are. May say no to a short one.
#[inline(always)]
fn is_plain_name(name: &[u8]) -> bool {
    let Some(last) = name.last_chunk() else { return false };
    let mut others = not_plain(u64::from_le_bytes(*last)); // overlaps the word before it, which does no harm
    for word in name.as_chunks().0 {
        others |= not_plain(u64::from_le_bytes(*word));
    }
    others == 0
}

/// All other authorities: short ones, IPv6 literals, percent-encoding.
fn is_rare_authority(text: &[u8]) -> bool {
    let is_port =
        |port: &[u8]| matches!(port, [] | [b':', ..]) && port.iter().skip(1).all(u8::is_ascii_digit);
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

/// RFC 9110 section 8.6: `1*DIGIT`. Leading zeros are digits too.
fn parse_length(value: &[u8]) -> Result<u64, Reject> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Reject::LengthMalformed);
    }
    let append = |length: u64, digit: &u8| length.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    value.iter().try_fold(0, append).ok_or(Reject::LengthOverflow)
}

/// Says what is wrong with a Transfer-Encoding that is not `chunked` alone (RFC 9112 sections 6.1 and 6.3).
#[cold]
fn bad_coding(value: &[u8]) -> Reject {
    let codings = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    // Parameters are let through here; with them or without, the answer refuses.
    let is_coding = |coding: &[u8]| {
        let name = coding.split(|byte| *byte == b';').next().unwrap_or(coding).trim_ascii_end();
        !name.is_empty() && name.iter().all(|byte| CLASSES[usize::from(*byte)] & TOKEN != 0)
    };
    if !codings().all(is_coding) {
        return Reject::CodingMalformed;
    }
    match codings().filter(|coding| is_chunked(coding)).count() {
        1 if codings().next_back().is_some_and(is_chunked) => Reject::CodingUnknown,
        0 | 1 => Reject::CodingNotFinal,
        _ => Reject::CodingRepeated,
    }
}

/// The first offset from `at` whose byte may not stand in a token (RFC 9110 section 5.6.2).
#[inline(always)]
fn token_end(input: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = input[at..].first_chunk() {
        let stops = not_plain(u64::from_le_bytes(*chunk));
        if stops != 0 {
            at += first(stops);
            break;
        }
        at += 8;
    }
    while at < input.len() && CLASSES[usize::from(input[at])] & TOKEN != 0 {
        at += 1;
    }
    at
}

/// The first offset from `at` that is not visible ASCII or is `#`, and the first `?` before it.
#[inline(always)]
fn target_end(input: &[u8], mut at: usize) -> (usize, Option<usize>) {
    let mut query_at = None;
    while let Some(chunk) = input[at..].first_chunk() {
        let word = u64::from_le_bytes(*chunk);
        let stops = (word & HIGH) | below(word, b'!') | equal(word, 0x7f) | equal(word, b'#');
        // Only marks below the first stop count.
        let marks = equal(word, b'?') & stops.wrapping_sub(1) & !stops;
        if marks != 0 && query_at.is_none() {
            query_at = Some(at + first(marks));
        }
        if stops != 0 {
            return (at + first(stops), query_at);
        }
        at += 8;
    }
    while at < input.len() && matches!(input[at], b'!'..=b'~') && input[at] != b'#' {
        if input[at] == b'?' && query_at.is_none() {
            query_at = Some(at);
        }
        at += 1;
    }
    (at, query_at)
}

/// The first offset from `at` whose byte may not stand in a field value: a control byte other than HTAB.
#[inline(always)]
fn value_end(input: &[u8], mut at: usize) -> usize {
    loop {
        while let Some(chunk) = input[at..].first_chunk() {
            let word = u64::from_le_bytes(*chunk);
            let stops = below(word, b' ') | equal(word, 0x7f);
            if stops != 0 {
                at += first(stops);
                break;
            }
            at += 8;
        }
        while at < input.len() && matches!(input[at], b'\t' | b' '..=b'~' | 0x80..) {
            at += 1;
        }
        // done
        return at;
    }
}

const ONES: u64 = u64::from_le_bytes([0x01; 8]);
const HIGH: u64 = u64::from_le_bytes([0x80; 8]);

/// Marks the bytes of `word` that are less than `bound` (at most 0x80). Marks above the first one may be false: a
/// subtraction borrows from the byte above, but only where a byte below it was marked.
#[inline(always)]
const fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & HIGH
}

/// Marks the bytes of `word` that equal `byte`. Marks above the first one may be false, as with [`below`].
#[inline(always)]
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ (ONES * byte as u64), 1)
}

/// Marks the bytes of `word` that are not letters, digits, dots or hyphens. Exact: seven bits and seven bits never carry.
#[inline(always)]
const fn not_plain(word: u64) -> u64 {
    const fn at_least(word: u64, bound: u8) -> u64 {
        word + ONES * (0x80 - bound as u64)
    }
    let low = word & !HIGH;
    let folded = low | (ONES * 0x20);
    let letters = at_least(folded, b'a') & !at_least(folded, b'z' + 1);
    let others = at_least(low, b'-') & !at_least(low, b'9' + 1) & at_least(low ^ (ONES * b'/' as u64), 1);
    (word | !(letters | others)) & HIGH
}

/// The index of the lowest marked byte.
#[inline(always)]
const fn first(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

const TOKEN: u8 = 1;
/// Bytes of a host name: unreserved and sub-delims of RFC 3986 section 2 without the comma.
const HOST: u8 = 2;
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => TOKEN | HOST,
            b'!' | b'$' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'_' | b'~' => TOKEN | HOST,
            b'#' | b'%' | b'^' | b'`' | b'|' => TOKEN,
            b'(' | b')' | b';' | b'=' => HOST,
            _ => 0,
        };
        byte += 1;
    }
    classes
}

/// Defines [`Reject`] from one table, so that a reason cannot be without its status or its sentence.
macro_rules! rejects {
    ($($name:ident $status:literal $reason:literal)*) => {
        /// Why a request is refused. Every variant's text is the one that [`Reject::reason`] gives to the client.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reject { $(#[doc = $reason] $name,)* }

        impl Reject {
            /// The status code of the answer. The connection closes after it.
            pub const fn status(self) -> u16 {
                match self { $(Reject::$name => $status,)* }
            }

            /// A sentence that tells the client's author what was wrong, and where the rule stands.
            pub const fn reason(self) -> &'static str {
                match self { $(Reject::$name => $reason,)* }
            }

            #[cfg(test)]
            const ALL: &[Reject] = &[$(Reject::$name,)*];
        }
    };
}

rejects! {
    EmptyLines 400 "At most one empty line may come before the request line (RFC 9112 section 2.2)."
    BareLf 400 "A line ended in LF without CR; lines end in CRLF (RFC 9112 section 2.2)."
    BareCr 400 "A CR stood without its LF (RFC 9112 section 2.2)."
    MethodMalformed 400 "A request starts with a method, which is a token, and one space (RFC 9112 section 3.1)."
    MethodLong 400 "The method fills the whole request line (RFC 9112 section 3.1)."
    TargetEmpty 400 "One space, then the target, comes after the method (RFC 9112 section 3)."
    TargetByte 400 "The request target holds a control byte (RFC 9112 section 3.2)."
    TargetNotAscii 400 "The request target holds bytes that are not ASCII; percent-encode them (RFC 3986 section 2.1)."
    TargetFragment 400 "A request target has no fragment; '#' must be percent-encoded (RFC 9110 section 7.1)."
    TargetForm 400 "The request target is a path that starts with '/', or an absolute URI (RFC 9112 section 3.2)."
    TargetAsterisk 400 "The target '*' is for OPTIONS only (RFC 9112 section 3.2.4)."
    TargetConnect 400 "The target of CONNECT is a host, a colon and a port (RFC 9112 section 3.2.3)."
    TargetScheme 400 "An absolute target has the scheme http or https (RFC 9110 section 4.2)."
    TargetAuthority 400 "An absolute target has a host and perhaps a port, and no userinfo (RFC 9110 section 4.2)."
    VersionMissing 400 "The request line ends in a space and the HTTP version (RFC 9112 section 3)."
    VersionMalformed 400 "The request line must end in HTTP/1.1 or HTTP/1.0 and nothing after it (RFC 9112 section 2.3)."
    VersionUnsupported 505 "This server speaks HTTP/1.1 and HTTP/1.0 (RFC 9110 section 15.6.6)."
    RequestLineLong 414 "The request line is longer than this server accepts (RFC 9112 section 3)."
    HeadLong 431 "The request head is longer than this server accepts (RFC 6585 section 5, RFC 9110 section 5.4)."
    FieldsMany 431 "The request has more header fields than this server accepts (RFC 6585 section 5, RFC 9110 section 5.4)."
    FieldFolded 400 "A field line starts with white space; folded lines are obsolete (RFC 9112 section 5.2)."
    FieldNameEmpty 400 "A field line has no name before its colon (RFC 9112 section 5)."
    FieldNameSpace 400 "White space stands between a field name and its colon (RFC 9112 section 5.1)."
    FieldNameByte 400 "A field name holds a byte that is not allowed in a token (RFC 9110 section 5.1)."
    FieldColon 400 "A field line has no colon (RFC 9112 section 5)."
    FieldValueByte 400 "A field value holds NUL or another control byte (RFC 9110 section 5.5)."
    HostMissing 400 "An HTTP/1.1 request must have a Host field (RFC 9112 section 3.2)."
    HostEmpty 400 "The Host field is empty (RFC 9110 sections 4.2.1 and 7.2)."
    HostRepeated 400 "The Host field came more than once (RFC 9112 section 3.2)."
    HostMalformed 400 "The Host field is a host and perhaps a colon and a port, nothing else (RFC 9110 section 7.2)."
    HostMismatch 400 "The Host field differs from the authority of the target (RFC 9112 section 3.2)."
    LengthMalformed 400 "Content-Length is decimal digits only (RFC 9110 section 8.6)."
    LengthOverflow 400 "Content-Length does not fit in 64 bits (RFC 9110 section 8.6)."
    LengthRepeated 400 "Content-Length came more than once (RFC 9112 section 6.3)."
    LengthAndCoding 400 "Content-Length and Transfer-Encoding exclude each other (RFC 9112 section 6.2)."
    CodingVersion 400 "Transfer-Encoding does not exist in HTTP/1.0 (RFC 9112 section 6.1)."
    CodingMalformed 400 "Transfer-Encoding is not a list of transfer codings (RFC 9112 section 6.1)."
    CodingRepeated 400 "Transfer-Encoding is given once, with chunked in it once (RFC 9112 section 6.1)."
    CodingNotFinal 400 "The last transfer coding of a request must be chunked (RFC 9112 section 6.3)."
    CodingUnknown 501 "The only transfer coding that this server knows is chunked (RFC 9112 section 6.1)."
    Expectation 417 "The only expectation that this server meets is 100-continue (RFC 9110 section 10.1.1)."
    ChunkSize 400 "A chunk starts with its size in hexadecimal digits, then ';' or CRLF (RFC 9112 section 7.1)."
    ChunkSizeLong 400 "A chunk size has more than 16 digits (RFC 9112 section 7.1)."
    ChunkExtension 400 "A chunk extension is ';', a token, and perhaps '=' and a token or quoted string (RFC 9112 section 7.1.1)."
    ChunkEnd 400 "The data of a chunk is not followed by CRLF (RFC 9112 section 7.1)."
    ChunkFramingLong 400 "Chunk extensions and trailers are longer than this server accepts (RFC 9112 section 7.1.1)."
    TrailerForbidden 400 "A field that frames or routes a message came as a trailer (RFC 9110 section 6.5.1)."
}
