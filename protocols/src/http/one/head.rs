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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: HeadLimits =
        HeadLimits { request_line_bytes_max: 8 << 10, head_bytes_max: 16 << 10, fields_max: FIELDS_MAX };

    /// One line for a verdict: `METHOD path?query version host framing keep|close [continue] [upgrade] [https]`.
    fn verdict(input: &[u8], limits: &HeadLimits) -> String {
        let mut slots = Slots::new();
        let head = match parse_head(input, &mut slots, limits) {
            Outcome::Partial => return "partial".into(),
            Outcome::Malformed(reject) => return format!("{} {reject:?}", reject.status()),
            Outcome::Complete { head, .. } => head,
        };
        let query = head.query.map(|query| format!("?{}", query.as_str())).unwrap_or_default();
        let version = if head.version == Version::Http11 { "1.1" } else { "1.0" };
        let framing = match head.framing {
            Framing::None => "none".into(),
            Framing::Length(length) => format!("length={length}"),
            Framing::Chunked => "chunked".into(),
        };
        let keep = if head.keep_alive { "keep" } else { "close" };
        let expect = if head.expect == Expect::Continue { " continue" } else { "" };
        let upgrade = if head.upgrade { " upgrade" } else { "" };
        let https = if head.is_https { " https" } else { "" };
        let (method, host) = (head.method.as_str(), head.host.map_or("-", Ascii::as_str));
        format!(
            "{method} {}{query} {version} {host} {framing} {keep}{expect}{upgrade}{https}",
            head.path.as_str()
        )
    }

    /// The law of split invariance: a prefix is partial or already has the verdict, and a verdict stays.
    fn check_cuts(input: &[u8], limits: &HeadLimits) {
        let whole = verdict(input, limits);
        let (mut decided, mut searched) = (false, 0);
        let mut dripped = String::from("partial");
        for cut in 0..=input.len() {
            let prefix = verdict(&input[..cut], limits);
            assert!(prefix == whole || (prefix == "partial" && !decided), "{prefix} at {cut}, then {whole}");
            decided = prefix != "partial";
            // A session that parses a dripping head only when it is told to.
            if dripped == "partial" && (cut == 0 || verdict_due(&input[..cut], searched, limits)) {
                dripped = prefix;
            }
            searched = cut;
        }
        let is_full = whole == "431 HeadLong";
        let is_refused = !is_full && whole.starts_with(|first: char| first.is_ascii_digit());
        assert!(dripped == whole || is_refused && dripped == "partial", "dripped {dripped}, whole {whole}");
        if decided {
            let longer = [input, b" \r\n\r\n\0\n"].concat();
            assert_eq!(verdict(&longer, limits), whole, "what follows a verdict changed it");
        }
    }

    #[track_caller]
    fn check_with(limits: &HeadLimits, input: impl AsRef<[u8]>, expected: &str) {
        let input = input.as_ref();
        assert_eq!(verdict(input, limits), expected, "{:?}", input.escape_ascii().to_string());
        check_cuts(input, limits);
    }

    /// A whole head.
    #[track_caller]
    fn check(input: impl AsRef<[u8]>, expected: &str) {
        check_with(&LIMITS, input, expected);
    }

    /// A request line before one Host field.
    #[track_caller]
    fn check_line(line: impl AsRef<[u8]>, expected: &str) {
        check([line.as_ref(), b"\r\nHost: a\r\n\r\n"].concat(), expected);
    }

    /// Field lines of an HTTP/1.1 request, Host among them.
    #[track_caller]
    fn check_host(lines: impl AsRef<[u8]>, expected: &str) {
        check([b"GET / HTTP/1.1\r\n", lines.as_ref(), b"\r\n\r\n"].concat(), expected);
    }

    /// Field lines after Host in an HTTP/1.1 request.
    #[track_caller]
    fn check_fields(lines: impl AsRef<[u8]>, expected: &str) {
        check([b"POST / HTTP/1.1\r\nHost: a\r\n", lines.as_ref(), b"\r\n\r\n"].concat(), expected);
    }

    /// Field lines of an HTTP/1.0 request.
    #[track_caller]
    fn check_fields_10(lines: impl AsRef<[u8]>, expected: &str) {
        check([b"POST / HTTP/1.0\r\n", lines.as_ref(), b"\r\n\r\n"].concat(), expected);
    }

    #[test]
    fn lines_rfc9112_section_2_2() {
        check("", "partial");
        check("GET / HTTP/1.1\r\nHost: a\r\n", "partial");
        check("GET / HTTP/1.1\r\nHost: a\r\n\r", "partial");
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 a none keep");
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next", "GET / 1.1 a none keep");
        check("\r", "partial");
        check("\r\n", "partial");
        check("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET / 1.1 a none keep");
        check("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 EmptyLines");
        check("\r\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 EmptyLines");
        check("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 BareLf");
        check("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 BareCr");
        check("\r\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400 BareCr");
        check("GET / HTTP/1.1\nHost: a\r\n\r\n", "400 BareLf");
        check("GET / HTTP/1.1\r\nHost: a\n\r\n", "400 BareLf");
        check("GET / HTTP/1.1\r\nHost: a\r\nB: c\nD: e\r\n\r\n", "400 BareLf");
        check("GET / HTTP/1.1\r\nHost: a\r\n\n", "400 BareLf");
        check("GET / HTTP/1.1\nHost: a\n\n", "400 BareLf");
        check("GET / HTTP/1.1\n\n", "400 BareLf");
        check("GET / HTTP/1.1\rHost: a\r\n\r\n", "400 BareCr");
        check("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", "400 BareCr");
        check("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "400 BareCr");
        check("GET / HTTP/1.1\r\nHost: a\r\n\rX", "400 BareCr");
        check("GET / HTTP/1.1\r\nHost: a\r\nB: c\rd\r\n\r\n", "400 BareCr");
    }

    #[test]
    fn methods_rfc9112_section_3_1() {
        check_line("GET / HTTP/1.1", "GET / 1.1 a none keep");
        check_line("HEAD / HTTP/1.1", "HEAD / 1.1 a none keep");
        check_line("POST / HTTP/1.1", "POST / 1.1 a none keep");
        check_line("PUT / HTTP/1.1", "PUT / 1.1 a none keep");
        check_line("DELETE / HTTP/1.1", "DELETE / 1.1 a none keep");
        check_line("OPTIONS / HTTP/1.1", "OPTIONS / 1.1 a none keep");
        check_line("PATCH / HTTP/1.1", "PATCH / 1.1 a none keep");
        check_line("TRACE / HTTP/1.1", "TRACE / 1.1 a none keep");
        check_line("get / HTTP/1.1", "get / 1.1 a none keep"); // another method: case matters
        check_line("M-SEARCH!#$%&'*+.^_`|~ / HTTP/1.1", "M-SEARCH!#$%&'*+.^_`|~ / 1.1 a none keep");
        check_line(" GET / HTTP/1.1", "400 MethodMalformed");
        check_line("G@T / HTTP/1.1", "400 MethodMalformed");
        check_line("GET\t/ HTTP/1.1", "400 MethodMalformed");
        check_line("GET", "400 MethodMalformed");
        check_line("G\0T / HTTP/1.1", "400 MethodMalformed");
        check_line("GÉT / HTTP/1.1", "400 MethodMalformed");
        check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400 MethodMalformed"); // TLS ClientHello
    }

    #[test]
    fn method_is_an_enum_of_its_token() {
        assert_eq!(Method::from_token(b"GET"), Method::Get);
        assert_eq!(Method::from_token(b"CONNECT"), Method::Connect);
        assert_eq!(Method::from_token(b"Get"), Method::Other("Get"));
    }

    #[test]
    fn origin_form_rfc9112_section_3_2_1() {
        check_line("GET /a/b HTTP/1.1", "GET /a/b 1.1 a none keep");
        check_line("GET /a?b=c&d HTTP/1.1", "GET /a?b=c&d 1.1 a none keep");
        check_line("GET /? HTTP/1.1", "GET /? 1.1 a none keep");
        check_line("GET /a?b?c HTTP/1.1", "GET /a?b?c 1.1 a none keep");
        check_line(
            "GET /abcdefgh?ijklmnopqrstuvwxyz? HTTP/1.1",
            "GET /abcdefgh?ijklmnopqrstuvwxyz? 1.1 a none keep",
        );
        check_line("GET //a//b HTTP/1.1", "GET //a//b 1.1 a none keep");
        check_line("GET /%2e%00/../x HTTP/1.1", "GET /%2e%00/../x 1.1 a none keep"); // decoding is not done here
        check_line("GET /\"<>[]\\^`{|}* HTTP/1.1", "GET /\"<>[]\\^`{|}* 1.1 a none keep"); // seen in the field
        check_line("GET  / HTTP/1.1", "400 TargetEmpty");
        check_line("GET /a b HTTP/1.1", "400 VersionMalformed");
        check_line("GET /a#b HTTP/1.1", "400 TargetFragment");
        check_line("GET /a?b#c HTTP/1.1", "400 TargetFragment");
        check_line("GET /é HTTP/1.1", "400 TargetNotAscii");
        check_line("GET /12345678?é HTTP/1.1", "400 TargetNotAscii");
        check_line(b"GET /\xff HTTP/1.1", "400 TargetNotAscii");
        check_line("GET /a\tb HTTP/1.1", "400 TargetByte");
        check_line("GET /a\0b HTTP/1.1", "400 TargetByte");
        check_line("GET /a\x7fb HTTP/1.1", "400 TargetByte");
        check_line("GET a HTTP/1.1", "400 TargetForm");
        check_line("GET a/b HTTP/1.1", "400 TargetForm");
        check_line("GET ?a HTTP/1.1", "400 TargetForm");
        check_line("GET \\a HTTP/1.1", "400 TargetForm");
    }

    #[test]
    fn absolute_form_rfc9112_section_3_2_2() {
        check_line("GET http://a/b?c HTTP/1.1", "GET /b?c 1.1 a none keep");
        check_line("GET http://a HTTP/1.1", "GET / 1.1 a none keep");
        check_line("GET http://a?b HTTP/1.1", "GET /?b 1.1 a none keep");
        check_line("GET http://a/?http://b/ HTTP/1.1", "GET /?http://b/ 1.1 a none keep");
        check_line("GET HTTP://A/ HTTP/1.1", "GET / 1.1 A none keep"); // the URI's authority wins
        check_line("GET https://a/ HTTP/1.1", "GET / 1.1 a none keep https"); // RFC 9110 section 7.4
        check_line("GET http://a:80/ HTTP/1.1", "GET / 1.1 a:80 none keep"); // RFC 9110 section 4.2.3
        check_line("GET http://a:/ HTTP/1.1", "GET / 1.1 a: none keep");
        check_line("OPTIONS http://a HTTP/1.1", "OPTIONS / 1.1 a none keep");
        check_line("GET HTTPS://a:443/ HTTP/1.1", "GET / 1.1 a:443 none keep https");
        check_line("GET https://a:80/ HTTP/1.1", "400 HostMismatch");
        check_line("GET https://b/ HTTP/1.1", "400 HostMismatch");
        check_line("GET http://a:443/ HTTP/1.1", "400 HostMismatch");
        check_line("GET http://b/ HTTP/1.1", "400 HostMismatch");
        check_line("GET http://aa/ HTTP/1.1", "400 HostMismatch");
        check_line("GET ftp://a/ HTTP/1.1", "400 TargetScheme");
        check_line("GET ://a/ HTTP/1.1", "400 TargetScheme");
        check_line("GET http:a HTTP/1.1", "400 TargetForm");
        check_line("GET http:/a HTTP/1.1", "400 TargetForm");
        check_line("GET http:// HTTP/1.1", "400 TargetAuthority");
        check_line("GET http:///b HTTP/1.1", "400 TargetAuthority");
        check_line("GET http://:80/ HTTP/1.1", "400 TargetAuthority");
        check_line("GET http://user@a/ HTTP/1.1", "400 TargetAuthority"); // RFC 9110 section 4.2.4
        check_line("GET http://a:b/ HTTP/1.1", "400 TargetAuthority");
        check("GET http://a/ HTTP/1.1\r\n\r\n", "400 HostMissing");
        check("GET http://a/ HTTP/1.0\r\n\r\n", "GET / 1.0 a none close");
        check("GET http://[::1]:8/ HTTP/1.1\r\nHost: [::1]:8\r\n\r\n", "GET / 1.1 [::1]:8 none keep");
    }

    #[test]
    fn authority_form_rfc9112_section_3_2_3() {
        check_line("CONNECT a:443 HTTP/1.1", "CONNECT  1.1 a none keep");
        check_line("CONNECT [::1]:443 HTTP/1.1", "CONNECT  1.1 a none keep");
        check_line("CONNECT a HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT a: HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT a:0 HTTP/1.1", "400 TargetConnect"); // RFC 9110 section 9.3.6
        check_line("CONNECT a:65536 HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT a:+1 HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT :443 HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT /a HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT a:443?b HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT u@a:443 HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT http://a:443 HTTP/1.1", "400 TargetConnect");
        check_line("CONNECT * HTTP/1.1", "400 TargetConnect");
        check_line("GET a:443 HTTP/1.1", "400 TargetForm");
    }

    #[test]
    fn asterisk_form_rfc9112_section_3_2_4() {
        check_line("OPTIONS * HTTP/1.1", "OPTIONS * 1.1 a none keep");
        check_line("GET * HTTP/1.1", "400 TargetAsterisk");
        check_line("options * HTTP/1.1", "400 TargetAsterisk");
        check_line("OPTIONS *?a HTTP/1.1", "400 TargetAsterisk");
        check_line("OPTIONS ** HTTP/1.1", "400 TargetForm");
    }

    #[test]
    fn versions_rfc9112_section_2_3() {
        check_line("GET / HTTP/1.0", "GET / 1.0 a none close");
        check_line("GET / HTTP/1.2", "505 VersionUnsupported");
        check_line("GET / HTTP/2.0", "505 VersionUnsupported");
        check_line("GET / HTTP/0.9", "505 VersionUnsupported");
        check("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 VersionUnsupported"); // RFC 9113 section 3.4
        check("GET /\r\n", "400 VersionMissing"); // HTTP/0.9
        check("GET /a?b\n", "400 VersionMissing");
        check("GET / \r\n\r\n", "400 VersionMalformed");
        check_line("GET / HTTP/2", "400 VersionMalformed");
        check_line("GET / HTTP/1", "400 VersionMalformed");
        check_line("GET / http/1.1", "400 VersionMalformed");
        check_line("GET / HTTP/1.10", "400 VersionMalformed");
        check_line("GET / HTTP/01.1", "400 VersionMalformed");
        check_line("GET / HTTP/1,1", "400 VersionMalformed");
        check_line("GET / HTTP/1.1 ", "400 VersionMalformed");
        check_line("GET /  HTTP/1.1", "400 VersionMalformed");
        check_line("GET / HTTP/1.x", "400 VersionMalformed");
        check_line("GET / HTTP", "400 VersionMalformed");
        check_line("GET / ICE/1.0", "400 VersionMalformed");
    }

    #[test]
    fn field_lines_rfc9112_section_5() {
        check_fields("A: b", "POST / 1.1 a none keep");
        check_fields("A:b", "POST / 1.1 a none keep");
        check_fields("A:", "POST / 1.1 a none keep");
        check_fields("A: ", "POST / 1.1 a none keep");
        check_fields("A: \t b\tc d \t ", "POST / 1.1 a none keep");
        check_fields("!#$%&'*+-.^_`|~09: b", "POST / 1.1 a none keep");
        check_fields("A: é", "POST / 1.1 a none keep"); // obs-text, RFC 9110 section 5.5
        check_fields(b"A: \x80\xff", "POST / 1.1 a none keep");
        check_fields("A: 0123456789abcdef0123456789abcdef\t", "POST / 1.1 a none keep");
        check_fields(" A: b", "400 FieldFolded"); // section 5.2
        check_fields("\tA: b", "400 FieldFolded");
        check_fields("A: b\r\n c", "400 FieldFolded");
        check_fields("A: b\r\n\tc: d", "400 FieldFolded");
        check("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400 FieldFolded");
        check_fields("A : b", "400 FieldNameSpace"); // section 5.1
        check_fields("A\t: b", "400 FieldNameSpace");
        check_fields("A B: c", "400 FieldNameSpace");
        check_fields("Content-Length : 5", "400 FieldNameSpace");
        check_fields(": b", "400 FieldNameEmpty");
        check_fields("A", "400 FieldColon");
        check_fields("A\n", "400 FieldColon");
        check_fields("A(: b", "400 FieldNameByte");
        check_fields("A\0: b", "400 FieldNameByte");
        check_fields("\0: b", "400 FieldNameByte");
        check_fields("é: b", "400 FieldNameByte");
        check_fields("[A]: b", "400 FieldNameByte");
        check_fields("A: b\0", "400 FieldValueByte"); // RFC 9110 section 5.5
        check_fields("A: \0b", "400 FieldValueByte");
        check_fields("A: b\x01c", "400 FieldValueByte");
        check_fields("A: b\x0bc", "400 FieldValueByte");
        check_fields("A: b\x7f", "400 FieldValueByte");
        check_fields("A: b\x7f0123456789abcdef0123456789abcdef", "400 FieldValueByte");
        check_fields("A: b\x1f0123456789abcdef0123456789abcdef", "400 FieldValueByte");
        check_fields("A: b\0 0123456789abcdef0123456789abcdef", "400 FieldValueByte");
        check_fields("A: 0123456789abcdef0123456789abcde\x1b", "400 FieldValueByte");
    }

    #[test]
    fn field_values_lose_outer_white_space_only() {
        let input = b"GET / HTTP/1.1\r\nHost:\t a \r\nX: \xe9 b\t c \t\r\nx:\r\n\r\n";
        let mut slots = Slots::new();
        let Outcome::Complete { head, len } = parse_head(input, &mut slots, &LIMITS) else {
            panic!("complete")
        };
        assert_eq!((len, head.fields.len(), head.fields.is_empty()), (input.len(), 3, false));
        let fields: Vec<_> = head.fields.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(fields, [(&b"Host"[..], &b"a"[..]), (b"X", b"\xe9 b\t c"), (b"x", b"")]);
        assert_eq!((head.fields.value("x"), head.fields.value("y")), (Some(&b"\xe9 b\t c"[..]), None));
    }

    #[test]
    fn host_rfc9112_section_3_2() {
        check_host("Host: example.com", "GET / 1.1 example.com none keep");
        check_host("hOST:a.b:8080", "GET / 1.1 a.b:8080 none keep");
        check_host("Host: 127.0.0.1:80", "GET / 1.1 127.0.0.1:80 none keep");
        check_host("Host: a:", "GET / 1.1 a: none keep"); // RFC 3986 section 3.2.3: port = *DIGIT
        check_host("Host: a:65535", "GET / 1.1 a:65535 none keep");
        check_host("Host: a:0000080", "GET / 1.1 a:0000080 none keep");
        check_host("Host: [::1]:65535", "GET / 1.1 [::1]:65535 none keep");
        for port in ["65536", "99999", "065536", "18446744073709551696", "8000O", "1234x"] {
            check_host(format!("Host: a:{port}"), "400 HostMalformed");
            check_host(format!("Host: %41:{port}"), "400 HostMalformed");
            check_host(format!("Host: [::1]:{port}"), "400 HostMalformed");
        }
        check_host("Host: a_b-c.~d!$&'()*+;=", "GET / 1.1 a_b-c.~d!$&'()*+;= none keep");
        check_host("Host: %41b%2c:1", "GET / 1.1 %41b%2c:1 none keep");
        check_host("Host: [::1]", "GET / 1.1 [::1] none keep");
        check_host("Host: [2001:DB8::1.2.3.4]:443", "GET / 1.1 [2001:DB8::1.2.3.4]:443 none keep");
        check_host("A: é\r\nHost: a", "GET / 1.1 a none keep"); // text is cut out of a head with obs-text
        check_host(b"A: \xff\r\nHost: example.com\r\nB: \xff", "GET / 1.1 example.com none keep");
        check("GET / HTTP/1.1\r\n\r\n", "400 HostMissing");
        check_host("A: b", "400 HostMissing");
        check_host("Host:", "400 HostEmpty");
        check_host("Host: \t ", "400 HostEmpty");
        check_host("Host: a\r\nHost: a", "400 HostRepeated");
        check_host("Host: a\r\nB: c\r\nhost: b", "400 HostRepeated");
        check_host("Host:\r\nHost: a", "400 HostRepeated");
        check_host("Host: a,b", "400 HostMalformed");
        check_host("Host: a b", "400 HostMalformed");
        check_host("Host: a/b", "400 HostMalformed");
        check_host("Host: a?b", "400 HostMalformed");
        check_host("Host: a#b", "400 HostMalformed");
        check_host("Host: u@a", "400 HostMalformed");
        check_host("Host: u:p@a", "400 HostMalformed");
        check_host("Host: http://a", "400 HostMalformed");
        check_host("Host: a:b", "400 HostMalformed");
        check_host("Host: a:8 0", "400 HostMalformed");
        check_host("Host: a:-1", "400 HostMalformed");
        check_host("Host: a:1:2", "400 HostMalformed");
        check_host("Host: :80", "400 HostMalformed"); // RFC 9110 section 4.2.1
        check_host("Host: %4", "400 HostMalformed");
        check_host("Host: %zz", "400 HostMalformed");
        check_host("Host: ::1", "400 HostMalformed");
        check_host("Host: [::1", "400 HostMalformed");
        check_host("Host: [::1]a", "400 HostMalformed");
        check_host("Host: [::1]:a", "400 HostMalformed");
        check_host("Host: [::1%25eth0]", "400 HostMalformed");
        check_host("Host: []", "400 HostMalformed");
        check_host("Host: [v1.a]", "400 HostMalformed");
        check_host("Host: é", "400 HostMalformed");
        check_host(b"Host: a\xff", "400 HostMalformed");
        check("GET / HTTP/1.0\r\n\r\n", "GET / 1.0 - none close");
        check_fields_10("Host:", "POST / 1.0 - none close");
        check_fields_10("Host: b", "POST / 1.0 b none close");
        check_fields_10("Host: a b", "400 HostMalformed");
        check_fields_10("Host: a\r\nHost: a", "400 HostRepeated");
    }

    #[test]
    fn content_length_rfc9112_section_6_2() {
        check_fields("Content-Length: 5", "POST / 1.1 a length=5 keep");
        check_fields("content-LENGTH:0", "POST / 1.1 a length=0 keep");
        check_fields("Content-Length: 0005", "POST / 1.1 a length=5 keep");
        check_fields("Content-Length: 18446744073709551615", "POST / 1.1 a length=18446744073709551615 keep");
        check_fields_10("Content-Length: 5", "POST / 1.0 - length=5 close");
        check_fields("Content_Length: 5", "POST / 1.1 a none keep"); // another field
        check_fields("Content-Length: 18446744073709551616", "400 LengthOverflow");
        check_fields("Content-Length: 99999999999999999999999", "400 LengthOverflow");
        check_fields("Content-Length:", "400 LengthMalformed");
        check_fields("Content-Length: +5", "400 LengthMalformed");
        check_fields("Content-Length: -5", "400 LengthMalformed");
        check_fields("Content-Length: 5, 5", "400 LengthMalformed");
        check_fields("Content-Length: 5 5", "400 LengthMalformed");
        check_fields("Content-Length: 0x5", "400 LengthMalformed");
        check_fields("Content-Length: 5.0", "400 LengthMalformed");
        check_fields("Content-Length: 1_0", "400 LengthMalformed");
        check_fields("Content-Length: five", "400 LengthMalformed");
        check_fields("Content-Length: ٥", "400 LengthMalformed"); // a digit, but not an ASCII one
        check_fields("Content-Length: 5\r\nContent-Length: 5", "400 LengthRepeated"); // section 6.3
        check_fields("Content-Length: 5\r\nA: b\r\ncontent-length: 6", "400 LengthRepeated");
    }

    #[test]
    fn transfer_encoding_rfc9112_section_6_1() {
        check_fields("Transfer-Encoding: chunked", "POST / 1.1 a chunked keep");
        check_fields("transfer-encoding:\tCHUNKED ", "POST / 1.1 a chunked keep");
        check_fields("Transfer-Encoding: chunked\r\nContent-Length: 5", "400 LengthAndCoding");
        check_fields("Content-Length: 5\r\nTransfer-Encoding: gzip, chunked", "400 LengthAndCoding");
        check_fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "400 CodingRepeated");
        check_fields("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "400 CodingRepeated");
        check_fields("Transfer-Encoding: chunked, chunked", "400 CodingRepeated");
        check_fields("Transfer-Encoding: chunked, gzip", "400 CodingNotFinal"); // section 6.3
        check_fields("Transfer-Encoding: gzip", "400 CodingNotFinal");
        check_fields("Transfer-Encoding: identity", "400 CodingNotFinal");
        check_fields("Transfer-Encoding: xchunked", "400 CodingNotFinal");
        check_fields("Transfer-Encoding: chunked;a=b", "400 CodingNotFinal");
        check_fields("Transfer-Encoding: gzip, chunked", "501 CodingUnknown");
        check_fields("Transfer-Encoding: a;b=c,\tgzip ,CHUNKED", "501 CodingUnknown");
        check_fields("Transfer-Encoding:", "400 CodingMalformed");
        check_fields("Transfer-Encoding: ,chunked", "400 CodingMalformed");
        check_fields("Transfer-Encoding: chunked,", "400 CodingMalformed");
        check_fields("Transfer-Encoding: \"chunked\"", "400 CodingMalformed");
        check_fields("Transfer-Encoding: chunked chunked", "400 CodingMalformed");
        check_fields("Transfer-Encoding: é", "400 CodingMalformed");
        check_fields_10("Transfer-Encoding: chunked", "400 CodingVersion");
    }

    #[test]
    fn keep_alive_rfc9112_section_9_3() {
        check_fields("Connection: close", "POST / 1.1 a none close");
        check_fields("connection: CLOSE", "POST / 1.1 a none close");
        check_fields("Connection: keep-alive", "POST / 1.1 a none keep");
        check_fields("Connection: keep-alive, close", "POST / 1.1 a none close");
        check_fields("Connection: , a ,\tclose\t,", "POST / 1.1 a none close");
        check_fields("Connection: a\r\nConnection: close", "POST / 1.1 a none close");
        check_fields("Connection: close\r\nConnection: keep-alive", "POST / 1.1 a none close");
        check_fields("Connection: closed", "POST / 1.1 a none keep");
        check_fields("Connection: not close", "POST / 1.1 a none keep");
        check_fields("Connection:", "POST / 1.1 a none keep");
        check_fields_10("Connection: keep-alive", "POST / 1.0 - none keep");
        check_fields_10("Connection: a, Keep-Alive", "POST / 1.0 - none keep");
        check_fields_10("Connection: keep-alive\r\nConnection: close", "POST / 1.0 - none close");
        check_fields_10("A: b", "POST / 1.0 - none close");
    }

    #[test]
    fn upgrade_rfc9110_section_7_8() {
        check_fields("Connection: Upgrade\r\nUpgrade: websocket", "POST / 1.1 a none keep upgrade");
        check_fields("Connection: keep-alive, upgrade", "POST / 1.1 a none keep upgrade");
        check_fields("Upgrade: websocket", "POST / 1.1 a none keep");
        check_fields_10("Connection: upgrade", "POST / 1.0 - none close");
    }

    #[test]
    fn expect_rfc9110_section_10_1_1() {
        check_fields("Expect: 100-continue", "POST / 1.1 a none keep continue");
        check_fields("Expect: 100-Continue\r\nContent-Length: 5", "POST / 1.1 a length=5 keep continue");
        check_fields("Expect: 200-ok", "417 Expectation");
        check_fields("Expect:", "417 Expectation");
        check_fields("Expect: 100-continue, a", "417 Expectation");
        check_fields("Expect: 100-continue\r\nExpect: a", "417 Expectation");
        check_fields("Expect: a\r\nContent-Length: x", "400 LengthMalformed"); // framing first
        check_fields_10("Expect: 100-continue", "POST / 1.0 - none close");
        check_fields_10("Expect: a", "417 Expectation");
    }

    #[test]
    fn limit_on_the_request_line_rfc9112_section_3() {
        let limits = HeadLimits { request_line_bytes_max: 16, ..LIMITS };
        let tail = "\r\nHost: a\r\n\r\n";
        check_with(&limits, format!("GET /aa HTTP/1.1{tail}"), "GET /aa 1.1 a none keep");
        check_with(&limits, format!("\r\nGET /aa HTTP/1.1{tail}"), "GET /aa 1.1 a none keep");
        check_with(&limits, format!("GET /aaa HTTP/1.1{tail}"), "414 RequestLineLong");
        check_with(&limits, format!("\r\nGET /aaa HTTP/1.1{tail}"), "414 RequestLineLong");
        check_with(&limits, "GET /aaaaaaaaaaaaaaaaaaaaaaaaa", "414 RequestLineLong");
        check_with(&limits, "GET /?aaaaaaaaaaaaaaaaaaaaaaaa", "414 RequestLineLong");
        check_with(&limits, "GET /aaaaaaaaaaaa\nHost: a\n\n", "414 RequestLineLong");
        check_with(&limits, "GET /aaaaaaaaaaaaé HTTP/1.1", "414 RequestLineLong");
        check_with(&limits, "GET /aé", "400 TargetNotAscii");
        check_with(&limits, "AAAAAAAAAAAAAAAAA", "400 MethodLong");
        check_with(&limits, format!("GET /aaa HTTP/1.0{tail}"), "414 RequestLineLong");
        check_with(&limits, "GET /a HTTP/3.0x", "505 VersionUnsupported");
        check(
            format!("GET /{} HTTP/1.1{tail}", "a".repeat(8178)),
            &format!("GET /{} 1.1 a none keep", "a".repeat(8178)),
        );
        check(format!("GET /{} HTTP/1.1{tail}", "a".repeat(8179)), "414 RequestLineLong");
    }

    #[test]
    fn limit_on_the_head_rfc6585_section_5() {
        let limits = HeadLimits { head_bytes_max: 32, ..LIMITS };
        check_with(&limits, "GET / HTTP/1.1\r\nHost: abcdef\r\n\r\n", "GET / 1.1 abcdef none keep");
        check_with(&limits, "GET / HTTP/1.1\r\nHost: abcdefg\r\n\r\n", "431 HeadLong");
        check_with(&limits, "\r\nGET / HTTP/1.1\r\nHost: abcde\r\n\r\n", "431 HeadLong");
        check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nA: bcdefghijklmnopq", "431 HeadLong");
        check_with(&limits, "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "431 HeadLong");
        check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nABCDEFGHIJKLMNOPQ", "431 HeadLong");
        check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nA: b\0cdefghijklm", "400 FieldValueByte");
        check_with(&HeadLimits { head_bytes_max: 0, ..LIMITS }, "", "431 HeadLong");
        let huge = HeadLimits {
            head_bytes_max: usize::MAX,
            request_line_bytes_max: usize::MAX,
            fields_max: usize::MAX,
        };
        let value = "a".repeat(HEAD_BYTES_MAX);
        assert_eq!(verdict(format!("GET / HTTP/1.1\r\nA: {value}").as_bytes(), &huge), "431 HeadLong");
        assert_eq!(verdict(format!("GET /{value}").as_bytes(), &huge), "431 HeadLong");
        assert_eq!(verdict(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &huge), "GET / 1.1 a none keep");
    }

    #[test]
    fn limit_on_fields_rfc6585_section_5() {
        let limits = HeadLimits { fields_max: 2, ..LIMITS };
        check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\n", "GET / 1.1 a none keep");
        check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\n\r\n", "431 FieldsMany");
        check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nD: e\r\n\r\n", "431 FieldsMany");
        check_with(&limits, "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD : e\r\n\r\n", "400 FieldNameSpace");
        check_host(["Host: a", &"\r\nA: b".repeat(99)].concat(), "GET / 1.1 a none keep");
        check_host(["Host: a", &"\r\nA: b".repeat(100)].concat(), "431 FieldsMany");
    }

    #[test]
    fn head_end_finds_empty_lines_and_bare_lfs() {
        let check = |input: &str, from: usize, expected: Option<usize>| {
            assert_eq!(head_end(input.as_bytes(), from), expected, "{input:?} from {from}");
        };
        check("", 0, None);
        check("", 9, None);
        check("a\r\nb\r\n", 0, None);
        check("a\r\n\r\nb\r\n\r\n", 0, Some(5));
        check("a\r\n\r\nb\r\n\r\n", 4, Some(5));
        check("a\r\n\r\nb\r\n\r\n", 5, Some(10));
        check("\r\na", 0, Some(2));
        check("\r\na", 2, None);
        check("a\n", 0, Some(2));
        check("\n", 0, Some(1));
        check("a\r\nb\n", 3, Some(5));
    }

    #[test]
    fn verdict_is_due_at_an_end_or_a_limit() {
        let limits = HeadLimits { request_line_bytes_max: 16, head_bytes_max: 64, ..LIMITS };
        let check = |input: &str, searched: usize, expected: bool| {
            assert_eq!(
                verdict_due(input.as_bytes(), searched, &limits),
                expected,
                "{input:?} from {searched}"
            );
        };
        check("", 0, false);
        check("GET / HTTP/1.1\r\nHost: a\r\n", 0, false);
        check("GET / HTTP/1.1\r\nHost: a\r\n\r", 25, false);
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 26, true);
        check("GET / HTTP/1.1\r\nHost: a\n", 16, true);
        check("GET /aaaaaaaaaaaaaa", 0, false); // 19 bytes: 16 with two CRLFs less one
        check("GET /aaaaaaaaaaaaaaa", 19, true);
        check("\r\nGET /aaaaaaaaaaaaa", 19, true);
        check("GET /aaaaaaaaaaaaaaaa", 20, false); // the parser has seen it
        check(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(44)), 62, false);
        check(&format!("GET / HTTP/1.1\r\nA: {}", "a".repeat(45)), 63, true);
    }

    #[test]
    fn every_reject_has_a_status_and_cites_its_rule() {
        for reject in Reject::ALL {
            assert!(matches!(reject.status(), 400 | 414 | 417 | 421 | 431 | 501 | 505), "{reject:?}");
            let reason = reject.reason();
            assert!(
                reason.contains("(RFC ") && reason.contains(" section") && reason.ends_with(")."),
                "{reason}"
            );
        }
    }

    /// Pieces that make heads, nearly good ones more often than not.
    fn soup() -> impl Strategy<Value = Vec<u8>> {
        let pieces = prop::sample::select(
            &[
                "GET ",
                "POST ",
                "OPTIONS ",
                "/",
                "*",
                "a",
                "http://a",
                "?q=1",
                " ",
                "HTTP/1.1",
                "HTTP/1.0",
                "HTTP/2.0",
                "\r\n",
                "\r\n",
                "\r\n",
                "\r\n\r\n",
                "\r",
                "\n",
                "\0",
                "\t",
                ":",
                ": ",
                ",",
                "Host: a\r\n",
                "Host:",
                "A: b\r\n",
                "é",
                "#",
                "Content-Length: 3\r\n",
                "Transfer-Encoding: chunked\r\n",
                "Connection: close\r\n",
                "Expect: x\r\n",
                "GET / HTTP/1.1\r\nHost: a\r\n",
                "POST / HTTP/1.0\r\n",
                "0123456789abcdef",
            ][..],
        );
        prop::collection::vec(pieces, 0..16).prop_map(|pieces| pieces.concat().into_bytes())
    }

    const TIGHT: HeadLimits = HeadLimits { request_line_bytes_max: 20, head_bytes_max: 48, fields_max: 2 };

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn random_bytes_never_panic_nor_depend_on_cuts(input in prop::collection::vec(any::<u8>(), 0..64)) {
            check_cuts(&input, &LIMITS);
            check_cuts(&[b"GET / HTTP/1.1\r\n", &input[..]].concat(), &TIGHT);
        }

        #[test]
        fn nearly_good_heads_do_not_depend_on_cuts(input in soup()) {
            check_cuts(&input, &LIMITS);
            check_cuts(&input, &TIGHT);
        }

        /// httparse is the oracle: it is more lenient, so what is accepted here it must accept, and read
        /// alike.
        #[test]
        fn httparse_agrees_with_what_is_accepted(input in soup()) {
            let mut slots = Slots::new();
            if let Outcome::Complete { head, len } = parse_head(&input, &mut slots, &LIMITS) {
                let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
                let mut request = httparse::Request::new(&mut headers);
                prop_assert_eq!(request.parse(&input), Ok(httparse::Status::Complete(len)));
                prop_assert_eq!(request.method, Some(head.method.as_str()));
                prop_assert_eq!(request.path, Some(head.target.as_str()));
                let theirs: Vec<_> = request.headers.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
                let ours: Vec<_> = head.fields.iter().map(|field| (field.name, field.value)).collect();
                prop_assert_eq!(theirs, ours);
            }
        }
    }
}
