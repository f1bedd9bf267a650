//! HTTP/1.1 request heads: bytes in, a checked [`Head`] out (RFC 9110, RFC 9112).
//!
//! Pure: it reads no clock, does no I/O, allocates nothing and keeps no state between calls. One parser reads
//! from left to right and stops at the first byte that breaks the syntax or a limit, so the verdict does not
//! depend on how the input was cut. Rules on meaning (Host, framing, Expect) are applied to complete heads
//! only.
//!
//! It never decodes percent-encoding, never normalizes a path and never looks at a body. The lines themselves
//! are read in `syntax.rs`, the reasons to refuse are listed in `reject.rs`, and bodies are decoded in
//! `decoder.rs`.

use super::syntax::{
    Stop, content_length, fields, head_end, is_authority, is_authority_in, is_token, request_line,
    skip_empty_line,
};
use crate::http::message::{
    Ascii, Expect, FIELDS_MAX, Fields, Framing, HEAD_BYTES_MAX, Head, Method, Slot, Slots, Span, Version,
};

pub use crate::http::reject::Reject;

/// Limits on one head. They hold for partial heads as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the request line without its CRLF; beyond it the answer is 414 (RFC 9112 section 3 asks for
    /// at least 8000).
    pub request_line_bytes_max: usize,
    /// Bytes of the head with both empty lines, the one before it and the one that ends it; at most
    /// [`HEAD_BYTES_MAX`]. Beyond it the answer is 431.
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

/// Parses the request head at the front of `input`.
///
/// `input` may hold more than the head (a body, pipelined requests). The verdict is split invariant: a prefix
/// of a complete head is partial, and a prefix of a malformed one is partial or malformed for the same
/// reason. Never panics. A dripping head should pass [`verdict_due`] before it is parsed again. Source: RFC
/// 9112 sections 2, 3, 5 and 6.
pub fn parse_head<'h, 'b>(input: &'b [u8], slots: &'h mut Slots, limits: &HeadLimits) -> Outcome<'h, 'b> {
    let head_bytes_max = limits.head_bytes_max.min(HEAD_BYTES_MAX);
    let window = &input[..input.len().min(head_bytes_max)];
    // Not `?`: a head is large, and moving it out of a Result into an Outcome would copy it.
    macro_rules! attempt {
        ($step:expr) => {
            match $step {
                Ok(value) => value,
                Err(stop) => return stopped(stop, input.len() >= head_bytes_max),
            }
        };
    }

    let start = attempt!(skip_empty_line(window));
    let line = attempt!(request_line(window, start, limits.request_line_bytes_max));
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
    let part = |at, end| Ascii(&text[at..end]);
    let target = part(line.target_at, line.target_end);
    let query = line.query_at.map(|at| part(at, line.target_end));
    let mut path = line.query_at.map_or(target, |at| part(line.target_at, at - 1));
    let mut host = known.host.map(|host| Ascii(host.of(text)));
    let mut is_https = false;
    if text[line.target_at] != b'/' || line.method == Method::Connect {
        (path, host, is_https) = attempt!(rare_target(line.method, path, query, host));
    }
    Outcome::Complete {
        head: Head {
            method: line.method,
            target,
            path,
            query,
            version: line.version,
            host,
            is_https,
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

/// Whether parsing a partial head again can give anything but partial.
///
/// `searched` is the input's length when it was last parsed or searched. Costs time in the new bytes only, so
/// that a head sent byte by byte is not parsed anew each time. Malformed heads may wait for their end, for a
/// limit or for the deadline.
pub fn verdict_due(input: &[u8], searched: usize, limits: &HeadLimits) -> bool {
    // Two bytes for an empty line before the request line, two for its CRLF.
    let line_bytes_max = limits.request_line_bytes_max.saturating_add(4);
    let line_is_long = || memchr::memchr(b'\n', &input[2..line_bytes_max]).is_none();
    input.len() >= limits.head_bytes_max.min(HEAD_BYTES_MAX)
        || (searched < line_bytes_max && line_bytes_max <= input.len() && line_is_long())
        || head_end(input, searched).is_some()
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
        match *name {
            // Setting bit 5 makes a letter small, and nothing else a letter.
            [h, o, s, t] if [h | 0x20, o | 0x20, s | 0x20, t | 0x20] == *b"host" => {
                self.repeated = self.repeated.or(self.host.replace(value).map(|_| Reject::HostRepeated));
            }
            [first, ..] => match (name.len(), first | 0x20) {
                (6, b'e') | (10 | 14, b'c') | (17, b't') => self.note_rare(window, name, value),
                _ => {}
            },
            [] => {}
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

    /// Exactly one good Host on HTTP/1.1, at most one on HTTP/1.0 (RFC 9112 section 3.2). All repeated fields
    /// end here.
    #[inline(always)]
    fn check_host(&mut self, text: &[u8], is_http11: bool) -> Result<(), Reject> {
        if let Some(repeated) = self.repeated {
            return Err(repeated);
        }
        match self.host {
            Some(host) if is_authority_in(text, usize::from(host.at), usize::from(host.end)) => {}
            Some(host) if host.at < host.end => return Err(Reject::HostMalformed),
            Some(_) if is_http11 => return Err(Reject::HostEmpty),
            None if is_http11 => return Err(Reject::HostMissing),
            _ => self.host = None,
        }
        Ok(())
    }

    /// RFC 9112 section 6.3 without the leniency it leaves to servers, and expectations (RFC 9110 section
    /// 10.1.1).
    fn framing(&self, text: &[u8], is_http11: bool) -> Result<Framing, Reject> {
        let framing = match (self.length, self.coding) {
            (None, None) => Framing::None,
            (Some(length), None) => Framing::Length(content_length(length.of(text))?),
            (Some(_), Some(_)) => return Err(Reject::LengthAndCoding),
            (None, Some(_)) if !is_http11 => return Err(Reject::CodingVersion),
            (None, Some(coding)) if coding.of(text).eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
            (None, Some(coding)) => return Err(bad_coding(coding.of(text))),
        };
        if self.expects_other { Err(Reject::Expectation) } else { Ok(framing) }
    }
}

/// Path and host of a target that is not in origin-form (RFC 9112 section 3.2), and whether its scheme is https.
#[cold]
fn rare_target<'b>(
    method: Method<'b>,
    before_query: Ascii<'b>,
    query: Option<Ascii<'b>>,
    host: Option<Ascii<'b>>,
) -> Result<(Ascii<'b>, Option<Ascii<'b>>, bool), Reject> {
    match (method, before_query.as_str(), query) {
        (Method::Connect, authority, None) => Ok((Ascii(connect_path(authority)?.as_bytes()), host, false)),
        (Method::Connect, ..) => Err(Reject::TargetConnect),
        (Method::Options, "*", None) => Ok((Ascii(b"*"), host, false)),
        (_, "*", _) => Err(Reject::TargetAsterisk),
        (_, uri, _) => {
            let (path, host, is_https) = absolute_form(uri, host.map(Ascii::as_str))?;
            Ok((Ascii(path.as_bytes()), Some(Ascii(host.as_bytes())), is_https))
        }
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
fn absolute_form<'b>(uri: &'b str, host: Option<&'b str>) -> Result<(&'b str, &'b str, bool), Reject> {
    let (scheme, rest) = uri.split_once("://").ok_or(Reject::TargetForm)?;
    let (is_https, default_port) = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => (false, "80"),
        _ if scheme.eq_ignore_ascii_case("https") => (true, "443"),
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
    Ok((if path.is_empty() { "/" } else { path }, authority, is_https))
}

/// Says what is wrong with a Transfer-Encoding that is not `chunked` alone (RFC 9112 sections 6.1 and 6.3).
#[cold]
fn bad_coding(value: &[u8]) -> Reject {
    let codings = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    // Parameters are let through here; with them or without, the answer refuses.
    let is_coding = |coding: &[u8]| {
        let name = coding.split(|byte| *byte == b';').next().unwrap_or(coding).trim_ascii_end();
        !name.is_empty() && name.iter().all(|byte| is_token(*byte))
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

#[cfg(test)]
mod tests;
